"""``argmin``: the optimality conditions of a smooth constrained program, as one equation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import InvalidInputError


def argmin(
    objective: Callable[..., Any],
    inequalities: Callable[..., Any] | None = None,
    equalities: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The KKT conditions of min f(x, θ) subject to g(x, θ) ≤ 0, h(x, θ) = 0, as F(sol, *args) = 0:

        ∇ₓ f + λᵀ ∇ₓ g + νᵀ ∇ₓ h = 0,    min(λ, −g) = λ − max(0, λ + g) = 0,    h = 0.

    Ready for ``custom_root``, ``implicit_jacobian``, ``polish`` and ``check``. A kink is active where
    a constraint is weakly active, λ = g = 0.

    Args:
        objective: f(x, *args), a number, twice differentiable in x, a pytree of arrays.
        inequalities: g(x, *args), an array or pytree; None if there are none.
        equalities: h(x, *args), likewise.

    Returns:
        ``optimality_fun(sol, *args)`` of sol = (x, λ, ν), with λ and ν shaped like g and h, and a
        result of the same structure. A multiplier whose constraints are absent is left out:
        (x, λ), (x, ν), or x alone.

    Raises:
        InvalidInputError: sol is no such tuple, or a multiplier is not shaped like its constraints.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Section 3; Robinson, Strongly regular
    generalized equations (1980), on when the conditions are invertible.

    >>> import jax.numpy as jnp, conservax as cx
    >>> nearest = cx.argmin(lambda x, a: (x - a) ** 2 / 2, inequalities=lambda x, a: -x)
    >>> cx.implicit_jacobian(nearest)((0.0, 0.0), 0.0).vertices()[:, 0, 0].tolist()  # of max(0, a)
    [0.0, 1.0]
    """
    parts = [("λ", inequalities), ("ν", equalities)]
    present = [(name, fun) for name, fun in parts if fun is not None]

    def optimality_fun(sol: Any, *args: Any) -> Any:
        if not present:
            return jax.grad(objective)(sol, *args)
        if not isinstance(sol, tuple | list) or len(sol) != 1 + len(present):
            names = ", ".join(["x", *(name for name, _ in present)])
            raise InvalidInputError(f"sol must be the tuple ({names}) of argmin's program.")
        x, *multipliers = sol
        values = [fun(x, *args) for _, fun in present]
        for (name, _), multiplier, value in zip(present, multipliers, values, strict=True):
            _require_alike(name, multiplier, value)

        def lagrangian(x: Any) -> Any:
            total = objective(x, *args)
            for (_, fun), multiplier in zip(present, multipliers, strict=True):
                products = jax.tree.map(lambda m, c: jnp.sum(m * c), multiplier, fun(x, *args))
                total = total + sum(jax.tree.leaves(products))
            return total

        results = [
            jax.tree.map(lambda m, c: m - jax.nn.relu(m + c), multiplier, value)
            if name == "λ"
            else value
            for (name, _), multiplier, value in zip(present, multipliers, values, strict=True)
        ]
        return (jax.grad(lagrangian)(x), *results)

    return optimality_fun


def _require_alike(name: str, multiplier: Any, value: Any) -> None:
    shapes = [
        (jax.tree.structure(t), [jnp.shape(leaf) for leaf in jax.tree.leaves(t)])
        for t in (multiplier, value)
    ]
    if shapes[0] != shapes[1]:
        raise InvalidInputError(
            f"{name} has leaves of shape {shapes[0][1]}, its constraints {shapes[1][1]}: a multiplier takes "
            "the structure and shapes of its constraints."
        )
