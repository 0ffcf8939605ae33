"""Intervals: exact rational arithmetic, mpmath, and brute force on random programs lie inside."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conservax.calculus.enclosures import intervals as iv
from conservax.calculus.enclosures.interval_functions import SMOOTH
from conservax.calculus.enclosures.intervals import Interval
from conservax.calculus.enclosures.of_programs import IntervalProgram
from conservax.errors import DiscontinuousError, UnsupportedOperationError
from helpers import line_of, on_numpy, points, programs

numbers = st.floats(-1e9, 1e9, allow_subnormal=False) | st.sampled_from(
    [0.0, 1.0, -2.0, 0.1, 3.0, 1e-160, -1e-300, 5e-324, 1e160]
)


def inside(exact, interval):
    """Exact rationals or mpmath numbers against the ends."""
    for x, lo, hi in zip(exact, np.ravel(interval.lo), np.ravel(interval.hi), strict=True):
        assert lo <= x <= hi, (x, lo, hi)


def enclose(fun, x, radius, **keywords):
    """F and J of a function of one array over x ± radius, traced in float64."""
    x = np.asarray(x, float)
    with jax.enable_x64(True):
        program = IntervalProgram(fun, (jnp.asarray(x),))
        return program({0: Interval(x - radius, x + radius)}, **keywords)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@settings(max_examples=300, deadline=None)
@given(st.lists(numbers, min_size=4, max_size=4), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_arithmetic_encloses_exact_results_at_points_inside(ends, shares):
    (a, b), (c, d) = sorted(ends[:2]), sorted(ends[2:])
    X, Y = Interval(np.array(a), np.array(b)), Interval(np.array(c), np.array(d))
    inner = [
        min(max(lo + s * (hi - lo), lo), hi)
        for s, (lo, hi) in zip(shares, [(a, b), (c, d)], strict=True)
    ]
    for x in (a, b, inner[0]):
        for y in (c, d, inner[1]):
            p, q = Fraction(x), Fraction(y)
            inside([p + q], iv.add(X, Y))
            inside([p - q], iv.subtract(X, Y))
            inside([p * q], iv.multiply(X, Y))
            inside([max(p, q)], iv.maximum(X, Y))
            inside([min(p, q)], iv.minimum(X, Y))
            if not c <= 0 <= d:
                inside([p / q], iv.divide(X, Y))
            else:
                assert np.isnan(iv.divide(X, Y).lo)
        inside([abs(p)], iv.absolute(X))
        inside([p * p], iv.square(X))
        for k in (0, 1, 2, 3, 6) if max(abs(a), abs(b)) < 1e50 else ():
            inside([p**k], iv.integer_power(X, k))
        if a > 0:
            root = iv.sqrt(X)
            assert Fraction(float(root.lo)) ** 2 <= p <= Fraction(float(root.hi)) ** 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.floats(-12, 0), st.booleans()
)
def test_sums_and_products_of_matrices_enclose_exact_ones(seed, n, m, size, point):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-8, 8, (2, n, m))
    A, B = scale * rng.normal(size=(2, n, m))
    B = B.T
    rA, rB = (0 if point else 10.0**size) * np.abs(A), 10.0**size * np.abs(B)
    IA, IB = Interval(A - rA, A + rA), Interval(B - rB, B + rB)
    C, T, R = iv.matmul(IA, IB), iv.total(IA, (0,)), iv.running_total(IA, 1)
    for _ in range(5):
        X = np.clip(A + rng.choice([-1, 1, 0.3], (n, m)) * rA, IA.lo, IA.hi)
        Y = np.clip(B + rng.choice([-1, 1, 0.3], (m, n)) * rB, IB.lo, IB.hi)
        F, G = ([[Fraction(v) for v in row] for row in M.tolist()] for M in (X, Y))
        inside([sum(F[i][k] * G[k][j] for k in range(m)) for i in range(n) for j in range(n)], C)
        inside([sum(F[i][j] for i in range(n)) for j in range(m)], T)
        inside([sum(F[i][: j + 1]) for i in range(n) for j in range(m)], R)


@pytest.mark.parametrize("scale", [1e-200, 1e-300, 5e-324])
def test_underflow_is_accounted_for(scale):
    tiny = iv.point(np.full((1, 3), scale))
    inside([3 * Fraction(scale) ** 2], iv.matmul(tiny, tiny.map(np.transpose)))
    inside([Fraction(scale) ** 2] * 3, iv.multiply(tiny, tiny))
    inside([Fraction(scale) / 3] * 3, iv.divide(tiny, iv.point(3.0)))
    inside([Fraction(scale) / 2] * 3, iv.divide(tiny, iv.point(2.0)))
    inside([Fraction(scale) / 2] * 3, iv.multiply(tiny, iv.point(0.5)))


def test_exact_results_stay_exact():
    x = iv.point(np.array([0.0, 1.0, -3.5]))
    for result, exact in [
        (iv.add(x, iv.point(0.25)), [0.25, 1.25, -3.25]),
        (iv.multiply(x, iv.point(0.5)), [0, 0.5, -1.75]),
        (iv.multiply(x, iv.point(0.0)), [0, 0, 0]),
        (iv.divide(x, iv.point(4.0)), [0, 0.25, -0.875]),
        (iv.sqrt(iv.point([0.0, 4.0, 9.0])), [0, 2, 3]),
    ]:
        np.testing.assert_array_equal(result.lo, exact)
        np.testing.assert_array_equal(result.hi, exact)


_MP = {
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "neg": lambda x: -x,
    "square": lambda x: x * x,
    "exp2": lambda x: mpmath.power(2, x),
    "logistic": lambda x: 1 / (1 + mpmath.exp(-x)),
}


@pytest.mark.parametrize("name", sorted(SMOOTH))
@pytest.mark.parametrize("radius", [0.0, 1e-12, 0.05])
def test_functions_and_their_slopes_against_mpmath(name, radius):
    value, slope = SMOOTH[name]
    exact = _MP.get(name) or getattr(mpmath, name)
    centres = np.array([1.2, 2.0, 7.5]) if name == "acosh" else np.array([0.07, 0.3, 0.9])
    if name not in ("sqrt", "rsqrt", "log", "acosh"):
        centres = np.concatenate([centres, -centres])
    X = Interval(centres - radius, centres + radius)
    V = value(X)
    S = slope(X, V)
    S = Interval(np.broadcast_to(S.lo, X.shape), np.broadcast_to(S.hi, X.shape))
    with mpmath.workdps(40):
        for share in (0.0, 0.5, 1.0):
            inner = np.clip(X.lo + share * (X.hi - X.lo), X.lo, X.hi)
            inside([exact(mpmath.mpf(float(x))) for x in inner], V)
            with mpmath.workdps(60):
                inside(
                    [
                        mpmath.diff(exact, mpmath.mpf(float(x)), h=mpmath.mpf(10) ** -25)
                        for x in inner
                    ],
                    S,
                )
    if radius == 0:
        assert np.all(V.hi - V.lo <= 1e-15 * np.maximum(1, np.abs(V.lo)))
        assert np.all(S.hi - S.lo <= 1e-12 * np.maximum(1, np.abs(S.lo)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_programs_and_their_conservative_jacobians_lie_inside(data):
    program = data.draw(programs(inputs=2, outputs=2, length=7, kinks=5))
    center = data.draw(points(2))
    radius = data.draw(st.sampled_from([Fraction(1, 1 << 20), Fraction(1, 4), Fraction(1)]))
    fun = program.to_jax()
    try:
        value, J = enclose(fun, [float(c) for c in center], float(radius))
    except DiscontinuousError:
        return  # a where whose branches agree for reasons that intervals do not see
    shares = [Fraction(s, 8) for s in (-8, -3, 0, 5, 8)]
    for s in shares:
        for t in shares:
            x = [center[0] + s * radius, center[1] + t * radius]
            inside([Fraction(float(v)) for v in program(x)], iv.around(*value, 1e-12))
            if program.choices(x) <= 64:
                for element in program.jacobians(x):
                    assert np.all(J.lo - 1e-9 <= element)
                    assert np.all(element <= J.hi + 1e-9)


W = np.random.default_rng(0).normal(size=(4, 4))
FUNCTIONS = {
    "matrix": lambda x: (jnp.outer(x, x) @ W @ jnp.outer(x, x)).sum(axis=0),
    "einsum": lambda x: jnp.einsum("ij,j,k->ik", W, x, x).sum(axis=1),
    "batched": lambda x: jnp.einsum("bij,bj->bi", jnp.stack([W, 2 * W]), jnp.stack([x, x * x])),
    "norm": lambda x: jnp.linalg.norm(x) * x,
    "gather": lambda x: x[jnp.array([1, 2, 1])] @ jnp.ones(3) + x.at[jnp.array([0, 0])].add(x[1:3]),
    "scan": lambda x: jax.lax.scan(lambda c, a: (jnp.tanh(c) + a, c * a), x, jnp.stack([x, -x])),
    "reverse": lambda x: jax.lax.scan(lambda c, a: (c * a, c), x[0], x, reverse=True),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.abs(c) + i * x, x),
    "powers": lambda x: (x + 4) ** 2.5 + x**3 + (x + 4) ** -2 + (x + 4.0) ** x,
    "products": lambda x: jnp.prod(x) * jnp.cumsum(x) / (jnp.cumsum(x[::-1])[::-1] ** 2 + 1),
    "softmax": lambda x: jax.nn.softmax(x) + jax.nn.logsumexp(x),
    "activations": lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.silu(x) + jax.nn.softplus(x),
    "elu": jax.nn.elu,
    "median": lambda x: jnp.median(x) + jnp.var(x) * jnp.max(x) - jnp.min(x),
    "order": lambda x: jnp.sort(x) * x + jnp.sort(-x),
    "soft": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 2.5, 0),
    "pieces": lambda x: jnp.concatenate([jnp.pad(x, 1), jnp.flip(x), jnp.clip(x, -0.5, 0.5)]),
    "branch": lambda x: jax.lax.cond(x.sum() > 100, jnp.sin, jnp.cos, x),
    "custom": lambda x: jax.lax.stop_gradient(x) * x,
    "integers": lambda x: jnp.floor(x) * 0 + jnp.round(x) * 0.0 + x * jnp.argmax(jnp.arange(4)),
}  # fmt: skip


def flattened(name):
    return lambda x: jnp.concatenate([jnp.ravel(o) for o in jax.tree.leaves(FUNCTIONS[name](x))])


@functools.cache
def compiled(name):
    """The value and the Jacobian of a function of the table, compiled once for all boxes."""
    flat = flattened(name)
    return on_numpy(lambda x: (flat(x), jax.jacfwd(flat)(x)))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("radius", [0.0, 1e-7, 0.1])
def test_programs_lie_inside_with_their_slopes(name, radius):
    """At each point of the box the value; between two, the mean value theorem."""
    rng = np.random.default_rng(len(name))
    flat = flattened(name)
    for _ in range(3):
        center = rng.normal(size=4)
        if name == "integers":
            center = np.round(center) + 0.5
        value, J = enclose(flat, center, radius)
        assert np.all(np.isfinite(J.lo))
        with jax.enable_x64(True):
            xs = center + radius * rng.uniform(-1, 1, (20, 4))
            ys = np.array([compiled(name)(x)[0] for x in xs])
            near = compiled(name)(center)[1]
        slack = 1e-13 * (1 + np.max(np.abs(ys)))
        assert np.all(value.lo - slack <= ys)
        assert np.all(ys <= value.hi + slack)
        if name != "custom":  # stop_gradient is looked through
            assert np.all(J.lo - 1e-12 <= near)
            assert np.all(near <= J.hi + 1e-12)
        lo, hi = J
        for x, y in zip(xs[1:] - xs[0], ys[1:] - ys[0], strict=True):
            assert np.all(np.minimum(lo * x, hi * x).sum(axis=1) - slack <= y)
            assert np.all(y <= np.maximum(lo * x, hi * x).sum(axis=1) + slack)


@pytest.mark.parametrize(
    ("fun", "low", "high"),
    [
        (jnp.abs, -1, 1),
        (jax.nn.relu, 0, 1),
        (lambda x: jnp.minimum(x, 2 * x), 1, 2),
        (lambda x: jnp.clip(x, -3, 0), 0, 1),
        (lambda x: jnp.where(x > 0, x, 0.5 * x), 0.5, 1),
        (lambda x: jnp.where(x <= 0, 3 * x, x), 1, 3),
        (lambda x: jnp.max(jnp.stack([x, 2 * x, -x])), -1, 2),
        (lambda x: jnp.sort(jnp.stack([x, 0 * x]))[0], 0, 1),
        (lambda x: jnp.where(~(x >= 0), 0.0, x), 0, 1),
        (lambda x: (lambda y: jax.lax.select(x > y, x, y))(2 * x), 1, 2),
    ],
)
@pytest.mark.parametrize("radius", [0.0, 1e-12])
def test_kinks_hold_all_their_slopes_and_no_more(fun, low, high, radius):
    J = enclose(fun, 0.0, radius)[1]
    if radius:
        np.testing.assert_allclose([J.lo.item(), J.hi.item()], [low, high], atol=1e-12)
    assert low - 1e-12 <= J.lo.item()
    assert J.hi.item() <= high + 1e-12
    for side in (-1.0, 1.0):  # away from the kink one slope is left
        J = enclose(fun, side, 0.1)[1]
        assert J.hi - J.lo <= 1e-12


def test_float32_programs_are_read_over_the_reals():
    # 0.1 in float32 is 13421773 / 2²⁷
    program = IntervalProgram(lambda x: x * jnp.float32(0.1), (jnp.float32(3),))
    value, J = program({0: Interval(np.array(3.0), np.array(3.0))})
    inside([3 * Fraction(13421773, 1 << 27)], value)
    inside([Fraction(13421773, 1 << 27)], J)
    assert value.hi - value.lo <= 1e-15


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.where(x > 0, x + 1, x),
        lambda x: jnp.where(x > 0, 1.0, -1.0) * x + jnp.floor(x),
        lambda x: jnp.where(x > 1e-9, x, 0.0),
        lambda x: jnp.sign(x),
        lambda x: jnp.sign(x) * (x + 1),
        lambda x: jnp.float32(x > 0) + x,
        lambda x: jax.lax.cond(x > 0, lambda x: x + 1, lambda x: x, x),
        lambda x: jnp.stack([x, x * 2])[jnp.argmax(jnp.stack([x, 2 * x]))],
        lambda x: x * jnp.argsort(jnp.stack([x, -x]))[0],
        lambda x: jax.lax.while_loop(lambda c: c < 5, lambda c: c + 1, x),
        lambda x: jnp.where(jnp.abs(x) > 0, jnp.sum(jnp.stack([x, x])) + 1, 0.0),
    ],
)
def test_what_may_jump_in_the_box_is_refused_and_decided_away_from_the_jump(fun):
    with pytest.raises(DiscontinuousError, match="jump"):
        enclose(fun, 0.0, 1e-6)
    value, _ = enclose(fun, 0.3, 1e-6)
    assert np.all(np.isfinite(value.lo))


def test_a_vector_whose_entries_mix_does_not_pass_for_continuous():
    # at x_i = 0 the branch is the sum of the others: it does not vanish there
    with pytest.raises(DiscontinuousError):
        enclose(lambda x: jnp.where(x > 0, jnp.sum(x), 0.0), [0.0, 1.0], 1e-6)


def test_custom_rules_are_looked_through():
    @jax.custom_vjp
    def wrong(x):
        return 3 * x

    wrong.defvjp(lambda x: (3 * x, None), lambda _, g: (-g,))

    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvp(lambda x, t: (2 * x[0], 7 * t[0]))
    fun = lambda x: wrong(x) + double(x) + jax.checkpoint(lambda y: 4 * y)(x)  # noqa: E731
    value, J = enclose(fun, 1.0, 0.0)
    np.testing.assert_allclose([value.lo, value.hi], 9, rtol=1e-15)
    np.testing.assert_allclose([J.lo.item(), J.hi.item()], 9, rtol=1e-15)


def test_a_sort_by_two_keys_needs_a_decided_order():
    tied = jnp.array([0.0, 0.0])
    with pytest.raises(DiscontinuousError):
        enclose(lambda x: jax.lax.sort((tied, x[::-1], x), num_keys=2)[2], [1.0, 2.0], 0.1)
    value, J = enclose(lambda x: jax.lax.sort((x, x * x), num_keys=1)[1], [3.0, -2.0], 0.0)
    np.testing.assert_allclose(value.lo, [4, 9])
    np.testing.assert_allclose(J.lo, [[0, -4], [6, 0]])


def test_undefined_values_spread_to_the_result():
    for fun in (lambda x: 1 / x, jnp.sqrt, jnp.log, lambda x: x**-1, lambda x: 0 * jnp.log(x)):
        value, _ = enclose(fun, 0.0, 0.1)
        assert np.isnan(value.lo)
    value, _ = enclose(lambda x: jnp.sort(jnp.stack([1 / x, x]))[0], 0.0, 0.1)
    assert np.isnan(value.lo)


def test_unknown_operations_are_named_with_their_place():
    with pytest.raises(UnsupportedOperationError, match="'cumprod' on intervals") as caught:
        enclose(lambda x: jnp.cumprod(x), [1.0, 2.0], 0.1)  # unknown
    assert f"{__file__}:{line_of('unknown', __file__)}" in str(caught.value)
    with pytest.raises(UnsupportedOperationError, match="complex"):
        enclose(lambda x: jnp.real(x + 1j), [1.0, 2.0], 0.1)
    with pytest.raises(UnsupportedOperationError, match="cholesky"):
        enclose(lambda x: jnp.linalg.cholesky(x), np.eye(2), 0.1)


def test_without_python_flint_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    with pytest.raises(ImportError, match=r"conservax\[verified\]"):
        enclose(jnp.exp, 0.0, 0.1)
    enclose(lambda x: x * x, 0.0, 0.1)
