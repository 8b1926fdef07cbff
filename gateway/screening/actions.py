"""What is done to a text in which something was found: redact, mask, pseudonymise, neutralise.

Each action returns the new text and where it differs. Findings may overlap, come from several detectors and
in any order: what any of them covers is replaced, under the type of the surest. The same text with the same
findings always gives the same result.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.screening.base import Finding
from gateway.values import frozen

MARKER = "[untrusted instruction removed]"
"""Stands for each neutralised passage, in every session. Holds nothing that JSON or markup would escape."""

_MASK = "*"
_STARS = 8
_OPAQUE = frozenset((
    "PASSWORD", "PRIVATE_KEY", "URL_PASSWORD", "BASIC_AUTH", "CURL_USER", "NETRC_PASSWORD",
    "CONFIG_PASSWORD", "KUBERNETES_SECRET",
))  # fmt: skip
"""Types of which not one character is kept by a mask."""


class Pseudonyms(Protocol):
    """What gives values their stand-ins: a `vault.Vault`."""

    def pseudonym(self, type_: str, value: str, text: str) -> str: ...

    def spans(self, text: str) -> list[tuple[int, int]]: ...


@frozen
class Edit:
    """One replacement: what was `start` to `end` in the old text is `at` to `at + len(text)` in the new."""

    start: int
    end: int
    at: int
    text: str
    type: str


@frozen
class Edited:
    """A text after an action."""

    text: str
    edits: tuple[Edit, ...]

    def original(self, position: int) -> int:
        """The position in the old text of a position in the new; inside a replacement, its beginning."""
        at = bisect_right(self.edits, position, key=lambda edit: edit.at) - 1
        if at < 0:
            return position
        edit = self.edits[at]
        past = position - edit.at - len(edit.text)
        return edit.start if past < 0 else edit.end + past

    def moved(self, start: int, end: int) -> tuple[int, int]:
        """The range in the new text of a range in the old: replacements that it touches belong to it."""
        return self._new(start, last=False), self._new(end, last=True)

    def _new(self, position: int, *, last: bool) -> int:
        at = bisect_right(self.edits, position, key=lambda edit: edit.start) - 1
        if at < 0:
            return position
        edit = self.edits[at]
        if position < edit.end:
            inside = last and position > edit.start
            return edit.at + (len(edit.text) if inside else 0)
        return edit.at + len(edit.text) + position - edit.end


def redact(text: str, findings: Iterable[Finding]) -> Edited:
    """Each finding becomes its type in brackets: `[CREDIT_CARD]`."""
    return _replace(text, covered(text, findings), lambda found, _: f"[{found.type}]")


def mask(text: str, findings: Iterable[Finding]) -> Edited:
    """Each finding becomes stars, but for what helps to recognise it: the last four characters of a number,
    the first letter of a word; of passwords and private keys nothing."""
    return _replace(text, covered(text, findings), lambda found, value: _masked(found.type, value))


def pseudonymise(text: str, findings: Iterable[Finding], vault: Pseudonyms) -> Edited:
    """Each finding becomes its stand-in in `vault`. What touches a stand-in that is there already is left
    alone, so that a text may pass twice."""
    taken = vault.spans(text)
    spans = [
        found
        for found in covered(text, findings)
        if not any(a < found.end and found.start < b for a, b in taken)
    ]
    return _replace(text, spans, lambda found, value: vault.pseudonym(found.type, value, text))


def neutralise(text: str, findings: Iterable[Finding], marker: str = MARKER) -> Edited:
    """Each sentence that a finding touches becomes `marker`; flagged sentences in a row become one."""
    fenced = [_sentence(text, found) for found in covered(text, findings)]
    merged: list[Finding] = []
    for found in fenced:
        if merged and (found.start <= merged[-1].end or not text[merged[-1].end : found.start].strip()):
            merged[-1] = _union(merged[-1], found)
        else:
            merged.append(found)
    return _replace(text, merged, lambda found, _: marker)


def covered(text: str, findings: Iterable[Finding]) -> list[Finding]:
    """The findings without overlaps, in order: those that overlap become one, as long as all of them, of
    the type of the surest. Empty ones, and what lies outside the text, are dropped."""
    size = len(text)
    inside = (
        Finding(found.detector, found.type, max(0, found.start), min(size, found.end), found.score)
        for found in findings
    )
    merged: list[Finding] = []
    for found in sorted(
        (one for one in inside if one.start < one.end), key=lambda one: (one.start, -one.end)
    ):
        if merged and found.start < merged[-1].end:
            merged[-1] = _union(merged[-1], found)
        else:
            merged.append(found)
    return merged


def _union(one: Finding, other: Finding) -> Finding:
    surest = max(one, other, key=lambda found: (found.score, found.end - found.start))
    return Finding(
        surest.detector, surest.type, min(one.start, other.start), max(one.end, other.end), surest.score
    )


def _replace(text: str, findings: list[Finding], replacement: Callable[[Finding, str], str]) -> Edited:
    parts: list[str] = []
    edits: list[Edit] = []
    done = size = 0
    for found in findings:
        new = replacement(found, text[found.start : found.end])
        size += found.start - done
        parts += (text[done : found.start], new)
        edits.append(Edit(found.start, found.end, size, new, found.type))
        size += len(new)
        done = found.end
    parts.append(text[done:])
    return Edited("".join(parts), tuple(edits))


def _masked(type_: str, value: str) -> str:
    if type_ in _OPAQUE:
        return _MASK * _STARS
    local, at, domain = value.partition("@")
    if type_ == "EMAIL_ADDRESS" and at:
        return f"{local[:1]}{_MASK * 3}@{domain[:1]}{_MASK * 3}.{domain.rpartition('.')[2]}"
    letters = sum(c.isalnum() for c in value)
    digits = sum(c.isdigit() for c in value)
    if not digits:
        return value[:1] + _MASK * max(1, letters - 1)
    kept = min(4, letters // 3)
    hidden = letters - kept
    out = []
    for c in value:
        if c.isalnum():
            out.append(_MASK if hidden > 0 else c)
            hidden -= 1
        else:
            out.append(c)
    return "".join(out)


# Where a sentence ends: after its stop and what closes it, at a line's end, spelled-out ones of JSON
# included, and at the edges of markup and cells.
_END = re.compile(r"[.!?…]+[\"'”’)\]]{0,3}(?=\s|$)|[。！？]|[\r\n]+|\\[nr]|[<>|]")
_JSON_END = re.compile(_END.pattern + r"|(?<!\\)\"")
_REACH = 600
"""Characters on either side of a finding in which the sentence's edge is looked for."""


def _sentence(text: str, found: Finding) -> Finding:
    ends = _JSON_END if text.lstrip()[:1] in ("{", "[") else _END
    low, high = max(0, found.start - _REACH), min(len(text), found.end + _REACH)
    start = low
    for match in ends.finditer(text, low, found.start):
        start = match.end()
    while start < found.start and text[start].isspace():
        start += 1
    # A stop that the finding itself ends with is the sentence's.
    last = ends.search(text, max(found.start, found.end - 1), high)
    if last is None:
        end = high
    else:
        end = last.end() if last.group()[0] in ".!?…。！？" else max(found.end, last.start())
    return Finding(found.detector, found.type, start, max(end, found.end), found.score)
