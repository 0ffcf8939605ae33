"""The progress bar of a search, under ``verbose``."""

import sys
from typing import TextIO

_WIDTH = 20


class Progress:
    """A bar that fills with evaluations: one line that is rewritten on a terminal, a line each elsewhere.

    A search may end before its budget of ``total`` steps, never after: the bar then closes at what was used.

    >>> bar = Progress("Search", 2)
    >>> bar.step("error 1")
    [Search] ##########---------- 1/2 error 1
    >>> bar.close()
    """

    def __init__(self, name: str, total: int, stream: TextIO | None = None) -> None:
        self.name, self.total, self.done = name, max(total, 1), 0
        self.stream = sys.stdout if stream is None else stream
        self.rewrites = bool(getattr(self.stream, "isatty", lambda: False)())
        self._last = 0

    def step(self, line: str) -> None:
        """One more evaluation, and what it said."""
        self.done += 1
        total = max(self.total, self.done)
        full = _WIDTH * self.done // total
        text = f"[{self.name}] {'#' * full}{'-' * (_WIDTH - full)} {self.done}/{total} {line}"
        if self.rewrites:
            self.stream.write("\r" + text.ljust(self._last))
            self._last = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line that is being rewritten."""
        if self.rewrites and self.done:
            self.stream.write("\n")
            self.stream.flush()
