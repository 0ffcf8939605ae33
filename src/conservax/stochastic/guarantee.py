"""``guarantee``: which convergence theorem a training run falls under, hypothesis by hypothesis."""

import dataclasses
import html
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..calculus import Definability, definability
from ..calculus.cuts.point import require_finite
from ..calculus.definable.entries import NOT_SHOWN
from ..errors import ConservaxError, InvalidInputError
from ..implicit import monitor
from ..invertibility import Verdict
from ..report import COLOURS, MARKS, WIDTH
from .composition import Chain
from .integral import Expectation, Finite
from .optimisers import Optimiser, require_optimiser
from .schedules import Status
from .theorems import NONE, chained, conclusion_of, steps_of

__all__ = ["Guarantee", "Hypothesis", "guarantee"]

_KIND = {Status.HOLDS: "proven", Status.FAILS: "refuted", Status.ASSUMED: "unknown"}


class Hypothesis(NamedTuple):
    """One hypothesis of the theorem: its name, whether it holds, why, and the line concerned ("" for none)."""

    name: str
    status: Status
    reason: str
    line: str = ""


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """What is known of a training run before it starts.

    Attributes:
        hypotheses: each with name, status (holds, fails, assumed), reason, line.
        conclusion: what the theorem says if all that is assumed holds.
        strength: "all" (all accumulation points), "essential" (essential ones) or "none".
        source: the theorem.
        definability: the report on the loss.
    """

    hypotheses: tuple[Hypothesis, ...]
    conclusion: str
    strength: str
    source: str
    definability: Definability

    def __getitem__(self, name: str) -> Hypothesis:
        """The hypothesis of this name."""
        for h in self.hypotheses:
            if h.name == name:
                return h
        raise KeyError(f"{name!r}; there are {', '.join(repr(h.name) for h in self.hypotheses)}")

    @property
    def holds(self) -> bool:
        """Whether a theorem applies, given what is assumed."""
        return self.strength != NONE

    @property
    def failing(self) -> tuple[Hypothesis, ...]:
        """The hypotheses that fail."""
        return tuple(h for h in self.hypotheses if h.status == Status.FAILS)

    @property
    def assumed(self) -> tuple[Hypothesis, ...]:
        """The hypotheses that are assumed."""
        return tuple(h for h in self.hypotheses if h.status == Status.ASSUMED)

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON."""
        return {
            "conclusion": self.conclusion,
            "strength": self.strength,
            "source": self.source,
            "hypotheses": [{**h._asdict(), "status": str(h.status)} for h in self.hypotheses],
            "definability": self.definability.to_dict(),
        }

    def __str__(self) -> str:
        width = max(len(h.name) for h in self.hypotheses)
        indent = " " * (width + 15)
        blocks = [
            textwrap.wrap(f"{self._mark()} {self._headline()}", WIDTH, subsequent_indent="  ")
        ]
        rows = [
            line
            for h in self.hypotheses
            for line in textwrap.wrap(
                f"  {MARKS[_KIND[h.status]]} {h.name:<{width}}  {h.status:<7}  {_told(h)}",
                WIDTH,
                subsequent_indent=indent,
            )
        ]
        blocks.append(rows)
        if self.source:
            blocks.append(textwrap.wrap(f"  Theorem: {self.source}", WIDTH, subsequent_indent="  "))
        blocks.append(textwrap.wrap(f"  Next: {self._advice()}", WIDTH, subsequent_indent="  "))
        return "\n\n".join("\n".join(block) for block in blocks)

    def _repr_html_(self) -> str:
        colour = COLOURS[self._verdict()]
        cell = "padding:.2em 1.1em .2em 0;text-align:left;vertical-align:top;border:0"
        rows = "".join(
            f"<tr><td style='{cell};color:{COLOURS[_KIND[h.status]]}'>{MARKS[_KIND[h.status]]} {h.status}</td>"
            f"<td style='{cell};white-space:nowrap'>{html.escape(h.name)}</td>"
            f"<td style='{cell}'>{html.escape(_told(h))}</td></tr>"
            for h in self.hypotheses
        )
        source = f"<div style='opacity:.65'>{html.escape(self.source)}</div>" if self.source else ""
        return (
            "<div style='font-family:system-ui,sans-serif;line-height:1.45;max-width:56em;"
            f"border-left:4px solid {colour};padding:.3em 0 .3em 1em;margin:.5em 0'>"
            f"<div>{html.escape(self._headline())}</div>"
            f"<table style='border-collapse:collapse;margin:.7em 0;background:none'>{rows}</table>"
            f"{source}<div><b>Next:</b> {html.escape(self._advice())}</div></div>"
        )

    def _verdict(self) -> str:
        return "refuted" if not self.holds else "unknown" if self.assumed else "proven"

    def _mark(self) -> str:
        return MARKS[self._verdict()]

    def _headline(self) -> str:
        text = self.conclusion[:1].upper() + self.conclusion[1:]
        if not self.holds:
            names = list(dict.fromkeys(h.name for h in self.failing))
            return f"{text}: {', '.join(names)} {'fails' if len(names) == 1 else 'fail'}."
        return f"{text}, if what is assumed holds." if self.assumed else f"{text}."

    def _advice(self) -> str:
        if self.failing:
            first = self.failing[0]
            return _REMEDIES.get(first.name, f"mend “{first.name}”") + "."
        solves = any(h.name == "implicit layers" for h in self.hypotheses)
        watch = "watch the iterates and the layers" if solves else "watch the iterates"
        return f"train; {watch} with cx.monitor, and end with cx.stochastic.criticality."


_REMEDIES = {
    "definable": "rewrite the line named above with operations of the calculus, or bound its operand",
    "locally Lipschitz": "change the line named above: bound its operand away from the bad point "
    "(√(x² + ε), jnp.clip), or replace a step by its continuous relative",
    "derivative rules": "give the rule up, or prove it conservative",
    "implicit layers": "regularise the layer so that cx.check proves it",
    "Σα_k = ∞": "take a schedule whose sum diverges, such as cx.stochastic.schedules.inverse_power(0.1, 0.75)",
    "α_k → 0": "take steps that vanish, such as cx.stochastic.schedules.inverse_power(0.1, 0.75)",
    "α_k = o(1/log k)": "take cx.stochastic.schedules.inverse_log(scale, power=1.5), or any faster decay",
    "Σα_k² < ∞": "take cx.stochastic.schedules.inverse_power(0.1, 0.75), or any power in (½, 1]",
    "α_k/β_k → r > 0": "give beta the decay of alpha: heavy_ball(inverse_power(a, p), inverse_power(b, p))",
    "method": "take an optimiser of cx.stochastic, alone or in a cx.stochastic.chain",
    "weight decay": "put cx.stochastic.weight_decay before the optimiser",
}


def _told(h: Hypothesis) -> str:
    return f"{h.reason} ({h.line})" if h.line else h.reason


def guarantee(
    loss: Callable[..., Any], optimiser: Any, schedule: Any, params: Any, batch: Any = None
) -> Guarantee:
    """Does training converge, and to what? The hypotheses of the theorems, one by one, before the first step.

    For F(w) = E[f(w, ξ)] and w_{k+1} = w_k − α_k v_k, v_k an element of a conservative field of f(·, ξ_k).

    Args:
        loss: f(params, batch), or f(params) where ``batch`` is None, a scalar; or an
            ``cx.stochastic.expected`` mean, then ``batch`` is None.
        optimiser: one of ``cx.stochastic``, or a ``cx.stochastic.chain`` around one.
        schedule: its step sizes, as handed to the optimiser; None takes the optimiser's own.
        params: the start, a pytree. batch: one batch of the data, a pytree.

    Returns:
        A Guarantee.

    Raises:
        InvalidInputError: no optax transformation, a schedule other than the optimiser's, step sizes that
        are negative or not finite, params without numbers, params or batch that hold NaN or infinity, or a
        loss that is not one real and, at params, finite number.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 3; Le (JOTA 2024); Castera and
    others (JMLR 2021); Bolte, Pauwels, Ríos-Zertuche (SIAM J. Optim. 2022); docs/training.md.

    >>> import jax.numpy as jnp, conservax as cx
    >>> steps = cx.stochastic.schedules.inverse_power(0.1, 0.75)
    >>> report = cx.stochastic.guarantee(
    ...     lambda w: jnp.sum(jnp.abs(w)), cx.stochastic.sgd(steps), steps, jnp.ones(2)
    ... )
    >>> report.strength, [h.name for h in report.assumed]
    ('all', ['bounded iterates', 'random start and scale'])
    >>> slow = cx.stochastic.schedules.constant(0.1)
    >>> report = cx.stochastic.guarantee(
    ...     lambda w: jnp.sum(jnp.abs(w)), cx.stochastic.sgd(slow), slow, jnp.ones(2)
    ... )
    >>> report.strength, [h.name for h in report.failing]
    ('none', ['α_k → 0', 'α_k = o(1/log k)'])
    """
    require_optimiser(optimiser)
    _require_parameters(params)
    require_finite([("params", params), ("batch", batch)])
    fun, args, data = _objective(loss, params, batch)
    shape = jax.eval_shape(fun, *args)
    if any(leaf.shape != () for leaf in jax.tree.leaves(shape)) or len(jax.tree.leaves(shape)) != 1:
        shapes = [leaf.shape for leaf in jax.tree.leaves(shape)]
        raise InvalidInputError(
            f"the loss must be one number; it returns {shapes}. Sum or average it."
        )
    kind = jax.tree.leaves(shape)[0].dtype
    if not jnp.issubdtype(kind, jnp.floating):
        raise InvalidInputError(f"the loss must be a real floating-point number; it is {kind}.")
    about = definability(_of_params(fun, args), params)
    _require_number(fun(*args), about)
    hypotheses = [
        _definable(about),
        *_lipschitz(about),
        *_rules(about),
        *_layers(about, fun, args),
        data,
    ]
    strength, source = NONE, ""
    if isinstance(optimiser, Optimiser | Chain):
        method = optimiser.method
        steps = steps_of(method, _agreed(method.schedule, schedule))
        hypotheses += [Hypothesis(name, p.status, p.reason) for name, p in steps.hypotheses]
        strength, source = steps.strength, steps.source
        random = bool(method.numbers.get("random"))
        if isinstance(optimiser, Chain):
            exact = batch is None and not isinstance(loss, Expectation)
            hypotheses += [
                Hypothesis(n, p.status, p.reason) for n, p in chained(optimiser, exact, strength)
            ]
    else:
        why = (
            "it is none of cx.stochastic's, and no theorem for it is known here (optax.chain forgets its "
            "parts, cx.stochastic.chain does not)"
        )
        hypotheses.append(Hypothesis("method", Status.FAILS, why))
        random = False
    hypotheses.append(_bounded(about))
    hypotheses.append(_random(random))
    structural = ("definable", "locally Lipschitz", "implicit layers", "method", "weight decay")
    if any(h.status == Status.FAILS and h.name in structural for h in hypotheses):
        strength, source = NONE, ""
    return Guarantee(
        tuple(hypotheses),
        conclusion_of(strength, optimiser),
        strength,
        source if strength != NONE else "",
        about,
    )


def _require_parameters(params: Any) -> None:
    """InvalidInputError unless params are arrays, with some real number among them."""
    entries = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        try:
            kind = jax.typeof(leaf).dtype
        except TypeError:
            raise InvalidInputError(
                f"params{jax.tree_util.keystr(path)} must be an array, got {type(leaf).__name__}."
            ) from None
        entries += jnp.size(leaf) if jnp.issubdtype(kind, jnp.floating) else 0
    if not entries:
        raise InvalidInputError(
            "params hold no floating-point numbers, so that there is nothing to train. Pass the start as "
            "a pytree of arrays such as jnp.zeros(3)."
        )


def _require_number(value: Any, about: Definability) -> None:
    """InvalidInputError where the loss at the start is NaN or infinite; it names the lines in question."""
    found = float(value)
    if math.isfinite(found):
        return
    lines = "; ".join(f"{o.operation} at {o.place}: {o.why}" for o in about.offending)
    where = f" ({lines})" if lines else ""
    raise InvalidInputError(
        f"the loss is {found} at params{where}. Start where it is finite, or mend the loss."
    )


def _of_params(fun: Callable[..., Any], args: Sequence[Any]) -> Callable[[Any], Any]:
    return lambda params: fun(params, *args[1:])


def _objective(
    loss: Any, params: Any, batch: Any
) -> tuple[Callable[..., Any], tuple[Any, ...], Hypothesis]:
    """The function of the parameters whose operations are looked at, and the hypothesis on the data."""
    if isinstance(loss, Expectation):
        if batch is not None:
            raise InvalidInputError(
                "loss is a mean over its distribution already: leave out batch."
            )
        if isinstance(loss.distribution, Finite):
            n = loss.distribution.size
            reason = f"{n} points, drawn with their weights: the integral rule is a sum"
            return (
                loss.fun,
                (params, loss.distribution.at(0)),
                Hypothesis("finite sum", Status.HOLDS, reason),
            )
        point = loss.distribution(jax.random.key(0))
        reason = (
            "the derivative under the expectation is conservative (integral rule), if the Lipschitz constants "
            "of f(·, ξ) are square integrable: ‖v‖ ≤ κ(ξ)ψ(w)"
        )
        return loss.fun, (params, point), Hypothesis("integral rule", Status.ASSUMED, reason)
    if batch is None:
        reason = "the loss is deterministic, a sum of one term"
        return loss, (params,), Hypothesis("finite sum", Status.HOLDS, reason)
    reason = "finitely many data, so that ‖v‖ ≤ max κ ψ(w); minibatches must be drawn without bias"
    return loss, (params, batch), Hypothesis("finite sum", Status.HOLDS, reason)


def _agreed(own: Any, given: Any) -> Any:
    """The optimiser's schedule; a given one must be the same."""
    same = own is given or (
        not callable(own) and not callable(given) and own is not None and own == given
    )
    if given is not None and not same:
        raise InvalidInputError(
            "schedule is not the one that the optimiser was made with, so that the proof would be of other "
            "steps. Pass the same object to both, or None."
        )
    return own


