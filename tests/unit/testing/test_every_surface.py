"""What holds on every surface alike: models, dialogues, bills, faults."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from gateway.domain import Surface
from gateway.testing import ExactTokens, ProviderServer, Reply, Scenario, error_reply
from gateway.testing.wire import Connection, Reading
from tests.unit.testing.conftest import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    SPEAKER_IDS,
    SPEAKERS,
    Json,
    Seen,
    Speaker,
    fetch,
    leave_after,
    request_bytes,
    unchunk,
)

speakers = pytest.mark.parametrize("speaker", SPEAKERS, ids=SPEAKER_IDS)
streams = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])

TEXT = "Grüße, 世界 👩‍🚀."


@speakers
@streams
async def test_what_is_said_and_billed_is_what_was_scripted(
    provider: ProviderServer, speaker: Speaker, stream: bool
) -> None:
    provider.script("x", Reply(TEXT))
    seen = await speaker.fetch(provider, "sim/x", stream)
    assert speaker.said(seen, stream) == TEXT
    attempt = provider.journal.last
    assert attempt.completion_tokens == ExactTokens().count(TEXT)
    assert speaker.usage(seen, stream) == (attempt.prompt_tokens, attempt.completion_tokens)
    assert attempt.prompt_tokens > 0
    assert attempt.usage_reported
    assert attempt.stream == stream
    assert attempt.surface == Surface(SPEAKER_IDS[SPEAKERS.index(speaker)])


@speakers
@streams
async def test_claimed_tokens_are_told_and_billed(
    provider: ProviderServer, speaker: Speaker, stream: bool
) -> None:
    seen = await speaker.fetch(provider, "sim/tokens-1234-567", stream)
    assert speaker.usage(seen, stream) == (1234, 567)
    served = provider.journal.last.served
    assert (served.input_total, served.output_total) == (1234, 567)


@speakers
async def test_output_limit_cuts(provider: ProviderServer, speaker: Speaker) -> None:
    provider.script("x", Reply("one two three four five"))
    name = "max_output_tokens" if speaker is RESPONSES else "max_tokens"
    for stream in (False, True):
        seen = await speaker.fetch(provider, "sim/x", stream, **{name: 2})
        assert speaker.said(seen, stream) == "one two"
        assert provider.journal.last.completion_tokens == 2
        assert any(
            word in seen.body for word in (b'"length"', b'"max_output_tokens"', b'"stop_reason":"max_tokens"')
        )


@speakers
@streams
async def test_cached_and_written_input_is_told_apart(
    provider: ProviderServer, speaker: Speaker, stream: bool
) -> None:
    provider.script(
        "x",
        Reply("ok", prompt_tokens=100, cached_tokens=60, cache_write_5m_tokens=20, cache_write_1h_tokens=900),
    )
    seen = await speaker.fetch(provider, "sim/x", stream)
    served = provider.journal.last.served
    assert (served.input_uncached, served.cache_read) == (0, 60)
    assert (served.cache_write_5m, served.cache_write_1h) == (20, 20)
    told = speaker.usage(seen, stream)
    assert told is not None
    if speaker is MESSAGES:
        assert told[0] == 0
        assert b'"ephemeral_1h_input_tokens":20' in seen.body
        assert b'"cache_creation_input_tokens":40' in seen.body
        assert b'"cache_read_input_tokens":60' in seen.body
    else:
        assert told[0] == 100
        assert b'"cached_tokens":60' in seen.body
        assert b'"cache_write_tokens":40' in seen.body


@speakers
async def test_errors_have_the_shape_of_their_surface(provider: ProviderServer, speaker: Speaker) -> None:
    provider.script("flaky", Scenario([error_reply(529), Reply(status=503), Reply("ok")], by="sequence"))
    for model, status, kind in (
        ("sim/error-500", 500, ("server_error", "api_error")),
        ("sim/error-429", 429, ("requests", "rate_limit_error")),
        ("sim/flaky", 529, ("server_error", "overloaded_error")),
        ("sim/flaky", 503, ("server_error", "api_error")),
        ("sim/nothing", 404, ("invalid_request_error", "not_found_error")),
    ):
        seen = await speaker.fetch(provider, model)
        attempt = provider.journal.last
        assert (seen.status, attempt.status) == (status, status)
        assert attempt.served.input_total == 0
        error = seen.json["error"]
        if speaker is MESSAGES:
            assert seen.json["type"] == "error"
            assert seen.json["request_id"] == attempt.id
            assert f"request-id: {attempt.id}".encode() in seen.head
            assert error["type"] == kind[1]
        else:
            assert list(seen.json) == ["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == kind[0]
    assert (await speaker.fetch(provider, "sim/flaky")).status == 200


@speakers
async def test_scripted_error_body_goes_out_verbatim(provider: ProviderServer, speaker: Speaker) -> None:
    provider.script("x", Reply(status=418, error=[{"odd": 1}]))
    seen = await speaker.fetch(provider, "sim/x")
    assert (seen.status, seen.body) == (418, b'[{"odd":1}]')


# Streams that break.


class _Sink(asyncio.Transport):
    """The far end of a connection without a socket, for thousands of short ones."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.received += data

    def close(self) -> None:
        self.closed = True

    @property
    def body(self) -> bytes:
        return unchunk(self.received.partition(b"\r\n\r\n")[2])[0]


