"""The data plane as a plain ASGI application: routes, bodies, answers. No framework stands in between.

Routing is by the raw path alone, and every path that is not listed is refused: neither `Host` nor an
encoded slash nor a doubled one leads anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from gateway.attempt import ClientLeftError, Reply
from gateway.auth import Authenticator
from gateway.domain import Headers, Surface, Verdict
from gateway.errors import (
    CallerError,
    GatewayError,
    Refusal,
    UpstreamError,
    error_json,
    retry_headers,
    status_on,
)
from gateway.pipeline import Call, Pipeline
from gateway.policy.models import Server, model_allowed
from gateway.surfaces.encoding import decode
from gateway.telemetry.metrics import Metrics
from gateway.turn import Facts, new_id
from gateway.upstreams.headers import ensure_unambiguous

log = logging.getLogger("gateway.web")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_RUN_PREFIX = re.compile(rb"/r/([^/]{1,384})(/v1/.*)")
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_S = 5.0
BODY_TIMEOUT_S = 60.0
"""A body that trickles in for longer holds a connection for nothing."""
WATCH_AFTER_S = 0.02
"""From when on a caller's leaving is watched for: an answer that is faster is not worth a task."""
WRITE_CHECK_S = 5.0
WRITE_TIMEOUT_S = 120.0
"""A client that takes no byte for so long is treated as gone."""


@dataclass(slots=True)
class DataPlane:
    """Serves `/v1/…` and `/r/{run}/v1/…`. `authenticator` and the pipeline's generation change together."""

    pipeline: Pipeline
    authenticator: Authenticator
    metrics: Metrics
    active: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request. WebSocket upgrades never get here as such; see `refuse_upgrade`."""
        started = time.perf_counter()
        raw_headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        facts = Facts(
            surface=Surface.CHAT,
            policy=self.pipeline.generation.version,
            request_id=new_id("req"),
            decision_id=new_id("dec"),
        )
        client = HttpClient(receive, send, facts)
        self.active += 1
        try:
            reply = await self._respond(scope, raw_headers, receive, facts, client, started)
        except ClientLeftError:
            return
        except GatewayError as error:
            self._count(error)
            reply = error_reply(facts, error)
        except Exception:
            # The last line of defence: a bug answers in the surface's own grammar and refuses.
            log.exception("unexpected failure in request %s", facts.request_id)
            reply = error_reply(
                facts,
                GatewayError("guardrail_unavailable", "The gateway failed to decide; nothing more was sent."),
            )
        finally:
            self.active -= 1
            client.close()
        if reply is not None and not client.started:
            await client.reply(reply)

    def _count(self, error: GatewayError) -> None:
        """Refusals by code and rule; what went wrong upstream is counted with its attempt."""
        if isinstance(error, UpstreamError):
            return
        rule = error.ruling.rule if isinstance(error, Refusal) else ""
        self.metrics.refusals.labels(error.code, rule).inc()
        if error.code == "unknown_price":
            self.metrics.unpriced.inc()
        if error.code == "budget_store_unavailable":
            self.metrics.store_errors.inc()

    async def _respond(
        self,
        scope: Scope,
        raw_headers: Headers,
        receive: Receive,
        facts: Facts,
        client: HttpClient,
        started: float,
    ) -> Reply | None:
        headers = dict(raw_headers)
        path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
        path = path.split(b"?", 1)[0]
        url_run: str | None = None
        if path.startswith(b"/r/"):
            match = _RUN_PREFIX.fullmatch(path)
            if match is None:
                raise unknown_route(path)
            url_run = unquote_to_bytes(match[1]).decode("utf-8", "replace")
            path = match[2]
        method = scope["method"]
        if b"upgrade" in headers and b"websocket" in headers[b"upgrade"].lower():
            raise CallerError("upgrade_required", "WebSocket is not offered here; use HTTP.")
        if path == b"/v1/chat/completions":
            if method != "POST":
                raise CallerError("method_not_allowed", "Chat completions take POST.")
            return await self._chat(scope, raw_headers, headers, receive, facts, client, url_run, started)
        if path == b"/v1/models" or path.startswith(b"/v1/models/"):
            if method not in ("GET", "HEAD"):
                raise CallerError("method_not_allowed", "Models take GET.")
            return self._models(headers, path, facts)
        raise unknown_route(path)

    async def _chat(
        self,
        scope: Scope,
        raw_headers: Headers,
        headers: dict[bytes, bytes],
        receive: Receive,
        facts: Facts,
        client: HttpClient,
        url_run: str | None,
        started: float,
    ) -> Reply | None:
        ensure_unambiguous(headers)
        caller = self.authenticator.identify(headers)
        server = self.pipeline.generation.policy.server
        body = await read_body(receive, headers, server)
        call = Call(
            surface=Surface.CHAT,
            caller=caller,
            raw_headers=raw_headers,
            headers=headers,
            query=scope.get("query_string", b""),
            url_run=url_run,
            body=body,
            clock=started,
        )
        return await self.pipeline.handle(call, facts, client)

    def _models(self, headers: dict[bytes, bytes], path: bytes, facts: Facts) -> Reply:
        caller = self.authenticator.identify(headers)
        policy = self.pipeline.generation.policy
        names = [
            name
            for name, model in policy.models.items()
            if not name.endswith("*") and model.provider in policy.providers
        ]
        names += self.pipeline.builtin_models
        visible = [n for n in names if caller.models is None or model_allowed(caller.models, n)]
        if path == b"/v1/models":
            body: dict[str, Any] = {"object": "list", "data": [_model_object(n) for n in visible]}
        else:
            name = unquote_to_bytes(path[len(b"/v1/models/") :]).decode("utf-8", "replace")
            target = policy.find_model(name)
            known = name in visible or (
                target is not None
                and target.provider is not None
                and (caller.models is None or model_allowed(caller.models, name))
            )
            if not known:
                raise CallerError(
                    "unknown_model", f"Model {name[:128]!r} is not configured.", status=404, param="model"
                )
            body = _model_object(name)
        return Reply(200, [(b"content-type", b"application/json"), *facts.headers()], orjson.dumps(body))


def _model_object(name: str) -> dict[str, Any]:
    owner = "simulated" if name.startswith("sim/") else "gateway"
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def unknown_route(path: bytes) -> CallerError:
    """The refusal for every path that nobody declared."""
    shown = path[:128].decode("latin-1").encode("ascii", "replace").decode()
    return CallerError("unknown_route", f"The gateway does not serve {shown!r}.")


def error_reply(facts: Facts, error: GatewayError) -> Reply:
    """An error as a whole answer, with every header that its reader needs."""
    if not isinstance(error, UpstreamError):
        facts.verdict = Verdict.REFUSE
    headers: Headers = [
        (b"content-type", b"application/json"),
        *facts.headers(),
        *retry_headers(error),
    ]
    if error.code == "upgrade_required":
        headers.append((b"connection", b"close"))
    return Reply(status_on(facts.surface, error), headers, error_json(facts.surface, error, facts.context()))


async def read_body(receive: Receive, headers: dict[bytes, bytes], server: Server) -> bytes:
    """The request body, decompressed, under the policy's caps. Raises `CallerError`."""
    limit = server.max_body_bytes
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        if b"expect" not in headers:
            await _discard(receive)
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] != "http.request":
        raise ClientLeftError
    if message.get("more_body"):
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _rest(receive, body, limit)
        except TimeoutError:
            raise CallerError(
                "invalid_request", "The request body did not arrive in time.", status=408
            ) from None
    if len(body) > limit:
        raise _too_large(limit)
    if encoding is not None:
        # A megabyte decompresses in milliseconds, the cap in tens of them: not in the event loop.
        body = await asyncio.to_thread(decode, body, [encoding], server.max_decompressed_bytes)
    return body


