"""What is known to converge: methods, the hypotheses of their theorems, and the conclusions.

steps         Σα = ∞ and α = o(1/log k): values converge, all accumulation points are critical
              Σα = ∞ and α → 0 alone: the essential accumulation points are
heavy ball    besides Σα² < ∞, and α_k/β_k → r > 0: F + (r/2)‖y‖² decreases along the flow
weight decay  the same of F + (λ/2)‖w‖²; clipping: docs/training.md#optimisers
"""

import math
from dataclasses import dataclass
from typing import Any

from .composition import Chain, Effect
from .optimisers import Method
from .schedules import Proof, Property, Schedule, Status, proof_of

ALL = "all"
ESSENTIAL = "essential"
NONE = "none"

_SAMPLING = "Bolte, Le, Pauwels, Silveti-Falls (2021), Theorem 3"
_ESSENTIAL = "Bolte, Pauwels, Ríos-Zertuche, Long term dynamics of the subgradient method (SIAM J. Optim. 2022)"
_HEAVY = "Le, Nonsmooth nonconvex stochastic heavy ball (JOTA 2024)"
_INERTIAL = (
    "Castera, Bolte, Févotte, Pauwels, An inertial Newton algorithm for deep learning (JMLR 2021)"
)

CONCLUSIONS = {
    ALL: "the loss converges along the iterates, and every accumulation point is Clarke critical, for almost "
    "every start and step scale",
    ESSENTIAL: "essential accumulation points (where the iterates spend a positive share of the step-weighted "
    "time) are Clarke critical, for almost every start and step scale",
    NONE: "no theorem known here applies",
}


@dataclass(frozen=True)
class Steps:
    """The hypotheses on a method's steps: (name, property) pairs; the strength they allow; the source."""

    hypotheses: tuple[tuple[str, Property], ...]
    strength: str
    source: str


def steps_of(method: Method, schedule: Any) -> Steps:
    """Which theorem a method with these step sizes falls under."""
    if method.name == "adagrad_norm":
        return _adaptive()
    proof = proof_of(schedule)
    found: list[tuple[str, Property]] = [("Σα_k = ∞", proof.divergent)]
    strength, source = _by_decay(proof, method.name)
    if strength == ALL:
        found.append(("α_k = o(1/log k)", proof.sublogarithmic))
    else:
        found += [("α_k → 0", proof.vanishing), ("α_k = o(1/log k)", proof.sublogarithmic)]
    if method.name == "heavy_ball":
        ratio = ratio_of(schedule, method.numbers["beta"])
        found += [("Σα_k² < ∞", proof.square_summable), ("α_k/β_k → r > 0", ratio)]
        needed = (proof.divergent, proof.square_summable, ratio)
        strength = NONE if any(p.status == Status.FAILS for p in needed) else ALL
        source = _HEAVY
    return Steps(tuple(found), strength, source)


def _by_decay(proof: Proof, name: str) -> tuple[str, str]:
    if Status.FAILS in (proof.divergent.status, proof.vanishing.status):
        return NONE, ""
    if proof.sublogarithmic.status == Status.FAILS:
        return (NONE, "") if name == "inertial_newton" else (ESSENTIAL, _ESSENTIAL)
    return ALL, _INERTIAL if name == "inertial_newton" else _SAMPLING


def _adaptive() -> Steps:
    """b_k² = b₀² + Σ‖g‖² ≤ b₀² + L²k: Σ 1/b_k diverges; that 1/b_k vanishes is not known beforehand."""
    divergent = Property(
        Status.HOLDS, "1/b_k ≥ 1/√(b₀² + L²k) with L a bound on the gradients of bounded iterates"
    )
    decay = Property(
        Status.ASSUMED,
        "it follows if Σ‖g‖² grows faster than log²k; where the gradients fade away sooner, the steps stay",
    )
    return Steps((("Σα_k = ∞", divergent), ("α_k = o(1/log k)", decay)), ALL, _SAMPLING)


def conclusion_of(strength: str, optimiser: Any) -> str:
    """What the theorem says, of the loss with its weight decay where there is one."""
    penalties = [
        f"({e.number:g}/2)‖{'the decayed part of w' if e.partial else 'w'}‖²"
        for e in (optimiser.before if isinstance(optimiser, Chain) else ())
        if e.name == "weight_decay"
    ]
    text = CONCLUSIONS[strength]
    if strength == NONE or not penalties:
        return text
    total = " + ".join(["the loss", *penalties])
    return (
        text.replace("the loss", total, 1) if text.startswith("the loss") else f"{text}, of {total}"
    )