async def _exchange(provider: ProviderServer, speaker: Speaker, reply: Reply) -> bytes:
    """The body of a stream as far as it arrives."""
    provider.script("x", reply)
    connection, sink = Connection(provider.handle, set(), Reading()), _Sink()
    connection.connection_made(sink)
    connection.data_received(request_bytes(speaker.path, speaker.body("sim/x", stream=True), speaker.headers))
    while provider.journal.active:
        await asyncio.sleep(0)
    assert sink.closed
    return sink.body


@pytest.mark.parametrize("speaker", [RESPONSES, MESSAGES], ids=["responses", "messages"])
async def test_stream_cut_at_every_byte(speaker: Speaker) -> None:
    async with ProviderServer(seed=1) as provider:
        whole = await _exchange(provider, speaker, Reply("Hé!"))
        ends = [index + 2 for index in range(len(whole)) if whole.startswith(b"\n\n", index)]
        generated = []
        for count in range(1, len(ends) + 1):
            await _exchange(provider, speaker, Reply("Hé!", error_at_chunk=count))
            generated.append(provider.journal.last.completion_tokens)
        assert generated[-1] == 3
        names = [event.split(b"\n")[0] for event in whole.split(b"\n\n")]
        terminal = b"event: response.completed" if speaker is RESPONSES else b"event: message_delta"
        for k in range(len(whole) + 1):
            assert len(await _exchange(provider, speaker, Reply("Hé!", cut_at_byte=k))) == k
            attempt = provider.journal.last
            assert (attempt.status, attempt.body_bytes, attempt.cut) == (200, k, "fin")
            arrived = sum(end <= k for end in ends)
            assert attempt.chunks == arrived
            assert attempt.usage_reported == (arrived > names.index(terminal))
            # The event that the cut falls into was generated, though it never arrives whole.
            begun = max(arrived if k in ends else arrived + 1, 1)
            assert attempt.completion_tokens == generated[min(begun, len(ends)) - 1]


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
@speakers
async def test_cuts_in_every_manner(provider: ProviderServer, speaker: Speaker, how: Any) -> None:
    provider.script("x", Reply(TEXT, cut_at_byte=333, cut_how=how))
    seen = await speaker.fetch(provider, "sim/x", True)
    assert (len(seen.body), seen.body_complete) == (333, how == "clean")
    assert provider.journal.last.cut == how


@pytest.mark.parametrize(
    "stall_at", ["head", "first_chunk", "mid_chunk", "mid_utf8", "finish", "usage", "done", 2]
)
@speakers
async def test_stall_lasts_until_the_client_leaves(
    provider: ProviderServer, speaker: Speaker, stall_at: Any
) -> None:
    provider.script("x", Reply(TEXT, stall_at=stall_at))
    call = asyncio.create_task(speaker.fetch(provider, "sim/x", True))
    async with asyncio.timeout(20):
        while not provider.journal.active:
            await asyncio.sleep(0.005)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.05)
    del call  # and with it the connection
    await provider.wait_idle(received=1)
    attempt = provider.journal.last
    assert attempt.client_left
    assert (attempt.status == 0) == (stall_at == "head")
    generated = attempt.completion_tokens
    if stall_at in ("finish", "usage", "done"):
        assert generated == ExactTokens().count(TEXT)
    elif stall_at in ("head", "first_chunk"):
        assert generated == 0


@speakers
async def test_stream_in_single_bytes_and_compressed_is_the_same(
    provider: ProviderServer, speaker: Speaker
) -> None:
    for reply in (Reply(TEXT), Reply(TEXT, chunk_bytes=1), Reply(TEXT, gzip=True), Reply(TEXT, newline="\n")):
        provider.script("x", reply)
        seen = await speaker.fetch(provider, "sim/x", True)
        body = gzip.decompress(seen.body) if reply.gzip else seen.body
        whole = Seen(seen.head, body, seen.ending, seen.body_complete)
        assert speaker.said(whole, True) == TEXT


