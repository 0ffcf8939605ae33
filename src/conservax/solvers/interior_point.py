"""A batched primal–dual interior-point method for quadratic objectives over symmetric cones."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import machine_epsilon
from .cones import Array, Cones, transpose
from .equilibrate import equilibrate
from .solution import Solution, Status
from .triangular import apply_inverse, cholesky_inverse

_BACK_OFF = 0.99  # least share of the way to the boundary
_NEAR = 1e-3  # a step never comes closer to the boundary than this share
_REFINEMENTS = 2
_RUNNING = -1


class ConicPoint(NamedTuple):
    """Primal (batch, n), dual and slack (batch, m)."""

    primal: Array
    dual: Array
    slack: Array


class InteriorPointStats(NamedTuple):
    """Per item: iterations; residuals and gap relative to their terms, of the equilibrated data."""

    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array


class _Data(NamedTuple):
    P: Array
    c: Array
    A: Array
    b: Array


class _Iterate(NamedTuple):
    """A point of the homogeneous embedding; the slack of an equality is zero."""

    x: Array
    z: Array
    s: Array
    tau: Array
    kappa: Array


class _Products(NamedTuple):
    Px: Array
    Atz: Array
    Ax: Array


class _Carry(NamedTuple):
    point: _Iterate
    products: _Products
    status: Array
    stats: InteriorPointStats
    best: Array
    best_point: _Iterate
    waited: Array
    step: Array


class UnitRatio(NamedTuple):
    """‖A‖/‖P‖, which carries ‖c‖ to the unit of b, and ‖P‖/‖A‖ for the way back; 0 if P or A is."""

    primal: Array
    dual: Array


def unit_ratio(P: Array, A: Array) -> UnitRatio:
    """Per item of the batch, by largest entries."""
    of_P, of_A = (jnp.max(jnp.abs(part), axis=(-1, -2), initial=0.0) for part in (P, A))
    both = (of_P > 0) & (of_A > 0)
    of_P, of_A = jnp.where(both, of_P, 1.0), jnp.where(both, of_A, 1.0)
    return UnitRatio(jnp.where(both, of_A / of_P, 0.0), jnp.where(both, of_P / of_A, 0.0))


def default_tolerance(dtype: Any) -> float:
    """√eps: 1.5e-8 in float64, 3.5e-4 in float32."""
    return machine_epsilon(dtype) ** 0.5


def interior_point(
    P: Array,
    c: Array,
    A: Array,
    b: Array,
    cones: Cones,
    *,
    tolerance: float | None = None,
    max_iterations: int = 60,
    start: ConicPoint | None = None,
) -> Solution:
    """Solve a batch of min ½xᵀPx + cᵀx subject to Ax + s = b, s ∈ K.

    Mehrotra's predictor–corrector steps with Nesterov–Todd scaling on the homogeneous embedding, in
    which an infeasible program shows itself by τ → 0. The batch is one loop in which finished items
    stand still.

    Args:
        P: (batch, n, n), symmetric positive semidefinite. c: (batch, n). A: (batch, m, n).
        b: (batch, m). cones: K.
        tolerance: on residuals and gap relative to their terms, after equilibration; √eps by default.
        max_iterations: Newton steps at most.
        start: where to start; moved into the interior as far as necessary.

    Returns:
        Solution(ConicPoint, status, InteriorPointStats). The dual of a PRIMAL_INFEASIBLE item is a
        y ∈ K* with Aᵀy ≈ 0, bᵀy = −1; the primal of a DUAL_INFEASIBLE one an x with Px ≈ 0,
        −Ax ∈ K nearly, cᵀx = −1; what else it holds is without meaning. STALLED and MAX_ITERATIONS
        hand out the best point met, whose residuals are in the stats.

    Source: Goulart, Chen, Clarabel: an interior-point solver for conic programs with quadratic
    objectives (2024), for the embedding; Vandenberghe (2010) for the scaling.

    >>> import jax.numpy as jnp
    >>> from conservax.solvers import Cones, interior_point
    >>> P, c, A = jnp.eye(2)[None], jnp.array([[-1.0, 2.0]]), -jnp.eye(2)[None]
    >>> solution = interior_point(P, c, A, jnp.zeros((1, 2)), Cones(nonnegative=2))
    >>> solution.value.primal.round(3).tolist(), solution.status.tolist()
    ([[1.0, 0.0]], [0])
    """
    if tolerance is None:
        tolerance = default_tolerance(c.dtype)
    return _solve(P, c, A, b, start, cones, float(tolerance), int(max_iterations))


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _solve(
    P: Array,
    c: Array,
    A: Array,
    b: Array,
    start: ConicPoint | None,
    cones: Cones,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    column, row, cost = equilibrate(P, c, A, b, cones)
    data = _Data(
        cost[:, None, None] * column[:, :, None] * P * column[:, None, :],
        cost[:, None] * column * c,
        row[:, :, None] * A * column[:, None, :],
        row * b,
    )
    user = _Data(P, c, A, b)
    judge = functools.partial(_judge, data, tolerance)
    if start is None:
        point = _start(data, cones)
    else:
        point = _enter(
            start.primal / column, cost[:, None] * start.dual / row, row * start.slack, cones
        )
    products = _products(data, point)
    status, stats, merit = judge(point, products, jnp.zeros(len(c), jnp.int32))
    carry = _Carry(
        point, products, status, stats, merit, point, jnp.zeros_like(status), jnp.array(0)
    )

    def advance(carry: _Carry) -> _Carry:
        running = carry.status == _RUNNING
        moved = _newton(data, carry.point, carry.products, cones)
        finite = functools.reduce(
            jnp.logical_and, (jnp.all(jnp.isfinite(p), axis=tuple(range(1, p.ndim))) for p in moved)
        )
        go = running & finite
        point = _where(go, moved, carry.point)
        products = _where(go, _products(data, moved), carry.products)
        status, stats, merit = judge(point, products, carry.step + 1)
        better = go & (merit < 0.9 * carry.best)
        waited = jnp.where(better, 0, carry.waited + 1).astype(jnp.int8)
        status = jnp.where(
            ~finite | (waited > 8),
            jnp.where(status == _RUNNING, jnp.int8(Status.STALLED), status),
            status,
        )
        return _Carry(
            point,
            products,
            jnp.where(running, status, carry.status).astype(jnp.int8),
            _where(go, stats, carry.stats),
            jnp.where(go, jnp.minimum(merit, carry.best), carry.best),
            _where(go & (merit < carry.best), point, carry.best_point),
            jnp.where(running, waited, carry.waited),
            carry.step + 1,
        )

    def unfinished(carry: _Carry) -> Array:
        return (carry.step < max_iterations) & jnp.any(carry.status == _RUNNING)

    carry = jax.lax.while_loop(unfinished, advance, carry)
    status = jnp.where(carry.status == _RUNNING, Status.MAX_ITERATIONS, carry.status)
    status = status.astype(jnp.int8)
    point = _where(status >= Status.STALLED, carry.best_point, carry.point)
    _, stats, _ = judge(point, _products(data, point), carry.stats.iterations)
    return Solution(
        _in_user_units(user, point, (column, row, cost), status),
        status,
        stats._replace(iterations=carry.stats.iterations),
    )


def _where(condition: Array, yes: Any, no: Any) -> Any:
    """Item by item along the batch axis."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def _norm(a: Array) -> Array:
    return jnp.max(jnp.abs(a), axis=-1, initial=0.0)


