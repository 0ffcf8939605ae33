"""A root proved: it exists, it is the only one near by, and its equations are invertible around it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..calculus.enclosures import intervals as iv
from ..calculus.enclosures.intervals import Interval
from ..calculus.enclosures.of_programs import IntervalProgram
from ..errors import DiscontinuousError, InvalidInputError
from ..invertibility import Verdict
from .residual import require_root

_ROUNDS = 12
_GROWTH = (8.0, 2.0)
_LARGEST = 2000  # numbers in args beyond which no Lipschitz bound is computed
_SLACK = 1 + 16 * iv.UNIT  # more than the few roundings of a scalar bound


@dataclass(frozen=True)
class Enclosure:
    """What was proved about a root of F(·, *args), over the reals; None where nothing was.

    Attributes:
        verdict: PROVEN, or UNKNOWN: no statement about a root follows then.
        reason: one sentence why.
        center: the solution, flat (n,), refined in float64.
        radius: F has exactly one root within this ∞-distance of ``center``, and every matrix in an
            enclosure of its generalised Jacobian there is invertible.
        error: that root lies within this ∞-distance of the solution handed over.
        lower, upper: a box (n,) that holds the root.
        margin: every such matrix has σ_min at least this large.
        lipschitz: a bound (2-norm) on every generalised derivative of the root in ``args`` at their
            present values: the root's local Lipschitz modulus there.
    """

    verdict: Verdict
    reason: str
    center: np.ndarray
    radius: float | None = None
    error: float | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    margin: float | None = None
    lipschitz: float | None = None


@dataclass(frozen=True)
class _Step:
    """Krawczyk's test on a ball: C bounds |I − R J| entry by entry, b bounds |R F(center)|."""

    R: np.ndarray
    C: np.ndarray
    b: np.ndarray

    def passes(self, rho: float) -> bool:
        reach = iv.add(iv.point(self.b), iv.multiply(iv.point(_row_sums(self.C)), iv.point(rho)))
        return bool(np.all(reach.hi < rho))

    @property
    def contraction(self) -> float:
        return float(np.max(_row_sums(self.C)))


