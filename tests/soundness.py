"""Certificates against brute force in exact rational arithmetic: ``make soundness``.

Random abs-normal forms, nested and not, with ties, near-singular ones over-represented, in float32
and float64. The oracle takes the determinant at every vertex with python-flint; that is affine in
each kink's weights, so that the set holds a singular element if and only if two of them differ in
sign or one is zero. Run as ``python tests/soundness.py 100000 2``: instances, processes.
"""

import itertools
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import flint
import numpy as np
from rich.console import Console
from rich.progress import Progress

from conservax.calculus import AbsNormal
from conservax.calculus.sets.abs_normal import Group, Kink
from conservax.calculus.tracing.locations import Location
from conservax.invertibility import Rigour, Verdict, certify, ladder

PIECE = 250


def kink(ways=1):
    return Kink("max", Location("model.py", 1), (), 0.0, 0.0, (0.0, 1.0), True, ways)


def groups_of(ways):
    """A scalar kink for each 1, a tie with r − 1 columns for each r."""
    groups, at = [], 0
    for r in ways:
        columns = tuple(range(at, at + max(1, r - 1)))
        groups.append(Group(kink(r), columns, (1 / r,) * r))
        at += len(columns)
    return tuple(groups)


def instance(rng):
    """A random form, k ≤ 10 kinks, n ≤ 6 unknowns."""
    n = int(rng.integers(1, 7))
    k = min(10, int(rng.geometric(0.3)))
    ways = [int(r) for r in np.where(rng.uniform(size=k) < 0.12, rng.integers(3, 5, size=k), 1)]
    groups = groups_of(ways)
    columns = sum(len(g.columns) for g in groups)
    whole = rng.uniform() < 0.25
    draw = (
        (lambda *shape: rng.integers(-2, 3, size=shape).astype(float))
        if whole
        else (lambda *shape: rng.normal(size=shape))
    )
    size = 1.0 if whole else rng.choice([0.1, 0.3, 1.0])
    A = draw(n, n) if rng.uniform() < 0.5 else np.eye(n) * (1 + 2 * whole)
    H, E = draw(n, columns) * size, draw(columns, n)
    L = (
        np.tril(draw(columns, columns), -1) * size
        if rng.uniform() < 0.5
        else np.zeros((columns,) * 2)
    )
    for g in groups:  # what a tie passes on is one sum, and its entries do not see each other
        local = list(g.columns)
        H[:, local], L[:, local] = H[:, local[:1]], L[:, local[:1]]
        L[np.ix_(local, range(local[0], columns))] = 0.0
    if rng.uniform() < 0.3:
        H, E = H * 10.0 ** rng.integers(-3, 4), E * 10.0 ** rng.integers(-3, 4, size=(columns, 1))
    dtype = np.float64 if rng.uniform() < 0.5 else np.float32
    form = AbsNormal(A, H, E, L, groups, None, dtype)
    if not whole and rng.uniform() < 0.4:
        form = nearly_singular(form, rng)
    return rounded(form, dtype)


def rounded(form, dtype):
    parts = (M.astype(dtype).astype(float) for M in (form.A, form.H, form.E, form.L))
    return AbsNormal(*parts, form.groups, None, dtype)


def nearly_singular(form, rng):
    """A moved by a multiple of a unit matrix, so that one vertex is singular up to a few ulp, or more."""
    picks = [list(g.vertices()) for g in form.groups]
    weights = np.concatenate([p[rng.integers(len(p))] for p in picks])
    B = form.jacobian(form.diagonal(weights))
    if abs(np.linalg.det(B)) < 1e-8:
        return form
    i, j = rng.integers(len(B), size=2)
    inverse = np.linalg.inv(B)
    if abs(inverse[j, i]) < 1e-6:
        return form
    off = rng.choice([0.0, 1e-15, -1e-15, 1e-12, -1e-12, 1e-7, -1e-7])
    A = form.A.copy()
    A[i, j] -= (1 + off) / inverse[j, i]
    return AbsNormal(A, form.H, form.E, form.L, form.groups, None, form.dtype)


def rational(M):
    return flint.fmpq_mat([[flint.fmpq(*float(v).as_integer_ratio()) for v in row] for row in M])


def corners(form):
    """The flat weights of all vertices."""
    picks = itertools.product(*(list(g.vertices()) for g in form.groups))
    return np.array([list(itertools.chain(*p)) for p in picks])


