"""What goes wrong with one step less: five small systems where a plausible shortcut fails.

nested      F = two shears, one after the other: all selections have determinant 1, and the
            mean of two of them is singular. So the set must not be replaced by its hull.
one q       relu(x) + 2 relu(−x) with one weight for both kinks misses both limits of slopes.
(1 − 2q)²   equal determinants at the ends of a weight that moves two columns prove nothing.
cyclic      three permutation matrices of determinant 1 whose mean has rank one.
heavy ball  the implicit derivative exists while the iteration's own derivative blows up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import (
    Claim,
    Experiment,
    Outcome,
    Ticker,
    agrees,
    at_least,
    at_most,
    has_verdict,
    ours,
    same_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MULTI_AFFINE = "Bolte et al. 2021, Corollary 1, for the lifted system"
CLOSED_GRAPH = "Bolte, Pauwels 2021, conservative fields have a closed graph"
RANK = "a determinant is affine in a weight only where its pieces differ by rank one"
PIGGYBACK = "Bolte, Pauwels, Vaiter 2022; heavy ball of Polyak"

PERMUTATIONS = np.stack([np.roll(np.eye(3), shift, axis=1) for shift in range(3)])
CURVATURE, STEP, MOMENTUM = (1.0, 0.25), 1.0, 0.75  # of f on x >= 0 and on x < 0
GROWING = (1.0, 1.0, 0.25, 0.25)  # the curvatures met, in turn


def shears(u: jax.Array) -> jax.Array:
    """x⁺ = x + 2 relu(y), y⁺ = y − 2 relu(x⁺): each step a shear, so F is one to one."""
    x, y = u
    x = x + 2 * jax.nn.relu(y)
    return jnp.stack([x, y - 2 * jax.nn.relu(x)])


def hinge(x: jax.Array) -> jax.Array:
    """relu(x) + 2 relu(−x)."""
    return jax.nn.relu(x) + 2 * jax.nn.relu(-x)


def disguised_identity(u: jax.Array) -> jax.Array:
    """u, with the branch −u at u = 0: the branches agree there, and no slope joins them."""
    return jnp.where(jnp.sum(u**2) > 0, u, -u)


def disguised_by_permutations(u: jax.Array) -> jax.Array:
    """u, with branches Pu and P²u at u = 0."""
    rest = jnp.where(2 * jnp.sum(u**2) > 0, jnp.roll(u, -1), jnp.roll(u, -2))
    return jnp.where(jnp.sum(u**2) > 0, u, rest)


def heavy_ball(state: jax.Array, theta: jax.Array) -> jax.Array:
    """One step on f(x) = x²/2 (x >= 0), x²/8 (x < 0), minus θx; state (x, previous x)."""
    x, before = state
    convex, flat = CURVATURE
    slope = flat * x + (convex - flat) * jax.nn.relu(x)
    return jnp.stack([x - STEP * (slope - theta) + MOMENTUM * (x - before), x])


def fixed_point(state: jax.Array, theta: jax.Array) -> jax.Array:
    """Zero where a step changes nothing."""
    return heavy_ball(state, theta) - state


def step_jacobian(curvature: float) -> np.ndarray:
    """∂step/∂state where f has that curvature, by AD on that side of 0."""
    x = jnp.array([1.0 if curvature == CURVATURE[0] else -1.0, 0.0])
    return np.asarray(jax.jacobian(heavy_ball)(x, 0.0))


def piggyback_norms(word: tuple[float, ...], steps: int) -> np.ndarray:
    """‖∂(x_t, x_{t−1})/∂x_0‖ along a word of curvatures repeated without end."""
    matrices = [step_jacobian(c) for c in word]
    J, norms = np.eye(2), []
    for t in range(steps):
        norms.append(np.linalg.norm(J, 2))
        J = matrices[t % len(word)] @ J
    return np.array(norms)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Compute each set, its determinants, and what the shortcut would have said."""
    claims = [*_nested(), *_one_q()]
    tick(0.4)
    claims += [*_shared_square(), *_cyclic()]
    tick(0.7)
    claims += _heavy_ball(60 if quick else 400)
    return Outcome(_draw(), claims)


