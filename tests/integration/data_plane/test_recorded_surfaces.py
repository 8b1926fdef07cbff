"""Recorded traffic of the other surfaces replayed through the gateway: bytes, usage, cost and runs."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.metering.prices import PriceBook, UnknownPrice
from gateway.metering.usage import ReadUsage, UsageFold, read_usage
from gateway.stores.embedded import wall_clock
from gateway.testing import ProviderServer, Reply
from tests.integration.data_plane.test_recorded import RECORDINGS, last_attempt
from tests.support.gateway import ALICE, ThreadedGateway, threaded_gateway
from tests.support.wire import WIRES

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}


def recordings(surface: str) -> list[dict[str, Any]]:
    with gzip.open(RECORDINGS) as lines:
        return [record for line in lines if (record := json.loads(line))["surface"] == surface]


def policy_for(provider: ProviderServer) -> str:
    return f"""
version: 1
providers:
  openai: {{dialect: openai, base_url: "{provider.base_url}", api_key: none, breaker: null, price_table: openai}}
  anthropic: {{dialect: anthropic, base_url: "{provider.origin}", api_key: none, breaker: null, price_table: anthropic}}
models:
  "openai/*": {{provider: openai, upstream_model: "*"}}
  "anthropic/*": {{provider: anthropic, upstream_model: "*"}}
  "free/openai/*": {{provider: openai, upstream_model: "*", price: free}}
  "free/anthropic/*": {{provider: anthropic, upstream_model: "*", price: free}}
