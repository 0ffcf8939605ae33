"""Sinkhorn: marginals, derivatives beside finite differences, hard kernels, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.solution import Status

it = cx.iterates
SINKHORN = it.sinkhorn()
PLAN = it.implicit(SINKHORN, tol=1e-13)


def problem(n, m, epsilon=0.5, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(n) * 3), rng.dirichlet(np.ones(m) * 3)
    return rng.uniform(size=(n, m)), a, b, epsilon


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_value_and_every_gradient_beside_finite_differences(shape):
    theta = problem(*shape)
    weights = np.random.default_rng(1).normal(size=shape)

    @jax.jit
    def value_and_slopes(theta):
        return jax.value_and_grad(lambda t: jnp.sum(weights * PLAN(None, t) ** 2))(theta)

    _, slopes = value_and_slopes(theta)
    rng = np.random.default_rng(2)
    h = 1e-5
    for which in range(4):
        d = np.asarray(rng.normal(size=np.shape(theta[which])))
        if which in (1, 2):
            d = (d - d.mean()) * 0.01  # marginals along Σd = 0
        moved = [
            value_and_slopes((*theta[:which], theta[which] + s * h * d, *theta[which + 1 :]))[0]
            for s in (1, -1)
        ]
        np.testing.assert_allclose(
            np.sum(slopes[which] * d), (moved[0] - moved[1]) / (2 * h), atol=1e-8
        )


def test_the_marginals_hold_where_the_kernel_underflows():
    cost, a, b, _ = problem(6, 9)
    for epsilon in (1.0, 1e-2, 5e-4):
        found = it.implicit(SINKHORN, tol=1e-9, max_steps=200_000).solve(
            None, (cost, a, b, epsilon)
        )
        assert int(found.status) == Status.SOLVED
        np.testing.assert_allclose(found.value.sum(1), a, rtol=1e-8)
        np.testing.assert_allclose(found.value.sum(0), b, rtol=1e-8)
    assert np.sum(found.value * cost) <= np.sum(np.outer(a, b) * cost)


def test_the_plan_is_optimal():
    """log P + C/ε has rank-one structure u ⊕ v: all its 2 × 2 second differences vanish."""
    cost, a, b, epsilon = problem(5, 4, 0.3)
    log_kernel = np.log(PLAN(None, (cost, a, b, epsilon))) + cost / epsilon
    second = log_kernel - log_kernel[:1] - log_kernel[:, :1] + log_kernel[0, 0]
    np.testing.assert_allclose(second, 0, atol=1e-12)


def test_a_plan_is_a_warm_start():
    theta = problem(5, 8, 0.1)
    plan = PLAN(None, theta)
    cold, warm = (PLAN.solve(x0, theta).stats.steps for x0 in (None, plan))
    assert int(warm) <= 3 < int(cold)


def test_the_iteration_contracts_at_the_squared_second_singular_value():
    theta = problem(5, 8, 0.3)
    plan = np.asarray(PLAN(None, theta))
    sigma = np.linalg.svd(plan / np.sqrt(np.outer(theta[1], theta[2])), compute_uv=False)
    found = it.implicit(SINKHORN, tol=1e-10).solve(None, theta)
    assert float(found.stats.rate) == pytest.approx(sigma[1] ** 2, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({3: 0.0}, "epsilon=0 must be positive"),
        ({3: -1.0}, "epsilon=-1 must be positive"),
        ({1: np.full(3, 0.5)}, "the marginals have different sums, 1.5 and 1"),
        ({1: np.array([0.5, 0.5, 0.0])}, r"a\[2\] = 0 must be positive"),
        ({2: np.ones(3) / 3}, "theta is .* of shapes"),
        ({0: np.array([[np.nan] * 4] * 3)}, "theta.* holds NaN"),
    ],
)
def test_bad_input(change, text):
    theta = list(problem(3, 4))
    for place, value in change.items():
        theta[place] = value
    with pytest.raises(cx.errors.InvalidInputError, match=text):
        PLAN(None, tuple(theta))


def test_other_bad_input():
    theta = problem(3, 4)
    with pytest.raises(cx.errors.InvalidInputError, match=r"theta is \(cost, a, b, epsilon\)"):
        PLAN(None, theta[:3])
    with pytest.raises(cx.errors.InvalidInputError, match="x0 is None or a plan"):
        PLAN(np.ones(3), theta)
    with pytest.raises(cx.errors.InvalidInputError, match="leave out solve"):
        jax.jacfwd(lambda t: it.implicit(SINKHORN, solve=None)(None, (*theta[:3], t)))(1.0)
    bad = jax.jit(lambda t: PLAN(None, t))((*theta[:3], -1.0))
    assert np.all(np.isnan(bad))
