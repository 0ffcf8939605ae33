"""Sparse data: the dense program, closed forms and differences; verdicts; errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from scipy import sparse

from conservax.errors import (
    InfeasibleError,
    InvalidInputError,
    UnboundedError,
    UnsupportedOperationError,
)
from conservax.invertibility import Verdict
from conservax.programs import ConeProgram, Cones, CvxpyLayer, Solver, Status, cone_program
from conservax.programs.host import calls
from programs.compiled import with_jacobian

pytestmark = pytest.mark.usefixtures("sparse_factors")
CASES = {
    "polyhedral": Cones(zero=2, nonnegative=8),
    "symmetric": Cones(zero=1, nonnegative=5, second_order=(3,), semidefinite=(2,)),
    "curved": Cones(nonnegative=4, exponential=1, power=(0.3,)),
}


class Sample:
    """A random program of 6 variables with sparse data, and how to solve it in either form."""

    def __init__(self, cones: Cones) -> None:
        rng = np.random.default_rng(3)
        n, m = 6, cones.size
        self.shape, self.program = (m, n), ConeProgram(cones)
        A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.6)
        self.places = np.nonzero(A)
        self.indices = jnp.asarray(np.stack(self.places, axis=1))
        P = np.diag(rng.uniform(0.5, 1.5, n))
        P[0, 1] = P[1, 0] = 0.3
        self.P_places = np.nonzero(P)
        self.P_indices = jnp.asarray(np.stack(self.P_places, axis=1))
        slack = rng.random(m) * (rng.random(m) < 0.6)
        slack[: cones.zero] = 0.0
        inside = {"second_order": [1.0, 0.6, 0.8], "semidefinite": [1.0, 0.0, 0.0]}
        inside |= {"exponential": [0.1, 1.0, 2.0], "power": [1.0, 1.0, 0.2]}
        tail = [x for name, part in inside.items() if getattr(cones, name) for x in part]
        slack[m - len(tail) :] = tail
        b, c = A @ rng.normal(size=n) + slack, rng.normal(size=n)
        data = P[self.P_places], c, A[self.places], b
        self.data = tuple(jnp.asarray(part) for part in data)

    def sparse(self, P, c, A, b):
        n = self.shape[1]
        return self.program(
            BCOO((P, self.P_indices), shape=(n, n)), c, BCOO((A, self.indices), shape=self.shape), b
        )

    def dense(self, P, c, A, b):
        n = self.shape[1]
        P = jnp.zeros((n, n)).at[self.P_places].set(P)
        return self.program(P, c, jnp.zeros(self.shape).at[self.places].set(A), b)


@functools.cache
def sample(name: str) -> Sample:
    return Sample(CASES[name])


@pytest.mark.parametrize("small", [0, 150], ids=["sparse factors", "dense factors"])
@pytest.mark.parametrize("name", CASES)
def test_solution_and_derivative_in_every_stored_entry_are_those_of_the_dense_program(
    name, small, monkeypatch
):
    monkeypatch.setattr(calls, "SMALL", small)
    own = sample(name)

    def outputs(solve):
        def run(*data):
            found = solve(*data)
            return (found.primal, found.dual), found

        return jax.jit(jax.jacrev(run, argnums=(0, 1, 2, 3), has_aux=True))(*own.data)

    (J, found), (expected, dense) = outputs(own.sparse), outputs(own.dense)
    np.testing.assert_allclose(found.primal, dense.primal, atol=1e-9)
    np.testing.assert_allclose(found.dual, dense.dual, atol=1e-8)
    info = found.info
    for part, other in zip(jax.tree.leaves(J), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(part, other, atol=1e-7 * (1 + np.abs(other).max()))
    assert info.verdict == dense.info.verdict == 1
    assert 0 < info.margin
    assert info.solver == Solver.CLARABEL


@functools.cache
def slope_in_A():
    own = sample("polyhedral")
    P, _, _, b = own.data
    return jax.jit(jax.grad(lambda c, A: jnp.sum(own.sparse(P, c, A, b).primal ** 2), 1))


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_a_mapped_gradient_is_that_of_each_item(mapped):
    one = slope_in_A()
    _, c, A, _ = sample("polyhedral").data
    both = jnp.stack([c, 1.1 * c]), jnp.stack([A, 0.9 * A])
    data = [pair if axis == 0 else pair[0] for pair, axis in zip(both, mapped, strict=True)]
    found = jax.jit(jax.vmap(one, mapped))(*data)
    for k, own_slope in enumerate(found):
        item = [pair[k if axis == 0 else 0] for pair, axis in zip(both, mapped, strict=True)]
        np.testing.assert_allclose(own_slope, one(*item), atol=1e-10)


def test_second_derivatives_are_those_of_the_dense_program():
    own = sample("symmetric")
    P, c, A, b = own.data
    hessians = [
        jax.jit(jax.hessian(lambda c, own=solve: jnp.sum(own(P, c, A, b).primal ** 2)))(c)
        for solve in (own.sparse, own.dense)
    ]
    assert np.abs(hessians[0]).max() > 1e-2
    np.testing.assert_allclose(*hessians, atol=1e-6)


def test_a_long_chain_has_the_derivative_of_its_closed_form():
    # min ½‖x − p‖² subject to x_{k+1} = x_k + u, for all k: x = mean + …, linear in p
    n = 400
    D = sparse.diags([np.ones(n - 1), -np.ones(n - 1)], [1, 0], shape=(n - 1, n))
    program = ConeProgram(Cones(zero=n - 1))
    weights = np.random.default_rng(0).normal(size=n)

    @jax.jit
    @jax.grad
    def slope(u):
        return weights @ program(sparse.eye(n), jnp.zeros(n), D, jnp.full(n - 1, u)).primal

    expected = weights @ (np.arange(n) - (n - 1) / 2)
    np.testing.assert_allclose(slope(0.3), expected, rtol=1e-12)


def test_entries_met_twice_add_and_those_outside_do_not_count():
    program = ConeProgram(Cones(nonnegative=1))
    indices = jnp.array([[0, 0], [0, 0], [1, 2]])

    def solve(a):  # min ½‖x − (3, 1)‖² subject to (a₀ + a₁) x₀ ≤ 2
        A = BCOO((a, indices), shape=(1, 2))
        return program(sparse.eye(2), jnp.array([-3.0, -1.0]), A, jnp.array([2.0])).primal

    a = jnp.array([0.5, 0.5, 0.0])
    x, J = with_jacobian(solve)(a)
    np.testing.assert_allclose(x, [2.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(J[0], [-2.0, -2.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_degenerate_points_have_the_element_of_the_dense_program(solver, selection):
    program = ConeProgram(Cones(nonnegative=3), solver=solver, selection=selection)

    def project(p):  # onto x ≥ 0, one entry on the kink
        solution = program(sparse.eye(3), -p, -sparse.eye(3), jnp.zeros(3))
        return solution.primal, solution.info

    p = jnp.array([1.0, 0.0, -2.0])
    kept = 1.0 if selection == "lower" else 0.0
    J, info = jax.jit(jax.jacrev(project, has_aux=True))(p)
    np.testing.assert_allclose(J, np.diag([1.0, kept, 0.0]), atol=1e-9)
    assert info.verdict == 1


@pytest.mark.parametrize(
    ("P", "A", "verdict"),
    [
        ([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], 1),
        ([1.0, 0.0], [[1.0, 0.0], [1.0, 0.0]], -1),  # x₁ is free
        ([1.0, 1.0], [[-1.0, 0.0], [-1.0, 0.0]], -1),  # one constraint twice, active
    ],
)
def test_verdicts(P, A, verdict):
    program = ConeProgram(Cones(nonnegative=2))
    c = jnp.array([1.0, 0.0])
    found = program(sparse.diags(P), c, sparse.csr_array(np.array(A)), jnp.zeros(2))
    dense = program(jnp.diag(jnp.asarray(P)), c, jnp.asarray(A), jnp.zeros(2))
    assert found.info.verdict == dense.info.verdict == verdict
    report = program.check(sparse.diags(P), c, sparse.csr_array(np.array(A)), jnp.zeros(2))
    assert report.verdict == verdict


def test_a_singular_element_gives_nan_and_not_a_number():
    program = ConeProgram(Cones(nonnegative=2))
    A = sparse.csr_array(np.array([[-1.0, 0.0], [-1.0, 0.0]]))

    def primal(b):
        return program(sparse.eye(2), jnp.array([1.0, 0.0]), A, b).primal

    assert np.isnan(jax.jit(jax.jacobian(primal))(jnp.zeros(2))).all()


def test_one_failed_item_leaves_its_batch_unharmed():
    program = ConeProgram(Cones(nonnegative=2))
    A = sparse.csr_array(np.array([[1.0], [-1.0]]))
    b = jnp.array([[2.0, -1.0], [1.0, -2.0], [5.0, 5.0]])  # 1 ≤ x ≤ 2; nothing; −5 ≤ x ≤ 5
    c = jnp.ones(1)
    found = program(sparse.eye(1), c, A, b)
    assert found.info.status.tolist() == [Status.SOLVED, Status.PRIMAL_INFEASIBLE, Status.SOLVED]
    np.testing.assert_allclose(found.primal[:, 0], [1.0, np.nan, -1.0], atol=1e-9)
    each = jax.vmap(jax.jacobian(lambda b: program(sparse.eye(1), c, A, b).primal[0]))
    J = jax.jit(each)(b)
    np.testing.assert_allclose(J, [[0.0, -1.0], [np.nan] * 2, [0.0, 0.0]], atol=1e-9)


def test_infeasible_and_unbounded_programs_raise():
    program, A = ConeProgram(Cones(nonnegative=2)), sparse.csr_array(np.array([[1.0], [-1.0]]))
    with pytest.raises(InfeasibleError):
        program(sparse.eye(1), [1.0], A, [1.0, -2.0])
    with pytest.raises(UnboundedError):
        program(sparse.csr_array((1, 1)), [1.0], abs(A), [1.0, 1.0])


def test_no_constraints_at_all():
    P, nothing = sparse.diags([2.0, 4.0]), sparse.csr_array((0, 2))
    program = ConeProgram(Cones())
    J = jax.jit(jax.jacobian(lambda c: program(P, c, nothing, jnp.zeros(0)).primal))(jnp.ones(2))
    np.testing.assert_allclose(J, -np.diag([0.5, 0.25]), atol=1e-12)


def test_single_precision_is_that_of_a_solution_in_double():
    own = sample("symmetric")
    data = [part.astype(jnp.float32) for part in own.data]
    n = own.shape[1]

    def solve(P, c, A, b):
        P, A = BCOO((P, own.P_indices), shape=(n, n)), BCOO((A, own.indices), shape=own.shape)
        return own.program(P, c, A, b).primal

    found, J = with_jacobian(solve, 3)(*data)
    reference, expected = with_jacobian(lambda *d: own.dense(*d).primal, 3)(*own.data)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference, atol=2e-6)
    np.testing.assert_allclose(J, expected, atol=2e-4)


def test_bad_input():
    program = ConeProgram(Cones(nonnegative=2))
    A, c, b = sparse.csr_array(np.eye(2)), jnp.ones(2), jnp.ones(2)
    with pytest.raises(InvalidInputError, match="P holds NaN"):
        program(sparse.diags([np.nan, 1.0]), c, A, b)
    with pytest.raises(InvalidInputError, match=r"A has shape \(2, 3\)"):
        program(sparse.eye(2), c, sparse.csr_array((2, 3)), b)
    with pytest.raises(InvalidInputError, match="both dense or both sparse, but P is a dense"):
        jax.grad(lambda P: program(P, c, A, b).primal.sum())(jnp.eye(2))
    with pytest.raises(
        InvalidInputError, match="both dense or both sparse, but P is a dense batch"
    ):
        program(np.stack([np.eye(2)] * 2), c, A, b)
    varied = BCOO.fromdense(jnp.stack([jnp.eye(2)] * 2), n_batch=1)
    with pytest.raises(InvalidInputError, match="share one pattern"):
        program(sparse.eye(2), c, varied, b)
    with pytest.raises(InvalidInputError, match="1 sparse and 1 dense axes"):
        program(sparse.eye(2), c, BCOO.fromdense(jnp.eye(2), n_dense=1), b)
    with pytest.raises(InvalidInputError, match="takes no sparse matrices"):
        ConeProgram(Cones(nonnegative=2), solver="interior_point")(sparse.eye(2), c, A, b)
    mapped = jax.vmap(lambda a, i: program(sparse.eye(2), c, BCOO((a, i), shape=(2, 2)), b).primal)
    with pytest.raises(UnsupportedOperationError, match="share one pattern"):
        mapped(jnp.ones((3, 2)), jnp.zeros((3, 2, 2), int))


def test_known_dense_matrices_join_sparse_ones_and_batches_of_entries_broadcast():
    program = ConeProgram(Cones(nonnegative=2))
    entries, indices = jnp.array([[1.0, 1.0], [2.0, 2.0]]), jnp.array([[[0, 0], [1, 1]]])
    A = BCOO((entries, indices), shape=(2, 2, 2))
    found = program(np.eye(2), jnp.array([-3.0, 0.0]), A, jnp.ones(2))
    np.testing.assert_allclose(found.primal, [[1.0, 0.0], [0.5, 0.0]], atol=1e-9)


def test_check_refuses_what_would_be_large_when_dense(monkeypatch):
    monkeypatch.setattr(cone_program, "_LARGEST_REPORT", 3)
    with pytest.raises(UnsupportedOperationError, match=r"info\.verdict"):
        ConeProgram(Cones(nonnegative=2)).check(
            sparse.eye(2), [1.0, 1.0], sparse.eye(2), [1.0, 1.0]
        )


def test_auxiliary_variables_that_are_left_free_do_not_count():
    # min ½x² − x subject to −t ≤ x ≤ t, t ≤ 9, written with all rows: t is free between 1 and 9
    A = sparse.csr_array(np.array([[1.0, -1.0], [-1.0, -1.0], [0.0, 1.0]]))
    P, c, b = sparse.diags([1.0, 0.0]), jnp.array([-1.0, 0.0]), jnp.array([0.0, 0.0, 9.0])
    program = ConeProgram(Cones(nonnegative=3), auxiliary=(1,))

    def solve(c):
        solution = program(P, c, A, b)
        return solution.primal[0], solution.info

    J, info = jax.jit(jax.jacrev(solve, has_aux=True))(c)
    assert info.verdict == 1
    np.testing.assert_allclose(J, [-1.0, 0.0], atol=1e-9)
    assert ConeProgram(Cones(nonnegative=3))(P, c, A, b).info.verdict == -1


def test_a_large_problem_of_cvxpy_is_sparse_by_itself():
    import cvxpy as cp

    n = 150
    x, p = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.sum(x) == 1, x >= 0])
    layers = [CvxpyLayer(problem, [p], [x], solver=name) for name in (None, "interior_point")]
    value, weights = np.random.default_rng(0).normal(size=n), np.arange(n)

    def gradient(layer):
        def weighed(p):
            (x,), info = layer.solve(p)
            return weights @ x, info.solver

        return jax.jit(jax.grad(weighed, has_aux=True))(value)

    grads, solvers = zip(*map(gradient, layers), strict=True)
    assert solvers == (Solver.CLARABEL, Solver.INTERIOR_POINT)
    np.testing.assert_allclose(*grads, atol=1e-8)


@pytest.mark.parametrize(("dtype", "verdict"), [(np.float64, 1), (np.float32, 0)])
def test_weakly_active_rows_that_are_nearly_dependent(dtype, verdict):
    """Two rows at an angle of 1e-3, both weakly active: GGᵀ has the eigenvalue 5e-7, float32 hides it."""
    G = sparse.csr_array(np.array([[1.0, 0.0], [1.0, 1e-3]], dtype))
    P = sparse.eye_array(2, dtype=dtype, format="csr")
    info = ConeProgram(Cones(nonnegative=2))(P, np.zeros(2, dtype), G, np.zeros(2, dtype)).info
    assert info.verdict == verdict
    assert (0 < info.margin < 6e-7) if verdict else info.margin == 0


@pytest.mark.parametrize("n", [3, 200])
def test_entries_with_negative_indices_do_not_count(n):
    """Nor do those beyond the shape, in a call and in a check."""
    own = np.repeat(np.arange(n)[:, None], 2, axis=1)
    places = jnp.asarray(np.concatenate([own, [[-1, -1], [n, 0]]]))
    A = BCOO((-jnp.ones(n + 2), places), shape=(n, n))
    P, p = BCOO((jnp.ones(n), jnp.asarray(own)), shape=(n, n)), jnp.linspace(-1, 1, n) + 0.01
    program = ConeProgram(Cones(nonnegative=n))
    for solve in (program, jax.jit(program)):
        solution = solve(P, -p, A, jnp.zeros(n))
        np.testing.assert_allclose(solution.primal, jnp.maximum(p, 0), atol=1e-12)
    report = program.check(P, -p, A, jnp.zeros(n))
    assert (report.verdict, report.kinks) == (Verdict.PROVEN, ())
