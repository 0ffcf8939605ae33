"""The cones of ``conservax.cones``, under the name that they had among the operators."""

from ..cones import (
    ClarkeJacobian,
    Cone,
    Dual,
    Exponential,
    Free,
    NonNegative,
    PositiveSemidefinite,
    Power,
    Product,
    SecondOrder,
    Zero,
)

__all__ = [
    "ClarkeJacobian",
    "Cone",
    "Dual",
    "Exponential",
    "Free",
    "NonNegative",
    "PositiveSemidefinite",
    "Power",
    "Product",
    "SecondOrder",
    "Zero",
]
