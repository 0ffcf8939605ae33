"""What an experiment hands back: a figure, claims that can fail, and remarks on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from conservax import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | float | int | bool | list[Any]
"""Whatever JSON can carry: a number, a list of numbers, or a line of text."""

MEASURED = "Measured here; nothing published"
"""The source of a claim that is no one else's."""

Ticker = Callable[[float], None]
"""Called with the fraction of an experiment that is done."""


@dataclass(frozen=True)
class Claim:
    """One published statement beside the number measured here.

    `holds` is computed from `measured` by the functions below; no experiment writes it by hand.
    """

    name: str
    source: str
    published: Value
    measured: Value
    holds: bool
    experiment: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", bool(self.holds))  # NumPy's bool is not JSON's

    def as_json(self) -> dict[str, Any]:
        """The claim as a plain dictionary."""
        return asdict(self)


def ours(source: str) -> str:
    """The source of a statement whose number, a bound or a tolerance, is not in the source."""
    return f"{source}; the number is ours"


@dataclass(frozen=True)
class Outcome:
    """What one experiment produced."""

    figure: Figure
    claims: Sequence[Claim]
    remarks: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Experiment:
    """One figure or example of the literature.

    `run(quick, tick)` computes, draws and measures; `quick` asks for fewer iterations. `compares`:
    part of it is a comparison with cvxpylayers, left out where that is not installed.
    """

    name: str
    title: str
    source: str
    description: str
    run: Callable[[bool, Ticker], Outcome]
    compares: bool = False


def plain(value: Any, digits: int = 10) -> Value:
    """Turn arrays and NumPy scalars into JSON values, rounded to significant digits."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    array = np.asarray(value)
    if array.ndim:
        return [plain(entry, digits) for entry in array]
    if np.issubdtype(array.dtype, np.integer):
        return int(array)
    number = float(f"{float(array):.{digits}g}") + 0.0  # no minus zero
    return number if np.isfinite(number) else str(number)  # JSON has no infinities


def has_verdict(name: str, source: str, wanted: Verdict, found: Verdict) -> Claim:
    """`found` is `wanted`; UNKNOWN is neither PROVEN nor REFUTED."""
    return Claim(name, source, wanted.name, Verdict(found).name, found == wanted)


def agrees(name: str, source: str, published: Any, measured: Any, tolerance: float = 1e-9) -> Claim:
    """`measured` has the shape of `published` and differs by at most `tolerance` per entry."""
    want, got = np.asarray(published, float), np.asarray(measured, float)
    holds = want.shape == got.shape and bool(np.all(np.abs(got - want) <= tolerance))
    return Claim(name, source, plain(published), plain(measured), holds)


def same_points(name: str, source: str, published: Any, measured: Any) -> Claim:
    """Two finite sets of numbers or matrices are equal, whatever their order."""
    want, got = (ordered(points) for points in (published, measured))
    return agrees(name, source, want, got)


def at_most(name: str, source: str, bound: float, measured: float) -> Claim:
    """`measured` ≤ `bound`."""
    return Claim(
        name, source, f"≤ {_format_number(bound)}", plain(measured, 4), bool(measured <= bound)
    )


def at_least(name: str, source: str, bound: float, measured: float) -> Claim:
    """`measured` ≥ `bound`."""
    return Claim(
        name, source, f"≥ {_format_number(bound)}", plain(measured, 4), bool(measured >= bound)
    )


def within_factor(
    name: str, source: str, published: float, measured: float, factor: float
) -> Claim:
    """`measured` lies between `published / factor` and `published * factor`."""
    holds = published / factor <= measured <= published * factor
    text = f"{_format_number(published)} up to a factor {factor:g}"
    return Claim(name, source, text, plain(measured, 4), bool(holds))


def about(name: str, source: str, published: float, measured: float, relative: float) -> Claim:
    """`measured` is `published` up to a relative error."""
    holds = abs(measured - published) <= relative * abs(published)
    text = f"{_format_number(published)} ± {100 * relative:g}\u202f%"
    return Claim(name, source, text, plain(measured, 5), bool(holds))


def counts(name: str, source: str, expected: int, found: int, of: str) -> Claim:
    """All `expected` cases show the published behaviour."""
    return Claim(
        name, source, f"{expected} of {expected} {of}", f"{found} of {expected}", found == expected
    )


def format_value(value: Any) -> str:
    """A number, a vector, or matrices one to a line, as a reader would write them."""
    if isinstance(value, bool | str):
        return str(value)
    if not isinstance(value, list):
        return _format_number(value)
    depth = np.ndim(value)
    if depth == 1:
        return "(" + ", ".join(map(format_value, value)) + ")"
    if depth == 2:
        return "[" + "; ".join(" ".join(map(_format_entry, row)) for row in value) + "]"
    return "\n".join(map(format_value, value))


def _format_entry(value: float) -> str:
    """An entry of a matrix: 1/3 reads better than 0.33333."""
    fraction = Fraction(value).limit_denominator(12)
    near = abs(float(fraction) - value) < 1e-9
    return str(fraction).replace("-", "−") if near else _format_number(value)


def _format_number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.2e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        head = "" if float(mantissa) == 1 else f"{float(mantissa):g} × "
        return f"{head}10{raised}".replace("-", "−")
    return f"{value:.5g}".replace("-", "−")


def ordered(points: Any) -> np.ndarray:
    """A finite set as an array in lexicographic order, rounding noise removed."""
    array = np.round(np.asarray(points, float), 12) + 0.0
    if array.ndim == 1:
        return np.sort(array)
    flat = array.reshape(len(array), -1)
    return array[np.lexsort(flat.T[::-1])]
