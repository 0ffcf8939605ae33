"""A lower bound on σ_min over the whole set, from the bounds that the proofs of its blocks leave."""

import numpy as np

from ..calculus import AbsNormal
from .bounds import (
    UNIT,
    inverse_norm_bound,
    m_matrix_inverse_bound,
    two_norm_bound,
    verified_inverse,
)
from .reduced import Block

_LARGEST_INVERSE = 4000  # unknowns beyond which a margin costs more than the verdict


def margin_bound(form: AbsNormal, betas: list[tuple[Block, float | None]]) -> float | None:
    """A lower bound on σ_min over the set from the β of each block, or None.

    σ_min(B(q)) ≥ 1 / (‖A⁻¹‖ (1 + ‖H‖ β ‖E A⁻¹‖)), β ≥ ‖(I − W M)⁻¹ W‖
    (docs/theory.md#margins). Several blocks: with C the norms of the parts of M between them,
    β ≤ ‖(diag(1/β_b) − C)⁻¹‖.
    """
    if len(form.A) > _LARGEST_INVERSE or any(beta is None for _, beta in betas):
        return None
    inverse = verified_inverse(form.A)
    if inverse is None:
        return None
    norm = inverse_norm_bound(form.A, inverse) if form.A.size else 1.0
    if not betas:
        return (1 - 8 * UNIT) / norm
    heads = [b.columns[[u.rows.start for u in b.units]] for b, _ in betas]
    H = form.H[:, np.concatenate(heads)]
    columns = np.concatenate([b.columns for b, _ in betas])
    E = form.E[columns]
    rounding = len(E) * len(E.T) * UNIT * float(np.linalg.norm(inverse.R))
    EA = two_norm_bound(E @ inverse.R)
    EA += float(np.linalg.norm(E)) * (inverse.defect * norm + rounding)
    own = np.array([beta for _, beta in betas], dtype=np.float64)
    if len(betas) == 1:
        beta = float(own[0])
    else:
        X = inverse.R @ H
        size = np.linalg.norm(inverse.R) * np.linalg.norm(H)
        doubt = size * (inverse.defect / (1 - inverse.defect) + len(form.A) * UNIT)
        M = form.L[np.ix_(columns, np.concatenate(heads))] - E @ X
        error = np.linalg.norm(E, axis=1).max() * (doubt + len(form.A) * UNIT * size)
        error += 4 * UNIT * float(np.abs(form.L).max(initial=0.0))
        rows = np.repeat(np.arange(len(heads)), [len(b.columns) for b, _ in betas])
        across = np.repeat(np.arange(len(heads)), [len(h) for h in heads])
        square = np.zeros((len(heads), len(heads)))
        np.add.at(square, (rows[:, None], across[None]), (np.abs(M) + error) ** 2)
        C = -np.sqrt(square) * (1 + 8 * len(M) * UNIT)
        np.fill_diagonal(C, (1 - 4 * UNIT) / own)
        bound = m_matrix_inverse_bound(C)
        if bound is None:
            return None
        beta = bound
    total = norm * (1 + two_norm_bound(H) * beta * EA)
    return (1 - 16 * UNIT) / total
