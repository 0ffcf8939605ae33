"""Alternating measurements: every contender runs once per round, so that drift hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Tick = Callable[[], None]


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def warm(contenders: Mapping[str, Callable[[], Any]], rounds: int, tick: Tick) -> dict[str, float]:
    """Median seconds of each contender once compiled.

    Each contender runs twice before the clock starts.
    """
    for run in contenders.values():
        jax.block_until_ready(run())
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        # The order turns with the rounds: nobody always runs first.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(contenders[name]))
        tick()
    return {name: statistics.median(values) for name, values in times.items()}


def first(
    builders: Mapping[str, Callable[[], Callable[[], Any]]], rounds: int, tick: Tick
) -> dict[str, float]:
    """Median seconds of the first call, tracing and compilation included, caches cleared before."""
    times: dict[str, list[float]] = {name: [] for name in builders}
    names = list(builders)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            jax.clear_caches()
            times[name].append(seconds(builders[name]()))
        tick()
    return {name: statistics.median(values) for name, values in times.items()}
