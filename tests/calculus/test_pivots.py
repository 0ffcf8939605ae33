"""Principal pivots against batched solves, and the P-matrix test against all minors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax import ConservativeJacobian, errors
from conservax.calculus import AbsNormal
from conservax.calculus.sets.abs_normal import Group, Kink
from conservax.calculus.sets.pivots import SmallPivotError, decide, is_p_matrix
from conservax.calculus.tracing.locations import Location


def a_form(kinds, m=2, n=3, seed=0, nested=True, implicit=False):
    """A random form; ``kinds`` holds (kind, number of columns), say ("simplex", 2) for a 3-way tie."""
    rng = np.random.default_rng(seed)
    groups, at = [], 0
    for kind, width in kinds:
        ways = {"segment": 1, "simplex": width + 1, "ball": width}[kind]
        kink = Kink("test", Location("model.py", at), (), 0.0, 0.0, None, True, ways)
        columns = tuple(range(at, at + width))
        groups.append(Group(kink, columns, (1 / max(ways, 2),) * ways, at % ways, kind))
        at += width
    L = rng.normal(size=(at, at)) * (0.4 / max(1, at) ** 0.5)
    if not implicit:
        L = np.tril(4 * L, -1)
        for g in groups:  # the columns of one kink do not see each other
            L[np.ix_(g.columns, g.columns)] = 0.0
    return AbsNormal(
        rng.normal(size=(m, n)),
        rng.normal(size=(m, at)),
        rng.normal(size=(at, n)),
        L * nested,
        tuple(groups),
        None,
        np.dtype(np.float64),
    )


def all_weights(form):
    picks = list(itertools.product(*(list(g.vertices()) for g in form.groups)))
    weights = [list(itertools.chain.from_iterable(p)) for p in picks]
    return np.array(weights).reshape(len(picks), form.weight_count)


KINDS = st.lists(
    st.sampled_from(
        [("segment", 1), ("segment", 1), ("simplex", 2), ("segment", 2), ("simplex", 1)]
    ),
    max_size=5,
)


@given(KINDS, st.integers(0, 10**6), st.booleans())
def test_pivots_equal_batched_solves(kinds, seed, implicit):
    form = a_form(kinds, seed=seed, implicit=implicit)
    expected = form.jacobian(form.diagonal(all_weights(form)))
    try:
        actual = decide(form, form.groups, [])
    except SmallPivotError:
        assert implicit
        return
    # 1e-6 is the smallest pivot that passes, so about ten digits are left
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)


@given(st.integers(0, 10**6))
def test_what_is_left_undecided_is_the_form_of_the_rest(seed):
    form = a_form([("segment", 1)] * 4, seed=seed)
    tables = decide(form, form.groups[:2], [3, 2])
    for table, (a, b) in zip(tables, itertools.product((0.0, 1.0), repeat=2), strict=True):
        L, E, H, A = table[:2, :2], table[:2, 2:], table[2:, :2], table[2:, 2:]
        for c, d in itertools.product((0.0, 0.3, 1.0), repeat=2):
            D = np.diag([d, c])
            element = A + H @ np.linalg.solve(np.eye(2) - D @ L, D @ E)
            np.testing.assert_allclose(element, form.jacobian(np.array([a, b, c, d])), atol=1e-10)


def test_twelve_kinks_and_their_many_vertices():
    form = a_form([("segment", 1)] * 12, m=1, n=2)
    vertices = ConservativeJacobian(form).vertices()
    assert vertices.shape == (4096, 1, 2)
    low, high = ConservativeJacobian(form).bounds()
    np.testing.assert_allclose(low, vertices.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(high, vertices.max(axis=0), atol=1e-9)


def implicit_line(slope):
    """z = x + slope · r: singular at q = 1/slope."""
    kink = Kink("relu", Location("model.py", 1), (), 0.0, 0.0, (0.0, 1.0), True)
    one = np.ones((1, 1))
    return AbsNormal(0 * one, one, one, slope * one, (Group(kink, (0,), (0.0,)),), None, np.float64)


def test_a_pivot_that_vanishes_is_singular_and_a_small_one_is_solved():
    for question in ("vertices", "bounds"):
        with pytest.raises(errors.SingularError, match=r"relu at model.py:1"):
            getattr(ConservativeJacobian(implicit_line(1.0)), question)()
    vertices = ConservativeJacobian(implicit_line(1.0 - 1e-8)).vertices().ravel()
    np.testing.assert_allclose(vertices, [0.0, 1e8], rtol=1e-7)


def smallest_minor(N):
    indices = range(len(N))
    subsets = itertools.chain.from_iterable(itertools.combinations(indices, r + 1) for r in indices)
    return min(np.linalg.det(N[np.ix_(s, s)]) for s in subsets)


@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(0.2, 1.5))
def test_p_matrices_by_all_minors(k, seed, spread):
    N = np.eye(k) + spread * np.random.default_rng(seed).normal(size=(k, k)) / np.sqrt(k)
    smallest = smallest_minor(N)
    if abs(smallest) > 1e-6:
        assert is_p_matrix(N) is bool(smallest > 0)


def test_p_matrices_of_known_kind():
    rng = np.random.default_rng(1)
    skew = rng.normal(size=(40, 40))
    assert is_p_matrix(np.eye(40) + skew - skew.T) is True  # monotone, however large
    assert is_p_matrix(np.zeros((0, 0))) is True
    assert is_p_matrix(np.array([[1.0, 1.0], [1.0, 1.0]])) is None  # a minor is 0
    assert is_p_matrix(-np.eye(3)) is False
    assert is_p_matrix(-np.eye(40)) is None  # too large to visit, and not obviously one
    # N + Nᵀ is indefinite and no diagonal scaling of a few steps is needed: minors decide
    assert is_p_matrix(np.array([[1.0, 50.0, 0], [0, 1.0, 50.0], [0, 0, 1.0]])) is True
