"""The cheap gradient principle: cost(f, ∇f) ≤ 5 cost(f), whatever the number of inputs.

Baur and Strassen 1983; Griewank and Walther, Evaluating Derivatives, 2008. Forward differences need
n + 1 evaluations of f.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from . import style
from .claim import Experiment, Outcome, Ticker, about, at_least, at_most

SOURCE = "Baur and Strassen 1983: cost(f, ∇f) ≤ 5 cost(f)"
BOUND = 5.0
LAYERS = 3

Program = Callable[[jax.Array], jax.Array]


def network(n: int, rng: np.random.Generator) -> Program:
    """A relu network Rⁿ → R with square layers."""
    weights = [jnp.asarray(rng.standard_normal((n, n)) / np.sqrt(n)) for _ in range(LAYERS)]

    def f(x: jax.Array) -> jax.Array:
        for w in weights:
            x = jax.nn.relu(w @ x)
        return jnp.mean(x**2)

    return f


def difference_gradient(f: Program, x: jax.Array) -> jax.Array:
    """Forward differences, one input after the other."""
    h = 1e-7
    base = f(x)
    return jax.lax.map(lambda i: (f(x.at[i].add(h)) - base) / h, jnp.arange(x.size))


def seconds(update: Program, x: jax.Array, budget: float, rounds: int = 5) -> float:
    """Median time of one call of `update`, x ↦ x + something small, inside a compiled loop.

    The loop hides the cost of dispatch; its length is chosen so that a round lasts `budget`.
    """
    loop = jax.jit(lambda x, count: jax.lax.fori_loop(0, count, lambda _, x: update(x), x))

    def clock(count: int) -> float:
        begin = time.perf_counter()
        loop(x, count).block_until_ready()
        return (time.perf_counter() - begin) / count

    clock(1)  # compile, and warm up
    estimate = min(clock(2) for _ in range(2))
    count = max(1, min(20_000, int(budget / estimate)))
    return float(np.median([clock(count) for _ in range(rounds)]))


def run(quick: bool, tick: Ticker) -> Outcome:
    """Time f, its value and gradient by AD, and its gradient by differences, for growing n."""
    sizes = 2 ** np.arange(3, 9 if quick else 10)
    rng = np.random.default_rng(0)
    budget = 0.02 if quick else 0.06
    reverse, differences = [], []
    for i, n in enumerate(sizes):
        f = network(int(n), rng)
        x = jnp.asarray(rng.standard_normal(n))

        def value(x, f=f):
            return x + 1e-12 * f(x)

        def with_gradient(x, f=f):
            y, g = jax.value_and_grad(f)(x)
            return x + 1e-12 * (y + g)

        def with_differences(x, f=f):
            return x + 1e-12 * difference_gradient(f, x)

        base = seconds(value, x, budget)
        reverse.append(seconds(with_gradient, x, budget) / base)
        differences.append(seconds(with_differences, x, budget, rounds=3) / base)
        tick((i + 1) / len(sizes))
    large = sizes >= 64
    growth = np.polyfit(np.log(sizes[large]), np.log(np.array(differences)[large]), 1)[0]

    claims = [
        at_most(f"AD: cost(f, ∇f)/cost(f) at n = {sizes[-1]}", SOURCE, BOUND, reverse[-1]),
        at_most("AD: median of the ratio over all n", SOURCE, BOUND, float(np.median(reverse))),
        about("differences: ratio grows like n to the power", "n + 1 evaluations", 1.0,
              float(growth), 0.4),
        at_least(f"differences: ratio at n = {sizes[-1]}", "n + 1 evaluations", sizes[-1] / 4,
                 differences[-1]),
    ]  # fmt: skip
    remarks = (
        "Timings on this machine, JAX compiled and warm, medians of compiled loops; they vary from "
        f"run to run. AD over all n: {min(reverse):.2f} to {max(reverse):.2f}.",
    )
    return Outcome(_draw(sizes, reverse, differences), claims, remarks)


def _draw(sizes: np.ndarray, reverse: list[float], differences: list[float]) -> style.Figure:
    fig = style.figure(7.6, 4.8)
    ax = fig.subplots()
    ax.loglog(sizes, differences, "o-", color=style.AD, label="forward differences", base=2)
    ax.loglog(sizes, sizes + 1, color=style.MUTED, lw=1.2, ls="--", label="$n + 1$", base=2)
    ax.loglog(sizes, reverse, "o-", color=style.GOOD, label="reverse AD", base=2)
    ax.axhline(BOUND, color=style.BAD, lw=1.4, ls=":", label="bound of 5")
    ax.set(
        xlabel="number of inputs $n$",
        ylabel=r"cost$(f, \nabla f)$ / cost$(f)$",
        title="Cost of a gradient, in evaluations of $f$",
        ylim=(0.8, 2 * max(differences)),
    )
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ticks = [1, 2, 5, 10, 30, 100, 300, 1000]
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    fig.legend(loc="outside lower center", ncols=4)
    return fig


EXPERIMENT = Experiment(
    name="cheap-gradient",
    title="Finite differences: the price in time",
    source=SOURCE,
    description=(
        "The cost of a gradient of a three-layer relu network with n inputs, measured in "
        "evaluations of the network. Reverse AD stays below the bound of 5 for every n; "
        "differences need n + 1 evaluations."
    ),
    run=run,
)
