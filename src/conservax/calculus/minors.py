"""The recursive test of principal minors: which are surely positive, which surely are not.

With row c of N the increment of a kink's column and one column per kink, the determinant at an
extreme selection is a minor of N: drop a kink (r = 0), or eliminate it with one of its rows (r = z).
The pivots met on the way are ratios of minors, so that all of them are positive if and only if all
minors are: 2ᵏ pivots in matrices that shrink, 12 · 2ᵏ flops in all.

A batch lies on the last axis. The first levels are walked depth first and the rest breadth first, in
pieces that fit the cache. Each matrix carries one number that bounds the error of its entries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PIECE = 1 << 16  # vertices below one piece: its widest level takes about a megabyte
_UNIT = float(np.finfo(float).eps)


@dataclass(frozen=True)
class MinorScan:
    """What is sure about the signs of all minors.

    ``negative`` is a choice (0: dropped, j: the j-th row taken) with a minor surely negative;
    ``uncertain`` pairs a choice for the first kinks with their number: below it nothing was
    decided. ``visited`` counts minors. With neither, every minor is surely positive.
    """

    negative: tuple[int, ...] | None
    uncertain: tuple[tuple[int, ...], ...]
    visited: int

    @property
    def all_positive(self) -> bool:
        return self.negative is None and not self.uncertain


def scan_minors(
    N: np.ndarray, radius: float, rows: Sequence[int] | None = None, *, max_uncertain: int = 4096
) -> MinorScan:
    """The signs of det N_S over all ways S to take no row, or one, from each kink.

    Args:
        N: (K, G), one column a kink and its rows together, in order; the true matrix differs from
            it by at most ``radius`` in each entry.
        rows: how many rows each kink has, (G,); one each by default: principal minors.
        max_uncertain: stop when more subtrees than this have no certain sign.

    Returns:
        A MinorScan, which ends at the first minor that is surely negative.

    Source: Tsatsomeros and Li, A recursive test for P-matrices (BIT 2000); for several rows the
    row-W property of Sznajder and Gowda (1995). Errors: first-order interval bounds, kept as one
    number a matrix.

    >>> import numpy as np
    >>> scan_minors(np.array([[1.0, -3.0], [3.0, 1.0]]), 0.0).all_positive
    True
    >>> scan_minors(np.array([[1.0, 3.0], [3.0, 1.0]]), 0.0).negative
    (1, 1)
    """
    counts = tuple(rows) if rows is not None else (1,) * N.shape[1]
    walk = _Walk(counts, max_uncertain)
    table = np.ascontiguousarray(N, dtype=np.float64)[:, :, None]
    largest = float(np.abs(N).max(initial=0.0))
    walk.down(0, table, np.array([float(radius)]), np.array([largest]), np.zeros(1, np.int64))
    negative = None if walk.negative is None else walk.choice(*walk.negative)
    uncertain = tuple(walk.choice(level, code) for level, code in walk.uncertain)
    return MinorScan(negative, uncertain, walk.visited)


class _Walk:
    """The state of a scan: findings so far, and how a code spells a choice."""

    def __init__(self, counts: tuple[int, ...], max_uncertain: int) -> None:
        self.counts = counts
        self.max_uncertain = max_uncertain
        self.negative: tuple[int, int] | None = None
        self.uncertain: list[tuple[int, int]] = []
        self.visited = 0

    @property
    def over(self) -> bool:
        return self.negative is not None or len(self.uncertain) > self.max_uncertain

    def choice(self, level: int, code: int) -> tuple[int, ...]:
        """The choices for the first ``level`` kinks, the last of them the code's lowest digit."""
        digits = []
        for count in reversed(self.counts[:level]):
            code, digit = divmod(int(code), count + 1)
            digits.append(digit)
        return tuple(reversed(digits))

    def down(
        self,
        level: int,
        table: np.ndarray,
        error: np.ndarray,
        largest: np.ndarray,
        code: np.ndarray,
    ) -> None:
        """Visit what lies below a batch: table (rows, columns, batch), and a number each."""
        while level < len(self.counts) and code.size and not self.over:
            below = math.prod(c + 1 for c in self.counts[level:])
            if code.size > 1 and code.size * below > _PIECE:
                half = code.size // 2
                for part in (slice(half), slice(half, None)):
                    if not self.over:
                        piece = np.ascontiguousarray(table[:, :, part])
                        self.down(level, piece, error[part], largest[part], code[part])
                return
            if self.counts[level:] == (1, 1):
                self.last_two(level, table, error, code)
                return
            table, error, largest, code = self.step(level, table, error, largest, code)
            level += 1

    def step(
        self,
        level: int,
        table: np.ndarray,
        error: np.ndarray,
        largest: np.ndarray,
        code: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Decide one kink for every member of the batch, in all ways."""
        count = self.counts[level]
        batch = code.size
        self.visited += count * batch
        rest = table[count:, 1:]
        column = table[count:, 0]
        tall = np.abs(column).max(axis=0, initial=0.0)
        out = np.empty((*rest.shape[:2], (count + 1) * batch))
        errors, sizes, codes = [error], [largest], [code * (count + 1)]
        out[:, :, :batch] = rest
        drop: list[np.ndarray] = []
        for j in range(count):
            pivot = table[j, 0]
            unsure = self.judge(level, pivot, error, code * (count + 1) + j + 1)
            sure = pivot - error
            if unsure is not None:
                drop.append((j + 1) * batch + np.flatnonzero(unsure))
                pivot, sure = np.where(unsure, 1.0, pivot), np.where(unsure, 1.0, sure)
            row = table[j, 1:]
            wide = np.abs(row).max(axis=0, initial=0.0)
            target = out[:, :, (j + 1) * batch : (j + 2) * batch]
            np.multiply(column[:, None], (row / pivot)[None], out=target)
            np.subtract(rest, target, out=target)
            slope = tall / sure
            sizes.append((largest + slope * wide) * (1 + 8 * _UNIT))
            errors.append(
                error * (1 + slope) * (1 + (wide + error) / sure) * (1 + 16 * _UNIT)
                + (4 * _UNIT) * sizes[-1]
            )
            codes.append(codes[0] + j + 1)
        table, error = out, np.concatenate(errors)
        largest, code = np.concatenate(sizes), np.concatenate(codes)
        if drop:
            keep = np.ones(code.size, bool)
            keep[np.concatenate(drop)] = False
            table, error, largest, code = table[:, :, keep], error[keep], largest[keep], code[keep]
        return table, error, largest, code

    def last_two(self, level: int, table: np.ndarray, error: np.ndarray, code: np.ndarray) -> None:
        """Two scalar kinks left: their three minors in closed form, with no pivot to divide by."""
        (a, b), (c, d) = table
        self.visited += 3 * code.size
        self.judge(level, a, error, 2 * code + 1)
        self.judge(level + 1, d, error, 4 * code + 1)
        forward, backward = a * d, b * c
        terms = np.abs(forward) + np.abs(backward)
        spread = np.abs(a) + np.abs(b) + np.abs(c) + np.abs(d)
        slack = (error * (spread + 2 * error) + 2 * _UNIT * terms) * (1 + 16 * _UNIT)
        self.judge(level + 1, forward - backward, slack, 4 * code + 3)

    def judge(
        self,
        level: int,
        pivot: np.ndarray,
        error: np.ndarray,
        code: np.ndarray,
    ) -> np.ndarray | None:
        """Record pivots that are not surely positive; which are in doubt, None if none is."""
        positive = pivot > error
        if positive.all():
            return None
        negative = pivot < -error
        if negative.any():
            if self.negative is None:
                self.negative = (level + 1, int(code[int(np.argmax(negative))]))
            return ~positive
        doubtful = ~positive
        self.uncertain.extend((level + 1, int(c)) for c in code[doubtful])
        return doubtful
