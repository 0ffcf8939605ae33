"""What a workshop can make, learned from what it made.

Every day a workshop is asked for more than it can do, p ∈ ℝ², and makes what comes closest,

    min ½‖x − p‖²   subject to   x ∈ C.

C, its machines and hours, is not told; the orders and the deliveries of 150 days are, with some noise. A
polygon of twelve sides, Ax ≤ b, takes the place of C: the plan is a CVXPY problem with parameters p, A and b,
and A and b follow the gradient of the distance between plans and deliveries. Sides that no plan touches
have no gradient; sides that meet where C has a corner end up beside each other. Every plan says
whether its derivative exists.

Run:  python examples/learned_constraint.py [--out PATH.png]
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

from conservax.programs import CvxpyLayer

SIDES, DAYS, ROUNDS, NOISE = 12, 150, 250, 0.02
TRUE_NORMALS = np.array([[-1, 0], [0, -1], [1, 0], [0, 1], [0.8, 0.6], [0.35, 0.94]])
TRUE_LIMITS = np.array([0.0, 0.0, 3.0, 2.4, 3.1, 2.6])


class Polygon(NamedTuple):
    """{x : cos φₖ x₁ + sin φₖ x₂ ≤ bₖ}: angles and limits, (SIDES,) each."""

    angles: jax.Array
    limits: jax.Array

    @property
    def normals(self) -> jax.Array:
        return jnp.stack([jnp.cos(self.angles), jnp.sin(self.angles)], axis=-1)


def planner(sides: int) -> CvxpyLayer:
    """p, A, b ↦ the x with Ax ≤ b next to p."""
    x, p = cp.Variable(2), cp.Parameter(2, name="p")
    A, b = cp.Parameter((sides, 2), name="A"), cp.Parameter(sides, name="b")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [A @ x <= b]), [p, A, b], [x])


def observe(days: int = DAYS) -> tuple[jax.Array, jax.Array]:
    """Orders and deliveries, (days, 2) each."""
    rng = np.random.default_rng(1)
    around = rng.uniform(0, 2 * np.pi, days)
    away = rng.uniform(1.0, 4.0, days)
    orders = np.array([1.5, 1.2]) + np.stack([np.cos(around), np.sin(around)], -1) * away[:, None]
    (made,) = planner(len(TRUE_LIMITS))(orders, TRUE_NORMALS, TRUE_LIMITS)
    return jnp.asarray(orders), made + NOISE * rng.normal(size=made.shape)


def first_guess() -> Polygon:
    """A regular polygon around all of it."""
    angles = 2 * np.pi * (np.arange(SIDES) + 0.3) / SIDES
    centre = np.array([1.5, 1.2])
    normals = np.stack([np.cos(angles), np.sin(angles)], -1)
    return Polygon(jnp.asarray(angles), jnp.asarray(normals @ centre + 2.5))


def distance(
    layer: CvxpyLayer, polygon: Polygon, orders: jax.Array, made: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean squared distance of plans and deliveries, and the verdict of every plan."""
    (plans,), info = layer.solve(orders, polygon.normals, polygon.limits)
    return jnp.mean(jnp.sum((plans - made) ** 2, axis=-1)), info.verdict


def learn(
    layer: CvxpyLayer, orders: jax.Array, made: jax.Array, rounds: int = ROUNDS
) -> tuple[list[Polygon], list[float], int]:
    """The polygons and distances, round by round, and how many derivatives were not PROVEN."""
    polygon = first_guess()
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, rounds))
    state = optimiser.init(polygon)
    step = jax.jit(
        jax.value_and_grad(lambda polygon: distance(layer, polygon, orders, made), has_aux=True)
    )
    path, distances, not_proven = [polygon], [], 0
    for _ in track(range(rounds), description="learning"):
        (value, verdicts), gradient = step(polygon)
        distances.append(float(value))
        not_proven += int(np.sum(np.asarray(verdicts) != 1))
        updates, state = optimiser.update(gradient, state)
        polygon = optax.apply_updates(polygon, updates)
        path.append(polygon)
    return path, distances, not_proven


