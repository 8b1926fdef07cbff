"""Logging in and out of the dashboard: with an admin token, or by way of an OpenID provider.

    POST   /dashboard/session          a token for a session
    GET    /dashboard/session          who is logged in, and the CSRF token
    DELETE /dashboard/session          out
    GET    /dashboard/oidc/login       to the provider
    GET    /dashboard/oidc/callback    back from it, with a session or with a page that says why not

What is needed when the browser comes back from the provider travels with it in a cookie, sealed, so that any
replica can end what another began; that a state comes back once is in the ledger.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
from dataclasses import astuple, dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi.responses import Response

from gateway.domain import Json
from gateway.roles import role_of
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_sessions import Source
from gateway.web.admin_gate import (
    AdminError,
    Caller,
    Limits,
    Operators,
    address_of,
    ensure_json,
    ensure_own_page,
    ensure_same_site,
    error_response,
    oidc_terms,
    read_body,
    unauthorized,
)
from gateway.web.admin_views import stamp
from gateway.web.asgi import Receive, Scope
from gateway.web.oidc import SKEW_S, Login, LoginRefused, Provider, ProviderUnavailable
from gateway.web.sessions import COOKIE, cookies, session_cookie, set_cookie

if TYPE_CHECKING:
    from gateway.app import Worker

log = logging.getLogger("gateway.admin")

OIDC_CALLBACK = "/dashboard/oidc/callback"
LOGIN_COOKIE = b"gg_login"
LOGIN_FOR_S = 600
"""How long a person may take at the provider."""
MAX_BODY_BYTES = 8 * 1024
"""A token and the JSON around it. Nobody has said yet who he is."""
MAX_NAME = 200
MAX_PARAMETERS = 20

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}"
)
_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(slots=True)
class DashboardLogins:
    """Answers what is asked for under `/dashboard` to log in and out; implements `admin_gate.Logins`."""

    worker: Worker
    operators: Operators
    limits: Limits
    provider: Provider | None

    async def answer(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Response | None:
        """See `admin_gate.Logins`."""
        match scope["path"], scope["method"]:
            case "/dashboard/session", "GET":
                return await self._who(scope, headers)
            case "/dashboard/session", "POST":
                return await self._log_in(scope, receive, headers)
            case "/dashboard/session", "DELETE":
                return await self._log_out(scope, headers)
            case "/dashboard/oidc/login", "GET":
                return await self._to_provider(scope, headers)
            case "/dashboard/oidc/callback", "GET":
                return await self._from_provider(scope, headers)
            case (("/dashboard/session" | "/dashboard/oidc/login" | "/dashboard/oidc/callback"), _):
                raise AdminError(405, "method_not_allowed", "Method Not Allowed")
        return None

    # -- by token ------------------------------------------------------------------------------------

    async def _who(self, scope: Scope, headers: dict[bytes, bytes]) -> Response:
        cookie = session_cookie(scope["headers"])
        caller = await self.operators.of_session(cookie) if cookie else None
        if caller is None or caller.session is None:
            # Whoever may log in at all is told how, and no more.
            raw = bytes(error_response(unauthorized()).body)
            return _json(401, {**orjson.loads(raw), "oidc": self.provider is not None})
        ensure_own_page("GET", headers, self.operators.sessions, cookie)
        record = await self.operators.sessions.standing(caller.session)
        if record is None:
            raise unauthorized()
        return _json(
            200,
            {
                "name": record.name,
                "role": record.role,
                "csrf": self.operators.sessions.csrf(cookie),
                "oidc": self.provider is not None,
                "source": record.source,
                "expires_at": stamp(record.expires_at),
            },
        )

    async def _log_in(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Response | None:
        ensure_same_site(headers, strict=b"sec-fetch-site" in headers)
        ensure_json(headers)
        body = await read_body(receive, headers, MAX_BODY_BYTES)
        if body is None:
            return None
        token = _token(body)
        caller = self.operators.identify(token) if token else None
        if caller is None:
            self.limits.ensure_failure(address_of(scope))
            raise unauthorized()
        self.limits.ensure_request(caller)
        cookie = await self._begin(scope, caller, "admin" if caller.token is None else "token", {})
        return Response(status_code=204, headers={"set-cookie": cookie})

    async def _log_out(self, scope: Scope, headers: dict[bytes, bytes]) -> Response:
        cookie = session_cookie(scope["headers"])
        caller = await self.operators.of_session(cookie) if cookie else None
        if caller is None or caller.session is None:
            raise unauthorized()
        ensure_own_page("DELETE", headers, self.operators.sessions, cookie)
        record = await self.operators.sessions.standing(caller.session)
        if record is not None:
            await self.operators.sessions.end(record.id, caller.name, "session.logout")
        return Response(status_code=204, headers={"set-cookie": self._set(scope, COOKIE, "", "Strict", 0)})

    async def _begin(self, scope: Scope, caller: Caller, source: Source, details: Json) -> str:
        """A new session in place of the browser's old one; the cookie to set."""
        sessions = self.operators.sessions
        if old := session_cookie(scope["headers"]):
            before = await sessions.find(old)
            if before is not None:
                await sessions.end(before.id, before.name, "session.logout")
        value = await sessions.begin(
            name=caller.name,
            role=caller.role,
            source=source,
            token=caller.token,
            secret=caller.secret or "",
            address=address_of(scope),
            details=details,
        )
        return self._set(scope, COOKIE, value, "Strict")

    def _set(
        self, scope: Scope, name: bytes, value: str, same_site: str, max_age_s: int | None = None
    ) -> str:
        public = self.worker.settings.public_url or ""
        secure = scope.get("scheme") == "https" or public.startswith("https://")
        return set_cookie(name, value, same_site=same_site, secure=secure, max_age_s=max_age_s)

    # -- by provider ---------------------------------------------------------------------------------

    async def _to_provider(self, scope: Scope, headers: dict[bytes, bytes]) -> Response:
        provider = self._provider()
        login = Login.begin(self.worker.clock(), self._back_to(scope, headers))
        try:
            address = await provider.login_url(login)
        except ProviderUnavailable as error:
            return self._refused(headers, _unavailable(error))
        sealed = self._set(scope, LOGIN_COOKIE, self._sealed(login), "Lax", LOGIN_FOR_S)
        return _redirect(address, [sealed])

    async def _from_provider(self, scope: Scope, headers: dict[bytes, bytes]) -> Response:
        provider = self._provider()
        gone = self._set(scope, LOGIN_COOKIE, "", "Lax", 0)
        try:
            caller, details = await self._person(provider, scope)
            cookie = await self._begin(scope, caller, "oidc", details)
        except ProviderUnavailable as error:
            return self._refused(headers, _unavailable(error), gone)
        except LoginRefused as error:
            log.warning("a login by OIDC from %s does not count: %s", address_of(scope), error)
            self.limits.ensure_failure(address_of(scope))
            problem = AdminError(403, "login_refused", f"The login does not count: {error}.")
            return self._refused(headers, problem, gone)
        public = (self.worker.settings.public_url or "").rstrip("/")
        return _redirect(f"{public}/dashboard", [gone, cookie], status=303)

    async def _person(self, provider: Provider, scope: Scope) -> tuple[Caller, Json]:
        """Who has come back, and what the audit log keeps of that. Raises `LoginRefused`."""
        answer = _parameters(scope["query_string"])
        login = self._opened(cookies(scope["headers"], LOGIN_COOKIE))
        state = answer.get("state", "")
        now = self.worker.clock()
        if login is None or not hmac.compare_digest(state.encode(), login.state.encode()):
            raise LoginRefused(
                "it has to begin and end in the same browser, at the same address and within "
                f"{LOGIN_FOR_S // 60} minutes"
            )
        once = self.worker.secrets.digest(f"login:{login.state}")
        until = now + (LOGIN_FOR_S + 2 * SKEW_S) * 1000
        if not await self.worker.ledger.claim_login(once, at=now, until=until):
            raise LoginRefused("it has come back before")
        if "error" in answer:
            raise LoginRefused("the provider did not let you in")
        if not answer.get("code"):
            raise LoginRefused("the provider sent no code")
        claims = await provider.claims(login, answer["code"], answer.get("iss"))
        rule = role_of(claims, self.worker.settings.role_rules)
        name, details = _named(claims)
        if rule is None:
            details["address"] = address_of(scope)
            await self.worker.ledger.audit_append([AuditEntry(name, "session.refuse", details, now)])
            raise LoginRefused("you have no role here; GATEWAY_OIDC_ROLES gives them")
        details["role_by"] = f"{rule.claim}:{rule.value}"
        terms = self.worker.secrets.digest(oidc_terms(self.worker.settings))
        return Caller(name, rule.role, secret=terms), details

    def _provider(self) -> Provider:
        if self.provider is None:
            raise AdminError(404, "not_found", "Login by OIDC is not set up: GATEWAY_OIDC_ISSUER.")
        return self.provider

    def _back_to(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """Our callback as the browser reaches it. Without a public URL it is this machine's own `Host`, which
        the gate has looked at."""
        public = self.worker.settings.public_url
        if public is None:
            public = f"{scope.get('scheme', 'http')}://{headers.get(b'host', b'').decode('latin-1')}"
        return public.rstrip("/") + OIDC_CALLBACK

    def _refused(self, headers: dict[bytes, bytes], error: AdminError, *set_cookies: str) -> Response:
        """A page for people, JSON for everyone else."""
        if b"text/html" in headers.get(b"accept", b""):
            response = Response(_page(error, self._home()), error.status, media_type="text/html")
            response.headers["content-security-policy"] = _POLICY
        else:
            response = error_response(error)
        return _with(response, set_cookies)

    def _home(self) -> str:
        """The path of the dashboard, as a browser sees it."""
        return urlsplit(self.worker.settings.public_url or "").path.rstrip("/") + "/dashboard"

    # -- what travels with the browser ---------------------------------------------------------------

    def _sealed(self, login: Login) -> str:
        nonce = os.urandom(12)
        raw = orjson.dumps(astuple(login))
        return base64.urlsafe_b64encode(nonce + self._boxes()[0].encrypt(nonce, raw, LOGIN_COOKIE)).decode()

    def _opened(self, values: list[bytes]) -> Login | None:
        """The login that this browser has begun; None for none, for several and for an old one."""
        if len(values) != 1 or len(values[0]) > 4096:
            return None
        try:
            sealed = base64.urlsafe_b64decode(values[0])
        except (ValueError, binascii.Error):
            return None
        for box in self._boxes():
            try:
                login = Login(*orjson.loads(box.decrypt(sealed[:12], sealed[12:], LOGIN_COOKIE)))
            except (InvalidTag, ValueError):
                continue
            # The clocks of two replicas may differ a little.
            age_s = (self.worker.clock() - login.begun_at) / 1000
            fresh: bool = -SKEW_S <= age_s < LOGIN_FOR_S
            return login if fresh else None
        return None

    def _boxes(self) -> list[AESGCM]:
        return [AESGCM(bytes.fromhex(key)) for key in self.worker.secrets.digests("oidc-login")]


# -- parts -------------------------------------------------------------------------------------------


def _token(body: bytes) -> bytes:
    """The token of `{"token": "…"}`. Raises `AdminError` 400."""
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError:
        sent = None
    if not isinstance(sent, dict) or set(sent) != {"token"} or not isinstance(sent["token"], str):
        raise AdminError(400, "invalid_request", 'The body has to be {"token": "…"}.')
    return sent["token"].strip().encode()


def _parameters(query: bytes) -> dict[str, str]:
    """What the provider sent along; nothing may be there twice. Raises `LoginRefused`."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict"
        )
    except ValueError:
        raise LoginRefused("the provider's answer cannot be read") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise LoginRefused("the provider's answer says something twice")
    return dict(pairs)


def _named(claims: Json) -> tuple[str, Json]:
    """What a person is called, and who that is. An address that nobody has verified never stands alone:
    people could choose another's."""
    subject = _printable(claims["sub"])
    email = _printable(claims["email"]) if isinstance(claims.get("email"), str) else ""
    details: Json = {"sub": subject, "email": email or None}
    if email and claims.get("email_verified") is True:
        return f"oidc:{email}", details
    return f"oidc:{subject} ({email})" if email else f"oidc:{subject}", details


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)[:MAX_NAME]


def _unavailable(error: ProviderUnavailable) -> AdminError:
    log.error("the OIDC provider cannot be asked: %s", error)
    return AdminError(
        503,
        "oidc_unavailable",
        "The login provider does not answer. Log in with an admin token, or try again in a moment.",
        retry_after_s=5,
    )


def _json(status: int, body: Json) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return Response(orjson.dumps(body), status, headers, "application/json")


def _redirect(address: str, set_cookies: list[str], status: int = 302) -> Response:
    return _with(Response(status_code=status, headers={"location": address}), set_cookies)


def _with(response: Response, set_cookies: list[str] | tuple[str, ...]) -> Response:
    for each in set_cookies:
        response.headers.append("set-cookie", each)
    # The address may hold a code.
    response.headers["referrer-policy"] = "no-referrer"
    return response


def _page(error: AdminError, home: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>No login</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style><h1>No login</h1><p>{escape(error.message)}</p>"
        f'<p><a href="{escape(home)}">To the dashboard</a></p></html>'
    )
