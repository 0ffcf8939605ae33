"""Implicit functions inside a program: how the calculus finds the residual behind a solve.

``custom_root`` hides its optimality function in a custom derivative rule. It also leaves a record
here, under the name that its traced call carries, so that the residual can join the lifted system
(Proposition 2 with Theorem 2 of Bolte, Le, Pauwels, Silveti-Falls 2021).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
from jax.extend import core as jex_core

_CAPACITY = 256  # a record is read while the program that holds the solve is planned, soon after
_RECORDS: "OrderedDict[str, Root]" = OrderedDict()
_NUMBERS = count()


@dataclass(frozen=True)
class Root:
    """A solve: ``residual()`` traces F(*solution leaves, *kept inputs) to a closed jaxpr, flat.

    ``leaves``: how many arrays hold the solution, the call's first results; ``inputs``: which
    operands of the call the residual reads, in order; ``hidden``: the residual is the library's own,
    and its kinks are reported where the solve is called.
    """

    residual: Callable[[], Any]
    leaves: int
    inputs: tuple[int, ...]
    hidden: bool = False

    def residual_of(self, avals: Sequence[Any]) -> Any | None:
        """The residual for a call with these solution leaves and kept inputs: mapped, if they are.

        Where ``vmap`` put its axis is read off the shapes; if several places fit, it is the first, and
        the residual at the solution tells whether that was right. None for a vmap within a vmap.
        """
        closed = self.residual()
        wanted = [v.aval.shape for v in closed.jaxpr.invars]
        given = [a.shape for a in avals]
        if given == wanted:
            return closed
        sizes = {s for got, base in zip(given, wanted, strict=True) for s in got if got != base}
        for size in sorted(sizes):
            axes = [_mapped_axis(*shapes, size) for shapes in zip(given, wanted, strict=True)]
            if -1 not in axes and None not in axes[: self.leaves]:
                mapped = jax.vmap(jex_core.jaxpr_as_fun(closed), in_axes=tuple(axes))
                shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
                return jax.make_jaxpr(mapped)(*shapes)
        return None


def _mapped_axis(shape: tuple[int, ...], base: tuple[int, ...], size: int) -> int | None:
    """The axis of length ``size`` without which ``shape`` is ``base``; None if it is so already, else −1."""
    if shape == base:
        return None
    places = (i for i, n in enumerate(shape) if n == size and shape[:i] + shape[i + 1 :] == base)
    return next(places, -1)


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
