"""The host engine: nothing is compiled, no solver is trusted, every portion and place is one system."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array

from conservax.programs import ConeProgram, Cones, QuadraticProgram, Solver, Status
from conservax.programs.forward import Settings, measure_point
from conservax.programs.host import calls as host_calls
from conservax.programs.host import engine, search
from conservax.programs.host import place as places_module
from conservax.programs.host.calls import _TICKETS
from conservax.solvers import host
from conservax.solvers.equilibrate import ConicPoint, Data
from conservax.solvers.termination import measure_data
from programs.random_programs import random_program

_compiled = [0]


def _count(name, duration, **_):
    _compiled[0] += name == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)

# cones, a point inside
SHAPES = {
    "polyhedral": (Cones(zero=1, nonnegative=5), [0, 0.3, 0.3, 0.3, 0.3, 0.3]),
    "second-order": (Cones(nonnegative=1, second_order=(3, 4)), [0.5, 1, 0.2, 0, 1, 0, 0.4, 0.2]),
    "semidefinite": (Cones(semidefinite=(3,)), [1, 0, 0.2, 1, 0.1, 1]),
    "curved": (Cones(exponential=1, power=(0.3, -0.6)), [0, 1, 2, 1, 1, 0.2, 1, 1, 0.1]),
}


def draw(cones: Cones, inside, batch: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    n = 4
    R, A = rng.normal(size=(n, n)), rng.normal(size=(batch, cones.size, n))
    b = A @ rng.normal(size=n) + np.array(inside)
    return Data(np.eye(n)[None] + R.T @ R, 2 * rng.normal(size=(batch, n)), A, b)


def settings(solver: Solver, followed: bool = True) -> Settings:
    return Settings(None, None, "lower", solver, False, (), None, followed)


def solvers_of(cones: Cones):
    if cones.polyhedral:
        yield Solver.MOREAU
    yield from (Solver.CLARABEL, Solver.SCS)


@pytest.mark.parametrize("name", SHAPES)
def test_whoever_solves_the_answer_is_the_same_and_nothing_is_compiled(name):
    cones, inside = SHAPES[name]
    data, before, found = draw(cones, inside, 5), _compiled[0], []
    for solver in solvers_of(cones):
        answered, places = engine.solve_programs(data, cones, settings(solver), 2.2e-16)
        assert answered.status.tolist() == [Status.SOLVED] * 5
        assert answered.solver.tolist() == [solver] * 5
        assert max(answered.primal_residual.max(), answered.dual_residual.max()) < 1e-12
        found.append((answered, np.concatenate([place.tests.verdict for place in places])))
        # the factors solve the system, and its transpose
        rng = np.random.default_rng(1)
        for place in places:
            count = len(place.d)
            for transposed in (False, True):
                right = rng.normal(size=(count, 4, 2)), rng.normal(size=(count, cones.size, 2))
                solution = place.solve(*right, transposed, (True, True))
                product = place.system.transposed_product if transposed else place.system.product
                for given, back in zip(right, product(*solution), strict=True):
                    np.testing.assert_allclose(back, given, atol=1e-9)
    for other, verdict in found[1:]:
        np.testing.assert_allclose(other.x, found[0][0].x, atol=1e-9)
        np.testing.assert_array_equal(verdict, found[0][1])
    assert _compiled[0] == before


def test_eager_calls_compile_nothing_of_ours():
    cones, inside = SHAPES["polyhedral"]
    P, c, A, b = (part[0] for part in draw(cones, inside, 1))
    weights, given = jnp.arange(4.0), jnp.asarray(c)
    program = ConeProgram(cones)
    before = _compiled[0]
    primal, pull = jax.vjp(lambda c: program(P, c, A, b).primal, given)
    (slope,) = pull(weights)
    assert _compiled[0] == before
    H, active = P, np.abs(b - A @ np.asarray(primal)) < 1e-9
    rows = A[active]
    kkt = np.block([[H, rows.T], [rows, np.zeros((len(rows),) * 2)]])
    expected = -np.linalg.inv(kkt)[:4, :4] @ np.arange(4.0)
    np.testing.assert_allclose(slope, expected, atol=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_verdict_is_there_for_those_who_ask_and_costs_nobody_else(monkeypatch, sparse):
    """Eagerly, under jit, and where the host has forgotten the solve."""
    name = "sparse_two_tests" if sparse else "two_tests"
    own, asked = getattr(places_module, name), []
    monkeypatch.setattr(places_module, name, lambda *args: asked.append(1) or own(*args))
    # the third row is the first once more: active in the last item alone
    P, A = np.diag([1.0, 2.0, 0.0]), np.array([[1.0, 1, 1], [1, -1, 0], [1, 1, 1]])
    c, b = -np.ones((2, 3)), np.array([[1.0, 0.5, 2.0], [1.0, 0.5, 1.0]])
    program = ConeProgram(Cones(nonnegative=3), solver="clarabel")
    if sparse:
        P, A = csr_array(P), csr_array(A)
        monkeypatch.setattr(host_calls, "SMALL", 0)

    def solve(c):
        return program(P, c, A, b)

    expected = np.array([1, -1])
    slope = jax.jit(jax.grad(lambda c: jnp.sum(solve(c).primal)))(c)
    assert not asked
    np.testing.assert_array_equal(jax.jit(lambda c: solve(c).info.verdict)(c), expected)
    assert asked
    found = solve(c)
    np.testing.assert_array_equal(found.info.verdict, expected)
    monkeypatch.setattr(host_calls, "_TICKETS", host_calls._Tickets())
    kept = jax.jit(lambda c: (solve(c).info, jax.grad(lambda c: jnp.sum(solve(c).primal))(c)))
    info, again = kept(c)
    np.testing.assert_array_equal(info.verdict, expected)
    np.testing.assert_allclose(info.margin, found.info.margin)
    np.testing.assert_allclose(again, slope, atol=1e-12)


def test_a_solver_that_lies_is_followed_by_the_next(monkeypatch):
    """Its own residual gives it away, and the info names who solved."""
    honest = host._SOLVERS[Solver.MOREAU]

    def lying(cones, tolerance, max_iterations):
        solve = honest(cones, tolerance, max_iterations)

        def run(P, c, A, b):
            found = solve(P, c, A, b)
            return found._replace(x=found.x + 0.6, y=found.y[::-1], s=found.s[::-1])

        return run

    monkeypatch.setitem(host._SOLVERS, Solver.MOREAU, lying)
    p = jnp.array([[0.9, 0.3, -0.2], [0.1, 0.2, 3.0]])
    found = QuadraticProgram()(np.eye(3), -p, np.ones((1, 3)), np.ones(1), -np.eye(3), np.zeros(3))
    np.testing.assert_allclose(found.primal, [[0.8, 0.2, 0], [0, 0, 1]], atol=1e-12)
    monkeypatch.setitem(
        host._SOLVERS, Solver.MOREAU, lambda *_: lambda P, c, A, b: host.nothing(2, 3, len(b))
    )
    found = QuadraticProgram()(np.eye(3), -p, np.ones((1, 3)), np.ones(1), -np.eye(3), np.zeros(3))
    assert found.info.solver.tolist() == [Solver.CLARABEL] * 2
    np.testing.assert_allclose(found.primal, [[0.8, 0.2, 0], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "x", "y", "status"),
    [
        # x ≤ −1 and x ≥ 1: the rows add up to 0 ≤ −2
        ([[1.0], [-1.0]], [0.0], [1.0, 1.0], Status.PRIMAL_INFEASIBLE),
        ([[1.0], [-1.0]], [0.0], [1.0, 0.0], Status.STALLED),
        ([[1.0], [1.0]], [0.0], [1.0, -1.0], Status.STALLED),
        # min x over x ≤ −1, 2x ≤ −1 falls along −1
        ([[1.0], [2.0]], [-1.0], [0.0, 0.0], Status.DUAL_INFEASIBLE),
        ([[1.0], [2.0]], [1.0], [0.0, 0.0], Status.STALLED),
    ],
)
def test_the_last_point_of_a_solver_that_gave_up_is_tried_as_a_ray(monkeypatch, rows, x, y, status):
    def stalled(P, c, A, b):
        point = np.array(x), np.array(y), np.maximum(-np.array(rows) @ x, 0.0)
        return host.Answer(Status.STALLED, 1, *point)

    monkeypatch.setitem(host._SOLVERS, Solver.SCS, lambda *_: stalled)
    program = ConeProgram(Cones(nonnegative=2), solver="scs")
    found = program(np.zeros((1, 1)), np.ones((1, 1)), np.array(rows), -np.ones(2))
    assert found.info.status.tolist() == [status]


def test_linear_programs_meet_highs_to_the_last_digits():
    """The active-set method answers to 1e-6; the polish makes a vertex of it."""
    rng = np.random.default_rng(3)
    A, x = rng.normal(size=(4, 12, 5)), rng.normal(size=5)
    b = A @ x + rng.uniform(size=(4, 12))
    c = -np.einsum("bij,bi->bj", A, rng.uniform(size=(4, 12)))
    found = QuadraticProgram()(np.zeros((5, 5)), c, G=A, h=b)
    assert found.info.verdict.tolist() == [1] * 4
    for k in range(4):
        known = linprog(c[k], A_ub=A[k], b_ub=b[k], bounds=(None, None))
        np.testing.assert_allclose(found.primal[k], known.x, atol=1e-9)


@pytest.mark.parametrize("units", [(1.0, 1.0), (1e3, 50.0)])
@pytest.mark.parametrize("name", SHAPES)
def test_derivatives_of_primal_dual_and_slack_meet_differences(name, units):
    """In units of the objective and of the rows that the engine scales away as well."""
    cones, inside = SHAPES[name]
    units = units[0], units[0], units[1], units[1]
    data = draw(cones, inside, 1, seed=3)
    data = [unit * jnp.asarray(part[0]) for part, unit in zip(data, units, strict=True)]
    rng = np.random.default_rng(4)
    along = [unit * rng.normal(size=part.shape) for part, unit in zip(data, units, strict=True)]
    program, h = ConeProgram(cones), 1e-6
    before, after = (
        program(*(d + t * a for d, a in zip(data, along, strict=True))) for t in (-h, h)
    )
    for k in range(3):
        weights = rng.normal(size=before[k].shape)

        def loss(*data, k=k, weights=weights):
            return jnp.vdot(weights, program(*data)[k])

        slope = weights @ np.asarray(after[k] - before[k]) / (2 * h)
        back = jax.grad(loss, (0, 1, 2, 3))(*data)
        for found in (
            sum(map(jnp.vdot, back, along)),
            jax.jvp(loss, tuple(data), tuple(along))[1],
        ):
            np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-5)


def test_the_polish_keeps_what_is_active_within_the_tolerance():
    """x₁ ≤ 3e-7 and x₁ ≤ 2 x₂: at a rough point the signs of both rows are wrong, and Newton's steps astray."""
    A, P = np.array([[1.0, 0.0], [1.0, -2.0]]), np.array([[0.3, -0.3], [-0.3, 2.5]])
    y, s = np.array([0.0, 1e-6]), np.array([3e-7, 0.0])  # at the solution 0
    data = Data(P[None], -(A.T @ y)[None], A[None], s[None])
    sizes, cones = measure_data(data), Cones(nonnegative=2)
    rough = ConicPoint(*map(np.array, ([[1e-4, 1e-4]], [[2e-4, 0.0]], [[0.0, 1e-5]])))
    found = measure_point(data, sizes, rough, np.full(1, 1e-4))
    point = search._polish(data, sizes, found, np.ones(1, bool), 2, cones).point
    for own, known in zip(point, (np.zeros(2), y, s), strict=True):
        np.testing.assert_allclose(own[0], known, atol=1e-15)


