"""Training with guarantees: step sizes with proofs, optimisers with theorems, criticality."""

from . import schedules
from .composition import Chain, chain, clip, clip_by_global_norm, weight_decay
from .criticality import Criticality, criticality, escape
from .guarantee import Guarantee, Hypothesis, guarantee
from .integral import Expectation, ExpectedJacobian, Finite, expected, finite
from .optimisers import (
    Optimiser,
    adagrad_norm,
    heavy_ball,
    incremental,
    inertial_newton,
    random_start,
    sgd,
)
from .schedules import Schedule

__all__ = [
    "Chain",
    "Criticality",
    "Expectation",
    "ExpectedJacobian",
    "Finite",
    "Guarantee",
    "Hypothesis",
    "Optimiser",
    "Schedule",
    "adagrad_norm",
    "chain",
    "clip",
    "clip_by_global_norm",
    "criticality",
    "escape",
    "expected",
    "finite",
    "guarantee",
    "heavy_ball",
    "incremental",
    "inertial_newton",
    "random_start",
    "schedules",
    "sgd",
    "weight_decay",
]
