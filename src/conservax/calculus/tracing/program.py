"""A planned program: a traced function whose kinks all have their place on one flat tape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from .locations import Location, locate


@dataclass(frozen=True)
class Site:
    """One nonsmooth operation of the program, as the user wrote it.

    ``kind`` says what its slots are: "kink" (a scalar kink), "comparison" (a scalar kink that acts
    through branches), "branch" (a value that a comparison chooses), "tie" (entries of a maximum),
    "sort" (comparators of a sorting network), "jump" (an operation that is discontinuous there),
    "edge" (an operation without a finite derivative there), "index" (an integer or boolean, made
    whole, that a comparison decides), "loop" (a kink inside a while loop), "matrix" (a kink whose
    derivatives no scalar weights span), "root" (unknowns of an implicit function), "ball" (entries
    under a norm), "spectrum" and "null" (the matrices that equal eigenvalues or singular values move
    by, and those that vanishing ones move by), "mark" (entries that are made whole), "stand" (what
    JAX makes of the branch before it), "rival" (the places of an extremum's leader and of one of those
    that tie with it), "order" (another order of entries that tie in a sort), "run" (entries of a sort
    that tie, more than have all their orders tried), "rows" (entries that tie in one of several rows whose
    order is read) and "places" (of entries, as the first pass found them).
    ``shape`` counts loop iterations first, in ``loops`` axes; ``start`` and ``strides`` locate its slots. A
    root has its ``node``, and how many ``leaves`` its solution has; a sort how many of its leading entries are
    ``read``.
    """

    operation: str
    kind: str
    origin: Any
    shape: tuple[int, ...]
    start: int
    strides: list[int]
    slopes: tuple[float, float] | None
    loops: int
    node: Any = None
    leaves: int = 0
    read: int = 0

    @cached_property
    def location(self) -> Location:
        """The line that holds the operation; found when asked, since tracebacks are slow to read."""
        return locate(self.origin)

    def slots(self) -> np.ndarray:
        """The tape slots of this site, as an integer array of the site's shape."""
        index = np.full(self.shape, self.start, dtype=np.int64)
        for axis, stride in enumerate(self.strides):
            steps = np.arange(self.shape[axis], dtype=np.int64) * stride
            index = index + steps.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])
        return index

    @property
    def name(self) -> str:
        """A key for ``cx.select``: operation and place, as in ``max@model.py:12``."""
        return f"{self.operation}@{self.location.short}"


@dataclass
class Step:
    """One equation with the way to run it.

    ``action``: "plain" (as it stands), "inline", "scan", "switch", "while", "kink" (by its table
    entry), "compare", "push" (both sides of a torn value go through), "combine" (two torn values
    meet), "both", "scatter" and "sides" (both sides of torn operands go through, at kinks with selections
    of their own), "tear" and "torn_sort" (a step function as a comparison), "branch" (a torn value meets
    varied ones), "permute" (a gather by the order of a sort), "jump" (any other use of that order), "solve" (a
    call that holds a node), "root" (a node: its solution moves as its equation says).
    """

    eqn: Any
    origin: Any  # the equation to report: this one, or the call into JAX that it came from
    action: str = "plain"
    slots: tuple[tuple[int, ...], ...] = ()
    blocks: tuple["Block", ...] = ()
    entry: Any = None
    varied: bool = False
    in_varied: tuple[bool, ...] = ()
    felt: tuple[bool, ...] = ()  # results whose change is felt at an output
    silent: bool = False  # no change of its results is felt: its derivative is not even taken
    torn: tuple[bool, ...] = ()
    mend: tuple[
        int, ...
    ] = ()  # torn operands that must become one value first; their slots come first
    mending: int = 0  # how many of the ``slots`` are theirs
    # JAX's choice at a tie: "balanced", "constant" (relu, relu6), "first" (pooling), "halves" (hypot)
    tie: str = "balanced"
    side: str = ""  # of a comparison: where equality stands, "lower", "upper" or "equal"
    sides: set[str] = field(default_factory=set)  # of all comparisons of the same two operands
    comparison: int = -1
    first: bool = True
    swap: bool = False
    sort: "Step | None" = None  # the sort whose order the operands follow
    site: Site | None = None  # of a root
    groups: bool = False  # a sum whose entries are put together by the comparison that tears them
    contend: tuple[int, ...] = ()  # torn operands of which other comparisons may tear entries
    late: bool = False  # sides meet as late as they can: see both_sides.py
    edges: tuple[Any, ...] = ()  # where an operation taken as smooth is not: see domains.py
    own_entries: int = 0  # the first number of the entries of its results: see copies.py
    read: int = 0  # of a sort: how many leading entries of its results anything reads

    @cached_property
    def location(self) -> Location:
        """The line that holds the operation."""
        return locate(self.origin)

    @property
    def kink_slots(self) -> tuple[tuple[int, ...], ...]:
        """The slots of the operation itself, behind those of operands that were made whole."""
        return self.slots[self.mending :]

    @property
    def own_size(self) -> int:
        return sum(math.prod(shape) for shape in self.slots)


@dataclass
class Block:
    """A jaxpr with a step for each live equation, and ``size`` tape slots an execution."""

    jaxpr: Any
    consts: Sequence[Any]
    steps: list[Step] = field(default_factory=list)
    size: int = 0
    mend: tuple[int, ...] = ()  # torn outputs that must leave as one value; their slots come last
    late: bool = False
    own_entries: int = 0  # the first number of the entries of its inputs
    out_varied: tuple[bool, ...] = ()
    out_torn: tuple[bool, ...] = ()


@dataclass
class Program:
    """A function traced at given shapes, planned for differentiation in some of its inputs.

    ``given_rules`` are the user's own derivative rules, taken as they are; ``modes`` the sweeps
    that the program admits (a while loop has no reverse, a custom_vjp no forward derivative);
    ``torn_sums``: there are sums of entries that comparisons tear; ``compares``: there are comparisons.
    """

    block: Block
    sites: tuple[Site, ...]
    given_rules: tuple[tuple[str, Location], ...]
    modes: frozenset[str]
    out_tree: Any
    dtype: Any
    torn_sums: bool = False
    compares: bool = False

    @property
    def size(self) -> int:
        return self.block.size

    @property
    def outputs(self) -> Any:
        """The shapes and dtypes of the function's results, as it returns them."""
        avals = [v.aval for v in self.block.jaxpr.outvars]
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
        return jax.tree.unflatten(self.out_tree, shapes)


class Info(NamedTuple):
    """What planning knows of a variable; equal ``number`` means equal value.

    ``order``: the step of the sort whose order the entries (along axis 0) follow, for indices.
    """

    number: int
    varied: bool = False
    torn: bool = False
    order: Step | None = None


class Scope(NamedTuple):
    """Where planning stands: the enclosing call's place, loops, JAX's tie rule, the name to report."""

    call: Any = None
    loops: tuple[int, ...] = ()  # the length of each enclosing scan
    tie: str = "balanced"
    operation: str | None = None
    whiles: bool = False
    opaque: bool = False  # within a solve, whose own steps are not differentiated
