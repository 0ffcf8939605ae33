"""The cases: data against closed forms, and the sets that were worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.programs import ConeProgram
from conservax.reproduce.degenerate_cases import CASES, CONES

UNIQUE = [case for case in CASES if case.answers is not None]


@pytest.fixture(scope="module")
def neighbours():
    """Ten points next to each degenerate one, all solved as one batch."""
    rng = np.random.default_rng(1)
    points = [np.array(c.point) + 0.1 * rng.normal(size=(10, len(c.point))) for c in UNIQUE]
    with jax.enable_x64(True):
        data = [c.data(jnp.asarray(p)) for c, ps in zip(UNIQUE, points, strict=True) for p in ps]
        batch = jax.tree.map(lambda *parts: jnp.stack(parts), *data)
        primal = np.asarray(ConeProgram(CONES)(*batch).primal)
    return points, primal.reshape(len(UNIQUE), 10, -1)


@pytest.mark.parametrize("k", range(len(UNIQUE)), ids=[case.name for case in UNIQUE])
def test_program_has_the_closed_form_as_its_solution(neighbours, k):
    points, primal = neighbours
    expected = [UNIQUE[k].solution(p) for p in points[k]]
    np.testing.assert_allclose(primal[k, :, UNIQUE[k].output], expected, atol=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_shape(case):
    P, c, A, b = case.data(jnp.array(case.point))
    assert (P.shape, c.shape, A.shape, b.shape) == ((4, 4), (4,), (CONES.size, 4), (CONES.size,))
    assert np.linalg.eigvalsh(P).min() >= 0


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
