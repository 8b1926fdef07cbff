"""Digests that a worker remembers are those that another one makes anew."""

from __future__ import annotations

import pytest

from gateway.domain import Item, Role, Text, ToolCall
from gateway.rules import lineage
from gateway.rules.lineage import Lineage

SECRET = b"lineage-secret"


def said(role: Role, text: str) -> Item:
    return Item(role, (Text(text, ("messages", 0, "content")),))


CONVERSATION = (
    said(Role.SYSTEM, "You are helpful."),
    said(Role.USER, "Same words"),
    said(Role.ASSISTANT, "Same words"),
    Item(Role.ASSISTANT, calls=(ToolCall("call_1", "look", '{"b": 1, "a": 2}'),)),
    Item(Role.TOOL, (Text("Same words", ()),), call_id="call_1"),
    said(Role.USER, "Same words"),
    said(Role.USER, "cafe\u0301 \ud800"),
)


def test_what_is_remembered_is_what_would_be_made_anew() -> None:
    remembering = Lineage(SECRET)
    for length in (*range(1, len(CONVERSATION) + 1), 3, len(CONVERSATION)):
        items = CONVERSATION[:length]
        assert remembering.chain("p", items) == Lineage(SECRET).chain("p", items)


def test_the_same_words_of_others_are_others() -> None:
    digests = Lineage(SECRET).chain("p", CONVERSATION).digests
    user, assistant, _, tool, again, _ = digests
    assert user == again
    assert len({user, assistant, tool}) == 3


def test_memory_is_bounded_and_holds_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_REMEMBERED", 10)
    remembering = Lineage(SECRET)
    texts = [f"text {n}" for n in range(35)]
    for text in texts:
        remembering.chain("p", [said(Role.USER, text)])
    assert 0 < len(remembering._known) <= 10
    assert "text" not in repr(remembering._known)
    items = [said(Role.USER, text) for text in texts]
    assert remembering.chain("p", items) == Lineage(SECRET).chain("p", items)
