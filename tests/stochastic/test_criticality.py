"""Criticality against exact distances, artefacts, and what escape finds."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

import conservax as cx
from conservax import errors
from conservax.invertibility import Rigour, Verdict
from conservax.stochastic.affine import is_piecewise_affine

critical = cx.stochastic.criticality


def distance_by_qp(vertices):
    """dist(0, conv V) by non-negative least squares: min ‖Vᵀλ‖² + big·(Σλ − 1)²."""
    V = np.asarray(vertices, np.float64)
    big = 1e4 * (1 + np.abs(V).max())
    A = np.vstack([V.T, np.full((1, len(V)), big)])
    weights, _ = scipy.optimize.nnls(A, np.append(np.zeros(V.shape[1]), big), maxiter=10_000)
    weights /= weights.sum()
    return float(np.linalg.norm(V.T @ weights))


def largest(w, rows):
    return jnp.max(rows @ w)


@given(st.integers(0, 10_000))
def test_convex_polyhedral_functions_have_the_exact_distance(seed):
    """∂f at a tie of all pieces is the hull of their slopes."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, size=(5, 3)).astype(float)
    report = critical(largest, np.zeros(3), rows)
    expected = distance_by_qp(rows)
    assert report.conservative == pytest.approx(expected, abs=1e-8)
    if report.clarke is not None:
        assert report.clarke == pytest.approx(expected, abs=1e-8)
    wanted = Verdict.PROVEN if expected < 1e-9 else Verdict.REFUTED
    assert report.verdict == wanted
    assert report.rigour == Rigour.EXACT


def test_sums_of_absolute_values_and_of_maxima():
    A = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])

    def f(w):
        return jnp.sum(jnp.abs(A @ w)) + jnp.max(jnp.stack([w[0], w[1], jnp.zeros(())])) - 7 * w[0]

    signs = np.array(list(itertools.product([-1, 1], repeat=3))) @ A
    pieces = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) - [7.0, 0.0]
    vertices = (signs[:, None] + pieces[None]).reshape(-1, 2)
    report = critical(f, np.zeros(2))
    assert report.conservative == pytest.approx(distance_by_qp(vertices), abs=1e-8)
    assert report.clarke == pytest.approx(report.conservative, abs=1e-8)


def relu_difference(w):
    return jax.nn.relu(w) - jax.nn.relu(-w)


