"""Circuit breakers as a worker sees them: what fails is left alone for a while, then tried by a few calls.

Providers and their models break by what they answer, tools by what their results tell. A tool whose results
fail for a team is withheld from that team's agents. What a result says is only a caller's word, so its
breaker never reaches beyond the team (or key) whose results opened it, unless the policy shares the tool;
then failures of at least two keys are needed.

All replicas share the state. Nothing here waits on the hot path but a probe: what came of calls is reported
in the background, states are known from the last report or look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gateway.admission import BreakerRule, BreakerState
from gateway.domain import Millis, Principal
from gateway.errors import StoreUnavailable
from gateway.policy.sections.providers import ProviderBreaker
from gateway.policy.sections.tools import Tool
from gateway.protocols import Clock, Store
from gateway.rules.breakers import SHARED, breaker_key
from gateway.rules.route import Route
from gateway.values import frozen

log = logging.getLogger("gateway.breakers")

FLUSH_S = 0.2
LOOK_S = 1.0
MAX_BREAKERS = 4096
SHARED_SOURCES = 2


@frozen
class Breaker:
    """One breaker and its rule."""

    key: str
    rule: BreakerRule
    owner: str | None = None
    """Who looks after what it is about, for alerts."""


def tool_breaker(caller: Principal, name: str, tool: Tool) -> Breaker | None:
    """The breaker that this caller's results of a tool count for; None when it has none."""
    wanted = tool.breaker
    if wanted is None or tool.mode == "off":
        return None
    if tool.shared:
        scope = "shared"
    else:
        scope = f"team/{caller.team}" if caller.team is not None else f"key/{caller.key}"
    rule = BreakerRule(
        error_rate=float(wanted.error_rate),
        min_calls=wanted.min_calls,
        window_ms=round(wanted.window_s * 1000),
        open_ms=round(wanted.open_s * 1000),
        probes=wanted.probes,
        min_sources=SHARED_SOURCES if tool.shared else 1,
    )
    return Breaker(breaker_key("tool", scope, name), rule, tool.owner)


def provider_breakers(route: Route) -> tuple[Breaker, ...]:
    """The breakers of the model that a route leads to, and of its provider."""
    wanted = route.provider.breaker
    return _made(route.provider_name, route.label, wanted) if wanted is not None else ()


@lru_cache(maxsize=MAX_BREAKERS)
def _made(provider: str, model: str, wanted: ProviderBreaker) -> tuple[Breaker, ...]:
    rule = BreakerRule(
        error_rate=float(wanted.error_rate),
        min_calls=wanted.min_calls,
        window_ms=round(wanted.window_s * 1000),
        open_ms=round(wanted.open_s * 1000),
        probes=wanted.probes,
        dead_after_ms=round((wanted.dead_after_s or 0) * 1000),
    )
    return (
        Breaker(breaker_key("provider", SHARED, provider), rule),
        Breaker(breaker_key("model", SHARED, f"{provider}/{model}"), rule),
    )


@dataclass(slots=True)
class _Seen:
    breaker: Breaker
    state: BreakerState | None = None


