"""One-step against implicit and unrolled derivatives: Newton's method and an interior-point method.

Newton on regularised logistic regression, ∂x/∂λ for n unknowns; a primal–dual interior-point step on
random quadratic programs min ½xᵀQx + cᵀx, G x ≤ h, ∂x/∂c in one direction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx

from . import style
from .claim import Experiment, Outcome, Ticker, at_most, ours

SOURCE = "Bolte, Pauwels, Vaiter 2023 (one-step differentiation), Figures 2 and 3"
NAMES = {"one-step": style.AD, "implicit": style.SET, "unrolled": style.TRUTH}


def logistic(n: int) -> tuple[Any, jax.Array]:
    """Newton's method for Σ log(1 + exp(−y x·w))/m + λ‖w‖²/2, and the closed form −H⁻¹w of ∂w/∂λ."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(2 * n, n)) / np.sqrt(n)
    y = np.sign(X @ rng.normal(size=n) + 0.5 * rng.normal(size=2 * n))
    A = jnp.asarray(y[:, None] * X)

    def f(w: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0.0, -(A @ w))) + t * jnp.sum(w**2) / 2

    return cx.iterates.newton(f), A


def exact_slope(A: jax.Array, w: np.ndarray, t: float) -> np.ndarray:
    """∂w/∂λ = −H⁻¹w by hand."""
    B = np.asarray(A)
    p = 1 / (1 + np.exp(B @ w))
    H = B.T @ (B * (p * (1 - p))[:, None]) / len(B) + t * np.eye(len(w))
    return -np.linalg.solve(H, w)


def interior_point(n: int) -> tuple[Any, dict[str, jax.Array], dict[str, np.ndarray]]:
    """A primal–dual step on (x, slacks s, multipliers z), centred at a tenth of the gap."""
    rng = np.random.default_rng(n)
    Q = rng.normal(size=(n, n))
    Q = Q @ Q.T / n + np.eye(n)
    G = rng.normal(size=(n, n))
    h = np.abs(rng.normal(size=n)) + 0.1
    c, d = rng.normal(size=n) * 3, rng.normal(size=n)

    def step(state: dict[str, jax.Array], t: jax.Array) -> dict[str, jax.Array]:
        x, s, z = state["x"], state["s"], state["z"]
        dual = Q @ x + c + t * d + G.T @ z
        primal = G @ x + s - h
        gap = s * z - 0.1 * jax.lax.stop_gradient(jnp.mean(s * z))
        dx = jnp.linalg.solve(
            Q + G.T @ ((z / s)[:, None] * G), -dual - G.T @ ((z * primal - gap) / s)
        )
        ds = -primal - G @ dx
        dz = -(gap + z * ds) / s
        far = jnp.max(jnp.maximum(-ds / s, -dz / z))
        length = jax.lax.stop_gradient(jnp.minimum(1.0, 0.99 / jnp.maximum(far, 1e-9)))
        return {"x": x + length * dx, "s": s + length * ds, "z": z + length * dz}

    start = {"x": jnp.zeros(n), "s": jnp.ones(n), "z": jnp.ones(n)}
    return cx.iterates.from_step(step), start, {"Q": Q, "G": G, "h": h, "c": c, "d": d}


def last_of(alg: Any, start: Any) -> Callable[[jax.Array], jax.Array]:
    """x(t) with the derivative of the last step."""
    return lambda t: cx.iterates.one_step(alg, tol=1e-9)(start, t)["x"]


def unrolled(alg: Any, start: Any) -> Callable[[jax.Array], jax.Array]:
    """x(t) with the derivative of 15 steps, before the gap is beyond rounding."""
    return lambda t: cx.iterates.unroll(alg, 15)(start, t)["x"]


