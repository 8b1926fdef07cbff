"""What providers can take, as one worker knows it: slots with a queue before them, and pauses they ask for.

    acquire ─► a free slot                                          ─► release, exactly once
            ─► the queue of that provider ─► a slot that came free
                                          ─► `Overloaded`: full, too slow, or waited for too long

Each provider has its own slots and its own queue, so that none waits for another. In a queue, high comes
before normal before low, and inside a priority the owners take turns, whatever the number of their requests.
Whoever would wait longer than the queue allows is told at once, by how long calls have been taking.

Beside that stands what replies tell of rate limits: for how long a provider's model is better not asked.
Nothing here asks anybody, and nothing is shared between workers.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol

from gateway.domain import Headers
from gateway.errors import GatewayError

Priority = Literal["low", "normal", "high"]
Reason = Literal["full", "slow", "waited"]

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
PASSED_OVER = 8
"""So many slots may go to higher priorities while a lower one waits; the next one is its own."""
MIN_SEEN = 5
"""Calls that must have ended before their length says how long others will wait."""
RECENT = 0.1
"""How much the latest call counts in the usual length of a call."""
UNKNOWN_WAIT_S = 1.0
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 10.0
"""Bounds of the `Retry-After` of a full queue. It empties within seconds or not at all."""

MAX_PAUSE_S = 60.0
"""However long a provider says: a proxy before several accounts tells of the one that answered last."""
SHORTEST_PAUSE_S = 0.001
FIRST_PAUSE_S = 1.0
"""After a 429 that does not say how long. It doubles with each that follows a pause without a success."""
MAX_PAUSES = 1024
"""Models that pauses are known of; the one that was first heard of goes first."""


class QueueLimits(Protocol):
    """`providers.NAME.queue` of a policy."""

    @property
    def size(self) -> int:
        """Most calls that wait."""

    @property
    def wait_s(self) -> float:
        """Most seconds that each waits."""


class Limits(Protocol):
    """`providers.NAME` of a policy, as far as it is of interest here."""

    @property
    def max_concurrency(self) -> int | None:
        """Most calls at the same time; None for no limit."""

    @property
    def queue(self) -> QueueLimits:
        """How calls beyond that wait."""


class Overloaded(GatewayError):  # noqa: N818 - read as a state
    """A provider has no slot within the time that a call may wait. Nothing was sent to it."""

    def __init__(self, message: str, reason: Reason, expected_s: float) -> None:
        wait = min(max(expected_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
        super().__init__("concurrency_limit_exceeded", message, retry_after_s=wait)
        self.reason: Reason = reason


class CallerGone(Exception):  # noqa: N818 - read as a state
    """The caller left before it was its turn, and got no slot."""


@dataclass(slots=True, eq=False)
class Slot:
    """The right to one call of a provider, until `release`."""

    waited_ms: int
    """Milliseconds in the queue."""
    _line: _Line = field(repr=False)
    _since: float
    _held: bool = True

    def release(self) -> None:
        """Give it back, to the next who waits. Only the first time counts."""
        if self._held:
            self._held = False
            self._line.ended(self._since)


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    lane: _Lane
    left: Callable[[], bool] | None
    wait_s: float
    since: float
    future: asyncio.Future[Slot]
    timer: asyncio.TimerHandle | None = None
    slot: Slot | None = None


@dataclass(slots=True, eq=False)
class _Lane:
    """Who waits with one priority: by owner in the order of their turns, each owner's in order of arrival."""

    owners: OrderedDict[str, OrderedDict[_Waiter, None]] = field(default_factory=OrderedDict)
    at_least: list[int] = field(default_factory=list)
    """How many owners have more than 0, 1, 2… waiters. No zeros at its end."""
    size: int = 0
    passed: int = 0
    """Slots that went to higher lanes since this one began to wait or last got one."""

    def add(self, waiter: _Waiter) -> None:
        waiting = self.owners.setdefault(waiter.owner, OrderedDict())
        if len(waiting) == len(self.at_least):
            self.at_least.append(0)
        self.at_least[len(waiting)] += 1
        waiting[waiter] = None
        self.size += 1

    def remove(self, waiter: _Waiter) -> bool:
        """False when it is not there any more."""
        waiting = self.owners.get(waiter.owner)
        if waiting is None or waiter not in waiting:
            return False
        del waiting[waiter]
        self.at_least[len(waiting)] -= 1
        if not self.at_least[-1]:
            self.at_least.pop()
        if not waiting:
            del self.owners[waiter.owner]
        self.size -= 1
        if not self.size:
            self.passed = 0
        return True

    def take(self) -> _Waiter:
        """The first of the owner whose turn it is, who then stands last."""
        owner, waiting = next(iter(self.owners.items()))
        self.owners.move_to_end(owner)
        waiter = next(iter(waiting))
        self.remove(waiter)
        return waiter

    def count(self, owner: str) -> int:
        return len(self.owners.get(owner, ()))

    @property
    def most(self) -> int:
        """How many the owner with most of them has."""
        return len(self.at_least)

    def newest_of_most(self) -> _Waiter:
        """The last who came of the owner with most."""
        return next(reversed(next(w for w in self.owners.values() if len(w) == self.most)))

    def ahead(self, owner: str) -> int:
        """How many have their turn before one that this owner adds now, at most: in the last round that is
        those of the owners who stand before it, and here of all."""
        return sum(self.at_least[: self.count(owner) + 1])