def _apply(matrix: Array, vector: Array) -> Array:
    return jnp.einsum("bij,bj->bi", matrix, vector)


def _apply_transposed(matrix: Array, vector: Array) -> Array:
    return jnp.einsum("bij,bi->bj", matrix, vector)


def _products(data: _Data, point: _Iterate) -> _Products:
    return _Products(
        _apply(data.P, point.x), _apply_transposed(data.A, point.z), _apply(data.A, point.x)
    )


def _in_user_units(user: _Data, point: _Iterate, scaling: Any, status: Array) -> ConicPoint:
    """The point over τ, or the certificate of infeasibility, normalised."""
    column, row, cost = scaling
    x, z, s = column * point.x, row * point.z / cost[:, None], point.s / row
    size = jnp.where(
        status == Status.PRIMAL_INFEASIBLE,
        -_dot(user.b, z),
        jnp.where(status == Status.DUAL_INFEASIBLE, -_dot(user.c, x), point.tau),
    )[:, None]
    return ConicPoint(x / size, z / size, s / size)


def _judge(
    data: _Data,
    tolerance: float,
    point: _Iterate,
    products: _Products,
    step: Array,
) -> tuple[Array, InteriorPointStats, Array]:
    """Status, statistics and a merit, of equilibrated data: rescaling them changes nothing."""
    tau = point.tau[:, None]
    x, z, s = point.x, point.z, point.s
    Px, Atz, Ax = products
    b, c = data.b, data.c
    tiny = jnp.finfo(c.dtype).tiny
    ratio = unit_ratio(data.P, data.A)
    unit_b, unit_c = point.tau * _norm(b), point.tau * _norm(c)
    primal_scale = jnp.maximum(jnp.maximum(_norm(Ax), _norm(s)), unit_b)
    primal_scale = jnp.maximum(primal_scale, ratio.primal * unit_c)
    dual_scale = jnp.maximum(jnp.maximum(_norm(Px), _norm(Atz)), unit_c)
    dual_scale = jnp.maximum(dual_scale, ratio.dual * unit_b)
    primal = _norm(Ax + s - b * tau) / primal_scale.clip(min=tiny)
    dual = _norm(Px + Atz + c * tau) / dual_scale.clip(min=tiny)
    quadratic, linear, dual_linear = _dot(x, Px) / point.tau, _dot(c, x), _dot(b, z)
    terms = jnp.maximum(jnp.abs(quadratic), jnp.maximum(jnp.abs(linear), jnp.abs(dual_linear)))
    gap = jnp.abs(quadratic + linear + dual_linear) / jnp.maximum(
        terms, _norm(x) * _norm(c) * jnp.finfo(c.dtype).eps
    ).clip(min=jnp.finfo(c.dtype).tiny)
    # a gap between numbers that vanish themselves says nothing: there complementarity decides
    products_of_terms = _dot(jnp.abs(s), jnp.abs(z)) / point.tau
    of_P = jnp.max(jnp.abs(data.P), axis=(-1, -2), initial=0.0)
    free = jnp.where(of_P > 0, unit_c / jnp.where(of_P > 0, of_P, 1.0), 0.0)
    size = jnp.maximum(_norm(x), free) * (_norm(Px) + unit_c) / point.tau
    small = products_of_terms <= tolerance * size
    solved = (primal <= tolerance) & (dual <= tolerance) & ((gap <= tolerance) | small)
    strict = tolerance**0.9
    row_norm = jnp.max(jnp.sum(jnp.abs(data.A), axis=-1), axis=-1, initial=0.0)
    column_norm = jnp.max(jnp.sum(jnp.abs(data.A), axis=-2), axis=-1, initial=0.0)
    infeasible = (
        (dual_linear < 0)
        & (_norm(Atz) <= strict * column_norm * _norm(z))
        & (-dual_linear > jnp.sqrt(strict) * _norm(b) * _norm(z) * 1e-2 + tiny)
    )
    P_norm = jnp.max(jnp.sum(jnp.abs(data.P), axis=-1), axis=-1, initial=0.0)
    unbounded = (
        (linear < 0)
        & (_norm(Px) <= strict * P_norm * _norm(x))
        & (_norm(Ax + s) <= strict * row_norm * _norm(x))
        & (-linear > jnp.sqrt(strict) * _norm(c) * _norm(x) * 1e-2 + tiny)
    )
    status = jnp.where(
        solved,
        Status.SOLVED,
        jnp.where(
            infeasible,
            Status.PRIMAL_INFEASIBLE,
            jnp.where(unbounded, Status.DUAL_INFEASIBLE, _RUNNING),
        ),
    ).astype(jnp.int8)
    iterations = jnp.broadcast_to(step, status.shape).astype(jnp.int32)
    merit = jnp.maximum(jnp.maximum(primal, dual), jnp.where(small, 0.0, gap))
    return status, InteriorPointStats(iterations, primal, dual, gap), merit


