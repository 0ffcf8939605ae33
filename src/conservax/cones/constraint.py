"""One cone of a product, or one row of it, as certificates see it: its eigenvalues, and what may move."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

Support = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Limit(NamedTuple):
    """h = span t must lie in a cone, t the coordinates of a direction.

    Where ``total`` t = 0 on all directions, h is on a face, and ``stuck`` t = 0 as well. ``support``: of
    h and span, the row r with λ_min(h') ≤ r t' everywhere and equality at t.
    """

    span: np.ndarray
    total: np.ndarray
    stuck: np.ndarray
    support: Support

    @property
    def half_line(self) -> bool:
        """Whether the cone is {h ≥ 0}, h a number."""
        return self.support is half_line

    def lowest(self, t: np.ndarray) -> tuple[float, np.ndarray]:
        """The least eigenvalue of h, and its row."""
        row = self.support(self.span @ t, self.span)
        return float(row @ t), row


def half_line(h: np.ndarray, span: np.ndarray) -> np.ndarray:
    """The ``support`` of {h ≥ 0}."""
    return span[0]


@dataclass(frozen=True)
class Constraint:
    """One cone of the product K, or one row of it: its kind, number within the kind, order, rows.

    A row is a half line here; cones of a higher order say in their own files what differs.
    """

    kind: str
    number: int
    order: int
    rows: slice

    switches: ClassVar[bool] = True  # whether it may be active or not

    @property
    def curved(self) -> bool:
        return self.order > 1

    def eigenvalues(self, v: np.ndarray) -> np.ndarray:
        """Of the constraint's own part of v (m,), in descending order."""
        return v[self.rows]

    def counts(self, low: np.ndarray, high: np.ndarray) -> tuple[int, int]:
        """How many of these eigenvalues count as positive, and how many as zero, by d_lo and d_hi (m,)."""
        low, high = low[self.rows], high[self.rows]
        return int((low == 1).sum()), int((high > low).sum())

    def depth(self, s: np.ndarray) -> float:
        """How far s (m,) is inside, negative outside."""
        return float(self.eigenvalues(s)[-1])

    def turn(self, v: np.ndarray, error: float, ray: bool) -> float | None:
        """At a kink next to v (m,), a bound on the change within ``error`` of its normal, or of its ``ray``.

        None where eigenvectors turn by the gap between eigenvalues.
        """
        return None

    def limit(
        self,
        T: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        moved: np.ndarray,
        rotated: np.ndarray,
    ) -> Limit:
        """What it asks, weakly active, of a direction: of ``moved``, the slack's change, and Tᵀ ``moved``."""
        span = rotated[self.rows][(high > low)[self.rows]]
        return Limit(span, span[0], moved[:0], half_line)


def ends(mask: np.ndarray) -> int:
    """Of the two ends of a cone with two eigenvalues; those across agree with one of them."""
    return 2 if mask.all() else int(mask.any())


class TwoEnds(Constraint):
    """A cone whose elements have two eigenvalues of their own, and others across that follow them."""

    def counts(self, low: np.ndarray, high: np.ndarray) -> tuple[int, int]:
        low, high = low[self.rows], high[self.rows]
        return ends(low == 1), ends(high > low)
