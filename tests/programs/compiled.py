"""Several small programs in one shape, so that a test compiles one solve and its derivatives for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from conservax.cones.kinds.semidefinite import SemidefiniteBlock
from conservax.programs import ConeProgram, Cones

KINDS = ("zero", "nonnegative", "second_order", "semidefinite")


def _blocks(cones: Cones) -> list[tuple[str, int, int]]:
    """The kind, dimension and first row of each cone; of zero and non-negative ones each row."""
    found, start = [], 0
    for kind in KINDS:
        sizes = getattr(cones, kind)
        for size in (1,) * sizes if isinstance(sizes, int) else sizes:
            rows = size * (size + 1) // 2 if kind == "semidefinite" else size
            found.append((kind, size, start))
            start += rows
    return found


def _inside(kind: str, size: int) -> np.ndarray:
    """A point inside the cone."""
    if kind == "semidefinite":
        return SemidefiniteBlock(1, size).identity()
    return (np.arange(size) == 0).astype(float)


class Frame:
    """Programs over some of the cones of a common product, in a common number of variables.

    Variables beyond a program's own are held at zero, by ½w² or by an equation that is not used; rows
    of unused cones read 0ᵀx + s = a point inside.
    """

    def __init__(self, cones: Cones, variables: int) -> None:
        self.cones, self.n = cones, variables + cones.zero

    def rows(self, own: Cones) -> np.ndarray:
        """Where the rows of the cones of one program are."""
        free, found = _blocks(self.cones), []
        for kind, size, start in _blocks(own):
            block = next(b for b in free if b[:2] == (kind, size))
            free.remove(block)
            stop = start + len(_inside(kind, size))
            found.extend(range(block[2], block[2] + stop - start))
        return np.array(found, int)

    def embed(self, own: Cones, P, c, A, b) -> tuple[np.ndarray, ...]:
        """The data of one program in the common shape."""
        k, rows, m = len(c), self.rows(own), self.cones.size
        full_P, full_c = np.eye(self.n), np.zeros(self.n)
        full_P[:k, :k], full_c[:k] = P, c
        full_A, full_b = np.zeros((m, self.n)), np.zeros(m)
        for kind, size, start in _blocks(self.cones):
            if kind == "zero":
                full_A[start, self.n - self.cones.zero + start] = 1.0
            else:
                point = _inside(kind, size)
                full_b[start : start + len(point)] = point
        full_A[rows] = 0.0
        full_A[np.ix_(rows, range(k))], full_b[rows] = A, b
        return full_P, full_c, full_A, full_b

    def own(self, own: Cones, k: int, slopes) -> tuple[np.ndarray, ...]:
        """Of ∂x/∂(P, c, A, b) in the common shape, the part that belongs to a program of k variables."""
        of_P, of_c, of_A, of_b = (np.asarray(part)[:k] for part in slopes)
        rows = self.rows(own)
        return of_P[:, :k, :k], of_c[:, :k], of_A[:, rows, :k], of_b[:, rows]


@functools.cache
def solution_and_slopes(program: ConeProgram, *modes):
    """A batch of (P, c, A, b) ↦ the solutions and, by each mode, ∂x/∂(P, c, A, b) of each."""

    def solve(*data):
        solution = program(*data)
        return solution.primal, solution

    def each(*data):
        found = [mode(solve, (0, 1, 2, 3), has_aux=True)(*data) for mode in modes]
        return found[0][1], *(slopes for slopes, _ in found)

    return jax.jit(jax.vmap(each))


def both_ways(fun):
    """p ↦ fun(p), its Jacobian forward and its Jacobian backward, all of one solve; compiled."""

    @jax.jit
    def run(p):
        value, push = jax.linearize(fun, p)
        pull = jax.linear_transpose(push, p)
        directions = jnp.eye(p.size, dtype=p.dtype).reshape(-1, *p.shape)
        forward = jnp.moveaxis(jax.vmap(push)(directions), 0, -1).reshape(*value.shape, *p.shape)
        weights = jnp.eye(value.size, dtype=value.dtype).reshape(-1, *value.shape)
        reverse = jax.vmap(lambda w: pull(w)[0])(weights).reshape(*value.shape, *p.shape)
        return value, forward, reverse

    return run


def with_jacobian(fun, argnums=0):
    """data ↦ fun(*data) and its Jacobians, backward, of one solve; compiled."""
    both = jax.jacrev(lambda *data: (fun(*data),) * 2, argnums, has_aux=True)
    return jax.jit(lambda *data: both(*data)[::-1])
