"""Forward: a solver, semismooth Newton steps on the pieces that it identified, and
the element of the derivative and the certificate there. All in equilibrated data.
"""

import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..numerics import machine_epsilon
from ..solution import Solution, Status
from ..solvers import Cones, ConicPoint, Solver
from ..solvers.cones import Array
from ..solvers.embedding import Iterate, products
from ..solvers.equilibrate import Data, Scaling, equilibrate
from ..solvers.host import Wanted, keep_on_host, solve_on_host
from ..solvers.interior_point import choose, default_tolerance, solve_definite, solve_scaled
from ..solvers.matrices import SparseMatrix, plus_diagonal, row_norms
from ..solvers.termination import Residuals, Sizes, measure, measure_data
from ..solvers.warm_start import WarmStart
from .sparse_system import by_sparse_factor, sparse_two_tests
from .spectrum import Spectrum, Tolerances, project, spectrum
from .system import PASSES, System, by_normal_equations, idle_variables, refined, touched
from .two_tests import TwoTests, two_tests

_STEPS = 60  # of the interior-point method, at most


class Settings(NamedTuple):
    """What a program is solved with; see ``ConeProgram`` for ``auxiliary`` as well.

    ``definite``: whether P is known to be positive definite, and not by a hair. ``warm_start``: for
    solvers on the host, in double precision; a reference, since compiled programs outlive their users.
    """

    tolerance: float | None
    max_iterations: int | None
    selection: str
    solver: Solver
    definite: bool
    auxiliary: tuple[int, ...]
    warm_start: "weakref.ref[WarmStart] | None"


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
        return jnp.maximum(self.residuals.relative(), self.gap)


def measure_point(data: Data, sizes: Sizes, point: ConicPoint, gap: Array) -> Measured:
    """The residuals at a point whose gap is known."""
    x, y, s = point
    one = jnp.ones_like(gap)
    iterate = Iterate(x, y, s, one, one)
    return Measured(point, measure(data, sizes, iterate, products(data, iterate)), gap)


class ActivePieces(NamedTuple):
    """v = ŷ − ŝ, within what its eigenvalues count as zero, and the elements there."""

    v: Array
    tolerances: Tolerances
    parts: Spectrum


def active_pieces(data: Data, at: Measured, cones: Cones) -> ActivePieces:
    """Which pieces are active: within √eps of the terms that made v, or of the root of the residual.

    Without strict complementarity the distance to the kink is the square root of the residual.
    """
    accurate = at.worst <= accuracy(data.c.dtype)
    tolerances = _tolerances(data, at, jnp.where(accurate, 0.0, at.worst))
    v = at.point.dual - at.point.slack
    return ActivePieces(v, tolerances, spectrum(v, tolerances, cones))


def accuracy(dtype: Any) -> float:
    """What a polished point reaches, relative to its terms."""
    return 200 * machine_epsilon(dtype)


def _tolerances(data: Data, at: Measured, residual: Array) -> Tolerances:
    """An eigenvalue of the dual counts against Aᵀy's terms, one of the slack against b's."""
    rtol = jnp.sqrt(jnp.maximum(machine_epsilon(data.c.dtype), residual))
    rows = row_norms(data.A)
    dual = (rtol * at.residuals.dual_scale)[:, None] / jnp.where(rows > 0, rows, 1.0)
    slack = jnp.broadcast_to((rtol * at.residuals.primal_scale)[:, None], dual.shape)
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
        tolerances = _tolerances(data, found, found.worst)
        tolerances = jax.tree.map(lambda t: jnp.where(anew, t, 0.0), tolerances)
        parts = spectrum(jnp.where(anew, start, carry.v), tolerances, cones)
        d = jnp.where(wider, parts.high, parts.low)
        # from the point found: what the pieces leave free stays where it is, inside its set
        system = System(P, A, parts.basis, d, cones)
        x, v = _solve_from(base, system, -c[..., None], b[..., None])
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


