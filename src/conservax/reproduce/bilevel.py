"""The bilevel problem of Figures 2 and 5 (Section 5 and Appendix E.1 of the paper).

    min over u = (x, y) of (x − s₁)² + 4 (y − s₂)²
    subject to s ∈ argmax {(a + b)(−3x + y + 2) : a ∈ [0, 3], b ∈ [0, 5]}

The inner solution is a fixed point of projected gradient ascent with the projection written with
relus (Appendix E.1.1):

    s = P(s + c(u) (1, 1)),   c(u) = −3x + y + 2,   P(t) = relu(t) − relu(t − (3, 5)).

Off the line c = 0 the solution is a corner of the box and does not depend on u; on the line the
linear system of the implicit function theorem is singular.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

import conservax as cx

STEP = 0.01


class Constants(NamedTuple):
    """The numbers in the problem; Figure 2b perturbs them."""

    box: jax.Array  # (3, 5)
    slope: jax.Array  # (−3, 1)
    offset: jax.Array  # 2
    weights: jax.Array  # (1, 4)


def published_constants() -> Constants:
    """The constants of the paper."""
    return Constants(
        jnp.array([3.0, 5.0]), jnp.array([-3.0, 1.0]), jnp.array(2.0), jnp.array([1.0, 4.0])
    )


def side(u: jax.Array, constants: Constants) -> jax.Array:
    """c(u): positive where the inner solution is the far corner of the box."""
    return constants.slope @ u + constants.offset


def inner_map(s: jax.Array, u: jax.Array, constants: Constants) -> jax.Array:
    """T(s, u) = P(s + c(u) (1, 1)): one step of projected gradient ascent."""
    t = s + side(u, constants)
    return jax.nn.relu(t) - jax.nn.relu(t - constants.box)


def inner_residual(s: jax.Array, u: jax.Array, constants: Constants) -> jax.Array:
    """F(s, u) = T(s, u) − s."""
    return inner_map(s, u, constants) - s


@cx.custom_fixed_point(inner_map)
def inner_solution(init: jax.Array, u: jax.Array, constants: Constants) -> jax.Array:
    """The maximiser: a corner of the box; on the line itself every point is one, so keep `init`."""
    c = side(u, constants)
    return jnp.where(c > 0, constants.box, jnp.where(c < 0, jnp.zeros_like(init), init))


def objective(u: jax.Array, constants: Constants) -> jax.Array:
    """f(u) = Σ weights (u − s(u))²."""
    s = inner_solution(constants.box / 2, u, constants)
    return jnp.sum(constants.weights * (u - s) ** 2)


@jax.jit(static_argnames=("steps",))
def descend(start: jax.Array, constants: Constants, steps: int) -> tuple[jax.Array, jax.Array]:
    """Gradient descent with implicit gradients: the path, and the gradient at each point."""

    def step(u: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        gradient = jax.grad(objective)(u, constants)
        return u - STEP * gradient, (u, gradient)

    return jax.lax.scan(step, start, None, length=steps)[1]


def crossings(path: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which the path goes from c > 0 to c ≤ 0, and where it meets the line."""
    steps = np.flatnonzero((sides[:-1] > 0) & (sides[1:] <= 0))
    share = (sides[steps] / (sides[steps] - sides[steps + 1]))[:, None]
    return steps, path[steps] + share * (path[steps + 1] - path[steps])


def flow_cycle() -> tuple[np.ndarray, float]:
    """Where the gradient *flow*'s cycle leaves c > 0, and how long one lap takes, in closed form.

    On c < 0 the flow is (x e^{−2t}, y e^{−8t}); the problem is symmetric about (3/2, 5/2), so the
    cycle from (x, 3x − 2) meets the line again at (3 − x, 7 − 3x). With v = e^{−2t} = (3 − x)/x
    this asks (3x − 2) v⁴ = 7 − 3x; half a lap takes t = ½ log(1/v).
    """

    def gap(x: float) -> float:
        return (3 * x - 2) * ((3 - x) / x) ** 4 - (7 - 3 * x)

    x = root_scalar(gap, bracket=(2.12, 2.99)).root
    return np.array([x, 3 * x - 2]), float(np.log(x / (3 - x)))
