"""ℓ(z, y) = exp(z) − y z, of counts."""

from dataclasses import dataclass

import numpy as np

from .base import Datafit


@dataclass(frozen=True)
class Poisson(Datafit):
    """ℓ(z, y) = exp(z) − y z, for y ≥ 0: the Poisson likelihood with the logarithm as link.

    >>> import numpy as np
    >>> Poisson().gradient(np.zeros((1, 1)), np.array([3.0])).item()
    -2.0
    """

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # a step too long is rejected by its infinite value
            return np.exp(z[:, 0]) - y * z[:, 0]

    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(z) - y[:, None]

    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(z)[:, :, None]

    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return -np.ones_like(z)

    def problem_with(self, y: np.ndarray) -> str:
        return "y holds a negative count." if np.any(y < 0) else ""
