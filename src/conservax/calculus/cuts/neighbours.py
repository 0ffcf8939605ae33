"""Does a program jump next to a point at which its pieces meet? Points where the comparison ties are asked.

Pieces may agree at x, and to first order, and yet part: ``where(x₀ > 0, x₁², 0)`` jumps by x₁² along x₀ = 0,
and has no conservative Jacobian at the origin. With s(x) the increment of a comparison that ties at x,
neighbours x' = x + t u + O(t²) with s'(x) u = 0 are put back on s(x') = 0 by Newton's method; the jump is the
part of F(x' + ε w) − F(x' − ε w), s'(x) w > 0, that does not vanish with ε. One that stays as t shrinks, as a
power of t, is a jump at points as near as one likes; one that is gone at the next scale is another kink's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import DiscontinuousError
from ..sets.abs_normal import Kink

_FURTHEST, _RATIO = 0.1, 8.0  # of the neighbours, relative to the inputs; each scale to the next
_NEAREST = 256.0  # units in the last place
_ALONE = 3  # so many comparisons are asked one by one, more in random halves
_HALVINGS = 2
_NEWTON = 12
_ROUND_OFF = 64.0  # units in the last place of the terms that made an output
_LIPSCHITZ = 4.0  # times the change on either side: what is no jump
_POWERS = (0.5, 8.0)  # of t, between which the growth of a jump is believed


class Look(NamedTuple):
    """The outputs of the program at a point, the sizes of their terms, the increments of the comparisons."""

    outputs: np.ndarray
    sizes: np.ndarray
    increments: np.ndarray


class Jump(NamedTuple):
    """What each output jumps by across a tie at a neighbour, 0 where that is below the floor of rounding."""

    heights: np.ndarray
    floor: np.ndarray
    judged: bool  # whether both sides of the tie were reached


def refuse_jumps_nearby(
    look: Callable[[np.ndarray], Look],
    x: np.ndarray,
    scale: np.ndarray,
    switches: np.ndarray,
    epsilon: float,
    kink_at: Callable[[int], Kink],
) -> None:
    """Raise DiscontinuousError where the program is seen to jump at ties as near to ``x`` (n,) as one likes.

    ``switches`` (c, n) are the gradients of the comparisons' increments, ``kink_at(i)`` describes the i-th.
    ``scale`` (n,) is that of the inputs.
    """
    slopes = switches * scale
    distinct = _distinct(slopes)
    rng = np.random.default_rng(0)
    for group in _groups(distinct, rng):
        rows = slopes[group]
        back = _pseudo_inverse(rows)
        along = rng.normal(size=x.size)
        length = np.abs(along).max()
        along = along - back @ (rows @ along)
        along = along - back @ (rows @ along)
        if np.abs(along).max() <= 1e-6 * length:
            continue  # every neighbour leaves a tie
        across = back @ np.linalg.norm(rows, axis=1)
        for u in (along, -along):
            tied = _Tied(look, x, scale, group, rows, back, u / np.abs(u).max(), epsilon)
            seen = _persistent(tied.jump, epsilon, across)
            if seen is not None:
                t, height = seen
                ways = back * np.linalg.norm(rows, axis=1)  # across one comparison alone
                heights = [tied.jump(t, way).heights.max(initial=0.0) for way in ways.T]
                _refuse(kink_at(group[int(np.argmax(heights))]), height, tied.at(t).x - x)


def _refuse(kink: Kink, height: float, change: np.ndarray) -> None:
    few = change.size <= 8
    where = (
        f"where its inputs change by [{', '.join(f'{c:.3g}' for c in change)}]"
        if few
        else f"where an input changes by {np.abs(change).max():.3g}"
    )
    raise DiscontinuousError(
        f"{kink.location}: the sides of this {kink.operation} agree at this point, but not wherever its "
        f"comparison ties: the program jumps by {height:.3g} {where}, and by less next to the point. Make the "
        "sides agree there, or move the point off the tie."
    )


def _pseudo_inverse(rows: np.ndarray) -> np.ndarray:
    """Of rows of any lengths, by the angles between them."""
    lengths = np.linalg.norm(rows, axis=1)
    units = rows / lengths[:, None]
    return units.T @ np.linalg.pinv(units @ units.T, rcond=1e-10, hermitian=True) / lengths


def _distinct(slopes: np.ndarray) -> list[int]:
    """Of rows that are multiples of each other the first; none of zeros."""
    found: dict[bytes, int] = {}
    for i, row in enumerate(slopes):
        length = np.linalg.norm(row)
        if not np.isfinite(length) or length == 0:
            continue
        unit = row / length
        unit = np.round(unit * np.sign(unit[np.argmax(np.abs(unit))]), 6) + 0.0
        found.setdefault(unit.tobytes(), i)
    return list(found.values())


def _groups(members: Sequence[int], rng: np.random.Generator) -> Iterator[list[int]]:
    """Comparisons whose ties are kept together: each alone, or random halves of many."""
    if len(members) <= _ALONE:
        yield from ([i] for i in members)
        return
    for _ in range(_HALVINGS):
        mixed = [int(i) for i in rng.permutation(members)]
        yield mixed[: len(mixed) // 2]
        yield mixed[len(mixed) // 2 :]


def _persistent(
    jump: Callable[[float, np.ndarray], Jump], epsilon: float, across: np.ndarray
) -> tuple[float, float] | None:
    """The largest distance and height of a jump that is seen at two scales or more, and while it would show."""
    t, seen, which = _FURTHEST, [], 0
    while t >= _NEAREST * epsilon:
        now = jump(t, across)
        if now.judged:
            if not seen:
                which = int(np.argmax(now.heights))
            height = float(now.heights[which])
            if not height and len(seen) < 2:
                return None
            if len(seen) > 1:
                (before, high), (last, low) = seen[-2:]
                power = np.log(high / low) / np.log(before / last)
                if not _POWERS[0] <= power <= _POWERS[1]:
                    return None
                if not height:
                    hidden = low * (t / last) ** (power + 0.5) <= now.floor[which]
                    return seen[0] if hidden else None
            seen.append((t, height))
        elif not seen and t < _FURTHEST / _RATIO**2:
            return None  # another entry leads in this direction
        t /= _RATIO
    return seen[0] if len(seen) > 1 else None


class _Tied:
    """Neighbours at which a group of comparisons ties, in a direction ``u`` along their ties."""

    def __init__(
        self,
        look: Callable[[np.ndarray], Look],
        x: np.ndarray,
        scale: np.ndarray,
        group: list[int],
        rows: np.ndarray,
        back: np.ndarray,
        u: np.ndarray,
        epsilon: float,
    ) -> None:
        self.look, self.x, self.scale, self.group = look, x, scale, group
        self.rows, self.back, self.u, self.epsilon = rows, back, u, epsilon
        self.lengths = np.linalg.norm(rows, axis=1)

    def at(self, t: float) -> "_Neighbour":
        """The neighbour at distance t, put back on the ties."""
        move, signs = t * self.u, np.ones(len(self.group))
        best = _Neighbour(move, np.zeros(0), np.full(len(self.group), np.inf))
        for _ in range(_NEWTON):
            here = self.look(self.x + self.scale * move)
            z = here.increments[self.group]
            grown = np.abs(z) > 1.5 * np.abs(best.left)
            if np.abs(z).max() < np.abs(best.left).max():
                best = _Neighbour(move, here.outputs, z)
            elif not np.any(grown):
                break
            else:  # which of two entries leads is not seen: the step went the wrong way
                signs = np.where(grown, -signs, signs)
            if np.all(np.abs(best.left) <= 4 * self.epsilon * self.lengths):
                break
            if not np.all(np.isfinite(best.left)):
                break
            move = best.x - self.back @ (signs * best.left)
        return best._replace(x=self.x + self.scale * best.x)

    def jump(self, t: float, across: np.ndarray) -> Jump:
        """What the outputs jump by there."""
        at = self.at(t)
        step = max(t * self.epsilon ** (2 / 3), 16 * self.epsilon)
        far, near, opposite, beyond = (
            self.look(at.x + s * step * self.scale * across) for s in (2, 1, -1, -2)
        )
        # an extremum's leader is never behind: increments tell by their size that the tie lies between
        sides = [np.abs(each.increments[self.group]) for each in (near, opposite)]
        crossed = np.minimum(*sides) > np.maximum(4 * np.abs(at.left), step * self.lengths / 4)
        none = np.zeros_like(near.outputs)
        if not np.any(crossed):
            return Jump(none, none, False)
        with np.errstate(invalid="ignore"):
            gap = np.abs(near.outputs - opposite.outputs)
            if not np.any(at.left):  # the value at the tie itself must agree, too
                apart = [np.abs(at.outputs - each.outputs) for each in (near, opposite)]
                gap = np.maximum(gap, np.maximum(*apart))
            slope = np.abs(far.outputs - near.outputs) + np.abs(opposite.outputs - beyond.outputs)
            floor = _ROUND_OFF * self.epsilon * (near.sizes + opposite.sizes) + _LIPSCHITZ * slope
            known = bool(np.all(np.isfinite(gap - floor)))
        if not known:
            return Jump(none, none, False)
        return Jump(np.where(gap > floor, gap, 0.0), floor, True)


class _Neighbour(NamedTuple):
    """A point, the outputs there, and what Newton's method left of the increments."""

    x: np.ndarray
    outputs: np.ndarray
    left: np.ndarray
