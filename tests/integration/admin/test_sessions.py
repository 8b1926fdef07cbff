"""Logging in and out with a browser, and attempts to have somebody else's session, or to be given one."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import Secrets
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_sessions import MAX_IDLE_MS, MAX_SESSION_MS, MAX_SESSIONS
from gateway.testing import ProviderServer
from tests.integration.admin.browsers import Browser
from tests.integration.admin.calls import Admin, Roles, timed
from tests.integration.admin.test_roles import _reset
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import (
    ADMIN_TOKEN,
    Gateway,
    ThreadedGateway,
    base_policy,
    threaded_gateway,
    wait_until,
)

KILL = {"scope": "user", "id": "nobody", "reason": "test"}


@pytest.fixture(autouse=True)
def failures_are_not_limited(gateway: ThreadedGateway) -> Iterator[None]:
    _reset(gateway)
    yield
    _reset(gateway)


@pytest.fixture
def browser(gateway: ThreadedGateway) -> Browser:
    return Browser(gateway)


def seconds_until(stamp: str, since: int) -> float:
    return datetime.fromisoformat(stamp).timestamp() - since / 1000


# -- in and out --------------------------------------------------------------------------------------


def test_a_token_buys_a_session_that_acts_under_the_token_s_name(
    gateway: ThreadedGateway, admin: Admin, roles: Roles, browser: Browser
) -> None:
    answer = browser.dashboard("POST", "/session", {"token": roles.operator})
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert browser.attributes["gg_session"] == "Path=/; HttpOnly; SameSite=Strict"
    who = browser.who()
    assert set(who) == {"name", "role", "csrf", "oidc", "source", "expires_at"}
    assert (who["name"], who["role"], who["oidc"]) == ("token:fixture-operator", "operator", False)
    now = gateway.worker.clock()
    assert MAX_SESSION_MS / 1000 - 5 < seconds_until(who["expires_at"], now) <= MAX_SESSION_MS / 1000
    browser.known()
    assert browser.call("POST", "/kills", KILL).status == 201
    assert browser.call("GET", "/runs").status == 200
    assert browser.dashboard("DELETE", "/session").status == 204
    assert browser.cookies == {}
    actions = [(each["actor"], each["action"]) for each in admin.changes(3)]
    assert actions == [
        ("token:fixture-operator", "session.logout"),
        ("token:fixture-operator", "kill.set"),
        ("token:fixture-operator", "session.login"),
    ]


def test_the_admin_token_buys_a_session_too(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    assert (browser.who()["name"], browser.who()["role"]) == ("admin", "admin")
    assert browser.call("GET", "/keys").status == 200


def test_after_a_logout_the_cookie_is_worth_nothing(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    kept = dict(browser.cookies)
    assert browser.dashboard("DELETE", "/session").status == 204
    browser.cookies = kept
    assert browser.call("GET", "/runs").code == "unauthorized"
    assert browser.dashboard("GET", "/session").status == 401
    assert browser.dashboard("DELETE", "/session").status == 401


def test_nobody_is_told_whether_oidc_is_offered_beside_the_refusal(browser: Browser) -> None:
    answer = browser.dashboard("GET", "/session")
    assert answer.status == 401
    assert answer.body["error"]["code"] == "unauthorized"
    assert answer.body["oidc"] is False
    assert browser.dashboard("GET", "/oidc/login").code == "not_found"
    assert browser.dashboard("GET", "/oidc/callback?code=x&state=y").code == "not_found"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"token": 1}',
        b'{"token": null}',
        b'{"token": ["x"]}',
        b'{"token": "x", "role": "admin"}',
        b"\xff",
        b"[" * 8_000,
    ],
)
def test_a_login_that_is_not_understood_is_400(browser: Browser, body: bytes) -> None:
    answer = browser.dashboard("POST", "/session", body, headers={"content-type": "application/json"})
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_wrong_token_buys_nothing_and_is_limited_like_a_bearer(browser: Browser, admin: Admin) -> None:
    answers = [
        browser.dashboard("POST", "/session", {"token": token})
        for token in ("", "wrong", ADMIN_TOKEN[:-1], ADMIN_TOKEN + "x", "gt_" + "x" * 43, "ü", "x" * 8_000)
    ]
    assert {(answer.status, answer.raw) for answer in answers} == {(401, answers[0].raw)}
    codes = [browser.dashboard("POST", "/session", {"token": "wrong"}).code for _ in range(5)]
    assert codes == ["unauthorized"] * 3 + ["rate_limit_exceeded"] * 2
    # The same allowance as for bearer tokens, and none of it concerns who knows a right one.
    assert admin.call("GET", "/runs", token="wrong").code == "rate_limit_exceeded"
    assert browser.dashboard("POST", "/session", {"token": ADMIN_TOKEN}).status == 204
    assert browser.cookies


def test_a_login_takes_no_large_body(browser: Browser) -> None:
    answer = browser.dashboard("POST", "/session", {"token": "x" * 9_000})
    assert (answer.status, answer.code) == (413, "request_too_large")


def test_a_session_that_is_over_is_no_guess(gateway: ThreadedGateway, browser: Browser) -> None:
    """A page that is still open goes on asking; that must not keep its operator out."""
    browser.log_in(ADMIN_TOKEN)
    kept = dict(browser.cookies)
    browser.dashboard("DELETE", "/session")
    browser.cookies = kept
    assert {browser.call("GET", "/runs").code for _ in range(15)} == {"unauthorized"}
    assert browser.dashboard("GET", "/session").status == 401


# -- how long ----------------------------------------------------------------------------------------


def test_a_session_ends_with_its_time_and_with_its_rest(
    gateway: ThreadedGateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.log_in(ADMIN_TOKEN)
    worker, began = gateway.worker, gateway.worker.clock()

    def at(later: int) -> int:
        monkeypatch.setattr(worker, "clock", lambda: began + later)
        return browser.call("GET", "/runs").status

    assert at(MAX_IDLE_MS - 1000) == 200
    # Used again just now: the rest begins anew.
    assert at(2 * MAX_IDLE_MS - 2000) == 200
    assert at(3 * MAX_IDLE_MS) == 401
    assert at(0) == 200, "nothing was ended"
    for hour in range(1, 12):
        assert at(hour * MAX_IDLE_MS - hour * 1000) == 200
    assert at(MAX_SESSION_MS - 30_000) == 200
    assert at(MAX_SESSION_MS + 1000) == 401


def test_an_admin_sees_and_ends_sessions(gateway: ThreadedGateway, admin: Admin, roles: Roles) -> None:
    mine, theirs = Browser(gateway).log_in(ADMIN_TOKEN), Browser(gateway).log_in(roles.viewer)
    rows = mine.call("GET", "/sessions").body["data"]
    assert [row["name"] for row in rows[:2]] == ["token:fixture-viewer", "admin"]
    assert [row["current"] for row in rows[:2]] == [False, True]
    assert rows[0]["address"] == "127.0.0.1"
    assert not {"digest", "secret"} & set(rows[0])
    cookie = theirs.cookies["gg_session"]
    assert cookie not in str(rows)
    assert mine.call("DELETE", f"/sessions/{rows[0]['id']}").status == 200
    assert theirs.call("GET", "/runs").status == 401
    assert mine.call("DELETE", f"/sessions/{rows[0]['id']}").code == "not_found"
    assert rows[0]["id"] not in str(admin.get("/sessions"))
    (record,) = admin.changes(1)
    assert (record["actor"], record["action"]) == ("admin", "session.end")
    assert record["details"] == {"session": rows[0]["id"], "name": "token:fixture-viewer"}


def test_a_session_ends_with_the_token_behind_it(
    gateway: ThreadedGateway, admin: Admin, browser: Browser
) -> None:
    made = admin.post("/tokens", {"name": "behind", "role": "operator"})
    browser.log_in(made["token"])
    stream = open_events(gateway, f"Cookie: gg_session={browser.cookies['gg_session']}")
    admin.delete(f"/tokens/{made['id']}")
    assert browser.call("GET", "/runs").status == 401
    _, took = timed(lambda: wait_until(lambda: at_end(stream), 10, "the events to end"))
    assert took < AT_ONCE_S
    assert browser.dashboard("GET", "/session").status == 401


def test_a_session_lives_no_longer_than_the_secret_it_began_with(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    made = admin.post("/tokens", {"name": "rotating", "role": "viewer"})
    old, new = Browser(gateway).log_in(made["token"]), Browser(gateway)
    rotated = admin.post(f"/tokens/{made['id']}/rotate", {"grace_s": 3600})
    assert old.call("GET", "/runs").status == 200
    new.log_in(rotated["token"])
    assert new.who()["name"] == old.who()["name"]
    admin.post(f"/tokens/{made['id']}/rotate", {})
    assert [each.call("GET", "/runs").status for each in (old, new)] == [401, 401]


def test_an_operator_has_so_many_sessions_and_no_more(gateway: ThreadedGateway, admin: Admin) -> None:
    token = admin.post("/tokens", {"name": "busy", "role": "viewer"})["token"]
    first = Browser(gateway).log_in(token)
    second = Browser(gateway).log_in(token)
    for _ in range(MAX_SESSIONS - 1):
        Browser(gateway).dashboard("POST", "/session", {"token": token})
    wait_until(lambda: first.call("GET", "/runs").status == 401, AT_ONCE_S, "the oldest to end")
    assert second.call("GET", "/runs").status == 200
    assert sum(row["name"] == "token:busy" for row in admin.get("/sessions")["data"]) == MAX_SESSIONS


def test_an_event_stream_ends_with_the_secret_it_was_opened_with(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    made = admin.post("/tokens", {"name": "streaming", "role": "viewer"})
    stream = open_events(gateway, f"Authorization: Bearer {made['token']}")
    rotated = admin.post(f"/tokens/{made['id']}/rotate", {})
    wait_until(lambda: at_end(stream), AT_ONCE_S, "the events to end")
    kept = open_events(gateway, f"Authorization: Bearer {rotated['token']}")
    time.sleep(1)
    assert not at_end(kept)
    kept.close()


def open_events(gateway: Gateway, credential: str) -> socket.socket:
    """The stream of events, as a socket that has given its head."""
    stream = socket.create_connection(("127.0.0.1", gateway.port), 10)
    host = f"Host: 127.0.0.1:{gateway.port}"
    stream.sendall(f"GET /admin/v1/events HTTP/1.1\r\n{host}\r\n{credential}\r\n\r\n".encode())
    assert b"200 OK" in stream.recv(65_536)
    stream.settimeout(0.05)
    return stream


def at_end(stream: socket.socket) -> bool:
    try:
        return b"0\r\n\r\n" in stream.recv(65_536)
    except TimeoutError:
        return False


# -- attacks -----------------------------------------------------------------------------------------


def test_a_login_never_takes_a_session_id_from_outside(gateway: ThreadedGateway, roles: Roles) -> None:
    """Fixation: what an attacker planted, a made-up value or his own session, is not what the victim has."""
    attacker = Browser(gateway).log_in(roles.viewer)
    planted = attacker.cookies["gg_session"]
    for value in (planted, "A" * 43 + "." + "0" * 32, "x"):
        victim = Browser(gateway, cookies={"gg_session": value}).log_in(ADMIN_TOKEN)
        assert victim.cookies["gg_session"] != value
        assert victim.who()["name"] == "admin"
        attacker.cookies["gg_session"] = value
        assert attacker.call("GET", "/runs").status == 401, "the planted session ended with the login"


def test_a_page_elsewhere_can_not_log_anybody_in_or_out(browser: Browser, roles: Roles) -> None:
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": None, "sec-fetch-site": "cross-site"},
        {"origin": None, "sec-fetch-site": "same-site"},
        {"origin": None, "sec-fetch-site": "none"},
    ):
        answer = browser.dashboard("POST", "/session", {"token": roles.viewer}, headers=headers)
        assert (answer.status, answer.code) == (403, "forbidden_origin")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None, "json"):
        answer = browser.dashboard(
            "POST", "/session", {"token": roles.viewer}, headers={"content-type": kind}
        )
        assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert browser.cookies == {}
    browser.log_in(ADMIN_TOKEN)
    assert browser.dashboard("DELETE", "/session", headers={"x-csrf-token": None}).code == "forbidden_csrf"
    foreign: dict[str, str | None] = {"origin": "https://evil.example"}
    assert browser.dashboard("DELETE", "/session", headers=foreign).code == "forbidden_origin"
    assert browser.dashboard("GET", "/session", headers={"sec-fetch-site": "cross-site"}).status == 403
    assert browser.who()["name"] == "admin"


def test_curl_may_log_in_without_saying_where_it_comes_from(browser: Browser) -> None:
    headers: dict[str, str | None] = {"origin": None, "sec-fetch-site": None}
    assert browser.dashboard("POST", "/session", {"token": ADMIN_TOKEN}, headers=headers).status == 204
    assert browser.call("GET", "/runs", headers=headers).status == 200


def test_only_json_is_taken_with_a_cookie(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    for kind in ("text/plain", "application/x-www-form-urlencoded", None, "application/jsonx", "text/json"):
        answer = browser.call("POST", "/kills", KILL, headers={"content-type": kind})
        assert (answer.status, answer.code) == (415, "unsupported_media_type"), kind
    kinds = ("application/json; charset=utf-8", "Application/JSON")
    assert {browser.call("POST", "/kills", KILL, headers={"content-type": k}).status for k in kinds} == {201}
    assert browser.call("DELETE", "/kills/user/nobody").status == 200


def test_a_wrong_token_is_not_made_good_by_a_cookie(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    answer = browser.call("GET", "/runs", headers={"authorization": "Bearer wrong"})
    assert answer.code == "unauthorized"
    for value in ("Bearer ", "Bearer", "bearer x", "BEARER\tx"):
        answer = browser.call("GET", "/runs", headers={"authorization": value})
        assert (answer.status == 200) is (value == "BEARER\tx"), value
    # Of a proxy that asks for a password of its own.
    assert browser.call("GET", "/runs", headers={"authorization": "Basic YTpi"}).status == 200


def test_of_two_cookies_neither_counts(gateway: ThreadedGateway, browser: Browser, roles: Roles) -> None:
    """A neighbouring host may set its own beside ours."""
    browser.log_in(ADMIN_TOKEN)
    own = browser.cookies["gg_session"]
    other = Browser(gateway).log_in(roles.viewer).cookies["gg_session"]
    for header in (
        f"gg_session={own}; gg_session={other}",
        f"gg_session={other}; gg_session={own}",
        f"gg_session={own}; gg_session=x",
        f"gg_session={own}; gg_session=",
    ):
        assert browser.call("GET", "/runs", headers={"cookie": header}).code == "unauthorized", header
    for header in (
        f"a=b; gg_session={own}; c=d",
        f"gg_session={own}; gg_session={own}",
        f"x;gg_session={own}",
    ):
        assert browser.call("GET", "/runs", headers={"cookie": header}).status == 200, header
    for header in (
        f"GG_SESSION={own}",
        f'gg_session="{own}"',
        f"gg_session ={own}",
        f"x=gg_session={own}",
        f"gg_session={own},gg_session={own}",
        f"gg_session={own}\tx",
        f"$Version=1; __Host-gg_session={own}",
    ):
        _reset(gateway)
        assert browser.call("GET", "/runs", headers={"cookie": header}).status == 401, header


def raw(gateway: ThreadedGateway, head: str, body: str = "") -> tuple[int, bytes]:
    """What an HTTP client would not send: lines as they are."""
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
        connection.sendall(
            f"{head}\r\n\r\n{body}".replace("\n", "\r\n").replace("\r\r", "\r").encode("latin-1")
        )
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except (http.client.HTTPException, ConnectionError):
            return 0, b""
        return answer.status, answer.read()


def test_headers_that_are_there_twice_decide_nothing(gateway: ThreadedGateway, browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    host = f"Host: 127.0.0.1:{gateway.port}"
    own = f"Cookie: gg_session={browser.cookies['gg_session']}"
    good = f"Origin: {gateway.url}"
    post = f"POST /admin/v1/kills HTTP/1.1\n{host}\n{own}\nContent-Type: application/json\nContent-Length: 2"
    for extra in (
        f"{good}\nOrigin: https://evil.example\nx-csrf-token: {browser.csrf}",
        f"Origin: https://evil.example\n{good}\nx-csrf-token: {browser.csrf}",
        f"{good}\nx-csrf-token: wrong\nx-csrf-token: {browser.csrf}",
        f"{good}\nHost: evil.example\nx-csrf-token: {browser.csrf}",
        f"{good}\nSec-Fetch-Site: cross-site\nSec-Fetch-Site: same-origin\nx-csrf-token: {browser.csrf}",
        f"{good}\nContent-Type: text/plain\nx-csrf-token: {browser.csrf}",
    ):
        status, answer = raw(gateway, f"{post}\n{extra}", "{}")
        assert (status, b"there twice" in answer) == (400, True), extra
    for smuggled in (
        f"Cookie: a=b\nCookie: gg_session={'A' * 43}.{'0' * 32}",
        "Cookie: gg_session=x",
    ):
        assert raw(gateway, f"GET /admin/v1/runs HTTP/1.1\n{host}\n{own}\n{smuggled}")[0] == 401
    for hidden in (f"Cookie_: {own[8:]}", f"X-Cookie: {own[8:]}", f"Cookie2: {own[8:]}", f"X: y\x0b{own}"):
        assert raw(gateway, f"GET /admin/v1/runs HTTP/1.1\n{host}\n{hidden}")[0] in (0, 400, 401), hidden
    assert raw(gateway, f"GET /admin/v1/runs HTTP/1.1\n{host}\ncOOkie: {own[8:]}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "localhost.", "", "[::1]x"]
)
def test_a_session_is_not_served_under_another_name(browser: Browser, host: str) -> None:
    browser.log_in(ADMIN_TOKEN)
    origin = {"host": host, "origin": f"http://{host}"}
    answers = [
        browser.call("GET", "/runs", headers={"host": host}),
        browser.call("POST", "/kills", KILL, headers={**origin}),
        browser.dashboard("GET", "/session", headers={"host": host}),
        browser.dashboard("POST", "/session", {"token": ADMIN_TOKEN}, headers={**origin}),
    ]
    assert {answer.status for answer in answers} <= {403, 400}


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/../admin/v1/runs",
        "/dashboard/%2e%2e/admin/v1/runs",
        "/dashboard/session/../../admin/v1/runs",
        "//admin/v1/runs",
        "/admin//v1/runs",
        "/./admin/v1/runs",
        "/%61dmin/v1/runs",
        "/ADMIN/v1/runs",
        "/admin/v1;/runs",
        "/admin/v1/..;/runs",
        "/admin/v1/runs/",
        "/admin/v1/%2e%2e/v1/runs",
        "/metrics/../admin/v1/runs",
        "/dashboard/session/",
        "/dashboard//session",
        "/dashboard/session%00",
        "/dashboard/session%2f",
        "/dashboard/oidc",
        "/dashboard/oidc/login/x",
        "/dashboardx/session",
    ],
)
def test_no_path_leads_around_the_door(gateway: ThreadedGateway, path: str) -> None:
    """Whatever it is taken for, nothing of the admin plane is said to a stranger."""
    for method in ("GET", "POST", "DELETE"):
        status, answer = raw(
            gateway, f"{method} {path} HTTP/1.1\nHost: 127.0.0.1:{gateway.port}\nContent-Length: 0"
        )
        assert status in (400, 401, 404, 405, 429), (method, status, answer)
        assert b'"data"' not in answer


def test_a_cookie_without_end_is_no_session(gateway: ThreadedGateway, browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    own = browser.cookies["gg_session"]
    for header in (
        "x" * 60_000,
        "a=b; " * 5_000,
        f"gg_session={own}{'x' * 60_000}",
        "gg_session=x; " * 3_000,
    ):
        assert browser.call("GET", "/runs", headers={"cookie": header}).status in (400, 401, 431)
    crumbs = "; ".join(f"c{number}={'x' * 60}" for number in range(200))
    assert browser.call("GET", "/runs", headers={"cookie": f"{crumbs}; gg_session={own}"}).status == 200


def test_made_up_cookies_never_reach_the_database(
    gateway: ThreadedGateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def session(digest: str) -> None:
        asked.append(digest)

    monkeypatch.setattr(gateway.worker.ledger, "session", session)
    for value in ("", "x", "A" * 43, "A" * 43 + "." + "0" * 32, "A" * 76, "ü", "../" * 30):
        _reset(gateway)
        cookie = f"gg_session={value}".encode().decode("latin-1")
        assert browser.call("GET", "/runs", headers={"cookie": cookie}).status == 401
    assert asked == []


def test_a_kill_by_cookie_does_not_wait_for_the_ledger(
    gateway: ThreadedGateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("gone")

    browser.log_in(ADMIN_TOKEN)
    stranger = Browser(gateway).log_in(ADMIN_TOKEN)
    operators: Any = gateway.worker
    app: Any = gateway.app
    app._admin.app.operators.sessions._known.pop(
        gateway.worker.secrets.digest(b"session:" + stranger.cookies["gg_session"].partition(".")[0].encode())
    )
    for name in ("session", "session_used", "add_kill", "audit_append"):
        monkeypatch.setattr(operators.ledger, name, away)
    killed = browser.call("POST", "/kills", KILL)
    assert (killed.status, killed.body["recorded"]) == (201, False)
    assert browser.call("DELETE", "/kills/user/nobody").status in (200, 503)
    # One that this worker has not seen before can not be looked up.
    answer = stranger.call("GET", "/runs")
    assert (answer.status, answer.code) == (503, "ledger_unavailable")


def test_nobody_logs_in_while_the_ledger_is_away(
    gateway: ThreadedGateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.worker.ledger, "add_session", away)
        answer = browser.dashboard("POST", "/session", {"token": ADMIN_TOKEN})
        assert (answer.status, answer.code) == (503, "ledger_unavailable")
    assert browser.cookies == {}
    browser.log_in(ADMIN_TOKEN)
    with monkeypatch.context() as patched:
        patched.setattr(gateway.worker.ledger, "end_session", away)
        assert browser.dashboard("DELETE", "/session").status == 503
    assert browser.who()["name"] == "admin"


def test_sessions_outlive_a_new_secret_key_that_names_the_old_one(
    gateway: ThreadedGateway, browser: Browser, admin: Admin
) -> None:
    token = admin.post("/tokens", {"name": "lasting", "role": "operator"})["token"]
    other = Browser(gateway).log_in(token)
    browser.log_in(ADMIN_TOKEN)
    worker, before = gateway.worker, gateway.worker.secrets
    try:
        worker.secrets = Secrets(b"another-secret-key-0123456789", before.current)
        for each in (browser, other):
            assert each.call("POST", "/kills", KILL).status == 201
            assert each.csrf != each.who()["csrf"]
            assert each.known().call("POST", "/kills", KILL).status == 201
        worker.secrets = Secrets(b"another-secret-key-0123456789")
        assert browser.call("GET", "/runs").status == 401
    finally:
        worker.secrets = before


def test_the_database_holds_no_cookie_and_no_token(gateway: ThreadedGateway, browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    own, tag = browser.cookies["gg_session"].split(".")
    data = b"".join(path.read_bytes() for path in gateway.data_dir.glob("ledger.db*") if path.is_file())
    for secret in (own, tag, browser.csrf, ADMIN_TOKEN):
        assert secret.encode() not in data


# -- https and restarts ------------------------------------------------------------------------------


def test_behind_https_the_cookie_is_secure_and_the_public_origin_is_ours(
    provider: ProviderServer, tmp_path: Path
) -> None:
    options = {"public_url": "https://gateway.example.com"}
    with threaded_gateway(base_policy(provider.base_url), tmp_path, **options) as gateway:
        browser = Browser(gateway)
        public: dict[str, str | None] = {"origin": "https://gateway.example.com"}
        answer = browser.dashboard("POST", "/session", {"token": ADMIN_TOKEN}, headers=public)
        assert answer.status == 204
        assert browser.attributes["gg_session"] == "Path=/; HttpOnly; SameSite=Strict; Secure"
        browser.known()
        assert browser.call("POST", "/kills", KILL, headers=public).status == 201
        plain: dict[str, str | None] = {"origin": "http://gateway.example.com"}
        assert browser.call("POST", "/kills", KILL, headers=plain).code == "forbidden_origin"
        other: dict[str, str | None] = {"origin": "https://gateway.example.com.evil.example"}
        assert browser.call("POST", "/kills", KILL, headers=other).code == "forbidden_origin"


def test_sessions_outlive_a_restart_and_not_another_admin_token(
    provider: ProviderServer, tmp_path: Path
) -> None:
    policy = base_policy(provider.base_url)
    with threaded_gateway(policy, tmp_path) as gateway:
        browser = Browser(gateway).log_in(ADMIN_TOKEN)
    with threaded_gateway(policy, tmp_path) as gateway:
        browser.gateway = gateway
        assert browser.call("POST", "/kills", KILL).status == 201
        gateway.worker.admin_token = "another-admin-token-0123456789"
        assert browser.call("GET", "/runs").status == 401
