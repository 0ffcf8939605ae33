"""Exponential and power cones: one projection for two engines, and how far their normals turn."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.cones import Cones
from conservax.cones.kinds.exponential import ExponentialBlock
from conservax.cones.kinds.power import PowerBlock


@pytest.mark.parametrize("alpha", [None, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("dual", [False, True])
def test_curved_cones_are_those_of_the_traced_ones(alpha, dual):
    rng = np.random.default_rng(0)
    v = rng.normal(size=(400, 3)) * 10.0 ** rng.uniform(-3, 3, size=(400, 1))
    v[::11], v[1::13, 2], v[2::13, 0] = np.round(v[::11]), 0.0, 0.0
    limit = np.full((400, 3), 1e-9)
    block = ExponentialBlock(1, dual) if alpha is None else PowerBlock((alpha,), dual)
    traced = jax.jit(lambda v, t: block.elements(v, t, t))(v, limit)
    found = block.elements(v, limit, limit)
    np.testing.assert_array_equal(found[3], traced[3])
    for k in (1, 2):
        elements = (
            np.einsum("nij,nj,nkj->nik", T[:, 0], d, T[:, 0])
            for T, d in ((np.asarray(traced[0]), np.asarray(traced[k])), (found[0], found[k]))
        )
        np.testing.assert_allclose(*elements, atol=1e-11)


@settings(max_examples=200)
@given(
    st.sampled_from([None, 0.1, 0.5, 0.7]),
    st.booleans(),
    st.lists(st.floats(0.01, 9.0), min_size=3, max_size=3),
    st.floats(1e-6, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_no_normal_turns_further_than_its_bound(alpha, ray, size, error, seed):
    """Against normals at random points of the ball."""
    rng = np.random.default_rng(seed)
    v = np.array(size) * (1, 1, rng.choice([-1, 1])) * (-1 if ray and alpha else 1)
    if alpha is None:
        v[0 if not ray else 1] *= rng.choice([-1, 1])
    around = rng.normal(size=(200, 3))
    around *= error / np.linalg.norm(around, axis=1, keepdims=True)

    def axis(w):
        if alpha is None:
            q = 1 - w[1] / w[0] if ray else w[0] / w[1]
            power, one = np.exp(min(q, 0)), np.exp(-max(q, 0))  # e^q and 1, in units of the greater
            axis = np.array([q * one, one, power] if ray else [power, (1 - q) * power, -one])
        else:
            height = abs(w[2])
            axis = np.array([alpha * height / w[0], (1 - alpha) * height / w[1], -np.sign(w[2])])
        return axis / np.linalg.norm(axis)

    cones = Cones(dual_exponential=1) if alpha is None else Cones(power=(-alpha,))
    bound = cones.constraints[0].turn(v, error, ray)
    assert bound > 0
    if np.isfinite(bound):
        farthest = max(np.linalg.norm(axis(v + d) - axis(v)) for d in around)
        assert farthest <= bound * (1 + 1e-9)
