"""The sizes of the terms that made the entries of a Jacobian: what of them may be rounding.

An entry 0.1 + 0.2 − 0.3 is 6e-17 and its terms add up to 0.6. The linearised program is a program, whose
sizes the running error analysis carries along as it does for any other (docs/theory.md#sizes).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import ConservaxError
from ..operations.discover import Discover
from ..passes.interpreter import measured_outputs
from ..passes.planning import trace
from .point import Point

_LARGEST = 200  # unknowns and kinks up to which the sizes are looked for


class EntrySizes(NamedTuple):
    """Of the terms that made each entry of A (m, n), H (m, k), E (k, n) and L (k, k)."""

    A: np.ndarray
    H: np.ndarray
    E: np.ndarray
    L: np.ndarray


def entry_sizes(point: Point, inputs: tuple[bool, ...]) -> EntrySizes | None:
    """The sizes at a point whose kinks are scalar ones, and which holds no solves; None elsewhere."""
    linear = point.linearised(inputs)
    if linear is None or linear.columns > _LARGEST:
        return None
    base = jnp.zeros(linear.columns, linear.dtype)

    def column(leaves: Any) -> list[Any]:
        start, direction = leaves
        return [jax.jvp(linear.run, (start,), (direction,))[1]]

    try:
        program = trace(column, [linear.at, base], (True, True))
        _, (sizes,) = jax.jit(
            jax.vmap(
                lambda direction: measured_outputs(
                    program, [linear.at, direction], Discover(linear.dtype)
                )
            )
        )(jnp.eye(linear.columns, dtype=linear.dtype))
    except ConservaxError:  # an operation that the calculus cannot measure twice
        return None
    full = np.asarray(sizes, dtype=np.float64).T
    if not np.all(np.isfinite(full)):
        return None
    m, n = linear.outputs, linear.unknowns
    return EntrySizes(full[:m, :n], full[:m, n:], full[m:, :n], full[m:, n:])
