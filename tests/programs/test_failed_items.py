"""An infeasible item adds nothing to the gradient of what all items share, where no loss looks at it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.programs import QuadraticProgram

DATA = (
    np.eye(2),
    np.array([0.1, -0.3]),
    np.ones((1, 2)),
    np.array([[1.0], [-1.0], [np.nan]]),  # no x ≥ 0 adds up to −1
    -np.eye(2),
    np.zeros(2),
)
WEIGHTS = jnp.array([1.0, 2.0])


def loss_of(keep):
    def loss(*data):
        x = QuadraticProgram()(*data).primal
        return jnp.sum(jnp.sin(jnp.where(keep, x, 0.0)) * WEIGHTS)

    return loss


@pytest.fixture(scope="module")
def gradients():
    everything = tuple(range(6))
    items = jnp.array([[True], [False], [False]])
    single = (*DATA[:3], DATA[3][0], *DATA[4:])

    @jax.jit
    def all_of(data, single):
        loss, alone = loss_of(items), loss_of(True)
        masked = jax.grad(loss, everything)
        along = jnp.array([0.3, 0.7])
        twice = jax.grad(lambda q: jax.grad(loss, 1)(data[0], q, *data[2:]) @ along)
        twice_alone = jax.grad(lambda q: jax.grad(alone, 1)(single[0], q, *single[2:]) @ along)
        return (
            masked(*data),
            jax.grad(alone, everything)(*single),
            jax.grad(loss_of(jnp.array([[True], [True], [False]])), everything)(*data),
            jax.jacfwd(loss, 1)(*data),
            (twice(data[1]), twice_alone(single[1])),
        )

    return jax.tree.map(np.asarray, all_of(DATA, single))


def test_the_gradient_is_that_of_the_item_the_loss_looks_at(gradients):
    masked, alone, _, forward, twice = gradients
    for place, (found, expected) in enumerate(zip(masked, alone, strict=True)):
        if place == 3:
            np.testing.assert_array_equal(found[1:], 0.0)
            found = found[0]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(forward, alone[1], atol=1e-12)
    np.testing.assert_allclose(twice[0], twice[1], atol=1e-12)
    # x = (0.3, 0.7) moves along (1, −1)/2 with q₂ − q₁
    slope = np.cos(0.3) - 2 * np.cos(0.7)
    np.testing.assert_allclose(alone[1], [-slope / 2, slope / 2], atol=1e-9)


def test_a_loss_that_looks_at_it_is_nan(gradients):
    for place, found in enumerate(gradients[2]):
        if place == 3:
            assert np.isfinite(found[0])
            assert np.isnan(found[1])
            assert found[2] == 0
        else:
            assert np.all(np.isnan(found))


def test_projections_onto_an_empty_polyhedron():
    """In a batch of points and bounds, of which the second bound is below zero."""

    def loss(x, G, keep):
        h = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
        p = cx.projections.projection_polyhedron(x, (None, None, G, h))
        return jnp.sum(jnp.where(keep, p, 0.0) * WEIGHTS)

    x = jnp.array([[1.0, 0.8], [1.0, 1.0]])
    G = jnp.array([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))
    of_x, of_G = slopes(x, G, jnp.array([[True], [False]]))
    np.testing.assert_allclose(of_x, [[-0.5, 0.5], [0.0, 0.0]], atol=1e-9)
    assert np.all(np.isfinite(of_G))
    of_x, _ = slopes(x, G, jnp.array([[True], [True]]))
    np.testing.assert_allclose(of_x[0], [-0.5, 0.5], atol=1e-9)
    assert np.all(np.isnan(of_x[1]))
