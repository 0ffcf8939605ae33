"""Problems as people write them in CVXPY: closed forms, shadow prices, central differences."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.programs import CvxpyLayer
from programs.compiled import with_jacobian


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def slope(fun, point, direction, step=1e-5):
    """A central difference along one direction."""
    return (fun(point + step * direction) - fun(point - step * direction)) / (2 * step)


def test_maximum_entropy_is_an_exponential_family(rng):
    # max −Σ p log p subject to Σ p = 1, F p = m: dp/dm = diag(p) (F − m)ᵀ Cov⁻¹
    count, moments = 7, 2
    F = rng.normal(size=(moments, count))
    p, m = cp.Variable(count), cp.Parameter(moments)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(p))), [cp.sum(p) == 1, F @ p == m])
    layer = CvxpyLayer(problem, [m], [p])
    theta = np.array([0.4, -0.3])
    weights = np.exp(F.T @ theta)
    weights /= weights.sum()
    mean = F @ weights
    centred = F - mean[:, None]
    covariance = (centred * weights) @ centred.T
    expected = weights[:, None] * np.linalg.solve(covariance, centred).T

    def solve(m):
        (found,), info = layer.solve(m)
        return found, (found, info)

    J, (found, info) = jax.jit(jax.jacrev(solve, has_aux=True))(jnp.asarray(mean))
    np.testing.assert_allclose(found, weights, atol=1e-8)
    np.testing.assert_allclose(J, expected, atol=1e-6)
    assert info.verdict == 1


def test_least_squares_in_a_box_and_an_l1_ball_in_its_data(rng):
    # the active set stands still next to the point: there the solution is that of a linear system
    rows, n = 8, 5
    A, b, x = cp.Parameter((rows, n)), cp.Parameter(rows), cp.Variable(n)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(A @ x - b)), [cp.norm1(x) <= 1.5, cp.abs(x) <= 0.6]
    )
    layer = CvxpyLayer(problem, [A, b], [x])
    values = jnp.asarray(rng.normal(size=(rows, n))), jnp.asarray(2 * rng.normal(size=rows))
    weights = jnp.arange(1.0, n + 1)

    def weighed(A, b):
        (x,) = layer(A, b)
        return weights @ x, x

    run = jax.jit(jax.value_and_grad(weighed, (0, 1), has_aux=True))
    (_, solution), found = run(*values)
    assert np.sum(np.abs(np.abs(solution) - 0.6) < 1e-8) >= 1  # the box
    assert abs(np.abs(solution).sum() - 1.5) < 1e-8  # the ball
    for k, own in enumerate(found):
        direction = jnp.asarray(rng.normal(size=values[k].shape))

        def along(moved, k=k):
            return run(*values[:k], moved, *values[k + 1 :])[0][0]

        np.testing.assert_allclose(
            jnp.sum(own * direction), slope(along, values[k], direction), rtol=1e-6
        )


def test_kalman_smoothing_is_linear_in_the_measurements(rng):
    # min Σ‖w_t‖² + ρ Σ (y_t − Cx_t)² subject to x_{t+1} = Ax_t + Bw_t: least squares in (x₀, w)
    steps = 20
    A, B, C = np.array([[1.0, 0.5], [0.0, 0.9]]), np.array([0.125, 0.5]), np.array([1.0, 0.0])
    x, w = cp.Variable((2, steps)), cp.Variable(steps - 1)
    y, root = cp.Parameter(steps), cp.Parameter(nonneg=True)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(w) + cp.sum_squares(root * (C @ x) - y)),
        [x[:, 1:] == A @ x[:, :-1] + B[:, None] @ cp.reshape(w, (1, steps - 1), order="F")],
    )
    layer = CvxpyLayer(problem, [y, root], [x])

    def smoothed(y, root):
        """The positions by normal equations."""
        powers = [np.linalg.matrix_power(A, t) for t in range(steps)]
        start = np.stack([C @ power for power in powers])
        noise = np.array(
            [
                [C @ powers[t - 1 - s] @ B if s < t else 0.0 for s in range(steps - 1)]
                for t in range(steps)
            ]
        )
        G = jnp.asarray(np.hstack([start, noise]))
        ridge = jnp.diag(jnp.concatenate([jnp.zeros(2), jnp.ones(steps - 1)]))
        return G @ jnp.linalg.solve(root**2 * G.T @ G + ridge, root * G.T @ y)

    track = jnp.asarray(np.cumsum(rng.normal(size=steps)))
    root_value = jnp.asarray(0.7)

    def position(y, root):
        return layer(y, root)[0][0]

    x, found = with_jacobian(position, (0, 1))(track, root_value)
    value, expected = with_jacobian(smoothed, (0, 1))(track, root_value)
    np.testing.assert_allclose(x, value, atol=1e-9)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-8)


# the nine-bus system of Anderson and Fouad, as in MATPOWER's case9: per unit of 100 MVA
BRANCHES = (  # from, to, resistance, reactance, charging
    (0, 3, 0.0, 0.0576, 0.0),
    (3, 4, 0.017, 0.092, 0.158),
    (4, 5, 0.039, 0.17, 0.358),
    (2, 5, 0.0, 0.0586, 0.0),
    (5, 6, 0.0119, 0.1008, 0.209),
    (6, 7, 0.0085, 0.072, 0.149),
    (7, 1, 0.0, 0.0625, 0.0),
    (7, 8, 0.032, 0.161, 0.306),
    (8, 3, 0.01, 0.085, 0.176),
)
COST = np.array([[0.11, 5.0], [0.085, 1.2], [0.1225, 1.0]])  # of P in MW: quadratic, linear
LOADS = {4: (0.9, 0.3), 6: (1.0, 0.35), 8: (1.25, 0.5)}


def optimal_power_flow():
    """Jabr's second-order cone relaxation; the active loads are the parameter."""
    buses, count = 9, len(BRANCHES)
    Y = np.zeros((buses, buses), complex)
    for i, j, r, x, charging in BRANCHES:
        series = 1 / complex(r, x)
        Y[i, i] += series + 0.5j * charging
        Y[j, j] += series + 0.5j * charging
        Y[i, j] -= series
        Y[j, i] -= series
    u = cp.Variable(buses)  # squared voltages
    c, s = cp.Variable(count), cp.Variable(count)  # v_i v_j cos and sin of the angle between
    p, q = cp.Variable(3), cp.Variable(3)
    load = cp.Parameter(3)
    reactive = np.array([LOADS[bus][1] for bus in LOADS])
    constraints: list = [u >= 0.81, u <= 1.21, p >= 0.1, p <= [2.5, 3.0, 2.7], cp.abs(q) <= 3]
    balance = []
    for bus in range(buses):
        active, other = Y[bus, bus].real * u[bus], -Y[bus, bus].imag * u[bus]
        for k, (i, j, *_) in enumerate(BRANCHES):
            if bus in (i, j):
                far, sign = (j, 1) if bus == i else (i, -1)
                G, S = Y[bus, far].real, Y[bus, far].imag
                active = active + G * c[k] + S * sign * s[k]
                other = other + G * sign * s[k] - S * c[k]
        if bus < 3:
            active, other = active - p[bus], other - q[bus]
        if bus in LOADS:
            k = list(LOADS).index(bus)
            active, other = active + load[k], other + reactive[k]
        balance.append(active == 0)
        constraints.append(other == 0)
    for k, (i, j, *_) in enumerate(BRANCHES):
        constraints.append(cp.SOC(u[i] + u[j], cp.hstack([2 * c[k], 2 * s[k], u[i] - u[j]])))
    cost = cp.sum(cp.multiply(COST[:, 0] * 100, cp.square(p)) + cp.multiply(COST[:, 1], p))
    # a slight preference among the reactive powers, on which the cost does not depend
    problem = cp.Problem(cp.Minimize(cost + 1e-1 * cp.sum_squares(q)), constraints + balance)
    prices = [balance[bus].dual_variables[0] for bus in LOADS]
    return CvxpyLayer(problem, [load], [p, q, *prices])


def test_optimal_power_flow_and_its_prices():
    layer = optimal_power_flow()
    load = np.array([LOADS[bus][0] for bus in LOADS])

    def solve(load):
        outputs, info = layer.solve(load)
        return outputs[:2], (outputs, info)

    run = jax.jit(jax.jacrev(solve, has_aux=True))
    (of_p, of_q), ((p, q, *prices), info) = run(load)
    assert info.verdict == 1
    losses = p.sum() - load.sum()
    assert 0.02 < losses < 0.06  # some 3 MW of 315
    # the shadow prices of the balances are the derivative of the cost
    gradient = (200 * COST[:, 0] * p + COST[:, 1]) @ of_p + 0.2 * q @ of_q
    np.testing.assert_allclose(gradient, np.ravel(prices), rtol=1e-6)
    direction = np.array([1.0, -0.5, 0.3])
    difference = slope(lambda load: run(load)[1][0][0], load, direction, 1e-4)
    np.testing.assert_allclose(of_p @ direction, difference, atol=1e-4)
