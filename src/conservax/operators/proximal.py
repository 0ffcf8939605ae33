"""Proximal operators prox_{s f}(x) = argmin ½‖p − x‖² + s f(p), with the names of jaxopt: ``cx.proximal``.

Each returns the exact value and, under every transformation of JAX, an element of its Clarke
Jacobian (for convex f symmetric, 0 ≼ V ≼ I), never NaN. ``scaling`` is s. ``cx.conservative_jacobian``
knows the whole set, or refuses the point by the operator's name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..calculus.marking import smooth
from ..calculus.operations.norm import norm
from ..cones.curved.found import increasing_root
from ..errors import InvalidInputError
from .inputs import as_float, flat, like, matrix, non_negative, vector
from .projections import projection_l1_ball
from .singular_values import shrink_singular_values
from .sorted_l1 import shrink_sorted
from .total_variation import denoise


def _soft(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """sign(x) max(|x| − w, 0), w ≥ 0; the identity in x at w = 0, kinks or not."""
    moving = jnp.where(jax.lax.stop_gradient(threshold) > 0, x, jax.lax.stop_gradient(x))
    return (x - moving) + (jax.nn.relu(moving - threshold) - jax.nn.relu(-moving - threshold))


def _weight(parameter: Any, scaling: Any, name: str, x: jax.Array) -> jax.Array:
    return non_negative(parameter, name, x.dtype) * non_negative(scaling, "scaling", x.dtype)


def prox_none(x: Any, hyperparams: None = None, scaling: Any = 1.0) -> Any:
    """x: the proximal operator of f = 0.

    >>> import conservax as cx
    >>> cx.proximal.prox_none(2.0)
    2.0
    """
    del hyperparams, scaling
    return x


def prox_lasso(x: Any, l1reg: Any = 1.0, scaling: Any = 1.0) -> Any:
    """sign(x) max(|x| − sλ, 0): f(p) = Σ λ_i |p_i|, for a pytree x; λ a number or a pytree like x.

    At |x_i| = sλ_i the slope is 0, of the set [0, 1].

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_lasso(jnp.array([-3.0, 0.5])).tolist()
    [-2.0, 0.0]
    """

    def leaf(a: Any, reg: Any) -> jax.Array:
        a = as_float(a)
        return _soft(a, _weight(reg, scaling, "l1reg", a))

    return jax.tree.map(leaf, x, like(1.0 if l1reg is None else l1reg, x))


def prox_non_negative_lasso(x: Any, l1reg: Any = 1.0, scaling: Any = 1.0) -> Any:
    """max(x − sλ, 0): f(p) = λ Σ p_i on p ≥ 0, for a pytree x and a number λ.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_non_negative_lasso(jnp.array([-3.0, 1.5])).tolist()
    [0.0, 0.5]
    """

    def leaf(a: Any, reg: Any) -> jax.Array:
        a = as_float(a)
        return jax.nn.relu(a - jnp.asarray(reg, a.dtype) * jnp.asarray(scaling, a.dtype))

    return jax.tree.map(leaf, x, like(1.0 if l1reg is None else l1reg, x))


def prox_elastic_net(x: Any, hyperparams: tuple[Any, Any] = (1.0, 1.0), scaling: Any = 1.0) -> Any:
    """soft(x, sλ)/(1 + sλγ): f(p) = λ (Σ |p_i| + ½ γ Σ p_i²), for a pytree x, hyperparams (λ, γ).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_elastic_net(jnp.array([-3.0, 0.5])).tolist()
    [-1.0, 0.0]
    """
    lam, gamma = (1.0, 1.0) if hyperparams is None else hyperparams

    def leaf(a: Any, reg: Any, ratio: Any) -> jax.Array:
        a = as_float(a)
        weight = _weight(reg, scaling, "hyperparams[0]", a)
        return _soft(a, weight) / (1 + weight * non_negative(ratio, "hyperparams[1]", a.dtype))

    return jax.tree.map(leaf, x, like(lam, x), like(gamma, x))


def prox_group_lasso(x: Any, l2reg: Any = 1.0, scaling: Any = 1.0) -> Any:
    """x (1 − sλ/max(‖x‖, sλ)): f(p) = λ ‖p‖₂, the ℓ2 norm, for a pytree x as one group.

    At ‖x‖ = sλ the derivative is ½ x̂x̂ᵀ, of the set t x̂x̂ᵀ. Groups are batched with ``jax.vmap``.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_group_lasso(jnp.array([0.0, 4.0])).tolist()
    [0.0, 3.0]
    >>> jax.jacrev(cx.proximal.prox_group_lasso)(jnp.zeros(1)).tolist()
    [[0.0]]
    """
    v, unravel = flat(x)
    weight = _weight(1.0 if l2reg is None else l2reg, scaling, "l2reg", v)
    longest = jnp.maximum(norm(v), weight)
    some = jax.lax.stop_gradient(longest) > 0
    return unravel(v * (1 - jnp.where(some, weight / jnp.where(some, longest, 1), 0)))


def prox_ridge(x: Any, l2reg: Any = 1.0, scaling: Any = 1.0) -> Any:
    """x/(1 + sλ): f(p) = ½ λ ‖p‖₂², for a pytree x.

    The factor ½ is that of jaxopt's code; its documentation leaves it out.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_ridge(jnp.array([2.0])).tolist()
    [1.0]
    """

    def leaf(a: Any) -> jax.Array:
        a = as_float(a)
        return a / (1 + _weight(1.0 if l2reg is None else l2reg, scaling, "l2reg", a))

    return jax.tree.map(leaf, x)


def prox_non_negative_ridge(x: Any, l2reg: Any = 1.0, scaling: Any = 1.0) -> Any:
    """max(x, 0)/(1 + sλ): f(p) = ½ λ ‖p‖₂² on p ≥ 0, for a pytree x.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_non_negative_ridge(jnp.array([2.0, -2.0])).tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(jax.nn.relu, prox_ridge(x, l2reg, scaling))


