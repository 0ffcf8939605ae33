"""NaN where a solve failed, in value and derivative, and nowhere else."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def poisoned(tree: Any, good: jax.Array) -> Any:
    """The tree where ``good``, else NaN, in value and derivative; a zero tangent stays zero."""
    return jax.tree.map(lambda x: _masked(x, good), tree)


@jax.custom_jvp
def _masked(x: jax.Array, good: jax.Array) -> jax.Array:
    return jnp.where(good, x, jnp.nan)


@_masked.defjvp
def _masked_rule(primals: Any, tangents: Any) -> Any:
    x, good = primals

    def pass_on(_: Any, t: jax.Array) -> jax.Array:
        return jnp.where(good | (t == 0), t, jnp.nan)

    # as a linear solve, so that the mask has a transpose
    tangent = jax.lax.custom_linear_solve(
        lambda v: v, tangents[0], pass_on, pass_on, symmetric=True
    )
    return _masked(x, good), tangent
