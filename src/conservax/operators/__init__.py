"""Projections and proximal operators that know their Clarke Jacobians."""

from . import cones, projections, proximal

__all__ = ["cones", "projections", "proximal"]
