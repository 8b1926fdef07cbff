"""The door of the admin plane: who may come in, with what, and what every answer looks like.

In front of the framework stands `Gate`, which refuses by default: a wrong host, a missing or unknown token
and a body that is too large never reach a route. Behind it `AdminRoute` compares the caller's role with the
one that the route declares; a route that declares none cannot be made.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import orjson
from fastapi import Depends
from fastapi.requests import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from limits import RateLimitItem, parse
from slowapi import Limiter
from slowapi.util import get_remote_address

from gateway.auth import LOOPBACK_HOSTS, host_name
from gateway.domain import Json
from gateway.errors import StoreUnavailable
from gateway.settings import is_loopback
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_control import TokenRecord
from gateway.web.asgi import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from gateway.app import Worker
    from gateway.settings import Settings

log = logging.getLogger("gateway.admin")

Role = Literal["viewer", "operator", "admin"]
RANKS: dict[str, int] = {"viewer": 1, "operator": 2, "admin": 3}

PREFIX = "/admin/v1"
MAX_BODY_BYTES = 1024 * 1024
"""A policy file is a few kilobytes; nothing else that is sent here comes near it."""
BODY_TIMEOUT_S = 10.0
RATE = "1200/minute"
"""For each token: more than any person or dashboard asks for, less than what would slow the data plane."""
FAILURE_RATE = "10/minute"
"""Failed authentications of one client address that are told 401; more are told 429."""

CALLER = "gateway.admin.caller"
"""Where a request's scope holds its `Caller`."""


class AdminError(Exception):
    """An answer of status 400 and up. `message` is one sentence, safe to show."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated operator. `name` is what the audit log says; `token` is None for the admin token."""

    name: str
    role: Role
    token: str | None = None

    def may(self, role: Role) -> bool:
        """Whether this role or a higher one was given."""
        return RANKS[self.role] >= RANKS[role]


def error_response(error: AdminError) -> Response:
    """The one JSON shape of every error: `{"error": {"code", "message"}}`."""
    # Text of the caller may be in the message; lone surrogates are no JSON.
    message = error.message.encode("utf-8", "backslashreplace").decode()
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return Response(
        orjson.dumps({"error": {"code": error.code, "message": message}}),
        error.status,
        headers,
        "application/json",
    )


# -- who ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Operators:
    """Finds the operator behind a token. Tokens are looked up by their HMAC, never compared."""

    worker: Worker
    _by_digest: dict[str, TokenRecord] = field(default_factory=dict)
    _read_from: list[TokenRecord] | None = None

    def identify(self, token: bytes) -> Caller | None:
        """The caller with this token; None for one that is unknown, revoked or expired."""
        worker = self.worker
        digests = worker.secrets.digests(token)
        main = hmac.compare_digest(digests[0], worker.secrets.digest(worker.admin_token))
        known = self._known()
        record: TokenRecord | None = None
        for digest in digests:
            record = known.get(digest, record)
        if main:
            return Caller("admin", "admin")
        if record is None or not record.valid(worker.clock()) or record.role not in RANKS:
            return None
        return Caller(f"token:{record.name}", record.role, record.id)  # type: ignore[arg-type]  # a key of RANKS

    def still_valid(self, caller: Caller) -> bool:
        """Whether a caller of before would still be let in."""
        now = self.worker.clock()
        return caller.token is None or any(
            token.id == caller.token and token.valid(now) for token in self.worker.control.tokens
        )

    def _known(self) -> dict[str, TokenRecord]:
        tokens = self.worker.control.tokens
        if tokens is not self._read_from:
            self._by_digest = {token.digest: token for token in tokens}
            self._read_from = tokens
        return self._by_digest


def bearer(headers: dict[bytes, bytes]) -> bytes:
    """The token of a request; empty when it has none."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


# -- the door ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Limits:
    """How often what may happen, in this process's memory."""

    limiter: Limiter = field(default_factory=lambda: Limiter(key_func=get_remote_address))
    requests: RateLimitItem = field(default_factory=lambda: parse(RATE))
    failures: RateLimitItem = field(default_factory=lambda: parse(FAILURE_RATE))

    def ensure_request(self, caller: Caller) -> None:
        """Raises `AdminError` 429 when this token asks too often."""
        self._ensure(self.requests, "caller", caller.token or "admin")

    def ensure_failure(self, address: str) -> None:
        """Raises `AdminError` 429 when this address has failed too often."""
        self._ensure(self.failures, "failure", address)

    def _ensure(self, item: RateLimitItem, *key: str) -> None:
        if not self.limiter.limiter.hit(item, *key):
            raise AdminError(429, "rate_limit_exceeded", f"Too many requests: {item}.", retry_after_s=30)


