"""The verdict from inside jit against 60 digits: PROVEN and its margin hold for the floats given.

Half of the programs are made nearly singular, at all distances down to rounding.
"""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from conservax.cones.spectrum import Tolerances, rotate, spectrum
from conservax.programs.cone_program import Cones
from conservax.programs.system.two_tests import two_tests

COUNT = 160
WITHIN = 2.0**-20  # eigenvalues of v that count as zero; what is weakly active is exactly zero
FAMILIES = {
    "inequalities": (Cones(zero=1, nonnegative=4), 4),
    "second-order": (Cones(nonnegative=1, second_order=(3,)), 3),
    "semidefinite": (Cones(zero=1, semidefinite=(2,)), 3),
}


def draw(cones, n, rng):
    """P, A, v of programs, two thirds of them near a singular H or near dependent rows."""
    m = cones.size
    P, A, v = (rng.normal(size=shape) for shape in ((COUNT, n, n), (COUNT, m, n), (COUNT, m)))
    P = P @ np.swapaxes(P, 1, 2) * rng.integers(0, 2, size=(COUNT, 1, 1))
    q = rng.normal(size=(COUNT, n, 1))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    along = q @ np.swapaxes(q, 1, 2)
    size = 10.0 ** -rng.uniform(1, 10, size=(COUNT, 1, 1))
    kind = rng.integers(0, 3, size=(COUNT, 1, 1))
    # no curvature along q, whatever is active
    rest = np.eye(n) - along
    P = np.where(kind == 1, rest @ P @ rest + size**2 * along, P)
    A = np.where(kind == 1, A @ rest + size * (A @ along), A)
    # the first row nearly a combination of the others
    mixed = rng.normal(size=(COUNT, 1, m)) @ A * (np.arange(m)[:, None] == 0)
    A = np.where(kind == 2, A * (np.arange(m)[:, None] > 0) + mixed + size * A, A)
    # as floats, symmetric
    return (P + np.swapaxes(P, 1, 2)) / 2, A, with_weak_pieces(cones, v, rng)


def with_weak_pieces(cones, v, rng):
    """Some eigenvalues are exactly zero."""
    v = v * 2
    for block, rows in cones.pieces:
        weak = rng.uniform(size=(len(v), 1)) < 0.3
        part = v[:, rows]
        name = type(block).__name__
        if name == "OrthantBlock":
            part = np.where(rng.uniform(size=part.shape) < 0.2, 0.0, part)
        elif name == "SecondOrderBlock":
            boundary = np.tile([5.0, 3.0, 4.0], (len(v), 1)) / 4 * np.sign(part[:, :1])
            boundary[:, 0] *= np.sign(part[:, 1])
            part = np.where(weak, boundary, part)
        elif name == "SemidefiniteBlock":
            diagonal = np.stack([part[:, 0], 0 * part[:, 0], 0 * part[:, 0]], axis=1)
            part = np.where(weak, diagonal, part)
        v[:, rows] = part
    return v


def slope(a, b, tie):
    if a == b:
        return mpmath.mpf(tie if a == 0 else a > 0)
    return (max(a, 0) - max(b, 0)) / (a - b)


def snap(value):
    return mpmath.mpf(0) if abs(value) <= WITHIN else value


def element(block, v, tie):
    """V_lo (tie 0) or V_hi (tie 1) of one cone, in 60 digits."""
    name, size = type(block).__name__, len(v)
    if name == "ZeroBlock":
        return mpmath.eye(size)
    if name == "OrthantBlock":
        return mpmath.diag([slope(snap(x), snap(x), tie) for x in v])
    if name == "SecondOrderBlock":
        length = mpmath.sqrt(sum(x * x for x in v[1:]))
        ends = [snap(v[0] + length), snap(v[0] - length)]
        q = [
            mpmath.matrix([1, *(sign * x / length for x in v[1:])]) / mpmath.sqrt(2)
            for sign in (1, -1)
        ]
        outer = [p * p.T for p in q]
        across = mpmath.eye(size) - outer[0] - outer[1]
        own = [slope(value, value, tie) for value in ends]
        return own[0] * outer[0] + own[1] * outer[1] + slope(*ends, tie) * across
    root = mpmath.sqrt(2)
    values, Q = mpmath.eigsy(mpmath.matrix([[v[0], v[1] / root], [v[1] / root, v[2]]]))
    values = [snap(value) for value in values]
    V = mpmath.zeros(3)
    for i, j in itertools.combinations_with_replacement(range(2), 2):
        E = Q[:, i] * Q[:, j].T
        E = E if i == j else (E + E.T) / root
        e = mpmath.matrix([E[0, 0], root * E[1, 0], E[1, 1]])
        V += slope(values[i], values[j], tie) * (e * e.T)
    return V


