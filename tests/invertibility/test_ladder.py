"""``certify`` on forms made by hand: closed forms, brute force over vertices, samples, SVDs."""

import numpy as np
import pytest

from conservax import errors
from conservax.calculus import AbsNormal
from conservax.calculus.sets.abs_normal import Group, Kink
from conservax.calculus.tracing.locations import Location
from conservax.invertibility import Rigour, Verdict, certify, ladder
from soundness import groups_of


def form_of(A, H, E, L=None, ways=None, dtype=np.float64):
    """A + H (I − D L)⁻¹ D E with scalar kinks, or with ties of the given numbers of ways."""
    A, H, E = (np.asarray(M, float) for M in (A, H, E))
    k = H.shape[1]
    L = np.zeros((k, k)) if L is None else np.asarray(L, float)
    return AbsNormal(A, H, E, L, groups_of(ways or [1] * k), None, dtype)


def of_matrix(N, dtype=np.float64):
    """The form whose reduced matrix is N: B(q) = I − (I − N) diag(q) up to similarity."""
    k = len(N)
    return form_of(np.eye(k), np.asarray(N, float) - np.eye(k), np.eye(k), dtype=dtype)


def regrouped(form, *groups):
    return AbsNormal(form.A, form.H, form.E, form.L, groups, None, form.dtype)


def singular_values(form, selection):
    return np.linalg.svd(form.jacobian(form.diagonal(selection)), compute_uv=False)


def confirm(form, certificate):
    """The witness is an admissible selection with a singular element: one SVD."""
    q = certificate.witness.selection
    at = 0
    for g in form.groups:
        g.check(q[at : at + g.ways])
        at += g.ways
    smallest, largest = certificate.witness.recheck(form)
    np.testing.assert_allclose(largest, certificate.witness.sigma_max, rtol=1e-9)
    assert smallest < 1e-10 * max(largest, np.linalg.norm(form.A, 2))
    B = form.jacobian(form.diagonal(q))
    assert np.linalg.norm(B @ certificate.witness.null_vector) < 1e-9 * np.linalg.norm(form.A, 2)


def corners(k):
    return np.array(np.meshgrid(*[[0.0, 1.0]] * k)).reshape(k, -1).T


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("at_once", [0, 1 << 6])
def test_verdicts_agree_with_determinant_signs_and_margins_with_vertices(
    seed, at_once, monkeypatch
):
    monkeypatch.setattr(ladder, "_AT_ONCE", at_once)
    rng = np.random.default_rng(seed)
    k, n = 4, 3
    form = form_of(
        np.eye(n) + 0.3 * rng.normal(size=(n, n)),
        rng.normal(size=(n, k)) / 2,
        rng.normal(size=(k, n)) / 2,
        np.tril(rng.normal(size=(k, k)), -1),
    )
    det = np.linalg.det(form.jacobian(corners(k)))
    certificate = certify(form)
    one_sign = np.all(det > 0) or np.all(det < 0)
    assert certificate.verdict == (Verdict.PROVEN if one_sign else Verdict.REFUTED)
    assert certificate.rigour == Rigour.EXACT
    assert certificate.determinant_signs == (np.sum(det < 0), 0, np.sum(det > 0))
    assert certificate.n_vertices == 2**k
    at_corners = np.linalg.svd(form.jacobian(corners(k)), compute_uv=False)[:, -1].min()
    if one_sign:
        # docs/theory.md#margins: the smallest singular value over the set is attained at a vertex
        inside = np.linalg.svd(form.jacobian(rng.uniform(size=(2000, k))), compute_uv=False)
        assert inside[:, -1].min() >= at_corners - 1e-12
        np.testing.assert_allclose(certificate.sigma_min, at_corners, rtol=1e-9)
        assert (1 - 1e-9) * at_corners < certificate.margin <= at_corners
    else:
        confirm(form, certificate)


