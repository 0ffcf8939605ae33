"""SGD, the heavy ball and INNA with the theorems' steps: a relu network, and a nonsmooth valley."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import conservax as cx
from conservax.errors import MissingPackageError

from . import style
from .claim import Claim, Experiment, Outcome, Ticker, at_least, at_most, ours

SOURCE = "Castera, Bolte, Févotte, Pauwels 2021; Le 2024; Bolte, Le, Pauwels, Silveti-Falls 2021"
COLOURS = {"SGD": style.TRUTH, "heavy ball": style.SET, "INNA": style.AD}


def optimisers(scale: float, rate: float) -> dict[str, Any]:
    """The three methods, their steps within their theorems; INNA's rate in its own time scale."""
    s = cx.stochastic
    steps = s.schedules.inverse_power(scale, 0.55)
    return {
        "SGD": s.sgd(steps),
        "heavy ball": s.heavy_ball(steps, s.schedules.inverse_power(0.4, 0.55)),
        "INNA": s.inertial_newton(s.schedules.inverse_power(rate, 0.55), alpha=0.5, beta=0.1),
    }


def train(loss: Any, params: Any, batches: Any, optimiser: Any) -> tuple[Any, np.ndarray]:
    """The parameters after one update a batch, and the loss before each."""

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda p, b: jax.lax.scan(step, (p, optimiser.init(p)), b))
    (params, _), values = run(params, batches)
    return params, np.asarray(values)


def digits() -> tuple[jax.Array, jax.Array]:
    """Scikit-learn's digits, 1,797 images of 8 × 8."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "the digits come with scikit-learn, which is not installed: pip install 'conservax[reproduce]'"
        ) from error
    x, y = load_digits(return_X_y=True)
    return jnp.asarray(x / 16), jnp.asarray(y)


def network(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Weights of He's variance, biases 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (m, n)) * np.sqrt(2 / m), jnp.zeros(n)) for k, m, n in pairs]


def logits(params: Any, x: jax.Array) -> jax.Array:
    """A relu network."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def cross_entropy(params: Any, batch: Any) -> jax.Array:
    """Of the digits' labels."""
    x, y = batch
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def valley(w: jax.Array, batch: Any = None) -> jax.Array:
    """|w₀ − 1| + 4 |w₁ − w₀²|: a curved valley with a kink along its floor."""
    del batch
    return jnp.abs(w[0] - 1) + 4 * jnp.abs(w[1] - w[0] ** 2)


def run(quick: bool, tick: Ticker) -> Outcome:
    """Train the network on the digits, and follow the valley, with each method."""
    count = 1000 if quick else 4000
    x, y = digits()
    at = jax.random.randint(jax.random.key(0), (count, 64), 0, len(y))
    start = network(jax.random.key(1), (64, 32, 10))
    claims: list[Claim] = []
    curves, paths = {}, {}
    for name, optimiser in optimisers(0.5, 0.19).items():
        params, values = train(cross_entropy, start, (x[at], y[at]), optimiser)
        hits = float(jnp.mean(jnp.argmax(logits(params, x), axis=1) == y))
        curves[name] = values
        claims.append(at_least(f"digits, {name}: share classified", ours(SOURCE), 0.9, hits))
        tick(len(curves) / 6)
    for name, optimiser in optimisers(0.12, 0.1).items():
        report = cx.stochastic.guarantee(valley, optimiser, None, jnp.zeros(2), 0)
        claims.append(
            Claim(f"guarantee, {name}", SOURCE, "all", report.strength, report.strength == "all")
        )
        seen = _path(valley, jnp.array([-0.8, 1.3]), optimiser, 6000)
        paths[name] = seen
        last = float(valley(jnp.asarray(seen[-1])))
        claims.append(at_most(f"valley, {name}: f at the end", ours(SOURCE), 0.1, last))
        tick(0.5 + len(paths) / 6)
    return Outcome(_draw(curves, paths), claims)


def _path(loss: Any, start: jax.Array, optimiser: Any, count: int) -> np.ndarray:
    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        w, state = carry
        update, state = optimiser.update(jax.grad(loss)(w), state, w)
        return (w + update, state), w + update

    run = jax.jit(lambda w: jax.lax.scan(step, (w, optimiser.init(w)), None, length=count)[1])
    return np.concatenate([np.asarray(start)[None], np.asarray(run(start))])


def _draw(curves: dict[str, np.ndarray], paths: dict[str, np.ndarray]) -> style.Figure:
    fig = style.figure(10, 4.2)
    left, right = fig.subplots(1, 2)
    for name, values in curves.items():
        width = max(1, len(values) // 40)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        left.plot(np.arange(len(smooth)) + width / 2, smooth, color=COLOURS[name], label=name)
    left.set(yscale="log", xlabel="step", ylabel="cross-entropy", title="digits, relu network")
    left.legend()
    a, b = np.meshgrid(np.linspace(-1.5, 1.5, 200), np.linspace(-0.4, 1.7, 200))
    right.contour(a, b, np.abs(a - 1) + 4 * np.abs(b - a**2), levels=np.arange(0.25, 6, 0.5) ** 1.3,
                  colors=style.MUTED, linewidths=0.6)  # fmt: skip
    for name, path in paths.items():
        right.plot(*path.T, color=COLOURS[name], lw=1.3, label=name)
    right.plot(1, 1, "*", color=style.INK, ms=13, zorder=5)
    right.plot(*paths["SGD"][0], "o", color=style.INK, ms=6, zorder=5)
    right.set(
        xlabel="$w_0$",
        ylabel="$w_1$",
        xlim=(-1.5, 1.5),
        ylim=(-0.4, 1.7),
        title=r"$|w_0 - 1| + 4\,|w_1 - w_0^2|$",
    )
    return fig


EXPERIMENT = Experiment(
    name="training-methods",
    title="SGD, the heavy ball and INNA, within their theorems",
    source=SOURCE,
    description=(
        "Steps that vanish like k^−0.55, which all three theorems allow (the heavy ball with β_k of the "
        "same decay). Left: a relu network on 8 × 8 digits, minibatches of 64. Right: a valley whose floor "
        "is a kink; all three follow it to the minimiser (star)."
    ),
    run=run,
)
