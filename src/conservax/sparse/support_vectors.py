"""Linear support vector machines, by their dual: a quadratic over a box."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ConservaxError, InvalidInputError, NotConvergedError, SingularError
from .datafits import Quadratic
from .design import is_sparse
from .fit import concrete
from .local_set import LocalSystem, SparseJacobian
from .model import (
    Model,
    ModelCall,
    Selection,
    Solver,
    Spec,
    check_finite,
    check_positive,
    check_shapes,
    design_matrix,
    scalar,
)
from .penalties import Box
from .solvers import Outcome, Problem
from .solvers.box_quadratic import BoxPoint, box_quadratic

_STEPS = 200
_CLOSE = 1e-9  # relative violation from which on a start is kept

Solve = Callable[[Problem, np.ndarray | None], Outcome]


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
        shift = more.get("shift", 0.0)  # an intercept, held
        more = {name: value for name, value in more.items() if name != "shift"}
        X = design_matrix(X)
        X = X.toarray() if is_sparse(X) else X
        y = y if hasattr(y, "dtype") else np.asarray(y)
        n, p = check_shapes(X, y, sample_weight)
        values = self._values(X, y, parameters, more)
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
        target = (y - shift if two_sided else 1 - shift * y) / p
        data = (target, scalar("C", values["C"]) * omega)
        if two_sided:
            data = (*data, scalar("epsilon", values["epsilon"]) / p)
        call, operands = super()._call(
            M, np.zeros(p, dtype=M.dtype), data, {}, None, selection, solver, warm_start, False
        )
        parts = "samples between their bounds"
        remedy = "change C, or leave out samples that repeat others"
        if not callable(solver):
            call = replace(call, solve=functools.partial(_near_first, call.solve))
        return replace(call, back=M, parts=parts, remedy=remedy), operands

    def _values(
        self, X: Any, y: Any, parameters: tuple[Any, ...], more: dict[str, Any]
    ) -> dict[str, Any]:
        """C, and ε, by name, from arguments that were looked at."""
        check_finite("X", X)
        if self.name == "svm" and concrete(y) and np.asarray(y).dtype.kind not in "biuf":
            raise InvalidInputError(
                f"y must hold the labels -1 and 1 as numbers; its dtype is {np.asarray(y).dtype}: "
                "np.where(y == its second class, 1.0, -1.0) makes them of any two."
            )
        check_finite("y", y)
        names = ("C", "epsilon") if self.name == "svr" else ("C",)
        given = dict(zip(names, parameters, strict=False))
        twice = set(given) & set(more)
        values = {"epsilon": 0.1, **given, **more}
        if len(parameters) > len(names) or twice or set(more) - set(names) or "C" not in values:
            strange = sorted(set(more) - set(names))
            but = f" It got {', '.join(strange)}." if strange else ""
            raise InvalidInputError(
                f"{self.name} takes X, y and {', '.join(names)}, each once.{but}"
            )
        return values

    def with_intercept(
        self,
        X: Any,
        y: Any,
        *parameters: Any,
        sample_weight: Any = None,
        selection: Selection = "support",
        solver: Solver = "auto",
        warm_start: Any = None,
        **more: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """The coefficients and an unpenalised intercept b: of the loss of xᵀβ + b, ((p,), ()).

        The dual gains the constraint cᵀa = 0, c = y (of ``svr``: 1). With b held, and √κ as one more column,
        the dual without it is regular iff the one with it is, and its last coefficient √κ cᵀa falls in b: b is
        where it is zero. One Newton step there carries the derivatives, which do not depend on κ. Where every
        b of an interval is optimal (no sample on the margin is free), it is the middle, and a derivative
        raises SingularError (NaN under jit).
        """
        X = design_matrix(X)
        X = X.toarray() if is_sparse(X) else X
        y = y if hasattr(y, "dtype") else np.asarray(y)
        n, p = check_shapes(X, y, sample_weight)
        self._values(X, y, parameters, more)
        options: dict[str, Any] = {"selection": selection, "solver": solver}
        names = ("C", "epsilon")[: len(parameters)]
        given = {
            **dict(zip(names, parameters, strict=True)),
            **more,
            "sample_weight": sample_weight,
        }
        given = {name: value for name, value in given.items() if value is not None}
        arrays = {"X": X, "y": y, **given}
        dtype = jnp.result_type(float, X.dtype)
        # β does not move with the columns' means, b by cᵀβ: without them nothing is lost to rounding
        centre = jax.lax.stop_gradient(X).mean(axis=0)
        X = X - centre
        arrays["X"] = X
        if all(map(concrete, arrays.values())):
            b, slope = self._intercept(solver, **{k: np.asarray(v) for k, v in arrays.items()})
        else:
            like = (jax.ShapeDtypeStruct((), dtype),) * 2
            held = {k: jax.lax.stop_gradient(jnp.asarray(v)) for k, v in arrays.items()}
            b, slope = jax.pure_callback(
                functools.partial(self._found, solver, dtype), like, held, vmap_method="sequential"
            )
        root = np.sqrt(_kappa(X)) if concrete(X) else jnp.sqrt(_kappa(X))
        numpy = np if concrete(X) else jnp
        wide = numpy.concatenate([X, root * numpy.ones((n, 1), X.dtype)], axis=1)
        b, slope = jnp.asarray(b, dtype), jnp.asarray(slope, dtype)
        last = self(wide, y, shift=b, **options, **given)[-1]
        b = b + _step(last, slope)
        beta = self(wide, y, shift=b, **options, **given)[:p]
        return beta, b - centre @ beta

    def _found(self, solver: Solver, dtype: Any, values: dict[str, Any]) -> tuple[Any, Any]:
        """``_intercept`` of traced arguments: NaN where it would raise."""
        try:
            b, slope = self._intercept(solver, **{k: np.asarray(v) for k, v in values.items()})
        except ConservaxError:
            b = slope = np.nan
        return np.asarray(b, dtype), np.asarray(slope, dtype)

    def _intercept(
        self, solver: Solver, X: np.ndarray, y: np.ndarray, **given: Any
    ) -> tuple[float, float]:
        """b and the slope of the last coefficient there, on the host.

        Newton's method on that coefficient, which falls in b, within a bracket.
        """
        X, y = X.astype(float), y.astype(float)
        root = float(np.sqrt(_kappa(X)))
        wide = np.concatenate([X, np.full((len(y), 1), root)], axis=1)
        weight = given.pop("sample_weight", None)
        direction = {"target": -(np.ones(len(y)) if self.name == "svr" else y) / wide.shape[1]}
        low, high = -np.inf, np.inf
        reach = 1.0 + float(np.abs(y).max())
        start, b = self._balanced(X, y, weight, **given)
        for _ in range(_STEPS):
            more = {**given, "shift": b}
            call, _ = self._call(wide, y, (), more, weight, "support", solver, start, False)
            a = start = call.outcome(()).required().coef
            last = float(call.back[-1] @ a)
            slope = float(call.back[-1] @ call.reduced(a, ()).push(direction))
            # no number between the ends of the bracket: as near as b can be told
            width = high - low
            told = width < np.inf and width <= 4 * np.finfo(float).eps * max(abs(low), abs(high))
            if told or abs(last) <= 1e-12 * root * float(np.abs(a).sum()):
                return _middle(call, a, X, y, b, self.name == "svr"), slope
            low, high = (b, high) if last > 0 else (low, b)
            step = -last / slope if slope < 0 else np.nan
            if low < b + step < high:
                b += step
            elif np.isfinite(low) and np.isfinite(high):
                b = (low + high) / 2
            else:
                b, reach = (b + reach if last > 0 else b - reach), 2 * reach
        raise NotConvergedError(
            f"{self.name}: no intercept was found in {_STEPS} steps. Standardise the columns of X, or lower C."
        )

    def _balanced(
        self, X: np.ndarray, y: np.ndarray, weight: Any, **given: Any
    ) -> tuple[np.ndarray | None, float]:
        """Near the dual solution under its constraint, and its multiplier, the intercept; None at failure."""
        call, _ = self._call(X, y, (), given, weight, "support", "numpy", None, False)
        problem, _ = call.problem(())
        p = X.shape[1]
        c = (np.ones(len(y)) if self.name == "svr" else y) / p
        found = _near(problem, c)
        return (found.a, found.multiplier) if found.near else (None, 0.0)

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


def _near(problem: Problem, balance: np.ndarray | None = None) -> BoxPoint:
    """Near the solution of a dual, by interior points."""
    box = cast(Box, problem.penalty)
    M = np.sqrt(problem.omega)[:, None] * problem.design.X
    margin = 0.0 if box.epsilon is None else float(box.epsilon)
    return box_quadratic(M, box.target, box.bound, margin, box.two_sided, balance)


def _near_first(solve: Solve, problem: Problem, start: np.ndarray | None) -> Outcome:
    """Solve from near the solution: from ``start`` if it is as near, or else from interior points'."""
    if start is not None:
        gradient = problem.gradient(problem.design.predict(start))
        if problem.violation(start, gradient).max(initial=0.0) <= _CLOSE * problem.penalty.scale:
            return solve(problem, start)
    found = _near(problem)
    return solve(problem, found.a if found.near else start)


