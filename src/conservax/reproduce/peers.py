"""cvxpylayers beside conservax, where it is installed: ``pip install 'conservax[reproduce]'``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

SETUPS: dict[str, dict[str, str]] = {
    "SCS, lsqr": {"solve_method": "SCS", "mode": "lsqr"},
    "Clarabel, lsqr": {"solve_method": "Clarabel", "mode": "lsqr"},
    "Clarabel, dense": {"solve_method": "Clarabel", "mode": "dense"},
}
"""Solver and linear solver of diffcp, its default backend; the first is what it does unasked."""

MISSING = "not installed"
"""What a figure says in the place of cvxpylayers' answers."""

ABSENT = (
    f"cvxpylayers is {MISSING}, so nothing is compared with it here: "
    "pip install 'conservax[reproduce]'"
)
"""What a caption says there."""

Layer = Callable[..., jax.Array]
Answer = TypeVar("Answer")


def installed() -> bool:
    """Whether the figures can show cvxpylayers."""
    return find_spec("cvxpylayers") is not None


def name() -> str:
    """What a caption says of it."""
    if not installed():
        return f"{ABSENT}."
    return f"cvxpylayers {version('cvxpylayers')} with diffcp {version('diffcp')}"


def layer(problem: Any, parameters: list[Any], variable: Any, setup: str = "SCS, lsqr") -> Layer:
    """The layer of a cvxpy problem, to be differentiated eagerly: this backend knows no jit."""
    from cvxpylayers.jax import CvxpyLayer

    built = CvxpyLayer(
        problem, parameters=parameters, variables=[variable], solver_args=SETUPS[setup]
    )
    return lambda *values: built(*values)[0]


def silently(ask: Callable[[], Answer]) -> Answer | None:
    """What ``ask`` returns without a word; None where diffcp raises or warns."""
    from diffcp.cone_program import SolverError

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            answer = ask()
        except SolverError:
            return None
    return None if any("diffcp" in warning.filename for warning in said) else answer


def follow(
    gradient: Callable[[jax.Array], jax.Array], start: jax.Array, step: float, steps: int
) -> np.ndarray:
    """u ↦ u + step · gradient(u), from ``start``, until its solver gives up; all points."""
    from diffcp.cone_program import SolverError

    path = [start]
    try:
        for _ in range(steps):
            path.append(path[-1] + step * gradient(path[-1]))
    except SolverError:
        pass
    return np.asarray(jnp.stack(path))
