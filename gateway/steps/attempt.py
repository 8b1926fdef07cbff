"""One attempt at an upstream: sent, metered while it answers, ended exactly once.

An attempt ends in one of `ok failed disconnected cut killed stopped`, and whatever the ending, it is
settled: at the provider's usage where that came, else at input plus what was counted, else, where nothing
can be counted, at what was reserved. Settling is shielded from cancellation and happens before the last
byte goes out, so that the next request of the run finds everything as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote as quote_url

import orjson

from gateway.admission import Admitted, Ending, Kill
from gateway.domain import (
    Answer,
    Headers,
    Json,
    Nano,
    RunStatus,
    ToolCall,
    Usage,
    Verdict,
    usd,
    usd_about,
)
from gateway.errors import GatewayError, Refusal, Ruling, StoreUnavailable, UpstreamError
from gateway.journal import JournalUnavailable
from gateway.metering.estimate import (
    GENERATES_NOTHING,
    Quote,
)
from gateway.metering.prices import MTOK
from gateway.metering.usage import read_usage
from gateway.policy.sections.operations import Server
from gateway.rules.kills import parse_kill_name
from gateway.rules.lineage import Lineage
from gateway.rules.route import Route, Router
from gateway.steps.background import Background
from gateway.steps.booking import Ended, Outcome, bill, settlement_of, with_flight
from gateway.steps.delivery import Client, ClientLeftError, Gate, Reply, Withheld
from gateway.steps.live import LiveCalls
from gateway.steps.provider_state import Held, ProviderState
from gateway.steps.relay import Relay, plain_answer
from gateway.steps.settling import Settler
from gateway.steps.tool_kills import ToolKills
from gateway.steps.turn import Facts, Turn
from gateway.surfaces import CODECS
from gateway.surfaces.sse import EventTooLargeError
from gateway.upstreams import headers as header_rules
from gateway.upstreams.capacity import CallerGone, Capacity, Overloaded, Priority, Slot
from gateway.upstreams.dialects import Wire
from gateway.upstreams.replies import (
    MAX_REPLY_BYTES,
    content_type,
    decoded,
    ensure_passable,
    is_error,
    is_event_stream,
    is_short_json,
    parse_object,
)
from gateway.upstreams.transport import (
    Transport,
    TransportError,
    UnsendableError,
    UpstreamReply,
    UpstreamRequest,
)
from gateway.values import frozen

if TYPE_CHECKING:
    from gateway.steps.screens import Output

log = logging.getLogger("gateway.attempt")

_CUT_SHORT = frozenset({"length", "max_tokens", "max_output_tokens"})
"""Finish reasons of an answer that reached its output limit."""
ALIVE_S = 5.0
"""How often a client whose stream waits for a decision hears that it is not forgotten."""

LONG_ANSWER_BYTES = 16 * 1024
"""A plain answer over so many bytes is screened beside the event loop."""
EXTENSION_TOKENS = 512
"""A stream that outgrows its reservation asks for so much more at a time; a budget can be overshot by at
most one such slice per open stream."""
BYTES_PER_TOKEN = 3
"""Received output is priced by this while a stream runs: more tokens than almost any text has."""
AFTER_FINISH_S = 1.0
"""How long a stream whose answer is complete may take for its usage and its end."""
AFTER_LAST_S = 0.25
"""How long a stream is read after its last event, for its connection to be used again."""


Fault = Literal["", "busy", "connect", "lost", "timeout", "status", "broken", "credentials", "garbled"]
"""How a provider fails: it has no slot for the call, it cannot be reached, the connection is lost before an
answer, no answer in time, an answer of 5xx, one that breaks off, one that rejects the gateway's credentials,
one that is none."""


_REJECTED = Withheld((), repairable=False, code="")


@frozen
class Undelivered:
    """An answer that was paid for and whose tool calls the client does not get."""

    attempt: Attempt
    answer: Answer
    withheld: Withheld
    turn: Json
    """The model's turn as a plain reply of its provider's surface."""
    relay: Relay | None
    """The stream that the rest of the answer belongs into; None for a plain answer."""
    head: Headers | None
    """Headers of that stream, while the client has not received them."""
    unsent: bytes
    """What of the stream comes before the calls and was not sent yet."""


@dataclass(slots=True)
class Machinery:
    """What every attempt works with; one per worker."""

    settler: Settler
    live: LiveCalls
    lineage: Lineage
    provider_state: ProviderState
    background: Background
    capacity: Capacity
    worker: str
    record: Callable[[Attempt, Outcome], None]
    notify: Callable[[str, dict[str, Any]], None]
    """Tells operators: (kind, facts)."""


@dataclass(slots=True)
class Attempt:
    """`run_plain` or `run_stream` does everything; both raise `GatewayError` before the first byte."""

    attempt_id: str
    kill_names: frozenset[str]
    machinery: Machinery
    router: Router
    route: Route
    transport: Transport
    request: UpstreamRequest
    wire: Wire
    turn: Turn
    facts: Facts
    quote: Quote
    admitted: Admitted
    server: Server
    final_tools: Collection[str]
    """Tools by which an agent gives its final answer: calling them ends the run as a text does."""
    strips_usage: bool
    base_event: dict[str, Any]
    tightest: Callable[[Nano], Any]
    """Asks the store which budget has no room for an amount: an awaitable `Ruling` or None."""
    tool_kills: ToolKills
    reserve_tokens: int
    """Output tokens per choice that the reservation pays for."""
    clamped: bool = False
    """The output limit sent upstream is less than the answer was to have: a budget could pay no more."""
    gate: Gate | None = None
    lands: Ending | None = None
    """This is the last step of its run, for this reason."""
    decisions: list[Json] = field(default_factory=list)
    """What rules decided about the step before it was sent."""
    keep: Callable[[Answer], bytes] | None = None
    """What the run has done when it has got this answer, to be kept in the store."""
    review: Callable[[Answer], list[Json]] | None = None
    """What is to be said about a final answer, as findings."""
    output: Output | None = None
    """What the answer's texts have to pass; None when they may leave as they come."""
    findings: list[Json] = field(default_factory=list)
    """What was found in the request's texts, and in the answer."""
    inspect: Callable[[Json], list[Json]] | None = None
    """Reads the reply of an attempt that is no part of the conversation."""
    closes: bool = False
    """With `inspect`: the run was complete before, and is again after it."""
    guard: Callable[[Answer, bool], str | None] | None = None
    """Why an answer is not good enough to be delivered; None when it is. Of whole answers alone; told whether
    the gateway itself has limited its length."""
    instead_of: Route | None = None
    """Where the step would have gone at its full price; what it costs less is saved."""
    rejected: str = ""
    """Why the answer was not good enough: it leaves no trace, and another is fetched."""
    kept: bool = False
    """Its answer is one that was kept, and is given once more: nothing is sent."""
    worth: Nano = 0
    """What a kept answer would have cost."""
    outcome: Outcome | None = None
    """How it ended, once it is settled."""
    edited: bool = False
    """Screening has changed what its stream said."""
    waited_ms: int = 0
    """How long the answer waited for a person."""
    priority: Priority = "normal"
    """Of its place in the queue before a provider that is busy."""
    queued_ms: int = 0
    """How long it waited in that queue."""
    withheld: Withheld | None = None
    spent_before: Nano = 0
    """What earlier attempts of the same step have cost, of which the client is told the sum."""
    reserved: Nano = 0
    covered_tokens: int = 0
    """Output tokens of all choices that are reserved for by now."""
    kill: Kill | None = None
    wants_cancel: bool = False
    settled: bool = False
    run_completed: bool = False
    """The run ended with this answer."""
    given: Answer | None = None
    """The answer as its provider gave it, before anything of it was screened."""
    calls: tuple[ToolCall, ...] = ()
    """The tool calls of the answer."""
    usage: Usage = field(default_factory=Usage)
    cost: Nano = 0
    end: Ended | None = None
    """How it ended, once it is settled."""
    saved: Nano = 0
    """What this costs less than where the step was to go; negative when it costs more."""
    sent_at: float = 0.0
    first_at: float = 0.0
    done_at: float = 0.0
    status: int | None = None
    fault: Fault = ""
    """How the provider failed; empty while it has not."""
    heard: bool = False
    """Something of an answer has come, so the provider may have done, and billed, all of it."""
    _slot: Slot | None = None
    _reply: UpstreamReply | None = None
    _relay: Relay | None = None
    _followed: str = ""
    """Id of the answer that the provider works on in the background."""
    _stir: asyncio.Event | None = None
    _roused: asyncio.Event | None = None
    """Set when nobody waits for a decision any more."""
    _task: asyncio.Task[Any] | None = None
    _client_left: bool = False
    _shutting_down: bool = False

    # -- being interrupted --------------------------------------------------------------------------

    def stop(self, kill: Kill) -> None:
        """An operator's stop: end the call wherever it is."""
        if self.kill is None and not self.settled:
            self.kill = kill
            self.wants_cancel = True
            self._rouse()
            self._interrupt()

    def shut_down(self) -> None:
        """This process ends: so does the call, in a way that its client may retry."""
        if not self.settled:
            self._shutting_down = True
            self._rouse()
            self._interrupt()

    def client_left(self) -> None:
        """The caller has gone."""
        self._client_left = True
        self._rouse()
        if self.server.on_disconnect == "drain":
            return
        if self._relay is not None and self._relay.upstream.finished:
            # The answer is complete and its usage on the way: worth a moment, for it makes the bill exact.
            asyncio.get_running_loop().call_later(AFTER_FINISH_S, self._interrupt)
        else:
            self._interrupt()

    def _rouse(self) -> None:
        if self._roused is not None:
            self._roused.set()

    def _interrupt(self) -> None:
        if self._stir is not None:
            self._stir.set()
        if self._reply is not None:
            self._reply.abort()
        elif self._task is not None:
            self._task.cancel()

    # -- upstream -----------------------------------------------------------------------------------

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the provider wants to be asked again, as it says."""
        return header_rules.retry_after_s(self._reply.headers) if self._reply is not None else None

    async def _send(self) -> UpstreamReply:
        """The response head, or the reason why there is none, already settled."""
        machinery = self.machinery
        self.reserved = self.admitted.reserved
        self.covered_tokens = min(self.reserve_tokens, self.admitted.output_tokens) * self.quote.choices
        self._task = asyncio.current_task()
        await self._open()
        if self._client_left and self.server.on_disconnect == "abort":
            await self._end_unanswered(True, "disconnected")
            raise ClientLeftError
        machinery.live.add(self)
        try:
            await self._queue()
            self.sent_at = time.perf_counter()
            reply = await self.transport.send(self.request)
        except TransportError as error:
            await self._end_unanswered(error.phase == "connect", "failed")
            raise self._upstream_error(error) from error
        except UnsendableError as error:
            await self._end_unanswered(True, "failed")
            raise GatewayError("invalid_request", "The request cannot be sent upstream.") from error
        except asyncio.CancelledError:
            await self._end_unanswered(self._slot is None, self._interrupted_outcome())
            if self._task is not None and (self.kill or self._shutting_down or self._client_left):
                self._task.uncancel()
                raise self._interruption() from None
            raise
        self._reply = reply
        self.status = reply.status
        machinery.capacity.learn(
            self.route.provider_name, self.route.upstream_model, reply.status, reply.headers, time.time()
        )
        gone = self._client_left and self.server.on_disconnect == "abort"
        if self.kill is not None or self._shutting_down or gone:
            reply.abort()
        return reply

    async def _open(self) -> None:
        """Put on record that the attempt begins."""
        try:
            self.machinery.settler.journal.opened(
                self.attempt_id,
                self.admitted.ordinal,
                self.reserved,
                self.admitted.holds,
                self.base_event["orphan"],
            )
        except JournalUnavailable as error:
            # What is not on record must not be sent; its reservation goes back at once.
            await self._settle("failed", Usage(), 0, "provider", error="guardrail_unavailable")
            raise GatewayError(
                "guardrail_unavailable", "The gateway cannot write its journal.", retry_after_s=2
            ) from error

    async def _queue(self) -> None:
        """Wait for a slot at the provider. Raises `Overloaded` where there is none in time."""
        try:
            self._slot = await self.machinery.capacity.acquire(
                self.route.provider_name,
                self.route.provider,
                owner=self.turn.caller.id,
                priority=self.priority,
                left=lambda: self._client_left and self.server.on_disconnect == "abort",
            )
        except CallerGone:
            await self._end_unanswered(True, "disconnected")
            raise ClientLeftError from None
        except Overloaded as error:
            await self._settle("failed", Usage(), 0, "provider", error=error.code)
            self.fault = "busy"
            raise
        self.queued_ms = self._slot.waited_ms

    def _let_go(self) -> None:
        """The provider is done with the call: the next one may have its slot."""
        if self._slot is not None:
            self._slot.release()

    async def _end_unanswered(self, nothing_sent: bool, outcome: Outcome) -> None:
        """No response came: it cost nothing if nothing was sent, else nothing can be counted."""
        error = "upstream_unavailable" if outcome == "failed" else None
        if nothing_sent:
            await self._settle(outcome, Usage(), 0, "provider", error=error)
        else:
            await self._settle(outcome, Usage(source="missing"), self.reserved, "reserved", error=error)

    def _interrupted_outcome(self) -> Outcome:
        if self.kill is not None:
            return "killed"
        return "cut" if self._shutting_down else "disconnected"

    def _interruption(self) -> GatewayError:
        if self.kill is not None:
            return killed(self.kill, self.turn.run.run_id)
        if self._shutting_down:
            return GatewayError(
                "guardrail_unavailable", "This gateway process is shutting down; ask again.", retry_after_s=1
            )
        return ClientLeftError()

    def _upstream_error(self, error: TransportError) -> GatewayError:
        interrupted = self._client_left or self._shutting_down
        if self.kill is not None or (error.kind == "aborted" and interrupted):
            return self._interruption()
        name = self.route.provider_name
        if error.phase == "body":
            self.fault = "broken"
        elif error.phase == "connect":
            self.fault = "connect"
        else:
            self.fault = "timeout" if error.kind == "timeout" else "lost"
        if error.kind == "timeout" and error.phase != "connect":
            return UpstreamError("upstream_timeout", f"Provider {name!r} did not answer in time.")
        if error.phase == "body":
            return UpstreamError(
                "upstream_stream_interrupted", f"The answer of provider {name!r} broke off before its end."
            )
        return UpstreamError(
            "upstream_unavailable", f"Provider {name!r} cannot be reached ({error.kind}).", retry_after_s=1
        )

    # -- plain --------------------------------------------------------------------------------------

    async def run_plain(self, client: Client) -> Reply | Undelivered | None:
        """Send, read the whole answer, settle. None when the answer turned out to be a stream and has
        been sent to the client already."""
        client.on_leave(self.client_left)
        try:
            reply = await self._send()
            streams = self.wire.surface not in GENERATES_NOTHING and is_event_stream(reply.headers)
            if streams and reply.status == 200:
                return await self._stream(client, reply)
            return await self._plain(reply)
        finally:
            self._let_go()
            client.on_leave(None)
            if not self._followed:
                self.machinery.live.remove(self)

    async def _plain(self, reply: UpstreamReply) -> Reply | Undelivered:
        try:
            body = await reply.read(MAX_REPLY_BYTES)
        except TransportError as error:
            self.heard = True
            billed = reply.status < 400
            await self._settle(
                self._outcome("cut"),
                Usage(source="missing"),
                self.reserved if billed else 0,
                "reserved" if billed else "provider",
                error="upstream_stream_interrupted",
            )
            raise self._upstream_error(error) from error
        finally:
            await reply.aclose()
        self.done_at = self.first_at = time.perf_counter()
        self._let_go()
        if reply.status >= 300:
            await self._settle("failed", Usage(), 0, "provider", error=f"upstream_{reply.status}")
            return self._provider_error(reply, body)
        parsed = parse_object(body, reply.headers)
        if parsed is None:
            await self._settle(
                "failed", Usage(source="missing"), self.reserved, "reserved", error="upstream_unavailable"
            )
            if content_type(reply.headers).startswith(b"text/plain"):
                return self._whole(reply, body)
            self.fault = "garbled"
            raise UpstreamError(
                "upstream_unavailable",
                f"Provider {self.route.provider_name!r} answered with something that is no JSON object.",
                status=502,
            )
        if is_error(parsed):
            await self._settle("failed", Usage(), 0, "provider", error="upstream_error")
            return self._whole(reply, body)
        answer, shown = plain_answer(self.wire, self.turn.step, parsed)
        self.given = answer
        if answer.background and answer.response_id is not None:
            await self._keep(answer)
            self._follow(answer.response_id)
            return self._whole(reply, body)
        spent = bill(self, read_usage(self.wire.surface, parsed), answer)
        passed = await self._passed(parsed, answer, shown, len(body), spent)
        if isinstance(passed, Undelivered):
            return passed
        return self._whole(reply, body if passed is None else orjson.dumps(passed), anew=passed is not None)

    async def run_kept(self, client: Client, reply: Json) -> Json | Undelivered:
        """Give an answer that is kept, in the words of the client's surface, instead of sending anything.
        What judges answers judges it anew. Raises as `run_plain`."""
        client.on_leave(self.client_left)
        try:
            await self._open()
            self.machinery.live.add(self)
            answer = self.given = CODECS[self.turn.step.surface].read_answer(reply)
            at_no_cost = (Usage(source="provider"), 0, "cache")
            passed = await self._passed(reply, answer, None, len(orjson.dumps(reply)), at_no_cost)
            if self.kill is not None:
                raise self._interruption()
        finally:
            client.on_leave(None)
            self.machinery.live.remove(self)
        self.facts.cost = self.spent_before + self.cost
        return reply if passed is None else passed

    async def _passed(
        self, parsed: Json, answer: Answer, shown: Json | None, size: int, spent: tuple[Usage, Nano, str]
    ) -> Undelivered | Json | None:
        """Screen and judge a whole answer of `size` bytes, and settle. The reply as it has to be written anew
        for the client; None when it may leave as it came."""
        usage, cost, source = spent
        if self.output is not None:
            try:
                given = (self.turn.step.surface, parsed if shown is None else shown)
                if size > LONG_ANSWER_BYTES:
                    # Other steps get their turn meanwhile.
                    screened = await asyncio.to_thread(self.output.plain, *given)
                else:
                    screened = self.output.plain(*given)
            except Refusal as error:
                await self._settle("stopped", usage, cost, source, answer=answer, error=error.code)
                raise
            if screened is not None:
                shown = screened
                answer = CODECS[self.turn.step.surface].read_answer(shown)
                self.facts.verdict = Verdict.REDACT
        if self.inspect is not None:
            self.findings += self.inspect(parsed)
        refusal = self.tool_kills.refusal((c.name for c in answer.calls), self.turn.run.run_id)
        if refusal is not None:
            await self._settle("stopped", usage, cost, source, answer=answer, error=refusal.code)
            try:
                raise refusal
            finally:
                del refusal  # It holds this frame.
        outcome: Outcome = "failed" if parsed.get("status") == "failed" else self._outcome("ok")
        if self.guard is not None and (why := self.guard(answer, self.clamped)) is not None:
            self.rejected, self.withheld = why, _REJECTED
            await self._settle(outcome, usage, cost, source, answer=answer)
            return Undelivered(self, answer, _REJECTED, parsed, None, None, b"")
        try:
            self.withheld = await self._judge(answer, None)
        except GatewayError as error:
            await self._settle(
                self._failure_outcome(error), usage, cost, source, answer=answer, error=error.code
            )
            raise
        await self._settle(outcome, usage, cost, source, answer=answer)
        if self.withheld is not None:
            return Undelivered(self, answer, self.withheld, parsed, None, None, b"")
        return shown

    def _whole(self, reply: UpstreamReply, body: bytes, *, anew: bool = False) -> Reply:
        self.facts.cost = self.spent_before + self.cost
        headers = header_rules.to_client(reply.headers)
        if anew:
            headers = [pair for pair in headers if pair[0] != b"content-encoding"]
        return Reply(reply.status, self.facts.headers(headers), body)

    def _provider_error(self, reply: UpstreamReply, body: bytes) -> Reply:
        """A provider's own refusal: its words to the caller, unless they concern the gateway's own
        credentials or are an outage."""
        if reply.status >= 500:
            self.fault = "status"
        try:
            ensure_passable(reply.status, self.route.provider_name, self.turn.caller, self.machinery.notify)
        except UpstreamError as error:
            self.fault = "credentials" if error.code == "upstream_credentials_rejected" else "status"
            raise
        given = [*header_rules.to_client(reply.headers), *header_rules.retry_advice(reply.headers)]
        if self.wire.translation is not None:
            body = self.wire.translation.error(reply.status, decoded(body, reply.headers) or b"")
            given = [pair for pair in given if pair[0] != b"content-encoding"]
        return Reply(reply.status, self.facts.headers(given), body)

    # -- anything else ------------------------------------------------------------------------------

    async def run_opaque(self, client: Client) -> Reply | None:
        """Send, and hand on what comes without reading it. It costs what the policy declares for a request,
        unless the provider refuses it. A `Reply` for a short JSON answer or a refusal, else None."""
        client.on_leave(self.client_left)
        try:
            reply = await self._send()
            if reply.status >= 300 or is_short_json(reply.headers):
                return await self._opaque_reply(reply)
            await self._opaque_stream(client, reply)
            return None
        finally:
            self._let_go()
            client.on_leave(None)
            self.machinery.live.remove(self)

    async def _opaque_reply(self, reply: UpstreamReply) -> Reply:
        cost = self.route.rates.cost(Usage()) if reply.status < 300 else 0
        try:
            body = await reply.read(MAX_REPLY_BYTES)
        except TransportError as error:
            await self._settle(
                self._outcome("cut"), Usage(), cost, "policy", error="upstream_stream_interrupted"
            )
            raise self._upstream_error(error) from error
        finally:
            await reply.aclose()
        self.done_at = self.first_at = time.perf_counter()
        if reply.status >= 300:
            await self._settle("failed", Usage(), 0, "policy", error=f"upstream_{reply.status}")
            return self._provider_error(reply, body)
        made = parse_object(body, reply.headers)
        made_id = made.get("id") if made is not None else None
        state = (made_id,) if isinstance(made_id, str) else ()
        await self._settle(self._outcome("ok"), Usage(), cost, "policy", answer=Answer(state=state))
        return self._whole(reply, body)

    async def _opaque_stream(self, client: Client, reply: UpstreamReply) -> None:
        cost = self.route.rates.cost(Usage())
        self.first_at = time.perf_counter()
        await client.start(reply.status, self._stream_headers(reply))
        try:
            async for chunk in reply.chunks():
                await client.send(chunk)
        except TransportError as error:
            failure = self._upstream_error(error)
            outcome = self._failure_outcome(failure)
            await self._settle(outcome, Usage(), cost, "policy", error=failure.code)
            # There is no grammar to say it in: the connection breaks, which no client takes for the end.
            client.cut()
            return
        except BaseException:
            reply.abort()
            await self._settle("disconnected", Usage(), cost, "policy")
            raise
        finally:
            await reply.aclose()
        self.done_at = time.perf_counter()
        await self._settle(self._outcome("ok"), Usage(), cost, "policy", answer=Answer())
        await client.end()

    # -- streams ------------------------------------------------------------------------------------

    async def run_stream(self, client: Client) -> Reply | Undelivered | None:
        """Send and pass the answer on as it comes. A `Reply` when the provider did not stream."""
        client.on_leave(self.client_left)
        try:
            reply = await self._send()
            if reply.status != 200 or not is_event_stream(reply.headers):
                return await self._plain(reply)
            return await self._stream(client, reply)
        finally:
            self._let_go()
            client.on_leave(None)
            if not self._followed:
                self.machinery.live.remove(self)

    async def _stream(self, client: Client, reply: UpstreamReply) -> Undelivered | None:
        """Pass a stream on as it comes. Tool calls that have to be judged first are held back whole."""
        holds = self.gate is not None or (self.clamped and bool(self.turn.step.tools))
        relay = self._relay = Relay(
            self.wire, self.turn.step, strip_usage=self.strips_usage, hold=holds, output=self.output
        )
        parser = relay.upstream
        started = False
        out = b""
        failure: GatewayError | None = None
        try:
            async for chunk in reply.chunks():
                self.heard = True
                out += relay.feed(chunk)
                if out and not self.first_at:
                    self.first_at = time.perf_counter()
                if parser.done:
                    break
                if not out and not relay.holding:
                    continue
                if parser.tools_called:
                    failure = self.tool_kills.refusal(parser.tools_called, self.turn.run.run_id)
                    if failure is not None:
                        reply.abort()
                        break
                if parser.output_bytes > self.covered_tokens * BYTES_PER_TOKEN:
                    failure = await self._extend(parser.output_bytes)
                    if failure is not None:
                        reply.abort()
                        break
                if out and not self._client_left:
                    if not started:
                        started = True
                        await client.start(200, self._stream_headers(reply))
                    await client.send(out)
                out = b""
        except TransportError as broken:
            failure = self._upstream_error(broken)
        except EventTooLargeError:
            reply.abort()
            failure = self._broken("sent an event without end")
        except Refusal as error:
            reply.abort()
            failure = error
        except BaseException:
            reply.abort()
            await self._settle_stream("disconnected", relay, None)
            raise
        if failure is None and self.kill is not None:
            failure = self._interruption()
        if failure is None and parser.tools_called:
            failure = self.tool_kills.refusal(parser.tools_called, self.turn.run.run_id)
        if failure is None and not parser.clean:
            failure = self._broken("ended its stream without finishing the answer")
        self.done_at = time.perf_counter()
        self._let_go()
        if failure is None:
            relay.end()
        if failure is None and relay.holding:
            said = relay.asked(relay.client.answer())
            waits = self.gate is not None and self.gate.may_wait(said)
            if (started or waits) and not self._client_left:
                if not started:
                    started = True
                    await client.start(200, self._stream_headers(reply))
                await client.send(out)
                out = b""
            try:
                self.withheld = await self._judge(said, client if started else None)
            except GatewayError as error:
                failure = error
            if self.withheld is not None:
                await self._settle_stream("ok", relay, None)
                await reply.aclose()
                head = None if started else self._stream_headers(reply)
                return Undelivered(self, said, self.withheld, relay.turn(), relay, head, out)
        if failure is None:
            try:
                out += relay.release()
            except GatewayError as error:
                failure = error
        if failure is None:
            await self._settle_stream("failed" if parser.error else "ok", relay, None)
            if not self._client_left:
                if not started:
                    await client.start(200, self._stream_headers(reply))
                if out:
                    await client.send(out)
            await self._release(reply, relay, client)
            await client.end()
            return None
        if self.turn.step.background and parser.response_id is not None and not parser.done:
            # The provider goes on without a reader, unless it is told to stop.
            self.wants_cancel = self.wants_cancel or isinstance(failure, Refusal)
            self._follow(parser.response_id)
        else:
            await self._settle_stream(self._failure_outcome(failure), relay, failure)
        await reply.aclose()
        if self._client_left:
            return None
        if not started:
            try:
                raise failure
            finally:
                # It holds this frame, and what holds each other waits for the garbage collector.
                del failure
        self.facts.verdict = Verdict.REFUSE if isinstance(failure, Refusal) else self.facts.verdict
        if isinstance(failure, UpstreamError):
            # What the model had said before is the client's.
            with contextlib.suppress(Refusal):
                await client.send(relay.flush())
        relay.drop()
        ending = relay.client.failure(failure, self.facts.context(), codex=self.turn.hints.codex)
        await client.send(ending)
        await client.end()
        return None

    async def _judge(self, answer: Answer, client: Client | None) -> Withheld | None:
        """Why the answer's calls are not delivered; None when they are. `client` is told that it is not
        forgotten while a person decides. Raises the refusal of a rule that stops the run, and what
        interrupts a wait."""
        if not answer.calls:
            return None
        if self.clamped and answer.finish_reason in _CUT_SHORT:
            # Some clients run a call whose arguments broke off.
            raise self._cut_by_us()
        if self.gate is None:
            return None
        if not self.gate.may_wait(answer):
            return await self.gate.judge(answer)
        began = told = time.perf_counter()
        judging = asyncio.ensure_future(self.gate.judge(answer))
        # At once, and not at the next look: a decision right behind must find nobody here who would use it.
        self._roused = asyncio.Event()
        rousing = asyncio.ensure_future(self._roused.wait())
        try:
            if self.kill is not None or self._shutting_down or self._client_left:
                self._roused.set()
            while True:
                wait_s = max(0.0, told + ALIVE_S - time.perf_counter()) if client is not None else None
                done, _ = await asyncio.wait(
                    {judging, rousing}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                if judging in done:
                    return judging.result()
                if rousing in done:
                    raise self._interruption()
                if client is not None:
                    told = time.perf_counter()
                    await client.send(b": waiting for a decision\n\n")
        finally:
            judging.cancel()
            rousing.cancel()
            self._roused = None
            self.waited_ms += round((time.perf_counter() - began) * 1000)

    def _cut_by_us(self) -> Refusal:
        limit = self.admitted.output_tokens
        return Refusal(
            Ruling("run_budget_exceeded", "run", "run", limit, limit),
            f"The answer was cut at {limit} output tokens, all that a budget could pay, in the middle of a "
            f"tool call; the call was not delivered (run {self.turn.run.run_id}).",
        )

    def _broken(self, what: str) -> UpstreamError:
        self.fault = "broken"
        return UpstreamError("upstream_stream_interrupted", f"Provider {self.route.provider_name!r} {what}.")

    def _failure_outcome(self, failure: GatewayError) -> Outcome:
        if self.kill is not None:
            return "killed"
        if isinstance(failure, Refusal):
            return "stopped"
        return "disconnected" if isinstance(failure, ClientLeftError) else "cut"

    async def _release(self, reply: UpstreamReply, relay: Relay, client: Client) -> None:
        """Let the connection go back to the pool if the stream really ends after its last event. Some send a
        terminator of another surface after it."""
        with contextlib.suppress(TransportError, TimeoutError, EventTooLargeError, Refusal):
            async with asyncio.timeout(AFTER_LAST_S):
                async for chunk in reply.chunks():
                    if out := relay.feed(chunk):
                        await client.send(out)
        await reply.aclose()

    def _stream_headers(self, reply: UpstreamReply) -> Headers:
        return [
            *self.facts.headers(header_rules.to_client(reply.headers)),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]

    async def _extend(self, output_bytes: int) -> GatewayError | None:
        """Reserve for what was received beyond the reservation and a slice more; the refusal if a budget
        has no room."""
        received = -(-output_bytes // BYTES_PER_TOKEN)
        most = self.admitted.output_tokens * self.quote.choices
        if self.covered_tokens >= most > received // 2:
            # More tokens than were admitted cannot come: the text only has more bytes than usual.
            return None
        target = received + EXTENSION_TOKENS
        if received < most:
            target = min(target, most)
        more = -(-(target - self.covered_tokens) * self.quote.output_nano_per_mtok // MTOK)
        try:
            if more and not await self.machinery.settler.store.extend(self.attempt_id, more):
                ruling = await self.tightest(more)
                return budget_refusal(ruling, self.turn.run.run_id, more)
        except StoreUnavailable as error:
            return error
        self.reserved += more
        self.covered_tokens = target
        return None

    # -- in the background --------------------------------------------------------------------------

    def _follow(self, response_id: str) -> None:
        self._followed = response_id
        self._stir = asyncio.Event()
        self.machinery.background.follow(self)

    @property
    def told_usage(self) -> Mapping[str, Any] | None:
        """The usage of a stream, in the words of the client's surface."""
        return self._relay.client.usage if self._relay is not None else None

    def is_unwanted(self) -> bool:
        """After a kill or a refusal: the provider is to stop working."""
        return self.wants_cancel

    async def stirred(self) -> None:
        """Returns when somebody wants the followed answer stopped, or this process ends."""
        if self._stir is not None:
            await self._stir.wait()

    def look(self, *, cancel: bool) -> UpstreamRequest:
        """The request that asks how the followed answer stands, or cancels it."""
        below = f"/{quote_url(self._followed, safe='')}" + ("/cancel" if cancel else "")
        route, wire = self.route, self.wire
        return replace(
            self.request,
            method="POST" if cancel else "GET",
            url=wire.dialect.url(route.provider, wire.surface, route.upstream_model, b"", below),
            body=b"",
        )

    async def ended(self, reply: Mapping[str, Any] | None) -> None:
        """Settle what was followed: at its usage, or at its reservation when the provider tells none."""
        try:
            read = read_usage(self.wire.surface, reply) if reply is not None else None
            status = reply.get("status") if reply is not None else None
            outcome: Outcome = "ok" if status in ("completed", "incomplete") else "failed"
            if self.kill is not None:
                outcome = "killed"
            elif self.wants_cancel:
                outcome = "stopped"
            elif status == "cancelled":
                outcome = "disconnected"
            answer = self.wire.codec.read_answer(reply) if reply is not None else None
            if read is not None and answer is not None:
                usage, cost, source = bill(self, read, answer)
            else:
                usage, cost, source = Usage(source="missing"), self.reserved, "reserved"
            await self._settle(outcome, usage, cost, source, answer=answer)
        finally:
            self.machinery.live.remove(self)

    # -- the end ------------------------------------------------------------------------------------

    def _outcome(self, otherwise: Outcome) -> Outcome:
        if self.kill is not None:
            return "killed"
        return "disconnected" if self._client_left and otherwise != "ok" else otherwise

    async def _settle_stream(self, outcome: Outcome, relay: Relay, failure: GatewayError | None) -> None:
        unread, unseen = self._reply.left_behind() if self._reply is not None else (b"", False)
        if unread:
            # Nobody will read it, and all the same it was served.
            with contextlib.suppress(EventTooLargeError):
                relay.overhear(unread)
        parser, answer = relay.upstream, relay.client.answer()
        self.given = answer
        delivered = relay.delivered(answer)
        self.edited = relay.edited
        read = read_usage(self.wire.surface, parser.usage) if parser.usage is not None else None
        if outcome == "failed" and read is None and not parser.output_bytes:
            usage, cost, source = Usage(), 0, "provider"
        else:
            usage, cost, source = bill(self, read, answer)
            if source == "estimated" and outcome != "ok":
                usage, cost = with_flight(self, usage, unseen=unseen)
        await self._settle(
            outcome, usage, cost, source, answer=delivered, error=failure.code if failure else None
        )

    async def _settle(
        self,
        outcome: Outcome,
        usage: Usage,
        cost: Nano,
        source: str,
        *,
        answer: Answer | None = None,
        error: str | None = None,
    ) -> None:
        if self.settled:
            return
        self.settled = True
        self.usage, self.cost, self.outcome = usage, cost, outcome
        if self.kept and outcome == "ok" and self.withheld is None:
            self.saved = self.worth
        elif self.instead_of is not None:
            # An answer that was not good enough has cost, and saved nothing.
            counts = outcome == "ok" and not self.rejected
            self.saved = (self.instead_of.rates.cost(usage) if counts else 0) - cost
        self.calls = answer.calls if answer is not None else ()
        if self.review is not None and outcome == "ok" and answer is not None and not answer.calls:
            self.findings += self.review(answer)
        if self.output is not None:
            self.findings += self.output.take()
        self.end = Ended(outcome, usage, cost, source, answer, error)
        settlement = settlement_of(self, self.end)
        try:
            settling = self.machinery.settler.settle(settlement)
            if answer is not None and answer.state:
                # Both leave for the store at once: the next request may need either.
                settled, _ = await asyncio.gather(settling, self._keep(answer))
            else:
                settled = await settling
            if settled is not None:
                self.facts.run_cost = settled.run_cost
                self.facts.run_remaining = settled.run_remaining
                self.run_completed = settled.applied and settled.status is RunStatus.COMPLETED
        finally:
            self.machinery.record(self, outcome)

    async def _keep(self, answer: Answer) -> None:
        """Put on record what the provider keeps of this answer, so that its caller can go on from it."""
        step, run = self.turn.step, self.turn.run
        tokens = self.usage.input_total + self.usage.output_total
        if self.usage.source != "provider":
            # A provider counts what it keeps among the input; our own count does not know of it.
            tokens += self.turn.stored_tokens
        held = Held(self.route.provider_name, step.model, run.run_id, run.session, tokens)
        try:
            await self.machinery.provider_state.remember(self.turn.caller, answer.state, held)
        except StoreUnavailable:
            log.warning("what the provider keeps of attempt %s is not on record", self.attempt_id)


def killed(kill: Kill, run_id: str) -> Refusal:
    """The refusal for a kill flag, with the operator's own reason."""
    scope, target = parse_kill_name(kill.name)
    reason = f" Reason: {kill.reason}" if kill.reason else ""
    return Refusal(
        Ruling(code=f"{scope}_killed", rule="kill", scope=scope, limit=0, used=0),
        f"An operator has stopped this {scope} ({target}); run {run_id} must not go on.{reason}",
    )


def budget_refusal(ruling: Ruling | None, run_id: str, need: Nano) -> Refusal:
    """The refusal in mid-stream: a budget has no room for what the stream still generates."""
    ruling = ruling or Ruling("run_budget_exceeded", "run", "run", 0, 0, money=True)
    return Refusal(
        ruling,
        f"Budget '{ruling.rule}' of this {ruling.scope} was used up in the middle of the answer: limit "
        f"${usd(ruling.limit)}, spent and reserved ${usd(ruling.used)}, ${usd_about(need)} more needed "
        f"(run {run_id}).",
    )
