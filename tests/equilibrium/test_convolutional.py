"""Layers of images against the matrix of their coupling, formed from its action on unit images."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.equilibrium import MonotoneConvEquilibrium, MonotoneTierEquilibrium
from conservax.equilibrium.activations import GroupSoftThreshold
from conservax.errors import InvalidInputError
from conservax.solution import Status

M = 0.7
LAYERS = {
    "circular": (MonotoneConvEquilibrium, (2, 3, (4, 6)), {"padding": "circular"}),
    "circular, forward-backward": (
        MonotoneConvEquilibrium, (2, 3, (4, 6)), {"padding": "circular", "method": "forward_backward"}),
    "zero": (MonotoneConvEquilibrium, (2, 3, (4, 5)), {"padding": "zero"}),
    "tiers": (MonotoneTierEquilibrium, (2, (3, 4), (4, 4)), {"kernel_size": 1}),
}  # fmt: skip


def by_hand(kernel, image, padding):
    """Cross-correlation, entry by entry."""
    out, _, k, _ = kernel.shape
    h, w = image.shape[1:]
    r, found = k // 2, np.zeros((out, h, w))
    for i in range(h):
        for j in range(w):
            for a in range(k):
                for b in range(k):
                    p, q = i + a - r, j + b - r
                    if padding == "circular":
                        p, q = p % h, q % w
                    if 0 <= p < h and 0 <= q < w:
                        found[:, i, j] += kernel[:, :, a, b] @ image[:, p, q]
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients_meet_the_dense_matrix(name):
    make, sizes, options = LAYERS[name]
    layer = make(*sizes, m=M, key=jax.random.key(0), dtype=jnp.float64, max_steps=3000, **options)
    arrays, rest = eqx.partition(layer, eqx.is_array)
    shape, size = layer.shape, int(np.prod(layer.shape))
    x = jax.random.normal(jax.random.key(1), layer.in_shape)
    cotangent = jax.random.normal(jax.random.key(2), shape)

    @jax.jit
    def run(arrays, x):
        def loss(arrays, x):
            solution = eqx.combine(arrays, rest).solve(x)
            return jnp.sum(solution.value * cotangent), solution

        (_, solution), found = jax.value_and_grad(loss, (0, 1), has_aux=True)(arrays, x)
        layer = eqx.combine(arrays, rest)
        units = jnp.eye(size).reshape(size, *shape)
        both = [
            jax.vmap(f)(units).reshape(size, size).T
            for f in (layer.coupling().multiply, layer.coupling().multiply_transposed)
        ]
        c = layer.drive(x)
        return solution, found, both, c

    solution, (of_layer, of_x), (W, transposed), c = run(arrays, x)
    W = np.asarray(W)
    np.testing.assert_allclose(transposed, W.T, atol=1e-12)
    assert np.linalg.eigvalsh(np.eye(size) - (W + W.T) / 2)[0] >= M - 1e-12
    assert solution.status == Status.SOLVED
    z, flat = np.asarray(solution.value).ravel(), np.asarray(c).ravel()
    np.testing.assert_allclose(z, np.maximum(W @ z + flat, 0), atol=1e-11)
    J = np.diag((W @ z + flat > 0) * 1.0)
    t = J @ np.linalg.solve(np.eye(size) - W.T @ J, np.asarray(cotangent).ravel())

    # the derivative of t·(W z + c) in the parameters and in x, at fixed z and t
    @jax.jit
    def explicit(arrays, x):
        def pairing(arrays, x):
            layer = eqx.combine(arrays, rest)
            pre = layer.coupling().multiply(solution.value) + layer.drive(x)
            return jnp.sum(jnp.asarray(t).reshape(shape) * pre)

        return jax.grad(pairing, (0, 1))(arrays, x)

    exact, exact_x = explicit(arrays, x)
    assert np.linalg.norm(of_x - exact_x) < 1e-10 * np.linalg.norm(exact_x)
    for found, right in zip(jax.tree.leaves(of_layer), jax.tree.leaves(exact), strict=True):
        assert np.linalg.norm(found - right) <= 1e-10 * np.linalg.norm(right)

    certificate = layer.certificate
    assert certificate.verdict == cx.Verdict.PROVEN
    assert layer.coupling().norm_bound() >= np.linalg.norm(W, 2) * (1 - 1e-12)
    assert certificate.margin <= np.linalg.svd(np.eye(size) - J @ W, compute_uv=False)[-1]


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_the_convolution_is_the_one_by_hand_and_its_norm_is_bounded(padding):
    from conservax.equilibrium.convolutions import convolution_bound, convolve

    rng = np.random.default_rng(0)
    kernel, image = rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(2, 5, 4))
    expected = by_hand(kernel, image, padding)
    np.testing.assert_allclose(
        convolve(jnp.asarray(image), jnp.asarray(kernel), padding), expected, atol=1e-12
    )
    units = np.eye(40).reshape(40, 2, 5, 4)
    matrix = np.stack([by_hand(kernel, unit, padding).ravel() for unit in units], axis=1)
    norm, bound = np.linalg.norm(matrix, 2), convolution_bound(kernel, (5, 4), padding)
    assert norm <= bound
    if padding == "circular":
        np.testing.assert_allclose(norm, bound, rtol=1e-9)


def test_groups_are_of_channels():
    layer = MonotoneConvEquilibrium(
        1, 4, (3, 3), GroupSoftThreshold(2, 0.2), key=jax.random.key(0), dtype=jnp.float64
    )
    v = jax.random.normal(jax.random.key(1), layer.shape)
    pairs = np.asarray(v).reshape(2, 2, 3, 3)
    length = np.linalg.norm(pairs, axis=1, keepdims=True)
    expected = (pairs * np.maximum(1 - 0.2 / length, 0)).reshape(4, 3, 3)
    np.testing.assert_allclose(layer.activation(v), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k: MonotoneConvEquilibrium(1, 2, (4, 4), kernel_size=2, key=k), "kernel_size=2"),
        (lambda k: MonotoneConvEquilibrium(1, 2, (4, 4), padding="same", key=k), "padding='same'"),
        (lambda k: MonotoneConvEquilibrium(1, 2, (4, 4), m=-1.0, key=k), "m=-1.0"),
        (lambda k: MonotoneConvEquilibrium(1, 2, 4, key=k), "shape=4"),
        (lambda k: MonotoneConvEquilibrium(
            1, 32, (8, 8), padding="zero", method="peaceman_rachford", key=k), "needs an inverse"),
        (lambda k: MonotoneTierEquilibrium(1, (2, 2), (5, 4), kernel_size=1, key=k), "multiples of 2"),
        (lambda k: MonotoneTierEquilibrium(1, (2, 2), (4, 4), "softmax", kernel_size=1, key=k), "by entry"),
    ],
)  # fmt: skip
def test_what_is_refused(build, message):
    with pytest.raises(InvalidInputError, match=message):
        build(jax.random.key(0))
