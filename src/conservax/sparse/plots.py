"""Pictures in matplotlib: the path with its kinks, the search, contours of two penalties."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingPackageError
from .path import Columns, LassoPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, BEST = "#333333", "#c0362c"
_BETWEEN = 8  # points a piece
_MARKED = 40  # evaluations up to which each has its dot


def _axes(axes: Any) -> "Axes":
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as missing:
        raise MissingPackageError(
            "plots need matplotlib: pip install 'conservax[plots]'."
        ) from missing
    return plt.subplots(layout="constrained")[1]


def plot_path(
    X: Any, y: Any, alpha_min_ratio: float = 1e-2, names: Any = None, axes: Any = None
) -> "Axes":
    """The Lasso's coefficients over log α, exact, with a dot where a feature enters or leaves.

    Args:
        X: (n, p), y: (n,), both centred here. names: of the features that are labelled at the left end.
        axes: matplotlib's, made if not given.

    Returns: the axes.
    """
    ax = _axes(axes)
    X, y = np.asarray(X, float), np.asarray(y, float)
    root = np.sqrt(len(y))
    path = LassoPath(Columns((X - X.mean(0)) / root, (y - y.mean()) / root))
    path.follow(alpha_min_ratio * path.alpha_max)
    rows, values = [path.alpha_max], [np.zeros(X.shape[1])]
    for piece in path.pieces:  # straight in α, so bent on a logarithmic axis
        for alpha in np.geomspace(piece.high, piece.low, _BETWEEN)[1:]:
            beta = np.zeros(X.shape[1])
            beta[piece.support] = piece.a - alpha * piece.d
            rows.append(alpha)
            values.append(beta)
    alphas, betas = np.array(rows), np.array(values)
    drawn = np.flatnonzero(betas.any(axis=0))
    colours = {}
    for j in drawn:
        live = betas[:, j] != 0
        shown = live | np.append(live[1:], False) | np.insert(live[:-1], 0, False)
        (line,) = ax.plot(alphas, np.where(shown, betas[:, j], np.nan), lw=1.6)
        colours[j] = line.get_color()
        enters = np.flatnonzero(~live[:-1] & live[1:])
        leaves = np.flatnonzero(live[:-1] & ~live[1:]) + 1
        at = np.concatenate([enters, leaves])
        ax.plot(alphas[at], np.zeros(len(at)), "o", ms=4, color=colours[j], zorder=3)
    if names is not None:
        named = [j for j in drawn if betas[-1, j] != 0]
        heights = _apart(betas[-1, named], 0.045 * np.ptp(betas[-1]))
        for j, height in zip(named, heights, strict=True):
            ax.annotate(
                str(names[j]), (alphas[-1], height), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=8, color=colours[j],
            )  # fmt: skip
    ax.set(xscale="log", xlabel="α", ylabel="coefficient")
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.invert_xaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Heights of labels, moved so that neighbours keep a gap."""
    order = np.argsort(heights)
    placed = heights[order].astype(float)
    for _ in range(50):
        short = np.maximum(gap - np.diff(placed), 0) / 2
        placed[:-1] -= short
        placed[1:] += short
    found = np.empty_like(placed)
    found[order] = placed
    return found


def plot_search(estimator: Any, axes: Any = None) -> "Axes":
    """The cross-validated errors that a fitted estimator met over α, fold by fold, and its choice.

    Args:
        estimator: a fitted ``LassoSearchCV`` or one of its kin. axes: as of ``plot_path``.

    Returns: the axes.
    """
    ax = _axes(axes)
    errors = getattr(estimator, "mse_path_", None)
    label = "mean squared error"
    if errors is None:
        errors, label = estimator.loss_path_, "log loss"
    ax.plot(estimator.alphas_, errors, color="0.8", lw=1)
    style = "o-" if len(errors) <= _MARKED else "-"
    ax.plot(
        estimator.alphas_,
        errors.mean(axis=1),
        style,
        color=INK,
        ms=4,
        lw=1.5,
        label="mean of folds",
    )
    at = int(np.argmin(np.abs(estimator.alphas_ - estimator.alpha_)))
    ax.plot(
        estimator.alphas_[at],
        errors[at].mean(),
        "o",
        ms=9,
        mfc="none",
        mec=BEST,
        mew=2,
        label="choice",
    )
    certified = estimator.certificate_.certified
    if certified is not None:
        ax.axvspan(*certified, color=BEST, alpha=0.12, lw=0, label="no lower error here")
    ax.set(xscale="log", xlabel="α", ylabel=f"held-out {label}")
    ax.invert_xaxis()
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_contours(
    criterion: Any, first: np.ndarray, second: np.ndarray, iterates: Any = None, axes: Any = None
) -> "Axes":
    """Contours of a criterion of two penalties, on logarithmic axes, with the iterates of a search.

    Args:
        criterion: f(a, b), a number. first, second: grids of a and b. iterates: (k, 2) or None.
        axes: as of ``plot_path``.

    Returns: the axes.
    """
    ax = _axes(axes)
    values = np.array([[float(criterion(a, b)) for a in first] for b in second])
    levels = np.quantile(values, np.linspace(0, 1, 15))
    ax.contourf(first, second, values, levels=np.unique(levels), cmap="Blues_r")
    if iterates is not None:
        iterates = np.asarray(iterates)
        ax.plot(*iterates.T, "o-", color=BEST, ms=4, lw=1.2)
    ax.set(xscale="log", yscale="log", xlabel="first penalty", ylabel="second penalty")
    return ax
