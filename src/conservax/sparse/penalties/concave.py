"""MCP and SCAD: penalties that stop shrinking large coefficients."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .base import Bends, Face, Penalty, Slope
from .l1 import L1


@dataclass(frozen=True, eq=False)
class Concave(Penalty):
    """Σ φ(|β_j|), φ′ falling from α at 0 to 0 at γα.

    MCP (Zhang 2010): φ′(t) = α − t/γ. SCAD (Fan, Li 2001): φ′(t) = α up to α, then (γα − t)/(γ − 1).
    Curvature jumps at γα and, for SCAD, at α.

    >>> import numpy as np
    >>> Concave(np.array(1.0), 3.0, "mcp").prox(np.array([0.5, 2.0, 4.0]), 1.5).tolist()
    [0.0, 1.0, 4.0]
    """

    alpha: np.ndarray
    gamma: float
    kind: Literal["mcp", "scad"]
    convex = False

    @property
    def largest_step(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0.9 * (self.gamma if self.kind == "mcp" else self.gamma - 1)

    def _pieces(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """φ′, φ″ and ∂φ′/∂α at sizes |β|."""
        a, g = float(self.alpha), self.gamma
        middle = size <= g * a
        if self.kind == "mcp":
            zero = np.zeros_like(size)
            return (
                np.where(middle, a - size / g, zero),
                np.where(middle, -1 / g, zero),
                np.where(middle, 1.0, zero),
            )
        inner = size <= a
        return (
            np.where(inner, a, np.where(middle, (g * a - size) / (g - 1), 0.0)),
            np.where(middle & ~inner, -1 / (g - 1), 0.0),
            np.where(inner, 1.0, np.where(middle, g / (g - 1), 0.0)),
        )

    def value(self, beta: np.ndarray) -> float:
        a, g, t = float(self.alpha), self.gamma, np.abs(beta)
        if self.kind == "mcp":
            each = np.where(t <= g * a, a * t - t**2 / (2 * g), g * a**2 / 2)
        else:
            bent = (2 * g * a * t - t**2 - a**2) / (2 * (g - 1))
            each = np.where(t <= a, a * t, np.where(t <= g * a, bent, a**2 * (g + 1) / 2))
        return float(each.sum())

    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        a, g, t = float(self.alpha), self.gamma, np.abs(v)
        soft = np.maximum(t - step * a, 0.0)
        if self.kind == "mcp":
            size = np.where(t <= g * a, soft / (1 - step / g), t)
        else:
            bent = ((g - 1) * t - step * g * a) / (g - 1 - step)
            size = np.where(t <= (1 + step) * a, soft, np.where(t <= g * a, bent, t))
        return np.sign(v) * size + 0.0

    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        pull = self._pieces(np.abs(beta))[0]
        inside = np.maximum(np.abs(gradient) - self.alpha, 0)
        return np.where(beta == 0, inside, np.abs(gradient + pull * np.sign(beta)))

    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        face = L1(self.alpha).face(beta, gradient, rtol)
        rows = face.rows
        size = np.abs(beta[rows])
        signs = face.parameters["alpha"].values
        pull, curvature, moving = self._pieces(size)
        bends = None
        if gradient is not None:
            bends, curvature, moving = self._bends(size, signs, curvature, moving, rtol)
        return Face(
            rows,
            face.basis,
            curvature,
            pull * signs,
            {"alpha": Slope(moving * signs)},
            face.kinks,
            bends,
            face.nearest,
        )

    def _bends(
        self,
        size: np.ndarray,
        signs: np.ndarray,
        curvature: np.ndarray,
        moving: np.ndarray,
        rtol: float,
    ) -> tuple[Bends, np.ndarray, np.ndarray]:
        """Coefficients at a corner of φ′, where the piece below is taken as the base."""
        a, g = float(self.alpha), self.gamma
        corners = [(g * a, 1 / g if self.kind == "mcp" else 1 / (g - 1))]
        if self.kind == "scad":
            corners.append((a, -1 / (g - 1)))
        rows, lift, threshold = [], [], []
        curvature, moving = curvature.copy(), moving.copy()
        for corner, jump in corners:
            at = np.flatnonzero(np.abs(size - corner) <= rtol * (size + corner))
            below = np.full(len(at), corner * (1 - 1e-9))
            _, curvature[at], moving[at] = self._pieces(below)
            rows.append(at)
            lift.append(np.full(len(at), jump))
            threshold.append(np.full(len(at), corner))
        at = np.concatenate(rows)
        return (
            Bends(at, np.concatenate(lift), signs[at], np.concatenate(threshold)),
            curvature,
            moving,
        )

    def restrict(self, rows: np.ndarray) -> "Concave":
        return self

    def zero_above(self, gradient: np.ndarray) -> float:
        return float(np.abs(gradient).max(initial=0.0)) / float(self.alpha)
