"""Sparse models beside celer and scikit-learn: hypergradients, and the search for the Lasso's penalty.

Hypergradient: held-out squared error of the Lasso and its derivative in log α, on halves of
``make_correlated_data(1000, p, random_state=0)``, beside one solve of celer at a duality gap of 1e-8 (what
sparse-ho's implicit differentiation spends before its own work) and beside sparse-ho itself where it is
installed. Beyond: what a derivative, the set and the certificate cost beyond the solve. Search: five folds of
``make_correlated_data(1000, 5000, random_state=0)``, beside ``LassoCV`` and paths of celer at 1e-3; the error
is relative to the best point of the 100. Then the elastic net beside a grid of 15 × 15, a weight a feature
beside one for all, and 10⁷ entries of a sparse design, with the memory that they take.

``python benchmarks/sparse_models.py`` prints all of it.
"""

import importlib.util
import multiprocessing
import statistics
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from celer import Lasso
from celer.datasets import make_correlated_data
from celer.homotopy import celer_path
from scipy import sparse
from sklearn.linear_model import ElasticNetCV, LassoCV
from sklearn.model_selection import KFold
from timing import Tick, milliseconds, peak_mib, ratio, warm

import conservax as cx
from conservax.sparse import ElasticNetSearchCV, LassoSearchCV, WeightedLassoSearchCV

ROUNDS = 5
CASES = [(2000, 10), (2000, 100), (20000, 10), (20000, 100)]


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return ROUNDS * (len(CASES) + 1) + 4


def sparse_ho_way(X: np.ndarray, y: np.ndarray, alpha: float, method: str) -> Any:
    """sparse-ho's value and gradient, halves of X; patched where NumPy and SciPy have moved on."""
    setattr(np, "float", float)  # noqa: B010
    from scipy.sparse.linalg import cg
    from sparse_ho import Implicit, ImplicitForward
    from sparse_ho.algo import implicit
    from sparse_ho.criterion import HeldOutMSE
    from sparse_ho.models import Lasso as Theirs

    def patched(A, b, x0=None, tol=1e-6, maxiter=None):
        return cg(A, b, x0=x0, rtol=tol, maxiter=maxiter)

    implicit.cg = patched
    half = len(y) // 2

    def run() -> Any:
        algorithm = (
            Implicit(max_iter=10000, tol_lin_sys=1e-8, max_iter_lin_sys=10000)
            if method == "implicit"
            else ImplicitForward(tol_jac=1e-8, n_iter_jac=10000)
        )
        criterion = HeldOutMSE(np.arange(half), np.arange(half, len(y)))
        model = Theirs(estimator=Lasso(fit_intercept=False, tol=1e-8, warm_start=True))
        return criterion.get_val_grad(
            model, X, y, np.log(alpha), algorithm.compute_beta_grad, tol=1e-8
        )

    return run


def hypergradient(p: int, part: int, tick: Tick) -> dict[str, Any]:
    """One row: value and gradient beside celer's solve."""
    X, y, _ = make_correlated_data(1000, p, random_state=0)
    whole = np.asfortranarray(X), y
    X, X_out, y, y_out = np.asfortranarray(X[:500]), X[500:], y[:500], y[500:]
    alpha = np.abs(X.T @ y).max() / 500 / part
    error = cx.sparse.criteria.held_out(cx.sparse.lasso, X, y, X_out, y_out)
    both = jax.value_and_grad(lambda log_alpha: error(jnp.exp(log_alpha)))
    celer = Lasso(alpha, fit_intercept=False, tol=1e-8)
    beta = cx.sparse.lasso(X, y, alpha)
    contenders = {
        "gradient": lambda: both(np.log(alpha)),
        "solve": lambda: cx.sparse.lasso(X, y, alpha),
        "warm": lambda: cx.sparse.lasso(X, y, alpha, warm_start=beta),
        "celer": lambda: celer.fit(X, y).coef_,
    }
    if importlib.util.find_spec("sparse_ho"):
        contenders["sparse-ho"] = sparse_ho_way(*whole, alpha, "implicit")
        contenders["sparse-ho, forward"] = sparse_ho_way(*whole, alpha, "forward")
    times = warm(contenders, ROUNDS, tick)
    peers = [name for name in times if name.startswith("sparse-ho")]
    return {
        "benchmark": "sparse models",
        "problem": f"p = {p}, α_max/{part}",
        "gradient_to_sparse_ho": max(
            (ratio(times, "gradient", peer) for peer in peers), default=None
        ),
        "ms": {name: milliseconds(times, name) for name in times},
        "gradient_to_celer": ratio(times, "gradient", "celer"),
        "gradient_to_solve": ratio(times, "gradient", "solve"),
    }


