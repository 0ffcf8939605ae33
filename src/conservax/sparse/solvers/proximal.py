"""min_x ½xᵀHx − cᵀx + φ(x) for any penalty: accelerated proximal steps, then Newton on the face."""

from collections.abc import Callable

import numpy as np

from ..penalties import Penalty
from .l1_quadratic import solve_positive

_BURST = 30
_ROUNDS = 400
_PATIENT = 40  # rounds of whole Newton steps
_SINGULAR = 1e-12  # share of the largest eigenvalue, up to which one is zero on a face
_FAR = 1e20  # times the coefficients: a step without an end of its own
_SHORTEST = 1e-3  # share of a Newton step
Vector = np.ndarray


def proximal_quadratic(
    H: np.ndarray, c: np.ndarray, penalty: Penalty, held: int, x: np.ndarray, tol: float
) -> np.ndarray:
    """min ½xᵀHx − cᵀx + φ(x₁ … x_P) for H (r, r), P = ``held``; entries beyond P are free.

    Bursts of accelerated proximal steps (Beck, Teboulle 2009, restarted) find the face; Newton's method on
    it ends. Stops when no entry violates optimality by more than ``tol``.
    """
    lipschitz = float(np.linalg.norm(H, 2)) if len(c) else 1.0
    step = min(1 / max(lipschitz, np.finfo(float).tiny), penalty.largest_step)

    def prox(v: Vector) -> Vector:
        return np.concatenate([penalty.prox(v[:held], step), v[held:]])

    def excess(v: Vector) -> float:
        gradient = H @ v - c
        inside = penalty.violation(v[:held], gradient[:held])
        return max(inside.max(initial=0.0), np.abs(gradient[held:]).max(initial=0.0))

    size = np.abs(H)
    for done in range(_ROUNDS):
        tol = max(tol, rounding(size, x))
        # a face that is not the solution's should be left, not crept along, unless nothing else helps
        shortest = 1.0 if done < _PATIENT else _SHORTEST
        x = _newton(H, c, penalty, x, held, excess, tol, shortest)
        if excess(x) <= tol:
            break
        x = _along_faces(H, c, penalty, _accelerated(H, c, prox, x, step), held)
    return x


def _along_faces(H: np.ndarray, c: np.ndarray, penalty: Penalty, x: Vector, held: int) -> Vector:
    """Newton steps cut where the face ends, until one is whole: each lowers the objective.

    A singular face (more free samples than features) is left along its null space, where the objective
    falls without an end, if it does; otherwise the shortest Newton step stays on it.
    Source: the subspace phase of Moré, Toraldo (1991), by factorisation.
    """
    size = np.abs(H)
    for _ in range(held):
        face = penalty.face(x[:held])
        rows = np.concatenate([face.rows, np.arange(held, len(x))])
        T = face_basis(face.basis, len(face.rows), len(x) - held)
        if T is None or not T.shape[1] or penalty.truncated(x[:held], np.zeros(held)) is None:
            break
        gradient = (H @ x - c)[rows]
        gradient[: len(face.rows)] += face.slope
        system = T.T @ H[np.ix_(rows, rows)] @ T
        delta, regular = solve_positive(system, -(T.T @ gradient))
        if not regular:
            delta = _descent(system, T.T @ gradient, rounding(size, x), _FAR * np.abs(x).max())
        if not np.isfinite(delta).all():
            break
        along = np.zeros_like(x)
        along[rows] = T @ delta
        cut = penalty.truncated(x[:held], along[:held])
        if cut is None:
            break
        x = np.concatenate([cut[0], x[held:] + along[held:]])
        if cut[1]:
            break
    return x


def _descent(system: np.ndarray, gradient: np.ndarray, noise: float, far: float) -> np.ndarray:
    """−(the gradient's part in the null space), ``far``; where that is noise, the shortest Newton step."""
    values, vectors = np.linalg.eigh(system)
    null = values <= _SINGULAR * values[-1]
    inside = vectors[:, null] @ (vectors[:, null].T @ gradient)
    if np.abs(inside).max(initial=0.0) > noise:
        return -far / np.abs(inside).max() * inside
    return -vectors[:, ~null] @ (vectors[:, ~null].T @ gradient / values[~null])


def rounding(size: np.ndarray, x: np.ndarray) -> float:
    """What rounding leaves of the gradient H x, ``size`` = |H|."""
    return 8 * np.finfo(float).eps * float((size @ np.abs(x)).max(initial=0.0))


def _accelerated(
    H: np.ndarray, c: np.ndarray, prox: Callable[[Vector], Vector], x: np.ndarray, step: float
) -> np.ndarray:
    """A burst of accelerated proximal steps, restarted where they turn back."""
    ahead, momentum = x, 1.0
    for _ in range(_BURST):
        new = prox(ahead - step * (H @ ahead - c))
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if (ahead - new) @ (new - x) > 0:
            ahead, momentum = new, 1.0
        else:
            ahead, momentum = new + (momentum - 1) / grown * (new - x), grown
        x = new
    return x


def _newton(
    H: np.ndarray,
    c: np.ndarray,
    penalty: Penalty,
    x: np.ndarray,
    held: int,
    excess: Callable[[Vector], float],
    tol: float,
    shortest: float,
) -> np.ndarray:
    """Newton's method on the face of x, as long as it stays there and gets better.

    ``shortest``: share of a Newton step that is tried where the whole one is too long.
    """
    now = excess(x)
    for _ in range(20):
        if now <= tol:
            break
        face = penalty.face(x[:held])
        rows = np.concatenate([face.rows, np.arange(held, len(x))])
        T = face_basis(face.basis, len(face.rows), len(x) - held)
        system = H[np.ix_(rows, rows)].copy()
        r = len(face.rows)
        if face.curvature is not None:
            system[:r, :r] += (
                np.diag(face.curvature) if face.curvature.ndim == 1 else face.curvature
            )
        gradient = (H @ x - c)[rows]
        gradient[:r] += face.slope
        if T is not None:
            system, gradient = T.T @ system @ T, T.T @ gradient
        delta, regular = solve_positive(system, -gradient)
        if not regular:
            break
        along = np.zeros_like(x)
        along[rows] = delta if T is None else T @ delta
        t = 1.0
        while t >= shortest:  # short steps where the curvature of the face changes fast
            moved = x + t * along
            then = excess(moved)
            if then < now and np.array_equal(moved[:held] != 0, x[:held] != 0):
                break
            t /= 2
        else:
            break
        x, now = moved, then
    return x


def face_basis(basis: np.ndarray | None, rows: int, free: int) -> np.ndarray | None:
    """T with the identity for the free entries beneath it."""
    if basis is None:
        return None
    whole = np.zeros((rows + free, basis.shape[1] + free))
    whole[:rows, : basis.shape[1]] = basis
    whole[rows:, basis.shape[1] :] = np.eye(free)
    return whole
