"""An algorithm at a fixed point: the vertices of the sets of its step and of its output."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..calculus import ConservativeJacobian, Kink, conservative_jacobian
from ..errors import NotARootError
from ..implicit.residual import measure_residual, require_root, root_tolerance
from ..numerics import is_root, machine_epsilon
from ..solution import Status
from .at_the_limit import implicit
from .contract import Algorithm
from .estimator import MAX_STEPS, Estimator, kept, refuse
from .running import moving


@dataclass(frozen=True)
class FixedPoint:
    """The point y of a fixed point whose output is x, and the relative tolerance of its kinks.

    ``basis``: orthonormal columns Q (n, n − r) that span the complement of the directions along which
    the state moves freely, None where there are none: matrices A become QᵀA Q.
    """

    alg: Algorithm
    theta: Any
    y: Any
    x: Any
    rtol: float
    basis: np.ndarray | None

    @classmethod
    def of(cls, alg: Algorithm, x: Any, theta: Any) -> FixedPoint:
        """Find y from its output x: at once where the state is told by x, else by iterating from there.

        Raises NotARootError where x is no output of a fixed point, NotConvergedError where the iteration
        from x does not settle.
        """
        estimator = implicit(alg)
        x, theta = estimator.inputs(x, theta)
        theta = jax.tree.map(jnp.asarray, theta)
        y = alg.point(alg.init(x, theta))
        residual = measure_residual(alg.residual, y, (theta,))
        if not is_root(residual.value, residual.scale, residual.dtype):
            y = _settled(estimator, x, theta)
            residual = require_root(alg.residual, y, (theta,))
            _require_output(alg, y, x, theta)
        return cls(alg, theta, y, x, root_tolerance(residual, None).rtol, _basis(alg, y, theta))

    def step(self) -> ConservativeJacobian:
        """The set of [A B] = ∂step/∂(s, θ), s the state at rest."""
        fun = kept(self.alg, "step map", lambda: functools.partial(_step, self.alg))
        return conservative_jacobian(fun, argnums=(0, 1), rtol=self.rtol)(
            self.alg.rest(self.y), self.theta
        )

    def output(self) -> ConservativeJacobian:
        """The set of [C D] = ∂output/∂(s, θ)."""
        fun = kept(self.alg, "output map", lambda: functools.partial(_output, self.alg))
        return conservative_jacobian(fun, argnums=(0, 1), rtol=self.rtol)(
            self.alg.rest(self.y), self.theta
        )

    @property
    def unknowns(self) -> int:
        """How many numbers the state has."""
        return sum(leaf.size for leaf in map(jnp.asarray, moving(self.alg.rest(self.y))))

    def quotient(self, A: np.ndarray) -> np.ndarray:
        """Matrices (…, n, n) on the complement of the free directions."""
        return A if self.basis is None else self.basis.T @ A @ self.basis


@dataclass(frozen=True)
class Pieces:
    """Vertices [A_i B_i] (V, n, n + p) of the step and [C_j D_j] (W, m, n + p) of the output."""

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray
    kinks: tuple[Kink, ...]

    @classmethod
    def of(cls, point: FixedPoint) -> Pieces:
        """All of them; raises TooManyKinksError, NotPolyhedralError as ``vertices`` does."""
        n = point.unknowns
        step, output = point.step(), point.output()
        first, last = step.vertices(), output.vertices()
        A, B = point.quotient(first[:, :, :n]), first[:, :, n:]
        C, D = last[:, :, :n], last[:, :, n:]
        if point.basis is not None:
            B, C = point.basis.T @ B, C @ point.basis
        return cls(A, B, C, D, (*step.kinks, *output.kinks))


def _step(alg: Algorithm, state: Any, theta: Any) -> list[jax.Array]:
    return moving(alg.step(state, theta))


def _output(alg: Algorithm, state: Any, theta: Any) -> Any:
    return alg.output(alg.point(state), theta)


def _settled(estimator: Estimator, x: Any, theta: Any) -> Any:
    run = estimator.run_to(x, theta, 1e-14, MAX_STEPS)
    if int(run.status) == Status.DIVERGED:
        refuse(estimator.alg, run, estimator.tol, x, theta)
    return run.point


def _require_output(alg: Algorithm, y: Any, x: Any, theta: Any) -> None:
    found = alg.output(y, theta)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(x), strict=True):
        gap = float(jnp.max(jnp.abs(a - b), initial=0.0))
        size = max(1.0, float(jnp.max(jnp.abs(a), initial=0.0)))
        if not gap <= machine_epsilon(a.dtype) ** 0.25 * size:
            raise NotARootError(
                f"{alg.name}: x is no output of a fixed point; iterating from it leads {gap:.3g} away. Pass "
                "what an estimator such as cx.iterates.implicit(alg) returned."
            )


def _basis(alg: Algorithm, y: Any, theta: Any) -> np.ndarray | None:
    free = alg.invariance(y, theta)
    if free is None:
        return None
    n, r = free.shape
    return np.linalg.qr(np.concatenate([free, np.eye(n)], axis=1))[0][:, r:n]
