"""Clients of the Messages API on a chat provider: requests, refusals by name, answers, streams, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.domain import Surface
from gateway.errors import CallerError
from gateway.translation import OutputLimit, between
from tests.unit.translation.streams import call_delta, chat_stream, chunk, read, through

Json = dict[str, Any]

_TRANSLATION = between(Surface.MESSAGES, Surface.CHAT)
assert _TRANSLATION is not None
T = _TRANSLATION

PDF: Json = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
TOOL: Json = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
FUNCTION: Json = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
CACHE = {"type": "ephemeral", "ttl": "1h"}
THINKING = {"thinking": {"type": "adaptive"}}


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def assistant(*content: Json) -> Json:
    return {"role": "assistant", "content": list(content)}


def text(value: str, **fields: Any) -> Json:
    return {"type": "text", "text": value, **fields}


def use(call_id: Any, **fields: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {"n": 1}, **fields}


def result(call_id: Any, content: Any = "ok", **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def request(*messages: Json, **fields: Any) -> Json:
    return T.request({"model": "m", "max_tokens": 9, "messages": list(messages) or [user("hi")], **fields})


def refused(**fields: Any) -> CallerError:
    with pytest.raises(CallerError) as error:
        request(**fields)
    assert error.value.code == "invalid_request"
    assert f"'{error.value.param}'" in error.value.message
    return error.value


PLAIN = {"model": "m", "max_completion_tokens": 9, "messages": [user("hi")]}


# -- requests ---------------------------------------------------------------------------------------------


def test_the_limit_goes_by_the_name_that_the_provider_knows() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [user("hi")]}
    assert T.request(body) == PLAIN
    assert T.request(body, OutputLimit(field="max_tokens")) == body
    assert T.request({"model": "m", "messages": [user("hi")]}, OutputLimit(5))["max_completion_tokens"] == 5


def test_system_blocks_are_one_message_without_the_billing_header() -> None:
    out = request(
        system=[
            text("x-anthropic-billing-header: cc_version=2; cch=77"),
            text("a", cache_control=CACHE),
            text(""),
            text("b"),
        ]
    )
    assert out["messages"] == [{"role": "system", "content": "a\n\nb"}, user("hi")]
    assert request(system="s")["messages"][0] == {"role": "system", "content": "s"}
    assert request(system=[text("x-anthropic-billing-header: x")])["messages"] == [user("hi")]


def test_system_turns_stay_where_they_stand() -> None:
    out = request(user("hi"), {"role": "system", "content": [text("now")]}, {"role": "system", "content": ""})
    assert out["messages"] == [user("hi"), {"role": "system", "content": "now"}]


def test_results_come_before_the_users_words() -> None:
    out = request(
        user([text("hi", cache_control=CACHE)]),
        assistant(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            text("I "),
            text("look.", citations=None),
            use("toolu_1"),
            use("toolu_2", caller={"type": "direct"}, cache_control=CACHE),
        ),
        user(
            [
                result("toolu_1", [text("a"), text("b")], cache_control=CACHE),
                result("toolu_2"),
                text("and"),
                text("go on"),
            ]
        ),
        assistant({"type": "thinking", "thinking": "hm", "signature": "s"}),
        user("x"),
        tools=[TOOL],
    )
    call = {"type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
    assert out["messages"] == [
        user("hi"),
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "toolu_1", **call}, {"id": "toolu_2", **call}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": [text("a"), text("b")]},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "ok"},
        user([text("and"), text("go on")]),
        user("x"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no such file", "Error: no such file"), ("Error: no", "Error: no"), ("  ERROR 5", "  ERROR 5"), ("", "Error: "),
        (None, "Error"), ([], "Error"), ([text("a")], "Error: a"),
        ([text("a"), text("b")], [text("Error: a"), text("b")]),
    ],
)  # fmt: skip
def test_a_failed_call_is_told_in_words(content: Any, expected: Any) -> None:
    out = request(user("hi"), assistant(use("a")), user([result("a", content, is_error=True)]))
    assert out["messages"][-1] == {"role": "tool", "tool_call_id": "a", "content": expected}


@pytest.mark.parametrize(("content", "expected"), [("", ""), (None, ""), ([], ""), ([text("a")], "a")])
def test_a_result_has_always_a_content(content: Any, expected: str) -> None:
    out = request(user("hi"), assistant(use("a")), user([result("a", content, is_error=False)]))
    assert out["messages"][-1]["content"] == expected


def test_wrapped_arguments_are_unwrapped() -> None:
    out = request(user("hi"), assistant(use("a", input={"INVALID_JSON": '{"a":'})), user([result("a")]))
    assert out["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":'


def test_pictures_and_documents_become_parts() -> None:
    out = request(
        user(
            [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {
                    "type": "image",
                    "source": {"type": "url", "url": "https://x/y.png"},
                    "cache_control": CACHE,
                },
                {"type": "document", "source": PDF, "title": "a.pdf", "citations": {"enabled": False}},
                {"type": "document", "source": PDF, "citations": None, "context": None},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
            ]
        )
    )
    assert out["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        },
        {"type": "file", "file": {"filename": "document.txt", "file_data": "data:text/plain;base64,w6Q="}},
    ]


def test_tools_lose_nothing_but_cache_marks() -> None:
    tools = [
        {**TOOL, "type": "custom", "description": "d", "strict": True, "cache_control": CACHE, "defer_loading": False,
         "eager_input_streaming": True, "allowed_callers": ["direct"], "input_examples": []},
    ]  # fmt: skip
    assert request(tools=tools)["tools"] == [
        {"type": "function", "function": {**FUNCTION["function"], "description": "d", "strict": True}}
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (None, {}),
    ],
)
def test_tool_choice(choice: Json | None, expected: Json) -> None:
    assert request(tools=[TOOL], tool_choice=choice) == {**PLAIN, "tools": [FUNCTION], **expected}


def test_a_choice_among_no_tools_is_left_out_unless_it_demands_one() -> None:
    assert request(tool_choice={"type": "auto", "disable_parallel_tool_use": True}) == PLAIN
    assert refused(tool_choice={"type": "any"}).param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"stop_sequences": []}, {}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {"stream": False}),
        ({"service_tier": "auto"}, {}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"speed": "standard", "mcp_servers": [], "container": None, "cache_control": CACHE}, {}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"metadata": {}}, {}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, {}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1025}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8193}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, {}),
        ({"context_management": {}}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"title": "Out_1", "type": "object"}}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "Out_1", "schema": {"title": "Out_1", "type": "object"}, "strict": True}}},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"title": "no name"}}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"title": "no name"}, "strict": True}}},
        ),
    ],
)  # fmt: skip
def test_what_both_apis_have_is_carried(fields: Json, expected: Json) -> None:
    assert request(**fields) == {**PLAIN, **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 5}, {"mcp_servers": [{}]}, {"container": "c"}, {"thread": {}}, {"speed": "fast"}, {"diagnostics": {}},
        {"inference_geo": "us"}, {"user_profile_id": "u"}, {"workspace_id": "w"}, {"betas": ["x"]}, {"whatever": 0},
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused_by_name(fields: Json) -> None:
    error = refused(**fields)
    assert (
        error.message
        == f"'{next(iter(fields))}' cannot be carried to a provider that speaks chat completions."
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "block_binding": {}}}, "thinking.block_binding"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"metadata": {"other": "x"}}, "metadata.other"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type"),
        ({"messages": [user("x"), assistant(text("{"))]}, "messages"),
        ({"messages": [user("x"), {"role": "assistant", "content": "{"}, {"role": "system", "content": "s"}]}, "messages"),
        ({"messages": [{**user("x"), "id": "m"}]}, "messages[0].id"),
        ({"messages": [user([{"type": "search_result"}])]}, "messages[0].content[0].type"),
        ({"messages": [user([{"type": "image", "source": {"type": "file", "file_id": "f"}}])]}, "messages[0].content[0].source.type"),
        ({"messages": [user([{"type": "document", "source": {"type": "url", "url": "https://x"}}])]}, "messages[0].content[0].source.type"),
        ({"messages": [user([{"type": "document", "source": PDF, "citations": {"enabled": True}}])]}, "messages[0].content[0].citations"),
        ({"messages": [user([{"type": "document", "source": PDF, "context": "c"}])]}, "messages[0].content[0].context"),
        ({"messages": [user([result("a", [{"type": "image", "source": {}}])])]}, "messages[0].content[0].content[0].type"),
        ({"messages": [user([result("a", toolset_name="browser")])]}, "messages[0].content[0].toolset_name"),
        ({"messages": [assistant({"type": "server_tool_use", "id": "s", "name": "n", "input": {}})]}, "messages[0].content[0].type"),
        ({"messages": [assistant(use("a", caller={"type": "code_execution_20250825"}))]}, "messages[0].content[0].caller"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"messages": [{"role": "system", "content": [{"type": "tool_addition"}]}]}, "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_inner_fields_that_cannot_be_carried_are_refused_by_name(fields: Json, param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert "cannot be carried to a provider that speaks chat completions." in error.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": {}}, "'messages': got dict, expected a list."),
        ({"messages": []}, "'messages': got list, expected at least one message."),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role': got str, expected \"user\" or \"assistant\"."),
        ({"messages": [user(None)]}, "'messages[0].content': got None, expected a list."),
        ({"messages": [user([text("x"), 5])]}, "'messages[0].content[1]': got 5, expected an object."),
        ({"messages": [user([{"type": None}])]}, "'messages[0].content[0].type': got None, expected the type of a block."),
        ({"messages": [user([{"type": "text", "text": 5}])]}, "'messages[0].content[0].text': got 5, expected a string."),
        ({"messages": [user([{"type": "image"}])]}, "'messages[0].content[0].source': got None, expected an object."),
        ({"messages": [user([{"type": "document"}])]}, "'messages[0].content[0].source': got None, expected an object."),
        ({"messages": [user([{"type": "document", "source": {**PDF, "data": 5}}])]}, "'messages[0].content[0].source.data': got 5, expected a string."),
        ({"messages": [user([{"type": "document", "source": {"type": "text", "media_type": "text/html"}}])]}, "'messages[0].content[0].source.media_type': got str, expected one of \"text/plain\"."),
        ({"messages": [user([{"type": "document", "source": PDF, "title": 5}])]}, "'messages[0].content[0].title': got 5, expected a string."),
        ({"messages": [user([result("a", 5)])]}, "'messages[0].content[0].content': got 5, expected a list."),
        ({"messages": [user([result("a", is_error="no")])]}, "'messages[0].content[0].is_error': got str, expected true or false."),
        ({"messages": [user([result(None)])]}, "'messages[0].content[0].tool_use_id': got None, expected a string."),
        ({"messages": [assistant(use("a", input="x"))]}, "'messages[0].content[0].input': got str, expected an object."),
        ({"messages": [assistant(use(5))]}, "'messages[0].content[0].id': got 5, expected a string."),
        ({"system": 5}, "'system': got 5, expected a list."),
        ({"model": 5}, "'model': got 5, expected a string."),
        ({"max_tokens": 0}, "'max_tokens': got 0, expected a whole number of at least 1."),
        ({"temperature": "x"}, "'temperature': got str, expected a number."),
        ({"stop_sequences": "x"}, "'stop_sequences': got str, expected a list."),
        ({"stop_sequences": [5]}, "'stop_sequences[0]': got 5, expected a string."),
        ({"tools": [{"input_schema": {}}]}, "'tools[0].name': got None, expected a string."),
        ({"tools": [{"name": "f"}]}, "'tools[0].input_schema': got None, expected an object."),
        ({"tools": [TOOL], "tool_choice": "auto"}, "'tool_choice': got str, expected an object."),
        ({"tools": [TOOL], "tool_choice": {"type": "all"}}, "'tool_choice.type': got str, expected one of \"any\", \"auto\", \"none\"."),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "'tool_choice.name': got None, expected a string."),
        ({"thinking": {"type": "enabled"}}, "'thinking.budget_tokens': got None, expected a whole number of at least 1."),
        ({"output_config": {"effort": "much"}}, "'output_config.effort': got str, expected one of \"high\", \"low\", \"max\", \"medium\", \"xhigh\"."),
        ({"service_tier": "batch"}, "'service_tier': got str, expected one of \"auto\", \"standard_only\"."),
        ({"stream": 1}, "'stream': got 1, expected true or false."),
        ({"metadata": {"user_id": 5}}, "'metadata.user_id': got 5, expected a string."),
    ],
)  # fmt: skip
def test_wrong_types_are_told_with_what_was_expected(fields: Json, message: str) -> None:
    assert refused(**fields).message == message


def test_a_long_user_id_is_sent_as_its_digest() -> None:
    name = "user_" + "a" * 64 + "_account__session_x"
    sent = request(metadata={"user_id": name})["user"]
    assert len(sent) == 64
    assert sent == request(metadata={"user_id": name})["user"] != name[:64]


def test_the_clients_body_is_not_changed() -> None:
    body = {
        "model": "m", "max_tokens": 9, "system": [text("s")], "tools": [TOOL], "stop_sequences": ["x"],
        "messages": [user([text("hi")]), assistant(use("a")), user([result("a", is_error=True), text("x")])],
    }  # fmt: skip
    before = json.dumps(body)
    T.request(body)
    assert json.dumps(body) == before


# -- answers ----------------------------------------------------------------------------------------------


def completion(message: Json | None = None, finish: str | None = "stop", **fields: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", **(message or {})}, "finish_reason": finish}
    usage = {
        "prompt_tokens": 18, "completion_tokens": 9, "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }  # fmt: skip
    return {"id": "chatcmpl-1", "model": "gpt", "choices": [choice], "usage": usage, **fields}


def called(*calls: tuple[str, str, Any]) -> Json:
    return {
        "tool_calls": [
            {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, name, arguments in calls
        ]
    }


def test_an_answer_is_a_whole_message() -> None:
    message = {
        "content": "I look.",
        "reasoning_content": "hm",
        **called(("call_1", "f", '{"n": 1}'), ("call_2", "g", "")),
    }
    out = T.answer(completion(message, "tool_calls", service_tier="default"), {"model": "alias", **THINKING})
    assert out == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"n": 1}},
            {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 11,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
            "service_tier": "standard",
        },
    }


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}])
def test_thoughts_are_shown_only_to_who_asked_to_think(thinking: Json | None) -> None:
    message = {"content": "x", "reasoning": "hm"}
    asked = {"thinking": thinking}
    assert T.answer(completion(message), asked)["content"] == [text("x")]
    stream = chat_stream(chunk({"reasoning": "hm"}), chunk({"content": "x"}, "stop"))
    starts = [e["content_block"]["type"] for e in through(T.stream(asked), stream) if "content_block" in e]
    assert starts == ["text"]


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("function_call", "tool_use"),
     (None, "end_turn"), ("new", "end_turn"), ({}, "end_turn")],
)  # fmt: skip
def test_finish_reasons(finish: Any, stop: str) -> None:
    assert T.answer(completion({"content": "x"}, finish), {})["stop_reason"] == stop


def test_calls_always_end_in_tool_use() -> None:
    assert T.answer(completion(called(("a", "f", "{}")), "stop"), {})["stop_reason"] == "tool_use"


def test_a_refusal_is_told_as_one() -> None:
    out = T.answer(completion({"content": None, "refusal": "No."}), {})
    assert out["content"] == [text("No.")]
    assert out["stop_reason"] == "refusal"
    assert out["stop_details"] == {"type": "refusal", "category": None, "explanation": "No."}


def test_a_call_cut_by_the_limit_is_no_call_and_a_malformed_one_is_wrapped() -> None:
    message = called(("a", "f", '{"n":1}'), ("b", "f", '{"n":'))
    uses = T.answer(completion(message, "length"), {})["content"]
    assert [u["id"] for u in uses] == ["a"]
    uses = T.answer(completion(message, "tool_calls"), {})["content"]
    assert [u["input"] for u in uses] == [{"n": 1}, {"INVALID_JSON": '{"n":'}]


def test_calls_without_ids_get_their_own() -> None:
    message = called(("", "f", "{}"), ("", "f", {"n": 2}))
    uses = T.answer(completion(message), {})["content"]
    assert len({u["id"] for u in uses}) == 2
    assert uses[1]["input"] == {"n": 2}
    assert T.answer(completion(message, id="other"), {})["content"][0]["id"] != uses[0]["id"]


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"choices": None}, {"choices": []}, {"choices": [None, 5]}, {"choices": [{"message": 5}]},
        {"choices": [{"message": {"content": 5, "tool_calls": [1, {}, {"function": {"arguments": 5}}]}}]},
        {"usage": "x", "id": 5, "model": []}, {"usage": {"prompt_tokens": -5}}, {"service_tier": {}},
        {"id": "", "model": ""},
    ],
)  # fmt: skip
def test_an_odd_reply_is_still_a_message(odd: Json) -> None:
    out = T.answer(odd, {"model": "m"})
    assert (out["type"], out["role"], out["model"]) == ("message", "assistant", "m")
    assert out["id"].startswith("msg_")
    assert type(out["usage"]["input_tokens"]) is int
    assert all(set(b) >= {"type"} for b in out["content"])


def test_only_the_first_choice_is_told() -> None:
    reply = completion({"content": "first"})
    reply["choices"].insert(0, {"index": 1, "message": {"content": "second"}, "finish_reason": "stop"})
    assert T.answer(reply, {})["content"] == [text("first")]


def test_an_error_told_with_200_stays_an_error() -> None:
    out = T.answer({"error": {"message": "Oops", "code": 429}}, {})
    assert out == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Oops"},
        "request_id": None,
    }


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "authentication_error"), (402, "billing_error"), (403, "permission_error"), (404, "not_found_error"),
     (408, "timeout_error"), (409, "conflict_error"), (413, "request_too_large"), (429, "rate_limit_error"),
     (499, "invalid_request_error"), (500, "api_error"), (503, "overloaded_error"), (504, "timeout_error"),
     (529, "overloaded_error")],
)  # fmt: skip
def test_the_type_of_an_error_follows_its_status(status: int, kind: str) -> None:
    assert json.loads(T.error(status, b'{"error":{"message":"x"}}'))["error"]["type"] == kind


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"error":{"message":"Bad","type":"invalid_request_error","code":"unknown_parameter","param":"x"}}',
         {"type": "invalid_request_error", "message": "Bad", "details": {"error_code": "unknown_parameter"}}),
        (429, b'{"error":{"message":"Slow","type":"tokens","code":null}}', {"type": "rate_limit_error", "message": "Slow"}),
        (404, b'[{"error":{"message":"None","code":404}}]', {"type": "not_found_error", "message": "None"}),
        (422, b'{"detail":"x"}', {"type": "invalid_request_error", "message": '{"detail":"x"}'}),
        (500, b"oops", {"type": "api_error", "message": "oops"}),
        (529, b"\xff", {"type": "overloaded_error", "message": "�"}),
        (413, b'{"error":"too large"}', {"type": "request_too_large", "message": "too large"}),
    ],
)  # fmt: skip
def test_error_bodies(status: int, body: bytes, error: Json) -> None:
    assert json.loads(T.error(status, body)) == {"type": "error", "error": error, "request_id": None}


# -- streams ----------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 18, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}
WHOLE = chat_stream(
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "I "}),
    chunk({"content": "lök."}),
    chunk(call_delta(0, "", id="call_1", name="f")),
    chunk(call_delta(1, "", id="call_2", name="g")),
    chunk(call_delta(0, '{"n"')),
    chunk(call_delta(1, '{"m":2}')),
    chunk(call_delta(0, ":1}")),
    chunk({}, "tool_calls"),
    chunk(usage=USAGE),
)


def test_a_stream_is_told_block_by_block() -> None:
    events = through(T.stream({"model": "alias", **THINKING}), WHOLE)
    assert [e["type"] for e in events] == [
        "message_start",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert [e["index"] for e in events[1:-2]] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert events[0]["message"] == {
        "id": "chatcmpl-1", "type": "message", "role": "assistant", "model": "gpt", "content": [],
        "stop_reason": None, "stop_sequence": None, "stop_details": None,
        "usage": {
            "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }  # fmt: skip
    assert [e["content_block"] for e in events if "content_block" in e] == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
    ]
    assert [e["delta"] for e in events if e["type"] == "content_block_delta"] == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "text_delta", "text": "I "},
        {"type": "text_delta", "text": "lök."},
        {"type": "input_json_delta", "partial_json": '{"n"'},
        {"type": "input_json_delta", "partial_json": ":1}"},
        {"type": "input_json_delta", "partial_json": '{"m":2}'},
    ]
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_details": None, "stop_sequence": None},
        "usage": {
            "input_tokens": 13, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5,
            "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 0},
        },
    }  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_a_stream_reads_the_same_however_it_is_split(step: int) -> None:
    assert through(T.stream(THINKING), WHOLE, step) == through(T.stream(THINKING), WHOLE)


def test_the_last_usage_counts_where_every_chunk_has_one() -> None:
    stream = chat_stream(
        chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}),
        chunk({"content": "b"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}),
    )
    assert through(T.stream({}), stream)[-2]["usage"]["output_tokens"] == 2


def test_groqs_usage_beside_the_finish_is_read() -> None:
    stream = chat_stream(
        chunk({"content": "a"}),
        chunk({}, "stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
    )
    assert through(T.stream({}), stream)[-2]["usage"]["input_tokens"] == 3


def test_a_stream_without_usage_tells_zeros() -> None:
    usage = through(T.stream({}), chat_stream(chunk({"content": "a"}, "stop")))[-2]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"error": {"message": "Overloaded", "code": 529}}, {"type": "overloaded_error", "message": "Overloaded"}),
        ({"error": {"message": "x", "type": "rate_limit_error", "code": "slow"}},
         {"type": "rate_limit_error", "message": "x", "details": {"error_code": "slow"}}),
        ({"error": {"message": "x", "type": "server_error"}}, {"type": "api_error", "message": "x"}),
        (chunk({"content": ""}, "error", error={"message": "x", "code": 502}), {"type": "api_error", "message": "x"}),
        ({"error": "plain"}, {"type": "api_error", "message": "plain"}),
    ],
)  # fmt: skip
def test_an_error_chunk_ends_the_stream_as_messages_clients_know_it(event: Json, error: Json) -> None:
    stream = T.stream({})
    stream.feed(chat_stream(chunk({"content": "Hel"}), done=False))
    told = read(stream.feed(chat_stream(event, chunk({"content": "late"}, "stop"))))
    assert told == [{"type": "error", "error": error, "request_id": None}]
    assert stream.end() == b""


def test_a_stream_that_breaks_off_ends_in_an_error_and_closes_no_call() -> None:
    stream = chat_stream(chunk(call_delta(0, '{"n":', id="a", name="f")), done=False)
    events = through(T.stream({}), stream)
    assert [e["type"] for e in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "error",
    ]
    assert through(T.stream({}), b"")[0]["type"] == "error"
    assert through(T.stream({}), chat_stream())[0]["type"] == "error"


def test_a_call_cut_by_the_limit_ends_with_max_tokens() -> None:
    stream = chat_stream(chunk(call_delta(0, '{"n":', id="a", name="f")), chunk({}, "length"))
    events = through(T.stream({}), stream)
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_done_without_a_finish_reason_finishes_the_answer() -> None:
    events = through(T.stream({}), chat_stream(chunk(call_delta(0, "{}", id="a", name="f"))))
    assert [e["type"] for e in events][-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_refusal_in_the_stream_is_told_as_one() -> None:
    events = through(T.stream({}), chat_stream(chunk({"refusal": "N"}), chunk({"refusal": "o."}, "stop")))
    assert [e["delta"] for e in events if e["type"] == "content_block_delta"] == [
        {"type": "text_delta", "text": "N"},
        {"type": "text_delta", "text": "o."},
    ]
    assert events[-2]["delta"]["stop_reason"] == "refusal"
    assert events[-2]["delta"]["stop_details"]["explanation"] == "No."


def test_calls_without_ids_get_their_own_in_streams_too() -> None:
    deltas = {"tool_calls": [{"index": i, "function": {"name": "f", "arguments": "{}"}} for i in range(2)]}
    events = through(T.stream({}), chat_stream(chunk(deltas), chunk({}, "stop")))
    ids = [e["content_block"]["id"] for e in events if "content_block" in e]
    assert len(set(ids)) == 2
    assert all(ids)


@pytest.mark.parametrize(
    "extra",
    [
        b"data: {\n\n", b"data: []\n\n", b"event: x\n\n", b": comment\n\n", b"\n\n",
        chat_stream({}, {"choices": "x"}, {"choices": [5]}, {"choices": [{"index": 1, "delta": {"content": "no"}}]}, done=False),
        chat_stream({"choices": [], "prompt_filter_results": [], "id": "", "model": ""}, done=False),
        chat_stream(chunk({"content": None}), chunk({"tool_calls": [5]}), chunk(usage=None), done=False),
    ],
)  # fmt: skip
def test_odd_and_empty_chunks_change_nothing(extra: bytes) -> None:
    head, tail = WHOLE[: WHOLE.index(b"\n\n") + 2], WHOLE[WHOLE.index(b"\n\n") + 2 :]
    assert through(T.stream(THINKING), head + extra + tail) == through(T.stream(THINKING), WHOLE)


def test_chunks_after_the_finish_are_not_told() -> None:
    stream = chat_stream(
        chunk({"content": "a"}, "stop"), chunk({"content": "late"}), chunk({"content": "x"}, "length")
    )
    events = through(T.stream({}), stream)
    assert [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"] == ["a"]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
