"""``conservative_jacobian`` against brute force, closed forms and ``jax.jacobian``."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from helpers import (
    Program,
    assert_same_set,
    at,
    central_difference,
    extreme_selections,
    on_numpy,
    points,
    programs,
)

relu = jax.nn.relu


@given(programs(), st.lists(points(2), min_size=3, max_size=3))
def test_vertices_equal_brute_force_over_all_choices(program: Program, xs):
    jacobian = cx.conservative_jacobian(program.to_jax())
    for x in [(Fraction(0), Fraction(0)), *xs]:
        J, expected = jacobian(at(x)), program.jacobians(x)
        assert_same_set(J.vertices(), expected)
        for q in list(extreme_selections([k.ways for k in J.kinks]))[::3]:
            gap = np.abs(J.element(q) - expected).max(axis=(1, 2)).min()
            assert gap < 1e-9
        low, high = J.bounds()
        np.testing.assert_allclose(low, expected.min(axis=0), atol=1e-9)
        np.testing.assert_allclose(high, expected.max(axis=0), atol=1e-9)
        sample = J.sample(jax.random.key(0), 20)
        assert np.all(sample >= low - 1e-9)
        assert np.all(sample <= high + 1e-9)


@given(programs(), points(2), st.lists(points(2), min_size=3, max_size=3))
def test_some_vertex_gives_each_true_one_sided_derivative(program: Program, x, directions):
    vertices = cx.conservative_jacobian(program.to_jax())(at(x)).vertices()
    for v in directions:
        truth = program.directional(x, v)
        along = vertices @ np.array([float(c) for c in v])
        assert np.abs(along - truth).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(program=programs(outputs=2), xs=st.lists(points(2), min_size=2, max_size=2))
def test_the_jax_element_is_jax_jacobian(dtype, program: Program, xs):
    fun = jax.jit(program.to_jax())
    derivative = jax.jit(jax.jacobian(fun))
    jacobian = cx.conservative_jacobian(program.to_jax())
    for x in [(Fraction(0), Fraction(0)), *xs]:
        point = at(x, dtype)
        assert derivative(point).dtype == dtype
        np.testing.assert_allclose(
            jacobian(point).element("jax"), derivative(point), rtol=0, atol=16 * np.finfo(dtype).eps
        )


@given(programs(outputs=2), points(2))
def test_away_from_every_kink_the_set_is_the_derivative(program: Program, x):
    # an irrational-looking offset leaves no exact tie unless two expressions agree identically
    offset = (Fraction(12345, 1 << 16), Fraction(-23457, 1 << 17))
    moved = tuple(a + b for a, b in zip(x, offset, strict=True))
    J = cx.conservative_jacobian(program.to_jax())(at(moved))
    assert_same_set(J.vertices(), program.jacobians(moved))
    if len(J.vertices()) == 1:
        np.testing.assert_allclose(
            J.vertices()[0],
            central_difference(on_numpy(program.to_jax()), at(moved), 2.0**-40),
            atol=1e-3,
        )
        np.testing.assert_allclose(
            J.element("jax"), on_numpy(jax.jacobian(program.to_jax()))(at(moved)), atol=1e-12
        )


@settings(max_examples=8)
@given(
    programs(
        outputs=2,
        length=4,
        kinks=2,
        operations=("max", "abs", "relu", "where", "add", "sub", "scale"),
    )
)
def test_scan_iterations_are_kinks_of_their_own(body: Program):
    x = (Fraction(0), Fraction(0))
    J = cx.conservative_jacobian(body.scanned(3))(at(x))
    assert_same_set(J.vertices(), body.repeated(3).jacobians(x))
    np.testing.assert_allclose(
        J.element("jax"), on_numpy(jax.jacobian(body.scanned(3)))(at(x)), atol=1e-12
    )


def test_loop_iterations_do_not_share_a_selection():
    # x ↦ |−x| ↦ |−|x|| …: three kinks, and slopes ±1 of each are free
    def fun(x):
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.abs(y) - 0.5 * y, x)

    J = cx.conservative_jacobian(fun)(0.0)
    assert len(J.kinks) == 3
    assert [k.index for k in J.kinks] == [(0,), (1,), (2,)]
    slopes = {a * b * c for a in (0.5, -1.5) for b in (0.5, -1.5) for c in (0.5, -1.5)}
    assert_same_set(J.vertices(), sorted(slopes))


def test_two_sites_never_share_a_selection():
    # relu(x) + 2 relu(−x) has limits 1 and −2; one shared variable would give [−1, 0] at best
    J = cx.conservative_jacobian(lambda x: relu(x) + 2 * relu(-x))(0.0)
    assert_same_set(J.vertices(), [1.0, -2.0, 0.0, -1.0])
    low, high = J.bounds()
    assert (low.item(), high.item()) == (-2.0, 1.0)


# Calculus rules: the set of a combination is made of independent choices of its parts.

PARTS = [
    (lambda x: jnp.abs(x), [-1.0, 1.0]),
    (lambda x: relu(x), [0.0, 1.0]),
    (lambda x: jnp.maximum(2 * x, -x), [-1.0, 2.0]),
    (lambda x: jnp.sin(x), [1.0]),
    (lambda x: jnp.where(x > 0, x * x + x, 3 * x), [1.0, 3.0]),
]
PAIRS = [(f, g) for i, f in enumerate(PARTS) for g in PARTS[i:]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_sum_rule(first, second):
    (f, df), (g, dg) = first, second
    J = cx.conservative_jacobian(lambda x: f(x) - 2 * g(1 * x))(0.0)
    assert_same_set(J.vertices(), sorted({a - 2 * b for a in df for b in dg}))


@pytest.mark.parametrize(("first", "second"), PAIRS[::3])
def test_product_rule(first, second):
    (f, df), (g, dg) = first, second
    J = cx.conservative_jacobian(lambda x: (3 + f(x)) * (2 + g(1 * x)))(0.0)
    assert_same_set(J.vertices(), sorted({2 * a + 3 * b for a in df for b in dg}))


@pytest.mark.parametrize(("first", "second"), PAIRS[::2])
def test_chain_rule_gives_products_of_independent_choices(first, second):
    (f, df), (g, dg) = first, second
    J = cx.conservative_jacobian(lambda x: g(f(x)))(0.0)
    assert_same_set(J.vertices(), sorted({a * b for a in df for b in dg}))


def test_chain_rule_of_vector_maps_is_the_set_of_matrix_products():
    A, B = np.array([[1.0, 2.0], [-1.0, 1.0]]), np.array([[1.0, -1.0], [3.0, 1.0]])
    J = cx.conservative_jacobian(lambda x: jnp.abs(B @ relu(A @ x)))(jnp.zeros(2))
    expected = [
        np.diag(s) @ B @ np.diag(q) @ A
        for s in np.array(np.meshgrid([-1, 1], [-1, 1])).reshape(2, -1).T
        for q in np.array(np.meshgrid([0, 1], [0, 1])).reshape(2, -1).T
    ]
    assert len(J.kinks) == 4
    assert_same_set(J.vertices(), expected)


def test_stacking_keeps_a_shared_kink_shared():
    def fun(x):
        y = jnp.abs(x)
        return jnp.stack([y, 2 * y, jnp.abs(3 * x)])

    J = cx.conservative_jacobian(fun)(0.0)
    expected = [[[s], [2 * s], [3 * t]] for s in (-1, 1) for t in (-1, 1)]
    assert_same_set(J.vertices(), expected)


def test_the_graph_is_closed_along_sequences_into_a_kink():
    program_of = {
        "max": lambda x: jnp.maximum(x[0], x[1] ** 2) + jnp.abs(x[1]),
        "relu": lambda x: relu(x[0] * x[1]),
    }
    for fun in program_of.values():
        jacobian = cx.conservative_jacobian(fun)
        J = jacobian(jnp.zeros(2))
        low, high = J.bounds()
        for direction in ([1.0, 0.5], [-1.0, 0.5], [0.3, -1.0], [-0.2, -0.7]):
            near = jacobian(1e-5 * jnp.array(direction))
            assert len(near.kinks) == 0
            gap = np.abs(near.vertices()[0] - J.vertices()).max(axis=(1, 2)).min()
            assert gap < 1e-4
            assert np.all(near.vertices()[0] >= low - 1e-4)
            assert np.all(near.vertices()[0] <= high + 1e-4)


def test_shrinking_steps_into_a_kink_end_in_the_set():
    fun = lambda x: jnp.maximum(jnp.sin(x), x**2 - x)  # noqa: E731
    J = cx.conservative_jacobian(fun)(0.0)
    assert_same_set(J.vertices(), [1.0, -1.0])
    derivative = on_numpy(jax.grad(fun))
    for t in (1e-2, -1e-2, 1e-4, -1e-4, 1e-6, -1e-6):
        slope = derivative(t)
        assert np.abs(slope - J.vertices()).min() <= 3 * abs(t)


@pytest.mark.parametrize(
    ("fun", "lower", "upper"),
    [
        (relu, 0, 1),
        (jnp.abs, -1, 1),
        (lambda x: jnp.minimum(x, 3 * x), 1, 3),  # z = x − 3x: z > 0 is x < 0, where 3x is smaller
        (lambda x: jnp.maximum(0.0, x), 0, 1),  # z = varied − constant, in either order of writing
        (lambda x: jnp.where(x > 0, 5 * x, 7 * x), 7, 5),
        (lambda x: jnp.where(x < 0, 7 * x, 5 * x), 7, 5),
        (lambda x: jnp.where(0 < x, 5 * x, 7 * x), 7, 5),
        (lambda x: jnp.clip(x, -1, 0), 1, 0),
        (lambda x: jnp.clip(x, 0, 1), 0, 1),
    ],
)
def test_lower_and_upper_are_the_slopes_below_and_above(fun, lower, upper):
    J = cx.conservative_jacobian(fun)(0.0)
    assert J.element("lower").item() == lower
    assert J.element("upper").item() == upper
    assert J.element([0.25]).item() == lower + 0.25 * (upper - lower)


def test_lower_and_upper_are_the_one_sided_derivatives_of_a_scalar_kink():
    fun = lambda x: jnp.tanh(x) + relu(2 * x)  # noqa: E731
    J, t = cx.conservative_jacobian(fun)(0.0), 1e-7
    np.testing.assert_allclose(J.element("upper").item(), (fun(t) - fun(0.0)) / t, atol=1e-6)
    np.testing.assert_allclose(J.element("lower").item(), (fun(0.0) - fun(-t)) / t, atol=1e-6)


def test_a_selection_is_one_weight_a_scalar_kink_and_r_an_r_way_tie_in_execution_order():
    def fun(x):
        return jnp.max(x) + 10 * jnp.abs(x[0]) + 100 * jnp.min(x[:2])

    J = cx.conservative_jacobian(fun)(jnp.zeros(3))
    assert [k.ways for k in J.kinks] == [3, 1, 2]
    row = J.element([0.2, 0.3, 0.5, 0.75, 0.1, 0.9])
    np.testing.assert_allclose(row, [[0.2 + 5 + 10, 0.3 + 90, 0.5]], atol=1e-12)
    assert len(J.vertices()) == 12


def test_a_chosen_element_is_affine_in_each_weight():
    J = cx.conservative_jacobian(lambda x: jnp.abs(jnp.abs(x) + x) + relu(x))(0.0)
    rng = np.random.default_rng(0)
    for k in range(3):
        q = rng.uniform(size=3)
        ends = [J.element(np.where(np.arange(3) == k, e, q)) for e in (0.0, 1.0)]
        np.testing.assert_allclose(J.element(q), (1 - q[k]) * ends[0] + q[k] * ends[1], atol=1e-12)


@pytest.mark.parametrize(
    "q",
    [[], [0.5], [0.5, 0.5, 0.5], [1.5, 0.0], [-0.1, 0.0], [np.nan, 0.0], "middle"],
)
def test_a_selection_that_is_none_is_refused(q):
    J = cx.conservative_jacobian(lambda x: jnp.abs(x) + relu(x))(0.0)
    with pytest.raises(errors.SelectionError):
        J.element(q)


def test_weights_of_a_tie_must_sum_to_one():
    J = cx.conservative_jacobian(jnp.max)(jnp.zeros(2))
    with pytest.raises(errors.SelectionError, match="sum"):
        J.element([0.5, 0.6])


def test_samples_differ_and_repeat_with_the_key():
    J = cx.conservative_jacobian(lambda x: jnp.max(x) + jnp.abs(x[0]))(jnp.zeros(3))
    a, b, c = (J.sample(jax.random.key(k), 50) for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (50, 1, 3)
    assert np.ptp(a[:, 0, 1]) > 0.3
    assert not np.allclose(a, c)
    # entries 1 and 2 are weights of the tie alone
    assert np.all(a[:, 0, 1:] >= 0)
    assert np.all(a[:, 0, 1:].sum(axis=1) <= 1 + 1e-12)


def test_too_many_kinks_to_enumerate():
    J = cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x) * jnp.arange(1.0, 21.0)))(
        jnp.zeros(20)
    )
    assert len(J.kinks) == 20
    with pytest.raises(errors.TooManyKinksError, match="20"):
        J.vertices()
    np.testing.assert_allclose(J.element("upper")[0], np.arange(1.0, 21.0))
    np.testing.assert_allclose(J.element("lower")[0], -np.arange(1.0, 21.0))


# Shapes, pytrees and argnums: those of jax.jacobian.


def tree_fun(params, x, *, shift=1.0):
    h = relu(params["w"] @ x + params["b"])
    return {"out": jnp.abs(h - shift), "total": jnp.sum(h)}


@pytest.fixture
def tree_args():
    rng = np.random.default_rng(3)
    params = {"w": jnp.asarray(rng.normal(size=(2, 3))), "b": jnp.asarray(rng.normal(size=2))}
    return params, jnp.asarray(rng.normal(size=3))


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), (1,), -1, (-1, 0)])
def test_unflatten_gives_the_pytree_of_jax_jacobian(tree_args, argnums):
    J = cx.conservative_jacobian(tree_fun, argnums)(*tree_args)
    ours = J.unflatten(J.element("jax"))
    theirs = on_numpy(jax.jacobian(tree_fun, argnums))(*tree_args)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, atol=1e-12)
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    assert J.shape == (3, sum({0: 8, 1: 3}[n % 2] for n in numbers))


def test_columns_follow_the_order_of_argnums():
    fun = lambda x, y: jnp.abs(x) + 10 * relu(y)  # noqa: E731
    forth = cx.conservative_jacobian(fun, (0, 1))(0.0, 0.0)
    back = cx.conservative_jacobian(fun, (1, 0))(0.0, 0.0)
    assert_same_set(forth.vertices(), back.vertices()[:, :, ::-1])
    np.testing.assert_array_equal(forth.element([1, 0]), [[1, 0]])
    np.testing.assert_array_equal(back.element([1, 0]), [[0, 1]])


def test_scalars_count_as_one():
    J = cx.conservative_jacobian(jnp.abs)(0.0)
    assert J.shape == (1, 1)
    assert J.vertices().shape == (2, 1, 1)
    assert np.shape(J.unflatten(J.element())) == ()


@pytest.mark.parametrize("argnums", [1, -2, (0, 1)])
def test_argnums_out_of_range_are_refused(argnums):
    with pytest.raises(errors.InvalidInputError, match="argnums"):
        cx.conservative_jacobian(jnp.abs, argnums)(0.0)


def test_constants_and_closures_are_not_differentiated():
    theta = jnp.array([0.0, 1.0])
    J = cx.conservative_jacobian(lambda x, y: jnp.sum(jnp.maximum(x * theta, y)), 0)(
        1.0, jnp.zeros(2)
    )
    # at x = 1: max(0, 0) ties with slope 0 in x on both sides, max(1, 0) has slope 1
    np.testing.assert_array_equal(J.vertices(), [[[1.0]]])


def test_under_vmap_each_item_has_its_own_kinks():
    def fun(x):
        return jax.vmap(lambda t: relu(t) * t + jnp.abs(t))(x) @ jnp.array([1.0, 10.0])

    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    expected = [[[a, 10 * b]] for a in (-1, 1) for b in (-1, 1)]
    assert_same_set(J.vertices(), expected)
