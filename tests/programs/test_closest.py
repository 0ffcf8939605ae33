"""``infeasible="closest"``: closed forms, least squares, CVXPY, finite differences."""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

from conservax.errors import InfeasibleError, InvalidInputError, UnsupportedOperationError
from conservax.programs import ConeProgram, Cones, CvxpyLayer, QuadraticProgram
from conservax.solution import Status

PULL = np.array([0.7, -0.1])  # ½‖x − p‖² is minimised
TWICE = np.ones((2, 2))  # x₁ + x₂ = b₁ and = b₂
CLOSEST = QuadraticProgram(infeasible="closest")


def both(b, A=TWICE, p=PULL):
    return CLOSEST(np.eye(2), -p, A, b)


def differences(f, at, step=1e-5):
    found = []
    for k in range(at.size):
        e = np.zeros(at.size)
        e[k] = step
        e = e.reshape(at.shape)
        found.append((np.asarray(f(at + e)) - np.asarray(f(at - e))) / (2 * step))
    return np.stack(found, -1)


def test_contradicting_equations_meet_in_the_middle():
    b = np.array([1.0, -1.0])
    found = both(b)
    assert Status(int(found.info.status)) == Status.CLOSEST
    np.testing.assert_allclose(found.primal, PULL - PULL.mean(), atol=1e-12)
    np.testing.assert_allclose(TWICE @ found.primal - b, [-1.0, 1.0], atol=1e-12)
    stationary = found.primal - PULL + TWICE.T @ found.dual
    np.testing.assert_allclose(stationary, 0.0, atol=1e-12)
    derive = jax.jit(jax.jacobian(lambda b, A, p: both(b, A, p).primal, argnums=(0, 1, 2)))
    in_b, in_A, in_p = derive(jnp.asarray(b), jnp.asarray(TWICE), jnp.asarray(PULL))
    np.testing.assert_allclose(in_b, np.full((2, 2), 0.25), atol=1e-12)
    np.testing.assert_allclose(in_p, np.eye(2) - 0.5, atol=1e-12)
    assert np.isnan(in_A).all()  # x₁ + x₂ = 1 and x₁ + (1 + ε)x₂ = −1 have a solution, far away


def test_too_many_equations_are_least_squares():
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(5, 2)), rng.normal(size=5)

    def direct(A, b):
        return jnp.linalg.solve(A.T @ A, A.T @ b)

    def ours(A, b):
        return both(b, A).primal

    np.testing.assert_allclose(ours(A, b), np.linalg.lstsq(A, b)[0], atol=1e-12)
    want = jax.jacobian(direct, argnums=(0, 1))(jnp.asarray(A), jnp.asarray(b))
    for derive in (jax.jacrev, jax.jacfwd):
        got = jax.jit(derive(ours, argnums=(0, 1)))(jnp.asarray(A), jnp.asarray(b))
        np.testing.assert_allclose(got[1], want[1], atol=1e-11)
        np.testing.assert_allclose(got[0], want[0], atol=1e-11)


def inequalities():
    """Contradicting rows, and two that are not: min ½‖x − p‖²."""
    G = np.array([[1.0, 0, 0], [-1, 0.2, 0], [0, 1, 0.3], [0, 0, 1], [0.3, -1, 0]])
    return G, np.array([-1.0, -1, 0.4, 0.2, -0.9]), np.array([0.3, 0.8, 1.5])


def test_inequalities_against_two_solves_of_cvxpy_and_differences():
    G, h, p = inequalities()
    r, x = cp.Variable(5), cp.Variable(3)
    exact = {"solver": "CLARABEL", "tol_gap_abs": 1e-13, "tol_feas": 1e-13, "tol_gap_rel": 1e-13}
    cp.Problem(cp.Minimize(cp.sum_squares(r)), [G @ x <= h + r]).solve(**exact)
    want = cp.Variable(3)
    near = h + np.asarray(r.value) + 1e-9
    cp.Problem(cp.Minimize(cp.sum_squares(want - p)), [G @ want <= near]).solve(**exact)
    found = CLOSEST(np.eye(3), -p, None, None, G, h)
    assert found.info.status == Status.CLOSEST
    np.testing.assert_allclose(found.primal, want.value, atol=1e-5)
    assert np.linalg.norm(np.maximum(G @ found.primal - h, 0)) == pytest.approx(
        np.linalg.norm(r.value), rel=1e-6
    )
    assert (np.asarray(found.dual) >= -1e-12).sum() >= 2
    np.testing.assert_allclose(found.primal - p + G.T @ found.dual, 0.0, atol=1e-10)

    def of(h, p):
        return CLOSEST(np.eye(3), -p, None, None, G, h).primal

    in_h, in_p = jax.jit(jax.jacobian(of, argnums=(0, 1)))(jnp.asarray(h), jnp.asarray(p))
    np.testing.assert_allclose(in_h, differences(lambda h: of(h, p), h), atol=1e-7)
    np.testing.assert_allclose(in_p, differences(lambda p: of(h, p), p), atol=1e-7)
    assert np.abs(in_h).max() > 0.1


