"""A quadratic program inside a network: whom does the classifier look at, and can it be trusted?

Ten measurements of a tumour's cells (each with its mean, its error and its worst value) tell benign
from malignant. For each patient the model spends one unit of attention on the ten,

    w = argmin ½ wᵀQw − s(x)ᵀw   subject to   w ≥ 0,  Σ w_i ≤ 1 ,

s(x) what the patient's data ask for, Q = I + LLᵀ how far measurements that say the same compete. The
verdict is a weighted vote, Σ w_i (a_iᵀ x_i) + b. Attention is exactly zero where it is not worth it, so
each decision names the few measurements that it rests on. s, L, a and b are trained together, through
the program and its Hessian. Every solve reports a certificate: that its derivative exists whichever
weakly active constraints are counted.

Run:  python examples/optimisation_layer.py [--out PATH.png]
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from conservax.invertibility import Verdict
from conservax.programs import ProgramInfo, QuadraticProgram

EPOCHS, BATCH = 12, 65
USED = 1e-6  # attention counts from here


class Data(NamedTuple):
    """Standardised patients (n, 30), 1 for malignant, and the ten measurements' names."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: list[str]


def load() -> Data:
    """The breast-cancer data that comes with scikit-learn, 455 patients to learn from and 114 held out."""
    bunch = load_breast_cancer()
    x, held, y, held_y = train_test_split(
        bunch.data, 1 - bunch.target, test_size=0.2, random_state=0, stratify=bunch.target
    )
    mean, spread = x.mean(0), x.std(0)
    names = [str(name).removeprefix("mean ") for name in bunch.feature_names[:10]]
    return Data(((x - mean) / spread, y), ((held - mean) / spread, held_y), names)


class Model(eqx.Module):
    """Scores, a program that turns them into attention, and a vote."""

    score: eqx.nn.Linear
    overlap: jax.Array
    votes: jax.Array
    bias: jax.Array

    def __init__(self, key: jax.Array):
        one, two, three = jax.random.split(key, 3)
        self.score = eqx.nn.Linear(30, 10, key=one)
        self.overlap = 0.1 * jax.random.normal(two, (10, 10))
        self.votes = 0.1 * jax.random.normal(three, (10, 3)) + 1.0
        self.bias = jnp.zeros(())

    def attend(self, x: jax.Array) -> tuple[jax.Array, ProgramInfo]:
        """The attention (n, 10) of n patients, and what the solver says of it."""
        Q = jnp.eye(10) + self.overlap @ self.overlap.T
        G = jnp.concatenate([-jnp.eye(10), jnp.ones((1, 10))])
        h = jnp.zeros(11).at[10].set(1.0)
        solution = QuadraticProgram()(Q, -jax.vmap(self.score)(x), G=G, h=h)
        return solution.primal, solution.info

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ProgramInfo]:
        """The log-odds of malignant (n,), and the solver's word."""
        attention, info = self.attend(x)
        ballots = jnp.einsum("nkm,mk->nm", x.reshape(-1, 3, 10), self.votes)
        return jnp.sum(attention * ballots, axis=1) + self.bias, info


def loss(model: Model, x: jax.Array, y: jax.Array) -> tuple[jax.Array, ProgramInfo]:
    """The mean cross-entropy."""
    odds, info = model(x)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(odds, y)), info


def train(data: Data, epochs: int = EPOCHS) -> tuple[Model, list[float], Counter[Verdict], float]:
    """The trained model, the loss of each epoch, how often which verdict came, the least margin."""
    model = Model(jax.random.key(0))
    optimiser = optax.adamw(1e-2, weight_decay=0.3)
    state = optimiser.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state, x, y):
        (value, info), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model, x, y)
        updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, value, info

    x, y = data.train
    rng = np.random.default_rng(0)
    losses, verdicts, margin = [], Counter(), np.inf
    for _ in track(range(epochs), description="training"):
        values = []
        for batch in rng.permutation(len(y)).reshape(-1, BATCH):
            model, state, value, info = step(model, state, x[batch], y[batch])
            values.append(float(value))
            verdicts.update(Verdict(v) for v in info.verdict.tolist())
            margin = min(margin, float(info.margin.min()))
        losses.append(float(np.mean(values)))
    return model, losses, verdicts, margin


def draw(data: Data, attention: np.ndarray, losses: list[float], out: Path) -> None:
    """The loss, and who is looked at in held-out patients of either kind."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.2), width_ratios=[1, 1.5], layout="constrained"
    )
    left.plot(np.arange(1, len(losses) + 1), losses, color="#1d3557", lw=2)
    left.set(xlabel="epoch", ylabel="cross-entropy", title="Training through the program")
    left.set_ylim(bottom=0)
    rows = np.arange(10)
    for kind, label, color, shift in (
        (0, "benign", "#2a9d8f", -0.2),
        (1, "malignant", "#c1292e", 0.2),
    ):
        share = attention[data.test[1] == kind].mean(0)
        right.barh(rows + shift, share, height=0.38, color=color, label=label)
    right.set_yticks(rows, data.names)
    right.invert_yaxis()
    right.set(xlabel="mean attention", title="What decisions on held-out patients rest on")
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Train, test, and say what the certificates said; draw if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    data = load()
    model, losses, verdicts, margin = train(data)
    x, y = data.test
    odds, _ = model(x)
    attention = np.asarray(model.attend(x)[0])
    accuracy = float(np.mean((odds > 0) == y))
    plain = LogisticRegression(max_iter=1000).fit(*data.train).score(x, y)
    print(
        f"\nCross-entropy: {losses[0]:.3f} after the first epoch, {losses[-1]:.3f} after the last."
    )
    print(f"Accuracy on {len(y)} held-out patients: {accuracy:.1%}", end=" ")
    print(f"(logistic regression on all 30 numbers: {plain:.1%}).")
    used = np.sum(attention > USED, axis=1)
    print(f"A decision rests on {used.mean():.1f} of the ten measurements, at most {used.max()}.")
    print(f"\nCertificates of the {verdicts.total()} programs solved in training:")
    for verdict in Verdict:
        print(f"   {verdict.name:8} {verdicts[verdict]}")
    print(f"   The smallest margin of a proof was {margin:.2g}.")
    if out is not None:
        draw(data, attention, losses, out)
        print(f"\nDrawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
