"""relu′(0) = 0, ½ or 1: in how many runs does it change the trained network, by precision and depth?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, agrees, at_least, ours
from .training_methods import digits

SOURCE = "Bertoin, Bolte, Gerchinovitz, Pauwels 2021"
DEPTHS = (1, 2, 4)
DTYPES = ("float16", "float32", "float64")


@jax.custom_jvp
def relu(x: jax.Array, at_zero: jax.Array) -> jax.Array:
    """max(x, 0), with the slope ``at_zero`` at 0."""
    del at_zero
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, at_zero = primals
    slope = jnp.where(x > 0, 1, jnp.where(x == 0, at_zero, 0)).astype(x.dtype)
    return relu(x, at_zero), slope * tangents[0]


def trained(
    key: jax.Array, at_zero: jax.Array, data: Any, depth: int, dtype: str, steps: int
) -> jax.Array:
    """The weights, flat, after SGD on the digits."""
    x, y = data[0].astype(dtype), jax.nn.one_hot(data[1], 10, dtype=dtype)
    sizes = (64, *(24,) * depth, 10)
    keys = jax.random.split(key, len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    params = [(jax.random.normal(k, (m, n)) * np.sqrt(2 / m)).astype(dtype) for k, m, n in pairs]
    at = jax.random.randint(keys[-1], (steps, 16), 0, len(y))

    def loss(params: list[jax.Array], i: jax.Array) -> jax.Array:
        h = x[i]
        for w in params[:-1]:
            h = relu(h @ w, at_zero.astype(dtype))
        return jnp.mean((h @ params[-1] - y[i]) ** 2)

    def step(params: list[jax.Array], i: jax.Array) -> tuple[list[jax.Array], None]:
        grads = jax.grad(loss)(params, i)
        return [p - jnp.asarray(0.05, dtype) * g for p, g in zip(params, grads, strict=True)], None

    params, _ = jax.lax.scan(step, params, at)
    return jnp.concatenate([p.ravel() for p in params])


def run(quick: bool, tick: Ticker) -> Outcome:
    """Count the runs that differ between relu′(0) = 0 and ½ or 1."""
    seeds, steps = (6, 40) if quick else (40, 300)
    keys = jax.random.split(jax.random.key(0), seeds)
    slopes = jnp.array([0.0, 0.5, 1.0])
    data = digits()
    differ = np.zeros((len(DTYPES), len(DEPTHS)))
    for a, dtype in enumerate(DTYPES):
        for b, depth in enumerate(DEPTHS):

            def one(key: Any, at: Any, data: Any, depth: int = depth, dtype: str = dtype) -> Any:
                return trained(key, at, data, depth, dtype, steps)

            every = jax.vmap(jax.vmap(one, in_axes=(None, 0, None)), in_axes=(0, None, None))
            found = np.asarray(jax.jit(every)(keys, slopes, data))  # data as constants compile for minutes
            same = np.all((found == found[:, :1]) | np.isnan(found), axis=(1, 2))
            differ[a, b] = np.mean(~same)
            tick((a * len(DEPTHS) + b + 1) / differ.size)
    growing = bool(np.all(np.diff(differ[0]) >= 0))
    claims = [
        agrees("float64: share of runs that differ, by depth", SOURCE, np.zeros(len(DEPTHS)), differ[2]),
        at_least("float16, deepest network: share of runs that differ", ours(SOURCE), 0.5,
                 float(differ[0, -1])),
        Claim("float16: the share by depth", SOURCE, "does not fall", differ[0].tolist(), growing),
        Claim("float32: the share by depth lies between those of float64 and float16", SOURCE,
              "between", differ[1].tolist(),
              bool(np.all((differ[2] <= differ[1]) & (differ[1] <= differ[0])))),
    ]  # fmt: skip
    remarks = (f"Our setting: digits, width 24, {seeds} seeds, {steps} steps of SGD, batches of 16.",)
    return Outcome(_draw(differ), claims, remarks)


def _draw(differ: np.ndarray) -> style.Figure:
    fig = style.figure(6.4, 3.8)
    ax = fig.subplots()
    width = 0.26
    for a, (dtype, colour) in enumerate(zip(DTYPES, (style.BAD, style.AD, style.TRUTH), strict=True)):
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
        "meets 0 exactly; in float16 most do, the more the deeper, in float64 none here. A run differs "
        "when one of its weights does, in one bit."
    ),
    run=run,
)
