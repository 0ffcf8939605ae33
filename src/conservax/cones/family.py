"""The order of data: what a field of ``Cones`` says of the cones of one kind, and of their rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError
from .block import Block
from .cone import Cone, integer
from .constraint import Constraint


@dataclass(frozen=True)
class Family(ABC):
    """The cones of one kind in a product; the value of its field is ``nothing`` where there are none.

    Attributes:
        blocks: of a value, what stands side by side in the rows, in their order.
        member: of a single cone, what it adds to the value; None if it is not exactly of this kind: a
            subclass may be another set.
        constraints: of a value, one for each cone or row, the first row being 0.
        scs, cvxpy: the kind's name in the data of SCS, and in the dimensions of CVXPY; None if it has none.
        polyhedral, symmetric: what all its cones are.
    """

    blocks: Callable[[Any], Sequence[Block]]
    member: Callable[[Cone], Any]
    constraints: Callable[[Any], list[Constraint]]
    scs: str | None = None
    cvxpy: str | None = None
    polyhedral: bool = False
    symmetric: bool = True

    @abstractmethod
    def checked(self, name: str, value: Any) -> Any:
        """The value as it is kept; InvalidInputError names the field."""

    @abstractmethod
    def joined(self, members: list[Any]) -> Any:
        """The value of several members in a row."""

    def read(self, value: Any) -> Any:
        """The value of CVXPY's dimension."""
        return int(value)

    def for_scs(self, value: Any) -> Any:
        """The value as SCS takes it."""
        return value


@dataclass(frozen=True)
class Counted(Family):
    """The value is how many there are."""

    def checked(self, name: str, value: Any) -> int:
        return integer(name, value, 0)

    def joined(self, members: list[Any]) -> int:
        return sum(members)


@dataclass(frozen=True)
class Sized(Family):
    """The value is a list of sizes, one for each cone."""

    def checked(self, name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Sequence):
            raise InvalidInputError(
                f"{name} is a list of sizes, one per cone; got {value!r}. For one cone write "
                f"{name}=({value!r},)."
            )
        return tuple(integer(name, size, 1) for size in value)

    def joined(self, members: list[Any]) -> tuple[Any, ...]:
        return tuple(members)

    def read(self, value: Any) -> tuple[Any, ...]:
        return tuple(int(size) for size in value)

    def for_scs(self, value: Any) -> list[Any]:
        return list(value)


def rows_alone(kind: type[Constraint], name: str, count: int) -> list[Constraint]:
    """So many constraints of a row each."""
    return [kind(name, number, 1, slice(number, number + 1)) for number in range(count)]


def one_by_one(
    made: Callable[[int, int, int], Constraint], sizes: Sequence[int]
) -> list[Constraint]:
    """``made(number, size, start)`` for each size, one after the other."""
    found: list[Constraint] = []
    for number, size in enumerate(sizes):
        found.append(made(number, size, found[-1].rows.stop if found else 0))
    return found
