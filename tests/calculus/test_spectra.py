"""Eigenvalues and singular values where several meet or vanish: closed forms, and eigenvalues nearby."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from helpers import assert_same_set

EXAMPLES = 200 if "CONSERVAX_PROGRAMS" in os.environ else 20  # make fuzz, make test


def diag(*entries):
    return jnp.diag(jnp.stack([jnp.asarray(e, float) for e in jnp.broadcast_arrays(*entries)]))


def singular(A):
    return jnp.linalg.svd(A, compute_uv=False)


eigenvalues = jnp.linalg.eigvalsh

# what it is, the point, the derivatives at extreme selections, whether they are known to be Clarke's
ON_A_LINE = {
    "the larger of two, 1 + |t|": (
        lambda t: eigenvalues(diag(1 + t, 1 - t))[1],
        0.0,
        [-1, 1],
        True,
    ),
    "the smaller of two": (lambda t: eigenvalues(diag(1 + t, 1 - t))[0], 0.0, [-1, 1], True),
    "a function of all": (lambda t: jnp.sum(eigenvalues(diag(1 + t, 1 - t)) ** 2), 0.0, [0], True),
    "the largest of three": (
        lambda t: eigenvalues(diag(1 + t, 1, 1 - t))[2],
        0.0,
        [-1, 0, 1],
        None,
    ),
    "the median of three, whose slope is 0": (
        lambda t: eigenvalues(diag(1 + t, 1, 1 - t))[1],
        0.0,
        [-1, 0, 1],
        None,
    ),
    "a double one in a full matrix": (
        lambda t: eigenvalues(jnp.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]]) + diag(t, -t, 0))[1],
        0.0,
        None,
        True,
    ),
    "the smallest singular value at 0": (lambda t: singular(diag(1, t))[1], 0.0, [-1, 1], True),
    "of a tall matrix, along a line": (
        lambda t: singular(jnp.array([[1.0, 0], [0, 3], [0, 4]]) * jnp.stack([1.0, t]))[1],
        0.0,
        [-5, 5],
        True,
    ),
    "the nuclear norm at rank one": (
        lambda t: jnp.linalg.norm(diag(1, t), "nuc"),
        0.0,
        [-1, 1],
        True,
    ),
    "the nuclear norm at 0": (
        lambda t: jnp.linalg.norm(t * jnp.array([[3.0, 0], [4, 5]]), "nuc"),
        0.0,
        [-np.sqrt(80), np.sqrt(80)],
        True,
    ),
    "the nuclear norm at the identity": (
        lambda t: jnp.linalg.norm(diag(1 + t, 1 - t, 1 + 2 * t), "nuc"),
        0.0,
        [2],
        True,
    ),
    "the spectral norm": (lambda t: jnp.linalg.norm(diag(1 + t, 1 - t), 2), 0.0, [-1, 1], None),
    "the condition number at 1": (lambda t: jnp.linalg.cond(diag(t, 1)), 1.0, [-1, 1], True),
    "off every kink": (lambda t: eigenvalues(diag(1 + t, 1 - t))[1], 0.25, [1], True),
}


@pytest.mark.parametrize("name", ON_A_LINE)
def test_of_one_parameter(name):
    fun, t, slopes, exact = ON_A_LINE[name]
    J = cx.conservative_jacobian(fun)(t)
    if slopes is not None:
        assert_same_set(J.vertices(), slopes, atol=1e-9)
    assert J.clarke_exact is exact
    np.testing.assert_allclose(J.element("jax"), [[jax.grad(fun)(t)]], atol=1e-9)
    for v in (1.0, -1.0):
        one_sided = (fun(t + 1e-7 * v) - fun(t)) / 1e-7
        np.testing.assert_allclose(J.directional([v]), [one_sided], atol=2e-6)


def test_two_that_meet_share_one_ball():
    def fun(x):
        return eigenvalues(jnp.array([[1 + x[0], x[1]], [x[1], 1 - x[0]]]))

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert [k.operation for k in J.kinks] == ["eigenvalues"]
    assert J.clarke_exact
    for angle in np.linspace(0, 6, 7):
        v = np.array([np.cos(angle), np.sin(angle)])
        np.testing.assert_allclose(J.directional(v), [-1, 1], atol=1e-9)
        assert J.contains(np.stack([-v, v]))
        assert not J.contains(np.stack([-1.01 * v, 1.01 * v]))
        assert not J.contains(np.stack([v, v / 2]))  # the same u for both
    with pytest.raises(errors.NotPolyhedralError):
        J.vertices()


def test_the_smallest_singular_value_of_a_tall_matrix_is_a_norm():
    def fun(x):
        return singular(jnp.array([[1.0, 0], [0, 1], [0, 0]]) * jnp.stack([1.0, x[0]])
                        + jnp.array([[0.0, 0], [0, 0], [0, 1]]) * x[1])[1]  # fmt: skip

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    np.testing.assert_allclose(J.directional([3.0, 4.0]), [5.0], atol=1e-9)
    assert J.contains([[0.6, -0.8]])
    assert not J.contains([[0.61, -0.8]])
    np.testing.assert_allclose(J.element("jax"), [jax.grad(fun)(jnp.zeros(2))], atol=1e-9)


def test_three_that_move_by_matrices_that_do_not_commute_are_refused_by_their_number():
    turn, spread = jnp.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 0]]), jnp.diag(jnp.array([1.0, -1, 0]))

    def values(x):
        return eigenvalues(jnp.eye(3) + x[0] * turn + x[1] * spread)

    with pytest.raises(errors.UnsupportedOperationError, match="3 eigenvalues are equal"):
        cx.conservative_jacobian(lambda x: values(x)[2])(jnp.zeros(2))
    J = cx.conservative_jacobian(lambda x: jnp.sum(values(x) ** 3))(jnp.zeros(2))
    np.testing.assert_allclose(J.vertices(), [[[0.0, 0.0]]], atol=1e-12)


def test_vectors_are_refused_where_values_meet():
    def eigenvector(t):
        return jnp.linalg.eigh(diag(1 + t, 1 - t))[1][0, 0]

    def polar(t):
        U, _, Vt = jnp.linalg.svd(diag(1, t), full_matrices=False)
        return (U @ Vt)[1, 1]

    for fun in (eigenvector, polar):
        with pytest.raises(errors.UnsupportedOperationError, match="vectors of equal"):
            cx.conservative_jacobian(fun)(0.0)
        assert cx.conservative_jacobian(fun)(0.5).clarke_exact


def test_a_verdict_where_two_meet():
    def equation(y, p):
        return y + 2 * (eigenvalues(diag(1 + y, 1 - y))[1] - 1) - p

    assert cx.check(equation, 0.0, 0.0).verdict == cx.Verdict.REFUTED  # slopes −1 and 3
    assert cx.check(lambda y, p: 3 * y + equation(y, p), 0.0, 0.0).verdict == cx.Verdict.PROVEN


def test_near_but_not_at_a_meeting():
    """Within the tolerance two count as equal; beyond it each has its gradient."""
    J = cx.conservative_jacobian(lambda t: eigenvalues(diag(1 + t, 1 - t))[1])
    assert_same_set(J(1e-12).vertices(), [-1, 1])
    assert_same_set(J(1e-6).vertices(), [1])


def pencil(x, A0, directions, weights):
    return weights @ eigenvalues(A0 + jnp.tensordot(x, directions, 1))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_random_pencils_against_eigenvalues_nearby(seed):
    """A double eigenvalue of A₀ + Σ x_k A_k in a random basis: one-sided derivatives and elements."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    spectrum = [[1.0, 1.0, 2.0, 3.0], [0.0, 2.0, 2.0, 5.0]][seed % 2]
    A0 = basis @ np.diag(spectrum) @ basis.T
    directions = rng.normal(size=(2, 4, 4))
    directions = directions + directions.swapaxes(1, 2)
    if seed % 3 == 0:
        directions[1] = 0.0  # a single parameter: a scalar kink
    weights = rng.normal(size=4)
    J = cx.conservative_jacobian(pencil)(jnp.zeros(2), A0, directions, weights)
    v = rng.normal(size=2)
    h = 1e-6
    after, before = (
        weights @ np.linalg.eigvalsh(A0 + t * np.tensordot(v, directions, 1)) for t in (h, 0.0)
    )
    np.testing.assert_allclose(J.directional(v), [(after - before) / h], atol=2e-4)
    near = 1e-5 * v / np.linalg.norm(v)
    Q = np.linalg.eigh(A0 + np.tensordot(near, directions, 1))[1]
    gradient = np.array([weights @ np.einsum("ji,jk,ki->i", Q, D, Q) for D in directions])
    assert J.distance(gradient[None]) < 1e-3 * (1 + np.linalg.norm(gradient))
