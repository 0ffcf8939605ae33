"""``QuadraticProgram``: a convex quadratic program as a layer."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ..arrays.namespace import Array, namespace
from ..cones.table import Cones
from ..errors import InvalidInputError
from ..solvers.matrices import SparseMatrix
from .answer import ProgramSolution
from .certificates.program_report import ProgramReport
from .cone_inputs import is_sparse, known_as_numpy, own_sparse, stacked
from .cone_program import ConeProgram, SolverName


@dataclass(frozen=True)
class QuadraticProgram:
    """min ½xᵀQx + qᵀx  subject to  Ax = b,  Gx ≤ h.

    Attributes: as of ``ConeProgram``; dual and slack hold the equalities first.

    Source: docs/theory.md#quadratic-programs; Amos, Kolter, OptNet (2017), for the layer.

    >>> import jax, jax.numpy as jnp
    >>> from conservax.programs import QuadraticProgram
    >>> def share(q):  # the projection of −q onto the probability simplex
    ...     eye, one = jnp.eye(2), jnp.ones(1)
    ...     return QuadraticProgram()(eye, q, jnp.ones((1, 2)), one, -eye, jnp.zeros(2)).primal
    >>> share(jnp.array([0.0, -0.5])).round(4).tolist()
    [0.25, 0.75]
    >>> jax.jacobian(share)(jnp.array([0.0, -0.5])).round(4).tolist()
    [[-0.5, 0.5], [0.5, -0.5]]
    """

    tolerance: float | None = None
    max_iterations: int | None = None
    selection: Literal["lower", "upper"] = "lower"
    solver: SolverName = "auto"
    perturbed: float | None = None
    infeasible: Literal["closest"] | None = None

    def __post_init__(self) -> None:
        self._over(Cones(nonnegative=1))  # which refuses what it does not know

    def __call__(
        self, Q: Any, q: Any, A: Any = None, b: Any = None, G: Any = None, h: Any = None
    ) -> ProgramSolution:
        """Solve one program, or a batch of them; A, b and G, h may be left out.

        Args:
            Q: (..., n, n), positive semidefinite. q: (..., n). A: (..., p, n). b: (..., p).
            G: (..., m, n). h: (..., m). Batch axes broadcast. Q, A and G may be sparse, as P and A of
                ``ConeProgram``.

        Returns:
            ProgramSolution; the dual is (ν, λ) with Qx + q + Aᵀν + Gᵀλ = 0, λ ≥ 0.

        Raises:
            As ``ConeProgram``.
        """
        program, data = self.conic(Q, q, A, b, G, h)
        return program(*data)

    def conic(
        self, Q: Any, q: Any, A: Any = None, b: Any = None, G: Any = None, h: Any = None
    ) -> tuple[ConeProgram, tuple[Any, Array, Array, Array]]:
        """The same program as a ``ConeProgram`` and its data P, c, A, b."""
        q = known_as_numpy(q)
        if q.ndim < 1:
            raise InvalidInputError(f"q is a vector, but has shape {q.shape}.")
        A, b = _pair("A", A, "b", b, q)
        G, h = _pair("G", G, "h", h, q)
        cones = Cones(zero=b.shape[-1], nonnegative=h.shape[-1])
        return self._over(cones), (Q, q, _stack(A, G, 2), _stack(b, h, 1))

    def _over(self, cones: Cones) -> ConeProgram:
        return ConeProgram(
            *(cones, self.tolerance, self.max_iterations, self.selection, self.solver),
            perturbed=self.perturbed,
            infeasible=self.infeasible,
        )

    def check(
        self, Q: Any, q: Any, A: Any = None, b: Any = None, G: Any = None, h: Any = None
    ) -> ProgramReport:
        """As ``ConeProgram.check``; rows count the equalities first."""
        program, data = self.conic(Q, q, A, b, G, h)
        return program.check(*data)


def _pair(name: str, A: Any, other: str, b: Any, q: Array) -> tuple[Array, Array]:
    if (A is None) != (b is None):
        raise InvalidInputError(f"{name} and {other} come together; one of them is missing.")
    if A is None:
        kind = q.dtype if jnp.issubdtype(q.dtype, jnp.floating) else jnp.result_type(float)
        return np.zeros((0, q.shape[-1]), kind), np.zeros((0,), kind)
    A = own_sparse(name, A) if is_sparse(A) else known_as_numpy(A)
    b = known_as_numpy(b)
    rows = b.shape[-1] if b.ndim else 0
    if b.ndim < 1 or A.shape[-2:] != (rows, q.shape[-1]):
        raise InvalidInputError(
            f"{name} has shape {A.shape} and {other} {b.shape}: with {q.shape[-1]} variables they must "
            f"be (..., rows, {q.shape[-1]}) and (..., rows)."
        )
    return A, b


def _stack(upper: Array, lower: Array, core: int) -> Array:
    """One below the other, batch axes broadcast."""
    if isinstance(upper, SparseMatrix) or isinstance(lower, SparseMatrix):
        return stacked(upper, lower)
    try:
        lead = np.broadcast_shapes(upper.shape[:-core], lower.shape[:-core])
    except ValueError:
        raise InvalidInputError(
            f"the batch axes {upper.shape[:-core]} and {lower.shape[:-core]} do not broadcast."
        ) from None
    parts = [part for part in (upper, lower) if part.shape[-core]]
    if len(parts) == 1:  # nothing to stack
        return parts[0]
    xp = namespace(*parts)
    parts = [xp.broadcast_to(p, (*lead, *p.shape[-core:])) for p in (upper, lower)]
    return xp.concatenate(parts, axis=-core)