def _nested() -> list[Claim]:
    origin = jnp.zeros(2)
    J = cx.conservative_jacobian(shears)(origin)
    vertices = J.vertices()
    mean = _singular_mean(vertices)
    report = cx.check(shears, origin)
    inside, outside = J.contains(mean), J.contains(mean, hull=False)
    return [
        agrees("two shears: determinants of the four extreme selections", MULTI_AFFINE,
               np.ones(4), np.linalg.det(vertices)),
        agrees("σ_min of the mean of two of them", MULTI_AFFINE, 0.0,
               np.linalg.norm(mean, -2), 1e-12),
        Claim("that mean: in the hull, in the set", MULTI_AFFINE, "True, False",
              f"{inside}, {outside}", inside and not outside),
        has_verdict("certificate for the program", MULTI_AFFINE, cx.Verdict.PROVEN, report.verdict),
        at_least("its margin on the whole set", ours(MULTI_AFFINE), 0.2, report.margin or 0.0),
    ]  # fmt: skip


def _one_q() -> list[Claim]:
    limits = jax.vmap(jax.grad(hinge))(jnp.array([1e-9, -1e-9]))
    J = cx.conservative_jacobian(hinge)(0.0)
    low, high = (float(b[0, 0]) for b in J.bounds())
    shared = _shared_slopes()
    return [
        same_points("relu(x) + 2 relu(−x): limits of its slopes at 0", CLOSED_GRAPH,
                    [1.0, -2.0], limits),
        agrees("set with a weight for each kink", CLOSED_GRAPH, [-2.0, 1.0], [low, high]),
        agrees("set with one weight for both", CLOSED_GRAPH, [-1.0, 0.0],
               [shared.min(), shared.max()]),
        agrees("distance of the limits from the latter", CLOSED_GRAPH, [1.0, 1.0],
               [np.min(np.abs(shared - s)) for s in limits]),
    ]  # fmt: skip


def _shared_square() -> list[Claim]:
    J = cx.conservative_jacobian(disguised_identity)(jnp.zeros(2))
    ends = [np.linalg.det(J.element(np.array([q]))) for q in (0.0, 1.0)]
    report = cx.check(disguised_identity, jnp.zeros(2))
    return [
        agrees("(1 − 2q)²: determinants at q = 0 and q = 1", RANK, [1.0, 1.0], ends),
        agrees("determinant at q = ½", RANK, 0.0, np.linalg.det(J.element([0.5]))),
        has_verdict("certificate of a program with that set", RANK, cx.Verdict.REFUTED,
                    report.verdict),
    ]  # fmt: skip


def _cyclic() -> list[Claim]:
    J = cx.conservative_jacobian(disguised_by_permutations)(jnp.zeros(3))
    vertices = J.vertices()
    # the mean of the three pieces, as a selection of the program
    mean = J.element(_weights_of(J, vertices.mean(axis=0)))
    report = cx.check(disguised_by_permutations, jnp.zeros(3))
    return [
        same_points("cyclic: the pieces of the program", RANK, PERMUTATIONS, vertices),
        agrees("their determinants", RANK, np.ones(3), np.linalg.det(vertices)),
        agrees("rank of their mean, an element too", RANK, 1, np.linalg.matrix_rank(mean)),
        has_verdict("certificate of this program: not proven by equal signs, no witness found", RANK,
                    cx.Verdict.UNKNOWN, report.verdict),
    ]  # fmt: skip


