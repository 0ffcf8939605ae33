"""The Clarke Jacobian of the projection onto K* at v, as eigenvalues in a rotated basis.

Every element at v is V = T diag(d) Tᵀ with T orthogonal, blockwise; eigenvalues of v within a
tolerance of zero leave a choice, between d_lo (the least element) and d_hi (the greatest).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ...arrays.lapack import eigh
from ...arrays.namespace import Array, join, namespace, on_host, transpose
from ...solvers.cones import Cones, Curved, Orthant, SecondOrder, Semidefinite, Zero
from .curved_blocks import curved
from .curved_on_host import curved_on_host


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
        if isinstance(block, Curved):
            find = curved_on_host if namespace(v) is np else curved
            *parts, known = find(block, *own)
            bounded = bounded & known
        else:
            parts = _PARTS[type(block)](block, *own)
        for kept, part in zip((basis, low, high), parts, strict=True):
            kept.append(part)
    return Spectrum(tuple(basis), join(low), join(high), bounded)


@_traced_once
def rotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """Tᵀ x for (batch, m, columns)."""
    return x if cones.polyhedral else _blockwise(_ROTATE, basis, x, cones)


@_traced_once
def unrotate(basis: tuple[Any, ...], x: Array, cones: Cones) -> Array:
    """T x for (batch, m, columns)."""
    return x if cones.polyhedral else _blockwise(_UNROTATE, basis, x, cones)


def basis_matrices(basis: tuple[Any, ...], cones: Cones) -> tuple[Array, ...]:
    """T of each block that has one, (batch, count, rows, rows)."""
    found = []
    for (block, _), own in zip(cones.pieces, basis, strict=True):
        if own is not None and block.size:
            order, batch = block.size // block.count, len(own)
            xp = namespace(own)
            eye = xp.tile(xp.eye(order, dtype=own.dtype), (block.count, 1))
            eye = xp.broadcast_to(eye, (batch, *eye.shape))
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
    batch = max(map(len, parts))  # what is shared has one item
    if any(len(part) != batch for part in parts):
        parts = [np.broadcast_to(part, (batch, *part.shape[1:])) for part in parts]
    return join(parts, axis=1)


def _slope(a: Array, b: Array, tie: float) -> Array:
    """(a⁺ − b⁺)/(a − b) for eigenvalues of which those that count as zero are zero; ``tie`` at 0/0."""
    apart, xp = a != b, namespace(a, b)
    gap = xp.where(apart, a - b, 1.0)
    ratio = (xp.maximum(a, 0.0) - xp.maximum(b, 0.0)) / gap
    return xp.where(apart, ratio, xp.where(a > 0, 1.0, xp.where(a < 0, 0.0, tie)))


def _snap(value: Array, dual: Array, slack: Array) -> Array:
    return namespace(value).where((value <= dual) & (value >= -slack), 0.0, value)


def _free(block: Zero, v: Array, dual: Array, slack: Array) -> tuple[Any, Array, Array]:
    one = namespace(v).ones_like(v)
    return None, one, one


def _orthant(block: Orthant, v: Array, dual: Array, slack: Array) -> tuple[Any, Array, Array]:
    return None, (v > dual).astype(v.dtype), (v >= -slack).astype(v.dtype)


def _second_order(
    block: SecondOrder, v: Array, dual: Array, slack: Array
) -> tuple[Any, Array, Array]:
    shape, xp = (len(v), block.count, block.dim), namespace(v)
    v = v.reshape(shape)
    dual, slack = (xp.max(t.reshape(shape), axis=-1) for t in (dual, slack))
    t, x = v[..., 0], v[..., 1:]
    zero = xp.all(x == 0, axis=-1)
    first = np.eye(block.dim - 1)[0].astype(v.dtype)
    safe = xp.where(zero[..., None], first, x)
    length = xp.linalg.norm(safe, axis=-1)
    axis = safe / length[..., None]
    length = xp.where(zero, 0.0, length)
    upper, lower = _snap(t + length, dual, slack), _snap(t - length, dual, slack)

    def eigenvalues(tie: float) -> Array:
        ends = [_slope(value, value, tie) for value in (upper, lower)]
        across = xp.repeat(_slope(upper, lower, tie)[..., None], block.dim - 2, axis=-1)
        d = xp.concatenate([xp.stack(ends, axis=-1), across], axis=-1)
        return d.reshape(len(v), block.size)

    return axis, eigenvalues(0.0), eigenvalues(1.0)


def _reflect(axis: Array, x: Array) -> Array:
    """A symmetric orthogonal map that exchanges e₁ and ∓axis; x is (..., dim − 1, columns)."""
    xp = namespace(axis, x)
    sign = xp.where(axis[..., :1] < 0, -1.0, 1.0).astype(axis.dtype)
    mirror = xp.concatenate([axis[..., :1] + sign, axis[..., 1:]], axis=-1)
    mirror = mirror / xp.linalg.norm(mirror, axis=-1, keepdims=True)
    along = xp.sum(mirror[..., None] * x, axis=-2, keepdims=True)
    return x - 2 * along * mirror[..., None]


def _rotate_second_order(block: SecondOrder, axis: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, block.dim, x.shape[-1])
    t, rest = parts[:, :, :1], parts[:, :, 1:]
    xp = namespace(axis, x)
    along = xp.sum(axis[..., None] * rest, axis=-2, keepdims=True)
    root = float(np.sqrt(0.5))
    across = _reflect(axis, rest)[:, :, 1:]
    rotated = xp.concatenate([root * (t + along), root * (t - along), across], axis=2)
    return rotated.reshape(-1, *x.shape[1:])


def _unrotate_second_order(block: SecondOrder, axis: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, block.dim, x.shape[-1])
    upper, lower, across = parts[:, :, :1], parts[:, :, 1:2], parts[:, :, 2:]
    root, xp = float(np.sqrt(0.5)), namespace(axis, x)
    sign = xp.where(axis[..., :1] < 0, 1.0, -1.0)[..., None].astype(axis.dtype)
    rest = _reflect(axis, xp.concatenate([sign * root * (upper - lower), across], axis=2))
    return xp.concatenate([root * (upper + lower), rest], axis=2).reshape(-1, *x.shape[1:])


def _semidefinite(
    block: Semidefinite, v: Array, dual: Array, slack: Array
) -> tuple[Any, Array, Array]:
    xp = namespace(v)
    values, vectors = eigh(block.matrices(v))
    dual, slack = (
        xp.max(t.reshape(len(v), block.count, -1), axis=-1, keepdims=True) for t in (dual, slack)
    )
    values = _snap(values, dual, slack)
    a, b = xp.broadcast_arrays(values[..., :, None], values[..., None, :])

    def eigenvalues(tie: float) -> Array:
        plain = _slope(a, b, tie)
        # svec would put √2 off the diagonal, but these are factors, not coordinates
        return block.vector(plain) / block.vector(xp.ones_like(plain))

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
    return (transpose(T) @ parts).reshape(-1, *x.shape[1:])


def _unrotate_curved(block: Curved, T: Array, x: Array) -> Array:
    parts = x.reshape(len(x), block.count, 3, x.shape[-1])
    return (T @ parts).reshape(-1, *x.shape[1:])


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
