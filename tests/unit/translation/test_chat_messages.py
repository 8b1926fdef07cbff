"""Chat clients on a provider of the Messages API: requests, refusals by name, answers, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.domain import Surface
from gateway.errors import CallerError
from gateway.translation import OutputLimit, between
from tests.unit.translation.streams import (
    block,
    messages_stream,
    read,
    started,
    stopped,
    text_block,
    through,
    use_block,
)

Json = dict[str, Any]

_TRANSLATION = between(Surface.CHAT, Surface.MESSAGES)
assert _TRANSLATION is not None
T = _TRANSLATION

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
FUNCTION: Json = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
TOOL: Json = {"name": "f", "input_schema": {"type": "object", "properties": {}}}


def request(*messages: Json, **fields: Any) -> Json:
    """The translated body of some messages, a user's word if there are none."""
    return T.request({"model": "m", "messages": list(messages) or [user("hi")], **fields})


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def calls(*ids: str, content: str | None = None) -> Json:
    function = {"name": "f", "arguments": '{"n": 1}'}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": i, "type": "function", "function": function} for i in ids],
    }


def result(call_id: str, content: Any = "ok") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def use(call_id: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {"n": 1}}


def refused(**fields: Any) -> CallerError:
    with pytest.raises(CallerError) as error:
        request(**fields)
    assert error.value.code == "invalid_request"
    assert error.value.param is not None
    assert f"'{error.value.param}'" in error.value.message
    return error.value


# -- requests ---------------------------------------------------------------------------------------------


def test_a_plain_question_gets_the_limit_that_the_api_demands() -> None:
    assert request() == {"model": "m", "max_tokens": 8192, "messages": [user("hi")]}
    assert T.request({"model": "m", "messages": [user("hi")]}, OutputLimit(tokens=77))["max_tokens"] == 77


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_the_callers_limit_is_kept(limits: Json, expected: int) -> None:
    assert request(**limits)["max_tokens"] == expected


def test_system_messages_are_hoisted_in_order_wherever_they_stand() -> None:
    out = request(
        {"role": "system", "content": "a"},
        user("hi"),
        {
            "role": "developer",
            "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}],
        },
        user("there"),
        {"role": "system", "content": " "},
    )
    assert out["system"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
    ]
    assert out["messages"] == [user("hi"), user("there")]


def test_results_in_a_row_and_the_users_words_after_them_are_one_message() -> None:
    out = request(
        user("hi"),
        calls("toolu_1", "toolu_2", content="I look."),
        result("toolu_1", ""),
        {"role": "system", "content": "s"},
        result(
            "toolu_2", [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {"url": PNG}}]
        ),
        user("go on"),
        user("quickly"),
        tools=[FUNCTION],
    )
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    assert out["messages"] == [
        user("hi"),
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I look."}, use("toolu_1"), use("toolu_2")],
        },
        user(
            [
                {"type": "tool_result", "tool_use_id": "toolu_1"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [{"type": "text", "text": "two"}, image],
                },
                {"type": "text", "text": "go on"},
            ]
        ),
        user("quickly"),
    ]


def test_ids_of_another_provider_and_ids_used_again_still_pair() -> None:
    out = request(
        user("hi"),
        calls("functions.f:0"),
        result("functions.f:0"),
        calls("functions.f:0"),
        result("functions.f:0"),
    )
    sent = [m["content"][0]["id"] for m in out["messages"] if m["role"] == "assistant"]
    answered = [m["content"][0]["tool_use_id"] for m in out["messages"][1:] if m["role"] == "user"]
    assert sent == answered
    assert len(set(sent)) == 2


