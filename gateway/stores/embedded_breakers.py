"""Breakers of the embedded store: what fails is left alone for a while, then tried by a few calls.

A breaker is closed until enough of the calls of its window have failed, or all for a while, seen by enough
sources. Then it is open for `open_ms`, and half open until it is known whether the probes that were let
through came back. Pure but for what it keeps: time is an argument, and the Redis scripts (`lua/breaking.lua`)
do the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.admission import BreakerRule, BreakerState
from gateway.domain import Millis

BREAKER_TTL_MS = 86_400_000
"""A breaker that nobody has reported to or probed is forgotten after this."""
BREAKER_MEMORY = 4096
"""How many breakers are kept; the one unused for longest makes room."""
BREAKER_SOURCES = 16
"""How many sources of failures one period remembers."""


@dataclass(slots=True)
class _Period:
    """What was reported in one period of a window."""

    ok: int = 0
    failed: int = 0
    sources: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Breaker:
    expires_at: Millis
    window_ms: int
    started_at: Millis
    """When the current period began. Periods follow the calls, so that a burst is not cut in two."""
    current: _Period = field(default_factory=_Period)
    previous: _Period = field(default_factory=_Period)
    opened_at: Millis = 0
    """0 while closed."""
    until: Millis = 0
    probing: bool = False
    """A probe was let through since it opened: what is reported now decides."""
    passed: int = 0
    probes: list[Millis] = field(default_factory=list)
    """When each probe that nobody has reported on is free again, the oldest first."""
    streak: int = 0
    """Failures since the last success."""
    failing_since: Millis = 0
    """When the first of them came."""

    def turn(self, window_ms: int, now: Millis) -> None:
        """Begin another period if the current one is over."""
        self.window_ms = window_ms
        age = now - self.started_at
        if age < window_ms:
            return
        if age < 2 * window_ms:
            self.previous, self.started_at = self.current, self.started_at + window_ms
        else:
            self.previous, self.started_at = _Period(), now
        self.current = _Period()

    def tally(self, now: Millis) -> tuple[int, int]:
        """(ok, failed) in the window that ends now."""
        age = max(0, now - self.started_at)
        if age < self.window_ms:
            new, old, left = self.current, self.previous, self.window_ms - age
        elif age < 2 * self.window_ms:
            new, old, left = _Period(), self.current, 2 * self.window_ms - age
        else:
            return 0, 0
        return (
            new.ok + old.ok * left // self.window_ms,
            new.failed + old.failed * left // self.window_ms,
        )

    def count(self, ok: int, failed: int, now: Millis) -> None:
        """Add what came of calls; of a report that tells of both it is not known which came last."""
        self.current.ok += ok
        self.current.failed += failed
        if ok:
            self.streak = 0
        elif failed:
            self.failing_since = self.failing_since if self.streak else now
            self.streak += failed

    def fails(self, rule: BreakerRule, now: Millis) -> bool:
        """Whether the calls of the window, or the latest ones, are bad enough to open."""
        ok, failed = self.tally(now)
        sources = {*self.current.sources, *self.previous.sources}
        bad = failed > 0 and ok + failed >= rule.min_calls and failed >= rule.error_rate * (ok + failed)
        dead = (
            rule.dead_after_ms > 0
            and min(self.streak, failed) >= rule.min_calls
            and now - self.failing_since >= rule.dead_after_ms
        )
        return (bad or dead) and len(sources) >= min(rule.min_sources, BREAKER_SOURCES)

    def open(self, open_ms: int, now: Millis) -> None:
        self.opened_at, self.until = now, now + open_ms
        self.probing, self.passed, self.probes = False, 0, []

    def close(self, now: Millis) -> None:
        self.started_at, self.current, self.previous = now, _Period(), _Period()
        self.opened_at, self.until, self.streak = 0, 0, 0
        self.probing, self.passed, self.probes = False, 0, []

    def view(self, key: str, now: Millis) -> BreakerState:
        is_open = now < self.until
        state = "open" if is_open else "half_open" if self.opened_at else "closed"
        return BreakerState(key, state, *self.tally(now), self.opened_at, self.until if is_open else 0)


class Breakers:
    """All breakers of a store, by key."""

    def __init__(self) -> None:
        self._breakers: dict[str, _Breaker] = {}

    def report(
        self, key: str, rule: BreakerRule, source: str, ok: int, failed: int, now: Millis
    ) -> BreakerState:
        """What came of calls. Decides while closed and while probes are out; else it is only counted."""
        breaker = self._live(key, now)
        if breaker is None:
            self._make_room(now)
            breaker = self._breakers[key] = _Breaker(0, rule.window_ms, now)
        breaker.turn(rule.window_ms, now)
        period = breaker.current
        breaker.count(ok, failed, now)
        digest = source_digest(source)
        if failed and digest not in period.sources and len(period.sources) < BREAKER_SOURCES:
            period.sources.append(digest)
        if not breaker.opened_at:
            if breaker.fails(rule, now):
                breaker.open(rule.open_ms, now)
        elif breaker.probing and failed:
            breaker.open(rule.open_ms, now)
        elif breaker.probing:
            breaker.passed += ok
            del breaker.probes[:ok]
            if breaker.passed >= rule.probes:
                breaker.close(now)
        breaker.expires_at = max(now, breaker.until) + BREAKER_TTL_MS
        return breaker.view(key, now)

    def probe(self, key: str, rule: BreakerRule, now: Millis) -> bool:
        """Whether one call may pass."""
        breaker = self._live(key, now)
        if breaker is None or not breaker.opened_at:
            return True
        if now < breaker.until:
            return False
        breaker.probes = [free_at for free_at in breaker.probes if free_at > now]
        if breaker.passed + len(breaker.probes) >= rule.probes:
            return False
        breaker.probes.append(now + rule.open_ms)
        breaker.probing = True
        breaker.expires_at = now + BREAKER_TTL_MS
        return True

    def states(self, keys: Sequence[str] | None, now: Millis) -> list[BreakerState]:
        """The breakers of these keys, in their order, or all by name."""
        wanted = sorted(self._breakers) if keys is None else keys
        return [b.view(key, now) for key in wanted if (b := self._live(key, now)) is not None]

    def reset(self, key: str, now: Millis) -> bool:
        """Forget a breaker; false when there was none."""
        known = self._live(key, now) is not None
        self._breakers.pop(key, None)
        return known

    def sweep(self, now: Millis) -> None:
        """Drop what nobody has used for a day."""
        self._breakers = {key: b for key, b in self._breakers.items() if b.expires_at >= now}

    def _live(self, key: str, now: Millis) -> _Breaker | None:
        breaker = self._breakers.get(key)
        return breaker if breaker is not None and breaker.expires_at >= now else None

    def _make_room(self, now: Millis) -> None:
        if len(self._breakers) >= BREAKER_MEMORY:
            self.sweep(now)
        if len(self._breakers) >= BREAKER_MEMORY:
            del self._breakers[min(self._breakers, key=lambda key: (self._breakers[key].expires_at, key))]


def source_digest(source: str) -> str:
    """What is kept of who reported a failure."""
    return hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
