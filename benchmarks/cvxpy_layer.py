"""One eager call of ``CvxpyLayer`` at 20 variables: what it adds to the solver, and cvxpylayers' call.

    min ½‖x‖² + cᵀx  subject to  Gx ≤ 1,  in c;  float64

The solver alone is the compiled ``ConeProgram`` on the data that CVXPY makes of this problem.
"""

from importlib.util import find_spec
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
from timing import Tick, milliseconds, warm

from conservax.programs import ConeProgram, CvxpyLayer

SIZE, ROUNDS = 20, 301
HAS_PEER = find_spec("cvxpylayers") is not None


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return ROUNDS


def measure(tick: Tick) -> list[dict[str, Any]]:
    """One row."""
    rng = np.random.default_rng(0)
    x, c = cp.Variable(SIZE), cp.Parameter(SIZE)
    G = rng.normal(size=(SIZE, SIZE))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + c @ x), [G @ x <= 1])
    layer = CvxpyLayer(problem, [c], [x])
    canonical, value = layer.canonical, jnp.asarray(rng.normal(size=SIZE))
    theta = canonical.theta((value,), value.dtype)
    program = ConeProgram(canonical.cones, auxiliary=canonical.auxiliary)
    P = canonical.P.constant(canonical.size - 1)  # known, as it is to the layer
    A, b = canonical.A(theta), canonical.b(theta)
    solver = jax.jit(lambda c: program(P, c, A, b).primal)  # without the verdict, as the layer's
    q = canonical.c(theta)

    def squared(value: jax.Array) -> jax.Array:
        return jnp.sum(layer(value)[0] ** 2)

    inside = jax.jit(jax.value_and_grad(squared))
    contenders = {
        "solver": lambda: solver(q),
        "layer": lambda: layer(value),
        "gradient, jitted": lambda: inside(value),
    }
    if HAS_PEER:
        from cvxpylayers.jax import CvxpyLayer as PeerLayer

        peer = PeerLayer(problem, [c], [x])
        slope = jax.value_and_grad(lambda value: jnp.sum(peer(value)[0] ** 2))
        contenders |= {"peer": lambda: peer(value), "gradient, peer": lambda: slope(value)}
    times = warm(contenders, ROUNDS, tick)
    found = {name: milliseconds(times, name) for name in times}
    return [{"benchmark": "cvxpy layer", "problem": f"QP, {SIZE} variables", "ms": found}]


def cells(row: dict[str, Any]) -> list[str]:
    """Of the table."""
    ms = row["ms"]
    names = ("solver", "layer", "gradient, jitted", "peer", "gradient, peer")
    return [
        row["problem"],
        *(f"{ms[name]:.2f}" if name in ms else "–" for name in names),
        f"{ms['layer'] - ms['solver']:+.2f}",
    ]
