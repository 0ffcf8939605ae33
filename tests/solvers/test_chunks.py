"""Chunks change nothing but the order of work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.solvers import chunks


def of_items(matrices, vectors):
    return {
        "solution": jnp.linalg.solve(matrices, vectors[..., None])[..., 0],
        "size": jnp.sum(vectors, axis=1),
    }


@pytest.mark.parametrize("batch", [1, 8, 9, 19, 32])
def test_a_batch_in_chunks_is_the_batch(batch, monkeypatch):
    """Twelve matrices fit a chunk: the last one is padded, unless all fit."""
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(batch, 5, 5))), jnp.asarray(rng.normal(size=(batch, 5)))
    monkeypatch.setattr(chunks, "_CACHED", 12 * 25 * 8)
    found = chunks.in_chunks(of_items, *data)
    expected = np.linalg.solve(*map(np.asarray, (data[0], data[1][..., None])))[..., 0]
    np.testing.assert_allclose(found["solution"], expected, rtol=1e-9)
    np.testing.assert_allclose(found["size"], np.asarray(data[1]).sum(axis=1), rtol=1e-12)
    loops = str(jax.make_jaxpr(lambda *data: chunks.in_chunks(of_items, *data))(*data)).count(
        "scan"
    )
    assert (loops > 0) == (batch > 12)


def test_a_gpu_takes_all_at_once_in_full_precision(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    A = jnp.ones((64, 3, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda A: chunks.in_chunks(lambda A: A @ A, A))(A)
    (product,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general")
    assert product.invars[0].aval.shape == (64, 3, 3)
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}