def test_one_kink_in_closed_form():
    # B = 1 − 2q
    certificate = certify(form_of([[1.0]], [[-2.0]], [[1.0]]))
    assert certificate.verdict == Verdict.REFUTED
    np.testing.assert_allclose(certificate.witness.selection, [0.5], atol=1e-15)
    # B = 1 − q/2: at least ½
    certificate = certify(form_of([[1.0]], [[-0.5]], [[1.0]]))
    assert certificate.verdict == Verdict.PROVEN
    np.testing.assert_allclose(certificate.margin, 0.5, rtol=1e-12)


def test_determinants_far_apart_in_size_still_give_an_exact_witness():
    # det = 1e-6 (1 − q) − 1e6 q
    form = form_of([[1e-6]], [[-1e6 - 1e-6]], [[1.0]])
    certificate = certify(form)
    assert certificate.verdict == Verdict.REFUTED
    np.testing.assert_allclose(
        certificate.witness.selection, [1e-6 / (1e6 + 1e-6)], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_verdict_does_not_depend_on_the_units_of_the_equations(size):
    A, H, E = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0], [0.5]]), np.array([[0.3, -0.4]])
    unit, scaled = certify(form_of(A, H, E)), certify(form_of(size * A, size * H, E))
    assert unit.verdict == scaled.verdict == Verdict.PROVEN
    np.testing.assert_allclose(scaled.margin, size * unit.margin, rtol=1e-9)


def test_a_matrix_singular_to_the_users_precision_is_refuted_at_the_tolerance():
    A, none = np.diag([1.0, 1e-9]), np.zeros((2, 0))
    assert certify(form_of(A, none, none.T)).verdict == Verdict.PROVEN
    single = certify(form_of(A, none, none.T, dtype=np.float32))
    assert (single.verdict, single.rigour) == (Verdict.REFUTED, Rigour.AT_TOLERANCE)
    zero = certify(form_of(np.zeros((2, 2)), none, none.T))
    assert zero.verdict == Verdict.REFUTED
    assert zero.determinant_signs == (0, 1, 0)
    # an invertible vertex, singular to float32: det = 1 − (1 − 1e-9) q
    form = form_of([[1.0]], [[-(1 - 1e-9)]], [[1.0]])
    assert certify(form).verdict == Verdict.PROVEN
    form = form_of(np.eye(2), [[-(1 - 1e-9)], [0.0]], [[1.0, 0.0]], dtype=np.float32)
    found = certify(form)
    assert (found.verdict, found.rigour) == (Verdict.REFUTED, Rigour.AT_TOLERANCE)
    np.testing.assert_array_equal(found.witness.selection, [1.0])


def test_a_witness_that_moves_a_kink_only_near_active_holds_at_the_tolerance():
    form = form_of([[1.0]], [[-2.0]], [[1.0]])
    near = Kink("max", Location("model.py", 1), (), 1e-9, 1e-8, (0.0, 1.0), True)
    form = regrouped(form, Group(near, (0,), (0.5,)))
    assert certify(form).rigour == Rigour.AT_TOLERANCE


def test_ties_are_simplices():
    # a three-way tie: 1, 1 + 1, 1 − ½
    certificate = certify(form_of([[1.0]], [[1.0, 1.0]], [[1.0], [-0.5]], ways=[3]))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.n_vertices == 3
    np.testing.assert_allclose(certificate.margin, 0.5, rtol=1e-12)
    form = form_of([[1.0]], [[1.0, 1.0]], [[1.0], [-3.0]], ways=[3])
    refuted = certify(form)
    assert refuted.verdict == Verdict.REFUTED
    confirm(form, refuted)
    # as independent weights 1 − 0.6 q₁ − 0.6 q₂ would vanish; on the simplex it does not
    form = form_of([[1.0]], [[1.0, 1.0]], [[-0.6], [-0.6]], ways=[3])
    assert certify(form).verdict == Verdict.PROVEN