def equations(
    alg: Any, start: Any, data: dict[str, np.ndarray]
) -> Callable[[jax.Array], jax.Array]:
    """x(t) with the derivative of the optimality conditions, a projection in place of complementarity."""
    Q, G, h, c, d = (jnp.asarray(data[name]) for name in ("Q", "G", "h", "c", "d"))

    def conditions(sol: tuple[jax.Array, jax.Array], t: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, z = sol
        return Q @ x + c + t * d + G.T @ z, z - jnp.maximum(0.0, z + G @ x - h)

    @cx.custom_root(conditions)
    def solve(init: Any, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = cx.iterates.one_step(alg, tol=1e-9)(init, t)
        return found["x"], found["z"]

    return lambda t: solve(start, t)[0]


def active_slope(data: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """∂x/∂t with the active constraints as equations."""
    active = data["G"][data["G"] @ x - data["h"] > -1e-6]
    k, n = active.shape
    K = np.block([[data["Q"], active.T], [active, np.zeros((k, k))]])
    return np.linalg.solve(K, np.concatenate([-data["d"], np.zeros(k)]))[:n]


def measure(fun: Callable[[jax.Array], Any], t: jax.Array) -> tuple[np.ndarray, float]:
    """The tangent of ``fun`` and the best of three times of value and tangent."""

    def pushed(t: jax.Array) -> Any:
        return jax.jvp(fun, (t,), (jnp.ones(()),))

    compiled = jax.jit(pushed)
    _, slope = jax.block_until_ready(compiled(t))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(t))
        times.append(time.perf_counter() - start)
    return np.asarray(slope), min(times)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Errors and times of the three derivatives over sizes."""
    sizes = (50, 100) if quick else (50, 100, 200, 500, 1000)
    programs = (10, 20) if quick else (10, 20, 50, 100)
    t, done, total = jnp.asarray(0.1), 0, len(sizes) + len(programs)
    errors: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}

    def record(problem: str, name: str, slope: np.ndarray, wanted: np.ndarray, took: float) -> None:
        error = float(np.linalg.norm(slope - wanted) / np.linalg.norm(wanted))
        errors.setdefault(problem, {}).setdefault(name, []).append(error)
        seconds.setdefault(problem, {}).setdefault(name, []).append(took)

    it = cx.iterates
    for n in sizes:
        alg, A = logistic(n)
        x0 = jnp.zeros(n)
        ways = {"one-step": it.one_step(alg, tol=1e-12), "implicit": it.implicit(alg, tol=1e-12),
                "unrolled": it.unroll(alg, 9)}  # fmt: skip
        wanted = exact_slope(A, np.asarray(ways["implicit"](x0, t)), 0.1)
        for name, way in ways.items():
            record("newton", name, *_swapped(measure(lambda t, w=way, x=x0: w(x, t), t), wanted))
        tick((done := done + 1) / total)
    for n in programs:
        alg, start, data = interior_point(n)
        ways = {"one-step": last_of(alg, start), "implicit": equations(alg, start, data),
                "unrolled": unrolled(alg, start)}  # fmt: skip
        wanted = active_slope(data, np.asarray(ways["unrolled"](jnp.asarray(0.0))))
        for name, way in ways.items():
            found = measure(way, jnp.asarray(0.0))
            record("interior point", name, *_swapped(found, wanted))
        tick((done := done + 1) / total)
    newton, inner = errors["newton"], errors["interior point"]
    claims = [
        at_most(f"Newton, logistic regression: error of the {name} derivative", ours(SOURCE), 1e-6,
                max(newton[name]))
        for name in NAMES
    ] + [
        at_most("interior point, quadratic programs: error of the one-step derivative", ours(SOURCE), 1e-3,
                max(inner["one-step"])),
        at_most("interior point: error of the implicit derivative", ours(SOURCE), 1e-3, max(inner["implicit"])),
        at_most("interior point: error of the unrolled derivative", ours(SOURCE), 1e-3, max(inner["unrolled"])),
    ]  # fmt: skip
    remarks = [
        f"Newton with {sizes[-1]} unknowns, milliseconds: "
        + ", ".join(f"{name} {1e3 * took[-1]:.3g}" for name, took in seconds["newton"].items())
    ]
    return Outcome(_draw(sizes, programs, errors, seconds), claims, remarks)


def _swapped(
    found: tuple[np.ndarray, float], wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    slope, took = found
    return slope, wanted, took


def _draw(sizes: Any, programs: Any, errors: Any, seconds: Any) -> style.Figure:
    fig = style.figure(10.5, 6.4)
    axes = fig.subplots(2, 2)
    for column, (problem, over) in zip(
        axes.T, (("newton", sizes), ("interior point", programs)), strict=True
    ):
        for name, found in errors[problem].items():
            column[0].loglog(
                over, np.maximum(found, 1e-17), "o-", color=NAMES[name], label=name, ms=5
            )
            column[1].loglog(
                over, 1e3 * np.array(seconds[problem][name]), "o-", color=NAMES[name], ms=5
            )
        column[1].set(xlabel="unknowns", ylabel="milliseconds")
        column[0].set(ylabel="relative error", ylim=(1e-17, 1.0))
    axes[0, 0].set_title("Newton: logistic regression")
    axes[0, 1].set_title("Interior point: quadratic programs")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


EXPERIMENT = Experiment(
    name="iterates-one-step",
    title="One step is enough for superlinear algorithms",
    source=SOURCE,
    description=(
        "Newton's step has derivative zero in the iterate at the solution, so that differentiating the last "
        "step alone gives the whole derivative; an interior-point step comes close to that. Errors are "
        "against closed forms: −H⁻¹w for the logistic regression, the active constraints as equations for "
        "the quadratic programs. Times are of value and derivative together, on the machine of this run."
    ),
    run=run,
)
