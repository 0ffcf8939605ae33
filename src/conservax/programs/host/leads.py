"""Leading axes of the operands of a call on the host: they broadcast, and some of them are columns."""

import math
from typing import Any

import numpy as np


def lead_of(shape: tuple[int, ...], core: int) -> tuple[int, ...]:
    """The axes before the last ``core`` ones."""
    return shape[: len(shape) - core]


def broadcast(*leads: tuple[int, ...]) -> tuple[int, ...]:
    """Of all."""
    return tuple(np.broadcast_shapes(*leads))


def flat(array: np.ndarray, core: int, lead: tuple[int, ...], shared: bool = False) -> np.ndarray:
    """(batch, *core) in double precision, or (1, *core) where ``shared`` is allowed and one serves all."""
    own = lead_of(array.shape, core)
    rest = array.shape[len(own) :]
    array = np.asarray(array, np.float64)
    if math.prod(own) == 1 and shared:
        return array.reshape(1, *rest)
    return np.broadcast_to(array, (*lead, *rest)).reshape(math.prod(lead), *rest)


class Columns:
    """The axes of ``full`` that ``place`` does not have are columns, the others the batch."""

    def __init__(self, full: tuple[int, ...], place: tuple[int, ...]) -> None:
        padded = (1,) * (len(full) - len(place)) + place
        self.full = full
        many = [k for k, size in enumerate(padded) if size == full[k]]
        self.order = many + [k for k in range(len(full)) if k not in many]
        self.batch = math.prod(full[k] for k in many)
        self.count = math.prod(full) // max(self.batch, 1) if math.prod(full) else 1

    def split(self, array: np.ndarray, core: int) -> np.ndarray:
        """(lead, *core) ↦ (batch, *core, columns)."""
        rest = array.shape[array.ndim - core :]
        array = np.broadcast_to(np.asarray(array, np.float64), (*self.full, *rest))
        axes = [*self.order, *range(len(self.full), array.ndim)]
        array = array.transpose(axes).reshape(self.batch, self.count, *rest)
        return np.moveaxis(array, 1, -1)

    def join(self, array: np.ndarray) -> np.ndarray:
        """(batch, *core, columns) ↦ (*full, *core)."""
        array = np.moveaxis(array, -1, 1)
        rest = array.shape[2:]
        shape = [self.full[k] for k in self.order]
        array = array.reshape(*shape, *rest)
        back = np.argsort(self.order) if self.order else []
        return array.transpose([*map(int, back), *range(len(shape), array.ndim)])


def summed_product(
    left: np.ndarray, right: np.ndarray, lead: tuple[int, ...], outer: bool
) -> np.ndarray:
    """Σ left rightᵀ (or left · right entry by entry) over the axes that ``lead`` does not have."""
    rank = len(lead)
    letters = "abcdefgh"[:rank]

    def axes(array: np.ndarray) -> tuple[np.ndarray, str]:
        own = lead_of(array.shape, 1)
        padded = (1,) * (rank - len(own)) + own
        array = array.reshape(*padded, array.shape[-1])
        kept = [k for k in range(rank) if padded[k] > 1]
        array = array.reshape(*(padded[k] for k in kept), array.shape[-1])
        return array, "".join(letters[k] for k in kept)

    (left, of_left), (right, of_right) = axes(left), axes(right)
    present = set(of_left) | set(of_right)
    target = "".join(c for c, size in zip(letters, lead, strict=True) if size > 1 and c in present)
    core = ("i", "j", "ij") if outer else ("i", "i", "i")
    found = np.einsum(
        f"{of_left}{core[0]},{of_right}{core[1]}->{target}{core[2]}", left, right, optimize=True
    )
    sizes = found.shape[len(target) :]
    shape = [size if c in target else 1 for c, size in zip(letters, lead, strict=True)]
    return np.broadcast_to(found.reshape(*shape, *sizes), (*lead, *sizes))


def summed(array: np.ndarray, core: int, lead: tuple[int, ...]) -> np.ndarray:
    """Summed over the axes that ``lead``, of the same rank, does not have."""
    own = lead_of(array.shape, core)
    axes = tuple(k for k, size in enumerate(own) if size > 1 and lead[k] == 1)
    return array.sum(axis=axes, keepdims=True) if axes else array


def aligned(arrays: Any, dims: Any, cores: Any) -> list[Any]:
    """Operands with their mapped axis in front of all leading axes; the others as they are."""
    ranks = [
        array.ndim - core - (dim is not None)
        for array, dim, core in zip(arrays, dims, cores, strict=True)
    ]
    rank = max(ranks)
    found = []
    for array, dim, own in zip(arrays, dims, ranks, strict=True):
        if dim is None:
            found.append(array)
            continue
        axes = [dim, *(k for k in range(array.ndim) if k != dim)]
        moved = array if dim == 0 else array.transpose(axes)
        ones = (1,) * (rank - own)
        found.append(moved.reshape(moved.shape[0], *ones, *moved.shape[1:]) if ones else moved)
    return found
