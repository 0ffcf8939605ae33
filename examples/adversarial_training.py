"""Adversarial training: a small classifier against an adversary that moves every point by up to EPSILON.

The loss of a point is a value function, the largest over the adversary's moves; ``cx.value`` differentiates it
by the envelope theorem. The adversary climbs by projected gradient ascent: its steps are not differentiated.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import make_moons

import conservax as cx

FIGURE = Path(__file__).with_suffix(".png")
EPSILON = 0.25
WIDTH = 24


def data(seed=0, count=200):
    """Two moons, labels ±1."""
    points, labels = make_moons(count, noise=0.08, random_state=seed)
    return jnp.asarray(points), jnp.asarray(2.0 * labels - 1)


def first_weights(seed=0):
    """Random weights of a network with one relu layer."""
    rng = np.random.default_rng(seed)
    return tuple(
        map(
            jnp.asarray,
            (1.5 * rng.normal(size=(WIDTH, 2)), rng.normal(size=WIDTH), rng.normal(size=WIDTH) / 4),
        )
    )


def score(weights, point):
    """c · relu(Ax + a)."""
    A, a, c = weights
    return c @ jax.nn.relu(A @ point + a)


def loss(weights, move, point, label):
    """Logistic loss of one point, moved."""
    return jax.nn.softplus(-label * score(weights, point + move))


def attack(weights, point, label):
    """The worst moves found from four corners by 8 steps of signed ascent, and no move: a stack."""

    def climb(move):
        def step(_, move):
            up = jnp.sign(jax.grad(loss, 1)(weights, move, point, label))
            return jnp.clip(move + EPSILON / 4 * up, -EPSILON, EPSILON)

        return jax.lax.fori_loop(0, 8, step, move)

    corners = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return jnp.concatenate([jax.vmap(climb)(EPSILON / 2 * corners), jnp.zeros((1, 2))])


worst = cx.value(loss, attack, stacked=True)


def train(points, labels, robust, rounds=300):
    """Adam on the mean of the worst losses, or of the plain ones."""
    still = jnp.zeros(2)

    def objective(weights):
        each = (
            (lambda p, y: worst(weights, p, y))
            if robust
            else (lambda p, y: loss(weights, still, p, y))
        )
        return jnp.mean(jax.vmap(each)(points, labels)) + 1e-4 * sum(jnp.sum(w**2) for w in weights)

    adam = optax.adam(0.03)
    weights = first_weights()

    def step(carry, _):
        weights, state = carry
        updates, state = adam.update(jax.grad(objective)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    return jax.jit(lambda c: jax.lax.scan(step, c, None, length=rounds)[0][0])(
        (weights, adam.init(weights))
    )


def accuracies(weights, points, labels):
    """The share of points classified right, as they are and after the attack."""
    moved = jax.vmap(
        lambda p, y: jnp.min(y * jax.vmap(lambda m: score(weights, p + m))(attack(weights, p, y)))
    )
    plain = jax.vmap(lambda p, y: y * score(weights, p))(points, labels)
    return float(jnp.mean(plain > 0)), float(jnp.mean(moved(points, labels) > 0))


def main(figure=FIGURE):
    """Train twice, attack, draw."""
    points, labels = data()
    held_out = data(seed=1)
    grid = np.linspace(-1.6, 2.6, 121)
    X, Y = np.meshgrid(grid, np.linspace(-1.2, 1.7, 101))
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained", sharey=True)
    for ax, robust in zip(axes, (False, True), strict=True):
        weights = train(points, labels, robust)
        plain, attacked = accuracies(weights, *held_out)
        name = "adversarial" if robust else "plain"
        print(
            f"{name} training: {plain:.1%} of the held-out points right, {attacked:.1%} under attack"
        )
        Z = jax.vmap(lambda p, w=weights: score(w, p))(
            jnp.stack([X.ravel(), Y.ravel()], 1)
        ).reshape(X.shape)
        ax.contourf(X, Y, np.asarray(Z), [-1e9, 0, 1e9], colors=["#f6dcc8", "#d5e3ee"])
        ax.contour(X, Y, np.asarray(Z), [0], colors="#22303f", linewidths=1.5)
        for sign, colour in ((-1, "#e07a1f"), (1, "#1d3557")):
            ax.plot(*points[np.asarray(labels) == sign].T, "s", color=colour, ms=3)
        ax.set_title(f"{name} training: {attacked:.0%} right under attack")
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(figure, dpi=150)
    plt.close(fig)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*map(Path, sys.argv[1:]))
