"""Optimisers against their published recursions in NumPy, and as members of optax."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import conservax as cx
from conservax import errors

TREE = {"a": np.array([1.0, -2.0, 0.5]), "b": (np.array([[0.3]]),)}


def gradient(tree):
    """Of Σ |x|^{3/2}·(2/3) + x: something of either sign that depends on x."""
    return jax.tree.map(lambda x: np.sign(x) * np.sqrt(np.abs(x)) + 0.1, tree)


def run(optimiser, steps=25, tree=TREE):
    """The parameters after some steps, in one compiled loop."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)) + 0.1, params)
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, tree)
    carry = (params, optimiser.init(params))
    return jax.jit(lambda c: jax.lax.scan(step, c, None, length=steps)[0])(carry)


def alpha(k):
    return 0.1 / (k + 1) ** 0.75


def assert_close(tree, other):
    # a few units of round-off for each of 25 steps
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), tree, other)


def test_sgd_and_incremental_steps():
    x = y = TREE
    key = jax.random.key(1)
    opt = cx.stochastic.sgd(cx.stochastic.schedules.inverse_power(0.1), key=key, scale=(0.5, 2.0))
    s = float(opt.init(TREE).scale)
    assert 0.5 < s < 2.0
    for k in range(25):
        x = jax.tree.map(lambda p, g, k=k: p - s * alpha(k) * g, x, gradient(x))
        y = jax.tree.map(lambda p, g, k=k: p - alpha(k // 5) * g, y, gradient(y))
    assert_close(run(opt)[0], x)
    assert_close(
        run(cx.stochastic.incremental(cx.stochastic.schedules.inverse_power(0.1), batches=5))[0], y
    )


def test_heavy_ball_is_its_recursion():
    x, y = TREE, jax.tree.map(np.zeros_like, TREE)
    for k in range(25):
        beta = 0.3 / (k + 1) ** 0.25
        y = jax.tree.map(lambda m, g, b=beta: b * g + (1 - b) * m, y, gradient(x))
        x = jax.tree.map(lambda p, m, k=k: p - alpha(k) * m, x, y)
    opt = cx.stochastic.heavy_ball(
        cx.stochastic.schedules.inverse_power(0.1),
        cx.stochastic.schedules.inverse_power(0.3, 0.25),
    )
    params, state = run(opt)
    assert_close(params, x)
    assert_close(state.momentum, y)


def test_inertial_newton_is_its_published_recursion():
    """ψ⁺ = ψ + γ[(1/β − α)θ − ψ/β], θ⁺ = θ + γ[(1/β − α)θ − ψ/β − βg], ψ₀ = (1 − αβ)θ₀."""
    a, b = 0.5, 0.1
    theta, psi = TREE, jax.tree.map(lambda p: (1 - a * b) * p, TREE)
    for k in range(25):
        grads = gradient(theta)
        new = jax.tree.map(
            lambda t, s, g, k=k: t + alpha(k) * ((1 / b - a) * t - s / b - b * g), theta, psi, grads
        )
        psi = jax.tree.map(lambda t, s, k=k: s + alpha(k) * ((1 / b - a) * t - s / b), theta, psi)
        theta = new
    opt = cx.stochastic.inertial_newton(cx.stochastic.schedules.inverse_power(0.1), alpha=a, beta=b)
    params, state = run(opt)
    assert_close(params, theta)
    assert_close(state.drift, jax.tree.map(lambda t, s: (1 / b - a) * t - s / b, theta, psi))


def test_inertial_newton_follows_its_differential_equation():
    """θ̈ + αθ̇ + β∇²f θ̇ + ∇f = 0 for f = θ²/2, integrated in closed form by its matrix exponential."""
    import scipy.linalg

    a, b, h = 0.5, 0.1, 1e-4
    opt = cx.stochastic.inertial_newton(h, alpha=a, beta=b)

    def step(carry, _):
        theta, state = carry
        update, state = opt.update(theta, state, theta)
        return (theta + update, state), None

    theta = jnp.ones(())
    found = jax.jit(lambda c: jax.lax.scan(step, c, None, length=10_000)[0][0])(
        (theta, opt.init(theta))
    )
    # θ̇(0) = −β∇f(θ₀) by the choice of ψ₀
    exact = scipy.linalg.expm(np.array([[0, 1], [-1, -a - b]]) * h * 10_000) @ [1.0, -b]
    assert abs(float(found) - exact[0]) < 5 * h


def test_adagrad_norm_is_its_recursion():
    x, total = TREE, 0.5**2
    for _ in range(25):
        g = gradient(x)
        total += sum(float(np.sum(v**2)) for v in jax.tree.leaves(g))
        x = jax.tree.map(lambda p, v, t=total: p - 0.3 / np.sqrt(t) * v, x, g)
    assert_close(run(cx.stochastic.adagrad_norm(0.3, initial=0.5))[0], x)


def optimisers():
    step = cx.stochastic.schedules.inverse_power(0.05)
    return {
        "sgd": cx.stochastic.sgd(step, key=jax.random.key(0)),
        "incremental": cx.stochastic.incremental(step, batches=3),
        "heavy_ball": cx.stochastic.heavy_ball(step),
        "inertial_newton": cx.stochastic.inertial_newton(step),
        "adagrad_norm": cx.stochastic.adagrad_norm(0.1),
    }


def test_all_compose_with_optax_and_keep_precision():
    for name, own in optimisers().items():
        chained = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-2), own)
        masked = optax.masked(own, {"a": True, "b": False})
        for dtype in ("float32", "bfloat16"):
            params = jax.tree.map(lambda p, d=dtype: jnp.asarray(p, d), TREE)
            for opt in (chained, masked):
                state = opt.init(params)
                updates, state = opt.update(params, state, params)
                kinds = {u.dtype.name for u in jax.tree.leaves(updates)}
                assert kinds == {dtype}, name
                again, _ = opt.update(params, state, params)
                assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(again)), name