@dataclass(slots=True)
class Gate:
    """Everything that is asked before a route is looked for. An ASGI application around another."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    worker: Worker
    operators: Operators
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request of the admin plane."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            answer = await self._admit(scope, receive)
        except AdminError as error:
            await error_response(error)(scope, receive, guarded)
            return
        if isinstance(answer, Response):
            await answer(scope, receive, guarded)
        elif answer is not None:
            await self.app(scope, answer, guarded)

    async def _admit(self, scope: Scope, receive: Receive) -> Response | Receive | None:
        """What gives the route its body; an answer where no route is needed; None when the client left."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        settings = self.worker.settings
        local = listens_on_loopback(settings)
        ensure_no_foreign_page(headers, local=local)
        if scope["path"] == "/metrics" and scope["method"] == "GET":
            if not local:
                self._identify(scope, headers)
            return Response(self.worker.metrics.render(), media_type="text/plain; version=0.0.4")
        if not scope["path"].startswith(f"{PREFIX}/"):
            raise AdminError(404, "not_found", "The gateway does not serve this path.")
        scope[CALLER] = self._identify(scope, headers)
        body = await _read(receive, headers)
        if body is None:
            return None
        # A token is no ambient credential, so nothing is lost when `curl -d` forgets to say that it is JSON.
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name.lower() != b"content-type"),
            (b"content-type", b"application/json"),
        ]
        return _replayed(body, receive)

    def _identify(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        token = bearer(headers)
        caller = self.operators.identify(token)
        if caller is None or not token:
            client = scope.get("client")
            # Only failures are counted: nobody can lock the operators of a shared address out.
            self.limits.ensure_failure(client[0] if client else "unknown")
            raise AdminError(401, "unauthorized", "A valid admin token is needed: Authorization: Bearer ….")
        return caller


def listens_on_loopback(settings: Settings) -> bool:
    """Whether the admin plane can be reached from this machine alone."""
    address = settings.admin_address
    return is_loopback(address[0]) if address is not None else settings.on_loopback


def ensure_no_foreign_page(headers: dict[bytes, bytes], *, local: bool) -> None:
    """A web page must not drive the admin plane, neither by its own origin nor by a name that it points at
    this machine. Raises `AdminError` 403."""
    host = headers.get(b"host", b"")
    if local and not _is_this_machine(host_name(host)):
        raise AdminError(
            403, "forbidden_host", "The admin plane serves this machine alone: Host has to be it."
        )
    origin = headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
        raise AdminError(403, "forbidden_origin", "The admin plane answers no other origin than its own.")


def _is_this_machine(host: str) -> bool:
    try:
        return host in LOOPBACK_HOSTS or ip_address(host).is_loopback
    except ValueError:
        return False


async def _read(receive: Receive, headers: dict[bytes, bytes]) -> bytes | None:
    too_large = AdminError(413, "request_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes.")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise too_large
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise AdminError(415, "unsupported_encoding", "The admin plane takes no compressed bodies.")
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
                more = message.get("more_body", False)
    except TimeoutError:
        raise AdminError(408, "request_timeout", "The body did not arrive in time.") from None
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


# -- routes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """What a route asks of its caller."""

    role: Role
    limited: bool = True


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_grants: dict[Callable[..., Any], Grant] = {}


def needs(role: Role, *, limited: bool = True) -> Callable[[Endpoint], Endpoint]:
    """Declare the least role for an endpoint. `limited` is false where a limit would do harm."""

    def mark(endpoint: Endpoint) -> Endpoint:
        _grants[endpoint] = Grant(role, limited)
        return endpoint

    return mark


class AdminRoute(APIRoute):
    """A route that serves callers of its role and no others, whatever their body says."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with the checks around it. Raises `KeyError` for an endpoint without `needs`."""
        handler = super().get_route_handler()
        grant = _grants[self.endpoint]

        async def checked(request: Request) -> Response:
            caller: Caller = request.scope[CALLER]
            if not caller.may(grant.role):
                raise AdminError(
                    403, "forbidden", f"This needs the role {grant.role}; the token has {caller.role}."
                )
            if grant.limited:
                request.app.state.limits.ensure_request(caller)
            return await handler(request)

        return checked


@dataclass(frozen=True, slots=True)
class Context:
    """What an endpoint works with."""

    worker: Worker
    caller: Caller
    operators: Operators

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self.worker.clock()

    async def audit(self, action: str, details: Json) -> None:
        """Record a change that was made. Raises `LedgerUnavailable`."""
        entry = AuditEntry(self.caller.name, action, details, self.now())
        await self.worker.ledger.audit_append([entry])

    async def flush(self) -> None:
        """Bring what was settled until now into the ledger, if it can be."""
        try:
            await self.worker.drain.flush()
        except (StoreUnavailable, LedgerUnavailable) as error:
            log.warning("a report may lack the latest steps: %s", error)

    async def refresh(self) -> None:
        """Make a change effective in this worker now; the others see it within half a second."""
        try:
            await self.worker.control.refresh()
        except (StoreUnavailable, LedgerUnavailable) as error:
            log.warning("a change is effective a little later: %s", error)


def context_of(request: Request) -> Context:
    """The context of one request."""
    state = request.app.state
    return Context(state.worker, request.scope[CALLER], state.operators)


Ctx = Annotated[Context, Depends(context_of)]
