"""Oracles: closed-form projections and proximal maps, with their Jacobians by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conservax.cones.kinds.semidefinite import smat, svec
from conservax.errors import InvalidInputError
from conservax.invertibility import Verdict
from conservax.programs import ConeProgram, Cones
from programs.compiled import both_ways


def projection(cones: Cones, selection="lower"):
    """p ↦ the point of the cone next to p."""
    m = cones.size
    program = ConeProgram(cones, selection=selection)
    return lambda p: program(jnp.eye(m), -p, -jnp.eye(m), jnp.zeros(m)).primal


def onto_second_order(p):
    t, x = p[0], p[1:]
    length = np.linalg.norm(x)
    if length <= t:
        return p
    if length <= -t:
        return np.zeros_like(p)
    return (t + length) / 2 * np.concatenate([[1.0], x / length])


def onto_semidefinite(p):
    values, vectors = np.linalg.eigh(np.asarray(smat(jnp.asarray(p), 2)))
    return np.asarray(svec(jnp.asarray((vectors * np.maximum(values, 0)) @ vectors.T)))


def finite_differences(fun, p, step=1e-6):
    rows = [(fun(p + step * e) - fun(p - step * e)) / (2 * step) for e in np.eye(len(p))]
    return np.stack(rows, axis=1)


CASES = [
    (Cones(second_order=(3,)), onto_second_order),
    (Cones(semidefinite=(2,)), onto_semidefinite),
]


@pytest.mark.parametrize(("cones", "oracle"), CASES, ids=["second-order", "semidefinite"])
def test_projections_and_their_jacobians(cones, oracle):
    project = both_ways(projection(cones))
    rng = np.random.default_rng(0)
    for _ in range(4):
        p = rng.normal(size=3)
        x, forward, reverse = project(p)
        np.testing.assert_allclose(x, oracle(p), atol=1e-10)
        truth = finite_differences(oracle, p)
        np.testing.assert_allclose(forward, truth, atol=1e-7)
        np.testing.assert_allclose(reverse, truth, atol=1e-7)


@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_at_the_boundary_of_the_semidefinite_cone(selection):
    """diag(1, 0): dX₂₂/dC₂₂ is 0 or 1, the rest is settled."""
    cones = Cones(semidefinite=(2,))
    p = jnp.array([1.0, 0.0, 0.0])
    jacobian = jax.jit(jax.jacobian(projection(cones, selection)))(p)
    # the weakly active part of the dual, left out or kept
    truth = np.diag([1.0, 1.0, 1.0 if selection == "lower" else 0.0])
    np.testing.assert_allclose(jacobian, truth, atol=1e-9)


def test_the_certificate_at_smooth_and_degenerate_points():
    cones = Cones(second_order=(3,))
    program, eye, zero = ConeProgram(cones), np.eye(3), np.zeros(3)
    for p in ([0.3, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]):
        solution = program(eye, -np.array(p), -eye, zero)
        assert solution.info.verdict == Verdict.PROVEN
        report = program.check(eye, -np.array(p), -eye, zero)
        assert report.verdict == Verdict.PROVEN
        assert report.unique
        assert report.weakly_active == (() if p[0] == 0.3 else (0, 1) if p[0] == 1.0 else (0, 1, 2))


def test_bad_cones_are_refused():
    with pytest.raises(InvalidInputError, match="must be a conservax"):
        ConeProgram({"l": 3})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="list of sizes"):
        Cones(second_order=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="integers"):
        Cones(nonnegative=-1)


def test_an_auxiliary_variable_that_is_free_is_left_out():
    """min ½(x − p)² over x ≤ t ≤ 1: t is free while p < 1; without the word it makes x' unknown."""
    P, A = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([[1.0, -1.0], [0.0, 1.0]])
    b = jnp.array([0.0, 1.0])
    cones = Cones(nonnegative=2)

    def compiled(program):
        def first(p):
            solution = program(P, jnp.stack([-p, 0 * p]), A, b)
            return solution.primal[0], solution

        return jax.jit(jax.value_and_grad(first, has_aux=True))

    told, plain = compiled(ConeProgram(cones, auxiliary=(1,))), compiled(ConeProgram(cones))
    for p, slope in ((0.3, 1.0), (2.0, 0.0), (-5.0, 1.0)):
        (_, x), found = told(p)
        np.testing.assert_allclose(x.primal[0], min(p, 1.0), atol=1e-10)
        assert x.info.verdict == 1
        np.testing.assert_allclose(found, slope, atol=1e-12)
        assert x.primal[0] <= x.primal[1] + 1e-12 <= 1 + 2e-12
    (_, without), slope = plain(0.3)
    assert without.info.verdict == -1
    assert np.isnan(slope)
    (_, at_kink), _ = told(1.0)  # both rows weakly active: which selections t follows is not known
    assert at_kink.info.verdict == 0
