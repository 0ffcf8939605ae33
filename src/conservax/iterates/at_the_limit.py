"""``implicit``: the derivative of the implicit function theorem at the fixed point."""

from __future__ import annotations

from typing import Any

import jax

from ..implicit.masks import poisoned
from ..solution import Status
from .contract import Algorithm
from .estimator import MAX_STEPS, TOLERANCE, Estimator, count, kept, tolerance, traced
from .running import Run


class Implicit(Estimator):
    """The solution, and −(∂F/∂y)⁻¹ ∂F/∂θ of the algorithm's residual there."""

    def __init__(self, alg: Algorithm, tol: float, max_steps: int, linear: dict[str, Any]) -> None:
        super().__init__(alg, tol, max_steps)
        self.linear = linear
        self._finishing = jax.jit(self._finish)

    def __call__(self, x0: Any, theta: Any) -> Any:
        x0, theta = self.inputs(x0, theta)
        run = self._run(x0, theta)
        self._complain(run, x0, theta)
        if not traced(run.point, theta):  # no one differentiates: nothing but the output is needed
            return self._finishing(run.point, theta)
        x = self.alg.solution(run.point, theta, **self.linear)
        return poisoned(x, run.status == Status.SOLVED) if traced(run.status) else x

    def _finish(self, y: Any, theta: Any) -> Any:
        return self.alg.output(y, theta)

    def _pair(self, x0: Any, theta: Any) -> tuple[Any, Any, Run]:
        run = self._run(x0, theta)
        x = self.alg.solution(run.point, theta, **self.linear)
        after = self.alg.point(self.alg.step(self.alg.rest(run.point), theta))
        return x, self.alg.solution(jax.lax.stop_gradient(after), theta, **self.linear), run


def implicit(
    alg: Algorithm, *, tol: float = TOLERANCE, max_steps: int = MAX_STEPS, **linear: Any
) -> Estimator:
    """The solution with its implicit derivative J = (I − A)⁻¹ B, [A B] ∈ J_F(x*, θ).

    The algorithm runs to the tolerance undifferentiated; one linear system is solved there, in the
    unknowns of ``alg.residual``.

    Args:
        alg: the algorithm.
        tol: the change of the state, relative to max(1, ‖s‖_∞), at which a run ends; in low precision
            at least 8 eps. max_steps: how many steps it may take.
        linear: ``solve``, ``singular``, ``structure`` and ``selection``, as in ``cx.custom_root``.

    Returns:
        An Estimator: ``implicit(alg)(x0, θ)``; the derivative in x0 is zero. Start from an earlier
        solution to save steps.

    Raises:
        NotConvergedError: eagerly, where the tolerance is not reached (NaN inside jit).
        SingularError: eagerly, where I − A is singular.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2.

    >>> import jax, conservax as cx
    >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
    >>> float(jax.grad(lambda t: cx.iterates.implicit(alg)(0.0, t))(1.0))
    2.0
    """
    max_steps, tol = count(max_steps, "max_steps"), tolerance(tol)
    key = (Implicit, tol, max_steps, *sorted(linear.items(), key=lambda item: item[0]))
    return kept(alg, key, lambda: Implicit(alg, tol, max_steps, linear))
