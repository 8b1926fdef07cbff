"""A text in pieces: the verdict of the whole, nothing released too early, and quiet text as it came."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.screening import pii, secrets
from gateway.screening.actions import pseudonymise, redact
from gateway.screening.base import Finding
from gateway.screening.vault import LONGEST, Vault
from gateway.screening.window import RIGHT, Hold, Scan, Window, hold_values
from tests.support.effort import Effort

TYPES = pii.DEFAULT_ENTITIES - {"STREET_ADDRESS"}


def personal(text: str) -> Sequence[Finding]:
    return pii.scan(text, TYPES)


def canary(text: str) -> Sequence[Finding]:
    return [
        Finding("test", "CANARY", match.start(), match.end(), 1.0)
        for match in re.finditer("CANARY-[0-9]{4}", text)
    ]


TEXTS = (
    "Hi, I'm Anna, my card is 4111 1111 1111 1111, SSN 536-22-1234, mail anna@example.com, call +1 415 555 2671 or 0479 50 54 03. "
    "IBAN DE89 3704 0044 0532 0130 00. Server 10.2.3.4, born 1984-02-03 ok?",
    "Order number 4111111111111111 shipped. The team moved 3 services on 2024-05-12 at 10:30, version 2.3.1.\n\n- a list\n- of things",
    "Numbers: 078051123 is the ssn of him. 9469 9966 office\n 123456789012345 trailing",
    "日本 ４１１１ １１１１ １１１１ １１１１ é. Nothing else of note is in this one, as far as anybody can tell.",
    "password is Tr0ub4dor&3 and then -----BEGIN PRIVATE KEY-----\n"
    + "MIIEvQIBADANBgkqhkiG9w0B" * 8
    + "\n-----END PRIVATE KEY-----\n done.",
)


def run(
    pieces: Iterable[str], scan: Scan, hold: Hold | None, longest: int = 128
) -> tuple[str, list[Finding]]:
    """What was released and found; fails where text was released before its finding was told."""
    window = Window(scan, longest, hold=hold)
    released, whole = "", ""
    findings: list[Finding] = []
    for piece in pieces:
        whole += piece
        passage = window.feed(piece)
        findings += passage.findings
        released += passage.text
        for finding in scan(whole):
            if finding.end + RIGHT <= len(whole) and finding.start < len(released):
                assert finding in findings
    last = window.flush()
    assert window.held == 0
    return released + last.text, findings + list(last.findings)


@pytest.mark.parametrize("scan", [personal, secrets.scan], ids=["pii", "secrets"])
@pytest.mark.parametrize("hold", [None, hold_values], ids=["fixed", "values"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_split_anywhere_gives_the_verdict_of_the_whole(text: str, hold: Hold | None, scan: Scan) -> None:
    for cut in range(len(text) + 1):
        released, findings = run((text[:cut], text[cut:]), scan, hold)
        assert released == text
        assert findings == list(scan(text))


@given(
    st.sampled_from(TEXTS), st.lists(st.integers(1, 250), max_size=40), st.sampled_from([None, hold_values])
)
@settings(max_examples=80, deadline=None)
def test_any_cutting_gives_the_verdict_of_the_whole(text: str, cuts: list[int], hold: Hold | None) -> None:
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(at)]
    for scan in (personal, secrets.scan):
        released, findings = run(pieces, scan, hold)
        assert released == text
        assert findings == list(scan(text))


@given(st.text(max_size=300), st.integers(1, 20), st.sampled_from([None, hold_values]))
@settings(max_examples=80, deadline=None)
def test_any_text_leaves_as_it_came(text: str, size: int, hold: Hold | None) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert run(pieces, personal, hold)[0] == text


@given(st.integers(0, 80), st.integers(0, 80), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_not_one_character_of_a_canary_leaves_before_it_is_told(before: int, after: int, size: int) -> None:
    text = "x" * before + "CANARY-1234" + "y" * after
    window = Window(canary, 16)
    out = ""
    for i in range(0, len(text), size):
        passage = window.feed(text[i : i + size])
        if passage.findings:
            assert "C" not in out
            return
        out += passage.text
    assert "C" not in out
    assert window.flush().findings == (Finding("test", "CANARY", before, before + 11, 1.0),)


def test_no_more_is_held_than_the_longest_pattern_needs() -> None:
    window = Window(canary, 64)
    for _ in range(100):
        window.feed("abcdefg ")
        assert window.held <= 64


def test_ordinary_words_are_released_at_once() -> None:
    window = Window(personal, 128, hold=hold_values)
    assert window.feed("The quick brown").text == "The quick "
    assert window.feed(" fox jumps. ").text == "brown fox jumps. "
    assert window.feed("At 10").text == "At "
    assert window.held == 2
    assert window.feed(" people who came and went their several ways ").text != ""


def test_a_change_covers_every_finding_whole_however_it_was_cut() -> None:
    text = TEXTS[0]
    want = redact(text, personal(text)).text
    for size in (1, 2, 3, 5, 7, 11, 50):
        for hold in (None, hold_values):
            window = Window(personal, 128, hold=hold, change=lambda part, found: redact(part, found).text)
            out = (
                "".join(window.feed(text[i : i + size]).text for i in range(0, len(text), size))
                + window.flush().text
            )
            assert out == want


def test_stand_ins_are_restored_across_pieces() -> None:
    text = TEXTS[0]
    vault = Vault(b"k" * 16, "s")
    hidden = pseudonymise(text, personal(text), vault).text
    for size in (1, 2, 3, 5, 8, 13, 40):
        window = Window(lambda _: (), LONGEST, hold=hold_values, change=lambda part, _: vault.restore(part))
        out = (
            "".join(window.feed(hidden[i : i + size]).text for i in range(0, len(hidden), size))
            + window.flush().text
        )
        assert out == text


def test_offsets_are_of_the_whole_text() -> None:
    text = "a quiet line of words. " * 200 + "anna@example.com"
    released, findings = run([text[i : i + 37] for i in range(0, len(text), 37)], personal, hold_values)
    assert released == text
    assert [(f.type, f.start, f.end) for f in findings] == [("EMAIL_ADDRESS", 4600, 4616)]


def test_a_finding_over_a_flush_is_told() -> None:
    window = Window(canary, 16)
    assert window.feed("so CANA").findings == window.flush().findings == ()
    assert window.feed("RY-1234 and").findings == ()
    assert window.flush().findings == (Finding("test", "CANARY", 3, 14, 1.0),)
    assert window.flush().findings == ()


def test_empty_pieces_and_an_empty_text_are_nothing() -> None:
    window = Window(personal, 128)
    assert window.feed("").text == ""
    assert window.feed("x").text == ""
    assert window.feed("").text == ""
    assert window.flush().text == "x"
    assert Window(personal, 128).flush().text == ""


def test_a_finding_that_does_not_end_takes_linear_time() -> None:
    def endless(text: str) -> Sequence[Finding]:
        return [Finding("test", "LONG", at, len(text), 1.0)] if (at := text.find("!")) >= 0 else []

    window = Window(endless, 64)
    with Effort() as effort:
        out = window.feed("!").text
        for _ in range(20_000):
            out += window.feed("abcd").text
            assert window.held < 100_000
        out += window.flush().text
    assert effort.seconds < 2
    assert out == "!" + "abcd" * 20_000


def test_a_stream_of_small_pieces_costs_little_each() -> None:
    text = "The report describes how the team moved three services to the new cluster and why. " * 40
    window = Window(personal, 128, hold=hold_values)
    with Effort() as effort:
        for i in range(0, len(text), 4):
            window.feed(text[i : i + 4])
    assert effort.seconds / (len(text) / 4) < 0.000_5
