"""Exponential and power cones, and second derivatives: closed forms, differences, mpmath."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from conservax import cones as operators
from conservax.errors import (
    InfeasibleError,
    InvalidInputError,
    UnboundedError,
)
from conservax.invertibility import Verdict
from conservax.programs import ConeProgram, Cones, CvxpyLayer, Solver, Status

# the cones of one group are the blocks of one program, which is compiled once
GROUPS = {
    "exponential": Cones(exponential=1, dual_exponential=1),
    "power": Cones(power=(0.1, 0.5, 0.8, -0.3)),
}
CURVED = {  # the group, the place in it, and the cone
    "exponential": ("exponential", 0, operators.Exponential()),
    "dual exponential": ("exponential", 1, operators.Dual(operators.Exponential())),
    "power 0.1": ("power", 0, operators.Power(0.1)),
    "power 0.5": ("power", 1, operators.Power(0.5)),
    "power 0.8": ("power", 2, operators.Power(0.8)),
    "dual power 0.3": ("power", 3, operators.Dual(operators.Power(0.3))),
}
INSIDE = {  # far from every kink
    "exponential": np.array([[0.0, 20.0, 60.0], [-20.0, 20.0, 20.0]]),
    "power": np.tile([40.0, 40.0, 0.0], (4, 1)),
}


def among(name, p):
    """The cones of the group of ``name``, its own rows, and p there beside points inside the others."""
    group, place, _ = CURVED[name]
    whole = INSIDE[group].copy()
    whole[place] = p
    return GROUPS[group], slice(3 * place, 3 * place + 3), whole.ravel()


@functools.cache
def projection(cones: Cones, solver="auto", selection="lower"):
    """p ↦ the point of the cone next to p, its Jacobian, and what is known of it."""
    m = cones.size
    program = ConeProgram(cones, solver=solver, selection=selection)

    def project(p):
        eye = jnp.eye(m, dtype=p.dtype)
        solution = program(eye, -p, -eye, jnp.zeros_like(p))
        return solution.primal, (solution.primal, solution.info)

    @jax.jit
    def run(p):
        J, (x, info) = jax.jacrev(project, has_aux=True)(p)
        return x, J, info

    return run


@pytest.mark.parametrize("name", CURVED)
def test_projections_and_their_jacobians(name):
    group, place, cone = CURVED[name]
    project, own = projection(GROUPS[group]), slice(3 * place, 3 * place + 3)
    rng = np.random.default_rng(1)
    for p in rng.normal(size=(12, 3)):
        x, J, info = project(np.tile(p, len(INSIDE[group])))
        np.testing.assert_allclose(x[own], cone.project(jnp.asarray(p)), atol=1e-9)
        step = 1e-5
        sides = [
            (cone.project(jnp.asarray(p + step * e)) - cone.project(jnp.asarray(p - step * e)))
            for e in np.eye(3)
        ]
        np.testing.assert_allclose(J[own, own], np.stack(sides, axis=1) / (2 * step), atol=2e-7)
        np.testing.assert_allclose(np.delete(J[own], np.r_[own], axis=1), 0, atol=1e-9)
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
    J, x = jax.jit(jax.jacrev(lambda p: (layer(p),) * 2, has_aux=True))(p)
    share = np.exp(p) / np.exp(p).sum()
    np.testing.assert_allclose(x, share, atol=1e-12)
    np.testing.assert_allclose(J, np.diag(share) - np.outer(share, share), atol=1e-12)


def test_the_softmax_has_second_derivatives_under_vmap():
    many = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    layer = entropy("clarabel")
    expected = jax.jit(jax.vmap(jax.hessian(lambda p: jax.nn.softmax(p)[0])))(many)
    found = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(lambda p: layer(p)[0]))))(many)
    np.testing.assert_allclose(found, expected, atol=1e-10)


SMOOTH = {
    "second-order": operators.SecondOrder(3),
    "semidefinite": operators.PositiveSemidefinite(2),
    "exponential": operators.Exponential(),
    "power": operators.Power(0.3),
}
HESSIANS = {
    "forward": (jax.jacfwd, Cones(second_order=(3,)), ("second-order",)),
    "reverse": (
        jax.jacrev,
        Cones(second_order=(3,), semidefinite=(2,), exponential=1, power=(0.3,)),
        tuple(SMOOTH),
    ),
}


@pytest.mark.parametrize("outer", HESSIANS)
def test_hessians_are_those_of_the_projection(outer):
    mode, cones, names = HESSIANS[outer]
    program, m = ConeProgram(cones), cones.size
    weights = jnp.tile(jnp.array([1.0, -0.5, 0.7]), len(names))
    p = jnp.tile(jnp.array([0.4, -1.0, 0.3]), len(names))

    def value(p):
        return weights @ program(jnp.eye(m), -p, -jnp.eye(m), jnp.zeros(m)).primal

    def closed(p):
        return weights @ jnp.concatenate(
            [SMOOTH[name].project(p[3 * k : 3 * k + 3]) for k, name in enumerate(names)]
        )

    gradient, step = jax.jit(jax.vmap(jax.grad(closed))), 1e-5
    moved = step * np.eye(m)
    expected = (gradient(p + moved) - gradient(p - moved)) / (2 * step)
    for k in range(len(names)):
        own = slice(3 * k, 3 * k + 3)
        assert np.abs(expected[own, own]).max() > 1e-2
    np.testing.assert_allclose(jax.jit(mode(jax.grad(value)))(p), expected, atol=1e-8)


@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_at_the_boundary_the_derivative_is_one_sided(selection):
    """At the point (0, 1, 1) of the cone the set is conv{I, I − nnᵀ}, n = (1, 1, −1)/√3."""
    point, normal = np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, -1.0]) / np.sqrt(3)
    cones, own, p = among("exponential", point)
    _, J, info = projection(cones, selection=selection)(p)
    # "upper" keeps the constraint in
    held = np.outer(normal, normal) if selection == "upper" else 0.0
    np.testing.assert_allclose(J[own, own], np.eye(3) - held, atol=1e-9)
    assert info.verdict == 1


def test_at_the_apex_the_verdict_is_open_and_the_derivative_that_of_a_neighbour():
    cones, own, p = among("exponential", np.zeros(3))
    x, J, info = projection(cones)(p)
    np.testing.assert_allclose(x[own], 0, atol=1e-9)
    assert info.verdict == 0
    J = J[own, own]
    values = np.linalg.eigvalsh((J + J.T) / 2)
    assert (values >= -1e-9).all()
    assert (values <= 1 + 1e-9).all()


def test_a_mixed_product_in_order_of_its_cones():
    """min ‖x − p‖² over x₁₋₃ ∈ exponential, x₄₋₆ ∈ power(0.3), x₇₋₉ ∈ second-order cone."""
    cones = Cones(second_order=(3,), exponential=1, power=(0.3,))
    parts = [operators.SecondOrder(3), operators.Exponential(), operators.Power(0.3)]
    p = jnp.asarray(np.random.default_rng(3).normal(size=9))
    x, J, info = projection(cones)(p)

    @jax.jit
    def closed(p):
        own = [p[3 * k : 3 * k + 3] for k in range(3)]
        pairs = list(zip(parts, own, strict=True))
        values = [cone.project(v) for cone, v in pairs]
        return jnp.concatenate(values), [jax.jacrev(cone.project)(v) for cone, v in pairs]

    expected, blocks = closed(p)
    np.testing.assert_allclose(x, expected, atol=1e-9)
    J = np.array(J)
    for k, block in enumerate(blocks):
        own = slice(3 * k, 3 * k + 3)
        np.testing.assert_allclose(J[own, own], block, atol=1e-7)
        J[own, own] = 0
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
    p = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    bad = p.copy()
    bad[2] = np.nan
    project = projection(Cones(power=(0.1,)))
    x, J, info = jax.vmap(project)(bad)
    assert x.dtype == jnp.float32
    assert info.status.tolist() == [Status.SOLVED, Status.SOLVED, Status.STALLED, Status.SOLVED]
    assert np.isnan(x[2]).all()
    keep = np.array([0, 1, 3])
    exact = jax.jit(jax.vmap(operators.Power(0.1).project))(np.asarray(p, float)[keep])
    np.testing.assert_allclose(x[keep], exact, atol=2e-4)
    assert np.isfinite(J[keep]).all()


def test_infeasible_and_unbounded():
    program = ConeProgram(Cones(zero=1, exponential=1))
    rows = np.concatenate([[[0.0, 0.0, 1.0]], -np.eye(3)])  # z = −1 in the cone
    with pytest.raises(InfeasibleError, match="constraints"):
        program(np.zeros((3, 3)), np.ones(3), rows, np.array([-1.0, 0, 0, 0]))
    rows[0] = [1.0, 0.0, 0.0]  # x = 0, and z grows
    with pytest.raises(UnboundedError, match="without bound"):
        program(np.zeros((3, 3)), np.array([0.0, 0.0, -1.0]), rows, np.zeros(4))


@pytest.mark.parametrize("name", CURVED)
def test_the_report_bounds_the_singular_values_of_the_system(name):
    cone = CURVED[name][2]
    project = jax.jit(lambda v: (cone.project(v), jax.jacobian(cone.project)(v)))
    for p in np.random.default_rng(2).normal(size=(4, 3)):
        cones, own, whole = among(name, p)
        eye = np.eye(cones.size)
        report = ConeProgram(cones).check(eye, -whole, -eye, np.zeros(cones.size))
        assert report.verdict == Verdict.PROVEN
        assert report.unique
        # V at v = y − s = −p: the projection onto K* is v + P_K(−v)
        V = np.zeros(eye.shape)  # inside the other cones it vanishes
        V[own, own] = np.eye(3) - project(p)[1]
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
    cone, eye, tried = CURVED[name][2], np.eye(3), 0
    project = jax.jit(cone.project)
    for p in np.random.default_rng(4).normal(size=(20, 3)):
        x = np.asarray(project(p))
        if min(np.abs(x).min(), np.abs(p - x).min()) < 0.1:  # inside K or its polar, or at an edge
            continue
        tried += 1
        normal, ray = (a / np.linalg.norm(a) for a in (p - x, x))
        n, r = np.outer(normal, normal), np.outer(ray, ray)
        for kink, ends in ((x, (eye - n, eye)), (p - x, (0 * r, r))):
            cones, own, whole = among(name, kink)
            m = cones.size
            report = ConeProgram(cones).check(np.eye(m), -whole, -np.eye(m), np.zeros(m))
            assert report.verdict == Verdict.PROVEN
            assert [k.operation for k in report.kinks] == [report.kinks[0].operation]
            assert report.kinks[0].distance <= 1e-8
            elements = np.zeros((11, m, m))  # inside the other cones they vanish
            for V, q in zip(elements, np.linspace(0, 1, 11), strict=True):
                V[own, own] = eye - (ends[0] + q * (ends[1] - ends[0]))
            one = np.eye(m)
            systems = [np.block([[one, -V], [-one, V - one]]) for V in elements]
            least = [np.linalg.svd(U, compute_uv=False)[-1] for U in systems]
            np.testing.assert_allclose(report.sigma_min, min(least[0], least[-1]), rtol=1e-6)
            assert 0 < report.margin <= min(least)
    assert tried >= 3


def test_the_report_says_where_the_set_is_not_known():
    cones, _, p = among("exponential", np.zeros(3))
    eye = np.eye(cones.size)
    apex = ConeProgram(cones).check(eye, -p, -eye, np.zeros(cones.size))
    assert apex.verdict == Verdict.UNKNOWN
    assert "apex" in apex.reason


def test_the_report_refutes_a_flat_objective_and_rows_that_depend():
    # x₁₋₃ in the cone; x₄ is free at first; the two equations hold x₅, x₆, then x₁ + x₂ + x₃ twice
    program = ConeProgram(Cones(zero=2, exponential=1))
    cone = np.hstack([-np.eye(3), np.zeros((3, 3))])
    free = program.check(
        np.diag([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
        -np.array([0.2, 1.0, 4.0, 0.0, 0.0, 0.0]),
        np.vstack([np.eye(6)[4:], cone]),
        np.zeros(5),
    )
    assert free.verdict == Verdict.REFUTED
    assert free.second_order is False
    assert free.recheck()[0] < 1e-12
    twice = program.check(
        np.eye(6),
        -np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        np.vstack([[[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]] * 2, cone]),
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
    found, gradient = jax.jit(jax.value_and_grad(value))(jnp.array(p))
    np.testing.assert_allclose(found, float(exact), rtol=1e-12)
    np.testing.assert_allclose(gradient, [float(s) for s in shares], rtol=1e-11)


def test_a_hessian_that_vanishes():
    program = ConeProgram(Cones(nonnegative=3))

    def total(p):
        return program(jnp.eye(3), -p, -jnp.eye(3), jnp.zeros(3)).primal.sum()

    np.testing.assert_array_equal(jax.jit(jax.hessian(total))(jnp.array([1.0, -1.0, 2.0])), 0)


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_next_to_a_flat_face_of_a_power_cone_nothing_is_proven(solver):
    """min a + t, a ≥ 0, |a + δ|^1.5 ≤ t: the dual −1.5 √δ has no derivative at δ = 0."""
    A, q = np.array([[-1.0, 0], [0, -1], [0, 0], [-1, 0]]), np.ones(2)
    program = ConeProgram(Cones(nonnegative=1, power=(2 / 3,)), solver=solver)
    data = np.zeros((2, 2)), q, A, np.array([0.0, 0, 1, 0])
    assert program(*data).info.verdict == Verdict.UNKNOWN
    assert program.check(*data).verdict == Verdict.UNKNOWN


def test_what_is_proven_is_right_to_round_off():
    """min cᵀy + Σ y_i^1.5 over Σ y_i = 1, whose y_i = (max(λ − c_i, 0)/1.5)² has a kink of order ½ in c_i."""
    c = np.random.default_rng(1).normal(size=(40, 3)) * 1.5
    low, high = c.min(axis=1, keepdims=True), c.max(axis=1, keepdims=True) + 10
    for _ in range(100):
        middle = (low + high) / 2
        more = np.sum((np.maximum(middle - c, 0) / 1.5) ** 2, axis=1, keepdims=True) > 1
        low, high = np.where(more, low, middle), np.where(more, middle, high)
    exact = (np.maximum(low - c, 0) / 1.5) ** 2
    y, p = cp.Variable(3), cp.Parameter(3)
    loss = p @ y + cp.sum(cp.power(y, 1.5))
    (found,), info = CvxpyLayer(cp.Problem(cp.Minimize(loss), [cp.sum(y) == 1]), [p], [y]).solve(c)
    proven, inside = np.asarray(info.verdict) == Verdict.PROVEN, np.all(exact > 1e-3, axis=1)
    assert np.all(proven[inside])
    assert inside.any()
    np.testing.assert_allclose(np.asarray(found)[proven], exact[proven], atol=1e-12)
