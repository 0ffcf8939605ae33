"""``conservative_jacobian`` of a program with 10⁵ relus, 20 of them active, and 100 inputs.

Run in a process of its own, so that "cold" starts where a user starts (JAX imported, nothing
compiled) and the peak memory is that of this program alone.
"""

import json
import subprocess
import sys
import time
from typing import Any

from timing import peak_mib

INPUTS, WIDTH, STEPS, ACTIVE, OUTPUTS = 100, 1000, 99, 20, 5
WARM_CALLS = 7


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return 1


def program() -> tuple[Any, Any]:
    """A relu layer of width 1000, 20 of its kinks exactly at the point, and 99 relu steps in a scan."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    W, V = (jnp.asarray(rng.normal(size=shape)) for shape in ((WIDTH, INPUTS), (OUTPUTS, WIDTH)))
    x = jnp.asarray(rng.normal(size=INPUTS))
    bias = W @ x + jnp.where(jnp.arange(WIDTH) < ACTIVE, 0.0, 1.0)

    def fun(x):
        def step(h, t):
            return jax.nn.relu(0.9 * h + 0.01 * t + 0.1 * jnp.roll(h, 1) + 0.5), None

        h, _ = jax.lax.scan(step, jax.nn.relu(W @ x - bias), jnp.arange(float(STEPS)))
        return V @ h

    return fun, x


def run() -> dict[str, Any]:
    """The figures of this process."""
    import jax
    import numpy as np

    import conservax as cx

    jax.config.update("jax_enable_x64", True)
    fun, x = program()
    at = cx.conservative_jacobian(fun)
    seconds = []
    for _ in range(WARM_CALLS + 1):
        start = time.perf_counter()
        J = at(x)
        seconds.append(time.perf_counter() - start)
    error = float(np.max(np.abs(J.element("jax") - jax.jacobian(fun)(x))))
    return {
        "benchmark": "calculus at size",
        "problem": f"{WIDTH * (STEPS + 1)} relus and {INPUTS} inputs",
        "active": len(J.kinks),
        "cold_s": seconds[0],
        "warm_s": sorted(seconds[1:])[WARM_CALLS // 2],
        "peak_mib": peak_mib(),
        "error_of_jax_element": error,
    }


def measure(tick: Any) -> list[dict[str, Any]]:
    """One row, measured in a fresh process."""
    out = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    tick()
    return [json.loads(out.stdout)]


if __name__ == "__main__":
    print(json.dumps(run()))
