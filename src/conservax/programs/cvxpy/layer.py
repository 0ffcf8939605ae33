"""``CvxpyLayer``: a parametrised CVXPY problem as a differentiable function of its parameters."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...arrays.namespace import Array
from ...errors import (
    ConservaxError,
    InfeasibleError,
    InvalidInputError,
    NotConvergedError,
    UnboundedError,
)
from ...solution import Status
from ...solvers import Solver, WarmStart
from ...solvers.host import is_installed
from ..answer import ProgramInfo, info_of, raise_status
from ..certificates.program_report import ProgramReport
from ..cone_program import ConeProgram, choose_solver
from ..pieces import in_pieces, is_traced, piece_size
from ..system.sparse_system import RECENT_FACTORS
from .canonical import AffineMap
from .canonicalise import canonicalise
from .inputs import as_array, check_problem, check_values, lead_of
from .layer_calls import LayerForm
from .layer_map import layer_form, layer_solution_map, solve_layer_now

if TYPE_CHECKING:
    import cvxpy as cp

_TOLERANCES = (
    *("eps", "eps_abs", "eps_rel", "tol", "tol_feas", "tol_gap_abs", "tol_gap_rel"),
    *("abstol", "feastol", "reltol"),
)
_ITERATIONS = ("max_iters", "max_iter", "max_iterations")
_IGNORED = (  # of the peers: how fast they get there, not where
    "acceleration_interval",
    "acceleration_lookback",
    "adaptive_scale",
    "alpha",
    "eps_infeas",
    "mode",
    "n_jobs_backward",
    "n_jobs_forward",
    "normalize",
    "rho_x",
    "scale",
    "use_indirect",
    "verbose",
    "warm_start",
)
# solvers that the peers name and that are not here: whichever runs, the answer is the same
_STAND_INS = {"cuclarabel": "clarabel"} | dict.fromkeys(("diffcp", "ecos", "mpax"), "auto")


_ADDED = "that CVXPY added"


class CvxpyLayer:
    """x*(θ) = argmin {f(x; θ) : constraints}, of a CVXPY problem with parameters θ.

    The call is that of cvxpylayers; it works under jit, vmap, jvp, vjp, jacfwd, jacrev, and twice.

    Args:
        problem: follows CVXPY's rules for parametrised problems (DPP), expressions of parameters alone
            apart: those JAX computes. quad_form(x, P) with a parameter P is allowed in the objective.
        parameters: all of the problem's, in the order of the call.
        variables: what the call returns; dual variables of constraints are allowed.
        solver: "auto", "interior_point", "moreau", "clarabel" or "scs", in CVXPY's capitals too; see
            ``ConeProgram``. The names of cvxpylayers' own ("DIFFCP", …) are accepted, and "moreau" for
            every problem.
        gp: whether the problem is a geometric program.
        verbose, canon_backend: of CVXPY's canonicalisation.
        solver_args: defaults for the call's.
        perturbed: τ, for linear programs; infeasible: "closest", for linear and quadratic programs,
            in the rows of the canonical problem; see ``ConeProgram``.

    Raises:
        InvalidInputError (a ValueError): parameters or variables that are not the problem's, or a
            problem that breaks the rules. MissingPackageError: CVXPY is not installed.

    Source: Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, Differentiable convex optimization layers
    (2019), for the canonicalisation; docs/theory.md#cone-programs for derivative and certificate.

    >>> import cvxpy as cp, jax, jax.numpy as jnp
    >>> x, p = cp.Variable(2), cp.Parameter(2)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    >>> layer = CvxpyLayer(problem, parameters=[p], variables=[x])
    >>> (jax.jacobian(lambda p: layer(p)[0])(jnp.array([2.0, -1.0])).round(6) + 0.0).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        problem: "cp.Problem",
        parameters: "list[cp.Parameter]",
        variables: "list[cp.Variable]",
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: dict[str, Any] | None = None,
        perturbed: float | None = None,
        infeasible: Literal["closest"] | None = None,
    ) -> None:
        check_problem(problem, parameters, variables, gp)
        self.canonical = canonicalise(problem, parameters, variables, gp, verbose, canon_backend)
        self.solver = _known_solver(solver or "auto")
        self._names = tuple(variable.name() for variable in variables)
        self.solver_args = dict(solver_args or {})
        self.perturbed = perturbed
        self.infeasible: Literal["closest"] | None = infeasible
        self._sparse = self.canonical.large and self.solver != "interior_point"
        self._settings(self.solver_args, jnp.result_type(float))
        # a quadratic form that is known serves the solver
        last = self.canonical.size - 1
        self._P = None if self._sparse else self.canonical.P.constant(last)
        self._item_bytes = 8 * self.canonical.entries(self._sparse)
        self._prepare()

    def _prepare(self) -> None:
        self._starts = WarmStart()
        self._maps: dict[tuple[LayerForm, bool], Callable[..., Any]] = {}
        self._solve = jax.jit(self._outputs, static_argnums=0)
        self._solve_and_tell = jax.jit(self._told, static_argnums=0)

    def __getstate__(self) -> dict[str, Any]:
        made_anew = "_starts", "_maps", "_solve", "_solve_and_tell"
        return {name: part for name, part in vars(self).items() if name not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def __repr__(self) -> str:
        slots = ", ".join(f"{slot.name} {slot.shape}" for slot in self.canonical.parameters)
        rows, columns = self.canonical.A.shape
        outputs = ", ".join(self._names)
        return f"CvxpyLayer({slots} → {outputs}; {columns} variables, {rows} rows)"

    def __call__(
        self,
        *params: Any,
        solver_args: dict[str, Any] | None = None,
        warm_start: bool = False,
    ) -> tuple[Array, ...]:
        """The variables at the solution, in the order asked for.

        Args:
            params: a value for each parameter, each with or without one batch axis in front.
            solver_args: "eps" or "tol" and "max_iters" count, "solve_method" names a solver; what else
                cvxpylayers takes (``acceleration_lookback``, ``n_jobs_forward``, …) is accepted and has
                no effect: the answer is polished to round-off.
            warm_start: start from the solutions of earlier calls that asked for it, where Clarabel or
                SCS solves in double precision; see ``WarmStart``.

        Returns:
            A tuple of arrays, with the batch axis in front if any value has one. In a batch, or inside
            jit, an item that could not be solved is NaN.

        Raises:
            InvalidInputError: shapes that do not fit, NaN, an unknown key of ``solver_args``.
            InfeasibleError, UnboundedError, NotConvergedError: called eagerly without a batch axis; they
                are diffcp.SolverErrors as well, where diffcp is in use.
        """
        outputs, _, _ = self._answer(False, params, solver_args, warm_start)
        return outputs

    def solve(
        self,
        *params: Any,
        solver_args: dict[str, Any] | None = None,
        warm_start: bool = False,
    ) -> tuple[tuple[Array, ...], ProgramInfo]:
        """As the call, and how it came about: status, residuals, verdict, margin, solver per item."""
        outputs, _, info = self._answer(True, params, solver_args, warm_start)
        return outputs, info

    def _answer(
        self,
        tell: bool,
        params: tuple[Any, ...],
        solver_args: dict[str, Any] | None,
        warm_start: bool,
    ) -> Any:
        """Outputs, statuses, and what else is known if it is asked for; piece by piece if they are many."""
        slots = self.canonical.parameters
        values, lead = self._values(params)
        program = self._settings(
            self.solver_args | (solver_args or {}), jnp.result_type(float, *values)
        )
        if warm_start:
            program = dataclasses.replace(program, warm_start=self._starts)
        check_values(values, slots)
        solver = choose_solver(program.solver, program.cones, self._sparse)
        traced = is_traced(values)
        if solver == Solver.INTERIOR_POINT:
            run = functools.partial(self._solve_and_tell if tell else self._solve, program)
        elif traced and (self.perturbed is not None or self.infeasible):
            run = functools.partial(self._told, program)
        else:
            run = self._on_host(tell, program, solver, values, traced)
            if self.infeasible:
                run = self._or_closest(program, solver, run)
        size = piece_size(self._item_bytes, solver)
        if math.prod(lead) > size and not traced:
            batched = [v.ndim > len(slot.shape) for v, slot in zip(values, slots, strict=True)]

            def piece(items: np.ndarray) -> Any:
                own = (v[items] if many else v for v, many in zip(values, batched, strict=True))
                return run(*own)

            return in_pieces(piece, lead[0], size)
        answer = run(*values)
        if not lead:
            try:
                raise_status(answer[1])
            except (InfeasibleError, UnboundedError, NotConvergedError) as error:
                raise _known_to_diffcp(error) from None
        return answer

    def _on_host(
        self,
        tell: bool,
        program: ConeProgram,
        solver: Solver,
        values: tuple[Any, ...],
        traced: bool,
    ) -> Callable[..., Any]:
        """Parameters ↦ outputs, statuses, and what else is known, by the host engine."""
        if self._sparse:
            RECENT_FACTORS.serve(self)
        dtype = jnp.result_type(float, *values)
        form = layer_form(self.canonical, self._sparse, program.settings(solver, dtype), dtype)
        if (form, tell) not in self._maps:
            self._maps[form, tell] = layer_solution_map(form, tell)
        solve = self._maps[form, tell] if traced else functools.partial(solve_layer_now, form, tell)

        def run(*values: Any) -> Any:
            outputs, outcome = solve(*self.canonical.complete(values))
            return outputs, outcome.status, info_of(outcome) if tell else None

        return run

    def _or_closest(
        self, program: ConeProgram, solver: Solver, run: Callable[..., Any]
    ) -> Callable[..., Any]:
        """As ``run``, and once more with the closest program if an item has no feasible point."""

        def closest(*values: Any) -> Any:
            found = run(*values)
            if not np.any(np.asarray(found[1]) == Status.PRIMAL_INFEASIBLE):
                return found
            if self._sparse:  # which says what is asked
                return self._told(program, *values)
            dtype = jnp.result_type(float, *values)
            form = layer_form(self.canonical, False, program.settings(solver, dtype), dtype)
            leaves = form.leaves(self.canonical.complete(values))
            near = program(*(leaf.astype(form.form.dtype) for leaf in leaves))
            point = np.asarray(near.primal), np.asarray(near.dual)
            outputs = jax.device_put([read(*point) for read in self.canonical.readers])
            return tuple(outputs), near.info.status, near.info

        return closest

    def _values(self, params: tuple[Any, ...]) -> tuple[tuple[Array, ...], tuple[int, ...]]:
        """The values as arrays, and their batch axis, if any."""
        slots = self.canonical.parameters
        values = tuple(
            as_array(value, k, slot.name)
            for k, (value, slot) in enumerate(zip(params, slots, strict=False))
        ) + tuple(params[len(slots) :])
        return values, lead_of(values, slots)

    def check(self, *params: Any, solver_args: dict[str, Any] | None = None) -> ProgramReport:
        """Whether the derivative exists for every choice of active pieces; constraints by their names.

        Args: one value for each parameter, without a batch axis.
        """
        values, lead = self._values(params)
        if lead:
            raise InvalidInputError("check takes one problem; for a batch read `solve`'s verdict.")
        check_values(values, self.canonical.parameters)
        dtype = jnp.result_type(float, *values)
        program = self._settings(self.solver_args | (solver_args or {}), dtype)
        report = program.check(*self._data(values))
        nearest = report.nearest_inactive
        dependent = tuple(self._named(state) for state in report.dependent)
        reason = report.reason
        if any(_ADDED in state.operation for state in dependent):
            reason += (
                " Some of the dependent rows are CVXPY's own, which it leaves out where it knows of an "
                "argument what they say: declare it, as in Parameter(shape, symmetric=True)."
            )
        return dataclasses.replace(
            report,
            reason=reason,
            kinks=tuple(self._named(kink) for kink in report.kinks),
            nearest_inactive=None if nearest is None else self._named(nearest),
            dependent=dependent,
        )

    def _named(self, kink: Any) -> Any:
        for name, rows in self.canonical.rows:
            if kink.rows.start in rows:
                return dataclasses.replace(
                    kink, operation=name, index=(kink.rows.start - rows.start,)
                )
        for variables, rows in self.canonical.added:
            if kink.rows.start in rows:
                of = f" on {', '.join(variables)}" if variables else ""
                return dataclasses.replace(kink, operation=f"{kink.operation} {_ADDED}{of}")
        return kink

    def _data(self, values: tuple[Array, ...]) -> tuple[Any, Array, Any, Array]:
        canonical, dtype = self.canonical, jnp.result_type(float, *values)
        values = canonical.complete(values)

        def made(into: AffineMap) -> Array:
            return into(canonical.theta(values, dtype, into))

        def matrix(into: AffineMap) -> Any:
            return into.sparse(canonical.theta(values, dtype, into)) if self._sparse else made(into)

        P = matrix(canonical.P) if self._P is None else self._P
        return P, made(canonical.c), matrix(canonical.A), made(canonical.b)

    def _outputs(self, program: ConeProgram, *values: Array) -> Any:
        """What was asked for, and statuses; nobody asks for the verdict, so XLA drops its two tests."""
        return *self._told(program, *values)[:2], None

    def _told(self, program: ConeProgram, *values: Array) -> Any:
        """What was asked for, statuses, and all that is known."""
        found = program(*self._data(values))
        outputs = tuple(read(found.primal, found.dual) for read in self.canonical.readers)
        return outputs, found.info.status, found.info

    def _settings(self, arguments: dict[str, Any], dtype: Any) -> ConeProgram:
        """The cone program that these arguments ask for."""
        known = (*_TOLERANCES, *_ITERATIONS, *_IGNORED, "solve_method")
        for name in arguments:
            if name not in known:
                raise InvalidInputError(
                    f"solver_args has the unknown key {name!r}; known are {', '.join(sorted(known))}."
                )
        tolerances = [arguments[name] for name in _TOLERANCES if name in arguments]
        iterations = [arguments[name] for name in _ITERATIONS if name in arguments]
        cones = self.canonical.cones
        solver = _known_solver(str(arguments.get("solve_method", self.solver)))
        if solver == "moreau" and (
            self._sparse or not cones.polyhedral or not is_installed(Solver.MOREAU)
        ):
            solver = "auto"  # as for other names of the peers
        # exact, or polished: what a peer is given is too loose or too few for it
        exact = Solver.INTERIOR_POINT, Solver.MOREAU
        own = choose_solver(solver, cones, self._sparse) in exact
        return ConeProgram(
            cones,
            tolerance=None if own or not tolerances else float(min(tolerances)),
            max_iterations=None if own or not iterations else int(iterations[0]),
            solver=solver,  # type: ignore[arg-type]
            auxiliary=self.canonical.auxiliary,
            perturbed=self.perturbed,
            infeasible=self.infeasible,
        )


def _known_solver(name: str) -> str:
    return _STAND_INS.get(name.lower(), name.lower())


def _known_to_diffcp(error: ConservaxError) -> ConservaxError:
    """The error, which those who catch diffcp's catch too."""
    peer = getattr(sys.modules.get("diffcp"), "SolverError", None)
    if peer is None:
        return error
    kind = type(type(error).__name__, (type(error), peer), {})
    return kind(*error.args)
