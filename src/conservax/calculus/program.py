"""A traced program and its kink sites: which equations are nonsmooth, and which slots they fill.

Planning walks the jaxpr once, before anything runs. It follows which variables depend on the inputs
that are differentiated (they are *varied*), gives every kink of every execution its own slot on one
flat tape (loop iteration first, then row-major), links comparisons to the branches they steer,
and refuses by name, file and line whatever the calculus does not know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from ..errors import InvalidInputError, UnsupportedOperationError
from . import kinks, smooth
from .locations import Location, defined_in_jax, locate

# Calls whose body is the program: running the body in place is running the call.
_INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_lin": "call_jaxpr",
}
# Functions of jax.nn with a custom rule that is a choice at a kink, not a different function.
_SEEN_THROUGH = {"relu", "relu6"}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
_NUMBERED = {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "neg", "sub", "add", "mul"}


@dataclass(frozen=True)
class Site:
    """One nonsmooth operation of the program, as the user wrote it.

    ``kind`` says what its slots are: "kink" (a scalar kink), "comparison" (a scalar kink that acts
    through branches), "branch" (a ``where`` steered by a comparison), "tie" (entries of a maximum).
    ``shape`` counts loop iterations first; ``start`` and ``strides`` locate its slots on the tape.
    """

    operation: str
    kind: str
    location: Location
    shape: tuple[int, ...]
    start: int
    strides: Sequence[int]
    slopes: tuple[float, float] | None

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


@dataclass(frozen=True)
class Predicate:
    """A boolean that a comparison of varied values decides.

    ``polarity`` +1: true where the comparison's increment is positive, −1: true where negative.
    """

    polarity: int


@dataclass
class Step:
    """One equation with the way to run it."""

    eqn: Any
    action: str  # plain | inline | scan | kink | compare | steer | branch
    slots: tuple[tuple[int, ...], ...] = ()
    blocks: tuple["Block", ...] = ()
    varied: bool = False
    tie: str = "balanced"  # JAX's choice at a tie: "balanced", or "constant" for relu and relu6
    entry: Any = None
    comparison: int = -1
    polarity: int = 1
    first: bool = True
    swap: bool = False
    in_varied: tuple[bool, ...] = ()

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.slots)


@dataclass
class Block:
    """A jaxpr with a step for each equation and ``size`` tape slots an execution."""

    jaxpr: Any
    steps: list[Step] = field(default_factory=list)
    size: int = 0
    out_varied: tuple[bool, ...] = ()
    out_predicates: tuple[Predicate | None, ...] = ()


@dataclass
class Program:
    """A function traced at given shapes, planned for differentiation in some of its inputs."""

    block: Block
    consts: Sequence[Any]
    sites: tuple[Site, ...]
    given_rules: tuple[tuple[str, Location], ...]
    out_tree: Any
    dtype: Any
    forward_only: bool = False

    @property
    def size(self) -> int:
        return self.block.size


@dataclass(frozen=True)
class _Scope:
    """Where in the program planning stands: the enclosing call's place, loops, JAX's tie rule."""

    call: Location | None
    loops: tuple[int, ...]  # the length of each enclosing scan
    tie: str
    operation: str | None = None  # the name of the jax.nn function that a kink stands for


class _Planner:
    def __init__(self) -> None:
        self.sites: list[dict[str, Any]] = []
        self.given_rules: list[tuple[str, Location]] = []
        self.numbers: dict[Any, int] = {}
        self.comparisons: dict[Any, int] = {}

    def number(self, key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def block(
        self,
        jaxpr: Any,
        in_varied: Sequence[bool],
        in_predicates: Sequence[Predicate | None],
        in_numbers: Sequence[int],
        const_numbers: Sequence[int],
        scope: _Scope,
        start: int,
        out_needed: Sequence[bool] | None = None,
    ) -> tuple[Block, list[int]]:
        """Plan one jaxpr; returns its block and the value numbers of its outputs.

        ``out_needed`` says whose derivative matters; a kink behind a stop_gradient has none.
        """
        block = Block(jaxpr)
        varied: dict[Any, bool] = {}
        predicates: dict[Any, Predicate] = {}
        numbers: dict[Any, int] = {}
        for var, number in zip(jaxpr.constvars, const_numbers, strict=True):
            varied[var], numbers[var] = False, number
        for var, is_varied, predicate, number in zip(
            jaxpr.invars, in_varied, in_predicates, in_numbers, strict=True
        ):
            varied[var], numbers[var] = is_varied, number
            if predicate is not None:
                predicates[var] = predicate

        felt = _variables_with_felt_derivatives(jaxpr, out_needed)

        def is_literal(atom: Any) -> bool:
            return isinstance(atom, jex_core.Literal)

        def is_varied(atom: Any) -> bool:
            return not is_literal(atom) and varied[atom]

        def predicate_of(atom: Any) -> Predicate | None:
            return None if is_literal(atom) else predicates.get(atom)

        def number_of(atom: Any) -> int:
            if is_literal(atom):
                value = np.asarray(atom.val)
                if value.size == 1:
                    return self.number(("literal", value.item(), str(value.dtype), value.shape))
                return self.number(("literal", id(atom)))
            return numbers[atom]

        for eqn in live_equations(jaxpr):
            name = eqn.primitive.name
            here = scope.call or locate(eqn)
            args_varied = [is_varied(a) for a in eqn.invars]
            args_predicates = [predicate_of(a) for a in eqn.invars]
            args_numbers = [number_of(a) for a in eqn.invars]
            if not any(v in felt for v in eqn.outvars):
                args_varied = [False] * len(args_varied)
                args_predicates = [None] * len(args_predicates)
            any_varied = any(args_varied)
            steered = any(p is not None for p in args_predicates)
            step = Step(eqn, "plain", tie=scope.tie, in_varied=tuple(args_varied))
            out_varied: Sequence[bool] = [False] * len(eqn.outvars)
            out_predicates: Sequence[Predicate | None] = [None] * len(eqn.outvars)
            out_numbers: Sequence[int] = [self.number(object()) for _ in eqn.outvars]
            at = start + block.size

            def add_site(
                operation: str, kind: str, shape: tuple[int, ...], slopes: tuple[float, float] | None
            ) -> None:
                offset = sum(int(np.prod(s)) for s in step.slots)  # noqa: B023
                step.slots = (*step.slots, shape)  # noqa: B023
                row_major = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
                self.sites.append(
                    dict(
                        operation=scope.operation or operation,
                        kind=kind,
                        location=here,  # noqa: B023
                        shape=scope.loops + shape,
                        start=at + offset,  # noqa: B023
                        strides=[0] * len(scope.loops) + row_major,  # a scan sets its own when planned
                        slopes=slopes,
                    )
                )

            if not any_varied and not steered:
                if name in _NUMBERED:
                    key = (name, tuple(args_numbers), _parameters_key(eqn))
                    out_numbers = [self.number(key)]
            elif name in _INLINE or (name == "custom_jvp_call" and _function_name(eqn) in _SEEN_THROUGH
                                     and defined_in_jax(_call_jaxpr(eqn))):
                closed = eqn.params[_INLINE[name]] if name in _INLINE else eqn.params["call_jaxpr"]
                inner, consts = _open(closed)
                tie, operation = scope.tie, scope.operation
                if name == "custom_jvp_call":
                    tie, operation = "constant", _function_name(eqn)
                inside = _Scope(here if defined_in_jax(inner) else scope.call, scope.loops, tie, operation)
                sub, out_numbers = self.block(
                    inner,
                    args_varied,
                    args_predicates,
                    args_numbers,
                    [self.number(("const", id(c))) for c in consts],
                    inside,
                    at,
                    [v in felt for v in eqn.outvars],
                )
                step.action, step.blocks = "inline", (sub,)
                out_varied, out_predicates = sub.out_varied, sub.out_predicates
                block.size += sub.size
            elif name == "scan":
                sub, out_varied = self.scan(eqn, args_varied, args_predicates, scope, here, at)
                step.action, step.blocks = "scan", (sub,)
                block.size += sub.size * eqn.params["length"]
            elif name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
                _refuse_predicates(name, args_predicates, here)
                if not defined_in_jax(_call_jaxpr(eqn)):
                    self.given_rules.append((_function_name(eqn), here))
                out_varied = [_is_float(v) for v in eqn.outvars]
            elif name in _COMPARISONS:
                out_predicates = [
                    self.compare(step, eqn, args_numbers, args_varied, args_predicates, add_site, here)
                ]
            elif name == "select_n" and args_predicates[0] is not None:
                if len(eqn.invars) != 3:
                    raise _unsupported("a switch over more than two branches", here)
                step.action, step.polarity = "branch", args_predicates[0].polarity
                if any(p is not None for p in args_predicates[1:]):
                    raise _unsupported("a boolean chosen by another comparison", here)
                add_site("where", "branch", eqn.outvars[0].aval.shape, None)
                out_varied = [True]
            elif steered:
                if name == "not":
                    predicate = args_predicates[0]
                    assert predicate is not None
                    step.action = "steer"
                    out_predicates = [Predicate(-predicate.polarity)]
                elif name in smooth.STRUCTURAL - {"concatenate"} and args_predicates[0] is not None:
                    step.action = "steer"
                    out_predicates = [args_predicates[0]]
                elif name in smooth.CONSTANT:
                    pass
                else:
                    raise _unsupported(f"'{name}' of a comparison of varied values", here)
            elif (entry := kinks.TABLE.get(name)) is not None:
                step.action, step.entry = "kink", entry
                for operation, kind, shape, slopes in entry.sites(eqn, args_varied):
                    add_site(operation, kind, shape, slopes)
                out_varied = [_is_float(v) for v in eqn.outvars]
            elif name in smooth.CONSTANT:
                pass
            elif name in smooth.SMOOTH:
                out_varied = [_is_float(v) for v in eqn.outvars]
                if name == "convert_element_type" and not out_varied[0]:
                    raise _unsupported("conversion of a varied value to an integer or boolean", here)
            else:
                raise _unsupported(f"the operation '{name}'", here)

            if name in _NUMBERED:
                out_numbers = [self.number((name, tuple(args_numbers), _parameters_key(eqn)))]
            step.varied = any(out_varied)
            block.steps.append(step)
            block.size += step.size
            for var, v, p, n in zip(eqn.outvars, out_varied, out_predicates, out_numbers, strict=True):
                varied[var], numbers[var] = v, n
                if p is not None:
                    predicates[var] = p

        block.out_varied = tuple(is_varied(v) for v in jaxpr.outvars)
        block.out_predicates = tuple(predicate_of(v) for v in jaxpr.outvars)
        return block, [number_of(v) for v in jaxpr.outvars]

    def scan(
        self,
        eqn: Any,
        args_varied: Sequence[bool],
        args_predicates: Sequence[Predicate | None],
        scope: _Scope,
        here: Location,
        at: int,
    ) -> tuple[Block, list[bool]]:
        inner, consts = _open(eqn.params["jaxpr"])
        first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
        if any(p is not None for p in args_predicates[first:]):
            raise _unsupported("a comparison of varied values carried through a loop", here)
        inside = replace(
            scope,
            call=here if defined_in_jax(inner) else scope.call,
            loops=(*scope.loops, eqn.params["length"]),
        )
        carried = list(args_varied)
        sites, rules = len(self.sites), len(self.given_rules)
        while True:  # each pass can only add varied carries
            sub, _ = self.block(
                inner,
                carried,
                args_predicates,
                [self.number(object()) for _ in inner.invars],
                [self.number(object()) for _ in consts],
                inside,
                at,
            )
            after = [a or b for a, b in zip(carried[first:last], sub.out_varied, strict=False)]
            if after == carried[first:last]:
                break
            carried[first:last] = after
            # the trial plan leaves nothing behind: only the one at the fixed point counts
            del self.sites[sites:], self.given_rules[rules:]
        for site in self.sites[sites:]:
            site["strides"][len(scope.loops)] = sub.size
        if any(p is not None for p in sub.out_predicates):
            raise _unsupported("a comparison of varied values carried out of a loop", here)
        return sub, [*after, *sub.out_varied[last - first :]]

    def compare(
        self,
        step: Step,
        eqn: Any,
        args_numbers: Sequence[int],
        args_varied: Sequence[bool],
        args_predicates: Sequence[Predicate | None],
        add_site: Callable[..., None],
        here: Location,
    ) -> Predicate | None:
        """A comparison of u and v is a kink of u − v; the same comparison twice is one kink."""
        name = eqn.primitive.name
        u, v = args_numbers
        if any(p is not None for p in args_predicates):
            raise _unsupported(f"'{name}' of comparisons", here)
        if u == v:  # x != x asks for NaN, and decides nothing
            return None
        # z = varied − constant, so that "upper" means the side where the user's value is larger
        step.swap = not args_varied[0]
        if step.swap:
            u, v = v, u
            name = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}.get(name, name)
        # At equality gt is false and le true: both stand on the side z <= 0. ge and lt: on z >= 0.
        side = {"gt": "lower", "le": "lower", "ge": "upper", "lt": "upper"}.get(name, "equal")
        shape = eqn.outvars[0].aval.shape
        key = (u, v, side)
        step.action, step.tie = "compare", side
        step.first = key not in self.comparisons
        step.comparison = self.comparisons.setdefault(key, len(self.comparisons))
        step.polarity = -1 if name in ("lt", "le", "ne") else 1
        if step.first:
            add_site(name, "comparison", shape, None)
        return Predicate(step.polarity)


def trace(fun: Callable[..., Any], args: Sequence[Any], argnums: Sequence[int]) -> Program:
    """Trace ``fun(*args)`` and plan it for differentiation in the arguments ``argnums``."""
    leaves, in_tree = jax.tree.flatten(tuple(args))
    varied = jax.tree.leaves(
        tuple(jax.tree.map(lambda _, i=i: i in argnums, arg) for i, arg in enumerate(args))
    )
    for leaf, is_varied in zip(leaves, varied, strict=True):
        if is_varied and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise InvalidInputError(
                f"derivatives are taken in real floating-point inputs, got {jnp.result_type(leaf)}. "
                "Convert the argument to float, or leave it out of argnums."
            )
    dtype = jnp.result_type(*[a for a, v in zip(leaves, varied, strict=True) if v])
    out_trees = []

    def flat(*flat_args: Any) -> list[Any]:
        out = fun(*jax.tree.unflatten(in_tree, flat_args))
        out_leaves, out_tree = jax.tree.flatten(out)
        out_trees.append(out_tree)
        return out_leaves

    closed = jax.make_jaxpr(flat)(*leaves)
    planner = _Planner()
    block, _ = planner.block(
        closed.jaxpr,
        varied,
        [None] * len(leaves),
        [planner.number(("input", i)) for i in range(len(leaves))],
        [planner.number(("const", i)) for i in range(len(closed.consts))],
        _Scope(None, (), "balanced"),
        0,
    )
    for var in closed.jaxpr.outvars:
        if not jnp.issubdtype(var.aval.dtype, jnp.floating):
            raise InvalidInputError(
                f"the function returns {var.aval.dtype}; derivatives exist for real floating-point outputs."
            )
    sites = tuple(sorted((Site(**s) for s in planner.sites), key=lambda s: s.start))
    return Program(block, closed.consts, sites, tuple(planner.given_rules), out_trees[-1], dtype)


def live_equations(jaxpr: Any) -> list[Any]:
    """The equations that some output, or an effect, needs; the rest is not executed."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, jex_core.Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            live.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, jex_core.Literal))
    return live[::-1]