def _heavy_ball(steps: int) -> list[Claim]:
    origin = (jnp.zeros(2), jnp.asarray(0.0))
    report = cx.check(fixed_point, *origin)
    implicit = cx.implicit_jacobian(fixed_point)(*origin).vertices()[:, :, 0]
    word = np.linalg.multi_dot([step_jacobian(c) for c in GROWING])
    alone = [np.abs(np.linalg.eigvals(step_jacobian(c))).max() for c in CURVATURE]
    growth = piggyback_norms(GROWING, steps + 1)[-1] / piggyback_norms(GROWING, 1)[0]
    return [
        has_verdict("heavy ball: certificate of the implicit derivative", PIGGYBACK,
                    cx.Verdict.PROVEN, report.verdict),
        same_points("vertices of dx/dθ = 1/curvature, for x and for the previous x", PIGGYBACK,
                    [[1.0, 1.0], [4.0, 4.0]], implicit),
        agrees("eigenvalues of the word M₁M₁M¼M¼", PIGGYBACK, [-9 / 8, -9 / 32],
               np.sort(np.linalg.eigvals(word).real)),
        at_most("spectral radius of M₁ and of M¼ alone", ours(PIGGYBACK), 1 - 1e-9, max(alone)),
        at_least(f"piggyback derivative after {steps} steps along that word", ours(PIGGYBACK),
                 0.5 * (9 / 8) ** (steps // 4), growth),
    ]  # fmt: skip


def _singular_mean(vertices: np.ndarray) -> np.ndarray:
    """The most singular among the means of two vertices."""
    means = [(a + b) / 2 for i, a in enumerate(vertices) for b in vertices[:i]]
    return min(means, key=lambda m: np.linalg.norm(m, -2))


def _shared_slopes() -> np.ndarray:
    """Slopes of ``hinge`` at 0 if both kinks take the same q."""
    J = cx.conservative_jacobian(hinge)(0.0)
    return np.array([J.element([q, q])[0, 0] for q in np.linspace(0, 1, 101)])


def _weights_of(J: cx.ConservativeJacobian, target: np.ndarray) -> np.ndarray:
    """q with element(q) = target: one of the thirds, since the program nests two choices."""
    grid = np.linspace(0, 1, 7)
    choices = [np.array([p, q]) for p in grid for q in grid]
    return min(choices, key=lambda q: float(np.linalg.norm(J.element(q) - target)))


def _draw() -> style.Figure:
    fig = style.figure(10.4, 7.6)
    [[top], [bottom]] = fig.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.02))
    nested, slopes, square = top.subplots(1, 3, width_ratios=(1, 1.1, 1))
    cyclic, ball = bottom.subplots(1, 2, width_ratios=(0.92, 1.25))
    _draw_nested(nested)
    _draw_one_q(slopes)
    _draw_square(square)
    _draw_cyclic(cyclic)
    _draw_heavy_ball(ball)
    return fig


def _draw_nested(ax: Axes) -> None:
    J = cx.conservative_jacobian(shears)(jnp.zeros(2))
    t = np.linspace(0, 1, 101)
    start, stop = J.element([0.0, 0.0]), J.element([1.0, 1.0])
    through_set = [np.linalg.det(J.element([q, q])) for q in t]
    straight = [np.linalg.det((1 - s) * start + s * stop) for s in t]
    ax.plot(t, through_set, color=style.SET, label="selections $q = (t, t)$")
    ax.plot(t, straight, color=style.BAD, ls=(0, (4, 2)), label="straight, in the hull")
    ax.plot([0, 1], [1, 1], "o", color="white", mec=style.SET, mew=1.8, ms=7, zorder=4)
    ax.plot(0.5, min(straight), "X", color=style.BAD, ms=9, mec="white", zorder=5)
    ax.set(xlabel="$t$", ylabel="determinant", title="Nested kinks", ylim=(-0.15, 1.75))
    ax.legend(loc="upper center")


def _draw_one_q(ax: Axes) -> None:
    J = cx.conservative_jacobian(hinge)(0.0)
    low, high = (float(b[0, 0]) for b in J.bounds())
    shared = _shared_slopes()
    limits = np.asarray(jax.vmap(jax.grad(hinge))(jnp.array([1e-9, -1e-9])))
    bars = ((2, low, high, style.SET), (1, shared.min(), shared.max(), style.BAD))
    for row, left, right, colour in bars:
        ax.plot([left, right], [row, row], color=colour, lw=11, alpha=0.4, solid_capstyle="butt")
    for slope in limits:
        ax.axvline(slope, color=style.TRUTH, lw=1, ls=(0, (2, 2)), zorder=1)
    ax.plot(limits, [0, 0], "o", color=style.TRUTH, ms=8)
    ax.set(yticks=[2, 1, 0], yticklabels=["a weight\neach", "one weight\nfor both", "limits of\nslopes"],
           xlabel="slope at $x = 0$", xlim=(-2.5, 1.5), ylim=(-0.6, 2.6),
           title=r"$\mathrm{relu}(x) + 2\,\mathrm{relu}(-x)$")  # fmt: skip
    ax.grid(visible=False, axis="y")


