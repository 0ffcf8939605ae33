"""Flows of fields with kinks: closed forms across crossings, finite differences, every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.errors import DiscontinuousError, InvalidInputError, NotConvergedError

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def drift(t, x, b):
    """x′ = −1 while x > 0, then x′ = −1 + b x."""
    return -1 - b * jax.nn.relu(-x)


def oscillator(t, state, a):
    """x″ = −x − a relu(x): half periods π/√(1 + a) and π."""
    x, v = state
    return v, -x - a * jax.nn.relu(x)


def floor(t, state, k):
    """x″ = −1 + k relu(−x): a ball on a floor that gives way."""
    x, v = state
    return v, -1 + k * jax.nn.relu(-x)


def test_a_drift_across_a_kink():
    def end(x0, b):
        return cx.flows.odeint(drift, x0, jnp.array([0.0, 2.0]), b)[-1]

    x0, b = 0.5, 2.0
    s = 2 - x0  # time spent below
    value, (dx, db) = jax.value_and_grad(end, (0, 1))(x0, b)
    grow = np.exp(b * s)
    np.testing.assert_allclose(value, -(grow - 1) / b, atol=1e-6)
    np.testing.assert_allclose(dx, grow, atol=1e-6)
    np.testing.assert_allclose(db, (grow - 1) / b**2 - s * grow / b, atol=1e-6)


def rotation(w, s):
    """The flow of x″ = −w²x over a time s."""
    return np.array([[np.cos(w * s), np.sin(w * s) / w], [-w * np.sin(w * s), np.cos(w * s)]])


def test_an_oscillator_over_twenty_crossings():
    """From (0, 1): after ten periods and an s, x = sin(ws)/w; in a, the periods move, too."""
    s, a = 0.7, 3.0
    w = np.sqrt(1 + a)
    T = 10 * (np.pi / w + np.pi) + s

    @jax.jit
    def solve(start, a):
        return jnp.stack(
            cx.flows.odeint(oscillator, (start[0], start[1]), jnp.array([0, T]), a, **TIGHT)
        )[:, -1]

    start = jnp.array([0.0, 1.0])
    value = solve(start, a)
    back, forth = jax.jit(jax.jacrev(solve, (0, 1))), jax.jit(jax.jacfwd(solve, (0, 1)))
    np.testing.assert_allclose(value, [np.sin(w * s) / w, np.cos(w * s)], atol=1e-6)
    # each half period is −1 times the identity up to its own time: M = rotation(w, s)
    M, da = back(start, a)
    np.testing.assert_allclose(M, rotation(w, s), atol=1e-6)
    dw = 1 / (2 * w)
    ds = 10 * np.pi / w**2 * dw  # the earlier the last period starts
    slope = np.array([np.cos(w * s), -w * np.sin(w * s)])
    by_w = np.array([s * np.cos(w * s) / w - np.sin(w * s) / w**2, -s * np.sin(w * s)])
    np.testing.assert_allclose(da, slope * ds + by_w * dw, atol=1e-6)
    for one, other in zip(forth(start, a), (M, da), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_ball_on_a_soft_floor():
    """Dropped from rest at height 1: √2 up in the air, then an arc below, in closed form."""
    k = 50.0
    w, v = np.sqrt(k), np.sqrt(2.0)

    def x_at(T, x0):
        """Height at a time within the first rise after the first bounce."""
        t_down, speed = np.sqrt(2 * x0), np.sqrt(2 * x0)
        # x = 1/k + A cos(wt) + B sin(wt) below: x(0) = 0, x′(0) = −speed; symmetric about its bottom
        below = 2 * (np.pi - np.arctan(speed * w / 1.0)) / w
        t = T - t_down - below
        return speed * t - t**2 / 2

    T = np.sqrt(2.0) + 2 * (np.pi - np.arctan(v * w)) / w + 0.8

    def end(x0):
        return cx.flows.odeint(floor, (x0, jnp.zeros(())), jnp.array([0.0, T]), k, **TIGHT)[0][-1]

    value, slope = jax.value_and_grad(end)(jnp.asarray(1.0))
    np.testing.assert_allclose(value, x_at(T, 1.0), atol=1e-6)
    h = 1e-6
    np.testing.assert_allclose(slope, (x_at(T, 1 + h) - x_at(T, 1 - h)) / (2 * h), atol=1e-6)


def test_a_grazing_trajectory_has_one_derivative():
    """x₂ = (t − 1)² + c touches the kink of x₃′ = |x₂| at c = 0: dx₃/dc = 2, off by (8/3)√h from below."""

    def field(t, state):
        x2, _ = state
        return 2 * (t - 1), jnp.abs(x2)

    @jax.jit
    def end(c):
        return cx.flows.odeint(field, (1 + c, 0 * c), jnp.array([0.0, 2.0]), **TIGHT)[1][-1]

    slopes = jax.vmap(jax.grad(end))(jnp.array([0.0, 1e-8, -1e-4]))
    np.testing.assert_allclose(slopes[:2], 2.0, atol=1e-6)
    np.testing.assert_allclose(slopes[2], 2 - 4 * np.sqrt(1e-4), atol=1e-6)
    h = 1e-4
    np.testing.assert_allclose((end(0.0) - end(-h)) / h, 2 - 8 / 3 * np.sqrt(h), atol=1e-6)


@pytest.fixture(scope="module")
def network():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        return tuple(jnp.asarray(rng.normal(size=s) / 2) for s in ((8, 2), (8,), (2, 8), (2,)))


def relu_network(t, x, weights):
    A, a, B, b = weights
    return B @ jax.nn.relu(A @ x + a) + b


def test_a_neural_ode_meets_differences(network):
    times = jnp.linspace(0.0, 2.0, 5)
    x0 = jnp.array([1.0, -0.5])

    @jax.jit
    def loss(weights, x0):
        return jnp.sum(jnp.sin(cx.flows.odeint(relu_network, x0, times, weights, **TIGHT)))

    gradient, _ = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss, (0, 1)))(network, x0))
    flat, unravel = jax.flatten_util.ravel_pytree((network, x0))
    h = 1e-5
    both = jax.jit(jax.vmap(lambda v: loss(*unravel(v))))(
        jnp.concatenate([flat + h * jnp.eye(flat.size), flat - h * jnp.eye(flat.size)])
    )
    np.testing.assert_allclose(
        gradient, (both[: flat.size] - both[flat.size :]) / (2 * h), rtol=1e-5, atol=1e-5
    )


def test_hessians_and_times(network):
    def end(x0, T):
        return jnp.sum(
            jnp.sin(cx.flows.odeint(relu_network, x0, jnp.stack([0 * T, T]), network, **TIGHT)[-1])
        )

    x0, T = jnp.array([1.0, -0.5]), jnp.asarray(1.3)
    slope = jax.jit(jax.grad(end, (0, 1)))
    H = jax.jit(jax.hessian(end))(x0, T)
    h = 1e-5
    columns = [(slope(x0 + h * e, T)[0] - slope(x0 - h * e, T)[0]) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(H, np.transpose(columns), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        slope(x0, T)[1], (end(x0, T + h) - end(x0, T - h)) / (2 * h), rtol=1e-5
    )


def test_backwards_in_time_undoes(network):
    x0 = jnp.array([1.0, -0.5])
    there = cx.flows.odeint(relu_network, x0, jnp.array([0.0, 1.5]), network, **TIGHT)[-1]
    back = cx.flows.odeint(relu_network, there, jnp.array([1.5, 0.0]), network, **TIGHT)[-1]
    np.testing.assert_allclose(back, x0, atol=1e-8)


@pytest.mark.parametrize(("selection", "slope"), [("lower", 1.0), ("jax", 1.0), ("upper", np.e)])
def test_on_a_kink_a_selection_decides(selection, slope):
    def end(x0):
        return cx.flows.odeint(
            lambda t, x: jax.nn.relu(x), x0, jnp.array([0.0, 1.0]), selection=selection
        )[-1]

    np.testing.assert_allclose(jax.grad(end)(0.0), slope, atol=1e-6)


def test_fields_that_jump_are_refused():
    times = jnp.array([0.0, 2.0])
    with pytest.raises(DiscontinuousError, match="kink number 0"):
        cx.flows.odeint(lambda t, x: jnp.where(x > 0, -1.0, 1.0), 1.0, times)  # a sliding mode
    with pytest.raises(DiscontinuousError, match="floor"):
        cx.flows.odeint(lambda t, x: -jnp.floor(x), 1.5, times)
    assert np.isnan(
        jax.jit(lambda x: cx.flows.odeint(lambda t, x: -jnp.sign(x), x, times))(1.0)
    ).all()


def test_what_cannot_be_integrated_is_named():
    times = jnp.array([0.0, 2.0])
    with pytest.raises(NotConvergedError, match="blows up"):
        cx.flows.odeint(lambda t, x: x**2, 1.0, times)
    with pytest.raises(NotConvergedError, match="max_steps=5"):
        cx.flows.odeint(lambda t, x: jnp.cos(50 * t), 1.0, times, max_steps=5)
    with pytest.raises(InvalidInputError, match="increasing"):
        cx.flows.odeint(drift, 1.0, jnp.array([0.0, 1.0, 1.0]), 1.0)
    with pytest.raises(InvalidInputError, match="one slope"):
        cx.flows.odeint(lambda t, x: x[:1], jnp.ones(2), times)


@pytest.mark.parametrize(
    ("x0", "steps", "name"), [(jnp.nan, 64, "x0"), (1.0, 0, "max_steps"), (1.0, 2.5, "max_steps")]
)
def test_starts_that_are_no_numbers_and_no_steps_are_named(x0, steps, name):
    with pytest.raises(InvalidInputError, match=name):
        cx.flows.odeint(lambda t, x: -x, x0, jnp.array([0.0, 1.0]), max_steps=steps)


def test_slopes_stand_under_the_keys_of_the_state():
    """Matched by order, the slope of c would move a."""
    state, times = {"a": jnp.array(1.0), "b": jnp.array(2.0)}, jnp.array([0.0, 1.0])
    with pytest.raises(InvalidInputError, match="same key"):
        cx.flows.odeint(lambda t, x: {"b": -x["b"], "c": -x["a"]}, state, times)
    end = cx.flows.odeint(lambda t, x: {"b": -2 * x["b"], "a": -x["a"]}, state, times, **TIGHT)
    np.testing.assert_allclose(end["a"][-1], np.exp(-1.0), rtol=1e-8)
    np.testing.assert_allclose(end["b"][-1], 2 * np.exp(-2.0), rtol=1e-8)


@pytest.mark.parametrize("solve", [cx.flows.odeint, cx.flows.sensitivity_set])
@pytest.mark.parametrize("bad", ["mode", jnp.tanh, np.array(["mode"])])
def test_arguments_that_are_no_arrays_are_named(solve, bad):
    with pytest.raises(InvalidInputError, match=r"args\[1\]\['how'\]"):
        solve(lambda t, x, k, rest: -k * x, jnp.ones(1), jnp.array([0.0, 1.0]), 1.0, {"how": bad})


def test_a_state_without_entries_is_named():
    with pytest.raises(InvalidInputError, match="no entries"):
        cx.flows.odeint(lambda t, x: -x, jnp.zeros(0), jnp.array([0.0, 1.0]))


def test_reverse_mode_keeps_three_states_and_one_side_of_each_kink_a_step():
    """Not the stages of a step, nor what its slopes went through: bytes by the compiler's own account."""
    n, kinks = 32, 48
    A, B = jnp.ones((kinks, n)) / n, jnp.ones((n, kinks)) / kinks

    def used(steps):
        def loss(x0, A, B):
            times = jnp.array([0.0, 1.0])
            field = lambda t, x, A, B: B @ jax.nn.relu(A @ x)  # noqa: E731
            return jnp.sum(cx.flows.odeint(field, x0, times, A, B, max_steps=steps)[-1])

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(jnp.ones(n), A, B).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    a_step = (used(2048) - used(1024)) / 1024 / 8
    assert a_step <= 3 * n + kinks + 8  # times and slots beside them
