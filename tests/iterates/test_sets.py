"""The set-valued recursion and ``check``: closed forms, brute force over words, random selections."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict

it = cx.iterates


def coupled_step(s, a):
    """y⁺ = max(0, y/2 − a) + w/4, w⁺ = y."""
    return jnp.stack([jnp.maximum(0.0, s[0] / 2 - a) + s[1] / 4, s[0]])


COUPLED = it.from_step(coupled_step)
PLAIN = it.from_step(lambda y, a: jnp.maximum(0.0, y / 2 - a))


def talk(x, t):
    """x²/2 for x ≥ 0, x²/8 below: C^{1,1}, not C²."""
    return jnp.where(x > 0, x**2 / 2, x**2 / 8) - 0 * t


def closed_form(terms=30):
    """The vertices of the limit of the coupled example at a = 0."""
    k = np.arange(terms)
    small = 4.0**-k
    length = -4 / 3 - small * (7 / 6 + k / 2)
    first = [[0, 0], [-4, -4], [-1, -4], [-4 / 3, 0], [0, -4 / 3]]
    return np.concatenate([first, np.stack([length, -small], 1), np.stack([-small / 4, length], 1)])


def hull_distance(point, points):
    """The distance of a point to the hull of others in the plane, by its edges."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(points)
    if np.all(hull.equations[:, :2] @ point + hull.equations[:, 2] <= 0):
        return 0.0
    best = np.inf
    for i, j in hull.simplices:
        edge = points[j] - points[i]
        t = np.clip(np.dot(point - points[i], edge) / np.dot(edge, edge), 0, 1)
        best = min(best, np.linalg.norm(points[i] + t * edge - point))
    return best


def test_the_coupled_example_in_closed_form():
    """The limit is strictly larger than the implicit set, the segment (t, t), −4 ≤ t ≤ 0."""
    sets = it.piggyback_set(COUPLED, jnp.zeros(2), 0.0, 200)
    assert sets.contraction.verdict == Verdict.PROVEN
    assert sets.error < 1e-9
    found, known = sets.vertices()[:, :, 0], closed_form()
    assert max(hull_distance(v, known) for v in found) < 1e-9
    assert max(sets.distance(v) for v in known) < 1e-9
    assert sets.gap == pytest.approx(3 / np.sqrt(2), abs=1e-8)  # (−1, −4) to (t, t)
    low, high = sets.bounds()
    np.testing.assert_allclose(low.ravel(), [-4, -4], atol=1e-8)
    np.testing.assert_allclose(high.ravel(), [0, 0], atol=1e-8)
    # a true invariant set: its images are its own hull
    A = [np.array([[0.5 * q, 0.25], [1, 0]]) for q in (0, 1)]
    B = [np.array([-q, 0]) for q in (0, 1)]
    images = np.concatenate([known @ a.T + b for a, b in zip(A, B, strict=True)])
    assert max(hull_distance(v, known) for v in images) < 1e-9
    assert max(hull_distance(v, images) for v in known) < 1e-9


@pytest.mark.parametrize("steps", [3, 8])
def test_the_error_bounds_the_distance_to_the_limit(steps):
    sets = it.piggyback_set(COUPLED, jnp.zeros(2), 0.0, steps)
    found, known = sets.vertices()[:, :, 0], closed_form()
    distance = max(
        max(hull_distance(v, known) for v in found), max(sets.distance(v) for v in known)
    )
    assert 0 < distance <= sets.error
    low, high = sets.bounds()
    assert np.all(low.ravel() <= -4)
    assert np.all(high.ravel() >= 0)


def test_every_word_from_an_initial_derivative_lies_in_the_hull():
    steps, start = 6, np.array([[1.0], [2.0]])
    sets = it.piggyback_set(COUPLED, jnp.zeros(2), 0.0, steps, initial=start[:, 0])
    ends = []
    for word in itertools.product((0.0, 1.0), repeat=steps):
        X = start
        for q in word:
            X = np.array([[0.5 * q, 0.25], [1, 0]]) @ X + np.array([[-q], [0]])
        ends.append(X[:, 0])
        assert sets.distance(X) < 1e-12
    ends = np.array(ends)
    assert max(hull_distance(v, ends) for v in sets.vertices()[:, :, 0]) < 1e-12


def test_without_coupling_the_hulls_are_equal():
    sets = it.piggyback_set(PLAIN, 0.0, 0.0, 60)
    np.testing.assert_allclose(np.sort(sets.vertices().ravel()), [-2, 0], atol=1e-12)
    assert sets.gap < 1e-12
    with pytest.raises(cx.errors.InvalidInputError, match="must have shape"):
        sets.distance(np.zeros(3))


@pytest.mark.parametrize("selection", ["lower", "upper", "jax"])
def test_at_a_kink_every_derivative_lies_in_its_set(selection):
    step = cx.select(coupled_step, selection)
    alg = it.from_step(step)
    sets = it.piggyback_set(COUPLED, jnp.zeros(2), 0.0, 200)
    _, J = it.piggyback(alg, 100)(jnp.zeros(2), jnp.zeros(()))
    assert sets.contains(J)
    implicit = jax.jacobian(lambda a: it.implicit(alg)(jnp.zeros(2), a))(jnp.zeros(()))
    J_set = cx.implicit_jacobian(COUPLED.residual)(jnp.zeros(2), 0.0)
    assert J_set.contains(np.asarray(implicit)[:, None])
    assert sets.contains(implicit)


