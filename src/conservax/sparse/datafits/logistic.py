"""ℓ(z, y) = log(1 + exp(−y z)) for labels ±1."""

from dataclasses import dataclass

import numpy as np

from .base import Datafit


def sigmoid(t: np.ndarray) -> np.ndarray:
    """1/(1 + exp(−t)), without overflow."""
    small = np.exp(-np.abs(t))
    return np.where(t >= 0, 1.0, small) / (1 + small)


@dataclass(frozen=True)
class Logistic(Datafit):
    """ℓ(z, y) = log(1 + exp(−y z)), y ∈ {−1, 1}.

    >>> import numpy as np
    >>> Logistic().gradient(np.zeros((1, 1)), np.ones(1)).item()
    -0.5
    """

    curvature_bound = 0.25

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logaddexp(0.0, -y * z[:, 0])

    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (-y * sigmoid(-y * z[:, 0]))[:, None]

    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        p = sigmoid(y * z[:, 0])
        return (y**2 * p * (1 - p))[:, None, None]

    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        p = sigmoid(-y * z[:, 0])
        return (-p + y * z[:, 0] * p * (1 - p))[:, None]

    def problem_with(self, y: np.ndarray) -> str:
        found = np.unique(y)
        if np.all(np.isin(found, (-1.0, 1.0))):
            return ""
        return f"y holds the labels {found[:5].tolist()}; they must be -1 and 1."
