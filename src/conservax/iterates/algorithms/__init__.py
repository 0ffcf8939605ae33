"""The algorithms, one a file."""

from .admm import admm
from .chambolle_pock import chambolle_pock
from .douglas_rachford import douglas_rachford
from .fista import fista
from .forward_backward import forward_backward
from .from_step import from_step
from .gradient_descent import gradient_descent
from .heavy_ball import heavy_ball
from .newton import newton
from .sinkhorn import Transport, sinkhorn

__all__ = [
    "Transport",
    "admm",
    "chambolle_pock",
    "douglas_rachford",
    "fista",
    "forward_backward",
    "from_step",
    "gradient_descent",
    "heavy_ball",
    "newton",
    "sinkhorn",
]
