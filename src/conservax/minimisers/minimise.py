"""``minimise``: methods for functions with kinks, each with a certificate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidInputError
from ..numerics import machine_epsilon
from ..solution import Status
from .bfgs import bfgs
from .bundle import bundle
from .certificate import GoldsteinCertificate, certify
from .gradient_sampling import gradient_sampling
from .min_norm import min_norm
from .oracle import Oracle
from .run import Method, Outcome, Settings, start_at

_METHODS: dict[str, Method] = {
    "bfgs": bfgs,
    "bundle": bundle,
    "gradient_sampling": gradient_sampling,
    "min_norm": min_norm,
}
_SHARE = 0.1  # of the evaluations are kept for the certificate
_WALKS = 20  # of the search for one, before a method goes on from there
_WORTH = 1e-9  # relative decrease of f that makes another round of a method worth it


class Statistics(NamedTuple):
    """f(x), evaluations (certificate included), iterations, ``gap`` (NaN without a radius), f so far.

    ``history[i]`` is the smallest value after i + 1 evaluations.
    """

    value: float
    evaluations: int
    iterations: int
    gap: float
    history: np.ndarray


class Minimum(NamedTuple):
    """``value``: x, like x0; ``status``; ``stats``; ``certificate``, None if none was found.

    The status is SOLVED with a certificate; without one MAX_ITERATIONS, or STALLED where evaluations are left.
    """

    value: Any
    status: Status
    stats: Statistics
    certificate: GoldsteinCertificate | None


def minimise(
    fun: Callable[..., Any],
    x0: Any,
    *args: Any,
    method: str = "auto",
    tol: float = 1e-6,
    delta: float = 1e-4,
    radius: float | None = None,
    max_evaluations: int = 5000,
    seed: int = 0,
) -> Minimum:
    """min f(x) for f locally Lipschitz, and points nearby that prove x to be Goldstein critical.

    Args:
        fun: f(x, *args), one number; its gradients are AD's. x0: where to start, an array or a pytree.
        method: "bfgs" (weak Wolfe line search), "bundle" (proximal), "gradient_sampling", "min_norm" (on
            the conservative gradient), or "auto": bfgs, and bundle from there if no certificate is found. Where
            the search for a certificate walks down instead, the method goes on from there.
        tol, delta: the certificate's ε and δ; methods try to reach tol, too.
        radius: for convex f only, R with a minimiser in B(x, R): ``stats.gap`` then bounds f(x) − min f.
        max_evaluations: of f with its gradient, in all; a tenth is kept for the certificate.
        seed: of the random points.

    Returns:
        A Minimum: x like x0; status; statistics; the certificate, or None, which proves nothing. x is the
        best point met, or where the search for a certificate went from there.

    Raises:
        InvalidInputError: an unknown method, x0 with NaN, fun of other than one number, NaN at x0.
        UnboundedError: f fell below −10³⁰, or along a line without end.

    Source: of each method in its file; certificates as in Goldstein (Math. Program. 1977).

    >>> import jax.numpy as jnp, conservax as cx
    >>> found = cx.minimise(
    ...     lambda x: jnp.abs(x[0]) + 10 * jnp.abs(x[1] - x[0] ** 2),
    ...     jnp.array([0.9, 0.5]),
    ...     tol=1e-3,
    ... )
    >>> found.certificate.recheck(), bool(found.stats.value < 1e-3)
    (True, True)
    """
    if method != "auto" and method not in _METHODS:
        raise InvalidInputError(f"method={method!r} is not one of auto, {', '.join(_METHODS)}.")
    for name, number in (("tol", tol), ("delta", delta), ("max_evaluations", max_evaluations)):
        if not number > 0:
            raise InvalidInputError(f"{name}={number} must be positive.")
    if max_evaluations != int(max_evaluations):
        raise InvalidInputError(f"max_evaluations={max_evaluations} must be a whole number.")
    if radius is not None and not radius > 0:
        raise InvalidInputError(f"radius={radius} must be positive.")
    oracle = Oracle(fun, x0, args, max_evaluations)
    settings = Settings(tol, delta, np.random.default_rng(seed))
    f0, _ = oracle(oracle.start)
    start = oracle.start
    if not np.isfinite(f0):  # perhaps only the gradient is none there
        start, f0, _ = start_at(oracle, start, settings.rng)
    if not np.isfinite(f0):
        raise InvalidInputError("fun or its gradient is no number at x0; start where it is finite.")
    order = ("bfgs", "bundle") if method == "auto" else (method,)
    outcome, certificate = Outcome(start, f0, Status.MAX_ITERATIONS, 0), None
    iterations, worth = 0, max(_WORTH, 8 * machine_epsilon(oracle.dtype))
    for name in order:
        fell = True
        while certificate is None and fell and (oracle.left > 0 or not iterations):
            before = outcome.f
            outcome = _run(_METHODS[name], oracle, outcome, settings, max_evaluations)
            iterations += outcome.iterations
            certificate, x, f = certify(
                oracle, outcome.x, outcome.f, delta, tol, settings.rng, _WALKS
            )
            outcome = outcome._replace(x=x, f=f)
            # a search that walked is away from where the method stood still: it may go on
            fell = f < before - worth * max(1.0, abs(f))
    if certificate is None:
        certificate, x, f = certify(oracle, outcome.x, outcome.f, delta, tol, settings.rng)
        outcome = outcome._replace(x=x, f=f)
    status = Status.SOLVED
    if certificate is None:
        status = Status.STALLED if oracle.left > 0 else Status.MAX_ITERATIONS
    gap = np.nan
    if radius is not None:
        gaps = [outcome.model_error + radius * outcome.model_norm]
        if certificate is not None:
            gaps.append(certificate.gap(radius))
        gap = float(np.nanmin(gaps)) if not np.all(np.isnan(gaps)) else np.inf
    history = np.minimum.accumulate(oracle.values)
    stats = Statistics(outcome.f, oracle.count, iterations, gap, history)
    return Minimum(oracle.unravel(outcome.x.astype(oracle.dtype)), status, stats, certificate)


@np.errstate(over="ignore", invalid="ignore")  # a method may leap: what is no number it then drops
def _run(
    method: Method, oracle: Oracle, before: Outcome, settings: Settings, budget: int
) -> Outcome:
    """A method within the budget less what the certificate may need, and the best point it met."""
    kept = int(_SHARE * budget)
    oracle.budget = max(budget - kept, oracle.count + 1)
    outcome = method(oracle, before.x, settings)
    oracle.budget = budget
    best = oracle.best
    if best >= 0 and oracle.values[best] < outcome.f:
        outcome = outcome._replace(x=oracle.points[best], f=oracle.values[best])
    return outcome
