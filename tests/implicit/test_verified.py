"""Verified roots: the true root, known in closed form or to many digits, lies where it is said to."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.errors import InvalidInputError, NotARootError, UnsupportedOperationError
from conservax.implicit.verified import prove_root
from conservax.invertibility import Verdict
from helpers import line_of


def holds(proof, root, sol):
    """The proof speaks of this root (mpmath numbers or floats), nested as it says."""
    assert proof.verdict == Verdict.PROVEN, proof.reason
    root = [mpmath.mpf(r) for r in np.atleast_1d(root)]
    sol = np.atleast_1d(np.asarray(sol, np.float64)).ravel()
    for r, lo, hi, c, s in zip(root, proof.lower, proof.upper, proof.center, sol, strict=True):
        assert lo <= r <= hi
        assert abs(r - float(c)) <= proof.radius
        assert abs(r - float(s)) <= proof.error


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("a", [2.0, 3.0, 1e-6, 1e6])
def test_square_root(a, dtype):
    with jax.enable_x64(True), mpmath.workdps(40):
        sol = jnp.asarray(np.sqrt(a), dtype)
        a = float(jnp.asarray(a, dtype))
        proof = prove_root(lambda y, a: y * y - a, sol, (jnp.asarray(a, dtype),))
        root = mpmath.sqrt(a)
        holds(proof, root, sol)
        assert proof.upper[0] - proof.lower[0] <= 1e-14 * float(root)
        assert 0.1 < proof.radius / float(root) < 1  # the other root is outside
        assert proof.margin <= 2 * float(root)
        assert proof.lipschitz == pytest.approx(1 / (2 * float(root)), rel=1e-6)


@pytest.mark.parametrize("a", [0.0, 1e-9, -1e-9, -1.0, 0.5])
def test_a_kink_at_and_near_the_root(a):
    # y = relu(y/2 − a): y = 0 for a ≥ 0, −2a for a ≤ 0; slopes of F in y: 1 and 1/2
    with jax.enable_x64(True):
        sol = 0.0 if a >= 0 else -2 * a
        proof = prove_root(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), sol, (a,))
    holds(proof, sol, sol)
    assert 0.4 <= proof.margin <= 1
    assert proof.lipschitz >= (2.0 if a <= 0 else 0.0)
    assert proof.lipschitz <= 2.1


def test_true_singularity_is_not_proven():
    with jax.enable_x64(True):
        fold = prove_root(lambda y, a: y - 2 * jnp.maximum(0.0, y) - a, 0.0, (0.0,))
        double = prove_root(lambda y, a: y * y - a, 0.0, (0.0,))
        # slopes 1 and −1 at the fold: no root at all for a > 0
        balanced = prove_root(lambda y: jnp.abs(y), 0.0, ())
    for proof in (fold, double, balanced):
        assert proof.verdict == Verdict.UNKNOWN
        assert proof.radius is proof.error is proof.margin is proof.lower is None
        assert "no proof" in proof.reason


def test_nested_kinks_whose_hull_is_singular_are_left_open():
    # every selection of y + relu(y) − relu(relu(y)) has slope 1; dependent hulls do not know
    with jax.enable_x64(True):
        relu = jax.nn.relu
        proof = prove_root(lambda y: y + 3 * relu(y) - 3 * relu(relu(y)), 0.0, ())
    assert proof.verdict == Verdict.UNKNOWN
    assert "singular" in proof.reason


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_lasso_with_an_orthogonal_design(dtype):
    # z = soft(z − η(z − c), ηλ) has the solution soft(c, λ); entry 1 sits on its kink
    c, lam, eta = np.array([2.0, 0.5, -3.0, 0.1]), 0.5, 0.5
    root = np.sign(c) * np.maximum(np.abs(c) - lam, 0)

    def F(z, c):
        u = z - eta * (z - c)
        return z - (u - jnp.clip(u, -eta * lam, eta * lam))

    with jax.enable_x64(True):
        sol = jnp.asarray(root, dtype)
        proof = prove_root(F, sol, (jnp.asarray(c, dtype),))
        if dtype == jnp.float32:
            c = np.asarray(jnp.asarray(c, dtype), float)
            root = np.sign(c) * np.maximum(np.abs(c) - lam, 0)
    holds(proof, root, sol)
    assert proof.error <= 1e-7
    assert 0.1 < proof.margin <= 0.5
    assert 1 <= proof.lipschitz


def test_two_norm_and_a_pytree():
    # y / ‖y‖ scaled: y = 5 a/‖a‖ solves y ‖a‖ = 5 a; t = ‖y‖ = 5
    a = np.array([3.0, 4.0])

    def F(sol, a):
        return {
            "y": sol["y"] * jnp.linalg.norm(a) - 5 * a,
            "t": sol["t"] - jnp.linalg.norm(sol["y"]),
        }

    with jax.enable_x64(True):
        proof = prove_root(F, {"t": jnp.array(5.0), "y": jnp.asarray(a)}, (jnp.asarray(a),))
    holds(proof, [5.0, 3.0, 4.0], [5.0, 3.0, 4.0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(-9, -1))
def test_linear_systems_ill_conditioned_ones_too(seed, n, size):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    A = (U * np.geomspace(1, 10.0**size, n)) @ V.T
    b = rng.normal(size=n)
    with jax.enable_x64(True), mpmath.workdps(60):
        sol = np.linalg.solve(A, b)
        proof = prove_root(lambda y, b: jnp.asarray(A) @ y - b, jnp.asarray(sol), (jnp.asarray(b),))
        root = mpmath.lu_solve(mpmath.matrix(A.tolist()), mpmath.matrix(b.tolist()))
        holds(proof, list(root), sol)
    exact = np.linalg.svd(A, compute_uv=False)[-1]
    assert proof.margin <= exact * (1 + 1e-6)
    assert proof.lipschitz >= (1 - 1e-6) / exact


def test_transcendental_equation_against_mpmath():
    # y = tanh(2y + 1/2)
    with jax.enable_x64(True), mpmath.workdps(40):
        root = mpmath.findroot(lambda y: y - mpmath.tanh(2 * y + 0.5), 0.98)
        proof = prove_root(lambda y, b: y - jnp.tanh(2 * y + b), float(root), (0.5,))
        holds(proof, root, float(root))
        slope = 1 - 2 * (1 - root**2)
        assert proof.margin <= slope
        assert proof.lipschitz >= (1 - root**2) / slope


def test_equilibrium_layer_of_float32():
    rng = np.random.default_rng(0)
    n = 40
    W = (0.4 * rng.normal(size=(n, n)) / np.sqrt(n)).astype(np.float32)
    b = rng.normal(size=n).astype(np.float32)
    F = lambda z, b: z - jax.nn.relu(jnp.asarray(W) @ z + b)  # noqa: E731
    z = np.zeros(n)
    for _ in range(200):
        z = np.maximum(W.astype(float) @ z + b, 0)
    sol = jnp.asarray(z, jnp.float32)
    proof = prove_root(F, sol, (jnp.asarray(b),))
    assert proof.verdict == Verdict.PROVEN
    assert np.all(proof.lower <= z + 1e-14)
    assert np.all(z - 1e-14 <= proof.upper)
    # the certificate: no mask that the ball allows comes closer to singular than the margin
    inputs = W.astype(float) @ z + b
    open_kinks = np.abs(inputs) <= proof.radius * np.abs(W).sum(axis=1)
    for mask in rng.integers(0, 2, (50, n)):
        slopes = np.where(open_kinks, mask, inputs > 0)
        J = np.eye(n) - slopes[:, None] * W.astype(float)
        assert np.linalg.svd(J, compute_uv=False)[-1] >= proof.margin


def test_a_where_that_jumps_is_left_open_and_a_continuous_one_is_proven():
    with jax.enable_x64(True):
        jumps = prove_root(lambda y: jnp.where(y > 0, y + 1e-9, y), 0.0, ())
        leaky = prove_root(lambda y: jnp.where(y > 0, y, 0.1 * y), 0.0, ())
        far = prove_root(lambda y: jnp.where(y > 5, 1.0, y), 0.0, ())
    assert jumps.verdict == Verdict.UNKNOWN
    assert "jump" in jumps.reason
    holds(leaky, 0.0, 0.0)
    assert 0.03 < leaky.margin <= 0.1
    holds(far, 0.0, 0.0)
    assert far.radius < 5


def test_bad_input_gives_no_verdict():
    with pytest.raises(NotARootError):
        prove_root(lambda y, a: y * y - a, 1.0, (2.0,))
    with pytest.raises(InvalidInputError):
        prove_root(lambda y, a: y * y - a, np.nan, (2.0,))
    with pytest.raises(InvalidInputError):
        prove_root(lambda y: jnp.stack([y, y]), 0.0, ())
    with pytest.raises(UnsupportedOperationError) as caught:
        prove_root(lambda y: y - jnp.cumprod(y), jnp.zeros(2), ())  # unknown
    assert f"{__file__}:{line_of('unknown', __file__)}" in str(caught.value)
