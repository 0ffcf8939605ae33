"""Name the equation whose slope is not finite, when the linearised program shows one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..operations.discover import Discover
from ..tracing.locations import Location
from ..tracing.program import Program, Step
from .interpreter import run_program


@dataclass
class _Watch(Discover):
    """Run eagerly and remember the first equation whose own derivative is not finite."""

    culprits: list[tuple[str, Location]] = field(default_factory=list)

    def watch(self, step: Step, values: Sequence[Any], bind: Any) -> None:
        if self.culprits or any(isinstance(v, Tracer) for v in values):
            return  # the first is enough; inside a loop there are no values to see
        floats = [
            i for i, v in enumerate(values) if jnp.issubdtype(jnp.result_type(v), jnp.floating)
        ]
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
            self.culprits.append((step.eqn.primitive.name, step.location))


def name_singular_equation(program: Program, args: Sequence[Any]) -> str:
    """``file:line: operation`` of the first equation with a slope that is not finite."""
    watch = _Watch(jnp.float32)
    run_program(program, args, watch)
    for operation, location in watch.culprits:
        return f"{location}: '{operation}'"
    return "the derivative of the program"
