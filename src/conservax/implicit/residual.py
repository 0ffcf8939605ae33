"""How far a point is from being a root, measured against the terms of F."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..calculus.cuts.point import Point, cutter_for, require_finite
from ..calculus.tracing.invocation import Invocation, require_values
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


@dataclass(frozen=True)
class Equation:
    """F(sol, *args, **kwargs) = 0 at one point: the call taken apart, and how well it holds."""

    call: Invocation
    varied: tuple[bool, ...]
    residual: Residual

    @classmethod
    def of(
        cls,
        optimality_fun: Callable[..., Any],
        sol: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
    ) -> "Equation":
        """Evaluate F with the running size of its terms; checks shapes and finiteness."""
        named = _named(sol, args, kwargs)
        call = Invocation.of(optimality_fun, (sol, *args), kwargs, [name for name, _ in named])
        require_values(named, "this")
        require_finite(named)
        leaves = jax.tree.leaves(sol)
        if not leaves or len(leaves) != sum(call.owned_by((0,))):
            raise InvalidInputError(
                "sol must hold real floating-point arrays; convert it with float or astype."
            )
        varied = call.owned_by(range(1 + len(args)))
        cutter = cutter_for(call, varied)
        found = cutter.discover(call.leaves, Tolerance(0.0, 0.0))
        unknowns = sum(int(np.size(leaf)) for leaf in leaves)
        equations = sum(int(np.size(o)) for o in found.outputs)
        if unknowns != equations:
            raise InvalidInputError(
                f"optimality_fun returns {equations} numbers for a solution of {unknowns}: the implicit "
                "function theorem needs one equation an unknown. Check the shapes that "
                "optimality_fun(sol, *args) returns."
            )
        value = max((float(np.max(np.abs(o), initial=0.0)) for o in found.outputs), default=0.0)
        scale = max((float(np.max(s, initial=0.0)) for s in found.sizes), default=0.0)
        return cls(call, varied, Residual(value, scale, unknowns, cutter.program.dtype))

    def require_root(self) -> "Equation":
        """Itself, or NotARootError where the residual is not small against the terms of F."""
        residual = self.residual
        if not is_root(residual.value, residual.scale, residual.dtype):
            raise NotARootError(
                f"sol is not a root: ‖optimality_fun(sol, *args)‖ = {residual.value:.3g} against terms of "
                f"size {residual.scale:.3g}. Let the solver run longer, check that optimality_fun belongs to "
                "this solver, or refine the point with cx.polish."
            )
        return self

    def tolerance(self, rtol: float | None) -> Tolerance:
        """When a kink is active here: the user's rtol, or the square root of the residual."""
        return root_tolerance(self.residual, rtol)

    def sizes_of_slopes(self, together: bool = False) -> np.ndarray:
        """About how large the terms are that make the entries of ∂F/∂sol, (m, n), or the rows, (m, 1).

        Those of F at a distance, beside it: one unknown after the other, or all moved ``together``. Terms
        of the other unknowns and none are counted in. NaN or infinity where F is not finite there.
        """
        owned = self.inputs((0,))
        own = [np.asarray(leaf) for leaf, on in zip(self.call.leaves, owned, strict=True) if on]
        sol = np.concatenate([leaf.ravel() for leaf in own])
        far = max(1.0, float(np.max(np.abs(sol), initial=0.0)))
        ends = np.cumsum([leaf.size for leaf in own])[:-1]
        cutter = cutter_for(self.call, self.varied)

        def terms(direction: np.ndarray) -> np.ndarray:
            parts = np.split(sol + far * direction, ends)
            moved = iter(
                np.asarray(part.reshape(leaf.shape), leaf.dtype)
                for part, leaf in zip(parts, own, strict=True)
            )
            leaves = [
                next(moved) if on else leaf
                for leaf, on in zip(self.call.leaves, owned, strict=True)
            ]
            sizes = cutter.discover(leaves, Tolerance(0.0, 0.0)).sizes
            return np.concatenate([np.ravel(size) for size in sizes]) / far

        directions = [np.ones(len(sol))] if together else np.eye(len(sol))
        return np.stack([terms(direction) for direction in directions], axis=1)

    def point(self, rtol: float | None = None) -> Point:
        """The linearised program, its kinks decided within that tolerance."""
        return Point.of(self.call, self.varied, self.tolerance(rtol))

    def inputs(self, argnums: Sequence[int]) -> tuple[bool, ...]:
        """Which leaves belong to the arguments ``argnums`` of F, of which 0 is the solution."""
        return self.call.owned_by(argnums)


def measure_residual(
    optimality_fun: Callable[..., Any],
    sol: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> Residual:
    """‖F(sol, *args)‖ and the size of its terms; checks shapes and finiteness."""
    return Equation.of(optimality_fun, sol, args, kwargs).residual


def require_root(
    optimality_fun: Callable[..., Any],
    sol: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
) -> Residual:
    """The residual, or NotARootError where it is not small against the terms of F."""
    return Equation.of(optimality_fun, sol, args, kwargs).require_root().residual


def _named(
    sol: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> list[tuple[str, Any]]:
    numbered = ((f"args[{i}]", arg) for i, arg in enumerate(args))
    return [("sol", sol), *numbered, *(kwargs or {}).items()]


def root_tolerance(residual: Residual, rtol: float | None) -> Tolerance:
    """When a kink is active at this root: the user's rtol, or the square root of the residual."""
    if rtol is not None:
        if not rtol >= 0:
            raise InvalidInputError(f"rtol={rtol!r} must be a number of at least 0.")
        return Tolerance(0.0, rtol)
    return solver_output_tolerance(residual.dtype, residual.relative)
