"""Calls on the host as JAX sees them: a plain one, and a linear one with its transpose.

Called eagerly they run NumPy and compile nothing; inside jit each is one callback. A linear call is
linear in its tangents and knows how it moves with the place at which it is taken, so that every order
and mode of differentiation is there. Leading axes broadcast, and an axis that ``jax.vmap`` maps is one more.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ...arrays.namespace import Array
from ...errors import UnsupportedOperationError
from ...solvers.callback import call_on_host
from .calls import Slot
from .leads import aligned, broadcast, lead_of


class Shape(NamedTuple):
    """Of a result."""

    shape: tuple[int, ...]
    dtype: Any


class LinearCall(ABC):
    """(tangents; place) ↦ results, linear in the tangents; hashable, for it is a parameter of primitives.

    ``moving`` says for which of the data there are tangents. Cores: how many axes of an operand are no
    leading ones; −k for k of an operand that has none, such as indices.
    """

    @property
    @abstractmethod
    def tangent_cores(self) -> tuple[int, ...]:
        """Of the tangents of all data."""

    @property
    @abstractmethod
    def place_cores(self) -> tuple[int, ...]:
        """Of what describes the place."""

    @abstractmethod
    def results(self, place: Any) -> tuple[Shape, ...]:
        """Of the results, without leading axes."""

    @abstractmethod
    def forward(self, moving: tuple[bool, ...], *args: np.ndarray) -> tuple[np.ndarray, ...]:
        """In NumPy: of tangents and place."""

    @abstractmethod
    def backward(
        self, moving: tuple[bool, ...], slots: tuple[Slot, ...], *args: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """In NumPy: the transpose, of the results' cotangents and the place."""

    @abstractmethod
    def differentiable(self, place: Any) -> list[Any]:
        """Those parts of a place, or of its tangents, with which the map moves."""

    @abstractmethod
    def moved(
        self, moving: tuple[bool, ...], tangents: Any, place: Any, changes: Any, found: Any
    ) -> list[Array]:
        """In JAX: how the results change with the place, the tangents held fixed."""

    def cores(self, moving: tuple[bool, ...]) -> tuple[int, ...]:
        """Of the tangents that are there."""
        return tuple(c for c, on in zip(self.tangent_cores, moving, strict=True) if on)

    def bind(self, moving: tuple[bool, ...], *args: Any) -> list[Any]:
        """The results."""
        return linear_p.bind(*args, call=self, moving=moving)


