"""What a solve inside a program is: one contract for roots, operators, programs and layers.

A solve hides its equation behind a custom derivative rule. ``implicit_node`` leaves that equation in the
traced program itself, in an equation of the jaxpr that passes the solution on: the traced function owns
its node, which lives exactly as long as the jaxpr does, through jit, scan, ``jax.checkpoint`` and stored
jaxprs; under vmap the node learns which axes were mapped. The calculus reads it there and lets the
equation join the lifted system (Proposition 2 with Theorem 2 of Bolte, Le, Pauwels, Silveti-Falls 2021).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend import core as jex_core
from jax.interpreters import batching, mlir

NAME = "conservax.implicit_node"  # of the function whose custom rule hides a solve

Rule = Callable[[tuple[Any, Any], Sequence[Any], Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Node:
    """The equation behind a solve, and what its layer knows of it.

    Attributes:
        residual: F(solution, *inputs), tuples of arrays, of one execution.
        hidden: the equation is the library's own: its kinks are reported where the solve is called.
        certificate: ``certificate(solution, *inputs)`` on concrete values, a Certificate that every
            element of ∂F/∂solution is invertible; None where nothing is known by construction.
        axes: of each vmap around the solve, the innermost first, the mapped axis of every array
            (solution first); None where one is not mapped.
    """

    residual: Callable[..., Any]
    hidden: bool = False
    certificate: Callable[..., Any] | None = None
    axes: tuple[tuple[int | None, ...], ...] = ()

    def equation(self, leaves: int, avals: Sequence[Any]) -> Any:
        """The residual as a closed jaxpr, flat, for arrays of these types, ``leaves`` of them the solution."""

        def flat(*arrays: Any) -> list[Any]:
            return jax.tree.leaves(self.residual(arrays[:leaves], *arrays[leaves:]))

        for axes in self.axes:
            flat = jax.vmap(flat, in_axes=axes)
        return jax.make_jaxpr(flat)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))

    def certificates(self, leaves: int, arrays: Sequence[Any]) -> Iterator[Any]:
        """The layer's own certificate of each mapped execution, at these values."""
        assert self.certificate is not None
        if not self.axes:
            yield self.certificate(tuple(arrays[:leaves]), *arrays[leaves:])
            return
        axes = self.axes[-1]
        inner = replace(self, axes=self.axes[:-1])
        size = next(np.shape(a)[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
        for item in range(size):
            yield from inner.certificates(
                leaves,
                [
                    a if i is None else jnp.take(a, item, axis=i)
                    for a, i in zip(arrays, axes, strict=True)
                ],
            )

    def __repr__(self) -> str:
        return f"<equation{''.join(' mapped' for _ in self.axes)}>"


def implicit_node(
    solve: Callable[..., tuple[Sequence[Any], Any]],
    residual: Callable[..., Any],
    rule: Rule,
    *inputs: Any,
    reads: Sequence[int] | None = None,
    hidden: bool = False,
    certificate: Callable[..., Any] | None = None,
) -> tuple[tuple[Any, ...], Any]:
    """The solution y of residual(y, *inputs) = 0, with its derivative, and its equation to the calculus.

    Args:
        solve: ``solve(*inputs)`` gives (y, aux): y a tuple of arrays, aux anything of derivative 0.
        residual: F(y, *inputs), a tuple of arrays with as many numbers as y; it may close over
            nothing that is traced.
        rule: ``rule((y, aux), inputs, tangents)`` is the tangent of y, a tuple; ``tangents`` holds
            ``SymbolicZero`` where an input is known to stand still (``zero_like`` makes it an array).
        inputs: arrays. ``reads``: which of them the residual reads, all by default.
        hidden: the equation is the library's own; its kinks are reported where the solve is called.
        certificate: as in ``Node``, of the inputs that the residual reads.

    Returns:
        (y, aux).

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2; docs/theory.md#solves-inside.

    >>> import jax, conservax as cx
    >>> def hinge(a):  # y = relu(a)/2 by the equation 2y − relu(a) = 0
    ...     solve = lambda a: ((jax.nn.relu(a) / 2,), None)
    ...     equation = lambda y, a: (2 * y[0] - jax.nn.relu(a),)
    ...     rule = lambda found, inputs, tangents: ((inputs[0] > 0) * tangents[0] / 2,)
    ...     return implicit_node(solve, equation, rule, a)[0][0]
    >>> cx.conservative_jacobian(hinge)(0.0).vertices().ravel().tolist()
    [0.0, 0.5]
    """
    read = tuple(range(len(inputs)) if reads is None else reads)
    node = Node(residual, hidden, certificate)

    def find(*arrays: Any) -> tuple[tuple[Any, ...], Any]:
        y, aux = solve(*arrays)
        return carrying_node(node, y, [arrays[i] for i in read]), aux

    find.__name__ = find.__qualname__ = NAME
    found = jax.custom_jvp(find)

    def jvp(primals: Any, tangents: Any) -> Any:
        y, aux = found(*primals)
        moved = tuple(rule((y, aux), primals, tangents))
        return (y, aux), (moved, jax.tree.map(_no_tangent, aux))

    found.defjvp(jvp, symbolic_zeros=True)
    return found(*inputs)


def carrying_node(node: Node, solution: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The solution as it is, and the node in the traced program; inside a function named ``NAME`` only."""
    arrays = [jnp.asarray(a) for a in (*solution, *inputs)]
    return tuple(node_p.bind(*arrays, node=node, leaves=len(solution)))


def zero_like(tangent: Any) -> Any:
    """A tangent as an array, also where it is known to be zero."""
    if isinstance(tangent, SymbolicZero):
        aval: Any = tangent.aval
        return jnp.zeros(aval.shape, aval.dtype)
    return tangent


def _no_tangent(x: Any) -> Any:
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def _mapped(
    arrays: Sequence[Any], axes: Sequence[Any], *, node: Node, leaves: int
) -> tuple[list[Any], list[int]]:
    """Under vmap the whole solution is mapped, along its first axis; inputs stay as they are."""
    size = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    solution = [
        jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
        for a, i in zip(arrays[:leaves], axes[:leaves], strict=True)
    ]
    moved = (*(0 for _ in range(leaves)), *axes[leaves:])
    inner = replace(node, axes=(*node.axes, moved))
    outs = node_p.bind(*solution, *arrays[leaves:], node=inner, leaves=leaves)
    return list(outs), [0] * leaves


node_p = jex_core.Primitive("conservax_node")
node_p.multiple_results = True
node_p.def_impl(lambda *arrays, node, leaves: list(arrays[:leaves]))
node_p.def_abstract_eval(lambda *avals, node, leaves: list(avals[:leaves]))
mlir.register_lowering(node_p, lambda context, *arrays, node, leaves: list(arrays[:leaves]))
batching.primitive_batchers[node_p] = _mapped
