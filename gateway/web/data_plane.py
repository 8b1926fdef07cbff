"""The data plane as a plain ASGI application: routes, bodies, answers. No framework stands in between.

Routing is by the raw path alone, and every path that is not listed is refused: neither `Host` nor an
encoded slash nor a doubled one leads anywhere else.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gateway.auth import Authenticator
from gateway.domain import Headers, Principal, Surface, Verdict
from gateway.errors import (
    CallerError,
    GatewayError,
    Refusal,
    UpstreamError,
    error_json,
    retry_headers,
    status_on,
)
from gateway.pipeline import Pipeline
from gateway.policy.sections.operations import PassthroughRoute
from gateway.steps.ancillary import Ancillary
from gateway.steps.delivery import ClientLeftError, Reply
from gateway.steps.dispatch import Call
from gateway.steps.provider_state import is_private
from gateway.steps.turn import Facts, Trail, new_id
from gateway.telemetry.logs import current
from gateway.telemetry.metrics import Metrics, rule_label
from gateway.upstreams.headers import ensure_unambiguous
from gateway.upstreams.transport import Upload
from gateway.web import model_list
from gateway.web.asgi import Receive, Scope, Send
from gateway.web.bodies import pieces, read_body
from gateway.web.exchange import EXTENSION, Exchange

log = logging.getLogger("gateway.web")

_RUN_PREFIX = re.compile(rb"/r/([^/]{1,384})(/.*)")
_STEPS: dict[bytes, Surface] = {
    b"/v1/chat/completions": Surface.CHAT,
    b"/v1/responses": Surface.RESPONSES,
    b"/v1/messages": Surface.MESSAGES,
    b"/messages": Surface.MESSAGES,
    b"/v1/embeddings": Surface.EMBEDDINGS,
    b"/v1/completions": Surface.COMPLETIONS,
    b"/v1/moderations": Surface.MODERATIONS,
}
"""Where steps are posted; Anthropic's clients are given base URLs with and without `/v1`."""
_COUNT_TOKENS = (b"/v1/messages/count_tokens", b"/messages/count_tokens")
_STORED = re.compile(
    rb"/v1/responses/(?!(?:compact|input_tokens)(?:/|$))([^/]{1,256})(?:/(cancel|input_items))?"
)
"""Kept responses. What stands in place of their id elsewhere in OpenAI's API is no id."""
_STORED_METHODS = {"": ("GET", "DELETE"), "cancel": ("POST",), "input_items": ("GET",)}


@dataclass(slots=True)
class Incoming:
    """One HTTP request, as far as its head tells."""

    scope: Scope
    receive: Receive
    client: Exchange
    facts: Facts
    started: float
    """`time.perf_counter()` when the head was read."""
    raw_headers: Headers
    headers: dict[bytes, bytes]
    path: bytes
    """As it came, without the query and without `/r/{run}`."""
    url_run: str | None

    @property
    def method(self) -> str:
        """The HTTP method."""
        method: str = self.scope["method"]
        return method

    @property
    def query(self) -> bytes:
        """The query string, as it came."""
        query: bytes = self.scope.get("query_string", b"")
        return query

    def call(self, caller: Principal, body: bytes) -> Call:
        """What the pipeline takes."""
        return Call(
            surface=self.facts.surface,
            caller=caller,
            raw_headers=self.raw_headers,
            headers=self.headers,
            query=self.query,
            url_run=self.url_run,
            body=body,
            clock=self.started,
        )


