"""Webhooks: what the policy's `alerts` want to be told, signed and sent once.

    notify ──► Alerts(kind, facts)        in the caller's time: is it wanted, was it told lately
                  │ a task of its own
                  ▼
               claim ──► the run's summary ──► one delivery for each alert that matches
               first of all processes           signed; tried again for about two minutes

An event is raised in each worker that sees it; the claim in the ledger database lets one of them send it.
Nothing here makes the data plane wait. Deliveries are kept in memory: what is under way when the process ends
is lost, and a receiver that needs to be certain reads the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.domain import Json, Millis, Surface, usd
from gateway.drain import Drain
from gateway.errors import StoreUnavailable
from gateway.policy.models import EVERYTHING, Alert
from gateway.protocols import Clock
from gateway.rules.breakers import parse_breaker_key
from gateway.rules.kills import parse_kill_name
from gateway.stores.ledger import AmbiguousRun, LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.telemetry.metrics import Metrics
from gateway.turn import new_id
from gateway.upstreams.transport import (
    Timeouts,
    Transport,
    TransportError,
    UnsendableError,
    UpstreamReply,
    UpstreamRequest,
)
from gateway.values import frozen
from gateway.web.admin_views import run_view, stamp

log = logging.getLogger("gateway.alerts")

Outcome = Literal["sent", "failed", "dropped", "duplicate", "shadow"]

DELAYS_S = (2.0, 8.0, 30.0, 80.0)
"""Between one attempt and the next, each a quarter more or less: five attempts over two minutes."""
QUIET_MS = 10 * 60 * 1000
"""The same event about the same thing is told once in so long."""
QUEUE = 1000
"""Events and deliveries under way in one worker; beyond it the oldest are given up."""
REMEMBERED = 10_000
"""Events of the last ten minutes that a worker knows itself to have told; older ones are in the database."""
AT_ONCE = 4
"""Deliveries that one receiver gets side by side; a slow one keeps nobody else waiting."""
CLOSING_S = 0.5
"""What is on its way when the process ends gets so long to arrive."""
MAX_RETRY_AFTER_S = 60.0
_TIMEOUTS = Timeouts(connect_s=5, first_byte_s=10, idle_s=10, total_s=10)
_LOOKUP_S = 5.0
_MAX_REPLY_BYTES = 4096
_UNREADABLE = (
    LedgerUnavailable,
    LedgerError,
    LedgerOnAnotherHost,
    StoreUnavailable,
    AmbiguousRun,
    TimeoutError,
)

_IDENTITY = (
    "run",
    "approval",
    "rule",
    "breaker",
    "provider",
    "tool",
    "detector",
    "code",
    "status",
    "error",
)
"""Facts that say what an event is about, and `name` where that is not its run's. Events that agree in these
are the same."""
_TOLD = ("tool", "rule", "code", "status", "name", "breaker", "provider", "reason", "error")
_NOT_TOLD = ("link", "principal")
_PLACES = {"kill": "/kills", "breaker_open": "/breakers", "policy_reload_failed": "/policy"}


@frozen
class Happened:
    """An event that some alert is about."""

    id: str
    kind: str
    at: Millis
    facts: Json


@dataclass(slots=True, eq=False)
class Alerts:
    """One per worker; a listener of its notices. `key` signs for alerts that have no secret of their own,
    `link` makes the address of a path of the admin API."""

    rules: Sequence[Alert]
    transport: Transport
    ledger: SqlLedger
    drain: Drain
    metrics: Metrics
    notify: Callable[[str, dict[str, Any]], None]
    clock: Clock
    key: bytes = field(repr=False)
    link: Callable[[str], str]
    delays_s: Sequence[float] = DELAYS_S
    queue: int = QUEUE
    _wanted: frozenset[str] = frozenset()
    _told: dict[str, Millis] = field(default_factory=dict)
    _tasks: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Under way, the oldest first, each with its event's kind."""
    _turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    _failing: set[str] = field(default_factory=set)
    _overflowing: bool = False

    def __post_init__(self) -> None:
        self.replace(self.rules)

    def replace(self, rules: Sequence[Alert]) -> None:
        """Go by these alerts from now on; what is on its way goes where it was sent."""
        self.rules = [rule for rule in rules if rule.mode != "off"]
        self._wanted = frozenset(event for rule in self.rules for event in rule.on)
        names = {rule.name for rule in rules}
        self._turns = {name: turn for name, turn in self._turns.items() if name in names}
        self._failing &= names

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event; never waits."""
        if kind not in self._wanted:
            return
        now = self.clock()
        subject = _subject(kind, facts)
        if self._told.get(subject, -QUIET_MS) > now - QUIET_MS:
            self._count(kind, "duplicate")
            return
        self._remember(subject, now)
        self._begin(kind, self._raise(Happened(new_id("evt"), kind, now, dict(facts)), subject))

    async def close(self) -> None:
        """Let what is on its way arrive, for a moment; the rest is dropped."""
        self._wanted = frozenset()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        left = list(self._tasks)
        for task in left:
            self._count(self._tasks.get(task, ""), "dropped")
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _remember(self, subject: str, now: Millis) -> None:
        told = self._told
        told.pop(subject, None)
        told[subject] = now
        while (oldest := next(iter(told))) and (len(told) > REMEMBERED or told[oldest] <= now - QUIET_MS):
            del told[oldest]

    # -- one event ------------------------------------------------------------------------------------

    def _begin(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= self.queue:
            oldest = next(iter(self._tasks))
            self._count(self._tasks.pop(oldest), "dropped")
            oldest.cancel()
            if not self._overflowing:
                log.error("more than %d alerts wait to be delivered: the oldest are dropped", self.queue)
            self._overflowing = True
        task = asyncio.create_task(work, name="alert")
        self._tasks[task] = kind
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if len(self._tasks) <= self.queue // 2:
            self._overflowing = False
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an alert failed", exc_info=error)

    async def _raise(self, event: Happened, subject: str) -> None:
        """Start the deliveries of an event, unless another process has it."""
        if not await self._claim(subject, event.at):
            self._count(event.kind, "duplicate")
            return
        run = await self._run(event)
        body = json.dumps(
            _payload(event, run, self._link(event)), default=str, separators=(",", ":")
        ).encode()
        # What is left to do here does not wait: room for the deliveries.
        if (this := asyncio.current_task()) is not None:
            self._tasks.pop(this, None)
        for rule in self.rules:
            if event.kind not in rule.on or not _covers(rule, event, run):
                continue
            if rule.mode == "shadow":
                log.info("alert %s would tell of %s %s", rule.name, event.kind, event.id)
                self._outcome(rule, event, "shadow")
            else:
                self._begin(event.kind, self._deliver(rule, event, body))

    async def _claim(self, subject: str, at: Millis) -> bool:
        """Whether this process is to tell it. Without the database every process that saw it does."""
        try:
            async with asyncio.timeout(_LOOKUP_S):
                return await self.ledger.claim_alert(subject, at=at, until=at + QUIET_MS)
        except _UNREADABLE as error:
            log.debug("an alert is sent unclaimed: %s", error)
            return True

    async def _run(self, event: Happened) -> Json | None:
        """The run that the event is about as the admin API shows it; what the event says of it where the
        ledger cannot tell. None when it is about no run."""
        run_id = _run_of(event)
        if run_id is None:
            return None
        found: Json = {"id": run_id}
        try:
            async with asyncio.timeout(_LOOKUP_S):
                await self.drain.flush()
                row = await self.ledger.run(run_id)
            if row is not None:
                found = run_view(row, None)
        except _UNREADABLE as error:
            log.debug("an alert lacks its run's summary: %s", error)
        if event.kind == "run_stopped":
            found["status"] = event.facts.get("status") or found.get("status")
            found["status_reason"] = (
                found.get("status_reason") or event.facts.get("reason") or event.facts.get("code")
            )
            found["ended_at"] = stamp(event.at)
        return found

    def _link(self, event: Happened) -> str:
        run_id = _run_of(event)
        given = event.facts.get("link")
        if isinstance(given, str):
            return given
        return self.link(f"/runs/{run_id}" if run_id is not None else _PLACES.get(event.kind, "/runs"))

    # -- one delivery ---------------------------------------------------------------------------------

    async def _deliver(self, rule: Alert, event: Happened, body: bytes) -> None:
        problem = ""
        for delay in (*self.delays_s, None):
            problem, again, wait_s = await self._attempt(rule, event, body)
            if not problem:
                break
            log.debug("alert %s: %s", rule.name, problem)
            if not again or delay is None:
                break
            await asyncio.sleep(max(delay * random.uniform(0.75, 1.25), wait_s))
        if problem and rule.name not in self._failing:
            self._failing.add(rule.name)
            log.warning(
                "alert %s could not be delivered (%s); more of its failures are counted, not logged",
                rule.name,
                problem,
            )
        elif not problem and rule.name in self._failing:
            self._failing.discard(rule.name)
            log.warning("alert %s is delivered again", rule.name)
        self._outcome(rule, event, "failed" if problem else "sent")

    async def _attempt(self, rule: Alert, event: Happened, body: bytes) -> tuple[str, bool, float]:
        """(what went wrong, whether to try again, in how many seconds at the earliest)."""
        turn = self._turns.setdefault(rule.name, asyncio.Semaphore(AT_ONCE))
        try:
            async with turn:
                reply = await self.transport.send(self._request(rule, event, body))
                try:
                    await reply.read(_MAX_REPLY_BYTES)
                except TransportError:
                    pass  # The status has come; what the receiver says beside it interests nobody.
                finally:
                    await reply.aclose()
        except TransportError as error:
            return f"{error.phase}: {error.kind}", True, 0.0
        except UnsendableError:
            return "its URL cannot be sent to", False, 0.0
        status = reply.status
        if 200 <= status < 300:
            return "", False, 0.0
        return f"HTTP {status}", status in (408, 429) or status >= 500, _retry_after(reply)

    def _request(self, rule: Alert, event: Happened, body: bytes) -> UpstreamRequest:
        key = rule.secret.get_secret_value().encode() if rule.secret is not None else self.key
        timestamp = str(self.clock() // 1000)
        return UpstreamRequest(
            "POST",
            rule.url.get_secret_value(),
            [
                (b"content-type", b"application/json"),
                (b"user-agent", b"guardrail-gateway"),
                (b"x-guardrail-event", event.kind.encode()),
                (b"x-guardrail-timestamp", timestamp.encode()),
                (b"x-guardrail-signature", f"sha256={signature(key, timestamp, body)}".encode()),
            ],
            body,
            _TIMEOUTS,
        )

    def _outcome(self, rule: Alert, event: Happened, outcome: Outcome) -> None:
        self._count(event.kind, outcome)
        facts = {"alert": rule.name, "event": event.kind, "id": event.id, "outcome": outcome}
        self.notify("alert", {**facts, "run": _run_of(event)})

    def _count(self, kind: str, outcome: Outcome) -> None:
        self.metrics.child(self.metrics.alerts, kind, outcome).inc()


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of `timestamp.body`, hexadecimal."""
    return hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


