"""Linear support vector machines, by their dual: a quadratic over a box."""

import functools
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError, UnsupportedOperationError
from .datafits import Quadratic
from .design import is_sparse
from .fit import concrete
from .local_set import LocalSystem, SparseJacobian
from .model import (
    Model,
    ModelCall,
    Spec,
    check_finite,
    check_positive,
    check_shapes,
    design_matrix,
    scalar,
)
from .penalties import Box


class DualModel(Model):
    """min_a ½‖Ma‖² + φ(a) with M = Xᵀ or (y∘X)ᵀ, a (n,); its value is β = Ma.

    The solver's mean over the p rows of M divides the objective by p, and φ with it.
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
        if intercept:
            raise UnsupportedOperationError(
                f"{self.name} has no unpenalised intercept: append a column of ones to X, which is penalised "
                "as a feature is (a larger constant is penalised less)."
            )
        X = design_matrix(X)
        X = X.toarray() if is_sparse(X) else X
        y = y if hasattr(y, "dtype") else np.asarray(y)
        n, p = check_shapes(X, y, sample_weight)
        check_finite("X", X)
        check_finite("y", y)
        names = ("C", "epsilon") if self.name == "svr" else ("C",)
        given = dict(zip(names, parameters, strict=False))
        twice = set(given) & set(more)
        values = {"epsilon": 0.1, **given, **more}
        if len(parameters) > len(names) or twice or set(more) - set(names) or "C" not in values:
            raise InvalidInputError(f"{self.name} takes X, y and {', '.join(names)}, each once.")
        check_positive("C", values["C"])
        check_positive("epsilon", values["epsilon"], allow_zero=True)
        two_sided = self.name == "svr"
        if not two_sided and concrete(y) and not np.isin(np.asarray(y), (-1, 1)).all():
            raise InvalidInputError("y must hold the labels -1 and 1.")
        if sample_weight is None:
            omega: Any = np.full(n, 1 / n)
        else:
            numpy = np if concrete(sample_weight) else jnp
            omega = sample_weight / numpy.sum(sample_weight)
        numpy = np if concrete(X) and concrete(y) else jnp
        M = (X if two_sided else numpy.asarray(y)[:, None] * X).T
        target = (y if two_sided else np.ones(n)) / p
        data = (target, scalar("C", values["C"]) * omega)
        if two_sided:
            data = (*data, scalar("epsilon", values["epsilon"]) / p)
        call, operands = super()._call(
            M, np.zeros(p, dtype=M.dtype), data, {}, None, selection, solver, warm_start, False
        )
        return replace(call, back=M), operands

    def _shaped(self, call: ModelCall, coef: Any) -> Any:
        return jnp.asarray(call.back) @ coef

    def _set(
        self, system: LocalSystem, values: dict[str, np.ndarray], dtype: Any
    ) -> SparseJacobian:
        """In log C, and log ε: the bounds all move with C."""
        form = super()._set(system, values, dtype).form
        n = len(values["bound"])
        gather = np.zeros((form.A.shape[1], form.A.shape[1] - n + 1))
        gather[:n, 0] = 1
        gather[n:, 1:] = np.eye(len(gather) - n)
        M = system.reduced.problem.design.X
        return SparseJacobian(replace(form, A=M @ form.A @ gather, H=M @ form.H, E=form.E @ gather))


def _spec(two_sided: bool, target: Any, bound: Any, epsilon: Any) -> Spec:
    parameters = {"target": target, "bound": bound}
    names: tuple[str, ...] = ("bound",)
    if two_sided:
        parameters["epsilon"] = epsilon
        names = ("bound", "epsilon")
    return Spec(
        Quadratic(),
        functools.partial(Box, two_sided=two_sided),
        parameters,
        names,
        may_vanish=("epsilon", "bound"),
        checked=("target",),
    )


@DualModel
def svm(X: Any, y: Any, C: Any, *dual: Any) -> Spec:
    """A linear support vector machine: argmin_β ½‖β‖² + (C/n) Σ max(0, 1 − y_i x_iᵀβ), (p,).

    Solved by its dual over the box [0, C/n]ⁿ. Its kinks are samples on the margin whose multiplier is at a
    bound; every element exists iff the free samples' y_i x_i are independent.

    Args:
        X: as of ``lasso``. y: (n,), of −1 and 1. C: C > 0.

    Returns, raises: as ``lasso``, differentiable in X, C and sample_weight. No intercept: append a column
    of ones.

    Source: Bertrand and others (2020) for the derivative; docs/theory.md#the-lasso for the certificate.

    >>> import numpy as np, conservax as cx
    >>> print(cx.sparse.svm(np.array([[2.0], [-2.0]]), np.array([1.0, -1.0]), 10.0))
    [0.5]
    """
    return _spec(False, C, dual[0] if dual else None, None)


@DualModel
def svr(X: Any, y: Any, C: Any, epsilon: Any = 0.1, *dual: Any) -> Spec:
    """Linear support vector regression: argmin_β ½‖β‖² + (C/n) Σ max(0, |y_i − x_iᵀβ| − ε), (p,).

    Args:
        X, y: as of ``lasso``. C: C > 0. epsilon: ε ≥ 0.

    Returns, raises: as ``svm``, differentiable in y and ε too.

    Source: as ``svm``.

    >>> import numpy as np, conservax as cx
    >>> print(cx.sparse.svr(np.array([[1.0]]), np.array([1.5]), 10.0, 0.5))
    [1.]
    """
    return _spec(True, C, epsilon, dual[0] if dual else None)
