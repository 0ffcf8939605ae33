"""Invertibility by enumeration: determinant signs and singular values at every vertex.

det B(q) is affine in each kink's weights (THEORY T1), hence a convex combination of its values at
the vertices: B(q) is invertible for every q if and only if all vertex determinants are nonzero with
one sign. Where two differ, some edge between them carries a singular element, which is found in
closed form. For the same reason min σ_min over the set is attained at a vertex (T5).
"""

import itertools
import math

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
    moving = set(form.moving())
    if any(form.groups[i].kind == "ball" for i in moving):
        return Certificate(
            Verdict.UNKNOWN,
            "no vertices: a norm at 0",
            "a norm stands at 0, where its slopes fill a ball; enumeration does not decide that.",
            None,
            float("nan"),
            None,
            (0, 0, 0),
            0,
        )
    choices = [
        list(g.vertices()) if i in moving else [next(g.vertices())]
        for i, g in enumerate(form.groups)
    ]
    count = math.prod(map(len, choices))
    complete = count <= _MAX_VERTICES
    if complete:
        picks = list(itertools.product(*choices))
    else:  # the base selection and its neighbours may still refute
        picks = [tuple(c[0] for c in choices)]
        for i, c in enumerate(choices):
            picks += [(*picks[0][:i], w, *picks[0][i + 1 :]) for w in c[1:]]
    weights = np.array([list(itertools.chain.from_iterable(p)) for p in picks]).reshape(
        len(picks), -1
    )
    diagonals = np.array([form.diagonal(w) for w in weights]).reshape(len(picks), -1)
    inner = np.linalg.slogdet(np.eye(form.L.shape[0]) - diagonals[:, :, None] * form.L)[0]
    elements = form.jacobian(diagonals)
    # det B(q) det(I − D L) is the lifted determinant: that one is affine in each kink's weights
    signs = np.linalg.slogdet(elements)[0] * inner
    singular_values = np.linalg.svd(elements, compute_uv=False)
    smallest = singular_values[:, -1] if singular_values.shape[1] else np.ones(len(picks))
    floors = np.array([singular_value_floor(e, form.dtype) for e in elements])
    at_zero = smallest <= floors
    counts = (
        int(np.sum(signs[~at_zero] < 0)),
        int(np.sum(at_zero)),
        int(np.sum(signs[~at_zero] > 0)),
    )
    worst = int(np.argmin(smallest))

    def certificate(
        verdict: Verdict, reason: str, selection: np.ndarray | None = None
    ) -> Certificate:
        margin = float(np.min(smallest - floors)) if verdict == Verdict.PROVEN else None
        method = f"determinant signs at {len(picks)} of {count} vertices"
        witness = None if selection is None else _witness(form, selection)
        least = (
            float(smallest[worst])
            if witness is None
            else min(float(smallest[worst]), witness.sigma_min)
        )
        return Certificate(verdict, method, reason, margin, least, witness, counts, len(picks))

    if np.any(at_zero):
        where = "one choice of slopes at the kinks makes the" if form.groups else "the"
        return certificate(
            Verdict.REFUTED,
            f"{where} linearised equations {'' if form.groups else 'are '}singular (numerically), "
            "so the derivative of the solution may not exist here.",
            weights[worst],
        )
    if np.any(inner <= 0):
        return certificate(
            Verdict.UNKNOWN,
            "a solve inside these equations is singular for some choice of slopes; check it by itself.",
        )
    if counts[0] and counts[2]:
        return certificate(
            Verdict.REFUTED,
            "two choices of slopes give determinants of opposite sign, so one between them is singular "
            "and the derivative of the solution may not exist here.",
            _singular_between(form, weights[int(np.argmin(signs))], weights[int(np.argmax(signs))]),
        )
    if not complete:
        return certificate(
            Verdict.UNKNOWN,
            f"{len(moving)} active kinks have {count} vertices, more than the {_MAX_VERTICES} "
            "that enumeration visits; none of those visited is singular.",
        )
    if any(g.kind == "segment" and len(g.columns) != 1 for g in form.groups):
        return certificate(
            Verdict.UNKNOWN,
            "a where has branches that no single slope joins; its extreme choices are all invertible, "
            "those in between were not decided.",
        )
    reason = (
        "every choice of slopes at the kinks leaves the linearised equations invertible."
        if form.groups
        else "the equations have one derivative here, and it is invertible."
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
        before, after = (_lifted_determinant(form, w) for w in (here, there))
        if before[0] != after[0]:
            # the determinant is affine along this edge: its zero is where the two values balance
            share = 1 / (1 + np.exp(after[1] - before[1]))
            return here + share * (there - here)
        here = there
    return here


def _lifted_determinant(form: AbsNormal, weights: np.ndarray) -> tuple[float, float]:
    """Sign and logarithm of det B(q) det(I − D L)."""
    diagonal = form.diagonal(weights)
    outer = np.linalg.slogdet(form.jacobian(diagonal))
    inner = np.linalg.slogdet(np.eye(form.L.shape[0]) - diagonal[:, None] * form.L)
    return float(outer[0] * inner[0]), float(outer[1] + inner[1])


def _witness(form: AbsNormal, selection: np.ndarray) -> Witness:
    element = form.jacobian(form.diagonal(selection))
    _, values, vectors = np.linalg.svd(element)
    return Witness(selection, vectors[-1], float(values[-1]), float(values[0]))
