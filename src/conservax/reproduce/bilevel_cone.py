"""The bilevel problem of Figure 2 with its inner problem as a cone program (Appendix E.1.3).

    min over u = (x, y) of (x − s₁)² + 4 (y − s₂)²
    subject to s ∈ argmin {−c(u) (s₁ + s₂) : 0 ≤ s ≤ (3, 5)},   c(u) = −3x + y + 2

The inner problem, a linear program, is solved and differentiated by ``ConeProgram``. Off the line
c = 0 its solution is a corner of the box; on the line every point of the box is a solution.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conservax.programs import ConeProgram, Cones

from . import bilevel, peers
from .claim import Ticker

INNER = ConeProgram(Cones(nonnegative=4))
BATCH = 20
"""Programs that are solved together. One size, so that all experiments share one compilation."""

Data = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class Inner(NamedTuple):
    """Solutions of inner problems, their derivatives in c, and their verdicts."""

    solution: np.ndarray  # (count, 2)
    slope: np.ndarray  # (count, 2)
    verdict: np.ndarray  # (count,)


class Descent(NamedTuple):
    """Points, gradients and verdicts of several descents, the step first."""

    path: np.ndarray  # (steps, runs, 2)
    gradient: np.ndarray  # (steps, runs, 2)
    verdict: np.ndarray  # (steps, runs)


def inner_data(c: jax.Array, box: jax.Array) -> Data:
    """P, c, A, b of the inner problem with −c (s₁ + s₂), s between 0 and ``box``."""
    eye = jnp.eye(2)
    A, b = jnp.concatenate([eye, -eye]), jnp.concatenate([box, jnp.zeros(2)])
    return jnp.zeros((2, 2)), -c * jnp.ones(2), A, b


@jax.jit
def _solve(c: jax.Array, box: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def solve(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = INNER(*jax.vmap(inner_data)(c, box))
        return found.primal, found.info.verdict

    solution, pull, verdict = jax.vjp(solve, c, has_aux=True)

    def slope_of(unit: jax.Array) -> jax.Array:
        return pull(jnp.broadcast_to(unit, solution.shape))[0]

    return solution, jax.vmap(slope_of, out_axes=1)(jnp.eye(2)), verdict


def solve(c: np.ndarray, box: np.ndarray) -> Inner:
    """Solve up to BATCH inner problems through the layer, c (count,) and box (count, 2)."""
    count, rest = len(c), BATCH - len(c)
    padded = _solve(np.pad(c, (0, rest), "edge"), np.pad(box, ((0, rest), (0, 0)), "edge"))
    return Inner(*(np.asarray(part)[:count] for part in padded))


def gradient(u: np.ndarray, constants: bilevel.Constants) -> tuple[np.ndarray, np.ndarray]:
    """∇f at each row of u, and the verdict on its inner problem.

    f(u) = Σ weights (u − s)² with s = s(c(u)), so ∇f = r − (r · ∂s/∂c) ∇c, r = 2 weights (u − s).
    ``constants`` has a row for each of u.
    """
    slope = np.asarray(constants.slope)
    c = np.sum(slope * u, axis=1) + np.asarray(constants.offset)
    inner = solve(c, np.asarray(constants.box))
    r = 2 * np.asarray(constants.weights) * (u - inner.solution)
    return r - np.sum(r * inner.slope, axis=1, keepdims=True) * slope, inner.verdict


def descend(starts: np.ndarray, constants: bilevel.Constants, steps: int, tick: Ticker) -> Descent:
    """Gradient descent through the layer, one run from each row of ``starts``."""
    u, taken = np.asarray(starts), []
    for step in range(steps):
        slope, verdict = gradient(u, constants)
        taken.append((u, slope, verdict))
        u = u - bilevel.STEP * slope
        if step % 100 == 0:
            tick(step / steps)
    return Descent(*(np.stack(part) for part in zip(*taken, strict=True)))


def peer_inner(setup: str = "SCS, lsqr") -> peers.Layer:
    """cvxpylayers' solution of the inner problem: (−c (1, 1), box) ↦ s, batched or not."""
    import cvxpy as cp

    cost, box, s = cp.Parameter(2), cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cost @ s), [s >= 0, s <= box])
    return peers.layer(problem, [cost, box], s, setup)


def peer_descend(starts: jax.Array, constants: bilevel.Constants, steps: int) -> np.ndarray:
    """The same descent through cvxpylayers, for a batch: (steps + 1, batch, 2)."""
    solve = peer_inner()

    def total(u: jax.Array) -> jax.Array:
        c = jax.vmap(bilevel.side)(u, constants)
        s = solve(-c[:, None] * jnp.ones(2), constants.box)
        return jnp.sum(constants.weights * (u - s) ** 2)

    return peers.follow(lambda u: -jax.grad(total)(u), starts, bilevel.STEP, steps)
