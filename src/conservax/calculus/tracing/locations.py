"""Where in the user's files an equation was written."""

import os
from dataclasses import dataclass
from typing import Any

import jax

_JAX = os.path.dirname(jax.__file__) + os.sep
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_REPRODUCTION = os.path.join(_HOME, "reproduce") + os.sep  # written as a user would
_PARTS = (
    "arrays calculus cones equilibrium implicit invertibility operators programs solvers sparse stochastic"
).split()
_OURS = tuple(os.path.join(_HOME, part) + os.sep for part in _PARTS)


@dataclass(frozen=True)
class Location:
    """A line of a file; ``line`` 0 when JAX recorded none."""

    file: str
    line: int

    @property
    def short(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}" if self.line else "unknown line"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else "(unknown line)"


def locate(eqn: Any) -> Location:
    """The innermost frame of the user's own; failing that, of an installed package, then of JAX."""
    traceback = eqn.source_info.traceback
    found: dict[str, Location] = {}
    for frame in traceback.frames if traceback is not None else ():
        file = frame.file_name
        if file.startswith((*_OURS, "<frozen")):
            continue
        owner = "jax" if file.startswith(_JAX) else "package" if "site-packages" in file else "user"
        found.setdefault(owner, Location(file, frame.line_num))
    return found.get("user") or found.get("package") or found.get("jax") or Location("", 0)


def defined_in_jax(jaxpr: Any) -> bool:
    """Whether the function behind a jaxpr belongs to JAX itself.

    The name alone does not tell: a user's own function may be called relu too. JAX caches the
    traces of its own functions, so the lines recorded inside are those of the first caller.
    """
    info = getattr(jaxpr, "debug_info", None)
    return info is not None and _JAX in info.func_src_info


def defined_in_library(jaxpr: Any) -> bool:
    """Whether the function behind a jaxpr is JAX's or ours: its lines tell a user nothing."""
    info = getattr(jaxpr, "debug_info", None)
    return info is not None and any(part in info.func_src_info for part in (_JAX, *_OURS))


def defined_here(jaxpr: Any) -> bool:
    """Whether the function behind a jaxpr belongs to this library."""
    info = getattr(jaxpr, "debug_info", None)
    return (
        info is not None and _HOME in info.func_src_info and _REPRODUCTION not in info.func_src_info
    )
