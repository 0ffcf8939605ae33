"""The derivatives of Sinkhorn–Knopp converge, at the rate of the algorithm itself.

    min ⟨C(θ), P⟩ + ε Σ P (log P − 1),    P 1 = a,  Pᵀ1 = b

between two small clouds, θ the shift of one of them; the local rate is σ₂², σ₂ the second singular value
of diag(a)^{−½} P diag(b)^{−½}.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, about, at_most, has_verdict, ours

SOURCE = "Pauwels, Vaiter, The derivatives of Sinkhorn–Knopp converge, 2023, Theorem 1"
EPSILON = 0.4


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Twelve and nine points of the plane."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 2)), rng.normal(size=(9, 2)) * 0.7 + [1.0, 0.3]


def transport(theta: jax.Array) -> tuple[jax.Array, ...]:
    """(cost, a, b, ε) with the second cloud moved by θ."""
    x, y = map(jnp.asarray, clouds())
    cost = jnp.sum((x[:, None] - (y + theta * jnp.array([1.0, -0.5]))) ** 2, axis=-1)
    n, m = cost.shape
    return cost, jnp.full(n, 1 / n), jnp.full(m, 1 / m), jnp.asarray(EPSILON)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Piggyback derivatives of the plan in θ, step by step, against the implicit derivative."""
    steps, theta = 160, jnp.asarray(0.2)
    alg = cx.iterates.sinkhorn()
    plan_of = cx.iterates.implicit(alg, tol=1e-14)
    plan, slope = jax.jit(
        lambda t: jax.jvp(lambda t: plan_of(None, transport(t)), (t,), (jnp.ones(()),))
    )(theta)

    def along(theta: jax.Array) -> jax.Array:
        data = transport(theta)

        def once(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return alg.step(state, data), alg.output(state, data)

        return jax.lax.scan(once, alg.init(None, data), None, length=steps)[1]

    plans, slopes = map(np.asarray, jax.jit(lambda t: jax.jvp(along, (t,), (jnp.ones(()),)))(theta))
    tick(0.5)
    h = 1e-5
    difference = (plan_of(None, transport(theta + h)) - plan_of(None, transport(theta - h))) / (
        2 * h
    )
    report = cx.iterates.check(alg, plan, transport(theta))
    tick(0.9)
    a, b = (np.asarray(m) for m in transport(theta)[1:3])
    sigma = np.linalg.svd(np.asarray(plan) / np.sqrt(np.outer(a, b)), compute_uv=False)[1]
    errors = np.linalg.norm(plans - np.asarray(plan), axis=(1, 2))
    slope_errors = np.linalg.norm(slopes - np.asarray(slope), axis=(1, 2))
    window = slice(20, int(np.argmax(errors < 1e-11)) or steps)
    rate = float(np.exp(np.polyfit(np.arange(steps)[window], np.log(errors[window]), 1)[0]))
    claims = [
        at_most("implicit derivative against finite differences", ours(SOURCE), 1e-8,
                float(np.abs(np.asarray(slope) - difference).max())),
        at_most(f"error of the derivative after {steps} steps", ours(SOURCE), 1e-8, slope_errors[-1]),
        about("local rate of the iterates; σ₂²", ours(SOURCE), sigma**2, rate, 0.02),
        about("σ₂² and the spectral radius that check finds in the quotient", SOURCE, sigma**2,
              report.contraction.lower, 1e-6),
        has_verdict("the iteration contracts in the quotient", SOURCE, cx.Verdict.PROVEN,
                    report.contraction.verdict),
        has_verdict("the implicit equation in the quotient", SOURCE, cx.Verdict.PROVEN,
                    report.implicit.verdict),
    ]  # fmt: skip
    return Outcome(_draw(np.asarray(plan), errors, slope_errors, sigma**2), claims)


def _draw(plan: np.ndarray, errors: np.ndarray, slopes: np.ndarray, rate: float) -> style.Figure:
    fig = style.figure(10.0, 4.3)
    left, right = fig.subplots(1, 2)
    x, y = clouds()
    y = y + 0.2 * np.array([1.0, -0.5])
    for i, j in np.argwhere(plan > 2e-3):
        left.plot(
            *zip(x[i], y[j], strict=True), color=style.SET, lw=22 * plan[i, j], alpha=0.55, zorder=1
        )
    left.plot(*x.T, "o", color=style.TRUTH, label="$a$", ms=6)
    left.plot(*y.T, "s", color=style.AD, label="$b$", ms=6)
    left.set(title=f"The plan at ε = {EPSILON}", aspect="equal")
    left.legend(loc="upper left")
    t = np.arange(len(errors))
    right.semilogy(t, errors + 1e-17, color=style.TRUTH, label="plan")
    right.semilogy(t, slopes + 1e-17, color=style.AD, label="derivative")
    right.semilogy(
        t, slopes[0] * rate**t, color=style.MUTED, ls="--", lw=1.2, label="$\\sigma_2^{2t}$"
    )
    right.set(xlabel="iterations", ylabel="error", title="Both converge linearly", ylim=(1e-17, 10))
    right.legend()
    return fig


EXPERIMENT = Experiment(
    name="iterates-sinkhorn",
    title="The derivatives of Sinkhorn–Knopp converge",
    source=SOURCE,
    description=(
        "The derivative of the transport plan in a shift of one cloud, carried along Sinkhorn's iteration in "
        "the log domain. The potentials are determined up to a constant, so that the iteration contracts in "
        "the quotient only; there its derivative has the squared second singular value of the scaled plan as "
        "its radius, and iterate and derivative share that rate up to a factor t."
    ),
    run=run,
)
