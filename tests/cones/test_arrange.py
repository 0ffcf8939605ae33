"""Cones in any order: the rows that belong together stay together."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax import cones
from conservax.errors import InvalidInputError
from conservax.programs import ConeProgram, Cones, arrange

SORTED = [  # as ``Cones`` has them
    cones.Zero(2),
    cones.NonNegative(2),
    cones.SecondOrder(3),
    cones.PositiveSemidefinite(2),
    cones.Exponential(),
    cones.Exponential().dual(),
    cones.Power(0.3),
    cones.Power(0.6).dual(),
]


@given(st.permutations(range(len(SORTED))), st.integers(0, 7), st.integers(0, 99))
def test_rows_follow_their_cones(order, split, seed):
    """The projection onto the product, cone by cone, is the same in both orders."""
    mine = [SORTED[k] for k in order]
    nested = [cones.Product(*mine[:split]), *mine[split:]]
    found, rows = arrange(*nested)
    assert found == Cones(2, 2, (3,), (2,), 1, 1, found.power)
    assert sorted(found.power) == [-0.6, 0.3]
    assert sorted(rows.tolist()) == list(range(found.size))
    # rows of each cone, in the new order, are those of a block of ``Cones``
    starts = np.cumsum([0, *(cone.size for cone in mine)])
    powers = [k for k in order if k > 5]
    expected = [*range(6), *powers]
    blocks = [np.arange(starts[order.index(k)], starts[order.index(k) + 1]) for k in expected]
    np.testing.assert_array_equal(rows, np.concatenate(blocks))


def test_a_projection_solved_as_a_program_is_the_projection():
    mine = [
        cones.Exponential(),
        cones.NonNegative(2),
        cones.Power(0.3),
        cones.Zero(1),
        cones.SecondOrder(3),
    ]
    K, (found, rows) = cones.Product(*mine), arrange(*mine)
    v = np.random.default_rng(0).normal(size=K.size)
    eye = np.eye(K.size)
    x = ConeProgram(found)(eye, -v, -eye[rows], np.zeros(K.size))
    np.testing.assert_allclose(x.primal, K.project(jnp.array(v)), atol=1e-9)
    # the dual in the order of mine: x − v, the projection of −v onto the dual
    own = x.dual[np.argsort(rows)]
    np.testing.assert_allclose(own, K.dual().project(jnp.array(-v)), atol=1e-8)


def test_what_is_no_cone_of_a_program():
    with pytest.raises(InvalidInputError, match=r"Free\(length=2\) is no cone of a program"):
        arrange(cones.Zero(1), cones.Free(2))
    assert arrange().cones == Cones()
