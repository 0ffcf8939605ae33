"""What every method is told, and what it hands back."""

from typing import NamedTuple, Protocol

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
    """(x, f, g), moved by a hair where AD's gradient is 0 on a kink: an artefact proves nothing."""
    f, g = oracle(x)
    for power in range(-12, -3):
        if np.any(g) or not np.isfinite(f) or oracle.is_smooth_at(x):
            break
        moved = x + 10.0**power * (1 + np.abs(x)) * rng.normal(size=len(x)) / np.sqrt(len(x))
        f_moved, g = oracle(moved)
        if np.any(g):
            return moved, f_moved, g
    return x, f, g
