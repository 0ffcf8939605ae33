"""CVXPY's own canonical form of a problem, read once: its maps, its parameters, what is read off a solution."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from ...cones.kinds.semidefinite import triangle
from ...cones.table import Cones, families
from ...errors import InvalidInputError, MissingPackageError
from .canonical import AffineMap, Canonical, ParameterSlot, Readout
from .parameter_maps import ParameterMap, with_own_parameters

if TYPE_CHECKING:
    import cvxpy as cp


def import_cvxpy() -> Any:
    """CVXPY; MissingPackageError names the remedy."""
    try:
        import cvxpy
        import scs  # noqa: F401  its form is what CVXPY canonicalises to
    except ImportError as error:
        raise MissingPackageError(
            f'CvxpyLayer needs CVXPY and SCS, and {error.name} is missing: pip install "conservax[cvxpy]".'
        ) from None
    return cvxpy


def canonicalise(
    problem: "cp.Problem",
    parameters: Sequence["cp.Parameter"],
    variables: Sequence["cp.Variable"],
    gp: bool,
    verbose: bool,
    canon_backend: str | None,
) -> Canonical:
    """The cone program of a problem that was checked; parameters and variables in the user's order."""
    cvxpy = import_cvxpy()
    # a problem of our own: CVXPY would reuse, and ask for values of, what the user's has in its cache;
    # SCS's form has at least one row
    constraints = problem.constraints or [cvxpy.Constant(1.0) <= 2.0]
    own = cvxpy.Problem(problem.objective, constraints)
    made: list[Any] = []
    expressions: list[Any] = []
    if not gp and not own.is_dpp(quad_form_dpp="qp"):
        own, made, expressions = with_own_parameters(cvxpy, own)
        if not own.is_dpp(quad_form_dpp="qp"):
            raise InvalidInputError(
                "Problem must be DPP: parameters may enter affinely only, or through expressions of "
                "parameters alone, and quad_form(x, P) with a parameter P only in the objective. Write "
                "(p * q) * x for p * (q * x); for xᵀPx in a constraint take "
                "sum_squares(R @ x) with P = RᵀR."
            )
    with (
        cvxpy.utilities.scopes.quad_form_dpp_scope(),
        _without_values(own.variables()),
        warnings.catch_warnings(),
    ):
        # CVXPY warns of its own reading of parameters with a pattern
        warnings.filterwarnings("ignore", "Reading from a sparse CVXPY expression", RuntimeWarning)
        found: Any = own.get_problem_data(
            "SCS", gp=gp, verbose=verbose, canon_backend=canon_backend
        )
    data, chain, _ = found
    program: Any = data[cvxpy.settings.PARAM_PROB]
    dims, n, size = data["dims"], program.x.size, program.total_param_size + 1
    cones = Cones(
        **{
            name: family.read(getattr(dims, family.cvxpy))
            for name, family in families().items()
            if family.cvxpy is not None
        }
    )
    m = cones.size
    slots = _parameter_slots(parameters, program, chain, gp)
    derived = _parameter_slots(made, program, chain, gp)
    if sum(len(slot.entries) * len(slot.places) for slot in (*slots, *derived)) != size - 1:
        raise InvalidInputError(
            "CVXPY's form of this problem has parameters that no parameter of the problem fills, so that "
            "it cannot be solved here: write the problem without the transformation that adds them."
        )
    outputs = _Outputs(problem, program, chain, gp)
    return Canonical(
        cones,
        _quadratic(program.reduced_P, n),
        AffineMap.of(scipy.sparse.csr_array(program.q)[:n], np.arange(n), (n,)),
        *_constraints(program.reduced_A, m, n),
        size,
        slots,
        ParameterMap(tuple(parameters) if expressions else (), tuple(expressions)),
        derived,
        tuple(outputs.reader(variable) for variable in variables),
        outputs.names(),
        outputs.added(),
        outputs.auxiliary(n),
    )


