"""Nonsmooth minimisation with certificates."""

from .certificate import GoldsteinCertificate
from .minimise import Minimum, Statistics, minimise

__all__ = ["GoldsteinCertificate", "Minimum", "Statistics", "minimise"]
