"""The table of nonsmooth operations: how to see a kink, and which slopes it has.

One entry an operation. An entry lists its sites (``sites``), and runs the operation (``run``): it
hands the increment z of each kink to the pass in progress, gets back the selection q and an
injected part r, and returns the operation's value carrying the tangent

    ṗ = a ż + (b − a)(q ż + r),    q = 1 for the slope on z > 0, q = 0 for the slope on z < 0.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

SiteSpec = tuple[str, str, tuple[int, ...], tuple[float, float] | None]


@dataclass(frozen=True)
class Entry:
    """A nonsmooth operation of the calculus.

    ``sites(eqn, varied)`` gives (operation, kind, shape, slopes) of each group of kinks;
    ``run(tape, step, *operands)`` runs it; ``dictionary`` is its o-minimal dictionary;
    ``size(step, sizes)`` is the size of the result, by default the largest operand's.
    """

    sites: Callable[[Any, Sequence[bool]], Sequence[SiteSpec]]
    run: Callable[..., Any]
    dictionary: str = "ALG"
    size: Callable[[Any, Sequence[Any]], Any] = lambda step, sizes: functools.reduce(jnp.maximum, sizes)


TABLE: dict[str, Entry] = {}


def register(primitive: str, entry: Entry) -> None:
    """Add an operation to the calculus: the one entry that every transformation reads."""
    TABLE[primitive] = entry


@jax.custom_jvp
def carrying(value: jax.Array, tangent_carrier: jax.Array) -> jax.Array:
    """``value``, exactly, with the derivative of ``tangent_carrier``."""
    del tangent_carrier
    return value


@carrying.defjvp
def _carrying_jvp(primals: Any, tangents: Any) -> Any:
    # the derivative of the rule is the rule again: second derivatives see the same selection
    return carrying(*primals), tangents[1]


def mix(q: Any, upper: Any, lower: Any) -> Any:
    """``lower + q (upper − lower)``, exact at q = 0 and 1 so that an unused branch cannot leak NaN."""
    if q.dtype == bool:
        return jnp.where(q, upper, lower)
    between = lower + q * (upper - lower)
    return jnp.where(q == 1, upper, jnp.where(q == 0, lower, between))


def weigh(weights: Any, u: Any) -> Any:
    """Entries times weights, in which a weight 0 silences even an infinite entry (a masked maximum)."""
    return jnp.where(weights == 0, 0, weights * u)


def _shape(eqn: Any) -> tuple[int, ...]:
    return eqn.outvars[0].aval.shape


def _binary(operation: str, upper_first: bool) -> Entry:
    """max(u, v) = v + relu(u − v) and min(u, v) = u − relu(u − v)."""

    def run(tape: Any, step: Any, u: Any, v: Any) -> Any:
        value = step.eqn.primitive.bind(u, v)
        swap = not step.in_varied[0]  # z = varied − constant: "upper" is the side of a large input
        big, small = (v, u) if swap else (u, v)
        z = big - small
        tie = 0.5 if step.tie == "balanced" else (0.0 if upper_first else 1.0)
        q, r = tape.kink(z, tape.size(0) + tape.size(1), tie)
        above, below = (big, small) if upper_first else (small, big)
        return carrying(value, mix(q, above, below)) + (r if upper_first else -r)

    def sites(eqn: Any, varied: Sequence[bool]) -> Sequence[SiteSpec]:
        slopes = (0.0, 1.0) if upper_first else (1.0, 0.0)
        return [(operation, "kink", _shape(eqn), slopes)]

    return Entry(sites, run)


def _run_abs(tape: Any, step: Any, x: Any) -> Any:
    q, r = tape.kink(x, tape.size(0), 1.0)
    return carrying(jnp.abs(x), mix(q, x, -x)) + 2 * r


def _run_clamp(tape: Any, step: Any, low: Any, x: Any, high: Any) -> Any:
    """clamp(l, x, h) = min(max(x, l), h): two kinks; at a bound JAX gives x the slope 0."""
    value = step.eqn.primitive.bind(low, x, high)
    inner = jnp.maximum(x, low)
    q0, r0 = tape.kink(x - low, tape.size(0) + tape.size(1), 0.0)
    inner = carrying(inner, mix(q0, x, jnp.broadcast_to(low, x.shape))) + r0
    q1, r1 = tape.kink(inner - high, tape.size(0) + tape.size(1) + tape.size(2), 1.0)
    return carrying(value, mix(q1, jnp.broadcast_to(high, x.shape), inner)) - r1


def _extremum(operation: str, sign: int) -> Entry:
    """max over axes, an r-way tie: ṗ = u̇_leader + Σ_j r_j with z_j = u_j − u_leader."""

    def run(tape: Any, step: Any, u: Any) -> Any:
        axes = step.eqn.params["axes"]
        value = step.eqn.primitive.bind(u, **step.eqn.params)
        weights, r = tape.tie(sign * u, tape.size(0), axes)
        combined = jnp.sum(weigh(weights, u) + sign * r, axis=axes)
        return carrying(value, combined)

    def sites(eqn: Any, varied: Sequence[bool]) -> Sequence[SiteSpec]:
        return [(operation, "tie", eqn.invars[0].aval.shape, (0.0, 1.0))]

    return Entry(sites, run, size=lambda step, sizes: jnp.max(sizes[0], axis=step.eqn.params["axes"]))


register("max", _binary("max", True))
register("min", _binary("min", False))
register("abs", Entry(lambda eqn, _: [("abs", "kink", _shape(eqn), (-1.0, 1.0))], _run_abs))
register(
    "clamp",
    Entry(
        lambda eqn, _: [
            ("clamp (lower bound)", "kink", _shape(eqn), (0.0, 1.0)),
            ("clamp (upper bound)", "kink", _shape(eqn), (1.0, 0.0)),
        ],
        _run_clamp,
    ),
)
register("reduce_max", _extremum("reduce_max", 1))
register("reduce_min", _extremum("reduce_min", -1))
