"""Robust regression: quantile lines through data with outliers, each with a proof of its quality.

The pinball loss has a kink at every data point; its minimiser lies on several of them. ``cx.minimise`` goes
there, hands over a Goldstein certificate, and, as the loss is convex, a bound of what is left to gain.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import conservax as cx

FIGURE = Path(__file__).with_suffix(".png")
LEVELS = (0.25, 0.5, 0.75)


def observe(seed=0, count=120):
    """A line with noise that grows to the right, and a tenth of the points far off."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 10.0, count)
    y = 1.0 + 0.5 * x + (0.2 + 0.1 * x) * rng.normal(size=count)
    off = rng.choice(count, count // 10, replace=False)
    y[off] = y[off] + np.where(x[off] > 5, -12.0, 0.0)
    return x, y


def pinball(line, level, x, y):
    """Mean of max(τr, (τ − 1)r) over the residuals r: least at the τ-quantile line."""
    r = y - line[0] - line[1] * x
    return jnp.mean(jnp.maximum(level * r, (level - 1) * r))


def fit(level, x, y):
    """The quantile line, and what is known about it."""
    return cx.minimise(
        pinball, jnp.zeros(2), level, jnp.asarray(x), jnp.asarray(y), tol=1e-4, radius=10.0
    )


def main(figure=FIGURE):
    """Fit, report, draw."""
    x, y = observe()
    squares = np.polynomial.polynomial.polyfit(x, y, 1)
    print(f"least squares: slope {squares[1]:.3f}; the line behind the data has slope 0.500")
    fitted = {level: fit(level, x, y) for level in LEVELS}
    for level, found in fitted.items():
        below = np.mean(y <= found.value[0] + found.value[1] * x)
        print(
            f"quantile {level}: slope {found.value[1]:.3f}, {below:.0%} of the points below, "
            f"{found.stats.evaluations} evaluations, at most {found.stats.gap:.0e} above the minimum, "
            f"certificate {'holds' if found.certificate.recheck() else 'fails'}"
        )
    grid = np.linspace(0, 10, 2)
    fig, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    ax.plot(x, y, "o", color="#8a94a3", ms=4, label="data")
    ax.plot(grid, squares[0] + squares[1] * grid, "--", color="#c1292e", label="least squares")
    for level, found in fitted.items():
        style = {"color": "#1d3557", "lw": 2.2 if level == 0.5 else 1.2}
        label = "median" if level == 0.5 else f"quantile {level}"
        ax.plot(grid, found.value[0] + found.value[1] * grid, label=label, **style)
    ax.set(xlabel="x", ylabel="y", title="Quantile lines do not follow the outliers")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    fig.savefig(figure, dpi=150)
    plt.close(fig)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*map(Path, sys.argv[1:]))