class _Factor(NamedTuple):
    """Of [[P, Ãᵀ], [Ã, −I]] with zeros for I at the equalities E: (LLᵀ) = P + ÃᵀÃ."""

    P: Array
    scaled: Array
    inverse: Array
    across: Array
    corner: Array


def _factor(P: Array, scaled: Array, zero: int) -> _Factor:
    eps = machine_epsilon(P.dtype)
    H = P + transpose(scaled) @ scaled
    size = jnp.max(jnp.diagonal(H, axis1=-2, axis2=-1), axis=-1)
    shift = eps ** (2 / 3) + 4 * eps * size
    inverse = cholesky_inverse(H + shift[:, None, None] * jnp.eye(P.shape[-1], dtype=P.dtype))
    across = inverse @ transpose(scaled[:, :zero])
    corner = transpose(across) @ across + eps ** (2 / 3) * jnp.eye(zero, dtype=P.dtype)
    return _Factor(P, scaled, inverse, across, cholesky_inverse(corner))


def _solve_once(factor: _Factor, upper: Array, lower: Array, zero: int) -> tuple[Array, Array]:
    half = factor.inverse @ (upper + transpose(factor.scaled) @ lower)
    free = apply_inverse(factor.corner, transpose(factor.across) @ half - lower[:, :zero])
    x = transpose(factor.inverse) @ (half - factor.across @ free)
    z = factor.scaled @ x - lower
    return x, z.at[:, :zero].add(free)


