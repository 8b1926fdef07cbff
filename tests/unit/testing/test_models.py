"""What the catalogue's agents read from a dialogue, and how they fill a tool's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.testing import Ask, ToolOffer, Turn
from gateway.testing.models import CATALOGUE, actions_so_far, fill, find


def ask(*turns: Turn, tools: tuple[ToolOffer, ...] = ()) -> Ask:
    return Ask("m", False, turns, tools, None, 1, False, {"tools": [1] if tools else []})


USER, CALL, RESULT = Turn("user", "go"), Turn("assistant", "", 1), Turn("tool", "r")


@pytest.mark.parametrize(
    ("turns", "actions"),
    [
        ([USER], 0),
        ([USER, CALL, RESULT, CALL, RESULT], 2),
        ([USER, CALL, Turn("user", "result as a user message"), CALL, USER], 2),
        ([USER, CALL, RESULT, Turn("assistant", "done"), USER, CALL, RESULT], 1),
        ([USER, Turn("assistant", "Thought: x\nAction: y"), Turn("user", "Observation: z")], 1),
        (
            [
                Turn(
                    "user",
                    "Format: Observation: x\nBegin!\nAction: a\nObservation: b\nAction: c\nObservation: d",
                )
            ],
            2,
        ),
    ],
)
def test_actions_are_counted_since_the_last_answer(turns: list[Turn], actions: int) -> None:
    assert actions_so_far(ask(*turns)) == actions


def test_arguments_follow_the_schema() -> None:
    schema: dict[str, Any] = {
        "properties": {
            "query": {"type": "string", "maxLength": 5},
            "level": {"enum": ["low", "high"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 2},
            "flag": {"type": "boolean"},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "where": {"type": "object", "properties": {"city": {"type": ["string", "null"]}}},
            "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "fixed": {"const": 7},
            "odd": True,
        }
    }
    assert fill(ToolOffer("f", schema), "topic", 2) == {
        "query": "topic",
        "level": "high",
        "count": 1,
        "flag": True,
        "when": "2026-01-15",
        "tags": ["topic (step 2)"],
        "where": {"city": "topic (step 2)"},
        "maybe": 2,
        "fixed": 7,
        "odd": "topic (step 2)",
    }
    assert fill(ToolOffer("f", {}), "topic", 1) == {"query": "topic (step 1)"}


def test_every_model_of_the_catalogue_exists() -> None:
    assert all(find(name) is not None for name in CATALOGUE)


@pytest.mark.parametrize("name", ["", "steps-0", "steps-x", "error-200", "error-600", "tokens-1", "nothing"])
def test_other_names_do_not(name: str) -> None:
    assert find(name) is None
