"""The group Lasso and the sparse group Lasso."""

import functools
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from .datafits import Quadratic
from .fit import concrete
from .model import Model, Spec, scalar, shape_of, vector
from .penalties import GroupL2


@Model
def group_lasso(X: Any, y: Any, alpha: Any, groups: Any, weights: Any = None) -> Spec:
    """The group Lasso: argmin_β ‖y − Xβ‖²/(2n) + α Σ_g w_g ‖β_g‖₂, (p,).

    Args:
        X, y, alpha: as of ``lasso``. groups: (p,) integers, the group of each feature.
        weights: one a group, in the order of their labels, positive; √|g| if not given. Differentiable.

    Returns, raises: as ``lasso``. At a kink, ‖X_gᵀr‖ = nαw_g with β_g = 0, the set moves along the
    residual's own direction û_g.

    Source: Yuan, Lin (2006); docs/theory.md#the-lasso for the certificate.

    >>> import numpy as np, conservax as cx
    >>> X, y = np.eye(3), np.array([3.0, 4.0, 0.5])
    >>> print(cx.sparse.group_lasso(X, y, 1 / 3, [0, 0, 1], np.ones(2)))
    [2.4 3.2 0. ]
    """
    return _grouped(X, alpha, groups, weights, 0.0)


@Model
def sparse_group_lasso(
    X: Any, y: Any, alpha: Any, groups: Any, weights: Any = None, l1_ratio: float = 0.5
) -> Spec:
    """The sparse group Lasso: argmin_β ‖y − Xβ‖²/(2n) + α (τ ‖β‖₁ + (1 − τ) Σ_g w_g ‖β_g‖₂), (p,).

    Args:
        X, y, alpha, groups, weights: as of ``group_lasso``. l1_ratio: τ in [0, 1).

    Returns, raises: as ``group_lasso``.

    Source: Simon, Friedman, Hastie, Tibshirani (2013).

    >>> import numpy as np, conservax as cx
    >>> X, y = np.eye(2), np.array([4.0, 5.0])
    >>> print(cx.sparse.sparse_group_lasso(X, y, 1.0, [0, 0], np.ones(1)))
    [2.4 3.2]
    """
    if not 0 <= l1_ratio < 1:
        raise InvalidInputError(f"l1_ratio = {l1_ratio}; it lies in [0, 1): for 1 there is lasso.")
    return _grouped(X, alpha, groups, weights, float(l1_ratio))


def _grouped(X: Any, alpha: Any, groups: Any, weights: Any, l1_ratio: float) -> Spec:
    p = shape_of(X)[1]
    if not concrete(groups):
        raise InvalidInputError(
            "groups must be known: close over them, or make them static under jit."
        )
    labels = np.asarray(groups)
    if labels.shape != (p,) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInputError(f"groups must be {p} integers, the group of each feature.")
    names, index = np.unique(labels, return_inverse=True)
    if weights is None:
        weights = np.sqrt(np.bincount(index))
    parameters = {
        "alpha": scalar("alpha", alpha),
        "weights": vector("weights", weights, len(names)),
    }
    return Spec(
        Quadratic(), functools.partial(GroupL2, groups=index, l1_ratio=l1_ratio), parameters
    )
