"""Differentiate through anything nonsmooth, and know when to trust the answer."""

from . import calculus, errors, invertibility, programs, projections
from .calculus import ConservativeJacobian, Kink, conservative_jacobian, norm, select, sites
from .implicit import (
    CheckReport,
    Monitor,
    Observation,
    argmin,
    check,
    custom_fixed_point,
    custom_root,
    implicit_jacobian,
    inverse_jacobian,
    monitor,
    polish,
    root_jvp,
    root_vjp,
)
from .invertibility import Certificate, Verdict, Witness
from .operators import proximal

__all__ = [
    "Certificate",
    "CheckReport",
    "ConservativeJacobian",
    "Kink",
    "Monitor",
    "Observation",
    "Verdict",
    "Witness",
    "argmin",
    "calculus",
    "check",
    "conservative_jacobian",
    "custom_fixed_point",
    "custom_root",
    "errors",
    "implicit_jacobian",
    "inverse_jacobian",
    "invertibility",
    "monitor",
    "norm",
    "polish",
    "programs",
    "projections",
    "proximal",
    "root_jvp",
    "root_vjp",
    "select",
    "sites",
]
