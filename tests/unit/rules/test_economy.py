"""What is cut of tool results, what is not, and that prompts stay as they were for as long as possible."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Json, Role, Step, Surface
from gateway.policy.sections.reuse import Context
from gateway.rules.economy import BYTES_PER_TOKEN, SLACK, economise
from gateway.surfaces import CODECS
from tests.support.effort import least_effort

RULE = Context(keep_results=2, result_tokens=50, clip_tokens=500)
SURFACES = (Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES)
LONG = "".join(f"line {i:04d} of the page\n" for i in range(200))
"""4,400 bytes: 1,100 tokens."""


def parsed(surface: Surface, body: Json) -> Step:
    return CODECS[surface].parse(orjson.dumps(body))


def run(surface: Surface, results: list[Any], *, end: bool = False) -> Json:
    """A conversation with a call and its result for each of `results`; `end`: with a last answer."""
    if surface is Surface.CHAT:
        messages: list[Json] = [{"role": "system", "content": LONG}, {"role": "user", "content": LONG}]
        for i, result in enumerate(results):
            call = {
                "id": f"c{i}",
                "type": "function",
                "function": {"name": "f", "arguments": f'{{"q":"{LONG!r}"}}'},
            }
            messages.append({"role": "assistant", "content": LONG, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": result})
        if end:
            messages.append({"role": "assistant", "content": LONG})
        return {"model": "m", "messages": messages}
    if surface is Surface.MESSAGES:
        messages = [{"role": "user", "content": LONG}]
        for i, result in enumerate(results):
            use = {"type": "tool_use", "id": f"c{i}", "name": "f", "input": {"q": LONG}}
            messages.append({"role": "assistant", "content": [{"type": "text", "text": LONG}, use]})
            block = {"type": "tool_result", "tool_use_id": f"c{i}", "content": result}
            messages.append({"role": "user", "content": [block, {"type": "text", "text": LONG}]})
        if end:
            messages.append({"role": "assistant", "content": LONG})
        return {"model": "m", "max_tokens": 5, "system": LONG, "messages": messages}
    items: list[Json] = [{"role": "developer", "content": LONG}, {"role": "user", "content": LONG}]
    for i, result in enumerate(results):
        items.append(
            {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": f'{{"q":"{LONG!r}"}}'}
        )
        items.append({"type": "function_call_output", "call_id": f"c{i}", "output": result})
    if end:
        items.append({"role": "assistant", "content": LONG})
    return {"model": "m", "instructions": LONG, "input": items}


def result_of(surface: Surface, body: Json, i: int) -> Any:
    """The content of the i-th result."""
    if surface is Surface.CHAT:
        return [m for m in body["messages"] if m["role"] == "tool"][i]["content"]
    if surface is Surface.MESSAGES:
        blocks = [
            b
            for m in body["messages"]
            if m["role"] == "user" and type(m["content"]) is list
            for b in m["content"]
        ]
        return [b for b in blocks if b["type"] == "tool_result"][i]["content"]
    return [item for item in body["input"] if item.get("type") == "function_call_output"][i]["output"]


def spoken(surface: Surface, body: Json) -> list[Any]:
    entries: list[Any] = body["input" if surface is Surface.RESPONSES else "messages"]
    return entries


# What is cut


@pytest.mark.parametrize("surface", SURFACES)
def test_old_results_are_cut_huge_ones_clipped_and_the_last_stay_whole(surface: Surface) -> None:
    short = "r" * 1000
    step = parsed(surface, run(surface, [short, short, LONG, LONG, short]))
    made = economise(step, RULE)
    assert made is not None
    whole = [result_of(surface, made.step.body, i) for i in range(5)]
    cut = "r" * 133 + "\n[... about 200 tokens of this tool result are left out here ...]\n" + "r" * 67
    clipped = (
        LONG[:1333] + "\n[... about 600 tokens of this tool result are left out here ...]\n" + LONG[-667:]
    )
    assert whole == [cut, cut, clipped, clipped, short]
    assert made.results == 4
    saved = 2 * (1000 - len(cut)) + 2 * (4400 - len(clipped))
    assert made.tokens == saved // 4
    assert [item.role for item in made.step.items] == [item.role for item in step.items]
    assert [t.text for i in made.step.items if i.role is Role.TOOL for t in i.texts] == whole
    assert orjson.loads(made.step.raw) == made.step.body
    assert step.text_bytes - made.step.text_bytes == len(step.raw) - len(made.step.raw)
    reparsed = CODECS[surface].parse(made.step.raw)
    assert (reparsed.items, reparsed.text_bytes) == (made.step.items, made.step.text_bytes)


@pytest.mark.parametrize("surface", SURFACES)
def test_what_needs_no_cut_is_left_alone(surface: Surface) -> None:
    short = "r" * (50 * BYTES_PER_TOKEN + SLACK)
    assert economise(parsed(surface, run(surface, [short] * 9, end=True)), RULE) is None
    assert economise(parsed(surface, run(surface, [LONG[:2000]] * 3)), RULE) is None
    assert economise(parsed(surface, run(surface, [])), RULE) is None


def test_parts_of_a_result_share_its_limit_and_long_ones_give_way_first() -> None:
    parts = [
        {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
        for text in ("a" * 300, LONG, LONG)
    ]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9000}}
    made = economise(parsed(Surface.MESSAGES, run(Surface.MESSAGES, [[parts[0], image, *parts[1:]]])), RULE)
    assert made is not None
    content = result_of(Surface.MESSAGES, made.step.body, 0)
    assert content[:2] == [parts[0], image]
    assert [len(part["text"]) for part in content[2:]] == [850 + 66] * 2
    assert content[2]["cache_control"] == {"type": "ephemeral"}
    assert made.results == 1


def test_nested_texts_of_documents_and_search_results_are_cut_and_names_are_not() -> None:
    content: list[Json] = [
        {
            "type": "search_result",
            "source": "https://x" + "y" * 2500,
            "title": "t" * 2500,
            "content": [{"type": "text", "text": LONG}],
        },
        {
            "type": "document",
            "title": "u" * 2500,
            "source": {"type": "text", "media_type": "text/plain", "data": LONG},
        },
    ]
    made = economise(parsed(Surface.MESSAGES, run(Surface.MESSAGES, [content])), RULE)
    assert made is not None
    found, document = result_of(Surface.MESSAGES, made.step.body, 0)
    assert (found["source"], found["title"]) == (content[0]["source"], content[0]["title"])
    assert document["title"] == content[1]["title"]
    assert len(found["content"][0]["text"]) == len(document["source"]["data"]) == 1000 + 66


def test_outputs_of_shells_are_cut_and_definitions_found_by_a_search_are_not() -> None:
    tool = {
        "type": "function",
        "name": "g",
        "description": LONG,
        "parameters": {"type": "object", "properties": {}},
    }
    items: list[Json] = [
        {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "s",
            "output": [{"stdout": LONG, "stderr": "e", "outcome": {"type": "exit", "exit_code": 0}}],
        },
        {"type": "tool_search_call", "call_id": "t", "execution": "client", "arguments": {}},
        {"type": "tool_search_output", "call_id": "t", "execution": "client", "tools": [tool]},
        {"type": "custom_tool_call", "call_id": "k", "name": "k", "input": LONG},
        {"type": "custom_tool_call_output", "call_id": "k", "output": [{"type": "input_text", "text": LONG}]},
    ]
    made = economise(parsed(Surface.RESPONSES, {"model": "m", "input": items}), RULE)
    assert made is not None
    cut = made.step.body["input"]
    assert len(cut[1]["output"][0]["stdout"]) == 1999 + 66
    assert cut[1]["output"][0] | {"stdout": ""} == items[1]["output"][0] | {"stdout": ""}
    assert cut[3] == items[3]
    assert cut[4] == items[4]
    assert len(cut[5]["output"][0]["text"]) == 2000 + 66


def test_work_of_hosted_tools_is_not_touched() -> None:
    block = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "title": LONG, "url": "u", "encrypted_content": LONG}],
    }
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [use, block, {"type": "text", "text": LONG}]},
        {"role": "user", "content": "go on"},
    ]
    assert (
        economise(parsed(Surface.MESSAGES, {"model": "m", "max_tokens": 5, "messages": messages}), RULE)
        is None
    )
    items = [
        {"type": "mcp_call", "id": "m", "name": "n", "server_label": "s", "arguments": "{}", "output": LONG},
        {"role": "user", "content": "q"},
    ]
    assert economise(parsed(Surface.RESPONSES, {"model": "m", "input": items}), RULE) is None


def test_what_a_provider_keeps_counts_as_no_steps() -> None:
    outputs = [{"type": "function_call_output", "call_id": f"c{i}", "output": "r" * 1000} for i in range(20)]
    body = {"model": "m", "previous_response_id": "resp_1", "input": outputs}
    assert economise(parsed(Surface.RESPONSES, body), RULE) is None
    outputs[3]["output"] = LONG
    made = economise(parsed(Surface.RESPONSES, body), RULE)
    assert made is not None
    assert (made.results, made.step.state) == (1, ("resp_1",))


def test_other_surfaces_have_no_results() -> None:
    step = CODECS[Surface.COMPLETIONS].parse(orjson.dumps({"model": "m", "prompt": LONG * 9}))
    assert economise(step, RULE) is None


def test_calls_of_one_answer_are_one_step_and_the_first_form_of_calls_counts() -> None:
    messages: list[Json] = [{"role": "user", "content": "q"}]
    for i in range(4):
        calls = [
            {"id": f"c{i}{j}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for j in range(3)
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": f"c{i}{j}", "content": "r" * 1000} for j in range(3)]
    made = economise(parsed(Surface.CHAT, {"model": "m", "messages": messages}), RULE)
    assert made is not None
    assert made.results == 6
    legacy: list[Json] = [{"role": "user", "content": "q"}]
    for _ in range(4):
        legacy.append(
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
        )
        legacy.append({"role": "function", "name": "f", "content": "r" * 1000})
    made = economise(parsed(Surface.CHAT, {"model": "m", "messages": legacy}), RULE)
    assert made is not None
    assert made.results == 2


def test_a_limit_of_zero_leaves_the_line_alone() -> None:
    rule = Context(keep_results=1, result_tokens=0, clip_tokens=8000)
    made = economise(parsed(Surface.CHAT, run(Surface.CHAT, ["r" * 1000] * 2)), rule)
    assert made is not None
    line = "\n[... about 250 tokens of this tool result are left out here ...]\n"
    assert result_of(Surface.CHAT, made.step.body, 0) == line


@pytest.mark.parametrize("letter", ["ä", "語", "😀", "e\u0301"])
def test_no_character_is_broken(letter: str) -> None:
    made = economise(parsed(Surface.CHAT, run(Surface.CHAT, [letter * 3000])), RULE)
    assert made is not None
    text = result_of(Surface.CHAT, made.step.body, 0)
    assert set(text) <= set(letter) | set(
        "\n[... about 123456789 tokens of this tool result are left out here ...]\n0"
    )
    assert 2000 - 8 < len(text.encode()) < 2000 + SLACK


# Properties

TEXTS = st.text(max_size=60).flatmap(lambda text: st.integers(0, 60).map(lambda n: text * n))


@st.composite
def contents(draw: st.DrawFn, surface: Surface) -> Any:
    if draw(st.booleans()):
        return draw(TEXTS)
    kind = "input_text" if surface is Surface.RESPONSES else "text"
    return [{"type": kind, "text": text} for text in draw(st.lists(TEXTS, max_size=5))]


def without_results(surface: Surface, body: Json) -> Json:
    """The body with every text of a result emptied, its form kept."""
    copy: Json = orjson.loads(orjson.dumps(body))
    for entry in spoken(surface, copy):
        blocks = [entry]
        if surface is Surface.MESSAGES and type(entry["content"]) is list:
            blocks = [block for block in entry["content"] if block["type"] == "tool_result"]
        for block in blocks:
            name = "output" if surface is Surface.RESPONSES else "content"
            is_result = block.get("role") == "tool" or block.get("type") in (
                "tool_result",
                "function_call_output",
            )
            if is_result and type(block[name]) is str:
                block[name] = ""
            elif is_result:
                block[name] = [part | {"text": ""} for part in block[name]]
    return copy


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(SURFACES), st.integers(1, 4), st.integers(0, 40), st.integers(1, 200))
def test_only_results_change_once_and_for_all(
    data: st.DataObject, surface: Surface, keep: int, tokens: int, clip: int
) -> None:
    rule = Context(keep_results=keep, result_tokens=tokens, clip_tokens=clip)
    results = data.draw(st.lists(contents(surface), max_size=9))
    step = parsed(surface, run(surface, results, end=data.draw(st.booleans())))
    made = economise(step, rule)
    if made is None:
        return
    assert without_results(surface, made.step.body) == without_results(surface, step.body)
    assert economise(made.step, rule) is None
    assert len(made.step.raw) < len(step.raw)
    # In a body each line end has two bytes.
    assert 0 < made.tokens * BYTES_PER_TOKEN <= len(step.raw) - len(made.step.raw) + 90
    assert CODECS[surface].parse(made.step.raw).items == made.step.items
    for i, result in enumerate(results):
        texts = [result] if type(result) is str else [part["text"] for part in result]
        after = result_of(surface, made.step.body, i)
        after = [after] if type(after) is str else [part["text"] for part in after]
        most = (clip if i >= len(results) - keep else max(clip, tokens)) * BYTES_PER_TOKEN
        assert sum(len(t.encode()) for t in after) <= most + SLACK * len(texts)
        if i >= len(results) - keep and sum(len(t.encode()) for t in texts) <= clip * BYTES_PER_TOKEN:
            assert after == texts


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(("keep", "moves"), [(1, 39), (2, 19), (4, 9), (8, 4)])
def test_a_prompt_begins_with_the_one_before_but_for_one_step_in_so_many(
    surface: Surface, keep: int, moves: int
) -> None:
    rule = Context(keep_results=keep, result_tokens=50, clip_tokens=500)
    results = [f"{i} {LONG}" if i % 5 == 0 else f"{i} {'r' * 1500}" for i in range(40)]
    changed: list[int] = []
    before: list[Any] = []
    for turn in range(41):
        body = run(surface, results[:turn])
        made = economise(parsed(surface, body), rule)
        now = spoken(surface, made.step.body if made is not None else body)
        if now[: len(before)] != before:
            changed.append(turn)
        else:
            assert len(now) > len(before)
        before = now
    assert len(changed) == moves
    assert {b - a for a, b in pairwise(changed)} == {keep}
    assert changed[0] == 2 * keep


def test_a_border_that_has_passed_a_result_never_lets_it_grow_again() -> None:
    results = ["r" * 1500 + str(i) for i in range(30)]
    seen: dict[int, int] = {}
    for turn in range(1, 31):
        made = economise(parsed(Surface.CHAT, run(Surface.CHAT, results[:turn])), RULE)
        if made is None:
            continue
        for i in range(turn):
            length = len(result_of(Surface.CHAT, made.step.body, i))
            assert length <= seen.get(i, length)
            seen[i] = length
    assert [seen[i] < 1500 for i in range(30)] == [True] * 28 + [False] * 2


# Hostile shapes


def test_results_before_any_call_and_empty_and_missing_contents() -> None:
    messages = [
        {"role": "tool", "content": LONG},
        {"role": "tool", "tool_call_id": "x", "content": None},
        {"role": "tool", "tool_call_id": "x", "content": []},
        {"role": "tool", "tool_call_id": "x", "content": ""},
        {"role": "user", "content": "q"},
    ]
    made = economise(parsed(Surface.CHAT, {"model": "m", "messages": messages}), RULE)
    assert made is not None
    assert made.step.body["messages"][1:] == messages[1:]
    block = {"type": "tool_result", "tool_use_id": "x"}
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}
    assert economise(parsed(Surface.MESSAGES, body), RULE) is None


def test_a_result_that_holds_the_line_is_cut_like_any_other() -> None:
    forged = "[... about 9 tokens of this tool result are left out here ...]\n" * 99
    made = economise(parsed(Surface.CHAT, run(Surface.CHAT, [forged])), RULE)
    assert made is not None
    assert len(result_of(Surface.CHAT, made.step.body, 0)) == 2000 + 67


def test_thousands_of_tiny_parts_are_left_as_they_are() -> None:
    parts = [{"type": "text", "text": "r" * 20} for _ in range(20_000)]
    assert economise(parsed(Surface.CHAT, run(Surface.CHAT, [parts])), RULE) is None


@pytest.mark.parametrize("surface", SURFACES)
def test_time_grows_with_the_length(surface: Surface) -> None:
    few, many = (parsed(surface, results_alone(surface, n)) for n in (300, 3000))
    assert (
        least_effort(lambda: economise(many, RULE), 3)
        < 15 * least_effort(lambda: economise(few, RULE)) + 0.02
    )


def results_alone(surface: Surface, count: int) -> Json:
    """A history of `count` short calls with results that all have to be cut."""
    body: Json = orjson.loads(
        orjson.dumps(run(surface, ["ä" * 400] * count)).replace(orjson.dumps(LONG), b'"t"')
    )
    return body