def _kappa(X: Any) -> Any:
    """The size of x xᵀ, so that the column of the intercept is as long as the others together; 1 for zeros."""
    if concrete(X):
        size = float(np.mean(np.sum(np.square(np.asarray(X, dtype=float)), axis=1)))
        return size if size > 0 else 1.0
    size = jnp.mean(jnp.sum(X**2, axis=1))
    return jax.lax.stop_gradient(jnp.where(size > 0, size, 1.0))


@jax.custom_jvp
def _step(last: jax.Array, slope: jax.Array) -> jax.Array:
    """A Newton step for the root of ``last``, at the root: zero, whose derivative is that of the root."""
    return jnp.zeros_like(last)


@_step.defjvp
def _(primals: Any, tangents: Any) -> Any:
    last, slope = primals
    if concrete(slope) and slope == 0:
        raise SingularError(
            "no sample on the margin lies between its bounds, so that an interval of intercepts is optimal "
            "and has no derivative. Change C, or differentiate the function without an intercept."
        )
    return jnp.zeros_like(last), jnp.where(slope == 0, jnp.nan, -tangents[0] / slope)


def _middle(
    call: ModelCall, a: np.ndarray, X: np.ndarray, y: np.ndarray, b: float, two_sided: bool
) -> float:
    """b where a sample between its bounds determines it, else the middle of what optimality allows."""
    bound = np.asarray(call.held["bound"], dtype=float)
    free = (a != 0) & (np.abs(a) < bound)
    if free.any() or not (bound > 0).any():
        return b
    score = X @ np.asarray(call.back)[:-1].dot(a)
    live = bound > 0
    if two_sided:
        margin = float(np.asarray(call.held["epsilon"])) * call.back.shape[0]
        # a = 0: |y − score − b| ≤ ε; at the upper bound y − score − b ≥ ε, at the lower ≤ −ε
        rest = y - score
        lows = np.concatenate([(rest - margin)[live & (a == 0)], (rest + margin)[live & (a < 0)]])
        highs = np.concatenate([(rest + margin)[live & (a == 0)], (rest - margin)[live & (a > 0)]])
    else:
        edge = y - score  # where y (score + b) = 1
        outside = (a == 0) == (y > 0)
        lows, highs = edge[live & outside], edge[live & ~outside]
    low, high = lows.max(initial=-np.inf), highs.min(initial=np.inf)
    if not (np.isfinite(low) and np.isfinite(high)):
        return float(low if np.isfinite(low) else high if np.isfinite(high) else b)
    return float((low + high) / 2)


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

    Returns, raises: as ``lasso``, differentiable in X, C and sample_weight; ``with_intercept`` solves the
    dual under Σ y_i a_i = 0. Set and certificate are those of the model without an intercept.

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
