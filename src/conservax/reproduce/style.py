"""One look for all figures: palette, type, and the few marks that several of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conservax.errors import ConservaxError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH = "#1d3557"  # what the function really does
AD = "#e07a1f"  # what algorithmic differentiation returns
SET = "#7b4ea3"  # a set of derivatives
GOOD = "#2a9d8f"
BAD = "#c1292e"
MUTED = "#8a94a3"
INK = "#22303f"
QUADRANTS = ("#e9c46a", "#2a9d8f", "#6d83b8", "#e58b6b")
PNG_DPI = 160

_RC: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 12.5,
    "axes.titlesize": 13.5,
    "axes.titlepad": 9,
    "axes.labelsize": 12.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ee",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.frameon": True,
    "legend.framealpha": 0.92,
    "legend.edgecolor": "none",
    "legend.fontsize": 11,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "conservax",  # the same figure is the same file
    "agg.path.chunksize": 10_000,
}


@contextmanager
def applied() -> Iterator[None]:
    """Draw with this style; the caller's matplotlib settings come back afterwards."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context(_RC):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that belongs to no window."""
    _matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(fig: Figure, stem: Path) -> None:
    """Write STEM.png and STEM.svg, laid out once."""
    engine = fig.get_layout_engine()
    if engine is not None:
        engine.execute(fig)
        fig.set_layout_engine("none")
    fig.savefig(stem.with_suffix(".png"), dpi=PNG_DPI)
    fig.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def segment(ax: Axes, x: float, low: float, high: float, label: str | None = None) -> None:
    """A set of slopes [low, high] above the point x."""
    ax.plot([x, x], [low, high], color=SET, lw=5, alpha=0.45, zorder=2, label=label)


def vertices(ax: Axes, x: float, values: Any, label: str | None = None) -> None:
    """The vertices of a set of slopes above the point x."""
    ax.plot(
        [x] * len(values), values, "o", color="white", mec=SET, mew=1.8, ms=7, zorder=4, label=label
    )


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConservaxError(
            "the reproduction draws its figures with matplotlib, which is not installed: "
            "pip install 'conservax[plots]'"
        ) from error
    return mpl
