"""Celer, where it is installed, as a quick start for large quadratic ℓ1 problems."""

import functools
import importlib.util
import warnings
from typing import Any

import numpy as np


@functools.cache
def available() -> bool:
    """Whether celer can be imported."""
    return importlib.util.find_spec("celer") is not None


def celer_start(
    X: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    tol: float,
    rho: float = 0.0,
) -> np.ndarray:
    """argmin ‖y − Xβ‖²/2 + Σ λ_j |β_j| + ρ ‖β‖²/2 to a duality gap of ``tol`` ‖y‖²/2, λ = ``weights`` > 0.

    With a ridge, all λ_j are the same: celer's weights scale both penalties.

    Source: Massias, Gramfort, Salmon, *Celer: a fast solver for the Lasso with dual extrapolation* (2018).
    """
    from celer.homotopy import celer_path

    n = len(y)
    scale = float(weights.max())
    size = float(np.linalg.norm(y))
    both = scale / size + rho
    arguments: dict[str, Any] = {
        "alphas": [both / n],
        "l1_ratio": scale / size / both,
        "weights": weights / scale,
        "coef_init": np.ascontiguousarray(start) / size,
        "tol": tol / 2,  # celer's own is relative to ‖y‖²
        "max_iter": 50,
        "p0": 100,
        "prune": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it leaves is finished by the working set
        _, coefs, _ = celer_path(np.asfortranarray(X), y / size, "lasso", **arguments)
    return coefs[:, 0] * size