def _solve_from(
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
    from_double = settings.solver != Solver.INTERIOR_POINT and dtype != jnp.float64
    if from_double:  # exact factors: rounded data would cost what the host gains
        scaling = jax.tree.map(_power_of_two, scaling)
    data = scaling.apply(user)
    sizes = measure_data(data)
    found, rough, at, good = _solve_in_two(data, sizes, cones, settings, float(tolerance))
    if settings.warm_start is not None:
        good = keep_on_host(settings.warm_start, data, at.point, good)
    lost = jnp.where(found.status == Status.SOLVED, Status.STALLED, found.status)
    status = jnp.where(good, Status.SOLVED, lost).astype(jnp.int8)

    v, _, parts = active_pieces(data, at, cones)
    certificate = certify(data, parts, cones, settings.auxiliary)
    tests = TwoTests(
        jnp.where(good, certificate.verdict, 0).astype(jnp.int8),
        jnp.where(good, certificate.margin, 0.0),
    )
    # a point found in double and rounded is better than one polished in single, its pieces are not
    kept = from_double & (found.status == Status.SOLVED) & (rough.worst <= accuracy(dtype))
    x, y, s = scaling.undo(choose(kept, rough.point, at.point))
    residuals = _user_residuals(user, x, y, s)
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


def _power_of_two(factor: Array) -> Array:
    return jnp.exp2(jnp.round(jnp.log2(factor)))


def certify(data: Data, parts: Spectrum, cones: Cones, auxiliary: tuple[int, ...]) -> TwoTests:
    """The two tests, idle variables left out; open where a weakly active row touches one of them."""
    if auxiliary:
        idle = idle_variables(data.P, data.A, parts.basis, parts.low, cones, auxiliary)
        weak = touched(data.A, parts.basis, parts.high > parts.low, cones) & (idle > 0)
        parts = parts._replace(bounded=parts.bounded & ~jnp.any(weak, axis=-1))
        data = data._replace(P=plus_diagonal(data.P, idle))
    if isinstance(data.A, SparseMatrix):
        return sparse_two_tests(data.P, data.A, parts, cones)
    return two_tests(data.P, data.A, parts, cones)


class _Solved(NamedTuple):
    """What a solver found, its residuals, the polished point, and whether that is good enough."""

    found: Solution
    rough: Measured
    at: Measured
    good: Array


def _solve_in_two(
    data: Data, sizes: Sizes, cones: Cones, settings: Settings, tolerance: float
) -> _Solved:
    """Solved and polished; on the host roughly at first, and fully what the polish does not bring to round-off.

    Rough is a warm start, or what Clarabel finds some iterations before its tolerance.
    """
    loose = settings.solver == Solver.CLARABEL and settings.tolerance is None
    loose = loose and data.c.dtype == jnp.float64
    if not loose and settings.warm_start is None:
        return _solve(data, sizes, cones, settings, tolerance, None)

    def advance(carry: tuple[Array, Array, _Solved]) -> tuple[Array, Array, _Solved]:
        step, lacking, before = carry
        wanted = Wanted(lacking, step == 0)
        new = _solve(data, sizes, cones, settings, tolerance, wanted)
        rough = wanted.rough & (loose | (new.found.stats.iterations == 0))
        exact = new.at.worst <= accuracy(data.c.dtype)
        again = lacking & rough & (new.found.status == Status.SOLVED) & ~exact
        return step + 1, again, choose(lacking, new, before)

    def unfinished(carry: tuple[Array, Array, _Solved]) -> Array:
        step, lacking, _ = carry
        return (step < 2) & jnp.any(lacking)

    everything = jnp.ones(len(data.c), bool)
    shapes = jax.eval_shape(lambda: _solve(data, sizes, cones, settings, tolerance, None))
    nothing = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), shapes)
    return lax.while_loop(unfinished, advance, (jnp.array(0), everything, nothing))[2]


def _solve(
    data: Data,
    sizes: Sizes,
    cones: Cones,
    settings: Settings,
    tolerance: float,
    wanted: Wanted | None,
) -> _Solved:
    found = _answer(data, cones, settings, tolerance, wanted)
    usable = (found.status == Status.SOLVED) | (found.status == Status.STALLED)
    usable = usable | (found.status == Status.MAX_ITERATIONS)
    first: Array | int = 2
    if wanted is not None:
        usable = usable & wanted.items
        first = jnp.where(wanted.rough, 6, first)  # from farther off
    rough = measure_point(data, sizes, found.value, found.stats.gap)
    at = _polish(data, sizes, rough, usable, first, cones)
    return _Solved(found, rough, at, usable & (at.worst <= 2 * tolerance))


def _answer(
    data: Data, cones: Cones, settings: Settings, tolerance: float, wanted: Wanted | None
) -> Solution:
    if settings.solver != Solver.INTERIOR_POINT:
        own = settings.tolerance
        if own is None and settings.solver == Solver.CLARABEL and data.c.dtype != jnp.float64:
            own = 1e-12  # its answer is rounded, not polished
        return solve_on_host(
            data, cones, settings.solver, own, settings.max_iterations, settings.warm_start, wanted
        )
    steps = _STEPS if settings.max_iterations is None else settings.max_iterations
    if settings.definite:
        return solve_definite(data, cones, tolerance, steps)
    return solve_scaled(data, None, cones, tolerance, steps)


def _user_residuals(user: Data, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
    """‖Ax + s − b‖∞, ‖Px + Aᵀy + c‖∞ and |sᵀy|."""
    one = jnp.ones_like(x[:, 0])
    Px, Aty, Ax = products(user, Iterate(x, y, s, one, one))
    primal = jnp.max(jnp.abs(Ax + s - user.b), axis=-1, initial=0.0)
    dual = jnp.max(jnp.abs(Px + Aty + user.c), axis=-1, initial=0.0)
    return primal, dual, jnp.abs(jnp.sum(s * y, axis=-1))
