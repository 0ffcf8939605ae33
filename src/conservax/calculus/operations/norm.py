"""The Euclidean norm with its ball of slopes at 0: ``cx.norm``."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..tracing.planner import Planner
from ..tracing.program import Step
from .kinks import Entry, SiteSpec, register
from .mixtures import carrying
from .sizes import settled
from .tape import Tape

_MARKER = "conservax.norm"


def norm(x: Any, axis: int | Sequence[int] | None = None) -> jax.Array:
    """‖x‖₂ = (Σ x_i²)^½, with the conservative Jacobian {w : ‖w‖₂ ≤ 1} at x = 0.

    Spelled as the root of a sum, the norm has an infinite slope under the root at 0, where JAX
    returns NaN; this one returns the element 0 there and tells the calculus of the whole ball.

    Args:
        x: a real array. axis: the axes to reduce; all by default.

    Returns:
        The norms, an array of x's shape without the reduced axes.

    Source: Clarke, Optimization and Nonsmooth Analysis (1983), Section 2.3.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> jax.grad(cx.norm)(jnp.zeros(2)).tolist(), float(cx.norm(jnp.array([3.0, 4.0])))
    ([0.0, 0.0], 5.0)
    """
    x = jnp.asarray(x)
    axes = (
        tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    )
    kept = [i for i in range(x.ndim) if i not in {a % x.ndim for a in axes}]
    shape = [x.shape[i] for i in kept]
    rows = jnp.transpose(x, (*kept, *(a % x.ndim for a in axes))).reshape(*shape, -1)
    return _norm(rows)


def _value(rows: jax.Array) -> jax.Array:
    # scaled by the largest entry, so that squares neither overflow nor vanish
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True, initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    total = jnp.sum((rows / scale) ** 2, axis=-1)
    return jnp.squeeze(scale, -1) * jnp.where(
        total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0
    )


def _plain(rows: jax.Array) -> jax.Array:
    return _value(rows)


_plain.__name__ = _plain.__qualname__ = _MARKER
_norm = jax.custom_jvp(_plain)


@_norm.defjvp
def _norm_jvp(primals: Any, tangents: Any) -> Any:
    (rows,), (change,) = primals, tangents
    value = _norm(rows)
    safe = jnp.where(value > 0, value, 1)
    return value, jnp.sum(rows / safe[..., None] * change, axis=-1)


def _axis(step: Step) -> int:
    """The axis that a (possibly vmapped) norm reduces."""
    before, after = step.eqn.invars[-1].aval.shape, step.eqn.outvars[0].aval.shape
    matches = [i for i in range(len(before)) if (*before[:i], *before[i + 1 :]) == tuple(after)]
    return matches[-1]


def _sites(step: Step, planner: Planner) -> Sequence[SiteSpec]:
    return [("norm", "ball", step.eqn.invars[-1].aval.shape, None)]


def _run(tape: Tape, step: Step, *operands: Any) -> list[Any]:
    rows, axis = operands[-1], _axis(step)
    tie = 0.5 if step.tie == "halves" else 0.0  # JAX's hypot has slopes ½, ½ at 0
    direction, r = tape.ball(rows, tape.size(len(operands) - 1), axis, tie)
    value = jax.lax.stop_gradient(_value(jnp.moveaxis(rows, axis, -1)))
    return [carrying(value, jnp.sum(direction * rows + r, axis=axis))]


def _size(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], outs: Sequence[Any], tau: Any
) -> list[Any]:
    return [settled(outs[0], _value(jnp.moveaxis(sizes[-1], _axis(step), -1)))]


register(_MARKER, Entry(_sites, _run, size=_size))