def corners(normals: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Of a bounded polygon, anticlockwise: where two sides meet and no other is exceeded."""
    found = []
    for i in range(len(limits)):
        for j in range(i):
            if abs(np.linalg.det(normals[[i, j]])) > 1e-9:
                x = np.linalg.solve(normals[[i, j]], limits[[i, j]])
                if np.all(normals @ x <= limits + 1e-9):
                    found.append(x)
    around = np.array(found) - np.mean(found, axis=0)
    return np.array(found)[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]


def area(points: np.ndarray) -> float:
    """Of a polygon with these corners."""
    closed = [*points, points[0]]
    return 0.5 * abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairwise(closed)))


def area_between(polygon: Polygon) -> float:
    """Of the symmetric difference of a polygon and C."""
    normals, limits = np.asarray(polygon.normals), np.asarray(polygon.limits)
    own, true = corners(normals, limits), corners(TRUE_NORMALS, TRUE_LIMITS)
    both = corners(np.vstack([normals, TRUE_NORMALS]), np.concatenate([limits, TRUE_LIMITS]))
    return area(own) + area(true) - 2 * area(both)


def draw(
    path: list[Polygon], distances: list[float], orders: jax.Array, made: jax.Array, out: Path
) -> None:
    """The polygon on its way, and the distance."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.6, 4.4), width_ratios=(1.25, 1), layout="constrained"
    )
    left.fill(*corners(TRUE_NORMALS, TRUE_LIMITS).T, color="#e9eef4", lw=0, label="C")
    for order, delivery in zip(orders[:60], made[:60], strict=True):
        left.plot(*zip(order, delivery, strict=True), color="#9aa5b1", lw=0.4, alpha=0.6)
    left.plot(*np.asarray(made).T, ".", color="#c1292e", ms=3.5, label="deliveries")
    shown = (0, 10, 25, 60, len(path) - 1)
    for k, alpha in zip(shown, np.linspace(0.25, 1, len(shown)), strict=True):
        edge = corners(np.asarray(path[k].normals), np.asarray(path[k].limits))
        last = k == shown[-1]
        left.plot(
            *np.vstack([edge, edge[:1]]).T,
            color="#1d3557",
            alpha=alpha,
            lw=2 if last else 1,
            label="learned" if last else None,
        )
    left.set(xlim=(-1.6, 4.6), ylim=(-1.6, 4.1), aspect="equal", title="What the workshop can make")
    left.legend(frameon=False, loc="upper right")
    right.semilogy(np.sqrt(distances), color="#1d3557", lw=2)
    right.axhline(NOISE * 2**0.5, color="#c1292e", lw=1, ls="--")
    right.text(len(distances), NOISE * 2**0.5 * 1.06, "noise of the deliveries", color="#c1292e",
               ha="right", va="bottom")  # fmt: skip
    right.set(xlabel="round", ylabel="root mean squared distance", title="Plans and deliveries")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Learn, and say how well; draw if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    orders, made = observe()
    path, distances, not_proven = learn(planner(SIDES), orders, made)
    first, last = (np.sqrt(value) for value in (distances[0], distances[-1]))
    print(f"\nPlans miss deliveries by {first:.3f} at first, by {last:.3f} in the end (rms);")
    print(f"the deliveries' noise alone is {NOISE * 2**0.5:.3f}.")
    between = [area_between(polygon) for polygon in (path[0], path[-1])]
    whole = area(corners(TRUE_NORMALS, TRUE_LIMITS))
    print(
        f"Area between the polygon and C, {whole:.2f}: {between[0]:.2f} at first, {between[1]:.3f} now."
    )
    plans = DAYS * len(distances)
    print(f"{plans} plans were differentiated; {plans - not_proven} derivatives were PROVEN.")
    if out is not None:
        draw(path, distances, orders, made, out)
        print(f"\nDrawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
