"""What happens at a degenerate point? Two derivatives, a choice, and a program with none.

1. A workshop is asked for θ of one product and ½ of another, and can make one unit in all:

       x(θ) = argmin ½‖x − (θ, ½)‖²  subject to  x₁ + x₂ ≤ 1,  x ≥ 0 .

   At θ = ½ the capacity is just enough: it binds, and costs nothing. On one side of that point the
   plan follows θ, on the other it shares the loss; there are two derivatives, and a solver's noise
   would pick any number. Here the caller picks, and the check says that every choice is regular.
2. One unit is bought from two sellers at the same price: a linear program with a tie. Every split is
   optimal, so there is no derivative. The check refutes, with the direction in which the answer
   moves freely, and a witness that one SVD confirms. A small preference for even splits repairs it.

Run:  python examples/degenerate_point.py [--out PATH.png]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from conservax.programs import QuadraticProgram

CAPACITY = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), np.array([1.0, 0.0, 0.0])
KINK = 0.5


def wishes(theta):
    """The objective's linear part, −(θ, ½); θ of any shape."""
    theta = jnp.asarray(theta)
    return -jnp.stack([theta, jnp.full_like(theta, 0.5)], axis=-1)


def plan(theta, selection: str = "lower"):
    """x(θ), of shape (..., 2)."""
    G, h = map(jnp.asarray, CAPACITY)
    return QuadraticProgram(selection=selection)(jnp.eye(2), wishes(theta), G=G, h=h).primal


def slopes(theta, selection: str):
    """dx/dθ, of shape (..., 2)."""
    return jax.jvp(lambda t: plan(t, selection), (theta,), (jnp.ones_like(theta),))[1]


def difference(theta: float, side: float, h: float = 1e-3) -> np.ndarray:
    """dx/dθ from one side."""
    ahead, here = plan(jnp.array([theta + side * h, theta]))
    return np.asarray(ahead - here) / (side * h)


def workshop() -> None:
    """A weakly active constraint: certified, with two derivatives."""
    G, h = CAPACITY
    print("1. A capacity that is just enough\n")
    report = QuadraticProgram().check(np.eye(2), wishes(KINK), G=G, h=h)
    print(f"   At θ = {KINK} the plan is {np.round(plan(KINK), 6).tolist()}.")
    print(f"   {report.verdict.name}: {report.reason}")
    print(f"   weakly active rows {report.weakly_active}, margin {report.margin:.3f}\n")
    print("   dx/dθ         product 1   product 2")
    for label, slope in (
        ("lower", slopes(jnp.asarray(KINK), "lower")),
        ("from below", difference(KINK, -1.0)),
        ("upper", slopes(jnp.asarray(KINK), "upper")),
        ("from above", difference(KINK, 1.0)),
    ):
        print(f"   {label:10} {slope[0]:12.6f} {slope[1] + 0.0:11.6f}")
    print('\n   "lower" leaves the capacity out, "upper" keeps it in; between them lies the set.')


def sellers(evenness: float):
    """The data of: buy one unit at prices (1, 1), with ½ evenness ‖x‖² on top."""
    G, h = np.array([[-1.0, -1.0], [-1.0, 0.0], [0.0, -1.0]]), np.array([-1.0, 0.0, 0.0])
    return evenness * np.eye(2), np.ones(2), None, None, G, h


def tie() -> None:
    """A linear program whose answer is not unique: refuted, with its direction."""
    print("\n\n2. Two sellers, one price\n")
    Q, q, _, _, G, h = sellers(0.0)
    report = QuadraticProgram().check(Q, q, G=G, h=h)
    print(f"   {report.verdict.name}: {report.reason}")
    print(f"   direction {np.round(report.direction, 4).tolist()}, which costs", end=" ")
    print(f"{abs(q @ report.direction):.0e} per unit")
    V = report.witness.element
    U = np.block([[Q, G.T @ V], [G, V - np.eye(3)]])
    smallest = np.linalg.svd(U, compute_uv=False)[-1]
    print(f"   the witness, rebuilt: σ_min = {smallest:.0e}")
    layer = QuadraticProgram()
    gradient = jax.jacobian(lambda q: layer(Q, q, G=G, h=h).primal[0])(jnp.asarray(q))
    print(f"   derivative in the prices: {gradient.tolist()}, and no number that looks like one\n")
    report = layer.check(*sellers(0.1))
    Q = jnp.asarray(sellers(0.1)[0])
    gradient = jax.jacobian(lambda q: layer(Q, q, G=G, h=h).primal[0])(jnp.asarray(q))
    print(f"   With 0.05 ‖x‖² on top: {report.verdict.name}, derivative", end=" ")
    print(np.round(gradient, 4).tolist())


def draw(out: Path) -> None:
    """The plan and its slope as θ passes the kink."""
    import matplotlib.pyplot as plt

    theta = jnp.linspace(0.0, 1.0, 101)
    path = plan(theta)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    for i, color in enumerate(("#1d3557", "#e07a1f")):
        left.plot(theta, path[:, i], color=color, lw=2)
        left.annotate(
            f"product {i + 1}", (0.7, path[70, i]), (6, 9 if i else -14),
            textcoords="offset points", color=color,
        )  # fmt: skip
        slope = slopes(theta, "lower")[:, i]
        for part in (theta < KINK, theta > KINK):
            right.plot(theta[part], slope[part], color=color, lw=2)
        ends = [slopes(jnp.asarray(KINK), name)[i] for name in ("lower", "upper")]
        right.plot([KINK] * 2, ends, color=color, lw=6, alpha=0.3, solid_capstyle="round")
        for end, name, marker in zip(ends, ("lower", "upper"), "ov", strict=True):
            right.plot(KINK, end, marker, color="white", mec=color, mew=1.8, ms=8, zorder=3)
            right.annotate(
                name, (KINK, end), (9 if name == "lower" else -9, 0), textcoords="offset points",
                color=color, va="center", ha="left" if name == "lower" else "right",
            )  # fmt: skip
    left.axvline(KINK, color="0.6", lw=0.8, ls=":", zorder=0)
    left.set(xlabel="θ", ylabel="plan x(θ)", title="The plan has a kink where capacity binds")
    right.set(xlabel="θ", ylabel="dx/dθ", title="Its derivative there is a segment")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Tell both stories; draw the first if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    workshop()
    tie()
    if out is not None:
        draw(out)
        print(f"\n   The first story, drawn: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
