"""``monitor``: during training, watch whether the derivatives of the solves inside can be trusted."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..calculus import AbsNormal, Kink, conservative_jacobian
from ..calculus.cuts.cut import Cutter
from ..calculus.cuts.point import Point, cutter_for
from ..calculus.tracing.invocation import Invocation, differentiable, require_values
from ..errors import ConservaxError, InvalidInputError, SingularError
from ..invertibility import Verdict, certify
from ..numerics import Tolerance, singular_value_floor, solver_output_tolerance
from . import monitor_view
from .solves import by_construction, own_form


@dataclass(frozen=True)
class Observation:
    """One solve at one step.

    Attributes:
        step: the step, as handed over; ``place``: file:line of the solve; ``instance``: its number
            among the executions of that line.
        kinks: the active kinks that the solve's own equations meet.
        verdict: whether every element of ∂F/∂sol is invertible; ``reason``: one sentence why.
        margin: a lower bound on σ_min over the set (None unless PROVEN); ``sigma_min``: smallest met
            (None where no element could be computed).
        residual: ‖F(sol)‖_∞, in F's units; None where it is NaN.
        fallback: why the gradient of this step is no element of the set (the system is singular at
            JAX's own selection, the point is no root, …); None if it is one.
    """

    step: int
    place: str
    instance: int
    kinks: tuple[Kink, ...]
    verdict: Verdict
    reason: str
    margin: float | None
    sigma_min: float | None
    residual: float | None
    fallback: str | None

    def to_dict(self) -> dict[str, Any]:
        """The observation as JSON-ready data, the verdict in lower case, the kinks as text."""
        return {
            "step": self.step,
            "place": self.place,
            "instance": self.instance,
            "active_kinks": [str(kink) for kink in self.kinks],
            "verdict": self.verdict.name.lower(),
            "reason": self.reason,
            "margin": self.margin,
            "sigma_min": self.sigma_min,
            "residual": self.residual,
            "fallback": self.fallback,
        }


class Critical(NamedTuple):
    """How far from critical a step stands.

    ``distance``: dist(0, conv D) in the first argument, D the function's conservative field; None where
    it could not be computed. ``kinks``: the number of active kinks.
    """

    step: int
    distance: float | None
    kinks: int


class Monitor:
    """A record of verdicts: call it in the training loop, read ``history``, print it, plot it.

    Attributes:
        every: the interval, in steps; other steps cost one comparison.
        history: the observations so far, one for each solve at each recorded step.
        criticality: if asked for, how far from critical each recorded step stands.
    """

    def __init__(self, fun: Callable[..., Any], every: int, criticality: bool = False) -> None:
        self.every = every
        self.history: list[Observation] = []
        self.criticality: list[Critical] = []
        self._loss = fun if criticality else None
        self._fun = functools.partial(_in_one_input, fun)

    def __call__(self, step: int, *args: Any) -> tuple[Observation, ...]:
        """Look at ``fun(*args)`` if it is this step's turn; returns what was seen, () if it is not.

        Raises InvalidInputError if ``step`` is no whole number or the function executes no
        ``custom_root`` solve, and what the calculus raises where it cannot read the program. What goes
        wrong at the values of one step alone is recorded as a fallback.
        """
        require_values([("step", step)], "monitor")
        try:
            step = operator.index(step)
        except TypeError:
            raise InvalidInputError(
                f"step must be a whole number, but is a {type(step).__name__}: watch(step, *args) takes the "
                "arguments of the function after it."
            ) from None
        if step % self.every:
            return ()
        require_values([(f"argument {n}", arg) for n, arg in enumerate(args)], "monitor")
        if self._loss is not None:
            self.criticality.append(_critical(int(step), self._loss, args))
        call = Invocation.of(self._fun, (_one_like(args), *args))
        cutter = cutter_for(call, call.owned_by((0,)))
        if not any(site.kind == "root" for site in cutter.program.sites):
            if self._loss is not None:
                return ()
            raise InvalidInputError(
                "the function that is monitored has no solve inside whose derivative it uses. Decorate its "
                "solver with cx.custom_root or cx.custom_fixed_point."
            )
        seen = tuple(_observe(int(step), call, cutter))
        self.history.extend(seen)
        return seen

    @property
    def kink_share(self) -> float:
        """The share of the recorded steps that stood at a kink; NaN without ``criticality=True``."""
        met = [c.kinks > 0 for c in self.criticality]
        return sum(met) / len(met) if met else float("nan")

    def to_rows(self) -> list[dict[str, Any]]:
        """The history as a list of JSON-ready dicts, say for ``pandas.DataFrame``."""
        return [observation.to_dict() for observation in self.history]

    def __str__(self) -> str:
        parts = [monitor_view.criticality_line(self.criticality)] if self.criticality else []
        if self.history or not parts:
            parts.append(monitor_view.to_text(self.history, self.every))
        return "\n\n".join(parts)

    def plot(self, axes: Sequence[Any] | None = None) -> Any:
        """Margins and verdicts against the step, and the number of active kinks below.

        Args:
            axes: two matplotlib Axes, for margins (or, without solves, distances to criticality) and
                kinks; a new figure by default.

        Returns:
            The figure. Raises ConservaxError without matplotlib, InvalidInputError without history.
        """
        if self.criticality and not self.history:
            return monitor_view.draw_criticality(self.criticality, axes)
        return monitor_view.draw(self.history, axes)


def _critical(step: int, loss: Callable[..., Any], args: Sequence[Any]) -> Critical:
    try:
        J = conservative_jacobian(loss)(*args)
        kinks = len(J.kinks)
        return Critical(step, float(np.linalg.norm(J.min_norm())), kinks)
    except InvalidInputError:  # no scalar, or NaN
        raise
    except ConservaxError:
        return Critical(step, None, 1)


def monitor(fun: Callable[..., Any], every: int = 1, *, criticality: bool = False) -> Monitor:
    """Watch every implicit solve inside ``fun``, a loss say, at a chosen interval during training.

    At each recorded step, for each solve F(y, θ) = 0 executed by ``fun(*args)``: is every element of
    ∂F/∂y at the kinks near y invertible, and by what margin?

    Args:
        fun: a function of arrays (pytrees) that calls solvers decorated with ``custom_root`` or
            ``custom_fixed_point``.
        criticality: record dist(0, conv D) in the first argument as well, and whether a kink was met;
            then the function, a scalar, need not hold a solve.
        every: look at every so many steps. A look costs a few evaluations of ``fun`` with its
            derivatives in the unknowns, and a certificate for each solve.

    Returns:
        A Monitor: ``watch(step, *args)`` in the loop, then ``watch.history``, ``print(watch)`` and
        ``watch.plot()``.

    Raises:
        InvalidInputError: ``every`` is not a positive integer.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2;
    docs/theory.md#p-matrices.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> solve = cx.custom_root(lambda y, a: y - jax.nn.relu(y / 2 - a))(
    ...     lambda init, a: jnp.maximum(0.0, -2 * a)
    ... )
    >>> watch = cx.monitor(lambda a: solve(None, a) ** 2, every=5)
    >>> [len(watch(step, 0.1 * step)) for step in range(6)]
    [1, 0, 0, 0, 0, 1]
    >>> [(o.step, len(o.kinks), o.verdict.name, o.margin > 0.4) for o in watch.history]
    [(0, 1, 'PROVEN', True), (5, 0, 'PROVEN', True)]
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InvalidInputError(f"every={every!r} must be a positive number of steps.")
    return Monitor(fun, every, criticality)


