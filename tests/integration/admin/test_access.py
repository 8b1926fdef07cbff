"""Who may do what: every route with every kind of credential, and attempts to get around the door."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.web.admin_gate import MAX_BODY_BYTES
from tests.integration.admin.calls import Admin, Roles
from tests.support.gateway import ADMIN_TOKEN, ALICE

POLICY = {"policy": "version: 1"}
REASON = {"reason": "test"}

# method, path, least role, a body that is understood, what the least role is answered
ROUTES: list[tuple[str, str, str, Any, int]] = [
    ("POST", "/kills", "operator", {"scope": "user", "id": "nobody", **REASON}, 201),
    ("GET", "/kills", "viewer", None, 200),
    ("DELETE", "/kills/global", "operator", None, 404),
    ("DELETE", "/kills/user/nobody-else", "operator", None, 404),
    ("GET", "/runs", "viewer", None, 200),
    ("GET", "/runs/run_none", "viewer", None, 404),
    ("GET", "/runs/run_none/steps", "viewer", None, 404),
    ("POST", "/runs/run_none/kill", "operator", REASON, 404),
    ("GET", "/spend", "viewer", None, 200),
    ("GET", "/budgets", "viewer", None, 200),
    ("GET", "/budgets/user-day/topups", "viewer", None, 200),
    ("POST", "/budgets/none/topups", "operator", {"id": "x", "amount_usd": "1", **REASON}, 404),
    ("GET", "/breakers", "viewer", None, 200),
    ("POST", "/breakers/model:sim/echo/reset", "operator", None, 404),
    ("GET", "/policy", "viewer", None, 200),
    ("GET", "/policy/versions", "viewer", None, 200),
    ("GET", "/policy/versions/abc", "viewer", None, 404),
    ("GET", "/policy/versions/abc/diff", "viewer", None, 404),
    ("GET", "/policy/rollout", "viewer", None, 200),
    ("POST", "/policy/validate", "operator", POLICY, 200),
    ("POST", "/policy", "admin", {**POLICY, "share": 0}, 201),
    ("POST", "/policy/rollback", "admin", {"version": "abc"}, 404),
    ("POST", "/screen", "operator", {"text": "Hello", "channel": "user"}, 200),
    ("GET", "/approvals", "viewer", None, 200),
    ("GET", "/approvals/none", "viewer", None, 404),
    ("POST", "/approvals/none", "operator", {"decision": "deny", **REASON}, 404),
    ("GET", "/keys", "admin", None, 200),
    ("POST", "/keys", "admin", {"name": "made-for-access"}, 201),
    ("POST", "/keys/key_none/rotate", "admin", {}, 404),
    ("DELETE", "/keys/key_none", "admin", None, 404),
    ("GET", "/tokens", "admin", None, 200),
    ("POST", "/tokens", "admin", {"name": "made-for-access", "role": "viewer"}, 201),
    ("POST", "/tokens/tok_none/rotate", "admin", {"grace_s": 60}, 404),
    ("DELETE", "/tokens/tok_none", "admin", None, 404),
    ("GET", "/sessions", "admin", None, 200),
    ("DELETE", "/sessions/ses_none", "admin", None, 404),
    ("GET", "/audit", "viewer", None, 200),
    ("GET", "/audit/head", "viewer", None, 200),
    ("GET", "/audit/verify", "viewer", None, 200),
    ("POST", "/audit/accept", "admin", REASON, 200),
    ("GET", "/alerts", "viewer", None, 200),
    ("GET", "/alerts/receivers", "viewer", None, 200),
    ("POST", "/alerts/none/test", "operator", None, 404),
    ("GET", "/doctor", "operator", None, 200),
    ("GET", "/doctor/worker", "viewer", None, 200),
    ("GET", "/openapi.json", "viewer", None, 200),
]
ORDER = ("viewer", "operator", "admin")


@pytest.fixture(autouse=True)
def failures_are_not_limited(admin: Admin) -> Iterator[None]:
    """These tests fail to authenticate on purpose, more often than anybody may."""
    _reset(admin)
    yield
    _reset(admin)


def _reset(admin: Admin) -> None:
    app: Any = admin.gateway.app
    app._admin.app.limits.limiter.reset()


@pytest.mark.parametrize(("method", "path", "role", "body", "status"), ROUTES)
def test_each_route_serves_its_role_and_those_above(
    admin: Admin, roles: Roles, method: str, path: str, role: str, body: Any, status: int
) -> None:
    tokens = {"viewer": roles.viewer, "operator": roles.operator, "admin": roles.admin}
    for each in ORDER:
        answer = admin.call(method, path, body, token=tokens[each])
        if ORDER.index(each) < ORDER.index(role):
            assert (answer.status, answer.code) == (403, "forbidden")
        elif each == role:
            assert answer.status == status, answer.raw
        else:
            assert answer.status not in (401, 403), answer.raw
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path", "role", "body", "status"), ROUTES)
def test_without_an_admin_token_every_route_answers_the_same_401(
    admin: Admin, method: str, path: str, role: str, body: Any, status: int
) -> None:
    generic = admin.call("GET", "/no/such/route", token=None)
    for token in (None, "wrong", "", ALICE, "gt_" + "x" * 43, ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1]):
        _reset(admin)
        answer = admin.call(method, path, body, token=token if token != "" else " ")
        assert answer.status == 401
        assert answer.raw == generic.raw
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_table_names_routes_that_there_are(admin: Admin) -> None:
    """That no route lets anybody in too easily is tested for all of them in test_roles.py."""
    document = admin.get("/openapi.json")
    offered = {
        (method.upper(), path.removeprefix("/admin/v1"))
        for path, item in document["paths"].items()
        for method in item
    }
    for method, path, *_ in ROUTES:
        fitting = [o for o in offered if o[0] == method and re.fullmatch(_pattern(o[1]), path)]
        assert fitting, (method, path)
    assert document["security"] == [{"bearer": []}, {"session": []}]


def _pattern(path: str) -> str:
    return re.sub(r"\{[a-z_]+\}", "[^/]+", re.sub(r"\{(target|breaker)\}", ".+", path))


def test_events_need_a_token(admin: Admin) -> None:
    assert admin.call("GET", "/events", token=None).code == "unauthorized"


def test_a_token_counts_only_as_bearer(admin: Admin) -> None:
    for headers in (
        {"authorization": ADMIN_TOKEN},
        {"authorization": f"Basic {ADMIN_TOKEN}"},
        {"x-api-key": ADMIN_TOKEN},
        {"cookie": f"token={ADMIN_TOKEN}"},
    ):
        assert admin.call("GET", "/runs", token=None, headers=headers).status == 401
    assert admin.call("GET", f"/runs?token={ADMIN_TOKEN}", token=None).status == 401
    assert (
        admin.call("GET", "/runs", token=None, headers={"authorization": f"bearer {ADMIN_TOKEN}"}).status
        == 200
    )


def test_a_role_is_checked_before_the_body_is_read(admin: Admin, roles: Roles) -> None:
    answer = admin.call("POST", "/keys", b"{not json", token=roles.viewer)
    assert answer.code == "forbidden"


def test_failed_authentications_are_limited_and_good_tokens_are_not(admin: Admin) -> None:
    codes = [admin.call("GET", "/runs", token="wrong").code for _ in range(15)]
    assert codes[:10] == ["unauthorized"] * 10
    assert codes[10:] == ["rate_limit_exceeded"] * 5
    refused = admin.call("GET", "/runs", token="wrong")
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert admin.call("GET", "/runs").status == 200


def test_authenticated_kills_are_never_limited(admin: Admin, roles: Roles) -> None:
    body = {"scope": "user", "id": "flooded", "reason": "test"}
    app: Any = admin.gateway.app
    limits = app._admin.app.limits
    # Use up the minute of this token.
    token = next(t for t in admin.gateway.worker.control.tokens if t.name == "fixture-operator")
    while limits.limiter.limiter.hit(limits.requests, "caller", token.id):
        pass
    assert admin.call("GET", "/runs", token=roles.operator).code == "rate_limit_exceeded"
    assert admin.call("POST", "/kills", body, token=roles.operator).status == 201
    assert admin.call("POST", "/runs/none/kill", {"reason": "x"}, token=roles.operator).status == 404
    assert admin.call("GET", "/runs", token=roles.viewer).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "x/#@127.0.0.1", ""]
)
def test_a_name_that_points_here_is_not_this_machine(admin: Admin, host: str) -> None:
    for path, prefix in (("/runs", "/admin/v1"), ("/metrics", "")):
        answer = admin.call("GET", path, headers={"host": host}, prefix=prefix)
        assert (answer.status, answer.code) == (403, "forbidden_host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "[::1]:80", "LOCALHOST"])
def test_every_name_of_this_machine_is_served(admin: Admin, host: str) -> None:
    assert admin.call("GET", "/runs", headers={"host": host}).status == 200


def test_a_foreign_origin_is_refused(admin: Admin) -> None:
    port = admin.gateway.port
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port + 1}", "http://localhost"):
        answer = admin.call("POST", "/kills", {"scope": "global", "reason": "x"}, headers={"origin": origin})
        assert (answer.status, answer.code) == (403, "forbidden_origin")
    own = {"origin": f"http://127.0.0.1:{port}"}
    assert admin.call("GET", "/runs", headers=own).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/",
        "/admin/v1",
        "/ADMIN/v1/runs",
        "//admin/v1/runs",
        "/admin/v2/runs",
        "/dashboards",
        "/x",
        "/admin/v1/../v1/runs",
        "/openapi.json",
        "/docs",
        "/metrics/",
    ],
)
def test_other_paths_are_not_served(admin: Admin, path: str) -> None:
    for token in (None, ADMIN_TOKEN):
        assert admin.call("GET", path, token=token, prefix="").status in (401, 404)


def test_unknown_routes_and_methods_have_the_error_shape(admin: Admin) -> None:
    assert admin.call("GET", "/nothing").code == "not_found"
    assert admin.call("GET", "/runs/").code == "not_found"
    answer = admin.call("PUT", "/runs")
    assert (answer.status, answer.code) == (405, "method_not_allowed")


def test_bodies_are_capped(admin: Admin) -> None:
    body = b'{"policy": "' + b"x" * MAX_BODY_BYTES + b'"}'
    answer = admin.call("POST", "/policy/validate", body)
    assert (answer.status, answer.code) == (413, "request_too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    connection = http.client.HTTPConnection("127.0.0.1", admin.gateway.port, timeout=20)
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    try:
        connection.request("POST", "/admin/v1/policy/validate", chunks(), headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before it was all sent
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"scope": "user"}',
        b'{"scope": "user", "id": 1, "reason": "x"}',
        b'{"scope": "planet", "id": "x", "reason": "x"}',
        b'{"scope": "user", "id": "x", "reason": ""}',
        b'{"scope": "user", "id": "", "reason": "x"}',
        b'{"scope": "user", "reason": "x"}',
        b'{"scope": "user", "id": "x", "reason": "x", "more": 1}',
        b'{"scope": "user", "id": "x", "reason": "x", "ttl_s": -1}',
        b'{"scope": "user", "id": "x", "reason": "x", "ttl_s": NaN}',
        b'{"scope": "user", "id": "x", "reason": "x", "ttl_s": 1e999}',
        b'{"scope": "user", "id": "a\\u0000b", "reason": "x"}',
        b'{"scope": "user", "id": "\\ud800", "reason": "x"}',
        b'{"scope": "user", "id": "a\\r\\nb", "reason": "x"}',
        b'{"\\ud800": 1}',
        b"[" * 100_000,
        b"\xff\xfe{}",
    ],
)
def test_a_body_that_is_not_understood_is_400(admin: Admin, body: bytes) -> None:
    answer = admin.call("POST", "/kills", body)
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_curl_without_a_content_type_is_understood(admin: Admin) -> None:
    body = b'{"scope": "user", "id": "curl", "reason": "x"}'
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert admin.call("POST", "/kills", body, headers=headers).status == 201


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "status=asleep",
        "since=yesterday",
        "since=-1d",
        "since=2026-99-01T00:00:00Z",
        "since=999999w",
        "user=a%00b",
        "user=",
        "session=" + "x" * 300,
        "cursor=abc",
        "cursor=%00",
        "cursor=W10",
        "cursor=WzFlOTksInJ1biJd",
        "cursor=" + "x" * 2000,
    ],
)
def test_a_query_that_is_not_understood_is_400(admin: Admin, query: str) -> None:
    answer = admin.call("GET", f"/runs?{query}")
    assert answer.status == 400, answer.raw
    assert answer.code in ("invalid_request", "invalid_cursor")


@pytest.mark.parametrize(
    "target",
    [
        "..%2f..%2fetc",
        "%2e%2e",
        "a%0d%0aset-cookie:x",
        "%00",
        "%ff%fe",
        "%F0%9F%92%A9",
        "'; DROP TABLE gw_runs; --".replace(" ", "%20"),
        "%25s%25n",
        "<script>alert(1)<%2fscript>",
        "x" * 300,
        "${jndi:ldap:%2f%2fx}",
        "run:run:run",
        "%ed%a0%80",
    ],
)
def test_hostile_ids_are_ids_that_do_not_exist(admin: Admin, target: str) -> None:
    for method, path in (
        ("GET", f"/runs/{target}"),
        ("GET", f"/runs/{target}/steps"),
        ("DELETE", f"/kills/run/{target}"),
        ("DELETE", f"/keys/{target}"),
        ("DELETE", f"/tokens/{target}"),
        ("GET", f"/budgets?per=run&id={target}"),
    ):
        answer = admin.call(method, path)
        assert answer.status in (400, 404), (path, answer.raw)
        assert answer.code in ("not_found", "invalid_request")
    answer = admin.call("GET", f"/budgets?per=user&id={target}")
    assert answer.status in (200, 400)


def test_a_revoked_and_an_expired_token_are_let_in_no_more(admin: Admin) -> None:
    made = admin.post("/tokens", {"name": "short", "role": "viewer"})
    assert admin.call("GET", "/runs", token=made["token"]).status == 200
    admin.delete(f"/tokens/{made['id']}")
    assert admin.call("GET", "/runs", token=made["token"]).code == "unauthorized"


def test_metrics_need_no_token_on_loopback(admin: Admin) -> None:
    answer = admin.call("GET", "/metrics", token=None, prefix="")
    assert answer.status == 200
    assert b"gateway_requests_total" in answer.raw
