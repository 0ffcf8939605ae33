"""Nonsmooth minimisation on the standard test set: evaluations to 1e-6 of the minimum, by method.

The functions of ``conservax.reproduce.nonsmooth_functions`` at 10, 50 and 200 variables, 5,000 evaluations at
most, beside SciPy's BFGS, whose line search stops at kinks. The Crescents are not convex: what counts there
is a certificate at ε = δ = 1e-4, verified by its own points.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from timing import Tick

import conservax as cx
from conservax.reproduce import nonsmooth_functions as functions

SIZES, BUDGET, TOL, GOAL = (10, 50, 200), 5000, 1e-4, 1e-6
METHODS = ("auto", "bfgs", "bundle")
PROBLEMS = (*functions.CONVEX, *functions.CRESCENTS)


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return len(PROBLEMS) * len(SIZES)


def reached(values: np.ndarray, least: float) -> tuple[int | None, float]:
    """The evaluation at which a run of best values meets the goal, and how far off it ends."""
    off = (np.minimum.accumulate(values) - least) / max(1.0, abs(least))
    met = np.flatnonzero(off <= GOAL)
    return (int(met[0]) + 1 if len(met) else None), float(off[-1])


def of_scipy(problem: functions.Problem, n: int) -> tuple[int | None, float]:
    """SciPy's BFGS on the same gradients."""
    slope = jax.jit(jax.value_and_grad(problem.fun))
    values: list[float] = []

    def recorded(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = slope(jnp.asarray(x))
        values.append(float(value))
        return values[-1], np.asarray(gradient)

    minimize(recorded, problem.start(n), jac=True, method="BFGS", options={"maxiter": BUDGET})
    return reached(np.array(values[:BUDGET]), problem.minimum(n))


def cells(row: dict) -> list[str]:
    """A line of the table: evaluations, or how far off, a star where a certificate holds."""
    found = [row["problem"], str(row["variables"])]
    for name in (*METHODS, "SciPy"):
        own = row[name]
        text = f"{own['off']:.0e} off" if own["reached"] is None else f"{own['reached']:,}"
        found.append(text + (" ★" if own.get("certified") else ""))
    return found


def measure(tick: Tick) -> list[dict]:
    """A row for each function and size."""
    rows = []
    with jax.enable_x64(True):
        for problem in PROBLEMS:
            for n in SIZES:
                row: dict = {"benchmark": "minimisation", "problem": problem.name, "variables": n}
                for method in METHODS:
                    result = cx.minimise(
                        problem.fun,
                        problem.start(n),
                        method=method,
                        tol=TOL,
                        max_evaluations=BUDGET,
                    )
                    met, off = reached(np.asarray(result.stats.history), problem.minimum(n))
                    certificate = result.certificate
                    row[method] = {
                        "reached": met,
                        "off": off,
                        "evaluations": int(result.stats.evaluations),
                        "certified": certificate is not None and bool(certificate.recheck()),
                    }
                met, off = of_scipy(problem, n)
                row["SciPy"] = {"reached": met, "off": off}
                rows.append(row)
                tick()
    return rows


if __name__ == "__main__":
    for row in measure(lambda: None):
        print(cells(row), flush=True)
