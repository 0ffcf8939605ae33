"""Activations that are proximal operators, σ = prox_f, with what a splitting needs of them.

Each knows prox_{αf}, which is σ itself for every α only where f is an indicator, its Jacobian J at a
preactivation (symmetric, 0 ≼ J ≼ I) with the resolvent J((1 − α)J + αI)⁻¹, and where its kinks are.
Vectors and groups stand along axis 0: the units of (n,), the channels of (channels, height, width).

Source: Winston, Kolter, Monotone operator equilibrium networks (NeurIPS 2020), Section 3 and
Appendix; Combettes, Pesquet, Deep neural network structures solving variational inequalities (2020).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..calculus import norm, select, sites
from ..errors import InvalidInputError
from ..operators import proximal


class Slopes(eqx.Module):
    """A Jacobian J of an activation at one preactivation."""

    @abc.abstractmethod
    def apply(self, t: jax.Array) -> jax.Array:
        """J t."""

    @abc.abstractmethod
    def resolvent(self, t: jax.Array, alpha: jax.Array) -> jax.Array:
        """J((1 − α)J + αI)⁻¹ t: the derivative of prox_{αf} at the equilibrium."""


def _shrunk(slope: jax.Array, alpha: jax.Array) -> jax.Array:
    return slope / ((1 - alpha) * slope + alpha)


class Diagonal(Slopes):
    """J = diag(slope)."""

    slope: jax.Array

    def apply(self, t: jax.Array) -> jax.Array:
        return self.slope * t

    def resolvent(self, t: jax.Array, alpha: jax.Array) -> jax.Array:
        return _shrunk(self.slope, alpha) * t


class Radial(Slopes):
    """J = radial x̂x̂ᵀ + tangential (I − x̂x̂ᵀ) on each group; groups (count, size, ...)."""

    radial: jax.Array
    tangential: jax.Array
    unit: jax.Array

    def _by(self, t: jax.Array, radial: jax.Array, tangential: jax.Array) -> jax.Array:
        grouped = t.reshape(self.unit.shape)
        along = jnp.sum(self.unit * grouped, axis=1, keepdims=True) * self.unit
        return (tangential * grouped + (radial - tangential) * along).reshape(t.shape)

    def apply(self, t: jax.Array) -> jax.Array:
        return self._by(t, self.radial, self.tangential)

    def resolvent(self, t: jax.Array, alpha: jax.Array) -> jax.Array:
        return self._by(t, _shrunk(self.radial, alpha), _shrunk(self.tangential, alpha))


class OnSimplex(Slopes):
    """J = diag(p) − p pᵀ along axis 0, p a softmax."""

    p: jax.Array

    def apply(self, t: jax.Array) -> jax.Array:
        return self.p * (t - jnp.sum(self.p * t, axis=0))

    def resolvent(self, t: jax.Array, alpha: jax.Array) -> jax.Array:
        # ((1 − α)(D − ppᵀ) + αI)⁻¹ by Sherman and Morrison
        diagonal = (1 - alpha) * self.p + alpha
        weight = self.p / diagonal
        correction = (1 - alpha) * jnp.sum(weight * t, axis=0)
        correction = correction / (1 - (1 - alpha) * jnp.sum(weight * self.p, axis=0))
        return self.apply((t + correction * self.p) / diagonal)


class Mapped(Slopes):
    """J of an activation known by its proximal operator alone, by forward differentiation."""

    prox: Callable[..., jax.Array] = eqx.field(static=True)
    preactivation: jax.Array

    def _along(self, t: jax.Array, alpha: Any) -> jax.Array:
        z = self.prox(self.preactivation, jnp.ones_like(alpha))
        point = z + alpha * (self.preactivation - z)
        return jax.jvp(lambda v: self.prox(v, alpha), (point,), (t,))[1]

    def apply(self, t: jax.Array) -> jax.Array:
        return self._along(t, jnp.ones((), t.dtype))

    def resolvent(self, t: jax.Array, alpha: jax.Array) -> jax.Array:
        return self._along(t, alpha)


class Activation(eqx.Module):
    """σ = prox_f; a subclass says what f is."""

    only_unit_step: ClassVar[bool] = False
    """whether prox_{αf} is known at α = 1 alone"""

    @abc.abstractmethod
    def __call__(self, v: jax.Array) -> jax.Array:
        """σ(v)."""

    @abc.abstractmethod
    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        """prox_{αf}(v), for α > 0."""

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        """v, moved onto a kink of σ that lies within ``radius`` of it, entry by entry."""
        del radius
        return v

    def slopes(self, v: jax.Array, selection: Any) -> Slopes:
        """J at v, along one selection at the kinks."""
        return Diagonal(jax.jvp(selected(self, selection, v), (v,), (jnp.ones_like(v),))[1])


def selected(activation: Activation, selection: Any, v: jax.Array) -> Callable[..., jax.Array]:
    """σ with a selection at its kinks: a policy or dict of ``cx.select``, or one weight q for all."""
    if isinstance(selection, float):
        selection = {site.name: selection for site in sites(activation)(v)}
    return select(activation, selection)


def selection_of(given: Any) -> Any:
    """The selection that a user means, checked: one weight for all kinks, or what ``cx.select`` takes."""
    if isinstance(given, Real) and not isinstance(given, bool):
        weight = float(given)
        if not 0 <= weight <= 1:
            raise InvalidInputError(f"selection={given!r} must lie in [0, 1].")
        return weight
    select(jax.nn.relu, given)  # raises for what it does not know
    return given


def _onto(v: jax.Array, kink: float, radius: Any) -> jax.Array:
    return jnp.where(jnp.abs(v - kink) <= radius, jnp.asarray(kink, v.dtype), v)


class Relu(Activation):
    """max(v, 0): f is the indicator of z ≥ 0."""

    def __call__(self, v: jax.Array) -> jax.Array:
        return jax.nn.relu(v)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        del alpha
        return jax.nn.relu(v)

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        return _onto(v, 0.0, radius)


class LeakyRelu(Activation):
    """v for v ≥ 0, s v below, 0 < s ≤ 1: f(z) = ½ (1/s − 1) min(z, 0)²."""

    slope: float = eqx.field(static=True, default=0.01)

    def __check_init__(self) -> None:
        _require(0 < self.slope <= 1, "leaky_relu", "slope", self.slope, "lie in (0, 1]")

    def __call__(self, v: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(v, self.slope)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        return jnp.where(v >= 0, v, v / (1 + alpha * (1 / self.slope - 1)))

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        return _onto(v, 0.0, radius)


class Tanh(Activation):
    """tanh(v): f(z) = z artanh z + ½ log(1 − z²) − ½ z²."""

    def __call__(self, v: jax.Array) -> jax.Array:
        return jnp.tanh(v)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        # z = tanh a with (1 − α) tanh a + α a = v: Newton from a = v approaches from one side
        def newton(a: jax.Array) -> jax.Array:
            z = jnp.tanh(a)
            return a - ((1 - alpha) * z + alpha * a - v) / ((1 - alpha) * (1 - z * z) + alpha)

        still = jax.lax.stop_gradient(jax.lax.fori_loop(0, 10, lambda _, a: newton(a), v))
        return jnp.tanh(newton(still))


class SoftThreshold(Activation):
    """sign(v) max(|v| − λ, 0): f(z) = λ‖z‖₁."""

    threshold: float = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        _require(self.threshold > 0, "soft_threshold", "threshold", self.threshold, "be positive")

    def __call__(self, v: jax.Array) -> jax.Array:
        return proximal.prox_lasso(v, self.threshold)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        return proximal.prox_lasso(v, self.threshold, alpha)

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        return _onto(_onto(v, self.threshold, radius), -self.threshold, radius)


class Box(Activation):
    """min(max(v, low), high): f is the indicator of low ≤ z ≤ high."""

    low: float = eqx.field(static=True, default=0.0)
    high: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        _require(self.low < self.high, "box", "high", self.high, f"exceed low = {self.low}")

    def __call__(self, v: jax.Array) -> jax.Array:
        return jnp.clip(v, self.low, self.high)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        del alpha
        return self(v)

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        return _onto(_onto(v, self.low, radius), self.high, radius)


class Softmax(Activation):
    """softmax(v) along axis 0: f(z) = Σ z log z − ½‖z‖² on the simplex."""

    only_unit_step: ClassVar[bool] = True

    def __call__(self, v: jax.Array) -> jax.Array:
        return jax.nn.softmax(v, axis=0)

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        del alpha
        return self(v)

    def slopes(self, v: jax.Array, selection: Any) -> Slopes:
        del selection
        return OnSimplex(self(v))


class GroupSoftThreshold(Activation):
    """v (1 − λ/max(‖v‖, λ)) on groups of ``size`` along axis 0: f(z) = λ Σ ‖z_group‖₂."""

    size: int = eqx.field(static=True)
    threshold: float = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        name = "group_soft_threshold"
        _require(self.threshold > 0, name, "threshold", self.threshold, "be positive")
        _require(self.size >= 1, name, "size", self.size, "be at least 1")

    def _grouped(self, v: jax.Array) -> jax.Array:
        if v.shape[0] % self.size:
            raise InvalidInputError(
                f"group_soft_threshold: {v.shape[0]} units along axis 0 are no whole number of groups of "
                f"{self.size}."
            )
        return v.reshape(-1, self.size, *v.shape[1:])

    def __call__(self, v: jax.Array) -> jax.Array:
        return self.prox(v, jnp.ones((), v.dtype))

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        groups = self._grouped(v)
        weight = alpha * self.threshold
        longest = jnp.maximum(norm(groups, axis=1), weight)
        return (groups * (1 - weight / longest)[:, None]).reshape(v.shape)

    def snap(self, v: jax.Array, radius: jax.Array) -> jax.Array:
        groups, radii = self._grouped(v), self._grouped(jnp.broadcast_to(radius, v.shape))
        length = norm(groups, axis=1)[:, None]
        near = jnp.abs(length - self.threshold) <= norm(radii, axis=1)[:, None]
        there = groups * (self.threshold / jnp.where(length > 0, length, 1))
        return jnp.where(near, there, groups).reshape(v.shape)

    def slopes(self, v: jax.Array, selection: Any) -> Slopes:
        groups = self._grouped(v)
        length = norm(groups, axis=1)[:, None]
        unit = groups / jnp.where(length > 0, length, 1)
        longest = jnp.maximum(length, self.threshold)
        # the slope of max(‖v‖ − λ, 0) along the ray, with its kink at ‖v‖ = λ, up to rounding
        height = _onto(length - self.threshold, 0.0, 8 * jnp.finfo(v.dtype).eps * self.threshold)
        relu = Relu()
        radial = jax.jvp(selected(relu, selection, height), (height,), (jnp.ones_like(height),))[1]
        return Radial(radial, 1 - self.threshold / longest, unit)


@runtime_checkable
class Penalty(Protocol):
    """What a user's own activation offers: the convex function f and its proximal operator."""

    def value(self, z: jax.Array) -> jax.Array:
        """f(z)."""
        ...

    def prox(self, v: jax.Array, alpha: Any) -> jax.Array:
        """The minimiser of ½‖p − v‖² + α f(p) over p; it is σ for α = 1."""
        ...


