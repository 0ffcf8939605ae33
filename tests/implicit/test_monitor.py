"""The monitor says, step by step, what check says; and it says when there is nothing to say."""

import builtins
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.invertibility import Verdict


def crossing(y, w, x):
    """y = w|y| + x: at x = 0 the derivatives 1 ∓ w, singular between for w >= 1."""
    return y - w * jnp.abs(y) - x


@cx.custom_root(crossing)
def layer(init, w, x):
    return jnp.where(x > 0, x / (1 - w), x / (1 + w))


def loss(w, x, target):
    return jnp.sum((layer(None, w, x) - target) ** 2)


def test_margin_is_the_closed_form_and_falls_to_a_refutation():
    watch = cx.monitor(loss, every=1)
    for step in range(20):
        watch(step, 0.1 * step, jnp.zeros(3), 1.0)
    for o in watch.history:
        w = 0.1 * o.step
        assert len(o.kinks) == (3 if o.step else 0)  # at w = 0 the kinks move nothing
        if w < 0.99:
            assert o.verdict == Verdict.PROVEN
            assert o.margin == pytest.approx(1 - w, abs=1e-9)  # σ_min = min |1 ± w|
        else:
            assert o.verdict == Verdict.REFUTED
            assert o.margin is None
            assert o.sigma_min < 1e-8


@settings(max_examples=6)
@given(st.integers(0, 10**6))
def test_it_agrees_with_check(seed):
    rng = np.random.default_rng(seed)
    W = jnp.asarray(rng.normal(size=(3, 3)))
    b = jnp.asarray(rng.integers(-1, 2, size=3).astype(float))

    def equation(y, W, b):
        return y - 0.9 * jnp.tanh(jnp.maximum(W @ y + b, 0.5 * (W @ y))) + b

    # the root is given: shift the equation so that a random point with kinks solves it
    y = jnp.zeros(3)
    shift = equation(y, W, b)
    moved = lambda y, W, b: equation(y, W, b) - shift  # noqa: E731
    solve = cx.custom_root(moved)(lambda init, W, b: y)
    report = cx.check(moved, y, W, b)
    (seen,) = cx.monitor(lambda W, b: jnp.sum(solve(None, W, b)))(0, W, b)
    assert seen.verdict == report.verdict
    assert seen.residual == pytest.approx(report.residual)
    if report.verdict == Verdict.PROVEN:
        assert seen.margin == pytest.approx(report.margin)


def test_steps_between_are_skipped_without_a_look():
    calls = []

    def counted(w):
        calls.append(w)
        return jnp.sum(layer(None, w, jnp.zeros(1)))

    watch = cx.monitor(counted, every=10)
    assert [len(watch(step, 0.5)) for step in range(21)] == [1, *[0] * 9, 1, *[0] * 9, 1]
    assert [o.step for o in watch.history] == [0, 10, 20]
    assert len(calls) == 1  # one trace serves all steps


def test_each_solve_has_its_own_entry_and_its_own_kinks():
    def two(w, x):
        y = layer(None, w, x)
        return jnp.sum(layer(None, 0.2 * w, jnp.abs(y) + 1.0)) + jnp.sum(jnp.abs(y))

    first, second = cx.monitor(two)(0, 0.5, jnp.zeros(2))
    assert int(second.place.rsplit(":")[-1]) == int(first.place.rsplit(":")[-1]) + 1
    # the |y| behind the first solve, and those of the loss, concern neither system
    assert (len(first.kinks), len(second.kinks)) == (2, 0)
    assert first.margin == pytest.approx(0.5)
    assert second.margin == pytest.approx(0.9)


def test_executions_of_one_line_are_numbered():
    def mapped(w, xs):
        return jnp.sum(jax.lax.map(lambda x: layer(None, w, x), xs))

    seen = cx.monitor(mapped)(3, 0.5, jnp.array([[0.0], [1.0], [0.0]]))
    assert [(o.instance, len(o.kinks)) for o in seen] == [(0, 1), (1, 0), (2, 1)]
    np.testing.assert_allclose([o.margin for o in seen], [0.5, 0.5, 0.5])


def test_a_branch_not_taken_is_not_seen():
    def guarded(w, a):
        return jax.lax.cond(
            a > 0, lambda: jnp.sum(layer(None, w, jnp.zeros(2))), lambda: 0.0 * jnp.sum(w)
        )

    watch = cx.monitor(guarded)
    assert [len(watch(step, 0.5, a)) for step, a in enumerate((1.0, -1.0))] == [1, 0]


def test_parameters_cost_no_columns():
    # 10⁵ parameters: a Jacobian in them would take gigabytes
    watch = cx.monitor(lambda w: jnp.sum(layer(None, jnp.mean(w), jnp.zeros(4))))
    (seen,) = watch(0, jnp.full(100_000, 0.25))
    assert seen.margin == pytest.approx(0.75)


@pytest.mark.parametrize(("dtype", "active"), [(jnp.float32, 1), (jnp.float64, 0)])
def test_kinks_are_decided_in_the_precision_of_the_arguments(dtype, active):
    # y = x + |y − 1 + 1e-5|/2 at y = 1: 1e-5 away from the kink, beside terms of size 1
    solve = cx.custom_root(lambda y, x: y - 0.5 * jnp.abs(y - 1 + 1e-5) - x)(
        lambda init, x: jnp.ones_like(x)
    )
    x = jnp.asarray(1 - 0.5e-5, dtype)
    (seen,) = cx.monitor(lambda x: solve(None, x))(0, x)
    assert (len(seen.kinks), seen.verdict) == (active, Verdict.PROVEN)


