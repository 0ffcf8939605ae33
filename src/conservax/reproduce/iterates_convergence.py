"""Derivatives of iterates converge with the iterates: ridge, Lasso, sparse inverse covariance, trend filtering.

    J_{t+1} = A_t J_t + B_t,    [A_t B_t] ∈ J_F(x_t, θ)

along forward–backward, Douglas–Rachford and ADMM iterations, as in Figure 1 of Bolte, Pauwels, Vaiter 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, at_most, has_verdict, ours

SOURCE = "Bolte, Pauwels, Vaiter 2022, Figure 1 and Theorem 1"


class Case(NamedTuple):
    """An algorithm, where it starts, θ, how many steps are shown, and an oracle of the solution."""

    name: str
    algorithm: str
    alg: Any
    x0: Any
    theta: float
    steps: int
    smooth_kkt: Callable[[np.ndarray, float], float]


def regression(seed: int, n: int = 40, p: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Data of a sparse linear model."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) / np.sqrt(n)
    truth = np.zeros(p)
    truth[:4] = [2.0, -1.5, 1.0, -0.5]
    return X, X @ truth + 0.05 * rng.normal(size=n)


_ROWS, _COLUMNS = np.tril_indices(6)
_SCALES = np.where(_ROWS == _COLUMNS, 1.0, np.sqrt(2.0))


def vector(W: jax.Array) -> jax.Array:
    """The lower triangle of a symmetric 6 × 6 matrix, off-diagonal entries times √2: an isometry."""
    return W[_ROWS, _COLUMNS] * _SCALES


def matrix(w: jax.Array) -> jax.Array:
    """Back again."""
    lower = jnp.zeros((6, 6)).at[_ROWS, _COLUMNS].set(w / _SCALES)
    return lower + jnp.tril(lower, -1).T


def cases() -> list[Case]:
    """The four problems of the figure, at sizes that run in seconds."""
    X, y = regression(0)
    L = float(np.linalg.norm(X, 2)) ** 2

    def ridge(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.sum((X @ x - y) ** 2) / 2 + t * jnp.sum(x**2) / 2

    def squares(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.sum((X @ x - y) ** 2) / 2

    def ridge_kkt(x: np.ndarray, t: float) -> float:
        return float(np.abs(X.T @ (X @ x - y) + t * x).max())

    def lasso_kkt(x: np.ndarray, t: float) -> float:
        g = X.T @ (X @ x - y)
        return float(
            np.where(x != 0, np.abs(g + t * np.sign(x)), np.maximum(np.abs(g) - t, 0)).max()
        )

    samples = np.random.default_rng(1).normal(size=(60, 6)) @ np.linalg.cholesky(
        np.eye(6) + 0.4 * (np.eye(6, k=1) + np.eye(6, k=-1))
    )
    S = np.cov(samples.T)

    off = 1 - np.eye(6)

    def logdet_prox(v: jax.Array, t: jax.Array, step: Any) -> jax.Array:
        w, Q = jnp.linalg.eigh(matrix(v) - step * S)
        return vector((Q * ((w + jnp.sqrt(w**2 + 4 * step)) / 2)) @ Q.T)

    def covariance_kkt(w: np.ndarray, t: float) -> float:
        W = np.asarray(matrix(jnp.asarray(w)))
        g = S - np.linalg.inv(W)
        sparse = np.abs(W) < 1e-9
        return float(
            np.where(
                sparse, np.maximum(np.abs(g) - t * off, 0), np.abs(g + t * off * np.sign(W))
            ).max()
        )

    n = 30
    D = np.diff(np.eye(n), 2, axis=0)
    signal = np.abs(np.linspace(-1, 1, n)) + 0.05 * np.random.default_rng(2).normal(size=n)

    def filtered(v: jax.Array, t: jax.Array, rho: Any) -> jax.Array:
        return jnp.linalg.solve(jnp.eye(n) + rho * D.T @ D, signal + rho * D.T @ v)

    def trend_kkt(x: np.ndarray, t: float) -> float:
        dual = np.linalg.lstsq(D.T, signal - x, rcond=None)[0]  # t sign(D x) where that is not 0
        bent = np.abs(D @ x) > 1e-9
        return float(
            np.where(bent, np.abs(dual - t * np.sign(D @ x)), np.maximum(np.abs(dual) - t, 0)).max()
        )

    def soft(v: jax.Array, t: jax.Array, step: Any) -> jax.Array:
        return cx.proximal.prox_lasso(v, t, step)

    def soft_off(v: jax.Array, t: jax.Array, step: Any) -> jax.Array:
        return cx.proximal.prox_lasso(v, t * vector(jnp.asarray(off)), step)

    it, zero = cx.iterates, jnp.zeros(12)
    return [
        Case(
            "ridge", "forward–backward", it.gradient_descent(ridge, 1 / (L + 0.3)), zero, 0.3, 120, ridge_kkt,
        ),
        Case(
            "Lasso", "forward–backward", it.forward_backward(squares, soft, 1 / L), zero, 0.15, 250,
            lasso_kkt,
        ),
        Case(
            "sparse inverse covariance", "Douglas–Rachford",
            it.douglas_rachford(logdet_prox, soft_off, 0.5), vector(jnp.eye(6)), 0.1, 260, covariance_kkt,
        ),
        Case(
            "trend filtering", "ADMM", it.admm(filtered, soft, D, 1.0), jnp.asarray(signal), 0.2, 1600,
            trend_kkt,
        ),
    ]  # fmt: skip


def run(quick: bool, tick: Ticker) -> Outcome:
    """Piggyback along the iterates; the reference is the implicit derivative at the solution."""
    fig = style.figure(11.0, 6.6)
    axes = fig.subplots(2, 2).ravel()
    claims: list[Claim] = []
    every = cases()
    for number, (case, ax) in enumerate(zip(every, axes, strict=True)):
        theta = jnp.asarray(case.theta)
        found = cx.iterates.compare(case.alg, case.x0, theta, steps=case.steps)
        x = cx.iterates.implicit(case.alg, tol=1e-14, max_steps=10**6)(case.x0, theta)
        along = found.derivative_error["piggyback"]
        ax.semilogy(found.steps, found.iterate_error + 1e-17, color=style.TRUTH, label="iterate")
        ax.semilogy(found.steps, along + 1e-17, color=style.AD, label="derivative")
        ax.set(title=f"{case.name}: {case.algorithm}", xlabel="iterations", ylabel="error")
        claims += [
            at_most(
                f"{case.name}: violation of the optimality conditions, by themselves",
                ours(SOURCE), 1e-8, case.smooth_kkt(np.asarray(x), case.theta),
            ),
            at_most(f"{case.name}: error of the derivative after {case.steps} steps", ours(SOURCE), 1e-7,
                    along[-1]),
        ]  # fmt: skip
        if case.name in ("ridge", "Lasso"):
            verdict = cx.iterates.check(case.alg, x, theta).contraction.verdict
            claims.append(
                has_verdict(
                    f"{case.name}: the iteration contracts", SOURCE, cx.Verdict.PROVEN, verdict
                )
            )
        tick((number + 1) / len(every))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Outcome(fig, claims)


EXPERIMENT = Experiment(
    name="iterates-convergence",
    title="Derivatives of iterates converge with the iterates",
    source=SOURCE,
    description=(
        "The Jacobian of the iterate in the regularisation, carried forward beside the iterate, against the "
        "implicit derivative of the solution. Once the iterates have settled on one smooth piece, both errors "
        "fall linearly, the derivative's by a factor t more slowly. The problems are those of the paper at "
        "smaller sizes; its ridge regression is differentiated along gradient descent, forward–backward "
        "splitting without a nonsmooth part."
    ),
    run=run,
)
