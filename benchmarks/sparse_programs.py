"""A sparse quadratic program beside a direct call of Clarabel on the same data.

    min ½xᵀPx + cᵀx  subject to  Ax ≤ b,  5,000 variables, 10,000 rows, 0.1 % of A filled

with P diagonal, in float64, in a process of its own for the peak memory. Every call has the rows in an order of
its own, for a system would find the factors of those before that were close; from a warm start they stay, and
c moves by 1 %.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from timing import milliseconds, peak_mib, ratio, warm

VARIABLES, ROWS, FILLED = 5_000, 10_000, 0.001
MOVED = 1e-2
ROUNDS = 5


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return 1


def run() -> dict[str, Any]:
    """The figures of this process."""
    import clarabel
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental.sparse import BCOO
    from scipy import sparse

    from conservax.programs import ConeProgram, Cones, WarmStart

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    shape = ROWS, VARIABLES
    A = sparse.random(
        *shape, FILLED, "coo", random_state=rng, data_rvs=lambda k: rng.normal(size=k)
    )
    P = sparse.diags(rng.uniform(0.5, 1.5, VARIABLES)).tocsc()
    b = A @ rng.normal(size=VARIABLES) + rng.uniform(0, 1, ROWS)
    c = 3 * rng.normal(size=VARIABLES)
    cold = ConeProgram(Cones(nonnegative=ROWS))
    warm_program = ConeProgram(Cones(nonnegative=ROWS), warm_start=WarmStart())

    def solve(
        c: jax.Array, entries: jax.Array, b: jax.Array, rows: jax.Array, program: ConeProgram = cold
    ) -> Any:
        indices = jnp.stack([rows, jnp.asarray(A.col)], axis=1)
        return program(P, c, BCOO((entries, indices), shape=shape), b)

    def shuffled() -> tuple[np.ndarray, ...]:
        order = rng.permutation(ROWS)
        return c, A.data, b[order], np.argsort(order)[A.row]

    def moved() -> tuple[np.ndarray, ...]:
        return c * (1 + MOVED * rng.uniform(-1, 1, VARIABLES)), A.data, b, A.row

    def certified(*data: jax.Array) -> tuple[jax.Array, jax.Array]:
        solution = solve(*data)
        return solution.primal, solution.info.verdict

    def squared(*data: jax.Array) -> jax.Array:
        return jnp.sum(solve(*data).primal ** 2)

    def compiled(
        fun: Callable[..., Any], data: Callable[[], tuple[np.ndarray, ...]] = shuffled
    ) -> Callable[[], Any]:
        run = jax.jit(fun)
        return lambda: run(*data())

    def direct(
        c: np.ndarray, entries: np.ndarray, b: np.ndarray, rows: np.ndarray, tolerance: float = 1e-8
    ) -> np.ndarray:
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        matrix = sparse.csc_matrix((entries, (rows, A.col)), shape=shape)
        kinds = [clarabel.NonnegativeConeT(ROWS)]
        return np.array(clarabel.DefaultSolver(P, c, matrix, b, kinds, settings).solve().x)

    contenders = {
        "Clarabel": lambda: direct(*shuffled()),
        "forward": compiled(lambda *data: solve(*data).primal),
        "gradient": compiled(jax.value_and_grad(squared, argnums=(0, 1, 2))),
        "certified": compiled(certified),
        "warm_start": compiled(lambda *data: solve(*data, warm_program).primal, moved),
    }
    times = warm(contenders, ROUNDS, lambda: None)
    data = shuffled()
    x, verdict = certified(*map(jnp.asarray, data))
    return {
        "benchmark": "sparse programs",
        "problem": f"QP, {A.nnz:,} entries in A",
        "unknowns": VARIABLES,
        "rows": ROWS,
        **{f"{name.lower()}_s": milliseconds(times, name) / 1e3 for name in contenders},
        "forward_ratio": ratio(times, "forward", "Clarabel"),
        "gradient_share": ratio(times, "gradient", "forward") - 1,
        "certificate_share": ratio(times, "certified", "forward") - 1,
        "verdict": int(verdict),
        "difference": float(np.abs(np.asarray(x) - direct(*data, tolerance=1e-12)).max()),
        "peak_mib": peak_mib(),
    }


def measure(tick: Any) -> list[dict[str, Any]]:
    """One row, measured in a fresh process."""
    out = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    tick()
    return [json.loads(out.stdout)]


def cells(row: dict[str, Any]) -> list[str]:
    """Of the table."""
    return [
        row["problem"],
        str(row["unknowns"]),
        str(row["rows"]),
        f"{row['clarabel_s']:.1f}",
        f"{row['forward_s']:.1f}",
        f"{row['forward_ratio']:.2f}",
        f"{100 * row['gradient_share']:+.0f} %",
        f"{100 * row['certificate_share']:+.0f} %",
        "proven" if row["verdict"] == 1 else "open",
        f"{row['difference']:.0e}",
        f"{row['warm_start_s']:.2f}",
        f"{row['peak_mib']:.0f}",
    ]


if __name__ == "__main__":
    print(json.dumps(run()))
