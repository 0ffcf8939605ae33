"""A portfolio that learns from what it earns, through its own trading rules.

Each week six assets are held as w⁰, with some cash, and three signals forecast their returns as Fθ.
Trades w = w⁰ + u − v are chosen by

    min γ/2 wᵀΣw − (Fθ)ᵀw + κ Σ(u + v)   over   u, v ≥ 0,  w ≥ 0,  Σ w ≤ 1,  Σ(u + v) ≤ τ :

risk, forecast and cost, long positions only, no debt, and a limit on the turnover. What the week then
earns depends on θ and γ through the program's answer. Its gradient is compared with differences, and
θ and γ are learned from realised weeks rather than from forecast errors. The market is simulated;
returns saturate in the signals, which the linear forecast does not know.

Run:  python examples/portfolio.py [--out PATH.png]
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from rich.progress import track

from conservax.invertibility import Verdict
from conservax.programs import ProgramInfo, QuadraticProgram

ASSETS, SIGNALS, WEEKS = 6, 3, 400
HELD = np.full(ASSETS, 0.8 / ASSETS)  # the rest is cash
RISK_AVERSION = 20.0  # of the investor; the program's γ starts there and is learned


class Weeks(NamedTuple):
    """Signals (weeks, assets, signals) and what the assets returned (weeks, assets)."""

    signals: jax.Array
    returns: jax.Array


class Rules(NamedTuple):
    """θ and log γ are learned; cost κ and limit τ are given."""

    theta: jax.Array
    log_gamma: jax.Array
    cost: jax.Array
    limit: jax.Array


def market(seed: int = 0) -> tuple[Weeks, Weeks, jax.Array]:
    """Weeks to learn from, weeks held out, and the covariance of the returns."""
    rng = np.random.default_rng(seed)
    loadings = 0.012 * rng.normal(size=(ASSETS, 2))
    covariance = loadings @ loadings.T + 0.015**2 * np.eye(ASSETS)
    signals = rng.standard_t(3, size=(2 * WEEKS, ASSETS, SIGNALS))
    mean = 0.01 * np.tanh(signals[..., 0]) + 0.005 * np.tanh(signals[..., 1])
    returns = mean + rng.multivariate_normal(np.zeros(ASSETS), covariance, size=2 * WEEKS)
    early, late = (
        Weeks(jnp.asarray(signals[part]), jnp.asarray(returns[part]))
        for part in (slice(WEEKS), slice(WEEKS, None))
    )
    return early, late, jnp.asarray(covariance)


def trade(rules: Rules, signals: jax.Array, covariance: jax.Array) -> tuple[jax.Array, ProgramInfo]:
    """Buys and sells (..., 2, assets) of each week, and the solver's word."""
    eye, one = np.eye(ASSETS), np.ones((1, ASSETS))
    net = np.hstack([eye, -eye])  # (u, v) ↦ u − v
    gamma = jnp.exp(rules.log_gamma)
    G = np.vstack([-np.eye(2 * ASSETS), -net, one @ net, np.ones((1, 2 * ASSETS))])
    fixed = np.concatenate([np.zeros(2 * ASSETS), HELD, [1 - HELD.sum()]])
    h = jnp.append(jnp.asarray(fixed), rules.limit)
    pull = gamma * covariance @ HELD - signals @ rules.theta
    solution = QuadraticProgram()(
        gamma * net.T @ covariance @ net, pull @ net + rules.cost, G=G, h=h
    )
    return solution.primal.reshape(*signals.shape[:-2], 2, ASSETS), solution.info


def utility(rules: Rules, weeks: Weeks, covariance: jax.Array) -> tuple[jax.Array, ProgramInfo]:
    """The mean of what weeks earned, less costs and the investor's price of risk."""
    trades, info = trade(rules, weeks.signals, covariance)
    return earned(trades, rules.cost, weeks, covariance), info


def earned(trades: jax.Array, cost: jax.Array, weeks: Weeks, covariance: jax.Array) -> jax.Array:
    """As ``utility``, for given trades (weeks, 2, assets)."""
    w = HELD + trades[:, 0] - trades[:, 1]
    risk = jnp.einsum("ti,ij,tj->t", w, covariance, w)
    gain = jnp.sum(w * weeks.returns, axis=1) - cost * jnp.sum(trades, axis=(1, 2))
    return jnp.mean(gain - RISK_AVERSION / 2 * risk)


def forecaster(weeks: Weeks) -> Rules:
    """θ by least squares, γ the investor's."""
    F, r = weeks.signals.reshape(-1, SIGNALS), weeks.returns.ravel()
    theta = jnp.linalg.lstsq(F, r)[0]
    return Rules(theta, jnp.log(RISK_AVERSION), jnp.asarray(0.002), jnp.asarray(0.5))


