"""Programs beside Moreau's JAX front and cvxpylayers' back ends: forward and gradient, warm and first calls.

Contenders take turns in one process; first calls, imports excluded, each in a process of its own. Answers
are held against ours: a peer whose primal is off by more than 1e-5 is named so. ``python solvers.py first
ROW CONTENDER`` prints the seconds of one first call.
"""

import functools
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array

from conservax.programs import ConeProgram, Cones

ROUNDS = 7
ENOUGH = 3.0  # seconds of one contender
WRONG = 1e-5  # how far a primal may be off ours
HERE = Path(__file__)


class Row(NamedTuple):
    """A batch of programs in our form, b and c by item; P and A by item, or shared."""

    name: str
    cones: Cones
    P: np.ndarray
    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    sparse: bool = False  # whether P and A are handed over as sparse matrices

    def matrices(self) -> tuple[Any, Any]:
        """P and A as they are handed over."""
        return (csr_array(self.P), csr_array(self.A)) if self.sparse else (self.P, self.A)


def dense(n: int, m: int, batch: int, curved: bool = True) -> Row:
    """½‖x‖² + cᵀx, or cᵀx, over Gx ≤ h, G of each item its own."""
    rng = np.random.default_rng(0)
    G, x = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, n)) / np.sqrt(n)
    h = np.einsum("bmn,bn->bm", G, x) + rng.uniform(0.1, 1, size=(batch, m))
    P, c = np.eye(n), 2 * rng.normal(size=(batch, n))
    if not curved:
        P, c = np.zeros((n, n)), -np.einsum("bmn,bm->bn", G, rng.uniform(size=(batch, m)))
    name = f"{'QP' if curved else 'LP'} ({n}, {m}, {batch})"
    return Row(name, Cones(nonnegative=m), P, c, G, h)


def second_order(batch: int = 64, n: int = 50, count: int = 10, size: int = 5) -> Row:
    """½‖x‖² + cᵀx over second-order cones."""
    rng = np.random.default_rng(1)
    A = rng.normal(size=(batch, count * size, n))
    inside = np.tile(np.eye(size)[0], count)
    b = np.einsum("bmn,bn->bm", A, rng.normal(size=(batch, n)) / n) + inside
    cones = Cones(second_order=(size,) * count)
    return Row(
        f"{count} second-order cones of {size}, {batch}",
        cones,
        np.eye(n),
        rng.normal(size=(batch, n)),
        A,
        b,
    )


def correlation(batch: int = 16, order: int = 20) -> Row:
    """The nearest correlation matrix, in svec coordinates."""
    rng = np.random.default_rng(2)
    rows, columns = np.triu_indices(order)
    weights = np.where(rows == columns, 1.0, np.sqrt(2))
    noise = rng.normal(size=(batch, order, order))
    C = np.eye(order) + (noise + noise.transpose(0, 2, 1)) / 4
    c = -C[:, columns, rows] * weights
    diagonal = np.eye(len(rows))[rows == columns]
    A = np.vstack([diagonal, -np.eye(len(rows))])
    b = np.concatenate([np.ones(order), np.zeros(len(rows))])
    cones = Cones(zero=order, semidefinite=(order,))
    return Row(f"correlation matrix {order}, {batch}", cones, np.eye(len(rows)), c, A, b)


def entropy(batch: int = 32, n: int = 20) -> Row:
    """min cᵀx + Σ x log x on the simplex: −t ≤ entr, in exponential cones."""
    rng = np.random.default_rng(3)
    c = np.concatenate([rng.normal(size=(batch, n)), np.ones((batch, n))], axis=1)
    eye, zero = np.eye(n), np.zeros((n, n))
    # (−t, x, 1) ∈ K: x exp(−t/x) ≤ 1
    blocks = np.stack([np.hstack([zero, eye]), np.hstack([-eye, zero]), np.zeros((n, 2 * n))], 1)
    A = np.vstack([np.concatenate([np.ones(n), np.zeros(n)])[None], blocks.reshape(3 * n, 2 * n)])
    b = np.concatenate([[1.0], np.tile([0.0, 0.0, 1.0], n)])
    return Row(
        f"entropy {n}, {batch}", Cones(zero=1, exponential=n), np.zeros((2 * n, 2 * n)), c, A, b
    )


