"""The data plane as a plain ASGI application: routes, bodies, answers. No framework stands in between.

Routing is by the raw path alone, and every path that is not listed is refused: neither `Host` nor an
encoded slash nor a doubled one leads anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
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
from gateway.web.exchange import EXTENSION, Exchange

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
        client: Exchange = scope["extensions"][EXTENSION]
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
        if reply is not None and not client.response_started:
            client.reply(reply.status, reply.headers, reply.body)

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
        client: Exchange,
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
        client: Exchange,
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
        return Reply(200, facts.headers([(b"content-type", b"application/json")]), orjson.dumps(body))


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
    headers = facts.headers([(b"content-type", b"application/json"), *retry_headers(error)])
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