def _in_one_input(fun: Callable[..., Any], t: Any, *args: Any) -> list[Any]:
    """t ↦ fun(t · args), at t = 1: all that depends on an argument varies, through one column."""

    def scaled(leaf: Any) -> Any:
        real = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf * jnp.astype(t, leaf.dtype) if real else leaf

    return [
        leaf
        for leaf in jax.tree.leaves(fun(*jax.tree.map(scaled, args)))
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]


def _one_like(args: Sequence[Any]) -> jax.Array:
    """1 in the precision of the arguments, which decides when a kink counts as active."""
    real = [jnp.result_type(leaf) for leaf in jax.tree.leaves(differentiable(args))]
    return jnp.ones((), jnp.result_type(*real, jnp.bfloat16) if real else jnp.result_type(float))


@dataclass(frozen=True)
class _Execution:
    """One execution of a solve: where, which one of that line, and how good the root is."""

    place: str
    instance: int
    residual: float
    scale: float

    @property
    def executed(self) -> bool:
        return not np.isinf(self.residual)  # NaN is a solve that went wrong

    @property
    def relative(self) -> float:
        return self.residual / self.scale if self.scale > 0 else float(self.residual > 0)


def _executions(cutter: Cutter, leaves: Sequence[Any]) -> list[_Execution]:
    """The solves of the program in the order of ``AbsNormal.roots``; branches not taken included."""
    records = cutter.discover(leaves, Tolerance(0.0, 0.0)).records
    found, count = [], dict[str, int]()
    for site in cutter.program.sites:
        if site.kind != "root":
            continue
        place = site.location.short
        for slots in site.slots().reshape(-1, site.shape[-1]):
            residual = float(np.max(np.abs(records.z[slots]), initial=0.0))
            scale = float(np.max(records.size[slots], initial=0.0))
            found.append(_Execution(place, count.get(place, 0), residual, scale))
            count[place] = count.get(place, 0) + 1
    return found


