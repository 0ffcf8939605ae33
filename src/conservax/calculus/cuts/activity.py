"""Which kinks are active at a point, and what cannot be differentiated there."""

from collections.abc import Callable

import numpy as np

from ...errors import (
    ConservaxError,
    DiscontinuousError,
    InvalidInputError,
    NotARootError,
    NotLipschitzError,
    TooManyKinksError,
    UnsupportedOperationError,
)
from ...numerics import is_root
from ..operations.discover import Records
from ..operations.sorting import active_comparators
from ..operations.spectral_kinks import activate_spectra
from ..passes.steps import LONGEST_RUN
from ..tracing.program import Program, Site

_NO_VALUE = "has no value at the switch (NaN)"
_SCALAR = ("kink", "comparison", "ball")
_INDEX = "a comparison that ties here decides an integer or a boolean"
_MEASURED = (
    *_SCALAR,
    "tie",
    "sort",
    "jump",
    "run",
    "rows",
    "loop",
    "index",
    "matrix",
    "edge",
    "spectrum",
    "null",
)


def is_of_index(refusal: UnsupportedOperationError) -> bool:
    """Whether a refusal is about an integer that a comparison decides."""
    return _INDEX in str(refusal)


def lacks_a_value(refusal: ConservaxError) -> bool:
    """Whether a refusal is about a side that is an undetermined form at its switch."""
    return _NO_VALUE in str(refusal)


def active_slots(
    program: Program, kinds: np.ndarray, owner: np.ndarray, records: Records
) -> tuple[np.ndarray, int]:
    """The active slots, and how many rounds the sorts of this program need for their ties.

    Raises InvalidInputError (NaN at a kink), NotLipschitzError (an edge, or a side that is an undetermined
    form at its switch), DiscontinuousError (branches that differ at their switch, a step function on its
    step), UnsupportedOperationError (a kink inside a while loop), TooManyKinksError (a sort of too many
    equal entries) and NotARootError (a solve inside the program that is none), each naming the line.
    """

    def site(slots: np.ndarray) -> Site:
        return program.sites[owner[np.flatnonzero(slots)[0]]]

    near = np.abs(records.z) <= records.limit
    measured = np.isin(kinds, _MEASURED)
    if np.any(bad := np.isnan(records.z) & measured):
        raise InvalidInputError(
            f"{site(bad).location}: the operand of '{site(bad).operation}' is NaN; a kink cannot be placed "
            "there. Check the inputs and the operations before this line."
        )
    if np.any(bad := near & (kinds == "jump")):
        raise DiscontinuousError(
            f"{site(bad).location}: '{site(bad).operation}' jumps at this point, so the program has no "
            "conservative Jacobian. Move the point off the jump, or replace the operation."
        )
    if np.any(bad := near & (kinds == "run")):
        raise TooManyKinksError(
            f"{site(bad).location}: more than {LONGEST_RUN} entries in a row tie at this "
            f"{site(bad).operation}. Whether the program jumps there is not known: the calculus tries all "
            "orders of entries that tie, up to that many. Lower rtol if they do not tie, write the line "
            "without their order (a max, a sum), or move the point off the tie."
        )
    if np.any(bad := near & (kinds == "rows")):
        raise UnsupportedOperationError(
            f"{site(bad).location}: entries tie in a row of this {site(bad).operation}, and their order is "
            "read. Of a single row the calculus tries both orders; of several at once it does not know "
            "whether the program jumps. Go over the rows with jax.lax.map, or move the point off the tie."
        )
    if np.any(bad := near & (kinds == "edge")):
        raise NotLipschitzError(
            f"{site(bad).location}: {site(bad).operation} has no finite derivative. Move the point, or keep "
            "the operand away from there."
        )
    if np.any(bad := near & (kinds == "index")):
        raise UnsupportedOperationError(
            f"{site(bad).location}: {_INDEX}, and the "
            "calculus cannot follow both of its values from there on. Write the choice with jnp.where, or "
            "move the point off the tie."
        )
    if np.any(bad := near & (kinds == "loop")):
        raise UnsupportedOperationError(
            f"{site(bad).location}: a kink ('{site(bad).operation}') is active inside a while loop, where it "
            "cannot be given its own selection and may change the number of iterations. Use a loop of static "
            "length (fori_loop, scan), or move the point off the kink."
        )
    if np.any(bad := near & (kinds == "matrix")):
        raise UnsupportedOperationError(
            f"{site(bad).location}: the derivatives of '{site(bad).operation}' at this point are matrices "
            "whose set the calculus cannot list. Move the point off the kink, differentiate with jax.jacobian "
            "(one element), or ask the cone's own clarke(v) for bounds."
        )
    _require_roots(program, records)
    active = near & np.isin(kinds, _SCALAR)
    tied = near & (kinds == "tie")
    members = np.bincount(records.steer[tied], minlength=near.size)
    active[tied] = members[records.steer[tied]] > 1
    needed = _activate_sorts(program, near, active)
    activate_spectra(program, near, active)
    _activate_branches(kinds, records, near, active, site)
    return active, needed


def _activate_branches(
    kinds: np.ndarray,
    records: Records,
    near: np.ndarray,
    active: np.ndarray,
    site: Callable[[np.ndarray], Site],
) -> None:
    """A branch is as active as its comparison; branches that differ decide a comparison that is only near."""
    branches = (kinds == "branch") & (records.steer >= 0)
    switch = np.where(branches, records.steer, 0)
    apart = branches & ~near & active[switch]
    torn = apart & (records.z[switch] == 0)
    if np.any(formless := torn & np.isnan(records.z)):
        raise NotLipschitzError(
            f"{site(formless).location}: a side of this {site(formless).operation} {_NO_VALUE}: it is an "
            "undetermined form there, such as 0 · log 0, whose slope is infinite, or 0/0, and no finite slope "
            "can be read. Move the point off the switch, or bound the operand away from the singularity."
        )
    if np.any(torn):
        raise DiscontinuousError(
            f"{site(torn).location}: the branches of this {site(torn).operation} differ at the switch (by "
            f"{abs(records.z[torn][0]):.3g}), so its value jumps there; the calculus follows no jump, not even "
            "one that a later line undoes. Make the branches agree where they meet, or move the point off "
            "the switch."
        )
    active[switch[apart]] = False
    active |= branches & active[switch]


def _activate_sorts(program: Program, near: np.ndarray, active: np.ndarray) -> int:
    needed = 1
    for site in program.sites:
        if site.kind != "sort" or not site.shape[-1]:
            continue
        slots = np.moveaxis(site.slots(), site.loops, -2).reshape(
            -1, site.shape[site.loops], site.shape[-1]
        )
        for network in slots[near[slots[:, 0]].any(axis=-1)]:
            swaps, depth = active_comparators(near[network[0]], len(network), site.read)
            active[network[swaps]] = True
            needed = max(needed, depth)
    return needed


def _require_roots(program: Program, records: Records) -> None:
    for site in program.sites:
        if site.kind != "root":
            continue
        for slots in site.slots().reshape(-1, site.shape[-1]):
            z = records.z[slots]
            if np.all(np.isinf(z)):  # a branch that was not executed
                continue
            residual, scale = float(np.max(np.abs(z))), float(np.max(records.size[slots]))
            if not is_root(residual, scale, records.z.dtype):
                raise NotARootError(
                    f"{site.location}: the solver returned a point that is no root of its optimality function: "
                    f"residual {residual:.3g} against terms of size {scale:.3g}. Let the solver run longer."
                )
