"""What is known about the invertibility of every element of a set: ``Verdict``, ``Certificate``."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

from ..calculus import AbsNormal


class Verdict(IntEnum):
    """PROVEN: every element is invertible. REFUTED: a witness is not. UNKNOWN: neither was shown.

    Text shows the name; a format for numbers shows the number, which an int8 array holds.

    >>> print(Verdict.PROVEN, f"{Verdict.REFUTED:>8} {Verdict.REFUTED:+d}")
    PROVEN  REFUTED -1
    """

    REFUTED = -1
    UNKNOWN = 0
    PROVEN = 1

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        try:
            return format(self.name, spec)
        except ValueError:  # no format of a text
            return format(int(self), spec)


class Rigour(StrEnum):
    """Of what a verdict speaks.

    EXACT: of the float matrices as they stand, rounding accounted for. AT_TOLERANCE: of matrices
    known to the user's precision only; the witness is singular within that precision.
    """

    EXACT = "exact"
    AT_TOLERANCE = "at the tolerance"


@dataclass(frozen=True)
class Witness:
    """A singular element: its selection, its null vector, and its extreme singular values.

    ``selection`` holds flat weights, as ``AbsNormal.diagonal`` and ``element`` take them.
    """

    selection: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float

    def recheck(self, form: AbsNormal) -> tuple[float, float]:
        """(σ_min, σ_max) of the element, built anew from its selection, by one SVD.

        >>> import jax, conservax as cx
        >>> from conservax.invertibility import certify
        >>> form = cx.conservative_jacobian(lambda y: y - 2 * jax.nn.relu(y))(0.0).form
        >>> certify(form).witness.recheck(form)
        (0.0, 0.0)
        """
        element = form.jacobian(form.diagonal(self.selection))
        values = np.linalg.svd(element, compute_uv=False)
        return float(values[-1]), float(values[0])


@dataclass(frozen=True)
class Work:
    """What was done: principal minors, boxes, vertices (by singular values), exact determinants."""

    minors: int = 0
    boxes: int = 0
    vertices: int = 0
    exact: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.minors + other.minors,
            self.boxes + other.boxes,
            self.vertices + other.vertices,
            self.exact + other.exact,
        )


@dataclass(frozen=True)
class Certificate:
    """Whether every element B(q) of a set of square matrices is invertible.

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN; ``reason``: one sentence why; ``method``: which rung.
        margin: a lower bound on σ_min over the whole set (None unless PROVEN, or not known).
        sigma_min: the smallest singular value met.
        witness: a singular element (None unless REFUTED).
        rigour: whether the verdict holds exactly for the float matrices or at the tolerance.
        work: what was done.
        undecided: what would decide an UNKNOWN, in one sentence (empty otherwise).
        determinant_signs: how many vertices have negative, zero and positive determinants, where
            all were visited; zero means singular to the user's precision.
    """

    verdict: Verdict
    method: str
    reason: str
    margin: float | None
    sigma_min: float
    witness: Witness | None
    rigour: Rigour = Rigour.EXACT
    work: Work = field(default_factory=Work)
    undecided: str = ""
    determinant_signs: tuple[int, int, int] | None = None

    @property
    def n_vertices(self) -> int:
        """How many vertices were visited."""
        return self.work.vertices
