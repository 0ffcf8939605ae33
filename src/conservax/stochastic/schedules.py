"""Step sizes with proofs: Σα_k = ∞, α_k → 0, α_k = o(1/log k), Σα_k² < ∞.

A schedule of this module is a function k ↦ α_k, as optax's are, that carries what can be proved of it.
Schedules of optax are read where they are of a known form; of any other function a few numbers are
looked at, and what they suggest is called assumed.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInputError

__all__ = [
    "Proof",
    "Property",
    "Schedule",
    "Status",
    "constant",
    "inverse_log",
    "inverse_power",
    "proof_of",
]


class Status(StrEnum):
    """What is known of a hypothesis: it holds, it fails, or it is assumed (and the reason says on what)."""

    HOLDS = "holds"
    FAILS = "fails"
    ASSUMED = "assumed"


class Property(NamedTuple):
    """One property of a schedule with the argument for it."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Proof:
    """What is known of a schedule α_k, each with its reason.

    ``divergent``: Σα_k = ∞; ``vanishing``: α_k → 0; ``sublogarithmic``: α_k = o(1/log k);
    ``square_summable``: Σα_k² < ∞.
    """

    divergent: Property
    vanishing: Property
    sublogarithmic: Property
    square_summable: Property

    def __str__(self) -> str:
        names = {"divergent": "Σα_k = ∞", "vanishing": "α_k → 0",
                 "sublogarithmic": "α_k = o(1/log k)", "square_summable": "Σα_k² < ∞"}  # fmt: skip
        facts = [(text, getattr(self, name)) for name, text in names.items()]
        return "\n".join(f"{text:<17} {p.status}: {p.reason}" for text, p in facts)


@dataclass(frozen=True)
class Schedule:
    """A step size k ↦ α_k with its proof; call it with the number of the step, 0, 1, 2, …

    ``formula`` is α_k in words; ``at`` computes it.
    """

    formula: str
    at: Callable[[Any], Any]
    proof: Proof

    def __call__(self, count: Any) -> jax.Array:
        """α_k."""
        return self.at(jnp.asarray(count))


def _holds(reason: str) -> Property:
    return Property(Status.HOLDS, reason)


def _fails(reason: str) -> Property:
    return Property(Status.FAILS, reason)


def _positive(**named: float) -> None:
    for name, value in named.items():
        if not (isinstance(value, int | float | np.number) and 0 < value < math.inf):
            raise InvalidInputError(f"{name}={value!r} must be a positive, finite number.")


def inverse_power(scale: float, power: float = 0.75, offset: float = 1.0) -> Schedule:
    """α_k = scale/(k + offset)^power, k = 0, 1, 2, …

    Σα_k = ∞ iff power ≤ 1; α_k = o(1/log k) for every power > 0; Σα_k² < ∞ iff power > ½.

    Args:
        scale: positive. power: positive; at most 1 for a divergent sum. offset: positive.

    Returns:
        A Schedule; a scalar a step. Raises InvalidInputError for numbers that are not positive.

    Source: the integral test; the conditions of Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021),
    Theorem 3.

    >>> schedule = inverse_power(0.5, power=0.75)
    >>> (
    ...     float(schedule(0)),
    ...     schedule.proof.divergent.status.value,
    ...     schedule.proof.square_summable.status.value,
    ... )
    (0.5, 'holds', 'holds')
    """
    _positive(scale=scale, power=power, offset=offset)
    p = f"{power:g}"
    series = f"Σ k^−{p} " + (
        f"diverges (integral test, {p} ≤ 1)"
        if power <= 1
        else f"converges (integral test, {p} > 1)"
    )
    squares = f"Σ k^−{2 * power:g} " + (
        f"converges (2 · {p} > 1)" if power > 0.5 else f"diverges (2 · {p} ≤ 1)"
    )
    proof = Proof(
        (_holds if power <= 1 else _fails)(series),
        _holds(f"k^−{p} → 0"),
        _holds(f"k^−{p} log k → 0"),
        (_holds if power > 0.5 else _fails)(squares),
    )

    def at(k: Any) -> Any:
        return scale / (k + offset) ** power

    return Schedule(f"{scale:g}/(k + {offset:g})^{p}", at, proof)


