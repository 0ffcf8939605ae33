"""A training step of a monotone equilibrium layer, beside monDEQ's algorithm and TorchDEQ.

The gradient of mean(‖head z‖²) in A, B, U and b over a batch of 128 in float32, at 87 and 500 units, by
every contender at the loosest tolerance that keeps the relative error of its gradient below 1e-4 (against
dense solves in float64), monDEQ at its best step size of 1, ½, ¼ and ⅛. monDEQ's Peaceman–Rachford
recursion (Winston, Kolter, NeurIPS 2020) is written here after its published form, in plain JAX and, where
PyTorch is installed, in PyTorch; TorchDEQ (with ``ift=True``) takes part where it is.
"""

import importlib.util
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import Tick, first, milliseconds, ratio, warm

import conservax as cx

SIZES, BATCH, IN = (87, 500), 128, 64
WARM_ROUNDS, FIRST_ROUNDS = 15, 2
ALPHAS, TOLERANCES = (1.0, 0.5, 0.25, 0.125), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
WANTED = 1e-4


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return len(SIZES) * (WARM_ROUNDS + FIRST_ROUNDS)


def problem(units: int) -> tuple:
    """Parameters, a batch, a head, and the exact gradient in float64."""
    layer = cx.equilibrium.MonotoneEquilibrium(IN, units, key=jax.random.key(0), dtype=jnp.float32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, IN)).astype(np.float32)
    head = (rng.normal(size=(10, units)) / units**0.5).astype(np.float32)
    arrays = {k: np.asarray(getattr(layer, k)) for k in "ABUb"}
    A, B, U, b = (arrays[k].astype(np.float64) for k in "ABUb")
    W = -A.T @ A + B - B.T
    z = np.asarray(
        jax.jit(jax.vmap(eqx.tree_at(lambda f: f.settings, layer, _fine())))(x), np.float64
    )
    active = (z @ W.T + x @ U.T + b) > 0
    for i, on in enumerate(active):  # to round-off, on the pieces
        z[i] = 0
        z[i, on] = np.linalg.solve((np.eye(units) - W)[np.ix_(on, on)], (x[i] @ U.T + b)[on])
    cotangent = 2 * z @ head.T @ head / BATCH
    t = np.zeros_like(z)
    for i, on in enumerate(active):
        t[i, on] = np.linalg.solve((np.eye(units) - W.T)[np.ix_(on, on)], cotangent[i, on])
    of_W = t.T @ z
    exact = {"A": -A @ (of_W + of_W.T), "B": of_W - of_W.T, "U": t.T @ x, "b": t.sum(0)}
    return arrays, x, head, exact


def _fine() -> object:
    from conservax.equilibrium.splitting import Settings

    return Settings("peaceman_rachford", 1, 500, 1e-6)


def error(found: dict, exact: dict) -> float:
    """The relative error of the gradient, the worst of the four parameters."""
    return max(
        float(
            np.linalg.norm(np.asarray(found[k], np.float64) - exact[k]) / np.linalg.norm(exact[k])
        )
        for k in "ABUb"
    )


def ours(arrays: dict, x: np.ndarray, head: np.ndarray, tol: float, alpha: float | None) -> object:
    """The step of a ``MonotoneEquilibrium``."""
    del alpha
    layer = cx.equilibrium.MonotoneEquilibrium(
        IN, len(head.T), tol=tol, key=jax.random.key(0), dtype=jnp.float32
    )

    def loss(arrays: dict, x: jax.Array) -> jax.Array:
        made = eqx.tree_at(
            lambda f: [getattr(f, k) for k in "ABUb"], layer, [arrays[k] for k in "ABUb"]
        )
        return jnp.sum((jax.vmap(made)(x) @ head.T) ** 2) / BATCH

    step = jax.jit(jax.grad(loss))
    arrays = jax.tree.map(jnp.asarray, arrays)
    return lambda: step(arrays, x)


def mondeq_jax(arrays: dict, x: np.ndarray, head: np.ndarray, tol: float, alpha: float) -> object:
    """monDEQ's recursion in plain JAX, the batch at once."""

    def recursion(prox: object, V: jax.Array, add: jax.Array) -> jax.Array:
        def body(state: tuple) -> tuple:
            z, u, _, k = state
            half = 2 * z - u
            u = 2 * (half + add) @ V.T - half
            new = prox(u)
            return (
                new,
                u,
                jnp.linalg.norm(new - z) / jnp.maximum(jnp.linalg.norm(new), 1e-30),
                k + 1,
            )

        zero = jnp.zeros_like(add)
        start = (zero, zero, jnp.float32(1), 0)
        return jax.lax.while_loop(lambda s: (s[2] > tol) & (s[3] < 300), body, start)[0]

    def step(arrays: dict, x: jax.Array) -> dict:
        A, B, U, b = (arrays[k] for k in "ABUb")
        one = jnp.eye(len(b), dtype=b.dtype)
        W = -A.T @ A + B - B.T
        V = jnp.linalg.inv((1 + alpha) * one - alpha * W)
        z = recursion(jax.nn.relu, V, alpha * (x @ U.T + b))
        on = z > 0
        g = 2 * z @ head.T @ head / BATCH
        t = recursion(lambda u: jnp.where(on, u + alpha * g, 0), V.T, jnp.zeros_like(z))
        of_W = t.T @ z
        return {"A": -A @ (of_W + of_W.T), "B": of_W - of_W.T, "U": t.T @ x, "b": t.sum(0)}

    jitted = jax.jit(step)
    arrays = jax.tree.map(jnp.asarray, arrays)
    return lambda: jitted(arrays, x)


