"""``Equilibrium``: z = cell(z, x) for any cell, with exact implicit gradients and a check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import InvalidInputError
from ..implicit import custom_fixed_point
from ..implicit.masks import poisoned
from ..solution import Solution, Status
from .activations import Activation, activation_of
from .certificates import EquilibriumCertificate, contraction_certificate
from .fixed_points import SOLVERS, Residuals, find, judged
from .monotone import require_precision, require_real, require_sizes, require_tolerance, uniform
from .phantom import backward_of, damped


class Equilibrium(eqx.Module):
    """z = cell(z, x, *args): a deep equilibrium layer of any cell.

    Args:
        cell: a function or Equinox module of z and x, returning an array like z. If it has a number
            ``lipschitz`` < 1, a Lipschitz constant in z, the layer is certified.
        shape: of z; x's if None.
        solver: "fixed_point", "anderson" or "broyden".
        backward: "implicit", exact; "one_step"; ``Phantom(steps, damping)``; "unrolled", which
            differentiates ``max_steps`` plain iterations, NaN if they do not reach ``tol``.
        memory: how many differences Anderson's and Broyden's methods keep.
        tol: ‖z − cell(z)‖ against the size of z; eps^0.8 of the dtype if None.
        max_steps: evaluations of the cell after which an item counts as failed.
        selection: of the cell's kinks in the implicit derivative, as in ``cx.select``.

    Source: Bai, Kolter, Koltun, Deep equilibrium models (NeurIPS 2019); Bolte, Le, Pauwels,
    Silveti-Falls (NeurIPS 2021), Section 4.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> deq = cx.equilibrium.Equilibrium(lambda z, x: jnp.tanh(0.5 * z + x))
    >>> z = deq(jnp.ones(2))
    >>> bool(jnp.allclose(z, jnp.tanh(0.5 * z + 1), atol=1e-5))
    True
    >>> print(deq.check(jnp.ones(2)).verdict, deq.certificate.verdict)
    PROVEN UNKNOWN
    """

    cell: Callable[..., Any]
    shape: tuple[int, ...] | None = eqx.field(static=True)
    solver: str = eqx.field(static=True)
    backward: Any = eqx.field(static=True)
    memory: int = eqx.field(static=True)
    tol: float | None = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    selection: Any = eqx.field(static=True)

    def __init__(
        self,
        cell: Callable[..., Any],
        shape: tuple[int, ...] | None = None,
        solver: str = "anderson",
        backward: Any = "implicit",
        *,
        memory: int = 5,
        tol: float | None = None,
        max_steps: int = 200,
        selection: Any = "jax",
    ):
        if solver not in SOLVERS:
            raise InvalidInputError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}.")
        if not callable(cell):
            raise InvalidInputError("cell must be callable: cell(z, x, *args).")
        require_sizes(memory=memory, max_steps=max_steps)
        require_tolerance(tol)
        self.cell, self.shape, self.solver = cell, _shape(shape), solver
        self.backward = backward_of(backward)
        self.memory, self.tol, self.max_steps, self.selection = memory, tol, max_steps, selection

    def __call__(self, x: jax.Array, *args: Any, init: Any = None) -> jax.Array:
        """The equilibrium of one input; ``jax.vmap`` for a batch. NaN where it was not found."""
        return self.solve(x, *args, init=init).value

    def solve(self, x: jax.Array, *args: Any, init: Any = None) -> Solution:
        """Solution(value, status, stats), stats with the evaluations of the cell and ‖z − cell(z)‖.

        Raises InvalidInputError if the cell changes the shape or dtype of z, or, eagerly, for NaN in x.
        """
        x = jnp.asarray(x)
        start = self._start(x, init)
        self._require_cell(start, x, args)
        if self.backward == "unrolled":
            z = start
            z, _ = jax.lax.scan(
                lambda z, _: (self.cell(z, x, *args), None), start, None, length=self.max_steps
            )
            status, residual = judged(self._still(x, args), start, z, self.tol)
            count = jnp.full((), self.max_steps, jnp.int32)
            return Solution(
                poisoned(z, status == Status.SOLVED), status, Residuals(count, residual)
            )
        if self.backward == "implicit":

            @custom_fixed_point(self.cell, has_aux=True, selection=self.selection,
                                certificate=self._certified)  # fmt: skip
            def solver(start: jax.Array, x: jax.Array, *args: Any) -> Any:
                z, status, stats = self._find(start, lambda z: self.cell(z, x, *args))
                return z, (status, stats)

            z, (status, stats) = solver(start, x, *args)
            return Solution(z, status, stats)
        z, status, stats = self._find(start, self._still(x, args))
        moved = damped(lambda z: self.cell(z, x, *args), z, self.backward)
        return Solution(moved + jax.lax.stop_gradient(z - moved), status, stats)

    @property
    def certificate(self) -> EquilibriumCertificate:
        """PROVEN if the cell's ``lipschitz`` is below 1, for every input; else UNKNOWN."""
        return contraction_certificate(getattr(self.cell, "lipschitz", None), None)

    def check(self, x: jax.Array, *args: Any, rtol: float | None = None) -> Any:
        """``cx.check`` of z − cell(z, x, *args) at the equilibrium of this input."""
        from ..implicit import check

        x = jnp.asarray(x)
        return check(lambda z, *a: z - self.cell(z, *a), self(x, *args), x, *args, rtol=rtol)

    def jacobian_penalty(self, z: jax.Array, x: jax.Array, *args: Any, key: jax.Array) -> jax.Array:
        """An unbiased estimate of ‖∂cell/∂z‖_F²/n at z, to be added to a loss: ‖εᵀ∂cell/∂z‖²/n.

        Source: Bai, Koltun, Kolter, Stabilizing equilibrium models by Jacobian regularization (2021).
        """
        _, pull = jax.vjp(lambda z: self.cell(z, x, *args), z)
        (row,) = pull(jax.random.normal(key, z.shape, z.dtype))
        return jnp.sum(row * row) / z.size

    def _certified(self, sol: jax.Array, *args: Any) -> EquilibriumCertificate:
        del sol, args
        return self.certificate

    def _find(self, start: jax.Array, map_: Callable[[jax.Array], jax.Array]) -> Any:
        return find(map_, start, self.solver, self.memory, self.tol, self.max_steps)

    def _still(self, x: jax.Array, args: tuple[Any, ...]) -> Callable[[jax.Array], jax.Array]:
        arrays, rest = eqx.partition((self.cell, x, args), eqx.is_array)
        cell, x, args = eqx.combine(jax.lax.stop_gradient(arrays), rest)
        return lambda z: cell(z, x, *args)

    def _start(self, x: jax.Array, init: Any) -> jax.Array:
        require_real(x, "x")
        if not isinstance(x, Tracer) and not np.all(np.isfinite(x)):
            raise InvalidInputError("x holds NaN or infinity; pass finite values.")
        shape = x.shape if self.shape is None else self.shape
        dtype = jnp.result_type(x.dtype, jnp.float32 if x.dtype == jnp.float32 else x.dtype)
        dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
        require_precision(dtype)
        if init is None:
            return jnp.zeros(shape, dtype)
        init = jnp.asarray(init, dtype)
        if init.shape != shape:
            raise InvalidInputError(f"init has shape {init.shape}; z has shape {shape}.")
        return jax.lax.stop_gradient(init)

    def _require_cell(self, start: jax.Array, x: jax.Array, args: tuple[Any, ...]) -> None:
        out = jax.eval_shape(lambda z: self.cell(z, x, *args), start)
        if not isinstance(out, jax.ShapeDtypeStruct) or out.shape != start.shape:
            raise InvalidInputError(
                f"cell turns z of shape {start.shape} into {getattr(out, 'shape', type(out).__name__)}; "
                "it must return an array of z's shape. Pass shape= if z is not shaped like x."
            )
        if out.dtype != start.dtype:
            raise InvalidInputError(
                f"cell turns z of dtype {start.dtype} into {out.dtype}; keep one dtype throughout."
            )


