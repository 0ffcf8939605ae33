"""Tolerances, dtypes and scales: decided here, once.

A kink with increment z is *active* iff ``|z| <= atol + rtol * scale(z)``, where ``scale(z)`` is the
size of the terms that made z. Everything below is relative to that scale, so that rescaling an
input changes no decision.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike


class Tolerance(NamedTuple):
    """When a kink counts as active: ``|z| <= atol + rtol * scale(z)``."""

    atol: float
    rtol: float


def machine_epsilon(dtype: DTypeLike) -> float:
    """Unit round-off of a float dtype (ml_dtypes' bfloat16 included)."""
    import jax.numpy as jnp

    return float(jnp.finfo(dtype).eps)


def exact_input_tolerance(dtype: DTypeLike) -> Tolerance:
    """Tolerance at a point that the user states exactly: rtol = sqrt(eps)."""
    return Tolerance(0.0, math.sqrt(machine_epsilon(dtype)))


def solver_output_tolerance(dtype: DTypeLike, relative_residual: float) -> Tolerance:
    """Tolerance at a solver's output: rtol = sqrt(max(eps, relative residual)).

    Without strict complementarity a solution lies within the square root of the residual of a kink.
    """
    return Tolerance(0.0, math.sqrt(max(machine_epsilon(dtype), relative_residual)))


def is_root(residual: Any, scale: Any, dtype: DTypeLike) -> Any:
    """Whether ``‖F(sol)‖`` is small against the terms of F: below the fourth root of eps.

    A looser point says more about the solver than about the solution; the derivative there is noise.
    Where all terms vanish together (a root at 0) their size is taken to be that root, too.
    Takes numbers, or arrays (traced ones too), entry by entry.
    """
    small = machine_epsilon(dtype) ** 0.25
    return (residual <= small * scale) | (residual <= small * small)


def singular_value_floor(matrix: np.ndarray, dtype: DTypeLike) -> float:
    """Below this singular value a matrix known to dtype's precision cannot be told from a singular one."""
    if matrix.size == 0:
        return 0.0
    return 4 * max(matrix.shape) * machine_epsilon(dtype) * spectral_norm(matrix)


def spectral_norm(matrix: np.ndarray) -> float:
    """‖X‖₂, to a few units in the last place times the size: by its smaller Gram matrix where it is large."""
    if min(matrix.shape) < 32:
        return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    scale = float(np.abs(wide).max())
    if scale == 0 or not np.isfinite(scale):
        return scale
    wide = wide / scale
    return scale * math.sqrt(float(np.linalg.eigvalsh(wide @ wide.T)[-1]))
