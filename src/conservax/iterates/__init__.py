"""Differentiating algorithms: unrolled, piggyback, one-step, implicit; and what their limits are."""

from .algorithms import (
    Transport,
    admm,
    chambolle_pock,
    douglas_rachford,
    fista,
    forward_backward,
    from_step,
    gradient_descent,
    heavy_ball,
    newton,
    sinkhorn,
)
from .contract import Algorithm, StepBound
from .estimator import Estimator
from .implicit import implicit
from .piggyback import Piggyback, piggyback
from .running import Run, Stats
from .spectral_radius import SpectralRadius, joint_spectral_radius
from .truncated import one_step, truncated
from .unroll import unroll

__all__ = [
    "Algorithm",
    "Estimator",
    "Piggyback",
    "Run",
    "SpectralRadius",
    "Stats",
    "StepBound",
    "Transport",
    "admm",
    "chambolle_pock",
    "douglas_rachford",
    "fista",
    "forward_backward",
    "from_step",
    "gradient_descent",
    "heavy_ball",
    "implicit",
    "joint_spectral_radius",
    "newton",
    "one_step",
    "piggyback",
    "sinkhorn",
    "truncated",
    "unroll",
]
