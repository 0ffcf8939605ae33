"""Sets of implicit derivatives against closed forms and brute force over the branches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.implicit.jacobian import eliminate
from helpers import assert_same_set, extreme_selections

relu = jax.nn.relu


def phi(v):
    """Example 1 of the paper, linear on each quadrant."""
    return jnp.stack([jnp.abs(v[0]) + v[1], 2 * v[0] + jnp.abs(v[1])])


PIECES = [np.array([[s, 1.0], [2.0, t]]) for s in (-1, 1) for t in (-1, 1)]


def test_example_1_forward_and_inverse():
    assert_same_set(cx.conservative_jacobian(phi)(jnp.zeros(2)).vertices(), PIECES)
    J = cx.inverse_jacobian(phi)(jnp.zeros(2))
    assert_same_set(J.vertices(), [np.linalg.inv(p) for p in PIECES])
    # the same as an implicit function of the image
    K = cx.implicit_jacobian(lambda v, w: phi(v) - w)(jnp.zeros(2), jnp.zeros(2))
    assert_same_set(K.vertices(), J.vertices())


def test_elements_of_an_inverse_are_inverses_of_elements():
    forward = cx.conservative_jacobian(phi)(jnp.zeros(2))
    inverse = cx.inverse_jacobian(phi)(jnp.zeros(2))
    for q in np.random.default_rng(0).uniform(size=(10, 2)):
        np.testing.assert_allclose(inverse.element(q) @ forward.element(q), np.eye(2), atol=1e-12)
    for name in ("jax", "lower", "upper"):
        np.testing.assert_allclose(
            inverse.element(name) @ forward.element(name), np.eye(2), atol=1e-12
        )


def test_example_1_away_from_the_origin():
    for x, piece in (((1.0, 2.0), PIECES[3]), ((-1.0, 2.0), PIECES[1]), ((-1.0, -2.0), PIECES[0])):
        np.testing.assert_allclose(
            cx.inverse_jacobian(phi)(jnp.array(x)).vertices(), [np.linalg.inv(piece)], atol=1e-12
        )
    half = cx.inverse_jacobian(phi)(jnp.array([0.0, 1.0]))
    assert_same_set(half.vertices(), [np.linalg.inv(PIECES[1]), np.linalg.inv(PIECES[3])])


@pytest.mark.parametrize(
    "operation", [jnp.maximum, lambda _, z: relu(z), lambda _, z: jnp.where(z > 0, z, 0.0)]
)
def test_the_hinge_has_two_derivatives(operation):
    J = cx.implicit_jacobian(lambda y, a: y - operation(0.0, y / 2 - a))(0.0, 0.0)
    assert_same_set(J.vertices(), [0.0, -2.0])
    # −q/(1 − q/2): a Möbius function of the weight
    for q in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(J.element([q]).item(), -q / (1 - q / 2), atol=1e-14)
    low, high = J.bounds()
    assert (low.item(), high.item()) == (-2.0, 0.0)


def test_the_hinge_at_a_solvers_inexact_answer():
    # the hinge with its kink at y = 1, so that the solver's error has a size to be measured against
    equation = lambda y, a: y - 1 - relu((y - 1) / 2 - a)  # noqa: E731
    J = cx.implicit_jacobian(equation)(1 + 1e-9, 1e-6)
    assert_same_set(J.vertices(), [0.0, -2.0])
    away = cx.implicit_jacobian(equation)(1.2, -0.1)
    np.testing.assert_allclose(away.vertices(), [[[-2.0]]], atol=1e-12)
    loose = cx.implicit_jacobian(equation, rtol=1.0)(1.2, -0.1)
    assert_same_set(loose.vertices(), [0.0, -2.0])


def random_fixed_point(seed, n=3, p=2):
    """y = relu(Wy + Ux) with ‖W‖ = 0.8: a contraction with all n kinks at the origin."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n, n))
    return 0.8 * W / np.linalg.norm(W, 2), rng.normal(size=(n, p))


def fixed_point(y, x, W, U):
    return y - relu(W @ y + U @ x)


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_contractions_against_brute_force_over_the_branches(seed):
    W, U = random_fixed_point(seed)
    J = jacobian(jnp.zeros(3), jnp.zeros(2), W, U)
    expected = [
        np.linalg.solve(np.eye(3) - np.diag(q) @ W, np.diag(q) @ U)
        for q in itertools.product((0, 1), repeat=3)
    ]
    assert_same_set(J.vertices(), expected)
    low, high = J.bounds()
    for q, sample in zip(
        np.random.default_rng(seed).uniform(size=(20, 3)),
        J.sample(jax.random.key(seed), 20),
        strict=True,
    ):
        inner = np.linalg.solve(np.eye(3) - np.diag(q) @ W, np.diag(q) @ U)
        np.testing.assert_allclose(J.element(q), inner, atol=1e-10)
        for element in (inner, sample):
            assert np.all(element >= low - 1e-9)
            assert np.all(element <= high + 1e-9)