def chained(optimiser: Chain, exact: bool, strength: str) -> list[tuple[str, Property]]:
    """The hypotheses that clipping and weight decay add.

    ``exact``: nothing is sampled; ``strength``: what the steps allow by themselves.
    """
    before, after = optimiser.before, optimiser.after
    found = []
    if "" in {e.name for e in (*before, *after)}:
        why = (
            "the chain holds a transformation for which no theorem is known here; clip, clip_by_global_norm "
            "and weight_decay of cx.stochastic are optax's own, and say what they are"
        )
        found.append(("method", Property(Status.FAILS, why)))
    found += [
        ("directions in D", _clipped(optimiser, e, n, exact))
        for n, e in enumerate(before)
        if "clip" in e.name
    ]
    for e in before:
        if e.name == "weight_decay":
            told = f"{e.number:g} w is the gradient of ({e.number:g}/2)‖w‖², which joins the loss"
            found.append(("weight decay", Property(Status.HOLDS, told)))
    for e in after:
        if e.name == "weight_decay":
            why = "after the optimiser it adds λw to the step, away from 0: put it before the optimiser"
            found.append(("weight decay", Property(Status.FAILS, why)))
        elif e.name:
            found.append(
                (
                    "clipped steps",
                    _late(strength != NONE and optimiser.method.name != "adagrad_norm"),
                )
            )
    return found


def _clipped(optimiser: Chain, effect: Effect, place: int, exact: bool) -> Property:
    c, method = f"{effect.number:g}", optimiser.method
    plain = method.name == "sgd" or (
        method.name == "incremental" and method.numbers["batches"] == 1
    )
    last = place == len(optimiser.before) - 1
    if exact and plain and last and effect.name == "clip_by_global_norm":
        told = (
            f"the clip shortens the step by a factor of at least min(1, {c}/L), L a bound on ‖v‖ for bounded "
            "iterates: Σα_k = ∞ and α_k → 0 stay"
        )
        return Property(Status.HOLDS, told)
    size = "‖v_k‖" if effect.name == "clip_by_global_norm" else "‖v_k‖_∞"
    why = "the mean of clipped gradients" if not exact else "a clipped gradient"
    what = "the momentum of clipped gradients" if exact and not plain and size == "‖v_k‖" else why
    return Property(
        Status.ASSUMED,
        f"where the clip acts, {what} is no element of D; assumed: {size} ≤ {c} from some step on",
    )


def _late(vanishing: bool) -> Property:
    if not vanishing:
        return Property(
            Status.ASSUMED,
            "steps that vanish do not reach the clip from some step on; these may not",
        )
    return Property(Status.HOLDS, "steps that vanish do not reach the clip from some step on")


def ratio_of(alpha: Any, beta: Any) -> Property:
    """Whether α_k/β_k has a positive limit, by the formulas of two schedules, else by looking at numbers."""
    remedy = "give beta a schedule that decays like alpha, such as inverse_power of the same power"
    if not callable(alpha) and not callable(beta):
        return Property(Status.HOLDS, f"r = {float(alpha) / float(beta):g}: both are constant")
    places = (10**5, 10**7, 10**9)
    values = [_value(alpha, k) / _value(beta, k) for k in places]
    if not all(math.isfinite(v) and v > 0 for v in values):
        return Property(Status.FAILS, f"α_k/β_k = {values[-1]:g} at k = 10⁹: {remedy}")
    if abs(values[2] / values[1] - 1) < 1e-3 and abs(values[1] / values[0] - 1) < 1e-3:
        formulas = [s.formula for s in (alpha, beta) if isinstance(s, Schedule)]
        if len(formulas) == 2 and _decay(formulas[0]) == _decay(formulas[1]):
            told = f"r = {values[-1]:.6g}: α_k = {formulas[0]}, β_k = {formulas[1]}"
            return Property(Status.HOLDS, told)
        return Property(
            Status.ASSUMED, f"r = {values[-1]:.4g}, looked at up to k = 10⁹, not proved"
        )
    return Property(
        Status.FAILS, f"α_k/β_k goes from {values[0]:.3g} to {values[-1]:.3g} by k = 10⁹: {remedy}"
    )


def _decay(formula: str) -> tuple[str, ...]:
    """What is left of a formula without its scale and offset: the kind of decay and its power."""
    kind = "log" if "log" in formula else "power" if "^" in formula else "constant"
    return kind, formula.rpartition("^")[2] if kind != "constant" else ""


def _value(schedule: Any, k: int) -> float:
    value: Any = schedule(k) if callable(schedule) else schedule
    return float(value)
