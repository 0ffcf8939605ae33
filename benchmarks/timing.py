"""Alternating measurements: every contender runs once per round, so that drift hits all alike."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

Tick = Callable[[], None]
Times = dict[str, list[float]]


def milliseconds(times: Times, name: str) -> float:
    """Median over the rounds."""
    return 1e3 * statistics.median(times[name])


def ratio(times: Times, name: str, to: str) -> float:
    """Median over the rounds of the ratio within one round, which a busy machine moves least."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def warm(contenders: Mapping[str, Callable[[], Any]], rounds: int, tick: Tick) -> Times:
    """Seconds of each contender once compiled, round by round.

    Each contender runs twice before the clock starts.
    """
    for run in contenders.values():
        jax.block_until_ready(run())
        jax.block_until_ready(run())
    times: Times = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        # The order turns with the rounds: nobody always runs first.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(contenders[name]))
        tick()
    return times


def first(
    builders: Mapping[str, Callable[[], Callable[[], Any]]], rounds: int, tick: Tick
) -> Times:
    """Seconds of the first call, tracing and compilation included, caches cleared before."""
    times: Times = {name: [] for name in builders}
    names = list(builders)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            jax.clear_caches()
            times[name].append(seconds(builders[name]()))
        tick()
    return times


def peak_mib() -> float:
    """The most memory that this process has held; ``ru_maxrss`` would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]
