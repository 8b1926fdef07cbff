"""Keys and admin tokens from their making to their end: rotated, used, expiring, revoked."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import auth
from gateway.auth import Secrets
from gateway.stores import ledger_credentials
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_credentials import KeyRecord
from tests.integration.admin.calls import Admin, chat
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway, wait_until


def status(gateway: ThreadedGateway, key: str, text: str = "Hello") -> int:
    return chat(gateway, key=key, text=text)[0]


def row(admin: Admin, kind: str, name: str) -> Any:
    return next(each for each in admin.get(f"/{kind}")["data"] if each["name"] == name)


def stamped(later: timedelta) -> str:
    return (datetime.now(UTC) + later).isoformat()


def principal(gateway: ThreadedGateway, secret: str) -> Any:
    return gateway.worker.data_plane.authenticator.identify({b"x-api-key": secret.encode()})


@pytest.fixture
def passes(gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass for the gateway."""
    clock, real = gateway.worker.clock, time.time

    def passed(seconds: float) -> None:
        monkeypatch.setattr(gateway.worker, "clock", lambda: clock() + int(seconds * 1000))
        monkeypatch.setattr(auth, "time", SimpleNamespace(time=lambda: real() + seconds))

    return passed


# -- rotation ----------------------------------------------------------------------------------------


