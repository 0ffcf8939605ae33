"""Proposition 5 and Remark 4: the set of derivatives of the Lasso at a tie, and a search under Theorem 3.

    β(λ) ∈ argmin ‖y − Xβ‖²/(2n) + e^λ ‖β‖₁

At a tie two coefficients are zero while their correlations with the residual reach the penalty. The
conservative Jacobian has one vertex for each set of them that joins the support; the one-sided
derivatives of β are among these. A gradient search on held-out error uses its elements with steps
c/k^0.7, which Theorem 3 asks for.
"""

from __future__ import annotations

import itertools

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

SOURCE = "Bolte et al. 2021, Proposition 5 and Remark 4"
SEARCH = "Bolte et al. 2021, Theorem 3"
ALPHA = 0.3
SUPPORT, TIED = (0, 1), (2, 3)


def tied() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (20, 6), y and the subgradient: from the optimality conditions backwards."""
    rng = np.random.default_rng(0)
    n = 20
    X = np.sqrt(n) * np.linalg.qr(rng.normal(size=(n, n)))[0][:, :6] @ rng.normal(size=(6, 6))
    beta, g = np.zeros(6), rng.uniform(-0.6, 0.6, 6)
    beta[list(SUPPORT)] = [1.5, -2.0]
    g[:4] = [1.0, -1.0, 1.0, -1.0]
    return X, X @ (beta + np.linalg.solve(X.T @ X, n * ALPHA * g)), g


def closed_form(X: np.ndarray, g: np.ndarray, members: tuple[int, ...]) -> np.ndarray:
    """dβ/dλ if exactly these coefficients move."""
    slope = np.zeros(X.shape[1])
    Z = X[:, list(members)]
    slope[list(members)] = -ALPHA * len(X) * np.linalg.solve(Z.T @ Z, g[list(members)])
    return slope


def search(steps: int, tick: Ticker) -> tuple[np.ndarray, np.ndarray]:
    """λ and held-out errors of gradient steps c/k^0.7 from the largest penalty."""
    import jax

    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 20))
    y = X[:, :3] @ np.array([1.0, -1.0, 0.5]) + 0.8 * rng.normal(size=60)
    criterion = cx.sparse.criteria.held_out(cx.sparse.lasso, X[:30], y[:30], X[30:], y[30:])
    value = jax.value_and_grad(lambda lam: criterion(jax.numpy.exp(lam)))
    lam = float(np.log(np.abs(X[:30].T @ y[:30]).max() / 30)) - 0.1
    points, errors = [], []
    for k in range(1, steps + 1):
        error, slope = value(lam)
        points.append(lam)
        errors.append(float(error))
        lam -= 0.5 / k**0.7 * float(slope)
        tick(0.4 + 0.5 * k / steps)
    return np.array(points), np.array(errors)


def run(quick: bool, tick: Ticker) -> Outcome:
    """The set at the tie, its one-sided derivatives, the certificate; then the search."""
    X, y, g = tied()
    J = cx.sparse.lasso.jacobian(X, y, ALPHA)
    joined = [m for r in range(3) for m in itertools.combinations(TIED, r)]
    expected = np.array([closed_form(X, g, SUPPORT + m) for m in joined])
    here = np.asarray(cx.sparse.lasso(X, y, ALPHA))
    h = 1e-7
    sides = {}
    for side in (1.0, -1.0):
        there = np.asarray(cx.sparse.lasso(X, y, ALPHA * np.exp(side * h)))
        sides[side] = (there - here) / h
    tick(0.3)
    report = cx.sparse.lasso.check(X, y, ALPHA)
    twice = np.concatenate([X, X[:, :1]], axis=1)
    refuted = cx.sparse.lasso.check(twice, y, ALPHA)
    points, errors = search(200 if quick else 400, tick)
    grid = np.linspace(points.min() - 1, points.max(), 200)
    curve = held_out_curve(grid)
    claims: list[Claim] = [
        same_points("derivatives in λ at the tie: one for each set that joins the support", SOURCE,
                    expected, J.vertices()[:, :, 0]),
        agrees("Remark 4, the weak derivative: the support alone", SOURCE, expected[0],
               J.element("support")[:, 0]),
        agrees("Remark 4, the LARS selection: all that are tied", SOURCE, expected[-1],
               J.element("lars")[:, 0]),
        at_most("derivative to the right, off from differences of the solution", ours(SOURCE), 1e-5,
                float(np.abs(J.directional([1.0]) - sides[1.0]).max())),
        at_most("derivative to the left, off from differences of the solution", ours(SOURCE), 1e-5,
                float(np.abs(J.directional([-1.0]) - sides[-1.0]).max())),
        at_least("they differ by", ours(SOURCE), 0.01,
                 float(np.abs(J.directional([1.0]) + J.directional([-1.0])).max())),
        has_verdict("X_E has full column rank", SOURCE, cx.Verdict.PROVEN, report.verdict),
        has_verdict("a column twice", SOURCE, cx.Verdict.REFUTED, refuted.verdict),
        at_most("search with steps c/k^0.7: last error above the least on a grid", ours(SEARCH), 1e-3,
                float(errors[-1] - curve.min())),
    ]  # fmt: skip
    return Outcome(_draw(X, y, J, grid, curve, points, errors), claims)


def held_out_curve(grid: np.ndarray) -> np.ndarray:
    """The held-out error of ``search`` on a grid of λ."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 20))
    y = X[:, :3] @ np.array([1.0, -1.0, 0.5]) + 0.8 * rng.normal(size=60)
    criterion = cx.sparse.criteria.held_out(cx.sparse.lasso, X[:30], y[:30], X[30:], y[30:])
    return np.array([float(criterion(np.exp(lam))) for lam in grid])


