"""The certificate of a sparse model: is every element of its set of derivatives finite?"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import report as presentation
from ..calculus import Kink
from ..errors import ConservaxError, InvalidInputError
from ..invertibility import Rigour, Verdict, Work, certify
from ..numerics import machine_epsilon
from .local_set import LocalSystem


@dataclass(frozen=True)
class SparseWitness:
    """A direction in which the solution may move at no cost: ‖H v‖ ≈ 0, v in the span of the set's moves.

    ``selection`` holds the weights of the kinks that let it; ``null_vector`` is a unit vector (p,).
    """

    selection: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class SparseReport:
    """Whether the solution has derivatives whichever way its kinks go.

    For the Lasso: whether X_E has full column rank, E the equicorrelation set (Proposition 5).

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN; reason: one sentence; method: how it was decided.
        margin: a lower bound on the least eigenvalue of the Hessian on all directions in which the set
            moves (None unless PROVEN by it); sigma_min: that eigenvalue.
        witness: a null direction (None unless REFUTED).
        support: coefficients that are not zero; equicorrelation: those and the ones at a kink.
        kinks, nearest_inactive: the active kinks, and the next one beyond.
        residual: the violation of optimality, relative to the gradient; tolerance: relative distance
            within which a kink counted as active.
    """

    verdict: Verdict
    reason: str
    method: str
    margin: float | None
    sigma_min: float
    witness: SparseWitness | None
    support: np.ndarray
    equicorrelation: np.ndarray
    kinks: tuple[Kink, ...]
    nearest_inactive: Kink | None
    residual: float
    tolerance: float
    rigour: Rigour
    undecided: str
    system: LocalSystem = field(repr=False, compare=False)

    def __str__(self) -> str:
        return presentation.to_text(self._shown(), self._facts(), self._remedy())

    def _repr_html_(self) -> str:
        return presentation.to_html(self._shown(), self._facts(), self._remedy())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, verdicts in lower case."""
        return presentation.to_dict(self._shown()) | {
            "support": self.support.tolist(),
            "equicorrelation": self.equicorrelation.tolist(),
        }

    def recheck(self) -> tuple[float, float]:
        """‖H v‖ for the witness v, and ‖H‖, computed anew.

        Raises InvalidInputError if the report has no witness, and ConservaxError if it does not hold.
        """
        if self.witness is None:
            raise InvalidInputError(
                f"the verdict is {self.verdict.name}: only a REFUTED has a witness to check."
            )
        H = (
            self.system.H
            + (self.system.h * self.system.c)
            @ np.diag(self.witness.selection[self.system.K.shape[1] :])
            @ self.system.h.T
        )
        v = self.witness.null_vector[self.system.reduced.rows]
        span = self.system.moving()
        image = float(np.linalg.norm(span.T @ (H @ v)))
        size = float(np.linalg.norm(H, 2))
        if image > self.witness.sigma_min + 64 * len(H) * machine_epsilon(float) * size:
            raise ConservaxError("the witness does not hold. Please report this.")
        return image, size

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("support", f"{len(self.support)} coefficients"),
            ("equicorrelation", f"{len(self.equicorrelation)} coefficients may move"),
        ]

    def _remedy(self) -> str:
        if self.verdict == Verdict.REFUTED:
            return "drop one of the columns that the null vector names, raise the penalty, or add a ridge."
        return ""

    def _shown(self) -> SimpleNamespace:
        return SimpleNamespace(
            **vars(self),
            work=Work(),
            n_vertices=1,
            determinant_signs=None,
            residual_scale=1.0,
            lipschitz=None,
            clarke_exact=None,
            solves=(),
            given_rules=(),
            proof=None,
        )


def certificate(system: LocalSystem, residual: float, rtol: float) -> SparseReport:
    """Decide by the least eigenvalue of the Hessian on all that may move; with jumps, by the ladder.

    H ≽ 0 on a face: every element exists iff H is positive definite on the span of its directions and its
    kinks' (docs/theory.md#the-lasso). Where a curvature jumps, positive definiteness at the least
    curvature suffices; failing that, ``certify`` decides.
    """
    span = system.moving()
    lowest = span.T @ system.lowest() @ span
    k = len(lowest)
    units = np.ones(k)
    if k:
        # the Hessian of directions in units of their own curvature: definite iff the other is
        bend = np.diagonal(lowest)
        units = np.sqrt(np.where(bend > 0, bend, np.abs(lowest).max(initial=0.0) or 1.0))
        values, vectors = np.linalg.eigh((lowest + lowest.T) / (2 * np.outer(units, units)))
        least, largest = float(values[0]), float(max(abs(values[0]), abs(values[-1])))
    else:
        least, largest, vectors = np.inf, 0.0, np.zeros((0, 0))
    samples = system.reduced.problem.design.samples
    floor = 4 * max(k, 1) * machine_epsilon(float) * largest
    floor = max(floor, 4 * machine_epsilon(float) * np.sqrt(samples) * largest)
    witness, margin, undecided = None, None, ""
    curved = bool(len(system.c))
    method = "least eigenvalue of the Hessian on the equicorrelation set"
    if least > floor:
        verdict = Verdict.PROVEN
        if k:
            plain = np.linalg.eigvalsh((lowest + lowest.T) / 2)
            least = max(
                (least - floor) * float(units.min()) ** 2,
                float(plain[0]) - floor / largest * float(plain[-1]),
            )
            margin = least / _size(span)
        reason = "the columns that may move are linearly independent, whichever way the kinks go."
    elif not curved:
        verdict = Verdict.REFUTED
        direction = span @ (vectors[:, 0] / units)
        direction /= np.linalg.norm(direction)
        image = float(np.linalg.norm(span.T @ (system.H @ direction)))
        size = float(np.linalg.norm(lowest, 2))
        witness = _witness(system, direction, np.ones(len(system.kinks)), image, size)
        reason = "the columns that may move depend on each other, so the solution may move freely."
    else:
        found = certify(system.square())
        verdict, method, undecided = found.verdict, found.method, found.undecided
        reason = found.reason
        if found.witness is not None:
            direction = span @ found.witness.null_vector
            direction /= np.linalg.norm(direction)
            witness = _witness(
                system,
                direction,
                found.witness.selection,
                found.witness.sigma_min,
                found.witness.sigma_max,
            )
    design = system.reduced.problem.design
    beta = system.reduced.coef[: design.penalised]
    members = system.reduced.face.rows
    return SparseReport(
        verdict=verdict,
        reason=reason,
        method=method,
        margin=margin,
        sigma_min=max(least, 0.0) if k else 0.0,
        witness=witness,
        support=np.flatnonzero(beta),
        equicorrelation=members,
        kinks=system.kinks,
        nearest_inactive=system.nearest,
        residual=residual,
        tolerance=rtol,
        rigour=Rigour.EXACT if verdict == Verdict.PROVEN else Rigour.AT_TOLERANCE,
        undecided=undecided,
        system=system,
    )


def _size(span: np.ndarray) -> float:
    """‖span‖²; most are columns of the identity, of which it is 1."""
    places = np.count_nonzero(span, axis=0)
    if np.all(places == 1) and np.all(np.count_nonzero(span, axis=1) <= 1):
        return float(np.abs(span).max()) ** 2
    return float(np.linalg.norm(span, 2)) ** 2


def _witness(
    system: LocalSystem, direction: np.ndarray, selection: np.ndarray, least: float, largest: float
) -> SparseWitness:
    design = system.reduced.problem.design
    whole = np.zeros(design.size)
    whole[system.reduced.rows] = direction
    return SparseWitness(selection, whole, abs(least), largest)
