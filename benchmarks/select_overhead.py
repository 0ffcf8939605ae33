"""What ``cx.select`` costs: value and gradient of a relu network, beside plain JAX.

Six layers of width 256, a batch of 128, float32: ``jax.jit(jax.value_and_grad(loss))`` with loss
as it is, through ``select(loss, "jax")``, and through ``select(loss, "upper")``, which changes the
rule at every kink.
"""

import jax
import jax.numpy as jnp
from timing import Tick, first, milliseconds, ratio, warm

import conservax as cx

LAYERS, WIDTH, BATCH = 6, 256, 128
WARM_ROUNDS = 101
FIRST_ROUNDS = 5


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return WARM_ROUNDS + FIRST_ROUNDS


def network() -> tuple:
    """A loss of the weights, and the weights."""
    keys = jax.random.split(jax.random.key(0), LAYERS + 1)
    shape = (WIDTH, WIDTH)
    scale = jnp.float32((2 / WIDTH) ** 0.5)
    weights = [scale * jax.random.normal(key, shape, jnp.float32) for key in keys[1:]]
    x = jax.random.normal(keys[0], (BATCH, WIDTH), jnp.float32)

    def loss(weights):
        h = x
        for W in weights[:-1]:
            h = jax.nn.relu(h @ W)
        return jnp.mean((h @ weights[-1]) ** 2)

    return loss, weights


def measure(tick: Tick) -> list[dict]:
    """One row: times in milliseconds and their ratios to plain JAX."""
    loss, weights = network()
    programs = {
        "plain": loss,
        "select_jax": cx.select(loss, "jax"),
        "select_upper": cx.select(loss, "upper"),
    }

    def build(program):
        gradient = jax.jit(jax.value_and_grad(program))
        return lambda: gradient(weights)

    builders = {name: lambda program=program: build(program) for name, program in programs.items()}
    cold = first(builders, FIRST_ROUNDS, tick)
    hot = warm({name: builder() for name, builder in builders.items()}, WARM_ROUNDS, tick)
    row: dict = {"benchmark": "select", "problem": f"{LAYERS}-layer relu network, width {WIDTH}"}
    for name in programs:
        row[name] = {
            "warm_ms": milliseconds(hot, name),
            "first_call_ms": milliseconds(cold, name),
            "ratio_warm": ratio(hot, name, "plain"),
            "ratio_first_call": ratio(cold, name, "plain"),
        }
    return [row]
