"""relu′(0) = 0, ½ or 1: in how many runs does it change the trained network, by precision and depth?"""

from __future__ import annotations

import itertools

import numpy as np

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, agrees, at_least, ours
from .training_methods import digits

SOURCE = "Bertoin, Bolte, Gerchinovitz, Pauwels 2021"
DEPTHS = (1, 2, 4)
DTYPES = ("float16", "float32", "float64")


def product(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a @ w with every partial sum rounded to the precision, as an accumulator of that precision does."""
    total = np.zeros((len(a), w.shape[1]), a.dtype)
    for t in range(len(w)):
        total += a[:, t, None] * w[t]
    return total


def trained(
    seed: int,
    at_zero: float,
    data: tuple[np.ndarray, np.ndarray],
    depth: int,
    dtype: str,
    steps: int,
) -> np.ndarray:
    """The weights, flat, after SGD on the squares of a relu network; its backward pass by hand.

    In NumPy: XLA takes a minute to compile one of these in float16 for the CPU.
    """
    rng = np.random.default_rng(seed)
    x, y = data[0].astype(dtype), np.eye(10, dtype=dtype)[data[1]]
    sizes = (64, *(24,) * depth, 10)
    weights = [
        (rng.normal(size=s) * np.sqrt(2 / s[0])).astype(dtype) for s in itertools.pairwise(sizes)
    ]
    rate = np.asarray(0.05, dtype)
    for _ in range(steps):
        i = rng.integers(0, len(y), 16)
        layers, before = [x[i]], []
        for w in weights[:-1]:
            before.append(product(layers[-1], w))
            layers.append(np.maximum(before[-1], 0))
        back = (layers[-1] @ weights[-1] - y[i]) * np.asarray(2 / y[i].size, dtype)
        for n in range(len(weights) - 1, -1, -1):
            step = layers[n].T @ back
            if n:
                z = before[n - 1]
                slope = np.where(z > 0, 1, np.where(z == 0, at_zero, 0)).astype(dtype)
                back = (back @ weights[n].T) * slope
            weights[n] = weights[n] - rate * step
    return np.concatenate([w.ravel() for w in weights])


def run(quick: bool, tick: Ticker) -> Outcome:
    """Count the runs that differ between relu′(0) = 0 and ½ or 1."""
    seeds, steps = (4, 25) if quick else (30, 120)
    x, y = digits()
    data = np.asarray(x), np.asarray(y)
    differ = np.zeros((len(DTYPES), len(DEPTHS)))
    for a, dtype in enumerate(DTYPES):
        for b, depth in enumerate(DEPTHS):
            for seed in range(seeds):
                ends = [trained(seed, s, data, depth, dtype, steps) for s in (0.0, 0.5, 1.0)]
                same = [np.array_equal(e, ends[0], equal_nan=True) for e in ends]
                differ[a, b] += not all(same)
            tick((a * len(DEPTHS) + b + 1) / differ.size)
    differ /= seeds
    growing = bool(differ[0, -1] >= differ[0, 0])
    claims = [
        agrees("float64: share of runs that differ, by depth", SOURCE, np.zeros(len(DEPTHS)), differ[2]),
        at_least("float16, deepest network: share of runs that differ", ours(SOURCE), 0.5,
                 float(differ[0, -1])),
        Claim("float16: the share by depth", SOURCE, "the deepest at least the shallowest",
              differ[0].tolist(), growing),
        Claim("float32: the share by depth lies between those of float64 and float16", SOURCE,
              "between", differ[1].tolist(),
              bool(np.all((differ[2] <= differ[1]) & (differ[1] <= differ[0])))),
    ]  # fmt: skip
    remarks = (
        f"Our setting: digits, width 24, {seeds} seeds, {steps} steps of SGD, batches of 16.",
    )
    return Outcome(_draw(differ), claims, remarks)


def _draw(differ: np.ndarray) -> style.Figure:
    fig = style.figure(6.4, 3.8)
    ax = fig.subplots()
    width = 0.26
    for a, (dtype, colour) in enumerate(
        zip(DTYPES, (style.BAD, style.AD, style.TRUTH), strict=True)
    ):
        x = np.arange(len(DEPTHS)) + (a - 1) * width
        ax.bar(x, differ[a], width * 0.92, color=colour, label=dtype)
        for place, height in zip(x, differ[a], strict=True):
            ax.annotate(f"{height:.0%}", (place, height), (0, 3), textcoords="offset points",
                        ha="center", fontsize=10, color=colour)  # fmt: skip
    ax.set(xticks=range(len(DEPTHS)), xticklabels=DEPTHS, xlabel="hidden layers", ylim=(0, 1.12),
           ylabel="runs that differ")  # fmt: skip
    ax.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.14))
    return fig


EXPERIMENT = Experiment(
    name="relu-at-zero",
    title="relu′(0) matters in low precision",
    source=SOURCE,
    description=(
        "The same networks, seeds and minibatches with relu′(0) = 0, ½ and 1. In real numbers almost no run "
        "meets 0 exactly; with sums accumulated in float16 most do, the more the deeper, in float64 none "
        "here. A run differs when one of its weights does, in one bit."
    ),
    run=run,
)
