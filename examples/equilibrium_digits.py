"""Digits read by an equilibrium: a layer that is its own fixed point, trained with proved gradients.

A network with one layer that feeds back into itself, z = relu(W z + U x + b), reads the 8 × 8 digits of
scikit-learn. W = (1 − m)I − AᵀA + B − Bᵀ keeps it monotone: the equilibrium exists, is unique, and has a
derivative that may be trusted, at every input and after every step of training; the certificate says so
before a single image is seen. The same inequality bounds how far z moves when the image does, and so
how large a disturbance no prediction can be changed by.

Run:  python examples/equilibrium_digits.py [--convolutional] [--epochs N] [--out PATH.png]
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import conservax as cx
from conservax.solution import Status

UNITS, CHANNELS, BATCH, EPOCHS, NOISE = 87, 16, 128, 60, 0.2


class Data(NamedTuple):
    """Images (n, 64) with entries in [0, 1] and digits (n,), to train on and held out."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


def load(seed: int) -> Data:
    """1,437 images to learn from and 360 held out, each digit in proportion."""
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    x, held_x, y, held_y = train_test_split(
        images, digits.target, test_size=360, random_state=seed, stratify=digits.target
    )
    return Data(x, y, held_x, held_y)


class Reader(eqx.Module):
    """An equilibrium, and a linear vote on it."""

    layer: Any
    head: eqx.nn.Linear

    def solve(self, x: jax.Array) -> tuple[jax.Array, Any]:
        """The logits (10,) of one image (64,), and how the equilibrium was found."""
        solution = self.layer.solve(x.reshape(self.layer.in_shape))
        z = solution.value
        if z.ndim == 3:  # a quarter of the places, each the largest of four
            z = jnp.max(z.reshape(z.shape[0], 4, 2, 4, 2), axis=(2, 4))
        return self.head(z.ravel()), solution


def fully_connected(key: jax.Array, **options: Any) -> Reader:
    """87 units."""
    one, two = jax.random.split(key)
    layer = cx.equilibrium.MonotoneEquilibrium(64, UNITS, tol=1e-4, key=one, **options)
    return Reader(layer, eqx.nn.Linear(UNITS, 10, key=two))


def convolutional(key: jax.Array, **options: Any) -> Reader:
    """16 channels on the 8 × 8 torus."""
    one, two = jax.random.split(key)
    layer = cx.equilibrium.MonotoneConvEquilibrium(
        1, CHANNELS, (8, 8), tol=1e-4, key=one, **options
    )
    return Reader(layer, eqx.nn.Linear(CHANNELS * 16, 10, key=two))


class Epoch(NamedTuple):
    """What is seen of one epoch."""

    loss: float
    accuracy: float
    margin: float
    lipschitz: float
    iterations: float
    failures: int


@eqx.filter_jit
def answers(model: Reader, x: jax.Array) -> tuple[jax.Array, Any]:
    """Logits and solutions of a batch."""
    return jax.vmap(model.solve)(x)


