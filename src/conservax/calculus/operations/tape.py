"""What a pass over a program offers to its operations: the contract of the tapes.

``Discover`` (discover.py) records every kink's increment, its tolerance and JAX's choice; ``Linearise`` runs
with a base selection and a cut r at chosen slots, and records increments; ``Select`` runs with a policy.
A tape holds one flat slot array; a loop's slots are (iterations, slots of the body), row-major.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..tracing.program import Step
from .torn import Steering


def unit_vectors(z: Any, axis: int) -> Any:
    """z/‖z‖ along an axis, and 0 at 0; a constant, since the kink's own rule carries the derivative."""
    z = jax.lax.stop_gradient(z)
    length = jnp.linalg.norm(z, axis=axis, keepdims=True)
    return jnp.where(length > 0, z / jnp.where(length > 0, length, 1), 0)


class Tape:
    """A pass: an operation hands it the increment of each kink and gets the selection q and the cut r."""

    measures: ClassVar[bool] = False  # sizes of the terms are followed
    lifts: ClassVar[bool] = True  # a solve moves as its equation says
    follows: ClassVar[bool] = False  # JAX's own rule, where no policy is known
    policy: Any = None
    keeps: bool = False
    kept: list[tuple[Any, Any]]  # the values at solves whose layers have certificates
    atol: Any = 0.0
    rtol: Any = 0.0
    sizes: tuple[Any, ...] = ()
    rival: Any = None  # which of an extremum's rivals to hold against its leader; None: the nearest
    torn: dict[int, Any]
    orders: dict[int, Any]
    copies: bool = (
        False  # comparisons ask which entries are copies of each other (passes/copies.py)
    )
    runs: list[Any]  # of the sorts so far, the places whose entries tie (passes/order_bounds.py)

    @property
    def decides(self) -> bool:
        """Whether one side is taken at every tie, so that only that side need be followed."""
        return False

    @property
    def tau(self) -> Any:
        """The relative change that sizes are about."""
        return 0.0

    def size(self, operand: int) -> Any:
        """Of the terms that made an operand of the kink at hand."""
        return 0.0

    def side(self, name: str, swap: bool, *operands: Any) -> Any:
        """A comparison with equality counted to the side that the policy takes."""
        raise NotImplementedError

    def kink(self, z: Any, size: Any, tie: float) -> tuple[Any, Any]:
        """A scalar kink at z = 0, an entry each; ``tie``: JAX's weight of the upper side there."""
        raise NotImplementedError

    def tie(self, u: Any, size: Any, axes: tuple[int, ...], first: bool) -> tuple[Any, Any]:
        """The largest of u along axes: each entry's weight, and what is injected."""
        raise NotImplementedError

    def next_slots(self, shape: tuple[int, ...]) -> Any:
        """The slots of the kinks to come."""
        return jnp.zeros(shape, jnp.int32)

    def comparator(self, q: Any, aligned: Any) -> Any:
        """The selection of a sort's neighbours."""
        return q

    def ball(self, z: Any, size: Any, axis: int, tie: float) -> tuple[Any, Any]:
        """A norm along an axis, whose slopes at 0 fill a ball."""
        raise NotImplementedError

    def spectrum(self, distance: Any, increments: Any, size: Any, natural: Any) -> tuple[Any, Any]:
        """Eigenvalues or singular values that meet."""
        raise NotImplementedError

    def jump(self, distance: Any, size: Any) -> None:
        """Where the program jumps: refused at distance 0."""
        raise NotImplementedError

    def compare(self, z: Any, size: Any, side: str) -> tuple[Any, Steering]:
        """A comparison of z with 0: on which side it stands, and what it steers."""
        raise NotImplementedError

    def meet(self, compound: Any, above: Any) -> Steering:
        """Where two active comparisons meet."""
        raise NotImplementedError

    def branch(
        self, upper: Any, lower: Any, size: Any, above: Any, steering: Steering, choice: Any
    ) -> tuple[Any, Any]:
        """Two sides made one value, which must agree."""
        raise NotImplementedError

    def mark(self, where: Any) -> Any:
        """Remember a choice of entries for the later passes."""
        raise NotImplementedError

    def rivals(self, more: Any, places: Any) -> Any:
        """The places that an extremum goes by, remembered; ``more``: there are further rivals."""
        raise NotImplementedError

    def stand(self, standing: Any) -> None:
        """Record where a value stands between its sides."""
        raise NotImplementedError

    def root(self, solution: Any, residual_of: Any, size: int) -> Any:
        """The solution of an equation, which moves as the pass says."""
        raise NotImplementedError

    def watch(self, step: Step, values: Sequence[Any], bind: Callable[..., Any]) -> None:
        """For those who look for slopes that are not finite."""

    def keep(self, site: Any, arrays: Any) -> None:
        """Keep the values at a solve whose layer has a certificate; a loop stacks them."""

    def child(self, inputs: Any) -> "Tape":
        """The tape of a block, with its part of the slots."""
        raise NotImplementedError

    def masked(self, executed: Any) -> "Tape":
        """The tape of a branch that may not be executed."""
        return self

    def inside_while(self) -> "Tape":
        """The tape of one iteration, of which no one knows the number."""
        raise NotImplementedError

    def next_input(self, size: int) -> Any:
        """What a child needs, ``size`` slots of it."""
        raise NotImplementedError

    def loop_inputs(self, body: int, length: int) -> Any:
        """The same for each iteration of a loop."""
        raise NotImplementedError

    def blank(self, size: int) -> Any:
        """What a block that did not run would have recorded."""
        raise NotImplementedError

    def outputs(self) -> Any:
        """What this tape has recorded."""
        raise NotImplementedError

    def absorb(self, recorded: Any) -> None:
        """Take over what a child has recorded."""
        raise NotImplementedError

    def nearest(self, previous: Any, recorded: Any) -> Any:
        """Of two passes through a while loop, each kink's nearer one."""
        raise NotImplementedError
