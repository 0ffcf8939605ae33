"""The root of an increasing function in NumPy, many at a time."""

from collections.abc import Callable

import numpy as np

_STEPS = 200
_EPS = float(np.finfo(float).eps)
Equation = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def host_root(
    equation: Equation, low: np.ndarray, high: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Of an increasing function: Newton's steps that stay in the bracket, else its middle by asinh."""
    x, last = start, np.full_like(low, np.inf)
    for _ in range(_STEPS):
        value, slope = equation(x)
        low, high = np.where(value <= 0, x, low), np.where(value >= 0, x, high)
        newton = x - value / slope
        good = (newton >= low) & (newton <= high) & (np.abs(newton - x) <= 0.7 * last)
        middle = np.sinh((np.arcsinh(low) + np.arcsinh(high)) / 2)
        new = np.where(value == 0, x, np.where(good, newton, middle))
        last = np.where(good, np.abs(new - x), (high - low) / 2)
        done = np.abs(new - x) <= 2 * _EPS * np.abs(x)
        x = np.where(np.isnan(new), x, new)
        if np.all(done | (value == 0) | np.isnan(value)):
            break
    return x
