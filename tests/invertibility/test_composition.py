"""Certificates of maps made of certified ones, against products and blocks of all elements."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.invertibility import (
    Monotone,
    Verdict,
    certify,
    certify_composition,
    certify_monotone,
    certify_stack,
)


def kinked(matrices):
    """x ↦ A x + B relu(C x), at its kinks for x = 0."""
    A, B, C = matrices
    return lambda x: A @ x + B @ jax.nn.relu(C @ x)


def set_at_zero(fun, n=2):
    return cx.conservative_jacobian(fun)(jnp.zeros(n))


matrices = st.lists(
    st.lists(st.integers(-2, 2), min_size=4, max_size=4).map(
        lambda v: np.array(v, float).reshape(2, 2)
    ),
    min_size=3,
    max_size=3,
).map(lambda m: (m[0] + 3 * np.eye(2), *m[1:]))


@given(matrices, matrices)
def test_products_and_blocks_of_all_elements(first, second):
    sets = [set_at_zero(kinked(m)) for m in (first, second)]
    parts = [certify(J.form) for J in sets]
    product, blocks = certify_composition(*parts), certify_stack(*parts)
    verdicts = {p.verdict for p in parts}
    expected = min(verdicts, key=lambda v: abs(v - Verdict.REFUTED))
    assert product.verdict == blocks.verdict == expected
    one, two = (J.vertices() for J in sets)
    values = [np.linalg.svd(b @ a, compute_uv=False)[-1] for a in one for b in two]
    if expected == Verdict.PROVEN:
        assert 0 < product.margin <= min(values) * (1 + 1e-12)
        least = min(np.linalg.svd(a, compute_uv=False)[-1] for a in (*one, *two))
        assert 0 < blocks.margin <= least
        # the composed program, cut as a whole, agrees
        whole = set_at_zero(lambda x: kinked(second)(kinked(first)(x)))
        assert certify(whole.form).verdict == Verdict.PROVEN
    elif expected == Verdict.REFUTED:
        assert product.witness is not None
        assert "factor" in product.reason


def test_the_undecided_part_is_named_with_what_would_decide_it():
    proven = certify_monotone(Monotone(0.5, norm=1.0))
    unknown = certify_monotone(np.array([[2.0]]))
    assert unknown.verdict == Verdict.UNKNOWN
    together = certify_stack(proven, unknown)
    assert together.verdict == Verdict.UNKNOWN
    assert together.reason.startswith("part 2: ")
    assert together.undecided == f"part 2: {unknown.undecided}"


def test_margins_multiply_or_take_the_least():
    parts = [certify_monotone(Monotone(m, norm=1.0)) for m in (0.5, 0.25)]
    a, b = (p.margin for p in parts)
    assert a * b * (1 - 1e-12) < certify_composition(*parts).margin <= a * b
    assert certify_stack(*parts).margin == min(a, b)
    assert math.isnan(certify_stack(*parts).sigma_min)
    without = certify_monotone(Monotone(0.5))
    assert certify_composition(parts[0], without).margin == pytest.approx(a * without.margin)


def test_nothing_is_not_certified():
    with pytest.raises(errors.InvalidInputError, match="one for each map"):
        certify_stack()
