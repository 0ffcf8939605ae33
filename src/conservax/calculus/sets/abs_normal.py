"""The abs-normal form at a point: the linearised program, cut at its active kinks.

    ż = E ẋ + L r,    Ḟ = A ẋ + H r,    r = D ż,    D = diag(weights)

(Griewank, Bernt, Radons, Streubel, LAA 2015; docs/theory.md#the-abs-normal-form.) Rows and columns
belong to active kinks alone. A scalar kink has one weight q in [0, 1]; an r-way tie has r weights on
the simplex, of which the leader's is implied, so that it has r − 1 columns; a norm at 0 has one column
an entry and weights in the Euclidean unit ball.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import NotPolyhedralError, SelectionError
from ..tracing.locations import Location


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

    ``kind`` says where the weights live: "segment" (one q in [0, 1] for all columns), "simplex" (r
    weights that sum to 1, the leader's without a column) or "ball" (one weight a column, ‖w‖₂ ≤ 1);
    left out, it follows from ``kink.ways``. ``leader`` is the place, among a tie's weights, of the
    entry that the base selection follows. ``switch``, n + k numbers, gives the increment ṡ of the
    comparison that steers the columns, ṡ = switch · (ẋ, r), where it is not a column's own: q = 1
    where ṡ > 0. ``on_switch`` marks an equality, whose q = 1 holds where ṡ = 0 and in no direction.
    """

    kink: Kink
    columns: tuple[int, ...]
    jax: tuple[float, ...]
    leader: int = 0
    kind: str = ""
    switch: np.ndarray | None = field(default=None, compare=False)
    on_switch: bool = False

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", "segment" if self.kink.ways == 1 else "simplex")

    @property
    def ways(self) -> int:
        """The number of weights."""
        return len(self.columns) if self.kind == "ball" else self.kink.ways

    @property
    def places(self) -> tuple[int, ...]:
        """For each column the place of its weight: q for all of a scalar kink, all but a tie's leader's."""
        if self.kind == "segment":
            return (0,) * len(self.columns)
        return tuple(p for p in range(self.ways) if self.kind == "ball" or p != self.leader)

    def vertices(self) -> Iterator[tuple[float, ...]]:
        """The extreme weights: 0 and 1 for a scalar kink, the unit vectors for a tie.

        Raises NotPolyhedralError for a ball.
        """
        if self.kind == "ball":
            raise NotPolyhedralError(
                f"{self.kink}: the derivatives of a norm at 0 fill a ball, which has no finite list of "
                "vertices. Use .bounds, .sample, .element, .contains or .distance."
            )
        if self.kind == "segment":
            yield from ((0.0,), (1.0,))
        else:
            yield from (tuple(float(i == j) for j in range(self.ways)) for i in range(self.ways))

    def named(self, name: str) -> tuple[float, ...]:
        """The weights of "jax", "lower" or "upper", as ``select`` takes them; a norm has one choice."""
        if name == "jax" or self.kind == "ball":
            return self.jax
        return list(self.vertices())[-1 if name == "upper" else 0]

    def check(self, weights: np.ndarray) -> None:
        """Raise SelectionError where ``weights`` leave the segment, the simplex or the ball."""
        if self.kind == "ball":
            length = np.linalg.norm(weights)
            if not length <= 1 + 1e-9:
                raise SelectionError(
                    f"the weights of {self.kink} have length {length}, more than 1 (or NaN)."
                )
            return
        if not np.all((weights >= 0) & (weights <= 1)):
            raise SelectionError(f"q has weights outside [0, 1] (or NaN) at {self.kink}.")
        if self.kind == "simplex" and abs(weights.sum() - 1) > 1e-9:
            raise SelectionError(
                f"the {self.ways} weights of the tie {self.kink} sum to {weights.sum()}, not 1."
            )

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniform weights, (count, ways)."""
        if self.kind == "segment":
            return rng.uniform(size=(count, 1))
        if self.kind == "simplex":
            return rng.dirichlet(np.ones(self.ways), size=count)
        normal = rng.normal(size=(count, self.ways))
        radius = rng.uniform(size=(count, 1)) ** (1 / self.ways)
        return radius * normal / np.linalg.norm(normal, axis=1, keepdims=True)


@dataclass(frozen=True)
class AbsNormal:
    """Matrices A (m, n), H (m, k), E (k, n), L (k, k) in float64, with the kinks they were cut at.

    ``nearest_inactive`` is the kink that would become active next; ``dtype`` the user's precision;
    ``given_rules`` the user's own derivative rules, taken as they are; ``roots`` the solves inside the
    program, each with the form of its residual's derivative in its own unknowns, where these were asked for.
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
        """D's diagonal for flat weights, kinks in execution order; batched over leading axes."""
        index = np.zeros(self.L.shape[0], dtype=np.int64)
        at = 0
        for group in self.groups:
            index[list(group.columns)] = at + np.array(group.places, dtype=np.int64)
            at += group.ways
        return np.asarray(weights, dtype=np.float64)[..., index]

    def jacobian(self, diagonal: np.ndarray) -> np.ndarray:
        """A + H (I − D L)⁻¹ D E, batched over leading axes of ``diagonal``."""
        passing = np.flatnonzero(np.any(diagonal != 0, axis=tuple(range(diagonal.ndim - 1))))
        if passing.size == 0:
            return np.broadcast_to(self.A, (*diagonal.shape[:-1], *self.A.shape)).copy()
        d = diagonal[..., passing, None]  # what a kink does not pass on, no one sees
        system = np.eye(passing.size) - d * self.L[np.ix_(passing, passing)]
        r = np.linalg.solve(system, d * self.E[passing])
        return self.A + self.H[:, passing] @ r

    def restricted(self, columns: slice | np.ndarray) -> "AbsNormal":
        """The form of the derivative in some of the inputs only."""
        n = self.A.shape[1]
        groups = tuple(
            g
            if g.switch is None
            else replace(g, switch=np.concatenate([g.switch[:n][columns], g.switch[n:]]))
            for g in self.groups
        )
        return replace(self, A=self.A[:, columns], E=self.E[:, columns], groups=groups)

    def compressed(self, kept: int) -> "AbsNormal":
        """The form with the inputs beyond the first ``kept`` in other coordinates, at most one a row.

        Rows [A; E; switches] of those inputs are X = R Q with orthonormal rows of Q, and R stands in
        their place: the norms and ranks of all elements are the same.
        """
        switches = [g.switch for g in self.groups if g.switch is not None]
        n = self.A.shape[1]
        rows = np.vstack([self.A, self.E, *(s[None, :n] for s in switches)])[:, kept:]
        if rows.shape[1] <= rows.shape[0]:
            return self
        felt = np.any(rows != 0, axis=1)
        few = rows[np.ix_(felt, np.any(rows[felt] != 0, axis=0))]
        triangle = np.asarray(np.linalg.qr(few.T, mode="r")).T
        R = np.zeros((len(rows), triangle.shape[1]))
        R[felt] = triangle
        m, k = self.A.shape[0], self.E.shape[0]
        moved = iter(R[m + k :])
        groups = tuple(
            g
            if g.switch is None
            else replace(g, switch=np.concatenate([g.switch[:kept], next(moved), g.switch[n:]]))
            for g in self.groups
        )
        return replace(
            self,
            A=np.hstack([self.A[:, :kept], R[:m]]),
            E=np.hstack([self.E[:, :kept], R[m : m + k]]),
            groups=groups,
        )

    def moving(self) -> tuple[int, ...]:
        """The groups whose weights change anything: those that some column of H or L, and row, sees."""
        reaches = np.any(self.H != 0, axis=0) | np.any(self.L != 0, axis=0)
        sees = np.any(self.E != 0, axis=1) | np.any(self.L != 0, axis=1)
        effective = reaches & sees
        return tuple(i for i, g in enumerate(self.groups) if any(effective[c] for c in g.columns))

    def deciding(self) -> tuple[int, ...]:
        """The groups that move anything, and those from which the comparisons of such groups follow.

        A kink of a quantity that is only compared moves no element, but decides the side of a direction.
        """
        n = self.A.shape[1]
        chosen = set(self.moving())
        waiting = list(chosen)
        while waiting:
            group = self.groups[waiting.pop()]
            seen = np.any(self.L[list(group.columns)] != 0, axis=0)
            if group.switch is not None:
                seen |= group.switch[n:] != 0
            new = {i for i, g in enumerate(self.groups) if np.any(seen[list(g.columns)])} - chosen
            chosen |= new
            waiting.extend(new)
        return tuple(sorted(chosen))

    def order(self) -> tuple[int, ...] | None:
        """An order of the groups in which each sees earlier ones only; None if some see each other.

        A program's own form has one (L is strictly lower triangular); an implicit function's may not.
        """
        columns = [c for g in self.groups for c in g.columns]
        switched = any(g.switch is not None for g in self.groups)
        if columns == sorted(columns) and not switched and not np.any(np.triu(self.L)):
            return tuple(range(len(self.groups)))
        waiting = dict(enumerate(self.groups))
        sorted_groups: list[int] = []
        while waiting:
            open_columns = [c for g in waiting.values() for c in g.columns]
            coupled = np.any(self.L[:, open_columns] != 0, axis=1)
            for g in self.groups:  # a comparison's own increment may see other kinks
                if g.switch is not None and np.any(g.switch[self.A.shape[1] :][open_columns] != 0):
                    coupled[list(g.columns)] = True
            free = [i for i, g in waiting.items() if not np.any(coupled[list(g.columns)])]
            if not free:
                return None
            for i in free:
                del waiting[i]
            sorted_groups.extend(free)
        return tuple(sorted_groups)
