"""Eigenvalues and singular values: smooth where they stand alone, kinks where several meet.

Where r of them meet, Q being a basis of their space, they move like the eigenvalues of QᵀȦQ; singular
values that vanish move like those of U₀ᵀẊV₀ (docs/theory.md#spectra). The pass records these matrices
entry by entry; what they mean for the values is decided on the host (``spectral_kinks.py``).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..tracing.jaxprs import bind
from ..tracing.planner import Planner
from ..tracing.program import Step
from .kinks import Entry, SiteSpec, register
from .mixtures import carrying
from .sizes import settled
from .tape import Tape

EIGENVALUES, SINGULAR_VALUES = "eigenvalues", "singular values"
_VECTORS = {"eigh": "eigenvectors of equal eigenvalues", "svd": "singular vectors of equal values"}


def _sites(step: Step, planner: Planner) -> Sequence[SiteSpec]:
    *batch, rows, columns = step.eqn.invars[0].aval.shape
    k, name = min(rows, columns), step.eqn.primitive.name
    if name == "eigh":
        sites: list[SiteSpec] = [(EIGENVALUES, "spectrum", (*batch, k, k), None)]
    else:
        sites = [
            (SINGULAR_VALUES, "spectrum", (*batch, k, k), None),
            (SINGULAR_VALUES, "null", (*batch, max(rows, columns) + 1, k), None),
        ]
    if _vectors_felt(step):
        sites.append((_VECTORS[name], "matrix", (*batch, k), None))
    return sites


def _vectors_felt(step: Step) -> bool:
    return step.felt[0] if step.eqn.primitive.name == "eigh" else any(step.felt[1:])


def _norm(size: Any) -> Any:
    """A bound of the matrices whose entries are no larger: the largest sum of a row."""
    return jnp.max(jnp.sum(jnp.abs(size), axis=-1), axis=-1, initial=0)


def _diagonal(a: Any) -> Any:
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def _symmetric(a: Any) -> Any:
    return (a + jnp.swapaxes(a, -1, -2)) / 2


def _on_diagonal(values: Any) -> Any:
    """Numbers on the diagonal of a matrix that is infinite elsewhere."""
    k = values.shape[-1]
    return jnp.where(jnp.eye(k, dtype=bool), values[..., :, None], jnp.inf)


def _to_next(values: Any) -> Any:
    end = jnp.full((*values.shape[:-1], min(1, values.shape[-1])), jnp.inf, values.dtype)
    return jnp.concatenate([jnp.abs(jnp.diff(values, axis=-1)), end], -1)


def _plain(tape: Tape, step: Step, values: Sequence[Any]) -> list[Any]:
    """A policy leaves the basis to JAX."""
    for shape in step.kink_slots:
        tape.jump(jnp.zeros(shape), 1.0)
    return bind(step.eqn, *values)


def _run_eigh(tape: Tape, step: Step, a: Any) -> list[Any]:
    if tape.follows:
        return _plain(tape, step, (a,))
    vectors, values = bind(step.eqn, a)
    basis, values = jax.lax.stop_gradient((vectors, values))
    turned = _symmetric(jnp.swapaxes(basis, -1, -2) @ a @ basis)
    size: Any = _norm(tape.size(0))[..., None] if tape.measures else 0.0
    mean, r = tape.spectrum(
        _on_diagonal(_to_next(values)) if tape.measures else None,
        lambda mean: turned,
        size[..., None] if tape.measures else 0.0,
        jnp.broadcast_to(jnp.eye(values.shape[-1], dtype=a.dtype), turned.shape),
    )
    moving = jnp.einsum("...ij,...j->...i", mean, _diagonal(turned)) + _diagonal(r)
    if not _vectors_felt(step):
        vectors = basis
    else:
        away = _apart(values) if tape.measures else jnp.ones(values.shape)
        tape.kink(away, jnp.broadcast_to(size, away.shape), 0.0)
    return [vectors, carrying(values, moving)]


def _apart(values: Any) -> Any:
    """The distance of each to the nearest other."""
    gaps = _to_next(values)
    end = jnp.full_like(gaps[..., :1], jnp.inf)
    return jnp.minimum(gaps, jnp.concatenate([end, gaps[..., :-1]], -1))


def _run_svd(tape: Tape, step: Step, x: Any) -> list[Any]:
    if tape.follows:
        return _plain(tape, step, (x,))
    outs = bind(step.eqn, x)
    values = jax.lax.stop_gradient(outs[0])
    U, _, Vt = jnp.linalg.svd(jax.lax.stop_gradient(x), full_matrices=False)
    V = jnp.swapaxes(Vt, -1, -2)
    turned = jnp.swapaxes(U, -1, -2) @ x @ V
    moved, left = x @ V, U  # the longer side, where the vectors of 0 are more than one
    if x.shape[-2] < x.shape[-1]:
        moved, left = jnp.swapaxes(x, -1, -2) @ U, V
    own = _diagonal(turned)

    def at_zero(positive: Any) -> Any:
        """The part of ẊV off the range of X, and below it what JAX takes of it."""
        within = jnp.swapaxes(left, -1, -2) @ moved
        off = moved - left @ (positive[..., :1, :].swapaxes(-1, -2) * within)
        return jnp.concatenate([off, own[..., None, :]], -2)

    size: Any = 0.0
    gaps = zeros = None
    if tape.measures:
        size = _norm(tape.size(0))[..., None]
        vanish = values <= tape.atol + tape.rtol * size
        lower = jnp.concatenate([vanish[..., 1:], jnp.ones_like(vanish[..., :1])], -1)
        gaps = _on_diagonal(jnp.where(vanish | lower, jnp.inf, _to_next(values)))
        zeros = jnp.full((*values.shape[:-1], moved.shape[-2], values.shape[-1]), jnp.inf)
        zeros = jnp.concatenate([values[..., None, :], zeros.astype(values.dtype)], -2)
        size = size[..., None]
    k = values.shape[-1]
    mean, r = tape.spectrum(
        gaps,
        lambda mean: _symmetric(turned),
        size,
        jnp.broadcast_to(jnp.eye(k, dtype=x.dtype), turned.shape),
    )
    first = (jnp.arange(moved.shape[-2] + 1) == 0).astype(x.dtype)[:, None]
    positive, r0 = tape.spectrum(
        zeros, at_zero, size, jnp.broadcast_to(first, (*moved.shape[:-2], moved.shape[-2] + 1, k))
    )
    moving = positive[..., 0, :] * jnp.einsum("...ij,...j->...i", mean, own)
    moving = moving + _diagonal(r) + r0[..., 0, :]
    if _vectors_felt(step):
        away = jnp.ones(values.shape)
        if tape.measures:
            away = jnp.minimum(_apart(values), values)
        tape.kink(away, jnp.broadcast_to(size[..., 0] if tape.measures else 0.0, away.shape), 0.0)
    vectors = outs[1:] if _vectors_felt(step) else jax.lax.stop_gradient(outs[1:])
    return [carrying(values, moving), *vectors]


def _size(
    step: Step, values: Sequence[Any], sizes: Sequence[Any], outs: Sequence[Any], tau: Any
) -> list[Any]:
    """No eigenvalue or singular value moves by more than the norm of what the matrix moves by."""
    norm = _norm(sizes[0])
    lost = norm / jnp.maximum(_norm(values[0]), jnp.finfo(values[0].dtype).tiny)
    return [
        settled(o, jnp.broadcast_to(norm[..., None], o.shape))
        if o.ndim < values[0].ndim
        else settled(o, jnp.broadcast_to(lost[..., None, None], o.shape))
        for o in outs
    ]


register("eigh", Entry(_sites, _run_eigh, size=_size))
register("svd", Entry(_sites, _run_svd, size=_size))
