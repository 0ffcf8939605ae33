"""Certificates: is every element of a set of matrices invertible, and if not, which one breaks."""

from .certificate import Certificate, Rigour, Verdict, Witness, Work
from .ladder import certify

__all__ = ["Certificate", "Rigour", "Verdict", "Witness", "Work", "certify"]
