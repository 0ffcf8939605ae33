"""A tenth of ``make robustness``, and a check of its oracles by each other."""

from collections import Counter

import numpy as np
import pytest

from conservax.solution import Status
from programs import robustness
from programs.clarabel_oracle import clarabel_answer
from programs.random_programs import SHAPES

PER_CONE = 200
# families in which the tolerance may be out of reach of double precision, and for how many of them
HARD = {
    "ill_conditioned": 0.3,
    "scaled_right_side": 0.4,
    "scaled_all": 0.4,
    "no_interior": 0.2,
    "infeasible_by_few": 0.2,
    "infeasible_nearly": 0.2,
    "infeasible_scaled": 0.3,
    "unbounded_nearly": 0.3,
    "unbounded_scaled": 0.3,
}
CLARABEL_LEAVES = (
    0.05  # of all; it gives up more often between two certificates or a step before one
)


@pytest.mark.parametrize("cone", SHAPES)
def test_the_programs_are_what_they_claim(cone):
    """The pair drawn satisfies the optimality conditions; Clarabel contradicts no status or value."""
    decided = 0
    for case in robustness.cases(cone, 0, PER_CONE):
        program, cones = case.program()
        plain = program.unscaled()
        theirs = clarabel_answer(plain.P, plain.c, plain.A, plain.b, cones)
        if theirs.status in robustness.DECIDED:
            decided += 1
            assert theirs.status in program.right, case
        if program.right == (Status.SOLVED,):
            known = program.primal, program.dual, program.slack
            assert robustness.residual(plain, cones, *known) < 1e-12, case
            if theirs.status == Status.SOLVED:
                size = max(1.0, abs(program.primal @ plain.P @ program.primal))
                assert abs(theirs.value - program.value) < 1e-6 * size, case
    assert decided > 0.85 * PER_CONE


@pytest.mark.parametrize("cone", SHAPES)
def test_statuses_are_right_and_solutions_are_solutions(cone):
    """In the two smaller shapes of the cone."""
    findings = robustness.examine(cone, 0, 125) + robustness.examine(cone, 1, 75)
    faults = [f"{f.solver}: {f.fault}, {f.case}" for f in findings if f.fault]
    assert not faults, "\n".join(faults)
    assert all(f.outcome != "wrong" for f in findings)
    left = [f for f in findings if f.outcome == "unsolved"]
    by_clarabel = [f for f in left if f.solver == "ConeProgram, Clarabel"]
    assert len(by_clarabel) <= CLARABEL_LEAVES * PER_CONE, by_clarabel
    drawn = Counter(family for family, _ in {(f.case.family, f.case) for f in findings})
    unsolved = {f.case for f in left if f not in by_clarabel}
    for family, number in Counter(case.family for case in unsolved).items():
        assert family in HARD, unsolved
        assert number <= max(1, HARD[family] * drawn[family]), unsolved
    for name, tolerance in (
        ("value_error", 1e-6),
        ("value_to_clarabel", 1e-6),
        ("solution_error", 1e-2),
        ("solution_to_clarabel", 1e-2),
    ):
        numbers = [(getattr(f, name), f"{f.solver}: {f.case}") for f in findings]
        worst = max((pair for pair in numbers if not np.isnan(pair[0])), default=(0.0, ""))
        assert worst[0] < tolerance, f"{name} {worst[0]:.1e} of {worst[1]}"
