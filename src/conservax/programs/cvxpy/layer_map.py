"""A layer on the host: parameters to variables in one call, and its derivative, a linear call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from ...arrays.namespace import Array
from ...calculus.implicit_node import NAME, Node, node_p
from ..equations import host_node
from ..host.calls import Form, Slot
from ..host.leads import broadcast, lead_of
from ..host.map import HostOutcome, ProgramCall, at_once, solution_shapes, verdict_shapes
from ..host.primitives import (
    LinearCall,
    Shape,
    host_primitive,
    of_jax,
    stands_still,
    zero_tangent,
)
from . import layer_calls
from .layer_calls import LayerForm


class LayerOutcome(NamedTuple):
    """What was asked for, and the outcome of the cone program."""

    outputs: tuple[Array, ...]
    outcome: HostOutcome


def layer_solution_map(layer: LayerForm, told: bool) -> Callable[..., LayerOutcome]:
    """Parameters ↦ LayerOutcome; differentiable any number of times. ``told``: with the verdict."""
    call, count, node = LayerCall(layer), len(layer.canonical.readers), _node(layer)

    def find(*values: Array) -> LayerOutcome:
        found = layer_p.bind(*values, layer=layer)
        solution = node_p.bind(*found[: count + 3], *values, node=node, leaves=count + 3)
        point, ticket = found[count : count + 3], found[-1]
        tests = layer_verdict_p.bind(*values, *point, ticket, layer=layer) if told else ()
        outcome = HostOutcome(*solution[count:], *found[count + 3 :], *tests)
        return LayerOutcome(tuple(solution[:count]), outcome)

    find.__name__ = find.__qualname__ = NAME
    solved = jax.custom_jvp(find)

    def derivative(primals: Any, tangents: Any) -> tuple[LayerOutcome, LayerOutcome]:
        found = solved(*primals)
        moving = tuple(not isinstance(part, SymbolicZero) for part in tangents)
        blank = jax.tree.map(zero_tangent, found)
        if not any(moving):
            return found, blank
        own = [part for part, on in zip(tangents, moving, strict=True) if on]
        outs = call.bind(moving, *own, *primals, *found.outcome[:3], found.outcome.ticket)
        dx, dy, ds = outs[count:]  # second derivatives ask how the place moves
        moved = blank.outcome._replace(x=dx, y=dy, s=ds)
        return found, LayerOutcome(tuple(outs[:count]), moved)

    solved.defjvp(derivative, symbolic_zeros=True)
    return lambda *values: solved(*map(of_jax, values))


def solve_layer_now(layer: LayerForm, told: bool, *values: np.ndarray) -> LayerOutcome:
    """The same for NumPy's arrays, where nobody differentiates: no ticket."""
    count = len(layer.canonical.readers)
    if 0 in layer.lead(values):
        none = layer_p.bind(*values, layer=layer)
        tests = layer_verdict_p.bind(*values, *none[count : count + 3], none[-1], layer=layer)
        return LayerOutcome(tuple(none[:count]), HostOutcome(*none[count:], *tests))
    found = layer_calls.solve_once(layer, told, *values)
    outputs, info = found[:count], found[count:]
    shown = jax.device_put((outputs, info[3:]))  # the point itself stays on the host
    return LayerOutcome(tuple(shown[0]), at_once((*info[:3], *shown[1])))


