"""Differentiable cone and quadratic programs, with certificates."""

from ..solvers import Cones, Status
from .certificate import ProgramReport, ProgramWitness
from .cone_program import ConeProgram, ProgramInfo, ProgramSolution
from .quadratic_program import QuadraticProgram

__all__ = [
    "ConeProgram",
    "Cones",
    "ProgramInfo",
    "ProgramReport",
    "ProgramSolution",
    "ProgramWitness",
    "QuadraticProgram",
    "Status",
]
