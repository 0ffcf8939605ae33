"""``sensitivity_set``: all sensitivities of a flow whose trajectory may stay on kinks."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from ..calculus.tracing.invocation import Invocation, require_values
from ..errors import SelectionError, TooManyKinksError
from .integrate import Options, integrate
from .odeint import prepare, require_arrays, require_solved, settings
from .pieces import Pieces

_MOST = 6  # kinks stayed on at once: 2⁶ matrices a moment
_MOMENTS = 256  # at which a selection may change, over the whole time
_SWEEPS = 20


@dataclass(frozen=True)
class SensitivitySet:
    """{M(T) : Ṁ = A(t) M, M(0) = I, A(t) ∈ J(x(t))}, in flattened coordinates, (n, n).

    Attributes:
        matrix: the element that ``odeint``'s own derivative is.
        single: whether it is the only one: no kink is stayed on for a positive time.
        crossings: how many kinks were crossed.
        kinks: the kinks stayed on, by their number in order of execution.
        time: for how long some kink was stayed on.
        state: x(T), flat.
    """

    matrix: np.ndarray
    single: bool
    crossings: int
    kinks: tuple[int, ...]
    time: float
    state: np.ndarray
    _moments: tuple[np.ndarray, ...]
    _weights: tuple[np.ndarray, ...]

    def element(self, selection: Any) -> np.ndarray:
        """M(T) with constant weights at the kinks stayed on: "lower" (0), "upper" (1), or one for each.

        Raises SelectionError for weights other than 0 and 1, or of another number.
        """
        named = {"lower": 0.0, "upper": 1.0}
        if isinstance(selection, str) and selection not in named:
            raise SelectionError(f"selection={selection!r} is not 'lower', 'upper' or weights.")
        chosen = named[selection] if isinstance(selection, str) else selection
        weights = np.broadcast_to(np.asarray(chosen, float), (len(self.kinks),))
        if not np.all((weights == 0) | (weights == 1)):
            raise SelectionError("the weights of an element of the flow are 0 or 1 for each kink.")
        M = np.eye(len(self.matrix))
        for choices, table in zip(self._moments, self._weights, strict=True):
            M = choices[int(np.argmin(np.abs(table - weights[None]).sum(1)))] @ M
        return M

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise lower and upper bounds (n, n), each attained by a selection that switches in time.

        Exact where the set is single. Else extreme selections are searched, entry by entry, by sweeps
        along the time (each improves the entry): the true bounds lie at these numbers or beyond.

        Source: Pontryagin's principle: an extreme selection maximises pᵀ A(t) m at almost every t.
        """
        n = len(self.matrix)
        low, high = self.matrix.copy(), self.matrix.copy()
        if self.single:
            return low, high
        for i, j in itertools.product(range(n), range(n)):
            high[i, j] = max(self._extreme(np.eye(n)[i], j), high[i, j])
            low[i, j] = min(-self._extreme(-np.eye(n)[i], j), low[i, j])
        return low, high

    def _extreme(self, p: np.ndarray, column: int) -> float:
        best = -np.inf
        for start in (0, -1):
            chosen = [min(start % len(c), len(c) - 1) for c in self._moments]
            value = -np.inf
            for _ in range(_SWEEPS):
                states = [np.eye(len(p))[column]]
                for c, q in zip(self._moments, chosen, strict=True):
                    states.append(c[q] @ states[-1])
                dual = p
                for k in range(len(chosen) - 1, -1, -1):  # what comes later is chosen already
                    gains = self._moments[k] @ states[k] @ dual
                    chosen[k] = int(np.argmax(gains))
                    dual = dual @ self._moments[k][chosen[k]]
                now = float(dual[column])
                if now <= value + 1e-12 * (1 + abs(now)):
                    break
                value = now
            best = max(best, value)
        return best


