"""Screening of a text that comes in pieces: what may be part of a finding is held back, the rest goes on.

A `Window` gives the same verdict however the text was cut. It scans what it holds together with some of the
text before it, reports a finding in the passage that holds its text at the latest, and never releases a part
of one. Text in which nothing is found leaves as it came, character for character. Wire formats, and what a
finding leads to, are the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gateway.screening.base import Finding
from gateway.values import frozen

Scan = Callable[[str], Sequence[Finding]]
Change = Callable[[str, Sequence[Finding]], str]
"""A passage, and the findings in it with offsets into it, to what is released instead."""
Hold = Callable[[str], int]
"""A text that may go on, to the position from which a pattern may still need it."""

CONTEXT = 512
"""Characters before the held ones that are scanned along, for the words beside a value."""
RIGHT = 28
"""Characters after a value that its verdict may depend on: the words after it, and its edge."""
MOST_HELD = 65_536
"""Characters held for one finding that does not end; then it counts as ended."""


@frozen
class Passage:
    """What a piece led to: text to send on, and what was found, to be heeded before it is sent.

    Offsets of findings are those of the whole text as it came, before any change.
    """

    text: str
    findings: tuple[Finding, ...] = ()


class Window:
    """One text in pieces. `feed` them in order, then `flush`; a text that goes on after that has what was
    before as its context, so that a finding over both is still told."""

    def __init__(
        self,
        scan: Scan,
        longest: int,
        *,
        hold: Hold | None = None,
        change: Change | None = None,
        context: int = CONTEXT,
    ) -> None:
        """`longest` characters are held back, those of the longest pattern; fewer where `hold` tells that
        fewer may still be needed. `change` may replace what was found, or restore stand-ins; it gets
        passages that end where no finding and no held value does."""
        self._scan = scan
        self._longest = max(longest, RIGHT)
        self._hold = hold
        self._change = change
        self._context = context
        self._text = ""
        """What is held, after up to `context` characters of what was released."""
        self._offset = 0
        """Where `_text` begins in the whole text."""
        self._released = 0
        """How much of `_text` was released."""
        self._told = 0
        """Up to where, in the whole text, findings were reported."""
        self._next_scan = 0
        """How long `_text` must be before another scan can change anything."""

    @property
    def held(self) -> int:
        """Characters held back."""
        return len(self._text) - self._released

    def feed(self, piece: str) -> Passage:
        self._text += piece
        return self._pass(final=False)

    def flush(self) -> Passage:
        """The rest of the text, at its end."""
        return self._pass(final=True)

    def _pass(self, *, final: bool) -> Passage:
        size = len(self._text)
        limit = size if final else max(self._released, self._settled())
        if not final and (limit == self._released or size < self._next_scan):
            return Passage("")
        findings = [f for f in self._scan(self._text) if f.end > self._released]
        if not final:
            limit = self._before_open(findings, limit)
        inside = [f for f in findings if f.end <= limit]
        new = tuple(
            Finding(f.detector, f.type, f.start + self._offset, f.end + self._offset, f.score)
            for f in inside
            if f.start + self._offset >= self._told
        )
        if new:
            self._told = max(f.end for f in new)
        return Passage(self._release(limit, inside), new)

    def _settled(self) -> int:
        size = len(self._text)
        needed = size - self._longest
        return needed if self._hold is None else max(needed, self._hold(self._text))

    def _before_open(self, findings: Sequence[Finding], limit: int) -> int:
        """The limit moved before every finding that more text may change."""
        size = len(self._text)
        self._next_scan = 0
        for found in sorted(findings, key=lambda f: f.start, reverse=True):
            if found.end > limit or (found.end + RIGHT > size and found.start < limit):
                if size - found.start > MOST_HELD:
                    continue
                limit = min(limit, max(found.start, self._released))
                # A finding that goes on is scanned again when it has grown by a quarter: linear in all.
                if found.end == size and size - found.start > self._longest:
                    self._next_scan = size + (size - found.start) // 4
        return limit

    def _release(self, limit: int, inside: Sequence[Finding]) -> str:
        passage = self._text[self._released : limit]
        if self._change is not None and passage:
            here = [
                Finding(f.detector, f.type, max(0, f.start - self._released), f.end - self._released, f.score)
                for f in inside
            ]
            passage = self._change(passage, here)
        kept = max(0, limit - self._context)
        self._text = self._text[kept:]
        self._offset += kept
        self._released = limit - kept
        self._next_scan = max(0, self._next_scan - kept)
        return passage


_TOKEN = re.compile(r"\S+")
_PLAIN = re.compile(r"[^\W\d_]*[a-zà-öø-ÿ][^\W\d_]*[.,;:!?'\")\]]{0,3}")
_LOOK_BACK = 400


def hold_values(text: str) -> int:
    """The position from which a value of digits, signs or capitals may still be unfinished: a `Hold` for
    `pii` and `secrets`.

    Held are the last word, and words with digits, signs or capitals only that are near enough to the end
    for a word after them to matter, with what joins them. Ordinary words are released at once. What begins
    with ordinary words, as addresses and months do, needs the fixed hold of `longest`.
    """
    size = len(text)
    start = max(0, size - _LOOK_BACK)
    tokens = list(_TOKEN.finditer(text, start))
    held = size
    for token in reversed(tokens):
        last = token.end() == size
        plain = _PLAIN.fullmatch(text, token.start(), token.end()) is not None
        near = size - token.end() <= RIGHT or held - token.end() <= 2
        if last or (not plain and near):
            held = token.start()
        elif size - token.end() > RIGHT and plain:
            break
    return held
