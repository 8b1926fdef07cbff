"""Calls to a provider that are no steps of a run: they generate nothing, so nothing is reserved or billed.

Counting tokens, and reading, cancelling or deleting a response that the provider keeps. An operator's kill
stops them like anything else, and an id reaches the provider only for whoever it was handed to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote as quote_url

import orjson

from gateway.admission import Kill
from gateway.domain import Headers, Principal, Step, Surface
from gateway.errors import ErrorContext, GatewayError, Refusal, UpstreamError
from gateway.metering.estimate import quote
from gateway.metering.prices import FREE
from gateway.pipeline import Pipeline
from gateway.policy.sections.providers import Provider
from gateway.rules.budgets import Scopes, scopes_of
from gateway.rules.kills import caller_kill_names
from gateway.screening.stream import StreamScreen
from gateway.steps.attempt import killed
from gateway.steps.delivery import Client, ClientLeftError, Reply
from gateway.steps.dispatch import Call, Generation
from gateway.steps.live import LiveCalls
from gateway.steps.provider_state import Held, unknown
from gateway.steps.screens import Output
from gateway.steps.tool_kills import ToolKills
from gateway.steps.turn import Facts, new_id
from gateway.surfaces import CODECS, AnswerStream, messages
from gateway.upstreams import anthropic
from gateway.upstreams import headers as header_rules
from gateway.upstreams.dialects import DIALECTS
from gateway.upstreams.replies import MAX_REPLY_BYTES, ensure_passable, is_event_stream
from gateway.upstreams.transport import Timeouts, TransportError, UpstreamReply, UpstreamRequest


@dataclass(slots=True)
class Ancillary:
    """Serves them, beside the pipeline and with its policy."""

    pipeline: Pipeline
    live: LiveCalls

    async def count_tokens(self, call: Call, facts: Facts, client: Client) -> Reply | None:
        """`POST /v1/messages/count_tokens`: the provider's own count, or ours for a provider without one."""
        generation = self.pipeline.generation
        step = messages.parse_count(call.body, max_depth=generation.policy.server.max_json_depth)
        step = await self._screened(generation, call.caller, step)
        now = self.pipeline.clock()
        route = generation.router.choose(call.caller, step.model, now, free=True)
        facts.model = route.upstream_model
        await self._ensure_running(facts, *caller_kill_names(call.caller, step.model))
        dialect = DIALECTS[route.provider.dialect]
        if not dialect.serves(route.provider, Surface.MESSAGES):
            counted = quote(step, FREE, 0, model=route.upstream_model, exact=True)
            body = orjson.dumps({"input_tokens": counted.input_tokens})
            return Reply(200, facts.headers([(b"content-type", b"application/json")]), body)
        body = messages.forward(
            step, model=route.upstream_model, limit_field="", output_limit=None, inject_usage=False
        )
        url = dialect.url(
            route.provider, Surface.MESSAGES, route.upstream_model, call.query, anthropic.COUNT_TOKENS
        )
        request = self._request(call, route.provider, "POST", url, body)
        return await self._exchange(call, facts, client, route.provider_name, request, frozenset())

    async def stored(
        self, call: Call, method: str, response_id: str, action: str, facts: Facts, client: Client
    ) -> Reply | None:
        """`GET`, `DELETE` and `…/cancel`, `…/input_items` of a response that the provider keeps."""
        generation, caller = self.pipeline.generation, call.caller
        held = await self._held(generation, caller, response_id)
        provider = generation.policy.providers.get(held.provider)
        if provider is None:
            raise unknown(response_id)
        names = caller_kill_names(caller, held.model)
        if held.run:
            facts.run_id, facts.session, facts.model = held.run, held.session, held.model
            names = (held.run, f"run:{held.run}", f"session:{held.session}", *names)
        if method == "GET":
            await self._ensure_running(facts, *names)
        kept_as = held.stands_for or response_id
        below = f"/{quote_url(kept_as, safe='')}" + (f"/{action}" if action else "")
        url = DIALECTS[provider.dialect].url(provider, Surface.RESPONSES, held.model, call.query, below)
        request = self._request(call, provider, method, url, call.body)
        output = await self._output(generation, caller, held) if method == "GET" else None
        reply = await self._exchange(call, facts, client, held.provider, request, frozenset(names), output)
        if reply is not None and output is not None:
            reply = _as_delivered(reply, output)
        if reply is not None and method == "GET" and not action:
            self._ensure_no_killed_tool(reply, held)
        if method == "DELETE" and reply is not None and reply.status == 200:
            await self.pipeline.provider_state.forget(caller, response_id)
        return reply

    async def _screened(self, generation: Generation, caller: Principal, step: Step) -> Step:
        """What may be told to the provider of a request that is to be counted."""
        scopes = _scopes(caller, step, "count_tokens")
        contracts = generation.contracts.under(scopes)
        screened = await self.pipeline.screens.request(
            generation.policy, contracts, scopes, step, {"key": caller.key, "run": None}
        )
        return screened.step if screened is not None else step

    async def _output(self, generation: Generation, caller: Principal, held: Held) -> Output | None:
        """What a kept answer has to pass, by the rules of today."""
        scopes = replace(_scopes(caller, _kept_step(held.model), held.session), run=held.run)
        about = {"key": caller.key, "session": held.session, "run": held.run or None}
        return await self.pipeline.screens.answer(
            generation.policy, generation.contracts.under(scopes), scopes, about
        )

    async def _held(self, generation: Generation, caller: Principal, response_id: str) -> Held:
        known = await self.pipeline.provider_state.find(caller, [response_id])
        if response_id in known:
            return known[response_id]
        own = generation.policy.auth.provider
        if own is None:
            raise unknown(response_id)
        return Held(own, "", "", "")

    async def _ensure_running(self, facts: Facts, *names: str) -> None:
        flags = await self.pipeline.store.kills(names)
        for name in names:
            if name in flags:
                raise killed(Kill(name, flags[name]), facts.run_id or "-")

    def _ensure_no_killed_tool(self, reply: Reply, held: Held) -> None:
        """A call of a tool that an operator has stopped is not delivered, by whatever way it is asked for."""
        if reply.status != 200:
            return
        try:
            parsed = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            return
        if isinstance(parsed, dict):
            calls = CODECS[Surface.RESPONSES].read_answer(parsed).calls
            refusal = self.pipeline.tool_kills.refusal((call.name for call in calls), held.run)
            if refusal is not None:
                try:
                    raise refusal
                finally:
                    del refusal  # It holds this frame.

    @staticmethod
    def _request(call: Call, provider: Provider, method: str, url: str, body: bytes) -> UpstreamRequest:
        secret = call.caller.credential
        if secret is None and provider.api_key is not None:
            secret = provider.api_key.get_secret_value()
        dialect = DIALECTS[provider.dialect]
        added: Headers = [
            (b"accept-encoding", b"identity"),
            *dialect.credentials(secret),
            *dialect.defaults(call.headers),
        ]
        if body:
            added.append((b"content-type", b"application/json"))
        limits = provider.timeouts
        return UpstreamRequest(
            method=method,
            url=url,
            headers=header_rules.to_upstream(call.raw_headers, call.headers, added),
            body=body,
            timeouts=Timeouts(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s),
        )

    async def _exchange(
        self,
        call: Call,
        facts: Facts,
        client: Client,
        provider: str,
        request: UpstreamRequest,
        kill_names: frozenset[str],
        output: Output | None = None,
    ) -> Reply | None:
        """Send and hand on what comes. None when it was streamed into `client`."""
        try:
            reply = await self.pipeline.dispatcher.transport.send(request)
        except TransportError as error:
            raise _unreachable(provider, error) from error
        if reply.status == 200 and is_event_stream(reply.headers):
            stream = CODECS[call.surface].stream(strip_usage=False)
            screen = output.stream(call.surface) if output is not None else None
            follower = Follower(new_id("fol"), kill_names, reply, stream, self.pipeline.tool_kills, screen)
            self.live.add(follower)
            client.on_leave(reply.abort)
            try:
                await follower.run(client, facts, codex=b"codex" in call.headers.get(b"user-agent", b""))
            finally:
                client.on_leave(None)
                self.live.remove(follower)
            return None
        try:
            body = await reply.read(MAX_REPLY_BYTES)
        except TransportError as error:
            raise _unreachable(provider, error) from error
        finally:
            await reply.aclose()
        ensure_passable(reply.status, provider, call.caller, self.pipeline.dispatcher.notify)
        given = header_rules.to_client(reply.headers)
        if reply.status >= 400:
            given += header_rules.retry_advice(reply.headers)
        return Reply(reply.status, facts.headers(given), body)


