"""A batched primal–dual interior-point method for quadratic objectives over symmetric cones."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arrays.lapack import cholesky
from ..arrays.namespace import Array, namespace
from ..cones.table import Cones
from ..numerics import machine_epsilon
from ..solution import Solution, Status
from .chunks import in_chunks
from .embedding import (
    Iterate,
    Products,
    RowSystem,
    centre,
    dot,
    enter,
    newton,
    products,
    system_of_rows,
)
from .equilibrate import ConicPoint, Data, Scaling, WhiteData, equilibrate
from .termination import RUNNING, InteriorPointStats, Judgement, judge, measure_data
from .whitening import whiten

_WARM = 1e-4  # how far inside the cone a given start is moved, of data of size one
_PATIENCE = 8  # steps without progress after which an item has stalled


class _Carry(NamedTuple):
    point: Iterate
    known: Products
    status: Array
    iterations: Array
    best: Judgement
    best_point: Iterate
    nearest: Array
    waited: Array
    step: Array
    rows: RowSystem | None


def default_tolerance(dtype: Any) -> float:
    """√eps, but at most 1e-4: 1.5e-8 in float64, 1e-4 in float32."""
    return min(machine_epsilon(dtype) ** 0.5, 1e-4)


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
        tolerance: on residuals and gap relative to their terms, after equilibration; √eps or 1e-4 by default.
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
    >>> from conservax.cones import Cones
    >>> from conservax.solvers import interior_point
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
    def solve_chunk(data: Data, start: ConicPoint | None) -> Solution:
        scaling = equilibrate(*data, cones)
        if start is not None:
            start = scaling.apply_point(start)
        found = solve_scaled(scaling.apply(data), start, cones, tolerance, max_iterations)
        return found._replace(value=_in_user_units(data, found, scaling))

    return in_chunks(solve_chunk, Data(P, c, A, b), start)


def solve_definite(data: Data, cones: Cones, tolerance: float, max_iterations: int) -> Solution:
    """``solve_scaled`` where every P is known to be positive definite, in the metric of P."""
    whitening = whiten(data.P)
    found = solve_scaled(whitening.apply(data), None, cones, tolerance, max_iterations)
    return found._replace(value=whitening.undo(found.value))


def solve_scaled(
    data: Data | WhiteData,
    start: ConicPoint | None,
    cones: Cones,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """``interior_point`` for equilibrated data, all items side by side.

    Certificates of infeasibility are not normalised.
    """
    sizes = measure_data(data)
    point = centre(data, cones) if start is None else enter(*start, cones, _WARM)
    batch = len(data.c)
    worst = jnp.full(batch, jnp.inf, data.c.dtype)
    nothing = jnp.zeros(batch, jnp.int32)
    convex = True if data.P is None else _is_convex(data.P, sizes.P)
    running = jnp.where(convex, jnp.full(batch, RUNNING), Status.NOT_CONVEX).astype(jnp.int8)
    carry = _Carry(
        point=point,
        known=products(data, point),
        status=running,
        iterations=nothing,
        best=Judgement(running, worst, worst, worst, worst, worst),
        best_point=point,
        nearest=worst,
        waited=nothing,
        # the zeroth step finds the start, where none is given
        step=jnp.array(0 if start is None else 1),
        rows=system_of_rows(data, cones),
    )

    def advance(carry: _Carry) -> _Carry:
        moved, (x, z), poor = newton(data, carry.rows, carry.point, carry.known, cones)
        if start is None:
            moved = choose(carry.step > 0, moved, enter(x, z, -z, cones))
        finite = jnp.isfinite(sum(jnp.sum(part, axis=-1) for part in moved[:3]) + moved.tau)
        running = carry.status == RUNNING
        go = running & finite
        moved = choose(go, moved, carry.point)
        known = products(data, moved)
        found = judge(data, sizes, tolerance, moved, known)
        progress = found.merit < 0.9 * carry.best.merit
        nearest = jnp.minimum(found.distance, carry.nearest)
        progress = progress | (found.distance < 0.9 * carry.nearest)
        waited = jnp.where(progress, 0, carry.waited + 1)
        stalled = ~finite | (waited > _PATIENCE)
        status = jnp.where(stalled & (found.status == RUNNING), Status.STALLED, found.status)
        rows = carry.rows
        if rows is not None:
            # once a system of rows was not accurate, columns serve
            rows = rows._replace(trusted=rows.trusted & ~jnp.any(poor & running))
        better = go & ((found.merit < carry.best.merit) | (found.status != RUNNING))
        return _Carry(
            moved,
            known,
            jnp.where(running, status, carry.status).astype(jnp.int8),
            jnp.where(running, carry.step, carry.iterations),
            choose(better, found, carry.best),
            choose(better, moved, carry.best_point),
            nearest,
            waited,
            carry.step + 1,
            rows,
        )

    def unfinished(carry: _Carry) -> Array:
        return (carry.step <= max_iterations) & jnp.any(carry.status == RUNNING)

    carry = jax.lax.while_loop(unfinished, advance, carry)
    status = jnp.where(carry.status == RUNNING, Status.MAX_ITERATIONS, carry.status)
    status = status.astype(jnp.int8)
    x, z, s, tau, _ = carry.best_point
    size = jnp.where(status < Status.STALLED, jnp.where(status == Status.SOLVED, tau, 1.0), tau)[
        :, None
    ]
    return Solution(
        ConicPoint(x / size, z / size, s / size),
        status,
        InteriorPointStats(carry.iterations, *carry.best[1:4]),
    )


def _is_convex(P: Array, size: Array) -> Array:
    """Whether P is positive semidefinite up to √eps of its size, which rounding of the data allows."""
    slack = machine_epsilon(P.dtype) ** 0.5 * jnp.where(size > 0, size, 1.0)
    L = cholesky(P + slack[:, None, None] * jnp.eye(P.shape[-1], dtype=P.dtype))
    return jnp.all(jnp.isfinite(jnp.diagonal(L, axis1=-2, axis2=-1)), axis=-1)


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """Item by item along the batch axis."""
    xp = namespace(condition)

    def choose(a: Array, b: Array) -> Array:
        return xp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)


def _in_user_units(user: Data, found: Solution, scaling: Scaling) -> ConicPoint:
    """The point, or the certificate of infeasibility, normalised."""
    x, z, s = scaling.undo(found.value)
    size = jnp.where(
        found.status == Status.PRIMAL_INFEASIBLE,
        -dot(user.b, z),
        jnp.where(found.status == Status.DUAL_INFEASIBLE, -dot(user.c, x), 1.0),
    )[:, None]
    return ConicPoint(x / size, z / size, s / size)
