"""Streams that are held back from the first call on: released byte for byte, or ended otherwise."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.domain import Surface, ToolCall
from gateway.shaping import SHAPERS, HeldStream, Said, base
from gateway.surfaces import CODECS
from gateway.surfaces.sse import EventTooLargeError
from gateway.testing import ProviderServer, Reply, running_provider
from tests.unit.shaping.support import (
    PATHS,
    TALKING,
    TOOLS,
    ask,
    contiguous,
    events_of,
    fed,
    heard,
    post,
    read_stream,
    request,
    sdk_hears,
)

Json = dict[str, Any]
SHARED = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
RECORDINGS = SHARED / "provider_exchanges_dev.jsonl.gz"

CALLS: list[tuple[str, Json | str]] = [
    ("look", {"at": "Łódź \N{PILE OF POO}"}),
    ("send", {"to": ["a", "b"], "text": "x" * 40}),
]
SCRIPTS = {
    "text": Reply("Nothing to do here, at all."),
    "text and calls": Reply("Let me see what is there.", tool_calls=CALLS),
    "calls": Reply(tool_calls=CALLS),
    "thought and calls": Reply("So.", reasoning="What may it be?", tool_calls=CALLS),
    "thought then calls": Reply(reasoning="What may it be?", tool_calls=CALLS),
    "searches and calls": Reply("Found.", searches=2, tool_calls=CALLS),
    "whole calls": Reply("So.", tool_calls=CALLS, tool_deltas="whole"),
    "calls under one index": Reply("So.", tool_calls=CALLS, tool_deltas="whole", tool_index="zero"),
    "usage everywhere": Reply("So.", tool_calls=CALLS, usage_on="continuous", usage_unasked=True),
    "extras": Reply(
        "So.",
        tool_calls=CALLS,
        extra_tool_call={"extra_content": {"google": {"thought_signature": "sig=="}}},
    ),
}
INSTEAD = Said("I may not use that tool.")


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider(strict=True) as running:
        yield running


def held(surface: Surface, asked: Json, *, strip_usage: bool = False) -> HeldStream[Any]:
    return SHAPERS[surface].hold(CODECS[surface].stream(strip_usage=strip_usage), asked, 7)


def said(surface: Surface, reply: Json) -> Any:
    return heard(CODECS[surface].read_answer(reply))


@pytest.mark.parametrize("sizes", [[1], [1 << 20], [7, 300, 64, 2]], ids=["bytes", "whole", "odd"])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("surface", TALKING)
def test_what_is_held_is_released_byte_for_byte(
    provider: ProviderServer, surface: Surface, script: str, sizes: list[int]
) -> None:
    provider.script("test", SCRIPTS[script])
    asked = request(surface, stream=True)
    told = ask(provider, surface, asked)
    whole = read_stream(surface, told).answer()
    stream = held(surface, asked)
    passed = fed(stream, told, sizes)
    assert told.startswith(passed)
    assert stream.held is bool(whole.calls)
    passed_reader = CODECS[surface].stream(strip_usage=False)
    passed_reader.feed(passed)
    assert passed_reader.answer().calls == ()
    # Everything but the calls has passed.
    assert passed_reader.answer().texts == (whole.texts if passed else ())
    assert said(surface, stream.turn()) == heard(whole)
    if stream.held:
        assert said(surface, stream.given()) == (whole.texts[0] if passed else "", [])
        assert passed + stream.release() == told
    assert stream.stream.answer() == whole
    assert not stream.held
    assert said(surface, stream.given()) == heard(whole)
    assert said(surface, stream.turn()) == heard(whole)
    assert stream.feed(b": later\n\n") == b": later\n\n"


@pytest.mark.parametrize("instead", [INSTEAD, Said("", (ToolCall("call_x", "look", "{}"),), "tool_calls")])
@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "text"])
@pytest.mark.parametrize("surface", TALKING)
def test_another_ending_fits_what_was_given_before(
    provider: ProviderServer, surface: Surface, script: str, instead: Said
) -> None:
    provider.script("test", SCRIPTS[script])
    asked = request(surface, stream=True)
    told = ask(provider, surface, asked)
    whole = read_stream(surface, told).answer()
    stream = held(surface, asked)
    passed = stream.feed(told)
    out = passed + stream.splice(instead)
    if script != "usage everywhere" or surface is not Surface.MESSAGES:
        contiguous(surface, out)
    before = whole.texts[0] if passed else ""
    apart = "\n\n" if before and instead.text and surface is Surface.CHAT else ""
    text = before + apart + instead.text
    calls: list[tuple[str, str, Any]] = [(call.id, call.name, {}) for call in instead.calls]
    assert heard(read_stream(surface, out).answer()) == (text, calls)
    assert sdk_hears(surface, out) == (text, calls)
    assert said(surface, stream.given()) == (text, calls)
    assert not stream.held
    assert stream.feed(b": later\n\n") == b""


@pytest.mark.parametrize("surface", TALKING)
def test_the_last_answer_of_a_provider_is_told_behind_the_first(
    provider: ProviderServer, surface: Surface
) -> None:
    asked = request(surface, stream=True, stream_options={"include_usage": True})
    provider.script("test", SCRIPTS["thought and calls"])
    first = ask(provider, surface, asked)
    provider.script("test", Reply("Better.", reasoning="Again.", tool_calls=[("look", {"n": 2})]))
    body = {name: value for name, value in asked.items() if name not in ("stream", "stream_options")}
    last = orjson.loads(ask(provider, surface, body))
    usage = {**last["usage"], "output_tokens": 99, "completion_tokens": 99}
    stream = held(surface, asked)
    out = stream.feed(first)
    out += stream.splice(Said(reply=last, usage=usage))
    contiguous(surface, out)
    reader = read_stream(surface, out)
    text, calls = heard(reader.answer())
    assert text == ("So.\n\nBetter." if surface is Surface.CHAT else "So.Better.")
    assert [(name, arguments) for _, name, arguments in calls] == [("look", {"n": 2})]
    assert sdk_hears(surface, out) == (text, calls)
    assert reader.usage is not None
    assert 99 in reader.usage["usage"].values()
    given = stream.given()
    if surface is Surface.MESSAGES:
        thoughts = [block for block in given["content"] if block["type"] == "thinking"]
        assert [(t["thinking"], bool(t["signature"])) for t in thoughts] == [
            ("What may it be?", True),
            ("Again.", True),
        ]
    elif surface is Surface.RESPONSES:
        assert given["id"] == stream.stream.response_id
        assert given["output"][-3:] == last["output"]


def test_before_anything_was_given_the_whole_answer_is_told() -> None:
    asked = request(Surface.CHAT, stream=True)
    call: Json = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": "{}"}}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 3,
        "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}],
    }
    stream = held(Surface.CHAT, asked)
    assert stream.feed(b"data: %b\n\n" % orjson.dumps(chunk)) == b""
    assert stream.held
    assert stream.splice(INSTEAD) == SHAPERS[Surface.CHAT].compose_stream(INSTEAD, asked, 7)


def test_a_call_of_any_choice_holds_all_choices() -> None:
    def chunk(index: int, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        head = {"id": "c", "object": "chat.completion.chunk", "created": 3, "model": "m"}
        return b"data: %b\n\n" % orjson.dumps({**head, "choices": [choice]})

    call = {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": "{}"}}]}
    first = [
        chunk(0, {"role": "assistant", "content": "A"}),
        chunk(2, {"content": "C"}),
        chunk(2, {}, "stop"),
    ]
    rest = [chunk(1, call), chunk(0, {"content": "a"}), chunk(0, {}, "stop"), chunk(1, {}, "tool_calls")]
    told = b"".join([*first, *rest, b"data: [DONE]\n\n"])
    stream = held(Surface.CHAT, request(Surface.CHAT, stream=True, n=3))
    assert stream.feed(told) == b"".join(first)
    out = b"".join(first) + stream.splice(INSTEAD)
    answer = read_stream(Surface.CHAT, out).answer()
    assert answer.texts == (f"A\n\n{INSTEAD.text}", INSTEAD.text, "C")
    turn = held(Surface.CHAT, {})
    turn.feed(told)
    assert [c["message"]["content"] for c in turn.turn()["choices"]] == ["Aa", None, "C"]


def test_nulls_and_empty_lists_are_no_calls() -> None:
    delta = {"content": "x", "tool_calls": None, "function_call": None}
    lines = [{"id": "c", "choices": [{"index": 0, "delta": delta}]}]
    lines.append({"id": "c", "choices": [{"index": 0, "delta": {"content": "y", "tool_calls": []}}]})
    told = b"".join([b"data: %b\n\n" % orjson.dumps(line) for line in lines])
    stream = held(Surface.CHAT, {})
    assert stream.feed(told) == told
    assert not stream.held


def test_usage_that_the_client_did_not_ask_for_stays_out(provider: ProviderServer) -> None:
    provider.script("test", SCRIPTS["text and calls"])
    upstream = request(Surface.CHAT, stream=True, stream_options={"include_usage": True})
    told = ask(provider, Surface.CHAT, upstream)
    asked = request(Surface.CHAT, stream=True)
    stream = held(Surface.CHAT, asked, strip_usage=True)
    out = stream.feed(told)
    assert not any("usage" in event for event in events_of(out + stream.release()))
    stream = held(Surface.CHAT, asked, strip_usage=True)
    out = stream.feed(told)
    assert not any("usage" in event for event in events_of(out + stream.splice(INSTEAD)))


def test_no_more_than_the_limit_is_held(monkeypatch: pytest.MonkeyPatch, provider: ProviderServer) -> None:
    monkeypatch.setattr(base, "MAX_HELD_BYTES", 300)
    provider.script("test", SCRIPTS["calls"])
    told = ask(provider, Surface.MESSAGES, request(Surface.MESSAGES, stream=True))
    with pytest.raises(EventTooLargeError):
        held(Surface.MESSAGES, {}).feed(told)


def test_a_search_of_the_provider_passes_while_it_works(provider: ProviderServer) -> None:
    provider.script("test", Reply("Found.", searches=1))
    for surface in (Surface.MESSAGES, Surface.RESPONSES):
        told = ask(provider, surface, request(surface, stream=True))
        stream = held(surface, {})
        assert stream.feed(told) == told
        assert not stream.held


def responses_events(*events: Json) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), orjson.dumps({"sequence_number": number, **event}))
        for number, event in enumerate(events)
    )


def test_a_message_that_is_not_done_when_a_call_begins_is_closed() -> None:
    here = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look", "arguments": ""}
    begun = SHAPERS[Surface.RESPONSES].compose(Said(id="resp_1"), request(Surface.RESPONSES), 5)
    told = responses_events(
        {"type": "response.created", "response": {**begun, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": message},
        {"type": "response.content_part.added", **here, "part": part},
        {"type": "response.output_text.delta", **here, "delta": "Wait, ", "logprobs": []},
        {"type": "response.output_text.delta", **here, "delta": "now", "logprobs": []},
        {"type": "response.output_item.added", "output_index": 1, "item": call},
    )
    stream = held(Surface.RESPONSES, request(Surface.RESPONSES))
    out = stream.feed(told) + stream.splice(INSTEAD)
    contiguous(Surface.RESPONSES, out)
    assert heard(read_stream(Surface.RESPONSES, out).answer()) == ("Wait, now" + INSTEAD.text, [])
    assert sdk_hears(Surface.RESPONSES, out) == ("Wait, now" + INSTEAD.text, [])
    kinds = [event["type"] for event in events_of(out)]
    assert kinds.count("response.output_text.done") == kinds.count("response.content_part.done") == 2


def test_a_block_that_is_open_when_a_call_begins_is_closed() -> None:
    events: list[Json] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Wait"}},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": "look", "input": {}},
        },
    ]
    told = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)
    stream = held(Surface.MESSAGES, {})
    out = stream.feed(told) + stream.splice(INSTEAD)
    contiguous(Surface.MESSAGES, out)
    assert heard(read_stream(Surface.MESSAGES, out).answer()) == ("Wait" + INSTEAD.text, [])


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
        {"type": "response.custom_tool_call_input.done", "output_index": 0, "input": "x"},
        {
            "type": "response.output_item.done",
            "item": {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        },
        {
            "type": "response.completed",
            "response": {"output": [{"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}]},
        },
    ],
)
def test_calls_are_seen_in_whatever_event_first_tells_of_them(event: Json) -> None:
    stream = held(Surface.RESPONSES, {})
    assert stream.feed(responses_events(event)) == b""
    assert stream.held


def test_a_call_is_seen_though_its_item_did_not_tell_its_type() -> None:
    added = {"type": "response.output_item.added", "output_index": 0, "item": {"id": "fc_1", "name": "look"}}
    delta = {
        "type": "response.function_call_arguments.delta",
        "output_index": 0,
        "item_id": "fc_1",
        "delta": "{",
    }
    stream = held(Surface.RESPONSES, {})
    assert stream.feed(responses_events(added)) == responses_events(added)
    assert stream.feed(responses_events(delta)) == b""
    assert stream.held


def test_a_type_that_is_no_text_is_the_name_of_the_event() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    data = orjson.dumps({"type": 5, "output_index": 0, "item": call})
    stream = held(Surface.RESPONSES, {})
    assert stream.feed(b"event: response.output_item.done\ndata: %b\n\n" % data) == b""
    assert stream.held


def messages_events(*events: Json) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def use(index: int, use_id: str, name: str, given: str) -> list[Json]:
    block = {"type": "tool_use", "id": use_id, "name": name, "input": {}}
    delta = {"type": "input_json_delta", "partial_json": given}
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        {"type": "content_block_delta", "index": index, "delta": delta},
        {"type": "content_block_stop", "index": index},
    ]


def chat_events(*deltas: Json) -> bytes:
    return b"".join(
        b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [{"index": 0, "delta": delta}]})
        for delta in deltas
    )


LOOK = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("surface", "told", "calls"),
    [
        # Blocks that are all numbered alike.
        (
            Surface.MESSAGES,
            messages_events(*use(0, "a", "look", "{}"), *use(0, "b", "send", "{}")),
            "look send",
        ),
        # A start that comes twice.
        (Surface.MESSAGES, messages_events(use(0, "a", "look", "{}")[0], *use(0, "a", "look", "{}")), "look"),
        (Surface.MESSAGES, messages_events(*use(0, "a", "look", "{}"), use(0, "a", "look", "")[0]), "look"),
        # A call without a start is nobody's.
        (Surface.MESSAGES, messages_events(*use(0, "a", "look", "{}"), *use(1, "b", "x", "{}")[1:]), "look"),
        # The end of a message tells nothing of its content.
        (
            Surface.MESSAGES,
            messages_events(
                *use(0, "a", "look", "{}"),
                {
                    "type": "message_delta",
                    "delta": {"type": "text", "content": "", "stop_reason": "tool_use"},
                },
            ),
            "look",
        ),
        # Both forms of calls at once.
        (
            Surface.CHAT,
            chat_events({"function_call": {"name": "send", "arguments": "{}"}}, {"tool_calls": [LOOK]}),
            "look send",
        ),
        # A call that goes on as something else.
        (
            Surface.CHAT,
            chat_events({"tool_calls": [LOOK]}, {"tool_calls": [{"index": 0, "function": "stop"}]}),
            "look",
        ),
        # Text that goes on as a number.
        (Surface.CHAT, chat_events({"content": "a"}, {"content": 2}, {"tool_calls": [LOOK]}), "look"),
    ],
)
def test_a_turn_has_the_calls_that_were_judged(surface: Surface, told: bytes, calls: str) -> None:
    stream = held(surface, request(surface))
    stream.feed(told)
    judged, turn = stream.stream.answer(), stream.turn()
    kept = CODECS[surface].read_answer(turn)
    assert [call.name for call in judged.calls] == calls.split()
    assert [(c.id, c.name) for c in kept.calls] == [(c.id, c.name) for c in judged.calls]
    assert kept.texts == judged.texts
    body = SHAPERS[surface].with_results(request(surface), turn, ["No."] * len(judged.calls))
    CODECS[surface].parse(orjson.dumps(body))


def test_a_shell_in_the_providers_own_container_passes() -> None:
    item = {
        "id": "sh_1",
        "type": "shell_call",
        "call_id": "c",
        "action": {"commands": []},
        "environment": {"type": "container_reference", "container_id": "cntr_1"},
    }
    told = responses_events(
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.shell_call_command.delta", "output_index": 0, "command_index": 0, "delta": "ls"},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    )
    stream = held(Surface.RESPONSES, {})
    assert stream.feed(told) == told
    assert not stream.held


ODD: list[Any] = [
    None, 1, "x", [], {}, [[]], {"choices": 1}, {"choices": [1, {}]}, {"choices": [{"delta": []}]},
    {"choices": [{"index": "x", "delta": {"content": 3, "tool_calls": [1, {"function": 2}, {"index": "a"}]}}]},
    {"choices": [{"delta": {"content": ["a", {"type": "text"}, [1]], "x": {"y": {"z": None}}}}]},
    {"choices": [{"delta": {"content": "after parts"}}]},
    {"choices": [{"delta": {"function_call": {"arguments": {"a": 1}}}}]},
    {"type": "message_start", "message": 3}, {"type": "content_block_start", "index": -4},
    {"type": "content_block_start", "index": [], "content_block": {"type": []}},
    {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_delta", "index": 9, "delta": {"type": ["x"]}},
    {"type": "content_block_delta", "index": 1, "delta": 4}, {"type": "message_delta", "usage": 3, "delta": 1},
    {"type": 5}, {"type": "response.created", "response": []}, {"type": "response.output_item.added"},
    {"type": "response.output_item.done", "output_index": "1", "item": {"type": 7, "id": []}},
    {"type": "response.output_text.delta", "delta": 4, "output_index": 2},
    {"type": "response.output_text.done", "text": None, "output_index": 2},
    {"type": "response.content_part.added", "output_index": 2, "part": {"type": {}}},
    {"type": "response.function_call_arguments.delta", "item_id": {}, "delta": "x"},
    {"type": "response.completed", "response": {"output": [1, {"type": "message", "content": 3}]}},
]  # fmt: skip


@pytest.mark.parametrize("surface", [*TALKING, Surface.COMPLETIONS])
def test_nothing_that_a_provider_sends_makes_a_fold_or_a_hold_fail(surface: Surface) -> None:
    told = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in ODD) + b"data: {broken\n\n: x\n\n"
    deep = b'{"choices":[{"delta":{"x":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}]}"
    told += b"data: %b\n\n" % deep
    fold = SHAPERS[surface].fold()
    fold.feed(told)
    fold.copy().reply()
    orjson.dumps(fold.reply())
    stream = held(surface, {})
    stream.feed(told)
    stream.turn()
    stream.given()
    if surface is not Surface.COMPLETIONS:
        stream.splice(INSTEAD)
        stream.given()


def recorded() -> Iterator[Json]:
    with gzip.open(RECORDINGS) as lines:
        for line in lines:
            record = orjson.loads(line)
            if record["stream"] and record["status"] == 200 and isinstance(record["response"]["body"], str):
                yield record


@pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")
def test_recorded_streams_are_released_byte_for_byte_and_can_be_ended_otherwise() -> None:
    calling = 0
    for record in recorded():
        surface = Surface(record["surface"])
        told = record["response"]["body"].encode()
        reader = CODECS[surface].stream(strip_usage=False)
        plain = reader.feed(told)
        whole = reader.answer()
        asked = record["request"]["body"]
        stream = held(surface, asked)
        passed = fed(stream, told, [len(told) // 3 + 1])
        assert stream.held is bool(whole.calls), record["id"]
        turn = CODECS[surface].read_answer(stream.turn())
        assert heard(turn) == heard(whole), record["id"]
        assert turn.reasoning == whole.reasoning or surface is Surface.RESPONSES, record["id"]
        if not stream.held:
            assert passed == plain, record["id"]
            continue
        calling += 1
        again = held(surface, asked)
        out = again.feed(told)
        assert out == passed
        ending = again.splice(INSTEAD)
        assert passed + stream.release() == plain, record["id"]
        after = read_stream(surface, out + ending).answer()
        assert after.calls == (), record["id"]
        assert after.texts[0].endswith(INSTEAD.text), record["id"]
        assert sdk_hears(surface, out + ending) == ("".join(after.texts), []), record["id"]
    assert calling >= 5


@pytest.mark.parametrize("script", ["thought and calls", "calls", "searches and calls", "extras"])
@pytest.mark.parametrize("surface", TALKING)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_strict_provider_goes_on_from_the_turn_and_its_results(
    provider: ProviderServer, surface: Surface, script: str, streamed: bool
) -> None:
    provider.script("test", SCRIPTS[script])
    shaper = SHAPERS[surface]
    asked = request(surface, stream=streamed, include=["reasoning.encrypted_content"])
    before = orjson.dumps(asked)
    told = ask(provider, surface, asked)
    if streamed:
        fold = shaper.fold()
        fold.feed(told)
        turn = fold.reply()
    else:
        turn = orjson.loads(told)
    kept = orjson.dumps(turn)
    on = shaper.with_results(asked, turn, ['{"status":"error"}', "no"])
    assert CODECS[surface].parse(orjson.dumps(on)).surface is surface
    provider.script("test", Reply("Then not."))
    ask(provider, surface, on)
    unusable, forced = shaper.without_tool_use(on, [])
    assert forced is None
    noted = shaper.with_note(unusable, "Finish now.")
    assert noted is not None
    provider.script("test", Reply("Then not.", tool_calls=CALLS))
    ask(provider, surface, noted)
    assert (orjson.dumps(asked), orjson.dumps(turn)) == (before, kept)
    if script == "extras":
        assert orjson.dumps(on).count(b'"thought_signature":"sig=="') == 2
    if script == "thought and calls" and surface is Surface.MESSAGES:
        assert on["messages"][1]["content"][0]["signature"]
    if script == "thought and calls" and surface is Surface.RESPONSES:
        assert on["input"][1]["encrypted_content"]
    with pytest.raises(ValueError, match="1 results for 2 calls"):
        shaper.with_results(asked, turn, ["no"])


def test_what_the_provider_keeps_is_gone_on_from_as_before(provider: ProviderServer) -> None:
    provider.script("test", Reply("Hello."))
    first = orjson.loads(ask(provider, Surface.RESPONSES, request(Surface.RESPONSES)))
    asked = request(Surface.RESPONSES, previous_response_id=first["id"])
    provider.script("test", SCRIPTS["text and calls"])
    turn = orjson.loads(ask(provider, Surface.RESPONSES, asked))
    on = SHAPERS[Surface.RESPONSES].with_results(asked, turn, ["no", "no"])
    assert on["previous_response_id"] == first["id"]
    provider.script("test", Reply("Then not."))
    ask(provider, Surface.RESPONSES, on)

    status, told = post(provider, "conversations", {})
    assert status == 200, told
    asked = request(Surface.RESPONSES, conversation=orjson.loads(told)["id"])
    provider.script("test", SCRIPTS["text and calls"])
    turn = orjson.loads(ask(provider, Surface.RESPONSES, asked))
    on = SHAPERS[Surface.RESPONSES].with_results(asked, turn, ["no", "no"])
    assert [item["type"] for item in on["input"]] == ["function_call_output"] * 2
    provider.script("test", Reply("Then not."))
    ask(provider, Surface.RESPONSES, on)


def test_custom_tools_are_answered_in_their_own_words(provider: ProviderServer) -> None:
    provider.script("test", Reply(tool_calls=[("patch", "*** Begin")]))
    asked = request(Surface.RESPONSES, tools=False, stream=True)
    asked["tools"] = [{"type": "custom", "name": "patch"}]
    fold = SHAPERS[Surface.RESPONSES].fold()
    fold.feed(ask(provider, Surface.RESPONSES, asked))
    on = SHAPERS[Surface.RESPONSES].with_results(asked, fold.reply(), ["no"])
    assert on["input"][-1]["type"] == "custom_tool_call_output"
    provider.script("test", Reply("Then not."))
    ask(provider, Surface.RESPONSES, on)


@pytest.mark.parametrize("surface", TALKING)
def test_a_forced_final_tool_is_the_only_one_a_provider_can_call(
    provider: ProviderServer, surface: Surface
) -> None:
    provider.script("test", Reply("So.", tool_calls=[("final_answer", {"a": 1})]))
    asked, forced = SHAPERS[surface].without_tool_use(request(surface), ["absent", "final_answer"])
    assert forced == "final_answer"
    assert asked["tools"] == TOOLS[surface]
    reply = orjson.loads(ask(provider, surface, asked))
    assert [call.name for call in CODECS[surface].read_answer(reply).calls] == ["final_answer"]
    assert set(PATHS) >= {surface}
