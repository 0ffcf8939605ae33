"""Search for the penalties with the least held-out error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..invertibility import Verdict
from .certificate import SparseReport
from .cross_validation import CrossValidation, Judged
from .fold_paths import FoldPath, best_on_paths, exact_stretches
from .shared_folds import SharedFolds
from .shortest import leave_kink

_RATIO = 2.0  # of neighbours on the coarse path
_WORSE = 2  # coarse points in a row above the best, after which it ends
_REFINED = 5  # evaluations after the coarse path
_AROUND = 1.02  # how far, as a factor, every α is looked at around the best guess, at first
_STRETCH = 1.05  # and at most, before the least point on it is asked for
_FAR = 1.15  # from where on paths start again nearer the guess
_TRIED = 5  # how often, at most
_ENOUGH = 1e-6  # relative gain that is worth another evaluation
_ROUGHLY = 5e-4  # relative error of rough errors
_SHOWN = 100  # penalties at which errors along a whole path are kept


@dataclass(frozen=True)
class SearchCertificate:
    """What is known about the penalty that was chosen.

    Attributes:
        error: the cross-validated error there. searched: (low, high), between which all was looked at.
        certified: (low, high): no α in this interval has a lower error (up to round-off); None where the
            criterion has no pieces to tell by.
        note: what is not certified of all that was to be, and why; and other things worth knowing.
        exact: whether every kink in that interval was found as one. kinks: how many there are.
        slope: d error/d log α at the choice, from the support's derivative; 0 at a smooth minimum.
        regularity: the certificate of the fit on all samples.
    """

    error: float
    searched: tuple[float, float]
    certified: tuple[float, float] | None
    exact: bool
    kinks: int
    slope: float
    regularity: SparseReport | None = None
    note: str = ""

    def __str__(self) -> str:
        low, high = self.certified or self.searched
        kind = "no lower error" if self.certified else "searched"
        regular = self.regularity.verdict if self.regularity is not None else Verdict.UNKNOWN
        return (
            f"error {self.error:.6g}; {kind} for α in [{low:.4g}, {high:.4g}] ({self.kinks} kinks); "
            f"derivative at the fit: {regular}" + (f"; {self.note}" if self.note else "")
        )


Seen = list[tuple[float, Judged]]


@dataclass(frozen=True)
class Found:
    """The best α, what is known about it, and every error on the way: α, and the folds' errors."""

    alpha: float
    certificate: SearchCertificate
    alphas: np.ndarray
    errors: np.ndarray


def search_alpha(
    judge: Callable[[float, float], Judged],
    high: float,
    low: float,
    say: Callable[[str], None] = lambda line: None,
    gaps: tuple[float, float] = (0.0, 0.0),
) -> tuple[Found, Seen]:
    """A coarse path from ``high`` down, then cubics through values and slopes around its best point.

    ``judge`` takes α and a duality gap: of ``gaps``, the first on the coarse path, the second then. Where fits
    are exact it goes on until a cubic promises next to nothing, else one has to do.

    Returns what was found, and what was seen on the way.
    """
    seen: Seen = []

    def look(alpha: float, gap: float) -> Judged:
        judged = judge(alpha, gap)
        seen.append((alpha, judged))
        say(f"α = {alpha:.5g}: error {judged.error:.6g}")
        return judged

    alpha, best, worse = high, np.inf, 0
    while True:
        error = look(alpha, gaps[0]).error
        worse = 0 if error < best else worse + 1
        best = min(best, error)
        if alpha <= low or worse == _WORSE or (worse and _passed(seen)):
            break
        alpha = max(alpha / _RATIO, low)
    searched = (alpha, high)
    for _ in range(1 if gaps[1] else _REFINED):
        guess, promised = _next(seen)
        best = min(judged.error for _, judged in seen)
        if not best - promised > _ENOUGH * abs(best):
            break
        look(guess, gaps[1])
    seen.sort(key=lambda pair: -pair[0])
    alpha, judged = min(seen, key=lambda pair: pair[1].error)
    certificate = SearchCertificate(
        judged.error, searched, None, False, 0, float(np.sum(judged.slopes["alpha"]))
    )
    found = Found(
        alpha, certificate, np.array([a for a, _ in seen]), np.array([j.each for _, j in seen])
    )
    return found, seen


def _passed(seen: Seen) -> bool:
    """Whether a way down that got better before has passed a minimum, and still gets worse."""
    at = int(np.argmin([judged.error for _, judged in seen]))
    return at >= 2 and float(np.sum(seen[-1][1].slopes["alpha"])) < 0


