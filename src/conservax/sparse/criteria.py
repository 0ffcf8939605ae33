"""Criteria by which penalties are chosen, as differentiable functions of them.

Each takes a model and data and returns f(*parameters), a scalar: ready for ``jax.value_and_grad``, jit, and
``cx.conservative_jacobian``'s users.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError
from .fit import concrete
from .model import Model

Criterion = Callable[..., jax.Array]
_LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "squared": lambda z, y: (y - z) ** 2,
    "logistic": lambda z, y: jnp.logaddexp(0.0, -y * z),
    "hinge": lambda z, y: jnp.maximum(0.0, 1 - y * z),
}


def held_out(
    model: Model, X: Any, y: Any, X_out: Any, y_out: Any, loss: str = "squared", **options: Any
) -> Criterion:
    """θ ↦ mean loss of the fit at penalties θ on held-out samples.

    Args:
        model: fitted on X (n, p), y (n,); judged on X_out (m, p), y_out (m,).
        loss: "squared", "logistic" or "hinge" (labels −1 and 1). options: of the model.

    Source: Bengio (2000); Bertrand and others (2022).

    >>> import numpy as np, conservax as cx
    >>> X, y = np.eye(2), np.array([3.0, 0.5])
    >>> round(float(cx.sparse.criteria.held_out(cx.sparse.lasso, X, y, X, y)(0.5)), 6)
    0.625
    """
    if loss not in _LOSSES:
        raise InvalidInputError(f"loss={loss!r} is none of {', '.join(map(repr, _LOSSES))}.")

    judged = jnp.asarray(X_out), jnp.asarray(y_out)  # once, not at every evaluation

    def criterion(*parameters: Any) -> jax.Array:
        return _mean_loss(model(X, y, *parameters, **options), *judged, loss)

    return criterion


@functools.partial(
    jax.jit, static_argnames="loss"
)  # one step of the gradient, not one for each operation
def _mean_loss(beta: jax.Array, X: jax.Array, y: jax.Array, loss: str) -> jax.Array:
    return jnp.mean(_LOSSES[loss](X @ beta, y))


def cross_validation(
    model: Model,
    X: Any,
    y: Any,
    folds: Iterable[tuple[Any, Any]],
    loss: str = "squared",
    **options: Any,
) -> Criterion:
    """θ ↦ the mean over folds of ``held_out``; ``folds`` are pairs of indices, as scikit-learn's ``split``.

    >>> import numpy as np, conservax as cx
    >>> X, y = np.ones((4, 1)), np.array([1.0, 2.0, 1.0, 2.0])
    >>> halves = [([0, 1], [2, 3]), ([2, 3], [0, 1])]
    >>> round(float(cx.sparse.criteria.cross_validation(cx.sparse.lasso, X, y, halves)(0.5)), 6)
    0.5
    """
    parts = [
        held_out(model, X[np.asarray(a)], y[np.asarray(a)], X[np.asarray(b)], y[np.asarray(b)], loss, **options)
        for a, b in folds
    ]  # fmt: skip
    return lambda *parameters: jnp.mean(jnp.stack([part(*parameters) for part in parts]))


def sure(
    model: Model,
    X: Any,
    y: Any,
    sigma: float,
    step: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Criterion:
    """θ ↦ an unbiased estimate of the prediction risk ‖X(β̂ − β)‖²/n under noise of deviation σ.

    ‖y − Xβ̂(y)‖²/n − σ² + 2σ² ⟨Xβ̂(y + εδ) − Xβ̂(y), δ⟩/(nε), δ one standard normal draw: degrees of
    freedom by a finite difference, so that the estimate has a useful gradient in θ.

    Args:
        sigma: σ. step: ε; 2σ/n^0.3 if not given. seed: of δ.

    Source: Stein (1981); Deledalle, Vaiter, Fadili, Peyré (2014), SUGAR.

    >>> import numpy as np, conservax as cx
    >>> risk = cx.sparse.criteria.sure(cx.sparse.lasso, np.eye(2), np.array([3.0, 0.5]), 0.1)
    >>> bool(risk(0.01) < risk(1.0))
    True
    """
    n = len(y)
    epsilon = 2 * sigma / n**0.3 if step is None else step
    delta = np.random.default_rng(seed).standard_normal(n)

    design = jnp.asarray(X)

    def criterion(*parameters: Any) -> jax.Array:
        here = design @ model(X, y, *parameters, **options)
        there = design @ model(X, y + epsilon * delta, *parameters, **options)
        freedom = (there - here) @ delta / epsilon
        return jnp.mean((y - here) ** 2) - sigma**2 + 2 * sigma**2 * freedom / n

    return criterion


def degrees_of_freedom(beta: Any) -> int:
    """The number of coefficients that are not zero: unbiased for the Lasso (Zou, Hastie, Tibshirani 2007)."""
    if not concrete(beta):
        raise InvalidInputError("the support is counted on values: call this outside jit and grad.")
    return int(np.count_nonzero(np.asarray(beta)))


def aic(model: Model, X: Any, y: Any, sigma: float, **options: Any) -> Callable[..., float]:
    """θ ↦ ‖y − Xβ‖²/(nσ²) + 2 df/n, df = |support|: Akaike's criterion, a value without a gradient."""
    return _information(model, X, y, lambda n: 2.0, sigma, options)


def bic(model: Model, X: Any, y: Any, sigma: float, **options: Any) -> Callable[..., float]:
    """θ ↦ ‖y − Xβ‖²/(nσ²) + log(n) df/n, df = |support|: Schwarz's criterion, a value without a gradient."""
    return _information(model, X, y, lambda n: float(np.log(n)), sigma, options)


def gcv(model: Model, X: Any, y: Any, **options: Any) -> Callable[..., float]:
    """θ ↦ (‖y − Xβ‖²/n)/(1 − df/n)²: generalised cross-validation (Golub, Heath, Wahba 1979).

    ∞ where df = n. A value without a gradient: df jumps at the kinks.

    >>> import numpy as np, conservax as cx
    >>> X, y = np.eye(2), np.array([3.0, 0.5])
    >>> round(float(cx.sparse.criteria.gcv(cx.sparse.lasso, X, y)(0.5)), 6)
    2.5
    """

    def criterion(*parameters: Any) -> float:
        beta = np.asarray(model(X, y, *parameters, **options), dtype=float)
        n = len(y)
        room = 1 - degrees_of_freedom(beta) / n
        return float(np.mean((y - X @ beta) ** 2) / room**2) if room > 0 else float("inf")

    return criterion


def _information(
    model: Model, X: Any, y: Any, price: Callable[[int], float], sigma: float, options: dict
) -> Callable[..., float]:
    def criterion(*parameters: Any) -> float:
        beta = np.asarray(model(X, y, *parameters, **options), dtype=float)
        n = len(y)
        misfit = float(np.mean((y - X @ beta) ** 2)) / sigma**2
        return misfit + price(n) * degrees_of_freedom(beta) / n

    return criterion
