"""A wrong root has no derivative, and what no loss looks at adds nothing to its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax import errors
from conservax.invertibility import Certificate, Verdict

A = np.array([[2.0, 0.3], [-0.4, 1.5]])


def quartet(**options):
    """y² = t by a solver that errs at t = 4."""
    return cx.custom_root(lambda y, t: y**2 - t, **options)(
        lambda init, t: jnp.where(t == 4, 4.0, jnp.sqrt(t))
    )


def test_a_wrong_root_under_jit_is_nan():
    wrong = quartet()
    fun = jax.jit(jax.vmap(jax.grad(lambda t: wrong(None, t))))
    np.testing.assert_allclose(fun(jnp.array([4.0, 9.0])), [np.nan, 1 / 6])
    with pytest.raises(errors.NotARootError, match="terms of size"):
        jax.grad(lambda t: wrong(None, t))(4.0)


def test_a_wrong_root_has_no_derivative_of_any_order():
    """y² − t with a solver that returns t: right at 1, wrong at 4."""
    start = jnp.zeros(())
    wrong = cx.custom_root(lambda y, t: y**2 - t)(lambda y, t: t)

    def derivatives(t):
        def value(t):
            return wrong(start, t)

        first, ways = jax.grad(value), (jax.jacfwd, jax.jacrev)
        second = [outer(inner(value))(t) for outer in ways for inner in ways]
        return jnp.stack([first(t), *second, jax.grad(jax.grad(first))(t)])

    found = jax.jit(jax.vmap(derivatives))(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(found[0], [0.5, *[-0.25] * 4, 0.375], atol=1e-12)
    assert np.all(np.isnan(found[1]))


def test_on_failure_says_what_a_wrong_root_gives():
    def slope(on_failure):
        return jax.grad(functools.partial(quartet(on_failure=on_failure), None))

    nan, keep = slope("nan"), slope("keep")
    assert np.isnan(nan(4.0))  # and no error
    assert keep(4.0) == jax.jit(keep)(4.0) == 0.125
    assert nan(9.0) == pytest.approx(1 / 6)
    with pytest.raises(errors.InvalidInputError, match="raise, nan, keep"):
        quartet(on_failure="ignore")


def test_the_monitor_says_so():
    wrong = quartet(on_failure="nan")
    (seen,) = cx.monitor(lambda t: wrong(None, t))(0, 4.0)
    assert seen.residual == 12.0
    assert seen.fallback.startswith("NotARootError")


@cx.custom_root(lambda y, W, x: W @ y - jnp.log(x))
def logs(init, W, x):
    """W y = log x: fails where x is not positive."""
    y = jnp.linalg.solve(W, jnp.log(x))
    return jnp.where(jnp.all(jnp.isfinite(y)), y, jnp.nan)


BATCH = jnp.array([[1.0, 2.0], [-1.0, 2.0], [np.nan, 1.0], [3.0, 0.5]])
GOOD = np.array([0, 3])


def masked_loss(W, x):
    y = jax.vmap(lambda x: logs(None, W, x))(x)
    ok = jnp.all(jnp.isfinite(y), axis=1)
    return jnp.sum(jnp.sin(jnp.where(ok[:, None], y, 0.0)))


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: jax.grad(f, argnums=(0, 1)),
        lambda f: jax.jit(jax.grad(f, argnums=(0, 1))),
        lambda f: jax.jit(jax.jacfwd(f, argnums=(0, 1))),
        lambda f: jax.jit(jax.jacrev(lambda W, x: jnp.sum(jax.grad(f)(W, x) * A), argnums=(0, 1))),
        lambda f: jax.jit(jax.jacfwd(lambda W, x: jnp.sum(jax.grad(f)(W, x) * A), argnums=(0, 1))),
    ],
    ids=["grad", "jit grad", "jacfwd", "grad of grad", "jacfwd of grad"],
)
def test_masked_items_add_nothing(derivative):
    """The gradient in the shared W, and in the data, is that of the good items alone."""
    of_W, of_x = derivative(masked_loss)(jnp.asarray(A), BATCH)
    only_W, only_x = derivative(masked_loss)(jnp.asarray(A), BATCH[GOOD])
    np.testing.assert_allclose(of_W, only_W, rtol=1e-9)
    np.testing.assert_allclose(of_x[GOOD], only_x, rtol=1e-9)
    assert np.all(of_x[1:3] == 0)


def test_what_is_not_masked_is_nan_in_every_entry():
    def loss(W, x):
        return jnp.sum(jax.vmap(lambda x: logs(None, W, x))(x)[:2])

    of_W, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(A), BATCH)
    assert np.all(np.isnan(of_W))
    assert np.all(np.isfinite(of_x[0]))
    assert np.all(np.isnan(of_x[1]))
    assert np.all(of_x[2:] == 0)
    forward = jax.jit(jax.jacfwd(loss, argnums=1))(jnp.asarray(A), BATCH)
    np.testing.assert_allclose(forward, of_x)


def test_a_failed_item_is_nan_though_the_equation_does_not_feel_it():
    """relu at a number put in for NaN might say 0, which would be a plausible number."""
    solve = cx.custom_root(lambda y, t: y - jax.nn.relu(t - 2 * y))(
        lambda init, t: jnp.where(t > 0, jnp.nan, jnp.zeros_like(t))
    )
    for derivative in (jax.grad, jax.jacfwd):
        slopes = jax.jit(jax.vmap(derivative(lambda t: solve(None, t))))(jnp.array([0.1, -1.0]))
        np.testing.assert_array_equal(slopes, [np.nan, 0.0])


def test_a_singular_item_fails_alone():
    """w y = t at w = 0 and t = 0: every y solves it."""
    solve = cx.custom_root(lambda y, w, t: w * y - t)(
        lambda init, w, t: jnp.where(w == 0, 1.0, t / jnp.where(w == 0, 1.0, w))
    )

    def loss(s, w, keep):
        y = jax.vmap(lambda w: solve(None, w, s * w**2))(w)
        return jnp.sum(jnp.where(keep, y, 0.0))

    w = jnp.array([2.0, 0.0])
    slope = jax.jit(jax.grad(loss))
    assert slope(3.0, w, jnp.array([True, False])) == pytest.approx(2.0)  # y = s w
    assert np.isnan(slope(3.0, w, jnp.array([True, True])))


def test_missing_data_that_the_equation_masks_is_no_failure():
    mean = cx.custom_root(lambda y, x: jnp.sum(jnp.where(jnp.isnan(x), 0.0, y - x)))(
        lambda init, x: jnp.nanmean(x)
    )
    slopes = jax.jit(jax.grad(lambda x: mean(None, x)))(jnp.array([1.0, np.nan, 3.0]))
    np.testing.assert_allclose(slopes, [0.5, 0.0, 0.5])


def test_infinite_parameters_are_data():
    clipped = cx.custom_root(lambda y, t, u: y - jnp.clip(t, 0.0, u))(
        lambda init, t, u: jnp.clip(t, 0.0, u)
    )
    assert jax.jit(jax.grad(lambda t: clipped(None, t, jnp.inf)))(2.0) == 1.0


def test_a_weakly_typed_answer_takes_the_precision_of_the_parameters():
    step = cx.custom_root(lambda y, t: y - jax.lax.stop_gradient(jnp.where(t > 1, 1.0, 0.0)) * t)(
        lambda init, t: jnp.where(t > 1, 1.0, 0.0)
    )
    value, slope = jax.value_and_grad(lambda t: step(None, t))(jnp.float32(1.0))
    assert (value.dtype, slope.dtype) == (jnp.float32, jnp.float32)
    assert (value, slope) == (0.0, 0.0)


def proven(margin):
    return Certificate(Verdict.PROVEN, "by construction", "it says so.", margin, margin, None)


def test_a_layer_brings_its_own_certificate():
    """y = x + W y/2 …: ‖W‖ ≤ 1 by construction, so that no matrix is formed."""
    calls = []

    def certificate(sol, W, x):
        assert isinstance(np.asarray(sol), np.ndarray)
        calls.append((np.shape(sol), np.shape(W), np.shape(x)))
        return proven(1 - float(np.linalg.norm(W, 2)) / 2)

    @cx.custom_fixed_point(lambda y, W, x: x + jax.nn.relu(W @ y) / 2, certificate=certificate)
    def layer(init, W, x):
        return jax.lax.fori_loop(0, 80, lambda i, y: x + jax.nn.relu(W @ y) / 2, x)

    W, x = np.eye(2), jnp.array([1.0, 0.0])
    y = layer(None, W, x)
    report = layer.check(y, W, x)
    assert (report.verdict, report.method) == (Verdict.PROVEN, "by construction")
    assert report.margin == 0.5
    assert report.form is None
    assert [k.operation for k in report.kinks] == ["relu"]
    assert report.clarke_exact
    assert calls == [((2,), (2, 2), (2,))]
    assert "it says so" in str(report)

    # within another equation each execution has its own, and the joint system decides
    def outer(z, W, x):
        s = jax.vmap(lambda x: layer(None, W, x))(jnp.stack([x, 2 * x]))
        t = jax.lax.map(lambda x: layer(None, W / 2, x), jnp.stack([x, 2 * x]))
        return z - 0.1 * jnp.sum(s) - 0.1 * jnp.sum(t) - 0.1 * jnp.sum(layer(None, W, x * z))

    z = 1.0 / (1 - 0.2) * (0.1 * 2 * 3 + 0.1 * 3 * 4 / 3)
    calls.clear()
    inner = cx.check(outer, z, W, x)
    assert inner.verdict == Verdict.PROVEN
    assert [(c.method, c.margin) for _, c in inner.solves] == [
        ("by construction", m) for m in (0.5, 0.75, 0.75, 0.5)
    ]
    assert len(calls) == 5
    seen = cx.monitor(lambda x: outer(z, W, x))(0, x)
    assert [o.margin for o in seen] == [0.5, 0.75, 0.75, 0.5]


def test_a_certificate_that_proves_nothing_leaves_the_matter_to_the_calculus():
    unknown = Certificate(Verdict.UNKNOWN, "none", "it does not know.", None, 1.0, None)
    solve = cx.custom_root(lambda y, t: y - 3 * jax.nn.relu(y) + t, certificate=lambda *a: unknown)(
        lambda init, t: t / 2
    )
    assert solve.check(0.0, 0.0).verdict == Verdict.REFUTED


def test_a_call_without_the_initial_point_says_so():
    fixed = cx.custom_root(lambda y, t: y - t)(lambda init, t: t)
    spread = cx.custom_root(lambda y, t: y - t)(lambda init, *args: args[0] if args else init)
    for solve in (fixed, spread):
        with pytest.raises(errors.InvalidInputError, match=r"solver\(None, theta\)"):
            solve(2.0)
        assert solve(None, 2.0) == 2.0