def host_primitive(
    name: str,
    run: Callable[..., Any],
    shapes: Callable[..., tuple[Shape, ...]],
    cores: Callable[..., tuple[int, ...]],
) -> Primitive:
    """A call of ``run(*arrays, **params)``; where a leading axis is empty, of nothing: zeros."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def call(*arrays: np.ndarray, **params: Any) -> Any:
        pairs = zip(arrays, cores(**params), strict=True)
        if any(core >= 0 and 0 in lead_of(array.shape, core) for array, core in pairs):
            return [np.zeros(*shape) for shape in shapes(*arrays, **params)]
        return run(*arrays, **params)

    @primitive.def_impl
    def _(*arrays: Any, **params: Any) -> Any:
        return jax.device_put(list(call(*map(np.asarray, arrays), **params)))

    @primitive.def_abstract_eval
    def _(*avals: Any, **params: Any) -> Any:
        return [ShapedArray(*shape) for shape in shapes(*avals, **params)]

    def lowered(*arrays: Array, **params: Any) -> tuple[Array, ...]:
        found = tuple(jax.ShapeDtypeStruct(*shape) for shape in shapes(*arrays, **params))
        return call_on_host(functools.partial(call, **params), found, *arrays)

    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True))

    def batched(arrays: Any, dims: Any, **params: Any) -> Any:
        own = cores(**params)
        if any(core < 0 and dim is not None for dim, core in zip(dims, own, strict=True)):
            raise UnsupportedOperationError(
                "the items of a batch share one pattern: map over the stored entries, with the "
                "indices held fixed, as in jax.vmap(lambda data: program(…, BCOO((data, indices), …)))."
            )
        plain = [abs(core) for core in own]
        if "slots" in params:
            before = (
                array.shape if dim is None else tuple(np.delete(array.shape, dim))
                for array, dim in zip(arrays, dims, strict=True)
            )
            leads = (lead_of(s, core) for s, core in zip(before, own, strict=True) if core >= 0)
            rank = len(broadcast(*leads))
            size = next(a.shape[d] for a, d in zip(arrays, dims, strict=True) if d is not None)
            params["slots"] = tuple(_mapped(slot, size, rank) for slot in params["slots"])
        found = primitive.bind(*aligned(arrays, dims, plain), **params)
        return found, [0] * len(found)

    batching.primitive_batchers[primitive] = batched
    return primitive


def of_jax(leaf: Any) -> Any:
    """What a tracer holds that is no array of JAX, as one: custom rules and transposes ask for its shape."""
    inside = leaf
    while isinstance(inside, Tracer):
        inside = getattr(inside, "primal", getattr(inside, "val", None))
    own = inside is None or isinstance(inside, jax.Array)
    return leaf if inside is leaf or own else jnp.array(leaf)


def _mapped(slot: Slot, size: int, rank: int) -> Slot:
    """With a mapped axis in front."""
    lead = (size, *(1,) * (rank - len(slot.lead)), *slot.lead)
    return Slot(lead, (size, *slot.shape), slot.dtype)


def _linear_shapes(*args: Any, call: LinearCall, moving: tuple[bool, ...]) -> tuple[Shape, ...]:
    cores = (*call.cores(moving), *call.place_cores)
    leads = (lead_of(a.shape, core) for a, core in zip(args, cores, strict=True) if core >= 0)
    lead = broadcast(*leads)
    place = args[sum(moving) :]
    return tuple(Shape((*lead, *own.shape), own.dtype) for own in call.results(place))


def _transposed_cores(*, call: LinearCall, results: tuple[int, ...], **_: Any) -> tuple[int, ...]:
    return (*results, *call.place_cores)


linear_p = host_primitive(
    "conservax.host_linear",
    lambda *args, call, moving: call.forward(moving, *args),
    _linear_shapes,
    lambda *, call, moving: (*call.cores(moving), *call.place_cores),
)
transposed_p = host_primitive(
    "conservax.host_transposed",
    lambda *args, call, moving, slots, results: call.backward(moving, slots, *args),
    lambda *_, slots, **__: tuple(Shape(slot.shape, np.dtype(slot.dtype)) for slot in slots),
    _transposed_cores,
)


def _transpose_linear(bars: Any, *args: Any, call: LinearCall, moving: tuple[bool, ...]) -> Any:
    count = sum(moving)
    place = args[count:]
    # what is known of a linear map's arguments is zero
    linear = [ad.is_undefined_primal(arg) for arg in args[:count]]
    names = np.flatnonzero(moving)[np.array(linear, bool)]
    moving = tuple(k in names for k in range(len(moving)))
    cores = call.cores(moving)
    avals = [arg.aval for arg, on in zip(args, linear, strict=False) if on]
    place_leads = (
        lead_of(part.shape, core)
        for part, core in zip(place, call.place_cores, strict=True)
        if core >= 0
    )
    lead = broadcast(
        *(lead_of(aval.shape, core) for aval, core in zip(avals, cores, strict=True)), *place_leads
    )
    results = call.results(place)
    full = [
        np.zeros((1,) * len(lead) + own.shape, own.dtype) if isinstance(bar, ad.Zero) else bar
        for bar, own in zip(bars, results, strict=True)
    ]
    slots = []
    for aval, core in zip(avals, cores, strict=True):
        own = lead_of(aval.shape, core)
        padded = (1,) * (len(lead) - len(own)) + own
        slots.append(Slot(padded, aval.shape, np.dtype(aval.dtype).name))
    found = iter(
        transposed_p.bind(
            *full,
            *place,
            call=call,
            moving=moving,
            slots=tuple(slots),
            results=tuple(len(own.shape) for own in results),
        )
    )
    return [*(next(found) if on else None for on in linear), *([None] * len(place))]


ad.primitive_transposes[linear_p] = _transpose_linear


def _in_line(part: Array, slot: Slot, core: int) -> Array:
    """With the leading axes that the slot has among all."""
    return jnp.reshape(part, (*slot.lead, *part.shape[part.ndim - core :]))


def _transpose_transposed(
    tangents: Any,
    *args: Any,
    call: LinearCall,
    moving: tuple[bool, ...],
    slots: tuple[Slot, ...],
    results: tuple[int, ...],
) -> Any:
    count = len(results)
    place, own, kept = args[count:], [], []
    names = np.flatnonzero(moving).tolist()
    for tangent, slot, core, k in zip(tangents, slots, call.cores(moving), names, strict=True):
        if not isinstance(tangent, ad.Zero):
            own.append(_in_line(tangent, slot, core))
            kept.append(k)
    if own:
        found = call.bind(tuple(k in kept for k in range(len(moving))), *own, *place)
    else:
        found = [ad.Zero(arg.aval) if ad.is_undefined_primal(arg) else None for arg in args]
    bars = [
        None
        if not ad.is_undefined_primal(bar)
        else part
        if isinstance(part, ad.Zero)
        else _sum_to(part, bar.aval.shape).astype(bar.aval.dtype)
        for bar, part in zip(args[:count], found, strict=False)
    ]
    return [*bars, *([None] * len(place))]


ad.primitive_transposes[transposed_p] = _transpose_transposed


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an array of this shape was broadcast."""
    extra = array.ndim - len(shape)
    axes = [*range(extra)]
    axes += [k + extra for k, size in enumerate(shape) if size == 1 and array.shape[k + extra] > 1]
    return jnp.sum(array, axis=tuple(axes)).reshape(shape) if axes else array


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, ad.Zero)


