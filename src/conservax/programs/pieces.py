"""A long batch solved eagerly, some items at a time: memory stays bounded, and a bar shows how far it is."""

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..solvers import Solver

_BYTES = {"cpu": 1 << 26, "host": 1 << 25, "accelerator": 1 << 30}  # of the data of one piece
_PATIENCE = 2.0  # seconds without a bar
_PROCESSORS = os.cpu_count() or 1

Result = TypeVar("Result")


def piece_size(item_bytes: int, solver: Solver) -> int:
    """How many items make a piece, of so many bytes each; at least one to a thread of the host."""
    if solver != Solver.INTERIOR_POINT:
        where = "host"
    else:
        where = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    return max(_PROCESSORS, _BYTES[where] // max(item_bytes, 1))


def is_traced(tree: Any) -> bool:
    """Whether a transformation of JAX stands around the call."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def in_pieces(solve: Callable[[np.ndarray], Result], batch: int, size: int) -> Result:
    """The results of ``solve(items)`` for the items 0 … batch − 1, at most ``size`` at once.

    All pieces have one length, for one compiled program; the last one is filled up with its last item.
    """
    pieces = -(-batch // size)
    length = -(-batch // pieces)
    items = np.minimum(np.arange(pieces * length), batch - 1).reshape(pieces, length)
    found, start = [], time.perf_counter()
    with _Bar(batch) as bar:
        for k, own in enumerate(items):
            found.append(jax.block_until_ready(solve(own)))
            if time.perf_counter() - start > _PATIENCE:
                bar.show(min((k + 1) * length, batch))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:batch], *found)


class _Bar:
    """On the terminal, from the first time it is shown until the end."""

    def __init__(self, total: int) -> None:
        # here, for to import the library should stay quick
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(
            "programs", *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.task = self.progress.add_task("", total=total)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, done: int) -> None:
        self.progress.start()
        self.progress.update(self.task, completed=done)
