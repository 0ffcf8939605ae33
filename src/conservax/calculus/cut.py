"""Cut a program at its active kinks: two compiled passes and a little host linear algebra.

The first pass finds every increment and its scale; the host decides which kinks are active within
the tolerance; the second differentiates the program with the cut r of those kinks as extra inputs
and their increments z as extra outputs. Only active kinks cost a column.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..errors import DiscontinuousError, InvalidInputError, NotLipschitzError
from ..numerics import Tolerance, machine_epsilon
from .abs_normal import AbsNormal, Group, Kink
from .diagnosis import name_singular_equation
from .interpreter import run_program
from .program import Program
from .tape import Discover, Linearise, Records

_RANK_ONE = 1e-9  # relative; float64 rows of one comparison that differ by more are no multiples


class Cutter:
    """Cuts one planned program; the compiled passes are kept between points."""

    def __init__(self, program: Program, varied: Sequence[bool]) -> None:
        self.program = program
        self.varied = tuple(varied)
        self.owner = np.zeros(program.size, np.int32)
        self.local = np.zeros(program.size, np.int64)
        for number, site in enumerate(program.sites):
            slots = site.slots().ravel()
            self.owner[slots] = number
            self.local[slots] = np.arange(slots.size)
        kinds = np.array([s.kind for s in program.sites] or ["kink"])[self.owner]
        self.is_branch, self.is_tie = kinds == "branch", kinds == "tie"
        self.is_comparison = kinds == "comparison"
        self._discover = jax.jit(self._run_discover)
        self._linearise = jax.jit(self._run_linearise, static_argnames="forward")

    def __call__(self, args: Sequence[Any], tolerance: Tolerance) -> AbsNormal:
        """The abs-normal form at flat inputs ``args``."""
        for number, arg in enumerate(args):
            if self.varied[number] and not np.all(np.isfinite(np.asarray(arg, dtype=np.float64))):
                raise InvalidInputError(
                    f"input leaf {number} holds NaN or infinity at the point of differentiation; "
                    "check the value that is passed in."
                )
        records: Records = jax.tree.map(np.asarray, self._discover(list(args)))
        limit = tolerance.atol + tolerance.rtol * np.maximum(records.size, np.abs(records.z))
        active = self._active(records, limit)
        columns = np.flatnonzero(active & ~self.is_comparison & ~(self.is_tie & (records.natural == 1)))
        comparisons = np.unique(records.steer[active & self.is_branch])
        rows = np.concatenate([columns, comparisons]).astype(np.int64)
        base = np.where(active & ~self.is_tie, 0.0, records.natural)
        jacobian = self._jacobian(args, base, columns, rows)
        return self._assemble(jacobian, records, limit, active, columns, comparisons)

    def _run_discover(self, args: Sequence[Any]) -> Records:
        tape = Discover(self._dtype(args))
        run_program(self.program, args, tape)
        return tape.outputs()

    def _run_linearise(
        self, args: Sequence[Any], base: Any, columns: Any, rows: Any, forward: bool
    ) -> jax.Array:
        """Jacobian of (F, z[rows]) in (x, r[columns]); padded columns point beyond the tape."""
        fixed = [a for a, v in zip(args, self.varied, strict=True) if not v]
        x, unravel = ravel_pytree([a for a, v in zip(args, self.varied, strict=True) if v])

        def cut(inputs: jax.Array) -> jax.Array:
            moving, still = iter(unravel(inputs[: x.size])), iter(fixed)
            full = [next(moving) if v else next(still) for v in self.varied]
            r = jnp.zeros(self.program.size, x.dtype).at[columns].set(inputs[x.size :], mode="drop")
            tape = Linearise(base, r)
            outs = run_program(self.program, full, tape)
            flat = [jnp.ravel(o).astype(x.dtype) for o in outs]
            return jnp.concatenate([*flat, tape.outputs()[rows].astype(x.dtype)])

        inputs = jnp.concatenate([x, jnp.zeros(columns.shape, x.dtype)])
        return (jax.jacfwd if forward else jax.jacrev)(cut)(inputs)

    def _dtype(self, args: Sequence[Any]) -> Any:
        return jnp.result_type(*[a for a, v in zip(args, self.varied, strict=True) if v])

    def _jacobian(
        self, args: Sequence[Any], base: np.ndarray, columns: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        # pad to powers of two, so that a point with another number of active kinks compiles nothing new
        beyond = self.program.size
        padded_columns = _padded(columns, beyond)
        padded_rows = _padded(rows, 0)
        n = sum(np.size(a) for a, v in zip(args, self.varied, strict=True) if v)
        m = sum(int(np.prod(v.aval.shape)) for v in self.program.block.jaxpr.outvars)
        forward = n + padded_columns.size <= 2 * (m + padded_rows.size)
        full = self._linearise(
            list(args),
            base.astype(self._dtype(args)),
            padded_columns,
            padded_rows,
            forward=forward or bool(self.program.forward_only),
        )
        matrix = np.asarray(full, dtype=np.float64)[: m + rows.size, : n + columns.size]
        if not np.all(np.isfinite(matrix)):
            raise NotLipschitzError(
                f"{name_singular_equation(self.program, args)}: the slope is not finite at this point. "
                "Move the point, bound the operand away from the singularity, or for a norm use cx.norm."
            )
        return matrix

    def _active(self, records: Records, limit: np.ndarray) -> np.ndarray:
        if np.any(bad := np.isnan(records.z) & ~self.is_branch):
            site = self.program.sites[self.owner[np.flatnonzero(bad)[0]]]
            raise InvalidInputError(
                f"{site.location}: the operand of '{site.operation}' is NaN; "
                "a kink cannot be placed there. Check the inputs and the operations before this line."
            )
        active = (np.abs(records.z) <= limit) & ~self.is_branch
        tied = active & self.is_tie
        members = np.bincount(records.steer[tied], minlength=active.size)
        active[tied] = members[records.steer[tied]] > 1
        # branches of a comparison that is only near its switch, but that differ there, decide it
        apart = self.is_branch & ~(np.abs(records.z) <= limit)
        switch = records.steer[apart]
        torn = active[switch] & (records.z[switch] == 0)
        if np.any(torn):
            site = self.program.sites[self.owner[np.flatnonzero(apart)[torn][0]]]
            raise DiscontinuousError(
                f"{site.location}: the branches of this where differ at the switch, "
                f"so the program jumps there (by {abs(records.z[apart][torn][0]):.3g}) and has no "
                "conservative Jacobian. Make the branches agree, or move the point off the switch."
            )
        active[switch] = False
        return active | (self.is_branch & active[np.maximum(records.steer, 0)])

    def _kink(self, slot: int, records: Records, limit: np.ndarray, active: bool, ways: int = 1) -> Kink:
        site = self.program.sites[self.owner[slot]]
        index = tuple(int(i) for i in np.unravel_index(self.local[slot], site.shape)) if site.shape else ()
        return Kink(
            "where" if site.kind == "comparison" else site.operation,
            site.location,
            index,
            float(abs(records.z[slot])),
            float(limit[slot]),
            site.slopes,
            active,
            ways,
        )

    def _assemble(
        self,
        jacobian: np.ndarray,
        records: Records,
        limit: np.ndarray,
        active: np.ndarray,
        columns: np.ndarray,
        comparisons: np.ndarray,
    ) -> AbsNormal:
        k = columns.size
        m = jacobian.shape[0] - k - comparisons.size
        n = jacobian.shape[1] - k
        column_of = {int(slot): place for place, slot in enumerate(columns)}
        increments, switches = jacobian[m : m + k], jacobian[m + k :]
        controllers: dict[int, list[int]] = {}
        for slot in columns:
            owner = int(records.steer[slot]) if (self.is_branch | self.is_tie)[slot] else int(slot)
            controllers.setdefault(owner, []).append(int(slot))

        new_rows: list[np.ndarray] = []
        weights: list[np.ndarray] = []  # new columns in terms of the old ones
        groups: list[Group] = []
        for owner in sorted(controllers):
            slots = controllers[owner]
            places = [column_of[s] for s in slots]
            rows = increments[places]
            units = np.eye(k)[places]
            leader, ways = 0, 1
            jax_weights: tuple[float, ...] = (float(records.jax[owner]),)
            if self.is_tie[owner]:
                members = sorted([owner, *slots])
                leader, ways = members.index(owner), len(members)
                jax_weights = tuple(float(records.jax[s]) for s in members)
            elif self.is_comparison[owner]:
                # one comparison switches all its branches together: eliminate them from each other
                rows = np.linalg.solve(np.eye(len(places)) - rows[:, n:][:, places], _without(rows, n, places))
                rows, units = _as_one_kink(rows, units, switches[np.searchsorted(comparisons, owner)])
            start = len(new_rows)
            new_rows.extend(rows)
            weights.extend(units)
            kink = self._kink(owner, records, limit, True, ways)
            groups.append(Group(kink, tuple(range(start, len(new_rows))), jax_weights, leader))

        to_new = np.array(weights).reshape(len(weights), k).T
        cut_rows = np.array(new_rows).reshape(len(new_rows), n + k)
        return AbsNormal(
            jacobian[:m, :n],
            jacobian[:m, n:] @ to_new,
            cut_rows[:, :n],
            cut_rows[:, n:] @ to_new,
            tuple(groups),
            self._nearest_inactive(records, limit, active),
            self.program.dtype,
        )

    def _nearest_inactive(self, records: Records, limit: np.ndarray, active: np.ndarray) -> Kink | None:
        leaders = self.is_tie & (records.natural == 1)
        candidates = np.flatnonzero(~active & ~self.is_branch & ~leaders & np.isfinite(records.z))
        if candidates.size == 0:
            return None
        size = np.maximum(records.size[candidates], machine_epsilon(np.float64))
        nearest = candidates[np.argmin(np.abs(records.z[candidates]) / size)]
        return self._kink(int(nearest), records, limit, False)


def _without(rows: np.ndarray, n: int, places: Sequence[int]) -> np.ndarray:
    cleared = rows.copy()
    cleared[:, [n + p for p in places]] = 0.0
    return cleared


def _as_one_kink(
    rows: np.ndarray, units: np.ndarray, switch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Continuity makes the branches' difference a multiple w of the comparison's own increment.

    Where that shows in the rows, the comparison becomes one scalar kink with z = its increment;
    otherwise its branches stay separate columns that share one weight.
    """
    norm = switch @ switch
    if norm == 0:
        return rows, units
    multiples = rows @ switch / norm
    if np.linalg.norm(rows - np.outer(multiples, switch)) > _RANK_ONE * np.linalg.norm(rows):
        return rows, units
    return switch[None, :], multiples[None, :] @ units


def _padded(index: np.ndarray, filler: int) -> np.ndarray:
    size = 0 if index.size == 0 else 1 << (int(index.size) - 1).bit_length()
    return np.concatenate([index, np.full(size - index.size, filler)]).astype(np.int32)
