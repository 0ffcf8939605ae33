"""What the estimators share: a function of (x0, θ), its errors, and what it says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import InvalidInputError, NotConvergedError
from ..implicit.masks import poisoned
from ..solution import Solution, Status
from .contract import Algorithm, floats, require_finite
from .running import Run, Stats, change, frozen
from .shapes import require_steps

T = TypeVar("T")
TOLERANCE = 1e-10
MAX_STEPS = 100_000


class Estimator(ABC):
    """x(x0, θ): the solution of an algorithm, and what JAX makes of its derivative in θ.

    Call it for the solution; ``solve`` for a ``Solution(value, status, stats)``, which raises nothing
    about convergence and works inside jit. Eagerly a run that does not reach its tolerance raises
    NotConvergedError; inside jit its value and derivative are NaN.
    """

    def __init__(self, alg: Algorithm, tol: float, max_steps: int) -> None:
        self.alg, self.tol, self.max_steps = alg, tol, max_steps
        self._solving = jax.jit(self._solve)
        self._settling = jax.jit(self._settle)
        self._running = jax.jit(alg.solve)
        self._stepping: set[Hashable] = set()  # shapes and dtypes from which the algorithm steps

    @abstractmethod
    def __call__(self, x0: Any, theta: Any) -> Any:
        """The solution, differentiable in θ."""

    @abstractmethod
    def _pair(self, x0: Any, theta: Any) -> tuple[Any, Any, Run]:
        """The solution, the same after one more step, and the run."""

    def solve(self, x0: Any, theta: Any) -> Solution:
        """The solution with its status and a ``Stats`` of both errors.

        >>> import conservax as cx
        >>> alg = cx.iterates.from_step(lambda x, t: x / 2 + t)
        >>> found = cx.iterates.implicit(alg).solve(0.0, 1.0)
        >>> round(float(found.value), 4), int(found.status)
        (2.0, 0)
        """
        return self._solving(*self.inputs(x0, theta))

    def _solve(self, x0: Any, theta: Any) -> Solution:
        def pair(theta: Any) -> tuple[Any, Run]:
            x, later, run = self._pair(x0, theta)
            return (x, later), run

        theta = jax.tree.map(jnp.asarray, theta)
        (x, _), moves, run = jax.jvp(pair, (theta,), (_probe(theta),), has_aux=True)
        rate = run.rate
        past = jnp.where(rate < 1, 1 - rate, 0.0)
        stats = Stats(
            run.steps,
            run.change,
            rate,
            jnp.where(run.change == 0, 0.0, run.change * rate / past),
            jnp.where(change(*moves) == 0, 0.0, change(*moves) / past),
        )
        return Solution(x, run.status, stats)

    def _settle(self, x0: Any, theta: Any) -> Run:
        return self.alg.solve(x0, theta, self.tol, self.max_steps)

    def _run(self, x0: Any, theta: Any) -> Run:
        """Iterate to the tolerance; no derivative passes through."""
        return frozen(self._settling, x0, theta)

    def run_to(self, x0: Any, theta: Any, tol: float, max_steps: int) -> Run:
        """A run to another tolerance, compiled once for all of them."""
        return self._running(x0, theta, tol, max_steps)

    def inputs(self, x0: Any, theta: Any) -> tuple[Any, Any]:
        """The arguments as arrays, checked where their values are known."""
        name = self.alg.name
        require_finite(x0, "x0", name)
        require_finite(theta, "theta", name)
        x0 = None if x0 is None else floats(x0, name)
        if not traced(x0, theta):
            self.alg.validate(x0, theta)
        leaves, tree = jax.tree.flatten((x0, theta))
        kind = tree, *((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        if kind not in self._stepping:
            require_steps(self.alg, x0, theta)
            self._stepping.add(kind)
        return x0, theta

    def _vouched(self, x: Any, run: Run, x0: Any, theta: Any) -> Any:
        """x where the run reached its tolerance: an error or NaN elsewhere."""
        self._complain(run, x0, theta)
        return x if not traced(run.status) else poisoned(x, run.status == Status.SOLVED)

    def _complain(self, run: Run, x0: Any, theta: Any) -> None:
        if not traced(run.status) and np.any(np.asarray(run.status) != Status.SOLVED):
            refuse(self.alg, run, self.tol, x0, theta)


def refuse(alg: Algorithm, run: Run, tol: float, x0: Any, theta: Any) -> NoReturn:
    """Raise NotConvergedError: how the run ended, and which step size is beyond its bound."""
    status = Status(int(np.max(np.asarray(run.status))))
    moved, steps = float(np.max(np.asarray(run.change))), int(np.max(np.asarray(run.steps)))
    if status == Status.DIVERGED:
        what = f"{alg.name} diverged: after {steps} steps its change was {moved:.3g}"
    else:
        what = f"{alg.name} did not reach tol={tol:.3g}: after {steps} steps its change was {moved:.3g}"
    beyond = (
        []
        if traced(x0, theta)
        else [b for b in alg.step_bounds(x0, theta) if not 0 < b.value < b.bound]
    )
    for b in beyond:
        what += (
            f". {b.name} = {b.value:.6g} is not below its bound {b.formula} = {b.bound:.6g} at x0"
            if b.value > 0
            else f". {b.name} is not positive at theta"
        )
    remedy = (
        f"take {beyond[0].name} < {beyond[0].bound:.3g}, and positive" if beyond else status.remedy
    )
    raise NotConvergedError(f"{what}. Remedy: {remedy}.")


def kept(alg: Algorithm, key: Hashable, make: Callable[[], T]) -> T:
    """What was made for an algorithm, made now if there is none: repeat calls compile nothing."""
    if not isinstance(alg, Algorithm):
        raise InvalidInputError(
            f"alg must be an Algorithm such as cx.iterates.gradient_descent(f, step), got "
            f"{type(alg).__name__}. cx.iterates.from_step makes one of a step function."
        )
    try:
        made = vars(alg).setdefault("_made", {})
        if key not in made:
            made[key] = make()
        return made[key]
    except TypeError:  # a key that has no hash, an algorithm without attributes of its own
        return make()


def count(value: Any, name: str, least: int = 1) -> int:
    """A number of steps as an int; InvalidInputError unless it is one of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name}={value!r} must be a whole number of at least {least}.")
    return int(value)


def tolerance(tol: Any) -> float:
    """A tolerance as a float; InvalidInputError unless it is positive."""
    if isinstance(tol, Tracer) or np.ndim(tol) or not 0 < float(tol) < np.inf:
        raise InvalidInputError(f"tol={tol!r} must be a positive number.")
    return float(tol)


def traced(*trees: Any) -> bool:
    """Whether some leaf's value is not known yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def _probe(theta: Any) -> Any:
    """One direction in θ, of unit length in no norm in particular; counters do not move."""

    def direction(leaf: jax.Array) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.zeros(leaf.shape, jax.dtypes.float0)
        return jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)

    return jax.tree.map(direction, theta)
