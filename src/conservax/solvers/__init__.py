"""Forward solvers, batched; each returns a ``Solution(value, status, stats)``."""

from .equilibrate import ConicPoint
from .host import Solver
from .interior_point import interior_point
from .termination import InteriorPointStats
from .warm_start import WarmStart

__all__ = [
    "ConicPoint",
    "InteriorPointStats",
    "Solver",
    "WarmStart",
    "interior_point",
]
