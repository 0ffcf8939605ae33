"""The linear solve behind every derivative, against rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.cones.table import Cones
from conservax.programs.system.backward import Place, linear_solve
from conservax.solvers.equilibrate import Data, Scaling

N, M = 3, 4
CONES = Cones(nonnegative=M)


def exact_solution(matrix, right):
    """Gauss–Jordan elimination in fractions; None if the matrix is singular."""
    rows = [
        [*map(Fraction, map(float, row)), Fraction(float(r))]
        for row, r in zip(matrix, right, strict=True)
    ]
    for i in range(len(rows)):
        pivot = next((r for r in range(i, len(rows)) if rows[r][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for r in range(len(rows)):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return np.array([float(row[-1]) for row in rows])


def place(known=True, tilt=1.0, curvature=1.0, active=(1, 1, 0, 0), decided=False):
    """Rows 0 and 1 differ by ``tilt``; P has the eigenvalue ``curvature`` along the last axis."""
    rng = np.random.default_rng(5)
    A = np.round(rng.normal(size=(M, N)), 3)
    A[1] = A[0] + tilt * np.array([1.0, -1.0, 0.0])
    A[:, 2] = 0.0 if curvature != 1 else A[:, 2]
    P = np.diag([1.0, 2.0, curvature])
    one = np.ones
    return Place(
        Data(P, np.zeros(N), A, np.zeros(M)),
        Scaling(one(N), one(M), np.ones(())),
        (None,),
        np.array(active, float),
        np.zeros(N),
        np.array(known),
        decided=np.array(decided),
        P_still=np.array(True),
        A_still=np.array(True),
    )


CASES = {
    "regular": place(),
    "rows at an angle of 1e-3": place(tilt=2.0**-10),
    "rows at an angle of 1e-5": place(tilt=2.0**-17),
    "curvature 1e-6": place(curvature=2.0**-20),
    "no row active": place(active=(0, 0, 0, 0)),
    "three rows active": place(active=(1, 1, 1, 0)),
    "a slope between": place(active=(1, 0.25, 0.5, 0)),
    "equal rows": place(tilt=0.0),
    "no curvature": place(curvature=0.0),
    "no solution": place(known=False),
}
SINGULAR = ("equal rows", "no curvature", "no solution")


def jacobian(at):
    P, _, A, _ = at.data
    V = np.diag(at.d)
    return np.block([[P, A.T @ V], [A, V - np.eye(M)]])


def stacked(places):
    return jax.tree.map(lambda *parts: jnp.stack(list(map(jnp.asarray, parts))), *places)


@pytest.mark.parametrize("transposed", [False, True])
def test_each_item_is_solved_to_rounding_or_nan(transposed):
    """One batch of all: a singular item leaves the others unharmed."""
    right = np.random.default_rng(0).normal(size=(len(CASES), N + M, 2))
    found = linear_solve(CONES, transposed)(stacked(CASES.values()), jnp.asarray(right))
    for (name, at), own, columns in zip(CASES.items(), np.asarray(found), right, strict=True):
        if name in SINGULAR:
            assert np.isnan(own).all(), name
            continue
        U = jacobian(at).T if transposed else jacobian(at)
        for solution, column in zip(own.T, columns.T, strict=True):
            expected = exact_solution(U, column)
            error = np.abs(solution - expected).max() / np.abs(expected).max()
            assert error <= 64 * np.finfo(float).eps * np.linalg.cond(U), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_of_singular_items_what_is_determined_is_that_of_a_regular_one(transposed, dtype):
    """Regular, singular, and singular items that may be solved in part, in one batch."""
    places = [
        place(),
        place(tilt=0.0),
        place(tilt=0.0, decided=True),
        place(curvature=0.0, decided=True),
        place(tilt=0.0, active=(1, 0, 0, 0)),
        place(curvature=1.5),
    ]
    right = np.random.default_rng(2).normal(size=(N + M, 8))
    # what has a solution: in the range of U, or of its transpose
    systems = [jacobian(at).T if transposed else jacobian(at) for at in places]
    right = np.stack([U @ right for U in systems])
    cast = jax.tree.map(
        lambda part: part.astype(dtype) if part.dtype == float else part, stacked(places)
    )
    found = np.asarray(linear_solve(CONES, transposed)(cast, jnp.asarray(right, dtype)))
    tolerance = 3e3 * np.finfo(dtype).eps
    free = {
        0: (),
        2: (N, N + 1),
        3: (N - 1,),
        5: (),
    }  # multipliers of equal rows; a flat variable in no row
    for k, undetermined in free.items():
        # the least-squares solution of least norm shares what is determined
        expected = np.linalg.lstsq(systems[k], right[k], rcond=1e-9)[0]
        rest = np.delete(np.arange(N + M), undetermined)
        np.testing.assert_allclose(found[k, rest], expected[rest], atol=tolerance)
        assert np.isnan(found[k, list(undetermined)]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("equations", [1, 2])
def test_equal_rows_get_any_of_their_values_if_both_are_equations(equations):
    """Rows 0 and 1 are equal; an inequality among them can only move one way."""
    at = place(tilt=0.0, decided=True)
    right = jacobian(at).T @ np.random.default_rng(3).normal(size=(N + M, 2))
    cones = Cones(zero=equations, nonnegative=M - equations)
    found = np.asarray(linear_solve(cones, True)(stacked([at]), jnp.asarray(right[None])))[0]
    if equations == 2:
        np.testing.assert_allclose(jacobian(at).T @ found, right, atol=1e-12)
    else:
        assert np.isnan(found[N : N + 2]).all()
        assert np.isfinite(np.delete(found, (N, N + 1), axis=0)).all()


def test_the_oracle_calls_the_same_items_singular():
    right = np.ones(N + M)
    none = [name for name, at in CASES.items() if exact_solution(jacobian(at), right) is None]
    assert none == ["equal rows", "no curvature"]


@pytest.mark.parametrize("transposed", [False, True])
def test_mapped_right_hand_sides_are_columns_and_mapped_programs_a_batch(transposed):
    solve = linear_solve(CONES, transposed)
    some = [CASES["regular"], CASES["three rows active"]]
    right = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, N + M, 1)))
    each = np.stack([np.asarray(solve(stacked(some), part)) for part in right])
    np.testing.assert_allclose(jax.vmap(lambda r: solve(stacked(some), r))(right), each, rtol=1e-9)
    one_by_one = jax.tree.map(lambda part: part[:, None], stacked(some))
    mapped = jax.vmap(solve)(one_by_one, right[0][:, None])
    np.testing.assert_allclose(mapped[:, 0], each[0], rtol=1e-9)