def test_a_history_with_calls_and_no_tools_defines_them_uncallable() -> None:
    out = request(user("hi"), calls("a"), result("a"), tool_choice="none")
    assert out["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert out["tool_choice"] == {"type": "none"}


def test_blank_texts_say_nothing_and_are_left_out() -> None:
    out = request(
        user(""),
        user([{"type": "text", "text": " "}, {"type": "text", "text": "x"}]),
        {"role": "assistant", "content": "\n"},
        {"role": "assistant", "content": "", "tool_calls": [calls("a")["tool_calls"][0]]},
        result("a", "  "),
        user("\t"),
    )
    assert out["messages"] == [
        user([{"type": "text", "text": "x"}]),
        {"role": "assistant", "content": [use("a")]},
        user([{"type": "tool_result", "tool_use_id": "a"}]),
    ]


def test_what_clients_echo_of_an_answer_is_taken() -> None:
    echoed: Json = {
        "role": "assistant", "content": "yes", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None, "reasoning_content": "thoughts", "reasoning": "thoughts",
    }  # fmt: skip
    assert request(user("hi"), echoed, user("so?"))["messages"][1] == {"role": "assistant", "content": "yes"}


def test_refusals_are_what_the_assistant_said() -> None:
    out = request(
        user("hi"),
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        user("please"),
        {"role": "assistant", "content": None, "refusal": "No!"},
        user("oh"),
    )
    assert [m["content"] for m in out["messages"] if m["role"] == "assistant"] == ["No.", "No!"]


def test_pictures_and_documents_become_sources() -> None:
    out = request(
        user(
            [
                {"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}},
                {
                    "type": "image_url",
                    "image_url": {"url": "https://x/y.png"},
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,w6Q="}},
                {"type": "file", "file": {"file_data": "https://x/y.pdf"}},
            ]
        )
    )
    assert out["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}, "cache_control": {"type": "ephemeral"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}, "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
    ]  # fmt: skip


def test_tools_are_carried_with_their_guarantees() -> None:
    tools: list[Json] = [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "strict": True, "parameters": {"properties": {}}},
        },
        {
            "type": "function",
            "function": {"name": "g", "strict": False},
            "cache_control": {"type": "ephemeral"},
        },
    ]
    assert request(tools=tools)["tools"] == [
        {
            "name": "f",
            "description": "d",
            "input_schema": {"type": "object", "properties": {}},
            "strict": True,
        },
        {"name": "g", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
    ],
)
def test_tool_choice(choice: Any, parallel: bool | None, expected: Json | None) -> None:
    out = request(tools=[FUNCTION], tool_choice=choice, parallel_tool_calls=parallel)
    assert out.get("tool_choice") == expected
    assert out["tools"] == [TOOL]


def test_a_choice_among_no_tools_is_left_out_unless_it_demands_one() -> None:
    assert "tool_choice" not in request(tool_choice="auto", parallel_tool_calls=False)
    assert refused(tool_choice="required").param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "\ny"]}, {"stop_sequences": ["x", "\ny"]}),
        ({"stop": []}, {}),
        ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3, "top_p": 0.5}),
        ({"temperature": 1, "top_p": 1.0}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}, {"stream": True}),
        ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"service_tier": "auto"}, {}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"user": "u-1", "safety_identifier": "s-1"}, {"metadata": {"user_id": "s-1"}}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "description": "d", "strict": True}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "description": "d"}}}},
        ),
    ],
)  # fmt: skip
def test_what_both_apis_have_is_carried(fields: Json, expected: Json) -> None:
    assert request(**fields) == {"model": "m", "max_tokens": 8192, "messages": [user("hi")], **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1}, {"logprobs": False}, {"top_logprobs": 0}, {"frequency_penalty": 0.0}, {"presence_penalty": 0},
        {"logit_bias": {}}, {"store": False}, {"modalities": ["text"]}, {"verbosity": "medium"}, {"seed": None},
        {"audio": None}, {"unknown": None}, {"metadata": {"a": "b"}}, {"prompt_cache_key": "k"},
        {"prompt_cache_retention": "24h"}, {"functions": []}, {"tools": []},
    ],
)  # fmt: skip
def test_what_means_nothing_here_is_left_out(fields: Json) -> None:
    assert request(**fields) == {"model": "m", "max_tokens": 8192, "messages": [user("hi")]}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2}, {"logprobs": True}, {"top_logprobs": 3}, {"frequency_penalty": 0.1}, {"presence_penalty": -1},
        {"logit_bias": {"1": 5}}, {"store": True}, {"modalities": ["text", "audio"]}, {"audio": {}}, {"seed": 1},
        {"verbosity": "low"}, {"web_search_options": {}}, {"prediction": {}}, {"moderation": {}}, {"functions": [{}]},
        {"function_call": "auto"}, {"reasoning_effort": "minimal"}, {"service_tier": "flex"}, {"reasoning": {}},
        {"top_k": 3}, {"whatever": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused_by_name(fields: Json) -> None:
    error = refused(**fields)
    assert error.param == next(iter(fields))
    assert error.message.endswith("cannot be carried to a provider that speaks the Messages API.")


def test_the_refusal_reads_well() -> None:
    assert refused(logprobs=True).message == (
        "'logprobs' cannot be carried to a provider that speaks the Messages API."
    )


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {}}, "messages[0].content[0].type"),
        ({"type": "video_url"}, "messages[0].content[0].type"),
        ({"type": "refusal", "refusal": "x"}, "messages[0].content[0].type"),
        ({"type": "text", "text": "x", "extra": 1}, "messages[0].content[0].extra"),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}, "messages[0].content[0].image_url.detail"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "messages[0].content[0].file.file_id"),
        ({"type": "file", "file": {"file_data": "data:audio/mp3;base64,AA=="}}, "messages[0].content[0].file.file_data"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_carried_are_refused_by_name(part: Json, param: str) -> None:
    assert refused(messages=[user([part])]).param == param


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": "x", "name": "bob"}], "messages[0].name"),
        ([{"role": "system", "content": "x", "name": "bob"}], "messages[0].name"),
        ([user("x"), calls("a"), {**result("a"), "more": 1}], "messages[2].more"),
        ([{"role": "function", "content": "x", "name": "f"}], "messages[0].role"),
        ([user("x"), {"role": "assistant", "content": "y"}], "messages"),
        ([{"role": "system", "content": "only"}], "messages"),
        ([], "messages"),
        ([user("x"), {"role": "assistant", "audio": {"id": "a"}}], "messages[1].audio"),
        ([user("x"), {"role": "assistant", "function_call": {"name": "f"}}], "messages[1].function_call"),
        (
            [user("x"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "n", "more": 1}]}],
            "messages[1].content[0].more",
        ),
        (
            [user("x"), {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {}}]}],
            "messages[1].tool_calls[0].type",
        ),
    ],
)
def test_messages_that_cannot_be_carried_are_refused_by_name(messages: list[Json], param: str) -> None:
    error = refused(messages=messages)
    assert error.param == param
    assert "cannot be carried" in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**FUNCTION, "more": 1}]}, "tools[0].more"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.type",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"response_format": {"type": "text", "more": 1}}, "response_format.more"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "more": 1}}},
            "response_format.json_schema.more",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f", "more": 1}}]}, "tools[0].function.more"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}, "more": 1}},
            "tool_choice.more",
        ),
        ({"stop": ["x", "\n"]}, "stop[1]"),
        ({"stop": " "}, "stop"),
        ({"stream_options": {"other": True}}, "stream_options.other"),
    ],
)
def test_inner_fields_that_cannot_be_carried_are_refused_by_name(fields: Json, param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": "hi"}, "'messages': got str, expected a list."),
        ({"messages": [1]}, "'messages[0]': got 1, expected an object."),
        ({"messages": [{"role": 5}]}, "'messages[0].role': got 5, expected a role."),
        ({"messages": [user(5)]}, "'messages[0].content': got 5, expected a string or a list of parts."),
        ({"messages": [user([5])]}, "'messages[0].content[0]': got 5, expected an object."),
        ({"messages": [user([{}])]}, "'messages[0].content[0].type': got None, expected the type of a part."),
        ({"messages": [user([{"type": "text"}])]}, "'messages[0].content[0].text': got None, expected a string."),
        ({"messages": [user("x"), result("a", 5)]}, "'messages[1].content': got 5, expected a string or a list of parts."),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].tool_call_id': got None, expected a string."),
        ({"messages": [user("x"), {"role": "assistant", "tool_calls": {}}]}, "'messages[1].tool_calls': got dict, expected a list."),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 5, "function": {"name": "f"}}]}]}, "'messages[0].tool_calls[0].id': got 5, expected a string."),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "'messages[0].tool_calls[0].function': got None, expected an object."),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}]}, "'messages[0].tool_calls[0].function.arguments': got dict, expected a string."),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "ftp://x"}}])]}, "'messages[0].content[0].image_url.url': got str, expected an http(s) URL or a base64 data URL."),
        ({"messages": [user([{"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}])]}, "'messages[0].content[0].file.file_data': got str, expected base64 of UTF-8 text."),
        ({"model": None}, "'model': got None, expected a string."),
        ({"max_tokens": 0}, "'max_tokens': got 0, expected a whole number of at least 1."),
        ({"max_tokens": True}, "'max_tokens': got True, expected a whole number of at least 1."),
        ({"temperature": 1.5}, "'temperature': got 1.5, expected between 0 and 1 for a provider that speaks the Messages API."),
        ({"temperature": "hot"}, "'temperature': got str, expected a number."),
        ({"top_p": True}, "'top_p': got True, expected a number."),
        ({"stop": [5]}, "'stop[0]': got 5, expected a string."),
        ({"stream": "yes"}, "'stream': got str, expected true or false."),
        ({"stream_options": []}, "'stream_options': got list, expected an object."),
        ({"tools": {}}, "'tools': got dict, expected a list."),
        ({"tools": [{"type": "function"}]}, "'tools[0].function': got None, expected an object."),
        ({"tools": [{"type": "function", "function": {}}]}, "'tools[0].function.name': got None, expected a string."),
        ({"tools": [FUNCTION], "tool_choice": "any"}, "'tool_choice': got str, expected one of \"auto\", \"none\", \"required\"."),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "'tool_choice.function': got None, expected an object."),
        ({"parallel_tool_calls": 0}, "'parallel_tool_calls': got 0, expected true or false."),
        ({"response_format": "json"}, "'response_format': got str, expected an object."),
        ({"response_format": {"type": "json_schema"}}, "'response_format.json_schema': got None, expected an object."),
        ({"user": 7}, "'user': got 7, expected a string."),
    ],
)  # fmt: skip
def test_wrong_types_are_told_with_what_was_expected(fields: Json, message: str) -> None:
    with pytest.raises(CallerError) as error:
        T.request({"model": "m", "messages": [user("hi")], **fields})
    assert error.value.message == message


def test_a_hostile_name_is_cut() -> None:
    error = refused(**{"x" * 5000: 1})
    assert len(error.message) < 200


@pytest.mark.parametrize("name", ["bob@example.com", "+1 555 0100", "5550100", "x" * 300])
def test_users_that_the_api_would_refuse_are_named_by_a_digest(name: str) -> None:
    sent = request(user=name)["metadata"]["user_id"]
    assert len(sent) == 64
    assert name not in sent
    assert sent == request(user=name)["metadata"]["user_id"]


def test_the_clients_body_is_not_changed() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, user("hi"), calls("a"), result("a"), user("go")],
        "tools": [FUNCTION],
        "stop": ["x"],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}, "description": "d"}},
    }
    before = json.dumps(body)
    T.request(body)
    assert json.dumps(body) == before