def test_zero_cotangents_give_zero_in_failed_items_and_others_are_lost():
    """x ≤ h₁, x ≥ −h₂: the second item has no solution."""
    G = np.array([[1.0], [-1.0]])
    h = jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.5, 0.0]])

    def masked(h):
        found = QuadraticProgram()(np.eye(1), -np.ones(1), G=G, h=h)
        x = jnp.where(found.info.status[:, None] == 0, found.primal, 0.0)
        return jnp.sum(x**2)

    def plain(h):
        return jnp.nansum(0 * h) + QuadraticProgram()(np.eye(1), -np.ones(1), G=G, h=h).primal.sum()

    np.testing.assert_allclose(jax.grad(masked)(h), [[0, 0], [0, 0], [1, 0]], atol=1e-12)
    lost = jax.grad(plain)(h)
    assert np.isnan(lost[1]).all()
    assert np.isfinite(lost[jnp.array([0, 2])]).all()


def test_a_place_that_is_gone_is_found_again():
    cones, inside = SHAPES["second-order"]
    P, c, A, b = draw(cones, inside, 3)
    program = ConeProgram(cones)
    primal, pull = jax.vjp(lambda c: program(P, c, A, b).primal, jnp.asarray(c))
    (slope,) = pull(jnp.ones_like(primal))
    _TICKETS.kept.clear()
    (again,) = pull(jnp.ones_like(primal))
    np.testing.assert_allclose(again, slope, atol=1e-9)