def train(model: Reader, data: Data, seed: int, epochs: int = EPOCHS) -> tuple[Reader, list[Epoch]]:
    """The trained model and its epochs: AdamW, images disturbed by noise of size 0.2."""
    steps = epochs * (len(data.y) // BATCH)
    optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, steps), weight_decay=0.1)
    state = optimiser.init(eqx.filter(model, eqx.is_array))

    def loss(model: Reader, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        logits, solution = jax.vmap(model.solve)(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        failed = jnp.sum(solution.status != Status.SOLVED)
        return jnp.mean(losses), (jnp.mean(solution.stats.iterations), failed)

    @eqx.filter_jit
    def step(model: Reader, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        x = x + NOISE * jax.random.normal(key, x.shape)
        (value, seen), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model, x, y)
        updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, value, seen

    rng, key, history = np.random.default_rng(seed), jax.random.key(seed), []
    with Progress() as bar:
        task = bar.add_task("training", total=epochs)
        for epoch in range(epochs):
            order = rng.permutation(len(data.y))[: len(data.y) // BATCH * BATCH]
            values = []
            for number, batch in enumerate(order.reshape(-1, BATCH)):
                noise = jax.random.fold_in(key, epoch * 1000 + number)
                model, state, *seen = step(model, state, data.x[batch], data.y[batch], noise)
                values.append(jax.tree.map(float, seen))
            losses, others = zip(*values, strict=True)
            accuracy = float(np.mean(np.argmax(answers(model, data.held_x)[0], 1) == data.held_y))
            certificate = model.layer.certificate
            assert certificate.verdict == cx.Verdict.PROVEN
            history.append(
                Epoch(
                    float(np.mean(losses)),
                    accuracy,
                    certificate.margin,
                    certificate.lipschitz,
                    float(np.mean([o[0] for o in others])),
                    int(sum(o[1] for o in others)),
                )
            )
            bar.update(task, advance=1, description=f"{accuracy:.1%} of held-out digits")
    return model, history


def radii(model: Reader, data: Data) -> np.ndarray:
    """For each held-out image, a distance within which no image is read otherwise; 0 if misread."""
    logits, solution = answers(model, data.held_x)
    labels, found = jax.vmap(
        lambda logits, error: cx.equilibrium.certified_radius(
            logits, model.head.weight, model.layer.certificate.lipschitz, error
        )
    )(logits, solution.stats.error)
    return np.where(labels == data.held_y, found, -1.0)


def draw(history: list[Epoch], found: np.ndarray, out: Path) -> None:
    """Training, the certificate along it, and certified accuracy."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    ink, red, green = "#1d3557", "#c1292e", "#2a9d8f"
    left.semilogy(epochs, [e.loss for e in history], color=ink, lw=2)
    left.set(xlabel="epoch", ylabel="cross-entropy in training", title="Learning")
    other = left.twinx()
    other.plot(epochs, [100 * e.accuracy for e in history], color=green, lw=2)
    other.set_ylabel("held-out digits read, %", color=green)
    other.set_ylim(80, 100)
    middle.plot(epochs, [e.margin for e in history], color=ink, lw=2)
    middle.set(xlabel="epoch", title="PROVEN at every step, by construction")
    middle.set_ylabel(r"margin: $\sigma_{\min}(I - JW)$ is at least")
    middle.set_ylim(bottom=0)
    other_middle = middle.twinx()
    other_middle.plot(epochs, [e.lipschitz for e in history], color=red, lw=2)
    other_middle.set_ylabel("Lipschitz bound of the layer", color=red)
    other_middle.set_ylim(bottom=0)
    size = np.sort(found[found >= 0])
    share = 100 * np.arange(len(size), 0, -1) / len(found)
    right.step(np.concatenate([[0], size]), np.concatenate([[share[0]], share]), color=ink, lw=2)
    right.fill_between(size, share, step="pre", color=ink, alpha=0.12)
    right.set(xlabel="ε: disturbance of the image, 2-norm", ylabel="digits read right, certified, %",
              title="No image within ε is read otherwise", ylim=(0, 101))  # fmt: skip
    right.set_xlim(left=0)
    for axes in (left, middle, right, other, other_middle):
        axes.spines["top"].set_visible(False)
    right.spines["right"].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None, epochs: int = EPOCHS, images: bool = False) -> None:
    """Train, test, and say what is certified; draw if ``out`` is given."""
    data = load(0)
    model = (convolutional if images else fully_connected)(jax.random.key(0))
    model, history = train(model, data, 0, epochs)
    first, last = history[0], history[-1]
    print(f"Held-out digits read right: {last.accuracy:.1%} of {len(data.held_y)}")
    print(f"Equilibria not found in training: {sum(e.failures for e in history)}")
    print(
        f"Iterations: {first.iterations:.1f} in the first epoch, {last.iterations:.1f} in the last"
    )
    certificate = model.layer.certificate
    print(f"Certificate: {certificate.verdict}, margin {certificate.margin:.2g}, "
          f"Lipschitz {certificate.lipschitz:.3g}")  # fmt: skip
    found = radii(model, data)
    for size in (0.0, 0.05, 0.1, 0.2):
        print(f"Certified within {size:4.2f}: {np.mean(found >= size):.1%}")
    if out is not None:
        draw(history, found, out)
        print(f"Drawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--convolutional", action="store_true")
    arguments = parser.parse_args()
    main(arguments.out, arguments.epochs, arguments.convolutional)
