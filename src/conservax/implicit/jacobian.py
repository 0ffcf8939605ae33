"""Sets of implicit derivatives: ``implicit_jacobian`` (Theorem 2) and ``inverse_jacobian`` (Corollary 2)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..calculus import AbsNormal, ConservativeJacobian
from ..calculus.tracing.flattening import columns_in_order
from ..calculus.tracing.invocation import differentiable, require_values
from ..errors import InvalidInputError, SingularError
from ..numerics import singular_value_floor
from .residual import Equation
from .solves import moved_form


def implicit_jacobian(
    optimality_fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    rtol: float | None = None,
) -> Callable[..., ConservativeJacobian]:
    """The set of derivatives of the root y(θ) of F(y, θ) = 0: ``implicit_jacobian(F)(sol, *args)``.

    {−B⁻¹A : [B A] ∈ J_F(sol, args)}, one selection of F an element.

    Args:
        optimality_fun: F(sol, *args), a pytree with as many numbers as ``sol``.
        argnums: which of ``args`` to differentiate in (0 is the first after ``sol``).
        rtol: a kink is active iff |z| ≤ rtol · (size of the terms that made z); by default the
            square root of the larger of eps and the root's relative residual.

    Returns:
        A function of (sol, *args) that returns a ConservativeJacobian of shape (size of sol, size
        of the chosen args).

    Raises:
        NotARootError, InvalidInputError: sol is no root, or F and sol differ in size.
        SingularError: B is singular at the base selection; ``.element`` and ``.vertices`` raise it
            at a selection where B is.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2;
    docs/theory.md#elimination.

    >>> import jax.numpy as jnp, conservax as cx
    >>> J = cx.implicit_jacobian(lambda y, a: y - jnp.maximum(0.0, y / 2 - a))(0.0, 0.0)
    >>> J.vertices().ravel().tolist()
    [-2.0, 0.0]
    """
    one = isinstance(argnums, int)
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def at(sol: Any, *args: Any, **kwargs: Any) -> ConservativeJacobian:
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise InvalidInputError(
                    f"argnums={argnums} but optimality_fun was called with {len(args)} arguments after sol."
                )
        chosen = [n % len(args) for n in numbers]
        equation = Equation.of(optimality_fun, sol, args, kwargs).require_root()
        joint = equation.point(rtol).form(equation.inputs((0, *(n + 1 for n in chosen))))
        form = eliminate(moved_form(joint), equation.residual.unknowns)
        permutation = columns_in_order(args, chosen)
        if permutation is not None:
            form = form.restricted(permutation)
        order: Any = [differentiable(args[n]) for n in chosen]
        return ConservativeJacobian.of(form, sol, order[0] if one else tuple(order))

    return at


def inverse_jacobian(
    fun: Callable[..., Any], *, rtol: float | None = None
) -> Callable[[Any], ConservativeJacobian]:
    """The set of derivatives of the inverse of ``fun`` at ``fun(x)``: ``inverse_jacobian(fun)(x)``.

    {B⁻¹ : B ∈ J_fun(x)}; with every B invertible, ``fun`` has a Lipschitz inverse near x.

    Args:
        fun: a function from a pytree to one with as many numbers.
        rtol: as in ``implicit_jacobian``.

    Returns:
        A function of x that returns a ConservativeJacobian of shape (n, n).

    Raises:
        InvalidInputError: ``fun`` changes the number of entries. SingularError: some B is singular.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Corollary 2.

    >>> import jax.numpy as jnp, conservax as cx
    >>> J = cx.inverse_jacobian(lambda x: 2 * x + jnp.abs(x))(0.0)
    >>> [round(v, 6) for v in J.vertices().ravel().tolist()]
    [0.333333, 1.0]
    """
    implicit = implicit_jacobian(functools.partial(_difference, fun), rtol=rtol)

    def at(x: Any) -> ConservativeJacobian:
        require_values([("x", x)], "inverse_jacobian")
        return implicit(x, fun(x))

    return at


def _difference(fun: Callable[..., Any], x: Any, image: Any) -> Any:
    """fun(x) − image, zero where x is the inverse of ``fun`` at ``image``."""
    return jax.tree.map(lambda a, b: a - b, fun(x), image)


def eliminate(form: AbsNormal, unknowns: int) -> AbsNormal:
    """The abs-normal form of the implicit function, from that of F in (solution, parameters).

    G(q) = G0 − W (I − D M)⁻¹ D R with M = L − G B0⁻¹ H, R = E − G B0⁻¹ A0, W = B0⁻¹ H, G0 = −B0⁻¹ A0
    (docs/theory.md#elimination): an abs-normal form again.
    """
    base, rest = form.A[:, :unknowns], form.A[:, unknowns:]
    smallest = np.linalg.svd(base, compute_uv=False)[-1] if base.size else 1.0
    if smallest <= singular_value_floor(base, form.dtype):
        raise SingularError(
            f"∂F/∂sol is singular at the base selection (σ_min = {smallest:.3g}), so the set of implicit "
            "derivatives is unbounded or empty. Run cx.check for the kinks and the null vector."
        )
    solved = np.linalg.solve(base, np.concatenate([rest, form.H], axis=1))
    by_rest, by_cut = solved[:, : rest.shape[1]], solved[:, rest.shape[1] :]
    seen = form.E[:, :unknowns]

    def without_unknowns(switch: np.ndarray) -> np.ndarray:
        return switch[unknowns:] - switch[:unknowns] @ solved

    groups = (
        g if g.switch is None else replace(g, switch=without_unknowns(g.switch))
        for g in form.groups
    )
    return replace(
        form,
        groups=tuple(groups),
        A=-by_rest,
        H=-by_cut,
        E=form.E[:, unknowns:] - seen @ by_rest,
        L=form.L - seen @ by_cut,
    )
