"""Small values of the embedded store that each end by themselves: what a provider holds, quotas, baselines.

They are one table of bytes with an end each, so that whatever keeps the table over a restart keeps them all.
Time is an argument; the Redis scripts `take`, `observe` and `baseline` do the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import orjson

from gateway.admission import Baseline, Quota, Taken
from gateway.domain import Millis

BASELINE_TTL_MS = 45 * 86_400_000
MAX_FIGURES = 16
MOST = float(2**53)
"""No figure is larger: its square and its share of a mean stay numbers."""
SWEEP = 2_000

Figures = dict[str, tuple[float, float, float]]
"""Of each figure: its weight, mean and variance."""


_RUN = re.compile(rb'^\{"provider":.*?"run":"([^"]+)"', re.DOTALL)


def run_of_held(value: bytes) -> str | None:
    """The run that a record about something at a provider came from; None for every other record."""
    found = _RUN.match(value[:2048])
    return found[1].decode() if found is not None else None


class Sweep:
    """Visits every key of a dict in turn, a part at a time: what has expired is never used, so that nobody
    has to wait while all of it is thrown away at once."""

    def __init__(self, entries: Mapping[str, object]) -> None:
        self._entries = entries
        self._left: list[str] = []

    def next(self) -> list[str]:
        """The next part: a twentieth, at least some thousands. Keys may be gone by now."""
        if not self._left:
            self._left = list(self._entries)
        count = max(SWEEP, len(self._entries) // 20)
        part = self._left[-count:]
        del self._left[-count:]
        return part


class Records:
    """The table. `touch` is told every key that has changed."""

    def __init__(self, touch: Callable[[str], None]) -> None:
        self.entries: dict[str, tuple[Millis, bytes]] = {}
        """(until, value) by key. Keys of callers are hashes, so that none begins like those made here."""
        self._touch = touch
        self._sweep = Sweep(self.entries)

    def get(self, key: str, now: Millis) -> bytes | None:
        """What is kept under a key."""
        entry = self.entries.get(key)
        return entry[1] if entry is not None and entry[0] >= now else None

    def put(self, key: str, value: bytes, until: Millis) -> None:
        """Keep a value."""
        self.entries[key] = (until, value)
        self._touch(key)

    def drop(self, key: str) -> None:
        """Forget a value, if there is one."""
        if self.entries.pop(key, None) is not None:
            self._touch(key)

    def sweep(self, now: Millis) -> None:
        """Drop some of what has ended."""
        for key in self._sweep.next():
            if (entry := self.entries.get(key)) is not None and entry[0] < now:
                self.drop(key)

    # -- quotas -------------------------------------------------------------------------------------

    def take(self, quotas: Sequence[Quota], now: Millis) -> Taken:
        """Count every quota, or none. Quotas on one counter count together."""
        used: list[int] = []
        asked: dict[str, int] = {}
        refused = -1
        for place, quota in enumerate(quotas):
            key = quota_key(quota, now)
            asked[key] = asked.get(key, 0) + quota.amount
            count = self._count(key, now)
            if quota.window_ms:
                before = self._count(quota_key(quota, now - quota.window_ms), now)
                left = quota.window_ms - now % quota.window_ms
                count += before * left // quota.window_ms
            used.append(count)
            full = quota.amount and count + asked[key] > quota.limit
            if refused < 0 and quota.enforced and full:
                refused = place
        for quota in quotas:
            if quota.amount:
                self._take(quota, quota.amount if refused < 0 else 0, now)
        return Taken(refused, tuple(used))

    def _take(self, quota: Quota, amount: int, now: Millis) -> None:
        """Count so many. Being asked for keeps a counter alive, so that nobody waits for it to be forgotten
        by asking again and again."""
        key = quota_key(quota, now)
        if amount or self.get(key, now) is not None:
            until = now + quota.ttl_ms
            if quota.window_ms:
                until = (now // quota.window_ms + 2) * quota.window_ms
            self.put(key, b"%d" % (self._count(key, now) + amount), until)

    def _count(self, key: str, now: Millis) -> int:
        value = self.get(key, now)
        return 0 if value is None else int(value)

    # -- baselines ----------------------------------------------------------------------------------

    def observe(self, key: str, values: Mapping[str, float], decay: float, now: Millis) -> Baseline:
        """Add one run's figures. A figure that is not told keeps what is known of it."""
        runs, figures = self._baseline(key, now)
        runs = runs * decay + 1.0
        for name, value in usable_figures(values).items():
            if name in figures or len(figures) < MAX_FIGURES:
                figures[name] = weighted(*figures.get(name, (0.0, 0.0, 0.0)), value, decay)
        record = orjson.dumps({"runs": runs, "figures": figures})
        self.put(f"baseline:{key}", record, now + BASELINE_TTL_MS)
        return _baseline_of(runs, figures)

    def baseline(self, key: str, now: Millis) -> Baseline | None:
        """What is usual; None when nothing is known."""
        runs, figures = self._baseline(key, now)
        return _baseline_of(runs, figures) if runs else None

    def _baseline(self, key: str, now: Millis) -> tuple[float, Figures]:
        value = self.get(f"baseline:{key}", now)
        if value is None:
            return 0.0, {}
        record = orjson.loads(value)
        return record["runs"], {name: tuple(figure) for name, figure in record["figures"].items()}


def quota_key(quota: Quota, now: Millis) -> str:
    """Key of the counter that counts at this moment."""
    if not quota.window_ms:
        return f"quota:{quota.counter}"
    return f"quota:{quota.counter}:{quota.window_ms}:{now // quota.window_ms}"


def usable_figures(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are finite and not negative, at most sixteen, none beyond 2^53."""
    usable = {name: min(float(value), MOST) for name, value in values.items() if 0 <= value < float("inf")}
    return dict(list(usable.items())[:MAX_FIGURES])


def weighted(
    weight: float, mean: float, variance: float, value: float, decay: float
) -> tuple[float, float, float]:
    """Weight, mean and variance with one value more (D. H. D. West, 1979), older ones decayed. The order of
    the operations is that of `observe.lua`, so that both get the same figures to the last bit."""
    old = weight * decay
    total = old + 1.0
    delta = value - mean
    mean = mean + delta / total
    return total, mean, max(0.0, (old * variance + delta * (value - mean)) / total)


def _baseline_of(runs: float, figures: Figures) -> Baseline:
    return Baseline(
        runs,
        {name: mean for name, (_, mean, _) in figures.items()},
        {name: variance for name, (_, _, variance) in figures.items()},
    )
