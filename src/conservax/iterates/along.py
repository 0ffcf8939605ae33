"""``piggyback``: the value and the Jacobian forward, along with the iterates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..solution import Solution
from .contract import Algorithm
from .estimator import TOLERANCE, count, kept, tolerance, traced
from .unrolled import Unrolled

Columns = list[jax.Array]
"""Tangents of the floating-point leaves of a pytree, one leading axis for the directions of θ."""


class Piggyback:
    """(x_T, J_T) of (x0, θ): T steps of the iterate and of its Jacobian."""

    def __init__(self, alg: Algorithm, steps: int, initial: Any, tol: float) -> None:
        self.alg, self.steps, self.initial = alg, steps, initial
        self._unrolled = Unrolled(alg, steps, tol)
        self._running = jax.jit(self._run)

    def __call__(self, x0: Any, theta: Any) -> tuple[Any, Any]:
        """x_T and J_T, the latter a pytree as ``jax.jacobian`` returns it."""
        x0, theta = self._unrolled.inputs(x0, theta)
        start = columns_of(self.initial, x0, theta)
        x, columns = self._running(x0, theta, start)
        if not traced(x):
            self._unrolled.require_numbers(x, x0, theta)
        return x, as_jacobian(columns, x, theta)

    def solve(self, x0: Any, theta: Any) -> Solution:
        """A Solution with (x_T, J_T) as its value, status and stats as of ``unroll(alg, T).solve``."""
        found = self._unrolled.solve(x0, theta)
        x0, theta = self._unrolled.inputs(x0, theta)
        x, columns = self._running(x0, theta, columns_of(self.initial, x0, theta))
        return found._replace(value=(x, as_jacobian(columns, x, theta)))

    def _run(self, x0: Any, theta: Any, columns: Columns) -> tuple[Any, Columns]:
        alg = self.alg

        def once(carry: Any, _: None) -> tuple[Any, None]:
            state, columns = carry
            return pushed(alg.step, state, columns, theta), None

        def finish(state: Any, theta: Any) -> Any:
            return alg.output(alg.point(state), theta)

        carry = pushed(alg.init, x0, columns, theta)
        state, columns = jax.lax.scan(once, carry, None, length=self.steps)[0]
        return pushed(finish, state, columns, theta)


def piggyback(
    alg: Algorithm, steps: int, initial: Any = None, *, tol: float = TOLERANCE
) -> Piggyback:
    """x_T and J_T, carried forward together: J_{t+1} = A_t J_t + B_t, [A_t B_t] ∈ J_F(x_t, θ).

    What ``unroll`` differentiates to, without a second pass: memory of one state and one Jacobian, for
    few parameters.

    Args:
        alg: the algorithm.
        steps: how many steps, T.
        initial: J_{x0}(θ), the Jacobian of the initial point, as ``jax.jacobian`` returns it; zero by
            default.
        tol: the change below which ``solve`` calls a run SOLVED.

    Returns:
        A function of (x0, θ) that returns (x, J), under every JAX transformation; J is a pytree like x
        of pytrees like θ, for arrays of shape (*x.shape, *θ.shape).

    Raises:
        NotConvergedError: eagerly, where the result is no number. InvalidInputError: bad arguments.

    Source: Griewank, Bischof, Corliss, Carle, Williamson, Derivative convergence for iterative
    equation solvers (1993); Gilbert (1992); Bolte, Pauwels, Vaiter (NeurIPS 2022), recursion (6).

    >>> import conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
    >>> x, J = cx.iterates.piggyback(alg, 3)(0.0, 1.0)
    >>> float(x), float(J)
    (1.75, 1.75)
    """
    steps, tol = count(steps, "steps"), tolerance(tol)

    def make() -> Piggyback:
        return Piggyback(alg, steps, initial, tol)

    return kept(alg, (Piggyback, steps, tol), make) if initial is None else make()


def pushed(
    fun: Callable[..., Any], value: Any, columns: Columns, theta: Any
) -> tuple[Any, Columns]:
    """fun(value, θ) and its tangents A J + B along every direction of θ."""
    value, theta = jax.tree.map(jnp.asarray, (value, theta))
    (moved, still), build = _split(value)
    (parameters, fixed), build_theta = _split(theta)

    def of_floats(moved: Columns, parameters: Columns) -> tuple[Columns, Any]:
        out = fun(build(moved, still), build_theta(parameters, fixed))
        (floats, rest), again = _split(jax.tree.map(jnp.asarray, out))
        trees.append(again)
        return floats, rest

    def along(column: Columns, direction: Columns) -> Any:
        out, tangent, rest = jax.jvp(
            of_floats, (moved, parameters), (column, direction), has_aux=True
        )
        return (out, rest), tangent

    trees: list[Callable[..., Any]] = []
    (out, rest), tangents = jax.vmap(along, out_axes=(None, 0))(columns, directions(theta))
    return trees[0](out, rest), tangents


def directions(theta: Any) -> Columns:
    """The unit vectors of θ, for each floating-point leaf an array (p, *shape)."""
    leaves = _split(jax.tree.map(jnp.asarray, theta))[0][0]
    sizes = [leaf.size for leaf in leaves]
    width = sum(sizes)
    if not width:
        raise InvalidInputError("theta holds no real numbers to differentiate in.")
    starts = np.cumsum([0, *sizes])
    return [
        jnp.eye(width, size, -int(start), leaf.dtype).reshape(width, *leaf.shape)
        for leaf, size, start in zip(leaves, sizes, starts, strict=False)
    ]


def as_jacobian(columns: Columns, x: Any, theta: Any) -> Any:
    """Columns as the pytree that ``jax.jacobian`` returns: like x, of pytrees like θ."""
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, theta))

    def rows(column: jax.Array) -> Any:
        parts, at = [], 0
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                parts.append(None)
                continue
            part = jnp.moveaxis(column[at : at + leaf.size], 0, -1)
            parts.append(part.reshape(*column.shape[1:], *leaf.shape))
            at += leaf.size
        return jax.tree.unflatten(tree, parts)

    return jax.tree.unflatten(jax.tree.structure(x), [rows(column) for column in columns])


def columns_of(jacobian: Any, x: Any, theta: Any) -> Columns:
    """The columns of a Jacobian of x in θ; zeros for None, InvalidInputError for another shape."""
    thetas = _split(jax.tree.map(jnp.asarray, theta))[0][0]
    xs = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
    width = sum(t.size for t in thetas)
    if jacobian is None:
        return [jnp.zeros((width, *leaf.shape), leaf.dtype) for leaf in xs]
    parts = iter(jax.tree.leaves(jacobian))
    shapes = [(*leaf.shape, *t.shape) for leaf in xs for t in thetas]
    given = [np.shape(part) for part in jax.tree.leaves(jacobian)]
    if given != shapes:
        raise InvalidInputError(
            f"initial must be the Jacobian of x0 in θ, arrays of shapes {shapes} as "
            f"jax.jacobian(x0_of_theta)(theta) returns them; it has {given}."
        )
    return [
        jnp.concatenate(
            [jnp.moveaxis(jnp.reshape(next(parts), (*leaf.shape, t.size)), -1, 0) for t in thetas]
        ).astype(leaf.dtype)
        for leaf in xs
    ]


def _split(tree: Any) -> tuple[tuple[Columns, list[Any]], Callable[[Sequence[Any], Any], Any]]:
    """The floating-point leaves, the others, and how to put them together again."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def build(floats: Sequence[Any], others: Sequence[Any]) -> Any:
        a, b = iter(floats), iter(others)
        return jax.tree.unflatten(structure, [next(a) if r else next(b) for r in real])

    floats = [leaf for leaf, r in zip(leaves, real, strict=True) if r]
    others = [leaf for leaf, r in zip(leaves, real, strict=True) if not r]
    return (floats, others), build
