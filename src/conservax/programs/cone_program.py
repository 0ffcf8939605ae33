"""``ConeProgram``: a quadratic objective over a product of symmetric cones, as a layer."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays.namespace import Array
from ..cones.table import Cones
from ..errors import (
    InvalidInputError,
    UnsupportedOperationError,
)
from ..numerics import machine_epsilon
from ..solvers import Solver, WarmStart, host
from ..solvers.equilibrate import ConicPoint, Data
from ..solvers.matrices import Matrix, SparseMatrix, dense, symmetric_part
from ..solvers.termination import measure_data
from ..solvers.warm_start import WeakStarts
from .answer import ProgramSolution, of_device, of_host, raise_status
from .certificates.certificate import certify_program
from .certificates.program_report import ProgramReport
from .closest import closest_feasible
from .cone_inputs import (
    as_data,
    as_operands,
    bytes_of_item,
    in_double,
    is_definite,
    is_sparse,
    items_of,
)
from .forward import Outcome, Settings, active_pieces, measure_point, without_idle
from .host.calls import Form
from .host.map import HostOutcome, host_solution_map, solve_now
from .perturbed import looking_ahead
from .pieces import in_pieces, is_traced, piece_size
from .solution_map import solution_map
from .system.sparse_system import RECENT_FACTORS

_LARGEST_REPORT = 4_000_000  # entries of A
SolverName: TypeAlias = Literal["auto", "interior_point", "moreau", "clarabel", "scs"]


@dataclass(frozen=True)
class ConeProgram:
    """min ½xᵀPx + cᵀx  subject to  Ax + s = b,  s ∈ K.

    Attributes:
        cones: K, in SCS order and scaling.
        tolerance: of the solver, before its answer is polished on the active pieces; its own by default.
        max_iterations: of the solver; its own by default.
        selection: which element the derivative uses where a constraint is weakly active: "lower"
            leaves it out, "upper" keeps it in.
        solver: "auto" takes, on a CPU, the host engine with what is installed: Moreau for dense equations
            and inequalities, Clarabel for everything else, SCS before it for sparse data with large matrices;
            on an accelerator, for dense data and symmetric cones, "interior_point", our batched method,
            compiled by XLA. "moreau", "clarabel" and "scs" ask for one on the host.
        auxiliary: indices of variables that may be left free by the solution: where neither P nor an
            active row touches one, the derivative leaves it out, as does the certificate.
        perturbed: τ > 0 for linear programs, whose vertices do not move with c: the gradient in c for a
            cotangent g of the primal is then (x(c + τg) − x(c))/τ, in reverse mode; whatever P is, so
            that in a strictly convex program it only approximates the derivative. See
            docs/programs.md. None, the default, is the derivative.
        infeasible: "closest", for equations and inequalities with dense data: a program without a
            feasible point is answered by the closest one that has, b moved least in the ℓ2 norm, with
            the status CLOSEST; see docs/programs.md. None, the default, is NaN or an error.
        warm_start: a ``WarmStart``, which keeps solutions to start from. In double precision, for
            "clarabel" and "scs"; the batched interior-point method is faster from nothing.

    Source: docs/theory.md#cone-programs for the derivative and the certificate.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> from conservax.programs import Cones, ConeProgram
    >>> program = ConeProgram(Cones(nonnegative=1))  # the projection onto x ≥ 0
    >>> project = lambda p: program(jnp.eye(1), -p, -jnp.eye(1), jnp.zeros(1)).primal
    >>> project(jnp.array([2.0])).tolist(), jax.jacobian(project)(jnp.array([2.0])).tolist()
    ([2.0], [[1.0]])
    """

    cones: Cones
    tolerance: float | None = None
    max_iterations: int | None = None
    selection: Literal["lower", "upper"] = "lower"
    solver: SolverName = "auto"
    auxiliary: tuple[int, ...] = ()
    warm_start: WarmStart | None = None
    perturbed: float | None = None
    infeasible: Literal["closest"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cones, Cones):
            raise InvalidInputError(
                f"cones must be a conservax.programs.Cones, but is {self.cones!r}. Write "
                "Cones(zero=…, nonnegative=…, second_order=(…), semidefinite=(…))."
            )
        if self.selection not in ("lower", "upper"):
            raise InvalidInputError(
                f'selection must be "lower" or "upper", but is {self.selection!r}.'
            )
        if not isinstance(self.warm_start, WarmStart | None):
            raise InvalidInputError(
                f"warm_start must be a conservax.programs.WarmStart() or None, but is {self.warm_start!r}."
            )
        tau = self.perturbed
        if tau is not None and not (isinstance(tau, Real | np.number) and 0 < tau < math.inf):
            raise InvalidInputError(
                f"perturbed is how far c is moved along a cotangent, 0 < τ < ∞, but is {self.perturbed!r}."
            )
        if self.infeasible not in (None, "closest"):
            raise InvalidInputError(
                f'infeasible must be "closest" or None, but is {self.infeasible!r}.'
            )
        if self.infeasible and not self.cones.polyhedral:
            raise InvalidInputError(
                'infeasible="closest" takes equations and inequalities alone: over other cones the '
                "closest program need not exist. Add a slack variable and its norm to the objective."
            )
        choose_solver(self.solver, self.cones)

    def __call__(self, P: Any, c: Any, A: Any, b: Any) -> ProgramSolution:
        """Solve one program, or a batch of them.

        Args:
            P: (..., n, n), positive semidefinite; only its symmetric part counts. Where one P, known
                when this is traced, serves all items and is definite, the solver uses it.
            c: (..., n). A: (..., m, n). b: (..., m). Batch axes broadcast against each other.
                P and A may be sparse, BCOO or SciPy's, with one pattern for all items; derivatives
                are then in the stored entries.

        Returns:
            ProgramSolution, differentiable in every datum, under jit, vmap, jvp, vjp and their
            compositions. An item that could not be solved is NaN, with its status.

        Raises:
            InvalidInputError: shapes that do not fit, patterns that vary, NaN, or P not positive
                semidefinite (the last two only where values are at hand).
            InfeasibleError, UnboundedError, NotConvergedError: called eagerly without batch axes.
        """
        if self.perturbed is not None and is_traced((P, c, A, b)):
            plain = dataclasses.replace(self, perturbed=None)
            return looking_ahead(plain, float(self.perturbed))(P, c, A, b)
        sparse = is_sparse(P) or is_sparse(A)
        if self.infeasible and self.cones.size:
            return self._closest(sparse, P, c, A, b)
        solver = choose_solver(self.solver, self.cones, sparse)
        if solver == Solver.INTERIOR_POINT:
            return self._on_device(P, c, A, b)
        P, c, A, b, dtype, lead = as_operands(P, c, A, b, self.cones.size)
        if sparse:
            RECENT_FACTORS.serve(self)
        form, leaves = _form(P, c, A, b, self.cones, self.settings(solver, dtype), dtype)
        batch, size = math.prod(lead), piece_size(_bytes(leaves, lead), solver)
        run = host_solution_map(form) if is_traced(leaves) else functools.partial(solve_now, form)
        if batch <= size or is_traced(leaves):
            outcome = run(*leaves)
        else:
            parts = [
                _batch(leaf, core, lead) for leaf, core in zip(leaves, form.cores, strict=True)
            ]

            def solve(items: np.ndarray) -> HostOutcome:
                own = (
                    part if core < 0 else part[items]
                    for part, core in zip(parts, form.cores, strict=True)
                )
                return run(*own)

            found = in_pieces(solve, batch, size)
            outcome = jax.tree.map(lambda part: part.reshape(*lead, *part.shape[1:]), found)
        solution = of_host(outcome, self.cones)
        if not lead:
            raise_status(solution.info.status)
        return solution

    def _closest(self, sparse: bool, P: Any, c: Any, A: Any, b: Any) -> ProgramSolution:
        """With the closest feasible program where there is no feasible point."""
        if sparse:
            raise UnsupportedOperationError(
                'infeasible="closest" takes dense P and A. Hand over P.todense() and A.todense().'
            )

        *data, dtype, lead = as_operands(P, c, A, b, self.cones.size)
        # a derivative compiles once, and not each of its steps; what is compiled must not keep starts
        as_one = is_traced(data) and self.warm_start is None
        run = _closest_as_one if as_one else _closest
        solution = run(*data, program=self, lead=lead, dtype=np.dtype(dtype))
        if not lead:
            raise_status(solution.info.status)
        return solution

    def settings(self, solver: Solver, dtype: Any, definite: bool = False) -> Settings:
        """What the program is solved with by this solver."""
        starts = self.warm_start
        if solver not in (Solver.CLARABEL, Solver.SCS) or dtype != jnp.float64:
            starts = None
        return Settings(
            self.tolerance,
            self.max_iterations,
            self.selection,
            solver,
            definite,
            self.auxiliary,
            WeakStarts(starts) if starts is not None else None,
            solver == Solver.MOREAU or self.solver == "auto",
        )

    def _on_device(self, P: Any, c: Any, A: Any, b: Any) -> ProgramSolution:
        """By the interior-point method, which XLA compiles."""
        definite = is_definite(P)
        data, lead = as_data(P, c, A, b, self.cones.size)
        settings = self.settings(Solver.INTERIOR_POINT, data.c.dtype, definite)

        # options hold for a whole program: inside another one they are that one's
        quick = jax.default_backend() == "cpu" and not is_traced(data)
        run = _jitted_quickly if quick else _jitted

        def solve(data: Data) -> Outcome:
            return run(*data, cones=self.cones, settings=settings)

        batch = len(data.c)
        size = piece_size(bytes_of_item(data), Solver.INTERIOR_POINT)
        if batch <= size or is_traced(data):
            outcome = solve(data)
        else:
            outcome = in_pieces(lambda items: solve(items_of(data, items)), batch, size)
        solution = of_device(outcome, lead, Solver.INTERIOR_POINT)
        if not lead:
            raise_status(solution.info.status)
        return solution

    def check(self, P: Any, c: Any, A: Any, b: Any) -> ProgramReport:
        """Solve one program and say whether its derivative exists for every choice of active pieces.

        Args: as of ``__call__``, without batch axes, outside jit.

        Raises: as ``__call__``; UnsupportedOperationError for sparse data of more than four million
            entries when dense.

        >>> import numpy as np
        >>> from conservax.programs import Cones, ConeProgram
        >>> program = ConeProgram(Cones(nonnegative=2))  # min x₁ over x₁, x₂ ≥ 0: x₂ is free
        >>> program.check(np.zeros((2, 2)), [1.0, 0.0], -np.eye(2), np.zeros(2)).verdict.name
        'REFUTED'
        """
        plain = dataclasses.replace(self, infeasible=None)  # the closest has other constraints
        P, c, A, b, dtype, lead = as_operands(P, c, A, b, self.cones.size)
        if lead:
            raise InvalidInputError("check takes one program; for a batch read `info.verdict`.")
        # how far the solution is from a kink is known in double precision
        with jax.enable_x64(True):
            solution = plain(*map(in_double, (P, c, A, b)))
        data = Data(*(np.asarray(_dense(part), np.float64)[None] for part in (P, c, A, b)))
        data = data._replace(P=symmetric_part(data.P))
        point = ConicPoint(*(np.asarray(part, np.float64)[None] for part in solution[:3]))
        with np.errstate(all="ignore"):
            at = measure_point(data, measure_data(data), point, np.zeros(1))
            active = active_pieces(data, at, self.cones, machine_epsilon(dtype))
        parts = active.parts
        held, left_out = without_idle(data, parts, self.cones, self.auxiliary)
        own = np.asarray(data.A[0], dtype)  # whose dtype is that of the data
        return certify_program(
            held[0],
            own,
            parts,
            self.cones,
            float(at.worst[0]),
            active.v[0],
            active.tolerances,
            bool(left_out[0]),
        )


def _closest(
    *data: Array, program: ConeProgram, lead: tuple[int, ...], dtype: np.dtype
) -> ProgramSolution:
    def over(cones: Cones) -> ConeProgram:
        if cones == program.cones:
            return dataclasses.replace(program, infeasible=None)
        return dataclasses.replace(
            program, cones=cones, infeasible=None, warm_start=None, auxiliary=()
        )

    P, c, A, b = data
    return closest_feasible(over, program.cones, (P, c, A, b), lead, dtype)


_closest_as_one = jax.jit(_closest, static_argnames=("program", "lead", "dtype"))


def _dense(matrix: Any) -> Any:
    """For the report, which works with dense matrices."""
    if not isinstance(matrix, SparseMatrix):
        return matrix
    if math.prod(matrix.shape) > _LARGEST_REPORT:
        raise UnsupportedOperationError(
            f"check works with dense matrices, and one has {matrix.shape[0]} × {matrix.shape[1]} entries; "
            "`info.verdict` and `info.margin` of a call are computed from the sparse ones."
        )
    return dense(matrix.with_values(np.asarray(matrix.values)[None]))[0]


def _form(
    P: Any, c: Any, A: Any, b: Any, cones: Cones, settings: Settings, dtype: Any
) -> tuple[Form, list[Any]]:
    """How operands are laid out, and their leaves."""
    if not cones.size:
        # 0ᵀx ≤ 1 stands in for no constraint
        cones, b, n = Cones(nonnegative=1), np.ones(1), c.shape[-1]
        none = np.zeros(0, np.int32)
        A = (
            SparseMatrix(np.zeros(0), none, none, (1, n))
            if isinstance(A, SparseMatrix)
            else np.zeros((1, n))
        )
    leaves: list[Any] = []
    for part in (P, c, A, b):
        values = part.values if isinstance(part, SparseMatrix) else part
        if not jnp.issubdtype(values.dtype, jnp.floating):
            values = values.astype(dtype)
        sparse = isinstance(part, SparseMatrix)
        leaves += [values, part.rows, part.columns] if sparse else [values]
    shapes = [cast(Any, part.shape) if isinstance(part, SparseMatrix) else None for part in (P, A)]
    return Form(shapes[0], shapes[1], cones, settings, np.dtype(dtype).name), leaves


def _batch(leaf: Any, core: int, lead: tuple[int, ...]) -> Any:
    """With one batch axis, as a view; indices have none."""
    if core < 0:
        return leaf
    own = leaf.shape[leaf.ndim - core :]
    return np.broadcast_to(leaf, (*lead, *own)).reshape(-1, *own)


def _bytes(leaves: Any, lead: tuple[int, ...]) -> int:
    """Of one item."""
    return sum(leaf.size * 8 for leaf in leaves) // max(math.prod(lead), 1)


def _solve(
    P: Matrix, c: Array, A: Matrix, b: Array, *, cones: Cones, settings: Settings
) -> Outcome:
    if cones.size:
        return solution_map(cones, settings)(P, c, A, b)
    # XLA has no empty factorisations everywhere: 0ᵀx ≤ 1 stands in for no constraint
    b = jnp.ones((*c.shape[:1], 1), c.dtype)
    A = jnp.zeros((*c.shape[:1], 1, c.shape[1]), c.dtype)
    outcome = solution_map(Cones(nonnegative=1), settings)(P, c, A, b)
    return outcome._replace(y=outcome.y[:, :0], s=outcome.s[:, :0])


_jitted = jax.jit(_solve, static_argnames=("cones", "settings"))
# fewer and plainer kernels take half the time to compile on a CPU, and are no slower
_QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_jitted_quickly = jax.jit(_solve, static_argnames=("cones", "settings"), compiler_options=_QUICK)


def choose_solver(name: str, cones: Cones, of_sparse: bool = False) -> Solver:
    """The solver that is meant; InvalidInputError if there is none, or if it cannot solve these."""
    if name == "auto":
        if jax.default_backend() != "cpu" and cones.symmetric and not of_sparse:
            return Solver.INTERIOR_POINT
        dense = cones.symmetric and not of_sparse
        if dense and cones.polyhedral and host.is_installed(Solver.MOREAU):
            return Solver.MOREAU
        # without extras ours is there
        alone = dense and not host.is_installed(Solver.CLARABEL)
        return Solver.INTERIOR_POINT if alone else Solver.CLARABEL
    if name not in get_args(SolverName):
        raise InvalidInputError(
            f"solver must be one of {', '.join(get_args(SolverName))}, but is {name!r}."
        )
    solver = Solver[name.upper()]
    if solver == Solver.INTERIOR_POINT and (of_sparse or not cones.symmetric):
        what = "takes no sparse matrices" if of_sparse else "has no exponential and no power cones"
        raise InvalidInputError(
            f'the interior-point method {what}: take solver="clarabel", "scs" or "auto".'
        )
    if solver == Solver.MOREAU and not cones.polyhedral:
        raise InvalidInputError(
            "Moreau is asked for its active-set method, which takes equations and inequalities alone: "
            'take solver="clarabel", "scs" or "auto".'
        )
    return solver
