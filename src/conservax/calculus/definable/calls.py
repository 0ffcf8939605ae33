"""Calls: JAX's own functions, custom rules, implicit functions, entries of the calculus' table."""

from dataclasses import replace
from typing import Any

import numpy as np

from .. import roots
from ..jaxprs import function_name, function_of_jax, opened
from ..kinks import TABLE
from ..locations import defined_in_jax
from . import ranges as rg
from .dictionaries import DOMAINS, dictionary, join, sorted_ends
from .ranges import Range
from .walk import Known, Walk

# JAX's functions that are polynomial or analytic although their bodies factorise or choose
_FUNCTIONS = {"_det": "ALG", "det": "ALG", "sinc": "BOUNDED"}
_WRAPPED = {"remainder", "floor_divide"}  # JAX's, whose bodies mend the sign of lax.rem
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
    root = roots.find(function)
    if root is not None:
        return _implicit(walk, eqn, values, call, root)
    if defined_in_jax(body):
        return called(walk, eqn, closed, values, call)
    outs = walk.called(closed, eqn, values, call)
    if not any(v.varied for v in values):
        return outs
    note = walk.offence(function, call or eqn, "its derivative rule is your own, taken as given")
    return [replace(o, notes=o.notes | {note}) for o in outs]


def _implicit(walk: Walk, eqn: Any, values: list[Known], call: Any, root: Any) -> list[Known]:
    """The implicit function lives in the dictionary of its equation (Theorem 5 of Bolte et al. 2021)."""
    where = call or eqn
    hoisted = eqn.params.get("num_consts", 0)
    kept = [values[hoisted + i] for i in root.inputs]
    solution = [v.aval for v in eqn.outvars[: root.leaves]]
    avals = [eqn.invars[hoisted + i].aval for i in root.inputs]
    residual = root.residual_of([*solution, *avals])
    base = walk.combined(kept)
    unknowns = [
        replace(base, number=walk.expressions.opaque(a.shape), varied=True, faults={})
        for a in solution
    ]
    outs = [] if residual is None else walk.run(residual, [*unknowns, *kept], where)
    all_of = walk.combined([base, *outs])
    if residual is None:
        fault = walk.offence("solve", where, "a solve under a vmap within a vmap cannot be read")
        all_of = replace(all_of, faults={**all_of.faults, fault: None})
    solve = walk.offence(
        "solve",
        where,
        "Lipschitz where every element of ∂F/∂y is invertible: certified by cx.check",
    )
    if not root.hidden:
        all_of = replace(all_of, solves=all_of.solves | {solve})
    return [
        replace(
            all_of if i < root.leaves else walk.combined(values),
            number=walk.expressions.opaque(v.aval.shape),
        )
        for i, v in enumerate(eqn.outvars)
    ]


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
