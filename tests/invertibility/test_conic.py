"""Matrix-valued kinks: singular elements by hand, proofs against random elements 0 ≼ V ≼ I."""

import numpy as np
import pytest

from conservax import errors
from conservax.invertibility import Verdict
from conservax.invertibility.conic import certify_conic


def random_elements(rng, sizes, count=200):
    for _ in range(count):
        V = np.zeros((sum(sizes),) * 2)
        at = 0
        for size in sizes:
            Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
            V[at : at + size, at : at + size] = (Q * rng.integers(0, 2, size=size)) @ Q.T
            at += size
        yield V


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("sizes", [[3], [2, 2], [1, 1, 1], [2, 1, 3]])
def test_verdicts_against_random_elements(seed, sizes):
    rng = np.random.default_rng(seed)
    k = sum(sizes)
    M = rng.normal(size=(k, k)) * rng.choice([0.3, 0.6, 1.0])
    found = certify_conic(M, sizes)
    if found.verdict == Verdict.PROVEN:
        assert found.margin > 0
        for V in random_elements(rng, sizes):
            # the bound of docs/theory.md#monotone-equilibria, with the scaling's condition
            values = np.linalg.svd(np.eye(k) - V @ M, compute_uv=False)
            spread = found.scale.max() / found.scale.min()
            assert values[-1] >= 1 / (1 + np.linalg.norm(M, 2) * spread / found.margin) * (1 - 1e-9)
    elif found.verdict == Verdict.REFUTED:
        V = found.element
        values = np.linalg.eigvalsh(V)
        assert values[0] > -1e-12
        assert values[-1] < 1 + 1e-12
        np.testing.assert_array_equal(V, V.T)
        singular = np.linalg.svd(np.eye(k) - V @ M, compute_uv=False)
        assert singular[-1] < 1e-12 * max(1, singular[0])
    if len(sizes) == 1:  # docs/theory.md#matrix-valued-kinks: necessary and sufficient
        N = np.eye(k) - M
        definite = np.linalg.eigvalsh(N + N.T)[0] > 0
        assert found.verdict == (Verdict.PROVEN if definite else Verdict.REFUTED)


def test_equal_signs_at_extreme_elements_do_not_suffice():
    # det(I − V M) at V = 0 and V = I is 1 and 9 − … > 0; a projection of rank one is singular
    M = np.array([[0.0, 3.0], [0.0, 0.0]])
    assert np.linalg.det(np.eye(2) - M) == 1.0
    found = certify_conic(M, [2])
    assert found.verdict == Verdict.REFUTED
    assert abs(np.linalg.det(np.eye(2) - found.element @ M)) < 1e-12
    assert certify_conic(M, [1, 1]).verdict == Verdict.PROVEN  # diagonal V only


def test_bad_input():
    with pytest.raises(errors.InvalidInputError, match="sizes"):
        certify_conic(np.eye(3), [2])
    with pytest.raises(errors.InvalidInputError, match="NaN"):
        certify_conic(np.full((2, 2), np.nan), [2])
