"""What a function captures: cells, globals, attributes; a trace is stale once one of them changed.

A traced program holds what the function read while it was traced. A global that is bound anew, or an
attribute that is set, must lead to a new trace, or the old values would be differentiated.
"""

import types
import weakref
import zlib
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

_DEEPEST = 4
_LONGEST = 1000  # entries of a list that are looked at
_LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "equinox", "optax", "lineax", "conservax")
_VALUES = (str, int, float, complex, bytes, bool, type(None))


class Reference:
    """An object by its identity, without keeping it alive where that can be avoided."""

    __slots__ = ("_get", "_number")

    def __init__(self, get: Any, number: int) -> None:
        self._get, self._number = get, number

    @classmethod
    def to(cls, thing: Any) -> "Reference":
        try:
            return cls(weakref.ref(thing), id(thing))
        except TypeError:
            return cls(lambda: thing, id(thing))

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reference) or self._number != other._number:
            return False
        mine = self._get()
        return mine is not None and mine is other._get()


def captured(fun: Any) -> Hashable:
    """A token that changes when something that a callable reads is bound anew.

    Seen are closure cells, globals, defaults, functions of the user reached through these, attributes
    of objects in cells, and the contents of NumPy arrays; of a class, what its ``__call__`` reads.
    """
    if isinstance(fun, type):
        fun = vars(fun).get("__call__")
    return _of_value(fun, 0, set())


def _of_function(function: types.FunctionType, depth: int, seen: set[int]) -> Iterator[Hashable]:
    if id(function) in seen or depth > _DEEPEST:
        return
    seen.add(id(function))
    for cell in function.__closure__ or ():
        try:
            yield _of_value(cell.cell_contents, depth + 1, seen)
        except ValueError:  # a cell that is still empty
            yield None
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield _of_value(value, depth + 1, seen)
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield _of_value(function.__globals__[name], depth + 1, seen)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a function's code looks up, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _of_value(value: Any, depth: int, seen: set[int]) -> Hashable:
    if isinstance(value, _VALUES):
        return type(value), value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return Reference.to(value), zlib.adler32(value.tobytes())
    if isinstance(value, (jax.Array, types.ModuleType, type)):
        return Reference.to(value)
    if isinstance(value, types.FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] in _LIBRARIES:
            return Reference.to(value)
        return Reference.to(value), tuple(_of_function(value, depth, seen))
    if isinstance(value, types.MethodType):
        return _of_value(value.__func__, depth, seen), _of_value(value.__self__, depth, seen)
    if id(value) in seen or depth > _DEEPEST:
        return Reference.to(value)
    seen.add(id(value))
    if isinstance(value, (tuple, list, set, frozenset, dict)) and len(value) > _LONGEST:
        return Reference.to(value), len(value)
    if isinstance(value, (tuple, list, set, frozenset)):
        return type(value), tuple(_of_value(v, depth + 1, seen) for v in value)
    if isinstance(value, dict):
        pairs = ((repr(k), _of_value(v, depth + 1, seen)) for k, v in value.items())
        return type(value), tuple(pairs)
    attributes = getattr(value, "__dict__", None)
    known = type(value).__module__.partition(".")[0] in _LIBRARIES
    if not isinstance(attributes, dict) or known:
        return Reference.to(value)
    pairs = ((k, _of_value(v, depth + 1, seen)) for k, v in attributes.items())
    return Reference.to(value), tuple(pairs)
