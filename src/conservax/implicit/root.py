"""Differentiate the root of an optimality function: ``custom_root``, ``root_jvp``, ``root_vjp``.

If F(y, θ) = 0 and B = ∂F/∂y is invertible, then ∂y/∂θ = −B⁻¹ ∂F/∂θ, where both Jacobians may be taken
along one selection of F at its kinks (Bolte, Le, Pauwels, Silveti-Falls 2021, Theorem 2).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from ..calculus import roots, select
from ..calculus.invocation import flowing
from ..calculus.selection import Selection
from ..errors import InvalidInputError, NotARootError, SingularError
from ..numerics import is_root
from .linear import Singular, Solve, Structure, linear_solve, probe_like

if TYPE_CHECKING:
    import lineax as lx

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


def custom_root(
    optimality_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Solve | lx.AbstractLinearSolver | None = None,
    *,
    selection: Selection = "jax",
    singular: Singular = "error",
    structure: Structure = "general",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: give a solver the derivative of the root that it finds.

    For y = solver(init, *args) with F(y, *args) = 0 the derivative is dy = −B⁻¹ dF, B = ∂F/∂y,
    both Jacobians along one selection of F. The solver itself is never differentiated.

    Args:
        optimality_fun: F(sol, *args, **kwargs), a pytree with as many numbers as ``sol``.
        has_aux: whether the solver returns ``(sol, aux)``; aux has no derivative.
        solve: how to solve with B: None chooses; a lineax solver; or ``solve(matvec, b)``.
        selection: which selection F uses at its kinks, as in ``cx.select``.
        singular: "error" (SingularError when called eagerly, NaN under jit and vmap) or "least_norm"
            (the pseudo-inverse in place of B⁻¹).
        structure: what is known of B: "general", "symmetric" or "positive_definite".

    Returns:
        A decorator for ``solver(init, *args, **kwargs)``. The decorated solver works under jit,
        vmap, jvp, vjp, jacfwd, jacrev and hessian, and may close over what it is differentiated in.
        ``init`` has derivative zero.

    Raises:
        NotARootError: eagerly, when ‖F(sol)‖ is not small against the terms of F.
        InvalidInputError: F and sol differ in size, or hold NaN.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2 and Corollary 1.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> sqrt = cx.custom_root(lambda y, t: y**2 - t)(lambda init, t: jnp.sqrt(t))
    >>> round(float(jax.grad(lambda t: sqrt(None, t))(4.0)), 6)
    0.25
    """
    selected = select(optimality_fun, selection)

    def decorate(solver: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(solver)

        @functools.wraps(solver)
        def solve_and_differentiate(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if not bound.args:
                raise InvalidInputError(
                    "the solver takes the initial point as its first argument: solver(init, ...)"
                )
            init, *parameters = bound.args
            return _implicit_call(
                solver,
                selected,
                init,
                (tuple(parameters), bound.kwargs),
                has_aux,
                functools.partial(
                    linear_solve, solve=solve, singular=singular, structure=structure
                ),
            )

        solve_and_differentiate.optimality_fun = optimality_fun  # type: ignore[attr-defined]
        solve_and_differentiate.check = _checker(optimality_fun)  # type: ignore[attr-defined]
        return solve_and_differentiate

    return decorate


def custom_fixed_point(
    fixed_point_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Solve | lx.AbstractLinearSolver | None = None,
    *,
    selection: Selection = "jax",
    singular: Singular = "error",
    structure: Structure = "general",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: give a solver of y = T(y, *args) the derivative (I − ∂T/∂y)⁻¹ ∂T/∂θ.

    The arguments, the returned decorator and the errors are those of ``custom_root``, with
    F(y, *args) = y − T(y, *args).

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2 and Section 4.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> half = cx.custom_fixed_point(lambda y, t: 0.5 * y + t)(lambda init, t: 2 * t)
    >>> float(jax.grad(lambda t: half(None, t))(1.0))
    2.0
    """
    return custom_root(
        fixed_point_residual(fixed_point_fun),
        has_aux,
        solve,
        selection=selection,
        singular=singular,
        structure=structure,
    )


def fixed_point_residual(fixed_point_fun: Callable[..., Any]) -> Callable[..., Any]:
    """The optimality function y − T(y, *args) of a fixed-point map T."""

    @functools.wraps(fixed_point_fun)
    def residual(sol: Any, *args: Any, **kwargs: Any) -> Any:
        return jax.tree.map(lambda y, t: y - t, sol, fixed_point_fun(sol, *args, **kwargs))

    return residual


def root_jvp(
    optimality_fun: Callable[..., Any],
    sol: Any,
    args: Sequence[Any],
    tangents: Sequence[Any],
    solve: Solve | lx.AbstractLinearSolver | None = None,
    *,
    selection: Selection = "jax",
    singular: Singular = "error",
    structure: Structure = "general",
) -> Any:
    """The tangent −B⁻¹ (∂F/∂args · tangents) of a root ``sol`` of F(sol, *args) = 0.

    Returns a pytree like ``sol``; raises what ``custom_root`` raises.

    >>> import conservax as cx
    >>> float(cx.root_jvp(lambda y, t: y**2 - t, 2.0, (4.0,), (1.0,)))
    0.25
    """
    root = _given_root(optimality_fun, sol, solve, selection, singular, structure)
    return jax.jvp(root, tuple(args), tuple(tangents))[1]


def root_vjp(
    optimality_fun: Callable[..., Any],
    sol: Any,
    args: Sequence[Any],
    cotangent: Any,
    solve: Solve | lx.AbstractLinearSolver | None = None,
    *,
    selection: Selection = "jax",
    singular: Singular = "error",
    structure: Structure = "general",
) -> Any:
    """The cotangents −(∂F/∂args)ᵀ B⁻ᵀ cotangent of a root ``sol`` of F(sol, *args) = 0.

    Returns a tuple like ``args``; raises what ``custom_root`` raises.

    >>> import conservax as cx
    >>> float(cx.root_vjp(lambda y, t: y**2 - t, 2.0, (4.0,), 1.0)[0])
    0.25
    """
    root = _given_root(optimality_fun, sol, solve, selection, singular, structure)
    return jax.vjp(root, *args)[1](cotangent)


def _given_root(
    optimality_fun: Callable[..., Any],
    sol: Any,
    solve: Solve | lx.AbstractLinearSolver | None,
    selection: Selection,
    singular: Singular,
    structure: Structure,
) -> Callable[..., Any]:
    """The root as its own solver: one rule serves the decorator, ``root_jvp`` and ``root_vjp``."""
    fun = select(optimality_fun, selection)
    linear = functools.partial(linear_solve, solve=solve, singular=singular, structure=structure)

    def root(*parameters: Any) -> Any:
        return _implicit_call(lambda init, *_: init, fun, sol, (parameters, {}), False, linear)

    return root


def _implicit_call(
    solver: Callable[..., Any],
    optimality_fun: Callable[..., Any],
    init: Any,
    theta: tuple[Sequence[Any], dict[str, Any]],
    has_aux: bool,
    solve: Callable[..., jax.Array],
) -> Any:
    leaves, tree = jax.tree.flatten((init, theta))
    is_array = flowing((init, theta))
    arrays = [leaf for leaf, a in zip(leaves, is_array, strict=True) if a]
    others = [leaf for leaf, a in zip(leaves, is_array, strict=True) if not a]

    def rebuild(arrays: Sequence[Any]) -> tuple[Any, Any]:
        moving, still = iter(arrays), iter(others)
        return jax.tree.unflatten(tree, [next(moving) if a else next(still) for a in is_array])

    def solve_at(*arrays: Any) -> tuple[Any, Any]:
        init, (args, kwargs) = rebuild(arrays)
        out = solver(init, *args, **kwargs)
        return out if has_aux else (out, ())

    def residual(sol: Any, *arrays: Any) -> Any:
        _, (args, kwargs) = rebuild(arrays)
        return optimality_fun(sol, *args, **kwargs)

    try:
        run_solver, solver_consts = jax.closure_convert(solve_at, *arrays)
    except _NEEDS_VALUES:  # a solver on the host: run it on values, and hand the rule what it found
        found = solve_at(*jax.lax.stop_gradient(arrays))
        solver_consts, found_tree = jax.tree.flatten(found)

        run_solver = functools.partial(_found, found_tree, len(arrays))

    sol_shape = jax.eval_shape(lambda *a: run_solver(*a, *solver_consts)[0], *arrays)
    # what F closes over becomes an argument, so that derivatives in it reach the rule
    residual, residual_consts = jax.closure_convert(residual, sol_shape, *arrays)
    _check_shapes(sol_shape, residual, [*arrays, *residual_consts])
    n, n_solver = len(arrays), len(solver_consts)

    sol_leaves, sol_tree = jax.tree.flatten(sol_shape)

    def trace_residual() -> Any:
        def flat(*inputs: Any) -> Any:
            sol = jax.tree.unflatten(sol_tree, inputs[: len(sol_leaves)])
            return jax.tree.leaves(residual(sol, *inputs[len(sol_leaves) :]))

        shapes = [jax.eval_shape(jnp.asarray, x) for x in (*arrays, *residual_consts)]
        return jax.make_jaxpr(flat)(*sol_leaves, *shapes)

    def find_root(*inputs: Any) -> Any:
        return run_solver(*inputs[: n + n_solver])

    find_root.__name__ = find_root.__qualname__ = roots.record(
        roots.Root(
            trace_residual,
            len(sol_leaves),
            (*range(n), *range(n + n_solver, n + n_solver + len(residual_consts))),
        )
    )
    root = jax.custom_jvp(find_root)

    def rule(primals: Any, tangents: Any) -> Any:
        sol, aux = root(*primals)
        inputs = [*primals[:n], *primals[n + n_solver :]]
        moves = [*tangents[:n], *tangents[n + n_solver :]]
        moving = [
            not isinstance(t, SymbolicZero) and getattr(t, "dtype", None) != jax.dtypes.float0
            for t in moves
        ]
        flat_sol, unravel = ravel_pytree(sol)

        def of_solution(y: jax.Array) -> jax.Array:
            return ravel_pytree(residual(unravel(y), *inputs))[0]

        def of_inputs(*some: Any) -> jax.Array:
            changed = iter(some)
            full = [next(changed) if m else x for m, x in zip(moving, inputs, strict=True)]
            return ravel_pytree(residual(sol, *full))[0]

        if any(moving):
            some = [x for x, m in zip(inputs, moving, strict=True) if m]
            value, change = jax.jvp(
                of_inputs, some, [t for t, m in zip(moves, moving, strict=True) if m]
            )
            _, apply_jacobian = jax.linearize(of_solution, flat_sol)
            if not any(
                isinstance(x, Tracer) for x in (value, flat_sol)
            ):  # eagerly, errors can be raised
                _require_root(value, apply_jacobian, flat_sol)
                _require_invertible(apply_jacobian, flat_sol, solve)
            tangent = solve(apply_jacobian, -change)
            sol_tangent = unravel(tangent)
        else:
            sol_tangent = jax.tree.map(jnp.zeros_like, sol)
        return (sol, aux), (sol_tangent, jax.tree.map(_zero_tangent, aux))

    root.defjvp(rule, symbolic_zeros=True)
    sol, aux = root(*arrays, *solver_consts, *residual_consts)
    return (sol, aux) if has_aux else sol


def _found(tree: Any, skip: int, *inputs: Any) -> tuple[Any, Any]:
    return jax.tree.unflatten(tree, inputs[skip:])


def _check_shapes(sol: Any, residual: Callable[..., Any], arrays: Sequence[Any]) -> None:
    leaves = jax.tree.leaves(sol)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise InvalidInputError(
            "the solver must return real floating-point arrays (a pytree of them)."
        )
    outs = jax.tree.leaves(jax.eval_shape(residual, sol, *arrays))
    unknowns, equations = sum(leaf.size for leaf in leaves), sum(o.size for o in outs)
    if unknowns != equations:
        raise InvalidInputError(
            f"optimality_fun returns {equations} numbers for a solution of {unknowns}: "
            "the implicit function theorem needs one equation an unknown. "
            "Check the shapes that optimality_fun(sol, *args) returns."
        )


def _require_root(value: Any, apply_jacobian: Any, sol: Any) -> None:
    residual = float(jnp.max(jnp.abs(value), initial=0.0))
    scale = float(jnp.max(jnp.abs(apply_jacobian(sol)), initial=0.0))
    if not is_root(residual, scale, value.dtype):
        raise NotARootError(
            f"‖optimality_fun(sol, *args)‖ = {residual:.3g} at the point that the solver returned, against "
            f"terms of size {scale:.3g}. Let the solver run longer, check that optimality_fun belongs to "
            "this solver, or refine the point with cx.polish."
        )


def _require_invertible(apply_jacobian: Any, sol: Any, solve: Callable[..., jax.Array]) -> None:
    """No singular system can be solved for a probe; the user's own right-hand side might hide it."""
    if bool(jnp.any(jnp.isnan(solve(apply_jacobian, probe_like(sol))))):
        raise SingularError(
            "∂F/∂sol is singular to working precision (or, beyond 300 unknowns, too ill-conditioned for a "
            "matrix-free method), so the solution has no derivative here. Run cx.check for the kinks and "
            'the null vector; pass singular="least_norm", or solve=lineax.LU() for an ill-conditioned one.'
        )


def _zero_tangent(x: Any) -> Any:
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def _checker(optimality_fun: Callable[..., Any]) -> Callable[..., Any]:
    def check(sol: Any, *args: Any, **kwargs: Any) -> Any:
        """``cx.check`` of this solver's optimality function."""
        from .check import check as check_root

        return check_root(optimality_fun, sol, *args, **kwargs)

    return check