# -- what is said ------------------------------------------------------------------------------------


def _payload(event: Happened, run: Json | None, link: str) -> Json:
    return {
        "id": event.id,
        "event": event.kind,
        "at": stamp(event.at),
        "text": sentence(event.kind, event.facts, run),
        "run": run,
        "facts": _readable(event.facts),
        "link": link,
    }


def _readable(facts: Mapping[str, Any]) -> Json:
    """Facts with money and times as the admin API writes them."""
    told: Json = {}
    for name, value in facts.items():
        if name == "cost" and isinstance(value, int):
            told["cost_usd"] = usd(value)
        elif (name.endswith("_at") or name == "until") and isinstance(value, int):
            told[name] = stamp(value)
        elif name not in _NOT_TOLD:
            told[name] = value
    return told


def sentence(kind: str, facts: Mapping[str, Any], run: Mapping[str, Any] | None) -> str:
    """One line for people, as chat webhooks show the field `text`: nothing in it is markup or a mention."""
    parts = [f"{name} {facts[name]}" for name in _TOLD if facts.get(name) not in (None, "")]
    if run is not None:
        parts.append(f"run {run['id']}")
        parts += [f"{name} {run[name]}" for name in ("user", "team", "agent") if run.get(name)]
        if "cost_usd" in run:
            parts.append(f"{run['steps']} steps, ${run['cost_usd']}")
    text = f"{kind.replace('_', ' ')}: {', '.join(parts)}"[:1000]
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _subject(kind: str, facts: Mapping[str, Any]) -> str:
    about = [kind, *(str(facts.get(name, "")) for name in _IDENTITY)]
    if "run" not in facts:
        about.append(str(facts.get("name", "")))
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _run_of(event: Happened) -> str | None:
    run = event.facts.get("run")
    if run is None and event.kind == "kill":
        scope, target = parse_kill_name(str(event.facts.get("name")))
        run = target if scope == "run" else None
    return str(run) if run is not None else None


