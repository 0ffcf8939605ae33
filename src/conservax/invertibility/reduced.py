"""The reduced problem: det B(q) det(I − D L) = det A · det(I − D M), block by block, with error bounds.

    M = L − E A⁻¹ H,    N = I − M

(docs/theory.md#the-determinant). The lifted matrix [[A, H], [−D E, I − D L]] is first brought to block
triangular form by its pattern alone, so that each irreducible block has an M of its own and is decided
by itself; kinks that feed forward only end up in blocks of one. A⁻¹H is computed with a verified error
bound, so that what is proved about M ± radius holds for the float matrices A, H, E, L.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy

from ..calculus import AbsNormal
from ..calculus.sets.abs_normal import Group
from .bounds import UNIT, cut, signed_bound
from .exact import determinant_sign

_DENSEST = 2 * 10**7  # entries of a pattern that is searched for blocks
_LARGEST_EXACT = 64  # rows of a determinant taken in rational arithmetic


@dataclass(frozen=True)
class Unit:
    """Rows of M that one weighted sum joins, and the column that they share.

    ``kind`` is "scalar" (a weight in [0, 1]), "tie" (weights ≥ 0 with sum ≤ 1) or "ball".
    """

    rows: slice
    kind: str


@dataclass(frozen=True)
class Block:
    """An irreducible part of the lifted equations: its equations, unknowns and cut kinks.

    M is (K, U): a row for each of the form's ``columns``, a column for each unit; the true one lies
    within ``radius`` of it in every entry (infinite where A's block was not inverted surely).
    ``parameter`` names, for each row, the weight that steers it: one q may steer several rows.
    ``affine``: the determinant is affine in the weights of each unit, and units are independent.
    """

    form: AbsNormal
    equations: np.ndarray
    unknowns: np.ndarray
    columns: np.ndarray
    groups: tuple[Group, ...]
    units: tuple[Unit, ...]
    parameter: np.ndarray
    affine: bool
    M: np.ndarray
    radius: float

    @cached_property
    def owner(self) -> np.ndarray:
        """The unit of each row."""
        owner = np.zeros(len(self.columns), dtype=np.int64)
        for u, unit in enumerate(self.units):
            owner[unit.rows] = u
        return owner

    @cached_property
    def counts(self) -> tuple[int, ...]:
        return tuple(u.rows.stop - u.rows.start for u in self.units)

    def spans(self) -> list[tuple[slice, str]]:
        """The rows of each group, and its kind."""
        stops = np.cumsum([len(g.columns) for g in self.groups])
        starts = stops - [len(g.columns) for g in self.groups]
        return [
            (slice(int(a), int(b)), g.kind)
            for a, b, g in zip(starts, stops, self.groups, strict=True)
        ]

    def meets(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether a box of weights (K,) holds any that the groups admit."""
        for rows, kind in self.spans():
            if kind == "simplex" and low[rows].sum() > 1 + 4 * UNIT * len(low):
                return False
            nearest = np.clip(0.0, low[rows], high[rows])
            if kind == "ball" and nearest @ nearest > 1 + 4 * UNIT * len(low):
                return False
        return True

    def admits(self, weights: np.ndarray) -> bool:
        """Whether the groups admit these weights (K,)."""
        return self.meets(weights, weights)

    def signed_logarithm(self, weights: np.ndarray) -> tuple[float, float]:
        """Sign and logarithm of det(I − W M), in floating point."""
        if self.radius < np.inf:
            sign, size = np.linalg.slogdet(self.weighted(weights))
            return float(sign), float(size)
        A, H, E, L = self._parts()
        logs = [
            np.linalg.slogdet(np.block([[np.eye(len(w)) - w * L, -w * E], [H, A]]))
            for w in (weights[:, None], 0 * weights[:, None])
        ]
        return float(logs[0][0] * logs[1][0]), float(logs[0][1] - logs[1][1])

    @property
    def balls(self) -> bool:
        return any(u.kind == "ball" for u in self.units)

    def square(self) -> tuple[np.ndarray, float]:
        """N = I − M with a column for each row, and its radius: ties count as independent kinks."""
        M = self.M if len(self.units) == len(self.columns) else self.M[:, self.owner]
        N = -M
        N.flat[:: len(N) + 1] += 1.0
        return N, self.radius + UNIT * (1.0 + float(np.abs(M.diagonal()).max(initial=0.0)))

    def rows_form(self) -> tuple[np.ndarray, float]:
        """N with a column for each unit, e_u − M[j] in the rows j of unit u, and its radius."""
        if len(self.units) == len(self.columns):
            return self.square()
        N = -self.M
        N[np.arange(len(N)), self.owner] += 1.0
        return N, self.radius + UNIT * (1.0 + float(np.abs(self.M).max(initial=0.0)))

    def weighted(self, diagonal: np.ndarray) -> np.ndarray:
        """I − W M, (U, U), for a weight each row."""
        system = np.zeros((len(self.units), len(self.units)))
        np.add.at(system, self.owner, -diagonal[:, None] * self.M)
        system.flat[:: len(system) + 1] += 1.0
        return system

    def signed(self, diagonal: np.ndarray) -> float | None:
        """A number of the sign of det(I − W M) at weights (K,) and no larger; None if in doubt."""
        if not self.radius < np.inf:
            return None
        largest = float(np.abs(self.M).max(initial=0.0))
        doubt = max(self.counts) * (self.radius + 4 * UNIT * largest) + UNIT
        return signed_bound(self.weighted(diagonal), doubt) or None

    def exact_sign(self, diagonal: np.ndarray) -> int | None:
        """The sign of det(I − W M) in rational arithmetic; None if the block is too large for that."""
        if len(self.equations) + len(self.columns) > _LARGEST_EXACT:
            return None
        lifted = determinant_sign(self._parts(), diagonal)
        return lifted * determinant_sign(self._parts(), np.zeros_like(diagonal))

    def sign(self, diagonal: np.ndarray) -> int | None:
        """The sign of det(I − W M) at these weights, by the cheaper of the two; None if in doubt."""
        bound = self.signed(diagonal)
        return self.exact_sign(diagonal) if bound is None else (1 if bound > 0 else -1)

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        f, c = self.form, self.columns
        e, x = self.equations, self.unknowns
        return f.A[np.ix_(e, x)], f.H[np.ix_(e, c)], f.E[np.ix_(c, x)], f.L[np.ix_(c, c)]


Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def partition(form: AbsNormal) -> list[Part]:
    """The irreducible parts of [[A, H], [E, L]] by its pattern: equations, unknowns, columns of each.

    All columns of a group stay together. Where no choice of pivots exists, all is one part.

    Source: Duff and Reid, An implementation of Tarjan's algorithm for the block triangularization of
    a matrix (ACM TOMS 1978).
    """
    n = form.A.shape[0]
    moving = [form.groups[i] for i in form.moving()]
    columns = np.array([c for g in moving for c in g.columns], dtype=np.int64)
    k = len(columns)
    pattern = np.empty((n + k, n + k), dtype=bool)
    pattern[:n, :n] = form.A != 0
    pattern[:n, n:] = form.H[:, columns] != 0
    pattern[n:, :n] = form.E[columns] != 0
    pattern[n:, n:] = form.L[np.ix_(columns, columns)] != 0
    equations = np.arange(n)
    everything = (equations, np.arange(n), columns)
    loose = np.ones(n + k, dtype=bool)
    at = n
    for g in moving:
        loose[at : at + len(g.columns)] = len(g.columns) == 1
        at += len(g.columns)
    joined = _joined(pattern, loose)
    if np.count_nonzero(pattern[np.ix_(joined, joined)]) > _DENSEST:
        if not np.all(np.diagonal(pattern)[:n]):
            return [everything]
        labels = np.arange(n + k)
        labels[joined] = n + k
    else:
        if not np.all(np.diagonal(pattern)[:n]):
            matched = scipy.sparse.csgraph.maximum_bipartite_matching(
                scipy.sparse.csr_array(pattern[:n, :n]), perm_type="row"
            )
            if np.any(matched < 0):
                return [everything]
            equations = np.asarray(matched, dtype=np.int64)
            pattern[:n] = pattern[equations]
            joined = np.arange(n + k)
        at = n
        for g in moving:  # a cycle through the columns of one group
            local = np.arange(at, at + len(g.columns))
            pattern[local, np.roll(local, 1)] = True
            at += len(g.columns)
        labels = np.arange(n + k)
        labels[joined] = n + k + _components(pattern[np.ix_(joined, joined)])
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    parts: list[Part] = []
    for nodes in np.split(order, cuts):
        unknowns = nodes[nodes < n]
        parts.append((equations[unknowns], unknowns, columns[nodes[nodes >= n] - n]))
    return parts


def _components(pattern: np.ndarray) -> np.ndarray:
    """The strong component of each node of a square pattern."""
    if len(pattern) > 64:
        return np.asarray(
            scipy.sparse.csgraph.connected_components(
                scipy.sparse.csr_array(pattern), connection="strong"
            )[1]
        )
    reach = np.eye(len(pattern)) + pattern  # few nodes: paths of doubling length
    for _ in range(len(pattern).bit_length()):
        reach = np.minimum(reach @ reach, 1.0)
    return np.argmax((reach > 0) & (reach.T > 0), axis=1) if len(pattern) else np.zeros(0, int)


def _joined(pattern: np.ndarray, loose: np.ndarray) -> np.ndarray:
    """Nodes left when those that nothing enters, or nothing leaves, are taken as parts of one."""
    nodes = np.arange(len(pattern))
    if len(nodes) <= 64:
        return nodes
    itself = np.diagonal(pattern)
    alone = (pattern.sum(axis=1) == itself) | (pattern.sum(axis=0) == itself)
    return nodes[~(alone & loose)]


def block_of(
    form: AbsNormal, equations: np.ndarray, unknowns: np.ndarray, columns: np.ndarray
) -> Block:
    """The reduced problem of one part, its matrix M with an error bound."""
    chosen = set(columns.tolist())
    groups = tuple(g for g in form.groups if g.columns and g.columns[0] in chosen)
    ordered = np.array([c for g in groups for c in g.columns], dtype=np.int64)
    units: list[Unit] = []
    parameter: list[int] = []
    single: list[int] = []  # the first row of each unit
    affine = True
    at = steer = 0
    for g in groups:
        count = len(g.columns)
        local = list(g.columns)
        joined = g.kind != "segment" and _equal_columns(form, local)
        if joined or count == 1:
            kind = {"segment": "scalar", "simplex": "tie", "ball": "ball"}[g.kind]
            units.append(Unit(slice(at, at + count), kind))
            single.append(at)
        else:
            affine = False
            kind = "scalar" if g.kind != "ball" else "ball"
            units += [Unit(slice(at + i, at + i + 1), kind) for i in range(count)]
            single += range(at, at + count)
        parameter += [steer] * count if g.kind == "segment" else range(steer, steer + count)
        steer += 1 if g.kind == "segment" else count
        at += count
    heads = ordered[np.array(single, dtype=np.int64)]
    M, radius = cut(
        form.A[np.ix_(equations, unknowns)],
        form.H[np.ix_(equations, heads)],
        form.E[np.ix_(ordered, unknowns)],
        form.L[np.ix_(ordered, heads)],
    )
    return Block(
        form,
        equations,
        unknowns,
        ordered,
        groups,
        tuple(units),
        np.array(parameter, dtype=np.int64),
        affine,
        M,
        radius,
    )


def _equal_columns(form: AbsNormal, columns: Sequence[int]) -> bool:
    """Whether the rest of the program sees the columns of a group as one sum."""
    first = columns[0]
    return all(
        np.array_equal(form.H[:, c], form.H[:, first])
        and np.array_equal(form.L[:, c], form.L[:, first])
        for c in columns[1:]
    )


def face(block: Block, taken: dict[int, int]) -> Block:
    """The block left when some units are decided: dropped (0), or their j-th row taken (j ≥ 1).

    A Schur complement, M_TT + M_TS N_SS⁻¹ M_ST, from the block's own data: its error depends on N_SS
    and on nothing that happened on the way. Its radius is infinite where N_SS may be singular.
    """
    free = [u for u in range(len(block.units)) if u not in taken]
    on = [u for u, j in taken.items() if j]
    chosen = [block.units[u].rows.start + taken[u] - 1 for u in on]
    rows = np.flatnonzero(np.isin(block.owner, free))
    M = block.M
    pivots, doubt = taken_minor(block, taken)
    M, radius = cut(pivots, M[chosen][:, free], -M[rows][:, on], M[rows][:, free], doubt)
    units, at = [], 0
    for u in free:
        count = block.counts[u]
        units.append(Unit(slice(at, at + count), block.units[u].kind))
        at += count
    return replace(
        block,
        columns=block.columns[rows],
        units=tuple(units),
        parameter=block.parameter[rows],
        M=M,
        radius=radius,
    )


def taken_minor(block: Block, taken: dict[int, int]) -> tuple[np.ndarray, float]:
    """The principal submatrix N_SS of the rows taken, and the radius of its entries."""
    on = [u for u, j in taken.items() if j]
    chosen = [block.units[u].rows.start + taken[u] - 1 for u in on]
    pivots = -block.M[chosen][:, on]
    pivots.flat[:: len(on) + 1] += 1.0
    return pivots, block.radius + UNIT * (1.0 + float(np.abs(pivots).max(initial=0.0)))
