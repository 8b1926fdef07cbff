"""Policies that are sent, tried with a share of new runs, put in force and rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.integration.admin.calls import Admin
from tests.integration.admin.test_cli import run
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway, wait_until

RUN_LIMIT = "runs: {{max_steps: {steps}}}\n"
CALL = {"messages": [{"role": "user", "content": "hello"}], "model": "sim/echo"}


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    with threaded_gateway(base_policy(provider.base_url, RUN_LIMIT.format(steps=3)), tmp_path) as running:
        yield running


@pytest.fixture
def admin(gateway: ThreadedGateway) -> Admin:
    return Admin(gateway)


def sent(steps: int, more: str = "") -> str:
    """A policy as operators send it: what belongs to the files is left out."""
    models = "{provider: upstream, price: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}"
    return f'version: 1\nmodels:\n  "sim/*": {models}\n{RUN_LIMIT.format(steps=steps)}{more}'


def stage(admin: Admin, policy: str, **more: Any) -> dict[str, Any]:
    answer = admin.call("POST", "/policy", {"policy": policy, "watch": False, **more})
    assert answer.status == 201, answer.raw
    return dict(answer.body)


def step(gateway: ThreadedGateway, run: str, **headers: str) -> tuple[int, str]:
    """One step of a named run: its status, and the version that governed it."""
    status, got, _ = gateway.post(CALL, x_guardrail_run_id=run, **headers)
    return status, got["x-guardrail-policy"]


def until_refused(gateway: ThreadedGateway, run: str, at_most: int = 20) -> int:
    """How many steps a run may take."""
    for taken in range(at_most):
        if step(gateway, run)[0] != 200:
            return taken
    return at_most


def test_a_policy_that_is_sent_governs_new_runs_at_once(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    assert step(gateway, "before")[1] == first
    made = stage(admin, sent(5), note="two more steps")
    assert made["active"] is True
    assert made["note"] == "two more steps"
    version = made["version"]
    assert version != first
    assert admin.get("/policy")["version"] == version
    ready = json.loads(gateway.request("GET", "/readyz")[2])
    assert ready["policy"] == {"generation": 2, "version": version, "healthy": True, "error": None}
    # A new run has the new limit; one that had begun keeps its own version and its own, tighter limit.
    assert step(gateway, "after") == (200, version)
    assert until_refused(gateway, "after") == 4
    assert step(gateway, "before") == (200, first)
    assert until_refused(gateway, "before") == 1


def test_a_tighter_limit_holds_for_runs_that_have_begun(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    assert step(gateway, "r") == (200, first)
    stage(admin, sent(1))
    status, got, raw = gateway.post(CALL, x_guardrail_run_id="r")
    assert (status, got["x-guardrail-policy"]) == (400, first)
    assert json.loads(raw)["error"]["code"] == "step_limit_exceeded"
    # A loosened one does not, whatever came between.
    stage(admin, sent(9))
    assert until_refused(gateway, "r") == 2


def test_a_share_of_new_runs_is_tried(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    tried = stage(admin, sent(5), share=0.5)["version"]
    assert admin.get("/policy")["version"] == first
    versions = [step(gateway, f"run-{n}")[1] for n in range(120)]
    assert 30 <= versions.count(tried) <= 90
    assert set(versions) == {first, tried}
    # Each keeps its own, and the candidate's looser limit holds for those that it governs.
    assert [step(gateway, f"run-{n}")[1] for n in range(20)] == versions[:20]
    mine = f"run-{versions.index(tried)}"
    theirs = f"run-{versions.index(first, 20)}"
    assert until_refused(gateway, mine) == 5 - 1 - (versions.index(tried) < 20)
    assert until_refused(gateway, theirs) == 2
    seen = admin.get("/policy/rollout")
    assert (seen["active"], seen["candidate"]["version"], seen["candidate"]["share"]) == (first, tried, 0.5)
    assert seen["candidate"]["runs"] == versions.count(tried)
    assert seen["baseline"]["runs"] == versions.count(first)
    assert (seen["candidate"]["refused"], seen["baseline"]["refused"]) == (1, 1)
    # All of it, then.
    assert stage(admin, sent(5))["version"] == tried
    assert {step(gateway, f"new-{n}")[1] for n in range(10)} == {tried}
    assert step(gateway, f"run-{versions.index(first)}")[1] == first


def test_a_policy_can_be_kept_for_later(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    kept = stage(admin, sent(5), share=0)
    assert kept["active"] is False
    assert {step(gateway, f"r{n}")[1] for n in range(5)} == {first}
    back = admin.call("POST", "/policy/rollback", {"version": kept["version"]})
    assert (back.status, back.body["version"]) == (200, kept["version"])


def test_rolled_back_is_gone_until_it_is_sent_again(
    gateway: ThreadedGateway, admin: Admin, provider: ProviderServer
) -> None:
    first = admin.get("/policy")["version"]
    assert step(gateway, "old")[1] == first
    second = stage(admin, sent(5))["version"]
    assert step(gateway, "r") == (200, second)
    back = admin.call("POST", "/policy/rollback", {"version": first, "reason": "not what we wanted"})
    assert back.status == 200
    assert back.body["rolled_back"] == [second]
    # Its runs go on under what governs now.
    assert step(gateway, "r") == (200, first)
    versions = {each["version"]: each for each in admin.get("/policy/versions")["data"]}
    assert versions[second]["rolled_back"] == "not what we wanted"
    assert versions[first]["active"] is True
    assert [each["action"] for each in admin.get("/audit?limit=500")["data"]].count("policy.rolled_back") == 1
    # Nothing more to go back to.
    assert admin.call("POST", "/policy/rollback", {"version": first}).status == 409
    assert admin.call("POST", "/policy/rollback", {"version": "0123456789ab"}).status == 404
    assert stage(admin, sent(5))["version"] == second
    assert step(gateway, "again")[1] == second


def test_a_candidate_is_rolled_back_without_naming_anything(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    tried = stage(admin, sent(5), share=0.99)["version"]
    back = admin.call("POST", "/policy/rollback", {})
    assert (back.status, back.body["version"], back.body["rolled_back"]) == (200, first, [tried])
    assert {step(gateway, f"r{n}")[1] for n in range(10)} == {first}
    whole = stage(admin, sent(6))["version"]
    back = admin.call("POST", "/policy/rollback", {})
    assert (back.body["version"], back.body["rolled_back"]) == (first, [whole])


def test_a_file_that_changes_governs_and_one_that_was_rolled_back_does_not(
    gateway: ThreadedGateway, admin: Admin, provider: ProviderServer
) -> None:
    first = admin.get("/policy")["version"]

    def write(steps: int) -> None:
        gateway.policy_path.write_text(base_policy(provider.base_url, RUN_LIMIT.format(steps=steps)))

    def governs(check: Callable[[str], bool]) -> str:
        return str(
            wait_until(lambda: (v := admin.get("/policy")["version"]) and check(v) and v, 10, "policy")
        )

    sent_version = stage(admin, sent(5))["version"]
    write(7)
    second = governs(lambda v: v not in (first, sent_version))
    assert step(gateway, "r")[1] == second
    authors = {each["version"]: each["author"] for each in admin.get("/policy/versions")["data"]}
    assert authors == {first: "files", sent_version: "admin", second: "files"}
    assert admin.call("POST", "/policy/rollback", {"version": sent_version}).status == 200
    # The rolled back content is still in the file, and comes back to it.
    write(3)
    assert governs(lambda v: v == first)
    write(7)
    wait_until(lambda: admin.get("/policy")["files_version"] == second, 10, "the file")
    assert admin.get("/policy")["version"] == first
    assert step(gateway, "s")[1] == first


def test_a_restart_keeps_what_was_sent(provider: ProviderServer, tmp_path: Path) -> None:
    policy = base_policy(provider.base_url, RUN_LIMIT.format(steps=3))
    with threaded_gateway(policy, tmp_path) as gateway:
        admin = Admin(gateway)
        first = admin.get("/policy")["version"]
        assert step(gateway, "old")[1] == first
        version = stage(admin, sent(5))["version"]
    with threaded_gateway(policy, tmp_path) as gateway:
        assert Admin(gateway).get("/policy")["version"] == version
        assert step(gateway, "new") == (200, version)
        assert step(gateway, "old") == (200, first)
    # Another file at the next start is a change.
    with threaded_gateway(base_policy(provider.base_url, RUN_LIMIT.format(steps=4)), tmp_path) as gateway:
        assert Admin(gateway).get("/policy")["version"] not in (first, version)


def test_what_is_sent_can_be_wrong(gateway: ThreadedGateway, admin: Admin) -> None:
    before = admin.get("/policy")["version"]
    for policy, said in [
        ("version: 1\nrunz: {}", "runz"),
        (
            "version: 1\nproviders: {upstream: {dialect: openai, base_url: 'https://evil.example.com/v1'}}",
            "providers",
        ),
        ("version: 1\nkeys: [{name: x, key: ${HOME}}]", "keys: got a change"),
        ("version: 1\nbudgets: [{name: b, per: run, limit_usd: ${HOME}}]", "limit_usd"),
        ("][", "1"),
        (sent(5, "screening: {injection: {judge: {model: nowhere}}}\n"), "nowhere"),
    ]:
        answer = admin.call("POST", "/policy", {"policy": policy})
        assert (answer.status, answer.code) == (400, "invalid_policy")
        assert said in answer.body["error"]["message"]
    assert admin.call("POST", "/policy", {"policy": sent(5), "share": 1.5}).status == 400
    governs = admin.get("/policy")["text"]
    assert admin.call("POST", "/policy", {"policy": governs, "share": 0.5}).status == 409
    assert stage(admin, governs)["version"] == before
    assert admin.get("/policy")["version"] == before


def test_a_diff_says_what_changes(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")
    # What is shown can be sent back; secrets stay where they are.
    assert "sk-upstream-secret" not in first["text"]
    assert "gk-alice" not in first["text"]
    changed = first["text"].replace("max_steps: 3", "max_steps: 5")
    second = stage(admin, changed, share=0)["version"]
    diff = admin.get(f"/policy/versions/{second}/diff")
    assert diff["against"] == first["version"]
    lines = [
        line for line in diff["diff"].splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert lines == ["-runs: {max_steps: 3}", "+runs: {max_steps: 5}"]
    back = admin.get(f"/policy/versions/{first['version']}/diff?against={second}")["diff"]
    assert "+runs: {max_steps: 3}" in back
    assert admin.get(f"/policy/versions/{first['version']}/diff")["against"] is None
    assert admin.get(f"/policy/versions/{second}")["text"] == changed
    assert admin.call("GET", "/policy/versions/nothing/diff").status == 404


def test_what_makes_runs_worse_is_rolled_back_by_itself(gateway: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/policy")["version"]
    worker = gateway.worker
    for n in range(30):
        assert step(gateway, f"calm-{n}")[0] == 200
    refusing = sent(
        3, "tools: {defaults: {allow: false}}\nbudgets: [{name: tiny, per: run, limit_usd: 0.000001}]\n"
    )
    bad = stage(admin, refusing, watch=True)["version"]
    assert gateway.run(worker.rollout.look) is False
    for n in range(19):
        assert step(gateway, f"r-{n}") == (400, bad)
    gateway.run(worker.drain.flush)
    assert gateway.run(worker.rollout.look) is False
    step(gateway, "r-20")
    gateway.run(worker.drain.flush)
    assert gateway.run(worker.rollout.look) is True
    assert admin.get("/policy")["version"] == first
    rolled = next(each for each in admin.get("/policy/versions")["data"] if each["version"] == bad)
    assert rolled["rolled_back"] == "20 of 20 runs refused, 0 of 30 without it"
    assert gateway.run(worker.rollout.look) is False
    assert step(gateway, "r-1") == (200, first)


def test_what_is_not_watched_stays(gateway: ThreadedGateway, admin: Admin) -> None:
    bad = stage(admin, sent(3, "budgets: [{name: tiny, per: run, limit_usd: 0.000001}]\n"))["version"]
    for n in range(25):
        step(gateway, f"r-{n}")
    gateway.run(gateway.worker.drain.flush)
    assert gateway.run(gateway.worker.rollout.look) is False
    assert admin.get("/policy")["version"] == bad
    assert admin.get("/policy/rollout")["candidate"]["worse"] == "25 of 25 runs refused, 0 of 0 without it"


def test_files_keep_what_decides_where_traffic_goes(
    gateway: ThreadedGateway, admin: Admin, provider: ProviderServer
) -> None:
    """A key that is taken out of the file is out, also for runs and versions from before."""
    version = stage(admin, sent(9))["version"]
    assert step(gateway, "r") == (200, version)
    text = gateway.policy_path.read_text()
    # The rules in the file are the same, but its content is another, so the file governs again.
    gateway.policy_path.write_text(text.replace("gk-bob-0123456789", "gk-bob-9876543210"))
    wait_until(lambda: gateway.post(CALL, key="gk-bob-0123456789")[0] == 401, 10, "the old key's end")
    assert gateway.post(CALL, key="gk-bob-9876543210")[0] == 200
    assert step(gateway, "r")[0] == 200


def test_a_false_alarm_becomes_an_exception(gateway: ThreadedGateway, admin: Admin) -> None:

    def tells(text: str) -> int:
        return gateway.post({**CALL, "messages": [{"role": "user", "content": text}]})[0]

    stage(admin, sent(5, "screening: {pii: {action: block}}\n"))
    assert tells("my card is 4111 1111 1111 1111") == 400
    wrong = {"name": "tests", "detector": "pii"}
    assert admin.call("POST", "/policy/exceptions", wrong).code == "invalid_policy"
    made = admin.call("POST", "/policy/exceptions", {**wrong, "type": "CREDIT_CARD"})
    assert (made.status, made.body["active"]) == (201, True)
    assert made.body["note"] == "exception tests: pii, CREDIT_CARD"
    assert tells("my card is 4111 1111 1111 1111") == 200
    assert tells("write to jane.roe@acme-corp.com") == 400
    # The same name again is a mistake, and changes nothing.
    assert admin.call("POST", "/policy/exceptions", {**wrong, "tool": "x"}).code == "invalid_policy"
    assert admin.get("/policy")["version"] == made.body["version"]


def test_a_key_may_have_rules_of_its_own(gateway: ThreadedGateway, admin: Admin) -> None:
    profile = (
        "profiles:\n  ci:\n    keys: [bob]\n    runs: {max_steps: 1}\n"
        "    budgets: [{name: bobs-day, per: key, window: 1d, limit_usd: 3}]\n"
    )
    version = stage(admin, sent(5, profile))["version"]
    bob = "gk-bob-0123456789"
    assert step(gateway, "r") == (200, version)
    assert until_refused(gateway, "r") == 4
    assert gateway.post(CALL, key=bob, x_guardrail_run_id="r")[0] == 200
    status, got, raw = gateway.post(CALL, key=bob, x_guardrail_run_id="r")
    assert (status, got["x-guardrail-policy"]) == (400, version)
    assert json.loads(raw)["error"]["code"] == "step_limit_exceeded"
    (row,) = [row for row in admin.get("/budgets")["data"] if row["name"] == "bobs-day"]
    assert (row["id"], row["limit_usd"]) == ("bob", "3.000000000")
    assert row["used_usd"] > "0"
    assert admin.post("/budgets/bobs-day/topups", {"id": "bob", "amount_usd": "1", "reason": "test"})


def test_the_command_line_stages_and_goes_back(
    gateway: ThreadedGateway, provider: ProviderServer, tmp_path: Path
) -> None:
    first = run(gateway, "policy", "show", "--json")
    shown = json.loads(first)["version"]
    # The very file that a gateway is served with, references and all, may be staged.
    changed = base_policy("https://elsewhere.example.com/v1", RUN_LIMIT.format(steps=7)).replace(
        "gk-bob-0123456789", "${BOBS_KEY}"
    )
    file = tmp_path / "changed.yaml"
    file.write_text(changed)
    said = run(gateway, "policy", "stage", str(file), "--share", "0.25", "--note", "seven", "--no-watch")
    version = said.split()[0]
    assert said.strip() == f"{version} governs 25 % of new runs"
    assert "+runs: {max_steps: 7}" in run(gateway, "policy", "diff", version)
    assert f"{version} is tried with 25 %" in run(gateway, "policy", "rollout")
    assert "max_steps: 7" in run(gateway, "policy", "show", version)
    listed = run(gateway, "policy", "versions").splitlines()
    assert [line.split()[0] for line in listed] == ["version", version, shown]
    assert listed[1].split()[1:4] == ["25", "%", "admin"]
    back = run(gateway, "policy", "rollback", "--reason", "enough")
    assert back.strip() == f"{shown} governs; rolled back: {version}"
    assert run(gateway, "policy", "rollout").splitlines()[1] == "nothing is being tried"
    assert "rolled back" in run(gateway, "policy", "versions")
    (tmp_path / "bad.yaml").write_text("version: 1\nrunz: {}\n")
    run(gateway, "policy", "stage", str(tmp_path / "bad.yaml"), check=1)
    run(gateway, "policy", "stage", str(tmp_path / "none.yaml"), check=1)
