"""0 ∈ A(x) + B(x) by two resolvents: the Lasso and a box, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.errors import InvalidInputError

H = np.array([[2.0, 0.5], [0.5, 1.0]])


def quadratic(z, b):
    """(I + A)⁻¹ of A(x) = Hx − b."""
    return jnp.linalg.solve(jnp.eye(2) + H, z + b)


def box(z, b):
    return jnp.clip(z, 0.0, 1.0)


def test_a_quadratic_over_a_box():
    """b = (3, 0.2): x₁ = 1 at its bound, x₂ = b₂ − ½ < 0, hence 0; at (3, 0.9) x₂ = 0.4 is free."""
    solve = cx.flows.inclusion(quadratic, box)
    b = jnp.array([[3.0, 0.2], [3.0, 0.9]])
    x = jax.jit(jax.vmap(lambda b: solve(jnp.zeros(2), b)))(b)
    np.testing.assert_allclose(x, [[1.0, 0.0], [1.0, 0.4]], atol=1e-9)
    J = jax.jit(jax.vmap(jax.jacrev(lambda b: solve(jnp.zeros(2), b))))(b)
    np.testing.assert_allclose(J, [np.zeros((2, 2)), [[0, 0], [0, 1]]], atol=1e-9)
    z = solve.fixed_point(jnp.zeros(2), b[1])
    report = solve.check(z, b[1])
    assert report.verdict == cx.Verdict.PROVEN
    eigenvalues = np.linalg.eigvalsh(H)
    certificate = cx.flows.certify_inclusion(eigenvalues[0], eigenvalues[-1])
    assert certificate.verdict == cx.Verdict.PROVEN
    assert 0 < certificate.margin <= report.margin * (1 + 1e-6)


def test_the_rate_is_that_of_a_scaling():
    """A = aI: the reflected resolvent is (1 − a)/(1 + a)."""
    for a in (0.2, 1.0, 5.0):
        margin = cx.flows.certify_inclusion(a, a).margin
        np.testing.assert_allclose(margin, (1 - abs(1 - a) / (1 + a)) / 2, rtol=1e-9)
    with pytest.raises(InvalidInputError, match="strong"):
        cx.flows.certify_inclusion(2.0, 1.0)


def test_too_few_iterations_are_told():
    solve = cx.flows.inclusion(quadratic, box, max_iterations=2)
    assert np.isnan(solve(jnp.zeros(2), jnp.array([3.0, 0.9]))).all()
