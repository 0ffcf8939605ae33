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
from .along import Piggyback, piggyback
from .at_the_limit import implicit
from .contract import Algorithm, StepBound
from .contraction import Contraction
from .estimator import Estimator
from .iteration_check import IterationReport, check
from .last_steps import one_step, truncated
from .running import Run, Stats
from .set_recursion import PiggybackSet, piggyback_set
from .spectral_radius import SpectralRadius, joint_spectral_radius
from .unrolled import unroll

__all__ = [
    "Algorithm",
    "Contraction",
    "Estimator",
    "IterationReport",
    "Piggyback",
    "PiggybackSet",
    "Run",
    "SpectralRadius",
    "Stats",
    "StepBound",
    "Transport",
    "admm",
    "chambolle_pock",
    "check",
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
    "piggyback_set",
    "sinkhorn",
    "truncated",
    "unroll",
]
