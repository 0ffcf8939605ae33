"""``unroll``: differentiate a fixed number of steps."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..solution import Status
from .contract import Algorithm
from .estimator import TOLERANCE, Estimator, count, kept, refuse, tolerance, traced
from .running import Run, change, moving, reachable, repeat, sup


class Unrolled(Estimator):
    """x_T(x0, θ), differentiated step by step."""

    def __init__(self, alg: Algorithm, steps: int, tol: float) -> None:
        super().__init__(alg, tol, steps)
        self._values = jax.jit(self._value)

    def __call__(self, x0: Any, theta: Any) -> Any:
        x0, theta = self.inputs(x0, theta)
        x = self._values(x0, theta)
        self.require_numbers(x, x0, theta)
        return x

    def require_numbers(self, x: Any, x0: Any, theta: Any) -> None:
        """NotConvergedError where a concrete result holds NaN or infinity."""
        if not traced(x) and not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(x)):
            run = Run(x, Status.DIVERGED, self.max_steps, np.nan, np.nan)  # pyright: ignore[reportArgumentType]
            refuse(self.alg, run, self.tol, x0, theta)

    def _last(self, x0: Any, theta: Any) -> Any:
        state = jax.tree.map(jnp.asarray, self.alg.init(x0, theta))
        return repeat(functools.partial(self._step, theta), state, self.max_steps)

    def _step(self, theta: Any, state: Any) -> Any:
        return self.alg.step(state, theta)

    def _value(self, x0: Any, theta: Any) -> Any:
        return self.alg.output(self.alg.point(self._last(x0, theta)), theta)

    def _pair(self, x0: Any, theta: Any) -> tuple[Any, Any, Run]:
        state = self._last(x0, theta)
        after = self.alg.step(state, theta)
        run = _judged(self, state, after, self.alg.step(after, theta))
        x, later = (self.alg.output(self.alg.point(s), theta) for s in (state, after))
        return x, later, run


def _judged(estimator: Unrolled, state: Any, after: Any, later: Any) -> Run:
    """How a fixed number of steps ended, from the changes of two more."""
    first, second = change(state, after), change(after, later)
    near = first <= reachable(estimator.tol, state) * jnp.maximum(1.0, sup(moving(after)))
    status = jnp.where(near, Status.SOLVED, Status.MAX_ITERATIONS)
    status = jnp.where(jnp.isfinite(first), status, Status.DIVERGED).astype(jnp.int8)
    rate = jnp.where(first > 0, second / first, 0.0)
    steps = jnp.asarray(estimator.max_steps, jnp.int32)
    return Run(estimator.alg.point(state), status, steps, first, rate)


def unroll(alg: Algorithm, steps: int, *, tol: float = TOLERANCE) -> Estimator:
    """x_T after T = ``steps`` steps, its derivative that of the iteration: automatic differentiation.

    x_{t+1} = F(x_t, θ) and J_{t+1} = A_t J_t + B_t with [A_t B_t] ∈ J_F(x_t, θ), from J_{x0}(θ) on.

    Args:
        alg: the algorithm.
        steps: how many steps, T.
        tol: the change below which ``solve`` calls a run SOLVED.

    Returns:
        An Estimator: ``unroll(alg, T)(x0, θ)`` under every JAX transformation. Forward mode keeps one
        state; reverse mode 2√T, and runs the steps twice more. ``.solve(x0, θ)`` has the status.

    Raises:
        NotConvergedError: eagerly, where the result is no number. InvalidInputError: bad arguments.

    Source: Bolte, Pauwels, Vaiter, Automatic differentiation of nonsmooth iterative algorithms
    (NeurIPS 2022), Theorem 1; checkpoints as Griewank (1992), two levels.

    >>> import jax, conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
    >>> round(float(jax.grad(lambda t: cx.iterates.unroll(alg, 40)(0.0, t))(1.0)), 6)
    2.0
    """
    steps, tol = count(steps, "steps"), tolerance(tol)
    return kept(alg, (Unrolled, steps, tol), lambda: Unrolled(alg, steps, tol))