@contextlib.contextmanager
def _without_values(variables: Sequence[Any]) -> Iterator[None]:
    """For CVXPY starts its own variables at those of a solved problem, and for cvar (1.9.3) fails to."""
    full = [v for v in variables if not (v.attributes["sparsity"] or v.attributes["diag"])]
    values = [variable.value for variable in full]
    for variable in full:
        variable.save_value(None)
    try:
        yield
    finally:
        for variable, value in zip(full, values, strict=True):
            variable.save_value(value)


def _quadratic(reduced: Any, n: int) -> AffineMap:
    if reduced.reduced_mat is None or reduced.reduced_mat.shape[0] == 0:
        nothing = np.zeros(0, int)
        return AffineMap((n, n), nothing, nothing, np.zeros(0))
    rows, starts, _ = reduced.problem_data_index
    columns = np.repeat(np.arange(n), np.diff(starts))
    return AffineMap.of(reduced.reduced_mat, rows * n + columns, (n, n))


def _constraints(reduced: Any, m: int, n: int) -> tuple[AffineMap, AffineMap]:
    """A and b of Ax + s = b: CVXPY's [A b] means Ax + b ∈ K, b being its last column."""
    rows, starts, _ = reduced.problem_data_index
    columns = np.repeat(np.arange(n + 1), np.diff(starts))
    terms = scipy.sparse.csr_array(reduced.reduced_mat)
    last = columns == n
    return (
        AffineMap.of(-terms[~last], rows[~last] * n + columns[~last], (m, n)),
        AffineMap.of(terms[last], rows[last], (m,)),
    )


_SYMMETRIC = ("symmetric", "PSD", "NSD")


def _entries(leaf: Any) -> np.ndarray:
    """Which entries of the value of a leaf, column by column, CVXPY keeps, and in which order."""
    if len(leaf.shape) < 2:
        return np.arange(leaf.size)
    rows = leaf.shape[0]
    if any(leaf.attributes[name] for name in _SYMMETRIC):
        i, j = np.triu_indices(rows)
    elif leaf.attributes["diag"]:
        i = j = np.arange(rows)
    elif leaf.attributes["sparsity"]:
        i, j = (np.asarray(part) for part in leaf.sparse_idx)
    else:
        return np.arange(leaf.size)
    return i + rows * j


def _mirrored(leaf: Any, entries: np.ndarray) -> np.ndarray:
    """Where a symmetric value repeats these entries; themselves otherwise."""
    if len(leaf.shape) != 2 or not any(leaf.attributes[name] for name in _SYMMETRIC):
        return entries
    return entries % leaf.shape[0] * leaf.shape[0] + entries // leaf.shape[0]


def _parameter_slots(
    parameters: Sequence[Any], program: Any, chain: Any, gp: bool
) -> tuple[ParameterSlot, ...]:
    logs = {old: new[0] for old, new in chain.reductions[0].param_id_map.items()} if gp else {}
    starts = program.param_id_to_col
    renamed = {old: new[0] for old, new in chain.compose_param_id_map().items() if old not in logs}
    slots = []
    for parameter in parameters:
        if parameter.is_complex():
            raise InvalidInputError(
                f"the parameter {parameter.name()} is complex, which is not supported: split it."
            )
        entries = _entries(parameter)
        slots.append(
            ParameterSlot(
                parameter.name(),
                parameter.shape,
                starts.get(renamed.get(parameter.id, parameter.id)),
                starts.get(logs.get(parameter.id)),
                entries,
                _mirrored(parameter, entries),
                int(parameter.is_nonneg()) - int(parameter.is_nonpos()),
            )
        )
    return tuple(slots)


