"""Search for the penalties with the least held-out error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..invertibility import Verdict
from .certificate import SparseReport
from .cross_validation import CrossValidation, Fold, Judged
from .path import LassoPath, Piece
from .shortest import leave_kink

_RATIO = 2.0  # of neighbours on the coarse path
_WORSE = 2  # coarse points in a row above the best, after which it ends
_HALVINGS = 5
_SHOWN = 100  # penalties at which errors along a whole path are kept


@dataclass(frozen=True)
class SearchCertificate:
    """What is known about the penalty that was chosen.

    Attributes:
        error: the cross-validated error there. searched: (low, high), between which all was looked at.
        certified: (low, high): no α in this interval has a lower error (up to round-off); None where the
            criterion has no pieces to tell by.
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

    def __str__(self) -> str:
        low, high = self.certified or self.searched
        kind = "no lower error" if self.certified else "searched"
        regular = self.regularity.verdict if self.regularity is not None else Verdict.UNKNOWN
        return (
            f"error {self.error:.6g}; {kind} for α in [{low:.4g}, {high:.4g}] ({self.kinks} kinks); "
            f"derivative at the fit: {regular}"
        )


@dataclass(frozen=True)
class Found:
    """The best α, what is known about it, and every error on the way: α, and the folds' errors."""

    alpha: float
    certificate: SearchCertificate
    alphas: np.ndarray
    errors: np.ndarray


def search_alpha(
    judge: Callable[[float], Judged],
    high: float,
    low: float,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Found, float, float]:
    """A coarse path from ``high`` down, then bisection by the sign of the slope around its best point.

    Returns what was found and the bracket (low, high) left around it.
    """
    seen: list[tuple[float, Judged]] = []

    def look(alpha: float) -> Judged:
        judged = judge(alpha)
        seen.append((alpha, judged))
        say(f"α = {alpha:.5g}: error {judged.error:.6g}")
        return judged

    alpha, best, worse = high, np.inf, 0
    while alpha > low and worse < _WORSE:
        error = look(alpha).error
        worse = 0 if error < best else worse + 1
        best = min(best, error)
        alpha = max(alpha / _RATIO, low)
        if alpha == low and worse < _WORSE:
            look(alpha)
    seen.sort(key=lambda pair: -pair[0])
    at = int(np.argmin([judged.error for _, judged in seen]))
    top = seen[max(at - 1, 0)][0]
    bottom = seen[min(at + 1, len(seen) - 1)][0]
    searched = (seen[-1][0], seen[0][0])
    centre, judged = seen[at]
    for _ in range(_HALVINGS):
        if top <= bottom * (1 + 1e-12):
            break
        slope = float(np.sum(judged.slopes["alpha"]))
        if slope > 0:
            top = centre
        else:
            bottom = centre
        if top <= bottom * (1 + 1e-3):
            break
        centre = float(np.sqrt(top * bottom))
        judged = look(centre)
    seen.sort(key=lambda pair: -pair[0])
    at = int(np.argmin([judged.error for _, judged in seen]))
    alpha, judged = seen[at]
    certificate = SearchCertificate(
        judged.error,
        searched,
        None,
        False,
        0,
        float(np.sum(judged.slopes["alpha"])),
    )
    found = Found(
        alpha,
        certificate,
        np.array([a for a, _ in seen]),
        np.array([j.each for _, j in seen]),
    )
    return found, min(bottom, alpha), max(top, alpha)


def longest_search(ratio: float) -> int:
    """The most evaluations ``search_alpha`` takes with low = ratio · high."""
    return int(np.ceil(np.log(1 / ratio) / np.log(_RATIO))) + 1 + _HALVINGS


@dataclass(eq=False)
class FoldPath:
    """The held-out squared error of one fold along its exact path in α, for α ≥ the one reached.

    On a piece β = a − αd it is ‖r + α m‖²/w, r = y − Xa, m = Xd: a parabola in α.
    """

    fold: Fold
    intercept: bool
    rho: float = 0.0
    start: tuple[float, np.ndarray] | None = None

    def __post_init__(self) -> None:
        fold = self.fold
        omega = fold.weight / fold.weight.sum()
        X = fold.X.toarray() if hasattr(fold.X, "toarray") else np.asarray(fold.X, dtype=float)
        self.centre = omega @ X if self.intercept else np.zeros(X.shape[1])
        self.mean = float(omega @ fold.y) if self.intercept else 0.0
        root = np.sqrt(omega)
        start = None
        if self.start is not None:
            start = self.start[0], self.start[1][: X.shape[1]]
        self.path = LassoPath(
            root[:, None] * (X - self.centre), root * (fold.y - self.mean), self.rho, start
        )

    def parabolas(self) -> np.ndarray:
        """Rows (high, low, c₀, c₁, c₂) of Σ w (y − ŷ)² = c₀ + c₁ α + c₂ α² on each piece."""
        fold = self.fold
        X = fold.X_out.toarray() if hasattr(fold.X_out, "toarray") else np.asarray(fold.X_out)
        rows = []
        for piece in self._pieces():
            S = piece.support
            part = X[:, S] - self.centre[S]
            r, m = fold.y_out - self.mean - part @ piece.a, part @ piece.d
            w = fold.weight_out
            rows.append((piece.high, piece.low, w @ r**2, 2 * w @ (r * m), w @ m**2))
        return np.array(rows)

    def error(self, alphas: np.ndarray) -> np.ndarray:
        """The fold's mean squared error at each α."""
        table = self.parabolas()
        at = np.minimum(np.searchsorted(-table[:, 1], -alphas), len(table) - 1)
        c0, c1, c2 = table[at, 2:].T
        return (c0 + alphas * (c1 + alphas * c2)) / self.fold.weight_out.sum()

    def _pieces(self) -> list[Piece]:
        none = np.zeros(0)
        top = Piece(np.inf, self.path.alpha_max, none.astype(np.intp), none, none)
        return [top, *self.path.pieces] if self.start is None else self.path.pieces