def differences(fun, rules: Rules, step: float = 1e-8) -> np.ndarray:
    """The gradient of a function of rules by central differences, as one vector."""
    flat, unravel = ravel_pytree(rules)
    moved = [[fun(unravel(flat + s * e)) for s in (step, -step)] for e in np.eye(len(flat))]
    return np.array([(up - down) / (2 * step) for up, down in moved])


def learn(rules: Rules, weeks: Weeks, held_out: Weeks, covariance: jax.Array, steps: int = 40):
    """The rules after some steps of Adam on realised weeks, and the utilities (steps + 1, 2) on the way."""
    optimiser = optax.adam(5e-2)
    scale = jnp.abs(rules.theta).max()  # weights on signals are small numbers

    def unpack(free):
        return rules._replace(theta=scale * free[:SIGNALS], log_gamma=free[SIGNALS])

    @jax.jit
    def step(free, state):
        def loss(free):
            return -1e2 * utility(unpack(free), weeks, covariance)[0]

        value, gradient = jax.value_and_grad(loss)(free)
        update, state = optimiser.update(gradient, state)
        return free + update, state, -1e-2 * value

    outside = jax.jit(lambda free: utility(unpack(free), held_out, covariance)[0])
    free = jnp.append(rules.theta / scale, rules.log_gamma)
    state, path = optimiser.init(free), []
    for _ in track(range(steps), description="learning"):
        unseen = outside(free)
        free, state, value = step(free, state)
        path.append((float(value), float(unseen)))
    return unpack(free), np.array(path)


def draw(rules: Rules, path: np.ndarray, idle: float, data: tuple, out: Path) -> None:
    """What the weeks earn as the rules are learned, and one week's holdings as its signals grow."""
    import matplotlib.pyplot as plt

    week, covariance = data
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for values, label, color in zip(
        path.T, ("weeks learned from", "weeks held out"), ("#1d3557", "#e07a1f"), strict=True
    ):
        left.plot(1e4 * values, color=color, lw=2, label=label)
    left.axhline(1e4 * idle, color="0.5", lw=1, ls="--", label="no trades, held out")
    left.set(
        xlabel="step", ylabel="utility per week (1/100 %)", title="Learning from what was earned"
    )
    left.legend(frameon=False)
    strength = np.linspace(0, 0.4, 201)
    trades, _ = trade(rules, strength[:, None, None] * week, covariance)
    for i, w in enumerate((HELD + trades[:, 0] - trades[:, 1]).T):
        right.plot(strength, 100 * w, lw=1.8, color=plt.get_cmap("tab10")(i))
    right.set(
        xlabel="strength of the week's signals",
        ylabel="holding (%)",
        title="One week's six holdings",
    )
    right.set_ylim(bottom=-0.5)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Differentiate, compare, learn; draw if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    weeks, held_out, covariance = market()
    rules = forecaster(weeks)
    objective = jax.jit(lambda rules: utility(rules, weeks, covariance))
    (_, info), gradient = jax.value_and_grad(objective, has_aux=True)(rules)
    exact = ravel_pytree(gradient)[0]
    numeric = differences(lambda rules: objective(rules)[0], rules)
    print("What the realised utility owes to each rule\n")
    print("                        gradient      differences")
    labels = [*(f"signal {i + 1}" for i in range(SIGNALS)), "log γ", "cost κ", "limit τ"]
    for label, one, other in zip(labels, exact, numeric, strict=True):
        print(f"   {label:12} {one:17.10f} {other:16.10f}")
    proven = np.sum(info.verdict == Verdict.PROVEN)
    print(f"\n   largest difference {np.abs(exact - numeric).max():.0e}", end="; ")
    print(f"derivative proven to exist in {proven} of {WEEKS} weeks")

    learned, path = learn(rules, weeks, held_out, covariance)
    idle = float(earned(jnp.zeros((WEEKS, 2, ASSETS)), rules.cost, held_out, covariance))
    before, after = (float(utility(each, held_out, covariance)[0]) for each in (rules, learned))
    print("\nUtility per week in the weeks held out, in hundredths of a percent\n")
    for label, value in (("no trades", idle), ("least squares", before), ("learned", after)):
        print(f"   {label:14} {1e4 * value:7.2f}")
    print(
        f"\n   γ went from {RISK_AVERSION:.2f} to {np.exp(learned.log_gamma):.2f}, θ from", end=" "
    )
    told = [", ".join(f"{weight:.4f}" for weight in each.theta) for each in (rules, learned)]
    print(f"({told[0]}) to ({told[1]}).")
    if out is not None:
        draw(learned, path, idle, (weeks.signals[0], covariance), out)
        print(f"\nDrawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
