"""One solver after the other, and the polish, until every item is solved to round-off or has a verdict."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...arrays.lapack import cholesky
from ...cones.spectrum import Tolerances, project, spectrum
from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solution import Status
from ...solvers import ConicPoint, Solver, host
from ...solvers.embedding import Iterate, products
from ...solvers.equilibrate import Data
from ...solvers.interior_point import choose, default_tolerance
from ...solvers.matrices import SparseMatrix
from ...solvers.termination import Sizes, largest, measure_data
from ..cone_inputs import items_of
from ..forward import (
    Measured,
    Settings,
    accuracy,
    active_pieces,
    measure_point,
    rough_tolerances,
    solve_from,
)
from ..system.system import PASSES, System, by_normal_equations, refined
from ..system.system import Solver as Inverse

_TINY = float(np.finfo(float).tiny)
# of a semidefinite cone: an iteration of Clarabel takes its sixth power, one of SCS its third
_LARGE_ORDER = 20
_DENSE = 0.2  # of the entries of A, which each iteration of SCS takes up
_CLOSE = 0.01  # eigenvalues of two elements, of which one's factor serves the other


class Found(NamedTuple):
    """The best point met, whether it is good enough, and who found it."""

    at: Measured
    good: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    solver: np.ndarray


class Stage(NamedTuple):
    """Who solves, None being a start from before; whether roughly; whether with all patience."""

    solver: Solver | None
    rough: bool = False
    last_resort: bool = False

    @property
    def first_attempt(self) -> bool:
        """Whether it is quick, and another solver will do better where it does not do well."""
        return self.rough and self.solver == Solver.SCS


def search(
    data: Data,
    cones: Cones,
    settings: Settings,
    solvers: Iterable[Stage],
) -> Found:
    """One solver after the other, for the items that the last one has not brought to round-off."""
    batch, sizes = len(data.c), measure_data(data)
    tolerance = float(settings.tolerance or default_tolerance(np.float64))
    nothing = ConicPoint(*map(np.zeros_like, (data.c, data.b, data.b)))  # written in place
    best = Found(
        measure_point(data, sizes, nothing, np.full(batch, np.inf)),
        np.zeros(batch, bool),
        np.full(batch, Status.STALLED, np.int8),
        np.zeros(batch, np.int32),
        np.full(batch, settings.solver, np.int8),
    )
    best.status[np.broadcast_to(~_is_convex(data.P, sizes.P), batch)] = Status.NOT_CONVEX
    left = np.flatnonzero(_is_finite(data) & (best.status != Status.NOT_CONVEX))
    for stage in solvers:
        solver = stage.solver
        if stage.last_resort:  # for what nobody has decided
            left = left[~best.good[left] & (best.status[left] == Status.STALLED)]
        if not len(left) or (stage.first_attempt and _density(data.A) > _DENSE):
            continue
        whole = len(left) == batch
        part = data if whole else items_of(data, left)
        part_sizes = sizes if whole else Sizes(*(_some(size, left) for size in sizes))
        new = _attempt(part, part_sizes, cones, settings, stage, tolerance)
        exact = new.good & (new.at.worst <= accuracy(np.float64))
        if stage.first_attempt:
            # of many solutions one at an edge hides pieces that one amid them, as Clarabel's, shows
            parts = active_pieces(part, new.at, cones).parts
            exact &= np.all(parts.low == parts.high, axis=-1)
        known = np.where(best.good[left], best.at.worst[left], np.inf)
        better = new.good & (new.at.worst <= np.maximum(known, accuracy(np.float64)))
        better |= ~best.good[left]
        if whole and better.all():
            best = new
        else:
            put_in(best, left[better], new, better)
        # a solver that fails is followed by the next; Clarabel's word on what has no solution counts
        said = new.status != Status.SOLVED
        if settings.followed:
            said &= new.status != Status.STALLED
        final = exact | said if solver == Solver.CLARABEL else exact
        left = left[~final]
    if settings.warm_start is not None and (starts := settings.warm_start()) is not None:
        for item in np.flatnonzero(best.good).tolist():
            starts.keep(
                _entries(data, item), np.concatenate([part[item] for part in best.at.point])
            )
    return best


def stages(settings: Settings, cones: Cones) -> Iterator[Stage]:
    """Who solves, in which order."""
    if settings.warm_start is not None:
        yield Stage(None, True)
    solver = settings.solver
    if solver == Solver.MOREAU:
        yield Stage(solver)
        if not (settings.followed and host.is_installed(Solver.CLARABEL)):
            return
        solver = Solver.CLARABEL
    if solver == Solver.CLARABEL and settings.tolerance is None:
        large = max(cones.semidefinite, default=0) >= _LARGE_ORDER
        if large and settings.followed and host.is_installed(Solver.SCS):
            yield Stage(Solver.SCS, rough=True)
        yield Stage(solver, rough=True)
    yield Stage(solver)
    if settings.followed:
        yield Stage(solver, last_resort=True)
        if host.is_installed(Solver.SCS):
            yield Stage(Solver.SCS, last_resort=True)


def _attempt(
    data: Data,
    sizes: Sizes,
    cones: Cones,
    settings: Settings,
    stage: Stage,
    tolerance: float,
) -> Found:
    solver, rough, _ = stage
    batch, n = data.c.shape
    m = data.b.shape[1]
    solve = _starts(data, settings) if solver is None else _of_solver(data, cones, settings, stage)
    answers = [solve(item) for item in range(batch)]
    point = ConicPoint(
        np.array([answer.x for answer, _ in answers]).reshape(batch, n),
        np.array([answer.y for answer, _ in answers]).reshape(batch, m),
        np.array([answer.s for answer, _ in answers]).reshape(batch, m),
    )
    status = np.array([answer.status for answer, _ in answers], np.int8)
    iterations = np.array([answer.iterations for answer, _ in answers], np.int32)
    gap = np.array([gap for _, gap in answers])
    usable = status == Status.SOLVED
    if not stage.first_attempt:
        usable |= (status == Status.STALLED) | (status == Status.MAX_ITERATIONS)
    found = measure_point(data, sizes, point, gap)
    at = _polish(data, sizes, found, usable, 6 if rough else 2, cones)
    good = usable & (at.worst <= 2 * tolerance)
    status = np.where(good, Status.SOLVED, status).astype(np.int8)
    status = np.where(~good & (status == Status.SOLVED), Status.STALLED, status).astype(np.int8)
    asked = ~good if stage.last_resort else status == Status.STALLED
    if solver in (Solver.CLARABEL, Solver.SCS) and asked.any():
        # where a solver gave up a step before a certificate, its last point may be one
        last = _certificates(data, sizes, point, cones)
        status = np.where(asked, last, status).astype(np.int8)
    name = settings.solver if solver is None else solver
    return Found(at, good, status, iterations, np.full(batch, name, np.int8))


def _certificates(data: Data, sizes: Sizes, point: ConicPoint, cones: Cones) -> np.ndarray:
    """STALLED, or what (x, s) or y prove when they are taken for rays; the limits are ``judge``'s."""
    x, y, s = (np.where(np.isfinite(part), part, 0.0) for part in point)
    y, s = project(y, cones), s + project(-s, cones)
    one = np.ones(len(x))
    Px, Aty, Ax = products(data, Iterate(x, y, s, one, one))
    norm_x, norm_y = np.maximum(largest(x), _TINY), np.maximum(largest(y), _TINY)
    of_y = largest(Aty) / np.maximum(sizes.A_columns * norm_y, _TINY)
    of_x = np.maximum(
        largest(Px) / np.maximum(sizes.P_rows * norm_x, _TINY),
        largest(Ax + s) / np.maximum(sizes.A_rows * norm_x, _TINY),
    )
    gain_y = -np.sum(data.b * y, axis=-1) / np.maximum(sizes.b * norm_y, _TINY)
    gain_x = -np.sum(data.c * x, axis=-1) / np.maximum(sizes.c * norm_x, _TINY)
    strict = default_tolerance(np.float64) ** 0.9
    clear = 1e-2 * strict**0.5
    status = np.full(len(x), Status.STALLED, np.int8)
    status[(of_x <= strict) & (gain_x > clear)] = Status.DUAL_INFEASIBLE
    status[(of_y <= strict) & (gain_y > clear)] = Status.PRIMAL_INFEASIBLE
    return status


