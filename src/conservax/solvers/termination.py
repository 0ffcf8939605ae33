"""When the interior-point method stops, and with which status."""

from typing import NamedTuple

import jax.numpy as jnp

from ..arrays.namespace import Array, namespace
from ..numerics import machine_epsilon
from ..solution import Status
from .embedding import Iterate, Products, dot
from .equilibrate import Data, WhiteData
from .matrices import magnitudes, row_norms, times, times_transposed

RUNNING = -1


class InteriorPointStats(NamedTuple):
    """Per item: iterations; residuals and gap relative to their terms, of the equilibrated data."""

    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array


class Sizes(NamedTuple):
    """Norms of the data, (batch,): largest entries; row sums of P, A; column sums of A; units.

    ``unit_b`` and ``unit_c`` are what the terms of the two equations are compared with where they
    vanish: ‖b‖ or, if b = 0, ‖c‖·‖A‖/‖P‖, and the other way round; one if both are zero.
    ``unit_x`` is the smaller of ‖b‖/‖A‖ and ‖c‖/‖P‖, as far as they are there, else one.
    """

    P: Array
    P_rows: Array
    A_rows: Array
    A_columns: Array
    b: Array
    c: Array
    unit_b: Array
    unit_c: Array
    unit_x: Array


class Residuals(NamedTuple):
    """‖Ax + s − bτ‖∞ and ‖Px + Aᵀz + cτ‖∞, and the largest of their terms."""

    primal: Array
    dual: Array
    primal_scale: Array
    dual_scale: Array

    def relative(self) -> Array:
        """The larger of the two ratios."""
        xp = namespace(self.primal)
        return xp.maximum(self.primal / self.primal_scale, self.dual / self.dual_scale)


class Judgement(NamedTuple):
    """Status, or RUNNING; stats without iterations; how far from a solution and from a certificate."""

    status: Array
    primal: Array
    dual: Array
    gap: Array
    merit: Array
    distance: Array


def largest(a: Array) -> Array:
    """The largest modulus along the last axis."""
    return abs(a).max(axis=-1, initial=0.0)


def measure_data(data: Data | WhiteData) -> Sizes:
    """Computed once, before the iterations."""
    xp = namespace(data.c)
    A, ones = magnitudes(data.A), xp.ones_like(data.c)
    of_A, of_b, of_c = largest(row_norms(data.A)), largest(data.b), largest(data.c)
    of_P = rows_of_P = xp.ones_like(of_A)
    if data.P is not None:
        of_P = largest(row_norms(data.P))
        rows_of_P = largest(times(magnitudes(data.P), ones))
    both = (of_P > 0) & (of_A > 0)
    safe_P, safe_A = xp.where(both, of_P, 1.0), xp.where(both, of_A, 1.0)
    unit_b = xp.where(of_b > 0, of_b, xp.where(both, of_c * safe_A / safe_P, 0.0))
    unit_c = xp.where(of_c > 0, of_c, xp.where(both, of_b * safe_P / safe_A, 0.0))
    by_rows = xp.where((of_A > 0) & (of_b > 0), of_b / xp.where(of_A > 0, of_A, 1.0), xp.inf)
    by_cost = xp.where((of_P > 0) & (of_c > 0), of_c / xp.where(of_P > 0, of_P, 1.0), xp.inf)
    unit_x = xp.minimum(by_rows, by_cost)
    return Sizes(
        of_P,
        rows_of_P,
        largest(times(A, ones)),
        largest(times_transposed(A, xp.ones_like(data.b))),
        of_b,
        of_c,
        xp.where(unit_b > 0, unit_b, 1.0),
        xp.where(unit_c > 0, unit_c, 1.0),
        xp.where(xp.isfinite(unit_x), unit_x, 1.0),
    )


def measure(data: Data | WhiteData, sizes: Sizes, point: Iterate, known: Products) -> Residuals:
    """Of the two linear equations."""
    s, tau, xp = point.s, point.tau, namespace(point.s)
    Px, Atz, Ax = known
    return Residuals(
        largest(Ax + s - data.b * tau[:, None]),
        largest(Px + Atz + data.c * tau[:, None]),
        xp.maximum(xp.maximum(largest(Ax), largest(s)), tau * sizes.unit_b),
        xp.maximum(xp.maximum(largest(Px), largest(Atz)), tau * sizes.unit_c),
    )


def judge(
    data: Data | WhiteData, sizes: Sizes, tolerance: float, point: Iterate, known: Products
) -> Judgement:
    """Solved, infeasible, unbounded or running; rescaling the point changes nothing."""
    x, z, s, tau, _ = point
    Px, Atz, Ax = known
    b, c = data.b, data.c
    tiny = jnp.finfo(c.dtype).tiny
    norm_x, norm_z = largest(x), largest(z)
    residuals = measure(data, sizes, point, known)
    primal = residuals.primal / residuals.primal_scale
    dual = residuals.dual / residuals.dual_scale
    quadratic, linear, dual_linear = dot(x, Px) / tau, dot(c, x), dot(b, z)
    terms = jnp.maximum(jnp.abs(quadratic), jnp.maximum(jnp.abs(linear), jnp.abs(dual_linear)))
    terms = jnp.maximum(terms, norm_x * sizes.c * machine_epsilon(c.dtype))
    gap = jnp.abs(quadratic + linear + dual_linear) / terms.clip(min=tiny)
    # a gap between numbers that vanish themselves says nothing: there complementarity decides,
    # ten times as strict, for its unit is the size of x and not of the value
    size = jnp.maximum(norm_x / tau, tolerance**0.5 * sizes.unit_x) * jnp.maximum(
        largest(Px) / tau, sizes.unit_c
    )
    gap = jnp.minimum(gap, 10 * jnp.abs(dot(s, z)) / tau**2 / size.clip(min=tiny))
    solved = (primal <= tolerance) & (dual <= tolerance) & (gap <= tolerance)

    # what a certificate violates, and what it gains
    of_z = largest(Atz) / (sizes.A_columns * norm_z).clip(min=tiny)
    of_x = jnp.maximum(
        largest(Px) / (sizes.P_rows * norm_x).clip(min=tiny),
        largest(Ax + s) / (sizes.A_rows * norm_x).clip(min=tiny),
    )
    gain_z = -dual_linear / (sizes.b * norm_z).clip(min=tiny)
    gain_x = -linear / (sizes.c * norm_x).clip(min=tiny)
    strict = tolerance**0.9
    clear = 1e-2 * strict**0.5
    infeasible = (of_z <= strict) & (gain_z > clear)
    unbounded = (of_x <= strict) & (gain_x > clear)
    status = jnp.where(unbounded, Status.DUAL_INFEASIBLE, RUNNING)
    status = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, status)
    status = jnp.where(solved, Status.SOLVED, status).astype(jnp.int8)
    merit = jnp.maximum(jnp.maximum(primal, dual), gap)
    distance = jnp.minimum(
        jnp.where(gain_z > 0, of_z / gain_z, jnp.inf), jnp.where(gain_x > 0, of_x / gain_x, jnp.inf)
    )
    return Judgement(status, primal, dual, gap, merit, distance)
