"""Sensitivities of flows across kinks, at a grazing trajectory, and on a kink."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, agrees, at_most, ours

SOURCE = "Marx and Pauwels 2022"
TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
STIFFER, REST = 3.0, 0.7


def oscillator(t: jax.Array, state: tuple[jax.Array, jax.Array], a: jax.Array) -> tuple:
    """x″ = −x − a relu(x): half periods π/√(1 + a) and π."""
    x, v = state
    return v, -x - a * jax.nn.relu(x)


def grazing(t: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple:
    """x₂ = (t − 1)² + c and x₃′ = |x₂|."""
    return 2 * (t - 1), jnp.abs(state[0])


def run(quick: bool, tick: Ticker) -> Outcome:
    """Differentiate each flow and compare with closed forms and differences."""
    w = np.sqrt(1 + STIFFER)
    T = 10 * (np.pi / w + np.pi) + REST

    def end(a: jax.Array, start: jax.Array) -> jax.Array:
        times = jnp.array([0.0, T])
        return jnp.stack(cx.flows.odeint(oscillator, (start[0], start[1]), times, a, **TIGHT))[
            :, -1
        ]

    start = jnp.array([0.0, 1.0])
    by_a, by_start = jax.jit(jax.jacfwd(end, (0, 1)))(STIFFER, start)
    c, s = np.cos(w * REST), np.sin(w * REST)
    exact = np.array([[c, s / w], [-w * s, c]])
    late = 10 * np.pi / w**2 / (2 * w)
    exact_by_a = np.array([c, -w * s]) * late + np.array([REST * c / w - s / w**2, -REST * s]) / (
        2 * w
    )
    tick(0.3)

    def touch(c: jax.Array) -> jax.Array:
        return cx.flows.odeint(grazing, (1 + c, 0 * c), jnp.array([0.0, 2.0]), **TIGHT)[1][-1]

    grid = jnp.linspace(-0.1, 0.1, 41)
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(touch)))(grid))
    steps = 10.0 ** np.arange(-1, -6, -1 if quick else -0.5)
    values = np.asarray(jax.jit(jax.vmap(touch))(jnp.asarray(np.append(-steps, 0.0))))
    differences = (values[-1] - values[:-1]) / steps
    tick(0.6)
    stays = cx.flows.sensitivity_set(lambda t, x: jax.nn.relu(x), 0.0, 1.0)
    low, high = stays.bounds()
    spring = cx.flows.sensitivity_set(
        lambda t, y: jnp.stack([y[1], -y[0] - 3 * jax.nn.relu(y[0])]), jnp.zeros(2), 3.0
    )
    reach = [float(b[0, 0]) for b in spring.bounds()]
    constant = [np.cos(3 * np.sqrt(1 + 3 * q)) for q in np.linspace(0, 1, 201)]
    at_zero = float(slopes[len(slopes) // 2])
    claims = [
        at_most(
            "oscillator, 20 crossings: |M − closed form|",
            ours(SOURCE),
            1e-6,
            float(np.max(np.abs(np.asarray(by_start) - exact))),
        ),
        at_most(
            "oscillator, 20 crossings: |∂x/∂a − closed form|",
            ours(SOURCE),
            1e-6,
            float(np.max(np.abs(np.asarray(by_a) - exact_by_a))),
        ),
        agrees("derivative of the grazing trajectory", ours(SOURCE), 2.0, at_zero, 1e-6),
        at_most(
            "one-sided differences at grazing: |2 − difference − (8/3)√h|",
            ours(SOURCE),
            1e-6,
            float(np.max(np.abs(2 - differences - 8 / 3 * np.sqrt(steps)))),
        ),
        agrees(
            "the set on a kink, x′ = relu(x) at 0, T = 1",
            SOURCE,
            [1.0, np.e],
            [low.item(), high.item()],
            1e-6,
        ),
        at_most("x″ = −(1 + 3q)x, T = 3: least M₁₁ that switching q reaches", ours(SOURCE), -1.76, reach[0]),
    ]  # fmt: skip
    return Outcome(_draw(np.asarray(grid), slopes, steps, differences, reach, constant), claims)


def _draw(
    grid: np.ndarray,
    slopes: np.ndarray,
    steps: np.ndarray,
    differences: np.ndarray,
    reach: list[float],
    constant: list[float],
) -> style.Figure:
    fig = style.figure(11.4, 3.9)
    left, middle, right = fig.subplots(1, 3)
    exact = np.where(grid >= 0, 2.0, 2 - 4 * np.sqrt(np.maximum(-grid, 0)))
    left.plot(grid, exact, color=style.TRUTH, label="closed form")
    left.plot(grid, slopes, "o", color=style.AD, ms=4, label="odeint")
    left.set(xlabel="$c$", ylabel="$dx_3/dc$", title="A grazing trajectory: one derivative")
    left.legend(loc="lower right")
    middle.loglog(steps, 2 - differences, "o", color=style.AD, ms=5, label="difference from below")
    middle.loglog(steps, 8 / 3 * np.sqrt(steps), color=style.TRUTH, label=r"$(8/3)\sqrt{h}$")
    middle.set(xlabel="$h$", ylabel="off by", title="Differences are slow there")
    middle.legend()
    style.segment(right, 0.0, min(constant), max(constant))
    style.segment(right, 1.0, reach[0], reach[1])
    right.set(
        xlim=(-0.6, 1.6),
        xticks=[0, 1],
        xticklabels=["constant $q$", "switching $q(t)$"],
        ylabel="$M_{11}$",
        title="Staying on a kink: a set",
    )
    return fig


EXPERIMENT = Experiment(
    name="ode-kinks",
    title="Flows across kinks have one sensitivity, flows on a kink a set",
    source=SOURCE,
    description=(
        "An oscillator that is stiffer on one side crosses its kink twenty times; its sensitivity is that of a "
        "closed form. A trajectory that only touches a kink has one derivative, too, though one-sided "
        "differences converge like the square root of the step. A trajectory that stays on a kink has a "
        "set of sensitivities, and weights that switch in time reach further than constant ones."
    ),
    run=run,
)