def _observe(step: int, call: Invocation, cutter: Cutter) -> Iterator[Observation]:
    executions = _executions(cutter, call.leaves)
    worst = max((e.relative for e in executions if np.isfinite(e.relative)), default=0.0)
    tolerance = solver_output_tolerance(cutter.program.dtype, worst)
    try:
        point = Point.of(call, cutter.varied, tolerance)
        own = [by_construction(known) for _, known in point.own_certificates()]
        proved = all(o is not None for o, e in zip(own, executions, strict=True) if e.executed)
        forms = [] if proved else [own_form(form) for _, form in point.form(solves=True).roots]
    except ConservaxError as error:
        yield from (_without_form(step, e, error, executions) for e in executions if e.executed)
        return
    for i, (execution, known) in enumerate(zip(executions, own, strict=True)):
        if not execution.executed:
            continue
        certificate = known or certify(forms[i])
        yield Observation(
            step,
            execution.place,
            execution.instance,
            () if proved else forms[i].kinks,
            certificate.verdict,
            certificate.reason,
            certificate.margin,
            certificate.sigma_min if np.isfinite(certificate.sigma_min) else None,
            execution.residual,
            None if proved else _fallback(forms[i]),
        )


def _without_form(
    step: int, execution: _Execution, error: ConservaxError, executions: Sequence[_Execution]
) -> Observation:
    """What remains to be said where the linearised equations could not be formed."""
    alone = sum(e.executed for e in executions) == 1
    singular = isinstance(error, SingularError)
    if singular and alone:
        reason = "the linearised equations are singular, so the derivative of the solution may not exist here."
    elif singular:
        reason = "the equations of the solves are singular together; check each of them by itself."
    else:
        reason = "the equations could not be linearised at the values of this step."
    return Observation(
        step,
        execution.place,
        execution.instance,
        (),
        Verdict.REFUTED if singular and alone else Verdict.UNKNOWN,
        reason,
        None,
        None,
        execution.residual if np.isfinite(execution.residual) else None,
        f"{type(error).__name__}: {error}",
    )


def _fallback(form: AbsNormal) -> str | None:
    """Why JAX's own selection, the one that gradients take, has no element; None if it has one."""
    weights = np.array([w for g in form.groups for w in g.jax])
    try:
        element = form.jacobian(form.diagonal(weights))
        smallest = float(np.linalg.svd(element, compute_uv=False)[-1])
        singular = not smallest > singular_value_floor(element, form.dtype)
    except np.linalg.LinAlgError:
        singular = True
    if not singular:
        return None
    return (
        "the system is singular at the selection that the gradient takes: SingularError, NaN under jit, "
        'or the pseudo-inverse if the solver asked for singular="least_norm".'
    )
