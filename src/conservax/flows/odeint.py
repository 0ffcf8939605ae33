"""``odeint``: solutions of ordinary differential equations with kinks, and their derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from ..calculus.passes.planning import trace
from ..calculus.tracing.invocation import Invocation
from ..errors import (
    DiscontinuousError,
    InvalidInputError,
    NotConvergedError,
    UnsupportedOperationError,
)
from . import integrate as stepping
from .integrate import Mesh, Options, integrate
from .pieces import Pieces
from .runge_kutta import Method

_SELECTIONS = ("jax", "lower", "upper")


class Problem(NamedTuple):
    """A flat field f(t, y, *theta) with its pieces, and how to go back to the user's state."""

    pieces: Pieces
    theta: list[Any]
    y0: jax.Array
    unravel: Callable[[Any], Any]


def odeint(
    field: Callable[..., Any],
    x0: Any,
    times: Any,
    *args: Any,
    solver: Any = None,
    selection: str = "jax",
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
) -> Any:
    """x(times) of ẋ = f(t, x, *args), x(times[0]) = x0, for f continuous with kinks.

    Between kinks the field is integrated as the smooth function that it is there, and each crossing of
    a kink is located and stepped onto, so that no step straddles one. The derivative is that of the
    steps taken: Ṁ = J(x(t)) M, with J = ∂f on the piece that x(t) is in. It does not jump at a crossing,
    for the saltation matrix of a continuous field is the identity.

    Args:
        field: f(t, x, *args), a pytree like x, traceable; kinks may stand at max, min, abs, relu, clip,
            comparisons that steer ``where`` or ``cond``, and maxima over axes, in scans, too. Kinks of sorts,
            pooling and norms, in while loops, and behind custom rules are integrated unlocated.
        x0: the state, a pytree of real arrays. times: (T,), increasing or decreasing; times[0] is the start.
        solver: an explicit Runge–Kutta method of diffrax; Tsit5 by default.
        selection: the slope of kinks that the trajectory starts on and stays on: "jax", "lower" or "upper".
        rtol, atol: of a step's error; by default 1e-8 and 1e-8 in float64, 1e-5 and 1e-6 in float32.
        max_steps: the steps there may be; memory is that many states, three times that many in reverse mode.

    Returns:
        The states at ``times``, a pytree like x0 with a leading axis T. Works under jit, vmap, jvp, vjp,
        jacfwd, jacrev and hessian, in x0, args, times and whatever ``field`` closes over.

    Raises:
        DiscontinuousError: the field jumps where the trajectory crosses a kink, or executes a step function;
        NotConvergedError: max_steps were not enough, or the solution blew up. NaN under jit.
        InvalidInputError: shapes, NaN, times that are not monotone.

    Source: Marx, Pauwels, Path differentiability of ODE flows (J. Differential Equations 2022);
    docs/theory.md#flows. Tableaus and interpolants are diffrax's.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> def field(t, x):  # x' = −1 until x = 0, then x' = −1 + 2x
    ...     return -1 - 2 * jax.nn.relu(-x)
    >>> end = lambda x0: cx.flows.odeint(field, x0, jnp.array([0.0, 2.0]))[-1]
    >>> round(float(jax.grad(end)(1.0)), 2), round(float(jnp.exp(2.0)), 2)
    (7.39, 7.39)
    """
    x0, times, options = settings(x0, times, solver, selection, rtol, atol, max_steps)
    require_arrays(args)
    call = Invocation.of(field, (times[0], x0, *args))
    key = ("odeint", type(options.method.solver).__name__, *options[1:])
    inputs = (x0, times, args)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs)):
        solve = functools.partial(_solve, field, options)
    else:
        solve = call.kept(key, lambda: jax.jit(functools.partial(_solve, field, options)))
    states, mesh_code, kink = solve(*inputs)
    if isinstance(mesh_code, Tracer):
        failed = mesh_code != stepping.SOLVED
        return jax.tree.map(lambda a: jnp.where(failed, jnp.nan, a), states)
    require_solved(int(mesh_code), int(kink), options)
    return states


