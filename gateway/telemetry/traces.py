"""OpenTelemetry traces of runs: one trace for each, whichever processes serve it.

    a request ends ──► queue ──► facts ──► spans ──► OTLP           here, in each worker, for its own requests
    an ending is in the ledger ──► gw_run_traces ──► the run's span    whichever worker takes it first

A request costs its worker an entry in a queue; everything else happens afterwards. What a worker knows of a
request goes out from there; the span of the whole run is made from the ledger, once, when the run has ended
and stayed so for a moment. Of runs outside of the sample nothing is told, unless a rule or an operator
stopped them: then everything is told after all, as the ledger has it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from gateway.domain import USAGE_BUCKETS, Json, Millis
from gateway.errors import GatewayError, Refusal, Ruling, UpstreamError
from gateway.policy.models import Policy
from gateway.rules.budgets import applies
from gateway.screening.pool import ScanPool
from gateway.steps.attempt import Attempt
from gateway.steps.delivery import ClientLeftError
from gateway.steps.turn import Facts, Turn
from gateway.stores.ledger_database import LedgerError, LedgerUnavailable
from gateway.stores.ledger_traces import EndedRun
from gateway.telemetry.content import Draft, draft, redacted
from gateway.telemetry.spans import (
    STOPPED,
    AttemptFacts,
    Conventions,
    Refused,
    Span,
    StepFacts,
    Value,
    is_sampled,
    parse_traceparent,
    run_context,
    run_span,
    step_spans,
)

log = logging.getLogger("gateway.traces")

GATHER_S = 0.05
"""Requests that end within so many seconds are worked on together."""
MAX_ENDED = 4096
MAX_BYTES = 64 * 1024 * 1024
"""Requests that wait to be worked on, and their bytes."""
MAX_DRAFTS = 256
"""Steps whose content waits to be redacted; beyond that they are told without it."""
AT_ONCE = 4
"""Steps worked on before other work gets its turn."""
SETTLED_MS = 1500
"""How long a run has to have ended before its span is made."""
LOOK_S = 1.0
TOGETHER = 100
"""Runs that are taken from the ledger together."""
CLOSE_S = 0.3
FORGET_EVERY_S = 3600.0
KEPT_MS = 24 * 3_600_000
MAX_SEEN = 20_000
"""Tool calls whose spans a worker remembers to have made."""
_PAGE = 500
MAX_STEPS_TOLD = 5_000
"""Rows of the ledger from which the trace of a run outside of the sample is made."""


class Exporter(Protocol):
    """Takes spans and never waits."""

    def put(self, spans: Sequence[Span]) -> None: ...

    def close(self) -> None: ...


class RunLedger(Protocol):
    """What is asked of the ledger."""

    async def note_endings(self, endings: Mapping[str, Millis]) -> None: ...

    async def ended_runs(self, now: Millis, limit: int = 100) -> list[EndedRun]: ...

    async def take_endings(self, runs: Sequence[str], now: Millis) -> list[Json]: ...

    async def wait_for_endings(self, runs: Sequence[str], due_at: Millis) -> None: ...

    async def drop_endings(self, runs: Sequence[str]) -> None: ...

    async def forget_endings(self, before: Millis) -> None: ...

    async def steps(
        self, run_id: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Json], str | None]: ...


class Failure(NamedTuple):
    """Why a request failed, without the exception, which would hold on to everything that it came through."""

    code: str
    ruling: Ruling | None
    upstream: bool
    left: bool


def failure_of(error: GatewayError | None) -> Failure | None:
    """What is told of an error."""
    if error is None:
        return None
    ruling = error.ruling if isinstance(error, Refusal) else None
    return Failure(error.code, ruling, isinstance(error, UpstreamError), isinstance(error, ClientLeftError))


@dataclass(slots=True)
class Ended:
    """A request that has ended, or a provider's background work for one."""

    facts: Facts
    turn: Turn
    attempts: list[Attempt]
    error: Failure | None
    traceparent: bytes | None
    at: float
    """`time.perf_counter()`."""
    size: int
    """Bytes of the request."""
    found_at: float
    """... when its run was known; 0 where nobody noted it."""