@dataclass(slots=True, eq=False)
class _Line:
    """One provider's slots, and who waits for one. While somebody waits, no slot is free."""

    provider: str
    clock: Callable[[], float]
    limit: int | None = None
    busy: int = 0
    waiting: int = 0
    lanes: dict[Priority, _Lane] = field(default_factory=lambda: {name: _Lane() for name in PRIORITIES})
    length_s: float = 0.0
    """How long a call holds its slot, the latest ones counting most."""
    seen: int = 0
    moved: float = 0.0
    """When a slot was last taken or given back."""

    @property
    def has_room(self) -> bool:
        return self.limit is None or self.busy < self.limit

    def limit_to(self, limit: int | None) -> None:
        """Take over a limit that may have changed. Calls beyond a lower one go on to their end."""
        if limit != self.limit:
            self.limit = limit
            self._serve()

    def grant(self, waited_s: float) -> Slot:
        self.busy += 1
        self.moved = self.clock()
        return Slot(round(waited_s * 1000), self, self.moved)

    def ended(self, since: float) -> None:
        self.busy -= 1
        self.moved = self.clock()
        self.seen += 1
        self.length_s += max(RECENT, 1 / self.seen) * (self.moved - since - self.length_s)
        self._serve()

    def join(
        self, owner: str, priority: Priority, left: Callable[[], bool] | None, queue: QueueLimits
    ) -> _Waiter:
        """Stand in the queue. Raises `Overloaded` when that is full or would take too long."""
        lane = self.lanes[priority]
        expected = self._expected_s(self._ahead(lane, owner))
        if expected > queue.wait_s:
            raise self._overloaded("slow", queue.wait_s, expected)
        if self.waiting >= queue.size and not (queue.size and self._make_room(lane, owner)):
            raise self._overloaded("full", queue.wait_s, expected)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(owner, lane, left, queue.wait_s, self.clock(), loop.create_future())
        waiter.timer = loop.call_later(queue.wait_s, self._give_up, waiter, "waited")
        lane.add(waiter)
        self.waiting += 1
        return waiter

    def abandon(self, waiter: _Waiter) -> None:
        """Nobody awaits this one any more, wherever it is by now."""
        if waiter.slot is not None:
            # It was handed over in the very moment in which the wait was cancelled.
            waiter.slot.release()
        else:
            self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> bool:
        if not waiter.lane.remove(waiter):
            return False
        self._gone(waiter)
        return True

    def _gone(self, waiter: _Waiter) -> None:
        self.waiting -= 1
        if waiter.timer is not None:
            waiter.timer.cancel()

    def _give_up(self, waiter: _Waiter, reason: Reason) -> None:
        if not self._remove(waiter) or waiter.future.done():
            return
        expected = self._expected_s(self._ahead(waiter.lane, waiter.owner))
        waiter.future.set_exception(self._overloaded(reason, waiter.wait_s, expected))

    def _serve(self) -> None:
        while self.waiting and self.has_room:
            waiter = self._next().take()
            self._gone(waiter)
            if waiter.future.done():
                continue
            if waiter.left is not None and waiter.left():
                waiter.future.set_exception(CallerGone())
                continue
            waiter.slot = self.grant(self.clock() - waiter.since)
            waiter.future.set_result(waiter.slot)

    def _next(self) -> _Lane:
        """The highest lane, unless a lower one has been passed over too often."""
        lanes = [lane for lane in self.lanes.values() if lane.size]
        chosen = max(lanes, key=lambda lane: lane.passed)
        if chosen.passed < PASSED_OVER:
            chosen = lanes[0]
        chosen.passed = 0
        for lane in lanes[lanes.index(chosen) + 1 :]:
            lane.passed += 1
        return chosen

    def _make_room(self, lane: _Lane, owner: str) -> bool:
        """Turn somebody away for a newcomer with a better claim to a place; false when nobody has a lesser.

        Lower lanes lose theirs first. Inside a lane nobody keeps places that leave another with fewer. A lane
        in which nobody waits gets one place of a lane that has several, and keeps its last one while the
        newcomer's lane has any: else a flood of high priority would leave nothing to be passed over.
        """
        lanes = list(self.lanes.values())
        at = lanes.index(lane)
        for lower in reversed(lanes[at + 1 :]):
            if lower.size > 1 or (lower.size and not lane.size):
                return self._turn_away(lower)
        if lane.size:
            return lane.most > lane.count(owner) + 1 and self._turn_away(lane)
        return any(self._turn_away(higher) for higher in reversed(lanes[:at]) if higher.size > 1)

    def _turn_away(self, lane: _Lane) -> Literal[True]:
        """The newest of the owner with most loses its place."""
        self._give_up(lane.newest_of_most(), "full")
        return True

    def _ahead(self, lane: _Lane, owner: str) -> int:
        """How many get a slot before one that this owner adds now to this lane."""
        ahead = lane.ahead(owner)
        higher = 0
        for other in self.lanes.values():
            if other is lane:
                break
            higher += other.size
        return ahead + min(higher, (PASSED_OVER + 1) * (ahead + 1))

    def _expected_s(self, ahead: int) -> float:
        """Seconds until it is the turn of one with so many before it; 0 while nothing is known."""
        usual = self.length_s if self.seen >= MIN_SEEN else 0.0
        # Every slot is taken, and since the last move: so all these calls are at least as long as that.
        stalled = self.clock() - self.moved
        return (ahead + 1) * max(usual, stalled) / (self.limit or 1)

    def _overloaded(self, reason: Reason, wait_s: float, expected_s: float) -> Overloaded:
        why = {
            "full": "the queue for it is full",
            "slow": f"the wait for it would be longer than {wait_s:g} s",
            "waited": f"none of them ended for this one within {wait_s:g} s",
        }[reason]
        message = f"Calls to provider {self.provider!r} are limited to {self.limit} at a time, and {why}."
        known = self.seen >= MIN_SEEN or expected_s > UNKNOWN_WAIT_S
        return Overloaded(message, reason, expected_s if known else UNKNOWN_WAIT_S)


