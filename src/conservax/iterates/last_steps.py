"""``truncated`` and ``one_step``: differentiate the last steps alone."""

from __future__ import annotations

import functools
from typing import Any

import jax

from .contract import Algorithm
from .estimator import MAX_STEPS, TOLERANCE, Estimator, count, kept, tolerance
from .running import Run, repeat


class Truncated(Estimator):
    """The solution, and the derivative of k steps from it."""

    def __init__(self, alg: Algorithm, steps: int, tol: float, max_steps: int) -> None:
        super().__init__(alg, tol, max_steps)
        self.steps = steps
        self._values = jax.jit(self._value)

    def __call__(self, x0: Any, theta: Any) -> Any:
        x0, theta = self.inputs(x0, theta)
        run = self._run(x0, theta)
        return self._vouched(self._values(run.point, theta), run, x0, theta)

    def _later(self, y: Any, theta: Any) -> Any:
        return repeat(functools.partial(self._step, theta), self.alg.rest(y), self.steps)

    def _step(self, theta: Any, state: Any) -> Any:
        return self.alg.step(state, theta)

    def _value(self, y: Any, theta: Any) -> Any:
        return self.alg.output(self.alg.point(self._later(y, theta)), theta)

    def _pair(self, x0: Any, theta: Any) -> tuple[Any, Any, Run]:
        run = self._run(x0, theta)
        state = self._later(run.point, theta)
        x, later = (
            self.alg.output(self.alg.point(s), theta) for s in (state, self.alg.step(state, theta))
        )
        return x, later, run


def truncated(
    alg: Algorithm, k: int, *, tol: float = TOLERANCE, max_steps: int = MAX_STEPS
) -> Estimator:
    """The solution with the derivative of its last k steps: J ≈ Σ_{i<k} Aⁱ B.

    The algorithm runs to the tolerance undifferentiated; k more steps are differentiated from there.
    If ‖A‖ ≤ ρ < 1 the error of the derivative is at most ρᵏ‖B‖/(1 − ρ).

    Args:
        alg: the algorithm.
        k: how many steps are differentiated.
        tol: the change of the state, relative to max(1, ‖s‖_∞), at which a run ends; in low precision
            at least 8 eps. max_steps: how many steps it may take.

    Returns:
        An Estimator: ``truncated(alg, k)(x0, θ)``; the derivative in x0 is zero.

    Raises:
        NotConvergedError: eagerly, where the tolerance is not reached (NaN inside jit).

    Source: Bolte, Pauwels, Vaiter, One-step differentiation of iterative algorithms (NeurIPS 2023);
    the bound is the geometric series.

    >>> import jax, conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
    >>> float(jax.grad(lambda t: cx.iterates.truncated(alg, 3)(0.0, t))(1.0))
    1.75
    """
    k, max_steps, tol = count(k, "k"), count(max_steps, "max_steps"), tolerance(tol)
    return kept(alg, (Truncated, k, tol, max_steps), lambda: Truncated(alg, k, tol, max_steps))


def one_step(alg: Algorithm, *, tol: float = TOLERANCE, max_steps: int = MAX_STEPS) -> Estimator:
    """The solution with the derivative of its last step alone: J ≈ B = ∂F/∂θ.

    Exact for superlinear algorithms such as Newton's, where A = 0 at the solution; elsewhere off by
    ρ‖B‖/(1 − ρ) at most. Arguments, result and errors are those of ``truncated`` with k = 1.

    Source: Bolte, Pauwels, Vaiter, One-step differentiation of iterative algorithms (NeurIPS 2023),
    Theorem 1 and Corollary 1.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> alg = cx.iterates.newton(lambda x, t: x**3 / 3 - t * x)
    >>> round(float(jax.grad(lambda t: cx.iterates.one_step(alg)(1.0, t))(4.0)), 6)
    0.25
    """
    return truncated(alg, 1, tol=tol, max_steps=max_steps)