@dataclass(slots=True)
class DataPlane:
    """Serves `/v1/…` and `/r/{run}/v1/…`. `authenticator` and the pipeline's generation change together."""

    pipeline: Pipeline
    authenticator: Authenticator
    metrics: Metrics
    ancillary: Ancillary
    active: int = 0
    ended: Callable[[Facts, GatewayError | None, Mapping[bytes, bytes]], None] | None = None
    """Told of the end of each request, with its failure and its headers; None where nobody wants to know."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, to its answer."""
        started = time.perf_counter()
        # In lower case, as ASGI has them.
        raw_headers: Headers = list(scope["headers"])
        facts = Facts(
            surface=Surface.CHAT,
            policy=self.pipeline.generation.version,
            request_id=new_id("req"),
            decision_id=new_id("dec"),
        )
        client: Exchange = scope["extensions"][EXTENSION]()
        incoming = Incoming(
            scope, receive, client, facts, started, raw_headers, dict(raw_headers), _path(scope), None
        )
        self.active += 1
        failure: GatewayError | None = None
        if self.ended is not None:
            facts.trail = Trail()
            current.set(facts)
        try:
            reply = await self._respond(incoming)
        except ClientLeftError as error:
            failure, reply = error, None
        except GatewayError as error:
            failure = error
            self._count(error)
            reply = error_reply(facts, error)
        except Exception:
            # The last line of defence: a bug answers in the surface's own grammar and refuses.
            log.exception("unexpected failure in request %s", facts.request_id)
            failure = GatewayError(
                "guardrail_unavailable", "The gateway failed to decide; nothing more was sent."
            )
            reply = error_reply(facts, failure)
        finally:
            self.active -= 1
            if self.ended is not None and facts.trail is not None:
                self.ended(facts, failure, incoming.headers)
                facts.trail.end()
            # It knows this frame by its traceback: neither would go before the collector comes.
            failure = None
        if reply is not None and not client.response_started:
            client.reply(reply.status, reply.headers, reply.body)

    def _count(self, error: GatewayError) -> None:
        """Refusals by code and rule; what went wrong upstream is counted with its attempt."""
        if isinstance(error, UpstreamError):
            return
        rule = error.ruling.rule if isinstance(error, Refusal) else ""
        m, tools = self.metrics, self.pipeline.generation.policy.tools
        m.child(m.refusals, error.code, rule_label(rule, tools)).inc()
        if error.code == "unknown_price":
            m.unpriced.inc()

    async def _respond(self, incoming: Incoming) -> Reply | None:
        if incoming.path.startswith(b"/r/"):
            match = _RUN_PREFIX.fullmatch(incoming.path)
            if match is None:
                raise unknown_route(incoming.path)
            incoming.url_run = unquote_to_bytes(match[1]).decode("utf-8", "replace")
            incoming.path = match[2]
        path, method, facts, headers = incoming.path, incoming.method, incoming.facts, incoming.headers
        facts.surface = surface_of(path, headers)
        ensure_unambiguous(incoming.raw_headers, headers)
        if b"upgrade" in headers and b"websocket" in headers[b"upgrade"].lower():
            raise CallerError("upgrade_required", "WebSocket is not offered here; use HTTP.")
        if path in _STEPS:
            _ensure(method, "POST")
            return await self.pipeline.handle(await self._call(incoming), facts, incoming.client)
        if path in _COUNT_TOKENS:
            _ensure(method, "POST")
            return await self.ancillary.count_tokens(await self._call(incoming), facts, incoming.client)
        if (stored := _STORED.fullmatch(path)) is not None:
            action = (stored[2] or b"").decode()
            _ensure(method, *_STORED_METHODS[action])
            response_id = unquote_to_bytes(stored[1]).decode("utf-8", "replace")
            call = await self._call(incoming)
            return await self.ancillary.stored(call, method, response_id, action, facts, incoming.client)
        if path == model_list.PATH or path.startswith(model_list.PATH + b"/"):
            _ensure(method, "GET", "HEAD")
            caller = self.authenticator.identify(headers)
            policy, builtin = self.pipeline.generation.policy, self.pipeline.builtin_models
            body = model_list.answer(policy, builtin, caller, headers, path, incoming.query)
            return Reply(200, facts.headers([(b"content-type", b"application/json")]), body)
        for pattern, declared in self.pipeline.generation.handed_on:
            if method in declared.methods and (match := pattern.fullmatch(path)) is not None:
                return await self._hand_on(incoming, declared, [part.decode() for part in match.groups()])
        raise unknown_route(path)

    async def _call(self, incoming: Incoming) -> Call:
        """The request, authenticated first and read then."""
        caller = self.authenticator.identify(incoming.headers)
        server = self.pipeline.generation.policy.server
        return incoming.call(caller, await read_body(incoming.receive, incoming.headers, server))

    async def _hand_on(
        self, incoming: Incoming, declared: PassthroughRoute, segments: list[str]
    ) -> Reply | None:
        """A path that the policy lets pass, its body streamed."""
        headers, facts = incoming.headers, incoming.facts
        facts.surface = Surface.PASSTHROUGH
        caller = self.authenticator.identify(headers)
        await self.pipeline.provider_state.find(caller, [part for part in segments if is_private(part)])
        length = headers.get(b"content-length", b"")
        upload = None
        if length not in (b"", b"0") or b"transfer-encoding" in headers:
            upload = Upload(pieces(incoming.receive), int(length) if length.isdigit() else None)
        path = incoming.path.decode("ascii")
        return await self.pipeline.hand_on(
            incoming.call(caller, b""), path, declared, incoming.method, upload, facts, incoming.client
        )


def _path(scope: Scope) -> bytes:
    path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    return path.split(b"?", 1)[0]


def surface_of(path: bytes, headers: Mapping[bytes, bytes]) -> Surface:
    """The wire API that a request speaks, and that its errors are told in."""
    known = _STEPS.get(path)
    if known is not None:
        return known
    if path in _COUNT_TOKENS or model_list.speaks_anthropic(headers):
        return Surface.MESSAGES
    return Surface.RESPONSES if path.startswith(b"/v1/responses") else Surface.CHAT


def _ensure(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise CallerError("method_not_allowed", f"This path takes {' or '.join(allowed)}.")


def unknown_route(path: bytes) -> CallerError:
    """The refusal for every path that nobody declared."""
    shown = path[:128].decode("latin-1").encode("ascii", "replace").decode()
    return CallerError("unknown_route", f"The gateway does not serve {shown!r}.")


def error_reply(facts: Facts, error: GatewayError) -> Reply:
    """An error as a whole answer, with every header that its reader needs."""
    if not isinstance(error, UpstreamError):
        facts.verdict = Verdict.REFUSE
    headers = facts.headers([(b"content-type", b"application/json"), *retry_headers(error)])
    if error.code == "upgrade_required":
        headers.append((b"connection", b"close"))
    return Reply(status_on(facts.surface, error), headers, error_json(facts.surface, error, facts.context()))
