"""A program inside another program: its weakly active pieces are kinks like any other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import Verdict, errors
from conservax.programs import ConeProgram, Cones, QuadraticProgram
from helpers import assert_same_set


def onto_halfline(y):
    """max(y, 0), by a projection onto a polyhedron."""
    return cx.projections.projection_polyhedron(y, (None, None, -jnp.eye(1), jnp.zeros(1)))


def quadratic(q):
    """max(−q, 0), by a quadratic program."""
    return QuadraticProgram()(jnp.eye(1), q, None, None, -jnp.eye(1), jnp.zeros(1)).primal


def test_a_projection_inside_an_equation_refutes():
    """y − 2 max(y, 0): slopes 1 and −1, though the projection alone is proven."""
    at = jnp.zeros(1)
    report = cx.check(lambda y, a: y - 2 * onto_halfline(y) - a, at, at)
    assert report.verdict == Verdict.REFUTED
    assert len(report.kinks) == 1
    assert report.given_rules == ()
    assert [c.verdict for _, c in report.solves] == [Verdict.PROVEN]
    assert report.recheck()[0] < 1e-9
    # both are reported where the user called
    assert report.kinks[0].location.file == report.solves[0][0].file == __file__


def test_a_quadratic_program_inside_an_equation_brings_its_set():
    """y + ½ max(y, 0) = a: 1/(1 + q/2), q in [0, 1]; y + ¾ slack = a: 1/(1 + ¾ q)."""
    at = jnp.zeros(1)

    def equation(y, a):
        return y + quadratic(-y) / 2 - a

    low, high = cx.implicit_jacobian(equation)(at, at).bounds()
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [2 / 3, 1.0], atol=1e-9)
    assert cx.check(equation, at, at).verdict == Verdict.PROVEN


def test_degenerate_programs_against_all_their_active_sets():
    """Two programs of a batch, one equality and three inequalities each, weakly active ones among them."""
    rng = np.random.default_rng(0)
    n, weak = 3, {0: [1], 1: [1, 2]}
    P = np.stack([M @ M.T + np.eye(n) for M in rng.normal(size=(2, n, n))])
    A = rng.normal(size=(2, 4, n))
    x = rng.normal(size=(2, n))
    y = np.zeros((2, 4))
    y[:, 0] = rng.normal(size=2)
    slack = np.abs(rng.normal(size=(2, 4)))
    slack[:, 0] = 0
    for item, rows in weak.items():
        slack[item, rows] = 0
    y[0, 2], slack[0, 2] = 1.3, 0  # strongly active
    b = np.einsum("bij,bj->bi", A, x) + slack
    c = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, y)
    program = ConeProgram(Cones(zero=1, nonnegative=3))

    def solution(c):
        found = jax.vmap(program)(P, c, A, b)
        return found.primal, found.dual

    J = cx.conservative_jacobian(lambda c: jnp.concatenate([jnp.ravel(p) for p in solution(c)]))(
        jnp.asarray(c)
    )
    assert len(J.kinks) == 3
    expected = []
    for picks in itertools.product([0, 1], repeat=3):
        chosen = {0: picks[:1], 1: picks[1:]}
        rows = np.zeros((2 * n + 8, 2 * n))
        for item in (0, 1):
            on = [0, *([2] if item == 0 else [])]
            on += [r for r, q in zip(weak[item], chosen[item], strict=True) if q]
            on = sorted(on)
            K = np.block([[P[item], A[item, on].T], [A[item, on], np.zeros((len(on),) * 2)]])
            moved = np.linalg.solve(K, np.vstack([-np.eye(n), np.zeros((len(on), n))]))
            columns = slice(item * n, item * n + n)
            rows[item * n : item * n + n, columns] = moved[:n]
            rows[[2 * n + 4 * item + r for r in on], columns] = moved[n:]
        expected.append(rows)
    assert_same_set(J.vertices(), expected, atol=1e-7)


def test_curved_cones_by_their_elements_or_refused_by_name():
    """The projection onto a second-order cone: a scalar kink on its boundary, a refusal at its apex."""
    program = ConeProgram(Cones(second_order=(3,)))

    def project(v):
        return program(jnp.eye(3), -v, -jnp.eye(3), jnp.zeros(3)).primal

    v = jnp.array([1.0, 0.6, 0.8])
    w = np.array([1.0, -0.6, -0.8]) / np.sqrt(2)
    assert_same_set(
        cx.conservative_jacobian(project)(v).vertices(),
        [np.eye(3), np.eye(3) - np.outer(w, w)],
        atol=1e-7,
    )
    with pytest.raises(errors.UnsupportedOperationError, match="second_order_cone"):
        cx.conservative_jacobian(project)(jnp.zeros(3))
