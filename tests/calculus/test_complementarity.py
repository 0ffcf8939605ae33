"""``directional`` against exact one-sided derivatives, fixed-point iterations and closed forms."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import ConservativeJacobian, errors
from conservax.calculus.sets.complementarity import solve_lcp
from helpers import Program, assert_same_set, at, points, programs

from .test_pivots import a_form, implicit_line

relu = jax.nn.relu


@given(programs(outputs=2), points(2), st.lists(points(2), min_size=3, max_size=3))
def test_directional_is_the_one_sided_derivative(program: Program, x, directions):
    jacobian = cx.conservative_jacobian(program.to_jax())
    for point in (x, (Fraction(0), Fraction(0))):
        J = jacobian(at(point))
        for v in directions:
            try:
                actual = J.directional([float(c) for c in v])
            except errors.UnsupportedOperationError:
                # documented: a predicate of two comparisons that are both active is not decided
                assert any(i.operation == "compound" for i in program.instructions)
                continue
            np.testing.assert_allclose(actual, program.directional(point, v), atol=1e-9)


def lower(u):
    return jnp.minimum(u[0], u[1])


def median_less_part(u):
    return jnp.sort(u[:3])[1] - relu(u[3])


def positive_lower(u):
    return jnp.where(lower(u) > 0, lower(u), 0.0)


# Comparisons of a kinked quantity, which the branches name again.
GATES = [
    positive_lower,
    lambda u: jnp.where(jnp.maximum(u[0], u[1]) > 0, jnp.maximum(u[0], u[1]), 0.0),
    lambda u: jnp.where(jnp.abs(u[0]) <= jnp.abs(u[1]), u[0], jnp.sign(u[0]) * jnp.abs(u[1])),
    lambda u: jnp.where(jnp.abs(u[0]) - u[1] > 0, jnp.abs(u[0]) - u[1], 0.0),
    lambda u: jax.lax.cond(jnp.max(u) > 0, lambda u: 2 * jnp.max(u), jnp.max, u),
    lambda u: u[0] + jnp.where(median_less_part(u) > 0, 3, 1) * median_less_part(u),
    lambda u: jnp.where(positive_lower(u) > jnp.abs(u[2]), positive_lower(u) + u[3], jnp.abs(u[2]) + u[3]),
]  # fmt: skip
DIRECTED = [
    (0, (1.0, -1.0), 0.0),
    (1, (0.126, -0.132), 0.126),
    (2, (2.0, 1.0), 1.0),
    (3, (1.75, 1.25), 0.5),
    (4, (-0.5, 1.5), 3.0),
]
GATED = [
    (gate, cx.conservative_jacobian(lambda x, C, gate=gate: gate(C @ x)), jax.jit(gate))
    for gate in GATES
]


@pytest.mark.parametrize(("number", "v", "expected"), DIRECTED)
def test_a_comparison_takes_the_side_of_the_kinks_inside_it(number, v, expected):
    J = cx.conservative_jacobian(GATES[number])(jnp.zeros(2))
    np.testing.assert_allclose(J.directional(v), [expected], atol=1e-12)
    both = cx.conservative_jacobian(lambda z, x: GATES[number](x) + z[:2].sum(), argnums=(1, 0))
    J = both(jnp.zeros(3), jnp.zeros(2))  # the columns in another order
    pair = (jnp.array(v), jnp.array([1.0, 0.5, 7.0]))
    np.testing.assert_allclose(J.directional(pair), [expected + 1.5], atol=1e-12)


@settings(max_examples=30)
@given(st.sampled_from(GATED), st.booleans(), st.integers(0, 10**6))
def test_directional_through_random_gates_is_the_difference_quotient(gated, generic, seed):
    # homogeneous of degree one: the value at v is the derivative at 0 along v
    _, jacobian, gate = gated
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(4, 3)) if generic else rng.integers(-2, 3, (4, 3)).astype(float)
    J = jacobian(jnp.zeros(3), C)
    for v in (rng.normal(size=3), rng.integers(-2, 3, 3).astype(float)):
        try:
            actual = J.directional(v)
        except errors.UnsupportedOperationError:  # the comparison stands still along v
            assert not generic
            continue
        np.testing.assert_allclose(actual, [gate(C @ v)], atol=1e-9)


def contraction(k, n, seed):
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(k, k))
    return 0.8 * L / np.linalg.norm(L, 2), rng.normal(size=(k, n))


def iterate(L, b):
    z = np.zeros(len(b))
    for _ in range(300):
        z = b + L @ np.maximum(z, 0)
    return z


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_directional_of_a_fixed_point_is_the_fixed_point_of_the_direction(k, seed):
    # z = E x + L relu(z) is positively homogeneous: its derivative at 0 along v is its value at v
    L, E = contraction(k, 2, seed)
    z0, x0 = jnp.zeros(k), jnp.zeros(2)
    J = cx.implicit_jacobian(lambda z, x: z - (E @ x + L @ relu(z)))(z0, x0)
    v = np.random.default_rng(seed).normal(size=2)
    np.testing.assert_allclose(J.directional(v), iterate(L, E @ v), atol=1e-9)


def test_directional_of_an_implicit_function_with_a_tie():
    # y = x/2 + max(y₁, y₂, 0)·(¼, −¼): piecewise linear, a contraction
    def residual(y, x):
        return y - x / 2 - jnp.max(jnp.append(y, 0.0)) * jnp.array([0.25, -0.25])

    J = cx.implicit_jacobian(residual)(jnp.zeros(2), jnp.zeros(2))
    assert [k.ways for k in J.kinks] == [3]
    for v in np.random.default_rng(0).normal(size=(20, 2)):
        y = np.zeros(2)
        for _ in range(200):
            y = v / 2 + max(y[0], y[1], 0.0) * np.array([0.25, -0.25])
        np.testing.assert_allclose(J.directional(v), y, atol=1e-10)


@given(st.integers(1, 30), st.integers(0, 10**6))
def test_complementarity_problems_of_p_matrices(k, seed):
    L, _ = contraction(k, 1, seed)
    N, b = np.eye(k) - L, np.random.default_rng(seed + 1).normal(size=k)
    r = solve_lcp(N, b)
    w = N @ r - b
    assert np.all(r >= 0)
    assert np.all(w >= -1e-9)
    assert abs(r @ w) < 1e-9


def test_murtys_rule_takes_over_where_newton_cycles():
    # a P-matrix (circulant) on which flipping every wrong index at once returns to where it started
    N = np.array([[1.0, 0, 3], [3, 1, 0], [0, 3, 1]])
    r = solve_lcp(N, np.ones(3))
    assert np.all(r >= 0)
    assert np.all(N @ r - 1 >= -1e-12)
    assert abs(r @ (N @ r - 1)) < 1e-12


def test_no_solution_and_several_are_errors():
    # z = x + 2 relu(z): for x < 0 both z = x and z = −x solve it, for x > 0 nothing does
    J = ConservativeJacobian(implicit_line(2.0))
    with pytest.raises(errors.NotUniqueError, match=r"relu at model.py:1"):
        J.directional([-1.0])
    with pytest.raises(errors.SingularError, match="no solution"):
        J.directional([1.0])
    # z = x + relu(z): at x = 0 every z ≥ 0 solves it
    with pytest.raises(errors.NotUniqueError):
        ConservativeJacobian(implicit_line(1.0)).directional([0.0])
    assert ConservativeJacobian(implicit_line(1.0)).directional([-1.0]) == 0.0


def test_undecided_uniqueness_is_an_error():
    form = a_form([("segment", 1)] * 25, implicit=True)
    form = type(form)(form.A, form.H, form.E, 40 * form.L, form.groups, None, form.dtype)
    with pytest.raises(errors.TooManyKinksError, match="25 kinks"):
        ConservativeJacobian(form).directional([1.0, 0.0, 0.0])


def difference_quotient(fun, x, v, t=1e-7):
    x, v = np.asarray(x, float), np.asarray(v, float)
    return (np.ravel(fun(jnp.asarray(x + t * v))) - np.ravel(fun(jnp.asarray(x)))) / t


FUNCTIONS = [
    lambda x: jnp.where(x[0] > x[1], x[0] * x[0] + x[1], x[1] * x[0] + x[1]),  # agree where x₀ = x₁
    lambda x: jnp.where(x[0] > 0, jnp.array([1.0, 2.0]) * x[0] + x[1], x[1] * jnp.ones(2)),
    lambda x: cx.norm(x) - 2 * cx.norm(x[:2] + x[1]),
    lambda x: relu(cx.norm(x) - 2 * x[0]) + jnp.max(jnp.abs(x)),
    lambda x: cx.norm(jnp.abs(x) - x[::-1]),
    lambda x: jnp.sort(x) * jnp.arange(1.0, 4.0),
    lambda x: jnp.min(jnp.stack([x[0], 2 * x[1], -x[2], x[0] + x[1]])) - jnp.clip(x[2], 0.0, 1.0),
]


@pytest.mark.parametrize("fun", FUNCTIONS)
def test_directional_against_difference_quotients(fun):
    J = cx.conservative_jacobian(fun)(jnp.zeros(3))
    for v in np.random.default_rng(3).normal(size=(25, 3)):
        # the pieces' curvature is at most 2: an error of order t = 1e-7
        np.testing.assert_allclose(
            J.directional(v), difference_quotient(fun, np.zeros(3), v), rtol=1e-5, atol=1e-5
        )


def test_a_direction_is_a_vector_or_a_pytree_like_the_inputs():
    def fun(p):
        return jnp.abs(p["a"]).sum() + relu(p["b"])

    J = cx.conservative_jacobian(fun)({"a": jnp.zeros(2), "b": 0.0})
    assert J.directional({"a": np.array([1.0, -2.0]), "b": 3.0}) == 6.0
    assert J.directional([1.0, -2.0, -3.0]) == 3.0
    for bad in ([1.0, 2.0], np.ones((3, 1)), {"a": np.ones(3), "b": 0.0}, [np.nan, 0, 0], "up"):
        with pytest.raises(errors.InvalidInputError, match="3 finite numbers"):
            J.directional(bad)
    assert cx.conservative_jacobian(jnp.abs)(0.0).directional(-2.0) == 2.0


def test_a_where_whose_side_is_of_second_order_is_refused():
    J = cx.conservative_jacobian(lambda x: jnp.where(x * x > 0, 2 * x, x))(0.0)
    with pytest.raises(errors.UnsupportedOperationError, match="second derivatives"):
        J.directional(1.0)


def test_an_equality_decides_no_direction():
    form = implicit_line(0.0)
    (group,) = form.groups
    marked = type(group)(group.kink, group.columns, group.jax, on_switch=True)
    J = ConservativeJacobian(
        type(form)(form.A, form.H, form.E, form.L, (marked,), None, form.dtype)
    )
    assert J.directional([1.0]) == 0.0
    assert J.clarke_exact is None


def test_a_predicate_of_two_ties_is_refused_for_what_it_is():
    def fun(x):
        return jnp.where((x[0] > 0) & (x[1] > 0), jnp.minimum(x[0], x[1]), 0.0)

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert_same_set(J.vertices(), [[0, 0], [0, 1], [1, 0]])
    with pytest.raises(errors.UnsupportedOperationError, match="several comparisons"):
        J.directional([1.0, 2.0])
