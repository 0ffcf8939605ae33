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
        return self.model(X, y, *parameters, sample_weight=weight)

    def arguments(self):
        weight = np.random.default_rng(1).uniform(0.5, 1.5, len(self.y))
        return self.X, self.y, weight, *(np.asarray(self.parameters[i]) for i in self.smooth)


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


@functools.cache
def cases():
    X, y = data()
    Xl, labels = data(40, 6, 3, labels=True)
    rng = np.random.default_rng(5)
    alphas = rng.uniform(0.05, 0.4, 8)
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
    }  # fmt: skip
