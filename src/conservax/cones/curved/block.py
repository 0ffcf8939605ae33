"""Cones in ℝ³ that are not symmetric, side by side, and the projection onto their duals.

K and K* change places by Moreau: P_{K*}(v) = v + P_K(−v). With w = −v, p = P_K(w), d = p/‖p‖, the
normal n and t = n × d, the derivative of P_K at w is d dᵀ + t tᵀ/(1 + bend), so that of P_{K*} at v
has the eigenvectors (d, t, n) and the eigenvalues (0, bend/(1 + bend), 1).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from ...arrays.namespace import Array, namespace, transpose
from ..block import Block, Elements
from ..cone import Cone
from ..constraint import TwoEnds
from .found import CurvedCone, Edges, Found
from .located import extremes


class CurvedBlock(Block):
    """``count`` cones K of one kind, or ``dual``: their duals; no symmetric cones, no scaling.

    A kind says where a point lies and where its boundary is smooth, for JAX at one point w (3,) and in
    NumPy at many, w (3, …); ``parameters`` (count,) tell cones of a kind apart, None where nothing does.
    """

    dual: bool

    @property
    def size(self) -> int:
        return 3 * self.count

    @property
    @abstractmethod
    def parameters(self) -> np.ndarray | None: ...

    @abstractmethod
    def primal(self, k: int) -> Cone:
        """The k-th cone, not its dual."""

    @abstractmethod
    def located(self, w: jax.Array, parameter: Any) -> Found: ...

    @abstractmethod
    def located_on_host(self, w: np.ndarray, parameters: Any) -> Found:
        """At points with ‖w‖∞ = 1, or 0."""

    @abstractmethod
    def edges(self, w: Array, limit: Array, parameters: Any) -> Edges: ...

    @abstractmethod
    def onto_primal(self, k: int) -> np.ndarray:
        """A linear map (3, 3) from the dual of the k-th cone onto the cone."""

    def duals(self) -> list[Cone]:
        cones = [self.primal(k) for k in range(self.count)]
        return cones if self.dual else [cone.dual() for cone in cones]

    def elements(self, v: Array, dual: Array, slack: Array) -> Elements:
        xp = namespace(v)
        shape = (len(v), self.count, 3)
        w = v.reshape(shape) if self.dual else -v.reshape(shape)
        dual, slack = (xp.max(t.reshape(shape), axis=-1) for t in (dual, slack))
        near, far = (slack, dual) if self.dual else (dual, slack)
        find = self._on_host if xp is np else self._traced
        T, low, high, known = find(w, near, far)
        if not self.dual:
            low, high = 1 - high, 1 - low
        low, high = (d.reshape(v.shape) for d in (low, high))
        return Elements(T, low, high, xp.all(known, axis=1))

    def _traced(self, w: Array, near: Array, far: Array) -> tuple[Array, Array, Array, Array]:
        """T (batch, count, 3, 3), d_lo, d_hi (batch, count, 3) of P_K, and where they bound the set."""

        def one(w: Array, near: Array, far: Array, parameter: Array | None) -> tuple[Array, ...]:
            found = self.located(w, parameter)
            return extremes(found, lambda limit: self.edges(w, limit, parameter), w, near, far)

        # the exponents are an array, so that many cones compile as quickly as one
        alphas = None if self.parameters is None else jnp.asarray(self.parameters, w.dtype)
        each = jax.vmap(one, (0, 0, 0, None if alphas is None else 0))
        return jax.vmap(each, (0, 0, 0, None))(w, near, far, alphas)

    def _on_host(self, w: np.ndarray, near: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same in NumPy, which compiles nothing: coordinates come first."""
        w, alphas = np.moveaxis(w, -1, 0), self.parameters
        with np.errstate(all="ignore"):
            scale = np.abs(w).max(axis=0)
            scale = np.where(scale > 0, scale, 1.0)
            found = self.located_on_host(w / scale, alphas)
            found = found._replace(point=found.point * scale, margin=found.margin * scale)
            T, *ends, known = extremes(
                found, lambda limit: self.edges(w, limit, alphas), w, near, far
            )
        return np.moveaxis(T, (0, 1), (-2, -1)), *(np.moveaxis(d, 0, -1) for d in ends), known

    def rotate(self, basis: Array, x: Array) -> Array:
        parts = x.reshape(len(x), self.count, 3, x.shape[-1])
        turned = transpose(basis) @ parts
        return turned.reshape(len(turned), *x.shape[1:])

    def unrotate(self, basis: Array, x: Array) -> Array:
        parts = x.reshape(len(x), self.count, 3, x.shape[-1])
        turned = basis @ parts
        return turned.reshape(len(turned), *x.shape[1:])

    def onto_clarabel(self) -> tuple[Any, Any] | None:
        if not self.dual:
            return None
        R: Any = scipy.sparse.block_diag([self.onto_primal(k) for k in range(self.count)])
        return R, scipy.sparse.csr_matrix(np.linalg.inv(R.toarray()))


Turn = Callable[[jax.Array, float, bool], jax.Array]


@dataclass(frozen=True)
class CurvedConstraint(TwoEnds):
    """One such cone, or its ``dual``.

    ``cone``: K; ``turning``: of w, error and ray, a bound on the change of the normal of K, or of its
    ray, within that error of a kink at w.
    """

    cone: CurvedCone
    dual: bool
    turning: Turn

    def eigenvalues(self, v: np.ndarray) -> np.ndarray:
        """The distance to the nearest kink stands for two of opposite sign, of which these cones have none.

        It is never more than ‖y‖ and ‖s‖, those of normal and ray.
        """
        distance = float(self.cone.locate(self._of_primal(v)).margin)
        return distance * np.array([1.0, -1.0])

    def turn(self, v: np.ndarray, error: float, ray: bool) -> float:
        return float(self.turning(self._of_primal(v), error, ray))

    def _of_primal(self, v: np.ndarray) -> jax.Array:
        own = v[self.rows]
        return jnp.asarray(own if self.dual else -own)
