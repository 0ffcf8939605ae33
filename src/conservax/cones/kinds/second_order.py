"""The second-order cone {(t, y) : ‖y‖ ≤ t}.

The projection is P(v) = Σ relu(λ_i(v)) c_i(v) over the two eigenvalues t ∓ ‖y‖: one scalar kink an
eigenvalue. Where both vanish at once the Clarke Jacobian is no product of segments.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array, namespace, transpose
from ...calculus.marking import guard, smooth
from ...calculus.operations.norm import norm
from ...errors import InvalidInputError
from ..block import Elements, SymmetricBlock
from ..cone import ClarkeJacobian, Cone, integer, limit_at
from ..constraint import Constraint, Limit, TwoEnds, half_line
from ..curved.found import unit
from ..family import Sized, one_by_one
from ..slopes import divided_differences, slope, snap
from .orthant import side_by_side


def _axis_of(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """‖x‖ and x/‖x‖ (0 at 0) of v = (t, x)."""
    length = norm(v[1:])
    return length, v[1:] / jnp.where(length > 0, length, 1)


def _eigenvalues_of(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    length, _ = _axis_of(v)
    values = jnp.stack([v[0] - length, v[0] + length])
    return values, jnp.full_like(values, jnp.abs(v[0]) + length)


def _eigenvalues_rule(primals: Any, tangents: Any) -> jax.Array:
    (v,), (dv,) = primals, tangents
    _, axis = _axis_of(v)
    along = axis @ dv[1:]
    return jnp.stack([dv[0] - along, dv[0] + along])


def _point(v: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, axis = _axis_of(v)
    low, high = parts
    point = jnp.concatenate([(low + high)[None], (high - low) * axis]) / 2
    return point, jnp.full_like(point, jnp.max(jnp.abs(v)))


def _point_rule(primals: Any, tangents: Any) -> jax.Array:
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


_eigenvalues = smooth("cone_eigenvalues", _eigenvalues_of, _eigenvalues_rule)
_recomposed = smooth("cone_recomposed", _point, _point_rule)
_off_the_apex = guard("projection_second_order_cone")


def project_second_order_cone(v: jax.Array) -> jax.Array:
    """argmin ‖p − v‖ over p₀ ≥ ‖(p₁, …)‖, for v (n,) with n ≥ 2."""
    values = _eigenvalues(v)
    values = _off_the_apex(values, jnp.max(jnp.abs(values)))
    return _recomposed(v, jax.nn.relu(values))


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
        if integer("length", self.length, 0) < 2:
            raise InvalidInputError(
                f"a second-order cone has size 2 or more, got {self.length}; use NonNegative(1)."
            )

    @property
    def size(self) -> int:
        return self.length

    def project(self, v: jax.Array) -> jax.Array:
        v = self.point(v)
        return project_second_order_cone(v)

    def dual(self) -> "SecondOrder":
        return self

    def clarke(self, v: jax.Array, tolerance: float | None = None) -> ClarkeJacobian:
        v = self.point(v)
        limit = limit_at(v, tolerance)
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
class SecondOrderBlock(SymmetricBlock):
    """``count`` cones {(t, x) : ‖x‖ ≤ t} of dimension ``dim`` ≥ 2."""

    count: int
    dim: int

    @property
    def size(self) -> int:
        return self.count * self.dim

    @property
    def degree(self) -> int:
        return self.count

    def identity(self) -> np.ndarray:
        return np.tile(np.eye(self.dim)[0], self.count)

    def _split(self, x: Array) -> tuple[Array, Array]:
        x = x.reshape(*x.shape[:-1], self.count, self.dim)
        return x[..., 0], x[..., 1:]

    def _join(self, t: Array, x: Array) -> Array:
        both = jnp.concatenate([t[..., None], x], axis=-1)
        return both.reshape(*both.shape[:-2], self.size)

    def _residue(self, x: Array) -> Array:
        """√(t² − ‖x‖²), without cancellation."""
        t, x = self._split(x)
        norm = jnp.linalg.norm(x, axis=-1)
        return jnp.sqrt(jnp.maximum((t - norm) * (t + norm), jnp.finfo(t.dtype).tiny))

    def interior(self, x: Array) -> Array:
        t, x = self._split(x)
        return jnp.min(t - jnp.linalg.norm(x, axis=-1), axis=-1)

    def scaling(self, s: Array, z: Array) -> tuple[Any, Array]:
        size_s, size_z = self._residue(s), self._residue(z)
        (s0, s1), (z0, z1) = self._split(s), self._split(z)
        s0, s1 = s0 / size_s, s1 / size_s[..., None]
        z0, z1 = z0 / size_z, z1 / size_z[..., None]
        gamma = jnp.sqrt((1 + s0 * z0 + jnp.sum(s1 * z1, axis=-1)) / 2)
        w1 = (s1 - z1) / (2 * gamma)[..., None]
        w0 = jnp.sqrt(1 + jnp.sum(w1 * w1, axis=-1))
        W = jnp.sqrt(size_s / size_z), w0, w1
        return W, self._apply(W, z, 1.0)

    def _apply(self, W: Any, x: Array, sign: float) -> Array:
        """W x (sign 1) or W⁻¹ x (sign −1): W = η [[w₀, wᵀ], [w, I + wwᵀ/(1 + w₀)]]."""
        eta, w0, w1 = W
        t, x = self._split(x)
        along = jnp.sum(w1 * x, axis=-1)
        rest = x + (sign * t + along / (1 + w0))[..., None] * w1
        factor = eta if sign > 0 else 1 / eta
        return self._join(factor * (w0 * t + sign * along), factor[..., None] * rest)

    def scale(self, W: Any, x: Array) -> Array:
        W = jax.tree.map(lambda part: part[:, None], W)
        return transpose(self._apply(W, transpose(x), -1.0))

    def unscale(self, W: Any, s: Array, z: Array) -> tuple[Array, Array]:
        return self._apply(W, s, 1.0), self._apply(W, z, -1.0)

    def product(self, x: Array, y: Array) -> Array:
        (x0, x1), (y0, y1) = self._split(x), self._split(y)
        cross = x0[..., None] * y1 + y0[..., None] * x1
        return self._join(x0 * y0 + jnp.sum(x1 * y1, axis=-1), cross)

    def divide(self, lam: Array, x: Array) -> Array:
        (l0, l1), (x0, x1) = self._split(lam), self._split(x)
        u0 = (l0 * x0 - jnp.sum(l1 * x1, axis=-1)) / self._residue(lam) ** 2
        return self._join(u0, (x1 - u0[..., None] * l1) / l0[..., None])

    def steepness(self, lam: Array, x: Array) -> Array:
        # an automorphism of the cone that carries λ to e, where eigenvalues are plain
        size = self._residue(lam)
        l0, l1 = self._split(lam)
        W = (size, l0 / size, l1 / size[..., None])
        t, rest = self._split(self._apply(W, x, -1.0))
        return jnp.max(jnp.linalg.norm(rest, axis=-1) - t, axis=-1, initial=0.0)

    def duals(self) -> list[Cone]:
        return [SecondOrder(self.dim)]

    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        shape, xp = (len(v), self.count, self.dim), namespace(v)
        v = v.reshape(shape)
        dual, slack = (xp.max(t.reshape(shape), axis=-1) for t in (dual, slack))
        t, x = v[..., 0], v[..., 1:]
        zero = xp.all(x == 0, axis=-1)
        first = np.eye(self.dim - 1)[0].astype(v.dtype)
        safe = xp.where(zero[..., None], first, x)
        length = xp.linalg.norm(safe, axis=-1)
        axis = safe / length[..., None]
        length = xp.where(zero, 0.0, length)
        upper, lower = snap(t + length, dual, slack), snap(t - length, dual, slack)

        def eigenvalues(tie: float) -> Array:
            ends = [slope(value, value, tie) for value in (upper, lower)]
            across = xp.repeat(slope(upper, lower, tie)[..., None], self.dim - 2, axis=-1)
            d = xp.concatenate([xp.stack(ends, axis=-1), across], axis=-1)
            return d.reshape(len(v), self.size)

        return Elements(axis, eigenvalues(0.0), eigenvalues(1.0))

    def rotate(self, basis: Any, x: Array) -> Array:
        parts = x.reshape(len(x), self.count, self.dim, x.shape[-1])
        t, rest = parts[:, :, :1], parts[:, :, 1:]
        xp = namespace(basis, x)
        along = xp.sum(basis[..., None] * rest, axis=-2, keepdims=True)
        root = float(np.sqrt(0.5))
        across = _reflect(basis, rest)[:, :, 1:]
        rotated = xp.concatenate([root * (t + along), root * (t - along), across], axis=2)
        return rotated.reshape(len(rotated), *x.shape[1:])

    def unrotate(self, basis: Any, x: Array) -> Array:
        parts = x.reshape(len(x), self.count, self.dim, x.shape[-1])
        upper, lower, across = parts[:, :, :1], parts[:, :, 1:2], parts[:, :, 2:]
        root, xp = float(np.sqrt(0.5)), namespace(basis, x)
        sign = xp.where(basis[..., :1] < 0, 1.0, -1.0)[..., None].astype(basis.dtype)
        rest = _reflect(basis, xp.concatenate([sign * root * (upper - lower), across], axis=2))
        turned = xp.concatenate([root * (upper + lower), rest], axis=2)
        return turned.reshape(len(turned), *x.shape[1:])

    def for_clarabel(self, clarabel: ModuleType) -> list[Any]:
        return [clarabel.SecondOrderConeT(self.dim)] * self.count


def _reflect(axis: Array, x: Array) -> Array:
    """A symmetric orthogonal map that exchanges e₁ and ∓axis; x is (..., dim − 1, columns)."""
    xp = namespace(axis, x)
    sign = xp.where(axis[..., :1] < 0, -1.0, 1.0).astype(axis.dtype)
    mirror = xp.concatenate([axis[..., :1] + sign, axis[..., 1:]], axis=-1)
    mirror = mirror / xp.linalg.norm(mirror, axis=-1, keepdims=True)
    along = xp.sum(mirror[..., None] * x, axis=-2, keepdims=True)
    return x - 2 * along * mirror[..., None]


class SecondOrderConstraint(TwoEnds):
    """The whole cone."""

    def eigenvalues(self, v: np.ndarray) -> np.ndarray:
        own = v[self.rows]
        length = float(np.linalg.norm(own[1:]))
        return np.array([own[0] + length, own[0] - length])

    def limit(
        self,
        T: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        moved: np.ndarray,
        rotated: np.ndarray,
    ) -> Limit:
        own, choice = self.rows, (high > low)[self.rows]
        if choice.all():
            return Limit(moved[own], moved[own][0], moved[own], _support)
        first = T[own.start, own]
        span = rotated[own][choice] * np.sign(first[choice])  # inward
        stuck = rotated[own][(np.abs(first) < 0.5) & (high[own] == 0)]
        return Limit(span, span[0], stuck, half_line)


def _support(h: np.ndarray, span: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(h[1:]))
    axis = h[1:] / length if length > 0 else np.zeros(len(h) - 1)
    return span[0] - axis @ span[1:]


def _constraint(number: int, dim: int, start: int) -> Constraint:
    own = "second-order cone", number, dim, slice(start, start + dim)
    return SecondOrderConstraint(*own) if dim > 1 else Constraint(*own)


SECOND_ORDER = Sized(
    blocks=lambda dims: side_by_side(SecondOrderBlock, dims),
    member=lambda cone: cone.length if type(cone) is SecondOrder else None,
    constraints=lambda dims: one_by_one(_constraint, dims),
    scs="q",
    cvxpy="soc",
)
