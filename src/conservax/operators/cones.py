"""Convex cones for conic programs: projection, dual, and the Clarke Jacobian between its extremes.

Coordinates and order are those of SCS: a second-order cone is (t, y) with ‖y‖ ≤ t; a matrix is the
lower triangle of its columns, off-diagonal entries times √2.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from .curved_cones import Found, unit
from .exponential_cone import EXPONENTIAL_CONE, exponential_normal, exponential_ray
from .power_cone import boundary_normal, boundary_ray, power_cone
from .spectral_cones import divided_differences, project_psd_cone, project_second_order_cone


class ClarkeJacobian(NamedTuple):
    """V_lo ≼ V ≼ V_hi for every element V of the Clarke Jacobian of a projection at v.

    ``element``, ``lower``, ``upper``: (n, n), symmetric; ``margin``: the distance from v to the
    nearest kink (to first order), 0 on one; ``exact``: V_lo and V_hi are elements themselves, as
    the necessity in the two-test theorem asks.
    """

    element: jax.Array
    lower: jax.Array
    upper: jax.Array
    margin: jax.Array
    exact: jax.Array


class Cone(ABC):
    """A closed convex cone K in ℝⁿ, n = ``size``."""

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def project(self, v: jax.Array) -> jax.Array:
        """argmin ‖p − v‖ over p ∈ K, for v (n,)."""

    @abstractmethod
    def dual(self) -> "Cone":
        """K* = {w : wᵀp ≥ 0 for all p ∈ K}."""

    @abstractmethod
    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        """The Clarke Jacobian of the projection at v (n,), kinks within ``tolerance`` · ‖v‖∞ counted in.

        The default tolerance is √eps of v's dtype. Works under jit and vmap.
        """


def _tolerance(v: jax.Array, tolerance: float | None) -> jax.Array:
    relative = math.sqrt(float(jnp.finfo(v.dtype).eps)) if tolerance is None else tolerance
    return relative * jnp.max(jnp.abs(v))


@dataclass(frozen=True)
class Zero(Cone):
    """{0}: the cone of equality constraints; its dual is ``Free``.

    >>> import jax.numpy as jnp
    >>> Zero(2).project(jnp.ones(2)).tolist()
    [0.0, 0.0]
    """

    length: int

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        return jnp.zeros_like(v)

    def dual(self) -> "Free":
        return Free(self.length)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        return _smooth(jnp.zeros((self.length, self.length), v.dtype))


@dataclass(frozen=True)
class Free(Cone):
    """All of ℝⁿ, the dual of ``Zero``.

    >>> import jax.numpy as jnp
    >>> Free(2).project(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    length: int

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        return v

    def dual(self) -> Zero:
        return Zero(self.length)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        return _smooth(jnp.eye(self.length, dtype=v.dtype))


def _smooth(V: jax.Array) -> ClarkeJacobian:
    return ClarkeJacobian(V, V, V, jnp.asarray(jnp.inf, V.dtype), jnp.asarray(True))


@dataclass(frozen=True)
class NonNegative(Cone):
    """{p ≥ 0}; V = diag(q), q_i ∈ [0, 1] at v_i = 0.

    >>> import jax.numpy as jnp
    >>> NonNegative(2).clarke(jnp.array([0.0, 1.0])).upper.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    length: int

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        return jax.nn.relu(v)

    def dual(self) -> "NonNegative":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        limit = _tolerance(v, tolerance)
        element, lower, upper = (
            jnp.diag(side.astype(v.dtype)) for side in (v > 0, v > limit, v >= -limit)
        )
        return ClarkeJacobian(
            element, lower, upper, jnp.min(jnp.abs(v), initial=jnp.inf), jnp.asarray(True)
        )


@dataclass(frozen=True)
class SecondOrder(Cone):
    """{(t, y) : ‖y‖ ≤ t} in ℝⁿ, n ≥ 2.

    Off the apex V = q₁ c₁c₁ᵀ + q₂ c₂c₂ᵀ + …, one q for each eigenvalue t ∓ ‖y‖; at the apex V_lo = 0
    and V_hi = I.

    Source: Kanzow, Ferenczi, Fukushima, On the local convergence of semismooth Newton methods for
    linear and nonlinear second-order cone programs without strict complementarity (2009).

    >>> import jax.numpy as jnp
    >>> (2 * SecondOrder(2).clarke(jnp.array([1.0, 1.0])).lower).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    length: int

    def __post_init__(self) -> None:
        if self.length < 2:
            raise InvalidInputError(
                f"a second-order cone has size 2 or more, got {self.length}; use NonNegative(1)."
            )

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        return project_second_order_cone(v)

    def dual(self) -> "SecondOrder":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        limit = _tolerance(v, tolerance)
        axis = unit(v[1:])
        length = axis @ v[1:]
        values = jnp.stack([v[0] - length, v[0] + length])
        one = jnp.ones(1, v.dtype)
        ends = jnp.stack([jnp.concatenate([one, -axis]), jnp.concatenate([one, axis])])
        across = jnp.zeros((v.size, v.size), v.dtype)
        across = across.at[1:, 1:].set(jnp.eye(v.size - 1, dtype=v.dtype) - jnp.outer(axis, axis))

        def assembled(sides: jax.Array, snapped: jax.Array) -> jax.Array:
            q = sides.astype(v.dtype) / 2
            share = divided_differences(snapped)[0, 1]
            return jnp.einsum("k,ki,kj->ij", q, ends, ends) + share * across

        snapped = jnp.where(jnp.abs(values) <= limit, 0, values)
        apex = jnp.all(snapped == 0)
        eye = jnp.eye(v.size, dtype=v.dtype)
        return ClarkeJacobian(
            assembled(values > 0, values),
            jnp.where(apex, 0, assembled(snapped > 0, snapped)),
            jnp.where(apex, eye, assembled(snapped >= 0, snapped)),
            jnp.min(jnp.abs(values)),
            jnp.asarray(True),
        )


@dataclass(frozen=True)
class PositiveSemidefinite(Cone):
    """{P ≽ 0} of ``order`` k, as vectors of size k (k + 1)/2.

    With eigenvalues α (+), β (0), γ (−): 1 on αα and αβ, λ_i/(λ_i − λ_j) on αγ, W on ββ, 0 on βγ and
    γγ; V_lo has W = 0 and V_hi the identity.

    Source: Malick, Sendov (2006); coordinates of O'Donoghue, Chu, Parikh, Boyd, SCS (2016).

    >>> import jax.numpy as jnp
    >>> PositiveSemidefinite(2).project(jnp.array([1.0, 0.0, -1.0])).tolist()
    [1.0, 0.0, 0.0]
    """

    order: int

    @property
    def size(self) -> int:
        return self.order * (self.order + 1) // 2

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        columns, rows = np.triu_indices(self.order)
        return rows, columns

    def matrix(self, v: jax.Array) -> jax.Array:
        """The symmetric matrix of a vector."""
        rows, columns = self._places()
        entries = v * jnp.asarray(np.where(rows == columns, 1, math.sqrt(0.5)), v.dtype)
        X = jnp.zeros((self.order, self.order), v.dtype).at[rows, columns].set(entries)
        return X.at[columns, rows].set(entries)

    def vector(self, X: jax.Array) -> jax.Array:
        """The vector of a symmetric matrix; the inner product stays what it is."""
        rows, columns = self._places()
        scale = jnp.asarray(np.where(rows == columns, 1, math.sqrt(2)), X.dtype)
        return X[rows, columns] * scale

    def project(self, v: jax.Array) -> jax.Array:
        return self.vector(project_psd_cone(self.matrix(v)))

    def dual(self) -> "PositiveSemidefinite":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        limit = _tolerance(v, tolerance)
        values, Q = jnp.linalg.eigh(self.matrix(v))
        snapped = jnp.where(jnp.abs(values) <= limit, 0, values)
        zero = snapped == 0
        both = (zero[:, None] & zero).astype(v.dtype)

        def assembled(weights: jax.Array) -> jax.Array:
            def column(e: jax.Array) -> jax.Array:
                inner = weights * (Q.T @ self.matrix(e) @ Q)
                return self.vector(Q @ inner @ Q.T)

            V = jax.vmap(column)(jnp.eye(self.size, dtype=v.dtype))
            return (V + V.T) / 2

        low = divided_differences(snapped)
        return ClarkeJacobian(
            assembled(divided_differences(values)),
            assembled(low),
            assembled(low + both),
            jnp.min(jnp.abs(values)),
            jnp.asarray(True),
        )


@dataclass(frozen=True)
class Exponential(Cone):
    """cl{(x, y, z) : y > 0, y exp(x/y) ≤ z}.

    On the smooth boundary I − nnᵀ ≼ V ≼ I, on the smooth boundary of the polar 0 ≼ V ≼ ddᵀ; at the
    faces and the apex only 0 ≼ V ≼ I is known, and ``exact`` is False.

    >>> import jax.numpy as jnp
    >>> bool(Exponential().clarke(jnp.array([-1.0, 0.0, -1.0])).exact)
    False
    """

    @property
    def size(self) -> int:
        return 3

    def project(self, v: jax.Array) -> jax.Array:
        return EXPONENTIAL_CONE.project(v)

    def dual(self) -> "Dual":
        return Dual(self)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        limit = _tolerance(v, tolerance)
        return _curved(
            EXPONENTIAL_CONE.locate(v),
            EXPONENTIAL_CONE.element(v),
            v,
            limit,
            (v[1] > limit, exponential_normal(v)),
            (v[0] > limit, exponential_ray(v)),
        )


@dataclass(frozen=True)
class Power(Cone):
    """{(x, y, z) : x^α y^(1−α) ≥ |z|, x, y ≥ 0} for a fixed 0 < α < 1; extremes as ``Exponential``.

    >>> import jax.numpy as jnp
    >>> Power(0.3).project(jnp.array([1.0, 1.0, 1.0])).tolist()
    [1.0, 1.0, 1.0]
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InvalidInputError(f"0 < alpha < 1 is required, got {self.alpha}.")

    @property
    def size(self) -> int:
        return 3

    def project(self, v: jax.Array) -> jax.Array:
        return power_cone(self.alpha).project(v)

    def dual(self) -> "Dual":
        return Dual(self)

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        limit = _tolerance(v, tolerance)
        cone = power_cone(self.alpha)
        smooth = jnp.abs(v[2]) > limit
        return _curved(
            cone.locate(v),
            cone.element(v),
            v,
            limit,
            (smooth & (v[0] > limit) & (v[1] > limit), boundary_normal(v, self.alpha)),
            (smooth & (v[0] < -limit) & (v[1] < -limit), boundary_ray(v, self.alpha)),
        )


def _curved(
    found: Found,
    element: jax.Array,
    v: jax.Array,
    limit: jax.Array,
    boundary: tuple[jax.Array, jax.Array],
    polar: tuple[jax.Array, jax.Array],
) -> ClarkeJacobian:
    """The extremes from where v lies; ``boundary`` and ``polar``: is it smooth there, and its normal."""
    kink = found.margin <= limit
    eye = jnp.eye(3, dtype=v.dtype)
    near_polar = jnp.linalg.norm(found.point) <= jnp.linalg.norm(v - found.point)
    near_polar = jnp.where(found.inside, False, near_polar | found.polar)
    on_boundary, on_polar = boundary[0] & ~near_polar, polar[0] & near_polar
    lower = jnp.where(on_boundary, eye - jnp.outer(boundary[1], boundary[1]), 0)
    upper = jnp.where(on_polar, jnp.outer(polar[1], polar[1]), eye)
    return ClarkeJacobian(
        element,
        jnp.where(kink, lower, element),
        jnp.where(kink, upper, element),
        found.margin,
        ~kink | on_boundary | on_polar,
    )


@dataclass(frozen=True)
class Dual(Cone):
    """K*, by Moreau: P_{K*}(v) = v + P_K(−v), so that V* = I − V(−v) and the extremes change places.

    >>> import jax.numpy as jnp
    >>> Dual(Exponential()).project(jnp.array([0.0, 1.0, 1.0])).tolist()
    [0.0, 1.0, 1.0]
    """

    cone: Cone

    @property
    def size(self) -> int:
        return self.cone.size

    def project(self, v: jax.Array) -> jax.Array:
        return v + self.cone.project(-v)

    def dual(self) -> Cone:
        return self.cone

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        of = self.cone.clarke(-v, tolerance)
        eye = jnp.eye(self.size, dtype=v.dtype)
        return ClarkeJacobian(eye - of.element, eye - of.upper, eye - of.lower, of.margin, of.exact)


@dataclass(frozen=True, init=False)
class Product(Cone):
    """K₁ × K₂ × …, in any order: projection and Clarke Jacobian block by block.

    ``tolerance`` counts relative to the entries of each block; ``margin`` is the smallest one.

    >>> import jax.numpy as jnp
    >>> K = Product(Power(0.3), NonNegative(2), Zero(1))
    >>> K.project(jnp.array([1.0, 1.0, 0.0, -1.0, 2.0, 3.0])).tolist()
    [1.0, 1.0, 0.0, 0.0, 2.0, 0.0]
    """

    cones: tuple[Cone, ...]

    def __init__(self, *cones: Cone) -> None:
        for cone in cones:
            if not isinstance(cone, Cone):
                raise InvalidInputError(
                    f"Product takes cones, as in Product(Zero(1), SecondOrder(3)), but got {cone!r}."
                )
        object.__setattr__(self, "cones", cones)

    @property
    def size(self) -> int:
        return sum(cone.size for cone in self.cones)

    def project(self, v: jax.Array) -> jax.Array:
        parts = (cone.project(part) for cone, part in self._blocks(v))
        return jnp.concatenate([v[:0], *parts])

    def dual(self) -> "Product":
        return Product(*(cone.dual() for cone in self.cones))

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        found = [cone.clarke(part, tolerance) for cone, part in self._blocks(v)]
        if not found:
            return _smooth(jnp.zeros((0, 0), v.dtype))
        element, lower, upper, margins, exact = zip(*found, strict=True)
        joined = jax.scipy.linalg.block_diag
        return ClarkeJacobian(
            joined(*element),
            joined(*lower),
            joined(*upper),
            jnp.min(jnp.stack(margins)),
            jnp.all(jnp.stack(exact)),
        )

    def _blocks(self, v: jax.Array) -> list[tuple[Cone, jax.Array]]:
        if v.shape != (self.size,):
            raise InvalidInputError(
                f"v has shape {v.shape}, but the cones have {self.size} entries in all."
            )
        ends = np.cumsum([0, *(cone.size for cone in self.cones)])
        return [(cone, v[i:j]) for cone, i, j in zip(self.cones, ends[:-1], ends[1:], strict=True)]
