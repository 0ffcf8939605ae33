"""The solver on programs of known status, against Clarabel: ``make robustness``.

Each program is solved in a batch with all other families of its shape, by the interior-point method,
by the layer on top of it, and by the layer on top of Clarabel. Answers are judged in the units of the
program before scaling, where data and solutions are of unit size. Run from ``tests`` as
``python -m programs.robustness 2000 2``: programs per cone, processes.
"""

import functools
import itertools
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from conservax.cones.table import Cones
from conservax.programs import ConeProgram
from conservax.solution import Status
from conservax.solvers import interior_point
from programs.clarabel_oracle import clarabel_answer
from programs.random_programs import (
    FAMILIES,
    SHAPES,
    Program,
    applies,
    least_eigenvalue,
    random_program,
)

BATCH = 200
SHARES = (0.5, 0.3, 0.2)  # of the shapes of a cone
SOLVED_TO = 1e-6  # residuals, relative; the solver's tolerance is 1.5e-8
SCALED_TO = 1e-4  # of the bare solver, whose tolerance is met in a scaling that is not ours
CERTIFIED_TO = 1e-4  # of a certificate of length one; no feasible point is smaller than 10,000
NEARLY_CERTIFIED_TO = 5e-3  # where the program is a thousandth from being feasible
DECIDED = (Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)


class Case(NamedTuple):
    """Where a program comes from: enough to draw it again."""

    cone: str
    shape: int
    family: str
    seed: int

    def program(self) -> tuple[Program, Cones]:
        cones, n = SHAPES[self.cone][self.shape]
        return random_program(self.family, cones, n, self.seed), cones

    def __str__(self) -> str:
        cones, n = SHAPES[self.cone][self.shape]
        return f"random_program({self.family!r}, {cones}, {n}, {self.seed})"


class Answers(NamedTuple):
    """Of a batch, as NumPy arrays."""

    primal: np.ndarray
    dual: np.ndarray
    slack: np.ndarray
    status: np.ndarray
    iterations: np.ndarray


class Finding(NamedTuple):
    """One program, one solver. Errors are NaN where they do not apply; a fault is a sentence."""

    case: Case
    solver: str
    outcome: str  # right, wrong or unsolved
    residual: float
    certificate: float
    value_error: float
    solution_error: float
    value_to_clarabel: float
    solution_to_clarabel: float
    iterations: int
    milliseconds: float
    fault: str


def by_interior_point(data, cones: Cones) -> Answers:
    """Failed items hand out a certificate, or the best point met."""
    found = interior_point(*data, cones)
    return Answers(*map(np.asarray, (*found.value, found.status, found.stats.iterations)))


def by_layer(data, cones: Cones, solver: Literal["auto", "clarabel"] = "auto") -> Answers:
    """Failed items are NaN."""
    found = ConeProgram(cones, solver=solver)(*data)
    info = found.info
    return Answers(*map(np.asarray, (*found[:3], info.status, info.iterations)))


SOLVERS = {
    "interior_point": by_interior_point,
    "ConeProgram": by_layer,
    "ConeProgram, Clarabel": functools.partial(by_layer, solver="clarabel"),
}


def cases(cone: str, shape: int, count: int) -> list[Case]:
    """All families in turn, then the next seed."""
    cones, _ = SHAPES[cone][shape]
    families = [name for name in FAMILIES if applies(name, cones)]
    rounds = ((family, seed) for seed in itertools.count() for family in families)
    return [Case(cone, shape, *pick) for pick in itertools.islice(rounds, count)]