def settings(
    x0: Any,
    times: Any,
    solver: Any,
    selection: str,
    rtol: float | None,
    atol: float | None,
    max_steps: int,
) -> tuple[Any, jax.Array, Options]:
    """The user's state, times and options, checked."""
    method = Method(solver)
    if selection not in _SELECTIONS:
        raise InvalidInputError(f"selection={selection!r} is not one of {', '.join(_SELECTIONS)}.")
    times = jnp.asarray(times)
    x0 = jax.tree.map(jnp.asarray, x0)
    leaves = jax.tree.leaves(x0)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise InvalidInputError("x0 must hold real floating-point numbers.")
    if not any(leaf.size for leaf in leaves):
        raise InvalidInputError("x0 has no entries: a state holds one number at least.")
    if not all(isinstance(leaf, Tracer) or np.all(np.isfinite(leaf)) for leaf in leaves):
        raise InvalidInputError("x0 holds NaN or infinity: start from finite numbers.")
    dtype = jnp.result_type(*leaves)
    times = times.astype(dtype)
    _require_times(times)
    single = dtype != jnp.float64
    options = Options(
        method,
        (1e-5 if single else 1e-8) if rtol is None else rtol,
        (1e-6 if single else 1e-8) if atol is None else atol,
        int(max_steps),
        selection,
    )
    for name, number in (("rtol", options.rtol), ("atol", options.atol)):
        if not number > 0:
            raise InvalidInputError(f"{name}={number} must be positive.")
    if options.max_steps != max_steps or max_steps < 1:
        raise InvalidInputError(f"max_steps={max_steps} must be a whole number of at least 1.")
    return x0, times, options


def require_arrays(args: tuple[Any, ...]) -> None:
    """Raise InvalidInputError where an argument of the field holds what is no array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        try:
            jnp.result_type(leaf)
            jnp.shape(leaf)
        except TypeError as error:
            raise InvalidInputError(
                f"args{jax.tree_util.keystr(path)} is {leaf!r}, no array or number: let the field close over "
                "it, as in functools.partial."
            ) from error


def _solve(
    field: Callable[..., Any], options: Options, x0: Any, times: Any, args: tuple[Any, ...]
) -> tuple[Any, jax.Array, jax.Array]:
    problem = prepare(field, times[0], x0, args)
    mesh = _flow(problem.pieces, options, problem.y0, times, problem.theta)
    return jax.vmap(problem.unravel)(mesh.out), mesh.code, mesh.kink


def prepare(field: Callable[..., Any], t0: Any, x0: Any, args: tuple[Any, ...]) -> Problem:
    """The field as a function of flat arrays; what it closes over becomes an argument."""
    y0, unravel = ravel_pytree(x0)
    t0 = jnp.asarray(t0)
    arrays, tree = jax.tree.flatten(args)
    moving = [hasattr(a, "dtype") or isinstance(a, (float, complex)) for a in arrays]
    theta = [jnp.asarray(a) for a, m in zip(arrays, moving, strict=True) if m]

    def flat(t: Any, y: Any, *theta: Any) -> Any:
        rest = iter(theta)
        full = [next(rest) if m else a for a, m in zip(arrays, moving, strict=True)]
        out = field(t, unravel(y), *jax.tree.unflatten(tree, full))
        slopes, _ = ravel_pytree(jax.tree.map(jnp.asarray, out))
        found, keys = _keys(out), _keys(unravel(y))
        if found != keys:
            raise InvalidInputError(
                f"field returns slopes under the keys {found} for a state with {keys}: return one slope "
                "for each entry of x, under the same key."
            )
        if slopes.shape != y.shape:
            raise InvalidInputError(
                f"field returns {slopes.size} numbers for a state of {y.size}: it must return one slope for "
                "each entry of x."
            )
        return slopes.astype(y.dtype)

    converted, consts = jax.closure_convert(flat, t0, y0, *theta)
    theta = [*theta, *consts]
    _refuse_jumps(converted, (t0, y0, *theta))
    return Problem(Pieces(converted, t0, y0, *theta), theta, y0, unravel)


def _keys(tree: Any) -> list[Any]:
    """Those of dictionaries on the way to the leaves; lists and tuples may stand for each other."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    found = [[k.key for k in path if isinstance(k, jax.tree_util.DictKey)] for path, _ in paths]
    return [keys for keys in found if keys]


def _refuse_jumps(flat: Callable[..., Any], arrays: Sequence[Any]) -> None:
    varied = [jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in arrays]
    try:
        program = trace(lambda leaves: flat(*leaves), list(arrays), varied)
    except UnsupportedOperationError:  # the integrator needs less than the calculus
        return
    for site in program.sites:
        if site.kind == "jump" and site.operation not in ("argsort",):
            raise DiscontinuousError(
                f"{site.location}: the field executes '{site.operation}', which jumps. Only continuous fields "
                "have a flow with derivatives by this theory (no sliding modes, no saltation). Replace the "
                "operation, or integrate between its jumps."
            )


