"""Where operations that JAX differentiates have no derivative: refused on the cut, differentiated off it."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import conservax as cx
from conservax import errors

EXAMPLES = 200 if "CONSERVAX_PROGRAMS" in os.environ else 20  # make fuzz, make test
JUMP, SLOPE = errors.DiscontinuousError, errors.NotLipschitzError


def diag(*entries):
    return jnp.diag(jnp.stack([jnp.asarray(e, float) for e in jnp.broadcast_arrays(*entries)]))


def complexes(x):
    return lax.complex(x[0], x[1])


def both(f):
    return lambda x: jnp.stack([jnp.real(f(complexes(x))), jnp.imag(f(complexes(x)))])


# what it is, a point on the edge, one off it, the refusal
EDGES = {
    "arctan2": (lambda x: jnp.arctan2(x[1], x[0]), [-1.0, 0.0], [1.0, 0.0], JUMP),
    "arctan2 at the origin": (lambda x: jnp.arctan2(x[1], x[0]), [0.0, 0.0], [0.0, 1.0], JUMP),
    "angle": (lambda x: jnp.angle(complexes(x)), [-2.0, 0.0], [-2.0, 1.0], JUMP),
    "log": (both(jnp.log), [-1.0, 0.0], [-1.0, 0.1], JUMP),
    "sqrt": (both(jnp.sqrt), [-1.0, 0.0], [1.0, 0.0], JUMP),
    "a power": (both(lambda z: z**0.5), [-1.0, 0.0], [-1.0, -1.0], JUMP),
    "arcsin": (both(jnp.arcsin), [2.0, 0.0], [0.5, 0.0], JUMP),
    "arctan": (both(jnp.arctan), [0.0, 2.0], [0.0, 0.5], JUMP),
    "arccosh": (both(jnp.arccosh), [0.5, 0.0], [2.0, 0.0], JUMP),
    "log1p": (both(jnp.log1p), [-2.0, 0.0], [-0.5, 0.0], JUMP),
    "frexp": (lambda x: jnp.frexp(x[0])[0] * x[1], [2.0, 1.0], [3.0, 1.0], JUMP),
    "the exponent of frexp": (lambda x: x[1] * jnp.frexp(x[0])[1], [1.0, 1.0], [1.5, 1.0], JUMP),
    "pinv at a lost rank": (
        lambda x: jnp.linalg.pinv(diag(x[0], x[1])),
        [0.0, 1.0],
        [2.0, 1.0],
        JUMP,
    ),
    "pinv that cuts off": (
        lambda x: jnp.linalg.pinv(diag(x[0], x[1]), rtol=0.1),
        [0.01, 1.0],
        [0.5, 1.0],
        JUMP,
    ),
    "slogdet": (lambda x: jnp.linalg.slogdet(diag(x[0], x[1]))[0], [0.0, 1.0], [-1.0, 1.0], JUMP),
    "slogdet of three": (
        lambda x: jnp.linalg.slogdet(
            jnp.array([[0.1, 0.2, 0], [0.3, 0.6, 0], [0, 0, 1]]) + diag(*x, 0)
        )[0],
        [0.0, 0.0],
        [1.0, 0.0],
        JUMP,
    ),
    "qr": (lambda x: jnp.linalg.qr(jnp.stack([x, x[::-1] + 1]))[1], [0.0, 1.0], [1.0, 2.0], JUMP),
    "cholesky": (
        lambda x: jnp.linalg.cholesky(jnp.array([[0.01, 0.03], [0.03, 0.09]]) + diag(*x)),
        [0.0, 0.0],
        [1.0, 0.0],
        SLOPE,
    ),
    "0 to a moving power": (lambda x: x[0] ** x[1], [0.0, 1.0], [0.0, 2.0], SLOPE),
}


@pytest.mark.parametrize("name", EDGES)
def test_refused_on_the_edge_by_name_and_line(name):
    fun, on, off, refusal = EDGES[name]
    with pytest.raises(refusal, match=r"test_domains\.py:\d+"):
        cx.conservative_jacobian(fun)(jnp.array(on))
    J = cx.conservative_jacobian(fun)(jnp.array(off))
    expected = np.reshape(jax.jacobian(fun)(jnp.array(off)), J.shape)
    np.testing.assert_allclose(J.vertices(), [expected], atol=1e-12)
    assert J.clarke_exact


def test_no_edge_where_the_operand_stands_still():
    """arctan2(0, x) is 0 or π, and z² has no cut."""
    J = cx.conservative_jacobian(lambda x: jnp.arctan2(jnp.zeros(()), x) + x)
    np.testing.assert_allclose(J(-1.0).vertices(), [[[1.0]]])
    with pytest.raises(JUMP):
        J(0.0)
    square = cx.conservative_jacobian(both(lambda z: z ** jnp.asarray(2.0)))
    np.testing.assert_allclose(square(jnp.array([-1.0, 0])).vertices(), [[[-2.0, 0], [0, -2]]])


def test_no_verdict_on_an_edge():
    with pytest.raises(JUMP):
        cx.check(lambda y, p: y + jnp.arctan2(y, -1.0 + 0 * y) - p, 0.0, np.pi)
    with pytest.raises(JUMP):
        cx.check(lambda y, p: y + jnp.frexp(1 + y)[0] - 0.5 - p, 0.0, 0.0)


def test_the_scaled_bessel_function_has_a_kink():
    J = cx.conservative_jacobian(lambda x: jax.scipy.special.i0e(x))
    assert sorted(J(0.0).vertices().ravel()) == [-1.0, 1.0]
    np.testing.assert_allclose(J(0.0).directional([1.0]), [-1.0])
    np.testing.assert_allclose(J(0.0).element("jax"), [[jax.grad(jax.scipy.special.i0e)(0.0)]])
    np.testing.assert_allclose(J(2.0).element(), [[jax.grad(jax.scipy.special.i0e)(2.0)]])


def angles(x):
    z = lax.complex(x[0], x[1])
    return jnp.stack([jnp.angle(z), jnp.log(z).imag, jnp.sqrt(z).real, jnp.real(z**1.5)])


@given(st.tuples(*[st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0])] * 2))
@settings(max_examples=EXAMPLES)
def test_random_points_on_and_off_the_cuts(x):
    """On the negative axis the values nearby differ by more than any slope; elsewhere slopes agree."""
    h, point = 1e-7, np.array(x)
    nearby = [np.asarray(angles(jnp.array(point + s * np.array([0, h])))) for s in (1, -1)]
    if np.abs(nearby[0] - nearby[1]).max() > 1e-3 or not np.any(point):
        with pytest.raises(errors.ConservaxError):
            cx.conservative_jacobian(angles)(jnp.array(point))
        return
    J = cx.conservative_jacobian(angles)(jnp.array(point))
    slope = (nearby[0] - nearby[1]) / (2 * h)
    np.testing.assert_allclose(J.element()[:, 1], slope, atol=1e-5)
    assert J.clarke_exact


def sign_and_rank(A):
    sign, logarithm = jnp.linalg.slogdet(A)
    return sign * jnp.sum(A) + logarithm, jnp.linalg.pinv(A)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES)
def test_random_matrices_with_and_without_full_rank(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(3, 3))
    if seed % 2:  # singular, but for rounding
        A = A @ np.diag([1.0, 1.0, 0.0]) @ rng.normal(size=(3, 3))
        with pytest.raises(JUMP):
            cx.conservative_jacobian(sign_and_rank)(A)
        return
    J = cx.conservative_jacobian(sign_and_rank)(A)
    inverse = np.linalg.inv(A)
    first = np.sign(np.linalg.det(A)) * np.ones((3, 3)) + inverse.T
    np.testing.assert_allclose(J.element()[0], first.ravel(), rtol=1e-6, atol=1e-6)
    rest = -np.einsum("ia,bj->ijab", inverse, inverse).reshape(9, 9)
    np.testing.assert_allclose(J.element()[1:], rest, rtol=1e-6, atol=1e-6 * np.abs(rest).max())


# continuous, and taken apart: the set at a kink, whether it is known to be Clarke's
OPENED = {
    "hypot": (lambda x: jnp.hypot(x[0], x[1]), [0.0, 0.0], None, True),
    "x heaviside(x)": (
        lambda x: x[0] * jnp.heaviside(x[0], 0.5),
        [0.0, 1.0],
        [[0, 0], [1, 0]],
        True,
    ),
    "x heaviside(x), 1 at 0": (
        lambda x: x[0] * jnp.heaviside(x[0], 1.0),
        [0.0, 1.0],
        [[0, 0], [1, 0]],
        True,
    ),
    "reduce": (lambda x: lax.reduce(x, 0.0, lax.max, (0,)), [1.0, 1.0], [[0, 1], [1, 0]], True),
    "equal complex numbers": (
        lambda x: jnp.where(complexes(x) == 1j, x[0], 2 * x[0]),
        [1.0, 1.0],
        [[2, 0]],
        True,
    ),
}


@pytest.mark.parametrize("name", OPENED)
def test_taken_apart(name):
    fun, x, vertices, exact = OPENED[name]
    J = cx.conservative_jacobian(fun)(jnp.array(x))
    if vertices is not None:
        np.testing.assert_allclose(J.vertices()[:, 0], vertices, atol=1e-12)
    assert J.clarke_exact is exact
    np.testing.assert_allclose(J.element("jax"), [jax.grad(fun)(jnp.array(x))], atol=1e-12)
    for v in ([1.0, 0.5], [-1.0, 2.0]):
        one_sided = (fun(jnp.array(x) + 1e-7 * jnp.array(v)) - fun(jnp.array(x))) / 1e-7
        np.testing.assert_allclose(J.directional(v), [one_sided], atol=1e-6)


def test_a_reduction_from_a_varied_start():
    """JAX has no derivative of it."""
    J = cx.conservative_jacobian(lambda x: lax.reduce(x[:1], x[1], lax.max, (0,)))(jnp.ones(2))
    np.testing.assert_allclose(J.vertices()[:, 0], [[0, 1], [1, 0]])


def test_the_sign_of_a_complex_number():
    J = cx.conservative_jacobian(both(jnp.sign))
    np.testing.assert_allclose(
        J(jnp.array([3.0, 4.0])).element(), [[0.128, -0.096], [-0.096, 0.072]]
    )
    with pytest.raises(SLOPE):
        J(jnp.zeros(2))


def test_the_norm_of_two_numbers_has_its_ball():
    J = cx.conservative_jacobian(lambda x: jnp.hypot(x[0], x[1]))(jnp.zeros(2))
    assert J.contains([[0.6, 0.8]])
    assert not J.contains([[0.61, 0.8]])
