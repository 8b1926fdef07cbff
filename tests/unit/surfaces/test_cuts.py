"""Streams cut at every byte, through the readers alone: before its end no stream ends cleanly, and no tool call
is handed on by half.

The streams are the simulated provider's, and recorded traffic of real ones where that is at hand (see
`test_responses.py`). What a client makes of the bytes is read by hand here.
"""

from __future__ import annotations

import gzip
import os
import re
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from gateway.domain import Surface
from gateway.errors import ErrorContext, UpstreamError
from gateway.surfaces import CODECS
from gateway.testing import ProviderServer, Reply, running_provider
from tests.support.wire import WIRES

Json = dict[str, Any]
Call = tuple[str, str, str]
"""(id, name, arguments)."""

SHARED = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
RECORDINGS = SHARED / "provider_exchanges_dev.jsonl.gz"
recorded = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")
CONVERSATIONS = ["chat", "responses", "messages"]
SHORT = 20_000
"""Bytes of a stream that can be read anew for every byte of it."""

_BROKEN = UpstreamError("upstream_stream_interrupted", "The answer broke off.")
_CONTEXT = ErrorContext("req_1", "run_1", "dec_1")


class Heard(NamedTuple):
    """What a client has understood."""

    runnable: list[Call]
    """Tool calls that it may run: those that the provider has declared complete."""
    ended: bool
    """It takes the answer for whole."""
    failed: bool


def events_in(raw: bytes) -> Iterator[Json]:
    for line in raw.splitlines():
        if line.startswith(b"data: {"):
            yield orjson.loads(line[6:])


def hear_chat(raw: bytes) -> Heard:
    """Also legacy completions, which have no calls."""
    calls: dict[tuple[int, int], list[str]] = {}
    open_choices: dict[int, bool] = {}
    failed = False
    for event in events_in(raw):
        failed = failed or bool(event.get("error"))
        for choice in event.get("choices") or []:
            index = choice["index"]
            open_choices.setdefault(index, True)
            for part in (choice.get("delta") or {}).get("tool_calls") or []:
                known = calls.setdefault((index, part.get("index") or 0), ["", "", ""])
                function = part.get("function") or {}
                for i, piece in enumerate((part.get("id"), function.get("name"), function.get("arguments"))):
                    known[i] += piece or ""
            if choice.get("finish_reason") is not None:
                open_choices[index] = False
    whole = bool(open_choices) and not any(open_choices.values())
    runnable = [(c[0], c[1], c[2]) for key, c in sorted(calls.items()) if not open_choices[key[0]]]
    return Heard(runnable, whole, failed)


def hear_responses(raw: bytes) -> Heard:
    runnable: list[Call] = []
    ended = failed = False
    for event in events_in(raw):
        kind, item = event.get("type"), event.get("item") or {}
        if kind == "response.output_item.done" and item["type"] in ("function_call", "custom_tool_call"):
            runnable.append((item["call_id"], item["name"], item.get("arguments") or item.get("input") or ""))
        ended = ended or kind in ("response.completed", "response.incomplete")
        failed = failed or kind in ("response.failed", "error") or (kind is None and "error" in event)
    return Heard(runnable, ended, failed)


def hear_messages(raw: bytes) -> Heard:
    blocks: dict[int, list[str]] = {}
    runnable: list[Call] = []
    ended = failed = False
    for event in events_in(raw):
        kind, index = event["type"], event.get("index", 0)
        if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            blocks[index] = [event["content_block"]["id"], event["content_block"]["name"], ""]
        elif kind == "content_block_delta" and index in blocks:
            blocks[index][2] += event["delta"].get("partial_json", "")
        elif kind == "content_block_stop" and index in blocks:
            call = blocks[index]
            runnable.append((call[0], call[1], call[2]))
        ended = ended or kind == "message_stop"
        failed = failed or kind == "error"
    return Heard(runnable, ended, failed)


HEAR = {
    "chat": hear_chat,
    "completions": hear_chat,
    "responses": hear_responses,
    "messages": hear_messages,
}


def boundaries(raw: bytes) -> list[int]:
    """Where events end."""
    return [match.end() for match in re.finditer(rb"\r\n\r\n|\n\n", raw)]


