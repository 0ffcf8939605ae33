"""Solves inside a program: their equations join the system, and each gets its own certificate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.invertibility import Verdict
from helpers import assert_same_set


def hinge(y, a):
    """Zero at y = max(0, −2a), whose derivatives at a = 0 are −2 and 0."""
    return y - jnp.maximum(0.0, y / 2 - a)


@cx.custom_root(hinge)
def solve(init, a):
    return jnp.maximum(0.0, -2 * a)


def test_a_solve_brings_its_own_set():
    J = cx.conservative_jacobian(lambda a: solve(None, a))(0.0)
    assert_same_set(J.vertices(), [-2.0, 0.0])
    np.testing.assert_allclose(J.element(), jax.grad(lambda a: solve(None, a))(0.0))


def test_solves_in_sequence_multiply():
    """d/da y(y(a)) is a product of one derivative of each solve."""
    J = cx.conservative_jacobian(lambda a: solve(None, 1.0 * solve(None, a)))(0.0)
    assert_same_set(J.vertices(), [0.0, 4.0])


def test_solves_in_a_loop_have_their_own_selections():
    J = cx.conservative_jacobian(lambda a: jax.lax.map(lambda t: solve(None, t), a))(jnp.zeros(2))
    expected = [np.diag([p, q]) for p in (-2.0, 0.0) for q in (-2.0, 0.0)]
    assert_same_set(J.vertices(), expected)


def test_a_solve_inside_an_equation_joins_its_system():
    """y = 0.1 s(y − a) + a: dy = (1 − 0.1 g)⁻¹ (1 − 0.1 g) da = da for every slope g of s."""
    equation = lambda y, a: y - 0.1 * solve(None, y - a) - a  # noqa: E731
    report = cx.check(equation, 0.0, 0.0)
    assert report.verdict == Verdict.PROVEN
    assert [c.verdict for _, c in report.solves] == [Verdict.PROVEN]
    assert_same_set(cx.implicit_jacobian(equation)(0.0, 0.0).vertices(), [1.0])
    assert "inner solve" in str(report)


def test_nested_solves_equal_the_composed_closed_form():
    @cx.custom_root(lambda z, a: z - 0.5 * solve(None, z + a) - a)
    def outer(init, a):
        # for a >= 0 the inner solution is 0; for a < 0: z = −(z + a) + a
        return jnp.where(a > 0, a, 0.0 * a)

    J = cx.conservative_jacobian(lambda a: outer(None, a))(0.0)
    # 1 − g/2 in front of dz, 1 + g/2 in front of da, for g in {−2, 0}
    assert_same_set(J.vertices(), [0.0, 1.0])


def test_a_solver_that_returns_no_root_is_named():
    wrong = cx.custom_root(hinge)(lambda init, a: a + 1.0)
    with pytest.raises(errors.NotARootError, match=r"test_solves_inside\.py:\d+"):
        cx.conservative_jacobian(lambda a: wrong(None, a))(1.0)


def test_a_users_own_rule_is_listed():
    @jax.custom_jvp
    def mine(x):
        return jnp.abs(x)

    mine.defjvp(lambda p, t: (mine(*p), t[0]))
    report = cx.check(lambda y, a: y - 0.5 * mine(y) - a, 0.0, 0.0)
    assert [name.rpartition(".")[2] for name, _ in report.given_rules] == ["mine"]
    assert "taken as given" in str(report)
    assert report.verdict == cx.Verdict.PROVEN
    assert report.reason.startswith("given the rules below, ")
    assert report.clarke_exact is None
    # the rule says slope 1 for |x|: nothing of it is exact
    assert cx.conservative_jacobian(lambda x: mine(x) + jnp.abs(x))(0.0).clarke_exact is None


@pytest.mark.parametrize("a", [[0.0, -1.0, 0.0], [1.0, 0.0], [0.0]])
def test_solves_under_vmap_have_their_own_selections(a):
    a = jnp.array(a)
    J = cx.conservative_jacobian(jax.vmap(lambda t: solve(None, t)))(a)
    slopes = [[-2.0, 0.0] if t == 0 else [-2.0 if t < 0 else 0.0] for t in a]
    assert_same_set(J.vertices(), [np.diag(pick) for pick in itertools.product(*slopes)])
    np.testing.assert_allclose(
        J.element(), jax.jacobian(jax.vmap(lambda t: solve(None, t)))(a), atol=1e-12
    )


@pytest.mark.parametrize("batch", [2, 3])  # 3: the batch is as long as the solution
def test_mapped_axes_are_found_wherever_they_stand(batch):
    """y = max(0, A x + b)/2 by the equation 2y = relu(A x + b): batched in x, or b, along other axes."""
    rng = np.random.default_rng(0)
    A, b = jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=3))
    x = jnp.asarray(rng.normal(size=(batch, 3)))

    @cx.custom_root(lambda y, r: 2 * y - jax.nn.relu(r))
    def half(init, r):
        return jax.nn.relu(r) / 2

    def fun(x):
        return jax.vmap(lambda x: half(None, A @ x + b))(x)

    np.testing.assert_allclose(
        cx.conservative_jacobian(fun)(x).element(),
        jax.jacobian(lambda x: jax.nn.relu(x @ A.T + b) / 2)(x).reshape(3 * batch, -1),
        atol=1e-12,
    )
    twice = cx.conservative_jacobian(jax.vmap(fun))(x[None])
    np.testing.assert_allclose(twice.element(), cx.conservative_jacobian(fun)(x).element(), atol=0)
