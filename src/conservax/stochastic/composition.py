"""Chains of an optimiser with clipping and weight decay that still know which theorem they fall under.

optax's own chain forgets its parts; these transformations are optax's, with their description beside.
"""

from typing import Any, NamedTuple

import numpy as np
import optax

from ..errors import InvalidInputError
from .optimisers import Method, Optimiser

__all__ = ["Chain", "Effect", "chain", "clip", "clip_by_global_norm", "weight_decay"]


class Effect(NamedTuple):
    """What a part of a chain does to what passes through it: its name, "" for an unknown one; its number.

    ``partial``: whether a mask leaves some parameters out.
    """

    name: str
    number: float = 0.0
    partial: bool = False


class Part(optax.GradientTransformation):
    """An optax transformation that knows what it does."""

    effect: Effect

    def __new__(cls, made: optax.GradientTransformation, effect: Effect) -> "Part":
        """The pair of functions, with the effect as an attribute."""
        part = super().__new__(cls, made.init, made.update)
        part.effect = effect
        return part


class Chain(optax.GradientTransformationExtraArgs):
    """An optax chain around one optimiser: ``method``; the effects ``before`` it, and ``after`` it."""

    parts: tuple[Any, ...]
    method: Method
    before: tuple[Effect, ...]
    after: tuple[Effect, ...]

    def __new__(cls, parts: tuple[Any, ...]) -> "Chain":
        """The chain of optax, with its parts as an attribute."""
        made: Any = optax.chain(*parts)
        found = super().__new__(cls, made.init, made.update)
        at = next(n for n, part in enumerate(parts) if isinstance(part, Optimiser))
        found.parts, found.method = parts, parts[at].method
        found.before, found.after = map(_effects, (parts[:at], parts[at + 1 :]))
        return found


def _effects(parts: tuple[Any, ...]) -> tuple[Effect, ...]:
    return tuple(p.effect if isinstance(p, Part) else Effect("") for p in parts)


def chain(*parts: Any) -> Chain:
    """``optax.chain(*parts)`` that ``guarantee`` can read: an optimiser of ``cx.stochastic``, others around.

    Args:
        parts: optax transformations, exactly one of them an optimiser of ``cx.stochastic``. Of the others
            ``guarantee`` knows ``clip``, ``clip_by_global_norm`` and ``weight_decay`` of ``cx.stochastic``; for
            any other it says that no theorem is known.

    Returns:
        A Chain, an optax transformation. Raises InvalidInputError for no optimiser, or several.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 3; docs/training.md#optimisers.

    >>> import jax.numpy as jnp, conservax as cx
    >>> opt = chain(clip_by_global_norm(1.0), cx.stochastic.sgd(0.5))
    >>> updates, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.zeros(2)))
    >>> [round(float(u), 6) for u in updates]
    [-0.3, -0.4]
    """
    flat = tuple(p for part in parts for p in (part.parts if isinstance(part, Chain) else (part,)))
    for n, part in enumerate(flat):
        if not (hasattr(part, "init") and hasattr(part, "update")):
            raise InvalidInputError(
                f"part {n + 1} of the chain, {part!r}, is no optax transformation."
            )
    count = sum(isinstance(part, Optimiser) for part in flat)
    if count != 1:
        raise InvalidInputError(
            f"the chain holds {count} optimisers of cx.stochastic: its theorem is that of exactly one, such as "
            "cx.stochastic.sgd(schedule). optax.chain takes anything."
        )
    return Chain(flat)


def clip(delta: float) -> Part:
    """``optax.clip``: every entry cut to [−δ, δ].

    >>> import jax.numpy as jnp
    >>> part = clip(1.0)
    >>> part.update(jnp.array([3.0, -0.5]), part.init(jnp.zeros(2)))[0].tolist()
    [1.0, -0.5]
    """
    return Part(optax.clip(_positive("delta", delta)), Effect("clip", float(delta)))


def clip_by_global_norm(norm: float) -> Part:
    """``optax.clip_by_global_norm``: v · min(1, c/‖v‖).

    >>> import jax.numpy as jnp
    >>> part = clip_by_global_norm(1.0)
    >>> [round(float(u), 6) for u in part.update(jnp.array([3.0, 4.0]), part.init(jnp.zeros(2)))[0]]
    [0.6, 0.8]
    """
    made = optax.clip_by_global_norm(_positive("norm", norm))
    return Part(made, Effect("clip_by_global_norm", float(norm)))


def weight_decay(rate: float, mask: Any = None) -> Part:
    """``optax.add_decayed_weights``: v + λw, the gradient of (λ/2)‖w‖² added; before the optimiser.

    ``mask``: which leaves decay, a pytree of booleans like the parameters or a function that returns one.

    >>> import jax.numpy as jnp
    >>> part, w = weight_decay(0.5), jnp.array([2.0])
    >>> part.update(jnp.array([1.0]), part.init(w), w)[0].tolist()
    [2.0]
    """
    made = optax.add_decayed_weights(_positive("rate", rate), mask)
    return Part(made, Effect("weight_decay", float(rate), mask is not None))


def _positive(name: str, value: Any) -> Any:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not 0 < value < np.inf
    ):
        raise InvalidInputError(f"{name}={value!r} must be a positive number.")
    return value
