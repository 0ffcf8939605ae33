"""Methods for functions with kinks on the standard test set, beside two that are not made for them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, at_least, at_most, counts, ours
from .nonsmooth_functions import CONVEX, CRESCENTS, Problem

SOURCE = "Lewis and Overton 2013"
SET = "Haarala, Miettinen and Mäkelä 2004"
BUDGET = 5000
OURS = ("bfgs", "bundle")
COLOURS = {
    "bfgs": style.TRUTH,
    "bundle": style.GOOD,
    "subgradient": style.MUTED,
    "SciPy BFGS": style.BAD,
}


def _others(problem: Problem, n: int, budget: int) -> dict[str, np.ndarray]:
    """Values met by subgradient descent with steps c/√k, and by SciPy's BFGS."""
    from scipy.optimize import minimize

    both = jax.jit(jax.value_and_grad(problem.fun))
    x = jnp.asarray(problem.start(n))
    found: dict[str, np.ndarray] = {}

    @jax.jit
    def descend(x: jax.Array) -> jax.Array:
        length = jnp.linalg.norm(x) / 10 + 0.1

        def step(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, g = jax.value_and_grad(problem.fun)(x)
            return x - length / jnp.sqrt(k) * g / jnp.maximum(jnp.linalg.norm(g), 1e-300), value

        return jax.lax.scan(step, x, jnp.arange(1.0, budget + 1))[1]

    found["subgradient"] = np.asarray(descend(x))
    values: list[float] = []

    def recorded(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = both(jnp.asarray(x))
        values.append(float(value))
        return float(value), np.asarray(g)

    minimize(
        recorded, np.asarray(x), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": budget}
    )
    found["SciPy BFGS"] = np.array(values)
    return {name: np.minimum.accumulate(v[np.isfinite(v)]) for name, v in found.items()}


def run(quick: bool, tick: Ticker) -> Outcome:
    """Value against evaluations for each problem and method; certificates rechecked."""
    n = 10 if quick else 50
    problems = (*CONVEX, *CRESCENTS)
    curves: dict[str, dict[str, np.ndarray]] = {}
    rechecked = fewer = 0
    worst = 0.0
    lost = 0.0
    for number, problem in enumerate(problems):
        best = problem.minimum(n)
        scale = max(1.0, abs(best))
        curves[problem.name] = {}
        for method in OURS:
            result = cx.minimise(
                problem.fun, problem.start(n), method=method, tol=1e-4, max_evaluations=BUDGET
            )
            curves[problem.name][method] = (result.stats.history - best) / scale
            if method == "bfgs":
                rechecked += result.certificate is not None and result.certificate.recheck()
        others = _others(problem, n, 1000 if quick else BUDGET)
        curves[problem.name] |= {name: (v - best) / scale for name, v in others.items()}
        if problem.convex:
            found = [curves[problem.name][method] for method in OURS]
            worst = max(worst, min(float(c[-1]) for c in found))
            reached = [int(np.argmax(c <= 1e-6)) if c[-1] <= 1e-6 else BUDGET for c in found]
            fewer += reached[1] < reached[0]
            lost = max(lost, float(curves[problem.name]["SciPy BFGS"][-1]))
        tick((number + 1) / len(problems))
    claims = [
        at_most("convex ones: largest (f − f*)/max(1, |f*|)", ours(SOURCE), 1e-6, worst),
        counts(
            "certificates of BFGS, rechecked", ours(SOURCE), len(problems), rechecked, "problems"
        ),
        at_least("convex ones on which bundles evaluate less than BFGS", ours(SET), 3, fewer),
        at_least("SciPy's BFGS stops at a kink: largest error", ours(SOURCE), 1e-4, lost),
    ]
    fig = style.figure(11.4, 5.6)
    axes = fig.subplots(2, 4).ravel()
    for ax, (name, found) in zip(axes, curves.items(), strict=False):
        for method, curve in found.items():
            ax.loglog(
                np.arange(1, len(curve) + 1),
                np.maximum(curve, 1e-12),
                color=COLOURS[method],
                label=method,
            )
        ax.set(title=name, ylim=(1e-10, None))
    axes[0].set_ylabel("relative error")
    axes[4].set_ylabel("relative error")
    for ax in axes[4:7]:
        ax.set_xlabel("evaluations")
    axes[7].axis("off")
    axes[7].legend(*axes[0].get_legend_handles_labels(), loc="center", title=f"{n} variables")
    return Outcome(fig, claims)


EXPERIMENT = Experiment(
    name="nonsmooth-methods",
    title="Methods for kinks on the standard nonsmooth test set",
    source=f"{SET}; {SOURCE}",
    description=(
        "Value against evaluations for BFGS with a weak Wolfe line search and for a proximal bundle method, "
        "beside subgradient descent and SciPy's BFGS, whose line search asks for more than a kink can give."
    ),
    run=run,
)