def _shape(shape: Any) -> tuple[int, ...] | None:
    """A shape as a tuple of whole numbers, or None."""
    if shape is None:
        return None
    if not isinstance(shape, tuple | list):
        raise InvalidInputError(f"shape={shape!r} must be a tuple, such as ({shape!r},), or None.")
    require_sizes(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    return tuple(int(n) for n in shape)


class SpectralCell(eqx.Module):
    """z ↦ σ(κ V z/max(‖V‖₂, κ) + U x + b), a contraction of modulus κ < 1: spectral normalisation.

    Args:
        in_size, size: how many numbers x and z have.
        activation: as in ``MonotoneEquilibrium``: a proximal operator has slopes in [0, 1].
        bound: κ, which is ``lipschitz``, in (0, 1).
        key: a random key; dtype: of the parameters.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> cell = cx.equilibrium.SpectralCell(3, 4, "tanh", key=jax.random.key(0))
    >>> deq = cx.equilibrium.Equilibrium(cell, shape=(4,))
    >>> deq(jnp.ones(3)).shape, str(deq.certificate.verdict)
    ((4,), 'PROVEN')
    """

    V: jax.Array
    U: jax.Array
    b: jax.Array
    activation: Activation
    bound: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        size: int,
        activation: Any = "relu",
        bound: float = 0.95,
        *,
        key: jax.Array,
        dtype: Any = None,
    ):
        require_sizes(in_size=in_size, size=size)
        if not 0 < bound < 1:
            raise InvalidInputError(f"bound={bound} must lie strictly between 0 and 1.")
        self.activation = activation_of(activation, (size,))
        self.bound = float(bound)
        self.V, self.U, self.b = uniform(
            key, ((size, size), size), ((size, in_size), in_size), ((size,), in_size), dtype=dtype
        )

    @property
    def lipschitz(self) -> float:
        """κ, raised by what rounding may add to the normalised matrix."""
        return self.bound * (1 + 100 * float(jnp.finfo(self.V.dtype).eps))

    @property
    def W(self) -> jax.Array:  # noqa: N802
        """The normalised matrix; its norm is at most κ."""
        return self.V * (self.bound / jnp.maximum(jnp.linalg.norm(self.V, 2), self.bound))

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        return self.activation(self.W @ z + self.U @ x + self.b)
