"""The Lasso, its weighted and ridged kin, and sparse logistic regression."""

from typing import Any

from .datafits import Logistic, Quadratic
from .model import Model, Spec, scalar, shape_of, vector
from .penalties import L1


@Model
def lasso(X: Any, y: Any, alpha: Any) -> Spec:
    """The Lasso: argmin_β ‖y − Xβ‖²/(2n) + α ‖β‖₁, (p,), with scikit-learn's scaling.

    Args:
        X: (n, p), a NumPy or JAX array, a SciPy sparse matrix, or a JAX BCOO matrix.
        y: (n,). alpha: α > 0.
        sample_weight, selection, solver, warm_start: as of every model (``Model``).

    Returns:
        The coefficients, in the precision of X and y. Differentiable in X (if dense), y, alpha and
        sample_weight: forward and reverse, under jit and vmap. On the support S with signs s, and
        H = X_SᵀX_S/n, dβ_S/dα = −H⁻¹s. Above α_max = ‖Xᵀy‖_∞/n coefficients and derivatives are zero.

    Raises:
        InvalidInputError: shapes, NaN, α ≤ 0. NotConvergedError. SingularError, when differentiated: the
        columns of the support depend on each other. Under jit these are NaN.

    Source: Bertrand and others (ICML 2020) for the derivative on the support; Bolte, Le, Pauwels,
    Silveti-Falls (NeurIPS 2021), Proposition 5, for the set.

    >>> import jax, numpy as np, conservax as cx
    >>> X, y = np.eye(2), np.array([3.0, 0.5])
    >>> cx.sparse.lasso(X, y, 0.5).round(6).tolist()
    [2.0, 0.0]
    >>> jax.jacobian(lambda a: cx.sparse.lasso(X, y, a))(0.5).round(6).tolist()
    [-2.0, 0.0]
    """
    return Spec(Quadratic(), L1, {"alpha": scalar("alpha", alpha)})


@Model
def weighted_lasso(X: Any, y: Any, alphas: Any) -> Spec:
    """The Lasso with a penalty a feature: argmin_β ‖y − Xβ‖²/(2n) + Σ α_j |β_j|, (p,).

    Args:
        X, y: as of ``lasso``. alphas: (p,), positive.

    Returns, raises: as ``lasso``; ``.jacobian`` is (p, p), in the logarithms of the penalties.

    Source: Zou (2006), the adaptive Lasso; the derivative as of ``lasso``.

    >>> import numpy as np, conservax as cx
    >>> print(
    ...     cx.sparse.weighted_lasso(np.eye(2), np.array([3.0, 3.0]), np.array([0.5, 1.0])).round(6)
    ... )
    [2. 1.]
    """
    return Spec(Quadratic(), L1, {"alpha": vector("alphas", alphas, shape_of(X)[1])})


@Model
def elastic_net(X: Any, y: Any, alpha: Any, rho: Any) -> Spec:
    """The elastic net: argmin_β ‖y − Xβ‖²/(2n) + α ‖β‖₁ + ρ ‖β‖²/2, (p,).

    scikit-learn's ``ElasticNet(alpha=a, l1_ratio=r)`` is α = a r, ρ = a (1 − r).

    Args:
        X, y: as of ``lasso``. alpha: α > 0. rho: ρ ≥ 0; where it is positive every derivative exists.

    Returns, raises: as ``lasso``; ``.jacobian`` is (p, 2), in log α and log ρ.

    Source: Zou, Hastie (2005); the derivative as of ``lasso``.

    >>> import numpy as np, conservax as cx
    >>> print(cx.sparse.elastic_net(np.eye(2), np.array([3.0, 0.5]), 0.5, 0.5).round(6))
    [1. 0.]
    """
    parameters = {"alpha": scalar("alpha", alpha), "rho": scalar("rho", rho)}
    return Spec(Quadratic(), L1, parameters, ("alpha", "rho"), ("rho",))


@Model
def sparse_logistic(X: Any, y: Any, alpha: Any) -> Spec:
    """Sparse logistic regression: argmin_β (1/n) Σ log(1 + exp(−y_i x_iᵀβ)) + α ‖β‖₁, (p,).

    Args:
        X: as of ``lasso``. y: (n,), of −1 and 1. alpha: α > 0.

    Returns, raises: as ``lasso``; InvalidInputError for other labels.

    Source: as ``lasso``, with H = X_SᵀDX_S/n, D = diag ℓ″.

    >>> import numpy as np, conservax as cx
    >>> print(
    ...     cx.sparse.sparse_logistic(np.eye(2), np.array([1.0, -1.0]), 0.125).round(4)
    ... )  # ± log 3
    [ 1.0986 -1.0986]
    """
    return Spec(Logistic(), L1, {"alpha": scalar("alpha", alpha)})