def whole(cones, v, tie):
    V = mpmath.zeros(cones.size)
    for block, rows in cones.pieces:
        V[rows, rows] = element(block, [mpmath.mpf(float(x)) for x in v[rows]], tie)
    return V


def is_definite(matrix):
    """By the pivots of elimination; what 60 digits leave of a zero is not positive."""
    M = matrix.copy()
    for i in range(M.rows):
        if M[i, i] <= mpmath.mpf(10) ** -45:
            return False
        for r in range(i + 1, M.rows):
            factor = M[r, i] / M[i, i]
            for c in range(i, M.rows):
                M[r, c] -= factor * M[i, c]
    return True


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_proven_holds_in_sixty_digits(family, dtype):
    cones, n = FAMILIES[family]
    P, A, v = (part.astype(dtype) for part in draw(cones, n, np.random.default_rng(1)))

    @jax.jit
    def verdicts(P, A, v):
        limits = jnp.full(v.shape, WITHIN, dtype)
        return two_tests(P, A, spectrum(v, Tolerances(limits, limits), cones), cones)

    verdict, margin = map(np.asarray, verdicts(P, A, v))
    truth = []
    with mpmath.workdps(60):
        for k in range(COUNT):
            exact_P, exact_A = (mpmath.matrix(part[k].astype(float).tolist()) for part in (P, A))
            low, high = (whole(cones, v[k], tie) for tie in (0, 1))
            identity = mpmath.eye(cones.size)
            H = exact_P + exact_A.T * low * exact_A
            free = identity - high + high * exact_A * exact_A.T * high
            truth.append(is_definite(H) and is_definite(free))
            if verdict[k] == 1:
                assert truth[k]
                least = mpmath.mpf(float(margin[k]))
                assert least > 0
                assert is_definite(H - least * mpmath.eye(n))
                # the other test's margin is for a matrix that is H⁻¹ up to rounding
                C = identity - high + high * exact_A * H**-1 * exact_A.T * high
                assert is_definite(C - least * mpmath.mpf(0.9) * identity)
    truth = np.array(truth)
    # neither all nor nothing: most of what is true is found, and rounding leaves some open
    assert np.mean(verdict[truth] == 1) > 0.6
    assert np.any(verdict != 1)


def test_regular_programs_are_proven_and_singular_ones_refuted():
    cones = Cones(nonnegative=3)
    P = np.diag([1.0, 0.0])[None]
    A = np.array([[[0.0, 1.0], [0.0, 2.0], [1.0, 1.0]]])
    found = {}
    for name, signs in {"regular": (1, -1, -1), "flat": (-1, -1, -1), "twice": (1, 1, -1)}.items():
        v = np.array([signs], float)
        parts = spectrum(jnp.asarray(v), None, cones)
        found[name] = int(two_tests(jnp.asarray(P), jnp.asarray(A), parts, cones).verdict[0])
    assert found == {"regular": 1, "flat": -1, "twice": -1}


def test_eigenvectors_that_cancel_prove_nothing():
    """v = (0, a, b), A = (−h, a, b), a² + b² = h²: V A = 0 exactly, of which rounding leaves no zero."""
    triples = [[51, 140, 149], [21, 220, 221], [165, 52, 173], [25, 312, 313], [135, 352, 377]]
    a, b, h = np.array(triples, float).T
    v, A = np.stack([0 * a, a, b], axis=1), np.stack([-h, a, b], axis=1)[..., None]
    cones = Cones(second_order=(3,))
    parts = spectrum(v, None, cones)
    assert np.any(rotate(parts.basis, A, cones)[:, 0] != 0)
    found = two_tests(np.zeros((len(h), 1, 1)), A, parts, cones)
    assert not np.any(found.verdict == 1)
