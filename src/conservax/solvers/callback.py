"""A call of NumPy code from inside jit."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_DOUBLE = np.dtype(np.float64)


def call_on_host(
    run: Callable[..., tuple[np.ndarray, ...]],
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    *arrays: jax.Array,
) -> tuple[jax.Array, ...]:
    """``run(*arrays)`` with NumPy arrays, from inside jit.

    Where double precision is not on everywhere it travels as pairs of words: in a thread that does not
    know of ``jax.enable_x64`` JAX would cut it to single.
    """
    plain = _is_double_everywhere()

    def in_words(array: Any) -> bool:
        return array.dtype == _DOUBLE and not plain

    def on_host(*words: Any) -> tuple[np.ndarray, ...]:
        inputs = (
            np.asarray(part).view(_DOUBLE)[..., 0] if in_words(array) else np.asarray(part)
            for part, array in zip(words, arrays, strict=True)
        )
        return tuple(
            np.ascontiguousarray(out).view(np.uint32).reshape(*out.shape, 2)
            if in_words(shape)
            else out
            for out, shape in zip(run(*inputs), shapes, strict=True)
        )

    sent = tuple(
        jax.ShapeDtypeStruct((*shape.shape, 2), np.uint32) if in_words(shape) else shape
        for shape in shapes
    )
    packed = (
        lax.bitcast_convert_type(array, jnp.uint32) if in_words(array) else array
        for array in arrays
    )
    found = jax.pure_callback(on_host, sent, *packed, vmap_method="sequential")
    return tuple(
        lax.bitcast_convert_type(part, _DOUBLE) if in_words(shape) else part
        for part, shape in zip(found, shapes, strict=True)
    )


def _is_double_everywhere() -> bool:
    """Whether ``jax_enable_x64`` is set for all threads, not in a context of this one."""
    return bool(jax.config.read("jax_enable_x64")) and _seen_by_another_thread()


def _seen_by_another_thread() -> bool:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(bool(jax.config.read("jax_enable_x64"))))
    thread.start()
    thread.join()
    return seen[0]
