"""Finite differences: how accurate they can be, at best.

    forward  (f(x + h) − f(x)) / h           error ≈ h |f″|/2 + 2ε|f|/h     best h ≈ √ε
    central  (f(x + h) − f(x − h)) / (2h)    error ≈ h² |f‴|/6 + ε|f|/h     best h ≈ ε^(1/3)

AD has neither term: its error is a few roundings.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import style
from .claim import Experiment, Outcome, Ticker, about, at_most, ours, within_factor

SOURCE = "Truncation against round-off (Nocedal and Wright, Numerical Optimization, Section 8.1)"
EPS = float(np.finfo(np.float64).eps)


def f(x: jax.Array) -> jax.Array:
    """exp(sin 3x), smooth and cheap, with every derivative of moderate size."""
    return jnp.exp(jnp.sin(3 * x))


def derivative(x: np.ndarray) -> np.ndarray:
    """3 cos(3x) exp(sin 3x), in extended precision, the reference."""
    x = x.astype(np.longdouble)
    return 3 * np.cos(3 * x) * np.exp(np.sin(3 * x))


def slope(h: np.ndarray, error: np.ndarray, low: float, high: float) -> float:
    """Exponent p in error ∝ hᵖ between two step sizes."""
    chosen = (h >= low) & (h <= high)
    return float(np.polyfit(np.log(h[chosen]), np.log(error[chosen]), 1)[0])


def run(quick: bool, tick: Ticker) -> Outcome:
    """Measure the median error over many points for each step size."""
    points = np.random.default_rng(0).uniform(0.1, 1.4, 100 if quick else 400)
    steps = np.logspace(-15, -0.5, 59)
    truth = derivative(points)
    value = jax.jit(jax.vmap(f))

    def median_error(estimate: np.ndarray | jax.Array) -> float:
        return float(np.median(np.abs(np.asarray(estimate) - truth)))

    forward, central = [], []
    for i, h in enumerate(steps):
        up, here, down = (np.asarray(value(points + k * h)) for k in (1, 0, -1))
        forward.append(median_error((up - here) / h))
        central.append(median_error((up - down) / (2 * h)))
        tick((i + 1) / len(steps))
    ad = median_error(jax.jit(jax.vmap(jax.grad(f)))(points))
    forward, central = np.array(forward), np.array(central)
    best = [float(steps[np.argmin(errors)]) for errors in (forward, central)]

    claims = [
        within_factor("best step, forward: √ε", SOURCE, EPS**0.5, best[0], 10),
        within_factor("best step, central: ε^(1/3)", SOURCE, EPS ** (1 / 3), best[1], 10),
        about("truncation, forward: error grows like h to the power", SOURCE, 1.0,
              slope(steps, forward, 1e-6, 1e-2), 0.05),
        about("truncation, central: error grows like h to the power", SOURCE, 2.0,
              slope(steps, central, 1e-4, 1e-2), 0.05),
        about("round-off, forward: error grows like h to the power", SOURCE, -1.0,
              slope(steps, forward, 1e-14, 1e-10), 0.1),
        at_most("error of AD, in units of ε", ours(SOURCE), 16.0, ad / EPS),
        at_most("error of AD / best error of central differences", ours(SOURCE), 1e-2,
                ad / float(central.min())),
    ]  # fmt: skip
    return Outcome(_draw(steps, forward, central, ad, best), claims)


def _draw(
    steps: np.ndarray, forward: np.ndarray, central: np.ndarray, ad: float, best: list[float]
) -> style.Figure:
    fig = style.figure(7.6, 4.8)
    ax = fig.subplots()
    rows = ((forward, style.AD, "forward", best[0]), (central, style.SET, "central", best[1]))
    for errors, colour, name, h in rows:
        ax.loglog(steps, errors, color=colour, label=f"{name} differences")
        ax.plot(h, errors.min(), "o", color="white", mec=colour, mew=2, ms=9, zorder=5)
    for h, text in ((EPS**0.5, r"$\sqrt{\varepsilon}$"), (EPS ** (1 / 3), r"$\varepsilon^{1/3}$")):
        ax.axvline(h, color=style.MUTED, lw=1.1, ls=":")
        ax.text(h * 1.25, 2.0, text, color=style.INK, fontsize=14, va="top")
    ax.axhline(ad, color=style.GOOD, label="algorithmic differentiation")
    ax.text(3e-12, 4e-3, "round-off", color=style.INK)
    ax.text(3e-3, 2e-8, "truncation", color=style.INK)
    ax.set(xlabel="step $h$", ylabel="median error of the derivative", ylim=(1e-16, 10),
           title="Accuracy of finite differences, double precision")  # fmt: skip
    fig.legend(loc="outside lower center", ncols=3)
    return fig


EXPERIMENT = Experiment(
    name="finite-differences",
    title="Finite differences: the price in accuracy",
    source=SOURCE,
    description=(
        "The error of a difference quotient falls with the step until round-off takes over. "
        "The best step is about √ε for forward and ε^(1/3) for central differences, and even there "
        "half, respectively a third, of the digits are gone. Algorithmic differentiation loses "
        "none."
    ),
    run=run,
)
