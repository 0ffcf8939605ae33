"""``check``: the implicit equation and the iteration at a fixed point, each with its verdict."""

from __future__ import annotations

import functools
import math
import textwrap
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..calculus import Kink
from ..errors import NotPolyhedralError, TooManyKinksError
from ..implicit import CheckReport
from ..implicit import check as check_equation
from ..invertibility import Verdict
from .contract import Algorithm
from .contraction import Contraction, contraction_at
from .linearised import FixedPoint
from .set_recursion import recursion

_NUMBERS = 16  # of a Jacobian whose hull is followed
_LONGEST = 400


@dataclass(frozen=True)
class IterationReport:
    """What can be said of derivatives at a fixed point; ``print(report)`` shows it.

    Attributes:
        implicit: the CheckReport of the equation residual(y, θ) = 0 in y, in the quotient by the free
            directions where the algorithm has some: is ∂F/∂y invertible for every selection?
        contraction: does the derivative of the iteration contract for every selection?
        limit_is_implicit: True where unrolled and piggyback derivatives are proven to converge to the
            implicit ones, as points or as hulls of sets; False where some selection keeps them from
            converging, or the limit is strictly larger; None where neither was shown.
        gap: how far the limit of the set-valued recursion reaches beyond the implicit set, where it was
            followed (few numbers, kinks active); else None.
        kinks: the active kinks of the step. ``free``: the number of free directions.
    """

    implicit: CheckReport
    contraction: Contraction
    limit_is_implicit: bool | None
    gap: float | None
    kinks: tuple[Kink, ...]
    free: int

    @property
    def rate(self) -> float:
        """An upper bound of the joint spectral radius: errors fall by ρ a step."""
        return self.contraction.rate

    @property
    def law(self) -> str:
        """How the error of the derivative falls with t, in words of ρ.

        tρᵗ where no kink is active at the fixed point, so that the iterates settle on one C^{1,1} piece;
        ρ^{t/2} is what holds for the distance to the set of limits in general.
        """
        if self.contraction.verdict != Verdict.PROVEN:
            return "no rate"
        return "ρ^{t/2}" if self.kinks else "t ρᵗ"

    def __str__(self) -> str:
        said = {
            True: "piggyback and unrolled derivatives converge to the implicit ones",
            False: "piggyback and unrolled derivatives need not converge to the implicit ones",
            None: "whether piggyback and unrolled derivatives converge to the implicit ones was not shown",
        }
        lines = [
            f"implicit equation   {self.implicit.verdict.name}: {self.implicit.reason}",
            f"iteration           {self.contraction}",
            f"limit               {said[self.limit_is_implicit]}.",
        ]
        if self.law != "no rate":
            lines.append(f"rate                {self.law} with ρ ≤ {self.rate:.6g}")
        if self.gap is not None:
            lines.append(
                f"gap                 the limit set reaches {self.gap:.3g} beyond the implicit one"
            )
        if self.free:
            lines.append(
                f"free directions     {self.free}; both verdicts hold in the quotient by them"
            )
        lines += [f"kink                {kink}" for kink in self.kinks[:12]]
        wrapped = [textwrap.wrap(line, 100, subsequent_indent=" " * 20) for line in lines]
        return "\n".join("\n".join(parts) for parts in wrapped)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, verdicts in lower case."""
        contraction = self.contraction
        return {
            "implicit": self.implicit.to_dict(),
            "contraction": {
                "verdict": contraction.verdict.name.lower(),
                "reason": contraction.reason,
                "word": list(contraction.word),
                "lower": contraction.lower,
                "rate": contraction.rate if math.isfinite(contraction.rate) else None,
                "matrices": contraction.matrices.tolist(),
            },
            "limit_is_implicit": self.limit_is_implicit,
            "gap": self.gap,
            "law": self.law,
            "free": self.free,
        }


def check(alg: Algorithm, x: Any, theta: Any) -> IterationReport:
    """At a fixed point: is the implicit derivative defined, does the iteration's contract, do they agree?

    Two sets of matrices are judged. Every I − A must be invertible for the implicit derivative (I − A)⁻¹B
    (Theorem 2 of Bolte, Le, Pauwels, Silveti-Falls 2021); the joint spectral radius of all A must be
    below 1 for J ↦ A J + B to converge along every sequence of selections. The second implies the
    first, not conversely. For an algorithm with free directions (Sinkhorn's potentials are determined up
    to a constant) both are judged in the quotient by them.

    Args:
        alg: the algorithm.
        x: its output at a fixed point, as ``cx.iterates.implicit(alg)(x0, theta)`` returns it.
        theta: the parameters.

    Returns:
        An IterationReport: ``implicit``, ``contraction``, ``limit_is_implicit``.

    Raises:
        NotARootError, NotConvergedError: x is no output of a fixed point. InvalidInputError: NaN.

    Source: Bolte, Pauwels, Vaiter (NeurIPS 2022), Assumption 1, Theorem 1 and Section 4.3 (heavy ball).

    >>> import jax.numpy as jnp, conservax as cx
    >>> f = lambda x, t: jnp.where(x > 0, x**2 / 2, x**2 / 8) - 0 * t
    >>> report = cx.iterates.check(cx.iterates.heavy_ball(f, 1.0, 0.75), 0.0, 0.0)
    >>> report.implicit.verdict.name, report.contraction.verdict.name, len(report.contraction.word)
    ('PROVEN', 'REFUTED', 4)
    """
    point = FixedPoint.of(alg, x, theta)
    equation = _equation(point)
    contraction = contraction_at(point)
    step = point.step()
    moving = tuple(step.kinks[i] for i in step.form.moving())
    gap, agrees = None, None
    if contraction.verdict == Verdict.REFUTED or equation.verdict == Verdict.REFUTED:
        agrees = False
    elif contraction.verdict == Verdict.PROVEN and not moving:
        agrees = True
    elif contraction.verdict == Verdict.PROVEN:
        gap, agrees = _compared(point, contraction)
    free = 0 if point.basis is None else point.basis.shape[0] - point.basis.shape[1]
    return IterationReport(equation, contraction, agrees, gap, moving, free)


def _equation(point: FixedPoint) -> CheckReport:
    if point.basis is None:
        return check_equation(point.alg.residual, point.y, point.theta)
    reduced = functools.partial(_reduced, point.alg)
    start = jnp.zeros(point.basis.shape[1], ravel_pytree(point.y)[0].dtype)
    return check_equation(
        reduced, start, point.theta, jnp.asarray(point.basis), point.y, argnums=(0,)
    )


def _reduced(alg: Algorithm, w: jax.Array, theta: Any, basis: jax.Array, y: Any) -> jax.Array:
    """Qᵀ residual(y + Q w): as many equations as there are numbers that are determined."""
    flat, unravel = ravel_pytree(y)
    return basis.T @ ravel_pytree(alg.residual(unravel(flat + basis @ w), theta))[0]


def _compared(point: FixedPoint, contraction: Contraction) -> tuple[float | None, bool | None]:
    """The gap between the limit and the implicit set, followed until its error is small, and the answer."""
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(point.theta))
    if point.unknowns * parameters > _NUMBERS or len(contraction.matrices) > 32:
        return None, None
    steps = 25
    while True:
        try:
            found = recursion(point, steps, contraction=contraction)
        except (TooManyKinksError, NotPolyhedralError):
            return None, None
        scale = max(1.0, float(np.abs(found.vertices()).max()))
        if found.gap > found.error + 1e-6 * scale:
            return found.gap, False
        if found.error <= 1e-6 * scale:
            return found.gap, True
        steps *= 2
        if steps > _LONGEST:
            return found.gap, None