jacobian = cx.implicit_jacobian(fixed_point)  # compiled once for all examples


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_some_vertex_gives_each_one_sided_derivative(seed):
    W, U = random_fixed_point(seed)
    vertices = jacobian(jnp.zeros(3), jnp.zeros(2), W, U).vertices()
    rng = np.random.default_rng(seed)
    for _ in range(3):
        x = rng.normal(size=2)  # the solution map is positively homogeneous: y(tx) = t y(x)
        y = np.zeros(3)
        for _ in range(400):
            y = np.maximum(W @ y + U @ x, 0)
        assert np.abs(vertices @ x - y).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_elimination_of_random_matrices(seed):
    """docs/theory.md#elimination: G(q) = −B(q)⁻¹A(q), at vertices and between; nested kinks included."""
    rng = np.random.default_rng(seed)
    W1, W2 = 0.3 * rng.normal(size=(2, 3, 3))
    U = rng.normal(size=(3, 2))

    def equation(y, x):
        return y - jnp.abs(W2 @ relu(W1 @ y + U @ x)) + 0.2 * (W2 @ y)

    joint = cx.conservative_jacobian(equation, (0, 1))(jnp.zeros(3), jnp.zeros(2))
    implicit = cx.implicit_jacobian(equation)(jnp.zeros(3), jnp.zeros(2))
    selections = [*list(extreme_selections([1] * 6))[::5], *rng.uniform(size=(5, 6))]
    for q in selections:
        element = joint.element(q)
        np.testing.assert_allclose(
            implicit.element(q), -np.linalg.solve(element[:, :3], element[:, 3:]), atol=1e-9
        )
        np.testing.assert_allclose(
            eliminate(joint.form, 3).jacobian(q), implicit.element(q), atol=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
def test_varying_one_weight_moves_along_a_segment(seed):
    """docs/theory.md#one-weight-at-a-time: hence bounds are attained at vertices."""
    W, U = random_fixed_point(seed)
    J = jacobian(jnp.zeros(3), jnp.zeros(2), W, U)
    rng = np.random.default_rng(seed)
    for k in range(3):
        q = rng.uniform(size=3)
        path = [J.element(np.where(np.arange(3) == k, t, q)) for t in (0.0, 0.3, 0.6, 1.0)]
        whole = path[-1] - path[0]
        shares = [np.sum((p - path[0]) * whole) / np.sum(whole * whole) for p in path]
        for share, element in zip(shares, path, strict=True):
            np.testing.assert_allclose(element, path[0] + share * whole, atol=1e-10)
        assert shares == sorted(shares)
        assert np.isclose(shares[-1], 1)


def test_ties_of_a_maximum():
    # y = max(x₁, x₂, y/2): the tie at 0 is three-way; branch y/2 leaves slope 0
    J = cx.implicit_jacobian(lambda y, x: y - jnp.max(jnp.stack([x[0], x[1], y / 2])))(
        0.0, jnp.zeros(2)
    )
    assert_same_set(J.vertices()[:, 0], [[1, 0], [0, 1], [0, 0]])
    w = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(J.element(w), [w[:2] / (1 - w[2] / 2)], atol=1e-14)


def test_smooth_functions_have_one_derivative_equal_to_the_closed_form():
    A = np.array([[3.0, 1.0], [-1.0, 2.0]])
    y = np.array([0.3, -0.2])
    t = A @ y + y**3
    J = cx.implicit_jacobian(lambda y, t: A @ y + y**3 - t)(y, t)
    np.testing.assert_allclose(J.vertices(), [np.linalg.inv(A + np.diag(3 * y**2))], rtol=1e-12)
    assert J.kinks == ()


def test_singular_selections_raise():
    # B = 1 − 2q: singular at q = ½, with G = 1/(1 − 2q) on both sides
    J = cx.implicit_jacobian(lambda y, t: y - 2 * relu(y) - t)(0.0, 0.0)
    assert_same_set(J.vertices(), [1.0, -1.0])
    with pytest.raises(errors.SingularError, match="relu"):
        J.element([0.5])
    # B = 1 − q: singular at the vertex q = 1
    K = cx.implicit_jacobian(lambda y, t: y - relu(y) - t)(0.0, 0.0)
    np.testing.assert_allclose(K.element("lower"), [[1.0]])
    for question in (K.vertices, K.bounds, lambda: K.element("upper")):
        with pytest.raises(errors.SingularError):
            question()


def test_a_singular_base_raises_with_a_remedy():
    with pytest.raises(errors.SingularError, match="check"):
        cx.implicit_jacobian(lambda y, t: y**2 - t)(0.0, 0.0)
    with pytest.raises(errors.SingularError, match="check"):
        cx.inverse_jacobian(lambda x: relu(x))(0.0)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), -1])
