"""The data of a cone program as its user hands them over: kinds, shapes and values."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.core import Tracer

from ..arrays.namespace import Array, namespace
from ..errors import InvalidInputError
from ..solvers.equilibrate import Data
from ..solvers.matrices import Matrix, SparseMatrix, symmetric_part

_DISTANCE = 1e-6  # the least pivot of a P, with ones on its diagonal, whose metric is used
NEEDS_VALUES = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def as_data(P: Any, c: Any, A: Any, b: Any, rows: int) -> tuple[Data, tuple[int, ...]]:
    """Checked, of one dtype, one kind of matrix, P symmetric, with one batch axis; and the batch axes.

    InvalidInputError: shapes that do not fit, NaN, a sparse matrix whose pattern varies in a batch.
    """
    P, c, A, b, dtype, lead = as_operands(P, c, A, b, rows)
    P, c, A, b = (_with_values(part, _values(part).astype(dtype)) for part in (P, c, A, b))

    def flat(part: Any, axes: int) -> Any:
        values = _values(part)
        own = () if axes == 0 else values.shape[-axes:]
        full = jnp.broadcast_to(values, (*lead, *own)).reshape(math.prod(lead), *own)
        return _with_values(part, full)

    axes = 1 if isinstance(A, SparseMatrix) else 2
    return Data(symmetric_part(flat(P, axes)), flat(c, 1), flat(A, axes), flat(b, 1)), lead


def as_operands(P: Any, c: Any, A: Any, b: Any, rows: int) -> tuple[Any, ...]:
    """P, c, A, b checked, what is known as NumPy's; the dtype of all, and the broadcast batch axes."""
    P, A = _of_one_kind(P, A)
    c, b = known_as_numpy(c), known_as_numpy(b)
    dtype = jnp.result_type(*map(_values, (P, c, A, b)), float)
    lead = _check_shapes(P, c, A, b, rows)
    for name, part in (("P", P), ("c", c), ("A", A), ("b", b)):
        _check_values(name, _values(part))
    return P, c, A, b, dtype, lead


def known_as_numpy(array: Any) -> Any:
    """Tracers as they are, everything else as a NumPy array; lists that hold tracers as a tracer."""
    if isinstance(array, Tracer):
        return array
    try:
        return np.asarray(array)
    except NEEDS_VALUES:
        return jnp.asarray(array)


def items_of(data: Data, items: np.ndarray) -> Data:
    """Some items of a batch; what has one item serves all."""
    batch = len(data.c)

    def some(part: Any) -> Any:
        values = _values(part)
        return part if len(values) != batch else _with_values(part, values[items])

    return Data(*map(some, data))


def bytes_of_item(data: Data) -> int:
    """That the data of one item take."""
    return sum(_values(part).nbytes for part in data) // max(len(data.c), 1)


def is_definite(P: Any) -> bool:
    """Whether one dense P, known now, serves all items and is positive definite by some distance."""
    try:
        value = np.asarray(P, np.float64)
    except (*NEEDS_VALUES, TypeError, ValueError):
        return False
    if value.ndim != 2 or value.shape[0] != value.shape[1] or not value.size:
        return False
    value = (value + value.T) / 2
    diagonal = np.diagonal(value)
    if not np.all(diagonal > 0):
        return False
    size = np.sqrt(diagonal)
    try:
        pivots = np.diagonal(np.linalg.cholesky(value / size[:, None] / size))
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min() ** 2 > _DISTANCE)


def is_sparse(matrix: Any) -> bool:
    """Whether it is a sparse matrix of JAX, of SciPy, or our own."""
    if isinstance(matrix, np.ndarray | jax.Array):
        return False
    if isinstance(matrix, SparseMatrix) or scipy.sparse.issparse(matrix):
        return True
    # here, for to import the library should stay quick
    from jax.experimental.sparse import JAXSparse

    return isinstance(matrix, JAXSparse)


def _of_one_kind(P: Any, A: Any) -> tuple[Matrix, Matrix]:
    """Both dense or both sparse; a dense one whose entries are known joins a sparse one."""
    if not (is_sparse(P) or is_sparse(A)):
        return known_as_numpy(P), known_as_numpy(A)
    P, A = (
        matrix if is_sparse(matrix) else sparsified(name, matrix)
        for name, matrix in (("P", P), ("A", A))
    )
    return own_sparse("P", P), own_sparse("A", A)


def sparsified(name: str, matrix: Any) -> Any:
    """A dense matrix whose entries are known, as SciPy's."""
    try:
        value = np.asarray(matrix)
    except NEEDS_VALUES:
        value = None
    if value is None or value.ndim != 2:
        raise InvalidInputError(
            f"the matrices are both dense or both sparse, but {name} is a dense "
            f"{'batch' if value is not None else 'argument of a transformation'} and another is sparse: "
            f"hand over {name} as jax.experimental.sparse.BCOO, its indices held fixed."
        )
    return scipy.sparse.coo_array(value)


