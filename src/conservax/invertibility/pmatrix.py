"""Proofs that I − W M is invertible for all weights: from one matrix inequality, or from all minors.

Each proof returns β with ‖(I − W M)⁻¹ W‖₂ ≤ β for all W in the set, from which a margin of
σ_min(B(q)) follows (docs/theory.md#margins), and accounts for the error bound that comes with M.
"""

import math

import numpy as np
import scipy

from .bounds import UNIT, m_matrix_inverse_bound, verified_inverse
from .definite import definite_margin
from .reduced import Block

_STEPS = 60  # of the search for a scaling


def monotone(block: Block, scale: np.ndarray | None = None) -> float | None:
    """β from S = sym(s N s⁻¹) ≻ 0 for a positive vector s (all ones by default), or None.

    xᵀ(I − D M)x ≥ … with r = D z: ‖(I − D M)⁻¹ D‖ ≤ √cond(s²) / λ_min(S). Rungs 5 and 7. Rows of a tie
    count as independent kinks, which costs nothing (docs/theory.md#margins).
    """
    N, radius = block.square()
    spread = 1.0
    if scale is not None:
        N = scale[:, None] * N / scale
        spread = float(scale.max() / scale.min()) * (1 + 4 * UNIT)
        if not np.all(np.isfinite(N)):
            return None
    S = (N + N.T) / 2
    if not np.all(np.isfinite(S)) or not np.all(np.diagonal(S) > 0):
        return None
    doubt = len(N) * radius * spread + 4 * UNIT * float(np.linalg.norm(N))
    bound = definite_margin(S) - doubt * (1 + 8 * UNIT)
    return spread / bound if bound > 0 else None


def h_matrix(block: Block) -> float | None:
    """β from an x > 0 with ⟨N⟩ x > 0, N_ii > 0 (an H-matrix), or None.

    |(I − D + D N)⁻¹ D| ≤ ⟨N⟩⁻¹ for 0 ≤ D ≤ I. Source: Chen and Xiang, Computation of error bounds for
    P-matrix linear complementarity problems (Math. Programming 2006).
    """
    N, radius = block.square()
    comparison = -(np.abs(N) + radius)
    np.fill_diagonal(comparison, np.diagonal(N) - radius)
    if not np.all(np.diagonal(comparison) > 0):
        return None
    return m_matrix_inverse_bound(comparison)


def regular_box(block: Block, low: np.ndarray, high: np.ndarray) -> float | None:
    """β on the weights of a box low ≤ w ≤ high (K,), by ρ(|(W − W_c) M (I − W_c M)⁻¹|) < 1, or None.

    W_c is the centre. On the whole cube this is Beeck's criterion (rung 6). A tie that is whole has
    its centroid for centre, a ball that is whole enters by the Euclidean norm of its rows.

    Source: Beeck, Zur Problematik der Hüllenbestimmung von Intervallgleichungssystemen (1975); Rex,
    Rohn, Sufficient conditions for regularity and singularity of interval matrices (SIMAX 1998).
    """
    if not block.radius < np.inf:
        return None
    centre, reach = (low + high) / 2, (high - low) / 2 * (1 + 4 * UNIT)
    width = {"tie": 1.0, "ball": 2.0, "scalar": np.inf}
    whole = [bool(np.all(high[u.rows] - low[u.rows] >= width[u.kind])) for u in block.units]
    for unit, full in zip(block.units, whole, strict=True):
        if full and unit.kind == "tie":
            centre[unit.rows] = 1 / (unit.rows.stop - unit.rows.start + 1)
    size, radius = float(np.linalg.norm(block.M)), block.radius
    doubt = max(block.counts) * (radius + 4 * UNIT * float(np.abs(block.M).max(initial=0.0))) + UNIT
    inverse = verified_inverse(block.weighted(centre), doubt)
    if inverse is None:
        return None
    length = float(np.linalg.norm(inverse.R))
    V = block.M @ inverse.R
    k, u = block.M.shape
    error = (size + math.sqrt(k * u) * radius) * length * inverse.defect / (1 - inverse.defect)
    error += u * radius * length + (u + 2) * UNIT * size * length
    C = np.empty((u, u))
    for i, (unit, full) in enumerate(zip(block.units, whole, strict=True)):
        rows = V[unit.rows]
        if full and unit.kind == "ball":
            C[i] = np.sqrt((rows**2).sum(axis=0)) + math.sqrt(len(rows)) * error
        elif full:
            mean = centre[unit.rows] @ rows
            C[i] = np.maximum(np.abs(rows - mean).max(axis=0), np.abs(mean)) + 2 * error
        else:
            C[i] = reach[unit.rows] @ (np.abs(rows) + error)
    C *= 1 + 2 * (k + 4) * UNIT
    C = -C
    C.flat[:: u + 1] += 1.0 - UNIT
    bound = m_matrix_inverse_bound(C)
    if bound is None:
        return None
    return length / (1 - inverse.defect) * bound * (1 + 8 * UNIT)


