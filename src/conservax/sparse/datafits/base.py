"""What a loss has to know about itself."""

from abc import ABC, abstractmethod

import numpy as np


class Datafit(ABC):
    """A loss ℓ(z, y), convex in z. Predictions have shape (n, K); K is 1 but for several classes.

    All methods take and return float64 arrays of the host.
    """

    curvature_bound: float | None = None
    """sup ℓ″, or None if there is none."""

    quadratic = False
    """Whether ℓ″ is constant, so that one Gram matrix serves every iteration."""

    def outputs(self, y: np.ndarray) -> int:
        """K, the numbers predicted for a sample."""
        return 1

    @abstractmethod
    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """ℓ, (n,)."""

    @abstractmethod
    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """∂ℓ/∂z, (n, K)."""

    @abstractmethod
    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """∂²ℓ/∂z², (n, K, K)."""

    @abstractmethod
    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """∂²ℓ/∂z∂y, (n, K): how the gradient moves with the target; zeros for labels."""

    def problem_with(self, y: np.ndarray) -> str:
        """What is wrong with these targets, or nothing."""
        return ""

    def corners(self, z: np.ndarray, y: np.ndarray, rtol: float) -> np.ndarray:
        """The samples at which ℓ″ jumps, to a relative tolerance; most losses have none."""
        return np.zeros(0, dtype=np.intp)
