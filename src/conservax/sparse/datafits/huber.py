"""Huber's loss: quadratic near the target, linear beyond."""

from dataclasses import dataclass

import numpy as np

from .base import Datafit


@dataclass(frozen=True)
class Huber(Datafit):
    """ℓ(z, y) = r²/2 for |r| ≤ δ, δ|r| − δ²/2 beyond, r = z − y. ℓ″ jumps at |r| = δ.

    >>> import numpy as np
    >>> Huber(1.0).gradient(np.array([[3.0]]), np.zeros(1)).item()
    1.0
    """

    delta: float = 1.35
    curvature_bound = 1.0

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        r = np.abs(z[:, 0] - y)
        return np.where(r <= self.delta, r**2 / 2, self.delta * (r - self.delta / 2))

    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.clip(z - y[:, None], -self.delta, self.delta)

    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (np.abs(z[:, 0] - y) <= self.delta).astype(float)[:, None, None]

    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return -self.curvature(z, y)[:, :, 0]

    def corners(self, z: np.ndarray, y: np.ndarray, rtol: float) -> np.ndarray:
        r = np.abs(z[:, 0] - y)
        return np.flatnonzero(np.abs(r - self.delta) <= rtol * (np.abs(z[:, 0]) + np.abs(y)))
