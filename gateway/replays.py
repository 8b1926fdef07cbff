"""Steps that are answered with what was answered before, where the policy's `cache` says so.

    key ──► wait for whoever asks the same ──► kept: let in as a step that costs nothing, judged anew, told
                                           └─► not kept: asked, and kept if it is fit to be given again

A kept answer saves the provider's call and nothing else: kills, limits and rates let the step in, contracts
and screening judge the answer for whoever gets it now, and the ledger has a step of cost 0. What may be kept
and who shares it is `gateway.answer_cache`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import orjson

from gateway.admission import Kill
from gateway.answer_cache import AnswerCache, AnswerKey, Recorder, Told, replayed
from gateway.attempt import Attempt, Client, ClientLeftError, Reply
from gateway.dispatch import Job
from gateway.domain import Headers, Json, Surface, Verdict
from gateway.errors import GatewayError
from gateway.governor import Plan
from gateway.live import LiveCalls
from gateway.moderation import Moderator
from gateway.policy.models import AnswerReuse
from gateway.protocols import Clock
from gateway.rules.budgets import applies
from gateway.rules.kills import kill_names
from gateway.rules.route import Route
from gateway.sending import Trip
from gateway.translation.counts import chat_usage
from gateway.turn import new_id
from gateway.values import frozen

EXACT = "exact"
_ANSWERED = (Verdict.ALLOW, Verdict.REROUTE)
"""Verdicts of requests on which no rule had anything to say."""


@frozen
class Lookup:
    """Where the answer to a step is kept."""

    key: AnswerKey
    rule: AnswerReuse


@dataclass(slots=True)
class Replays:
    """Finds and keeps answers. One per worker."""

    answers: AnswerCache
    live: LiveCalls
    clock: Clock
    looked: Callable[[str, str], None]
    """Counts: (tier, outcome)."""

    def lookup(self, job: Job, plan: Plan, trip: Trip) -> Lookup | None:
        """Where the step's answer is kept; None when none is to be given or kept."""
        policy, turn, route = job.generation.policy, job.turn, trip.ask.route
        rule = policy.cache.exact if policy.cache is not None else None
        if rule is None or rule.mode == "off" or not applies(rule.match, turn.scopes):
            return None
        if plan.notes or plan.flagged or job.facts.verdict not in _ANSWERED or turn.run.landed:
            return None
        if policy.auth.mode == "passthrough" or Moderator.rule(job) is not None:
            return None
        if job.output is not None and job.output.vault is not None:
            return None
        key = self.answers.key(
            turn.step,
            turn.scopes,
            rule,
            policy=job.generation.version,
            model=_served_by(route),
            headers=job.call.headers,
            withheld=plan.withheld,
        )
        if key is None:
            return None
        job.facts.checks.append("cache")
        return Lookup(key, rule)

    @asynccontextmanager
    async def known(self, job: Job, trip: Trip, lookup: Lookup) -> AsyncIterator[Json | None]:
        """The kept answer as this request gets it; None when the step is to be asked, and kept here inside.

        Waits for another request that asks the same. Raises `ClientLeftError` when nobody waits any more, and
        `guardrail_unavailable` when this process ends.
        """
        if lookup.rule.mode == "shadow":
            self._told(job, lookup, is_kept=await self.answers.get(lookup.key) is not None)
            yield None
            return
        async with AsyncExitStack() as stack:
            reply = await _Waiting(job, trip.ask.route).enter(
                self.live, stack, self.answers.single(lookup.key)
            )
            self._told(job, lookup, is_kept=reply is not None)
            step = job.turn.step
            yield None if reply is None else replayed(step.surface, reply, step.body, self.clock() // 1000)

    def _told(self, job: Job, lookup: Lookup, *, is_kept: bool) -> None:
        mode = lookup.rule.mode
        decision = "hit" if is_kept else "miss"
        job.decisions.append({"rule": f"cache.{EXACT}", "mode": mode, "decision": decision})
        self.looked(EXACT, "would_hit" if is_kept and mode == "shadow" else decision)

    @staticmethod
    def record(job: Job) -> Recorder | None:
        """Reads along what the client of a stream is told from now on; None for a plain answer."""
        if not job.turn.step.stream:
            return None
        recorder = Recorder(job.turn.step.surface)
        job.client = _Overheard(job.client, recorder)
        return recorder

    async def keep(
        self, job: Job, lookup: Lookup, trip: Trip, result: Reply | None, recorder: Recorder | None
    ) -> None:
        """Keep what the client has been told, if it is fit to be given again. `trip` is the way that the step
        took first, `result` what became of it."""
        attempt = trip.attempt
        if attempt is None or attempt.outcome != "ok" or job.client.left:
            return
        reply = _plain_reply(result) if result is not None else _streamed(recorder, attempt)
        if reply is None:
            return
        told = Told(
            reply,
            model=_served_by(attempt.route),
            verdict=job.facts.verdict,
            edited=attempt.edited or any(finding.get("mode") == "enforce" for finding in attempt.findings),
            again=attempt.withheld is not None or attempt.lands is not None,
        )
        await self.answers.put(lookup.key, told, lookup.rule.ttl_s)


def _served_by(route: Route) -> str:
    return f"{route.provider_name}/{route.upstream_model}"


def _plain_reply(result: Reply) -> Json | None:
    try:
        reply = orjson.loads(result.body) if result.status == 200 else None
    except orjson.JSONDecodeError:
        return None
    return reply if isinstance(reply, dict) else None


def _streamed(recorder: Recorder | None, attempt: Attempt) -> Json | None:
    reply = recorder.reply(attempt.told_usage) if recorder is not None else None
    if reply is not None and "usage" not in reply and attempt.turn.step.surface is Surface.CHAT:
        # A stream that was translated has none unless its client has asked for it.
        reply = {**reply, "usage": chat_usage(attempt.usage)}
    return reply


@dataclass(slots=True)
class _Waiting:
    """A request that waits for the answer to another: stopped as a call in flight is, and alone."""

    job: Job
    route: Route
    attempt_id: str = ""
    kill_names: frozenset[str] = frozenset()
    _task: asyncio.Task[object] | None = None
    _why: GatewayError | None = None
    _is_killed: bool = False

    async def enter(
        self, live: LiveCalls, stack: AsyncExitStack, flight: AbstractAsyncContextManager[Json | None]
    ) -> Json | None:
        """What is known when the wait is over. A kill ends it: the step is then refused when it wants in."""
        turn = self.job.turn
        self.attempt_id = new_id("wait")
        self.kill_names = frozenset(
            kill_names(
                turn.scopes, turn.run.name, self.route.upstream_model, turn.caller.id, turn.hints.parent
            )
        )
        self._task = asyncio.current_task()
        live.add(self)
        self.job.client.on_leave(self._left)
        try:
            return await stack.enter_async_context(flight)
        except asyncio.CancelledError:
            if self._task is None or not (self._is_killed or self._why is not None):
                raise
            self._task.uncancel()
            if self._why is not None:
                raise self._why from None
            return None
        finally:
            self.job.client.on_leave(None)
            live.remove(self)

    def stop(self, kill: Kill) -> None:
        """See `live.Stoppable`."""
        del kill
        self._is_killed = True
        self._cancel()

    def shut_down(self) -> None:
        """See `live.Stoppable`."""
        self._why = GatewayError(
            "guardrail_unavailable", "This gateway process is shutting down; ask again.", retry_after_s=1
        )
        self._cancel()

    def _left(self) -> None:
        self._why = ClientLeftError()
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()


@dataclass(slots=True)
class _Overheard:
    """A client whose stream is read along."""

    client: Client
    recorder: Recorder

    @property
    def left(self) -> bool:
        """See `attempt.Client`."""
        return self.client.left

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """See `attempt.Client`."""
        self.client.on_leave(callback)

    async def start(self, status: int, headers: Headers) -> None:
        """See `attempt.Client`."""
        await self.client.start(status, headers)

    async def send(self, data: bytes) -> None:
        """See `attempt.Client`."""
        self.recorder.feed(data)
        await self.client.send(data)

    async def end(self) -> None:
        """See `attempt.Client`."""
        await self.client.end()

    def cut(self) -> None:
        """See `attempt.Client`."""
        self.client.cut()