def beyond(tick: Tick) -> dict[str, Any]:
    """What comes beyond the solve at p = 20000 with some 100 in the support; a small fit with its gradient."""
    X, y, _ = make_correlated_data(1000, 20000, density=0.002, random_state=0)
    X = np.asfortranarray(X)
    top = np.abs(X.T @ y).max() / 1000
    alpha = next(
        a
        for a in top * np.geomspace(0.9, 0.01, 60)
        if np.count_nonzero(cx.sparse.lasso(X, y, a)) >= 100
    )
    small, out, _ = make_correlated_data(100, 1000, random_state=0)
    little = np.abs(small.T @ out).max() / 100 / 10
    # from the solution, so that the solve's own noise does not cover what comes after it
    start = cx.sparse.lasso(X, y, alpha)

    def fit(alpha: Any) -> Any:  # no partial: JAX has Python print one, with the arrays it holds
        return cx.sparse.lasso(X, y, alpha, warm_start=start)

    contenders = {
        "solve": lambda: fit(alpha),
        "gradient": lambda: jax.vjp(fit, alpha)[1](start),
        "jacobian": lambda: cx.sparse.lasso.jacobian(X, y, alpha, warm_start=start).element("lars"),
        "check": lambda: cx.sparse.lasso.check(X, y, alpha, warm_start=start).margin,
        "100 × 1000": lambda: jax.value_and_grad(
            lambda a: (cx.sparse.lasso(small, out, a) ** 2).sum()
        )(little),
    }
    times = warm(contenders, ROUNDS, tick)
    extra = {
        name: 1e3 * statistics.median(np.subtract(times[name], times["solve"]))
        for name in ("gradient", "jacobian", "check")
    }
    return {
        "benchmark": "sparse models",
        "problem": "p = 20000, 100 in the support, beyond the solve",
        "beyond": extra | {"100 × 1000": milliseconds(times, "100 × 1000")},
    }


def elastic_net(tick: Tick) -> dict[str, Any]:
    """One row: both penalties of the elastic net beside a grid of 15 × 15."""
    X, y, _ = make_correlated_data(500, 1000, random_state=0)
    grid = np.linspace(0.1, 1, 15)
    ways = {
        "ElasticNetSearchCV": lambda: ElasticNetSearchCV().fit(X, y).certificate_.error,
        "grid, 15 × 15": lambda: float(
            ElasticNetCV(l1_ratio=grid, alphas=15, cv=5).fit(X, y).mse_path_.mean(2).min()
        ),
    }
    return {
        "benchmark": "sparse models",
        "problem": "elastic net, 500 × 1000, 5 folds",
        "ways": raced(ways, tick),
    }


def weights(tick: Tick) -> dict[str, Any]:
    """One row: the error on new samples of the best single penalty, and of a penalty a feature."""
    X, y, w = make_correlated_data(100, 1000, snr=5, random_state=0)
    X_new, y_new, _ = make_correlated_data(1000, 1000, snr=5, w_true=w, random_state=1)

    def judged(model: Any) -> float:
        return float(np.mean((y_new - model.fit(X, y).predict(X_new)) ** 2))

    ways = {
        "WeightedLassoSearchCV": lambda: judged(WeightedLassoSearchCV()),
        "LassoSearchCV": lambda: judged(LassoSearchCV()),
    }
    return {
        "benchmark": "sparse models",
        "problem": "1000 weights, error on new samples",
        "ways": raced(ways, tick),
    }


