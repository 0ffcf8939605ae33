"""One step of an explicit Runge–Kutta method, from diffrax's tableaus and interpolants."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError, MissingPackageError

Field = Callable[[Any, Any], Any]


class Step(NamedTuple):
    """y at the end, the error estimate, the slopes (stages, n), the slope at the end if it is one of them."""

    y: jax.Array
    error: jax.Array
    slopes: jax.Array
    last: jax.Array | None


class Method:
    """A pair of explicit Runge–Kutta formulas with an interpolant."""

    def __init__(self, solver: Any = None) -> None:
        try:
            import diffrax
        except ImportError as error:
            raise MissingPackageError(
                "flows are integrated by diffrax's methods: pip install 'conservax[flows]'"
            ) from error
        solver = diffrax.Tsit5() if solver is None else solver
        if not isinstance(solver, diffrax.AbstractERK):
            raise InvalidInputError(
                f"solver={type(solver).__name__} is no explicit Runge–Kutta method of diffrax with an error "
                "estimate; take diffrax.Tsit5(), Dopri5(), Dopri8(), Bosh3() or Heun()."
            )
        self.solver, tableau = solver, cast(Any, solver.tableau)
        self.c = [0.0, *np.asarray(tableau.c, float).tolist()]
        self.a = [np.asarray(row, float) for row in tableau.a_lower]
        self.b = np.asarray(tableau.b_sol, float)
        self.b_error = np.asarray(tableau.b_error, float)
        self.order = cast(int, solver.order(None))  # pyright: ignore[reportArgumentType]
        self.fsal = bool(
            self.c[-1] == 1 and np.allclose(self.a[-1], self.b[:-1]) and self.b[-1] == 0
        )

    def step(self, f: Field, t: Any, h: Any, y: jax.Array, first: jax.Array) -> Step:
        """y ↦ y + h Σ b_i k_i, k_i = f(t + c_i h, y + h Σ a_ij k_j), given k_1 = ``first``."""
        slopes = [first]
        for c, row in zip(self.c[1:], self.a, strict=True):
            slopes.append(f(t + c * h, y + h * _combination(row, slopes)))
        end = y + h * _combination(self.b, slopes)
        error = h * _combination(self.b_error, slopes)
        return Step(end, error, jnp.stack(slopes), slopes[-1] if self.fsal else None)

    def interpolant(self, t: Any, h: Any, y: jax.Array, step: Step) -> Callable[[Any], jax.Array]:
        """s ∈ [0, 1] ↦ y(t + s h)."""
        info: dict[str, Any] = {"y0": y, "y1": step.y, "k": h * step.slopes}
        curve = self.solver.interpolation_cls(t0=jnp.zeros_like(t), t1=jnp.ones_like(t), **info)
        return lambda s: curve.evaluate(s)


def _combination(weights: np.ndarray, slopes: list[jax.Array]) -> jax.Array:
    terms: list[jax.Array] = [
        w * k for w, k in zip(weights.tolist(), slopes, strict=False) if w != 0
    ]
    return sum(terms[1:], terms[0])
