"""What is known about the invertibility of every element of a set: ``Verdict``, ``Certificate``."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Verdict(IntEnum):
    """PROVEN: every element is invertible. REFUTED: a witness is not. UNKNOWN: neither was shown."""

    REFUTED = -1
    UNKNOWN = 0
    PROVEN = 1


@dataclass(frozen=True)
class Witness:
    """An element that is singular: its selection, its null vector, and its extreme singular values."""

    selection: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class Certificate:
    """Whether every element B(q) of a set of square matrices is invertible.

    ``margin`` is a lower bound on σ_min over the whole set (None unless PROVEN), ``sigma_min`` the
    smallest singular value met; ``determinant_signs`` counts (negative, zero, positive) vertices.
    """

    verdict: Verdict
    method: str
    reason: str
    margin: float | None
    sigma_min: float
    witness: Witness | None
    determinant_signs: tuple[int, int, int]
    n_vertices: int