def inverse_log(scale: float, power: float = 1.5, offset: float = 3.0) -> Schedule:
    """α_k = scale/log(k + offset)^power, k = 0, 1, 2, …: the slowest decay that the theorem allows.

    Σα_k = ∞ always; α_k = o(1/log k) iff power > 1; Σα_k² = ∞ always.

    Args:
        scale: positive. power: positive; above 1 for o(1/log k). offset: more than 1.

    Returns:
        A Schedule. Raises InvalidInputError for other numbers.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 3.

    >>> inverse_log(0.1).proof.sublogarithmic.status.value
    'holds'
    >>> print(inverse_log(0.1, power=1.0).proof.sublogarithmic.reason)
    α_k log k → 0.1, which is not 0
    """
    _positive(scale=scale, power=power)
    if not offset > 1:
        raise InvalidInputError(f"offset={offset!r} must be more than 1, where the logarithm is 0.")
    p = f"{power:g}"
    limit = f"{scale:g}, which is not 0" if power == 1 else "∞"
    proof = Proof(
        _holds(f"(log k)^−{p} ≥ 1/k from some k on, and Σ 1/k = ∞"),
        _holds(f"(log k)^−{p} → 0"),
        _holds(f"α_k log k = {scale:g} (log k)^−{power - 1:g} → 0") if power > 1
        else _fails(f"α_k log k → {limit}"),
        _fails(f"(log k)^−{2 * power:g} ≥ 1/k from some k on, and Σ 1/k = ∞"),
    )  # fmt: skip

    def at(k: Any) -> Any:
        return scale / jnp.log(k + offset) ** power

    return Schedule(f"{scale:g}/log(k + {offset:g})^{p}", at, proof)


def constant(value: float) -> Schedule:
    """α_k = value: no theorem of this module allows it, and its proof says so.

    Raises InvalidInputError unless value is positive.

    >>> constant(0.1).proof.vanishing.reason
    'α_k = 0.1 for all k'
    """
    _positive(value=value)
    return Schedule(
        f"{value:g}", lambda k: jnp.asarray(value), _ending_in(value, f"α_k = {value:g} for all k")
    )


def _ending_in(value: float, reason: str) -> Proof:
    """The proof of a schedule that is constant from some step on."""
    if value == 0:
        finite = f"{reason}: only finitely many steps are taken"
        return Proof(_fails(finite), _holds(reason), _holds(reason), _holds(reason))
    bad = _fails(reason)
    return Proof(_holds(f"{reason}, so the sum grows without end"), bad, bad, bad)


def proof_of(schedule: Any) -> Proof:
    """What is known of a schedule: by its own proof, by optax's formula, or by looking at numbers.

    Args:
        schedule: a Schedule, a positive number, or a function k ↦ α_k (optax's constant, polynomial,
            linear, cosine and piecewise schedules are read; of others sixteen values up to
            k = 10⁹ are looked at, and nothing is called proved).

    Returns:
        A Proof. Raises InvalidInputError where a step size is negative or no number.

    >>> import optax
    >>> proof_of(optax.cosine_decay_schedule(0.1, 1000)).divergent.reason
    'α_k = 0 from k = 1000 on: only finitely many steps are taken'
    """
    if isinstance(schedule, Schedule):
        return schedule.proof
    if isinstance(schedule, int | float | np.number):
        return constant(float(schedule)).proof
    if not callable(schedule):
        raise InvalidInputError(
            f"schedule={schedule!r} is neither a number nor a function of the step. Take one of "
            "cx.stochastic.schedules."
        )
    end = _end_of_optax(schedule)
    if end is not None:
        value, step = end
        if not 0 <= value < math.inf:
            raise InvalidInputError(
                f"the schedule ends in {value}: a step size must be at least 0."
            )
        return _ending_in(
            value, f"α_k = {value:g}" + (f" from k = {step} on" if step else " for all k")
        )
    return _looked_at(schedule)


