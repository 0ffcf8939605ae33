"""``conservative_jacobian`` and the set it returns."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import InvalidInputError, SelectionError, SingularError, TooManyKinksError
from ..numerics import Tolerance, exact_input_tolerance
from .abs_normal import AbsNormal, Kink
from .cut import cut

_MAX_VERTICES = 1 << 16
_CONDITION_LIMIT = 1e13


class ConservativeJacobian:
    """The set {A + H (I − D L)⁻¹ D E} of valid derivatives, D ranging over the selections.

    Attributes:
        shape: (m, n), in flattened coordinates; scalars count as 1.
        kinks: the active kinks, in execution order.
        nearest_inactive: the kink that would become active next, or None.
        form: the abs-normal form itself.
    """

    def __init__(
        self, form: AbsNormal, unflatten: Callable[[np.ndarray], Any] | None = None
    ) -> None:
        self.form = form
        self._unflatten = unflatten

    @classmethod
    def of(cls, form: AbsNormal, outputs: Any, inputs: Any) -> "ConservativeJacobian":
        """The set of a map from pytrees like ``inputs`` to pytrees like ``outputs``."""
        return cls(form, lambda matrix: _as_pytree(matrix, outputs, inputs))

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.form.A.shape
        return m, n

    @property
    def kinks(self) -> tuple[Kink, ...]:
        return self.form.kinks

    @property
    def nearest_inactive(self) -> Kink | None:
        return self.form.nearest_inactive

    def __repr__(self) -> str:
        m, n = self.shape
        kinks = len(self.kinks)
        return f"ConservativeJacobian(shape=({m}, {n}), kinks={kinks})"

    def weights(self, selection: str | Sequence[float] | np.ndarray) -> np.ndarray:
        """The flat weights of a named selection, or an explicit one checked.

        One weight in [0, 1] a scalar kink, r weights on the simplex for an r-way tie, kinks in
        execution order. For a tie, "lower" and "upper" follow the first and the last entry.
        """
        groups = self.form.groups
        if isinstance(selection, str):
            if selection == "jax":
                chosen = [g.jax for g in groups]
            elif selection in ("lower", "upper"):
                place = 0 if selection == "lower" else -1
                chosen = [list(g.vertices())[place] for g in groups]
            else:
                raise SelectionError(
                    f"selection={selection!r} is not 'jax', 'lower', 'upper' or weights."
                )
            return np.array([w for weights in chosen for w in weights])
        q = np.asarray(selection, dtype=np.float64)
        if q.shape != (self.form.weight_count,):
            raise SelectionError(
                f"q has shape {q.shape}; this set has {len(groups)} active kinks and takes "
                f"{self.form.weight_count} weights, in the order of .kinks."
            )
        if not np.all((q >= 0) & (q <= 1)):
            raise SelectionError("q has weights outside [0, 1] (or NaN).")
        at = 0
        for group in groups:
            total = q[at : at + group.ways].sum()
            if group.ways > 1 and abs(total - 1) > 1e-9:
                raise SelectionError(
                    f"the {group.ways} weights of the tie {group.kink} sum to {total}, not 1."
                )
            at += group.ways
        return q

    def element(self, selection: str | Sequence[float] | np.ndarray = "jax") -> np.ndarray:
        """One element of the set, a float64 array (m, n).

        ``"jax"`` is exactly what ``jax.jacobian`` returns; ``"lower"`` and ``"upper"`` take q = 0
        and q = 1 at every kink; an array takes its own weights.

        Raises SingularError if an implicit function's system is singular at this selection.

        >>> import jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(lambda x: jnp.maximum(x, 0.0))(0.0)
        >>> [float(J.element(s)[0, 0]) for s in ("jax", "lower", "upper", [0.25])]
        [0.5, 0.0, 1.0, 0.25]
        """
        return self._elements(self.form.diagonal(self.weights(selection))[None])[0]

    def vertices(self) -> np.ndarray:
        """All elements at extreme selections, without duplicates: an array (V, m, n).

        The set's convex hull is theirs, and every entrywise bound is attained at one of them
        (THEORY T5). Raises TooManyKinksError beyond 2¹⁶ selections.

        >>> import jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(lambda x: jnp.abs(x) + jnp.abs(2 * x))(0.0)
        >>> sorted(J.vertices().ravel().tolist())
        [-3.0, -1.0, 1.0, 3.0]
        """
        extremes = self._extreme_weights()
        diagonals = np.array([self.form.diagonal(np.array(w)) for w in extremes]).reshape(
            len(extremes), -1
        )
        return without_duplicates(self._elements(diagonals))

    def sample(self, key: jax.Array, count: int) -> np.ndarray:
        """``count`` elements at random selections (uniform weights, uniform on simplices): (count, m, n).

        >>> import jax, jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(jnp.abs)(0.0)
        >>> bool(abs(J.sample(jax.random.key(0), 100)).max() <= 1)
        True
        """
        seed = np.asarray(jax.random.bits(key, (4,), "uint32"))
        rng = np.random.default_rng(seed)
        draws = [
            rng.uniform(size=(count, 1))
            if g.ways == 1
            else rng.dirichlet(np.ones(g.ways), size=count)
            for g in self.form.groups
        ]
        weights = np.concatenate([np.zeros((count, 0)), *draws], axis=1)
        return self._elements(np.array([self.form.diagonal(w) for w in weights]).reshape(count, -1))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise lower and upper bounds, each (m, n), attained at vertices.

        >>> import jax, conservax as cx
        >>> low, high = cx.conservative_jacobian(jax.nn.relu)(0.0).bounds()
        >>> float(low[0, 0]), float(high[0, 0])
        (0.0, 1.0)
        """
        vertices = self.vertices()
        return vertices.min(axis=0), vertices.max(axis=0)

    def unflatten(self, matrix: np.ndarray) -> Any:
        """A matrix (m, n) of the set as the pytree that ``jax.jacobian`` would return."""
        if self._unflatten is None:
            return matrix
        return self._unflatten(np.asarray(matrix))

    def _extreme_weights(self) -> list[tuple[float, ...]]:
        moving = set(self.form.moving())
        count = 1
        for place, group in enumerate(self.form.groups):
            count *= max(2, group.ways) if place in moving else 1
        if count > _MAX_VERTICES:
            raise TooManyKinksError(
                f"{len(moving)} active kinks have {count:.3g} extreme selections, more than {_MAX_VERTICES}. "
                "Use .sample or .element, or lower the tolerance if kinks are active that should not be."
            )
        choices = [
            list(g.vertices()) if i in moving else [next(g.vertices())]
            for i, g in enumerate(self.form.groups)
        ]
        return [tuple(itertools.chain.from_iterable(pick)) for pick in itertools.product(*choices)]

    def _elements(self, diagonals: np.ndarray) -> np.ndarray:
        form = self.form
        if form.L.size and not np.all(
            np.triu(form.L) == 0
        ):  # an implicit function: systems may be singular
            systems = np.eye(form.L.shape[0]) - diagonals[:, :, None] * form.L
            conditions = np.linalg.cond(systems)
            if not np.all(conditions < _CONDITION_LIMIT):
                worst = diagonals[int(np.argmax(np.nan_to_num(conditions, nan=np.inf)))]
                raise SingularError(
                    f"the implicit system is singular at the selection D = diag({np.round(worst, 6).tolist()}), "
                    f"so the set is unbounded. Kinks: {'; '.join(map(str, form.kinks))}. "
                    "Run cx.check for the witness."
                )
        return form.jacobian(diagonals)


