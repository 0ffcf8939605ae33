"""The bilevel problem through a cone program, beside the closed form."""

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.reproduce import bilevel, bilevel_cone


def test_gradient_of_the_objective():
    constants = bilevel.published_constants()
    points = jnp.array([[3.0, 1.0], [0.5, 2.0], [1.0, 1.5], [-1.0, 0.2]])
    gradients, verdicts = jax.vmap(
        lambda u: jax.grad(bilevel_cone.objective, has_aux=True)(u, constants)
    )(points)
    far = np.array([bilevel.side(u, constants) > 0 for u in points])
    corners = np.where(far[:, None], np.array([3.0, 5.0]), 0.0)
    expected = 2 * np.array([1.0, 4.0]) * (np.asarray(points) - corners)
    np.testing.assert_allclose(gradients, expected, atol=1e-12)
    assert np.all(np.asarray(verdicts) == cx.Verdict.PROVEN)
