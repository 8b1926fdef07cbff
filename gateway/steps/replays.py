"""Steps that are answered with what was answered before, where the policy's `cache` says so.

    key ──► wait for whoever asks the same ──► kept: let in as a step that costs nothing, judged anew, told
            (or look for the same in other words) └► not kept: asked, and kept if it is fit to be given again

A kept answer saves the provider's call and nothing else: kills, limits and rates let the step in, contracts
and screening judge the answer for whoever gets it now, and the ledger has a step of cost 0. What may be kept
and who shares it is `gateway.steps.answer_cache`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar

import orjson

from gateway.admission import Kill
from gateway.domain import Headers, Json, Step, Surface, Verdict
from gateway.errors import GatewayError
from gateway.policy.sections.reuse import AnswerReuse, ExactCache, SemanticCache
from gateway.protocols import Clock
from gateway.rules.budgets import Scopes, applies
from gateway.rules.kills import kill_names
from gateway.rules.route import Route
from gateway.steps.answer_cache import (
    AnswerCache,
    AnswerKey,
    Embed,
    Recorder,
    Told,
    Wording,
    WordingCache,
    replayed,
)
from gateway.steps.asides import Asides
from gateway.steps.attempt import Attempt
from gateway.steps.delivery import Client, ClientLeftError, Reply
from gateway.steps.dispatch import Job
from gateway.steps.governor import Plan
from gateway.steps.live import LiveCalls
from gateway.steps.moderation import Moderator
from gateway.steps.sending import Trip
from gateway.steps.turn import Turn, new_id
from gateway.surfaces import CODECS
from gateway.translation.counts import chat_usage
from gateway.upstreams.dialects import wire_for
from gateway.values import frozen

log = logging.getLogger("gateway.replays")

EMBED_S = 5.0
"""How long an embedding may take before the step goes on without one."""
_ANSWERED = (Verdict.ALLOW, Verdict.REROUTE)
"""Verdicts of requests on which no rule had anything to say."""


@frozen
class Lookup:
    """Where the answer to a step may be kept."""

    exact: ExactCache | None = None
    key: AnswerKey | None = None
    """Of the same request; given with `exact`."""
    semantic: SemanticCache | None = None
    wording: Wording | None = None
    """What it asks in words; given with `semantic`."""
    embed: Embed | None = None


@dataclass(slots=True)
class Replays:
    """Finds and keeps answers. One per worker."""

    answers: AnswerCache
    wordings: WordingCache
    asides: Asides
    live: LiveCalls
    clock: Clock
    looked: Callable[[str, str], None]
    """Counts: (tier, outcome)."""

    def lookup(self, job: Job, plan: Plan, trip: Trip) -> Lookup | None:
        """Where the step's answer is kept; None when none is to be given or kept."""
        cache, turn = job.generation.policy.cache, job.turn
        exact, semantic = _on(cache.exact, turn.scopes), _on(cache.semantic, turn.scopes)
        if exact is None and semantic is None:
            return None
        if plan.notes or plan.flagged or job.facts.verdict not in _ANSWERED or turn.run.landed:
            return None
        if Moderator.rule(job) is not None:
            return None
        if job.output is not None and job.output.vault is not None:
            return None
        about: _About = {
            "policy": job.generation.version,
            "model": _served_by(trip.ask.route),
            "headers": job.call.headers,
            "withheld": plan.withheld,
        }
        key = self.answers.key(turn.step, turn.scopes, exact, **about) if exact is not None else None
        wording = None
        if semantic is not None:
            wording = self.wordings.wording(turn.step, turn.scopes, semantic, **about)
        if key is None and wording is None:
            return None
        job.facts.checks.append("cache")
        embed = _Embedding(self.asides, job, semantic.model) if semantic is not None else None
        return Lookup(exact, key, semantic, wording, embed)

    @asynccontextmanager
    async def known(self, job: Job, trip: Trip, lookup: Lookup) -> AsyncIterator[Json | None]:
        """The kept answer as this request gets it; None when the step is to be asked, and kept here inside.

        Waits for another request that asks the same. Raises `ClientLeftError` when nobody waits any more, and
        `guardrail_unavailable` when this process ends.
        """
        async with AsyncExitStack() as stack:
            reply: Json | None = None
            if lookup.exact is not None and lookup.key is not None:
                if lookup.exact.mode == "shadow":
                    found = await self.answers.get(lookup.key)
                else:
                    flight = self.answers.single(lookup.key)
                    reply = found = await _Waiting(job, trip.ask.route).enter(self.live, stack, flight)
                self._told(job, "exact", lookup.exact, is_kept=found is not None)
            if reply is None:
                reply = await self._in_other_words(job, lookup)
                trip.spent = job.facts.cost or 0
            step = job.turn.step
            yield None if reply is None else replayed(step.surface, reply, step.body, self.clock() // 1000)

    async def _in_other_words(self, job: Job, lookup: Lookup) -> Json | None:
        rule, wording, embed = lookup.semantic, lookup.wording, lookup.embed
        if rule is None or wording is None or embed is None:
            return None
        found = await self.wordings.find(wording, embed)
        self._told(job, "semantic", rule, is_kept=found is not None)
        if found is None:
            # Now, so that what it costs is told with the answer.
            await embed(wording.text)
        return found if rule.mode == "enforce" else None

    def _told(self, job: Job, tier: str, rule: AnswerReuse, *, is_kept: bool) -> None:
        decision = "hit" if is_kept else "miss"
        job.decisions.append({"rule": f"cache.{tier}", "mode": rule.mode, "decision": decision})
        self.looked(tier, "would_hit" if is_kept and rule.mode == "shadow" else decision)

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
        if lookup.exact is not None and lookup.key is not None:
            await self.answers.put(lookup.key, told, lookup.exact.ttl_s)
        if lookup.wording is not None and lookup.embed is not None:
            await self.wordings.put(lookup.wording, told, lookup.embed)


class _About(TypedDict):
    """What a key is about besides the request."""

    policy: str
    model: str
    headers: Mapping[bytes, bytes]
    withheld: Collection[str]


R = TypeVar("R", bound=AnswerReuse)


def _on(rule: R | None, scopes: Scopes) -> R | None:
    """A rule that holds for a step."""
    return rule if rule is not None and rule.mode != "off" and applies(rule.match, scopes) else None


@dataclass(slots=True)
class _Embedding:
    """Asks for the embedding of one text, once."""

    asides: Asides
    job: Job
    model: str
    vector: Sequence[float] | None = None
    is_asked: bool = False

    async def __call__(self, text: str) -> Sequence[float] | None:
        """See `answer_cache.Embed`. A kill or a limit that does not let this in is met again by the step."""
        if self.is_asked:
            return self.vector
        self.is_asked = True
        try:
            step = CODECS[Surface.EMBEDDINGS].parse(orjson.dumps({"model": self.model, "input": text}))
            route = self.asides.route(self.job, self.model)
            await self.asides.ask(
                self.job,
                self._turn(step),
                step,
                route,
                wire_for(route, Surface.EMBEDDINGS),
                read=self._read,
                ordinal=self._ordinal,
                timeout_s=EMBED_S,
            )
        except ClientLeftError:
            raise
        except GatewayError as error:
            log.warning("model %s made no embedding: %s", self.model, error)
        return self.vector

    @property
    def _ordinal(self) -> int:
        """Of a step that the run has had; 0 for its first."""
        run = self.job.turn.run
        return run.retry_ordinal or run.steps

    def _turn(self, step: Step) -> Turn:
        turn, lineage = self.job.turn, self.asides.dispatcher.machinery.lineage
        retry_key = turn.retry_key
        if turn.run.steps and not turn.run.retry_ordinal:
            # The step itself has not begun: what is asked now must not be taken for it.
            retry_key = lineage.key(turn.caller.id, "ask", new_id("ask"))
        scopes = replace(turn.scopes, model=step.model)
        return replace(turn, step=step, scopes=scopes, retry_key=retry_key, stored_tokens=0, results=[])

    def _read(self, reply: Json) -> list[Json]:
        data = reply.get("data")
        first = data[0] if isinstance(data, list) and data else None
        vector = first.get("embedding") if isinstance(first, dict) else None
        self.vector = vector if isinstance(vector, list) else None
        return []


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
        if self.job.client.left:
            raise ClientLeftError
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