def test_shared_matrices_get_the_sum_of_all_items():
    cones, inside = SHAPES["polyhedral"]
    P, c, A, b = draw(cones, inside, 3)
    b = (A[:1] @ np.ones(4)) + np.array(inside)

    def total(P, A):
        return jnp.sum(ConeProgram(cones)(P, c, A, b).primal ** 2)

    shared = jax.grad(total, (0, 1))(jnp.asarray(P[0]), jnp.asarray(A[0]))
    each = jax.grad(total, (0, 1))(*(jnp.broadcast_to(m, (3, *m.shape)) for m in (P[0], A[0])))
    for own, of_each in zip(shared, each, strict=True):
        np.testing.assert_allclose(own, of_each.sum(axis=0), atol=1e-11)


def test_portions_hold_every_item_once_and_small_batches_stay_whole():
    data = draw(*SHAPES["polyhedral"], 7)
    parts = list(engine._portions(data))
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(7))
    assert len(parts) == 1
    large = Data(
        np.eye(100)[None], np.zeros((300, 100)), np.zeros((300, 50, 100)), np.zeros((300, 50))
    )
    parts = list(engine._portions(large))
    assert len(parts) > 1
    assert max(map(len, parts)) * 100 * 100 * 8 < 2 * engine._CACHED


def test_sparse_data_filled_by_the_basis_of_a_cone_are_solved_dense():
    order, rng = 20, np.random.default_rng(0)
    rows, columns = np.triu_indices(order)
    size = len(rows)
    A = np.vstack([np.eye(size)[rows == columns], -np.eye(size)])
    b = np.concatenate([np.ones(order), np.zeros(size)])
    program, c = (
        ConeProgram(Cones(zero=order, semidefinite=(order,))),
        jnp.asarray(rng.normal(size=size)),
    )

    def value(P, A):
        return jax.value_and_grad(lambda c: jnp.sum(program(P, c, A, b).primal ** 2))(c)

    found, gradient = value(csr_array(np.eye(size)), csr_array(A))
    assert isinstance(list(_TICKETS.kept.values())[-1].data.A, np.ndarray)
    expected, of_dense = value(np.eye(size), A)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, of_dense, atol=1e-10)