def test_a_tie_with_unequal_columns_is_not_taken_for_a_row():
    # det = (1 − w₁)(1 − w₂), zero at both unit weights
    form = form_of(np.eye(2), -np.eye(2), np.eye(2), ways=[3])
    certificate = certify(form)
    assert certificate.verdict == Verdict.REFUTED
    confirm(form, certificate)
    # det = (1 − 0.9 w₁)(1 − 0.9 w₂)
    form = form_of(np.eye(2), -0.9 * np.eye(2), np.eye(2), ways=[3])
    assert certify(form).verdict == Verdict.PROVEN


def test_a_tie_with_unequal_columns_that_is_singular_amid_its_vertices_alone():
    # det = 1 − g w₁ w₂ with w₁ + w₂ ≤ 1: least at w₁ = w₂ = ½, where it is 1 − g/4
    def crossed(g):
        return form_of(np.eye(2), [[0.0, g], [1.0, 0.0]], np.eye(2), ways=[3])

    assert certify(crossed(3.8)).verdict == Verdict.PROVEN
    refuted = certify(crossed(4.2))
    assert refuted.verdict == Verdict.REFUTED
    confirm(crossed(4.2), refuted)


def test_a_tie_with_columns_that_differ_for_another_kink_alone():
    # a kink behind the tie sees b w₂: B = 1 + q b w₂
    def behind(b):
        L = np.zeros((3, 3))
        L[2, 1] = b
        return form_of([[1.0]], [[0.0, 0.0, 1.0]], [[1.0], [1.0], [0.0]], L, ways=[3, 1])

    refuted = certify(behind(-2.0))
    assert refuted.verdict == Verdict.REFUTED
    confirm(behind(-2.0), refuted)
    assert certify(behind(-0.9)).verdict == Verdict.PROVEN


def test_kinks_that_move_nothing_are_left_out():
    k = 30
    H = np.zeros((1, k))
    H[0, 3] = 0.5
    certificate = certify(form_of([[1.0]], H, np.ones((k, 1))))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.n_vertices == 2


def test_feed_forward_kinks_are_decided_one_by_one_however_many():
    rng = np.random.default_rng(0)
    k = 200
    A = np.eye(3)
    H = np.zeros((3, k))
    H[0, -1] = 1.0
    E = np.zeros((k, 3))
    E[0, 1] = 1.0
    L = np.tril(rng.normal(size=(k, k)), -1)
    certificate = certify(form_of(A, H, E, L))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.work.minors + certificate.work.boxes <= k


def test_a_chain_of_kinks_stretches_the_margin_of_each():
    # kink i + 1 sees twice kink i: B = [[1, 0], [s, 1]], s = 2¹² q₁ ⋯ q₁₃, beyond the vertices that are visited
    k = 13
    E, H = np.zeros((k, 2)), np.zeros((2, k))
    E[0, 0] = H[1, -1] = 1.0
    certificate = certify(form_of(np.eye(2), H, E, 2 * np.eye(k, k=-1)))
    assert (certificate.verdict, certificate.n_vertices) == (Verdict.PROVEN, 0)
    least = 2 / (2.0**12 + np.sqrt(2.0**24 + 4))
    assert 0.4 * least < certificate.margin <= least


def test_decoupled_blocks_beyond_enumeration():
    certificate = certify(form_of(np.eye(40), 0.5 * np.eye(40), np.eye(40)))
    assert certificate.verdict == Verdict.PROVEN
    assert 0 < certificate.margin <= 1
    form = form_of(np.eye(40), -3 * np.eye(40), np.eye(40))
    refuted = certify(form)
    assert refuted.verdict == Verdict.REFUTED
    confirm(form, refuted)


def test_a_permuted_base_with_zeros_on_its_diagonal():
    A = np.roll(np.eye(4), 1, axis=0)
    certificate = certify(form_of(A, 0.5 * A, np.eye(4)))
    assert certificate.verdict == Verdict.PROVEN
    np.testing.assert_allclose(certificate.margin, 1.0, rtol=1e-9)


def shared(A, H, E):
    form = form_of(A, H, E)
    k = form.H.shape[1]
    return regrouped(form, Group(form.groups[0].kink, tuple(range(k)), (0.5,)))


