"""What every method is told, and what it hands back."""

from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from ..solution import Status
from .oracle import Oracle


class Settings(NamedTuple):
    """Tolerances: ``tol`` for the length of a combination of gradients, ``delta`` for their distance."""

    tol: float
    delta: float
    rng: np.random.Generator


class Outcome(NamedTuple):
    """Where a method stopped: x (n,), f(x), a status, iterations; (e, ‖g‖) of a bundle, else NaN."""

    x: np.ndarray
    f: float
    status: Status
    iterations: int
    model_error: float = np.nan
    model_norm: float = np.nan


class Method(Protocol):
    """A method: from a point (with its f and gradient asked for again) to where it stops."""

    def __call__(self, oracle: Oracle, x: np.ndarray, settings: Settings) -> Outcome: ...


def start_at(
    oracle: Oracle, x: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float, np.ndarray]:
    """(x, f, g), moved by a hair off a kink, where AD's gradient may be that of no piece nearby."""
    f, g = oracle(x)
    if oracle.is_smooth_at(x) if np.isfinite(f) else not oracle.has_value(x):
        return x, f, g
    hair = float(jnp.finfo(oracle.dtype).eps) ** 0.5  # shorter, and rounding hides that f falls
    for length in hair * 10.0 ** np.arange(4):
        moved = x + length * (1 + np.abs(x)) * rng.normal(size=len(x)) / np.sqrt(len(x))
        f_moved, g_moved = oracle(moved)
        if np.isfinite(f_moved) and oracle.is_smooth_at(moved):
            return moved, f_moved, g_moved
    return x, f, g
