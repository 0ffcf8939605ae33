"""A solver's call and its equation, checked and taken apart before anything is solved."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core as jex_core

from ..errors import InvalidInputError


def bound_arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """The arguments of a solver, its defaults filled in."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInputError(
            f"solver{signature} was called with {len(args)} positional arguments: {error}. "
            "The initial point comes first, also where it is not used: solver(None, theta)."
        ) from None
    bound.apply_defaults()
    if not bound.args:
        raise InvalidInputError(
            "the solver takes the initial point as its first argument: solver(init, ...)"
        )
    return bound


def require_parameters(
    optimality_fun: Callable[..., Any], parameters: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """InvalidInputError where F cannot take what follows the initial point, as if that were left out."""
    try:
        signature = inspect.signature(optimality_fun)
    except (TypeError, ValueError):  # a callable that tells none
        return
    try:
        signature.bind(None, *parameters, **kwargs)
    except TypeError as error:
        raise InvalidInputError(
            f"optimality_fun{signature} cannot take the solution and the {len(parameters)} arguments after the "
            f"initial point: {error}. The initial point comes first, also where it is not used: "
            "solver(None, theta)."
        ) from None


def decided_dtypes(leaves: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """The types of a solution: what is weakly typed takes the precision of the arguments."""
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise InvalidInputError(
            "the solver must return real floating-point arrays (a pytree of them)."
        )
    real = [a for a in arrays if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    given = jnp.result_type(*real) if real else None
    return [
        jax.ShapeDtypeStruct(leaf.shape, given if leaf.weak_type and given else leaf.dtype)
        for leaf in leaves
    ]


def converted(
    residual: Callable[..., Any], leaves: Sequence[Any], arrays: Sequence[Any]
) -> tuple[Callable[..., Any], list[Any]]:
    """F as a function of its solution's leaves, the arrays, and what is traced that it closes over."""
    closed = jax.make_jaxpr(residual)(list(leaves), *arrays)
    unknowns = sum(leaf.size for leaf in leaves)
    equations = sum(v.aval.size for v in closed.jaxpr.outvars)
    if unknowns != equations:
        raise InvalidInputError(
            f"optimality_fun returns {equations} numbers for a solution of {unknowns}: "
            "the implicit function theorem needs one equation an unknown. "
            "Check the shapes that optimality_fun(sol, *args) returns."
        )
    traced = [i for i, c in enumerate(closed.consts) if isinstance(c, Tracer)]
    hoisted = [closed.consts[i] for i in traced]
    jaxpr = closed.jaxpr
    fixed = [None if isinstance(c, Tracer) else c for c in closed.consts]

    def flat(leaves: Sequence[Any], *inputs: Any) -> list[Any]:
        consts = list(fixed)
        for i, c in zip(traced, inputs[len(arrays) :], strict=True):
            consts[i] = c
        run = jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(jaxpr, consts))
        return run(*leaves, *inputs[: len(arrays)])

    return flat, hoisted