def prox_linf_norm(x: jax.Array, linfreg: Any = 1.0, scaling: Any = 1.0) -> jax.Array:
    """x − P(x), P the projection onto {‖p‖₁ ≤ sλ}: f(p) = λ ‖p‖∞, for x (n,) (Moreau).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_linf_norm(jnp.array([3.0, 0.5])).tolist()
    [2.0, 0.5]
    """
    x = vector(x, "prox_linf_norm")
    return x - projection_l1_ball(x, _weight(linfreg, scaling, "linfreg", x))


def prox_total_variation_1d(x: jax.Array, reg: Any = 1.0, scaling: Any = 1.0) -> jax.Array:
    """The proximal operator of f(p) = λ Σ_j |p_{j+1} − p_j|, for x (n,).

    V averages over the pieces of p; where a piece could break, JAX keeps it whole. O(n) memory, O(n)
    work a piece.

    Source: the taut string: Davies, Kovac, Local extremes, runs, strings and multiresolution (2001).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_total_variation_1d(jnp.array([0.0, 0.0, 4.0, 4.0])).tolist()
    [0.5, 0.5, 3.5, 3.5]
    """
    x = vector(x, "prox_total_variation_1d")
    return denoise(x, _weight(reg, scaling, "reg", x))


def prox_nuclear_norm(x: jax.Array, reg: Any = 1.0, scaling: Any = 1.0) -> jax.Array:
    """U max(Σ − sλ, 0) Vᵀ: f(p) = λ Σ σ_i(p), for x (m, n).

    A simple singular value at sλ is a scalar kink, with slope 0; the calculus refuses several there.
    Second derivatives need simple singular values.

    >>> import jax.numpy as jnp, conservax as cx
    >>> p = cx.proximal.prox_nuclear_norm(jnp.array([[3.0, 0.0], [0.0, 0.5]]))
    >>> abs(p).round(5).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    x = matrix(x, "prox_nuclear_norm")
    return shrink_singular_values(x, _weight(reg, scaling, "reg", x))


def prox_huber(x: Any, delta: Any = 1.0, scaling: Any = 1.0) -> Any:
    """x − s clip(x/(1 + s), −δ, δ): f(p) = Σ (½ p_i² if |p_i| ≤ δ, else δ|p_i| − ½ δ²), for a pytree x.

    At |x_i| = (1 + s) δ a kink between the slopes 1/(1 + s) and 1.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_huber(jnp.array([1.0, -4.0])).tolist()
    [0.5, -3.0]
    """

    def leaf(a: Any, bound: Any) -> jax.Array:
        a = as_float(a)
        s, bound = non_negative(scaling, "scaling", a.dtype), non_negative(bound, "delta", a.dtype)
        return a - s * jnp.clip(a / (1 + s), -bound, bound)

    return jax.tree.map(leaf, x, like(delta, x))


def _logistic_value(x: Any, label: Any, scaling: Any) -> tuple[jax.Array, jax.Array]:
    push = scaling * label

    def height(p: jax.Array) -> jax.Array:
        return p - x - push * jax.nn.sigmoid(-label * p)

    p = increasing_root(height, jnp.minimum(x, x + push), jnp.maximum(x, x + push))
    return p, jnp.abs(x) + jnp.abs(push)


def _logistic_rule(primals: Any, tangents: Any) -> jax.Array:
    (x, label, scaling), (dx, dlabel, dscaling) = primals, tangents
    p = _logistic(x, label, scaling)
    away, curve = jax.nn.sigmoid(-label * p), jax.nn.sigmoid(label * p)
    change = dx + (dscaling * label + scaling * dlabel) * away
    change = change - scaling * label * away * curve * p * dlabel
    return change / (1 + scaling * label**2 * away * curve)


_logistic = smooth("prox_logistic", _logistic_value, _logistic_rule)


def prox_logistic(x: Any, labels: Any = 1.0, scaling: Any = 1.0) -> Any:
    """The root p of p = x + s b/(1 + exp(b p)): f(p) = Σ log(1 + exp(−b_i p_i)), for a pytree x.

    Smooth: dp/dx = 1/(1 + s b² σ(bp) σ(−bp)). The labels b are a number or a pytree like x.

    >>> import conservax as cx
    >>> round(float(cx.proximal.prox_logistic(-0.5)), 5)
    0.0
    """

    def leaf(a: Any, label: Any) -> jax.Array:
        a = as_float(a)
        s = non_negative(scaling, "scaling", a.dtype)
        return _logistic(*jnp.broadcast_arrays(a, jnp.asarray(label, a.dtype), s))

    return jax.tree.map(leaf, x, like(labels, x))


def prox_sorted_l1(x: jax.Array, weights: jax.Array, scaling: Any = 1.0) -> jax.Array:
    """The proximal operator of f(p) = Σ_i λ_i |p|_(i), |p|_(1) ≥ |p|_(2) ≥ … (SLOPE), for x (n,).

    V averages, with signs, over the entries that p makes equal in absolute value, and is 0 on those
    it makes 0; where such a block could split, JAX keeps it whole, and the calculus refuses. O(n²).

    Args:
        weights: λ (n,), λ_1 ≥ … ≥ λ_n ≥ 0.

    Raises InvalidInputError if the weights increase or are negative.

    Source: Bogdan, van den Berg, Sabatti, Su, Candès, SLOPE (2015): a decreasing isotonic regression.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_sorted_l1(jnp.array([-4.0, 3.5, 0.5]), jnp.array([2.0, 1.0, 0.0])).tolist()
    [-2.25, 2.25, 0.5]
    """
    x = vector(x, "prox_sorted_l1")
    if np.shape(weights) != x.shape:
        raise InvalidInputError(
            f"weights have shape {np.shape(weights)}, x {x.shape}: pass one each."
        )
    if not isinstance(weights, Tracer) and np.any(np.diff(np.asarray(weights)) > 0):
        raise InvalidInputError("weights must not increase: sort them, the largest first.")
    return shrink_sorted(x, _weight(weights, scaling, "weights", x))


def prox_mcp(x: Any, hyperparams: tuple[Any, Any] = (1.0, 3.0), scaling: Any = 1.0) -> Any:
    """0 up to sλ, slope 1/(1 − s/γ) up to γλ, then x: the minimax concave penalty, for a pytree x.

    f(p) = Σ λ|p_i| − p_i²/2γ for |p_i| ≤ γλ, else ½ γλ²; hyperparams = (λ, γ). ½‖p − x‖² + s f(p) is
    strongly convex iff s < γ (``mcp_weak_convexity``), which must hold: InvalidInputError, or NaN
    where the numbers are not known yet. V is symmetric and positive, up to 1/(1 − s/γ).

    Source: Zhang, Nearly unbiased variable selection under minimax concave penalty (2010).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_mcp(jnp.array([0.5, -2.0, 4.0])).tolist()
    [0.0, -1.5, 4.0]
    """
    lam, gamma = hyperparams

    def leaf(a: Any) -> jax.Array:
        a = as_float(a)
        reg, s, knee = _nonconvex(lam, scaling, gamma, gamma, "gamma", a)
        outer = _soft(a, knee * reg)
        return outer + knee / (knee - s) * (_soft(a, reg * s) - outer)

    return jax.tree.map(leaf, x)


def mcp_weak_convexity(hyperparams: tuple[Any, Any] = (1.0, 3.0)) -> Any:
    """ρ = 1/γ: the least ρ for which f + ½ ρ ‖·‖² is convex, f as in ``prox_mcp``.

    >>> import conservax as cx
    >>> cx.proximal.mcp_weak_convexity((1.0, 4.0))
    0.25
    """
    return 1 / hyperparams[1]


def prox_scad(x: Any, hyperparams: tuple[Any, Any] = (1.0, 3.7), scaling: Any = 1.0) -> Any:
    """Slopes 0, 1, (a − 1)/(a − 1 − s), 1 with knots sλ, (1 + s)λ, aλ: SCAD, for a pytree x.

    f'(p) = λ for p ≤ λ, (aλ − p)/(a − 1) up to aλ, then 0; hyperparams = (λ, a). Strongly convex iff
    s < a − 1 (``scad_weak_convexity``), which must hold: InvalidInputError, or NaN where the numbers
    are not known yet.

    Source: Fan, Li, Variable selection via nonconcave penalized likelihood (2001).

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.proximal.prox_scad(jnp.array([0.5, -1.5, 4.0])).tolist()
    [0.0, -0.5, 4.0]
    """
    lam, knee = hyperparams

    def leaf(a: Any) -> jax.Array:
        a = as_float(a)
        reg, s, end = _nonconvex(lam, scaling, knee, knee - 1, "a − 1", a)
        step = s / (end - 1 - s)
        middle, last = _soft(a, (1 + s) * reg), _soft(a, end * reg)
        return _soft(a, reg * s) + step * (middle - last)

    return jax.tree.map(leaf, x)


def scad_weak_convexity(hyperparams: tuple[Any, Any] = (1.0, 3.7)) -> Any:
    """ρ = 1/(a − 1): the least ρ for which f + ½ ρ ‖·‖² is convex, f as in ``prox_scad``.

    >>> import conservax as cx
    >>> cx.proximal.scad_weak_convexity((1.0, 3.0))
    0.5
    """
    return 1 / (hyperparams[1] - 1)


def _nonconvex(
    reg: Any, scaling: Any, knee: Any, limit: Any, name: str, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """λ, s and the knee of a penalty, NaN where s is not below ``limit``."""
    known = not any(isinstance(a, Tracer) for a in (scaling, limit))
    if known and np.any(~(np.asarray(scaling) < np.asarray(limit))):
        raise InvalidInputError(
            f"scaling = {scaling} is not below {name} = {limit}: the objective is not convex there and "
            "its minimiser jumps. Take shorter steps or a weaker penalty."
        )
    s = non_negative(scaling, "scaling", x.dtype)
    s = jnp.where(jax.lax.stop_gradient(s < limit), s, jnp.nan)
    return non_negative(reg, "hyperparams[0]", x.dtype), s, jnp.asarray(knee, x.dtype)


def make_prox_from_projection(projection: Callable[..., Any]) -> Callable[..., Any]:
    """prox(x, hyperparams, scaling) = projection(x, hyperparams): f is 0 on the set, +∞ elsewhere.

    >>> import jax.numpy as jnp, conservax as cx
    >>> prox = cx.proximal.make_prox_from_projection(cx.projections.projection_box)
    >>> prox(jnp.array([2.0]), (0.0, 1.0)).tolist()
    [1.0]
    """

    def prox(x: Any, hyperparams: Any = None, scaling: Any = 1.0) -> Any:
        del scaling
        return projection(x, hyperparams)

    return prox
