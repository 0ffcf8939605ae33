"""One call of a model: its arguments, on the host, and the two JAX primitives that carry it.

The arguments that JAX traces are the primitives' operands; everything else stays on the host, as it is,
so that an eager call compiles nothing and large data are never copied into a program.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..errors import NotConvergedError, SingularError, UnsupportedOperationError
from ..solvers.threads import one_blas_thread
from .datafits import Datafit
from .derivative import Reduced
from .design import Design, is_sparse
from .penalties import Penalty
from .solvers import Outcome, Problem, working_set

Levels = tuple[tuple[bool, ...], ...]
"""For each mapped axis, the outermost first: which operands have it."""


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A model and the arguments of one call of it.

    Attributes:
        name: the model's, for messages.
        datafit: the loss. penalty: builds the penalty from the parameters, as host arrays.
        intercept: whether one is fitted.
        selection: "support" or "lars".
        held: arguments that are not traced, by name; ``traced``: the names of those that are.
        start: coefficients to start from, or None.
        size: of the vector of coefficients. dtype: of the answer.
        solve: the solver, (problem, start) ↦ Outcome.
        parts, remedy: what the coefficients belong to, and what helps where these depend on each other.
        may_be_negative, may_vanish: the traced parameters that need not be positive.
    """

    name: str
    datafit: Datafit
    penalty: Callable[..., Penalty]
    intercept: bool
    selection: str
    held: dict[str, Any]
    traced: tuple[str, ...]
    start: np.ndarray | None
    size: int
    dtype: Any
    solve: Callable[[Problem, np.ndarray | None], Outcome] = field(default=working_set)
    parts: str = field(default="columns", kw_only=True)
    remedy: str = field(default="drop a column, raise the penalty, or add a ridge", kw_only=True)
    may_be_negative: tuple[str, ...] = field(default=(), kw_only=True)
    may_vanish: tuple[str, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        return f"{self.name} of {self.size} coefficients"  # JAX prints it with every equation: no arrays

    def admissible(self, operands: Sequence[Any]) -> bool:
        """Whether traced arguments are finite, weights and penalties of the right sign."""
        for name, value in zip(self.traced, map(np.asarray, operands), strict=True):
            if not np.isfinite(value).all():
                return False
            if name in ("X", "y", *self.may_be_negative):
                continue
            zero = name == "sample_weight" or name in self.may_vanish
            if np.any(value < 0) or (not zero and np.any(value == 0)):
                return False
            if name == "sample_weight" and not value.any():
                return False
        return True

    def problem(self, operands: Sequence[Any]) -> tuple[Problem, float]:
        """The fit as the host's solvers take it, and Σ of the sample weights."""
        values = {**self.held, **dict(zip(self.traced, operands, strict=True))}
        X, y, weight = (values.pop(name) for name in ("X", "y", "sample_weight"))
        y = np.asarray(y, dtype=np.float64)
        design = Design.of(X, self.datafit.outputs(y), self.intercept)
        parameters = {k: np.asarray(v, dtype=np.float64) for k, v in values.items()}
        if weight is None:
            omega, total = np.full(len(y), 1 / len(y)), float(len(y))
        else:
            omega = np.asarray(weight, dtype=np.float64)
            total = float(omega.sum())
            omega = omega / total
        return Problem(design, self.datafit, y, omega, self.penalty(**parameters)), total

    def outcome(self, operands: Sequence[Any]) -> Outcome:
        """The fit, solved."""
        return self.solve(self.problem(operands)[0], self.start)

    def reduced(self, coef: Any, operands: Sequence[Any]) -> Reduced:
        """The fit on its face."""
        problem, total = self.problem(operands)
        return Reduced.at(
            problem, np.asarray(coef, dtype=np.float64), total, self.selection == "lars"
        )


def coefficients(call: Call, operands: Sequence[Any]) -> jax.Array:
    """All coefficients, differentiable in the operands."""
    return solve_p.bind(*operands, call=call, levels=())[0]


solve_p = Primitive("conservax_sparse_solve")
push_p = Primitive("conservax_sparse_derivative")
for _primitive in (solve_p, push_p):
    _primitive.multiple_results = True


def _solve(call: Call, operands: Sequence[Any], eager: bool) -> tuple[np.ndarray]:
    if not call.admissible(operands):
        return (np.full(call.size, np.nan, dtype=call.dtype),)
    outcome = call.outcome(operands)
    if outcome.solved:
        return (outcome.coef.astype(call.dtype),)
    if eager:
        raise NotConvergedError(
            f"{call.name} stopped after {outcome.rounds} rounds with an optimality violation of "
            f"{outcome.violation:.3g}. Standardise the columns of X, raise the penalty, or check that "
            "a minimum exists."
        )
    return (np.full(call.size, np.nan, dtype=call.dtype),)


def _push(
    call: Call, operands: Sequence[Any], moving: tuple[str, ...], eager: bool
) -> tuple[np.ndarray]:
    """Operands: coefficients, the traced arguments, the tangents of those in ``moving``."""
    coef, data = operands[0], operands[1 : 1 + len(call.traced)]
    tangents = dict(zip(moving, map(_float64, operands[1 + len(call.traced) :]), strict=True))
    if not any(tangent.any() for tangent in tangents.values()):
        return (np.zeros(call.size, dtype=call.dtype),)
    if not np.isfinite(np.asarray(coef)).all():
        return (np.full(call.size, np.nan, dtype=call.dtype),)
    reduced = call.reduced(coef, data)
    _require_regular(call, reduced, eager)
    return (reduced.push(tangents).astype(call.dtype),)


def _pull(
    call: Call, operands: Sequence[Any], moving: tuple[str, ...], eager: bool
) -> tuple[np.ndarray, ...]:
    """Operands: the cotangent, the coefficients, the traced arguments."""
    cotangent, coef, *data = operands
    cotangent = _float64(cotangent)
    places = dict(zip(call.traced, data, strict=True))
    like = {name: np.asarray(places[name]) for name in moving}
    failed = not np.isfinite(np.asarray(coef)).all()
    if failed or not cotangent.any():
        fill = np.nan if failed and cotangent.any() else 0.0
        return tuple(np.full(a.shape, fill, dtype=a.dtype) for a in like.values())
    reduced = call.reduced(coef, data)
    _require_regular(call, reduced, eager)
    found = reduced.pull(cotangent, like)
    return tuple(
        np.asarray(found[name], dtype=a.dtype).reshape(a.shape) for name, a in like.items()
    )


def _require_regular(call: Call, reduced: Reduced, eager: bool) -> None:
    if eager and not reduced.regular:
        raise SingularError(
            f"{call.name}: the {len(reduced.system)} {call.parts} of the {call.selection} depend on each "
            f"other, so the solution is not unique and has no derivative. {call.name}.check gives the null "
            f"vector; {call.remedy}."
        )


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


def _mapped(run: Callable[..., tuple[np.ndarray, ...]], levels: Levels, operands: Sequence[Any]):
    """``run`` over the mapped axes, item by item."""
    if not levels:
        return run(operands)
    level = levels[0]
    count = next(np.shape(o)[0] for o, has in zip(operands, level, strict=True) if has)
    items = [
        _mapped(
            run,
            levels[1:],
            [np.asarray(o)[i] if has else o for o, has in zip(operands, level, strict=True)],
        )
        for i in range(count)
    ]
    return tuple(np.stack(parts) for parts in zip(*items, strict=True))


def _on_host(which: str, eager: bool, call: Call, levels: Levels, moving: tuple[str, ...] = ()):
    """The host's side of a primitive, as a function of its operands."""
    eager = eager and not levels  # one bad item of a batch fails alone

    @one_blas_thread()  # the matrices of a support are small
    def run(operands: Sequence[Any]) -> tuple[np.ndarray, ...]:
        if which == "solve":
            return _solve(call, operands, eager)
        if which == "push":
            return _push(call, operands, moving, eager)
        return _pull(call, operands, moving, eager)

    return lambda *operands: _mapped(run, levels, operands)


def _lead(levels: Levels, operands: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of the mapped axes."""
    shapes = [list(np.shape(o)) for o in operands]
    sizes = []
    for level in levels:
        sizes.append(next(s[0] for s, has in zip(shapes, level, strict=True) if has))
        shapes = [s[1:] if has else s for s, has in zip(shapes, level, strict=True)]
    return tuple(sizes)


def _result(call: Call, levels: Levels, operands: Sequence[Any]) -> list[Any]:
    return [ShapedArray((*_lead(levels, operands), call.size), call.dtype)]


def _register(primitive: Primitive, which: str, results: Callable[..., list[Any]]) -> None:
    def impl(*operands: Any, **static: Any) -> list[Any]:
        return [jnp.asarray(part) for part in _on_host(which, True, **static)(*operands)]

    def lowered(*operands: Any, **static: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results(*operands, **static)]
        return list(jax.pure_callback(_on_host(which, False, **static), shapes, *operands))

    def batched(operands: Any, axes: Any, levels: Levels, **static: Any) -> Any:
        size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
        linear = _linear_from(which, static)
        moved, level = [], []
        for place, (operand, axis) in enumerate(zip(operands, axes, strict=True)):
            has = axis is not None
            if has:
                operand = jnp.moveaxis(operand, axis, 0)
            elif linear <= place:  # so that the transpose sums over the items
                operand, has = jnp.broadcast_to(operand, (size, *jnp.shape(operand))), True
            moved.append(operand)
            level.append(has)
        found = primitive.bind(*moved, levels=(tuple(level), *levels), **static)
        return found, [0] * len(found)

    primitive.def_impl(impl)
    primitive.def_abstract_eval(lambda *operands, **static: results(*operands, **static))
    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True))
    batching.primitive_batchers[primitive] = batched


def _linear_from(which: str, static: dict[str, Any]) -> float:
    """The first operand in which the primitive is linear."""
    if which == "push":
        return 1 + len(static["call"].traced)
    return np.inf if which == "solve" else 0


pull_p = Primitive("conservax_sparse_gradient")
pull_p.multiple_results = True


def _pulled(*operands: Any, call: Call, levels: Levels, moving: tuple[str, ...]) -> list[Any]:
    lead = _lead(levels, operands)
    shapes = []
    for name in moving:
        place = 2 + call.traced.index(name)
        skip = sum(level[place] for level in levels)
        shapes.append(
            ShapedArray(
                (*lead, *np.shape(operands[place])[skip:]), jnp.result_type(operands[place])
            )
        )
    return shapes


_register(solve_p, "solve", lambda *o, call, levels: _result(call, levels, o))
_register(push_p, "push", lambda *o, call, levels, moving: _result(call, levels, o))
_register(pull_p, "pull", _pulled)


def _derivative(primals: Any, tangents: Any, *, call: Call, levels: Levels) -> Any:
    out = solve_p.bind(*primals, call=call, levels=levels)
    moving = tuple(
        name for name, t in zip(call.traced, tangents, strict=True) if type(t) is not ad.Zero
    )
    if not moving:
        return out, [jnp.zeros_like(out[0])]
    places = [call.traced.index(name) for name in moving]
    lead = _lead(levels, primals)
    parts = [
        _with_all_axes(tangents[place], lead, [level[place] for level in levels])
        for place in places
    ]
    own = tuple((True, *level, *(True for _ in places)) for level in levels)
    return out, push_p.bind(out[0], *primals, *parts, call=call, levels=own, moving=moving)


def _with_all_axes(tangent: Any, lead: tuple[int, ...], has: list[bool]) -> Any:
    """The tangent with every mapped axis, so that the transpose sums over the items."""
    if all(has):
        return tangent
    own = np.shape(tangent)[sum(has) :]
    here = [size if there else 1 for size, there in zip(lead, has, strict=True)]
    return jnp.broadcast_to(jnp.reshape(tangent, (*here, *own)), (*lead, *own))


ad.primitive_jvps[solve_p] = _derivative


def _transpose(
    cotangents: Any, *operands: Any, call: Call, levels: Levels, moving: tuple[str, ...]
) -> list[Any]:
    known = 1 + len(call.traced)
    cotangent = cotangents[0]
    if type(cotangent) is ad.Zero:
        return [None] * known + [ad.Zero(o.aval) for o in operands[known:]]
    # the tangents have every mapped axis: ``batched`` and ``_with_all_axes`` saw to that
    own = tuple((True, *level[:known]) for level in levels)
    found = pull_p.bind(cotangent, *operands[:known], call=call, levels=own, moving=moving)
    return [None] * known + list(found)


ad.primitive_transposes[push_p] = _transpose


def _again(primitive: Primitive, known: Callable[[Call], slice], linear: Callable[[Call], slice]):
    """The rule by which a derivative is differentiated, exact where it is locally constant.

    It is linear in the operands ``linear``. In those of ``known`` it does not move where least squares are
    penalised so that solutions are piecewise affine in all that moves: on a face both matrix and right-hand
    side stand still.
    """

    def rule(primals: Any, tangents: Any, *, call: Call, levels: Levels, moving: tuple[str, ...]):
        static: dict[str, Any] = {"call": call, "levels": levels, "moving": moving}
        found = primitive.bind(*primals, **static)
        moved = {
            name
            for name, tangent in zip(call.traced, tangents[known(call)], strict=True)
            if type(tangent) is not ad.Zero
        }
        if moved:
            kind = getattr(call.penalty, "func", call.penalty)  # of a partial
            affine = ("y", *getattr(kind, "affine", ())) if call.datafit.quadratic else ()
            if bent := (moved | set(moving)) - set(affine):
                raise UnsupportedOperationError(
                    f"{call.name} has no second derivative in {', '.join(sorted(bent))}: differentiate the "
                    "gradient by finite differences, away from kinks. Second derivatives of least squares "
                    "in α and y are exact."
                )
        parts = list(primals)
        if all(type(tangent) is ad.Zero for tangent in tangents[linear(call)]):
            return found, [jnp.zeros_like(part) for part in found]
        parts[linear(call)] = map(ad.instantiate_zeros, tangents[linear(call)])
        return found, primitive.bind(*parts, **static)

    return rule


ad.primitive_jvps[push_p] = _again(
    push_p,
    lambda call: slice(1, 1 + len(call.traced)),
    lambda call: slice(1 + len(call.traced), None),
)
ad.primitive_jvps[pull_p] = _again(pull_p, lambda call: slice(2, None), lambda call: slice(0, 1))


def _transpose_pull(
    cotangents: Any, *operands: Any, call: Call, levels: Levels, moving: tuple[str, ...]
) -> list[Any]:
    """The transpose of a gradient in its cotangent: the derivative forwards."""
    parts = map(ad.instantiate_zeros, cotangents)  # as all gradients, they have every mapped axis
    own = tuple((*level[1:], *(True for _ in moving)) for level in levels)
    found = push_p.bind(*operands[1:], *parts, call=call, levels=own, moving=moving)
    return [*found, *(None for _ in operands[1:])]


ad.primitive_transposes[pull_p] = _transpose_pull


def concrete(value: Any) -> bool:
    """Whether a value is known now."""
    return not isinstance(value, Tracer)


def shape_of(X: Any) -> tuple[int, ...]:
    """The shape of an array or of a sparse matrix."""
    return tuple(X.shape) if is_sparse(X) else tuple(np.shape(X))
