"""The cheap gradient principle: cost(f, ∇f) ≤ 5 cost(f), whatever the number of inputs.

Baur and Strassen 1983; Griewank and Walther, Evaluating Derivatives, 2008. Forward differences need
n + 1 evaluations of f.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from . import style
from .claim import Experiment, Outcome, Ticker, about, at_least, at_most, ours

SOURCE = "Baur and Strassen 1983: cost(f, ∇f) ≤ 5 cost(f)"
EVALUATIONS = "n + 1 evaluations"
BOUND = 5.0
LAYERS = 3
ROUNDS = 5

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


def seconds(updates: Sequence[Program], x: jax.Array, budget: float) -> np.ndarray:
    """Processor time of one call of each `update`, x ↦ x + something small, in a compiled loop.

    The loop hides the cost of dispatch; its length is chosen so that a round lasts `budget`. The
    updates take turns, and the fastest of ROUNDS counts: whatever else the machine does makes a
    round slower, never faster.
    """

    def clock(loop: Callable[..., jax.Array], count: int) -> float:
        begin = time.process_time()
        loop(x, count).block_until_ready()
        return (time.process_time() - begin) / count

    loops, counts = [], []
    for update in updates:
        loop = jax.jit(lambda x, n, f=update: jax.lax.fori_loop(0, n, lambda _, x: f(x), x))
        clock(loop, 1)  # compile, and warm up
        estimate = min(clock(loop, 2) for _ in range(2))
        loops.append(loop)
        counts.append(max(1, min(20_000, int(budget / estimate))))
    rounds = [[clock(*pair) for pair in zip(loops, counts, strict=True)] for _ in range(ROUNDS)]
    return np.min(rounds, axis=0)


def exponent(sizes: np.ndarray, ratios: np.ndarray) -> float:
    """p in ratio ∝ nᵖ: the median over all pairs of sizes, which one bad timing does not move."""
    low, high = np.triu_indices(len(sizes), 1)
    x, y = np.log(sizes), np.log(ratios)
    return float(np.median((y[high] - y[low]) / (x[high] - x[low])))


def run(quick: bool, tick: Ticker) -> Outcome:
    """Time f, its value and gradient by AD, and its gradient by differences, for growing n."""
    sizes = 2 ** np.arange(3, 10, 2 if quick else 1)  # a factor 64 apart: p is off by 0.1 or so
    rng = np.random.default_rng(0)
    budget = 0.01 if quick else 0.03
    ratios = np.empty((len(sizes), 2))
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

        base, *costs = seconds((value, with_gradient, with_differences), x, budget)
        ratios[i] = np.array(costs) / base
        tick((i + 1) / len(sizes))
    reverse, differences = ratios.T

    claims = [
        at_most(f"AD: cost(f, ∇f)/cost(f) at n = {sizes[-1]}", SOURCE, BOUND, reverse[-1]),
        at_most("AD: median of the ratio over all n", SOURCE, BOUND, float(np.median(reverse))),
        at_most("AD: ratio grows like n to the power; 0 in theory", ours(SOURCE), 0.25,
                exponent(sizes, reverse)),
        about("differences: ratio grows like n to the power", EVALUATIONS, 1.0,
              exponent(sizes, differences), 0.25),
        at_least(f"differences: ratio at n = {sizes[-1]}", ours(EVALUATIONS), sizes[-1] / 4,
                 float(differences[-1])),
    ]  # fmt: skip
    remarks = (
        f"Processor time on this machine, JAX compiled and warm, the fastest of {ROUNDS} loops; "
        f"times vary from run to run. AD over all n: {min(reverse):.2f} to {max(reverse):.2f}.",
    )
    return Outcome(_draw(sizes, reverse, differences), claims, remarks)


def _draw(sizes: np.ndarray, reverse: np.ndarray, differences: np.ndarray) -> style.Figure:
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
        "evaluations of the network. For reverse AD theory bounds it by 5, whatever n; "
        "differences need n + 1 evaluations."
    ),
    run=run,
)
