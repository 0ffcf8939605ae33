"""Implicit gradients through ``custom_root`` and ``custom_fixed_point``, beside jaxopt's.

Both libraries get the same optimality function and the same ready-made solution, so that the
forward solver plays no part: what is timed is ``jax.jit(jax.value_and_grad(loss))``, whose work is
the linear system of the implicit function theorem.
"""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from sklearn.linear_model import Lasso
from timing import Tick, first, milliseconds, ratio, warm

import conservax as cx

WARM_ROUNDS = 51
FIRST_ROUNDS = 5


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return 2 * (WARM_ROUNDS + FIRST_ROUNDS)


def ridge():
    """min ½‖Xb − y‖² + ½λ‖b‖² with 500 unknowns; d/dλ of c·b is −c·(XᵀX + λI)⁻¹b."""
    rng = np.random.default_rng(0)
    X, y, c = rng.normal(size=(1000, 500)), rng.normal(size=1000), rng.normal(size=500)
    lam = 10.0
    hessian = X.T @ X + lam * np.eye(500)
    solution = np.linalg.solve(hessian, X.T @ y)
    exact = -c @ np.linalg.solve(hessian, solution)
    X, y, c = map(jnp.asarray, (X, y, c))

    def optimality(b, lam):
        return X.T @ (X @ b - y) + lam * b

    def loss(b):
        return c @ b

    ours, theirs = cx.custom_root(optimality), jaxopt.implicit_diff.custom_root(optimality)
    return solution, loss, lam, exact, ours, theirs


def lasso():
    """min ‖Xb − y‖²/2n + λ‖b‖₁, 100 × 1000 with 10 true features, held-out loss.

    On the support S, with signs s, db_S/dλ = −n (X_SᵀX_S)⁻¹ s.
    """
    rng = np.random.default_rng(0)
    n, p = 100, 1000
    X, X_out = rng.normal(size=(n, p)), rng.normal(size=(n, p))
    truth = np.zeros(p)
    truth[rng.choice(p, 10, replace=False)] = rng.choice([-1.0, 1.0], 10)
    y = X @ truth + 0.1 * rng.normal(size=n)
    y_out = X_out @ truth + 0.1 * rng.normal(size=n)
    lam = np.abs(X.T @ y).max() / n / 10
    b = Lasso(alpha=lam, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X, y).coef_
    support = np.flatnonzero(b)
    X_s, signs = X[:, support], np.sign(b[support])
    solution = np.zeros(p)
    solution[support] = np.linalg.solve(X_s.T @ X_s, X_s.T @ y - n * lam * signs)
    slope = -n * np.linalg.solve(X_s.T @ X_s, signs)
    exact = (X_out @ solution - y_out) @ X_out[:, support] @ slope / n
    step = n / np.linalg.norm(X, 2) ** 2
    X, y, X_out, y_out = map(jnp.asarray, (X, y, X_out, y_out))

    def iteration(b, lam):
        moved = b - step * X.T @ (X @ b - y) / n
        return jax.nn.relu(moved - step * lam) - jax.nn.relu(-moved - step * lam)

    def loss(b):
        return jnp.sum((X_out @ b - y_out) ** 2) / (2 * n)

    ours = cx.custom_fixed_point(iteration)
    theirs = jaxopt.implicit_diff.custom_fixed_point(iteration)
    return solution, loss, lam, exact, ours, theirs


def measure(tick: Tick) -> list[dict]:
    """One row for each problem: times in milliseconds, errors relative to the closed form."""
    rows = []
    for name, problem in (
        ("ridge, 500 unknowns", ridge),
        ("Lasso, 100 × 1000, 10 true features", lasso),
    ):
        solution, loss, lam, exact, *decorators = problem()
        solution, lam = jnp.asarray(solution), jnp.asarray(lam)

        def build(decorator, solution=solution, loss=loss, lam=lam):
            solver = decorator(lambda init, lam: init)
            gradient = jax.jit(jax.value_and_grad(lambda lam: loss(solver(solution, lam))))
            return lambda: gradient(lam)

        builders = {
            name: lambda decorator=decorator, build=build: build(decorator)
            for name, decorator in zip(("conservax", "jaxopt"), decorators, strict=True)
        }
        cold = first(builders, FIRST_ROUNDS, tick)
        contenders = {name: builder() for name, builder in builders.items()}
        hot = warm(contenders, WARM_ROUNDS, tick)
        row = {"benchmark": "implicit gradient", "problem": name}
        for who, run in contenders.items():
            error = abs(float(run()[1]) - exact) / abs(exact)
            row[who] = {
                "warm_ms": milliseconds(hot, who),
                "first_call_ms": milliseconds(cold, who),
                "relative_error": error,
            }
        row["ratio_warm"] = ratio(hot, "conservax", "jaxopt")
        row["ratio_first_call"] = ratio(cold, "conservax", "jaxopt")
        rows.append(row)
    return rows
