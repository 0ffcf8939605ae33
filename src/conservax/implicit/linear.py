"""The one linear system of implicit differentiation, solved by lineax or JAX's Krylov methods.

``lax.custom_linear_solve`` makes it differentiable any number of times in both modes; the solution
is masked with NaN inside it, so that a singular system never yields a plausible number under jit.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import lineax as lx
from jax.scipy.sparse import linalg as krylov

from ..numerics import machine_epsilon

Structure = Literal["general", "symmetric", "positive_definite"]
Singular = Literal["error", "least_norm"]
Solve = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]

_DENSE = 200  # up to this many unknowns one factorisation is cheaper than a Krylov method
_DENSE_LEAST_NORM = 2000  # up to this many a singular value decomposition is affordable


def linear_solve(
    matvec: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    *,
    solve: Solve | lx.AbstractLinearSolver | None = None,
    singular: Singular = "error",
    structure: Structure = "general",
) -> jax.Array:
    """x with B x = b, B given by ``matvec``; NaN where B is singular to working precision.

    Args:
        matvec: v ↦ B v, linear, from arrays (n,) to arrays (n,).
        b: right-hand side (n,).
        solve: None (dense LU or Cholesky up to 200 unknowns, a Krylov method beyond), a lineax
            solver, or a function ``solve(matvec, b)`` as in jaxopt.
        singular: "error" or "least_norm" (the pseudo-inverse).
        structure: what is known of B: "general", "symmetric", "positive_definite".
    """

    def checked(operator: Callable[[jax.Array], jax.Array], rhs: jax.Array) -> jax.Array:
        if callable(solve) and not isinstance(solve, lx.AbstractLinearSolver):
            return _masked(operator, solve(operator, rhs), rhs)
        if isinstance(solve, lx.AbstractLinearSolver):
            solution = lx.linear_solve(
                _operator(operator, rhs, structure), rhs, solve, throw=False
            ).value
            return solution if singular == "least_norm" else _masked(operator, solution, rhs)
        if singular == "least_norm":
            return _least_norm(operator, rhs)
        if rhs.size <= _DENSE:
            return _dense(operator, rhs, structure)
        return _krylov(operator, rhs, structure)

    return jax.lax.custom_linear_solve(
        matvec,
        b,
        solve=checked,
        transpose_solve=checked,
        symmetric=structure != "general",
    )


def _tolerance(dtype: Any) -> float:
    """Relative residual above which a solution is refused: sqrt(eps), or condition 1e8 in float64."""
    return machine_epsilon(dtype) ** 0.5


def _masked(operator: Any, x: jax.Array, b: jax.Array) -> jax.Array:
    residual = jnp.linalg.norm(operator(x) - b)
    return jnp.where(residual <= _tolerance(b.dtype) * jnp.linalg.norm(b), x, jnp.nan)


def _operator(operator: Any, b: jax.Array, structure: Structure) -> lx.AbstractLinearOperator:
    tags = {
        "general": (),
        "symmetric": lx.symmetric_tag,
        "positive_definite": (lx.symmetric_tag, lx.positive_semidefinite_tag),
    }[structure]
    return lx.FunctionLinearOperator(operator, jax.eval_shape(lambda: b), tags)


def _matrix(operator: Any, b: jax.Array) -> jax.Array:
    return jax.vmap(operator, out_axes=1)(jnp.eye(b.size, dtype=b.dtype))


def _dense(operator: Any, b: jax.Array, structure: Structure) -> jax.Array:
    """One factorisation, two right-hand sides: b, and a probe that no singular matrix can solve."""
    tag = lx.positive_semidefinite_tag if structure == "positive_definite" else ()
    matrix = lx.MatrixLinearOperator(_matrix(operator, b), tag)
    solver = lx.Cholesky() if structure == "positive_definite" else lx.LU()
    state = solver.init(matrix, {})

    def backsolve(rhs: jax.Array) -> jax.Array:
        return lx.linear_solve(matrix, rhs, solver, state=state, throw=False).value

    # b itself may lie in the range of a singular matrix, and would hide it
    probe = jnp.cos(jnp.arange(b.size, dtype=b.dtype) + 1)
    x, proof = jax.vmap(backsolve)(jnp.stack([b, probe]))
    residual = jnp.linalg.norm(matrix.mv(proof) - probe)
    scale = jnp.linalg.norm(matrix.matrix) * jnp.linalg.norm(proof)
    sound = (residual <= _tolerance(b.dtype) * jnp.linalg.norm(probe)) & (
        scale <= jnp.linalg.norm(probe) / (machine_epsilon(b.dtype) * 8)
    )
    return jnp.where(sound, x, jnp.nan)


def _krylov(operator: Any, b: jax.Array, structure: Structure) -> jax.Array:
    """A matrix-free method, one application of B (or two) a step, and nothing factorised."""
    # of the kept implementations JAX's own compile in half the time, which is what users feel first
    method = krylov.cg if structure == "positive_definite" else krylov.bicgstab
    x, _ = method(operator, b, tol=machine_epsilon(b.dtype) ** 0.8, maxiter=4 * b.size)
    return _masked(operator, x, b)


def _least_norm(operator: Any, b: jax.Array) -> jax.Array:
    """The pseudo-inverse applied to b; singular values below n·eps·σ_max count as zero."""
    if b.size <= _DENSE_LEAST_NORM:
        return lx.linear_solve(
            lx.MatrixLinearOperator(_matrix(operator, b)), b, lx.SVD(), throw=False
        ).value
    tight = machine_epsilon(b.dtype) ** 0.8
    solver = lx.Normal(lx.CG(rtol=tight, atol=0.0, max_steps=10 * b.size))
    return lx.linear_solve(_operator(operator, b, "general"), b, solver, throw=False).value
