"""Projections onto the second-order and the positive semidefinite cone, by their eigenvalues.

Both are P(x) = Σ relu(λ_i(x)) c_i(x) over the eigenvalues of a Euclidean Jordan algebra: one scalar
kink an eigenvalue. Where two of them vanish at once the Clarke Jacobian is no product of segments.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..calculus.marking import guard, smooth
from ..calculus.operations.norm import norm


def _axis_of(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """‖x‖ and x/‖x‖ (0 at 0) of v = (t, x)."""
    length = norm(v[1:])
    return length, v[1:] / jnp.where(length > 0, length, 1)


def _cone_eigenvalues(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    length, _ = _axis_of(v)
    values = jnp.stack([v[0] - length, v[0] + length])
    return values, jnp.full_like(values, jnp.abs(v[0]) + length)


def _cone_eigenvalues_rule(primals: Any, tangents: Any) -> jax.Array:
    (v,), (dv,) = primals, tangents
    _, axis = _axis_of(v)
    along = axis @ dv[1:]
    return jnp.stack([dv[0] - along, dv[0] + along])


def _cone_point(v: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, axis = _axis_of(v)
    low, high = parts
    point = jnp.concatenate([(low + high)[None], (high - low) * axis]) / 2
    return point, jnp.full_like(point, jnp.max(jnp.abs(v)))


def _cone_point_rule(primals: Any, tangents: Any) -> jax.Array:
    (v, (low, high)), (dv, (dlow, dhigh)) = primals, tangents
    length, axis = _axis_of(v)
    ratio = jnp.where(
        length > 0,
        (high - low) / (2 * jnp.where(length > 0, length, 1)),
        (v[0] > 0).astype(v.dtype),  # on the axis, off the apex, the projection is I or 0
    )
    across = dv[1:] - axis * (axis @ dv[1:])
    body = (dhigh - dlow) / 2 * axis + ratio * across
    return jnp.concatenate([((dlow + dhigh) / 2)[None], body])


cone_eigenvalues = smooth("cone_eigenvalues", _cone_eigenvalues, _cone_eigenvalues_rule)
_cone_recomposed = smooth("cone_recomposed", _cone_point, _cone_point_rule)
_off_the_apex = guard("projection_second_order_cone")


def project_second_order_cone(v: jax.Array) -> jax.Array:
    """argmin ‖p − v‖ over p₀ ≥ ‖(p₁, …)‖, for v (n,) with n ≥ 2."""
    values = cone_eigenvalues(v)
    values = _off_the_apex(values, jnp.max(jnp.abs(values)))
    return _cone_recomposed(v, jax.nn.relu(values))


def _eigenvalues(X: jax.Array) -> tuple[jax.Array, jax.Array]:
    values = jnp.linalg.eigvalsh(X)
    return values, jnp.full_like(values, jnp.max(jnp.abs(values)))


def _eigenvalues_rule(primals: Any, tangents: Any) -> jax.Array:
    (X,), (dX,) = primals, tangents
    _, Q = jnp.linalg.eigh(X)
    return jnp.einsum("ki,kl,li->i", Q, dX, Q)


def _matrix(X: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, Q = jnp.linalg.eigh(X)
    made = (Q * parts) @ Q.T
    return (made + made.T) / 2, jnp.full_like(made, jnp.max(jnp.abs(X)))


def divided_differences(values: jax.Array) -> jax.Array:
    """(λ_i⁺ − λ_j⁺)/(λ_i − λ_j) as (λ_i⁺ + λ_j⁺)/(|λ_i| + |λ_j|), which no cancellation spoils; 0 at 0/0."""
    positive, size = jnp.maximum(values, 0), jnp.abs(values)
    total = size[:, None] + size
    return jnp.where(
        total > 0, (positive[:, None] + positive) / jnp.where(total > 0, total, 1), 0.0
    )


def _matrix_rule(primals: Any, tangents: Any) -> jax.Array:
    (X, _), (dX, dparts) = primals, tangents
    values, Q = jnp.linalg.eigh(X)
    rotated = Q.T @ ((dX + dX.T) / 2) @ Q
    apart = 1 - jnp.eye(len(values), dtype=X.dtype)
    return Q @ (apart * divided_differences(values) * rotated + jnp.diag(dparts)) @ Q.T


_matrix_eigenvalues = smooth("eigenvalues", _eigenvalues, _eigenvalues_rule)
_matrix_recomposed = smooth("matrix_recomposed", _matrix, _matrix_rule)
_off_double_zeros = guard("projection_psd_cone")


def project_psd_cone(X: jax.Array) -> jax.Array:
    """argmin ‖P − X‖ over symmetric P ≽ 0, for X (n, n); the symmetric part of X counts."""
    values = _matrix_eigenvalues(X)
    if len(values) > 1:
        values = _off_double_zeros(values, jnp.sort(jnp.abs(values))[1])
    return _matrix_recomposed(X, jax.nn.relu(values))
