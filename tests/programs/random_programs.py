"""Random cone programs whose status is known by construction, easy and hard, each from its seed.

An optimal pair, a Farkas certificate or a direction of recession is drawn first and the data are
made to fit it. Cones are seen through Jordan frames: every element has eigenvalues (the entries of
an orthant, t ± ‖x‖ of a second-order cone, those of a matrix), and s, y are complementary if they
share the frame and no eigenvalue is positive in both. Pure NumPy, without the code under test.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from conservax.cones.table import Cones
from conservax.solution import Status

SCALE = 2.0**20  # about 1e6, and exact: scaled data have exactly the scaled solutions
NEAR = 1e-3  # a program this close to being solvable, relative to its data
STRICT, WEAK = (0.5, 2.0), 0.0  # eigenvalues on the positive side; those that vanish in both


class Scaling(NamedTuple):
    """x̂ = primal·x/column, ŝ = primal·row·s, ŷ = dual·y/row; powers of two, one per cone in a row."""

    column: np.ndarray
    row: np.ndarray
    primal: float
    dual: float


class Program(NamedTuple):
    """Data in the user's units, what is right, and what is known of the unscaled program.

    ``right`` holds the statuses that are right. ``primal, dual, slack`` are a solution of the
    unscaled program (or NaN) and ``value`` its value; ``unique_*`` says that the solution is the
    only one, well enough conditioned to be compared; ``strict`` that no constraint is weakly active.
    """

    P: np.ndarray
    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    right: tuple[Status, ...]
    primal: np.ndarray
    dual: np.ndarray
    slack: np.ndarray
    value: float
    unique_primal: bool
    unique_dual: bool
    strict: bool
    scaling: Scaling

    def unscaled(self) -> "Program":
        """The program before scaling."""
        column, row, primal, dual = self.scaling
        return self._replace(
            P=self.P * (primal / dual) / column[:, None] / column,
            c=self.c / (dual * column),
            A=self.A / row[:, None] / column,
            b=self.b / (primal * row),
            scaling=Scaling(np.ones_like(column), np.ones_like(row), 1.0, 1.0),
        )

    def to_unscaled(self, x, y, s):
        """A point of this program, in the units of the unscaled one."""
        column, row, primal, dual = self.scaling
        return x * column / primal, y * row / dual, s / (row * primal)


class Frame(NamedTuple):
    """A Jordan frame of one block: idempotents (slots, size) and how faces are spanned."""

    rows: slice
    slots: slice
    kind: str
    basis: np.ndarray

    def element(self, eigenvalues):
        """The element of the block with these eigenvalues in this frame."""
        if self.kind == "semidefinite":
            return svec((self.basis * eigenvalues) @ self.basis.T)
        return eigenvalues @ self.basis

    def span(self, open_slots):
        """An orthonormal basis (size, k) of the span of the face where other slots vanish."""
        if self.kind == "semidefinite":
            Q = self.basis[:, open_slots]
            pairs = [(i, j) for i in range(Q.shape[1]) for j in range(i + 1)]
            vectors = [
                svec(np.outer(Q[:, i], Q[:, j]) + np.outer(Q[:, j], Q[:, i])) for i, j in pairs
            ]
        elif self.kind == "second_order" and np.all(open_slots):
            vectors = list(np.eye(self.basis.shape[1]))
        else:
            vectors = list(self.basis[open_slots])
        size = self.rows.stop - self.rows.start
        return (
            np.stack([v / np.linalg.norm(v) for v in vectors], 1)
            if vectors
            else np.zeros((size, 0))
        )


def svec(matrix):
    """The lower triangle column by column, off the diagonal times √2."""
    columns, rows = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2))


def smat(vector):
    """The symmetric matrix of an svec."""
    dim = int((np.sqrt(8 * len(vector) + 1) - 1) / 2)
    columns, rows = np.triu_indices(dim)
    out = np.zeros((dim, dim))
    out[rows, columns] = out[columns, rows] = vector / np.where(rows == columns, 1.0, np.sqrt(2))
    return out


def blocks(cones: Cones):
    """(kind, rows, number of eigenvalues) behind the equalities."""
    at = cones.zero
    if cones.nonnegative:
        yield "nonnegative", slice(at, at + cones.nonnegative), cones.nonnegative
        at += cones.nonnegative
    for dim in cones.second_order:
        yield "second_order", slice(at, at + dim), 2
        at += dim
    for dim in cones.semidefinite:
        size = dim * (dim + 1) // 2
        yield "semidefinite", slice(at, at + size), dim
        at += size


def least_eigenvalue(cones: Cones, v: np.ndarray) -> float:
    """Of a slack or of a dual: how far inside the cone, equalities left out."""
    found = [np.inf]
    for kind, rows, _ in blocks(cones):
        part = v[rows]
        if kind == "nonnegative":
            found.append(part.min())
        elif kind == "second_order":
            found.append(part[0] - np.linalg.norm(part[1:]))
        else:
            found.append(np.linalg.eigvalsh(smat(part))[0])
    return float(min(found))


def frames(cones: Cones, rng) -> list[Frame]:
    """A random Jordan frame for each block."""
    out, at = [], 0
    for kind, rows, slots in blocks(cones):
        size = rows.stop - rows.start
        if kind == "nonnegative":
            basis = np.eye(size)
        elif kind == "second_order":
            u = rng.normal(size=size - 1)
            u /= np.linalg.norm(u)
            basis = np.array([[1.0, *u], [1.0, *-u]]) / 2
        else:
            basis = np.linalg.qr(rng.normal(size=(slots, slots)))[0]
        out.append(Frame(rows, slice(at, at + slots), kind, basis))
        at += slots
    return out


class Draft:
    """A program in the making; ``s_slots``, ``y_slots`` are its eigenvalues, never both positive."""

    def __init__(self, cones: Cones, n: int, rng, rank: int | None = None):
        self.cones, self.n, self.rng = cones, n, rng
        self.frames = frames(cones, rng)
        self.slots = sum(f.slots.stop - f.slots.start for f in self.frames)
        rank = int(rng.choice([0, rng.integers(1, n + 1), n])) if rank is None else rank
        self.R = rng.normal(size=(rank, n)) / np.sqrt(max(1, rank))
        self.A = rng.normal(size=(cones.size, n))
        self.x = rng.normal(size=n)
        self.settle(self.well_posed_slots())
        self.c = self.b = None
        self.row, self.column, self.primal_size, self.dual_size = (
            np.ones(cones.size), np.ones(n), 1.0, 1.0,
        )  # fmt: skip

    def positive(self, chosen):
        """Eigenvalues on the chosen slots."""
        return np.where(chosen, self.rng.uniform(*STRICT, size=self.slots), 0.0)

    def element(self, eigenvalues, equalities):
        """The vector with these eigenvalues, and these entries at the equalities."""
        out = np.zeros(self.cones.size)
        out[: self.cones.zero] = equalities
        for f in self.frames:
            out[f.rows] = f.element(eigenvalues[f.slots])
        return out

    def span(self, open_slots, equalities: bool):
        """An orthonormal basis of the span of a face, with the equalities' rows or without."""
        zero, size = self.cones.zero, self.cones.size
        parts = [np.eye(size, zero)] if equalities else []
        for f in self.frames:
            local = f.span(open_slots[f.slots])
            part = np.zeros((size, local.shape[1]))
            part[f.rows] = local
            parts.append(part)
        return np.concatenate([np.zeros((size, 0)), *parts], axis=1)

    def settle(self, active, weak=None):
        """Slack and dual: the dual positive on the active slots, the slack on the others."""
        weak = np.zeros(self.slots, bool) if weak is None else weak
        zero = self.cones.zero
        self.y_slots = self.positive(active & ~weak)
        self.s_slots = self.positive(~active & ~weak)
        self.y = self.element(self.y_slots, self.rng.normal(size=zero))
        self.s = self.element(self.s_slots, np.zeros(zero))
        self.strict = not np.any(weak)

    def well_posed_slots(self):
        """Active slots for which generic data have one solution, primal and dual."""
        for _ in range(200):
            active = self.rng.uniform(size=self.slots) < self.rng.uniform()
            tangent = self.span(~active, False).shape[1]
            normal = self.span(active, True).shape[1]
            if normal <= self.n <= self.cones.size - tangent + len(self.R):
                return active
        raise AssertionError(f"no well-posed program with {self.cones}, n = {self.n}")

    def annihilate(self, y):
        """Change A so that Aᵀy = 0."""
        self.A = _difference(self.A, np.outer(y, y @ self.A) / (y @ y))

    def recede(self, d, g):
        """Change A and P so that Ad = −g, Pd = 0."""
        d = d / np.linalg.norm(d)
        self.A = _difference(self.A, np.outer(g + self.A @ d, d))
        self.R = _difference(self.R, np.outer(self.R @ d, d))
        return d

    def finish(self, *right: Status) -> Program:
        P = self.R.T @ self.R
        A, x, y, s = self.A, self.x, self.y, self.s
        c = _difference(-P @ x, A.T @ y) if self.c is None else self.c
        b = A @ x + s if self.b is None else self.b
        row, column, beta, gamma = self.row, self.column, self.primal_size, self.dual_size
        solvable = Status.SOLVED in right
        hidden = 1.0 if solvable else np.nan
        size = max(np.linalg.norm(A, 2), 1e-300)
        off = np.eye(len(b)) - (F := self.span(self.y_slots == 0, False)) @ F.T
        G = self.span(self.s_slots == 0, True)
        of_P = np.linalg.norm(self.R, 2) if len(self.R) else 0.0
        sharp = np.concatenate([self.R / max(1.0, of_P), off @ A / size])
        balanced = solvable and of_P**2 <= 1e3 * size
        return Program(
            gamma / beta * column[:, None] * P * column,
            gamma * column * c,
            row[:, None] * A * column,
            beta * row * b,
            right,
            hidden * x,
            hidden * y,
            hidden * s,
            hidden * float(x @ P @ x / 2 + c @ x),
            balanced and _least_singular_value(sharp) > 1e-2,
            balanced and (G.shape[1] == 0 or _least_singular_value((G.T @ A).T / size) > 1e-2),
            self.strict,
            Scaling(column, row, beta, gamma),
        )


