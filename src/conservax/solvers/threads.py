"""Work side by side on the host: our threads, and none of BLAS beside them.

The threads of a BLAS wait for each other; where those of two factorisations share the cores, or where
the matrices are small, that costs more than it brings (a Cholesky factor of 300 × 300 was seen to take
half a second instead of one millisecond).
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

PROCESSORS = os.cpu_count() or 1
_THREADS = ThreadPoolExecutor(PROCESSORS)
_LARGE = 500  # rows of a matrix from which BLAS' own threads gain


def threaded(run: Callable[[int], Any], count: int, size: int) -> list[Any]:
    """``[run(0), …, run(count − 1)]``, side by side, for matrices with ``size`` rows.

    In threads that stay: each would keep memory of its own for what the solvers allocate and free.
    """
    if count == 1 and size > _LARGE:
        return [run(0)]
    with one_blas_thread():
        return [run(0)] if count == 1 else list(_THREADS.map(run, range(count)))


@functools.cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # brings its own BLAS, to be found
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


class _Limit:
    """How many ask for one thread, and what to restore when the last of them is gone."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.limiter: Any = None


_LIMIT = _Limit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS works in the thread that calls it; what was set before is set again afterwards."""
    with _LIMIT.lock:
        if _LIMIT.users == 0:
            _LIMIT.limiter = _blas().limit(limits=1)
        _LIMIT.users += 1
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.users -= 1
            if _LIMIT.users == 0:
                _LIMIT.limiter.restore_original_limits()
