"""Oracles: the closed forms of textbook programs, differentiated by JAX in every datum."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from conservax.cones.kinds.semidefinite import smat, svec
from conservax.invertibility import Verdict
from conservax.programs import ConeProgram, Cones, QuadraticProgram
from programs.compiled import Frame, solution_and_slopes


def draw():
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(8, 3)), rng.normal(size=8)
    return X, Y, rng.normal(size=(6, 4)), rng.normal(size=(2, 3))


X, Y, R, MATRIX = draw()
SUPPORT = nnls(X, Y)[0] > 0


class Case(NamedTuple):
    """A program and its solution in closed form, both functions of the same data.

    ``program``: data ↦ the cones and P, c, A, b. The solution is what comes first in x.
    """

    program: Callable
    closed: Callable
    data: tuple


def quadratic(*data):
    program, data = QuadraticProgram().conic(*data)
    return program.cones, data


def conic(cones, *data):
    return cones, data


def least_squares(X, y):
    return quadratic(X.T @ X, -X.T @ y)


def non_negative_least_squares(X, y):
    eye = jnp.eye(3, dtype=y.dtype)
    return quadratic(X.T @ X, -X.T @ y, None, None, -eye, jnp.zeros_like(y[:3]))


def on_the_support(X, y):
    part = X[:, SUPPORT]
    beta = jnp.linalg.solve(part.T @ part, part.T @ y)
    return jnp.zeros_like(y[:3]).at[np.flatnonzero(SUPPORT)].set(beta)


def ridge(X, y, lam):
    return quadratic(X.T @ X + lam * jnp.eye(3, dtype=y.dtype), -X.T @ y)


def ridge_closed(X, y, lam):
    return jnp.linalg.solve(X.T @ X + lam * jnp.eye(3, dtype=y.dtype), X.T @ y)


def minimum_variance(sigma, a, budget):
    """min ½wᵀΣw with aᵀw = budget."""
    return quadratic(sigma, jnp.zeros_like(a), a[None], budget[None])


def minimum_variance_closed(sigma, a, budget):
    w = jnp.linalg.solve((sigma + sigma.T) / 2, a)
    return budget * w / (a @ w)


def box(p, low, high):
    eye = jnp.eye(4, dtype=p.dtype)
    G, h = jnp.concatenate([-eye, eye]), jnp.concatenate([-low, high])
    return quadratic(eye, -p, None, None, G, h)


def simplex(p, total):
    eye, one = jnp.eye(4, dtype=p.dtype), jnp.ones((1, 4), p.dtype)
    return quadratic(eye, -p, one, total[None], -eye, jnp.zeros_like(p))


def simplex_closed(p, total):
    largest = jnp.sort(p)[::-1]
    levels = (jnp.cumsum(largest) - total) / jnp.arange(1, 5)
    kept = jnp.sum(largest > levels)
    return jnp.maximum(p - levels[kept - 1], 0)


def water_filling(noise, gain, power):
    """min Σ g_i²/(x_i + a_i) over x ≥ 0, Σx = power; the fraction is t_i with t_i (x_i + a_i) ≥ g_i²."""
    k = len(noise)
    eye, zero = jnp.eye(k, dtype=noise.dtype), jnp.zeros((k, k), noise.dtype)
    one, none = jnp.ones_like(noise), jnp.zeros_like(noise)
    # (t + x + a, 2g, t − x − a) in the second-order cone
    cone = -jnp.stack(
        [
            jnp.concatenate([eye, eye], axis=1),
            jnp.concatenate([zero, zero], axis=1),
            jnp.concatenate([-eye, eye], axis=1),
        ],
        axis=1,
    ).reshape(3 * k, 2 * k)
    sums, bounds = jnp.concatenate([one, none])[None], jnp.concatenate([-eye, zero], axis=1)
    A = jnp.concatenate([sums, bounds, cone])
    b = jnp.concatenate([power[None], none, jnp.stack([noise, 2 * gain, -noise], axis=1).ravel()])
    P, c = jnp.zeros((2 * k, 2 * k), noise.dtype), jnp.concatenate([none, one])
    return conic(Cones(zero=1, nonnegative=k, second_order=(3,) * k), P, c, A, b)


def water_filling_closed(noise, gain, power):
    """x_i = (μ g_i − a_i)₊; the channels that get power come first in a/g."""
    order = jnp.argsort(noise / gain)
    levels = (power + jnp.cumsum(noise[order])) / jnp.cumsum(gain[order])
    wet = jnp.sum(levels > (noise / gain)[order])
    return jnp.maximum(levels[wet - 1] * gain - noise, 0)


def group_prox(p, lam):
    """min ½‖x − p‖² + λt, (t, x) in the second-order cone."""
    n = len(p)
    eye = jnp.eye(n + 1, dtype=p.dtype)
    P, c = eye.at[n, n].set(0), jnp.append(-p, lam)
    A, b = -jnp.roll(eye, 1, axis=0), jnp.zeros(n + 1, p.dtype)
    return conic(Cones(second_order=(n + 1,)), P, c, A, b)


def group_prox_closed(p, lam):
    length = jnp.sqrt(p @ p)
    return jnp.maximum(1 - lam / length, 0) * p


def second_order(p):
    eye = jnp.eye(3, dtype=p.dtype)
    return conic(Cones(second_order=(3,)), eye, -p, -eye, jnp.zeros_like(p))


def second_order_closed(p):
    length = jnp.sqrt(p[1:] @ p[1:])
    return (p[0] + length) / 2 * jnp.append(jnp.ones(1, p.dtype), p[1:] / length)


def semidefinite(p):
    """p is svec of the matrix."""
    eye = jnp.eye(len(p), dtype=p.dtype)
    order = {3: 2, 6: 3}[len(p)]
    return conic(Cones(semidefinite=(order,)), eye, -p, -eye, jnp.zeros_like(p))


def semidefinite_closed(p):
    values, vectors = jnp.linalg.eigh(smat(p, 3))
    return svec((vectors * jnp.maximum(values, 0)) @ vectors.T)


def lift(m, n):
    """The matrix that takes (X, W₁, W₂) to svec [[W₁, X], [Xᵀ, W₂]], and how many X and W₁, W₂ are."""
    sizes = m * n, m * (m + 1) // 2, n * (n + 1) // 2
    columns = []
    for unit in np.eye(sum(sizes)):
        x, upper, lower = np.split(unit, np.cumsum(sizes)[:-1])
        x = x.reshape(m, n)
        corners = [np.asarray(smat(jnp.asarray(w), d)) for w, d in ((upper, m), (lower, n))]
        columns.append(svec(jnp.asarray(np.block([[corners[0], x], [x.T, corners[1]]]))))
    return np.stack(columns, axis=1), sizes


with jax.enable_x64(True):  # √2 in single precision would be the wrong program
    LIFT, SIZES = lift(2, 3)
TRACES = np.concatenate([np.zeros(6), svec(jnp.eye(2)), svec(jnp.eye(3))])


def nuclear_prox(Y, lam):
    """min ½‖X − Y‖² + λ (tr W₁ + tr W₂)/2, [[W₁, X], [Xᵀ, W₂]] ≽ 0."""
    dtype = Y.dtype
    P = jnp.asarray(np.diag(np.arange(len(TRACES)) < 6), dtype)
    c = jnp.zeros(len(TRACES), dtype).at[:6].set(-Y.ravel()) + lam / 2 * jnp.asarray(TRACES, dtype)
    A = -jnp.asarray(LIFT, dtype)
    return conic(Cones(semidefinite=(5,)), P, c, A, jnp.zeros(A.shape[0], dtype))


def nuclear_prox_closed(Y, lam):
    values, vectors = jnp.linalg.eigh(Y @ Y.T)
    shrunk = jnp.maximum(1 - lam / jnp.sqrt(values), 0)
    return (vectors * shrunk) @ vectors.T @ Y


POINT = np.array([0.9, 0.6, -0.4, 0.2])
SYMMETRIC = np.array([1.0, 0.4, -0.3, -0.8, 0.5, 0.3])
CASES = {
    "least squares": Case(least_squares, lambda X, y: jnp.linalg.lstsq(X, y)[0], (X, Y)),
    "non-negative least squares": Case(non_negative_least_squares, on_the_support, (X, Y)),
    "ridge": Case(ridge, ridge_closed, (X, Y, 0.7)),
    "minimum variance": Case(
        minimum_variance, minimum_variance_closed, (R.T @ R, np.array([1.0, 1.2, 0.8, 1.0]), 1.5)
    ),
    "box": Case(box, jnp.clip, (POINT, np.full(4, -0.1), np.full(4, 0.7))),
    "simplex": Case(simplex, simplex_closed, (POINT, 1.0)),
    "water filling": Case(
        water_filling,
        water_filling_closed,
        (np.array([0.3, 1.5, 0.5]), np.array([1.0, 0.7, 1.3]), 1.2),
    ),
    "group prox": Case(group_prox, group_prox_closed, (np.array([1.0, -2.0, 0.5]), 0.8)),
    "second-order cone": Case(second_order, second_order_closed, (np.array([0.3, 1.0, -0.7]),)),
    "semidefinite cone": Case(semidefinite, semidefinite_closed, (SYMMETRIC,)),
    "nuclear prox": Case(nuclear_prox, nuclear_prox_closed, (MATRIX, 0.6)),
}


# programs of one frame are one batch: linear cones, and curved ones
LINEAR = Frame(Cones(zero=1, nonnegative=8), 4)
CURVED = Frame(Cones(zero=1, nonnegative=3, second_order=(3, 3, 3, 4), semidefinite=(3, 5)), 15)
FRAMES = dict.fromkeys(CASES, LINEAR)
FRAMES |= dict.fromkeys(
    ("water filling", "group prox", "second-order cone", "semidefinite cone", "nuclear prox"),
    CURVED,
)


def with_jacobians(fun, data):
    """fun(*data), and its derivative in each datum."""
    everything = tuple(range(len(data)))
    jacobian = jax.jacfwd(lambda *data: (fun(*data),) * 2, everything, has_aux=True)
    return jacobian(*data)[::-1]


@functools.cache
def exact():
    """Each case's closed form, and the data of its program, with their derivatives."""
    functions = {name: case.closed for name, case in CASES.items()}
    programs = {name: lambda *d, own=case: own.program(*d)[1] for name, case in CASES.items()}

    @jax.jit
    def everything(data):
        return tuple(
            {name: with_jacobians(fun, data[name]) for name, fun in functions.items()}
            for functions in (functions, programs)
        )

    return jax.device_get(everything({name: CASES[name].data for name in CASES}))


