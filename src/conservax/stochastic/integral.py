"""``expected``: the mean of a function over a distribution, and its derivative by the integral rule.

The derivative of w ↦ E[f(w, ξ)] may be taken under the expectation: if D(·, ξ) is conservative for
f(·, ξ), then E[D(·, ξ)] is conservative for the mean (Bolte, Le, Pauwels 2022, Theorem 3.10). For
Clarke's subdifferential that fails: s|w| with s = ±1 in equal parts has the mean 0, and the mean of
its Clarke sets at 0 is [−1, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..calculus import ConservativeJacobian, conservative_jacobian
from ..calculus.cuts.point import require_finite
from ..calculus.sets.hull import nearest_point
from ..calculus.tracing.flattening import without_duplicates
from ..errors import InvalidInputError, TooManyKinksError

__all__ = ["Expectation", "ExpectedJacobian", "Finite", "expected", "finite"]

_MOST = 1 << 16  # sums of vertices, as of one set


@dataclass(frozen=True, eq=False)
class Finite:
    """A distribution on N points: ``points`` with a leading axis of N in every leaf, ``weights`` (N,)."""

    points: Any
    weights: np.ndarray = field(repr=False)

    @property
    def size(self) -> int:
        """The number of points."""
        return int(self.weights.size)

    def at(self, i: int) -> Any:
        """Point i."""
        return jax.tree.map(lambda leaf: leaf[i], self.points)


def finite(points: Any, weights: Any = None) -> Finite:
    """A distribution on finitely many points, Σ p_i δ_{ξ_i}.

    Args:
        points: a pytree of arrays, each with a leading axis of length N: a data set, say.
        weights: p (N,), non-negative, of sum 1; equal by default.

    Returns:
        A Finite. Raises InvalidInputError for weights that are no distribution, for points that hold NaN or
        infinity, and for leaves whose leading axes differ.

    >>> finite(jnp.arange(3.0)).weights.round(4).tolist()
    [0.3333, 0.3333, 0.3333]
    """
    leaves = jax.tree.leaves(points)
    if not leaves:
        raise InvalidInputError("points holds no arrays: a distribution needs at least one point.")
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if () in lengths or len(lengths) > 1 or 0 in next(iter(lengths)):
        raise InvalidInputError(
            f"the leaves of points have the shapes {[np.shape(leaf) for leaf in leaves]}: they need one "
            "leading axis of the same length, the number of points, at least 1."
        )
    (n,) = next(iter(lengths))
    p = np.full(n, 1 / n) if weights is None else np.asarray(weights, np.float64)
    if p.shape != (n,):
        raise InvalidInputError(
            f"weights has shape {p.shape}, but there are {n} points: pass ({n},)."
        )
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        require_finite([("points", points)])
    # round-off of a float32 sum, at most
    if not np.all(p >= 0) or not abs(float(p.sum()) - 1) <= 1e-6 * math.sqrt(n):
        raise InvalidInputError(
            f"weights must be non-negative and sum to 1; they lie in [{p.min():.3g}, {p.max():.3g}] and sum "
            f"to {p.sum():.6g}. Divide them by their sum."
        )
    return Finite(jax.tree.map(jnp.asarray, points), p)


class Expectation:
    """The function w ↦ E[f(w, ξ)].

    Attributes: ``fun``; ``distribution``: a Finite, or the function that draws from a key.
    """

    def __init__(self, fun: Callable[[Any, Any], Any], distribution: Any) -> None:
        self.fun = fun
        self.distribution = distribution

    @property
    def exact(self) -> bool:
        """Whether the distribution is finite, so that the mean is a sum."""
        return isinstance(self.distribution, Finite)

    def __call__(self, w: Any, key: jax.Array | None = None, samples: int | None = None) -> Any:
        """E[f(w, ξ)]: the sum over a finite distribution, else the mean of ``samples`` draws by ``key``.

        Differentiable as it stands; the derivative of the mean of draws is the mean of derivatives,
        an unbiased estimate of an element of E[D(w, ξ)].

        Raises InvalidInputError where key and samples are missing, or given without need.
        """
        if isinstance(self.distribution, Finite):
            if key is not None or samples is not None:
                raise InvalidInputError(
                    "the distribution is finite, so that the mean is exact: leave out key and samples."
                )
            values = jax.vmap(self.fun, in_axes=(None, 0))(w, self.distribution.points)
            weights = self.distribution.weights
            return jax.tree.map(
                lambda v: jnp.tensordot(jnp.asarray(weights, v.dtype), v, axes=1), values
            )
        if key is None or samples is None:
            raise InvalidInputError(
                "the distribution is sampled: call with key and samples, as in mean(w, key=key, samples=100)."
            )
        if not (isinstance(samples, int) and samples >= 1):
            raise InvalidInputError(f"samples={samples!r} must be a positive integer.")
        draws = jax.vmap(self.distribution)(jax.random.split(key, samples))
        values = jax.vmap(self.fun, in_axes=(None, 0))(w, draws)
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)

    def jacobian(self, w: Any) -> "ExpectedJacobian":
        """The set E[D(w, ξ)] = Σ p_i D(w, ξ_i), a Minkowski average of the sets of the points.

        Finite distributions only: InvalidInputError for others.

        >>> import jax.numpy as jnp, conservax as cx
        >>> mean = cx.stochastic.expected(
        ...     lambda w, s: s * jnp.abs(w), cx.stochastic.finite(jnp.array([-1.0, 1.0]))
        ... )
        >>> mean(0.5).item(), sorted(mean.jacobian(0.0).vertices().ravel().tolist())
        (0.0, [-1.0, 0.0, 1.0])
        """
        if not isinstance(self.distribution, Finite):
            raise InvalidInputError(
                "the set of an expectation is computed for finite distributions; draw a few points and pass "
                "them as cx.stochastic.finite(points)."
            )
        at = conservative_jacobian(self.fun)
        chosen = np.flatnonzero(self.distribution.weights > 0)
        parts = [at(w, self.distribution.at(int(i))) for i in chosen]
        return ExpectedJacobian(tuple(parts), self.distribution.weights[chosen])


def expected(fun: Callable[[Any, Any], Any], distribution: Any) -> Expectation:
    """The mean w ↦ E[f(w, ξ)] of a function over a distribution, differentiable by the integral rule.

    Args:
        fun: f(w, ξ) of pytrees; returns arrays (a pytree).
        distribution: ``cx.stochastic.finite(points, weights)``, or a function that draws one ξ from a
            JAX key.

    Returns:
        An Expectation: call it with w (and key, samples); ``.jacobian(w)`` is the set.

    Raises:
        InvalidInputError: the distribution is neither.

    Source: Bolte, Le, Pauwels, Subgradient sampling for nonsmooth nonconvex minimization (SIAM J.
    Optim. 2023), Theorem 3.10.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> mean = cx.stochastic.expected(lambda w, x: jnp.abs(w - x), jax.random.normal)
    >>> slope = jax.grad(lambda w: mean(w, key=jax.random.key(0), samples=1000))(0.0)
    >>> bool(jnp.abs(slope) < 0.2)
    True
    """
    if not isinstance(distribution, Finite) and not callable(distribution):
        raise InvalidInputError(
            f"distribution={distribution!r} is neither cx.stochastic.finite(points, weights) nor a function "
            "that draws from a key."
        )
    return Expectation(fun, distribution)


@dataclass(frozen=True)
class ExpectedJacobian:
    """Σ p_i D_i: all sums of elements, one of each set, independently.

    Attributes: ``parts``: the sets D_i; ``weights``: p_i > 0.
    """

    parts: tuple[ConservativeJacobian, ...]
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), in flattened coordinates."""
        return self.parts[0].shape

    @property
    def kinks(self) -> tuple[Any, ...]:
        """The active kinks of all points."""
        return tuple(kink for part in self.parts for kink in part.kinks)

    def _sum(self, values: Sequence[Any]) -> Any:
        return sum(p * np.asarray(v) for p, v in zip(self.weights, values, strict=True))

    def element(self, selection: str = "jax") -> np.ndarray:
        """The mean of the elements that a named selection takes, (m, n)."""
        return self._sum([part.element(selection) for part in self.parts])

    def vertices(self) -> np.ndarray:
        """All sums of vertices, without duplicates, (V, m, n); their hull is the set's.

        Raises TooManyKinksError beyond 2¹⁶ sums; the rest as ``ConservativeJacobian.vertices``.
        """
        sums = np.zeros((1, *self.shape))
        for p, part in zip(self.weights, self.parts, strict=True):
            own = p * part.vertices()
            if len(sums) * len(own) > _MOST:
                raise TooManyKinksError(
                    f"the mean of {len(self.parts)} sets has more than {_MOST} sums of vertices. Use .bounds, "
                    ".support, .min_norm or .distance, which need none."
                )
            sums = without_duplicates((sums[:, None] + own[None]).reshape(-1, *self.shape))
        return sums

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise bounds, attained, each (m, n): the means of the parts' bounds."""
        low, high = zip(*(part.bounds() for part in self.parts), strict=True)
        return self._sum(low), self._sum(high)

    def support(self, direction: Any) -> float:
        """max ⟨C, J⟩ over the set: the mean of the parts' support functions."""
        return float(self._sum([part.support(direction) for part in self.parts]))

    def nearest(self, matrix: Any) -> np.ndarray:
        """The element of the convex hull nearest to X (m, n), by Wolfe's method; nothing is enumerated."""
        from ..calculus.sets.hull import Hull

        hulls = [Hull.of(part.form) for part in self.parts]
        target = np.asarray(matrix, np.float64)
        if target.shape != self.shape:
            raise InvalidInputError(f"X must have the shape {self.shape}; it has {target.shape}.")

        def support(C: np.ndarray) -> tuple[float, np.ndarray]:
            found = [hull.support(C) for hull in hulls]
            value = sum(p * v for p, (v, _) in zip(self.weights, found, strict=True))
            return float(value), self._sum([point for _, point in found])

        return nearest_point(support, target, support(self.element() - target)[1]).point

    def distance(self, matrix: Any) -> float:
        """min ‖P − X‖ (Frobenius) over P in the convex hull."""
        return float(np.linalg.norm(self.nearest(matrix) - np.asarray(matrix)))

    def min_norm(self) -> np.ndarray:
        """Scalar functions: the shortest element of the convex hull, (n,); −g is a descent direction."""
        if self.shape[0] != 1:
            raise InvalidInputError(
                f"min_norm is for scalar functions; this one has {self.shape[0]} outputs."
            )
        return self.nearest(np.zeros(self.shape))[0]

    def contains(self, matrix: Any, tol: float = 1e-9) -> bool:
        """Whether X lies in the convex hull, up to ``tol``."""
        return self.distance(matrix) <= tol

    def __repr__(self) -> str:
        return f"ExpectedJacobian(shape={self.shape}, points={len(self.parts)}, kinks={len(self.kinks)})"
