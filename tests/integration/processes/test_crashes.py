"""Processes that die: every attempt is settled once, and nothing is forgotten."""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import AT_ONCE_S, saved
from tests.support.gateway import ALICE, ProcessGateway, base_policy, process_gateway, wait_until

OUT, IN = 10_000, 2_500


def call(gateway: ProcessGateway, body: dict[str, Any], timeout: float = 20) -> bytes:
    """One request that may find nobody: whatever came back."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=timeout)
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"authorization": f"Bearer {ALICE}", "content-type": "application/json"},
        )
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return raw
    except (OSError, http.client.HTTPException) as error:
        return str(error).encode()


def steps(gateway: ProcessGateway) -> list[dict[str, Any]]:
    """Every attempt that the ledger tells of, through the admin API."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = gateway.admin("GET", "/runs?limit=200" + (f"&cursor={cursor}" if cursor else ""))
        for run in page["data"]:
            found += gateway.admin("GET", f"/runs/{run['id']}/steps?limit=200")["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return [s for s in found if s["verdict"] != "refuse"]


def nano(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0"))


def ledger_holds_the_journal(gateway: ProcessGateway, provider: ProviderServer) -> None:
    """Each attempt once, never for less than was served, and exactly that where usage was seen."""
    attempts = {s["id"]: s for s in steps(gateway)}
    served = {a.guardrail_attempt_id: a for a in provider.journal}
    assert set(served) <= set(attempts)
    for attempt_id, step in attempts.items():
        cost = nano(step["cost_usd"])
        if attempt_id not in served:
            continue
        truth = served[attempt_id].served.input_uncached * IN + served[attempt_id].served.output_total * OUT
        assert cost >= truth, step
        if step["cost_source"] == "provider":
            assert cost == truth, step
    spend = gateway.admin("GET", "/spend?group_by=key")["data"]
    assert sum(nano(row["cost_usd"]) for row in spend) == sum(nano(s["cost_usd"]) for s in attempts.values())


def used(gateway: ProcessGateway) -> dict[str, str]:
    (budget,) = gateway.admin("GET", "/budgets?per=key&id=alice")["data"]
    return {name: budget[name] for name in ("used_usd", "reserved_usd")}


BUDGET = "budgets: [{name: key, per: key, limit_usd: 100, window: 1d}]\n"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_process_settles_everything_once_after_its_restart(
    provider: ProviderServer, tmp_path: Path, seed: int
) -> None:
    random_ = random.Random(seed)
    provider.script("talk", Reply("some words of an answer " * 5, chunks=10, chunk_delay_s=0.01))
    policy = base_policy(provider.base_url, BUDGET)
    data = tmp_path / "data"
    for round_ in range(2):
        with process_gateway(policy, tmp_path / f"round{round_}", data_dir=data) as gateway:
            stop = threading.Event()

            def work(number: int, gateway: ProcessGateway = gateway, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    body = {
                        "model": "sim/talk",
                        "max_tokens": 100,
                        "stream": number % 2 == 0,
                        "messages": [{"role": "user", "content": f"question {number} {random_.random()}"}],
                    }
                    call(gateway, body)

            threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(6)]
            for thread in threads:
                thread.start()
            enough = 30 * (round_ + 1)
            wait_until(lambda enough=enough: len(provider.journal) > enough, 30, "some calls")  # type: ignore[misc]
            time.sleep(random_.random())
            gateway.kill()
            stop.set()
            gateway.wait()
            for thread in threads:
                thread.join(20)
    provider.wait_idle_blocking()
    assert len(provider.journal) > 50
    with process_gateway(policy, tmp_path / "after", data_dir=data) as gateway:
        ledger_holds_the_journal(gateway, provider)
        before = used(gateway)
        assert before["reserved_usd"] == "0.000000000"
        assert nano(before["used_usd"]) == sum(nano(s["cost_usd"]) for s in steps(gateway))
        assert not list((data / "journal").glob("*.journal")) or len(list((data / "journal").glob("*"))) == 1
    with process_gateway(policy, tmp_path / "again", data_dir=data) as gateway:
        assert used(gateway) == before
        ledger_holds_the_journal(gateway, provider)


def test_a_restart_forgets_neither_runs_nor_kills(provider: ProviderServer, tmp_path: Path) -> None:
    policy = base_policy(provider.base_url, BUDGET + "runs: {max_steps: 2}\n")
    data = tmp_path / "data"
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    with process_gateway(policy, tmp_path / "one", data_dir=data) as gateway:
        body = {"model": "sim/printer", "messages": messages, "tools": tools, "max_tokens": 100}
        _, first, raw = gateway.post(body)
        gateway.admin("POST", "/kills", {"scope": "run", "id": "doomed", "reason": "test"})
        wait_until(
            lambda: [run for run in saved(data) if run["id"] == first["x-guardrail-run-id"] and run["head"]],
            what="the save",
        )
        gateway.kill()
        gateway.wait()
    message = json.loads(raw)["choices"][0]["message"]
    messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "none"}]
    with process_gateway(policy, tmp_path / "two", data_dir=data) as gateway:
        status, second, raw = gateway.post({**body, "messages": messages})
        assert status == 200, raw
        assert second["x-guardrail-run-id"] == first["x-guardrail-run-id"]
        assert second["x-guardrail-step"] == "2"
        message = json.loads(raw)["choices"][0]["message"]
        messages += [
            message,
            {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "none"},
        ]
        status, _, raw = gateway.post({**body, "messages": messages})
        assert (status, json.loads(raw)["error"]["code"]) == (400, "step_limit_exceeded")
        status, _, raw = gateway.post(body, x_guardrail_run_id="doomed")
        assert (status, json.loads(raw)["error"]["code"]) == (400, "run_killed")


def test_a_shutdown_ends_streams_with_an_error_event_and_settles_them(
    provider: ProviderServer, tmp_path: Path
) -> None:
    provider.script("slow", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01))
    provider.script("short", Reply("word " * 50, chunks=50, chunk_delay_s=0.01))
    policy = base_policy(provider.base_url, BUDGET)
    data = tmp_path / "data"
    with process_gateway(policy, tmp_path / "one", data_dir=data, drain_s="2") as gateway:
        received: dict[str, list[bytes]] = {"slow": [], "short": []}

        def read(name: str) -> None:
            body = {"model": f"sim/{name}", "max_tokens": 4000, "stream": True,
                    "messages": [{"role": "user", "content": "go"}]}  # fmt: skip
            received[name].append(call(gateway, body))

        threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in ["slow", "short"] * 10]
        for thread in threads:
            thread.start()
        wait_until(lambda: provider.journal.active == 20, what="streams")
        time.sleep(0.1)
        asked = time.monotonic()
        gateway.kill(signal.SIGTERM)
        assert gateway.wait(15) == 0
        assert time.monotonic() - asked < 2 + AT_ONCE_S
        for thread in threads:
            thread.join(5)
    assert all(b.endswith(b"data: [DONE]\n\n") and b'"error"' not in b for b in received["short"])
    assert all(b'"guardrail_unavailable"' in b[-1500:] for b in received["slow"])
    provider.wait_idle_blocking()
    with process_gateway(policy, tmp_path / "two", data_dir=data) as gateway:
        ledger_holds_the_journal(gateway, provider)
        assert used(gateway)["reserved_usd"] == "0.000000000"
