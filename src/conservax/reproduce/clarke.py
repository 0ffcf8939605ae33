"""Clarke sets and the conservative sets around them, for functions of one variable at 0.

    sum rule        ∂ᶜ(|x| − |x|)(0) = {0}, while ∂ᶜ|·|(0) − ∂ᶜ|·|(0) = [−2, 2]
    Theorem 1       ∂ᶜf(0) ⊂ D(0) for every convex-valued conservative D: Clarke is the smallest
    Proposition 1   ∂ᶜf(0) ⊂ conv D(0), and D(0) = [−1, 1] ∪ [2, 3] shows that it may be strict

A field D is conservative for f when, for every absolutely continuous curve γ and every choice
v(t) ∈ D(γ(t)), f(γ(1)) − f(γ(0)) = ∫ v(t) γ'(t) dt.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_most, counts, ours

SOURCE = "Bolte et al. 2021, Section 2"
THEOREM = "Bolte et al. 2021, Theorem 1"
PROPOSITION = "Bolte et al. 2021, Proposition 1"

relu = jax.nn.relu

PROGRAMS: tuple[tuple[str, Callable[[jax.Array], jax.Array]], ...] = (
    (r"$|\,x\,|$", jnp.abs),
    (r"$\max(x, -x)$", lambda x: jnp.maximum(x, -x)),
    (r"$\mathrm{relu}(x) + \mathrm{relu}(-x)$", lambda x: relu(x) + relu(-x)),
    (r"$2\,\mathrm{relu}(x) - x$", lambda x: 2 * relu(x) - x),
    (r"$|\,x\,| + |\,x\,| - |\,x\,|$", lambda x: jnp.abs(x) + jnp.abs(x) - jnp.abs(x)),
    (r"$\mathrm{relu}(x) - \mathrm{relu}(-x)$", lambda x: relu(x) - relu(-x)),
    (r"$|\,x\,| - |\,x\,|$", lambda x: jnp.abs(x) - jnp.abs(x)),
)

UNION = ((-1.0, 1.0), (2.0, 3.0))  # the field at 0 that belongs to no convex set but its hull


def clarke_at_zero(program: Callable[[jax.Array], jax.Array]) -> tuple[float, float]:
    """The hull of lim f'(xₖ), xₖ → 0: the definition, on points that shrink to 0 on both sides."""
    radii = 2.0 ** -np.arange(10, 40)
    slopes = jax.jit(jax.vmap(jax.grad(program)))(jnp.asarray(np.concatenate([radii, -radii])))
    return float(slopes.min()), float(slopes.max())


def chain_rule_defect(pieces: tuple[tuple[float, float], ...], nodes: int) -> float:
    """The largest |f(γ(b)) − f(γ(a)) − ∫ v γ' dt| for f = |·| and D(0) = pieces.

    The curves cross 0, touch it, and rest on it for a while; the choice is the worst at each node.
    """
    t = np.linspace(-1.25, 1.5, nodes)
    curves = (
        (t**3 - t, 3 * t**2 - 1),
        (t**2, 2 * t),
        (np.sign(t) * np.maximum(np.abs(t) - 0.5, 0), (np.abs(t) > 0.5) * 1.0),
    )
    extremes = (min(low for low, _ in pieces), max(high for _, high in pieces))
    worst = 0.0
    for path, speed in curves:
        at_zero = np.abs(path) < 1e-12
        for choice in extremes:
            slope = np.where(at_zero, choice, np.sign(path))
            integral = np.trapezoid(slope * speed, t)
            worst = max(worst, abs(abs(path[-1]) - abs(path[0]) - integral))
    return worst


