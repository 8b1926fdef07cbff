"""Every string of every request of the official SDKs is shown to guards, or stands in a reviewed list.

A field that a new SDK brings fails here until it is shown or reviewed.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.rules.lineage import Lineage
from tests.parity.allowed import Entry, groups
from tests.parity.schemas import (
    REQUESTS,
    Field,
    Json,
    Parse,
    at,
    fields,
    read,
    seen_as,
    shown_in,
    thoughts,
)

SURFACES = list(dict.fromkeys(surface for surface, _, _, _ in REQUESTS))
surfaces = pytest.mark.parametrize("surface", SURFACES)
requests = pytest.mark.parametrize(
    ("request_name", "parse"), [(name, parse) for _, name, parse, _ in REQUESTS]
)


@cache
def fates() -> dict[Surface, dict[str, set[frozenset[str]]]]:
    """By surface and path: in which ways the strings there are seen."""
    found: dict[Surface, dict[str, set[frozenset[str]]]] = defaultdict(lambda: defaultdict(set))
    for field in fields():
        found[field.surface][field.path].add(seen_as(field))
    return found


def entries(surface: Surface) -> list[Entry]:
    return [entry for group in groups() for entry in group.entries if entry.surface is surface]


def fate(ways: set[frozenset[str]]) -> str:
    """`shown`, or the list that a path belongs into. One string that is not shown decides for its path."""
    if frozenset() in ways:
        return "not_shown"
    return "opaque" if frozenset({"media"}) in ways else "shown"


@surfaces
def test_every_string_is_shown_or_reviewed(surface: Surface) -> None:
    unreviewed = {
        path: is_now
        for path, ways in fates()[surface].items()
        if (is_now := fate(ways)) != "shown"
        and not any(entry.list == is_now and entry.fits(path) for entry in entries(surface))
    }
    assert unreviewed == {}


@surfaces
def test_the_reviewed_lists_hold_nothing_else(surface: Surface) -> None:
    for entry in entries(surface):
        fitting = [path for path in fates()[surface] if entry.fits(path)]
        assert fitting, f"{entry.pattern} fits no string of a request on {surface}"
        for path in fitting:
            assert fate(fates()[surface][path]) == entry.list, (entry.pattern, path)


def test_no_string_stands_in_two_groups() -> None:
    for surface in SURFACES:
        for path in fates()[surface]:
            fitting = [entry.reason for entry in entries(surface) if entry.fits(path)]
            assert len(set(fitting)) <= 1, (path, fitting)


def test_the_walk_finds_what_is_known_to_be_there() -> None:
    paths = {surface: set(found) for surface, found in fates().items()}
    assert {
        "messages[user].content",
        "messages[user].content[text].text",
        "messages[assistant].tool_calls[custom].custom.input",
        "tools[function].function.parameters{}",
        "response_format(json_schema).json_schema.schema{key}",
        "stop[]",
        "metadata{}",
    } <= paths[Surface.CHAT]
    assert {
        "input",
        "input[function_call_output].output[input_text].text",
        "prompt.variables{}(input_text).text",
        "tools[namespace].tools[function].description",
    } <= paths[Surface.RESPONSES]
    assert {
        "system[].text",
        "messages[user].content[tool_result].content[document].source(content).content[text].text",
        "mcp_servers[].url",
        "tools[input_schema+name].input_schema.properties{}",
    } <= paths[Surface.MESSAGES]
    assert paths[Surface.EMBEDDINGS] == {"input", "input[]", "model", "user"}
    assert {surface: len(found) for surface, found in paths.items() if len(found) < 4} == {}


def pointed_at(step: Any) -> list[tuple[Any, ...]]:
    """The pointers of a step's texts, each followed to exactly its text."""
    texts = [text for item in step.items for text in item.texts]
    for text in (*texts, *thoughts(step)):
        assert at(step.body, text.pointer) == text.text, text
    return [text.pointer for text in texts]


@pytest.mark.parametrize("second", [False, True])
def test_every_pointer_leads_to_its_text_and_no_text_is_shown_twice(second: bool) -> None:
    for field in fields(second=second):
        step = read(field, "a text")
        pointers = pointed_at(step)
        assert len(set(pointers)) == len(pointers), field.path
        if "text" in shown_in(step, "a text"):
            thought = [text.pointer for text in thoughts(step)]
            assert field.pointer in (*pointers, *thought), field.path


CONVERSATION = ("messages", "input", "prompt", "system", "instructions", "suffix")


def test_what_stands_beside_the_conversation_does_not_change_it() -> None:
    lineage = Lineage(b"k")
    for field in fields():
        if field.pointer[:1] and field.pointer[0] not in CONVERSATION:
            nodes = {lineage.chain("p", read(field, text).items).nodes for text in ("one", "other")}
            assert len(nodes) == 1, field.path


def together(those: list[Field]) -> tuple[Json, list[str]]:
    """One body that has every field of a list in it, each with a text of its own."""
    body: Json = {}
    texts: list[str] = []
    for i, field in enumerate(those):
        text = f"canary-{i:05d}"
        more = field.put(text)
        holder = str(field.pointer[0]) if field.pointer else ""
        value = more.pop(holder, None)
        body = {**more, **body}
        if isinstance(value, list) and isinstance(body.get(holder, []), list):
            body[holder] = [*body.get(holder, []), *value]
            texts.append(text)
        elif holder:
            body.setdefault(holder, value)
    return body, texts


@requests
def test_fields_hide_nothing_from_each_other(request_name: str, parse: Parse) -> None:
    """All list elements in one request: every text is seen as it is alone, wherever it then stands."""
    those = [
        field
        for field in fields()
        if field.request == request_name
        and seen_as(field) - {"media", "model"}
        # One of it is as much as there may be beside a conversation.
        and field.pointer[:1] != ("previous_response_id",)
    ]
    body, texts = together(those)
    step = parse(orjson.dumps(body))
    pointed_at(step)
    hidden = [text for text in texts if not list(shown_in(step, text))]
    assert hidden == []
    assert len(texts) > 10 or step.surface not in (Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES)