def _refine(
    factor: _Factor, upper: Array, lower: Array, x: Array, z: Array, zero: int
) -> tuple[Array, Array]:
    """Iterative refinement of [[P, Ãᵀ], [Ã, −I]] (x, z) = (upper, lower)."""
    for _ in range(_REFINEMENTS):
        residual = upper - _apply(factor.P, x) - _apply_transposed(factor.scaled, z)
        below = (lower - _apply(factor.scaled, x)).at[:, zero:].add(z[:, zero:])
        dx, dz = _solve_once(factor, residual[..., None], below[..., None], zero)
        x, z = x + dx[..., 0], z + dz[..., 0]
    return x, z


def _start(data: _Data, cones: Cones) -> _Iterate:
    """The least-squares start: W = I, then slack and dual shifted into the cone."""
    factor = _factor(data.P, data.A, cones.zero)
    x, z = _solve_once(factor, -data.c[..., None], data.b[..., None], cones.zero)
    x, z = _refine(factor, -data.c, data.b, x[..., 0], z[..., 0], cones.zero)
    return _enter(x, z, -z, cones)


def _enter(x: Array, z: Array, s: Array, cones: Cones) -> _Iterate:
    """Slack and dual moved along the identity until they are well inside the cone."""
    parts_s, parts_z = [jnp.zeros_like(s[:, : cones.zero])], [z[:, : cones.zero]]
    for block, rows in cones.pieces:
        e = jnp.asarray(block.identity(), s.dtype)
        for parts, vector in ((parts_s, s[:, rows]), (parts_z, z[:, rows])):
            least = block.interior(vector)
            size = 1 + _norm(vector)
            shift = jnp.where(least < 1e-3 * size, 1 - least, 0.0)
            parts.append(vector + shift[:, None] * e)
    one = jnp.ones_like(x[:, 0])
    return _Iterate(
        x, jnp.concatenate(parts_z, axis=-1), jnp.concatenate(parts_s, axis=-1), one, one
    )


