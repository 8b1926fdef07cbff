"""Control by other processes, malformed input, and the plumbing of connections."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from typing import Any

import orjson
import pytest

from gateway.testing import (
    ProviderServer,
    Reply,
    Scenario,
    ScriptError,
    ToolCall,
    Upload,
    error_reply,
    upload_from_json,
    upload_to_json,
)
from tests.unit.testing.conftest import Seen, chat_body, fetch, fetch_raw, request_bytes


async def _control(server: ProviderServer, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    request = f"{method} /__sim__/{path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    seen = await fetch_raw(server, request.encode() + body)
    return seen.status, orjson.loads(seen.body)


async def test_script_uploaded_as_json_is_played(provider: ProviderServer) -> None:
    script = {
        "name": "remote",
        "models": ["gpt-4o"],
        "by": "tool_results",
        "replies": [{"tool_calls": [["lookup", {"id": 1}]]}, {"text": "Found."}],
    }
    status, answer = await _control(provider, "POST", "scripts", orjson.dumps(script))
    assert (status, answer["replies"]) == (200, 2)
    first = orjson.loads((await fetch(provider, chat_body("gpt-4o"))).body)
    assert first["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "lookup"
    body = chat_body("gpt-4o")
    body["messages"] += [{"role": "tool", "tool_call_id": "x", "content": "1"}]
    assert b"Found." in (await fetch(provider, body)).body
    status, answer = await _control(provider, "GET", "scripts")
    assert answer["models"] == {"gpt-4o": "remote"}
    await _control(provider, "DELETE", "scripts")
    assert (await fetch(provider, chat_body("sim/remote"))).status == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"name": "x", "replies": [{"txt": "a"}]}', "replies.0.txt: unknown field; did you mean 'text'?"),
        (b'{"name": "x", "replys": []}', "replys: unknown field; did you mean 'replies'?"),
        (b'{"name": "x", "replies": []}', "replies: got none, expected at least one"),
        (b'{"name": "x", "replies": [{"cut_at_byte": -1}]}', "cut_at_byte: got -1, expected 0 or more"),
        (b'{"name": "x", "replies": [{"stall_at": "lunch"}]}', "replies.0.stall_at"),
        (b"{", "Invalid JSON"),
    ],
)
async def test_mistaken_script_is_told_where(provider: ProviderServer, body: bytes, message: str) -> None:
    status, answer = await _control(provider, "POST", "scripts", body)
    assert status == 400
    assert message in answer["error"]["message"]


async def test_journal_and_idleness_are_shown(provider: ProviderServer) -> None:
    await fetch(provider, chat_body("sim/tokens-5-6"))
    await fetch(provider, b"\xff\xfe")
    status, shown = await _control(provider, "GET", "journal")
    assert status == 200
    assert shown["attempts"][0]["served"]["input_uncached"] == 5
    assert "sim/tokens-5-6" in shown["attempts"][0]["body"]
    assert shown["attempts"][1]["body_base64"] == "//4="
    _, later = await _control(provider, "GET", "journal?since=1&bodies=0")
    assert [attempt["number"] for attempt in later["attempts"]] == [2]
    assert "body" not in later["attempts"][0]
    _, idle = await _control(provider, "GET", "idle")
    assert (idle["idle"], idle["received"]) == (True, 2)
    assert (await _control(provider, "DELETE", "journal"))[0] == 200
    assert len(provider.journal) == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "nothing", 404, "no such control"),
        ("GET", "journal?sinse=1", 400, "unknown query parameter 'sinse'"),
        ("GET", "journal?since=x", 400, "since: got 'x'"),
    ],
)
async def test_unknown_control_is_a_clear_error(
    provider: ProviderServer, method: str, path: str, status: int, message: str
) -> None:
    seen = await _control(provider, method, path)
    assert seen[0] == status
    assert message in seen[1]["error"]["message"]


def test_uploads_survive_json() -> None:
    upload = Upload(
        "x",
        [
            Reply(
                "a", body=b"\xff\x00", tool_calls=[ToolCall("f", {"a": 1}), ("g", "{")], headers=[("a", "b")]
            )
        ],
        by="sequence",
        models=["m"],
    )
    again = upload_from_json(upload_to_json(upload))
    assert again.replies[0].body == b"\xff\x00"
    assert again.replies[0].tool_calls == [ToolCall("f", {"a": 1}), ("g", "{")]
    assert upload_to_json(again) == upload_to_json(upload)


@pytest.mark.parametrize(
    "fields", [{"status": 9}, {"chunk_bytes": 0}, {"head_delay_s": -1.0}, {"headers": [("a", "b\r\nc: d")]}]
)
def test_impossible_reply_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ScriptError, match=next(iter(fields))):
        Reply(**fields)


async def test_script_over_its_end(provider: ProviderServer) -> None:
    two = [Reply("first"), Reply("second")]
    expected = {"repeat_last": "second", "loop": "first", "error": "asked for number 3"}
    for after_end, text in expected.items():
        provider.script("x", Scenario(two, by="sequence", after_end=after_end))  # type: ignore[arg-type]
        bodies = [(await fetch(provider, chat_body("sim/x"))).body for _ in range(3)]
        assert text.encode() in bodies[2]


async def test_failing_script_is_told_to_its_author(provider: ProviderServer) -> None:
    def broken(ask: Any) -> Reply:
        raise KeyError("oops")

    provider.script("x", broken)
    seen = await fetch(provider, chat_body("sim/x"))
    assert seen.status == 500
    assert b"KeyError: 'oops'" in seen.body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", b"could not parse"),
        (b"[]", b"must be a JSON object"),
        (b'{"messages": []}', b"non-empty array"),
        (b'{"messages": [1], "model": "m"}', b"messages[0]"),
        (b'{"messages": [{"role": "king"}], "model": "m"}', b"messages[0].role"),
        (b'{"messages": [{"role": "user"}]}', b"model"),
        (b'{"messages": [{"role": "user"}], "model": "m", "max_tokens": 0}', b"max_tokens"),
        (b'{"messages": [{"role": "user"}], "model": "m", "n": true}', b"'n'"),
        (b'{"messages": [{"role": "user"}], "model": "m", "stream": "yes"}', b"stream"),
        (b'{"messages": [{"role": "user"}], "model": "m", "tools": [{}]}', b"tools[0]"),
        (b'{"messages": [{"role": "user"}], "model": "m", "stream_options": {}}', b"stream_options"),
    ],
)
async def test_invalid_request_is_answered_400(provider: ProviderServer, body: bytes, message: bytes) -> None:
    seen = await fetch(provider, body)
    assert seen.status == 400
    assert message in seen.body
    assert provider.journal.last.status == 400
    assert provider.journal.last.served.input_total == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET /v1/realtime HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 426),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 300_000 + b"\r\n\r\n", 431),
        (b"GET /v1/chat/completions HTTP/1.1\r\nconnection: close\r\n\r\n", 405),
        (b"GET /v1/nothing HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        (b"POST /v1/models HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", 405),
    ],
)
async def test_malformed_requests_are_answered_and_survived(
    provider: ProviderServer, data: bytes, status: int
) -> None:
    assert (await fetch_raw(provider, data)).status == status
    assert (await fetch(provider, chat_body("sim/echo"))).status == 200


async def test_azure_path_needs_a_version_and_older_ones_know_no_stream_options(
    provider: ProviderServer,
) -> None:
    path = "/openai/deployments/dep/chat/completions"
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": {}}
    assert (await fetch(provider, body, path=path)).status == 404
    assert (await fetch(provider, body, path=f"{path}?api-version=2024-02-01")).status == 400
    assert (await fetch(provider, body, path=f"{path}?api-version=2024-10-21")).status == 200


async def test_pipelined_requests_are_answered_in_order(provider: ProviderServer) -> None:
    provider.script("slow", Reply("slow one", head_delay_s=0.05))
    requests = [request_bytes("/v1/chat/completions", chat_body(model)) for model in ("sim/slow", "sim/echo")]
    last = request_bytes("/v1/chat/completions", chat_body("sim/error-418"), "connection: close\r\n")
    received = (await fetch_raw(provider, b"".join(requests) + last)).body
    assert received.index(b"slow one") < received.index(b"You said") < received.index(b"418")


async def test_request_in_single_bytes_with_continue(provider: ProviderServer) -> None:
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    head, _, body = request_bytes(
        "/v1/chat/completions", chat_body("sim/echo"), "expect: 100-continue\r\n"
    ).partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    for position in range(len(body)):
        writer.write(body[position : position + 1])
        await writer.drain()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_http_1_0_gets_no_chunks(provider: ProviderServer) -> None:
    data = request_bytes("/v1/chat/completions", chat_body("sim/echo", stream=True))
    seen = await fetch_raw(provider, data.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert b"transfer-encoding" not in seen.head
    assert seen.body.endswith(b"data: [DONE]\n\n")


async def test_unknown_models_can_be_refused() -> None:
    async with ProviderServer(default=None) as server:
        assert (await fetch(server, chat_body("gpt-4o"))).status == 404
        server.map_model("gpt-4o", "echo")
        assert (await fetch(server, chat_body("gpt-4o"))).status == 200
        with pytest.raises(ScriptError, match="no scenario 'typo'"):
            server.map_model("x", "typo")


async def test_turns_since_the_user_spoke() -> None:
    scenario = Scenario([Reply("zero"), Reply("one")], by="turns_since_user")
    async with ProviderServer() as server:
        server.script("x", scenario)
        body = chat_body("sim/x")
        body["messages"] += [{"role": "assistant", "content": "a"}]
        assert b"one" in (await fetch(server, body)).body
        body["messages"] += [{"role": "user", "content": "b"}]
        assert b"zero" in (await fetch(server, body)).body


async def test_as_a_process_of_its_own() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.testing", "--counting", "bytes", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    found = re.search(r"http://([\d.]+):(\d+)/v1", line)
    assert found
    reader, writer = await asyncio.open_connection(found[1], int(found[2]))
    writer.write(request_bytes("/v1/chat/completions", chat_body("sim/echo"), "connection: close\r\n"))
    assert b"[simulated]" in await reader.read()
    writer.close()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def test_error_reply_has_the_usual_shape() -> None:
    reply = error_reply(401)
    assert reply.error["error"]["code"] == "invalid_api_key"
    assert error_reply(500, "mine", code="c").error["error"] == {
        "message": "mine",
        "type": "server_error",
        "param": None,
        "code": "c",
    }


def test_seen_parses_its_status() -> None:
    assert Seen(b"HTTP/1.1 204 No Content", b"", "eof", True).status == 204