def best_on_paths(paths: Sequence[FoldPath], low: float, high: float) -> tuple[float, float, int]:
    """The α in [low, high] with the least total held-out error, that error, and the number of pieces.

    Between the kinks of all folds the error is one parabola, whose least point is an end or its vertex.
    """
    tables = [path.parabolas() for path in paths]
    kinks = np.concatenate([t[:, 1] for t in tables] + [np.array([low, high])])
    kinks = np.unique(np.clip(kinks, low, high))
    if len(kinks) == 1:
        kinks = np.repeat(kinks, 2)
    middle = (kinks[:-1] + kinks[1:]) / 2
    total = np.zeros((len(middle), 3))
    for table in tables:
        at = np.searchsorted(-table[:, 1], -middle)  # the piece that holds it
        total += table[np.minimum(at, len(table) - 1), 2:]
    c0, c1, c2 = total.T
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(c2 > 0, -c1 / (2 * c2), kinks[:-1])
    points = np.stack([kinks[:-1], np.clip(vertex, kinks[:-1], kinks[1:]), kinks[1:]])
    values = c0 + points * (c1 + points * c2)
    i, j = np.unravel_index(int(np.argmin(values)), values.shape)
    weight = sum(float(path.fold.weight_out.sum()) for path in paths)
    return float(points[i, j]), float(values[i, j]) / weight, len(middle)


def certify_alpha(
    judge: CrossValidation, found: Found, low: float, high: float, rho: float = 0.0
) -> Found:
    """The least error over every α in [low, high], by the folds' exact paths there."""
    parameters = {"alpha": np.asarray(high)} | ({"rho": np.asarray(rho)} if rho else {})
    judge(parameters)
    starts = judge.coefficients()
    paths = [
        FoldPath(fold, judge.intercept, rho, (high, start))
        for fold, start in zip(judge.folds, starts, strict=True)
    ]
    for path in paths:
        path.path.follow(low)
    usable = [path for path in paths if path.path.pieces]
    if len(usable) < len(paths):  # above some fold's largest α
        paths = [FoldPath(fold, judge.intercept, rho) for fold in judge.folds]
        for path in paths:
            path.path.follow(low)
    alpha, _, kinks = best_on_paths(paths, low, high)
    exact = all(path.path.exact for path in paths)
    return _better(judge, found, alpha, (low, high), exact, kinks, rho)


def certify_path(
    judge: CrossValidation,
    low: float,
    rho: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """The least error over every α from α_max down to ``low``: a statement about the whole path."""
    paths = [FoldPath(fold, judge.intercept, rho) for fold in judge.folds]
    high = max(path.path.alpha_max for path in paths)
    for path in paths:
        path.path.follow(low)
        say(f"path of {len(path.path.pieces)} pieces")
    alpha, _, kinks = best_on_paths(paths, low, max(high, low))
    exact = all(path.path.exact for path in paths)
    shown = np.geomspace(high, low, _SHOWN)
    empty = Found(
        alpha,
        SearchCertificate(np.inf, (low, high), None, False, 0, 0.0),
        shown,
        np.stack([path.error(shown) for path in paths], axis=1),
    )
    return _better(judge, empty, alpha, (low, max(high, low)), exact, kinks, rho)


def _better(
    judge: CrossValidation,
    found: Found,
    alpha: float,
    interval: tuple[float, float],
    exact: bool,
    kinks: int,
    rho: float,
) -> Found:
    parameters = {"alpha": np.asarray(alpha)} | ({"rho": np.asarray(rho)} if rho else {})
    judged = judge(parameters)
    if judged.error > found.certificate.error:  # a path that was not exact
        alpha = found.alpha
    certificate = SearchCertificate(
        min(judged.error, found.certificate.error),
        found.certificate.searched,
        interval if exact else None,
        exact,
        kinks,
        float(np.sum(judged.slopes["alpha"])),
    )
    alphas = np.concatenate([found.alphas, [alpha]])
    order = np.argsort(-alphas, kind="stable")
    errors = np.concatenate([found.errors, judged.each[None]])
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

    Where it stops before its iterations are spent, at a kink perhaps, the shortest gradients go on.

    Returns the best parameters met, their error, and the number of evaluations.
    """
    from scipy.optimize import minimize

    names = list(start)
    shapes = [np.shape(start[name]) for name in names]
    sizes = [int(np.prod(shape)) for shape in shapes]
    best: list[Any] = [np.inf, start, None]
    count = 0

    def unpack(x: np.ndarray) -> dict[str, np.ndarray]:
        parts = np.split(np.exp(x), np.cumsum(sizes)[:-1])
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(names, parts, shapes, strict=True)
        }

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count, best
        parameters = unpack(x)
        judged = judge(parameters)
        count += 1
        say(f"evaluation {count}: error {judged.error:.6g}")
        if judged.error < best[0]:
            best = [judged.error, parameters, judged]
        slope = np.concatenate([np.ravel(judged.slopes[name]) for name in names])
        return judged.error, slope

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
        slope = np.concatenate([np.ravel(best[2].slopes[name]) for name in names])
        low, high = np.array(bounds, dtype=float).T
        leave_kink(value, at, best[0], slope, low, high, most_evaluations(iterations) - count)
    return best[1], cast(Judged, best[2]), count
