"""Certificates: is every element of a set of matrices invertible, and if not, which one breaks."""

from .certificate import Certificate, Verdict, Witness
from .vertices import certify_by_vertices

__all__ = ["Certificate", "Verdict", "Witness", "certify_by_vertices"]