def cones_of(program, data):
    return program(*map(jnp.asarray, data))[0]


def chained(slopes, data_slopes):
    """∂x/∂(P, c, A, b) · ∂(P, c, A, b)/∂datum."""
    return sum(
        np.tensordot(np.asarray(own, float), inner, axes=own.ndim - 1)
        for own, inner in zip(slopes, data_slopes, strict=True)
    )


@functools.cache
def found(frame, precision):
    """Each case's solution and its derivatives, all cases of a frame in one batch."""
    names = [name for name in CASES if FRAMES[name] is frame]
    cones = {name: cones_of(*CASES[name][::2]) for name in names}
    data = {name: exact()[1][name] for name in names}
    batch = [frame.embed(cones[name], *data[name][0]) for name in names]
    batch = tuple(np.stack(part).astype(precision) for part in zip(*batch, strict=True))
    solution, slopes = solution_and_slopes(ConeProgram(frame.cones), jax.jacrev)(*batch)
    answers = {}
    for i, name in enumerate(names):
        k = exact()[0][name][0].size
        own = frame.own(cones[name], len(data[name][0][1]), [part[i] for part in slopes])
        inner = zip(*data[name][1], strict=True)  # by datum, of P, c, A, b each
        jacobians = [chained([part[:k] for part in own], datum) for datum in inner]
        answers[name] = solution.primal[i, :k], jacobians
    return answers


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives_in_every_datum(name, precision):
    value, jacobians = found(FRAMES[name], precision)[name]
    truth, slopes = exact()[0][name]
    tolerance = 1e-8 if precision == np.float64 else 1e-3
    assert value.dtype == precision
    for own, expected in zip((value, *jacobians), (truth, *slopes), strict=True):
        own = np.reshape(own, expected.shape)
        assert np.linalg.norm(expected) > 0
        assert np.linalg.norm(own - expected) <= tolerance * np.linalg.norm(expected)


