"""Certificates of maps made of certified ones: in sequence, and side by side."""

import math
from collections.abc import Callable, Sequence
from functools import reduce

from ..errors import InvalidInputError
from .certificate import Certificate, Rigour, Verdict, Work

_ROUNDING = 1 - 1e-15  # of the product of two margins


def certify_composition(*certificates: Certificate) -> Certificate:
    """Is every product B_r ⋯ B_1 invertible, B_i ranging over the set that the i-th certificate is of?

    These are the elements of J_{f_r} ⋯ J_{f_1}, a conservative Jacobian of f_r ∘ ⋯ ∘ f_1.

    Args:
        certificates: one for each map, in the order in which the maps are applied.

    Returns:
        PROVEN if all are, with margin ∏ margins, since σ_min(B C) ≥ σ_min(B) σ_min(C). REFUTED if one
        is, with its witness: a singular factor makes the product singular. Else UNKNOWN.

    Raises:
        InvalidInputError: no certificates.

    Source: the chain rule of conservative Jacobians (Bolte, Pauwels, Conservative set valued fields,
    2021, Lemma 5).

    >>> import conservax as cx
    >>> from conservax.invertibility import certify
    >>> once = certify(cx.conservative_jacobian(lambda y: y - abs(y) / 2)(0.0).form)
    >>> twice = certify_composition(once, once)
    >>> twice.verdict, abs(twice.margin - 0.25) < 1e-5
    (<Verdict.PROVEN: 1>, True)
    """
    return _together(certificates, "factor", lambda a, b: a * b * _ROUNDING)


def certify_stack(*certificates: Certificate) -> Certificate:
    """Is diag(B_1, …, B_r) invertible for all B_i of the sets that the certificates are of?

    These are the derivatives of (x_1, …, x_r) ↦ (f_1(x_1), …, f_r(x_r)): equations that share no
    unknown, such as the items of a batch.

    Args:
        certificates: one for each part.

    Returns:
        PROVEN if all are, with the least margin; REFUTED if one is, with its witness; else UNKNOWN.

    Raises:
        InvalidInputError: no certificates.

    >>> import conservax as cx
    >>> from conservax.invertibility import certify
    >>> part = certify(cx.conservative_jacobian(lambda y: y - 2 * abs(y))(0.0).form)
    >>> certify_stack(part, part).verdict
    <Verdict.REFUTED: -1>
    """
    return _together(certificates, "part", min)


def _together(
    certificates: Sequence[Certificate], role: str, margins: Callable[[float, float], float]
) -> Certificate:
    if not certificates:
        raise InvalidInputError("no certificates were given; pass one for each map.")
    work = reduce(Work.__add__, (c.work for c in certificates))
    worst = min(certificates, key=lambda c: abs(c.verdict - Verdict.REFUTED))
    number = certificates.index(worst) + 1
    met = [c.sigma_min for c in certificates if not math.isnan(c.sigma_min)]
    method = f"{len(certificates)} {role}s: " + "; ".join(
        dict.fromkeys(c.method for c in certificates)
    )
    if worst.verdict != Verdict.PROVEN:
        return Certificate(
            verdict=worst.verdict,
            method=method,
            reason=f"{role} {number}: {worst.reason}",
            margin=None,
            sigma_min=worst.sigma_min,
            witness=worst.witness,
            rigour=worst.rigour,
            work=work,
            undecided=f"{role} {number}: {worst.undecided}" if worst.undecided else "",
        )
    known = [c.margin for c in certificates if c.margin is not None]
    return Certificate(
        verdict=Verdict.PROVEN,
        method=method,
        reason=f"every {role} is invertible for every choice of slopes. The derivative can be trusted.",
        margin=reduce(margins, known) if len(known) == len(certificates) else None,
        sigma_min=reduce(margins, met) if len(met) == len(certificates) else math.nan,
        witness=None,
        rigour=Rigour.EXACT,
        work=work,
    )
