"""Implicit functions: the derivative of a solution, as a number, as a set, and with a verdict."""

from .argmin import argmin
from .check import CheckReport, check
from .jacobian import implicit_jacobian, inverse_jacobian
from .monitor import Monitor, Observation, monitor
from .polish import polish
from .root import custom_fixed_point, custom_root, root_jvp, root_vjp

__all__ = [
    "CheckReport",
    "Monitor",
    "Observation",
    "argmin",
    "check",
    "custom_fixed_point",
    "custom_root",
    "implicit_jacobian",
    "inverse_jacobian",
    "monitor",
    "polish",
    "root_jvp",
    "root_vjp",
]
