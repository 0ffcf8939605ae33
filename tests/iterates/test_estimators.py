"""Transformations, status, errors, memory and repeat calls of the estimators."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.solution import Status

it = cx.iterates
A = np.array([[3.0, 1.0], [1.0, 2.0]])


def quadratic(x, t):
    return x @ A @ x / 2 - t @ x + jnp.sum(x**4) / 4


def soft(v, t, step):
    return cx.proximal.prox_lasso(v, 0.1, step)


DESCENT = it.gradient_descent(quadratic, 0.2)
ESTIMATORS = {
    "unroll": it.unroll(DESCENT, 200),
    "implicit": it.implicit(DESCENT, tol=1e-13),
    "truncated": it.truncated(DESCENT, 150, tol=1e-13),
}
T0 = np.array([1.0, -0.5])


def solution(t):
    x = np.zeros(2)
    for _ in range(50):
        x = x - np.linalg.solve(A + np.diag(3 * x**2), A @ x - t + x**3)
    return x


def derivative(t):
    return np.linalg.inv(A + np.diag(3 * solution(t) ** 2))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_transformation(name):
    """jit ∘ vmap, forward, reverse and second derivatives, in one compiled call."""
    estimator = ESTIMATORS[name]

    def all_of(t):
        def f(t):
            return estimator(jnp.zeros(2), t)

        hessian = jax.jacfwd(jax.jacrev(lambda t: f(t)[0]))(t) if name != "truncated" else ()
        return f(t), jax.jacrev(f)(t), jax.jvp(f, (t,), (jnp.ones(2),))[1], hessian

    batch = jnp.stack([T0, 2 * T0, jnp.zeros(2)])
    x, J, moved, hessian = jax.jit(jax.vmap(all_of))(batch)
    for i, t in enumerate(np.asarray(batch)):
        np.testing.assert_allclose(x[i], solution(t), atol=1e-10)
        np.testing.assert_allclose(J[i], derivative(t), atol=1e-9)
        np.testing.assert_allclose(moved[i], derivative(t) @ np.ones(2), atol=1e-9)
        if name != "truncated":
            # d/dt of G[0] = −(G diag(6x) (G·) G)[0]
            G = derivative(t)
            want = np.einsum("i,ia,ib,ic->abc", 6 * solution(t), G, G, G)[0]
            np.testing.assert_allclose(hessian[i], -want, atol=1e-8)


def test_pytrees_and_single_precision():
    def loss(x, t):
        return jnp.sum((x["a"] - t["a"]) ** 2) + (x["b"] - t["b"] * t["a"][0]) ** 2

    alg = it.gradient_descent(loss, 0.3)
    x0 = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    t = {"a": jnp.array([1.0, 2.0], jnp.float32), "b": jnp.float32(3.0)}
    x, J = it.piggyback(alg, 60)(x0, t)
    want = jax.jacobian(lambda t: it.implicit(alg)(x0, t))(t)
    assert jax.tree.structure(J) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(J), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert x["b"].dtype == jnp.float32
    np.testing.assert_allclose(J["b"]["a"], [3.0, 0.0], atol=1e-5)


def test_truncated_is_the_partial_sum():
    t = T0
    x = solution(np.asarray(t))
    M = np.eye(2) - 0.2 * (A + np.diag(3 * x**2))
    for k in (1, 3):
        J = jax.jacobian(lambda t, k=k: it.truncated(DESCENT, k, tol=1e-13)(jnp.zeros(2), t))(t)
        want = sum(np.linalg.matrix_power(M, i) for i in range(k)) * 0.2
        np.testing.assert_allclose(J, want, atol=1e-10)
    np.testing.assert_allclose(
        jax.jacobian(lambda t: it.one_step(DESCENT, tol=1e-13)(jnp.zeros(2), t))(t),
        0.2 * np.eye(2),
        atol=1e-12,
    )


def test_piggyback_starts_from_the_derivative_of_the_initial_point():
    alg = it.from_step(lambda x, t: x / 2)
    x, J = it.piggyback(alg, 3, initial=np.eye(2) * 4)(jnp.ones(2), jnp.ones(2))
    np.testing.assert_allclose(J, np.eye(2) / 2)
    np.testing.assert_allclose(x, np.ones(2) / 8)
    through = jax.jacobian(lambda t: it.unroll(alg, 3)(4 * t, t))(jnp.ones(2))
    np.testing.assert_allclose(J, through)
    with pytest.raises(cx.errors.InvalidInputError, match=r"initial must be the Jacobian of x0"):
        it.piggyback(alg, 3, initial=np.eye(3))(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_errors_are_estimated(name):
    estimator = ESTIMATORS[name] if name != "unroll" else it.unroll(DESCENT, 30)
    if name == "truncated":
        estimator = it.truncated(DESCENT, 8, tol=1e-8)
    found = jax.jit(estimator.solve)(jnp.zeros(2), T0)
    assert int(found.status) == (Status.MAX_ITERATIONS if name == "unroll" else Status.SOLVED)
    x, J = solution(np.asarray(T0)), derivative(np.asarray(T0))
    probe = np.cos(np.arange(2))
    _, moved = jax.jvp(lambda t: estimator(jnp.zeros(2), t), (T0,), (jnp.asarray(probe),))
    iterate, slope = np.abs(found.value - x).max(), np.abs(moved - J @ probe).max()
    assert iterate <= 3 * found.stats.iterate_error + 1e-12
    assert slope <= 3 * found.stats.derivative_error + 1e-12
    if name == "unroll":
        assert found.stats.iterate_error <= 10 * iterate
        assert found.stats.derivative_error <= 10 * slope
        x, J = it.piggyback(DESCENT, 30).solve(jnp.zeros(2), T0).value
        np.testing.assert_allclose(J @ probe, moved, atol=1e-14)


def test_a_warm_start_takes_fewer_steps_and_has_the_same_derivative():
    implicit = ESTIMATORS["implicit"]
    cold = implicit.solve(jnp.zeros(2), T0)
    warm = implicit.solve(cold.value, T0 * 1.0001)
    assert int(warm.stats.steps) < int(cold.stats.steps) * 0.8
    assert int(implicit.solve(cold.value, T0).stats.steps) <= 2


def test_a_step_beyond_its_bound_is_named():
    alg = it.gradient_descent(lambda x, t: 5 * jnp.sum((x - t) ** 2), 0.3)
    for estimator in (it.unroll(alg, 3000), it.implicit(alg), it.one_step(alg)):
        with pytest.raises(
            cx.errors.NotConvergedError, match=r"step = 0\.3 .*2/L = 0\.2 .*take step < 0\.2"
        ):
            estimator(jnp.zeros(2), jnp.ones(2))
        if estimator is not it.unroll(alg, 3000):
            with pytest.raises(cx.errors.NotConvergedError, match="diverged"):
                jax.grad(lambda t, e=estimator: e(jnp.zeros(2), t).sum())(jnp.ones(2))
        x, J = jax.jit(jax.value_and_grad(lambda t, e=estimator: e(jnp.zeros(2), t).sum()))(
            jnp.ones(2)
        )
        assert not np.isfinite(x)
        assert not np.any(np.isfinite(J))
        assert int(estimator.solve(jnp.zeros(2), jnp.ones(2)).status) == Status.DIVERGED


@pytest.mark.parametrize("size", [-0.1, 0.0, np.nan])
def test_a_step_that_a_function_makes_negative_is_named(size):
    for alg in (
        it.gradient_descent(quadratic, lambda t: size + 0 * t[0]),
        it.forward_backward(quadratic, lambda v, t, step: v, lambda t: size),
    ):
        with pytest.raises(cx.errors.NotConvergedError, match="step is not positive at theta"):
            it.implicit(alg)(jnp.zeros(2), T0)
        x, J = jax.jit(
            jax.value_and_grad(lambda t, alg=alg: it.implicit(alg)(jnp.zeros(2), t).sum())
        )(T0)
        assert np.all(np.isnan(x))
        assert np.all(np.isnan(J))


def test_the_bounds_of_the_other_algorithms():
    def f(x, t):
        return 5 * jnp.sum((x - t) ** 2)

    def clip(v, t, step):
        return jnp.clip(v, -1, 1)

    cases = [
        (it.heavy_ball(f, 0.5, 0.5), r"2\(1 \+ β\)/L = 0\.3"),
        (it.fista(f, soft, 0.5), r"1/L = 0\.1"),
        (it.forward_backward(f, soft, 0.3), r"2/L = 0\.2"),
        (it.chambolle_pock(soft, lambda v, t, s: (v - s * t) / (1 + s / 100), 3 * np.eye(2), 5.0, 5.0),
         r"tau · sigma = 25 .* 1/‖K‖² = 0\.111111"),
    ]  # fmt: skip
    for alg, text in cases:
        with pytest.raises(cx.errors.NotConvergedError, match=text):
            it.implicit(alg, max_steps=2000)(jnp.zeros(2), jnp.ones(2))


def test_too_few_steps():
    few = it.implicit(DESCENT, max_steps=3)
    with pytest.raises(
        cx.errors.NotConvergedError, match=r"tol=1e-10: after 3 steps.*raise the limit"
    ):
        few(jnp.zeros(2), T0)
    x = jax.jit(few)(jnp.zeros(2), T0)
    assert np.all(np.isnan(x))
    found = few.solve(jnp.zeros(2), T0)
    assert int(found.status) == Status.MAX_ITERATIONS
    assert np.all(np.isfinite(found.value))


def test_in_a_batch_a_failed_item_fails_alone():
    alg = it.gradient_descent(lambda x, t: t * x**2 / 2 - x, 0.3)
    implicit = it.implicit(alg, max_steps=2000)
    x, J = jax.jit(jax.vmap(jax.value_and_grad(lambda t: implicit(0.0, t))))(
        jnp.array([1.0, 10.0, 2.0])
    )
    np.testing.assert_allclose(x[::2], [1.0, 0.5], atol=1e-8)
    np.testing.assert_allclose(J[::2], [-1.0, -0.25], atol=1e-8)
    assert np.isnan(x[1])
    assert np.isnan(J[1])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: it.gradient_descent(quadratic, -1.0), "gradient_descent: step=-1.0 must be a positive"),
        (lambda: it.gradient_descent(quadratic, np.nan), "must be a positive number"),
        (lambda: it.gradient_descent(3, 1.0), "smooth must be a function, got int"),
        (lambda: it.heavy_ball(quadratic, 0.1, 1.0), r"beta=1.0 must lie in \[0, 1\)"),
        (lambda: it.admm(soft, soft, np.zeros(3), 1.0), "A must be a matrix"),
        (lambda: it.chambolle_pock(soft, soft, np.zeros(3), 1.0, 1.0), "K must be a matrix"),
        (lambda: it.unroll(DESCENT, 0), "steps=0 must be a whole number of at least 1"),
        (lambda: it.unroll(quadratic, 3), "alg must be an Algorithm"),
        (lambda: it.implicit(DESCENT, tol=0.0), "tol=0.0 must be a positive number"),
        (lambda: it.implicit(DESCENT)(jnp.array([1.0, np.nan]), T0), "x0 holds NaN"),
        (lambda: it.implicit(DESCENT)(jnp.zeros(2), jnp.array([np.inf, 1])), "theta holds NaN or infinity"),
        (lambda: it.implicit(DESCENT)("abc", T0), "x0 must be an array of real numbers, got str"),
        (lambda: it.implicit(DESCENT)(jnp.zeros(2), {"a": "b"}), r"theta\['a'\] must be an array .* got str"),
        (lambda: it.implicit(DESCENT)(jnp.zeros(2) * 1j, T0), "x0 must be an array .* got complex128"),
        (lambda: it.implicit(DESCENT)(jnp.full(2, jnp.nan, jnp.bfloat16), T0), "x0 holds NaN"),
        (lambda: it.implicit(it.gradient_descent(quadratic, jnp.abs))(jnp.zeros(2), T0), r"one number.*\(2,\)"),
        (lambda: it.implicit(DESCENT)(None, T0), "x0 holds no arrays"),
        (lambda: it.piggyback(DESCENT, 3)(jnp.zeros(2), jnp.arange(2)), "no real numbers to differentiate"),
    ],
)  # fmt: skip
def test_bad_input(make, text):
    with pytest.raises(cx.errors.InvalidInputError, match=text):
        make()


def test_shapes_that_do_not_match_are_named():
    kinds = (
        it.implicit(DESCENT),
        it.unroll(DESCENT, 3),
        it.piggyback(DESCENT, 3),
        it.one_step(DESCENT),
    )
    for estimator in (*kinds, jax.jit(kinds[0]), functools.partial(it.check, DESCENT)):
        with pytest.raises(
            cx.errors.InvalidInputError,
            match=r"cannot step from x0 \(float64\[2\]\) with theta \(float64\[3\]\)",
        ):
            estimator(jnp.zeros(2), jnp.ones(3))
    with pytest.raises(
        cx.errors.InvalidInputError, match=r"theta \(\['a'\]: float64\[\]\): KeyError: 'b'"
    ):
        it.implicit(it.from_step(lambda x, t: x / 2 + t["b"]))(1.0, {"a": 1.0})


@pytest.mark.parametrize(
    ("step", "x0", "text"),
    [
        (lambda x, t: x / 2 + t, 0.0, r"keep the shape .* makes float64\[2\] of state, float64\[\]"),
        (lambda x, t: x / 2 + t, jnp.zeros(2, jnp.float32), r"keep the dtype .* theta of one dtype"),
        (lambda x, t: {"a": x["a"] + t}, {"a": jnp.zeros(1)}, r"makes float64\[2\] of state\['a'\]"),
        (lambda x, t: (x, t), jnp.zeros(2), "a state like the one it was given"),
        (lambda x, t: None, jnp.zeros(2), r"it returns PyTreeDef\(None\)"),
    ],
)  # fmt: skip
def test_a_step_that_changes_its_state_is_named(step, x0, text):
    x0 = jax.tree.map(jnp.asarray, x0)
    for estimator in (it.implicit, lambda alg: it.unroll(alg, 3)):
        with pytest.raises(cx.errors.InvalidInputError, match=text):
            estimator(it.from_step(step))(x0, T0)


def test_a_singular_fixed_point_is_refused():
    alg = it.from_step(lambda x, t: x + 0 * t)
    with pytest.raises(cx.errors.SingularError):
        jax.grad(lambda t: it.implicit(alg)(0.0, t))(1.0)
    assert np.isnan(jax.jit(jax.grad(lambda t: it.implicit(alg)(0.0, t)))(1.0))


def test_repeat_calls_compile_nothing():
    compiled = [0]

    def listen(name, duration, **_):
        compiled[0] += name == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)

    def every(scale):
        t = T0 * scale
        it.unroll(DESCENT, 5)(jnp.zeros(2), t)
        it.implicit(DESCENT)(jnp.zeros(2), t)
        it.one_step(DESCENT)(jnp.zeros(2), t)
        it.piggyback(DESCENT, 5)(jnp.zeros(2), t)
        it.implicit(DESCENT).solve(jnp.zeros(2), t)

    every(1.0)
    every(1.5)
    before = compiled[0]
    every(2.0)
    assert compiled[0] == before


def test_conservative_jacobian_sees_the_implicit_node():
    alg = it.from_step(lambda y, a: jnp.maximum(0.0, y / 2 - a))
    J = cx.conservative_jacobian(lambda a: it.implicit(alg)(jnp.zeros(()), a))(0.0)
    np.testing.assert_allclose(np.sort(J.vertices().ravel()), [-2.0, 0.0], atol=1e-12)


@pytest.mark.slow
def test_reverse_over_a_million_steps_in_little_memory():
    program = """
import re, jax, jax.numpy as jnp, conservax as cx
from pathlib import Path
jax.config.update("jax_enable_x64", True)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
scale = jnp.linspace(0.5, 1.0, 100)
alg = cx.iterates.gradient_descent(lambda x, t: (scale * (x - t) ** 2).sum() / 2, 1e-4)
def loss(steps):
    return jax.jit(jax.grad(lambda t: cx.iterates.unroll(alg, steps)(jnp.zeros(100), t).sum()))
loss(1000)(jnp.ones(100)).block_until_ready()
before = peak()
slope = loss(1_000_000)(jnp.ones(100)).block_until_ready()
print("peak", peak() - before, float(abs(slope - 1).max()))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    extra, error = map(float, re.search(r"peak (\S+) (\S+)", run.stdout).groups())
    assert extra < 200
    assert error < 1e-9
