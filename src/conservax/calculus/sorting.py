"""Sorting with ties: a stable sort, then a network of comparators on neighbouring entries.

Entries that tie may leave in any order. Odd–even transposition on the sorted entries, one scalar
kink a comparator, reaches every order of r tied entries in r rounds. A comparator keeps the order
where its increment z = p_{i+1} − p_i is positive (q = 1) and swaps it at q = 0.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import UnsupportedOperationError
from .kinks import Entry, SiteSpec, carrying, cut, register


def active_comparators(near: np.ndarray, rounds: int) -> tuple[np.ndarray, int]:
    """Which comparators (rounds, n − 1) can swap, given which neighbours (n − 1) tie.

    Each run of r tied entries gets its own network of r rounds, aligned to its first entry. Also
    returns the number of rounds that the longest run needs.
    """
    active = np.zeros((rounds, near.size), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(int), [0]])))
    needed = 1
    for start, stop in edges.reshape(-1, 2):
        depth = 1 if stop - start == 1 else stop - start + 1
        needed = max(needed, depth)
        for t in range(min(depth, rounds)):
            active[t, start + t % 2 : stop : 2] = True
    return active, needed


def _rounds(step: Any, planner: Any) -> int:
    return min(planner.sort_rounds, step.eqn.invars[0].aval.shape[step.eqn.params["dimension"]])


def _sites(step: Any, planner: Any) -> Sequence[SiteSpec]:
    if step.eqn.params["num_keys"] > 1 or any(step.in_varied[1:]) or not step.in_varied[0]:
        raise UnsupportedOperationError(
            f"{step.location}: the calculus sorts by one varied key, and carries along nothing that varies. "
            "Sort each array on its own."
        )
    shape = list(step.eqn.invars[0].aval.shape)
    n = shape.pop(step.eqn.params["dimension"])
    neighbours = (*shape, max(n - 1, 0))
    sites: list[SiteSpec] = [("sort", "sort", (_rounds(step, planner), *neighbours), None)]
    if any(step.felt[1:]):  # where the entries went is used: that jumps at a tie
        sites.append(("argsort", "jump", neighbours, None))
    return sites


def _run(tape: Any, step: Any, *operands: Any) -> list[Any]:
    axis = step.eqn.params["dimension"]
    outs = list(step.eqn.primitive.bind(*operands, **step.eqn.params))
    order = value = jnp.moveaxis(outs[0], axis, -1)
    size: Any = 0.0
    if tape.measures:
        size = 2 * jnp.max(jnp.moveaxis(tape.size(0), axis, -1), axis=-1, keepdims=True)
    pairs = jnp.arange(max(value.shape[-1] - 1, 0))
    for t in range(step.slots[0][0]):
        z = order[..., 1:] - order[..., :-1]
        q, r = tape.kink(z, jnp.broadcast_to(size, z.shape), 1.0)
        q = tape.comparator(q, (pairs + t) % 2 == 0)
        exchanged = cut((1 - q) * z, -1, r)
        moved = order.at[..., :-1].add(exchanged).at[..., 1:].add(-exchanged)
        order = carrying(value, moved)
    if any(step.felt[1:]):
        tape.jump(jnp.abs(value[..., 1:] - value[..., :-1]), 1.0)
    outs[0] = jnp.moveaxis(order, -1, axis)
    return outs


def _size(step: Any, sizes: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
    largest = jnp.max(sizes[0], axis=step.eqn.params["dimension"], keepdims=True)
    return [jnp.broadcast_to(largest, outs[0].shape), *[None] * (len(outs) - 1)]


register("sort", Entry(_sites, _run, size=_size))