def _of_solver(
    data: Data, cones: Cones, settings: Settings, stage: Stage
) -> Callable[[int], tuple[host.Answer, float]]:
    solver = stage.solver
    assert solver is not None
    if stage.last_resort:
        solve = host.patient_solver(solver, cones)
    else:
        limits = settings.tolerance, settings.max_iterations
        solve = host.solver_of_item(solver, cones, *limits, stage.rough)

    if solver == Solver.MOREAU and not isinstance(data.A, SparseMatrix):
        P_of, A_of = (lambda item, part=part: part[item % len(part)] for part in (data.P, data.A))
    else:
        P_of, A_of = host.matrices_of(data.P), host.matrices_of(data.A)

    def one(item: int) -> tuple[host.Answer, float]:
        P, A = P_of(item), A_of(item)
        answer = solve(P, data.c[item], A, data.b[item])
        if solver == Solver.MOREAU:  # complementary by construction
            return answer, 0.0
        return answer, host.relative_gap(P, data.c[item], data.b[item], answer)

    return one


def _starts(data: Data, settings: Settings) -> Callable[[int], tuple[host.Answer, float]]:
    starts = settings.warm_start() if settings.warm_start is not None else None
    n, m = data.c.shape[1], data.b.shape[1]
    P_of = host.matrices_of(data.P)

    def one(item: int) -> tuple[host.Answer, float]:
        start = None
        if starts is not None:
            start = starts.nearest(_entries(data, item), n + 2 * m)
        if start is None:
            return host.nothing(Status.DIVERGED, n, m), np.nan
        answer = host.Answer(Status.SOLVED, 0, *np.split(start, [n, n + m]))
        return answer, host.relative_gap(P_of(item), data.c[item], data.b[item], answer)

    return one