def test_one_weight_for_several_columns():
    # det = (1 − 2q)²: equal signs at the vertices, and singular between them
    form = shared(np.eye(2), -2 * np.eye(2), np.eye(2))
    certificate = certify(form)
    assert certificate.verdict == Verdict.REFUTED
    np.testing.assert_allclose(certificate.witness.selection, [0.5])
    confirm(form, certificate)
    # det = (1 − q/2)²: proven although the columns share a weight
    assert certify(shared(np.eye(2), -np.eye(2) / 2, np.eye(2))).verdict == Verdict.PROVEN
    # det = 1 + 4 q² is positive for one weight; with independent weights 1 + 4 q₁ q₂ is, too
    rotation = np.array([[0.0, 2.0], [-2.0, 0.0]])
    assert certify(shared(np.eye(2), rotation, np.eye(2))).verdict == Verdict.PROVEN
    # det = 1 − 1.5 q + 0.9 q², discriminant < 0; independent: 1 − 1.5 q₁ at q₂ = 0 vanishes
    H = np.array([[-1.5, -0.9], [1.0, 0.0]])
    form = shared(np.eye(2), H, np.eye(2))
    q = np.linspace(0, 1, 1001)[:, None]
    assert np.linalg.det(form.jacobian(form.diagonal(q))).min() > 0
    assert certify(form).verdict == Verdict.PROVEN


def test_the_cyclic_matrix_with_equal_vertex_signs_and_a_singular_mean():
    X = np.array([[3.0, 3, 0], [0, 3, 3], [3, 0, 3]])
    Y = np.array([[1.0, 1, 4], [4, 1, 1], [1, 4, 1]])
    np.testing.assert_allclose([np.linalg.det(X), np.linalg.det(Y)], 54)
    assert np.linalg.matrix_rank((X + Y) / 2) == 1
    H, E = (Y - X)[:, :2], np.array([[1.0, 0, -1], [0, 1, -1]])  # Y − X has rank two
    np.testing.assert_array_equal(X + H @ E, Y)
    form = shared(X, H, E)
    certificate = certify(form)
    assert (certificate.verdict, certificate.rigour) == (Verdict.REFUTED, Rigour.EXACT)
    np.testing.assert_allclose(certificate.witness.selection, [0.5])
    confirm(form, certificate)


def ball(E, A=((1.0,),), others=0):
    """1 + w · E with ‖w‖ ≤ 1, and scalar kinks before it."""
    E = np.asarray(E, float)
    d = len(E) - others
    H = np.ones((1, len(E)))
    form = form_of(A, H, E)
    point = Kink("norm", Location("model.py", 1), (), 0.0, 0.0, None, True)
    norm = Group(point, tuple(range(others, others + d)), (0.0,) * d, kind="ball")
    return regrouped(form, *form.groups[:others], norm)


def test_a_norm_at_zero_is_decided_by_the_length_of_its_row():
    inside = certify(ball([[0.5], [0.5], [0.5]]))  # ‖E‖ = 0.866
    assert inside.verdict == Verdict.PROVEN
    assert 0 < inside.margin <= 1 - np.sqrt(0.75) + 1e-9
    form = ball([[0.6], [0.6], [0.6]])  # ‖E‖ = 1.039
    outside = certify(form)
    assert outside.verdict == Verdict.REFUTED
    confirm(form, outside)
    # with a relu: 1 − 0.5 q + w · E is at least 0.5 − ‖E‖
    assert certify(ball([[-0.5], [0.3], [0.3]], others=1)).verdict == Verdict.PROVEN
    form = ball([[-0.5], [0.4], [0.4]], others=1)
    refuted = certify(form)
    assert refuted.verdict == Verdict.REFUTED
    confirm(form, refuted)