def _too_large(limit: int) -> CallerError:
    return CallerError("request_too_large", f"The request body is larger than {limit} bytes.")


async def _rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts = [first]
    size = len(first)
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body", False)
        if size > limit:
            if more:
                await _discard(receive)
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Take what a client is still sending and keep nothing of it: one that is cut off in mid-upload never
    reads the answer, and tries again. A flood gets no more than this."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while size < DISCARD_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return


@dataclass(slots=True)
class HttpClient:
    """The caller's side of one exchange; implements `gateway.attempt.Client`."""

    _receive: Receive
    _send: Send
    _facts: Facts
    left: bool = False
    started: bool = False
    _callback: Callable[[], None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _watch: asyncio.Task[None] | None = field(default=None)
    _sender: asyncio.Task[Any] | None = None
    _blocked_since: float = 0.0
    _gave_up: bool = False

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """Watch the connection while an answer is being made."""
        self._callback = callback
        if callback is None:
            self.close()
        elif self._timer is None and self._watch is None:
            self._sender = asyncio.current_task()
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin_watch)

    def _begin_watch(self) -> None:
        self._watch = asyncio.ensure_future(self._wait_for_disconnect())
        self._timer = asyncio.get_running_loop().call_later(WRITE_CHECK_S, self._check_progress)

    def _check_progress(self) -> None:
        """Give up on a client that has taken nothing for too long: whoever waits to send is woken."""
        loop = asyncio.get_running_loop()
        if self._blocked_since and loop.time() - self._blocked_since > WRITE_TIMEOUT_S:
            self._gave_up = True
            if self._sender is not None:
                self._sender.cancel()
            return
        self._timer = loop.call_later(WRITE_CHECK_S, self._check_progress)

    async def _wait_for_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                return

    def _leave(self) -> None:
        self.left = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def close(self) -> None:
        """Stop watching."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a streamed answer."""
        self.started = True
        await self._put({"type": "http.response.start", "status": status, "headers": self._with_id(headers)})

    def send(self, data: bytes) -> Coroutine[Any, Any, None]:
        """Send a piece; waits while the client is slow, and gives up on one that takes nothing."""
        return self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the answer."""
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.started = True
        headers = [*self._with_id(reply.headers), (b"content-length", b"%d" % len(reply.body))]
        await self._put({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._put({"type": "http.response.body", "body": reply.body, "more_body": False})

    def _with_id(self, headers: Headers) -> Headers:
        """A provider's own request id is worth more to its reader than ours."""
        if any(name == b"x-request-id" for name, _ in headers):
            return headers
        return [*headers, (b"x-request-id", self._facts.request_id.encode())]

    async def _put(self, message: Message) -> None:
        if self.left:
            return
        self._blocked_since = asyncio.get_running_loop().time()
        try:
            await self._send(message)
        except OSError:
            self._leave()
        except asyncio.CancelledError:
            if not self._gave_up or self._sender is None:
                raise
            self._sender.uncancel()
            self._leave()
        finally:
            self._blocked_since = 0.0
