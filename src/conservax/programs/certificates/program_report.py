"""What the certificate of a program says: a report that shows itself, and its witness."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from ... import report as presentation
from ...errors import ConservaxError, InvalidInputError
from ...invertibility import Rigour, Verdict, Work
from ...numerics import singular_value_floor
from .uniqueness import Pieces

_SHOWN = 6  # names of dependent constraints
_FREE = (
    "differentiate only what `direction` leaves still; what is not determined is NaN. Where the rest matters "
    "add curvature to the objective."
)


@dataclass(frozen=True)
class ConstraintState:
    """A constraint as a kink: how far its nearest eigenvalue is from zero, where it may switch.

    Attributes:
        operation: "equality", "inequality", "second-order cone", "semidefinite cone", "exponential cone",
            "power cone" or "dual" one of the last two.
        index: its number within its kind. rows: of A and b.
        distance: the smallest |eigenvalue| of v = y − s there. tolerance: within which it counts as
            zero. slopes: the least and the greatest eigenvalue that V may take there.
        active: whether V has a choice there.
    """

    operation: str
    index: tuple[int, ...]
    rows: range
    distance: float
    tolerance: float
    slopes: tuple[float, float]
    active: bool

    @property
    def file(self) -> str:
        return "row"

    @property
    def line(self) -> int:
        return self.rows.start

    def __str__(self) -> str:
        return f"{self.operation} {list(self.index)}"


@dataclass(frozen=True)
class ProgramWitness:
    """An element V of the Clarke Jacobian of the projection onto K*, with U(V) singular.

    ``selection`` holds the weights of the free eigenvalues: 0 for V_lo, 1 for V_hi; ``element`` is V
    (m, m); ``null_vector`` = (a, w), n + m numbers, a unit vector with U(V) (a, w) ≈ 0.
    """

    selection: np.ndarray
    element: np.ndarray
    null_vector: np.ndarray
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class ProgramReport:
    """Whether U(V) = [[P, AᵀV], [A, V − I]] is invertible for every element V.

    ``print(report)`` shows it, notebooks render it, ``to_dict`` gives JSON.

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN; reason: one sentence; method: how it was decided.
        margin: a lower bound on σ_min over the whole set; None unless PROVEN and bounded.
        sigma_min: the smallest singular value met, at V_lo and V_hi.
        witness: a singular element (None unless REFUTED).
        strongly_active, weakly_active: rows of A with a positive multiplier, and with neither
            multiplier nor slack; of other cones the rows in which V has a choice are weakly active.
        kinks: the weakly active constraints, cone by cone; nearest_inactive: the next one beyond.
        licq: whether the gradients of all active constraints are independent (for second-order and
            semidefinite cones: whether the solution is nondegenerate); None if too close to tell.
        second_order: whether P is positive definite where the strongly active ones stand still (the
            strong second-order condition); None if too close to tell.
        unique: whether the primal solution is unique; None if not decided.
        direction: a unit vector (n,) along which the solution moves, if it is not.
        dependent: the active constraints whose gradients depend on each other, weakly active ones too.
        residual: of the optimality conditions, relative to their terms; tolerance: relative distance
            within which an eigenvalue counted as zero.
        rigour: EXACT if the verdict holds for the floats P and A with rounding accounted for.
        undecided: what would decide an UNKNOWN (else empty).
        pieces: P, A and the elements, for ``recheck``.
    """

    verdict: Verdict
    reason: str
    method: str
    margin: float | None
    sigma_min: float
    witness: ProgramWitness | None
    strongly_active: tuple[int, ...]
    weakly_active: tuple[int, ...]
    kinks: tuple[ConstraintState, ...]
    nearest_inactive: ConstraintState | None
    licq: bool | None
    second_order: bool | None
    unique: bool | None
    direction: np.ndarray | None
    dependent: tuple[ConstraintState, ...]
    residual: float
    tolerance: float
    rigour: Rigour
    undecided: str
    pieces: Pieces = field(repr=False, compare=False)

    def __str__(self) -> str:
        return presentation.to_text(self._shown(), *self._beside())

    def _repr_html_(self) -> str:
        return presentation.to_html(self._shown(), *self._beside())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, verdicts in lower case."""
        return presentation.to_dict(self._shown()) | {
            "strongly_active": list(self.strongly_active),
            "weakly_active": list(self.weakly_active),
            "licq": self.licq,
            "second_order": self.second_order,
            "unique": self.unique,
            "direction": None if self.direction is None else self.direction.tolist(),
            "dependent": [str(state) for state in self.dependent],
        }

    def recheck(self) -> tuple[float, float]:
        """σ_min and σ_max of the witness: its element built anew from its selection, and one SVD.

        Raises InvalidInputError if the report has no witness, and ConservaxError if the witness is
        not what the report says: a report that was altered, or a defect of this library.

        >>> import numpy as np
        >>> from conservax.programs import Cones, ConeProgram
        >>> program = ConeProgram(Cones(nonnegative=2))  # min x₁ over x₁, x₂ ≥ 0: x₂ is free
        >>> report = program.check(np.zeros((2, 2)), [1.0, 0.0], -np.eye(2), np.zeros(2))
        >>> report.recheck()[0] < 1e-12, np.abs(report.direction).tolist()
        (True, [0.0, 1.0])
        """
        if self.witness is None:
            raise InvalidInputError(
                f"the verdict is {self.verdict.name}: there is no witness to check; a witness is an "
                "element that is singular, and only a REFUTED has one."
            )
        U = self.pieces.system(self.pieces.element(self.witness.selection))
        values = np.linalg.svd(U, compute_uv=False)
        image = float(np.linalg.norm(U @ self.witness.null_vector))
        floor = singular_value_floor(U, self.pieces.dtype)
        if max(float(values[-1]), image) > self.witness.sigma_min + floor:
            raise ConservaxError(
                f"the witness does not hold: its element has σ_min = {values[-1]:.3g} and maps the "
                f"null vector to length {image:.3g}, the report says {self.witness.sigma_min:.3g}. "
                "Please report this."
            )
        return float(values[-1]), float(values[0])

    def _beside(self) -> tuple[list[tuple[str, str]], str]:
        """Facts of programs alone, and what to do about them."""
        if not self.dependent:
            free = self.direction is not None and not self.kinks
            return [], _FREE if free else ""
        names = [str(state) for state in self.dependent[:_SHOWN]]
        rest = len(self.dependent) - len(names)
        names += [f"and {rest} more"] if rest else []
        remedy = "drop what is redundant among the dependent constraints, or move off this point."
        polyhedral = all(len(state.rows) == 1 for state in self.dependent)
        if polyhedral and not self.kinks:
            remedy = (
                "differentiate the primal by the objective and the other constraints; what is not determined "
                "is NaN. For the rest " + remedy
            )
        # where the objective is flat as well, more has to be mended
        return [("dependent", ", ".join(names))], remedy if self.second_order else ""

    def _shown(self) -> SimpleNamespace:
        """What ``conservax.report`` reads."""
        return SimpleNamespace(
            **vars(self),
            work=Work(),
            n_vertices=2 if self.pieces.choice.any() else 1,
            determinant_signs=None,
            residual_scale=1.0,
            lipschitz=None,
            clarke_exact=None,
            solves=(),
            given_rules=(),
            proof=None,
        )
