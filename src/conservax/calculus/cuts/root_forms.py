"""The solves of a cut program, each by itself: its residual's derivative in its own unknowns.

Rows (F, z, residuals) and columns (x, r, unknowns) of one matrix hold all solves. What is left of one
of them once the others are eliminated comes from the inverse of the unknowns' block, which all share.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import SingularError
from ...numerics import singular_value_floor
from ..tracing.locations import Location


def eliminated(
    full: np.ndarray, drop: np.ndarray, unknowns: int, place: Location, determined: bool = False
) -> np.ndarray:
    """The Jacobian without some of its unknowns (last columns), by their residuals (last rows).

    ``determined``: it is known that they can be solved for.
    """
    if drop.size == 0:
        return full
    rows, columns = full.shape[0] - unknowns + drop, full.shape[1] - unknowns + drop
    keep_rows = np.setdiff1d(np.arange(full.shape[0]), rows)
    keep_columns = np.setdiff1d(np.arange(full.shape[1]), columns)
    block = full[np.ix_(rows, columns)]
    if not determined and is_singular(block):
        smallest = np.linalg.svd(block, compute_uv=False)[-1]
        raise SingularError(
            f"{place}: the equations of a solve are singular at the base selection (σ_min = {smallest:.3g}), "
            "so its solution has no derivative. Run the check method of that solver for the witness."
        )
    solved = np.linalg.solve(block, full[np.ix_(rows, keep_columns)])
    return full[np.ix_(keep_rows, keep_columns)] - full[np.ix_(keep_rows, columns)] @ solved


def is_singular(block: np.ndarray) -> bool:
    """Whether a square matrix in float64 cannot be told from a singular one."""
    smallest = np.linalg.svd(block, compute_uv=False)[-1] if block.size else 1.0
    return bool(smallest <= singular_value_floor(block, np.float64))


def alone(
    full: np.ndarray,
    outputs: int,
    kinks: int,
    unknowns: int,
    solves: Sequence[np.ndarray],
    owners: np.ndarray,
    places: Sequence[Location],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each solve the matrix with rows (residual, z, steering) and columns (own unknowns, r), and
    which of the columns r stand between the two; the matrix has those alone.

    Args:
        full: rows (F, z, steering, residuals), columns (x, r, unknowns).
        outputs, kinks, unknowns: how many rows F, columns r, and unknowns there are.
        solves: the unknowns of each; owners: the kink that each column r belongs to.
        places: of the solves, for errors.
    """
    n = full.shape[1] - kinks - unknowns
    ends = slice(outputs, full.shape[0] - unknowns)
    shared = _Shared.of(full, ends, n, kinks)
    for own, place in zip(solves, places, strict=True):
        matrix = None if shared is None else shared.matrix(own)
        if matrix is None:
            others = np.setdiff1d(np.arange(unknowns), own)
            left = eliminated(full, others, unknowns, place)
            left = np.vstack([left[ends.stop :], left[ends]])
            matrix = np.hstack([left[:, n + kinks :], left[:, n : n + kinks]])
        kept = _between(matrix, own.size, owners)
        rows = np.concatenate(
            [
                np.arange(own.size),
                own.size + np.flatnonzero(kept),
                np.arange(own.size + kinks, len(matrix)),
            ]
        )
        columns = np.concatenate([np.arange(own.size), own.size + np.flatnonzero(kept)])
        yield matrix[np.ix_(rows, columns)], kept


class _Shared(NamedTuple):
    """What the inverse of all unknowns' block says once for all solves."""

    inverse: np.ndarray
    moves: np.ndarray  # −dy/dr
    pushes: np.ndarray  # dz/de, e the residuals
    rest: np.ndarray  # dz/dr

    @classmethod
    def of(cls, full: np.ndarray, ends: slice, n: int, kinks: int) -> "_Shared | None":
        """None where the block is singular."""
        block, below = full[ends.stop :, n + kinks :], full[ends, n + kinks :]
        if is_singular(block):
            return None
        inverse = np.linalg.inv(block)
        moves = inverse @ full[ends.stop :, n : n + kinks]
        return cls(inverse, moves, below @ inverse, full[ends, n : n + kinks] - below @ moves)

    def matrix(self, own: np.ndarray) -> np.ndarray | None:
        """Rows (residual, z, steering) and columns (own unknowns, r) of one solve, the others eliminated."""
        block = self.inverse[np.ix_(own, own)]
        if is_singular(block):
            return None
        equations, pushes = np.linalg.inv(block), self.pushes[:, own]
        of_kinks = equations @ self.moves[own]
        return np.block(
            [[equations, of_kinks], [pushes @ equations, self.rest + pushes @ of_kinks]]
        )


def _between(matrix: np.ndarray, unknowns: int, owners: np.ndarray) -> np.ndarray:
    """Which kinks some path leads to from the unknowns, and on to the residual; all columns of a kink."""
    kinks = matrix.shape[1] - unknowns
    z = slice(unknowns, unknowns + kinks)
    links = matrix[z, unknowns:] != 0
    moved = closure(np.any(matrix[z, :unknowns] != 0, axis=1), links)
    felt = closure(np.any(matrix[:unknowns, unknowns:] != 0, axis=0), links.T)
    return np.isin(owners, owners[moved & felt])


def closure(start: np.ndarray, links: np.ndarray) -> np.ndarray:
    """What is met from ``start`` along the links."""
    while True:
        more = start | links @ start
        if np.array_equal(more, start):
            return start
        start = more
