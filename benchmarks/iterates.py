"""Differentiated algorithms: Sinkhorn beside ott-jax, and what derivatives of the elastic net cost.

Sinkhorn 500 × 500: value and gradient in the cost of a function of the plan, both libraries to the same
bound of the marginals' error (ott-jax's is the sum of absolute errors, ours the largest relative one,
which is stricter). The elastic net's derivatives are set against one run of the algorithm in this library.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import bicgstab
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import implicit_differentiation, sinkhorn
from timing import Tick, milliseconds, ratio, warm

import conservax as cx

ROUNDS = 15
TOLERANCE = 1e-6


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return 2 * ROUNDS


def clouds(n=500):
    """Squared distances of two clouds of the plane, uniform marginals, ε a tenth of the mean cost."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 0.5
    cost = jnp.asarray(((x[:, None] - y) ** 2).sum(-1))
    a = jnp.full(n, 1 / n)
    return cost, a, 0.1 * float(cost.mean()), jnp.asarray(rng.normal(size=(n, n)))


def transport(tick: Tick) -> dict:
    """Value and gradient of Σ W P² in the cost; errors against a run at 1e-13."""
    cost, a, epsilon, weights = clouds()
    ours_plan = cx.iterates.implicit(cx.iterates.sinkhorn(), tol=TOLERANCE)
    exact_plan = cx.iterates.implicit(cx.iterates.sinkhorn(), tol=1e-13)

    def loss_of(plan):
        return jax.jit(jax.value_and_grad(lambda cost: jnp.sum(weights * plan(cost) ** 2)))

    def theirs(lse_mode):
        solver = sinkhorn.Sinkhorn(
            threshold=TOLERANCE, max_iterations=20_000, lse_mode=lse_mode,
            implicit_diff=implicit_differentiation.ImplicitDiff(),
        )  # fmt: skip

        def plan(cost):
            problem = linear_problem.LinearProblem(
                geometry.Geometry(cost_matrix=cost, epsilon=epsilon), a=a, b=a
            )
            return solver(problem).matrix

        return plan

    exact = loss_of(lambda cost: exact_plan(None, (cost, a, a, epsilon)))(cost)[1]
    runs = {
        "conservax": loss_of(lambda cost: ours_plan(None, (cost, a, a, epsilon))),
        "ott-jax": loss_of(theirs(True)),
        "ott-jax kernel": loss_of(theirs(False)),
    }
    times = warm({name: lambda run=run: run(cost) for name, run in runs.items()}, ROUNDS, tick)
    return {
        "benchmark": "iterates",
        "problem": "Sinkhorn 500 × 500, value and gradient in the cost",
        **{
            name: {
                "warm_ms": milliseconds(times, name),
                "relative_error": float(
                    jnp.linalg.norm(run(cost)[1] - exact) / jnp.linalg.norm(exact)
                ),
            }
            for name, run in runs.items()
        },
        "ratio": ratio(times, "ott-jax", "conservax"),
        "ratio_kernel": ratio(times, "ott-jax kernel", "conservax"),
    }


def elastic_net(tick: Tick) -> dict:
    """500 × 100, 30 informative: implicit and piggyback derivatives against one run of forward–backward."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 100))
    truth = np.zeros(100)
    truth[:30] = rng.normal(size=30)
    y = jnp.asarray(X @ truth + 0.1 * rng.normal(size=500))
    X = jnp.asarray(X)
    size = 1 / (float(jnp.linalg.norm(X, 2)) ** 2 / 500 + 0.1)

    def smooth(b, t):
        return jnp.sum((X @ b - y) ** 2) / 1000 + 0.05 * jnp.sum(b**2)

    alg = cx.iterates.forward_backward(smooth, cx.proximal.prox_lasso, size)
    solve, zero, t = cx.iterates.implicit(alg), jnp.zeros(100), jnp.asarray(0.1)
    krylov = cx.iterates.implicit(alg, solve=lambda apply, c: bicgstab(apply, c, tol=1e-9)[0])
    steps = int(solve.solve(zero, t).stats.steps)
    piggyback = cx.iterates.piggyback(alg, steps)
    runs = {
        "forward": jax.jit(lambda t: solve(zero, t)),
        "implicit": jax.jit(jax.value_and_grad(lambda t: jnp.sum(solve(zero, t) ** 2))),
        "implicit, Krylov": jax.jit(jax.value_and_grad(lambda t: jnp.sum(krylov(zero, t) ** 2))),
        "piggyback": jax.jit(lambda t: piggyback(zero, t)),
    }
    times = warm({name: lambda run=run: run(t) for name, run in runs.items()}, ROUNDS, tick)
    return {
        "benchmark": "iterates",
        "problem": "elastic net 500 × 100, derivative in the penalty",
        **{name: {"warm_ms": milliseconds(times, name)} for name in runs},
        "ratio_implicit": ratio(times, "implicit", "forward"),
        "ratio_krylov": ratio(times, "implicit, Krylov", "forward"),
        "ratio_piggyback": ratio(times, "piggyback", "forward"),
        "steps": steps,
    }


def measure(tick: Tick) -> list[dict]:
    """Both rows, in float64."""
    with jax.enable_x64(True):
        return [transport(tick), elastic_net(tick)]


def cells(row: dict) -> list[str]:
    """A row of the table: the problem, the contenders' milliseconds, the ratios."""
    times = ", ".join(
        f"{name} {entry['warm_ms']:.3g}" for name, entry in row.items() if isinstance(entry, dict)
    )
    ratios = ", ".join(
        f"{name.removeprefix('ratio').strip('_') or 'ott-jax'} {value:.2f}"
        for name, value in row.items()
        if name.startswith("ratio")
    )
    return [row["problem"], times, ratios]


if __name__ == "__main__":
    for found in measure(lambda: None):
        print(found)
