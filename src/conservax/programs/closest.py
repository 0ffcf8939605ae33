"""The closest feasible program: right-hand sides moved as little as possible in the ℓ2 norm.

For s ∈ K a product of {0} and [0, ∞) the shift is the least squares answer

    r = argmin {½‖r‖² : Ax + s = b + r} = argmin {½‖y + b‖² : Aᵀy = 0, y ∈ K*},

the second being the dual of the first. With E the rows that are equations or where r ≠ 0, the shifted
program is min ½xᵀPx + cᵀx over A_EᵀA_E x = A_Eᵀb_E and the other rows as they are, since r_E ⊥ range A_E:
the derivative of this program is that of both stages. It is continuous in A where A_E has rank n; where
it has not, a small change of A can make the program feasible, and derivatives in A are NaN.

Source: Boyd, Vandenberghe, Convex Optimization (2004), §5.1 and §6.1, for the dual and least squares.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..arrays.namespace import Array, namespace
from ..cones.table import Cones
from ..numerics import machine_epsilon
from ..solution import Status
from .cone_inputs import NEEDS_VALUES
from .pieces import is_traced


@jax.custom_jvp
def _derived(A: Array, factor: Array) -> Array:
    """A, whose derivative is multiplied by the factor, 1 or NaN."""
    del factor
    return A


@_derived.defjvp
def _(primals: Any, tangents: Any) -> Any:
    A, factor = primals
    return A, tangents[0] * factor


def closest_feasible(
    program_of: Callable[[Cones], Callable[..., Any]],
    cones: Cones,
    data: tuple[Array, Array, Array, Array],
    lead: tuple[int, ...],
    dtype: Any,
) -> Any:
    """What the program's solution is, with an item that has no feasible point moved to one that has.

    Called eagerly it is NumPy but for the solves themselves.

    Args:
        program_of: cones ↦ the plain program over them, called with (P, c, A, b).
        cones: polyhedral. data: P, c, A, b, dense, as of ``ConeProgram``; of these leading axes.
        dtype: of the solution.
    """
    P, c, A, b = data
    if not lead:
        b = b[None]  # a batch of one raises nothing
    traced = is_traced(data)

    def known(tree: Any) -> Any:
        return tree if traced else jax.tree.map(np.asarray, tree)

    def solver_over(own: Cones) -> Callable[..., Any]:
        return lambda *data: known(program_of(own)(*data))

    plain = solver_over(cones)(P, c, A, b)
    lost = plain.info.status == Status.PRIMAL_INFEASIBLE

    def repaired(plain: Any) -> Any:
        near = _shifted(solver_over, cones, (P, c, A, b), lost, dtype)

        def chosen(new: Array, old: Array) -> Array:
            own = lost.reshape(lost.shape + (1,) * (old.ndim - lost.ndim))
            return namespace(own).where(own, new, old).astype(old.dtype)

        return jax.tree.map(chosen, near, plain)

    try:
        found = repaired(plain) if bool(lost.any()) else plain
    except NEEDS_VALUES:
        found = jax.lax.cond(lost.any(), repaired, lambda plain: plain, plain)
    if not lead:
        found = jax.tree.map(lambda part: part[0], found)
    return found if traced else jax.device_put(found)


def _still(part: Array) -> Array:
    return jax.lax.stop_gradient(part) if isinstance(part, jax.Array) else part


def _shifted(
    program_of: Callable[[Cones], Callable[..., Any]],
    cones: Cones,
    data: tuple[Array, Array, Array, Array],
    lost: Array,
    dtype: Any,
) -> Any:
    """The solution of the closest program where an item is lost, of a harmless one elsewhere."""
    P, c, A, b = data
    n, m, zero = c.shape[-1], b.shape[-1], cones.zero
    lead, xp = lost.shape, namespace(*data, lost)
    eps, eye = machine_epsilon(dtype), np.eye(n, dtype=dtype)

    def full(part: Any, core: int, instead: Any) -> Array:
        part = xp.broadcast_to(xp.asarray(part, dtype), (*lead, *part.shape[-core:]))
        return xp.where(lost.reshape(lost.shape + (1,) * core), part, instead)

    P, c, A, b = full(P, 2, eye), full(c, 1, 0.0), full(A, 2, 0.0), full(b, 1, 0.0)
    shift = _still(_shift(program_of, zero, *map(_still, (A, b))))
    large = xp.max(xp.abs(shift), axis=-1, keepdims=True)
    fixed = (np.arange(m) < zero) | (shift > eps**0.75 * large)  # E
    fixed &= lost[..., None]
    A_fixed = xp.where(fixed[..., None], A, 0.0)
    _, sizes, V = xp.linalg.svd(_still(A_fixed), full_matrices=False)
    k = sizes.shape[-1]
    none = sizes <= max(n, m) * eps * xp.maximum(sizes[..., :1], eps)
    rank = k - xp.sum(none, axis=-1)
    factor = xp.where(lost & (rank < n), np.nan, 1.0).astype(dtype)
    A = _derived(A, factor[..., None, None]) if isinstance(A, jax.Array) else A
    A_fixed = xp.where(fixed[..., None], A, 0.0)

    # independent equations: Σ⁻¹Vᵀ (A_EᵀA_E x − A_Eᵀb_E) = 0, an own variable in each that is empty
    W = xp.where(none, 0.0, 1 / xp.where(none, 1.0, sizes))[..., None] * V
    onto = W @ A_fixed.mT
    empty = none[..., None] * np.eye(k, dtype=dtype)
    others = ~fixed[..., zero:]
    # a row of E is no inequality any more: 0ᵀx ≤ 1
    rest = xp.where(others[..., None], A[..., zero:, :], 0.0)
    limits = xp.where(others & lost[..., None], b[..., zero:], 1.0)
    wide = np.zeros((*lead, m - zero, k), dtype)
    right = xp.concatenate([(onto @ b[..., None])[..., 0], limits], -1)
    left = xp.concatenate(
        [xp.concatenate([onto @ A_fixed, empty], -1), xp.concatenate([rest, wide], -1)], -2
    )
    side = np.zeros((*lead, n, k), dtype)
    own = np.broadcast_to(np.eye(k, dtype=dtype), (*lead, k, k))
    bowl = xp.concatenate([xp.concatenate([P, side], -1), xp.concatenate([side.mT, own], -1)], -2)
    cost = xp.concatenate([c, np.zeros((*lead, k), dtype)], -1)
    found = program_of(Cones(zero=k, nonnegative=m - zero))(bowl, cost, left, right)

    of_fixed = (onto.mT @ found.dual[..., :k, None])[..., 0]
    padding = np.zeros((*lead, zero), dtype)
    of_rest = xp.concatenate([padding, found.dual[..., k:]], -1)
    slack = xp.concatenate([padding, found.slack[..., k:]], -1)
    status = xp.where(found.info.status == Status.SOLVED, Status.CLOSEST, found.info.status)
    return found._replace(
        primal=found.primal[..., :n],
        dual=xp.where(fixed, of_fixed, of_rest),
        slack=xp.where(fixed, 0.0, slack),
        info=found.info._replace(status=status),
    )


def _shift(program_of: Callable[..., Any], zero: int, A: Array, b: Array) -> Array:
    """argmin {½‖y + b‖² : Aᵀy = 0, y ≥ 0 in the rows of inequalities}."""
    m, n = A.shape[-2:]
    signs = np.broadcast_to(-np.eye(m, dtype=A.dtype)[zero:], (*A.shape[:-2], m - zero, m))
    left = namespace(A).concatenate([A.mT, signs], -2)
    program = program_of(Cones(zero=n, nonnegative=m - zero))
    right = np.zeros((*A.shape[:-2], n + m - zero), A.dtype)
    return program(np.eye(m, dtype=A.dtype), b, left, right).primal
