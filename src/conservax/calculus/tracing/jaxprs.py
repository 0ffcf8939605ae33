"""Reading jaxprs: what a call holds, what it is called, which equations matter."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core as jex_core

from ...errors import UnsupportedOperationError
from . import smooth
from .locations import Location, defined_in_jax

# Calls whose body is the program: running the body in place is running the call.
INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
# Custom derivative rules, and the sweep that each rules out.
CUSTOM_RULES = {
    "custom_jvp_call": "",
    "custom_vjp_call": "forward",
    "custom_vjp_call_jaxpr": "forward",
}


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, whether it came closed or open."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, jex_core.ClosedJaxpr) else (jaxpr, ())


def function_name(jaxpr: Any) -> str:
    """The name of the Python function behind a jaxpr, as JAX recorded it."""
    info = getattr(jaxpr, "debug_info", None)
    return "" if info is None else info.func_src_info.split(" ")[0]


def marker(eqn: Any) -> str:
    """The dotted name of a marked function (``conservax.norm``): no primitive has one, few users do."""
    for name in ("call_jaxpr", "fun_jaxpr", "jaxpr"):
        if name in eqn.params and eqn.primitive.name in (*INLINE, *CUSTOM_RULES):
            function = function_name(opened(eqn.params[name])[0])
            return function if "." in function else ""
    return ""


def function_of_jax(closed: Any) -> str:
    """The name of the function of JAX's that is called, "" if it is someone else's."""
    jaxpr = opened(closed)[0]
    return function_name(jaxpr) if defined_in_jax(jaxpr) else ""


def live_equations(
    jaxpr: Any, out_felt: Sequence[bool] | None = None
) -> tuple[list[Any], set[Any]]:
    """The equations that some output, or an effect, needs, and the variables that are felt.

    The rest is not executed. A variable is felt if its change is, at an output that is differentiated
    (``out_felt``; all by default).
    """
    wanted = out_felt or [True] * len(jaxpr.outvars)
    outs = [(v, w) for v, w in zip(jaxpr.outvars, wanted, strict=True) if not _is_literal(v)]
    needed = {v for v, _ in outs}
    felt = {v for v, w in outs if w}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if not (eqn.effects or any(v in needed for v in eqn.outvars)):
            continue
        live.append(eqn)
        operands = [v for v in eqn.invars if not _is_literal(v)]
        needed.update(operands)
        constant = eqn.primitive.name in smooth.CONSTANT or marker(eqn) in smooth.HELD
        if any(v in felt for v in eqn.outvars) and not constant:
            felt.update(operands)
    return live[::-1], felt


def entries_read(eqn: Any, jaxpr: Any, equations: Sequence[Any]) -> int:
    """How many leading entries of the results of a sort anything else reads."""
    axis = eqn.params["dimension"]
    results, count = set(eqn.outvars), eqn.outvars[0].aval.shape[axis]
    if results.intersection(v for v in jaxpr.outvars if not _is_literal(v)):
        return count
    readers = (
        e for e in equations if results.intersection(v for v in e.invars if not _is_literal(v))
    )
    limits = (
        e.params["limit_indices"][axis] if e.primitive.name == "slice" else count for e in readers
    )
    return max(limits, default=0)


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, jex_core.Literal)


def is_float(var: Any) -> bool:
    """Whether a variable holds real or complex floating-point numbers."""
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def parameters(eqn: Any) -> tuple[Any, ...]:
    """What, besides its operands, an equation's result depends on."""
    return (*map(str, eqn.params.values()), eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype)


def bind(eqn: Any, *values: Any) -> list[Any]:
    """Run one equation as it stands."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def unsupported(what: str, here: Location) -> UnsupportedOperationError:
    """The refusal, by name and place, with what to do."""
    return UnsupportedOperationError(
        f"{here}: the calculus has no rule for {what}. "
        "Rewrite the line with supported operations, move it out of the differentiated program, "
        "or keep it from the derivative with jax.lax.stop_gradient if that is what you mean."
    )
