"""The table of nonsmooth operations: how to see a kink, and which slopes it has.

One entry an operation. An entry lists its sites (``sites``), and runs the operation (``run``): it
hands the increment z of each kink to the pass in progress, gets back the selection q and an
injected part r, and returns the operation's value carrying the tangent

    ṗ = a ż + (b − a)(q ż + r),    q = 1 for the slope on z > 0, q = 0 for the slope on z < 0.

Comparisons, and what they steer, are values torn in two: see ``torn.py``. Operations that are
programs of simpler ones stand in ``expansions.py``.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..tracing.planner import Planner
from ..tracing.program import Step
from .mixtures import carrying, cut, difference, mix, spread, weigh
from .sizes import of_monotone, settled, size_of
from .tape import Tape

SiteSpec = tuple[str, str, tuple[int, ...], tuple[float, float] | None]


def _largest_operand(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], outs: Sequence[Any], tau: Any
) -> list[Any]:
    return [settled(outs[0], functools.reduce(jnp.maximum, sizes))]


def _increasing(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], outs: Sequence[Any], tau: Any
) -> list[Any]:
    """Maxima and their like increase in every operand: a loser has a say only where it may win."""
    run = functools.partial(step.eqn.primitive.bind, **step.eqn.params)
    return [of_monotone(run, values, sizes, outs[0], tau)]


@dataclass(frozen=True)
class Entry:
    """A nonsmooth operation of the calculus.

    ``sites(step, planner)`` gives (operation, kind, shape, slopes) of each group of kinks, in the
    order in which ``run(tape, step, *operands)`` hands their increments to the tape;
    ``dictionary`` is its o-minimal dictionary; ``size(step, operands, sizes, outs, tau)`` gives the
    sizes of the results (``sizes.py``), by default the largest operand's; ``varies`` is False for what
    is locally constant; ``orders`` says that further results are indices in the order of the first.
    """

    sites: Callable[[Any, Planner], Sequence[SiteSpec]]
    run: Callable[..., Any]
    dictionary: str = "ALG"
    size: Callable[[Any, Sequence[Any], Sequence[Any], Sequence[Any], Any], list[Any]] = (
        _largest_operand
    )
    varies: bool = True
    orders: bool = False


TABLE: dict[str, Entry] = {}


def register(primitive: str, entry: Entry) -> None:
    """Add an operation to the calculus: the one entry that every transformation reads."""
    TABLE[primitive] = entry


def _shape(step: Step) -> tuple[int, ...]:
    return step.eqn.outvars[0].aval.shape


def _binary(operation: str, upper_first: bool) -> Entry:
    """max(u, v) = v + relu(u − v) and min(u, v) = u − relu(u − v)."""

    def run(tape: Tape, step: Step, u: Any, v: Any) -> Any:
        value = step.eqn.primitive.bind(u, v)
        swap = not step.in_varied[0]  # z = varied − constant: "upper" is the side of a large input
        big, small = (v, u) if swap else (u, v)
        z = spread(difference(big, small), value.shape)
        tie = 0.5 if step.tie == "balanced" else (0.0 if upper_first else 1.0)
        q, r = tape.kink(z, tape.size(0) + tape.size(1), tie)
        above, below = (big, small) if upper_first else (small, big)
        return cut(carrying(value, mix(q, above, below)), 1 if upper_first else -1, r)

    def sites(step: Step, planner: Planner) -> Sequence[SiteSpec]:
        slopes = (0.0, 1.0) if upper_first else (1.0, 0.0)
        return [(operation, "kink", _shape(step), slopes)]

    return Entry(sites, run, size=_increasing)


def _run_abs(tape: Tape, step: Step, x: Any) -> Any:
    q, r = tape.kink(x, tape.size(0), 1.0)
    return cut(carrying(lax.abs(x), mix(q, x, -x)), 2, r)


def _run_bessel_i0e(tape: Tape, step: Step, x: Any) -> Any:
    """e^−|x| I₀(x): slopes 1 and −1 at 0, where JAX returns their mean."""
    value, odd = lax.bessel_i0e(x), lax.bessel_i1e(x)
    q, r = tape.kink(x, tape.size(0), 0.5)
    still = lax.stop_gradient(value), lax.stop_gradient(odd)
    return cut(carrying(value, mix(q, (still[1] - still[0]) * x, (still[1] + still[0]) * x)), -2, r)


def _run_clamp(tape: Tape, step: Step, low: Any, x: Any, high: Any) -> Any:
    """clamp(l, x, h) = min(max(x, l), h): two kinks; at a bound JAX gives x the slope 0."""
    # JAX has no derivative of a clamp in scalar bounds, and none is needed
    value = step.eqn.primitive.bind(*map(lax.stop_gradient, (low, x, high)))
    inner = jnp.maximum(x, low)
    q0, r0 = tape.kink(difference(x, low), tape.size(0) + tape.size(1), 0.0)
    inner = cut(carrying(inner, mix(q0, x, jnp.broadcast_to(low, x.shape))), 1, r0)
    q1, r1 = tape.kink(difference(inner, high), tape.size(0) + tape.size(1) + tape.size(2), 1.0)
    return cut(carrying(value, mix(q1, jnp.broadcast_to(high, x.shape), inner)), -1, r1)


def _extremum(operation: str, sign: int) -> Entry:
    """max over axes, an r-way tie: ṗ = u̇_leader + Σ_j r_j with z_j = u_j − u_leader."""

    def run(tape: Tape, step: Step, u: Any) -> Any:
        axes = step.eqn.params["axes"]
        value = step.eqn.primitive.bind(u, **step.eqn.params)
        weights, r = tape.tie(sign * u, tape.size(0), axes, step.tie == "first")
        combined = jnp.sum(weigh(weights, u) + sign * r, axis=axes)
        return carrying(value, combined)

    def sites(step: Step, planner: Planner) -> Sequence[SiteSpec]:
        return [(operation, "tie", step.eqn.invars[0].aval.shape, (0.0, 1.0))]

    return Entry(sites, run, size=_increasing)


def _jump(
    operation: str, distance: Callable[..., Any], dictionary: str = "BOUNDED", varies: bool = False
) -> Entry:
    """A step function: locally constant (or smooth) off its jumps, refused on one."""

    def run(tape: Tape, step: Step, *operands: Any) -> Any:
        (value,) = [step.eqn.primitive.bind(*operands, **step.eqn.params)]
        away = distance(step, *operands)
        size: Any = 1.0
        if tape.measures:
            sizes = [jnp.max(tape.size(i), initial=0.0) for i in range(len(operands))]
            size = functools.reduce(jnp.maximum, sizes)
        tape.jump(jnp.broadcast_to(jax.lax.stop_gradient(away), value.shape), size)
        return value if varies else jax.lax.stop_gradient(value)

    return Entry(
        lambda step, _: [(operation, "jump", _shape(step), None)],
        run,
        dictionary,
        size=_largest_operand
        if varies
        else lambda step, values, sizes, outs, tau: [size_of(outs[0], None)],
        varies=varies,
    )


def _to_integer(step: Step, x: Any) -> Any:
    return jnp.abs(x - jnp.round(x))


def _to_half_integer(step: Step, x: Any) -> Any:
    return jnp.abs(x - jnp.floor(x) - 0.5)


def _to_truncation(step: Step, x: Any) -> Any:
    """Truncation towards zero jumps at the integers but 0; a boolean jumps at 0 alone."""
    if step.eqn.outvars[0].aval.dtype == bool:
        return jnp.abs(x)
    nearest = jnp.round(x)
    return jnp.where(nearest == 0, jnp.inf, jnp.abs(x - nearest))


def _to_wrap(step: Step, x: Any, y: Any) -> Any:
    """The remainder of x by y jumps where x is a multiple of y other than 0."""
    nearest = jnp.round(x / y)
    return jnp.where(nearest == 0, jnp.inf, jnp.abs(x - nearest * y))


def _to_runner_up(sign: int) -> Callable[..., Any]:
    def distance(step: Step, x: Any) -> Any:
        axes = step.eqn.params["axes"]
        u = sign * x
        best = jnp.max(u, axis=axes, keepdims=True)
        tied = jnp.sum(u == best, axis=axes) > 1
        second = jnp.max(jnp.where(u == best, -jnp.inf, u), axis=axes)
        return jnp.where(tied, 0, jnp.squeeze(best, axes) - second)

    return distance


register("max", _binary("max", True))
register("min", _binary("min", False))
register("abs", Entry(lambda step, _: [("abs", "kink", _shape(step), (-1.0, 1.0))], _run_abs))
register(
    "bessel_i0e",
    Entry(
        lambda step, _: [("bessel_i0e", "kink", _shape(step), (1.0, -1.0))],
        _run_bessel_i0e,
        "BOUNDED",
    ),
)
register(
    "clamp",
    Entry(
        lambda step, _: [
            ("clamp (lower bound)", "kink", _shape(step), (0.0, 1.0)),
            ("clamp (upper bound)", "kink", _shape(step), (1.0, 0.0)),
        ],
        _run_clamp,
        size=_increasing,
    ),
)
register("reduce_max", _extremum("reduce_max", 1))
register("reduce_min", _extremum("reduce_min", -1))
register("floor", _jump("floor", _to_integer))
register("ceil", _jump("ceil", _to_integer))
register("round", _jump("round", _to_half_integer))
register("truncate", _jump("truncation", _to_truncation))
register("rem", _jump("remainder", _to_wrap, varies=True))
register("argmax", _jump("argmax", _to_runner_up(1), "ALG"))
register("argmin", _jump("argmin", _to_runner_up(-1), "ALG"))