def test_a_rotated_key_is_the_same_caller_and_its_spend_goes_on(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    made = admin.post("/keys", {"name": "spender", "user": "una", "team": "blue", "models": ["sim/*"]})
    before = principal(gateway, made["key"])
    run = {"x_guardrail_run_id": "same-run", "x_guardrail_session_id": "same-session"}
    _, first, _ = chat(gateway, key=made["key"], text="one", **run)
    spent = admin.get("/budgets?per=user&id=una")["data"][0]["used_usd"]
    assert float(spent) > 0

    rotated = admin.post(f"/keys/{made['id']}/rotate", {})
    assert rotated["key"].startswith("gk_")
    assert rotated["key"] != made["key"]
    kept = ("id", "name", "user", "team", "models", "created_at", "created_by", "expires_at")
    assert {name: rotated[name] for name in kept} == {name: made[name] for name in kept}
    assert status(gateway, made["key"]) == 401
    assert principal(gateway, rotated["key"]) == before

    _, second, _ = chat(gateway, key=rotated["key"], text="two", **run)
    assert second["x-guardrail-run-id"] == first["x-guardrail-run-id"]
    assert (first["x-guardrail-step"], second["x-guardrail-step"]) == ("1", "2")
    used = admin.get("/budgets?per=user&id=una")["data"][0]["used_usd"]
    assert float(used) > float(spent)
    (record,) = admin.changes(1)
    assert (record["action"], record["actor"]) == ("key.rotate", "admin")
    assert record["details"] == {"id": made["id"], "name": "spender", "grace_s": 0}


def test_during_the_grace_both_secrets_work_and_afterwards_one(
    gateway: ThreadedGateway, admin: Admin, passes: Callable[[float], None]
) -> None:
    made = admin.post("/keys", {"name": "graceful"})
    rotated = admin.post(f"/keys/{made['id']}/rotate", {"grace_s": 600})
    passes(540)
    assert [status(gateway, each["key"], "grace") for each in (made, rotated)] == [200, 200]
    assert row(admin, "keys", "graceful")["former_until"] == rotated["former_until"] is not None
    passes(600)
    assert [status(gateway, each["key"], "after") for each in (made, rotated)] == [401, 200]
    found = row(admin, "keys", "graceful")
    assert found["former_until"] is None
    assert found["rotated_at"] is not None


def test_no_secret_of_before_outlives_the_grace_of_the_last_rotation(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    made = admin.post("/keys", {"name": "leaked"})
    one = admin.post(f"/keys/{made['id']}/rotate", {"grace_s": 3600})
    two = admin.post(f"/keys/{made['id']}/rotate", {"grace_s": 60})
    assert [status(gateway, each["key"], "three") for each in (made, one, two)] == [200, 200, 200]
    until = datetime.fromisoformat(row(admin, "keys", "leaked")["former_until"])
    assert until - datetime.now(UTC) <= timedelta(seconds=60)
    three = admin.post(f"/keys/{made['id']}/rotate", {})
    assert [status(gateway, each["key"], "four") for each in (made, one, two, three)] == [401, 401, 401, 200]


def test_a_rotated_key_keeps_its_expiry_and_is_revoked_with_all_its_secrets(
    gateway: ThreadedGateway, admin: Admin, passes: Callable[[float], None]
) -> None:
    made = admin.post("/keys", {"name": "short", "expires_at": stamped(timedelta(seconds=600))})
    rotated = admin.post(f"/keys/{made['id']}/rotate", {"grace_s": 3600})
    assert rotated["expires_at"] == made["expires_at"]
    assert rotated["former_until"] == made["expires_at"]
    assert [status(gateway, each["key"], "before") for each in (made, rotated)] == [200, 200]
    passes(600)
    assert [status(gateway, each["key"]) for each in (made, rotated)] == [401, 401]
    assert admin.call("POST", f"/keys/{made['id']}/rotate", {}).code == "not_found"

    made = admin.post("/keys", {"name": "gone"})
    rotated = admin.post(f"/keys/{made['id']}/rotate", {"grace_s": 3600})
    admin.delete(f"/keys/{made['id']}")
    assert [status(gateway, each["key"]) for each in (made, rotated)] == [401, 401]
    assert admin.call("POST", f"/keys/{made['id']}/rotate", {}).code == "not_found"


def test_a_rotated_token_is_the_same_operator(
    gateway: ThreadedGateway, admin: Admin, passes: Callable[[float], None]
) -> None:
    made = admin.post("/tokens", {"name": "pager", "role": "operator"})
    rotated = admin.post(f"/tokens/{made['id']}/rotate", {"grace_s": 600})
    kill = {"scope": "user", "id": "nobody", "reason": "test"}
    for secret in (made["token"], rotated["token"]):
        assert admin.call("POST", "/kills", kill, token=secret).status == 201
        assert admin.changes(1)[0]["actor"] == "token:pager"
    passes(600)
    assert admin.call("GET", "/runs", token=made["token"]).status == 401
    assert admin.call("GET", "/runs", token=rotated["token"]).status == 200
    assert admin.call("GET", "/keys", token=rotated["token"]).code == "forbidden"
    app: Any = gateway.app
    app._admin.app.limits.limiter.reset()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        {"grace_s": -1},
        {"grace_s": 30 * 86_400 + 1},
        {"grace_s": "1h"},
        {"grace_s": 0.5},
        {"x": 1},
    ],
)
def test_a_rotation_that_is_not_understood_changes_nothing(
    gateway: ThreadedGateway, admin: Admin, body: Any
) -> None:
    made = (
        row(admin, "keys", "steady")
        if any_named(admin, "steady")
        else admin.post("/keys", {"name": "steady"})
    )
    answer = admin.call("POST", f"/keys/{made['id']}/rotate", body)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert row(admin, "keys", "steady")["rotated_at"] is None


def any_named(admin: Admin, name: str) -> bool:
    return any(each["name"] == name for each in admin.get("/keys")["data"])


def test_a_key_of_the_policy_file_is_changed_there(admin: Admin) -> None:
    for method, path in (("POST", "/keys/key:alice/rotate"), ("DELETE", "/keys/key:alice")):
        answer = admin.call(method, path, {} if method == "POST" else None)
        assert (answer.status, answer.code) == (409, "conflict")


@pytest.mark.parametrize(
    "key", ["nobody", "..%2f..", "%27;DROP%20TABLE%20gw_keys;--", "%F0%9F%92%A9", "x" * 256]
)
def test_hostile_ids_are_keys_that_do_not_exist(admin: Admin, key: str) -> None:
    for kind in ("keys", "tokens"):
        answer = admin.call("POST", f"/{kind}/{key}/rotate", {})
        assert (answer.status, answer.code) in ((404, "not_found"), (400, "invalid_request"))