# -- answers ----------------------------------------------------------------------------------------------


def reply(*content: Json, stop: str | None = "end_turn", **fields: Any) -> Json:
    usage = {
        "input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 20, "output_tokens_details": {"thinking_tokens": 6}, "service_tier": "priority",
    }  # fmt: skip
    return {
        "id": "msg_01", "type": "message", "role": "assistant", "model": "claude", "content": list(content),
        "stop_reason": stop, "stop_sequence": None, "usage": usage, **fields,
    }  # fmt: skip


def test_an_answer_is_a_whole_chat_completion() -> None:
    out = T.answer(
        reply(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I "},
            {"type": "text", "text": "look."},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"ä": 1}},
            {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
            stop="tool_use",
        ),
        {"model": "alias"},
        created=5,
    )
    assert out == {
        "id": "msg_01",
        "object": "chat.completion",
        "created": 5,
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": "I look.",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"ä":1}'},
                        },
                        {"id": "toolu_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                    ],
                },
            }
        ],
        "usage": {
            "prompt_tokens": 22,
            "completion_tokens": 20,
            "total_tokens": 42,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 7, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 0},
        },
        "service_tier": "priority",
    }
    ChatCompletion.model_validate(out, strict=True)


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"),
        ("model_context_window_exceeded", "length"), ("pause_turn", "length"), (None, "stop"), ("new", "stop"),
    ],
)  # fmt: skip
def test_stop_reasons(stop: str | None, finish: str) -> None:
    out = T.answer(reply({"type": "text", "text": "x"}, stop=stop), {})
    assert out["choices"][0]["finish_reason"] == finish


