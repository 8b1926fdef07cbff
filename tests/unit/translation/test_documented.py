"""What a translation leaves out is said in its decision page, and nothing else is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.translation import chat_messages, messages_chat, responses_chat

PAGE = (Path(__file__).parents[3] / "docs" / "decisions" / "0007-translation.md").read_text()


@pytest.mark.parametrize("module", [chat_messages, messages_chat, responses_chat])
def test_every_field_left_out_is_documented(module: object) -> None:
    left_out: frozenset[str] = module._LEFT_OUT  # type: ignore[attr-defined]
    assert [name for name in sorted(left_out) if f"`{name}`" not in PAGE] == []
