"""The reduced problem: its blocks, its matrix M, and faces, against determinants of the whole."""

import itertools

import numpy as np
import pytest

from conservax.calculus import AbsNormal
from conservax.invertibility import search
from conservax.invertibility.reduced import block_of, face, partition
from conservax.invertibility.search import bisect, branch, descend, sign_reversing
from soundness import groups_of, instance


def random_form(rng, density=0.3):
    while True:
        form = instance(rng)
        keep = [rng.uniform(size=M.shape) < density for M in (form.A, form.E)]
        form = AbsNormal(
            np.eye(len(form.A)) + form.A * keep[0],
            form.H,
            form.E * keep[1],
            form.L,
            form.groups,
            None,
            np.float64,
        )
        if abs(np.linalg.det(form.A)) > 1e-3:
            return form


@pytest.mark.parametrize("seed", range(40))
def test_the_determinant_is_a_product_over_the_blocks(seed):
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    blocks = [block_of(form, *part) for part in partition(form) if len(part[2])]
    for _ in range(4):
        weights = np.concatenate([g.draw(rng, 1)[0] for g in form.groups])
        D = form.diagonal(weights)
        inner = np.linalg.det(np.eye(len(D)) - D[:, None] * form.L)
        whole = np.linalg.det(form.jacobian(D)) * inner / np.linalg.det(form.A)
        product = np.prod([np.linalg.det(b.weighted(D[b.columns])) for b in blocks])
        np.testing.assert_allclose(product, whole, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_a_face_is_the_block_at_the_decided_weights(seed):
    rng = np.random.default_rng(seed)
    form = random_form(rng, 1.0)
    for part in partition(form):
        if len(part[2]) < 2:
            continue
        block = block_of(form, *part)
        taken = {u: int(rng.integers(block.counts[u] + 1)) for u in range(0, len(block.units), 2)}
        below = face(block, taken)
        if not below.radius < 1e-9:
            continue
        weights = np.zeros(len(block.columns))
        for u, j in taken.items():
            if j:
                weights[block.units[u].rows.start + j - 1] = 1.0
        decided = np.linalg.det(block.weighted(weights))
        free = rng.uniform(size=len(below.columns)) / 3
        weights[np.isin(block.columns, below.columns)] = free
        whole = np.linalg.det(block.weighted(weights))
        np.testing.assert_allclose(
            whole, decided * np.linalg.det(below.weighted(free)), rtol=1e-6, atol=1e-9
        )


def block_with(N):
    k = len(N)
    form = AbsNormal(
        np.eye(k),
        np.asarray(N) - np.eye(k),
        np.eye(k),
        np.zeros((k, k)),
        groups_of([1] * k),
        None,
        float,
    )
    return block_of(form, np.arange(k), np.arange(k), np.arange(k))


def tied(M, ways):
    """The block with this M (rows, units), a tie of r ways for each r > 1."""
    owner = np.repeat(np.arange(len(ways)), [max(1, r - 1) for r in ways])
    U, K = len(ways), len(owner)
    form = AbsNormal(
        np.eye(U), -np.eye(U)[:, owner], M, np.zeros((K, K)), groups_of(ways), None, float
    )
    return block_of(form, np.arange(U), np.arange(U), np.arange(K))


def test_searches_find_what_is_there_and_nothing_else():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        k = 5
        block = block_with(np.eye(k) + rng.choice([0.3, 0.7]) * rng.normal(size=(k, k)))
        corners = np.array(np.meshgrid(*[[0.0, 1.0]] * k)).reshape(k, -1).T
        positive = min(np.linalg.det(block.weighted(c)) for c in corners) > 0
        for finding in (branch(block, 1 << 25), bisect(block, 1 << 25)):
            assert finding.positive == positive
            assert (finding.singular is not None) == (not positive)
            if finding.singular is not None:
                values = np.linalg.svd(block.weighted(finding.singular), compute_uv=False)
                assert values[-1] < 1e-12 * values[0]
        weights = sign_reversing(block)
        if weights is not None:
            assert not positive
            assert np.linalg.svd(block.weighted(weights), compute_uv=False)[-1] < 1e-12
        end, stuck = descend(block, np.zeros(k), 50)
        assert set(end) <= {0.0, 1.0}
        assert not (stuck and positive)


@pytest.mark.parametrize("seed", range(20))
def test_the_walk_ends_where_no_change_lowers_the_determinant_or_it_is_not_positive(seed):
    rng = np.random.default_rng(seed)
    k = 6
    block = block_with(np.eye(k) + rng.choice([0.2, 0.5]) * rng.normal(size=(k, k)))
    end, stuck = descend(block, np.zeros(k), 50)

    def determinant(weights):
        return np.linalg.det(block.weighted(weights))

    assert stuck == (determinant(end) <= 1e-12)
    if not stuck:
        changed = [np.where(np.arange(k) == i, 1 - end, end) for i in range(k)]
        assert min(map(determinant, changed)) >= (1 - 1e-5) * determinant(end)


@pytest.mark.parametrize("seed", range(30))
def test_faces_alone_decide_without_a_proof_or_a_walk(seed, monkeypatch):
    monkeypatch.setattr(search, "_PIECE", 1)
    monkeypatch.setattr(search, "proved", lambda part: None)
    monkeypatch.setattr(search, "descend", lambda part, start, steps: (start, False))
    rng = np.random.default_rng(seed)
    block = tied(rng.normal(size=(7, 4)) * rng.choice([0.3, 0.5]), [3, 1, 4, 1])
    vertices = itertools.product(*(np.eye(c + 1)[:, 1:] for c in block.counts))
    least = min(np.linalg.det(block.weighted(np.concatenate(v))) for v in vertices)
    finding = branch(block, 1 << 25)
    assert finding.positive == (least > 0)
    if least <= 0:
        values = np.linalg.svd(block.weighted(finding.singular), compute_uv=False)
        assert values[-1] < 1e-12 * values[0]
