"""Five programs, two functions: what AD returns at 0 depends on how the program is written.

    relu₂(t) = relu(−t) + t     relu₃ = ½ (relu + relu₂)     zero = relu₂ − relu     t − zero(t)

relu, relu₂ and relu₃ are the same function, zero is 0, and t − zero(t) is t with a spurious
critical point (Bolte and Pauwels, "A mathematical model for automatic differentiation in machine
learning", NeurIPS 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, agrees, at_least, ours, same_points

SOURCE = "Bolte and Pauwels 2020, Section 1; talks of the authors"

relu = jax.nn.relu


def relu2(t: jax.Array) -> jax.Array:
    """relu(−t) + t."""
    return relu(-t) + t


def relu3(t: jax.Array) -> jax.Array:
    """½ (relu(t) + relu₂(t))."""
    return 0.5 * (relu(t) + relu2(t))


def zero(t: jax.Array) -> jax.Array:
    """relu₂(t) − relu(t), the function 0."""
    return relu2(t) - relu(t)


def identity_minus_zero(t: jax.Array) -> jax.Array:
    """The function t, as t − zero(t)."""
    return t - zero(t)


# program, its label, AD's slope at 0, the vertices of its conservative set at 0
PROGRAMS = (
    (relu, r"$\mathrm{relu}$", 0.0, (0.0, 1.0)),
    (relu2, r"$\mathrm{relu}_2$", 1.0, (0.0, 1.0)),
    (relu3, r"$\mathrm{relu}_3$", 0.5, (0.0, 0.5, 1.0)),
    (zero, r"$\mathrm{zero}$", 1.0, (-1.0, 0.0, 1.0)),
    (identity_minus_zero, r"$t - \mathrm{zero}(t)$", 0.0, (0.0, 1.0, 2.0)),
)
NAMES = ("relu", "relu₂", "relu₃", "zero", "t − zero(t)")


def run(quick: bool, tick: Ticker) -> Outcome:
    """Compare values, AD's slopes and conservative sets of the five programs."""
    grid = np.linspace(-1, 1, 100 if quick else 200)  # even: 0 is drawn apart
    claims: list[Claim] = []
    drawn = []
    for name, (program, label, slope, published) in zip(NAMES, PROGRAMS, strict=True):
        curve = jax.jit(jax.vmap(jax.value_and_grad(program)))
        values, slopes = map(np.asarray, curve(jnp.append(grid, 0.0)))
        ad = float(slopes[-1])
        found = cx.conservative_jacobian(program)(jnp.asarray(0.0)).vertices().ravel()
        claims += [
            agrees(f"AD at 0: {name}", SOURCE, slope, ad),
            same_points(f"vertices of the set at 0: {name}", SOURCE, published, found),
        ]
        drawn.append((label, values[:-1], slopes[:-1], ad, found))
        tick(len(drawn) / len(PROGRAMS))
    claims += _spurious_critical_point()
    return Outcome(_draw(grid, drawn), claims)


def _spurious_critical_point() -> list[Claim]:
    """Gradient descent on t ↦ t − zero(t), from 0 and from beside 0."""
    slope = jax.jit(jax.grad(identity_minus_zero))

    def travelled(start: float) -> float:
        t = start
        for _ in range(50):
            t = t - 0.1 * float(slope(t))
        return abs(t - start)

    return [
        agrees("gradient descent on t − zero(t) from 0: distance", SOURCE, 0.0, travelled(0.0)),
        at_least("the same from 1/1024: distance in 50 steps", ours(SOURCE), 4.8,
                 travelled(2.0**-10)),
    ]  # fmt: skip


def _draw(
    grid: np.ndarray, drawn: list[tuple[str, np.ndarray, np.ndarray, float, np.ndarray]]
) -> style.Figure:
    fig = style.figure(9.4, 5.0)
    axes = fig.subplots(2, len(drawn), sharex=True, sharey="row")
    half = grid.size // 2
    for (top, bottom), (label, values, slopes, ad, found) in zip(axes.T, drawn, strict=True):
        top.plot(grid, values, color=style.TRUTH)
        top.set(title=label, ylim=(-1.15, 1.15))
        style.segment(bottom, 0.0, found.min(), found.max())
        for part in (slice(None, half), slice(half, None)):
            bottom.plot(grid[part], slopes[part], color=style.TRUTH)
        style.vertices(bottom, 0.0, found)
        bottom.plot(0, ad, "D", color=style.AD, ms=7, zorder=5)
        bottom.annotate(
            f"{ad:g}", (0, ad), (11, 0), textcoords="offset points", color=style.AD,
            va="bottom", fontsize=12, fontweight="bold",
        )  # fmt: skip
        bottom.set(ylim=(-1.25, 2.25), xticks=[-1, 0, 1], xlabel="$t$")
    axes[0, 0].set_ylabel("value")
    axes[1, 0].set_ylabel("slope")
    handles = [
        fig.axes[0].plot([], [], color=style.TRUTH)[0],
        fig.axes[0].plot([], [], "D", color=style.AD, ms=7)[0],
        fig.axes[0].plot([], [], color=style.SET, lw=5, alpha=0.45)[0],
    ]
    labels = ["value (top), derivative away from 0 (bottom)", "AD at 0", "conservative set at 0"]
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


EXPERIMENT = Experiment(
    name="relu-variants",
    title="One function, several programs",
    source=SOURCE,
    description=(
        "relu, relu₂(t) = relu(−t) + t and relu₃ = ½(relu + relu₂) are one function, yet AD gives "
        "0, 1 and ½ at 0. Their difference, zero, has AD derivative 1 at 0, and t − zero(t), the "
        "identity, has a critical point at 0 that does not exist: gradient descent started there "
        "stays. Every answer lies in the conservative set of its program."
    ),
    run=run,
)
