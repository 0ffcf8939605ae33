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
from contextlib import contextmanager, nullcontext
from typing import Any

PROCESSORS = os.cpu_count() or 1
_THREADS = ThreadPoolExecutor(PROCESSORS)
_SMALL, _LARGE = 60, 500  # rows up to which BLAS takes one thread by itself; from which more gain


def threaded(run: Callable[[int], Any], count: int, size: int) -> list[Any]:
    """``[run(0), …, run(count − 1)]``, side by side, for matrices with ``size`` rows.

    In threads that stay: each would keep memory of its own for what the solvers allocate and free.
    """
    alone = size <= _SMALL or (count == 1 and size > _LARGE)
    with nullcontext() if alone else one_blas_thread():
        return [run(0)] if count == 1 else list(_THREADS.map(run, range(count)))


class _Limit:
    """One thread of BLAS for the whole process, as long as someone asks for it.

    The limit is set and lifted in a thread of its own: threadpoolctl lets none but the thread that
    set a limit lift it, and the last to leave need not be the first who came.
    """

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.keeper = ThreadPoolExecutor(1)
        self.limiter: Any = None

    def enter(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1 and _threads_of_blas() > 1:
                self.limiter = self.keeper.submit(_limit).result()

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.limiter is not None:
                self.keeper.submit(self.limiter.__exit__, None, None, None).result()
                self.limiter = None


_LIMIT = _Limit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS works in the thread that calls it; what was set before is set again afterwards."""
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()


@functools.cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # brings its own BLAS, to be found
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def _threads_of_blas() -> int:
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


def _limit() -> Any:
    """What lifts the limit again; None where another thread has a limit of its own, which stands."""
    limiter = _blas().limit(limits=1)
    limiter.__enter__()
    if _threads_of_blas() == 1:
        return limiter
    limiter.__exit__(None, None, None)
    return None
