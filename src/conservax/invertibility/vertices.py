"""Invertibility by enumeration: determinant signs and singular values at every vertex.

det B(q) is affine in each kink's weights (THEORY T1), hence a convex combination of its values at
the vertices: B(q) is invertible for every q if and only if all vertex determinants are nonzero with
one sign. Where two differ, some edge between them carries a singular element, which is found in
closed form. For the same reason min σ_min over the set is attained at a vertex (T5).
"""

import itertools

import numpy as np

from ..calculus import AbsNormal
from ..numerics import singular_value_floor
from .certificate import Certificate, Verdict, Witness

MAX_KINKS = 12
_MAX_VERTICES = 1 << MAX_KINKS


def certify_by_vertices(form: AbsNormal) -> Certificate:
    """Decide whether A + H (I − D L)⁻¹ D E, square, is invertible for every selection D.

    Returns a Certificate. It is UNKNOWN beyond 2¹² vertices, where no element is singular at the
    base selection, and at sets whose determinant is not multi-affine (a ``where`` whose branches'
    difference is no multiple of its comparison's increment).

    Source: Bolte, Le, Pauwels, Silveti-Falls (2021), Corollary 1, applied to the lifted system
    (THEORY T1, T3).
    """
    choices = [list(g.vertices()) for g in form.groups]
    moving = set(form.moving())
    choices = [c if i in moving else c[:1] for i, c in enumerate(choices)]
    count = int(np.prod([len(c) for c in choices], dtype=float)) if choices else 1
    complete = count <= _MAX_VERTICES
    if not complete:  # the base selection and its neighbours may still refute
        picks = [tuple(c[0] for c in choices)]
        for i, c in enumerate(choices):
            picks += [(*picks[0][:i], w, *picks[0][i + 1 :]) for w in c[1:]]
    else:
        picks = list(itertools.product(*choices))
    weights = np.array([list(itertools.chain.from_iterable(p)) for p in picks]).reshape(len(picks), -1)
    elements = form.jacobian(np.array([form.diagonal(w) for w in weights]).reshape(len(picks), -1))
    signs, _ = np.linalg.slogdet(elements)
    singular_values = np.linalg.svd(elements, compute_uv=False)
    smallest = singular_values[:, -1] if singular_values.shape[1] else np.ones(len(picks))
    floors = np.array([singular_value_floor(e, form.dtype) for e in elements])
    at_zero = smallest <= floors
    sound = ~at_zero
    counts = (int(np.sum(signs[sound] < 0)), int(np.sum(at_zero)), int(np.sum(signs[sound] > 0)))
    worst = int(np.argmin(smallest))
    sigma_min = float(smallest[worst])

    def certificate(verdict: Verdict, reason: str, witness: Witness | None = None) -> Certificate:
        margin = float(np.min(smallest - floors)) if verdict == Verdict.PROVEN else None
        method = f"determinant signs at {len(picks)} of {count} vertices"
        return Certificate(verdict, method, reason, margin, sigma_min, witness, counts, len(picks))

    if np.any(at_zero):
        return certificate(
            Verdict.REFUTED,
            "one choice of slopes at the kinks makes the linearised equations singular (numerically), "
            "so the derivative of the solution may not exist here.",
            _witness(form, weights[worst]),
        )
    if counts[0] and counts[2]:
        selection = _singular_between(form, weights[int(np.argmin(signs))], weights[int(np.argmax(signs))])
        return certificate(
            Verdict.REFUTED,
            "two choices of slopes give determinants of opposite sign, so one between them is singular "
            "and the derivative of the solution may not exist here.",
            _witness(form, selection),
        )
    if not complete:
        return certificate(
            Verdict.UNKNOWN,
            f"{len(form.groups)} active kinks have {count:.3g} vertices, more than the {_MAX_VERTICES} "
            "that enumeration visits; none of those visited is singular.",
        )
    if any(len(g.columns) != max(1, g.ways - 1) for g in form.groups):
        return certificate(
            Verdict.UNKNOWN,
            "a where has branches that no single slope joins; its extreme choices are all invertible, "
            "those in between were not decided.",
        )
    reason = (
        "the equations have one derivative here, and it is invertible."
        if not form.groups
        else "every choice of slopes at the kinks leaves the linearised equations invertible."
    )
    return certificate(Verdict.PROVEN, f"{reason} The implicit derivative can be trusted.")


def _singular_between(form: AbsNormal, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """A selection with determinant zero on the path from ``start`` to ``stop``, one kink at a time."""
    at = 0
    here = start
    for group in form.groups:
        there = here.copy()
        there[at : at + group.ways] = stop[at : at + group.ways]
        at += group.ways
        before, after = (np.linalg.slogdet(form.jacobian(form.diagonal(w))) for w in (here, there))
        if before[0] != after[0]:
            # the determinant is affine along this edge: its zero is where the two values balance
            share = 1 / (1 + np.exp(after[1] - before[1]))
            return here + share * (there - here)
        here = there
    return here


def _witness(form: AbsNormal, selection: np.ndarray) -> Witness:
    element = form.jacobian(form.diagonal(selection))
    _, values, vectors = np.linalg.svd(element)
    return Witness(selection, vectors[-1], float(values[-1]), float(values[0]))
