"""``joint_spectral_radius``: does every product of matrices from a set fall to zero?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..invertibility import Rigour, Verdict
from .ellipsoid import Ellipsoid, adapted_ellipsoid

_EPS = float(np.finfo(np.float64).eps)
_WIDTH = 4096  # words of one length that are kept; beyond, the longest-lived only
_LENGTH = 200  # the longest word that is tried
_REGULARISATIONS = (1e-3, 1e-5, 1e-8)
BUDGET = 40_000


@dataclass(frozen=True)
class SpectralRadius:
    """What is known of ρ(A_1, …, A_k) = lim max_w ‖A_w‖^{1/|w|}, the joint spectral radius.

    ``verdict`` says whether it is below 1; ``lower`` ≤ ρ ≤ ``upper``. ``word`` attains the lower bound:
    ρ(A_w)^{1/|w|} with A_w = A_{w_t} ⋯ A_{w_1}, the last letter applied last. ``products`` were formed.
    ``norm``: a matrix R whose ‖R A R⁻¹‖₂ is the norm in which the upper bound was found. ``rigour`` is
    EXACT where rounding could not have changed the verdict.
    """

    verdict: Verdict
    lower: float
    upper: float
    word: tuple[int, ...]
    products: int
    reason: str
    norm: np.ndarray
    rigour: Rigour

    def __str__(self) -> str:
        return f"{self.verdict.name}: {self.reason}"


def joint_spectral_radius(matrices: Any, *, budget: int = BUDGET) -> SpectralRadius:
    """Is lim_t max {‖A_{i_t} ⋯ A_{i_1}‖^{1/t}} below 1, over all words in the matrices?

    PROVEN: every word of some finite set, of which all long words consist, contracts in the norm of one
    ellipsoid, xᵀA_wᵀP A_w x < xᵀP x, verified by Cholesky factors with rounding accounted for.
    REFUTED: the word has ρ(A_w) ≥ 1: repeated, it does not fall. UNKNOWN: the budget is spent, or the
    radius is 1 up to rounding.

    Args:
        matrices: an array (k, d, d), or a sequence of (d, d).
        budget: how many products of matrices may be formed.

    Returns:
        A SpectralRadius: verdict, lower and upper bound, word.

    Raises:
        InvalidInputError: no square matrices of one size, or NaN.

    Source: Gripenberg, Computing the joint spectral radius (1996), in an ellipsoidal norm (Ando, Shih
    1998; Blondel, Nesterov, Theys 2005) that is found by a fixed-point iteration in place of a
    semidefinite program.

    >>> import conservax as cx
    >>> found = cx.iterates.joint_spectral_radius(
    ...     [[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    ... )
    >>> found.verdict.name, sorted(found.word), round(found.lower, 6)
    ('REFUTED', [0, 1], 1.414214)
    """
    given = _checked(matrices)
    kept = np.sort(np.unique(given, axis=0, return_index=True)[1])
    A = given[kept]
    search = _Search(A, budget)
    search.start()
    for regularisation in (None, *_REGULARISATIONS):
        search.look(adapted_ellipsoid(A, regularisation))
        if search.verdict != Verdict.UNKNOWN:
            break
    search.refine()
    return search.result(kept)


class _Search:
    """Words of growing length in the coordinates of an ellipsoid, by Gripenberg's rule."""

    def __init__(self, A: np.ndarray, budget: int) -> None:
        self.A, self.budget, self.products = A, budget, 0
        self.verdict = Verdict.UNKNOWN
        self.lower, self.word, self.rigour = 0.0, (0,), Rigour.AT_TOLERANCE
        self.upper, self.norm = np.inf, np.eye(A.shape[1])
        self.best: Ellipsoid | None = None

    def start(self) -> None:
        self._meet(self.A, [(i,) for i in range(len(self.A))])

    def look(self, ellipsoid: Ellipsoid) -> None:
        """Decide whether the radius is below 1, in one norm."""
        if ellipsoid.radius < self.upper:
            self.upper, self.norm, self.best = ellipsoid.radius, ellipsoid.R, ellipsoid
        if self.verdict != Verdict.UNKNOWN:
            return
        share = max(1, (self.budget - self.products) // 2)
        bound = self._branch(ellipsoid, 1.0, share)
        if bound is not None and self.verdict == Verdict.UNKNOWN:
            self.verdict, self.rigour = Verdict.PROVEN, Rigour.EXACT
            self.upper, self.norm, self.best = min(self.upper, bound), ellipsoid.R, ellipsoid

    def refine(self) -> None:
        """Bring the upper bound down, in the best norm and within what is left of the budget."""
        if self.verdict == Verdict.REFUTED:
            self.look(adapted_ellipsoid(self.A, _REGULARISATIONS[0]))
        if self.best is None:
            return
        share = min(2000, self.budget - self.products)
        for slack in (0.2, 0.05, 0.01):
            target = self.lower * (1 + slack) if self.lower > 0 else self.upper / 2
            if target >= self.upper or share <= 0:
                continue
            bound = self._branch(self.best, target, share)
            if bound is None:
                return
            self.upper = min(self.upper, bound)

    def _branch(self, ellipsoid: Ellipsoid, target: float, share: int) -> float | None:
        """A bound below ``target``, if every word has a prefix with ‖A_w‖ < target^|w|."""
        k, d = self.A.shape[:2]
        scaled = self.A / target
        seen, worst, complete = 0, 0.0, True
        products, words = np.eye(d)[None], [()]
        for length in range(1, _LENGTH + 1):
            if len(products) * k > share - seen:
                return None
            seen += len(products) * k
            self.products += len(products) * k
            products = (scaled[:, None] @ products[None]).reshape(-1, d, d)
            words = [(*w, i) for i in range(k) for w in words]
            norms = ellipsoid.norms(products)
            falling = norms < 1
            if np.any(falling) and not ellipsoid.contracts(products[falling]):
                falling[:] = False
            if np.any(falling):
                worst = max(worst, float(norms[falling].max()) ** (1 / length) * target)
            lasting = np.flatnonzero(~falling)
            if not lasting.size:
                return worst if complete else None
            if lasting.size > _WIDTH:  # no proof any more, but a witness may turn up
                complete = False
                lasting = lasting[np.argsort(-norms[lasting])[:_WIDTH]]
            products, words = products[lasting], [words[i] for i in lasting]
            self._meet(products, words, target)
            if target == 1.0 and self.verdict == Verdict.REFUTED:
                return None
        return None

    def _meet(self, products: np.ndarray, words: list[tuple[int, ...]], scale: float = 1.0) -> None:
        """Spectral radii of words: the lower bound, and the witness where one is at least 1."""
        if not np.all(np.isfinite(products)):
            return
        radii = np.abs(np.linalg.eigvals(products)).max(axis=1)
        rates = radii ** (1 / len(words[0])) * scale
        best = int(np.argmax(rates))
        if rates[best] > self.lower * (1 + 1e-12):
            self.lower, self.word = float(rates[best]), words[best]
        if scale == 1.0 and radii[best] >= 1:
            self.verdict = Verdict.REFUTED
            if radii[best] - self._rounding(words[best]) >= 1:
                self.rigour = Rigour.EXACT

    def _rounding(self, word: tuple[int, ...]) -> float:
        """How far the computed spectral radius of a word may be off, by Elsner's bound."""
        d = self.A.shape[1]
        size = float(np.prod([np.linalg.norm(self.A[i]) for i in word]))
        error = 8 * d * (len(word) + d) * _EPS * size
        return (2 * size) ** (1 - 1 / d) * error ** (1 / d)

    def result(self, kept: np.ndarray) -> SpectralRadius:
        word = tuple(int(kept[i]) for i in _primitive(self.word))
        upper = max(self.upper, self.lower)
        if self.verdict == Verdict.REFUTED:
            reason = (
                f"the word {word} has spectral radius {self.lower ** len(word):.6g}, at least 1."
            )
        elif self.verdict == Verdict.PROVEN:
            reason = f"all products fall, at a rate of at most {upper:.6g} a step."
        else:
            reason = (
                f"the radius lies between {self.lower:.6g} and {upper:.6g}, and {self.products} products did "
                "not decide; a larger budget may."
            )
        return SpectralRadius(
            self.verdict, self.lower, upper, word, self.products, reason, self.norm, self.rigour
        )


def _primitive(word: Sequence[int]) -> tuple[int, ...]:
    """The shortest word of which this one is a power."""
    n = len(word)
    for period in range(1, n):
        if n % period == 0 and tuple(word[:period]) * (n // period) == tuple(word):
            return tuple(word[:period])
    return tuple(word)


def _checked(matrices: Any) -> np.ndarray:
    try:
        given = np.asarray(matrices)
        lossy = np.iscomplexobj(given)  # a cast drops the imaginary parts, and the radius with them
        A = np.real(given).astype(np.float64)
    except (TypeError, ValueError):
        A, lossy = np.zeros((0,)), False
    if lossy:
        raise InvalidInputError("matrices are complex; pass real ones.")
    shape: tuple[int, ...] = A.shape
    if len(shape) == 2:
        A, shape = A[None], (1, *shape)
    if len(shape) != 3 or shape[1] != shape[2] or not A.size:
        raise InvalidInputError(
            f"matrices must be an array (k, d, d) or a sequence of square matrices of one size; got shape "
            f"{shape}."
        )
    if not np.all(np.isfinite(A)):
        raise InvalidInputError("matrices hold NaN or infinity; pass finite ones.")
    return A
