"""Laws that every batch obeys, for random programs of known status."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conservax.programs import ConeProgram
from conservax.solution import Status
from conservax.solvers import interior_point
from programs import robustness
from programs.random_programs import SHAPES, random_program

SIZE = 8  # of every batch, so that each cone is compiled once
CONES = tuple(SHAPES)
EASY = ("regular", "weakly_active", "nonunique_dual", "nonunique_primal", "empty_rows")
FAILING = ("infeasible", "infeasible_by_few", "unbounded", "unbounded_by_few")
seeds = st.integers(0, 10**6)


def draw(cone, families, seed):
    """A batch of SIZE programs, the families in turn."""
    cones, n = SHAPES[cone][0]
    names = [families[i % len(families)] for i in range(SIZE)]
    return cones, [random_program(name, cones, n, seed + i) for i, name in enumerate(names)]


def stack(programs):
    return tuple(
        jnp.asarray(np.stack(part)) for part in zip(*(p[:4] for p in programs), strict=True)
    )


@functools.cache
def layer(cone):
    """The layer under jit, where NaN cannot be refused; primal of every item and its gradient."""
    program = ConeProgram(SHAPES[cone][0][0])

    def weighed(weights, P, c, A, b):
        solution = program(P, c, A, b)
        return jnp.sum(jnp.where(weights > 0, solution.primal, 0.0)), solution

    return jax.jit(jax.value_and_grad(weighed, argnums=(1, 2, 3, 4), has_aux=True))


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds)
def test_units_of_rows_columns_right_side_and_objective_carry_over(cone, seed):
    """x̂ = βx/column, ŝ = βrow·s, ŷ = γy/row for rows scaled by cone, columns, b by β, c by γ."""
    cones, programs = draw(cone, ("scaled_all", "regular"), seed)
    found = interior_point(*stack(programs), cones, tolerance=1e-9)
    plain = interior_point(*stack([p.unscaled() for p in programs]), cones, tolerance=1e-9)
    solved = (found.status == Status.SOLVED) & (plain.status == Status.SOLVED)
    for i in np.flatnonzero(solved):
        back = programs[i].to_unscaled(*(np.asarray(part[i]) for part in found.value))
        for part, other, unique in zip(
            back,
            plain.value,
            (programs[i].unique_primal, programs[i].unique_dual, programs[i].unique_primal),
            strict=True,
        ):
            if unique:
                np.testing.assert_allclose(part, other[i], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds, order=st.permutations(range(SIZE)))
def test_a_permuted_batch_has_permuted_answers(cone, seed, order):
    cones, programs = draw(cone, EASY + FAILING, seed)
    order = np.array(order)
    plain = interior_point(*stack(programs), cones)
    found = interior_point(*stack([programs[i] for i in order]), cones)
    np.testing.assert_array_equal(found.status, plain.status[order])
    np.testing.assert_array_equal(found.stats.iterations, plain.stats.iterations[order])
    for part, other in zip(found.value, plain.value, strict=True):
        np.testing.assert_allclose(part, other[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cone", CONES)
@given(
    seed=seeds, bad=st.sets(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE - 1), how=st.data()
)
def test_a_failed_item_leaves_its_batch_unharmed(cone, seed, bad, how):
    """Solutions and gradients of the others are the same to 1e-9; the failed item is NaN."""
    _, programs = draw(cone, EASY, seed)
    cones, n = SHAPES[cone][0]
    spoiled, failed = list(programs), np.isin(np.arange(SIZE), list(bad))
    for i in bad:
        kind = how.draw(st.sampled_from((*FAILING, "P", "c", "A", "b")))
        if kind in FAILING:
            spoiled[i] = random_program(kind, cones, n, seed)
        else:
            part = getattr(programs[i], kind).copy()
            part.flat[0] = how.draw(st.sampled_from([np.nan, np.inf]))
            spoiled[i] = programs[i]._replace(**{kind: part})
    weights = jnp.asarray(~failed, float)[:, None]
    run = layer(cone)
    (_, plain), expected = run(weights, *stack(programs))
    (_, found), actual = run(weights, *stack(spoiled))
    assert not np.any(found.info.status[failed] == Status.SOLVED)
    assert np.all(np.isnan(found.primal[failed]))
    np.testing.assert_array_equal(found.info.status[~failed], plain.info.status[~failed])
    # one of many solutions is as exact, but where among them it lies is rounding's choice
    unique = ~failed & (plain.info.verdict == 1)
    for part, other in zip(found[:3], plain[:3], strict=True):
        np.testing.assert_allclose(part[unique], other[unique], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(part[~failed], other[~failed], rtol=1e-6, atol=1e-6)
    for part, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(part[~failed], other[~failed], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds)
def test_an_item_does_not_see_its_neighbours(cone, seed):
    """Badly scaled or ill-conditioned ones beside it change nothing."""
    cones, programs = draw(
        cone, ("regular", "nonunique_primal", "scaled_all", "ill_conditioned"), seed
    )
    plain = [programs[i % 2] for i in range(SIZE)]
    found, alone = (interior_point(*stack(p), cones) for p in (programs, plain))
    np.testing.assert_array_equal(found.status[:2], alone.status[:2])
    for part, other in zip(found.value, alone.value, strict=True):
        np.testing.assert_allclose(part[:2], other[:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds)
def test_a_warm_start_at_the_solution_takes_few_steps(cone, seed):
    cones, programs = draw(cone, ("regular",), seed)
    data = stack(programs)
    cold = interior_point(*data, cones)
    warm = interior_point(*data, cones, start=cold.value)
    solved = cold.status == Status.SOLVED
    assert np.all(warm.status[solved] == Status.SOLVED)
    assert np.all(warm.stats.iterations[solved] <= np.minimum(cold.stats.iterations[solved], 4))


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds)
def test_primal_and_dual_values_bracket_the_optimum(cone, seed):
    """−½xᵀPx − bᵀy ≤ f* ≤ ½xᵀPx + cᵀx up to the tolerance, and s, y lie in their cones."""
    cones, programs = draw(cone, EASY, seed)
    found = interior_point(*stack(programs), cones)
    for i, p in enumerate(programs):
        if found.status[i] != Status.SOLVED:
            continue
        x, y, s = (np.asarray(part[i]) for part in found.value)
        curved, size = x @ p.P @ x / 2, max(1.0, np.abs(x).max() * np.abs(y).max())
        assert curved + p.c @ x >= p.value - 1e-6 * size
        assert -curved - p.b @ y <= p.value + 1e-6 * size
        assert robustness.least_eigenvalue(cones, s) > -1e-9 * size
        assert robustness.least_eigenvalue(cones, y) > -1e-9 * size


@pytest.mark.parametrize("cone", CONES)
@given(seed=seeds)
def test_certificates_certify(cone, seed):
    """Aᵀy ≈ 0, bᵀy = −1, y ∈ K*; or Px ≈ 0, −Ax ∈ K nearly, cᵀx = −1."""
    cones, programs = draw(cone, FAILING, seed)
    found = interior_point(*stack(programs), cones)
    for i, p in enumerate(programs):
        status = Status(int(found.status[i]))
        if status not in robustness.DECIDED:
            continue
        assert status in p.right
        point = tuple(np.asarray(part[i]) for part in found.value)
        held = p.b @ point[1] if status == Status.PRIMAL_INFEASIBLE else p.c @ point[0]
        assert held == pytest.approx(-1)
        assert robustness.certificate(p, cones, status, point) < robustness.CERTIFIED_TO


@pytest.mark.parametrize("cone", CONES)
def test_a_spent_budget_is_said(cone):
    cones, programs = draw(cone, ("regular",), 0)
    found = interior_point(*stack(programs), cones, max_iterations=1)
    assert np.all(found.status == Status.MAX_ITERATIONS)
    assert all(np.all(np.isfinite(part)) for part in found.value)
