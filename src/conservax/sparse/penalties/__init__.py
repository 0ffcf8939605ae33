"""Penalties of the coefficients; a new one is one short class (``Penalty``)."""

from .base import Bends, Face, Kinks, Penalty, Slope
from .group import GroupL2
from .l1 import L1

__all__ = ["L1", "Bends", "Face", "GroupL2", "Kinks", "Penalty", "Slope"]
