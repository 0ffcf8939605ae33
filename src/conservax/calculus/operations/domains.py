"""Where operations that are smooth stop being so: cuts, lost ranks, equal eigenvalues; JAX's own rules.

An ``Edge`` measures, at run time, how far an operation stands from such a point. On one the program is
refused by name: JAX returns a finite number there that is no derivative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...numerics import machine_epsilon
from ..tracing.program import Step
from .tape import Tape


@dataclass(frozen=True)
class Edge:
    """A set off which an operation is smooth.

    ``kind`` is that of its site: "jump" (the operation is discontinuous there), "edge" (it has no finite
    derivative there) or "matrix" (its derivatives there are known, and span no weights). ``shape(step)``
    is the site's, and ``distance(step, values, outs)`` an array of that shape: 0 on the edge. A "matrix"
    is reached within the tolerance, relative to the largest operand's terms; the others exactly.
    ``results`` are the ones it is about: it holds if one of these is felt; ``()`` means all. ``moving``: the
    operand without whose change there is no such point.
    """

    operation: str
    kind: str
    shape: Callable[[Any], tuple[int, ...]]
    distance: Callable[[Any, Sequence[Any], Sequence[Any]], Any]
    results: tuple[int, ...] = ()
    moving: int | None = None

    def record(
        self,
        tape: Tape,
        step: Step,
        values: Sequence[Any],
        sizes: Sequence[Any],
        outs: Sequence[Any],
    ) -> None:
        """Tell the tape how far this execution stands from the edge."""
        shape = self.shape(step)
        away: Any = jnp.ones(shape)
        size: Any = 0.0
        if tape.measures:
            away = jnp.broadcast_to(self.distance(step, values, outs), shape)
            size = jnp.max(sizes[0]) if self.kind == "matrix" else 1.0
        if self.kind == "matrix":
            tape.kink(away, jnp.broadcast_to(size, shape), 0.0)
        else:
            tape.jump(away, 1.0)


def _of_result(step: Step) -> tuple[int, ...]:
    return step.eqn.outvars[0].aval.shape


def _once(step: Step) -> tuple[int, ...]:
    """One number for each matrix of a batch."""
    return step.eqn.invars[0].aval.shape[:-2]


def _cut_of_atan2(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """The angle jumps where y changes sign at x < 0; with a y that stands still only at the origin."""
    y, x = values
    if not step.in_varied[0]:
        return jnp.where(y == 0, jnp.abs(x), jnp.inf)
    return jnp.where(x <= 0, jnp.abs(y), jnp.inf)


def _real_below(bound: float) -> Callable[..., Any]:
    def distance(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
        z = values[0]
        return jnp.where(jnp.real(z) <= bound, jnp.abs(jnp.imag(z)), jnp.inf)

    return distance


def _real_beyond_one(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    z = values[0]
    return jnp.where(jnp.abs(jnp.real(z)) >= 1, jnp.abs(jnp.imag(z)), jnp.inf)


def _imaginary_beyond_one(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    z = values[0]
    return jnp.where(jnp.abs(jnp.imag(z)) >= 1, jnp.abs(jnp.real(z)), jnp.inf)


def _cut_of_power(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """z^y jumps across the negative axis but for whole y that stand still."""
    z, y = values
    away = jnp.where(jnp.real(z) <= 0, jnp.abs(jnp.imag(z)), jnp.inf)
    return away if step.in_varied[1] else jnp.where(y == jnp.round(jnp.real(y)), jnp.inf, away)


def _zero_to_a_moving_power(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """0^y has no derivative in y for y ≤ 1, where JAX returns 0."""
    x, y = values
    return jnp.where(y <= 1, jnp.abs(x), jnp.inf)


def _to_singular(a: Any) -> Any:
    """How far the smallest singular value stands above what rounding makes of 0."""
    values = jnp.linalg.svd(a, compute_uv=False)
    if not values.shape[-1]:
        return jnp.full(values.shape[:-1], jnp.inf)
    floor = 2 * max(a.shape[-2:]) * machine_epsilon(values.dtype) * values[..., 0]
    return jnp.maximum(values[..., -1] - floor, 0)


def _singular_operand(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    return _to_singular(values[-1])


def _singular_pivot(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """A pivot of the Cholesky factorisation against the diagonal entry it is left of."""
    diagonal = jnp.diagonal(values[0], axis1=-2, axis2=-1).real
    left = jnp.diagonal(outs[0], axis1=-2, axis2=-1).real ** 2
    floor = 2 * left.shape[-1] * machine_epsilon(left.dtype) * diagonal
    return jnp.min(jnp.nan_to_num(jnp.maximum(left - floor, 0)), axis=-1, initial=np.inf)


def _turning_reflection(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """Householder's R_jj = −sign(a)‖·‖ turns round where the entry a below the earlier ones passes 0."""
    _, reflections = jnp.linalg.qr(values[0], mode="raw")
    diagonal = jnp.diagonal(outs[1], axis1=-2, axis2=-1)
    entry = jnp.abs(diagonal * (1 - reflections[..., : diagonal.shape[-1]]))
    return jnp.min(entry, axis=-1, initial=np.inf)


