"""What a program answers: its solution, what the solve says of itself, and the errors of a failed one."""

from typing import NamedTuple

import jax.numpy as jnp

from ..arrays.namespace import Array
from ..cones.table import Cones
from ..errors import InfeasibleError, InvalidInputError, NotConvergedError, UnboundedError
from ..solution import Status
from ..solvers import Solver
from .cone_inputs import NEEDS_VALUES
from .forward import Outcome
from .host.map import HostOutcome


class ProgramInfo(NamedTuple):
    """What a solve says of itself, as data from inside jit; leading axes as the batch.

    Attributes:
        status: int8, a ``Status``. iterations: of the solver; 0 where a warm start served.
        primal_residual, dual_residual: ‖Ax + s − b‖∞ and ‖Px + Aᵀy + c‖∞ at the answer.
        gap: |sᵀy|.
        verdict: int8, a ``Verdict``: whether U(V) is invertible for every element V, by two
            factorisations. margin: a lower bound on the eigenvalues that the two tests ask for.
        solver: int8, a ``Solver``.
    """

    status: Array
    iterations: Array
    primal_residual: Array
    dual_residual: Array
    gap: Array
    verdict: Array
    margin: Array
    solver: Array


class ProgramSolution(NamedTuple):
    """Primal (..., n), dual and slack (..., m), and how they came about."""

    primal: Array
    dual: Array
    slack: Array
    info: ProgramInfo


def of_host(outcome: HostOutcome, cones: Cones) -> ProgramSolution:
    """The answer of the host engine."""
    y, s = outcome.y, outcome.s
    if not cones.size:
        y, s = y[..., :0], s[..., :0]
    return ProgramSolution(outcome.x, y, s, info_of(outcome))


def info_of(outcome: HostOutcome) -> ProgramInfo:
    """What the host says of a solve whose verdict was asked for."""
    assert outcome.verdict is not None
    assert outcome.margin is not None
    return ProgramInfo(
        outcome.status,
        outcome.iterations,
        outcome.primal_residual,
        outcome.dual_residual,
        outcome.gap,
        outcome.verdict,
        outcome.margin,
        outcome.solver,
    )


def of_device(outcome: Outcome, lead: tuple[int, ...], solver: Solver) -> ProgramSolution:
    """That of the solution map in XLA, with its batch axes back."""

    def shaped(part: Array) -> Array:
        return part.reshape(*lead, *part.shape[1:])

    return ProgramSolution(
        shaped(outcome.x),
        shaped(outcome.y),
        shaped(outcome.s),
        ProgramInfo(
            shaped(outcome.status),
            shaped(outcome.iterations),
            shaped(outcome.primal_residual),
            shaped(outcome.dual_residual),
            shaped(outcome.gap),
            shaped(outcome.tests.verdict),
            shaped(outcome.tests.margin),
            jnp.full(lead, solver, jnp.int8),
        ),
    )


def raise_status(status: Array) -> None:
    """An error for an unbatched item that was not solved, where its status is known."""
    try:
        code = int(status)
    except NEEDS_VALUES:
        return
    if code == Status.PRIMAL_INFEASIBLE:
        raise InfeasibleError(
            "no x satisfies the constraints: a combination of the rows contradicts itself. Loosen b, "
            "or find the rows by the dual of conservax.solvers.interior_point, which is a certificate."
        )
    if code == Status.DUAL_INFEASIBLE:
        raise UnboundedError(
            "the objective falls without bound on the feasible set. Add constraints, or a quadratic "
            "term; the primal of conservax.solvers.interior_point is a direction in which it falls."
        )
    if code == Status.NOT_CONVEX:
        raise InvalidInputError(
            "P is not positive semidefinite, so the program is not convex. Add a multiple of the "
            "identity, or hand over P = RᵀR."
        )
    if code not in (Status.SOLVED, Status.CLOSEST):
        raise NotConvergedError(
            f"the solver ended as {Status(code).name} before its tolerance. Scale the data to "
            "comparable sizes, raise max_iterations, or work in float64."
        )
