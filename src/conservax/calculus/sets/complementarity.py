"""One-sided derivatives: follow a direction through the cut linearisation, kink by kink.

    z = E v + L r,    r = Φ(z),    f'(x; v) = A v + H r,

where Φ keeps what each kink lets pass in that direction: max(z, 0) for a scalar kink, the largest
increment of a tie, z_j²/‖z‖ for a norm at 0. A program's kinks see earlier ones only and are decided
one after the other; an implicit function's see each other, which makes a linear complementarity
problem (docs/theory.md#one-sided-derivatives).
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import NotUniqueError, SingularError, TooManyKinksError, UnsupportedOperationError
from .abs_normal import AbsNormal, Group
from .pivots import is_p_matrix

_MAX_PATTERNS = 1 << 12
_ROUND_OFF = 1e-10  # relative to the terms


def one_sided_derivative(form: AbsNormal, v: np.ndarray) -> np.ndarray:
    """f'(x; v) = lim (f(x + t v) − f(x))/t, t ↓ 0, of the function whose form this is: (n,) to (m,).

    Raises:
        NotUniqueError, SingularError: an implicit function's system has several solutions in this
            direction, or none. TooManyKinksError: neither could be excluded.
        UnsupportedOperationError: a kink's side does not follow from the form.

    Source: Griewank, Bernt, Radons, Streubel (LAA 2015); docs/theory.md#one-sided-derivatives.
    """
    groups = [form.groups[i] for i in form.deciding()]
    for g in groups:
        if g.kind == "segment" and len(g.columns) > 1 and g.switch is None:
            raise UnsupportedOperationError(
                f"{g.kink}: its branches differ by more than a multiple of the comparison's increment, and "
                "the side that a direction takes is not recorded. Write the where with max, min or abs."
            )
    order = form.order()
    if order is not None:
        r = _forward(form, v, [form.groups[i] for i in order if form.groups[i] in groups])
    else:
        r = _complementary(form, v, groups)
    return form.A @ v + form.H @ r


def _forward(form: AbsNormal, v: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    r = np.zeros(form.L.shape[0])
    for g in groups:
        columns = list(g.columns)
        z = form.E[columns] @ v + form.L[columns] @ r
        if g.switch is None:
            r[columns] = _passed(g, z)
        elif g.on_switch:
            r[columns] = 0.0
        else:
            terms = np.concatenate([v, r])
            side, size = float(g.switch @ terms), float(np.abs(g.switch) @ np.abs(terms))
            if abs(side) > _ROUND_OFF * size:
                r[columns] = z if side > 0 else 0.0
            elif np.linalg.norm(z) > _ROUND_OFF * np.linalg.norm(terms):
                raise UnsupportedOperationError(
                    f"{g.kink}: the side that this direction takes does not follow from first derivatives: the "
                    "comparison does not move (its side takes second derivatives), or several comparisons at "
                    "their ties decide together. Choose another direction, or write the where with max and min."
                )
    return r


def _passed(group: Group, z: np.ndarray) -> np.ndarray:
    """r = Φ(z): the part of its columns' increments that a kink lets pass."""
    if group.kind == "ball":
        length = np.linalg.norm(z)
        return z**2 / length if length > 0 else np.zeros_like(z)
    if group.kind == "segment":
        return np.zeros_like(z) if group.on_switch else np.maximum(z, 0.0)
    r = np.zeros_like(z)
    if z.size and z.max() > 0:
        winner = int(np.argmax(z))
        r[winner] = z[winner]
    return r


