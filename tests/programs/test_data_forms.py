"""In which forms data come: Python's numbers, lists, batches of nothing, sparse matrices of every kind."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

import conservax as cx
from conservax.errors import InvalidInputError
from conservax.programs import ConeProgram, Cones, CvxpyLayer, QuadraticProgram


@pytest.fixture(scope="module")
def square():
    u, h = cp.Variable(), cp.Parameter()
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.square(u - h))), [h], [u])


@pytest.mark.parametrize("derive", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("kind", [float, np.float64, jnp.float64])
def test_a_number_is_a_parameter_of_a_layer(square, kind, derive):
    at = kind(1.5)
    np.testing.assert_allclose(derive(lambda h: square(h)[0] ** 2)(at), 3.0, rtol=1e-12)
    np.testing.assert_allclose(derive(jax.grad(lambda h: square(h)[0] ** 2))(at), 2.0, rtol=1e-12)


EYE = np.eye(2)
OF_LISTS = {  # argmin ½t‖x‖² + t(x₁ + x₂) over x ≥ −½ … ≥ −t: x = −½ or −t for t < 1
    "cone": lambda t: ConeProgram(Cones(nonnegative=2))(
        [[t, 0.0], [0.0, t]], [t, t], [[-1.0, 0.0], [0.0, -1.0]], [t, 0.5]
    ),
    "quadratic": lambda t: QuadraticProgram()(
        [[t, 0.0], [0.0, t]], [t, t], G=[[-1.0, 0.0], [0.0, -1.0]], h=[t, 0.5]
    ),
    "interior point": lambda t: ConeProgram(Cones(nonnegative=2), solver="interior_point")(
        [[t, 0.0], [0.0, t]], [t, t], [[-1.0, 0.0], [0.0, -1.0]], [t, 0.5]
    ),
    "closest": lambda t: QuadraticProgram(infeasible="closest")(
        [[t, 0.0], [0.0, t]], [t, t], G=[[-1.0, 0.0], [0.0, -1.0]], h=[t, 0.5]
    ),
}


@pytest.mark.parametrize("name", OF_LISTS)
def test_lists_may_hold_numbers_that_are_differentiated(name):
    for derive in (jax.jacrev, jax.jacfwd):
        slope = derive(lambda t: OF_LISTS[name](t).primal)(0.25)
        np.testing.assert_allclose(slope, [-1.0, 0.0], atol=1e-8)


def test_penalties_in_a_list_are_differentiated():
    X = np.sqrt(2) * np.eye(2)
    slope = jax.jacobian(lambda a: cx.sparse.slope(X, X @ np.array([5.0, 3.0]), [a, 1.0]))(1.5)
    np.testing.assert_allclose(slope, [-1.0, 0.0], atol=1e-9)


EMPTY = {
    "nonnegative": Cones(nonnegative=2),
    "second order": Cones(second_order=(3,)),
    "semidefinite": Cones(semidefinite=(2,)),
    "exponential": Cones(exponential=1),
    "power": Cones(power=(0.3,)),
    "none": Cones(),
}


@pytest.mark.parametrize("solver", ["auto", "interior_point"])
@pytest.mark.parametrize("kind", EMPTY)
def test_a_batch_of_nothing(kind, solver):
    cones = EMPTY[kind]
    if solver == "interior_point" and not cones.symmetric:
        return
    n, none = 3, jnp.zeros((0, 3))
    A, b = -np.eye(cones.size, n), np.zeros(cones.size)
    program = ConeProgram(cones, solver=solver)

    def solve(p, A=A):
        return program(np.eye(n), -p, A, b).primal

    assert solve(none).shape == (0, n)
    assert jax.jvp(solve, (none,), (none,))[1].shape == (0, n)
    assert jax.grad(lambda p: solve(p).sum())(none).shape == (0, n)
    assert jax.hessian(lambda p: (solve(p) ** 2).sum())(none).shape == (0, n, 0, n)
    # what all items share has the gradient of an empty sum
    shared = jax.grad(lambda A: solve(none, A).sum())(jnp.asarray(A))
    np.testing.assert_array_equal(shared, np.zeros(A.shape))


def test_layers_and_options_take_a_batch_of_nothing():
    u, h, B = cp.Variable(2), cp.Parameter(2), cp.Parameter((2, 2))
    distance = cp.norm(u - h) + cp.sum_squares(u) + cp.sum(B @ u)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(distance)), [h, B], [u])
    none, shared = jnp.zeros((0, 2)), jnp.ones((2, 2))
    assert layer(none, shared)[0].shape == (0, 2)
    found = jax.grad(lambda h, B: layer(h, B)[0].sum(), argnums=(0, 1))(none, shared)
    assert found[0].shape == (0, 2)
    np.testing.assert_array_equal(found[1], np.zeros((2, 2)))
    for options in ({"infeasible": "closest"}, {"perturbed": 1.0}):
        program = QuadraticProgram(**options)

        def total(p, program=program):
            return program(np.eye(2), p, G=np.eye(2), h=np.ones(2)).primal.sum()

        assert jax.grad(total)(none).shape == (0, 2)


def test_a_program_without_variables_is_refused_by_name():
    with pytest.raises(InvalidInputError, match="at least one variable"):
        QuadraticProgram()(np.zeros((0, 0)), np.zeros(0), G=np.zeros((2, 0)), h=np.ones(2))


G = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]])
RIGHT, PULL = np.array([0.5, -0.1, 0.6]), np.array([1.0, 1.0])


def of_G(G):
    return ConeProgram(Cones(nonnegative=3))(np.eye(2), -PULL, G, RIGHT).primal


def test_compressed_rows_of_jax():
    compressed = sparse.BCSR.fromdense(jnp.asarray(G), nse=6)  # two more than there are
    rows, columns = (np.array(part) for part in zip((0, 0), (0, 1), (1, 1), (2, 0), strict=True))
    want = jax.jacobian(of_G)(jnp.asarray(G))[:, rows, columns]

    def of_data(data):
        return of_G(sparse.BCSR((data, compressed.indices, compressed.indptr), shape=G.shape))

    np.testing.assert_allclose(of_G(compressed), of_G(G), atol=1e-12)
    for transform in (lambda f: f, jax.jit):
        slope = transform(jax.jacobian(of_data))(compressed.data)
        np.testing.assert_allclose(slope[:, :4], want, atol=1e-10)
        np.testing.assert_array_equal(slope[:, 4:], 0.0)
    np.testing.assert_allclose(jax.jit(of_G)(compressed), of_G(G), atol=1e-12)


def test_other_sparse_matrices_of_jax_are_refused():
    own = sparse.CSR.fromdense(jnp.asarray(G))
    with pytest.raises(InvalidInputError, match=r"A is a CSR .* BCOO\.fromdense"):
        of_G(own)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, sparse.BCOO.fromdense])
def test_quadratic_programs_take_sparse_matrices(kind):
    E, e = np.array([[1.0, -1.0]]), np.array([0.1])
    program = QuadraticProgram()
    want = program(np.eye(2), -PULL, E, e, G, RIGHT)
    for A, own in ((E, kind(G)), (kind(E), G), (kind(E), kind(G))):
        found = program(np.eye(2), -PULL, A, e, own, RIGHT)
        np.testing.assert_allclose(found.primal, want.primal, atol=1e-12)
        np.testing.assert_allclose(found.dual, want.dual, atol=1e-9)
    alone = program(kind(np.eye(2)), -PULL, G=kind(G), h=RIGHT)
    np.testing.assert_allclose(alone.primal, of_G(G), atol=1e-12)


def test_entries_outside_one_of_two_sparse_matrices_do_not_reach_the_other():
    E = sparse.BCOO(
        (jnp.array([1.0, -1.0, 9.0]), jnp.array([[0, 0], [0, 1], [1, 0]])), shape=(1, 2)
    )
    found = QuadraticProgram()(
        np.eye(2), -PULL, E, np.array([0.1]), sparse.BCOO.fromdense(G), RIGHT
    )
    want = QuadraticProgram()(np.eye(2), -PULL, np.array([[1.0, -1.0]]), np.array([0.1]), G, RIGHT)
    np.testing.assert_allclose(found.primal, want.primal, atol=1e-12)


def test_gradients_in_stored_entries_of_a_quadratic_program():
    places = jnp.array([[0, 0], [0, 1], [1, 1], [2, 0]])

    def of_data(data):
        own = sparse.BCOO((data, places), shape=G.shape)
        return QuadraticProgram()(
            scipy.sparse.eye(2), -PULL, [[1.0, -1.0]], [0.1], own, RIGHT
        ).primal

    def of_dense(G):
        return QuadraticProgram()(np.eye(2), -PULL, [[1.0, -1.0]], [0.1], G, RIGHT).primal

    want = jax.jacobian(of_dense)(jnp.asarray(G))[:, places[:, 0], places[:, 1]]
    slope = jax.jacobian(of_data)(jnp.array([1.0, 2.0, -1.0, 3.0]))
    np.testing.assert_allclose(slope, want, atol=1e-10)
