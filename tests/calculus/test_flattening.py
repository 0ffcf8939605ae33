"""Matrices and pytrees carry the same numbers, and duplicates go whatever their round-off."""

import jax
import jax.numpy as jnp
import numpy as np

from conservax.calculus.tracing.flattening import as_pytree, columns_in_order, without_duplicates


def test_a_matrix_becomes_what_jax_jacobian_returns():
    def fun(tree):
        return {"s": jnp.sum(tree["a"]) * tree["b"], "t": tree["a"].T @ tree["a"]}

    x = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.asarray([1.0, -1.0])}
    expected = jax.jacobian(fun)(x)
    rows = [
        np.concatenate(
            [np.reshape(leaf, (out.size, -1)) for leaf in jax.tree.leaves(block)], axis=1
        )
        for out, block in zip(jax.tree.leaves(fun(x)), (expected["s"], expected["t"]), strict=True)
    ]
    found = as_pytree(np.concatenate(rows), fun(x), x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_columns_follow_the_order_of_the_arguments():
    args = (jnp.zeros(2), jnp.zeros(3), 0.0)
    assert columns_in_order(args, (0, 1)) is None
    np.testing.assert_array_equal(columns_in_order(args, (2, 0)), [2, 0, 1])


def test_duplicates_go_with_their_round_off():
    stack = np.array([[[1.0, 0.0]], [[1.0 + 1e-15, -0.0]], [[0.5, 0.0]], [[1.0 + 1e-6, 0.0]]])
    np.testing.assert_allclose(
        without_duplicates(stack)[:, 0, 0], [0.5, 1.0, 1.0 + 1e-6], rtol=1e-9
    )
