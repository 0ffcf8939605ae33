"""Values that a comparison tears in two: a boolean, a sign, a constant chosen by a ``where``.

A torn value is ``upper`` where the comparison's increment is positive and ``lower`` where it is
negative. It jumps, yet the program need not: ``(x > 0) * x`` mends it. So both sides travel on
until they meet a varied value, and only there must they agree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Steering(NamedTuple):
    """Which comparison decides an entry: whether it is active, its slot, the weight of ``upper``."""

    active: Any
    slot: Any
    q: Any


class Torn(NamedTuple):
    """Both sides of a torn value, entry by entry; ``above``: the side on which it stands."""

    upper: Any
    lower: Any
    above: Any
    steering: Any  # a Steering; None under a named policy, which follows one side alone


def of_comparison(name: str, above: Any, steering: Steering, dtype: Any) -> Torn:
    """The result of a comparison or a sign; ``upper`` is the side z > 0 (z = 0 for eq and ne)."""
    shape = jnp.shape(above)
    if name == "sign":
        return Torn(jnp.ones(shape, dtype), -jnp.ones(shape, dtype), above, steering)
    upper = jnp.full(shape, name in ("gt", "ge", "eq"))
    return Torn(upper, ~upper, above, steering)


def broadcast_steering(torn: Torn, shape: tuple[int, ...]) -> tuple[Any, Steering]:
    """``above`` and the steering of a torn operand for a result of another (elementwise) shape."""
    above, steering = jax.tree.map(
        lambda a: jnp.broadcast_to(a, shape), (torn.above, torn.steering)
    )
    return above, steering


def joined(first: Any, second: Any, first_wins: Any) -> Any:
    """Entrywise choice between two pytrees of equal shapes."""
    return jax.tree.map(lambda a, b: jnp.where(first_wins, a, b), first, second)
