"""A program and its generalised Jacobian over a whole box: sound enclosures of both.

The traced program is read over the real numbers (its float32 and float64 constants taken as exact)
and executed in interval arithmetic, value and derivative together. It is the *function* that is
differentiated: ``stop_gradient`` and custom derivative rules are looked through.

The derivative encloses every element of the conservative Jacobian at every point of the box. At each
kink it holds the hull of the slopes of all pieces that some point of the box may use, coefficient by
coefficient: max, min and clip (the operands that may attain it), abs ([−1, 1] if 0 may be met),
sort (the entries that may come at that place), where (both branches while its condition is open).
A convex combination of pieces with one weight q ∈ [0, 1] lies in that hull; smooth operations take
slopes over the box; products and sums of enclosures enclose products and sums. By induction along
the program all selections, Clarke's Jacobian, and by the mean value theorem F(y) − F(x) ∈ J (y − x),
are enclosed. That needs continuity: where a condition is open and its branches cannot be shown to
agree at the switch, the program is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core

from ...errors import DiscontinuousError
from ..implicit_node import node_p
from ..operations.expansions import EXPANSIONS
from ..tracing.invocation import Invocation
from ..tracing.jaxprs import CUSTOM_RULES, INLINE, opened, unsupported
from ..tracing.locations import defined_in_jax, locate
from . import intervals as iv
from .interval_arrays import RULES
from .interval_rules import ELEMENTWISE, Node, jump, tangent_of
from .intervals import Interval

_MAX_TURNS = 100_000


class IntervalProgram:
    """``fun(*args)`` flattened to ℝⁿ → ℝᵐ, evaluated on boxes.

    >>> import jax.numpy as jnp
    >>> program = IntervalProgram(lambda x: jnp.maximum(2 * x, 0.0), (1.0,))
    >>> value, slope = program({0: Interval(np.array(-1.0), np.array(3.0))})
    >>> value.lo.item(), value.hi.item(), slope.lo.item(), slope.hi.item()
    (0.0, 6.0, 0.0, 2.0)

    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        call = Invocation.of(fun, args, kwargs)
        self.leaves = call.leaves
        self.closed = jax.make_jaxpr(lambda *flat: jax.tree.leaves(call.run(flat)))(*self.leaves)

    def __call__(
        self, boxes: Mapping[int, Interval], derivative: bool = True
    ) -> tuple[Interval, Interval]:
        """Enclose F and its Jacobian with some leaves of ``args`` in boxes, the others fixed.

        Args:
            boxes: for a leaf's number its box; derivatives are taken in these, in ascending order.
            derivative: without it the Jacobian has no columns.

        Returns:
            F (m,) and J (m, n). NaN marks entries that are undefined somewhere on the box.

        Raises:
            UnsupportedOperationError: an operation without a rule, by name and place.
            DiscontinuousError: the program may jump inside the box.

        Source: R. E. Moore, *Interval Analysis* (1966); for kinks see the head of this file.
        """
        n = sum(boxes[i].lo.size for i in boxes) if derivative else 0
        nodes, at = [], 0
        for i, leaf in enumerate(self.leaves):
            if i not in boxes:
                nodes.append(Node(iv.point(leaf)))
                continue
            box = boxes[i].map(lambda end: np.asarray(end, np.float64))
            seed = np.zeros((n, box.lo.size))
            if derivative:
                seed[at : at + box.lo.size] = np.eye(box.lo.size)
            at += box.lo.size
            nodes.append(Node(box, iv.point(seed.reshape(n, *box.shape)), True))
        device = jax.local_devices(backend="cpu")[0]
        with jax.enable_x64(True), jax.default_device(device), np.errstate(all="ignore"):
            outs = run(self.closed, nodes)
        if any(o.open for o in outs):
            raise DiscontinuousError("an output of the program may jump within the box.")
        value = _joined([o.value.map(np.ravel) for o in outs], 0)
        columns = [
            (tangent_of(o, n)).map(lambda t, size=o.value.lo.size: t.reshape(n, size)) for o in outs
        ]
        return value, _joined(columns, 1).map(np.transpose)


def _joined(parts: Sequence[Interval], axis: int) -> Interval:
    return Interval(*(np.concatenate([p[end] for p in parts], axis=axis) for end in (0, 1)))


class Operation(NamedTuple):
    """An equation as the rules read it; within JAX's own functions its place is that of the call."""

    primitive: Any
    params: Any
    invars: Any
    outvars: Any
    source_info: Any


