"""Forward–backward against Peaceman–Rachford splitting on monotone equilibrium networks.

Winston and Kolter's Figure of error against iteration for several step sizes, on a layer as it is
initialised and on one that was trained to tell made-up classes apart.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import conservax as cx

from . import style
from .claim import MEASURED, Experiment, Outcome, Ticker, at_least, at_most, counts, ours

SOURCE = "Winston and Kolter 2020, Section 4 and Figure 5"
ALPHAS = (1.0, 0.5, 0.25, 0.125)
UNITS, ITEMS = 60, 16


def classes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten clusters in 64 dimensions with made-up overlap."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    return (rng.normal(size=(10, 64))[y] + 1.5 * rng.normal(size=(n, 64))) / 4, y


def trained(layer: Any, steps: int) -> Any:
    """The layer after so many steps of Adam on the classes, with a linear vote on top."""
    x, y = classes(1280)
    head = 0.1 * jax.random.normal(jax.random.key(5), (10, UNITS))
    arrays, rest = eqx.partition(layer, eqx.is_array)
    optimiser = optax.adam(1e-2)

    def loss(both: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        z = jax.vmap(eqx.combine(both[0], rest))(x)
        logits = z @ both[1].T
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    @jax.jit
    def step(both: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        updates, state = optimiser.update(jax.grad(loss)(both, x, y), state)
        return optax.apply_updates(both, updates), state

    both = (arrays, head)
    state = optimiser.init(both)
    for k in range(steps):
        part = np.arange(128 * k, 128 * (k + 1)) % len(y)
        both, state = step(both, state, x[part], y[part])
    return eqx.combine(both[0], rest)


def errors(W: np.ndarray, c: np.ndarray, alpha: float, steps: int) -> tuple[np.ndarray, ...]:
    """‖z_k − z*‖/‖z*‖ of both methods over the items c (units, items), in plain NumPy.

    And the largest factor by which a step of Peaceman–Rachford shrank the distance of an item.
    """
    n = len(W)
    A = np.eye(n) - W
    V = np.linalg.inv(np.eye(n) + alpha * A)
    exact = _reference(W, c)
    size = np.linalg.norm(exact)
    fixed = exact + alpha * (W @ exact + c - exact)
    z, u, forward, peaceman, worst = np.zeros_like(c), np.zeros_like(c), [], [], 0.0
    for _ in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):
            z = np.maximum(z - alpha * (A @ z - c), 0)
            forward.append(np.linalg.norm(z - exact) / size)
        h = 2 * np.maximum(u, 0) - u
        before = np.linalg.norm(u - fixed, axis=0)
        u = 2 * V @ (h + alpha * c) - h
        far = before > 1e-9 * size
        if far.any():
            after = np.linalg.norm(u - fixed, axis=0)
            worst = max(worst, float(np.max(after[far] / before[far])))
        peaceman.append(np.linalg.norm(np.maximum(u, 0) - exact) / size)
    return np.array(forward), np.array(peaceman), np.array(worst)


def _reference(W: np.ndarray, c: np.ndarray) -> np.ndarray:
    """z = relu(W z + c), column by column, by Newton's method on the pieces."""
    columns = []
    for item in c.T:
        z = np.maximum(item, 0)
        for _ in range(100):
            J = np.diag((W @ z + item > 0) * 1.0)
            new = np.linalg.solve(np.eye(len(W)) - J @ W, J @ item)
            if np.max(np.abs(new - z)) < 1e-13:
                break
            z = new
        columns.append(z)
    return np.stack(columns, axis=1)


def bound(W: np.ndarray, alpha: float, m: float) -> float:
    """√(1 − 4αm/(1 + 2αm + α²L²)): what a step of Peaceman–Rachford contracts by, at least."""
    L = np.linalg.norm(np.eye(len(W)) - W, 2)
    return float(np.sqrt(1 - 4 * alpha * m / (1 + 2 * alpha * m + (alpha * L) ** 2)))


def run(quick: bool, tick: Ticker) -> Outcome:
    """Iterate both methods at each step size, on both layers."""
    steps, training = (60, 40) if quick else (120, 200)
    start = cx.equilibrium.MonotoneEquilibrium(64, UNITS, m=1.0, tol=1e-6, key=jax.random.key(0))
    layers = {"as initialised": start, "trained": trained(start, training)}
    tick(0.6)
    x = classes(ITEMS)[0]
    curves, excess, met, safe, within = {}, [], 0, 0, 0
    for name, layer in layers.items():
        W, c = np.asarray(layer.W), np.asarray(layer.U) @ x.T + np.asarray(layer.b)[:, None]
        L = np.linalg.norm(np.eye(len(W)) - W, 2)
        for alpha in ALPHAS:
            forward, peaceman, worst = errors(W, c, alpha, steps)
            curves[name, alpha] = forward, peaceman
            excess.append(float(worst) / bound(W, alpha, 1.0))
            met += bool(peaceman[-1] < 1e-3 * peaceman[0])
            if alpha < 2 / L**2:
                safe += 1
                within += bool(forward[-1] < forward[0])
        tick(0.8)
    claims = [
        counts("Peaceman–Rachford converges, whatever the step size", SOURCE, 8, met, "cases"),
        at_most("its contraction in a step, over the bound from m and L", ours(SOURCE), 1 + 1e-9, max(excess)),
        counts("forward–backward converges where α < 2m/L²", SOURCE, safe, within, "cases"),
        at_least("error of forward–backward at α = 1 on the trained layer, in the end", MEASURED, 1.0,
                 float(np.nan_to_num(curves["trained", 1.0][0][-1], nan=np.inf))),
    ]  # fmt: skip
    return Outcome(_draw(curves), claims)


def _draw(curves: dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]) -> style.Figure:
    fig = style.figure(10.0, 4.6)
    axes = fig.subplots(1, 2, sharey=True)
    shades = (style.BAD, style.AD, style.GOOD, style.TRUTH)
    for ax, name in zip(axes, ("as initialised", "trained"), strict=True):
        for alpha, color in zip(ALPHAS, shades, strict=True):
            forward, peaceman = curves[name, alpha]
            turns = np.arange(1, len(forward) + 1)
            label = f"$\\alpha = {alpha:g}$" if name == "trained" else None
            ax.semilogy(turns, np.clip(peaceman, 1e-13, 10), color=color, label=label)
            ax.semilogy(turns, np.clip(forward, 1e-13, 10), color=color, ls=(0, (3, 2)), lw=1.5)
        ax.set(xlabel="iteration", title=f"The layer {name}", ylim=(1e-12, 8))
    axes[0].set_ylabel(r"$\Vert z_k - z^* \Vert / \Vert z^* \Vert$")
    axes[0].plot([], [], color=style.INK, label="Peaceman–Rachford")
    axes[0].plot([], [], color=style.INK, ls=(0, (3, 2)), label="forward–backward")
    fig.legend(loc="outside lower center", ncols=6)
    return fig


EXPERIMENT = Experiment(
    name="equilibrium-splittings",
    title="Two splittings of a monotone equilibrium",
    source=SOURCE,
    description=(
        "Error against iteration of forward–backward (dashed) and Peaceman–Rachford splitting for "
        "four step sizes, on a monotone equilibrium layer as it is initialised and on one trained to "
        "tell ten made-up classes apart. Peaceman–Rachford converges for every step size and within "
        "its bound; forward–backward where the step is short enough, and training makes that shorter."
    ),
    run=run,
)