@dataclass(slots=True)
class Follower:
    """A stream of something that was paid for already: handed on, and cut by a kill."""

    attempt_id: str
    kill_names: frozenset[str]
    reply: UpstreamReply
    stream: AnswerStream
    tool_kills: ToolKills
    screen: StreamScreen | None = None
    _kill: Kill | None = None
    _shutting_down: bool = False

    def stop(self, kill: Kill) -> None:
        """An operator's stop."""
        self._kill = kill
        self.reply.abort()

    def shut_down(self) -> None:
        """This process ends."""
        self._shutting_down = True
        self.reply.abort()

    async def run(self, client: Client, facts: Facts, *, codex: bool) -> None:
        """Hand on event by event until the end, or tell the client why there is none."""
        await client.start(200, facts.headers(header_rules.to_client(self.reply.headers)))
        failure: GatewayError | None = None
        try:
            async for chunk in self.reply.chunks():
                out = self.stream.feed(chunk)
                failure = self.tool_kills.refusal(self.stream.tools_called, facts.run_id or "-")
                if failure is not None:
                    break
                if out and self.screen is not None:
                    out = self.screen.feed(out)
                if out:
                    await client.send(out)
            if failure is None and self.screen is not None:
                await client.send(self.screen.end())
        except TransportError:
            failure = self._failure(facts)
        except Refusal as error:
            failure = error
        finally:
            await self.reply.aclose()
        if client.left:
            raise ClientLeftError
        if failure is None and self._kill is not None:
            failure = self._failure(facts)
        context: ErrorContext = facts.context()
        await client.send(
            self.stream.pending if failure is None else self.stream.failure(failure, context, codex=codex)
        )
        await client.end()

    def _failure(self, facts: Facts) -> GatewayError:
        if self._kill is not None:
            return killed(self._kill, facts.run_id or "-")
        if self._shutting_down:
            return GatewayError(
                "guardrail_unavailable", "This gateway process is shutting down; ask again.", retry_after_s=1
            )
        return UpstreamError("upstream_stream_interrupted", "The provider's stream broke off before its end.")


