"""Cones in any order: the rows that belong together stay together."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax import cones
from conservax.cones.constraint import Constraint
from conservax.cones.family import Counted, rows_alone
from conservax.cones.kinds.orthant import OrthantBlock
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


class Upside(cones.NonNegative):
    """{s ≤ 0}: another set than its parent."""

    def project(self, v):
        return -super().project(-v)


class Flat(cones.Exponential):
    """A subclass of a cone that has a dual among the kinds."""


class Pair(cones.Product):
    """A subclass of a product."""


@pytest.mark.parametrize(
    "cone",
    [Upside(2), cones.Dual(Upside(2)), Flat(), cones.Dual(Flat()), Pair(cones.Zero(1))],
    ids=repr,
)
def test_a_subclass_is_not_taken_for_its_parent(cone):
    with pytest.raises(InvalidInputError, match="not subclasses"):
        arrange(cones.Zero(1), cone)


COUNT = Counted(
    blocks=lambda count: [OrthantBlock(count)],
    member=lambda cone: cone.length if type(cone) is Upside else None,
    constraints=lambda count: rows_alone(Constraint, "ceiling", count),
)


@dataclass(frozen=True)
class More(Cones):
    upside: int = field(default=0, metadata={"family": COUNT})


def test_a_table_of_ones_own_has_its_kinds():
    found, rows = arrange(Upside(2), cones.NonNegative(1), cones.Dual(cones.Power(0.3)), table=More)
    assert found == More(nonnegative=1, power=(-0.3,), upside=2)
    assert rows.tolist() == [2, 3, 4, 5, 0, 1]


@pytest.mark.parametrize("kind", [cones.Zero, cones.Free, cones.NonNegative, cones.SecondOrder])
@pytest.mark.parametrize("size", [-1, 2.5, True, "2"])
def test_sizes_are_integers(kind, size):
    with pytest.raises(InvalidInputError, match=r"length takes integers ≥ 0"):
        kind(size)
    with pytest.raises(InvalidInputError, match=r"order takes integers ≥ 1"):
        cones.PositiveSemidefinite(size)


@pytest.mark.parametrize(
    "cone", [*SORTED, cones.Free(2), cones.Product(cones.Zero(1), cones.SecondOrder(3))], ids=repr
)
def test_points_of_another_space_are_refused(cone):
    for shape in ((cone.size + 1,), (2, cone.size), ()):
        for method in (cone.project, cone.clarke):
            with pytest.raises(InvalidInputError, match="entries in all"):
                method(jnp.ones(shape))
    mapped = jax.vmap(cone.project)(jnp.ones((2, cone.size)))
    np.testing.assert_array_equal(mapped[0], cone.project(jnp.ones(cone.size)))
