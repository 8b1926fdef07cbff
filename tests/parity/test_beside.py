"""What stands beside the conversation: in one item in front, with pointers, and never a turn."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Item, Media, Role, Step, Text
from gateway.rules.lineage import Lineage
from gateway.surfaces import chat, completions, messages, responses
from gateway.surfaces.beside import is_word

Json = dict[str, Any]
USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"type": {"type": "string", "description": "which kind"}}}


def shown(step: Step) -> dict[tuple[str | int, ...], str]:
    """The texts of the item in front, by pointer."""
    assert [item.aside for item in step.items].count(True) == 1
    assert (step.items[0].aside, step.items[0].role) == (True, Role.USER)
    assert step.items[0].calls == ()
    return {text.pointer: text.text for text in step.items[0].texts}


def read_chat(*turns: Json, **more: Any) -> Step:
    return chat.parse(orjson.dumps({"model": "m", "messages": [*turns], **more}))


def read_responses(**more: Any) -> Step:
    return responses.parse(orjson.dumps({"model": "m", "input": "hi", **more}))


def read_messages(**more: Any) -> Step:
    return messages.parse(orjson.dumps({"model": "m", "max_tokens": 9, "messages": [USER], **more}))


def test_a_plain_request_has_nothing_in_front() -> None:
    tool = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
    turns = (
        {"role": "system", "content": "s"},
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    )
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "n": 1, "seed": 1}
    step = read_chat(*turns, tools=[{"type": "function", "function": tool}], max_tokens=5, **options)
    assert [item.role.value for item in step.items] == ["system", "user", "assistant", "tool"]
    step = read_responses(tools=[{"type": "function", **tool}], reasoning={"effort": "low"}, store=False)
    assert step.items == (Item(Role.USER, (Text("hi", ("input",)),)),)
    step = read_messages(
        tools=[{"name": "f", "input_schema": SCHEMA}], thinking={"type": "disabled"}, top_k=4
    )
    assert step.items == (Item(Role.USER, (Text("hi", ("messages", 0, "content")),)),)


def test_chat_shows_settings_names_and_grammars() -> None:
    step = read_chat(
        {**USER, "name": "Ann"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm", "annotations": [], "audio": None},
        stop=["END", ""],
        user="ann@example.org",
        metadata={"team": "red", "n": 1},
        prediction={"type": "content", "content": [{"type": "text", "text": "as before"}]},
        response_format={"type": "json_schema", "json_schema": {"name": "kinds", "schema": SCHEMA}},
        web_search_options={"user_location": {"type": "approximate", "approximate": {"city": "Rome"}}},
        documents=[{"title": "A page", "text": "of it"}],
        safety_identifier="5f2a",
        tools=[
            {
                "type": "custom",
                "custom": {
                    "name": "g",
                    "format": {
                        "type": "grammar",
                        "grammar": {"syntax": "lark", "definition": "start: WORD"},
                    },
                },
            },
            {"type": "function", "function": {"name": "f", "parameters": "no schema"}, "custom": {"x": "y"}},
        ],
    )
    assert shown(step) == {
        ("stop", 0): "END",
        ("user",): "ann@example.org",
        ("metadata", "team"): "red",
        ("prediction", "content", 0, "text"): "as before",
        ("response_format", "json_schema", "name"): "kinds",
        ("response_format", "json_schema", "schema", "properties", "type", "description"): "which kind",
        ("web_search_options", "user_location", "approximate", "city"): "Rome",
        ("documents", 0, "title"): "A page",
        ("documents", 0, "text"): "of it",
        ("messages", 0, "name"): "Ann",
        ("messages", 1, "reasoning_content"): "hm",
        ("tools", 0, "custom", "format", "grammar", "syntax"): "lark",
        ("tools", 0, "custom", "format", "grammar", "definition"): "start: WORD",
        ("tools", 1, "function", "parameters"): "no schema",
        ("tools", 1, "custom", "x"): "y",
    }
    assert [tool.name for tool in step.tools] == ["g", "f", "web_search"]


def test_what_clients_add_to_an_answer_leaves_the_conversation_as_it_was() -> None:
    def nodes(**more: Any) -> tuple[str, ...]:
        step = read_chat(USER, {"role": "assistant", "content": "a", **more})
        return Lineage(b"k").chain("p", step.items).nodes

    spoken = {"id": "audio_0123456789", "expires_at": 1, "transcript": "a"}
    added: list[Json] = [{"name": "n"}, {"reasoning_content": "hm"}, {"audio": spoken}, {"annotations": []}]
    for more in added:
        assert nodes(**more) == nodes()
    (item, *_) = read_chat(USER, {"role": "assistant", "audio": spoken}).items
    assert [(m.kind, m.size, m.detail) for m in item.media] == [("other", 16, "opaque")]
    assert item.texts == (Text("a", ("messages", 1, "audio", "transcript")),)


def test_the_name_of_a_file_is_a_text_of_who_sends_it() -> None:
    part = {"type": "file", "file": {"file_id": "file-1", "filename": "obey.pdf"}}
    (item,) = read_chat({"role": "user", "content": [part]}).items
    assert item.texts == (Text("obey.pdf", ("messages", 0, "content", 0, "file", "filename")),)
    assert [media.kind for media in item.media] == ["file"]


def test_responses_shows_settings_and_what_tools_say_besides_their_definition() -> None:
    mask = "data:image/png;base64,AAAA"
    step = read_responses(
        metadata={"team": "red"},
        text={"format": {"type": "json_schema", "name": "kinds", "schema": {"title": "Kinds"}}},
        extra_context="a page",
        tools=[
            {"type": "function", "name": "f", "parameters": None, "output_schema": {"name": "told", "type": "x y"}},
            {"type": "custom", "name": "g", "format": {"type": "grammar", "definition": "start: WORD"}},
            {"type": "web_search", "user_location": {"city": "Rome"}},
            {"type": "mcp", "server_label": "w", "server_url": "https://w.example", "authorization": "t",
             "headers": {"x": "t"}, "allowed_tools": ["ask"]},
            {"type": "image_generation", "model": "m", "input_image_mask": {"image_url": mask}},
            {"type": "shell", "environment": {"type": "container_auto", "skills": [
                {"type": "inline", "name": "n", "description": "does it", "source": {"type": "base64", "data": "UEsDBA"}}]}},
            {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "get", "parameters": "odd"}]},
        ],
    )  # fmt: skip
    assert shown(step) == {
        ("tools", 0, "output_schema", "name"): "told",
        ("tools", 0, "output_schema", "type"): "x y",
        ("tools", 1, "format", "definition"): "start: WORD",
        ("tools", 2, "user_location", "city"): "Rome",
        ("tools", 5, "environment", "skills", 0, "description"): "does it",
        ("tools", 6, "tools", 0, "parameters"): "odd",
        ("metadata", "team"): "red",
        ("text", "format", "name"): "kinds",
        ("text", "format", "schema", "title"): "Kinds",
        ("extra_context",): "a page",
    }
    assert [(m.kind, m.size) for m in step.items[0].media] == [("image", len(mask)), ("other", 6)]
    assert step.text_bytes == len(step.raw) - len(mask) - 6


def test_responses_shows_what_calls_and_results_say_besides() -> None:
    given = [
        {"type": "computer_call", "id": "cu_1", "call_id": "call_u", "status": "completed", "action": {"type": "wait"},
         "actions": [{"type": "type", "text": "psst"}],
         "pending_safety_checks": [{"id": "sc_1", "code": "malicious", "message": "Looks odd."}]},
        {"type": "computer_call_output", "call_id": "call_u", "output": {"type": "computer_screenshot"},
         "acknowledged_safety_checks": [{"id": "sc_1", "message": "It is fine."}]},
        {"type": "function_call", "call_id": "call_f", "name": "f", "arguments": "{}", "namespace": "crm"},
        {"type": "file_search_call", "id": "fs", "queries": [], "results": [{"attributes": {"name": "whose", "type": "an odd kind"}}]},
    ]  # fmt: skip
    step = read_responses(input=given)
    asides = {t.pointer: t.text for item in step.items if item.aside for t in item.texts}
    assert asides == {
        ("input", 0, "actions", 0, "text"): "psst",
        ("input", 0, "pending_safety_checks", 0, "code"): "malicious",
        ("input", 0, "pending_safety_checks", 0, "message"): "Looks odd.",
        ("input", 1, "acknowledged_safety_checks", 0, "message"): "It is fine.",
        ("input", 3, "results", 0, "attributes", "name"): "whose",
        ("input", 3, "results", 0, "attributes", "type"): "an odd kind",
    }
    turns = [(item.role.value, [call.name for call in item.calls]) for item in step.items if not item.aside]
    assert turns == [("assistant", ["computer"]), ("tool", []), ("assistant", ["f"])]


def test_messages_shows_settings_and_what_tools_say_besides_their_definition() -> None:
    step = read_messages(
        metadata={"user_id": "ann@example.org"},
        stop_sequences=["END"],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"title": "Kinds"}}},
        context_management={"edits": [{"type": "compact_20260112", "instructions": "Keep the names."}]},
        mcp_servers=[{"type": "url", "name": "wiki", "url": "https://w.example", "authorization_token": "t"}],
        fallbacks=[{"model": "n"}],
        tools=[{"name": "f", "input_schema": SCHEMA, "input_examples": [{"type": "a b", "q": "rain"}]}],
    )
    assert shown(step) == {
        ("tools", 0, "input_examples", 0, "type"): "a b",
        ("tools", 0, "input_examples", 0, "q"): "rain",
        ("metadata", "user_id"): "ann@example.org",
        ("stop_sequences", 0): "END",
        ("output_config", "format", "schema", "title"): "Kinds",
        ("context_management", "edits", 0, "instructions"): "Keep the names.",
        ("mcp_servers", 0, "name"): "wiki",
        ("mcp_servers", 0, "url"): "https://w.example",
    }


def test_completions_shows_where_to_stop_and_for_whom() -> None:
    body = {"model": "m", "prompt": ["a", "b"], "suffix": "z", "stop": "END", "user": "ann", "n": 2}
    step = completions.parse(orjson.dumps(body))
    assert shown(step) == {("stop",): "END", ("user",): "ann"}
    assert [item.texts[0].text for item in step.items[1:]] == ["a", "b", "z"]
    assert (step.choices, step.text_bytes) == (4, 3)


@pytest.mark.parametrize(
    ("text", "word"),
    [("object", True), ("web_search_20250305", True), ("a" * 32, True), ("a" * 33, False), ("", False), ("do it", False)],
)  # fmt: skip
def test_only_a_word_passes_for_a_type(text: str, word: bool) -> None:
    assert is_word(text) is word


@pytest.mark.parametrize("value", [None, 5, True, [], {}, [None, {}, [1.5]], ""])
def test_odd_settings_are_no_texts(value: Any) -> None:
    assert read_chat(USER, stop=value, odd=value).items == (
        Item(Role.USER, (Text("hi", ("messages", 0, "content")),)),
    )
    assert read_responses(metadata=value, tools=[{"type": "shell", "environment": value}]).items[-1].texts
    assert read_messages(metadata=value, tools=[{"name": "f", "input_examples": value}]).items[-1].texts
    odd = read_chat({**USER, "audio": {"id": value}}).items[0]
    assert odd == Item(Role.USER, media=(Media("other", odd.media[0].digest, 0, "opaque"),), aside=True)
