"""Items of a batch that have no derivative: what a loss does not look at adds nothing to its gradient.

Their derivative is the relation with the domain {0}: 0 ↦ 0, and NaN for all else, item by item, in both
modes and however often it is differentiated (docs/theory.md#failed-items).
"""

import jax
import jax.numpy as jnp
from jax import lax

from ..arrays.namespace import Array


def partial_solution(x: Array, right: Array, known: Array) -> Array:
    """The solution of an item's system: 0 for the right-hand side 0, NaN where nothing is known.

    Inside ``lax.custom_linear_solve`` only: a mask that looks at ``right`` has no transpose.

    Args:
        x, right: (batch, …), of which an item is one along the first axis. known: (batch,), boolean.
    """
    axes = tuple(range(1, right.ndim))
    still = jnp.all(right == 0, axis=axes, keepdims=True)
    return jnp.where(still, 0, jnp.where(_along(known, x), x, jnp.nan))


def partial_identity(x: Array, known: Array) -> Array:
    """x, linear in it, as a relation that is {0 ↦ 0} in the items that are not known.

    Args:
        x: (…, n) or with more axes, of which ``known`` (…) names the leading ones.
    """
    leading = tuple(range(known.ndim, x.ndim))

    def mask(_: object, right: Array) -> Array:
        still = jnp.all(right == 0, axis=leading, keepdims=True)
        return jnp.where(still, 0, jnp.where(_along(known, right), right, jnp.nan))

    return lax.custom_linear_solve(lambda v: v, x, mask, mask, symmetric=True)


@jax.custom_jvp
def standing_in(x: Array, known: Array, number: Array | float) -> Array:
    """x, and a number in its place where the item failed, with the derivative of x in both."""
    return jnp.where(_along(known, x), x, number)


@standing_in.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    return standing_in(*primals), tangents[0]


def _along(known: Array, x: Array) -> Array:
    return known.reshape(known.shape + (1,) * (x.ndim - known.ndim))
