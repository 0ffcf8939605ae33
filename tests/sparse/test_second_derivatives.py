"""Second derivatives: exact where solutions are piecewise affine, refused by name elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import conservax as cx
from conservax.errors import UnsupportedOperationError
from sparse.sparse_cases import cases, data

X, Y = data()
LABELS = data(40, 6, 3, labels=True)
LOSSES = {
    "lasso": lambda t: jnp.sum(cx.sparse.lasso(X, Y + t[1], jnp.exp(t[0])) ** 4),
    "elastic_net": lambda t: jnp.sum(cx.sparse.elastic_net(X, Y * t[1], jnp.exp(t[0]), 0.3) ** 3),
    "weighted_lasso": lambda t: jnp.sum(
        cx.sparse.weighted_lasso(X, Y, jnp.exp(t[0] + t[1] * jnp.arange(8) / 8)) ** 4
    ),
    "slope": lambda t: jnp.sum(
        cx.sparse.slope(X, Y, jnp.exp(t[0]) * (1 + t[1] * jnp.arange(8)[::-1])) ** 4
    ),
    "svm": lambda t: jnp.sum(cx.sparse.svm(*LABELS, jnp.exp(t[0])) ** 3) * t[1],
    "intercept": lambda t: cx.sparse.lasso.with_intercept(X, Y + 3, jnp.exp(t[0]))[1] ** 3 * t[1],
}
MODES = {
    "forward over reverse": jax.hessian,
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "compiled": lambda f: jax.jit(jax.hessian(f)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_hessians_are_differences_of_gradients(name):
    loss, t, h = LOSSES[name], jnp.array([-1.6, 0.9]), 1e-4
    slope = jax.grad(loss)
    expected = np.stack([(slope(t + h * e) - slope(t - h * e)) / (2 * h) for e in np.eye(2)])
    for mode, hessian in MODES.items():
        found = hessian(loss)(t)
        np.testing.assert_allclose(
            found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(), err_msg=mode
        )


def test_hessians_under_vmap():
    loss, many = LOSSES["lasso"], jnp.array([[-1.6, 0.9], [-1.2, 0.1], [-2.0, 0.0]])
    for hessian in MODES.values():
        np.testing.assert_allclose(
            jax.vmap(hessian(loss))(many),
            jnp.stack([hessian(loss)(t) for t in many]),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("name", ["sparse_logistic", "group_lasso", "mcp", "huber"])
def test_what_bends_is_refused_by_name(name):
    case = cases()[name]
    loss = lambda a: jnp.sum(case.model(case.X, case.y, a, *case.parameters[1:]) ** 2)  # noqa: E731
    for hessian in (jax.hessian, lambda f: jax.grad(jax.grad(f))):
        with pytest.raises(UnsupportedOperationError, match=f"{name} has no second .* in alpha"):
            hessian(loss)(case.parameters[0])
    with pytest.raises(UnsupportedOperationError, match="lasso has no second derivative in X"):
        jax.hessian(lambda s: jnp.sum(cx.sparse.lasso(s * X, Y, 0.2) ** 2))(1.0)
