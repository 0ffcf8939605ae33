"""The derivative of a fit on its face: one Cholesky factor, and closed forms for each argument.

With M = [X_R T, 1] the columns of the face, D = diag(ω ℓ″), C the penalty's Hessian and
H = MᵀDM + TᵀCT, a solution moves by

    u̇ = −H⁻¹ [ Tᵀ(Ẋᵀg) + Mᵀ(D Ẋβ + ω ∂²ℓ/∂z∂y ẏ + ω̇ ∂ℓ/∂z) + Tᵀ ∂(∇φ)/∂θ θ̇ ],   g = ω ∂ℓ/∂z,

and the transpose of this map gives gradients (docs/theory.md#sparse-models).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .design import Design, gram, weigh
from .penalties import Face
from .solvers import Problem
from .solvers.l1_quadratic import cholesky, solve_part
from .solvers.proximal import face_basis

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Reduced:
    """The fit on its face, at coefficients ``coef`` with predictions ``z``."""

    problem: Problem
    coef: np.ndarray
    z: np.ndarray
    face: Face
    total: float
    """Σ of the sample weights as given."""
    in_part: bool = False
    """Whether dependent columns are solved for on an independent part of them, and not by NaN."""

    @classmethod
    def at(cls, problem: Problem, coef: np.ndarray, total: float, lars: bool) -> "Reduced":
        """The support's face, or with ``lars`` the one that holds all that may move."""
        z = problem.design.predict(coef)
        beta = coef[: problem.design.penalised]
        if lars:
            face = problem.penalty.face(
                beta, problem.gradient(z)[: len(beta)], np.sqrt(np.finfo(float).eps)
            )
            face = replace(face, basis=_joined(face))
        else:
            face = problem.penalty.face(beta)
        return cls(problem, coef, z, face, total)

    @cached_property
    def design(self) -> Design:
        """The columns centred where an intercept is free: no rank is lost to their means."""
        return self.problem.design.centred(self.problem.omega)

    @cached_property
    def rows(self) -> np.ndarray:
        """The face's places in ``coef``, intercepts last."""
        design = self.problem.design
        return np.concatenate([self.face.rows, np.arange(design.penalised, design.size)])

    @cached_property
    def T(self) -> np.ndarray | None:  # noqa: N802
        design, r = self.problem.design, len(self.face.rows)
        T = face_basis(self.face.basis, r, design.size - design.penalised)
        if not (design.intercept and design.outputs > 1):
            return T
        # intercepts of several classes are determined up to a common constant: their sum stands still
        T = np.eye(len(self.rows)) if T is None else T
        k = design.outputs
        still = np.linalg.qr(np.ones((k, 1)), mode="complete")[0][:, 1:]
        return np.concatenate([T[:, :-k], T[:, -k:] @ still], axis=1)

    @cached_property
    def columns(self) -> Any:
        """∂prediction/∂(rows), (nK, r)."""
        return self.design.columns(self.rows)

    @cached_property
    def curvature(self) -> np.ndarray:
        return self.problem.curvature(self.z)

    @cached_property
    def hessian(self) -> np.ndarray:
        """∇²(loss + penalty) on the rows, (r, r)."""
        H = gram(self.curvature, self.columns)
        r = len(self.face.rows)
        if self.face.curvature is not None:
            bend = self.face.curvature
            H[:r, :r] += np.diag(bend) if bend.ndim == 1 else bend
        return H

    @cached_property
    def system(self) -> np.ndarray:
        """H = Tᵀ (Hessian) T."""
        return self.hessian if self.T is None else self.T.T @ self.hessian @ self.T

    @cached_property
    def _factor(self) -> tuple[np.ndarray, bool] | None:
        return cholesky(self.system)

    @property
    def regular(self) -> bool:
        """Whether H is positive definite beyond rounding."""
        return not len(self.system) or self._factor is not None

    def _solve(self, right: np.ndarray) -> np.ndarray:
        """T H⁻¹ Tᵀ right, on the rows: 0 for 0, NaN where H is singular."""
        reduced = right if self.T is None else self.T.T @ right
        from scipy.linalg import cho_solve

        if not reduced.any():
            return np.zeros(len(right))
        if not np.isfinite(reduced).all() or (self._factor is None and not self.in_part):
            return np.full(len(right), np.nan)
        if self._factor is None:
            found = solve_part(self.system, reduced)
        else:
            found = cho_solve(self._factor, reduced, check_finite=False)
        return found if self.T is None else self.T @ found

    @cached_property
    def _beta(self) -> np.ndarray:
        design = self.problem.design
        return self.coef[: design.penalised].reshape(-1, design.outputs)

    def push(self, tangents: Arrays) -> np.ndarray:
        """The tangent of all coefficients."""
        problem = self.problem
        design, r = problem.design, len(self.face.rows)
        right, shift = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        loss = self.problem.datafit.gradient(self.z, problem.y)
        through = np.zeros_like(self.z)
        for name, tangent in tangents.items():
            if name == "X":
                moved = Design(tangent, design.outputs, False)
                through += weigh(
                    self.curvature, moved.predict(self.coef[: design.penalised]).reshape(-1, 1)
                ).reshape(self.z.shape)
                pulled = moved.transposed(problem.omega[:, None] * loss)
                right[:r] -= pulled[self.face.rows]
            elif name == "y":
                through += (problem.omega * tangent)[:, None] * problem.datafit.mixed(
                    self.z, problem.y
                )
            elif name == "sample_weight":
                moving = (tangent - problem.omega * tangent.sum()) / self.total
                through += moving[:, None] * loss
            elif name in self.face.parameters:
                right[:r] -= self.face.parameters[name].push(tangent)
            if name in self.face.offsets:
                shift[:r] += self.face.offsets[name].push(tangent)
        right -= np.asarray(self.columns.T @ through.ravel())
        if shift.any():
            right -= self.hessian @ shift
        moved = np.zeros(design.size)
        moved[self.rows] = self._solve(right) + shift
        return self.design.from_centred(moved)

    def pull(self, cotangent: np.ndarray, like: Arrays) -> dict[str, np.ndarray]:
        """The cotangents of the arguments in ``like``, which have their shapes."""
        problem, r = self.problem, len(self.face.rows)
        cotangent = self.design.pulled_from_centred(cotangent)
        p = self._solve(cotangent[self.rows])
        loss = problem.datafit.gradient(self.z, problem.y)
        moved = np.asarray(self.columns @ p).reshape(self.z.shape)
        found = {}
        for name, array in like.items():
            if name == "X":
                found[name] = self._pull_design(p[:r], moved, loss)
            elif name == "y":
                mixed = problem.datafit.mixed(self.z, problem.y)
                found[name] = -problem.omega * np.sum(mixed * moved, axis=1)
            elif name == "sample_weight":
                each = -np.sum(loss * moved, axis=1)
                found[name] = (each - problem.omega @ each) / self.total
            elif name in self.face.parameters:
                found[name] = 0.0 - self.face.parameters[name].pull(p[:r], array.shape)
            else:
                found[name] = np.zeros(array.shape)
            if name in self.face.offsets:
                reach = cotangent[self.rows] - self.hessian @ p
                found[name] = found[name] + self.face.offsets[name].pull(reach[:r], array.shape)
        return found

    def _pull_design(self, p: np.ndarray, moved: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """X̄ = −(g pᵀ + (D X p) βᵀ): zero in the columns off the support."""
        problem, k = self.problem, self.problem.design.outputs
        bent = weigh(self.curvature, moved.reshape(-1, 1)).reshape(self.z.shape)
        spread = np.zeros(problem.design.penalised)
        spread[self.face.rows] = p
        spread = spread.reshape(-1, k)
        used = np.flatnonzero(np.any((spread != 0) | (self._beta != 0), axis=1))
        X = np.zeros(problem.design.X.shape)
        pull = problem.omega[:, None] * loss
        X[:, used] = -(pull @ spread[used].T + bent @ self._beta[used].T)
        return X


def _joined(face: Face) -> np.ndarray | None:
    """The basis with every kink's direction beside it."""
    if face.kinks is None or face.basis is None:
        return face.basis
    return np.concatenate([face.basis, face.kinks.directions], axis=1)
