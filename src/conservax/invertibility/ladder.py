"""``certify``: is every element of the set invertible? A ladder of tests, the cheapest first.

With det B(q) · det(I − D L) = det A · det(I − D M) (docs/theory.md#the-determinant) the question is put
to the irreducible blocks of the equations one by one (``reduced``). For each of them, in this order:

    2  N_ii ≤ 0                                              REFUTED
    5  N an H-matrix, or N + Nᵀ ≻ 0                          PROVEN
    3  x with x_i (N x)_i ≤ 0: real eigenvectors with λ ≤ 0  REFUTED
    4  a walk along edges that lower the determinant         REFUTED
    6  ρ(|K|) < 1, K = (I − N)(I + N)⁻¹                      PROVEN
    7  Δ N + Nᵀ Δ ≻ 0 for a diagonal Δ ≻ 0                   PROVEN
    8  all minors of N, where the budget holds them          both
    9  faces or boxes, each by the tests above               both, or UNKNOWN

Rung 5 stands before 3 because it costs less; blocks of few minors go to rung 8 at once.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ..calculus import AbsNormal
from ..errors import InvalidInputError
from ..numerics import machine_epsilon
from .bounds import UNIT, verified_inverse
from .certificate import Certificate, Rigour, Verdict, Work
from .elements import (
    all_vertices,
    base_weights,
    extreme_singular_values,
    flat_weights,
    polished,
    witness,
)
from .margin import margin_bound
from .pmatrix import (
    balanced_scale,
    best_scale,
    h_matrix,
    monotone,
    perron_scale,
    regular_box,
    whole_set,
)
from .reduced import Block, block_of, partition
from .search import Finding, all_minors, bisect, branch, descend, on_path, sign_reversing

BUDGET = 1 << 25
_AT_ONCE = 1 << 6  # minors that cost less than the rungs before them
_DEEPEST = 30  # kinks beyond which all minors are never visited
_SCALED = 200  # kinks up to which a scaling is searched
_SUSPECTS = 64


def certify(form: AbsNormal, *, budget: int = BUDGET) -> Certificate:
    """Decide whether A + H (I − D L)⁻¹ D E is invertible for every selection D.

    Args:
        form: the abs-normal form of a map from (n,) to (n,), k active kinks.
        budget: how many principal minors may be visited; a box or face counts as 4096 of them. The
            default decides any 25 scalar kinks.

    Returns:
        A Certificate. PROVEN holds for the float matrices A, H, E, L as they stand, rounding
        accounted for. REFUTED is ``exact`` (a determinant of the wrong sign, or zero, in verified or
        rational arithmetic) or holds ``at the tolerance``: an element is singular to the precision of
        ``form.dtype``, or the witness moves a kink that is only nearly active. Where all vertices are
        visited (up to 2¹² of moderate size), PROVEN implies that no element is singular to that
        precision, and ``margin`` is the least vertex σ_min, which is that of the set
        (docs/theory.md#margins).
        Beyond, ``margin`` is a bound from the proof; if it is below that precision, the vertices met
        on a walk that lowers the determinant are tried against it.

    Raises:
        InvalidInputError: the form is not square or not finite, or ``budget`` < 1.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Corollary 1, applied to the lifted system;
    docs/theory.md#the-lifted-system.

    >>> import conservax as cx
    >>> from conservax.invertibility import certify
    >>> certify(cx.conservative_jacobian(lambda y: y - abs(y) / 2)(0.0).form).verdict
    <Verdict.PROVEN: 1>
    """
    m, n = form.A.shape
    if m != n:
        raise InvalidInputError(f"the form is {m} × {n}; only square systems can be certified.")
    if not all(np.all(np.isfinite(M)) for M in (form.A, form.H, form.E, form.L)):
        raise InvalidInputError("the form holds NaN or infinity, so that nothing can be certified.")
    if budget < 1:
        raise InvalidInputError(f"budget = {budget}; at least one minor must be visited.")
    return _Ladder(form, budget).certificate()


@dataclass(frozen=True)
class _Outcome:
    """What the ladder says about one block; ``singular`` are weights of its rows."""

    verdict: Verdict
    method: str
    beta: float | None = None
    singular: np.ndarray | None = None
    work: Work = field(default_factory=Work)
    suspects: tuple[np.ndarray, ...] = ()


def decide(block: Block, budget: int) -> _Outcome:
    """Climb the ladder for one irreducible block."""
    proven, refuted = Verdict.PROVEN, Verdict.REFUTED
    polyhedral = block.affine and not block.balls
    minors = math.prod(c + 1 for c in block.counts)
    known = block.radius < np.inf
    if polyhedral and (minors <= min(_AT_ONCE, budget) or not known):
        return _outcome(all_minors(block), "signs of all principal minors")
    if not known:
        return _Outcome(Verdict.UNKNOWN, "the base is too ill-conditioned")
    scalar = polyhedral and len(block.units) == len(block.columns)
    if scalar and np.min(diagonal := 1 - np.diagonal(block.M)) <= -block.radius - UNIT:
        weights = np.zeros(len(diagonal))
        least = int(np.argmin(diagonal))
        weights[least] = 1 / (1 - diagonal[least])
        return _Outcome(refuted, "a diagonal entry of N is not positive", singular=weights)
    if not block.balls:
        if (beta := h_matrix(block)) is not None:
            return _Outcome(proven, "N is an H-matrix", beta)
        if (beta := monotone(block)) is not None:
            return _Outcome(proven, "N + Nᵀ is positive definite", beta)
    if scalar and len(block.units) <= _SCALED:
        weights = sign_reversing(block)
        if weights is not None:
            return _Outcome(refuted, "N reverses the signs of a vector", singular=weights)
    if block.affine:
        end, stuck = descend(block, np.zeros(len(block.columns)), 4 * len(block.units))
        if stuck and block.sign(end) in (0, -1):
            singular = on_path(block, end)
            return _Outcome(refuted, "a walk that lowers the determinant", singular=singular)
    if (beta := regular_box(block, *whole_set(block))) is not None:
        return _Outcome(proven, "Beeck's criterion", beta)
    if not block.balls:
        method = "a diagonal scaling makes N + Nᵀ positive definite"
        scales = [s for s in (perron_scale(block), balanced_scale(block)) if s is not None]
        for scale in scales:
            if (beta := monotone(block, scale)) is not None:
                return _Outcome(proven, method, beta)
        if 12 < len(block.columns) <= _SCALED:
            for scale in scales:
                if (beta := monotone(block, best_scale(block, scale))) is not None:
                    return _Outcome(proven, method, beta)
    if polyhedral and minors <= min(budget, 1 << _DEEPEST):
        return _outcome(all_minors(block), "signs of all principal minors")
    finding = branch(block, budget) if block.affine else Finding()
    if finding.singular is None and not finding.positive and not polyhedral:
        more = bisect(block, budget)
        finding = replace(more, work=finding.work + more.work)
    return _outcome(finding, "a division of the set into faces and boxes")


def _outcome(finding: Finding, method: str) -> _Outcome:
    verdict = Verdict.PROVEN if finding.positive else Verdict.UNKNOWN
    if finding.singular is not None:
        verdict = Verdict.REFUTED
    return _Outcome(verdict, method, finding.beta, finding.singular, finding.work, finding.suspects)


class _Ladder:
    """One certification: the form, what its base and its vertices look like, the work done."""

    def __init__(self, form: AbsNormal, budget: int) -> None:
        self.form = form
        self.budget = budget
        # the factor of numerics.singular_value_floor
        self.relative_floor = 4 * form.A.shape[0] * machine_epsilon(form.dtype)
        self.base = base_weights(form)
        self.vertices = all_vertices(form, self.relative_floor)
        self.work = Work(vertices=0 if self.vertices is None else len(self.vertices.weights))
        self.smallest, self.largest = self.extremes(self.base)

    def extremes(self, weights: np.ndarray) -> tuple[float, float]:
        return extreme_singular_values(self.form.jacobian(self.form.diagonal(weights)))

    def certificate(self) -> Certificate:
        form = self.form
        if self.smallest <= self.relative_floor * self.largest:
            return self.refuted(self.base, "the base selection", certain=False)
        if np.any(np.triu(form.L)) and (inner := self.solves_inside()) is not None:
            return inner
        outcomes: list[tuple[Block, _Outcome]] = []
        for equations, unknowns, columns in partition(form):
            if len(columns):
                block = block_of(form, equations, unknowns, columns)
                outcome = decide(block, self.budget)
                self.work += outcome.work
                outcomes.append((block, outcome))
                if outcome.singular is not None:
                    weights = flat_weights(block, outcome.singular)
                    return self.refuted(weights, outcome.method, certain=True)
            elif (
                len(unknowns) > 1 and verified_inverse(form.A[np.ix_(equations, unknowns)]) is None
            ):
                return self.unknown(
                    "an inverse of the equations' matrix",
                    "the equations are too ill-conditioned to tell them surely from singular ones.",
                    "Scale the equations and the unknowns to similar sizes, and check again.",
                )
        seen = self.vertices
        if seen is not None and np.any(seen.at_zero):
            worst = seen.weights[int(np.argmin(seen.smallest - seen.floor))]
            return self.refuted(worst, "singular values at all vertices", certain=False)
        open_blocks = [(b, o) for b, o in outcomes if o.verdict == Verdict.UNKNOWN]
        for block, outcome in open_blocks:
            for suspect in filter(block.admits, outcome.suspects[:_SUSPECTS]):
                weights = flat_weights(block, suspect)
                smallest, largest = self.extremes(weights)
                if smallest <= self.relative_floor * largest:
                    return self.refuted(weights, outcome.method, certain=False)
        for block, outcome in open_blocks:
            return self.unknown(outcome.method, *self.why(block, outcome))
        return self.proven(outcomes)

    def solves_inside(self) -> Certificate | None:
        """A certificate UNKNOWN where I − D L is not shown to be invertible on the whole set."""
        form = self.form
        k = form.L.shape[0]
        cut = replace(
            form, A=np.zeros((0, 0)), H=np.zeros((0, k)), E=np.zeros((k, 0)), dtype=np.float64
        )
        for _, _, columns in partition(cut):
            block = block_of(cut, np.zeros(0, int), np.zeros(0, int), columns)
            outcome = decide(block, self.budget)
            self.work += outcome.work
            if outcome.verdict != Verdict.PROVEN:
                return self.unknown(
                    "the solves inside",
                    "a solve inside these equations may be singular for some choice of slopes.",
                    "Check the solve inside by itself.",
                )
        return None

    def why(self, block: Block, outcome: _Outcome) -> tuple[str, str]:
        """The reason of an UNKNOWN, and what would decide it."""
        count = len(block.groups)
        if outcome.suspects:
            return (
                f"some choice of slopes at {count} kinks is so nearly singular that rounding hides it.",
                "Scale the equations and the unknowns to similar sizes, or take a point further away.",
            )
        if not block.affine or block.balls:
            return (
                f"{count} kinks, some with more than one slope between two branches or a norm at 0, "
                "were not decided within the budget; no choice of slopes that was met is singular.",
                f"A larger budget than {self.budget}, or a where whose branches differ by one slope.",
            )
        minors = math.prod(c + 1 for c in block.counts)
        return (
            f"{count} kinks that see each other have {minors:.3g} extreme choices of slopes; those "
            "met are all invertible, and no shorter proof was found.",
            f"A budget of {minors:.3g} would decide it for certain; often a tenth of that suffices.",
        )

    def unknown(self, method: str, reason: str, undecided: str) -> Certificate:
        return Certificate(
            Verdict.UNKNOWN,
            method,
            reason,
            None,
            self.least(),
            None,
            Rigour.EXACT,
            self.work,
            undecided,
            self.counts(),
        )

    def least(self) -> float:
        """The smallest singular value met."""
        seen = self.vertices
        return self.smallest if seen is None else float(min(seen.smallest.min(), self.smallest))

    def counts(self) -> tuple[int, int, int] | None:
        return None if self.vertices is None else self.vertices.counts

    def refuted(self, weights: np.ndarray, method: str, *, certain: bool) -> Certificate:
        found = witness(self.form, polished(self.form, weights) if certain else weights)
        weights = found.selection
        near = any(
            g.kink.distance > 0 and not np.array_equal(weights[s], self.base[s])
            for g, s in zip(self.form.groups, self.places(), strict=True)
        )
        signs = self.counts()
        where = "one choice of slopes at the kinks makes the" if self.form.groups else "the"
        reason = (
            f"{where} linearised equations {'' if self.form.groups else 'are '}singular "
            f"{'' if certain and not near else '(to the precision at hand) '}"
            "so the derivative of the solution may not exist here."
        ).replace(" so the", ", so the")
        if signs is not None and signs[0] and signs[2]:
            reason = (
                "two choices of slopes give determinants of opposite sign, so one between them is "
                "singular and the derivative of the solution may not exist here."
            )
        return Certificate(
            Verdict.REFUTED,
            method,
            reason,
            None,
            min(self.least(), found.sigma_min),
            found,
            Rigour.EXACT if certain and not near else Rigour.AT_TOLERANCE,
            self.work,
            "",
            signs,
        )

    def places(self) -> list[slice]:
        """Where each group's weights stand in a flat selection."""
        stops = np.cumsum([g.ways for g in self.form.groups]).tolist()
        return [slice(b - g.ways, b) for b, g in zip(stops, self.form.groups, strict=True)]

    def proven(self, outcomes: list[tuple[Block, _Outcome]]) -> Certificate:
        methods = list(dict.fromkeys(o.method for _, o in outcomes)) or ["one derivative"]
        seen = self.vertices
        if seen is not None and all(b.affine for b, _ in outcomes):
            margin: float | None = seen.margin
        else:
            margin = margin_bound(self.form, [(b, o.beta) for b, o in outcomes])
        if margin is None or margin <= self.relative_floor * self.largest:
            found = self.near_singular(outcomes) if seen is None else None
            if found is not None:
                return found
            margin = margin if margin is not None and margin > 0 else None
        reason = (
            "every choice of slopes at the kinks leaves the linearised equations invertible."
            if self.form.groups
            else "the equations have one derivative here, and it is invertible."
        )
        return Certificate(
            Verdict.PROVEN,
            "; ".join(methods),
            f"{reason} The implicit derivative can be trusted.",
            margin,
            self.least(),
            None,
            Rigour.EXACT,
            self.work,
            "",
            self.counts(),
        )

    def near_singular(self, outcomes: list[tuple[Block, _Outcome]]) -> Certificate | None:
        """REFUTED at the tolerance where a walk to small determinants meets such an element."""
        for block, _ in outcomes:
            if not (block.affine and block.radius < np.inf):
                continue
            end, _ = descend(block, np.zeros(len(block.columns)), 4 * len(block.units))
            weights = flat_weights(block, end)
            smallest, largest = self.extremes(weights)
            self.smallest = min(self.smallest, smallest)
            if smallest <= self.relative_floor * largest:
                return self.refuted(weights, "a walk that lowers the determinant", certain=False)
        return None
