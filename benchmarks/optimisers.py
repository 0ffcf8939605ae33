"""One step of each optimiser beside optax's Adam: the update and its application, jitted and donated.

A tree of 10⁷ parameters in float32, as of a network with ten layers. What bounds a step is memory: Adam
reads and writes two moments, the heavy ball and INNA one.
"""

import jax
import jax.numpy as jnp
import optax
from timing import Tick, milliseconds, ratio, warm

import conservax as cx

LAYERS, SIZE = 10, 1_000_000
ROUNDS = 41


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return ROUNDS


def contenders() -> dict:
    """optax's Adam, and ours with constant and with vanishing steps."""
    s = cx.stochastic
    steps = s.schedules.inverse_power(1e-3, 0.75)
    return {
        "adam": optax.adam(1e-3),
        "sgd": s.sgd(steps),
        "heavy_ball": s.heavy_ball(steps, s.schedules.inverse_power(0.9, 0.75)),
        "inertial_newton": s.inertial_newton(steps),
        "adagrad_norm": s.adagrad_norm(1e-3),
    }


def stepper(optimiser):
    """A call that takes one step from where the last one ended."""
    keys = jax.random.split(jax.random.key(0), LAYERS)
    params = {f"layer {i}": jax.random.normal(k, (SIZE,), jnp.float32) for i, k in enumerate(keys)}
    grads = jax.tree.map(lambda p: 1e-2 * p, params)

    def step(params, state, grads):
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    run = jax.jit(step, donate_argnums=(0, 1))
    held = [(params, optimiser.init(params))]

    def once():
        held[0] = run(*held[0], grads)
        return held[0]

    return once


def cells(row: dict) -> list[list[str]]:
    """Lines of the table: an optimiser's milliseconds a step, and their ratio to Adam's."""
    return [
        [f"`{name}`", f"{row[name]['warm_ms']:.3g}", f"{row[name]['ratio_to_adam']:.2f}"]
        for name in contenders()
        if name in row
    ]


def measure(tick: Tick) -> list[dict]:
    """One row: milliseconds of a step, and its ratio to Adam's in the same round."""
    times = warm({name: stepper(opt) for name, opt in contenders().items()}, ROUNDS, tick)
    row: dict = {"benchmark": "optimisers", "problem": f"{LAYERS * SIZE:,} parameters, float32"}
    for name in times:
        row[name] = {
            "warm_ms": milliseconds(times, name),
            "ratio_to_adam": ratio(times, name, "adam"),
        }
    return [row]
