"""BLAS has one thread while the host works, and what was set before afterwards."""

import threading

import pytest
import scipy.linalg  # noqa: F401  # its BLAS is there from the start
import threadpoolctl

from conservax.solvers import threads


def _of_process(count: int) -> None:
    """What a user's process has by default: set, and held by no thread that lives."""
    setter = threading.Thread(target=threadpoolctl.threadpool_limits, args=(count, "blas"))
    setter.start()
    setter.join()


@pytest.fixture(autouse=True)
def two_threads():
    before = max(_counts())
    _of_process(2)
    yield
    _of_process(before)


def _counts() -> list[int]:
    return [own["num_threads"] for own in threadpoolctl.threadpool_info()]


def test_results_come_in_order_and_blas_has_its_threads_again():
    before = _counts()
    for count in (1, 5):
        found = threads.threaded(lambda k: (k, max(_counts())), count, size=100)
        assert found == [(k, 1) for k in range(count)]
    assert threads.threaded(lambda _: _counts(), 1, size=1000) == [before]  # one large matrix
    assert _counts() == before


def test_calls_that_overlap_restore_what_was_there_before_the_first():
    inside, leave = threading.Event(), threading.Event()

    def first():
        with threads.one_blas_thread():
            inside.set()
            leave.wait()

    before = _counts()
    other = threading.Thread(target=first)
    other.start()
    inside.wait()
    with threads.one_blas_thread():
        leave.set()
        other.join()
        assert max(_counts()) == 1
    assert _counts() == before


def test_a_limit_of_another_thread_stands():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with threadpoolctl.threadpool_limits(2, user_api="blas"):
            inside.set()
            leave.wait()

    before = _counts()
    holder = threading.Thread(target=other)
    holder.start()
    inside.wait()
    with threads.one_blas_thread():
        leave.set()
        holder.join()
    assert _counts() == before
