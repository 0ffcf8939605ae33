"""Long batches called eagerly: the same results, equal pieces, a bar after two seconds."""

import io

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy import sparse

from conservax.programs import ConeProgram, Cones, CvxpyLayer, Solver, Status, pieces


@pytest.fixture
def few(monkeypatch):
    """Two items to a piece."""
    for module in ("cone_program", "cvxpy.layer"):
        monkeypatch.setattr(f"conservax.programs.{module}.piece_size", lambda *_: 2)
    sizes = []
    whole = pieces.in_pieces

    def counted(solve, batch, size):
        def run(items):
            sizes.append(items.tolist())
            return solve(items)

        return whole(run, batch, size)

    for module in ("cone_program", "cvxpy.layer"):
        monkeypatch.setattr(f"conservax.programs.{module}.in_pieces", counted)
    return sizes


def test_a_long_batch_is_solved_in_equal_pieces(few):
    program = ConeProgram(Cones(nonnegative=1))
    c = -jnp.arange(-2.0, 3.0)
    for identity in (np.eye(1), sparse.eye(1)):
        found = program(identity, c[:, None], -identity, jnp.zeros(1))
        np.testing.assert_allclose(found.primal[:, 0], [0, 0, 0, 1, 2], atol=1e-9)
        assert found.info.status.tolist() == [Status.SOLVED] * 5
    assert few == [[0, 1], [2, 3], [4, 4]] * 2


def test_transformations_take_all_items_at_once(few):
    program = ConeProgram(Cones(nonnegative=1))
    solve = jax.jit(lambda c: program(np.eye(1), c, -np.eye(1), jnp.zeros(1)).primal.sum())
    np.testing.assert_allclose(jax.grad(solve)(-jnp.ones((5, 1))), -np.ones((5, 1)), atol=1e-9)
    assert few == []


def test_a_layer_takes_the_pieces_of_the_values_that_have_a_batch(few):
    x, p, scale = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + scale * cp.sum(x)), [x >= 0])
    layer = CvxpyLayer(problem, [p, scale], [x])
    points = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    (found,), info = layer.solve(points, jnp.asarray(0.2))
    np.testing.assert_allclose(found, np.maximum(points - 0.1, 0), atol=1e-7)
    assert info.verdict.shape == (5,)
    assert few == [[0, 1], [2, 3], [4, 4]]


def test_the_size_of_a_piece():
    assert pieces.piece_size(1 << 40, Solver.CLARABEL) >= 1
    assert pieces.piece_size(1 << 10, Solver.INTERIOR_POINT) > pieces.piece_size(
        1 << 10, Solver.CLARABEL
    )


def test_the_bar_comes_after_two_seconds(monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr("rich.console.Console", lambda stderr: console)
    times = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(pieces.time, "perf_counter", lambda: next(times))
    result = pieces.in_pieces(lambda items: jnp.asarray(items), 5, 3)
    np.testing.assert_array_equal(result, np.arange(5))
    assert "5/5" in shown.getvalue()
    shown.truncate(0)
    monkeypatch.setattr(pieces.time, "perf_counter", lambda: 0.0)
    pieces.in_pieces(lambda items: jnp.asarray(items), 5, 3)
    assert "5/5" not in shown.getvalue()
