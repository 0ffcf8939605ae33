"""A program at one point: its kinks decided, its abs-normal form on demand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import (
    ConservaxError,
    DiscontinuousError,
    InvalidInputError,
    TooManyKinksError,
    UnsupportedOperationError,
)
from ...numerics import Tolerance, exact_input_tolerance
from ..operations.discover import Records
from ..sets.abs_normal import AbsNormal, Kink
from ..tracing.invocation import Invocation, differentiable, require_values
from ..tracing.locations import Location
from .activity import active_slots, is_of_index, lacks_a_value
from .cut import KINDS, Cutter
from .findings import Linearised
from .rivals import Pass

_MAX_RIVALS = 64  # a pass each


def cutter_for(
    call: Invocation,
    varied: Sequence[bool],
    rounds: int = 2,
    late: bool = False,
    groups: bool = False,
) -> Cutter:
    """The cutter of calls of this form, made once and kept as long as the function lives."""
    key = (Cutter, tuple(varied), rounds, late, groups)
    return call.kept(key, lambda: Cutter(call, varied, rounds, late, groups))


@dataclass(frozen=True)
class Point:
    """A program at one point, where it is decided which kinks are active."""

    cutter: Cutter
    leaves: Sequence[Any]
    records: Records
    active: np.ndarray
    kept: Sequence[Sequence[np.ndarray]] = ()
    passes: tuple[Pass, ...] = ()  # the further ones, where an extremum has several rivals

    @classmethod
    def of(cls, call: Invocation, varied: Sequence[bool], tolerance: Tolerance) -> "Point":
        """The point of a call, its kinks decided at a tolerance.

        A program that jumps is read once more, for jumps that it mends itself: one that jumps within the
        tolerance of the point too, unless it mends nothing.
        """
        try:
            first = cls._of(call, varied, tolerance, False)
            if not first._nearly_jumps(tolerance):
                return first
            try:
                again = cls._late(call, varied, tolerance)
                again.form()
            except ConservaxError:
                return first
            return again
        except (DiscontinuousError, UnsupportedOperationError) as refusal:
            if isinstance(refusal, UnsupportedOperationError) and not is_of_index(refusal):
                raise
            try:
                return cls._late(call, varied, tolerance)
            except TooManyKinksError:  # it may well mend itself
                raise
            except ConservaxError as second:
                raise (second if lacks_a_value(second) else refusal) from None

    @classmethod
    def _late(cls, call: Invocation, varied: Sequence[bool], tolerance: Tolerance) -> "Point":
        """The point by a second reading; by a third one, where sums may mend what the second could not."""
        try:
            return cls._of(call, varied, tolerance, True)
        except (DiscontinuousError, UnsupportedOperationError):
            if not cutter_for(call, varied, 2, True).program.torn_sums:
                raise
            return cls._of(call, varied, tolerance, True, True)

    @classmethod
    def _of(
        cls,
        call: Invocation,
        varied: Sequence[bool],
        tolerance: Tolerance,
        late: bool,
        groups: bool = False,
    ) -> "Point":
        rounds = 2
        while True:
            cutter = cutter_for(call, varied, rounds, late, groups)
            found = cutter.discover(call.leaves, tolerance)
            records = found.records
            active, needed = active_slots(cutter.program, cutter.kinds, cutter.owner, records)
            if needed <= rounds:
                passes = _with_other_rivals(cutter, call.leaves, tolerance, records)
                return cls(cutter, call.leaves, records, active, found.kept, passes)
            rounds = needed

    def _nearly_jumps(self, tolerance: Tolerance) -> bool:
        """Whether a step function stands within the tolerance of its step."""
        slots, records = self.cutter.steps, self.records
        if not slots.size:
            return False
        z, size = np.abs(records.z[slots]), records.size[slots]
        return bool(np.any(z <= tolerance.atol + tolerance.rtol * np.maximum(size, z)))

    def form(
        self, inputs: Sequence[bool] | None = None, solves: bool = False, determined: bool = False
    ) -> AbsNormal:
        """The abs-normal form in some of the varied inputs, all by default; as in ``Cutter.cut``."""
        return self.cutter.cut(
            self.leaves, self.records, self.active, inputs, solves, determined, self.passes
        )

    def still_form(self, inputs: Sequence[bool]) -> AbsNormal | None:
        """As in ``Cutter.still_form``."""
        return self.cutter.still_form(self.leaves, self.records, self.active, inputs)

    def linearised(self, inputs: tuple[bool, ...]) -> Linearised | None:
        """The cut program in some of the inputs; None where kinks are no scalar ones, or there are solves."""
        return self.cutter.linearised(self.leaves, self.records, self.active, inputs)

    def kinks(self) -> tuple[tuple[Kink, ...], Kink | None]:
        """The active kinks, in execution order, and the nearest other one, without a matrix."""
        cutter, records = self.cutter, self.records
        cut = np.flatnonzero(self.active & np.isin(cutter.kinds, KINDS))
        steered = np.isin(cutter.kinds[cut], ("tie", "ball", "spectrum", "null"))
        owners, ways = np.unique(np.where(steered, records.steer[cut], cut), return_counts=True)
        ties = cutter.kinds[owners] == "tie"
        for owner, count in cutter.ways(self.records, self.passes).items():
            ways[owners == owner] = count
            ties[owners == owner] = True
        kinks = (
            cutter.kink(int(slot), records, True, int(count) if tie else 1)
            for slot, count, tie in zip(owners, ways, ties, strict=True)
        )
        return tuple(kinks), cutter._nearest_inactive(records, self.active)

    def own_certificates(self) -> list[tuple[Location, list[Any] | None]]:
        """Of each solve inside, in the order of ``AbsNormal.roots``, its layer's own certificates."""
        return self.cutter.own_certificates(self.kept)


