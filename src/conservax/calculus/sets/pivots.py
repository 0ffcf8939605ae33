"""Principal pivots: the elements at all extreme selections, and the signs of all principal minors.

Written as one matrix, the cut linearisation is (z; F) = [[L, E], [H, A]] (r; x). Deciding a kink
removes its row and column: with r = 0 they are dropped, with r = z the pivot I − L_cc eliminates
them (a Schur complement). The decisions form a tree whose leaves are the vertices, one level a kink,
and each level is one batched operation. A Gray-code path through the vertices makes as many pivots;
the tree shares them between vertices, shrinks the matrices as it goes down, and puts no vertex more
than k pivots away from the data, so that nothing needs to be factorised anew.
"""

from collections.abc import Sequence

import numpy as np

from ...errors import SingularError
from .abs_normal import AbsNormal, Group
from .minors import scan_minors

_SMALL_PIVOT = 1e-6  # relative; below, a batched solve with its own pivoting is more accurate


class SmallPivotError(SingularError):
    """A pivot is too small for elimination in this order: solve instead."""


def decide(form: AbsNormal, enumerated: Sequence[Group], kept: Sequence[int]) -> np.ndarray:
    """The matrices [[L, E], [H, A]] left over when some kinks are decided in all extreme ways.

    Args:
        form: the abs-normal form, k kinks, shape (m, n).
        enumerated: groups to decide; kept: columns to leave undecided, in this order. All other
            columns are dropped (r = 0).

    Returns:
        An array (V, κ + m, κ + n), κ = len(kept): one matrix a choice, in the order of
        ``itertools.product`` over the groups' vertices. With nothing kept, these are the vertices.

    Raises:
        SmallPivotError: a pivot is small against its terms, so that accuracy would be lost.
        NotPolyhedralError: a ball is among ``enumerated``.

    Source: docs/theory.md#principal-pivots; Tsatsomeros and Li (BIT 2000) walk the same tree for
    principal minors.
    """
    k = form.L.shape[0]
    order = [c for g in enumerated for c in g.columns] + list(kept)
    position = {c: i for i, c in enumerate(order)}
    table = np.block([[form.L, form.E], [form.H, form.A]])
    rows = [*order, *range(k, table.shape[0])]
    columns = [*order, *range(k, table.shape[1])]
    batch = table[np.ix_(rows, columns)][None]
    for group in enumerated:
        count = len(group.columns)
        assert [position[c] for c in group.columns] == list(
            range(position[group.columns[0]], position[group.columns[0]] + count)
        )
        rest = batch[:, count:, count:]
        branches = []
        for weights in group.vertices():
            taken = [i for i, place in enumerate(group.places) if weights[place] == 1.0]
            branches.append(rest + _schur(batch, taken, count) if taken else rest)
        batch = np.stack(branches, axis=1).reshape(-1, *rest.shape[1:])
    return batch


def _schur(batch: np.ndarray, taken: Sequence[int], count: int) -> np.ndarray:
    """What the kinks ``taken`` add to the rest when they pass their increment on: r = z."""
    block = batch[:, taken][:, :, taken]
    seen_by = batch[:, count:][:, :, taken]
    sees = batch[:, taken][:, :, count:]
    if len(taken) == 1:
        pivot = 1.0 - block
        if np.any(np.abs(pivot) <= _SMALL_PIVOT * (1.0 + np.abs(block))):
            raise SmallPivotError("a pivot is small")
        return seen_by * (sees / pivot)
    systems = np.eye(len(taken)) - block
    if not np.all(np.linalg.cond(systems) < 1 / _SMALL_PIVOT):
        raise SmallPivotError("a pivot is small")
    return seen_by @ np.linalg.solve(systems, sees)


MAX_EXACT = 20
_ROUND_OFF = 8 * float(np.finfo(float).eps)  # relative; what rounding may have done to N's entries


def is_p_matrix(N: np.ndarray) -> bool | None:
    """Whether every principal minor of N (k, k) is positive: then I − D (I − N) is invertible for all D.

    Sufficient conditions first: N triangular up to a permutation is left to the caller; N + Nᵀ ≻ 0,
    also after a diagonal scaling; then, for k ≤ 20, the signs of all 2ᵏ principal minors.

    Returns True or False; None where that is not known (a minor too near zero, or k > 20).

    Source: Tsatsomeros and Li, A recursive test for P-matrices (BIT 2000);
    docs/theory.md#sufficient-conditions.

    >>> import numpy as np
    >>> (
    ...     is_p_matrix(np.array([[1.0, -3.0], [3.0, 1.0]])),
    ...     is_p_matrix(np.array([[1.0, 3.0], [3.0, 1.0]])),
    ... )
    (True, False)
    """
    k = N.shape[0]
    if k == 0 or _monotone(N):
        return True
    if k > MAX_EXACT:
        return None
    scan = scan_minors(N, _ROUND_OFF * k * float(np.abs(N).max()))
    if scan.negative is not None:
        return False
    return True if scan.all_positive else None


def _monotone(N: np.ndarray) -> bool:
    """N + Nᵀ ≻ 0, or the same after a diagonal scaling from the Perron vectors of |K|."""
    k = N.shape[0]
    scales = [np.ones(k)]
    try:
        K = np.abs((np.eye(k) - N) @ np.linalg.inv(np.eye(k) + N))
        right, left = (_perron(M) for M in (K, K.T))
        scales.append(left / right)
    except np.linalg.LinAlgError:
        pass
    for scale in scales:
        root = np.sqrt(scale)
        with np.errstate(all="ignore"):
            scaled = root[:, None] * N / root
        if not np.all(np.isfinite(scaled)):
            continue
        smallest = np.linalg.eigvalsh(scaled + scaled.T)[0]
        if smallest > 8 * k * np.finfo(float).eps * np.linalg.norm(scaled, 2):
            return True
    return False


def _perron(M: np.ndarray) -> np.ndarray:
    """A positive vector near the Perron vector of M ≥ 0."""
    values, vectors = np.linalg.eig(M + 1e-8 * (1.0 + np.abs(M).max(initial=0.0)))
    vector = np.abs(np.real(vectors[:, int(np.argmax(np.real(values)))]))
    return np.maximum(vector, 1e-8 * vector.max())
