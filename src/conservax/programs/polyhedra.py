"""Projections onto polyhedra, with the names of jaxopt; ``cx.projections`` has them beside the others.

P(x) = argmin ½‖p − x‖² over the polyhedron is a quadratic program. At x its derivative is I − M⁺M, M
the active rows, whether these are independent or not: corners in which too many rows meet, such as
the permutations among the doubly stochastic matrices, have a derivative in x all the same. In the
data of the polyhedron the derivative exists where the rows are independent, and is NaN elsewhere.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays.namespace import Array
from ..calculus import implicit_node
from ..calculus.implicit_node import zero_like
from ..errors import InfeasibleError, InvalidInputError
from ..numerics import machine_epsilon
from ..operators.inputs import as_float
from .answer import ProgramSolution
from .cone_inputs import NEEDS_VALUES
from .equations import polyhedron_equations
from .face import project_onto_face
from .failed_items import partial_identity, standing_in
from .quadratic_program import QuadraticProgram

Selection: TypeAlias = Literal["lower", "upper"]
# data ↦ M and t of the equalities and inequalities
Constraints: TypeAlias = Callable[[Sequence[Array]], tuple[Array, Array]]
# (p, data, active) ↦ the point of that face next to p, and the slacks of the inequalities there
Face: TypeAlias = Callable[[Array, tuple[Array, ...], Array], tuple[Array, Array]]


def projection_polyhedron(
    x: Any, hyperparams: tuple[Any, Any, Any, Any], *, selection: Selection = "lower"
) -> Array:
    """argmin ‖p − x‖ over {Ap = b, Gp ≤ h}: the projection of x (..., n).

    V = I − M⁺M, M the active rows; a row that touches without a multiplier counts or not, by choice.

    Args:
        x: (..., n), with batch axes at will.
        hyperparams: (A, b, G, h) of shapes (..., p, n), (..., p), (..., m, n), (..., m); a pair may be
            None, None. Batch axes broadcast against those of x.
        selection: "lower" leaves the weakly active rows out, "upper" keeps them.

    Returns:
        (..., n), differentiable in x and in all of the data; an item that has no solution is NaN. Where
        the active rows are dependent the derivative in A, b, G, h is NaN, that in x is not.

    Raises:
        InvalidInputError: shapes that do not fit, NaN.
        InfeasibleError: the polyhedron is empty; called eagerly without batch axes.

    For a certificate ask ``QuadraticProgram().check(I, −x, A, b, G, h)``.

    Source: Haraux, How to differentiate the projection on a convex set in Hilbert space (1977).

    >>> import jax.numpy as jnp, conservax as cx
    >>> triangle = None, None, jnp.array([[-1.0, 0], [0, -1], [1, 1]]), jnp.array([0.0, 0, 1])
    >>> cx.projections.projection_polyhedron(jnp.array([1.0, 1.0]), triangle).round(4).tolist()
    [0.5, 0.5]
    """
    x = as_float(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise InvalidInputError(f"x must be (..., n) with n ≥ 1, but has shape {x.shape}.")
    try:
        A, b, G, h = hyperparams
    except (TypeError, ValueError):
        raise InvalidInputError(
            "hyperparams must be the four (A, b, G, h); write None, None for a pair that is missing."
        ) from None
    _check_finite(x=x, A=A, b=b, G=G, h=h)
    layer = QuadraticProgram(selection=selection)
    eye = np.eye(x.shape[-1], dtype=x.dtype)
    program, (_, _, M, t) = layer.conic(eye, -x, A, b, G, h)
    if not program.cones.size:
        return x
    # rows of length one: their slacks and multipliers have the unit of x
    length = lax.stop_gradient(jnp.linalg.norm(M, axis=-1))
    length = jnp.where(length > 0, length, 1.0)
    M, t = (M / length[..., None]).astype(x.dtype), (t / length).astype(x.dtype)
    solution = program(eye, *lax.stop_gradient((-x, M, t)))
    return _follow(
        x, (M, t), solution, program.cones.zero, _face_of_polyhedron, _of_polyhedron, selection
    )


def projection_transport(
    x: Any, marginals: tuple[Any, Any], *, selection: Selection = "lower"
) -> Array:
    """argmin ‖P − X‖_F over {P ≥ 0, P1 = r, Pᵀ1 = c}: the plan next to X (..., m, n).

    On its support P_ij = X_ij + u_i + v_j. The derivative in (r, c) is the one along Σr = Σc: only such
    marginals have a plan, and a gradient has no part across them. It exists where the support, as a
    graph between rows and columns, is connected, and is NaN elsewhere; that in X exists always.

    Args:
        x: (..., m, n), similarities (costs with a minus sign).
        marginals: (r, c) of shapes (..., m) and (..., n), not negative, with one sum.
        selection: where P_ij = 0 without a multiplier, "lower" lets it move and "upper" holds it.

    Raises:
        InvalidInputError: shapes that do not fit, NaN.
        InfeasibleError: a marginal is negative, or Σr ≠ Σc; NaN in a batch and inside jit.

    Source: Blondel, Seguy, Rolet, Smooth and sparse optimal transport (2018), for the problem.

    >>> import jax.numpy as jnp, conservax as cx
    >>> half = jnp.array([0.5, 0.5])
    >>> cx.projections.projection_transport(2 * jnp.eye(2), (half, half)).round(4).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    x = as_float(x)
    try:
        r, c = (jnp.asarray(part, x.dtype) for part in marginals)
    except (TypeError, ValueError):
        raise InvalidInputError("marginals must be two vectors, (r, c).") from None
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise InvalidInputError(f"x must be (..., m, n) with m, n ≥ 1, but has shape {x.shape}.")
    m, n = x.shape[-2:]
    if r.shape[-1:] != (m,) or c.shape[-1:] != (n,):
        raise InvalidInputError(
            f"the marginals have shapes {r.shape} and {c.shape}, but an x of shape {x.shape} needs "
            f"(..., {m}) and (..., {n})."
        )
    _check_finite(x=x, r=r, c=c)
    try:
        lead = np.broadcast_shapes(x.shape[:-2], r.shape[:-1], c.shape[:-1])
    except ValueError:
        raise InvalidInputError(
            f"the batch axes of x {x.shape}, r {r.shape} and c {c.shape} do not broadcast."
        ) from None
    lack = jnp.sum(r, axis=-1) - jnp.sum(c, axis=-1)
    total = jnp.sum(jnp.abs(r), axis=-1) + jnp.sum(jnp.abs(c), axis=-1)
    balanced = jnp.abs(lack) <= np.sqrt(machine_epsilon(x.dtype)) * total
    if not lead:
        _raise_if_no_plan(r, c, balanced)
    # off Σr = Σc there is no plan: data are moved there, so that their derivative is along it
    share = lack[..., None] / (m + n)
    both = [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in (r - share, c + share)]
    sums = jnp.asarray(_sums(m, n), x.dtype)
    p = jnp.broadcast_to(x, (*lead, m, n)).reshape(*lead, m * n)
    # the last column's sum follows from the others: with it no multiplier would be unique
    rows = [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in (r, c[..., :-1])]
    eye = np.eye(m * n, dtype=x.dtype)
    solution = QuadraticProgram(selection=selection)(
        eye,
        *lax.stop_gradient((-p, sums[:-1], jnp.concatenate(rows, axis=-1))),
        -eye,
        jnp.zeros(m * n, x.dtype),
    )
    data = sums, jnp.concatenate(both, axis=-1)
    plan = _follow(p, data, solution, m + n - 1, _face_of_transport, _of_transport, selection)
    known = jnp.where(balanced, 1.0, jnp.nan).astype(x.dtype)
    return (plan * known[..., None]).reshape(*lead, m, n)


