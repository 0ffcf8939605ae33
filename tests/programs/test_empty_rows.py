"""Rows 0ᵀx ≤ 0 and 0ᵀx = 0: any multiplier is optimal, and the derivative is that of the other rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from conservax.programs import ConeProgram, Cones

# min ½‖x‖² + cᵀx over x₁, x₂ ≥ 0 at c = (−1, 2): x = (1, 0), dx₁ = −dc₁ − (P dx)₁ alone
C = np.array([-1.0, 2.0])
ROWS = {  # where the empty rows are
    "inequality": (Cones(nonnegative=3), np.array([[-1.0, 0], [0, 0], [0, -1]]), [1]),
    "equality": (Cones(zero=1, nonnegative=2), np.array([[0.0, 0], [-1, 0], [0, -1]]), [0]),
    "both": (Cones(zero=1, nonnegative=3), np.array([[0.0, 0], [-1, 0], [0, 0], [0, -1]]), [0, 2]),
    "two": (Cones(nonnegative=4), np.array([[0.0, 0], [-1, 0], [0, 0], [0, -1]]), [0, 2]),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("selection", ["lower", "upper"])
@pytest.mark.parametrize("solver", ["auto", "moreau", "clarabel", "scs"])
def test_the_primal_has_its_derivative_whatever_the_multiplier(name, selection, solver):
    cones, A, empty = ROWS[name]
    program = ConeProgram(cones, solver=solver, selection=selection)

    def solve(P, c, A, b):
        return program(P, c, A, b).primal

    data = tuple(map(jnp.asarray, (np.eye(2), C, A, np.zeros(cones.size))))
    np.testing.assert_allclose(solve(*data), [1.0, 0.0], atol=1e-9)
    in_P, in_c, in_A, in_b = jax.jacrev(solve, argnums=(0, 1, 2, 3))(*data)
    np.testing.assert_allclose(in_c, [[-1.0, 0], [0, 0]], atol=1e-9)
    np.testing.assert_allclose(in_P, [[[-1.0, 0], [0, 0]], [[0, 0], [0, 0]]], atol=1e-9)
    others = [k for k in range(cones.size) if k not in empty]
    # x₂ = x₁ dA₂₁ − db₂ on its row, and x₁ = 1 − y₂ dA₂₁ with y₂ = 2
    want_b = np.zeros((2, 2))
    want_b[1, 1] = -1.0
    np.testing.assert_allclose(in_b[:, others], want_b, atol=1e-9)
    want_A = np.zeros((2, 2, 2))
    want_A[:, 1, 0] = -2.0, 1.0
    np.testing.assert_allclose(in_A[:, others], want_A, atol=1e-9)
    # a change of an empty row may cut off any half plane
    assert np.isnan(in_A[:, empty]).all()
    assert np.isnan(in_b[:, empty]).all()
    forward = jax.jacfwd(solve, argnums=1)(*data)
    np.testing.assert_allclose(forward, in_c, atol=1e-9)


def test_with_slack_it_is_no_matter():
    cones, A, _ = ROWS["inequality"]
    b = np.array([0.0, 1.0, 0.0])

    def solve(A):
        return ConeProgram(cones)(np.eye(2), C, A, b).primal

    assert ConeProgram(cones)(np.eye(2), C, A, b).info.verdict == 1
    np.testing.assert_allclose(jax.jacobian(solve)(jnp.asarray(A))[:, 1], 0.0, atol=1e-9)


@pytest.mark.usefixtures("sparse_factors")
@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_sparse_factors_likewise(solver):
    cones, A, _ = ROWS["inequality"]
    program = ConeProgram(cones, solver=solver)
    eye, rows = scipy.sparse.eye(2), scipy.sparse.csr_array(A)
    slope = jax.jacobian(lambda c: program(eye, c, rows, np.zeros(3)).primal)(jnp.asarray(C))
    np.testing.assert_allclose(slope, [[-1.0, 0], [0, 0]], atol=1e-9)
