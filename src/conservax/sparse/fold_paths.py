"""The held-out squared error along the folds' exact paths in α, and the best point on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .folds import Fold
from .path import Columns, LassoPath, Piece


@dataclass(eq=False)
class FoldPath:
    """The held-out squared error of one fold along its exact path in α, for α ≥ the one reached.

    On a piece β = a − αd it is ‖r + α m‖²/w, r = y − Xa, m = Xd: a parabola in α. ``columns`` gives the
    held-out samples' columns of a support, centred as those that were fitted; ``y_out`` is centred too.
    """

    path: LassoPath
    columns: Callable[[np.ndarray], np.ndarray]
    y_out: np.ndarray
    weight_out: np.ndarray

    def parabolas(self) -> np.ndarray:
        """Rows (high, low, c₀, c₁, c₂) of Σ w (y − ŷ)² = c₀ + c₁ α + c₂ α² on each piece."""
        rows, pieces = [], self._pieces()
        used = np.unique(np.concatenate([piece.support for piece in pieces]))
        columns = self.columns(used)
        for piece in pieces:
            part = columns[:, np.searchsorted(used, piece.support)]
            r, m = self.y_out - part @ piece.a, part @ piece.d
            w = self.weight_out
            rows.append((piece.high, piece.low, w @ r**2, 2 * w @ (r * m), w @ m**2))
        return np.array(rows)

    def error(self, alphas: np.ndarray) -> np.ndarray:
        """The fold's mean squared error at each α."""
        table = self.parabolas()
        at = np.minimum(np.searchsorted(-table[:, 1], -alphas), len(table) - 1)
        c0, c1, c2 = table[at, 2:].T
        return (c0 + alphas * (c1 + alphas * c2)) / self.weight_out.sum()

    def _pieces(self) -> list[Piece]:
        none = np.zeros(0)
        top = Piece(np.inf, self.path.alpha_max, none.astype(np.intp), none, none)
        return self.path.pieces if self.path.started else [top, *self.path.pieces]


def fold_path(
    fold: Fold,
    intercept: bool,
    rho: float = 0.0,
    start: tuple[float, np.ndarray] | None = None,
) -> FoldPath:
    """The path of a fold that holds its samples itself; ``start``: an α, and the coefficients there."""
    omega = fold.weight / fold.weight.sum()
    X, out = _dense(fold.X), _dense(fold.X_out)
    centre = omega @ X if intercept else np.zeros(X.shape[1])
    mean = float(omega @ fold.y) if intercept else 0.0
    root = np.sqrt(omega)
    columns = Columns(root[:, None] * (X - centre), root * (fold.y - mean))
    below = None if start is None else (start[0], start[1][: X.shape[1]], None)
    return FoldPath(
        LassoPath(columns, rho, below),
        lambda support: out[:, support] - centre[support],
        fold.y_out - mean,
        fold.weight_out,
    )


def _dense(X: Any) -> np.ndarray:
    return X.toarray() if hasattr(X, "toarray") else np.asarray(X, dtype=float)


def best_on_paths(paths: Sequence[FoldPath], low: float, high: float) -> tuple[float, float, int]:
    """The α in [low, high] with the least total held-out error, that error, and the number of pieces.

    Between the kinks of all folds the error is one parabola, whose least point is an end or its vertex. Of
    points that are as good up to rounding it is the largest.
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
    same = values <= values.min() + 8 * np.finfo(float).eps * np.abs(c0).max()
    i, j = np.unravel_index(int(np.argmax(np.where(same, points, -np.inf))), values.shape)
    weight = sum(float(path.weight_out.sum()) for path in paths)
    return float(points[i, j]), float(values[i, j]) / weight, len(middle)


def exact_stretches(
    paths: Sequence[FoldPath], low: float, high: float
) -> list[tuple[float, float]]:
    """The parts of [low, high] on which every fold's kinks are known, the lowest first."""
    gaps = sorted(gap[::-1] for path in paths for gap in path.path.gaps)
    stretches, start = [], low
    for bottom, top in gaps:
        if bottom > start:
            stretches.append((start, min(bottom, high)))
        start = max(start, top)
    if start < high or not gaps:
        stretches.append((start, high))
    return [pair for pair in stretches if pair[0] < pair[1] or not gaps]
