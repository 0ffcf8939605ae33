"""Implicit functions inside a program: how the calculus finds the residual behind a solve.

``custom_root`` hides its optimality function in a custom derivative rule. It also leaves a record
here, under the name that its traced call carries, so that the residual can join the lifted system
(Proposition 2 with Theorem 2 of Bolte, Le, Pauwels, Silveti-Falls 2021).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

_CAPACITY = 256  # a record is read while the program that holds the solve is planned, soon after
_RECORDS: "OrderedDict[str, Root]" = OrderedDict()
_NUMBERS = count()


@dataclass(frozen=True)
class Root:
    """A solve: ``residual()`` traces F(*solution leaves, *kept inputs) to a closed jaxpr, flat.

    ``unknowns``: how many numbers the solution holds, in ``leaves`` arrays, the call's first
    results; ``inputs``: which operands of the call the residual reads, in order.
    """

    residual: Callable[[], Any]
    unknowns: int
    leaves: int
    inputs: tuple[int, ...]


def record(root: Root) -> str:
    """Remember a solve; returns the name its traced call must carry. Old records are dropped."""
    name = f"conservax_root_{next(_NUMBERS)}"
    _RECORDS[name] = root
    while len(_RECORDS) > _CAPACITY:
        _RECORDS.popitem(last=False)
    return name


def find(name: str) -> Root | None:
    """The solve recorded under a call's name, or None."""
    return _RECORDS.get(name)
