"""Certificates from structure, at any size: contractions and monotone equilibria.

Both speak of all elements at once, whatever the kinks are and however many: no vertex is visited.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from ..errors import InvalidInputError
from .certificate import Certificate, Verdict
from .definite import UNIT, definite_margin

_SLACK = 1 + 16 * UNIT  # more than the few roundings of a scalar bound
_TINY = float(np.finfo(np.float64).tiny)
_DENSE = 400  # up to here all eigenvalues are computed


@dataclass(frozen=True)
class Monotone:
    """W = (1 − m) I − AᵀA + B − Bᵀ, monotone by construction; factors as matrices or linear operators.

    ``norm`` is a bound on ‖W‖₂, by default √(‖W‖₁ ‖W‖_∞) of the factors where they are matrices. It is
    needed for the margin only.

    Source: E. Winston, J. Z. Kolter, *Monotone operator equilibrium networks*, NeurIPS 2020.
    """

    m: float
    A: Any = None
    B: Any = None
    norm: float | None = None


def certify_contraction(
    modulus: float | None = None,
    *,
    scaling: Any = None,
    matrix: Any = None,
    bounds: Any = None,
) -> Certificate:
    """Is I − V invertible for every element V of a fixed-point map's Jacobian, as ‖V‖ ≤ ρ < 1?

    Pass one of these three.

    Args:
        modulus: ρ, a Lipschitz constant of the map in a norm ‖D x‖ that you vouch for, the norm being
            the 2-norm or, scaled, ‖diag(d)⁻¹ x‖₂ with ``scaling`` d > 0.
        matrix: W (n, n) of a map σ(W x + b) whose σ has slopes in [0, 1] entry by entry, or is any
            1-Lipschitz map without ``scaling``; ‖W‖₂ < 1 is proved by Cholesky of ρ² I − WᵀW.
        bounds: C (n, n) with |V| ≤ C entry by entry for every element V; C d ≤ ρ d is verified for
            ``scaling`` d > 0 (by default a Perron vector, iterated).

    Returns:
        A Certificate: PROVEN with the margin σ_min(I − V) ≥ (1 − ρ) / cond, cond the condition number
        of the scaling (√n times it for ``bounds``), or UNKNOWN; never REFUTED.

    Raises:
        InvalidInputError: not exactly one of the three, a wrong shape, a scaling that is not positive.

    Source: docs/theory.md#contractions; Neumann's series.

    >>> import numpy as np
    >>> certify_contraction(0.9).margin > 0.0999
    True
    >>> certify_contraction(matrix=np.array([[0.0, 0.9], [0.0, 0.0]])).verdict
    <Verdict.PROVEN: 1>

    """
    if sum(given is not None for given in (modulus, matrix, bounds)) != 1:
        raise InvalidInputError("pass exactly one of modulus, matrix and bounds.")
    d = None if scaling is None else np.asarray(scaling, dtype=np.float64).ravel()
    if d is not None and not (np.all(np.isfinite(d)) and np.all(d > 0)):
        raise InvalidInputError("scaling must hold positive finite numbers.")
    cond = 1.0 if d is None else float(np.max(d) / np.min(d)) * _SLACK
    if modulus is not None:
        return _contraction(float(modulus), cond, "a stated Lipschitz modulus")
    if matrix is not None:
        if d is not None:
            raise InvalidInputError("matrix is bounded in the 2-norm; scale the matrix instead.")
        return _contraction(_two_norm(_square(matrix)), 1.0, "‖W‖₂ by Cholesky of ρ² I − WᵀW")
    rho, weights = _weighted_modulus(_square(bounds), d)
    # ‖x‖₂ / √n ≤ ‖x‖_∞ ≤ ‖x‖₂, through the weights
    cond = float(np.max(weights) / np.min(weights)) * math.sqrt(weights.size) * _SLACK
    return _contraction(rho, cond, "|V| d ≤ ρ d in a weighted ∞-norm")


def certify_monotone(W: Any) -> Certificate:
    """Is I − V W invertible for every symmetric 0 ≼ V ≼ I, as I − (W + Wᵀ)/2 ≽ m I with m > 0?

    The V are the Jacobians of any proximal map or projection, so that the equilibrium
    z = prox(W z + b) is a Lipschitz function of W and b: σ_min(I − V W) ≥ 1 / (1 + ‖W‖/m).

    Args:
        W: a matrix (n, n), float32 or float64, taken as exact, whose m is proved by Cholesky with all
            rounding accounted for; or a ``Monotone``, which holds by construction, at any size.

    Returns:
        A Certificate: PROVEN with its margin, or UNKNOWN where m > 0 was not shown; never REFUTED.

    Raises:
        InvalidInputError: W is not a finite square matrix.

    Source: docs/theory.md#monotone-equilibria: with a = V u, u = W x and x = a one has
    aᵀ(I − W)a ≥ m‖a‖² against uᵀV(I − V)u ≥ 0.

    >>> import numpy as np
    >>> certify_monotone(np.array([[-1.0, 5.0], [-5.0, 0.5]])).verdict
    <Verdict.PROVEN: 1>
    >>> certify_monotone(Monotone(0.1, norm=3.0)).margin > 0.032
    True

    """
    if isinstance(W, Monotone):
        if not (math.isfinite(W.m) and W.m > 0):
            return _certificate(
                Verdict.UNKNOWN,
                "monotone by construction",
                f"m = {W.m:.3g} is not positive.",
                undecided="a form with m > 0.",
            )
        norm = W.norm if W.norm is not None else _norm_of(W)
        return _monotone(W.m, norm, "monotone by construction: nothing is factored")
    W = _square(W)
    m = _monotone_margin(W)
    method = "I − (W + Wᵀ)/2 ≽ m I by Cholesky"
    if m <= 0:
        return _certificate(
            Verdict.UNKNOWN,
            method,
            "W was not shown to be monotone: I − (W + Wᵀ)/2 has no eigenvalues bounded away from 0.",
            undecided="the active kinks one by one (check), or a W with W + Wᵀ ≼ 2(1 − m) I for some m > 0.",
        )
    return _monotone(m, _norm_bound(np.abs(W)), method)


def _certificate(
    verdict: Verdict, method: str, reason: str, margin: float | None = None, undecided: str = ""
) -> Certificate:
    return Certificate(
        verdict=verdict,
        method=method,
        reason=reason,
        margin=margin,
        sigma_min=math.nan,
        witness=None,
        undecided=undecided,
    )


def _contraction(rho: float, cond: float, method: str) -> Certificate:
    if not rho >= 0:
        raise InvalidInputError(f"a Lipschitz modulus is a number ≥ 0, got {rho}.")
    if not rho < 1:
        return _certificate(
            Verdict.UNKNOWN,
            method,
            f"the map was not shown to contract: the bound on its modulus is {rho:.3g}.",
            undecided="a norm in which the modulus is below 1, or the active kinks one by one (check).",
        )
    return _certificate(
        Verdict.PROVEN,
        method,
        f"the fixed-point map contracts with modulus at most {rho:.6g}, so every element of I − V is "
        "invertible. The implicit derivative can be trusted.",
        (1 - rho) / cond / _SLACK,
    )


def _monotone(m: float, norm: float | None, method: str) -> Certificate:
    return _certificate(
        Verdict.PROVEN,
        method,
        f"W is monotone with m = {m:.3g}, so I − V W is invertible for the Jacobian V of any proximal "
        "map or projection. The implicit derivative can be trusted.",
        None if norm is None else 1 / (1 + norm / m) / _SLACK,
    )


def _square(W: Any) -> np.ndarray:
    W = np.asarray(W)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or W.dtype not in (np.float32, np.float64):
        raise InvalidInputError(
            f"W must be a square float32 or float64 matrix, got {W.dtype} of shape {W.shape}."
        )
    if not np.all(np.isfinite(W)):
        raise InvalidInputError("W holds NaN or infinity; pass finite values.")
    return W


def _sums_up(sums: Any, n: int) -> float:
    """The largest of sums of n nonnegative floats, rounding accounted for."""
    return float(np.max(sums, initial=0.0)) * (1 + 2 * n * UNIT) * _SLACK


def _norm_bound(C: np.ndarray) -> float:
    """√(‖C‖₁ ‖C‖_∞) or ‖C‖_F, either of them ≥ ‖M‖₂ for every |M| ≤ C, C ≥ 0."""
    if C.size == 0:
        return 0.0
    n = max(C.shape)
    rows, columns = (_sums_up(np.sum(C, axis=i, dtype=np.float64), n) for i in (1, 0))
    squares = _sums_up(np.einsum("ij,ij->", C, C, dtype=np.float64), C.size) + C.size * _TINY
    frobenius = math.sqrt(squares) * _SLACK
    return min(math.sqrt(rows * columns) * _SLACK, frobenius)


def _monotone_margin(W: np.ndarray) -> float:
    """A lower bound on λ_min(I − (W + Wᵀ)/2)."""
    n = len(W)
    S = np.add(W, W.T, dtype=np.float64)
    S *= -0.5
    # each entry of W + Wᵀ, and each 1 − w_ii, was rounded once
    rows = max((float(np.sum(np.abs(row))) for row in S), default=0.0)
    diagonal = np.einsum("ii->i", S)
    diagonal += 1.0
    largest = float(np.max(np.abs(diagonal), initial=0.0))
    rounded = (UNIT * (rows * (1 + 2 * n * UNIT) + largest) + n * 2.0**-1070) * _SLACK
    return definite_margin(S) - rounded if n else math.inf


def _two_norm(W: np.ndarray) -> float:
    """An upper bound on ‖W‖₂: s I − WᵀW ≻ 0, proved for an s just above an estimate of ‖W‖²."""
    n = len(W)
    W = W.astype(np.float64)
    scale = float(np.max(np.abs(W), initial=0.0))
    if scale == 0.0:
        return 0.0
    unit = 2.0 ** math.frexp(scale)[1]
    W /= unit
    gram = W.T @ W
    gram = np.maximum(gram, gram.T)
    size = _norm_bound(np.abs(W))
    # |fl(WᵀW) − WᵀW| ≤ γ |W|ᵀ|W|, whose norm ‖|W|‖² bounds; scaling down may underflow
    gamma = (n + 4) * UNIT / (1 - (n + 4) * UNIT)
    error = gamma * size * size * _SLACK + 4 * n * 2.0**-1020
    if n <= _DENSE:
        estimate = float(np.linalg.eigvalsh(gram)[-1])
    else:  # nothing rests on it: a wrong estimate is not shown
        start = np.random.default_rng(0).normal(size=n)
        loose = {"tol": 1e-3, "ncv": 12}
        estimate = float(
            scipy.sparse.linalg.eigsh(gram, k=1, v0=start, return_eigenvectors=False, **loose)[0]
        )
    for excess in (1e-6, 1e-1) if n <= _DENSE else (2e-3, 1e-1):
        s = estimate * (1 + excess)
        if s > size * size:
            break
        S = -gram
        diagonal = np.einsum("ii->i", S)
        diagonal += s
        # every entry of the diagonal was rounded once
        if definite_margin(S) > UNIT * float(np.max(np.abs(diagonal))) * _SLACK:
            return math.sqrt(s + error) * _SLACK * unit
    return size * unit * _SLACK


def _weighted_modulus(C: np.ndarray, d: np.ndarray | None) -> tuple[float, np.ndarray]:
    """The least ρ shown with C d ≤ ρ d, and d itself."""
    size = len(C)
    if np.any(C < 0):
        raise InvalidInputError("bounds must be nonnegative: they bound |V| entry by entry.")
    C = C.astype(np.float64)
    if d is None:
        weights = np.ones(size)
        for _ in range(30):  # towards Perron's vector; nothing rests on it
            weights = C @ weights + 1e-3 * weights
            weights = np.maximum(weights / np.max(weights, initial=0.0), 1e-8)
    else:
        weights = d
    if weights.shape != (size,):
        raise InvalidInputError(f"scaling must have {size} entries, got {weights.size}.")
    if size == 0:
        return 0.0, np.ones(1)
    upper = (C @ weights) * (1 + 2 * (size + 4) * UNIT) + size * _TINY
    return float(np.max(upper / weights)) * _SLACK, weights


def _norm_of(W: Monotone) -> float | None:
    """(1 − m) + ‖A‖² + 2‖B‖ from the factors, None where one is an operator of unknown entries."""
    # here, for to import the library should stay quick
    from lineax import AbstractLinearOperator

    total = abs(1 - W.m)
    for factor, count in ((W.A, 1), (W.B, 2)):
        if factor is None:
            continue
        if isinstance(factor, AbstractLinearOperator):
            return None
        norm = _norm_bound(np.abs(np.asarray(factor)))
        total += norm * norm if count == 1 else 2 * norm
    return total * _SLACK
