"""What planning offers to operations, calls and loops: the contract of the planner (``passes/planning.py``)."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .locations import Location
from .program import Block, Info, Scope, Site, Step


class Planner(Protocol):
    """One walk over a traced program; ``late``: its second reading, in which sides meet as late as they can."""

    late: bool
    groups: bool  # sums put together what one comparison tears (passes/grouping.py)
    torn_sums: bool
    places: int  # up to which the tape tells integers apart
    sort_rounds: int
    sites: list[Site]
    given_rules: list[tuple[str, Location]]
    modes: set[str]
    comparisons: dict[Any, int]
    comparison_numbers: "itertools.count[int]"
    compared_sides: dict[int, set[str]]  # where equality stands, in all that are one comparison

    def number(self, key: Any) -> int:
        """The number of what ``key`` describes: equal keys, equal values."""
        ...

    def fresh(self) -> int:
        """A number that nothing else has."""
        ...

    def apart(self) -> AbstractContextManager[None]:
        """Blocks that run with a tape of their own share no comparison with what is outside."""
        ...

    def block(
        self,
        closed: Any,
        in_infos: Sequence[Info],
        scope: Scope,
        start: int,
        out_felt: Sequence[bool] | None = None,
        *,
        whole: bool = False,
    ) -> tuple[Block, list[Info]]:
        """Plan one jaxpr; its block and what is known of its outputs."""
        ...

    def expanded(
        self,
        step: Step,
        program: Callable[..., Any],
        operands: Sequence[Info],
        scope: Scope,
        at: int,
    ) -> list[Info]:
        """An operation that is a program of simpler ones, planned in its place."""
        ...

    def add_site(
        self,
        step: Step,
        operation: str,
        kind: str,
        shape: tuple[int, ...],
        slopes: tuple[float, float] | None,
        scope: Scope,
        at: int,
    ) -> None:
        """Give a group of kinks its slots."""
        ...

    def watch(self, step: Step, edges: Sequence[Any], scope: Scope, at: int) -> None:
        """Give the edges of a smooth operation their sites."""
        ...

    def mend(self, step: Step, operands: Sequence[Info], scope: Scope, at: int) -> list[Info]:
        """Turn torn operands into single values, whose two sides must agree where they meet."""
        ...
