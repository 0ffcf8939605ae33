"""Guarantees of models as people train them, and of runs that no theorem covers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import conservax as cx
from conservax import errors
from helpers import line_of

S = cx.stochastic
STEPS = S.schedules.inverse_power(0.1, 0.75)
KEY = jax.random.key(0)


def statuses(report):
    return {h.name: h.status.value for h in report.hypotheses}


def digits():
    x, y = load_digits(return_X_y=True)
    return jnp.asarray(x[:200] / 16), jnp.asarray(y[:200])


def network():
    keys = jax.random.split(KEY, 2)
    sizes = [(64, 24), (24, 10)]
    return [
        {"w": jax.random.normal(k, s) / math.sqrt(s[0]), "b": jnp.zeros(s[1])}
        for k, s in zip(keys, sizes, strict=True)
    ]


def cross_entropy(params, batch):
    x, labels = batch
    hidden = jax.nn.relu(x @ params[0]["w"] + params[0]["b"])
    logits = hidden @ params[1]["w"] + params[1]["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def test_a_relu_network_with_cross_entropy():
    report = S.guarantee(cross_entropy, S.sgd(STEPS, key=KEY), STEPS, network(), digits())
    assert report.strength == "all"
    assert report.failing == ()
    assert [h.name for h in report.assumed] == ["bounded iterates"]
    assert "EXP" in report["definable"].reason
    assert "Theorem 3" in report.source


def test_a_jump_fails_and_a_comparison_left_open_is_assumed():
    def of(chosen):
        def loss(w):
            return jnp.sum(jnp.where(chosen(w), w**2, 0.0))

        report = S.guarantee(loss, S.sgd(STEPS, key=KEY), STEPS, jnp.array([1.0, 2.0]))
        return statuses(report)["locally Lipschitz"]

    assert of(lambda w: w > 1.0) == "fails"
    assert of(lambda w: w >= jnp.min(w)) == "assumed"  # always


def test_an_equilibrium_network():
    """z = relu(Wz + Ux + b) with ‖W‖ < 1: the layer is PROVEN at the start, and said so."""

    @cx.custom_fixed_point(lambda z, W, u: jax.nn.relu(W @ z + u))
    def equilibrium(init, W, u):
        return jax.lax.fori_loop(0, 100, lambda i, z: jax.nn.relu(W @ z + u), init)

    def loss(params, batch):
        x, y = batch
        z = equilibrium(jnp.zeros(4), params["W"], params["U"] @ x)
        return jnp.sum((params["v"] @ z - y) ** 2)

    rng = np.random.default_rng(0)
    params = {
        "W": 0.1 * rng.normal(size=(4, 4)),
        "U": rng.normal(size=(4, 3)),
        "v": rng.normal(size=4),
    }
    report = S.guarantee(loss, S.sgd(STEPS), STEPS, params, (rng.normal(size=3), 1.0))
    layer = report["implicit layers"]
    assert layer.status.value == "holds"
    assert layer.reason.startswith("PROVEN at the start")
    assert layer.line.startswith("test_guarantee.py:")
    assert report["locally Lipschitz"].status.value == "holds"
    assert report.strength == "all"


def lasso_loss(X, y, X_val, y_val):
    step = 0.9 / np.linalg.norm(X, 2) ** 2

    def prox_step(beta, log_alpha):
        moved = beta - step * X.T @ (X @ beta - y)
        return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - step * jnp.exp(log_alpha), 0)

    @cx.custom_fixed_point(prox_step)
    def lasso(init, log_alpha):
        return jax.lax.fori_loop(0, 3000, lambda i, b: prox_step(b, log_alpha), init)

    return lambda log_alpha, _: jnp.sum(
        (X_val @ lasso(jnp.zeros(X.shape[1]), log_alpha) - y_val) ** 2
    )


def test_the_lasso_search():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 5)), rng.normal(size=20)
    loss = lasso_loss(X, y, rng.normal(size=(8, 5)), rng.normal(size=8))
    report = S.guarantee(loss, S.incremental(STEPS), STEPS, 0.0, 0.0)
    assert report["implicit layers"].status.value == "holds"
    assert report["definable"].reason.endswith("EXP")
    assert report.strength == "all"
    # more unknowns than data and no penalty to speak of: the layer cannot be proven
    X, y = np.ones((2, 2)), np.ones(2)
    loss = lasso_loss(X, y, X, y)
    report = S.guarantee(loss, S.incremental(STEPS), STEPS, 0.0, 0.0)
    assert report["implicit layers"].status.value != "holds"


def test_a_loss_with_a_cone_program():
    def loss(q, target):
        eye = jnp.eye(2)
        solution = cx.programs.QuadraticProgram()(eye, q, G=-eye, h=jnp.zeros(2))  # the program
        return jnp.sum((solution.primal - target) ** 2)

    report = S.guarantee(loss, S.sgd(STEPS), STEPS, jnp.array([-1.0, -2.0]), jnp.ones(2))
    layer = report["implicit layers"]
    assert layer.status.value != "fails"
    assert "PROVEN" in layer.reason
    assert layer.line == f"test_guarantee.py:{line_of('the program', __file__)}"
    assert report["definable"].status.value == report["locally Lipschitz"].status.value == "holds"
    assert report.strength == "all"


def absolute(w, batch):
    return jnp.sum(jnp.abs(w))


W = jnp.ones(2)


@pytest.mark.parametrize(
    ("schedule", "failing", "strength"),
    [
        (S.schedules.constant(0.1), {"α_k → 0", "α_k = o(1/log k)"}, "none"),
        (0.1, {"α_k → 0", "α_k = o(1/log k)"}, "none"),
        (S.schedules.inverse_power(0.1, 1.5), {"Σα_k = ∞"}, "none"),
        (optax.cosine_decay_schedule(0.1, 100), {"Σα_k = ∞"}, "none"),
        (S.schedules.inverse_log(0.1, 1.0), {"α_k = o(1/log k)"}, "essential"),
        (S.schedules.inverse_log(0.1, 1.5), set(), "all"),
        (S.schedules.inverse_power(0.1, 0.3), set(), "all"),
        (lambda k: 0.1 / (k + 1) ** 0.75, set(), "all"),
    ],
)
def test_steps_that_break_a_hypothesis_are_named(schedule, failing, strength):
    report = S.guarantee(absolute, S.sgd(schedule), schedule, W, 0)
    assert {h.name for h in report.failing} == failing
    assert report.strength == strength
    assert report.holds == (strength != "none")


@pytest.mark.parametrize(
    ("alpha", "beta", "failing"),
    [
        (STEPS, 0.1, {"α_k/β_k → r > 0"}),
        (STEPS, S.schedules.inverse_power(0.9, 0.75), set()),
        (STEPS, S.schedules.inverse_power(0.9, 0.6), {"α_k/β_k → r > 0"}),
        (S.schedules.inverse_power(0.1, 0.4), S.schedules.inverse_power(0.9, 0.4), {"Σα_k² < ∞"}),
    ],
)
def test_the_heavy_ball_needs_more(alpha, beta, failing):
    report = S.guarantee(absolute, S.heavy_ball(alpha, beta), alpha, W, 0)
    assert {h.name for h in report.failing} == failing
    assert report.strength == ("none" if failing else "all")
    if not failing:
        assert "Le" in report.source
        assert "r = 0.111111" in report["α_k/β_k → r > 0"].reason


def test_other_methods():
    assert "inertial Newton" in S.guarantee(absolute, S.inertial_newton(STEPS), STEPS, W, 0).source
    report = S.guarantee(absolute, S.adagrad_norm(0.1), None, W, 0)
    assert statuses(report)["α_k = o(1/log k)"] == "assumed"
    report = S.guarantee(absolute, optax.adam(1e-3), None, W, 0)
    assert {h.name for h in report.failing} == {"method"}
    assert "cx.stochastic" in report["method"].reason
    assert not report.holds


BALL = S.heavy_ball(STEPS, S.schedules.inverse_power(0.9, 0.75))


@pytest.mark.parametrize(
    ("parts", "exact", "sampled"),
    [
        ([S.clip_by_global_norm(1.0), S.sgd(STEPS)], "holds", "assumed"),
        (
            [S.weight_decay(0.1), S.clip_by_global_norm(1.0), S.incremental(STEPS)],
            "holds",
            "assumed",
        ),
        ([S.clip_by_global_norm(1.0), S.incremental(STEPS, batches=2)], "assumed", "assumed"),
        ([S.clip_by_global_norm(1.0), S.weight_decay(0.1), S.sgd(STEPS)], "assumed", "assumed"),
        ([S.clip(1.0), S.sgd(STEPS)], "assumed", "assumed"),
        ([S.clip_by_global_norm(1.0), BALL], "assumed", "assumed"),
    ],
)
def test_clipping_changes_the_directions(parts, exact, sampled):
    """A shorter step of a gradient is one; a mean of shorter gradients, or of their entries, is none."""
    optimiser = S.chain(*parts)
    report = S.guarantee(lambda w: absolute(w, 0), optimiser, STEPS, W)
    assert report["directions in D"].status.value == exact
    assert report.strength == "all"
    report = S.guarantee(absolute, optimiser, STEPS, W, 0)
    assert report["directions in D"].status.value == sampled
    assert "≤ 1 from some step on" in report["directions in D"].reason


def test_a_mean_of_clipped_gradients_leads_elsewhere():
    """Why it is assumed: of 3w and −w, −w the gradients 3 and −1, −1 have mean ⅓; clipped at 1 it is −⅓."""
    slopes, w = np.array([3.0, -1.0, -1.0]), np.zeros(())
    plain = S.sgd(0.1)
    clipped = S.chain(S.clip_by_global_norm(1.0), plain)
    moves = [
        np.mean([opt.update(jnp.asarray(g), opt.init(w), w)[0] for g in slopes])
        for opt in (plain, clipped)
    ]
    np.testing.assert_allclose(moves, [-0.1 / 3, 0.1 / 3], rtol=1e-12)


def test_weight_decay_belongs_to_the_loss():
    optimiser = S.chain(S.weight_decay(0.1), BALL)
    report = S.guarantee(absolute, optimiser, STEPS, W, 0)
    assert report["weight decay"].status.value == "holds"
    assert report.conclusion.startswith("the loss + (0.1/2)‖w‖² converges")
    masked = S.chain(
        S.weight_decay(0.1, {"a": True, "b": False}), S.sgd(S.schedules.inverse_log(0.1, 1.0))
    )
    report = S.guarantee(lambda w: jnp.sum(w["a"] + w["b"]), masked, None, {"a": W, "b": W})
    assert report.strength == "essential"
    assert report.conclusion.endswith("of the loss + (0.1/2)‖the decayed part of w‖²")
    after = S.guarantee(absolute, S.chain(S.sgd(STEPS), S.weight_decay(0.1)), STEPS, W, 0)
    assert {h.name for h in after.failing} == {"weight decay"}
    assert not after.holds
    assert "before the optimiser" in str(after)


def test_what_follows_the_optimiser_and_what_is_not_known():
    status = lambda parts: statuses(S.guarantee(absolute, S.chain(*parts), None, W, 0))  # noqa: E731
    assert status([S.sgd(STEPS), S.clip(0.1)])["clipped steps"] == "holds"
    assert status([S.sgd(0.1), S.clip(0.1)])["clipped steps"] == "assumed"
    assert status([S.adagrad_norm(0.1), S.clip(0.1)])["clipped steps"] == "assumed"
    for parts in ([optax.clip(1.0), S.sgd(STEPS)], [optax.scale_by_adam(), S.sgd(STEPS)]):
        report = S.guarantee(absolute, S.chain(*parts), STEPS, W, 0)
        assert {h.name for h in report.failing} == {"method"}
        assert not report.holds
    report = S.guarantee(absolute, optax.chain(S.clip(1.0), S.sgd(STEPS)), None, W, 0)
    assert "cx.stochastic.chain" in report["method"].reason


def rough(w, batch):
    steps = jnp.floor(w)  # the floor
    return jnp.sum(jnp.sqrt(jnp.abs(w))) + jnp.sum(steps)  # the root


def test_losses_that_are_not_lipschitz_name_the_line():
    report = S.guarantee(rough, S.sgd(STEPS), STEPS, jnp.zeros(2), 0)
    assert not report.holds
    places = {h.line: h.reason for h in report.failing}
    assert set(places) == {
        f"test_guarantee.py:{line_of('the floor', __file__)}",
        f"test_guarantee.py:{line_of('the root', __file__)}",
    }
    assert all(h.name == "locally Lipschitz" for h in report.failing)
    assert "at the start" in places[f"test_guarantee.py:{line_of('the root', __file__)}"]
    away = S.guarantee(rough, S.sgd(STEPS), STEPS, jnp.full(2, 0.5), 0)
    assert all("not everywhere" in h.reason for h in away.failing)
    assert len(away.failing) == 2


def test_own_rules_and_black_boxes():
    def stopped(w, batch):
        return jnp.sum(w * jax.lax.stop_gradient(w))

    report = S.guarantee(stopped, S.sgd(STEPS), STEPS, W, 0)
    assert report["derivative rules"].status.value == "assumed"
    assert "stop_gradient" in report["derivative rules"].reason

    def black(w, batch):
        return jnp.sum(jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(w.shape, w.dtype), w))

    report = S.guarantee(black, S.sgd(STEPS), STEPS, W, 0)
    assert report["definable"].status.value == "fails"
    assert report["definable"].line.startswith("test_guarantee.py:")


def test_expectations_by_the_integral_rule():
    data = S.finite(np.ones((5, 2)))
    report = S.guarantee(S.expected(lambda w, x: jnp.abs(w @ x), data), S.sgd(STEPS), STEPS, W)
    assert "5 points" in report["finite sum"].reason
    sampled = S.expected(lambda w, x: jnp.sum(jnp.abs(w - x)), jax.random.normal)
    report = S.guarantee(sampled, S.sgd(STEPS), STEPS, W)
    assert report["integral rule"].status.value == "assumed"
    assert report.strength == "all"


def test_reports_as_text_json_and_html():
    report = S.guarantee(rough, S.sgd(0.1), 0.1, jnp.zeros(2), 0)
    text = str(report)
    assert text.startswith(
        "✗ No theorem known here applies: locally Lipschitz, α_k → 0, α_k = o(1/log k) fail."
    )
    assert "Next: change the line named above" in text
    assert max(map(len, text.splitlines())) <= 100
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["strength"] == "none"
    assert {h["status"] for h in data["hypotheses"]} == {"holds", "fails", "assumed"}
    page = report._repr_html_()
    assert page.startswith("<div")
    assert page.endswith("</div>")
    assert "test_guarantee.py" in page


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: S.guarantee(absolute, "sgd", None, W, 0), "optimiser='sgd'"),
        (lambda: S.guarantee(absolute, S.sgd(0.1), 0.2, W, 0), "not the one"),
        (lambda: S.guarantee(lambda w, b: w, S.sgd(0.1), 0.1, W, 0), "one number"),
        (lambda: S.guarantee(absolute, S.sgd(0.1), 0.1, W * jnp.nan, 0), "NaN"),
        (lambda: S.guarantee(absolute, S.sgd(bad), bad, W, 0), "α_1 = -1"),
        (lambda: S.guarantee(absolute, S.sgd(0.1), 0.1, jnp.zeros(0), 0), "nothing to train"),
        (lambda: S.guarantee(lambda w: jnp.zeros(()), S.sgd(0.1), 0.1, {}), "nothing to train"),
        (
            lambda: S.guarantee(absolute, S.sgd(0.1), 0.1, {"a": "b"}, 0),
            r"params\['a'\] must be an array",
        ),
        (
            lambda: S.guarantee(lambda w, b: jnp.nan * w[0], S.sgd(0.1), 0.1, W, 0),
            "the loss is nan at params",
        ),
        (
            lambda: S.guarantee(lambda w, b: jnp.log(w[0] - 2), S.sgd(0.1), 0.1, W, 0),
            r"loss is nan at params \(log at test_guarantee.py:\d+: log is unbounded",
        ),
        (lambda: S.chain(S.clip(1.0)), "holds 0 optimisers"),
        (lambda: S.chain(S.sgd(0.1), S.chain(S.clip(1.0), S.sgd(0.1))), "holds 2 optimisers"),
        (lambda: S.chain(S.clip, S.sgd(0.1)), "part 1 of the chain"),
        (lambda: S.clip(-1.0), "delta=-1.0 must be a positive number"),
        (lambda: S.weight_decay(np.nan), "rate=nan must be"),
        (
            lambda: S.guarantee(S.expected(absolute, jax.random.normal), S.sgd(0.1), 0.1, W, 0),
            "leave out batch",
        ),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(errors.InvalidInputError, match=named):
        call()


def bad(k):
    return -1.0


def test_numbers_that_are_not_finite_and_losses_that_are_not_real_are_named():
    loss = lambda w, b: jnp.sum(w * b)  # noqa: E731
    steps = cx.stochastic.schedules.inverse_power(0.1, 0.75)
    one, bad = jnp.ones(2), jnp.array([jnp.inf, 1.0])
    for params, batch, name in ((bad, one, "params"), (one, bad * jnp.nan, "batch")):
        with pytest.raises(errors.InvalidInputError, match=name):
            cx.stochastic.guarantee(loss, cx.stochastic.sgd(steps), steps, params, batch)
    with pytest.raises(errors.InvalidInputError, match="real"):
        cx.stochastic.guarantee(lambda w: w[0] * 1j, cx.stochastic.sgd(steps), steps, one)