def test_argnums_count_from_the_first_argument_after_the_solution(argnums):
    # 2y = 3a + |5b|
    J = cx.implicit_jacobian(lambda y, a, b: 2 * y - 3 * a - jnp.abs(5 * b), argnums)(0.0, 0.0, 0.0)
    columns = {0: [1.5, 1.5], 1: [-2.5, 2.5], -1: [-2.5, 2.5]}
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    expected = [[[columns[n][v] for n in numbers]] for v in (0, 1)]
    assert_same_set(J.vertices(), expected)
    unflat = J.unflatten(J.element("upper"))
    np.testing.assert_allclose(
        unflat, np.ravel(expected[1]) if len(numbers) > 1 else expected[1][0][0]
    )


def test_pytrees_unflatten_to_solution_by_parameter():
    def equation(sol, params):
        return {"u": sol["u"] - params["a"] @ jnp.ones(2), "v": 2 * sol["v"] - jnp.abs(params["b"])}

    params = {"a": jnp.ones((2, 2)), "b": jnp.zeros(3)}
    sol = {"u": 2 * jnp.ones(2), "v": jnp.zeros(3)}
    J = cx.implicit_jacobian(equation)(sol, params)
    assert J.shape == (5, 7)
    tree = J.unflatten(J.element("upper"))
    assert tree["u"]["a"].shape == (2, 2, 2)
    np.testing.assert_allclose(tree["v"]["b"], 0.5 * np.eye(3))
    np.testing.assert_allclose(tree["u"]["a"], np.eye(2)[:, :, None] * np.ones(2))
    np.testing.assert_allclose(tree["u"]["b"], np.zeros((2, 3)))


def test_bad_input_is_refused():
    equation = lambda y, t: y - t  # noqa: E731
    with pytest.raises(errors.NotARootError, match=r"0\.5"):
        cx.implicit_jacobian(equation)(1.5, 1.0)
    with pytest.raises(errors.InvalidInputError, match=r"sol"):
        cx.implicit_jacobian(equation)(np.nan, 1.0)
    with pytest.raises(errors.InvalidInputError, match=r"args\[0\]"):
        cx.implicit_jacobian(equation)(1.0, np.inf)
    with pytest.raises(errors.InvalidInputError, match="2 numbers for a solution of 1"):
        cx.implicit_jacobian(lambda y, t: jnp.stack([y - t, y - t]))(1.0, 1.0)
    with pytest.raises(errors.InvalidInputError):
        cx.inverse_jacobian(lambda x: jnp.sum(x))(jnp.ones(2))
    with pytest.raises(errors.InvalidInputError, match="floating"):
        cx.implicit_jacobian(equation)(1, 1.0)


def test_float32_decides_kinks_in_float32():
    equation = lambda y, a: y - relu(y / 2 - a)  # noqa: E731
    J = cx.implicit_jacobian(equation)(jnp.float32(0.0), jnp.float32(1e-9))
    assert J.element("jax").dtype == np.float64
    W, U = random_fixed_point(1)
    args = [jnp.asarray(a, jnp.float32) for a in (np.zeros(3), np.zeros(2), W, U)]
    expected = [
        np.linalg.solve(np.eye(3) - np.diag(q) @ W, np.diag(q) @ U)
        for q in itertools.product((0, 1), repeat=3)
    ]
    assert_same_set(jacobian(*args).vertices(), expected, atol=1e-5)


def test_directional_is_the_one_sided_derivative_of_a_thousand_kinked_roots():
    """y = relu(p) + 0.2 sin(max p), p = W y + U x + c, with p at kinks and ties by the choice of c."""
    n, m, t = 4, 2, 1e-7

    def step(y, x, W, U, c):
        p = W @ y + U @ x + c
        return relu(p) + 0.2 * jnp.sin(jnp.max(p))

    def equation(y, x, W, U, c):
        return y - step(y, x, W, U, c)

    @jax.jit
    def root(y, *parameters):
        return jax.lax.fori_loop(0, 150, lambda _, y: step(y, *parameters), y)

    rng, derivative = np.random.default_rng(0), cx.implicit_jacobian(equation)
    kinked = 0
    for _ in range(1000):
        W, U = rng.normal(size=(n, n)), rng.normal(size=(n, m))
        W *= 0.4 / np.linalg.norm(W, 2)
        p = rng.choice([-1.0, -0.5, 0.0, 0.0, 1.0, 1.0], size=n)
        y = np.maximum(p, 0) + 0.2 * np.sin(p.max())
        x, v = rng.normal(size=m), rng.normal(size=m)
        c = p - W @ y - U @ x
        J = derivative(y, x, W, U, c)
        moved = root(y, x + t * v, W, U, c)
        np.testing.assert_allclose(J.directional(v), (moved - y) / t, atol=1e-6)
        kinked += bool(J.kinks)
    assert kinked > 800
