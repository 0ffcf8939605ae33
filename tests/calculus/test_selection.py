"""``select``: same values, chosen derivatives, under every transformation."""

import functools
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from helpers import Program, at, on_numpy, points, programs
from side_by_side import SideBySide

relu, relu6 = jax.nn.relu, jax.nn.relu6


@jax.custom_jvp
def squared_plus(x):
    return x * x


squared_plus.defjvp(lambda p, t: (p[0] * p[0], 2 * p[0] * t[0] + 7 * t[0]))


def scanned(x):
    return jax.lax.scan(
        lambda c, w: (jnp.abs(c) - relu(w * c), relu(c)), x, jnp.array([1.0, 0.5], x.dtype)
    )[0]


SCALAR = {
    "relu": relu,
    "relu6 at its upper kink": lambda x: relu6(x + 6),
    "abs": jnp.abs,
    "max": lambda x: jnp.maximum(x, 3 * x),
    "max with a constant": lambda x: jnp.maximum(0.0, x),
    "min": lambda x: jnp.minimum(2 * x, -x),
    "clip": lambda x: jnp.clip(x, 0, 1),
    "lax.clamp": lambda x: jax.lax.clamp(jnp.zeros((), x.dtype), x, jnp.ones((), x.dtype)),
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "hard_tanh": lambda x: jax.nn.hard_tanh(x + 1),
    "where >": lambda x: jnp.where(x > 0, 5 * x, 2 * x),
    "where >=": lambda x: jnp.where(x >= 0, 5 * x, 2 * x),
    "where <": lambda x: jnp.where(x < 0, 5 * x, 2 * x),
    "where <=": lambda x: jnp.where(x <= 0, 5 * x, 2 * x),
    "where on the right": lambda x: jnp.where(0 > x, 5 * x, 2 * x),
    "where of a negation": lambda x: jnp.where(~(x > 0), 5 * x, 2 * x),
    "reduce_max, three ties": lambda x: jnp.max(jnp.stack([x, -x, 4 * x])),
    "reduce_min, two ties": lambda x: jnp.min(jnp.stack([x, -x, x + 1])),
    "scan": scanned,
    "custom_jvp": lambda x: squared_plus(x) + relu(x),
    "nested": lambda x: jnp.maximum(jnp.abs(x) - relu(x), jnp.minimum(x, 0.0)),
    "a user's own relu": lambda x: jnp.maximum(x, 0.0) + relu(x),
    "jit": jax.jit(lambda x: jax.jit(relu)(x) + jnp.abs(x)),
    "checkpoint": jax.checkpoint(lambda x: jnp.abs(x) * jnp.exp(x)),
    "stop_gradient": lambda x: relu(x) * jax.lax.stop_gradient(jnp.abs(x) + 2),
}


def of_all(*questions):
    """x ↦ {name: the answers for SCALAR[name] at x}: one compilation for all functions of the table."""
    return on_numpy(
        lambda x: {name: [q(fun)(x) for q in questions] for name, fun in SCALAR.items()}
    )


def derivative(fun):
    """f′ by ``jax.jvp``."""
    return lambda x: jax.jvp(fun, (x,), (jnp.ones_like(x),))[1]


@functools.cache
def defaults(dtype):
    """For each point: slopes of JAX and of ``select``, and JAX's element of each set."""
    slopes = of_all(jax.grad, lambda fun: jax.grad(cx.select(fun, "jax")))
    side_by_side = SideBySide(SCALAR.values())
    found = []
    for point in (0.0, 0.5, -0.75):
        x = dtype(point)
        sets = side_by_side.sets([x] * len(SCALAR))
        elements = [J.element("jax").item() for J in sets]
        found.append((slopes(x), dict(zip(SCALAR, elements, strict=True))))
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SCALAR)
def test_the_default_is_jax_grad(name, dtype):
    for slopes, elements in defaults(dtype):
        expected, selected = slopes[name]
        for slope in (selected, elements[name]):
            np.testing.assert_allclose(slope, expected, rtol=4 * np.finfo(dtype).eps)


@functools.cache
def through_the_interpreter():
    by_name = of_all(
        jax.grad,
        lambda fun: jax.grad(cx.select(fun, {})),
        lambda fun: derivative(cx.select(fun, {})),
    )
    return [by_name(x) for x in (0.0, 0.5, -0.75)]