class Proximal(Activation):
    """σ = prox_f of a user's own f, an object with ``value`` and ``prox(v, alpha)``."""

    penalty: Any = eqx.field(static=True)

    def __call__(self, v: jax.Array) -> jax.Array:
        return self.penalty.prox(v, jnp.ones((), v.dtype))

    def prox(self, v: jax.Array, alpha: jax.Array) -> jax.Array:
        return self.penalty.prox(v, alpha)

    def slopes(self, v: jax.Array, selection: Any) -> Slopes:
        if selection != "jax":
            raise InvalidInputError(
                f"selection={selection!r}: an activation of your own follows JAX at its kinks; "
                'leave selection="jax", or choose inside its prox.'
            )
        return Mapped(self.penalty.prox, v)


_BY_NAME: dict[str, Callable[[], Activation]] = {
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "tanh": Tanh,
    "soft_threshold": SoftThreshold,
    "softmax": Softmax,
    "box": Box,
}
_NAMES = (*_BY_NAME, "group_soft_threshold")


def activation_of(given: Any, shape: tuple[int, ...]) -> Activation:
    """The activation that a user means: by name, by one of the classes here, or by its f and prox.

    Raises InvalidInputError, by name, for anything that is no proximal operator.
    """
    if isinstance(given, Activation):
        found = given
    elif isinstance(given, str) and given in _BY_NAME:
        found = _BY_NAME[given]()
    elif given == "group_soft_threshold":
        raise InvalidInputError(
            'activation="group_soft_threshold" needs its groups: pass GroupSoftThreshold(size, threshold).'
        )
    elif isinstance(given, Penalty):
        _require_proximal(given, shape)
        found = Proximal(given)
    else:
        name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        raise InvalidInputError(
            f"activation {name!r} is not known to be a proximal operator (a monotone map with slopes in "
            f"[0, 1] that is a gradient), which the guarantee needs. Choose one of {', '.join(_NAMES)}, a "
            "class of conservax.equilibrium.activations, or pass an object with value(z) and prox(v, alpha)."
        )
    jax.eval_shape(found, jax.ShapeDtypeStruct(shape, jnp.float32))
    return found