def _definable(about: Definability) -> Hypothesis:
    named = [o for o in about.offending if "no rule" in o.why or "no bound" in o.why]
    if not about.definable:
        o = named[0] if named else about.offending[0]
        return Hypothesis("definable", Status.FAILS, f"{o.operation}: {o.why}", o.place)
    if about.dictionary == "BOUNDED":
        o = next(o for o in about.offending if "bounded sets" in o.why)
        reason = f"on bounded sets, which suffices for bounded iterates: {o.operation}"
        return Hypothesis("definable", Status.HOLDS, reason, o.place)
    return Hypothesis("definable", Status.HOLDS, f"every operation lives in {about.dictionary}")


def _lipschitz(about: Definability) -> list[Hypothesis]:
    """At the start, and at all other points that the iterates may reach."""
    name = "locally Lipschitz"
    if about.everywhere:
        reason = "every operation is, on all values that it can meet"
        if about.solves:
            reason += "; implicit layers by their certificates"
        return [Hypothesis(name, Status.HOLDS, reason)]
    found = []
    start = {o for o in about.offending if o in about.elsewhere or not about.lipschitz}
    for o in about.elsewhere:
        at_start = "at the start: " if o in start and not about.lipschitz else "not everywhere: "
        # what was not shown need not fail, unless the program was seen to jump
        shown = "not shown" not in o.why or (o.why == NOT_SHOWN and about.jumps)
        status = Status.FAILS if shown else Status.ASSUMED
        found.append(Hypothesis(name, status, f"{at_start}{o.operation}: {o.why}", o.place))
    return found


