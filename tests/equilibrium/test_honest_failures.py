"""What an equilibrium layer says where it has no equilibrium to give: a status and NaN, or an error."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax import equilibrium
from conservax.equilibrium import certified_radius
from conservax.errors import InvalidInputError, SelectionError
from conservax.solution import Status

KEY = jax.random.key(0)
# of any type: what is passed here is wrong on purpose
Equilibrium: Any = equilibrium.Equilibrium
MonotoneEquilibrium: Any = equilibrium.MonotoneEquilibrium
MonotoneTierEquilibrium: Any = equilibrium.MonotoneTierEquilibrium
Phantom: Any = equilibrium.Phantom


@pytest.mark.parametrize("solver", ["fixed_point", "anderson"])
def test_too_few_unrolled_steps_are_no_equilibrium(solver):
    """z = 0.9 z + x is at 2.71 x after three steps, and its equilibrium is 10 x."""

    def deq(steps, tol=None):
        cell = lambda z, x: 0.9 * z + x  # noqa: E731
        return Equilibrium(cell, (), solver, "unrolled", max_steps=steps, tol=tol)

    short = deq(3).solve(1.0)
    assert short.status == Status.MAX_ITERATIONS
    assert jnp.isnan(short.value)
    # z − T(z) = 0.9³, which a tolerance of 0.3 (of T(z) = 3.439) lets pass: then the number is there
    rough = deq(3, tol=0.3).solve(1.0)
    np.testing.assert_allclose(rough.value, 2.71, rtol=1e-6)
    np.testing.assert_allclose(rough.stats.residual, 0.729, rtol=1e-6)
    assert (rough.status, rough.stats.iterations) == (Status.SOLVED, 3)


def test_unrolled_failures_are_nan_for_their_item_alone():
    """dz/dx = 1/(1 − a): a = 3 diverges, a = ½ does not; a masked loss has a clean gradient in w."""
    deq = Equilibrium(lambda z, x, a: a * z + x, (), "fixed_point", "unrolled", max_steps=60)
    a = jnp.array([0.5, 3.0])

    def loss(w, masked):
        found = jax.vmap(lambda a: deq.solve(w, a))(a)
        value = jnp.where(found.status == Status.SOLVED, found.value, 0) if masked else found.value
        return jnp.sum(value), found

    masked, found = jax.jit(jax.grad(lambda w: loss(w, True), has_aux=True))(1.0)
    np.testing.assert_allclose(masked, 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.value, [2.0, np.nan], rtol=1e-6)
    assert found.status[0] == Status.SOLVED
    assert found.status[1] != Status.SOLVED
    assert jnp.isnan(jax.grad(lambda w: loss(w, False)[0])(1.0))


def test_a_monotone_layer_that_is_unrolled_says_whether_it_arrived():
    def solved(steps):
        layer = MonotoneEquilibrium(
            3, 6, m=0.1, backward="unrolled", max_steps=steps, tol=1e-5, key=KEY
        )
        return layer, layer.solve(jnp.ones(3))

    _, short = solved(2)
    assert short.status == Status.MAX_ITERATIONS
    assert jnp.all(jnp.isnan(short.value))
    layer, enough = solved(100)
    assert enough.status == Status.SOLVED
    z = enough.value
    np.testing.assert_allclose(
        z, jax.nn.relu(layer.W @ z + layer.U @ jnp.ones(3) + layer.b), atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: MonotoneEquilibrium(3, 4, m="1", key=KEY), "m='1'"),
        (lambda: MonotoneEquilibrium(3, 4, m=None, key=KEY), "m=None"),
        (lambda: MonotoneEquilibrium(3, 4, alpha="a", key=KEY), "alpha='a'"),
        (lambda: MonotoneEquilibrium(3, 4, memory=1.5, key=KEY), "memory=1.5"),
        (lambda: MonotoneEquilibrium(3, 4, max_steps=2.5, key=KEY), "max_steps=2.5"),
        (lambda: MonotoneEquilibrium(3, 4, tol=np.inf, key=KEY), "tol=inf"),
        (lambda: MonotoneEquilibrium(3, True, key=KEY), "size=True"),
        (lambda: MonotoneEquilibrium(3, 4, selection=2.0, key=KEY), "selection=2.0"),
        (lambda: MonotoneEquilibrium(3, 4, selection="middle", key=KEY), "selection='middle'"),
        (lambda: MonotoneEquilibrium(3, 4, key=KEY, dtype=jnp.bfloat16), "dtype=bfloat16"),
        (lambda: MonotoneEquilibrium(3, 4, key=KEY, dtype=int), "dtype=int"),
        (lambda: MonotoneEquilibrium(3, 4, key=KEY)(jnp.full(3, 1j)), "x is complex"),
        (lambda: Equilibrium(jnp.add)(jnp.full(3, 1j)), "x is complex"),
        (lambda: Equilibrium(jnp.add)(jnp.ones(3, jnp.float16)), "dtype=float16"),
        (
            lambda: jax.jit(lambda a: a + MonotoneEquilibrium(3, 4, key=KEY).certificate.margin)(
                1.0
            ),
            "outside jit",
        ),
        (lambda: MonotoneEquilibrium(3, 4, backward=Phantom(2.5), key=KEY), "steps=2.5"),
        (lambda: MonotoneTierEquilibrium(1, 3, (4, 4), key=KEY), "channels=3"),
        (lambda: Equilibrium(jnp.add, tol=-1.0), "tol=-1"),
        (lambda: Equilibrium(jnp.add, tol=np.nan), "tol=nan"),
        (lambda: Equilibrium(jnp.add, shape=3), r"\(3,\)"),
        (lambda: Equilibrium(jnp.add, shape=(3.5,)), r"shape\[0\]=3.5"),
        (lambda: certified_radius(jnp.ones(3), jnp.eye(2), 1.0), "classes"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(make, names):
    with pytest.raises((InvalidInputError, SelectionError), match=names):
        make()


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
def test_numbers_whose_squares_leave_float32(scale):
    """z(s x) = s z(x) for relu without bias, and the gradient of s·z is s times that of z."""
    layer = MonotoneEquilibrium(3, 8, m=0.5, key=KEY, dtype=jnp.float32)
    zero = jnp.zeros(8, jnp.float32)
    layer = eqx.tree_at(lambda f: (f.A, f.B, f.b), layer, (2 * layer.A, 2 * layer.B, zero))
    x, s = jnp.array([0.3, -0.2, 0.5], jnp.float32), jnp.float32(scale)

    @jax.jit
    def run(s, t):
        def paired(x):
            solution = layer.solve(s * x)
            return jnp.sum(solution.value) * (t / s), solution

        return jax.grad(paired, has_aux=True)(x)

    of_x, solution = run(s, s)
    exact_of_x, exact = run(jnp.float32(1), jnp.float32(1))
    assert solution.status == Status.SOLVED
    np.testing.assert_allclose(solution.value / s, exact.value, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(of_x / s, exact_of_x, rtol=2e-5, atol=1e-7)


def test_a_guess_of_another_precision():
    layer = MonotoneEquilibrium(3, 4, key=KEY, dtype=jnp.float32)
    x = jnp.ones(3, jnp.float32)
    guessed = layer(x, init=jnp.ones(4, jnp.float64))
    assert guessed.dtype == jnp.float32
    np.testing.assert_allclose(guessed, layer(x), atol=1e-5)


def test_a_shape_may_be_a_list():
    deq = Equilibrium(lambda z, x: z / 2 + x, [2])
    start = jnp.full(2, 2.0)
    np.testing.assert_allclose(deq(1.0, init=start), [2.0, 2.0], rtol=1e-5)
