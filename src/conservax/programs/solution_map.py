"""The solution map of a cone program as one differentiable, batched function.

Forward: the interior-point method, then semismooth Newton steps on the pieces that it identified.
Backward: the de-homogenised system at one consistent element, from the forward pass' factors.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from ..numerics import machine_epsilon
from ..solvers import Cones, Status, interior_point
from ..solvers.cones import Array, transpose
from ..solvers.interior_point import unit_ratio
from .spectrum import Spectrum, Tolerances, project, spectrum
from .system import Factor, TwoTests, apply_element, factorise, solve, solve_transposed, two_tests


class Settings(NamedTuple):
    """What a program is solved with; see ``ConeProgram``."""

    tolerance: float | None
    max_iterations: int
    selection: str


class Outcome(NamedTuple):
    """Of a batch: v = y − s and its image, what is known of it, and the factor of U(V)."""

    x: Array
    y: Array
    s: Array
    v: Array
    status: Array
    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array
    tests: TwoTests
    factor: Factor


class Terms(NamedTuple):
    """Residuals of the optimality conditions, and the sizes of their terms."""

    dual: Array
    primal: Array
    dual_scale: Array
    primal_scale: Array


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.einsum("bij,bj->bi", matrix, vector)


def _norm(a: Array) -> Array:
    return jnp.max(jnp.abs(a), axis=-1, initial=0.0)


def measure(P: Array, c: Array, A: Array, b: Array, x: Array, y: Array, s: Array) -> Terms:
    """The residuals of Px + Aᵀy + c = 0 and Ax + s = b, with their terms."""
    Px, Aty, Ax = _times(P, x), _times(transpose(A), y), _times(A, x)
    dual_scale = jnp.maximum(jnp.maximum(_norm(Px), _norm(Aty)), _norm(c))
    primal_scale = jnp.maximum(jnp.maximum(_norm(Ax), _norm(s)), _norm(b))
    # at a solution zero all terms of one equation may vanish: the other one lends its unit
    ratio = unit_ratio(P, A)
    dual_scale, primal_scale = (
        jnp.maximum(dual_scale, ratio.dual * _norm(b)),
        jnp.maximum(primal_scale, ratio.primal * _norm(c)),
    )
    return Terms(_norm(Px + Aty + c), _norm(Ax + s - b), dual_scale, primal_scale)


def relative(terms: Terms) -> Array:
    """The larger of the two residuals, relative to its terms; 0/0 is 0."""

    def ratio(value: Array, scale: Array) -> Array:
        return jnp.where(value > 0, value / jnp.where(scale > 0, scale, 1.0), 0.0)

    return jnp.maximum(ratio(terms.dual, terms.dual_scale), ratio(terms.primal, terms.primal_scale))


def _tolerances(terms: Terms, A: Array, rtol: Array) -> Tolerances:
    """An eigenvalue of the dual counts against Aᵀy's terms, one of the slack against b's."""
    rows = jnp.max(jnp.abs(A), axis=-1, initial=0.0)
    rows = jnp.where(rows > 0, rows, 1.0)
    dual = (rtol * terms.dual_scale)[:, None] / rows
    return Tolerances(dual, jnp.broadcast_to((rtol * terms.primal_scale)[:, None], dual.shape))


def active_pieces(v: Array, A: Array, terms: Terms, residual: Array, cones: Cones) -> Spectrum:
    """Which pieces are active within √max(eps, residual), relative to the terms that made v."""
    rtol = jnp.sqrt(jnp.maximum(machine_epsilon(v.dtype), residual))
    return spectrum(v, _tolerances(terms, A, rtol), cones)


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)


def _solve_and_polish(
    P: Array, c: Array, A: Array, b: Array, cones: Cones, settings: Settings
) -> Outcome:
    eps = machine_epsilon(c.dtype)
    found = interior_point(
        P, c, A, b, cones, tolerance=settings.tolerance, max_iterations=settings.max_iterations
    )
    usable = (found.status == Status.SOLVED) | (found.status >= Status.STALLED)
    x, y, s = found.value
    v = y - s
    y = project(v, cones)
    terms = measure(P, c, A, b, x, y, y - v)
    rough = jnp.maximum(relative(terms), found.stats.gap)

    def newton(v: Array, tolerances: Tolerances | None) -> tuple[Array, Array]:
        parts = spectrum(v, tolerances, cones)
        factor = factorise(P, A, parts.basis, parts.low, cones)
        return solve(factor, P, A, -c, b, cones)

    def better(
        x: Array, v: Array, terms: Terms, proposed: tuple[Array, Array]
    ) -> tuple[Array, Array, Terms, Array]:
        new_x, new_v = proposed
        new_y = project(new_v, cones)
        new = measure(P, c, A, b, new_x, new_y, new_y - new_v)
        take = relative(new) < jnp.maximum(relative(terms), 1e3 * eps)
        take = take & jnp.all(jnp.isfinite(new_v), axis=-1) & jnp.all(jnp.isfinite(new_x), axis=-1)
        return (*_choose(take, (new_x, new_v, new), (x, v, terms)), take)

    curved = bool(cones.second_order or cones.semidefinite)
    taken = jnp.zeros_like(usable)
    for _ in range(3 if curved else 1):
        x, v, terms, took = better(x, v, terms, newton(v, None))
        taken = taken | took
    # where the signs gave no regular piece, leave out what is active only within the tolerance
    loose = _tolerances(terms, A, jnp.sqrt(jnp.maximum(eps, rough)))
    x, v, terms, took = lax.cond(
        jnp.all(taken | ~usable),
        lambda: (x, v, terms, taken),
        lambda: better(x, v, terms, newton(v, loose)),
    )
    taken = taken | took

    accurate = taken & (relative(terms) <= 1e3 * eps)
    residual = jnp.where(accurate, 0.0, jnp.maximum(relative(terms), rough))
    parts = active_pieces(v, A, terms, residual, cones)
    low = factorise(P, A, parts.basis, parts.low, cones)
    tests = two_tests(P, A, parts, low, cones)
    if settings.selection == "upper":
        chosen = factorise(P, A, parts.basis, parts.high, cones)
    else:
        chosen = low

    status = jnp.where(accurate & usable, Status.SOLVED, found.status).astype(jnp.int8)
    good = status == Status.SOLVED
    y = project(v, cones)
    nan = jnp.where(good, 1.0, jnp.nan).astype(c.dtype)[:, None]
    x, y, s, v = (part * nan for part in (x, y, y - v, v))
    unknown = jnp.zeros_like(tests.verdict)
    tests = TwoTests(jnp.where(good, tests.verdict, unknown), jnp.where(good, tests.margin, 0.0))
    gap = jnp.where(accurate, jnp.abs(jnp.sum(s * y, axis=-1)), found.stats.gap)
    return Outcome(
        x,
        y,
        s,
        v,
        status,
        found.stats.iterations,
        jnp.where(usable, terms.primal, found.stats.primal_residual),
        jnp.where(usable, terms.dual, found.stats.dual_residual),
        gap,
        tests,
        chosen,
    )


@functools.cache
def solution_map(cones: Cones, settings: Settings) -> Callable[..., Outcome]:
    """(P, c, A, b) ↦ Outcome for a batch, differentiable in all four any number of times."""

    @custom_vmap
    def forward(P: Array, c: Array, A: Array, b: Array) -> Outcome:
        return _solve_and_polish(P, c, A, b, cones, settings)

    @forward.def_vmap
    def _(axis_size: int, in_batched: Any, *data: Array) -> tuple[Outcome, Any]:
        """A mapped axis joins the batch axis: one loop solves all."""
        full = [
            part if batched else jnp.broadcast_to(part, (axis_size, *part.shape))
            for part, batched in zip(data, in_batched, strict=True)
        ]
        size = full[0].shape[1]
        outcome = forward(*(part.reshape(axis_size * size, *part.shape[2:]) for part in full))
        split = jax.tree.map(lambda part: part.reshape(axis_size, size, *part.shape[1:]), outcome)
        return split, jax.tree.map(lambda part: True, split)

    @jax.custom_jvp
    def solved(P: Array, c: Array, A: Array, b: Array) -> Outcome:
        return forward(P, c, A, b)

    @solved.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Outcome, Outcome]:
        P, c, A, b = primals
        dP, dc, dA, db = tangents
        outcome = solved(P, c, A, b)
        x, y, v = outcome.x, outcome.y, outcome.v
        upper = -(_times(dP, x) + _times(transpose(dA), y) + dc)
        lower = db - _times(dA, x)
        # a factor, for a mask would turn NaN into zero in reverse mode
        known = jnp.where(outcome.status == Status.SOLVED, 1.0, jnp.nan).astype(x.dtype)[:, None]
        dx, dv = (part * known for part in _implicit_step(P, A, v, outcome, upper, lower, cones))
        dy = _element_of(v, outcome, dv, cones)
        blank = jax.tree.map(zero_from_primal, outcome)
        return outcome, blank._replace(x=dx, y=dy, s=dy - dv, v=dv)

    return solved


def _element_of(v: Array, outcome: Outcome, x: Array, cones: Cones) -> Array:
    """V x at the chosen element; differentiable in v where Π is twice differentiable."""
    if not (cones.second_order or cones.semidefinite):
        return lax.stop_gradient(outcome.factor.d) * x
    frozen = apply_element(*lax.stop_gradient(outcome.factor)[:2], x, cones)
    # the moving part has the value zero: it only carries the derivative of V in v
    here = spectrum(v, None, cones)
    moving = apply_element(here.basis, here.low, x, cones)
    return frozen + moving - lax.stop_gradient(moving)


def _implicit_step(
    P: Array, A: Array, v: Array, outcome: Outcome, upper: Array, lower: Array, cones: Cones
) -> tuple[Array, Array]:
    """U(V)⁻¹ (upper, lower), NaN in an item where U(V) is singular."""
    factor = lax.stop_gradient(outcome.factor)
    data = lax.stop_gradient((P, A))

    n = upper.shape[-1]

    def apply_system(z: Array) -> Array:
        dx, dv = z[:, :n], z[:, n:]
        dy = _element_of(v, outcome, dv, cones)
        return _join(_times(P, dx) + _times(transpose(A), dy), _times(A, dx) + dy - dv)

    # one right-hand side: JAX transposes a solve only if no part of it is constant
    z = lax.custom_linear_solve(
        apply_system,
        _join(upper, lower),
        solve=lambda _, z: _join(*solve(factor, *data, z[:, :n], z[:, n:], cones)),
        transpose_solve=lambda _, z: _join(
            *solve_transposed(factor, *data, z[:, :n], z[:, n:], cones)
        ),
    )
    return z[:, :n], z[:, n:]


def _join(upper: Array, lower: Array) -> Array:
    return jnp.concatenate([upper, lower], axis=-1)
