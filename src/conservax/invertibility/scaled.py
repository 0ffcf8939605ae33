"""Equations whose rows and columns differ in size: scaled alike first, and with a floor scaled alike.

B̃(q) = D_r B(q) D_c is singular where B(q) is. What of B̃ is rounding is decided by the sizes of the terms
that made the entries of B: an entry 0.1 + 0.2 − 0.3 stays rounding however large it is scaled.
"""

from dataclasses import replace

import numpy as np

from ..calculus import AbsNormal
from ..calculus.cuts.entry_sizes import EntrySizes
from ..numerics import machine_epsilon
from .certificate import Certificate, Verdict
from .ladder import BUDGET, certify

_PASSES = 20
_FAIR = 2.0


def certify_scaled(
    form: AbsNormal, sizes: EntrySizes, *, budget: int = BUDGET
) -> Certificate | None:
    """PROVEN for D_r B(q) D_c beyond all that rounding could have made of its entries, or None.

    With |B′ − B| ≤ u S entry by entry and σ_min(B̃) > ‖D_r (u S) D_c‖₂ every such B′ is invertible, too.

    Args:
        form: of n equations in n unknowns. sizes: of the terms that made each entry of A, H, E and L.
        budget: as in ``certify``.

    Returns:
        A Certificate whose margin is that of the equations as they were, or None.

    Source: Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001);
    docs/theory.md#equilibration.

    >>> import numpy as np, conservax as cx
    >>> form = cx.conservative_jacobian(lambda y: y * np.array([1.0, 1e-9]))(np.ones(2)).form
    >>> exact = EntrySizes(np.abs(form.A), *(np.abs(M) for M in (form.H, form.E, form.L)))
    >>> certify_scaled(form, exact).verdict
    <Verdict.PROVEN: 1>
    """
    reach = _reach(form, np.abs(form.A), np.abs(form.H), np.abs(form.E), np.abs(form.L))
    terms = _reach(form, *sizes)
    if reach is None or terms is None:
        return None
    rows, columns = equilibrating(reach)
    if not (np.all(np.isfinite(rows)) and np.all(np.isfinite(columns))):
        return None
    scaled = replace(
        form,
        A=rows[:, None] * form.A * columns,
        H=rows[:, None] * form.H,
        E=form.E * columns,
        dtype=np.dtype(np.float64),
    )
    found = certify(scaled, budget=budget)
    unit = 4 * len(rows) * machine_epsilon(form.dtype)
    floor = unit * float(np.linalg.norm(rows[:, None] * terms * columns))
    if found.verdict != Verdict.PROVEN or found.margin is None or not found.margin > floor:
        return None
    shrinks = 1 / (float(np.max(rows)) * float(np.max(columns)))
    return replace(
        found,
        method=f"rows and columns scaled to one size; {found.method}",
        margin=found.margin * shrinks,
        sigma_min=found.margin * shrinks,
    )


def equilibrating(B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Powers of two (d_r, d_c) for which the largest entries of diag(d_r) B diag(d_c) are near 1; B ≥ 0.

    A row or column of zeros has no such factor: infinity.

    >>> [d.tolist() for d in equilibrating(np.array([[1.0, 0.0], [0.0, 2.0**-40]]))]
    [[1.0, 1048576.0], [1.0, 1048576.0]]
    """
    rows, columns = np.ones(B.shape[0]), np.ones(B.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_PASSES):
            scaled = rows[:, None] * B * columns
            of_rows, of_columns = scaled.max(axis=1), scaled.max(axis=0)
            largest = np.concatenate([of_rows, of_columns])
            if np.any(largest == 0):
                return np.full_like(rows, np.inf), np.full_like(columns, np.inf)
            if largest.max() <= _FAIR and largest.min() >= 1 / _FAIR:
                break
            rows, columns = rows / np.sqrt(of_rows), columns / np.sqrt(of_columns)
        return np.exp2(np.round(np.log2(rows))), np.exp2(np.round(np.log2(columns)))


def _reach(
    form: AbsNormal, A: np.ndarray, H: np.ndarray, E: np.ndarray, L: np.ndarray
) -> np.ndarray | None:
    """A bound on |B(q)| for all q, entry by entry; None where kinks see each other in a circle."""
    if not H.shape[1]:
        return A
    if form.order() is None:
        return None
    # L is nilpotent: the sum of its powers ends
    return A + H @ np.linalg.solve(np.eye(len(L)) - L, E)
