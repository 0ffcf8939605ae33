"""How far a point is from being a root, measured against the terms of F."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..calculus.cut import cutter_for
from ..calculus.planning import real_leaves
from ..errors import InvalidInputError, NotARootError
from ..numerics import Tolerance, is_root, solver_output_tolerance


@dataclass(frozen=True)
class Residual:
    """‖F(sol)‖_∞, the size of the terms that make F, the number of unknowns and their dtype."""

    value: float
    scale: float
    unknowns: int
    dtype: Any

    @property
    def relative(self) -> float:
        return self.value / self.scale if self.scale > 0 else float(self.value > 0)


def measure_residual(optimality_fun: Callable[..., Any], sol: Any, args: Sequence[Any]) -> Residual:
    """Evaluate F(sol, *args) with the running size of its terms; checks shapes and finiteness."""
    leaves = jax.tree.leaves(sol)
    for name, tree in (("sol", sol), *((f"args[{i}]", arg) for i, arg in enumerate(args))):
        for leaf in jax.tree.leaves(tree):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and not np.all(
                np.isfinite(np.asarray(leaf, dtype=np.float64))
            ):
                raise InvalidInputError(f"{name} holds NaN or infinity; pass finite values.")
    if not leaves or not all(
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves
    ):
        raise InvalidInputError(
            "sol must hold real floating-point arrays; convert it with float or astype."
        )
    cutter = cutter_for(optimality_fun, (sol, *args), real_leaves((sol, *args)))
    outs, sizes = cutter.measured_outputs(jax.tree.leaves((sol, *args)))
    unknowns = sum(int(np.size(leaf)) for leaf in leaves)
    equations = sum(int(np.size(o)) for o in outs)
    if unknowns != equations:
        raise InvalidInputError(
            f"optimality_fun returns {equations} numbers for a solution of {unknowns}: the implicit function "
            "theorem needs one equation an unknown. Check the shapes that optimality_fun(sol, *args) returns."
        )
    value = max((float(np.max(np.abs(o), initial=0.0)) for o in outs), default=0.0)
    scale = max((float(np.max(s, initial=0.0)) for s in sizes), default=0.0)
    return Residual(value, scale, unknowns, cutter.program.dtype)


def require_root(optimality_fun: Callable[..., Any], sol: Any, args: Sequence[Any]) -> Residual:
    """The residual, or NotARootError where it is not small against the terms of F."""
    residual = measure_residual(optimality_fun, sol, args)
    if not is_root(residual.value, residual.scale, residual.dtype):
        raise NotARootError(
            f"sol is not a root: ‖optimality_fun(sol, *args)‖ = {residual.value:.3g} against terms of size "
            f"{residual.scale:.3g}. Let the solver run longer, check that optimality_fun belongs to this "
            "solver, or refine the point with cx.polish."
        )
    return residual


def root_tolerance(residual: Residual, rtol: float | None) -> Tolerance:
    """When a kink is active at this root: the user's rtol, or the square root of the residual."""
    if rtol is not None:
        if not rtol >= 0:
            raise InvalidInputError(f"rtol={rtol!r} must be a number of at least 0.")
        return Tolerance(0.0, rtol)
    return solver_output_tolerance(residual.dtype, residual.relative)
