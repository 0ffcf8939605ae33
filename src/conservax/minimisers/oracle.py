"""The function of a minimisation, compiled once: values and gradients at host points, counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..calculus import conservative_jacobian
from ..calculus.cuts.point import point_of
from ..calculus.tracing.invocation import Invocation, differentiable, require_values
from ..errors import ConservaxError, InvalidInputError, UnboundedError

_UNBOUNDED = -1e30


@dataclass
class Oracle:
    """f and ∇f at flat float64 points; every point asked for is remembered for certificates.

    ``points``, ``values``, ``gradients`` list what was evaluated, in order.
    """

    fun: Callable[..., Any]
    x0: Any
    args: tuple[Any, ...]
    budget: int
    points: list[np.ndarray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    best: int = -1

    def __post_init__(self) -> None:
        require_values([("x0", self.x0), ("args", self.args)], "minimise")
        leaves = jax.tree.leaves(self.x0)
        if not leaves or len(jax.tree.leaves(differentiable(self.x0))) != len(leaves):
            raise InvalidInputError(
                "x0 must be real floating-point numbers (an array or a pytree of arrays)."
            )
        self.x0 = jax.tree.map(jnp.asarray, self.x0)
        flat, unravel = ravel_pytree(self.x0)
        self.unravel: Callable[[Any], Any] = unravel
        self.dtype = flat.dtype
        self.start = np.asarray(flat, np.float64)
        if not np.all(np.isfinite(self.start)):
            raise InvalidInputError("x0 holds NaN or infinity; start at finite numbers.")
        call = Invocation.of(self.fun, (self.x0, *self.args))
        self._rest = [a for a, o in zip(call.leaves, call.owners, strict=True) if o != 0]
        self._single, self._batch = call.kept("minimise", lambda: _compiled(call, self.unravel))
        out = jax.eval_shape(lambda: call.run(call.leaves))
        shapes = [o.shape for o in jax.tree.leaves(out)]
        if shapes != [()]:
            raise InvalidInputError(
                f"fun must return one number; it returns arrays of shapes {shapes}. Sum them, or take a "
                "maximum."
            )

    @property
    def n(self) -> int:
        return len(self.start)

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def left(self) -> int:
        """Evaluations that the budget still allows."""
        return self.budget - self.count

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """(f, ∇f) at x (n,); f = inf where the value or the gradient is no number."""
        value, gradient = self._single(jnp.asarray(x, self.dtype), self._rest)
        return self._keep(x, float(value), np.asarray(gradient, np.float64))

    def many(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (k,) and gradients (k, n) at points (k, n), in one compiled call."""
        k = len(points)
        padded = 1 << max(0, (k - 1).bit_length())
        full = np.concatenate([points, np.repeat(points[:1], padded - k, axis=0)])
        values, gradients = self._batch(jnp.asarray(full, self.dtype), self._rest)
        found = [
            self._keep(x, float(f), np.asarray(g, np.float64))
            for x, f, g in zip(points, np.asarray(values), np.asarray(gradients), strict=False)
        ]
        return np.array([f for f, _ in found]), np.stack([g for _, g in found])

    def _keep(self, x: np.ndarray, f: float, g: np.ndarray) -> tuple[float, np.ndarray]:
        if np.isfinite(f) and not np.all(np.isfinite(g)):
            g = self._element(x)
        if not np.isfinite(f) or not np.all(np.isfinite(g)):
            if f == -np.inf:
                raise UnboundedError(unbounded(f))
            f, g = np.inf, np.zeros_like(g)
        elif f < _UNBOUNDED:
            raise UnboundedError(unbounded(f))
        self.points.append(np.array(x, np.float64))
        self.values.append(f)
        self.gradients.append(g)
        if np.isfinite(f) and (self.best < 0 or f < self.values[self.best]):
            self.best = self.count - 1
        return f, g

    def _element(self, x: np.ndarray) -> np.ndarray:
        """An element of the conservative gradient where AD's is no number (a norm at 0); NaN if none."""
        at = (self.unravel(jnp.asarray(x, self.dtype)), *self.args)
        try:
            return conservative_jacobian(self.fun)(*at).element("upper")[0]
        except ConservaxError:
            return np.full(self.n, np.nan)

    def has_value(self, x: np.ndarray) -> bool:
        """Whether f is a number at x; its gradient may be none (a norm at 0, written as a root)."""
        return bool(np.isfinite(self._single(jnp.asarray(x, self.dtype), self._rest)[0]))

    def is_smooth_at(self, x: np.ndarray) -> bool:
        """Whether no kink of fun is active at x, up to rounding: AD gives the gradient there."""
        return smooth_at(self.fun, self.unravel(jnp.asarray(x, self.dtype)), self.args)


def smooth_at(fun: Callable[..., Any], x: Any, args: tuple[Any, ...]) -> bool:
    """Whether no kink of ``fun`` is active at ``(x, *args)`` within rounding (rtol = eps^¾)."""
    rtol = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).eps) ** 0.75
    try:
        point = point_of(Invocation.of(fun, (x, *args)), (x, *args), (0,), 0.0, rtol)
    except ConservaxError:  # a jump, an unknown operation: no gradient to rely on
        return False
    return not point.cutter.program.given_rules and not bool(np.any(point.active))


def _compiled(call: Invocation, unravel: Callable[[Any], Any]) -> tuple[Any, Any]:
    owners, run = call.owners, call.run

    def value(flat: jax.Array, rest: Sequence[Any]) -> jax.Array:
        own, other = iter(jax.tree.leaves(unravel(flat))), iter(rest)
        out = run([next(own) if o == 0 else next(other) for o in owners])
        return jnp.reshape(jax.tree.leaves(out)[0], ())

    both = jax.value_and_grad(value)
    return jax.jit(both), jax.jit(jax.vmap(both, (0, None)))


def unbounded(f: float) -> str:
    """What is told of a function that fell to f."""
    return (
        f"fun fell to {f:.3g}: it is unbounded below, or as good as. Add a constraint or a penalty that "
        "bounds x, or start elsewhere."
    )