def _lost_rank(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """The pseudo-inverse jumps where a singular value vanishes, or was cut off: tr(A⁺A) is the rank."""
    a, inverse = values[-1], outs[0]
    rank = jnp.einsum("...ij,...ji->...", inverse, a).real
    return jnp.maximum(rank - (min(a.shape[-2:]) - 0.5), 0)


def _power_of_two(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    mantissa = jnp.abs(outs[0])
    return jnp.where(values[-1] == 0, 0.0, mantissa - 0.5)


def _gaps(values: Any) -> Any:
    """For each of some sorted numbers (last axis) the distance to the nearest of the others."""
    gap = jnp.abs(jnp.diff(values, axis=-1))
    edge = jnp.full((*values.shape[:-1], 1), jnp.inf, values.dtype)
    return jnp.minimum(jnp.concatenate([gap, edge], -1), jnp.concatenate([edge, gap], -1))


def _equal_eigenvalues(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    return _gaps(next(o for o in outs if o.ndim == values[0].ndim - 1))


def _equal_singular_values(step: Step, values: Sequence[Any], outs: Sequence[Any]) -> Any:
    """Also 0, where a singular value meets its mirror image −σ."""
    return jnp.minimum(_gaps(outs[0]), outs[0])


def _values_shape(place: int) -> Callable[[Any], tuple[int, ...]]:
    return lambda step: step.eqn.outvars[place].aval.shape


def _cut(operation: str, distance: Callable[..., Any]) -> Edge:
    return Edge(operation, "jump", _of_result, distance)


_NEGATIVE = _real_below(0.0)
REAL_EDGES: dict[str, tuple[Edge, ...]] = {
    "atan2": (_cut("arctan2 on its cut", _cut_of_atan2),),
    "pow": (Edge("0 to a moving power", "edge", _of_result, _zero_to_a_moving_power, moving=1),),
}
COMPLEX_EDGES: dict[str, tuple[Edge, ...]] = {
    "log": (_cut("complex log on its cut", _NEGATIVE),),
    "log1p": (_cut("complex log1p on its cut", _real_below(-1.0)),),
    "sqrt": (_cut("complex sqrt on its cut", _NEGATIVE),),
    "rsqrt": (_cut("complex rsqrt on its cut", _NEGATIVE),),
    "pow": (_cut("a complex power on its cut", _cut_of_power),),
    "asin": (_cut("complex arcsin on its cut", _real_beyond_one),),
    "acos": (_cut("complex arccos on its cut", _real_beyond_one),),
    "atanh": (_cut("complex arctanh on its cut", _real_beyond_one),),
    "atan": (_cut("complex arctan on its cut", _imaginary_beyond_one),),
    "asinh": (_cut("complex arcsinh on its cut", _imaginary_beyond_one),),
    "acosh": (_cut("complex arccosh on its cut", _real_below(1.0)),),
}
MATRIX_EDGES: dict[str, tuple[Edge, ...]] = {
    "cholesky": (Edge("the Cholesky factor of a singular matrix", "edge", _once, _singular_pivot),),
    "qr": (Edge("qr, whose columns change their signs,", "jump", _once, _turning_reflection),),
    "eigh": (Edge("equal eigenvalues", "matrix", _values_shape(1), _equal_eigenvalues),),
    "svd": (
        Edge(
            "equal or vanishing singular values", "matrix", _values_shape(0), _equal_singular_values
        ),
    ),
}
# JAX's own derivative rules: smooth but for these edges. What is not listed counts as given.
_SINGULAR = Edge("slogdet of a singular matrix", "jump", _once, _singular_operand)
RULES: dict[str, tuple[Edge, ...]] = {
    **dict.fromkeys(
        "_softmax log1mexp _i0 _sinc_maclaurin _det logaddexp logaddexp2 _wofz _erfcx _dawsn logit xlogy "
        "xlog1py _xlogx zeta log_ndtr expi sici expn poch hyp1f1 hyp2f1 _owens_t_impl fresnel".split(),
        (),
    ),
    **dict.fromkeys(("_slogdet_small", "_slogdet_lu", "_slogdet_qr"), (_SINGULAR,)),
    "_pinv": (Edge("pinv where the rank is not full", "jump", _once, _lost_rank),),
    "_frexp": (_cut("frexp at a power of two (or 0)", _power_of_two),),
}


def edges_of(step: Step) -> tuple[Edge, ...]:
    """The edges of a smooth operation, of real or of complex operands, some of which vary or are torn."""
    eqn, name = step.eqn, step.eqn.primitive.name
    is_complex = any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars)
    edges = MATRIX_EDGES.get(name) or (COMPLEX_EDGES if is_complex else REAL_EDGES).get(name, ())
    moves = [v or t for v, t in zip(step.in_varied, step.torn, strict=True)]
    return tuple(e for e in edges if e.moving is None or moves[e.moving])
