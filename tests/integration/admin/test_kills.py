"""The kill switch through the API: what stops, what is told, what is on record, and how it goes on again."""

from __future__ import annotations

import threading

import pytest

from tests.integration.admin.calls import Admin, Stream, chat, timed
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ALICE, BOB, ThreadedGateway, wait_until


def test_a_killed_run_ends_its_stream_with_an_error_event(gateway: ThreadedGateway, admin: Admin) -> None:
    stream = Stream(gateway).open()
    run = stream.headers["x-guardrail-run-id"]
    wait_until(lambda: len(stream.lines) > 4, what="the stream's first events")

    killed, took = timed(lambda: admin.post("/kills", {"scope": "run", "id": run, "reason": "runaway"}))

    assert stream.ended.wait(AT_ONCE_S)
    assert took < AT_ONCE_S
    assert stream.failure is None, "the connection must not be cut"
    error = stream.last()["error"]
    assert error["code"] == "run_killed"
    assert "runaway" in error["message"]
    assert {k: killed[k] for k in ("scope", "id", "run", "reason", "streams", "recorded", "by")} == {
        "scope": "run",
        "id": run,
        "run": run,
        "reason": "runaway",
        "streams": 1,
        "recorded": True,
        "by": "admin",
    }
    (worker,) = killed["workers"]
    assert worker["streams"] == 1
    assert worker["worker"] == gateway.worker.id
    assert killed["at"] <= worker["obeyed_at"]

    status, _, body = chat(gateway, x_guardrail_run_id=run)
    assert (status, body["error"]["code"]) == (400, "run_killed")
    shown = admin.get(f"/runs/{run}")
    assert (shown["status"], shown["status_reason"]) == ("killed", "runaway")
    (listed,) = [k for k in admin.get("/kills")["data"] if k["id"] == run]
    assert listed["active"]
    assert listed["workers"] == killed["workers"]

    revived = admin.delete(f"/kills/run/{run}")
    assert revived["revived"]
    assert chat(gateway, x_guardrail_run_id=run)[0] == 200
    assert admin.get(f"/runs/{run}")["status"] == "completed"
    assert run not in [k["id"] for k in admin.get("/kills")["data"]]
    past = [k for k in admin.get("/kills?all=true")["data"] if k["id"] == run]
    assert past[0]["revived_by"] == "admin"
    assert admin.call("DELETE", f"/kills/run/{run}").code == "not_found"


def test_a_run_is_killed_by_the_name_its_caller_gave_it(gateway: ThreadedGateway, admin: Admin) -> None:
    _, headers, _ = chat(gateway, x_guardrail_run_id="nightly-7")
    run = headers["x-guardrail-run-id"]
    killed = admin.post("/runs/nightly-7/kill", {"reason": "stop it"})
    assert killed["run"] == run
    assert killed["id"] == "nightly-7"
    assert chat(gateway, x_guardrail_run_id="nightly-7")[2]["error"]["code"] == "run_killed"
    assert admin.get("/runs/nightly-7")["status"] == "killed"
    # Revived by the other of its two handles.
    admin.delete(f"/kills/run/{run}")
    assert chat(gateway, x_guardrail_run_id="nightly-7")[0] == 200


def test_a_name_that_two_callers_use_is_not_guessed_at(gateway: ThreadedGateway, admin: Admin) -> None:
    _, first, _ = chat(gateway, x_guardrail_run_id="shared", key=ALICE)
    _, second, _ = chat(gateway, x_guardrail_run_id="shared", key=BOB)
    answer = admin.call("POST", "/runs/shared/kill", {"reason": "which?"})
    assert (answer.status, answer.code) == (409, "ambiguous_run")
    for headers in (first, second):
        assert headers["x-guardrail-run-id"] in answer.body["error"]["message"]
    assert chat(gateway, x_guardrail_run_id="shared")[0] == 200
    admin.post("/kills", {"scope": "run", "id": first["x-guardrail-run-id"], "reason": "that one"})
    assert chat(gateway, x_guardrail_run_id="shared", key=ALICE)[0] == 400
    assert chat(gateway, x_guardrail_run_id="shared", key=BOB)[0] == 200


