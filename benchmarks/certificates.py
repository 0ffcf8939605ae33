"""What a certificate costs: all minors of hard P-matrices, and maps with thousands of unknowns.

"hard" is I + g P, P the cyclic shift (with one sign turned for an even size): a P-matrix for every
gain g, on which no inequality holds. "monotone" is z = relu(W z + b) with W + Wᵀ negative definite and
the first kinks exactly at the point. Each row is measured in a process of its own, on one core.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

from timing import peak_mib

CASES = (
    ("hard", 20, 20),
    ("hard", 25, 25),
    ("hard", 31, 31),
    ("monotone", 2000, 500),
    ("monotone", 2000, 1000),
)


def rounds() -> int:
    """How many times a run of this file calls ``tick``."""
    return len(CASES)


def form_of(A: Any, H: Any, E: Any) -> Any:
    """An abs-normal form with scalar kinks that do not feed one another."""
    import numpy as np

    from conservax.calculus import AbsNormal
    from conservax.calculus.sets.abs_normal import Group, Kink
    from conservax.calculus.tracing.locations import Location

    k = H.shape[1]
    kink = Kink("relu", Location("model.py", 1), (), 0.0, 0.0, (0.0, 1.0), True)
    groups = tuple(Group(kink, (i,), (0.0,)) for i in range(k))
    return AbsNormal(A, H, E, np.zeros((k, k)), groups, None, np.float64)


def hard(n: int, gain: float = 1.2) -> Any:
    """The cyclic P-matrix with small dense entries added."""
    import numpy as np

    N = np.eye(n) + gain * np.roll(np.eye(n), 1, axis=1)
    N[-1, 0] *= 1 if n % 2 else -1
    N += 0.0005 * np.random.default_rng(0).normal(size=(n, n))
    return form_of(np.eye(n), N - np.eye(n), np.eye(n))


def monotone(n: int, k: int) -> Any:
    """A monotone map at a point with k active kinks, half of the others on."""
    import numpy as np

    S = np.random.default_rng(0).normal(size=(n, n)) / np.sqrt(n)
    W = S - S.T - 0.5 * np.eye(n)
    on = (np.arange(n) >= k) & (np.arange(n) % 2 == 0)
    return form_of(np.eye(n) - on[:, None] * W, -np.eye(n)[:, :k], W[:k])


def run(case: str, n: int, k: int) -> dict[str, Any]:
    """The figures of this process."""
    from conservax.invertibility import certify

    form = monotone(n, k) if case == "monotone" else hard(n)
    certify(hard(3))
    start = time.perf_counter()
    certificate = certify(form)
    return {
        "benchmark": "certificates",
        "problem": case,
        "unknowns": n,
        "kinks": k,
        "seconds": time.perf_counter() - start,
        "verdict": certificate.verdict.name,
        "method": certificate.method,
        "minors": certificate.work.minors,
        "boxes": certificate.work.boxes,
        "margin": certificate.margin,
        "peak_mib": peak_mib(),
    }


def measure(tick: Any) -> list[dict[str, Any]]:
    """One row a case, each in a fresh process."""
    rows = []
    for case in CASES:
        command = [sys.executable, __file__, *map(str, case)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        rows.append(json.loads(out.stdout))
        tick()
    return rows


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], *map(int, sys.argv[2:]))))
