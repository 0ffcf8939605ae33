"""What do deliveries tell about the roads? Travel costs learned from who delivers to whom.

Six depots serve nine towns. How goods are split is known; what a kilometre and a border crossing cost the
carriers is not. If carriers save cost and spread their trips a little, the deliveries are an entropic transport
plan, which Sinkhorn's algorithm computes; its implicit derivative tells how the plan follows the two prices.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

TRUTH = np.array([1.0, 0.6])  # of a hundred kilometres, and of a border
SPREAD = 0.25
SINKHORN = cx.iterates.sinkhorn()


def geography(seed=4):
    """Places of depots and towns, their supplies and demands; a border runs along x = 0."""
    rng = np.random.default_rng(seed)
    depots, towns = rng.uniform(0.05, 1, (6, 2)), rng.uniform(0.05, 1, (9, 2))
    for places in (depots, towns):  # on both sides of the border, in turn
        places[::2, 0] *= -1
        places[:, 1] = 2 * places[:, 1] - 1
    distance = np.linalg.norm(depots[:, None] - towns, axis=-1)
    border = (np.sign(depots[:, None, 0]) != np.sign(towns[None, :, 0])).astype(float)
    supply, demand = rng.dirichlet(np.full(6, 8.0)), rng.dirichlet(np.full(9, 8.0))
    return depots, towns, distance, border, supply, demand


def data_of(prices, distance, border, supply, demand):
    """θ of the transport problem at given prices."""
    return prices[0] * distance + prices[1] * border, supply, demand, SPREAD


def deviations(estimator, observed, prices, *place):
    """(plan − observed)/√(supply · demand), one number a road."""
    plan = estimator(None, data_of(prices, *place))
    return ((plan - observed) / jnp.sqrt(jnp.outer(*place[2:]))).ravel()


def misfit(estimator, observed, prices, *place):
    """Half the squared length of the deviations."""
    return jnp.sum(deviations(estimator, observed, prices, *place) ** 2) / 2


def learn(observed, place, rounds=14):
    """Gauss–Newton steps from prices of 0.2 each; every iterate, and the misfit along the way."""
    off = functools.partial(deviations, cx.iterates.implicit(SINKHORN, tol=1e-10), observed)
    both = jax.jit(lambda p: (off(p, *place), jax.jacfwd(off)(p, *place)))
    prices, path, losses = jnp.array([0.2, 0.2]), [], []
    for _ in range(rounds):
        r, J = both(prices)
        path.append(np.asarray(prices))
        losses.append(float(r @ r) / 2)
        prices = prices - jnp.linalg.lstsq(J, r)[0]
    return np.array(path), np.array(losses)


def main(folder=Path(__file__).parent):
    """Learn the prices, compare the estimators' gradients, and draw."""
    _, _, *place = geography()
    plan = cx.iterates.implicit(SINKHORN, tol=1e-12)(None, data_of(TRUTH, *place))
    counts = np.random.default_rng(0).multinomial(
        20_000, np.asarray(plan, float).ravel() / plan.sum()
    )
    observed = jnp.asarray(counts.reshape(plan.shape) / 20_000)
    path, losses = learn(observed, place)
    print(f"misfit {losses[0]:.3g} at first, {losses[-1]:.3g} at last")
    print("prices learned from 20,000 deliveries:", np.round(path[-1], 3), "true:", TRUTH)

    start = jnp.array([0.2, 0.2])
    for name, estimator in {
        "implicit": cx.iterates.implicit(SINKHORN, tol=1e-10),
        "unrolled, 100 steps": cx.iterates.unroll(SINKHORN, 100),
        "last 3 steps": cx.iterates.truncated(SINKHORN, 3, tol=1e-10),
        "last step": cx.iterates.one_step(SINKHORN, tol=1e-10),
    }.items():
        slope = jax.jit(jax.grad(functools.partial(misfit, estimator), argnums=1))(
            observed, start, *place
        )
        print(f"gradient at the start, {name}:", np.round(slope, 4))

    report = cx.iterates.check(SINKHORN, plan, data_of(TRUTH, *place))
    print(
        "\nDoes the iteration's derivative converge to the implicit one?", report.limit_is_implicit
    )
    print(report)
    draw(path, losses, observed, folder)


def draw(path, losses, observed, folder):
    """The map with its deliveries, and the prices as they are learned."""
    from matplotlib.figure import Figure

    depots, towns, *_ = geography()
    fig = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = fig.subplots(1, 2)
    left.axvline(0, color="#8a94a3", ls="--", lw=1.2)
    for i, j in np.argwhere(np.asarray(observed) > 2e-3):
        left.plot(
            *zip(depots[i], towns[j], strict=True),
            color="#7b4ea3", lw=60 * float(observed[i, j]), alpha=0.5, solid_capstyle="round",
        )  # fmt: skip
    left.plot(*depots.T, "s", color="#1d3557", ms=9, label="depots")
    left.plot(*towns.T, "o", color="#e07a1f", ms=8, label="towns")
    left.set(title="Deliveries across a border", xticks=[], yticks=[], aspect="equal")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    for values, price, colour, name in zip(
        path.T, TRUTH, ("#1d3557", "#2a9d8f"), ("100 km", "border"), strict=True
    ):
        right.plot(values, color=colour, lw=2, label=name)
        right.axhline(price, color=colour, ls=":", lw=1.2)
    right.set(xlabel="steps", ylabel="price", title="Prices learned from deliveries")
    right.legend(loc="lower right")
    right.spines[["top", "right"]].set_visible(False)
    fig.savefig(folder / "deliveries.png", dpi=120)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
