"""The search for a singular element, and the division of the set where no single proof holds.

Where the determinant is affine in each kink's weights it is positive on the whole set if and only if
it is on every face, so that a kink is split into its extreme choices: the remaining kinks form a
Schur complement, which is decided by itself. A weight that enters otherwise (one q for several
columns, several norms at 0) is split into intervals.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..calculus.minors import scan_minors
from .certificate import Work
from .pmatrix import h_matrix, minor_bound, monotone, perron_scale, regular_box, whole_set
from .reduced import UNIT, Block, Unit

BOX = 1 << 12  # what a box costs, in minors
_PIECE = 16  # kinks below which all minors are cheaper than a proof
_MAX_EXACT = 4096
_SMALLEST_BOX = 2.0**-20


@dataclass(frozen=True)
class Finding:
    """What a search found: a singular element (weights of the block's rows), all clear, or neither.

    ``positive``: the determinant is positive on the whole set. ``beta`` as in a Proof. ``suspects``
    are weights near which nothing was decided.
    """

    singular: np.ndarray | None = None
    positive: bool = False
    work: Work = field(default_factory=Work)
    beta: float | None = None
    suspects: tuple[np.ndarray, ...] = ()


def sign_reversing(block: Block) -> np.ndarray | None:
    """Weights that surely make a singular element: from x with x_i (N x)_i ≤ 0 for all i, or None.

    q_i = x_i / (x_i − (N x)_i); the candidates are real eigenvectors of N with λ ≤ 0 (rung 3) and unit
    vectors with N_ii ≤ 0 (rung 2). For scalar kinks.

    Source: Fiedler, Pták, On matrices with non-positive off-diagonal elements and positive principal
    minors (Czechoslovak Math. J. 1962).
    """
    N, radius = block.square()
    diagonal = np.diagonal(N)
    least = int(np.argmin(diagonal))
    if diagonal[least] <= -radius:
        weights = np.zeros(len(N))
        weights[least] = 1 / (1 - diagonal[least])
        return weights
    values, vectors = np.linalg.eig(N)
    for i in np.flatnonzero((np.imag(values) == 0) & (np.real(values) <= 0)):
        x = np.real(vectors[:, i])
        x = np.where(np.abs(x) > 1e-8 * np.abs(x).max(), x, 0.0)
        image = N @ x
        doubt = (radius + (len(x) + 2) * UNIT * np.abs(N).max()) * np.abs(x).sum()
        moved = x != 0
        if np.all((x * image)[moved] + np.abs(x[moved]) * doubt <= 0):
            weights = np.zeros(len(x))
            weights[moved] = x[moved] / (x[moved] - image[moved])
            return weights
    return None


def descend(block: Block, start: np.ndarray, steps: int) -> tuple[np.ndarray, bool]:
    """Rung 4: change one kink at a time so that det(I − W M) falls the most, from weights ``start``.

    Returns the weights where no change lowers it further, or where it is no longer positive (True):
    the ratio of determinants is affine in a kink's weights, 1 − (w' − w) · V with V = M (I − W M)⁻¹.
    """
    weights = start.copy()
    try:
        V = block.M @ np.linalg.inv(block.weighted(weights))
    except np.linalg.LinAlgError:
        return weights, True
    columns = np.arange(len(block.units))
    starts = np.array([u.rows.start for u in block.units])
    round_ball = np.array([u.kind == "ball" for u in block.units])
    for _ in range(steps):
        slopes = V[np.arange(len(V)), block.owner]
        here = np.add.reduceat(weights * slopes, starts)
        best = np.maximum(np.maximum.reduceat(slopes, starts), 0.0)
        if np.any(round_ball):
            best = np.where(round_ball, np.sqrt(np.add.reduceat(slopes**2, starts)), best)
        gains = best - here
        unit = int(columns[np.argmax(gains)])
        if not gains[unit] > 1e-6:
            return weights, False
        rows = block.units[unit].rows
        target = _steepest(block.units[unit], slopes[rows])
        change = target - weights[rows]
        weights[rows] = target
        ratio = 1 - float(change @ slopes[rows])
        if ratio <= 1e-14:
            return weights, True
        V = V + V[:, unit : unit + 1] * (change @ V[rows])[None] / ratio
    return weights, False


def _steepest(unit: Unit, slopes: np.ndarray) -> np.ndarray:
    """The weights of a unit that maximise w · slopes."""
    if unit.kind == "ball":
        length = float(np.linalg.norm(slopes))
        return slopes / length * (1 - 4 * UNIT) if length > 0 else np.zeros_like(slopes)
    target = np.zeros_like(slopes)
    if slopes.max() > 0:
        target[int(np.argmax(slopes))] = 1.0
    return target


def on_path(block: Block, stop: np.ndarray) -> np.ndarray:
    """Weights with determinant zero between 0, where it is positive, and ``stop``, where it is not.

    One unit changes at a time; along such an edge the determinant is affine, or else is bisected.
    """
    here = np.zeros_like(stop)
    steers = block.owner if block.affine else block.parameter
    for one in range(int(steers.max()) + 1):
        there = np.where(steers == one, stop, here)
        sign, size = block.signed_logarithm(there)
        if sign == 0:
            return there
        if sign < 0:
            if not block.affine:
                return _bisect(block, here, there)
            before = block.signed_logarithm(here)[1]
            share = 1 / (1 + np.exp(np.clip(size - before, -700, 700)))
            return here + share * (there - here)
        here = there
    return stop  # in doubt: its determinant vanishes up to rounding


def _bisect(block: Block, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if block.signed_logarithm(here + middle * (there - here))[0] > 0:
            low = middle
        else:
            high = middle
    return here + high * (there - here)


def all_minors(block: Block) -> Finding:
    """Rung 8 with its doubts resolved: each vertex of uncertain sign is decided by itself."""
    N, radius = block.rows_form()
    scan = scan_minors(N, radius if radius < np.inf else 1e300, block.counts)
    work = Work(minors=scan.visited)
    if scan.negative is not None:
        return Finding(on_path(block, _vertex(block, scan.negative)), work=work)
    exact, suspects = 0, []
    vertices = (_vertex(block, c) for p in scan.uncertain for c in _completions(block, p))
    for number, vertex in enumerate(vertices):
        if number >= _MAX_EXACT:
            return Finding(work=work + Work(exact=exact), suspects=tuple(suspects))
        sign, used = block.sign(vertex)
        exact += used
        if sign is None:
            suspects.append(vertex)
        elif sign <= 0:
            singular = vertex if sign == 0 else on_path(block, vertex)
            return Finding(singular, work=work + Work(exact=exact))
    beta = minor_bound(block, scan.least) if scan.all_positive else None
    return Finding(None, not suspects, work + Work(exact=exact), beta, tuple(suspects))


def _vertex(block: Block, choice: tuple[int, ...]) -> np.ndarray:
    weights = np.zeros(len(block.columns))
    for unit, taken in zip(block.units, choice, strict=False):
        if taken:
            weights[unit.rows.start + taken - 1] = 1.0
    return weights


def _completions(block: Block, prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    rest = block.counts[len(prefix) :]
    for tail in itertools.product(*(range(c + 1) for c in rest)):
        yield prefix + tail


def branch(block: Block, budget: int) -> Finding:
    """Rung 9 for affine blocks: faces of the set, each proved by one inequality or split further.

    A face is a Schur complement of I − W M in the kinks still free, with its own error bound.
    """
    nodes = [(block, {})]  # a face, and the weights of the rows already decided, by column
    minors = boxes = 0
    suspects: list[np.ndarray] = []
    while nodes:
        face, decided = nodes.pop()
        if minors + BOX * boxes > budget:
            return Finding(None, False, Work(minors, boxes), None, tuple(suspects))
        if len(face.units) <= _PIECE and not face.balls:
            N, radius = face.rows_form()
            scan = scan_minors(N, radius, face.counts)
            minors += scan.visited
            if scan.all_positive:
                continue
            choices = [scan.negative] if scan.negative is not None else scan.uncertain
            for choice in choices:
                vertex = _assembled(block, decided, face, _vertex(face, choice))
                sign, _ = block.sign(vertex)
                if sign is not None and sign <= 0:
                    singular = vertex if sign == 0 else on_path(block, vertex)
                    return Finding(singular, False, Work(minors, boxes))
                suspects.append(vertex)
            continue
        boxes += 1
        if proved(face) is not None:
            continue
        free = [u for u, unit in enumerate(face.units) if unit.kind != "ball"]
        low, stuck = descend(face, np.zeros(len(face.columns)), 4)
        if stuck:
            vertex = _assembled(block, decided, face, low)
            if block.sign(vertex)[0] in (0, -1):
                return Finding(on_path(block, vertex), False, Work(minors, boxes))
        if not free:
            suspects.append(_assembled(block, decided, face, low))
            continue
        pull = np.linalg.norm(face.M, axis=0)[free]
        pull = pull * [np.linalg.norm(face.M[face.units[u].rows]) for u in free]
        split = free[int(np.argmax(pull))]
        rows = face.units[split].rows
        for taken in range(rows.stop - rows.start + 1):
            weights = {**decided}
            for j, row in enumerate(range(rows.start, rows.stop)):
                weights[int(face.columns[row])] = float(j + 1 == taken)
            below = fix(face, split, taken)
            if below is None:
                vertex = _assembled(block, weights, None, None)
                if block.sign(vertex)[0] in (0, -1):
                    return Finding(on_path(block, vertex), False, Work(minors, boxes))
                suspects.append(vertex)
            else:
                nodes.append((below, weights))
    return Finding(None, not suspects, Work(minors, boxes), None, tuple(suspects))


def proved(block: Block) -> float | None:
    """β from the cheap inequalities, on the whole set of a block; None if none of them holds."""
    if not block.balls:
        for bound in (h_matrix(block), monotone(block)):
            if bound is not None:
                return bound
        scale = perron_scale(block)
        if scale is not None and (bound := monotone(block, scale)) is not None:
            return bound
    return regular_box(block, *whole_set(block))


def _assembled(
    block: Block, decided: dict[int, float], face: Block | None, weights: np.ndarray | None
) -> np.ndarray:
    """Weights of the whole block from those decided and those of a face."""
    known = dict(decided)
    if face is not None and weights is not None:
        known |= dict(zip(face.columns.tolist(), weights.tolist(), strict=True))
    return np.array([known.get(int(c), 0.0) for c in block.columns])


def fix(block: Block, unit: int, taken: int) -> Block | None:
    """The block left when a unit is decided: dropped (0), or its row ``taken`` eliminated.

    The Schur complement M + m u / (1 − p), its error bound widened as in ``scan_minors``; None where
    the pivot 1 − p is not surely positive.
    """
    rows = block.units[unit].rows
    count = rows.stop - rows.start
    keep_rows = np.r_[0 : rows.start, rows.stop : len(block.columns)]
    keep_columns = np.r_[0:unit, unit + 1 : len(block.units)]
    M, radius = block.M[np.ix_(keep_rows, keep_columns)], block.radius
    if taken:
        row = rows.start + taken - 1
        pivot = 1 - float(block.M[row, unit])
        sure = pivot - radius - UNIT * (1 + abs(pivot))
        if not sure > 0:
            return None
        tall, wide = block.M[keep_rows, unit], block.M[row, keep_columns]
        slope = float(np.abs(tall).max(initial=0.0)) / sure
        width = float(np.abs(wide).max(initial=0.0))
        radius += UNIT * (1 + abs(pivot))
        radius *= (1 + slope) * (1 + (width + radius) / sure) * (1 + 16 * UNIT)
        radius += 4 * UNIT * (float(np.abs(M).max(initial=0.0)) + slope * width)
        M = M + tall[:, None] * (wide / pivot)
    units = tuple(
        u
        if u.rows.stop <= rows.start
        else replace(u, rows=slice(u.rows.start - count, u.rows.stop - count))
        for i, u in enumerate(block.units)
        if i != unit
    )
    return replace(
        block,
        columns=block.columns[keep_rows],
        units=units,
        parameter=block.parameter[keep_rows],
        M=M,
        radius=radius,
    )


def bisect(block: Block, budget: int) -> Finding:
    """Rung 9 for other blocks: boxes of weights, each proved regular about its centre or halved."""
    p = int(block.parameter.max()) + 1
    low_rows, high_rows = whole_set(block)
    first = np.array([int(np.argmax(block.parameter == i)) for i in range(p)])
    boxes = [(low_rows[first], high_rows[first])]
    work, suspects, worst = 0, [], 0.0
    while boxes:
        low, high = boxes.pop()
        if BOX * work > budget:
            return Finding(None, False, Work(boxes=work), None, (*suspects, (low + high) / 2))
        if not block.meets(low[block.parameter], high[block.parameter]):
            continue
        work += 1
        beta = regular_box(block, low[block.parameter], high[block.parameter])
        if beta is not None:
            worst = max(worst, beta)
            continue
        centre = ((low + high) / 2)[block.parameter]
        if block.admits(centre) and block.signed_logarithm(centre)[0] <= 0:
            sign, _ = block.sign(centre)
            if sign is not None and sign <= 0:
                singular = centre if sign == 0 else _bisect(block, np.zeros_like(centre), centre)
                return Finding(singular, False, Work(boxes=work))
        width = high - low
        if width.max() < _SMALLEST_BOX:
            suspects.append(centre)
            return Finding(None, False, Work(boxes=work), None, tuple(suspects))
        split = int(np.argmax(width))
        for half in (0, 1):
            a, b = low.copy(), high.copy()
            (b if half == 0 else a)[split] = (low[split] + high[split]) / 2
            boxes.append((a, b))
    return Finding(None, True, Work(boxes=work), worst or None)