@pytest.mark.parametrize(
    "name", ["", " ", "-x", "a b", "a\nb", "<b>", "ü", "a/b", "x" * 129, "a\u202eb", None, 1]
)
def test_hostile_names_are_refused(admin: Admin, name: Any) -> None:
    assert admin.call("POST", "/keys", {"name": name}).code == "invalid_request"
    assert admin.call("POST", "/tokens", {"name": name, "role": "viewer"}).code == "invalid_request"


# -- what a key may, and what is shown of it ---------------------------------------------------------


def test_a_stored_key_has_a_priority_and_a_tool_level(gateway: ThreadedGateway, admin: Admin) -> None:
    made = admin.post("/keys", {"name": "batch", "priority": "low", "max_tool_level": "safe"})
    assert (made["priority"], made["max_tool_level"]) == ("low", "safe")
    found = principal(gateway, made["key"])
    assert (found.priority, found.max_tool_level) == ("low", "safe")
    rotated = admin.post(f"/keys/{made['id']}/rotate", {})
    found = principal(gateway, rotated["key"])
    assert (found.priority, found.max_tool_level) == ("low", "safe")
    usual = principal(gateway, admin.post("/keys", {"name": "usual"})["key"])
    assert (usual.priority, usual.max_tool_level) == ("normal", "dangerous")
    for body in ({"priority": "urgent"}, {"max_tool_level": "none"}, {"priority": None}):
        assert admin.call("POST", "/keys", {"name": "odd", **body}).code == "invalid_request"


def test_a_list_tells_what_expires_within_a_week(admin: Admin, passes: Callable[[float], None]) -> None:
    for name, later in (
        ("soon", timedelta(days=6)),
        ("later", timedelta(days=8)),
        ("now", timedelta(seconds=60)),
    ):
        admin.post("/keys", {"name": f"expires-{name}", "expires_at": stamped(later)})
    admin.post("/tokens", {"name": "expires", "role": "viewer", "expires_at": stamped(timedelta(hours=1))})
    assert 6 * 86_400 - 5 < row(admin, "keys", "expires-soon")["expires_in_s"] <= 6 * 86_400
    assert row(admin, "keys", "expires-later")["expires_in_s"] is None
    assert row(admin, "keys", "alice")["expires_in_s"] is None
    assert 3590 < row(admin, "tokens", "expires")["expires_in_s"] <= 3600
    passes(60)
    assert row(admin, "keys", "expires-now")["expires_in_s"] == 0


def test_lists_tell_when_keys_and_tokens_were_last_used(gateway: ThreadedGateway, admin: Admin) -> None:
    made = admin.post("/keys", {"name": "used"})
    token = admin.post("/tokens", {"name": "used", "role": "viewer"})
    assert row(admin, "keys", "used")["last_used_at"] is None
    assert row(admin, "tokens", "used")["last_used_at"] is None
    began = datetime.now(UTC) - timedelta(milliseconds=2)
    chat(gateway, key=made["key"], text="used")
    chat(gateway, text="used by alice")
    admin.get("/runs", token=token["token"])

    def times() -> list[datetime]:
        rows = [row(admin, "keys", "used"), row(admin, "keys", "alice"), row(admin, "tokens", "used")]
        return [datetime.fromisoformat(each["last_used_at"]) for each in rows]

    assert all(began <= each <= datetime.now(UTC) for each in times())
    # Written in the background; what is on record then stands for what was seen.
    gateway.run(gateway.worker.uses.write)
    written = times()
    time.sleep(0.01)
    assert times() == written
    # A refused call is no use, and an older time never replaces a newer one.
    status(gateway, made["key"] + "x")
    at = int(written[0].timestamp() * 1000)
    gateway.run(lambda: gateway.worker.ledger.credentials_used({made["id"]: at - 60_000}))
    assert times() == written


