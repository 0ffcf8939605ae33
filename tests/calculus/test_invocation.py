"""Calls taken apart: any model that a user has, and errors where one cannot be read."""

import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.calculus.tracing.invocation import Invocation, differentiable

CORNER = cx.conservative_jacobian(jnp.abs)(jnp.zeros(2))


class Block(eqx.Module):
    """Arrays, an activation, a number, a string, None, an integer that steers a loop, a static field."""

    weight: jax.Array
    activation: object
    slope: float
    repeats: int
    name: str = "block"
    nothing: None = None
    mode: str = eqx.field(static=True, default="plain")

    def __call__(self, x):
        for _ in range(self.repeats):
            x = self.activation(self.weight * x)
        return self.slope * x if self.mode == "plain" else x

    def residual(self, y, x):
        return y - self(y / 4) - x


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    weight: jax.Array
    size: int = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass
class Unregistered:
    weight: jax.Array


class Pair(NamedTuple):
    left: float
    right: jax.Array


def block(repeats=2, activation=jax.nn.relu):
    return Block(jnp.array([1.0, 2.0]), activation, 0.5, repeats)


def test_a_module_is_differentiated_in_its_arrays():
    x = jnp.array([1.0, 0.0])
    J = cx.conservative_jacobian(lambda model, x: jnp.sum(model(x)), (0, 1))(block(), x)
    assert J.shape == (1, 4)
    expected = eqx.filter_grad(lambda model: jnp.sum(model(x)))(block())
    element = J.unflatten(J.element("jax"))[0]
    np.testing.assert_allclose(element.weight, expected.weight)
    assert (element.slope, element.repeats, element.activation) == (None, None, None)
    np.testing.assert_allclose(J.bounds(), [[[1, 0, 0.5, 0]], [[1, 0, 0.5, 2]]])  # slope · w² at x₂


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.abs, jax.nn.tanh])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_module_is_called_like_a_function(activation, repeats):
    model, x = block(repeats, activation), jnp.array([0.3, 0.7])
    element = cx.conservative_jacobian(model)(x).element("jax")
    np.testing.assert_allclose(element, jax.jacobian(model)(x), rtol=1e-12)
    by_method = cx.conservative_jacobian(model.residual, 1)(x, x).element("jax")
    np.testing.assert_allclose(by_method, -np.eye(2))
    partial = cx.conservative_jacobian(functools.partial(model.residual, x=x))(x).element("jax")
    np.testing.assert_allclose(partial, jax.jacobian(model.residual)(x, x), rtol=1e-12)