def prove_root(
    optimality_fun: Callable[..., Any],
    sol: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> Enclosure:
    """Prove that F(·, *args) has exactly one root near ``sol``, and that F is invertible around it.

    On the box X = [x − ρ, x + ρ], with J(X) an enclosure of the generalised Jacobian (all selections
    at all kinks that X meets) and R an approximate inverse, Krawczyk's operator
    K(X) = x − R F(x) + (I − R J(X)) (X − x) maps X into its own interior. Then one root lies in X,
    in K(X), and every matrix in J(X) is invertible: Corollary 1 of the paper as a proof by computer.

    The theorem is about the function over the reals that the traced program denotes: the constants of
    its float32 or float64 as they are, arithmetic exact, ``args`` exact.

    Args:
        optimality_fun: F(sol, *args), a pytree with as many numbers as ``sol``.
        sol: the computed root; args: a sequence of its parameters, kwargs: those by name.

    Returns:
        An Enclosure: PROVEN, or UNKNOWN with the reason (the enclosure over the smallest useful ball
        holds a singular matrix, an undecided jump, an undefined value).

    Raises:
        NotARootError, InvalidInputError: as ``check``.
        UnsupportedOperationError: an operation without an interval rule, by name and place.
        ImportError: exp, tanh and the like without python-flint.

    Source: R. Krawczyk (1969); S. M. Rump, *Verification methods*, Acta Numerica 19 (2010); Bolte, Le,
    Pauwels, Silveti-Falls (NeurIPS 2021), Corollary 1.

    >>> proof = prove_root(lambda y, a: y * y - a, 1.4142135, (2.0,))
    >>> proof.verdict, bool(proof.lower**2 <= 2 <= proof.upper**2), proof.error < 1e-7
    (<Verdict.PROVEN: 1>, True, True)
    """
    require_root(optimality_fun, sol, args, kwargs)
    equations = _Equations(optimality_fun, sol, args, kwargs)
    start = equations.start
    if start.size == 0:
        raise InvalidInputError("sol holds no numbers, so there is no root to prove.")
    try:
        return equations.prove()
    except DiscontinuousError as error:
        return Enclosure(Verdict.UNKNOWN, f"no proof: {error}", start)


class _Equations:
    """F on boxes of unknowns (flat), and the proof."""

    def __init__(
        self,
        fun: Callable[..., Any],
        sol: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
    ) -> None:
        self.program = IntervalProgram(fun, (sol, *args), kwargs)
        leaves = jax.tree.leaves(sol)
        self.shapes = [np.shape(leaf) for leaf in leaves]
        self.parts = np.cumsum([math.prod(s) for s in self.shapes])[:-1]
        flat = [np.ravel(np.asarray(leaf, dtype=np.float64)) for leaf in leaves]
        self.start = np.concatenate(flat)

    def boxes(self, X: Interval) -> dict[int, Interval]:
        ends = [np.split(end, self.parts) for end in X]
        return {
            i: Interval(lo.reshape(shape), hi.reshape(shape))
            for i, (lo, hi, shape) in enumerate(zip(*ends, self.shapes, strict=True))
        }

    def value(self, x: np.ndarray) -> Interval:
        return self.program(self.boxes(Interval(x, x)), derivative=False)[0]

    def step(self, x: np.ndarray, rho: float) -> _Step | None:
        """Krawczyk's test on the ball; None where it is undefined or has no approximate inverse."""
        return self.bounded(self.program(self.boxes(_ball(x, rho)))[1], self.value(x))

    def bounded(self, J: Interval, value: Interval) -> _Step | None:
        if not (_finite(J) and _finite(value)):
            return None
        try:
            R = np.linalg.inv(J.lo / 2 + J.hi / 2)
        except np.linalg.LinAlgError:
            return None
        if not np.all(np.isfinite(R)):
            return None
        C = iv.subtract(iv.point(np.eye(len(R))), iv.matmul(iv.point(R), J)).magnitude
        b = iv.matmul(iv.point(R), value.map(lambda v: v[:, None])).magnitude[:, 0]
        return _Step(R, C, b) if np.all(np.isfinite(C)) else None

    def refined(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Newton steps in float64 while they help; the point, and the size of its last correction."""
        kept, best = x, math.inf
        for _ in range(_ROUNDS):
            step = self.step(x, _spacing(x))
            if step is None or not np.max(step.b) < best:
                break
            kept, best = x, float(np.max(step.b))
            value = self.value(x)
            x = x - step.R @ (value.lo / 2 + value.hi / 2)
        return kept, best if best < math.inf else 0.0

    def prove(self) -> Enclosure:
        center, correction = self.refined(self.start)
        rho = 2 * correction + _spacing(center)
        for _ in range(_ROUNDS):
            step = self.step(center, rho)
            if step is None:
                return self.unknown(
                    center,
                    rho,
                    "F or its slopes are not finite there, or the middle one is singular",
                )
            if step.passes(rho):
                return self.proved(center, rho, step)
            if step.contraction >= 1:
                return self.unknown(
                    center,
                    rho,
                    f"its enclosure may hold a singular matrix (‖I − RJ‖ = {step.contraction:.2g}, below 1 is "
                    "needed)",
                )
            rho = 1.5 * max(rho, float(np.max(step.b)) / (1 - step.contraction))
        return self.unknown(center, rho, "no ball was mapped into itself")

    def unknown(self, center: np.ndarray, rho: float, why: str) -> Enclosure:
        return Enclosure(
            Verdict.UNKNOWN,
            f"no proof on the ball of radius {rho:.2g} around the solution: {why}. A more accurate "
            "solution makes the ball smaller; at a kink whose slopes truly balance nothing helps.",
            center,
        )

    def proved(self, center: np.ndarray, rho: float, step: _Step) -> Enclosure:
        box = self.tightened(center, rho, step)
        lipschitz = self.lipschitz(box)
        for factor in _GROWTH:
            while (wider := self.widened(center, rho * factor)) is not None:
                rho, step = rho * factor, wider
        # the root is in the box, and the ball needs both: distances are rounded up
        distance = iv.subtract(box, iv.point(self.start)).magnitude
        radius = math.nextafter(rho, 0.0)
        return Enclosure(
            Verdict.PROVEN,
            f"exactly one root lies within {radius:.3g} of the refined solution, and the derivative of F is "
            "invertible, whatever the slopes at the kinks, throughout that ball.",
            center,
            radius,
            float(np.max(distance)),
            box.lo,
            box.hi,
            _margin(step),
            lipschitz,
        )

    def widened(self, center: np.ndarray, rho: float) -> _Step | None:
        """The test on a larger ball, if it passes with a contraction of at most one half."""
        if not rho < 1e100:
            return None
        try:
            step = self.step(center, rho)
        except DiscontinuousError:
            return None
        return step if step and step.contraction <= 0.5 and step.passes(rho) else None

    def tightened(self, x: np.ndarray, rho: float, step: _Step) -> Interval:
        """Krawczyk's operator again and again, each time on the intersection, with the slopes of the first."""
        box = _ball(x, rho)
        for _ in range(_ROUNDS):
            middle = box.lo / 2 + box.hi / 2
            value = self.value(middle)
            newton = iv.matmul(iv.point(step.R), value.map(lambda v: v[:, None])).map(
                lambda v: v[:, 0]
            )
            reach = iv.subtract(box, iv.point(middle)).magnitude
            spread = iv.matmul(iv.point(step.C), iv.point(reach[:, None])).hi[:, 0]
            image = iv.add(iv.subtract(iv.point(middle), newton), Interval(-spread, spread))
            smaller = Interval(np.maximum(box.lo, image.lo), np.minimum(box.hi, image.hi))
            if not np.max(smaller.hi - smaller.lo) < 0.9 * np.max(box.hi - box.lo):
                return smaller if np.all(smaller.lo <= smaller.hi) else box
            box = smaller
        return box

    def lipschitz(self, box: Interval) -> float | None:
        """‖J⁻¹A‖₂ ≤ ‖R A‖ / (1 − ‖I − R J‖) over the box and a small neighbourhood of args."""
        boxes, n = self.boxes(box), self.start.size
        for i, leaf in enumerate(self.program.leaves):
            if i >= len(self.shapes) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                a = np.asarray(leaf, dtype=np.float64)
                boxes[i] = iv.around(a, a, 8 * iv.UNIT * np.abs(a) + 1e-100)
        if not n < sum(b.lo.size for b in boxes.values()) <= n + _LARGEST:
            return None
        try:
            value, J = self.program(boxes)
        except DiscontinuousError:
            return None
        step = self.bounded(J.map(lambda v: v[:, :n]), value)
        A = J.map(lambda v: v[:, n:])
        if step is None or not _finite(A):
            return None
        RA = iv.matmul(iv.point(step.R), A).magnitude
        bounds = [math.inf]
        if (two := _two_norm(step.C)) < 1:
            bounds.append(_two_norm(RA) / (1 - two) * _SLACK)
        if step.contraction < 1:
            rows = float(np.max(_row_sums(RA), initial=0.0))
            bounds.append(math.sqrt(n) * rows / (1 - step.contraction) * _SLACK)
        return min(bounds) if min(bounds) < math.inf else None


def _finite(x: Interval) -> bool:
    return bool(np.all(np.isfinite(x.lo)) and np.all(np.isfinite(x.hi)))


def _ball(x: np.ndarray, rho: float) -> Interval:
    """The box x ± ρ, rounded outward."""
    return iv.add(iv.point(x), Interval(np.array(-rho), np.array(rho)))


def _spacing(x: np.ndarray) -> float:
    """A few units in the last place of the largest entry."""
    return float(16 * iv.UNIT * np.max(np.abs(x), initial=0.0)) + 1e-30


def _row_sums(C: np.ndarray) -> np.ndarray:
    return iv.total(iv.point(C), 1).hi


def _two_norm(C: np.ndarray) -> float:
    """A bound on ‖M‖₂ for all |M| ≤ C: √(‖C‖₁ ‖C‖_∞), rounded up."""
    rows = float(np.max(_row_sums(C), initial=0.0))
    columns = float(np.max(_row_sums(C.T), initial=0.0))
    return math.sqrt(rows * columns) * _SLACK


def _margin(step: _Step) -> float:
    """σ_min(J) ≥ (1 − ‖I − R J‖) / ‖R‖, in the 2-norm or through the ∞-norm."""
    n = len(step.R)
    gram = iv.matmul(iv.point(step.R.T), iv.point(step.R)).magnitude
    norm = math.sqrt(float(np.max(_row_sums(gram)))) * _SLACK
    rows = float(np.max(_row_sums(np.abs(step.R))))
    two = (1 - _two_norm(step.C)) / norm
    infinity = (1 - step.contraction) / (math.sqrt(n) * rows)
    return max(two, infinity) / _SLACK
