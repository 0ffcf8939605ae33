"""What a penalty has to know about itself, and the face of it on which a solution lies."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Slope:
    """∂(gradient of the penalty on the face)/∂parameter: row r moves by ``values[r]`` θ̇[``index[r]``].

    ``index`` is None for a scalar parameter.
    """

    values: np.ndarray
    index: np.ndarray | None = None

    def push(self, tangent: np.ndarray) -> np.ndarray:
        """Rows, from a tangent of the parameter."""
        return self.values * (tangent if self.index is None else tangent[self.index])

    def pull(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The transpose: a cotangent of the parameter."""
        if self.index is None:
            return np.asarray(self.values @ rows)
        return np.bincount(self.index, self.values * rows, minlength=shape[0])


@dataclass(frozen=True)
class Kinks:
    """Directions in which the solution may leave its face, on one side only.

    Column i of ``directions`` (r, m) is taken with a nonnegative coefficient; ``index`` says which
    coefficient or group that is, ``distance`` how far from the kink it stands and ``tolerance`` within
    what it counted as active, in units of the gradient; ``operation`` names it.
    """

    directions: np.ndarray
    index: tuple[int, ...] = ()
    distance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tolerance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    operation: str = "soft threshold"


@dataclass(frozen=True)
class Bends:
    """Coefficients at which the penalty's curvature jumps (MCP, SCAD): rows, and by how much.

    ``lift`` is the curvature on the side to which the coefficient's size grows, less that of ``Face``;
    ``threshold`` the size at which it jumps, which is proportional to α.
    """

    rows: np.ndarray
    lift: np.ndarray
    sign: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class Face:
    """Where the penalty is smooth around a solution: β = T u on ``rows``, zero elsewhere.

    Attributes:
        rows: (r,) places in the vector of coefficients.
        basis: T (r, k), or None for the identity.
        curvature: the penalty's Hessian on the rows, (r,) if diagonal, (r, r), or None for zero.
        slope: the penalty's gradient there, (r,).
        parameters: how ``slope`` moves with each parameter.
        kinks, bends: where the face may change; empty unless asked for.
        nearest: (index, distance, tolerance) of the kink that would become active next, or None.
        offsets: how the rows move with a parameter when T u stands still (coefficients on a bound).
    """

    rows: np.ndarray
    basis: np.ndarray | None
    curvature: np.ndarray | None
    slope: np.ndarray
    parameters: Mapping[str, Slope]
    kinks: Kinks | None = None
    bends: Bends | None = None
    nearest: tuple[int, float, float] | None = None
    offsets: Mapping[str, Slope] = field(default_factory=dict)


class Penalty(ABC):
    """A penalty φ(β) of P coefficients, flattened; float64 arrays of the host."""

    convex = True
    largest_step = np.inf
    """Up to it the proximal map is single-valued."""

    affine: tuple[str, ...] = ()
    """Parameters in which the solutions of least squares are piecewise affine."""

    @abstractmethod
    def value(self, beta: np.ndarray) -> float:
        """φ(β)."""

    @abstractmethod
    def prox(self, v: np.ndarray, step: float) -> np.ndarray:
        """argmin_β ‖β − v‖²/2 + step φ(β)."""

    @abstractmethod
    def violation(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """(P,): the distance of −gradient from ∂φ(β), coefficient by coefficient, or a bound of it."""

    @abstractmethod
    def face(self, beta: np.ndarray, gradient: np.ndarray | None = None, rtol: float = 0.0) -> Face:
        """The face of β; with its kinks, to a relative tolerance, if the loss's gradient is given."""

    @abstractmethod
    def restrict(self, rows: np.ndarray) -> "Penalty":
        """The penalty of the coefficients in ``rows``, the others being zero."""

    @property
    def scale(self) -> float:
        """The size of the penalty's own gradient, where the loss's may vanish; 0 where it says nothing."""
        return 0.0

    def truncated(self, beta: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, bool] | None:
        """β + t·along for the largest t ≤ 1 on the closure of β's face, and whether t = 1.

        None where a penalty's faces have no simple ends.
        """
        return None

    def closure(self, rows: np.ndarray) -> np.ndarray:
        """All coefficients that cannot be told apart from those in ``rows``; sorted."""
        return np.unique(rows)

    @abstractmethod
    def zero_above(self, gradient: np.ndarray) -> float:
        """The factor of all penalties at which the solution becomes zero; gradient at β = 0."""
