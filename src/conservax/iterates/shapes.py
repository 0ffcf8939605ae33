"""Whether an algorithm can step from x0 with θ: the shapes and dtypes of its states, before anything runs."""

from __future__ import annotations

from typing import Any

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from ..errors import InvalidInputError
from .contract import Algorithm


def require_steps(alg: Algorithm, x0: Any, theta: Any) -> None:
    """InvalidInputError unless step(init(x0, θ), θ) has the structure, shapes and dtypes of init(x0, θ)."""
    try:
        state = jax.eval_shape(alg.init, x0, theta)
        after = jax.eval_shape(alg.step, state, theta)
    except (InvalidInputError, jax.errors.JAXTypeError):
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
        raise InvalidInputError(
            f"{alg.name} cannot step from x0 ({described(x0)}) with theta ({described(theta)}): {reason}. "
            "Pass an x0 and a theta that its functions take, or mend those."
        ) from error
    if jax.tree.structure(state) != jax.tree.structure(after):
        raise InvalidInputError(
            f"{alg.name}: a step must return a state like the one it was given, a pytree "
            f"{jax.tree.structure(state)}; it returns {jax.tree.structure(after)}. Return that structure, or "
            "start from an x0 of the other."
        )
    pairs = zip(tree_leaves_with_path(state), jax.tree.leaves(after), strict=True)
    for (path, before), later in pairs:
        if before.shape == later.shape and before.dtype == later.dtype:
            continue
        what = "shape" if before.shape != later.shape else "dtype"
        raise InvalidInputError(
            f"{alg.name}: a step must keep the {what} of its state, but makes {_array(later)} of state"
            f"{keystr(path)}, {_array(before)}, from x0 ({described(x0)}) and theta ({described(theta)}). "
            f"Pass x0 and theta of {'matching shapes' if what == 'shape' else 'one dtype'}, or mend the step."
        )


def described(tree: Any) -> str:
    """The arrays of a pytree, such as "'a': float64[3], 'b': float32[]"; the first few of many."""
    named = [(keystr(path), _array(leaf)) for path, leaf in tree_leaves_with_path(tree)]
    shown = ", ".join(f"{path}: {array}" if path else array for path, array in named[:4])
    return f"{shown}, …" if len(named) > 4 else shown or "no arrays"


def _array(leaf: Any) -> str:
    """A dtype and a shape, such as float64[3,2]; the type of what is no array."""
    try:
        aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    except TypeError:
        return type(leaf).__name__
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"
