"""The search for a singular element, and the division of the set where no single proof holds.

Where the determinant is affine in each kink's weights it is positive on the whole set if and only if
it is on every face, so that a kink is split into its extreme choices: the remaining kinks form a
Schur complement, which is decided by itself. A weight that enters otherwise (one q for several
columns, several norms at 0) is split into intervals.
"""

import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from ..calculus.sets.minors import scan_minors
from .bounds import UNIT, signed_bound
from .certificate import Work
from .pmatrix import h_matrix, minor_bound, monotone, perron_scale, regular_box, whole_set
from .reduced import Block, Unit, face, taken_minor

BOX = 1 << 12  # what a box costs, in minors
_PIECE = 16  # kinks below which all minors are cheaper than a proof
_MAX_RESOLVED = 1 << 14  # vertices decided one by one
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


@dataclass
class _Tally:
    """A division in progress: what was done, the vertices in doubt, the least minor."""

    minors: int = 0
    boxes: int = 0
    exact: int = 0
    resolved: int = 0
    least: float = 1.0
    suspects: list[np.ndarray] = field(default_factory=list)

    @property
    def work(self) -> Work:
        return Work(minors=self.minors, boxes=self.boxes, exact=self.exact)

    def settle(self, block: Block, vertex: np.ndarray) -> np.ndarray | None:
        """Singular weights if the determinant at a vertex is surely not positive; doubt is noted."""
        self.resolved += 1
        bound = block.signed(vertex)
        if bound is not None and bound > 0:
            self.least = min(self.least, bound)
            return None
        sign = -1
        if bound is None:
            sign = block.exact_sign(vertex)
            self.exact += sign is not None
            self.least = 0.0
        if sign is None:
            self.suspects.append(vertex)
        elif sign <= 0:
            return vertex if sign == 0 else on_path(block, vertex)
        return None

    def settle_taken(self, block: Block, taken: dict[int, int]) -> tuple[np.ndarray | None, float]:
        """As ``settle`` for the minor of the rows taken, which multiplies all minors of their face.

        Also returns a lower bound on it.
        """
        bound = signed_bound(*taken_minor(block, taken)) or 0.0
        if bound > 0:
            return None, bound
        return self.settle(block, _vertex(block, taken)), 0.0

    def scan(self, block: Block, part: Block, taken: dict[int, int]) -> np.ndarray | None:
        """Singular weights if a minor of a face is surely not positive; doubts are settled."""
        if part.radius < np.inf:
            singular, above = self.settle_taken(block, taken)
            if singular is not None:
                return singular
            N, radius = part.rows_form()
            found = scan_minors(N, radius, part.counts)
            self.minors += found.visited
            self.least = min(self.least, found.least * above)
            if found.negative is not None:
                return self.settle(block, _vertex(block, taken, found.negative))
            doubts = found.uncertain
        else:
            doubts = ((),)
        for prefix in doubts:
            for tail in itertools.product(*(range(c + 1) for c in part.counts[len(prefix) :])):
                vertex = _vertex(block, taken, prefix + tail)
                if self.resolved >= _MAX_RESOLVED:
                    self.suspects.append(vertex)
                    return None
                if (singular := self.settle(block, vertex)) is not None:
                    return singular
        return None

    def finding(self, singular: np.ndarray | None, *, complete: bool = True) -> Finding:
        positive = singular is None and complete and not self.suspects
        return Finding(singular, positive, self.work, None, tuple(self.suspects))


def _vertex(block: Block, taken: dict[int, int], rest: tuple[int, ...] = ()) -> np.ndarray:
    """The weights of a block at a choice: some units decided, the others in order."""
    weights = np.zeros(len(block.columns))
    others = iter(rest)
    for u, unit in enumerate(block.units):
        j = taken[u] if u in taken else next(others, 0)
        if j:
            weights[unit.rows.start + j - 1] = 1.0
    return weights


def all_minors(block: Block) -> Finding:
    """Rung 8: the signs of all minors, from faces of at most 16 kinks, so that errors stay small.

    A minor of uncertain sign is decided by itself, in rational arithmetic if need be.
    """
    tally = _Tally()
    first = range(max(0, len(block.units) - _PIECE))
    for choice in itertools.product(*(range(block.counts[u] + 1) for u in first)):
        taken = dict(zip(first, choice, strict=True))
        part = face(block, taken) if taken else block
        if (singular := tally.scan(block, part, taken)) is not None:
            return tally.finding(singular)
        if tally.resolved >= _MAX_RESOLVED:
            return tally.finding(None, complete=False)
    finding = tally.finding(None)
    if tally.least > 0:
        finding = replace(finding, beta=minor_bound(block, tally.least))
    return finding


def branch(block: Block, budget: int) -> Finding:
    """Rung 9 for affine blocks: faces of the set, each proved by one inequality or split further."""
    tally = _Tally()
    nodes: list[dict[int, int]] = [{}]
    while nodes:
        taken = nodes.pop()
        if tally.minors + BOX * tally.boxes > budget or tally.resolved >= _MAX_RESOLVED:
            return tally.finding(None, complete=False)
        part = face(block, taken) if taken else block
        free = [u for u in range(len(block.units)) if u not in taken]
        if not part.balls and len(free) <= _PIECE:
            if (singular := tally.scan(block, part, taken)) is not None:
                return tally.finding(singular)
            continue
        tally.boxes += 1
        if part.radius < np.inf:
            singular, _ = tally.settle_taken(block, taken)
            if singular is not None:
                return tally.finding(singular)
            if proved(part) is not None:
                continue
            low, stuck = descend(part, np.zeros(len(part.columns)), 4)
            if stuck:
                vertex = _vertex(block, taken)
                vertex[np.isin(block.columns, part.columns)] = low
                if (sign := block.sign(vertex)) is not None and sign <= 0:
                    return tally.finding(vertex if sign == 0 else on_path(block, vertex))
        polyhedral = [i for i, u in enumerate(free) if block.units[u].kind != "ball"]
        if not polyhedral:
            tally.suspects.append(_vertex(block, taken))
            continue
        pull = np.linalg.norm(part.M, axis=0) * np.sqrt(
            np.add.reduceat((part.M**2).sum(axis=1), [u.rows.start for u in part.units])
        )
        split = free[max(polyhedral, key=lambda i: float(pull[i]))]
        nodes += [{**taken, split: j} for j in range(block.counts[split] + 1)]
    return tally.finding(None)


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
        for weights in (centre, _downhill(block, centre, low, high)):
            if not block.admits(weights) or block.signed_logarithm(weights)[0] > 0:
                continue
            sign = block.sign(weights)
            if sign is not None and sign <= 0:
                singular = weights if sign == 0 else _bisect(block, 0 * weights, weights)
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


def _downhill(block: Block, centre: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The corner of a box towards which the determinant falls, to first order, from the centre."""
    try:
        V = block.M @ np.linalg.inv(block.weighted(centre))
    except np.linalg.LinAlgError:
        return centre
    slopes = np.bincount(block.parameter, V[np.arange(len(V)), block.owner], minlength=len(low))
    return np.where(slopes > 0, high, low)[block.parameter]
