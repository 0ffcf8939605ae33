"""Small programs at a degenerate point: their data, their solution in closed form, and in cvxpy.

All have one shape, so that one batch solves them: four variables, one equality, two inequalities, a
second-order cone of dimension 3 and a 2 × 2 semidefinite one. Unused rows read 0ᵀx ≤ 1 and the
like; unused variables are held at zero by ½w².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from conservax.programs import Cones

CONES = Cones(zero=1, nonnegative=2, second_order=(3,), semidefinite=(2,))
VARIABLES = 4
_ROWS = {
    "zero": slice(0, 1),
    "nonnegative": slice(1, 3),
    "second_order": slice(3, 6),
    "semidefinite": slice(6, 9),
}
_INERT = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0])  # a slack in every cone
_ROOT = np.sqrt(2.0)

Data = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class Case:
    """One program at one point, and one entry of its Jacobian.

    Attributes:
        name: for the claims. formula: what is minimised. entry: which derivative. point: θ.
        data: θ ↦ P, c, A, b. output, parameter: the derivative is ∂x[output]/∂θ[parameter].
        solution: θ ↦ x[output] in closed form, next to ``point``.
        answers: the smallest and largest derivative of ``solution`` next to ``point``; None where
            it jumps. proven: whether the invertibility condition holds, worked out by hand.
        peer: () ↦ the cvxpy problem, its parameter and its variable.
        peer_point: the parameter's value. peer_output, peer_parameter: the same entry there.
    """

    name: str
    formula: str
    entry: str
    point: tuple[float, ...]
    data: Callable[[Array], Data]
    output: int
    parameter: int
    solution: Callable[[np.ndarray], float]
    answers: tuple[float, float] | None
    proven: bool
    peer: Callable[[], tuple[Any, Any, Any]]
    peer_point: np.ndarray
    peer_output: tuple[int, ...]
    peer_parameter: tuple[int, ...]


def program(P: Any, c: Any, **rows: tuple[Any, Any]) -> Data:
    """P, c, A, b in the common shape; ``rows`` are (A, b) by the name of their cone."""
    used = len(P)
    full = jnp.eye(VARIABLES).at[:used, :used].set(jnp.asarray(P))
    cost = jnp.zeros(VARIABLES).at[:used].set(jnp.asarray(c))
    A, b = jnp.zeros((CONES.size, VARIABLES)), jnp.asarray(_INERT)
    if "zero" not in rows:
        A = A.at[0, VARIABLES - 1].set(1.0)  # the last variable is unused
    for name, (left, right) in rows.items():
        at = _ROWS[name]
        count = len(right)
        A = A.at[at.start : at.start + count, :used].set(jnp.asarray(left))
        b = b.at[at.start : at.start + count].set(jnp.asarray(right))
    return full, cost, A, b


def _relu() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        p, x = cp.Parameter(1), cp.Variable(1)
        return cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), [x >= 0]), p, x

    return Case(
        "relu",
        r"$\frac{1}{2}(x-p)^2,\ x \geq 0$: the relu", r"$\partial x/\partial p$ at $p = 0$",
        (0.0,),
        lambda p: program([[1.0]], -p, nonnegative=([[-1.0]], [0.0])),
        0, 0, lambda p: max(p[0], 0.0), (0.0, 1.0), True,
        peer, np.zeros(1), (0,), (0,),
    )  # fmt: skip


def _simplex() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        p, x = cp.Parameter(2), cp.Variable(2)
        constraints: list[Any] = [x >= 0, cp.sum(x) == 1]
        stated = cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), constraints)
        return stated, p, x

    return Case(
        "projection onto the simplex",
        r"$\frac{1}{2}\|x-p\|^2$ on the simplex", r"$\partial x_1/\partial p_1$ at $p = (1, 0)$",
        (1.0, 0.0),
        lambda p: program(
            np.eye(2), -p, zero=([[1.0, 1.0]], [1.0]), nonnegative=(-np.eye(2), np.zeros(2))
        ),
        0, 0, lambda p: float(np.clip((1 + p[0] - p[1]) / 2, 0.0, 1.0)), (0.0, 0.5), True,
        peer, np.array([1.0, 0.0]), (0,), (0,),
    )  # fmt: skip


def _group() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        p, x = cp.Parameter(2), cp.Variable(2)
        return cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2 + cp.norm(x))), p, x

    def solution(p: np.ndarray) -> float:
        return float(max(1 - 1 / np.linalg.norm(p), 0.0) * p[0])

    flat = np.diag([1.0, 1.0, 0.0])  # x and t ≥ ‖x‖
    below = [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
    return Case(
        "group prox",
        r"$\frac{1}{2}\|x-p\|^2 + \|x\|$: group prox",
        r"$\partial x_1/\partial p_1$ at $p = (1, 0)$",
        (1.0, 0.0),
        lambda p: program(
            flat, jnp.append(-p, 1.0), second_order=(below, np.zeros(3))
        ),
        0, 0, solution, (0.0, 1.0), True,
        peer, np.array([1.0, 0.0]), (0,), (0,),
    )  # fmt: skip


def _ice_cream(where: str, point: tuple[float, float, float], answers: tuple[float, float]) -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        p, x = cp.Parameter(3), cp.Variable(3)
        return cp.Problem(cp.Minimize(cp.sum_squares(x - p) / 2), [cp.SOC(x[0], x[1:])]), p, x

    def solution(p: np.ndarray) -> float:
        length = np.linalg.norm(p[1:])
        if length <= abs(p[0]):
            return float(max(p[0], 0.0))
        return float((p[0] + length) / 2)

    return Case(
        f"projection onto the ice-cream cone at {where}",
        r"$\frac{1}{2}\|x-p\|^2,\ x$ in the ice-cream cone",
        rf"$\partial x_1/\partial p_1$ at $p = ({point[0]:g}, {point[1]:g}, {point[2]:g})$",
        point,
        lambda p: program(np.eye(3), -p, second_order=(-np.eye(3), np.zeros(3))),
        0, 0, solution, answers, True,
        peer, np.array(point), (0,), (0,),
    )  # fmt: skip


def _matrix() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        C, X = cp.Parameter((2, 2), symmetric=True), cp.Variable((2, 2), symmetric=True)
        return cp.Problem(cp.Minimize(cp.sum_squares(X - C) / 2), [X >> 0]), C, X

    def solution(C: np.ndarray) -> float:
        values, vectors = np.linalg.eigh([[C[0], C[1]], [C[1], C[2]]])
        return float(((vectors * np.maximum(values, 0.0)) @ vectors.T)[1, 1])

    return Case(
        "projection onto the semidefinite cone",
        r"$\frac{1}{2}\|X-C\|^2,\ X \succeq 0$",
        r"$\partial X_{22}/\partial C_{22}$ at $C = \mathrm{diag}(1, 0)$",
        (1.0, 0.0, 0.0),
        lambda C: program(
            np.eye(3), -C * jnp.array([1.0, _ROOT, 1.0]), semidefinite=(-np.eye(3), np.zeros(3))
        ),
        2, 2, solution, (0.0, 1.0), True,
        peer, np.diag([1.0, 0.0]), (1, 1), (1, 1),
    )  # fmt: skip


def _twice() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        h, x = cp.Parameter(2), cp.Variable(1)
        return cp.Problem(cp.Minimize(cp.sum_squares(x) / 2), [x >= h[0], x >= h[1]]), h, x

    return Case(
        "a constraint twice",
        r"$\frac{1}{2}x^2,\ x \geq h_1,\ x \geq h_2$", r"$\partial x/\partial h_1$ at $h = (1, 1)$",
        (1.0, 1.0),
        lambda h: program([[1.0]], [0.0], nonnegative=([[-1.0], [-1.0]], -h)),
        0, 0, lambda h: float(max(h)), (0.0, 1.0), False,
        peer, np.ones(2), (0,), (0,),
    )  # fmt: skip


def _quartic() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        p, x = cp.Parameter(1), cp.Variable(1)
        return cp.Problem(cp.Minimize(cp.square(cp.sum_squares(x - p)))), p, x

    # x and t ≥ (x − p)²: (t + 1, t − 1, 2(x − p)) in the cone
    above = [[0.0, -1.0], [0.0, -1.0], [-2.0, 0.0]]
    return Case(
        "quartic",
        r"$(x-p)^4$: Figure 3's inner problem", r"$\partial x/\partial p$ at $p = 1$",
        (1.0,),
        lambda p: program(
            np.diag([0.0, 2.0]), np.zeros(2),
            second_order=(above, jnp.stack([jnp.ones(()), -jnp.ones(()), -2 * p[0]])),
        ),
        0, 0, lambda p: float(p[0]), (1.0, 1.0), False,
        peer, np.ones(1), (0,), (0,),
    )  # fmt: skip


def _tie() -> Case:
    def peer() -> tuple[Any, Any, Any]:
        import cvxpy as cp

        c, x = cp.Parameter(2), cp.Variable(2)
        constraints: list[Any] = [x >= 0, cp.sum(x) == 1]
        return cp.Problem(cp.Minimize(c @ x), constraints), c, x

    return Case(
        "linear program with a tie",
        r"$c^T x$ on the simplex: a linear program",
        r"$\partial x_1/\partial c_1$ at $c = (1, 1)$",
        (1.0, 1.0),
        lambda c: program(
            np.zeros((2, 2)), c, zero=([[1.0, 1.0]], [1.0]), nonnegative=(-np.eye(2), np.zeros(2))
        ),
        0, 0, lambda c: float(c[0] < c[1]), None, False,
        peer, np.ones(2), (0,), (0,),
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    _relu(),
    _simplex(),
    _group(),
    _ice_cream("its boundary", (1.0, 1.0, 0.0), (0.5, 1.0)),
    _ice_cream("its apex", (0.0, 0.0, 0.0), (0.0, 1.0)),
    _matrix(),
    _twice(),
    _quartic(),
    _tie(),
)
