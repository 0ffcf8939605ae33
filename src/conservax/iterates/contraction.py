"""Does the derivative of an iteration contract, for every selection at the kinks of its fixed point?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..calculus import ConservativeJacobian
from ..errors import ConservaxError, NotPolyhedralError, TooManyKinksError
from ..invertibility import Verdict
from .linearised import FixedPoint
from .spectral_radius import SpectralRadius, joint_spectral_radius

_MOST = 256  # matrices of a family


@dataclass(frozen=True)
class Contraction:
    """Whether J ↦ A J + B contracts for all A of the set: the joint spectral radius is below 1.

    ``matrices`` (V, n, n) are the vertices of the set of A, in the quotient by the free directions where
    the algorithm has some; empty where they are too many to list. ``word`` numbers them, the last letter
    applied last. ``rate`` is an upper bound of the radius ρ, ``lower`` a lower one. ``radius`` has the
    rest, None where a norm decided.
    """

    verdict: Verdict
    matrices: np.ndarray
    word: tuple[int, ...]
    lower: float
    rate: float
    reason: str
    radius: SpectralRadius | None

    def __str__(self) -> str:
        return f"{self.verdict.name}: {self.reason}"


def contraction_at(point: FixedPoint) -> Contraction:
    """The verdict at a fixed point, by the joint spectral radius of the vertices or, of too many, a norm."""
    n = point.unknowns
    full = point.step().form.restricted(slice(0, n))
    state = ConservativeJacobian(full)
    try:
        matrices = point.quotient(state.vertices())
    except (TooManyKinksError, NotPolyhedralError) as error:
        return _by_norm(point, state, str(error))
    if len(matrices) > _MOST:
        return _by_norm(point, state, f"there are {len(matrices)} vertices.")
    found = joint_spectral_radius(matrices)
    return Contraction(
        found.verdict, matrices, found.word, found.lower, found.upper, found.reason, found
    )


def _by_norm(point: FixedPoint, state: ConservativeJacobian, why: str) -> Contraction:
    """PROVEN if all elements are below 1 in the Euclidean norm, REFUTED if JAX's own is not contracting."""
    one = point.quotient(state.element("jax"))
    lower = float(np.abs(np.linalg.eigvals(one)).max())
    none = np.zeros((0, *one.shape))
    if lower >= 1:
        reason = f"JAX's own selection has spectral radius {lower:.6g}, at least 1."
        return Contraction(Verdict.REFUTED, one[None], (0,), lower, np.inf, reason, None)
    try:
        norm = state.lipschitz_bound() if point.basis is None else np.inf
    except ConservaxError:
        norm = np.inf
    if norm < 1:
        reason = f"‖A‖₂ ≤ {norm:.6g} for every element."
        return Contraction(Verdict.PROVEN, none, (), lower, norm, reason, None)
    reason = f"the spectral radius is at least {lower:.6g}; no norm bounds it below 1. {why}"
    return Contraction(Verdict.UNKNOWN, none, (), lower, float(norm), reason, None)
