"""The Clarke Jacobian of the projection onto K* at v, as eigenvalues in a rotated basis.

Every element at v is V = T diag(d) Tᵀ with T orthogonal, blockwise; eigenvalues of v within a
tolerance of zero leave a choice, between d_lo (the least element) and d_hi (the greatest).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..solvers.cones import (
    Array,
    Cones,
    Curved,
    Orthant,
    SecondOrder,
    Semidefinite,
    Zero,
    join,
    transpose,
)
from ..solvers.lapack import eigh
from .curved_blocks import curved


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


# A solve and its derivatives meet the three functions below dozens of times: each is traced once.
_traced_once = functools.partial(jax.jit, static_argnames="cones")


@_traced_once
def spectrum(v: Array, tolerances: Tolerances | None, cones: Cones) -> Spectrum:
    """Decompose v (batch, m); without tolerances only the signs count, zero as negative.

    Source: Malick, Sendov (2006) for matrices; Kanzow, Ferenczi, Fukushima (2009) for second-order
    cones; docs/theory.md#cones.
    """
    if tolerances is None:
        tolerances = Tolerances(jnp.zeros_like(v), jnp.zeros_like(v))
    basis, low, high = [], [], []
    bounded = jnp.ones(len(v), bool)
    for block, rows in cones.pieces:
        own = v[:, rows], *(t[:, rows] for t in tolerances)
        if isinstance(block, Curved):
            *parts, known = curved(block, *own)
            bounded &= known
        else:
            parts = _PARTS[type(block)](block, *own)
        for kept, part in zip((basis, low, high), parts, strict=True):
            kept.append(part)
    return Spectrum(tuple(basis), join(low), join(high), bounded)


@_traced_once
def rotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """Tᵀ x for (batch, m, columns)."""
    return _blockwise(_ROTATE, basis, x, cones)


@_traced_once
def unrotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """T x for (batch, m, columns)."""
    return _blockwise(_UNROTATE, basis, x, cones)


def basis_matrices(basis: tuple[Any, ...], cones: Cones) -> tuple[Array, ...]:
    """T of each block that has one, (batch, count, rows, rows)."""
    found = []
    for (block, _), own in zip(cones.pieces, basis, strict=True):
        if own is not None and block.size:
            order, batch = block.size // block.count, len(own)
            eye = jnp.tile(jnp.eye(order, dtype=own.dtype), (block.count, 1))
            eye = jnp.broadcast_to(eye, (batch, *eye.shape))
            turned = _UNROTATE[type(block)](block, own, eye)
            found.append(turned.reshape(batch, block.count, order, order))
    return tuple(found)


def apply_element(basis: tuple[Any, ...], d: Array, x: Array, cones: Cones) -> Array:
    """V x for (batch, m)."""
    return unrotate(basis, d[..., None] * rotate(basis, x[..., None], cones), cones)[..., 0]


def project(v: Array, cones: Cones) -> Array:
    """The projection of v (batch, m) onto K*: V v for any element V."""
    parts = spectrum(v, None, cones)
    return apply_element(parts.basis, parts.low, v, cones)


def _blockwise(table: Any, basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    parts = [
        table[type(block)](block, own, x[:, rows])
        for (block, rows), own in zip(cones.pieces, basis, strict=True)
    ]
    return join(parts, axis=1)


def _slope(a: Array, b: Array, tie: float) -> Array:
    """(a⁺ − b⁺)/(a − b) for eigenvalues of which those that count as zero are zero; ``tie`` at 0/0."""
    apart = a != b
    gap = jnp.where(apart, a - b, 1.0)
    ratio = (jnp.maximum(a, 0.0) - jnp.maximum(b, 0.0)) / gap
    return jnp.where(apart, ratio, jnp.where(a > 0, 1.0, jnp.where(a < 0, 0.0, tie)))


def _snap(value: Array, dual: Array, slack: Array) -> Array:
    return jnp.where((value <= dual) & (value >= -slack), 0.0, value)


def _free(block: Zero, v: Array, dual: Array, slack: Array) -> tuple[Any, Array, Array]:
    return None, jnp.ones_like(v), jnp.ones_like(v)


def _orthant(block: Orthant, v: Array, dual: Array, slack: Array) -> tuple[Any, Array, Array]:
    return None, (v > dual).astype(v.dtype), (v >= -slack).astype(v.dtype)


def _second_order(
    block: SecondOrder, v: Array, dual: Array, slack: Array
) -> tuple[Any, Array, Array]:
    shape = (len(v), block.count, block.dim)
    v = v.reshape(shape)
    dual, slack = (jnp.max(t.reshape(shape), axis=-1) for t in (dual, slack))
    t, x = v[..., 0], v[..., 1:]
    zero = jnp.all(x == 0, axis=-1)
    first = jnp.zeros_like(x).at[..., 0].set(1.0)
    safe = jnp.where(zero[..., None], first, x)
    length = jnp.linalg.norm(safe, axis=-1)
    axis = safe / length[..., None]
    length = jnp.where(zero, 0.0, length)
    upper, lower = _snap(t + length, dual, slack), _snap(t - length, dual, slack)

    def eigenvalues(tie: float) -> Array:
        ends = [_slope(value, value, tie) for value in (upper, lower)]
        across = jnp.repeat(_slope(upper, lower, tie)[..., None], block.dim - 2, axis=-1)
        d = jnp.concatenate([jnp.stack(ends, axis=-1), across], axis=-1)
        return d.reshape(len(v), block.size)

    return axis, eigenvalues(0.0), eigenvalues(1.0)


def _reflect(axis: Array, x: Array) -> Array:
    """A symmetric orthogonal map that exchanges e₁ and ∓axis; x is (..., dim − 1, columns)."""
    sign = jnp.where(axis[..., :1] < 0, -1.0, 1.0)
    mirror = axis.at[..., :1].add(sign)
    mirror = mirror / jnp.linalg.norm(mirror, axis=-1, keepdims=True)
    along = jnp.sum(mirror[..., None] * x, axis=-2, keepdims=True)
    return x - 2 * along * mirror[..., None]


def _rotate_second_order(block: SecondOrder, axis: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, block.dim, x.shape[-1])
    t, rest = parts[:, :, :1], parts[:, :, 1:]
    along = jnp.sum(axis[..., None] * rest, axis=-2, keepdims=True)
    root = jnp.sqrt(jnp.asarray(0.5, x.dtype))
    across = _reflect(axis, rest)[:, :, 1:]
    rotated = jnp.concatenate([root * (t + along), root * (t - along), across], axis=2)
    return rotated.reshape(x.shape)


def _unrotate_second_order(block: SecondOrder, axis: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, block.dim, x.shape[-1])
    upper, lower, across = parts[:, :, :1], parts[:, :, 1:2], parts[:, :, 2:]
    root = jnp.sqrt(jnp.asarray(0.5, x.dtype))
    sign = jnp.where(axis[..., :1] < 0, 1.0, -1.0)[..., None]
    rest = _reflect(axis, jnp.concatenate([sign * root * (upper - lower), across], axis=2))
    return jnp.concatenate([root * (upper + lower), rest], axis=2).reshape(x.shape)


def _semidefinite(
    block: Semidefinite, v: Array, dual: Array, slack: Array
) -> tuple[Any, Array, Array]:
    values, vectors = eigh(block.matrices(v))
    dual, slack = (
        jnp.max(t.reshape(len(v), block.count, -1), axis=-1, keepdims=True) for t in (dual, slack)
    )
    values = _snap(values, dual, slack)
    a, b = jnp.broadcast_arrays(values[..., :, None], values[..., None, :])

    def eigenvalues(tie: float) -> Array:
        plain = _slope(a, b, tie)
        # svec would put √2 off the diagonal, but these are factors, not coordinates
        return block.vector(plain) / block.vector(jnp.ones_like(plain))

    return vectors, eigenvalues(0.0), eigenvalues(1.0)


def _rotate_semidefinite(block: Semidefinite, vectors: Array, x: Array) -> Array:
    Q = vectors[:, None]
    return transpose(block.vector(transpose(Q) @ block.matrices(transpose(x)) @ Q))


def _unrotate_semidefinite(block: Semidefinite, vectors: Array, x: Array) -> Array:
    Q = vectors[:, None]
    return transpose(block.vector(Q @ block.matrices(transpose(x)) @ transpose(Q)))


def _same(block: Zero | Orthant, basis: None, x: Array) -> Array:
    return x


def _rotate_curved(block: Curved, T: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, 3, x.shape[-1])
    return (transpose(T) @ parts).reshape(x.shape)


def _unrotate_curved(block: Curved, T: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, 3, x.shape[-1])
    return (T @ parts).reshape(x.shape)


_PARTS = {
    Zero: _free,
    Orthant: _orthant,
    SecondOrder: _second_order,
    Semidefinite: _semidefinite,
}
_ROTATE = {
    Zero: _same,
    Orthant: _same,
    SecondOrder: _rotate_second_order,
    Semidefinite: _rotate_semidefinite,
    Curved: _rotate_curved,
}
_UNROTATE = {
    Zero: _same,
    Orthant: _same,
    SecondOrder: _unrotate_second_order,
    Semidefinite: _unrotate_semidefinite,
    Curved: _unrotate_curved,
}
