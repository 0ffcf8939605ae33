"""Proposition 3: every selection's gradient of a monotone equilibrium, against brute force.

    z = relu(W z + U x + b),    W + Wᵀ ≼ 2(1 − m) I,  m > 0

at a point where most units stand exactly at their kink. Each subset S of them gives a matrix
J_S = diag(1_S) and a candidate derivative (I − J_S W)⁻¹J_S; all are formed, and compared with what
the layer and the calculus say.
"""

from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import (
    Experiment,
    Outcome,
    Ticker,
    agrees,
    at_least,
    at_most,
    counts,
    has_verdict,
    ours,
    same_points,
)

SOURCE = "Bolte et al. 2021, Proposition 3"
M = 0.5


def layer_at_its_kinks(units: int, kinks: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """A layer, an input, and its equilibrium, at which that many preactivations are 0."""
    layer = cx.equilibrium.MonotoneEquilibrium(3, units, m=M, key=jax.random.key(1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=3)
    z = np.where(np.arange(units) < kinks, 0.0, 1 + rng.random(units))
    b = jnp.asarray(z - np.asarray(layer.W) @ z - np.asarray(layer.U) @ x)
    return eqx.tree_at(lambda f: f.b, layer, b), x, z


def run(quick: bool, tick: Ticker) -> Outcome:
    """All subsets of the kinks, and the layer's gradients among them."""
    kinks, units = (5, 7) if quick else (8, 11)
    layer, x, z = layer_at_its_kinks(units, kinks)
    W = np.asarray(layer.W)
    loss = np.random.default_rng(1).normal(size=units)
    jacobians = [
        np.diag(np.concatenate([ones, np.ones(units - kinks)]))
        for ones in itertools.product((0.0, 1.0), repeat=kinks)
    ]
    matrices = [np.eye(units) - J @ W for J in jacobians]
    smallest = [np.linalg.svd(X, compute_uv=False)[-1] for X in matrices]
    sets = [np.linalg.solve(X, J) for X, J in zip(matrices, jacobians, strict=True)]
    gradients = np.array([loss @ V for V in sets])  # in b; in W they are their products with z
    tick(0.3)

    certificate = layer.certificate
    F = lambda z, b: z - jax.nn.relu(layer.W @ z + layer.U @ x + b)  # noqa: E731
    vertices = cx.implicit_jacobian(F)(jnp.asarray(z), layer.b).vertices()
    tick(0.5)
    found = {choice: _gradients(layer, x, loss, choice) for choice in ("lower", "upper", "jax")}
    off = max(
        _distance(found["lower"], gradients[:1], layer, z),
        _distance(found["upper"], gradients[-1:], layer, z),
        _distance(found["jax"], gradients, layer, z),
    )
    tick(0.7)
    near = _one_sided(layer, x, z, loss, gradients, 50)
    singular = np.linalg.det(np.eye(2) - 0.5 * np.eye(2) @ (2 * np.eye(2)))

    claims = [
        has_verdict("the layer, by construction", SOURCE, cx.Verdict.PROVEN, certificate.verdict),
        at_least(
            f"least σ_min(I − JW) over {len(sets)} selections, beside the margin of the certificate",
            ours(SOURCE), certificate.margin, min(smallest),
        ),
        same_points("the calculus' set of ∂z/∂b, beside brute force", SOURCE, np.array(sets), vertices),
        at_most("distance of the layer's gradients in A, B and b from brute force", ours(SOURCE), 1e-9, off),
        counts("one-sided differences met by an element", SOURCE, 50, near, "directions in W and b"),
        agrees("det(I − VW) for W = 2I, V = I/2, which the opposite sign would allow", SOURCE, 0.0, singular),
    ]  # fmt: skip
    return Outcome(_draw(gradients, found, smallest, jacobians, kinks, certificate.margin), claims)


def _gradients(layer: Any, x: np.ndarray, loss: np.ndarray, choice: str) -> Any:
    """Of loss·z in the layer's parameters, along a selection."""
    chosen = cx.equilibrium.MonotoneEquilibrium(
        x.size, loss.size, m=M, selection=choice, key=jax.random.key(0)
    )
    chosen = eqx.tree_at(_parameters, chosen, _parameters(layer))
    return jax.tree.map(
        np.asarray, eqx.filter_grad(lambda f: jnp.dot(loss, f(jnp.asarray(x))))(chosen)
    )


def _distance(of_layer: Any, candidates: np.ndarray, layer: Any, z: np.ndarray) -> float:
    """Largest entry of the difference in A, B and b from the nearest of the gradients t in b."""
    distances = []
    for t in candidates:
        of_W = np.outer(t, z)  # and W = (1 − m)I − AᵀA + B − Bᵀ
        of_A = -np.asarray(layer.A) @ (of_W + of_W.T)
        pairs = ((of_layer.A, of_A), (of_layer.B, of_W - of_W.T), (of_layer.b, t))
        distances.append(max(float(np.max(np.abs(mine - theirs))) for mine, theirs in pairs))
    return min(distances)


def _parameters(layer: Any) -> Any:
    return layer.A, layer.B, layer.U, layer.b


def _one_sided(
    layer: Any, x: np.ndarray, z: np.ndarray, loss: np.ndarray, gradients: np.ndarray, tries: int
) -> int:
    """In how many directions the one-sided difference of loss·z is that of some selection."""
    rng, h = np.random.default_rng(2), 1e-6
    W, b, units = np.asarray(layer.W), np.asarray(layer.b), len(z)
    hits = 0
    for _ in range(tries):
        dW, db = rng.normal(size=(units, units)) / units, rng.normal(size=units)
        moved = _solve(W + h * dW, b + h * db + np.asarray(layer.U) @ x)
        slope = loss @ (moved - z) / h
        of_selections = gradients @ (dW @ z + db)
        hits += np.min(np.abs(of_selections - slope)) < 1e-4 * (1 + abs(slope))
    return int(hits)


def _solve(W: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The equilibrium by Newton's method on the pieces, in plain NumPy."""
    z = np.maximum(c, 0)
    for _ in range(100):
        J = np.diag((W @ z + c > 0) * 1.0)
        new = np.linalg.solve(np.eye(len(c)) - J @ W, J @ c)
        if np.max(np.abs(new - z)) < 1e-14:
            break
        z = new
    return z


def _draw(
    gradients: np.ndarray,
    found: Any,
    smallest: list[float],
    jacobians: list[np.ndarray],
    kinks: int,
    margin: float,
) -> style.Figure:
    fig = style.figure(9.6, 4.4)
    left, right = fig.subplots(1, 2)
    left.plot(*gradients[:, :2].T, "o", ms=4, color=style.SET, alpha=0.6, label="every selection")
    for choice, marker, color in (("lower", "D", style.TRUTH), ("upper", "s", style.AD)):
        of_b = found[choice].b
        left.plot(of_b[0], of_b[1], marker, ms=9, color=color, label=f'the layer, "{choice}"')
    left.set(xlabel=r"$\partial\,\ell/\partial b_1$", ylabel=r"$\partial\,\ell/\partial b_2$",
             title=f"Gradients at {kinks} kinks: {len(gradients)} selections")  # fmt: skip
    left.legend()
    active = [int(np.trace(J)) - (len(J) - kinks) for J in jacobians]
    right.plot(active, smallest, "o", ms=4, color=style.SET, alpha=0.6)
    right.axhline(margin, color=style.GOOD, label="the certificate's margin")
    right.set(xlabel="kinks taken as active", ylabel=r"$\sigma_{\min}(I - JW)$",
              title="No selection comes near a singular matrix")  # fmt: skip
    right.set_ylim(bottom=0)
    right.legend()
    return fig


EXPERIMENT = Experiment(
    name="equilibrium-selections",
    title="Every gradient of a monotone equilibrium",
    source=SOURCE,
    description=(
        "A monotone equilibrium network z = relu(Wz + Ux + b) at a point where most of its units "
        "stand exactly at their kink. Proposition 3 says that I − JW is invertible for every Jacobian "
        "J of relu; brute force forms them all. The layer's own gradients are among them, the "
        "calculus finds the same set, and one-sided differences meet its elements."
    ),
    run=run,
)