def _require_proximal(penalty: Penalty, shape: tuple[int, ...]) -> None:
    """At some points: prox gives v's shape, is firmly nonexpansive, and minimises ½‖p − v‖² + αf(p)."""
    rng = np.random.default_rng(0)
    name = type(penalty).__name__
    for alpha in (1.0, 0.3):
        points = [jnp.asarray(2 * rng.normal(size=shape), jnp.float32) for _ in range(6)]
        images = [jnp.asarray(penalty.prox(v, jnp.float32(alpha))) for v in points]
        if images[0].shape != shape:
            raise InvalidInputError(
                f"activation {name}: prox turns shape {shape} into {images[0].shape}; it must keep it."
            )
        for v, w, p, q in zip(points, points[1:], images, images[1:], strict=False):
            firm = float(jnp.sum((p - q) * (v - w)) - jnp.sum((p - q) ** 2))
            nearer = [
                0.5 * jnp.sum((z - v) ** 2) + alpha * penalty.value(z)
                for z in (p, 0.9 * p + 0.1 * q)
            ]
            slack = 1e-4 * (1 + float(jnp.sum(v * v) + jnp.sum(w * w)))
            if firm < -slack or not float(nearer[0]) <= float(nearer[1]) + slack:
                raise InvalidInputError(
                    f"activation {name} is no proximal operator: at some points prox(v, {alpha:g}) does not "
                    "minimise ½‖p − v‖² + α value(p), or is not firmly nonexpansive."
                )


def _require(holds: bool, activation: str, name: str, value: Any, must: str) -> None:
    if not holds:
        raise InvalidInputError(f"activation {activation}: {name} = {value} must {must}.")