def test_the_cases_have_something_to_decide():
    """Constraints that bind and others that do not, singular values above and below the threshold."""
    assert 0 < SUPPORT.sum() < 3
    for name in ("box", "simplex", "water filling"):
        value = exact()[0][name][0]
        assert 0 < np.sum(np.isin(value, [0.0, -0.1, 0.7])) < value.size
    assert np.sum(np.linalg.svd(MATRIX)[1] > 0.6) in (1, 2)
    assert np.all(np.abs(np.linalg.eigvalsh(smat(jnp.asarray(SYMMETRIC), 3))) > 0.05)


def relu(p):
    one = jnp.eye(1)
    return quadratic(one, -p, None, None, -one, jnp.zeros(1))


def to_the_segment(matrix, start, end):
    """The distance of a matrix from the segment between two others."""
    along = end - start
    t = np.clip(np.sum((matrix - start) * along) / np.sum(along * along), 0, 1)
    return np.linalg.norm(matrix - start - t * along)


UNIT = np.array([0.6, 0.8])
# PEERS' degenerate cases: the map, the point, and the two ends of its set of derivatives
DEGENERATE = {
    "max(p, 0) at 0": (relu, np.zeros(1), np.zeros((1, 1)), np.ones((1, 1))),
    "diag(1, 0) on the semidefinite cone": (
        semidefinite,
        np.array([1.0, 0.0, 0.0]),
        np.diag([1.0, 1.0, 0.0]),
        np.eye(3),
    ),
    "group prox at ‖p‖ = 1": (
        lambda p: group_prox(p, jnp.ones(())),
        UNIT,
        np.zeros((2, 2)),
        np.outer(UNIT, UNIT),
    ),
}


