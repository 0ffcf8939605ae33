"""Extrema that r ≥ 3 entries share: one tie, from passes that each hold one rival against the leader.

Where the pieces f_j of the tied entries u_j meet, f_j − f_l = m_j (u_j − u_l) to first order, l the leader, and
f_i − f_j is a multiple of u_i − u_j: the program is f_l + Σ_j w_j m_j (u_j − u_l), with the weights w of the
largest u_j (docs/theory.md#pieces-that-meet).
Entries that tie in a sort have r! orders, whose pieces must all be the same.
"""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple, NoReturn

import numpy as np

from ...errors import DiscontinuousError, UnsupportedOperationError
from ..operations.discover import Records
from ..sets.abs_normal import Kink


class Pass(NamedTuple):
    """What a pass with other rivals found: its records, and which of its slots are active."""

    records: Records
    active: np.ndarray


class Rivals(NamedTuple):
    """How many entries tie, three or more, by the slot of the comparison; the Jacobian of each pass.

    ``orders``: the comparisons whose passes take the orders of a sort.
    """

    ways: Mapping[int, int]
    jacobians: Sequence[np.ndarray]
    orders: Set[int]

    def of(self, owner: int) -> Sequence[np.ndarray]:
        """The Jacobians of the passes that a comparison's rivals take."""
        return self.jacobians[: self.ways[owner] - 1]


ALONE = Rivals({}, (), frozenset())


def ways_of(owners: np.ndarray, slots: np.ndarray, passes: Sequence[Pass]) -> dict[int, int]:
    """How many entries tie at comparisons ``owners``, whose rivals stand at ``slots``: three or more."""
    more = [np.abs(p.records.z[slots]) <= p.records.limit[slots] for p in passes]
    counts = 2 + np.sum(more, axis=0, dtype=int)
    return {int(o): int(c) for o, c in zip(owners, counts, strict=True) if c > 2}


def pieces_apart(gaps: np.ndarray, places: Sequence[int], n: int) -> np.ndarray:
    """How far the leader's piece is from each rival's in every branch, whatever else the branches move.

    ``gaps[j]`` (b, n + k): the same where the columns ``places`` of the branches themselves are held.
    """
    own = [n + p for p in places]
    feedback = gaps[:, :, own]
    gaps = gaps.copy()
    gaps[:, :, own] = 0.0
    return np.linalg.solve(np.eye(len(places)) + feedback, gaps)


def refuse_order(kink: Kink) -> NoReturn:
    """Raise where the slopes depend on the order of three or more entries that tie."""
    raise UnsupportedOperationError(
        f"{kink.location}: three or more entries tie at this {kink.operation}, and the slopes of what is read "
        "in their order depend on it; the calculus follows such an order for two entries alone. Gather with "
        "the whole order, or move the point off the tie."
    )


def as_one_tie(
    gaps: np.ndarray, switches: np.ndarray, n: int, floor: float, kink: Kink
) -> tuple[np.ndarray, np.ndarray]:
    """The increments z (r − 1, n + k) of a tie, and what each moves in the branches (r − 1, b).

    ``gaps[j]`` (b, n + k) is the leader's piece minus the j-th rival's, ``switches[j]`` the leader's entry
    minus the rival's; what is below ``floor`` is rounding.
    """
    multiples = np.array(
        [_multiples(g, s, floor, kink, n) for g, s in zip(gaps, switches, strict=True)]
    )
    for i in range(len(gaps)):
        for j in range(i):
            _multiples(gaps[i] - gaps[j], switches[i] - switches[j], floor, kink, n)
    return -switches, multiples


def _multiples(
    rows: np.ndarray, switch: np.ndarray, floor: float, kink: Kink, n: int
) -> np.ndarray:
    """The m with rows = m · switch; an error where there is none."""
    square = float(switch @ switch)
    multiples = rows @ switch / square if square else np.zeros(len(rows))
    rest = rows - np.outer(multiples, switch)
    if np.linalg.norm(rest) <= floor:
        return multiples
    if np.linalg.norm(rest[:, n:]) > floor:
        raise UnsupportedOperationError(
            f"{kink.location}: three or more entries tie at this {kink.operation}, and other kinks are active "
            "in what is read there; the calculus follows both sides of such kinks for two entries alone. "
            "Write the line with max, or move the point off the tie."
        )
    raise DiscontinuousError(
        f"{kink.location}: the pieces of this {kink.operation} agree at this point, but not wherever two of "
        "its entries tie: the program jumps nearby. Make them agree there, or move the point off the tie."
    )