def _next(seen: Seen) -> tuple[float, float]:
    """Where the error is expected to be least, between the best point seen and its neighbour downhill.

    In t = log α; the cubic there and its value.
    """
    seen = sorted(seen, key=lambda pair: pair[0])
    at = int(np.argmin([judged.error for _, judged in seen]))
    alpha, judged = seen[at]
    slope = float(np.sum(judged.slopes["alpha"]))
    other = at - 1 if slope > 0 else at + 1
    if not 0 <= other < len(seen):
        return alpha, judged.error
    pair = sorted([seen[at], seen[other]], key=lambda pair: pair[0])
    (t0, v0, d0), (t1, v1, d1) = (
        (np.log(a), j.error, float(np.sum(j.slopes["alpha"]))) for a, j in pair
    )
    width = t1 - t0
    place, value = _least_of_cubic(v0, v1, width * d0, width * d1)
    return float(np.exp(t0 + width * place)), value


def _least_of_cubic(v0: float, v1: float, d0: float, d1: float) -> tuple[float, float]:
    """The least point in [0.05, 0.95] of the cubic with these values and slopes at 0 and 1, and its value.

    The middle, and a value of −∞, where a slope is not known.
    """
    if not np.isfinite([v0, v1, d0, d1]).all():
        return 0.5, -np.inf
    cubic = np.polynomial.Polynomial([v0, d0, 3 * (v1 - v0) - 2 * d0 - d1, 2 * (v0 - v1) + d0 + d1])
    inner = cubic.deriv().roots()
    inner = inner[np.isreal(inner)].real
    places = np.clip(np.concatenate([inner, [0.5]]), 0.05, 0.95)
    values = cubic(places)
    best = int(np.argmin(values))
    return float(places[best]), float(values[best])


def longest_search(ratio: float) -> int:
    """The most evaluations ``search_alpha`` takes with low = ratio · high."""
    return int(np.ceil(np.log(1 / ratio) / np.log(_RATIO))) + 1 + _REFINED


def certify_alpha(
    judge: CrossValidation | SharedFolds,
    found: Found,
    seen: Seen,
    low: float,
    high: float,
    rho: float = 0.0,
) -> Found:
    """The least error over every α in an interval around the best guess, by the folds' exact paths there.

    The interval grows, within [low, high], until the least point lies inside. Where the search had seen a
    lower error elsewhere, it is that point which is looked around.
    """
    best = _around(judge, found, seen, _next(seen)[0], low, high, rho)
    trust = _ROUGHLY if judge.gaps[0] else 0.0
    if found.certificate.error < best.certificate.error * (1 - trust):
        again = _around(judge, best, [], found.alpha, low, high, rho)
        if again.certificate.error < best.certificate.error:
            return again
    return best


def _around(
    judge: CrossValidation | SharedFolds,
    found: Found,
    seen: Seen,
    guess: float,
    low: float,
    high: float,
    rho: float,
) -> Found:
    """From an α at which the error rises with α, down the paths until it has risen that way too."""
    known: Seen = []
    tried, step = min(guess * _AROUND**2, high), _AROUND
    for _ in range(_TRIED):
        known.append((tried, judge(_at(tried, rho))))
        if known[-1][1].slopes["alpha"] > 0 or tried >= high:
            guess = min(tried, _next([*seen, *known])[0])
            if tried <= _FAR * guess:
                break
            tried = guess * _AROUND
        else:
            tried, step = min(tried * step, high), step**2
    rising = [alpha for alpha, judged in known if judged.slopes["alpha"] > 0]
    top = min(rising, default=known[-1][0])
    if top != known[-1][0]:
        known.append((top, judge(_at(top, rho))))
    bottom, step = max(min(guess, top) / _AROUND, top / _STRETCH, low), _AROUND
    paths = judge.paths(top, rho)
    while True:
        for path in paths:
            path.path.follow(bottom)
        alpha = best_on_paths(paths, bottom, top)[0]
        if alpha > bottom or bottom <= low:
            break
        bottom, step = max(bottom / step, low), step**2
    judge.start([path.path.coefficients_at(alpha) for path in paths])
    return _judged(judge, found, known, paths, (bottom, top), rho)


