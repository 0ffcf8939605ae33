"""Small problems, one a model, at which the derivative is unique; shared by the tests of this floor."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from conservax import sparse


@dataclass(frozen=True)
class Case:
    """A model with its data; ``objective(beta)`` is written here, not taken from the library."""

    model: Any
    X: np.ndarray
    y: np.ndarray
    parameters: tuple
    objective: Any
    smooth: tuple[int, ...] = (0,)  # positions of the parameters that can be differentiated
    targets: bool = True  # whether y can be

    def __call__(self, X, y, weight, *smooth):
        parameters = list(self.parameters)
        for place, value in zip(self.smooth, smooth, strict=True):
            parameters[place] = value
        return self.model(X, y if self.targets else self.y, *parameters, sample_weight=weight)

    def arguments(self):
        weight = np.random.default_rng(1).uniform(0.5, 1.5, len(self.y))
        return (
            self.X,
            self.y.astype(float),
            weight,
            *(np.asarray(self.parameters[i]) for i in self.smooth),
        )


def data(n=20, p=8, seed=0, labels=False):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    beta = np.where(np.arange(p) < p // 2, rng.normal(size=p), 0.0)
    y = X @ beta + 0.3 * rng.normal(size=n)
    return X, np.where(y + rng.normal(size=n) > 0, 1.0, -1.0) if labels else y


GROUPS = np.array([0, 0, 1, 1, 1, 2, 2, 2])
ROOTS = np.sqrt([2, 3, 3])


def squares(X, y, beta, weight):
    return np.average((y - X @ beta) ** 2, weights=weight) / 2


def lengths(beta):
    return np.array([np.linalg.norm(beta[GROUPS == g]) for g in range(3)])


def bowl(r):
    return np.where(np.abs(r) <= 0.8, r**2 / 2, 0.8 * (np.abs(r) - 0.4))


def scad_value(b, a, g):
    t = np.abs(b)
    bent = (2 * g * a * t - t**2 - a**2) / (2 * (g - 1))
    return np.where(t <= a, a * t, np.where(t <= g * a, bent, a**2 * (g + 1) / 2)).sum()


@functools.cache
def cases():
    X, y = data()
    Xl, labels = data(40, 6, 3, labels=True)
    rng = np.random.default_rng(5)
    alphas = rng.uniform(0.05, 0.4, 8)
    classes = np.argmax(Xl[:, :3] + 0.5 * rng.normal(size=(40, 3)), axis=1)
    counts = rng.poisson(np.exp(0.7 * Xl[:, 0] - 0.4 * Xl[:, 1])) + 0.5
    far = y + np.clip(rng.standard_cauchy(20), -5, 5)
    return {
        "lasso": Case(
            sparse.lasso, X, y, (0.2,),
            lambda b, w: squares(X, y, b, w) + 0.2 * np.abs(b).sum(),
        ),
        "weighted_lasso": Case(
            sparse.weighted_lasso, X, y, (alphas,),
            lambda b, w: squares(X, y, b, w) + alphas @ np.abs(b),
        ),
        "elastic_net": Case(
            sparse.elastic_net, X, y, (0.25, 0.3),
            lambda b, w: squares(X, y, b, w) + 0.25 * np.abs(b).sum() + 0.15 * b @ b, (0, 1),
        ),
        "group_lasso": Case(
            sparse.group_lasso, X, y, (0.2, GROUPS, ROOTS),
            lambda b, w: squares(X, y, b, w) + 0.2 * ROOTS @ lengths(b), (0, 2),
        ),
        "sparse_group_lasso": Case(
            sparse.sparse_group_lasso, X, y, (0.2, GROUPS, ROOTS),
            lambda b, w: squares(X, y, b, w)
            + 0.1 * np.abs(b).sum() + 0.1 * ROOTS @ lengths(b), (0, 2),
        ),
        "sparse_logistic": Case(
            sparse.sparse_logistic, Xl, labels, (0.05,),
            lambda b, w: np.average(np.log1p(np.exp(-labels * (Xl @ b))), weights=w)
            + 0.05 * np.abs(b).sum(),
        ),
        "fused_lasso": Case(
            sparse.fused_lasso, X, y, (0.2, 0.3),
            lambda b, w: squares(X, y, b, w) + 0.2 * np.abs(np.diff(b)).sum() + 0.15 * b @ b,
            (0, 1),
        ),
        "slope": Case(
            sparse.slope, X, y, (np.linspace(0.5, 0.1, 8),),
            lambda b, w: squares(X, y, b, w)
            + np.linspace(0.5, 0.1, 8) @ np.sort(np.abs(b))[::-1],
        ),
        "multinomial": Case(
            sparse.multinomial, Xl, classes, (0.1,),
            lambda b, w: np.average(
                np.log(np.exp(Xl @ b).sum(1)) - (Xl @ b)[np.arange(40), classes], weights=w
            ) + 0.1 * np.linalg.norm(b, axis=1).sum(), targets=False,
        ),
        "poisson": Case(
            sparse.poisson, Xl, counts, (0.2,),
            lambda b, w: np.average(np.exp(Xl @ b) - counts * (Xl @ b), weights=w)
            + 0.2 * np.abs(b).sum(),
        ),
        "huber": Case(
            sparse.huber, X, far, (0.1, 0.8),
            lambda b, w: np.average(bowl(far - X @ b), weights=w) + 0.1 * np.abs(b).sum(),
        ),
        "mcp": Case(
            sparse.mcp, X, y, (0.3, 4.0),
            lambda b, w: squares(X, y, b, w) + np.where(
                np.abs(b) <= 1.2, 0.3 * np.abs(b) - b**2 / 8, 0.18
            ).sum(),
        ),
        "scad": Case(
            sparse.scad, X, y, (0.3, 3.7),
            lambda b, w: squares(X, y, b, w) + scad_value(b, 0.3, 3.7),
        ),
        "svm": Case(
            sparse.svm, Xl, labels, (2.0,),
            lambda b, w: b @ b / 2 + 2 * np.average(np.maximum(0, 1 - labels * (Xl @ b)), weights=w),
            targets=False,
        ),
        "svr": Case(
            sparse.svr, X, y, (5.0, 0.2),
            lambda b, w: b @ b / 2
            + 5 * np.average(np.maximum(0, np.abs(y - X @ b) - 0.2), weights=w), (0, 1),
        ),
    }  # fmt: skip