def test_a_chain_is_that_of_optax():
    s, own = cx.stochastic, optimisers()["heavy_ball"]
    inner = s.chain(s.clip(0.5), own)
    ours = s.chain(s.weight_decay(0.1, {"a": True, "b": False}), inner, s.clip_by_global_norm(0.2))
    theirs = optax.chain(
        optax.add_decayed_weights(0.1, {"a": True, "b": False}),
        optax.clip(0.5),
        own,
        optax.clip_by_global_norm(0.2),
    )
    jax.tree.map(np.testing.assert_array_equal, run(ours), run(theirs))


def test_states_survive_a_checkpoint():
    for name, opt in optimisers().items():
        params, state = run(opt, 5)
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, state))
        saved = jax.tree.unflatten(structure, pickle.loads(pickle.dumps(leaves)))
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves), name
        grads = gradient(jax.tree.map(np.asarray, params))
        ours, theirs = (opt.update(grads, s, params)[0] for s in (state, saved))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_all_minimise_a_nonsmooth_function():
    """|x₁ − 1| + 2|x₂|, from (0, 1)."""
    fast = cx.stochastic.inertial_newton(cx.stochastic.schedules.inverse_power(0.2, 0.55))
    for name, opt in (optimisers() | {"inertial_newton": fast}).items():

        def step(carry, _, opt=opt):
            w, state = carry
            g = jax.grad(lambda w: jnp.abs(w[0] - 1) + 2 * jnp.abs(w[1]))(w)
            update, state = opt.update(g, state, w)
            return (w + update, state), None

        w = jnp.array([0.0, 1.0])
        w, _ = jax.jit(lambda c, s=step: jax.lax.scan(s, c, None, length=4000)[0])((w, opt.init(w)))
        assert float(jnp.abs(w[0] - 1) + 2 * jnp.abs(w[1])) < 0.05, name


def test_random_starts_move_reals_only():
    params = {"w": jnp.ones(4), "n": jnp.arange(3)}
    moved = cx.stochastic.random_start(params, jax.random.key(0), size=0.1)
    assert np.all(np.abs(moved["w"] - 1) < 0.1)
    assert len(set(np.asarray(moved["w"]).tolist())) == 4
    np.testing.assert_array_equal(moved["n"], np.arange(3))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda s: s.sgd(0.0), "schedule=0.0"),
        (lambda s: s.sgd("fast"), "schedule='fast'"),
        (lambda s: s.sgd(0.1, scale=(1.0, 0.5)), r"scale=\(1.0, 0.5\)"),
        (lambda s: s.incremental(0.1, batches=0), "batches=0"),
        (lambda s: s.heavy_ball(0.1, 1.5), "beta=1.5"),
        (lambda s: s.heavy_ball(-1.0), "alpha=-1.0"),
        (lambda s: s.inertial_newton(0.1, beta=0.0), "beta=0.0"),
        (lambda s: s.inertial_newton(0.1, alpha=-1.0), "alpha=-1.0"),
        (lambda s: s.adagrad_norm(float("nan")), "scale=nan"),
    ],
)
def test_bad_constants_are_named(make, named):
    with pytest.raises(errors.InvalidInputError, match=named):
        make(cx.stochastic)
