"""What a program is refused for, by file and line, and how kinks are placed on the tape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.calculus.passes.planning import trace
from helpers import line_of


def unsupported(x):
    y = 2 * x
    return jnp.sum(jax.lax.nextafter(y, x))  # unsupported


def unsupported_inside(x):
    step = jax.jit(lambda c: jax.lax.nextafter(c, c) + c)  # unsupported inside jit
    return jax.lax.fori_loop(0, 2, lambda i, c: step(c), x)


def unsupported_factor(x):
    return (
        x
        * jax.lax.nextafter(x, x)  # in the middle of an expression
    )  # fmt: skip


def jumps(x):
    return jnp.where(x > 0, x + 1, x)  # jumps


def not_lipschitz(x):
    y = x * x
    return jnp.sqrt(y)  # sqrt at 0


def nan_inside(x):
    y = jnp.log(x)
    return jnp.abs(y)  # NaN reaches a kink


def integer_output(x):
    return jnp.argmax(x)


HERE = __file__


def refused(error, fun, marker, point, use=None):
    with pytest.raises(error) as caught:
        (use or (lambda f, x: cx.conservative_jacobian(f)(x)))(fun, point)
    assert f"{HERE}:{line_of(marker, HERE)}" in str(caught.value)
    return str(caught.value)


REFUSED = [
    (unsupported, "unsupported", jnp.zeros(2)),
    (unsupported_inside, "unsupported inside jit", 0.3),
    (unsupported_factor, "in the middle of an expression", 0.3),
]


@pytest.mark.parametrize(("fun", "marker", "point"), REFUSED)
def test_an_unsupported_operation_is_refused_by_file_and_line(fun, marker, point):
    refused(errors.UnsupportedOperationError, fun, marker, point)
    # select refuses as well, also while tracing
    refused(
        errors.UnsupportedOperationError, fun, marker, point, lambda f, x: cx.select(f, "lower")(x)
    )
    refused(
        errors.UnsupportedOperationError,
        fun,
        marker,
        point,
        lambda f, x: jax.jit(cx.select(f, "upper"))(x),
    )


def test_a_refusal_names_the_operation_and_a_remedy():
    message = refused(errors.UnsupportedOperationError, unsupported, "unsupported", jnp.zeros(2))
    assert "nextafter" in message
    assert "stop_gradient" in message


def test_unsupported_operations_that_no_derivative_feels_are_allowed():
    def fun(x, y):
        unused = jax.lax.nextafter(x, x)
        constant = jax.lax.nextafter(y, jax.lax.stop_gradient(x)) + 3
        del unused
        return jnp.abs(x) * constant

    np.testing.assert_allclose(
        cx.conservative_jacobian(fun)(0.0, 2.0).vertices().ravel(), [-5.0, 5.0], rtol=1e-15
    )


def test_a_jump_is_refused_by_file_and_line_with_its_height():
    message = refused(errors.DiscontinuousError, jumps, "jumps", 0.0)
    assert "1" in message
    # off the switch the same program is smooth
    assert cx.conservative_jacobian(jumps)(0.5).element().item() == 1.0


def test_an_unbounded_slope_is_refused_by_file_and_line():
    refused(errors.NotLipschitzError, not_lipschitz, "sqrt at 0", 0.0)
    np.testing.assert_allclose(cx.conservative_jacobian(not_lipschitz)(-2.0).element().item(), -1.0)


def test_a_nan_at_a_kink_is_refused_by_file_and_line():
    refused(errors.InvalidInputError, nan_inside, "NaN reaches a kink", -1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused(bad):
    with pytest.raises(errors.InvalidInputError, match="NaN or infinity"):
        cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x)))(jnp.array([1.0, bad]))


@pytest.mark.parametrize("fun", [integer_output, lambda x: x[0] > 0, lambda x: (x, jnp.int32(3))])
def test_outputs_that_are_not_real_floats_are_refused(fun):
    with pytest.raises(errors.ConservaxError) as caught:
        cx.conservative_jacobian(fun)(jnp.array([1.0, 2.0]))
    assert isinstance(caught.value, errors.InvalidInputError | errors.UnsupportedOperationError)


def test_other_arguments_may_be_integers():
    J = cx.conservative_jacobian(lambda x, n: jnp.abs(x)[n])(jnp.zeros(3), 1)
    assert J.vertices().tolist() == [[[0, -1, 0]], [[0, 1, 0]]]


# Planning: slots, strides, and which comparisons are one


def test_slots_of_a_loop_are_iteration_first_then_row_major():
    def fun(x):
        step = lambda c, _: (jnp.abs(c) + jax.nn.relu(c), None)  # noqa: E731
        return jax.lax.scan(step, x, None, length=2)[0] + jnp.abs(x)

    program = trace(lambda leaves: fun(*leaves), [jnp.zeros(3)], (True,))
    slots = [s.slots().tolist() for s in program.sites]
    assert program.size == 15
    assert slots == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]], [12, 13, 14]]


def test_every_slot_belongs_to_exactly_one_site():
    def fun(x):
        inner = lambda c, _: (jnp.abs(c) - 0.5 * jnp.max(c), jnp.clip(c, 0, 1))  # noqa: E731
        outer = lambda c, _: (jax.lax.scan(inner, c, None, length=2)[0], None)  # noqa: E731
        y = jax.lax.scan(outer, x, None, length=3)[0]
        return jnp.where(y > 0, y, 2 * y)

    program = trace(lambda leaves: fun(*leaves), [jnp.zeros(2)], (True,))
    taken = np.concatenate([s.slots().ravel() for s in program.sites])
    assert sorted(taken.tolist()) == list(range(program.size))
    assert program.size == 3 * 2 * (2 + 2 + 4) + 2 + 2


@pytest.mark.parametrize(
    ("fun", "kinks"),
    [
        (
            lambda x: jnp.where(x > 0, x, 0) + jnp.where(x > 0, 2 * x, 3 * x),
            1,
        ),  # the same text twice
        (lambda x: jnp.where(x > 0, x, 0) + jnp.where(x <= 0, 2 * x, 3 * x), 1),  # its complement
        (lambda x: jnp.where(x > 0, x, 0) + jnp.where(0 < x, 2 * x, 3 * x), 1),  # read backwards
        (lambda x: jnp.where(x > 0, x, 0) + jnp.where(x >= 0, 2 * x, 3 * x), 2),  # differs at 0
        (
            lambda x: jnp.where(x > 0, x, 0) + jnp.where(x > 1, x - 1, 0),
            1,
        ),  # another switch, inactive
        (lambda x: jnp.abs(x) + jnp.abs(x), 2),  # executed twice: two kinks
    ],
)
def test_which_comparisons_are_one_kink(fun, kinks):
    assert len(cx.conservative_jacobian(fun)(0.0).kinks) == kinks


def test_a_shared_comparison_moves_its_branches_together():
    fun = lambda x: jnp.where(x > 0, x, 0) - jnp.where(x > 0, 0, -x)  # noqa: E731
    # x for x > 0, x for x < 0: both branches together are the identity, whatever is chosen
    np.testing.assert_array_equal(cx.conservative_jacobian(fun)(0.0).vertices(), [[[1.0]]])


def test_a_where_on_data_is_no_kink():
    mask = np.array([True, False])
    fun = lambda x: jnp.where(mask, 2 * x, 3 * x)  # noqa: E731
    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert J.kinks == ()
    np.testing.assert_array_equal(J.element(), np.diag([2.0, 3.0]))


@pytest.mark.parametrize("x", [1, jnp.arange(3), True, 1 + 2j])
def test_inputs_that_are_not_real_floats_are_refused_by_dtype(x):
    with pytest.raises(errors.InvalidInputError, match=str(jnp.result_type(x))):
        cx.conservative_jacobian(lambda x: x * 2.0)(x)


@pytest.mark.parametrize(
    ("fun", "right", "left"),
    [
        (lambda x: jnp.where((x < 0) | (x < 0), 2 * x, 0.5 * x), 0.5, 2.0),
        (lambda x: jnp.where((x < 0) & (x < 0), 2 * x, 0.5 * x), 0.5, 2.0),
        (lambda x: jnp.where(jnp.logical_not((x < 0) | (x < 0)), 2 * x, 0.5 * x), 2.0, 0.5),
        (lambda x: jnp.where(jnp.sign(x) > 0, 2 * x, x), 2.0, 1.0),
        (lambda x: jnp.where(jnp.sign(x) >= 0, 2 * x, x), 2.0, 1.0),
    ],
)
def test_a_comparison_that_meets_itself_and_a_predicate_of_a_sign(fun, right, left):
    J = cx.conservative_jacobian(fun)(0.0)
    assert sorted(J.vertices().ravel()) == sorted({right, left})
    np.testing.assert_array_equal(J.directional(1.0), [right])
    np.testing.assert_array_equal(J.directional(-1.0), [-left])
    assert J.element().item() == jax.grad(fun)(0.0)