def test_two_norms_that_see_each_other():
    def two(size):
        E = size * np.array([[0, 1.0], [0, 0.5], [1.0, 0], [0.5, 0]])
        form = form_of(np.eye(2), [[1.0, 1, 0, 0], [0, 0, 1, 1]], E)
        kinks = [Kink("norm", Location("m.py", i), (), 0.0, 0.0, None, True) for i in (1, 2)]
        groups = [
            Group(kink, (2 * i, 2 * i + 1), (0.0, 0.0), kind="ball") for i, kink in enumerate(kinks)
        ]
        return regrouped(form, *groups)

    # det = 1 − (w · e)(v · e) is at least 1 − ‖e‖², ‖e‖ = √1.25 · size
    assert certify(two(0.85)).verdict == Verdict.PROVEN
    refuted = certify(two(0.95))
    assert refuted.verdict == Verdict.REFUTED
    confirm(two(0.95), refuted)


def test_solves_inside_must_be_regular_themselves():
    A, H, E = np.eye(1), np.ones((1, 2)), np.ones((2, 1))
    good = form_of(A, 0.1 * H, E, [[0.0, 0.3], [0.3, 0.0]])
    assert certify(good).verdict == Verdict.PROVEN
    bad = certify(form_of(A, 0.1 * H, E, [[0.0, 2.0], [2.0, 0.0]]))
    assert bad.verdict == Verdict.UNKNOWN
    assert "solve inside" in bad.reason
    assert bad.undecided


def cyclic(k, gain):
    """A P-matrix for every gain > 0, but Lyapunov-diagonally stable only for small gains."""
    N = np.eye(k) + gain * np.roll(np.eye(k), 1, axis=1)
    N[-1, 0] *= 1 if k % 2 else -1
    return N


@pytest.mark.parametrize(("k", "minors"), [(7, 2**7 - 1), (18, 2**18 - 1)])
def test_a_p_matrix_that_only_its_minors_prove(k, minors):
    certificate = certify(of_matrix(cyclic(k, 1.3)))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.method == "signs of all principal minors"
    # vertices whose sign the error bound leaves open are settled one by one
    assert 0.999 * minors < certificate.work.minors <= minors
    q = np.random.default_rng(0).integers(0, 2, size=(200, k)).astype(float)
    smallest = np.linalg.svd(of_matrix(cyclic(k, 1.3)).jacobian(q), compute_uv=False)[:, -1].min()
    assert 0 < certificate.margin <= smallest


def test_one_wrong_minor_among_many_is_found():
    N = cyclic(15, 1.3)
    N[-1, 0] *= -1  # the full determinant alone is 1 − 1.3¹⁵
    form = of_matrix(N)
    certificate = certify(form)
    assert certificate.verdict == Verdict.REFUTED
    confirm(form, certificate)


@pytest.mark.parametrize("count", [17, 18, 20])
@pytest.mark.parametrize("tied", [False, True])
def test_a_wrong_minor_of_the_first_kinks_is_found(count, tied):
    # beyond 16 kinks the first ones are taken or dropped in turn; here det N_{01} = −3, no eigenvalue of
    # N is real and negative, and no single kink lowers the determinant
    N = np.eye(count) + 1e-3 * np.random.default_rng(1).normal(size=(count, count))
    N[:3, :3] = [[1, 2, 2], [2, 1, 1e-3], [1e-3, 2, 1]]
    np.fill_diagonal(N, 1.0)
    H, E, ways = N - np.eye(count), np.eye(count), [1] * count
    if tied:  # the last kink is a tie of three, its second row of no consequence
        H, E, ways[-1] = np.hstack([H, H[:, -1:]]), np.vstack([E, 1e-3 * E[-1]]), 3
    form = form_of(np.eye(count), H, E, ways=ways)
    certificate = certify(form)
    assert certificate.verdict == Verdict.REFUTED
    confirm(form, certificate)


def test_faces_decide_beyond_the_minors_that_fit_the_budget():
    certificate = certify(of_matrix(cyclic(31, 1.2)))
    assert certificate.verdict == Verdict.PROVEN
    assert certificate.work.boxes > 0
    little = certify(of_matrix(cyclic(31, 1.2)), budget=10)
    assert little.verdict == Verdict.UNKNOWN
    assert "31 kinks" in little.reason
    assert "2.15e+09" in little.undecided  # 2³¹