def control(batch: int = 16, steps: int = 30, states: int = 6, limit: float = 0.5) -> Row:
    """Predictive control: x₀ known, x_{t+1} = Fx_t + Bu_t, |u_t| ≤ limit, −q ≤ x₃₀ ≤ p.

    z = (x₀, …, x₃₀, u₀, …, u₂₉, p, q), 228 variables; c prices them.
    """
    rng = np.random.default_rng(4)
    F = 0.95 * np.linalg.qr(rng.normal(size=(states, states)))[0]
    B, of_x = rng.normal(size=states), states * (steps + 1)
    n, eye = of_x + steps + 2 * states, np.eye(states)
    moves = np.zeros((of_x, n))
    moves[:, :of_x] = np.eye(of_x)
    for t in range(steps):
        rows = slice(states * (t + 1), states * (t + 2))
        moves[rows, states * t : states * (t + 1)] = -F
        moves[rows, of_x + t] = -B
    inputs = np.eye(n)[of_x : of_x + steps]
    last = np.zeros((2 * states, n))
    last[:, of_x - states : of_x] = np.vstack([eye, -eye])
    last[:, of_x + steps :] = -np.eye(2 * states)
    A = np.vstack([moves, inputs, -inputs, last])
    P = np.diag(np.concatenate([np.ones(of_x), np.full(steps, 0.1), np.full(2 * states, 10.0)]))
    b = np.zeros((batch, len(A)))
    b[:, :states] = 3 * rng.normal(size=(batch, states))
    b[:, of_x : of_x + 2 * steps] = limit
    cones = Cones(zero=of_x, nonnegative=2 * (steps + states))
    c = 0.1 * rng.normal(size=(batch, n))
    return Row(f"control of {steps} steps ({n}, {len(A)}, {batch})", cones, P, c, A, b, sparse=True)


def portfolio(batch: int = 4, assets: int = 500, factors: int = 20) -> Row:
    """½wᵀΣw − μᵀw over the simplex, Σ of factors and a diagonal; c = −μ."""
    rng = np.random.default_rng(5)
    F = rng.normal(size=(assets, factors)) / np.sqrt(factors)
    P = F @ F.T + np.diag(rng.uniform(0.1, 0.5, size=assets))
    A = np.vstack([np.ones(assets), -np.eye(assets)])
    b = np.concatenate([[1.0], np.zeros(assets)])
    c = -0.3 * rng.normal(size=(batch, assets))
    cones = Cones(zero=1, nonnegative=assets)
    return Row(f"portfolio of {assets} ({assets}, {assets + 1}, {batch})", cones, P, c, A, b)


ROWS: dict[str, Callable[[], Row]] = {
    "qp_10": functools.partial(dense, 10, 10, 1),
    "qp_50": functools.partial(dense, 50, 20, 64),
    "qp_100": functools.partial(dense, 100, 100, 128),
    "qp_200": functools.partial(dense, 200, 200, 16),
    "lp_50": functools.partial(dense, 50, 100, 64, False),
    "second_order": second_order,
    "correlation": correlation,
    "entropy": entropy,
    "control": control,
    "portfolio": portfolio,
}
Pair = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def ours(row: Row, solver: str = "auto") -> Pair:
    """c ↦ x, and ∇ Σ x² in c, jitted."""
    program = ConeProgram(row.cones, solver=solver)  # type: ignore[arg-type]
    P, A = row.matrices()

    def solve(c: Any) -> Any:
        return program(P, c, A, row.b).primal

    return jax.jit(solve), jax.jit(jax.grad(lambda c: jnp.sum(solve(c) ** 2)))


def eager(row: Row) -> Pair:
    """The same without jit."""
    program = ConeProgram(row.cones)
    P, A = row.matrices()

    def solve(c: Any) -> Any:
        return program(P, c, A, row.b).primal

    return solve, jax.grad(lambda c: jnp.sum(solve(c) ** 2))


