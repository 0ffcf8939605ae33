"""Gradients of linear programs that look ahead: the finite difference of solutions along a cotangent.

The solution of a linear program is a vertex, which stays where it is until another one is better: its
derivative in c is zero almost everywhere. For a loss with the gradient g at x(c),

    c̄ = (x(c + τg) − x(c)) / τ

is the gradient of a piecewise affine interpolation of the loss (Vlastelica, Paulus, Musil, Martius,
Rolínek, Differentiation of blackbox combinatorial solvers, 2020). A small barrier teaches nothing at a
vertex, where its gradient is of the size of μ.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def looking_ahead(plain: Callable[..., Any], tau: float) -> Callable[..., Any]:
    """(P, c, A, b) ↦ what ``plain`` returns; the primal's gradient in c is the difference above.

    ``plain`` returns something with a field ``primal``. What dual and slack ask for, and the other data,
    get the derivative itself. Reverse mode alone: a difference along a cotangent has no tangent.
    """

    @jax.custom_vjp
    def solve(P: Any, c: Any, A: Any, b: Any) -> Any:
        return plain(P, c, A, b)

    def forward(P: Any, c: Any, A: Any, b: Any) -> Any:
        found, pull = jax.vjp(plain, P, c, A, b)
        return found, (pull, found.primal, P, c, A, b)

    def backward(kept: Any, bars: Any) -> Any:
        pull, x, P, c, A, b = kept
        P_bar, _, A_bar, b_bar = pull(bars)
        _, of_rest, _, _ = pull(bars._replace(primal=jnp.zeros_like(bars.primal)))
        along = bars.primal.astype(c.dtype)
        ahead = plain(P, c + tau * along, A, b).primal
        step = (ahead - x) / tau
        extra = step.ndim - c.ndim
        axes = [*range(extra)]
        axes += [k + extra for k, n in enumerate(c.shape) if n == 1 and step.shape[k + extra] > 1]
        moved = jnp.sum(step, axis=tuple(axes)).reshape(c.shape) if axes else step
        return P_bar, of_rest + moved.astype(c.dtype), A_bar, b_bar

    solve.defvjp(forward, backward)
    return lambda *data: solve(
        *(part if hasattr(part, "dtype") else jnp.asarray(part) for part in data)
    )
