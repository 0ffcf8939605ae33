"""The bilevel problem of Figure 2 with its inner problem as a cone program (Appendix E.1.3).

    min over u = (x, y) of (x − s₁)² + 4 (y − s₂)²
    subject to s ∈ argmin {−c(u) (s₁ + s₂) : 0 ≤ s ≤ (3, 5)},   c(u) = −3x + y + 2

The inner problem, a linear program, is solved and differentiated by ``ConeProgram``. Off the line
c = 0 its solution is a corner of the box; on the line every point of the box is a solution.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from conservax.programs import ConeProgram, Cones, ProgramSolution

from . import bilevel, peers

INNER = ConeProgram(Cones(nonnegative=4))
Point = tuple[jax.Array, jax.Array, jax.Array]
Data = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def inner_data(c: jax.Array, box: jax.Array) -> Data:
    """P, c, A, b of the inner problem with −c (s₁ + s₂), s between 0 and ``box``."""
    eye = jnp.eye(2)
    A, b = jnp.concatenate([eye, -eye]), jnp.concatenate([box, jnp.zeros(2)])
    return jnp.zeros((2, 2)), -c * jnp.ones(2), A, b


def inner_solution(c: jax.Array, box: jax.Array) -> ProgramSolution:
    """As a batch of one, for a program that cannot be solved is NaN there, and no error."""
    batched = INNER(*(part[None] for part in inner_data(c, box)))
    return jax.tree.map(lambda part: part[0], batched)


def objective(u: jax.Array, constants: bilevel.Constants) -> tuple[jax.Array, jax.Array]:
    """f(u) = Σ weights (u − s(u))², and the verdict on the inner problem."""
    solution = inner_solution(bilevel.side(u, constants), constants.box)
    return jnp.sum(constants.weights * (u - solution.primal) ** 2), solution.info.verdict


@jax.jit(static_argnames=("steps",))
def descend(start: jax.Array, constants: bilevel.Constants, steps: int) -> Point:
    """Gradient descent through the layer: the path, and gradient and verdict at each point."""

    def step(u: jax.Array, _: None) -> tuple[jax.Array, Point]:
        gradient, verdict = jax.grad(objective, has_aux=True)(u, constants)
        return u - bilevel.STEP * gradient, (u, gradient, verdict)

    return jax.lax.scan(step, start, None, length=steps)[1]


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