def certify_path(
    judge: CrossValidation | SharedFolds,
    low: float,
    rho: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """The least error over every α from α_max down to ``low``: a statement about the whole path."""
    paths = judge.paths(np.inf, rho)
    high = max(low, *(path.path.alpha_max for path in paths))
    for path in paths:
        path.path.follow(low)
        say(f"path of {len(path.path.pieces)} pieces")
    shown = np.geomspace(high, low, _SHOWN)
    empty = Found(
        high,
        SearchCertificate(np.inf, (low, high), None, False, 0, 0.0),
        shown,
        np.stack([path.error(shown) for path in paths], axis=1),
    )
    return _judged(judge, empty, [], paths, (low, high), rho)


def _at(alpha: float, rho: float) -> dict[str, np.ndarray]:
    return {"alpha": np.asarray(alpha)} | ({"rho": np.asarray(rho)} if rho else {})


def _judged(
    judge: CrossValidation | SharedFolds,
    found: Found,
    known: Seen,
    paths: Sequence[FoldPath],
    interval: tuple[float, float],
    rho: float,
) -> Found:
    """The best of the least point on the paths and those that are ``known``.

    Where kinks fall together a path may not be exact: then what is certified is the exact stretch with the
    least error of all.
    """
    stretches = exact_stretches(paths, *interval)
    on_each = [(*best_on_paths(paths, *stretch), stretch) for stretch in stretches]
    alpha, _, kinks, certified = min(
        [(a, error, count, stretch) for a, error, count, stretch in on_each],
        key=lambda row: (row[1], -row[0]),
        default=(*best_on_paths(paths, *interval), None),
    )
    note = ""
    if certified != interval:
        tied = sum(not path.path.exact for path in paths)
        note = (
            f"not certified on all of [{interval[0]:.4g}, {interval[1]:.4g}]: kinks of {tied} of "
            f"{len(paths)} folds fall together where columns depend on each other"
        )
        elsewhere = best_on_paths(paths, *interval)[0]
        known = [*known, (elsewhere, judge(_at(elsewhere, rho)))]
    known = [*known, (alpha, judge(_at(alpha, rho)))]
    alpha, judged = min(known, key=lambda pair: (pair[1].error, -pair[0]))
    certificate = SearchCertificate(
        judged.error,
        found.certificate.searched,
        certified,
        certified == interval,
        kinks,
        float(np.sum(judged.slopes["alpha"])),
        note=note,
    )
    alphas = np.concatenate([found.alphas, [a for a, _ in known]])
    order = np.argsort(-alphas, kind="stable")
    errors = np.concatenate([found.errors, [j.each for _, j in known]])
    return Found(alpha, certificate, alphas[order], errors[order])


def most_evaluations(iterations: int) -> int:
    """The budget of ``minimise``."""
    return 2 * iterations + 5


def minimise(
    judge: Callable[[dict[str, np.ndarray]], Judged],
    start: dict[str, np.ndarray],
    bounds: Sequence[tuple[float, float]],
    iterations: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, np.ndarray], Judged, int]:
    """A quasi-Newton search (L-BFGS-B) in the logarithms of the parameters, within bounds.

    Where it stops before its iterations are spent, at a kink perhaps, the shortest gradients go on. Errors are
    taken relative to the one at the start, so that the units of y have no say.

    Returns the best parameters met, their error, and the number of evaluations.
    """
    from scipy.optimize import minimize

    names = list(start)
    shapes = [np.shape(start[name]) for name in names]
    sizes = [int(np.prod(shape)) for shape in shapes]
    best: list[Any] = [np.inf, start, None]
    count, unit = 0, 0.0

    def unpack(x: np.ndarray) -> dict[str, np.ndarray]:
        parts = np.split(np.exp(x), np.cumsum(sizes)[:-1])
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(names, parts, shapes, strict=True)
        }

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count, best, unit
        parameters = unpack(x)
        judged = judge(parameters)
        count += 1
        unit = unit or judged.error or 1.0
        say(f"evaluation {count}: error {judged.error:.6g}")
        if judged.error < best[0]:
            best = [judged.error, parameters, judged]
        slope = np.concatenate([np.ravel(judged.slopes[name]) for name in names])
        return judged.error / unit, slope / unit

    x = np.concatenate([np.log(np.ravel(start[name])) for name in names])
    ended = minimize(
        value,
        x,
        jac=True,
        method="L-BFGS-B",
        bounds=list(bounds),
        options={"maxiter": iterations, "maxfun": most_evaluations(iterations), "ftol": 1e-7},
    )
    if ended.nit < iterations and best[2] is not None:
        at = np.concatenate([np.log(np.ravel(best[1][name])) for name in names])
        slope = np.concatenate([np.ravel(best[2].slopes[name]) for name in names]) / unit
        low, high = np.array(bounds, dtype=float).T
        left = most_evaluations(iterations) - count
        leave_kink(value, at, best[0] / unit, slope, low, high, left)
    return best[1], cast(Judged, best[2]), count