def _variables_with_felt_derivatives(jaxpr: Any, out_needed: Sequence[bool] | None) -> set[Any]:
    """Variables whose change is felt at an output that is differentiated."""
    needed = out_needed or [True] * len(jaxpr.outvars)
    felt = {
        v for v, n in zip(jaxpr.outvars, needed, strict=True) if n and not isinstance(v, jex_core.Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        if any(v in felt for v in eqn.outvars) and eqn.primitive.name not in smooth.CONSTANT:
            felt.update(v for v in eqn.invars if not isinstance(v, jex_core.Literal))
    return felt


def _open(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, jex_core.ClosedJaxpr) else (jaxpr, ())


def _call_jaxpr(eqn: Any) -> Any:
    return _open(eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr")))[0]


def _function_name(eqn: Any) -> str:
    info = getattr(_call_jaxpr(eqn), "debug_info", None)
    return "" if info is None else info.func_src_info.split(" ")[0]


def _is_float(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _parameters_key(eqn: Any) -> str:
    return str(sorted((k, str(v)) for k, v in eqn.params.items())) + str(eqn.outvars[0].aval)


def _refuse_predicates(name: str, predicates: Sequence[Predicate | None], here: Location) -> None:
    if any(p is not None for p in predicates):
        raise _unsupported(f"'{name}' of a comparison of varied values", here)


def _unsupported(what: str, here: Location) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{here}: the calculus has no rule for {what}. "
        "Rewrite the line with supported operations, move it out of the differentiated program, "
        "or keep it from the derivative with jax.lax.stop_gradient if that is what you mean."
    )