def run(closed: Any, inputs: Sequence[Node], call: Any = None) -> list[Node]:
    """Execute a jaxpr on nodes, calls inlined and loops written out."""
    jaxpr, consts = opened(closed)
    found: dict[Any, Node] = dict(zip(jaxpr.invars, inputs, strict=True))
    found |= {v: Node(iv.point(c)) for v, c in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Node:
        return Node(iv.point(atom.val)) if isinstance(atom, jex_core.Literal) else found[atom]

    for eqn in jaxpr.eqns:
        operation = Operation(
            eqn.primitive, eqn.params, eqn.invars, eqn.outvars, (call or eqn).source_info
        )
        found |= zip(eqn.outvars, _step(operation, [read(a) for a in eqn.invars]), strict=True)
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Any, nodes: list[Node]) -> list[Node]:
    name = eqn.primitive.name
    if name in INLINE or name in CUSTOM_RULES:
        body = next(eqn.params[k] for k in ("call_jaxpr", "fun_jaxpr", "jaxpr") if k in eqn.params)
        return run(body, nodes, eqn if defined_in_jax(opened(body)[0]) else None)
    if name in EXPANSIONS:
        body = jax.make_jaxpr(EXPANSIONS[name][0](eqn))(*[v.aval for v in eqn.invars])
        return run(body, nodes, eqn)
    if name in _CONTROL:
        return _CONTROL[name](eqn, nodes)
    decided = all(n.value.lo.dtype.kind in "biu" and not np.any(n.value.undecided) for n in nodes)
    if decided and name != "convert_element_type":
        return concrete(eqn, nodes)
    if name in ELEMENTWISE:
        value, tangent, jumps = ELEMENTWISE[name](eqn, nodes)
        moving = any(n.moving for n in nodes)
        return [Node(value, tangent, moving, eqn, tuple(nodes), jumps)]
    if any(n.open and n.value.is_float for n in nodes):
        raise jump(eqn, "a value that jumps")
    if name == node_p.name:
        return nodes[: eqn.params["leaves"]]
    if name in RULES:
        return RULES[name](eqn, nodes)
    raise unsupported(f"'{name}' on intervals", locate(eqn))


def concrete(eqn: Any, nodes: Sequence[Node]) -> list[Node]:
    """Integers and truth values that are decided: the operation itself, on them."""
    out = eqn.primitive.bind(*(n.value.lo for n in nodes), **eqn.params)
    outs = out if eqn.primitive.multiple_results else [out]
    moving = any(n.moving for n in nodes)
    return [Node(iv.point(o), None, moving, eqn, tuple(nodes)) for o in outs]


def _entry(node: Node, i: int) -> Node:
    """Entry i along the first axis."""
    tangent = None if node.tangent is None else node.tangent.map(lambda t: t[:, i])
    jumps = None if node.jumps is None else node.jumps[i]
    return Node(node.value.map(lambda v: v[i]), tangent, node.moving, jumps=jumps)


def _stacked(entries: Sequence[Node], shape: tuple[int, ...], dtype: Any) -> Node:
    """Nodes along a new first axis."""
    if not entries:
        return Node(iv.point(np.zeros(shape, dtype)))
    if any(e.open and e.value.is_float for e in entries):
        raise DiscontinuousError("a loop collects a value that may jump within the box.")
    moved = [e.tangent for e in entries if e.tangent is not None]
    tangent = None
    if moved:
        parts = [tangent_of(e, moved[0].shape[0]) for e in entries]
        tangent = Interval(*(np.stack([p[end] for p in parts], axis=1) for end in (0, 1)))
    value = Interval(*(np.stack([e.value[end] for e in entries]) for end in (0, 1)))
    return Node(value, tangent, any(e.moving for e in entries))


def _scan(eqn: Any, nodes: list[Node]) -> list[Node]:
    p = eqn.params
    consts = nodes[: p["num_consts"]]
    carry = nodes[p["num_consts"] : p["num_consts"] + p["num_carry"]]
    xs = nodes[p["num_consts"] + p["num_carry"] :]
    order = range(p["length"] - 1, -1, -1) if p["reverse"] else range(p["length"])
    collected: dict[int, list[Node]] = {}
    for i in order:
        outs = run(p["jaxpr"], [*consts, *carry, *(_entry(x, i) for x in xs)])
        carry, collected[i] = outs[: p["num_carry"]], outs[p["num_carry"] :]
    avals = [v.aval for v in eqn.outvars[p["num_carry"] :]]
    ys = [
        _stacked([collected[i][j] for i in range(p["length"])], a.shape, a.dtype)
        for j, a in enumerate(avals)
    ]
    return [*carry, *ys]


def _decided(eqn: Any, node: Node, what: str) -> Any:
    if np.any(node.value.undecided):
        raise jump(eqn, what)
    return node.value.lo.item()


def _while(eqn: Any, nodes: list[Node]) -> list[Node]:
    p = eqn.params
    split = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, body, carry = nodes[: split[0]], nodes[split[0] : split[1]], nodes[split[1] :]
    for _ in range(_MAX_TURNS):
        if not _decided(eqn, run(p["cond_jaxpr"], [*test, *carry])[0], "whether the loop goes on"):
            return carry
        carry = run(p["body_jaxpr"], [*body, *carry])
    raise unsupported(f"a loop of more than {_MAX_TURNS} turns on intervals", locate(eqn))


def _cond(eqn: Any, nodes: list[Node]) -> list[Node]:
    branches = eqn.params["branches"]
    index = int(_decided(eqn, nodes[0], "the branch taken"))
    return run(branches[min(max(index, 0), len(branches) - 1)], nodes[1:])


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