def test_uses_are_written_later_when_the_ledger_is_away(
    gateway: ThreadedGateway, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.post("/keys", {"name": "patient"})
    chat(gateway, key=made["key"], text="patient")

    async def away(_used: Any) -> None:
        raise LedgerUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.worker.ledger, "credentials_used", away)
        gateway.run(gateway.worker.uses.write)
        assert made["id"] in gateway.worker.uses.seen
    gateway.run(gateway.worker.uses.write)
    assert gateway.worker.uses.seen == set()
    assert row(admin, "keys", "patient")["last_used_at"] is not None


def test_secrets_are_shown_once(gateway: ThreadedGateway, admin: Admin) -> None:
    secrets = []
    for kind, field, body in (("keys", "key", {}), ("tokens", "token", {"role": "viewer"})):
        made = admin.post(f"/{kind}", {"name": "once", **body})
        rotated = admin.post(f"/{kind}/{made['id']}/rotate", {"grace_s": 60})
        secrets += [made[field], rotated[field]]
        assert field not in row(admin, kind, "once")
    secrets.append(ADMIN_TOKEN)
    lists = ("/keys?all=true", "/tokens?all=true", "/sessions", "/audit?limit=1000", "/policy")
    said = "".join(str(admin.get(path)) for path in lists)
    data = b"".join(path.read_bytes() for path in gateway.data_dir.glob("ledger.db*") if path.is_file())
    for secret in secrets:
        assert secret not in said
        assert secret.encode() not in data
        assert secret not in repr(gateway.worker.control)
        assert secret not in repr(gateway.worker.data_plane.authenticator)


def test_a_change_that_can_not_be_put_on_record_is_not_made(
    gateway: ThreadedGateway, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.post("/keys", {"name": "recorded"})
    token = admin.post("/tokens", {"name": "recorded", "role": "viewer"})
    last = admin.changes(1)

    def full(*_: Any) -> None:
        raise LedgerUnavailable("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ledger_credentials, "chain", full)
        for method, path, body in (
            ("POST", "/keys", {"name": "unrecorded"}),
            ("POST", f"/keys/{made['id']}/rotate", {}),
            ("DELETE", f"/keys/{made['id']}", None),
            ("POST", "/tokens", {"name": "unrecorded", "role": "admin"}),
            ("POST", f"/tokens/{token['id']}/rotate", {}),
            ("DELETE", f"/tokens/{token['id']}", None),
        ):
            answer = admin.call(method, path, body)
            assert (answer.status, answer.code) == (503, "ledger_unavailable"), path
    assert status(gateway, made["key"], "still") == 200
    assert admin.call("GET", "/runs", token=token["token"]).status == 200
    assert "unrecorded" not in str(admin.get("/keys")) + str(admin.get("/tokens"))
    assert admin.changes(1) == last


def test_two_who_rotate_at_once_leave_one_secret(gateway: ThreadedGateway, admin: Admin) -> None:
    made = admin.post("/keys", {"name": "raced"})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rotations = [pool.submit(admin.post, f"/keys/{made['id']}/rotate", {}) for _ in range(8)]
        secrets = [each.result()["key"] for each in rotations]
    assert len(set(secrets)) == 8
    wait_until(lambda: [status(gateway, each) for each in secrets].count(200) == 1, AT_ONCE_S)
    assert status(gateway, made["key"]) == 401
    assert sum(each.name == "raced" for each in gateway.run(gateway.worker.ledger.keys)) == 1


def test_a_key_under_the_previous_secret_key_is_rotated_to_the_one_of_now(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    current = gateway.worker.secrets
    old = Secrets(b"another-secret-key-0123456789")
    record = KeyRecord("key_old", "under-old", old.digest("gk_old"), 1, "admin")
    gateway.run(lambda: gateway.worker.ledger.add_key(record))
    both = Secrets(current.current, old.current)
    gateway.worker.secrets = gateway.worker.data_plane.authenticator.secrets = both
    try:
        wait_until(lambda: status(gateway, "gk_old") == 200, AT_ONCE_S)
        rotated = admin.post("/keys/key_old/rotate", {})
    finally:
        gateway.worker.secrets = gateway.worker.data_plane.authenticator.secrets = current
    assert status(gateway, rotated["key"], "rotated") == 200
    assert status(gateway, "gk_old") == 401
