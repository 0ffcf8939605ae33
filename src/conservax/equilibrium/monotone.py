"""``MonotoneEquilibrium``: a layer whose equilibrium exists, is unique, and may be differentiated."""

from __future__ import annotations

import abc
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..errors import InvalidInputError
from ..solution import Solution, Status
from . import phantom
from .activations import Activation, activation_of, selection_of
from .certificates import EquilibriumCertificate, monotone_certificate, norm_bound
from .couplings import Coupling, Dense, norms, product
from .node import Prepared, Problem, Stats, equilibrium, linearised, slopes_at
from .splitting import Settings

_METHODS = ("peaceman_rachford", "forward_backward")


class Monotone(eqx.Module):
    """z = σ(W z + V(x)) with I − sym(W) ≽ m I: what the layers of this kind share.

    A subclass has its parameters, ``coupling()``, ``drive(x)``, the two shapes and norm bounds.
    """

    activation: Activation
    m: float = eqx.field(static=True)
    settings: Settings
    alpha: float | None = eqx.field(static=True)
    backward: Any = eqx.field(static=True)
    selection: Any = eqx.field(static=True)

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of z."""

    @property
    @abc.abstractmethod
    def in_shape(self) -> tuple[int, ...]:
        """Of x."""

    @abc.abstractmethod
    def coupling(self) -> Coupling:
        """W, made from the parameters; differentiable in them."""

    @abc.abstractmethod
    def drive(self, x: jax.Array) -> jax.Array:
        """U x + b."""

    @abc.abstractmethod
    def drive_bound(self) -> float:
        """An upper bound of the norm of U; of concrete values."""

    def __call__(self, x: Any, *, init: Any = None) -> jax.Array:
        """The equilibrium z of one input x; ``jax.vmap`` for a batch. NaN where it was not found.

        ``init`` is a guess of z, such as the last one; it has derivative zero.
        """
        return self.solve(x, init=init).value

    def solve(self, x: Any, *, init: Any = None) -> Solution:
        """Solution(value, status, stats): the equilibrium, how the solve ended, what it took.

        Raises InvalidInputError for a wrong shape and, eagerly, for NaN or infinity.
        """
        x = self._input(x, self.in_shape, "x")
        init = None if init is None else self._input(init, self.shape, "init")
        coupling, c = self.coupling(), self.drive(x)
        init = None if init is None else init.astype(c.dtype)
        prepared, problem = self.prepare(coupling, c), self._problem
        if self.backward == "unrolled":
            return phantom.unrolled(problem, coupling, prepared, c, init)
        if self.backward != "implicit":
            return phantom.steps(problem, coupling, prepared, c, init, self.backward)
        return Solution(*equilibrium(problem, coupling, prepared, c, init))

    def adjoint(self, x: Any, cotangent: Any) -> Solution:
        """The backward pass by itself: t = J(I − WᵀJ)⁻¹ cotangent, its status, iterations and error.

        t is the cotangent of U x + b. What ``jax.grad`` solves inside, as data, to be watched in
        training at the price of one more solve.
        """
        x = self._input(x, self.in_shape, "x")
        cotangent = self._input(cotangent, self.shape, "cotangent")
        coupling, c = self.coupling(), self.drive(x)
        cotangent = cotangent.astype(c.dtype)
        prepared, problem = self.prepare(coupling, c), self._problem
        z, status, _ = equilibrium(problem, coupling, prepared, c, None)
        slopes = slopes_at(problem, prepared, z, coupling.multiply(z) + c, c)
        found = linearised(problem, coupling, prepared, slopes, cotangent, transposed=True)
        status = jnp.where(status == Status.SOLVED, found.status, status)
        value = jnp.where(status == Status.SOLVED, found.value, jnp.nan)
        return Solution(value, status, Stats(found.iterations, found.error))

    @property
    def _problem(self) -> Problem:
        return Problem(self.activation, self.m, self.settings, self.selection, self._certified)

    def prepare(self, coupling: Coupling, like: jax.Array) -> Prepared:
        """Step size, norm and resolvent, once for a batch and both passes."""
        still = jax.lax.stop_gradient(coupling)
        norm, lipschitz = norms(still, like)
        peaceman = self.settings.method == "peaceman_rachford"
        if self.alpha is not None:
            alpha = jnp.asarray(self.alpha, like.dtype)
        elif self.activation.only_unit_step and peaceman:
            alpha = jnp.ones((), like.dtype)
        elif peaceman:  # every α is safe; this is the best one for a symmetric I − W
            alpha = jax.lax.rsqrt(self.m * lipschitz)
        else:
            alpha = 1 / lipschitz
        # from the middle of the safe interval forward–backward converges; Peaceman–Rachford anywhere
        safe = alpha if peaceman else jnp.minimum(alpha, self.m / lipschitz**2)
        return Prepared(still.resolvent(alpha) if peaceman else None, alpha, safe, norm)

    @property
    def certificate(self) -> EquilibriumCertificate:
        """PROVEN by construction, for every input and selection, with margin and Lipschitz constant.

        The layer must hold concrete values: call it outside jit, vmap and grad.
        """
        coupling = self.coupling()
        if any(isinstance(a, Tracer) for a in jax.tree.leaves(coupling)):
            raise InvalidInputError(
                "certificate: the weights are traced, and a certificate is of numbers. Read it outside jit, "
                "vmap and grad."
            )
        return self._certified(coupling, self.drive_bound())

    def check(self, x: Any, *, rtol: float | None = None) -> Any:
        """``cx.check`` of this layer's own equation at its equilibrium for x, kink by kink."""
        from ..implicit import check

        def optimality(z: jax.Array, x: jax.Array) -> jax.Array:
            return z - self.activation(self.coupling().multiply(z) + self.drive(x))

        x = self._input(x, self.in_shape, "x")
        return check(optimality, self(x), x, rtol=rtol)

    def _certified(self, coupling: Coupling, drive: float | None = None) -> EquilibriumCertificate:
        return monotone_certificate(coupling.modulus(self.m), coupling.norm_bound(), drive)

    @staticmethod
    def _input(x: Any, shape: tuple[int, ...], name: str) -> jax.Array:
        x = jnp.asarray(x)
        require_real(x, name)
        if x.shape != shape:
            raise InvalidInputError(
                f"{name} has shape {x.shape}; one input of this layer has shape {shape}. "
                "For a batch use jax.vmap(layer)."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(jnp.result_type(float))
        if not isinstance(x, Tracer) and not np.all(np.isfinite(x)):
            raise InvalidInputError(f"{name} holds NaN or infinity; pass finite values.")
        return x


def settings_of(method: str, memory: int | None, max_steps: int, tol: float | None) -> Settings:
    """The settings of the splitting, checked."""
    if method not in _METHODS:
        raise InvalidInputError(f"method={method!r} is not one of {', '.join(_METHODS)}.")
    if memory is None:
        memory = 1 if method == "peaceman_rachford" else 2
    require_sizes(max_steps=max_steps)
    if memory != 0:
        require_sizes(memory=memory)
    require_tolerance(tol)
    return Settings(method, memory, max_steps, tol)


def is_positive(value: Any) -> bool:
    """Whether this is a positive, finite real number."""
    try:
        return not isinstance(value, str) and 0 < float(value) < math.inf
    except TypeError:
        return False


def require_real(x: jax.Array, name: str) -> None:
    """No complex numbers."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise InvalidInputError(f"{name} is complex; pass real numbers, such as its parts.")


def require_precision(dtype: Any) -> None:
    """float32 or float64."""
    if dtype not in (jnp.float32, jnp.float64):
        raise InvalidInputError(
            f"dtype={dtype.name}: an equilibrium is computed in float32 or float64."
        )


def require_tolerance(tol: Any) -> None:
    """None, or a positive number."""
    if tol is not None and not is_positive(tol):
        raise InvalidInputError(f"tol={tol!r} must be positive, or None.")


def require_monotone(m: float, alpha: float | None, activation: Activation, method: str) -> None:
    """m and α such that the layer has an equilibrium and its splitting a meaning."""
    if not is_positive(m):
        raise InvalidInputError(
            f"m={m!r} must be positive: the equilibrium exists and is unique because "
            "I − (W + Wᵀ)/2 ≽ m I."
        )
    if alpha is not None and not is_positive(alpha):
        raise InvalidInputError(f"alpha={alpha!r} must be positive.")
    if activation.only_unit_step and (method == "forward_backward" or alpha not in (None, 1.0)):
        raise InvalidInputError(
            f"activation {type(activation).__name__}: its proximal operator is known at α = 1 alone; "
            'use method="peaceman_rachford" with alpha=None.'
        )


def require_sizes(**sizes: Any) -> None:
    """Positive whole numbers, by name."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not (isinstance(size, int | np.integer) and size >= 1):
            raise InvalidInputError(f"{name}={size!r} must be a positive whole number.")


class MonotoneEquilibrium(Monotone):
    """z = σ(W z + U x + b), W = (1 − m) I − AᵀA + B − Bᵀ, the equilibrium of a monotone network.

    I − (W + Wᵀ)/2 = m I + AᵀA ≽ m I whatever A and B are, and σ is a proximal operator: z exists, is
    unique, and is a Lipschitz function of x, W, U and b, whose derivative −(I − JW)⁻¹… is valid for
    every Jacobian J of σ (Proposition 3), at every input and after every training step.

    Args:
        in_size, size: how many numbers x and z have.
        activation: "relu", "leaky_relu", "tanh", "soft_threshold", "softmax", "box", a class of
            ``conservax.equilibrium.activations`` with its parameters, or an object with ``value(z)``,
            a convex f, and ``prox(v, alpha)`` = argmin ½‖p − v‖² + α f(p), so that σ = prox(·, 1).
        m: the modulus of monotonicity, m > 0. The larger it is, the quicker the solve.
        method: "peaceman_rachford", which converges for every step size, or "forward_backward".
        alpha: the step size; chosen from m and ‖I − W‖ if None. Forward–backward halves one that does
            not converge, down to a safe one.
        memory: how many differences Anderson's acceleration keeps, 0 for none.
        tol: relative error of z and of the adjoint; eps^0.8 of the dtype if None.
        max_steps: iterations of a pass after which an item counts as failed.
        backward: "implicit", exact; "one_step"; ``Phantom(steps, damping)``; "unrolled", which
            differentiates ``max_steps`` iterations, NaN if they do not reach ``tol``.
        selection: the derivative of σ at its kinks: "jax", "lower", "upper", or a weight in [0, 1].
        key: a random key; dtype: of the parameters.

    Attributes W (size, size), U (size, in_size), b (size,): the matrices of the equation;
    ``certificate``: why the derivative may be trusted.

    Raises InvalidInputError: m ≤ 0, sizes that are none, an activation that is no proximal operator.

    Source: Winston, Kolter, Monotone operator equilibrium networks (NeurIPS 2020); Bolte, Le, Pauwels,
    Silveti-Falls (NeurIPS 2021), Proposition 3, with W + Wᵀ ≼ 2(1 − m) I.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> layer = cx.equilibrium.MonotoneEquilibrium(3, 5, key=jax.random.key(0))
    >>> z = layer(jnp.ones(3))
    >>> bool(jnp.allclose(z, jax.nn.relu(layer.W @ z + layer.U @ jnp.ones(3) + layer.b), atol=1e-5))
    True
    >>> print(layer.certificate.verdict)
    PROVEN
    """

    A: jax.Array
    B: jax.Array
    U: jax.Array
    b: jax.Array

    def __init__(
        self,
        in_size: int,
        size: int,
        activation: Any = "relu",
        m: float = 1.0,
        *,
        method: str = "peaceman_rachford",
        alpha: float | None = None,
        memory: int | None = None,
        tol: float | None = None,
        max_steps: int = 500,
        backward: Any = "implicit",
        selection: Any = "jax",
        key: jax.Array,
        dtype: Any = None,
    ):
        require_sizes(in_size=in_size, size=size)
        self.activation = activation_of(activation, (size,))
        require_monotone(m, alpha, self.activation, method)
        self.m, self.alpha = float(m), alpha
        self.settings = settings_of(method, memory, max_steps, tol)
        self.backward = phantom.backward_of(backward)
        self.selection = selection_of(selection)
        square, wide = (size, size), (size, in_size)
        self.A, self.B, self.U, self.b = uniform(
            key, (square, size), (square, size), (wide, in_size), ((size,), in_size), dtype=dtype
        )

    @property
    def W(self) -> jax.Array:  # noqa: N802
        """(1 − m) I − AᵀA + B − Bᵀ."""
        return _coupled(self.A, self.B, self.m)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.U.shape[0],)

    @property
    def in_shape(self) -> tuple[int, ...]:
        return (self.U.shape[1],)

    def coupling(self) -> Coupling:
        return Dense(self.W)

    def drive(self, x: jax.Array) -> jax.Array:
        return product(self.U, x) + self.b

    def drive_bound(self) -> float:
        return norm_bound(self.U)


@partial(jax.jit, static_argnums=2, inline=True)
def _coupled(A: jax.Array, B: jax.Array, m: float) -> jax.Array:
    one = jnp.eye(len(A), dtype=A.dtype)
    # in this order rounding keeps B − Bᵀ antisymmetric (``rounded_modulus``)
    return ((1 - m) * one - product(A.T, A)) + (B - B.T)


def uniform(
    key: jax.Array, *arrays: tuple[tuple[int, ...], int], dtype: Any
) -> tuple[jax.Array, ...]:
    """Arrays of these shapes, uniform in ±1/√inputs, from pairs (shape, inputs); in one draw."""
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    require_precision(dtype)
    return _uniform(key, arrays, dtype)


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: jax.Array, arrays: Any, dtype: Any) -> tuple[jax.Array, ...]:
    sizes = [math.prod(shape) for shape, _ in arrays]
    drawn = jax.random.uniform(key, (sum(sizes),), dtype, -1, 1)
    parts = jnp.split(drawn, np.cumsum(sizes)[:-1])
    return tuple(
        part.reshape(shape) / math.sqrt(inputs)
        for part, (shape, inputs) in zip(parts, arrays, strict=True)
    )
