"""How do the Lasso's coefficients move with its penalty? Differentiate, check, and draw.

Ten measurements of 442 diabetes patients predict how the disease progresses. scikit-learn solves

    min_β  ‖Xβ − y‖² / 2n + λ ‖β‖₁ ,

and the solution β is the fixed point of one proximal-gradient step,

    F(β, log λ) = β − S_{ηλ}(β − η Xᵀ(Xβ − y)/n) = 0 ,     S_t(u) = max(u − t, 0) − max(−u − t, 0) ,

for any step η > 0. conservax differentiates the coefficients through F, without a look at how
scikit-learn found them, and says when the answer can be trusted. Where a coefficient enters the
model the path has a kink: there are two derivatives, one for each side, and F's set holds both.

Run:  python examples/lasso_diabetes.py [--out PATH.png]
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

import conservax as cx

STEP = 0.2  # any step leaves the solution where it is; below 2/‖XᵀX/n‖ the iteration converges too


class Data(NamedTuple):
    """Standardised measurements (n, p), centred progression (n,), and the features' names."""

    X: np.ndarray
    y: np.ndarray
    names: list[str]


def load() -> Data:
    """The diabetes data that comes with scikit-learn."""
    bunch = load_diabetes()
    X = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    return Data(X, bunch.target - bunch.target.mean(), bunch.feature_names)


def solve(data: Data, log_lam: float) -> np.ndarray:
    """The coefficients at λ = exp(log_lam), (p,), by scikit-learn."""
    model = Lasso(alpha=np.exp(log_lam), fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return model.fit(data.X, data.y).coef_


def optimality(data: Data):
    """F(β, log λ): zero exactly where β solves the Lasso with penalty λ."""
    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    def F(beta, log_lam):
        u = beta - STEP * X.T @ (X @ beta - y) / len(y)
        t = STEP * jnp.exp(log_lam)
        return beta - (jax.nn.relu(u - t) - jax.nn.relu(-u - t))

    return F


def derivative(data: Data, log_lam: float) -> np.ndarray:
    """dβ/d log λ, (p,), by implicit differentiation of scikit-learn's answer."""

    @cx.custom_root(optimality(data))
    def lasso(init, log_lam):
        return init

    return np.asarray(jax.jacobian(lasso, argnums=1)(jnp.asarray(solve(data, log_lam)), log_lam))


def difference(data: Data, log_lam: float, side: int = 0, h: float = 1e-6) -> np.ndarray:
    """dβ/d log λ by finite differences: central, or from one side (side = -1 or 1)."""
    ahead, behind = log_lam + h * (side >= 0), log_lam - h * (side <= 0)
    return (solve(data, ahead) - solve(data, behind)) / (ahead - behind)


def knot(data: Data, feature: int) -> float:
    """The log λ at which a feature enters the model, by bisection on scikit-learn's answers."""
    low = -2.0
    high = np.log(np.abs(data.X.T @ data.y).max() / len(data.y)) + 1e-9
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (middle, high) if solve(data, middle)[feature] != 0 else (low, middle)
    return (low + high) / 2


def path(data: Data, grid: np.ndarray) -> np.ndarray:
    """The coefficients on a grid of log λ, (len(grid), p)."""
    return np.stack([solve(data, log_lam) for log_lam in grid])


def draw(data: Data, knots: dict[str, float], out: Path) -> None:
    """The coefficient path, with the knots where features enter."""
    import matplotlib.pyplot as plt

    grid = np.linspace(-1.5, max(knots.values()) + 0.3, 200)
    betas = path(data, grid)
    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    order = sorted(knots, key=knots.get)
    for name, column, color in zip(data.names, betas.T, plt.get_cmap("tab10").colors, strict=True):
        side = ("right", "left")[order.index(name) % 2]
        axes.plot(grid, np.where(grid < knots[name], column, np.nan), color=color, lw=1.8)
        axes.axvline(knots[name], color=color, lw=0.8, ls=":")
        axes.plot(knots[name], 0, "o", color=color, ms=6, mec="white", zorder=3)
        axes.text(
            knots[name], 1.01, name, transform=axes.get_xaxis_transform(),
            rotation=90, ha=side, va="bottom", color=color, fontsize=9,
        )  # fmt: skip
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    axes.set(
        xlabel="log λ",
        ylabel="coefficient (per standard deviation)",
    )
    figure.suptitle("Lasso path of the diabetes data: where a feature enters, the path has a kink")
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(out: Path | None = None) -> None:
    """Tell the story; draw it if `out` is given."""
    jax.config.update("jax_enable_x64", True)
    data = load()
    F = optimality(data)

    print("1. Away from the knots the derivative is unique.\n")
    log_lam = 1.0
    exact, numeric = derivative(data, log_lam), difference(data, log_lam)
    print(f"   log λ = {log_lam}    dβ/d log λ  finite differences")
    for name, one, other in zip(data.names, exact, numeric, strict=True):
        print(f"   {name:>10}  {one + 0.0:14.8f}  {other:18.8f}")
    print(f"\n   largest difference: {np.abs(exact - numeric).max():.1e}\n")
    print(cx.check(F, jnp.asarray(solve(data, log_lam)), log_lam))

    feature = data.names.index("bp")
    at_knot = knot(data, feature)
    print(f"\n2. At log λ = {at_knot:.10f} the feature {data.names[feature]!r} enters.\n")
    beta = jnp.asarray(solve(data, at_knot))
    print(cx.check(F, beta, at_knot))

    vertices = cx.implicit_jacobian(F)(beta, at_knot).vertices()[:, :, 0]
    print(f"\n   The set of derivatives has {len(vertices)} vertices, one for each side:\n")
    sides = [difference(data, at_knot, side) for side in (-1, 1)]
    labels = ("   just below (feature in)", "   just above (feature out)")
    for label, numeric in zip(labels, sides, strict=True):
        nearest = vertices[np.argmin(np.abs(vertices - numeric).max(axis=1))]
        distance = np.abs(nearest - numeric).max()
        print(
            f"{label:<27}: dβ/d log λ of {data.names[feature]} = {nearest[feature]:9.5f},", end=" "
        )
        print(f"all ten within {distance:.1e} of finite differences")

    if out is not None:
        knots = {name: knot(data, j) for j, name in enumerate(data.names)}
        draw(data, knots, out)
        print(f"\n3. The whole path: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    main(parser.parse_args().out)
