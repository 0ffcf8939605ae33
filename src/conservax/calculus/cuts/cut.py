"""Cut a program at its active kinks: two compiled passes and a little host linear algebra.

The first pass finds every increment and its scale; the host decides which kinks are active within
the tolerance; the second differentiates the program with the cut r of those kinks as extra inputs
and their increments z as extra outputs. Only active kinks cost a column. The unknowns of implicit
functions are cut the same way, and then eliminated by their residuals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from ...errors import (
    InvalidInputError,
    NotLipschitzError,
    TooManyKinksError,
)
from ...numerics import Tolerance, machine_epsilon
from ..operations.discover import Discover, Records
from ..operations.linearise import Linearise
from ..operations.spectral_kinks import meetings_of
from ..passes.diagnosis import name_singular_equation
from ..passes.interpreter import measured_outputs, run_program
from ..passes.planning import trace
from ..sets.abs_normal import AbsNormal, Kink
from ..tracing.invocation import Invocation
from ..tracing.locations import Location
from ..tracing.program import Program, Site
from .assembly import assemble
from .findings import Findings, Linearised
from .neighbours import Look, refuse_jumps_nearby
from .rivals import Pass, Rivals, ways_of
from .root_forms import alone, eliminated
from .sweeps import on_basis, padded

KINDS = ("kink", "comparison", "tie", "sort", "ball", "spectrum", "null")
FURTHER = ("rival", "order")  # sites that may ask for further passes
_PLACES = ("argmax", "argmin")
_STEPS = ("floor", "ceil", "round", "remainder", *_PLACES)
_OWN_NAMES = ("sign", "truncate", *_STEPS, "sort", "top_k")  # of comparisons that are no where
_MAX_COLUMNS = 1 << 14


class Cutter:
    """Cuts one program at points of given shapes; the compiled passes are kept between points."""

    def __init__(
        self,
        call: Invocation,
        varied: Sequence[bool],
        rounds: int,
        late: bool = False,
        groups: bool = False,
    ) -> None:
        self.program = trace(call.run, call.leaves, varied, rounds, late, groups)
        self.late = late
        if any(isinstance(c, Tracer) for c in self.program.block.consts):
            raise InvalidInputError(
                "the function closes over a traced array, whose values are needed here. Call this outside "
                "jit, vmap and grad, on values."
            )
        self.sort_rounds = rounds
        self.varied = tuple(varied)
        self.owner = np.zeros(self.program.size, np.int32)
        self.local = np.zeros(self.program.size, np.int64)
        for number, site in enumerate(self.program.sites):
            slots = site.slots().ravel()
            self.owner[slots] = number
            self.local[slots] = np.arange(slots.size)
        # of each branch the slot that holds what JAX makes of it; −1 where none is kept
        self.stands = np.full(self.program.size, -1, np.int64)
        starts = {site.start: site for site in self.program.sites if site.kind == "branch"}
        for site in self.program.sites:
            if site.kind == "stand":
                branches = starts[site.start - math.prod(site.shape[site.loops :])]
                self.stands[branches.slots().ravel()] = site.slots().ravel()
        # of each extremum's comparison the slot that tells of further rivals; −1 elsewhere
        self.rivals = np.full(self.program.size, -1, np.int64)
        compared = {s.start: s for s in self.program.sites if s.kind == "comparison"}
        for site in (s for s in self.program.sites if s.kind in FURTHER):
            if site.kind == "order":  # a run stands where its first pair does
                slots = site.slots()[..., :-1]
                own = compared[site.start - slots.shape[-1]]
            else:
                slots = np.take(site.slots(), 0, axis=site.loops)
                own = compared[site.start + math.prod(site.shape[site.loops :])]
            self.rivals[own.slots().ravel()] = slots.ravel()
        self.kinds = np.array([s.kind for s in self.program.sites] or ["kink"])[self.owner]
        self.further = np.flatnonzero(np.isin(self.kinds, FURTHER))
        steps = [s.kind == "jump" and s.operation in _STEPS for s in self.program.sites]
        self.steps = np.flatnonzero(np.array(steps)[self.owner]) if any(steps) else self.further[:0]
        self.outputs = sum(int(np.prod(v.aval.shape)) for v in self.program.block.jaxpr.outvars)
        # arrays that the program closes over are handed in: as constants XLA would fold them for minutes
        self._constants = list(self.program.block.consts)
        self.keepers: list[Site] = []
        self._discover = jax.jit(self._run_discover)
        self._linearise = jax.jit(self._run_linearise, static_argnames=("forward", "inputs"))

    def discover(
        self, leaves: Sequence[Any], tolerance: Tolerance, rival: int | None = None
    ) -> Findings:
        """What the first pass finds at these inputs, or one that holds another rival against each leader."""
        found = self._discover(list(leaves), self._constants, tolerance.atol, tolerance.rtol, rival)
        return jax.tree.map(np.asarray, found)

    def cut(
        self,
        leaves: Sequence[Any],
        records: Records,
        active: np.ndarray,
        inputs: Sequence[bool] | None = None,
        solves: bool = False,
        determined: bool = False,
        passes: Sequence[Pass] = (),
    ) -> AbsNormal:
        """The abs-normal form in some of the varied inputs, all by default, given which slots are active.

        ``solves``: with the forms of the solves inside. ``determined``: each of them is known to have a
        derivative. ``passes``: the further ones, where extrema have several rivals.
        """
        kinds = self.kinds
        leaders = (kinds == "tie") & (records.natural == 1)
        columns = np.flatnonzero(active & (kinds != "comparison") & ~leaders)
        steering = np.unique(records.steer[active & (kinds == "branch")])
        equalities = {
            int(s) for s in steering if self.program.sites[self.owner[s]].operation in ("eq", "ne")
        }
        unknowns = np.flatnonzero(kinds == "root")
        if columns.size + unknowns.size > _MAX_COLUMNS:
            raise TooManyKinksError(
                f"{columns.size} kinks are active at this point (and {unknowns.size} unknowns are implicit); "
                f"the linearised program is kept to {_MAX_COLUMNS}. Lower rtol, or move off the kinks."
            )
        ways = self.ways(records, passes)
        orders = {owner for owner in ways if kinds[self.rivals[owner]] == "order"}
        kept = columns[self.stands[columns] >= 0]
        rows = np.concatenate([columns, steering, self.stands[kept], unknowns])
        inputs = self.varied if inputs is None else tuple(inputs)
        cuts = np.concatenate([columns, unknowns])
        fulls = [
            self._jacobian(leaves, self._base(*each, ways), cuts, rows, inputs)
            for each in (Pass(records, active), *passes)
        ]
        solved = [
            (site.location, slots)
            for site in self.program.sites
            if site.kind == "root"
            for slots in site.slots().reshape(-1, site.shape[-1])
        ]
        place = solved[0][0] if solved else Location("", 0)

        def form(matrices: Sequence[np.ndarray], columns: np.ndarray) -> AbsNormal:
            return assemble(
                matrices[0],
                records,
                kinds,
                columns,
                steering,
                equalities,
                lambda slot, ways: self.kink(slot, records, True, ways),
                meetings_of(self.program, active),
                kept if self.late else None,
                Rivals(ways, matrices, orders),
            )

        roots: tuple[tuple[Location, AbsNormal], ...] = ()
        if solves and solved:
            places = [place for place, _ in solved]
            steered = np.isin(kinds[columns], ("branch", "tie", "ball"))
            parts = [
                alone(
                    full,
                    self.outputs,
                    columns.size,
                    unknowns.size,
                    [np.searchsorted(unknowns, slots) for _, slots in solved],
                    np.where(steered, records.steer[columns], columns),
                    places,
                )
                for full in fulls
            ]
            roots = tuple(
                (place, form([m[0] for m in matrices], columns[matrices[0][1]]))
                for place, *matrices in zip(places, *parts, strict=True)
            )
        drop = np.arange(unknowns.size)
        whole = [eliminated(full, drop, unknowns.size, place, determined) for full in fulls]
        result = form(whole, columns)
        if (
            steering.size and self.outputs and not unknowns.size
        ):  # a solver's answer is not right to the last digit
            at = self.outputs + columns.size
            gradients = whole[0][at : at + steering.size]
            self._refuse_jumps_nearby(leaves, inputs, steering, gradients, records)
        return replace(
            result,
            nearest_inactive=self._nearest_inactive(records, active | leaders),
            dtype=self.program.dtype,
            given_rules=self.program.given_rules,
            roots=roots,
        )

    def _refuse_jumps_nearby(
        self,
        leaves: Sequence[Any],
        inputs: Sequence[bool],
        slots: np.ndarray,
        gradients: np.ndarray,
        records: Records,
    ) -> None:
        """Ask neighbours at which the comparisons tie too, given the gradients of their increments."""
        moving = [np.asarray(a) for a, v in zip(leaves, inputs, strict=True) if v]
        sizes = [np.full(a.size, np.abs(a).max(initial=0.0) or 1.0) for a in moving]
        ends = np.cumsum([a.size for a in moving])

        def look(x: np.ndarray) -> Look:
            parts = iter(zip(np.split(x, ends[:-1]), moving, strict=True))
            at = []
            for leaf, varied in zip(leaves, inputs, strict=True):
                if varied:
                    part, like = next(parts)
                    leaf = part.reshape(like.shape).astype(like.dtype)
                at.append(leaf)
            found = self._discover(at, self._constants, 0.0, 0.0, None)
            outputs, terms = (
                np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])
                for arrays in (found.outputs, found.sizes)
            )
            return Look(outputs, terms, np.asarray(found.records.z, np.float64)[slots])

        refuse_jumps_nearby(
            look,
            np.concatenate([np.ravel(a).astype(np.float64) for a in moving]),
            np.concatenate(sizes),
            gradients[:, : int(ends[-1])],
            machine_epsilon(self.program.dtype),
            lambda i: self.kink(int(slots[i]), records, True),
        )

    def ways(self, records: Records, passes: Sequence[Pass]) -> dict[int, int]:
        """How many entries tie at an extremum's place, by the slot of its comparison: three or more."""
        if not passes:
            return {}
        owners = np.flatnonzero(self.rivals >= 0)
        found = [Pass(records, np.zeros(0)), *passes]
        return ways_of(owners, self.rivals[owners], found)

    def _base(self, records: Records, active: np.ndarray, ways: Mapping[int, int]) -> np.ndarray:
        """The selection at which a pass is linearised."""
        kinds = self.kinds
        base = np.where(active & (kinds != "tie"), 0.0, records.natural)
        base = np.where(kinds == "comparison", active, base)
        base = np.where(np.isin(kinds, ("jump", "index")), 0.0, base)
        base = np.where((kinds == "ball") | (kinds == "sort"), ~active, base)
        if ways:
            base[(kinds == "branch") & np.isin(records.steer, list(ways))] = (
                1.0  # the leader's side
            )
        for meeting in meetings_of(self.program, active):
            if meeting.site.kind == "spectrum":
                base[meeting.slots] = 1 / meeting.multiplicity
        return base

    def still_form(
        self, leaves: Sequence[Any], records: Records, active: np.ndarray, inputs: Sequence[bool]
    ) -> AbsNormal | None:
        """The form where the inputs move no kink and no unknown of a solve; None where they move some.

        It has no kinks. All solves must be known to have a derivative.
        """
        unknown = self.kinds == "root"
        if np.any(active & ~unknown & (self.kinds != "kink")):
            return None
        base, none = np.where(active, 0.0, records.natural), np.zeros(0, np.int64)
        rows = np.flatnonzero((active & ~unknown) | unknown)
        full = self._jacobian(leaves, base, none, rows, tuple(inputs))
        if np.any(full[self.outputs :]):
            return None
        A = full[: self.outputs]
        m, n = A.shape
        return AbsNormal(
            A, np.zeros((m, 0)), np.zeros((0, n)), np.zeros((0, 0)), (),
            self._nearest_inactive(records, active), self.program.dtype, self.program.given_rules,
        )  # fmt: skip

    def kink(self, slot: int, records: Records, active: bool, ways: int = 1) -> Kink:
        """The description of a kink at a slot."""
        site = self.program.sites[self.owner[slot]]
        place = np.unravel_index(self.local[slot], site.shape) if site.shape else ()
        index = tuple(int(i) for i in place)
        if site.kind == "ball":  # one kink for all entries under the norm
            index = ()
        elif site.kind in ("spectrum", "null"):  # of a matrix's entries the value's place
            index = (*index[:-2], index[-1])
        return Kink(
            "where"
            if site.kind == "comparison" and site.operation not in _OWN_NAMES
            else site.operation,
            site.location,
            index,
            float(abs(records.z[slot])),
            float(records.limit[slot]),
            site.slopes,
            active,
            ways,
        )

    def _with(self, constants: Sequence[Any]) -> Program:
        return replace(self.program, block=replace(self.program.block, consts=constants))

    def _run_discover(
        self, args: Sequence[Any], constants: Sequence[Any], atol: Any, rtol: Any, rival: Any
    ) -> Findings:
        copies = self.late and self.program.compares
        tape = Discover(self.program.dtype, atol, rtol, keeps=True, rival=rival, copies=copies)
        outputs, sizes = measured_outputs(self._with(constants), args, tape)
        self.keepers = [site for site, _ in tape.kept]
        return Findings(tape.outputs(), outputs, sizes, [arrays for _, arrays in tape.kept])

    def own_certificates(
        self, kept: Sequence[Sequence[np.ndarray]]
    ) -> list[tuple[Location, list[Any] | None]]:
        """Of each solve, in the order of ``AbsNormal.roots``, what its layer itself has to say, if anything."""
        values = dict(zip(map(id, self.keepers), kept, strict=True))
        found: list[tuple[Location, list[Any] | None]] = []
        for site in (s for s in self.program.sites if s.kind == "root"):
            for execution in np.ndindex(site.shape[: site.loops]):
                arrays, known = values.get(id(site)), None
                if arrays is not None:
                    items = [a[execution] for a in arrays]
                    known = list(site.node.certificates(site.leaves, items))
                found.append((site.location, known))
        return found

    def _run_linearise(
        self,
        args: Sequence[Any],
        constants: Sequence[Any],
        base: Any,
        columns: Any,
        rows: Any,
        forward: bool,
        inputs: tuple[bool, ...],
    ) -> jax.Array:
        """Jacobian of (F, z[rows]) in (x, r[columns]); padded columns point beyond the tape."""
        cut, point = self._cut_program(args, constants, base, columns, rows, inputs)
        if forward:
            return on_basis(lambda dx: jax.jvp(cut, (point,), (dx,))[1], point, self.program.size).T
        value, pull = jax.vjp(cut, point)
        return on_basis(lambda dy: pull(dy)[0], value, self.program.size)

    def _cut_program(
        self,
        args: Sequence[Any],
        constants: Sequence[Any],
        base: Any,
        columns: Any,
        rows: Any,
        inputs: tuple[bool, ...],
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
        """(x, r[columns]) ↦ (F, z[rows]), flat, and the point at which it is differentiated."""
        fixed = [a for a, v in zip(args, inputs, strict=True) if not v]
        x, unravel = ravel_pytree([a for a, v in zip(args, inputs, strict=True) if v])
        # the inputs chosen may be the less precise ones
        own, x = x.dtype, x.astype(self.program.dtype)
        program = self._with(constants)

        def cut(at: jax.Array) -> jax.Array:
            moving, still = iter(unravel(at[: x.size].astype(own))), iter(fixed)
            full = [next(moving) if v else next(still) for v in inputs]
            r = jnp.zeros(self.program.size, x.dtype).at[columns].set(at[x.size :], mode="drop")
            tape = Linearise(base, r)
            outs = run_program(program, full, tape)
            flat = [jnp.ravel(o).astype(x.dtype) for o in outs]
            return jnp.concatenate([*flat, tape.outputs()[rows].astype(x.dtype)])

        return cut, jnp.concatenate([x, jnp.zeros(columns.shape, x.dtype)])

    def linearised(
        self,
        leaves: Sequence[Any],
        records: Records,
        active: np.ndarray,
        inputs: tuple[bool, ...],
    ) -> "Linearised | None":
        """The cut program at a point; None where its kinks are no scalar ones, or are those of solves."""
        if np.any(active & (self.kinds != "kink")) or np.any(self.kinds == "root"):
            return None
        columns = np.flatnonzero(active)
        base = np.where(active, 0.0, records.natural).astype(self.program.dtype)
        cut, at = self._cut_program(list(leaves), self._constants, base, columns, columns, inputs)
        return Linearised(cut, at, self.outputs, at.size - columns.size, self.program.dtype)

    def _jacobian(
        self,
        leaves: Sequence[Any],
        base: np.ndarray,
        columns: np.ndarray,
        rows: np.ndarray,
        inputs: tuple[bool, ...],
    ) -> np.ndarray:
        # pad to powers of two, so that a point with another number of active kinks compiles nothing new
        padded_columns, padded_rows = padded(columns, self.program.size), padded(rows, 0)
        n = sum(int(np.size(a)) for a, v in zip(leaves, inputs, strict=True) if v)
        m = self.outputs
        cheaper = "forward" if n + padded_columns.size <= 2 * (m + padded_rows.size) else "reverse"
        modes = sorted(self.program.modes, key=lambda mode: mode != cheaper)
        if not modes:
            raise InvalidInputError(
                "the program holds both a while loop, which has no reverse derivative, and a custom_vjp, "
                "which has no forward derivative. Give the function a custom_jvp, or the loop a static length."
            )
        for mode in modes:
            full = self._linearise(
                list(leaves),
                self._constants,
                base.astype(self.program.dtype),
                padded_columns,
                padded_rows,
                forward=mode == "forward",
                inputs=inputs,
            )
            matrix = np.asarray(full, dtype=np.float64)
            matrix = matrix[: m + rows.size, : n + columns.size]
            # 0·inf in a branch not taken spoils a reverse sweep alone
            if np.all(np.isfinite(matrix)):
                return matrix
        raise NotLipschitzError(
            f"{name_singular_equation(self.program, leaves)}: the slope is not finite at this point. "
            "Move the point, bound the operand away from the singularity, or for a norm use cx.norm."
        )

    def _nearest_inactive(self, records: Records, active: np.ndarray) -> Kink | None:
        candidates = np.flatnonzero(~active & np.isin(self.kinds, KINDS) & np.isfinite(records.z))
        if candidates.size == 0:
            return None
        size = np.maximum(records.size[candidates], machine_epsilon(np.float64))
        nearest = candidates[np.argmin(np.abs(records.z[candidates]) / size)]
        return self.kink(int(nearest), records, False)
