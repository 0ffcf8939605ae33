"""What the operators accept: vectors, pytrees, and parameters that have a sign."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from ..errors import InvalidInputError


def vector(x: Any, operator: str) -> jax.Array:
    """x as a real floating-point array (n,), n ≥ 1; raises InvalidInputError otherwise."""
    x = as_float(x)
    if x.ndim != 1 or x.size == 0:
        raise InvalidInputError(
            f"{operator} takes a vector (n,) with n ≥ 1, got an array of shape {x.shape}. "
            "Use jax.vmap for a batch of vectors."
        )
    return x


def matrix(x: Any, operator: str, *, square: bool = False) -> jax.Array:
    """x as a real floating-point array (m, n); raises InvalidInputError otherwise."""
    x = as_float(x)
    if x.ndim != 2 or x.size == 0 or (square and x.shape[0] != x.shape[1]):
        kind = "square matrix (n, n)" if square else "matrix (m, n)"
        raise InvalidInputError(
            f"{operator} takes a {kind}, got an array of shape {x.shape}. Use jax.vmap for a batch."
        )
    return x


def as_float(x: Any) -> jax.Array:
    """x as a real floating-point array."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def flat(x: Any) -> tuple[jax.Array, Any]:
    """A pytree as one vector, and the way back."""
    return ravel_pytree(jax.tree.map(as_float, x))


def like(parameter: Any, x: Any) -> Any:
    """A parameter for every leaf of ``x``: a number for all, or a pytree of x's structure."""
    if jax.tree.structure(parameter) == jax.tree.structure(x):
        return parameter
    if jax.tree_util.all_leaves([parameter]) and np.ndim(parameter) == 0:
        return jax.tree.map(lambda _: parameter, x)
    raise InvalidInputError(
        f"the parameter is neither a number nor a pytree like x: {jax.tree.structure(parameter)} "
        f"against {jax.tree.structure(x)}."
    )


def non_negative(value: Any, name: str, dtype: Any) -> jax.Array:
    """A parameter ≥ 0: otherwise InvalidInputError, or NaN where its value is not known yet."""
    if not isinstance(value, Tracer) and np.any(~(np.asarray(value) >= 0)):
        raise InvalidInputError(f"{name} must be at least 0, got {value}.")
    value = jnp.asarray(value, dtype)
    return jnp.where(jax.lax.stop_gradient(value) >= 0, value, jnp.nan)
