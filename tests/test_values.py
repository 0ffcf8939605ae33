"""Value functions: closed forms, ties, one-sided differences, maximisers that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.errors import InvalidInputError, NotARootError

N, PIECES = 3, 5


def quadratic(x, piece):
    """½xᵀPx + gᵀx + c."""
    P, g, c = piece
    return x @ P @ x / 2 + g @ x + c


def test_two_hundred_maxima_of_quadratics_with_ties():
    """v′(x; d) is the largest slope among the tied; the set's vertices are their gradients."""
    rng = np.random.default_rng(0)
    v = cx.value(lambda x, piece, *_: quadratic(x, piece), lambda x, *pieces: pieces, stacked=True)
    at = cx.conservative_jacobian(v)
    grad = jax.jit(jax.grad(v))
    h = 1e-6
    for case in range(200):
        roots = rng.normal(size=(PIECES, N, N))
        P, g = roots + roots.transpose(0, 2, 1), rng.normal(size=(PIECES, N))
        x, d = rng.normal(size=N), rng.normal(size=N)
        tied = 1 + case % 3
        levels = np.where(np.arange(PIECES) < tied, 0.0, -1.0)
        c = levels - np.einsum("i,kij,j->k", x, P, x) / 2 - g @ x
        gradients = np.einsum("kij,j->ki", P, x) + g
        pieces = tuple(map(jnp.asarray, (P, g, c)))
        J = at(jnp.asarray(x), *pieces)
        slope = max(gradients[:tied] @ d)
        np.testing.assert_allclose(J.directional(d), slope, atol=1e-9)
        np.testing.assert_allclose(
            np.sort(J.vertices()[:, 0] @ d), np.sort(gradients[:tied] @ d), atol=1e-9
        )
        values = [max(np.einsum("i,kij,j->k", y, P, y) / 2 + g @ y + c) for y in (x + h * d, x)]
        np.testing.assert_allclose((values[0] - values[1]) / h, slope, atol=1e-3)
        assert J.contains(np.asarray(grad(jnp.asarray(x), *pieces))[None], tol=1e-7)


def test_one_maximiser_is_differentiated_twice():
    """max_{|y| ≤ 1} xy − y²/2 is x²/2 inside and |x| − ½ outside."""
    v = cx.value(
        lambda x, y: x * y - y**2 / 2,
        lambda x: jnp.clip(x, -1.0, 1.0),
        project=lambda y: jnp.clip(y, -1, 1),
    )
    x = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(jax.vmap(v)(x), [0.125, 2.5])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(v)))(x), [0.5, -1.0])
    np.testing.assert_allclose(jax.vmap(jax.hessian(v))(x), [1.0, 0.0])


def test_min_over_a_finite_set_of_trees():
    points = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, -1.0])}
    v = cx.value(lambda x, y: x * y["a"] + y["b"], points, sense="min")
    np.testing.assert_allclose([v(0.0), jax.grad(v)(0.0)], [-1.0, 2.0])
    np.testing.assert_allclose(
        np.sort(cx.conservative_jacobian(v)(4.0).vertices().ravel()), [1.0, 2.0]
    )


def test_the_solutions_of_a_program_and_their_multipliers():
    """v(x) = min ½‖y‖² − xᵀy, y ≥ 0, is −½‖max(x, 0)‖²; with y ≥ x in place of 0 by the Lagrangian."""
    program = cx.programs.QuadraticProgram()

    def solution(x):
        return program(jnp.eye(2), -x, G=-jnp.eye(2), h=jnp.zeros(2)).primal

    v = cx.value(lambda x, y: y @ y / 2 - x @ y, solution, sense="min")
    x = jnp.array([2.0, -1.0])
    np.testing.assert_allclose(jax.grad(v)(x), [-2.0, 0.0], atol=1e-7)

    def lagrangian(x, pair):  # min ½‖y‖² subject to y ≥ x: multipliers max(x, 0)
        y, m = pair
        return y @ y / 2 + m @ (x - y)

    w = cx.value(lagrangian, lambda x: (jnp.maximum(x, 0.0), jnp.maximum(x, 0.0)), sense="min")
    np.testing.assert_allclose(w(x), 2.0)
    np.testing.assert_allclose(jax.grad(w)(x), [2.0, 0.0])


def test_a_maximiser_that_is_none():
    def f(x, y):
        return x * y - y**2 / 2

    wrong = cx.value(f, lambda x: x + 0.1, stationarity=lambda x, y: x - y)
    with pytest.raises(NotARootError, match="maximiser"):
        wrong(1.0)
    assert np.isnan(jax.jit(wrong)(1.0))
    outside = cx.value(f, lambda x: x, project=lambda y: jnp.clip(y, -1.0, 1.0))
    with pytest.raises(NotARootError):
        outside(2.0)
    assert float(cx.value(f, lambda x: x, stationarity=lambda x, y: x - y)(1.0)) == 0.5


def test_bad_input():
    with pytest.raises(InvalidInputError, match="sense"):
        cx.value(lambda x, y: x * y, jnp.ones(2), sense="sup")
    with pytest.raises(InvalidInputError, match="tol"):
        cx.value(lambda x, y: x * y, lambda x: x, project=lambda y: y, tol=-1.0)
    with pytest.raises(InvalidInputError, match="first axis"):
        cx.value(lambda x, y: x * y, jnp.zeros((0, 2)))
    with pytest.raises(InvalidInputError, match="stacked"):
        cx.value(lambda x, y: x * y, lambda x: jnp.ones(2))(1.0)


def test_a_finite_set_with_nan_is_refused():
    with pytest.raises(InvalidInputError, match="holds NaN"):
        cx.value(lambda x, y: x * y, jnp.array([jnp.nan, 2.0]))