def _step(pieces: Pieces, options: Options, mesh: Mesh, k: Any, y: Any, theta: Any) -> Any:
    """The k-th step again, from y."""
    q, t, h = mesh.q[k], mesh.t[k], mesh.t[k + 1] - mesh.t[k]

    def f(t: Any, y: Any) -> Any:
        return pieces(q, t, y, *theta)

    return options.method.step(f, t, h, y, f(t, y)).y


def _flow(pieces: Pieces, options: Options, y0: Any, times: Any, theta: list[Any]) -> Mesh:
    """``integrate`` with a derivative in y0, times and theta, by the steps taken."""
    flows = [jnp.issubdtype(a.dtype, jnp.floating) for a in theta]
    still = [a for a, m in zip(theta, flows, strict=True) if not m]

    def whole(moving: Sequence[Any]) -> list[Any]:
        moves, rest = iter(moving), iter(still)
        return [next(moves) if m else next(rest) for m in flows]

    @jax.custom_jvp
    def solve(y0: Any, times: Any, moving: Any) -> Mesh:
        return integrate(pieces, y0, times, whole(moving), options)

    @jax.custom_jvp
    def solve_for_derivatives(y0: Any, times: Any, moving: Any) -> Mesh:
        return integrate(pieces, y0, times, whole(moving), options, probed=True)

    def rule(primals: Any, tangents: Any) -> Any:
        y0, times, moving = primals
        dy0, dtimes, dmoving = tangents
        mesh = solve_for_derivatives(y0, times, moving)
        felt = [not isinstance(d, SymbolicZero) for d in dmoving]
        dy0 = jnp.zeros_like(y0) if isinstance(dy0, SymbolicZero) else dy0
        timed = not isinstance(dtimes, SymbolicZero)
        if timed:
            dy0 = dy0 - dtimes[0] * pieces(mesh.q[0], times[0], y0, *whole(moving))

        def with_felt(some: Sequence[Any]) -> list[Any]:
            changed = iter(some)
            return whole([next(changed) if d else a for a, d in zip(moving, felt, strict=True)])

        some = [a for a, d in zip(moving, felt, strict=True) if d]
        dsome = [d for d, moves in zip(dmoving, felt, strict=True) if moves]
        dy = _tangents(pieces, options, mesh, some, with_felt, dy0, dsome)
        out = dy[mesh.saved]
        if timed:  # an output moves along the solution with its time
            ends = jax.vmap(lambda k, t: _slope_at(pieces, mesh, k, t, whole(moving)))
            out = out + dtimes[:, None] * ends(mesh.saved, times)
        # of no use to first derivatives, and dropped there: second ones see the crossings move
        dt, along = jax.vmap(
            lambda k, u: _crossing_moves(pieces, mesh, k, u, some, dsome, with_felt)
        )(jnp.arange(1, mesh.t.size), dy[1:])
        tangent = jax.tree.map(_no_tangent, mesh)._replace(
            y=dy.at[1:].add(along), t=jnp.concatenate([jnp.zeros_like(dt[:1]), dt]), out=out
        )
        return mesh, tangent

    solve.defjvp(rule, symbolic_zeros=True)
    solve_for_derivatives.defjvp(rule, symbolic_zeros=True)
    return solve(y0, times, [a for a, m in zip(theta, flows, strict=True) if m])


def _slope_at(pieces: Pieces, mesh: Mesh, k: Any, t: Any, theta: Any) -> Any:
    return pieces(mesh.q[jnp.maximum(k - 1, 0)], t, mesh.y[k], *theta)


