"""Layers inside programs: what check, monitor and the calculus make of them; certified radii."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import conservax as cx
from conservax.equilibrium import MonotoneEquilibrium, certified_radius


def made(size=4, dtype=jnp.float64):
    return MonotoneEquilibrium(2, size, m=0.8, key=jax.random.key(0), dtype=dtype)


def test_a_loss_with_two_layers_is_proven_and_names_each():
    first = made()
    second = MonotoneEquilibrium(4, 3, key=jax.random.key(1), dtype=jnp.float64)

    def loss(x):
        return jnp.sum(second(first(x)) ** 2)

    x = jnp.array([0.4, -0.3])
    report = cx.check(lambda v, x: v - loss(x), loss(x), x)
    assert report.verdict == cx.Verdict.PROVEN
    assert [str(c.verdict) for _, c in report.solves] == ["PROVEN"] * 2
    assert all("by construction" in c.method for _, c in report.solves)
    # kinks and solves are told where the layers were called: here
    assert {place.short.split(":")[0] for place, _ in report.solves} == {"test_nodes.py"}


def test_the_calculus_sees_through_a_layer():
    """z = relu(−z + x) is relu(x)/2: its set at 0 is {0, ½}."""
    layer = MonotoneEquilibrium(1, 1, key=jax.random.key(0), dtype=jnp.float64)
    one = jnp.ones((1, 1))
    layer = eqx.tree_at(lambda f: (f.A, f.U, f.b), layer, (one, one, jnp.zeros(1)))
    J = cx.conservative_jacobian(lambda x: layer(x)[0])(jnp.zeros(1))
    np.testing.assert_allclose(np.sort(J.vertices().ravel()), [0, 0.5], atol=1e-12)
    # and through an equation around it: y = 2 z(y) − 1 has slopes 1 and 0 of y − relu(y) at y = 0
    report = cx.check(lambda y, p: y - 2 * layer(y) - p, jnp.zeros(1), jnp.zeros(1))
    assert report.verdict == cx.Verdict.REFUTED


def test_what_the_unknown_does_not_move_is_proven_without_a_matrix_of_the_layers():
    """v − ‖z(x)‖² has ∂F/∂v = 1, whatever the kinks of z: here 20,000 unknowns, and one kink at 0."""
    layer = made(100)
    x = 0.1 * jax.random.normal(jax.random.key(5), (200, 2))

    def loss(x):
        return jnp.sum(jax.vmap(layer)(x) ** 2) + jax.nn.relu(x[0, 0] - 1.0)

    x = x.at[0, 0].set(1.0)
    value = jax.jit(loss)(x)
    report = cx.check(lambda v, x: v - loss(x), value, x, rtol=1e-9)
    assert (report.verdict, report.sigma_min) == (cx.Verdict.PROVEN, 1.0)
    assert len(report.solves) == 1
    assert {c.verdict for _, c in report.solves} == {cx.Verdict.PROVEN}
    assert [(kink.operation, kink.distance) for kink in report.kinks] == [("relu", 0.0)]


def test_a_verdict_against_a_loss_keeps_its_witness():
    """0·v + ‖z(x)‖² − ‖z(0)‖²: ∂F/∂v = 0, although every layer is fine."""
    layer = made()
    x = jnp.array([0.4, -0.3])
    target = jnp.sum(layer(x) ** 2)
    report = cx.check(lambda v, x: 0 * v + jnp.sum(layer(x) ** 2) - target, jnp.ones(()), x)
    assert report.verdict == cx.Verdict.REFUTED
    assert report.recheck()[0] == 0
    assert [c.verdict for _, c in report.solves] == [cx.Verdict.PROVEN]


def test_the_monitor_reads_the_certificate():
    layer = made()
    watch = cx.monitor(lambda layer, x: jnp.sum(layer(x) ** 2))
    (seen,) = watch(0, layer, jnp.array([0.4, -0.3]))
    assert seen.verdict == cx.Verdict.PROVEN
    assert seen.fallback is None


def test_the_adjoint_is_the_gradient_in_the_bias():
    layer, x = made(), jnp.array([0.4, -0.3])
    cotangent = jnp.array([1.0, -2.0, 0.5, 0.3])
    solution = eqx.filter_jit(layer.adjoint)(x, cotangent)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda f: jnp.vdot(cotangent, f(x))))(layer)
    np.testing.assert_allclose(solution.value, gradient.b, atol=1e-12)
    assert solution.status == 0
    assert solution.stats.iterations > 0


def test_no_input_within_the_radius_changes_the_class():
    layer = made()
    head = jax.random.normal(jax.random.key(3), (3, 4))
    L = layer.certificate.lipschitz
    x = jax.random.normal(jax.random.key(4), (20, 2))

    @jax.jit
    def run(x):
        return jax.vmap(lambda x: certified_radius(head @ layer(x), head, L))(x)

    labels, radii = run(x)
    assert np.all(radii >= 0)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    for share in (0.5, 0.999):
        near = x[:, None] + share * radii[:, None, None] * ring
        moved, _ = run(near.reshape(-1, 2))
        assert np.all(np.asarray(moved).reshape(20, 16) == labels[:, None])


def test_the_radius_of_linear_logits_is_the_distance_to_the_boundary():
    head = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    x = jnp.array([2.0, 0.5])
    label, radius = certified_radius(head @ x, head, 1.0)
    assert label == 0
    np.testing.assert_allclose(radius, 1.5 / np.sqrt(2))
    assert certified_radius(head @ x, head, 1.0, error=10.0)[1] == 0
    assert certified_radius(jnp.array([1.0, 1.0]), jnp.ones((2, 2)), 1.0)[1] == 0
    assert certified_radius(jnp.array([jnp.nan, 1.0]), jnp.eye(2), 1.0)[1] == 0