def run(quick: bool, tick: Ticker) -> Outcome:
    """Measure Clarke sets by sampling, the programs' sets by the calculus, and compare."""
    clarke = [clarke_at_zero(program) for _, program in PROGRAMS]
    tick(0.4)
    sets = []
    for _, program in PROGRAMS:
        low, high = cx.conservative_jacobian(program)(jnp.asarray(0.0)).bounds()
        sets.append((float(low[0, 0]), float(high[0, 0])))
    tick(0.8)
    contained = sum(d[0] <= c[0] and c[1] <= d[1] for c, d in zip(clarke, sets, strict=True))
    smaller = 0.5  # the convex field [−½, ½] at 0: its graph would not be closed
    gap = clarke[0][1] - smaller
    nodes = 20_001 if quick else 200_001
    hull = (UNION[0][0], UNION[-1][1])
    excess = max(abs(hull[0] - clarke[0][0]), abs(hull[1] - clarke[0][1]))

    claims = [
        agrees("Clarke set of |x| − |x| at 0", SOURCE, [0.0, 0.0], clarke[-1]),
        agrees("sum of the Clarke sets (set of the program)", SOURCE, [-2.0, 2.0], sets[-1]),
        agrees("Clarke set of |x| at 0", SOURCE, [-1.0, 1.0], clarke[0]),
        counts("Clarke set inside the program's set", THEOREM, len(PROGRAMS), contained,
               "programs"),
        agrees("a smaller convex field, [−½, ½], misses a limit of slopes by",
               f"{THEOREM}; our example", 0.5, gap),
        at_most("[−1, 1] ∪ [2, 3]: worst defect of the chain rule along curves", ours(PROPOSITION),
                6.0 / nodes * 2.75, chain_rule_defect(UNION, nodes)),
        agrees("conv D(0) exceeds the Clarke set by", PROPOSITION, 2.0, excess),
    ]  # fmt: skip
    return Outcome(_draw(clarke, sets), claims)


def _draw(clarke: list[tuple[float, float]], sets: list[tuple[float, float]]) -> style.Figure:
    fig = style.figure(9.4, 4.9)
    left, right = fig.subplots(1, 2, width_ratios=(1.75, 1))
    rows = np.arange(len(PROGRAMS))[::-1]
    for row, inner, outer in zip(rows, clarke, sets, strict=True):
        left.plot(outer, [row, row], color=style.SET, lw=10, alpha=0.35, solid_capstyle="butt")
        left.plot(inner, [row, row], color=style.TRUTH, lw=3)
        left.plot(inner, [row, row], "o", color=style.TRUTH, ms=6)
    left.set(
        yticks=rows, yticklabels=[label for label, _ in PROGRAMS], xlabel="slope at $x = 0$",
        title="Seven programs at 0", xlim=(-3.3, 3.3), ylim=(-0.6, len(PROGRAMS) - 0.4),
    )  # fmt: skip
    handles = [
        left.plot([], [], "o-", color=style.TRUTH, lw=3)[0],
        left.plot([], [], color=style.SET, lw=10, alpha=0.35)[0],
    ]
    fig.legend(
        handles, ["Clarke set", "conservative set of the program"],
        loc="outside lower center", ncols=2,
    )  # fmt: skip

    right.plot([-1, 0], [-1, -1], color=style.TRUTH)
    right.plot([0, 1], [1, 1], color=style.TRUTH)
    for low, high in UNION:
        style.segment(right, 0.0, low, high)
    right.annotate("", (-0.22, -1), (-0.22, 3), arrowprops={"arrowstyle": "<->", "color": style.AD})
    right.text(-0.3, 1.6, r"$\mathrm{conv}\,D(0)$", color=style.AD, ha="right", va="center")
    right.text(0.12, 0.0, r"$\partial^c f(0) = [-1, 1]$", color=style.TRUTH, va="center")
    right.text(0.12, 2.5, r"$[2, 3]$", color=style.SET, va="center")
    right.set(
        xlabel="$x$", ylabel="slope", xlim=(-1, 1), ylim=(-1.4, 3.4),
        title=r"A conservative field of $|\,x\,|$",
    )  # fmt: skip
    return fig


EXPERIMENT = Experiment(
    name="clarke",
    title="The Clarke set, and the conservative sets around it",
    source=f"{SOURCE}: Theorem 1, Proposition 1",
    description=(
        "The Clarke set obeys no sum rule: that of |x| − |x| is {0}, the difference of the sets is "
        "[−2, 2]. It is the smallest convex conservative set (Theorem 1): it lies in the set of "
        "every program that computes the function. A conservative field need be neither convex "
        "nor small: [−1, 1] ∪ [2, 3] at 0 obeys the chain rule for |x| along every curve, so the "
        "inclusion of Proposition 1 is strict."
    ),
    run=run,
)