def _crossing_moves(
    pieces: Pieces,
    mesh: Mesh,
    k: Any,
    u: Any,
    some: Sequence[Any],
    dsome: Sequence[Any],
    whole: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """How the k-th time moves, where it is that of a crossing z = 0, and the state: −ż/(dz/dt), times f."""
    slot, q, t, y = mesh.slot[k - 1], mesh.q[k - 1], mesh.t[k], mesh.y[k]
    if not pieces.count:
        return jnp.zeros_like(t), jnp.zeros_like(y)

    def z(t: Any, y: Any, some: Sequence[Any]) -> Any:
        return pieces.increments(q, t, y, *whole(some)).z[slot]

    f = pieces(q, t, y, *whole(some))
    moves = jax.jvp(z, (t, y, list(some)), (jnp.zeros_like(t), u, list(dsome)))[1]
    rate = jax.jvp(z, (t, y, list(some)), (jnp.ones_like(t), f, [0 * a for a in some]))[1]
    crossed = (slot >= 0) & (rate != 0)
    dt = jnp.where(crossed, -moves / jnp.where(crossed, rate, 1), 0)
    return dt, f * dt


def _tangents(
    pieces: Pieces,
    options: Options,
    mesh: Mesh,
    moving: Sequence[Any],
    whole: Callable[[Any], Any],
    dy0: Any,
    dmoving: Any,
) -> Any:
    """U_0 = ẏ0, U_{k+1} = DΦ_k (U_k, θ̇) at every step: a linear system in (U, θ̇), solved forwards or backwards.

    As ``custom_linear_solve`` it transposes into the adjoint, and differentiates again through the
    residual, which has no loop.
    """
    K = mesh.t.size - 1

    def push(k: Any, u: Any, w: Any) -> Any:
        def phi(y: Any, moving: Any) -> Any:
            return _step(pieces, options, mesh, k, y, whole(moving))

        return jax.jvp(phi, (mesh.y[k], list(moving)), (u, list(w)))[1]

    def residual(unknown: Any) -> Any:
        U, w = unknown
        used = (jnp.arange(K) < mesh.count)[:, None]
        pushed = jax.vmap(push, (0, 0, None))(jnp.arange(K), U[:-1], w)
        return jnp.concatenate([U[:1], U[1:] - jnp.where(used, pushed, 0)]), w

    def forwards(_: Any, b: Any) -> Any:
        U, w = b

        def one(k: Any, U: Any) -> Any:
            return U.at[k + 1].add(push(k, U[k], w))

        return lax.fori_loop(0, mesh.count, one, U), w

    def backwards(_: Any, b: Any) -> Any:
        U, w = b

        def one(i: Any, state: Any) -> Any:
            U, w = state
            k = mesh.count - 1 - i

            def phi(y: Any, moving: Any) -> Any:
                return _step(pieces, options, mesh, k, y, whole(moving))

            _, pull = jax.vjp(phi, mesh.y[k], list(moving))
            dy, dw = pull(U[k + 1])
            return U.at[k].add(dy), jax.tree.map(jnp.add, w, dw)

        return lax.fori_loop(0, mesh.count, one, (U, w))

    # JAX transposes the solve only if all of b is linear in the tangents: a constant zero is tied to them
    tie = 0 * (jnp.sum(dy0) + sum(jnp.sum(d).astype(dy0.dtype) for d in dmoving))
    b = (
        jnp.zeros((K + 1, dy0.size), dy0.dtype).at[0].set(dy0 + tie),
        [d + tie.astype(d.dtype) for d in dmoving],
    )
    return lax.custom_linear_solve(residual, b, forwards, backwards)[0]


def _no_tangent(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def _require_times(times: Any) -> None:
    if times.ndim != 1 or times.size < 2:
        raise InvalidInputError(
            f"times has shape {times.shape}: give two or more, the first being where x0 stands."
        )
    if isinstance(times, Tracer):
        return
    gaps = cast(np.ndarray, np.diff(np.asarray(times)))
    if not np.all(np.isfinite(gaps)) or not (np.all(gaps > 0) or np.all(gaps < 0)):
        raise InvalidInputError("times must be finite and strictly increasing, or decreasing.")


def require_solved(code: int, kink: int, options: Options) -> None:
    """Raise what a mesh's code says."""
    if code == stepping.SOLVED:
        return
    if code == stepping.JUMPS:
        raise DiscontinuousError(
            f"the field jumps where the trajectory crosses its kink number {kink} (in order of execution; "
            "cx.sites lists them): its pieces do not agree there. Only continuous fields have a flow with "
            "derivatives by this theory: no sliding modes, no saltation. Make the pieces agree."
        )
    if code == stepping.MAX_STEPS:
        raise NotConvergedError(
            f"max_steps={options.max_steps} steps did not reach the last time: either raise it, loosen rtol "
            "and atol, or look for a crossing that cannot be located, met again and again."
        )
    raise NotConvergedError(
        "the step fell below rounding, or the field is no number along the trajectory: the solution blows up, "
        "or the field is not Lipschitz there. Integrate to an earlier time, or bound the field."
    )
