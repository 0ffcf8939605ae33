"""``criticality``: is a point Clarke critical, or does it only look so to automatic differentiation?"""

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..calculus import AbsNormal, Kink, conservative_jacobian, definability
from ..calculus.sets.hull import nearest_point
from ..errors import (
    InvalidInputError,
    NotConvergedError,
    NotPolyhedralError,
    TooManyKinksError,
)
from ..invertibility import Rigour, Verdict
from ..numerics import machine_epsilon
from .affine import is_piecewise_affine
from .cells import Cells, cells

__all__ = ["Criticality", "criticality", "escape"]

_ROUND_OFF = 64  # units of round-off, relative to the gradients, below which a distance is 0
_SAMPLES = 64
_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Criticality:
    """What is known of the distance of 0 to the subdifferentials of a function at a point.

    Attributes:
        clarke: dist(0, ∂ᶜf(w)) where Clarke's subdifferential is known, else None.
        conservative: dist(0, conv D(w)), D the program's conservative field; None where it could not
            be computed.
        goldstein: a bound on the distance of 0 to the convex hull of all gradients within ``radius``,
            proved by gradients that were met; None for radius 0.
        radius: the radius of Goldstein's subdifferential.
        verdict: PROVEN: Clarke critical; REFUTED: not; UNKNOWN: 0 lies in conv D, and it was not
            decided whether it lies in ∂ᶜf; or a derivative was taken as given, a user's rule or
            ``stop_gradient`` of what varies.
        reason: one sentence why.
        rigour: EXACT if every active kink stands at its kink, AT_TOLERANCE if one is only near.
        artefact: True if 0 lies in conv D and not in ∂ᶜf; False if it does not; None if not known.
        direction: a direction of descent, −g for the shortest g of the smallest set known, a pytree like w;
            None where there is none.
        kinks: the active kinks.
    """

    clarke: float | None
    conservative: float | None
    goldstein: float | None
    radius: float
    verdict: Verdict
    reason: str
    rigour: Rigour
    artefact: bool | None
    direction: Any = dataclasses.field(repr=False)
    kinks: tuple[Kink, ...] = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON, the verdict in lower case, kinks as text."""
        names = ("clarke", "conservative", "goldstein", "radius", "reason", "artefact")
        return {
            **{n: getattr(self, n) for n in names},
            "verdict": self.verdict.name.lower(),
            "rigour": str(self.rigour),
            "active_kinks": [str(k) for k in self.kinks],
        }

    def __str__(self) -> str:
        title = {
            Verdict.PROVEN: "Clarke critical",
            Verdict.REFUTED: "not Clarke critical",
            Verdict.UNKNOWN: "not known to be critical",
        }[self.verdict]
        lines = textwrap.wrap(
            f"{self.verdict}, {title}: {self.reason}", _WIDTH, subsequent_indent="  "
        )
        facts = {
            "dist(0, ∂ᶜf)": self.clarke,
            "dist(0, conv D)": self.conservative,
            f"within {self.radius:g}": self.goldstein,
        }
        lines += [f"  {name:<16} {value:.3g}" for name, value in facts.items() if value is not None]
        lines.append(f"  {'active kinks':<16} {len(self.kinks)}")
        return "\n".join(lines)


def criticality(
    fun: Callable[..., Any],
    w: Any,
    *args: Any,
    radius: float = 0.0,
    key: jax.Array | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> Criticality:
    """Is w Clarke critical for a scalar function, 0 ∈ ∂ᶜf(w), or only an artefact, 0 ∈ conv D(w)?

    conv D ⊇ ∂ᶜf, so that a positive distance to conv D refutes. Where 0 lies in conv D, the sign
    patterns of the kinks that points near w can have bound ∂ᶜf from inside and from outside.

    Args:
        fun: a function of w (a pytree) and ``args`` that returns one number.
        w: the point. args: further arguments, held fixed.
        radius: of Goldstein's subdifferential; gradients at random points so near are looked at.
        key: for these points. atol, rtol: when a kink counts as active, as in
            ``cx.conservative_jacobian``.

    Returns:
        A Criticality.

    Raises:
        InvalidInputError: the function is not scalar, w holds NaN, or radius is negative; and what
        ``cx.conservative_jacobian`` raises where the program jumps or has unbounded slopes.

    Source: conical gradients: Griewank, Walther (SIAM J. Optim. 2016); Goldstein (1977); Burke, Lewis,
    Overton (SIAM J. Optim. 2005); docs/training.md.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> def f(w):  # it is w, and its automatic derivative at 0 is 0
    ...     return jax.nn.relu(w) - jax.nn.relu(-w)
    >>> report = cx.stochastic.criticality(f, 0.0)
    >>> report.verdict.name, report.conservative, report.clarke, report.artefact
    ('REFUTED', 0.0, 1.0, True)
    >>> cx.stochastic.criticality(jnp.abs, 0.0).verdict.name
    'PROVEN'
    """
    if not radius >= 0:
        raise InvalidInputError(f"radius={radius!r} must be at least 0.")
    flat, unravel = flattened(w)
    J = conservative_jacobian(fun, atol=atol, rtol=rtol)(w, *args)
    if J.shape[0] != 1:
        raise InvalidInputError(
            f"criticality is of scalar functions; this one returns {J.shape[0]} numbers. Sum or average them."
        )
    # a user's rule, or a value that varies under stop_gradient: D may be no conservative field
    given = definability(fun, w, *args).unverified
    form = J.form
    scale = float(np.linalg.norm(form.A) + np.linalg.norm(form.H) * np.linalg.norm(form.E))
    zero = _ROUND_OFF * machine_epsilon(form.dtype) * max(scale, 1e-300)
    near = any(k.distance > 0 for k in J.kinks)
    rigour = Rigour.AT_TOLERANCE if near else Rigour.EXACT

    shortest: np.ndarray | None
    try:
        shortest = J.min_norm()
        conservative: float | None = float(np.linalg.norm(shortest))
    except (TooManyKinksError, NotPolyhedralError):
        shortest = conservative = None
    goldstein, sampled = None, None
    if radius > 0:
        sampled = _goldstein(fun, flat, unravel, args, radius, key)
        goldstein = float(np.linalg.norm(sampled)) if sampled is not None else None

    def report(
        verdict: Verdict, reason: str, clarke: float | None, artefact: bool | None, g: Any
    ) -> Criticality:
        direction = None
        if given:
            verdict, clarke, artefact = Verdict.UNKNOWN, None, None
            rule = f"{given[0].operation} ({given[0].place})"
            reason = f"the derivative of {rule} is taken as given, and ∂ᶜf with it."
        elif g is not None and float(np.linalg.norm(g)) > zero:
            direction = unravel(jnp.asarray(-g, flat.dtype))
        return Criticality(
            clarke, conservative, goldstein, float(radius), verdict, reason, rigour, artefact, direction,
            J.kinks,
        )  # fmt: skip

    if not J.kinks:
        g = form.A[0]
        length = float(np.linalg.norm(g))
        if length <= zero or length == 0:
            return report(
                Verdict.PROVEN, "no kink is active and the gradient is 0.", 0.0, False, None
            )
        return report(
            Verdict.REFUTED, "no kink is active and the gradient is not 0.", length, False, g
        )
    if conservative is not None and conservative > zero:
        clarke = conservative if J.clarke_exact else None
        inner, outer = (None, None) if clarke is not None else _bounds(fun, w, args, form)
        if inner is not None and outer is not None and _same(inner, outer, zero):
            clarke = float(np.linalg.norm(inner))
        reason = "0 lies outside of conv D, which holds ∂ᶜf."
        return report(Verdict.REFUTED, reason, clarke, False, shortest)
    if conservative is not None and J.clarke_exact:
        reason = "0 lies in conv D, which is ∂ᶜf: the kinks move independently."
        return report(Verdict.PROVEN, reason, 0.0, False, None)
    inner, outer = _bounds(fun, w, args, form)
    if inner is not None and float(np.linalg.norm(inner)) <= zero:
        reason = "0 is a convex combination of gradients of pieces that meet at the point."
        return report(Verdict.PROVEN, reason, 0.0, False, None)
    if outer is not None and float(np.linalg.norm(outer)) > zero:
        known = inner is not None and _same(inner, outer, zero)
        clarke = float(np.linalg.norm(outer)) if known else None
        reason = (
            "0 lies in conv D by dependent kinks alone: no pieces that meet at the point have it."
        )
        artefact = True if conservative is not None else None
        return report(Verdict.REFUTED, reason, clarke, artefact, outer)
    if sampled is not None and float(np.linalg.norm(sampled)) > zero:
        reason = (
            f"0 lies in conv D, and gradients within {radius:g} stay {goldstein:.3g} away from it: "
            "an artefact is likely. Try cx.stochastic.escape."
        )
    else:
        reason = (
            "0 may lie in ∂ᶜf: the kinks are dependent, or too many to visit. Try a radius > 0."
        )
    return report(Verdict.UNKNOWN, reason, None, None, sampled)


def flattened(w: Any) -> tuple[jax.Array, Callable[[Any], Any]]:
    """w as one vector, and the way back; InvalidInputError unless w holds floats alone, at least one."""
    kinds = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(w) if jnp.size(leaf)}
    if not kinds or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise InvalidInputError(
            f"w must hold floating-point numbers; it holds {', '.join(sorted(kinds)) or 'nothing'}."
        )
    return ravel_pytree(w)


def _shortest(points: np.ndarray) -> np.ndarray:
    """The shortest point of a convex hull of rows, by Wolfe's method."""

    def support(direction: np.ndarray) -> tuple[float, np.ndarray]:
        values = points @ direction.ravel()
        i = int(np.argmin(values))
        return float(values[i]), points[i][None]

    start = points[int(np.argmin(np.linalg.norm(points, axis=1)))][None]
    return nearest_point(support, np.zeros_like(start), start).point[0]


