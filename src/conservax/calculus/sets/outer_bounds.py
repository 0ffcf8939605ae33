"""Bounds from outside and from inside for sets with too many kinks to visit.

An element maps x to A x + H r, where r = D z and z = E x + L r. Three things are known of r for
every selection D, and each gives the products H r a centre and a radius:

    intervals   kinks that see earlier ones only: each r lies between 0 and its z
    Neumann     D = C + R S with |S| <= 1 (C = R = 1/2; a ball: C = 0, R = 1), so that
                z = z₀ + T S z with T = (I − L C)⁻¹ L R, and |z| <= (I − |T|)⁻¹ |z₀| if ρ(|T|) < 1
    ellipsoid   r_i (z_i − r_i) >= 0, so that rᵀ Δ N r <= rᵀ Δ E x with N = I − L: an ellipsoid if
                S = sym(Δ N) ≻ 0 for some diagonal Δ ≻ 0

Every bound from outside accounts for the rounding of its own computation: approximate inverses are
checked by their residuals, and products of matrices carry the a-priori bound γ |X| |Y|.

Source: Beeck (1975) and Rohn on interval systems for Neumann's bound; docs/theory.md#outer-bounds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import TooManyKinksError
from ...numerics import spectral_norm
from .abs_normal import AbsNormal

_EPS = float(np.finfo(np.float64).eps)

Products = Callable[[np.ndarray, slice], tuple[np.ndarray, np.ndarray]]
"""(H, columns) ↦ centre and radius, each (rows of H, columns), of H r for these columns of E."""


@dataclass(frozen=True)
class Moving:
    """The kinks that move something: H, E, L and the boxes [C − R, C + R] of their weights."""

    A: np.ndarray
    H: np.ndarray
    E: np.ndarray
    L: np.ndarray
    centre: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, form: AbsNormal) -> "Moving":
        groups = [form.groups[i] for i in form.moving()]
        columns = [c for g in groups for c in g.columns]
        ball = np.array([g.kind == "ball" for g in groups for _ in g.columns], dtype=bool)
        return cls(
            form.A,
            form.H[:, columns],
            form.E[columns],
            form.L[np.ix_(columns, columns)],
            np.where(ball, 0.0, 0.5),
            np.where(ball, 1.0, 0.5),
        )


def outer_bounds(form: AbsNormal) -> tuple[np.ndarray, np.ndarray]:
    """Entrywise bounds, each (m, n), that no element exceeds.

    Raises TooManyKinksError where none of the three methods has a finite one.
    """
    parts = Moving.of(form)
    low, high = np.full_like(parts.A, -np.inf), np.full_like(parts.A, np.inf)
    for products in _methods(form, parts):
        centre, radius = products(parts.H, slice(None))
        radius = radius + 4 * _EPS * (np.abs(parts.A) + np.abs(centre) + radius)
        low = np.maximum(low, parts.A + centre - radius)
        high = np.minimum(high, parts.A + centre + radius)
    return low, high


def outer_support(form: AbsNormal, direction: np.ndarray) -> float:
    """A bound from above of max ⟨C, J⟩ over the set, C (m, n).

    Raises as ``outer_bounds``.
    """
    parts = Moving.of(form)
    smooth = float(np.sum(parts.A * direction))
    size = float(np.sum(np.abs(parts.A * direction)))
    slopes, rounding = _product(direction.T, parts.H)
    bounds = []
    for products in _methods(form, parts):
        total, terms = smooth, size
        for b in range(parts.E.shape[1]):
            centre, radius = products(slopes[b : b + 1], slice(b, b + 1))
            slack = products(rounding[b : b + 1], slice(b, b + 1))
            extra = float(radius[0, 0] + np.abs(slack[0][0, 0]) + slack[1][0, 0])
            total += float(centre[0, 0]) + extra
            terms += abs(float(centre[0, 0])) + extra
        bounds.append(total + 4 * (direction.size + 4) * _EPS * terms)
    return min(bounds)


def norm_bound(form: AbsNormal) -> float:
    """A bound from above of max ‖J‖₂ over the set: a Lipschitz constant of the map.

    Raises as ``outer_bounds``.
    """
    parts = Moving.of(form)
    bounds = []
    for products in _methods(form, parts):
        centre, radius = products(parts.H, slice(None))
        bounds.append(_norm(parts.A + centre) + _norm(radius))
    ellipsoid = _Ellipsoid.of(parts)
    if ellipsoid is not None:
        bounds.append(ellipsoid.norm_bound(parts))
    return min(bounds) * (1 + 64 * max(parts.A.shape) * _EPS)


def _methods(form: AbsNormal, parts: Moving) -> Iterator[Products]:
    """The methods that apply, at least one; TooManyKinksError if there is none."""
    if parts.H.shape[1] == 0:
        yield lambda H, columns: (
            np.zeros((len(H), parts.E[:, columns].shape[1])),
            np.zeros((len(H), parts.E[:, columns].shape[1])),
        )
        return
    forward = _intervals(form, parts) if form.order() is not None else None
    found = [m for m in (forward, _neumann(parts), _Ellipsoid.of(parts)) if m is not None]
    if not found:
        raise TooManyKinksError(
            f"no bound of this implicit function's set was found: its {len(form.groups)} kinks are too many to "
            "visit, and it is neither contractive nor monotone in a diagonal scaling. Run cx.check, which says "
            "whether the set is bounded, and use .inner_bounds or .element."
        )
    yield from found


def _intervals(form: AbsNormal, parts: Moving) -> Products:
    """Forward through the kinks: r between 0 and z, or between −|z| and |z| for a ball."""
    full = {c: i for i, c in enumerate(c for i in form.moving() for c in form.groups[i].columns)}
    low, high = np.zeros_like(parts.E), np.zeros_like(parts.E)
    moving = set(form.moving())
    for i in form.order() or ():
        if i not in moving:
            continue
        group = form.groups[i]
        rows = [full[c] for c in group.columns]
        L, E = parts.L[rows], parts.E[rows]
        up, down = np.maximum(L, 0.0), np.minimum(L, 0.0)
        z_low, z_high = E + up @ low + down @ high, E + up @ high + down @ low
        slack = 2 * (len(L.T) + 3) * _EPS * (np.abs(E) + np.abs(L) @ np.maximum(-low, high))
        z_low, z_high = z_low - slack, z_high + slack
        if group.kind == "ball":
            z_high = np.maximum(-z_low, z_high)
            z_low = -z_high
        low[rows], high[rows] = np.minimum(z_low, 0.0), np.maximum(z_high, 0.0)
    middle, half = (low + high) / 2, (high - low) / 2

    def products(H: np.ndarray, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        centre, error = _product(H, middle[:, columns])
        radius, slack = _product(np.abs(H), half[:, columns])
        return centre, radius + slack + error

    return products


def _neumann(parts: Moving) -> Products | None:
    """Neumann's bound with an approximate inverse P of I − L C, whose defect δ is bounded."""
    k = parts.L.shape[0]
    identity = np.eye(k)
    system = identity - parts.L * parts.centre
    try:
        P = np.linalg.inv(system)
    except np.linalg.LinAlgError:
        return None
    closed, error = _product(P, system)
    # system itself is rounded once
    defect = np.abs(identity - closed) + error + 2 * _EPS * (identity + np.abs(P) @ np.abs(system))
    step, step_error = _product(P, parts.L * parts.radius)
    start, start_error = _product(P, parts.E)
    T = np.abs(step) + step_error + defect
    bound = _dominant(T, np.abs(start) + start_error)
    if bound is None:
        return None
    passed = parts.centre[:, None] * step + np.diag(parts.radius)
    off = parts.centre[:, None] * (defect + step_error) + _EPS * np.abs(passed)

    def products(H: np.ndarray, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        centre, error = _product(H * parts.centre, start[:, columns])
        reach, reach_error = _product(H, passed)
        spread = np.abs(reach) + reach_error + np.abs(H) @ off
        radius = spread @ bound[:, columns] + np.abs(H * parts.centre) @ start_error[:, columns]
        return centre, (radius + error) * (1 + 8 * k * _EPS)

    return products


def _dominant(T: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """u >= (I − T)⁻¹ start for T >= 0, proven by u >= T u + start; None unless ρ(T) < 1 is proven."""
    k = T.shape[0]
    try:
        ones = np.linalg.solve(np.eye(k) - T, np.ones(k))
        u = np.linalg.solve(np.eye(k) - T, start)
    except np.linalg.LinAlgError:
        return None
    grow = 1 + 4 * (k + 2) * _EPS
    if not (np.all(ones > 0) and np.all((T @ ones) * grow < ones)):
        return None
    for slack in (32 * (k + 2) * _EPS, 1e-9, 1e-6, 1e-3):
        candidate = np.maximum(u, 0.0) + slack * ones[:, None] * start.max(axis=0, initial=0.0)
        if np.all(candidate >= (T @ candidate + start) * grow):
            return candidate
    return None


@dataclass(frozen=True)
class _Ellipsoid:
    """S = sym(Δ N) ≻ 0 with λ_min(S) >= floor: r lies in an ellipsoid about ½ S⁻¹ Δ E x."""

    S: np.ndarray
    scaled: np.ndarray  # Δ E, exact: Δ holds powers of two
    floor: float

    @classmethod
    def of(cls, parts: Moving) -> "_Ellipsoid | None":
        k = parts.L.shape[0]
        if k == 0 or np.any(parts.centre != 0.5):  # a ball's weights may be negative
            return None
        N = np.eye(k) - parts.L
        for scale in _scalings(N):
            scaled = scale[:, None] * N
            S = (scaled + scaled.T) / 2
            size = np.abs(scaled).sum(axis=1).max() + np.abs(scaled).sum(axis=0).max()
            # rounding of N and of the sum, then that of the eigenvalue
            floor = float(np.linalg.eigvalsh(S)[0]) - 16 * k * _EPS * float(size)
            if floor > 0:
                return cls(S, scale[:, None] * parts.E, floor)
        return None

    def __call__(self, H: np.ndarray, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Centre ½ h S⁻¹ Δ e and radius ½ √(h S⁻¹ h) √(Δe S⁻¹ Δe)."""
        e = self.scaled[:, columns]
        solved, square = self._squares(H.T)
        gap = np.linalg.norm(H.T - self.S @ solved, axis=0) + self._rounding(solved, H.T)
        centre, error = _product(solved.T, e)
        error = error + np.outer(gap, np.linalg.norm(e, axis=0)) / self.floor
        radius = np.sqrt(np.outer(square, self._squares(e)[1]))
        return centre / 2, (radius + error) / 2 * (1 + 16 * _EPS)

    def norm_bound(self, parts: Moving) -> float:
        """‖A + ½ H S⁻¹ Δ E‖ + ½ ‖H S^(−½)‖ ‖S^(−½) Δ E‖, each norm from above."""
        centre, _ = self(parts.H, slice(None))
        wide, slacks = [], []
        for B, other in ((parts.H.T, self.scaled), (parts.H.T, parts.H.T), (self.scaled,) * 2):
            X, _ = self._squares(B)
            gap = np.linalg.norm(B - self.S @ X) + np.linalg.norm(self._rounding(X, B))
            product, error = _product(X.T, other)
            slacks.append(float(np.linalg.norm(error) + gap * _norm(other) / self.floor))
            wide.append(_norm(product) + slacks[-1])
        return _norm(parts.A + centre) + slacks[0] / 2 + float(np.sqrt(wide[1] * wide[2])) / 2

    def _squares(self, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X ≈ S⁻¹ B, and bounds from above of b S⁻¹ b for the columns b of B."""
        X = np.linalg.solve(self.S, B)
        gap = np.linalg.norm(B - self.S @ X, axis=0) + self._rounding(X, B)
        length = np.linalg.norm(B, axis=0)
        rounding = 2 * (len(B) + 2) * _EPS * np.abs(X * B).sum(axis=0)
        return X, np.maximum((X * B).sum(axis=0) + rounding + gap * length / self.floor, 0.0)

    def _rounding(self, X: np.ndarray, B: np.ndarray) -> np.ndarray:
        """What rounding of S and of B − S X adds to the norm of that residual."""
        terms = np.abs(self.S) @ np.abs(X) + np.abs(B)
        return 4 * (len(B) + 4) * _EPS * np.linalg.norm(terms, axis=0)


def _scalings(N: np.ndarray) -> Iterator[np.ndarray]:
    """Diagonals to try, powers of two: 1, then what balances |(I − N)(I + N)⁻¹|.

    Near its spectral radius, (I − θ K)⁻¹ 1 and its transpose tend to the Perron vectors of K >= 0.
    """
    identity = np.eye(N.shape[0])
    yield np.ones(N.shape[0])
    try:
        K = np.abs((identity - N) @ np.linalg.inv(identity + N))
        theta = 0.99 / max(float(np.abs(np.linalg.eigvals(K)).max()), 1e-3)
        right, left = (np.linalg.solve(identity - theta * M, np.ones(len(N))) for M in (K, K.T))
    except np.linalg.LinAlgError:
        return
    if np.all(right > 0) and np.all(left > 0):
        yield np.exp2(np.round(np.log2(left / right)))


def _product(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X Y and an entrywise bound of its rounding error."""
    return X @ Y, 2 * (X.shape[1] + 2) * _EPS * (np.abs(X) @ np.abs(Y))


def _norm(X: np.ndarray) -> float:
    """‖X‖₂ from above."""
    if X.size == 0:
        return 0.0
    return spectral_norm(X) * (1 + 16 * max(X.shape) * _EPS)