def _scopes(caller: Principal, step: Step, session: str) -> Scopes:
    return scopes_of(caller, step, "", session, False, None, {}, (), shared=False)


def _kept_step(model: str) -> Step:
    return Step(Surface.RESPONSES, model, False, {}, b"", (), (), None, 1, True, 0)


def _as_delivered(reply: Reply, output: Output) -> Reply:
    """A kept response, or what it was made from, with its values back in their places."""
    if reply.status != 200:
        return reply
    try:
        parsed = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return reply
    if not isinstance(parsed, dict):
        return reply
    # A list of input items is read as the items of an answer are.
    listed = parsed.get("data")
    shown = {"output": listed} if isinstance(listed, list) else parsed
    changed = output.plain(Surface.RESPONSES, shown)
    if changed is None:
        return reply
    whole = {**parsed, "data": changed["output"]} if isinstance(listed, list) else changed
    return replace(reply, body=orjson.dumps(whole))


def _unreachable(provider: str, error: TransportError) -> UpstreamError:
    if error.kind == "timeout" and error.phase != "connect":
        return UpstreamError("upstream_timeout", f"Provider {provider!r} did not answer in time.")
    return UpstreamError(
        "upstream_unavailable", f"Provider {provider!r} cannot be reached ({error.kind}).", retry_after_s=1
    )
