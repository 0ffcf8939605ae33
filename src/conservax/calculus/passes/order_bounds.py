"""Entries never below the smallest of some entries that tie, nor above the largest of them.

In ``where(x >= sort(x)[-k], x, 0)`` the k-th largest may tie with entries that are chosen too. Near the point
the sorted places of entries that tie keep these entries: the first of the places holds their minimum, the
last their maximum. No entry of theirs falls below the one or exceeds the other, so that a comparison which
counts equality to the side that is left decides nothing.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from ..operations.tape import Tape
from ..tracing.program import Step


class Ties(NamedTuple):
    """A sort: which neighbours (..., n − 1) tie, along which axis of the result.

    ``members`` (..., n): the numbers (``copies.py``) of the entries at the places, ``start``: that of the
    first place itself, halved.
    """

    start: int
    tied: Any
    members: Any
    axis: int


class Runs(NamedTuple):
    """The places of a sort, flat as in its result: whether they are the first or last of a run, which run."""

    start: int
    first: Any
    last: Any
    run: Any
    members: Any


def remember(step: Step, tied: Any, members: Any, axis: int, tape: Tape) -> None:
    """Keep what a comparison further on may ask for."""
    if members.shape[-1] > 1:
        tape.runs.append(Ties(step.own_entries, tied, members, axis))


def _runs(ties: Ties) -> Runs:
    edge = jnp.ones((*ties.tied.shape[:-1], 1), bool)
    first = jnp.concatenate([edge, ~ties.tied], -1)
    last = jnp.concatenate([~ties.tied, edge], -1)
    run = jnp.cumsum(jnp.ravel(first), dtype=jnp.int32).reshape(first.shape)

    def flat(part: Any) -> Any:
        return jnp.ravel(jnp.moveaxis(part, -1, ties.axis))

    return Runs(ties.start, *map(flat, (first, last, run, ties.members)))


def never_crossed(entry: Any, place: Any, tape: Tape) -> tuple[Any, Any]:
    """Where numbered entries are never below, and never above, what stands at numbered places of a sort."""
    never_below: Any = jnp.zeros(entry.shape, bool)
    never_above: Any = jnp.zeros(entry.shape, bool)
    mirrored = (place & 1) == 1  # −entry at a place of the sort: both change their sign
    entry = jnp.where(mirrored & (entry > 0), entry ^ 1, entry)
    for found in map(_runs, tape.runs):
        at = (place >> 1) - found.start
        known = (place > 0) & (entry > 0) & (at >= 0) & (at < found.run.size)
        at = jnp.clip(at, 0, found.run.size - 1)
        order = jnp.argsort(found.members)
        members = found.members[order]
        where = jnp.clip(jnp.searchsorted(members, entry), 0, members.size - 1)
        known &= (members[where] == entry) & (found.run[order][where] == found.run[at])
        low, high = known & found.first[at], known & found.last[at]
        never_below |= jnp.where(mirrored, high, low)
        never_above |= jnp.where(mirrored, low, high)
    return never_below, never_above
