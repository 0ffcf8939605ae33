"""What a program tells the calculus of itself: its optimality conditions, as the equations of a node.

    Px + Aᵀy + c = 0,    Ax + s = b,    y = Π(y − s),

Π the projection onto K*: its kinks, the weakly active pieces, join those of the program around it. At
kinks that are no scalar ones (a second-order cone's apex, a double eigenvalue 0, the boundary of an
exponential cone) the calculus refuses by the projection's name.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..arrays.namespace import Array, join
from ..calculus.implicit_node import NAME, Node, carrying_node
from ..cones.spectrum import Tolerances, rotate, spectrum, unrotate
from ..cones.table import Cones
from ..numerics import machine_epsilon
from ..solvers.matrices import SparseMatrix, symmetric_part, times, times_transposed
from .forward import Outcome
from .system.system import idle_variables


def with_equations(solved: Callable[..., Outcome], cones: Cones) -> Callable[..., Outcome]:
    """The solution map with its equations in the program that is traced."""

    def carrying(P: Any, c: Any, A: Any, b: Any) -> Outcome:
        outcome = solved(P, c, A, b)
        leaves, tree = jax.tree.flatten((P, c, A, b))
        node = _node(tree, cones)
        still = jax.lax.stop_gradient(
            (outcome.x, outcome.idle, _to_kinks(outcome, cones), outcome.scaling)
        )
        inputs = [*leaves, *jax.tree.leaves(still)]
        x, y, s = carrying_node(node, (outcome.x, outcome.y, outcome.s), inputs)
        return outcome._replace(x=x, y=y, s=s)

    carrying.__name__ = carrying.__qualname__ = NAME
    return carrying


def host_node(
    parts: Callable[[Sequence[Any]], tuple[Any, Any, Any, Any]],
    cones: Cones,
    auxiliary: tuple[int, ...] = (),
) -> Node:
    """The equations of a program of the host engine; ``parts``: of its leaves, P, c, A, b with leading axes.

    Its solutions are polished to round-off, in the units of the user, where v = y − s. ``auxiliary``
    variables that the solution leaves free stand still.
    """

    def residual(solution: Sequence[Array], *leaves: Array) -> tuple[Array, ...]:
        shift = _host_shift(parts, cones, *jax.lax.stop_gradient((leaves, solution)))
        (x, y, s), (P, c, A, b) = _as_batch(parts, leaves, solution)
        upper = times(symmetric_part(P), x) + times_transposed(A, y) + c
        v = y - s + shift
        if auxiliary:
            still, at = jax.lax.stop_gradient(((P, A, v), x))
            upper = upper + _free(*still, cones, auxiliary) * (x - at)
        projected = [block.onto_dual(v[:, rows]) for block, rows in cones.pieces]
        return upper, times(A, x) + s - b, y - join(projected)

    return Node(residual, hidden=True)


def _free(P: Any, A: Any, v: Array, cones: Cones, auxiliary: tuple[int, ...]) -> Array:
    """1 for the auxiliary variables in no active row: one that is weakly active holds its variables, too."""
    near = machine_epsilon(v.dtype) ** 0.5 * jnp.max(
        jnp.abs(v), axis=-1, keepdims=True, initial=0.0
    )
    near = jnp.broadcast_to(near, v.shape)
    found = spectrum(v, Tolerances(near, near), cones)
    return idle_variables(symmetric_part(P), A, found.basis, found.high, cones, auxiliary)


def _host_shift(
    parts: Callable[[Sequence[Any]], tuple[Any, Any, Any, Any]],
    cones: Cones,
    leaves: Sequence[Any],
    solution: Sequence[Array],
) -> Array:
    """What takes v = y − s onto the kinks: of rows, or whole cones, where both are nothing but rounding."""
    (x, y, s), (P, c, A, b) = _as_batch(parts, leaves, solution)
    tau = machine_epsilon(y.dtype) ** 0.5
    size = A.with_values(jnp.abs(A.values)) if isinstance(A, SparseMatrix) else jnp.abs(A)
    of_P, of_A, of_b, of_c = map(_largest_entry, (P, A, b, c))
    per_A = 1 / jnp.where(of_A > 0, of_A, 1.0)
    # without a cost the right-hand side, times the curvature, is the unit of the dual
    of_c = jnp.where(of_c > 0, of_c, of_b * of_P * per_A)
    of_y = jnp.max(jnp.abs(y), axis=-1) + of_c * per_A
    small = jnp.abs(y) <= tau * (of_y[:, None] + tau)
    small &= jnp.abs(s) <= tau * (times(size, jnp.abs(x)) + jnp.abs(b) + tau)
    found = []
    for block, rows in cones.pieces:
        own = small[:, rows]
        if not block.polyhedral:
            shape = (len(own), block.count, block.size // block.count)
            whole = jnp.all(own.reshape(shape), axis=-1, keepdims=True)
            own = jnp.broadcast_to(whole, shape).reshape(own.shape)
        found.append(own)
    return jnp.where(jnp.concatenate(found, axis=-1), s - y, 0.0)


def _largest_entry(part: Any) -> Array:
    """Per item."""
    entries = part.values if isinstance(part, SparseMatrix) else part
    return jnp.max(jnp.abs(entries), axis=tuple(range(1, entries.ndim)), initial=0.0)


def _as_batch(
    parts: Callable[[Sequence[Any]], tuple[Any, Any, Any, Any]],
    leaves: Sequence[Any],
    solution: Sequence[Array],
) -> tuple[list[Array], tuple[Any, Array, Any, Array]]:
    """Solution and data with one batch axis."""
    P, c, A, b = parts(leaves)
    lead = solution[0].shape[:-1]
    x, y, s, c, b = (_rows(part, lead) for part in (*solution, c, b))
    return [x, y, s], (_matrices(P, lead), c, _matrices(A, lead), b)


def _rows(part: Any, lead: tuple[int, ...]) -> Array:
    """(..., size) ↦ (batch, size)."""
    return jnp.broadcast_to(part, (*lead, part.shape[-1])).reshape(math.prod(lead), part.shape[-1])


def _matrices(part: Any, lead: tuple[int, ...]) -> Any:
    """(..., n, m), or sparse with values (..., stored) ↦ with one batch axis."""
    if isinstance(part, SparseMatrix):
        return part.with_values(_rows(part.values, lead))
    shape = part.shape[-2:]
    return jnp.broadcast_to(part, (*lead, *shape)).reshape(math.prod(lead), *shape)


def polyhedron_equations(
    solution: Sequence[Array], p: Array, M: Array, t: Array, shift: Array
) -> tuple[Array, ...]:
    """The projection x of p onto {Mx = t, Mx ≤ t}, its multipliers ν of the first rows, λ ≥ 0 and the slack s.

    x − p + Mᵀ(ν, λ) = 0, Mx + (0, s) = t, λ = max(λ − s, 0); ``shift`` takes λ − s onto the kinks that count
    as active. Leading axes broadcast against those of x.
    """
    x, free, dual, slack = solution
    y = jnp.concatenate([free, dual], axis=-1)
    s = jnp.concatenate([jnp.zeros_like(free), slack], axis=-1)
    upper = x - p + jnp.einsum("...ij,...i->...j", M, y)
    rows = jnp.einsum("...ij,...j->...i", M, x) + s - t
    return upper, rows, dual - jax.nn.relu(dual - slack + shift)


def _to_kinks(outcome: Outcome, cones: Cones) -> Array:
    """What takes v onto the kinks that the solver counts as active."""
    v = _difference(outcome.y, outcome.s, outcome.scaling.row, outcome.scaling.cost)
    if cones.polyhedral:
        return jnp.where(outcome.weak, -v, 0.0)
    parts = rotate(outcome.basis, v[..., None], cones)
    shift = jnp.where(outcome.weak[..., None], -parts, 0.0)
    return unrotate(outcome.basis, shift, cones)[..., 0]


def _node(tree: Any, cones: Cones) -> Node:
    count = tree.num_leaves

    def residual(solution: Sequence[Array], *inputs: Array) -> tuple[Array, ...]:
        x, y, s = solution
        P, c, A, b = jax.tree.unflatten(tree, inputs[:count])
        at, idle, shift, _, row, cost = inputs[count:]
        upper = times(symmetric_part(P), x) + times_transposed(A, y) + c + idle * (x - at)
        v = _difference(y, s, row, cost) + shift
        projected = [block.onto_dual(v[:, rows]) for block, rows in cones.pieces]
        return upper, times(A, x) + s - b, cost[:, None] * y / row - join(projected)

    return Node(residual, hidden=True)


def _difference(y: Array, s: Array, row: Array, cost: Array) -> Array:
    """v = ŷ − ŝ of the equilibrated program."""
    return cost[:, None] * y / row - row * s
