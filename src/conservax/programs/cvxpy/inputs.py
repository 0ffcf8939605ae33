"""What a CvxpyLayer is given: problem, parameters and values, refused in cvxpylayers' words."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ...arrays.namespace import Array
from ...errors import InvalidInputError
from ..cone_inputs import NEEDS_VALUES, known_as_numpy
from .canonical import ParameterSlot
from .canonicalise import import_cvxpy

_SLIGHT = 1e-6  # what rounding in single precision makes of a value's structure


def check_problem(problem: Any, parameters: Any, variables: Any, gp: bool) -> None:
    """The messages are those of cvxpylayers.

    Raises InvalidInputError.
    """
    cvxpy = import_cvxpy()
    if not isinstance(problem, cvxpy.Problem):
        raise InvalidInputError(f"The layer's problem must be a cvxpy.Problem, but is {problem!r}")
    if not isinstance(parameters, list | tuple):
        raise InvalidInputError("The layer's parameters must be provided as a list or tuple")
    if not isinstance(variables, list | tuple):
        raise InvalidInputError("The layer's variables must be provided as a list or tuple")
    if set(problem.parameters()) != set(parameters):
        raise InvalidInputError("The layer's parameters must exactly match problem.parameters")
    known = {own.id for own in problem.variables()}
    known |= {dual.id for own in problem.constraints for dual in own.dual_variables}
    for variable in variables:
        if getattr(variable, "id", None) not in known:
            raise InvalidInputError(
                f"Variable {variable} must be a subset of problem.variables or a constraint dual "
                "variable"
            )
    for variable in problem.variables():
        if variable.is_complex():
            raise InvalidInputError(
                f"the variable {variable.name()} is complex, which is not supported: split it into two "
                "real ones."
            )
        if variable.attributes["boolean"] or variable.attributes["integer"]:
            raise InvalidInputError(
                f"the variable {variable.name()} is boolean or integer, where a solution has no "
                "derivative: relax it to an interval."
            )
    if not gp and not problem.is_dcp():
        raise InvalidInputError(
            "Problem must be DPP, and this one is not even convex by CVXPY's rules (DCP): `is_dcp()` of "
            "its objective and of each constraint tells where."
        )
    if gp and not problem.is_dpp("dgp"):
        raise InvalidInputError(
            "Problem must be DPP for geometric programming: write every product of parameters as a "
            "parameter of its own."
        )


def lead_of(values: Sequence[Any], parameters: Sequence[ParameterSlot]) -> tuple[int, ...]:
    """The batch axis, if any; the messages are those of cvxpylayers."""
    if len(values) != len(parameters):
        raise InvalidInputError(
            "A tensor must be provided for each CVXPY parameter; "
            f"received {len(values)} tensors, expected {len(parameters)}"
        )
    sizes = []
    for k, (value, slot) in enumerate(zip(values, parameters, strict=True)):
        extra = value.ndim - len(slot.shape)
        if extra not in (0, 1):
            raise InvalidInputError(
                f"Invalid parameter dimensionality for parameter {k} ({slot.name}). Expected "
                f"{len(slot.shape)} or {len(slot.shape) + 1} dimensions, Got: {value.ndim} dimensions"
            )
        if value.shape[extra:] != slot.shape:
            raise InvalidInputError(
                f"Invalid parameter shape for parameter {k} ({slot.name}). Expected: {slot.shape}, "
                f"with a batch axis in front at will, Got: {value.shape}"
            )
        sizes.append(value.shape[0] if extra else 0)
    batched = [size for size, value in zip(sizes, values, strict=True) if size or 0 in value.shape]
    if len(set(batched)) > 1:
        raise InvalidInputError(
            "Inconsistent batch sizes. Expected all batched parameters to have the same batch size, "
            f"but got: {sizes}"
        )
    return tuple(batched[:1])


def as_array(value: Any, k: int, slot_name: str) -> Array:
    """A parameter's value; what is no array is refused as cvxpylayers does, by an AttributeError."""
    if isinstance(value, jax.Array | np.ndarray | float | int | np.number):
        value = known_as_numpy(value)
        if isinstance(value, np.ndarray) and not np.issubdtype(value.dtype, np.floating):
            value = value.astype(float)
        return value
    raise NotAnArrayError(
        f"the value of parameter {k} ({slot_name}) is {value!r}: pass an array, for instance "
        "jnp.asarray(value)."
    )


class NotAnArrayError(InvalidInputError, AttributeError):
    """A parameter's value is no array."""


def check_values(values: Sequence[Array], parameters: Sequence[ParameterSlot]) -> None:
    """No NaN, zeros and signs as declared, positive where logarithms are taken; what is not known passes."""
    for k, (value, slot) in enumerate(zip(values, parameters, strict=True)):
        try:
            known = np.asarray(value)
        except NEEDS_VALUES:
            continue
        if not np.all(np.isfinite(known)):
            raise InvalidInputError(f"parameter {k} ({slot.name}) holds NaN or infinity.")
        if _fills_zeros(known, slot):
            raise InvalidInputError(
                f"parameter {k} ({slot.name}) is not diagonal or sparse as it was declared: pass a value "
                "that is."
            )
        if slot.log_start is not None and not np.all(known > 0):
            raise InvalidInputError(
                f"parameter {k} ({slot.name}) of a geometric program must be positive."
            )
        axes = tuple(range(known.ndim - len(slot.shape), known.ndim))
        size = np.abs(known).max(axis=axes, keepdims=True, initial=1.0)
        if slot.sign and np.any(slot.sign * known < -_SLIGHT * size):
            raise InvalidInputError(
                f"parameter {k} ({slot.name}) was declared to be {'positive' if slot.sign > 0 else 'negative'} "
                "or zero, and has entries that are not: the problem may not be convex there."
            )


def _fills_zeros(value: np.ndarray, slot: ParameterSlot) -> bool:
    """Whether entries that were declared to be zero are not; of a symmetric value the symmetric part counts."""
    if not len(slot.zeros):
        return False
    flat = np.swapaxes(value, -1, -2).reshape(-1, int(np.prod(slot.shape)))
    return bool(np.abs(flat[:, slot.zeros]).max() > _SLIGHT * np.abs(flat).max())