def projection_birkhoff(x: Any, *, selection: Selection = "lower") -> Array:
    """argmin ‖P − X‖_F over {P ≥ 0, P1 = 1, Pᵀ1 = 1}: the doubly stochastic matrix next to X (..., k, k).

    ``projection_transport`` with marginals of ones; as X grows, P comes to be a permutation.

    Raises:
        InvalidInputError: X is not square, or holds NaN.

    Source: Birkhoff, Tres observaciones sobre el algebra lineal (1946), for the polytope.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.projections.projection_birkhoff(jnp.array([[0.0, 3.0], [1.0, 0.0]])).round(4).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    x = as_float(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise InvalidInputError(f"x must be (..., k, k), but has shape {x.shape}.")
    ones = jnp.ones(x.shape[-1], x.dtype)
    return projection_transport(x, (ones, ones), selection=selection)


@functools.partial(jax.jit, static_argnames=("equalities", "face", "constraints", "selection"))
def _follow(
    p: Array,
    data: tuple[Array, ...],
    solution: ProgramSolution,
    equalities: int,
    face: Face,
    constraints: Constraints,
    selection: Selection,
) -> Array:
    """The solution's value, with the derivative of the projection onto the chosen face through it."""
    x, info = solution.primal, solution.info
    dual, slack = solution.dual[..., equalities:], solution.slack[..., equalities:]
    p = jnp.broadcast_to(p, x.shape)
    eps = machine_epsilon(x.dtype)
    frozen = lax.stop_gradient(p), lax.stop_gradient(data)
    size = jnp.linalg.norm(frozen[0], axis=-1) + jnp.linalg.norm(x, axis=-1)
    unit = jnp.where(size > 0, size, 1.0)
    error = jnp.maximum(info.primal_residual, info.dual_residual) / unit
    error = jnp.maximum(error, info.gap / unit**2)
    loose = unit * jnp.sqrt(jnp.maximum(eps, jnp.where(error <= 1e3 * eps, 0.0, error)))

    # where rows are dependent the solver could not polish: the face that its signs show can
    first, its_slack = lax.stop_gradient(face(*frozen, dual > slack))
    fine = jnp.all(its_slack >= -1e3 * eps * size[..., None], axis=-1)
    fine = fine & (jnp.linalg.norm(first - x, axis=-1) <= loose)
    x = jnp.where(fine[..., None], first, x)
    slack = jnp.where(fine[..., None], its_slack, slack)
    near = jnp.where(fine, unit * np.sqrt(eps), loose)
    # where all is 0 but the solver's errors, they are what counts
    noise = 2 * jnp.maximum(info.primal_residual, info.dual_residual)
    loose, near = jnp.maximum(loose, noise), jnp.maximum(near, noise)

    active = dual > loose[..., None]
    if selection == "upper":
        active = active | (slack <= near[..., None])
    weak = (dual <= loose[..., None]) & (slack <= near[..., None])
    to_kinks = jnp.where(weak, slack - dual, 0.0)
    still = (x, solution.dual[..., :equalities], dual, slack, to_kinks, active.astype(x.dtype))
    count = 1 + len(data)

    def tangent(_: Any, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, ...]:
        own, (x, *others) = inputs[:count], inputs[count : count + 4]
        moves = [zero_like(t) for t in tangents[:count]]
        along = _tangent_of_face(face, own, moves, x, inputs[-1] > 0)
        # nobody is handed the others, and the calculus has them from the equations
        return (along, *(jnp.zeros_like(y) for y in others))

    (x, *_), _ = implicit_node(
        lambda *inputs: (inputs[count : count + 4], ()),
        lambda y, p, *rest: polyhedron_equations(y, p, *constraints(rest[:-1]), rest[-1]),
        tangent,
        p,
        *data,
        *lax.stop_gradient(still),
        reads=(*range(count), count + 4),
        hidden=True,
    )
    return x


