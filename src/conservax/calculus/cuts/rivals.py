"""Extrema that r ≥ 3 entries share: one tie, from passes that each hold one rival against the leader.

Where the pieces f_j of the tied entries u_j meet, f_j − f_l = m_j (u_j − u_l) to first order, l the leader, and
f_i − f_j is a multiple of u_i − u_j: the program is f_l + Σ_j w_j m_j (u_j − u_l), with the weights w of the
largest u_j (docs/theory.md#pieces-that-meet).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import DiscontinuousError, UnsupportedOperationError
from ..operations.discover import Records
from ..sets.abs_normal import Kink


class Pass(NamedTuple):
    """What a pass with other rivals found: its records, and which of its slots are active."""

    records: Records
    active: np.ndarray


class Rivals(NamedTuple):
    """The Jacobian of each pass, and how many entries tie, three or more, by the slot of the comparison."""

    ways: Mapping[int, int]
    jacobians: Sequence[np.ndarray]


ALONE = Rivals({}, ())


def ways_of(owners: np.ndarray, slots: np.ndarray, passes: Sequence[Pass]) -> dict[int, int]:
    """How many entries tie at comparisons ``owners``, whose rivals stand at ``slots``: three or more."""
    more = [np.abs(p.records.z[slots]) <= p.records.limit[slots] for p in passes]
    counts = 2 + np.sum(more, axis=0, dtype=int)
    return {int(o): int(c) for o, c in zip(owners, counts, strict=True) if c > 2}


def as_one_tie(
    gaps: np.ndarray, switches: np.ndarray, places: Sequence[int], n: int, small: float, kink: Kink
) -> tuple[np.ndarray, np.ndarray]:
    """The increments z (r − 1, n + k) of a tie, and what each moves in the branches (r − 1, b).

    ``gaps[j]`` (b, n + k) is the leader's piece minus the j-th rival's in every branch, whose columns are
    ``places``; ``switches[j]`` the leader's entry minus the rival's.
    """
    own = [n + p for p in places]
    feedback = gaps[:, :, own]
    gaps = gaps.copy()
    gaps[:, :, own] = 0.0
    gaps = np.linalg.solve(np.eye(len(places)) + feedback, gaps)
    scale = float(np.abs(gaps).max(initial=0.0))
    multiples = np.array(
        [_multiples(g, s, small * scale, kink, n) for g, s in zip(gaps, switches, strict=True)]
    )
    for i in range(len(gaps)):
        for j in range(i):
            _multiples(gaps[i] - gaps[j], switches[i] - switches[j], small * scale, kink, n)
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
