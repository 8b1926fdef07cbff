"""Every way a reply can go wrong on the wire, seen by a client that reads raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, running_provider
from tests.unit.testing.conftest import chat_body, fetch, request_bytes

STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


async def _served_body(provider: ProviderServer, reply: Reply, **fields: Any) -> bytes:
    provider.script("x", reply)
    seen = await fetch(provider, chat_body("sim/x", **fields))
    assert seen.body_complete
    return seen.body


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
async def test_stream_cut_at_every_byte(how: Any) -> None:
    async with ProviderServer(seed=1) as provider:
        length = len(await _served_body(provider, Reply("Hé!"), **STREAM))
        for k in range(length + 1):
            provider.script("x", Reply("Hé!", cut_at_byte=k, cut_how=how))
            seen = await fetch(provider, chat_body("sim/x", **STREAM))
            attempt = provider.journal.last
            assert seen.status == 200
            assert len(seen.body) == attempt.body_bytes == k
            assert seen.body_complete == (how == "clean")
            assert seen.ending == ("reset" if how == "rst" else "eof")
            assert attempt.cut == how
            assert not attempt.client_left
            whole_events = seen.body.split(b"\n\n")[:-1]
            assert attempt.chunks == len(whole_events)
            assert attempt.usage_reported == any(b'"completion_tokens"' in event for event in whole_events)
        provider.script("x", Reply("Hé!", cut_at_byte=length + 100, cut_how=how))
        seen = await fetch(provider, chat_body("sim/x", **STREAM))
        assert seen.body_complete
        assert provider.journal.last.cut is None


def test_reset_delivers_the_bytes_before_it_on_the_servers_own_loop() -> None:
    with running_provider() as provider:
        provider.script("x", Reply(" word" * 2_000, cut_at_byte=200_000, cut_how="rst", flush_each=True))
        with socket.create_connection((provider.host, provider.port)) as raw:
            raw.sendall(request_bytes("/v1/chat/completions", chat_body("sim/x", stream=True)))
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while part := raw.recv(65_536):
                    received += len(part)
                pytest.fail("the connection ended without a reset")
        assert received == provider.journal.last.bytes_written > 200_000


async def test_plain_reply_cut_short_of_its_content_length(provider: ProviderServer) -> None:
    provider.script("x", Reply("Hello.", cut_at_byte=20))
    seen = await fetch(provider, chat_body("sim/x"))
    assert len(seen.body) == 20
    assert not seen.body_complete


async def test_close_framing_makes_a_cut_look_like_an_end(provider: ProviderServer) -> None:
    provider.script("x", Reply("Hello.", cut_at_byte=300, framing="close"))
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert b"transfer-encoding" not in seen.head
    assert b"content-length" not in seen.head
    assert (len(seen.body), seen.ending) == (300, "eof")


async def test_cut_inside_the_head(provider: ProviderServer) -> None:
    provider.script("x", Reply("Hello.", cut_head_at_byte=25, cut_how="rst"))
    seen = await fetch(provider, chat_body("sim/x"))
    assert (len(seen.head), seen.body, seen.ending) == (25, b"", "reset")
    assert provider.journal.last.status == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_rechunked_body_is_the_same_body(stream: bool) -> None:
    bodies = []
    for size in (None, 1, 7):
        async with ProviderServer(seed=1) as provider:
            body = await _served_body(provider, Reply("Grüße 世界", chunk_bytes=size), stream=stream)
            bodies.append(body.replace(b'"created":', b"").translate(None, b"0123456789"))
            assert provider.journal.last.body_bytes == len(body)
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize("reply", [Reply("A few words here."), Reply(tool_calls=[("f", {"a": 1})])])
async def test_replies_at_once_and_in_time_are_the_same(reply: Reply) -> None:
    figures = []
    for flush_each in (False, True):
        async with ProviderServer(seed=1) as provider:
            paced = Reply(reply.text, tool_calls=reply.tool_calls, flush_each=flush_each)
            body = await _served_body(provider, paced, **STREAM)
            a = provider.journal.last
            shape = body.translate(None, b"0123456789")
            figures.append(
                (shape, a.chunks, a.prompt_tokens, a.completion_tokens, a.body_bytes, a.usage_reported)
            )
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    "stall_at", ["head", "first_chunk", "mid_chunk", "mid_utf8", "finish", "usage", "done", 3]
)
async def test_stall_lasts_until_the_client_leaves(provider: ProviderServer, stall_at: Any) -> None:
    provider.script("x", Reply("Grüße an alle", stall_at=stall_at))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fetch(provider, chat_body("sim/x", **STREAM)), 0.3)
    await provider.wait_idle(received=1)
    attempt = provider.journal.last
    assert attempt.client_left
    assert (attempt.status == 0) == (stall_at == "head")
    assert not attempt.usage_reported or stall_at == "done"


async def test_stall_that_ends_leaves_the_reply_whole(provider: ProviderServer) -> None:
    whole = await _served_body(provider, Reply("Grüße"), stream=True)
    for reply in (
        Reply("Grüße", stall_at="mid_utf8", stall_s=0.05),
        Reply("Grüße", stall_at_byte=9, stall_s=0.05),
    ):
        started = time.monotonic()
        assert len(await _served_body(provider, reply, stream=True)) == len(whole)
        assert time.monotonic() - started >= 0.04


async def test_delays_add_up(provider: ProviderServer) -> None:
    timing = {"head_delay_s": 0.05, "first_chunk_delay_s": 0.05, "chunk_delay_s": 0.02}
    for stream in (True, False):
        started = time.monotonic()
        await _served_body(provider, Reply("one two three four", **timing), stream=stream)  # type: ignore[arg-type]
        assert 0.14 <= time.monotonic() - started < 10


async def test_verbatim_body_and_wire_are_untouched(provider: ProviderServer) -> None:
    html = b"<html>502 Bad Gateway \xff</html>"
    provider.script("x", Reply(status=502, body=html, content_type="text/html", headers=[("X-Odd", "1")]))
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert (seen.status, seen.body) == (502, html)
    assert b"X-Odd: 1" in seen.head
    recorded = b": hello\r\n\r\ndata: {}\r\n\r\n"
    provider.script("x", Reply(body=recorded, chunk_bytes=3, prompt_tokens=11, completion_tokens=2))
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert (seen.body, seen.body_complete) == (recorded, True)
    assert b"text/event-stream" in seen.head
    assert (provider.journal.last.prompt_tokens, provider.journal.last.completion_tokens) == (11, 2)
    provider.script("x", Reply(wire=b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\nabc"))
    seen = await fetch(provider, chat_body("sim/x"))
    assert seen.head + b"\r\n\r\n" + seen.body == b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\nabc"


async def test_content_length_may_lie_both_ways(provider: ProviderServer) -> None:
    for lie in (5, 50_000):
        provider.script("x", Reply("Hello.", content_length=lie))
        seen = await fetch(provider, chat_body("sim/x"))
        assert b"content-length: %d\r\n" % lie in seen.head + b"\r\n"
        assert not seen.body_complete
        assert len(seen.body) > 5


async def test_redirect_has_its_location(provider: ProviderServer) -> None:
    provider.script("x", Reply(status=307, headers=[("location", "http://elsewhere.test/")]))
    seen = await fetch(provider, chat_body("sim/x"))
    assert (seen.status, seen.body) == (307, b"")
    assert b"location: http://elsewhere.test/" in seen.head


@pytest.mark.parametrize("stream", [False, True])
async def test_gzip_is_served_unasked(provider: ProviderServer, stream: bool) -> None:
    body = await _served_body(provider, Reply("Hello.", gzip=True), stream=stream)
    assert b"Hello" in gzip.decompress(body)


@pytest.mark.parametrize("endless", ["line", "header"])
async def test_endless_line_stops_at_its_size_or_when_the_client_leaves(
    provider: ProviderServer, endless: Any
) -> None:
    provider.script("x", Reply(endless=endless, endless_bytes=300_000))
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert len(seen.head) + len(seen.body) >= 300_000
    provider.script("x", Reply(endless=endless))
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    writer.write(request_bytes("/v1/chat/completions", chat_body("sim/x", stream=True)))
    await reader.read(1000)
    writer.close()
    await provider.wait_idle(received=2)
    assert provider.journal.last.client_left


@pytest.mark.parametrize(
    ("reply", "in_body"),
    [
        (Reply("a", usage={"prompt_tokens": -1}), b'"usage":{"prompt_tokens": -1}'),
        (
            Reply("a", usage={"prompt_tokens": 10**30, "x": float("nan")}),
            b'{"prompt_tokens": %d, "x": NaN}' % 10**30,
        ),
        (Reply("a", usage=None), b'"usage":null'),
        (Reply("a", usage_raw="{,}"), b'"usage":{,}'),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_garbage_goes_out_as_scripted(
    provider: ProviderServer, reply: Reply, in_body: bytes, stream: bool
) -> None:
    fields = STREAM if stream else {}
    assert in_body in await _served_body(provider, reply, **fields)
    assert provider.journal.last.served.output_total == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_can_be_absent(provider: ProviderServer, stream: bool) -> None:
    assert b"usage" not in await _served_body(
        provider, Reply("a", usage="absent"), **(STREAM if stream else {})
    )
    assert not provider.journal.last.usage_reported


@pytest.mark.parametrize(
    ("usage_on", "with_usage"),
    [("final", 1), ("twice", 2), ("every_chunk", 5), ("continuous", 6), ("finish", 1)],
)
async def test_usage_stands_where_the_script_says(
    provider: ProviderServer, usage_on: Any, with_usage: int
) -> None:
    provider.script("x", Reply("one two three", usage_on=usage_on))
    seen = await fetch(provider, chat_body("sim/x", **STREAM))
    reported = [event["usage"]["completion_tokens"] for event in seen.events if event.get("usage")]
    assert len(reported) == with_usage
    assert reported == sorted(reported)
    assert reported[-1] == 3


async def test_comments_newlines_omissions_and_extra_fields(provider: ProviderServer) -> None:
    reply = Reply(
        "one two",
        comments=["OPENROUTER PROCESSING"],
        comment_every=2,
        omit=["role", "finish", "done"],
        extra={"x_groq": {"id": "1"}},
        extra_choice={"native": True},
    )
    provider.script("x", reply)
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert seen.body.startswith(b": OPENROUTER PROCESSING\n\n: SIMULATED")
    assert len(seen.events) == 2
    assert all(e["x_groq"] == {"id": "1"} and e["choices"][0]["native"] for e in seen.events)
    assert b"[DONE]" not in seen.body
    crlf = await _served_body(provider, Reply("one two", newline="\r\n"), stream=True)
    assert crlf.count(b"\r\n\r\n") == 5
    assert crlf.count(b"\n") == 10


async def test_error_in_the_middle_of_a_stream_ends_it(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", error_at_chunk=2))
    seen = await fetch(provider, chat_body("sim/x", stream=True))
    assert [("error" in event) for event in seen.events] == [False, False, True]
    assert b"[DONE]" not in seen.body
    assert provider.journal.last.completion_tokens == 1


async def test_error_body_under_status_200(provider: ProviderServer) -> None:
    provider.script("x", Reply(error=[{"error": {"code": 7}}]))
    seen = await fetch(provider, chat_body("sim/x"))
    assert (seen.status, seen.body) == (200, b'[{"error":{"code":7}}]')
    assert provider.journal.last.served.input_total == 0


async def test_tool_call_id_styles(provider: ProviderServer) -> None:
    two = [("f", "{}"), ("g", "{}")]
    for style, expected in (("colliding", ["call_0", "call_1"]), ("empty", ["", ""])):
        provider.script("x", Reply(tool_calls=two, tool_call_ids=style, tool_index="zero"))  # type: ignore[arg-type]
        seen = await fetch(provider, chat_body("sim/x", stream=True))
        deltas = [d for e in seen.events for d in e["choices"][0]["delta"].get("tool_calls", [])]
        assert [d["id"] for d in deltas if "id" in d] == expected
        assert {d["index"] for d in deltas} == {0}