def test_calls_without_words_have_no_content_and_always_end_in_tool_calls() -> None:
    out = T.answer(reply({"type": "tool_use", "id": "a", "name": "f", "input": {}}), {})
    assert out["choices"][0]["message"]["content"] is None
    assert out["choices"][0]["finish_reason"] == "tool_calls"


def test_an_explained_refusal_is_the_clients_refusal() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Because."}
    out = T.answer(reply(stop="refusal", stop_details=details), {})
    assert out["choices"][0]["message"]["refusal"] == "Because."
    assert out["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"content": None}, {"content": "text"}, {"content": [1, None, {"type": 5}, {"type": "text"}]},
        {"content": [{"type": "tool_use"}]}, {"usage": []}, {"usage": {"input_tokens": -1}}, {"stop_reason": {}},
        {"id": 5, "model": None}, {"stop_details": 7, "stop_reason": "refusal"}, {"usage": {"service_tier": []}},
    ],
)  # fmt: skip
def test_an_odd_reply_is_still_a_chat_completion(odd: Json) -> None:
    ChatCompletion.model_validate(T.answer(odd, {"model": "m"}, created=5))


def test_what_a_hosted_tool_did_is_not_told_as_a_call() -> None:
    hosted = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    message = T.answer(reply(hosted, {"type": "text", "text": "x"}), {})["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "x", "refusal": None}


def test_answers_without_an_id_get_one_of_their_own() -> None:
    first, second = T.answer({}, {"model": "m"}), T.answer({}, {"model": "n"})
    assert first["id"].startswith("chatcmpl-")
    assert first["id"] != second["id"]


def test_an_error_told_with_200_stays_an_error() -> None:
    told = {"type": "error", "error": {"type": "api_error", "message": "Oops"}}
    assert T.answer(told, {}) == {
        "error": {"message": "Oops", "type": "api_error", "code": "api_error", "param": None}
    }


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"},"request_id":"r"}',
            {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_error", "param": None},
        ),
        (b"<html>", {"message": "<html>", "type": "api_error", "code": None, "param": None}),
        (b"", {"message": "The provider gave no reason.", "type": "api_error", "code": None, "param": None}),
        (b'"no"', {"message": "no", "type": "api_error", "code": None, "param": None}),
        (b"[]", {"message": "The provider reported an error without saying which.", "type": "api_error", "code": None, "param": None}),
        (b'{"error":{"detail":[1]}}', {"message": '{"detail":[1]}', "type": "api_error", "code": None, "param": None}),
    ],
)  # fmt: skip
def test_error_bodies(body: bytes, expected: Json) -> None:
    assert json.loads(T.error(429, body)) == {"error": expected}


