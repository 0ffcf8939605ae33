"""The proximal operator of the nuclear norm: soft-thresholding of the singular values.

One scalar kink a singular value at the threshold; where two of them meet it at once, the Clarke
Jacobian is no product of segments, and the calculus refuses the point.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..calculus.marking import guard, smooth


def _values(X: jax.Array) -> tuple[jax.Array, jax.Array]:
    values = jnp.linalg.svd(X, compute_uv=False)
    return values, jnp.full_like(values, jnp.max(values))


def _values_rule(primals: Any, tangents: Any) -> jax.Array:
    (X,), (dX,) = primals, tangents
    U, _, Vt = jnp.linalg.svd(X, full_matrices=False)
    return jnp.einsum("ik,ij,kj->k", U, dX, Vt)


def _matrix(X: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    U, values, Vt = jnp.linalg.svd(X, full_matrices=False)
    return (U * parts) @ Vt, jnp.full_like(X, jnp.max(values))


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _matrix_rule(primals: Any, tangents: Any) -> jax.Array:
    (X, kept), (dX, dkept) = primals, tangents
    U, s, Vt = jnp.linalg.svd(X, full_matrices=False)
    inner = U.T @ dX @ Vt.T
    even, odd = (inner + inner.T) / 2, (inner - inner.T) / 2
    one_each = jnp.eye(s.size, dtype=X.dtype)
    above = kept > 0
    both = above[:, None] & above
    # (a_i − a_j)/(σ_i − σ_j), 1 where both stand above the threshold: nothing cancels
    apart = jnp.abs(s[:, None] - s)
    slope = jnp.where(both, 1, _ratio(jnp.abs(kept[:, None] - kept), apart))
    turn = _ratio(kept[:, None] + kept, s[:, None] + s)
    core = (1 - one_each) * slope * even + turn * odd + jnp.diag(dkept)
    change = U @ core @ Vt
    shrink = _ratio(kept, s)
    if X.shape[0] > s.size:
        change = change + ((dX @ Vt.T - U @ inner) * shrink) @ Vt
    if X.shape[1] > s.size:
        change = change + (U * shrink) @ (U.T @ dX - inner @ Vt)
    return change


_singular_values = smooth("singular_values", _values, _values_rule)
_recomposed = smooth("singular_values_recomposed", _matrix, _matrix_rule)
_off_double_kinks = guard("prox_nuclear_norm")


def shrink_singular_values(X: jax.Array, strength: Any) -> jax.Array:
    """argmin_P ½‖P − X‖² + λ Σ σ_i(P) for X (m, n) and λ ≥ 0."""
    # at λ = 0 the map is the identity in X, whatever its rank
    moving = jnp.where(jax.lax.stop_gradient(strength) > 0, X, jax.lax.stop_gradient(X))
    excess = _singular_values(moving) - strength
    if excess.size > 1:
        excess = _off_double_kinks(excess, jnp.sort(jnp.abs(excess))[1])
    return (X - moving) + _recomposed(moving, jax.nn.relu(excess))
