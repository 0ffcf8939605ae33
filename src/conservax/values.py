"""``value``: x ↦ max_y f(x, y), differentiated by the envelope theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from .calculus import Entry, register
from .errors import InvalidInputError, NotARootError

_MARKER = "conservax.held"


def value(
    fun: Callable[..., Any],
    maximiser: Any,
    sense: str = "max",
    *,
    stacked: bool = False,
    project: Callable[..., Any] | None = None,
    stationarity: Callable[..., Any] | None = None,
    tol: float | None = None,
) -> Callable[..., jax.Array]:
    """The value function v(x) = max_{y ∈ Y} f(x, y), with ∂v(x) = conv{∂_x f(x, y) : y maximises}.

    Args:
        fun: f(x, y, *args), one number; continuously differentiable in x, or with kinks that the
            calculus knows. Where constraints on y move with x, give the Lagrangian, and (y, multipliers)
            in place of y.
        maximiser: a finite Y, stacked along the first axis (an array or a pytree of arrays); or a
            function (x, *args) ↦ y, any solver, such as a program of the library.
        sense: "max" or "min".
        stacked: the function returns several maximisers, stacked along the first axis.
        project: the projection onto a convex Y, y ↦ P(y) or (y, x, *args) ↦ P(y): each y is then
            checked to satisfy y = P(y ± ∇_y f).
        stationarity: G(x, y, *args), which is checked to vanish.
        tol: of these checks, relative to the terms; by default the fourth root of eps.

    Returns:
        v(x, *args), for every transformation. ``jax.grad(v)`` is ∂_x f at a maximiser, their mean
        where several tie; second derivatives see y move, if the maximiser has a derivative.
        ``cx.conservative_jacobian(v)`` holds the whole set.

    Raises:
        NotARootError: eagerly, where a maximiser fails its check; NaN under jit.
        InvalidInputError: sense, an empty Y or one with NaN, f of other than one number.

    Source: Danskin, The theory of max-min (1967); Clarke (1983), Theorem 2.8.2 and Corollary 2.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> v = cx.value(lambda x, y: x * y - y**2 / 2, lambda x: jnp.clip(x, -1.0, 1.0))
    >>> float(v(3.0)), float(jax.grad(v)(3.0))
    (2.5, 1.0)
    >>> J = cx.conservative_jacobian(cx.value(lambda x, y: x * y, jnp.array([-1.0, 2.0])))(0.0)
    >>> sorted(J.vertices().ravel().tolist())
    [-1.0, 2.0]
    """
    if sense not in ("max", "min"):
        raise InvalidInputError(f"sense={sense!r} is not 'max' or 'min'.")
    if tol is not None and not tol > 0:
        raise InvalidInputError(f"tol={tol} must be positive.")
    finite = not callable(maximiser)
    if finite:
        leaves = jax.tree.leaves(maximiser)
        lengths = {np.shape(leaf)[:1] for leaf in leaves}
        if len(lengths) != 1 or lengths in ({()}, {(0,)}):
            raise InvalidInputError(
                "a finite set of y is stacked along the first axis of every leaf, and holds one at least; "
                f"the leaves have shapes {[np.shape(leaf) for leaf in leaves]}."
            )

        if any(not isinstance(leaf, Tracer) and np.any(np.isnan(leaf)) for leaf in leaves):
            raise InvalidInputError("the finite set of y holds NaN: it has no largest value.")

    def v(x: Any, *args: Any) -> jax.Array:
        found = maximiser if finite else jax.tree.map(_held, maximiser(x, *args))
        many = finite or stacked

        def at(y: Any) -> jax.Array:
            out = fun(x, y, *args)
            if jnp.shape(out) != ():
                raise InvalidInputError(
                    f"fun(x, y) returns an array of shape {jnp.shape(out)} in place of one number. If the "
                    "maximiser returns several y, say stacked=True; else sum over what fun returns."
                )
            return jnp.asarray(out)

        values = jax.vmap(at)(found) if many else at(found)[None]
        result = jnp.max(values) if sense == "max" else jnp.min(values)
        result = result if many else jnp.squeeze(values, 0)
        if finite or (project is None and stationarity is None):
            return result
        stack = found if many else jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)
        off = jnp.max(
            jax.vmap(lambda y: _off(fun, sense, x, y, args, project, stationarity))(stack)
        )
        return _checked(result, off, tol)

    return v


def _off(
    fun: Callable[..., Any],
    sense: str,
    x: Any,
    y: Any,
    args: tuple[Any, ...],
    project: Callable[..., Any] | None,
    stationarity: Callable[..., Any] | None,
) -> jax.Array:
    """How far y is from stationary, relative to the size of y and of the gradient."""
    x, y, args = jax.lax.stop_gradient((x, y, args))
    flat, unravel = ravel_pytree(y)
    off = jnp.zeros((), flat.dtype)
    if stationarity is not None:
        residual = ravel_pytree(stationarity(x, y, *args))[0]
        off = jnp.max(jnp.abs(residual), initial=0.0) / (1 + jnp.max(jnp.abs(flat), initial=0.0))
    if project is not None:
        slope = ravel_pytree(jax.grad(lambda y: fun(x, y, *args))(y))[0]
        moved = flat + (slope if sense == "max" else -slope)
        try:
            back = project(unravel(moved), x, *args)
        except TypeError:
            back = project(unravel(moved))
        gap = jnp.abs(ravel_pytree(back)[0] - flat)
        size = 1 + jnp.max(jnp.abs(flat), initial=0.0) + jnp.max(jnp.abs(slope), initial=0.0)
        off = jnp.maximum(off, jnp.max(gap, initial=0.0) / size)
    return jax.lax.stop_gradient(off)


def _checked(result: jax.Array, off: jax.Array, tol: float | None) -> jax.Array:
    limit = float(jnp.finfo(result.dtype).eps) ** 0.25 if tol is None else tol
    if isinstance(off, Tracer):
        return jnp.where(off <= limit, result, jnp.nan)
    if not float(off) <= limit:
        raise NotARootError(
            f"the maximiser returned a y that is none: its stationarity condition is off by {float(off):.3g} "
            f"(relative), more than {limit:.3g}. Let its solver run longer, or check that it maximises this f."
        )
    return result


def _identity(y: jax.Array) -> jax.Array:
    return y


_identity.__name__ = _identity.__qualname__ = _MARKER
_hold = jax.custom_jvp(_identity)


@_hold.defjvp
def _(primals: Any, tangents: Any) -> Any:
    # the first derivative is ∂_x f at y held still (envelope); in the second y moves: it is bare here
    return primals[0], jnp.zeros_like(tangents[0])


def _held(y: Any) -> Any:
    y = jnp.asarray(y)
    return _hold(y) if jnp.issubdtype(y.dtype, jnp.floating) else y


register(
    _MARKER,
    Entry(
        lambda step, _: [],
        lambda tape, step, *operands: [jax.lax.stop_gradient(operands[-1])],
        size=lambda step, values, sizes, outs, tau: [jnp.abs(outs[0])],
        varies=False,
    ),
)
