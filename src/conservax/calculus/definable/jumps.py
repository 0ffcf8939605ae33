"""A jump of a program, shown by running it: bisection along lines through a point.

Where the sides of a comparison cannot be shown to agree they need not differ. A jump shows: as an interval
shrinks to two neighbouring numbers, the change of the value over it stays; that of a continuous function,
however steep, does not.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LINES = 4  # at each scale
_POINTS = 33
_SECONDS = 2.0
_STAYS = 0.9  # of the change, while the interval shrinks 1,024-fold
_LAST = 1024.0


def jumps(
    run: Callable[[Sequence[Any]], Any],
    leaves: Sequence[Any],
    varied: Sequence[bool],
    widths: Sequence[float],
    precision: float,
) -> bool:
    """Whether ``run(leaves)`` was seen to jump, some widths around the leaves marked ``varied``."""
    rng = np.random.default_rng(0)
    size = max(
        (float(np.max(np.abs(a), initial=1.0)) for a, v in zip(leaves, varied, strict=True) if v),
        default=1.0,
    )
    along = _along(run, varied)
    deadline = time.monotonic() + _SECONDS
    for width in widths:
        for _ in range(_LINES):
            directions = [
                np.asarray(width * rng.uniform(-1, 1, np.shape(a)), jnp.result_type(a))
                if v
                else None
                for a, v in zip(leaves, varied, strict=True)
            ]
            finest = 8 * precision * max(size, width) / width
            if _jumps_along(lambda t, d=directions: along(list(leaves), d, t), finest, precision):
                return True
            if time.monotonic() > deadline:
                return False
    return False


def _along(run: Callable[[Sequence[Any]], Any], varied: Sequence[bool]) -> Callable[..., Any]:
    @jax.jit
    def values(leaves: Sequence[Any], directions: Sequence[Any], at: Any) -> Any:
        def one(t: Any) -> Any:
            moved = [
                a + jnp.asarray(t, jnp.result_type(a)) * d if v else a
                for a, d, v in zip(leaves, directions, varied, strict=True)
            ]
            outs = [jnp.ravel(o) for o in jax.tree.leaves(run(moved))]
            return jnp.concatenate([o.astype(jnp.result_type(float)) for o in outs])

        return jax.lax.map(one, at)

    return values


def _jumps_along(values: Callable[[Any], Any], finest: float, precision: float) -> bool:
    """Whether t ↦ values(t) on [−1, 1] keeps its largest change while the interval shrinks to the finest."""
    low, high = -1.0, 1.0
    changes: list[tuple[float, float]] = []
    while True:
        at = np.linspace(low, high, _POINTS)
        found = np.asarray(values(at), np.float64)
        steps = np.nan_to_num(np.abs(np.diff(found, axis=0)), nan=0.0, posinf=0.0).max(
            axis=1, initial=0
        )
        place = int(np.argmax(steps))
        width = (high - low) / (_POINTS - 1)
        changes.append((width, float(steps[place])))
        scale = float(np.max(np.abs(found), initial=0.0, where=np.isfinite(found)))
        if steps[place] <= 1e3 * precision * scale:
            return False
        if width <= finest:
            break
        low, high = at[place], at[place + 1]
    wider = [change for wide, change in changes if wide >= _LAST * width]
    return bool(wider) and changes[-1][1] >= _STAYS * wider[-1]
