"""The walk behind ``definability``: what is known of every value of a program, one equation at a time.

Nothing is executed. Each value carries its range, its dictionary, the faults (places that may not be
Lipschitz) and the switches (comparisons at which it may jump) on the way to it; what no output needs
therefore does not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core

from ..tracing.jaxprs import opened
from ..tracing.locations import Location, defined_in_library, locate
from . import ranges as rg
from .dictionaries import join
from .ranges import Range
from .switches import Expressions, Switch


class Offence(NamedTuple):
    """An operation, its place as file:line, and why it is named."""

    operation: str
    place: str
    why: str


@dataclass(frozen=True)
class Known:
    """What is known of one value.

    ``number``: of its expression; ``faults``: numbers of offences, each with the mask of the entries
    concerned (None: any); ``notes``, ``solves``: numbers of what is to be named with it; ``tears``: the
    switches at which it may jump; ``rootable``: √ of it is Lipschitz (a sum of squares); ``follows``:
    of indices, the array in whose order they are and the fault that this undoes; ``parts``: of
    conditions side by side, the axis and each of them.
    """

    range: Range
    number: int
    varied: bool = False
    dictionary: str = "ALG"
    faults: Mapping[int, np.ndarray | None] = field(default_factory=dict)
    notes: frozenset[int] = frozenset()
    solves: frozenset[int] = frozenset()
    tears: frozenset[Switch] = frozenset()
    rootable: bool = False
    follows: tuple[int, int] | None = None
    parts: tuple[int, tuple["Known", ...]] | None = None

    @property
    def sound(self) -> bool:
        """Whether the value is Lipschitz on the way so far."""
        return not self.faults and not self.tears


class Walk:
    """One walk over a closed jaxpr with ranges for its inputs."""

    def __init__(
        self,
        closed: Any,
        ranges: Sequence[Range],
        varied: Sequence[bool],
        leaves: Sequence[Any],
        precision: float,
    ) -> None:
        self.expressions = Expressions(precision)
        self._offences: list[Offence] = []
        self._outside: dict[Offence, None] = {}
        self._causes: dict[int, list[tuple[int, Any]]] = {}
        self.budget = 20_000  # equations; beyond it loops are no longer written out
        inputs = [
            Known(
                r, self.expressions.opaque(np.shape(leaf)) if v else self.expressions.array(leaf), v
            )
            for r, v, leaf in zip(ranges, varied, leaves, strict=True)
        ]
        with np.errstate(all="ignore"):
            self.outputs = [self.whole(o) for o in self.run(closed, inputs)]

    def run(self, closed: Any, inputs: Sequence[Known], call: Any = None) -> list[Known]:
        """Walk a jaxpr; ``call`` is the equation to report for what JAX wrote inside."""
        from .rules import step

        jaxpr, consts = opened(closed)
        found: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
        found |= {v: self.constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Known:
            return self.constant(atom.val) if isinstance(atom, jex_core.Literal) else found[atom]

        for eqn in jaxpr.eqns:
            self.budget -= 1
            values = [read(a) for a in eqn.invars]
            found |= zip(eqn.outvars, step(self, eqn, values, call), strict=True)
        return [read(v) for v in jaxpr.outvars]

    def called(self, body: Any, eqn: Any, values: Sequence[Known], call: Any) -> list[Known]:
        """The body of a call, in its place."""
        inside = call or (eqn if defined_in_library(opened(body)[0]) else None)
        return self.run(body, values, inside)

    def constant(self, value: Any) -> Known:
        """A known array."""
        try:
            known = rg.point(value)
            number = self.expressions.array(value)
        except (TypeError, ValueError):  # a key of the random number generator
            known, number = rg.ALL, self.expressions.opaque(())
        return Known(known, number, rootable=known.exceeds(0, or_equal=True))

    def offence(self, operation: str, where: Any, why: str) -> int:
        """The number of an offence, one for each operation, line and reason."""
        place = where if isinstance(where, Location) else locate(where)
        made = Offence(operation, place.short, why)
        if made not in self._offences:
            self._offences.append(made)
        return self._offences.index(made)

    def outside_of(self, operation: str, where: Any, why: str) -> None:
        """Remember an operation that is definable on bounded sets only, or not known to be."""
        self._outside[Offence(operation, locate(where).short, why)] = None

    def remember(self, fault: int, number: int, good: Any) -> None:
        """A cause of a fault: the operand that leaves the domain, and a test of smaller ranges of it."""
        self._causes.setdefault(fault, []).append((number, good))

    def implied(self, condition: int, truth: bool) -> list[tuple[int, Range]]:
        """What a condition says of the values that it compares with constants, on the closed side."""
        e = self.expressions[condition]
        if e.operation == "not":
            return self.implied(e.operands[0], not truth)
        if e.operation == ("and" if truth else "or"):
            return [told for n in e.operands for told in self.implied(n, truth)]
        if e.operation not in ("gt", "ge", "lt", "le") or len(e.operands) != 2:
            return []
        left, right = e.operands
        upwards = (e.operation[0] == "g") == truth
        if self.expressions[left].constant is not None:
            left, right, upwards = right, left, not upwards
        level = self.expressions[right].constant
        if level is None:
            return []
        ends = (level, np.inf) if upwards else (-np.inf, level)
        return [(left, Range(np.asarray(ends[0]), np.asarray(ends[1]), not upwards, upwards))]

    def undone(self, fault: int, told: Sequence[tuple[int, Range]]) -> bool:
        """Whether every cause of a fault is excluded by what a condition says."""
        causes = self._causes.get(fault, [])
        known = dict(told)
        return bool(causes) and all(
            n in known and good is not None and bool(np.all(good(known[n]))) for n, good in causes
        )

    def whole(self, value: Known) -> Known:
        """The value where it can no longer heal: its switches become faults."""
        if not value.tears:
            return value
        faults = dict(value.faults) | {t.place: None for t in value.tears}
        return replace(value, faults=faults, tears=frozenset(), rootable=False)

    def combined(self, values: Sequence[Known]) -> Known:
        """All that operands hand on, masks dropped, range unknown."""
        values = [self.whole(v) for v in values]
        return Known(
            rg.ALL,
            0,
            any(v.varied for v in values),
            join(*(v.dictionary for v in values)),
            {
                n: None
                for v in values
                for n, mask in v.faults.items()
                if mask is None or np.any(mask)
            },
            frozenset().union(*(v.notes for v in values)),
            frozenset().union(*(v.solves for v in values)),
        )

    def _told(self, numbers: Any) -> tuple[Offence, ...]:
        return tuple(self._offences[n] for n in sorted(set(numbers)))

    def faults(self) -> tuple[Offence, ...]:
        """What keeps the outputs from being Lipschitz, in the order of the program."""
        return self._told(
            n for o in self.outputs for n, m in o.faults.items() if m is None or np.any(m)
        )

    def notes(self) -> tuple[Offence, ...]:
        return self._told(n for o in self.outputs for n in o.notes)

    def solves(self) -> tuple[Offence, ...]:
        return self._told(n for o in self.outputs for n in o.solves)

    def outside(self) -> tuple[Offence, ...]:
        """Operations that are outside every dictionary on unbounded sets."""
        bad = join(*(o.dictionary for o in self.outputs))
        return tuple(self._outside) if bad in ("BOUNDED", "UNKNOWN") else ()


def size_of(aval: Any) -> int:
    """The number of entries."""
    return int(np.prod(aval.shape))


def is_real(aval: Any) -> bool:
    """Whether the entries are real floating-point numbers."""
    return bool(jax.numpy.issubdtype(aval.dtype, np.floating))
