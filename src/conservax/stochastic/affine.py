"""Whether a program is affine between its kinks: then what holds to first order holds nearby, exactly."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex_core

from ..calculus.tracing.jaxprs import CUSTOM_RULES, INLINE, opened
from ..calculus.tracing.locations import defined_in_jax
from ..calculus.tracing.smooth import STRUCTURAL

# what is known of a value: that it does not vary, that it is affine on pieces, or neither
_FIXED, _AFFINE, _OTHER = 0, 1, 2
_LINEAR = STRUCTURAL | set(
    "add sub neg add_any reduce_sum convert_element_type cumsum pad reduce_precision "
    "max min abs clamp reduce_max reduce_min cummax cummin sort split tile copy squeeze select_n "
    "reduce_window_sum stop_gradient dynamic_slice real optimization_barrier reduce_window_max "
    "scatter-add scatter scatter_add top_k argmax argmin".split()
)
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne", "and", "or", "not", "sign", "is_finite"}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}


def is_piecewise_affine(fun: Callable[..., Any], *args: Any) -> bool:
    """Whether ``fun`` is made of affine operations, maxima, and comparisons of these alone.

    >>> import jax, jax.numpy as jnp
    >>> is_piecewise_affine(lambda x: jnp.sum(jax.nn.relu(x - 1)), jnp.ones(2))
    True
    >>> is_piecewise_affine(lambda x: jnp.sum(jax.nn.relu(x) ** 2), jnp.ones(2))
    False
    """
    closed = jax.make_jaxpr(fun)(*args)
    return all(kind != _OTHER for kind in _run(closed, [_AFFINE] * len(closed.jaxpr.invars)))


def _run(closed: Any, inputs: Sequence[int]) -> list[int]:
    jaxpr, _ = opened(closed)
    found: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
    found |= dict.fromkeys(jaxpr.constvars, _FIXED)

    def read(atom: Any) -> int:
        return _FIXED if isinstance(atom, jex_core.Literal) else found[atom]

    for eqn in jaxpr.eqns:
        outs = _step(eqn, [read(a) for a in eqn.invars])
        found |= zip(eqn.outvars, outs, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _step(eqn: Any, kinds: list[int]) -> list[int]:
    name = eqn.primitive.name
    highest = max(kinds, default=_FIXED)
    if name in INLINE:
        return _run(eqn.params[INLINE[name]], kinds)
    if name in CUSTOM_RULES:
        closed = next(
            eqn.params[k] for k in ("call_jaxpr", "fun_jaxpr", "jaxpr") if k in eqn.params
        )
        if defined_in_jax(opened(closed)[0]):
            return _run(closed, kinds)
    elif highest == _FIXED or name in _COMPARISONS:
        return [highest] * len(eqn.outvars)
    elif name == "scan":
        return _scan(eqn, kinds)
    elif name == "cond":
        branches = [_run(b, kinds[1:]) for b in eqn.params["branches"]]
        return [max(kinds[0], *of) for of in zip(*branches, strict=True)]
    elif name in _BILINEAR or name == "div":
        moving = sum(k != _FIXED for k in kinds)
        linear = moving == 1 and (name != "div" or kinds[1] == _FIXED)
        return [highest if linear else _OTHER]
    elif name == "gather":
        return [kinds[0] if kinds[1] == _FIXED else _OTHER]
    elif name in _LINEAR:
        return [highest] * len(eqn.outvars)
    return [_OTHER if highest != _FIXED else _FIXED] * len(eqn.outvars)


def _scan(eqn: Any, kinds: list[int]) -> list[int]:
    p = eqn.params
    first, last = p["num_consts"], p["num_consts"] + p["num_carry"]
    carry = kinds[first:last]
    while True:
        outs = _run(p["jaxpr"], [*kinds[:first], *carry, *kinds[last:]])
        joined = [max(a, b) for a, b in zip(carry, outs, strict=False)]
        if joined == carry:
            return [*carry, *outs[p["num_carry"] :]]
        carry = joined