@dataclass(slots=True)
class _Pause:
    until: float
    strikes: int = 0
    """Pauses of our own length in a row."""
    refused: bool = False
    """The provider has refused a call, and not just told that there is no room for another."""


@dataclass(slots=True)
class Capacity:
    """What every provider can take. One per worker, used from its event loop alone."""

    clock: Callable[[], float] = time.monotonic
    """Seconds, for how long calls wait and take."""
    _lines: dict[str, _Line] = field(default_factory=dict)
    _pauses: OrderedDict[tuple[str, str], _Pause] = field(default_factory=OrderedDict)

    # -- slots --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def slot(
        self,
        provider: str,
        limits: Limits,
        *,
        owner: str,
        priority: Priority = "normal",
        left: Callable[[], bool] | None = None,
    ) -> AsyncIterator[Slot]:
        """A slot for as long as the block runs. Raises what `acquire` raises."""
        slot = await self.acquire(provider, limits, owner=owner, priority=priority, left=left)
        try:
            yield slot
        finally:
            slot.release()

    async def acquire(
        self,
        provider: str,
        limits: Limits,
        *,
        owner: str,
        priority: Priority = "normal",
        left: Callable[[], bool] | None = None,
    ) -> Slot:
        """A slot, to be released by the caller; waits while none is free.

        `limits` hold from now on, for those who wait already too; without a `max_concurrency` calls are only
        counted. `owner` is who takes turns with others, a principal's id. `left` is asked when it is the
        caller's turn: who has left gets no slot. Cancelling the wait leaves the queue at once.
        Raises `Overloaded`, `CallerGone`.
        """
        line = self._line(provider)
        line.limit_to(limits.max_concurrency)
        if left is not None and left():
            raise CallerGone
        if line.has_room:
            return line.grant(0.0)
        waiter = line.join(owner, priority, left, limits.queue)
        try:
            return await waiter.future
        except BaseException:
            line.abandon(waiter)
            raise

    def renew(self, providers: Mapping[str, Limits]) -> None:
        """Take over the limits of a new policy at once, for those who wait while nobody comes or goes."""
        for name, line in list(self._lines.items()):
            if name in providers:
                line.limit_to(providers[name].max_concurrency)
            elif not line.busy and not line.waiting:
                del self._lines[name]

    def busy(self, provider: str) -> int:
        """Calls that hold a slot, whether there is a limit or not."""
        line = self._lines.get(provider)
        return line.busy if line is not None else 0

    def waiting(self, provider: str) -> int:
        """Calls in the queue."""
        line = self._lines.get(provider)
        return line.waiting if line is not None else 0

    def _line(self, provider: str) -> _Line:
        line = self._lines.get(provider)
        if line is None:
            line = self._lines[provider] = _Line(provider, self.clock)
        return line

    # -- pauses -------------------------------------------------------------------------------------

    def learn(self, provider: str, model: str, status: int, headers: Headers, now: float) -> None:
        """Take in what a reply's head says about rate limits. `headers` have names in lower case, `now` is in
        Unix seconds. What cannot be read says nothing."""
        told = {name: value for name, value in headers if name.startswith(_TELLING)}
        if not told and status < 300:
            if self._pauses:
                self._pauses.pop((provider, model), None)
            return
        wait = _retry_after_s(told, now) if status in _REFUSING else None
        # A "0" helps nobody who has just been refused.
        if wait is None or wait < SHORTEST_PAUSE_S:
            wait = _empty_for_s(told, headers, now)
        if wait is not None and wait < SHORTEST_PAUSE_S:
            wait = None
        known = self._pauses.get((provider, model))
        if wait is None and status == 429:
            if known is not None and now < known.until:
                # Replies to what was sent before the pause began are no news.
                return
            strikes = known.strikes + 1 if known is not None else 1
            pause = FIRST_PAUSE_S * 2.0 ** min(strikes - 1, 16)
            self._put((provider, model), now, pause, strikes, refused=True)
        elif wait is not None:
            strikes = known.strikes if known is not None else 0
            self._put((provider, model), now, wait, strikes, refused=status in _REFUSING)
        elif status < 300:
            self._pauses.pop((provider, model), None)

    def pause(self, provider: str, model: str, now: float) -> float:
        """For how many seconds the model is better not asked, at most `MAX_PAUSE_S`; 0 means ask now."""
        known = self._pauses.get((provider, model))
        if known is None or known.until <= now:
            return 0.0
        # A clock that was set back must not make a pause longer.
        known.until = min(known.until, now + MAX_PAUSE_S)
        return known.until - now

    def is_refusing(self, provider: str, model: str) -> bool:
        """Whether the pause of a model is one that the provider has asked for by refusing a call."""
        known = self._pauses.get((provider, model))
        return known is not None and known.refused

    def _put(self, key: tuple[str, str], now: float, wait: float, strikes: int, *, refused: bool) -> None:
        self._pauses[key] = _Pause(now + min(wait, MAX_PAUSE_S), strikes, refused)
        if len(self._pauses) > MAX_PAUSES:
            self._pauses.popitem(last=False)


