"""Flows of ordinary differential equations with kinks, and monotone inclusions."""

from .inclusion import certify_inclusion, inclusion
from .odeint import odeint
from .sensitivity import SensitivitySet, sensitivity_set

__all__ = ["SensitivitySet", "certify_inclusion", "inclusion", "odeint", "sensitivity_set"]
