"""A strictly convex program solved in the metric of P: the same statuses and the same solution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax.programs import ConeProgram, Cones
from conservax.programs.cone_inputs import is_definite
from conservax.solution import Status
from conservax.solvers import interior_point
from conservax.solvers.equilibrate import Data, equilibrate
from conservax.solvers.interior_point import default_tolerance, solve_definite
from conservax.solvers.whitening import whiten
from programs.random_programs import FAMILIES, Draft

NAMES = (
    "regular",
    "weakly_active",
    "nonunique_dual",
    "empty_rows",
    "ill_conditioned",
    "infeasible",
)
SETS = {
    "few rows": (Cones(zero=1, nonnegative=7), 12),
    "few inequalities": (Cones(nonnegative=6), 6),
    "many rows": (Cones(nonnegative=12), 6),
    "second-order": (Cones(nonnegative=2, second_order=(4, 4)), 11),
    "semidefinite": (Cones(zero=1, semidefinite=(3,)), 8),
}


@functools.cache
def solver(cones):
    @jax.jit
    def solve(P, c, A, b):
        data = Data(P, c, A, b)
        scaling = equilibrate(*data, cones)
        found = solve_definite(scaling.apply(data), cones, default_tolerance(c.dtype), 60)
        return scaling.undo(found.value), found.status

    return solve


@pytest.mark.parametrize("name", SETS)
@given(seed=st.integers(0, 10**6))
def test_the_solution_is_that_of_the_general_method(name, seed):
    """P + I in place of P: every feasible program has one solution."""
    cones, n = SETS[name]
    drafts = [Draft(cones, n, np.random.default_rng(seed + i), rank=n) for i in range(len(NAMES))]
    programs = [FAMILIES[family](draft) for family, draft in zip(NAMES, drafts, strict=True)]
    P, c, A, b = (np.stack(part) for part in zip(*(p[:4] for p in programs), strict=True))
    P = P + np.abs(P).max(axis=(1, 2), keepdims=True) * np.eye(n)
    point, status = solver(cones)(P, c, A, b)
    general = interior_point(*map(jnp.asarray, (P, c, A, b)), cones)
    for k, family in enumerate(NAMES):
        # what is left to polishing may stall in either
        ends = {int(status[k]), int(general.status[k])}
        assert len(ends - {Status.STALLED}) <= 1, family
        if ends == {Status.SOLVED}:
            x, y = np.asarray(point.primal[k]), np.asarray(general.value.primal[k])
            # both objectives are within the tolerance, which bounds the distance in the metric of P
            value = 0.5 * y @ P[k] @ y + c[k] @ y
            scale = abs(0.5 * y @ P[k] @ y) + abs(c[k] @ y) + 1e-12
            other = 0.5 * x @ P[k] @ x + c[k] @ x
            assert abs(value - other) <= 1e-5 * scale, family
            assert (x - y) @ P[k] @ (x - y) <= 1e-5 * scale, family


@pytest.mark.parametrize("name", SETS)
def test_well_posed_programs_are_solved_and_contradictions_found(name):
    cones, n = SETS[name]
    wanted = {"regular": Status.SOLVED, "weakly_active": Status.SOLVED}
    wanted["infeasible"] = Status.PRIMAL_INFEASIBLE
    found = {}
    for family in wanted:
        drafts = [Draft(cones, n, np.random.default_rng(i), rank=n) for i in range(100)]
        programs = [FAMILIES[family](draft) for draft in drafts]
        P, c, A, b = (np.stack(part) for part in zip(*(p[:4] for p in programs), strict=True))
        P = P + np.abs(P).max(axis=(1, 2), keepdims=True) * np.eye(n)
        found[family] = np.mean(np.asarray(solver(cones)(P, c, A, b)[1]) == wanted[family])
    # one in two hundred of the smallest programs needs the polish, as with the general method
    assert min(found.values()) >= 0.98, found


def test_the_metric_of_p():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(3, 4, 4))
    P = F @ np.swapaxes(F, 1, 2) + 0.1 * np.eye(4)
    whitening = whiten(jnp.asarray(P))
    identity = whitening.X @ P @ np.swapaxes(whitening.X, 1, 2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(4), P.shape), atol=1e-12)


@pytest.mark.parametrize("rows", [2, 6])
def test_a_constant_p_and_an_argument_p_give_the_same_solution_and_gradient(rows):
    """With fewer rows than unknowns, and with more."""
    rng = np.random.default_rng(rows)
    F = rng.normal(size=(4, 4))
    P = F @ F.T + 0.1 * np.eye(4)
    c, A = rng.normal(size=(3, 4)), rng.normal(size=(3, rows, 4))
    b = rng.uniform(0.1, 1.0, size=(3, rows))
    program = ConeProgram(Cones(nonnegative=rows))

    def value(P, c, A, b):
        solution = program(P, c, A, b)
        return jnp.sum(solution.primal**2) + jnp.sum(solution.dual), solution

    differentiate = jax.value_and_grad(value, argnums=(1, 2, 3), has_aux=True)
    (_, known), gradient = jax.jit(functools.partial(differentiate, P))(c, A, b)
    (_, traced), expected = jax.jit(differentiate)(P, c, A, b)
    np.testing.assert_allclose(known.primal, traced.primal, atol=1e-12)
    np.testing.assert_allclose(known.dual, traced.dual, atol=1e-11)
    for own, other in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-9)


@pytest.mark.parametrize(
    ("P", "definite"),
    [
        (np.diag([1e-8, 1e8]), True),
        (np.array([[2.0, 1.0], [1.0, 2.0]]), True),
        (np.zeros((2, 2)), False),
        (np.diag([1.0, 0.0]), False),
        (np.array([[1.0, 1.0], [1.0, 1.0 + 1e-8]]), False),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), False),
        (np.stack([np.eye(2), np.eye(2)]), False),
        (np.full((2, 2), np.nan), False),
    ],
)
def test_which_objectives_count_as_definite(P, definite):
    assert is_definite(P) == definite
    assert not jax.jit(lambda P: jnp.asarray(is_definite(P)))(P)
