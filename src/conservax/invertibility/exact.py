"""Determinants in rational arithmetic: the sign that no rounding can change."""

from fractions import Fraction

import numpy as np


def determinant_sign(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], diagonal: np.ndarray
) -> int:
    """The sign of det(A + H (I − D L)⁻¹ D E) · det(I − D L) for floats taken as they are.

    It is that of [[I − D L, −D E], [H, A]]. Kinks of weight 0 are left out.

    Args:
        parts: A (n, n), H (n, k), E (k, n), L (k, k); diagonal: (k,).

    Returns:
        −1, 0 or 1. About (n + k)³/3 multiplications of long integers.

    Source: Bareiss, Sylvester's identity and multistep integer-preserving Gaussian elimination
    (Mathematics of Computation 1968).

    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> [determinant_sign((one, -2 * one, one, 0 * one), np.array([q])) for q in (0.0, 0.5, 1.0)]
    [1, 0, -1]
    """
    A, H, E, L = parts
    on = np.flatnonzero(diagonal)
    weights = [Fraction(float(w)) for w in diagonal[on]]
    rows = []
    for i, (c, w) in enumerate(zip(on, weights, strict=True)):
        own = [int(i == j) - w * Fraction(float(v)) for j, v in enumerate(L[c, on])]
        rows.append(own + [-w * Fraction(float(v)) for v in E[c]])
    for h, a in zip(H[:, on], A, strict=True):
        rows.append([Fraction(float(v)) for v in (*h, *a)])
    return _bareiss([_integers(row) for row in rows])


def _integers(row: list[Fraction]) -> list[int]:
    """A row times its common denominator, a power of two."""
    scale = max((v.denominator for v in row), default=1)
    return [v.numerator * (scale // v.denominator) for v in row]


def _bareiss(rows: list[list[int]]) -> int:
    """The sign of an integer determinant by fraction-free elimination."""
    sign, previous = 1, 1
    for step in range(len(rows)):
        found = next((i for i in range(step, len(rows)) if rows[i][step]), None)
        if found is None:
            return 0
        if found != step:
            rows[step], rows[found], sign = rows[found], rows[step], -sign
        top = rows[step]
        pivot = top[step]
        for row in rows[step + 1 :]:
            head = row[step]
            for j in range(step + 1, len(rows)):
                row[j] = (row[j] * pivot - head * top[j]) // previous
        previous = pivot
    return sign if previous > 0 else -sign
