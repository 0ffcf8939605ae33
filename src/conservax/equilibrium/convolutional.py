"""``MonotoneConvEquilibrium`` and ``MonotoneTierEquilibrium``: monotone layers of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from . import phantom
from .activations import GroupSoftThreshold, Softmax, activation_of, selection_of
from .convolutions import DENSE, Convolution, Padding, Tiers, convolution_bound, convolve
from .monotone import Monotone, require_monotone, require_sizes, settings_of, uniform


def _require_grid(grid: Any, kernel_size: Any, padding: Any, halvings: int = 0) -> None:
    if not (isinstance(grid, tuple) and len(grid) == 2):
        raise InvalidInputError(f"shape={grid!r} must be a pair (height, width).")
    require_sizes(height=grid[0], width=grid[1], kernel_size=kernel_size)
    if padding not in ("circular", "zero"):
        raise InvalidInputError(f"padding={padding!r} is neither 'circular' nor 'zero'.")
    if kernel_size % 2 == 0 or kernel_size > min(grid) >> halvings:
        raise InvalidInputError(
            f"kernel_size={kernel_size} must be odd and at most the smallest side of every grid."
        )
    if any(n % 2**halvings for n in grid):
        raise InvalidInputError(
            f"shape={grid}: each tier halves the grid, so the sides must be multiples of {2**halvings}."
        )


class MonotoneConvEquilibrium(Monotone):
    """z = σ(W z + U∗x + b) on images, W = (1 − m) I − AᵀA + B − Bᵀ, A and B convolutions.

    z is (channels, height, width), x (in_channels, height, width), b one number a channel.

    Args:
        in_channels, channels: of x and of z.
        shape: (height, width).
        activation, m, alpha, memory, tol, max_steps, backward, selection, key, dtype: as in
            ``MonotoneEquilibrium``; softmax and groups are taken over channels.
        kernel_size: of U, A and B, odd.
        padding: "circular", whose resolvent is computed in the frequencies, or "zero".
        method: None chooses Peaceman–Rachford where there is an inverse: for circular padding, and up
            to 1,024 units for zero padding; else forward–backward.

    Attributes A, B, U, b: the kernels (out, in, k, k) and the bias.

    Raises InvalidInputError as ``MonotoneEquilibrium``, and for an even kernel size.

    Source: Winston, Kolter (NeurIPS 2020), Section 5 and Appendix.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> layer = cx.equilibrium.MonotoneConvEquilibrium(1, 2, (4, 4), key=jax.random.key(0))
    >>> layer(jnp.ones((1, 4, 4))).shape
    (2, 4, 4)
    """

    A: jax.Array
    B: jax.Array
    U: jax.Array
    b: jax.Array
    grid: tuple[int, int] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        shape: tuple[int, int],
        activation: Any = "relu",
        m: float = 1.0,
        *,
        kernel_size: int = 3,
        padding: Padding = "circular",
        method: str | None = None,
        alpha: float | None = None,
        memory: int | None = None,
        tol: float | None = None,
        max_steps: int = 500,
        backward: Any = "implicit",
        selection: Any = "jax",
        key: jax.Array,
        dtype: Any = None,
    ):
        require_sizes(in_channels=in_channels, channels=channels)
        _require_grid(shape, kernel_size, padding)
        self.grid, self.padding = shape, padding
        self.activation = activation_of(activation, (channels, *shape))
        inverse = padding == "circular" or _small((channels, *shape))
        method = _method(method, inverse)
        require_monotone(m, alpha, self.activation, method)
        self.m, self.alpha = float(m), alpha
        self.settings = settings_of(method, memory, max_steps, tol)
        self.backward, self.selection = phantom.backward_of(backward), selection_of(selection)
        window = (kernel_size, kernel_size)
        square = (channels, channels, *window), channels * kernel_size**2
        wide, inputs = (channels, in_channels, *window), in_channels * kernel_size**2
        self.A, self.B, self.U, self.b = uniform(
            key, square, square, (wide, inputs), ((channels,), inputs), dtype=dtype
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.A), *self.grid)

    @property
    def in_shape(self) -> tuple[int, ...]:
        return (self.U.shape[1], *self.grid)

    def coupling(self) -> Convolution:
        return Convolution(self.m, self.A, self.B, self.grid, self.padding)

    def drive(self, x: jax.Array) -> jax.Array:
        return convolve(x, self.U, self.padding) + self.b[:, None, None]

    def drive_bound(self) -> float:
        return convolution_bound(self.U, self.grid, self.padding)


class MonotoneTierEquilibrium(Monotone):
    """A monotone equilibrium of several tiers of images, each half as fine as the last.

    W = (1 − m) I − AᵀA + B − Bᵀ with (A z)_i = A_i∗z_i + C_i∗z_{i−1} (stride 2) and (B z)_i = B_i∗z_i;
    x enters the first tier. z is flat, the tiers one after the other; ``tiers(z)`` takes them apart.

    Args:
        in_channels: of x (in_channels, height, width).
        channels: of each tier, finest first.
        shape: (height, width) of x and of the first tier, multiples of 2^(tiers − 1).
        activation: as in ``MonotoneEquilibrium``, but for softmax and groups.
        m, kernel_size, padding, method, alpha, memory, tol, max_steps, backward, selection, key,
            dtype: as in ``MonotoneConvEquilibrium``; an inverse is there up to 1,024 units.

    Source: Winston, Kolter (NeurIPS 2020), Section 5, multi-tier networks.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> layer = cx.equilibrium.MonotoneTierEquilibrium(
    ...     1, (2, 3), (4, 4), kernel_size=1, key=jax.random.key(0)
    ... )
    >>> [tier.shape for tier in layer.tiers(layer(jnp.ones((1, 4, 4))))]
    [(2, 4, 4), (3, 2, 2)]
    """

    A: tuple[jax.Array, ...]
    B: tuple[jax.Array, ...]
    C: tuple[jax.Array, ...]
    U: jax.Array
    b: tuple[jax.Array, ...]
    grid: tuple[int, int] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        shape: tuple[int, int],
        activation: Any = "relu",
        m: float = 1.0,
        *,
        kernel_size: int = 3,
        padding: Padding = "zero",
        method: str | None = None,
        alpha: float | None = None,
        memory: int | None = None,
        tol: float | None = None,
        max_steps: int = 500,
        backward: Any = "implicit",
        selection: Any = "jax",
        key: jax.Array,
        dtype: Any = None,
    ):
        if not isinstance(channels, Sequence):
            raise InvalidInputError(f"channels={channels!r} must be a sequence, one number a tier.")
        require_sizes(in_channels=in_channels, tiers=len(channels))
        for i, count in enumerate(channels):
            require_sizes(**{f"channels[{i}]": count})
        _require_grid(shape, kernel_size, padding, len(channels) - 1)
        self.grid, self.padding = shape, padding
        units = [(c, shape[0] >> i, shape[1] >> i) for i, c in enumerate(channels)]
        size = sum(int(np.prod(u)) for u in units)
        self.activation = activation_of(activation, (size,))
        if isinstance(self.activation, Softmax | GroupSoftThreshold):
            raise InvalidInputError(
                "activation: tiers take one that acts entry by entry, no softmax and no groups."
            )
        method = _method(method, _small((size,)))
        require_monotone(m, alpha, self.activation, method)
        self.m, self.alpha = float(m), alpha
        self.settings = settings_of(method, memory, max_steps, tol)
        self.backward, self.selection = phantom.backward_of(backward), selection_of(selection)
        window, inputs = (kernel_size, kernel_size), kernel_size**2

        def kernel(out: int, into: int) -> tuple[tuple[int, ...], int]:
            return (out, into, *window), into * inputs

        square = [kernel(c, c) for c in channels]
        down = [kernel(b, a) for a, b in pairwise(channels)]
        biases = [((c,), c * inputs) for c in channels]
        drawn = iter(
            uniform(
                key, *square, *square, *down, kernel(channels[0], in_channels), *biases, dtype=dtype
            )
        )
        self.A, self.B = (tuple(islice(drawn, len(channels))) for _ in range(2))
        self.C, self.U, self.b = tuple(islice(drawn, len(down))), next(drawn), tuple(drawn)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.coupling().shape

    @property
    def in_shape(self) -> tuple[int, ...]:
        return (self.U.shape[1], *self.grid)

    def coupling(self) -> Tiers:
        grids = tuple((self.grid[0] >> i, self.grid[1] >> i) for i in range(len(self.A)))
        return Tiers(self.m, self.A, self.B, self.C, grids, self.padding)

    def tiers(self, z: jax.Array) -> list[jax.Array]:
        """The tiers of z, each (channels, height, width)."""
        return self.coupling().split(z)

    def drive(self, x: jax.Array) -> jax.Array:
        grids = self.coupling().grids
        parts = [
            jnp.broadcast_to(b[:, None, None], (len(b), *grid))
            for b, grid in zip(self.b, grids, strict=True)
        ]
        parts[0] = parts[0] + convolve(x, self.U, self.padding)
        return jnp.concatenate([part.ravel() for part in parts])

    def drive_bound(self) -> float:
        return convolution_bound(self.U, self.grid, self.padding)


def _small(shape: tuple[int, ...]) -> bool:
    return int(np.prod(shape)) <= DENSE


def _method(method: str | None, inverse: bool) -> str:
    if method is None:
        return "peaceman_rachford" if inverse else "forward_backward"
    if method == "peaceman_rachford" and not inverse:
        raise InvalidInputError(
            "method='peaceman_rachford' needs an inverse, which zero padding has up to 1,024 units only; "
            "use padding='circular' or method='forward_backward'."
        )
    return method
