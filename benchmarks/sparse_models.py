"""Sparse models beside celer and scikit-learn: hypergradients, and the search for the Lasso's penalty.

Hypergradient: held-out squared error of the Lasso and its derivative in log α, on halves of
``make_correlated_data(1000, p, random_state=0)``, beside one solve of celer at a duality gap of 1e-8 (what
sparse-ho's implicit differentiation spends before its own work). Search: five folds of
``make_correlated_data(1000, 5000, random_state=0)``, beside ``LassoCV`` and paths of celer at 1e-3; the error
is relative to the best point of the 100.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from celer import Lasso
from celer.datasets import make_correlated_data
from celer.homotopy import celer_path
from sklearn.linear_model import LassoCV
from sklearn.model_selection import KFold
from timing import Tick, milliseconds, ratio, warm

import conservax as cx
from conservax.sparse import LassoSearchCV

ROUNDS = 5
CASES = [(2000, 10), (2000, 100), (20000, 10), (20000, 100)]


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return ROUNDS * len(CASES) + 1


def hypergradient(p: int, part: int, tick: Tick) -> dict[str, Any]:
    """One row: value and gradient beside celer's solve."""
    X, y, _ = make_correlated_data(1000, p, random_state=0)
    X, X_out, y, y_out = np.asfortranarray(X[:500]), X[500:], y[:500], y[500:]
    alpha = np.abs(X.T @ y).max() / 500 / part

    def error(log_alpha: jax.Array) -> jax.Array:
        beta = cx.sparse.lasso(X, y, jnp.exp(log_alpha))
        return jnp.mean((y_out - X_out @ beta) ** 2)

    both = jax.value_and_grad(error)
    celer = Lasso(alpha, fit_intercept=False, tol=1e-8)
    beta = cx.sparse.lasso(X, y, alpha)
    contenders = {
        "gradient": lambda: both(np.log(alpha)),
        "solve": lambda: cx.sparse.lasso(X, y, alpha),
        "warm": lambda: cx.sparse.lasso(X, y, alpha, warm_start=beta),
        "celer": lambda: celer.fit(X, y).coef_,
    }
    times = warm(contenders, ROUNDS, tick)
    return {
        "benchmark": "sparse models",
        "problem": f"p = {p}, α_max/{part}",
        "ms": {name: milliseconds(times, name) for name in times},
        "gradient_to_celer": ratio(times, "gradient", "celer"),
        "gradient_to_solve": ratio(times, "gradient", "solve"),
    }


def celer_cv(X: np.ndarray, y: np.ndarray, count: int) -> float:
    """The least mean error on a grid, by celer's path on every fold."""
    centred = X - X.mean(0)
    alphas = np.abs(centred.T @ (y - y.mean())).max() / len(y) * np.geomspace(1, 1e-3, count)
    errors = []
    for fit_on, out in KFold(5).split(X):
        centre, mean = X[fit_on].mean(0), y[fit_on].mean()
        coefs = celer_path(
            np.asfortranarray(X[fit_on] - centre),
            y[fit_on] - mean,
            "lasso",
            alphas=alphas,
            tol=1e-3,
        )[1]
        errors.append(((y[out, None] - mean - (X[out] - centre) @ coefs) ** 2).mean(0))
    return float(np.mean(errors, axis=0).min())


def search(tick: Tick) -> dict[str, Any]:
    """One row: seconds and errors of each way to a penalty, once each."""
    X, y, _ = make_correlated_data(1000, 5000, random_state=0)
    ways = {
        "LassoSearchCV": lambda: LassoSearchCV().fit(X, y).certificate_.error,
        "celer, 100 points": lambda: celer_cv(X, y, 100),
        "celer, 30 points": lambda: celer_cv(X, y, 30),
        "LassoCV": lambda: float(LassoCV(cv=5).fit(X, y).mse_path_.mean(1).min()),
    }
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        error = way()
        found[name] = {"s": time.perf_counter() - start, "error": error}
    tick()
    return {"benchmark": "sparse models", "problem": "search, 1000 × 5000, 5 folds", "ways": found}


def measure(tick: Tick) -> list[dict[str, Any]]:
    """Hypergradients, then the search."""
    return [*(hypergradient(p, part, tick) for p, part in CASES), search(tick)]


def cells(row: dict[str, Any]) -> list[str]:
    """A hypergradient's row of the page."""
    ms = row["ms"]
    return [
        row["problem"],
        *(f"{ms[name]:.3g}" for name in ("gradient", "solve", "warm", "celer")),
        f"{row['gradient_to_celer']:.2f}",
        f"{row['gradient_to_solve']:.2f}",
    ]


def ways(row: dict[str, Any]) -> list[list[str]]:
    """The search's rows of the page."""
    best = row["ways"]["celer, 100 points"]["error"]
    return [
        [
            name,
            f"{way['s']:.3g}",
            f"{way['error']:.6g}",
            f"{100 * (way['error'] / best - 1):+.3f} %",
        ]
        for name, way in row["ways"].items()
    ]