def priority_of(own: Priority, header: bytes | None) -> Priority:
    """The priority of a request whose key has `own`, with the value of its `x-guardrail-priority`: that may
    lower it and never raises it. A word that is none of the three says nothing."""
    if header is not None:
        asked = header.strip().lower()
        for priority in PRIORITIES[PRIORITIES.index(own) :]:
            if asked == priority.encode():
                return priority
    return own


# -- what replies tell ----------------------------------------------------------------------------------

_REFUSING = frozenset((429, 503, 529))
"""Statuses whose `Retry-After` is about the next call, whoever makes it."""
_TELLING = (b"x-ratelimit-", b"anthropic-ratelimit-", b"retry-after", b"x-ms-retry-after-ms")
_OPENAI_KINDS = (
    b"-requests",
    b"-tokens",
    b"-tokens_usage_based",
    b"-project-requests",
    b"-project-tokens",
    b"",
)
"""Of `x-ratelimit-remaining…`. Without a kind it is the one limit of OpenRouter and others."""
_ANTHROPIC_KINDS = (b"requests", b"tokens", b"input-tokens", b"output-tokens")
"""Calls go on without the `priority-` ones, which are bought extra."""
_BUCKETS = (
    *((b"x-ratelimit-remaining" + kind, b"x-ratelimit-reset" + kind) for kind in _OPENAI_KINDS),
    *(
        (b"anthropic-ratelimit-" + kind + b"-remaining", b"anthropic-ratelimit-" + kind + b"-reset")
        for kind in _ANTHROPIC_KINDS
    ),
)
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_VALUE = 64
_EPOCH = 1e9
"""Numbers from here on are points in time: in seconds, or from `_EPOCH_MS` on in milliseconds."""
_EPOCH_MS = 1e12


