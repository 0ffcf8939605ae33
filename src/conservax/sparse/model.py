"""A sparse model as a function: values, derivatives, the set of them, and the certificate."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..numerics import machine_epsilon
from .certificate import SparseReport, certificate
from .datafits import Datafit
from .derivative import Reduced
from .design import is_sparse
from .fit import Call, coefficients, concrete, shape_of
from .local_set import LocalSystem, SparseJacobian, parameter_columns
from .penalties import Penalty
from .solvers import Outcome, Problem, working_set

Solver = Literal["auto", "numpy"] | Callable[[Problem, np.ndarray | None], Outcome]
Selection = Literal["support", "lars"]


@dataclass(frozen=True, eq=False)
class Spec:
    """What a model is: its loss, its penalty as a function of parameters, and their values.

    ``logarithmic`` names the parameters whose logarithms ``jacobian`` differentiates in, ``may_vanish`` those
    that may be zero, ``checked`` those that the model has looked at itself.
    """

    datafit: Datafit
    penalty: Callable[..., Penalty]
    parameters: dict[str, Any]
    logarithmic: tuple[str, ...] = ("alpha",)
    may_vanish: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()


class Model:
    """A function of X (n, p), y (n,) and penalties, with its set of derivatives and its certificate.

    Keywords that every model takes:

        sample_weight: (n,), nonnegative; the loss is their weighted mean. Differentiable.
        selection: which element ``jax.grad`` uses where a coefficient is at its kink: "support" (those
            that are not zero move, the default) or "lars" (all that may move).
        solver: "auto" (celer starts large problems where it is installed), "numpy" (our own alone), or a
            function (Problem, start) ↦ Outcome.
        warm_start: coefficients to start from. They change the time, not the answer.
    """

    def __init__(self, build: Callable[..., Spec]) -> None:
        self._build = build
        functools.update_wrapper(self, build)
        self.name = build.__name__

    def __repr__(self) -> str:
        return f"conservax.sparse.{self.name}"

    def __reduce__(self) -> str:
        return self.name  # found again by its module, as a function is

    def __call__(
        self,
        X: Any,
        y: Any,
        *parameters: Any,
        sample_weight: Any = None,
        selection: Selection = "support",
        solver: Solver = "auto",
        warm_start: Any = None,
        **more: Any,
    ) -> jax.Array:
        """The coefficients, (p,), or (p, K) for K classes."""
        call, operands = self._call(
            X, y, parameters, more, sample_weight, selection, solver, warm_start, False
        )
        return self._shaped(call, coefficients(call, operands))

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
        """The coefficients and an unpenalised intercept, ((p,), ()), or ((p, K), (K,)) for K classes."""
        call, operands = self._call(
            X, y, parameters, more, sample_weight, selection, solver, warm_start, True
        )
        coef = coefficients(call, operands)
        k = call.outputs
        return self._shaped(call, coef[:-k]), coef[-k:] if call.matrix else coef[-1]

    def jacobian(
        self,
        X: Any,
        y: Any,
        *parameters: Any,
        sample_weight: Any = None,
        solver: Solver = "auto",
        warm_start: Any = None,
        rtol: float | None = None,
        **more: Any,
    ) -> SparseJacobian:
        """The set of derivatives of the coefficients in the logarithms of the penalties, (p, m).

        Args:
            rtol: relative distance within which a kink counts as active; by default √eps.

        Raises:
            SingularError: the columns of the support depend on each other.

        Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Proposition 5 and Remark 4.
        """
        system, values, dtype, _, _ = self._local(
            X, y, parameters, more, sample_weight, solver, warm_start, rtol
        )
        return self._set(system, values, dtype)

    def _set(
        self, system: LocalSystem, values: dict[str, np.ndarray], dtype: Any
    ) -> SparseJacobian:
        return SparseJacobian(system.form(*parameter_columns(system.reduced, values), dtype))

    def check(
        self,
        X: Any,
        y: Any,
        *parameters: Any,
        sample_weight: Any = None,
        solver: Solver = "auto",
        warm_start: Any = None,
        rtol: float | None = None,
        **more: Any,
    ) -> SparseReport:
        """Whether every element of that set exists: for the Lasso, whether X_E has full column rank.

        Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Proposition 5; docs/theory.md#the-lasso.
        """
        system, _, _, residual, rtol = self._local(
            X, y, parameters, more, sample_weight, solver, warm_start, rtol
        )
        return certificate(system, residual, rtol)

    def _local(
        self,
        X: Any,
        y: Any,
        parameters: tuple[Any, ...],
        more: dict[str, Any],
        sample_weight: Any,
        solver: Solver,
        warm_start: Any,
        rtol: float | None,
    ) -> tuple[LocalSystem, dict[str, np.ndarray], Any, float, float]:
        call, operands = self._call(
            X, y, parameters, more, sample_weight, "support", solver, warm_start, False
        )
        if operands:
            raise InvalidInputError(
                f"{self.name}.jacobian and .check look at values, which a traced argument has none of: call "
                "them outside jit, grad and vmap."
            )
        problem, total = call.problem(())
        outcome = call.solve(problem, call.start).required()
        if rtol is None:
            rtol = float(np.sqrt(machine_epsilon(call.dtype)))
        held = problem.design.penalised
        face = problem.penalty.face(outcome.coef[:held], outcome.gradient[:held], rtol)
        reduced = Reduced(problem, outcome.coef, outcome.z, face, total)
        values = {name: np.asarray(call.held[name], dtype=np.float64) for name in call.logarithmic}
        scale = float(np.abs(outcome.gradient).max(initial=0.0)) or 1.0
        return LocalSystem.of(reduced, rtol), values, call.dtype, outcome.violation / scale, rtol

    def _call(
        self,
        X: Any,
        y: Any,
        parameters: tuple[Any, ...],
        more: dict[str, Any],
        sample_weight: Any,
        selection: str,
        solver: Solver,
        warm_start: Any,
        intercept: bool,
    ) -> tuple["ModelCall", list[Any]]:
        if selection not in ("support", "lars"):
            raise InvalidInputError(f"selection={selection!r} is neither 'support' nor 'lars'.")
        X = design_matrix(X)
        y = y if hasattr(y, "dtype") else np.asarray(y)
        p = check_shapes(X, y, sample_weight)[1]
        spec = self._build(X, y, *parameters, **more)
        arguments = {"X": X, "y": y, "sample_weight": sample_weight, **spec.parameters}
        for name in ("X", "y", "sample_weight"):
            check_finite(name, arguments[name])
        for name, value in spec.parameters.items():
            if name not in spec.checked:
                check_positive(name, value, name in spec.may_vanish)
        if concrete(y) and (fault := spec.datafit.problem_with(np.asarray(y, dtype=float))):
            raise InvalidInputError(fault)
        traced = tuple(name for name, value in arguments.items() if not concrete(value))
        outputs = spec.datafit.outputs(np.zeros(0))
        size = (p + intercept) * outputs
        dtype = _dtype(X, y)
        start = None
        if warm_start is not None:
            start = _start(warm_start, p, outputs, size)
        call = ModelCall(
            self.name,
            spec.datafit,
            spec.penalty,
            intercept,
            selection,
            {name: value for name, value in arguments.items() if name not in traced},
            traced,
            start,
            size,
            dtype,
            _solver(solver),
            outputs,
            spec.datafit.outputs(np.zeros(0)) > 1,
            spec.logarithmic,
            may_be_negative=spec.checked,
            may_vanish=spec.may_vanish,
        )
        operands = [_operand(arguments[name], dtype) for name in traced]
        return call, operands

    def _shaped(self, call: "ModelCall", coef: jax.Array) -> jax.Array:
        return coef.reshape(-1, call.outputs) if call.matrix else coef


@dataclass(frozen=True, eq=False, repr=False)
class ModelCall(Call):
    """A call, and how its answer is shaped: K outputs, as a matrix or not; the parameters of the set.

    ``back`` is the matrix that takes a dual solution to the coefficients.
    """

    outputs: int = 1
    matrix: bool = False
    logarithmic: tuple[str, ...] = ()
    back: Any = None


def _solver(solver: Solver) -> Callable[[Problem, np.ndarray | None], Outcome]:
    if callable(solver):
        return solver
    if solver not in ("auto", "numpy"):
        raise InvalidInputError(f"solver={solver!r} is neither 'auto' nor 'numpy' nor a function.")
    return functools.partial(working_set, compiled=solver == "auto")


def _operand(value: Any, dtype: Any) -> Any:
    """A traced argument; integers take part as floats, and have no derivative."""
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(dtype)


def _dtype(*arrays: Any) -> Any:
    found = np.result_type(*(a.dtype for a in arrays))
    return jax.dtypes.canonicalize_dtype(
        found if np.issubdtype(found, np.floating) else np.dtype(float)
    )


def _start(warm_start: Any, p: int, outputs: int, size: int) -> np.ndarray:
    if not concrete(warm_start):
        raise InvalidInputError("warm_start must be known, not traced: hand over an array.")
    given = np.asarray(warm_start, dtype=np.float64).ravel()
    if given.size not in (p * outputs, size) or not np.isfinite(given).all():
        raise InvalidInputError(f"warm_start must hold {size} finite numbers; it has {given.size}.")
    return np.concatenate([given, np.zeros(size - given.size)])


def design_matrix(X: Any) -> Any:
    """X as it is used: SciPy's CSC for sparse matrices of SciPy's or JAX's, otherwise as it is."""
    if is_sparse(X):
        return X.tocsc()
    if hasattr(X, "indices") and hasattr(X, "data") and hasattr(X, "todense"):  # JAX's BCOO
        if not (concrete(X.data) and concrete(X.indices)):
            raise InvalidInputError(
                "a sparse X must be known: its entries cannot be traced or differentiated. For derivatives in "
                "the entries, or X as an argument of jit, hand over X.todense(); for those in the other "
                "arguments, close over X."
            )
        from scipy import sparse

        rows, columns = np.asarray(X.indices).T
        return sparse.coo_array((np.asarray(X.data), (rows, columns)), shape=X.shape).tocsc()
    return X if hasattr(X, "dtype") else np.asarray(X)