@pytest.mark.parametrize("family", ["regular", "infeasible", "unbounded"])
def test_clarabel_takes_matrices_in_dense_rows(family):
    """With its own regularisation it ended three in five of these at the first step."""
    cones, n = Cones(zero=5, semidefinite=(12,)), 40
    programs = [random_program(family, cones, n, seed) for seed in range(4)]
    P, c, A, b = (np.stack([getattr(own, name) for own in programs]) for name in "PcAb")
    solution = jax.jit(ConeProgram(cones, solver="clarabel"))(P, c, A, b)
    assert [(Status(int(s)),) for s in solution.info.status] == [own.right for own in programs]
    if family == "regular":
        known = np.stack([own.primal for own in programs])
        np.testing.assert_allclose(solution.primal, known, atol=1e-9)


def nearest_correlation(C):
    """P, c, A, b and K of the nearest correlation matrices to C (batch, k, k), in svec coordinates."""
    order = C.shape[-1]
    columns, rows = np.triu_indices(order)
    weights = np.where(rows == columns, 1.0, np.sqrt(2))
    eye = np.eye(len(rows))
    A = np.concatenate([eye[rows == columns], -eye])
    b = np.concatenate([np.ones(order), np.zeros(len(rows))])
    cones = Cones(zero=order, semidefinite=(order,))
    return eye, -C[:, rows, columns] * weights, A, b, cones


