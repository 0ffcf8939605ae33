"""``definability``: which o-minimal dictionary a program lives in, and whether it is locally Lipschitz.

A definable, locally Lipschitz function is path differentiable (Davis, Drusvyatskiy, Kakade, Lee 2020),
which is the first hypothesis of every convergence theorem for nonsmooth training.
"""

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..numerics import machine_epsilon
from .definable.dictionaries import join
from .definable.entries import NOT_SHOWN
from .definable.jumps import jumps
from .definable.ranges import ALL, Range, around, point
from .definable.walk import Offence, Walk
from .tracing.invocation import Invocation, require_values

__all__ = ["Definability", "Offence", "definability"]

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Definability:
    """What a program is made of.

    Attributes:
        dictionary: "ALG", "AN", "EXP", "AN_EXP", "PFAFFIAN", "BOUNDED" (definable on bounded sets
            only) or "UNKNOWN".
        lipschitz: whether the program was shown to be Lipschitz on a neighbourhood of the point;
            False where an operation on the way to the result is not, or may not be.
        everywhere: the same at every point.
        offending: the operations that keep it from being definable, or Lipschitz at the point: each
            (operation, file:line, why).
        elsewhere: the operations that keep it from being Lipschitz at every point.
        unverified: derivative rules that the calculus has not derived itself: a user's own, and
            values kept from the derivative.
        solves: implicit functions inside; they are Lipschitz where their certificate is PROVEN.
        radius: half the width of the box of inputs for which ``lipschitz`` was shown.
        jumps: where the sides of a comparison were not shown to agree: whether the program was seen to jump,
            near the point or in a box of its size. False shows nothing.
    """

    dictionary: str
    lipschitz: bool
    everywhere: bool
    offending: tuple[Offence, ...]
    elsewhere: tuple[Offence, ...]
    unverified: tuple[Offence, ...]
    solves: tuple[Offence, ...]
    radius: float
    jumps: bool = False

    @property
    def definable(self) -> bool:
        """Whether the program is definable in one o-minimal structure, at least on bounded sets."""
        return self.dictionary != "UNKNOWN"

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON."""
        lists = ("offending", "elsewhere", "unverified", "solves")
        data = {n: [o._asdict() for o in getattr(self, n)] for n in lists}
        plain = {n: getattr(self, n) for n in ("dictionary", "lipschitz", "everywhere", "jumps")}
        radius = self.radius if np.isfinite(self.radius) else "inf"
        return {**plain, "radius": radius, **data}

    def __str__(self) -> str:
        here = (
            "locally Lipschitz at the point" if self.lipschitz else "not shown to be Lipschitz here"
        )
        where = " and everywhere" if self.lipschitz and self.everywhere else ""
        jump = " It was seen to jump." if self.jumps else ""
        blocks = [f"{_MEANING[self.dictionary]} ({self.dictionary}); {here}{where}.{jump}"]
        named = {
            "offending": self.offending,
            "at other points": () if self.lipschitz and self.everywhere else self.elsewhere,
            "taken as given": self.unverified,
            "implicit": self.solves,
        }
        for title, offences in named.items():
            for o in offences:
                line = f"  {title}: {o.operation} at {o.place}: {o.why}"
                blocks.append("\n".join(textwrap.wrap(line, _WIDTH, subsequent_indent="    ")))
        return "\n".join(blocks)


_MEANING = {
    "ALG": "Semialgebraic",
    "AN": "Globally subanalytic",
    "EXP": "Definable with exp",
    "AN_EXP": "Definable with exp and restricted analytic functions",
    "PFAFFIAN": "Definable in the Pfaffian closure",
    "BOUNDED": "Definable on bounded sets only",
    "UNKNOWN": "Not shown to be definable",
}


def _box(leaf: Any, half_width: float) -> Range:
    """The values near an argument; a complex one has no range."""
    if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        return ALL
    return around(np.asarray(leaf, np.float64), half_width)


def definability(fun: Callable[..., Any], *args: Any, radius: float | None = None) -> Definability:
    """Which o-minimal dictionary ``fun`` lives in, and whether it is locally Lipschitz at ``args``.

    Every operation of the program is looked up in the calculus' table: its dictionary, and the open set
    on which it is locally Lipschitz. Whether its operands stay in that set is shown by ranges, on a box
    around the point and for all inputs; whether the branches of a comparison agree at the switch, by
    simplifying both there. Where that does not show, the program is run along a few lines, for a jump.

    Args:
        fun: a function of arrays (pytrees); its floating-point arguments vary.
        args: the point.
        radius: half the width of the box around the point on which to show the Lipschitz property;
            by default √eps of the dtype times max(1, ‖args‖_∞). ``jnp.inf`` asks for every point.

    Returns:
        A Definability. ``lipschitz`` is True only if shown; it speaks of the function, whose automatic
        derivative may still be wrong where ``unverified`` names a line.

    Raises:
        InvalidInputError: NaN or traced arguments, or a radius that is not positive.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Appendix A.2; docs/training.md.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> report = cx.definability(lambda x: jnp.sum(jax.nn.softplus(x) + jnp.abs(x)), jnp.zeros(3))
    >>> report.dictionary, report.lipschitz, report.everywhere
    ('EXP', True, True)
    >>> cx.definability(jnp.sqrt, 0.0).lipschitz, cx.definability(jnp.sqrt, 1.0).lipschitz
    (False, True)
    """
    require_values([(f"argument {n}", arg) for n, arg in enumerate(args)], "definability")
    call = Invocation.of(fun, args)
    # what the function holds varies too, unless it has arguments of its own
    varied = [
        jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and (owner >= 0 or not args)
        for leaf, owner in zip(call.leaves, call.owners, strict=True)
    ]
    dtypes = [jnp.result_type(a) for a, v in zip(call.leaves, varied, strict=True) if v]
    precision = max((machine_epsilon(d) for d in dtypes), default=float(np.finfo(np.float64).eps))
    size = 1.0
    for leaf, moves, owner in zip(call.leaves, varied, call.owners, strict=True):
        if moves and np.size(leaf):
            wide = np.complex128 if np.iscomplexobj(leaf) else np.float64
            values = np.abs(np.asarray(leaf, wide))
            if np.any(np.isnan(values)):
                raise InvalidInputError(
                    f"argument {owner} holds NaN: nothing can be said of a program there. Start from "
                    "finite numbers."
                )
            size = max(size, float(np.max(np.abs(values), initial=0, where=np.isfinite(values))))
    if radius is not None and not radius > 0:
        raise InvalidInputError(
            f"radius={radius} must be positive: a property around a point needs a box."
        )
    reach = float(np.sqrt(precision)) * size if radius is None else float(radius)
    closed = jax.make_jaxpr(lambda *flat: jax.tree.leaves(call.run(flat)))(*call.leaves)

    def walked(half_width: float) -> Walk:
        ranges = [
            _box(leaf, half_width) if v else point(leaf)
            for leaf, v in zip(call.leaves, varied, strict=True)
        ]
        return Walk(closed, ranges, varied, call.leaves, precision)

    whole = walked(np.inf)
    near = whole if np.isinf(reach) else walked(reach)
    faults = near.faults()
    outside = whole.outside()
    unsure = [o.why == NOT_SHOWN for o in (*faults, *whole.faults())]
    widths = (reach, size) if np.isfinite(reach) else (size,)
    jumping = any(unsure) and jumps(call.run, call.leaves, varied, widths, precision)
    return Definability(
        join(*(o.dictionary for o in whole.outputs)),
        not faults,
        not whole.faults(),
        (*faults, *(o for o in outside if o not in faults)),
        whole.faults(),
        near.notes(),
        whole.solves(),
        reach,
        jumping,
    )