def whole_set(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """The box of all weights: [0, 1], or [−1, 1] for the rows of a ball."""
    high = np.ones(len(block.columns))
    low = np.zeros(len(block.columns))
    for unit in block.units:
        if unit.kind == "ball":
            low[unit.rows] = -1.0
    return low, high


def perron_scale(block: Block) -> np.ndarray | None:
    """A scaling s from the Perron vectors of |K|, K = (I − N)(I + N)⁻¹ (Beeck, Lyapunov)."""
    N, _ = block.square()
    identity = np.eye(len(N))
    try:
        K = np.abs((identity - N) @ np.linalg.inv(identity + N))
    except np.linalg.LinAlgError:
        return None
    if not np.all(np.isfinite(K)):
        return None
    K += 1e-8 * (1.0 + K.max(initial=0.0))
    right = left = np.ones(len(N))
    for _ in range(_STEPS):
        right, left = K @ right, K.T @ left
        right, left = right / right.max(), left / left.max()
    return np.sqrt(left / right)


def balanced_scale(block: Block) -> np.ndarray:
    """A scaling s that gives row and column i of s N s⁻¹ the same length off the diagonal.

    Source: Osborne, On pre-conditioning of matrices (J. ACM 1960), all rows at a time.
    """
    N, _ = block.square()
    off = np.abs(N) ** 2
    np.fill_diagonal(off, 0.0)
    off += 1e-300
    logs = np.zeros(len(N))
    for _ in range(_STEPS):
        scaled = np.exp(2 * (logs[:, None] - logs)) * off
        step = np.log(scaled.sum(axis=0) / scaled.sum(axis=1)) / 8
        logs = np.clip(logs + step, -150.0, 150.0)
    return np.exp(logs - logs.mean())


def best_scale(block: Block, start: np.ndarray) -> np.ndarray:
    """A scaling s that (nearly) maximises λ_min(sym(s N s⁻¹)), by ascent on a smooth soft minimum.

    −log Σ exp(−t λ_i) / t has the gradient p_i-weighted v_i ∘ (T v_i − Tᵀ v_i) in log s.
    """
    N, _ = block.square()
    logs = np.log(start)
    logs -= logs.mean()
    step, best, chosen = 0.5, -np.inf, logs
    for sharpness in np.geomspace(8, 200, _STEPS):
        T = np.exp(logs)[:, None] * N * np.exp(-logs)
        values, vectors = np.linalg.eigh((T + T.T) / 2)
        size = float(np.abs(values).max())
        if values[0] / size > best:
            best, chosen = float(values[0] / size), logs
        elif np.any(logs != chosen):
            step *= 0.7
        if best > 1e-3:
            break
        t = sharpness / size
        share = np.exp(-t * values - scipy.special.logsumexp(-t * values))
        gradient = ((vectors * (T @ vectors - T.T @ vectors)) * share).sum(axis=1)
        length = float(np.abs(gradient).max(initial=0.0))
        if length < 1e-12 * size or step < 1e-3:
            break
        logs = chosen + step * gradient / length
    return np.exp(chosen)


def minor_bound(block: Block, least: float) -> float | None:
    """β from a lower bound ``least`` > 0 on all minors of N (rung 8).

    σ_min(C) ≥ |det C| ((u − 1)/‖C‖_F²)^((u−1)/2) for C = I − W M with u rows (the product of the other
    singular values is at most a power of their mean), and |det C| is least at a vertex.

    Source: Yu, Gu, A note on a lower bound for the smallest singular value (LAA 1997).
    """
    N, radius = block.rows_form()
    u = len(block.units)
    rows = np.ones(u)  # a row of I − W M is a mean of e_u and of rows of N
    np.maximum.at(rows, block.owner, np.sqrt((N**2).sum(axis=1)) + math.sqrt(u) * radius)
    square = float((rows**2).sum()) * (1 + 4 * u * UNIT)
    power = ((u - 1) / square) ** ((u - 1) / 2) if u > 1 else 1.0
    smallest = least * power * (1 - 8 * u * UNIT)
    return 1 / smallest if smallest > 0 else None