def _complementary(form: AbsNormal, v: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """r with z = E v + L r, r = Φ(z), for kinks that see each other; errors unless it is unique."""
    bad = next((g for g in groups if g.kind == "ball" or g.switch is not None or g.on_switch), None)
    if bad is not None:
        raise UnsupportedOperationError(
            f"{bad.kink}: one-sided derivatives of an implicit function need scalar kinks and ties. "
            "Take a difference quotient of the solver, or .bounds."
        )
    columns = [c for g in groups for c in g.columns]
    local = np.array(columns)
    L, b = form.L[np.ix_(local, local)], form.E[local] @ v
    N = np.eye(len(columns)) - L
    scalar = all(g.kind == "segment" for g in groups)
    unique = is_p_matrix(N) if scalar else None
    full = np.zeros(form.L.shape[0])
    if unique:
        full[local] = solve_lcp(N, b)
        return full
    if math.prod(max(2, g.ways) for g in groups) > _MAX_PATTERNS:
        raise TooManyKinksError(
            f"{len(groups)} kinks of an implicit function are active, and that its one-sided derivative is "
            "unique was not shown: N is not known to be a P-matrix. Run cx.check, or take .element."
        )
    found: list[np.ndarray] = []
    scale = float(np.abs(b).max(initial=0.0))
    for r in _consistent_patterns(groups, L, b, scale):
        if all(
            np.abs(r - other).max(initial=0.0) > 1e-7 * max(scale, np.abs(r).max())
            for other in found
        ):
            found.append(r)
    places = " ; ".join(str(g.kink) for g in groups)
    if not found:
        raise SingularError(
            f"the linearised equations have no solution in this direction, so the implicit function has no "
            f"one-sided derivative there. Kinks: {places}. Run cx.check for the witness."
        )
    if len(found) > 1:
        raise NotUniqueError(
            f"the linearised equations have {len(found)} solutions in this direction (or more), so the "
            f"one-sided derivative is not determined. Kinks: {places}. Run cx.check for the witness."
        )
    full[local] = found[0]
    return full


def _consistent_patterns(
    groups: Sequence[Group], L: np.ndarray, b: np.ndarray, scale: float
) -> Iterator[np.ndarray]:
    """Solutions r of z = b + L r that each extreme selection yields, if its signs come out right."""
    starts = np.cumsum([0, *(len(g.columns) for g in groups)])
    for weights in itertools.product(*(list(g.vertices()) for g in groups)):
        chosen = np.array(
            [w[p] for g, w in zip(groups, weights, strict=True) for p in g.places], dtype=float
        )
        on = chosen == 1.0
        system = np.eye(int(on.sum())) - L[np.ix_(on, on)]
        singular = system.size and np.linalg.cond(system) > 1e12
        solved = np.linalg.lstsq(system, b[on], rcond=1e-12)[0] if system.size else np.zeros(0)
        candidates = [solved]
        if singular:
            if np.linalg.norm(system @ solved - b[on]) > _ROUND_OFF * max(scale, 1e-300):
                continue
            null = np.linalg.svd(system)[2][-1]
            size = max(scale, float(np.abs(solved).max(initial=0.0)), 1.0)
            candidates += [solved + t * size * null for t in (-1.0, -1e-3, 1e-3, 1.0)]
        for candidate in candidates:
            r = np.zeros(len(b))
            r[on] = candidate
            z = b + L @ r
            slack = _ROUND_OFF * max(scale, float(np.abs(r).max(initial=0.0)))
            if all(
                _agrees(g, z[start:stop], on[start:stop], slack)
                for g, start, stop in zip(groups, starts[:-1], starts[1:], strict=True)
            ):
                yield r


def _agrees(group: Group, z: np.ndarray, on: np.ndarray, slack: float) -> bool:
    """Whether the increments z ask for the choice ``on`` that produced them."""
    if group.kind == "segment":
        return bool(np.all(z[on] >= -slack) and np.all(z[~on] <= slack))
    best = max(0.0, float(z.max(initial=0.0)))
    return bool((z[on][0] if np.any(on) else 0.0) >= best - slack)


def solve_lcp(N: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The solution of r ≥ 0, w = N r − b ≥ 0, r · w = 0 for a P-matrix N (k, k), where it is unique.

    Semismooth Newton (guess the set of positive r, solve, correct the guess) settles almost always in
    a few steps; should it cycle, Murty's least-index rule decides, which is finite for P-matrices.

    Raises SingularError if neither ends in a solution, which a P-matrix excludes up to round-off.

    Source: Murty, Note on a Bard-type scheme for solving the complementarity problem (Opsearch 1974);
    Cottle, Pang, Stone, The Linear Complementarity Problem, Algorithm 4.2.3.

    >>> import numpy as np
    >>> solve_lcp(np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([1.0, -2.0])).tolist()
    [1.0, 0.0]
    """
    k = len(b)
    on = b > 0
    for step in range(50 + 8 * k + (1 << min(k, 16))):
        r = np.zeros(k)
        r[on] = np.linalg.solve(N[np.ix_(on, on)], b[on])
        w = N @ r - b
        slack = _ROUND_OFF * (np.abs(N) @ np.abs(r) + np.abs(b))
        wrong = (on & (r < -_ROUND_OFF * np.abs(r).max(initial=0.0))) | (~on & (w < -slack))
        if not np.any(wrong):
            return np.maximum(r, 0.0)
        if step < 50:
            on = on ^ wrong
        else:
            first = int(np.argmax(wrong))
            on = on.copy()
            on[first] = not on[first]
    raise SingularError(
        "the complementarity problem was not solved: its matrix is too ill-conditioned."
    )
