"""``argmin`` against closed forms of projections, a quadratic program and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict, errors
from helpers import assert_same_set, central_difference


def half_square(x, a):
    return jnp.sum((x - a) ** 2) / 2


def test_projection_on_the_orthant_has_the_set_of_relu():
    F = cx.argmin(half_square, inequalities=lambda x, a: -x)
    a = jnp.array([1.0, 0.0, -2.0])
    x, lam = jnp.maximum(a, 0), jnp.maximum(-a, 0)
    J = cx.implicit_jacobian(F)((x, lam), a)
    assert len(J.kinks) == 1
    assert_same_set(J.vertices()[:, :3], [np.diag([1.0, q, 0.0]) for q in (0.0, 1.0)])
    # x = max(0, a), λ = max(0, −a): one-sided derivatives
    np.testing.assert_allclose(J.directional([1.0, 1.0, 1.0]), [1, 1, 0, 0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(J.directional([1.0, -1.0, 1.0]), [1, 0, 0, 0, 1, -1], atol=1e-12)
    report = cx.check(F, (x, lam), a)
    assert report.verdict == Verdict.PROVEN
    assert report.clarke_exact is True


def test_equalities_alone_and_both_kinds():
    # nearest point with Σx = 1: x = a + (1 − Σa)/n, ν = (Σa − 1)/n
    a = jnp.array([0.5, 0.2, -0.1])
    shift = (1 - jnp.sum(a)) / 3
    plane = cx.argmin(half_square, equalities=lambda x, a: jnp.sum(x) - 1)
    sol = (a + shift, -shift)
    np.testing.assert_allclose(np.concatenate([np.ravel(r) for r in plane(sol, a)]), 0, atol=1e-12)
    np.testing.assert_allclose(
        cx.implicit_jacobian(plane)(sol, a).element()[:3], np.eye(3) - 1 / 3, atol=1e-12
    )
    # and x ≥ 0, at a point where x₃ = 0 only just: the simplex, D_S − 1_S 1_Sᵀ/|S|
    simplex = cx.argmin(half_square, lambda x, a: -x, lambda x, a: jnp.sum(x) - 1)
    a = jnp.array([0.75, 0.25, 0.0])
    J = cx.implicit_jacobian(simplex)((a, jnp.zeros(3), jnp.asarray(0.0)), a)
    supports = np.array([[1.0, 1, 0], [1.0, 1, 1]])
    expected = [np.diag(s) - np.outer(s, s) / s.sum() for s in supports]
    assert_same_set(J.vertices()[:, :3], expected)


def test_unconstrained_programs_take_x_alone():
    F = cx.argmin(lambda x, a: jnp.sum(jnp.cosh(x["u"] - a)) + x["v"] ** 2)
    sol = {"u": jnp.array([1.0, 2.0]), "v": jnp.asarray(0.0)}
    J = cx.implicit_jacobian(F)(sol, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(J.element(), [[1, 0], [0, 1], [0, 0]], atol=1e-12)


def test_through_custom_root_against_finite_differences():
    # min ½ x'Qx − b'x, G x ≤ 1: solved by trying all active sets
    Q = np.array([[2.0, 0.5], [0.5, 1.0]])
    G = np.array([[1.0, 1.0], [-1.0, 2.0]])

    def solve(b):
        best = None
        for rows in ([], [0], [1], [0, 1]):
            k = len(rows)
            K = np.block([[Q, G[rows].T], [G[rows], np.zeros((k, k))]])
            full = np.linalg.solve(K, np.concatenate([b, np.ones(k)]))
            x, lam = full[:2], np.zeros(2)
            lam[rows] = full[2:]
            if np.all(G @ x <= 1 + 1e-12) and np.all(lam >= -1e-12):
                best = x, lam
        return best

    F = cx.argmin(
        lambda x, b: x @ Q @ x / 2 - b @ x, inequalities={"rows": lambda x, b: G @ x - 1}["rows"]
    )

    def forward(init, b):
        shapes = (jax.ShapeDtypeStruct((2,), b.dtype), jax.ShapeDtypeStruct((2,), b.dtype))
        return jax.pure_callback(lambda b: solve(np.asarray(b)), shapes, b)

    solver = cx.custom_root(F)(forward)
    for b in ([3.0, 1.0], [0.2, 0.1], [-1.0, 3.0]):
        actual = jax.jacobian(lambda b: solver(None, b)[0])(jnp.array(b))
        expected = central_difference(lambda b: solve(b)[0], np.array(b))
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_dependent_active_constraints_are_refuted():
    # x ≥ 0 stated twice: the multipliers are not unique
    F = cx.argmin(half_square, inequalities=lambda x, a: jnp.concatenate([-x, -2 * x]))
    report = cx.check(F, (jnp.zeros(1), jnp.zeros(2)), jnp.zeros(1))
    assert report.verdict == Verdict.REFUTED


def test_wrong_solutions_are_refused():
    F = cx.argmin(half_square, inequalities=lambda x, a: -x)
    with pytest.raises(errors.InvalidInputError, match=r"\(x, λ\)"):
        F(jnp.zeros(2), jnp.zeros(2))
    with pytest.raises(errors.InvalidInputError, match="λ has leaves"):
        F((jnp.zeros(2), jnp.zeros(3)), jnp.zeros(2))