def _entries(data: Data, item: int) -> tuple[np.ndarray, ...]:
    """What tells a program from others of its shape."""
    values = (part.values if isinstance(part, SparseMatrix) else part for part in data)
    return tuple(part[item % len(part)] for part in values)


class _Factored(NamedTuple):
    """A step of the polish with factors of its own: items, eigenvalues d, U(V)⁻¹, and where it led."""

    items: np.ndarray
    d: np.ndarray
    inverse: Inverse
    solution: tuple[np.ndarray, np.ndarray]

    def serves(self, items: np.ndarray, d: np.ndarray) -> bool:
        """Whether these items have nearly the same elements, so that refinement makes up for the rest."""
        return np.array_equal(self.items, items) and bool(np.all(abs(self.d - d) <= _CLOSE))


def _polish(
    data: Data,
    sizes: Sizes,
    found: Measured,
    usable: np.ndarray,
    first: int,
    cones: Cones,
) -> Measured:
    """As ``forward``'s polish, for the items alone that are not there yet.

    Where every row is active or not, and nothing is off, there is nothing to do.
    """
    goal, best = accuracy(np.float64), found
    taken = np.zeros(len(usable), bool)
    v = start = found.point.dual - found.point.slack
    if cones.polyhedral:
        y, s = found.point.dual, found.point.slack
        rows = slice(cones.zero, None)
        whole = np.all((y * s)[:, rows] == 0, axis=-1) & np.all(y[:, rows] >= 0, axis=-1)
        whole &= np.all(s[:, rows] >= 0, axis=-1) & np.all(s[:, : cones.zero] == 0, axis=-1)
        plain = found._replace(gap=np.zeros_like(found.gap))
        taken = whole & (plain.worst <= goal)
        best = choose(taken, plain, best)
    last: _Factored | None = None
    for step in range(first + 4):
        rough = np.flatnonzero(usable & ~(taken & (best.worst <= goal)))
        if not len(rough):
            break
        part = items_of(data, rough)
        of_part = Sizes(*(_some(size, rough) for size in sizes))
        origin = _items(found, rough)
        # where the signs lead nowhere, keep what is active within the tolerance, then leave it out
        wider, narrower = step == first, step == first + 2
        tolerances: Tolerances | None = None
        at = v[rough]
        if wider or narrower:
            tolerances = rough_tolerances(part, origin, origin.worst, machine_epsilon(np.float64))
            at = start[rough]
        parts = spectrum(at, tolerances, cones)
        d = parts.high if wider else parts.low
        system = System(part.P, part.A, parts.basis, d, cones)
        # from the point found: what the pieces leave free stays where it is, inside its set
        base = origin.point.primal[..., None], start[rough][..., None]
        sides = -part.c[..., None], part.b[..., None]
        if isinstance(part.A, SparseMatrix):
            x, moved = solve_from(base, system, *sides)
        elif last is not None and last.serves(rough, d):
            # Newton's simplified step (Kelley, Iterative methods for linear and nonlinear equations, 1995)
            x, moved = refined(last.inverse, system.product, *sides, last.solution, PASSES)[0]
            last = None
        else:
            inverse = system.inverse(by_normal_equations(system))
            x, moved = refined(inverse, system.product, *sides, base, PASSES)[0]
            last = _Factored(rough, d, inverse, (x, moved))
        x, moved = x[..., 0], moved[..., 0]
        y = project(moved, cones)
        new = measure_point(part, of_part, ConicPoint(x, y, y - moved), np.zeros(len(rough)))
        new = new._replace(residuals=_strictly(new.residuals, origin.residuals))
        # no NaN is smaller than anything
        take = new.worst < np.maximum(best.worst[rough], goal)
        v = v.copy()
        v[rough] = moved
        best = _merge(best, rough[take], _items(new, np.flatnonzero(take)))
        taken[rough[take]] = True
    return best


