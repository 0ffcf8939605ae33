"""Goldstein certificates: true gradients near x with a short combination."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..numerics import machine_epsilon
from .oracle import Oracle, smooth_at
from .simplex import shortest

_PROGRESS = 0.25  # of the decrease δ‖g‖ that a step along −g should bring
_HALVINGS = 60
_BESIDE = 1e-3


@dataclass(frozen=True)
class GoldsteinCertificate:
    """x is (δ, ε)-Goldstein critical: 0 lies within ε of conv ⋃_{‖y − x‖ ≤ δ} ∂ᶜf(y).

    The proof is at hand: points y_i (k, n) with ‖y_i − x‖ ≤ ``delta`` where no kink of the program is
    active, so that AD's ``gradients`` (k, n) are those of f, and ``weights`` λ (k,), λ ≥ 0, Σλ = 1,
    with ‖Σ λ_i ∇f(y_i)‖ + rounding ≤ ``epsilon``. ``values`` (k,) are f(y_i), ``value`` is f(x);
    points are flat, in the order of ``jax.flatten_util.ravel_pytree``.

    The rounding margin covers the sum over i and one unit in the last place times n of each gradient;
    gradients are taken as AD computes them. A certified point may be far from a minimiser, where f
    is flat or not convex: look at f, too.

    Source: Goldstein, Optimization of Lipschitz continuous functions (Math. Program. 1977).
    """

    x: np.ndarray
    value: float
    points: np.ndarray
    values: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray
    delta: float
    epsilon: float
    fun: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False, default=())
    like: Any = field(repr=False, default=None)

    def recheck(self) -> bool:
        """Verify the certificate from its points and ``fun`` alone.

        The points lie in the ball and on no active kink, the weights are convex, the gradients are
        recomputed, and their combination is at most ``epsilon``.
        """
        flat, unravel = ravel_pytree(self.like)
        dtype, n = flat.dtype, len(self.x)
        far = np.linalg.norm(self.points - self.x, axis=1)
        slack = 1 + 4 * n * machine_epsilon(dtype)
        convex = np.all(self.weights >= 0) and abs(float(np.sum(self.weights)) - 1) <= 1e-12
        if not (convex and np.all(far <= self.delta * slack)):
            return False
        gradient = jax.grad(lambda y: self.fun(unravel(y), *self.args))
        again = []
        for y in self.points:
            at = jnp.asarray(y, dtype)
            if not smooth_at(self.fun, unravel(at), self.args):
                return False
            again.append(np.asarray(gradient(at), np.float64))
        return bool(combined(np.array(again), self.weights, dtype) <= self.epsilon)

    def gap(self, radius: float) -> float:
        """For convex f: a bound of f(x) − min f over the ball B(x, ``radius``), e + R‖g‖.

        g = Σ λ_i ∇f(y_i) and e = f(x) − Σ λ_i (f(y_i) + ∇f(y_i)ᵀ(x − y_i)): f(z) ≥ f(x) + gᵀ(z − x) − e.
        """
        models = self.values + np.sum(self.gradients * (self.x - self.points), axis=1)
        error = self.value - float(self.weights @ models)
        return max(error, 0.0) + radius * float(np.linalg.norm(self.weights @ self.gradients))


def combined(gradients: np.ndarray, weights: np.ndarray, dtype: Any) -> float:
    """‖Σ λ_i g_i‖ with a margin for rounding."""
    k, n = gradients.shape
    size = float(weights @ np.linalg.norm(gradients, axis=1))
    margin = (n * machine_epsilon(dtype) + (k + n) * machine_epsilon(np.float64)) * size
    return float(np.linalg.norm(weights @ gradients)) + margin


@np.errstate(over="ignore", invalid="ignore")  # far out on a flat tail squares overflow
def certify(
    oracle: Oracle,
    x: np.ndarray,
    f: float,
    delta: float,
    epsilon: float,
    rng: np.random.Generator,
    walks: int | None = None,
) -> tuple[GoldsteinCertificate | None, np.ndarray, float]:
    """A certificate at x, or at a point below it that the search walks to; (certificate or None, x, f).

    First from what was evaluated nearby, then one gradient at a time: with g the shortest
    combination so far, either f falls by a quarter of δ‖g‖ along −g, and the search moves there, or
    somewhere on that segment there is a gradient whose product with g is at most half ‖g‖², and it
    joins. None where the oracle's budget ends first, which proves nothing, or after ``walks`` moves: x
    is then far from critical, and a method goes down in fewer evaluations than steps of δ.

    Source: Goldstein (1977); Zhang, Lin, Jegelka, Sra, Jadbabaie, Complexity of finding stationary
    points of nonsmooth nonconvex functions (ICML 2020); Mahdavi-Amiri, Yousefpour, An effective
    nonsmooth optimization algorithm for locally Lipschitz functions (JOTA 2012).
    """
    for _ in itertools.count() if walks is None else range(walks):
        moved = _grow(oracle, x, f, delta, epsilon, rng)
        if isinstance(moved, GoldsteinCertificate):
            return moved, x, f
        if moved is None:
            break
        x, f = moved
    return None, x, f


def _grow(
    oracle: Oracle, x: np.ndarray, f: float, delta: float, epsilon: float, rng: np.random.Generator
) -> GoldsteinCertificate | tuple[np.ndarray, float] | None:
    inner = delta * (1 - 1e-6)
    known = _nearby(oracle, x, inner, 2 * oracle.n + 20)
    smooth: dict[int, bool] = {}
    weights: np.ndarray | None = None
    while True:
        if known:
            points, values, gradients = _evaluated(oracle, known)
            start = (
                None if weights is None else np.append(weights, np.zeros(len(known) - len(weights)))
            )
            weights = shortest(gradients, start)
            g = weights @ gradients
            length = combined(gradients, weights, oracle.dtype)
            if length <= epsilon:
                used = [i for i, w in zip(known, weights, strict=True) if w > 0]
                for i in used:
                    if i not in smooth:
                        smooth[i] = oracle.is_smooth_at(oracle.points[i])
                if all(smooth[i] for i in used):
                    kept = weights > 0
                    return GoldsteinCertificate(
                        x, f, points[kept], values[kept], gradients[kept],
                        weights[kept] / np.sum(weights[kept]), delta, epsilon,
                        oracle.fun, oracle.args, oracle.x0,
                    )  # fmt: skip
                known = [i for i in known if smooth.get(i, True)]
                weights = None
                continue
            norm = float(np.linalg.norm(g))
            if norm == 0:  # only the rounding margin is in the way
                return None
        else:  # nothing yet: a point nearby
            if oracle.left <= 0:
                return None
            known = [_draw(oracle, x, inner, rng)]
            continue
        if oracle.left <= 0:
            return None
        # beside x, so that the segment lies on no kink that x lies on
        beside = x + _BESIDE * inner * in_ball(rng, 1, len(x))[0]
        y = beside - (1 - _BESIDE) * inner * g / norm
        f_y, g_y = oracle(y)
        if f_y < f - _PROGRESS * inner * norm:
            return y, f_y
        if oracle.left <= 0:
            return None
        f_beside, _ = oracle(beside)
        if float(g_y @ g) <= 0.5 * norm**2 and oracle.is_smooth_at(y):
            known.append(oracle.count - 2)
        else:
            known.append(_on_segment(oracle, beside, f_beside, y, f_y, g, norm, rng))


def _on_segment(
    oracle: Oracle,
    x: np.ndarray,
    f: float,
    y: np.ndarray,
    f_y: float,
    g: np.ndarray,
    norm: float,
    rng: np.random.Generator,
) -> int:
    """The number of an evaluation on [x, y] with ⟨∇f, g⟩ ≤ ½‖g‖², by bisection on the decrease."""
    low, high, f_low, f_high = 0.0, 1.0, f, f_y
    index = oracle.count - 1
    for _ in range(_HALVINGS):
        if oracle.left <= 0:
            break
        middle = low + (high - low) * (0.5 + 0.1 * (rng.random() - 0.5))
        f_middle, slope = oracle(x + middle * (y - x))
        index = oracle.count - 1
        if float(slope @ g) <= 0.5 * norm**2 and oracle.is_smooth_at(oracle.points[index]):
            break
        # the half where f falls less holds such a gradient
        if (f_low - f_middle) * (high - middle) > (f_middle - f_high) * (middle - low):
            low, f_low = middle, f_middle
        else:
            high, f_high = middle, f_middle
    return index


def _nearby(oracle: Oracle, x: np.ndarray, radius: float, most: int) -> list[int]:
    """The last evaluations within the radius."""
    recent = range(max(0, oracle.count - 8 * most), oracle.count)
    if not recent:
        return []
    far = np.linalg.norm(np.array([oracle.points[i] for i in recent]) - x, axis=1)
    near = [
        i for i, d in zip(recent, far, strict=True) if d <= radius and np.isfinite(oracle.values[i])
    ]
    return near[-most:]


def _evaluated(oracle: Oracle, known: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([oracle.points[i] for i in known]),
        np.array([oracle.values[i] for i in known]),
        np.array([oracle.gradients[i] for i in known]),
    )


def _draw(oracle: Oracle, x: np.ndarray, radius: float, rng: np.random.Generator) -> int:
    """An evaluation at a random point of the ball."""
    oracle(x + in_ball(rng, 1, len(x))[0] * radius)
    return oracle.count - 1


def in_ball(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    """Uniform points of the unit ball, (count, n)."""
    normal = rng.normal(size=(count, n))
    return normal * (
        rng.random((count, 1)) ** (1 / n) / np.linalg.norm(normal, axis=1, keepdims=True)
    )
