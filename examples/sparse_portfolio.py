"""Five hundred assets, and how far to believe a forecast.

Every month a fund forecasts the returns of 500 assets and trades,

    max  aᵀw − γ/2 (‖Fᵀw‖² + ‖D^½ w‖²) − κ ‖w − w₀‖²   subject to   Σw = 1,  0 ≤ w ≤ 2 %,

F being the loadings on 15 factors, D the risk of each asset alone, w₀ the holdings so far; trades move the
prices against the fund. CVXPY makes a cone program of it whose matrices are nearly all zeros, and they stay
sparse down to the derivative. The forecasts are noisy, a = believed · forecast, and the holdings of one
month are where the next one starts. So believed, γ and κ are knobs: what counts is what two years earn, net
of risk and the true cost of trading. The gradient runs through all 24 programs in a row.

Run:  python examples/sparse_portfolio.py [--out PATH.png]
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from rich.progress import track

from conservax.programs import CvxpyLayer

ASSETS, FACTORS, MONTHS, ROUNDS = 500, 15, 24, 20
CAP, TRUE_COST, AVERSION = 0.02, 0.5, 10.0


class Market(NamedTuple):
    """Loadings (ASSETS, FACTORS), risks (ASSETS,); returns and forecasts (MONTHS, ASSETS)."""

    loadings: np.ndarray
    risks: np.ndarray
    returns: jax.Array
    forecasts: jax.Array


def market(seed: int = 0, months: int = MONTHS) -> Market:
    """Each factor moves a fifth of the assets; a forecast holds one part of truth to two of noise."""
    rng = np.random.default_rng(7)
    touched = rng.random((ASSETS, FACTORS)) < 0.2
    loadings = touched * rng.normal(scale=0.04, size=(ASSETS, FACTORS))
    risks = rng.uniform(0.04, 0.1, ASSETS)
    rng = np.random.default_rng(seed)
    expected = np.zeros((months, ASSETS))
    for month in range(months):
        before = expected[month - 1] if month else rng.normal(scale=0.01, size=ASSETS)
        expected[month] = 0.8 * before + rng.normal(scale=0.006, size=ASSETS)
    noise = rng.normal(scale=0.02, size=expected.shape)
    shocks = rng.normal(size=(months, FACTORS)) @ loadings.T
    alone = rng.normal(size=expected.shape) * risks
    return Market(
        loadings, risks, jnp.asarray(expected + shocks + alone), jnp.asarray(expected + noise)
    )


def trader(loadings: np.ndarray, risks: np.ndarray) -> CvxpyLayer:
    """a, w₀, γ, κ ↦ w."""
    w, traded, exposure = cp.Variable(ASSETS), cp.Variable(ASSETS), cp.Variable(FACTORS)
    a, held = cp.Parameter(ASSETS), cp.Parameter(ASSETS)
    aversion, price = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    risk = cp.sum_squares(exposure) + cp.sum_squares(cp.multiply(risks, w))
    value = a @ w - aversion / 2 * risk - price * cp.sum_squares(traded)
    rules = [exposure == loadings.T @ w, traded == w - held, cp.sum(w) == 1, w >= 0, w <= CAP]
    return CvxpyLayer(cp.Problem(cp.Maximize(value), rules), [a, held, aversion, price], [w])


class Months(NamedTuple):
    """Of every month: what was earned net of costs, the risk taken, the turnover, the verdict."""

    earned: jax.Array
    variance: jax.Array
    turnover: jax.Array
    verdict: jax.Array


def trade(layer: CvxpyLayer, market: Market, knobs: jax.Array) -> Months:
    """Month after month, given the logarithms of believed, γ, κ."""
    believed, aversion, price = jnp.exp(knobs)

    def month(held: jax.Array, seen: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Months]:
        forecast, returns = seen
        (w,), info = layer.solve(believed * forecast, held, aversion, price)
        turnover = jnp.sum(jnp.abs(w - held))
        factors = jnp.sum((jnp.asarray(market.loadings).T @ w) ** 2)
        variance = factors + jnp.sum((jnp.asarray(market.risks) * w) ** 2)
        earned = returns @ w - TRUE_COST * jnp.sum((w - held) ** 2)
        return w, Months(earned, variance, turnover, info.verdict)

    start = jnp.full(ASSETS, 1 / ASSETS)
    return lax.scan(month, start, (market.forecasts, market.returns))[1]


def utility(months: Months) -> jax.Array:
    """Mean of what was earned, less risk; per month."""
    return jnp.mean(months.earned - AVERSION / 2 * months.variance)


def first_knobs() -> jax.Array:
    """Everything is believed, at face value."""
    return jnp.log(jnp.array([1.0, AVERSION, TRUE_COST]))


def learn(
    layer: CvxpyLayer, market: Market, rounds: int = ROUNDS
) -> tuple[list[np.ndarray], list[float], int]:
    """Knobs and utilities, round by round, and how many derivatives were not PROVEN."""
    # the gradient is exact: with Adam's usual memory of ten rounds the knobs overshoot
    schedule = optax.cosine_decay_schedule(0.15, rounds)
    knobs, optimiser = first_knobs(), optax.adam(schedule, b1=0.5, b2=0.9)
    state = optimiser.init(knobs)

    def loss(knobs: jax.Array) -> tuple[jax.Array, Months]:
        months = trade(layer, market, knobs)
        return -utility(months), months

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    path, utilities, not_proven = [], [], 0
    for _ in track(range(rounds), description="learning"):
        (value, months), gradient = step(knobs)
        path.append(np.asarray(knobs))
        utilities.append(-float(value))
        not_proven += int(np.sum(np.asarray(months.verdict) != 1))
        updates, state = optimiser.update(gradient, state)
        knobs = optax.apply_updates(knobs, updates)
    return path, utilities, not_proven


def draw(before: Months, after: Months, utilities: list[float], out: Path) -> None:
    """What is learned, and another market under the first knobs and the learned ones."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    left.plot(100 * np.array(utilities), color="#1d3557", lw=2)
    left.set(xlabel="round", ylabel="% per month", title="Utility, two years to learn from")
    time = np.arange(1, len(before.earned) + 1)
    for one, label, color in ((before, "at face value", "#9aa5b1"), (after, "learned", "#1d3557")):
        middle.plot(time, 100 * np.cumsum(one.earned), color=color, lw=2, label=label)
        right.plot(time, 100 * one.turnover, color=color, lw=2)
    middle.axhline(0, color="#9aa5b1", lw=0.8)
    middle.set(xlabel="month", ylabel="%", title="Earned in two other years, net")
    middle.legend(frameon=False)
    right.set(xlabel="month", ylabel="% of the fund", title="Traded in a month", ylim=(0, None))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Learn, and say what it brings in other years; draw if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    years = market()
    layer = trader(years.loadings, years.risks)
    rows, columns = layer.canonical.A.shape
    print(f"A cone program of {columns:,} variables and {rows:,} rows.")
    path, utilities, not_proven = learn(layer, years)
    best = int(np.argmax(utilities))
    print(
        f"\nUtility: {100 * utilities[0]:.2f} % a month at first, {100 * utilities[best]:.2f} learned."
    )
    believed, aversion, price = np.exp(path[best])
    print(
        f"Believed: {believed:.2f} of a forecast; γ = {aversion:.3g}; κ = {price:.2f}, in truth {TRUE_COST}."
    )
    solved = len(utilities) * MONTHS
    print(f"{solved} programs were differentiated; {solved - not_proven} derivatives were PROVEN.")
    others = market(seed=1)
    run = jax.jit(lambda knobs: trade(layer, others, knobs))
    before, after = run(first_knobs()), run(jnp.asarray(path[best]))
    both = [100 * float(utility(months)) for months in (before, after)]
    print(
        f"In two years that nothing was learned from: {both[0]:.2f} % and {both[1]:.2f} % a month."
    )
    start = time.perf_counter()
    jax.block_until_ready(run(first_knobs()))
    print(f"One program takes {1e3 * (time.perf_counter() - start) / MONTHS:.0f} ms.")
    if out is not None:
        draw(before, after, utilities, out)
        print(f"\nDrawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