def _bounds(
    fun: Callable[..., Any], w: Any, args: tuple[Any, ...], form: AbsNormal
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The shortest elements of a set inside ∂ᶜf and of one that holds it; None where not known."""
    found: Cells | None = cells(form)
    if found is None or not len(found.strict):
        return None, None
    inner = _shortest(found.strict)
    if is_piecewise_affine(lambda w: fun(w, *args), w):
        return inner, inner
    return inner, _shortest(found.weak) if len(found.weak) else None


def _same(a: np.ndarray, b: np.ndarray, zero: float) -> bool:
    return float(np.linalg.norm(a - b)) <= zero


def _goldstein(
    fun: Callable[..., Any],
    flat: jax.Array,
    unravel: Callable[[Any], Any],
    args: tuple[Any, ...],
    radius: float,
    key: jax.Array | None,
) -> np.ndarray | None:
    """The shortest convex combination of gradients within the radius, each where no kink is active."""
    key = jax.random.key(0) if key is None else key
    count = min(2 * flat.size + 8, _SAMPLES)
    normal = np.asarray(jax.random.normal(key, (count, flat.size), flat.dtype), np.float64)
    share = np.linspace(0.1, 0.999, count)[:, None] ** (1 / max(flat.size, 1))
    steps = radius * share * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    gradients = []
    at = conservative_jacobian(fun, atol=0.0, rtol=0.0)
    for step in steps:
        J = at(unravel(flat + jnp.asarray(step, flat.dtype)), *args)
        if not J.kinks:
            gradients.append(J.form.A[0])
    return _shortest(np.array(gradients)) if gradients else None


def escape(
    fun: Callable[..., Any],
    w: Any,
    *args: Any,
    radius: float = 1e-3,
    key: jax.Array | None = None,
) -> Any:
    """Leave a point that is not Clarke critical, an artefact say, downhill: f(w⁺) < f(w).

    The direction is −g for the shortest element of ∂ᶜf, where that is known, else of gradients within
    ``radius``, which shrinks tenfold up to three times; the step is found by halving, until
    f(w − tg) ≤ f(w) − t‖g‖²/4.

    Args: as of ``criticality``.

    Returns:
        A pytree like w with a lower value.

    Raises:
        NotConvergedError: w is Clarke critical, or no descent was found.

    Source: Burke, Lewis, Overton, A robust gradient sampling algorithm (SIAM J. Optim. 2005); Kiwiel
    (SIAM J. Optim. 2007).

    >>> import jax, conservax as cx
    >>> f = lambda w: jax.nn.relu(w) - jax.nn.relu(-w)
    >>> float(cx.stochastic.escape(f, 0.0)) < 0
    True
    """
    flat, unravel = flattened(w)
    for attempt in range(4):
        report = criticality(fun, w, *args, radius=radius / 10**attempt, key=key)
        if report.verdict == Verdict.PROVEN:
            raise NotConvergedError(
                f"w is Clarke critical ({report.reason}) There is no way down to first order."
            )
        if report.direction is None:
            continue
        direction = ravel_pytree(report.direction)[0]
        squared = float(jnp.sum(jnp.square(direction)))
        step, before = 1.0, float(fun(w, *args))
        while step * np.sqrt(squared) > machine_epsilon(flat.dtype) * max(
            1.0, float(jnp.max(jnp.abs(flat)))
        ):
            moved = unravel(flat + step * direction)
            if float(fun(moved, *args)) < before - step * squared / 4:
                return moved
            step /= 2
    raise NotConvergedError(
        "no descent was found: the point may be critical within the radius. Try another key or radius."
    )