def moreau(row: Row) -> Pair:
    """Its own JAX front, where it has the cones."""
    import moreau as package
    from moreau.jax import Solver as MoreauSolver

    cones = row.cones
    if cones.semidefinite:
        raise NotImplementedError("its public cones have no semidefinite one")
    batch, n = row.c.shape
    m = cones.size
    own = package.Cones(
        num_zero_cones=cones.zero,
        num_nonneg_cones=cones.nonnegative,
        so_cone_dims=list(cones.second_order),
        num_exp_cones=cones.exponential,
    )
    if row.sparse:
        of_P, of_A = row.matrices()
        starts, rows = (of_P.indptr, of_P.indices), (of_A.indptr, of_A.indices)
        P, A = jnp.asarray(of_P.data), jnp.asarray(of_A.data)
    else:
        starts = np.arange(0, n * n + 1, n), np.tile(np.arange(n), n)
        rows = np.arange(0, n * m + 1, n), np.tile(np.arange(n), m)
        P = jnp.asarray(row.P).reshape(-1)
        A = jnp.asarray(row.A).reshape(*row.A.shape[:-2], -1)
    settings = package.Settings(device="cpu", enable_grad=True, batch_size=batch)
    solver = MoreauSolver(n, m, *starts, *rows, cones=own, settings=settings)
    P = jnp.broadcast_to(P, (batch, P.shape[-1]))
    A = jnp.broadcast_to(A, (batch, A.shape[-1]))
    b = jnp.broadcast_to(jnp.asarray(row.b), (batch, m))

    def solve(c: Any) -> Any:
        return solver.solve(P, A, c, b).x

    return jax.jit(solve), jax.jit(jax.grad(lambda c: jnp.sum(solve(c) ** 2)))


def entries(order: int) -> np.ndarray:
    """The map from svec coordinates to the entries of the matrix."""
    rows, columns = np.triu_indices(order)
    weights = np.where(rows == columns, 1.0, np.sqrt(0.5))
    found = np.zeros((order, order, len(rows)))
    found[rows, columns, np.arange(len(rows))] = weights
    found[columns, rows, np.arange(len(rows))] = weights
    return found.reshape(order * order, len(rows))


def cvxpylayer(row: Row, solver: str) -> Pair:
    """cvxpylayers' JAX layer with this back end; under jit it is not to be had with all of them."""
    import cvxpy as cp
    from cvxpylayers.jax import CvxpyLayer as Peer

    cones, n = row.cones, row.c.shape[-1]
    x, c = cp.Variable(n), cp.Parameter(n)
    per_item = row.A.ndim > 2
    A = cp.Parameter(row.A.shape[-2:]) if per_item else row.matrices()[1]
    b = cp.Parameter(row.b.shape[-1]) if row.b.ndim > 1 else row.b
    s = b - A @ x
    limits = [s[: cones.zero] == 0] if cones.zero else []
    start = cones.zero + cones.nonnegative
    limits += [s[cones.zero : start] >= 0] if cones.nonnegative else []
    for size in cones.second_order:
        limits.append(cp.SOC(s[start], s[start + 1 : start + size]))
        start += size
    for order in cones.semidefinite:
        of_entries = entries(order)
        part = s[start : start + of_entries.shape[1]]
        limits.append(cp.reshape(of_entries @ part, (order, order), order="C") >> 0)
        start += of_entries.shape[1]
    for _ in range(cones.exponential):
        limits.append(cp.ExpCone(s[start], s[start + 1], s[start + 2]))
        start += 3
    curved = cp.quad_form(x, cp.psd_wrap(row.P)) / 2 if row.P.any() else 0
    problem = cp.Problem(cp.Minimize(curved + c @ x), limits)
    known = [(p, v) for p, v in ((A, row.A), (b, row.b)) if isinstance(p, cp.Parameter)]
    layer = Peer(problem, [c, *(p for p, _ in known)], [x], solver=solver)
    rest = [jnp.asarray(value) for _, value in known]

    def solve(c: Any) -> Any:
        return layer(c, *rest)[0]

    return solve, jax.grad(lambda c: jnp.sum(solve(c) ** 2))