@dataclass(frozen=True)
class LayerCall(LinearCall):
    """The parameters' tangents ↦ those of outputs and solution, at the parameters, a solution, its ticket."""

    layer: LayerForm

    @property
    def tangent_cores(self) -> tuple[int, ...]:
        return self.layer.cores

    @property
    def place_cores(self) -> tuple[int, ...]:
        return (*self.layer.cores, 1, 1, 1, 1)

    def results(self, place: Any) -> tuple[Shape, ...]:
        dtype = np.dtype(self.layer.form.dtype)
        outputs = (Shape(read.shape, dtype) for read in self.layer.canonical.readers)
        return *outputs, *(Shape(part.shape[-1:], dtype) for part in place[-4:-1])

    def forward(self, moving: tuple[bool, ...], *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return layer_calls.derivative(self.layer, moving, *args)

    def backward(
        self, moving: tuple[bool, ...], slots: tuple[Slot, ...], *args: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        return layer_calls.transposed(self.layer, moving, slots, *args)

    def differentiable(self, place: Any) -> list[Any]:
        return list(place[:-1])

    def moved(
        self, moving: tuple[bool, ...], tangents: Any, place: Any, changes: Any, found: Any
    ) -> list[Array]:
        """By JAX, of the same map put together from its parts."""
        ticket, own = place[-1], place[:-1]
        along = [
            jnp.zeros_like(part) if isinstance(t, ad.Zero) else t
            for part, t in zip(own, changes[:-1], strict=True)
        ]

        def of_place(*own: Array) -> list[Array]:
            return self._in_parts(moving, tangents, own[:-3], own[-3:], ticket)

        return jax.jvp(of_place, tuple(own), tuple(along))[1]

    def _in_parts(
        self, moving: tuple[bool, ...], tangents: Any, values: Any, point: Any, ticket: Array
    ) -> list[Array]:
        layer = self.layer
        lead = broadcast(
            *(
                lead_of(part.shape, core)
                for part, core in zip(tangents, self.cores(moving), strict=True)
            ),
            lead_of(point[0].shape, 1),
        )
        given = iter(tangents)
        along = []
        for value, core, on in zip(values, layer.cores, moving, strict=True):
            part = next(given) if on else jnp.zeros((), value.dtype)
            shape = value.shape[value.ndim - core :]
            along.append(jnp.broadcast_to(part, (*lead, *shape)))
        wide = [
            jnp.broadcast_to(value, (*lead, *value.shape[value.ndim - core :]))
            for value, core in zip(values, layer.cores, strict=True)
        ]
        _, changes = jax.jvp(lambda *values: _data(layer, values), tuple(wide), tuple(along))
        moved = layer.moving(moving)
        own = [part for part, on in zip(changes, moved, strict=True) if on]
        leaves = _leaves(layer, values)
        dx, dy, ds = ProgramCall(layer.form).bind(moved, *own, *leaves, *point, ticket)
        wide_point = [jnp.broadcast_to(p, dx.shape[:-1] + p.shape[-1:]) for p in point[:2]]
        outputs = (
            jax.jvp(read, tuple(wide_point), (dx, dy))[1] for read in layer.canonical.readers
        )
        return [*outputs, dx, dy, ds]


def _data(layer: LayerForm, values: Any) -> list[Array]:
    """The values of P, c, A, b, in JAX."""
    canonical, dtype = layer.canonical, np.dtype(layer.form.dtype)
    found = []
    for into in layer.maps():
        theta = canonical.theta(values, dtype, into)
        if layer.form.P_shape is not None and len(into.shape) == 2:
            found.append(into.sparse(theta).values)
        else:
            found.append(into(theta))
    return found


def _leaves(layer: LayerForm, values: Any) -> list[Any]:
    """Those of P, c, A, b, in JAX."""
    leaves: list[Any] = []
    sparse = layer.form.P_shape is not None
    for into, part in zip(layer.maps(), _data(layer, values), strict=True):
        leaves.append(part)
        if sparse and len(into.shape) == 2:
            leaves += into.stored
    return leaves


def _node(layer: LayerForm) -> Node:
    """To the calculus: the equations of the program at its data, and the variables read off its solution."""
    program = host_node(layer.form.parts, layer.form.cones, layer.form.settings.auxiliary)
    readers = layer.canonical.readers

    def residual(solution: Sequence[Array], *values: Array) -> tuple[Array, ...]:
        outputs, point = solution[: len(readers)], solution[len(readers) :]
        gaps = (out - read(*point[:2]) for out, read in zip(outputs, readers, strict=True))
        return *gaps, *program.residual(point, *_leaves(layer, values))

    return Node(residual, hidden=True)


def _layer_shapes(*values: Any, layer: LayerForm) -> tuple[Shape, ...]:
    lead = layer.lead(values)
    canonical, dtype = layer.canonical, np.dtype(layer.form.dtype)
    (m, n) = canonical.A.shape
    return (
        *(Shape((*lead, *read.shape), dtype) for read in canonical.readers),
        *solution_shapes(lead, n, m, dtype),
    )


def _verdict_shapes(*args: Any, layer: LayerForm) -> tuple[Shape, ...]:
    return verdict_shapes(*args, form=layer.form)


layer_p = host_primitive(
    "conservax.layer",
    lambda *values, layer: layer_calls.solve(layer, *values),
    _layer_shapes,
    lambda *, layer: layer.cores,
)
layer_verdict_p = host_primitive(
    "conservax.layer_verdict",
    lambda *args, layer: layer_calls.verdict(layer, *args),
    _verdict_shapes,
    lambda *, layer: (*layer.cores, 1, 1, 1, 1),
)
stands_still(layer_verdict_p)


def layer_form(canonical: Any, sparse: bool, settings: Any, dtype: Any) -> LayerForm:
    """Of a layer with these settings."""
    n = canonical.P.shape[0]
    shapes = ((n, n), canonical.A.shape) if sparse else (None, None)
    return LayerForm(canonical, Form(*shapes, canonical.cones, settings, np.dtype(dtype).name))
