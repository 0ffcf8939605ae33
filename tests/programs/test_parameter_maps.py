"""Expressions of parameters alone: their values against CVXPY's own, and layers that are not DPP."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.programs import CvxpyLayer
from conservax.programs.cvxpy.parameter_maps import ParameterMap


def test_values_are_those_of_cvxpy():
    """Every operation known, once; CVXPY's own evaluation is the oracle."""
    rng = np.random.default_rng(0)
    g, v, w = cp.Parameter(nonneg=True), cp.Parameter(3), cp.Parameter(3, nonneg=True)
    M, s = cp.Parameter((3, 2)), cp.Parameter((2, 2), symmetric=True)
    expressions = (
        *(g + 1 + v, -v, M.T @ v, M @ s, cp.multiply(v, v), v / g, g**2, cp.sqrt(g), g * v),
        *(cp.exp(v), cp.log(w), cp.log1p(w), cp.abs(v), v[1:], M[[0, 2]], M[::-1, 1], M.T),
        *(cp.reshape(M, (2, 3), order="F"), cp.reshape(M, (2, 3), order="C"), cp.vec(M, order="F")),
        *(cp.hstack([v, v]), cp.vstack([v, w]), cp.bmat([[M, M]]), cp.concatenate([v, w])),
        *(cp.sum(M), cp.sum(M, axis=0), cp.sum(M, axis=1, keepdims=True), cp.trace(M.T @ M)),
        *(cp.diag(v), cp.diag(M.T @ M), cp.upper_tri(s), cp.diff(v), cp.cumsum(v)),
        *(cp.maximum(v, 0, w), cp.minimum(v, 0.5), cp.max(M, axis=1), cp.min(v), cp.prod(w)),
        *(cp.norm1(v), cp.norm(v, 2), cp.pnorm(w, 3), cp.norm_inf(v), cp.sum_squares(v)),
        *(cp.quad_over_lin(v, g), cp.inv_pos(g), cp.kron(M, np.ones((2, 2))), cp.promote(g, (3,))),
        *(cp.outer(v, w), cp.mean(v), cp.logistic(v), cp.entr(w), cp.log_sum_exp(v), cp.pos(v)),
        *(cp.quad_form(v, np.eye(3) + 1), cp.psd_wrap(M @ M.T), cp.scalar_product(v, w)),
    )
    parameters = g, v, w, M, s
    values = [rng.uniform(0.5, 2.0, size=p.shape) for p in parameters]
    values[1] -= 1.2
    values[4] = values[4] + values[4].T
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    own = ParameterMap(parameters, expressions)
    shapes = [p.shape for p in parameters]
    with jax.enable_x64():
        found = jax.jit(lambda *values: own(values, shapes))(*map(jnp.asarray, values))
        batch = jnp.stack([values[1], 2 * values[1]])
        stacked = own([*values[:1], batch, *values[2:]], shapes)
    for expression, value, many in zip(expressions, found, stacked, strict=True):
        expected = np.reshape(expression.value, expression.shape)
        np.testing.assert_allclose(value, expected, rtol=1e-13, err_msg=str(expression))
        np.testing.assert_allclose(many[0], value, rtol=1e-13)


def test_powers_and_products_of_parameters():
    """argmin g²/2 ‖x‖² − e^a·1ᵀx, x ≤ 1/g: x = min(e^a/g², 1/g), by hand."""
    x, g, a = cp.Variable(2), cp.Parameter(nonneg=True), cp.Parameter()
    problem = cp.Problem(
        cp.Minimize(g**2 / 2 * cp.sum_squares(x) - cp.exp(a) * cp.sum(x)), [g * x <= 1]
    )
    with jax.enable_x64():
        layer = CvxpyLayer(problem, parameters=[g, a], variables=[x])
        value = jax.jit(lambda g, a: layer(g, a)[0])
        point = jnp.asarray(2.0), jnp.asarray(0.3)
        by_hand = np.exp(0.3) / 4
        np.testing.assert_allclose(value(*point), [by_hand] * 2, rtol=1e-9)
        slopes = jax.jacobian(value, (0, 1))(*point)
        np.testing.assert_allclose(slopes[0], [-by_hand] * 2, rtol=1e-8)  # d/dg e^a g⁻²
        np.testing.assert_allclose(slopes[1], [by_hand] * 2, rtol=1e-8)
        both = layer(jnp.array([2.0, 0.5]), point[1])[0]  # the second item meets x ≤ 1/g
        np.testing.assert_allclose(both, [[by_hand] * 2, [2.0] * 2], rtol=1e-8)
        report = layer.check(jnp.asarray(0.5), point[1])
    assert report.verdict == cx.Verdict.PROVEN
    assert report.kinks == ()


def test_a_dual_variable_of_a_rewritten_constraint():
    """min ½‖x − 3‖², g²x ≤ 1 at g = 1: x = 1, multiplier 2."""
    x, g = cp.Variable(), cp.Parameter(nonneg=True)
    constraint = g**2 * x <= 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 3) / 2), [constraint])
    with jax.enable_x64():
        layer = CvxpyLayer(problem, [g], [x, constraint.dual_variables[0]])
        found = layer(jnp.asarray(1.0))
    np.testing.assert_allclose(found, [1.0, 2.0], rtol=1e-8)


def test_a_parameter_that_is_exponent_and_factor():
    """max x, x·0.3ᵃ·a ≤ 1: x = 0.3⁻ᵃ/a, slope x(−log 0.3 − 1/a)."""
    x, z, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Maximize(x), [x * z**a * a <= 1, z == 0.3])
    with jax.enable_x64():
        layer = CvxpyLayer(problem, [a], [x], gp=True)
        value, slope = jax.value_and_grad(lambda a: layer(a)[0])(jnp.asarray(0.5))
    by_hand = 0.3**-0.5 / 0.5
    np.testing.assert_allclose(value, by_hand, rtol=1e-9)
    np.testing.assert_allclose(slope, by_hand * (-np.log(0.3) - 2), rtol=1e-8)


def test_what_stays_refused_says_how_to_write_it():
    x, p, q = cp.Variable(2), cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    P = cp.Parameter((2, 2), PSD=True)
    for constraint in (cp.quad_form(x, P) <= 1, p * (q * x) <= 1):
        problem = cp.Problem(cp.Minimize(cp.sum(x)), [constraint, x >= -1])
        with pytest.raises(errors.InvalidInputError, match="must be DPP") as told:
            CvxpyLayer(problem, problem.parameters(), [x])
        assert "(p * q) * x" in str(told.value)
        assert "sum_squares" in str(told.value)
    unknown = cp.Problem(cp.Minimize(cp.sum(x)), [cp.geo_mean(cp.exp(P[0])) * x >= 1, x >= -1])
    with pytest.raises(errors.InvalidInputError, match="not known here"):
        CvxpyLayer(unknown, [P], [x])