def _draw(
    X: np.ndarray,
    y: np.ndarray,
    J: cx.ConservativeJacobian,
    grid: np.ndarray,
    curve: np.ndarray,
    points: np.ndarray,
    errors: np.ndarray,
) -> style.Figure:
    fig = style.figure(9.6, 4.2)
    left, right = fig.subplots(1, 2)
    lams = np.log(ALPHA) + np.linspace(-0.4, 0.4, 81)
    betas = np.array([np.asarray(cx.sparse.lasso(X, y, np.exp(lam))) for lam in lams])
    here = np.asarray(cx.sparse.lasso(X, y, ALPHA))
    t = np.array([-0.3, 0.3])
    for j in (2, 3):
        left.plot(lams, betas[:, j], color=style.TRUTH, lw=2)
        for vertex in J.vertices()[:, j, 0]:
            left.plot(np.log(ALPHA) + t, here[j] + t * vertex, color=style.SET, lw=1, alpha=0.6)
    left.plot([], [], color=style.TRUTH, lw=2, label=r"$\beta_3$, $\beta_4$")
    left.plot([], [], color=style.SET, lw=1, label="elements of the set")
    left.axvline(np.log(ALPHA), color=style.MUTED, lw=0.8, ls=":")
    left.set(xlabel=r"$\lambda = \log\alpha$", title="Two coefficients enter together")
    left.legend()
    right.plot(grid, curve, color=style.TRUTH, lw=2, label="held-out error")
    right.plot(points, errors, "o", color=style.AD, ms=4, label="gradient steps $c/k^{0.7}$")
    right.set(xlabel=r"$\lambda = \log\alpha$", title="A search under Theorem 3's steps")
    right.legend()
    return fig


EXPERIMENT = Experiment(
    name="sparse-lasso",
    title="The Lasso at a tie, and a search for its penalty",
    source=SOURCE,
    description=(
        "Two coefficients of a Lasso are zero while their correlations with the residual reach the "
        "penalty. The set of derivatives in λ has a vertex for each set of them that joins the support; the "
        "two one-sided derivatives are among them, and so are both selections of Remark 4. On the right, "
        "gradient descent on a held-out error with the steps that Theorem 3 asks for."
    ),
    run=run,
)
