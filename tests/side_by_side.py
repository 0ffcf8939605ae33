"""Functions side by side: compiled as one, their sets and derivatives taken apart again.

Compiling takes most of a test's time and grows slowly with the program, so that eight functions in
one are cheap. Each has an argument and results of its own; the kinks of one move nothing of another,
hence the set of them all is a product, of which a function has its rows, columns and kinks.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

import conservax as cx
from conservax import ConservativeJacobian
from conservax.calculus import AbsNormal


class SideBySide:
    """(x_1, …, x_P) ↦ (f_1(x_1), …, f_P(x_P)), f_p from an array to an array."""

    def __init__(self, functions: Sequence[Callable[[Any], Any]]) -> None:
        functions = tuple(functions)

        def together(*xs: Any) -> list[Any]:
            return [f(x) for f, x in zip(functions, xs, strict=True)]

        def each(*xs: Any) -> list[Any]:
            return [jax.jacobian(f)(x) for f, x in zip(functions, xs, strict=True)]

        self.together = together
        self._sets = cx.conservative_jacobian(together, tuple(range(len(functions))))
        self._values, self._derivatives = jax.jit(together), jax.jit(each)

    def values(self, xs: Sequence[Any]) -> list[np.ndarray]:
        """f_p(x_p)."""
        return [np.asarray(v) for v in self._values(*xs)]

    def derivatives(self, xs: Sequence[Any]) -> list[np.ndarray]:
        """``jax.jacobian(f_p)(x_p)``."""
        return [np.asarray(v) for v in self._derivatives(*xs)]

    def sets(self, xs: Sequence[Any]) -> list[ConservativeJacobian]:
        """``conservative_jacobian(f_p)(x_p)``."""
        form = self._sets(*xs).form
        rows = _ends(jax.tree.leaves(jax.eval_shape(self.together, *xs)))
        columns = _ends(xs)
        owner = _owners(form, rows, columns)
        return [
            ConservativeJacobian(_part(form, rows[p], columns[p], owner == p))
            for p in range(len(xs))
        ]


def _ends(arrays: Sequence[Any]) -> list[slice]:
    """The place of each array among the entries of all."""
    ends = np.cumsum([0, *(int(np.prod(np.shape(a))) for a in arrays)])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def _owners(form: AbsNormal, rows: list[slice], columns: list[slice]) -> np.ndarray:
    """For each group of columns the function that it belongs to, −1 if it touches none."""
    n = form.A.shape[1]
    touched = np.zeros((len(form.groups), len(rows)), bool)
    linked = np.eye(len(form.groups), dtype=bool)
    for i, g in enumerate(form.groups):
        own = list(g.columns)
        switch = np.zeros(n + len(form.L)) if g.switch is None else g.switch
        for p in range(len(rows)):
            moved = [form.H[rows[p], own], form.E[own, columns[p]], switch[:n][columns[p]]]
            touched[i, p] = any(np.any(part != 0) for part in moved)
        for j, other in enumerate(form.groups):
            theirs = list(other.columns)
            linked[i, j] |= np.any(form.L[np.ix_(own, theirs)] != 0) | np.any(
                switch[n:][theirs] != 0
            )
    linked |= linked.T
    for _ in form.groups:  # who is linked with one that touches a function touches it too
        touched = linked @ touched
    assert touched.sum(axis=1).max(initial=0) <= 1, "a kink moves two functions"
    return np.where(touched.any(axis=1), touched.argmax(axis=1), -1)


def _part(form: AbsNormal, rows: slice, columns: slice, mine: np.ndarray) -> AbsNormal:
    """The form of one function: its rows, its columns and its kinks."""
    n = form.A.shape[1]
    groups = [g for g, own in zip(form.groups, mine, strict=True) if own]
    kept = sorted(c for g in groups for c in g.columns)
    place = {c: i for i, c in enumerate(kept)}
    assert not np.any(np.delete(form.A[rows], np.r_[columns], axis=1)), (
        "another's argument moves it"
    )
    return replace(
        form,
        A=form.A[rows, columns],
        H=form.H[rows, kept],
        E=form.E[kept, columns],
        L=form.L[np.ix_(kept, kept)],
        groups=tuple(
            replace(
                g,
                columns=tuple(place[c] for c in g.columns),
                switch=None
                if g.switch is None
                else np.concatenate([g.switch[:n][columns], g.switch[n:][kept]]),
            )
            for g in groups
        ),
    )
