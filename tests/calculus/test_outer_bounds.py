"""Outer bounds hold every vertex, in exact arithmetic too; and they stay finite where promised."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import ConservativeJacobian, errors
from conservax.calculus import AbsNormal
from conservax.calculus.sets.outer_bounds import outer_bounds
from conservax.calculus.sets.pivots import is_p_matrix

from .test_pivots import KINDS, a_form, all_weights

SEEDS = st.integers(0, 10**6)


def with_links(form, L, scale=1.0):
    return AbsNormal(form.A, form.H, form.E, scale * L, form.groups, None, form.dtype)


@given(KINDS, SEEDS, st.sampled_from(["nested", "flat", "implicit"]))
def test_every_vertex_lies_inside(kinds, seed, shape):
    form = a_form(kinds, seed=seed, nested=shape != "flat", implicit=shape == "implicit")
    J = ConservativeJacobian(form)
    elements = form.jacobian(form.diagonal(all_weights(form)))
    low, high = J.outer_bounds()
    assert np.all(low <= elements.min(axis=0))
    assert np.all(elements.max(axis=0) <= high)
    direction = np.random.default_rng(seed).normal(size=form.A.shape)
    values = np.tensordot(elements, direction, axes=2)
    assert J.inner_support(direction) <= values.max() + 1e-9 <= J.outer_support(direction) + 2e-9
    assert np.min(np.abs(values - J.inner_support(direction))) < 1e-9
    norms = np.linalg.norm(elements, 2, axis=(1, 2))
    assert norms.max() <= J.lipschitz_bound() * (1 + 1e-12)


def exact_vertices(form):
    """All vertices as Fractions, by Gauss elimination of (I − D L) r = D E."""
    k, n = form.E.shape
    F = np.vectorize(Fraction, otypes=[object])
    A, H, E, L = F(form.A), F(form.H), F(form.E), F(form.L)
    for q in itertools.product((0, 1), repeat=k):
        system = [[Fraction(i == j) - q[i] * L[i, j] for j in range(k)] for i in range(k)]
        rows = [system[i] + [q[i] * E[i, b] for b in range(n)] for i in range(k)]
        for i in range(k):
            pivot = next(p for p in range(i, k) if rows[p][i] != 0)
            rows[i], rows[pivot] = rows[pivot], rows[i]
            rows[i] = [v / rows[i][i] for v in rows[i]]
            for p in range(k):
                if p != i and rows[p][i] != 0:
                    rows[p] = [x - rows[p][i] * y for x, y in zip(rows[p], rows[i], strict=True)]
        r = np.array([row[k:] for row in rows], dtype=object)
        yield A + H @ r


@settings(max_examples=25)
@given(st.integers(1, 4), SEEDS, st.floats(0.1, 3.0), st.booleans())
def test_bounds_hold_in_exact_arithmetic(k, seed, gain, skew):
    form = a_form([("segment", 1)] * k, m=1, n=2, seed=seed, implicit=True)
    L = gain * form.L
    if skew:  # monotone for any gain, far from contractive
        L = 4 * gain * (form.L - form.L.T) - 0.125 * np.eye(k)
    form = with_links(form, L)
    try:
        low, high = outer_bounds(form)
    except errors.TooManyKinksError:
        return
    assert is_p_matrix(np.eye(k) - L) is not False
    for vertex in exact_vertices(form):
        for a, b in np.ndindex(vertex.shape):
            assert Fraction(low[a, b]) <= vertex[a, b] <= Fraction(high[a, b])


def test_the_enclosure_of_a_single_implicit_kink_is_exact():
    # y = relu(y/2 − a): derivatives −2 and 0; N = 1/2, and both methods are sharp for one kink
    J = cx.implicit_jacobian(lambda y, a: y - jnp.maximum(0.0, y / 2 - a))(0.0, 0.0)
    low, high = J.outer_bounds()
    np.testing.assert_allclose([low.item(), high.item()], [-2.0, 0.0], atol=1e-9)
    assert low.item() <= -2 <= 0 <= high.item()
    assert J.lipschitz_bound() == pytest.approx(2.0)


def test_intervals_by_hand():
    # |x| has slopes 0 ± 1, |x| − x/2 has −1/2 ± 1, so the last slope is within ±3/2
    J = cx.conservative_jacobian(lambda x: jnp.abs(jnp.abs(x) - x / 2))(0.0)
    low, high = J.outer_bounds()
    np.testing.assert_allclose([low.item(), high.item()], [-1.5, 1.5], rtol=1e-12)


@pytest.mark.parametrize("kind", ["contractive", "monotone", "scaled"])
def test_hundreds_of_kinks_of_an_implicit_function(kind):
    k = 200
    rng = np.random.default_rng(3)
    form = a_form([("segment", 1)] * k, m=3, n=2, seed=3, implicit=True)
    if kind == "contractive":
        L = 0.9 * form.L / np.abs(form.L).sum(axis=1).max()
    else:
        L = -form.L @ form.L.T / 10 + 5 * (form.L - form.L.T)
    if kind == "scaled":
        d = np.exp2(rng.integers(-3, 4, size=k))
        L = 0.05 * d[:, None] * np.abs(form.L) / d
    form = with_links(form, L)
    J = ConservativeJacobian(form)
    low, high = J.outer_bounds()
    assert np.all(np.isfinite(low) & np.isfinite(high))
    q = np.concatenate([rng.uniform(size=(20, k)), rng.integers(0, 2, size=(20, k))])
    elements = form.jacobian(form.diagonal(q.astype(float)))
    assert np.all((low <= elements) & (elements <= high))
    assert np.linalg.norm(elements, 2, axis=(1, 2)).max() <= J.lipschitz_bound()
    with pytest.raises(errors.TooManyKinksError, match=r"outer_bounds"):
        J.bounds()
    direction = rng.normal(size=(3, 2))
    assert np.tensordot(elements, direction, axes=2).max() <= J.outer_support(direction)


def test_neither_contractive_nor_monotone_is_refused():
    form = a_form([("segment", 1)] * 20, seed=0, implicit=True)
    J = ConservativeJacobian(with_links(form, 40 * form.L))
    for question in (J.outer_bounds, J.lipschitz_bound, lambda: J.outer_support(np.ones((2, 3)))):
        with pytest.raises(errors.TooManyKinksError, match="check"):
            question()


def test_a_ball_is_enclosed():
    J = cx.conservative_jacobian(lambda x: jax.nn.relu(cx.norm(jnp.abs(x) + x) - x[0]))(
        jnp.zeros(2)
    )
    low, high = J.outer_bounds()
    sample = J.sample(jax.random.key(0), 500)
    assert np.all((low <= sample) & (sample <= high))
    assert np.linalg.norm(sample, axis=(1, 2)).max() <= J.lipschitz_bound()
    with pytest.raises(errors.NotPolyhedralError):
        J.inner_bounds()


def test_support_is_the_largest_over_vertices():
    J = cx.conservative_jacobian(lambda x: jnp.abs(jnp.abs(x) - x[::-1] / 2))(jnp.zeros(2))
    for C in np.random.default_rng(0).normal(size=(20, 2, 2)):
        expected = np.tensordot(J.vertices(), C, axes=2).max()
        assert J.support(C) == pytest.approx(expected)
        assert J.inner_support(C) <= expected + 1e-12 <= J.outer_support(C) + 2e-12
    with pytest.raises(errors.InvalidInputError, match="shape"):
        J.support(np.zeros(2))


def test_smooth_programs_have_a_point():
    J = cx.conservative_jacobian(jnp.sin)(0.5)
    for low, high in (J.outer_bounds(), J.inner_bounds()):
        np.testing.assert_allclose([low, high], np.cos(0.5), rtol=1e-12)
    assert J.lipschitz_bound() == pytest.approx(np.cos(0.5))
