"""Each entry of the table: its slopes against closed forms, and a kink's report of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.calculus import Entry, carrying, mix
from conservax.calculus.operations.mixtures import weigh
from helpers import assert_same_set, line_of

# (function, point, all extreme slopes there)
TABLE = [
    (jnp.abs, 0.0, [-1, 1]),
    (jax.nn.relu, 0.0, [0, 1]),
    (jax.nn.relu6, 0.0, [0, 1]),
    (jax.nn.relu6, 6.0, [0, 1]),
    (jax.nn.leaky_relu, 0.0, [0.01, 1]),
    (jax.nn.elu, 0.0, [1]),
    (jax.nn.hard_tanh, 1.0, [0, 1]),
    (jax.nn.hard_tanh, -1.0, [0, 1]),
    (lambda x: jnp.maximum(x, 0), 0.0, [0, 1]),
    (lambda x: jnp.maximum(x, -x), 0.0, [-1, 1]),
    (lambda x: jnp.maximum(x, x), 0.0, [1]),
    (lambda x: jnp.minimum(3 * x, x**2), 0.0, [0, 3]),
    (lambda x: jnp.clip(x, -2, 1), -2.0, [0, 1]),
    (lambda x: jnp.clip(x, -2, 1), 1.0, [0, 1]),
    (lambda x: jnp.clip(x, 1, 1), 1.0, [0, 1]),  # an empty interval: both kinks are active
    (lambda x: jax.lax.clamp(-1.0, x, 1.0), 1.0, [0, 1]),
    (lambda x: jax.lax.clamp(-1.0, x, 1.0), -1.0, [0, 1]),
    (lambda x: jax.lax.clamp(-1.0, x, 1.0), 0.5, [1]),
    (lambda x: jnp.max(jnp.array([1.0, 2.0, 3.0, 2.5]) * x), 0.0, [1, 2, 2.5, 3]),
    (
        lambda x: jnp.min(jnp.array([[1.0, 2.0], [3.0, 0.0]]) * x + jnp.array([0.0, 1.0])),
        0.0,
        [1, 3],
    ),
    (lambda x: jnp.max(jnp.abs(jnp.array([1.0, 2.0]) * x)), 0.0, [-2, -1, 1, 2]),
    (lambda x: x - jnp.clip(x, -0.5, 0.5), 0.5, [0, 1]),  # soft threshold
    (lambda x: jnp.sign(1.0) * jnp.abs(x), 0.0, [-1, 1]),
    (lambda x: jnp.where(x > 0, jnp.sin(x), jnp.expm1(2 * x)), 0.0, [1, 2]),
    (lambda x: jnp.where(x == 0, 0.0, 2 * x), 0.0, [0, 2]),
]


@pytest.mark.parametrize(("fun", "point", "slopes"), TABLE)
def test_slopes_at_the_kink(fun, point, slopes):
    J = cx.conservative_jacobian(fun)(point)
    assert_same_set(J.vertices(), np.array(slopes, float))


@pytest.mark.parametrize(("fun", "point", "slopes"), TABLE)
def test_slopes_next_to_the_kink_are_among_them(fun, point, slopes):
    jacobian, slope = cx.conservative_jacobian(fun), jax.jit(jax.grad(fun))
    for t in (1e-3, -1e-3):
        side = jacobian(point + t)
        assert len(side.vertices()) == 1
        np.testing.assert_allclose(side.element("jax").item(), slope(point + t), atol=1e-12)
        # curvature moves the slope by at most a few t
        assert np.abs(side.element().item() - np.array(slopes)).min() < 1e-2


def test_maximum_over_axes_ties_in_each_row():
    J = cx.conservative_jacobian(lambda x: jnp.max(x, axis=1))(
        jnp.array([[1.0, 1.0, 0.0], [2.0, 3.0, 3.0]])
    )
    assert [k.ways for k in J.kinks] == [2, 2]
    expected = np.zeros((4, 2, 6))
    for v, (a, b) in enumerate([(0, 4), (0, 5), (1, 4), (1, 5)]):
        expected[v, 0, a] = expected[v, 1, b] = 1
    assert_same_set(J.vertices(), expected)


def test_maximum_over_two_axes_is_one_tie():
    J = cx.conservative_jacobian(lambda x: jnp.max(x, axis=(0, 2)))(jnp.zeros((2, 2, 2)))
    assert [k.ways for k in J.kinks] == [4, 4]
    assert len(J.vertices()) == 16
    np.testing.assert_allclose(J.vertices().sum(axis=2), 1)


def test_gradients_of_a_tie_are_the_simplex():
    J = cx.conservative_jacobian(jnp.max)(jnp.zeros(4))
    assert_same_set(J.vertices()[:, 0], np.eye(4))
    np.testing.assert_allclose(J.element("jax"), np.full((1, 4), 0.25))


# A kink's report


def reported(x):
    y = x - 3.0
    z = jax.nn.relu(y)  # relu
    w = jnp.abs(y * 2.0)  # abs
    return jnp.sum(z + w)


def test_a_kink_knows_where_it_is_written_and_what_it_is():
    J = cx.conservative_jacobian(reported)(jnp.array([1.0, 3.0, 4.0]))
    first, second = J.kinks
    assert (first.file, second.file) == (__file__, __file__)
    assert (first.line, second.line) == (line_of("relu", __file__), line_of("abs", __file__))
    assert (first.operation, second.operation) == ("relu", "abs")
    assert (first.index, second.index) == ((1,), (1,))
    assert (first.slopes, second.slopes) == ((0.0, 1.0), (-1.0, 1.0))
    assert first.distance == second.distance == 0.0
    assert first.active
    assert first.margin == 0.0
    assert str(first) == f"relu[1] at test_kinks.py:{first.line}"


def test_tolerance_is_the_square_root_of_eps_times_the_terms():
    for dtype, eps in ((np.float64, 2.0**-52), (np.float32, 2.0**-23)):
        J = cx.conservative_jacobian(reported)(jnp.array([1.0, 3.0], dtype))
        # y = x − 3 is made of two terms of size 3; abs sees twice that
        np.testing.assert_allclose(J.kinks[0].tolerance, np.sqrt(eps) * 6, rtol=1e-5)
        np.testing.assert_allclose(J.kinks[1].tolerance, np.sqrt(eps) * 12, rtol=1e-5)


def test_the_nearest_inactive_kink_is_told():
    J = cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x - jnp.array([1.0, 2.0, 3.0]))))(
        jnp.array([1.5, 2.001, 0.0])
    )
    nearest = J.nearest_inactive
    assert J.kinks == ()
    assert not nearest.active
    assert nearest.index == (1,)
    np.testing.assert_allclose(nearest.distance, 0.001, rtol=1e-9)
    np.testing.assert_allclose(nearest.margin, 0.001 - nearest.tolerance, rtol=1e-9)
    assert cx.conservative_jacobian(jnp.sin)(0.0).nearest_inactive is None


def three_kinks(x):
    return jax.nn.relu(x[0] - x[1]) + jnp.maximum(2 * x[0], x[1] + x[2]) + jnp.abs(x[1] - x[0])


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("offset", [0.0, 1e-9, -1e-9, 1e-7, -1e-6, 1e-3])
def test_rescaling_the_input_changes_no_decision(scale, offset):
    def decisions(s):
        J = jacobian(s * np.array([1.0, 1.0 + offset, 1.0]))
        return [(k.operation, k.index) for k in J.kinks], J.vertices()

    jacobian = cx.conservative_jacobian(three_kinks)
    (kinks, vertices), (scaled_kinks, scaled_vertices) = decisions(1.0), decisions(scale)
    assert kinks == scaled_kinks
    np.testing.assert_allclose(vertices, scaled_vertices, atol=1e-12)
    # |z| = offset against sqrt(eps)·(size 2): 1.5e-8·2 in float64, whichever way the size is summed
    assert len(kinks) == (3 if abs(offset) < 2e-8 else 0)


def test_cancellation_does_not_hide_a_kink():
    jacobian = cx.conservative_jacobian(lambda x: jax.nn.relu(x[0] - x[1]))
    near = jacobian(jnp.array([1e6, 1e6 + 1e-4]))  # z = −1e-4 beside terms of 1e6
    assert len(near.kinks) == 1
    assert_same_set(near.vertices(), [[[0.0, 0.0]], [[1.0, -1.0]]])
    far = jacobian(jnp.array([1e6, 1e6 + 1.0]))
    assert far.kinks == ()
    # the same difference without the cancellation is no kink
    plain = cx.conservative_jacobian(lambda x: jax.nn.relu(x))(-1e-4)
    assert plain.kinks == ()


def test_cancellation_in_a_matrix_product_does_not_hide_a_kink():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(3, 4))
    x = rng.normal(size=4)
    b = -W @ x
    b[2] += 1.0
    jacobian = cx.conservative_jacobian(lambda x: jnp.sum(jax.nn.relu(W @ x + b)))
    J = jacobian(jnp.asarray(x * (1 + 1e-13)))
    assert [k.index for k in J.kinks] == [(0,), (1,)]
    expected = [q0 * W[0] + q1 * W[1] + W[2] for q0 in (0, 1) for q1 in (0, 1)]
    assert_same_set(J.vertices()[:, 0], expected)


def test_the_tolerance_can_be_set():
    at = lambda **kw: len(cx.conservative_jacobian(jax.nn.relu, **kw)(1e-3).kinks)  # noqa: E731
    assert at() == 0
    assert at(atol=1e-2) == 1
    assert at(atol=1e-4) == 0
    assert at(rtol=2.0) == 1
    assert len(cx.conservative_jacobian(jax.nn.relu, rtol=0.0)(0.0).kinks) == 1


def test_near_a_kink_the_base_follows_the_tolerance_and_jax_its_own_side():
    for x in (1e-12, -1e-12):
        J = cx.conservative_jacobian(lambda x: jax.nn.relu(x - 1.0))(1.0 + x)
        assert_same_set(J.vertices(), [0.0, 1.0])
        assert J.element("jax").item() == (1.0 if x > 0 else 0.0)


@pytest.mark.parametrize("height", [1e-3, 1.0])
def test_a_discontinuous_where_is_refused_only_at_its_switch(height):
    jacobian = cx.conservative_jacobian(lambda x: jnp.where(x > 1, x + height, x))
    with pytest.raises(errors.DiscontinuousError, match=r"test_kinks\.py"):
        jacobian(1.0)
    np.testing.assert_array_equal(jacobian(1.5).vertices(), [[[1.0]]])


# The small parts


def test_mix_is_exact_at_its_ends_and_keeps_nan_out():
    upper, lower = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([jnp.nan, 2.0, 1.0])
    np.testing.assert_array_equal(mix(jnp.array([1.0, 0.0, 0.5]), upper, lower), [1.0, 2.0, 2.0])
    np.testing.assert_array_equal(
        mix(jnp.array([True, False, True]), upper, lower), [1.0, 2.0, 3.0]
    )


def test_weights_of_zero_silence_infinity():
    np.testing.assert_array_equal(
        weigh(jnp.array([0.0, 1.0]), jnp.array([-jnp.inf, 2.0])), [0.0, 2.0]
    )


def test_carrying_takes_the_value_of_one_and_the_derivatives_of_the_other():
    fun = lambda x: carrying(5 * x, x**3)  # noqa: E731
    assert fun(2.0) == 10.0
    assert jax.grad(fun)(2.0) == 12.0
    assert jax.grad(jax.grad(fun))(2.0) == 12.0
    assert jax.jvp(fun, (2.0,), (1.0,)) == (10.0, 12.0)


def test_an_entry_can_be_registered(monkeypatch):
    """A nonsmooth operation that the table lacks joins every transformation by one entry."""
    from conservax.calculus.operations import kinks

    def run(tape, step, x, _):
        q, r = tape.kink(x, tape.size(0), 0.0)
        return carrying(jnp.abs(x), mix(q, 4 * x, -3 * x)) + 7 * r

    def sites(step, planner):
        return [("bent", "kink", step.eqn.outvars[0].aval.shape, (-3.0, 4.0))]

    monkeypatch.setitem(kinks.TABLE, "nextafter", Entry(sites, run))
    fun = lambda x: jax.lax.nextafter(x, 1.0)  # noqa: E731
    J = cx.conservative_jacobian(fun)(0.0)
    assert_same_set(J.vertices(), [-3.0, 4.0])
    assert J.kinks[0].operation == "bent"
    assert jax.grad(cx.select(fun, "upper"))(0.0) == 4.0


def test_truncation_jumps_at_the_integers_but_0():
    def fun(x):
        return x + x.astype(jnp.int32)

    for point in map(jnp.asarray, (0.0, -0.4, 0.6)):  # the integer part is 0 all round
        found = cx.conservative_jacobian(fun)(point)
        assert found.vertices().ravel().tolist() == [1.0]
        assert not found.kinks
    for point in map(jnp.asarray, (1.0, -1.0, 2.0)):
        with pytest.raises(errors.DiscontinuousError, match="truncation"):
            cx.conservative_jacobian(fun)(point)
