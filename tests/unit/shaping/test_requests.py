"""Requests written anew: notes, unusable tools, and turns with their results."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.shaping import SHAPERS
from gateway.surfaces import CODECS
from tests.unit.shaping.support import TALKING, TOOLS, request

Json = dict[str, Any]
CHAT, MESSAGES, RESPONSES = (SHAPERS[surface] for surface in TALKING)
COMPLETIONS = SHAPERS[Surface.COMPLETIONS]
NOTE = {"type": "text", "text": "Finish."}
USER = {"role": "user", "content": "Go."}


def chat(*messages: Json) -> Json:
    return {"model": "m", "messages": list(messages)}


def noted(shaper: Any, body: Json) -> Json:
    before = orjson.dumps(body)
    out = shaper.with_note(body, "Finish.")
    assert orjson.dumps(body) == before
    assert isinstance(out, dict)
    return out


def test_a_chat_note_is_a_user_message_behind_the_tools_results() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}, {"id": "2"}]}
    results = [{"role": "tool", "tool_call_id": i, "content": "x"} for i in ("1", "2")]
    out = noted(CHAT, chat(USER, calls, *results))
    assert out["messages"] == [USER, calls, *results, {"role": "user", "content": "Finish."}]


def test_a_chat_answer_that_is_begun_stays_last() -> None:
    begun = {"role": "assistant", "content": "{", "prefix": True}
    assert noted(CHAT, chat(USER, begun))["messages"] == [
        USER,
        {"role": "user", "content": "Finish."},
        begun,
    ]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], [{"role": "user", "content": [{"type": "text", "text": "Go."}, NOTE]}]),
        (
            [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}],
            [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, NOTE]}],
        ),
        (
            [USER, {"role": "assistant", "content": "{"}],
            [
                {"role": "user", "content": [{"type": "text", "text": "Go."}, NOTE]},
                {"role": "assistant", "content": "{"},
            ],
        ),
        (
            [USER, {"role": "system", "content": "s"}, {"role": "assistant", "content": "{"}],
            [
                USER,
                {"role": "system", "content": "s"},
                {"role": "user", "content": [NOTE]},
                {"role": "assistant", "content": "{"},
            ],
        ),
        (
            [{"role": "assistant", "content": "{"}],
            [{"role": "user", "content": [NOTE]}, {"role": "assistant", "content": "{"}],
        ),
    ],
)
def test_a_messages_note_stands_behind_results_and_before_what_is_begun(
    messages: list[Json], expected: list[Json]
) -> None:
    assert noted(MESSAGES, chat(*messages))["messages"] == expected


@pytest.mark.parametrize("given", ["Go.", [USER], None, ""])
def test_a_responses_note_is_the_last_item_whatever_the_input_was(given: Any) -> None:
    body = {"model": "m", "input": given, "previous_response_id": "resp_1"}
    items = CODECS[Surface.RESPONSES].parse(orjson.dumps(noted(RESPONSES, body))).items
    texts = [text.text for item in items for text in item.texts]
    assert texts == (["Go."] if given else []) + ["Finish."]


def test_completions_have_no_place_for_any_of_it() -> None:
    body = {"model": "m", "prompt": "x"}
    assert COMPLETIONS.with_note(body, "Finish.") is None
    assert COMPLETIONS.without_tool_use(body, ["final_answer"]) == (body, None)
    assert COMPLETIONS.with_results(body, {}, []) == body
    with pytest.raises(ValueError, match="1 results for 0 calls"):
        COMPLETIONS.with_results(body, {}, ["x"])


@pytest.mark.parametrize(
    ("surface", "none", "forced"),
    [
        (Surface.CHAT, "none", {"type": "function", "function": {"name": "final_answer"}}),
        (
            Surface.MESSAGES,
            {"type": "none"},
            {"type": "tool", "name": "final_answer", "disable_parallel_tool_use": True},
        ),
        (Surface.RESPONSES, "none", {"type": "function", "name": "final_answer"}),
    ],
)
def test_tools_stay_defined_and_cannot_be_used(surface: Surface, none: Any, forced: Json) -> None:
    shaper = SHAPERS[surface]
    body = request(surface, tool_choice={"type": "any"}, parallel_tool_calls=True)
    before = orjson.dumps(body)
    assert shaper.without_tool_use(body, ["absent", ""]) == ({**body, "tool_choice": none}, None)
    out, name = shaper.without_tool_use(body, ["absent", "final_answer", "look"])
    assert name == "final_answer"
    assert out["tool_choice"] == forced
    assert out["tools"] == TOOLS[surface]
    if surface is not Surface.MESSAGES:
        assert out["parallel_tool_calls"] is False
    assert orjson.dumps(body) == before


@pytest.mark.parametrize("surface", TALKING)
@pytest.mark.parametrize("tools", [None, []])
def test_without_tools_there_is_no_choice(surface: Surface, tools: Any) -> None:
    body = request(surface, tools=False, tool_choice="auto")
    if surface is not Surface.MESSAGES:
        body["parallel_tool_calls"] = True
    if tools is not None:
        body["tools"] = tools
    out, name = SHAPERS[surface].without_tool_use(body, ["final_answer"])
    assert name is None
    assert "tool_choice" not in out
    assert "parallel_tool_calls" not in out


def test_legacy_functions_have_a_choice_of_their_own() -> None:
    body = {**chat(USER), "functions": [{"name": "look"}, {"name": "final_answer"}], "function_call": "auto"}
    assert CHAT.without_tool_use(body, [])[0]["function_call"] == "none"
    out, name = CHAT.without_tool_use(body, ["final_answer"])
    assert (name, out["function_call"]) == ("final_answer", {"name": "final_answer"})
    assert "tool_choice" not in out


def test_custom_tools_are_forced_in_their_own_words() -> None:
    body = {**chat(USER), "tools": [{"type": "custom", "custom": {"name": "final_answer"}}]}
    choice = CHAT.without_tool_use(body, ["final_answer"])[0]["tool_choice"]
    assert choice == {"type": "custom", "custom": {"name": "final_answer"}}
    body = {"model": "m", "input": "x", "tools": [{"type": "custom", "name": "final_answer"}]}
    choice = RESPONSES.without_tool_use(body, ["final_answer"])[0]["tool_choice"]
    assert choice == {"type": "custom", "name": "final_answer"}


@pytest.mark.parametrize("kind", ["enabled", "adaptive"])
def test_a_model_that_thinks_is_not_forced(kind: str) -> None:
    body = request(Surface.MESSAGES, thinking={"type": kind, "budget_tokens": 1024})
    out, name = MESSAGES.without_tool_use(body, ["final_answer"])
    assert (out["tool_choice"], name) == ({"type": "none"}, None)
    body["thinking"] = {"type": "disabled"}
    assert MESSAGES.without_tool_use(body, ["final_answer"])[1] == "final_answer"


def test_hosted_tools_are_never_the_final_one_and_cannot_be_used() -> None:
    search = {"type": "web_search_20250305", "name": "final_answer"}
    out, name = MESSAGES.without_tool_use({**chat(USER), "tools": [search]}, ["final_answer"])
    assert (out["tool_choice"], name) == ({"type": "none"}, None)
    servers = [{"type": "url", "url": "https://x", "name": "s", "tool_configuration": {"allowed_tools": []}}]
    out, _ = MESSAGES.without_tool_use({**chat(USER), "mcp_servers": servers}, [])
    assert out["mcp_servers"][0]["tool_configuration"] == {"allowed_tools": [], "enabled": False}
    assert "tool_choice" not in out
    body = {"model": "m", "input": "x", "tools": [{"type": "web_search"}]}
    assert RESPONSES.without_tool_use(body, ["web_search"]) == ({**body, "tool_choice": "none"}, None)


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": {"id": "pmpt_1"}},
        {"input": [USER, {"type": "additional_tools", "role": "developer", "tools": [{"type": "shell"}]}]},
    ],
)
def test_tools_that_come_another_way_cannot_be_used_either(more: Json) -> None:
    assert RESPONSES.without_tool_use({"model": "m", "input": "x", **more}, [])[0]["tool_choice"] == "none"


def test_a_chat_turn_goes_back_with_what_the_provider_put_into_it() -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "sig=="}},
    }
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "reasoning_content": "deep",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}],
        "tool_calls": [call],
    }
    out = CHAT.with_results(chat(USER), {"choices": [{"message": message}]}, ["no"])
    assert out["messages"] == [
        USER,
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "deep",
            "reasoning_details": message["reasoning_details"],
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
    ]


def test_chat_calls_without_ids_get_some_and_legacy_ones_need_none() -> None:
    calls = [{"function": {"name": "look", "arguments": "{}"}}, {"id": "", "function": {"name": "send"}}]
    out = CHAT.with_results(
        chat(USER), {"id": "a", "choices": [{"message": {"tool_calls": calls}}]}, ["1", "2"]
    )
    turn, *results = out["messages"][1:]
    ids = [call["id"] for call in turn["tool_calls"]]
    assert all(ids)
    assert len(set(ids)) == 2
    assert [(r["tool_call_id"], r["content"]) for r in results] == [(ids[0], "1"), (ids[1], "2")]
    message = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
    out = CHAT.with_results(chat(USER), {"choices": [{"message": message}]}, ["no"])
    assert out["messages"][1:] == [message, {"role": "function", "name": "look", "content": "no"}]


def test_of_several_choices_the_first_that_calls_goes_on_with_its_own_results() -> None:
    def choice(*ids: str) -> Json:
        return {"message": {"content": "x", "tool_calls": [{"id": i, "function": {}} for i in ids]}}

    turn = {"choices": [choice(), choice("a", "b"), choice("c")]}
    out = CHAT.with_results(chat(USER), turn, ["1", "2", "3"])
    told = [(m["tool_call_id"], m["content"]) for m in out["messages"] if m["role"] == "tool"]
    assert told == [("a", "1"), ("b", "2")]


def test_a_messages_turn_goes_back_without_what_is_not_taken() -> None:
    content: list[Json] = [
        {"type": "thinking", "thinking": "deep", "signature": "sig=="},
        {"type": "text", "text": ""},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
        {"type": "tool_use", "id": "t2", "name": "send", "input": '{"a'},
    ]
    out = MESSAGES.with_results(chat(USER), {"content": content}, ["1", "2"])
    turn, results = out["messages"][1:]
    assert turn["role"] == "assistant"
    wrapped = {**content[5], "input": {"INVALID_JSON": '{"a'}}
    assert turn["content"] == [content[0], *content[2:5], wrapped]
    assert results == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "1", "is_error": True},
            {"type": "tool_result", "tool_use_id": "t2", "content": "2", "is_error": True},
        ],
    }


def test_thoughts_that_nobody_keeps_do_not_go_back() -> None:
    output: list[Json] = [
        {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": None, "status": None},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    ]
    body = {"model": "m", "input": "Go.", "store": False}
    out = RESPONSES.with_results(body, {"output": output}, ["no"])
    call = {name: value for name, value in output[1].items() if name != "id"}
    assert out["input"][1:] == [call, {"type": "function_call_output", "call_id": "c", "output": "no"}]
    out = RESPONSES.with_results({**body, "store": True}, {"output": output}, ["no"])
    assert out["input"][1:3] == [{"id": "rs_1", "type": "reasoning", "summary": []}, output[1]]
    kept = [{**output[0], "encrypted_content": "x"}, output[1]]
    out = RESPONSES.with_results(body, {"output": kept}, ["no"])
    assert [item["id"] for item in out["input"][1:3]] == ["rs_1", "fc_1"]


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": "x"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "no"},
        ),
        (
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [{"stdout": "", "stderr": "no", "outcome": {"type": "exit", "exit_code": 1}}],
            },
        ),
        (
            {"type": "local_shell_call", "id": "l", "call_id": "c", "action": {"command": ["ls"]}},
            {"type": "local_shell_call_output", "id": "c", "output": "no"},
        ),
        (
            {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "x"}},
            {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no"},
        ),
        (
            {"type": "mcp_approval_request", "id": "m", "name": "x", "arguments": "{}"},
            {
                "type": "mcp_approval_response",
                "approval_request_id": "m",
                "approve": False,
                "reason": "no",
            },
        ),
    ],
)
def test_every_kind_of_call_is_answered_in_its_own_words(call: Json, answer: Json) -> None:
    out = RESPONSES.with_results({"model": "m", "input": "Go."}, {"output": [call]}, ["no"])
    assert out["input"][1:] == [call, answer]
    step = CODECS[Surface.RESPONSES].parse(orjson.dumps(out))
    assert step.items[-1].call_id in ("c", "m")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ({"type": "computer_call", "call_id": "c", "action": {"type": "click"}}, "computer_call_output"),
        ({"type": "tool_search_call", "call_id": "c", "arguments": {}}, "tool_search_output"),
    ],
)
def test_what_cannot_tell_a_text_is_answered_and_told_behind(call: Json, kind: str) -> None:
    out = RESPONSES.with_results({"model": "m", "input": "Go."}, {"output": [call]}, ["no"])
    answer, told = out["input"][2:]
    assert (answer["type"], answer["call_id"]) == (kind, "c")
    assert told == {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "no"}]}
    CODECS[Surface.RESPONSES].parse(orjson.dumps(out))


@pytest.mark.parametrize("surface", TALKING)
@pytest.mark.parametrize(
    "turn", [{}, {"choices": 3, "content": 4, "output": "x"}, {"choices": [1], "output": [2]}]
)
def test_turns_that_say_nothing_add_nothing_that_breaks(surface: Surface, turn: Json) -> None:
    body = request(surface)
    out = SHAPERS[surface].with_results(body, turn, [])
    CODECS[surface].parse(orjson.dumps(out))


def test_an_input_too_deep_to_be_sent_goes_back_as_text() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    turn = {"id": "m", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {"a": deep}}]}
    body = SHAPERS[Surface.MESSAGES].with_results(request(Surface.MESSAGES), turn, ["No."])
    assert list(body["messages"][1]["content"][0]["input"]) == ["INVALID_JSON"]
    orjson.dumps(body)
