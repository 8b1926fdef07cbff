"""The door of the admin plane: who may come in, with what, and what every answer looks like.

In front of the framework stands `Gate`, which refuses by default: a wrong host, a missing or unknown token
and a body that is too large never reach a route. A browser's session opens it as a token does, and is asked
for more: a page elsewhere can make a browser send its cookie, and can neither read the session's CSRF token
nor pretend to be one of our own. Behind it `AdminRoute` compares the caller's role with the one that the
route declares; a route that declares none cannot be made.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import orjson
from fastapi import Depends
from fastapi.requests import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from limits import RateLimitItem, parse
from slowapi import Limiter
from slowapi.util import get_remote_address

from gateway.auth import LOOPBACK_HOSTS, host_name
from gateway.domain import Json, Millis
from gateway.errors import StoreUnavailable
from gateway.roles import RANKS, Role
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_credentials import TokenRecord
from gateway.stores.ledger_sessions import SessionRecord
from gateway.web.asgi import Message, Receive, Scope, Send
from gateway.web.sessions import Sessions, session_cookie

if TYPE_CHECKING:
    from gateway.app import Worker
    from gateway.settings import Settings

log = logging.getLogger("gateway.admin")

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

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SINGLE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"x-csrf-token",
    }
)
"""Headers of which a second one would be read by one side and not by the other."""


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
    """An authenticated operator. `name` is what the audit log says, `token` the id of a named token."""

    name: str
    role: Role
    token: str | None = None
    secret: str | None = field(default=None, repr=False)
    """Digest of the token's secret."""
    session: str | None = field(default=None, repr=False)
    """Digest of a browser's session."""

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
    """Finds the operator behind a token or a session. Tokens are looked up by their HMAC, never compared."""

    worker: Worker
    sessions: Sessions
    _by_digest: dict[str, tuple[TokenRecord, Millis | None]] = field(default_factory=dict)
    """Whose secret it is, and until when."""
    _read_from: list[TokenRecord] | None = None

    def identify(self, token: bytes) -> Caller | None:
        """The caller with this token; None for one that is unknown, revoked or expired."""
        worker = self.worker
        digests = worker.secrets.digests(token)
        main = hmac.compare_digest(digests[0], worker.secrets.digest(worker.admin_token))
        known = self._known()
        secret = digests[0]
        for digest in digests:
            secret = digest if digest in known else secret
        if main:
            return Caller("admin", "admin", secret=digests[0])
        record = self._token_of(secret)
        if record is None or record.role not in RANKS:
            return None
        worker.uses.seen.add(record.id)
        return Caller(f"token:{record.name}", record.role, record.id, secret)  # type: ignore[arg-type]  # a key of RANKS

    async def of_session(self, cookie: bytes) -> Caller | None:
        """The caller whose browser has this cookie. Raises `LedgerUnavailable`."""
        record = await self.sessions.find(cookie)
        if record is None or not self._begun_rightly(record):
            return None
        await self.sessions.used(record)
        if record.token is not None:
            self.worker.uses.seen.add(record.token)
        return Caller(record.name, record.role, record.token, record.secret, record.digest)  # type: ignore[arg-type]  # as it was when it began

    async def still_valid(self, caller: Caller) -> bool:
        """Whether a caller of before would still be let in."""
        if caller.session is not None:
            try:
                record = await self.sessions.standing(caller.session)
            except LedgerUnavailable:
                return False
            return record is not None and self._begun_rightly(record)
        return caller.token is None or self._token_of(caller.secret) is not None

    def _begun_rightly(self, record: SessionRecord) -> bool:
        """Whether what the session began with would begin one now."""
        worker = self.worker
        match record.source:
            case "admin":
                return record.secret in worker.secrets.digests(worker.admin_token)
            case "token":
                token = self._token_of(record.secret)
                return token is not None and token.id == record.token
            case "oidc":
                return record.secret in worker.secrets.digests(oidc_terms(worker.settings))

    def _token_of(self, secret: str | None) -> TokenRecord | None:
        """The token in force whose secret has this digest."""
        found = self._known().get(secret) if secret is not None else None
        now = self.worker.clock()
        if found is None or not found[0].valid(now) or (found[1] is not None and now >= found[1]):
            return None
        return found[0]

    def _known(self) -> dict[str, tuple[TokenRecord, Millis | None]]:
        tokens = self.worker.control.tokens
        if tokens is not self._read_from:
            now = self.worker.clock()
            self._by_digest = {
                digest: (token, until) for token in tokens for digest, until in token.secrets(now).items()
            }
            self._read_from = tokens
        return self._by_digest