def _strictly(new: Any, old: Any) -> Any:
    """Beside the smaller terms: those of a point that runs away hide its residual."""
    return new._replace(
        primal_scale=np.minimum(new.primal_scale, old.primal_scale),
        dual_scale=np.minimum(new.dual_scale, old.dual_scale),
    )


def _map(change: Callable[..., np.ndarray], *measured: Measured) -> Measured:
    first = measured[0]
    point = ConicPoint(*(change(*own) for own in zip(*(m.point for m in measured), strict=True)))
    kind = type(first.residuals)
    residuals = kind(*(change(*own) for own in zip(*(m.residuals for m in measured), strict=True)))
    return Measured(point, residuals, change(*(m.gap for m in measured)))


def _items(at: Measured, items: np.ndarray) -> Measured:
    return _map(lambda part: part[items], at)


def _merge(at: Measured, items: np.ndarray, new: Measured) -> Measured:
    """With these items replaced."""
    if not len(items):
        return at

    def put(part: np.ndarray, own: np.ndarray) -> np.ndarray:
        part = part.copy()
        part[items] = own
        return part

    return _map(put, at, new)


def put_in(best: Found, items: np.ndarray, new: Found, which: np.ndarray) -> None:
    """Those of ``new`` in the places of ``best``."""

    def put(part: np.ndarray, own: np.ndarray) -> np.ndarray:
        part[items] = own[which]
        return part

    _map(put, best.at, new.at)
    for part, own in zip(best[1:], new[1:], strict=True):
        put(part, own)


def _some(part: np.ndarray, items: np.ndarray) -> np.ndarray:
    return part if len(part) == 1 and math.prod(part.shape) else part[items]


def _density(A: Any) -> float:
    """The share of entries that are not zero."""
    entries = A.rows.size if isinstance(A, SparseMatrix) else np.count_nonzero(A) / len(A)
    return entries / max(math.prod(A.shape[-2:]), 1)


def _is_finite(data: Data) -> np.ndarray:
    finite = np.ones(len(data.c), bool)
    for part in data:
        values = part.values if isinstance(part, SparseMatrix) else part
        finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return finite


def _is_convex(P: Any, size: np.ndarray) -> np.ndarray:
    """Whether P is positive semidefinite up to √eps of its size, which rounding of the data allows.

    Of sparse ones Clarabel's factors would tell: their diagonals alone are looked at.
    """
    slack = machine_epsilon(np.float64) ** 0.5 * np.where(size > 0, size, 1.0)
    if isinstance(P, SparseMatrix):
        own = np.where(P.rows == P.columns, P.values, 0.0)
        return np.min(own, axis=-1, initial=0.0) >= -slack
    diagonal = np.diagonal(P, axis1=-2, axis2=-1)
    plain = np.count_nonzero(P) == np.count_nonzero(diagonal)
    if plain:
        return np.min(diagonal, axis=-1, initial=0.0) >= -slack
    L = cholesky(P + slack[:, None, None] * np.eye(P.shape[-1]))
    return np.all(np.isfinite(np.diagonal(L, axis1=-2, axis2=-1)), axis=-1)