def _covers(rule: Alert, event: Happened, run: Mapping[str, Any] | None) -> bool:
    """Whether the event is one that the alert is narrowed to, by what it says itself, else by its run."""
    if rule.match is EVERYTHING:
        return True
    known = {**(run or {}), **{name: value for name, value in event.facts.items() if value is not None}}
    known.update(_meant(event))
    surface, tags = known.get("surface"), known.get("tags")
    return rule.match.covers(
        key=known.get("key"),
        user=known.get("user"),
        team=known.get("team"),
        model=known.get("model"),
        surface=Surface(surface) if surface in set(Surface) else None,
        agent=known.get("agent"),
        tags=tags if isinstance(tags, Mapping) else {},
    )


def _meant(event: Happened) -> dict[str, str]:
    """Whom an event is about that belongs to no step: `{"team": "cx"}` for a breaker of that team."""
    if event.kind == "kill":
        return dict([parse_kill_name(str(event.facts.get("name")))])
    breaker = parse_breaker_key(str(event.facts.get("breaker")))
    if breaker is None:
        return {}
    word, _, whose = breaker.scope.partition("/")
    return {word: whose}


def _retry_after(reply: UpstreamReply) -> float:
    for name, value in reply.headers:
        if name == b"retry-after" and value.isdigit():
            return min(float(value), MAX_RETRY_AFTER_S)
    return 0.0
