"""What a step costs, whatever happens to it: the ledger against the provider's own journal."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from gateway.testing import ABSENT, ProviderServer, Reply, error_reply
from tests.integration.conftest import AT_ONCE_S, MakeGateway
from tests.support.gateway import ALICE, ThreadedGateway, wait_until

IN, CACHED, OUT = 2_500, 1_250, 10_000
"""Nano-dollars per token of the test policy's models."""


def chat(model: str = "sim/echo", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "What is it?"}], **more}


def journal_cost(provider: ProviderServer) -> int:
    """What the provider served, priced by hand."""
    return sum(
        a.served.input_uncached * IN + a.served.cache_read * CACHED + (a.served.output_total) * OUT
        for a in provider.journal
    )


def ledger_cost(gateway: ThreadedGateway) -> int:
    return sum(a["cost"] for a in gateway.attempts())


def settled(gateway: ThreadedGateway, attempts: int) -> bool:
    return len(gateway.attempts()) == attempts


def read_stream(gateway: ThreadedGateway, body: dict[str, Any], *, stop_after: int | None = None) -> bytes:
    """Read a stream over a bare socket, closing it after so many events when told."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"authorization": f"Bearer {ALICE}", "content-type": "application/json"},
    )
    answer = connection.getresponse()
    received = b""
    while stop_after is None or received.count(b"\n\n") < stop_after:
        piece = answer.read1(65536) if stop_after is None else answer.readline()
        if not piece:
            break
        received += piece
    if stop_after is not None and connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    return received


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_usage_costs_exactly_what_the_provider_served(
    gateway: ThreadedGateway, provider: ProviderServer, stream: bool
) -> None:
    provider.script("mixed", Reply("A longer answer.", cached_tokens=4, reasoning_tokens=7, reasoning="hm"))
    status, headers, _ = gateway.post(chat("sim/mixed", stream=stream))
    assert status == 200
    attempts = gateway.attempts()
    assert len(attempts) == 1
    assert attempts[0]["cost_source"] == "provider"
    assert ledger_cost(gateway) == journal_cost(provider) > 0
    if not stream:
        assert headers["x-guardrail-cost-usd"] == f"0.{ledger_cost(gateway):09d}"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_usage_is_counted(
    gateway: ThreadedGateway, provider: ProviderServer, stream: bool
) -> None:
    text = "The quick brown fox jumps over the lazy dog, again and again. " * 20
    provider.script("silent", Reply(text, usage=ABSENT), models=["gpt-4o"])
    gateway.post(chat("gpt-4o", stream=stream))
    (attempt,) = gateway.attempts()
    assert attempt["cost_source"] == attempt["usage_source"] == "estimated"
    served = journal_cost(provider)
    assert 0.85 * served <= attempt["cost"] <= 1.15 * served


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_a_providers_refusal_costs_nothing(
    make_gateway: MakeGateway, provider: ProviderServer, status: int
) -> None:
    gateway = make_gateway("routing: {retries: null}")
    provider.script("no", error_reply(status))
    answered, _, _ = gateway.post(chat("sim/no"))
    assert answered == (503 if status >= 500 else status)
    (attempt,) = gateway.attempts()
    assert attempt["cost"] == 0


def test_a_client_that_leaves_at_any_chunk_is_billed_what_was_generated(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    words = " ".join(f"word{i}" for i in range(24))
    provider.script("walk", Reply(words, chunks=24, chunk_delay_s=0.01))
    for k in range(1, 26):
        provider.journal.clear()
        before = len(gateway.attempts())
        read_stream(gateway, chat("sim/walk", stream=True), stop_after=k)
        wait_until(partial(settled, gateway, before + 1), what="settlement")
        provider.wait_idle_blocking()
        attempt, served = gateway.attempts()[-1], journal_cost(provider)
        if attempt["cost_source"] == "provider":
            assert attempt["cost"] == served
        else:
            assert attempt["outcome"] == "disconnected"
            # Never less than was served, and no more than the declared allowance above it.
            assert served <= attempt["cost"] <= 2 * served + 600 * OUT


def test_a_client_that_leaves_is_billed_exactly_when_the_policy_says_drain(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("server: {on_disconnect: drain}\n")
    provider.script("walk", Reply("one two three four five six", chunks=6, chunk_delay_s=0.02))
    for k in range(1, 7):
        read_stream(gateway, chat("sim/walk", stream=True), stop_after=k)
    wait_until(lambda: len(gateway.attempts()) == 6, what="settlement")
    provider.wait_idle_blocking()
    assert ledger_cost(gateway) == journal_cost(provider)
    assert {a["cost_source"] for a in gateway.attempts()} == {"provider"}


def test_a_client_that_leaves_aborts_the_upstream_within_a_second(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("slow", Reply("x " * 500, chunks=500, chunk_delay_s=0.05))
    read_stream(gateway, chat("sim/slow", stream=True), stop_after=3)
    left = time.monotonic()
    provider.wait_idle_blocking()
    assert time.monotonic() - left < AT_ONCE_S
    assert provider.journal.last.client_left


def test_a_plain_call_whose_client_leaves_aborts_the_upstream_and_is_billed_its_reservation(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("slow", Reply("late", head_delay_s=20))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(chat("sim/slow", max_tokens=50)),
        {"authorization": f"Bearer {ALICE}", "content-type": "application/json"},
    )
    wait_until(lambda: provider.journal.active, what="dispatch")
    connection.close()
    left = time.monotonic()
    provider.wait_idle_blocking()
    assert time.monotonic() - left < AT_ONCE_S
    (attempt,) = wait_until(gateway.attempts, what="settlement")
    assert attempt["outcome"] == "disconnected"
    assert attempt["cost"] == attempt["reserved"] >= 50 * OUT


def test_an_upstream_cut_at_any_byte_is_never_a_clean_end_and_never_free(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    whole = Reply("Hello there, friend.", chunks=3)
    provider.script("whole", whole)
    body = read_stream(gateway, chat("sim/whole", stream=True))
    length = provider.journal.last.body_bytes
    assert b"[DONE]" in body
    for k in range(0, length, 7):
        provider.script(f"cut{k}", Reply("Hello there, friend.", chunks=3, cut_at_byte=k, cut_how="fin"))
        status, _, received = gateway.post(chat(f"sim/cut{k}", stream=True))
        if status == 200:
            assert b"upstream_stream_interrupted" in received or b'"finish_reason":"stop"' in received, k
        else:
            assert status in (502, 503), k
    attempts = gateway.attempts()
    provider.wait_idle_blocking()
    assert len(attempts) == len(list(provider.journal))
    by_served = {a.guardrail_attempt_id: a for a in provider.journal}
    for attempt in attempts:
        served = by_served[attempt["id"]].served
        cost = served.input_uncached * IN + served.output_total * OUT
        assert attempt["cost"] >= cost, attempt["outcome"]


def test_two_hundred_at_once_spend_a_budget_for_ten_on_ten(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    body = chat("sim/full", max_tokens=300)
    provider.script("full", Reply("word " * 400, first_chunk_delay_s=0.3))
    gateway = make_gateway()
    _, _, _ = gateway.post(body)
    each = gateway.attempts()[0]["reserved"]
    limit = each * 10
    gateway = make_gateway(
        f"budgets: [{{name: team, per: team, limit_usd: {limit / 1e9:.9f}}}]\n", name="limited"
    )
    provider.wait_idle_blocking()
    provider.journal.clear()
    barrier = threading.Barrier(50)

    def call(i: int) -> tuple[int, bytes]:
        if i < 50:
            barrier.wait()
        status, _, answer = gateway.post(body)
        return status, answer

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(call, range(200)))
    served = [r for r in results if r[0] == 200]
    refused = [json.loads(r[1])["error"]["code"] for r in results if r[0] == 400]
    assert len(served) + len(refused) == 200
    assert set(refused) == {"team_budget_exceeded"}
    assert len(provider.journal) == len(served)
    assert ledger_cost(gateway) == journal_cost(provider) <= limit
    # Whatever was not spent has come back, and pays for exactly what still fits.
    left = limit - ledger_cost(gateway)
    more, _, _ = gateway.post(body)
    assert (more == 200) == (left >= each - 44 * OUT)


def test_a_budget_that_runs_out_in_mid_stream_ends_it_with_an_error_event(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("budgets: [{name: run, per: run, limit_usd: 0.02}]\n")
    provider.script("flood", Reply("word " * 20_000, ignore_limits=True, chunks=2000, chunk_delay_s=0.001))
    status, _, body = gateway.post(chat("sim/flood", stream=True))
    assert status == 200
    assert b"run_budget_exceeded" in body
    assert body.endswith(b"data: [DONE]\n\n")
    (attempt,) = gateway.attempts()
    assert attempt["outcome"] == "stopped"
    slice_nano = 512 * OUT
    assert attempt["cost"] <= 20_000_000 + 2 * slice_nano


def test_a_request_without_a_limit_gets_one_that_half_the_budget_can_pay(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("budgets: [{name: run, per: run, limit_usd: 0.02}]\n")
    status, _, _ = gateway.post(chat("sim/echo"))
    assert status == 200
    sent = json.loads(provider.journal.last.body)
    assert 900 <= sent["max_tokens"] <= 1000


def test_a_callers_limit_is_clamped_when_only_part_fits_and_refused_below_256(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("budgets: [{name: run, per: run, limit_usd: 0.006}]\n")
    status, _, _ = gateway.post(chat("sim/echo", max_tokens=5000))
    assert status == 200
    assert 256 <= json.loads(provider.journal.last.body)["max_tokens"] < 600
    gateway = make_gateway("budgets: [{name: run, per: run, limit_usd: 0.002}]\n", name="tiny")
    status, headers, body = gateway.post(chat("sim/echo", max_tokens=5000))
    assert status == 400
    assert json.loads(body)["error"]["code"] == "run_budget_exceeded"
    assert headers["x-should-retry"] == "false"


def test_many_choices_are_reserved_and_billed_all(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    gateway.post(chat("sim/echo", n=3, max_tokens=100))
    (attempt,) = gateway.attempts()
    assert attempt["reserved"] >= 300 * OUT
    assert attempt["cost"] == journal_cost(provider)


def test_an_unknown_price_is_refused_before_anything_is_sent(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    policy = f"""
version: 1
providers: {{up: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}}}
models: {{mystery: {{provider: up}}, gratis: {{provider: up, price: free}}}}
keys: [{{name: alice, key: {ALICE}}}]
"""
    gateway = make_gateway(policy=policy)
    status, _, body = gateway.post(chat("mystery"))
    assert (status, json.loads(body)["error"]["code"]) == (400, "unknown_price")
    status, _, body = gateway.post(chat("mystry"))
    assert (status, json.loads(body)["error"]["code"]) == (400, "unknown_model")
    assert "mystery" in json.loads(body)["error"]["message"]
    assert len(provider.journal) == 0
    status, _, _ = gateway.post(chat("gratis"))
    assert status == 200
    assert gateway.attempts()[-1]["cost"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_is_seen_is_counted_when_no_usage_comes(
    gateway: ThreadedGateway, provider: ProviderServer, stream: bool
) -> None:
    thoughts = "First I compare the two offers, then I add up what each would cost in a year. " * 10
    provider.script("thinks", Reply("Take the second.", reasoning=thoughts, usage=ABSENT), models=["gpt-4o"])
    gateway.post(chat("gpt-4o", stream=stream))
    (attempt,) = gateway.attempts()
    served = journal_cost(provider)
    assert attempt["cost_source"] == "estimated"
    assert 0.85 * served <= attempt["cost"] <= 1.15 * served


def test_a_client_that_leaves_after_the_last_word_is_billed_exactly(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("late", Reply("one two three", chunks=3, stall_at="usage", stall_s=0.3, flush_each=True))
    read_stream(gateway, chat("sim/late", stream=True), stop_after=5)
    (attempt,) = wait_until(gateway.attempts, what="settlement")
    assert (attempt["cost_source"], attempt["cost"]) == ("provider", journal_cost(provider))


def test_what_a_shadow_budget_would_have_refused_is_on_record(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("budgets: [{name: dry, per: key, limit_usd: 0.000001, mode: shadow}]\n")
    assert gateway.post(chat())[0] == 200
    (attempt,) = gateway.attempts()
    assert attempt["decisions"] == [{"rule": "dry", "mode": "shadow", "decision": "refuse"}]


def test_a_document_of_unknown_size_is_reserved_and_billed_for_up_to_the_model_s_window(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway(policy=f"""
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000, price_table: openai}}
models:
  gpt-4o: {{provider: upstream}}
  narrow: {{provider: upstream, upstream_model: gpt-4o, context_window: 32000}}
  aliens: {{provider: upstream, price: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}}}
auth: {{mode: keys}}
keys: [{{name: alice, key: {ALICE}, user: alice}}]
""")  # fmt: skip
    provider.script("task", Reply("It is a report.", usage=ABSENT), models=["gpt-4o", "aliens"])
    document = {"type": "input_file", "file_url": "https://files.example/report.pdf"}
    told = [{"type": "input_text", "text": "What is it?"}, document]
    reserved, billed = {}, {}
    for model in ("gpt-4o", "narrow", "aliens"):
        body = {"model": model, "input": [{"role": "user", "content": told}], "max_output_tokens": 100}
        assert gateway.post(body, path="/v1/responses")[0] == 200
        attempt = gateway.attempts()[-1]
        reserved[model], billed[model] = attempt["reserved"], attempt["cost"]
    for cost in (reserved, billed):
        assert cost["gpt-4o"] - cost["narrow"] == (128_000 - 32_000) * IN
        assert 32_000 * IN < cost["narrow"] < 33_000 * IN
        assert 460_000 * IN < cost["aliens"] < 461_000 * IN
    assert reserved["aliens"] - reserved["gpt-4o"] == (460_000 - 128_000) * IN
