"""Which rule an operation has in the walk behind ``definability``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..operations.kinks import TABLE
from ..tracing import smooth
from ..tracing.jaxprs import CUSTOM_RULES, INLINE, marker
from . import ranges as rg
from .calls import called, custom, marked
from .complex_numbers import complex_operation, is_complex, needs_care, without_order
from .dictionaries import DOMAINS
from .entries import (
    absolute,
    bits,
    compare,
    convert,
    entrywise,
    moved,
    number_of,
    select,
    sign,
    stop_gradient,
)
from .loops import CONTROL
from .mixing import concatenated, factorised, gather, linear_solve, mixing, ordered
from .operation_ranges import range_of
from .ranges import Range
from .walk import Known, Walk

_COMPARE = {"gt", "ge", "lt", "le", "eq", "ne"}
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice"}
_MIXING = set(
    "reduce_sum reduce_prod reduce_max reduce_min dot_general cumsum cumprod cummax cummin cumlogsumexp "
    "conv_general_dilated gather dynamic_slice dynamic_update_slice scatter scatter-add scatter_add "
    "scatter-mul scatter_mul scatter-max scatter-min concatenate pad split stack unstack fft real imag "
    "conj complex reduce_window_sum reduce_window_max reduce_window_min tile tridiagonal_solve psum "
    "reduce_and reduce_or reduce_xor top_k argmax argmin sort iota clamp householder_product "
    "select_and_scatter_add complex_abs shift_right_logical shift_left population_count "
    "lu_pivots_to_permutation is_finite random_bits random_wrap random_unwrap random_seed random_fold_in "
    "threefry2x32 nextafter copy xor shift_right_arithmetic rng_bit_generator clz".split()
)


def step(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """What is known of the results of one equation."""
    found = _applied(walk, eqn, values, call)
    return [
        without_order(walk, known, v.aval.shape) if is_complex(v.aval) else known
        for known, v in zip(found, eqn.outvars, strict=True)
    ]


def _applied(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    name = eqn.primitive.name
    where = call or eqn
    name_of_ours = marker(eqn)
    if name_of_ours in TABLE:
        return marked(walk, eqn, values, where, name_of_ours)
    if name in INLINE:
        return called(walk, eqn, eqn.params[INLINE[name]], values, call)
    if name in CUSTOM_RULES:
        return custom(walk, eqn, values, call)
    if name in _CONTROL:
        return _CONTROL[name](walk, eqn, values, call)
    if not any(v.varied for v in values) and not any(not v.sound for v in values):
        return _fixed(walk, eqn, values)
    if needs_care(eqn, values):
        return complex_operation(walk, eqn, values, where)
    if name in _RULES:
        return _RULES[name](walk, eqn, values, where)
    if name in _MOVES:
        return [moved(walk, eqn, values[0])]
    known = (
        name in smooth.ELEMENTWISE or name in DOMAINS or name in smooth.SMOOTH or name in _MIXING
    )
    # the next floating-point number is no function of reals
    if known and not (name == "nextafter" and any(v.varied for v in values)):
        if len(eqn.outvars) == 1 and name not in _MIXING:
            return [entrywise(walk, eqn, values, where)]
        return mixing(walk, eqn, values)
    why = "the calculus has no rule for this operation"
    walk.outside_of(name, where, why)
    fault = walk.offence(name, where, why)
    base = walk.combined(values)
    bad = replace(base, dictionary="UNKNOWN", faults={**base.faults, fault: None})
    return [replace(bad, number=walk.expressions.opaque(v.aval.shape)) for v in eqn.outvars]


def _fixed(walk: Walk, eqn: Any, values: Sequence[Known]) -> list[Known]:
    """Operations on what does not vary: constants, of which the range is kept where it is cheap."""
    name = eqn.primitive.name
    out = []
    for i, var in enumerate(eqn.outvars):
        known = Range(np.array(-np.inf), np.array(np.inf))
        if name == "iota":
            n, axis = var.aval.shape, eqn.params["dimension"]
            places = np.arange(n[axis], dtype=np.float64)
            places = places.reshape([-1 if a == axis else 1 for a in range(len(n))])
            known = rg.point(np.broadcast_to(places, n))
        elif len(eqn.outvars) == 1:
            known = range_of(walk, eqn, values)
        out.append(
            Known(
                known,
                number_of(walk, eqn, values, i),
                dictionary="ALG",
                rootable=known.exceeds(0, or_equal=True),
            )
        )
    return out


_RULES: dict[str, Callable[[Walk, Any, list[Known], Any], list[Known]]] = {
    **dict.fromkeys(_COMPARE, compare),
    **dict.fromkeys(("sort", "top_k", "argmax", "argmin"), ordered),
    **dict.fromkeys(("cholesky", "qr", "lu", "eigh", "svd", "triangular_solve"), factorised),
    **dict.fromkeys(("gather", "dynamic_slice"), gather),
    **dict.fromkeys(("square", "integer_pow"), lambda w, e, v, s: [entrywise(w, e, v, s)]),
    "abs": absolute,
    "bitcast_convert_type": bits,
    **dict.fromkeys(("concatenate", "stack"), concatenated),
    "sign": sign,
    "select_n": select,
    "convert_element_type": convert,
    "stop_gradient": stop_gradient,
}

_CONTROL = {**CONTROL, "custom_linear_solve": linear_solve}