def oidc_terms(settings: Settings) -> str:
    """What decides who may log in by OIDC and as what: sessions end when it changes."""
    return f"oidc\0{settings.oidc_issuer}\0{settings.oidc_client_id}\0{settings.oidc_roles}"


def bearer(headers: dict[bytes, bytes]) -> bytes:
    """The token of a request; empty when it has none."""
    return headers[b"authorization"].partition(b" ")[2].strip() if _is_bearer(headers) else b""


def _is_bearer(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"authorization", b"").partition(b" ")[0].lower() == b"bearer"


# -- the door ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Limits:
    """How often what may happen, in this process's memory."""

    limiter: Limiter = field(default_factory=lambda: Limiter(key_func=get_remote_address))
    requests: RateLimitItem = field(default_factory=lambda: parse(RATE))
    failures: RateLimitItem = field(default_factory=lambda: parse(FAILURE_RATE))

    def ensure_request(self, caller: Caller) -> None:
        """Raises `AdminError` 429 when this token asks too often."""
        self._ensure(self.requests, "caller", caller.token or caller.name)

    def ensure_failure(self, address: str) -> None:
        """Raises `AdminError` 429 when this address has failed too often."""
        self._ensure(self.failures, "failure", address)

    def _ensure(self, item: RateLimitItem, *key: str) -> None:
        if not self.limiter.limiter.hit(item, *key):
            raise AdminError(429, "rate_limit_exceeded", f"Too many requests: {item}.", retry_after_s=30)


