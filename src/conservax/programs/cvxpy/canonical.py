"""A parametrised CVXPY problem as data of a cone program: affine in one vector of parameters.

CVXPY canonicalises once (Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, Differentiable convex
optimization layers, 2019): with θ the parameters one below the other, and a 1 at the end,

    vec P = M_P θ,  (c, d) = M_c θ,  vec [A b] = M_A θ,

M sparse and constant. Rows are in SCS order.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import scipy

from ...errors import InvalidInputError, MissingPackageError
from ...solvers import Cones
from ...solvers.cones import triangle
from ...solvers.matrices import SparseMatrix
from ...solvers.namespace import Array, namespace
from .parameter_maps import ParameterMap, with_own_parameters

if TYPE_CHECKING:
    import cvxpy as cp

_DENSE = 1 << 16  # entries of P and A that are always held dense
_FILLED = 10  # one in so many entries at least is not zero where more are held dense


@dataclass(frozen=True, eq=False)
class Readout:
    """What a user asked for: entries of the primal or the dual, times weights, in a shape.

    ``index`` and ``weights``: of each entry of the result, row by row. ``exponential``: of them.
    """

    of_dual: bool
    index: np.ndarray
    weights: np.ndarray
    shape: tuple[int, ...]
    exponential: bool = False

    @classmethod
    def by_columns(
        cls,
        of_dual: bool,
        own: np.ndarray,
        shape: tuple[int, ...],
        entries: np.ndarray,
        mirrored: np.ndarray,
        divisors: np.ndarray | None = None,
        exponential: bool = False,
    ) -> "Readout":
        """Of ``own`` entries that stand, and are repeated, at these places of an array filled by columns."""
        size = int(np.prod(shape))
        index, weights = np.zeros(size, int), np.zeros(size)
        for places in (entries, mirrored):
            index[places] = own
            weights[places] = 1.0 if divisors is None else 1 / divisors
        order = np.arange(size).reshape(shape, order="F").ravel()
        return cls(of_dual, index[order], weights[order], shape, exponential)

    def __call__(self, primal: Array, dual: Array) -> Array:
        """(..., *shape) for (..., n) and (..., m)."""
        source = dual if self.of_dual else primal
        found = source[..., self.index] * self.weights.astype(source.dtype)
        found = found.reshape((*source.shape[:-1], *self.shape))
        return namespace(found).exp(found) if self.exponential else found


@dataclass(frozen=True, eq=False)
class AffineMap:
    """θ ↦ the entries of a matrix or vector: sums of values · θ[columns] into places.

    ``shape``: of the result. ``places`` (flat), ``columns``, ``values``: of the terms.
    """

    shape: tuple[int, ...]
    places: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, matrix: Any, places: np.ndarray, shape: tuple[int, ...]) -> "AffineMap":
        """From a sparse matrix whose rows belong at ``places`` of the flat result."""
        terms = scipy.sparse.coo_array(matrix)
        return cls(shape, np.asarray(places)[terms.row], terms.col, terms.data)

    def depends_on(self, start: int, stop: int) -> bool:
        """Whether on the entries start … stop − 1 of θ."""
        return bool(np.any((self.columns >= start) & (self.columns < stop)))

    def constant(self, last: int) -> np.ndarray | None:
        """The result, if it does not depend on θ but for its last entry, 1."""
        if self.depends_on(0, last):
            return None
        result = np.zeros(int(np.prod(self.shape)))
        np.add.at(result, self.places, self.values)
        return result.reshape(self.shape)

    def __call__(self, theta: Array) -> Array:
        """(..., *shape) for θ (..., size)."""
        size = int(np.prod(self.shape))
        return self._sums(theta, self.places, size).reshape(*theta.shape[:-1], *self.shape)

    @functools.cached_property
    def pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """The flat places that are filled, in order, and which of them each term goes to."""
        stored, positions = np.unique(self.places, return_inverse=True)
        return stored, positions

    @functools.cached_property
    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the filled places of a matrix."""
        return tuple(part.astype(np.int32) for part in np.divmod(self.pattern[0], self.shape[1]))  # type: ignore[return-value]

    def entries(self, theta: np.ndarray, only_stored: bool) -> np.ndarray:
        """NumPy's: all entries (..., *shape), or those of filled places (..., stored)."""
        stored, positions = self.pattern
        shape = (len(stored), theta.shape[-1])
        terms = scipy.sparse.csr_array((self.values, (positions, self.columns)), shape=shape)
        lead = theta.shape[:-1]
        values = (terms @ theta.reshape(-1, theta.shape[-1]).T).T
        if only_stored:
            return np.ascontiguousarray(values).reshape(*lead, len(stored))
        full = np.zeros((len(values), int(np.prod(self.shape))))
        full[:, stored] = values
        return full.reshape(*lead, *self.shape)

    def sparse(self, theta: Array) -> SparseMatrix:
        """The matrix, its values (..., stored) for θ (..., size)."""
        stored, positions = self.pattern
        rows, columns = np.divmod(stored, self.shape[1])
        values = self._sums(theta, positions, len(stored))
        indices = jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)
        return SparseMatrix(values, *indices, (self.shape[0], self.shape[1]))

    def _sums(self, theta: Array, places: np.ndarray, size: int) -> Array:
        # what is known is a constant to XLA, unless that would make a large one
        moving = (self.columns < theta.shape[-1] - 1) | (size > _DENSE)
        known = np.zeros(size)
        np.add.at(known, places[~moving], self.values[~moving])
        sums = jnp.broadcast_to(jnp.asarray(known, theta.dtype), (*theta.shape[:-1], size))
        if not moving.any():
            return sums
        terms = theta[..., self.columns[moving]] * jnp.asarray(self.values[moving], theta.dtype)
        return sums.at[..., places[moving]].add(terms)


