"""Operations that mix entries: sums, orders, factorisations, solves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import ranges as rg
from .dictionaries import dictionary, join
from .entries import chosen_at, number_of
from .operation_ranges import range_of, sums_squares
from .ranges import Range
from .switches import Switch
from .walk import Known, Walk, is_real, size_of


def mixing(walk: Walk, eqn: Any, values: list[Known]) -> list[Known]:
    """Operations that mix entries, all of them Lipschitz: sums, products, maxima, moves."""
    name = eqn.primitive.name
    base = walk.combined(values)
    rootable = all(v.sound and v.rootable for v in values) and name in (
        "reduce_sum", "reduce_max", "reduce_min", "gather", "dynamic_slice", "concatenate", "cumsum",
        "pad", "tile", "dot_general", "reduce_prod",
    )  # fmt: skip
    rootable |= (
        name == "dot_general"
        and values[0].number == values[1].number
        and values[0].sound
        and sums_squares(eqn)
    )
    own = dictionary(name, [v.range for v in values], base.dictionary, None, True)
    out = []
    for i, var in enumerate(eqn.outvars):
        known = range_of(walk, eqn, values) if len(eqn.outvars) == 1 else rg.ALL
        number = number_of(walk, eqn, values, i)
        out.append(
            replace(
                base,
                range=known,
                number=number,
                dictionary=join(base.dictionary, own),
                rootable=rootable,
                follows=next((v.follows for v in values if v.follows), None)
                if not is_real(var.aval)
                else None,
            )
        )
    return out


def concatenated(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Conditions side by side, as jnp.select lays them, are remembered one by one."""
    (joined,) = mixing(walk, eqn, values)
    if eqn.outvars[0].aval.dtype != bool:
        return [joined]
    if eqn.primitive.name == "stack":
        return [replace(joined, parts=(eqn.params["axis"], tuple(values)))]
    axis, shape = eqn.params["dimension"], eqn.outvars[0].aval.shape
    slim = shape[:axis] + shape[axis + 1 :]
    if any(v.aval.shape[axis] != 1 for v in eqn.invars):
        return [joined]

    def squeezed(n: int) -> int:
        return walk.expressions.make("squeeze", axis, [n], slim)

    parts = [
        replace(
            v,
            number=squeezed(v.number),
            range=rg.hulled(v.range),
            tears=frozenset(Switch(squeezed(t.left), squeezed(t.right), t.place) for t in v.tears),
            faults=dict.fromkeys(v.faults),
        )
        for v in values
    ]
    return [replace(joined, parts=(axis, tuple(parts)))]


def _first_true(walk: Walk, aval: Any, parts: Sequence[Known]) -> Known:
    """The place of the first condition that holds; 0 if none does."""
    found = walk.constant(np.zeros(aval.shape))
    for i, part in reversed(list(enumerate(parts))):
        found = chosen_at(walk, part, [found, walk.constant(np.full(aval.shape, float(i)))], aval)
    return found


