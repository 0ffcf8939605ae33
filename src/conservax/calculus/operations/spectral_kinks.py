"""What equal eigenvalues and singular values, or vanishing ones, mean for the cut program.

Of the matrix b = QᵀȦQ that r equal values move by, only what the program sees of their differences
matters: nothing if it sees their sum alone; one scalar kink or a ball for two of them; a tie for the
largest or the smallest, or sorted entries, where the matrices b commute. All else is refused
(docs/theory.md#spectra).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import UnsupportedOperationError
from ...numerics import machine_epsilon
from ..tracing.program import Program, Site
from .spectra import EIGENVALUES

_TOLERANCE = 256.0  # round-offs, relative to the largest number of the same kind


@dataclass
class Meeting:
    """Values that meet: ``slots`` (r, r) of their matrix b in ascending order, or (rows, r) at 0.

    Filled in by ``resolve``: the increments ``rows`` of the new columns, which old columns each of them
    stands for (``units``: places and weights), and the group's ``kind``, ``leader`` and JAX's weights.
    """

    site: Site
    slots: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    units: list[tuple[list[int], np.ndarray]] = field(default_factory=list)
    kinds: list[tuple[str, int, tuple[float, ...], int]] = field(default_factory=list)

    @property
    def owner(self) -> int:
        return int(self.slots.min())

    @property
    def multiplicity(self) -> int:
        return self.slots.shape[1]


def activate_spectra(program: Program, near: np.ndarray, active: np.ndarray) -> None:
    """All entries of the matrices of values that meet, given which neighbours do (or which vanish)."""
    for site in program.sites:
        if site.kind not in ("spectrum", "null") or not near[site.slots()].any():
            continue
        for slots in _matrices(site):
            if site.kind == "null":
                active[slots[:, near[slots[0]]]] = True
                continue
            for start, stop in _runs(near[np.diagonal(slots)][:-1]):
                active[slots[start:stop, start:stop]] = True


def meetings_of(program: Program, active: np.ndarray) -> list[Meeting]:
    """The values that meet, in execution order, given which slots are active."""
    found = []
    for site in program.sites:
        if site.kind not in ("spectrum", "null") or not active[site.slots()].any():
            continue
        for slots in _matrices(site):
            if site.kind == "null":
                vanishing = active[slots[0]]
                if vanishing.any():
                    found.append(Meeting(site, slots[:, vanishing]))
                continue
            for start, stop in _runs(active[np.diagonal(slots, 1)]):
                own = slots[start:stop, start:stop]
                found.append(
                    Meeting(site, own if site.operation == EIGENVALUES else own[::-1, ::-1])
                )
    return sorted(found, key=lambda m: m.owner)


def _matrices(site: Site) -> np.ndarray:
    return site.slots().reshape(-1, *site.shape[-2:])


def _runs(linked: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of places of which each is linked to the next."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], linked.astype(int), [0]])))
    return [(int(a), int(b) + 1) for a, b in edges.reshape(-1, 2)]


def resolve(
    jacobian: np.ndarray,
    first_increment: int,
    n: int,
    place_of: dict[int, int],
    meetings: Sequence[Meeting],
    dtype: np.dtype,
) -> np.ndarray:
    """Give each meeting its kinks; returns the Jacobian at the base selection of these.

    Rows of ``jacobian``: outputs, increments from ``first_increment`` on, switches; columns: n inputs,
    then the cuts, both in the order of ``place_of``. Raises UnsupportedOperationError for meetings whose
    set has no weights here.
    """
    if not meetings:
        return jacobian
    jacobian = jacobian.copy()
    for meeting in meetings:
        places = np.vectorize(place_of.__getitem__)(meeting.slots)
        b = jacobian[first_increment + places]  # (rows, r, n + k)
        small = _TOLERANCE * machine_epsilon(dtype)
        maker = _Vanishing if meeting.site.kind == "null" else _Equal
        base = maker(meeting, b, jacobian[:, n:], places, small).run()
        for place, row in base:
            jacobian = jacobian + np.outer(jacobian[:, n + place], row)
    return jacobian


Base = list[tuple[int, np.ndarray]]  # what a cut carries at the base selection, by its place


class _Kinks:
    """The kinks of one meeting: ``run`` fills them in and returns the base."""

    def __init__(
        self, meeting: Meeting, b: np.ndarray, effects: np.ndarray, places: np.ndarray, small: float
    ) -> None:
        self.meeting, self.b, self.places, self.small = meeting, b, places, small
        self.own = places[0] if meeting.site.kind == "null" else np.diagonal(places)
        self.effects = effects[:, self.own]  # of each value's own cut on everything
        self.width = b.shape[-1]
        self.inputs = self.width - effects.shape[1]

    def run(self) -> Base:
        raise NotImplementedError

    def vanishes(self, a: np.ndarray, scale: np.ndarray) -> bool:
        return bool(np.abs(a).max(initial=0.0) <= self.small * np.abs(scale).max(initial=0.0))

    def alike(self, columns: np.ndarray) -> bool:
        """Whether everything sees these values alike."""
        return self.vanishes(columns - columns[:, :1], self.effects)

    def add(
        self, rows: Sequence[np.ndarray], units: Sequence[dict[int, float]], kind: str,
        weights: tuple[float, ...], leader: int = 0,
    ) -> None:  # fmt: skip
        """One kink: its increments, and which cuts each new column stands for."""
        meeting = self.meeting
        meeting.rows = np.vstack([meeting.rows.reshape(-1, self.width), *rows])
        meeting.units += [(list(u), np.array(list(u.values()))) for u in units]
        meeting.kinds.append((kind, leader, weights, len(rows)))

    def refuse(self) -> UnsupportedOperationError:
        site = self.meeting.site
        return UnsupportedOperationError(
            f"{site.location}: {self.meeting.multiplicity} {site.operation} {self.how} at this point and "
            "move by matrices that do not commute, so that their derivatives span no list of weights. "
            "Use the sum of all that meet, move the point, or differentiate with jax.jacobian (one element)."
        )

    how = "are equal"

    def absolute(self, d: np.ndarray, cuts: dict[int, float], weight: float) -> Base:
        """c |d| for each cut with its factor c: −c d, and 2 c q d on top."""
        self.add([d], [{p: 2 * c for p, c in cuts.items()}], "segment", (weight,))
        return [(p, -c * d) for p, c in cuts.items()]


class _Equal(_Kinks):
    """r equal values; the cuts carry how each differs from their mean."""

    def run(self) -> Base:
        r = self.meeting.multiplicity
        diagonal = np.einsum("iik->ik", self.b)
        self.deviation = self.b - np.eye(r)[:, :, None] * diagonal.mean(axis=0)
        if self.vanishes(self.deviation, self.b) or self.alike(self.effects):
            return []
        if r == 2:
            return self.two()
        basis = self.common_basis()
        if basis is None:
            raise self.refuse()
        entries = np.einsum("ip,ijk,jp->pk", basis, self.deviation, basis)
        if self.alike(self.effects[:, :-1]):
            return self.extreme(entries, basis, r - 1, 0)
        if self.alike(self.effects[:, 1:]):
            return self.extreme(entries, basis, 0, r - 1)
        if not np.all((np.abs(basis) < 1e-6) | (np.abs(basis) > 1 - 1e-6)):
            raise self.refuse()  # JAX's choice is no order of the entries
        return self.ordered(np.einsum("iik->ik", self.deviation))

    def two(self) -> Base:
        """λ = mean ± ‖w‖: a scalar kink where w moves along a line, else a ball."""
        low, high = (int(p) for p in self.own)
        w = np.stack([(self.b[1, 1] - self.b[0, 0]) / 2, self.b[0, 1]])
        left, sizes, right = np.linalg.svd(w, full_matrices=False)
        if sizes[1] <= self.small * sizes[0]:
            weight = float(np.clip((1 + left[0, 0]) / 2, 0, 1))
            return self.absolute(sizes[0] * right[0], {high: 1.0, low: -1.0}, weight)
        self.add(list(w), [{high: 1.0, low: -1.0}] * 2, "ball", (1.0, 0.0))
        return []

    def common_basis(self) -> np.ndarray | None:
        """A basis in which all the matrices are diagonal, if there is one."""
        crossed = self.deviation * (1 - np.eye(len(self.own)))[:, :, None]
        if self.vanishes(crossed, self.deviation / 16):
            return np.eye(len(self.own))  # JAX's own
        mixed = self.deviation @ np.random.default_rng(0).normal(size=self.width)
        basis = np.linalg.eigh((mixed + mixed.T) / 2)[1]
        turned = np.einsum("ip,ijk,jq->pqk", basis, self.deviation, basis)
        off = turned * (1 - np.eye(len(basis)))[:, :, None]
        return basis if self.vanishes(off, self.deviation / 16) else None

    def extreme(self, entries: np.ndarray, basis: np.ndarray, which: int, other: int) -> Base:
        """The largest (or smallest) value alone: a tie of the entries."""
        sign = 1.0 if which else -1.0
        weights = basis[which] ** 2
        leader = int(np.argmax(weights))
        pair = {int(self.own[which]): sign, int(self.own[other]): -sign}
        rest = [j for j in range(len(entries)) if j != leader]
        self.add(
            [sign * (entries[j] - entries[leader]) for j in rest],
            [pair] * len(rest),
            "simplex",
            tuple(float(w) for w in weights / weights.sum()),
            leader,
        )
        return [(p, sign * s * entries[leader]) for p, s in pair.items()]

    def ordered(self, entries: np.ndarray) -> Base:
        """All of them: a sorting network, whose comparators see earlier ones by cuts that are free."""
        r = len(entries)
        free = iter(int(p) for p in self.places[np.triu_indices(r, 1)])
        rows = [e.copy() for e in entries]
        values = [int(p) for p in self.own]
        carried: list[dict[int, float]] = [{} for _ in range(r)]  # of each entry, by comparator
        found: list[tuple[np.ndarray, int]] = []
        for t in range(r):
            for i in range(t % 2, r - 1, 2):
                place = next(free)
                found.append((rows[i] - rows[i + 1], place))
                for j, sign in ((i, -1.0), (i + 1, 1.0)):
                    rows[j] = rows[j].copy()
                    rows[j][self.inputs + place] += sign
                    carried[j][place] = sign
        for row, place in found:
            unit = {place: 1.0}
            unit |= {values[j]: c[place] for j, c in enumerate(carried) if place in c}
            self.add([row], [unit], "segment", (0.0,))
        return [(p, e) for p, e in zip(values, entries, strict=True)]


class _Vanishing(_Kinks):
    """Singular values at 0: they move like the singular values of U₀ᵀẊV₀, of which b holds the rows."""

    how = "vanish"

    def run(self) -> Base:
        rows, theirs = self.b[:-1], self.b[-1]  # (m, r, width); what JAX takes
        if not (np.any(self.effects) and np.any(rows)):
            return []
        if self.meeting.multiplicity == 1:
            return self.one(rows[:, 0], theirs[0], int(self.own[0]))
        flat = rows.reshape(-1, self.width)
        _, sizes, right = np.linalg.svd(flat, full_matrices=False)
        if sizes[1] <= self.small * sizes[0]:
            return self.along_a_line(rows @ right[0], right[0], theirs @ right[0])
        if self.alike(self.effects):
            return self.sum_of_absolute(rows, theirs)
        raise self.refuse()

    def one(self, w: np.ndarray, theirs: np.ndarray, place: int) -> Base:
        """‖w‖: |d| where w moves along a line, else a ball."""
        _, sizes, right = np.linalg.svd(w, full_matrices=False)
        kept = max(1, int((sizes > self.small * sizes[0]).sum()))
        moves = sizes[:kept, None] * right[:kept]
        along = np.linalg.lstsq(moves.T, theirs, rcond=None)[0]
        if kept == 1:
            weight = float(np.clip((1 + along[0]) / 2, 0, 1))
            return self.absolute(moves[0], {place: 1.0}, weight)
        along = along / max(1.0, float(np.linalg.norm(along)))
        self.add(list(moves), [{place: 1.0}] * kept, "ball", tuple(along.tolist()))
        return []

    def along_a_line(self, matrix: np.ndarray, d: np.ndarray, theirs: np.ndarray) -> Base:
        """All of Ẋ is a multiple of one matrix: each value is |d| times a singular value of it."""
        factors = np.linalg.svd(matrix, compute_uv=False)
        whole, taken = self.effects @ factors, self.effects @ theirs
        square = float(whole @ whole)
        ratio = float(whole @ taken) / square if square else 0.0
        if not self.vanishes(taken - ratio * whole, np.abs(self.effects) @ factors):
            raise self.refuse()
        weight = float(np.clip((1 + ratio) / 2, 0, 1))
        cuts = {int(p): float(c) for p, c in zip(self.own, factors, strict=True)}
        return self.absolute(d, cuts, weight)

    def sum_of_absolute(self, rows: np.ndarray, theirs: np.ndarray) -> Base:
        """Only the sum is seen, and the matrices are diagonal in common bases: Σ |d_j|."""
        mixed = rows @ np.random.default_rng(0).normal(size=self.width)
        U, _, Vt = np.linalg.svd(mixed, full_matrices=False)
        turned = np.einsum("ip,ijk,qj->pqk", U, rows, Vt)
        r = self.meeting.multiplicity
        off = turned * (1 - np.eye(r))[:, :, None]
        rest = rows - np.einsum("ip,pqk,qj->ijk", U, turned, Vt)
        if not (self.vanishes(off, turned / 16) and self.vanishes(rest, rows / 16)):
            raise self.refuse()
        d = np.einsum("ppk->pk", turned)
        ratios = np.linalg.lstsq(d.T, theirs.sum(axis=0), rcond=None)[0]
        place = int(self.own[0])
        base = []
        for row, ratio in zip(d, ratios, strict=True):
            base += self.absolute(row, {place: 1.0}, float(np.clip((1 + ratio) / 2, 0, 1)))
        return base
