"""Sinkhorn's algorithm for entropic optimal transport, in the log domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import InvalidInputError
from ...numerics import machine_epsilon
from ..contract import Algorithm
from ..running import Run
from .transport import absorbed, log_sum_exp, plan_with_derivative


class Transport(NamedTuple):
    """θ of ``sinkhorn``: cost (n, m), marginals a (n,) and b (m,), and ε > 0."""

    cost: Any
    a: Any
    b: Any
    epsilon: Any


@dataclass(frozen=True, eq=False)
class Sinkhorn(Algorithm):
    """u⁺ = log a − log Σ_j exp(v_j − C_ij/ε) with v = log b − log Σ_i exp(u_i − C_ij/ε)."""

    name: str = "sinkhorn"

    def init(self, x0: Any, theta: Any) -> jax.Array:
        cost, a, _, epsilon = _arrays(theta)
        if x0 is None:
            return jnp.zeros_like(a)
        x0 = jnp.asarray(x0, cost.dtype)
        if x0.shape != cost.shape:
            raise InvalidInputError(
                f"sinkhorn: x0 is None or a plan like the cost, {cost.shape}; it has shape {x0.shape}."
            )
        # a plan has log P = u + v − C/ε: the column of the largest least entry tells u up to a constant
        potential = cost / epsilon + jnp.log(jnp.maximum(x0, jnp.finfo(x0.dtype).tiny))
        return potential[:, jnp.argmax(jnp.min(x0, axis=0))]

    def step(self, state: jax.Array, theta: Any) -> jax.Array:
        cost, a, _, epsilon = _arrays(theta)
        v = self._columns(state, theta)
        return jnp.log(a) - log_sum_exp(v - cost / epsilon, axis=1)

    def output(self, y: jax.Array, theta: Any) -> jax.Array:
        cost, _, _, epsilon = _arrays(theta)
        return jnp.exp(y[:, None] + self._columns(y, theta) - cost / epsilon)

    def _columns(self, u: jax.Array, theta: Any) -> jax.Array:
        cost, _, b, epsilon = _arrays(theta)
        return jnp.log(b) - log_sum_exp(u[:, None] - cost / epsilon, axis=0)

    def solve(self, x0: Any, theta: Any, tol: Any, max_steps: int) -> Run:
        return absorbed(self.init(x0, theta), *_arrays(theta), tol, max_steps)

    def solution(self, y: jax.Array, theta: Any, **linear: Any) -> jax.Array:
        if linear:
            raise InvalidInputError(
                f"sinkhorn: implicit solves its own positive definite system; leave out "
                f"{', '.join(linear)}."
            )
        return plan_with_derivative(jax.lax.stop_gradient(y), *_arrays(theta))

    def solution_near(self, y: jax.Array, theta: Any) -> jax.Array:
        return self.solution(y, theta)

    def invariance(self, y: jax.Array, theta: Any) -> np.ndarray:
        return np.ones((np.size(y), 1))

    def validate(self, x0: Any, theta: Any) -> None:
        cost, *_ = _arrays(theta)  # its shapes are checked there
        _, a, b, epsilon = (np.asarray(t, np.float64) for t in theta)
        if not epsilon > 0:
            raise InvalidInputError(f"sinkhorn: epsilon={float(epsilon):.6g} must be positive.")
        for marginal, name in ((a, "a"), (b, "b")):
            if not np.all(marginal > 0):
                i = int(np.argmin(marginal))
                raise InvalidInputError(
                    f"sinkhorn: {name}[{i}] = {marginal[i]:.6g} must be positive; drop the points without mass."
                )
        gap = abs(a.sum() - b.sum())
        if gap > _precision(cost.dtype) * a.sum():
            raise InvalidInputError(
                f"sinkhorn: the marginals have different sums, {a.sum():.9g} and {b.sum():.9g}; "
                "scale them alike."
            )


def _arrays(theta: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    try:
        cost, a, b, epsilon = theta
    except (TypeError, ValueError):
        raise InvalidInputError("sinkhorn: theta is (cost, a, b, epsilon).") from None
    dtype = jnp.result_type(float, *(jnp.asarray(t) for t in theta))
    cost, a, b, epsilon = (jnp.asarray(t, dtype) for t in (cost, a, b, epsilon))
    if cost.ndim != 2 or a.shape != cost.shape[:1] or b.shape != cost.shape[1:] or epsilon.ndim:
        raise InvalidInputError(
            "sinkhorn: theta is (cost, a, b, epsilon) of shapes (n, m), (n,), (m,) and (); got "
            f"{cost.shape}, {a.shape}, {b.shape} and {epsilon.shape}."
        )
    # where nothing can be raised, bad data give NaN
    c, d, size = jax.lax.stop_gradient(
        (a, b, epsilon)
    )  # no kinks: data are good or bad nearby, too
    alike = jnp.abs(jnp.sum(c) - jnp.sum(d)) <= _precision(dtype) * jnp.sum(c)
    good = alike & (size > 0) & (jnp.min(c) > 0) & (jnp.min(d) > 0)
    return cost, a, b, jnp.where(good, epsilon, jnp.nan)


def _precision(dtype: Any) -> float:
    """How far the sums of the marginals may differ, relatively: some thousand units of round-off."""
    return max(1e-9, 2000 * machine_epsilon(dtype))


def sinkhorn() -> Algorithm:
    """min_P ⟨C, P⟩ + ε Σ P_ij (log P_ij − 1) over P ≥ 0 with P 1 = a, Pᵀ1 = b.

    u⁺ = log a − log Σ_j exp(v_j − C_ij/ε),  v = log b − log Σ_i exp(u_i − C_ij/ε), both in the log
    domain; the plan is P = exp(u_i + v_j − C_ij/ε). θ is (cost, a, b, ε), all differentiable; x0 is None
    or a plan. u is determined up to a constant: derivatives are those of the quotient, for marginals
    along Σȧ = Σḃ (beyond, those of (a Σb/Σa, b)).

    ``implicit`` iterates with the potentials absorbed into the kernel, two products with a matrix a step,
    and solves S = diag a − P diag(1/b) Pᵀ + c 11ᵀ by one Cholesky factor; its tolerance is that of the
    relative error of every marginal.

    Returns:
        An Algorithm with state u (n,) and the plan (n, m) as output.

    Raises:
        InvalidInputError: when called, for marginals that are not positive or do not sum alike, ε ≤ 0,
            or other shapes.

    Source: Cuturi (2013); Pauwels, Vaiter, The derivatives of Sinkhorn–Knopp converge (SIAM J. Optim.
    2023); absorption as Schmitzer, Stabilized sparse scaling algorithms (2019).

    >>> import jax.numpy as jnp, conservax as cx
    >>> half = jnp.array([0.5, 0.5])
    >>> P = cx.iterates.implicit(cx.iterates.sinkhorn())(None, (1 - jnp.eye(2), half, half, 1.0))
    >>> [round(float(p), 4) for p in P[0]]
    [0.3655, 0.1345]
    """
    return Sinkhorn()
