"""What ``cx.select`` adds to tracing: ``jax.make_jaxpr`` of programs of 60 layers, with and without it."""

import jax
import jax.numpy as jnp
from timing import Tick, milliseconds, ratio, warm

import conservax as cx

LAYERS, WIDTH, ROUNDS = 60, 100, 15


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return ROUNDS * 3


def programs() -> dict:
    """Networks whose layers are relus, maxima, or branches."""
    W = jnp.full((WIDTH, WIDTH), 0.01)

    def deep(layer):
        def net(x):
            for _ in range(LAYERS):
                x = layer(x)
            return jnp.sum(x)

        return net

    return {
        "relu(0.1 W x + 1)": deep(lambda x: jax.nn.relu(0.1 * (W @ x) + 1)),
        "tanh(2 max(W x, x + 1)) / 3": deep(lambda x: jnp.tanh(2 * jnp.maximum(W @ x, x + 1)) / 3),
        "where(x > 0, max(W x, x), |x|)": deep(
            lambda x: jnp.where(x > 0, jnp.maximum(W @ x, x), jnp.abs(x))
        ),
    }


def measure(tick: Tick) -> list[dict]:
    """One row a program: milliseconds of tracing, plain and through ``select(fun, "upper")``."""
    x = jnp.ones(WIDTH)
    rows = []
    for name, net in programs().items():
        # a fresh function each time: JAX would not trace the same one twice
        contenders = {
            "plain": lambda net=net: [jax.make_jaxpr(lambda x: net(x))(x)][:0],
            "select": lambda net=net: [jax.make_jaxpr(cx.select(lambda x: net(x), "upper"))(x)][:0],
        }
        times = warm(contenders, ROUNDS, tick)
        rows.append(
            {
                "benchmark": "tracing",
                "problem": name,
                "plain_ms": milliseconds(times, "plain"),
                "select_ms": milliseconds(times, "select"),
                "ratio": ratio(times, "select", "plain"),
            }
        )
    return rows
