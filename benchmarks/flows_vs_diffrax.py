"""``cx.flows.odeint`` beside diffrax's own ``diffeqsolve``: value and gradient, with and without crossings.

Both take Tsit5 at the same tolerances; diffrax differentiates by its default, the recursive checkpointed
adjoint. The error is that of the gradient, relative to a run of ours at 1e-12.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from timing import Tick, first, milliseconds, ratio, warm

import conservax as cx

WARM_ROUNDS = 31
FIRST_ROUNDS = 3
TOLERANCE = 1e-8


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return 2 * len(problems()) * (WARM_ROUNDS + FIRST_ROUNDS) // 2


def problems() -> dict:
    """Name: (field, start, last time, parameters)."""
    rng = np.random.default_rng(0)
    width, size = 64, 8
    weights = tuple(
        jnp.asarray(rng.normal(size=s) / np.sqrt(s[-1]))
        for s in ((width, size), (width,), (size, width))
    )

    def network(activation):
        def field(t, x, weights):
            A, a, B = weights
            return B @ activation(A @ x + a)

        return field

    def oscillator(t, x, a):
        return jnp.stack([x[1], -x[0] - a * jax.nn.relu(x[0])])

    start = jnp.asarray(rng.normal(size=size))
    return {
        "tanh network, 8 states, width 64": (network(jnp.tanh), start, 4.0, weights),
        "relu network, 8 states, width 64": (network(jax.nn.relu), start, 4.0, weights),
        "oscillator, 21 crossings": (oscillator, jnp.array([0.0, 1.0]), 50.0, jnp.asarray(3.0)),
    }


def measure(tick: Tick) -> list[dict]:
    """One row for each problem."""
    rows = []
    for name, (field, start, last, parameters) in problems().items():
        times = jnp.array([0.0, last])

        def ours(x, p, tol=TOLERANCE, field=field, times=times):
            return jnp.sum(cx.flows.odeint(field, x, times, p, rtol=tol, atol=tol)[-1] ** 2)

        def theirs(x, p, field=field, last=last):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                diffrax.Tsit5(),
                0.0,
                last,
                None,
                x,
                p,
                stepsize_controller=diffrax.PIDController(TOLERANCE, TOLERANCE),
            )
            return jnp.sum(solution.ys[-1] ** 2)

        def build(loss, start=start, parameters=parameters):
            gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
            return lambda: gradient(start, parameters)

        builders = {
            "conservax": lambda ours=ours, build=build: build(ours),
            "diffrax": lambda theirs=theirs, build=build: build(theirs),
        }
        cold = first(builders, FIRST_ROUNDS, tick)
        contenders = {who: make() for who, make in builders.items()}
        hot = warm(contenders, WARM_ROUNDS, tick)
        exact = jax.tree.leaves(jax.grad(lambda x, p: ours(x, p, 1e-12), (0, 1))(start, parameters))
        row: dict = {"benchmark": "flows", "problem": name}
        size = max(float(jnp.max(jnp.abs(a))) for a in exact)
        for who, run in contenders.items():
            found = jax.tree.leaves(run()[1])
            off = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(found, exact, strict=True))
            row[who] = {
                "warm_ms": milliseconds(hot, who),
                "first_call_ms": milliseconds(cold, who),
                "relative_error": off / size,
            }
        row["ratio_warm"] = ratio(hot, "conservax", "diffrax")
        row["ratio_first_call"] = ratio(cold, "conservax", "diffrax")
        rows.append(row)
    return rows


def cells(row: dict) -> list[str]:
    """A row of the table."""
    return [
        row["problem"],
        *(
            f"{row[who][key]:{form}}"
            for who in ("conservax", "diffrax")
            for key, form in (
                ("warm_ms", ".3g"),
                ("first_call_ms", ".0f"),
                ("relative_error", ".0e"),
            )
        ),
        f"{row['ratio_warm']:.2f}",
    ]