def _with_other_rivals(
    cutter: Cutter, leaves: Sequence[Any], tolerance: Tolerance, first: Records
) -> tuple[Pass, ...]:
    """Passes in which each extremum holds its second rival against its leader, its third, and so on."""
    if not cutter.further.size:
        return ()
    passes: list[Pass] = []
    records = first
    while np.any(near := np.abs(records.z[cutter.further]) <= records.limit[cutter.further]):
        if len(passes) == _MAX_RIVALS:
            site = cutter.program.sites[cutter.owner[cutter.further[near][0]]]
            raise TooManyKinksError(
                f"{site.location}: more than {_MAX_RIVALS} entries tie at this {site.operation}. Lower rtol, "
                "or write the line with max."
            )
        records = cutter.discover(leaves, tolerance, len(passes) + 1).records
        active, _ = active_slots(cutter.program, cutter.kinds, cutter.owner, records)
        passes.append(Pass(records, active))
    return tuple(passes)


def point_of(
    call: Invocation,
    args: Sequence[Any],
    argnums: Sequence[int],
    atol: float | None = None,
    rtol: float | None = None,
) -> Point:
    """The point of ``call``, differentiated in the real numbers of ``args[n]``, n in ``argnums``.

    Raises InvalidInputError where these are traced, not finite, or none.
    """
    named = [(f"argument {n}", arg) for n, arg in enumerate(args)]
    require_values(named, "this")
    varied = call.owned_by(argnums)
    for number in argnums:
        if jax.tree.leaves(args[number]) and not any(call.owned_by((number,))):
            kinds = {
                str(jnp.result_type(leaf))
                if isinstance(leaf, (bool, int, float, complex)) or hasattr(leaf, "dtype")
                else type(leaf).__name__
                for leaf in jax.tree.leaves(args[number])
            }
            raise InvalidInputError(
                f"derivatives are taken in real floating-point inputs; argument {number} holds none "
                f"({', '.join(sorted(kinds))}). Convert it to float, or leave it out of argnums."
            )
    require_finite([named[n] for n in argnums])
    moving = [a for a, v in zip(call.leaves, varied, strict=True) if v]
    default = exact_input_tolerance(jnp.result_type(*moving) if moving else jnp.result_type(float))
    return Point.of(
        call,
        varied,
        Tolerance(default.atol if atol is None else atol, default.rtol if rtol is None else rtol),
    )


def cut(
    fun: Callable[..., Any],
    args: Sequence[Any],
    argnums: Sequence[int],
    atol: float | None = None,
    rtol: float | None = None,
) -> AbsNormal:
    """The abs-normal form of ``fun`` at ``args`` in the arguments ``argnums``."""
    return point_of(Invocation.of(fun, args), args, argnums, atol, rtol).form()


def require_finite(named: Sequence[tuple[str, Any]]) -> None:
    """Raise InvalidInputError where a named pytree holds NaN or infinity in place of a real number."""
    for name, tree in named:
        for path, leaf in jax.tree_util.tree_leaves_with_path(differentiable(tree)):
            if not np.all(np.isfinite(np.asarray(leaf, dtype=np.float64))):
                raise InvalidInputError(
                    f"{name}{jax.tree_util.keystr(path)} holds NaN or infinity; pass finite values."
                )
