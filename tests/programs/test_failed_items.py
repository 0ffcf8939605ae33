"""An infeasible item adds nothing to the gradient of what all items share, where no loss looks at it."""

import jax
import jax.numpy as jnp
import numpy as np

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


def weighted(keep, *data):
    x = QuadraticProgram()(*data).primal
    return jnp.sum(jnp.sin(jnp.where(keep, x, 0.0)) * WEIGHTS)


def expected():
    """Of item 0, x = (0.3, 0.7): from its KKT matrix, by hand."""
    x, u = np.array([0.3, 0.7]), np.cos([0.3, 0.7]) * WEIGHTS
    K = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    *p, w = np.linalg.solve(K, [*u, 0.0])
    y = -0.4  # x + q + y = 0
    return (
        -(np.outer(p, x) + np.outer(x, p)) / 2,
        -np.array(p),
        -(y * np.array([p]) + w * x[None]),
        np.array([w]),
        np.zeros((2, 2)),
        np.zeros(2),
    )


def test_the_gradient_is_that_of_the_items_the_loss_looks_at():
    @jax.jit
    def both(data):
        keep = jnp.array([[[True], [False], [False]], [[True], [True], [False]]])
        return jax.vmap(lambda k: jax.grad(weighted, tuple(range(1, 7)))(k, *data))(keep)

    found = jax.tree.map(np.asarray, both(tuple(map(jnp.asarray, DATA))))
    for place, (slopes, truth) in enumerate(zip(found, expected(), strict=True)):
        masked, unmasked = slopes
        if place == 3:
            np.testing.assert_array_equal(masked[1:], 0.0)
            masked = masked[0]
            np.testing.assert_allclose(unmasked[0], truth, atol=1e-9)
            assert np.isnan(unmasked[1])
            assert unmasked[2] == 0
        else:
            assert np.all(np.isnan(unmasked))
        np.testing.assert_allclose(masked, truth, atol=1e-9)


def test_second_derivatives_and_the_forward_mode():
    along = jnp.array([0.3, 0.7])
    keep = jnp.array([[True], [False], [False]])

    @jax.jit
    def twice(q, b):
        def slope(q):
            return jax.grad(lambda q: weighted(keep, DATA[0], q, DATA[2], b, *DATA[4:]))(q)

        return slope(q), jax.grad(lambda q: slope(q) @ along)(q), jax.jvp(slope, (q,), (along,))[1]

    slope, reverse, forward = map(np.asarray, twice(*map(jnp.asarray, (DATA[1], DATA[3]))))
    np.testing.assert_allclose(slope, expected()[1], atol=1e-9)
    # x moves by −d dᵀ q/2, d = (1, −1): the Hessian of the loss along it is dᵀ diag(−sin x · w) d
    d = np.array([1.0, -1.0])
    hessian = np.outer(d, d) / 4 * np.sum(-np.sin([0.3, 0.7]) * np.asarray(WEIGHTS))
    np.testing.assert_allclose(reverse, hessian @ along, atol=1e-9)
    np.testing.assert_allclose(forward, hessian @ along, atol=1e-9)


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


def test_items_of_any_size_that_nobody_looks_at_change_no_gradient():
    """min ½xᵀQx + cᵀx over x₁ + x₂ = b, x ≥ 0, for b = 1 and some b that is masked: x = (½, ½)."""
    A, seen = np.array([[1.0, 1.0]]), np.array([True, False])

    @jax.jit
    def gradients(other):
        def loss(c, Q):
            b = jnp.stack([jnp.ones(1), other[None]])
            x = QuadraticProgram()(Q, c, A, b, -np.eye(2), np.zeros(2)).primal
            return jnp.sum(jnp.where(seen[:, None], x * np.array([1.0, 2.0]), 0))

        return jax.grad(loss, (0, 1))(jnp.zeros(2), jnp.eye(2))

    for other in (-1.0, np.nan, np.inf, -np.inf, 1e200, 1e300):
        c, Q = gradients(other)
        np.testing.assert_allclose(c, [0.5, -0.5], atol=1e-12)
        np.testing.assert_allclose(Q, [[0.25, 0], [0, -0.25]], atol=1e-12)