def _tangent_of_face(
    face: Face, own: Sequence[Array], moves: Sequence[Array], x: Array, active: Array
) -> Array:
    """Of the projection onto the face where the active rows hold; items without a solution have none."""
    known = jnp.all(jnp.isfinite(x), axis=-1)

    def moved(p: Array, *data: Array) -> Array:
        numbers = tuple(
            standing_in(part, known, 1.0) if part.shape[: known.ndim] == known.shape else part
            for part in data
        )
        return face(standing_in(p, known, 0.0), numbers, active)[0]

    along = jax.jvp(moved, tuple(own), tuple(moves))[1]
    # of a failed item all moves count, also those that no face feels
    lost = jnp.where(known, 0, 1).astype(x.dtype)
    all_moves = sum(_sum_of_each(move, known) for move in moves)
    return partial_identity(along + (lost * all_moves)[..., None], known)


def _sum_of_each(move: Array, known: Array) -> Array:
    """The sum over an item, or over what all items share."""
    if move.shape[: known.ndim] != known.shape:
        return jnp.sum(move)
    return jnp.sum(move, axis=tuple(range(known.ndim, move.ndim)))


def _face_of_polyhedron(p: Array, data: tuple[Array, ...], active: Array) -> tuple[Array, Array]:
    """Of {Mp = t, Mp ≤ t}, equalities first."""
    M, t = data
    equalities = M.shape[-2] - active.shape[-1]
    always = jnp.ones((*active.shape[:-1], equalities), bool)
    held = jnp.concatenate([always, active], axis=-1)
    x = project_onto_face(p, M, t, held, jnp.ones(p.shape, bool))
    return x, (t - jnp.einsum("...ij,...j->...i", M, x))[..., equalities:]


