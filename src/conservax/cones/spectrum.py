"""The Clarke Jacobian of the projection onto K* at v, as eigenvalues in a rotated basis.

Every element at v is V = T diag(d) Tᵀ with T orthogonal, blockwise; eigenvalues of v within a
tolerance of zero leave a choice, between d_lo (the least element) and d_hi (the greatest).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..arrays.namespace import Array, join, namespace, on_host
from .block import Block
from .table import Cones


class Tolerances(NamedTuple):
    """(batch, m) each: an eigenvalue in [−slack, dual] counts as zero."""

    dual: Array
    slack: Array


class Spectrum(NamedTuple):
    """``basis`` of each block; ``low`` and ``high``: d_lo and d_hi, (batch, m).

    ``bounded`` (batch,): whether every element lies between the two, which at edges of exponential
    and power cones is not known.
    """

    basis: tuple[Any, ...]
    low: Array
    high: Array
    bounded: Array


def _traced_once(fun: Callable[..., Any]) -> Callable[..., Any]:
    """For a solve and its derivatives meet the three functions below dozens of times; NumPy as it is."""
    traced = jax.jit(fun, static_argnames="cones")

    @functools.wraps(fun)
    def run(first: Any, *rest: Any) -> Any:
        return (fun if on_host(first, rest[0]) else traced)(first, *rest)

    return run


@_traced_once
def spectrum(v: Array, tolerances: Tolerances | None, cones: Cones) -> Spectrum:
    """Decompose v (batch, m); without tolerances only the signs count, zero as negative.

    Source: Malick, Sendov (2006) for matrices; Kanzow, Ferenczi, Fukushima (2009) for second-order
    cones; docs/theory.md#cones.
    """
    if tolerances is None:
        zeros = namespace(v).zeros_like(v)
        tolerances = Tolerances(zeros, zeros)
    basis, low, high = [], [], []
    bounded = namespace(v).ones(len(v), bool)
    for block, rows in cones.pieces:
        own = v[:, rows], *(t[:, rows] for t in tolerances)
        found = block.elements(*own)
        if found.bounded is not None:
            bounded = bounded & found.bounded
        basis.append(found.basis)
        low.append(found.low)
        high.append(found.high)
    return Spectrum(tuple(basis), join(low), join(high), bounded)


@_traced_once
def rotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """Tᵀ x for (batch, m, columns)."""
    return x if cones.polyhedral else _blockwise(lambda block: block.rotate, basis, x, cones)


@_traced_once
def unrotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """T x for (batch, m, columns)."""
    return x if cones.polyhedral else _blockwise(lambda block: block.unrotate, basis, x, cones)


def basis_matrices(basis: tuple[Any, ...], cones: Cones) -> tuple[Array, ...]:
    """T of each block that has one, (batch, count, rows, rows)."""
    found = []
    for (block, _), own in zip(cones.pieces, basis, strict=True):
        if own is not None and block.size:
            order, batch = block.size // block.count, len(own)
            xp = namespace(own)
            eye = xp.tile(xp.eye(order, dtype=own.dtype), (block.count, 1))
            eye = xp.broadcast_to(eye, (batch, *eye.shape))
            turned = block.unrotate(own, eye)
            found.append(turned.reshape(batch, block.count, order, order))
    return tuple(found)


def apply_element(basis: tuple[Any, ...], d: Array, x: Array, cones: Cones) -> Array:
    """V x for (batch, m)."""
    return unrotate(basis, d[..., None] * rotate(basis, x[..., None], cones), cones)[..., 0]


def project(v: Array, cones: Cones) -> Array:
    """The projection of v (batch, m) onto K*: V v for any element V."""
    parts = spectrum(v, None, cones)
    return apply_element(parts.basis, parts.low, v, cones)


def _blockwise(
    way: Callable[[Block], Callable[[Any, Array], Array]],
    basis: tuple[Any, ...],
    x: Array,
    cones: Cones,
) -> Array:
    parts = [
        way(block)(own, x[:, rows]) for (block, rows), own in zip(cones.pieces, basis, strict=True)
    ]
    batch = max(map(len, parts))  # what is shared has one item
    if any(len(part) != batch for part in parts):
        parts = [np.broadcast_to(part, (batch, *part.shape[1:])) for part in parts]
    return join(parts, axis=1)
