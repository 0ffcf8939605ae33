"""Calls: JAX's own functions, custom rules, implicit functions, entries of the calculus' table."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend import core as jex_core

from ..implicit_node import NAME, node_p
from ..operations.kinks import TABLE
from ..tracing.jaxprs import function_name, function_of_jax, opened
from ..tracing.locations import defined_in_jax
from . import ranges as rg
from .dictionaries import DOMAINS, dictionary, join, sorted_ends
from .ranges import Range
from .walk import Known, Walk

# JAX's functions that are polynomial or analytic although their bodies factorise or choose
_FUNCTIONS = {"_det": "ALG", "det": "ALG", "sinc": "BOUNDED"}
_WRAPPED = {"remainder", "floor_divide"}  # JAX's, whose bodies mend the sign of lax.rem
_PROGRAMS = os.path.join("conservax", "programs", "")  # layers with certificates of their own
_SMALL = 3  # determinants up to this size are written out


def called(walk: Walk, eqn: Any, closed: Any, values: list[Known], call: Any) -> list[Known]:
    """The body of a call in its place, but for functions that are smoother than their bodies look."""
    function = function_of_jax(closed)
    if function in _WRAPPED and values[1].range.decided and np.all(values[1].range.lo != 0):
        return _in_turns(walk, eqn, values, function, call or eqn)
    if function in _FUNCTIONS and not (
        function.endswith("det") and eqn.invars[0].aval.shape[-1] <= _SMALL
    ):
        base = walk.combined(values)
        own = _FUNCTIONS[function]
        if own == "BOUNDED" and all(v.range.bounded for v in values):
            own = "AN"
        elif own == "BOUNDED":
            walk.outside_of(function, call or eqn, "definable on bounded sets only")
        return [
            replace(
                base,
                number=walk.expressions.opaque(v.aval.shape),
                dictionary=join(base.dictionary, own),
            )
            for v in eqn.outvars
        ]
    return walk.called(closed, eqn, values, call)


def _in_turns(walk: Walk, eqn: Any, values: list[Known], function: str, where: Any) -> list[Known]:
    """The remainder of x by a constant, or the number of turns: both jump at its multiples."""
    base = walk.combined(values)
    aval = eqn.outvars[0].aval
    turns = Range(*sorted_ends(values[0].range, values[1].range))
    faults = dict(base.faults)
    if values[0].varied and not np.all(DOMAINS["floor"][0](turns)):
        faults[walk.offence(function, where, "it jumps at the multiples of the divisor")] = None
    own = dictionary("floor", [turns], base.dictionary, None, False)
    if own == "BOUNDED":
        walk.outside_of(
            function, where, "definable on bounded sets only, and its operand is not bounded"
        )
    known = Range(np.minimum(values[1].range.lo, 0), np.maximum(values[1].range.hi, 0))
    if function == "floor_divide":
        known = Range(np.floor(turns.lo), np.floor(turns.hi))
    number = walk.expressions.make(function, None, [v.number for v in values], aval.shape)
    return [
        replace(
            base, range=known, number=number, faults=faults, dictionary=join(base.dictionary, own)
        )
    ]


def custom(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """JAX's own rules are trusted; an implicit function is named; a user's rule is noted."""
    closed = next(eqn.params[k] for k in ("call_jaxpr", "fun_jaxpr", "jaxpr") if k in eqn.params)
    body = opened(closed)[0]
    function = function_name(body)
    if function == NAME:
        return _implicit(walk, eqn, values, call, closed)
    if _PROGRAMS in body.debug_info.func_src_info and function == "solved":
        return _program(walk, eqn, values, call)
    if defined_in_jax(body):
        return called(walk, eqn, closed, values, call)
    outs = walk.called(closed, eqn, values, call)
    if not any(v.varied for v in values):
        return outs
    note = walk.offence(function, call or eqn, "its derivative rule is your own, taken as given")
    return [replace(o, notes=o.notes | {note}) for o in outs]


def _program(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """A cone program: its solution map is definable (with exp, for exponential and power cones)."""
    base = walk.combined(values)
    why = "a program, Lipschitz where its certificate is PROVEN"
    solve = walk.offence("program", call or eqn, why)
    solves = base.solves | {solve} if base.varied else base.solves
    own = join(base.dictionary, "EXP")
    return [
        replace(base, number=walk.expressions.opaque(v.aval.shape), solves=solves, dictionary=own)
        for v in eqn.outvars
    ]


def _implicit(walk: Walk, eqn: Any, values: list[Known], call: Any, closed: Any) -> list[Known]:
    """The implicit function lives in the dictionary of its equation (Theorem 5 of Bolte et al. 2021)."""
    where = call or eqn
    body, consts = opened(closed)
    (carrier,) = (e for e in body.eqns if e.primitive is node_p)
    node, leaves = carrier.params["node"], carrier.params["leaves"]
    known = dict(zip(body.invars, values, strict=True))
    known |= {v: walk.constant(c) for v, c in zip(body.constvars, consts, strict=True)}
    every = walk.combined(values)
    kept = [_read(walk, known, every, atom) for atom in carrier.invars[leaves:]]
    if _is_program(node):
        return _program(walk, eqn, kept, call)
    base = walk.combined(kept)
    unknowns = [
        replace(base, number=walk.expressions.opaque(v.aval.shape), varied=True, faults={})
        for v in carrier.outvars
    ]
    residual = node.equation(leaves, [a.aval for a in carrier.invars])
    all_of = walk.combined([base, *walk.run(residual, [*unknowns, *kept], where)])
    solve = walk.offence(
        "solve",
        where,
        "Lipschitz where every element of ∂F/∂y is invertible: certified by cx.check",
    )
    if not node.hidden:
        all_of = replace(all_of, solves=all_of.solves | {solve})
    return [
        replace(
            all_of if inner in carrier.outvars else every,
            number=walk.expressions.opaque(inner.aval.shape),
        )
        for inner in body.outvars
    ]


def _read(walk: Walk, known: dict[Any, Known], every: Known, atom: Any) -> Known:
    """What is known of an operand; of one that is made inside, what is known of all that make it."""
    if isinstance(atom, jex_core.Literal):
        return walk.constant(atom.val)
    if atom in known:
        return known[atom]
    return replace(every, number=walk.expressions.opaque(atom.aval.shape))


def _is_program(node: Any) -> bool:
    """Whether a node's equation is that of a cone program, whose own check certifies it."""
    code = getattr(node.residual, "__code__", None)
    return code is not None and _PROGRAMS in code.co_filename


def marked(walk: Walk, eqn: Any, values: list[Known], where: Any, name: str) -> list[Known]:
    """Functions of the calculus' own table: norms, projections and proximal operators are Lipschitz."""
    base = walk.combined(values)
    known = rg.ALL
    if name == "conservax.norm":
        known = Range(np.array(0.0), np.array(np.inf), above=values[-1].range.avoids(0))
    dictionary_ = join(base.dictionary, TABLE[name].dictionary)
    if "exp" in name.rsplit(".", 1)[-1] or "logistic" in name:
        dictionary_ = join(dictionary_, "EXP")
    key = (name, str(eqn.outvars[0].aval.shape), str(eqn.invars[-1].aval.shape))
    return [
        replace(
            base,
            number=walk.expressions.make(
                name, (key, i), [v.number for v in values], var.aval.shape
            ),
            range=known,
            dictionary=dictionary_,
        )
        for i, var in enumerate(eqn.outvars)
    ]