def _difference(a, b):
    """a − b, with zeros for what is rounding: scaling would make a row or an objective of noise real."""
    out = a - b
    noise = 1e-14 * max(1.0, np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    return np.where(np.abs(out) < noise, 0.0, out)


def _least_singular_value(M):
    """Of a map on the columns' space; zero if there are more columns than rows."""
    return np.linalg.svd(M, compute_uv=False)[-1] if M.shape[0] >= M.shape[1] else 0.0


def _powers(rng, size):
    return SCALE ** rng.integers(-1, 2, size=size)


def _rescale(d: Draft, *what: str) -> Draft:
    """Rows, columns, right-hand side and objective by 1e±6."""
    if "rows" in what:
        d.row = _powers(d.rng, d.cones.size)
        for kind, rows, _ in blocks(d.cones):
            if kind != "nonnegative":
                d.row[rows] = _powers(d.rng, 1)
    if "columns" in what:
        d.column = _powers(d.rng, d.n)
    if "right_side" in what:
        d.primal_size = float(d.rng.choice([SCALE, 1 / SCALE]))
    if "objective" in what:
        d.dual_size = float(d.rng.choice([SCALE, 1 / SCALE]))
    return d


def regular(d: Draft):
    return d.finish(Status.SOLVED)


def ill_conditioned(d: Draft):
    """Singular values of A and of P over six orders of magnitude."""

    def spread(M, orders):
        if not M.size:
            return M
        U, values, Vt = np.linalg.svd(M, full_matrices=False)
        return (U * np.logspace(0, -orders, len(values))) @ Vt

    d.A, d.R = spread(d.A, 6), spread(d.R, 3)
    return d.finish(Status.SOLVED)


def scaled_rows(d: Draft):
    return _rescale(d, "rows").finish(Status.SOLVED)


def scaled_columns(d: Draft):
    return _rescale(d, "columns").finish(Status.SOLVED)


def scaled_right_side(d: Draft):
    return _rescale(d, "right_side").finish(Status.SOLVED)


def scaled_objective(d: Draft):
    return _rescale(d, "objective").finish(Status.SOLVED)


def scaled_all(d: Draft):
    return _rescale(d, "rows", "columns", "right_side", "objective").finish(Status.SOLVED)


def unbalanced(d: Draft):
    """P a million times larger or smaller than A, with a solution of unit size."""
    d.R = d.R * float(d.rng.choice([SCALE, 1 / SCALE])) ** 0.5
    return d.finish(Status.SOLVED)


def weakly_active(d: Draft):
    """Some constraints hold with equality and have no multiplier."""
    active = d.y_slots > 0
    weak = d.rng.uniform(size=d.slots) < d.rng.uniform(0.1, 0.6)
    weak[d.rng.integers(d.slots)] = True
    d.settle(active, weak)
    return d.finish(Status.SOLVED)


def nonunique_dual(d: Draft):
    """Active rows that depend on each other."""
    active = d.y_slots > 0
    active[d.rng.permutation(d.slots)[:2]] = True
    d.settle(active)
    G = d.span(active, True)
    d.annihilate(G @ d.rng.normal(size=G.shape[1]))
    return d.finish(Status.SOLVED)


def nonunique_primal(d: Draft):
    """A direction along which nothing changes."""
    F = d.span(d.y_slots == 0, False)
    direction = d.rng.normal(size=d.n)
    direction /= np.linalg.norm(direction)
    d.recede(direction, -F @ (F.T @ (d.A @ direction)))
    return d.finish(Status.SOLVED)


def redundant_equalities(d: Draft):
    """Equality rows that repeat each other."""
    zero = d.cones.zero
    keep = d.rng.integers(0, zero)
    d.A[keep:zero] = d.rng.normal(size=(zero - keep, keep)) @ d.A[:keep]
    return d.finish(Status.SOLVED)


def no_interior(d: Draft):
    """All feasible slacks lie on one face: the multipliers are unbounded."""
    active = d.y_slots > 0
    active[d.rng.integers(d.slots)] = True
    d.settle(active)
    chosen = active & (d.rng.uniform(size=d.slots) < 0.5)
    chosen[d.rng.choice(np.flatnonzero(active))] = True
    d.annihilate(d.element(d.positive(chosen), d.rng.normal(size=d.cones.zero)))
    return d.finish(Status.SOLVED)


def unbounded_solutions(d: Draft):
    """A direction of recession along which the objective stays."""
    inactive = d.s_slots > 0
    chosen = inactive & (d.rng.uniform(size=d.slots) < 0.5)
    d.recede(d.rng.normal(size=d.n), d.element(d.positive(chosen), np.zeros(d.cones.zero)))
    return d.finish(Status.SOLVED)


def no_objective(d: Draft):
    """Any feasible point will do."""
    d.R = d.R * 0
    d.settle(np.zeros(d.slots, bool))
    d.y = d.y * 0
    return d.finish(Status.SOLVED)


def zero_solution(d: Draft):
    """b = 0, and the solution is 0."""
    d.settle(np.ones(d.slots, bool))
    d.x, d.s = d.x * 0, d.s * 0
    return d.finish(Status.SOLVED)


def empty_rows(d: Draft):
    """A row of A without entries, and a variable that nothing mentions."""
    d.A[d.rng.integers(d.cones.size)] = 0
    d.A[:, -1], d.R[:, -1] = 0, 0
    return d.finish(Status.SOLVED)


def nothing_but_cones(d: Draft):
    """P = 0, b = 0, c = 0: x = 0, y = 0, s = 0 is one solution."""
    d.settle(np.zeros(d.slots, bool), np.ones(d.slots, bool))
    d.R, d.x, d.y = d.R * 0, d.x * 0, d.y * 0
    return d.finish(Status.SOLVED)


def _few(d: Draft):
    """One or two slots."""
    chosen = np.zeros(d.slots, bool)
    chosen[d.rng.permutation(d.slots)[: d.rng.integers(1, 3)]] = True
    return chosen


def _contradict(d: Draft, chosen, near: bool = False) -> Draft:
    """Aᵀy = 0, bᵀy < 0 for some y in the dual cone; the dual program stays feasible."""
    y = d.element(d.positive(chosen), d.rng.normal(size=d.cones.zero))
    d.annihilate(y)
    b = d.rng.normal(size=len(y)) if not near else d.A @ d.x + d.s
    depth = NEAR * np.linalg.norm(b) * np.linalg.norm(y) if near else 1.0
    d.b = b - y * (depth + b @ y) / (y @ y)
    d.y = d.element(d.positive(np.ones(d.slots, bool)), d.rng.normal(size=d.cones.zero))
    return d


def infeasible(d: Draft):
    return _contradict(d, np.ones(d.slots, bool)).finish(Status.PRIMAL_INFEASIBLE)


def infeasible_by_few(d: Draft):
    """The certificate lies on the boundary of the dual cone."""
    return _contradict(d, _few(d)).finish(Status.PRIMAL_INFEASIBLE)


def infeasible_nearly(d: Draft):
    """A thousandth of b away from being feasible."""
    chosen = np.ones(d.slots, bool) if d.rng.uniform() < 0.5 else _few(d)
    return _contradict(d, chosen, near=True).finish(Status.PRIMAL_INFEASIBLE)


def infeasible_scaled(d: Draft):
    chosen = np.ones(d.slots, bool) if d.rng.uniform() < 0.5 else _few(d)
    d = _rescale(_contradict(d, chosen), "rows", "columns", "right_side", "objective")
    return d.finish(Status.PRIMAL_INFEASIBLE)


def _fall(d: Draft, chosen, near: bool = False) -> Draft:
    """Pd = 0, −Ad ∈ K, cᵀd < 0; the primal program stays feasible."""
    zeros = np.zeros(d.cones.zero)
    direction = d.recede(d.rng.normal(size=d.n), d.element(d.positive(chosen), zeros))
    c = d.rng.normal(size=d.n) if not near else -d.R.T @ (d.R @ d.x) - d.A.T @ d.y
    depth = NEAR * np.linalg.norm(c) if near else 1.0
    d.c = c - direction * (depth + c @ direction)
    d.s = d.element(d.positive(np.ones(d.slots, bool)), zeros)
    return d


def unbounded(d: Draft):
    return _fall(d, np.ones(d.slots, bool)).finish(Status.DUAL_INFEASIBLE)


def unbounded_by_few(d: Draft):
    """The direction moves along a face of the cone."""
    return _fall(d, _few(d)).finish(Status.DUAL_INFEASIBLE)


def unbounded_nearly(d: Draft):
    """A thousandth of c away from being bounded."""
    chosen = np.ones(d.slots, bool) if d.rng.uniform() < 0.5 else _few(d)
    return _fall(d, chosen, near=True).finish(Status.DUAL_INFEASIBLE)


def unbounded_scaled(d: Draft):
    chosen = np.ones(d.slots, bool) if d.rng.uniform() < 0.5 else _few(d)
    d = _rescale(_fall(d, chosen), "rows", "columns", "right_side", "objective")
    return d.finish(Status.DUAL_INFEASIBLE)


def infeasible_both_ways(d: Draft):
    """Neither the primal nor the dual program is feasible: either answer is right."""
    chosen = d.rng.uniform(size=d.slots) < 0.5
    chosen[d.rng.integers(d.slots)] = True
    y = d.element(d.positive(chosen), d.rng.normal(size=d.cones.zero))
    d.annihilate(y)
    g = d.element(d.positive(~chosen), np.zeros(d.cones.zero))
    direction = d.recede(d.rng.normal(size=d.n), g)
    b, c = d.rng.normal(size=len(y)), d.rng.normal(size=d.n)
    d.b = b - y * (1 + b @ y) / (y @ y)
    d.c = c - direction * (1 + c @ direction)
    return d.finish(Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)


SOLVABLE = (
    regular,
    ill_conditioned,
    scaled_rows,
    scaled_columns,
    scaled_right_side,
    scaled_objective,
    scaled_all,
    unbalanced,
    weakly_active,
    nonunique_dual,
    nonunique_primal,
    redundant_equalities,
    no_interior,
    unbounded_solutions,
    no_objective,
    zero_solution,
    empty_rows,
    nothing_but_cones,
)
UNSOLVABLE = (
    infeasible,
    infeasible_by_few,
    infeasible_nearly,
    infeasible_scaled,
    unbounded,
    unbounded_by_few,
    unbounded_nearly,
    unbounded_scaled,
    infeasible_both_ways,
)
FAMILIES: dict[str, Callable[[Draft], Program]] = {f.__name__: f for f in SOLVABLE + UNSOLVABLE}

# per cone: K and the number of variables, from small to larger
SHAPES: dict[str, tuple[tuple[Cones, int], ...]] = {
    "non-negative": (
        (Cones(zero=2, nonnegative=7), 5),
        (Cones(nonnegative=12), 6),
        (Cones(zero=6, nonnegative=30), 20),
    ),
    "second-order": (
        (Cones(second_order=(3, 3)), 3),
        (Cones(zero=2, second_order=(2, 4, 4, 5)), 8),
        (Cones(zero=3, second_order=(5,) * 6), 18),
    ),
    "semidefinite": (
        (Cones(semidefinite=(3,)), 3),
        (Cones(zero=2, semidefinite=(3, 4)), 8),
        (Cones(zero=3, semidefinite=(7,)), 14),
    ),
    "mixed": (
        (Cones(zero=2, nonnegative=3, second_order=(3,), semidefinite=(2,)), 6),
        (Cones(nonnegative=4, second_order=(3, 4), semidefinite=(3,)), 9),
        (Cones(zero=3, nonnegative=8, second_order=(5, 5, 3), semidefinite=(4, 3)), 18),
    ),
}


def applies(family: str, cones: Cones) -> bool:
    """Whether there are such programs over K: rows that repeat need two equalities."""
    return family != "redundant_equalities" or cones.zero >= 2


def random_program(family: str, cones: Cones, n: int, seed: int) -> Program:
    """The program of this family, shape and seed."""
    # spelt out, so that the programs stay the same when ``Cones`` learns of other cones
    shape = (
        f"Cones(zero={cones.zero}, nonnegative={cones.nonnegative}, "
        f"second_order={cones.second_order}, semidefinite={cones.semidefinite})"
    )
    rng = np.random.default_rng([seed, zlib.crc32(f"{family} {shape} {n}".encode())])
    return FAMILIES[family](Draft(cones, n, rng))
