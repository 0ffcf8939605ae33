"""``conservative_jacobian``: from a program and a point to its set of Jacobians."""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InvalidInputError
from .cuts.point import point_of
from .jacobian_set import ConservativeJacobian
from .tracing.flattening import columns_in_order
from .tracing.invocation import Invocation, differentiable


def conservative_jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> Callable[..., ConservativeJacobian]:
    """The set of derivatives that a program can have at a point: ``conservative_jacobian(fun)(*args)``.

    J(x) = {A + H (I − D L)⁻¹ D E : D a selection}, from the program's abs-normal form at x.

    Args:
        fun: a function of arrays (pytrees) returning arrays (a pytree).
        argnums: which arguments to differentiate, as in ``jax.jacobian``.
        atol, rtol: a kink is active iff |z| ≤ atol + rtol · (size of the terms that made z);
            defaults 0 and the square root of the dtype's eps.

    Returns:
        A function of ``fun``'s arguments that returns a ConservativeJacobian of shape (m, n).

    Raises:
        UnsupportedOperationError, DiscontinuousError, NotLipschitzError: with file and line.
        InvalidInputError: NaN or non-float inputs.

    Source: Bolte, Pauwels (Math. Program. 2021), Theorem 8 and Corollary 5 (calculus of conservative
    fields); Griewank et al. (LAA 2015) for the abs-normal form.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> J = cx.conservative_jacobian(lambda x: jax.nn.relu(x) - jax.nn.relu(-x))(0.0)
    >>> J.vertices().ravel().tolist(), len(J.kinks)
    ([0.0, 1.0, 2.0], 2)
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def at(*args: Any, **kwargs: Any) -> ConservativeJacobian:
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise InvalidInputError(
                    f"argnums={argnums} but the function was called with {len(args)} arguments."
                )
        chosen = tuple(n % len(args) for n in numbers)
        point = point_of(Invocation.of(fun, args, kwargs), args, chosen, atol, rtol)
        form = point.form()
        order: Any = [differentiable(args[n]) for n in chosen]
        inputs = order[0] if isinstance(argnums, int) else tuple(order)
        permutation = columns_in_order(args, chosen)
        if permutation is not None:
            form = form.restricted(permutation)
        return ConservativeJacobian.of(form, point.cutter.program.outputs, inputs)

    return at