@speakers
@streams
@pytest.mark.parametrize(
    ("reply", "in_body"),
    [
        (Reply("a", usage={"odd": -1}), b'"usage":{"odd": -1}'),
        (Reply("a", usage={"n": 10**30, "x": float("nan")}), b'"usage":{"n": %d, "x": NaN}' % 10**30),
        (Reply("a", usage=None), b'"usage":null'),
        (Reply("a", usage_raw="{,}"), b'"usage":{,}'),
    ],
)
async def test_usage_garbage_goes_out_as_scripted(
    provider: ProviderServer, speaker: Speaker, stream: bool, reply: Reply, in_body: bytes
) -> None:
    provider.script("x", reply)
    assert in_body in (await speaker.fetch(provider, "sim/x", stream)).body
    assert provider.journal.last.completion_tokens == 1


@speakers
@streams
async def test_usage_can_be_absent(provider: ProviderServer, speaker: Speaker, stream: bool) -> None:
    provider.script("x", Reply("a", usage="absent"))
    seen = await speaker.fetch(provider, "sim/x", stream)
    assert b'"usage"' not in seen.body
    assert not provider.journal.last.usage_reported
    assert provider.journal.last.completion_tokens == 1


@pytest.mark.parametrize(
    ("usage_on", "told"),
    [
        ("final", {CHAT: 1, COMPLETIONS: 1, RESPONSES: 1, MESSAGES: 1}),
        ("finish", {CHAT: 1, COMPLETIONS: 1, RESPONSES: 1, MESSAGES: 1}),
        ("twice", {CHAT: 2, COMPLETIONS: 2, RESPONSES: 2, MESSAGES: 2}),
        ("every_chunk", {CHAT: 5, COMPLETIONS: 4, RESPONSES: 4, MESSAGES: 4}),
        ("continuous", {CHAT: 6, COMPLETIONS: 5, RESPONSES: 4, MESSAGES: 4}),
    ],
)
@speakers
async def test_usage_is_repeated_as_the_script_says(
    provider: ProviderServer, speaker: Speaker, usage_on: Any, told: dict[Speaker, int]
) -> None:
    provider.script("x", Reply("one two three", usage_on=usage_on))
    seen = await speaker.fetch(provider, "sim/x", True)
    counts = [count for event in seen.events if (count := _output_told(event)) is not None]
    assert len(counts) == told[speaker]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert speaker.said(seen, True) == "one two three"


def _output_told(event: Json) -> int | None:
    usage = event.get("usage") or (event.get("response") or {}).get("usage")
    return None if not usage else usage.get("completion_tokens", usage.get("output_tokens"))


@speakers
async def test_error_in_the_middle_of_a_stream_ends_it(provider: ProviderServer, speaker: Speaker) -> None:
    at = {CHAT: 3, RESPONSES: 6, MESSAGES: 5, COMPLETIONS: 2}[speaker]
    provider.script("x", Reply("one two three", error_at_chunk=at))
    seen = await speaker.fetch(provider, "sim/x", True)
    assert len(seen.events) == at + 1
    assert speaker.said(Seen(b"", seen.body.rsplit(b"data: ", 1)[0], "", True), True).startswith("one")
    last = seen.events[-1]
    attempt = provider.journal.last
    assert 0 < attempt.completion_tokens < 3
    assert not attempt.usage_reported
    if speaker is RESPONSES:
        assert seen.names[-1] == last["type"] == "response.failed"
        assert last["sequence_number"] == at
        assert last["response"]["status"] == "failed"
        assert last["response"]["error"]["code"] == "server_error"
    elif speaker is MESSAGES:
        assert seen.names[-1] == last["type"] == "error"
        assert last["error"]["type"] == "api_error"
    else:
        assert last["error"]["type"] == "server_error"


@speakers
async def test_scripted_error_event_goes_out_under_its_type(
    provider: ProviderServer, speaker: Speaker
) -> None:
    provider.script("bare", Reply("one", error={"error": {"message": "x"}}, error_at_chunk=2))
    seen = await speaker.fetch(provider, "sim/bare", True)
    assert seen.body.endswith(b'\n\ndata: {"error":{"message":"x"}}\n\n')
    if speaker in (RESPONSES, MESSAGES):
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
        provider.script("named", Reply("one", error=error, error_at_chunk=2))
        seen = await speaker.fetch(provider, "sim/named", True)
        assert seen.names[-1] == "error"
        assert seen.events[-1] == error


