"""On every algorithm, at points without active kinks: the four estimators and an oracle agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx

it = cx.iterates
RNG = np.random.default_rng(7)
X = RNG.normal(size=(30, 6))
Y = X @ np.array([1.0, -2.0, 0.0, 0.0, 1.5, 0.0]) + 0.1 * RNG.normal(size=30)
H = X.T @ X / 30
L = float(np.linalg.eigvalsh(H)[-1])
DIFFERENCES = np.diff(np.eye(6), axis=0)


def ridge(x, t):
    return jnp.sum((X @ x - Y) ** 2) / 60 + t[0] * jnp.sum(x**2) / 2 + 0.1 * t[1] * jnp.sum(x)


def squares(x, t):
    return jnp.sum((X @ x - Y) ** 2) / 60 + t[1] * jnp.sum(x**2) / 2


def soft(v, t, step):
    return cx.proximal.prox_lasso(v, t[0], step)


def resolvent(v, t, step):
    """The proximal operator of ``squares``."""
    return jnp.linalg.solve(jnp.eye(6) * (1 + step * t[1]) + step * H, v + step * (X.T @ Y) / 30)


def analysis(v, t, rho):
    """argmin squares(x) + ρ/2 ‖D x − v‖², D the differences."""
    D = DIFFERENCES
    return jnp.linalg.solve(H + t[1] * jnp.eye(6) + rho * D.T @ D, X.T @ Y / 30 + rho * D.T @ v)


def clip(v, t, step):
    return jnp.clip(v, -t[0], t[0])


def primal(v, t, step):
    return resolvent(v, t, step)


def bregman(t):
    """The dual of entropic transport has a unique plan: θ is (cost, a, b, ε) made from two numbers."""
    cost = (jnp.arange(4.0)[:, None] * t[0] - jnp.arange(3.0)) ** 2
    a = jax.nn.softmax(jnp.arange(4.0) * t[1])
    return cost, a, jnp.array([0.2, 0.3, 0.5]), 1.0 + t[0] ** 2


T = np.array([0.3, 0.5])
CASES = {
    "gradient_descent": (it.gradient_descent(ridge, 1 / L), 200),
    "heavy_ball": (it.heavy_ball(ridge, 1 / L, 0.3), 200),
    "forward_backward": (it.forward_backward(squares, soft, 1 / L), 200),
    "fista": (it.fista(squares, soft, 1 / (L + 0.5)), 600),
    "douglas_rachford": (it.douglas_rachford(resolvent, soft, 1.0), 300),
    "admm": (it.admm(analysis, soft, DIFFERENCES, 1.0), 400),
    "chambolle_pock": (it.chambolle_pock(primal, clip, np.eye(6), 0.9, 0.9), 300),
    "newton": (it.newton(ridge), 12),
    "from_step": (it.from_step(lambda x, t: x - ridge_slope(x, t) / L), 200),
}
ridge_slope = jax.grad(ridge)


def closed_form(name, t):
    """The solution by linear algebra on its support, another way than any algorithm."""
    t = np.asarray(t)
    if name in ("gradient_descent", "heavy_ball", "newton", "from_step"):
        return np.linalg.solve(H + t[0] * np.eye(6), X.T @ Y / 30 - 0.1 * t[1])
    Hs = H + t[1] * np.eye(6)
    c = X.T @ Y / 30
    if name == "admm":  # D x = z: blocks of equal entries
        import itertools

        best = None
        for signs in itertools.product((-1, 0, 1), repeat=5):
            zero = [i for i in range(5) if signs[i] == 0]
            D0 = DIFFERENCES[zero]
            K = np.block([[Hs, D0.T], [D0, np.zeros((len(zero), len(zero)))]])
            rhs = np.concatenate([c - t[0] * DIFFERENCES.T @ np.array(signs), np.zeros(len(zero))])
            x = np.linalg.solve(K, rhs)[:6]
            value = x @ Hs @ x / 2 - c @ x + t[0] * np.abs(DIFFERENCES @ x).sum()
            if best is None or value < best[0]:
                best = value, x
        return best[1]
    x = np.zeros(6)
    for _ in range(4000):  # coordinate descent
        for i in range(6):
            r = c[i] - Hs[i] @ x + Hs[i, i] * x[i]
            x[i] = np.sign(r) * max(abs(r) - t[0], 0) / Hs[i, i]
    return x


def difference(name, t, h=1e-5):
    moves = np.eye(2) * h
    return np.stack(
        [(closed_form(name, t + m) - closed_form(name, t - m)) / (2 * h) for m in moves], axis=-1
    )


@pytest.mark.parametrize("name", CASES)
def test_unrolled_piggyback_and_implicit_agree_with_each_other_and_with_the_oracle(name):
    alg, steps = CASES[name]
    x0, t = jnp.zeros(6), jnp.asarray(T)
    x, J = it.piggyback(alg, steps)(x0, t)
    implicit, unrolled = it.implicit(alg, tol=1e-13), it.unroll(alg, steps)
    found, pullback = jax.vjp(functools.partial(implicit, x0), t)
    reverse = jax.vmap(lambda c: pullback(c)[0])(jnp.eye(6))
    forward = jax.jacfwd(unrolled, argnums=1)(x0, t)
    np.testing.assert_allclose(found, closed_form(name, T), atol=1e-9)
    np.testing.assert_allclose(x, found, atol=1e-9)
    np.testing.assert_allclose(J, reverse, atol=1e-8)
    np.testing.assert_allclose(forward, J, atol=1e-10)
    np.testing.assert_allclose(J, difference(name, T), atol=1e-6)
    if name == "newton":
        np.testing.assert_allclose(jax.jacfwd(it.one_step(alg), argnums=1)(x0, t), J, atol=1e-8)


@pytest.mark.parametrize("name", ["fista", "admm"])
def test_reverse_mode_is_forward_mode(name):
    alg, steps = CASES[name]
    x0, t, c = jnp.zeros(6), jnp.asarray(T), jnp.arange(6.0)
    for estimator in (it.unroll(alg, steps), it.truncated(alg, steps, tol=1e-13)):
        _, pullback = jax.vjp(functools.partial(estimator, x0), t)
        _, J = it.piggyback(alg, steps)(x0, t)
        np.testing.assert_allclose(pullback(c)[0], c @ J, atol=1e-8)


def test_sinkhorn():
    alg, t = it.sinkhorn(), jnp.array([0.7, 0.4])

    def through(estimator):
        return jax.jacfwd(lambda t: estimator(None, bregman(t)))(t)

    implicit = it.implicit(alg, tol=1e-14)
    J = through(implicit)
    np.testing.assert_allclose(through(it.unroll(alg, 200)), J, atol=1e-10)
    h = 1e-5
    for i, move in enumerate(np.eye(2) * h):
        slope = (implicit(None, bregman(t + move)) - implicit(None, bregman(t - move))) / (2 * h)
        np.testing.assert_allclose(J[..., i], slope, atol=1e-8)
    x, K = it.piggyback(alg, 200)(None, bregman(t))
    plan = np.asarray(x)
    np.testing.assert_allclose(plan.sum(0), bregman(t)[2], atol=1e-12)
    np.testing.assert_allclose(plan.sum(1), bregman(t)[1], atol=1e-12)
    reverse = jax.jacrev(lambda c: implicit(None, (c, *bregman(t)[1:])))(bregman(t)[0])
    np.testing.assert_allclose(K[0], reverse, atol=1e-9)
