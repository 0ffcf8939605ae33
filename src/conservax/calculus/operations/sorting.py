"""Sorting with ties: a stable sort, then a network of comparators on neighbouring entries.

Entries that tie may leave in any order. Odd–even transposition on the sorted entries, one scalar
kink a comparator, reaches every order of r tied entries in r rounds. A comparator keeps the order
where its increment z = p_{i+1} − p_i is positive (q = 1) and swaps it at q = 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ...errors import UnsupportedOperationError
from ..tracing.planner import Planner
from ..tracing.program import Step
from .kinks import Entry, SiteSpec, register
from .mixtures import carrying, cut
from .sizes import of_monotone
from .tape import Tape
from .torn import Steering


class Order(NamedTuple):
    """What a sort leaves for those that use its order: each round's comparators, the keys' gaps.

    ``turned`` stands in place of the rounds where a policy decides all of them: the places of the
    entries, equal ones in the order that it asks for.
    """

    rounds: tuple[Steering, ...]
    ties: Any
    turned: Any = None


def active_comparators(near: np.ndarray, rounds: int, read: int) -> tuple[np.ndarray, int]:
    """Which comparators (rounds, n − 1) can swap, given which neighbours (n − 1) tie.

    Each run of r tied entries gets its own network of r rounds, aligned to its first entry, unless none of
    them is among the leading ones that are ``read``. Also returns the number of rounds that the longest run
    needs.
    """
    active = np.zeros((rounds, near.size), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(int), [0]])))
    needed = 1
    for start, stop in edges.reshape(-1, 2):
        if start >= read:
            break
        depth = 1 if stop - start == 1 else stop - start + 1
        needed = max(needed, depth)
        for t in range(min(depth, rounds)):
            active[t, start + t % 2 : stop : 2] = True
    return active, needed


def _rounds(step: Step, planner: Planner) -> int:
    return min(planner.sort_rounds, step.eqn.invars[0].aval.shape[step.eqn.params["dimension"]])


def _sites(step: Step, planner: Planner) -> Sequence[SiteSpec]:
    if step.eqn.params["num_keys"] > 1 or any(step.in_varied[1:]) or not step.in_varied[0]:
        raise UnsupportedOperationError(
            f"{step.location}: the calculus sorts by one varied key, and carries along nothing that varies. "
            "Sort each array on its own."
        )
    shape = list(step.eqn.invars[0].aval.shape)
    n = shape.pop(step.eqn.params["dimension"])
    neighbours = (*shape, max(n - 1, 0))
    sites: list[SiteSpec] = [("sort", "sort", (_rounds(step, planner), *neighbours), None)]
    if any(step.felt[1:]) and shape:  # where the entries of several rows went: that jumps at a tie
        sites.append(("argsort", "rows", neighbours, None))
    return sites


def _run(tape: Tape, step: Step, *operands: Any) -> list[Any]:
    axis = step.eqn.params["dimension"]
    outs = list(step.eqn.primitive.bind(*operands, **step.eqn.params))
    order = value = jnp.moveaxis(outs[0], axis, -1)
    size: Any = 0.0
    if tape.measures:
        sizes = of_monotone(_sorted(step), operands[:1], (tape.size(0),), outs[0], tape.tau)
        sizes = jnp.moveaxis(sizes, axis, -1)
        size = sizes[..., 1:] + sizes[..., :-1]
    pairs = jnp.arange(max(value.shape[-1] - 1, 0))
    ties = gaps(value)
    rounds: list[Steering] = []
    turned = None
    if tape.decides:
        turned = _turned(value) if tape.policy == "lower" else jnp.arange(value.shape[-1])
        order = jnp.take_along_axis(order, jnp.broadcast_to(turned, value.shape), -1)
        order = carrying(value, order)
    for t in range(0 if tape.decides else step.kink_slots[0][0]):
        z = gaps(order)
        slots = tape.next_slots(z.shape)
        q, r = tape.kink(z, jnp.broadcast_to(size, z.shape), 1.0)
        q = tape.comparator(q, (pairs + t) % 2 == 0)
        rounds.append(Steering(jnp.ones(z.shape, bool), slots, q))
        order = carrying(value, _exchanged(order, q, r, -1))
    if any(step.felt[1:]) and value.ndim > 1:
        tape.jump(jnp.where(pairs < step.read, ties, jnp.inf), 1.0)
    tape.orders[id(step)] = Order(tuple(rounds), ties, turned)
    outs[0] = jnp.moveaxis(order, -1, axis)
    return outs


def gaps(ordered: Any) -> Any:
    """How far each entry (last axis) is behind the next; equal infinities tie with nothing."""
    before, after = ordered[..., :-1], ordered[..., 1:]
    return jnp.where(jnp.isinf(before) & (before == after), jnp.inf, after - before)


def permuted(tape: Tape, order: Order, value: Any, size: Any) -> Any:
    """A gathered array whose neighbours (along axis 0) swap with the comparators of the sort."""
    if order.turned is not None:
        return carrying(value, value[order.turned])
    p = value
    for steering in order.rounds:
        gap = p[1:] - p[:-1]
        across = gap.shape[:1] + (1,) * (gap.ndim - 1)
        by = Steering(*(jnp.broadcast_to(jnp.reshape(a, across), gap.shape) for a in steering))
        kept = jnp.ones(gap.shape, bool)
        q, r = tape.branch(p[1:], p[:-1], size, kept, by, kept)
        p = carrying(value, _exchanged(p, q, r, 0))
    return p


def _turned(value: Any) -> Any:
    """Places of sorted entries (last axis) with each run of equal ones turned round, q = 0 throughout."""
    n, axis = value.shape[-1], value.ndim - 1
    place = jnp.broadcast_to(jnp.arange(n), value.shape)
    parted = value[..., 1:] > value[..., :-1]
    edge = jnp.ones((*value.shape[:-1], min(n, 1)), bool)
    first = lax.cummax(jnp.where(jnp.concatenate([edge, parted], -1), place, 0), axis)
    last = jnp.where(jnp.concatenate([parted, edge], -1), place, n)
    return first + lax.cummin(last, axis, reverse=True) - place


def _exchanged(p: Any, q: Any, r: Any, axis: int) -> Any:
    """Neighbours along an axis keep their places at q = 1 and swap at q = 0, r on top."""
    last = p.shape[axis]
    before = lax.slice_in_dim(p, 0, last - 1, axis=axis)
    after = lax.slice_in_dim(p, 1, last, axis=axis)
    moved = cut((1 - q) * (after - before), -1, r)
    ends = [(0, 0)] * p.ndim
    ends[axis] = (0, 1)
    first = jnp.pad(moved, ends)
    ends[axis] = (1, 0)
    return p + first - jnp.pad(moved, ends)


def _sorted(step: Step) -> Any:
    return lambda x: jnp.sort(x, axis=step.eqn.params["dimension"])


def _size(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], outs: Sequence[Any], tau: Any
) -> list[Any]:
    """The k-th smallest entry increases in every entry."""
    return [
        of_monotone(_sorted(step), values[:1], sizes[:1], outs[0], tau),
        *[None] * (len(outs) - 1),
    ]


register("sort", Entry(_sites, _run, size=_size, orders=True))
