"""Solutions found before, where a solver on the host may start."""

import threading
import weakref

import numpy as np

_CLOSE = 0.3  # how far data may be from those of a start, relative to their largest entries


class WarmStart:
    """The last solutions of programs of one shape that were solved on the host, to start from.

    A program starts from the solution whose data come nearest, if they are close. That is a guess: its
    active pieces are polished with the new data, and what does not become a solution to round-off that
    way is solved from nothing. So a batch may come in any order, and answers and derivatives
    are those of a cold start, as far as they are unique.

    Args:
        programs: how many solutions are kept at most, the latest. megabytes: that they take at most.

    >>> from conservax.programs import ConeProgram, Cones, WarmStart
    >>> program = ConeProgram(Cones(nonnegative=2), solver="clarabel", warm_start=WarmStart())
    """

    def __init__(self, programs: int = 512, megabytes: float = 32.0) -> None:
        self.programs, self.megabytes = programs, megabytes
        self._sizes: tuple[int, ...] = ()
        self._data, self._points = np.zeros((0, 0)), np.zeros((0, 0))
        self._met = 0
        self._lock = threading.Lock()

    def nearest(self, parts: tuple[np.ndarray, ...], size: int) -> np.ndarray | None:
        """The point of ``size`` entries whose data come nearest, or None if none is close."""
        with self._lock:
            if self._sizes != _sizes(parts, size):
                return None
            known = self._data[: self._met]
            if not len(known):
                return None
            # the worst part counts, beside its own largest entry
            ends = np.cumsum([0, *(part.size for part in parts if part.size)])[:-1]
            off = np.maximum.reduceat(np.abs(known - _joined(parts)), ends, axis=1)
            largest = np.maximum.reduceat(np.abs(known), ends, axis=1)
            distance = np.max(off / np.maximum(largest, np.finfo(float).tiny), axis=1)
            best = int(np.argmin(distance))
            return self._points[best].copy() if distance[best] <= _CLOSE else None

    def keep(self, parts: tuple[np.ndarray, ...], point: np.ndarray) -> None:
        """In the place of the oldest where there are too many."""
        with self._lock:
            if self._sizes != _sizes(parts, point.size):
                self._sizes = _sizes(parts, point.size)
                each = 8 * sum(self._sizes)
                room = max(1, min(self.programs, int(1e6 * self.megabytes) // max(each, 1)))
                data = sum(part.size for part in parts)
                self._data, self._points = np.empty((room, data)), np.empty((room, point.size))
                self._met = 0
            place = self._met % len(self._data)
            self._data[place], self._points[place] = _joined(parts), point
            self._met += 1


class WeakStarts:
    """A ``WarmStart`` as long as it lives, or None: compiled programs outlive their users."""

    def __init__(self, starts: WarmStart) -> None:
        self._of, self._number = weakref.ref(starts), id(starts)

    def __call__(self) -> WarmStart | None:
        return self._of()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeakStarts) and self._of == other._of

    def __hash__(self) -> int:
        return self._number


def _sizes(parts: tuple[np.ndarray, ...], point: int) -> tuple[int, ...]:
    return (*(part.size for part in parts), point)


def _joined(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])