@dataclass(slots=True)
class Traces:
    """The traces of one worker."""

    exporter: Exporter
    ledger: RunLedger
    pool: ScanPool
    policy: Callable[[str], Policy]
    """The policy of this version, or the one in force."""
    clock: Callable[[], Millis]
    conventions: Conventions = "genai"
    parent: Literal["link", "client"] = "link"
    """What the client's own span is to a step's."""
    share: float = 1.0
    """Of runs, where the policy says nothing."""
    dropped: Callable[[int], None] = lambda _count: None
    """Counts steps that were not even looked at."""
    _ended: deque[Ended] = field(default_factory=deque)
    _drafts: deque[tuple[StepFacts, Draft]] = field(default_factory=deque)
    _stir: asyncio.Event = field(default_factory=asyncio.Event)
    _redact: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _bytes: int = 0
    _full: bool = False
    _in_trouble: bool = False
    _mistaken: bool = False

    def start(self) -> None:
        """Begin to work in the background."""
        for loop in (self._work, self._redact_drafts, self._watch_runs):
            self._tasks.append(asyncio.create_task(loop(), name=f"traces-{loop.__name__}"))

    async def close(self) -> None:
        """Tell what is left; gives up after a second."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._ended:
            self._tell(self._ended.popleft(), content=False)
        while self._drafts:
            facts, _ = self._drafts.popleft()
            facts.content_dropped = True
            self._put(facts)
        try:
            async with asyncio.timeout(CLOSE_S):
                # What has not been ended for long is left to a process that goes on, or to the next one.
                await self._export_runs()
        except (TimeoutError, LedgerError, LedgerUnavailable) as error:
            log.debug("runs that have ended wait for the next process: %s", error)
        await asyncio.to_thread(self.exporter.close)

    # -- on the path of a request: queue and go ------------------------------------------------------

    def request_ended(self, facts: Facts, error: GatewayError | None, traceparent: bytes | None) -> None:
        """A request has ended, well or not."""
        trail = facts.trail
        if trail is None or trail.turn is None:
            return
        if not trail.attempts and error is None and trail.turn.step.background:
            # The provider works on; its attempt tells of the step when that has come to an end.
            return
        self._enqueue(facts, trail.turn, trail.attempts, failure_of(error), traceparent, trail.found_at)

    def late_attempt(self, attempt: Attempt) -> None:
        """An attempt is settled whose request has ended before."""
        self._enqueue(attempt.facts, attempt.turn, [attempt], None, None)

    def _enqueue(
        self,
        facts: Facts,
        turn: Turn,
        attempts: list[Attempt],
        error: Failure | None,
        traceparent: bytes | None,
        found_at: float = 0.0,
    ) -> None:
        size = len(turn.step.raw)
        if len(self._ended) >= MAX_ENDED or (self._bytes + size > MAX_BYTES and self._ended):
            self.dropped(1)
            if not self._full:
                self._full = True
                log.warning("traces: more steps end than can be told of; some are dropped")
            return
        if self._full and len(self._ended) < MAX_ENDED / 2:
            self._full = False
        self._bytes += size
        now = time.perf_counter()
        self._ended.append(Ended(facts, turn, attempts, error, traceparent, now, size, found_at))
        if not self._stir.is_set():
            self._stir.set()

    # -- steps ---------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._stir.wait()
            await asyncio.sleep(GATHER_S)
            self._stir.clear()
            done = 0
            while self._ended:
                self._tell(self._ended.popleft())
                done += 1
                if done % AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _tell(self, ended: Ended, *, content: bool = True) -> None:
        self._bytes -= ended.size
        try:
            self._tell_step(ended, content=content)
        except Exception:  # noqa: BLE001 - it is logged, and costs one span
            self._failed("a step cannot be told of")
            self.dropped(1)

    def _failed(self, what: str) -> None:
        """A mistake of ours. It costs a span and not the traces of everything after it; it is said once."""
        if not self._mistaken:
            log.exception("traces: %s", what)
        self._mistaken = True

    def _tell_step(self, ended: Ended, *, content: bool) -> None:
        turn = ended.turn
        policy = self.policy(turn.policy)
        caller = parse_traceparent(ended.traceparent)
        adopt = self.parent == "client" and caller is not None
        wanted = (
            caller[1]
            if adopt and caller is not None
            else is_sampled(run_context(turn.run.run_id).trace, self._share(turn.policy))
        )
        if not wanted:
            return
        facts = live_facts(ended)
        if caller is not None:
            facts.caller, facts.adopt = caller[0], adopt
        rule = policy.tracing
        if content and rule.content == "redacted" and applies(rule.match, turn.scopes):
            if len(self._drafts) < MAX_DRAFTS:
                last = ended.attempts[-1] if ended.attempts else None
                step = last.turn.step if last is not None and last.inspect is None else turn.step
                answer = last.end.answer if last is not None and last.end is not None else None
                self._drafts.append((facts, draft(step, answer, rule.content_chars)))
                self._redact.set()
                return
            facts.content_dropped = True
        self._put(facts)

    def _put(self, facts: StepFacts) -> None:
        """Hand the spans of a step on. A tool's result that was told of before is not told of again."""
        spans = []
        for span in step_spans(facts, self.conventions):
            if span.name.startswith("execute_tool "):
                if span.at.span in self._seen:
                    continue
                self._seen[span.at.span] = None
                if len(self._seen) > MAX_SEEN:
                    self._seen.popitem(last=False)
            spans.append(span)
        self.exporter.put(spans)

    async def _redact_drafts(self) -> None:
        while True:
            await self._redact.wait()
            self._redact.clear()
            while self._drafts:
                facts, made = self._drafts[0]
                # It stays in the queue until it is done, so that a shut-down tells of the step all the same.
                try:
                    facts.content = await redacted(made, self.pool, self.policy(facts.policy).screening)
                except Exception:  # noqa: BLE001 - it is logged, and costs one span
                    self._failed("content cannot be redacted")
                facts.content_dropped = facts.content is None
                self._drafts.popleft()
                try:
                    self._put(facts)
                except Exception:  # noqa: BLE001 - it is logged, and costs one span
                    self._failed("a step cannot be told of")
                    self.dropped(1)

    # -- runs ----------------------------------------------------------------------------------------

    async def written(self, events: Iterable[tuple[str, bytes]]) -> None:
        """Take note of the runs that these events of the ledger end."""
        due = self.clock() + SETTLED_MS
        found = {}
        for run, status, policy, first in endings(raw for _, raw in events):
            if self._is_told(run, status, policy):
                # Not looked at in vain: a run of one step has called no tool.
                found[run] = due + self._gap_ms if first and status == "completed" else due
        if not found:
            return
        try:
            await self.ledger.note_endings(found)
        except (LedgerError, LedgerUnavailable) as error:
            log.warning(
                "traces: %d runs have ended and will have no span of their own: %s", len(found), error
            )

    @property
    def _gap_ms(self) -> int:
        """How long a run that has ended with a text may yet go on, when its agent speaks in text."""
        return int(self.policy("").runs.text_agent_gap_s * 1000)

    def _is_told(self, run: str, status: str, policy: str) -> bool:
        return status in STOPPED or is_sampled(run_context(run).trace, self._share(policy))

    def _share(self, policy: str) -> float:
        share = self.policy(policy).tracing.sample
        return self.share if share is None else share

    async def _watch_runs(self) -> None:
        forget_at = time.monotonic()
        while True:
            # Not all processes look at the same moment.
            await asyncio.sleep(LOOK_S * random.uniform(0.8, 1.2))
            try:
                await self._export_runs()
                if time.monotonic() >= forget_at:
                    forget_at = time.monotonic() + FORGET_EVERY_S
                    await self.ledger.forget_endings(self.clock() - KEPT_MS)
            except (LedgerError, LedgerUnavailable) as error:
                if not self._in_trouble:
                    log.warning("traces: runs that have ended cannot be read: %s", error)
                self._in_trouble = True
            except Exception:  # noqa: BLE001 - it is logged, and costs one span
                self._failed("runs that have ended cannot be told of")
            else:
                self._in_trouble = False

    async def _export_runs(self) -> None:
        """Tell of the runs that have ended and stayed so."""
        while True:
            now, gap = self.clock(), self._gap_ms
            found = await self.ledger.ended_runs(now, TOGETHER)
            going_on = [ended.run for ended in found if ended.status == "running"]
            waiting = [
                ended.run
                for ended in found
                if ended.status == "completed" and not ended.tool_calls and now < ended.status_at + gap
            ]
            await self.ledger.drop_endings(going_on)
            await self.ledger.wait_for_endings(waiting, now + gap + SETTLED_MS)
            over = {ended.run for ended in found} - {*going_on, *waiting}
            for run in await self.ledger.take_endings(sorted(over), now):
                await self._tell_run(run)
            if len(found) < TOGETHER:
                return

    async def _tell_run(self, run: Json) -> None:
        sampled = is_sampled(run_context(run["id"]).trace, self._share(str(run.get("policy") or "")))
        if not sampled and run["status"] not in STOPPED:
            return
        if not sampled:
            await self._tell_stored_steps(run)
        if run["status"] != "abandoned":
            run["ended_at"] = run["status_at"]
        self.exporter.put([run_span(run, self.conventions)])

    async def _tell_stored_steps(self, run: Json) -> None:
        rows: list[Json] = []
        cursor: str | None = None
        while len(rows) < MAX_STEPS_TOLD:
            page, cursor = await self.ledger.steps(run["id"], limit=_PAGE, cursor=cursor)
            rows += page
            if cursor is None:
                break
        for facts in stored_facts(run, rows):
            self._put(facts)


