"""Operations that are smooth where they are defined: their dictionary, and how sizes pass through.

The size of a value is the magnitude of the terms that made it (running error analysis): at least
its absolute value, larger after a cancellation. A kink is measured against it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_ALG, _AN, _EXP = "ALG", "AN", "EXP"
_PFAFF, _BOUNDED = (
    "AN_EXP",
    "BOUNDED",
)  # o-minimal by Pfaffian closure; definable on bounded boxes only

# The o-minimal dictionary each operation lives in (docs/theory.md#definable-operations).
SMOOTH: dict[str, str] = {
    **dict.fromkeys(
        "add sub mul div neg square sqrt rsqrt integer_pow add_any dot_general transpose reshape "
        "broadcast_in_dim squeeze expand_dims concatenate slice pad rev gather dynamic_slice "
        "dynamic_update_slice scatter scatter-add scatter_add scatter-mul scatter_mul reduce_sum reduce_prod "
        "cumsum cumprod convert_element_type copy copy_p select_n conv_general_dilated real imag conj "
        "complex reduce_precision split triangular_solve cholesky lu qr householder_product svd eigh "
        "custom_linear_solve lu_pivots_to_permutation tile optimization_barrier stack unstack cbrt device_put "
        "name reduce_window_sum tridiagonal_solve sharding_constraint psum".split(),
        _ALG,
    ),
    **dict.fromkeys("atan atan2 asin acos asinh acosh atanh".split(), _AN),
    **dict.fromkeys(
        "exp exp2 log log1p expm1 pow tanh logistic sinh cosh cumlogsumexp".split(), _EXP
    ),
    **dict.fromkeys("erf erfc erf_inv".split(), _PFAFF),
    **dict.fromkeys(
        "sin cos tan fft lgamma digamma polygamma zeta regularized_incomplete_beta bessel_i0e "
        "bessel_i1e igamma igammac".split(),
        _BOUNDED,
    ),
}
# Functions of jax.numpy that are smooth although their body chooses at a point (sin(x)/x at 0).
FUNCTIONS: dict[str, str] = {"sinc": _BOUNDED}
# Locally constant by decree: JAX gives them the derivative 0 and users mean it.
CONSTANT = {"stop_gradient", "is_finite", "iota", "random_bits", "random_wrap", "random_unwrap"}
# Operations that only move entries about: they act alike on values, sizes and comparisons.
STRUCTURAL = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "copy", "copy_p",
    "concatenate", "gather", "dynamic_slice", "stack", "unstack", "device_put", "name", "sharding_constraint",
}  # fmt: skip
JOINS = {"concatenate", "stack"}
# The _to forms order NaN too, which no varied value may be.
COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne", "lt_to", "le_to", "eq_to"}
_SUMS = {
    "reduce_sum",
    "reduce_window_sum",
    "psum",
    "cumsum",
    "scatter-add",
    "scatter_add",
    "pad",
    "scatter",
    "dynamic_update_slice",
    "split",
}
_ELEMENTWISE_ADD = {"add", "sub", "add_any"}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
UNARY = set(
    "exp exp2 log log1p expm1 tanh logistic sinh cosh sin cos tan atan asin acos asinh acosh atanh "
    "sqrt rsqrt square integer_pow erf erfc erf_inv lgamma digamma neg real imag "
    "convert_element_type reduce_precision".split()
)
# Entry by entry: what a torn operand can pass through without mixing its entries.
ELEMENTWISE = (
    UNARY
    | COMPARISONS
    | {"and", "or", "xor", "not", "add", "sub", "mul", "div", "pow", "max", "min", "abs", "sign", "select_n",
       "clamp", "add_any", "rem", "floor", "ceil", "round"}
)  # fmt: skip


def size_of(value: Any, size: Any) -> Any:
    """The recorded size of a value, or its absolute value if nothing was recorded."""
    return jnp.abs(value) if size is None else size


def sizes_after(
    eqn: Any,
    values: Sequence[Any],
    sizes: Sequence[Any],
    outs: Sequence[Any],
    bind: Callable[..., Any],
) -> list[Any]:
    """Sizes of the outputs of a smooth equation, given its inputs, their sizes and its outputs."""
    name = eqn.primitive.name
    if not all(jnp.issubdtype(jnp.result_type(o), jnp.floating) for o in outs):
        return [None] * len(outs)
    floats = [jnp.issubdtype(jnp.result_type(v), jnp.floating) for v in values]
    full = [size_of(v, s) if f else v for v, s, f in zip(values, sizes, floats, strict=True)]
    if name in STRUCTURAL or name in _SUMS:
        made = bind(*full)
    elif name in _ELEMENTWISE_ADD:
        made = [full[0] + full[1]]
    elif name in _BILINEAR:
        u, v = (jnp.abs(x) for x in values)
        left, right = bind(full[0], v), bind(u, full[1])
        made = [jnp.maximum(a, b) for a, b in zip(left, right, strict=True)]
    elif name == "div":
        u, v = (jnp.abs(x) for x in values)
        made = [jnp.maximum(full[0] / v, u * full[1] / (v * v))]
    elif name == "select_n":
        made = bind(values[0], *full[1:])
    elif name in UNARY:
        slope = jax.jvp(lambda x: bind(x)[0], (values[0],), (full[0],))[1]
        made = [jnp.abs(slope)]
    else:  # every output entry may have been made from the largest one
        made = [jnp.broadcast_to(jnp.max(jnp.abs(o), initial=0.0), o.shape) for o in outs]
    return [jnp.maximum(jnp.abs(o), m) for o, m in zip(outs, made, strict=True)]
