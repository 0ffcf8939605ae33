"""What the calculus does with an operation of JAX's, by its name: the planner's decisions as a table."""

from ..tracing import smooth
from ..tracing.jaxprs import CUSTOM_RULES, INLINE
from . import kinks
from .domains import COMPLEX_EDGES, MATRIX_EDGES, REAL_EDGES
from .expansions import EXPANSIONS

# In words that docs/coverage.md explains.
SMOOTH, EDGED, KINKED, JUMPS, STEERS, CONSTANT, OPENED, GIVEN, REFUSED = (
    "smooth", "smooth off an edge", "kinks", "jumps", "steers", "constant", "opened", "given", "refused",
)  # fmt: skip
_OPENED = {"scan", "while", "cond", "custom_linear_solve", *INLINE}
# JAX does not differentiate them, or their results are not all real.
_WITHOUT_DERIVATIVE = {"householder_product", "lu", "zeta"}
_JOINED = {"and", "or", "xor", "not", "reduce_and", "reduce_or"}


def treatment(primitive: str) -> str:
    """How a varied operand of this primitive is treated; what is not known by name is refused.

    >>> treatment("tanh"), treatment("max"), treatment("floor"), treatment("nextafter")
    ('smooth', 'kinks', 'jumps', 'refused')
    """
    if primitive in kinks.TABLE:
        entry = kinks.TABLE[primitive]
        return JUMPS if not entry.varies or primitive == "rem" else KINKED
    if primitive in EXPANSIONS:
        return KINKED
    if primitive in _OPENED:
        return OPENED
    if primitive in CUSTOM_RULES:
        return GIVEN
    if primitive in smooth.COMPARISONS or primitive == "sign" or primitive in _JOINED:
        return STEERS
    if primitive in smooth.CONSTANT:
        return CONSTANT
    if primitive in smooth.SMOOTH and primitive not in _WITHOUT_DERIVATIVE:
        edges = (REAL_EDGES, COMPLEX_EDGES, MATRIX_EDGES)
        return EDGED if any(primitive in table for table in edges) else SMOOTH
    return REFUSED
