"""Backtests, replays and what steps held, over the admin API and the command line."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.testing import ProviderServer
from tests.integration.backtest.scene import play, policy_of
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway, base_policy, threaded_gateway

LIMITS = "budgets: [{name: run, per: run, limit_usd: 1}]\nrecording: {content: true}\n"
TIGHT = "budgets: [{name: run, per: run, limit_usd: 0.000001}]\n"


@pytest.fixture(scope="module")
def gateway(provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    policy = base_policy(provider.base_url, LIMITS)
    with threaded_gateway(policy, tmp_path_factory.mktemp("gateway")) as running:
        play(running, model="sim/looker", steps=2, x_guardrail_run_id="mine")
        yield running


def patient(request: Any, timeout: float = 0) -> Any:
    """A call that is given time: a backtest is a process of low priority, and other tests run beside it."""
    return _urlopen(request, timeout=max(timeout, 180))


_urlopen = urllib.request.urlopen


@pytest.fixture(autouse=True)
def environment(gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", patient)
    monkeypatch.setenv("GATEWAY_URL", gateway.url)
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", ADMIN_TOKEN)


def failure(gateway: ThreadedGateway, *call: Any, **more: Any) -> tuple[int, str, str]:
    """(status, code, message) of an admin call that fails."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.admin(*call, **more)
    error = json.loads(caught.value.read())["error"]
    return caught.value.code, error["code"], error["message"]


def command(*words: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as left:
        cli.main([*words])
    return int(left.value.code or 0)


# -- the API ---------------------------------------------------------------------------------------------


def test_a_backtest_in_a_process_of_its_own(gateway: ThreadedGateway) -> None:
    policy = policy_of(gateway).replace(LIMITS, TIGHT)
    told = gateway.admin("POST", "/policy/backtest", {"policy": policy, "since": "1h"})
    assert {"runs", "steps", "changed", "saved_usd", "refused", "unknown"} <= set(told)
    assert [(each["step"], each["rule"], each["was"], each["now"]) for each in told["changed"]] == [
        (1, "run", "allow", "refuse"),
        (2, "run", "allow", "refuse"),
    ]
    assert (told["refused"], told["unknown"], told["truncated"]) == (2, 0, False)
    assert told["rules"][0]["examples"][0] == told["changed"][0]
    assert told["since"].endswith("Z")


def test_runs_without_a_step_since_then_are_left_out(gateway: ThreadedGateway) -> None:
    told = gateway.admin("POST", "/policy/backtest", {"policy": policy_of(gateway), "since": "2100-01-01"})
    assert (told["runs"], told["steps"], told["changed"]) == (0, 0, [])


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("version: 1\nbudgets: [{name: run, per: run, limit_usd: ten}]", "policy:2: budgets[0].limit_usd"),
        ("version: 1\nmodels: {a: {provider: nowhere}}", "policy:2: models.a.provider"),
        ("", "empty"),
        ("[]", "mapping"),
        ("version: 1\n\tx: 1", "not valid YAML"),
    ],
)
def test_a_broken_policy_is_told_with_its_lines(policy: str, says: str, gateway: ThreadedGateway) -> None:
    status, code, message = failure(gateway, "POST", "/policy/backtest", {"policy": policy})
    assert (status, code) == (400, "invalid_policy")
    assert says in message


def test_references_of_a_sent_policy_are_never_expanded(
    gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "not-for-anybody-0123456789")
    (tmp_path / "secret").write_text("nor-this-0123456789")
    policy = """
version: 1
providers: {openai: {dialect: openai, base_url: "${A_SECRET_OF_THE_SERVER}", api_key: "file:%s"}}
models: {"sim/*": {provider: openai, price: free}}
budgets: [{name: "${A_SECRET_OF_THE_SERVER}", per: run, limit_usd: "${A_SECRET_OF_THE_SERVER}"}]
""" % (tmp_path / "secret")
    _, _, message = failure(gateway, "POST", "/policy/backtest", {"policy": policy})
    assert "for-anybody" not in message
    assert "nor-this" not in message
    told = gateway.admin(
        "POST", "/policy/backtest", {"policy": policy.replace('"${A_SECRET_OF_THE_SERVER}"}]', "1}]")}
    )
    assert "for-anybody" not in json.dumps(told)
    assert "nor-this" not in json.dumps(told)


