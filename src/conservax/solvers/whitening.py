"""A strictly convex program in the metric of its P, where P is the identity.

With P = LLᵀ, x = L⁻ᵀx̂ the program reads  min ½‖x̂‖² + (L⁻¹c)ᵀx̂  subject to  AL⁻ᵀ x̂ + s = b: nothing is
multiplied by P any more, and with fewer rows than unknowns a Newton step is a system of rows.
"""

from typing import NamedTuple

from ..arrays.lapack import cholesky
from ..arrays.namespace import Array, transpose
from .equilibrate import ConicPoint, Data, WhiteData
from .matrices import times, times_transposed
from .triangular import triangular_inverse


class Whitening(NamedTuple):
    """X ≈ L⁻¹ of each item, (batch, n, n); x = Xᵀx̂."""

    X: Array

    def apply(self, data: Data) -> WhiteData:
        """The program in terms of x̂."""
        return WhiteData(times(self.X, data.c), data.A @ transpose(self.X), data.b)

    def undo(self, point: ConicPoint) -> ConicPoint:
        """(x, y, s)."""
        return point._replace(primal=times_transposed(self.X, point.primal))


def whiten(P: Array) -> Whitening:
    """For positive definite P (batch, n, n); NaN in an item where it is not."""
    return Whitening(triangular_inverse(cholesky(P)))
