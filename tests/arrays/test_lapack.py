import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.arrays import lapack

SIZES = [
    (3, 4),
    (40, 30),
    (5, 110),
    (450, 20),
    (4000, 15),
]  # one call, several, and one after the other


def definite(batch: int, n: int) -> np.ndarray:
    root = np.random.default_rng(n).normal(size=(batch, n, n))
    return root @ np.swapaxes(root, 1, 2) / n + np.eye(n)


@pytest.mark.parametrize(("batch", "n"), SIZES)
def test_cholesky_and_its_solves(batch: int, n: int) -> None:
    H = definite(batch, n)
    right = np.random.default_rng(1).normal(size=(batch, n, 3))
    L = jax.jit(lapack.cholesky)(jnp.asarray(H))
    np.testing.assert_allclose(L, np.linalg.cholesky(H), atol=1e-12)
    np.testing.assert_allclose(
        L @ lapack.forward_substitution(L, jnp.asarray(right)), right, atol=1e-12
    )
    np.testing.assert_allclose(H @ lapack.cholesky_solve(L, jnp.asarray(right)), right, atol=1e-11)


@pytest.mark.parametrize(("batch", "n"), SIZES[:4])
def test_spectral_decompositions(batch: int, n: int) -> None:
    H = jnp.asarray(definite(batch, n).reshape(batch, 1, n, n))
    values, vectors = lapack.eigh(H)
    np.testing.assert_allclose(vectors * values[..., None, :] @ vectors.mT, H, atol=1e-11)
    np.testing.assert_allclose(lapack.eigvalsh(H), np.linalg.eigvalsh(H), atol=1e-11)
    U, sizes, Vt = lapack.svd(H)
    np.testing.assert_allclose(U * sizes[..., None, :] @ Vt, H, atol=1e-11)


def test_an_item_that_is_not_definite_is_nan_alone() -> None:
    H = definite(60, 40)
    H[17] *= -1
    L = np.asarray(lapack.cholesky(jnp.asarray(H)))
    assert np.flatnonzero(np.isnan(L).any((1, 2))).tolist() == [17]


TWO_SOLVES = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from conservax.programs import QuadraticProgram
rng = np.random.default_rng(0)
G, h = rng.normal(size=(20, 12)), np.ones(20)
Q = jnp.eye(12)
value = lambda Q, c: QuadraticProgram()(Q, c, G=G, h=h).primal.sum()
both = jax.jit(lambda Q, a, b: (jax.value_and_grad(value, 1)(Q, a), value(Q, b)))
costs = [jnp.asarray(3 * rng.normal(size=(400, 12))) for _ in range(2)]
for _ in range(20):
    (first, _), second = both(Q, *costs)
print(float(first), float(second))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux alone")
def test_two_solves_in_one_program_do_not_wait_for_each_other() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWO_SOLVES], capture_output=True, text=True, timeout=240, check=True
    )
    assert np.isfinite([float(word) for word in ended.stdout.split()]).all()
