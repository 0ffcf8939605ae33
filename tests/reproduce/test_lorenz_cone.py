"""The quartic inner problem as a cone program: solved to round-off, refuted, not differentiated."""

import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.reproduce import lorenz, lorenz_cone


def test_data_state_the_quartic():
    # at any s the least feasible t is ‖s − F‖², and the objective t²
    rng = np.random.default_rng(0)
    target, s = rng.normal(size=3), rng.normal(size=3)
    P, c, A, b = (np.asarray(part) for part in lorenz_cone.inner_data(jnp.asarray(target)))
    t = np.sum((s - target) ** 2)
    z = np.append(s, t)
    slack = b - A @ z
    np.testing.assert_allclose(slack[0], np.linalg.norm(slack[1:]))
    np.testing.assert_allclose(z @ P @ z / 2 + c @ z, t**2)


def test_solved_refuted_and_no_number():
    points = jnp.array([lorenz.START, (2.0, -1.0, 20.0)])
    gradients, solution = lorenz_cone.ask(points, jnp.ones((1, 3)))
    targets = np.array([lorenz.field(u) for u in points])
    np.testing.assert_allclose(solution.primal[:2, :3], targets, rtol=1e-7)
    np.testing.assert_allclose(solution.primal[2, :3], 1.0, rtol=1e-7)
    assert np.all(np.asarray(solution.info.verdict) == cx.Verdict.REFUTED)
    assert np.all(np.isnan(gradients))
