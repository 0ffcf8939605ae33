"""z = σ(W z + c) as a node of a program: its solve, its equation, and its derivative.

    ż = J(I − WJ)⁻¹(Ẇz + ċ),     c̄ = t = J(I − WᵀJ)⁻¹z̄,  W̄ = t zᵀ,     J ∈ ∂σ(W z + c)

The system is solved as the equilibrium was, by the same splitting with J in place of σ and the same
factor; its solution is checked, and NaN where it was not found.

Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Proposition 3; Winston, Kolter (NeurIPS
2020), Theorem 2 and Section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ..calculus import implicit_node
from ..numerics import machine_epsilon
from ..solution import Status
from . import splitting
from .activations import Activation, Slopes
from .couplings import Coupling, Resolvent
from .splitting import Settings, length


class Prepared(eqx.Module):
    """What is computed once for a batch and both passes; none of it carries a derivative."""

    resolvent: Resolvent | None
    alpha: jax.Array
    safe: jax.Array
    norm: jax.Array


class Stats(NamedTuple):
    """iterations of the forward pass; error: the bound ‖W(z − σ(Wz + c))‖/m ≥ ‖z − z*‖."""

    iterations: jax.Array
    error: jax.Array


class Problem(NamedTuple):
    """The parts of an equilibrium that are no arrays."""

    activation: Activation
    m: float
    settings: Settings
    selection: Any
    certificate: Callable[[Coupling], Any]

    def equation(self, coupling: Coupling, prepared: Prepared, c: jax.Array) -> splitting.Equation:
        """z = σ(W z + c)."""
        return splitting.Equation(
            self.activation,
            self.activation.prox,
            coupling.multiply,
            None if prepared.resolvent is None else prepared.resolvent.apply,
            c, prepared.alpha, prepared.safe, self.m, prepared.norm,
        )  # fmt: skip


def equilibrium(
    problem: Problem,
    coupling: Coupling,
    prepared: Prepared,
    c: jax.Array,
    start: jax.Array | None,
) -> tuple[jax.Array, jax.Array, Stats]:
    """(z, status, stats); z is NaN where the status is not SOLVED."""
    arrays, tree = jax.tree.flatten((coupling, c))
    aids, aids_tree = jax.tree.flatten(jax.lax.stop_gradient((prepared, start)))
    moving = len(arrays)

    def apart(inputs: Sequence[Any]) -> Any:
        return (
            *jax.tree.unflatten(tree, inputs[:moving]),
            *jax.tree.unflatten(aids_tree, inputs[moving:]),
        )

    def solve(*inputs: Any) -> Any:
        coupling, c, prepared, start = apart(inputs)
        found = splitting.solve(problem.equation(coupling, prepared, c), start, problem.settings)
        z = jnp.where(found.status == Status.SOLVED, found.value, jnp.nan)
        return (z,), (found.status, Stats(found.iterations, found.error))

    def residual(y: Sequence[Any], *inputs: Any) -> Any:
        coupling, c = jax.tree.unflatten(tree, inputs)
        return (y[0] - problem.activation(coupling.multiply(y[0]) + c),)

    def rule(found: Sequence[Any], inputs: Sequence[Any], tangents: Sequence[Any]) -> Any:
        y, _ = found
        coupling, c, prepared, _ = apart(inputs)
        moves = [not isinstance(t, SymbolicZero) for t in tangents[:moving]]
        if not any(moves):
            return (jnp.zeros_like(y[0]),)
        good = jnp.all(jnp.isfinite(y[0]))
        z = jnp.where(good, y[0], 0)  # a failed item must not spoil what it shares with others

        def preactivation(*some: Any) -> jax.Array:
            changed = iter(some)
            full = [next(changed) if m else x for m, x in zip(moves, inputs[:moving], strict=True)]
            coupling, c = jax.tree.unflatten(tree, full)
            return coupling.multiply(z) + c

        a, change = jax.jvp(
            preactivation,
            [x for x, m in zip(inputs, moves, strict=False) if m],
            [t for t, m in zip(tangents, moves, strict=False) if m],
        )
        slopes = slopes_at(problem, prepared, z, a, c)
        return (tangent(problem, coupling, prepared, slopes, change, good),)

    last: list[tuple[list[Any], Any]] = []

    def certificate(y: Sequence[Any], *inputs: Any) -> Any:
        del y
        coupling = jax.tree.unflatten(tree, inputs)[0]
        weights = jax.tree.leaves(coupling)
        # the items of a batch share their weights, and what is known of them
        if not last or any(a is not b for a, b in zip(weights, last[0][0], strict=True)):
            last[:] = [(weights, problem.certificate(coupling))]
        return last[0][1]

    (z,), (status, stats) = implicit_node(
        solve, residual, rule, *arrays, *aids,
        reads=range(moving), hidden=True, certificate=certificate,
    )  # fmt: skip
    return z, status, stats


def slopes_at(
    problem: Problem, prepared: Prepared, z: jax.Array, a: jax.Array, c: jax.Array
) -> Slopes:
    """J at a = W z + c; what rounding alone keeps from a kink is at the kink.

    Where a selection is asked for, so is what the error of z may keep from it; with "jax" either side of
    such a kink is a valid choice, and the nearer one is more likely right.
    """
    unit = jnp.maximum(jnp.max(jnp.abs(z)), jnp.finfo(z.dtype).tiny)
    reach = machine_epsilon(a.dtype) * (prepared.norm * length(z, unit) + jnp.abs(c))
    if problem.selection != "jax":
        error = prepared.norm / problem.m * length(z - problem.activation(a), unit)
        reach = reach + prepared.norm * error
    a = a + jax.lax.stop_gradient(problem.activation.snap(a, reach) - a)
    return problem.activation.slopes(a, problem.selection)


def linearised(
    problem: Problem,
    coupling: Coupling,
    prepared: Prepared,
    slopes: Slopes,
    r: jax.Array,
    transposed: bool,
) -> splitting.Found:
    """t = J(M t + r) for M = W, or Wᵀ if transposed, by the splitting of the forward pass."""
    back = prepared.resolvent
    equation = splitting.Equation(
        slopes.apply,
        slopes.resolvent,
        coupling.multiply_transposed if transposed else coupling.multiply,
        None if back is None else back.apply_transposed if transposed else back.apply,
        r, prepared.alpha, prepared.safe, problem.m, prepared.norm,
    )  # fmt: skip
    return splitting.solve(equation, None, problem.settings)


def tangent(
    problem: Problem,
    coupling: Coupling,
    prepared: Prepared,
    slopes: Slopes,
    change: jax.Array,
    good: jax.Array,
) -> jax.Array:
    """J(I − WJ)⁻¹ change, differentiable any number of times, in both modes."""

    def linear(r: jax.Array, transposed: bool) -> jax.Array:
        """0 for r = 0, NaN where it was not found."""
        found = linearised(problem, coupling, prepared, slopes, r, transposed)
        solved = jnp.where(good & (found.status == Status.SOLVED), found.value, jnp.nan)
        return jnp.where(jnp.all(r == 0), 0, solved)

    def forwards(_: Any, b: jax.Array) -> jax.Array:
        return b + linear(coupling.multiply(b), transposed=False)  # (I − JW)y = b

    def backwards(_: Any, g: jax.Array) -> jax.Array:
        return g + coupling.multiply_transposed(linear(g, transposed=True))  # (I − WᵀJ)s = g

    return jax.lax.custom_linear_solve(
        lambda y: y - slopes.apply(coupling.multiply(y)),
        slopes.apply(change),
        solve=forwards,
        transpose_solve=backwards,
    )