CONTENDERS: dict[str, Callable[[Row], Pair]] = {
    "conservax": ours,
    "conservax, eager": eager,
    "conservax, Clarabel": functools.partial(ours, solver="clarabel"),
    "Moreau": moreau,
    "cvxpylayers, diffcp": functools.partial(cvxpylayer, solver="DIFFCP"),
    "cvxpylayers, Moreau": functools.partial(cvxpylayer, solver="MOREAU"),
}
_NEEDS = {"Moreau": ("moreau.jax",), "cvxpylayers, diffcp": ("cvxpylayers.jax", "diffcp")}
_NEEDS["cvxpylayers, Moreau"] = ("cvxpylayers.jax", "moreau.jax")


def median_ms(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Of calls in turns; a slow one sits out once it has had two turns and its seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            if len(times[name]) > 1 and sum(times[name]) > ENOUGH:
                continue
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(own)) for name, own in times.items()}


def first_call_s(row: str, contender: str) -> float | None:
    """Seconds to value and gradient in a fresh process, imports excluded."""
    command = [sys.executable, str(HERE), "first", row, contender]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def rounds() -> int:
    """Rows to measure."""
    return len(ROWS)


def measure(advance: Callable[[], Any], names: tuple[str, ...] = tuple(ROWS)) -> list[dict]:
    """A row for each program: forward, forward and gradient, first call, distance to ours."""
    results = []
    for key in names:
        row = ROWS[key]()
        c = jnp.asarray(row.c)
        pairs: dict[str, Pair] = {}
        for name, make in CONTENDERS.items():
            if any(
                importlib.util.find_spec(need.split(".")[0]) is None
                for need in _NEEDS.get(name, ())
            ):
                continue
            try:
                pair = make(row)
                jax.block_until_ready([part(c) for part in pair])
                pairs[name] = pair
            except Exception as error:
                print(f"{row.name}: {name}: {type(error).__name__}: {error}", file=sys.stderr)
        x = np.asarray(pairs["conservax"][0](c))
        forward = median_ms({name: functools.partial(f, c) for name, (f, _) in pairs.items()})
        both = median_ms({name: functools.partial(g, c) for name, (_, g) in pairs.items()})
        results.append(
            {
                "benchmark": "solvers",
                "problem": row.name,
                **{
                    name: {
                        "forward_ms": forward[name],
                        "gradient_ms": both[name],
                        "first_call_s": first_call_s(key, name),
                        "off_by": float(np.abs(np.asarray(f(c)) - x).max()),
                    }
                    for name, (f, _) in pairs.items()
                },
            }
        )
        advance()
    return results


def cells(row: dict) -> list[str]:
    """Of the table: a pair for each contender."""
    found = [row["problem"]]
    for name in CONTENDERS:
        own = row.get(name)
        if own is None:
            found += ["", ""]
            continue
        wrong = "" if own["off_by"] <= WRONG else f", **x off by {own['off_by']:.0e}**"
        first = own["first_call_s"]
        found.append(f"{own['forward_ms']:.3g} / {own['gradient_ms']:.3g}{wrong}")
        found.append("" if first is None else f"{first:.2f}")
    return found


def first(row: str, contender: str) -> None:
    """Prints the seconds of the first value and gradient."""
    jax.config.update("jax_enable_x64", True)
    for need in _NEEDS.get(contender, ()):
        importlib.import_module(need)
    data = ROWS[row]()
    c = jnp.asarray(data.c)
    jax.block_until_ready(jax.jit(lambda c: c + 1)(c))  # JAX itself is up
    start = time.perf_counter()
    jax.block_until_ready([part(c) for part in CONTENDERS[contender](data)])
    print(time.perf_counter() - start)


if __name__ == "__main__":
    if sys.argv[1:2] == ["first"]:
        first(*sys.argv[2:4])
    else:
        jax.config.update("jax_enable_x64", True)
        chosen = tuple(sys.argv[1:]) or tuple(ROWS)
        print(json.dumps(measure(lambda: None, chosen), indent=1))