@pytest.mark.parametrize("name", SCALAR)
def test_a_dict_that_names_nothing_is_jax_grad_through_the_interpreter(name):
    for answers in through_the_interpreter():
        expected, reverse, forward = answers[name]
        np.testing.assert_allclose(reverse, expected, rtol=1e-15)
        np.testing.assert_allclose(forward, expected, rtol=1e-15)


@functools.cache
def values(policy, dtype):
    """Values of the functions, and with a selection, compiled apart."""
    plain, chosen = of_all(lambda fun: fun), of_all(lambda fun: cx.select(fun, policy))
    return [(plain(x), chosen(x)) for x in map(dtype, (0.0, 0.3, -0.7))]


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize(("policy", "dtype"), [("lower", np.float32), ("upper", np.float64)])
def test_values_are_untouched(name, policy, dtype):
    for plain, chosen in values(policy, dtype):
        assert chosen[name][0].dtype == dtype
        assert chosen[name][0] == plain[name][0]


@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [
        ("relu", 0, 1),
        ("abs", -1, 1),
        ("max", 3, 1),  # z = x − 3x > 0 where x < 0
        ("max with a constant", 0, 1),
        ("min", 2, -1),
        ("clip", 0, 1),
        ("leaky_relu", 0.01, 1),
        ("elu", 1, 1),
        ("where >", 2, 5),
        ("where >=", 2, 5),
        ("where <", 5, 2),
        ("where <=", 5, 2),
        ("where on the right", 5, 2),
        ("where of a negation", 5, 2),
        ("reduce_max, three ties", 1, 4),  # the first and the last of the tied entries
        ("reduce_min, two ties", 1, -1),
    ],
)
def test_lower_and_upper_under_every_transformation(name, lower, upper):
    fun = SCALAR[name]
    for policy, expected in (("lower", lower), ("upper", upper)):
        chosen = cx.select(fun, policy)
        assert np.isclose(jax.grad(chosen)(0.0), expected)
        at_a_point, batched = transformed(policy)
        reverse, forward = at_a_point[name]
        assert np.isclose(reverse, expected)
        assert np.isclose(forward, expected)
        inside, outside, plain = batched[name]
        np.testing.assert_allclose(inside[0], expected, rtol=1e-12)
        np.testing.assert_allclose(inside[2], expected, rtol=1e-12)
        np.testing.assert_allclose(inside[1], plain[1], rtol=1e-12)
        np.testing.assert_allclose(outside, inside, rtol=1e-12)


@functools.cache
def transformed(policy):
    """Derivatives with a selection under jit: at 0 in both modes, and of a batch in any order."""
    at_a_point = of_all(
        lambda fun: jax.grad(cx.select(fun, policy)), lambda fun: derivative(cx.select(fun, policy))
    )
    batched = of_all(
        lambda fun: jax.vmap(jax.grad(cx.select(fun, policy))),
        lambda fun: jax.grad(lambda x: jnp.sum(jax.vmap(cx.select(fun, policy))(x))),
        lambda fun: jax.vmap(jax.grad(fun)),
    )
    return at_a_point(0.0), batched(np.array([0.0, 0.5, 0.0]))


@settings(max_examples=10)
@given(programs(outputs=2), st.lists(points(2), min_size=2, max_size=2))
def test_selected_derivatives_are_elements_found_by_brute_force(program: Program, xs):
    chosen = [cx.select(program.to_jax(), policy) for policy in ("lower", "upper")]
    plain = on_numpy(program.to_jax())
    selected = on_numpy(lambda x: [(f(x), jax.jacfwd(f)(x), jax.jacrev(f)(x)) for f in chosen])
    for x in [(Fraction(0), Fraction(0)), *xs]:
        for value, forward, reverse in selected(at(x)):
            np.testing.assert_array_equal(value, plain(at(x)))
            gap = np.abs(forward - program.jacobians(x)).max(axis=(1, 2)).min()
            assert gap < 1e-9
            np.testing.assert_allclose(reverse, forward, atol=1e-9)


