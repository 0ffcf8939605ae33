"""One text for two engines: NumPy on the host, which compiles nothing, and JAX, which XLA compiles.

Functions of arrays ask ``namespace`` which of the two their arguments belong to; loops and branches
that XLA has to see as such go through this module.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array: TypeAlias = Any  # NumPy's on the host, else JAX's

_OF_NUMPY = {np.ndarray, np.float64, np.bool_, float, int, bool, type(None)}

Carry = TypeVar("Carry")


def on_host(*trees: Any) -> bool:
    """Whether all arrays of these pytrees are NumPy's."""
    return namespace(*jax.tree.leaves(trees)) is np


def namespace(*arrays: Any) -> Any:
    """``numpy`` if these arrays are NumPy's, else ``jax.numpy``."""
    for array in arrays:
        # what is not NumPy's for certain is asked whether it is JAX's, which takes longer
        if type(array) not in _OF_NUMPY and isinstance(array, jax.Array):
            return jnp
    return np


def transpose(matrix: Array) -> Array:
    """Of the last two axes."""
    return namespace(matrix).swapaxes(matrix, -1, -2)


def join(parts: Sequence[Array], axis: int = -1) -> Array:
    """One array from its parts."""
    return parts[0] if len(parts) == 1 else namespace(*parts).concatenate(parts, axis=axis)


def while_loop(
    going: Callable[[Carry], Any], step: Callable[[Carry], Carry], carry: Carry
) -> Carry:
    """``lax.while_loop``, and on the host the loop itself."""
    if not on_host(carry):
        return lax.while_loop(going, step, carry)
    while going(carry):
        carry = step(carry)
    return carry


def fori_loop(stop: int, step: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """``lax.fori_loop`` from 0, and on the host the loop itself."""
    if not on_host(carry):
        return lax.fori_loop(0, stop, step, carry)
    for k in range(stop):
        carry = step(k, carry)
    return carry


def cond(pred: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """``lax.cond``, and on the host the branch itself."""
    if isinstance(pred, jax.Array):
        return lax.cond(pred, yes, no)
    return yes() if pred else no()
