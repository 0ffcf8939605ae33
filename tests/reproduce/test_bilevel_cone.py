"""The bilevel problem through a cone program, beside the closed form."""

import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.reproduce import bilevel, bilevel_cone, bilevel_cycle_cone, bilevel_noise, style

POINTS = np.array([[3.0, 1.0], [0.5, 2.0], [1.0, 1.5], [-1.0, 0.2]])


def constants(count):
    return jax.tree.map(lambda part: jnp.stack([part] * count), bilevel.published_constants())


def closed_form(points):
    far = -3 * points[:, :1] + points[:, 1:] + 2 > 0
    return 2 * np.array([1.0, 4.0]) * (points - np.where(far, np.array([3.0, 5.0]), 0.0))


def test_gradient_of_the_objective():
    gradients, verdicts = bilevel_cone.gradient(POINTS, constants(4))
    np.testing.assert_allclose(gradients, closed_form(POINTS), atol=1e-12)
    assert np.all(verdicts == cx.Verdict.PROVEN)


def test_solutions_slopes_and_verdicts_on_both_sides_and_on_the_line():
    box = np.array([[3.0, 5.0], [2.0, 1.0], [3.0, 5.0]])
    solution, slope, verdict = bilevel_cone.solve(np.array([1.0, -1e-3, 0.0]), box)
    np.testing.assert_allclose(solution[:2], [[3.0, 5.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(slope[:2], 0.0, atol=1e-12)
    assert np.all(np.isnan(slope[2]))
    assert verdict.tolist() == [cx.Verdict.PROVEN, cx.Verdict.PROVEN, cx.Verdict.REFUTED]


def test_descent_takes_steps_along_the_gradient():
    ticks = []
    descent = bilevel_cone.descend(POINTS, constants(4), 3, ticks.append)
    assert descent.path.shape == descent.gradient.shape == (3, 4, 2)
    assert descent.verdict.shape == (3, 4)
    u = POINTS
    for step in range(3):
        np.testing.assert_allclose(descent.path[step], u, atol=1e-12)
        u = u - bilevel.STEP * closed_form(u)
    assert ticks == [0.0]


def test_the_side_of_the_line_with_each_runs_constants():
    _, noisy = bilevel_noise.perturbed(jax.random.key(0))
    paths = np.random.default_rng(0).normal(size=(bilevel_noise.RUNS, 3, 2))
    sides = bilevel_noise.sides_of(paths, noisy)
    for k, t in ((0, 0), (7, 2), (19, 1)):
        own = jax.tree.map(lambda part, k=k: part[k], noisy)
        np.testing.assert_allclose(sides[k, t], bilevel.side(jnp.asarray(paths[k, t]), own))


def test_the_figure_names_the_verdict_that_was_given():
    slope = np.zeros((11, 2))
    slope[8:] = np.nan
    verdict = np.array([1] * 8 + [0, 0, -1], np.int8)
    with style.applied():
        ax = style.figure(4, 4).subplots()
        bilevel_cycle_cone._draw_near(ax, bilevel_cone.Inner(slope, slope, verdict), None)
    marks = {line.get_label(): len(line.get_xdata()) for line in ax.get_lines()}
    assert marks == {
        "conservax: PROVEN": 8,
        "conservax: UNKNOWN, no number": 2,
        "conservax: REFUTED, no number": 1,
    }
