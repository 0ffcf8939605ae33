"""The abs-normal form at a point: the linearised program, cut at its active kinks.

    ż = E ẋ + L r,    Ḟ = A ẋ + H r,    r = D ż,    D = diag(weights)

(Griewank, Bernt, Radons, Streubel, LAA 2015; THEORY §0.) Rows and columns belong to active kinks
alone. A scalar kink has one weight q in [0, 1]; an r-way tie has r weights on the simplex, of which
the leader's is implied, so that it has r − 1 columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .locations import Location


@dataclass(frozen=True)
class Kink:
    """A nonsmooth operation as executed: where it stands and how far from its kink.

    ``distance`` is |z| in the operand's units and ``tolerance`` the bound it was held against;
    ``slopes`` are those on z < 0 and z > 0 (None for a ``where``, whose slopes are its branches');
    ``ways`` is 1 for a scalar kink and r for an r-way tie, the number of weights it takes.
    """

    operation: str
    location: Location
    index: tuple[int, ...]
    distance: float
    tolerance: float
    slopes: tuple[float, float] | None
    active: bool
    ways: int = 1

    @property
    def file(self) -> str:
        return self.location.file

    @property
    def line(self) -> int:
        return self.location.line

    @property
    def margin(self) -> float:
        """How far beyond its tolerance the kink stands, in the operand's units (0 if active)."""
        return max(0.0, self.distance - self.tolerance)

    def __str__(self) -> str:
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.operation}{index} at {self.location.short}"


@dataclass(frozen=True)
class Group:
    """The columns that one kink moves, and the weights that JAX gives it.

    ``kind``: "segment" (q in [0, 1]), "simplex" (a tie), "ball" (w with ‖w‖₂ ≤ 1, a norm at 0).
    ``leader`` is the place, among a tie's weights, of the entry that the base selection follows.
    ``switch``, of a segment with several columns, is its comparison's increment: a row over (x, r).
    """

    kink: Kink
    columns: tuple[int, ...]
    jax: tuple[float, ...]
    leader: int = 0
    kind: str = "segment"
    switch: np.ndarray | None = None

    @property
    def ways(self) -> int:
        return self.kink.ways

    def column_weights(self, weights: Sequence[float]) -> Sequence[float]:
        """Diagonal entries of D: q for every column of a scalar kink, all but the leader's of a tie."""
        if self.ways == 1:
            return [weights[0]] * len(self.columns)
        return [w for place, w in enumerate(weights) if place != self.leader]

    def vertices(self) -> Iterator[tuple[float, ...]]:
        """The extreme weights: 0 and 1 for a scalar kink, the unit vectors for a tie."""
        if self.ways == 1:
            yield from ((0.0,), (1.0,))
        else:
            yield from (tuple(float(i == j) for j in range(self.ways)) for i in range(self.ways))


@dataclass(frozen=True)
class AbsNormal:
    """Matrices A (m, n), H (m, k), E (k, n), L (k, k) in float64, with the kinks they were cut at.

    ``nearest_inactive`` is the kink that would become active next; ``dtype`` the user's precision;
    ``given_rules`` the user's own derivative rules, taken as they are; ``roots`` the solves inside the
    program, each with the form of its residual's derivative in its own unknowns.
    """

    A: np.ndarray
    H: np.ndarray
    E: np.ndarray
    L: np.ndarray
    groups: tuple[Group, ...]
    nearest_inactive: Kink | None
    dtype: Any
    given_rules: tuple[tuple[str, Location], ...] = ()
    roots: tuple[tuple[Location, "AbsNormal"], ...] = ()

    @property
    def kinks(self) -> tuple[Kink, ...]:
        return tuple(g.kink for g in self.groups)

    @property
    def weight_count(self) -> int:
        """Length of a flat selection: one weight a scalar kink, r an r-way tie."""
        return sum(g.ways for g in self.groups)

    def diagonal(self, weights: np.ndarray) -> np.ndarray:
        """D's diagonal for flat weights, kinks in execution order."""
        diagonal = np.zeros(self.L.shape[0])
        at = 0
        for group in self.groups:
            diagonal[list(group.columns)] = group.column_weights(
                list(weights[at : at + group.ways])
            )
            at += group.ways
        return diagonal

    def jacobian(self, diagonal: np.ndarray) -> np.ndarray:
        """A + H (I − D L)⁻¹ D E, batched over leading axes of ``diagonal``."""
        k = self.L.shape[0]
        if k == 0:
            return np.broadcast_to(self.A, (*diagonal.shape[:-1], *self.A.shape)).copy()
        system = np.eye(k) - diagonal[..., :, None] * self.L
        r = np.linalg.solve(system, diagonal[..., :, None] * self.E)
        return self.A + self.H @ r

    def restricted(self, columns: slice | np.ndarray) -> "AbsNormal":
        """The form of the derivative in some of the inputs only."""
        return replace(self, A=self.A[:, columns], E=self.E[:, columns])

    def moving(self) -> tuple[int, ...]:
        """The groups whose weights change anything: those that some column of H or L, and row, sees."""
        reaches = np.any(self.H != 0, axis=0) | np.any(self.L != 0, axis=0)
        sees = np.any(self.E != 0, axis=1) | np.any(self.L != 0, axis=1)
        effective = reaches & sees
        return tuple(i for i, g in enumerate(self.groups) if any(effective[c] for c in g.columns))
