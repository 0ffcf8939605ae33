"""What no random program holds: the set, or the refusal, worked out by hand for each kind of operation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from helpers import assert_same_set, central_difference, line_of, on_numpy

relu = jax.nn.relu


def vertices(fun, x):
    return cx.conservative_jacobian(fun)(jnp.asarray(x, float)).vertices()


def is_derivative(fun, x, atol=1e-7):
    """At a point without active kinks the set is the derivative."""
    x = jnp.asarray(x, float)
    J = cx.conservative_jacobian(fun)(x)
    assert J.kinks == ()
    np.testing.assert_allclose(J.element(), central_difference(on_numpy(fun), x), atol=atol)


def refused(error, fun, x, marker):
    with pytest.raises(error) as caught:
        cx.conservative_jacobian(fun)(jnp.asarray(x, float))
    assert f"{__file__}:{line_of(marker, __file__)}" in str(caught.value)


# Branches


@pytest.mark.parametrize(("index", "slopes"), [(0, [-1, 1]), (1, [0, 2]), (2, [1]), (7, [1])])
def test_a_constant_index_runs_one_branch_alone(index, slopes):
    def fun(x, i):
        return jax.lax.switch(i, [jnp.abs, lambda y: 2 * relu(y), jnp.sin], x)

    J = cx.conservative_jacobian(fun)(0.0, index)
    assert_same_set(J.vertices(), slopes)
    assert len(J.kinks) == (len(slopes) > 1)


def test_a_cond_on_data_runs_one_branch_alone_under_jit_and_scan():
    def step(c, flag):
        return jax.lax.cond(flag, jnp.abs, lambda y: 3 * y, c), None

    fun = jax.jit(lambda x: jax.lax.scan(step, x, jnp.array([True, False, True]))[0])
    assert_same_set(vertices(fun, 0.0), [s * 3 * t for s in (-1, 1) for t in (-1, 1)])


def test_kinks_inside_both_branches_of_a_cond_that_switches():
    # |x| where x > 0, −2 relu(−x) elsewhere: the switch and either branch's own kink
    fun = lambda x: jax.lax.cond(x > 0, jnp.abs, lambda y: -2 * relu(-y), x)  # noqa: E731
    assert_same_set(vertices(fun, 0.0), [-1, 1, 0, 2])
    assert_same_set(vertices(fun, 0.5), [1])
    assert_same_set(vertices(fun, -0.5), [2])


# While loops


def halvings(x):
    def shrink(state):
        return jnp.abs(state) / 2  # a kink in the body

    return jax.lax.while_loop(lambda s: s > 1, shrink, x)  # the trip count


def test_a_while_loop_away_from_its_kinks_is_differentiated():
    for x in (5.0, 3.0, 0.5):
        np.testing.assert_allclose(
            cx.conservative_jacobian(halvings)(x).element(), [[jax.jvp(halvings, (x,), (1.0,))[1]]]
        )


def test_a_while_loop_at_the_edge_of_a_trip_is_refused_by_file_and_line():
    refused(errors.UnsupportedOperationError, halvings, 4.0, "the trip count")
    refused(errors.UnsupportedOperationError, halvings, 1.0, "the trip count")


def kinked_loop(x):
    def grow(state):
        count, y = state
        y = relu(y - 1)  # a kink in a loop
        return count + 1, y

    return jax.lax.while_loop(lambda s: s[0] < 3, grow, (0, x))[1]


def test_a_while_loop_with_an_active_kink_is_refused_by_file_and_line():
    refused(errors.UnsupportedOperationError, kinked_loop, 2.0, "a kink in a loop")
    assert cx.conservative_jacobian(kinked_loop)(5.0).element().item() == 1.0
    assert cx.conservative_jacobian(kinked_loop)(0.5).element().item() == 0.0


# A user's own derivative rules are taken as given, and listed.


@jax.custom_jvp
def scaled(x):
    return 3 * jnp.abs(x)


@scaled.defjvp
def _scaled_jvp(primals, tangents):
    return scaled(*primals), 7 * tangents[0]


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def test_a_custom_jvp_is_taken_as_given_and_listed():
    J = cx.conservative_jacobian(lambda x: scaled(x) + jnp.abs(x))(0.0)
    assert_same_set(J.vertices(), [6, 8])
    assert [name for name, _ in J.form.given_rules] == ["scaled"]
    assert J.form.given_rules[0][1].file == __file__


def test_a_custom_vjp_is_taken_as_given_by_a_reverse_sweep():
    # as many inputs as outputs, or more outputs: a forward sweep would be chosen, and has no rule
    J = cx.conservative_jacobian(lambda x: straight_through(jnp.abs(x)) * jnp.ones(3))(0.0)
    assert_same_set(J.vertices(), [np.full((3, 1), s) for s in (-1, 1)])
    assert [name for name, _ in J.form.given_rules] == ["straight_through"]


def test_relu_is_no_given_rule():
    assert cx.conservative_jacobian(relu)(0.0).form.given_rules == ()


def test_remat_is_seen_through():
    plain = lambda x: jnp.abs(relu(x) - jnp.sin(x))  # noqa: E731
    assert_same_set(vertices(jax.checkpoint(plain), 0.0), vertices(plain, 0.0))
    scanned = lambda x: jax.lax.scan(  # noqa: E731
        lambda c, _: (jax.checkpoint(plain)(c), None), x, None, length=2
    )[0]
    assert_same_set(vertices(scanned, 0.0), vertices(lambda x: plain(plain(x)), 0.0))


# Linear algebra, transforms, indexing: smooth, with kinks before and after.

SYMMETRIC = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 5.0]])


def by_hand(outer, inner, x):
    """relu(outer · |x|) by hand at x = 0 for a matrix: every sign before, every switch after."""
    size, rows = len(x), len(outer)
    return [
        np.diag(q) @ outer @ np.diag(s) @ inner
        for s in itertools.product((-1, 1), repeat=size)
        for q in itertools.product((0, 1), repeat=rows)
    ]


SOLVERS = {
    "solve": lambda b: jnp.linalg.solve(jnp.asarray(SYMMETRIC), b),
    "cho_solve": lambda b: jax.scipy.linalg.cho_solve(
        (jnp.linalg.cholesky(jnp.asarray(SYMMETRIC)), True), b
    ),
    "custom_linear_solve": lambda b: jax.lax.custom_linear_solve(
        lambda v: jnp.asarray(SYMMETRIC) @ v,
        b,
        lambda _, r: jnp.linalg.inv(jnp.asarray(SYMMETRIC)) @ r,
        symmetric=True,
    ),
    "inv": lambda b: jnp.linalg.inv(jnp.asarray(SYMMETRIC)) @ b,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_linear_solves_between_kinks(name):
    fun = lambda x: relu(SOLVERS[name](jnp.abs(x)))  # noqa: E731
    expected = by_hand(np.linalg.inv(SYMMETRIC), np.eye(3), np.zeros(3))
    assert_same_set(vertices(fun, np.zeros(3)), expected)


def test_matrices_that_depend_on_a_kink():
    # (M + |x| I)⁻¹ b: slopes ∓ M⁻² b
    b = jnp.array([1.0, 2.0, -1.0])
    inverse = np.linalg.inv(SYMMETRIC)
    expected = [s * (inverse @ inverse @ b)[:, None] for s in (-1, 1)]
    for solve in (
        jnp.linalg.solve,
        lambda M, b: jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(M), True), b),
    ):
        fun = lambda x: solve(SYMMETRIC + jnp.abs(x) * jnp.eye(3), b)  # noqa: B023, E731
        assert_same_set(vertices(fun, 0.0), expected)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.linalg.det(x.reshape(2, 2)),
        lambda x: jnp.linalg.slogdet(x.reshape(2, 2))[1],
        lambda x: jnp.linalg.eigh(x.reshape(2, 2) + x.reshape(2, 2).T)[0],
        lambda x: jnp.linalg.svd(x.reshape(2, 2), compute_uv=False),
        lambda x: jnp.linalg.qr(x.reshape(2, 2))[1],
        lambda x: jax.scipy.linalg.solve_triangular(x.reshape(2, 2), x[:2]),
    ],
)
def test_decompositions_are_smooth_where_they_are_defined(fun):
    J = cx.conservative_jacobian(lambda x: jnp.atleast_1d(fun(x)))(jnp.array([2.0, 0.3, 0.4, 1.0]))
    x = jnp.array([2.0, 0.3, 0.4, 1.0])
    expected = np.reshape(jax.jacfwd(fun)(x), (-1, 4))
    np.testing.assert_allclose(J.element(), expected, atol=1e-12)
    np.testing.assert_allclose(
        J.element(), np.reshape(central_difference(on_numpy(fun), x), (-1, 4)), atol=1e-7
    )


def test_a_fourier_transform_between_kinks():
    fun = lambda x: relu(jnp.fft.irfft(jnp.fft.rfft(jnp.abs(x)) * 2))  # noqa: E731
    diagonals = [np.diag(d) for d in itertools.product((-2, 0, 2), repeat=4)]
    # relu(2|x|) entry by entry: slopes 0 and ±2
    found = np.round(vertices(fun, np.zeros(4)), 9)
    assert_same_set(found, diagonals)


def test_scatter_gather_and_slices_between_kinks():
    def fun(x, i):
        y = jnp.zeros(3).at[jnp.array([0, 2, 0])].add(jnp.abs(x))
        y = y.at[1].set(relu(x[1])).at[2].multiply(2.0)
        window = jax.lax.dynamic_slice(y, (i,), (2,))
        y = jax.lax.dynamic_update_slice(y, window, (1,))
        return y[jnp.array([1, 2])]

    x = jnp.zeros(3)
    for i in (0, 1):
        rows = []
        for s in itertools.product((-1, 1), repeat=3):
            for q in (0, 1):
                y = np.array([[s[0], 0, s[2]], [0, q, 0], [0, 2 * s[1], 0]])
                rows.append(y[i : i + 2])
        assert_same_set(cx.conservative_jacobian(fun)(x, i).vertices(), rows)


def test_random_draws_with_a_fixed_key_are_constants():
    def fun(x):
        key = jax.random.key(3)
        noise = jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))
        keep = jax.random.bernoulli(key, 0.5, (2,))
        return jnp.sum(jnp.where(keep, jnp.abs(x) * noise, relu(x) * noise))

    key = jax.random.key(3)
    noise = jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))
    low = jnp.where(jax.random.bernoulli(key, 0.5, (2,)), -1, 0)
    expected = [
        [[a, b]] for a in (low[0] * noise[0], noise[0]) for b in (low[1] * noise[1], noise[1])
    ]
    assert_same_set(vertices(fun, np.zeros(2)), expected)


# Jumps: refused on one, by file and line; smooth elsewhere.


def with_floor(x):
    return x * jnp.floor(x)  # floor


def with_ceil(x):
    return x * jnp.ceil(x)  # ceil


def with_round(x):
    return x * jnp.round(x)  # round


def with_remainder(x):
    return jnp.mod(x, 2.0)  # remainder


def with_cast(x):
    return x * x.astype(int)  # cast


def with_sign(x):
    return jnp.sign(x) + x  # sign


def with_argmax(x):
    return jnp.array([1.0, 2.0])[jnp.argmax(jnp.stack([x, 1.0]))] * x  # argmax


def with_argsort(x):
    return jnp.array([1.0, 3.0])[jnp.argsort(jnp.stack([x, 1.0]))[0]] * x  # argsort


@pytest.mark.parametrize(
    ("fun", "marker", "jump", "elsewhere"),
    [
        (with_floor, "floor", 2.0, 2.5),
        (with_ceil, "ceil", 2.0, 2.5),
        (with_round, "round", 2.5, 2.0),
        (with_remainder, "remainder", 4.0, 3.0),
        (with_cast, "cast", 2.0, 2.5),
        (with_sign, "sign", 0.0, -1.0),
        (with_argmax, "argmax", 1.0, 0.5),
        (with_argsort, "argsort", 1.0, 1.5),
    ],
)
def test_a_jump_is_refused_on_it_and_nowhere_else(fun, marker, jump, elsewhere):
    refused(errors.DiscontinuousError, fun, jump, marker)
    for x in (elsewhere, jump + 0.01, jump - 0.01):
        is_derivative(fun, x)


# The norm with its ball


def test_the_norm_and_its_gradient():
    x = jnp.array([3.0, 0.0, -4.0])
    assert cx.norm(x) == 5.0
    np.testing.assert_allclose(jax.grad(cx.norm)(x), x / 5)
    np.testing.assert_array_equal(jax.grad(cx.norm)(jnp.zeros(3)), np.zeros(3))
    is_derivative(cx.norm, [0.3, 0.4])
    np.testing.assert_allclose(cx.norm(jnp.full(2, 1e-200)), np.sqrt(2) * 1e-200)
    np.testing.assert_allclose(cx.norm(jnp.full(2, 1e200)), np.sqrt(2) * 1e200)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]]
)
def test_the_ball_of_the_norm_at_zero(wrap, dtype):
    fun = wrap(lambda x: cx.norm(2 * x) + x[0])
    J = cx.conservative_jacobian(fun)(jnp.zeros(2, dtype))
    low, high = J.bounds()
    np.testing.assert_allclose(low, [[-1, -2]], atol=1e-6)
    np.testing.assert_allclose(high, [[3, 2]], atol=1e-6)
    np.testing.assert_allclose(J.element("jax"), [[1, 0]], atol=1e-6)
    np.testing.assert_allclose(J.directional([3.0, 4.0]), [13.0], rtol=1e-6)
    assert J.contains([[1 + 2 * 0.6, 2 * 0.8]])
    assert not J.contains([[1 + 2 * 0.7, 2 * 0.8]])
    with pytest.raises(errors.NotPolyhedralError, match="norm"):
        J.vertices()


def test_norms_along_an_axis_are_balls_of_their_own():
    X = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    J = cx.conservative_jacobian(lambda X: cx.norm(X, axis=1))(X)
    assert len(J.kinks) == 2
    low, high = J.bounds()
    expected = np.zeros((3, 6))
    expected[0, :2] = expected[2, 4:] = 1
    np.testing.assert_allclose(
        high, expected + np.array([[0] * 6, [0, 0, 0.6, 0.8, 0, 0], [0] * 6])
    )
    np.testing.assert_allclose(
        low, -expected + np.array([[0] * 6, [0, 0, 0.6, 0.8, 0, 0], [0] * 6])
    )
