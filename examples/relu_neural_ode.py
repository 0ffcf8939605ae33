"""A relu neural ODE on a small time series: a field with kinks learned through ``cx.flows.odeint``.

The series swings in a damped, lopsided way. The field is a network with one relu layer: continuous, with a
kink along every neuron's line, which the trajectory crosses again and again.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import conservax as cx

FIGURE = Path(__file__).with_suffix(".png")
WIDTH = 16
TIMES = np.linspace(0.0, 6.0, 25)


def observe(seed=0):
    """x″ = −0.3x′ − x − 2 relu(x), observed with noise at 25 times: both x and x′."""

    def swing(t, s):
        return jnp.stack([s[1], -0.3 * s[1] - s[0] - 2 * jax.nn.relu(s[0])])

    clean = cx.flows.odeint(swing, jnp.array([1.5, 0.0]), TIMES)
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return clean + 0.03 * noise


def first_weights(seed=1):
    """Random weights of the network."""
    rng = np.random.default_rng(seed)
    A, a = rng.normal(size=(WIDTH, 2)), 0.3 * rng.normal(size=WIDTH)
    return tuple(map(jnp.asarray, (A, a, 0.1 * rng.normal(size=(2, WIDTH)), np.zeros(2))))


def field(t, x, weights):
    """B relu(Ax + a) + b."""
    A, a, B, b = weights
    return B @ jax.nn.relu(A @ x + a) + b


def predict(weights, x0, times=TIMES):
    """The trajectory of the field from x0."""
    return cx.flows.odeint(field, x0, times, weights, rtol=1e-6, atol=1e-6, max_steps=512)


def loss(weights, x0, series):
    """Mean squared distance from the series."""
    return jnp.mean((predict(weights, x0) - series) ** 2)


def train(series, rounds=600):
    """Adam on the weights and the start; the losses on the way."""
    parameters = first_weights(), series[0]
    adam = optax.adam(optax.cosine_decay_schedule(0.02, rounds))
    state = adam.init(parameters)

    @jax.jit
    def step(parameters, state):
        value, gradient = jax.value_and_grad(lambda p: loss(*p, series))(parameters)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, value

    losses = []
    for _ in range(rounds):
        parameters, state, value = step(parameters, state)
        losses.append(float(value))
    return parameters, losses


def main(figure=FIGURE, rounds=600):
    """Train, compare the gradient with differences, draw."""
    series = observe()
    (weights, x0), losses = train(series, rounds)
    print(
        f"loss {losses[0]:.3f} at first, {losses[-1]:.5f} in the end; the noise alone makes 0.0009"
    )
    value = jax.jit(lambda b: loss((*weights[:3], b), x0, series))
    exact, h = np.asarray(jax.jit(jax.grad(value))(weights[3])), 1e-5
    numeric = [(value(weights[3] + h * e) - value(weights[3] - h * e)) / (2 * h) for e in np.eye(2)]
    print(
        f"gradient in the last bias against differences: {np.max(np.abs(exact - numeric)):.0e} apart"
    )
    sets = cx.flows.sensitivity_set(field, x0, float(TIMES[-1]), weights, max_steps=512)
    print(f"{sets.crossings} kinks crossed; one sensitivity only: {sets.single}")
    fine = np.linspace(TIMES[0], TIMES[-1], 200)
    path = np.asarray(predict(weights, x0, fine))
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, colour in enumerate(("#1d3557", "#e07a1f")):
        left.plot(TIMES, series[:, i], "o", color=colour, ms=4)
        left.plot(fine, path[:, i], color=colour, label="x" if i == 0 else "x′")
    left.set(xlabel="t", title="The series and the learned flow")
    left.legend(frameon=False)
    grid = np.linspace(-2, 2, 17)
    X, Y = np.meshgrid(grid, grid)
    arrows = np.asarray(
        jax.vmap(lambda p: field(0.0, p, weights))(jnp.stack([X.ravel(), Y.ravel()], 1))
    )
    right.quiver(X.ravel(), Y.ravel(), *arrows.T, color="#b9c0ca", width=0.003)
    for row, shift in zip(*map(np.asarray, weights[:2]), strict=True):
        line = np.linspace(-4, 4, 2)
        normal = row / (row @ row)
        ends = -shift * normal + line[:, None] * np.array([-row[1], row[0]]) / np.linalg.norm(row)
        right.plot(*ends.T, color="#7b4ea3", lw=0.7, alpha=0.6)
    right.plot(*path.T, color="#1d3557", lw=2)
    right.set(
        xlim=(-2, 2),
        ylim=(-2.2, 2.2),
        xlabel="x",
        ylabel="x′",
        title="Its field, and where its kinks are",
    )
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(figure, dpi=150)
    plt.close(fig)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*map(Path, sys.argv[1:]))