ARTEFACTS = {
    "relu(w) − relu(−w)": (relu_difference, 0.0, 1.0),
    "in two variables": (lambda w: relu_difference(w[0] - w[1]) + 0.5 * jnp.abs(w[0] + w[1]), [0.0, 0.0], None),
    "|w| − |w|": (lambda w: jnp.abs(w) - jnp.abs(-w) + w, 0.0, 1.0),
    "max and min": (lambda w: (jnp.maximum(w, 0) + jnp.minimum(w, 0)), 0.0, 1.0),
    "sorted twice": (lambda w: jnp.sum(jnp.sort(w)) - jnp.max(w) - jnp.min(w), [0.0, 0.0], None),
    "of a product": (lambda w: relu_difference(w[0] * w[1]), [0.0, 1.0], 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ARTEFACTS)
def test_no_artefact_is_called_critical(name):
    """Each function is smooth in truth, or its Clarke set is known by hand."""
    fun, w, slope = ARTEFACTS[name]
    report = critical(fun, jnp.asarray(w))
    if name == "sorted twice":  # it is 0: critical indeed
        assert report.verdict != Verdict.REFUTED
        return
    assert report.verdict != Verdict.PROVEN
    if name == "in two variables":  # the slope along (1, −1) is never 0; the kink along (1, 1) is
        slope = np.sqrt(2)
    if report.verdict == Verdict.REFUTED:
        assert report.artefact is True
        assert report.conservative == pytest.approx(0, abs=1e-12)
        assert report.clarke == pytest.approx(slope, abs=1e-8)
    start = jnp.asarray(w)
    assert float(fun(cx.stochastic.escape(fun, start))) < float(fun(start))


def difference(w, a, c):
    return jnp.sum(c * jnp.abs(a @ w))


@given(st.integers(0, 10_000))
def test_random_differences_of_kinks_against_a_fine_grid(seed):
    """f = Σ c_i |a_i w| in the plane: its gradients on a circle are all there are."""
    rng = np.random.default_rng(seed)
    a = rng.integers(-2, 3, size=(4, 2)).astype(float)
    a[np.all(a == 0, axis=1)] = 1.0
    c = rng.integers(-2, 3, size=4).astype(float)
    angles = np.linspace(0, 2 * np.pi, 721)[:-1] + 1e-3
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gradients = np.sign(around @ a.T) * c @ a
    exact = distance_by_qp(np.unique(gradients, axis=0))
    report = critical(difference, np.zeros(2), a, c)
    assert report.verdict == (Verdict.PROVEN if exact < 1e-9 else Verdict.REFUTED)
    if report.clarke is not None:
        assert report.clarke == pytest.approx(exact, abs=1e-8)


def test_nonlinear_kinks():
    # independent: exact
    report = critical(lambda w: jnp.abs(w[0] + w[1] ** 2) + jnp.abs(w[1]), np.zeros(2))
    assert (report.verdict, report.clarke) == (Verdict.PROVEN, 0.0)
    # dependent to first order, both patterns met: f = 2 min(…) has the gradient 0 near the point
    report = critical(lambda w: jnp.abs(w[0] + w[1] ** 2) - jnp.abs(w[1] ** 2 - w[0]), np.zeros(2))
    assert report.verdict == Verdict.PROVEN
    # smooth points
    report = critical(lambda w: jnp.sum(w**2), np.zeros(2))
    assert (report.verdict, report.clarke, report.artefact) == (Verdict.PROVEN, 0.0, False)
    report = critical(lambda w: jnp.sum(w**2), np.array([3.0, 4.0]))
    assert (report.verdict, report.clarke) == (Verdict.REFUTED, 10.0)


def test_directions_are_of_descent():
    def f(w):
        return jnp.max(jnp.stack([w["a"][0], 2 * w["a"][0], w["b"]]))

    w = {"a": jnp.zeros(1), "b": jnp.zeros(())}
    report = critical(f, w)
    assert report.verdict == Verdict.REFUTED
    moved = jax.tree.map(lambda p, d: p + 0.1 * d, w, report.direction)
    squared = report.conservative**2
    assert float(f(moved)) <= -0.1 * squared + 1e-12


def test_goldstein_bounds_are_proved_by_gradients():
    """|w| at 0.05: gradients −1 and 1 within 0.1, none but 1 within 0.01."""
    wide = critical(jnp.abs, 0.05, radius=0.1)
    narrow = critical(jnp.abs, 0.05, radius=0.01)
    assert wide.goldstein == pytest.approx(0, abs=1e-12)
    assert narrow.goldstein == pytest.approx(1)
    assert wide.verdict == narrow.verdict == Verdict.REFUTED


def test_a_point_near_a_kink_is_at_the_tolerance():
    def fun(w):
        return jnp.abs(w - 1)

    report = critical(fun, 1 + 1e-12)
    assert (report.verdict, report.rigour) == (Verdict.PROVEN, Rigour.AT_TOLERANCE)
    assert critical(fun, 1 + 1e-12, atol=0.0, rtol=0.0).verdict == Verdict.REFUTED


def test_norms_at_0_are_refused_by_no_one():
    report = critical(lambda w: cx.norm(w) + 0.5 * w[0], jnp.zeros(3))
    assert report.verdict == Verdict.PROVEN
    report = critical(lambda w: cx.norm(w) + 2.0 * w[0], jnp.zeros(3))
    assert report.verdict == Verdict.REFUTED
    assert report.conservative == pytest.approx(1.0)


def test_escape_has_nowhere_to_go_from_a_minimum():
    with pytest.raises(errors.NotConvergedError, match="Clarke critical"):
        cx.stochastic.escape(lambda w: jnp.sum(jnp.abs(w)), jnp.zeros(2))


def test_bad_input_is_named():
    with pytest.raises(errors.InvalidInputError, match="scalar functions"):
        critical(lambda w: jnp.abs(w), jnp.zeros(2))
    with pytest.raises(errors.InvalidInputError, match="scalar functions"):
        cx.stochastic.escape(lambda w: w, jnp.zeros(2))
    with pytest.raises(errors.InvalidInputError, match="holds nothing"):
        cx.stochastic.criticality(jnp.sum, jnp.zeros(0))
    with pytest.raises(errors.InvalidInputError, match="radius"):
        critical(jnp.abs, 0.0, radius=-1.0)
    with pytest.raises(errors.InvalidInputError, match="NaN"):
        critical(jnp.abs, jnp.nan)
    with pytest.raises(errors.InvalidInputError, match="int"):
        critical(lambda w: 1.0 * w, 3)
    with pytest.raises(errors.NotLipschitzError):
        critical(jnp.sqrt, 0.0)


def test_affine_programs():
    x = jnp.ones((2, 3))
    yes = [
        lambda w: jnp.sum(jnp.sort(x @ w)),
        lambda w: jnp.max(jnp.abs(w)) + jnp.where(w[0] > 0, w[0], 2 * w[0]),
        lambda w: jax.lax.scan(lambda c, a: (jnp.maximum(c, a), None), 0.0, w)[0],
        lambda w: jax.nn.leaky_relu(w)[0] / 3,
    ]
    no = [lambda w: w @ w, lambda w: cx.norm(w), lambda w: jnp.exp(w)[0], lambda w: w[0] / w[1]]
    assert all(is_piecewise_affine(f, jnp.ones(3)) for f in yes)
    assert not any(is_piecewise_affine(f, jnp.ones(3)) for f in no)


def test_reports_as_text_and_json():
    report = critical(relu_difference, 0.0)
    assert "not Clarke critical" in str(report)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (data["verdict"], data["artefact"], data["clarke"]) == ("refuted", True, 1.0)


@jax.custom_jvp
def _held(x):
    return x


_held.defjvp(lambda primals, tangents: (primals[0], 0 * tangents[0]))


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jax.lax.stop_gradient(x) + 0 * x,  # it is x: no critical point
        lambda x: jax.lax.stop_gradient(x) - x,  # it is 0: every point is critical
        _held,
    ],
)
def test_a_derivative_that_is_given_decides_nothing(fun):
    report = cx.stochastic.criticality(fun, 0.0)
    assert report.verdict == Verdict.UNKNOWN
    assert report.clarke is None
    assert report.artefact is None
    assert "taken as given" in report.reason