# -- facts from what a worker knows -------------------------------------------------------------------


def live_facts(ended: Ended) -> StepFacts:
    """What a request came to, as its worker saw it. The bodies of request and answer are let go."""
    turn, facts = ended.turn, ended.facts
    step, run = turn.step, turn.run
    base = turn.began_at * 1_000_000

    def at(clock: float) -> int:
        return base + int((clock - turn.clock) * 1e9)

    attempts = [_attempt_facts(one, at, ended.at) for one in ended.attempts]
    elsewhere = sum(
        (one.waited_ms + one.queued_ms) / 1000 + max(0.0, one.done_at - one.sent_at if one.sent_at else 0.0)
        for one in ended.attempts
    )
    own = [one for one in ended.attempts if one.inspect is None]
    results = turn.results
    first = ended.attempts[0].turn.run if ended.attempts else run
    error, refused = ended.error, None
    left = error is not None and error.left
    if error is not None and not left and not (error.upstream and attempts):
        refused = Refused(error.code)
        if (ruling := error.ruling) is not None:
            refused = Refused(error.code, ruling.rule, ruling.scope, ruling.limit, ruling.used)
    decisions = [d for one in own for d in one.decisions] if own else []
    gates = [d for one in own if one.gate is not None for d in one.gate.decisions]
    end = at(ended.at)
    return StepFacts(
        run=run.run_id,
        session=run.session,
        decision=facts.decision_id,
        ordinal=facts.step or 0,
        start=base,
        end=end,
        surface=step.surface.value,
        requested_model=step.model,
        stream=step.stream,
        request_id=facts.request_id,
        run_name=run.name,
        agent=turn.tags.get("agent"),
        key=turn.caller.key,
        user=turn.scopes.user,
        team=turn.caller.team,
        tags=turn.tags,
        policy=turn.policy,
        verdict=facts.verdict.value,
        params=_params(step.body, step.output_limit, step.choices),
        checks=tuple(facts.checks),
        decisions=_unique([*decisions, *gates]),
        findings=[found for one in ended.attempts for found in one.findings],
        results=() if first.retry_ordinal else tuple(results),
        # The store has counted from the run's latest answer to when it was asked for the run.
        results_from=at(ended.found_at or turn.clock) - run.idle_ms * 1_000_000,
        attempts=attempts,
        overhead_ms=max(0.0, ended.at - turn.clock - elsewhere) * 1000,
        refused=refused,
        left=left,
    )