def mondeq_torch(arrays: dict, x: np.ndarray, head: np.ndarray, tol: float, alpha: float) -> object:
    """The same in PyTorch, with autograd around the two recursions."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parameters = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    data, vote = torch.tensor(x), torch.tensor(head)

    @torch.no_grad()
    def recursion(prox: object, V: object, add: object) -> object:
        z = u = torch.zeros(BATCH, V.shape[0])
        for _ in range(300):
            half = 2 * z - u
            u = 2 * (half + add) @ V.T - half
            new = prox(u)
            moved = torch.linalg.norm(new - z) / torch.linalg.norm(new).clamp(min=1e-30)
            z = new
            if moved < tol:
                break
        return z

    def step() -> dict:
        A, B, U, b = (parameters[k] for k in "ABUb")
        W = -A.T @ A + B - B.T
        c = data @ U.T + b
        with torch.no_grad():
            V = torch.linalg.inv((1 + alpha) * torch.eye(len(b)) - alpha * W)
        z = recursion(torch.relu, V, alpha * c.detach())
        preactivation = z @ W.T + c
        on, g = z > 0, 2 * z @ vote.T @ vote / BATCH
        t = recursion(lambda u: torch.where(on, u + alpha * g, 0.0), V.T, 0.0)
        found = torch.autograd.grad(preactivation, list(parameters.values()), t)
        return dict(zip(parameters, (f.numpy() for f in found), strict=True))

    return step


def torchdeq(
    arrays: dict, x: np.ndarray, head: np.ndarray, tol: float, alpha: float | None
) -> object:
    """TorchDEQ's Anderson solver in both passes, with the implicit gradient."""
    import torch
    import torchdeq as package

    del alpha
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parameters = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    data, vote = torch.tensor(x), torch.tensor(head)
    deq = package.get_deq(
        f_solver="anderson",
        b_solver="anderson",
        ift=True,
        f_max_iter=200,
        b_max_iter=200,
        f_tol=tol,
        b_tol=tol,
    )

    def step() -> dict:
        A, B, U, b = (parameters[k] for k in "ABUb")
        W = -A.T @ A + B - B.T
        c = data @ U.T + b
        out, _ = deq(lambda z: torch.relu(z @ W.T + c), torch.zeros(BATCH, len(b)))
        loss = ((out[-1] @ vote.T) ** 2).sum() / BATCH
        found = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, (f.numpy() for f in found), strict=True))

    return step


CONTENDERS = {"conservax": ours, "monDEQ in JAX": mondeq_jax}
if importlib.util.find_spec("torch"):
    CONTENDERS["monDEQ in PyTorch"] = mondeq_torch
if importlib.util.find_spec("torchdeq"):
    CONTENDERS["TorchDEQ"] = torchdeq


def chosen(build: object, data: tuple, exact: dict) -> tuple[dict, float]:
    """The options with the quickest step among those accurate enough, and the error there."""
    best, least = None, None
    for alpha in ALPHAS if build in (mondeq_jax, mondeq_torch) else (None,):
        for tol in TOLERANCES:
            run = build(*data, tol, alpha)
            off = error(run(), exact)
            accurate = off <= WANTED or tol == TOLERANCES[-1]
            if accurate:
                spent = min(warm({"one": run}, 3, lambda: None)["one"])
                rank = (off > WANTED, spent)
                if least is None or rank < least:
                    best, least = ({"tol": tol, "alpha": alpha}, off), rank
                break
    return best


def measure(tick: Tick) -> list[dict]:
    """One row a size."""
    rows = []
    for units in SIZES:
        *data, exact = problem(units)
        options, row = {}, {"benchmark": "equilibrium", "units": units, "batch": BATCH}
        for name, build in CONTENDERS.items():
            options[name], off = chosen(build, tuple(data), exact)
            row[name] = {"relative_error": off, **options[name]}
        builders = {
            name: lambda build=build, o=options[name], data=data: build(*data, o["tol"], o["alpha"])
            for name, build in CONTENDERS.items()
        }
        cold = first({"conservax": builders["conservax"]}, FIRST_ROUNDS, tick)
        row["conservax"]["first_call_ms"] = milliseconds(cold, "conservax")
        hot = warm({name: build() for name, build in builders.items()}, WARM_ROUNDS, tick)
        for name in CONTENDERS:
            row[name] |= {
                "warm_ms": milliseconds(hot, name),
                "times": ratio(hot, name, "conservax"),
            }
        rows.append(row)
    return rows


def cells(row: dict) -> list[str]:
    """A row of the table: milliseconds, errors, and how many times slower each peer is."""
    out = [str(row["units"]), f"{row['conservax']['warm_ms']:.3g}", f"{row['conservax']['relative_error']:.0e}",
           f"{row['conservax']['first_call_ms'] / 1e3:.1f}"]  # fmt: skip
    for name in ("monDEQ in JAX", "monDEQ in PyTorch", "TorchDEQ"):
        peer = row.get(name)
        out += (
            ["–"] * 2 if peer is None else [f"{peer['relative_error']:.0e}", f"{peer['times']:.1f}"]
        )
    return out


if __name__ == "__main__":
    for row in measure(lambda: None):
        print(row)
