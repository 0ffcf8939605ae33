"""Gradients that are not the implicit one: of some steps at the equilibrium, or of the whole iteration.

They are cheaper or simpler, and wrong by what they leave out: one step by the factor (I − JW)⁻¹.

Source: Geng, Zhang, Bai, Wang, Lin, On training implicit models (NeurIPS 2021); Bolte, Pauwels,
Vaiter, One-step differentiation of iterative algorithms (NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..implicit.masks import poisoned
from ..solution import Solution, Status
from . import splitting

if TYPE_CHECKING:
    from .couplings import Coupling
    from .node import Prepared, Problem


class Phantom(NamedTuple):
    """``steps`` differentiated steps z ← (1 − damping) z + damping · cell(z) at the equilibrium.

    >>> import conservax as cx
    >>> cx.equilibrium.Phantom(3)
    Phantom(steps=3, damping=0.5)
    """

    steps: int = 5
    damping: float = 0.5


def backward_of(given: Any) -> Any:
    """The backward pass that a user names, checked."""
    if isinstance(given, str) and given in ("implicit", "unrolled"):
        return given
    if isinstance(given, str) and given == "one_step":
        return Phantom(1, 1.0)
    if isinstance(given, Phantom):
        steps, damping = given
        whole = isinstance(steps, int | np.integer) and not isinstance(steps, bool)
        if whole and steps >= 1 and isinstance(damping, Real) and 0 < damping <= 1:
            return given
    raise InvalidInputError(
        f"backward={given!r} is none of 'implicit', 'one_step', 'unrolled' and Phantom(steps, damping) "
        "with steps ≥ 1 and damping in (0, 1]."
    )


def damped(cell: Callable[[jax.Array], jax.Array], z: jax.Array, backward: Phantom) -> jax.Array:
    """The steps, from an equilibrium z that carries no derivative; memory grows with their number."""
    z = jax.lax.stop_gradient(z)
    for _ in range(backward.steps):
        z = (1 - backward.damping) * z + backward.damping * cell(z)
    return z


def steps(
    problem: Problem,
    coupling: Coupling,
    prepared: Prepared,
    c: jax.Array,
    init: jax.Array | None,
    backward: Phantom,
) -> Solution:
    """The equilibrium, with the derivative of some steps of z ← σ(W z + c) at it."""
    from .node import equilibrium

    still = jax.lax.stop_gradient((coupling, c))
    z, status, stats = equilibrium(problem, still[0], prepared, still[1], init)
    moved = damped(lambda z: problem.activation(coupling.multiply(z) + c), z, backward)
    # the value is the equilibrium, to the last bit
    return Solution(moved + jax.lax.stop_gradient(z - moved), status, stats)


def unrolled(
    problem: Problem, coupling: Coupling, prepared: Prepared, c: jax.Array, init: jax.Array | None
) -> Solution:
    """``max_steps`` iterations, all of them differentiated; memory grows with their number.

    NaN, in value and gradient, where so many do not reach the tolerance.
    """
    from .node import Stats

    alpha = prepared.alpha
    peaceman = prepared.resolvent is not None
    if peaceman:
        prepared = eqx.tree_at(lambda p: p.resolvent, prepared, coupling.resolvent(alpha))
    equation = problem.equation(coupling, prepared, c)
    image = splitting.peaceman_rachford if peaceman else splitting.forward_backward
    point = jnp.zeros_like(c) if init is None else jax.lax.stop_gradient(init)
    if init is not None and peaceman:
        point = point + alpha * (coupling.multiply(point) + c - point)

    def body(carry: Any, _: None) -> Any:
        point, _, _ = carry
        return image(equation, point, equation.alpha), None

    start = (point, jnp.zeros_like(c), jnp.zeros_like(c))
    (_, z, gap), _ = jax.lax.scan(body, start, None, length=problem.settings.max_steps)
    gap = splitting.length(jax.lax.stop_gradient(gap), equation.unit())
    error = jax.lax.stop_gradient(prepared.norm / problem.m) * gap
    status = splitting.judged(equation, problem.settings, z, error)
    count = jnp.full((), problem.settings.max_steps, jnp.int32)
    return Solution(poisoned(z, status == Status.SOLVED), status, Stats(count, error))