def test_operators_alone_may_look(gateway: ThreadedGateway) -> None:
    viewer = gateway.admin("POST", "/tokens", {"name": "looks-on", "role": "viewer"})["token"]
    calls: list[tuple[Any, ...]] = [
        ("POST", "/policy/backtest", {"policy": "version: 1"}),
        ("GET", "/runs/mine/replay"),
        ("POST", "/runs/mine/replay", {}),
        ("GET", "/runs/mine/steps/1/content"),
    ]
    for call in calls:
        assert failure(gateway, *call, token=viewer)[0] == 403, call


def test_one_backtest_at_a_time(gateway: ThreadedGateway) -> None:
    lock: asyncio.Lock = gateway.worker.backtests._lock

    async def take() -> None:
        await lock.acquire()

    gateway.run(take)
    try:
        status, code, _ = failure(gateway, "GET", "/runs/mine/replay")
        assert (status, code) == (409, "busy")
    finally:

        async def leave() -> None:
            lock.release()

        gateway.run(leave)


def test_serving_goes_on_meanwhile(gateway: ThreadedGateway) -> None:
    told: list[Any] = []
    call = threading.Thread(target=lambda: told.append(gateway.admin("GET", "/runs/mine/replay")))
    call.start()
    while call.is_alive():
        assert play(gateway, model="sim/looker", tools=(), steps=1)[0].status == 200
    call.join()
    assert [step["now"] for step in told[0]["decisions"]] == ["allow", "allow"]


def test_a_backtest_that_takes_too_long_says_so(
    gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.replay.process.GRACE_S", -1_000.0)
    assert failure(gateway, "GET", "/runs/mine/replay")[:2] == (503, "backtest_failed")


def test_a_run_is_replayed_step_by_step(gateway: ThreadedGateway) -> None:
    told = gateway.admin("GET", "/runs/mine/replay")
    assert [(each["step"], each["was"], each["now"], each["changed"]) for each in told["decisions"]] == [
        (1, "allow", "allow", False),
        (2, "allow", "allow", False),
    ]
    assert told["changed"] == []
    other = gateway.admin("POST", "/runs/mine/replay", {"policy": policy_of(gateway).replace(LIMITS, TIGHT)})
    assert [(each["now"], each.get("code")) for each in other["decisions"]] == [
        ("refuse", "run_budget_exceeded")
    ] * 2
    assert failure(gateway, "GET", "/runs/nobody/replay")[:2] == (404, "not_found")


def test_what_a_step_held_is_shown_and_that_is_on_record(gateway: ThreadedGateway) -> None:
    told = gateway.admin("GET", "/runs/mine/steps/2/content")
    (request,) = told["requests"]
    assert json.loads(request["body"])["messages"][0] == {"role": "user", "content": "Look it up."}
    assert [call["name"] for call in request["answers"][0]["calls"]] == ["search"]
    records = gateway.admin("GET", "/audit?limit=500")["data"]
    looked = [record["details"] for record in records if record["action"] == "run.content_read"]
    assert looked[-1]["step"] == 2
    assert failure(gateway, "GET", "/runs/mine/steps/99/content")[:2] == (404, "not_found")


# -- the command line --------------------------------------------------------------------------------------


def test_the_command_shows_a_table(
    gateway: ThreadedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "new.yaml"
    policy.write_text(policy_of(gateway).replace(LIMITS, TIGHT))
    assert command("backtest", "--policy", str(policy), "--since", "1h") == 0
    told = capsys.readouterr().out
    assert "refused" in told
    assert "run" in told
    assert "step 1: allow -> refuse (run_budget_exceeded)" in told
    assert command("backtest", "--policy", str(policy), "--json") == 0
    assert json.loads(capsys.readouterr().out)["refused"] >= 2
    policy.write_text(policy_of(gateway))
    assert command("backtest", "--policy", str(policy)) == 0
    assert "nothing would have been different" in capsys.readouterr().out


def test_a_broken_policy_ends_the_command_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "new.yaml"
    policy.write_text("version: 1\nbudgets: [{name: run, per: run, limit_usd: ten}]\n")
    assert command("backtest", "--policy", str(policy)) == 1
    assert "new.yaml:2: budgets[0].limit_usd" in capsys.readouterr().err
    policy.write_text("version: 1\n  broken")
    assert command("backtest", "--policy", str(policy)) == 1


def test_the_command_replays_a_run(
    gateway: ThreadedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("replay", "mine") == 0
    assert "No step would differ" in capsys.readouterr().out
    policy = tmp_path / "new.yaml"
    policy.write_text(policy_of(gateway).replace(LIMITS, TIGHT))
    assert command("replay", "mine", "--policy", str(policy)) == 0
    assert "2 steps would differ" in capsys.readouterr().out
    assert command("replay", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []
    assert command("replay", "nobody") == 1
