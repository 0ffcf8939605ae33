"""Positive definiteness proved in floating point: a sound lower bound on the least eigenvalue.

If Cholesky's algorithm in floating point runs to its end on A, with R its result, then
RᵀR = A + ΔA with |ΔA| ≤ γ |Rᵀ||R|, so that λ_min(A) ≥ −‖ΔA‖ ≥ −γ/(1 − γ) tr A. Taking A = S − cI
for a c somewhat above that loss gives λ_min(S) ≥ c − loss > 0.
"""

import math

import numpy as np
import scipy

from ..errors import InvalidInputError

UNIT = 2.0**-53
_SMALLEST = float(np.finfo(np.float64).tiny)  # a library may flush what lies below it to zero
_DENSE = 400  # up to here all eigenvalues cost less than the search for one


def definite_margin(S: np.ndarray) -> float:
    """A number c ≤ λ_min(S) for a symmetric S, rounding accounted for; −inf where S ≻ 0 is not shown.

    Args:
        S: a real symmetric matrix (n, n), float32 or float64, taken as exact.

    Returns:
        A lower bound on the least eigenvalue, close to it when S is well conditioned; +inf for n = 0.
        It is either positive or −inf. About n³ flops and two copies of S in float64.

    Raises:
        InvalidInputError: S is not square, not real, not symmetric or not finite.

    Source: S. M. Rump, *Verification of positive definiteness*, BIT 46 (2006), with the constant of
    J. Demmel, *On floating point errors in Cholesky*, LAPACK Working Note 14 (1989).

    >>> import numpy as np
    >>> 0.999 < definite_margin(np.array([[2.0, 1.0], [1.0, 2.0]])) <= 1.0
    True
    >>> definite_margin(np.array([[1.0, 1.0], [1.0, 1.0]]))
    -inf

    """
    S = np.asarray(S)
    if S.ndim != 2 or S.shape[0] != S.shape[1] or S.dtype not in (np.float32, np.float64):
        raise InvalidInputError(
            f"S must be a square float32 or float64 matrix, got {S.dtype} of shape {S.shape}."
        )
    if not np.all(np.isfinite(S)):
        raise InvalidInputError("S holds NaN or infinity; pass finite values.")
    if not np.array_equal(S, S.T):
        raise InvalidInputError("S is not symmetric; pass (S + S.T) / 2 if that is what you mean.")
    n = S.shape[0]
    if n == 0:
        return math.inf
    floor = 2 * _loss(n, float(np.sum(np.abs(np.diagonal(S), dtype=np.float64))))
    if n <= _DENSE:
        shown, estimate = -math.inf, float(np.linalg.eigvalsh(S.astype(np.float64))[0])
    else:
        factor, shown = _factor_of_shifted(S, floor)
        if shown <= 0:
            return -math.inf
        estimate = _least_eigenvalue(factor)
        del factor
    for shift in (estimate - 4 * floor, estimate / 2, floor):
        if shift > max(shown, 0.0):
            bound = _factor_of_shifted(S, shift)[1]
            if bound > max(shown, 0.0):
                return bound
    return shown if shown > 0 else -math.inf


def _loss(n: int, trace: float) -> float:
    """A bound on ‖ΔA‖ for an n × n matrix of this trace, itself rounded up."""
    # four roundings more than in the textbook: kernels that multiply by reciprocals, and this bound
    k = (n + 5) * UNIT
    gamma = k / (1 - k)
    underflow = 8.0 * (n + 1) * (2 * n + 4 + trace) * _SMALLEST
    return (gamma / (1 - gamma) * trace * (1 + 2 * n * UNIT) + underflow) * (1 + 16 * UNIT)


def _factor_of_shifted(S: np.ndarray, shift: float) -> tuple[np.ndarray, float]:
    """The triangular factor of S − shift·I, and the bound on λ_min(S) that its existence proves."""
    n = S.shape[0]
    A = np.array(S, dtype=np.float64, order="F")
    diagonal = np.einsum("ii->i", A)
    diagonal -= shift
    if not np.all(diagonal > 0):
        return A, -math.inf
    # what rounding the diagonal may have changed, and what rounding the factorisation may hide
    hidden = UNIT * float(np.max(diagonal)) + _loss(n, float(np.sum(diagonal)))
    try:
        factor = scipy.linalg.cholesky(A, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return A, -math.inf
    if not np.all(np.isfinite(np.diagonal(factor))):
        return factor, -math.inf
    return factor, math.nextafter(shift - hidden * (1 + 4 * UNIT), -math.inf)


def _least_eigenvalue(factor: np.ndarray) -> float:
    """An estimate of the least eigenvalue of RRᵀ by Lanczos on its inverse; nothing rests on it."""
    arpack = scipy.sparse.linalg
    inverse = arpack.LinearOperator(
        factor.shape,
        lambda v: scipy.linalg.cho_solve((factor, True), v, check_finite=False),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).normal(size=factor.shape[0])
    try:
        largest = arpack.eigsh(inverse, k=1, v0=start, ncv=12, maxiter=8, tol=1e-3)[0][0]
    except arpack.ArpackError:
        return 0.0
    return (1 - 1e-3) / float(largest) if largest > 0 else 0.0