def conservative_jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> Callable[..., ConservativeJacobian]:
    """The set of derivatives that a program can have at a point: ``conservative_jacobian(fun)(*args)``.

    J(x) = {A + H (I − D L)⁻¹ D E : D a selection}, from the program's abs-normal form at x.

    Args:
        fun: a function of arrays (pytrees) returning arrays (a pytree).
        argnums: which arguments to differentiate, as in ``jax.jacobian``.
        atol, rtol: a kink is active iff |z| ≤ atol + rtol · (size of the terms that made z);
            defaults 0 and the square root of the dtype's eps.

    Returns:
        A function of ``fun``'s arguments that returns a ConservativeJacobian of shape (m, n).

    Raises:
        UnsupportedOperationError, DiscontinuousError, NotLipschitzError: with file and line.
        InvalidInputError: NaN or non-float inputs.

    Source: Bolte, Pauwels (Math. Program. 2021), Theorem 8 and Corollary 5 (calculus of conservative
    fields); Griewank et al. (LAA 2015) for the abs-normal form.

    >>> import jax, jax.numpy as jnp, conservax as cx
    >>> J = cx.conservative_jacobian(lambda x: jax.nn.relu(x) - jax.nn.relu(-x))(0.0)
    >>> J.vertices().ravel().tolist(), len(J.kinks)
    ([0.0, 1.0, 2.0], 2)
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def at(*args: Any) -> ConservativeJacobian:
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise InvalidInputError(
                    f"argnums={argnums} but the function was called with {len(args)} arguments."
                )
        chosen = tuple(n % len(args) for n in numbers)
        leaves = [leaf for n in chosen for leaf in jax.tree.leaves(args[n])]
        default = exact_input_tolerance(jax.numpy.result_type(*leaves))
        tolerance = Tolerance(
            default.atol if atol is None else atol, default.rtol if rtol is None else rtol
        )
        form = cut(fun, args, chosen, tolerance)
        order: Any = [args[n] for n in chosen]
        inputs = order[0] if isinstance(argnums, int) else tuple(order)
        permutation = _columns_in_order(args, chosen)
        if permutation is not None:
            form = form.restricted(permutation)
        return ConservativeJacobian.of(form, jax.eval_shape(fun, *args), inputs)

    return at


def without_duplicates(matrices: np.ndarray) -> np.ndarray:
    """The distinct matrices of a stack, equal to round-off counting as equal, in lexicographic order."""
    flat = matrices.reshape(len(matrices), -1)
    scale = np.abs(flat).max(initial=0.0)
    digits = np.round(flat / (scale or 1.0), 11) + 0.0  # + 0.0 turns −0 into 0
    _, first = np.unique(digits, axis=0, return_index=True)
    return matrices[first] + 0.0


def _columns_in_order(args: Sequence[Any], argnums: Sequence[int]) -> np.ndarray | None:
    """Column order for argnums given out of order; None when they are in order."""
    if list(argnums) == sorted(argnums):
        return None
    widths = {n: sum(np.size(leaf) for leaf in jax.tree.leaves(args[n])) for n in argnums}
    starts, at = {}, 0
    for n in sorted(argnums):
        starts[n] = at
        at += widths[n]
    return np.concatenate([starts[n] + np.arange(widths[n]) for n in argnums])


def _as_pytree(matrix: np.ndarray, outputs: Any, inputs: Any) -> Any:
    """Split a matrix (m, n) into the pytree of ``jax.jacobian``: outputs outside, inputs inside."""
    out_leaves, out_tree = jax.tree.flatten(outputs)
    in_leaves, in_tree = jax.tree.flatten(inputs)
    row_ends = np.cumsum([int(np.prod(np.shape(o))) for o in out_leaves])[:-1]
    column_ends = np.cumsum([np.size(leaf) for leaf in in_leaves])[:-1]
    blocks: list[Any] = []
    for out, rows in zip(out_leaves, np.split(matrix, row_ends, axis=0), strict=True):
        pieces = np.split(rows, column_ends, axis=1)
        inner = [
            p.reshape((*np.shape(out), *np.shape(leaf)))
            for p, leaf in zip(pieces, in_leaves, strict=True)
        ]
        blocks.append(jax.tree.unflatten(in_tree, inner))
    return jax.tree.unflatten(out_tree, blocks)
