"""The set of a model's derivatives at a solution, as an abs-normal form: Proposition 5 and its kin.

At a solution the face's directions T move freely, and those of its kinks, K, by r = q z ≥ 0:

    β̇ = T u̇ + K r,   Tᵀ(H β̇ + G θ̇) = 0,   z = r − η Kᵀ(H β̇ + G θ̇),

one weight q in [0, 1] a kink, any η > 0. q = 0 everywhere keeps the support, q = 1 is the LARS selection.
See docs/theory.md#sparse-models. Where a curvature jumps (MCP, SCAD, Huber's loss) H gains q c hhᵀ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calculus import ConservativeJacobian, Kink
from ..calculus.sets.abs_normal import AbsNormal, Group
from ..calculus.tracing.locations import Location
from ..errors import SingularError
from .derivative import Reduced
from .penalties import Slope
from .solvers.l1_quadratic import solve_positive


class Place(Location):
    """A coefficient, group or sample, where a kink of a model sits."""

    @property
    def short(self) -> str:
        return f"{self.file} {self.line}"

    def __str__(self) -> str:
        return self.short


class SparseJacobian(ConservativeJacobian):
    """The set of a sparse model's derivatives; beside the usual selections it knows two by name.

    ``element("support")`` moves the coefficients that are not zero (q = 0: the weak derivative),
    ``element("lars")`` all that may move (q = 1: Remark 4 of Bolte and others, 2021).
    """

    def weights(self, selection: str | Sequence[float] | np.ndarray) -> np.ndarray:
        """As ``ConservativeJacobian.weights``, with "support" and "lars" beside the names there."""
        if isinstance(selection, str):
            selection = {"support": "lower", "lars": "upper"}.get(selection, selection)
        return super().weights(selection)


@dataclass(frozen=True, eq=False)
class LocalSystem:
    """H, T, K, the jumps' h and c, on the face's rows; what the set and the certificate are made of."""

    reduced: Reduced
    H: np.ndarray
    T: np.ndarray
    K: np.ndarray
    h: np.ndarray
    c: np.ndarray
    shift: np.ndarray
    kinks: tuple[Kink, ...]
    nearest: Kink | None

    @classmethod
    def of(cls, reduced: Reduced, rtol: float) -> "LocalSystem":
        """At a reduced fit whose face knows its kinks."""
        face, design = reduced.face, reduced.problem.design
        free = design.size - design.penalised
        r = len(reduced.rows)
        T = np.eye(r) if reduced.T is None else reduced.T
        assert face.kinks is not None
        m = face.kinks.directions.shape[1]
        K = np.concatenate([face.kinks.directions, np.zeros((free, m))])
        what = "group" if face.kinks.operation.startswith("group") else "coefficient"
        kinks = [
            Kink(face.kinks.operation, Place(what, i), (i,), float(d), float(t), (0.0, 1.0), True)
            for i, d, t in zip(
                face.kinks.index, face.kinks.distance, face.kinks.tolerance, strict=True
            )
        ]
        h, c, shift = np.zeros((r, 0)), np.zeros(0), np.zeros(0)
        H = reduced.hessian
        if face.bends is not None and len(face.bends.rows):
            at = face.bends.rows
            h = np.zeros((r, len(at)))
            h[at, np.arange(len(at))] = face.bends.sign
            c, shift = face.bends.lift, face.bends.threshold
            places = face.rows[at]
            kinks += [
                Kink("curvature", Place("coefficient", int(j)), (int(j),), 0.0, 0.0, None, True)
                for j in places
            ]
        problem = reduced.problem
        corners = problem.datafit.corners(reduced.z, problem.y, rtol)
        if len(corners):
            # the loss's curvature is 1 inside: from that side it is lost where the residual grows
            H = H.copy()
            M = reduced.columns[corners]
            M = M.toarray() if hasattr(M, "toarray") else M
            weight = problem.omega[corners]
            inside = reduced.curvature[corners, 0, 0] > 0
            H += M.T @ ((weight * ~inside)[:, None] * M)
            side = np.sign(reduced.z[corners, 0] - problem.y[corners])
            h = np.concatenate([h, (side[:, None] * M).T], axis=1)
            c, shift = np.concatenate([c, -weight]), np.concatenate([shift, 0 * weight])
            kinks += [
                Kink("loss", Place("sample", int(i)), (int(i),), 0.0, 0.0, None, True)
                for i in corners
            ]
        nearest = None
        if face.nearest is not None:
            i, distance, tolerance = face.nearest
            nearest = Kink(
                face.kinks.operation, Place(what, i), (i,), distance, tolerance, (0.0, 1.0), False
            )
        return cls(reduced, H, T, K, h, c, shift, tuple(kinks), nearest)

    def groups(self) -> tuple[Group, ...]:
        """One scalar kink a column."""
        return tuple(Group(kink, (i,), (0.0,)) for i, kink in enumerate(self.kinks))

    def moving(self) -> np.ndarray:
        """[T K]: every direction that some element moves in."""
        return np.concatenate([self.T, self.K], axis=1)

    def lowest(self) -> np.ndarray:
        """H at its least curvature over the set."""
        return self.H + (self.h * np.minimum(self.c, 0)) @ self.h.T

    def form(self, G: np.ndarray, offset: np.ndarray, dtype: Any) -> AbsNormal:
        """The set in parameters that move the penalty's gradient by G (r, n) and the rows by ``offset``.

        Raises SingularError where the face itself is singular.
        """
        T, K, H, hc = self.T, self.K, self.H, self.h * self.c
        G = G + H @ offset
        system = T.T @ H @ T
        right = T.T @ np.concatenate([G, H @ K, hc], axis=1)
        solved, regular = solve_positive(system, right)
        if not regular:
            raise SingularError(
                f"the {len(system)} columns of the support depend on each other, so that the solution is not "
                "unique and there is no set of derivatives. The model's check gives the null vector."
            )
        n, m = G.shape[1], K.shape[1]
        A = -T @ solved[:, :n]
        W = -T @ solved[:, n:]
        W[:, :m] += K
        eta = 1 / max(float(np.einsum("im,ij,jm->m", K, H, K).max(initial=0.0)), 1e-300)
        force = H @ W
        force[:, m:] += hc
        # the size at which a curvature jumps moves with log α, the first of the parameters
        jumps = self.h.T @ A
        jumps[:, :1] -= self.shift[:, None]
        E = np.concatenate([-eta * K.T @ (H @ A + G), jumps])
        L = np.concatenate([-eta * K.T @ force, self.h.T @ W])
        L[:m, :m] += np.eye(m)
        design = self.reduced.problem.design
        spread = np.zeros((design.size, n + W.shape[1]))
        spread[self.reduced.rows] = np.concatenate([A + offset, W], axis=1)
        spread = spread[: design.penalised]
        return AbsNormal(
            spread[:, :n], spread[:, n:], E, L, self.groups(), self.nearest, np.dtype(dtype)
        )

    def square(self) -> AbsNormal:
        """The system whose invertibility for every q is the question: of the unknowns (u, r)."""
        T, K, H, hc = self.T, self.K, self.H, self.h * self.c
        k, m, b = T.shape[1], K.shape[1], self.h.shape[1]
        eta = 1 / max(float(np.einsum("im,ij,jm->m", K, H, K).max(initial=0.0)), 1e-300)
        A = np.eye(k + m)
        A[:k] = T.T @ H @ np.concatenate([T, K], axis=1)
        cut = np.zeros((k + m, m + b))
        cut[:k, m:] = T.T @ hc
        cut[k:, :m] = -np.eye(m)
        E = np.zeros((m + b, k + m))
        E[:m] = -eta * K.T @ H @ np.concatenate([T, K], axis=1)
        E[:m, k:] += np.eye(m)
        E[m:] = self.h.T @ np.concatenate([T, K], axis=1)
        L = np.zeros((m + b, m + b))
        L[:m, m:] = -eta * K.T @ hc
        return AbsNormal(A, cut, E, L, self.groups(), self.nearest, np.dtype(float))


def parameter_columns(
    reduced: Reduced, values: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """How the penalty's gradient, and the rows, move with the logarithms of the parameters, (r, n) each."""
    free = len(reduced.rows) - len(reduced.face.rows)
    columns, offsets = [], []
    for name, value in values.items():
        slope = reduced.face.parameters[name]
        flat = np.atleast_1d(value)
        part = _scaled(slope, flat)
        below = np.zeros((free, part.shape[1]))
        columns.append(np.concatenate([part, below]))
        shift = np.zeros_like(part)
        if name in reduced.face.offsets:
            shift = _scaled(reduced.face.offsets[name], flat)
        offsets.append(np.concatenate([shift, below]))
    return np.concatenate(columns, axis=1), np.concatenate(offsets, axis=1)


def _scaled(slope: Slope, values: np.ndarray) -> np.ndarray:
    """∂rows/∂log of the parameter, (r, n)."""
    if slope.index is None:
        return (slope.values * values[0])[:, None]
    part = np.zeros((len(slope.values), len(values)))
    part[np.arange(len(slope.values)), slope.index] = slope.values * values[slope.index]
    return part