def _end_of_optax(schedule: Any) -> tuple[float, int] | None:
    """The value at which one of optax's schedules ends, and the step; None for all other functions."""
    if not str(getattr(schedule, "__module__", "")).startswith("optax."):
        return None
    try:
        known = inspect.getclosurevars(schedule).nonlocals
    except (TypeError, ValueError):
        return None
    kind = schedule.__qualname__.split(".")[0]
    numbers = {k: v for k, v in known.items() if isinstance(v, int | float)}
    try:
        if kind == "constant_schedule":
            return float(numbers["value"]), 0
        if kind == "polynomial_schedule":
            return float(numbers["end_value"]), int(
                numbers["transition_begin"] + numbers["transition_steps"]
            )
        if kind == "cosine_decay_schedule":
            return float(numbers["init_value"] * numbers["alpha"]), int(numbers["decay_steps"])
    except KeyError:
        return None
    return None


_PLACES = np.unique(np.round(np.geomspace(1, 1e9, 16)).astype(np.int64))


def _looked_at(schedule: Callable[[Any], Any]) -> Proof:
    values = _values(schedule, _PLACES)
    after = _values(schedule, _PLACES + 1)
    low, values = np.minimum(values, after), np.maximum(values, after)
    last, seen = values[-1], "looked at up to k = 10⁹, not proved"
    if np.any((low < values / 2)[_PLACES > 100]):  # the next step is of another size
        return _of_unsteady(values, seen)
    if last == values[-4]:
        proof = _ending_in(float(last), f"α_k = {last:g} from some k on ({seen})")
        return Proof(*(p._replace(status=Status.FAILS if p.status == Status.FAILS else Status.ASSUMED)
                       for p in (proof.divergent, proof.vanishing, proof.sublogarithmic,
                                 proof.square_summable)))  # fmt: skip
    with np.errstate(all="ignore"):
        slopes = np.diff(np.log(values)) / np.diff(np.log(_PLACES))
        product = values * np.log(_PLACES)
    slope = float(slopes[-1])
    if slope > 0 or not np.ptp(slopes[-3:]) < 0.5:
        return _of_unsteady(values, seen)
    told = f"α_k falls like k^{slope:.2f} ({seen})"

    def guess(yes: bool) -> Property:
        return Property(Status.ASSUMED if yes else Status.FAILS, told)

    return Proof(
        guess(slope >= -1.0005 or _like_bertrand(values)),
        guess(bool(last < values[-4])),
        guess(bool(product[-1] < product[-4])),
        guess(slope < -0.5),
    )


def _values(schedule: Callable[[Any], Any], places: np.ndarray) -> np.ndarray:
    values = np.array([_number(schedule(np.int32(k)), k) for k in places])
    broken = ~np.isfinite(values) | (values < 0)
    if np.any(broken):
        k, value = places[broken][0], values[broken][0]
        raise InvalidInputError(
            f"the schedule gives α_{k} = {value}: a step size must be a finite number of at least 0."
        )
    return values


def _of_unsteady(values: np.ndarray, seen: str) -> Proof:
    """Steps that go up and down: their highest are compared, and a line is laid through their logarithms."""
    told = f"α_k goes up and down, and no rate shows in it ({seen})"
    some = values > 0
    slope = np.polyfit(np.log(_PLACES[some]), np.log(values[some]), 1)[0] if some.sum() > 1 else 0.0

    def guess(yes: Any) -> Property:
        return Property(Status.ASSUMED if yes else Status.FAILS, told)

    def falls(sizes: np.ndarray) -> bool:
        return bool(np.max(sizes[-5:]) < np.max(sizes[-10:-5]) / 2)

    return Proof(
        guess(slope >= -1.25),
        guess(falls(values)),
        guess(falls(values * np.log(_PLACES))),
        guess(slope < -0.5),
    )


def _number(value: Any, k: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"the schedule gives α_{k} = {value!r}: a step size must be one finite number of at least 0."
        ) from None


def _like_bertrand(values: np.ndarray) -> bool:
    """Whether kα_k looks like (log k)^−p with p ≤ 1, whose series diverges although α_k < 1/k."""
    with np.errstate(all="ignore"):
        log = np.log(_PLACES[3:])
        powers = np.diff(np.log(values[3:]) + log) / np.diff(np.log(log))
    # a power of k would let p grow with log k; from k = 10⁶ on an offset k + c is no longer seen
    return bool(powers[-1] >= -1.01 and abs(powers[-1] - powers[-4]) <= 0.02)