class _Outputs:
    """How variables and dual variables are read from a solution of the cone program."""

    def __init__(self, problem: Any, program: Any, chain: Any, gp: bool) -> None:
        self.problem, self.program, self.gp = problem, program, gp
        self.cvxpy = import_cvxpy()
        self.variables = {old: new[0] for old, new in chain.compose_var_id_map().items()}
        self.constraints = chain.compose_constr_id_map()
        starts = np.cumsum([0, *(constraint.size for constraint in program.constraints)])
        self.rows = {
            constraint.id: range(int(start), int(start) + constraint.size)
            for constraint, start in zip(program.constraints, starts[:-1], strict=True)
        }

    def names(self) -> tuple[tuple[str, range], ...]:
        """The user's constraints: name and rows."""
        return tuple(
            (self._name(constraint), rows)
            for constraint in self.problem.constraints
            if (rows := self._rows_of(constraint)) is not None
        )

    def added(self) -> tuple[tuple[tuple[str, ...], range], ...]:
        """The constraints that CVXPY added: the names of the user's variables in each, and its rows."""
        named = {rows.start for _, rows in self.names()}
        user = {self.variables.get(own.id, own.id): own.name() for own in self.problem.variables()}
        return tuple(
            (tuple(user[v.id] for v in constraint.variables() if v.id in user), rows)
            for constraint in self.program.constraints
            if (rows := self.rows[constraint.id]).start not in named and len(rows)
        )

    def _name(self, constraint: Any) -> str:
        """Its label or, for a formula may hold whole matrices, its number and shape."""
        if constraint.label:
            return constraint.label
        number = [own.id for own in self.problem.constraints].index(constraint.id)
        return f"constraints[{number}] ({' × '.join(map(str, constraint.shape)) or 'scalar'})"

    def auxiliary(self, n: int) -> tuple[int, ...]:
        """The columns that are none of the user's variables."""
        own: set[int] = set()
        for variable in self.problem.variables():
            start = self.program.var_id_to_col[self.variables.get(variable.id, variable.id)]
            own.update(range(start, start + len(_entries(variable))))
        return tuple(column for column in range(n) if column not in own)

    def _rows_of(self, constraint: Any) -> range | None:
        return self.rows.get(self.constraints.get(constraint.id, constraint.id))

    def reader(self, variable: Any) -> Readout:
        if any(variable.id == own.id for own in self.problem.variables()):
            return self._primal(variable)
        for constraint in self.problem.constraints:
            for k, dual in enumerate(constraint.dual_variables):
                if dual.id == variable.id:
                    return self._dual(constraint, k, dual)
        raise InvalidInputError(
            f"Variable {variable} must be a subset of problem.variables or a constraint dual variable"
        )

    def _primal(self, variable: Any) -> Readout:
        start = self.program.var_id_to_col[self.variables.get(variable.id, variable.id)]
        entries = _entries(variable)
        own = np.arange(start, start + len(entries))
        layout = variable.shape, entries, _mirrored(variable, entries)
        return Readout.by_columns(False, own, *layout, exponential=self.gp)

    def _dual(self, constraint: Any, k: int, dual: Any) -> Readout:
        rows = self._rows_of(constraint)
        if rows is None:
            raise InvalidInputError(
                f"{self._name(constraint)} has no rows of its own in the cone program, so that its "
                "dual variable cannot be returned."
            )
        cvxpy, own, shape = self.cvxpy, np.asarray(rows), dual.shape
        if isinstance(constraint, cvxpy.constraints.PSD):
            order = constraint.args[0].shape[0]
            if len(own) != len(triangle(order)[0]):
                raise InvalidInputError(
                    f"the dual variable of {self._name(constraint)} is not one matrix."
                )
            rows, columns, weights = triangle(order)
            return Readout.by_columns(
                True, own, (order, order), rows + order * columns, columns + order * rows, weights
            )
        if isinstance(constraint, cvxpy.SOC):
            sizes = constraint.cone_sizes()
            starts = np.cumsum([0, *sizes])[:-1]
            rest = [np.arange(a + 1, a + size) for a, size in zip(starts, sizes, strict=True)]
            own = own[starts if k == 0 else np.concatenate(rest)]
            if k == 1 and len(shape) == 2 and constraint.axis == 1:
                # cones along rows: CVXPY's X has a row for each
                return Readout(True, own, np.ones(len(own)), shape)
        elif isinstance(constraint, cvxpy.ExpCone | cvxpy.PowCone3D):
            own = own[k::3]
        every = np.arange(len(own))
        return Readout.by_columns(True, own, shape, every, every)
