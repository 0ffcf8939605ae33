"""Couplings W = (1 − m)I − AᵀA + B − Bᵀ whose A and B are convolutions, on one grid or on several.

Circular convolutions are matrices of the size of the channels in each frequency, and so is the
resolvent ((1 + αm)I + α(ÂᴴÂ − B̂ + B̂ᴴ))⁻¹. With zero padding there is no such inverse: small layers form
a matrix, large ones are solved by forward–backward.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .couplings import Coupling, Dense, Resolvent

Padding = Literal["circular", "zero"]
DENSE = 1024  # units up to which a matrix is formed and inverted
_SLACK = 1 + 1e-10  # more than the rounding of small float64 transforms and singular values


def convolve(x: jax.Array, kernel: jax.Array, padding: Padding, stride: int = 1) -> jax.Array:
    """Cross-correlation of x (in, height, width) with kernel (out, in, k, k), k odd, on x's grid."""
    reach = kernel.shape[-1] // 2
    around = ((0, 0), (reach, reach), (reach, reach))
    x = jnp.pad(x, around, mode="wrap" if padding == "circular" else "constant")
    return jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), "VALID", precision=jax.lax.Precision.HIGHEST
    )[0]


def spectrum(kernel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The matrices (height, width, out, in) of a circular convolution, one a frequency, in float64."""
    kernel = np.asarray(kernel, np.float64)
    reach = kernel.shape[-1] // 2
    image = np.zeros((*kernel.shape[:2], *shape))
    for i, j in np.ndindex(*kernel.shape[2:]):
        image[:, :, (reach - i) % shape[0], (reach - j) % shape[1]] += kernel[:, :, i, j]
    return np.moveaxis(np.fft.fft2(image), (0, 1), (2, 3))


def convolution_bound(kernel: jax.Array, shape: Sequence[int], padding: Padding) -> float:
    """An upper bound of the norm of a convolution; exact, to rounding, if it is circular.

    Zeros around an image are an embedding into a larger torus, and the rest of it is cut off.
    """
    grow = 0 if padding == "circular" else kernel.shape[-1] - 1
    matrices = spectrum(np.asarray(kernel), [n + grow for n in shape])
    return float(np.max(np.linalg.norm(matrices, 2, axis=(2, 3)))) * _SLACK


class Factored(Coupling):
    """W = (1 − m)I − AᵀA + B − Bᵀ from the linear maps A and B; their transposes are JAX's."""

    m: float = eqx.field(static=True)

    @abc.abstractmethod
    def lower(self, z: jax.Array) -> jax.Array:
        """A z."""

    @abc.abstractmethod
    def skew(self, z: jax.Array) -> jax.Array:
        """B z."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of z."""

    def _parts(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        like = jax.ShapeDtypeStruct(z.shape, z.dtype)
        (gram,) = jax.linear_transpose(self.lower, like)(self.lower(z))
        (back,) = jax.linear_transpose(self.skew, like)(z)
        return (1 - self.m) * z - gram, self.skew(z) - back

    def multiply(self, z: jax.Array) -> jax.Array:
        symmetric, skew = self._parts(z)
        return symmetric + skew

    def multiply_transposed(self, z: jax.Array) -> jax.Array:
        symmetric, skew = self._parts(z)
        return symmetric - skew

    def modulus(self, m: float) -> float:
        return m  # W is applied as A, Aᵀ, B and Bᵀ, and monotone whatever these are

    def resolvent(self, alpha: jax.Array) -> Resolvent | None:
        size = int(np.prod(self.shape))
        if size > DENSE:
            return None
        dtype = jax.tree.leaves(self)[0].dtype
        unit = jnp.eye(size, dtype=dtype).reshape(size, *self.shape)
        columns = jax.vmap(self.multiply)(unit).reshape(size, size)
        return Dense(columns.T).resolvent(alpha)


class Convolution(Factored):
    """A and B are convolutions of (channels, height, width) with kernels (channels, channels, k, k)."""

    A: jax.Array
    B: jax.Array
    grid: tuple[int, int] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def lower(self, z: jax.Array) -> jax.Array:
        return convolve(z, self.A, self.padding)

    def skew(self, z: jax.Array) -> jax.Array:
        return convolve(z, self.B, self.padding)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.A.shape[0], *self.grid)

    def norm_bound(self) -> float:
        if self.padding == "circular":
            A, B = (spectrum(np.asarray(k), self.grid) for k in (self.A, self.B))
            gram = np.swapaxes(A, 2, 3).conj() @ A
            W = (1 - self.m) * np.eye(len(self.A)) - gram + B - np.swapaxes(B, 2, 3).conj()
            return float(np.max(np.linalg.norm(W, 2, axis=(2, 3)))) * _SLACK
        A, B = (convolution_bound(k, self.grid, self.padding) for k in (self.A, self.B))
        return (abs(1 - self.m) + A * A + 2 * B) * _SLACK

    def resolvent(self, alpha: jax.Array) -> Resolvent | None:
        if self.padding != "circular":
            return super().resolvent(alpha)
        channels = len(self.A)
        impulses = jnp.zeros((channels, *self.shape), self.A.dtype)
        impulses = impulses.at[jnp.arange(channels), jnp.arange(channels), 0, 0].set(1)

        def matrices(
            operator: Callable[[jax.Array], jax.Array],
        ) -> jax.Array:  # (height, width/2 + 1, out, in)
            return jnp.moveaxis(jnp.fft.rfft2(jax.vmap(operator)(impulses)), (0, 1), (3, 2))

        A, B = matrices(self.lower), matrices(self.skew)
        adjoint = lambda X: jnp.conj(jnp.swapaxes(X, 2, 3))  # noqa: E731
        inner = jnp.matmul(adjoint(A), A, precision=jax.lax.Precision.HIGHEST) - B + adjoint(B)
        one = jnp.eye(channels, dtype=A.dtype)
        inverse = jnp.linalg.inv((1 + alpha * self.m) * one + alpha * inner)
        # as real matrices of twice the size, whose products are quicker than complex ones
        top = jnp.concatenate([inverse.real, -inverse.imag], axis=3)
        bottom = jnp.concatenate([inverse.imag, inverse.real], axis=3)
        return Spectral(jnp.concatenate([top, bottom], axis=2))


class Spectral(Resolvent):
    """One real matrix [[Re, −Im], [Im, Re]] for each frequency: (height, width/2 + 1, 2c, 2c)."""

    matrices: jax.Array

    def _by(self, u: jax.Array, subscripts: str) -> jax.Array:
        c = len(u)
        waves = jnp.fft.rfft2(u)
        parts = jnp.concatenate([waves.real, waves.imag])
        parts = jnp.einsum(subscripts, self.matrices, parts, precision=jax.lax.Precision.HIGHEST)
        return jnp.fft.irfft2(jax.lax.complex(parts[:c], parts[c:]), u.shape[1:])

    def apply(self, u: jax.Array) -> jax.Array:
        return self._by(u, "hfoi,ihf->ohf")

    def apply_transposed(self, u: jax.Array) -> jax.Array:
        return self._by(u, "hfio,ihf->ohf")  # the transpose of the real form is the adjoint


class Tiers(Factored):
    """Several grids, each half as fine as the last: (A z)_i = A_i z_i + C_i z_{i−1}, (B z)_i = B_i z_i.

    z is flat: the tiers one after the other. C_i is a convolution with stride 2.
    """

    A: tuple[jax.Array, ...]
    B: tuple[jax.Array, ...]
    C: tuple[jax.Array, ...]
    grids: tuple[tuple[int, int], ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(len(A) * h * w for A, (h, w) in zip(self.A, self.grids, strict=True)),)

    def split(self, z: jax.Array) -> list[jax.Array]:
        """The tiers of z, each (channels, height, width)."""
        shapes = [(len(A), *grid) for A, grid in zip(self.A, self.grids, strict=True)]
        ends = np.cumsum([int(np.prod(s)) for s in shapes])
        return [part.reshape(s) for part, s in zip(jnp.split(z, ends[:-1]), shapes, strict=True)]

    def lower(self, z: jax.Array) -> jax.Array:
        tiers = self.split(z)
        out = [convolve(t, A, self.padding) for t, A in zip(tiers, self.A, strict=True)]
        for i, C in enumerate(self.C):
            out[i + 1] += convolve(tiers[i], C, self.padding, stride=2)
        return jnp.concatenate([t.ravel() for t in out])

    def skew(self, z: jax.Array) -> jax.Array:
        parts = zip(self.split(z), self.B, strict=True)
        return jnp.concatenate([convolve(t, B, self.padding).ravel() for t, B in parts])

    def norm_bound(self) -> float:
        A, B = (
            max(convolution_bound(k, g, self.padding) for k, g in zip(kernels, self.grids, strict=True))
            for kernels in (self.A, self.B)
        )  # fmt: skip
        down = zip(self.C, self.grids, strict=False)
        C = max((convolution_bound(k, g, self.padding) for k, g in down), default=0.0)
        return (abs(1 - self.m) + (A + C) ** 2 + 2 * B) * _SLACK
