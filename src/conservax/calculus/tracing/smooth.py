"""Operations that are smooth where they are defined, and their dictionary."""

_ALG, _AN, _EXP = "ALG", "AN", "EXP"
_PFAFF, _BOUNDED = (
    "PFAFFIAN",
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
        "name reduce_window_sum tridiagonal_solve sharding_constraint psum fft".split(),
        _ALG,
    ),
    **dict.fromkeys("atan atan2 asin acos".split(), _AN),
    **dict.fromkeys(
        "exp exp2 log log1p expm1 pow tanh logistic sinh cosh cumlogsumexp asinh acosh atanh".split(),
        _EXP,
    ),
    **dict.fromkeys("erf erfc erf_inv".split(), _PFAFF),
    **dict.fromkeys(
        "sin cos tan lgamma digamma polygamma zeta regularized_incomplete_beta bessel_i0e "
        "bessel_i1e igamma igammac".split(),
        _BOUNDED,
    ),
}
# Functions of jax.numpy that are smooth although their body chooses at a point (sin(x)/x at 0).
FUNCTIONS: dict[str, str] = {"sinc": _BOUNDED}
# Locally constant by decree: JAX gives them the derivative 0 and users mean it.
CONSTANT = {"stop_gradient", "is_finite", "iota", "random_bits", "random_wrap", "random_unwrap"}
# Marked functions that hold their operand still, in the first derivative alone.
HELD = {"conservax.held"}
# Operations that only move entries about: they act alike on values, sizes and comparisons.
STRUCTURAL = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "copy", "copy_p",
    "concatenate", "gather", "dynamic_slice", "stack", "unstack", "device_put", "name", "sharding_constraint",
}  # fmt: skip
JOINS = {"concatenate", "stack"}
# The _to forms order NaN too, which no varied value may be.
COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne", "lt_to", "le_to", "eq_to"}
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
