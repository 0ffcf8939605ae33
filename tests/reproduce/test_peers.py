"""Where cvxpylayers is not installed its answers stay empty, and the page says so."""

import jax
import numpy as np
import pytest

from conservax.reproduce import (
    bilevel_cone,
    bilevel_cycle_cone,
    degenerate_programs,
    lorenz_cone,
    peers,
    style,
)
from conservax.reproduce.degenerate_cases import CASES

MEASURED = np.linspace(0.0, 1.0, len(CASES))
VERDICTS = np.array([1 if case.proven else -1 for case in CASES], np.int8)


def words(figure):
    return {text.get_text() for ax in figure.axes for text in ax.texts}


def test_absent(monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda: False)
    assert peers.MISSING in peers.name()
    with style.applied():
        table = degenerate_programs._draw(MEASURED, MEASURED, VERDICTS, None)
        path = np.ones((3, 3))
        ascent = lorenz_cone._draw(path, path, {}, "stays")
        near = bilevel_cone.Inner(np.ones((11, 2)), np.zeros((11, 2)), np.ones(11, np.int8))
        cycle = bilevel_cycle_cone._draw(
            path[:, :2], None, path[:, :2], path[0, :2], near, None, ""
        )
    assert peers.MISSING in words(table)
    assert f"cvxpylayers: {peers.MISSING}" in words(ascent)
    assert f"cvxpylayers: {peers.MISSING}" in words(cycle)


def test_present():
    theirs = {setup: [0.25] * len(CASES) for setup in peers.SETUPS}
    theirs["SCS, lsqr"][0] = None
    with style.applied():
        table = degenerate_programs._draw(MEASURED, MEASURED, VERDICTS, theirs)
    assert peers.MISSING not in words(table)
    assert {"0.25", "refused"} <= words(table)


def test_follow_ends_where_the_solver_gives_up():
    failure = pytest.importorskip("diffcp.cone_program").SolverError

    def gradient(u):
        if u[0] > 2:
            raise failure("no solution")
        return jax.numpy.ones(2)

    path = peers.follow(gradient, jax.numpy.zeros(2), 1.0, 10)
    np.testing.assert_array_equal(path, [[k, k] for k in range(4)])


@pytest.mark.parametrize("setup", peers.SETUPS)
def test_cvxpylayers_is_right_away_from_the_kink(setup):
    pytest.importorskip("cvxpylayers")
    problem, parameter, variable = CASES[0].peer()
    solve = peers.layer(problem, [parameter], variable, setup)
    slope = jax.grad(lambda p: solve(p)[0])(jax.numpy.array([2.0]))
    np.testing.assert_allclose(slope, [1.0], atol=1e-3)


def test_a_refusal_is_no_answer():
    failure = pytest.importorskip("diffcp.cone_program").SolverError

    def refuse():
        raise failure("no solution")

    assert peers.silently(refuse) is None
    assert peers.silently(lambda: 1.0) == 1.0
