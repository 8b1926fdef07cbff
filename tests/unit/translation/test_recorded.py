"""Recorded provider traffic translated: every request is carried or refused by name, every answer says the same.

The recordings are shared data beside the repository (`GATEWAY_SHARED_DATA` or `../shared/data`) and are not
copied into it; without them these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.domain import Answer, Surface
from gateway.errors import CallerError
from gateway.metering.usage import UsageFold, read_usage
from gateway.surfaces import chat, messages
from gateway.translation import Translation, between
from tests.unit.translation.streams import through

SHARED = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
RECORDINGS = SHARED / "provider_exchanges_dev.jsonl.gz"

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")

Json = dict[str, Any]
PAIRS = [
    (client, upstream)
    for client in (Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES)
    for upstream in (Surface.CHAT, Surface.MESSAGES)
    if client is not upstream
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASKED: dict[Surface, Json] = {
    Surface.CHAT: {"model": "m", "stream_options": {"include_usage": True}},
    Surface.MESSAGES: {"model": "m", "thinking": {"type": "adaptive"}},
    Surface.RESPONSES: {"model": "m", "reasoning": {"summary": "auto"}},
}


@cache
def recordings(surface: Surface) -> list[Json]:
    with gzip.open(RECORDINGS) as lines:
        return [record for line in lines if (record := orjson.loads(line))["surface"] == surface]


def translation(client: Surface, upstream: Surface) -> Translation:
    found = between(client, upstream)
    assert found is not None
    return found


def said(answer: Answer) -> tuple[str, str, list[Any]]:
    calls = [(call.id, call.name, json.loads(call.arguments or "{}")) for call in answer.calls]
    return "".join(answer.texts), answer.reasoning, calls


def told(client: Surface, reply: Json) -> tuple[str, str, list[Any]]:
    """What a client reads in a plain reply."""
    if client is Surface.CHAT:
        return said(chat.read_answer(reply))
    if client is Surface.MESSAGES:
        return said(messages.read_answer(reply))
    items = reply["output"]
    return (
        "".join(
            p.get("text", "") + p.get("refusal", "")
            for i in items
            if i["type"] == "message"
            for p in i["content"]
        ),
        "".join(part["text"] for i in items if i["type"] == "reasoning" for part in i["summary"]),
        [
            (i["call_id"], i["name"], json.loads(i["arguments"]))
            for i in items
            if i["type"] == "function_call"
        ],
    )


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_every_recorded_request_is_carried_or_refused_by_name(client: Surface, upstream: Surface) -> None:
    outcomes: Counter[str] = Counter()
    for record in recordings(client):
        body = record["request"]["body"]
        before = orjson.dumps(body)
        try:
            put = translation(client, upstream).request(body)
        except CallerError as error:
            named_it = error.code == "invalid_request" and error.param and f"'{error.param}'" in error.message
            outcomes["refused by name" if named_it else record["id"]] += 1
        else:
            codec = chat if upstream is Surface.CHAT else messages
            assert codec.parse(orjson.dumps(put)).model == body["model"], record["id"]
            outcomes["carried"] += 1
        assert orjson.dumps(body) == before, record["id"]
    assert set(outcomes) == {"carried", "refused by name"}
    assert outcomes["carried"] >= 80


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_every_recorded_answer_says_the_same(client: Surface, upstream: Surface) -> None:
    checked = 0
    for record in recordings(upstream):
        reply = record["response"]["body"]
        if record["stream"] or record["status"] != 200 or not isinstance(reply, dict | str):
            continue
        if isinstance(reply, str) and not reply.startswith("{"):
            continue
        reply = reply if isinstance(reply, dict) else json.loads(reply)
        out = translation(client, upstream).answer(reply, ASKED[client], created=5)
        if client is Surface.CHAT:
            ChatCompletion.model_validate(out, strict=True)
        elif client is Surface.RESPONSES:
            Response.model_validate(out, strict=True)
        read = (chat if upstream is Surface.CHAT else messages).read_answer(reply)
        expected, found = said(read), told(client, out)
        assert found[:2] == expected[:2], record["id"]
        assert named(found[2], expected[2]) == expected[2], record["id"]
        given, shown = read_usage(upstream, reply), read_usage(client, out)
        if given is not None:
            assert shown is not None
            assert shown.usage.input_total == given.usage.input_total, record["id"]
            assert shown.usage.output_total == given.usage.output_total, record["id"]
            assert shown.usage.cache_read == given.usage.cache_read, record["id"]
        checked += 1
    assert checked >= 130


def named(found: list[Any], expected: list[Any]) -> list[Any]:
    """Calls without the ids that a provider did not give."""
    assert len(found) == len(expected)
    return [(e[0] and f[0], *f[1:]) for f, e in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_every_recorded_stream_says_the_same(client: Surface, upstream: Surface) -> None:
    checked = failed = 0
    for record in recordings(upstream):
        if not record["stream"] or record["status"] != 200:
            continue
        raw = record["response"]["body"].encode()
        reader = chat.ChatStream(strip_usage=False) if upstream is Surface.CHAT else messages.MessagesStream()
        reader.feed(raw)
        events = through(translation(client, upstream).stream(ASKED[client], created=5), raw, 911)
        text, reasoning, calls = said(reader.answer())
        if reader.error:
            last = events[-2] if client is Surface.CHAT else events[-1]
            assert "error" in last or last["type"] == "response.failed", record["id"]
            failed += 1
            continue
        fold = UsageFold(client)
        for event in events:
            fold.feed(event)
        if client is Surface.RESPONSES:
            for event in events:
                EVENT.validate_python(event)
            assert told(client, events[-1]["response"]) == (text, reasoning, calls), record["id"]
        else:
            again = (
                chat.ChatStream(strip_usage=False) if client is Surface.CHAT else messages.MessagesStream()
            )
            for event in events:
                data = orjson.dumps(event) if event else b"[DONE]"
                again.feed(b"event: %b\ndata: %b\n\n" % (event.get("type", "x").encode(), data))
                if event and client is Surface.CHAT:
                    ChatCompletionChunk.model_validate(event)
            assert again.clean
            assert again.done
            assert said(again.answer()) == (text, reasoning, calls), record["id"]
        given = read_usage(upstream, reader.usage) if reader.usage is not None else None
        shown = fold.result()
        if given is not None:
            assert shown is not None
            assert shown.usage.input_total == given.usage.input_total, record["id"]
            assert shown.usage.output_total == given.usage.output_total, record["id"]
        checked += 1
    assert checked >= 9
    assert failed == (3 if upstream is Surface.CHAT else 0)


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_every_recorded_error_keeps_its_message(client: Surface, upstream: Surface) -> None:
    checked = 0
    for record in recordings(upstream):
        if record["status"] < 400:
            continue
        body = record["response"]["body"]
        raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
        error = json.loads(translation(client, upstream).error(record["status"], raw))
        assert error["error"]["message"] == json.loads(raw)["error"]["message"], record["id"]
        checked += 1
    assert checked >= 1