def test_the_second_derivative_follows_the_same_piece():
    # x² above 0, −3x² below: one first derivative, two second derivatives
    fun = lambda x: jnp.where(x > 0, x**2, -3 * x**2)  # noqa: E731
    for policy, expected in (("lower", -6.0), ("upper", 2.0)):
        chosen = cx.select(fun, policy)
        hessian = jax.jit(jax.hessian(chosen))
        assert jax.hessian(chosen)(0.0) == expected
        assert jax.jit(jax.grad(jax.grad(chosen)))(0.0) == expected
        assert hessian(0.0) == expected
        assert hessian(0.5) == 2.0
        assert hessian(-0.5) == -6.0


def test_hessian_of_a_product_with_a_kink():
    # f = |x| exp(y): ∂²f/∂x∂y = s exp(y) with the slope s chosen for |·|
    fun = lambda v: jnp.abs(v[0]) * jnp.exp(v[1])  # noqa: E731
    for policy, s in (("lower", -1.0), ("upper", 1.0)):
        H = on_numpy(jax.hessian(cx.select(fun, policy)))(np.array([0.0, 0.5]))
        np.testing.assert_allclose(H, [[0, s * np.exp(0.5)], [s * np.exp(0.5), 0]], atol=1e-12)


def test_pytrees_keywords_and_integer_arguments_pass_through():
    def fun(params, index, *, gain):
        return {"y": gain * jnp.abs(params["w"])[index]}

    chosen = cx.select(fun, "upper")
    params = {"w": jnp.zeros(3)}
    derivative = jax.grad(lambda p: chosen(p, 1, gain=2.0)["y"])(params)
    np.testing.assert_array_equal(derivative["w"], [0.0, 2.0, 0.0])


def test_no_nan_leaks_from_the_branch_not_taken():
    safe = lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)  # noqa: E731
    for policy in ("lower", "upper", {}):
        slope = jax.jit(jax.grad(cx.select(safe, policy)))
        assert slope(-1.0) == 0.0
        np.testing.assert_allclose(slope(4.0), 0.25, rtol=1e-12)


def test_a_masked_maximum_keeps_finite_gradients():
    fun = lambda x: jnp.max(jnp.where(jnp.array([True, False, True]), x, -jnp.inf))  # noqa: E731
    x = jnp.array([1.0, 5.0, 1.0])
    np.testing.assert_array_equal(jax.grad(cx.select(fun, "lower"))(x), [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(jax.grad(cx.select(fun, "upper"))(x), [0.0, 0.0, 1.0])


# Explicit selections


def two_kinks(x):
    return (
        jnp.abs(x)
        + 10 * relu(x)
    )  # fmt: skip


def names(fun, *args):
    return [s.name for s in cx.sites(fun)(*args)]


def test_sites_name_operation_and_line():
    here = two_kinks.__code__.co_firstlineno
    first, second = names(two_kinks, 0.0)
    assert first == f"abs@test_selection.py:{here + 2}"
    assert second.endswith(f"@test_selection.py:{here + 3}")


def test_a_dict_chooses_site_by_site_and_leaves_the_rest_to_jax():
    first, second = names(two_kinks, 0.0)
    slope = lambda q: jax.grad(cx.select(two_kinks, q))(0.0)  # noqa: E731
    np.testing.assert_allclose(slope({first: 0.0, second: 1.0}), -1 + 10)
    np.testing.assert_allclose(slope({first: 0.25}), -0.5 + 0)
    np.testing.assert_allclose(slope({second: 0.5}), 1 + 5)
    np.testing.assert_allclose(slope({}), 1.0)


def test_a_dict_agrees_with_the_element_of_the_set():
    q = [0.3, 0.6]
    J = cx.conservative_jacobian(two_kinks)(0.0)
    chosen = cx.select(two_kinks, dict(zip(names(two_kinks, 0.0), q, strict=True)))
    np.testing.assert_allclose(jax.grad(chosen)(0.0), J.element(q).item(), rtol=1e-14)


def test_a_dict_takes_an_array_of_the_sites_shape_under_jit():
    fun = lambda x: jnp.sum(jnp.abs(x))  # noqa: E731
    (name,) = names(fun, jnp.zeros(4))

    @jax.jit
    def slopes(weights):
        return jax.grad(cx.select(fun, {name: weights}))(jnp.array([0.0, 0.0, 0.0, -2.0]))

    np.testing.assert_allclose(slopes(jnp.array([0.0, 0.25, 1.0, 1.0])), [-1.0, -0.5, 1.0, -1.0])
    np.testing.assert_allclose(slopes(jnp.array([1.0, 1.0, 0.0, 0.0])), [1.0, 1.0, -1.0, -1.0])


def test_in_a_scan_each_iteration_takes_its_own_weight():
    fun = lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.abs(y) + y, x)  # noqa: E731
    (name,) = names(fun, 0.0)
    assert cx.sites(fun)(0.0)[0].shape == (3,)
    J = cx.conservative_jacobian(fun)(0.0)
    for q in ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 0.25]):
        expected = np.prod([2 * w for w in q])
        slope = jax.jit(jax.grad(cx.select(fun, {name: np.array(q)})))(0.0)
        np.testing.assert_allclose(slope, expected, atol=1e-14)
        np.testing.assert_allclose(J.element(q).item(), expected, atol=1e-14)


