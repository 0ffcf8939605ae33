"""The fully connected layer against dense solves in NumPy, and its behaviour where things go wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.equilibrium import MonotoneEquilibrium, Phantom, activations
from conservax.errors import InvalidInputError
from conservax.solution import Status
from equilibrium.dense_oracle import GROUP, JACOBIAN, SIGMA, gradients

IN, SIZE, BATCH, M = 5, 12, 6, 0.6


def layer_of(name, dtype=jnp.float64, **options):
    activation = activations.GroupSoftThreshold(GROUP) if name == "group" else name
    layer = MonotoneEquilibrium(
        IN, SIZE, activation, M, key=jax.random.key(3), dtype=dtype, **options
    )
    # larger than at the start, so that the coupling matters
    return eqx.tree_at(lambda f: (f.A, f.B), layer, (2 * layer.A, 2 * layer.B))


def batch(dtype=jnp.float64):
    one, two = jax.random.split(jax.random.key(4))
    return jax.random.normal(one, (BATCH, IN), dtype), jax.random.normal(two, (BATCH, SIZE), dtype)


def solve_and_pull_back(layer, x, cotangents):
    """z, stats, and the gradients of Σ cotangent·z in the layer and in x, in one compiled call."""
    arrays, rest = eqx.partition(layer, eqx.is_array)

    @jax.jit
    def run(arrays, x, cotangents):
        def loss(arrays, x):
            solution = jax.vmap(eqx.combine(arrays, rest).solve)(x)
            return jnp.sum(solution.value * cotangents), solution

        (_, solution), (of_layer, of_x) = jax.value_and_grad(loss, (0, 1), has_aux=True)(arrays, x)
        return solution, of_layer, of_x

    return run(arrays, x, cotangents)


def dense(name, layer, x, cotangents):
    parts = [np.asarray(getattr(layer, k), np.float64) for k in "ABUb"]
    items = [
        gradients(name, M, *parts, np.asarray(a, np.float64), np.asarray(g, np.float64))
        for a, g in zip(x, cotangents, strict=True)
    ]
    z = np.stack([item[0] for item in items])
    total = {k: sum(item[1][k] for item in items) for k in "ABUb"}
    return z, total, np.stack([item[1]["x"] for item in items])


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [
        *((name, "peaceman_rachford", jnp.float64) for name in SIGMA),
        *((name, "forward_backward", jnp.float64) for name in ("relu", "tanh", "soft_threshold", "group")),
        ("relu", "peaceman_rachford", jnp.float32),
        ("tanh", "forward_backward", jnp.float32),
    ],
)  # fmt: skip
def test_value_and_gradients_meet_a_dense_solve(name, method, dtype):
    layer, (x, cotangents) = layer_of(name, dtype, method=method, max_steps=5000), batch(dtype)
    solution, of_layer, of_x = solve_and_pull_back(layer, x, cotangents)
    z, exact, exact_x = dense(name, layer, x, cotangents)
    tolerance = 1e-10 if dtype == jnp.float64 else 1e-5
    assert solution.value.dtype == dtype
    assert np.all(solution.status == Status.SOLVED)
    assert relative(solution.value, z) < tolerance
    # the bound on the error is one
    distance = np.linalg.norm(solution.value - z, axis=1)
    assert np.all(distance <= solution.stats.error + 4e-6 * np.finfo(dtype).eps ** 0.5)
    for k in "ABUb":
        assert relative(getattr(of_layer, k), exact[k]) < tolerance, k
    assert relative(of_x, exact_x) < tolerance


@pytest.mark.parametrize("name", ["relu", "soft_threshold", "tanh", "group"])
def test_the_proximal_operator_minimises_and_its_jacobian_is_the_resolvent(name):
    """prox_{αf} at u = z + α(a − z) is σ(a) = z, and there its Jacobian is J((1 − α)J + αI)⁻¹."""
    activation = layer_of(name).activation
    a = jax.random.normal(jax.random.key(0), (SIZE,))
    for alpha in (0.25, 1.0, 3.0):
        z = activation(a)
        u = z + alpha * (a - z)
        found, jacobian = jax.jit(
            lambda u, alpha=alpha: (
                activation.prox(u, jnp.asarray(alpha)),
                jax.jacobian(lambda v: activation.prox(v, jnp.asarray(alpha)))(u),
            )
        )(u)
        np.testing.assert_allclose(found, SIGMA[name](np.asarray(a)), atol=1e-12)
        J = JACOBIAN[name](np.asarray(a))
        resolvent = J @ np.linalg.inv((1 - alpha) * J + alpha * np.eye(SIZE))
        np.testing.assert_allclose(jacobian, resolvent, atol=1e-11)
        slopes = activation.slopes(a, "jax")
        columns = jax.vmap(lambda t, s=slopes, k=alpha: s.resolvent(t, jnp.asarray(k)), 1, 1)
        np.testing.assert_allclose(columns(jnp.eye(SIZE)), resolvent, atol=1e-11)


def test_softmax_slopes():
    a = jax.random.normal(jax.random.key(0), (SIZE,))
    J, slopes = JACOBIAN["softmax"](np.asarray(a)), activations.Softmax().slopes(a, "jax")
    for alpha in (0.3, 1.0, 2.0):
        columns = jax.vmap(lambda t, k=alpha: slopes.resolvent(t, jnp.asarray(k)), 1, 1)
        expected = J @ np.linalg.inv((1 - alpha) * J + alpha * np.eye(SIZE))
        np.testing.assert_allclose(columns(jnp.eye(SIZE)), expected, atol=1e-12)


def test_forward_mode_and_second_derivatives_meet_differences():
    layer, (x, _) = layer_of("tanh"), batch()

    def value(x):
        return jnp.sum(jnp.sin(layer(x)))

    v = jnp.ones(IN)
    gradient = jax.jit(jax.grad(value))
    forward = jax.jit(lambda x: jax.jvp(value, (x,), (v,))[1])
    hessian_vector = jax.jit(lambda x: jax.jvp(jax.grad(value), (x,), (v,))[1])
    h = 1e-5
    np.testing.assert_allclose(forward(x[0]), gradient(x[0]) @ v, rtol=1e-10)
    differences = (gradient(x[0] + h * v) - gradient(x[0] - h * v)) / (2 * h)
    np.testing.assert_allclose(hessian_vector(x[0]), differences, rtol=1e-7, atol=1e-9)


def test_an_item_that_fails_fails_alone():
    layer = layer_of("relu", max_steps=60, memory=0)
    x, cotangents = batch()
    x = x.at[1].set(jnp.nan)
    solution, _, of_x = solve_and_pull_back(layer, x, cotangents.at[1].set(0.0))
    good = np.arange(BATCH) != 1
    assert solution.status[1] == Status.DIVERGED
    assert np.all(np.isnan(solution.value[1]))
    assert np.all(solution.status[good] == Status.SOLVED)
    # the failed item is masked by the rule: a loss must not look at it, and then its gradient is 0
    assert np.all(np.isfinite(of_x[good]))


def test_masked_before_the_loss_a_failed_item_spoils_nothing():
    layer, (x, cotangents) = layer_of("relu", max_steps=3), batch()
    arrays, rest = eqx.partition(layer, eqx.is_array)

    @jax.jit
    def run(arrays, keep):
        def loss(arrays):
            z = jax.vmap(eqx.combine(arrays, rest))(x)
            return jnp.sum(jnp.where(keep[:, None], z, 0.0) * cotangents), z

        return jax.grad(loss, has_aux=True)(arrays)

    nothing, z = run(arrays, jnp.zeros(BATCH, bool))
    assert np.all(np.isnan(z))  # three steps do not do
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(nothing))
    everything, _ = run(arrays, jnp.ones(BATCH, bool))
    assert np.all(np.isnan(everything.b))


def test_selections_at_a_kink():
    """z = relu(x) of one unit at x = 0: each weight gives its slope; in float32 too."""
    for dtype in (jnp.float32, jnp.float64):
        for selection, slope in (("jax", 0), ("lower", 0), ("upper", 1), (0.5, 0.5)):
            layer = MonotoneEquilibrium(
                1, 1, selection=selection, key=jax.random.key(0), dtype=dtype
            )
            layer = eqx.tree_at(
                lambda f: (f.A, f.U, f.b),
                layer,
                (jnp.ones((1, 1), dtype), jnp.ones((1, 1), dtype), jnp.zeros(1, dtype)),
            )
            # z = relu(−z + x), so dz/dx = q/(1 + q)
            found = jax.jit(jax.jacrev(layer))(jnp.zeros(1, dtype))
            np.testing.assert_allclose(found, [[slope / (1 + slope)]], atol=1e-6)


def test_the_certificate_bounds_what_it_says():
    layer, (x, _) = layer_of("relu"), batch()
    certificate = layer.certificate
    W, U = np.asarray(layer.W), np.asarray(layer.U)
    assert certificate.verdict == cx.Verdict.PROVEN
    smallest = min(
        np.linalg.svd(np.eye(SIZE) - np.diag(q) @ W, compute_uv=False)[-1]
        for q in np.random.default_rng(0).integers(0, 2, (300, SIZE))
    )
    assert 0 < certificate.margin <= smallest
    np.testing.assert_allclose(certificate.lipschitz, np.linalg.norm(U, 2) / M, rtol=1e-4)
    z = jax.jit(jax.vmap(layer))(x)
    for i in range(BATCH - 1):
        moved = np.linalg.norm(z[i] - z[i + 1]) / np.linalg.norm(x[i] - x[i + 1])
        assert moved <= certificate.lipschitz


def test_check_agrees_with_the_certificate():
    layer, (x, _) = layer_of("relu"), batch()
    report = layer.check(x[0])
    assert report.verdict == cx.Verdict.PROVEN
    assert report.sigma_min >= layer.certificate.margin


def test_a_warm_start_saves_iterations_and_moves_nothing():
    layer, (x, _) = layer_of("relu"), batch()
    cold = eqx.filter_jit(layer.solve)(x[0])
    warm = jax.jit(lambda x, z: layer.solve(x, init=z))(x[0] + 1e-6, cold.value)
    again = eqx.filter_jit(layer.solve)(x[0] + 1e-6)
    assert warm.stats.iterations < again.stats.iterations
    np.testing.assert_allclose(warm.value, again.value, atol=1e-11)


def test_one_step_phantom_and_unrolled_gradients():
    """One step leaves (I − JW)⁻¹ out; phantom steps come nearer; unrolled to the end is implicit."""
    layer, (x, cotangents) = layer_of("relu"), batch()
    exact = solve_and_pull_back(layer, x, cotangents)[2]
    W, U = np.asarray(layer.W), np.asarray(layer.U)

    def error(backward, **options):
        other = layer_of("relu", backward=backward, **options)
        solution, _, of_x = solve_and_pull_back(other, x, cotangents)
        return relative(of_x, exact), of_x, np.asarray(solution.value)

    one, of_x, z = error("one_step")
    active = (z @ W.T + np.asarray(x) @ U.T + np.asarray(layer.b)) > 0
    np.testing.assert_allclose(of_x, (active * np.asarray(cotangents)) @ U, atol=1e-12)
    many = error(Phantom(60, 0.2))[0]
    whole = error("unrolled", max_steps=120)[0]
    assert many < one / 10
    assert whole < 1e-8


class Ridge:
    """f(z) = ½‖z‖²: σ(v) = v/2."""

    def value(self, z):
        return 0.5 * jnp.sum(z * z)

    def prox(self, v, alpha):
        return v / (1 + alpha)


class Cubic:
    def value(self, z):
        return jnp.sum(z)

    def prox(self, v, alpha):
        return v**3


def test_a_users_own_penalty():
    layer, (x, cotangents) = layer_of(Ridge()), batch()
    solution, of_layer, _ = solve_and_pull_back(layer, x, cotangents)
    W, c = np.asarray(layer.W), np.asarray(x @ layer.U.T + layer.b)
    inverse = np.linalg.inv(2 * np.eye(SIZE) - W)
    np.testing.assert_allclose(solution.value, c @ inverse.T, atol=1e-11)
    np.testing.assert_allclose(of_layer.b, (cotangents @ inverse).sum(0), rtol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k: MonotoneEquilibrium(2, 3, m=0.0, key=k), "m=0.0 must be positive"),
        (lambda k: MonotoneEquilibrium(2, 3, m=float("nan"), key=k), "must be positive"),
        (lambda k: MonotoneEquilibrium(0, 3, key=k), "in_size=0"),
        (lambda k: MonotoneEquilibrium(2, 3, "gelu", key=k), "'gelu' is not known"),
        (lambda k: MonotoneEquilibrium(2, 3, jax.nn.gelu, key=k), "'gelu' is not known"),
        (lambda k: MonotoneEquilibrium(2, 3, Cubic(), key=k), "Cubic is no proximal operator"),
        (lambda k: MonotoneEquilibrium(2, 3, "group_soft_threshold", key=k), "GroupSoftThreshold"),
        (lambda k: MonotoneEquilibrium(2, 3, activations.GroupSoftThreshold(2), key=k), "groups of 2"),
        (lambda k: activations.SoftThreshold(-1.0), "threshold = -1.0 must be positive"),
        (lambda k: MonotoneEquilibrium(2, 3, method="newton", key=k), "method='newton'"),
        (lambda k: MonotoneEquilibrium(2, 3, alpha=-1.0, key=k), "alpha=-1.0"),
        (lambda k: MonotoneEquilibrium(2, 3, "softmax", alpha=0.5, key=k), "α = 1 alone"),
        (lambda k: MonotoneEquilibrium(2, 3, backward="magic", key=k), "backward='magic'"),
        (lambda k: MonotoneEquilibrium(2, 3, tol=0.0, key=k), "tol=0.0"),
        (lambda k: MonotoneEquilibrium(2, 3, key=k)(jnp.ones(3)), "x has shape"),
        (lambda k: MonotoneEquilibrium(2, 3, key=k)(jnp.array([1.0, jnp.nan])), "x holds NaN"),
        (lambda k: MonotoneEquilibrium(2, 3, key=k)(jnp.ones(2), init=jnp.ones(2)), "init has shape"),
    ],
)  # fmt: skip
def test_what_is_refused(build, message):
    with pytest.raises(InvalidInputError, match=message):
        build(jax.random.key(0))
