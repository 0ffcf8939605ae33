"""Forward solvers, batched; each returns a ``Solution(value, status, stats)``."""

from .cones import Cones
from .interior_point import ConicPoint, InteriorPointStats, interior_point
from .solution import Solution, Status

__all__ = [
    "Cones",
    "ConicPoint",
    "InteriorPointStats",
    "Solution",
    "Status",
    "interior_point",
]