class Logins(Protocol):
    """What is asked for under `/dashboard` to log in and out."""

    async def answer(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Response | None:
        """The answer to a request; None for a path that has to do with no login, or when the client left.

        Raises `AdminError` and `LedgerUnavailable`.
        """


@dataclass(slots=True)
class Gate:
    """Everything that is asked before a route is looked for. An ASGI application around another."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    worker: Worker
    operators: Operators
    limits: Limits
    logins: Logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request of the admin plane."""

        guarded = with_security_headers(send)

        try:
            answer = await self._admit(scope, receive)
        except AdminError as error:
            await error_response(error)(scope, receive, guarded)
            return
        except LedgerUnavailable as error:
            log.warning("the ledger cannot say who is logged in: %s", error)
            await error_response(_no_sessions())(scope, receive, guarded)
            return
        if isinstance(answer, Response):
            await answer(scope, receive, guarded)
        elif answer is not None:
            await self.app(scope, answer, guarded)

    async def _admit(self, scope: Scope, receive: Receive) -> Response | Receive | None:
        """What gives the route its body; an answer where no route is needed; None when the client left."""
        headers = single_headers(scope["headers"])
        settings = self.worker.settings
        local = listens_on_loopback(settings)
        ensure_no_foreign_page(headers, local=local, public_url=settings.public_url)
        path: str = scope["path"]
        if path == "/metrics" and scope["method"] == "GET":
            if not local and not self._scrapes(headers):
                await self._identify(scope, headers)
            return Response(await self.worker.exposition.render(), media_type="text/plain; version=0.0.4")
        if path.startswith("/dashboard/"):
            answer = await self.logins.answer(scope, receive, headers)
            if answer is not None:
                return answer
        if not path.startswith(f"{PREFIX}/"):
            raise AdminError(404, "not_found", "The gateway does not serve this path.")
        scope[CALLER] = caller = await self._identify(scope, headers)
        body = await read_body(receive, headers)
        if body is None:
            return None
        if caller.session is not None and (body or b"content-type" in headers):
            ensure_json(headers)
        # A token is no ambient credential, so nothing is lost when `curl -d` forgets to say that it is JSON.
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name.lower() != b"content-type"),
            (b"content-type", b"application/json"),
        ]
        return _replayed(body, receive)

    def _scrapes(self, headers: dict[bytes, bytes]) -> bool:
        token = self.worker.settings.metrics_token
        return token is not None and hmac.compare_digest(bearer(headers), token.encode())

    async def _identify(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        # A proxy may have put `Basic` there for itself; a bearer token is ours, right or wrong.
        if not _is_bearer(headers) and (cookie := session_cookie(scope["headers"])):
            caller = await self.operators.of_session(cookie)
            if caller is not None:
                ensure_own_page(scope["method"], headers, self.operators.sessions, cookie)
                return caller
            if self.operators.sessions.is_ours(cookie):
                # A session that is over is no attempt to guess one.
                raise unauthorized()
        else:
            token = bearer(headers)
            caller = self.operators.identify(token) if token else None
            if caller is not None:
                return caller
        # Only failures are counted: nobody can lock the operators of a shared address out.
        self.limits.ensure_failure(address_of(scope))
        raise unauthorized()


_SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""For whatever opens an answer in a browser's window. A page's own policy stands in place of this one."""


def with_security_headers(send: Send) -> Send:
    """`send`, with these headers in each answer that has none of their name."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in _SECURITY_HEADERS if pair[0] not in there]
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return guarded


def unauthorized() -> AdminError:
    """The one answer to every failed authentication."""
    return AdminError(401, "unauthorized", "A valid admin token is needed: Authorization: Bearer ….")


def _no_sessions() -> AdminError:
    return AdminError(
        503,
        "ledger_unavailable",
        "The ledger cannot say who is logged in; a token in Authorization: Bearer … is taken all the same.",
        retry_after_s=2,
    )


def address_of(scope: Scope) -> str:
    """Where a request comes from, as far as this listener sees."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def single_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name in lower case. Raises `AdminError` 400 where a second one could change who may come
    in."""
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        name = name.lower()
        if name in _SINGLE and name in headers:
            raise AdminError(400, "invalid_request", f"The header {name.decode('latin-1')!r} is there twice.")
        headers[name] = value
    return headers


def listens_on_loopback(settings: Settings) -> bool:
    """Whether the admin plane can be reached from this machine alone."""
    return settings.admin_on_loopback


def ensure_no_foreign_page(
    headers: dict[bytes, bytes], *, local: bool, public_url: str | None = None
) -> None:
    """A web page must not drive the admin plane, neither by its own origin nor by a name that it points at
    this machine. `public_url` is ours too. Raises `AdminError` 403."""
    host = headers.get(b"host", b"").lower()
    if local and not _is_this_machine(host_name(host)):
        raise AdminError(
            403, "forbidden_host", "The admin plane serves this machine alone: Host has to be it."
        )
    origin = headers.get(b"origin")
    if origin is None:
        return
    scheme, _, authority = origin.lower().partition(b"://")
    ours = authority == host and bool(host)
    if public_url is not None:
        public = urlsplit(public_url)
        if authority == public.netloc.lower().encode():
            ours = scheme == public.scheme.encode()
    if not ours:
        raise AdminError(403, "forbidden_origin", "The admin plane answers no other origin than its own.")


def ensure_own_page(method: str, headers: dict[bytes, bytes], sessions: Sessions, cookie: bytes) -> None:
    """What comes with a cookie has to come from a page of ours. `ensure_no_foreign_page` was asked before.

    Raises `AdminError` 403.
    """
    ensure_same_site(headers, strict=method not in SAFE_METHODS)
    if method not in SAFE_METHODS and not sessions.csrf_fits(cookie, headers.get(b"x-csrf-token", b"")):
        raise AdminError(
            403, "forbidden_csrf", "x-csrf-token has to be the `csrf` of GET /dashboard/session."
        )


def ensure_same_site(headers: dict[bytes, bytes], *, strict: bool) -> None:
    """Where a browser says whence a request comes, it has to be a page of ours, or the address bar.

    `strict` asks for a page of ours, and for a browser that says so. Raises `AdminError` 403.
    """
    site = headers.get(b"sec-fetch-site")
    allowed = (b"same-origin",) if strict else (b"same-origin", b"none")
    if (site is not None and site not in allowed) or (strict and site is None and b"origin" not in headers):
        raise AdminError(403, "forbidden_origin", "A session's requests have to come from its own pages.")


def ensure_json(headers: dict[bytes, bytes]) -> None:
    """No form may be sent with a cookie. Raises `AdminError` 415."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise AdminError(415, "unsupported_media_type", "Content-Type has to be application/json.")


def _is_this_machine(host: str) -> bool:
    try:
        return host in LOOPBACK_HOSTS or ip_address(host).is_loopback
    except ValueError:
        return False


async def read_body(
    receive: Receive, headers: dict[bytes, bytes], limit: int = MAX_BODY_BYTES
) -> bytes | None:
    """The body; None when the client left. Raises `AdminError`."""
    too_large = AdminError(413, "request_too_large", f"The body is larger than {limit} bytes.")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
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
                if len(body) > limit:
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
        await self.worker.ledger.audit_append([self.entry(action, details)])

    def entry(self, action: str, details: Json) -> AuditEntry:
        """The record of a change, for a ledger that writes both at once."""
        return AuditEntry(self.caller.name, action, details, self.now())

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
