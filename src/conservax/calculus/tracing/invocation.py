"""A user's call, taken apart: the numbers that flow through it, and what decides how it is traced.

``fun`` may be any callable and ``args`` any pytrees: of modules, activations, strings, None. Arrays
flow; all else is fixed. Two calls with equal ``form`` are traced alike, so that what was planned and
compiled for one serves the other.
"""

import dataclasses
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr, tree_leaves_with_path

from ...errors import InvalidInputError
from .captures import Reference, captured

_KEPT = 32  # compiled programs of one function
_PLAIN = (str, int, float, complex, bytes, bool, type(None), type, np.dtype)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Invocation:
    """One call ``fun(*args, **kwargs)``.

    ``leaves``: the arrays of ``args``, of ``kwargs`` and of ``fun``, in this order; ``owners``: for
    each the number of its argument, −1 for the rest. ``run`` calls with other arrays in their place
    and holds none itself. ``anchor`` is the function whose life bounds that of what is kept for it;
    ``fixed`` holds the leaves that are no arrays, ``structure`` says where all of them belong.
    """

    leaves: list[Any]
    owners: tuple[int, ...]
    structure: Hashable
    fixed: tuple[Any, ...]
    anchor: Any
    run: Callable[[Sequence[Any]], Any]

    @classmethod
    def of(
        cls,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        names: Sequence[str] = (),
    ) -> "Invocation":
        """Take a call apart; ``names`` are those of the positional arguments in messages.

        Raises InvalidInputError for a dataclass that JAX does not know as a pytree.
        """
        parts, build, kinds, anchor = _parts_of(fun)
        tree = (tuple(args), dict(kwargs or {}), parts)
        leaves, treedef = jax.tree.flatten(tree)
        # what is bound beforehand is as it is: numbers of a partial steer, arrays flow
        flows = (*flowing(tree[:2]), *map(_is_array, jax.tree.leaves(parts)))
        _refuse_dataclasses(args, kwargs or {}, names)
        fixed = tuple(None if f else leaf for leaf, f in zip(leaves, flows, strict=True))
        owners = [n for n, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        owners += [-1] * (len(leaves) - len(owners))

        def run(arrays: Sequence[Any]) -> Any:
            moving = iter(arrays)
            full = [next(moving) if f else s for f, s in zip(flows, fixed, strict=True)]
            args, kwargs, parts = jax.tree.unflatten(treedef, full)
            return build(parts)(*args, **kwargs)

        return cls(
            [leaf for leaf, f in zip(leaves, flows, strict=True) if f],
            tuple(o for o, f in zip(owners, flows, strict=True) if f),
            (treedef, kinds, flows),
            fixed,
            anchor,
            run,
        )

    @property
    def form(self) -> Hashable:
        """Calls with equal forms are traced alike; what the function reads is looked at anew each time."""
        shapes = tuple((np.shape(a), jnp.result_type(a), _is_weak(a)) for a in self.leaves)
        tokens = tuple(map(_token, self.fixed))
        reads = tuple(captured(f) for f in (self.anchor, *self.fixed) if callable(f))
        return self.structure, tokens, shapes, reads

    def owned_by(self, argnums: Sequence[int]) -> tuple[bool, ...]:
        """Which leaves are real numbers of the arguments ``argnums``."""
        return tuple(
            o in argnums and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            for o, leaf in zip(self.owners, self.leaves, strict=True)
        )

    @property
    def argnums(self) -> tuple[int, ...]:
        """The positional arguments that hold arrays."""
        return tuple(sorted({o for o in self.owners if o >= 0}))

    def kept(self, what: Hashable, make: Callable[[], T]) -> T:
        """What was made for a call of this form, made now if there is none.

        At most 32 of one function are kept, those used last, and none longer than the function.
        """
        return _KEEPER.get(self.anchor, lambda: (what, self.form), make)


class _Keeper:
    """Made things by the identity of an anchor that they do not keep alive."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[weakref.ref[Any], OrderedDict[Hashable, Any]]] = {}

    def get(self, anchor: Any, key_now: Callable[[], Hashable], make: Callable[[], T]) -> T:
        number = id(anchor)
        known = self._of.get(number)
        if known is None or known[0]() is not anchor:
            try:
                life = weakref.ref(anchor, lambda _: self._of.pop(number, None))
            except TypeError:  # nothing tells when it ends
                return make()
            known = self._of[number] = life, OrderedDict()
        things, key = known[1], key_now()
        if key in things:
            things.move_to_end(key)
            return things[key]
        made = make()
        things[key_now()] = (
            made  # tracing may itself have changed what is read: a list that logs calls
        )
        while len(things) > _KEPT:
            things.popitem(last=False)
        return made


_KEEPER = _Keeper()


def require_values(named: Sequence[tuple[str, Any]], caller: str) -> None:
    """Raise InvalidInputError where a named pytree holds a traced array."""
    for name, tree in named:
        for path, leaf in tree_leaves_with_path(tree):
            if isinstance(leaf, Tracer):
                raise InvalidInputError(
                    f"{name}{keystr(path)} is a traced array: {caller} needs its values. Call it outside jit, "
                    "vmap and grad, on values."
                )


def differentiable(tree: Any) -> Any:
    """The tree with None in place of what derivatives are not taken in: all but real numbers that flow."""
    leaves, treedef = jax.tree.flatten(tree)
    real = [
        f and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        for leaf, f in zip(leaves, flowing(tree), strict=True)
    ]
    return jax.tree.unflatten(
        treedef, [leaf if r else None for leaf, r in zip(leaves, real, strict=True)]
    )


def _parts_of(fun: Any) -> tuple[Any, Callable[[Any], Any], Hashable, Any]:
    """A callable as a pytree, how to build it anew, the kind of what was taken apart, its anchor."""
    if isinstance(fun, functools.partial):
        inner, build, kinds, anchor = _parts_of(fun.func)
        if fun.args and str(getattr(anchor, "__module__", "")).startswith("conservax."):
            anchor = _parts_of(fun.args[0])[
                3
            ]  # a wrapper of the library's lives as long as its user's

        def bound(parts: Any) -> Any:
            return functools.partial(build(parts[0]), *parts[1], **parts[2])

        return (inner, fun.args, fun.keywords), bound, ("partial", kinds), anchor
    if hasattr(fun, "__func__") and hasattr(fun, "__self__"):  # a bound method, equinox's too
        function = fun.__func__

        def method(parts: Any) -> Any:
            return types.MethodType(function, parts)

        return fun.__self__, method, ("method", Reference.to(function)), function
    is_tree = not jax.tree_util.all_leaves([fun])
    return fun, lambda parts: parts, "callable", type(fun) if is_tree else fun


def _is_weak(array: Any) -> bool:
    return bool(getattr(array, "weak_type", isinstance(array, float)))


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind not in "OUSMm"
    return isinstance(leaf, (jax.Array, np.generic)) or hasattr(leaf, "__jax_array__")


def _is_container(node: Any) -> bool:
    return isinstance(node, (tuple, list, dict)) or node is None


def flowing(tree: Any) -> tuple[bool, ...]:
    """Which leaves flow: arrays, and Python's floats outside of modules and other registered classes."""
    flows: list[bool] = []
    for node in jax.tree.leaves(tree, is_leaf=lambda node: not _is_container(node)):
        leaves = jax.tree.leaves(node)
        itself = len(leaves) == 1 and leaves[0] is node
        flows.extend(
            _is_array(leaf) or (itself and isinstance(leaf, float | complex)) for leaf in leaves
        )
    return tuple(flows)


def _refuse_dataclasses(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> None:
    named = [(f"argument {n}", arg) for n, arg in enumerate(args)]
    named = [(name, arg) for name, (_, arg) in zip(names, named, strict=False)] or named
    for name, tree in (*named, *kwargs.items()):
        for path, leaf in tree_leaves_with_path(tree):
            if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
                cls = type(leaf).__name__
                raise InvalidInputError(
                    f"{name}{keystr(path)} is a dataclass, {cls}, that JAX does not know as a pytree. "
                    f"Register it with jax.tree_util.register_dataclass({cls}), or make it an "
                    "equinox.Module."
                )


def _token(leaf: Any) -> Hashable:
    """What tells a fixed leaf from another: its value if it is plain, else its identity."""
    if isinstance(leaf, _PLAIN):
        return type(leaf), leaf
    if isinstance(leaf, (tuple, frozenset)):
        try:
            hash(leaf)
            return type(leaf), leaf
        except TypeError:
            pass
    return Reference.to(leaf)