def _retry_after_s(told: Mapping[bytes, bytes], now: float) -> float | None:
    """Seconds that the provider asks for; None where it does not."""
    for name in (b"retry-after-ms", b"x-ms-retry-after-ms"):
        ms = _number(_text(told.get(name, b"")))
        if ms is not None and ms > 0:
            return ms / 1000
    if b"retry-after" not in told:
        return None
    return _until_s(told[b"retry-after"], now)


def _empty_for_s(told: Mapping[bytes, bytes], headers: Headers, now: float) -> float | None:
    """Seconds until every limit of which nothing remains is reset; None when all have something left."""
    longest = 0.0
    for remaining, reset in _BUCKETS:
        # Azure says -1 where it does not count.
        if remaining in told and reset in told and told[remaining].strip() == b"0":
            longest = max(longest, _until_s(told[reset], _their_now(headers, now)) or 0.0)
    return longest or None


def _their_now(headers: Headers, now: float) -> float:
    """The provider's own clock, which its points in time are read from."""
    for name, value in headers:
        if name == b"date":
            at = _instant(_text(value))
            return at if at is not None else now
    return now


def _until_s(value: bytes, now: float) -> float | None:
    """Seconds from now, at least 0, of a number of seconds, a duration such as `6m0s`, or a point in
    time (RFC 3339, HTTP date, Unix time); None for anything else."""
    text = _text(value)
    number = _number(text)
    if number is not None:
        if number >= _EPOCH:
            number = (number / 1000 if number >= _EPOCH_MS else number) - now
    else:
        number = _duration(text)
    if number is None:
        at = _instant(text)
        number = at - now if at is not None else None
    return max(number, 0.0) if number is not None else None


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip() if len(value) <= _LONGEST_VALUE else ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _duration(text: str) -> float | None:
    """Go's notation, in which OpenAI writes."""
    end, seconds = 0, 0.0
    for part in _DURATION.finditer(text):
        if part.start() != end:
            return None
        end = part.end()
        seconds += float(part[1]) * _UNIT_S[part[2]]
    return seconds if end and end == len(text) else None


def _instant(text: str) -> float | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = read(text)
            return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None
