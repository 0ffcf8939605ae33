"""A tenth of ``make soundness``: certificates against brute force in exact rational arithmetic."""

import numpy as np
import pytest

import soundness

PIECES = 40  # of 250 instances


@pytest.mark.parametrize("part", range(8))
def test_no_verdict_is_false(part):
    undecided = instances = 0
    for seed in range(part, PIECES, 8):
        tally, wrong = soundness.examine(seed)
        assert not wrong, wrong[0]
        undecided += tally["UNKNOWN"]
        instances += soundness.PIECE
    assert undecided < 0.002 * instances


def test_the_oracle_agrees_with_floating_point_where_that_is_certain():
    rng = np.random.default_rng(1)
    for _ in range(60):
        form = soundness.instance(rng)
        weights = soundness.corners(form)
        diagonals = form.diagonal(weights).reshape(len(weights), -1)
        dets = np.linalg.det(form.jacobian(diagonals))
        values = np.linalg.svd(form.jacobian(diagonals), compute_uv=False)
        certain = values[:, -1] > 1e-9 * values[:, 0]
        signs = soundness.exact_signs(form)
        terms = np.abs(form.H).max() * np.abs(form.E).max()
        if np.all(certain) and np.linalg.norm(form.A) > 1e-3 * terms:
            assert (len(signs) == 1) == (len(set(np.sign(dets))) == 1)


def test_exact_singular_values_of_a_known_matrix():
    form = soundness.AbsNormal(
        np.diag([1.0, 2.0]),
        np.array([[0.0], [1.0]]),
        np.array([[0.0, 1.0]]),
        np.zeros((1, 1)),
        soundness.groups_of([1]),
        None,
        np.float64,
    )
    for q in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(
            soundness.exact_singular_values(form, np.array([q])), (1.0, 2.0 + q), rtol=1e-15
        )