def sensitivity_set(
    field: Callable[..., Any],
    x0: Any,
    t: Any,
    *args: Any,
    solver: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
) -> SensitivitySet:
    """All M(t) with Ṁ ∈ J(x(t)) M, M = I at the start: derivatives of the flow of ẋ = f(t, x) in x0.

    J is the conservative Jacobian of f in x. Crossings at isolated times, transversal or grazing, leave
    one M: the flow is differentiable. A set needs a trajectory that stays on a kink for a positive
    time; there the weight of each kink may change with time.

    Args:
        field, x0, args, solver, rtol, atol, max_steps: as in ``odeint``; values, no tracers.
        t: the last time, the first being 0, or a pair of times.

    Returns:
        A SensitivitySet: ``matrix``, ``single``, ``bounds()``, ``element(selection)``.

    Raises:
        What ``odeint`` raises; TooManyKinksError beyond 6 kinks stayed on at once.

    Source: Marx, Pauwels, Path differentiability of ODE flows (2022), Theorem 1; docs/theory.md#flows.

    >>> import jax, conservax as cx
    >>> sets = cx.flows.sensitivity_set(lambda t, x: jax.nn.relu(x), 0.0, 1.0)
    >>> low, high = sets.bounds()
    >>> sets.single, round(float(low[0, 0]), 3), round(float(high[0, 0]), 3)
    (False, 1.0, 2.718)
    """
    require_values([("x0", x0), ("t", t), ("args", args)], "sensitivity_set")
    x0, times, options = settings(
        x0,
        jnp.ravel(jnp.asarray([0.0, t] if np.ndim(t) == 0 else t)),
        solver,
        "jax",
        rtol,
        atol,
        max_steps,
    )
    require_arrays(args)
    call = Invocation.of(field, (times[0], x0, *args))
    key = ("sensitivity_set", type(options.method.solver).__name__, *options[1:])
    run = call.kept(key, lambda: jax.jit(functools.partial(_along, field, options)))
    mesh, at_nodes, steps = run(x0, times, args)
    require_solved(int(mesh.code), int(mesh.kink), options)
    count = int(mesh.count)
    n = mesh.y.shape[1]
    z, size = (np.asarray(a)[:count] for a in at_nodes)  # (count, 3, kinks)
    near = np.sqrt(np.finfo(mesh.y.dtype).eps) * (
        np.max(size, axis=(0, 1), initial=0.0) + 10 * options.atol
    )
    stays = np.all(np.abs(z) <= near, axis=1) if z.size else np.zeros((count, 0), bool)
    kinks = tuple(int(i) for i in np.flatnonzero(stays.any(0)))
    if len(kinks) > _MOST:
        raise TooManyKinksError(
            f"the trajectory stays on {len(kinks)} kinks; the set of its sensitivities is kept to {_MOST}. "
            "Start off them, or take odeint's one derivative."
        )
    maps = np.asarray(steps)[:count]
    matrix = functools.reduce(lambda M, S: S @ M, maps, np.eye(n))
    if not kinks:
        return SensitivitySet(
            matrix, True, int(mesh.crossings), (), 0.0, np.asarray(mesh.out[-1]), (), ()
        )
    jacobians = call.kept(
        (*key, "jacobians"), lambda: jax.jit(functools.partial(_jacobians, field))
    )
    ts = np.asarray(mesh.t)
    held = stays.any(1)
    spent = float(np.sum(np.abs(np.diff(ts[: count + 1])[held])))
    moments, weights = [], []
    for k in range(count):
        own = [i for i, kink in enumerate(kinks) if stays[k, kink]]
        if not own:
            moments.append(maps[k : k + 1])
            weights.append(np.full((1, len(kinks)), 0.5))
            continue
        table = np.full((1 << len(own), len(kinks)), 0.5)
        table[:, own] = list(itertools.product((0.0, 1.0), repeat=len(own)))
        q = np.repeat(np.asarray(mesh.q[k])[None], len(table), axis=0)
        q[:, [kinks[i] for i in own]] = table[:, own]
        parts = max(1, round(_MOMENTS * abs(ts[k + 1] - ts[k]) / spent))
        middles = ts[k] + (ts[k + 1] - ts[k]) * (np.arange(parts) + 0.5) / parts
        y0, y1 = np.asarray(mesh.y[k]), np.asarray(mesh.y[k + 1])
        for middle in middles:
            share = (middle - ts[k]) / (ts[k + 1] - ts[k])
            y = y0 + share * (y1 - y0)
            A = np.asarray(jacobians(x0, jnp.asarray(q), jnp.asarray(middle), jnp.asarray(y), args))
            moments.append(
                np.stack([scipy.linalg.expm((ts[k + 1] - ts[k]) / parts * a) for a in A])
            )
            weights.append(table)
    return SensitivitySet(
        matrix, False, int(mesh.crossings), kinks, spent, np.asarray(mesh.out[-1]),
        tuple(moments), tuple(weights),
    )  # fmt: skip


def _along(
    field: Callable[..., Any], options: Options, x0: Any, times: Any, args: tuple[Any, ...]
) -> tuple[Any, Any, Any]:
    """The mesh, increments and their sizes at each step's ends and middle, and each step's Jacobian."""
    problem = prepare(field, times[0], x0, args)
    pieces, theta = problem.pieces, problem.theta
    mesh = integrate(pieces, problem.y0, times, theta, options, probed=True)

    def of_step(k: Any) -> Any:
        q, t, h, y = mesh.q[k], mesh.t[k], mesh.t[k + 1] - mesh.t[k], mesh.y[k]

        def phi(h: Any, y: Any) -> Any:
            def f(t: Any, y: Any) -> Any:
                return pieces(q, t, y, *theta)

            return options.method.step(f, t, h, y, f(t, y)).y

        def seen(u: Any) -> Any:
            sides = pieces.increments(q, t + u * h, phi(u * h, y), *theta)
            return jnp.where(sides.grouped & (sides.q > 0), jnp.inf, sides.z), sides.size

        return jax.vmap(seen)(jnp.asarray([0.0, 0.5, 1.0], y.dtype)), jax.jacfwd(phi, 1)(h, y)

    found, steps = jax.lax.map(of_step, jnp.arange(mesh.q.shape[0]), batch_size=64)
    return mesh, found, steps


def _jacobians(
    field: Callable[..., Any], x0: Any, q: Any, t: Any, y: Any, args: tuple[Any, ...]
) -> jax.Array:
    """∂f/∂x at weights q (V, kinks): an array (V, n, n)."""
    problem = prepare(field, t, x0, args)
    pieces: Pieces = problem.pieces
    theta: Sequence[Any] = problem.theta
    return jax.vmap(lambda q: jax.jacfwd(lambda y: pieces(q, t, y, *theta))(y))(q)
