"""A graph network of infinitely many layers: a class carried along a chain, with a contraction proved.

Twenty chains of ten nodes; only the first node of each shows its class, every node must tell it. A
network of k layers sees k neighbours; an implicit one, Z = relu(W Z Â + U X + b), sees the whole chain:
its answer is the equilibrium. With ‖W‖∞ ≤ κ/λ(Â), λ(Â) the Perron eigenvalue of the adjacency matrix,
and κ < 1, the map contracts, so that the equilibrium exists and its derivative may be trusted, whatever
the graph's features are. W is brought back to that bound after every step, and the certificate of it
is recomputed from the matrices themselves.

Source: Gu, Chang, Zhu, Sojoudi, El Ghaoui, Implicit graph neural networks (NeurIPS 2020).

Run:  python examples/implicit_graph_network.py [--out PATH.png]
"""

import argparse
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

import conservax as cx
from conservax.invertibility import certify_contraction

CHAINS, LENGTH, FEATURES, HIDDEN, KAPPA, STEPS = 20, 10, 8, 8, 0.95, 300


def chains(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (chains, features, nodes), classes (chains,), and the normalised adjacency (nodes, nodes)."""
    rng = np.random.default_rng(seed)
    y = np.arange(CHAINS) % 2
    x = 0.1 * rng.normal(size=(CHAINS, FEATURES, LENGTH))
    x[:, :2, 0] += np.eye(2)[y]  # the class, at the first node alone
    links = np.eye(LENGTH, k=1) + np.eye(LENGTH, k=-1) + np.eye(LENGTH)
    degree = links.sum(1)
    return x.astype(np.float32), y, (links / np.sqrt(np.outer(degree, degree))).astype(np.float32)


def perron(adjacency: np.ndarray) -> float:
    """λ(Â), of a symmetric nonnegative matrix."""
    return float(np.linalg.eigvalsh(np.asarray(adjacency, np.float64))[-1])


class GraphCell(eqx.Module):
    """Z ↦ relu(W Z Â + U X + b)."""

    W: jax.Array
    U: jax.Array
    b: jax.Array

    def __init__(self, key: jax.Array):
        one, two = jax.random.split(key)
        self.W = 0.3 * jax.random.normal(one, (HIDDEN, HIDDEN))
        self.U = 0.5 * jax.random.normal(two, (HIDDEN, FEATURES))
        self.b = jnp.zeros((HIDDEN, 1))

    def __call__(self, z: jax.Array, x: jax.Array, adjacency: jax.Array) -> jax.Array:
        return jax.nn.relu(self.W @ z @ adjacency + self.U @ x + self.b)

    def bounded(self, limit: float) -> "GraphCell":
        """The cell with ‖W‖∞ ≤ limit: rows that are too long are shortened."""
        rows = jnp.sum(jnp.abs(self.W), axis=1, keepdims=True)
        return eqx.tree_at(lambda c: c.W, self, self.W * jnp.minimum(1, limit / rows))


class Network(eqx.Module):
    """The equilibrium on a chain, and a vote at each node."""

    deq: cx.equilibrium.Equilibrium
    head: jax.Array

    def __call__(self, x: jax.Array, adjacency: jax.Array) -> jax.Array:
        """Log-odds (nodes,) of the second class."""
        return self.head @ self.deq(x, adjacency)


def network(key: jax.Array) -> Network:
    """A network whose cell is within its bound."""
    one, two = jax.random.split(key)
    deq = cx.equilibrium.Equilibrium(GraphCell(one), (HIDDEN, LENGTH), "anderson", tol=1e-5)
    return Network(deq, 0.3 * jax.random.normal(two, (HIDDEN,)))


def certificate(cell: GraphCell, adjacency: np.ndarray) -> Any:
    """From |∂/∂vec(Z)| ≤ |W| ⊗ Â, entry by entry, in the norm that Perron's vector of Â gives."""
    bounds = np.kron(np.abs(np.asarray(cell.W, np.float64)), np.asarray(adjacency, np.float64))
    _, vectors = np.linalg.eigh(np.asarray(adjacency, np.float64))
    scaling = np.kron(np.ones(HIDDEN), np.abs(vectors[:, -1]))
    return certify_contraction(bounds=bounds, scaling=scaling)


def train(seed: int = 0, steps: int = STEPS) -> tuple[Network, list[tuple[float, float, float]]]:
    """The network and, for each step, loss, accuracy over all nodes and margin of the certificate."""
    x, y, adjacency = chains(seed)
    limit = KAPPA / perron(adjacency)
    model = network(jax.random.key(seed))
    model = eqx.tree_at(lambda m: m.deq.cell, model, model.deq.cell.bounded(limit))
    optimiser = optax.adam(1e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    wanted = jnp.broadcast_to(y[:, None], (CHAINS, LENGTH))

    def loss(model: Network) -> tuple[jax.Array, jax.Array]:
        odds = jax.vmap(model, (0, None))(x, adjacency)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(odds, wanted)), jnp.mean(
            (odds > 0) == wanted
        )

    @eqx.filter_jit
    def step(model: Network, state: Any) -> Any:
        (value, right), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
        model = eqx.tree_at(lambda m: m.deq.cell, model, model.deq.cell.bounded(limit))
        return model, state, value, right

    history = []
    for _ in track(range(steps), description="training"):
        model, state, value, right = step(model, state)
        proof = certificate(model.deq.cell, adjacency)
        assert proof.verdict == cx.Verdict.PROVEN
        history.append((float(value), float(right), proof.margin))
    return model, history


def draw(model: Network, history: list[tuple[float, float, float]], out: Path) -> None:
    """Training, and the log-odds of every node along the chains."""
    import matplotlib.pyplot as plt

    x, y, adjacency = chains(0)
    odds = np.asarray(jax.vmap(model, (0, None))(x, adjacency))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    losses, accuracies, _ = np.array(history).T
    left.plot(losses, color="#1d3557", lw=2, label="cross-entropy")
    left.plot(accuracies, color="#2a9d8f", lw=2, label="share of nodes that know")
    left.set(xlabel="step", title="Learning through the equilibrium", ylim=(0, 1.05))
    left.legend(frameon=False, loc="center right")
    for chain, label in zip(odds, y, strict=True):
        right.plot(np.arange(1, LENGTH + 1), chain, color=("#c1292e", "#1d3557")[label], alpha=0.6)
    right.axhline(0, color="#8a94a3", lw=0.8)
    right.set(xlabel="node; only the first one is told the class", ylabel="log-odds",
              title="The class arrives at the end of every chain")  # fmt: skip
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None, steps: int = STEPS) -> None:
    """Train, and say what was learned and proved; draw if ``out`` is given."""
    model, history = train(steps=steps)
    loss, right, margin = history[-1]
    print(f"Nodes that know their chain's class: {right:.1%} (cross-entropy {loss:.3f})")
    print(f"Proved at each of {len(history)} steps: the map contracts; margin now {margin:.3g}")
    if out is not None:
        draw(model, history, out)
        print(f"Drawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
