"""Problems that are DPP once their parameters' own expressions are computed: g²/2, exp(a) + b, MᵀM.

Every largest subexpression without variables becomes a parameter of its own, whose value and derivative
in the user's parameters JAX computes: what is left is affine in the new parameters more often than the
problem was in the old ones.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array
from ...errors import InvalidInputError

# operations that only move entries about, or repeat them, or fill up with zeros
_MOVES = {
    "Concatenate", "Hstack", "Promote", "Vstack", "Wrap", "broadcast_to", "conj", "diag_mat", "diag_vec",
    "index", "nonneg_wrap", "nonpos_wrap", "psd_wrap", "real", "reshape", "special_index",
    "symmetric_wrap", "transpose", "upper_tri",
}  # fmt: skip


def _matmul(node: Any, u: Array, v: Array) -> Array:
    return u @ v if u.ndim and v.ndim else u * v


def _along(reduce: Callable[..., Array]) -> Callable[..., Array]:
    return lambda node, x: reduce(x, axis=node.axis, keepdims=node.keepdims)


def _p_norm(node: Any, x: Array) -> Array:
    p = float(node.p)
    if p == 2:
        return jnp.sqrt(jnp.sum(x * x, axis=node.axis, keepdims=node.keepdims))
    total = jnp.sum(jnp.abs(x) ** p, axis=node.axis, keepdims=node.keepdims)
    return total ** (1 / p)


_ATOMS: dict[str, Callable[..., Array]] = {
    "AddExpression": lambda node, *terms: functools.reduce(jnp.add, terms),
    "DivExpression": lambda node, u, v: u / v,
    "MulExpression": _matmul,
    "NegExpression": lambda node, x: -x,
    "Pnorm": _p_norm,
    "PnormApprox": _p_norm,
    "Power": lambda node, x: x ** float(node.p.value),
    "PowerApprox": lambda node, x: x ** float(node.p.value),
    "Prod": _along(jnp.prod),
    "Sum": _along(jnp.sum),
    "abs": lambda node, x: jnp.abs(x),
    "cumsum": lambda node, x: jnp.cumsum(x, axis=node.axis),
    "entr": lambda node, x: jax.scipy.special.entr(x),
    "exp": lambda node, x: jnp.exp(x),
    "kron": lambda node, u, v: jnp.kron(u, v),
    "log": lambda node, x: jnp.log(x),
    "log1p": lambda node, x: jnp.log1p(x),
    "log_sum_exp": _along(jax.scipy.special.logsumexp),
    "logistic": lambda node, x: jax.nn.softplus(x),
    "max": _along(jnp.max),
    "maximum": lambda node, *terms: jnp.stack(jnp.broadcast_arrays(*terms)).max(axis=0),
    "min": _along(jnp.min),
    "minimum": lambda node, *terms: jnp.stack(jnp.broadcast_arrays(*terms)).min(axis=0),
    "multiply": lambda node, u, v: u * v,
    "norm1": _along(lambda x, **along: jnp.sum(jnp.abs(x), **along)),
    "norm_inf": _along(lambda x, **along: jnp.max(jnp.abs(x), **along)),
    "quad_over_lin": lambda node, x, y: jnp.sum(x * x) / y,
}


@dataclass(frozen=True, eq=False)
class ParameterMap:
    """Parameters of our own: ``expressions`` of the user's ``parameters``, which stand for them."""

    parameters: tuple[Any, ...]
    expressions: tuple[Any, ...]

    def __call__(self, values: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The values of the expressions; each value is of its shape, or has one batch axis in front."""
        if not self.expressions:
            return []
        dtype = jnp.result_type(float, *values)

        def one(*own: Array) -> list[Array]:
            known = {p.id: v.astype(dtype) for p, v in zip(self.parameters, own, strict=True)}
            return [_value(e, known, dtype).reshape(e.shape) for e in self.expressions]

        axes = [0 if v.ndim > len(s) else None for v, s in zip(values, shapes, strict=True)]
        return (one if all(a is None for a in axes) else jax.vmap(one, tuple(axes)))(*values)


def _value(node: Any, known: dict[int, Array], dtype: Any) -> Array:
    """The value of an expression, with its derivative in the parameters known."""
    if not node.args and node.parameters():
        return known[node.id]
    if not node.parameters():
        value = node.value
        value = value.toarray() if hasattr(value, "toarray") else value
        return jnp.asarray(value, dtype).reshape(node.shape)
    name = type(node).__name__
    arguments = [_value(argument, known, dtype) for argument in node.args]
    if name in _MOVES:
        return _moved(node, arguments)
    return _ATOMS[name](node, *arguments)


def _moved(node: Any, arguments: list[Array]) -> Array:
    """An operation that moves entries: where they go is seen from what it does to their numbers."""
    sizes = [argument.size for argument in arguments]
    starts = np.cumsum([1, *sizes])
    numbers = [
        np.arange(start, start + size, dtype=float).reshape(argument.shape)
        for start, size, argument in zip(starts, sizes, arguments, strict=False)
    ]
    places = node.numeric(numbers)
    places = places.toarray() if hasattr(places, "toarray") else np.asarray(places)
    flat = [jnp.zeros(1, arguments[0].dtype), *(argument.ravel() for argument in arguments)]
    return jnp.concatenate(flat)[places.astype(int)]


def _known(node: Any) -> bool:
    name = type(node).__name__
    if not node.parameters() or not node.args:
        return True
    return (name in _MOVES or name in _ATOMS) and all(map(_known, node.args))


def with_own_parameters(cvxpy: Any, problem: Any) -> tuple[Any, list[Any], list[Any]]:
    """The problem with a parameter for each of its parameters' own expressions; those, and these.

    Constraints keep their order. Raises InvalidInputError for an operation of CVXPY that JAX's side
    does not know, by its name.
    """
    made: list[Any] = []
    expressions: list[Any] = []

    def fresh(node: Any) -> Any:
        if not _known(node):
            raise InvalidInputError(
                f"Problem must be DPP: {node} of the parameters is computed apart, but holds an operation "
                "of CVXPY that is not known here. Make it a parameter of its own and compute its value."
            )
        sign = (
            {"nonneg": True} if node.is_nonneg() else {"nonpos": True} if node.is_nonpos() else {}
        )
        made.append(cvxpy.Parameter(node.shape, **sign))
        expressions.append(node)
        return made[-1]

    def replaced(node: Any) -> Any:
        if not node.parameters() or isinstance(node, cvxpy.Parameter):
            return node
        if not node.variables():
            return fresh(node)
        arguments = [replaced(argument) for argument in node.args]
        if all(new is old for new, old in zip(arguments, node.args, strict=True)):
            return node
        return node.copy(arguments)

    objective = type(problem.objective)(replaced(problem.objective.args[0]))
    constraints = []
    for constraint in problem.constraints:
        arguments = [replaced(argument) for argument in constraint.args]
        if any(new is not old for new, old in zip(arguments, constraint.args, strict=True)):
            label = constraint.label
            constraint = constraint.copy(arguments)
            constraint.label = label
        constraints.append(constraint)
    return cvxpy.Problem(objective, constraints), made, expressions
