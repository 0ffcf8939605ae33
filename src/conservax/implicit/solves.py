"""What is known of a solve by itself: its form, freed of other kinks, and its layer's own certificate."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..calculus import AbsNormal
from ..calculus.cuts.root_forms import closure
from ..invertibility import Certificate, Verdict


def by_construction(own: Sequence[Certificate] | None) -> Certificate | None:
    """A layer's own certificate, the least of those of its mapped executions; None if it proves nothing."""
    if not own or any(c.verdict != Verdict.PROVEN for c in own):
        return None
    return min(own, key=lambda c: -np.inf if c.margin is None else c.margin)


def own_form(form: AbsNormal) -> AbsNormal:
    """The same set of Jacobians with those kinks alone that stand between its inputs and outputs.

    A kink counts if some path of E, L leads to it from an input and some path of L, H on to an
    output; no other adds anything to A + H (I − D L)⁻¹ D E.

    >>> from conservax.calculus.cuts.point import cut
    >>> import jax.numpy as jnp
    >>> form = cut(lambda x: x + 0.0 * jnp.abs(x), (0.0,), (0,))
    >>> len(form.groups), len(own_form(form).groups)
    (1, 0)
    """
    return _kept(form, _moved(form) & closure(np.any(form.H != 0, axis=0), form.L.T != 0))


def moved_form(form: AbsNormal) -> AbsNormal:
    """The same set with those kinks alone that some input moves; the others belong to other inputs."""
    return _kept(form, _moved(form))


def _moved(form: AbsNormal) -> np.ndarray:
    return closure(np.any(form.E != 0, axis=1), form.L != 0)


def _kept(form: AbsNormal, columns_kept: np.ndarray) -> AbsNormal:
    kept = [g for g in form.groups if np.any(columns_kept[list(g.columns)])]
    if len(kept) == len(form.groups):
        return form
    columns = [c for g in kept for c in g.columns]
    n = form.A.shape[1]
    place = {c: i for i, c in enumerate(columns)}
    groups = tuple(
        replace(
            g,
            columns=tuple(place[c] for c in g.columns),
            switch=None if g.switch is None else g.switch[[*range(n), *(n + c for c in columns)]],
        )
        for g in kept
    )
    return replace(
        form,
        H=form.H[:, columns],
        E=form.E[columns],
        L=form.L[np.ix_(columns, columns)],
        groups=groups,
    )
