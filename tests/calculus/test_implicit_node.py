"""A solve's equation lives in the traced program: as long as it, through every transformation."""

import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core

import conservax as cx
from conservax import Verdict, errors
from conservax.calculus import implicit_node
from helpers import assert_same_set


def hinge(y, a):
    """Zero at y = relu(a)/2."""
    return 2 * y - jax.nn.relu(a)


@cx.custom_root(hinge)
def half(init, a):
    return jax.nn.relu(a) / 2


def bounds(fun, x=0.0):
    return [float(b[0, 0]) for b in cx.conservative_jacobian(fun)(x).bounds()]


def many_others():
    """As many traces of solves as a table of names could hold, and more."""
    for _ in range(300):
        jax.make_jaxpr(lambda a: half(None, a))(0.0)


def test_a_stored_jaxpr_keeps_its_equation():
    closed = jax.make_jaxpr(lambda a: half(None, a))(0.0)
    remat = jax.make_jaxpr(jax.checkpoint(lambda a: half(None, a)))(0.0)
    equation = jax.make_jaxpr(lambda y, a: y - 3 * half(None, y) - a)(0.0, 0.0)
    many_others()
    for stored in (closed, remat):
        assert bounds(lambda a, s=stored: jex_core.jaxpr_as_fun(s)(a)[0]) == [0.0, 0.5]
    # 1 − 3q/2 vanishes at q = 2/3
    report = cx.check(lambda y, a: jex_core.jaxpr_as_fun(equation)(y, a)[0], 0.0, 0.0)
    assert report.verdict == Verdict.REFUTED
    assert report.given_rules == ()


def test_a_program_of_many_solves_loses_none():
    def fun(a):
        return sum(half(None, a) for _ in range(6)) + jnp.sum(
            jax.lax.map(lambda t: half(None, t), a * jnp.ones(300))
        )

    report = cx.conservative_jacobian(fun)(0.0)
    assert len(report.kinks) == 306
    assert [float(b[0, 0]) for b in report.bounds()] == [0.0, 153.0]


def stored_identity():
    """A stored jaxpr of a solve, and a weak reference to the equation behind it."""

    def equation(y, a):
        return y - a

    solve = cx.custom_root(equation)(lambda init, a: a)
    return jax.make_jaxpr(lambda a: solve(None, a))(0.0), weakref.ref(equation)


def test_the_equation_lives_as_long_as_the_jaxpr():
    kept = dict(zip(("closed", "life"), stored_identity(), strict=True))
    gc.collect()
    assert bounds(lambda a: jex_core.jaxpr_as_fun(kept["closed"])(a)[0]) == [1.0, 1.0]
    del kept["closed"]
    gc.collect()
    assert kept["life"]() is None


@pytest.mark.parametrize(
    "fun",
    [
        lambda a: jax.jit(lambda t: half(None, t))(a[0]),
        lambda a: jax.checkpoint(lambda t: half(None, t))(a[0]),
        lambda a: jax.vmap(jax.vmap(lambda t: half(None, t)))(a[None])[0, 0],
        lambda a: jax.vmap(lambda t: jax.lax.map(lambda s: half(None, s), t))(a[None])[0, 0],
        lambda a: jax.lax.map(jax.vmap(lambda s: half(None, s)), a[None])[0, 0],
        lambda a: jax.lax.cond(True, lambda t: half(None, t), lambda t: t, a[0]),
        lambda a: jax.value_and_grad(jax.checkpoint(lambda t: half(None, t)))(a[0] + 0.0)[0],
        lambda a: jax.vmap(lambda s, t: half(None, s + t), in_axes=(None, 0))(a[0], 0 * a)[0],
    ],
)
def test_it_goes_through_every_transformation(fun):
    J = cx.conservative_jacobian(fun)(jnp.zeros(2))
    assert_same_set(J.vertices(), [[[0.0, 0.0]], [[0.5, 0.0]]])


def test_two_vmaps_with_axes_anywhere():
    """A cube of hinges, mapped along its last and its first axis, the parameters along others."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2)))

    @cx.custom_root(lambda y, p, q: 2 * y - jax.nn.relu(p * q))
    def product(init, p, q):
        return jax.nn.relu(p * q) / 2

    def fun(x):
        inner = jax.vmap(lambda p, q: product(None, p, q), in_axes=(-1, None))
        return jax.vmap(inner, in_axes=(0, 1))(x, x[0])  # x[0]: (3, 2), one column an item

    expected = jax.jacobian(
        lambda x: jnp.stack(
            [
                jnp.stack([jax.nn.relu(x[i, :, k] * x[0, :, i]) / 2 for k in range(2)])
                for i in range(2)
            ]
        )
    )(x).reshape(12, 12)
    np.testing.assert_allclose(cx.conservative_jacobian(fun)(x).element(), expected, atol=1e-12)


def test_nested_solves_under_two_vmaps():
    """z = half(z + a) + a/4 is a/2 for a < 0 … each entry its own: z − relu(z + a)/2 = a/4."""

    @cx.custom_root(lambda z, a: z - half(None, z + a) - a / 4)
    def outer(init, a):
        return jnp.where(a > 0, 1.5 * a, a / 4)

    J = cx.conservative_jacobian(jax.vmap(jax.vmap(lambda a: outer(None, a))))(jnp.zeros((1, 2)))
    # slopes (1/4 + q/2) / (1 − q/2), q in [0, 1]
    expected = [np.diag(pair) for pair in itertools.product([0.25, 1.5], repeat=2)]
    assert_same_set(J.vertices(), expected)


def test_results_that_nobody_needs_are_pruned_and_the_equation_stays():
    @cx.custom_root(lambda y, a: (y[0] - jax.nn.relu(a), y[1] - 2 * a), has_aux=True)
    def pair(init, a):
        return (jax.nn.relu(a), 2 * a), 7.0 * a

    def first(a):
        return jax.value_and_grad(jax.checkpoint(lambda a: pair(None, a)[0][0]))(a)[0]

    def aux(a):
        return jax.value_and_grad(jax.checkpoint(lambda a: pair(None, a)[1] + a))(a)[0]

    assert bounds(first) == [0.0, 1.0]
    assert bounds(aux) == [1.0, 1.0]  # aux has no derivative


def test_a_rule_of_the_library_that_is_no_node_is_refused():
    """``find`` as the calculus would meet it were its node lost."""
    from conservax.programs.face import _where_exists

    with pytest.raises(errors.UnsupportedOperationError, match="no node"):
        cx.conservative_jacobian(lambda a: _where_exists(a, jnp.array(True)))(jnp.zeros(1))


def test_a_node_by_hand():
    def root(a):
        return implicit_node(
            lambda a: ((jnp.abs(a),), a > 0),
            lambda y, a: (y[0] - jnp.abs(a),),
            lambda found, inputs, tangents: (jnp.sign(inputs[0]) * tangents[0],),
            a,
        )

    assert bounds(lambda a: root(a)[0][0]) == [-1.0, 1.0]
    assert jax.grad(lambda a: root(a)[0][0])(-2.0) == -1.0
    assert bool(root(3.0)[1])
