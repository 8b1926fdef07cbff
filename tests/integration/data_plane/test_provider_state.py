"""Conversations that the provider keeps: found again, kept apart by caller, followed in the background."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.data_plane.test_surfaces import journal_cost, ledger_cost, policy_for
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.wire import RESPONSES


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    with threaded_gateway(policy_for(provider), tmp_path / "gw") as gateway:
        yield gateway


def ask(
    gateway: ThreadedGateway, key: str = ALICE, **body: Any
) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers, raw = gateway.post({"model": "sim/echo", **body}, path="/v1/responses", key=key)
    return status, headers, json.loads(raw)


def call(gateway: ThreadedGateway, method: str, path: str, key: str = ALICE) -> tuple[int, dict[str, Any]]:
    status, _, raw = gateway.request(method, path, key=key)
    return status, json.loads(raw)


def test_a_tool_loop_over_previous_response_ids_is_one_run(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    new: list[dict[str, Any]] = [RESPONSES.user("find it")]
    previous: dict[str, Any] = {}
    runs, steps, sources = [], [], []
    for _ in range(9):
        status, headers, body = ask(
            gateway, model="sim/steps-5", input=new, tools=RESPONSES.tools(["lookup", "read"]), **previous
        )
        assert status == 200, body
        runs.append(headers["x-guardrail-run-id"])
        steps.append(headers["x-guardrail-step"])
        sources.append(headers["x-guardrail-run-source"])
        said = RESPONSES.plain(body)
        previous = {"previous_response_id": body["id"]}
        new = [item for item in RESPONSES.answered(said) if item["type"] == "function_call_output"]
        if not said.calls:
            break
    assert (len(set(runs)), steps) == (1, list("12345"))
    assert sources == ["new", *["server_state"] * 4]
    # The next question opens a successor in the same session.
    _, headers, _ = ask(gateway, input="and now?", tools=RESPONSES.tools(["lookup"]), **previous)
    assert headers["x-guardrail-run-id"] != runs[0]
    successor = gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")
    first = gateway.admin("GET", f"/runs/{runs[0]}")
    assert successor["session"] == first["session"]
    assert first["status"] == "completed"
    assert ledger_cost(gateway) == journal_cost(provider)


def test_what_the_provider_keeps_counts_for_the_reservation(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("long", Reply("word " * 2000, ignore_limits=True, prompt_tokens=50_000))
    _, _, body = ask(gateway, model="sim/long", input="go", max_output_tokens=3000)
    ask(gateway, input="more", previous_response_id=body["id"], max_output_tokens=300)
    first, second = gateway.attempts()
    assert second["reserved"] >= (50_000 + first["output_tokens"]) * 2500


def test_an_id_of_another_caller_is_not_found_and_never_sent(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    _, _, body = ask(gateway, input="my secret plan")
    mine, item = body["id"], body["output"][0]["id"]
    served = provider.journal.received
    for key, given in ((BOB, mine), (ALICE, "resp_0123456789abcdef"), (BOB, "resp_0123456789abcdef")):
        status, _, error = ask(gateway, key, input="go on", previous_response_id=given)
        assert (status, error["error"]["code"]) == (404, "unknown_reference")
        assert call(gateway, "GET", f"/v1/responses/{given}", key)[0] == 404
        assert call(gateway, "DELETE", f"/v1/responses/{given}", key)[0] == 404
        assert call(gateway, "POST", f"/v1/responses/{given}/cancel", key)[0] == 404
        assert call(gateway, "GET", f"/v1/responses/{given}/input_items", key)[0] == 404
    reference = [{"type": "item_reference", "id": item}, RESPONSES.user("go on")]
    assert ask(gateway, BOB, input=reference)[0] == 404
    files = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-0123456789"}]}]
    assert ask(gateway, ALICE, input=files)[0] == 404
    assert ask(gateway, BOB, input="x", conversation="conv_0123456789")[0] == 404
    attached = [{"type": "file", "file": {"file_id": "file-0123456789"}}]
    chat = {"model": "sim/echo", "messages": [{"role": "user", "content": attached}]}
    assert gateway.post(chat)[0] == 404
    assert provider.journal.received == served
    assert ask(gateway, ALICE, input=reference)[0] == 200


def test_a_kept_response_is_read_listed_and_deleted(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    _, _, body = ask(gateway, input="hello")
    path = f"/v1/responses/{body['id']}"
    status, again = call(gateway, "GET", path)
    assert (status, again["id"], again["output"]) == (200, body["id"], body["output"])
    status, items = call(gateway, "GET", f"{path}/input_items")
    assert (status, len(items["data"])) == (200, 1)
    cost = ledger_cost(gateway)
    status, gone = call(gateway, "DELETE", path)
    assert (status, gone["deleted"]) == (200, True)
    assert call(gateway, "GET", path)[0] == 404
    assert ask(gateway, input="go on", previous_response_id=body["id"])[0] == 404
    assert ledger_cost(gateway) == cost
    assert call(gateway, "PUT", path)[0] == 405


def test_a_killed_run_s_responses_are_not_read(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    _, headers, body = ask(gateway, input="hello")
    gateway.admin("POST", "/kills", {"scope": "run", "id": headers["x-guardrail-run-id"], "reason": "no"})
    status, error = call(gateway, "GET", f"/v1/responses/{body['id']}")
    assert (status, error["error"]["code"]) == (400, "run_killed")


def test_a_killed_tool_is_not_delivered_by_reading_a_kept_response(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("calls", Reply(tool_calls=[("lookup", {"q": "x"})]))
    status, _, body = ask(gateway, model="sim/calls", input="go", tools=RESPONSES.tools(["lookup"]))
    assert status == 200
    path = f"/v1/responses/{body['id']}"
    assert call(gateway, "GET", path)[0] == 200
    streamed = RESPONSES.request("sim/calls", tools=["lookup"], stream=True, background=True)
    said = RESPONSES.read(gateway.post(streamed, path="/v1/responses")[2])
    gateway.admin("POST", "/kills", {"scope": "tool", "id": "lookup", "reason": "broken"})
    status, error = call(gateway, "GET", path)
    assert (status, error["error"]["code"]) == (400, "tool_killed")
    _, _, raw = gateway.request("GET", f"/v1/responses/{said.id}?stream=true")
    assert b"tool_killed" in raw
    assert b"response.completed" not in raw


def test_a_background_response_is_settled_when_it_ends(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("later", Reply("a long answer " * 20, queue_s=0.8))
    status, headers, body = ask(gateway, model="sim/later", input="go", background=True)
    assert (status, body["status"]) == (200, "queued")
    assert gateway.attempts() == []
    budgets = gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")
    assert budgets["reserved_usd"] != "0.000000000"
    (attempt,) = wait_until(gateway.attempts, timeout=20, what="settlement")
    provider.wait_idle_blocking()
    assert (attempt["outcome"], attempt["cost_source"]) == ("ok", "provider")
    assert attempt["cost"] == journal_cost(provider) > 0
    status, done = call(gateway, "GET", f"/v1/responses/{body['id']}")
    assert (status, done["status"]) == (200, "completed")
    run = gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")
    assert (run["status"], run["reserved_usd"]) == ("completed", "0.000000000")


def test_a_kill_cancels_a_background_response_at_the_provider(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("later", Reply("a long answer " * 20, queue_s=60))
    _, headers, _ = ask(gateway, model="sim/later", input="go", background=True)
    time.sleep(0.5)
    gateway.admin("POST", "/kills", {"scope": "run", "id": headers["x-guardrail-run-id"], "reason": "enough"})
    (attempt,) = wait_until(gateway.attempts, timeout=20, what="settlement")
    assert attempt["outcome"] == "killed"
    assert attempt["cost"] >= journal_cost(provider)
    cancelled = [a for a in provider.journal if a.path.endswith("/cancel")]
    assert len(cancelled) == 1


@pytest.mark.parametrize("after", [2, 6])
def test_a_background_stream_whose_reader_leaves_is_followed_to_its_end(
    gateway: ThreadedGateway, provider: ProviderServer, after: int
) -> None:
    from tests.integration.data_plane.test_surfaces import Stream

    provider.script("later", Reply("word " * 40, chunks=40, chunk_delay_s=0.02))
    body = RESPONSES.request("sim/later", stream=True, background=True)
    Stream(gateway, RESPONSES, body, leave_after=after).join(10)
    (attempt,) = wait_until(gateway.attempts, timeout=15, what="settlement")
    provider.wait_idle_blocking()
    assert attempt["cost_source"] == "provider"
    assert attempt["cost"] == journal_cost(provider)


def test_tokens_are_counted_by_the_provider_or_by_us(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    body = {"messages": [{"role": "user", "content": "one two three"}], "system": "be brief"}
    for model in ("claude/echo", "sim/echo"):
        for path in ("/v1/messages/count_tokens", "/messages/count_tokens"):
            status, _, raw = gateway.post({"model": model, **body}, path=path, anthropic_version="2023-06-01")
            assert status == 200, raw
            assert 5 <= json.loads(raw)["input_tokens"] <= 60
    assert gateway.attempts() == []


def test_models_are_listed_in_the_shape_of_who_asks(gateway: ThreadedGateway) -> None:
    status, _, raw = gateway.request("GET", "/v1/models", key=ALICE, anthropic_version="2023-06-01")
    page = json.loads(raw)
    assert (status, page["has_more"]) == (200, False)
    status, _, raw = gateway.request(
        "GET", "/v1/models/claude%2Fecho", key=ALICE, anthropic_version="2023-06-01"
    )
    assert (status, json.loads(raw)["type"]) == (200, "model")