def check_shapes(X: Any, y: Any, sample_weight: Any) -> tuple[int, int]:
    """(n, p), or an error that names the argument."""
    shape = shape_of(X)
    if len(shape) != 2 or 0 in shape:
        raise InvalidInputError(
            f"X must be a matrix with at least one sample and one feature; it has shape {shape}."
        )
    if np.shape(y) != shape[:1]:
        raise InvalidInputError(
            f"y must have shape ({shape[0]},), one target a sample of X; it has {np.shape(y)}."
        )
    if sample_weight is not None:
        if np.shape(sample_weight) != shape[:1]:
            raise InvalidInputError(
                f"sample_weight must have shape ({shape[0]},); it has {np.shape(sample_weight)}."
            )
        if concrete(sample_weight):
            values = np.asarray(sample_weight)
            if np.any(values < 0) or not np.any(values > 0):
                raise InvalidInputError(
                    "sample_weight must be nonnegative, and not zero everywhere."
                )
    return shape[0], shape[1]


def check_finite(name: str, value: Any) -> None:
    """As scikit-learn words it."""
    if value is None or not concrete(value):
        return
    values = value.data if is_sparse(value) else np.asarray(value)
    if values.dtype.kind not in "biuf":
        raise InvalidInputError(f"{name} must hold real numbers; its dtype is {values.dtype}.")
    if np.issubdtype(values.dtype, np.number) and not np.isfinite(values.sum()):
        if np.isnan(values).any():
            raise InvalidInputError(f"Input {name} contains NaN.")
        if np.isinf(values).any():
            raise InvalidInputError(f"Input {name} contains infinity.")


def check_positive(name: str, value: Any, allow_zero: bool = False) -> None:
    """Penalties are positive and finite."""
    if not concrete(value):
        return
    values = np.asarray(value, dtype=float)
    good = values >= 0 if allow_zero else values > 0
    if not (np.all(good) and np.all(np.isfinite(values))):
        bound = "nonnegative" if allow_zero else "positive"
        raise InvalidInputError(f"{name} must be {bound} and finite; got {values.ravel()[:5]}.")


def scalar(name: str, value: Any) -> Any:
    """A parameter that is one number."""
    if np.shape(value) != ():
        raise InvalidInputError(f"{name} must be a number; it has shape {np.shape(value)}.")
    return value if hasattr(value, "dtype") else np.asarray(value, dtype=float)


def vector(name: str, value: Any, length: int) -> Any:
    """A parameter that has one number a feature."""
    if not hasattr(value, "dtype"):
        known = all(map(concrete, jax.tree.leaves(value)))
        value = np.asarray(value, dtype=float) if known else jnp.asarray(value)
    if np.shape(value) != (length,):
        raise InvalidInputError(f"{name} must have shape ({length},); it has {np.shape(value)}.")
    return value
