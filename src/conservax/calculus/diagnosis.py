"""Name the equation whose slope is not finite, when the linearised program shows one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .interpreter import run_program
from .locations import Location
from .program import Program, Step
from .tape import Discover


class _Watch(Discover):
    """Run eagerly and remember the first equation whose own derivative is not finite."""

    watches = True
    culprit: tuple[str, Location] | None = None

    def watch(self, step: Step, values: Sequence[Any], bind: Any) -> None:
        if _Watch.culprit is not None:
            return
        floats = [i for i, v in enumerate(values) if jnp.issubdtype(jnp.result_type(v), jnp.floating)]
        if not floats:
            return

        def alone(*moving: Any) -> Any:
            full = list(values)
            for i, v in zip(floats, moving, strict=True):
                full[i] = v
            return bind(*full)

        primals = [jnp.asarray(values[i]) for i in floats]
        slopes = jax.jvp(alone, primals, [jnp.ones_like(p) for p in primals])[1]
        if not all(np.all(np.isfinite(s)) for s in slopes if s.dtype != jax.dtypes.float0):
            _Watch.culprit = (step.eqn.primitive.name, step.location)


def name_singular_equation(program: Program, args: Sequence[Any]) -> str:
    """``file:line: operation`` of the first equation with a slope that is not finite."""
    _Watch.culprit = None
    run_program(program, args, _Watch(jnp.float32))
    if _Watch.culprit is None:
        return "the derivative of the program"
    operation, location = _Watch.culprit
    return f"{location}: '{operation}'"
