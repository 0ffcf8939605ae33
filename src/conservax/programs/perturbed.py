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

from ..errors import UnboundedError, UnsupportedOperationError


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
        try:
            ahead = plain(P, c + tau * along, A, b).primal
        except UnboundedError:
            raise UnboundedError(
                f"perturbed={tau:g} asks for the solution with c + τg in place of c, τ = {tau:g} and g the "
                "loss's gradient in the primal, and there the objective falls without bound, though at c "
                "it does not. Take a smaller τ, or bound the feasible set, for instance by a box."
            ) from None
        step = (ahead - x) / tau
        extra = step.ndim - c.ndim
        axes = [*range(extra)]
        axes += [k + extra for k, n in enumerate(c.shape) if n == 1 and step.shape[k + extra] > 1]
        moved = jnp.sum(step, axis=tuple(axes)).reshape(c.shape) if axes else step
        return P_bar, of_rest + moved.astype(c.dtype), A_bar, b_bar

    solve.defvjp(forward, backward)

    def call(*data: Any) -> Any:
        try:
            return solve(*(part if hasattr(part, "dtype") else jnp.asarray(part) for part in data))
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            raise UnsupportedOperationError(
                f"perturbed={tau:g} has gradients (jax.grad, jax.vjp, jax.jacrev) alone: a difference "
                "along a cotangent has no forward mode. For jax.jvp and jax.jacfwd leave perturbed out, "
                "which gives the derivative."
            ) from None

    return call
