"""The fused Lasso: total variation of the coefficients in their order."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..calculus import AbsNormal
from ..errors import InvalidInputError
from .datafits import Quadratic
from .design import is_sparse
from .fit import concrete
from .local_set import LocalSystem, SparseJacobian
from .model import (
    Model,
    ModelCall,
    Spec,
    check_positive,
    check_shapes,
    design_matrix,
    scalar,
    shape_of,
)
from .penalties import L1


class FusedModel(Model):
    """A Lasso of the differences: β = Lθ with θ₁ free, L the cumulative sum.

    A ridge joins as rows √ρ L of the design with target 0, beside the samples.
    """

    def _call(
        self,
        X: Any,
        y: Any,
        parameters: tuple[Any, ...],
        more: dict[str, Any],
        sample_weight: Any,
        selection: str,
        solver: Any,
        warm_start: Any,
        intercept: bool,
    ) -> tuple[ModelCall, list[Any]]:
        X = design_matrix(X)
        if is_sparse(X):
            X = X.toarray()  # sums of columns are dense
        y = y if hasattr(y, "dtype") else np.asarray(y)
        n, p = check_shapes(X, y, sample_weight)
        alpha, ridge = _parameters(*parameters, **more)
        check_positive("alpha", alpha)
        check_positive("ridge", ridge, allow_zero=True)
        X = _suffix_sums(X)
        if intercept and _positive(ridge):
            raise InvalidInputError(
                "an intercept beside a ridge: centre X and y, and take the function without an intercept."
            )
        share = 1.0
        if _positive(ridge):
            share = 1 / (p + 1)
            numpy = np if all(map(concrete, (X, y, ridge, sample_weight))) else jnp
            root = numpy.sqrt(ridge) * np.tril(np.ones((p, p)))
            weight = numpy.ones(n) if sample_weight is None else sample_weight
            sample_weight = numpy.concatenate([weight / numpy.sum(weight), np.ones(p)])
            X = numpy.concatenate([X, root])
            y = numpy.concatenate([y, np.zeros(p)])
        if warm_start is not None and concrete(warm_start):
            start = np.asarray(warm_start, dtype=float)
            warm_start = np.concatenate([np.diff(start[:p], prepend=0.0), start[p:]])
        mask = (np.arange(p) > 0).astype(float)
        numpy = np if concrete(alpha) else jnp
        alphas = numpy.asarray(alpha) * (share * mask)
        return super()._call(
            X, y, (alphas,), {}, sample_weight, selection, solver, warm_start, intercept
        )

    def _shaped(self, call: ModelCall, coef: Any) -> Any:
        return jnp.cumsum(coef)

    def _set(
        self, system: LocalSystem, values: dict[str, np.ndarray], dtype: Any
    ) -> SparseJacobian:
        """In log α alone: the sum over the differences, which all have it."""
        form = super()._set(system, values, dtype).form
        summed: AbsNormal = replace(
            form,
            A=np.cumsum(form.A.sum(axis=1, keepdims=True), axis=0),
            H=np.cumsum(form.H, axis=0),
            E=form.E.sum(axis=1, keepdims=True),
        )
        return SparseJacobian(summed)


def _parameters(alpha: Any, ridge: Any = 0.0) -> tuple[Any, Any]:
    return scalar("alpha", alpha), scalar("ridge", ridge)


def _positive(ridge: Any) -> bool:
    return not concrete(ridge) or bool(np.asarray(ridge) > 0)


def _suffix_sums(X: Any) -> Any:
    """X L: column j is the sum of the columns from j on."""
    if concrete(X):
        return np.cumsum(np.asarray(X)[:, ::-1], axis=1)[:, ::-1]
    return jnp.cumsum(X[:, ::-1], axis=1)[:, ::-1]


@FusedModel
def fused_lasso(X: Any, y: Any, alpha: Any, ridge: Any = 0.0) -> Spec:
    """The fused Lasso: argmin_β ‖y − Xβ‖²/(2n) + α Σ_j |β_{j+1} − β_j| + ridge ‖β‖²/2, (p,).

    The coefficients are piecewise constant in their order.

    Args:
        X, y, alpha: as of ``lasso``. ridge: nonnegative.

    Returns, raises: as ``lasso``. ``warm_start`` takes coefficients. A kink of the set is a place j at
    which the coefficients may come apart.

    Source: Tibshirani and others (2005); with β = Lθ it is a Lasso in the differences θ, the first free;
    support and null vector of ``.check`` are in θ.

    >>> import numpy as np, conservax as cx
    >>> X = np.sqrt(3) * np.eye(3)
    >>> print(cx.sparse.fused_lasso(X, X @ np.array([1.0, 2.0, 6.0]), 1.0))
    [2. 2. 5.]
    """
    alphas = alpha if hasattr(alpha, "dtype") else np.asarray(alpha)
    if np.shape(alphas) != (shape_of(X)[1],):
        raise InvalidInputError("fused_lasso is called with one penalty.")
    return Spec(Quadratic(), L1, {"alpha": alphas}, may_vanish=("alpha",))
