"""Certificates: is every element of a set of matrices invertible, and if not, which one breaks."""

from .certificate import Certificate, Rigour, Verdict, Witness, Work
from .composition import certify_composition, certify_stack
from .conic import ConicFinding, certify_conic
from .ladder import certify
from .structural import Monotone, certify_contraction, certify_monotone

__all__ = [
    "Certificate",
    "ConicFinding",
    "Monotone",
    "Rigour",
    "Verdict",
    "Witness",
    "Work",
    "certify",
    "certify_composition",
    "certify_conic",
    "certify_contraction",
    "certify_monotone",
    "certify_stack",
]