def _rules(about: Definability) -> list[Hypothesis]:
    name = "derivative rules"
    if not about.unverified:
        return [
            Hypothesis(
                name, Status.HOLDS, "every derivative is the calculus' own, hence conservative"
            )
        ]
    return [
        Hypothesis(name, Status.ASSUMED, f"{o.operation}: {o.why}", o.place)
        for o in about.unverified
    ]


def _layers(about: Definability, fun: Callable[..., Any], args: Sequence[Any]) -> list[Hypothesis]:
    """Implicit layers by the certificate at the start (Theorem 5), which a monitor watches afterwards."""
    if not about.solves:
        return []
    name = "implicit layers"
    programs = [o for o in about.solves if o.operation == "program"]
    found = [
        Hypothesis(
            name,
            Status.ASSUMED,
            "the program's solution map is Lipschitz where its certificate is PROVEN: see its .check and the "
            "verdict that each solve returns",
            o.place,
        )
        for o in programs
    ]
    if len(programs) == len(about.solves):
        return found
    try:
        seen = monitor(fun)(0, *args)
    except ConservaxError as error:
        why = f"no certificate could be computed: {error}"
        return [*found, Hypothesis(name, Status.ASSUMED, why)]
    status = {
        Verdict.PROVEN: Status.HOLDS,
        Verdict.REFUTED: Status.FAILS,
        Verdict.UNKNOWN: Status.ASSUMED,
    }
    for o in seen:
        margin = f", margin {o.margin:.3g}" if o.margin is not None else ""
        reason = f"{o.verdict} at the start{margin}: {o.reason}"
        found.append(Hypothesis(name, status[o.verdict], reason, o.place))
    return found


def _bounded(about: Definability) -> Hypothesis:
    del about
    reason = "no theorem gives it; weight decay or a projection enforce it, cx.monitor shows it"
    return Hypothesis("bounded iterates", Status.ASSUMED, reason)


def _random(random: bool) -> Hypothesis:
    name = "random start and scale"
    if random:
        return Hypothesis(
            name, Status.HOLDS, "the step scale is drawn at random; so should be the start"
        )
    reason = "almost every start avoids artefacts: initialise at random, or with cx.stochastic.random_start"
    return Hypothesis(name, Status.ASSUMED, reason)