def _total(found: Any, terms: list[Any]) -> Any:
    if not terms:
        return [ad.Zero(jax.typeof(part).to_tangent_aval()) for part in found]
    return terms[0] if len(terms) == 1 else [a + b for a, b in zip(*terms, strict=True)]


def _derive_linear(
    primals: Any, tangents: Any, *, call: LinearCall, moving: tuple[bool, ...]
) -> Any:
    count = sum(moving)
    found, terms = call.bind(moving, *primals), []
    own = [_moves(t) for t in tangents[:count]]
    if any(own):
        names = [k for k, on in zip(np.flatnonzero(moving).tolist(), own, strict=True) if on]
        moved = [t for t, on in zip(tangents, own, strict=False) if on]
        terms.append(
            call.bind(tuple(k in names for k in range(len(moving))), *moved, *primals[count:])
        )
    if any(map(_moves, call.differentiable(tangents[count:]))):
        place = primals[count:], tangents[count:]
        terms.append(call.moved(moving, primals[:count], *place, found))
    return found, _total(found, terms)


ad.primitive_jvps[linear_p] = _derive_linear


def _derive_transposed(
    primals: Any,
    tangents: Any,
    *,
    call: LinearCall,
    moving: tuple[bool, ...],
    slots: tuple[Slot, ...],
    results: tuple[int, ...],
) -> Any:
    params = {"call": call, "moving": moving, "slots": slots, "results": results}
    count = len(results)
    place, changes = primals[count:], tangents[count:]
    found, terms = transposed_p.bind(*primals, **params), []
    if any(map(_moves, tangents[:count])):
        bars = [
            t if _moves(t) else jnp.zeros_like(p)
            for p, t in zip(primals[:count], tangents[:count], strict=True)
        ]
        terms.append(transposed_p.bind(*bars, *place, **params))
    if any(map(_moves, call.differentiable(changes))):
        # the transpose of how the map moves
        def moved(*lined: Array) -> Any:
            return call.moved(moving, lined, place, changes, call.bind(moving, *lined, *place))

        lined = [
            jax.ShapeDtypeStruct(
                (*slot.lead, *slot.shape[len(slot.shape) - core :]), np.dtype(slot.dtype)
            )
            for slot, core in zip(slots, call.cores(moving), strict=True)
        ]
        shapes = jax.eval_shape(moved, *lined)
        bars = [
            jnp.broadcast_to(bar, own.shape)
            for bar, own in zip(primals[:count], shapes, strict=True)
        ]
        own = jax.linear_transpose(moved, *lined)(bars)
        terms.append([part.reshape(slot.shape) for part, slot in zip(own, slots, strict=True)])
    return found, _total(found, terms)


ad.primitive_jvps[transposed_p] = _derive_transposed


def stands_still(primitive: Primitive) -> None:
    """Declare that the results have no derivative."""

    def rule(primals: Any, tangents: Any, **params: Any) -> Any:
        found = primitive.bind(*primals, **params)
        return found, [ad.Zero(jax.typeof(part).to_tangent_aval()) for part in found]

    ad.primitive_jvps[primitive] = rule


def zero_tangent(part: Array) -> np.ndarray:
    """Of what stands still; NumPy's, for XLA would compile a constant."""
    moves = jnp.issubdtype(part.dtype, jnp.floating)
    return np.zeros(part.shape, part.dtype if moves else jax.dtypes.float0)
