"""Factorisations of a batch of matrices, a few of them a call.

Calls that do not depend on each other run side by side on the cores of a CPU. A single call for a large
batch would, in jaxlib 0.10 and 0.11.0, wait in one thread of XLA's pool for the others; as many such
calls as the pool has threads then wait for one another for ever (two suffice on two cores; jaxlib
0.11.2 takes one core for a call). A GPU takes the whole batch at once.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jax.lax import linalg

from .namespace import Array, namespace

_WORK = 200_000  # operations of a call that jaxlib does not divide among threads
_CALLS = 32  # side by side; a larger batch takes them one after the other

Result = TypeVar("Result")


def cholesky(H: Array) -> Array:
    """L with LLᵀ = H ≻ 0 (..., n, n), symmetric, of which one triangle is read; NaN if it is not."""
    if namespace(H) is np:
        return _cholesky_on_host(H)
    # LAPACK reads columns where XLA writes rows: the transpose of H is H, and saves a copy
    return _few_at_a_time(
        lambda H: linalg.cholesky(H, symmetrize_input=False), H.shape[-1] ** 3 // 3, H.mT
    )


def forward_substitution(L: Array, right: Array) -> Array:
    """L⁻¹ right, for lower triangular L (..., n, n) and right (..., n, columns)."""
    return _substitution(L, right, transpose_a=False)


def cholesky_solve(L: Array, right: Array) -> Array:
    """(LLᵀ)⁻¹ right, for right (..., n, columns)."""
    if namespace(L, right) is np:
        return _on_host(scipy.linalg.lapack.dpotrs, L, right, lower=0)
    return _substitution(L, forward_substitution(L, right), transpose_a=True)


def _substitution(L: Array, right: Array, transpose_a: bool) -> Array:
    if namespace(L, right) is np:
        return _on_host(
            scipy.linalg.lapack.dtrtrs, L, right, lower=0, trans=0 if transpose_a else 1
        )

    def solve(L: Array, right: Array) -> Array:
        return linalg.triangular_solve(
            L, right, left_side=True, lower=True, transpose_a=transpose_a
        )

    return _few_at_a_time(solve, L.shape[-1] ** 2 * right.shape[-1], L, right)


def eigh(X: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of symmetric X (..., n, n)."""
    if namespace(X) is np:
        return _eigh_on_host(X)
    return _few_at_a_time(lambda X: tuple(jnp.linalg.eigh(X)), 5 * X.shape[-1] ** 3, X)


def eigvalsh(X: Array) -> Array:
    """Eigenvalues, ascending, of symmetric X (..., n, n)."""
    return _few_at_a_time(jnp.linalg.eigvalsh, 5 * X.shape[-1] ** 3, X)


def svd(X: Array) -> tuple[Array, Array, Array]:
    """U, σ, Vᵀ with X = U diag(σ) Vᵀ (..., n, n)."""
    return _few_at_a_time(lambda X: tuple(jnp.linalg.svd(X)), 10 * X.shape[-1] ** 3, X)


def _few_at_a_time(call: Callable[..., Result], cost: int, *arrays: Array) -> Result:
    """``call(*arrays)`` for arrays (..., rows, columns), where one item costs so many operations."""
    few = -(-_WORK // max(cost, 1))
    shape = arrays[0].shape[:-2]
    batch = math.prod(shape)
    if batch <= few or jax.default_backend() != "cpu":
        return call(*arrays)
    flat = [array.reshape(batch, *array.shape[-2:]) for array in arrays]
    if batch > _CALLS * few:
        result = lax.map(lambda item: call(*item), flat, batch_size=few)
    else:
        # LAPACK works column by column: what is cut and joined in that order is not copied twice
        by_column = [array.mT for array in flat]
        portions: list[Any] = [
            call(*(array[start : start + few].mT for array in by_column))
            for start in range(0, batch, few)
        ]
        result = jax.tree.map(_join, *portions)
    return jax.tree.map(lambda out: out.reshape(*shape, *out.shape[1:]), result)


def _join(*portions: Array) -> Array:
    """Of matrices, or of the vectors of their eigenvalues."""
    if portions[0].ndim == 2:
        return jnp.concatenate(portions)
    return jnp.concatenate([portion.mT for portion in portions]).mT


def _cholesky_on_host(H: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(H)
    except np.linalg.LinAlgError:  # of some item: one by one
        found = np.full_like(H, np.nan)
        for item in np.ndindex(H.shape[:-2]):
            L, info = scipy.linalg.lapack.dpotrf(H[item], lower=1)
            if info == 0:
                found[item] = L
        return found


def _on_host(
    solve: Callable[..., tuple[np.ndarray, int]], L: np.ndarray, right: np.ndarray, **options: int
) -> np.ndarray:
    """LAPACK's solve with the upper triangle Lᵀ, item by item: the transpose of rows is columns."""
    lead = np.broadcast_shapes(L.shape[:-2], right.shape[:-2])
    L, right = (np.broadcast_to(part, (*lead, *part.shape[-2:])) for part in (L, right))
    found = np.empty(right.shape)
    for item in np.ndindex(lead) if found.size else ():
        found[item] = solve(L[item].T, right[item], **options)[0]
    return found


def triangular_inverse_on_host(L: np.ndarray) -> np.ndarray:
    """L⁻¹ for lower triangular L (..., n, n), zeros above the diagonal; NaN where L is."""
    found = np.empty_like(L)
    for item in np.ndindex(L.shape[:-2]):
        # the transpose of rows is columns, and an upper triangle
        inverse, info = scipy.linalg.lapack.dtrtri(L[item].T, lower=0)
        found[item] = inverse.T if info == 0 else np.nan
    return found


def _eigh_on_host(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    finite = np.all(np.isfinite(X), axis=(-1, -2))
    if finite.all():
        values, vectors = np.linalg.eigh(X)
        return values, vectors
    safe = np.where(finite[..., None, None], X, 0.0)
    values, vectors = np.linalg.eigh(safe)
    nan = np.where(finite, 1.0, np.nan)
    return values * nan[..., None], vectors * nan[..., None, None]