@dataclass(slots=True)
class Breakers:
    """The breakers that this worker has met."""

    store: Store
    clock: Clock
    notify: Callable[[str, dict[str, Any]], None]
    on_state: Callable[[str, str], None] = lambda _key, _state: None
    """(breaker key, state) whenever it is known anew, for metrics."""
    _seen: OrderedDict[str, _Seen] = field(default_factory=OrderedDict)
    _reports: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to report and to look."""
        for loop in (self._flush_forever, self._look_forever):
            self._tasks.append(asyncio.create_task(loop(), name=f"breakers{loop.__name__}"))

    async def close(self) -> None:
        """Report what is left and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self.flush()

    def saw(self, breaker: Breaker, source: str, *, failed: bool, opening: Millis | None = None) -> None:
        """A result has come: it is told to the store in a moment.

        With the `opening` from when the call was made, nothing is told of a call that the breaker has opened
        since: calls that hung in an outage must not be taken for probes when they end.
        """
        state = self._meet(breaker).state
        if opening is not None and state is not None and state.opened_at not in (0, opening):
            return
        counts = self._reports.setdefault((breaker.key, source), [0, 0])
        counts[failed] += 1

    async def usable(self, breaker: Breaker) -> bool:
        """Whether it may be used now. While the breaker is half open a few may try.

        Raises `StoreUnavailable` when a probe is due and the store cannot be asked.
        """
        state = self._meet(breaker).state
        if state is None or state.state == "closed":
            return True
        if state.until > self.clock():
            return False
        return await self.store.probe(breaker.key, breaker.rule)

    def open_until(self, breaker: Breaker) -> Millis:
        """When it is tried again, by what is known here; 0 unless it is open."""
        state = self._meet(breaker).state
        return state.until if state is not None and state.until > self.clock() else 0

    def opening(self, breaker: Breaker) -> Millis:
        """Which opening a call made now is a probe of, by what is known here; 0 while it is closed."""
        state = self._meet(breaker).state
        return state.opened_at if state is not None else 0

    def _meet(self, breaker: Breaker) -> _Seen:
        seen = self._seen.setdefault(breaker.key, _Seen(breaker))
        self._seen.move_to_end(breaker.key)
        while len(self._seen) > MAX_BREAKERS:
            self._seen.popitem(last=False)
        seen.breaker = breaker
        return seen

    async def flush(self) -> None:
        """Report every result seen since the last time. Raises `StoreUnavailable`; nothing is lost then, nor
        when it is cancelled."""
        for key, source in list(self._reports):
            counts, seen = self._reports.pop((key, source), None), self._seen.get(key)
            if counts is None or seen is None:
                continue
            ok, failed = counts
            try:
                state = await self.store.report(key, seen.breaker.rule, source=source, ok=ok, failed=failed)
            except (StoreUnavailable, asyncio.CancelledError):
                # Whether a report that was cancelled has arrived is not known: counted twice is better than
                # never, for a tool that fails.
                kept = self._reports.setdefault((key, source), [0, 0])
                kept[False] += ok
                kept[True] += failed
                raise
            self._learn(seen, state)

    def _learn(self, seen: _Seen, state: BreakerState) -> None:
        before = seen.state.opened_at if seen.state is not None else 0
        was_open = seen.state is not None and seen.state.state != "closed"
        seen.state = state
        self.on_state(state.key, state.state)
        if was_open and state.state == "closed":
            self.notify("breaker_closed", {"breaker": state.key})
        if state.state == "open" and state.opened_at != before:
            log.warning(
                "breaker %s is open: %d of %d calls failed", state.key, state.failed, state.ok + state.failed
            )
            facts: dict[str, Any] = {
                "breaker": state.key,
                "ok": state.ok,
                "failed": state.failed,
                "until": state.until,
            }
            if seen.breaker.owner is not None:
                facts["owner"] = seen.breaker.owner
            self.notify("breaker_open", facts)

    async def look(self, keys: Iterable[str]) -> None:
        """Learn the states of breakers that other replicas may have changed."""
        wanted = list(keys)
        states = {state.key: state for state in await self.store.breakers(wanted)}
        for key in wanted:
            seen = self._seen.get(key)
            if seen is None:
                continue
            if (state := states.get(key)) is not None:
                self._learn(seen, state)
            elif seen.state is not None:
                was_open, seen.state = seen.state.state != "closed", None
                self.on_state(key, "closed")
                if was_open:
                    self.notify("breaker_closed", {"breaker": key})

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._reports:
                with contextlib.suppress(StoreUnavailable):
                    await self.flush()

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._seen:
                with contextlib.suppress(StoreUnavailable):
                    await self.look(self._seen)