# What goes wrong at a step is recorded and stops nothing.


def test_a_singular_smooth_solve_is_refuted_and_has_no_gradient():
    root = cx.custom_root(lambda y, t: y**2 - t)(lambda init, t: jnp.sqrt(t))
    watch = cx.monitor(lambda t: root(None, t))
    (seen,) = watch(0, 0.0)
    assert seen.verdict == Verdict.REFUTED
    assert "SingularError" in seen.fallback
    assert seen.margin is None
    (fine,) = watch(1, 4.0)
    assert (fine.verdict, fine.fallback) == (Verdict.PROVEN, None)
    assert fine.margin == pytest.approx(4.0)


def test_a_gradient_through_a_singular_selection_is_a_fallback():
    # at 0 JAX's slope of relu is 0, of maximum(y, 0) it is 1/2: B = 1 − 2q is singular there alone
    solve = cx.custom_root(lambda y, x: y - 2 * jnp.maximum(y, 0.0) - x)(
        lambda init, x: jnp.minimum(x, 0.0)
    )
    (seen,) = cx.monitor(lambda x: solve(None, x))(0, 0.0)
    assert seen.verdict == Verdict.REFUTED
    assert "selection that the gradient takes" in seen.fallback
    sure = cx.custom_root(lambda y, x: y - 2 * jax.nn.relu(y) - x)(
        lambda init, x: jnp.minimum(x, 0.0)
    )
    (seen,) = cx.monitor(lambda x: sure(None, x))(0, 0.0)
    assert (seen.verdict, seen.fallback) == (Verdict.REFUTED, None)


@pytest.mark.parametrize("bad", [np.nan, 3.0])
def test_nan_and_no_root_are_recorded(bad):
    solve = cx.custom_root(crossing)(lambda init, w, x: x + (0 if bad != 3.0 else 1))
    (seen,) = cx.monitor(lambda x: jnp.sum(solve(None, 0.0, x)))(7, jnp.array([bad]))
    assert seen.verdict == Verdict.UNKNOWN
    assert seen.fallback.startswith(("NotARootError", "InvalidInputError"))
    json.dumps(seen.to_dict(), allow_nan=False)


def test_what_it_refuses():
    with pytest.raises(errors.InvalidInputError, match="custom_root"):
        cx.monitor(jnp.sin)(0, 1.0)
    for every in (0, -1, 1.5, True):
        with pytest.raises(errors.InvalidInputError, match="every"):
            cx.monitor(loss, every=every)
    with pytest.raises(errors.InvalidInputError, match="nothing"):
        cx.monitor(loss).plot()


# As data, as text and as a plot.


@pytest.fixture
def watch():
    root = cx.custom_root(lambda y, t: y**2 - t)(lambda init, t: jnp.sqrt(t))
    watch = cx.monitor(lambda w, t: loss(w, jnp.zeros(2), 1.0) + root(None, t), every=5)
    for step in range(100):
        watch(step, 0.8 + 0.004 * step, 1.0 + step)
    return watch


def test_rows_are_json(watch):
    rows = json.loads(json.dumps(watch.to_rows(), allow_nan=False))
    assert len(rows) == 40
    assert set(rows[0]) == {
        "step", "place", "instance", "active_kinks", "verdict", "reason", "margin", "sigma_min",
        "residual", "fallback",
    }  # fmt: skip
    assert rows[0]["verdict"] == "proven"
    assert rows[-2]["verdict"] == "refuted"
    assert all(k.startswith("abs[") for k in rows[0]["active_kinks"])


def test_text_counts_and_shows_the_latest_steps(watch):
    first, second = str(watch).split("\n\n")
    assert "✓ 10 proven, ✗ 10 refuted" in first
    assert "✓ 20 proven" in second
    assert "… 8 earlier" in first
    assert first.splitlines()[15].split()[:3] == ["95", "✗", "refuted"]
    # JAX takes the slope 1 of |y| at 0, so that at w = 1, and there alone, its system is singular
    assert "1 without a gradient" in first
    assert "  step 50: the system is singular at the selection that the gradient takes" in first
    assert "nothing recorded" in str(cx.monitor(loss))


def test_text_ends_with_the_latest_fallback():
    root = cx.custom_root(lambda y, t: y**2 - t)(lambda init, t: jnp.sqrt(t))
    watch = cx.monitor(lambda t: root(None, t))
    watch(0, 0.0)
    watch(1, 4.0)
    assert "1 without a gradient" in str(watch)
    assert "\n  step 0: SingularError" in str(watch)
    assert len(str(watch).splitlines()[-1]) < 100


def test_plot_shows_every_step_once_in_its_colour(watch, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    from conservax.report import COLOURS

    figure = watch.plot()
    upper, lower = figure.axes
    drawn = {
        colour: sum(
            len(line.get_xdata())
            for line in upper.get_lines()
            if line.get_color() == colour and line.get_linestyle() == "None"
            and line.get_markerfacecolor() != "none"
        )
        for colour in COLOURS.values()
    }  # fmt: skip
    assert drawn == {COLOURS["proven"]: 30, COLOURS["refuted"]: 10, COLOURS["unknown"]: 0}
    assert upper.get_yscale() == "log"
    assert max(lower.get_lines()[0].get_ydata()) == 2
    figure.savefig(tmp_path / "monitor.png")
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")


def test_plot_into_given_axes(watch):
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, axes = plt.subplots(2, 1)
    assert watch.plot(axes) is figure
    assert axes[0].get_lines()
    plt.close("all")


def test_plot_without_matplotlib(watch, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(errors.ConservaxError, match=r"conservax\[plots\]"):
        watch.plot()
