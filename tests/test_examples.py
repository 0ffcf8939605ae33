"""The examples run, and the numbers they show are right."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import conservax as cx

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def lasso():
    return runpy.run_path(str(EXAMPLES / "lasso_diabetes.py"))


@pytest.fixture(scope="module")
def data(lasso):
    return lasso["load"]()


def closed_form(data, beta, log_lam, support):
    """dβ_S/d log λ = −nλ (X_SᵀX_S)⁻¹ s, zero off the support."""
    X = data.X[:, support]
    signs = np.sign(data.X.T @ (data.y - data.X @ beta))[support]
    slope = np.zeros(data.X.shape[1])
    slope[support] = -len(data.y) * np.exp(log_lam) * np.linalg.solve(X.T @ X, signs)
    return slope


@pytest.mark.parametrize("log_lam", [-0.5, 1.0, 3.2])
def test_the_derivative_of_the_lasso_is_the_closed_form(lasso, data, log_lam):
    beta = lasso["solve"](data, log_lam)
    exact = closed_form(data, beta, log_lam, np.flatnonzero(beta))
    np.testing.assert_allclose(lasso["derivative"](data, log_lam), exact, rtol=1e-9, atol=1e-9)
    numeric = lasso["difference"](data, log_lam)
    np.testing.assert_allclose(numeric, exact, rtol=1e-5, atol=1e-5)


def test_at_a_knot_the_set_holds_the_two_one_sided_derivatives(lasso, data):
    feature = data.names.index("bp")
    log_lam = lasso["knot"](data, feature)
    F = lasso["optimality"](data)
    beta = jnp.asarray(lasso["solve"](data, log_lam))
    report = cx.check(F, beta, log_lam)
    assert report.verdict.name == "PROVEN"
    assert [kink.index for kink in report.kinks] == [(feature,)]
    vertices = cx.implicit_jacobian(F)(beta, log_lam).vertices()[:, :, 0]
    others = [j for j in np.flatnonzero(np.abs(beta) > 1e-6) if j != feature]
    expected = [
        closed_form(data, beta, log_lam, sorted(support))
        for support in (others, [*others, feature])
    ]
    order = np.argsort(np.abs(vertices[:, feature]))
    # The knot is known to 1e-13 and the slopes are of size 20.
    np.testing.assert_allclose(vertices[order], expected, rtol=1e-9, atol=1e-9)


def test_the_example_tells_its_story(lasso, tmp_path, capsys):
    lasso["main"](tmp_path / "path.png")
    told = capsys.readouterr().out
    assert told.count("PROVEN") == 2
    assert "the feature 'bp' enters" in told
    assert "The set of derivatives has 2 vertices" in told
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def tour():
    return runpy.run_path(str(EXAMPLES / "certificates_tour.py"))


def test_rescue_money_agrees_with_differences(tour):
    cash, payments = tour["at_the_edge"]()
    F = tour["clearing"](tour["OWED"], tour["OUTSIDE"])
    np.testing.assert_allclose(F(payments, cash), 0, atol=1e-12)
    J = cx.implicit_jacobian(F)(jnp.asarray(payments), jnp.asarray(cash))
    h = 1e-6
    for j in range(4):
        for side in (1.0, -1.0):
            moved = tour["pay"](tour["OWED"], tour["OUTSIDE"], cash + side * h * np.eye(4)[j])
            slope = J.directional(side * np.eye(4)[j])
            np.testing.assert_allclose(slope, (moved - payments) / h, atol=1e-6)
    # more cash than its debts need stays with Birch
    np.testing.assert_allclose(J.directional(np.eye(4)[1]), np.zeros(4), atol=1e-12)


def test_the_tour_tells_its_three_stories(tour, capsys):
    tour["main"]()
    told = capsys.readouterr().out
    one, two, three = told.split("\n\n\n")
    assert "✓ PROVEN" in one
    assert "2.3584 per unit, if it holds less" in one
    assert "between 0.0000 and 2.3584" in one
    assert "✗ REFUTED" in two
    assert "residual 0e+00" in two
    assert "? UNKNOWN" in three
    assert "A budget of" in three
    assert three.rstrip().splitlines()[-1].strip().startswith("PROVEN, margin")


@pytest.fixture(scope="module")
def workshop():
    return runpy.run_path(str(EXAMPLES / "degenerate_point.py"))


def test_at_the_kink_both_selections_are_one_sided_derivatives(workshop):
    kink = jnp.asarray(workshop["KINK"])
    sides = {"lower": -1.0, "upper": 1.0}
    for (selection, side), truth in zip(sides.items(), ([1, 0], [0.5, -0.5]), strict=True):
        np.testing.assert_allclose(workshop["slopes"](kink, selection), truth, atol=1e-9)
        np.testing.assert_allclose(workshop["difference"](float(kink), side), truth, atol=1e-6)


def test_the_degenerate_point_tells_its_story(workshop, tmp_path, capsys):
    workshop["main"](tmp_path / "kink.png")
    one, two = capsys.readouterr().out.split("\n\n\n")
    assert "PROVEN" in one
    assert "REFUTED: the solution is not unique" in two
    assert "[nan, nan]" in two
    assert "PROVEN, derivative [-5.0, 5.0]" in two
    assert (tmp_path / "kink.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def portfolio():
    return runpy.run_path(str(EXAMPLES / "portfolio.py"))


@pytest.mark.slow
def test_the_gradient_of_the_portfolio_meets_differences(portfolio):
    weeks, _, covariance = portfolio["market"]()
    weeks = jax.tree.map(lambda part: part[:40], weeks)
    rules = portfolio["forecaster"](weeks)
    objective = jax.jit(lambda rules: portfolio["utility"](rules, weeks, covariance)[0])
    exact = ravel_pytree(jax.grad(objective)(rules))[0]
    numeric = portfolio["differences"](objective, rules)
    np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-8)
    trades, info = portfolio["trade"](rules, weeks.signals, covariance)
    buys, sells = trades[:, 0], trades[:, 1]
    held = portfolio["HELD"] + buys - sells
    assert np.min(held) >= -1e-12
    assert np.max(held.sum(1)) <= 1 + 1e-12
    assert np.max(buys.sum(1) + sells.sum(1)) <= rules.limit + 1e-12
    assert np.all(info.verdict == cx.Verdict.PROVEN)


@pytest.mark.slow
def test_the_layer_learns_with_every_derivative_proven(tmp_path, capsys):
    story = runpy.run_path(str(EXAMPLES / "optimisation_layer.py"))
    story["main"](tmp_path / "layer.png")
    told = capsys.readouterr().out
    accuracy = float(re.search(r"held-out patients: ([\d.]+)%", told)[1])
    assert accuracy > 90
    assert re.search(r"REFUTED +0\n +UNKNOWN +0\n", told)
    assert (tmp_path / "layer.png").read_bytes().startswith(b"\x89PNG")


def test_the_list_of_examples_is_complete():
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"[`{path.name}`]" in listed for path in EXAMPLES.glob("*.py"))


def test_the_controller_is_differentiated_through_its_closed_loop():
    story = runpy.run_path(str(EXAMPLES / "controller.py"))
    layer = story["planner"]()
    value = jax.jit(lambda logs: story["cost"](layer, logs)[0])
    logs = jnp.array([0.3, -0.2, -0.5])
    gradient = jax.jit(jax.grad(value))(logs)
    step = 1e-6
    differences = [
        (value(logs + step * e) - value(logs - step * e)) / (2 * step) for e in np.eye(3)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)
    _, costs, open_plans = story["tune"](layer, rounds=4)
    assert costs[3] < costs[0]
    assert open_plans == 0


def test_a_polygon_learns_what_the_workshop_can_make():
    story = runpy.run_path(str(EXAMPLES / "learned_constraint.py"))
    layer, polygon = story["planner"](story["SIDES"]), story["first_guess"]()
    orders, made = (part[:20] for part in story["observe"]())
    value = jax.jit(lambda polygon: story["distance"](layer, polygon, orders, made)[0])
    gradient, _ = ravel_pytree(jax.jit(jax.grad(value))(polygon))
    flat, unravel = ravel_pytree(polygon)
    direction = np.random.default_rng(0).normal(size=len(flat))
    sides = [value(unravel(flat + sign * 1e-6 * direction)) for sign in (1, -1)]
    np.testing.assert_allclose(gradient @ direction, (sides[0] - sides[1]) / 2e-6, rtol=1e-5)
    path, distances, not_proven = story["learn"](layer, orders, made, rounds=30)
    assert distances[-1] < distances[0] / 4
    assert story["area_between"](path[-1]) < story["area_between"](path[0])
    assert not_proven == 0


def test_the_fund_is_differentiated_through_its_months():
    story = runpy.run_path(str(EXAMPLES / "sparse_portfolio.py"))
    market = story["market"](months=2)
    layer = story["trader"](market.loadings, market.risks)
    value = jax.jit(lambda knobs: story["utility"](story["trade"](layer, market, knobs)))
    knobs = story["first_knobs"]()
    gradient = jax.jit(jax.grad(value))(knobs)
    step = 1e-5
    differences = [
        (value(knobs + step * e) - value(knobs - step * e)) / (2 * step) for e in np.eye(3)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-8)
    assert np.all(story["trade"](layer, market, knobs).verdict == cx.Verdict.PROVEN)


def test_deliveries_give_the_prices_back():
    """From a plan without noise the prices are those that made it; derivatives are differences."""
    story = runpy.run_path(str(EXAMPLES / "deliveries.py"))
    _, _, *place = story["geography"]()
    plan = jax.jit(
        lambda p: cx.iterates.implicit(story["SINKHORN"], tol=1e-13)(
            None, story["data_of"](p, *place)
        )
    )
    observed = plan(story["TRUTH"])
    path, losses = story["learn"](observed, place)
    np.testing.assert_allclose(path[-1], story["TRUTH"], atol=1e-7)
    assert losses[-1] < 1e-12 < losses[0]


def test_training_on_digits_tells_what_holds_before_and_after():
    """The guarantee of the vanishing step is all, of the constant one none; the loss falls."""
    example = runpy.run_path(str(EXAMPLES / "train_digits.py"))
    x, y = example["load"]()
    data = x[:200], y[:200]
    params = example["start"](jax.random.key(0))
    steps = example["STEPS"]
    optimiser = cx.stochastic.sgd(steps, key=jax.random.key(1))
    loss = example["loss"]
    assert cx.stochastic.guarantee(loss, optimiser, steps, params, data).strength == "all"
    constant = cx.stochastic.guarantee(loss, cx.stochastic.sgd(0.5), 0.5, params, data)
    assert [h.name for h in constant.failing] == ["α_k → 0", "α_k = o(1/log k)"]
    trained, watch = example["train"](params, data, optimiser, 40, 20)
    assert float(loss(trained, data)) < 0.9 * float(loss(params, data))
    assert [c.step for c in watch.criticality] == [0, 20, 40]
    gradient = ravel_pytree(jax.grad(loss)(params, data))[0]
    if watch.criticality[0].kinks == 0:
        assert watch.criticality[0].distance == pytest.approx(
            float(jnp.linalg.norm(gradient)), rel=1e-4
        )


def test_quantile_lines_split_the_data(tmp_path, capsys):
    story = runpy.run_path(str(EXAMPLES / "robust_regression.py"))
    x, y = story["observe"]()
    for level in (0.25, 0.75):
        found = story["fit"](level, x, y)
        r = y - float(found.value[0]) - float(found.value[1]) * x
        assert np.mean(r < -1e-6) <= level <= np.mean(r <= 1e-6)
        assert found.certificate.recheck()
        assert found.stats.gap < 1e-3


def test_the_adversary_is_no_weaker_than_its_corners():
    story = runpy.run_path(str(EXAMPLES / "adversarial_training.py"))
    points, labels = (part[:20] for part in story["data"]())
    weights = story["first_weights"]()
    worst = jax.jit(jax.vmap(lambda p, y: story["worst"](weights, p, y)))(points, labels)
    plain = jax.vmap(lambda p, y: story["loss"](weights, jnp.zeros(2), p, y))(points, labels)
    assert np.all(worst >= plain - 1e-12)
    slope = jax.grad(lambda c: story["worst"]((*weights[:2], c), points[0], labels[0]))(weights[2])
    step = 1e-6
    differences = [
        (
            story["worst"]((*weights[:2], weights[2] + step * e), points[0], labels[0])
            - story["worst"]((*weights[:2], weights[2] - step * e), points[0], labels[0])
        )
        / (2 * step)
        for e in np.eye(3, len(weights[2]))
    ]
    np.testing.assert_allclose(slope[:3], differences, atol=1e-5)


def test_the_search_for_penalties_is_no_worse_than_a_grid(capsys):
    search = runpy.run_path(str(EXAMPLES / "sparse_search.py"))
    ours, theirs, tried = search["regression"](search["diabetes"]())
    assert ours.certificate_.error <= theirs * (1 + 1e-9)
    assert ours.certificate_.exact
    search["tell"]("Diabetes", "squared error", ours, theirs, tried)
    assert "no lower error" in capsys.readouterr().out
