"""Cone and quadratic programs as layers, beside cvxpylayers' JAX layer with its default backend.

    dense QP         min ½‖x‖² + cᵀx  subject to  Gx ≤ h;  gradient in c, G, h
    second order     min ½‖x‖² + cᵀx  subject to  b_i − A_i x ∈ K⁵, i = 1 … 10;  in c, A, b
    semidefinite     min ½‖X − C‖²  subject to  X_ii = 1, X ≽ 0 (nearest correlation matrix);  in C

in float64, with the gradient of ‖x‖²; the objective's matrix is a constant to both.
conservax runs under ``jax.jit``, warm; cvxpylayers' layer knows neither jit nor vmap with this
backend, so it is called with its own batch axis and ``jax.value_and_grad`` eagerly, canonicalised
and warm. Without cvxpylayers only conservax is timed.
"""

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from timing import Tick, Times, first, milliseconds, ratio, warm

from conservax.programs import ConeProgram, Cones, QuadraticProgram

ROUNDS, OWN_ROUNDS = 7, 31  # beside the peer, and of conservax alone for the shares
DENSE = ((10, 10, 1), (50, 20, 64), (100, 100, 128), (200, 200, 16))  # unknowns, rows, batch
CONE, CONES, UNKNOWNS, BATCH = 5, 10, 50, 64  # dimension and number of second-order cones
ORDER, MATRICES = 20, 16  # of the correlation matrix, and batch
ALLOWED = {"primal": 1e-6, "gradient": 1e-6}
"""Differences, relative to the largest entry, from the peer's primal once its solver is accurate,
and of conservax's gradient from central differences of its primal, along one direction."""
STEP = 1e-6  # of the central differences
# not Clarabel: with it diffcp 1.1.9 misses finite differences of its own PSD solutions
ACCURATE = {"solve_method": "SCS", "eps": 1e-10, "max_iters": 500_000}

HAS_PEER = find_spec("cvxpylayers") is not None


class Problem(NamedTuple):
    """One family of programs.

    Attributes:
        name: as in the table. unknowns, rows: of one program.
        parameters: what is differentiated in, each with the batch axis in front.
        ours: parameters ↦ primal and verdict, for a batch.
        peer: () ↦ the parametrised problem, its parameters and its variable, in cvxpy.
    """

    name: str
    unknowns: int
    rows: int
    parameters: tuple[jax.Array, ...]
    ours: Callable[..., tuple[jax.Array, jax.Array]]
    peer: Callable[[], tuple[Any, list[Any], Any]]

    @property
    def batch(self) -> int:
        return len(self.parameters[0])


def dense_quadratic(n: int, m: int, batch: int) -> Problem:
    """x = 0 is feasible; a part of the rows of Gx ≤ h is active at the solution."""
    rng = np.random.default_rng(0)
    c, G = rng.normal(size=(batch, n)), rng.normal(size=(batch, m, n))
    h = rng.uniform(0.1, 1.0, size=(batch, m))

    def ours(c: jax.Array, G: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        solution = QuadraticProgram()(np.eye(n), c, G=G, h=h)
        return solution.primal, solution.info.verdict

    def peer() -> tuple[Any, list[Any], Any]:
        import cvxpy as cp

        c, G, h, x = cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
        return cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + c @ x), [G @ x <= h]), [c, G, h], x

    return Problem("dense QP", n, m, tuple(map(jnp.asarray, (c, G, h))), ours, peer)


def second_order(n: int, count: int, dim: int, batch: int) -> Problem:
    """x = 0 is strictly feasible, since b_i = (1, small)."""
    rng = np.random.default_rng(0)
    m = count * dim
    c, A = 3 * rng.normal(size=(batch, n)), rng.normal(size=(batch, m, n))
    b = 0.1 * rng.normal(size=(batch, m))
    b[:, ::dim] = 1.0

    def ours(c: jax.Array, A: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        solution = ConeProgram(Cones(second_order=(dim,) * count))(np.eye(n), c, A, b)
        return solution.primal, solution.info.verdict

    def peer() -> tuple[Any, list[Any], Any]:
        import cvxpy as cp

        c, A, b, x = cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
        s = b - A @ x
        inside = [cp.SOC(s[i], s[i + 1 : i + dim]) for i in range(0, m, dim)]
        return cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + c @ x), inside), [c, A, b], x

    name = f"{count} second-order cones of dimension {dim}"
    return Problem(name, n, m, tuple(map(jnp.asarray, (c, A, b))), ours, peer)


