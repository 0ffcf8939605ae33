"""Does this training run converge, and did it? A relu network on handwritten digits, with its theorem.

Before the first step the script asks which theorem the run falls under: the loss must be definable and
locally Lipschitz, the steps must vanish, but slowly. It does the same for the run that most people would
write, with a constant step, and is told which hypothesis fails. Then it trains, watching the
distance of 0 to the conservative field, and asks at the end whether the point is Clarke critical.

Run:  python examples/train_digits.py [--steps N] [--out PATH.png]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import conservax as cx

HIDDEN, BATCH = 12, 64
STEPS = cx.stochastic.schedules.inverse_power(0.5, power=0.6)


def load():
    """Images (1797, 64) in [0, 1] and labels."""
    x, y = load_digits(return_X_y=True)
    return jnp.asarray(x / 16, "float32"), jnp.asarray(y)


def start(key):
    """A network 64 – 12 – 10 at random."""
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (64, HIDDEN)) / 8,
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(second, (HIDDEN, 10)) / np.sqrt(HIDDEN),
        "b2": jnp.zeros(10),
    }


def logits(params, x):
    """The network."""
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params, batch):
    """Cross-entropy, and a little weight decay, which keeps the iterates bounded."""
    x, y = batch
    fit = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))
    return fit + 1e-3 * sum(jnp.sum(p**2) for p in params.values())


def train(params, data, optimiser, count, every):
    """The trained parameters, and a monitor that looked at the whole loss every so many steps."""
    x, y = data
    watch = cx.monitor(loss, every=every, criticality=True)

    def step(carry, i):
        params, state = carry
        grads = jax.grad(loss)(params, (x[i], y[i]))
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry, at: jax.lax.scan(step, carry, at)[0])
    carry = params, optimiser.init(params)
    rng = np.random.default_rng(0)
    for n in range(0, count, every):
        watch(n, carry[0], data)
        carry = run(carry, jnp.asarray(rng.integers(0, len(y), (every, BATCH))))
    watch(count, carry[0], data)
    return carry[0], watch


def main():
    """Guarantee, training, criticality."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    data = load()
    params = start(jax.random.key(0))
    batch = data[0][:BATCH], data[1][:BATCH]
    print("As most people would write it, with a constant step:\n")
    print(cx.stochastic.guarantee(loss, cx.stochastic.sgd(0.5), 0.5, params, batch))
    optimiser = cx.stochastic.sgd(STEPS, key=jax.random.key(1))
    print("\nWith steps that vanish, and a random scale:\n")
    print(cx.stochastic.guarantee(loss, optimiser, STEPS, params, batch))
    every = max(1, chosen.steps // 20)
    params, watch = train(params, data, optimiser, chosen.steps, every)
    right = float(jnp.mean(jnp.argmax(logits(params, data[0]), axis=1) == data[1]))
    print(f"\nAfter {chosen.steps} steps {right:.1%} of the digits are classified.\n{watch}\n")
    print("At the end, on all data:\n")
    print(cx.stochastic.criticality(loss, params, data))
    if chosen.out:
        watch.plot().savefig(chosen.out, dpi=150)


if __name__ == "__main__":
    main()
