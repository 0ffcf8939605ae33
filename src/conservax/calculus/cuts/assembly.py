"""From the Jacobian of a cut program to its abs-normal form: one group of columns a kink."""

import functools
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

import numpy as np
import scipy

from ...numerics import machine_epsilon
from ..operations.discover import Records
from ..operations.spectral_kinks import Meeting, resolve
from ..sets.abs_normal import AbsNormal, Group, Kink
from .rivals import ALONE, Rivals, as_one_tie, pieces_apart, refuse_order
from .selections import Selections, meets, refuse_jump_nearby

_TORN = 1e-3  # relative: pieces that differ by more along the tie are no rounding
_RANK_ONE = 1e-9  # relative; float64 rows of one comparison that differ by more are no multiples


def assemble(
    jacobian: np.ndarray,
    records: Records,
    kinds: np.ndarray,
    columns: np.ndarray,
    comparisons: np.ndarray,
    equalities: Set[int],
    kink_at: Callable[[int, int], Kink],
    meetings: Sequence[Meeting] = (),
    standing: np.ndarray | None = None,
    rivals: Rivals = ALONE,
) -> AbsNormal:
    """The abs-normal form of a Jacobian with rows (F, z[columns], z[comparisons]) and columns (x, r).

    ``columns`` are the active slots that were cut, ``comparisons`` the slots of the comparisons
    that steer some of them, ``equalities`` those among them that ask for z = 0; ``kink_at(slot, ways)``
    describes a kink; ``meetings`` are the eigenvalues and singular values that meet.
    ``standing``, if both sides of torn values went on as far as they could: the branches of which the last
    rows hold what JAX makes of them; their pieces must meet where the comparison ties, not here alone.
    ``rivals``: extrema that three or more entries share, and the Jacobians of the passes over these.
    """
    k = columns.size
    kept = np.zeros(0, np.int64) if standing is None else standing
    m = jacobian.shape[0] - k - comparisons.size - kept.size
    stands = dict(zip(map(int, kept), jacobian[jacobian.shape[0] - kept.size :], strict=True))
    n = jacobian.shape[1] - k
    place_of = {int(slot): place for place, slot in enumerate(columns)}
    jacobian = resolve(jacobian, m, n, place_of, meetings, records.z.dtype)
    increments, switches = jacobian[m : m + k], jacobian[m + k :]
    round_off = max(_RANK_ONE, 64 * machine_epsilon(records.z.dtype))
    spectral = {meeting.owner: meeting for meeting in meetings}
    members: dict[int, list[int]] = {owner: [] for owner in spectral}
    for slot in columns[~np.isin(kinds[columns], ("spectrum", "null"))]:
        steered = kinds[slot] in ("branch", "tie", "ball")
        members.setdefault(int(records.steer[slot]) if steered else int(slot), []).append(int(slot))

    @functools.cache
    def passed() -> np.ndarray:
        """r as it follows from the inputs with JAX's weights, (k, n)."""
        weights = records.choice[columns].astype(np.float64)[:, None] * increments
        return np.linalg.lstsq(np.eye(k) - weights[:, n:], weights[:, :n])[0]

    @functools.cache
    def largest() -> float:
        return float(np.abs(jacobian[:, :n]).max(initial=0.0))

    compared = dict(zip(map(int, comparisons), switches[: comparisons.size], strict=True))
    ties = {o for o in members if kinds[o] == "tie"}
    sided = {
        o: [place_of[s] for s in slots]
        for o, slots in members.items()
        if slots and kinds[o] != "ball" and o not in equalities
    }
    selections = Selections(increments, compared, sided, place_of, ties)

    new_rows: list[np.ndarray] = []
    members_of: list[tuple[list[int], np.ndarray]] = []  # new columns: places of old ones, weights
    groups: list[Group] = []
    for owner in sorted(members):
        if owner in spectral:
            meeting, start = spectral[owner], len(new_rows)
            new_rows.extend(meeting.rows)
            members_of.extend(meeting.units)
            for kind, leader, jax_weights, count in meeting.kinds:
                own = tuple(range(start, start + count))
                ways = 1 if kind == "segment" else len(jax_weights)
                groups.append(Group(kink_at(owner, ways), own, jax_weights, leader, kind))
                start += count
            continue
        slots = members[owner]
        places = [place_of[s] for s in slots]
        rows, units = increments[places], np.eye(len(places))
        leader, kind, switch = 0, "segment", None
        jax_weights: tuple[float, ...] = (float(records.choice[owner]),)
        if kinds[owner] == "tie":
            order = sorted([owner, *slots])
            kind, leader = "simplex", order.index(owner)
            jax_weights = tuple(float(records.choice[s]) for s in order)
        elif kinds[owner] == "ball":
            kind = "ball"
            jax_weights = tuple(float(c) for c in records.choice[slots])
        elif owner in rivals.ways:
            kind, jax_weights = "simplex", (1.0, *[0.0] * (rivals.ways[owner] - 1))
            gaps = np.array([p[m : m + k][places] for p in rivals.of(owner)])
            gaps = pieces_apart(gaps, places, n)
            others = np.setdiff1d(np.arange(m + k + comparisons.size), [m + p for p in places])
            felt = jacobian[np.ix_(others, [n + p for p in places])]
            floor = round_off * np.abs(jacobian[: m + k, :n]).max(initial=0.0)
            if np.abs(felt @ gaps).max(initial=0.0) <= floor * np.abs(felt).max(initial=1.0):
                continue  # the pieces are the same to first order
            if owner in rivals.orders:
                refuse_order(kink_at(owner, 1))
            at = m + k + np.searchsorted(comparisons, owner)
            switches_of = np.array([p[at] for p in rivals.of(owner)])
            rows, units = as_one_tie(gaps, switches_of, n, floor, kink_at(owner, 1))
        elif kinds[owner] == "comparison" or len(slots) > 1:
            if kinds[owner] == "comparison":  # JAX follows the value that stands in each branch
                jax_weights = (float(np.mean(records.choice[slots])),)
            # one comparison switches all that it steers together: eliminate them from each other
            if standing is not None:
                taken = [stands.get(s) for s in slots]
                jax_weights = (_weight(rows, taken, jax_weights[0], n, places, passed),)
            rows = np.linalg.solve(
                np.eye(len(places)) - rows[:, n:][:, places], _without(rows, n, places)
            )
            if standing is not None:
                scale = np.abs(jacobian[: m + k, :n]).max(initial=0.0)
                if np.abs(rows).max(initial=0.0) <= round_off * scale:
                    continue  # the sides are the same to first order
                switch = switches[np.searchsorted(comparisons, owner)]
                if selections.part(rows, switch, round_off, owner):
                    refuse_jump_nearby(kink_at(owner, 1))
            if owner not in equalities:
                switch = switches[np.searchsorted(comparisons, owner)]
                felt = jacobian[: m + k, [n + p for p in places]]
                felt[[m + p for p in places]] = 0.0
                felt = felt[np.any(felt, axis=1)]
                # within rounding of the tie the gap is not yet 0, and turns with what multiplies it
                slack = round_off * largest() if records.z[owner] else 0.0
                if np.abs(felt @ rows).max(initial=0.0) > slack:
                    _refuse_torn_nearby(rows, felt, switch, n, kink_at(owner, 1))
                rows, units, switch = _as_one_kink(rows, units, switch)
        start = len(new_rows)
        new_rows.extend(rows)
        members_of.extend((places, unit) for unit in units)
        ways = 1 if kind == "segment" else len(jax_weights)
        groups.append(
            Group(
                kink_at(owner, ways),
                tuple(range(start, len(new_rows))),
                jax_weights,
                leader,
                kind,
                switch,
                owner in equalities,
            )
        )

    to_new = scipy.sparse.csc_array(
        (
            np.concatenate([np.zeros(0), *(weights for _, weights in members_of)]),
            np.concatenate([np.zeros(0, np.int64), *(places for places, _ in members_of)]),
            np.cumsum([0, *(len(places) for places, _ in members_of)]),
        ),
        shape=(k, len(members_of)),
    )
    cut_rows = np.array(new_rows).reshape(len(new_rows), n + k)

    def in_new(row: np.ndarray) -> np.ndarray:
        return np.concatenate([row[:n], row[n:] @ to_new])

    return AbsNormal(
        jacobian[:m, :n],
        jacobian[:m, n:] @ to_new,
        cut_rows[:, :n],
        cut_rows[:, n:] @ to_new,
        tuple(g if g.switch is None else replace(g, switch=in_new(g.switch)) for g in groups),
        None,
        np.dtype(np.float64),
    )


