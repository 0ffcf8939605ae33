"""The ODE method made visible: the interpolated path follows the flow, a Lyapunov function falls."""

from __future__ import annotations

import numpy as np

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, at_least, at_most, ours

SOURCE = "Benaïm, Hofbauer, Sorin 2005; Davis, Drusvyatskiy, Kakade, Lee 2020; Le 2024"
HORIZON = 1.5
LATE = (30, 300, 3000, 30000)


def slope(w: np.ndarray) -> np.ndarray:
    """Of f(w) = ||w₀| − 1| + 2|w₁|, an element of D."""
    return np.array([np.sign(np.abs(w[0]) - 1) * np.sign(w[0]), 2 * np.sign(w[1])])


def value(w: np.ndarray) -> float:
    """||w₀| − 1| + 2|w₁|."""
    return float(np.abs(np.abs(w[0]) - 1) + 2 * np.abs(w[1]))


def flow(w: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The solution of ẇ ∈ −D(w) from w, in closed form: unit speed to ±1, speed 2 to 0, then rest."""
    gap = np.abs(w[0]) - 1
    first = np.sign(w[0]) * (1 + np.sign(gap) * np.maximum(np.abs(gap) - t, 0))
    second = np.sign(w[1]) * np.maximum(np.abs(w[1]) - 2 * t, 0)
    return np.stack([first, second], axis=1)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Follow SGD with noise, compare windows with the flow; a heavy ball with its Lyapunov function."""
    count = 120_000 if quick else 400_000
    rng = np.random.default_rng(0)
    alpha = 0.08 / np.arange(1, count + 1) ** 0.55
    w = np.empty((count + 1, 2))
    w[0] = (2.4, 1.6)
    noise = rng.normal(size=(count, 2))
    for k in range(count):
        w[k + 1] = w[k] - alpha[k] * (slope(w[k]) + noise[k])
    tick(0.5)
    time = np.concatenate([[0.0], np.cumsum(alpha)])
    gaps = []
    for n in LATE:
        inside = (time >= time[n]) & (time <= time[n] + HORIZON)
        apart = w[inside] - flow(w[n], time[inside] - time[n])
        gaps.append(float(np.max(np.linalg.norm(apart, axis=1))))
    near = np.linalg.norm(np.abs(w[:-1]) - [1.0, 0.0], axis=1) < 0.1
    share = np.cumsum(alpha * near) / np.cumsum(alpha)
    energy, plain = _heavy_ball(3000)
    tick(0.9)
    falling = bool(np.all(np.diff(gaps) < 0))
    claims = [
        Claim("largest distance to the flow over 1.5 units of time, from steps 30, 300, 3000, 30000",
              SOURCE, "falls", gaps, falling),
        at_most("… from step 30000", ours(SOURCE), 0.1, gaps[-1]),
        at_least("step-weighted share of time within 0.1 of the critical points", ours(SOURCE), 0.75,
                 float(share[-1])),
        at_most("heavy ball: all rises of F + (r/2)‖y‖² together", ours(SOURCE), 0.01, _risen(energy)),
        at_least("all rises of F alone together", ours(SOURCE), 0.1, _risen(plain)),
    ]  # fmt: skip
    return Outcome(_draw(w, time, share, energy, plain), claims)


def _heavy_ball(count: int) -> tuple[np.ndarray, np.ndarray]:
    """F + (r/2)‖y‖² and F along w ← w − α y, y ← βg + (1 − β)y, r = α/β."""
    w, y = np.array([2.4, 1.6]), np.zeros(2)
    ratio = 0.5
    energy, plain = [], []
    for k in range(count):
        alpha = 0.02 / (k + 1) ** 0.51
        beta = alpha / ratio
        y = beta * slope(w) + (1 - beta) * y
        w = w - alpha * y
        plain.append(value(w))
        energy.append(value(w) + ratio / 2 * float(y @ y))
    return np.array(energy), np.array(plain)


def _risen(values: np.ndarray) -> float:
    return float(np.sum(np.maximum(np.diff(values), 0)))


def _draw(
    w: np.ndarray, time: np.ndarray, share: np.ndarray, energy: np.ndarray, plain: np.ndarray
) -> style.Figure:
    fig = style.figure(10.6, 3.9)
    left, middle, right = fig.subplots(1, 3)
    first = time < 4
    left.plot(time[first], w[first, 0], color=style.AD, lw=1, label="$w_0$, $w_1$ of SGD")
    left.plot(time[first], w[first, 1], color=style.AD, lw=1)
    t = np.linspace(0, 4, 200)
    left.plot(t, flow(w[0], t), color=style.TRUTH, lw=1.8, ls=(0, (4, 2)))
    left.plot([], [], color=style.TRUTH, ls=(0, (4, 2)), label="the flow")
    left.set(xlabel=r"time $\sum \alpha_k$", title="path and flow")
    left.legend(loc="upper right")
    shown = np.unique(np.geomspace(1, len(share), 300).astype(int))
    middle.plot(shown, share[shown - 1], color=style.SET)
    middle.set(xscale="log", xlabel="step", ylim=(0, 1.02), title="share of time near criticality")
    right.plot(plain, color=style.MUTED, lw=1.4, label="$F$")
    right.plot(energy, color=style.TRUTH, label=r"$F + \frac{r}{2}\Vert y\Vert^2$")
    right.set(xlabel="step", title="heavy ball", yscale="log")
    right.legend()
    return fig


EXPERIMENT = Experiment(
    name="ode-method",
    title="Small steps follow the flow",
    source=SOURCE,
    description=(
        "f(w) = ||w₀| − 1| + 2|w₁| with noisy subgradients and vanishing steps. Left: in the time Σα_k the "
        "path follows the flow ẇ ∈ −D(w), the closer the later one looks. Middle: the step-weighted share "
        "of time within 0.1 of the critical points (±1, 0) grows to all of it. Right: along the "
        "heavy ball F rises now and then; F + (r/2)‖y‖² falls."
    ),
    run=run,
)
