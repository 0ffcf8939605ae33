"""``compare``: errors of iterate and derivative against iterations and time, and their plot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError, MissingPackageError
from ..solution import Status
from .along import columns_of, directions, pushed
from .at_the_limit import implicit
from .contract import Algorithm
from .estimator import MAX_STEPS, Estimator, count, refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 60  # numbers of steps at which errors are taken
_ROUNDS = 3
_COLOURS = {
    "iterate": "#22303f",
    "unroll": "#6d83b8",
    "piggyback": "#2a9d8f",
    "one-step": "#e07a1f",
    "implicit": "#7b4ea3",
}


@dataclass(frozen=True)
class Comparison:
    """Errors after ``steps`` (K,) iterations, and what they cost.

    ``iterate_error`` (K,) is ‖x_t − x*‖₂. ``derivative_error`` has the Frobenius error of each
    estimator's Jacobian at x_t: "piggyback" (and "unroll", the same number), "one-step", "implicit".
    ``seconds`` has the time of value and derivative after so many steps, from one timed run of the
    steps and one of the rest.
    """

    steps: np.ndarray
    iterate_error: np.ndarray
    derivative_error: dict[str, np.ndarray]
    seconds: dict[str, np.ndarray]

    def plot(self) -> Figure:
        """Two panels, errors against iterations and against time; a matplotlib Figure.

        Raises MissingPackageError without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingPackageError(
                "the plot needs matplotlib: pip install 'conservax[plots]'"
            ) from error
        fig = Figure(figsize=(10.0, 4.2), layout="constrained")
        left, right = fig.subplots(1, 2, sharey=True)
        tiny = 1e-17  # an error of zero stands at the lower edge
        left.semilogy(
            self.steps,
            self.iterate_error + tiny,
            color=_COLOURS["iterate"],
            ls=":",
            lw=2,
            label="iterate",
        )
        for name, errors in self.derivative_error.items():
            colour = _COLOURS[name]
            if name != "unroll":  # the same curve as piggyback
                left.semilogy(self.steps, errors + tiny, color=colour, lw=2)
            right.loglog(1e3 * self.seconds[name], errors + tiny, color=colour, lw=2, label=name)
        left.set(xlabel="iterations", ylabel="error", title="against iterations")
        right.set(xlabel="milliseconds", title="against time")
        for ax in (left, right):
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        fig.legend(loc="outside lower center", ncols=5, frameon=False)
        return fig


def compare(
    alg: Algorithm,
    x0: Any,
    theta: Any,
    *,
    reference: tuple[Any, Any] | None = None,
    steps: int = 200,
) -> Comparison:
    """How the error of each estimator falls: unrolled, piggyback, one-step and implicit, step by step.

    Args:
        alg: the algorithm; x0, theta: its arguments, θ with p numbers.
        reference: (x*, J*), the solution and its Jacobian as ``jax.jacobian`` returns it; by default
            those of ``implicit`` at a tolerance of 1e-14.
        steps: up to how many steps.

    Returns:
        A Comparison; ``.plot()`` draws it.

    Raises:
        InvalidInputError: the reference has other shapes. NotConvergedError: no reference was given
            and the algorithm does not converge.

    Source: Bolte, Pauwels, Vaiter (NeurIPS 2022), Figure 1, and (NeurIPS 2023), Figure 2.

    >>> import conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
    >>> found = cx.iterates.compare(alg, 0.0, 1.0, steps=10)
    >>> round(float(found.derivative_error["piggyback"][-1] * 2**9), 3)
    1.0
    """
    steps = count(steps, "steps")
    estimator = implicit(alg, tol=1e-14, max_steps=10 * MAX_STEPS)
    x0, theta = estimator.inputs(x0, theta)
    theta = jax.tree.map(jnp.asarray, theta)
    x, J = reference if reference is not None else _reference(estimator, x0, theta)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    follow = jax.jit(lambda x0, theta: _followed(alg, x0, theta, steps))
    states, columns = follow(x0, theta)
    shown = np.unique(np.round(np.geomspace(1, steps, min(steps, _SHOWN))).astype(int))
    picked = jax.tree.map(lambda a: a[shown - 1], (states, columns))
    estimates = jax.jit(
        lambda picked: jax.lax.map(lambda s: _estimates(alg, s[0], s[1], theta), picked)
    )
    outs = estimates(picked)
    found = {name: np.asarray(value) for name, value in outs.items()}
    if shapes != [np.shape(leaf) for leaf in jax.tree.leaves(_like(alg, x0, theta))]:
        raise InvalidInputError(f"reference: x has shapes {shapes}, not those of the output.")
    wanted = _vector([columns_of(J, x, theta)])
    flat = _vector([jax.tree.leaves(x)])
    errors = {
        name: np.linalg.norm(found[name] - wanted, axis=1)
        for name in ("piggyback", "one-step", "implicit")
    }
    errors = {"unroll": errors["piggyback"], **errors}
    return Comparison(
        shown,
        np.linalg.norm(found["iterate"] - flat, axis=1),
        errors,
        _costs(alg, x0, theta, steps, shown),
    )


