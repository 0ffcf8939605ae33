"""``check``: can the implicit derivative at this solution be trusted?"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .. import report as presentation
from ..calculus import AbsNormal, ConservativeJacobian, Kink
from ..calculus.cuts.entry_sizes import entry_sizes
from ..calculus.cuts.point import Point
from ..calculus.tracing.locations import Location
from ..errors import ConservaxError, InvalidInputError, TooManyKinksError
from ..invertibility import Certificate, Rigour, Verdict, Witness, Work, certify
from ..invertibility.ladder import BUDGET
from ..invertibility.scaled import certify_scaled
from ..numerics import machine_epsilon, singular_value_floor
from .jacobian import eliminate
from .residual import Equation
from .solves import by_construction, own_form
from .verified import Enclosure, prove_root

_MORE_ACCURATE = (
    "A solution closer to the root (cx.polish), or the verdict at the solution alone "
    "(verified=False)."
)


class Sensitivity:
    """The derivative of the root in its parameters, computed when it is asked for."""

    def __init__(self, point: Point, inputs: Sequence[bool], unknowns: int) -> None:
        self._point: Point | None = point
        self._inputs, self._unknowns = inputs, unknowns

    @cached_property
    def _found(self) -> tuple[float | None, bool | None]:
        assert self._point is not None
        joint = self._point.form(self._inputs)
        self._point = None  # the parameters are not kept any longer than needed
        if joint.A.shape[1] == self._unknowns:
            return None, None
        implicit = ConservativeJacobian(eliminate(joint.compressed(self._unknowns), self._unknowns))
        lipschitz = None
        with contextlib.suppress(TooManyKinksError):  # proven, but by no bound that gives a norm
            lipschitz = implicit.lipschitz_bound()
        return lipschitz, implicit.clarke_exact

    @property
    def lipschitz(self) -> float | None:
        """A bound of ‖J‖₂ over the set; None where no method has one, or there are no parameters."""
        return self._found[0]

    @property
    def clarke_exact(self) -> bool | None:
        """Whether the set is known to span the Clarke Jacobian; None where not known."""
        return self._found[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_point": None, "_found": self._found}


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found; ``print(report)`` shows it, notebooks render it, ``to_dict`` gives JSON.

    Attributes:
        verdict: PROVEN, REFUTED or UNKNOWN: whether every element of ∂F/∂sol is invertible.
        reason: one sentence why; ``method``: how it was decided.
        rigour: whether the verdict holds exactly for the float matrices, or at the tolerance.
        margin: a lower bound on σ_min over the set (None unless PROVEN); ``sigma_min``: smallest met.
        witness: a singular element: its selection over ``kinks``, null vector, singular values.
        residual, residual_scale: ‖F(sol)‖_∞ and the size of the terms of F, in F's units.
        tolerance: relative distance within which a kink counted as active.
        kinks, nearest_inactive: the active kinks in execution order; the next one beyond.
        lipschitz: a Lipschitz constant (2-norm) of the solution map at the point, if PROVEN.
        clarke_exact: whether the set's hull is known to be the Clarke Jacobian
            (docs/theory.md#exactness). These two take the derivative in the parameters, which is
            computed when one of them is first read.
        solves: the place and the certificate of each ``custom_root`` solve inside F.
        given_rules: name and place of the user's own derivative rules inside F, taken as they are.
        determinant_signs, n_vertices: (negative, zero, positive) determinants at the vertices seen.
        work: what was visited on the way; ``undecided``: what would decide an UNKNOWN (else empty).
        proof: with ``verified=True``, the ball on which root and verdict were proved (else None).
        form: the abs-normal form of ∂F/∂sol, for ``recheck``; None where a layer's own certificate
            proved the verdict and none was formed.
    """

    verdict: Verdict
    reason: str
    method: str
    margin: float | None
    sigma_min: float
    witness: Witness | None
    residual: float
    residual_scale: float
    tolerance: float
    kinks: tuple[Kink, ...]
    nearest_inactive: Kink | None
    determinant_signs: tuple[int, int, int] | None
    n_vertices: int
    rigour: Rigour
    work: Work
    undecided: str
    form: AbsNormal | None = field(repr=False, compare=False)
    sensitivity: "Sensitivity" = field(repr=False, compare=False)
    solves: tuple[tuple[Location, Certificate], ...] = ()
    given_rules: tuple[tuple[str, Location], ...] = ()
    proof: Enclosure | None = None

    @property
    def lipschitz(self) -> float | None:
        if self.verdict != Verdict.PROVEN:
            return None
        return self.proof.lipschitz if self.proof is not None else self.sensitivity.lipschitz

    @property
    def clarke_exact(self) -> bool | None:
        return self.sensitivity.clarke_exact if self.verdict == Verdict.PROVEN else None

    def __str__(self) -> str:
        return presentation.to_text(self)

    def _repr_html_(self) -> str:
        return presentation.to_html(self)

    def recheck(self) -> tuple[float, float]:
        """σ_min and σ_max of the witness: its element built anew from its selection, and one SVD.

        Returns the two singular values. Raises InvalidInputError if the report has no witness, and
        ConservaxError if σ_min is not what the report says, or the null vector is none: a report
        that was altered, or a defect of this library.

        >>> import jax.numpy as jnp, conservax as cx
        >>> cx.check(lambda s, p: jnp.abs(s) - p, 0.0, 0.0).recheck()
        (0.0, 0.0)
        """
        if self.witness is None or self.form is None:
            raise InvalidInputError(
                f"the verdict is {self.verdict.name}: there is no witness to check; a witness is an element "
                "that is singular, and only a REFUTED has one."
            )
        element = self.form.jacobian(self.form.diagonal(self.witness.selection))
        values = np.linalg.svd(element, compute_uv=False)
        smallest, largest = float(values[-1]), float(values[0])
        image = float(np.linalg.norm(element @ self.witness.null_vector))
        floor = singular_value_floor(element, np.float64)
        if max(smallest, image) > self.witness.sigma_min + floor:
            raise ConservaxError(
                f"the witness does not hold: its element has σ_min = {smallest:.3g} and maps the null vector "
                f"to length {image:.3g}, the report says {self.witness.sigma_min:.3g}. Please report this."
            )
        return smallest, largest

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data, verdicts in lower case."""
        return presentation.to_dict(self)


def check(
    optimality_fun: Callable[..., Any],
    sol: Any,
    *args: Any,
    argnums: tuple[int, ...] | None = None,
    rtol: float | None = None,
    budget: int = BUDGET,
    verified: bool = False,
    **kwargs: Any,
) -> CheckReport:
    """Is ∂F/∂sol invertible for every selection at the kinks near this root?

    If it is, the solution is a Lipschitz function of ``args`` near this point and every
    −B⁻¹A is a valid derivative of it. If some element is singular, gradient methods may cycle or
    diverge although every number they see looks plausible.

    Args:
        optimality_fun: F(sol, *args), a pytree with as many numbers as ``sol``.
        sol: the root; args: its parameters, any pytrees; kwargs: more of them, by name.
        argnums: the args (0 is the first after ``sol``) that ``lipschitz`` and ``clarke_exact``
            concern; all by default.
        rtol: when a kink is active, as in ``implicit_jacobian``.
        budget: how much work the certificate may do, as in ``invertibility.certify``.
        verified: prove more, by interval arithmetic: that a true root exists near ``sol``, that it is
            the only one in a ball, and that the verdict holds on that whole ball, at kinks decided by no
            tolerance. PROVEN then says all of that, and UNKNOWN that the proof did not succeed.

    Returns:
        A CheckReport; what its verdict means is said in ``invertibility.certify``, and for
        ``verified=True`` in its ``proof``, an ``implicit.verified.Enclosure``.

    Raises:
        NotARootError, InvalidInputError, UnsupportedOperationError, DiscontinuousError,
        NotLipschitzError: no verdict is given on bad input. ImportError: ``verified=True`` with
        functions like exp needs the extra ``verified``.

    Source: Bolte, Le, Pauwels, Silveti-Falls (NeurIPS 2021), Theorem 2 and Section 5.

    >>> import jax.numpy as jnp, conservax as cx
    >>> cx.check(lambda y, a: y - jnp.maximum(0.0, y / 2 - a), 0.0, 0.0).verdict
    <Verdict.PROVEN: 1>
    """
    return check_by_construction(
        optimality_fun,
        None,
        sol,
        *args,
        argnums=argnums,
        rtol=rtol,
        budget=budget,
        verified=verified,
        **kwargs,
    )


def check_by_construction(
    optimality_fun: Callable[..., Any],
    own: Callable[..., Certificate] | None,
    sol: Any,
    *args: Any,
    argnums: tuple[int, ...] | None = None,
    rtol: float | None = None,
    budget: int = BUDGET,
    verified: bool = False,
    **kwargs: Any,
) -> CheckReport:
    """``check``; by ``own(sol, *args)``, what a layer knows by construction, where that decides."""
    equation = Equation.of(optimality_fun, sol, args, kwargs).require_root()
    if argnums is None:
        argnums = equation.call.argnums[1:]
    else:
        argnums = tuple(n + 1 for n in argnums)
    point = equation.point(rtol)
    certificate = None if own is None else own(sol, *args, **kwargs)
    form, solves = None, ()
    kinks, nearest = point.kinks()
    if certificate is None or certificate.verdict != Verdict.PROVEN:
        own_solves = [(place, by_construction(known)) for place, known in point.own_certificates()]
        solves = tuple((place, known) for place, known in own_solves if known is not None)
        determined = len(solves) == len(own_solves)
        if determined and solves:
            form = point.still_form(equation.inputs((0,)))
            certificate = None if form is None else certify(form, budget=budget)
        if certificate is None or certificate.verdict != Verdict.PROVEN:
            form = point.form(equation.inputs((0,)), solves=not determined, determined=determined)
            kinks, nearest = form.kinks, form.nearest_inactive
            certificate = certify(form, budget=budget)
            certificate = _beyond_rounding(certificate, equation, point, form, budget)
            if not determined:
                solves = tuple(
                    (place, known or certify(own_form(inner), budget=budget))
                    for (place, inner), (_, known) in zip(form.roots, own_solves, strict=True)
                )
    given_rules = point.cutter.program.given_rules
    if given_rules and certificate.verdict != Verdict.UNKNOWN:
        certificate = replace(certificate, reason=f"given the rules below, {certificate.reason}")
    proof = None
    refused = certificate.verdict == Verdict.REFUTED
    if verified and (not refused or _holds_at_tolerance(certificate)):
        proof = prove_root(optimality_fun, sol, args, kwargs)
        if refused and proof.verdict != Verdict.PROVEN:
            proof = None
        else:
            certificate = replace(
                certificate,
                verdict=proof.verdict,
                reason=proof.reason,
                method="Krawczyk's test in interval arithmetic",
                margin=proof.margin,
                witness=None,
                rigour=Rigour.EXACT,
                undecided=_MORE_ACCURATE if proof.verdict == Verdict.UNKNOWN else "",
            )
    return CheckReport(
        verdict=certificate.verdict,
        reason=certificate.reason,
        method=certificate.method,
        margin=certificate.margin,
        sigma_min=certificate.sigma_min,
        witness=certificate.witness,
        residual=equation.residual.value,
        residual_scale=equation.residual.scale,
        tolerance=equation.tolerance(rtol).rtol,
        kinks=kinks,
        nearest_inactive=nearest,
        determinant_signs=certificate.determinant_signs,
        n_vertices=certificate.n_vertices,
        rigour=certificate.rigour,
        work=certificate.work,
        undecided=certificate.undecided,
        form=form,
        sensitivity=Sensitivity(point, equation.inputs((0, *argnums)), equation.residual.unknowns),
        solves=solves,
        given_rules=given_rules,
        proof=proof,
    )


def _beyond_rounding(
    certificate: Certificate, equation: Equation, point: Point, form: AbsNormal, budget: int
) -> Certificate:
    """Judged against what rounding may have made of the entries of B, where that may change the verdict.

    A refusal at the tolerance may be one of sizes alone, and the matrix that was proved invertible may be
    made of rounding. The terms of each entry tell, which takes a program of its own.
    """
    if form.given_rules:
        return certificate
    refused, proven = _holds_at_tolerance(certificate), certificate.verdict == Verdict.PROVEN
    if proven:
        known = certificate.sigma_min if certificate.margin is None else certificate.margin
        unit = 4 * equation.residual.unknowns * machine_epsilon(form.dtype)
        proven = not known > unit * float(np.max(equation.sizes_of_slopes(together=True)))
    if not (refused or proven):
        return certificate
    sizes = entry_sizes(point, equation.inputs((0,)))
    if sizes:  # what cancelled in a factor that multiplies the unknowns is a term, too
        sizes = sizes._replace(A=np.maximum(sizes.A, equation.sizes_of_slopes()))
    scaled = sizes and certify_scaled(form, sizes, budget=budget)
    if scaled or refused:
        return scaled or certificate
    return replace(
        certificate,
        verdict=Verdict.UNKNOWN,
        reason="the Jacobian is no larger than what rounding leaves of its terms, which cancel.",
        margin=None,
        undecided="Equations without that cancellation, more precision, or verified=True.",
    )


def _holds_at_tolerance(certificate: Certificate) -> bool:
    """A refusal that a finer measure of the same equations might not uphold."""
    return certificate.verdict == Verdict.REFUTED and certificate.rigour == Rigour.AT_TOLERANCE
