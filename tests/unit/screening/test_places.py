"""Every text of a request is found where it stands, and can be replaced there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.screening.base import Finding
from gateway.screening.places import MOST_JOINED, SEAM, Key, Place, is_unreadable, places, seams, with_texts
from gateway.surfaces import CODECS

Json = dict[str, Any]


def read(surface: Surface, body: Json) -> dict[str, Place]:
    step = CODECS[surface].parse(orjson.dumps({"model": "m", **body}))
    return {place.text: place for place in places(step)}


def test_chat_channels_and_tools() -> None:
    found = read(
        Surface.CHAT,
        {
            "messages": [
                {"role": "system", "content": "be good"},
                {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "text", "text": "up"}]},
                {"role": "assistant", "content": "ok", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x y"}'}},
                    {"id": "c2", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "found it"},
                {"role": "assistant", "content": None, "function_call": {"name": "old", "arguments": "{}"}},
            ],
            "tools": [{"type": "function", "function": {"name": "find", "description": "Finds things.",
                       "parameters": {"type": "object", "properties": {"q": {"type": "string",
                                      "description": "what to find", "enum": ["plain"]}}}}}],
        },
    )  # fmt: skip
    assert {text: (place.channel, place.tool) for text, place in found.items()} == {
        "be good": ("system", ""),
        "look": ("user", ""),
        "up": ("user", ""),
        "ok": ("assistant", ""),
        '{"q": "x y"}': ("assistant", "find"),
        "ls -l": ("assistant", "sh"),
        "found it": ("tool", "find"),
        "{}": ("assistant", "old"),
        "Finds things.": ("definition", "find"),
        "what to find": ("definition", "find"),
    }


def test_messages_arguments_are_leaves() -> None:
    found = read(
        Surface.MESSAGES,
        {
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "pay",
                 "input": {"to": ["a b", {"card": 4111111111111111, "n": 3}]}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "paid"}]},
            ],
            "tools": [{"name": "pay", "description": "Pays.", "input_schema": {"description": "who is paid"}}],
        },
    )  # fmt: skip
    assert found["a b"].pointer == ("messages", 1, "content", 0, "input", "to", 0)
    assert found["4111111111111111"].tool == "pay"
    assert "3" not in found
    assert (found["paid"].channel, found["paid"].tool) == ("tool", "pay")
    assert found["who is paid"].channel == "definition"


def test_responses_calls_and_results() -> None:
    found = read(
        Surface.RESPONSES,
        {
            "instructions": "be brief",
            "input": [
                {"role": "user", "content": "go"},
                {"type": "function_call", "call_id": "c", "name": "find", "arguments": '{"q": "x"}'},
                {"type": "function_call_output", "call_id": "c", "output": "here"},
            ],
            "tools": [{"type": "function", "name": "find", "description": "Finds things."}],
        },
    )
    assert found['{"q": "x"}'].tool == "find"
    assert (found["here"].channel, found["here"].tool) == ("tool", "find")
    assert found["be brief"].channel == "system"
    assert found["Finds things."].channel == "definition"


@pytest.mark.parametrize(
    ("surface", "body", "kind"),
    [
        (Surface.CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}, "image"),
        (Surface.RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (Surface.EMBEDDINGS, {"input": [1, 2, 3]}, "other"),
        (Surface.COMPLETIONS, {"prompt": [[1, 2]]}, "other"),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "hello"}]}, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(surface: Surface, body: Json, kind: str) -> None:
    step = CODECS[surface].parse(orjson.dumps({"model": "m", **body}))
    assert is_unreadable(step) == kind


def test_texts_are_replaced_in_a_copy() -> None:
    body: Json = {"a": [{"b": "one", "c": {"d": 5}}, {"b": "two"}], "e": "three", "f": {"g": []}}
    before = orjson.dumps(body)
    changed = with_texts(body, {("a", 0, "b"): "ONE", ("a", 0, "c", "d"): "FIVE", ("e",): "THREE"})
    assert changed == {"a": [{"b": "ONE", "c": {"d": "FIVE"}}, {"b": "two"}], "e": "THREE", "f": {"g": []}}
    assert orjson.dumps(body) == before
    assert changed["a"][1] is body["a"][1]
    assert changed["f"] is body["f"]


CANARY = "sk-THIS-IS-THE-CANARY"


@pytest.mark.parametrize("pad", [0, 3, SEAM - 5, SEAM, 2 * SEAM + 1, MOST_JOINED + 7])
@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_what_is_cut_in_two_is_found_at_the_seam(pad: int, pieces: int) -> None:
    cuts = [len(CANARY) * k // pieces for k in range(1, pieces)]
    for shift in range(len(CANARY) // pieces):
        edges = [0, *[min(len(CANARY), cut + shift) for cut in cuts], len(CANARY)]
        parts = [CANARY[a:b] for a, b in pairwise(edges)]
        texts = [". " * (pad // 2) + parts[0], *parts[1:-1], parts[-1] + " ." * (pad // 2)]
        row = [Place("user", text, ("t", i)) for i, text in enumerate(texts)]
        if any(CANARY in text for text in texts):
            continue
        hit: dict[int, str] = {}
        for seam in seams(row):
            at = seam.text.find(CANARY)
            if at >= 0:
                finding = Finding("secrets", "CANARY", at, at + len(CANARY), 1.0)
                for index, part in seam.across([finding], {}):
                    hit[index] = texts[index][part.start : part.end]
        assert "".join(hit[i] for i in sorted(hit)) == CANARY, (pad, pieces, shift)


def test_a_finding_does_not_grow_into_the_next_text() -> None:
    row = [Place("user", "mail a@acme.com", ("t", 0)), Place("user", "who is it", ("t", 1))]
    (seam,) = seams(row)
    assert seam.text == "mail a@acme.comwho is it"
    grown = Finding("pii", "EMAIL_ADDRESS", 5, 18, 1.0)
    own = {0: (Finding("pii", "EMAIL_ADDRESS", 5, 15, 1.0),)}
    assert list(seam.across([grown], own)) == []
    assert len(list(seam.across([grown], {}))) == 2
    assert seams([replace(place, spoken=False) for place in row]) == []


def test_channels_do_not_run_together_and_growing_rows_keep_their_windows() -> None:
    row = [Place("user", "a", ("u", 0)), Place("tool", "b", ("t", 0)), Place("user", "c", ("u", 1))]
    assert seams(row) == []
    long = [Place("user", f"message number {i} of a talk " * 4, ("m", i)) for i in range(60)]
    before = [seam.text for seam in seams(long[:40])]
    after = [seam.text for seam in seams(long)]
    assert after[: len(before) - 1] == before[:-1]
    assert all(len(text) <= MOST_JOINED + 2 * SEAM for text in after)


def test_keys_are_read_and_renamed_where_they_stand() -> None:
    body: Json = {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "mail",
             "input": {"who": {"a@acme.com": {"b@acme.com": "c d"}, "x": 1}}}]},
        ],
    }  # fmt: skip
    found = read(Surface.MESSAGES, body)
    outer, inner = found["a@acme.com"].pointer, found["b@acme.com"].pointer
    assert outer[-1] == Key("a@acme.com")
    assert found["c d"].label == "b@acme.com: "
    changed = with_texts(body, {outer: "A", found["c d"].pointer: "C D", inner: "B"})
    assert changed["messages"][1]["content"][0]["input"] == {"who": {"A": {"B": "C D"}, "x": 1}}
    assert body["messages"][1]["content"][0]["input"] == {
        "who": {"a@acme.com": {"b@acme.com": "c d"}, "x": 1}
    }
    # A name that is taken loses nothing.
    assert with_texts({"a": 1, "b": 2, "c": 3}, {(Key("a"),): "b"}) == {"b (2)": 1, "b": 2, "c": 3}


def test_schemas_are_read_but_for_plain_names() -> None:
    schema = {
        "type": "object", "properties": {"user_name": {"type": "string", "default": "a@acme.com"}, "k 1": {}},
        "required": ["user_name"], "description": "Ignore\nall", "enum": ["ghp_a8Kd03", "plain"],
    }  # fmt: skip
    tool = {"type": "function", "function": {"name": "f", "description": "word", "parameters": schema}}
    found = read(Surface.CHAT, {"messages": [{"role": "user", "content": "go"}], "tools": [tool]})
    assert {text for text, place in found.items() if place.channel == "definition"} == {
        "a@acme.com", "k 1", "Ignore\nall", "ghp_a8Kd03",
    }  # fmt: skip


def test_definitions_are_read_wherever_tools_are_told_of() -> None:
    inner = {
        "type": "function",
        "name": "f",
        "description": "Inner one.",
        "parameters": {"title": "Inner schema."},
    }
    space = {"type": "namespace", "name": "n", "description": "A space.", "tools": [inner]}
    found = read(
        Surface.RESPONSES,
        {
            "input": [{"role": "user", "content": "go"}, {"type": "additional_tools", "tools": [space]}],
            "tools": [space],
        },
    )
    assert {text for text, place in found.items() if place.channel == "definition"} == {
        "Inner one.", "Inner schema.", "A space.",
    }  # fmt: skip


def test_whom_it_is_asked_for_is_read() -> None:
    said = {"messages": [{"role": "user", "content": "go"}]}
    found = read(Surface.CHAT, {**said, "user": "a b", "safety_identifier": "c d", "prompt_cache_key": "e f"})
    assert {"a b", "c d", "e f"} <= found.keys()
    step = CODECS[Surface.EMBEDDINGS].parse(orjson.dumps({"model": "m", "input": "x", "user": "a@acme.com"}))
    assert [place.text for place in places(step)] == ["x", "a@acme.com"]
