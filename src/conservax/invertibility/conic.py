"""Matrix-valued kinks: I − V M for all symmetric 0 ≼ V ≼ I, blockwise.

Every element of the Clarke Jacobian of a projection or a proximal map is such a V. Equal signs of
the determinant at extreme V prove nothing here: pieces may differ by rank two or more
(docs/theory.md#matrix-valued-kinks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInputError
from .bounds import UNIT
from .certificate import Verdict
from .definite import definite_margin


@dataclass(frozen=True)
class ConicFinding:
    """Whether I − V M is invertible for all V = blkdiag(V_b), 0 ≼ V_b ≼ I, V_b symmetric.

    ``margin`` bounds λ_min of sym(s N s⁻¹), N = I − M, from below (PROVEN); ``element`` is a V with
    I − V M singular (REFUTED).
    """

    verdict: Verdict
    margin: float | None
    element: np.ndarray | None
    scale: np.ndarray | None


def certify_conic(M: np.ndarray, sizes: Sequence[int], *, steps: int = 60) -> ConicFinding:
    """Decide whether I − V M is invertible for all symmetric 0 ≼ V ≼ I of a block structure.

    Δ N + Nᵀ Δ ≻ 0 with Δ = blkdiag(δ_b I) ≻ 0 proves it; for a single block it is also necessary. An
    x with x_b · (N x)_b ≤ 0 for every block refutes it: V_b = x_b x_bᵀ / (x_b · y_b), y = M x, has
    V y = x, and 0 ≼ V ≼ I since x_b · y_b ≥ ‖x_b‖².

    Args:
        M: (k, k), taken as exact; sizes: the blocks' sizes, k in all.
        steps: of the search for δ.

    Returns:
        A ConicFinding; UNKNOWN where several blocks have neither a δ nor an x that were found.

    Raises:
        InvalidInputError: M is not square or not finite, or the sizes do not add up to k.

    Source: docs/theory.md#matrix-valued-kinks; for one block, V ranges over all V y = x with
    x · (y − x) ≥ 0.

    >>> import numpy as np
    >>> certify_conic(np.array([[0.0, 3.0], [-3.0, 0.0]]), [2]).verdict
    <Verdict.PROVEN: 1>
    >>> certify_conic(np.array([[0.0, 3.0], [0.0, 0.0]]), [2]).verdict
    <Verdict.REFUTED: -1>
    """
    k = len(M)
    if M.shape != (k, k) or sum(sizes) != k or min(sizes, default=1) < 1:
        raise InvalidInputError(
            f"blocks of sizes {list(sizes)} do not divide a matrix of shape {M.shape}."
        )
    if not np.all(np.isfinite(M)):
        raise InvalidInputError("M holds NaN or infinity.")
    N = np.eye(k) - M
    owner = np.repeat(np.arange(len(sizes)), sizes)
    logs = np.zeros(len(sizes))
    best, chosen, step = -np.inf, logs, 1.0
    for _ in range(steps):
        scale = np.exp(logs)[owner]
        T = scale[:, None] * N / scale
        values, vectors = np.linalg.eigh((T + T.T) / 2)
        v = vectors[:, 0]
        if values[0] > 0:
            terms = scale[:, None] * (np.eye(k) + np.abs(M)) / scale
            margin = definite_margin((T + T.T) / 2) - 8 * UNIT * float(np.linalg.norm(terms))
            if margin > 0:
                return ConicFinding(Verdict.PROVEN, margin, None, scale)
        element = _singular_element(M, v / scale, owner)
        if element is not None:
            return ConicFinding(Verdict.REFUTED, None, element, None)
        if values[0] > best:
            best, chosen = float(values[0]), logs
        else:
            step /= 2
        # λ_min moves with log δ_b like Σ_{i in b} v_i (T v − Tᵀ v)_i
        gradient = np.bincount(owner, v * (T @ v - T.T @ v), minlength=len(sizes))
        length = float(np.abs(gradient).max(initial=0.0))
        if length <= 1e-12 or step < 1e-6:
            break
        logs = chosen + step * gradient / length
    return ConicFinding(Verdict.UNKNOWN, None, None, None)


def _singular_element(M: np.ndarray, x: np.ndarray, owner: np.ndarray) -> np.ndarray | None:
    """V with V M x = x for an x with x_b · (N x)_b ≤ 0 in every block, surely; None otherwise."""
    y = M @ x
    V = np.zeros_like(M)
    for b in range(int(owner.max(initial=-1)) + 1):
        own = owner == b
        size = float(x[own] @ x[own])
        if size == 0.0:
            continue
        product = float(x[own] @ y[own])
        slack = 4 * len(x) * UNIT * (size + float(np.abs(x[own]) @ (np.abs(M) @ np.abs(x))[own]))
        if product - size < slack:
            return None
        V[np.ix_(own, own)] = np.outer(x[own], x[own]) / product
    return V
