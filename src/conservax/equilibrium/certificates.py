"""What is guaranteed of an equilibrium layer by construction, and how far its predictions are safe."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..invertibility import (
    Certificate,
    Monotone,
    Verdict,
    certify_contraction,
    certify_monotone,
    two_norm_bound,
)
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