def _unique(decisions: Sequence[Json]) -> list[Json]:
    """Attempts of one request share a list, which is to be told once."""
    return list({id(decision): decision for decision in decisions}.values())


def _attempt_facts(one: Attempt, at: Callable[[float], int], until: float) -> AttemptFacts:
    turn, end, route = one.turn, one.end, one.route
    answer = end.answer if end is not None else None
    # Of a whole answer the first byte is as good as the last.
    streams = turn.step.stream and one.inspect is None
    start = one.sent_at or one.done_at or turn.clock
    done = max(one.done_at or until, start)
    return AttemptFacts(
        id=one.attempt_id,
        provider=route.provider_name,
        model=route.upstream_model,
        outcome=one.outcome or "failed",
        start=at(start),
        end=at(done),
        url=str(route.provider.base_url),
        error=end.error if end is not None else None,
        status=one.status,
        usage={name: amount for name in USAGE_BUCKETS if (amount := getattr(one.usage, name))},
        cost=one.cost,
        saved=one.saved,
        ttft_ms=(one.first_at - one.sent_at) * 1000 if streams and one.first_at and one.sent_at else None,
        queued_ms=one.queued_ms,
        finish_reason=answer.finish_reason if answer is not None else None,
        response_id=answer.response_id if answer is not None else None,
        response_model=answer.model if answer is not None else None,
        kept=one.kept,
        aside=one.inspect is not None,
        called=[call.name for call in answer.calls[:32]] if answer is not None else (),
    )


