"""Penalties of the coefficients; a new one is one short class (``Penalty``)."""

from .base import Bends, Face, Kinks, Penalty, Slope
from .box import Box
from .concave import Concave
from .group import GroupL2
from .l1 import L1
from .slope import SortedL1

__all__ = [
    "L1",
    "Bends",
    "Box",
    "Concave",
    "Face",
    "GroupL2",
    "Kinks",
    "Penalty",
    "Slope",
    "SortedL1",
]
