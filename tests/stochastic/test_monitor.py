"""The monitor's record of criticality along training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx


def loss(w, target):
    return jnp.abs(w[0] - target) + 0.5 * w[1] ** 2


def test_distances_are_those_of_the_closed_form():
    watch = cx.monitor(loss, every=2, criticality=True)
    for step, w in enumerate([[3.0, 1.0], [9.0, 9.0], [1.0, 0.5], [9.0, 9.0], [1.0, 0.0]]):
        assert watch(step, jnp.array(w), 1.0) == ()
    # (sign(w₀ − 1), w₁); at w₀ = 1 the first entry is all of [−1, 1]
    expected = [np.sqrt(2), 0.5, 0.0]
    assert [c.step for c in watch.criticality] == [0, 2, 4]
    np.testing.assert_allclose([c.distance for c in watch.criticality], expected, atol=1e-12)
    assert [c.kinks for c in watch.criticality] == [0, 1, 1]
    assert watch.kink_share == pytest.approx(2 / 3)
    assert str(watch) == "criticality: 3 steps, dist(0, conv D) 1.41 → 0, 67% at a kink"
    figure = watch.plot()
    assert len(figure.axes) == 2


def test_solves_are_watched_beside_it():
    @cx.custom_fixed_point(lambda z, a: jnp.tanh(z / 2 + a))
    def solve(init, a):
        return jax.lax.fori_loop(0, 60, lambda i, z: jnp.tanh(z / 2 + a), init)

    watch = cx.monitor(lambda a: solve(0.0, a) ** 2, criticality=True)
    (seen,) = watch(0, 0.3)
    assert seen.verdict == cx.Verdict.PROVEN
    assert watch.criticality[0].kinks == 0
    assert "criticality: 1 steps" in str(watch)


def test_without_it_nothing_changes():
    watch = cx.monitor(loss)
    with pytest.raises(cx.errors.InvalidInputError, match="no solve"):
        watch(0, jnp.ones(2), 1.0)
    assert watch.criticality == []
    assert np.isnan(watch.kink_share)
