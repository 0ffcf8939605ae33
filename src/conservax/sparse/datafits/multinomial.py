"""The multinomial loss of K classes."""

from dataclasses import dataclass

import numpy as np

from .base import Datafit


@dataclass(frozen=True)
class Multinomial(Datafit):
    """ℓ(z, y) = log Σ_k exp(z_k) − z_y for labels y = 0 … K − 1.

    >>> import numpy as np
    >>> Multinomial(2).gradient(np.zeros((1, 2)), np.zeros(1)).tolist()
    [[-0.5, 0.5]]
    """

    classes: int
    curvature_bound = 0.5

    def outputs(self, y: np.ndarray) -> int:
        return self.classes

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        top = z.max(axis=1)
        picked = np.take_along_axis(z, y.astype(np.intp)[:, None], axis=1)[:, 0]
        return top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - picked

    def gradient(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        p = _softmax(z)
        p[np.arange(len(p)), y.astype(np.intp)] -= 1
        return p

    def curvature(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        p = _softmax(z)
        return p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])

    def mixed(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.zeros_like(z)

    def problem_with(self, y: np.ndarray) -> str:
        known = np.isin(y, np.arange(self.classes)).all()
        return "" if known else f"labels must be the integers 0 … {self.classes - 1}."


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