def _newton(data: _Data, point: _Iterate, products: _Products, cones: Cones) -> _Iterate:
    """One predictor–corrector step of the embedding."""
    zero, pieces = cones.zero, cones.pieces
    x, z, s, tau, kappa = point
    scalings = [block.scaling(s[:, rows], z[:, rows]) for block, rows in pieces]

    def scale(matrix: Array) -> Array:
        """W⁻ᵀ, and the identity at equalities; (batch, m, columns)."""
        parts = [matrix[:, :zero]]
        parts += [
            block.scale(W, matrix[:, rows])
            for (block, rows), (W, _) in zip(pieces, scalings, strict=True)
        ]
        return jnp.concatenate(parts, axis=1)

    def unscale(right: Array, left: Array) -> tuple[Array, Array]:
        """Wᵀ right and W⁻¹ left."""
        pairs = [(jnp.zeros_like(right[:, :zero]), left[:, :zero])]
        pairs += [
            block.unscale(W, right[:, rows], left[:, rows])
            for (block, rows), (W, _) in zip(pieces, scalings, strict=True)
        ]
        slack, dual = zip(*pairs, strict=True)
        return jnp.concatenate(slack, axis=-1), jnp.concatenate(dual, axis=-1)

    def each(method: str, *vectors: Array) -> Array:
        """A Jordan-algebra operation block by block, with zeros at equalities."""
        parts = [jnp.zeros_like(z[:, :zero])]
        parts += [
            getattr(block, method)(*(vector[:, rows] for vector in vectors))
            for block, rows in pieces
        ]
        return jnp.concatenate(parts, axis=-1)

    lam = jnp.concatenate([jnp.zeros_like(z[:, :zero])] + [lam for _, lam in scalings], axis=-1)
    e = jnp.concatenate(
        [jnp.zeros(zero)] + [jnp.asarray(block.identity()) for block, _ in pieces]
    ).astype(x.dtype)
    factor = _factor(data.P, scale(data.A), zero)

    dual_residual = products.Px + products.Atz + data.c * tau[:, None]
    primal_residual = products.Ax + s - data.b * tau[:, None]
    curvature = _dot(x, products.Px) / tau
    gap_residual = _dot(data.c, x) + _dot(data.b, z) + kappa + curvature
    mu = (_dot(lam, lam) + tau * kappa) / (cones.degree + 1)

    scaled_primal = scale(jnp.stack([primal_residual, data.b], axis=-1))
    gradient = data.c + 2 * products.Px / tau[:, None]

    def constant_terms(share: Array, divided: Array) -> tuple[Array, Array]:
        return -share * dual_residual, -share * scaled_primal[..., 0] + divided

    # predictor and the direction of τ by one solve with two columns
    upper, lower = constant_terms(jnp.ones_like(mu)[:, None], lam)
    xs, zs = _solve_once(
        factor,
        jnp.stack([upper, -data.c], axis=-1),
        jnp.stack([lower, scaled_primal[..., 1]], axis=-1),
        zero,
    )
    x2, z2 = xs[..., 1], zs[..., 1]
    away = x2 - x / tau[:, None]
    steep = _dot(away, _apply(data.P, away)) + _dot(z2[:, zero:], z2[:, zero:]) + kappa / tau
    scaled_b = scaled_primal[..., 1]  # bᵀΔz = (W⁻ᵀb)ᵀ(WΔz)

    def direction(
        x1: Array, z1: Array, divided: Array, share: Array, d_kappa: Array
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Steps of x, scaled z, scaled s, τ and κ."""
        numerator = share * gap_residual - d_kappa / tau + _dot(gradient, x1) + _dot(scaled_b, z1)
        d_tau = numerator / steep
        dx, dz = x1 + d_tau[:, None] * x2, z1 + d_tau[:, None] * z2
        return dx, dz, -divided - dz, d_tau, -(d_kappa + kappa * d_tau) / tau

    def length(dz: Array, ds: Array, d_tau: Array, d_kappa: Array) -> Array:
        rho = jnp.maximum(-d_tau / tau, -d_kappa / kappa)
        for (block, rows), (_, own) in zip(pieces, scalings, strict=True):
            rho = jnp.maximum(rho, block.steepness(own, dz[:, rows]))
            rho = jnp.maximum(rho, block.steepness(own, ds[:, rows]))
        return 1 / jnp.maximum(rho, 1.0)

    one = jnp.ones_like(mu)
    _, dz, ds, d_tau, d_kappa = direction(xs[..., 0], zs[..., 0], lam, one, tau * kappa)
    affine = length(dz, ds, d_tau, d_kappa)
    sigma = (1 - affine) ** 3
    target = (sigma * mu)[:, None]
    corrected = each("divide", lam, each("product", ds, dz) - target * e) + lam
    corrected_kappa = tau * kappa + d_tau * d_kappa - sigma * mu
    share = 1 - sigma
    upper, lower = constant_terms(share[:, None], corrected)
    x1, z1 = _solve_once(factor, upper[..., None], lower[..., None], zero)
    dx, dz, ds, d_tau, d_kappa = direction(
        x1[..., 0], z1[..., 0], corrected, share, corrected_kappa
    )
    upper, lower = upper - d_tau[:, None] * data.c, lower + d_tau[:, None] * scaled_b
    dx, dz = _refine(factor, upper, lower, dx, dz, zero)
    ds = -corrected - dz
    # the better the predictor did, the closer to the boundary the step may go
    share = jnp.maximum(_BACK_OFF, 1 - 0.1 * (1 - affine) ** 2 - _NEAR)
    alpha = share * length(dz, ds, d_tau, d_kappa)
    slack, dual = unscale(ds, dz)
    go = alpha[:, None]
    moved = _Iterate(
        x + go * dx, z + go * dual, s + go * slack, tau + alpha * d_tau, kappa + alpha * d_kappa
    )
    # the embedding is homogeneous: keep max(τ, κ) at one
    size = jnp.maximum(moved.tau, moved.kappa)
    return jax.tree.map(lambda part: part / size.reshape(-1, *[1] * (part.ndim - 1)), moved)
