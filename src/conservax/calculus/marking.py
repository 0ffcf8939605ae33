"""How an operator tells the calculus what it is: a smooth step, a refusal, or an equation.

A projection is a program of scalar kinks wherever it can be one. Its smooth steps carry their own
rule (``smooth``); where its Clarke Jacobian is no product of segments, the calculus must refuse
(``guard``); where it solves an equation with kinks, that equation joins the lifted system (``lifted``).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .implicit_node import implicit_node, zero_like
from .operations.kinks import Entry, register
from .tracing.jaxprs import bind

Rule = Callable[[Any, Any], Any]
_REFUSED = "matrix"  # the kind of site at which the calculus raises UnsupportedOperationError


def smooth(name: str, value: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """A map with its own derivative, known to the calculus as smooth.

    ``value(*operands)`` gives the result and, in the result's shape, the size of the terms that
    made it; ``rule(primals, tangents)`` gives the result's tangent.
    """

    def marked(*operands: Any) -> Any:
        both = jnp.stack(value(*operands))  # so that vmap puts its axis at one place in both
        return both[0], both[1]

    marked.__name__ = marked.__qualname__ = f"conservax.operators.{name}"
    carrying = jax.custom_jvp(marked)

    def jvp(primals: Any, tangents: Any) -> Any:
        out, size = carrying(*primals)
        return (out, size), (rule(primals, tangents), jnp.zeros_like(size))

    carrying.defjvp(jvp)

    def sizes(
        step: Any, values: Sequence[Any], operands: Sequence[Any], outs: Sequence[Any], tau: Any
    ) -> list[Any]:
        # what was cancelled before the operand was made is cancelled here, too
        lost = jnp.maximum(jnp.max(operands[0], initial=0) - jnp.max(outs[1], initial=0), 0)
        return [jnp.maximum(jnp.abs(outs[0]), outs[1]) + lost, outs[1]]

    entry = Entry(lambda step, _: [], lambda tape, step, *a: bind(step.eqn, *a), size=sizes)
    register(marked.__name__, entry)
    return lambda *operands: carrying(*operands)[0]


def guard(name: str) -> Callable[[jax.Array, Any], jax.Array]:
    """``guard(name)(value, margin)`` is ``value``; the calculus refuses it where ``margin`` is 0.

    ``margin``, of the shape of ``value`` or with a last axis less, is the distance to the points
    at which the Clarke Jacobian of the operator ``name`` has no representation by scalar kinks.
    """

    def marked(value: jax.Array, margin: jax.Array) -> jax.Array:
        del margin
        return value

    def run(tape: Any, step: Any, value: Any, margin: Any) -> list[Any]:
        tape.kink(jax.lax.stop_gradient(margin), tape.size(0), 0.0)
        return [value] if step.eqn.primitive.multiple_results else value

    marked.__name__ = marked.__qualname__ = f"conservax.operators.guard_{name}"
    entry = Entry(
        lambda step, _: [(name, _REFUSED, step.eqn.outvars[0].aval.shape, None)],
        run,
        size=lambda step, values, sizes, outs, tau: [sizes[0]],
    )
    register(marked.__name__, entry)
    jitted = jax.jit(marked)

    def guarded(value: jax.Array, margin: Any) -> jax.Array:
        margin = jax.lax.stop_gradient(jnp.asarray(margin, value.dtype))
        if margin.ndim < value.ndim:
            margin = margin[..., None]
        # stacked, so that vmap puts its axis at one place in both
        both = jnp.stack([value, jnp.broadcast_to(margin, value.shape)])
        return jitted(both[0], both[1])

    return guarded


def lifted(
    solve: Callable[..., Any], residual: Callable[..., Any], rule: Rule, *inputs: jax.Array
) -> Any:
    """The solution y (a tuple of arrays) of residual(y, *inputs) = 0, and its equation to the calculus.

    ``solve(*inputs)`` finds it; ``rule((y, inputs), tangents)`` is its tangent at the selection that
    JAX makes in ``residual``, so that both name the same element.
    """

    def tangent_of(found: Any, inputs: Any, tangents: Any) -> Any:
        return rule((found[0], inputs), [zero_like(t) for t in tangents])

    return implicit_node(
        lambda *inputs: (solve(*inputs), ()), residual, tangent_of, *inputs, hidden=True
    )[0]
