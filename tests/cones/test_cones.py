"""Cones: Moreau's decomposition, finite differences, and the extremes of their Clarke Jacobians."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from conservax import cones, errors
from helpers import on_numpy

COUNT = 300  # points that a compiled function takes at once
CONES = {
    "zero": cones.Zero(3),
    "free": cones.Free(3),
    "non_negative": cones.NonNegative(3),
    "second_order": cones.SecondOrder(3),
    "psd": cones.PositiveSemidefinite(3),
    "exponential": cones.Exponential(),
    "power .5": cones.Power(0.5),
    "power .2": cones.Power(0.2),
    "dual exponential": cones.Exponential().dual(),
    "dual power .7": cones.Power(0.7).dual(),
}


@functools.cache
def compiled(name):
    """(batched projection, batched Clarke Jacobian, batched reverse Jacobian) of a cone."""
    cone = CONES[name]
    return (
        on_numpy(jax.vmap(cone.project)),
        on_numpy(jax.vmap(cone.clarke)),
        on_numpy(jax.vmap(jax.jacrev(cone.project))),
    )


def rays(name):
    """Unit vectors that generate the cone, densely: a cone is what these span."""
    if name in ("zero",):
        return np.zeros((1, 3))
    if name in ("free",):
        return np.concatenate([np.eye(3), -np.eye(3)])
    if name == "non_negative":
        return np.eye(3)
    if name == "second_order":
        angle = np.linspace(0, 2 * np.pi, 400)
        return np.stack([np.ones(400), np.cos(angle), np.sin(angle)], 1) / math.sqrt(2)
    if name == "psd":
        q = np.random.default_rng(0).normal(size=(400, 3))
        q /= np.linalg.norm(q, axis=1, keepdims=True)
        return on_numpy(jax.vmap(CONES[name].vector))(q[:, :, None] * q[:, None])
    if name == "exponential":
        r = np.concatenate([np.linspace(-40, 40, 4001), -np.logspace(1.6, 6, 200)])
        k = np.stack([r, np.ones_like(r), np.exp(r)], 1)
        k = np.concatenate([k, [[0, 0, 1], [-1, 0, 0]]])
    elif name == "dual exponential":
        r = np.linspace(-40, 40, 4001)
        k = np.stack([-np.ones_like(r), r, np.exp(-r - 1)], 1)
        k = np.concatenate([k, [[0, 1, 0], [0, 0, 1]]])
    else:
        alpha = CONES[name].alpha if name.startswith("power") else CONES[name].cone.alpha
        u = np.linspace(-30, 30, 2001)
        x, y = np.exp(u * (1 - alpha)), np.exp(-u * alpha)
        scale = 1.0
        if name.startswith("dual"):
            scale = alpha**-alpha * (1 - alpha) ** (alpha - 1)
        k = np.concatenate([np.stack([x, y, s * scale * np.ones_like(u)], 1) for s in (1, -1)])
        k = np.concatenate([k, [[1, 0, 0], [0, 1, 0]]])
    return k / np.linalg.norm(k, axis=1, keepdims=True)


def random_points(name):
    rng, shape = np.random.default_rng(1), (COUNT, CONES[name].size)
    return rng.normal(size=shape) * rng.choice([1e-3, 0.1, 1, 1e3], size=shape)


@pytest.mark.parametrize("name", CONES)
def test_moreau(name):
    """p ∈ K, v − p ∈ K° and ⟨p, v − p⟩ = 0: these determine the projection."""
    v = random_points(name)
    p = compiled(name)[0](v)
    size = abs(v).max(axis=1)
    assert np.all(np.isfinite(p))
    assert np.max(abs(np.sum(p * (v - p), axis=1)) / size**2) < 1e-14
    polar = (v - p) @ rays(name).T  # ≤ 0 against every ray of K
    assert np.max(polar.max(axis=1) / size) < 1e-9
    dual = {"zero": "free", "free": "zero", "exponential": "dual exponential"}.get(name, name)
    if name in ("power .5", "power .2", "dual exponential", "dual power .7"):
        again = compiled(name)[0](p)  # p ∈ K by its being a fixed point
        np.testing.assert_allclose(again, p, atol=1e-8 * size.max())
    else:
        assert np.min((p @ rays(dual).T).min(axis=1) / size) > -1e-9


@pytest.mark.parametrize("name", CONES)
def test_elements_are_the_derivative_and_lie_between_0_and_the_identity(name):
    project, clarke, reverse = compiled(name)
    v = np.random.default_rng(2).normal(size=(COUNT, CONES[name].size))
    of = clarke(v)
    V = of.element
    np.testing.assert_allclose(reverse(v), V, atol=1e-11)
    np.testing.assert_allclose(V, V.transpose(0, 2, 1), atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(V)
    assert eigenvalues.min() > -1e-13
    assert eigenvalues.max() < 1 + 1e-13
    # finite differences where the nearest kink is out of their reach
    far = of.margin > 1e-2
    columns = []
    for i in range(v.shape[1]):
        h = 1e-6 * np.eye(v.shape[1])[i]
        columns.append((project(v + h) - project(v - h)) / 2e-6)
    quotients = np.stack(columns, axis=-1)
    assert np.sum(far) > 50
    np.testing.assert_allclose(quotients[far], V[far], atol=1e-6)
    np.testing.assert_array_equal(of.lower[far], of.upper[far])


KINKS = {
    "non_negative": [[0.0, 1, -1], [0, 0, 0]],
    "second_order": [[1.0, 0.6, 0.8], [-1, 0.6, 0.8], [0, 0, 0]],
    "psd": [[1.0, 0, 0, 0, 0, -1], [1, 0, 0, 0, 0, 0], [0, 0, 0, -1, 0, 0], [0] * 6],
    "exponential": [
        [1.0, 1, math.e],
        [-2, 1, math.exp(-2)],
        [1, 1, -1],  # on the boundary of the polar: x exp(y/x − 1) = −z
        [-1, 0, 1],
        [-1, 0, -1],
        [0, -1, 1],
        [0, 0, 0],
        [-1, -1, 0],
    ],
    "power .5": [[4.0, 1, 2], [-1, -1, 2], [0, 1, 0], [-1, 0, 0], [0, 0, 0]],
    "power .2": [[1.0, 1, 1], [-0.2, -0.8, -1], [0, 1, 0], [0, 0, 0]],
    "dual exponential": [[-1.0, -1, 1], [-1.0, -1, -math.e], [0, 1, 1]],
    "dual power .7": [[0.7, 0.3, 1], [-1, -1, 1]],
}


@pytest.mark.parametrize(("name", "v"), [(n, v) for n, points in KINKS.items() for v in points])
def test_at_a_kink_the_extremes_hold_every_limit_of_derivatives(name, v):
    v = np.array(v, float)
    _, clarke, reverse = compiled(name)
    steps = np.random.default_rng(3).normal(size=(COUNT, v.size))
    steps[0] = 0.0  # v itself comes first
    near = v + 1e-6 * steps
    of = jax.tree.map(lambda a: a[0], clarke(near))
    assert of.margin < 1e-9
    limits = [*reverse(near), of.element]
    for V in limits:
        # nearby derivatives differ from limits by the distance, and by its root at edges
        assert np.linalg.eigvalsh(V - of.lower)[0] > -2e-5
        assert np.linalg.eigvalsh(of.upper - V)[0] > -2e-5
    for end in (of.lower, of.upper):
        np.testing.assert_allclose(end, end.T, atol=1e-15)
        eigenvalues = np.linalg.eigvalsh(end)
        assert eigenvalues[0] > -1e-12
        assert eigenvalues[-1] < 1 + 1e-12
        if of.exact:  # an extreme that is an element is a limit of nearby ones, or in their hull
            assert min(np.linalg.norm(end - V) for V in limits) < (
                1e-4 if name not in ("psd", "second_order", "non_negative") else 2
            )
    assert np.linalg.norm(of.upper - of.lower) > 0.1


def test_the_extremes_of_the_psd_cone_are_the_table():
    """Eigenvalues 2, 0, −1: 1 on αα and αβ, 2/3 on αγ, W ∈ [0, 1] on ββ, 0 on βγ and γγ."""
    cone = cones.PositiveSemidefinite(3)
    rng = np.random.default_rng(4)
    vector = on_numpy(cone.vector)
    Q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    X = Q @ np.diag([2.0, 0, -1]) @ Q.T
    of = on_numpy(cone.clarke)(vector(X))
    table = np.array([[1, 1, 2 / 3], [1, np.nan, 0], [2 / 3, 0, 0]])
    for V, w in ((of.lower, 0), (of.upper, 1)):
        weights = np.where(np.isnan(table), w, table)
        for _ in range(4):
            D = rng.normal(size=(3, 3))
            D = D + D.T
            expected = Q @ (weights * (Q.T @ D @ Q)) @ Q.T
            np.testing.assert_allclose(V @ vector(D), vector(expected), atol=1e-12)
    assert bool(of.exact)


def test_psd_coordinates_are_those_of_scs_and_isometric():
    cone = cones.PositiveSemidefinite(3)
    X = jnp.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    root = math.sqrt(2)
    np.testing.assert_allclose(cone.vector(X), [1, 2 * root, 3 * root, 4, 5 * root, 6], rtol=1e-15)
    np.testing.assert_allclose(cone.matrix(cone.vector(X)), X, rtol=1e-15)


@pytest.mark.parametrize(
    "v", [(1.0, 1.0, 1.0), (-3.0, 2.0, -1.0), (0.0, 1.0, 0.0), (2.0, -5.0, 3.0)]
)
def test_the_exponential_cone_against_forty_digits(v):
    """The point y (ρ, 1, e^ρ) whose residual is normal to the boundary, by mpmath."""
    p = np.asarray(cones.Exponential().project(jnp.array(v)))
    with mpmath.workdps(40):

        def conditions(y, r):
            point = [y * r, y, y * mpmath.exp(r)]
            rest = [a - b for a, b in zip(v, point, strict=True)]
            along = (r, mpmath.mpf(1), mpmath.exp(r))
            across = (mpmath.mpf(1), mpmath.mpf(0), mpmath.exp(r))
            return [mpmath.fdot(rest, along), mpmath.fdot(rest, across)]

        y, r = mpmath.findroot(conditions, (float(p[1]), float(p[0] / p[1])), tol=1e-30)
        exact = [float(y * r), float(y), float(y * mpmath.exp(r))]
    np.testing.assert_allclose(p, exact, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.9])
def test_the_power_cone_solves_its_stationarity(alpha):
    """(v − p) is a multiple of the gradient of |z| − x^α y^(1−α) at p, on the boundary."""
    some = np.random.default_rng(5).normal(size=(20, 3))
    for v, p in zip(some, on_numpy(jax.vmap(cones.Power(alpha).project))(some), strict=True):
        rest = v - p
        if min(np.linalg.norm(rest), abs(p).min()) < 1e-3:
            continue
        f = p[0] ** alpha * p[1] ** (1 - alpha)
        assert abs(f - abs(p[2])) < 1e-13
        gradient = np.array([-alpha * f / p[0], (alpha - 1) * f / p[1], np.sign(p[2])])
        np.testing.assert_allclose(rest, rest[2] / gradient[2] * gradient, atol=1e-11)


@pytest.mark.parametrize("name", ["second_order", "psd", "exponential", "power .2"])
def test_float32_and_a_change_of_scale(name):
    cone = CONES[name]
    v = np.random.default_rng(6).normal(size=(COUNT, cone.size))
    project = compiled(name)[0]
    exact = project(v)
    single = project(v.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=1e-5)
    for scale in (1e-9, 1e9):
        np.testing.assert_allclose(project(scale * v) / scale, exact, atol=1e-12)


def test_duals_are_involutions_and_bad_cones_are_refused():
    for cone in CONES.values():
        assert cone.dual().dual() == cone
        assert cone.dual().size == cone.size
    with pytest.raises(errors.InvalidInputError, match="alpha"):
        cones.Power(1.0)
    with pytest.raises(errors.InvalidInputError, match="size 2"):
        cones.SecondOrder(1)


def test_a_product_is_its_factors_one_after_the_other():
    factors = [cones.Power(0.2), cones.NonNegative(3), cones.PositiveSemidefinite(3), cones.Zero(2)]
    factors += [cones.Exponential().dual(), cones.SecondOrder(3)]
    product = cones.Product(*factors)
    v = np.random.default_rng(7).normal(size=product.size)
    v[3:6] = [0.0, 1.0, -1.0]  # on the kink of the orthant
    ends = np.cumsum([0, *(factor.size for factor in factors)])

    @on_numpy
    def all_of_it(v):
        parts = [v[i:j] for i, j in itertools.pairwise(ends)]
        return (
            (product.project(v), product.clarke(v), jax.jacobian(product.project)(v)),
            product.dual().project(-v),
            [(f.project(part), f.clarke(part)) for f, part in zip(factors, parts, strict=True)],
        )

    (p, of, jacobian), q, each = all_of_it(v)
    duals = product.dual().cones
    for factor, dual, i, j, (projected, own) in zip(
        factors, duals, ends[:-1], ends[1:], each, strict=True
    ):
        np.testing.assert_array_equal(p[i:j], projected)
        for whole, block in zip(of[:3], own[:3], strict=True):
            np.testing.assert_allclose(whole[i:j, i:j], block, atol=1e-15)
            assert not np.any(whole[i:j, j:])
            assert not np.any(whole[i:j, :i])
        assert dual == factor.dual()
    assert of.margin == 0.0
    np.testing.assert_allclose(np.diag(of.upper - of.lower)[3:6], [1.0, 0.0, 0.0], atol=0)
    # Moreau, for the whole
    np.testing.assert_allclose(p - q, v, atol=1e-12)
    np.testing.assert_allclose(p @ q, 0.0, atol=1e-12)
    np.testing.assert_allclose(jacobian, of.element, atol=1e-11)


def test_products_refuse_what_does_not_fit():
    with pytest.raises(errors.InvalidInputError, match=r"but got \[Zero"):
        cones.Product([cones.Zero(1)])
    with pytest.raises(errors.InvalidInputError, match="5 entries in all"):
        cones.Product(cones.Zero(2), cones.SecondOrder(3)).project(jnp.ones(4))
    assert cones.Product().clarke(jnp.zeros(0)).upper.shape == (0, 0)