def _of_polyhedron(data: Sequence[Array]) -> tuple[Array, Array]:
    """M and t of {Mp = t, Mp ≤ t}."""
    M, t = data
    return M, t


def _of_transport(data: Sequence[Array]) -> tuple[Array, Array]:
    """The same of {Mp = t, p ≥ 0}, without the row to spare."""
    M, t = data
    M = jnp.concatenate([M[:-1], -jnp.eye(M.shape[1], dtype=M.dtype)])
    return M, jnp.concatenate([t[..., :-1], jnp.zeros((*t.shape[:-1], M.shape[1]), t.dtype)], -1)


def _face_of_transport(p: Array, data: tuple[Array, ...], active: Array) -> tuple[Array, Array]:
    """Of {Mp = t, p ≥ 0}, one row of M to spare."""
    M, t = data
    x = project_onto_face(p, M, t, jnp.ones(M.shape[-2:-1], bool), ~active, spare=1)
    return x, x


@functools.cache
def _sums(m: int, n: int) -> np.ndarray:
    """The matrix (m + n, mn) that takes a plan, row by row, to its row and column sums."""
    return np.vstack([np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))])


def _check_finite(**data: Any) -> None:
    """NaN and infinity, where the values are known."""
    for name, part in data.items():
        try:
            values = np.asarray(part, np.float64) if part is not None else np.zeros(0)
        except NEEDS_VALUES:
            continue
        if not np.all(np.isfinite(values)):
            raise InvalidInputError(f"{name} holds NaN or infinity.")


def _raise_if_no_plan(r: Array, c: Array, balanced: Array) -> None:
    """Where the values are known."""
    try:
        least, equal = min(np.min(r), np.min(c)), bool(balanced)
        sums = np.sum(r), np.sum(c)
    except NEEDS_VALUES:
        return
    if least < 0:
        raise InfeasibleError(f"a marginal is negative, {least:.3g}: no plan P ≥ 0 has it.")
    if not equal:
        raise InfeasibleError(
            f"the row sums add up to {sums[0]:.6g} and the column sums to {sums[1]:.6g}: no plan has "
            "both. Scale the marginals to one total."
        )