def examine(cone: str, shape: int, count: int) -> list[Finding]:
    """Solve ``count`` programs of one shape and judge every answer."""
    drawn = cases(cone, shape, count)
    cones, _ = SHAPES[cone][shape]
    programs = [case.program()[0] for case in drawn]
    size = -(-count // -(-count // BATCH))
    findings = []
    for name, solve in SOLVERS.items():
        for start in range(0, count, size):
            # the last batch takes some of the one before, so that all have one shape
            chosen = slice(max(0, min(start, count - size)), min(start + size, count))
            columns = zip(*(p[:4] for p in programs[chosen]), strict=True)
            with jax.enable_x64(True):
                data = tuple(jnp.asarray(np.stack(part)) for part in columns)
                if start == 0:
                    solve(data, cones)  # compile
                began = time.perf_counter()
                answers = solve(data, cones)
                each = 1e3 * (time.perf_counter() - began) / size
            for at in range(start, chosen.stop):
                own = Answers(*(part[at - chosen.start] for part in answers))
                findings.append(judge(drawn[at], programs[at], cones, own, name, each))
    return findings


def judge(
    case: Case, program: Program, cones: Cones, answer: Answers, solver: str, each: float
) -> Finding:
    """An answer against what is known by construction and against Clarabel's."""
    status = Status(int(answer.status))
    plain = program.unscaled()
    nan = float("nan")
    outcome = "right" if status in program.right else "wrong" if status in DECIDED else "unsolved"
    numbers = [nan] * 6
    fault = "" if outcome != "wrong" else f"{status.name} is wrong"
    finite = all(np.all(np.isfinite(part)) for part in answer[:3])
    if not finite and (status == Status.SOLVED or solver == "interior_point"):
        fault = f"not finite, with status {status.name}"
    elif finite and status == Status.SOLVED:
        x, y, s = program.to_unscaled(*answer[:3])
        numbers[0] = residual(plain, cones, x, y, s)
        bare = solver == "interior_point" and case.family.startswith("scaled")
        if not numbers[0] <= (SCALED_TO if bare else SOLVED_TO):
            fault = fault or f"SOLVED is no solution: {numbers[0]:.1e}"
        if outcome == "right":
            numbers[2:] = errors(plain, cones, x, y)
    elif finite and status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
        if solver == "interior_point":
            numbers[1] = certificate(plain, cones, status, program.to_unscaled(*answer[:3]))
            nearly = case.family.endswith("nearly")
            if not numbers[1] <= (NEARLY_CERTIFIED_TO if nearly else CERTIFIED_TO):
                fault = fault or f"no certificate of {status.name}: {numbers[1]:.1e}"
        else:
            fault = fault or f"{status.name}, but not NaN"
    return Finding(case, solver, outcome, *numbers, int(answer.iterations), each, fault)


def residual(p: Program, cones: Cones, x, y, s) -> float:
    """The largest violation of the optimality conditions, relative to their terms or to one."""
    Px, Aty, Ax = p.P @ x, p.A.T @ y, p.A @ x
    primal = np.abs(Ax + s - p.b).max() / _size(Ax, s, p.b)
    dual = np.abs(Px + Aty + p.c).max() / _size(Px, Aty, p.c)
    outside = -least_eigenvalue(cones, s) / _size(s)
    outside = max(outside, -least_eigenvalue(cones, y) / _size(y))
    outside = max(outside, np.abs(s[: cones.zero]).max(initial=0.0) / _size(s))
    gap = abs(s @ y) / _size(x @ Px, p.c @ x, p.b @ y)
    return float(max(primal, dual, outside, gap))


def _size(*terms) -> float:
    return max(1.0, *(float(np.abs(term).max()) for term in terms))


def errors(p: Program, cones: Cones, x, y) -> tuple[float, float, float, float]:
    """Of value and solution, to what is known and to Clarabel's; solutions only where unique."""

    def apart(primal, dual):
        found = [np.abs(x - primal).max() / _size(primal)] if p.unique_primal else []
        found += [np.abs(y - dual).max() / _size(dual)] if p.unique_dual else []
        return max(found, default=float("nan"))

    value = x @ p.P @ x / 2 + p.c @ x
    size = _size(x @ p.P @ x, p.c @ x, p.b @ p.dual)
    theirs = clarabel_answer(p.P, p.c, p.A, p.b, cones)
    known = abs(value - p.value) / size, apart(p.primal, p.dual)
    if theirs.status != Status.SOLVED:
        return *known, float("nan"), float("nan")
    return *known, abs(value - theirs.value) / size, apart(theirs.primal, theirs.dual)


def certificate(p: Program, cones: Cones, status: Status, point) -> float:
    """How far a certificate, of length one in the objective, is from being exact.

    With this number q no feasible x has ‖x‖₁ < 1/q; for unboundedness, no feasible y.
    """
    x, y, _ = point
    if status == Status.PRIMAL_INFEASIBLE:
        y = y / -(p.b @ y)
        outside = -least_eigenvalue(cones, y) / _size(y)
        return float(max(np.abs(p.A.T @ y).max(), outside))
    x = x / -(p.c @ x)
    Ax = p.A @ x
    equalities = np.abs(Ax[: cones.zero]).max(initial=0.0)
    return float(max(np.abs(p.P @ x).max(), equalities, -least_eigenvalue(cones, -Ax)))


def tasks(per_cone: int) -> Iterator[tuple[str, int, int]]:
    """Cone, shape, number of programs."""
    for cone, shapes in SHAPES.items():
        for shape, share in zip(range(len(shapes)), SHARES, strict=True):
            yield cone, shape, round(share * per_cone)


def summary(cone: str, solver: str, findings: list[Finding]) -> Table:
    """A line per family."""
    table = Table(title=f"{cone}, {solver}", title_justify="left")
    columns = (
        "family programs right unsolved wrong faults residual certificate value value′ solution"
    )
    for name in [*columns.split(), "solution′", "iterations"]:
        table.add_column(name, justify="left" if name == "family" else "right")
    groups = defaultdict(list)
    for finding in findings:
        groups[finding.case.family].append(finding)
    for family in [name for name in FAMILIES if name in groups]:
        group = groups[family]
        outcomes = Counter(f.outcome for f in group)
        worst = (
            max((v for f in group if not np.isnan(v := getattr(f, name))), default=None)
            for name in (
                "residual",
                "certificate",
                "value_error",
                "value_to_clarabel",
                "solution_error",
                "solution_to_clarabel",
            )
        )
        iterations = [f.iterations for f in group]
        table.add_row(
            family,
            str(len(group)),
            *(str(outcomes[o]) for o in ("right", "unsolved", "wrong")),
            str(sum(bool(f.fault) for f in group)),
            *("" if v is None else f"{v:.0e}" for v in worst),
            f"{np.median(iterations):.0f} … {max(iterations)}",
        )
    return table


def main(per_cone: int, processes: int) -> bool:
    """Examine so many programs per cone with a progress bar; the exit code is 1 if there are faults."""
    found: list[Finding] = []
    spawn = multiprocessing.get_context("spawn")
    console = Console(highlight=False, markup=False, width=150)
    with (
        Progress(console=console) as progress,
        ProcessPoolExecutor(processes, mp_context=spawn) as pool,
    ):
        out = progress.console.print
        bar = progress.add_task("programs", total=4 * per_cone)
        waiting = [(task, pool.submit(examine, *task)) for task in tasks(per_cone)]
        for (cone, shape, count), future in waiting:
            found += future.result()
            progress.update(bar, advance=count)
            if shape < len(SHAPES[cone]) - 1:
                continue
            for solver in SOLVERS:
                own = [f for f in found if f.case.cone == cone and f.solver == solver]
                out(summary(cone, solver, own))
                out(
                    f"worst time of an item in its batch: {max(f.milliseconds for f in own):.2f} ms"
                )
        out("value, solution: worst difference to what is known; value′, solution′: to Clarabel's")
        faults = [f for f in found if f.fault]
        out(*(f"{f.solver}: {f.fault}, {f.case}" for f in faults[:60]), sep="\n")
        out(f"{len(faults)} faults in {len(found)} answers")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