def tie(q):
    """min q₁x₁ + q₂x₂ over x₁ + x₂ ≥ 1, x ≥ 0."""
    G, h = jnp.array([[-1.0, -1], [-1, 0], [0, -1]]), jnp.array([-1.0, 0, 0])
    return quadratic(jnp.zeros((2, 2)), q, None, None, G, h)


@functools.cache
def at_the_degenerate_points(selection):
    """By name: solution, forward and reverse Jacobian in p, verdict; all in one batch."""
    frame = Frame(Cones(nonnegative=3, second_order=(3,), semidefinite=(2,)), 3)
    layers = {name: case[:2] for name, case in DEGENERATE.items()} | {"tie": (tie, np.ones(2))}
    cones = {name: cones_of(layer, (point,)) for name, (layer, point) in layers.items()}

    @jax.jit
    def data(points):
        return {
            name: with_jacobians(lambda p, own=layer: own(p)[1], (points[name],))
            for name, (layer, _) in layers.items()
        }

    known = jax.device_get(data({name: point for name, (_, point) in layers.items()}))
    batch = [frame.embed(cones[name], *known[name][0]) for name in layers]
    run = solution_and_slopes(ConeProgram(frame.cones, selection=selection), jax.jacfwd, jax.jacrev)
    solution, *modes = run(*(np.stack(part) for part in zip(*batch, strict=True)))
    answers = {}
    for i, (name, (_, point)) in enumerate(layers.items()):
        inner, k = [part[0] for part in known[name][1]], len(point)
        own = [
            frame.own(cones[name], len(known[name][0][1]), [part[i] for part in slopes])
            for slopes in modes
        ]
        forward, reverse = (chained([part[:k] for part in slopes], inner) for slopes in own)
        answers[name] = solution.primal[i, :k], forward, reverse, solution.info.verdict[i]
    return answers


@pytest.mark.parametrize("name", DEGENERATE)
def test_at_a_degenerate_point_each_selection_is_an_element_of_the_set(name):
    _, _, start, end = DEGENERATE[name]
    found = {}
    for selection in ("lower", "upper"):
        _, forward, reverse, _ = at_the_degenerate_points(selection)[name]
        np.testing.assert_allclose(forward, reverse, atol=1e-12)
        assert to_the_segment(forward, start, end) <= 1e-9
        found[selection] = forward
    # left out, the weakly active piece lets the solution move; kept, it holds it
    np.testing.assert_allclose(found["lower"], end, atol=1e-9)
    np.testing.assert_allclose(found["upper"], start, atol=1e-9)


@pytest.mark.parametrize("selection", ["lower", "upper"])
def test_a_linear_program_with_a_tie_has_no_derivative_and_says_so(selection):
    primal, forward, reverse, verdict = at_the_degenerate_points(selection)["tie"]
    np.testing.assert_allclose(np.sum(primal), 1.0, atol=1e-9)
    assert verdict == Verdict.REFUTED
    assert np.all(np.isnan(forward))
    assert np.all(np.isnan(reverse))