def correlation(order: int, batch: int) -> Problem:
    """C is a correlation matrix with noise: several eigenvalues of the solution are zero."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(batch, order, order // 2))
    gram = factors @ np.swapaxes(factors, 1, 2)
    scale = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    noise = 0.3 * rng.normal(size=gram.shape)
    C = gram / scale[:, :, None] / scale[:, None, :] + (noise + np.swapaxes(noise, 1, 2)) / 2

    # svec: the lower triangle, column by column, √2 off the diagonal
    columns, rows = np.triu_indices(order)
    weights = np.where(rows == columns, 1.0, np.sqrt(2.0))
    place = np.zeros((order, order), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    n = len(rows)
    A = np.vstack([np.eye(n)[rows == columns], -np.eye(n)])
    b = np.concatenate([np.ones(order), np.zeros(n)])
    program = ConeProgram(Cones(zero=order, semidefinite=(order,)))

    def ours(C: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = (C + jnp.swapaxes(C, 1, 2))[:, rows, columns] / 2 * weights
        solution = program(np.eye(n), -target, A, b)
        return (solution.primal / weights)[:, place], solution.info.verdict

    def peer() -> tuple[Any, list[Any], Any]:
        import cvxpy as cp

        C, X = cp.Parameter((order, order)), cp.Variable((order, order), symmetric=True)
        nearest = cp.Minimize(cp.sum_squares(X - C) / 2)
        return cp.Problem(nearest, [cp.diag(X) == 1, X >> 0]), [C], X

    name = f"nearest {order} × {order} correlation matrix"
    return Problem(name, n, order + n, (jnp.asarray(C),), ours, peer)


def problems() -> list[Problem]:
    """The sizes that the table shows."""
    return [
        *(dense_quadratic(*size) for size in DENSE),
        second_order(UNKNOWNS, CONES, CONE, BATCH),
        correlation(ORDER, MATRICES),
    ]


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return (len(DENSE) + 2) * (ROUNDS + OWN_ROUNDS + 1)


def differentiated(solve: Callable[..., jax.Array], problem: Problem) -> Callable[..., Any]:
    """‖x‖² and its gradient in all parameters."""
    every = tuple(range(len(problem.parameters)))
    return jax.value_and_grad(lambda *data: jnp.sum(solve(*data) ** 2), argnums=every)


def peer_layer(problem: Problem, **solver: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """cvxpylayers' solution, and ‖x‖² with its gradient; ``solver`` goes to its solver."""
    from cvxpylayers.jax import CvxpyLayer

    stated, parameters, variable = problem.peer()
    layer = CvxpyLayer(stated, parameters=parameters, variables=[variable], solver_args=solver)

    def solve(*data: jax.Array) -> jax.Array:
        return layer(*data)[0]

    return solve, differentiated(solve, problem)