def _weight(
    gaps: np.ndarray,
    taken: Sequence[np.ndarray | None],
    otherwise: float,
    n: int,
    places: Sequence[int],
    passed: Callable[[], np.ndarray],
) -> float:
    """The share of the upper side in what JAX makes of branches, from their rows.

    ``passed()`` (k, n) is what JAX lets the other kinks pass.
    """
    if any(t is None for t in taken):
        return otherwise
    both = np.stack([gaps, np.array(taken)])
    rest = _without(both.reshape(-1, gaps.shape[1]), n, places)
    if np.any(rest[:, n:]):
        rest = rest[:, :n] + rest[:, n:] @ passed()
    gaps, stands = rest[:, :n].reshape(2, -1)
    square = float(gaps @ gaps)
    share = float(gaps @ stands) / square if square else otherwise
    return min(1.0, max(0.0, share))


def _refuse_torn_nearby(
    rows: np.ndarray, felt: np.ndarray, switch: np.ndarray, n: int, kink: Kink
) -> None:
    """Smooth pieces and a comparison that moves: where it ties nearby the pieces must meet, too.

    ``felt`` is what the program takes of each branch: their sum counts, for one value may be chosen
    several times, with and without its derivative, as in a ``cond`` under vmap.
    """
    if np.any(switch[:n]) and not np.any(switch[n:]) and not np.any(rows[:, n:]):
        scale = float(np.linalg.norm(np.abs(felt) @ np.abs(rows)))
        if not meets(felt @ rows, switch, _TORN, scale):
            refuse_jump_nearby(kink)


def _without(rows: np.ndarray, n: int, places: Sequence[int]) -> np.ndarray:
    cleared = rows.copy()
    cleared[:, [n + p for p in places]] = 0.0
    return cleared


def _as_one_kink(
    rows: np.ndarray, units: np.ndarray, switch: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Continuity makes the branches' difference a multiple w of the comparison's own increment.

    Where that shows in the rows, the comparison becomes one scalar kink with z = its increment;
    otherwise its branches stay separate columns that share one weight, and keep their switch.
    """
    norm = switch @ switch
    if norm == 0:
        return rows, units, switch
    multiples = rows @ switch / norm
    if np.linalg.norm(rows - np.outer(multiples, switch)) > _RANK_ONE * np.linalg.norm(rows):
        return rows, units, switch
    return switch[None, :], multiples[None, :] @ units, None
