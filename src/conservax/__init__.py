"""Differentiate through anything nonsmooth, and know when to trust the answer."""

from . import calculus, errors
from .calculus import ConservativeJacobian, Kink, conservative_jacobian, select, sites

__all__ = ["ConservativeJacobian", "Kink", "calculus", "conservative_jacobian", "errors", "select", "sites"]
