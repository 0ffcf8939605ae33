"""The host engine: batches of programs solved with NumPy and LAPACK, which trace and compile nothing.

A batch is cut into portions, which threads take; each portion is solved by solvers that are not
trusted: residuals, the polish and the pieces decide, and the next solver takes what one has left.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...cones.spectrum import Spectrum
from ...cones.table import Cones
from ...solution import Status
from ...solvers import ConicPoint, Solver, host
from ...solvers.equilibrate import Data, Scaling, equilibrate
from ...solvers.matrices import SparseMatrix
from ...solvers.termination import measure_data
from ...solvers.threads import PROCESSORS, threaded
from ..cone_inputs import items_of
from ..forward import Measured, Settings, accuracy, active_pieces, measure_point, user_residuals
from .place import Place
from .search import Stage, put_in, search, stages

_CACHED = 1 << 20  # bytes of one matrix of each item of a portion
_WORTH = 14_000_000  # operations below which a thread waits for the interpreter more than it works
_ENTRIES = 2500  # of P and A, sparse, likewise


class Answered(NamedTuple):
    """Of a batch, in user units: the solution, NaN where there is none, and what is known of it."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    primal_residual: np.ndarray
    dual_residual: np.ndarray
    gap: np.ndarray
    solver: np.ndarray


def solve_programs(
    user: Data, cones: Cones, settings: Settings, eps: float
) -> tuple[Answered, list[Place]]:
    """A batch in double precision, P and A with one item where all share it; and where it is differentiated.

    ``eps``: of the data, which decides what counts as zero.
    """
    portions = list(_portions(user))

    def run(k: int) -> tuple[Answered, Place]:
        return _solve_portion(items_of(user, portions[k]), cones, settings, eps)

    found = threaded(run, len(portions), max(user.c.shape[1], user.b.shape[1]))
    parts = zip(*(answered for answered, _ in found), strict=True)
    if len(found) == 1:
        return found[0][0], [found[0][1]]
    return Answered(*map(np.concatenate, parts)), [place for _, place in found]


def _portions(user: Data) -> Iterator[np.ndarray]:
    """Which items go together: as many as the caches hold, and work for every thread."""
    batch, n = user.c.shape
    m = user.b.shape[1]
    if isinstance(user.A, SparseMatrix):
        entries = user.A.rows.size + user.P.rows.size
        count = min(batch, 2 * PROCESSORS) if entries > _ENTRIES else 1
    else:
        work = batch * (n + m) * max(n, m) ** 2
        count = max(
            min(batch, PROCESSORS, -(-work // _WORTH)),
            -(-batch * max(n * n, n * m, m * m) * 8 // _CACHED) if batch > 1 else 1,
        )
        count = min(count, batch)
    yield from np.array_split(np.arange(batch), max(count, 1))


def _solve_portion(
    user: Data, cones: Cones, settings: Settings, eps: float
) -> tuple[Answered, Place]:
    with np.errstate(all="ignore"):  # of failed items
        scaling = equilibrate(*user, cones)
        data = scaling.apply(user)
        found = search(data, cones, settings, stages(settings, cones))
        place = _place(data, scaling, found.at, found.good, cones, settings, eps)
        of_moreau = found.good & (found.solver == Solver.MOREAU) & ~place.single
        if settings.followed and of_moreau.any() and host.is_installed(Solver.CLARABEL):
            # a vertex of many solutions hides pieces that one amid them shows
            items = np.flatnonzero(of_moreau & (place.tests.verdict != 1))
            own = search(items_of(data, items), cones, settings, [Stage(Solver.CLARABEL, True)])
            exact = own.good & (own.at.worst <= accuracy(np.float64))
            if exact.any():
                put_in(found, items[exact], own, exact)
                place = _place(data, scaling, found.at, found.good, cones, settings, eps)
        x, y, s = scaling.undo(found.at.point)
        residuals = user_residuals(user, x, y, s)
        nan = np.where(found.good, 1.0, np.nan)[:, None]
        answered = Answered(
            x * nan,
            y * nan,
            s * nan,
            np.where(found.good, Status.SOLVED, found.status).astype(np.int8),
            found.iterations,
            *residuals,
            found.solver,
        )
        return answered, place


def _place(
    data: Data,
    scaling: Scaling,
    at: Measured,
    known: np.ndarray,
    cones: Cones,
    settings: Settings,
    eps: float,
) -> Place:
    """Where points are differentiated, those that are known to be solutions."""
    parts = active_pieces(data, at, cones, eps).parts
    if not np.all(known):  # nothing is known there
        parts = _blank(parts, known)
    upper = settings.selection == "upper"
    return Place(data, scaling, cones, parts, upper, known, settings.auxiliary, eps)


def _blank(parts: Spectrum, good: np.ndarray) -> Spectrum:
    """With harmless pieces where nothing was found."""
    mask = good[:, None]
    low, high = np.where(mask, parts.low, 0.0), np.where(mask, parts.high, 0.0)
    basis = tuple(
        None if own is None else np.where(np.isfinite(own), own, 0.0) for own in parts.basis
    )
    return Spectrum(basis, low, high, parts.bounded)


def place_of(user: Data, point: ConicPoint, cones: Cones, settings: Settings, eps: float) -> Place:
    """Where solutions found before are differentiated, NaN standing for none."""
    with np.errstate(all="ignore"):
        known = np.all(np.isfinite(point.primal), axis=-1)
        scaling = equilibrate(*user, cones)
        data = scaling.apply(user)
        safe = ConicPoint(*(np.where(known[:, None], part, 0.0) for part in point))
        at = measure_point(
            data, measure_data(data), scaling.apply_point(safe), np.zeros(len(data.c))
        )
        return _place(data, scaling, at, known, cones, settings, eps)
