"""Where the texts of answers stand, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain import Json, Surface
from gateway.screening.spots import EventSpots, Spot, event_spots, leaves, replaced, reply_spots


def found(spots: list[Spot]) -> dict[str, tuple[Any, ...]]:
    """By path: the text, its kind, and what is special about it."""
    return {
        ".".join(map(str, spot.path)): (
            spot.text,
            spot.kind,
            *([spot.tool] if spot.tool else []),
            *([spot.form] if spot.form != "text" else []),
            *(["sealed"] if spot.sealed else []),
        )
        for spot in spots
    }


def keys(reader: EventSpots, *events: Json) -> list[list[tuple[str | int, ...]]]:
    """The keys that end with each event."""
    out = []
    for event in events:
        reader.read(event)
        out.append(list(reader.ended(event)))
    return out


def test_the_texts_of_a_chat_reply() -> None:
    message = {
        "role": "assistant",
        "content": "said",
        "refusal": "refused",
        "reasoning": "thought",
        "reasoning_content": "thought2",
        "thinking": "thought3",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "detail", "id": "r1", "format": "unknown", "index": 0},
            {"type": "reasoning.summary", "summary": "brief", "index": 1},
            {"type": "reasoning.text", "text": "signed", "signature": "c2ln", "index": 2},
            {"type": "reasoning.encrypted", "data": "gAAAA", "index": 3},
        ],
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {"title": "title", "url": "https://a.example", "end_index": 3},
            }
        ],
        "audio": {"id": "a", "data": "QUJD", "transcript": "spoken", "expires_at": 1},
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "send", "arguments": '{"a":1}'},
                "extra_content": {"google": {"thought_signature": "c2ln"}},
            },
            {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "free"}},
            {"id": "c3", "type": "function", "function": {"name": "set", "arguments": {"b": [2]}}},
        ],
        "function_call": {"name": "old", "arguments": "{}"},
        "unheard_of": {"deep": ["unknown"]},
    }
    reply = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"x": "no"},
        "moderation": {"categories": ["no"]},
        "service_tier": "default",
        "provider": "p",
        "citations": ["https://b.example"],
    }
    at = "choices.0.message."
    assert found(reply_spots(Surface.CHAT, reply)) == {
        at + "content": ("said", "text"),
        at + "refusal": ("refused", "text"),
        at + "reasoning": ("thought", "reasoning"),
        at + "reasoning_content": ("thought2", "reasoning"),
        at + "thinking": ("thought3", "reasoning"),
        at + "reasoning_details.0.text": ("detail", "reasoning"),
        at + "reasoning_details.1.summary": ("brief", "reasoning"),
        at + "reasoning_details.2.text": ("signed", "reasoning", "sealed"),
        at + "annotations.0.url_citation.title": ("title", "text"),
        at + "annotations.0.url_citation.url": ("https://a.example", "text"),
        at + "audio.transcript": ("spoken", "text"),
        at + "tool_calls.0.function.arguments": ('{"a":1}', "arguments", "send", "json"),
        at + "tool_calls.1.custom.input": ("free", "arguments", "run"),
        at + "tool_calls.2.function.arguments": ('{"b":[2]}', "arguments", "set", "object"),
        at + "function_call.arguments": ("{}", "arguments", "old", "json"),
        at + "unheard_of.deep.0": ("unknown", "text"),
        "citations.0": ("https://b.example", "text"),
    }


def test_the_texts_of_a_messages_reply() -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "signed", "signature": "c2ln"},
        {"type": "thinking", "thinking": "open", "signature": ""},
        {"type": "redacted_thinking", "data": "c2ln"},
        {
            "type": "text",
            "text": "said",
            "citations": [{"type": "t", "cited_text": "quoted", "encrypted_index": "E"}],
        },
        {"type": "text", "text": " more"},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "asked"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s1",
            "content": [
                {"type": "web_search_result", "title": "title", "encrypted_content": "E", "url": "u"}
            ],
        },
        {
            "type": "web_fetch_tool_result",
            "content": {"source": {"type": "text", "media_type": "text/plain", "data": "page"}},
        },
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
        {"type": "tool_use", "id": "t1", "name": "send", "input": {"to": "a", "id": 4111}},
        {"type": "compaction", "content": "summary"},
        {"type": "text", "text": "after"},
    ]
    reply: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    reply |= {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": "why"}}
    spots = reply_spots(Surface.MESSAGES, reply)
    assert found(spots) == {
        "stop_details.explanation": ("why", "text"),
        "content.0.thinking": ("signed", "reasoning", "sealed"),
        "content.1.thinking": ("open", "reasoning"),
        "content.3.text": ("said", "text"),
        "content.3.citations.0.cited_text": ("quoted", "text"),
        "content.4.text": (" more", "text"),
        "content.5.input": ('{"query":"asked"}', "arguments", "web_search", "object"),
        "content.6.content.0.title": ("title", "text"),
        "content.6.content.0.url": ("u", "text"),
        "content.7.content.source.data": ("page", "text"),
        "content.9.input": ('{"to":"a","id":4111}', "arguments", "send", "object"),
        "content.10.content": ("summary", "reasoning"),
        "content.11.text": ("after", "text"),
    }
    said = {spot.text: spot.key for spot in spots}
    assert said["said"] == said[" more"] != said["after"]


def test_the_texts_of_a_response() -> None:
    output: list[Json] = [
        {
            "id": "rs_1",
            "type": "reasoning",
            "encrypted_content": "E",
            "summary": [{"type": "summary_text", "text": "brief"}],
            "content": [{"type": "reasoning_text", "text": "thought"}],
        },
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "said",
                    "annotations": [
                        {"type": "container_file_citation", "file_id": "f", "filename": "named.txt"}
                    ],
                    "logprobs": [{"token": "said", "logprob": 0.0, "top_logprobs": [{"token": "no"}]}],
                },
                {"type": "refusal", "refusal": "refused"},
            ],
        },
        {"id": "fc", "type": "function_call", "call_id": "c", "name": "send", "arguments": '{"a":1}'},
        {"id": "ct", "type": "custom_tool_call", "call_id": "c", "name": "run", "input": "free"},
        {
            "id": "sh",
            "type": "shell_call",
            "call_id": "c",
            "action": {"commands": ["ls", "cat x"]},
            "environment": {"type": "local"},
        },
        {
            "id": "ls",
            "type": "local_shell_call",
            "action": {"type": "exec", "command": ["id"], "env": {"name": "v"}},
        },
        {
            "id": "ap",
            "type": "apply_patch_call",
            "operation": {"type": "update_file", "diff": "+x", "path": "a.py"},
        },
        {"id": "cc", "type": "computer_call", "action": {"type": "type", "text": "typed"}},
        {
            "id": "mc",
            "type": "mcp_call",
            "name": "ask",
            "server_label": "s",
            "arguments": "{}",
            "output": "answer",
        },
        {
            "id": "ci",
            "type": "code_interpreter_call",
            "code": "1+1",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
        {"id": "ig", "type": "image_generation_call", "result": "AAAA", "revised_prompt": "a cat"},
        {
            "id": "fs",
            "type": "file_search_call",
            "queries": ["asked"],
            "results": [{"file_id": "f", "text": "t"}],
        },
    ]
    reply = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "m",
        "instructions": "no",
        "metadata": {"a": "no"},
        "tools": [{"type": "function", "description": "no"}],
        "text": {"format": {"type": "text", "name": "no"}},
        "reasoning": {"effort": "low"},
        "error": {"code": "c", "message": "wrong"},
        "output": output,
    }
    assert found(reply_spots(Surface.RESPONSES, reply)) == {
        "output.0.summary.0.text": ("brief", "reasoning"),
        "output.0.content.0.text": ("thought", "reasoning"),
        "output.1.content.0.text": ("said", "text"),
        "output.1.content.0.annotations.0.filename": ("named.txt", "text"),
        "output.1.content.1.refusal": ("refused", "text"),
        "output.2.arguments": ('{"a":1}', "arguments", "send", "json"),
        "output.3.input": ("free", "arguments", "run"),
        "output.4.action.commands.0": ("ls", "arguments", "shell"),
        "output.4.action.commands.1": ("cat x", "arguments", "shell"),
        "output.5.action.command.0": ("id", "arguments", "local_shell"),
        "output.5.action.env.name": ("v", "arguments", "local_shell"),
        "output.6.operation.diff": ("+x", "arguments", "apply_patch"),
        "output.6.operation.path": ("a.py", "arguments", "apply_patch"),
        "output.7.action.text": ("typed", "arguments", "computer"),
        "output.8.arguments": ("{}", "arguments", "ask", "json"),
        "output.8.output": ("answer", "text"),
        "output.9.code": ("1+1", "arguments", "code_interpreter"),
        "output.9.outputs.0.logs": ("2", "text"),
        "output.10.revised_prompt": ("a cat", "text"),
        "output.11.queries.0": ("asked", "text"),
        "output.11.results.0.text": ("t", "text"),
        "error.code": ("c", "text"),
        "error.message": ("wrong", "text"),
    }


def test_the_texts_of_a_completion() -> None:
    logprobs = {"tokens": ["sa", "id"], "token_logprobs": [0.0, 0.0], "top_logprobs": [{"sa": 0.0}]}
    reply = {"id": "cmpl-1", "choices": [{"index": 0, "text": "said", "logprobs": logprobs}]}
    (spot,) = reply_spots(Surface.COMPLETIONS, reply)
    assert (spot.path, spot.text, spot.logprobs) == (
        ("choices", 0, "text"),
        "said",
        ("choices", 0, "logprobs"),
    )
    logprobs["tokens"] = ["an", "other"]
    assert [spot.form for spot in reply_spots(Surface.COMPLETIONS, reply)] == ["text", "tokens"]


def test_calls_of_a_chat_stream_are_told_apart_as_clients_do() -> None:
    reader = event_spots(Surface.CHAT)

    def read(*calls: Json) -> list[tuple[Any, str]]:
        event = {"choices": [{"index": 1, "delta": {"tool_calls": list(calls)}}]}
        return [(spot.key[2], spot.tool) for spot in reader.read(event)]

    def call(arguments: str, name: str = "", **more: Any) -> Json:
        return {"function": {"arguments": arguments, **({"name": name} if name else {})}, **more}

    assert read(call("{", "a", index=0, id="1"), call("{", "b", index=1, id="2")) == [(0, "a"), (1, "b")]
    assert read(call("}", index=1), call("}", index=0)) == [(1, "b"), (0, "a")]
    assert read(call("{}", "c", index=0, id="3")) == [(2, "c")]
    assert read(call("{", "d", id="4"), call("}")) == [(3, "d"), (3, "d")]


def test_the_texts_of_a_choice_end_with_it() -> None:
    reader = event_spots(Surface.CHAT)

    def choice(index: int, delta: Json, finish: str | None = None) -> Json:
        return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    assert keys(
        reader,
        choice(0, {"content": "a"}),
        choice(1, {"content": "b", "refusal": "c"}),
        choice(1, {}, "stop"),
        choice(0, {"content": "d"}, "stop"),
        choice(0, {"content": "e"}),
        {"error": {"message": "wrong"}},
    ) == [[], [], [("text", 1), ("refusal", 1)], [("text", 0)], [], [("text", 0)]]
    assert reader.over


def test_thoughts_end_when_the_answer_has_gone_on_for_a_while() -> None:
    reader = event_spots(Surface.CHAT)
    long = {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
    other = {"choices": [{"index": 1, "delta": {"content": "x" * 400}}]}
    thought = {"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}
    assert keys(reader, thought, long, long, thought, long, other, other, long, long) == [
        *[[]] * 8,
        [("reasoning", 0, "reasoning")],
    ]


def test_the_texts_of_a_block_end_with_it_and_text_with_its_run() -> None:
    reader = event_spots(Surface.MESSAGES)

    def start(index: int, kind: str, **more: Any) -> Json:
        return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}

    def delta(index: int, kind: str, **more: Any) -> Json:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}

    def stop(index: int) -> Json:
        return {"type": "content_block_stop", "index": index}

    assert keys(
        reader,
        start(0, "text", text="a"),
        delta(0, "text_delta", text="b"),
        stop(0),
        start(1, "text", text=""),
        delta(1, "text_delta", text="c"),
        stop(1),
        start(2, "tool_use", name="send", input={}),
        delta(2, "input_json_delta", partial_json="{}"),
        stop(2),
        start(2, "text", text="d"),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ) == [*[[]] * 6, [("text", 0)], [], [("input", 2)], [], [("text", 3)]]
    assert not reader.over
    assert keys(reader, {"type": "message_stop"}) == [[]]
    assert reader.over


def test_deltas_whose_start_did_not_come_are_read() -> None:
    reader = event_spots(Surface.MESSAGES)
    event = {
        "type": "content_block_delta",
        "index": 3,
        "delta": {"type": "text_delta", "text": "a", "more": "b"},
    }
    assert [spot.text for spot in reader.read(event)] == ["a", "b"]
    event = {"type": "content_block_delta", "delta": {"type": "new_delta", "what": "c"}}
    assert [(spot.text, spot.path) for spot in reader.read(event)] == [("c", ("delta", "what"))]


def test_what_a_response_begins_with_is_its_first_piece() -> None:
    reader = event_spots(Surface.RESPONSES)
    added = {"type": "response.content_part.added", "output_index": 0, "content_index": 1}
    part = {"type": "output_text", "text": "a"}
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 1, "delta": "b"}
    done = {**delta, "type": "response.output_text.done", "text": "ab"}
    del done["delta"]
    spots = [
        spot
        for event in ({**added, "part": part}, delta, {**added, "part": part}, done)
        for spot in reader.read(event)
    ]
    assert [(spot.key, spot.copy) for spot in spots] == [
        (("text", 0, 1), False),
        (("text", 0, 1), False),
        (("text", 0, 1), True),
        (("text", 0, 1), True),
    ]
    assert list(reader.ended(done)) == [("text", 0, 1)]


def test_items_are_known_by_their_ids_where_the_index_is_left_out() -> None:
    reader = event_spots(Surface.RESPONSES)
    item = {"id": "fc_1", "type": "function_call", "name": "send", "arguments": ""}
    reader.read({"type": "response.output_item.added", "output_index": 4, "item": item})
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"}
    (spot,) = reader.read(delta)
    assert (spot.key, spot.tool) == (("arguments", 4), "send")
    ended = {"type": "response.completed", "response": {"output": [{**item, "arguments": "{}"}]}}
    (spot,) = reader.read(ended)
    assert (spot.key, spot.copy) == (("arguments", 4), True)
    assert list(reader.ended(ended)) == [("arguments", 4)]
    assert reader.over


def test_output_of_a_hosted_shell_grows() -> None:
    reader = event_spots(Surface.RESPONSES)
    event = {"type": "response.shell_call_output_content.delta", "output_index": 0, "command_index": 1}
    first = reader.read({**event, "delta": {"stdout": "a", "stderr": None}})
    second = reader.read({**event, "delta": {"stdout": "b"}})
    assert [(s.key, s.text, s.copy) for s in (*first, *second)] == [
        (("shell_call_output_content", 0, 1, "stdout"), "a", False),
        (("shell_call_output_content", 0, 1, "stdout"), "b", False),
    ]
    done = {"type": "response.shell_call_output_content.done", "output_index": 0, "command_index": 1}
    assert keys(reader, done) == [[first[0].key]]


def test_padding_pictures_and_sounds_are_no_texts() -> None:
    for event in (
        {"type": "response.audio.delta", "delta": "QUJD"},
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA", "item_id": "i"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "", "obfuscation": "abc"},
        {"type": "response.queued", "response": {"id": "r", "output": [], "instructions": "no"}},
    ):
        assert event_spots(Surface.RESPONSES).read(event) == []


def test_a_text_that_looks_like_a_picture_is_a_text() -> None:
    reply = {"choices": [{"message": {"content": "data:image/png;base64,secret", "more": "data:;base64,x"}}]}
    assert len(reply_spots(Surface.CHAT, reply)) == 2


def test_nothing_is_too_deep() -> None:
    value: Any = "deep"
    for _ in range(5_000):
        value = [value]
    ((path, text),) = leaves({"a": value})
    assert (len(path), text) == (5_001, "deep")


@pytest.mark.parametrize("surface", [Surface.EMBEDDINGS, Surface.MODERATIONS])
def test_other_surfaces_have_no_such_answers(surface: Surface) -> None:
    with pytest.raises(KeyError):
        event_spots(surface)


def test_replaced_copies_along_the_paths_alone() -> None:
    value = {"a": [{"b": "1", "c": {"d": "2"}}, {"e": "3"}], "f": {"g": "4"}}
    new = replaced(value, {("a", 0, "b"): "x", ("a", 0, "c", "d"): None, ("a", 1): "y"})
    assert new == {"a": [{"b": "x", "c": {"d": None}}, "y"], "f": {"g": "4"}}
    assert value == {"a": [{"b": "1", "c": {"d": "2"}}, {"e": "3"}], "f": {"g": "4"}}
    assert new["f"] is value["f"]
    assert list(new) == ["a", "f"]
    assert replaced(value, {}) == value