def test_heavy_ball_and_gradient_descent():
    """The talk's example: PROVEN implicit derivative; the heavy ball's iteration is REFUTED."""
    ball = it.check(it.heavy_ball(talk, 1.0, 0.75), 0.0, 0.0)
    assert ball.implicit.verdict == Verdict.PROVEN
    assert ball.contraction.verdict == Verdict.REFUTED
    assert ball.limit_is_implicit is False
    assert ball.law == "no rate"
    product = np.eye(2)
    for i in ball.contraction.word:
        product = ball.contraction.matrices[i] @ product
    assert np.sort(np.linalg.eigvals(product).real) == pytest.approx([-9 / 8, -9 / 32], abs=1e-12)
    descent = it.check(it.gradient_descent(talk, 1.0), 0.0, 0.0)
    assert descent.implicit.verdict == descent.contraction.verdict == Verdict.PROVEN
    assert descent.limit_is_implicit is True
    assert descent.rate == pytest.approx(0.75, abs=1e-9)
    assert descent.law == "ρ^{t/2}"
    for report in (ball, descent):
        json.dumps(report.to_dict(), allow_nan=False)
        assert report.contraction.verdict.name in str(report)
        assert "where at test_sets.py" in str(report)


def test_a_strict_inclusion_is_told():
    report = it.check(COUPLED, jnp.zeros(2), 0.0)
    assert report.implicit.verdict == report.contraction.verdict == Verdict.PROVEN
    assert report.limit_is_implicit is False
    assert report.gap == pytest.approx(3 / np.sqrt(2), rel=0.05)
    assert it.check(PLAIN, 0.0, 0.0).limit_is_implicit is True


def test_sinkhorn_contracts_in_the_quotient():
    rng = np.random.default_rng(0)
    theta = (rng.uniform(size=(4, 3)), np.full(4, 0.25), np.full(3, 1 / 3), 0.3)
    alg = it.sinkhorn()
    plan = it.implicit(alg, tol=1e-14)(None, theta)
    report = it.check(alg, plan, theta)
    sigma = np.linalg.svd(np.asarray(plan) * np.sqrt(12), compute_uv=False)
    assert report.free == 1
    assert report.implicit.verdict == report.contraction.verdict == Verdict.PROVEN
    assert report.contraction.lower == pytest.approx(sigma[1] ** 2, abs=1e-9)
    assert report.limit_is_implicit is True
    assert report.law == "t ρᵗ"
    whole = np.asarray(plan) @ np.diag(1 / theta[2]) @ np.asarray(plan).T / 0.25
    assert np.abs(np.linalg.eigvals(whole)).max() == pytest.approx(1)  # not contracting without it


def test_the_state_is_found_from_the_output():
    """Douglas–Rachford: z is not x; the rate is that of the smooth piece."""
    H, c = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([4.0, 0.2])
    alg = it.douglas_rachford(
        lambda v, t, step: jnp.linalg.solve(jnp.eye(2) + step * H, v + step * c),
        lambda v, t, step: cx.proximal.prox_lasso(v, t, step),
        1.0,
    )
    x = it.implicit(alg, tol=1e-13)(jnp.zeros(2), 1.0)
    np.testing.assert_allclose(x, [1.0, 0.0], atol=1e-10)  # 3 x₁ = 4 − 1; |1·1 − 0.2| ≤ 1
    report = it.check(alg, x, 1.0)
    assert report.limit_is_implicit is True
    R = np.linalg.inv(np.eye(2) + H)
    D = np.diag([1.0, 0.0])
    M = np.eye(2) + D @ (2 * R - np.eye(2)) - R
    assert report.contraction.lower == pytest.approx(np.abs(np.linalg.eigvals(M)).max(), abs=1e-9)
    with pytest.raises(cx.errors.NotARootError, match="x is no output of a fixed point"):
        it.check(alg, x + 0.5, 1.0)


def test_no_fixed_point_is_refused():
    runaway = it.gradient_descent(lambda x, t: 5 * (x - t) ** 2, 0.3)
    with pytest.raises(cx.errors.NotConvergedError, match=r"step = 0\.3 .*2/L = 0\.2"):
        it.check(runaway, 0.0, 1.0)
    with pytest.raises(cx.errors.InvalidInputError, match="x0 holds NaN"):
        it.check(runaway, np.nan, 1.0)
    with pytest.raises(cx.errors.InvalidInputError, match="alg must be an Algorithm"):
        it.check(coupled_step, jnp.zeros(2), 0.0)


def test_many_kinks_are_decided_by_a_norm():
    """2²⁰ vertices, and ‖A‖₂ ≤ 1/2 for each."""
    alg = it.from_step(lambda y, a: jnp.maximum(0.0, y / 2 - a))
    report = it.check(alg, jnp.zeros(20), jnp.zeros(20))
    assert report.contraction.verdict == Verdict.PROVEN
    assert report.rate == pytest.approx(0.5, rel=1e-9)
    assert report.limit_is_implicit is None
    expanding = it.from_step(lambda y, a: jnp.maximum(0.0, 4 * y - a))
    report = it.check(expanding, jnp.zeros(20), jnp.zeros(20))
    assert report.contraction.verdict == Verdict.REFUTED
