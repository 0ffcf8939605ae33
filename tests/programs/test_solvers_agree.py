"""The corpus of degenerate programs: a valid element, the same whichever solver ran forward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.programs import ConeProgram
from conservax.programs.cone_inputs import as_data
from conservax.reproduce.degenerate_cases import CASES, CONES
from conservax.reproduce.degenerate_programs import is_valid, stacked
from conservax.solvers.matrices import SparseMatrix

WAYS = {
    "interior point": ("interior_point", False),
    "Clarabel": ("clarabel", False),
    "SCS": ("scs", False),
    "Clarabel, sparse data": ("clarabel", True),
}


def all_entries(matrix):
    """A batch of matrices with every entry stored."""
    rows, columns = (jnp.asarray(part.ravel()) for part in np.indices(matrix.shape[1:]))
    return SparseMatrix(matrix.reshape(len(matrix), -1), rows, columns, matrix.shape[1:])


@functools.cache
def answers(way: str, selection):
    """Each case's entry of the Jacobian, and its verdict."""
    solver, sparse = WAYS[way]
    program = ConeProgram(CONES, solver=solver, selection=selection)

    def solve(P, c, A, b):
        P, A = (all_entries(P), all_entries(A)) if sparse else (P, A)
        solution = program(P, c, A, b)
        return solution.primal, solution.info.verdict

    run = jax.jit(lambda d, t: jax.jvp(solve, d, t, has_aux=True))
    _, slopes, verdicts = run(*stacked())
    outputs = [case.output for case in CASES]
    return np.asarray(slopes)[np.arange(len(CASES)), outputs], np.asarray(verdicts)


@pytest.mark.parametrize("selection", ["lower", "upper"])
@pytest.mark.parametrize("way", WAYS)
def test_the_element_is_valid_and_that_of_every_other_solver(way, selection):
    found, verdicts = answers(way, selection)
    for case, answer, verdict in zip(CASES, found, verdicts, strict=True):
        assert verdict == (1 if case.proven else -1), case.name
        # a number is an element of the set; where the condition fails there may be none
        assert is_valid(case, answer) or (np.isnan(answer) and not case.proven), case.name
    proven = np.array([case.proven for case in CASES])
    reference = answers("interior point", selection)[0]
    np.testing.assert_allclose(found[proven], reference[proven], atol=1e-7)


def test_entries_stored_one_by_one_are_the_dense_matrix():
    (_, _, A, b), _ = stacked()
    data, lead = as_data(all_entries(jnp.zeros((len(A), 4, 4))), jnp.zeros(4), all_entries(A), b, 9)
    assert lead == (len(CASES),)
    np.testing.assert_array_equal(data.A.values.reshape(A.shape), A)
