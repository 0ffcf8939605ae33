"""The one linear system of implicit differentiation, solved by lineax or JAX's Krylov methods.

``lax.custom_linear_solve`` makes it differentiable any number of times in both modes; the solution
is masked with NaN inside it, so that a singular system never yields a plausible number under jit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax.scipy import linalg as dense
from jax.scipy.sparse import linalg as krylov

from ..numerics import machine_epsilon
from .coupled import coupled_solve, probe_like

if TYPE_CHECKING:
    import lineax as lx

Structure = Literal["general", "symmetric", "positive_definite", "coupled"]
Singular = Literal["error", "least_norm"]
Solve = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]

_DENSE = 300  # up to this many unknowns one factorisation is as cheap as a Krylov method, and surer
_WIDE = 64  # below so many unknowns one small factorisation is as fast as to look which are coupled
_DENSE_LEAST_NORM = 2000  # up to this many a singular value decomposition is affordable


def linear_solve(
    matvec: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    *,
    solve: Solve | lx.AbstractLinearSolver | None = None,
    singular: Singular = "error",
    structure: Structure = "general",
    known: jax.Array | bool = True,
) -> jax.Array:
    """x with B x = b, B given by ``matvec``; NaN where B is singular to working precision.

    A factorisation sees that in any case, a Krylov method only where it cannot solve for b. Where there
    is no derivative the map b ↦ x has the domain {0}: 0 for b = 0, NaN for all else, in both modes, so
    that what no loss looks at adds nothing to its gradient (docs/theory.md#failed-items).

    Args:
        matvec: v ↦ B v, linear, from arrays (n,) to arrays (n,).
        b: right-hand side (n,).
        solve: None (dense LU or Cholesky up to 300 unknowns, a Krylov method beyond), a lineax
            solver, or a function ``solve(matvec, b)`` as in jaxopt.
        singular: "error" or "least_norm" (the pseudo-inverse).
        structure: what is known of B: "general", "symmetric", "positive_definite", or "coupled", the
            identity in most rows or columns.
        known: False where there is nothing to differentiate.
    """
    known = jax.lax.stop_gradient(jnp.asarray(known))

    def checked(operator: Callable[[jax.Array], jax.Array], rhs: jax.Array) -> jax.Array:
        if solve is not None:
            return _by(solve, operator, rhs, singular, structure)
        if singular == "least_norm":
            return _least_norm(operator, rhs)
        if rhs.size <= _DENSE:
            return _dense(operator, rhs, structure)
        return _krylov(operator, rhs, structure)

    def partial(operator: Callable[[jax.Array], jax.Array], rhs: jax.Array) -> jax.Array:
        x = jnp.where(known, checked(operator, rhs), jnp.nan)
        return jnp.where(jnp.all(rhs == 0), 0, x)

    return jax.lax.custom_linear_solve(
        matvec,
        b,
        solve=partial,
        transpose_solve=partial,
        symmetric=structure in ("symmetric", "positive_definite"),
    )


def _by(
    solve: Solve | lx.AbstractLinearSolver,
    operator: Any,
    b: jax.Array,
    singular: Singular,
    structure: Structure,
) -> jax.Array:
    """What the user's own solver, lineax's or a function, makes of it."""
    import lineax as lx  # here and below: it takes longer to import than all of this library

    if not isinstance(solve, lx.AbstractLinearSolver):
        return _masked(operator, solve(operator, b), b)
    solution = lx.linear_solve(_operator(operator, b, structure), b, solve, throw=False).value
    return solution if singular == "least_norm" else _masked(operator, solution, b)


def _tolerance(dtype: Any) -> float:
    """Relative residual above which a solution is refused: sqrt(eps), or condition 1e8 in float64."""
    return machine_epsilon(dtype) ** 0.5


def _masked(operator: Any, x: jax.Array, b: jax.Array) -> jax.Array:
    residual = jnp.linalg.norm(operator(x) - b)
    return jnp.where(residual <= _tolerance(b.dtype) * jnp.linalg.norm(b), x, jnp.nan)


def _operator(operator: Any, b: jax.Array, structure: Structure) -> lx.AbstractLinearOperator:
    import lineax as lx

    tags = {
        "general": (),
        "coupled": (),
        "symmetric": lx.symmetric_tag,
        "positive_definite": (lx.symmetric_tag, lx.positive_semidefinite_tag),
    }[structure]
    return lx.FunctionLinearOperator(operator, jax.eval_shape(lambda: b), tags)


def _matrix(operator: Any, b: jax.Array) -> jax.Array:
    return jax.vmap(operator, out_axes=1)(jnp.eye(b.size, dtype=b.dtype))


def _dense(operator: Any, b: jax.Array, structure: Structure) -> jax.Array:
    """One factorisation; of the unknowns that are coupled, where they are said to be few and are."""

    def whole(part: Any, rhs: jax.Array) -> jax.Array:
        return _factorised(part, rhs, structure)

    if structure != "coupled" or b.size < _WIDE:
        return whole(operator, b)
    return coupled_solve(operator, b, whole, b.size // 3)


def _factorised(operator: Any, b: jax.Array, structure: Structure) -> jax.Array:
    """One factorisation, two right-hand sides: b and a probe."""
    wide = jnp.promote_types(b.dtype, jnp.float32)  # LAPACK has no half precision
    matrix, probe = _matrix(operator, b).astype(wide), probe_like(b).astype(wide)
    rhs = jnp.stack([b.astype(wide), probe], axis=1)
    # JAX's own factorisations, for their compile time: lineax's take three times as long to trace
    if structure == "positive_definite":
        x, proof = dense.cho_solve(dense.cho_factor(matrix), rhs).T
    else:
        x, proof = dense.lu_solve(dense.lu_factor(matrix), rhs).T
    residual = jnp.linalg.norm(matrix @ proof - probe)
    scale = jnp.linalg.norm(matrix) * jnp.linalg.norm(proof)
    size = jnp.linalg.norm(probe)
    bound = size / (8 * machine_epsilon(b.dtype))
    sound = (residual <= _tolerance(b.dtype) * size) & (scale <= bound)
    return jnp.where(sound, x, jnp.nan).astype(b.dtype)


def _krylov(operator: Any, b: jax.Array, structure: Structure) -> jax.Array:
    """A matrix-free method, one application of B (or two) a step, and nothing factorised."""
    tight = machine_epsilon(b.dtype) ** 0.8
    # of the kept implementations JAX's own compile in half the time, which is what users feel first
    method = krylov.cg if structure == "positive_definite" else krylov.bicgstab
    x, _ = method(operator, b, tol=tight, maxiter=4 * b.size)
    return _masked(operator, x, b)


def _least_norm(operator: Any, b: jax.Array) -> jax.Array:
    """The pseudo-inverse applied to b; singular values below n·eps·σ_max count as zero."""
    import lineax as lx

    if b.size <= _DENSE_LEAST_NORM:
        return lx.linear_solve(
            lx.MatrixLinearOperator(_matrix(operator, b)), b, lx.SVD(), throw=False
        ).value
    tight = machine_epsilon(b.dtype) ** 0.8
    solver = lx.Normal(lx.CG(rtol=tight, atol=0.0, max_steps=10 * b.size))
    return lx.linear_solve(_operator(operator, b, "general"), b, solver, throw=False).value
