"""What an iterative algorithm is: ``init``, ``step``, ``output`` and a residual, and what may be told beside.

    s_0 = init(x_0, θ),    s_{t+1} = step(s_t, θ),    x_t = output(point(s_t), θ)

``point`` is the part of the state that converges, the unknown y of ``residual(y, θ) = 0``: it drops
momentum and counters. ``rest`` goes back: the state that stays where it is, given y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr, tree_leaves_with_path

from ..errors import InvalidInputError
from ..implicit import custom_root
from .running import Run, iterate

Scalar: TypeAlias = Any
"""A positive number, an array of no dimension, or a function of θ that returns one."""


class StepBound(NamedTuple):
    """A step size, the bound that theory sets it, and that bound as a formula."""

    name: str
    value: float
    bound: float
    formula: str


class Algorithm(ABC):
    """An iterative algorithm x_{t+1} = F(x_t, θ) and what is known of its fixed points.

    A subclass gives ``init`` and ``step``; the rest has defaults for a state that is the solution
    itself. All methods are pure functions that JAX traces; states and θ are pytrees of arrays.
    ``name`` is the algorithm's in messages.

    >>> import conservax as cx
    >>> class Halve(cx.iterates.Algorithm):
    ...     def init(self, x0, theta):
    ...         return x0
    ...
    ...     def step(self, state, theta):
    ...         return state / 2 + theta
    >>> round(float(cx.iterates.implicit(Halve())(0.0, 1.0)), 4)
    2.0
    """

    name: str = "the algorithm"

    @abstractmethod
    def init(self, x0: Any, theta: Any) -> Any:
        """The first state, from an initial point: an output of an earlier run is one."""

    @abstractmethod
    def step(self, state: Any, theta: Any) -> Any:
        """The next state, a pytree of the same structure, shapes and dtypes."""

    def point(self, state: Any) -> Any:
        """The part y of a state that converges, floating-point arrays only."""
        return state

    def rest(self, y: Any) -> Any:
        """The state whose point is y and which, if y is a fixed point, stays where it is."""
        return y

    def output(self, y: Any, theta: Any) -> Any:
        """The solution x, from the point."""
        del theta
        return y

    def residual(self, y: Any, theta: Any) -> Any:
        """F(y, θ), zero at the fixed points: as many numbers as y. Here y minus its next point."""
        after = self.point(self.step(self.rest(y), theta))
        return jax.tree.map(lambda a, b: a - b, y, after)

    def solve(self, x0: Any, theta: Any, tol: Any, max_steps: int) -> Run:
        """Iterate to the tolerance, as fast as can be; never differentiated."""
        return iterate(self, self.init(x0, theta), theta, tol, max_steps)

    def solution(self, y: Any, theta: Any, **linear: Any) -> Any:
        """The output at a fixed point y with the derivative of the implicit function theorem in θ.

        ``linear``: how to solve the linear system, as in ``custom_root``.
        """
        attach = custom_root(self.residual, **linear)(lambda init, theta: init)
        return self.output(attach(y, theta), theta)

    def solution_near(self, y: Any, theta: Any) -> Any:
        """As ``solution`` at a point that is no fixed point yet: its derivative is an approximation."""
        return self.solution(y, theta, on_failure="keep")

    def invariance(self, y: Any, theta: Any) -> np.ndarray | None:
        """Directions d_i, an array (n, r), along which y moves freely: point(step(y + c d_i)) moves alike.

        None where there are none. Derivatives are then judged in the quotient by their span.
        """
        del y, theta
        return None

    def validate(self, x0: Any, theta: Any) -> None:
        """Raise InvalidInputError for values that the algorithm cannot start from; never under a trace."""
        del x0, theta

    def step_bounds(self, x0: Any, theta: Any) -> tuple[StepBound, ...]:
        """The step sizes and what bounds them, at concrete values; computed when a run fails."""
        del x0, theta
        return ()


def at(value: Scalar, theta: Any) -> Any:
    """A step size: a number, or the function of θ at θ, NaN where that is not positive."""
    if not callable(value):
        return value
    found = number_at(value, theta)
    return jnp.where(found > 0, found, jnp.nan)


def number_at(value: Scalar, theta: Any) -> Any:
    """A number, or the function of θ at θ; InvalidInputError for an array with dimensions."""
    found: Any = value(theta) if callable(value) else value
    if jnp.ndim(found):
        raise InvalidInputError(
            "a step size must be one number; its function of theta returns an array of shape "
            f"{jnp.shape(found)}."
        )
    return found


def positive(value: Scalar, name: str, of: str) -> Scalar:
    """A step size as given; InvalidInputError unless it is positive (or a function, or traced)."""
    if callable(value) or isinstance(value, Tracer):
        return value
    if np.ndim(value) or not np.isreal(value) or not 0 < float(value) < np.inf:
        raise InvalidInputError(
            f"{of}: {name}={value!r} must be a positive number, or a function of θ that returns one."
        )
    return value


def called(value: Any, name: str, of: str) -> Callable[..., Any]:
    """A function as given; InvalidInputError where it is none."""
    if not callable(value):
        raise InvalidInputError(f"{of}: {name} must be a function, got {type(value).__name__}.")
    return value


def linear_map(A: Any, name: str, of: str) -> Callable[[Any], Any]:
    """x ↦ A x for a matrix, or the function as given; InvalidInputError for anything else."""
    if callable(A):
        return A
    if np.ndim(A) != 2:
        raise InvalidInputError(
            f"{of}: {name} must be a matrix (m, n) or a linear function of x; it has shape {np.shape(A)}."
        )
    return lambda x: jnp.asarray(A, x.dtype) @ x


def floats(x0: Any, of: str) -> Any:
    """An initial point as floating-point arrays; InvalidInputError where it cannot be."""
    leaves = tree_leaves_with_path(x0)
    if not leaves:
        raise InvalidInputError(f"{of}: the initial point x0 holds no arrays.")

    def as_float(path: Any, leaf: Any) -> jax.Array:
        try:
            array = jnp.asarray(leaf)
        except TypeError:
            array = None
        if array is None or jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise InvalidInputError(
                f"{of}: x0{keystr(path)} must be an array of real numbers, got "
                f"{type(leaf).__name__ if array is None else array.dtype}."
            )
        return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)

    return jax.tree_util.tree_map_with_path(as_float, x0)


def require_finite(tree: Any, name: str, of: str) -> None:
    """Raise InvalidInputError where a pytree holds no arrays, or concrete ones with NaN or infinity."""
    for path, leaf in tree_leaves_with_path(tree):
        try:
            kind = jax.typeof(leaf).dtype
        except TypeError:
            raise InvalidInputError(
                f"{of}: {name}{keystr(path)} must be an array of real numbers, got {type(leaf).__name__}."
            ) from None
        if isinstance(leaf, Tracer) or not jnp.issubdtype(kind, jnp.inexact):
            continue
        if not np.all(np.isfinite(np.asarray(leaf))):
            raise InvalidInputError(
                f"{of}: {name}{keystr(path)} holds NaN or infinity; pass finite values."
            )
