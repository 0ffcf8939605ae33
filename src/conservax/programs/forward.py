"""Forward: a solver, semismooth Newton steps on the pieces that it identified, and
the element of the derivative and the certificate there. All in equilibrated data.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays.namespace import Array, namespace
from ..cones.spectrum import Spectrum, Tolerances, project, spectrum
from ..cones.table import Cones
from ..numerics import machine_epsilon
from ..solution import Solution, Status
from ..solvers import ConicPoint, Solver
from ..solvers.embedding import Iterate, products
from ..solvers.equilibrate import Data, Scaling, equilibrate
from ..solvers.interior_point import choose, default_tolerance, solve_definite, solve_scaled
from ..solvers.matrices import Matrix, SparseMatrix, plus_diagonal, row_norms
from ..solvers.termination import Residuals, Sizes, measure, measure_data
from ..solvers.warm_start import WeakStarts
from .system.sparse_system import by_sparse_factor, sparse_two_tests
from .system.system import PASSES, System, by_normal_equations, idle_variables, refined, touched
from .system.two_tests import TwoTests, two_tests

_STEPS = 60  # of the interior-point method, at most


class Settings(NamedTuple):
    """What a program is solved with; see ``ConeProgram`` for ``auxiliary`` as well.

    ``definite``: whether P is known to be positive definite, and not by a hair. ``warm_start``: for
    solvers on the host; a reference, since compiled programs outlive their users. ``followed``: whether
    another solver takes what this one has left.
    """

    tolerance: float | None
    max_iterations: int | None
    selection: str
    solver: Solver
    definite: bool
    auxiliary: tuple[int, ...]
    warm_start: WeakStarts | None
    followed: bool = False


class Outcome(NamedTuple):
    """Of a batch: the solution in user units, NaN where there is none, and what is known of it.

    ``v`` = ŷ − ŝ, ``scaling``, and ``basis`` and eigenvalues ``d`` of the chosen element there
    belong to the equilibrated program. ``idle``: 1 for variables that the derivative leaves out.
    ``weak``: eigenvalues of v that count as zero; ``decided``: whether there are none, so that there is
    one element.
    """

    x: Array
    y: Array
    s: Array
    v: Array
    status: Array
    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array
    tests: TwoTests
    scaling: Scaling
    basis: tuple[Any, ...]
    d: Array
    idle: Array
    weak: Array
    decided: Array


class Measured(NamedTuple):
    """A point of the equilibrated program with its residuals; ``gap`` relative as well."""

    point: ConicPoint
    residuals: Residuals
    gap: Array

    @property
    def worst(self) -> Array:
        return namespace(self.gap).maximum(self.residuals.relative(), self.gap)


def measure_point(data: Data, sizes: Sizes, point: ConicPoint, gap: Array) -> Measured:
    """The residuals at a point whose gap is known."""
    x, y, s = point
    one = namespace(gap).ones_like(gap)
    iterate = Iterate(x, y, s, one, one)
    return Measured(point, measure(data, sizes, iterate, products(data, iterate)), gap)


class ActivePieces(NamedTuple):
    """v = ŷ − ŝ, within what its eigenvalues count as zero, and the elements there."""

    v: Array
    tolerances: Tolerances
    parts: Spectrum


def active_pieces(data: Data, at: Measured, cones: Cones, eps: float | None = None) -> ActivePieces:
    """Which pieces are active: within √eps of the terms that made v, or of the root of the residual.

    Without strict complementarity the distance to the kink is the square root of the residual. ``eps``:
    of the data, where that is coarser than of the arithmetic.
    """
    eps = eps or machine_epsilon(data.c.dtype)
    accurate = at.worst <= accuracy(data.c.dtype)
    tolerances = rough_tolerances(data, at, namespace(at.worst).where(accurate, 0.0, at.worst), eps)
    v = at.point.dual - at.point.slack
    parts = _with_empty_rows(spectrum(v, tolerances, cones), data.A, cones)
    # how far a rough point is from its kinks is not known: its error may be a root of the residual
    return ActivePieces(v, tolerances, parts._replace(bounded=parts.bounded & accurate))


def _with_empty_rows(parts: Spectrum, A: Matrix, cones: Cones) -> Spectrum:
    """A row 0ᵀx ≤ b without slack is active, whatever its multiplier: every one is optimal, and which of them

    the solver met says nothing of the derivative. What depends on that row's own data is not determined.
    """
    xp = namespace(parts.low)
    inequality = np.zeros(cones.size, bool)
    inequality[cones.rows_of(polyhedral=True)] = True
    held = inequality & (row_norms(A) == 0) & (parts.high > 0)
    return parts._replace(low=xp.where(held, 1.0, parts.low).astype(parts.low.dtype))


def accuracy(dtype: Any) -> float:
    """What a polished point reaches, relative to its terms."""
    return 200 * machine_epsilon(dtype)


def rough_tolerances(data: Data, at: Measured, residual: Array, eps: float) -> Tolerances:
    """An eigenvalue of the dual counts against Aᵀy's terms, one of the slack against b's."""
    xp = namespace(residual)
    rtol = xp.sqrt(xp.maximum(eps, residual))
    rows = row_norms(data.A)
    dual = (rtol * at.residuals.dual_scale)[:, None] / xp.where(rows > 0, rows, 1.0)
    slack = xp.broadcast_to((rtol * at.residuals.primal_scale)[:, None], dual.shape)
    return Tolerances(dual, slack)


class _Polish(NamedTuple):
    """The best point met, whether a step found it, and where the next step starts."""

    at: Measured
    taken: Array
    v: Array
    step: Array


def _polish(
    data: Data, sizes: Sizes, found: Measured, usable: Array, first: Array | int, cones: Cones
) -> Measured:
    """Semismooth Newton steps from v = y − s, ``first`` and four more; the best point met is kept."""
    P, c, A, b = data
    goal = accuracy(c.dtype)
    start = found.point.dual - found.point.slack
    base = found.point.primal[..., None], start[..., None]

    def strictly(new: Residuals) -> Residuals:
        """Beside the smaller terms: those of a point that runs away hide its residual."""
        old = found.residuals
        return new._replace(
            primal_scale=jnp.minimum(new.primal_scale, old.primal_scale),
            dual_scale=jnp.minimum(new.dual_scale, old.dual_scale),
        )

    def advance(carry: _Polish) -> _Polish:
        # where the signs lead nowhere, keep what is active within the tolerance, then leave it out
        wider, narrower = carry.step == first, carry.step == first + 2
        anew = wider | narrower
        tolerances = rough_tolerances(data, found, found.worst, machine_epsilon(c.dtype))
        tolerances = jax.tree.map(lambda t: jnp.where(anew, t, 0.0), tolerances)
        parts = spectrum(jnp.where(anew, start, carry.v), tolerances, cones)
        d = jnp.where(wider, parts.high, parts.low)
        # from the point found: what the pieces leave free stays where it is, inside its set
        system = System(P, A, parts.basis, d, cones)
        x, v = solve_from(base, system, -c[..., None], b[..., None])
        x, v = x[..., 0], v[..., 0]
        y = project(v, cones)
        new = measure_point(data, sizes, ConicPoint(x, y, y - v), jnp.zeros_like(found.gap))
        new = new._replace(residuals=strictly(new.residuals))
        # no NaN is smaller than anything
        take = (new.worst < jnp.maximum(carry.at.worst, goal)) & rough(carry)
        return _Polish(choose(take, new, carry.at), carry.taken | take, v, carry.step + 1)

    def rough(carry: _Polish) -> Array:
        """Per item: however small its residual, a point with a gap is the root of it from the truth."""
        return usable & ~(carry.taken & (carry.at.worst <= goal))

    def unfinished(carry: _Polish) -> Array:
        return (carry.step < first + 4) & jnp.any(rough(carry))

    at_start = _Polish(found, jnp.zeros_like(usable), start, jnp.array(0))
    return lax.while_loop(unfinished, advance, at_start).at


def solve_from(
    base: tuple[Array, Array], system: System, upper: Array, lower: Array
) -> tuple[Array, Array]:
    """U(V)⁻¹ (upper, lower), and if there are several the one next to ``base``."""
    if isinstance(system.A, SparseMatrix):
        symmetric, passes = by_sparse_factor(system, probed=False), 1
    else:
        symmetric, passes = by_normal_equations(system), PASSES
    return refined(system.inverse(symmetric), system.product, upper, lower, base, passes)[0]


def solve_and_polish(user: Data, cones: Cones, settings: Settings) -> Outcome:
    """The solution of each item, an element of the derivative there, and its certificate."""
    dtype = user.c.dtype
    tolerance = settings.tolerance or default_tolerance(dtype)
    scaling = equilibrate(*user, cones)
    data = scaling.apply(user)
    sizes = measure_data(data)
    found, at, good = _solve(data, sizes, cones, settings, float(tolerance))
    lost = jnp.where(found.status == Status.SOLVED, Status.STALLED, found.status)
    status = jnp.where(good, Status.SOLVED, lost).astype(jnp.int8)

    v, _, parts = active_pieces(data, at, cones)
    certificate = _certify(data, parts, cones, settings.auxiliary)
    tests = TwoTests(
        jnp.where(good, certificate.verdict, 0).astype(jnp.int8),
        jnp.where(good, certificate.margin, 0.0),
    )
    x, y, s = scaling.undo(at.point)
    residuals = user_residuals(user, x, y, s)
    nan = jnp.where(good, 1.0, jnp.nan).astype(dtype)[:, None]
    x, y, s = x * nan, y * nan, s * nan
    d = parts.high if settings.selection == "upper" else parts.low
    return Outcome(
        x,
        y,
        s,
        v * nan,
        status,
        found.stats.iterations,
        *residuals,
        tests,
        scaling,
        parts.basis,
        d,
        idle_variables(data.P, data.A, parts.basis, d, cones, settings.auxiliary),
        parts.low != parts.high,
        jnp.all(parts.low == parts.high, axis=-1) & parts.bounded,
    )


def without_idle(
    data: Data, parts: Spectrum, cones: Cones, auxiliary: tuple[int, ...]
) -> tuple[Any, Array]:
    """P with a 1 for each idle variable, and whether that changes no element, (batch,).

    It does where a weakly active row touches one: at other elements that row holds the variable.
    """
    idle = idle_variables(data.P, data.A, parts.basis, parts.low, cones, auxiliary)
    weak = touched(data.A, parts.basis, parts.high > parts.low, cones) & (idle > 0)
    return plus_diagonal(data.P, idle), ~namespace(weak).any(weak, axis=-1)


def held(
    data: Data, parts: Spectrum, cones: Cones, auxiliary: tuple[int, ...]
) -> tuple[Data, Spectrum]:
    """What the two tests are asked of: idle variables left out as far as they may be."""
    if not auxiliary:
        return data, parts
    P, left_out = without_idle(data, parts, cones, auxiliary)
    return data._replace(P=P), parts._replace(bounded=parts.bounded & left_out)


def _certify(data: Data, parts: Spectrum, cones: Cones, auxiliary: tuple[int, ...]) -> TwoTests:
    data, parts = held(data, parts, cones, auxiliary)
    if isinstance(data.A, SparseMatrix):
        return sparse_two_tests(data.P, data.A, parts, cones, machine_epsilon(float))
    return two_tests(data.P, data.A, parts, cones)


def _solve(
    data: Data, sizes: Sizes, cones: Cones, settings: Settings, tolerance: float
) -> tuple[Solution, Measured, Array]:
    """What the interior-point method found, the polished point, and whether that is good enough."""
    steps = _STEPS if settings.max_iterations is None else settings.max_iterations
    if settings.definite:
        found = solve_definite(data, cones, tolerance, steps)
    else:
        found = solve_scaled(data, None, cones, tolerance, steps)
    usable = (found.status == Status.SOLVED) | (found.status == Status.STALLED)
    usable = usable | (found.status == Status.MAX_ITERATIONS)
    rough = measure_point(data, sizes, found.value, found.stats.gap)
    at = _polish(data, sizes, rough, usable, 2, cones)
    return found, at, usable & (at.worst <= 2 * tolerance)


def user_residuals(user: Data, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
    """‖Ax + s − b‖∞, ‖Px + Aᵀy + c‖∞ and |sᵀy|."""
    xp = namespace(x)
    one = xp.ones_like(x[:, 0])
    Px, Aty, Ax = products(user, Iterate(x, y, s, one, one))
    primal = xp.max(abs(Ax + s - user.b), axis=-1, initial=0.0)
    dual = xp.max(abs(Px + Aty + user.c), axis=-1, initial=0.0)
    return primal, dual, abs(xp.sum(s * y, axis=-1))
