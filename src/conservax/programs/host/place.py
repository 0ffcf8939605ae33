"""Where programs are differentiated, on the host: U(V)⁻¹ and U(V)⁻ᵀ at the chosen elements."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...cones.spectrum import Spectrum
from ...cones.table import Cones
from ...numerics import machine_epsilon
from ...solvers.equilibrate import Data, Scaling
from ...solvers.matrices import SparseMatrix, plus_diagonal
from ..cone_inputs import items_of
from ..forward import held
from ..system.determined import determined, shifted
from ..system.sparse_system import by_sparse_factor, sparse_two_tests
from ..system.system import (
    PASSES,
    Solver,
    System,
    by_normal_equations,
    idle_variables,
    refined,
)
from ..system.two_tests import Factors, TwoTests, factorise_extremes, two_tests

_EPS = machine_epsilon(np.float64)
_PATIENCE = 8  # passes of refinement, where fewer did not do


@dataclass
class Place:
    """A portion of a batch: its equilibrated program, and the elements of each item.

    What a gradient or a verdict needs is computed when the first of them asks for it.

    ``parts``: the elements V = T diag(d) Tᵀ, low ≤ d ≤ high; ``upper``: whether the derivative takes the
    greatest of them, or the least. ``known``: whether there is a solution. ``auxiliary``: as of
    ``ConeProgram``. ``eps``: of the data.
    """

    data: Data
    scaling: Scaling
    cones: Cones
    parts: Spectrum
    upper: bool
    known: np.ndarray
    auxiliary: tuple[int, ...]
    eps: float

    @property
    def bytes(self) -> int:
        """That it takes, or will have taken."""
        arrays: list[Any] = [*self.data, self.parts.low, self.parts.high, *self.parts.basis]
        values = (part.values if isinstance(part, SparseMatrix) else part for part in arrays)
        batch, (m, n) = len(self.known), self.data.A.shape[-2:]
        dense = not isinstance(self.data.A, SparseMatrix)
        factors = 8 * batch * (m * n + 2 * n * n + 2 * m * m) if dense else 0
        return factors + sum(part.nbytes for part in values if part is not None)

    @property
    def d(self) -> np.ndarray:
        """Of the element that the derivative takes."""
        return self.parts.high if self.upper else self.parts.low

    @cached_property
    def single(self) -> np.ndarray:
        """Which items have one element alone."""
        return np.all(self.parts.low == self.parts.high, axis=-1)

    @property
    def decided(self) -> np.ndarray:
        """Which items are known to have one element alone."""
        return self.single & self.parts.bounded

    @cached_property
    def system(self) -> System:
        """At the element that the derivative takes, without the variables that it leaves out."""
        data, basis, d = self.data, self.parts.basis, self.d
        idle = idle_variables(data.P, data.A, basis, d, self.cones, self.auxiliary)
        return System(plus_diagonal(data.P, idle), data.A, basis, d, self.cones)

    @cached_property
    def factors(self) -> Factors:
        """Those of the two tests, of dense data."""
        data, parts = held(self.data, self.parts, self.cones, self.auxiliary)
        return factorise_extremes(data.P, data.A, parts, self.cones)

    @cached_property
    def tests(self) -> TwoTests:
        """The verdict; 0 in an item without a solution."""
        data, parts = held(self.data, self.parts, self.cones, self.auxiliary)
        with np.errstate(all="ignore"):
            if isinstance(data.A, SparseMatrix):
                found = sparse_two_tests(data.P, data.A, parts, self.cones, self.eps)
            else:
                found = two_tests(data.P, data.A, parts, self.cones, self.eps, self.factors)
                found = found._replace(verdict=self._witnessed(found.verdict))
        verdict = np.where(self.known, found.verdict, 0).astype(np.int8)
        return TwoTests(verdict, np.where(self.known, found.margin, 0.0))

    def _witnessed(self, verdict: np.ndarray) -> np.ndarray:
        """The verdicts; REFUTED where the system of an extreme element is singular to round-off alone.

        The tests square its singular values.
        """
        items = np.flatnonzero((verdict < 0) & self.known)
        if not len(items):
            return verdict
        m, n = self.data.A.shape[-2:]
        above, below = (np.zeros((len(items), k, 0)) for k in (n, m))  # noise alone
        regular = np.ones(len(items), bool)
        for upper in (False, True):
            own = dataclasses.replace(self.some(items), upper=upper)
            regular &= ~own._attempt(above, below, False)[1]
        found = verdict.copy()
        found[items[regular]] = 0
        return found

    def some(self, items: np.ndarray) -> "Place":
        """Of some items."""
        basis, low, high, bounded = self.parts
        own = Place(
            items_of(self.data, items),
            Scaling(*(part[items] for part in self.scaling)),
            self.cones,
            Spectrum(
                tuple(None if part is None else part[items] for part in basis),
                low[items],
                high[items],
                bounded[items],
            ),
            self.upper,
            self.known[items],
            self.auxiliary,
            self.eps,
        )
        if "factors" in self.__dict__:
            batch = len(self.known)
            own.factors = Factors(*(_some(part, items, batch) for part in self.factors))
        return own

    def solve(
        self, upper: np.ndarray, lower: np.ndarray, transposed: bool, still: tuple[bool, bool]
    ) -> tuple[np.ndarray, np.ndarray]:
        """U(V)⁻¹ (upper, lower), or U(V)⁻ᵀ, for (batch, n or m, columns), of the equilibrated program.

        Zero goes to zero whatever the item; else NaN in an item without a solution, and where U(V) does
        not determine it. ``still``: whether P, and A, stand still.
        """
        with np.errstate(all="ignore"):
            found = self._solve(upper, lower, transposed, still)
            none = _all_zero(upper) & _all_zero(lower)
            lost = ~self.known[:, None, None] & ~none
            return tuple(np.where(none, 0.0, np.where(lost, np.nan, part)) for part in found)  # type: ignore[return-value]

    def _solve(
        self, upper: np.ndarray, lower: np.ndarray, transposed: bool, still: tuple[bool, bool]
    ) -> tuple[np.ndarray, np.ndarray]:
        found, lost = self._attempt(upper, lower, transposed)
        lost &= self.known
        if not lost.any():
            return found
        items = np.flatnonzero(lost)
        rest = self.some(items)._determined(upper[items], lower[items], transposed, still)
        for part, own in zip(found, rest, strict=True):
            part[items] = own
        return found

    def _attempt(
        self, upper: np.ndarray, lower: np.ndarray, transposed: bool
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """A solution, and in which items it is none, for their systems are singular.

        By one factor, where nobody has asked for the two of the verdict; by them where that does not do.
        """
        if isinstance(self.data.A, SparseMatrix):
            symmetric = by_sparse_factor(self.system, probed=True)
            inverse = self.system.transposed_inverse if transposed else self.system.inverse
            found = inverse(symmetric)(upper, lower)
            return found, np.isnan(found[0]).any(axis=(1, 2)) | np.isnan(found[1]).any(axis=(1, 2))
        if "factors" in self.__dict__:
            found, lost = self._refined(self._by_two_factors, 2, upper, lower, transposed)
        else:
            found, lost = self._refined(self._by_one_factor, PASSES, upper, lower, transposed)
        items = np.flatnonzero(lost & self.known)
        if len(items):
            own = self.some(items)
            patient = own._refined(
                own._by_two_factors, _PATIENCE, upper[items], lower[items], transposed
            )
            for part, rest in zip((*found, lost), (*patient[0], patient[1]), strict=True):
                part[items] = rest
        return found, lost

    def _refined(
        self,
        symmetric: Solver,
        passes: int,
        upper: np.ndarray,
        lower: np.ndarray,
        transposed: bool,
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Beside a right-hand side of noise, of which a singular system leaves a share."""
        system, n = self.system, upper.shape[1]
        product = system.transposed_product if transposed else system.product
        inverse = system.transposed_inverse if transposed else system.inverse
        noise = np.random.default_rng(0).uniform(-1, 1, size=(n + lower.shape[1], 1))
        noise = np.broadcast_to(noise, (len(upper), *noise.shape))
        probed = (
            np.concatenate([noise[:, :n], upper], axis=-1),
            np.concatenate([noise[:, n:], lower], axis=-1),
        )
        solution, residual = refined(inverse(symmetric), product, *probed, passes=passes)
        given = np.maximum(_largest(probed[0]), _largest(probed[1]))
        left = np.maximum(_largest(residual[0]), _largest(residual[1]))
        enough = _EPS**0.75 * given
        if not np.all(left <= enough):
            # rounding leaves some eps of the terms, which are large without end where the system is singular
            terms = np.maximum(_largest(solution[0]), _largest(solution[1]))
            rounding = 64 * _EPS * system.norm[:, None, None] * terms
            enough = enough + np.minimum(rounding, _EPS**0.25 * given)
        lost = ~np.all(left <= enough, axis=(1, 2))
        return (solution[0][..., 1:], solution[1][..., 1:]), lost

    @cached_property
    def _by_one_factor(self) -> Solver:
        return by_normal_equations(self.system)

    @cached_property
    def _by_two_factors(self) -> Solver:
        """The symmetric system by the two factors of V."""
        system = self.system
        if self.single.all():
            factors = self.factors
        else:
            parts = self.parts._replace(low=self.d, high=self.d)
            factors = factorise_extremes(system.P, system.A, parts, self.cones)
        root = np.sqrt(self.d)[..., None]
        B, X, Y = root * factors.turned, factors.X, factors.Y
        Bt, Xt, Yt = (np.swapaxes(part, -1, -2) for part in (B, X, Y))

        def plain(upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x = Xt @ (X @ (upper + Bt @ lower))
            return x, B @ x - lower

        def symmetric(upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            _, t = plain(upper, lower)
            return plain(upper, lower - root * (Yt @ (Y @ (root * t))))

        return symmetric

    def _determined(
        self, upper: np.ndarray, lower: np.ndarray, transposed: bool, still: tuple[bool, bool]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of singular systems: what is determined where no piece is weakly active, NaN for the rest.

        dP x and dAᵀy, passing forward, may be made with one of several x or y; passing backward the
        entries that belong to those are NaN.
        """
        n = upper.shape[1]
        found = np.full((len(upper), n + lower.shape[1], upper.shape[2]), np.nan)
        in_part = self.decided & (transposed or all(still))
        items = np.flatnonzero(in_part)
        if len(items):
            own = self.some(items)
            system = own.system
            product = system.transposed_product if transposed else system.product
            inverse = system.transposed_inverse if transposed else system.inverse
            if isinstance(self.data.A, SparseMatrix):
                symmetric = by_sparse_factor(system, probed=False)
            else:
                symmetric = by_normal_equations(shifted(system))
            right = np.concatenate([upper[items], lower[items]], axis=1)
            any_of = np.full(len(items), still[1] and transposed)
            found[items] = determined(system, inverse(symmetric), product, right, any_of)
        return found[:, :n], found[:, n:]


def _some(part: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
    return part if len(part) != batch else part[items]


def _all_zero(columns: np.ndarray) -> np.ndarray:
    return np.all(columns == 0, axis=1, keepdims=True)


def _largest(columns: np.ndarray) -> np.ndarray:
    return np.abs(columns).max(axis=1, keepdims=True, initial=0.0)
