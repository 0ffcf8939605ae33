"""Figure 3 through a cone program: an inner problem that no layer can differentiate.

    max over u of uᵀ s(u),   s(u) ∈ argmin over s of ‖s − F(u)‖⁴,   F the Lorenz vector field.

As a cone program the inner problem is

    min over (s, t) of t²  subject to  ‖(2(s − F), t − 1)‖ ≤ t + 1,

that is t ≥ ‖s − F‖². At its solution, s = F and t = 0, the multiplier vanishes and nothing holds s:
every element of the linearised system is singular, although s(u) = F(u) is smooth.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.programs import ConeProgram, Cones, ProgramSolution

from . import lorenz, peers, style
from .claim import (
    MEASURED,
    Claim,
    Experiment,
    Outcome,
    Ticker,
    agrees,
    at_least,
    at_most,
    counts,
    has_verdict,
    ours,
)

SOURCE = "Bolte et al. 2021, Figure 3 and Appendix E.1.3"
THEOREM = "Bolte et al. 2021, Theorem 2"
INNER = ConeProgram(Cones(second_order=(5,)))
SAMPLES = 100
BUMP = 1e-4  # of the central difference
SPELLINGS = {"(‖s − F‖²)²": "squared sum of squares", "‖s − F‖⁴": "fourth power of the norm"}


def inner_data(target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """P, c, A, b for the variables (s, t) and the slack (t + 1, t − 1, 2(s − F))."""
    P = jnp.diag(jnp.array([0.0, 0.0, 0.0, 2.0]))
    A = jnp.zeros((5, 4)).at[:2, 3].set(-1.0).at[2:, :3].set(-2 * jnp.eye(3))
    b = jnp.concatenate([jnp.array([1.0, -1.0]), -2 * target])
    return P, jnp.zeros(4), A, b


@jax.jit
def ask(points: jax.Array, others: jax.Array) -> tuple[jax.Array, ProgramSolution]:
    """∇ uᵀs(u) for each row u, and the solutions of all inner problems, those of ``others`` last.

    ``others`` are values of F, solved in the same batch.
    """

    def total(points: jax.Array) -> tuple[jax.Array, ProgramSolution]:
        targets = jnp.concatenate([jax.vmap(lorenz.field)(points), others])
        solution = INNER(*jax.vmap(inner_data)(targets))
        return jnp.sum(points * solution.primal[: len(points), :3]), solution

    return jax.grad(total, has_aux=True)(points)


def peer_solution(spelling: str) -> peers.Layer:
    """cvxpylayers' solution of the inner problem, F ↦ s, in one of two spellings."""
    import cvxpy as cp

    target, s = cp.Parameter(3), cp.Variable(3)
    power = {
        "(‖s − F‖²)²": lambda: cp.square(cp.sum_squares(s - target)),
        "‖s − F‖⁴": lambda: cp.power(cp.norm(s - target), 4),
    }[spelling]()
    return peers.layer(cp.Problem(cp.Minimize(power)), [target], s)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Ask the layer along the butterfly, and follow cvxpylayers' ascent where it is installed."""
    start = jnp.array(lorenz.START)
    steps = 2000 if quick else 6000
    butterfly = np.asarray(lorenz.ascend(start, lorenz.implicit_objective, steps))
    vanilla = np.asarray(lorenz.ascend(start, lorenz.vanilla_objective, 120))
    points = jnp.asarray(butterfly[:: steps // SAMPLES][:SAMPLES])
    targets = jax.jit(jax.vmap(lorenz.field))(points)
    tick(0.1)
    bumped = targets[0] + BUMP * jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    answers, solution = jax.device_get(ask(points, bumped))
    found, pair = solution.primal[:SAMPLES, :3], solution.primal[SAMPLES:, 0]
    error = np.abs(found - targets).max() / np.abs(targets).max()
    refuted = int(np.sum(solution.info.verdict[:SAMPLES] == cx.Verdict.REFUTED))
    tick(0.4)
    report = INNER.check(*inner_data(targets[0]))
    equation = cx.check(lambda s, u: s - lorenz.field(u), targets[0], start)
    tick(0.6)

    claims = [
        at_most("the layer finds s(u) = F(u): largest relative error on the butterfly", ours(SOURCE),
                1e-8, float(error)),
        counts("… and refutes the condition there, from inside jit", THEOREM, SAMPLES, refuted,
               "points"),
        counts("… and returns NaN for the gradient of uᵀs(u): ascent does not start", THEOREM,
               SAMPLES, int(np.isnan(answers).all(axis=1).sum()), "points"),
        agrees("yet s(u) is smooth: ∂s₁/∂F₁ by central differences of its solutions", MEASURED, 1.0,
               float(pair[0] - pair[1]) / (2 * BUMP), 1e-6),
        Claim("check: no multiplier, no curvature", THEOREM,
              "REFUTED, second-order condition fails", f"{report.verdict.name}, second-order condition "
              f"{'holds' if report.second_order else 'fails'}",
              report.verdict == cx.Verdict.REFUTED and not report.second_order),
        has_verdict("the same map as the equation s − F(u) = 0", THEOREM, cx.Verdict.PROVEN,
                    equation.verdict),
    ]  # fmt: skip
    remarks = [
        f"conservax check of the cone program at u = {lorenz.START}: {report.verdict.name}, "
        f"because {report.reason.rstrip('.')}. The verdict speaks of the program, not of s(u), "
        "which is smooth.",
    ]
    theirs = {}
    if peers.installed():
        theirs = {
            spelling: _peer_ascent(spelling, start, 40 if quick else 300) for spelling in SPELLINGS
        }
        claims += _peer_claims(start, theirs, butterfly, vanilla)
        remarks.append(
            f"{peers.name()}: for each spelling of the program the ascent with the gradient that it "
            "returns. The 0 of the optimality equation makes a butterfly, the derivative of s the "
            "vanilla ascent."
        )
    else:
        remarks.append(peers.name())
    stays = f"conservax: {report.verdict.name}" + ", stays here" * bool(np.isnan(answers).all())
    return Outcome(_draw(butterfly, vanilla, theirs, stays), claims, remarks)


def _peer_ascent(spelling: str, start: jax.Array, steps: int) -> np.ndarray:
    inner = peer_solution(spelling)
    gradient = jax.grad(lambda u: u @ inner(lorenz.field(u)))
    return peers.follow(gradient, start, lorenz.STEP, steps)


def _peer_slope(spelling: str, target: jax.Array) -> float:
    """∂s₁/∂F₁ by cvxpylayers."""
    inner = peer_solution(spelling)
    return float(jax.grad(lambda F: inner(F)[0])(target)[0])


def _peer_claims(
    start: jax.Array, theirs: dict[str, np.ndarray], butterfly: np.ndarray, vanilla: np.ndarray
) -> list[Claim]:
    target = lorenz.field(start)
    slopes = [_peer_slope(spelling, target) for spelling in theirs]
    claims = [
        at_least("cvxpylayers’ ∂s₁/∂F₁ (1 in truth): difference between two spellings of the same "
                 "program", MEASURED, 0.01, abs(slopes[0] - slopes[1])),
    ]  # fmt: skip
    for spelling, path in theirs.items():
        last = min(len(path), 40)
        gaps = [
            float(np.linalg.norm(path[:last] - other[:last], axis=1).max())
            for other in (butterfly, vanilla)
        ]
        claims.append(
            at_least(f"cvxpylayers, {spelling}: distance to the butterfly and to vanilla ascent, "
                     "the smaller, in 40 steps", MEASURED, 1.0, min(gaps))
        )  # fmt: skip
    return claims


def _draw(
    butterfly: np.ndarray, vanilla: np.ndarray, theirs: dict[str, np.ndarray], stays: str
) -> style.Figure:
    fig = style.figure(10.4, 5.0)
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.15))
    left.plot(*butterfly[:, [0, 2]].T, color=style.MUTED, lw=0.5, alpha=0.7,
              label="least norm, as in Figure 3")  # fmt: skip
    left.plot(*butterfly[0, [0, 2]], "X", color=style.BAD, ms=11, zorder=6,
              label=stays)  # fmt: skip
    iterations = np.arange(len(butterfly))
    right.semilogy(iterations[:300], np.linalg.norm(butterfly[:300], axis=1), color=style.MUTED,
                   label="least norm, as in Figure 3")  # fmt: skip
    right.semilogy(iterations[: len(vanilla)], np.linalg.norm(vanilla, axis=1), color=style.BAD,
                   ls=(0, (4, 2)), label="true gradient (vanilla)")  # fmt: skip
    for (spelling, path), colour in zip(theirs.items(), (style.TRUTH, style.SET), strict=False):
        label = f"cvxpylayers, {SPELLINGS[spelling]}"
        left.plot(*path[:, [0, 2]].T, color=colour, lw=1.1, label=label)
        right.semilogy(
            np.arange(len(path)), np.linalg.norm(path, axis=1), color=colour, label=label
        )
    left.set(xlabel="$x$", ylabel="$z$", title="Ascent on $u^T s(u)$", xlim=(-21, 42),
             ylim=(-4, 58))  # fmt: skip
    right.set(xlabel="iteration", ylabel=r"$\|u\|$", title="One objective, several “gradients”",
              xlim=(0, 300), ylim=(0.5, 1e6))  # fmt: skip
    entries = dict(zip(*left.get_legend_handles_labels()[::-1], strict=True))
    entries |= dict(zip(*right.get_legend_handles_labels()[::-1], strict=True))
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    if not theirs:
        left.text(0.97, 0.05, f"cvxpylayers: {peers.MISSING}", transform=left.transAxes,
                  ha="right", color=style.MUTED)  # fmt: skip
    return fig


EXPERIMENT = Experiment(
    name="lorenz-cone",
    title="The butterfly’s inner problem as a cone program",
    source=SOURCE,
    description=(
        "The inner problem of the previous figure, min ‖s − F(u)‖⁴, written with a second-order "
        "cone. Its solution F(u) is smooth in u, but the linearised system is singular at every u, "
        "so that implicit differentiation has nothing to say. conservax finds the solution, refutes "
        "the condition and returns NaN."
    ),
    run=run,
    compares=True,
)
