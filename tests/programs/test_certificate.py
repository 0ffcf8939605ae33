"""Oracles: exact determinants at all active sets, extreme rays by enumeration, sampled elements."""

import html
import itertools
import json
from dataclasses import replace
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax.cones.spectrum import Tolerances, spectrum
from conservax.errors import ConservaxError, InvalidInputError
from conservax.invertibility import Rigour, Verdict
from conservax.programs import ConeProgram, Cones
from conservax.programs.certificates.certificate import certify_program

PROVEN, REFUTED, UNKNOWN = Verdict.PROVEN, Verdict.REFUTED, Verdict.UNKNOWN


def certified(P, A, v, cones, residual=0.0, within=1e-9, dtype=np.float64):
    """The report at v = y − s, where eigenvalues within 1e-9 count as zero."""
    P, A, v = (jnp.asarray(np.asarray(part, float), dtype) for part in (P, A, v))
    limits = jnp.full((1, len(v)), within, dtype)
    tolerances = Tolerances(limits, limits)
    parts = spectrum(v[None], tolerances, cones)
    return certify_program(P, A, parts, cones, residual, v, tolerances)


def system(P, A, V):
    return np.block([[P, A.T @ V], [A, V - np.eye(len(V))]])


def least(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[-1]


def exact_determinant(matrix):
    rows = [[Fraction(float(x)) for x in row] for row in matrix]
    value = Fraction(1)
    for i in range(len(rows)):
        pivot = next((r for r in range(i, len(rows)) if rows[r][i]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != i:
            rows[i], rows[pivot], value = rows[pivot], rows[i], -value
        value *= rows[i][i]
        for r in range(i + 1, len(rows)):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return value


def null(matrix):
    _, values, right = np.linalg.svd(matrix)
    return right[np.sum(values > 1e-9) :].T


def has_ray(P, strong, weak):
    """Is there an a ≠ 0 with Pa = 0, strong a = 0, weak a ≤ 0? A cone has a line or an extreme ray."""
    fixed = np.vstack([P, strong])
    if null(np.vstack([fixed, weak])).shape[1]:
        return True
    for size in range(len(weak)):
        for rows in itertools.combinations(range(len(weak)), size):
            kernel = null(np.vstack([fixed, weak[list(rows)]]))
            for a in (kernel[:, 0], -kernel[:, 0]) if kernel.shape[1] == 1 else ():
                if np.all(weak @ a <= 1e-9):
                    return True
    return False


@st.composite
def quadratic_programs(draw):
    """P ≽ 0 of any rank, constraints strongly, weakly and not active, all of small integers."""
    n, m, rank = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    entry = st.integers(-2, 2)

    def matrix(rows):
        row = st.lists(entry, min_size=n, max_size=n)
        return np.array(draw(st.lists(row, min_size=rows, max_size=rows)), float)

    R, A = matrix(rank).reshape(rank, n), matrix(m)
    signs = np.array(draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=m, max_size=m)))
    zero = draw(st.integers(0, min(m, 2)))
    signs[:zero] = 1
    return R.T @ R, A, signs, zero


@given(quadratic_programs())
def test_quadratic_programs_against_all_their_active_sets(program):
    P, A, signs, zero = program
    m = len(A)
    cones = Cones(zero=zero, nonnegative=m - zero)
    weak = np.flatnonzero(signs == 0)
    report = certified(P, A, signs, cones)
    determinants, smallest = [], []
    for bits in itertools.product([0.0, 1.0], repeat=len(weak)):
        d = (signs > 0).astype(float)
        d[weak] = bits
        determinants.append(exact_determinant(system(P, A, np.diag(d))))
        smallest.append(least(system(P, A, np.diag(d))))
    assert report.verdict == (PROVEN if all(determinants) else REFUTED)
    strong, active = A[signs > 0], A[signs >= 0]
    assert report.licq == (np.linalg.matrix_rank(active) == len(active) if len(active) else True)
    assert report.second_order == (null(np.vstack([P, strong])).shape[1] == 0)
    assert report.weakly_active == tuple(weak)
    assert report.strongly_active == tuple(np.flatnonzero(signs > 0))
    unique = not has_ray(P, strong, A[weak])
    assert report.unique == unique
    if report.verdict == PROVEN:
        rng = np.random.default_rng(0)
        assert report.margin is not None
        for _ in range(5):
            d = (signs > 0).astype(float)
            d[weak] = rng.uniform(size=len(weak))
            smallest.append(least(system(P, A, np.diag(d))))
        assert 0 < report.margin <= min(smallest) * (1 + 1e-12)
    else:
        assert report.rigour == Rigour.EXACT
        assert report.recheck()[0] <= 1e-13 * max(1.0, report.recheck()[1])
        assert exact_determinant(system(P, A, report.witness.element)) == 0
    if not unique:
        a = report.direction
        assert np.linalg.norm(a) == pytest.approx(1.0)
        np.testing.assert_allclose(P @ a, 0, atol=1e-12)
        np.testing.assert_allclose(strong @ a, 0, atol=1e-12)
        assert np.all(A[weak] @ a <= 1e-9)


@pytest.mark.parametrize("weak", [0, 1])
def test_a_linear_program_is_regular_only_at_a_nondegenerate_vertex(weak):
    A = np.array([[1.0, 2], [-1, 1], [3, 1]])
    signs = [1, 1, 0] if weak else [1, 1, -1]
    report = certified(np.zeros((2, 2)), A, signs, Cones(nonnegative=3))
    assert report.verdict == (REFUTED if weak else PROVEN)
    assert report.unique
    assert report.licq is not bool(weak)
    if weak:
        assert "primal alone" in report.reason
    edge = certified(np.zeros((2, 2)), A, [1, -1, -1], Cones(nonnegative=3))
    assert edge.verdict == REFUTED
    assert edge.unique is False
    assert abs(edge.direction @ A[0]) < 1e-12


def elements(report, count=30):
    """V_lo, V_hi and elements between them, 0 ≼ D ≼ I on the free eigenvalues."""
    pieces = report.pieces
    rng = np.random.default_rng(1)
    free = pieces.T[:, pieces.choice]
    base = (pieces.T * pieces.low) @ pieces.T.T
    k = free.shape[1]
    yield base
    yield base + free @ free.T
    for _ in range(count):
        Q = np.linalg.qr(rng.normal(size=(k, k)))[0] if k else np.zeros((0, 0))
        yield base + free @ (Q * rng.choice([0, 1, rng.uniform()], size=k)) @ Q.T @ free.T


SECOND = Cones(second_order=(3,))
MATRIX = Cones(semidefinite=(3,))
WHERE = {
    "second-order, inside K": (SECOND, [2.0, 0.6, 0.8], 0),
    "second-order, inside −K": (SECOND, [-2.0, 0.6, 0.8], 0),
    "second-order, outside": (SECOND, [0.3, 0.6, 0.8], 0),
    "second-order, on the boundary of K": (SECOND, [1.0, 0.6, 0.8], 1),
    "second-order, on that of −K": (SECOND, [-1.0, 0.6, 0.8], 1),
    "second-order, apex": (SECOND, [0.0, 0, 0], 3),
    "semidefinite, regular": (MATRIX, [2.0, 0.3, 0, -1, 0.2, 3], 0),
    "semidefinite, one zero": (MATRIX, [2.0, 0, 0, 0, 0, -3], 1),
    "semidefinite, two zeros": (MATRIX, [0.0, 0, 0, 0, 0, -3], 3),
    "semidefinite, apex": (MATRIX, [0.0] * 6, 6),
}


@pytest.mark.parametrize("name", WHERE)
def test_a_projection_is_proven_wherever_it_is_taken(name):
    """P = I, A = −I; σ_min over sampled elements is at least the margin."""
    cones, v, free = WHERE[name]
    m = len(v)
    report = certified(np.eye(m), -np.eye(m), v, cones)
    assert report.verdict == PROVEN
    assert (report.licq, report.second_order, report.unique) == (True, True, True)
    assert int(report.pieces.choice.sum()) == free
    assert len(report.kinks) == (free > 0)
    smallest = min(least(system(np.eye(m), -np.eye(m), V)) for V in elements(report))
    assert 0.2 < report.margin <= smallest


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("seed", range(3))
def test_random_data_over_curved_cones(name, seed):
    """The verdict is that of the singular values of sampled elements, the margin is below them."""
    cones, v, _ = WHERE[name]
    rng = np.random.default_rng(seed)
    m = len(v)
    n = int(rng.integers(1, m + 2))
    R, A = rng.normal(size=(rng.integers(0, n + 1), n)), rng.normal(size=(m, n))
    P = R.T @ R
    report = certified(P, A, v, cones)
    smallest = min(least(system(P, A, V)) for V in elements(report))
    assert report.verdict == (PROVEN if smallest > 1e-9 else REFUTED)
    if report.verdict == PROVEN:
        assert 0 < report.margin <= smallest
    else:
        assert report.recheck()[0] < 1e-12
        V, null_vector = report.witness.element, report.witness.null_vector
        np.testing.assert_allclose(system(P, A, V) @ null_vector, 0, atol=1e-12)
        assert np.linalg.norm(null_vector) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_cones_of_order_one_and_two_are_polyhedral_or_nearly(seed):
    """‖x₁‖ ≤ x₀ is two inequalities, and orders 1 are one each: the reports agree in all but names."""
    rng = np.random.default_rng(seed)
    halves = np.array([[1.0, 1], [1, -1]]) / np.sqrt(2)
    eigenvalues = rng.choice([-1.0, 0, 2], size=4)
    A, R = rng.integers(-2, 3, size=(4, 3)).astype(float), rng.normal(size=(seed % 3, 3))
    P = R.T @ R
    polyhedral = certified(P, A, eigenvalues, Cones(nonnegative=4))
    turned = A.copy()
    turned[:2] = halves @ A[:2]
    v = np.concatenate([halves @ eigenvalues[:2], eigenvalues[2:]])
    cones = Cones(second_order=(2, 1), semidefinite=(1,))
    report = certified(P, turned, v, cones)
    for name in ("verdict", "licq", "second_order", "unique"):
        assert getattr(report, name) == getattr(polyhedral, name)
    if report.margin is not None:
        assert report.margin == pytest.approx(polyhedral.margin, rel=1e-6)


@pytest.mark.parametrize("name", WHERE)
def test_single_precision_over_curved_cones(name):
    """float32 data, and a v that float32 has rounded: still proven, with nearly the same margin."""
    cones, v, _ = WHERE[name]
    A = np.random.default_rng(5).normal(size=(len(v), 2))
    exact = certified(np.eye(2), A, v, cones)
    single = certified(np.eye(2), A, v, cones, residual=1e-7, within=1e-4, dtype=np.float32)
    assert single.verdict == exact.verdict
    if exact.verdict == PROVEN:
        assert single.margin == pytest.approx(exact.margin, rel=1e-3)


def derivative(report):
    """dx/dp at V for c = −p: the upper left block of U(V)⁻¹."""
    pieces = report.pieces
    n = len(pieces.P)

    def at(selection):
        return np.linalg.inv(pieces.system(pieces.element(selection)))[:n, :n]

    return at


def test_the_degenerate_cases_have_their_sets():
    """max(p, 0) at 0: [0, 1]; PSD at diag(1, 0): dX₂₂ in [0, 1]; group prox at ‖p‖ = 1: diag(t, 0)."""
    relu = certified(np.eye(1), -np.eye(1), [0.0], Cones(nonnegative=1))
    assert relu.verdict == PROVEN
    at = derivative(relu)
    assert [at(np.array([q])).item() for q in (0.0, 0.25, 1.0)] == pytest.approx([1, 0.75, 0])

    # the dual of a projection p ↦ X is v = −p where X is on the boundary: its slack is diag(1, 0)
    psd = certified(np.eye(3), -np.eye(3), [-1.0, 0, 0], Cones(semidefinite=(2,)))
    assert psd.verdict == PROVEN
    for q, truth in ((0.0, 1.0), (1.0, 0.0)):
        np.testing.assert_allclose(
            derivative(psd)(np.array([q])), np.diag([1, 1, truth]), atol=1e-14
        )

    # min ½‖x − p‖² + t over ‖x‖ ≤ t at p = e₁: x = 0, y = (1, −p)
    P = np.diag([0.0, 1, 1])
    group = certified(P, -np.eye(3), [1.0, -1, 0], SECOND)
    assert group.verdict == PROVEN
    for q in (0.0, 0.5, 1.0):
        block = derivative(group)(np.array([q]))[1:, 1:]
        np.testing.assert_allclose(block, np.diag([block[0, 0], 0]), atol=1e-14)
        assert -1e-14 <= block[0, 0] <= 1 + 1e-14
    ends = [derivative(group)(np.array([q]))[1, 1] for q in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [1.0, 0.0], atol=1e-14)


def follow(report, v, cones, a, step):
    """The least eigenvalue of the slack after a step, by cones of one kind each."""
    pieces = report.pieces
    e = pieces.T.T @ np.asarray(v, float)
    slack = pieces.T @ ((pieces.low - 1) * e) - step * pieces.A @ a
    if cones.second_order:
        return slack[0] - np.linalg.norm(slack[1:])
    if cones.semidefinite:
        order = cones.semidefinite[0]
        X = np.zeros((order, order))
        columns, rows = np.triu_indices(order)
        X[rows, columns] = X[columns, rows] = slack / np.where(rows == columns, 1, np.sqrt(2))
        return np.linalg.eigvalsh(X)[0]
    return slack.min()


ROOT = float(np.sqrt(2))
MOVES = {
    # a whole ray of K is optimal, from its end or from its middle: c = (1, −0.6, −0.8)
    "SOCP, at the end of a ray": (0, -np.eye(3), [1.0, -0.6, -0.8], SECOND),
    "SOCP, on a ray": (0, -np.eye(3), [0.0, -1.2, -1.6], SECOND),
    # no objective over the unit disc, at its boundary
    "SOCP, no objective": (0, np.array([[0.0, 0], [1, 0], [0, 1]]), [-1.0, 0.6, 0.8], SECOND),
    "SOCP, apex": (np.diag([0.0, 1, 1]), -np.eye(3), [0.0, 0, 0], SECOND),
    # ⟨diag(1, 0, 0), X⟩ over X ≽ 0: X is anything on the other two axes
    "SDP, strictly complementary": (0, -np.eye(6), [1.0, 0, 0, -1, 0, -2], MATRIX),
    "SDP, one zero": (0, -np.eye(6), [1.0, 0, 0, 0, 0, -2], MATRIX),
    "SDP, two zeros": (0, -np.eye(6), [1.0, 0, 0, 0, 0, 0], MATRIX),
    # the zero eigenvalue may only grow with an off-diagonal entry that is tied to it
    "SDP, growing": (0, -np.array([[1.0], [ROOT], [0]]), [0.0, 0, -1], Cones(semidefinite=(2,))),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_solution_that_moves_is_refuted_with_its_direction(name):
    P, A, v, cones = MOVES[name]
    P = P * np.eye(A.shape[1])
    report = certified(P, A, v, cones)
    assert report.verdict == REFUTED
    assert (report.unique, report.second_order) == (False, False)
    a = report.direction
    assert np.linalg.norm(a) == pytest.approx(1)
    dual = (report.pieces.T * report.pieces.low) @ report.pieces.T.T @ np.asarray(v)
    assert abs(dual @ A @ a) < 1e-12
    np.testing.assert_allclose(P @ a, 0, atol=1e-12)
    assert max(follow(report, v, cones, a, step) for step in (0.5, 0.1)) >= -1e-12
    if name == "SOCP, at the end of a ray":
        np.testing.assert_allclose(a, np.array([1, 0.6, 0.8]) / ROOT, atol=1e-9)
    if name == "SOCP, apex":
        np.testing.assert_allclose(a, [1, 0, 0], atol=1e-9)


BENDS = {
    # ½(x₁ − 1)² over the unit disc: the tangent at (1, 0) leaves it
    "disc": (np.diag([1.0, 0]), np.array([[0.0, 0], [-1, 0], [0, -1]]), [-1.0, 1, 0], SECOND),
    # [[0, x], [x, 1]] ≽ 0 only at x = 0
    "off the diagonal": (
        np.zeros((1, 1)),
        np.array([[0.0], [1], [0]]),
        [0.0, 0, -1],
        Cones(semidefinite=(2,)),
    ),
    # X = diag(0, x, 1) with x/√2 in a corner of the row of the zero
    "two zeros": (
        np.zeros((1, 1)),
        np.array([[0.0], [0], [-1], [-1], [0], [0]]),
        [0.0, 0, 0, 0, 0, -1],
        MATRIX,
    ),
    # ½x₀² over ‖(x₁, x₂)‖ ≤ x₀
    "apex": (np.diag([1.0, 0, 0]), -np.eye(3), [0.0, 0, 0], SECOND),
}


@pytest.mark.parametrize("name", BENDS)
def test_a_curved_cone_that_bends_away_leaves_the_solution_unique(name):
    """Flat to first order, so the derivative is refuted; but no other point is a solution."""
    P, A, v, cones = BENDS[name]
    report = certified(P, A, v, cones)
    assert report.verdict == REFUTED
    assert (report.second_order, report.unique, report.direction) == (False, True, None)
    assert "flat" in report.reason
    kernel = null(P)
    for angle in np.linspace(0, 2 * np.pi, 64):
        a = kernel @ np.array([np.cos(angle), np.sin(angle)])[: kernel.shape[1]]
        if np.linalg.norm(a) > 0.1:
            assert follow(report, v, cones, a / np.linalg.norm(a), 0.01) < -1e-5


def test_dependent_constraints_say_which_and_that_the_primal_may_still_move_smoothly():
    A = np.array([[1.0, 1], [2, 2], [0, 1]])
    report = certified(np.eye(2), A, [1.0, 0, -1], Cones(nonnegative=3))
    assert report.verdict == REFUTED
    assert (report.licq, report.second_order, report.unique) == (False, True, True)
    assert report.rigour == Rigour.EXACT
    assert "primal alone" in report.reason
    w = report.witness.null_vector
    np.testing.assert_allclose(w[:2], 0, atol=1e-14)
    np.testing.assert_allclose(A.T @ w[2:], 0, atol=1e-14)
    assert report.witness.selection.tolist() == [1.0]


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_units_change_no_verdict(factor):
    """Rows, columns and the objective in other units: the ranks are the same."""
    rng = np.random.default_rng(3)
    n, signs = 4, np.array([1, 1, 0, -1])
    R, A = rng.normal(size=(n, n)), rng.normal(size=(4, n))
    bad = A.copy()
    bad[2] = A[0] + A[1]
    rows, columns = factor ** rng.uniform(-1, 1, size=4), factor ** rng.uniform(-0.5, 0.5, size=n)
    P = columns[:, None] * (R.T @ R) * columns
    for data, verdict in ((A, PROVEN), (bad, REFUTED)):
        scaled = rows[:, None] * data * columns
        report = certified(factor * P, scaled, signs, Cones(nonnegative=4))
        # the witness must be singular in the 2-norm of the system as it stands, too
        assert report.verdict == verdict or (factor != 1 and report.verdict == UNKNOWN)
        assert report.licq is (data is A)


@pytest.mark.parametrize("power", range(2, 20))
def test_nearly_dependent_constraints(power):
    """Rows that are dependent but for 10^-power: proven while that is clear, never beyond rounding."""
    gap = 2.0 ** -round(3.32 * power)
    A = np.array([[1.0, 1], [1, 1 + gap]])
    report = certified(np.eye(2), A, [1.0, 0], Cones(nonnegative=2))
    exact = exact_determinant(system(np.eye(2), A, np.eye(2)))
    if report.verdict == PROVEN:
        assert exact != 0
        assert report.margin is None or report.margin <= least(system(np.eye(2), A, np.eye(2)))
    if report.rigour == Rigour.EXACT and report.verdict == REFUTED:
        assert exact == 0
    assert report.verdict == (PROVEN if power <= 14 else REFUTED)
    single = certified(np.eye(2), A, [1.0, 0], Cones(nonnegative=2), dtype=np.float32)
    assert single.verdict == (PROVEN if power <= 5 else REFUTED)


@given(st.integers(0, 2**32 - 1))
def test_exactly_singular_floats_are_never_proven(seed):
    """A row is an exact combination of others, of floats with many digits but few bits."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12), rng.integers(2, 12)
    k = int(min(n, m))
    A = rng.integers(-(2**20), 2**20, size=(k, n)).astype(float) * 2.0 ** rng.integers(-20, 20)
    A[-1] = A[:-1].T @ rng.integers(-3, 4, size=k - 1)
    order = rng.permutation(k)
    report = certified(np.eye(n), A[order], np.ones(k), Cones(nonnegative=k))
    assert report.verdict == REFUTED
    assert report.licq is False


def test_a_hair_of_negative_curvature_proves_nothing():
    """U(v) = [[p, av], [a, v − 1]] has the determinant p (v − 1) − a² v, zero at p/(p − a²)."""
    p, a = -1e-9, 1e-4
    v = p / (p - a * a)
    assert 0 < v < 1
    assert abs(np.linalg.det(system(np.array([[p]]), np.array([[a]]), np.array([[v]])))) < 1e-24
    report = certified([[p]], [[a]], [0.0], Cones(nonnegative=1))
    assert report.verdict != Verdict.PROVEN
    assert certified([[-p]], [[a]], [0.0], Cones(nonnegative=1)).verdict == Verdict.PROVEN


def test_errors_of_the_solution_turn_eigenvectors_and_proof_into_doubt():
    """The gap between the eigenvalues is 1e-4: a residual of 1e-3 could mix their eigenvectors."""
    cones = Cones(semidefinite=(2,))
    v, A = [5e-5, 0.0, -5e-5], np.array([[1.0], [0.3], [0.0]])
    sure = certified(np.zeros((1, 1)), A, v, cones)
    assert sure.verdict == PROVEN
    doubtful = certified(np.zeros((1, 1)), A, v, cones, residual=0.7)
    assert doubtful.verdict == UNKNOWN
    assert doubtful.undecided
    assert doubtful.second_order is None


def test_a_solution_that_moves_is_refuted_at_an_inaccurate_point():
    """The face of K on which x moves is known to 1e-9 only: no rank tells, the direction does."""
    cones = Cones(semidefinite=(2,))
    c, s = np.cos(0.4), np.sin(0.4)
    face = np.array([s * s, -ROOT * c * s, c * c])  # vvᵀ, v = (−s, c)
    other = np.array([c * c, ROOT * c * s, s * s])
    A, P = -np.stack([face, other], axis=1), np.diag([0.0, 1])
    noise = 1e-9 * np.array([0.3, -0.8, 0.5])
    report = certified(P, A, other - face + noise, cones, residual=1e-8)
    assert (report.verdict, report.unique) == (REFUTED, False)
    assert report.rigour == Rigour.AT_TOLERANCE
    np.testing.assert_allclose(np.abs(report.direction), [1, 0], atol=1e-8)
    smallest, largest = report.recheck()
    assert smallest < 1e-8 < largest
    unsure = certified(P, A, other - face + noise, cones)
    assert unsure.verdict == UNKNOWN


def test_weakly_active_constraints_are_named_by_row_and_by_cone():
    cones = Cones(zero=1, nonnegative=2, second_order=(3, 3), semidefinite=(2, 1))
    v = [5.0, 0.0, -2.0, 3, 0, 0, 1, 0.6, 0.8, 0, 0, -0.25, 4]
    report = certified(np.eye(13), -np.eye(13), v, cones)
    assert report.verdict == PROVEN
    named = [(kink.operation, kink.index, kink.rows) for kink in report.kinks]
    assert named == [
        ("inequality", (0,), range(1, 2)),
        ("second-order cone", (1,), range(6, 9)),
        ("semidefinite cone", (0,), range(9, 12)),
    ]
    assert report.weakly_active == (1, 6, 7, 8, 9)
    next_one = report.nearest_inactive
    assert (next_one.operation, next_one.index) == ("semidefinite cone", (0,))
    assert next_one.distance == pytest.approx(0.25)
    assert not next_one.active


def test_the_report_shows_itself():
    A = np.array([[1.0, 1], [2, 2], [0, 1]])
    report = certified(np.eye(2), A, [1.0, 0, -0.5], Cones(nonnegative=3))
    text = str(report)
    for part in ("REFUTED", "row:1", "inequality", "LICQ: no", "second-order condition: yes",
                 "unique solution: yes", "0.5 away", "residual"):  # fmt: skip
        assert part in text
    page = report._repr_html_()
    assert html.escape("LICQ: no") in page
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["verdict"] == "refuted"
    assert data["weakly_active"] == [1]
    assert (data["licq"], data["second_order"], data["unique"]) == (False, True, True)
    assert data["direction"] is None
    assert data["kinks"][0]["line"] == 1
    assert data["witness"]["selection"] == [1.0]


def test_a_witness_can_be_checked_again():
    A = np.array([[1.0, 1], [2, 2]])
    report = certified(np.eye(2), A, [1.0, 0], Cones(nonnegative=2))
    smallest, largest = report.recheck()
    assert smallest < 1e-15 < 1 < largest
    altered = replace(report, witness=replace(report.witness, selection=np.zeros(1)))
    with pytest.raises(ConservaxError, match="does not hold"):
        altered.recheck()
    with pytest.raises(InvalidInputError, match="no witness"):
        certified(np.eye(1), np.eye(1), [1.0], Cones(nonnegative=1)).recheck()


def test_without_the_point_only_the_pieces_count():
    A, cones = np.array([[1.0, 1]]), Cones(nonnegative=1)
    parts = spectrum(jnp.array([[2.0]]), None, cones)
    report = certify_program(jnp.zeros((2, 2)), jnp.asarray(A), parts, cones, 0.0)
    assert report.verdict == REFUTED
    assert report.unique is False
    np.testing.assert_allclose(A @ report.direction, 0, atol=1e-14)
    assert report.nearest_inactive is None


def test_programs_are_checked_at_their_solutions():
    """The group prox at its kink, by the solver."""
    program = ConeProgram(SECOND)
    P, c = np.diag([0.0, 1, 1]), np.array([1.0, -1, 0])
    report = program.check(P, c, -np.eye(3), np.zeros(3))
    assert report.verdict == PROVEN
    assert [kink.operation for kink in report.kinks] == ["second-order cone"]
    assert report.margin > 0.05
