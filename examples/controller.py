"""A controller that looks ahead, tuned through its own closed loop.

A cart (position p, speed v) is to stop at p = 0, the edge of a table. Every step the controller plans
eight steps ahead,

    min Σ q₁ pₖ² + q₂ vₖ² + r uₖ²   subject to   (p, v)ₖ₊₁ = A (p, v)ₖ + B uₖ,  |uₖ| ≤ 1,

and plays the first thrust of its plan: model predictive control. The plan is a CVXPY problem. Its weights
q₁, q₂, r are knobs without a meaning of their own: what counts is the ride, here the time away from the
goal, the fuel, and dearly every step beyond the edge. That cost is differentiated through 30 plans in a
row, one after the other in a scan, and the weights follow the gradient. Every plan reports a certificate.

Run:  python examples/controller.py [--out PATH.png]
"""

import argparse
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

AHEAD, STEPS, ROUNDS = 8, 30, 25
MODEL = np.array([[1.0, 0.3], [0.0, 1.0]])
PUSH = np.array([0.045, 0.3])  # what a thrust of one does in a step of 0.3 s
STARTS = np.array([[-2.0, 0.0], [-1.0, 1.0], [-3.0, 0.5]])


class Ride(NamedTuple):
    """Of one start: states (STEPS, 2), thrusts and verdicts (STEPS,)."""

    states: jax.Array
    thrusts: jax.Array
    verdicts: jax.Array


def planner() -> CvxpyLayer:
    """The plan's thrusts, from where the cart is and from the roots of the weights."""
    start, roots = cp.Parameter(2, name="start"), cp.Parameter(3, nonneg=True, name="roots")
    states, thrusts = cp.Variable((AHEAD + 1, 2)), cp.Variable(AHEAD)
    # the root of a weight inside the square keeps to CVXPY's rules for parameters
    cost = sum(
        cp.sum_squares(root * trace)
        for root, trace in zip(roots, (states[:, 0], states[:, 1], thrusts), strict=True)
    )
    constraints = [states[0] == start, cp.abs(thrusts) <= 1]
    constraints += [states[k + 1] == MODEL @ states[k] + PUSH * thrusts[k] for k in range(AHEAD)]
    return CvxpyLayer(cp.Problem(cp.Minimize(cost), constraints), [start, roots], [thrusts])


def ride(layer: CvxpyLayer, logs: jax.Array, start: jax.Array) -> Ride:
    """The closed loop, given the logarithms of the three weights."""
    roots = jnp.exp(logs / 2)

    def step(state, _):
        (thrusts,), info = layer.solve(state, roots)
        new = jnp.asarray(MODEL) @ state + jnp.asarray(PUSH) * thrusts[0]
        return new, Ride(new, thrusts[0], info.verdict)

    return lax.scan(step, start, length=STEPS)[1]


def price(ride: Ride) -> jax.Array:
    """Time away from the goal, fuel, and every step beyond the edge."""
    position = ride.states[:, 0]
    away = jnp.sum(jnp.sqrt(position**2 + 1e-4))
    return away + 0.2 * jnp.sum(ride.thrusts**2) + 100 * jnp.sum(jax.nn.relu(position) ** 2)


def cost(layer: CvxpyLayer, logs: jax.Array) -> tuple[jax.Array, Ride]:
    """The mean price over the starts."""
    rides = jax.vmap(lambda start: ride(layer, logs, start))(jnp.asarray(STARTS))
    return jnp.mean(jax.vmap(price)(rides)), rides


def tune(layer: CvxpyLayer, rounds: int = ROUNDS) -> tuple[list[np.ndarray], list[float], int]:
    """The weights' logarithms and the cost, round by round, and how many plans were not PROVEN."""
    logs = jnp.zeros(3)
    optimiser = optax.adam(0.25)
    state = optimiser.init(logs)
    step = jax.jit(jax.value_and_grad(lambda logs: cost(layer, logs), has_aux=True))
    path, costs, open_plans = [], [], 0
    for _ in track(range(rounds), description="tuning"):
        (value, rides), gradient = step(logs)
        path.append(np.asarray(logs))
        costs.append(float(value))
        open_plans += int(np.sum(np.asarray(rides.verdicts) != 1))
        updates, state = optimiser.update(gradient, state)
        logs = optax.apply_updates(logs, updates)
    return path, costs, open_plans


def draw(before: Ride, after: Ride, costs: list[float], out: Path) -> None:
    """The first start's ride before and after, and the cost."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    time = 0.3 * np.arange(1, STEPS + 1)
    for one, label, color in ((before, "first weights", "#9aa5b1"), (after, "tuned", "#1d3557")):
        left.plot(time, one.states[0, :, 0], color=color, lw=2, label=label)
        middle.step(time, one.thrusts[0], color=color, lw=2, where="mid")
    left.axhspan(0, 0.3, color="#c1292e", alpha=0.12, lw=0)
    left.text(time[-1], 0.15, "over the edge", color="#c1292e", ha="right", va="center")
    left.set(xlabel="s", ylabel="position", title="One ride", ylim=(None, 0.3))
    left.legend(frameon=False, loc="lower right")
    middle.set(xlabel="s", ylabel="thrust", title="Its thrusts, at most 1")
    right.plot(costs, color="#1d3557", lw=2)
    right.set(xlabel="round", ylabel="mean price", title="What the rides cost", ylim=(0, None))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Tune, and say what it brought; draw if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    layer = planner()
    path, costs, open_plans = tune(layer)
    best = int(np.argmin(costs))
    print(f"\nMean price of a ride: {costs[0]:.2f} with all weights 1, {costs[best]:.2f} tuned.")
    weights = ", ".join(
        f"{name} = {w:.3g}" for name, w in zip(("q₁", "q₂", "r"), np.exp(path[best]), strict=True)
    )
    print(f"Weights: {weights}.")
    plans = len(costs) * len(STARTS) * STEPS
    print(f"{plans} plans were differentiated; {plans - open_plans} derivatives were PROVEN.")
    run = jax.jit(lambda logs: cost(layer, logs)[1])
    before, after = run(jnp.asarray(path[0])), run(jnp.asarray(path[best]))
    over = [float(np.maximum(r.states[..., 0], 0).max()) for r in (before, after)]
    print(f"Farthest over the edge: {over[0]:.3f} before, {over[1]:.4f} after.")
    if out is not None:
        draw(before, after, costs, out)
        print(f"\nDrawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
