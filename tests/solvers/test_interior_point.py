"""Oracles: closed forms, HiGHS for linear programs, Clarabel for all cones, Farkas certificates."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from conservax.cones.table import Cones
from conservax.solution import Status
from conservax.solvers import interior_point

CONES = [
    Cones(nonnegative=8),
    Cones(zero=2, nonnegative=7),
    Cones(zero=1, nonnegative=2, second_order=(3, 3, 4)),
    Cones(zero=1, nonnegative=1, second_order=(4,), semidefinite=(3, 2)),
]


def interior(cones: Cones, rng: np.random.Generator) -> np.ndarray:
    """A point of the cone, well inside; zero at equalities."""
    parts = []
    for block, _ in cones.pieces:
        noise = rng.normal(size=block.size)
        least = float(block.interior(jnp.asarray(noise)))
        parts.append(noise + (0.5 + max(0.0, -least)) * block.identity())
    inside = np.concatenate(parts)
    inside[: cones.zero] = 0.0
    return inside


def random_program(cones: Cones, seed: int, n: int = 5, rank: int = 3):
    """Feasible on both sides, so that a solution exists."""
    rng = np.random.default_rng(seed)
    A, R = rng.normal(size=(cones.size, n)), rng.normal(size=(rank, n))
    P, x = R.T @ R, rng.normal(size=n)
    y = interior(cones, rng)
    y[: cones.zero] = rng.normal(size=cones.zero)
    return P, -P @ x - A.T @ y, A, A @ x + interior(cones, rng)


def batch(programs):
    return tuple(jnp.asarray(np.stack(part)) for part in zip(*programs, strict=True))


def clarabel_value(P, c, A, b, cones: Cones) -> float:
    clarabel = pytest.importorskip("clarabel")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    kinds = [clarabel.ZeroConeT(cones.zero), clarabel.NonnegativeConeT(cones.nonnegative)]
    kinds += [clarabel.SecondOrderConeT(d) for d in cones.second_order]
    # Clarabel stacks the upper triangle by columns: turned round, that is our lower triangle
    order = list(range(cones.zero + cones.nonnegative + sum(cones.second_order)))
    for d in cones.semidefinite:
        place = {}
        for j in range(d):
            for i in range(j, d):
                place[i, j] = len(order) + len(place)
        order += [place[max(i, j), min(i, j)] for j in range(d) for i in range(j + 1)]
    kinds += [clarabel.PSDTriangleConeT(d) for d in cones.semidefinite]
    solver = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(P)), c, sparse.csc_matrix(A[order]), b[order], kinds, settings
    )
    return solver.solve().obj_val


@pytest.mark.parametrize("cones", CONES, ids=str)
def test_a_batch_meets_clarabel_and_its_own_optimality_conditions(cones):
    programs = [random_program(cones, seed) for seed in range(6)]
    P, c, A, b = batch(programs)
    solution = interior_point(P, c, A, b, cones)
    x, y, s = map(np.asarray, solution.value)
    assert np.all(solution.status == Status.SOLVED)
    for i, program in enumerate(programs):
        P_i, c_i, A_i, b_i = program
        np.testing.assert_allclose(A_i @ x[i] + s[i], b_i, atol=1e-7)
        np.testing.assert_allclose(P_i @ x[i] + A_i.T @ y[i], -c_i, atol=1e-7)
        assert abs(s[i] @ y[i]) < 1e-6
        for block, rows in cones.pieces:
            assert float(block.interior(jnp.asarray(s[i, rows]))) > -1e-9
            assert float(block.interior(jnp.asarray(y[i, rows]))) > -1e-9
        value = x[i] @ P_i @ x[i] / 2 + c_i @ x[i]
        assert value == pytest.approx(clarabel_value(*program, cones), rel=1e-6, abs=1e-6)


def test_linear_programs_meet_highs():
    rng = np.random.default_rng(0)
    for _ in range(5):
        A, x = rng.normal(size=(3, 6)), rng.uniform(size=6)
        c = rng.uniform(size=6)
        truth = linprog(c, A_eq=A, b_eq=A @ x)
        solution = interior_point(
            jnp.zeros((1, 6, 6)),
            jnp.asarray(c)[None],
            jnp.asarray(np.vstack([A, -np.eye(6)]))[None],
            jnp.asarray(np.concatenate([A @ x, np.zeros(6)]))[None],
            Cones(zero=3, nonnegative=6),
        )
        np.testing.assert_allclose(solution.value.primal[0], truth.x, atol=1e-6)


def test_failed_items_leave_their_batch_unharmed_and_certify_themselves():
    """min ½px² + cx over x ≤ b₁, −x ≤ b₂: solved, infeasible (x ≤ −1, x ≥ 0), unbounded."""
    P = jnp.array([1.0, 1.0, 0.0, 0.0])[:, None, None]
    c = jnp.array([-3.0, 0.0, 1.0, -1.0])[:, None]
    A = jnp.array([[[1.0], [-1.0]], [[1.0], [-1.0]], [[1.0], [0.0]], [[1.0], [-1.0]]])
    b = jnp.array([[2.0, 0.0], [-1.0, 0.0], [2.0, 1.0], [2.0, 0.0]])
    solution = interior_point(P, c, A, b, Cones(nonnegative=2))
    assert solution.status.tolist() == [
        Status.SOLVED,
        Status.PRIMAL_INFEASIBLE,
        Status.DUAL_INFEASIBLE,
        Status.SOLVED,
    ]
    np.testing.assert_allclose(solution.value.primal[jnp.array([0, 3]), 0], [2.0, 2.0], atol=1e-8)
    farkas = solution.value.dual[1]
    assert float(jnp.min(farkas)) >= 0
    assert abs(float(farkas @ A[1, :, 0])) < 1e-6
    assert float(farkas @ b[1]) == pytest.approx(-1)
    ray = solution.value.primal[2]
    assert float(c[2] @ ray) == pytest.approx(-1)
    assert float(jnp.max(A[2] @ ray)) < 1e-6


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_badly_scaled_data_are_equilibrated(size):
    cones = Cones(nonnegative=8)
    P, c, A, b = random_program(cones, 3)
    columns = np.array([size, 1, 1, 1 / size, 1])
    rows = np.array([1, size, 1, 1, 1 / size, 1, 1, 1])
    plain = interior_point(*batch([(P, c, A, b)]), cones)
    scaled = interior_point(
        *batch(
            [(columns[:, None] * P * columns, columns * c, rows[:, None] * A * columns, rows * b)]
        ),
        cones,
    )
    assert scaled.status.tolist() == [Status.SOLVED]
    np.testing.assert_allclose(scaled.value.primal * columns, plain.value.primal, rtol=1e-5)


def test_single_precision():
    cones = Cones(zero=2, nonnegative=7)
    data = batch([random_program(cones, seed) for seed in range(4)])
    exact = interior_point(*data, cones)
    single = interior_point(*(part.astype(jnp.float32) for part in data), cones)
    assert single.value.primal.dtype == jnp.float32
    assert np.all(single.status == Status.SOLVED)
    np.testing.assert_allclose(single.value.primal, exact.value.primal, rtol=2e-3, atol=2e-3)


def test_a_warm_start_at_the_solution_is_accepted():
    cones = Cones(nonnegative=8)
    data = batch([random_program(cones, 1)])
    cold = interior_point(*data, cones, tolerance=1e-10)
    warm = interior_point(*data, cones, tolerance=1e-10, start=cold.value)
    assert warm.status.tolist() == [Status.SOLVED]
    np.testing.assert_allclose(warm.value.primal, cold.value.primal, atol=1e-7)


def test_equalities_alone_are_one_linear_system():
    """The projection of (1, 2, 3) onto x₁ + x₂ + x₃ = 0 is (−1, 0, 1)."""
    solution = interior_point(
        jnp.eye(3)[None],
        -jnp.array([[1.0, 2.0, 3.0]]),
        jnp.ones((1, 1, 3)),
        jnp.zeros((1, 1)),
        Cones(zero=1),
    )
    np.testing.assert_allclose(solution.value.primal[0], [-1, 0, 1], atol=1e-8)
    np.testing.assert_allclose(solution.value.dual[0], [2.0], atol=1e-8)
