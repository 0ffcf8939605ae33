"""The set of Jacobians of a program at a point: its elements, bounds, support, distance and membership."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import InvalidInputError, SelectionError, TooManyKinksError
from ..numerics import machine_epsilon, spectral_norm
from .sets.abs_normal import AbsNormal, Kink
from .sets.complementarity import one_sided_derivative
from .sets.hull import MAX_DECISIONS, Hull, elements, solve_vertices, spans_clarke_jacobian
from .sets.inner_bounds import inner_bounds, searched_support
from .sets.membership import has_exact_element, nearest_in_hull
from .sets.outer_bounds import norm_bound, outer_bounds, outer_support
from .sets.pivots import SmallPivotError, decide
from .tracing.flattening import as_pytree, without_duplicates
from .tracing.invocation import require_values

_MAX_NORMS = 1 << 12  # vertices whose norms are taken one by one


class ConservativeJacobian:
    """The set {A + H (I − D L)⁻¹ D E} of valid derivatives, D ranging over the selections.

    Attributes:
        shape: (m, n), in flattened coordinates; scalars count as 1.
        kinks: the active kinks, in execution order.
        nearest_inactive: the kink that would become active next, or None.
        form: the abs-normal form itself.
    """

    def __init__(
        self,
        form: AbsNormal,
        unflatten: Callable[[np.ndarray], Any] | None = None,
        inputs: Any = None,
    ) -> None:
        self.form = form
        self._unflatten = unflatten
        self._inputs = inputs

    @classmethod
    def of(cls, form: AbsNormal, outputs: Any, inputs: Any) -> "ConservativeJacobian":
        """The set of a map from pytrees like ``inputs`` to pytrees like ``outputs``."""
        return cls(form, lambda matrix: as_pytree(matrix, outputs, inputs), inputs)

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

        One weight in [0, 1] a scalar kink, r weights on the simplex for an r-way tie, n weights in the
        Euclidean unit ball for a norm at 0; kinks in execution order. For a tie, "lower" and "upper"
        follow the first and the last entry; for a norm all names mean JAX's weights.
        """
        groups = self.form.groups
        if isinstance(selection, str):
            if selection not in ("jax", "lower", "upper"):
                raise SelectionError(
                    f"selection={selection!r} is not 'jax', 'lower', 'upper' or weights."
                )
            return np.array([w for g in groups for w in g.named(selection)], dtype=np.float64)
        require_values([("selection", selection)], "this")
        q = np.asarray(selection, dtype=np.float64)
        if q.shape != (self.form.weight_count,):
            raise SelectionError(
                f"q has shape {q.shape}; this set has {len(groups)} active kinks and takes "
                f"{self.form.weight_count} weights, in the order of .kinks."
            )
        at = 0
        for group in groups:
            group.check(q[at : at + group.ways])
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
        return elements(self.form, self.form.diagonal(self.weights(selection))[None])[0]

    def vertices(self) -> np.ndarray:
        """All elements at extreme selections, without duplicates: an array (V, m, n).

        The set's convex hull is theirs, and every entrywise bound is attained at one of them (but for a
        ``where`` of rank two or more in an implicit function: docs/theory.md#one-weight-at-a-time). They
        are found by principal pivots, about m n numbers a vertex.

        Raises TooManyKinksError beyond 2¹⁶ selections, NotPolyhedralError for a norm at 0,
        SingularError if an implicit function's system is singular at one of them.

        >>> import jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(lambda x: jnp.abs(x) + jnp.abs(2 * x))(0.0)
        >>> sorted(J.vertices().ravel().tolist())
        [-3.0, -1.0, 1.0, 3.0]
        """
        form = self.form
        moving = [form.groups[i] for i in form.moving()]
        count = math.prod(len(list(g.vertices())) for g in moving)
        if count > MAX_DECISIONS:
            raise TooManyKinksError(
                f"{len(moving)} active kinks have {count:.3g} extreme selections, more than {MAX_DECISIONS}. "
                "Use .bounds, .outer_bounds, .sample or .element, or lower the tolerance if kinks are active "
                "that should not be."
            )
        try:
            return without_duplicates(decide(form, moving, []))
        except SmallPivotError:
            return without_duplicates(solve_vertices(form, moving))

    def sample(self, key: jax.Array, count: int) -> np.ndarray:
        """``count`` elements at random selections, an array (count, m, n).

        Weights are uniform in [0, 1], on the simplex, or in the ball, kinks independent of each other.

        >>> import jax, jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(jnp.abs)(0.0)
        >>> bool(abs(J.sample(jax.random.key(0), 100)).max() <= 1)
        True
        """
        require_values([("key", key)], "sample")
        seed = np.asarray(jax.random.bits(key, (4,), "uint32"))
        rng = np.random.default_rng(seed)
        draws = [g.draw(rng, count) for g in self.form.groups]
        weights = np.concatenate([np.zeros((count, 0)), *draws], axis=1)
        return elements(self.form, self.form.diagonal(weights))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise lower and upper bounds, each (m, n), attained (docs/theory.md#one-weight-at-a-time).

        min and max of J_ab over the set: in closed form, Σ_i min(0, H_ai E_ib), for kinks that no
        other sees or that see none, however many; over all selections of the rest.

        Raises TooManyKinksError beyond 2¹⁶ of those (``inner_bounds`` and ``outer_bounds`` have no
        such limit); SingularError as ``vertices``; NotPolyhedralError where extreme selections do not
        span the hull (a norm at 0 between kinks).

        >>> import jax, conservax as cx
        >>> low, high = cx.conservative_jacobian(jax.nn.relu)(0.0).bounds()
        >>> float(low[0, 0]), float(high[0, 0])
        (0.0, 1.0)
        """
        return Hull.of(self.form).bounds()

    def inner_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise bounds from inside, each (m, n): every number is attained by some element.

        For each entry a search over extreme selections, one kink at a time; the true bounds lie at
        these numbers or beyond, and within ``outer_bounds``. Any number of kinks.

        Raises NotPolyhedralError for a norm at 0, SingularError as ``vertices``.

        Source: docs/theory.md#one-weight-at-a-time: along it the set is a segment, whose ends suffice.

        >>> import jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(lambda x: jnp.abs(jnp.abs(x) - x / 2))(0.0)
        >>> [b.item() for b in J.inner_bounds()], [b.item() for b in J.outer_bounds()]
        ([-1.5, 1.5], [-1.5..., 1.5...])
        """
        return inner_bounds(self.form)

    def outer_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Entrywise bounds from outside, each (m, n): no element exceeds them, rounding included.

        Finite for a program's own kinks. For an implicit function, with N = I − L of the form, if
        ρ(|(I − N)(I + N)⁻¹|) < 1 or if N + Nᵀ ≻ 0 in one of two diagonal scalings that are tried. Any
        number of kinks; wider than ``bounds``.

        Raises TooManyKinksError where neither holds.

        Source: docs/theory.md#outer-bounds: Neumann's series, and the ellipsoid that monotonicity gives.
        """
        return outer_bounds(self.form)

    def support(self, direction: Any) -> float:
        """max ⟨C, J⟩ = max Σ_ab C_ab J_ab over the set, for C (m, n): attained, to round-off.

        Raises InvalidInputError if C has another shape; the rest as ``bounds``.

        >>> import jax.numpy as jnp, conservax as cx
        >>> cx.conservative_jacobian(jnp.abs)(jnp.zeros(2)).support([[1.0, 0.0], [0.0, -2.0]])
        3.0
        """
        return 0.0 - Hull.of(self.form).support(-self._matrix(direction, "direction"))[0]

    def inner_support(self, direction: Any) -> float:
        """⟨C, J⟩ for an element J that a search over extreme selections finds to be large.

        Attained, hence at most the true maximum. Arguments as ``support``, errors as ``inner_bounds``.
        """
        return 0.0 - searched_support(self.form)(-self._matrix(direction, "direction"))[0]

    def outer_support(self, direction: Any) -> float:
        """A number that ⟨C, J⟩ exceeds for no element J, rounding included.

        Arguments as ``support``, methods and errors as ``outer_bounds``.
        """
        return outer_support(self.form, self._matrix(direction, "direction"))

    def lipschitz_bound(self) -> float:
        """A number that ‖J‖₂ exceeds for no element J: a Lipschitz constant at the point.

        Up to 2¹² vertices the largest of their norms (of an implicit function: if no selection is
        singular, which ``cx.check`` proves); beyond, and for balls, from the enclosures behind
        ``outer_bounds``, which need no such proof.

        Raises TooManyKinksError, SingularError as ``outer_bounds`` and ``vertices``.

        >>> import jax.numpy as jnp, conservax as cx
        >>> round(cx.conservative_jacobian(lambda x: 3 * jnp.abs(x))(0.0).lipschitz_bound(), 9)
        3.0
        """
        form = self.form
        moving = [form.groups[i] for i in form.moving()]
        curved = form.order() is None and any(
            g.kind == "segment" and len(g.columns) > 1 for g in moving
        )
        if curved or any(g.kind == "ball" for g in moving):
            return norm_bound(form)
        if math.prod(max(2, g.ways) for g in moving) > _MAX_NORMS:
            return norm_bound(form)
        if not form.A.size:
            return 0.0
        norms = [spectral_norm(vertex) for vertex in self.vertices()]
        return max(norms) * (1 + 16 * max(form.A.shape) * machine_epsilon(np.float64))

    def directional(self, v: Any) -> np.ndarray:
        """The true one-sided derivative f'(x; v) = lim (f(x + t v) − f(x))/t, t ↓ 0: an array (m,).

        Every kink takes the side that the direction moves it to; one element of the set, times v.

        Args:
            v: a vector (n,), or a pytree like the inputs.

        Raises:
            InvalidInputError: v has another shape. NotUniqueError, SingularError: an implicit
            function's linearised equations have several solutions in this direction, or none;
            TooManyKinksError: neither could be excluded. UnsupportedOperationError: a ``where``
            whose side the direction does not decide.

        Source: forward substitution in the abs-normal form (Griewank and others, LAA 2015); for
        implicit functions a linear complementarity problem (docs/theory.md#one-sided-derivatives). It is
        the derivative of the function at a point exactly on its kinks.

        >>> import jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(lambda x: jnp.abs(x[0]) - jnp.maximum(x[0], x[1]))(
        ...     jnp.zeros(2)
        ... )
        >>> J.directional([1.0, 0.0]).tolist(), J.directional([-1.0, 0.0]).tolist()
        ([0.0], [1.0])
        """
        return one_sided_derivative(self.form, self._flat_direction(v))

    def min_norm(self) -> np.ndarray:
        """Scalar functions: the shortest element g of the convex hull, argmin ‖g‖₂, an array (n,).

        −g is a sound descent direction, f'(x; −g) ≤ −‖g‖²; g = 0 proves criticality only if
        ``clarke_exact``, for the set may hold artefacts.

        Raises InvalidInputError unless m = 1; TooManyKinksError beyond 2¹⁶ selections of nested
        kinks, and NotPolyhedralError, SingularError, as ``bounds``.

        Source: Wolfe's nearest-point algorithm (1976) on the support function;
        docs/theory.md#the-shortest-element.

        >>> import jax.numpy as jnp, conservax as cx
        >>> cx.conservative_jacobian(lambda x: 2 * x + jnp.abs(x))(0.0).min_norm().tolist()
        [1.0]
        """
        m, n = self.shape
        if m != 1:
            raise InvalidInputError(
                f"min_norm is for scalar functions; this one has {m} outputs. Take .distance of a zero "
                "matrix, or differentiate a scalar function of the outputs."
            )
        found = nearest_in_hull(self.form, np.zeros((1, n)))
        self._require_decided(
            found.upper - found.lower, self._scale(found.point), "the shortest element"
        )
        return found.point[0]

    def distance(self, matrix: Any) -> float:
        """min ‖P − X‖ (Frobenius) over P in the convex hull of the set, for X (m, n).

        Exact to round-off for any number of kinks that are not nested, and up to 2¹⁶ selections of
        nested ones. Beyond, the hull is searched from inside and bounded from outside.

        Raises InvalidInputError if X has another shape; TooManyKinksError if those bounds differ;
        NotPolyhedralError, SingularError as ``bounds``.

        >>> import jax.numpy as jnp, conservax as cx
        >>> cx.conservative_jacobian(jnp.abs)(0.0).distance([[3.0]])
        2.0
        """
        target = self._matrix(matrix, "matrix")
        found = nearest_in_hull(self.form, target)
        self._require_decided(found.upper - found.lower, self._scale(target), "the distance")
        return found.upper

    def contains(self, matrix: Any, hull: bool = True, tol: float | None = None) -> bool:
        """Whether X (m, n) lies in the convex hull of the set, or (``hull=False``) in the set itself.

        Up to ``tol`` in the Frobenius norm, by default √eps of the user's dtype times the size of
        the matrices. For the set itself True is certain: weights were found that give X. False is
        certain where the kinks are not nested, where H or E has full rank (X then determines the
        weights), and outside the hull; else it means that a search from 32 starts found none.

        Raises InvalidInputError if X has another shape; for the hull TooManyKinksError if that is
        undecided, and NotPolyhedralError, SingularError, as ``bounds``.

        Source: docs/theory.md#membership.

        >>> import jax, jax.numpy as jnp, conservax as cx
        >>> J = cx.conservative_jacobian(
        ...     lambda x: jnp.stack([jnp.abs(x), jnp.abs(jax.nn.relu(x) - x)])
        ... )(0.0)
        >>> J.contains([[1.0], [0.0]], hull=False), J.contains([[2.0], [0.0]])
        (True, False)
        """
        target = self._matrix(matrix, "matrix")
        tol = (
            self._scale(target) * math.sqrt(machine_epsilon(self.form.dtype))
            if tol is None
            else tol
        )
        if not hull:
            return has_exact_element(self.form, target, tol)
        found = nearest_in_hull(self.form, target)
        if found.upper <= tol:
            return True
        if found.lower > tol:
            return False
        self._require_decided(found.upper - found.lower, self._scale(target), "membership")
        return False

    @property
    def clarke_exact(self) -> bool | None:
        """True where the set's convex hull is known to be the Clarke Jacobian; None where not known.

        It is if no active kink moves anything, or if the increments of those that do move
        independently (rank E = k) and no selection is singular (N = I − L a P-matrix, which needs no
        proof for a program's own derivative): then every pattern of signs is met nearby. Where a
        derivative rule of the user's own was taken as given it is not known.

        Source: docs/theory.md#exactness; LIKQ of Griewank and Walther (2016).

        >>> import jax.numpy as jnp, conservax as cx
        >>> cx.conservative_jacobian(jnp.abs)(0.0).clarke_exact
        True
        >>> cx.conservative_jacobian(lambda x: jnp.abs(x) - jnp.abs(1.0 * x))(0.0).clarke_exact
        """
        return spans_clarke_jacobian(self.form) or None

    def unflatten(self, matrix: np.ndarray) -> Any:
        """A matrix (m, n) of the set as the pytree that ``jax.jacobian`` would return."""
        if self._unflatten is None:
            return matrix
        require_values([("matrix", matrix)], "unflatten")
        return self._unflatten(np.asarray(matrix))

    def _flat_direction(self, v: Any) -> np.ndarray:
        require_values([("v", v)], "directional")
        n = self.shape[1]
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(self._inputs)]
        alike = self._inputs is not None and jax.tree.structure(v) == jax.tree.structure(
            self._inputs
        )
        if alike and [np.shape(leaf) for leaf in jax.tree.leaves(v)] == shapes:
            flat = np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in jax.tree.leaves(v))])
        else:
            try:
                flat = np.asarray(v, dtype=np.float64)
            except (TypeError, ValueError):
                flat = np.zeros((0, 0))
        if flat.shape != (n,) or not np.all(np.isfinite(flat)):
            raise InvalidInputError(
                f"v must be a vector of {n} finite numbers or a pytree like the inputs, with leaves of "
                f"shape {shapes}."
            )
        return flat.astype(np.float64)

    def _matrix(self, matrix: Any, name: str) -> np.ndarray:
        require_values([(name, matrix)], "this")
        X = np.asarray(matrix, dtype=np.float64)
        if X.shape != self.shape or not np.all(np.isfinite(X)):
            raise InvalidInputError(
                f"X must be a finite matrix of shape {self.shape}; it has {X.shape}."
            )
        return X

    def _scale(self, target: np.ndarray) -> float:
        form = self.form
        size = np.linalg.norm(form.A) + np.linalg.norm(form.H) * np.linalg.norm(form.E)
        return float(np.linalg.norm(target) + size)

    def _require_decided(self, gap: float, scale: float, what: str) -> None:
        if gap > 1e-9 * scale:
            raise TooManyKinksError(
                f"{what} is only known to within {gap:.3g}: {len(self.kinks)} active kinks are too many to "
                "visit. Use .sample or .element, or lower the tolerance if kinks are active that should "
                "not be."
            )
