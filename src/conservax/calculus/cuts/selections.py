"""Do the two sides of a comparison meet wherever it ties nearby, on the sides that its other kinks take there?

At a selection D of the other kinks the sides differ by g · ẋ and the comparison's increment is s · ẋ, to first
order; the kinks keep these sides where their own increments c · ẋ have the signs of D. The sides part if some
ẋ with s · ẋ = 0 and those signs has g · ẋ ≠ 0: a linear program.
"""

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import scipy

from ...errors import DiscontinuousError
from ..sets.abs_normal import Kink

_TRIALS = 8
_DIRECTIONS = 24


def meets(rows: np.ndarray, switch: np.ndarray, small: float, scale: float | None = None) -> bool:
    """Whether pieces meet wherever the comparison ties: they differ by a multiple of its increment.

    ``scale``: of the terms that made the rows, if not that of the rows.
    """
    scale = float(np.linalg.norm(rows)) if scale is None else scale
    square = float(switch @ switch)
    multiples = np.outer(rows @ switch / square, switch) if square else np.zeros_like(rows)
    return bool(np.linalg.norm(rows - multiples) <= small * scale)


def refuse_jump_nearby(kink: Kink) -> NoReturn:
    """Raise where the sides of a comparison part at ties next to the point."""
    raise DiscontinuousError(
        f"{kink.location}: the sides of this {kink.operation} agree at this point, but not wherever its "
        "comparison ties: the program jumps nearby. Make them agree there, or move the point off the tie."
    )


@dataclass(frozen=True)
class Selections:
    """Extreme selections of a program's kinks, some at random and those that random directions ask for.

    ``increments`` (k, n + k) of the cut places; ``switches`` (n + k,) of comparisons; ``members``: of each
    owner the places that it steers; ``place_of``: of a slot; ``ties``: the owners that choose one of several.
    """

    increments: np.ndarray
    switches: Mapping[int, np.ndarray]
    members: Mapping[int, Sequence[int]]
    place_of: Mapping[int, int]
    ties: Set[int]

    def part(self, rows: np.ndarray, switch: np.ndarray, small: float, owner: int) -> bool:
        """Whether a selection was found at which the pieces (b, n + k) of an owner part where it ties."""
        return any(
            not meets(rows @ change, switch @ change, small)
            and self._reached(weights, change, rows @ change, switch @ change, small, owner)
            for weights, change in self._changes
        )

    @functools.cached_property
    def _changes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights (k,), and how inputs and cuts change with the inputs there, (n + k, n)."""
        k = len(self.increments)
        n = self.increments.shape[1] - k
        if not k:
            return [(np.zeros(0), np.eye(n))]
        found = []
        for weights in np.unique([*self._at_random(k), *self._along_directions(k, n)], axis=0):
            passed = weights[:, None] * self.increments
            inner = np.linalg.solve(np.eye(k) - passed[:, n:], passed[:, :n])
            found.append((weights, np.vstack([np.eye(n), inner])))
        return found

    def _at_random(self, k: int) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        trials = np.zeros((_TRIALS, k))
        for trial, weights in enumerate(trials):
            for owner, places in self.members.items():
                on = trial == 1 or (trial > 1 and rng.uniform() < 0.5)
                weights[rng.choice(places) if owner in self.ties else list(places)] = on
        return list(trials)

    def _along_directions(self, k: int, n: int) -> list[np.ndarray]:
        """What directions ask for: executions of one operation take one side, as they do nearby."""
        if np.any(np.triu(self.increments[:, n:])):  # the kinks of a solve see each other
            return []
        half = np.random.default_rng(1).normal(size=(n, _DIRECTIONS // 2))
        moved = np.vstack([np.hstack([half, -half]), np.zeros((k, _DIRECTIONS))])
        weights = np.zeros((k, _DIRECTIONS))
        owner_of = {place: owner for owner, places in self.members.items() for place in places}
        for place in range(k):
            owner = owner_of.get(place)
            if owner is None:
                continue
            if owner not in self.ties:
                weights[place] = self._deciding(owner) @ moved > 0
            elif place == max(self.members[owner]):
                places = list(self.members[owner])
                z = self.increments[places] @ moved
                largest = np.arange(len(places))[:, None] == np.argmax(z, axis=0)
                weights[places] = largest & (z > 0)
                moved[[n + p for p in places]] = weights[places] * z
                continue
            moved[n + place] = weights[place] * (self.increments[place] @ moved)
        return list(weights.T)

    def _deciding(self, owner: int) -> np.ndarray:
        """The increment whose sign decides the side of an owner that is no tie."""
        own = self.switches.get(owner)
        return self.increments[self.place_of[owner]] if own is None else own

    def _reached(
        self,
        weights: np.ndarray,
        change: np.ndarray,
        gaps: np.ndarray,
        switch: np.ndarray,
        small: float,
        tested: int,
    ) -> bool:
        """Whether the pieces part at an ẋ where the comparison ties and all others keep their sides."""
        signs = [np.zeros((0, change.shape[1]))]
        for owner, places in self.members.items():
            if owner == tested:
                continue
            if owner not in self.ties:
                row = self._deciding(owner) @ change
                signs.append(-row[None] if weights[places[0]] else row[None])
                continue
            z = self.increments[list(places)] @ change
            chosen = [z[i] for i, p in enumerate(places) if weights[p]]
            signs.append(z - chosen[0] if chosen else z)
            if chosen:
                signs.append(-chosen[0][None])
        below = np.concatenate(signs)
        floor = small * float(np.linalg.norm(gaps))
        for gap in (*gaps, *-gaps):
            if np.linalg.norm(gap) <= floor:
                continue
            found = scipy.optimize.linprog(
                -gap, below, np.zeros(len(below)), switch[None], [0.0], (-1.0, 1.0)
            )
            if found.status != 0 or -found.fun > floor:
                return True
        return False
