"""Each file in `golden/` is a broken policy; the `.txt` beside it is all that `gateway check` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.loading import load
from gateway.policy.messages import PolicyError

GOLDEN = Path(__file__).parent / "golden"
ENV = {"GOOD_KEY": "gw-0123456789abcdef", "BAD_KEY": "secret\x07value", "EMPTY_KEY": "", "WORD": "expanded"}


def messages(path: Path) -> str:
    with pytest.raises(PolicyError) as raised:
        load(path, ENV)
    return "".join(f"{mistake}\n" for mistake in raised.value.mistakes)


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_every_mistake_is_told_in_these_words(name: str) -> None:
    assert messages(GOLDEN / f"{name}.yaml") == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_no_message_shows_a_secret_or_breaks_its_line(name: str) -> None:
    text = messages(GOLDEN / f"{name}.yaml")
    for secret in (
        "sk-live-0123456789",
        "secret@",
        "key=secret",
        "two words",
        "expanded",
        *filter(None, ENV.values()),
    ):
        assert secret not in text
    assert all(line.isprintable() for line in text.split("\n"))