def ordered(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Sorted values are Lipschitz; the order itself, and what is carried along, jumps at ties."""
    name = eqn.primitive.name
    if (
        name == "argmax"
        and values[0].parts is not None
        and eqn.params["axes"] == (values[0].parts[0],)
    ):
        return [_first_true(walk, eqn.outvars[0].aval, values[0].parts[1])]
    base, key = walk.combined(values), values[0]
    fault = walk.offence(name, where, "the order jumps where two entries are equal")
    jumping = {**base.faults, fault: None}
    out = []
    for i, var in enumerate(eqn.outvars):
        number = number_of(walk, eqn, values, i)
        follows = (key.number, fault)
        only_order = name in ("argmax", "argmin") or not is_real(var.aval)
        if name == "sort" and eqn.params["num_keys"] > 1:
            out.append(replace(base, number=number, faults=jumping))
        elif only_order and i < len(values) + 2:
            n = Range(np.array(0.0), np.array(float(max(size_of(eqn.invars[0].aval) - 1, 0))))
            if not key.varied:
                jumping_here: Any = base.faults
            else:
                jumping_here = jumping
            out.append(replace(base, number=number, range=n, faults=jumping_here, follows=follows))
        elif i == 0 or not key.varied or values[i].number == key.number:
            out.append(
                replace(base, number=number, range=rg.hulled(key.range), rootable=key.rootable)
            )
        else:
            out.append(replace(base, number=number, faults=jumping))
    return out


def gather(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Entries of x in the order of a sort of x, or its largest: then the order's jump is undone."""
    array, *indices = values
    undone = {
        v.follows[1] for v in indices if v.follows is not None and v.follows[0] == array.number
    }
    kept = [
        replace(v, faults={n: m for n, m in v.faults.items() if n not in undone}) for v in indices
    ]
    return mixing(walk, eqn, [array, *kept])


def _invertible(a: Range, n: int) -> bool:
    """Whether every matrix of a box is invertible: σ_min of the centre exceeds ‖radius‖_F."""
    if a.lo.shape != (n, n) or not a.bounded:
        return False
    centre, radius = (a.lo + a.hi) / 2, (a.hi - a.lo) / 2
    smallest = float(np.linalg.svd(centre, compute_uv=False)[-1]) if n else np.inf
    return smallest > float(np.linalg.norm(radius)) + 1e-12 * float(np.abs(centre).max(initial=0))


def factorised(walk: Walk, eqn: Any, values: list[Known], where: Any) -> list[Known]:
    """Factorisations: singular values and eigenvalues are Lipschitz, the rest where it is determined."""
    name, base = eqn.primitive.name, walk.combined(values)
    n = eqn.invars[0].aval.shape[-1]
    a = values[0].range
    out = []
    for i, var in enumerate(eqn.outvars):
        number = number_of(walk, eqn, values, i)
        result = replace(base, number=number)
        smaller = len(var.aval.shape) < len(eqn.invars[0].aval.shape)
        why = ""
        if name == "cholesky":
            symmetric = Range((a.lo + a.lo.T) / 2, (a.hi + a.hi.T) / 2) if a.lo.ndim == 2 else a
            positive = (
                _invertible(symmetric, n)
                and float(np.linalg.eigvalsh((symmetric.lo + symmetric.hi) / 2)[0]) > 0
            )
            if not positive:
                why = "Lipschitz where the matrix is positive definite, which was not shown"
        elif name == "triangular_solve":
            if a.lo.shape == (n, n):
                diagonal = Range(np.diag(a.lo), np.diag(a.hi))
                fine = eqn.params["unit_diagonal"] or diagonal.avoids(0)
            else:
                fine = eqn.params["unit_diagonal"] or a.avoids(0)
            why = "" if fine else "the diagonal can be 0"
        elif name in ("eigh", "svd") and smaller:
            if name == "svd":
                result = replace(result, range=Range(np.array(0.0), np.array(np.inf)))
        else:
            why = {
                "eigh": "eigenvectors turn abruptly where eigenvalues meet, and have no sign",
                "svd": "singular vectors turn abruptly where singular values meet, and have no sign",
                "qr": "the signs of the factors jump, and they are undetermined at rank deficiency",
                "lu": "pivoting jumps, and the factors are undetermined at singular matrices",
            }.get(name, "its result can jump")
        if why and values[0].varied:
            result = replace(result, faults={**base.faults, walk.offence(name, where, why): None})
        out.append(result)
    return out


def linear_solve(walk: Walk, eqn: Any, values: list[Known], call: Any) -> list[Known]:
    """A⁻¹b, Lipschitz where A is invertible; how it is solved does not matter."""
    counts = eqn.params["const_lengths"]
    matrix = values[: counts.matvec]
    rhs = values[sum(counts) :]
    base = walk.combined([*matrix, *rhs])
    faults = dict(base.faults)
    square = [
        v for v in matrix if v.range.lo.ndim == 2 and v.range.lo.shape[0] == v.range.lo.shape[1]
    ]
    fixed = not any(v.varied for v in matrix)
    shown = (
        len(matrix) == 1
        and len(square) == 1
        and _invertible(square[0].range, square[0].range.lo.shape[0])
    )
    if not (fixed or shown):
        why = "Lipschitz where the matrix is invertible, which was not shown"
        faults[walk.offence("solve", call or eqn, why)] = None
    return [
        replace(base, number=walk.expressions.opaque(v.aval.shape), faults=faults)
        for v in eqn.outvars
    ]
