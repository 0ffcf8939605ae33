"""The table of cones: each kind says the same of its rows, whoever asks, and a kind can be added."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from conservax.cones import (
    Cones,
    Exponential,
    NonNegative,
    PositiveSemidefinite,
    Power,
    SecondOrder,
    Zero,
)
from conservax.cones.kinds.orthant import NONNEGATIVE
from conservax.cones.table import families
from conservax.errors import InvalidInputError
from conservax.programs import ConeProgram

FULL = Cones(1, 2, (1, 3, 3, 4), (1, 2, 2), 2, 1, (0.3, 0.6, -0.2, 0.5))
MEMBERS = {
    "zero": (Zero(2), 2),
    "nonnegative": (NonNegative(2), 2),
    "second_order": (SecondOrder(4), 4),
    "semidefinite": (PositiveSemidefinite(3), 3),
    "exponential": (Exponential(), 1),
    "dual_exponential": (Exponential().dual(), 1),
    "power": (Power(0.3).dual(), -0.3),
}


def test_blocks_and_constraints_cover_the_same_rows():
    assert [piece.rows.stop for piece in FULL.pieces][-1] == FULL.size == 42
    for parts in (FULL.pieces, FULL.constraints):
        rows = np.concatenate([np.arange(FULL.size)[part.rows] for part in parts])
        assert rows.tolist() == list(range(FULL.size))
    for block, rows in FULL.pieces:
        assert rows.stop - rows.start == block.size
        own = [part for part in FULL.constraints if rows.start <= part.rows.start < rows.stop]
        assert len(own) == block.count


def test_kinds_and_numbers_of_constraints():
    found = [(part.kind, part.number) for part in FULL.constraints if "power" in part.kind]
    named = [("power cone", k) for k in range(3)]
    assert found == [*named[:2], ("dual power cone", 0), named[2]]
    assert FULL.largest_order == 4
    assert Cones(zero=1, nonnegative=3).largest_order == 0


@pytest.mark.parametrize("name", MEMBERS)
def test_a_cone_is_a_member_of_one_kind(name):
    cone, value = MEMBERS[name]
    told = {kind: family.member(cone) for kind, family in families().items()}
    assert {kind: own for kind, own in told.items() if own is not None} == {name: value}
    assert Cones(**{name: families()[name].joined([value])}).size == cone.size


def test_rows_by_what_they_are():
    assert FULL.rows_of(polyhedral=True, equations=True).tolist() == [0]
    assert FULL.rows_of(polyhedral=True).tolist() == [1, 2, 3, 14]  # with the cones of one row
    assert len(FULL.rows_of(polyhedral=False)) == FULL.size - 5


UNNAMED = replace(NONNEGATIVE, scs=None, polyhedral=False, symmetric=False)


@dataclass(frozen=True)
class Wider(Cones):
    """With a second kind of non-negative rows, which SCS has no name for."""

    more: int = field(default=0, metadata={"family": UNNAMED})


def test_a_kind_can_be_added():
    p, eye = np.array([1.0, -2.0, 3.0]), np.eye(3)
    found = ConeProgram(Wider(nonnegative=1, more=2))(eye, -p, -eye, np.zeros(3))
    np.testing.assert_allclose(found.primal, np.maximum(p, 0), atol=1e-9)
    assert [part.kind for part in Wider(nonnegative=1, more=2).constraints] == ["inequality"] * 3
    with pytest.raises(InvalidInputError, match="SCS has no more cones"):
        ConeProgram(Wider(more=3), solver="scs")(eye, -p, -eye, np.zeros(3))