def test_feasible_items_are_as_they_were_and_nothing_warns():
    rights = jnp.array([[0.5, 0.5], [1.0, -1.0], [2.0, 2.0]])
    rows, wall = np.array([[1.0, 1.0], [-1.0, -1.0]]), Cones(nonnegative=2)
    plain, near = ConeProgram(wall), ConeProgram(wall, infeasible="closest")

    def loss(program, b):
        return program(np.eye(2), -PULL, rows, b).primal

    opposed = rights * jnp.array([-1.0, 1.0])  # −b₁ ≥ sum ≥ −b₂
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with_nan = plain(np.eye(2), -PULL, rows, opposed)
        found = near(np.eye(2), -PULL, rows, opposed)
        mapped = jax.jit(jax.vmap(lambda b: near(np.eye(2), -PULL, rows, b)))(opposed)
        slopes = jax.jit(jax.vmap(jax.jacobian(lambda b: loss(near, b))))(opposed)
        jax.jit(jax.vmap(jax.jacobian(lambda b: loss(plain, b))))(opposed)
    status = np.asarray(with_nan.info.status)
    lost = status == Status.PRIMAL_INFEASIBLE
    assert lost.any()
    assert not lost.all()
    np.testing.assert_array_equal(np.asarray(found.info.status)[lost], Status.CLOSEST)
    for part in (found, mapped):
        np.testing.assert_array_equal(part.primal[~lost], with_nan.primal[~lost])
        assert np.isfinite(part.primal).all()
    # both rows move: the sum is halfway, (b₁ − b₂)/2
    for b, x, slope in zip(opposed[lost], found.primal[lost], slopes[lost], strict=True):
        np.testing.assert_allclose(x.sum(), (b[0] - b[1]) / 2, atol=1e-12)
        np.testing.assert_allclose(slope, [[0.25, -0.25]] * 2, atol=1e-12)


@pytest.mark.parametrize("moving", ["b", "c", "A", "P"])
def test_any_datum_may_have_the_batch_axes(moving):
    """Items of a batch are those of single calls, whichever of the data has the axis."""
    data = {"P": np.eye(2), "c": -PULL, "A": TWICE, "b": np.array([1.0, -1.0])}
    scale = np.array([1.0, 2.0, 3.0])
    many = scale.reshape(-1, *[1] * data[moving].ndim) * data[moving]
    found = CLOSEST(*(data | {moving: many}).values())
    assert found.primal.shape == (3, 2)
    for k in range(3):
        one = CLOSEST(*(data | {moving: many[k]}).values())
        np.testing.assert_allclose(found.primal[k], one.primal, atol=1e-12)
    slopes = jax.jacobian(lambda p: CLOSEST(np.eye(2), -p, *list(data.values())[2:]).primal.sum(0))(
        jnp.stack([PULL, 2 * PULL])
    )
    np.testing.assert_allclose(slopes, np.stack([np.eye(2) - 0.5] * 2, 1), atol=1e-12)


def test_whole_numbers_and_single_precision():
    b = np.array([2, 0])
    found = CLOSEST(np.eye(2, dtype=int), np.zeros(2, int), TWICE.astype(int), b)
    np.testing.assert_allclose(found.primal, [0.5, 0.5], atol=1e-12)
    narrow = (part.astype(np.float32) for part in (np.eye(2), -PULL, TWICE, b))
    found = CLOSEST(*narrow)
    assert found.primal.dtype == np.float32
    np.testing.assert_allclose(found.primal, PULL - PULL.mean() + 0.5, atol=1e-6)


def test_layers_pass_it_on():
    x, b = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - PULL)), [TWICE @ x == b])
    layer = CvxpyLayer(problem, [b], [x], infeasible="closest")
    right = jnp.array([1.0, -1.0])
    np.testing.assert_allclose(layer(right)[0], PULL - PULL.mean(), atol=1e-10)
    slope = jax.jacobian(lambda b: layer(b)[0])(right)
    np.testing.assert_allclose(slope, np.full((2, 2), 0.25), atol=1e-10)
    assert layer.solve(right)[1].status == Status.CLOSEST


def test_what_is_refused():
    with pytest.raises(InvalidInputError, match="infeasible"):
        QuadraticProgram(infeasible="nearest")(np.eye(2), PULL)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="equations and inequalities"):
        ConeProgram(Cones(second_order=(3,)), infeasible="closest")
    sparse = BCOO.fromdense(jnp.eye(2))
    with pytest.raises(UnsupportedOperationError, match="dense"):
        ConeProgram(Cones(zero=2), infeasible="closest")(sparse, PULL, np.eye(2), np.ones(2))
    with pytest.raises(InfeasibleError):
        CLOSEST.check(np.eye(2), -PULL, TWICE, np.array([1.0, -1.0]))
