"""Programs from a warm start: answers and derivatives of a cold one; what is no solution is solved anew."""

import dataclasses

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from conservax.errors import InfeasibleError, InvalidInputError
from conservax.programs import ConeProgram, Cones, CvxpyLayer, Solver, Status, WarmStart
from conservax.solvers import host

ROWS, UNKNOWNS = 12, 6
COLD = ConeProgram(Cones(nonnegative=ROWS), solver="clarabel")

pytestmark = pytest.mark.usefixtures("sparse_factors")


def draw():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(ROWS, UNKNOWNS)) * (rng.random((ROWS, UNKNOWNS)) < 0.7)
    b = A @ rng.normal(size=UNKNOWNS) + rng.uniform(0, 0.5, ROWS)
    return sparse.csr_array(A), b, 3 * rng.normal(size=UNKNOWNS)


A, B, C = draw()


def _warm() -> ConeProgram:
    return dataclasses.replace(COLD, warm_start=WarmStart())


def _value_and_slope(program: ConeProgram):
    def loss(c, b):
        found = program(sparse.eye(UNKNOWNS), c, A, b)
        return jnp.sum(found.primal**2), found

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def test_solutions_and_derivatives_are_those_of_a_cold_start_along_a_path():
    warm, cold = _value_and_slope(_warm()), _value_and_slope(COLD)
    active, served = set(), 0
    for t in np.linspace(0, 1, 25):
        c = np.cos(t) * C + np.sin(t) * C[::-1]
        (_, found), slopes = warm(c, B)
        (_, expected), expected_slopes = cold(c, B)
        np.testing.assert_allclose(found.primal, expected.primal, atol=1e-10)
        np.testing.assert_allclose(found.dual, expected.dual, atol=1e-9)
        for slope, other in zip(slopes, expected_slopes, strict=True):
            np.testing.assert_allclose(slope, other, atol=1e-8)
        assert found.info.verdict == expected.info.verdict
        assert expected.info.iterations > 0
        active.add(tuple(np.asarray(expected.dual) > 1e-7))
        served += int(found.info.iterations) == 0
    assert len(active) > 3  # the pieces change on the way
    assert served >= 20


def test_data_far_from_all_before_are_solved_from_nothing():
    program = _warm()
    solve = jax.jit(lambda c: program(sparse.eye(UNKNOWNS), c, A, B))
    assert [int(solve(c).info.iterations) > 0 for c in (C, -C, 1.01 * C)] == [True, True, False]
    np.testing.assert_allclose(
        solve(-C).primal, COLD(sparse.eye(UNKNOWNS), -C, A, B).primal, atol=1e-10
    )


def test_a_batch_may_come_in_any_order():
    program = _warm()
    solve = jax.jit(jax.vmap(lambda c: program(sparse.eye(UNKNOWNS), c, A, B)))
    batch = 3 * np.random.default_rng(1).normal(size=(5, UNKNOWNS))
    assert np.all(np.asarray(solve(batch).info.iterations) > 0)
    shuffled = 1.001 * batch[[3, 0, 4, 2, 1]]
    found = solve(shuffled)
    assert found.info.iterations.tolist() == [0] * 5
    expected = jax.jit(jax.vmap(lambda c: COLD(sparse.eye(UNKNOWNS), c, A, B)))(shuffled)
    np.testing.assert_allclose(found.primal, expected.primal, atol=1e-10)


def test_a_start_that_leads_nowhere_does_not_hide_that_there_is_no_solution():
    program = dataclasses.replace(_warm(), cones=Cones(nonnegative=2))
    rows = sparse.csr_array(np.array([[1.0], [-1.0]]))
    one = sparse.eye(1)
    assert program(one, [0.0], rows, [1.0, -1.0]).primal == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(InfeasibleError):
        program(one, [0.0], rows, [1.0, -1.05])
    found = program(one, [0.0], rows, np.array([[1.0, -1.0], [1.0, -1.05], [1.01, -1.0]]))
    assert found.info.status.tolist() == [Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED]
    assert found.info.iterations[0] == 0
    np.testing.assert_allclose(found.primal[:, 0], [1.0, np.nan, 1.0], atol=1e-12)