keys: [{{name: alice, key: {ALICE}}}]
routing: {{retries: null}}
"""


@pytest.fixture
def replaying(
    shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    with threaded_gateway(policy_for(shared_provider), tmp_path_factory.mktemp("replay")) as gateway:
        yield gateway


def table_of(surface: str) -> str:
    return "anthropic" if surface == "messages" else "openai"


def is_priced(surface: str, model: str) -> bool:
    name = table_of(surface)
    try:
        PriceBook(refs={name: name}).rates(name, model, wall_clock())
    except UnknownPrice:
        return False
    return True


def replay(
    gateway: ThreadedGateway, provider: ProviderServer, record: dict[str, Any]
) -> tuple[int, dict[str, str], bytes, bytes, bool]:
    """Send the recorded request; (status, headers, body, recorded body, whether its price is known)."""
    surface = record["surface"]
    body = dict(record["request"]["body"])
    recorded = record["response"]["body"]
    raw = recorded.encode() if isinstance(recorded, str) else orjson.dumps(recorded)
    kind = record["response"]["headers"].get("content-type", "application/json")
    provider.script(
        "recorded", Reply(status=record["status"], body=raw, content_type=kind, chunk_bytes=911, strict=False)
    )
    priced = is_priced(surface, str(body["model"]))
    body["model"] = f"{'' if priced else 'free/'}{table_of(surface)}/{body['model']}"
    status, headers, answer = gateway.post(body, path=PATHS[surface], x_sim_scenario="recorded")
    return status, headers, answer, raw, priced


def plain(record: dict[str, Any]) -> dict[str, Any]:
    body = record["response"]["body"]
    parsed: dict[str, Any] = body if isinstance(body, dict) else json.loads(body)
    return parsed


def events_of(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for line in record["response"]["body"].splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def usage_in(record: dict[str, Any]) -> ReadUsage | None:
    """The usage of a recorded answer, read by hand."""
    surface = Surface(record["surface"])
    if not record["stream"]:
        return read_usage(surface, plain(record))
    fold = UsageFold(surface)
    for event in events_of(record):
        fold.feed(event)
    return fold.result()


@pytest.mark.parametrize(("surface", "least"), [("responses", 150), ("messages", 130), ("embeddings", 3)])
def test_every_recorded_answer_reaches_the_client_byte_equal_and_costs_what_it_says(
    replaying: ThreadedGateway, shared_provider: ProviderServer, surface: str, least: int
) -> None:
    checked = priced_count = 0
    for record in recordings(surface):
        status, headers, answer, raw, priced = replay(replaying, shared_provider, record)
        if status == 404 and b'"unknown_reference"' in answer:
            assert needs_state(record), record["id"]
            continue
        assert (status, answer) == (record["status"], raw), (record["id"], answer[:300])
        checked += 1
        if is_under_way(record):
            continue
        attempt = replaying.run(partial(last_attempt, replaying, headers["x-guardrail-run-id"]))
        if record["status"] >= 400:
            assert attempt["cost"] == 0
            continue
        assert attempt["outcome"] == "ok", record["id"]
        read = usage_in(record)
        if read is None:
            continue
        assert attempt["input_tokens"] == read.usage.input_total, record["id"]
        assert attempt["output_tokens"] == read.usage.output_total, record["id"]
        if not priced:
            assert attempt["cost"] == 0
            continue
        name = table_of(surface)
        book = PriceBook(refs={name: name})
        cost = book.cost(name, str(record["request"]["body"]["model"]), read, wall_clock())
        assert attempt["cost"] == cost, record["id"]
        priced_count += 1
    assert checked >= least
    assert priced_count >= least * 0.6


def is_under_way(record: dict[str, Any]) -> bool:
    return not record["stream"] and plain(record).get("status") in ("queued", "in_progress")


def needs_state(record: dict[str, Any]) -> bool:
    text = json.dumps(record["request"]["body"])
    return any(
        name in text
        for name in ("previous_response_id", "conversation", "file_id", "item_reference", "container")
    )


@pytest.mark.parametrize(("surface", "least"), [("responses", 15), ("messages", 30)])
def test_consecutive_steps_of_a_recording_are_one_run(
    replaying: ThreadedGateway, shared_provider: ProviderServer, surface: str, least: int
) -> None:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in recordings(surface):
        families[record["id"].split("#")[0]].append(record)
    checked = 0
    for family, records in families.items():
        if len(records) < 2 or any(r["status"] != 200 or needs_state(r) for r in records):
            continue
        runs, sources = [], []
        for record in records:
            _, headers, answer, _, _ = replay(replaying, shared_provider, record)
            assert "x-guardrail-run-id" in headers, (family, answer)
            runs.append(headers["x-guardrail-run-id"])
            sources.append(headers["x-guardrail-run-source"])
        for i in range(1, len(records)):
            if calls_in(records[i - 1]) & answered_in(records[i]):
                checked += 1
                assert runs[i] == runs[i - 1], (family, i, sources)
    assert checked >= least


def calls_in(record: dict[str, Any]) -> set[str]:
    """Ids of the tool calls that a recorded answer asks for."""
    if record["stream"]:
        parts = [e.get("item") or e.get("content_block") or {} for e in events_of(record)]
    else:
        body = plain(record)
        parts = body.get("output") or body.get("content") or []
    ids = {p.get("call_id") or p.get("id") for p in parts if p.get("type") in ("function_call", "tool_use")}
    return {i for i in ids if i}


def answered_in(record: dict[str, Any]) -> set[str]:
    """Ids of the tool calls that a recorded request answers."""
    body = record["request"]["body"]
    items = body.get("input")
    if isinstance(items, list):
        return {
            i["call_id"] for i in items if isinstance(i, dict) and i.get("type") == "function_call_output"
        }
    return {
        part["tool_use_id"]
        for message in body.get("messages", [])
        if isinstance(message["content"], list)
        for part in message["content"]
        if part.get("type") == "tool_result"
    }


@pytest.mark.parametrize("surface", ["chat", "responses", "messages"])
def test_a_recorded_stream_that_is_cut_anywhere_never_ends_cleanly(
    replaying: ThreadedGateway, shared_provider: ProviderServer, surface: str
) -> None:
    wire = WIRES[surface]
    streams = [r for r in recordings(surface) if r["stream"] and r["status"] == 200 and not needs_state(r)]
    streams.sort(key=lambda r: len(r["response"]["body"]))
    for record in (streams[0], streams[len(streams) // 2]):
        raw = record["response"]["body"].encode()
        body = {**record["request"]["body"], "model": f"free/{table_of(surface)}/m"}
        kind = record["response"]["headers"].get("content-type", "text/event-stream")
        end = raw.rstrip().rfind(b"\n\n")
        for cut in range(1, end, max(1, end // 60)):
            script = Reply(body=raw, content_type=kind, cut_at_byte=cut)
            shared_provider.script("cut", script)
            status, _, answer = replaying.post(body, path=wire.path, x_sim_scenario="cut")
            said = wire.read(answer)
            if said.error is None:
                # Everything but a terminator had come: the answer is whole.
                assert said.finish is not None, (record["id"], cut)
                continue
            assert said.error == "upstream_stream_interrupted", (record["id"], cut, status, answer[-200:])
            if status == 200:
                assert b"upstream_stream_interrupted" in answer[-3000:]
