"""A form without the kinks that do not concern it is the same set."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conservax.calculus import AbsNormal
from conservax.calculus.sets.abs_normal import Group, Kink
from conservax.calculus.tracing.locations import Location
from conservax.implicit.solves import own_form


def sparse_form(seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 3, size=5)
    groups, at = [], 0
    for i, width in enumerate(widths):
        kink = Kink("test", Location("model.py", i), (), 0.0, 0.0, None, True)
        columns = tuple(range(at, at + width))
        at += width
        switch = rng.normal(size=2) if width == 2 else None
        groups.append((kink, columns, switch))

    def thin(*shape):
        return rng.normal(size=shape) * (rng.uniform(size=shape) < 0.25)

    L = np.tril(thin(at, at), -1)
    made = [
        Group(k, c, (0.5,), switch=None if s is None else np.concatenate([s, L[c[0]]]))
        for k, c, s in groups
    ]
    return AbsNormal(
        rng.normal(size=(2, 2)), thin(2, at), thin(at, 2), L, tuple(made), None, np.float64
    )


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_elements_stay_and_the_others_go(seed, draw):
    form = sparse_form(seed)
    own = own_form(form)
    weights = np.random.default_rng(draw).uniform(size=len(form.groups))
    kept = [i for i, g in enumerate(form.groups) if g.kink in own.kinks]
    np.testing.assert_allclose(
        form.jacobian(form.diagonal(weights)), own.jacobian(own.diagonal(weights[kept])), atol=1e-12
    )
    # Neumann's series, an oracle of its own: H L^p E tells who is on a path
    for i in set(range(len(form.groups))) - set(kept):
        columns = list(form.groups[i].columns)
        powers = [np.linalg.matrix_power(np.abs(form.L), p) for p in range(len(form.L))]
        paths = (
            sum(np.abs(form.H) @ p for p in powers)[:, columns]
            @ sum((p @ np.abs(form.E)) for p in powers)[columns]
        )
        assert not np.any(paths)


def test_loops_of_other_kinks_do_not_matter():
    # kink 1 feeds itself with gain 1, singular at q = 1; nothing leads from it to the output
    kink = Kink("test", Location("model.py", 1), (), 0.0, 0.0, None, True)
    form = AbsNormal(
        np.eye(1), np.array([[1.0, 0.0]]), np.array([[1.0], [1.0]]), np.diag([0.0, 1.0]),
        (Group(kink, (0,), (0.5,)), Group(kink, (1,), (0.5,))), None, np.float64,
    )  # fmt: skip
    own = own_form(form)
    assert own.L.shape == (1, 1)
    np.testing.assert_allclose(own.jacobian(np.array([1.0])), [[2.0]])