def test_in_nested_scans_weights_are_indexed_outer_loop_first():
    def fun(x):
        def inner(c, _):
            return jax.lax.scan(lambda y, w: (w * jnp.abs(y), None), c, jnp.array([2.0, 3.0]))

        return jax.lax.scan(lambda c, _: (inner(c, _)[0], None), x, None, length=2)[0]

    (name,) = names(fun, 0.0)
    q = np.array([[1.0, 0.25], [0.75, 0.0]])
    expected = 36 * np.prod(2 * q - 1)
    np.testing.assert_allclose(jax.grad(cx.select(fun, {name: q}))(0.0), expected, rtol=1e-14)
    np.testing.assert_allclose(
        cx.conservative_jacobian(fun)(0.0).element(q.ravel()).item(), expected, rtol=1e-14
    )


def test_a_comparison_is_one_kink_for_every_where_it_steers():
    def fun(x):
        positive = x > 0
        return jnp.stack([jnp.where(positive, 2 * x, x), jnp.where(positive, 5 * x, 3 * x)])

    (name,) = names(fun, 0.0)
    np.testing.assert_allclose(jax.jacobian(cx.select(fun, {name: 0.5}))(0.0), [1.5, 4.0])
    np.testing.assert_allclose(jax.jacobian(cx.select(fun, "upper"))(0.0), [2.0, 5.0])
    J = cx.conservative_jacobian(fun)(0.0)
    assert len(J.kinks) == 1
    assert sorted(J.vertices()[:, :, 0].tolist()) == [[1.0, 3.0], [2.0, 5.0]]


# Errors


def test_an_unknown_policy_is_named_at_once():
    with pytest.raises(errors.SelectionError, match="'middle'"):
        cx.select(relu, "middle")


def test_an_unknown_site_is_named_with_those_that_exist():
    (name,) = names(jnp.abs, 0.0)
    with pytest.raises(errors.SelectionError, match=re.escape(name)) as error:
        cx.select(jnp.abs, {"relu@nowhere.py:1": 0.5})(0.0)
    assert "relu@nowhere.py:1" in str(error.value)


@pytest.mark.parametrize("weights", [1.5, -0.25, np.nan, np.array([0.5, 2.0, 0.5])])
def test_weights_outside_the_unit_interval_are_refused(weights):
    fun = lambda x: jnp.abs(x)  # noqa: E731
    (name,) = names(fun, jnp.zeros(3))
    with pytest.raises(errors.SelectionError, match=re.escape(name)):
        cx.select(fun, {name: weights})(jnp.zeros(3))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1,)])
def test_weights_of_the_wrong_shape_are_refused_with_both_shapes(shape):
    fun = lambda x: jnp.abs(x)  # noqa: E731
    (name,) = names(fun, jnp.zeros(3))
    with pytest.raises(errors.SelectionError, match=re.escape(str(shape))) as error:
        cx.select(fun, {name: np.full(shape, 0.5)})(jnp.zeros(3))
    assert "(3,)" in str(error.value)


def test_a_pytree_that_mixes_floats_and_integers_keeps_its_selection():
    fun = lambda p: jnp.abs(p["w"]) * p["n"]  # noqa: E731
    assert jax.grad(lambda w: cx.select(fun, "lower")({"w": w, "n": 3}))(0.0) == -3.0
    plus = lambda p, x: jnp.abs(p["w"]) * p["n"] + x  # noqa: E731
    assert jax.grad(lambda w: cx.select(plus, "lower")({"w": w, "n": 3}, 1.0))(0.0) == -3.0
