"""The equations of a solve inside a program, freed of the kinks that do not concern it."""

from dataclasses import replace

import numpy as np

from ..calculus import AbsNormal


def own_form(form: AbsNormal) -> AbsNormal:
    """The same set of Jacobians with those kinks alone that stand between its inputs and outputs.

    A kink counts if some path of E, L leads to it from an input and some path of L, H on to an
    output; no other adds anything to A + H (I − D L)⁻¹ D E.

    >>> from conservax.calculus.cut import cut
    >>> import jax.numpy as jnp
    >>> form = cut(lambda x: x + 0.0 * jnp.abs(x), (0.0,), (0,))
    >>> len(form.groups), len(own_form(form).groups)
    (1, 0)
    """
    sees, reaches = np.any(form.E != 0, axis=1), np.any(form.H != 0, axis=0)
    links = form.L != 0
    for _ in range(len(form.groups)):
        sees, reaches = sees | links @ sees, reaches | links.T @ reaches
    between = sees & reaches
    kept = [g for g in form.groups if np.any(between[list(g.columns)])]
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