@speakers
async def test_client_that_leaves_is_billed_until_then(provider: ProviderServer, speaker: Speaker) -> None:
    provider.script("x", Reply(" word" * 40, chunk_delay_s=0.005))
    body = speaker.body("sim/x", **speaker.streaming)
    await leave_after(provider, body, 15, speaker.path, speaker.headers)
    await provider.wait_idle(received=1)
    attempt = provider.journal.last
    assert attempt.client_left
    assert attempt.client_left_at_chunk is not None
    assert attempt.client_left_at_chunk - 6 <= attempt.completion_tokens <= attempt.client_left_at_chunk


@speakers
async def test_verbatim_body_bills_what_it_states(provider: ProviderServer, speaker: Speaker) -> None:
    provider.script(
        "x",
        Reply(
            body=b"data: {}\n\n",
            prompt_tokens=9,
            completion_tokens=4,
            cached_tokens=2,
            cache_write_1h_tokens=3,
            searches=5,
        ),
    )
    seen = await speaker.fetch(provider, "sim/x", True)
    assert seen.body == b"data: {}\n\n"
    served = provider.journal.last.served
    assert (served.input_uncached, served.cache_read, served.cache_write_1h) == (4, 2, 3)
    assert (served.output_total, served.tool_requests) == (4, 5)


@speakers
async def test_unknown_fields_are_served_where_the_script_puts_them(
    provider: ProviderServer, speaker: Speaker
) -> None:
    provider.script("x", Reply("a", extra={"x_new": 7}))
    for stream in (False, True):
        assert b'"x_new":7' in (await speaker.fetch(provider, "sim/x", stream)).body


@pytest.mark.parametrize("omit", ["role", "finish", "usage", "done"])
@speakers
async def test_events_can_be_left_out(provider: ProviderServer, speaker: Speaker, omit: Any) -> None:
    provider.script("x", Reply("one two", omit=[omit]))
    seen = await speaker.fetch(provider, "sim/x", True)
    assert speaker.said(seen, True) == "one two"
    if speaker is RESPONSES:
        assert ("response.created" in seen.names) == (omit != "role")
        assert ("response.completed" in seen.names) == (omit not in ("finish", "done"))
        assert (speaker.usage(seen, True) is None) == (omit != "role")
    if speaker is MESSAGES:
        assert ("message_start" in seen.names) == (omit != "role")
        assert ("message_delta" in seen.names) == (omit != "finish")
        assert ("message_stop" in seen.names) == (omit != "done")
        assert provider.journal.last.usage_reported == (omit not in ("finish", "usage"))


# Dialogues.


def _tool(speaker: Speaker) -> Json:
    schema = {"type": "object", "properties": {"query": {"type": "string"}}}
    if speaker is CHAT:
        return {"type": "function", "function": {"name": "search", "parameters": schema}}
    if speaker is MESSAGES:
        return {"name": "search", "input_schema": schema}
    return {"type": "function", "name": "search", "parameters": schema}