# -- streams ----------------------------------------------------------------------------------------------

WHOLE = messages_stream(
    started(cache_read_input_tokens=5),
    {"type": "ping"},
    *block(0, {"type": "thinking", "thinking": "", "signature": ""},
           {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s"}),
    *text_block(1, "I ", "lök.", ""),
    *use_block(2, "toolu_1", "f", "", '{"n":', "1}"),
    *use_block(3, "toolu_2", "g"),
    *stopped("tool_use"),
)  # fmt: skip


def deltas(events: list[Json]) -> list[Json]:
    return [event["choices"][0]["delta"] for event in events if event.get("choices")]


def test_a_stream_is_told_chunk_by_chunk() -> None:
    events = through(T.stream({"model": "alias"}, created=5), WHOLE)
    assert deltas(events) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "hm"},
        {"content": "I "},
        {"content": "lök."},
        {
            "tool_calls": [
                {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"n":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "toolu_2", "type": "function", "function": {"name": "g", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 9 + ["tool_calls"]
    assert events[-1] == {}
    assert all("usage" not in event for event in events)
    for event in events[:-1]:
        assert (event["id"], event["model"], event["created"]) == ("msg_01", "claude", 5)
        ChatCompletionChunk.model_validate(event, strict=True)


def test_usage_is_told_last_and_only_to_who_asked() -> None:
    events = through(T.stream({"stream_options": {"include_usage": True}}), WHOLE)
    assert all(event["usage"] is None for event in events[:-2])
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_a_stream_reads_the_same_however_it_is_split(step: int) -> None:
    assert through(T.stream({}), WHOLE, step) == through(T.stream({}), WHOLE)


def test_pings_and_comments_keep_the_connection_open() -> None:
    stream = T.stream({})
    assert stream.feed(messages_stream({"type": "ping"})) == b": ping\n\n"
    assert stream.feed(b": waiting\n\n") == b": waiting\n\n"


def test_an_error_event_ends_the_stream_as_chat_clients_know_it() -> None:
    stream = T.stream({"stream_options": {"include_usage": True}})
    stream.feed(messages_stream(started(), *text_block(0, "Hel")))
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    told = read(stream.feed(messages_stream(error, *stopped("end_turn"), error)))
    assert told == [
        {
            "error": {
                "message": "Overloaded",
                "type": "overloaded_error",
                "code": "overloaded_error",
                "param": None,
            }
        }
    ]
    assert stream.end() == b"data: [DONE]\n\n"
    assert stream.end() == b""


def test_an_error_without_a_type_is_one_too() -> None:
    told = through(T.stream({}), b'data: {"error":{"message":"Oops"}}\n\n')
    assert told == [{"error": {"message": "Oops", "type": "api_error", "code": None, "param": None}}, {}]


def test_a_stream_that_breaks_off_ends_in_an_error_and_not_in_success() -> None:
    events = through(T.stream({}), messages_stream(started(), *use_block(0, "a", "f", '{"n":')))
    assert events[-1] == {}
    assert events[-2]["error"]["message"] == "The provider ended its stream before the answer."
    assert all(event["choices"][0]["finish_reason"] is None for event in events[:-2])
    assert through(T.stream({}), b"")[0]["error"]


def test_a_refusal_in_the_stream_is_told_before_its_finish() -> None:
    delta = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": "Because."}}
    events = through(
        T.stream({}), messages_stream(started(), {"type": "message_delta", "delta": delta, "usage": {}})
    )
    assert deltas(events)[1:] == [{"refusal": "Because."}, {}]
    assert events[-2]["choices"][0]["finish_reason"] == "content_filter"


def test_input_that_comes_with_the_start_of_its_block_is_told() -> None:
    start = {"type": "tool_use", "id": "a", "name": "f", "input": {"n": 1}}
    events = through(T.stream({}), messages_stream(started(), *block(0, start), *stopped("tool_use")))
    assert deltas(events)[2] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"n":1}'}}]}


@pytest.mark.parametrize(
    "extra",
    [
        b"data: {\n\n", b"data: []\n\n", b"data: 5\n\n", b"event: x\n\n", b'data: {"type":"new_event"}\n\n', b"data: {}\n\n", b"\n\n",
        messages_stream(started()), messages_stream({"type": "content_block_delta"}),
        messages_stream({"type": "content_block_delta", "index": [], "delta": {"type": "input_json_delta"}}),
        messages_stream({"type": "content_block_start", "index": {}, "content_block": 5}),
        messages_stream({"type": "content_block_stop", "index": 99}),
        messages_stream({"type": "content_block_start", "index": 9, "content_block": {"type": "server_tool_use", "id": "s"}}),
        messages_stream({"type": "message_delta", "delta": None, "usage": []}),
    ],
)  # fmt: skip
def test_odd_and_repeated_events_change_nothing(extra: bytes) -> None:
    head, tail = (
        WHOLE[: WHOLE.index(b"event: content_block_start")],
        WHOLE[WHOLE.index(b"event: content_block_start") :],
    )
    assert through(T.stream({}), head + extra + tail) == through(T.stream({}), WHOLE)


def test_words_that_come_with_the_start_of_their_block_are_told_once() -> None:
    parts = [
        started(),
        *block(0, {"type": "thinking", "thinking": "hm"}),
        *block(1, {"type": "text", "text": "a"}),
        *block(2, {"type": "server_tool_use", "id": "s", "text": "no", "thinking": "no"}),
        *stopped("end_turn"),
    ]
    assert deltas(through(T.stream({}), messages_stream(*parts)))[1:-1] == [
        {"reasoning_content": "hm"},
        {"content": "a"},
    ]


def test_a_block_closed_twice_gets_its_arguments_once() -> None:
    twice = [*use_block(0, "a", "f"), {"type": "content_block_stop", "index": 0}]
    events = through(T.stream({}), messages_stream(started(), *twice, *stopped("tool_use")))
    assert [d["tool_calls"][0]["function"].get("arguments") for d in deltas(events) if "tool_calls" in d] == [
        "",
        "{}",
    ]


def test_a_call_whose_start_comes_twice_is_one_call() -> None:
    start, *rest = use_block(0, "a", "f", "{}")
    events = through(T.stream({}), messages_stream(started(), start, start, *rest, *stopped("tool_use")))
    assert [d["tool_calls"][0]["index"] for d in deltas(events) if "tool_calls" in d] == [0, 0]
    other = use_block(0, "b", "f", "{}")
    events = through(T.stream({}), messages_stream(started(), start, *rest, *other, *stopped("tool_use")))
    assert [d["tool_calls"][0]["index"] for d in deltas(events) if "tool_calls" in d] == [0, 0, 1, 1]


def test_an_event_without_an_index_is_of_the_first_block() -> None:
    events = [
        e if e["type"] != "content_block_delta" else {**e, "index": None}
        for e in use_block(0, "a", "f", "{}")
    ]
    told = through(T.stream({}), messages_stream(started(), *events, *stopped("tool_use")))
    assert deltas(told)[2] == {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}


def test_events_after_the_finish_are_not_told() -> None:
    late = messages_stream(*text_block(7, "late"), *stopped("end_turn"))
    assert through(T.stream({}), WHOLE + late) == through(T.stream({}), WHOLE)


def test_a_stream_without_its_start_still_begins_with_the_role() -> None:
    events = through(T.stream({"model": "m"}), messages_stream(*text_block(0, "x"), *stopped("end_turn")))
    assert deltas(events)[:2] == [{"role": "assistant", "content": "", "refusal": None}, {"content": "x"}]
    assert events[0]["id"].startswith("chatcmpl-")
    assert events[0]["model"] == "m"
