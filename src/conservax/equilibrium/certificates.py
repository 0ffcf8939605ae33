"""What is guaranteed of an equilibrium layer by construction, and how far its predictions are safe."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from ..invertibility import (
    Certificate,
    Monotone,
    Verdict,
    certify_contraction,
    certify_monotone,
)
from ..invertibility.bounds import two_norm_bound
from ..numerics import machine_epsilon

_SLACK = 1 + 1e-14  # more than the few roundings of a scalar bound


@dataclass(frozen=True)
class EquilibriumCertificate(Certificate):
    """A Certificate of I − JW for every Jacobian J of the activation, at every input.

    Attributes:
        lipschitz: a bound of ‖z(x) − z(x′)‖₂/‖x − x′‖₂; None where the verdict is not PROVEN.
        margin: a lower bound of σ_min(I − JW), 1/(1 + ‖W‖/m) for a monotone layer.
    """

    lipschitz: float | None = None


def norm_bound(matrix: Any) -> float:
    """An upper bound of ‖X‖₂ for a matrix X, a little above it; rounding accounted for.

    Raises InvalidInputError if X holds NaN or infinity.
    """
    matrix = np.asarray(matrix)
    if not np.all(np.isfinite(matrix)):
        raise InvalidInputError("a weight holds NaN or infinity: training has diverged.")
    return two_norm_bound(np.asarray(matrix, np.float64))


def monotone_certificate(m: float, norm: float, drive: float | None) -> EquilibriumCertificate:
    """PROVEN for I − sym(W) ≽ m I: σ_min(I − JW) ≥ 1/(1 + ‖W‖/m), ‖Δz‖ ≤ (‖U‖/m)‖Δx‖.

    ``norm`` bounds ‖W‖₂, ``drive`` the norm of U.

    Source: docs/theory.md#monotone-equilibria.
    """
    found = certify_monotone(Monotone(m, norm=norm))
    proven = found.verdict == Verdict.PROVEN
    return _with_lipschitz(found, None if drive is None or not proven else drive / m * _SLACK)


def contraction_certificate(modulus: float | None, drive: float | None) -> EquilibriumCertificate:
    """PROVEN for a cell with ‖∂cell/∂z‖ ≤ modulus < 1, with ‖Δz‖ ≤ drive/(1 − modulus)‖Δx‖; or UNKNOWN."""
    if modulus is None:
        return EquilibriumCertificate(
            verdict=Verdict.UNKNOWN,
            method="no bound was given",
            reason="nothing is known of the cell's Lipschitz constant in z.",
            margin=None,
            sigma_min=math.nan,
            witness=None,
            undecided="a cell with a number ``lipschitz`` below 1, or the kinks at one input (check).",
        )
    found = certify_contraction(modulus)
    proven = found.verdict == Verdict.PROVEN
    return _with_lipschitz(
        found, None if drive is None or not proven else drive / (1 - modulus) * _SLACK
    )


def _with_lipschitz(found: Certificate, lipschitz: float | None) -> EquilibriumCertificate:
    parts = {f.name: getattr(found, f.name) for f in fields(Certificate)}
    return EquilibriumCertificate(**parts, lipschitz=lipschitz)


def rounded_modulus(m: float, W: Any) -> float:
    """m less what rounding in W = ((1 − m)I − AᵀA) + (B − Bᵀ), a matrix, can have taken from it.

    |fl(AᵀA) − AᵀA| ≤ γ |A|ᵀ|A|, whose norm is at most ‖A‖_F² = n(1 − m) − tr W; the last sum rounds each
    entry once, and B − Bᵀ is antisymmetric to the last bit.
    """
    eps = machine_epsilon(W.dtype)
    W = np.asarray(W, np.float64)
    n = len(W)
    gamma = (n + 4) * eps / (1 - (n + 4) * eps)
    squares = n * (1 - m) - float(np.trace(W))
    entries = abs(1 - m) + float(np.linalg.norm(W))
    return m - 1.1 * (gamma * max(squares, 0.0) + eps * entries)


def certified_radius(
    logits: jax.Array, head: jax.Array, lipschitz: float, error: Any = 0.0
) -> tuple[jax.Array, jax.Array]:
    """(class, radius): no input within the radius (2-norm) has another class.

    For logits = head z(x) + bias with ‖z(x) − z(x′)‖ ≤ L‖x − x′‖: the least over other classes k of
    (gap_k − ‖w_y − w_k‖ error) / (L ‖w_y − w_k‖), at least 0, and 0 where the logits are NaN.

    Args:
        logits: (classes,), of one input; ``jax.vmap`` for a batch. head: (classes, units).
        lipschitz: L, such as ``layer.certificate.lipschitz``.
        error: a bound of ‖z − z*‖, such as ``layer.solve(x).stats.error``.

    Source: Tsuzuku, Sato, Sugiyama, Lipschitz-margin training (NeurIPS 2018); Pabbaraju, Winston,
    Kolter, Estimating Lipschitz constants of monotone deep equilibrium models (ICLR 2021).

    >>> import jax.numpy as jnp, conservax as cx
    >>> label, radius = cx.equilibrium.certified_radius(jnp.array([3.0, 1.0]), jnp.eye(2), 1.0)
    >>> int(label), round(float(radius), 4)
    (0, 1.4142)
    """
    if logits.ndim != 1 or head.ndim != 2 or len(head) != len(logits):
        raise InvalidInputError(
            f"logits has shape {logits.shape} and head {head.shape}; they must be (classes,) and "
            "(classes, units). For a batch use jax.vmap."
        )
    label = jnp.argmax(logits)
    apart = jnp.sqrt(jnp.sum((head[label] - head) ** 2, axis=1))
    other = (jnp.arange(len(logits)) != label) & (apart > 0)
    gaps = logits[label] - logits - apart * error
    radii = jnp.where(other, gaps / jnp.where(other, lipschitz * apart, 1), jnp.inf)
    # a class with the same weights is apart by the bias alone, or not at all
    tied = (jnp.arange(len(logits)) != label) & (apart == 0) & (logits >= logits[label])
    radius = jnp.where(jnp.any(tied), 0.0, jnp.min(radii))
    return label, jnp.where(jnp.isnan(radius), 0.0, jnp.maximum(radius, 0.0))