def _reference(estimator: Estimator, x0: Any, theta: Any) -> tuple[Any, Any]:
    run = estimator.run_to(x0, theta, estimator.tol, estimator.max_steps)
    if int(run.status) == Status.DIVERGED:
        refuse(estimator.alg, run, estimator.tol, x0, theta)
    solution = jax.jit(estimator.alg.solution)
    return solution(run.point, theta), jax.jacfwd(lambda t: solution(run.point, t))(theta)


def _like(alg: Algorithm, x0: Any, theta: Any) -> Any:
    return jax.eval_shape(lambda x0, t: alg.output(alg.point(alg.init(x0, t)), t), x0, theta)


def _followed(alg: Algorithm, x0: Any, theta: Any, steps: int) -> Any:
    """All states after the first, and the columns of their derivatives."""

    def once(carry: Any, _: None) -> tuple[Any, Any]:
        state, columns = carry
        after = pushed(alg.step, state, columns, theta)
        return after, after

    start = pushed(alg.init, x0, columns_of(None, x0, theta) if x0 is not None else [], theta)
    return jax.lax.scan(once, start, None, length=steps)[1]


def _estimates(alg: Algorithm, state: Any, columns: Any, theta: Any) -> dict[str, jax.Array]:
    """The iterate and every Jacobian at one state, flat."""

    def finish(state: Any, theta: Any) -> Any:
        return alg.output(alg.point(state), theta)

    def last(state: Any, theta: Any) -> Any:
        return finish(alg.step(state, theta), theta)

    x, along = pushed(finish, state, columns, theta)
    still = [jnp.zeros_like(c) for c in columns]
    _, one = pushed(last, state, still, theta)
    y = alg.point(state)
    _, limit = pushed(lambda _, theta: alg.solution_near(y, theta), (), [], theta)
    return {
        "iterate": jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(x)]),
        **{
            name: jnp.concatenate([jnp.ravel(c) for c in found])
            for name, found in (("piggyback", along), ("one-step", one), ("implicit", limit))
        },
    }


def _costs(
    alg: Algorithm, x0: Any, theta: Any, steps: int, shown: np.ndarray
) -> dict[str, np.ndarray]:
    """Seconds of value and derivative after so many steps."""
    start = alg.init(x0, theta)
    directions(theta)

    def forward(theta: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, s: alg.step(s, theta), start)

    def reverse(theta: Any) -> Any:
        def total(theta: Any) -> jax.Array:
            from .unrolled import unroll

            x = unroll(alg, steps)(x0, theta)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x))  # pyright: ignore[reportReturnType]

        return jax.grad(total, allow_int=True)(theta)

    def one(theta: Any) -> Any:
        return _estimate_alone(alg, start, theta, False)

    def limit(theta: Any) -> Any:
        return _estimate_alone(alg, start, theta, True)

    step = _seconds(forward, theta) / steps
    along = _seconds(lambda t: _followed(alg, x0, t, steps), theta) / steps
    back = _seconds(reverse, theta) / steps
    return {
        "unroll": shown * back,
        "piggyback": shown * along,
        "one-step": shown * step + _seconds(one, theta),
        "implicit": shown * step + _seconds(limit, theta),
    }


def _estimate_alone(alg: Algorithm, state: Any, theta: Any, at_limit: bool) -> Any:
    y = alg.point(state)

    def fun(_: Any, theta: Any) -> Any:
        if at_limit:
            return alg.solution_near(y, theta)
        return alg.output(alg.point(alg.step(state, theta)), theta)

    return pushed(fun, (), [], theta)


def _seconds(fun: Callable[[Any], Any], theta: Any) -> float:
    compiled = jax.jit(fun)
    jax.block_until_ready(compiled(theta))
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(theta))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _vector(groups: Any) -> np.ndarray:
    leaves = [np.ravel(np.asarray(leaf)) for group in groups for leaf in group]
    return np.concatenate(leaves) if leaves else np.zeros(0)
