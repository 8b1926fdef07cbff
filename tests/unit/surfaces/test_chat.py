"""Reading chat: bodies, streams split anywhere, and edits that leave every other byte alone."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Role
from gateway.errors import CallerError
from gateway.surfaces import chat
from gateway.surfaces.body import parse_object, with_fields
from gateway.surfaces.sse import EventSplitter, data_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abc\"\\é", max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(alphabet='abc"\\é', max_size=3), VALUES, max_size=4)


@given(OBJECTS, st.sampled_from([None, 2]), st.booleans())
def test_every_honest_object_is_read_as_it_is(
    body: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    assert parse_object(raw, max_depth=128) == json.loads(raw)


@given(OBJECTS.filter(bool), st.data())
def test_a_key_twice_is_refused_at_any_depth(body: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(body)))
    twice = "{" + json.dumps(key) + ":1," + json.dumps(body)[1:]
    for raw in (twice, '{"deep":[{"er":' + twice + "}]}"):
        with pytest.raises(CallerError) as refused:
            parse_object(raw.encode(), max_depth=128)
        assert refused.value.code == "invalid_json"


@given(OBJECTS)
def test_new_fields_are_spliced_in_and_nothing_else_moves(body: dict[str, Any]) -> None:
    body = {"model": "m", **body}
    raw = json.dumps(body, indent=1).encode() + b" \n"
    out = with_fields(raw, body, {"zz": {"a": 1}})
    assert out.startswith(raw.rstrip()[:-1])
    assert json.loads(out) == {**json.loads(raw), "zz": {"a": 1}}


@given(
    st.lists(st.sampled_from([b"data: {}", b": c", b"event: x\ndata: 1", b"data: a\ndata: b", b"data:x"]), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.data(),
)  # fmt: skip
def test_events_are_the_same_however_the_bytes_arrive(
    events: list[bytes], newline: bytes, data: st.DataObject
) -> None:
    raw = b"".join(event.replace(b"\n", newline) + newline * 2 for event in events)
    splitter = EventSplitter()
    found: list[bytes] = []
    rest = raw
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    assert b"".join(found) + splitter.pending == raw
    payloads = [data_of(event) for event in found]
    assert [p for p in payloads if p is not None] == [
        {b"data: {}": b"{}", b"event: x\ndata: 1": b"1", b"data: a\ndata: b": b"a\nb", b"data:x": b"x"}[e]
        for e in events if e != b": c"
    ][: len([p for p in payloads if p is not None])]  # fmt: skip


def test_a_request_becomes_items_with_their_roles_texts_and_calls() -> None:
    step = chat.parse(orjson.dumps({
        "model": "m", "max_tokens": 5, "max_completion_tokens": 9, "n": 2, "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
                  {"type": "custom", "custom": {"name": "c"}}],
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "r"},
        ],
    }))  # fmt: skip
    assert [item.role for item in step.items] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL]
    assert step.items[1].texts[0].pointer == ("messages", 1, "content", 0, "text")
    assert (step.items[1].media[0].kind, step.items[1].media[0].detail) == ("image", "low")
    assert (step.items[2].calls[0].id, step.items[3].call_id) == ("call_1", "call_1")
    assert [tool.name for tool in step.tools] == ["f", "c"]
    assert (step.output_limit, step.choices, step.wants_usage) == (9, 2, True)


def test_choices_of_a_stream_are_kept_apart_and_calls_put_together() -> None:
    stream = chat.ChatStream(strip_usage=True)
    for delta in (
        {"index": 0, "delta": {"content": "a"}},
        {"index": 1, "delta": {"content": "x", "tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]}},
        {"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"},
        {"index": 1, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}, {"index": 0, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]}},
        {"index": 1, "delta": {}, "finish_reason": "tool_calls"},
    ):  # fmt: skip
        event = b"data: " + orjson.dumps({"id": "i", "choices": [delta], "usage": None}) + b"\n\n"
        assert b"usage" not in stream.feed(event)
    assert not stream.done
    assert stream.finished
    assert stream.feed(b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n') == b""
    answer = stream.answer()
    assert answer.texts == ("ab", "x")
    assert [(c.id, c.name, c.arguments) for c in answer.calls] == [("c1", "f", '{"a":1}'), ("c2", "g", "{}")]
    assert stream.usage == {"usage": {"prompt_tokens": 1}}


def test_quoted_pages_show_that_the_web_was_searched() -> None:
    cited = {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]}
    for said, hosted in (
        ({"content": "a", **cited}, ("web_search",)),
        ({"content": "", **cited}, ("web_search",)),
        ({"content": "a", "annotations": []}, ()),
        ({"content": "a", "annotations": [{"type": "file"}, 3]}, ()),
        ({"content": "a", "annotations": "url_citation"}, ()),
    ):
        assert chat.read_answer({"choices": [{"message": said}]}).hosted == hosted
        stream = chat.ChatStream(strip_usage=True)
        for delta in (said, {"content": "b"}, said):
            stream.feed(b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n")
        assert stream.answer().hosted == hosted


def test_withheld_tools_leave_a_request_that_providers_take() -> None:
    body = {"tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "b"}}],
            "tool_choice": {"type": "function", "function": {"name": "a"}}}  # fmt: skip
    assert chat.withhold_tools(body, {"a"}) == {"tools": [body["tools"][1]]}  # type: ignore[index]
    assert chat.withhold_tools(body, {"a", "b"}) == {}
    assert chat.withhold_tools({**body, "tool_choice": "auto"}, {"a"})["tool_choice"] == "auto"


def deltas(*told: dict[str, Any]) -> bytes:
    return b"".join(
        [b"data: %b\n\n" % orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in told]
    )


def test_content_in_parts_is_read_and_counted_in_streams_as_in_replies() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm é"}, 3, {"text": None}]}
    parts: list[Any] = [thought, {"type": "text", "text": "Yes"}, {"type": "text", "text": 4}, 5]
    stream = chat.stream(strip_usage=False)
    stream.feed(deltas({"role": "assistant", "content": ""}, {"content": parts}, {"content": "."}))
    answer = stream.answer()
    assert (answer.texts, answer.reasoning) == (("Yes.",), "Hmm é")
    assert stream.output_bytes == len("Yes.Hmm é".encode())
    reply = {
        "choices": [{"message": {"role": "assistant", "content": [*parts, {"type": "text", "text": "."}]}}]
    }
    plain = chat.read_answer(reply)
    assert (plain.texts, plain.reasoning) == (answer.texts, answer.reasoning)


def test_a_thought_under_two_names_is_counted_once() -> None:
    stream = chat.stream(strip_usage=False)
    stream.feed(
        deltas({"reasoning": "abc", "reasoning_content": "abc"}, {"reasoning_content": "d", "refusal": "e"})
    )
    assert (stream.answer().reasoning, stream.answer().texts) == ("abcd", ("e",))
    assert stream.output_bytes == 5


def test_both_forms_of_calls_are_kept_apart() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    message = {"tool_calls": [call], "function_call": {"name": "b", "arguments": "[]"}}
    stream = chat.stream(strip_usage=False)
    stream.feed(
        deltas(
            {"function_call": {"name": "b"}},
            {"tool_calls": [{"index": 0, **call}]},
            {"function_call": {"arguments": "[]"}},
        )
    )
    assert stream.answer().calls == chat.read_answer({"choices": [{"message": message}]}).calls
    assert stream.tools_called == {"a", "b"}


def test_oddities_of_a_provider_are_no_reason_to_fail() -> None:
    stream = chat.stream(strip_usage=True)
    stream.feed(b'data: {"choices":[],"x_groq":"x"}\n\ndata: {"choices":[],"x_groq":[1],"usage":null}\n\n')
    assert stream.usage is None
    deep = orjson.loads(b"[" * 400 + b"]" * 400)
    message = {"refusal": 7, "tool_calls": [{"id": "c", "function": {"name": "a", "arguments": deep}}]}
    answer = chat.read_answer({"choices": [{"message": message}]})
    assert (answer.texts, answer.calls[0].arguments) == (("",), "")


def test_a_hosted_tool_is_withheld_by_its_type() -> None:
    tools = [{"type": "web_search"}, {"type": "function", "function": {"name": "a"}}]
    asked = {"model": "m", "messages": [{"role": "user", "content": ""}], "tools": tools}
    assert [tool.name for tool in chat.parse(orjson.dumps(asked)).tools] == ["web_search", "a"]
    body = {"tools": tools, "tool_choice": {"type": "web_search"}}
    assert chat.withhold_tools(body, {"web_search"}) == {"tools": tools[1:]}


SAID = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def offered(**fields: Any) -> list[str]:
    return [tool.name for tool in chat.parse(orjson.dumps({**SAID, **fields})).tools]


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("web_search_options", {}),
        ("web_search_options", {"search_context_size": "high"}),
        ("web_search_options", True),
        ("search_parameters", {"mode": "auto"}),
        ("enable_search", True),
        ("plugins", [{"id": "web", "max_results": 3}]),
    ],
)
def test_a_search_that_is_asked_for_beside_the_tools_is_the_tool_web_search(field: str, value: Any) -> None:
    asked = {**SAID, field: value}
    assert offered(**{field: value}) == ["web_search"]
    assert offered(**{field: value}, tools=[function("a")]) == ["a", "web_search"]
    assert offered(**{field: value}, tools=[function("web_search")]) == ["web_search"]
    assert chat.withhold_tools(asked, {"web_search"}) == SAID
    assert chat.withhold_tools(asked, {"a", "Web_Search"}) == asked
    raw = orjson.dumps(asked)
    options: dict[str, Any] = {
        "model": "m",
        "limit_field": "max_tokens",
        "output_limit": None,
        "inject_usage": False,
    }
    assert orjson.loads(chat.forward(chat.parse(raw), withheld={"web_search"}, **options)) == SAID
    assert chat.forward(chat.parse(raw), **options) == raw


def test_fields_that_ask_for_no_search_are_no_tool() -> None:
    pdf = {"id": "file-parser"}
    assert offered(web_search_options=None, enable_search=False, search_parameters=None) == []
    assert offered(plugins=[pdf, 3, {"id": "web", "enabled": False}]) == offered(plugins={"id": "web"}) == []
    mixed = {**SAID, "plugins": [{"id": "web"}, pdf]}
    assert chat.withhold_tools(mixed, {"web_search"}) == {**SAID, "plugins": [pdf]}
    assert chat.withhold_tools({**SAID, "plugins": []}, {"web_search"}) == {**SAID, "plugins": []}


@pytest.mark.parametrize(
    ("key", "tool", "name"),
    [
        ("tools", {"type": "web_search", "name": "good"}, "web_search"),
        ("tools", {"type": "web_search", "function": {"name": "good"}}, "web_search"),
        ("tools", {"type": "web_search", "function": "good"}, "web_search"),
        ("tools", {"type": "mcp", "server_label": "good", "name": "good"}, "mcp"),
        ("tools", {"type": "custom", "function": {"name": "good"}, "custom": {"name": "evil"}}, "evil"),
        ("tools", {"type": "function", "function": {"name": "evil"}, "custom": {"name": "good"}, "name": "good"}, "evil"),
        ("tools", {"type": "function", "function": 5, "custom": {"name": "good"}}, "function"),
        ("tools", {"type": "function", "name": "evil"}, "evil"),
        ("tools", {"function": {"name": "evil"}}, "evil"),
        ("tools", {"type": "builtin_function", "function": {"name": "$web_search"}}, "$web_search"),
        ("tools", {"type": ["web_search"], "name": "evil"}, "evil"),
        ("functions", {"name": "evil", "function": {"name": "good"}}, "evil"),
        ("functions", {"type": "web_search", "name": "evil"}, "evil"),
    ],
)  # fmt: skip
def test_a_tool_cannot_hide_behind_the_name_of_another(key: str, tool: dict[str, Any], name: str) -> None:
    body = {**SAID, key: [tool, tool]}
    assert offered(**{key: [tool, tool]}) == [name, name]
    assert chat.withhold_tools(body, {name}) == SAID
    assert chat.withhold_tools(body, {"good", name.upper()}) == body


@pytest.mark.parametrize("key", ["tools", "functions"])
@pytest.mark.parametrize("tool", ["web_search", None, 3, [function("a")]])
def test_what_is_no_tool_is_refused(key: str, tool: Any) -> None:
    with pytest.raises(CallerError) as refused:
        offered(**{key: [tool]})
    assert refused.value.param == f"{key}[0]"


def test_the_choice_among_functions_outlives_the_tools_and_the_other_way_round() -> None:
    both = {"tools": [function("a")], "tool_choice": "required", "parallel_tool_calls": False,
            "functions": [{"name": "b"}], "function_call": "none"}  # fmt: skip
    assert chat.withhold_tools(both, {"a"}) == {"functions": [{"name": "b"}], "function_call": "none"}
    assert chat.withhold_tools(both, {"b"}) == {
        "tools": [function("a")],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    assert chat.withhold_tools(both, {"a", "b"}) == {}
    forced = {**both, "function_call": {"name": "b"}, "functions": [{"name": "b"}, {"name": "c"}]}
    assert "function_call" not in chat.withhold_tools(forced, {"b"})


def test_a_choice_of_hosted_tools_is_withheld_with_them() -> None:
    search = {"type": "web_search"}
    body = {"tools": [search, function("a")]}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [search, function("a")]}}
    assert chat.withhold_tools({**body, "tool_choice": allowed}, {"web_search"})["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [function("a")]},
    }
    hidden = {"type": "web_search", "name": "a"}
    assert "tool_choice" not in chat.withhold_tools({**body, "tool_choice": hidden}, {"web_search"})


def test_a_tool_without_a_name_can_be_withheld() -> None:
    body: dict[str, Any] = {"tools": [{"function": {"description": "x"}}, {"function": {"name": "a"}}]}
    assert chat.withhold_tools(body, {""}) == {"tools": [body["tools"][1]]}


def test_the_tools_that_a_choice_allows_are_withheld_too() -> None:
    named = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    kept = chat.withhold_tools({"tools": named, "tool_choice": choice}, {"a"})
    assert kept["tool_choice"] == {**choice, "allowed_tools": {"mode": "required", "tools": named[1:]}}
    more = [*named, {"type": "function", "function": {"name": "c"}}]
    assert chat.withhold_tools({"tools": more, "tool_choice": choice}, {"a", "b"}) == {
        "tools": more[2:],
        "tool_choice": "none",
    }
