"""Differentiable cone and quadratic programs, with certificates."""

from ..cones.arrange import Arrangement, arrange
from ..cones.table import Cones
from ..solution import Status
from ..solvers import Solver, WarmStart
from .answer import ProgramInfo, ProgramSolution
from .certificates.program_report import ProgramReport, ProgramWitness
from .cone_program import ConeProgram
from .cvxpy.layer import CvxpyLayer
from .quadratic_program import QuadraticProgram

__all__ = [
    "Arrangement",
    "ConeProgram",
    "Cones",
    "CvxpyLayer",
    "ProgramInfo",
    "ProgramReport",
    "ProgramSolution",
    "ProgramWitness",
    "QuadraticProgram",
    "Solver",
    "Status",
    "WarmStart",
    "arrange",
]