def _large(send: Any) -> None:
    rng = np.random.default_rng(0)
    n, p, filled = 10**6, 10**5, 10**7
    places = rng.integers(0, n, filled, dtype=np.int32), rng.integers(0, p, filled, dtype=np.int32)
    X = sparse.coo_matrix((rng.standard_normal(filled), places), shape=(n, p)).tocsc()
    del places
    y = np.asarray(X[:, :50].sum(axis=1)).ravel() + rng.standard_normal(n)
    alpha = np.abs(X.T @ y).max() / n / 5
    data = peak_mib()
    start = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    value = jax.value_and_grad(lambda a: (cx.sparse.lasso(X, y, a) ** 2).sum())(alpha)
    jax.block_until_ready(value)
    send.send((peak_mib(), data, time.perf_counter() - start))


def large(tick: Tick) -> dict[str, Any]:
    """10⁶ × 10⁵ with 10⁷ entries: the most memory that a process holds for a Lasso and its hypergradient."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_large, args=(send,))
    process.start()
    peak, data, spent = receive.recv()
    process.join()
    tick()
    return {
        "benchmark": "sparse models",
        "problem": "10⁶ × 10⁵, 10⁷ entries",
        "memory": {"peak, MiB": peak, "data alone, MiB": data, "s": spent},
    }


def raced(ways: dict[str, Any], tick: Tick) -> dict[str, Any]:
    """Seconds and errors of each way, once each."""
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # grids that stop before their tolerance
            error = way()
        found[name] = {"s": time.perf_counter() - start, "error": error}
    tick()
    return found


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
    found = raced(ways, tick)
    return {"benchmark": "sparse models", "problem": "search, 1000 × 5000, 5 folds", "ways": found}


def measure(tick: Tick) -> list[dict[str, Any]]:
    """Hypergradients and what they cost beyond the solve, then the searches, then memory."""
    slopes = [hypergradient(p, part, tick) for p, part in CASES]
    return [*slopes, *(way(tick) for way in (beyond, search, elastic_net, weights, large))]


def cells(row: dict[str, Any]) -> list[str]:
    """A hypergradient's row of the page."""
    ms = row["ms"]
    return [
        row["problem"],
        *(f"{ms[name]:.3g}" for name in ("gradient", "solve", "warm", "celer")),
        f"{row['gradient_to_celer']:.2f}",
        f"{row['gradient_to_solve']:.2f}",
        f"{row['gradient_to_sparse_ho']:.2f}" if row.get("gradient_to_sparse_ho") else "",
    ]


def ways(row: dict[str, Any]) -> list[list[str]]:
    """The search's rows of the page."""
    best = row["ways"].get("celer, 100 points", list(row["ways"].values())[-1])["error"]
    return [
        [
            name,
            f"{way['s']:.3g}",
            f"{way['error']:.6g}",
            f"{100 * (way['error'] / best - 1):+.3f} %",
        ]
        for name, way in row["ways"].items()
    ]


def main() -> None:
    """Print every row."""
    jax.config.update("jax_enable_x64", True)

    def quiet() -> None:
        """Nobody watches."""

    for p, part in CASES:
        row = hypergradient(p, part, quiet)
        times = ", ".join(f"{name} {ms:.4g}" for name, ms in row["ms"].items())
        print(f"{row['problem']}: ms {times}", flush=True)
        for peer in ("celer", "solve", "sparse_ho"):
            if row[f"gradient_to_{peer}"]:
                print(f"    gradient to {peer}: {row[f'gradient_to_{peer}']:.2f}", flush=True)
    for measured in (beyond, search, elastic_net, weights, large):
        row = measured(quiet)
        print(row["problem"])
        for line in ways(row) if "ways" in row else (row.get("beyond") or row["memory"]).items():
            print("   ", *line, flush=True)


if __name__ == "__main__":
    main()