def own_sparse(name: str, matrix: Any) -> SparseMatrix:
    """A sparse matrix as our own; InvalidInputError names what it should be."""
    if isinstance(matrix, SparseMatrix):
        return matrix
    if scipy.sparse.issparse(matrix):
        parts: Any = scipy.sparse.coo_array(matrix)
        rows, columns = parts.row.astype(np.int32), parts.col.astype(np.int32)
        return SparseMatrix(parts.data, rows, columns, parts.shape)
    from jax.experimental.sparse import BCOO, BCSR

    if not isinstance(matrix, BCOO | BCSR):
        raise InvalidInputError(
            f"{name} is a {type(matrix).__name__} of jax.experimental.sparse, whose stored entries have no "
            "batch axes: hand over BCOO.fromdense(matrix.todense()), or a matrix of SciPy."
        )
    if matrix.n_dense or matrix.n_sparse != 2:
        raise InvalidInputError(
            f"{name} has {matrix.n_sparse} sparse and {matrix.n_dense} dense axes; two sparse ones are needed: "
            "BCOO.fromdense(matrix) makes them, and n_batch=… leaves batch axes in front."
        )
    indices = known_as_numpy(matrix.indices)
    if math.prod(indices.shape[: matrix.n_batch]) != 1:
        raise InvalidInputError(
            f"the items of a batch share one pattern, but {name} has indices of shape {indices.shape}: keep "
            "the indices of one item and map over the stored entries with jax.vmap."
        )
    data, shape = known_as_numpy(matrix.data), matrix.shape[-2:]
    if isinstance(matrix, BCSR):
        starts = known_as_numpy(matrix.indptr).reshape(-1)
        stored = np.arange(data.shape[-1])  # those beyond the last row do not count
        rows = namespace(starts).searchsorted(starts, stored, side="right") - 1
        return SparseMatrix(data, rows.astype(np.int32), _counted(indices, shape[1]), shape)
    rows, columns = (_counted(indices[..., k], shape[k]) for k in (0, 1))
    return SparseMatrix(data, rows, columns, shape)


def _counted(indices: Array, size: int) -> Array:
    """In a line; negative ones lie outside, as do those from ``size`` on."""
    indices = indices.reshape(-1)
    return namespace(indices).where(indices < 0, size, indices).astype(indices.dtype)


def in_double(part: Any) -> Any:
    """Data in double precision, inside ``jax.enable_x64``."""
    if scipy.sparse.issparse(part):
        return part.astype(np.float64)
    if not is_sparse(part):
        return np.asarray(part, np.float64)
    own = own_sparse("a matrix", part)
    return own.with_values(np.asarray(own.values, np.float64))


def stacked(upper: Any, lower: Any) -> SparseMatrix:
    """One sparse matrix below the other; a dense one whose entries are known joins."""
    parts = [
        own_sparse(name, part if is_sparse(part) else sparsified(name, part))
        for name, part in (("A", upper), ("G", lower))
    ]
    xp = namespace(*(array for part in parts for array in (part.values, part.rows, part.columns)))
    total, start = sum(part.shape[0] for part in parts), 0
    lead = np.broadcast_shapes(*(part.values.shape[:-1] for part in parts))
    values, rows = [], []
    for part in parts:
        values.append(xp.broadcast_to(part.values, (*lead, part.values.shape[-1])))
        # what lies outside one matrix stays outside
        rows.append(xp.where(part.rows < part.shape[0], part.rows + start, total))
        start += part.shape[0]
    columns = xp.concatenate([part.columns for part in parts])
    joined = xp.concatenate(values, axis=-1), xp.concatenate(rows), columns
    return SparseMatrix(*joined, (total, parts[0].shape[1]))


def _values(part: Any) -> Array:
    return part.values if isinstance(part, SparseMatrix) else part


def _with_values(part: Any, values: Array) -> Any:
    return part.with_values(values) if isinstance(part, SparseMatrix) else values


def _check_shapes(P: Any, c: Array, A: Any, b: Array, rows: int) -> tuple[int, ...]:
    """The broadcast batch axes."""
    if c.ndim < 1 or len(A.shape) < 2 or b.ndim < 1 or len(P.shape) < 2:
        raise InvalidInputError(
            "P and A are matrices, c and b vectors, each with batch axes in front at will; got "
            f"P {P.shape}, c {c.shape}, A {A.shape}, b {b.shape}."
        )
    n = c.shape[-1]
    if not n:
        raise InvalidInputError(
            f"a program has at least one variable, but c has shape {c.shape}: without variables there is "
            "nothing to solve, and b ∈ K says whether the constraints hold."
        )
    expected = (("P", P, (n, n)), ("A", A, (rows, n)), ("b", b, (rows,)))
    for name, part, shape in expected:
        if part.shape[-len(shape) :] != shape:
            raise InvalidInputError(
                f"{name} has shape {part.shape}, but {n} variables and cones of {rows} rows in all "
                f"need (..., {', '.join(map(str, shape))})."
            )
    axes = 1 if isinstance(A, SparseMatrix) else 2
    leads = (_values(P).shape[:-axes], c.shape[:-1], _values(A).shape[:-axes], b.shape[:-1])
    try:
        return np.broadcast_shapes(*leads)
    except ValueError:
        raise InvalidInputError(
            f"the batch axes {', '.join(map(str, leads))} of P, c, A, b do not broadcast."
        ) from None


def _check_values(name: str, values: Array) -> None:
    """NaN and infinity, where the values are known."""
    try:
        known = np.asarray(values, np.float64)
    except NEEDS_VALUES:
        return
    if not np.all(np.isfinite(known)):
        raise InvalidInputError(f"{name} holds NaN or infinity.")
