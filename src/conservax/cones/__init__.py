"""Cones: projections and their Clarke Jacobians, and products in the order of a program's rows."""

from .arrange import Arrangement, arrange
from .cone import ClarkeJacobian, Cone, Dual, Product
from .kinds.exponential import Exponential
from .kinds.orthant import NonNegative
from .kinds.power import Power
from .kinds.second_order import SecondOrder
from .kinds.semidefinite import PositiveSemidefinite
from .kinds.zero import Free, Zero
from .table import Cones

__all__ = [
    "Arrangement",
    "ClarkeJacobian",
    "Cone",
    "Cones",
    "Dual",
    "Exponential",
    "Free",
    "NonNegative",
    "PositiveSemidefinite",
    "Power",
    "Product",
    "SecondOrder",
    "Zero",
    "arrange",
]