def relative(found: Any, reference: Any) -> float:
    """The largest difference over all leaves, relative to the leaf's largest entry."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


def slope(value: Callable[..., jax.Array], at: tuple[Any, ...], along: tuple[Any, ...]) -> Any:
    """The derivative of ``value`` along a direction by a central difference."""
    ahead, behind = (
        value(*(a + sign * STEP * v for a, v in zip(at, along, strict=True))) for sign in (1, -1)
    )
    return (ahead - behind) / (2 * STEP)


def accuracy(problem: Problem, items: int = 2) -> dict[str, float]:
    """Errors on the first items: of both primals against each other and of both gradients.

    conservax's gradient is held against central differences along a direction that has equal
    shares of the gradient and of noise; the peer's, as it was timed, against conservax's.

    Raises:
        AssertionError: one that conservax answers for is larger than ALLOWED.
    """
    few = problem._replace(parameters=tuple(part[:items] for part in problem.parameters))
    data = few.parameters
    primal = jax.jit(lambda *data: few.ours(*data)[0])
    gradient = jax.jit(differentiated(primal, few))(*data)[1]

    rng = np.random.default_rng(0)
    noise = [rng.normal(size=part.shape) for part in data]
    size, spread = (sum(float(jnp.sum(p**2)) for p in parts) ** 0.5 for parts in (gradient, noise))
    along = tuple(g / size + v / spread for g, v in zip(gradient, noise, strict=True))
    expected = slope(lambda *data: jnp.sum(primal(*data) ** 2), data, along)
    found = sum(jnp.vdot(g, v) for g, v in zip(gradient, along, strict=True))
    errors = {
        "primal": relative(peer_layer(few, **ACCURATE)[0](*data), primal(*data)),
        "gradient": relative(found, expected),
        "peer gradient": relative(peer_layer(few)[1](*data)[1], gradient),
    }
    for what, allowed in ALLOWED.items():
        assert errors[what] <= allowed, f"{problem.name}: {what} is {errors[what]:.1e} off"
    return errors


def share(times: Times, whole: str, part: str) -> float:
    """Median over the rounds of what ``whole`` takes beyond ``part``, as a share of ``part``."""
    pairs = zip(times[whole], times[part], strict=True)
    return statistics.median((a - b) / b for a, b in pairs)


def measure_problem(problem: Problem, tick: Tick) -> dict:
    """Times in milliseconds, shares of the forward solve, and how many times faster than the peer."""
    data = problem.parameters

    def build_forward() -> Callable[[], Any]:
        # the verdict is not returned, so XLA drops its two tests
        solve = jax.jit(lambda *data: problem.ours(*data)[0])
        return lambda: solve(*data)

    def build_certified() -> Callable[[], Any]:
        solve = jax.jit(problem.ours)
        return lambda: solve(*data)

    def build_gradient() -> Callable[[], Any]:
        gradient = jax.jit(differentiated(lambda *data: problem.ours(*data)[0], problem))
        return lambda: gradient(*data)

    builders = {
        "forward": build_forward,
        "certified": build_certified,
        "gradient": build_gradient,
    }
    cold = first(builders, 1, tick)
    contenders = {name: build() for name, build in builders.items()}
    own = warm(contenders, OWN_ROUNDS, tick)
    if HAS_PEER:
        solve, gradient = peer_layer(problem)
        contenders |= {
            "peer forward": lambda: solve(*data),
            "peer gradient": lambda: gradient(*data),
        }
    hot = warm(contenders, ROUNDS, tick)
    verdicts = np.asarray(contenders["certified"]()[1])
    row: dict = {
        "benchmark": "programs",
        "problem": problem.name,
        "unknowns": problem.unknowns,
        "rows": problem.rows,
        "batch": problem.batch,
        "conservax": {
            "forward_ms": milliseconds(hot, "forward"),
            "gradient_ms": milliseconds(hot, "gradient"),
            "first_forward_ms": milliseconds(cold, "forward"),
            "first_gradient_ms": milliseconds(cold, "gradient"),
            "gradient_share": share(own, "gradient", "forward"),
            "certificate_share": share(own, "certified", "forward"),
            "proven": int(np.sum(verdicts == 1)),
        },
        "cvxpylayers": None,
    }
    if HAS_PEER:
        row["cvxpylayers"] = {
            "forward_ms": milliseconds(hot, "peer forward"),
            "gradient_ms": milliseconds(hot, "peer gradient"),
        }
        row["times_faster_forward"] = ratio(hot, "peer forward", "forward")
        row["times_faster_gradient"] = ratio(hot, "peer gradient", "gradient")
        row["errors"] = accuracy(problem)
    return row


def measure(tick: Tick) -> list[dict]:
    """One row for each problem; without cvxpylayers its cells stay empty."""
    if not HAS_PEER:
        print("cvxpylayers is not installed: only conservax is timed (pip install -e '.[bench]')")
    return [measure_problem(problem, tick) for problem in problems()]


def speeds(row: dict) -> list[str]:
    """The cells of a row in the table of speeds."""
    ours, peer = row["conservax"], row["cvxpylayers"]
    times = [f"{ours[key]:.3g}" for key in ("forward_ms", "gradient_ms")]
    theirs = [f"{peer[key]:.3g}" if peer else "–" for key in ("forward_ms", "gradient_ms")]
    faster = [
        f"{row[key]:.1f}" if peer else "–"
        for key in ("times_faster_forward", "times_faster_gradient")
    ]
    sizes = [str(row[key]) for key in ("unknowns", "rows", "batch")]
    return [row["problem"], *sizes, *times, *theirs, *faster]


def shares(row: dict) -> list[str]:
    """The cells of a row in the table of shares and errors."""
    ours = row["conservax"]
    parts = [f"{100 * ours[key]:+.0f} %" for key in ("gradient_share", "certificate_share")]
    first_calls = [f"{ours[key] / 1000:.1f}" for key in ("first_forward_ms", "first_gradient_ms")]
    errors = [
        f"{row['errors'][key]:.0e}" if "errors" in row else "–"
        for key in ("primal", "gradient", "peer gradient")
    ]
    name = f"{row['problem']}, {row['unknowns']} × {row['rows']}"
    proven = f"{ours['proven']} of {row['batch']}"
    return [name, str(row["batch"]), *parts, proven, *first_calls, *errors]