@dataclass(frozen=True, eq=False)
class ParameterSlot:
    """Where a parameter enters θ: from ``start`` on, and from ``log_start`` on its logarithm.

    Both are None for one that enters through a ``ParameterMap`` alone; a geometric program has a
    parameter in both where it is an exponent and a factor. ``entries`` of its value count, column by
    column; ``mirrored``: where a symmetric one repeats them. ``sign``: 1 or −1 if it was declared to have
    one, else 0.
    """

    name: str
    shape: tuple[int, ...]
    start: int | None
    log_start: int | None
    entries: np.ndarray
    mirrored: np.ndarray
    sign: int

    @property
    def places(self) -> list[tuple[slice, bool]]:
        """The parts of θ that it fills, and whether with its logarithm."""
        starts = (self.start, False), (self.log_start, True)
        count = len(self.entries)
        return [(slice(start, start + count), log) for start, log in starts if start is not None]

    @functools.cached_property
    def zeros(self) -> np.ndarray:
        """The entries, column by column, that were declared to be zero."""
        held = np.union1d(self.entries, self.mirrored)
        return np.setdiff1d(np.arange(int(np.prod(self.shape))), held)


@dataclass(frozen=True, eq=False)
class Canonical:
    """The cone program behind a problem.

    Attributes:
        cones: K. P, c, A, b: from θ. size: of θ. parameters: in the user's order. own: the values of
        further parameters, from the user's; derived: where these enter.
        readers: from (primal, dual) to what the user asked for.
        rows: for each constraint of the user its name and its rows.
        auxiliary: the variables that CVXPY added.
    """

    cones: Cones
    P: AffineMap
    c: AffineMap
    A: AffineMap
    b: AffineMap
    size: int
    parameters: tuple[ParameterSlot, ...]
    own: ParameterMap
    derived: tuple[ParameterSlot, ...]
    readers: tuple[Readout, ...]
    rows: tuple[tuple[str, range], ...]
    auxiliary: tuple[int, ...]

    @property
    def large(self) -> bool:
        """Whether dense matrices would be large, and mostly zeros."""
        entries = self.entries(False)
        return entries > _DENSE and self.entries(True) * _FILLED < entries

    def entries(self, stored: bool) -> int:
        """Of P and A: all of them, or those that are stored."""
        if stored:
            return len(self.A.pattern[0]) + len(self.P.pattern[0])
        return int(np.prod(self.A.shape)) + int(np.prod(self.P.shape))

    @property
    def slots(self) -> tuple[ParameterSlot, ...]:
        """Of all parameters, the user's first."""
        return self.parameters + self.derived

    def complete(self, values: Sequence[Array]) -> tuple[Array, ...]:
        """The values of all parameters, from those of the user's."""
        return (*values, *self.own(values, [slot.shape for slot in self.parameters]))

    def theta(self, values: Sequence[Array], dtype: Any, into: AffineMap | None = None) -> Array:
        """θ (..., size) from the values of all parameters, which share their leading axes, or have none.

        ``into``: without the parameters that this map does not depend on, which so has no tangent of theirs.
        """
        lead = np.broadcast_shapes(
            *(
                value.shape[: value.ndim - len(slot.shape)]
                for value, slot in zip(values, self.slots, strict=True)
            )
        )
        theta = jnp.zeros((*lead, self.size), dtype).at[..., -1].set(1.0)
        for value, slot in zip(values, self.slots, strict=True):
            places = [
                (place, log)
                for place, log in slot.places
                if into is None or into.depends_on(place.start, place.stop)
            ]
            if not places:
                continue
            own = value.shape[: value.ndim - len(slot.shape)]
            # column by column, as CVXPY has it
            axes = tuple(range(len(own))) + tuple(range(value.ndim - 1, len(own) - 1, -1))
            flat = jnp.transpose(value.astype(dtype), axes).reshape(*own, int(np.prod(slot.shape)))
            # both halves count the same, so that gradients are symmetric too
            flat = (flat[..., slot.entries] + flat[..., slot.mirrored]) / 2
            for place, log in places:
                theta = theta.at[..., place].set(jnp.log(flat) if log else flat)
        return theta


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
    with cvxpy.utilities.scopes.quad_form_dpp_scope(), _without_values(own.variables()):
        found: Any = own.get_problem_data(
            "SCS", gp=gp, verbose=verbose, canon_backend=canon_backend
        )
    data, chain, _ = found
    program: Any = data[cvxpy.settings.PARAM_PROB]
    dims, n, size = data["dims"], program.x.size, program.total_param_size + 1
    cones = Cones(
        zero=int(dims.zero),
        nonnegative=int(dims.nonneg),
        second_order=tuple(int(size) for size in dims.soc),
        semidefinite=tuple(int(size) for size in dims.psd),
        exponential=int(dims.exp),
        power=tuple(float(alpha) for alpha in dims.p3d),
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
