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
    decided. ``visited`` counts minors; ``least`` bounds those that were decided from below. With
    neither, every minor is surely positive.
    """

    negative: tuple[int, ...] | None
    uncertain: tuple[tuple[int, ...], ...]
    visited: int
    least: float

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
    batch = _Batch(
        table, np.array([float(radius)]), np.array([largest]), np.ones(1), np.zeros(1, np.int64)
    )
    with np.errstate(over="ignore", invalid="ignore"):  # such errors leave a sign uncertain
        walk.down(0, batch)
    negative = None if walk.negative is None else walk.choice(*walk.negative)
    uncertain = tuple(walk.choice(level, code) for level, code in walk.uncertain)
    return MinorScan(negative, uncertain, walk.visited, walk.least)


@dataclass(frozen=True)
class _Batch:
    """Matrices (rows, columns, batch) at one level of the tree, with four numbers each.

    ``error`` bounds the error of the entries, ``largest`` the entries, ``minor`` the minor so far
    from below; ``code`` spells the choices made.
    """

    table: np.ndarray
    error: np.ndarray
    largest: np.ndarray
    minor: np.ndarray
    code: np.ndarray

    def part(self, which: slice | np.ndarray) -> "_Batch":
        table = np.ascontiguousarray(self.table[:, :, which])
        rest = (self.error, self.largest, self.minor, self.code)
        return _Batch(table, *(a[which] for a in rest))


class _Walk:
    """The state of a scan: findings so far, and how a code spells a choice."""

    def __init__(self, counts: tuple[int, ...], max_uncertain: int) -> None:
        self.counts = counts
        self.max_uncertain = max_uncertain
        self.negative: tuple[int, int] | None = None
        self.uncertain: list[tuple[int, int]] = []
        self.visited = 0
        self.least = 1.0

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

    def down(self, level: int, batch: _Batch) -> None:
        """Visit all that lies below a batch."""
        while level < len(self.counts) and batch.code.size and not self.over:
            size = batch.code.size
            if size > 1 and size * math.prod(c + 1 for c in self.counts[level:]) > _PIECE:
                self.down(level, batch.part(slice(size // 2)))
                if not self.over:
                    self.down(level, batch.part(slice(size // 2, None)))
                return
            if self.counts[level:] == (1, 1):
                self.last_two(level, batch)
                return
            batch = self.step(level, batch)
            level += 1

    def step(self, level: int, batch: _Batch) -> _Batch:
        """Decide one kink for every member of the batch, in all ways."""
        count, size, table, error = self.counts[level], batch.code.size, batch.table, batch.error
        self.visited += count * size
        rest = table[count:, 1:]
        column = table[count:, 0]
        tall = np.abs(column).max(axis=0, initial=0.0)
        out = np.empty((*rest.shape[:2], (count + 1) * size))
        out[:, :, :size] = rest
        base = batch.code * (count + 1)
        errors, sizes, minors, codes = [error], [batch.largest], [batch.minor], [base]
        doubtful = []
        for j in range(count):
            pivot, row = table[j, 0], table[j, 1:]
            sure = (pivot - error) * (1 - _UNIT)
            minors.append(batch.minor * sure * (1 - _UNIT))
            codes.append(base + (j + 1))
            unsure = self.judge(level, pivot, error, minors[-1], codes[-1])
            if unsure is not None:
                doubtful.append((j + 1) * size + np.flatnonzero(unsure))
                pivot, sure = np.where(unsure, 1.0, pivot), np.where(unsure, 1.0, sure)
            wide = np.abs(row).max(axis=0, initial=0.0)
            target = out[:, :, (j + 1) * size : (j + 2) * size]
            np.multiply(column[:, None], (row / pivot)[None], out=target)
            np.subtract(rest, target, out=target)
            slope = tall / sure
            sizes.append((batch.largest + slope * wide) * (1 + 8 * _UNIT))
            # |u v / p − û v̂ / p̂| ≤ e (1 + |û| / p) (1 + (|v̂| + e) / p) − e, and three roundings
            growth = (1 + slope) * (1 + (wide + error) / sure)
            errors.append((error * growth + (4 * _UNIT) * sizes[-1]) * (1 + 16 * _UNIT))
        below = _Batch(out, *map(np.concatenate, (errors, sizes, minors, codes)))
        if not doubtful:
            return below
        keep = np.ones(below.code.size, bool)
        keep[np.concatenate(doubtful)] = False
        return below.part(keep)

    def last_two(self, level: int, batch: _Batch) -> None:
        """Two scalar kinks left: their three minors in closed form, with no pivot to divide by."""
        (a, b), (c, d) = batch.table
        error, minor, code = batch.error, batch.minor, batch.code
        self.visited += 3 * code.size
        self.judge(level, a, error, minor * (a - error), 2 * code + 1)
        self.judge(level + 1, d, error, minor * (d - error), 4 * code + 1)
        forward, backward = a * d, b * c
        spread = np.abs(a) + np.abs(b) + np.abs(c) + np.abs(d)
        slack = error * (spread + 2 * error) + (2 * _UNIT) * (np.abs(forward) + np.abs(backward))
        slack *= 1 + 16 * _UNIT
        pivot = forward - backward
        self.judge(level + 1, pivot, slack, minor * (pivot - slack), 4 * code + 3)

    def judge(
        self,
        level: int,
        pivot: np.ndarray,
        error: np.ndarray,
        minor: np.ndarray,
        code: np.ndarray,
    ) -> np.ndarray | None:
        """Record the pivots of a level; which are not surely positive, None if all are."""
        positive = pivot > error
        if positive.all():
            self.least = min(self.least, (1 - 8 * _UNIT) * float(minor.min()))
            return None
        self.least = min(
            self.least, (1 - 8 * _UNIT) * float(minor.min(where=positive, initial=1.0))
        )
        negative = pivot < -error
        if negative.any():
            if self.negative is None:
                self.negative = (level + 1, int(code[int(np.argmax(negative))]))
        else:
            self.uncertain.extend((level + 1, int(c)) for c in code[~positive])
        return ~positive