def test_scs_goes_before_clarabel_for_large_matrices():
    """The same answer and gradient; what is degenerate or has no solution is left to Clarabel."""
    rng = np.random.default_rng(0)
    order = search._LARGE_ORDER
    noise = rng.normal(size=(2, order, order))
    factor = rng.normal(size=(order, 3))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    C = np.concatenate([np.eye(order) + (noise + noise.swapaxes(1, 2)) / 4, [factor @ factor.T]])
    P, c, A, b, cones = nearest_correlation(C)

    def solve(program, c):
        solution = program(P, c, A, b)
        return jnp.sum(solution.primal**3), solution

    answers = []
    for solver in ("auto", "clarabel"):
        program = ConeProgram(cones, solver=solver)
        both = jax.vmap(jax.value_and_grad(lambda c, p=program: solve(p, c), has_aux=True))
        (_, solution), slope = both(c)
        answers.append((solution.primal[:2], slope[:2]))
        first = Solver.SCS if solver == "auto" else Solver.CLARABEL
        assert solution.info.solver.tolist() == [first, first, Solver.CLARABEL]
        # the matrix is its own answer, and all of the dual and all but three eigenvalues of the slack are zero
        np.testing.assert_allclose(solution.primal[2], -c[2], atol=1e-6)
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)

    b[0] = -1
    info = jax.jit(ConeProgram(cones))(P, c[0], A, b).info
    assert (info.status, info.solver) == (Status.PRIMAL_INFEASIBLE, Solver.CLARABEL)


@pytest.mark.parametrize("distance", [1e-3, 1e-4, 1e-5])
def test_rows_that_nearly_depend_on_each_other_have_a_gradient(distance):
    """A singular value squared is no rounding yet; the verdict refutes nothing that has an answer."""
    rng = np.random.default_rng(0)
    A = np.array([[1.0, 0.5, -1.0, 2.0]])
    A = np.concatenate([A, A + distance * rng.normal(size=(1, 4))])
    x, c = rng.normal(size=4), rng.normal(size=4)
    rounding = 64 * np.finfo(float).eps / np.linalg.svd(A)[1].min() ** 2  # by the condition of AAᵀ
    for cones, inside in ((Cones(zero=2), 0.0), (Cones(nonnegative=2), 1.0)):
        # at x both rows are active, with multipliers 1 and 2
        cost = -x - A.T @ np.array([1.0, 2.0]) if inside else c

        def solve(c, b, cones=cones):
            return ConeProgram(cones)(np.eye(4), c, A, b)

        b = A @ x
        with mpmath.workdps(50):
            rows = mpmath.matrix(A.tolist())
            kernel = rows.T * (rows * rows.T) ** -1
            of_b = np.array(kernel.tolist(), float)
            of_c = np.array((kernel * rows - mpmath.eye(4)).tolist(), float)
        for transform in (jax.jacrev, jax.jacfwd):
            found = transform(lambda c, b: solve(c, b).primal, (0, 1))(cost, b)
            np.testing.assert_allclose(found[1], of_b, rtol=0, atol=rounding * np.abs(of_b).max())
            np.testing.assert_allclose(found[0], of_c, rtol=0, atol=rounding)
        assert solve(cost, b).info.verdict >= 0
