"""Embeddings, legacy completions, moderations, audio and files; large bodies and slow reading."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import time
from typing import Any

import openai
import pytest

from gateway.domain import Surface
from gateway.testing import ExactTokens, ProviderServer, Reply
from tests.unit.testing.conftest import COMPLETIONS, Json, Seen, call, fetch, fetch_raw, request_bytes


def _count(text: str) -> int:
    return ExactTokens().count(text)


# Embeddings.


async def _embed(provider: ProviderServer, value: Any, **fields: Any) -> Seen:
    return await fetch(provider, {"model": "sim/echo", "input": value, **fields}, path="/v1/embeddings")


async def test_embedding_depends_on_its_input_alone(provider: ProviderServer) -> None:
    one = (await _embed(provider, "hello")).json["data"]
    two = (await _embed(provider, ["hello", "world", "hello"])).json["data"]
    assert [entry["index"] for entry in two] == [0, 1, 2]
    assert one[0]["embedding"] == two[0]["embedding"] == two[2]["embedding"] != two[1]["embedding"]
    assert len(one[0]["embedding"]) == 1_536
    assert math.isclose(sum(x * x for x in one[0]["embedding"]), 1.0, rel_tol=1e-5)
    assert len((await _embed(provider, "hello", dimensions=3)).json["data"][0]["embedding"]) == 3
    large = {"model": "text-embedding-3-large", "input": "x"}
    assert len((await fetch(provider, large, path="/v1/embeddings")).json["data"][0]["embedding"]) == 3_072


async def test_packed_embedding_is_the_same_numbers(provider: ProviderServer) -> None:
    plain = (await _embed(provider, "größe", dimensions=8)).json["data"][0]["embedding"]
    packed = (await _embed(provider, "größe", dimensions=8, encoding_format="base64")).json
    data = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<8f", data)) == plain


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("hello there", _count("hello there")),
        (["hello", "there"], _count("hello") + _count("there")),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        (["mixed", [1, 2]], _count("mixed") + 2),
    ],
)
async def test_embedding_bills_its_input(provider: ProviderServer, value: Any, tokens: int) -> None:
    seen = await _embed(provider, value)
    assert seen.json["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    attempt = provider.journal.last
    assert attempt.surface is Surface.EMBEDDINGS
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (tokens, 0)


async def test_claimed_output_is_no_part_of_an_embedding(provider: ProviderServer) -> None:
    seen = await fetch(provider, {"model": "sim/tokens-1000-500", "input": "x"}, path="/v1/embeddings")
    assert seen.json["usage"] == {"prompt_tokens": 1000, "total_tokens": 1000}
    assert provider.journal.last.served.output_total == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "input"),
        ({"model": "m", "input": ""}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": [[]]}, "input"),
        ({"model": "m", "input": [-1]}, "input"),
        ({"model": "m", "input": [True]}, "input"),
        ({"model": "m", "input": ["a"] * 2_049}, "input"),
        ({"model": "m", "input": "x", "dimensions": 5_000}, "dimensions"),
        ({"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x"}, "model"),
    ],
)
async def test_invalid_embedding_is_answered_400(provider: ProviderServer, body: Json, param: str) -> None:
    seen = await fetch(provider, body, path="/v1/embeddings")
    assert (seen.status, seen.json["error"]["param"]) == (400, param)


async def test_embedding_plays_faults(provider: ProviderServer) -> None:
    provider.script("x", Reply(cut_at_byte=50), models=["e"])
    seen = await fetch(provider, {"model": "e", "input": "x"}, path="/v1/embeddings")
    assert (len(seen.body), seen.body_complete) == (50, False)
    provider.script("x", Reply(usage={"prompt_tokens": -7}), models=["e"])
    seen = await fetch(provider, {"model": "e", "input": "x"}, path="/v1/embeddings")
    assert seen.json["usage"] == {"prompt_tokens": -7}


async def test_sdk_reads_embeddings(provider: ProviderServer, client: openai.AsyncOpenAI) -> None:
    made = await client.embeddings.create(model="sim/echo", input=["a", "b"], dimensions=4)
    assert [len(entry.embedding) for entry in made.data] == [4, 4]


# Legacy completions.


async def test_every_prompt_has_its_answers(provider: ProviderServer) -> None:
    provider.script("x", Reply(("one", "two three", "four")))
    seen = await COMPLETIONS.fetch(provider, "sim/x", prompt=["p", "q"], n=2, best_of=3)
    choices = seen.json["choices"]
    assert [(c["index"], c["text"]) for c in choices] == [
        (0, "one"),
        (1, "two three"),
        (2, "one"),
        (3, "two three"),
    ]
    # All that were generated are billed, those not shown too.
    assert provider.journal.last.completion_tokens == 8
    assert seen.json["usage"]["completion_tokens"] == 8


async def test_completion_stream_has_texts_finish_usage_and_done(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two", reasoning="not shown", tool_calls=[("f", {})], reasoning_tokens=4))
    seen = await COMPLETIONS.fetch(provider, "sim/x", True)
    assert {event["object"] for event in seen.events} == {"text_completion"}
    told = [(c["text"], c["finish_reason"]) for event in seen.events for c in event["choices"]]
    assert told == [("", None), ("one", None), (" two", None), ("", "stop")]
    assert seen.events[-1]["choices"] == []
    assert seen.events[-1]["usage"]["completion_tokens"] == 6
    assert seen.body.endswith(b"data: [DONE]\n\n")
    assert provider.journal.last.served.output_reasoning == 4
    silent = await COMPLETIONS.fetch(provider, "sim/x", stream=True, stream_options=None)
    assert b"usage" not in silent.body


async def test_token_prompts_are_counted(provider: ProviderServer) -> None:
    await COMPLETIONS.fetch(provider, "sim/echo", prompt=[[1, 2], [3]])
    assert provider.journal.last.prompt_tokens == 3


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": [{}]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_invalid_completion_is_answered_400(provider: ProviderServer, change: Json, param: str) -> None:
    seen = await fetch(provider, COMPLETIONS.body("sim/echo") | change, path="/v1/completions")
    assert (seen.status, seen.json["error"]["param"]) == (400, param)


async def test_azure_serves_other_surfaces_by_deployment(provider: ProviderServer) -> None:
    for endpoint, body in (("embeddings", {"input": "x"}), ("completions", {"prompt": "x"})):
        path = f"/openai/deployments/dep/{endpoint}?api-version=2024-10-21"
        assert (await fetch(provider, body, path=path)).status == 200
        assert provider.journal.last.model == "dep"


# Moderations.


@pytest.mark.parametrize(
    ("value", "results"),
    [("x", 1), (["x", "y"], 2), ([{"type": "text", "text": "x"}, {"type": "image_url"}], 1)],
)
async def test_moderation_is_free_and_finds_nothing(
    provider: ProviderServer, value: Any, results: int
) -> None:
    seen = await fetch(provider, {"input": value}, path="/v1/moderations")
    assert len(seen.json["results"]) == results
    assert not any(result["flagged"] for result in seen.json["results"])
    attempt = provider.journal.last
    assert (attempt.surface, attempt.model) == (Surface.MODERATIONS, "omni-moderation-latest")
    assert attempt.served.input_total == attempt.served.output_total == 0


async def test_moderation_finds_what_its_route_says(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("bad", Reply(extra={"results": [{"flagged": True}]}), routes=["POST /v1/moderations"])
    assert (await client.moderations.create(input="x")).results[0].flagged


@pytest.mark.parametrize("value", [None, [], 5, [5], [["x"]]])
async def test_invalid_moderation_is_answered_400(provider: ProviderServer, value: Any) -> None:
    assert (await fetch(provider, {"input": value}, path="/v1/moderations")).status == 400


# Audio and files.

BOUNDARY = "b0undary"
FORM = f"content-type: multipart/form-data; boundary={BOUNDARY}\r\nconnection: close\r\n"


def form(fields: dict[str, str], file: bytes, name: str = "a.mp3") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
    tail = f"\r\n--{BOUNDARY}--\r\n"
    return b"".join(parts) + f"{head}content-type: audio/mpeg\r\n\r\n".encode() + file + tail.encode()


async def _transcribe(provider: ProviderServer, model: str, file: bytes, **fields: str) -> Seen:
    body = form({"model": model, **fields}, file)
    return await fetch(provider, body, path="/v1/audio/transcriptions", headers=FORM)


async def test_transcription_bills_seconds(provider: ProviderServer) -> None:
    provider.script("x", Reply("What was said."))
    seen = await _transcribe(provider, "sim/x", b"\r\n--not" * 5_000)
    assert seen.json == {"text": "What was said.", "usage": {"type": "duration", "seconds": 3}}
    attempt = provider.journal.last
    assert (attempt.surface, attempt.model, attempt.seconds) == (Surface.PASSTHROUGH, "sim/x", 3)
    assert attempt.served.input_total == attempt.served.output_total == 0
    assert provider.journal.totals.seconds == 3


async def test_transcription_bills_tokens_where_the_script_says(provider: ProviderServer) -> None:
    provider.script("x", Reply("Said.", prompt_tokens=40))
    seen = await _transcribe(provider, "sim/x", b"x" * 90_000, stream="true")
    assert [event["type"] for event in seen.events] == ["transcript.text.delta", "transcript.text.done"]
    assert seen.events[1]["usage"]["input_tokens"] == 40
    assert (provider.journal.last.prompt_tokens, provider.journal.last.seconds) == (40, 0)


async def test_sdk_transcribes_and_speaks(provider: ProviderServer, client: openai.AsyncOpenAI) -> None:
    provider.script("x", Reply("Heard."))
    heard: Any = await client.audio.transcriptions.create(model="sim/x", file=("a.mp3", b"x" * 16_001))
    assert (heard.text, heard.usage.seconds) == ("Heard.", 2)
    spoken = await client.audio.speech.create(model="sim/x", input="twelve chars", voice="alloy")
    assert len(spoken.content) == 12 * 1_024


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", "content-type: application/json\r\nconnection: close\r\n"),
        (b"", FORM),
        (b"--b0undary--", FORM),
        (b"--b0undary\r\nno head", FORM),
        (b"--b0undary\r\n\r\nno name\r\n--b0undary--", FORM),
        (form({"model": "m"}, b"x")[:-20], FORM),
        (form({}, b"x"), FORM),
    ],
)
async def test_invalid_form_is_answered_400(provider: ProviderServer, body: bytes, headers: str) -> None:
    seen = await fetch(provider, body, path="/v1/audio/transcriptions", headers=headers)
    assert seen.status == 400
    assert seen.json["error"]["type"] == "invalid_request_error"


SPEECH: Json = {"model": "sim/x", "input": "x" * 100, "voice": "alloy"}


async def test_speech_is_binary_and_plays_faults(provider: ProviderServer) -> None:
    provider.script("x", Reply())
    whole = await fetch(provider, SPEECH, path="/v1/audio/speech")
    assert (whole.status, len(whole.body), whole.body_complete) == (200, 102_400, True)
    assert b"content-type: audio/mpeg" in whole.head
    assert b"transfer-encoding: chunked" in whole.head
    assert not provider.journal.last.stream
    provider.script("x", Reply(cut_at_byte=10_000))
    cut = await fetch(provider, SPEECH, path="/v1/audio/speech")
    assert (cut.body, cut.body_complete) == (whole.body[:10_000], False)
    provider.script("x", Reply(body=b"scripted"))
    seen = await fetch(provider, SPEECH, path="/v1/audio/speech")
    assert seen.body == b"scripted"
    assert b"content-type: audio/mpeg" in seen.head
    provider.script("x", Reply(status=500))
    assert (await fetch(provider, SPEECH, path="/v1/audio/speech")).json["error"]["type"] == "server_error"


@pytest.mark.parametrize("change", [{"input": ""}, {"voice": None}, {"response_format": "wav"}, {"model": 5}])
async def test_invalid_speech_is_answered_400(provider: ProviderServer, change: Json) -> None:
    assert (await fetch(provider, SPEECH | change, path="/v1/audio/speech")).status == 400


async def test_large_file_comes_back_as_it_went_in(provider: ProviderServer) -> None:
    content = bytes(range(256)) * (20 << 12)
    assert len(content) == 20 << 20
    sent = await fetch(provider, form({"purpose": "test"}, content), path="/v1/files", headers=FORM)
    shown = sent.json
    assert (shown["bytes"], shown["filename"], shown["purpose"]) == (20 << 20, "a.mp3", "test")
    got = await call(provider, "GET", f"/v1/files/{shown['id']}/content")
    assert got.body == content
    assert b"content-type: application/octet-stream" in got.head
    assert (await call(provider, "GET", f"/v1/files/{shown['id']}")).json == shown
    assert (await call(provider, "DELETE", f"/v1/files/{shown['id']}")).json["deleted"] is True
    assert (await call(provider, "GET", f"/v1/files/{shown['id']}/content")).status == 404
    assert {attempt.surface for attempt in provider.journal} == {Surface.PASSTHROUGH}


async def test_download_waits_for_a_slow_reader(provider: ProviderServer) -> None:
    content = bytes(20 << 20)
    sent = await fetch(provider, form({}, content), path="/v1/files", headers=FORM)
    reader, writer = await asyncio.open_connection(provider.host, provider.port, limit=1 << 16)
    writer.write(request_bytes(f"/v1/files/{sent.json['id']}/content", b"", method="GET"))
    await reader.readexactly(1_000)
    await asyncio.sleep(0.05)
    attempt = provider.journal.last
    assert attempt.finished_at is None
    assert attempt.body_bytes < len(content)
    writer.close()
    await provider.wait_idle()
    assert attempt.client_left


# Slow reading.


@pytest.mark.parametrize("asked_by", ["server", "header"])
async def test_body_is_read_no_faster_than_asked(provider: ProviderServer, asked_by: str) -> None:
    headers = FORM
    if asked_by == "header":
        headers = f"x-sim-read-bytes-per-s: 10000000\r\n{FORM}"
    else:
        provider.read_bytes_per_s = 10_000_000
    body = form({"model": "sim/echo"}, bytes(1 << 20))
    started = time.monotonic()
    sending = asyncio.create_task(fetch(provider, body, path="/v1/audio/transcriptions", headers=headers))
    arriving = 0
    while not sending.done():
        arriving = max(arriving, provider.arriving_bytes)
        await asyncio.sleep(0.001)
    assert (await sending).status == 200
    assert time.monotonic() - started >= 0.07
    assert 0 < arriving < len(body)
    assert provider.arriving_bytes == 0


async def test_sender_is_held_back_by_a_slow_reader(provider: ProviderServer) -> None:
    provider.read_bytes_per_s = 1_000
    _, writer = await asyncio.open_connection(provider.host, provider.port)
    body = form({"model": "sim/echo"}, bytes(64 << 20))
    writer.write(request_bytes("/v1/audio/transcriptions", body, FORM))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 0.1)
    assert provider.arriving_bytes < len(body) // 2
    writer.transport.abort()
    with pytest.raises(ValueError, match="read_bytes_per_s: got 0"):
        provider.read_bytes_per_s = 0
    provider.forget_scripts()
    assert provider.read_bytes_per_s is None


async def test_headers_alone_are_not_slowed(provider: ProviderServer) -> None:
    provider.read_bytes_per_s = 1
    seen = await fetch_raw(provider, b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert seen.status == 200