async def _agent(provider: ProviderServer, speaker: Speaker, model: str) -> list[list[str]]:
    """A plain agent loop over raw JSON; the arguments of the calls of each step."""
    body = speaker.body(model, tools=[_tool(speaker)])
    history = body.get("messages", [])
    if speaker is RESPONSES:
        history = body["input"] = [{"role": "user", "content": "hi"}]
    steps: list[list[str]] = []
    for _ in range(12):
        seen = await fetch(provider, body, path=speaker.path, headers=speaker.headers)
        reply = seen.json
        if speaker is CHAT:
            message = reply["choices"][0]["message"]
            calls = [(c["id"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
            history += [message]
            history += [{"role": "tool", "tool_call_id": i, "content": "nothing"} for i, _ in calls]
        elif speaker is MESSAGES:
            calls = [(b["id"], str(b["input"])) for b in reply["content"] if b["type"] == "tool_use"]
            history += [{"role": "assistant", "content": reply["content"]}]
            results = [{"type": "tool_result", "tool_use_id": i, "content": "nothing"} for i, _ in calls]
            history += [{"role": "user", "content": results}] if results else []
        else:
            calls = [(i["call_id"], i["arguments"]) for i in reply["output"] if i["type"] == "function_call"]
            history += reply["output"]
            history += [{"type": "function_call_output", "call_id": i, "output": "nothing"} for i, _ in calls]
        steps.append([arguments for _, arguments in calls])
        if not calls:
            break
    return steps


agents = pytest.mark.parametrize(
    "speaker", [CHAT, RESPONSES, MESSAGES], ids=["chat", "responses", "messages"]
)


@agents
async def test_steps_model_ends_after_its_steps(provider: ProviderServer, speaker: Speaker) -> None:
    steps = await _agent(provider, speaker, "sim/steps-5")
    assert [len(calls) for calls in steps] == [1, 1, 1, 1, 0]
    assert len({calls[0] for calls in steps if calls}) == 4


@agents
async def test_scripted_dialogue_advances_by_turns_and_by_results(
    provider: ProviderServer, speaker: Speaker
) -> None:
    two_calls = Reply("Looking.", tool_calls=[("search", {"query": "a"}), ("search", {"query": "b"})])
    for by in ("turns", "turns_since_user"):
        provider.script("x", Scenario([two_calls, two_calls, Reply("Done.")], by=by))
        assert [len(s) for s in await _agent(provider, speaker, "sim/x")] == [2, 2, 0]
    provider.script("x", Scenario([two_calls, Reply("no"), Reply("Done.")], by="tool_results"))
    assert [len(s) for s in await _agent(provider, speaker, "sim/x")] == [2, 0]


@agents
async def test_printer_goes_on_and_lands_without_tools(provider: ProviderServer, speaker: Speaker) -> None:
    steps = await _agent(provider, speaker, "sim/printer")
    assert len(steps) == 12
    assert len({calls[0] for calls in steps}) == 1
    choice: Any = {"type": "none"} if speaker is MESSAGES else "none"
    seen = await speaker.fetch(provider, "sim/printer", tools=[_tool(speaker)], tool_choice=choice)
    assert speaker.said(seen, False)


async def test_steps_speak_react_on_completions(provider: ProviderServer) -> None:
    prompt = "Use one of [lookup].\nBegin!\nQuestion: x\n"
    texts = []
    for _ in range(3):
        seen = await COMPLETIONS.fetch(provider, "sim/steps-3", prompt=prompt)
        texts.append(COMPLETIONS.said(seen, False))
        prompt += f"{texts[-1]}\nObservation: 1\n"
    assert ["Action: lookup" in text for text in texts] == [True, True, False]
    assert "Final Answer:" in texts[-1]


@agents
async def test_agents_at_the_same_time_do_not_disturb_each_other(
    provider: ProviderServer, speaker: Speaker
) -> None:
    runs = await asyncio.gather(*(_agent(provider, speaker, "sim/steps-3") for _ in range(5)))
    assert [len(run) for run in runs] == [3] * 5


def _orphan(speaker: Speaker) -> Json:
    """A dialogue whose tool result answers a call that is not there."""
    if speaker is CHAT:
        return {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "tool", "tool_call_id": "c_9", "content": ""},
            ]
        }
    if speaker is MESSAGES:
        result = {"type": "tool_result", "tool_use_id": "c_9", "content": "r"}
        return {"messages": [{"role": "user", "content": [result]}]}
    return {"input": [{"type": "function_call_output", "call_id": "c_9", "output": "r"}]}


def _unanswered(speaker: Speaker) -> Json:
    """A dialogue with a call that has no result."""
    if speaker is CHAT:
        call = {"id": "c_9", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        asked: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"messages": [{"role": "user", "content": "x"}, asked, {"role": "user", "content": "y"}]}
    if speaker is MESSAGES:
        use = {"type": "tool_use", "id": "c_9", "name": "f", "input": {}}
        asked = {"role": "assistant", "content": [use]}
        return {"messages": [{"role": "user", "content": "x"}, asked, {"role": "user", "content": "y"}]}
    return {"input": [{"type": "function_call", "call_id": "c_9", "name": "f", "arguments": "{}"}]}


@agents
@pytest.mark.parametrize("dialogue", [_orphan, _unanswered])
async def test_calls_and_results_that_do_not_fit_are_refused(speaker: Speaker, dialogue: Any) -> None:
    usual = 200 if speaker is CHAT else 400
    for server_says, script_says, status in (
        (None, None, usual),
        (None, True, 400),
        (None, False, 200),
        (True, None, 400),
        (False, None, 200),
        (True, False, 200),
    ):
        async with ProviderServer(strict=server_says) as provider:
            provider.script("x", Reply("ok", strict=script_says))
            seen = await speaker.fetch(provider, "sim/x", **dialogue(speaker))
            assert seen.status == status
            if status == 400:
                message = seen.json["error"]["message"]
                assert "c_9" in message or "preceeding message" in message
