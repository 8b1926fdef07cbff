"""What a piece of work costs, in a unit that a slow or a busy machine does not stretch.

A bound in seconds says as much about the machine as about the code: one shared with other tenants runs the same
instructions at a third of its speed, and a collection of garbage that happens to fall into the work visits the
objects of every test before it. So: the thread's own processor time, without collections, divided by how much slower
than usual a fixed piece of work ran just before and just after.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_USUAL = 0.0075
"""Seconds that `_measure` takes on a machine of 2023 that does nothing else."""


def _measure() -> float:
    began = time.thread_time()
    seen: dict[str, int] = {}
    for number in range(16_000):
        key = f"word {number % 997}"
        seen[key] = seen.get(key, 0) + len(key.split())
    return time.thread_time() - began


def slowness() -> float:
    """How many times slower than usual; never below one, for a fast machine needs no allowance."""
    return max(1.0, min(_measure() for _ in range(3)) / _USUAL)


class Effort:
    """`with Effort() as effort: …`, then `effort.seconds`. Of the thread that enters, awaits included; with
    `time.process_time` of every thread, for work that is handed to others."""

    seconds: float

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock

    def __enter__(self) -> Self:
        self._collects = gc.isenabled()
        gc.disable()
        self._slowness = slowness()
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = self._clock() - self._began
        self.seconds = spent / max(self._slowness, slowness())
        if self._collects:
            gc.enable()


def least_effort(
    work: Callable[[], object],
    times: int = 2,
    *,
    enough: float = 0.0,
    clock: Callable[[], float] = time.thread_time,
    rest_s: float = 0.0,
) -> float:
    """The seconds of the cheapest of several turns, `rest_s` before each; there are no more once one took less
    than `enough`."""
    least = float("inf")
    for _ in range(times):
        time.sleep(rest_s)
        with Effort(clock) as effort:
            work()
        least = min(least, effort.seconds)
        if least < enough:
            break
    return least
