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

from ..calculus import implicit_node, select
from ..calculus.selection import Selection
from ..calculus.tracing.invocation import flowing
from .linear import Singular, Solve, Structure, linear_solve
from .solver_calls import bound_arguments, converted, decided_dtypes, require_parameters
from .tangent import OnFailure, implicit_tangent, require_on_failure

if TYPE_CHECKING:
    import lineax as lx

    from ..invertibility import Certificate

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
    on_failure: OnFailure = "raise",
    certificate: Callable[..., Certificate] | None = None,
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
        structure: what is known of B: "general", "symmetric", "positive_definite", or "coupled", the identity
            in most rows or columns, as where a proximal operator returns zeros: what is coupled is factorised.
        on_failure: where the solver returned no root: "raise" (NotARootError when called eagerly; NaN
            under jit and vmap), "nan" (NaN and no error, for a singular B too), or "keep" (what the
            formula says at that point).
        certificate: ``certificate(sol, *args, **kwargs)``, a ``Certificate`` that B is invertible for
            every selection, which a layer has by construction. It is called on values, when ``check`` or
            ``monitor`` asks, and is taken at its word. The conditions of an equation around the solve are
            decided together with those of the solve all the same.

    Returns:
        A decorator for ``solver(init, *args, **kwargs)``. The decorated solver works under jit,
        vmap, jvp, vjp, jacfwd, jacrev and hessian, and may close over what it is differentiated in.
        ``init`` has derivative zero. Where the derivative is NaN a zero cotangent still gives a zero
        gradient: mask failed items before the loss, ``jnp.where(ok, y, 0)`` (docs/theory.md#failed-items).

    Raises:
        NotARootError: eagerly, when ‖F(sol)‖ is not small against the terms of F.
        InvalidInputError: F and sol differ in size, or hold NaN.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2 and Corollary 1.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> sqrt = cx.custom_root(lambda y, t: y**2 - t)(lambda init, t: jnp.sqrt(t))
    >>> round(float(jax.grad(lambda t: sqrt(None, t))(4.0)), 6)
    0.25
    """
    require_on_failure(on_failure)
    selected = select(optimality_fun, selection)

    def decorate(solver: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(solver)

        @functools.wraps(solver)
        def solve_and_differentiate(*args: Any, **kwargs: Any) -> Any:
            bound = bound_arguments(signature, args, kwargs)
            init, *parameters = bound.args
            require_parameters(optimality_fun, parameters, bound.kwargs)
            return _implicit_call(
                solver,
                selected,
                init,
                (tuple(parameters), bound.kwargs),
                has_aux,
                functools.partial(
                    linear_solve, solve=solve, singular=singular, structure=structure
                ),
                on_failure,
                certificate,
            )

        solve_and_differentiate.optimality_fun = optimality_fun  # type: ignore[attr-defined]
        solve_and_differentiate.check = _checker(optimality_fun, certificate)  # type: ignore[attr-defined]
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
    on_failure: OnFailure = "raise",
    certificate: Callable[..., Certificate] | None = None,
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
        on_failure=on_failure,
        certificate=certificate,
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
    on_failure: OnFailure = "raise",
    certificate: Callable[..., Certificate] | None = None,
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

    def residual_at(sol: Any, *arrays: Any) -> Any:
        _, (args, kwargs) = rebuild(arrays)
        return optimality_fun(sol, *args, **kwargs)

    try:
        run_solver, solver_consts = jax.closure_convert(solve_at, *arrays)
    except _NEEDS_VALUES:  # a solver on the host: run it on values, and hand the rule what it found
        found = solve_at(*jax.lax.stop_gradient(arrays))
        solver_consts, found_tree = jax.tree.flatten(found)

        run_solver = functools.partial(_found, found_tree, len(arrays))

    sol_leaves, sol_tree = jax.tree.flatten(
        jax.eval_shape(lambda *a: run_solver(*a, *solver_consts)[0], *arrays)
    )
    sol_leaves = decided_dtypes(sol_leaves, arrays)
    # what F closes over becomes an argument, so that derivatives in it reach the rule
    residual, residual_consts = converted(
        lambda leaves, *arrays: residual_at(jax.tree.unflatten(sol_tree, leaves), *arrays),
        sol_leaves,
        arrays,
    )
    n, n_solver = len(arrays), len(solver_consts)

    def find_root(*inputs: Any) -> Any:
        sol, aux = run_solver(*inputs[: n + n_solver])
        leaves = jax.tree.leaves(sol)
        return [
            jax.lax.convert_element_type(x, s.dtype)
            for x, s in zip(leaves, sol_leaves, strict=True)
        ], aux

    def tangent_of_root(found: Any, primals: Any, tangents: Any) -> Any:
        inputs, moves = ([*part[:n], *part[n + n_solver :]] for part in (primals, tangents))
        return implicit_tangent(residual, found[0], inputs, moves, solve, on_failure)

    leaves, aux = implicit_node(
        find_root,
        residual,
        tangent_of_root,
        *arrays,
        *solver_consts,
        *residual_consts,
        reads=(*range(n), *range(n + n_solver, n + n_solver + len(residual_consts))),
        certificate=None
        if certificate is None
        else lambda leaves, *inputs: _own_certificate(
            certificate, jax.tree.unflatten(sol_tree, leaves), rebuild(inputs[:n])[1]
        ),
    )
    sol = jax.tree.unflatten(sol_tree, leaves)
    return (sol, aux) if has_aux else sol


def _found(tree: Any, skip: int, *inputs: Any) -> tuple[Any, Any]:
    return jax.tree.unflatten(tree, inputs[skip:])


def _own_certificate(certificate: Callable[..., Any], sol: Any, theta: Any) -> Any:
    args, kwargs = theta
    return certificate(sol, *args, **kwargs)


def _checker(
    optimality_fun: Callable[..., Any], certificate: Callable[..., Certificate] | None
) -> Callable[..., Any]:
    def check(sol: Any, *args: Any, **kwargs: Any) -> Any:
        """``cx.check`` of this solver's optimality function; by its own certificate, where it proves."""
        from .check import check_by_construction

        return check_by_construction(optimality_fun, certificate, sol, *args, **kwargs)

    return check
