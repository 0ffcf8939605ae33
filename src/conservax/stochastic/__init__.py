"""Training with guarantees: step sizes with proofs, optimisers with theorems, criticality."""

from . import schedules
from .criticality import Criticality, criticality, escape
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
    "Criticality",
    "Optimiser",
    "Schedule",
    "adagrad_norm",
    "criticality",
    "escape",
    "heavy_ball",
    "incremental",
    "inertial_newton",
    "random_start",
    "schedules",
    "sgd",
]
