"""Oracles: operators.projections, active sets by brute force, optimality by an LP, differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from conservax.errors import InfeasibleError, InvalidInputError
from conservax.operators import projections
from conservax.programs.polyhedra import (
    projection_birkhoff,
    projection_polyhedron,
    projection_transport,
)
from helpers import central_difference


def padded(G, h, rows):
    """With rows 0ᵀx ≤ 1 that say nothing, so that several sets have one shape."""
    missing = rows - len(h)
    return np.vstack([G, np.zeros((missing, G.shape[1]))]), np.append(h, np.ones(missing))


SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
NORMAL = np.array([1.0, -2.0, 0.5])
# as inequalities, beside the operator with the same name
SETS = {
    "box": (
        np.vstack([-np.eye(3), np.eye(3)]),
        np.array([0.1, 0.2, 0.0, 1.0, 0.5, 2.0]),
        lambda x: projections.projection_box(
            x, (jnp.array([-0.1, -0.2, 0.0]), jnp.array([1.0, 0.5, 2.0]))
        ),
    ),
    "halfspace": (
        NORMAL[None],
        np.array([0.3]),
        lambda x: projections.projection_halfspace(x, (jnp.asarray(NORMAL), 0.3)),
    ),
    # four facets meet in each corner of the cross-polytope, in three dimensions
    "l1 ball": (SIGNS, np.ones(8), projections.projection_l1_ball),
}


def test_boxes_halfspaces_and_balls_meet_the_operators():
    rng = np.random.default_rng(0)
    points = np.vstack([2 * rng.normal(size=(7, 3)), [[5.0, 0.2, -0.1]]])
    sets = [padded(G, h, 8) for G, h, _ in SETS.values()]
    G, h = (jnp.asarray(np.stack(part))[:, None] for part in zip(*sets, strict=True))
    x = jnp.broadcast_to(points, (3, 8, 3))

    @jax.jit
    def both(x):
        def project(x):
            return projection_polyhedron(x, (None, None, G, h))

        # items do not see each other: one sweep per coordinate is the Jacobian of all
        units = jnp.broadcast_to(jnp.eye(3)[:, None, None], (3, *x.shape))
        forward = jax.vmap(lambda unit: jax.jvp(project, (x,), (unit,))[1])(units)
        value, pull = jax.vjp(project, x)
        return value, jnp.moveaxis(forward, 0, -1), jnp.moveaxis(jax.vmap(pull)(units)[0], 0, -2)

    value, forward, reverse = both(x)
    for i, (*_, operator) in enumerate(SETS.values()):
        np.testing.assert_allclose(value[i], jax.vmap(operator)(x[i]), atol=1e-12)
        truth = jax.vmap(jax.jacobian(operator))(x[i])
        np.testing.assert_allclose(forward[i], truth, atol=1e-10)
        np.testing.assert_allclose(reverse[i], truth, atol=1e-10)


def test_the_simplex_in_its_radius_and_its_point():
    def simplex(p, total):
        data = jnp.ones((1, 3)), total[None], -jnp.eye(3), jnp.zeros(3)
        return projection_polyhedron(p, data)

    p, total = jnp.array([1.0, 0.4, -0.6]), jnp.asarray(0.8)
    np.testing.assert_allclose(
        simplex(p, total), projections.projection_simplex(p, total), atol=1e-14
    )
    for found, truth in zip(
        jax.jacobian(simplex, (0, 1))(p, total),
        jax.jacobian(projections.projection_simplex, (0, 1))(p, total),
        strict=True,
    ):
        np.testing.assert_allclose(found, truth, atol=1e-12)


def random_polyhedron(rng, n=3, p=1, m=5):
    A, G, inside = rng.normal(size=(p, n)), rng.normal(size=(m, n)), rng.normal(size=n)
    return A, A @ inside, G, G @ inside + 0.3 * rng.uniform(size=m)


def nearest(x, A, b, G, h):
    """(p, V): the feasible projection onto the face of some active set that has least distance."""
    best, found = np.inf, None
    for size in range(len(x) - len(b) + 1):
        for rows in itertools.combinations(range(len(h)), size):
            M, t = np.vstack([A, G[list(rows)]]), np.append(b, h[list(rows)])
            pinv = np.linalg.pinv(M)
            p = x - pinv @ (M @ x - t)
            if np.all(G @ p <= h + 1e-10) and np.linalg.norm(p - x) < best - 1e-12:
                best, found = np.linalg.norm(p - x), (p, np.eye(len(x)) - pinv @ M)
    return found


@pytest.fixture(scope="module")
def polyhedra():
    """Twelve random ones and a point outside each."""
    rng = np.random.default_rng(1)
    data = [random_polyhedron(rng) for _ in range(12)]
    return 2 * rng.normal(size=(12, 3)), [np.stack(part) for part in zip(*data, strict=True)]


def test_random_polyhedra_meet_brute_force(polyhedra):
    x, data = polyhedra

    @jax.jit
    def both(x, *data):
        value = projection_polyhedron(x, data)
        return value, jax.vmap(jax.jacfwd(lambda x, *d: projection_polyhedron(x, d)))(x, *data)

    value, jacobians = both(jnp.asarray(x), *map(jnp.asarray, data))
    sizes = set()
    for i in range(len(x)):
        p, V = nearest(x[i], *(part[i] for part in data))
        sizes.add(round(3 - np.trace(V)))
        np.testing.assert_allclose(value[i], p, atol=1e-11)
        np.testing.assert_allclose(jacobians[i], V, atol=1e-9)
    assert len(sizes) > 1


def test_derivatives_in_all_of_the_data_meet_differences(polyhedra):
    """And those of second order: how V itself moves with the data."""
    x, data = polyhedra
    rng = np.random.default_rng(2)
    point = tuple(map(jnp.asarray, (x, *data)))
    along = tuple(jnp.asarray(rng.normal(size=part.shape)) for part in point)
    weights = jnp.cos(jnp.arange(3.0))

    def loss(step, chosen):
        moved = [p + step * c * d for p, c, d in zip(point, chosen, along, strict=True)]
        return projection_polyhedron(moved[0], moved[1:]) @ weights

    @jax.jit
    def values_and_slopes(step, chosen):
        value, slope = jax.jvp(lambda s: loss(s, chosen), (step,), (jnp.ones(()),))
        second = jax.jvp(
            lambda s: jax.jvp(lambda t: loss(t, chosen), (s,), (jnp.ones(()),))[1],
            (step,),
            (jnp.ones(()),),
        )[1]
        reverse = jax.grad(lambda s: jnp.sum(loss(s, chosen)))(step)
        return value, slope, second, reverse

    for chosen in (*np.eye(5), np.ones(5)):
        value, slope, second, reverse = values_and_slopes(jnp.zeros(()), chosen)
        up, down = (values_and_slopes(jnp.asarray(s), chosen) for s in (1e-5, -1e-5))
        np.testing.assert_allclose(slope, (up[0] - down[0]) / 2e-5, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(second, (up[1] - down[1]) / 2e-5, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(reverse, np.sum(slope), rtol=1e-9)
        assert np.all(np.isfinite(value))


def test_a_repeated_row_has_a_derivative_in_the_point_but_none_in_the_data():
    """x₁ ≤ 1, written twice."""
    G = jnp.array([[1.0, 0.0], [2.0, 0.0]])

    def project(x, h):
        return projection_polyhedron(x, (None, None, G, h))

    at_x, at_h = jax.jacobian(project, (0, 1))(jnp.array([3.0, 0.5]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(at_x, [[0, 0], [0, 1]], atol=1e-12)
    assert np.all(np.isnan(at_h[0]))
    np.testing.assert_array_equal(at_h[1], 0.0)  # x₂ is none of the rows' business
    inside = jax.jacobian(project, (0, 1))(jnp.array([0.3, 0.5]), jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(inside[0], np.eye(2))
    np.testing.assert_array_equal(inside[1], np.zeros((2, 2)))


def test_the_top_of_a_pyramid_in_value_and_derivative():
    """|x₁| + |x₂| ≤ 1 − x₃: four facets meet; above the top nothing moves."""
    G = jnp.asarray(
        np.column_stack([np.kron([1.0, -1], [1, 1]), np.tile([1.0, -1], 2), np.ones(4)])
    )

    def project(x):
        return projection_polyhedron(x, (None, None, G, jnp.ones(4)))

    top = jnp.array([0.1, -0.2, 4.0])
    np.testing.assert_allclose(project(top), [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(jax.jacobian(project)(top), np.zeros((3, 3)), atol=1e-12)


@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_where_a_row_touches_the_derivative_is_the_chosen_element(selection):
    def project(x):
        return projection_polyhedron(
            x, (None, None, jnp.array([[3.0, 4.0]]), jnp.array([5.0])), selection=selection
        )

    normal = np.array([0.6, 0.8])
    truth = np.eye(2) - (selection == "upper") * np.outer(normal, normal)
    x = jnp.array([3.0, -1.0])
    np.testing.assert_allclose(project(x), x, atol=1e-14)
    np.testing.assert_allclose(jax.jacobian(project)(x), truth, atol=1e-9)


def optimal_plan(P, X):
    """Whether P − X is u_i + v_j on the support of P and at least that elsewhere: an LP in (u, v)."""
    m, n = X.shape
    rows = np.hstack([np.kron(np.eye(m), np.ones((n, 1))), np.kron(np.ones((m, 1)), np.eye(n))])
    gap, used = (P - X).ravel(), P.ravel() > 1e-9
    found = linprog(
        np.zeros(m + n),
        A_ub=rows[~used],
        b_ub=gap[~used] + 1e-9,
        A_eq=rows[used],
        b_eq=gap[used],
        bounds=(None, None),
    )
    return found.status == 0


@pytest.fixture(scope="module")
def plans():
    """Similarities from mild to wild, and marginals."""
    rng = np.random.default_rng(4)
    scale = np.repeat([0.1, 0.5, 2.0, 10.0], 3)[:, None, None]
    r, c = rng.uniform(0.2, 1, size=(12, 3)), rng.uniform(0.2, 1, size=(12, 4))
    return (
        scale * rng.normal(size=(12, 3, 4)),
        r / r.sum(1, keepdims=True),
        c / c.sum(1, keepdims=True),
    )


def test_plans_are_feasible_optimal_and_have_the_slopes_of_differences(plans):
    X, r, c = plans
    rng = np.random.default_rng(5)
    directions = [rng.normal(size=part.shape) for part in plans]
    for part in directions[1:]:
        part -= part.mean(axis=1, keepdims=True)
    weights = jnp.cos(jnp.arange(12.0)).reshape(3, 4)

    @jax.jit
    def sweep(X, r, c):
        def loss(X, r, c):
            return jnp.sum(projection_transport(X, (r, c)) * weights, axis=(1, 2))

        _, pull = jax.vjp(loss, X, r, c)
        return projection_transport(X, (r, c)), pull(jnp.ones(12))

    P, gradients = sweep(X, r, c)
    np.testing.assert_allclose(P.sum(2), r, atol=1e-13)
    np.testing.assert_allclose(P.sum(1), c, atol=1e-13)
    assert np.min(P) >= 0
    assert all(optimal_plan(np.asarray(p), x) for p, x in zip(P, X, strict=True))
    h = 1e-6
    for j, (gradient, along) in enumerate(zip(gradients, directions, strict=True)):
        up, down = (
            sweep(*plans[:j], plans[j] + step * along, *plans[j + 1 :])[0] for step in (h, -h)
        )
        truth = np.sum((up - down) * weights, axis=(1, 2)) / (2 * h)
        slope = np.sum(np.asarray(gradient) * along, axis=tuple(range(1, along.ndim)))
        np.testing.assert_allclose(slope, truth, rtol=1e-6, atol=1e-7)
    # marginals move along Σr = Σc alone
    np.testing.assert_allclose(gradients[1].sum(1), gradients[2].sum(1), atol=1e-9)


def test_doubly_stochastic_matrices_of_order_two_in_closed_form():
    """P = [[t, 1 − t], [1 − t, t]], t = clip(½ + (x₁₁ + x₂₂ − x₁₂ − x₂₁)/4, 0, 1)."""
    sign = np.array([[1.0, -1], [-1, 1]])
    X = np.array([[[0.2, 0.1], [-0.3, 0.5]], [[3.0, 0.1], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    t = np.clip(0.5 + np.sum(X * sign, axis=(1, 2)) / 4, 0, 1)[:, None, None]
    moving = np.multiply.outer(sign, sign) / 4
    for selection, at_the_corner in (("lower", moving), ("upper", 0 * moving)):

        @jax.jit
        def both(X, selection=selection):
            jacobian = jax.jacfwd(lambda x: projection_birkhoff(x, selection=selection))
            return projection_birkhoff(X, selection=selection), jax.vmap(jacobian)(X)

        P, jacobians = both(X)
        np.testing.assert_allclose(P, np.where(sign > 0, t, 1 - t), atol=1e-12)
        for jacobian, truth in zip(jacobians, (moving, 0 * moving, at_the_corner), strict=True):
            np.testing.assert_allclose(jacobian, truth, atol=1e-9)


def test_far_out_the_projection_is_the_assignment_and_stands_still():
    """A permutation: k² + k − 1 rows meet there, in k² dimensions."""
    rng = np.random.default_rng(6)
    X = 100 * rng.normal(size=(6, 3, 3))

    @jax.jit
    def sweep(X):
        value, pull = jax.vjp(lambda X: projection_birkhoff(X), X)
        return value, pull(jnp.asarray(rng.normal(size=X.shape)))[0]

    P, gradient = sweep(X)
    for matrix, plan in zip(X, P, strict=True):
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        truth = np.zeros((3, 3))
        truth[rows, columns] = 1
        np.testing.assert_allclose(plan, truth, atol=1e-12)
    np.testing.assert_allclose(gradient, np.zeros_like(X), atol=1e-14)
    ones = jnp.ones(3)
    at_r = jax.jacfwd(lambda r: projection_transport(jnp.asarray(X[0]), (r, ones)))(ones)
    assert np.all(np.isnan(at_r))


def test_a_marginal_of_zero_leaves_its_row_empty():
    X = jnp.asarray(np.random.default_rng(7).normal(size=(3, 3)))
    r, c = jnp.array([0.0, 0.3, 0.2]), jnp.array([0.1, 0.0, 0.4])
    P = projection_transport(X, (r, c))
    np.testing.assert_allclose(P[0], 0, atol=1e-12)
    np.testing.assert_allclose(P[:, 1], 0, atol=1e-12)
    inner = np.ix_([1, 2], [0, 2])
    alone = projection_transport(X[inner], (r[1:], c[jnp.array([0, 2])]))
    np.testing.assert_allclose(P[inner], alone, atol=1e-10)
    jacobian = jax.jacobian(lambda X: projection_transport(X, (r, c)))(X)
    truth = central_difference(
        lambda x: projection_transport(jnp.asarray(x.reshape(3, 3)), (r, c)).ravel(), X.ravel()
    )
    np.testing.assert_allclose(jacobian.reshape(9, 9), truth, atol=1e-7)


def test_the_map_over_a_batch_is_the_batch(plans):
    X, r, c = map(jnp.asarray, plans)
    batch = jax.jit(projection_transport)(X, (r, c))
    mapped = jax.jit(jax.vmap(projection_transport))(X, (r, c))
    np.testing.assert_allclose(mapped, batch, atol=1e-13)
    alone = projection_transport(X[0], (r[0], c[0]))
    np.testing.assert_allclose(alone, batch[0], atol=1e-13)
    shared = projection_transport(X, (r[0], c[0]))
    np.testing.assert_allclose(shared[0], batch[0], atol=1e-13)


def test_a_failed_item_is_nan_in_value_and_derivative_and_alone(plans):
    X, r, c = (jnp.asarray(part) for part in plans)
    bad = r.at[1].multiply(2.0).at[2, 0].set(-0.1)

    @jax.jit
    def sweep(X):
        value, pull = jax.vjp(lambda X: projection_transport(X, (bad, c)), X)
        return value, pull(jnp.ones_like(value))[0]

    lost = np.isin(np.arange(12), [1, 2])
    for part in sweep(X):
        assert np.all(np.isnan(part[lost]))
        assert np.all(np.isfinite(part[~lost]))


def test_single_precision(plans):
    X, r, c = (jnp.asarray(part[:6], jnp.float32) for part in plans)
    P = projection_transport(X, (r, c))
    assert P.dtype == jnp.float32
    np.testing.assert_allclose(P, projection_transport(*_doubled(X, r, c)), atol=2e-6)


def _doubled(X, r, c):
    X, r, c = (part.astype(jnp.float64) for part in (X, r, c))
    return X, (r, c * (r.sum(1) / c.sum(1))[:, None])


EYE, ONE = np.eye(2), np.ones(2)
BAD = [
    (lambda: projection_polyhedron(1.0, (None, None, EYE, ONE)), "x must be"),
    (lambda: projection_polyhedron(ONE, (EYE, ONE)), "the four"),
    (lambda: projection_polyhedron(ONE, (EYE, None, None, None)), "come together"),
    (lambda: projection_polyhedron(ONE, (None, None, np.ones((2, 3)), ONE)), "G has shape"),
    (lambda: projection_polyhedron(ONE, (None, None, np.nan * EYE, ONE)), "G holds NaN"),
    (lambda: projection_polyhedron(ONE, (None, None, EYE, ONE), selection="jax"), "selection"),
    (lambda: projection_transport(ONE, (ONE, ONE)), "x must be"),
    (lambda: projection_transport(EYE, ONE[:1]), "two vectors"),
    (lambda: projection_transport(EYE, (ONE, np.ones(3))), "marginals have shapes"),
    (lambda: projection_transport(EYE, (ONE, np.inf * ONE)), "c holds NaN or infinity"),
    (lambda: projection_birkhoff(np.ones((2, 3))), r"x must be \(..., k, k\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_empty_sets_are_refused():
    with pytest.raises(InfeasibleError, match="contradicts"):
        projection_polyhedron(ONE, (None, None, np.array([[1.0, 0], [-1, 0]]), -ONE))
    with pytest.raises(InfeasibleError, match="add up to 2 and the column sums to 4"):
        projection_transport(EYE, (ONE, 2 * ONE))
    with pytest.raises(InfeasibleError, match="negative"):
        projection_transport(EYE, (np.array([-1.0, 3]), ONE))


def test_no_constraint_is_the_identity():
    np.testing.assert_array_equal(projection_polyhedron(ONE, (None,) * 4), ONE)
