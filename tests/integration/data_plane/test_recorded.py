"""Recorded provider traffic replayed through the gateway: bytes, usage, cost and runs.

The recordings are shared data beside the repository (`GATEWAY_SHARED_DATA` or `../shared/data`) and are not
copied into it; without them these tests are skipped, and the excerpts in test_transparency.py remain.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.metering.prices import PriceBook, UnknownPrice
from gateway.metering.usage import read_chat_usage
from gateway.stores.embedded import wall_clock
from gateway.testing import ProviderServer, Reply
from tests.support.gateway import ALICE, ThreadedGateway, threaded_gateway

SHARED = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
RECORDINGS = SHARED / "provider_exchanges_dev.jsonl.gz"

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")

TABLES = {"api.openai.com": "openai", "api.groq.com": "groq", "openrouter.ai": "openrouter",
          "generativelanguage.googleapis.com": "google"}  # fmt: skip


def recordings() -> Iterator[dict[str, Any]]:
    with gzip.open(RECORDINGS) as lines:
        for line in lines:
            record = json.loads(line)
            if record["surface"] == "chat":
                yield record


def provider_of(record: dict[str, Any]) -> str:
    return TABLES.get(record["host_kind"], "other")


def policy_for(provider: ProviderServer) -> str:
    """One provider per recorded host, each with its own models behind a prefix of its name."""
    lines = ["version: 1", "providers:"]
    names = [*TABLES.values(), "other"]
    for name in names:
        table = f", price_table: {name}" if name != "other" else ""
        lines.append(
            f'  {name}: {{dialect: openai, base_url: "{provider.base_url}", api_key: none, breaker: null{table}}}'
        )
    lines.append("models:")
    for name in names:
        price = ", price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}" if name == "other" else ""
        lines.append(f'  "{name}/*": {{provider: {name}, upstream_model: "*"{price}}}')
        lines.append(f'  "free/{name}/*": {{provider: {name}, upstream_model: "*", price: free}}')
    lines += [f"keys: [{{name: alice, key: {ALICE}}}]", "routing: {retries: null}"]
    return "\n".join(lines) + "\n"


@pytest.fixture
def replaying(
    shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    with threaded_gateway(policy_for(shared_provider), tmp_path_factory.mktemp("replay")) as gateway:
        yield gateway


def replay(
    gateway: ThreadedGateway, provider: ProviderServer, record: dict[str, Any]
) -> tuple[int, dict[str, str], bytes, bytes, bool]:
    """Send the recorded request; (status, headers, body, recorded body, whether its price is known)."""
    name = provider_of(record)
    body = dict(record["request"]["body"])
    recorded = record["response"]["body"]
    raw = recorded.encode() if isinstance(recorded, str) else orjson.dumps(recorded)
    kind = record["response"]["headers"].get("content-type", "application/json")
    provider.script("recorded", Reply(status=record["status"], body=raw, content_type=kind, chunk_bytes=911))
    model = str(body.get("model") or "unknown")
    priced = True
    try:
        if name != "other":
            PriceBook(refs={name: name}).rates(name, model, wall_clock())
    except UnknownPrice:
        priced = False
    body["model"] = f"{name}/{model}" if priced else f"free/{name}/{model}"
    status, headers, answer = gateway.post(body, x_sim_scenario="recorded")
    return status, headers, answer, raw, priced


def usage_in(record: dict[str, Any]) -> Any:
    """The last usage of a recorded answer, read by hand."""
    body = record["response"]["body"]
    if not record["stream"]:
        try:
            return read_chat_usage(body if isinstance(body, dict) else json.loads(body))
        except json.JSONDecodeError:
            return None
    found = None
    for line in body.splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            if chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage"):
                found = read_chat_usage(chunk)
    return found


def test_every_recorded_answer_reaches_the_client_byte_equal_and_costs_what_it_says(
    replaying: ThreadedGateway, shared_provider: ProviderServer
) -> None:
    checked = priced_count = 0
    for record in recordings():
        status, headers, answer, raw, priced = replay(replaying, shared_provider, record)
        expected = record["status"]
        if expected in (401, 402, 403) or expected >= 500:
            continue
        if names_a_file(record):
            # It was handed to somebody else: not found, and never sent.
            assert (status, b'"unknown_reference"' in answer) == (404, True), record["id"]
            continue
        assert (status, answer) == (expected, raw), (record["id"], answer[:300])
        checked += 1
        attempt = replaying.run(partial(last_attempt, replaying, headers["x-guardrail-run-id"]))
        if expected >= 400:
            assert attempt["cost"] == 0
            continue
        read = usage_in(record)
        if read is None:
            assert attempt["cost_source"] != "free" or not priced, record["id"]
            continue
        usage = read.usage
        assert attempt["input_tokens"] == usage.input_total, record["id"]
        assert attempt["output_tokens"] == usage.output_total, record["id"]
        if not priced:
            assert attempt["cost"] == 0
        elif read.reported_cost is not None and provider_of(record) == "openrouter":
            assert attempt["cost"] == read.reported_cost
        else:
            name = provider_of(record)
            if name != "other":
                book = PriceBook(refs={name: name})
                cost = book.cost(name, str(record["request"]["body"]["model"]), read, wall_clock())
                assert attempt["cost"] == cost, record["id"]
                priced_count += 1
    assert checked >= 170
    assert priced_count >= 100


def names_a_file(record: dict[str, Any]) -> bool:
    return '"file_id"' in json.dumps(record["request"]["body"])


async def last_attempt(gateway: ThreadedGateway, run: str) -> dict[str, Any]:
    await gateway.worker.drain.flush()
    steps, _ = await gateway.worker.ledger.steps(run, limit=1000)
    return dict([s for s in steps if s["kind"] == "attempt"][-1])


def test_consecutive_steps_of_a_recording_are_one_run(
    replaying: ThreadedGateway, shared_provider: ProviderServer
) -> None:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in recordings():
        families[record["id"].split("#")[0]].append(record)
    checked = 0
    for family, records in families.items():
        if len(records) < 2 or any(r["status"] != 200 or names_a_file(r) for r in records):
            continue
        runs, sources = [], []
        for record in records:
            _, headers, _, _, _ = replay(replaying, shared_provider, record)
            runs.append(headers["x-guardrail-run-id"])
            sources.append(headers["x-guardrail-run-source"])
        for i in range(1, len(records)):
            if continues(records[i - 1], records[i]):
                checked += 1
                assert runs[i] == runs[i - 1], (family, i, sources)
    assert checked >= 15


def continues(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether `after` answers the tool calls of `before`: then it is a step of the same run."""
    body = before["response"]["body"]
    if before["stream"]:
        ids = {
            call["id"]
            for line in body.splitlines()
            if line.startswith("data: {")
            for choice in json.loads(line[6:]).get("choices") or []
            for call in (choice.get("delta") or {}).get("tool_calls") or []
            if call.get("id")
        }
    else:
        parsed = body if isinstance(body, dict) else json.loads(body)
        ids = {
            call["id"]
            for choice in parsed.get("choices") or []
            for call in (choice.get("message") or {}).get("tool_calls") or []
        }
    answered = {m.get("tool_call_id") for m in after["request"]["body"].get("messages", [])}
    return bool(ids & answered)
