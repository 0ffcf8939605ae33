"""Programs that use a chosen selection at their kinks: ``select``."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import SelectionError
from .operations.policy import POLICIES, Select
from .passes.interpreter import run_program
from .passes.planning import trace
from .tracing.invocation import Invocation
from .tracing.program import Program, Site

_SELECTABLE = ("kink", "comparison", "tie", "sort")
Selection = str | Mapping[str, Any]


def select(fun: Callable[..., Any], selection: Selection) -> Callable[..., Any]:
    """The same function, with derivatives taken along one selection at its kinks.

    Where a kink's increment z is exactly 0, the derivative uses the slope
    ``lower + q (upper − lower)``: q = 1 is the slope for z > 0, q = 0 the slope for z < 0.

    Args:
        fun: a function of arrays (pytrees).
        selection: "jax" (what ``jax.grad`` does), "lower" (q = 0), "upper" (q = 1), or a dict from
            site name (``relu@model.py:12``, see ``sites``) to weights of the site's shape; sites
            left out follow JAX.

    Returns:
        A function with the same values, for use under jit, vmap, grad and the other transformations.

    Raises:
        SelectionError: unknown policy, unknown site, wrong shape, or weights outside [0, 1].
        UnsupportedOperationError: the program executes an operation that the calculus does not know.

    Source: Bolte, Pauwels, Conservative set valued fields (2021), Theorem 8: every selection of a
    definable program's conservative Jacobian is a valid derivative for optimisation.

    >>> import jax, conservax as cx
    >>> [float(jax.grad(cx.select(jax.nn.relu, s))(0.0)) for s in ("jax", "lower", "upper")]
    [0.0, 0.0, 1.0]
    """
    if isinstance(selection, str) and selection not in POLICIES:
        raise SelectionError(
            f"selection={selection!r} is not one of {', '.join(POLICIES)}, nor a dict."
        )
    if selection == "jax":
        return fun

    @functools.wraps(fun)
    def selected(*args: Any, **kwargs: Any) -> Any:
        call = Invocation.of(fun, args, kwargs)
        program = trace(call.run, call.leaves, call.owned_by(range(-1, len(args))))
        policy = selection if isinstance(selection, str) else explicit_weights(program, selection)
        outs = run_program(program, call.leaves, Select(policy))
        return jax.tree.unflatten(program.out_tree, outs)

    return selected


def sites(fun: Callable[..., Any]) -> Callable[..., tuple[Site, ...]]:
    """The nonsmooth operations of a program: ``sites(fun)(*args)``, in order of execution.

    >>> import jax, conservax as cx
    >>> [s.operation for s in cx.sites(lambda x: abs(x) + jax.nn.relu(x))(0.0)]
    ['abs', 'relu']
    """

    def of(*args: Any, **kwargs: Any) -> tuple[Site, ...]:
        call = Invocation.of(fun, args, kwargs)
        program = trace(call.run, call.leaves, call.owned_by(range(len(args))))
        return tuple(s for s in program.sites if s.kind in _SELECTABLE)

    return of


def explicit_weights(program: Program, selection: Mapping[str, Any]) -> jax.Array:
    """One flat array over the program's slots: the weights asked for, NaN elsewhere."""
    known: dict[str, list[Site]] = {}
    for site in program.sites:
        if site.kind in _SELECTABLE:
            known.setdefault(site.name, []).append(site)
    flat = jnp.full(program.size, jnp.nan, program.dtype)
    for name, weights in selection.items():
        if name not in known:
            raise SelectionError(
                f"selection names the site {name!r}, which this program does not have; "
                f"its sites are {', '.join(sorted(known)) or 'none'}."
            )
        for site in known[name]:
            shape = np.shape(weights)
            if shape not in ((), site.shape):
                raise SelectionError(
                    f"selection[{name!r}] has shape {shape}; the site has shape {site.shape}."
                )
            if not isinstance(weights, Tracer):
                values = np.asarray(weights)
                if not np.all((values >= 0) & (values <= 1)):
                    raise SelectionError(f"selection[{name!r}] has weights outside [0, 1].")
            filled = jnp.broadcast_to(jnp.asarray(weights, program.dtype), site.shape)
            flat = flat.at[site.slots().ravel()].set(filled.ravel())
    return flat
