"""Optimisers with convergence theorems for nonsmooth losses, as optax transformations.

Each is a pair (init, update) that composes with optax's own: clipping and weight decay before, masks
around. States are pytrees of arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import InvalidInputError

Step = Any  # a number, or a function of the number of steps taken

__all__ = [
    "Method",
    "Optimiser",
    "adagrad_norm",
    "heavy_ball",
    "incremental",
    "inertial_newton",
    "random_start",
    "sgd",
]


@dataclass(frozen=True)
class Method:
    """What an optimiser is, for those who look up its theorem.

    ``name``; ``schedule``: its step sizes; ``numbers``: its other constants.
    """

    name: str
    schedule: Step
    numbers: dict[str, Any]


class Optimiser(optax.GradientTransformation):
    """An optax transformation that knows which method it is."""

    method: Method

    def __new__(cls, init: Any, update: Any, method: Method) -> "Optimiser":
        """The pair of functions, with the method as an attribute."""
        made = super().__new__(cls, init, update)
        made.method = method
        return made


class ScaledState(NamedTuple):
    """``steps``: the number of updates so far; ``scale``: the random factor s of all steps."""

    steps: Any
    scale: jax.Array


class MomentumState(NamedTuple):
    """``steps``: the number of updates so far; ``momentum``: y, like the parameters."""

    steps: Any
    momentum: Any


class InertialState(NamedTuple):
    """``steps``: the number of updates so far; ``drift``: d = (1/β − α)θ − ψ/β, like the parameters."""

    steps: Any
    drift: Any


class NormState(NamedTuple):
    """``total``: b² = b₀² + Σ‖g‖²."""

    total: jax.Array


def _step(schedule: Step, count: jax.Array) -> Any:
    return schedule(count) if callable(schedule) else schedule


def _require_step(name: str, schedule: Step) -> None:
    if callable(schedule) or isinstance(schedule, jax.Array):
        return
    if not (isinstance(schedule, int | float | np.number) and 0 < schedule < np.inf):
        raise InvalidInputError(
            f"{name}={schedule!r} must be a positive number, or a function of the step such as "
            "cx.stochastic.schedules.inverse_power(0.1)."
        )


def _zero() -> jax.Array:
    return jnp.zeros([], jnp.int32)


def _like(number: Any, leaf: Any) -> Any:
    """A scalar in the precision of a leaf, so that states and updates keep theirs."""
    return jnp.asarray(number, leaf.dtype)


def sgd(
    schedule: Step, key: jax.Array | None = None, scale: tuple[float, float] = (0.5, 1.5)
) -> Optimiser:
    """Stochastic subgradient descent: w ← w − s α_k g, with one random factor s for the whole run.

    Args:
        schedule: α_k, a number or a function of k.
        key: draws s uniformly from ``scale`` when the state is made; without it s = 1. "Almost every s"
            in the theorem is what a random s gives.
        scale: (s_min, s_max), 0 < s_min < s_max.

    Returns:
        An Optimiser. Raises InvalidInputError for a step or a scale that is not positive.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 3 and Appendix A.2.

    >>> import jax.numpy as jnp, optax
    >>> opt = sgd(0.5)
    >>> updates, state = opt.update(jnp.ones(2), opt.init(jnp.zeros(2)))
    >>> updates.tolist()
    [-0.5, -0.5]
    """
    _require_step("schedule", schedule)
    low, high = scale
    if not 0 < low < high < np.inf:
        raise InvalidInputError(f"scale={scale!r} must be (s_min, s_max) with 0 < s_min < s_max.")

    def init(params: Any) -> ScaledState:
        del params
        if key is None:
            return ScaledState(_zero(), jnp.ones([]))
        return ScaledState(_zero(), jax.random.uniform(key, minval=low, maxval=high))

    def update(updates: Any, state: ScaledState, params: Any = None) -> tuple[Any, ScaledState]:
        del params
        step = -state.scale * _step(schedule, state.steps)
        moved = jax.tree.map(lambda g: _like(step, g) * g, updates)
        return moved, ScaledState(optax.safe_increment(state.steps), state.scale)

    numbers = {"scale": scale, "random": key is not None}
    return Optimiser(init, update, Method("sgd", schedule, numbers))


def incremental(schedule: Step, batches: int = 1) -> Optimiser:
    """Incremental descent in passes: w ← w − α_p g_i for i = 1, …, batches, the step fixed in a pass p.

    Args:
        schedule: α_p, a number or a function of the number of passes.
        batches: the updates in a pass; the gradients must come in passes through all of them.

    Returns:
        An Optimiser. Raises InvalidInputError for a step that is not positive, or batches < 1.

    Source: Bolte, Pauwels (Math. Program. 2021), Section 6; Bolte, Le, Pauwels, Silveti-Falls (2021).

    >>> import jax.numpy as jnp
    >>> opt = incremental(lambda p: 1 / (p + 1), batches=2)
    >>> state, steps = opt.init(0.0), []
    >>> for _ in range(4):
    ...     update, state = opt.update(jnp.ones(()), state)
    ...     steps.append(float(update))
    >>> steps
    [-1.0, -1.0, -0.5, -0.5]
    """
    _require_step("schedule", schedule)
    if not (isinstance(batches, int) and batches >= 1):
        raise InvalidInputError(
            f"batches={batches!r} must be the number of updates in a pass, at least 1."
        )

    def init(params: Any) -> ScaledState:
        del params
        return ScaledState(_zero(), jnp.ones([]))

    def update(updates: Any, state: ScaledState, params: Any = None) -> tuple[Any, ScaledState]:
        del params
        step = _step(schedule, state.steps // batches)
        moved = jax.tree.map(lambda g: -_like(step, g) * g, updates)
        return moved, ScaledState(optax.safe_increment(state.steps), state.scale)

    return Optimiser(init, update, Method("incremental", schedule, {"batches": batches}))


def heavy_ball(alpha: Step, beta: Step = 0.1) -> Optimiser:
    """Stochastic heavy ball: y ← β_k g + (1 − β_k) y, then w ← w − α_k y, from y = 0.

    Args:
        alpha: α_k, a number or a function of k.
        beta: β_k in (0, 1], a number or a function of k: the share of the new gradient.

    Returns:
        An Optimiser; its state holds one copy of the parameters. Raises InvalidInputError for numbers
        outside their range.

    Source: Le, Nonsmooth nonconvex stochastic heavy ball (JOTA 2024), equation (1).

    >>> import jax.numpy as jnp
    >>> opt = heavy_ball(1.0, 0.5)
    >>> state, w = opt.init(jnp.zeros(())), 0.0
    >>> for _ in range(3):
    ...     update, state = opt.update(jnp.ones(()), state)
    ...     w += float(update)
    >>> w
    -2.125
    """
    _require_step("alpha", alpha)
    _require_step("beta", beta)
    if not callable(beta) and not isinstance(beta, jax.Array) and beta > 1:
        raise InvalidInputError(
            f"beta={beta!r} must lie in (0, 1]: it is the share of the new gradient."
        )

    def init(params: Any) -> MomentumState:
        return MomentumState(_zero(), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: MomentumState, params: Any = None) -> tuple[Any, MomentumState]:
        del params
        a, b = _step(alpha, state.steps), _step(beta, state.steps)

        def mixed(g: Any, y: Any) -> Any:
            share = _like(b, y)
            return share * g + (1 - share) * y

        momentum = jax.tree.map(mixed, updates, state.momentum)
        moved = jax.tree.map(lambda y: -_like(a, y) * y, momentum)
        return moved, MomentumState(optax.safe_increment(state.steps), momentum)

    return Optimiser(init, update, Method("heavy_ball", alpha, {"beta": beta}))


def inertial_newton(learning_rate: Step, alpha: float = 0.5, beta: float = 0.1) -> Optimiser:
    """INNA, an inertial Newton method without Hessians.

        d = (1/β − α) θ − ψ/β,   ψ ← ψ + γ_k d,   θ ← θ + γ_k d − γ_k β g,   ψ₀ = (1 − αβ) θ₀

    The state is d itself, which starts at 0 and follows d ← (1 − αγ_k) d − (1 − αβ) γ_k g: the same
    recursion, without ψ and without the parameters.

    Args:
        learning_rate: γ_k, a number or a function of k, with αγ_k < 1.
        alpha: viscous damping, at least 0. beta: Newtonian damping, positive.

    Returns:
        An Optimiser; its state holds one copy of the parameters. Raises InvalidInputError for numbers
        outside their range.

    Source: Castera, Bolte, Févotte, Pauwels, An inertial Newton algorithm for deep learning (JMLR
    2021), Algorithm 1.

    >>> import jax.numpy as jnp
    >>> opt = inertial_newton(0.1)
    >>> theta = jnp.ones(())
    >>> updates, state = opt.update(jnp.ones(()), opt.init(theta), theta)
    >>> round(float(theta + updates), 6)
    0.99
    """
    _require_step("learning_rate", learning_rate)
    if not 0 <= alpha < np.inf:
        raise InvalidInputError(f"alpha={alpha!r} must be at least 0: it is the viscous damping.")
    if not 0 < beta < np.inf:
        raise InvalidInputError(f"beta={beta!r} must be positive: it is the Newtonian damping.")
    if not callable(learning_rate) and alpha * learning_rate >= 1:
        raise InvalidInputError(
            f"learning_rate={learning_rate!r} times alpha={alpha!r} must be below 1."
        )

    def init(params: Any) -> InertialState:
        return InertialState(_zero(), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: InertialState, params: Any = None) -> tuple[Any, InertialState]:
        del params
        rate = _step(learning_rate, state.steps)
        kept, taken = 1 - rate * alpha, rate * (1 - alpha * beta)
        drift = jax.tree.map(
            lambda g, d: _like(kept, d) * d - _like(taken, d) * g, updates, state.drift
        )
        # γ d − γβ g by the new d: the old one is overwritten in its place, without a copy
        ahead = rate / kept
        moved = jax.tree.map(
            lambda g, d: _like(ahead, d) * d + _like(ahead * taken - rate * beta, d) * g,
            updates,
            drift,
        )
        return moved, InertialState(optax.safe_increment(state.steps), drift)

    numbers = {"alpha": alpha, "beta": beta}
    return Optimiser(init, update, Method("inertial_newton", learning_rate, numbers))


def adagrad_norm(scale: float = 1.0, initial: float = 1e-2) -> Optimiser:
    """AdaGrad with one scalar step: b² ← b² + ‖g‖², w ← w − (scale/b) g.

    Args:
        scale: positive. initial: b₀, positive, so that the first step is finite.

    Returns:
        An Optimiser. Raises InvalidInputError for numbers that are not positive.

    Source: Ward, Wu, Bottou, AdaGrad stepsizes (ICML 2019), Algorithm 1.

    >>> import jax.numpy as jnp
    >>> opt = adagrad_norm(1.0, initial=1.0)
    >>> updates, state = opt.update(jnp.array([3.0, 4.0]), opt.init(jnp.zeros(2)))
    >>> round(float(-updates[1] / 4), 6) == round(1 / 26**0.5, 6)
    True
    """
    _require_step("scale", scale)
    _require_step("initial", initial)

    def init(params: Any) -> NormState:
        kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        dtype = jnp.promote_types(jnp.result_type(*kinds) if kinds else float, jnp.float32)
        return NormState(jnp.asarray(initial**2, dtype))

    def update(updates: Any, state: NormState, params: Any = None) -> tuple[Any, NormState]:
        del params
        squares = [
            jnp.sum(jnp.square(g.astype(state.total.dtype))) for g in jax.tree.leaves(updates)
        ]
        total = state.total + sum(squares)
        step = -scale / jnp.sqrt(total)
        return jax.tree.map(lambda g: _like(step, g) * g, updates), NormState(total)

    return Optimiser(init, update, Method("adagrad_norm", None, {"scale": scale}))


def random_start(params: Any, key: jax.Array, size: float = 1e-3) -> Any:
    """The parameters, each moved by a uniform number in (−size, size): "almost every start", in practice.

    Args:
        params: a pytree; only its floating-point leaves move. size: positive.

    Returns:
        A pytree like ``params``. Raises InvalidInputError unless size is positive.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 3: its conclusion holds for almost
    every start.

    >>> import jax, jax.numpy as jnp
    >>> bool(jnp.all(random_start(jnp.zeros(3), jax.random.key(0)) != 0))
    True
    """
    _require_step("size", size)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, max(1, len(leaves)))

    def moved(leaf: Any, own: jax.Array) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        leaf = jnp.asarray(leaf)
        return leaf + jax.random.uniform(own, leaf.shape, leaf.dtype, -size, size)

    return jax.tree.unflatten(tree, list(map(moved, leaves, keys)))


def require_optimiser(optimiser: Any) -> Callable[..., Any]:
    """The update function; InvalidInputError where there is none."""
    if not (hasattr(optimiser, "init") and hasattr(optimiser, "update")):
        raise InvalidInputError(
            f"optimiser={optimiser!r} is no optax transformation. Take one of cx.stochastic, such as "
            "cx.stochastic.sgd(schedule)."
        )
    return optimiser.update