def _draw_square(ax: Axes) -> None:
    J = cx.conservative_jacobian(disguised_identity)(jnp.zeros(2))
    q = np.linspace(0, 1, 101)
    determinants = [np.linalg.det(J.element([t])) for t in q]
    ax.plot(q, determinants, color=style.SET)
    ax.plot([0, 1], [1, 1], "o", color="white", mec=style.SET, mew=1.8, ms=7, zorder=4)
    ax.plot(0.5, min(determinants), "X", color=style.BAD, ms=9, mec="white", zorder=5)
    ax.set(xlabel="$q$", title="$(1 - 2q)^2$: rank two", ylim=(-0.15, 1.75))
    ax.set_ylabel("determinant")


def _draw_cyclic(ax: Axes) -> None:
    import matplotlib.tri as tri

    n = 60
    weights = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    places = weights @ corners
    determinants = np.linalg.det(np.tensordot(weights, PERMUTATIONS, axes=1))
    mesh = tri.Triangulation(*places.T)
    levels = np.linspace(0, 1, 11)
    filled = ax.tricontourf(mesh, np.clip(determinants, 0, 1), levels=levels, cmap="Purples")
    ax.tricontour(mesh, determinants, levels=levels[1:-1], colors="white", linewidths=0.7)
    ax.plot(*np.append(corners, corners[:1], axis=0).T, color=style.INK, lw=1)
    ax.plot(*corners.T, "o", color="white", mec=style.SET, mew=1.8, ms=8, zorder=4, clip_on=False)
    ax.plot(*corners.mean(axis=0), "X", color=style.BAD, ms=10, mec="white", zorder=5)
    names = (("$I$", (-0.04, -0.03), "right"), ("$P$", (1.04, -0.03), "left"),
             ("$P^2$", (0.56, np.sqrt(3) / 2), "left"))  # fmt: skip
    for name, place, side in names:
        ax.text(*place, name, ha=side, va="center", fontsize=14)
    ax.set(aspect="equal", xlim=(-0.15, 1.15), ylim=(-0.1, 0.95))
    ax.set_title("Cyclic permutations and what lies between")
    ax.axis("off")
    bar = ax.figure.colorbar(filled, ax=ax, shrink=0.75, ticks=[0, 0.5, 1])
    bar.set_label("determinant")
    bar.outline.set_visible(False)  # type: ignore[operator]


def _draw_heavy_ball(ax: Axes) -> None:
    steps = 120
    words = (
        (GROWING, style.BAD, "$M_1, M_1, M_{1/4}, M_{1/4}$, again and again"),
        ((1.0,), style.TRUTH, "$M_1$ alone"),
        ((0.25,), style.AD, "$M_{1/4}$ alone"),
    )
    for word, colour, label in words:
        ax.semilogy(piggyback_norms(word, steps), color=colour, lw=1.8, label=label)
    implicit = cx.implicit_jacobian(fixed_point)(jnp.zeros(2), jnp.asarray(0.0)).vertices()
    largest = float(np.abs(implicit).max())
    ax.axhline(largest, color=style.SET, lw=5, alpha=0.4,
               label=f"implicit derivative: at most {largest:g}")  # fmt: skip
    ax.set(xlabel="iteration", ylabel="norm of the derivative", ylim=(1e-4, 3e6),
           title="Heavy ball: piggyback against implicit")  # fmt: skip
    ax.legend(loc="upper left")


EXPERIMENT = Experiment(
    name="counterexamples",
    title="Five counterexamples: why each step of the certificate is there",
    source="Own examples; the theorem behind each stands beside its claims",
    description=(
        "Two shears, one after the other, have determinant 1 under every selection, although the "
        "mean of two selections is singular: the certificate asks about the selections of a "
        "program, never about their hull. One weight for two kinks misses every limit of slopes. "
        "Equal signs at the extreme selections decide only where the pieces differ by rank one: "
        "(1 − 2q)² and the cyclic permutations vanish in between. For the heavy ball the implicit "
        "derivative is proven while the derivative of the iterates grows by 9/8 every four steps."
    ),
    run=run,
)
