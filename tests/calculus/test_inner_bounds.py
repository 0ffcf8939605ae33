"""Inner bounds are attained, by brute force; and pivots agree with elements solved for anew."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import conservax as cx
from conservax import ConservativeJacobian, errors
from conservax.calculus import AbsNormal
from conservax.calculus.sets.inner_bounds import _Pivoted

from .test_pivots import KINDS, a_form, all_weights

SEEDS = st.integers(0, 10**6)


@given(KINDS, SEEDS, st.sampled_from(["nested", "implicit"]))
def test_a_pivot_is_the_element_at_the_new_selection(kinds, seed, shape):
    form = a_form(kinds, seed=seed, implicit=shape == "implicit")
    rng = np.random.default_rng(seed)
    weights = all_weights(form)
    diagonals = form.diagonal(weights)
    state = _Pivoted.at(form, diagonals[0].copy())
    here = diagonals[0].copy()
    for g in form.groups:
        columns = list(g.columns)
        there = diagonals[int(rng.integers(len(diagonals)))]
        change = there[columns] - here[columns]
        try:
            step = state.step(columns, change)
        except errors.SingularError:
            return
        before, here[columns] = form.jacobian(here), there[columns]
        after = before + state.Y[:, columns] @ step @ state.Z[columns]
        np.testing.assert_allclose(after, form.jacobian(here), atol=1e-7, rtol=1e-7)
        state.move(columns, change)
    fresh = _Pivoted.at(form, here)
    for name in ("K", "Z", "Y"):
        np.testing.assert_allclose(getattr(state, name), getattr(fresh, name), atol=1e-6, rtol=1e-6)


@given(KINDS, SEEDS)
def test_bounds_are_values_of_vertices(kinds, seed):
    form = a_form(kinds, seed=seed)
    elements = form.jacobian(form.diagonal(all_weights(form)))
    low, high = ConservativeJacobian(form).inner_bounds()
    for (a, b), value in [*np.ndenumerate(low), *np.ndenumerate(high)]:
        assert np.min(np.abs(elements[:, a, b] - value)) < 1e-8 * (1 + abs(value))


def test_kinks_that_no_other_sees_are_exact_in_any_number():
    J = cx.conservative_jacobian(lambda x: jnp.sum(jnp.abs(x) * jnp.arange(1.0, 41.0)))(
        jnp.zeros(40)
    )
    low, high = J.inner_bounds()
    np.testing.assert_allclose(high[0], np.arange(1.0, 41.0))
    np.testing.assert_allclose(low[0], -np.arange(1.0, 41.0))


def test_a_singular_selection_on_the_way_is_an_error():
    # y = 2 relu(y) + a: B = 1 − 2q changes sign between q = 0 and q = 1
    form = a_form([("segment", 1)], m=1, n=1, implicit=True)
    form = AbsNormal(form.A, form.H, form.E, np.array([[2.0]]), form.groups, None, form.dtype)
    with pytest.raises(errors.SingularError, match="check"):
        ConservativeJacobian(form).inner_bounds()


def test_inner_bounds_meet_outer_ones_where_signs_agree():
    # all gains positive: all weights 1 is the best selection for every entry, and 0 the worst
    k = 24
    form = a_form([("segment", 1)] * k, m=1, n=1, seed=1, implicit=True)
    L = np.abs(form.L) * 0.02
    form = AbsNormal(form.A, np.abs(form.H), np.abs(form.E), L, form.groups, None, form.dtype)
    J = ConservativeJacobian(form)
    low, high = J.inner_bounds()
    best = form.jacobian(np.ones(k))
    np.testing.assert_allclose([low, high], [form.A, best], rtol=1e-12)
    outside = J.outer_bounds()
    assert outside[0] <= low
    assert high <= outside[1]
    assert (outside[1] - best) <= 0.05 * (best - form.A)


def test_inner_bounds_are_attained_and_usually_exact():
    exact = 0
    for seed in range(10):
        form = a_form([("segment", 1)] * 6, m=2, n=2, seed=seed, implicit=True)
        elements = form.jacobian(form.diagonal(all_weights(form)))
        low, high = ConservativeJacobian(form).inner_bounds()
        for bound in (*low.ravel(), *high.ravel()):
            assert np.min(np.abs(elements - bound)) < 1e-9
        exact += np.allclose(low, elements.min(axis=0)) and np.allclose(high, elements.max(axis=0))
    assert exact >= 8