def test_a_run_that_is_not_known_yet_can_be_killed_before_it_begins(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    admin.post("/kills", {"scope": "run", "id": "tomorrow", "reason": "not at all"})
    assert chat(gateway, x_guardrail_run_id="tomorrow")[2]["error"]["code"] == "run_killed"


@pytest.mark.parametrize(
    ("scope", "target", "code"),
    [
        ("session", "ses-kill", "session_killed"),
        ("user", "alice", "user_killed"),
        ("key", "alice", "key_killed"),
        ("team", "red", "team_killed"),
        ("model", "sim/echo", "model_killed"),
        ("global", None, "global_killed"),
    ],
)
def test_each_scope_refuses_and_is_revived(
    gateway: ThreadedGateway, admin: Admin, scope: str, target: str | None, code: str
) -> None:
    body = {"scope": scope, "reason": "drill"} | ({"id": target} if target is not None else {})
    killed = admin.post("/kills", body)
    assert killed["id"] == (target or "all")
    status, _, answer = chat(gateway, x_guardrail_session_id="ses-kill")
    assert (status, answer["error"]["code"]) == (400, code)
    if scope not in ("global", "model"):
        assert chat(gateway, key=BOB)[0] == 200
    admin.delete(f"/kills/{scope}/{target or 'all'}")
    assert chat(gateway, x_guardrail_session_id="ses-kill")[0] == 200


def test_reviving_a_run_called_like_a_scope_leaves_that_scope_killed(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    admin.post("/kills", {"scope": "global", "reason": "drill"})
    try:
        assert admin.call("DELETE", "/kills/run/global").code == "not_found"
        assert chat(gateway)[2]["error"]["code"] == "global_killed"
    finally:
        admin.delete("/kills/global")
    admin.post("/kills", {"scope": "user", "id": "alice", "reason": "drill"})
    assert admin.call("DELETE", "/kills/run/user:alice").code == "not_found"
    assert chat(gateway)[2]["error"]["code"] == "user_killed"
    admin.delete("/kills/user/alice")


def test_a_user_behind_a_key_is_named_with_a_slash(admin: Admin) -> None:
    admin.post("/kills", {"scope": "user", "id": "support/jane doe", "reason": "drill"})
    admin.delete("/kills/user/support/jane%20doe")


def test_a_kill_with_an_end_ends_by_itself(gateway: ThreadedGateway, admin: Admin) -> None:
    killed = admin.post("/kills", {"scope": "user", "id": "alice", "reason": "pause", "ttl_s": 0.5})
    assert killed["expires_at"] > killed["at"]
    assert chat(gateway)[2]["error"]["code"] == "user_killed"
    wait_until(lambda: chat(gateway)[0] == 200, what="the kill's end")
    assert "alice" not in [k["id"] for k in admin.get("/kills")["data"]]
    # What was said of the first kill is not said of the second.
    again = admin.post("/kills", {"scope": "user", "id": "alice", "reason": "pause"})
    assert [w["streams"] for w in again["workers"]] == [0]
    assert again["workers"][0]["obeyed_at"] >= again["at"]
    admin.delete("/kills/user/alice")


def test_killing_a_team_cuts_every_stream_of_it_and_no_other(gateway: ThreadedGateway, admin: Admin) -> None:
    mine = [Stream(gateway).open() for _ in range(5)]
    other = Stream(gateway).open(key=BOB)
    killed = admin.post("/kills", {"scope": "team", "id": "red", "reason": "drill"})
    assert killed["streams"] == 5
    for stream in mine:
        assert stream.ended.wait(AT_ONCE_S)
        assert stream.failure is None
        assert stream.last()["error"]["code"] == "team_killed"
    assert not other.ended.is_set()
    admin.delete("/kills/team/red")
    admin.post("/kills", {"scope": "team", "id": "blue", "reason": "cleanup"})
    assert other.ended.wait(AT_ONCE_S)
    admin.delete("/kills/team/blue")


def test_fifty_kills_at_once_are_all_obeyed(gateway: ThreadedGateway, admin: Admin) -> None:
    answers: list[int] = []

    def one(number: int) -> None:
        body = {"scope": "run", "id": f"many-{number}", "reason": "drill"}
        answers.append(admin.call("POST", "/kills", body).status)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [201] * 50
    assert chat(gateway, x_guardrail_run_id="many-49")[0] == 400


def test_a_kill_works_while_the_ledger_does_not(
    gateway: ThreadedGateway, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.stores.ledger import LedgerUnavailable, SqlLedger

    async def broken(*_: object, **__: object) -> None:
        raise LedgerUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        for method in ("add_kill", "audit_append", "run", "append"):
            patched.setattr(SqlLedger, method, broken)
        killed = admin.post("/kills", {"scope": "user", "id": "alice", "reason": "emergency"})
        assert killed["recorded"] is False
        assert chat(gateway)[2]["error"]["code"] == "user_killed"
        # A revival that could not be recorded would not last.
        patched.setattr(SqlLedger, "revive", broken)
        assert admin.call("DELETE", "/kills/user/alice").code == "ledger_unavailable"
        assert chat(gateway)[2]["error"]["code"] == "user_killed"
    admin.delete("/kills/user/alice")
    assert chat(gateway)[0] == 200


def test_every_change_is_in_the_audit_log(admin: Admin) -> None:
    admin.post("/kills", {"scope": "user", "id": "audited", "reason": "why not"})
    admin.delete("/kills/user/audited")
    newest = admin.get("/audit?actor=admin&limit=2")["data"]
    assert [(r["action"], r["actor"], r["details"]["id"]) for r in newest] == [
        ("kill.revive", "admin", "audited"),
        ("kill.set", "admin", "audited"),
    ]
    assert newest[1]["details"]["reason"] == "why not"
