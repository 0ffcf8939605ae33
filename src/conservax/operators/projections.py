"""Euclidean projections P_C(x) = argmin ‖p − x‖ over p ∈ C, with the names of jaxopt: ``cx.projections``.

Each returns the exact value and, under every transformation of JAX, an element of its Clarke
Jacobian: symmetric, 0 ≼ V ≼ I, never NaN where one exists. ``cx.conservative_jacobian`` knows the
whole set, or refuses the point by the operator's name.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..calculus.operations.norm import norm
from ..cones.kinds.exponential import EXPONENTIAL_CONE
from ..cones.kinds.power import power_cone
from ..cones.kinds.second_order import project_second_order_cone
from ..cones.kinds.semidefinite import project_psd_cone
from ..errors import InfeasibleError, InvalidInputError
from .inputs import as_float, flat, like, matrix, non_negative, vector
from .waterfilling import fill_box, fill_simplex


def projection_non_negative(x: Any, hyperparams: None = None) -> Any:
    """max(x, 0): the projection onto {p ≥ 0}, for a pytree x.

    At x_i = 0 the slope is 0, of the set [0, 1].

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_non_negative(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    del hyperparams
    return jax.tree.map(lambda a: jax.nn.relu(as_float(a)), x)


def projection_box(x: Any, hyperparams: tuple[Any, Any]) -> Any:
    """min(max(x, l), u): the projection onto {l ≤ p ≤ u}, for a pytree x.

    Args:
        hyperparams: (l, u), each a number or a pytree like x; l ≤ u.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_box(jnp.array([-1.0, 2.0]), (0.0, 1.0)).tolist()
    [0.0, 1.0]
    """
    lower, upper = (like(bound, x) for bound in hyperparams)

    def clip(a: Any, low: Any, high: Any) -> jax.Array:
        a = as_float(a)
        low, high = jnp.asarray(low, a.dtype), jnp.asarray(high, a.dtype)
        # a box of one point does not move with x
        open_box = jax.lax.stop_gradient(low) < jax.lax.stop_gradient(high)
        return jnp.where(open_box, jnp.clip(a, low, high), jnp.broadcast_to(low, a.shape))

    return jax.tree.map(clip, x, lower, upper)


def projection_hypercube(x: Any, unit: Any = 1.0) -> Any:
    """min(max(x, 0), unit): the projection onto {0 ≤ p ≤ unit}, for a pytree x.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_hypercube(jnp.array([-1.0, 0.5])).tolist()
    [0.0, 0.5]
    """
    return projection_box(x, (0.0, unit))


def projection_linf_ball(x: Any, max_value: Any = 1.0) -> Any:
    """min(max(x, −r), r): the projection onto {‖p‖∞ ≤ r}, for a pytree x.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_linf_ball(jnp.array([-3.0, 0.5])).tolist()
    [-1.0, 0.5]
    """
    return projection_box(x, (jax.tree.map(jnp.negative, max_value), max_value))


def projection_simplex(x: jax.Array, value: Any = 1.0) -> jax.Array:
    """max(x − τ, 0) with Σ p_i = value: the projection onto {p ≥ 0, Σ p_i = value}, for x (n,).

    V = D − D1(D1)ᵀ/1ᵀD1, D = diag(q): q = 1 on the support, and at x_i = τ the slope 0, of [0, 1].
    Raises InvalidInputError if value < 0.

    Source: Held, Wolfe, Crowder, Validation of subgradient optimization (1974).

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_simplex(jnp.array([1.0, 0.0, -1.0])).tolist()
    [1.0, 0.0, 0.0]
    """
    x = vector(x, "projection_simplex")
    return fill_simplex(x, non_negative(value, "value", x.dtype))[0]


def projection_l1_sphere(x: jax.Array, value: Any = 1.0) -> jax.Array:
    """A point of argmin ‖p − x‖ over ‖p‖₁ = value, for x (n,); entries at 0 count as positive.

    Where an entry at 0 must move, the projection is not unique and jumps: the calculus says so.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_l1_sphere(jnp.array([-3.0, 0.0])).tolist()
    [-1.0, 0.0]
    """
    x = vector(x, "projection_l1_sphere")
    filled = fill_simplex(jnp.abs(x), non_negative(value, "value", x.dtype))[0]
    return jnp.where(x >= 0, filled, -filled)


def projection_l1_ball(x: jax.Array, max_value: Any = 1.0) -> jax.Array:
    """x if ‖x‖₁ ≤ r, else sign(x) max(|x| − τ, 0) with ‖p‖₁ = r: onto {‖p‖₁ ≤ r}, for x (n,).

    On the sphere the derivative is I, of the segment from the outer Jacobian to I.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_l1_ball(jnp.array([-3.0, 0.0])).tolist()
    [-1.0, 0.0]
    """
    x = vector(x, "projection_l1_ball")
    radius = non_negative(max_value, "max_value", x.dtype)
    level = fill_simplex(jnp.abs(x), radius)[1]
    outside = jax.nn.relu(x - level) - jax.nn.relu(-x - level)
    # a ball of radius 0 has no inside, where the derivative would be I
    within = jnp.where(jax.lax.stop_gradient(radius) > 0, radius, -1)
    return jnp.where(jnp.sum(jnp.abs(x)) <= within, x, outside)


def projection_l2_ball(x: Any, max_value: Any = 1.0) -> Any:
    """x r / max(‖x‖, r): the projection onto {‖p‖₂ ≤ r}, for a pytree x.

    On the sphere the derivative is I − ½ x̂x̂ᵀ, of the set I − t x̂x̂ᵀ.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_l2_ball(jnp.array([3.0, 4.0]), 10.0).tolist()
    [3.0, 4.0]
    """
    v, unravel = flat(x)
    radius = non_negative(max_value, "max_value", v.dtype)
    longest = jnp.maximum(norm(v), radius)
    some = jax.lax.stop_gradient(longest) > 0
    return unravel(v * jnp.where(some, radius / jnp.where(some, longest, 1), 0))


def projection_l2_sphere(x: Any, value: Any = 1.0) -> Any:
    """x r/‖x‖: the projection onto {‖p‖₂ = r}, for a pytree x; at 0 one of its many values, r e₁.

    At 0 it jumps, and its derivative is NaN.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_l2_sphere(jnp.array([0.0, -2.0]), 3.0).tolist()
    [0.0, -3.0]
    """
    v, unravel = flat(x)
    radius = non_negative(value, "value", v.dtype)
    at_zero = jax.lax.stop_gradient(norm(v)) == 0
    start = jnp.where(at_zero, jnp.zeros_like(v).at[0].set(1), v)
    nothing = 0 * jnp.sqrt(jnp.sum(v * v))  # of slope NaN at 0, and 0 elsewhere
    return unravel(start * (radius / norm(start)) + nothing)


def projection_hyperplane(x: Any, hyperparams: tuple[Any, Any]) -> Any:
    """x − (aᵀx − b) a/‖a‖²: the projection onto {aᵀp = b}, for pytrees x and a ≠ 0, a number b.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_hyperplane(
    ...     jnp.array([1.0, 1.0]), (jnp.array([0.0, 2.0]), 0.0)
    ... ).tolist()
    [1.0, 0.0]
    """
    v, unravel = flat(x)
    a, b = _normal(hyperparams, v)
    return unravel(v - (a @ v - b) / (a @ a) * a)


def projection_halfspace(x: Any, hyperparams: tuple[Any, Any]) -> Any:
    """x − max(aᵀx − b, 0) a/‖a‖²: the projection onto {aᵀp ≤ b}, for pytrees x and a ≠ 0, a number b.

    On the boundary the derivative is I, of the set I − t ââᵀ.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_halfspace(
    ...     jnp.array([1.0, 1.0]), (jnp.array([0.0, 2.0]), 4.0)
    ... ).tolist()
    [1.0, 1.0]
    """
    v, unravel = flat(x)
    a, b = _normal(hyperparams, v)
    return unravel(v - jax.nn.relu(a @ v - b) / (a @ a) * a)


def _normal(hyperparams: tuple[Any, Any], v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, b) as arrays of v's dtype, a as long as v."""
    a, b = flat(hyperparams[0])[0].astype(v.dtype), jnp.asarray(hyperparams[1], v.dtype)
    if a.shape != v.shape or b.ndim:
        raise InvalidInputError(
            f"a has {a.size} entries and x {v.size}, b has shape {b.shape}: a must be like x, b a number."
        )
    return a, b


def projection_affine_set(x: jax.Array, hyperparams: tuple[Any, Any]) -> jax.Array:
    """x − A⁺(Ax − b): the projection onto {Ap = b}, for x (n,), A (m, n) with independent rows, b (m,).

    Dependent rows give NaN or infinity: drop those that follow from the others.

    >>> import jax.numpy as jnp, conservax as cx
    >>> p = cx.projections.projection_affine_set(
    ...     jnp.array([1.0, 1.0]), (jnp.array([[0.0, 2.0]]), [4.0])
    ... )
    >>> p.round(5).tolist()
    [1.0, 2.0]
    """
    x = vector(x, "projection_affine_set")
    A, b = jnp.asarray(hyperparams[0], x.dtype), jnp.asarray(hyperparams[1], x.dtype)
    if A.ndim != 2 or A.shape[1] != x.size or b.shape != A.shape[:1] or A.shape[0] > x.size:
        raise InvalidInputError(
            f"A has shape {A.shape}, b {b.shape} and x {x.shape}: A must be (m, n), b (m,), x (n,), m ≤ n."
        )
    # orthonormal rows: the condition of A counts once, not squared
    Q, R = jnp.linalg.qr(A.T)
    target = jax.scipy.linalg.solve_triangular(R, b, trans=1)
    return x - Q @ (Q.T @ x - target)


def projection_box_section(x: jax.Array, hyperparams: tuple[Any, Any, Any, Any]) -> jax.Array:
    """clip(x + τ w, α, β) with wᵀp = c: the projection onto {α ≤ p ≤ β, wᵀp = c}, for x (n,).

    Args:
        hyperparams: (α, β, w, c); α ≤ β and w > 0 numbers or vectors (n,), c a number.

    Raises:
        InfeasibleError: wᵀα > c or wᵀβ < c, or w is not positive; NaN where values are not known yet.

    >>> import jax.numpy as jnp, conservax as cx
    >>> p = cx.projections.projection_box_section(jnp.array([3.0, 0.0]), (0.0, 1.0, 1.0, 1.5))
    >>> p.tolist()
    [1.0, 0.5]
    """
    x = vector(x, "projection_box_section")
    alpha, beta, w = (jnp.broadcast_to(jnp.asarray(a, x.dtype), x.shape) for a in hyperparams[:3])
    p = fill_box(x, alpha, beta, w, jnp.asarray(hyperparams[3], x.dtype))
    if not isinstance(p, Tracer) and np.all(np.isfinite(x)) and np.any(np.isnan(p)):
        raise InfeasibleError(
            f"no α ≤ p ≤ β has wᵀp = {hyperparams[3]}, or w is not positive: "
            f"wᵀα = {w @ alpha:.6g}, wᵀβ = {w @ beta:.6g}."
        )
    return p


def projection_second_order_cone(x: jax.Array) -> jax.Array:
    """The projection onto {(t, y) : ‖y‖₂ ≤ t}, for x = (t, y) of shape (n,).

    ½ (t + ‖y‖)₊ (1, ŷ) + ½ (t − ‖y‖)₊ (1, −ŷ). On the boundary a scalar kink; at the apex the
    derivative is 0, and the calculus refuses (the set is no product of segments).

    Source: Fukushima, Luo, Tseng, Smoothing functions for second-order-cone problems (2002).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_second_order_cone(jnp.array([0.0, 2.0, 0.0])).tolist()
    [1.0, 1.0, 0.0]
    """
    x = vector(x, "projection_second_order_cone")
    return project_second_order_cone(x) if x.size > 1 else jax.nn.relu(x)


def projection_psd_cone(x: jax.Array) -> jax.Array:
    """Q max(Λ, 0) Qᵀ: the projection of the symmetric part of x (n, n) onto {P ≽ 0}.

    A simple eigenvalue 0 is a scalar kink; at a multiple one the derivative takes W = 0, and the
    calculus refuses. Second derivatives need simple eigenvalues.

    Source: Malick, Sendov, Clarke generalized Jacobian of the projection onto the cone of positive
    semidefinite matrices (2006).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_psd_cone(jnp.diag(jnp.array([2.0, -1.0]))).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    return project_psd_cone(matrix(x, "projection_psd_cone", square=True))


def projection_exponential_cone(x: jax.Array) -> jax.Array:
    """The projection of x (3,) onto cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}.

    On the boundary of the cone the derivative is I, on that of its polar 0, at its faces a limit;
    the calculus refuses these points.

    Source: the ratio ρ = x_p/y_p as the one unknown, as in Friberg, Projection onto the exponential
    cone: a univariate root-finding problem (2021).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_exponential_cone(jnp.array([-1.0, -1.0, 1.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return EXPONENTIAL_CONE.project(_triple(x, "projection_exponential_cone"))


def projection_exponential_dual_cone(x: jax.Array) -> jax.Array:
    """The projection of x (3,) onto K* = cl{(u, v, w) : u < 0, −u exp(v/u) ≤ e w}: x + P_K(−x).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_exponential_dual_cone(jnp.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 1.0, 1.0]
    """
    x = _triple(x, "projection_exponential_dual_cone")
    return x + EXPONENTIAL_CONE.project(-x)


def projection_power_cone(x: jax.Array, alpha: float) -> jax.Array:
    """The projection of x (3,) onto {(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0}, a fixed 0 < α < 1.

    On the boundary of the cone the derivative is I, on that of its polar 0; the calculus refuses
    these points.

    Source: Hien, Differential properties of Euclidean projection onto power cone (2015).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_power_cone(jnp.array([4.0, 1.0, 2.0]), 0.5).tolist()
    [4.0, 1.0, 2.0]
    """
    x = _triple(x, "projection_power_cone")
    return power_cone(_exponent(alpha)).project(x)


def projection_power_dual_cone(x: jax.Array, alpha: float) -> jax.Array:
    """The projection of x (3,) onto K* = {(u/α)^α (v/(1−α))^(1−α) ≥ |w|, u, v ≥ 0}: x + P_K(−x).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_power_dual_cone(jnp.array([1.0, 1.0, 2.0]), 0.5).tolist()
    [1.0, 1.0, 2.0]
    """
    x = _triple(x, "projection_power_dual_cone")
    return x + power_cone(_exponent(alpha)).project(-x)


def _triple(x: Any, operator: str) -> jax.Array:
    x = vector(x, operator)
    if x.size != 3:
        raise InvalidInputError(f"{operator} takes a vector (3,), got {x.size} entries.")
    return x


def _exponent(alpha: Any) -> float:
    if isinstance(alpha, Tracer) or not 0 < float(alpha) < 1:
        raise InvalidInputError(
            f"the exponent must be a fixed number strictly between 0 and 1, got {alpha}; the projection "
            "is not differentiated in it."
        )
    return float(alpha)
