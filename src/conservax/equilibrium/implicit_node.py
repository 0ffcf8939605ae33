"""Stand-in for ``calculus.implicit_node`` until that is there: the same call, on the present table."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..calculus import roots


def implicit_node(
    solve: Callable[..., Any],
    residual: Callable[..., Any],
    rule: Callable[..., Any],
    *inputs: Any,
    reads: Sequence[int],
    hidden: bool = True,
    certificate: Any = None,
) -> Any:
    """The solution y of residual(y, *inputs) = 0 and aux, as ``solve(*inputs)`` gives them."""
    del certificate
    shapes = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.asarray(a).dtype) for a in inputs]
    solution = jax.eval_shape(lambda *a: solve(*a)[0], *shapes)
    n = len(solution)

    def trace() -> Any:
        read = [shapes[i] for i in reads]
        return jax.make_jaxpr(lambda *a: residual(a[:n], *a[n:]))(*solution, *read)

    def find(*arrays: Any) -> Any:
        return solve(*arrays)

    find.__name__ = find.__qualname__ = roots.record(roots.Root(trace, n, tuple(reads), hidden))
    root = jax.custom_jvp(find)

    def still(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.zeros_like(x)
        return np.zeros(x.shape, jax.dtypes.float0)

    def jvp(primals: Any, tangents: Any) -> Any:
        y, aux = root(*primals)
        return (y, aux), (tuple(rule(y, primals, tangents)), jax.tree.map(still, aux))

    root.defjvp(jvp, symbolic_zeros=True)
    return root(*inputs)