def test_the_cheap_rungs_and_their_margins():
    rng = np.random.default_rng(1)
    k = 60
    S = rng.normal(size=(k, k))
    monotone = certify(of_matrix(0.5 * np.eye(k) + S - S.T))
    assert monotone.method == "N + Nᵀ is positive definite"
    dominant = certify(of_matrix(np.eye(k) + 0.9 * np.abs(S) / np.abs(S).sum(1, keepdims=True)))
    assert dominant.method == "N is an H-matrix"
    scale = np.exp(rng.normal(size=k))
    N = 0.5 * np.eye(k) + S - S.T
    scaled = certify(of_matrix(scale[:, None] * N / scale))
    assert scaled.method == "a diagonal scaling makes N + Nᵀ positive definite"
    q = rng.integers(0, 2, size=(100, k)).astype(float)
    values = np.linalg.svd(of_matrix(N).jacobian(q), compute_uv=False)[:, -1]
    assert 0 < monotone.margin <= values.min()
    values = np.linalg.svd(of_matrix(scale[:, None] * N / scale).jacobian(q), compute_uv=False)[
        :, -1
    ]
    assert 0 < scaled.margin <= values.min()


@pytest.mark.parametrize(
    ("N", "method"),
    [
        ([[-1.0, 0.3], [0.2, 1.0]], "a diagonal entry of N is not positive"),
        ([[1.0, 3.0], [3.0, 1.0]], "N reverses the signs of a vector"),
    ],
)
def test_the_cheap_refutations(N, method, monkeypatch):
    monkeypatch.setattr(ladder, "_AT_ONCE", 0)
    form = of_matrix(N)
    certificate = certify(form)
    assert (certificate.verdict, certificate.method) == (Verdict.REFUTED, method)
    confirm(form, certificate)


def test_a_monotone_map_with_two_thousand_unknowns():
    rng = np.random.default_rng(0)
    n, k = 2000, 40
    S = rng.normal(size=(n, n)) / np.sqrt(n)
    W = S - S.T - 0.5 * np.eye(n)
    on = (np.arange(n) >= k) & (np.arange(n) % 4 == 0)
    form = form_of(np.eye(n) - on[:, None] * W, -np.eye(n)[:, :k], W[:k])
    certificate = certify(form)
    assert certificate.verdict == Verdict.PROVEN
    assert 0 < certificate.margin <= certificate.sigma_min


def test_an_exactly_singular_vertex_among_integers():
    # det at q = (1, 1) is exactly 0, at all others positive
    form = of_matrix([[1.0, 2.0], [1.0, 2.0]])
    certificate = certify(form)
    assert (certificate.verdict, certificate.rigour) == (Verdict.REFUTED, Rigour.EXACT)
    confirm(form, certificate)


def test_no_kinks_and_no_unknowns():
    none = np.zeros((3, 0))
    assert certify(form_of(np.diag([1.0, 2.0, 4.0]), none, none.T)).verdict == Verdict.PROVEN
    empty = certify(form_of(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0))))
    assert empty.verdict == Verdict.PROVEN


def test_bad_input_gives_no_verdict():
    form = form_of([[1.0]], [[0.5]], [[1.0]])
    with pytest.raises(errors.InvalidInputError, match="budget = 0"):
        certify(form, budget=0)
    with pytest.raises(errors.InvalidInputError, match="1 × 2"):
        certify(form_of([[1.0, 2.0]], [[0.5]], [[1.0, 1.0]]))
    with pytest.raises(errors.InvalidInputError, match="NaN"):
        certify(form_of([[np.nan]], [[0.5]], [[1.0]]))


def test_the_verdict_is_ordered_and_small():
    assert Verdict.REFUTED < Verdict.UNKNOWN < Verdict.PROVEN
    assert [int(v) for v in (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.PROVEN)] == [-1, 0, 1]
