"""ℓ(z, y) = (z − y)²/2."""

from dataclasses import dataclass

import numpy as np

from .base import Datafit


@dataclass(frozen=True)
class Quadratic(Datafit):
    """ℓ(z, y) = (z − y)²/2, of least squares.

    >>> import numpy as np
    >>> Quadratic().gradient(np.array([[3.0]]), np.array([1.0])).item()
    2.0
    """

    curvature_bound = 1.0
    quadratic = True

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (z[:, 0] - y) ** 2 / 2

    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return z - y[:, None]

    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.ones((len(z), 1, 1))

    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return -np.ones_like(z)
