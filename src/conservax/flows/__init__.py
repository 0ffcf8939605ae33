"""Flows of ordinary differential equations with kinks."""

from .odeint import odeint

__all__ = ["odeint"]
