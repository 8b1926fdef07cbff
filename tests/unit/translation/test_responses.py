"""Responses clients on providers of chat and of the Messages API: requests, refusals, answers, event streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.domain import Surface
from gateway.errors import CallerError
from gateway.translation import OutputLimit, between
from tests.unit.translation.streams import (
    block,
    call_delta,
    chat_stream,
    chunk,
    messages_stream,
    read,
    started,
    stopped,
    text_block,
    through,
    use_block,
)

Json = dict[str, Any]

_BY_CHAT, _BY_MESSAGES = (
    between(Surface.RESPONSES, Surface.CHAT),
    between(Surface.RESPONSES, Surface.MESSAGES),
)
assert _BY_CHAT is not None
assert _BY_MESSAGES is not None
CHAT, MESSAGES = _BY_CHAT, _BY_MESSAGES
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

FUNCTION: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}
CHAT_FUNCTION: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PNG = "data:image/png;base64,AA=="
PDF = "data:application/pdf;base64,AA=="


def request(given: Any = "hi", **fields: Any) -> Json:
    return CHAT.request({"model": "m", "input": given, **fields})


def refused(by: Any, given: Any = "hi", **fields: Any) -> CallerError:
    with pytest.raises(CallerError) as error:
        by.request({"model": "m", "input": given, **fields})
    assert error.value.code == "invalid_request"
    assert f"'{error.value.param}'" in error.value.message
    return error.value


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def called(call_id: str, **fields: Any) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": '{"n":1}', **fields}


def output(call_id: str, told: Any = "ok") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": told}


def chat_call(call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}


PLAIN = {"model": "m", "messages": [user("hi")]}


# -- requests to chat -------------------------------------------------------------------------------------


def test_a_plain_question() -> None:
    assert request() == PLAIN
    assert request(max_output_tokens=5) == {**PLAIN, "max_completion_tokens": 5}
    body = {"model": "m", "input": "hi", "max_output_tokens": 5}
    assert CHAT.request(body, OutputLimit(field="max_tokens")) == {**PLAIN, "max_tokens": 5}


def test_items_become_messages_in_order() -> None:
    given = [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}], "status": "completed"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "commentary",
         "content": [{"type": "output_text", "text": "I ", "annotations": [], "logprobs": []}, {"type": "output_text", "text": "look."}]},
        called("call_1", id="fc_1", status="completed"),
        {"type": "reasoning", "id": "rs_2", "summary": []},
        called("call_2"),
        output("call_1"),
        output("call_2", [{"type": "input_text", "text": "two"}]),
        called("call_3", arguments=None),
        {"role": "assistant", "content": "Wait."},
        output("call_3", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]),
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "Really."},
        user("so?"),
    ]  # fmt: skip
    call_3 = {"id": "call_3", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert request(given, instructions="i")["messages"] == [
        {"role": "system", "content": "i"},
        {"role": "system", "content": "d"},
        user([{"type": "text", "text": "hi"}]),
        {"role": "assistant", "content": "I look.", "tool_calls": [chat_call("call_1"), chat_call("call_2")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call_3]},
        {
            "role": "tool",
            "tool_call_id": "call_3",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "Really."},
        user("so?"),
    ]


def test_pictures_and_files_of_the_user_become_parts() -> None:
    given = user(
        [
            {"type": "input_image", "image_url": PNG, "detail": "low"},
            {"type": "input_file", "file_data": PDF, "filename": "a.pdf", "detail": "auto"},
        ]
    )
    assert request([given])["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": [{**FUNCTION, "description": "d", "strict": True, "defer_loading": False}]},
         {"tools": [{"type": "function", "function": {**CHAT_FUNCTION["function"], "description": "d", "strict": True}}]}),
        ({"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
         {"tools": [CHAT_FUNCTION], "tool_choice": "required", "parallel_tool_calls": False}),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": True},
         {"tools": [CHAT_FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}, {}),
        ({"temperature": 1.5, "top_p": 0.5}, {"temperature": 1.5, "top_p": 0.5}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}},
         {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {"stream": False}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
        ({"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
         {"response_format": {"type": "json_object"}, "verbosity": "low"}),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True, "description": None}}},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}}),
        ({"reasoning": {"effort": "minimal", "summary": "auto", "context": "auto"}}, {"reasoning_effort": "minimal"}),
        ({"user": "u"}, {"user": "u"}),
        ({"user": "u", "safety_identifier": "s"}, {"user": "s"}),
        ({"service_tier": "auto"}, {}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]}, {}),
        ({"store": False, "background": False, "truncation": "disabled", "top_logprobs": 0, "context_management": []}, {}),
        ({"metadata": {"a": "b"}, "prompt_cache_key": "k", "client_metadata": {}, "max_tool_calls": 3}, {}),
        ({"previous_response_id": None, "conversation": None, "prompt": None}, {}),
    ],
)  # fmt: skip
def test_what_chat_has_is_carried_and_what_means_nothing_is_left_out(fields: Json, expected: Json) -> None:
    assert request(**fields) == {**PLAIN, **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"background": True}, {"store": True},
        {"prompt": {"id": "p"}}, {"truncation": "auto"}, {"context_management": [{"type": "compaction"}]},
        {"moderation": {}}, {"top_logprobs": 2}, {"background_options": {}}, {"image": {}}, {"whatever": 0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", [CHAT, MESSAGES])
def test_stored_state_and_hosted_features_are_refused_by_name(by: Any, fields: Json) -> None:
    error = refused(by, **fields)
    speaks = "chat completions" if by is CHAT else "the Messages API"
    assert error.message == f"'{next(iter(fields))}' cannot be carried to a provider that speaks {speaks}."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{**FUNCTION, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]"),
        ({"include": ["reasoning.encrypted_content", "news"]}, "include[1]"),
        ({"stream_options": {"other": True}}, "stream_options.other"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"text": {"other": 1}}, "text.other"),
        ({"given": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"given": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type"),
        ({"given": [user("x"), {"type": "web_search_call", "id": "ws"}]}, "input[1].type"),
        ({"given": [{"type": "custom_tool_call", "call_id": "c", "name": "n", "input": ""}]}, "input[0].type"),
        ({"given": [called("c", namespace="n")]}, "input[0].namespace"),
        ({"given": [called("c", caller={"type": "program", "caller_id": "p"})]}, "input[0].caller"),
        ({"given": [user([{"type": "input_audio"}])]}, "input[0].content[0].type"),
        ({"given": [user([{"type": "input_image", "image_url": None, "file_id": "f"}])]}, "input[0].content[0].file_id"),
        ({"given": [{"role": "system", "content": [{"type": "input_image", "image_url": PNG}]}]}, "input[0].content[0].type"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", [CHAT, MESSAGES])
def test_inner_fields_that_cannot_be_carried_are_refused_by_name(by: Any, fields: Json, param: str) -> None:
    error = refused(by, **fields)
    assert error.param == param
    assert "cannot be carried" in error.message


def test_what_only_one_provider_can_take_is_refused_by_the_other() -> None:
    picture = [
        user("x"),
        called("c"),
        output("c", [{"type": "input_image", "image_url": PNG, "detail": "auto"}]),
    ]
    assert refused(CHAT, picture).param == "input[2].output[0].type"
    block = MESSAGES.request({"model": "m", "input": picture})["messages"][2]["content"][0]
    assert block["content"][0]["source"]["media_type"] == "image/png"
    linked = [user([{"type": "input_file", "file_url": "https://x/y.pdf"}])]
    assert refused(CHAT, linked).param == "input[0].content[0].file_url"
    document = MESSAGES.request({"model": "m", "input": linked})["messages"][0]["content"][0]
    assert document == {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"given": None}, "'input': got None, expected a list."),
        ({"given": []}, "'input': got list, expected at least one item."),
        ({"given": [5]}, "'input[0]': got 5, expected an object."),
        ({"given": [{}]}, "'input[0].type': got None, expected the type of an item."),
        ({"given": [{"role": "tool", "content": "x"}]}, "'input[0].role': got str, expected one of \"assistant\", \"developer\", \"system\", \"user\"."),
        ({"given": [user(5)]}, "'input[0].content': got 5, expected a list."),
        ({"given": [user([5])]}, "'input[0].content[0]': got 5, expected an object."),
        ({"given": [user([{"text": "x"}])]}, "'input[0].content[0].type': got None, expected the type of a part."),
        ({"given": [user([{"type": "input_text"}])]}, "'input[0].content[0].text': got None, expected a string."),
        ({"given": [called("c", arguments={})]}, "'input[0].arguments': got dict, expected a string."),
        ({"given": [{"type": "function_call", "name": "f"}]}, "'input[0].call_id': got None, expected a string."),
        ({"given": [output("c", None)]}, "'input[0].output': got None, expected a list."),
        ({"instructions": []}, "'instructions': got list, expected a string."),
        ({"max_output_tokens": 0}, "'max_output_tokens': got 0, expected a whole number of at least 1."),
        ({"tools": "f"}, "'tools': got str, expected a list."),
        ({"tools": [FUNCTION], "tool_choice": "any"}, "'tool_choice': got str, expected one of \"auto\", \"none\", \"required\"."),
        ({"tool_choice": "required"}, "'tool_choice': got str, expected tools to choose from."),
        ({"text": {"format": {"type": "xml"}}}, "'text.format.type': got str, expected one of \"json_object\", \"json_schema\", \"text\"."),
        ({"reasoning": "low"}, "'reasoning': got str, expected an object."),
        ({"include": "x"}, "'include': got str, expected a list."),
        ({"include": [5]}, "'include[0]': got 5, expected a string."),
        ({"stream_options": 5}, "'stream_options': got 5, expected an object."),
        ({"stream": "x"}, "'stream': got str, expected true or false."),
        ({"temperature": "x"}, "'temperature': got str, expected a number."),
    ],
)  # fmt: skip
def test_wrong_types_are_told_with_what_was_expected(fields: Json, message: str) -> None:
    assert refused(CHAT, **fields).message == message
    assert refused(MESSAGES, **fields).message == message


def test_neutral_tool_fields_are_left_out() -> None:
    tool = {**FUNCTION, "allowed_callers": ["direct"], "defer_loading": False, "async": False}
    assert request(tools=[tool])["tools"] == [CHAT_FUNCTION]


def test_the_clients_body_is_not_changed() -> None:
    body = {"model": "m", "tools": [FUNCTION], "instructions": "i", "text": {"format": {"type": "text"}},
            "input": [user("x"), {"role": "assistant", "content": "y"}, called("c"), output("c"), user("z")]}  # fmt: skip
    before = json.dumps(body)
    CHAT.request(body)
    MESSAGES.request(body)
    assert json.dumps(body) == before


# -- requests to messages ---------------------------------------------------------------------------------


def test_items_become_messages_of_the_messages_api() -> None:
    given = [user("hi"), {"role": "assistant", "content": "I look."}, called("call_1"), called("call_2"),
             output("call_1"), output("call_2"), user("go on")]  # fmt: skip
    out = MESSAGES.request(
        {"model": "m", "input": given, "instructions": "i", "tools": [FUNCTION], "reasoning": {"effort": "low"}, "stream": True},
        OutputLimit(77, "max_tokens"),
    )  # fmt: skip
    use = {"type": "tool_use", "name": "f", "input": {"n": 1}}
    assert out == {
        "model": "m",
        "max_tokens": 77,
        "system": [{"type": "text", "text": "i"}],
        "messages": [
            user("hi"),
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {**use, "id": "call_1"},
                    {**use, "id": "call_2"},
                ],
            },
            user(
                [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "ok"},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": "ok"},
                    {"type": "text", "text": "go on"},
                ]
            ),
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "output_config": {"effort": "low"},
        "stream": True,
    }
    assert MESSAGES.request({"model": "m", "input": "hi", "max_output_tokens": 5})["max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"effort": "minimal"}}, "reasoning.effort"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"temperature": 1.5}, "temperature"),
        ({"given": " "}, "input"),
        ({"given": [user("x"), {"role": "assistant", "content": "y"}]}, "input"),
        ({"given": [user("x"), user([{"type": "input_image", "image_url": PNG, "detail": "high"}])]}, "input[1].content[0].detail"),
        ({"given": [user([{"type": "input_image", "image_url": "ftp://x"}])]}, "input[0].content[0].image_url"),
        ({"instructions": "i", "given": [user([{"type": "input_file", "file_data": "data:audio/mp3;base64,AA=="}])]}, "input[0].content[0].file_data"),
        ({"given": [user("x"), called("c"), output("c", [{"type": "input_image", "image_url": "x", "detail": "auto"}])]}, "input[2].output[0].image_url"),
    ],
)  # fmt: skip
def test_refusals_of_the_second_step_name_the_clients_own_fields(fields: Json, param: str) -> None:
    error = refused(MESSAGES, **fields)
    assert error.param == param
    assert error.message.startswith(f"'{param}'")


# -- answers ----------------------------------------------------------------------------------------------

ASKED: Json = {
    "model": "alias", "input": "hi", "instructions": "i", "tools": [FUNCTION], "tool_choice": "auto",
    "reasoning": {"effort": "low", "summary": "auto"}, "metadata": {"a": "b"}, "temperature": 0.5,
    "max_output_tokens": 99, "parallel_tool_calls": False, "text": {"format": {"type": "text"}, "verbosity": "low"},
}  # fmt: skip
USAGE = {"prompt_tokens": 18, "completion_tokens": 9, "total_tokens": 27, "prompt_tokens_details": {"cached_tokens": 5},
         "completion_tokens_details": {"reasoning_tokens": 4}}  # fmt: skip


def completion(message: Json, finish: str | None = "stop", **fields: Any) -> Json:
    return {"id": "chatcmpl-1", "model": "gpt", "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": USAGE, **fields}  # fmt: skip


ANSWERED = completion(
    {"role": "assistant", "content": "I look.", "reasoning_content": "hm",
     "tool_calls": [chat_call("call_1"), {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
    "tool_calls",
)  # fmt: skip


def without_ids(items: list[Json]) -> list[Json]:
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


def test_an_answer_is_a_whole_response() -> None:
    out = CHAT.answer(ANSWERED, ASKED, created=5)
    items = out.pop("output")
    assert without_ids(items) == [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "status": "completed", "call_id": "call_1", "name": "f", "arguments": '{"n":1}'},
        {"type": "function_call", "status": "completed", "call_id": "call_2", "name": "g", "arguments": "{}"},
    ]  # fmt: skip
    ids = [item["id"] for item in items]
    assert [item_id.split("_")[0] for item_id in ids] == ["rs", "msg", "fc", "fc"]
    assert len(set(ids)) == 4
    assert max(map(len, ids)) <= 64
    assert out == {
        "id": "chatcmpl-1", "object": "response", "created_at": 5, "completed_at": 5, "status": "completed",
        "background": False, "error": None, "incomplete_details": None, "model": "gpt", "previous_response_id": None,
        "store": False, "instructions": "i", "max_output_tokens": 99, "max_tool_calls": None, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": None, "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": None, "service_tier": "auto", "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "low"}, "tool_choice": "auto", "top_p": None,
        "truncation": "disabled", "user": None,
        "tools": [{**FUNCTION, "description": None}],
        "usage": {
            "input_tokens": 18, "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
            "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 27,
        },
    }  # fmt: skip
    Response.model_validate({**out, "output": items}, strict=True)
    assert CHAT.answer(ANSWERED, {"model": "m"})["parallel_tool_calls"] is True


def test_an_answer_by_messages_says_the_same() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"n": 1}},
    ]
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 3,
        "output_tokens": 9,
    }
    message = {
        "id": "msg_01",
        "model": "claude",
        "content": content,
        "stop_reason": "tool_use",
        "usage": usage,
    }
    out = MESSAGES.answer(message, ASKED, created=5)
    assert [item["type"] for item in out["output"]] == ["reasoning", "message", "function_call"]
    assert out["output"][2]["call_id"] == "toolu_1"
    assert out["id"] == "msg_01"
    assert out["usage"]["input_tokens"] == 18
    assert out["usage"]["input_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 3}
    Response.model_validate(out, strict=True)


def test_thoughts_are_shown_only_to_who_asked_for_a_summary() -> None:
    out = CHAT.answer(ANSWERED, {"model": "m"}, created=5)
    assert [item["type"] for item in out["output"]] == ["message", "function_call", "function_call"]
    Response.model_validate(out, strict=True)


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [("stop", "completed", None), ("tool_calls", "completed", None), ("length", "incomplete", "max_output_tokens"),
     ("content_filter", "incomplete", "content_filter"), (None, "completed", None), ("new", "completed", None),
     ({}, "completed", None), ([], "completed", None)],
)  # fmt: skip
def test_finish_reasons(finish: Any, status: str, reason: str | None) -> None:
    out = CHAT.answer(completion({"content": "x"}, finish), {"model": "m"})
    assert out["status"] == status
    assert out["output"][0]["status"] == status
    assert out["incomplete_details"] == ({"reason": reason} if reason else None)


def test_a_call_cut_by_the_limit_is_marked_incomplete() -> None:
    cut = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"n":'}}
    empty = {"id": "d", "type": "function", "function": {"name": "f", "arguments": ""}}
    out = CHAT.answer(completion({"tool_calls": [chat_call("a"), cut, empty]}, "length"), {"model": "m"})
    assert [item["status"] for item in out["output"]] == ["completed", "incomplete", "incomplete"]


def test_a_refusal_is_a_part_of_its_own() -> None:
    out = CHAT.answer(completion({"content": None, "refusal": "No."}), {"model": "m"})
    assert out["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]
    Response.model_validate(out, strict=True)


@pytest.mark.parametrize(
    "odd",
    [{}, {"choices": [None]}, {"choices": [{"message": 5}]}, {"choices": [{"message": {"content": 5}}]}, {"usage": "x"},
     {"id": 5, "model": [], "service_tier": "on_demand"}, {"id": "", "model": ""}, {"usage": {"prompt_tokens": -5}}],
)  # fmt: skip
def test_an_odd_reply_is_still_a_response(odd: Json) -> None:
    out = CHAT.answer(odd, {"model": "m"}, created=5)
    assert (out["status"], out["output"], out["model"]) == ("completed", [], "m")
    assert len(out["id"]) == 37
    Response.model_validate(out, strict=True)


def test_the_tier_is_told_where_clients_know_it() -> None:
    assert CHAT.answer({**ANSWERED, "service_tier": "flex"}, {"model": "m"})["service_tier"] == "flex"


def test_errors_have_the_shape_that_all_openai_clients_know() -> None:
    told = json.loads(CHAT.error(400, b'{"error":{"message":"Bad","type":"t","code":"c","param":"p"}}'))
    assert told == {"error": {"message": "Bad", "type": "t", "code": "c", "param": "p"}}
    told = json.loads(MESSAGES.error(400, b'{"type":"error","error":{"type":"t","message":"Bad"}}'))
    assert told == {"error": {"message": "Bad", "type": "t", "code": "t", "param": None}}
    assert CHAT.answer({"error": {"message": "Bad"}}, {}) == {
        "error": {"message": "Bad", "type": "api_error", "code": None, "param": None}
    }


# -- streams ----------------------------------------------------------------------------------------------

CHAT_STREAM = chat_stream(
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "I "}),
    chunk({"content": "lök."}),
    chunk(call_delta(0, "", id="call_1", name="f")),
    chunk(call_delta(1, "", id="call_2", name="g")),
    chunk(call_delta(0, '{"n"')),
    chunk(call_delta(0, ":1}")),
    chunk({}, "tool_calls"),
    chunk(usage=USAGE),
)
MESSAGES_STREAM = messages_stream(
    started(cache_read_input_tokens=5),
    *block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "hm"}),
    *text_block(1, "I ", "lök."),
    *use_block(2, "call_1", "f", '{"n"', ":1}"),
    *use_block(3, "call_2", "g"),
    *stopped("tool_use"),
)
SPEECH = ["response.output_text.delta"] * 2
TYPES = [
    "response.created", "response.in_progress",
    "response.output_item.added", "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done", "response.reasoning_summary_part.done", "response.output_item.done",
    "response.output_item.added", "response.content_part.added", *SPEECH,
    "response.output_text.done", "response.content_part.done", "response.output_item.done",
    "response.output_item.added", *["response.function_call_arguments.delta"] * 2,
    "response.function_call_arguments.done", "response.output_item.done",
    "response.output_item.added", "response.function_call_arguments.delta",
    "response.function_call_arguments.done", "response.output_item.done",
    "response.completed",
]  # fmt: skip


@pytest.mark.parametrize(("by", "stream"), [(CHAT, CHAT_STREAM), (MESSAGES, MESSAGES_STREAM)])
def test_a_stream_follows_the_whole_grammar(by: Any, stream: bytes) -> None:
    events = through(by.stream(ASKED, created=5), stream)
    assert [event["type"] for event in events] == TYPES
    assert [event["sequence_number"] for event in events] == list(range(len(TYPES)))
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == events[1]["response"]["output"] == []
    places = [event["output_index"] for event in events if "output_index" in event]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2, 3}
    final = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert final["output"] == done
    assert final["status"] == "completed"
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == done[event["output_index"]]["id"]


def test_the_five_copies_of_a_text_agree() -> None:
    events = through(CHAT.stream(ASKED), CHAT_STREAM)
    texts = {
        "delta": "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta"),
        "done": next(e["text"] for e in events if e["type"] == "response.output_text.done"),
        "part": next(e["part"]["text"] for e in events if e["type"] == "response.content_part.done"),
        "item": next(e["item"]["content"][0]["text"] for e in events if e["type"] == "response.output_item.done" and e["item"]["type"] == "message"),
        "response": events[-1]["response"]["output"][1]["content"][0]["text"],
    }  # fmt: skip
    assert set(texts.values()) == {"I lök."}
    arguments = [e["arguments"] for e in events if e["type"] == "response.function_call_arguments.done"]
    assert arguments == ['{"n":1}', "{}"]
    assert [item["arguments"] for item in events[-1]["response"]["output"][2:]] == arguments


def test_a_stream_ends_with_the_same_response_as_a_plain_answer() -> None:
    message = {"content": "I lök.", "reasoning_content": "hm", "tool_calls": [
        chat_call("call_1"), {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}]}  # fmt: skip
    plain = CHAT.answer(completion(message, "tool_calls"), ASKED, created=5)
    assert through(CHAT.stream(ASKED, created=5), CHAT_STREAM)[-1]["response"] == plain


@pytest.mark.parametrize("step", [1, 2, 7, 64])
@pytest.mark.parametrize(("by", "stream"), [(CHAT, CHAT_STREAM), (MESSAGES, MESSAGES_STREAM)])
def test_a_stream_reads_the_same_however_it_is_split(by: Any, stream: bytes, step: int) -> None:
    assert through(by.stream(ASKED), stream, step) == through(by.stream(ASKED), stream)


def test_a_stream_at_its_limit_is_incomplete() -> None:
    events = through(
        CHAT.stream({"model": "m"}), chat_stream(chunk({"content": "x"}, "length"), chunk(usage=USAGE))
    )
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["usage"]["total_tokens"] == 27
    EVENT.validate_python(events[-1], strict=True)


def test_a_refusal_has_events_of_its_own() -> None:
    events = through(
        CHAT.stream({"model": "m"}), chat_stream(chunk({"refusal": "N"}), chunk({"refusal": "o."}, "stop"))
    )
    kinds = [e["type"] for e in events if "refusal" in e["type"]]
    assert kinds == ["response.refusal.delta", "response.refusal.delta", "response.refusal.done"]
    for event in events:
        EVENT.validate_python(event, strict=True)


ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.mark.parametrize(
    ("by", "stream", "code"),
    [
        (CHAT, chat_stream(chunk({"content": "x"}), {"error": {"message": "Overloaded", "code": 429}}), "rate_limit_exceeded"),
        (CHAT, chat_stream({"error": {"message": "Overloaded", "type": "invalid_request_error"}}), "invalid_prompt"),
        (MESSAGES, messages_stream(started(), ERROR), "server_error"),
        (MESSAGES, messages_stream(ERROR), "server_error"),
    ],
)  # fmt: skip
def test_an_error_in_the_stream_is_a_failed_response(by: Any, stream: bytes, code: str) -> None:
    events = through(by.stream({"model": "m"}), stream)
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"] == {"code": code, "message": "Overloaded"}
    EVENT.validate_python(events[-1], strict=True)


@pytest.mark.parametrize(
    ("by", "stream"),
    [(CHAT, b""), (CHAT, chat_stream()), (CHAT, chat_stream(chunk({"content": "x"}), done=False)), (MESSAGES, b""),
     (MESSAGES, messages_stream(started(), *text_block(0, "x")))],
)  # fmt: skip
def test_a_stream_that_breaks_off_fails(by: Any, stream: bytes) -> None:
    events = through(by.stream({"model": "m"}), stream)
    assert events[-1]["type"] == "response.failed"
    assert "before the answer" in events[-1]["response"]["error"]["message"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_done_without_a_finish_reason_finishes_the_answer() -> None:
    events = through(CHAT.stream({"model": "m"}), chat_stream(chunk({"content": "x"})))
    assert events[-1]["type"] == "response.completed"


def test_nothing_follows_the_end() -> None:
    stream = CHAT.stream({"model": "m"})
    stream.feed(CHAT_STREAM)
    assert read(stream.end())[-1]["type"] == "response.completed"
    assert stream.end() == b""
    assert stream.feed(CHAT_STREAM) == b""


def test_pings_and_comments_keep_the_connection_open() -> None:
    assert MESSAGES.stream({}).feed(messages_stream({"type": "ping"})) == b": ping\n\n"
    assert CHAT.stream({}).feed(b": OPENROUTER PROCESSING\n\n") == b": OPENROUTER PROCESSING\n\n"


def test_there_is_a_translation_between_these_apis_and_no_others() -> None:
    found = {
        (client, upstream)
        for client in Surface
        for upstream in Surface
        if between(client, upstream) is not None
    }
    assert found == {
        (Surface.CHAT, Surface.MESSAGES),
        (Surface.MESSAGES, Surface.CHAT),
        (Surface.RESPONSES, Surface.CHAT),
        (Surface.RESPONSES, Surface.MESSAGES),
    }
    for client, upstream in found:
        translation = between(client, upstream)
        assert translation is not None
        assert (translation.client, translation.upstream) == (client, upstream)