def exact_signs(form):
    """The signs of det B(q) det(I − D L) at all vertices, exactly."""
    k = form.L.shape[0]
    numbers = np.block([[np.eye(k) - form.L, -form.E], [form.H, form.A]])
    # I − L is exact: its diagonal is 1 and the rest are entries of L
    scaled = [[float(v).as_integer_ratio() for v in row] for row in numbers]
    whole = []
    for row in scaled:
        common = max(d for _, d in row)
        whole.append([p * (common // d) for p, d in row])
    signs = set()
    for choice in itertools.product(*(range(max(2, g.kink.ways)) for g in form.groups)):
        taken = [g.columns[c - 1] for g, c in zip(form.groups, choice, strict=True) if c]
        keep = [*taken, *range(k, len(whole))]
        det = int(flint.fmpz_mat([[whole[i][j] for j in keep] for i in keep]).det())
        signs.add((det > 0) - (det < 0))
        if len(signs) > 1 or 0 in signs:
            break
    return signs


def exact_singular_values(form, weights):
    """σ_min, σ_max of B(q) formed exactly, from the norms of its exact inverse and of itself."""
    k = form.L.shape[0]
    D = form.diagonal(weights)
    # rows times floats, exactly: D L = diag(D) · L as rational matrices
    diagonal = rational(np.diag(D)) if k else None
    A, H, E, L = (rational(M) if M.size else None for M in (form.A, form.H, form.E, form.L))
    if k:
        system = rational(np.eye(k)) - diagonal * L
        A = A + H * system.inv() * diagonal * E
    if A.det() == 0:
        return 0.0, 1.0
    inverse = A.inv()
    return 1 / np.linalg.norm(floats(inverse), 2), np.linalg.norm(floats(A), 2)


def terms(form, weights):
    """The size of what is summed in B(q)."""
    D = form.diagonal(weights)
    R = np.linalg.solve(np.eye(len(D)) - D[:, None] * form.L, D[:, None] * form.E)
    return np.linalg.norm(form.A) + np.linalg.norm(form.H) * np.linalg.norm(R)


def floats(M):
    """A rational matrix, rounded."""
    return np.array([[float(Fraction(int(v.p), int(v.q))) for v in row] for row in M.tolist()])


def examine(seed, count=PIECE):
    """Certify ``count`` instances: verdicts counted, and a sentence for each that is false."""
    rng = np.random.default_rng(seed)
    tally, wrong = Counter(), []
    at_once = ladder._AT_ONCE
    for number in range(count):
        form = instance(rng)
        # half of the instances climb the ladder from its second rung, a quarter with a small budget
        ladder._AT_ONCE = 0 if number % 2 else at_once
        budget = 8 if number % 4 == 1 else ladder.BUDGET
        try:
            certificate = certify(form, budget=budget)
        finally:
            ladder._AT_ONCE = at_once
        signs = exact_signs(form)
        invertible = signs in ({1}, {-1})
        name = certificate.verdict.name
        at_tolerance = certificate.rigour == Rigour.AT_TOLERANCE
        tally[f"{name} {certificate.rigour}" if name == "REFUTED" else name] += 1
        tally[certificate.method] += 1
        place = f"seed {seed}, instance {number}: {certificate}"
        if certificate.verdict == Verdict.PROVEN:
            if not invertible:
                wrong.append(f"false PROVEN, {place}")
            if certificate.margin is not None and certificate.margin > certificate.sigma_min:
                wrong.append(f"margin above a singular value met, {place}")
        elif certificate.verdict == Verdict.REFUTED:
            found = certificate.witness
            if at_tolerance:
                floor = 4 * len(form.A) * float(np.finfo(form.dtype).eps)
                smallest, largest = exact_singular_values(form, found.selection)
                # an element is known to the precision of its terms, which may cancel
                if smallest > floor * max(largest, terms(form, found.selection)) * (1 + 1e-6):
                    wrong.append(f"false REFUTED at the tolerance ({smallest / largest}), {place}")
            else:
                if invertible:
                    wrong.append(f"false REFUTED, {place}")
                # terms may cancel (always, in one equation): their size stands in for σ_max
                size = max(found.sigma_max, terms(form, found.selection))
                if not found.sigma_min < 1e-10 * size:
                    wrong.append(f"a witness that is not singular, {place}")
    return tally, wrong


def main(instances, processes):
    """Examine so many instances with a progress bar; the exit code is 1 if a verdict is false."""
    pieces = -(-instances // PIECE)
    tally, wrong = Counter(), []
    with Progress() as progress, ProcessPoolExecutor(processes) as pool:
        task = progress.add_task("certificates", total=pieces * PIECE)
        for counts, sentences in pool.map(examine, range(pieces)):
            tally += counts
            wrong += sentences
            progress.update(task, advance=PIECE)
    out = Console(highlight=False, markup=False).print
    for name, number in sorted(tally.items()):
        out(f"{number:8d}  {number / (pieces * PIECE):7.3%}  {name}")
    out(*wrong[:20], f"{len(wrong)} false of {pieces * PIECE}", sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