@pytest.mark.parametrize(
    "cones", [Cones(nonnegative=2, second_order=(3,)), Cones(nonnegative=2, exponential=1)]
)
def test_curved_cones(cones):
    rng = np.random.default_rng(1)
    A, x = rng.normal(size=(5, 3)), rng.normal(size=3)
    inside = np.array([0.3, 0.0, 1.5, 0.9, 0.7] if cones.second_order else [0.3, 0.0, 0.1, 1.0, 2])
    b, c = A @ x + inside, jnp.asarray(rng.normal(size=3))
    cold = ConeProgram(cones, solver="clarabel")
    warm = dataclasses.replace(cold, warm_start=WarmStart())
    slopes = []
    for program in (cold, warm):
        run = jax.jit(
            jax.value_and_grad(lambda c, own=program: jnp.sum(own(np.eye(3), c, A, b).primal ** 2))
        )
        slopes.append([run(scale * c) for scale in (1.0, 1.01, 1.02)])
    for expected, found in zip(*slopes, strict=True):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-7)
    assert warm(np.eye(3), 1.02 * c, A, b).info.iterations == 0


def test_a_layer_starts_from_its_earlier_calls():
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.exp(x)) + cp.sum_squares(x - p)), [x >= 0])
    layer = CvxpyLayer(problem, [p], [x])
    value = jnp.array([2.0, -1.0, 0.5])
    iterations = [
        int(layer.solve(scale * value, warm_start=warm)[1].iterations) > 0
        for scale, warm in ((1.0, False), (1.0, True), (1.01, True), (1.01, False))
    ]
    assert iterations == [True, True, False, True]
    np.testing.assert_allclose(
        layer(1.02 * value, warm_start=True)[0], layer(1.02 * value)[0], atol=1e-9
    )


def test_what_does_not_start_warm():
    starts = WarmStart()
    eye, one = np.eye(2, dtype=np.float32), np.ones(2, np.float32)
    single = ConeProgram(Cones(nonnegative=2), solver="clarabel", warm_start=starts)
    assert all(int(single(eye, one, eye, one).info.iterations) > 0 for _ in range(2))
    own = ConeProgram(Cones(nonnegative=2), warm_start=starts)
    assert all(
        int(own(np.eye(2), np.ones(2), np.eye(2), np.ones(2)).info.iterations) > 0 for _ in range(2)
    )
    with pytest.raises(
        InvalidInputError, match=r"warm_start must be a conservax\.programs\.WarmStart"
    ):
        ConeProgram(Cones(nonnegative=2), warm_start=True)


@pytest.mark.parametrize(("answer", "budget"), [("far away", 41), ("on the wrong pieces", 42)])
def test_a_rough_answer_that_misleads_is_not_the_last_word(monkeypatch, answer, budget):
    """min ½‖x − p‖² over x₀ + x₁ + x₂ = 1, x ≥ 0, the solver lying as long as rough will do."""
    honest, asked = host._SOLVERS[Solver.CLARABEL], []

    def lying(cones, tolerance, max_iterations):
        solve = honest(cones, tolerance, max_iterations)

        def run(P, c, A, b):
            found = solve(P, c, A, b)
            asked.append(tolerance)
            if tolerance <= host._TOLERANCE:
                return found
            if answer == "far away":
                return found._replace(x=found.x + 1e9, y=found.y - 1e9, s=found.s + 1e9)
            return found._replace(y=found.s[::-1].copy(), s=found.y[::-1].copy())

        return run

    monkeypatch.setitem(host._SOLVERS, Solver.CLARABEL, lying)
    program = ConeProgram(
        Cones(zero=1, nonnegative=3), solver="clarabel", max_iterations=budget
    )  # compiled anew
    rows = np.vstack([np.ones(3), -np.eye(3)])
    p = np.array([0.9, 0.3, -0.2])
    found = program(np.eye(3), -p, rows, np.array([1.0, 0, 0, 0]))
    assert asked[0] == host._ROUGH[Solver.CLARABEL]
    np.testing.assert_allclose(found.primal, [0.8, 0.2, 0.0], atol=1e-12)
    assert found.info.status == Status.SOLVED
