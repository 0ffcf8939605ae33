"""Programs, kinks, selections: what the derivative of a program can be."""

from .definability import Definability, definability
from .implicit_node import implicit_node
from .jacobian import conservative_jacobian
from .jacobian_set import ConservativeJacobian
from .operations.kinks import Entry, register
from .operations.mixtures import carrying, mix
from .operations.norm import norm
from .selection import select, sites
from .sets.abs_normal import AbsNormal, Kink

__all__ = [
    "AbsNormal",
    "ConservativeJacobian",
    "Definability",
    "Entry",
    "Kink",
    "carrying",
    "conservative_jacobian",
    "definability",
    "implicit_node",
    "mix",
    "norm",
    "register",
    "select",
    "sites",
]