def _params(body: Mapping[str, Any], limit: int | None, choices: int) -> dict[str, Value]:
    params: dict[str, Value] = {}
    if limit is not None:
        params["max_tokens"] = limit
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            params[name] = float(value)
    if choices > 1:
        params["choices"] = choices
    return params


# -- facts from the ledger ----------------------------------------------------------------------------


class Ending(NamedTuple):
    """A run's status by an event of the ledger, and the policy that governed the run."""

    run: str
    status: str
    policy: str
    first: bool
    """It ends with its first step."""


def endings(events: Iterable[bytes]) -> list[Ending]:
    """The runs that these ledger events put an end to, each by the last of them."""
    runs: dict[str, Ending] = {}
    for raw in events:
        if b'"run_status":"running"' in raw or b'"t":"refusal"' in raw:
            continue
        try:
            event = orjson.loads(raw)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(event, dict) or not isinstance(run := event.get("run"), str):
            continue
        status = event.get("run_status") if event.get("t") == "attempt" else event.get("status")
        meta = event.get("meta")
        policy = meta.get("policy") if isinstance(meta, dict) else None
        if isinstance(status, str) and status != "running":
            first = event.get("ordinal") == 1
            runs[run] = Ending(run, status, policy if isinstance(policy, str) else "", first)
    return list(runs.values())


def stored_facts(run: Json, rows: Sequence[Json]) -> list[StepFacts]:
    """The requests of a run as the ledger has them: attempts and refusals with one decision id are one."""
    found: dict[str, StepFacts] = {}
    answered = 0
    for row in rows:
        if row.get("provisional"):
            continue
        refusal = row["kind"] == "refusal"
        decision = str(row["id"] if refusal else row.get("decision") or row["id"])
        start, end = row["started_at"] * 1_000_000, row["ended_at"] * 1_000_000
        facts = found.get(decision)
        if facts is None:
            tags = row.get("tags") or {}
            facts = found[decision] = StepFacts(
                run=run["id"],
                session=row.get("session"),
                decision=decision,
                ordinal=row["ordinal"],
                start=start,
                end=end,
                surface=row.get("surface") or "chat",
                requested_model=row.get("requested_model") or "",
                stream=row.get("stream") is True,
                run_name=run.get("name"),
                agent=tags.get("agent"),
                key=row.get("key"),
                user=row.get("user"),
                team=row.get("team"),
                tags=tags,
                policy=str(row.get("policy") or run.get("policy") or ""),
                verdict=row.get("verdict") or "",
                results_from=answered or start,
            )
        facts.start, facts.end = min(facts.start, start), max(facts.end, end)
        facts.decisions = _objects(row.get("decisions")) or facts.decisions
        facts.findings = [*facts.findings, *_objects(row.get("findings"))]
        if results := _objects(row.get("tool_results")):
            facts.results = results
        if refusal:
            facts.refused = Refused(
                str(row.get("code") or "refused"),
                str(row.get("rule") or ""),
                str(row.get("scope") or ""),
                _whole(row.get("limit")),
                _whole(row.get("used")),
                str(row.get("decision") or "refuse"),
            )
            continue
        answered = max(answered, end)
        facts.overhead_ms = row.get("overhead_ms")
        latency, overhead = row.get("latency_ms") or 0.0, row.get("overhead_ms") or 0.0
        usage = row.get("usage")
        facts.attempts.append(
            AttemptFacts(
                id=row["id"],
                provider=row.get("provider") or "",
                model=row.get("model") or "",
                outcome=str(row.get("outcome") or "failed"),
                start=max(start, end - int(max(0.0, latency - overhead) * 1e6)),
                end=end,
                error=row.get("error"),
                status=row.get("http_status"),
                usage=usage if isinstance(usage, dict) else {},
                cost=row["cost"],
                saved=row["saved"],
                ttft_ms=row.get("ttft_ms") if facts.stream else None,
                queued_ms=row.get("queued_ms") or 0,
                finish_reason=row.get("finish_reason"),
                kept=row.get("cost_source") == "cache",
                called=[str(call.get("name")) for call in _objects(row.get("tool_calls"))],
            )
        )
    return list(found.values())


def _objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _whole(value: object) -> int:
    return value if type(value) is int else 0