def test_check_takes_modules_and_keywords():
    y = jnp.zeros(2)
    residual = lambda y, model, x, *, scale: scale * model.residual(y, x)  # noqa: E731
    report = cx.check(residual, y, block(), y, scale=2.0)
    # 2 (1 − ½ w² q / 4), w² ∈ {1, 4}, q ∈ [0, 1]
    assert report.verdict == cx.Verdict.PROVEN
    np.testing.assert_allclose(report.margin, 1.0, rtol=1e-6)
    J = cx.implicit_jacobian(residual, 1)(y, block(), y, scale=2.0)
    low, high = J.bounds()
    np.testing.assert_allclose(low, np.diag([1.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(high, np.diag([8 / 7, 2.0]), atol=1e-12)
    with pytest.raises(errors.InvalidInputError, match="argnums"):
        cx.implicit_jacobian(residual, 5)(y, block(), y, scale=2.0)


def test_a_selection_of_a_module():
    loss = lambda model, x: jnp.sum(model(x))  # noqa: E731
    upper = eqx.filter_grad(lambda x, model: cx.select(loss, "upper")(model, x))(
        jnp.zeros(2), block()
    )
    np.testing.assert_allclose(upper, [0.5, 2.0])


def test_monitor_takes_modules():
    @cx.custom_root(lambda y, model, x: model.residual(y, x))
    def solve(init, model, x):
        return jnp.zeros_like(x)

    watch = cx.monitor(lambda model, x: jnp.sum(solve(None, model, x)))
    (seen,) = watch(0, block(), jnp.zeros(2))
    assert seen.verdict == cx.Verdict.PROVEN
    np.testing.assert_allclose(seen.margin, 0.5, rtol=1e-6)


def test_bfloat16_is_a_precision():
    x = jnp.zeros(2, jnp.bfloat16)
    J = cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x)))(x)
    assert sorted(map(tuple, J.vertices()[:, 0])) == [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    assert cx.check(lambda y, a: y - jax.nn.relu(y / 2 - a), x, x).verdict == cx.Verdict.PROVEN
    assert cx.check(lambda y, a: y - 2 * jax.nn.relu(y) - a, x, x).verdict == cx.Verdict.REFUTED


def test_a_step_comes_first():
    with pytest.raises(errors.InvalidInputError, match=r"step.*Block.*watch\(step, \*args\)"):
        cx.monitor(lambda model, x: x)(block(), jnp.zeros(2))


def test_integers_steer_and_floats_flow():
    fun = lambda x, pair, n: sum(jnp.abs(x - pair.left) for _ in range(n)) + pair.right  # noqa: E731
    J = cx.conservative_jacobian(fun, (0, 1))(1.0, Pair(1.0, jnp.array(3.0)), 2)
    np.testing.assert_allclose(J.vertices()[:, 0], [[-2, 2, 1], [0, 0, 1], [2, -2, 1]])
    with pytest.raises(errors.InvalidInputError, match="argument 2 holds none"):
        cx.conservative_jacobian(fun, 2)(1.0, Pair(1.0, jnp.array(3.0)), 2)


def test_dataclasses_registered_or_not():
    fun = lambda p, x: jnp.sum(jnp.abs(p.weight * x))  # noqa: E731
    J = cx.conservative_jacobian(fun)(Registered(jnp.ones(2), 2), jnp.array([2.0, -3.0]))
    np.testing.assert_allclose(J.element("jax"), [[2.0, 3.0]])
    with pytest.raises(errors.InvalidInputError, match=r"argument 0.*register_dataclass\(Unregis"):
        cx.conservative_jacobian(fun)(Unregistered(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(errors.InvalidInputError, match=r"args\[0\]\['p'\].*register_dataclass"):
        cx.check(lambda y, p: y - p["p"].weight, jnp.ones(2), {"p": Unregistered(jnp.ones(2))})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: cx.check(lambda y, a: y - a, t, np.ones(2)), "sol"),
        (lambda t: cx.check(lambda y, a: y - a, np.ones(2), t), r"args\[0\]"),
        (lambda t: cx.check(lambda y, a: y - a, np.ones(2), a=t), "a"),
        (lambda t: cx.implicit_jacobian(lambda y, a: y - a)(np.ones(2), t), r"args\[0\]"),
        (lambda t: cx.conservative_jacobian(jnp.abs)(t), "argument 0"),
        (lambda t: cx.conservative_jacobian(lambda x: x * t)(1.0), "closes over"),
        (lambda t: cx.monitor(lambda x: x)(0, t), "argument 0"),
        (lambda t: cx.monitor(lambda x: x)(t, 0.0), "step"),
        (lambda t: cx.polish(lambda y, a: y - a, np.ones(2), t), r"args\[0\]"),
        (lambda t: cx.inverse_jacobian(lambda x: 2 * x)(t), "x"),
        (lambda t: CORNER.element(t), "selection"),
        (lambda t: CORNER.support(t), "direction"),
        (lambda t: CORNER.outer_support(t), "direction"),
        (lambda t: CORNER.directional(t), "v"),
        (lambda t: CORNER.distance(t), "matrix"),
        (lambda t: CORNER.contains(t), "matrix"),
        (lambda t: CORNER.unflatten(t), "matrix"),
    ],
)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.jacobian])
def test_on_tracers_it_says_to_call_outside(call, name, transform):
    with pytest.raises(errors.InvalidInputError, match=f"^(the function )?{name}.* traced array"):
        transform(lambda t: call(t))(jnp.ones((2, 2))[0] if transform is jax.jit else jnp.ones(2))


def test_a_traced_key_is_named():
    with pytest.raises(errors.InvalidInputError, match=r"^key is a traced array"):
        jax.jit(lambda key: CORNER.sample(key, 1))(jax.random.key(0))


def test_equal_calls_have_equal_forms():
    fun = lambda x, n: x * n  # noqa: E731
    forms = [
        Invocation.of(fun, args).form
        for args in (
            (jnp.ones(2), 3),
            (jnp.zeros(2), 3),
            (jnp.ones(2), 4),
            (jnp.ones(3), 3),
            (jnp.ones(2, jnp.float32), 3),
        )
    ]
    assert [form == forms[0] for form in forms] == [True, True, False, False, False]


def test_what_is_differentiated():
    tree = (1.0, 2, jnp.arange(3), {"a": np.ones(2)}, block())
    kept = differentiable(tree)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(kept)] == [(), (2,), (2,)]