def cut_everywhere(surface: str, raw: bytes, name: str) -> None:
    """Feed a stream byte by byte: after every byte the reader is where it would be if this were the last."""
    hear, ends = HEAR[surface], boundaries(raw)
    assert ends[-1] == len(raw), name
    whole = hear(raw)
    assert whole.ended or whole.failed, name
    reader = CODECS[Surface(surface)].stream(strip_usage=False)
    out = b""
    events = 0
    heard = hear(b"")
    for at in range(1, len(raw) + 1):
        piece = reader.feed(raw[at - 1 : at])
        if at != ends[events]:
            # Nothing that can be taken for an event goes out before it is one, and none is its own end.
            assert piece == b"", (name, at)
            assert not reader.clean, (name, at)
            continue
        events += 1
        out += piece
        assert out == raw[:at], (name, at)
        heard = hear(out)
        assert reader.clean == (heard.ended or heard.failed), (name, at)
        assert heard.runnable == whole.runnable[: len(heard.runnable)], (name, at)
        answer = reader.answer()
        if answer.finish_reason is not None:
            assert len(answer.calls) == len(whole.runnable), (name, at)
        if not reader.clean:
            told = hear(out + reader.failure(_BROKEN, _CONTEXT, codex=False))
            assert (told.failed, told.ended) == (True, False), (name, at)
            assert told.runnable == heard.runnable, (name, at)
    assert reader.clean, name
    said = [(call.name, call.arguments or "{}") for call in reader.answer().calls]
    assert said == [(call[1], call[2] or "{}") for call in whole.runnable], name


@cache
def recordings(surface: str) -> list[tuple[str, bytes]]:
    """(name, body) of every recorded stream, the shortest first."""
    with gzip.open(RECORDINGS) as lines:
        records = [orjson.loads(line) for line in lines if b'"stream":true' in line.replace(b" ", b"")]
    found = [
        (r["id"], r["response"]["body"].encode())
        for r in records
        if r["surface"] == surface and r["status"] == 200
    ]
    return sorted(found, key=lambda stream: len(stream[1]))


@recorded
@pytest.mark.parametrize(
    "newline", [b"\n", pytest.param(b"\r\n", marks=pytest.mark.slow)], ids=["lf", "crlf"]
)
@pytest.mark.parametrize("surface", CONVERSATIONS)
def test_every_recorded_stream_is_cut_at_every_byte(surface: str, newline: bytes) -> None:
    streams = recordings(surface)
    assert len(streams) >= 9
    for name, raw in streams:
        cut_everywhere(surface, raw.replace(b"\n", newline), name)


@recorded
@pytest.mark.slow
@pytest.mark.parametrize("surface", CONVERSATIONS)
def test_what_comes_in_one_piece_is_cut_at_every_byte_too(surface: str) -> None:
    streams = [stream for stream in recordings(surface) if len(stream[1]) <= SHORT]
    assert len(streams) >= 3
    for name, raw in streams:
        ends = [0, *boundaries(raw)]
        clean = [False] * len(ends)
        for i, end in enumerate(ends[1:], 1):
            heard = HEAR[surface](raw[:end])
            clean[i] = heard.ended or heard.failed
        last = 0
        for at in range(1, len(raw) + 1):
            last += at == ends[last + 1]
            reader = CODECS[Surface(surface)].stream(strip_usage=False)
            assert reader.feed(raw[:at]) == raw[: ends[last]], (name, at)
            assert reader.clean == (at == ends[last] and clean[last]), (name, at)


@pytest.fixture(scope="module")
def simulated() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as provider:
        yield provider


REPLIES = {
    "text": Reply("Grüße aus Köln 🦊.", reasoning="Hm, let me see."),
    "calls": Reply(
        "I look.", tool_calls=[("look_up", {"q": "é"}), ("look_up", {}), ("note", '{"n": 12345}')]
    ),
    "searched": Reply("Found.", searches=2, tool_calls=[("look_up", {"q": "a"})]),
    "commented": Reply("x", comments=("ping",), comment_every=2),
}


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("surface", [*CONVERSATIONS, "completions"])
def test_a_simulated_stream_is_cut_at_every_byte(simulated: ProviderServer, surface: str, reply: str) -> None:
    simulated.script("cut", REPLIES[reply])
    body: Json = {"model": "sim/cut", "stream": True}
    path = "/v1/completions"
    if surface == "completions":
        body["prompt"] = "Go on."
    else:
        wire = WIRES[surface]
        path = wire.path
        body |= wire.request("sim/cut", tools=["look_up", "note"])
    request = urllib.request.Request(
        simulated.origin + path,
        orjson.dumps(body),
        {"content-type": "application/json", "anthropic-version": "2023-06-01"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        raw = answer.read()
    for newline in (b"\n", b"\r\n"):
        cut_everywhere(surface, raw.replace(b"\n", newline), reply)
