"""Verdicts on cases whose answer is known, witnesses that one SVD confirms, margins by sampling."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.invertibility import Verdict

relu = jax.nn.relu


def hinge(y, a):
    return y - relu(y / 2 - a)


def phi(v, w):
    return jnp.stack([jnp.abs(v[0]) + v[1], 2 * v[0] + jnp.abs(v[1])]) - w


def confirm(equation, sol, *args, report):
    """The witness is an element of ∂F/∂sol, and singular: one SVD."""
    J = cx.conservative_jacobian(equation, 0, rtol=report.tolerance)(sol, *args)
    B = J.element(report.witness.selection)
    values = np.linalg.svd(B, compute_uv=False)
    assert values[-1] <= 1e-12 * max(values[0], 1.0)
    np.testing.assert_allclose(values[-1], report.witness.sigma_min, atol=1e-12)
    np.testing.assert_allclose(values[0], report.witness.sigma_max, rtol=1e-12)
    null = report.witness.null_vector
    np.testing.assert_allclose(np.linalg.norm(null), 1, rtol=1e-12)
    np.testing.assert_allclose(B @ null, 0, atol=1e-12 * max(values[0], 1.0))


def sampled_smallest(equation, sol, *args, count=400):
    J = cx.conservative_jacobian(equation, 0)(sol, *args)
    return np.linalg.svd(J.sample(jax.random.key(0), count), compute_uv=False)[:, -1].min()


def test_the_hinge_is_proven():
    report = cx.check(hinge, 0.0, 0.0)
    assert report.verdict == Verdict.PROVEN
    assert report.witness is None
    np.testing.assert_allclose(report.margin, 0.5, rtol=1e-6)  # B = 1 − q/2
    assert report.margin <= 0.5
    np.testing.assert_allclose(report.lipschitz, 2.0, rtol=1e-9)
    assert report.clarke_exact
    assert report.n_vertices == 2
    assert report.determinant_signs == (0, 0, 2)
    assert [k.operation for k in report.kinks] == ["relu"]
    assert report.residual == 0.0


def test_example_1_is_proven():
    report = cx.check(phi, jnp.zeros(2), jnp.zeros(2))
    assert report.verdict == Verdict.PROVEN
    assert report.determinant_signs == (4, 0, 0)  # −1, −3, −3, −1
    assert 0 < report.margin <= sampled_smallest(phi, jnp.zeros(2), jnp.zeros(2))
    inverses = [np.linalg.inv([[s, 1.0], [2.0, t]]) for s in (-1, 1) for t in (-1, 1)]
    np.testing.assert_allclose(
        report.lipschitz, max(np.linalg.norm(i, 2) for i in inverses), rtol=1e-9
    )


def test_between_two_invertible_vertices_a_singular_element_refutes():
    equation = lambda y, t: y - 2 * relu(y) - t  # noqa: E731
    report = cx.check(equation, 0.0, 0.0)
    assert report.verdict == Verdict.REFUTED
    np.testing.assert_allclose(report.witness.selection, [0.5], atol=1e-14)
    assert report.determinant_signs == (1, 0, 1)
    assert report.margin is None
    assert report.lipschitz is None
    confirm(equation, 0.0, 0.0, report=report)


def test_a_singular_vertex_refutes():
    equation = lambda y, t: y - relu(y) - t  # noqa: E731
    report = cx.check(equation, 0.0, 0.0)
    assert report.verdict == Verdict.REFUTED
    np.testing.assert_array_equal(report.witness.selection, [1.0])
    confirm(equation, 0.0, 0.0, report=report)


def test_a_singular_smooth_root_refutes():
    equation = lambda y, t: jnp.stack([y[0] ** 2, y[1] - t])  # noqa: E731
    report = cx.check(equation, jnp.array([0.0, 1.0]), 1.0)
    assert report.verdict == Verdict.REFUTED
    assert report.kinks == ()
    confirm(equation, jnp.array([0.0, 1.0]), 1.0, report=report)
    np.testing.assert_allclose(np.abs(report.witness.null_vector), [1, 0], atol=1e-12)


def test_a_singular_element_inside_a_cube_refutes():
    """det = 1 − 2 q₁ q₂ … over three kinks: zero only deep inside."""

    def equation(y, t):
        p = [relu(y[0]), relu(y[1]), relu(y[2])]
        return jnp.stack([y[0] - 2 * p[2], y[1] - p[0], y[2] - p[1]]) - t

    report = cx.check(equation, jnp.zeros(3), jnp.zeros(3))
    assert report.verdict == Verdict.REFUTED
    assert np.isclose(2 * np.prod(report.witness.selection), 1)
    confirm(equation, jnp.zeros(3), jnp.zeros(3), report=report)


def nested(seed):
    """A random program with nested kinks, y ↦ M y + |C relu(A y)|."""
    rng = np.random.default_rng(seed)
    M, A, C = rng.normal(size=(3, 2, 2))

    def equation(y, t):
        return M @ y + C @ jnp.abs(relu(A @ y) + y) - t

    return equation, (M, A, C)


def determinants(matrices, count=4000):
    M, A, C = matrices
    rng = np.random.default_rng(0)
    corners = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    q = np.concatenate([corners, rng.uniform(size=(count, 4)), rng.beta(0.3, 0.3, size=(count, 4))])
    first, second = q[:, :2], 2 * q[:, 2:] - 1
    inner = first[:, :, None] * A + np.eye(2)
    return np.linalg.det(M + C @ (second[:, :, None] * inner)), corners.shape[0]


@pytest.mark.parametrize("seed", range(12))
def test_random_nested_programs_against_brute_force(seed):
    equation, matrices = nested(seed)
    det, corners = determinants(matrices)
    report = cx.check(equation, jnp.zeros(2), jnp.zeros(2))
    same_sign = np.all(det[:corners] > 0) or np.all(det[:corners] < 0)
    assert report.verdict == (Verdict.PROVEN if same_sign else Verdict.REFUTED)
    assert report.n_vertices == corners
    if same_sign:
        assert np.all(np.sign(det) == np.sign(det[0]))  # nothing sampled contradicts it
        assert report.margin <= sampled_smallest(equation, jnp.zeros(2), jnp.zeros(2)) + 1e-12
    else:
        confirm(equation, jnp.zeros(2), jnp.zeros(2), report=report)


def search_nested_hull():
    """Nested kinks: all vertex determinants ≥ 1, and yet a singular matrix in their hull.

    B = M + h₁ r₁ᵀ + h₂ r₂ᵀ with r₁ = q₁ g and r₂ = q₂ (e + c r₁): one weight multiplies another.
    """
    rng = np.random.default_rng(4)
    while True:
        M, H = rng.normal(size=(2, 2, 2))
        g, e = rng.normal(size=(2, 2))
        c = 4 * rng.normal()

        def element(q1, q2, M=M, H=H, g=g, e=e, c=c):
            r1 = q1 * g
            r2 = q2 * (e + c * r1)
            return M + np.outer(H[0], r1) + np.outer(H[1], r2)

        vertices = [element(a, b) for a in (0, 1) for b in (0, 1)]
        if min(np.linalg.det(v) for v in vertices) < 1:
            continue
        weights = rng.dirichlet(np.full(4, 0.3), size=2000)
        hull = np.linalg.det(np.einsum("wv,vij->wij", weights, np.array(vertices)))
        if hull.min() < -0.1:
            return M, H, g, e, c


def test_a_singular_matrix_in_the_hull_of_nested_kinks_does_not_refute():
    M, H, g, e, c = search_nested_hull()

    def equation(y, t):
        p1 = relu(g @ y)
        p2 = relu(e @ y + c * p1)
        return M @ y + H[0] * p1 + H[1] * p2 - t

    report = cx.check(equation, jnp.zeros(2), jnp.zeros(2))
    assert report.verdict == Verdict.PROVEN
    assert report.determinant_signs == (0, 0, 4)
    assert 0 < report.margin <= sampled_smallest(equation, jnp.zeros(2), jnp.zeros(2), count=2000)


def test_ties_are_simplices_not_cubes():
    # B = 1 + 0.9 (w₁ + 2 w₂ − w₃) is at least 0.1 with w on the simplex
    equation = lambda y, t: y + 0.9 * jnp.max(jnp.stack([y, 2 * y, -y])) - t  # noqa: E731
    report = cx.check(equation, 0.0, 0.0)
    assert report.verdict == Verdict.PROVEN
    assert report.n_vertices == 3
    np.testing.assert_allclose(report.margin, 0.1, rtol=1e-6)
    worse = lambda y, t: y + 1.1 * jnp.max(jnp.stack([y, 2 * y, -y])) - t  # noqa: E731
    report = cx.check(worse, 0.0, 0.0)
    assert report.verdict == Verdict.REFUTED
    np.testing.assert_allclose(np.sum(report.witness.selection), 1, atol=1e-12)
    confirm(worse, 0.0, 0.0, report=report)


@pytest.mark.parametrize("seed", range(4))
def test_random_ties_against_sampling(seed):
    rng = np.random.default_rng(seed)
    A, c = rng.normal(size=(3, 2)), rng.normal(size=2)
    M = 1.5 * np.eye(2)
    equation = lambda y, t: M @ y + c * jnp.max(A @ y) + jnp.array([1.0, 0.0]) * relu(y[0]) - t  # noqa: E731
    report = cx.check(equation, jnp.zeros(2), jnp.zeros(2))
    elements = [M + np.outer(c, A[i]) + np.diag([q, 0.0]) for i in range(3) for q in (0, 1)]
    signs = {np.sign(np.linalg.det(e)) for e in elements}
    assert report.verdict == (Verdict.PROVEN if len(signs) == 1 else Verdict.REFUTED)
    assert report.n_vertices == 6
    if len(signs) == 1:
        assert report.margin <= sampled_smallest(equation, jnp.zeros(2), jnp.zeros(2))
    else:
        confirm(equation, jnp.zeros(2), jnp.zeros(2), report=report)


def test_kinks_that_do_not_see_each_other_are_decided_one_by_one():
    for n in (12, 13, 40):
        report = cx.check(lambda y, t: y - relu(y / 2 - t), jnp.zeros(n), jnp.zeros(n))
        assert report.verdict == Verdict.PROVEN
        assert len(report.kinks) == n
        assert 0 < report.margin <= 0.5
    # a singular base or neighbour refutes without enumeration
    report = cx.check(lambda y, t: y - relu(y) - t, jnp.zeros(13), jnp.zeros(13))
    assert report.verdict == Verdict.REFUTED


def test_kinks_that_move_nothing_do_not_count_towards_the_limit():
    equation = lambda y, t: y - 0.5 * relu(y) - jnp.sum(jnp.abs(t))  # noqa: E731
    report = cx.check(equation, 0.0, jnp.zeros(15))
    assert report.verdict == Verdict.PROVEN
    assert report.n_vertices == 2


def test_smooth_roots_are_proven_with_their_exact_margin():
    A = np.array([[3.0, 1.0], [0.0, 2.0]])
    report = cx.check(lambda y, t: A @ y - t, np.linalg.solve(A, np.ones(2)), np.ones(2))
    assert report.verdict == Verdict.PROVEN
    smallest = np.linalg.svd(A, compute_uv=False)[-1]
    assert 0.999 * smallest < report.margin <= smallest
    np.testing.assert_allclose(report.lipschitz, 1 / smallest, rtol=1e-9)


def test_a_contraction_is_always_proven():
    rng = np.random.default_rng(0)
    for _ in range(5):
        W = rng.normal(size=(4, 4))
        W *= 0.9 / np.linalg.norm(W, 2)
        report = cx.check(contraction, jnp.zeros(4), jnp.zeros(4), W)
        assert report.verdict == Verdict.PROVEN
        assert report.margin > 0


def contraction(z, x, W):
    return z - relu(W @ z + x)


def test_lipschitz_concerns_the_chosen_arguments():
    equation = lambda y, a, b: 2 * y - 3 * a - jnp.abs(8 * b)  # noqa: E731
    lipschitz = lambda **kw: cx.check(equation, 0.0, 0.0, 0.0, **kw).lipschitz  # noqa: E731
    np.testing.assert_allclose(lipschitz(argnums=(0,)), 1.5)
    np.testing.assert_allclose(lipschitz(argnums=(1,)), 4.0)
    np.testing.assert_allclose(lipschitz(), np.hypot(1.5, 4.0))
    assert cx.check(equation, 0.0, 0.0, 0.0, argnums=()).verdict == Verdict.PROVEN


def test_the_hull_is_not_called_clarke_where_kinks_depend_on_each_other():
    # |t| − |t|: the program's set is {−2, 0, 2}, the Clarke set {0}
    report = cx.check(lambda y, t: y - jnp.abs(t) + jnp.abs(1 * t), 0.0, 0.0)
    assert report.verdict == Verdict.PROVEN
    assert not report.clarke_exact


def test_integer_arguments_are_left_alone():
    report = cx.check(lambda y, t, n: y - relu(y / n - t), 0.0, 0.0, 2)
    assert report.verdict == Verdict.PROVEN
    np.testing.assert_allclose(report.lipschitz, 2.0)


def test_the_tolerance_follows_the_residual():
    equation = lambda y, a: y - 1 - relu((y - 1) / 2 - a)  # noqa: E731
    exact = cx.check(equation, 1.0, 1e-5)  # y = 1 is the root; the kink is 1e-5 away
    assert exact.kinks == ()
    np.testing.assert_allclose(exact.nearest_inactive.distance, 1e-5, rtol=1e-6)
    rough = cx.check(equation, 1.0 + 1e-8, 1e-5)
    assert len(rough.kinks) == 1
    assert rough.tolerance > 10 * exact.tolerance
    assert len(cx.check(equation, 1.0, 1e-5, rtol=1e-3).kinks) == 1


def test_the_report_prints_and_serialises():
    refuted = lambda y, t: y - 2 * relu(y) - t  # noqa: E731
    for equation, word in ((hinge, "proven"), (refuted, "refuted")):
        report = cx.check(equation, 0.0, 0.0)
        assert word.upper() in str(report)
        assert "test_check.py" in str(report)
        data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert data["verdict"] == word
        assert word.upper() in report._repr_html_()


def test_bad_input_gives_no_verdict():
    with pytest.raises(errors.NotARootError):
        cx.check(hinge, 1.0, 1.0)
    with pytest.raises(errors.InvalidInputError, match="sol"):
        cx.check(hinge, np.nan, 0.0)
    with pytest.raises(errors.InvalidInputError, match="1 numbers for a solution of 2"):
        cx.check(lambda y, t: jnp.sum(y) - t, jnp.zeros(2), 0.0)
    with pytest.raises(errors.UnsupportedOperationError, match=r"test_check\.py"):
        cx.check(lambda y, t: jax.lax.nextafter(y, y) - t, 0.0, 0.0)
    with pytest.raises(errors.DiscontinuousError, match=r"test_check\.py"):
        cx.check(lambda y, t: y - jnp.where(y > t, y + 1, y), 0.0, 0.0)


def test_pytree_solutions():
    def equation(sol, t):
        return {"u": sol["u"] - relu(sol["u"] / 2 - t), "v": [2 * sol["v"][0] - sol["u"]]}

    report = cx.check(equation, {"u": 0.0, "v": [0.0]}, 0.0)
    assert report.verdict == Verdict.PROVEN
    np.testing.assert_allclose(report.lipschitz, np.hypot(2, 1), rtol=1e-9)


def test_a_solvers_error_at_a_root_where_all_terms_vanish():
    hinge = lambda y, a: y - jax.nn.relu(y / 2 - a)  # noqa: E731
    assert cx.check(hinge, 1e-9, 1e-9).verdict == Verdict.PROVEN


# A witness can be verified by anyone.


def test_recheck_rebuilds_the_element():
    report = cx.check(lambda s, p: jnp.abs(s) - p, 0.0, 0.0)
    assert report.recheck() == (0.0, 0.0)  # the slope between −1 and 1
    rng = np.random.default_rng(0)
    refuted = 0
    for _ in range(20):
        W = jnp.asarray(rng.normal(size=(4, 4)))
        report = cx.check(lambda y, W=W: y - jax.nn.relu(W @ y), jnp.zeros(4))
        if report.verdict == Verdict.REFUTED:
            smallest, largest = report.recheck()
            element = np.eye(4) - np.diag(report.witness.selection) @ np.asarray(W)
            by_hand = np.linalg.svd(element, compute_uv=False)
            assert smallest < 1e-10 * largest
            np.testing.assert_allclose([largest, smallest], by_hand[[0, -1]], atol=1e-12)
            refuted += 1
    assert refuted > 5


def test_recheck_refuses_an_altered_witness_and_a_proof():
    report = cx.check(lambda s, p: jnp.abs(s) - p, 0.0, 0.0)
    altered = dataclasses.replace(
        report, witness=dataclasses.replace(report.witness, selection=np.array([0.75]))
    )
    with pytest.raises(errors.ConservaxError, match="does not hold"):
        altered.recheck()
    proven = cx.check(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), 0.0, 0.0)
    with pytest.raises(errors.InvalidInputError, match="PROVEN"):
        proven.recheck()


def test_lipschitz_beyond_the_vertices_is_an_upper_bound():
    rng = np.random.default_rng(1)
    W = jnp.asarray(0.5 * rng.normal(size=(30, 30)) / np.sqrt(30))
    F = lambda y, b: y - jax.nn.relu(W @ y + b)  # noqa: E731
    report = cx.check(F, jnp.zeros(30), jnp.zeros(30))
    assert report.verdict == Verdict.PROVEN
    sample = cx.implicit_jacobian(F)(jnp.zeros(30), jnp.zeros(30)).sample(jax.random.key(0), 50)
    largest = np.linalg.norm(sample, 2, axis=(1, 2)).max()
    assert largest <= report.lipschitz <= 20 * largest


def test_a_report_is_json_with_rigour_and_work():
    data = cx.check(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), 0.0, 0.0).to_dict()
    assert data["rigour"] == "exact"
    assert sum(data["work"].values()) > 0
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_a_small_budget_leaves_it_open_and_says_how_much_would_do():
    def ring(y):
        return y - relu((1.5 * jnp.roll(y, 1)).at[0].multiply(-1))

    report = cx.check(ring, jnp.zeros(18), budget=1000)
    assert report.verdict == Verdict.UNKNOWN
    assert "budget" in report.undecided
    assert report.undecided[1:] in " ".join(str(report).split())
    decided = cx.check(ring, jnp.zeros(18))
    assert decided.verdict == Verdict.PROVEN
    # 17 gains in a row leave σ_min below 1.5⁻¹⁷
    chain = np.eye(18) - 1.5 * np.eye(18, k=-1)
    smallest = np.linalg.svd(chain, compute_uv=False)[-1]
    assert 0 < decided.margin <= smallest < 1.5**-17
    with pytest.raises(errors.InvalidInputError, match="budget"):
        cx.check(ring, jnp.zeros(2), budget=0)


def test_verified_proves_root_and_verdict_on_a_ball():
    """y = relu(y/2 − a) at its kink a = 0: B ∈ [½, 1]."""
    report = cx.check(hinge, 0.0, 0.0, verified=True)
    assert report.verdict == Verdict.PROVEN
    assert 0 <= report.proof.error <= 1e-15 < report.proof.radius
    assert 0.49 < report.margin <= 0.5
    assert "it is the only one within" in str(report)
    assert "theorem" in str(report)
    assert report.to_dict()["proof"]["center"] == [0.0]
    assert cx.check(hinge, 0.0, 0.0).proof is None


def test_verified_says_unknown_where_the_certificate_alone_would_not():
    """Two shears, each element of determinant 1, the middle of their hull singular."""

    def shears(y, a):
        first = y[0] + 2 * jax.nn.relu(y[1]) - a
        return jnp.stack([first, y[1] - 2 * jax.nn.relu(first)])

    at = jnp.zeros(2), 0.0
    assert cx.check(shears, *at).verdict == Verdict.PROVEN
    report = cx.check(shears, *at, verified=True)
    assert report.verdict == Verdict.UNKNOWN
    assert report.margin is None
    assert "no proof on the ball" in report.reason
    assert "cx.polish" in str(report)


def test_verified_does_not_hide_a_refutation():
    report = cx.check(lambda s, p: jnp.abs(s) - p, 0.0, 0.0, verified=True)
    assert report.verdict == Verdict.REFUTED
    assert report.proof is None


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-9, -1e-9, 1e-6])
def test_a_solvers_noise_does_not_hide_a_weakly_active_kink(noise):
    """p = max(0, W p + c) with (W p + c)₁ = 0: the kink is found at the noise's distance, and polished."""
    W = jnp.array([[0.0, 0.5], [0.25, 0.0]])
    root = jnp.array([1.0, 0.0])
    c = jnp.array([1.0, -0.25])

    def equation(p, c):
        return p - relu(W @ p + c)

    noisy = root + noise * jnp.array([1.0, -0.5])
    report = cx.check(equation, noisy, c)
    assert [k.index for k in report.kinks] == [(1,)]
    assert report.verdict == Verdict.PROVEN
    assert len(cx.implicit_jacobian(equation)(noisy, c).vertices()) == 2
    polished = cx.polish(equation, noisy, c)
    np.testing.assert_allclose(polished, root, atol=1e-15)
    again = cx.check(equation, polished, c)
    assert again.margin == pytest.approx(report.margin, rel=1e-5)
