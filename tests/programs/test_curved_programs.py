"""Exponential and power cones, and second derivatives: closed forms, differences, mpmath."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.errors import (
    InfeasibleError,
    InvalidInputError,
    UnboundedError,
)
from conservax.invertibility import Verdict
from conservax.operators import cones as operators
from conservax.programs import ConeProgram, Cones, Solver, Status
from conservax.programs.curved_blocks import turn

CURVED = {
    "exponential": (Cones(exponential=1), operators.Exponential()),
    "dual exponential": (Cones(dual_exponential=1), operators.Dual(operators.Exponential())),
    "power 0.1": (Cones(power=(0.1,)), operators.Power(0.1)),
    "power 0.5": (Cones(power=(0.5,)), operators.Power(0.5)),
    "power 0.8": (Cones(power=(0.8,)), operators.Power(0.8)),
    "dual power 0.3": (Cones(power=(-0.3,)), operators.Dual(operators.Power(0.3))),
}


@functools.cache
def projection(cones: Cones, solver="auto", selection="lower"):
    """p ↦ the point of the cone next to p, its Jacobian, and what is known of it."""
    m = cones.size
    program = ConeProgram(cones, solver=solver, selection=selection)

    def project(p):
        eye = jnp.eye(m, dtype=p.dtype)
        solution = program(eye, -p, -eye, jnp.zeros_like(p))
        return solution.primal, solution.info

    both = jax.jacrev(project, has_aux=True)
    return jax.jit(lambda p: (project(p)[0], *both(p)))


@pytest.mark.parametrize("name", CURVED)
def test_projections_and_their_jacobians(name):
    cones, cone = CURVED[name]
    project = projection(cones)
    rng = np.random.default_rng(1)
    for p in rng.normal(size=(12, 3)):
        x, J, info = project(p)
        np.testing.assert_allclose(x, cone.project(jnp.asarray(p)), atol=1e-9)
        step = 1e-5
        sides = [
            (cone.project(jnp.asarray(p + step * e)) - cone.project(jnp.asarray(p - step * e)))
            for e in np.eye(3)
        ]
        np.testing.assert_allclose(J, np.stack(sides, axis=1) / (2 * step), atol=2e-7)
        assert info.status == Status.SOLVED
        assert info.verdict == 1
        assert info.solver == Solver.CLARABEL


def entropy(solver: str):
    """p ↦ argmax pᵀx − Σ xᵢ log xᵢ over the simplex, which is softmax(p)."""
    n = 3
    A, b = np.zeros((1 + 3 * n, 2 * n)), np.zeros(1 + 3 * n)
    A[0, :n], b[0] = 1, 1
    for i in range(n):
        A[1 + 3 * i, n + i], A[2 + 3 * i, i], b[3 + 3 * i] = 1, -1, 1
    program = ConeProgram(Cones(zero=1, exponential=n), solver=solver)
    return lambda p: program(
        np.zeros((2 * n, 2 * n)), jnp.concatenate([-p, jnp.ones(n)]), A, b
    ).primal[:n]


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_the_softmax_is_an_entropy_program(solver):
    p = jnp.array([0.3, -1.0, 2.0])
    layer = entropy(solver)
    np.testing.assert_allclose(layer(p), jax.nn.softmax(p), atol=1e-12)
    np.testing.assert_allclose(jax.jacrev(layer)(p), jax.jacobian(jax.nn.softmax)(p), atol=1e-12)


def test_the_softmax_has_second_derivatives_under_vmap():
    many = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    layer = entropy("clarabel")
    expected = jax.vmap(jax.hessian(lambda p: jax.nn.softmax(p)[0]))(many)
    found = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(lambda p: layer(p)[0]))))(many)
    np.testing.assert_allclose(found, expected, atol=1e-10)


SMOOTH = {
    "second-order": (Cones(second_order=(3,)), operators.SecondOrder(3), (jax.jacfwd, jax.jacrev)),
    "semidefinite": (Cones(semidefinite=(2,)), operators.PositiveSemidefinite(2), (jax.jacrev,)),
    "exponential": (Cones(exponential=1), operators.Exponential(), (jax.jacrev,)),
    "power": (Cones(power=(0.3,)), operators.Power(0.3), (jax.jacrev,)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_hessians_are_those_of_the_projection(name):
    cones, cone, modes = SMOOTH[name]
    program = ConeProgram(cones)
    weights = jnp.array([1.0, -0.5, 0.7])
    p = jnp.array([0.4, -1.0, 0.3])

    def value(p):
        return weights @ program(jnp.eye(3), -p, -jnp.eye(3), jnp.zeros(3)).primal

    gradient, step = jax.jit(jax.grad(lambda p: weights @ cone.project(p))), 1e-5
    expected = np.stack(
        [(gradient(p + step * e) - gradient(p - step * e)) / (2 * step) for e in np.eye(3)]
    )
    assert np.abs(expected).max() > 1e-2
    for outer in modes:
        np.testing.assert_allclose(jax.jit(outer(jax.grad(value)))(p), expected, atol=1e-8)


@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_at_the_boundary_the_derivative_is_one_sided(selection):
    """At the point (0, 1, 1) of the cone the set is conv{I, I − nnᵀ}, n = (1, 1, −1)/√3."""
    point, normal = np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, -1.0]) / np.sqrt(3)
    _, J, info = projection(CURVED["exponential"][0], selection=selection)(point)
    # "upper" keeps the constraint in
    held = np.outer(normal, normal) if selection == "upper" else 0.0
    np.testing.assert_allclose(J, np.eye(3) - held, atol=1e-9)
    assert info.verdict == 1


def test_at_the_apex_the_verdict_is_open_and_the_derivative_that_of_a_neighbour():
    cones, _ = CURVED["exponential"]
    x, J, info = projection(cones)(np.zeros(3))
    np.testing.assert_allclose(x, 0, atol=1e-9)
    assert info.verdict == 0
    values = np.linalg.eigvalsh((J + J.T) / 2)
    assert (values >= -1e-9).all()
    assert (values <= 1 + 1e-9).all()


def test_a_mixed_product_in_order_of_its_cones():
    """min ‖x − p‖² over x₁₋₃ ∈ exponential, x₄₋₆ ∈ power(0.3), x₇₋₉ ∈ second-order cone."""
    cones = Cones(second_order=(3,), exponential=1, power=(0.3,))
    parts = [operators.SecondOrder(3), operators.Exponential(), operators.Power(0.3)]
    p = jnp.asarray(np.random.default_rng(3).normal(size=9))
    x, J, info = projection(cones)(p)
    expected = jnp.concatenate([cone.project(p[3 * k : 3 * k + 3]) for k, cone in enumerate(parts)])
    np.testing.assert_allclose(x, expected, atol=1e-9)
    for k, cone in enumerate(parts):
        own = slice(3 * k, 3 * k + 3)
        np.testing.assert_allclose(J[own, own], jax.jacrev(cone.project)(p[own]), atol=1e-7)
        J = J.at[own, own].set(0)
    np.testing.assert_allclose(J, 0, atol=1e-9)
    assert info.verdict == 1


@pytest.mark.parametrize("solver", ["interior_point", "clarabel", "scs"])
def test_whichever_solver_ran_the_derivative_is_the_same(solver):
    for p in ([2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]):
        for selection, side in (("lower", 0.0), ("upper", 1.0)):
            x, J, info = projection(Cones(nonnegative=3), solver, selection)(np.array(p))
            np.testing.assert_allclose(x, np.maximum(p, 0), atol=1e-12)
            # a constraint that is kept in holds x still
            free = [float(q > 0) if q else 1 - side for q in p]
            np.testing.assert_allclose(J, np.diag(free), atol=1e-12)
            assert info.solver == Solver[solver.upper()]


def test_in_single_precision_and_beside_a_failed_item():
    p = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)
    bad = p.at[2].set(jnp.nan)
    project = projection(CURVED["power 0.1"][0])
    x, J, info = jax.vmap(project)(bad)
    assert x.dtype == jnp.float32
    assert info.status.tolist() == [Status.SOLVED, Status.SOLVED, Status.STALLED, Status.SOLVED]
    assert np.isnan(x[2]).all()
    keep = np.array([0, 1, 3])
    exact = jax.vmap(operators.Power(0.1).project)(np.asarray(p, float)[keep])
    np.testing.assert_allclose(x[keep], exact, atol=2e-4)
    assert np.isfinite(J[keep]).all()


def test_infeasible_and_unbounded():
    program = ConeProgram(Cones(zero=1, exponential=1))
    rows = np.concatenate([[[0.0, 0.0, 1.0]], -np.eye(3)])  # z = −1 in the cone
    with pytest.raises(InfeasibleError, match="constraints"):
        program(np.zeros((3, 3)), np.ones(3), rows, np.array([-1.0, 0, 0, 0]))
    with pytest.raises(UnboundedError, match="without bound"):  # z grows
        ConeProgram(Cones(exponential=1))(
            np.zeros((3, 3)), np.array([0.0, 0.0, -1.0]), -np.eye(3), np.zeros(3)
        )


@pytest.mark.parametrize("name", CURVED)
def test_the_report_bounds_the_singular_values_of_the_system(name):
    cones, cone = CURVED[name]
    program, eye = ConeProgram(cones), np.eye(3)
    for p in np.random.default_rng(2).normal(size=(4, 3)):
        report = program.check(eye, -p, -eye, np.zeros(3))
        assert report.verdict == Verdict.PROVEN
        assert report.unique
        # V at v = y − s = x − p + … : the projection onto K* is v + P_K(−v)
        x = np.asarray(cone.project(jnp.asarray(p)))
        v = (x - p) - x
        V = eye - np.asarray(jax.jacobian(cone.project)(jnp.asarray(-v)))
        U = np.block([[eye, -V], [-eye, V - eye]])
        least = np.linalg.svd(U, compute_uv=False)[-1]
        np.testing.assert_allclose(report.sigma_min, least, rtol=1e-7)
        assert 0 < report.margin <= least
        near = report.nearest_inactive
        assert near.operation.endswith(name.split()[-2] + " cone" if "power" in name else "cone")
        assert 0 < near.distance <= np.linalg.norm(p)


@pytest.mark.parametrize("name", CURVED)
def test_the_report_bounds_all_elements_at_a_kink(name):
    """The point p off K has the normal p − x and the ray x: kinks lie at x and, of the polar, at p − x."""
    cones, cone = CURVED[name]
    program, eye, tried = ConeProgram(cones), np.eye(3), 0
    for p in np.random.default_rng(4).normal(size=(20, 3)):
        x = np.asarray(cone.project(jnp.asarray(p)))
        if min(np.abs(x).min(), np.abs(p - x).min()) < 0.1:  # inside K or its polar, or at an edge
            continue
        tried += 1
        normal, ray = (a / np.linalg.norm(a) for a in (p - x, x))
        n, r = np.outer(normal, normal), np.outer(ray, ray)
        for kink, ends in ((x, (eye - n, eye)), (p - x, (0 * r, r))):
            report = program.check(eye, -kink, -eye, np.zeros(3))
            assert report.verdict == Verdict.PROVEN
            assert [k.operation for k in report.kinks] == [report.kinks[0].operation]
            assert report.kinks[0].distance <= 1e-8
            elements = [eye - (ends[0] + q * (ends[1] - ends[0])) for q in np.linspace(0, 1, 11)]
            systems = [np.block([[eye, -V], [-eye, V - eye]]) for V in elements]
            least = [np.linalg.svd(U, compute_uv=False)[-1] for U in systems]
            np.testing.assert_allclose(report.sigma_min, min(least[0], least[-1]), rtol=1e-6)
            assert 0 < report.margin <= min(least)
    assert tried >= 3


@settings(max_examples=200)
@given(
    st.sampled_from([None, 0.1, 0.5, 0.7]),
    st.booleans(),
    st.lists(st.floats(0.01, 9.0), min_size=3, max_size=3),
    st.floats(1e-6, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_no_normal_turns_further_than_its_bound(alpha, ray, size, error, seed):
    """Against normals at random points of the ball."""
    rng = np.random.default_rng(seed)
    v = np.array(size) * (1, 1, rng.choice([-1, 1])) * (-1 if ray and alpha else 1)
    if alpha is None:
        v[0 if not ray else 1] *= rng.choice([-1, 1])
    around = rng.normal(size=(200, 3))
    around *= error / np.linalg.norm(around, axis=1, keepdims=True)

    def axis(w):
        if alpha is None:
            q = 1 - w[1] / w[0] if ray else w[0] / w[1]
            power, one = np.exp(min(q, 0)), np.exp(-max(q, 0))  # e^q and 1, in units of the greater
            axis = np.array([q * one, one, power] if ray else [power, (1 - q) * power, -one])
        else:
            height = abs(w[2])
            axis = np.array([alpha * height / w[0], (1 - alpha) * height / w[1], -np.sign(w[2])])
        return axis / np.linalg.norm(axis)

    bound = turn(alpha, True, v, error, ray)
    assert bound > 0
    if np.isfinite(bound):
        farthest = max(np.linalg.norm(axis(v + d) - axis(v)) for d in around)
        assert farthest <= bound * (1 + 1e-9)


def test_the_report_says_where_the_set_is_not_known():
    program, eye = ConeProgram(Cones(exponential=1)), np.eye(3)
    apex = program.check(eye, np.zeros(3), -eye, np.zeros(3))
    assert apex.verdict == Verdict.UNKNOWN
    assert "apex" in apex.reason


def test_the_report_refutes_a_flat_objective_and_rows_that_depend():
    exponential = -np.eye(3)
    free = ConeProgram(Cones(exponential=1)).check(
        np.diag([1.0, 1.0, 1.0, 0.0]), np.zeros(4) - [0.2, 1.0, 4.0, 0.0],
        np.hstack([exponential, np.zeros((3, 1))]), np.zeros(3),
    )  # fmt: skip
    assert free.verdict == Verdict.REFUTED
    assert free.second_order is False
    assert free.recheck()[0] < 1e-12
    twice = ConeProgram(Cones(zero=2, exponential=1)).check(
        np.eye(3),
        -np.ones(3),
        np.vstack([np.ones((2, 3)), exponential]),
        np.array([4.0, 4, 0, 0, 0]),
    )
    assert twice.verdict == Verdict.REFUTED
    assert twice.licq is False


def test_bad_input():
    with pytest.raises(InvalidInputError, match="exponents 0 < α < 1"):
        Cones(power=(1.5,))
    with pytest.raises(InvalidInputError, match=r'"clarabel", "scs" or "auto"'):
        ConeProgram(Cones(exponential=1), solver="interior_point")
    with pytest.raises(InvalidInputError, match="solver must be one of"):
        ConeProgram(Cones(exponential=1), solver="gurobi")


def test_a_root_in_fifty_digits():
    """log_sum_exp(p) as min t: Σ exp(pᵢ − t) ≤ 1, at a point given in 50 digits."""
    p = [0.25, -0.5, 1.75]
    n = 3  # x = (t, u₁₋₃), (pᵢ − t, 1, uᵢ) ∈ K, Σu ≤ 1
    A = np.zeros((1 + 3 * n, 1 + n))
    A[0, 1:] = 1
    for i in range(n):
        A[1 + 3 * i, 0], A[3 + 3 * i, 1 + i] = 1, -1
    cones = Cones(nonnegative=1, exponential=n)

    def value(p):
        b = jnp.concatenate(
            [jnp.ones(1), *(jnp.stack([p[i], jnp.ones(()), jnp.zeros(())]) for i in range(n))]
        )
        return ConeProgram(cones)(np.zeros((4, 4)), np.eye(4)[0], A, b).primal[0]

    with mpmath.workdps(50):
        exact = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in p))
        shares = [mpmath.exp(x - exact) for x in p]
    found, gradient = jax.value_and_grad(value)(jnp.array(p))
    np.testing.assert_allclose(found, float(exact), rtol=1e-12)
    np.testing.assert_allclose(gradient, [float(s) for s in shares], rtol=1e-11)


def test_a_hessian_that_vanishes():
    program = ConeProgram(Cones(nonnegative=3))

    def total(p):
        return program(jnp.eye(3), -p, -jnp.eye(3), jnp.zeros(3)).primal.sum()

    np.testing.assert_array_equal(jax.hessian(total)(jnp.array([1.0, -1.0, 2.0])), 0)
