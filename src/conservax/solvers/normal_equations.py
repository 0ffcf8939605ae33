"""Newton systems [[P, Ãᵀ], [Ã, −D]] of an interior-point method, by Cholesky of P + ÃᵀÃ, or, where
P = I and there are no more rows than unknowns, of I + ÃÃᵀ, which needs no product of matrices if AAᵀ
is known, but loses accuracy where active rows are nearly dependent.

D is the identity, with zeros at equalities: there the factor keeps a small multiple of the identity
in its place, and refinement removes it. Static regularisation in the sense of Vanderbei (1995).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays.lapack import cholesky, cholesky_solve
from ..arrays.namespace import Array, namespace, transpose
from ..cones.table import Cones
from ..numerics import machine_epsilon
from .matrices import by_columns, times, times_transposed

_REFINEMENTS = 3


class Factor(NamedTuple):
    """P, Ã = W⁻ᵀA, and L with LLᵀ = P + ÃᵀÃ + shift."""

    P: Array | None
    scaled: Array
    L: Array

    def solve(self, upper: Array, lower: Array) -> tuple[Array, Array]:
        """(x, z) with Px + Ãᵀz = upper, Ãx − z = lower, by columns: (batch, n or m, columns)."""
        x = cholesky_solve(self.L, upper + by_columns(times_transposed, self.scaled, lower))
        return x, by_columns(times, self.scaled, x) - lower


class EitherFactor(NamedTuple):
    """For P = I: Ã = W⁻ᵀA, and U with UᵀU = I + ÃÃᵀ + shift (``by_rows``) or I + ÃᵀÃ + shift.

    U and not L = Uᵀ, for LAPACK's layout is that of XLA transposed, and branches hand over XLA's.
    """

    by_rows: Array
    scaled: Array
    U: Array

    P = None

    def solve(self, upper: Array, lower: Array) -> tuple[Array, Array]:
        """As ``Factor.solve``."""
        m = self.scaled.shape[-2]

        def rows() -> tuple[Array, Array]:
            L = transpose(self.U[:, :m, :m])
            z = cholesky_solve(L, by_columns(times, self.scaled, upper) - lower)
            return upper - by_columns(times_transposed, self.scaled, z), z

        def columns() -> tuple[Array, Array]:
            return Factor(None, self.scaled, transpose(self.U)).solve(upper, lower)

        return lax.cond(self.by_rows, rows, columns)


def factor(P: Array | None, scaled: Array) -> Factor:
    """NaN in an item that is not finite."""
    gram = transpose(scaled) @ scaled
    H = _plus_identity(gram) if P is None else P + gram
    return Factor(P, scaled, _shifted_cholesky(H))


def factor_either(by_rows: Array, scaled: Array, gram: Callable[[], Array]) -> EitherFactor:
    """For P = I and no more rows than unknowns; ``gram`` gives ÃÃᵀ, where it is wanted."""
    extra = scaled.shape[-1] - scaled.shape[-2]

    def rows() -> Array:
        U = transpose(_shifted_cholesky(_plus_identity(gram())))
        return jnp.pad(U, ((0, 0), (0, extra), (0, extra)))

    U = lax.cond(by_rows, rows, lambda: transpose(factor(None, scaled).L))
    return EitherFactor(by_rows, scaled, U)


def _on_diagonal(H: Array) -> Array:
    row, column = (lax.broadcasted_iota(jnp.int32, H.shape[-2:], axis) for axis in (0, 1))
    return row == column


def _plus_identity(H: Array) -> Array:
    return jnp.where(_on_diagonal(H), H + 1, H)


def _shifted_cholesky(H: Array) -> Array:
    """Rounding moves entry (i, j) by eps √(Hᵢᵢ Hⱼⱼ): the shift of the diagonal is relative as well."""
    eps = machine_epsilon(H.dtype)
    if namespace(H) is np:
        diagonal = np.einsum("...ii->...i", H)
        diagonal += 8 * eps * diagonal + eps ** (2 / 3)
        return cholesky(H)
    return cholesky(jnp.where(_on_diagonal(H), H * (1 + 8 * eps) + eps ** (2 / 3), H))


def refine(
    factor: Factor | EitherFactor, upper: Array, lower: Array, x: Array, z: Array, cones: Cones
) -> tuple[Array, Array, Array]:
    """Iterative refinement of Px + Ãᵀz = upper, Ãx − Dz = lower, as far as each item needs.

    An item is left alone once its residual is small beside the terms; at most three steps. The third
    result says which items are not there yet.
    """
    eps = machine_epsilon(x.dtype)
    enough = max(eps**0.75, eps**0.5 / 200)  # in double precision the iterations aim at √eps

    def residual(x: Array, z: Array) -> tuple[Array, Array, Array]:
        Px, Atz, Ax = (
            times(factor.P, x),
            times_transposed(factor.scaled, z),
            times(factor.scaled, x),
        )
        inner = z.at[:, : cones.zero].set(0.0)
        above, below = upper - Px - Atz, lower - Ax + inner
        poor = _exceeds(above, enough, (upper, Px, Atz)) | _exceeds(
            below, enough, (lower, Ax, inner)
        )
        return above, below, poor

    def unfinished(carry: tuple[Array, Array, tuple[Array, Array, Array], Array]) -> Array:
        _, _, (_, _, poor), step = carry
        return jnp.any(poor) & (step < _REFINEMENTS)

    def improve(
        carry: tuple[Array, Array, tuple[Array, Array, Array], Array],
    ) -> tuple[Array, Array, tuple[Array, Array, Array], Array]:
        x, z, (above, below, poor), step = carry
        dx, dz = (part[..., 0] for part in factor.solve(above[..., None], below[..., None]))
        x, z = jnp.where(poor[:, None], x + dx, x), jnp.where(poor[:, None], z + dz, z)
        return x, z, residual(x, z), step + 1

    start = (x, z, residual(x, z), jnp.array(0))
    x, z, (_, _, poor), _ = lax.while_loop(unfinished, improve, start)
    return x, z, poor


def _exceeds(residual: Array, share: float, terms: tuple[Array, ...]) -> Array:
    """Whether ‖residual‖∞ is more than this share of the largest term, per item."""
    largest = [jnp.max(jnp.abs(term), axis=-1, initial=0.0) for term in (residual, *terms)]
    return largest[0] > share * jnp.max(jnp.stack(largest[1:]), axis=0)
