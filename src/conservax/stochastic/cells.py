"""Which sign patterns of the active kinks are met near a point: Clarke's subdifferential from both sides.

Near the point a scalar program has one smooth piece for each pattern σ of its active kinks. To first
order the increments are ż = E d + L r; a pattern is met in a cone with interior if σ_i ż_i(d) > 0
for some d, and only if σ_i ż_i(d) ≥ 0 for some d ≠ 0. With g_σ the gradient of a piece,

    conv{g_σ : σ met strictly} ⊂ ∂ᶜf(x) ⊂ conv{g_σ : σ met weakly} ⊂ conv D(x).

Where the program is affine between its kinks the first is an equality. Source: conical gradients of
Griewank and Walther (SIAM J. Optim. 2016); docs/training.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy

from ..calculus import AbsNormal
from ..calculus.sets.abs_normal import Group

_PROGRAMS = 3000  # linear programs, some milliseconds each, before the question is given up
_INSIDE = 1e-9  # how far, relative to the increments, a direction stands inside a cone


@dataclass(frozen=True)
class Cells:
    """Gradients of the pieces met strictly (V, n), and of those met weakly."""

    strict: np.ndarray
    weak: np.ndarray


class _Search:
    def __init__(self, form: AbsNormal) -> None:
        self.form, self.n = form, form.A.shape[1]
        self.programs = 0
        order = form.order()
        assert order is not None
        moving = set(form.moving())
        self.groups = [form.groups[i] for i in order if i in moving]
        size = np.linalg.norm(form.E, axis=1, keepdims=True)
        self.scale = float(size.max(initial=0)) or 1.0

    def choices(self, group: Group, r: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The sides of one kink: rows C with C d ≥ 0 on that side, and the r rows of its columns."""
        form, columns = self.form, list(group.columns)
        rows = form.E[columns] + form.L[columns] @ r
        if group.kind == "simplex":
            yield -rows, np.zeros_like(rows)  # the leader wins
            for j in range(len(columns)):
                passed = np.zeros_like(rows)
                passed[j] = rows[j]
                others = np.delete(rows[j] - rows, j, axis=0)
                yield np.vstack([rows[j : j + 1], others]), passed
            return
        if group.switch is None:
            switch = rows[0]
        else:
            switch = group.switch[: self.n] + group.switch[self.n :] @ r
        if np.linalg.norm(switch) <= 1e-12 * self.scale and group.switch is None:
            yield np.zeros((0, self.n)), np.zeros_like(rows)  # an increment that does not move
            return
        yield -switch[None], np.zeros_like(rows)
        yield switch[None], rows

    def walk(self, strictly: bool) -> Iterator[np.ndarray]:
        """The gradients g_σ of all patterns that are met, kink by kink."""
        k = self.form.L.shape[0]
        stack = [(0, np.zeros((0, self.n)), np.zeros((k, self.n)))]
        while stack:
            at, cone, r = stack.pop()
            self.programs += 1
            if self.programs > _PROGRAMS:
                raise _TooManyError
            if at == len(self.groups):
                yield (self.form.A + self.form.H @ r)[0]
                continue
            group = self.groups[at]
            for rows, passed in self.choices(group, r):
                narrower = np.vstack([cone, rows])
                if len(rows) == 0 or self.met(narrower, strictly):
                    deeper = r.copy()
                    deeper[list(group.columns)] = passed
                    stack.append((at + 1, narrower, deeper))

    def met(self, cone: np.ndarray, strictly: bool) -> bool:
        """Whether C d ≥ 0 has a solution d ≠ 0, or one with C d > 0."""
        lengths = np.linalg.norm(
            cone, axis=1, keepdims=True
        )  # a row of 0 decides between equal pieces
        C = cone[lengths[:, 0] > 1e-12 * self.scale]
        C = C / np.linalg.norm(C, axis=1, keepdims=True)
        if len(C) == 0:
            return True
        values = np.linalg.svd(C, compute_uv=False)
        rank = int(np.sum(values > 1e-9))
        if rank == len(C):  # independent increments take all signs
            return True
        if not strictly and rank < self.n:
            return True
        self.programs += 1
        if self.programs > _PROGRAMS:
            raise _TooManyError
        # max t with C d ≥ t, or max Σ C d with C d ≥ 0, in the box |d| ≤ 1
        m = len(C)
        if strictly:
            cost, A = np.append(np.zeros(self.n), -1.0), np.hstack([-C, np.ones((m, 1))])
        else:
            cost, A = np.append(-C.sum(axis=0), 0.0), np.hstack([-C, np.zeros((m, 1))])
        bounds = [(-1, 1)] * self.n + [(0, 1)]
        found = scipy.optimize.linprog(cost, A_ub=A, b_ub=np.zeros(m), bounds=bounds)
        return found.status == 0 and -found.fun > _INSIDE * (1 if strictly else m)


class _TooManyError(Exception):
    """The budget of linear programs is spent."""


def cells(form: AbsNormal) -> Cells | None:
    """The gradients of the pieces next to the point; None where kinks are curved, coupled, or too many."""
    if form.order() is None or form.given_rules:
        return None
    if any(g.kind == "ball" or g.on_switch for g in form.groups):
        return None
    # directions in which no increment moves tell nothing: the cones live in the span of the rows
    small = _in_span(form)
    try:
        strict = np.array(list(_Search(small[0]).walk(True))).reshape(-1, small[0].A.shape[1])
        weak = np.array(list(_Search(form).walk(False))).reshape(-1, form.A.shape[1])
    except _TooManyError:
        return None
    rest = small[2]
    return Cells(np.unique(strict @ small[1] + rest, axis=0), np.unique(weak, axis=0))


def _in_span(form: AbsNormal) -> tuple[AbsNormal, np.ndarray, np.ndarray]:
    """The form in coordinates of the span of E's rows (and switches), the basis, and A's part outside."""
    n = form.A.shape[1]
    rows = np.vstack([form.E, *(g.switch[None, :n] for g in form.groups if g.switch is not None)])
    if len(rows) >= n:
        return form, np.eye(n), np.zeros(n)
    _, values, vt = np.linalg.svd(rows, full_matrices=False)
    basis = vt[values > 1e-12 * max(values.max(initial=0), 1e-300)]
    groups = tuple(
        g
        if g.switch is None
        else replace(g, switch=np.concatenate([basis @ g.switch[:n], g.switch[n:]]))
        for g in form.groups
    )
    small = replace(form, A=form.A @ basis.T, E=form.E @ basis.T, groups=groups)
    return small, basis, form.A[0] - basis.T @ (basis @ form.A[0])
