"""Every route of both planes, found by the application itself: who comes in, by which spelling, with what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.testing import ProviderServer
from gateway.web import data_plane, model_list
from tests.integration.admin.test_roles import routes
from tests.security.conftest import policy_of
from tests.security.raw import Answer, Connection, Ended, chat, post
from tests.security.smuggling import BOB, MALLORY
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway, threaded_gateway

OPEN = ["/healthz", "/readyz", "/metrics", "/dashboard", "/dashboard/"]
"""What answers without a credential, on loopback."""
LOGINS = ["/dashboard/session", "/dashboard/oidc/login", "/dashboard/oidc/callback"]


def data_routes() -> list[tuple[str, str]]:
    """(method, path) of everything that the data plane serves, as its own tables say."""
    posts = [path.decode() for path in (*data_plane._STEPS, *data_plane._COUNT_TOKENS)]
    stored = [
        (method, f"/v1/responses/resp_123{'/' + action if action else ''}")
        for action, methods in data_plane._STORED_METHODS.items()
        for method in methods
    ]
    listed = [("GET", model_list.PATH.decode()), ("GET", f"{model_list.PATH.decode()}/sim/echo")]
    handed_on = [("POST", "/v1/audio/speech"), ("GET", "/v1/files/file_123/content")]
    plain = [*(("POST", path) for path in posts), *stored, *listed, *handed_on]
    # `/messages` is a base URL's own doing and has no run in front.
    return plain + [(method, f"/r/run-1{path}") for method, path in plain if path.startswith("/v1/")]


def admin_routes(gateway: ThreadedGateway) -> list[tuple[str, str]]:
    """(method, path) of every route of the admin plane."""
    return [(method, f"/admin/v1{path}") for method, path, _ in routes(gateway)]


def call(gateway: ThreadedGateway, method: str, path: str, *lines: str, body: bytes = b"{}") -> Answer | None:
    """The answer; None for bytes that the gateway cuts off without a word."""
    raw = post(None, body, b"Content-Type: application/json", *(each.encode("latin-1") for each in lines))
    raw = raw.replace(b"POST /v1/chat/completions ", f"{method} {path} ".encode("latin-1"), 1)
    raw = raw.replace(b"Host: gateway.example", b"Host: 127.0.0.1", 1)
    with Connection(gateway.port) as line:
        line.send(raw)
        try:
            return line.read(method=method)
        except Ended:
            return None


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


@pytest.fixture(autouse=True)
def unlimited(gateway: ThreadedGateway) -> None:
    """Failed authentications are limited; here each is asked for its own sake."""
    forget_failures(gateway)


def forget_failures(gateway: ThreadedGateway) -> None:
    assert gateway.app is not None
    app: Any = gateway.app._admin
    while not hasattr(app, "state"):
        app = app.app
    app.state.limits.limiter.reset()


def test_the_tables_hold_what_the_contract_promises(gateway: ThreadedGateway) -> None:
    paths = {path for _, path in data_routes()}
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/completions",
            "/v1/moderations", "/v1/models", "/v1/messages/count_tokens", "/r/run-1/v1/messages"} <= paths  # fmt: skip
    assert {"/admin/v1/kills", "/admin/v1/runs", "/admin/v1/policy", "/admin/v1/keys"} <= {
        path for _, path in admin_routes(gateway)
    }


CREDENTIALS = [
    [],
    [bearer("wrong")],
    [bearer(ADMIN_TOKEN)],
    [f"X-Api-Key: {ADMIN_TOKEN}"],
    ["Cookie: gg_session=" + "A" * 43 + "." + "0" * 32],
    [f"Cookie: authorization=Bearer {BOB}"],
    [f"X-Forwarded-Authorization: Bearer {BOB}"],
    [f"X-Original-Authorization: Bearer {BOB}"],
    [f"Proxy-Authorization: Bearer {BOB}"],
    [f"Authorization: {BOB}"],
    [f"Authorization: Bearer{BOB}"],
    [f"Authorization: Token {BOB}"],
    [f"Authorization: Bearer {BOB[:-1]}"],
    [f"Authorization: Bearer {BOB} x"],
    [f"Authorization: Bearer {BOB.upper()}"],
    [f"Authorization: Bearer {BOB},{MALLORY}"],
    [bearer(BOB), f"X-Api-Key: {MALLORY}"],
]


@pytest.mark.parametrize("lines", CREDENTIALS, ids=repr)
def test_no_route_of_the_data_plane_serves_a_caller_without_a_key(
    gateway: ThreadedGateway, provider: ProviderServer, lines: list[str]
) -> None:
    generic = call(gateway, "POST", "/v1/chat/completions")
    assert generic is not None
    for method, path in data_routes():
        answer = call(gateway, method, path, *lines, body=chat("sim/echo", "x"))
        assert answer is not None
        assert (answer.status, answer.header("x-should-retry")) == (401, "false"), (method, path)
        assert b"The API key is missing or not valid for this gateway." in answer.body
        assert BOB[:9].encode() not in answer.body
    assert len(provider.journal) == 0


@pytest.mark.parametrize(
    "lines",
    [
        [bearer(BOB)], [f"X-Api-Key: {BOB}"], [f"X-Admin-Token: {ADMIN_TOKEN}"], [f"Authorization: Basic {ADMIN_TOKEN}"],
        [f"Authorization: {ADMIN_TOKEN}"], [bearer(ADMIN_TOKEN[:-1])], [bearer(ADMIN_TOKEN + "x")],
        [f"Cookie: gg_session={ADMIN_TOKEN}"], [f"Proxy-Authorization: Bearer {ADMIN_TOKEN}"],
    ],
    ids=repr,
)  # fmt: skip
def test_no_route_of_the_admin_plane_serves_a_key_of_the_other(
    gateway: ThreadedGateway, lines: list[str]
) -> None:
    for method, path in admin_routes(gateway):
        forget_failures(gateway)
        answer = call(gateway, method, path, *lines)
        assert answer is not None
        assert (answer.status, answer.code) == (401, "unauthorized"), (method, path)
        for query in (f"?token={ADMIN_TOKEN}", f"?authorization=Bearer%20{ADMIN_TOKEN}"):
            asked = call(gateway, method, path + query)
            assert asked is not None
            assert asked.status == 401


def test_two_credentials_on_the_admin_plane_are_none(gateway: ThreadedGateway) -> None:
    for first, second in (("wrong", ADMIN_TOKEN), (ADMIN_TOKEN, "wrong"), (ADMIN_TOKEN, ADMIN_TOKEN)):
        answer = call(gateway, "GET", "/admin/v1/runs", bearer(first), bearer(second))
        assert answer is not None
        assert answer.status == 400


OVERRIDES = ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE",
             "X-Original-Method: DELETE"]  # fmt: skip


def test_no_header_and_no_query_changes_the_method(gateway: ThreadedGateway) -> None:
    made = gateway.admin("POST", "/tokens", {"name": "kept", "role": "viewer"})
    for path in (f"/admin/v1/tokens/{made['id']}", f"/admin/v1/tokens/{made['id']}?_method=DELETE"):
        for method in ("GET", "POST"):
            answer = call(gateway, method, path, bearer(ADMIN_TOKEN), *OVERRIDES)
            assert answer is not None
            assert answer.status in (404, 405)
    assert made["id"] in [each["id"] for each in gateway.admin("GET", "/tokens")["data"]]
    gateway.admin("DELETE", f"/tokens/{made['id']}")


def spellings(path: str) -> Iterator[str]:
    """Other ways to write a path, which another server may take for the same."""
    first, rest = path[1:].partition("/")[0], path[1:].partition("/")[2]
    yield f"/{path}"
    yield f"//{first}//{rest}"
    yield f"/./{first}/{rest}"
    yield f"/{first}/./{rest}"
    yield f"/x/..{path}"
    yield f"/x/%2e%2e{path}"
    yield f"/x/..%2f{path[1:]}"
    yield f"/{first}%2f{rest}"
    yield f"/%{ord(first[0]):02x}{first[1:]}/{rest}"
    yield f"/{first.swapcase()}/{rest}"
    yield f"/{first};a=b/{rest}"
    yield f"/{first}/{rest};a=b"
    yield f"{path}/"
    yield f"{path}/."
    yield f"{path}%00"
    yield f"{path}%20"
    yield f"{path}%3f"
    yield f"{path}%23"
    yield f"/{first}\\{rest}"
    yield f"{path}\\"
    yield f"/%2561{path}"


def test_no_other_spelling_leads_past_the_door(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    """With no credential nothing is served; with one, nothing but the path itself."""
    for method, path in [*data_routes(), *admin_routes(gateway)]:
        for spelling in spellings(path):
            forget_failures(gateway)
            answer = call(gateway, method, spelling)
            assert answer is None or answer.status in (400, 401, 404, 405), (method, spelling, answer)
    assert len(provider.journal) == 0


def test_no_other_spelling_is_the_path(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    for spelling in spellings("/v1/chat/completions"):
        answer = call(gateway, "POST", spelling, bearer(BOB), body=chat("sim/echo", "x"))
        assert answer is None or answer.status in (400, 404), spelling
    assert len(provider.journal) == 0
    for path in ("/admin/v1/runs", "/metrics"):
        for spelling in spellings(path):
            answer = call(gateway, "GET", spelling, bearer(ADMIN_TOKEN))
            assert answer is None or answer.status in (400, 401, 404), spelling


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Original-URL: /admin/v1/runs"], ["X-Rewrite-URL: /admin/v1/runs"], ["X-Forwarded-Prefix: /admin/v1"],
        ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"], ["Forwarded: for=127.0.0.1;host=127.0.0.1"],
        ["X-Forwarded-Host: 127.0.0.1"], ["X-Forwarded-User: admin", "Remote-User: admin", "X-Remote-User: admin"],
    ],
    ids=repr,
)  # fmt: skip
def test_no_header_of_a_proxy_opens_a_door(gateway: ThreadedGateway, headers: list[str]) -> None:
    for path in ("/v1/models", "/admin/v1/runs", "/admin/v1/policy"):
        answer = call(gateway, "GET", path, *headers)
        assert answer is not None
        assert answer.status == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example#@127.0.0.1", "127.0.0.1/#@y",
     "localhost.evil.example", "[::1].evil.example", "127.0.0.1:80:80", "", "x/#@y/v1/models?"],
)  # fmt: skip
def test_host_leads_nowhere_and_opens_nothing(gateway: ThreadedGateway, host: str) -> None:
    for path, key, expected in (
        ("/v1/models", None, (401,)),
        ("/v1/nothing", BOB, (404,)),
        ("/admin/v1/runs", ADMIN_TOKEN, (403,)),
        ("/dashboard", None, (403,)),
    ):
        lines = [bearer(key)] if key else []
        raw = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()
        with Connection(gateway.port) as line:
            line.send(raw)
            assert line.read().status in expected, (host, path)


# -- the answer to a failure, and what each answer tells a browser ------------------------------------


def test_an_unknown_a_malformed_and_a_revoked_key_get_one_answer(gateway: ThreadedGateway) -> None:
    made = gateway.admin("POST", "/keys", {"name": "short-lived"})
    secret = made["key"]
    assert call(gateway, "GET", "/v1/models", bearer(secret)).status == 200  # type: ignore[union-attr]
    gateway.admin("DELETE", f"/keys/{made['id']}")
    told = set()
    for lines in (
        [],
        [bearer("wrong")],
        [bearer("")],
        [bearer(secret)],
        [bearer("\xff" * 40)],
        [bearer("a" * 5000)],
    ):
        answer = call(gateway, "GET", "/v1/models", *lines)
        assert answer is not None
        body = re.sub(rb'"(request_id|decision_id)":"[^"]*"', b"", answer.body)
        told.add((answer.status, re.sub(rb"(req|dec)_\w+", b"", body)))
    assert len(told) == 1


def test_every_answer_of_the_admin_plane_is_safe_in_a_browser(gateway: ThreadedGateway) -> None:
    """A policy for content, no sniffing, no frame, no cache, whatever is asked and however it ends."""
    places = [
        ("GET", path)
        for path in (*OPEN[2:], *LOGINS, "/dashboard/static/none.js", "/admin/v1/none", "/dashboard/none")
    ]
    assert gateway.app is not None
    dashboard: Any = gateway.app._admin
    places += [("GET", path) for path in dashboard.assets]
    places += admin_routes(gateway)
    for method, path in places:
        if path.endswith("/events"):
            continue
        for lines in ([], [bearer(ADMIN_TOKEN)], [bearer(ADMIN_TOKEN), "Origin: https://evil.example"]):
            forget_failures(gateway)
            answer = call(gateway, method, path, *lines, body=b"{")
            assert answer is not None
            place = (method, path, lines, answer.status)
            policy = answer.header("content-security-policy") or ""
            assert "default-src 'none'" in policy, place
            assert "frame-ancestors 'none'" in policy, place
            assert "unsafe" not in policy, place
            assert answer.header("x-content-type-options") == "nosniff", place
            assert answer.header("x-frame-options") == "DENY", place
            assert answer.header("access-control-allow-origin") is None, place
            cache = answer.header("cache-control") or ""
            assert cache == "no-store" or path in dashboard.assets, place


def test_a_preflight_is_never_answered(gateway: ThreadedGateway) -> None:
    for path in ("/v1/chat/completions", "/v1/models", "/admin/v1/kills"):
        answer = call(
            gateway, "OPTIONS", path, "Origin: https://evil.example", "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization",
        )  # fmt: skip
        assert answer is not None
        assert answer.status >= 400
        assert not [name for name, _ in answer.headers if name.startswith("access-control-")]


def test_beyond_loopback_metrics_need_a_token(shared_provider: ProviderServer, tmp_path: Any) -> None:
    with threaded_gateway(
        policy_of(shared_provider),
        tmp_path / "gateway",
        host="0.0.0.0",
        admin_listen="same",
        metrics_token="scrape-me-0123456789",
    ) as far:
        for path in ("/metrics", "/admin/v1/runs"):
            assert call(far, "GET", path).status == 401  # type: ignore[union-attr]
            assert call(far, "GET", path, bearer(BOB)).status == 401  # type: ignore[union-attr]
        assert call(far, "GET", "/metrics", bearer("scrape-me-0123456789")).status == 200  # type: ignore[union-attr]
        assert call(far, "GET", "/admin/v1/runs", bearer("scrape-me-0123456789")).status == 401  # type: ignore[union-attr]
        assert MALLORY not in repr(call(far, "GET", "/metrics", bearer("scrape-me-0123456789")))
