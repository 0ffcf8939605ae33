"""Other losses and penalties: multinomial, Poisson, Huber; MCP, SCAD, SLOPE."""

import functools
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from .datafits import Huber, Multinomial, Poisson, Quadratic
from .fit import concrete
from .model import Model, Spec, scalar, shape_of, vector
from .penalties import L1, Concave, GroupL2, SortedL1


@Model
def multinomial(X: Any, y: Any, alpha: Any) -> Spec:
    """Multinomial regression: argmin_B (1/n) Σ (log Σ_k exp(x_iᵀB_k) − x_iᵀB_{y_i}) + α Σ_j ‖B_j‖₂, (p, K).

    The rows of B are selected whole, a feature for all classes or for none. (With Σ |B_jk| in its place
    the solution would not be unique for an even number of classes.)

    Args:
        X, alpha: as of ``lasso``. y: (n,) integer labels 0 … K − 1, not traced.

    Returns, raises: as ``lasso``, with shape (p, K); the intercepts, (K,), have the sum zero.

    Source: Friedman, Hastie, Tibshirani (2010), the grouped penalty of glmnet.

    >>> import numpy as np, conservax as cx
    >>> cx.sparse.multinomial(np.eye(3), np.arange(3), 0.1).shape
    (3, 3)
    """
    if not concrete(y):
        raise InvalidInputError(
            "labels must be known: close over them, or make them static under jit."
        )
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise InvalidInputError("labels must be the integers 0 … K − 1.")
    classes, p = int(labels.max(initial=0)) + 1, shape_of(X)[1]
    penalty = functools.partial(
        GroupL2, groups=np.repeat(np.arange(p), classes), weights=np.ones(p)
    )
    return Spec(Multinomial(classes), penalty, {"alpha": scalar("alpha", alpha)})


@Model
def poisson(X: Any, y: Any, alpha: Any) -> Spec:
    """Sparse Poisson regression: argmin_β (1/n) Σ (exp(x_iᵀβ) − y_i x_iᵀβ) + α ‖β‖₁, (p,).

    Args:
        X, alpha: as of ``lasso``. y: (n,), nonnegative.

    Returns, raises: as ``lasso``.

    Source: as ``lasso``, with H = X_SᵀDX_S/n, D = diag exp(x_iᵀβ).

    >>> import numpy as np, conservax as cx
    >>> print(cx.sparse.poisson(np.eye(2), np.array([4.0, 1.0]), 0.5).round(4))  # log 3, 0
    [1.0986 0.    ]
    """
    return Spec(Poisson(), L1, {"alpha": scalar("alpha", alpha)})


@Model
def huber(X: Any, y: Any, alpha: Any, delta: float = 1.35) -> Spec:
    """Robust regression: argmin_β (1/n) Σ h_δ(y_i − x_iᵀβ) + α ‖β‖₁, (p,), h_δ Huber's loss.

    h_δ(r) = r²/2 for |r| ≤ δ, δ|r| − δ²/2 beyond. Its curvature jumps at |r| = δ: kinks of the set.

    Args:
        X, y, alpha: as of ``lasso``. delta: δ > 0, a Python number.

    Returns, raises: as ``lasso``.

    Source: Huber (1964); the derivative as of ``lasso``, with D = diag(|r| ≤ δ).

    >>> import numpy as np, conservax as cx
    >>> print(cx.sparse.huber(np.eye(2), np.array([3.0, 0.5]), 0.5, 2.0))
    [2. 0.]
    """
    if not (concrete(delta) and float(delta) > 0):
        raise InvalidInputError(f"delta = {delta}; it must be a positive number, not traced.")
    return Spec(Huber(float(delta)), L1, {"alpha": scalar("alpha", alpha)})


@Model
def mcp(X: Any, y: Any, alpha: Any, gamma: float = 3.0) -> Spec:
    """MCP regression: a stationary point of ‖y − Xβ‖²/(2n) + Σ φ(|β_j|), φ′(t) = max(α − t/γ, 0), (p,).

    The objective is not convex: the answer is a stationary point reached from ``warm_start`` (zero by
    default), and its derivative is that point's.

    Args:
        X, y, alpha: as of ``lasso``. gamma: γ > 1, a Python number. With columns of mean square one the
        objective is convex along each of them for γ > 1.

    Returns, raises: as ``lasso``.

    Source: Zhang (2010); the derivative on the support has H = X_SᵀX_S/n − diag(|β_j| < γα)/γ.

    >>> import numpy as np, conservax as cx
    >>> X = np.sqrt(2) * np.eye(2)
    >>> print(cx.sparse.mcp(X, X @ np.array([4.0, 0.5]), 1.0))
    [4. 0.]
    """
    return _concave("mcp", alpha, gamma, 1.0)


@Model
def scad(X: Any, y: Any, alpha: Any, gamma: float = 3.7) -> Spec:
    """SCAD regression: a stationary point of ‖y − Xβ‖²/(2n) + Σ φ(|β_j|), (p,).

    φ′(t) = α up to α, max(γα − t, 0)/(γ − 1) beyond. Otherwise as ``mcp``.

    Args:
        X, y, alpha: as of ``lasso``. gamma: γ > 2, a Python number.

    Returns, raises: as ``lasso``.

    Source: Fan, Li (2001).

    >>> import numpy as np, conservax as cx
    >>> X = np.sqrt(2) * np.eye(2)
    >>> print(cx.sparse.scad(X, X @ np.array([4.0, 0.5]), 1.0))
    [4. 0.]
    """
    return _concave("scad", alpha, gamma, 2.0)


def _concave(kind: Any, alpha: Any, gamma: float, least: float) -> Spec:
    if not (concrete(gamma) and float(gamma) > least):
        raise InvalidInputError(
            f"gamma = {gamma}; it must be a number above {least:g}, not traced."
        )
    penalty = functools.partial(Concave, gamma=float(gamma), kind=kind)
    return Spec(Quadratic(), penalty, {"alpha": scalar("alpha", alpha)})


@Model
def slope(X: Any, y: Any, alphas: Any) -> Spec:
    """SLOPE: argmin_β ‖y − Xβ‖²/(2n) + Σ α_i |β|_(i), |β|_(1) ≥ |β|_(2) ≥ …, (p,).

    Args:
        X, y: as of ``lasso``. alphas: (p,), positive and in decreasing order.

    Returns, raises: as ``lasso``; ``.jacobian`` is (p, p), in the logarithms of the penalties.

    Source: Bogdan and others (2015); Dupuis, Tardivel (2022) for the faces.

    >>> import numpy as np, conservax as cx
    >>> X = np.sqrt(2) * np.eye(2)
    >>> print(cx.sparse.slope(X, X @ np.array([5.0, 4.5]), np.array([2.0, 1.0])))
    [3.25 3.25]
    """
    alphas = vector("alphas", alphas, shape_of(X)[1])
    if concrete(alphas) and np.any(np.diff(np.asarray(alphas, dtype=float)) > 0):
        raise InvalidInputError("alphas must be in decreasing order.")
    return Spec(Quadratic(), SortedL1, {"alpha": alphas})
