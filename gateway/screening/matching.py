"""Many patterns over one text in one pass, in linear time.

A `PatternSet` asks RE2 once which of its patterns occur at all, and only those are then run one by one. RE2
reads bytes, so the text is brought to ASCII first, one byte for each character (`to_ascii`): offsets into
the bytes are offsets into the text, and what looks like a digit, a dash, a space or a Latin letter in
another script is read as one.

`Surroundings` says which words stand beside a place in a text, for thousands of places at the cost of one
reading.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Protocol

import re2

from gateway.screening.context import AFTER, BEFORE, Words

_MAX_MEMORY = 64 << 20
"""Bytes that RE2 may use for the states of one set; it discards and rebuilds states below that."""


def _table() -> dict[int, str]:
    table = dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " ")
    table |= dict.fromkeys((*range(0x2010, 0x2016), 0x2043, 0x2212, 0xFE58, 0xFE63), "-")
    table |= dict.fromkeys((0x2018, 0x2019, 0x201B, 0x2032, 0x02BC), "'")
    table |= dict.fromkeys((0x201C, 0x201D, 0x201E, 0x201F, 0x2033, 0xAB, 0xBB), '"')
    table |= dict.fromkeys((0x2024, 0x3002, 0xFE52, 0xFF61), ".")
    table |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    table |= {ord(a): b for a, b in zip("ßøØłŁđĐæÆœŒıþÞðÐ", "soOlLdDaAoOitTdD", strict=True)}
    for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        base = unicodedata.normalize("NFD", chr(code))[0]
        if base.isascii() and code not in table:
            table[code] = base
    for code in range(0x660, 0x1_0000):
        if (digit := unicodedata.decimal(chr(code), None)) is not None:
            table.setdefault(code, str(digit))
    return table


_ASCII = _table()


def to_ascii(text: str) -> str:
    """`text` with one ASCII character for each of its characters; `?` for what resembles none."""
    if text.isascii():
        return text
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


class _Match(Protocol):
    def start(self) -> int: ...

    def span(self, group: int, /) -> tuple[int, int]: ...


class _Pattern(Protocol):
    """What `re` and RE2 have in common."""

    def finditer(self, text: bytes, /) -> Iterator[_Match]: ...


_CLASS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]")
_COSTLY = re.compile(r"[*+^$]|,\}|~s")
_ALTERNATIVES = 12
"""More than these are told apart faster by RE2, for `re` tries one after the other."""


def _simple(pattern: str) -> bool:
    """Whether `re` needs few steps for each place, for no repetition is open and alternatives are few, and
    nothing in it means something else there, as `\\s` and `$` do."""
    outline = _CLASS.sub(lambda m: "~s" if m.group() in (r"\s", r"\S") else "~", pattern)
    return outline.count("|") <= _ALTERNATIVES and not _COSTLY.search(outline)


_SET_SIZE = 28
"""Patterns asked at once: a larger set reads texts that few patterns fit faster, and hostile ones slower."""


class PatternSet:
    """RE2 patterns, asked together. A pattern may have one group, which is then what is found."""

    def __init__(self, patterns: Sequence[str], *, ours: bool = False) -> None:
        """`ours`: the patterns are part of the program, and where one repeats a group, the group's beginning
        tells whether it goes on; `re` then runs the simple ones, at a quarter of the time that RE2's binding
        needs for a match.
        Raises `ValueError`, with the pattern in it, for one that RE2 does not accept.
        """
        options = re2.Options()
        options.max_mem = _MAX_MEMORY
        options.log_errors = False
        self._each: list[tuple[_Pattern, int]] = []
        for pattern in patterns:
            try:
                compiled = re2.compile(pattern, options)
            except re2.error as error:
                raise ValueError(f"{pattern!r}: {error}") from None
            if compiled.groups > 1:
                raise ValueError(f"{pattern!r}: more than one group")
            quick = re.compile(pattern.encode()) if ours and _simple(pattern) else compiled
            self._each.append((quick, compiled.groups))
        self._sets = []
        count = -(-len(patterns) // _SET_SIZE)
        for first in range(count):
            members = range(first, len(patterns), count)
            one = re2.Set.SearchSet(options)
            for index in members:
                one.Add(patterns[index])
            # Matches every text, unless RE2 gave up for want of memory, which it does not tell otherwise.
            one.Add("")
            one.Compile()
            self._sets.append((one, members))

    def present(self, text: bytes) -> list[int]:
        """The patterns, by their place in the constructor's list, that occur in `text`."""
        occurring: list[int] = []
        for one, members in self._sets:
            found = one.Match(text)
            if len(members) in found:
                occurring += [members[i] for i in found if i < len(members)]
            else:
                occurring += members
        return sorted(occurring)

    def spans(self, index: int, text: bytes) -> Iterator[tuple[int, int]]:
        """Where pattern `index` occurs, from left to right, without overlaps; empty ones are left out."""
        pattern, group = self._each[index]
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if start < end:
                yield start, end

    def named_spans(self, index: int, text: bytes) -> Iterator[tuple[int, int, int]]:
        """The same, with where the whole match begins in front."""
        pattern, group = self._each[index]
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if start < end:
                yield match.start(), start, end


# -- words beside a place -------------------------------------------------------------------------------


class Cues(Words):
    """Words that can be looked for from one place in a text on."""

    def __init__(self, *words: str) -> None:
        super().__init__(*words)
        self.words = words

    def following(self, text: bytes, at: int) -> tuple[int, int] | None:
        """Where the first of them from `at` on stands, with the character before a word that stands alone
        and the one after it. `text` is UTF-8."""
        match = self._search(text, at)
        return match.span() if match is not None else None


_NONE = (1, 0, 0)
"""Nothing looked for yet: no place lies between 1 and 0."""


class Surroundings:
    """Which words stand beside the places of one text.

    Answers are those of `Words`, but that a word cut by the end of a window (`tel` of `hotel`) is none. Where
    the next word stands is kept: of many places, asked in any order that mostly ascends, all cost as much
    as one reading of the text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._data = text.encode("utf-8", "replace")
        self._size = len(text)
        self._ascii = len(self._data) == len(text)
        self._bytes: list[int] = []
        self._next: dict[Cues, tuple[int, int, int]] = {}

    def beside(self, cues: Cues, start: int, end: int) -> bool:
        return self.before(cues, start) or self.follows(cues, end)

    def before(self, cues: Cues, start: int, reach: int = BEFORE) -> bool:
        first = start - reach if start > reach else 0
        seen = self._within(cues, first, start)
        return cues.before(self._text, start, reach) if seen is None else seen

    def follows(self, cues: Cues, end: int, reach: int = AFTER) -> bool:
        last = end + reach if end + reach < self._size else self._size
        seen = self._within(cues, end, last)
        return cues.follows(self._text, end, reach) if seen is None else seen

    def _within(self, cues: Cues, first: int, last: int) -> bool | None:
        """Whether a word stands there; `None` when one lies across an end, so that the place itself must be
        read."""
        at = first - 1 if first else 0
        if not self._ascii:
            places = self._bytes or self._places()
            at, first, last = places[at], places[first], places[last]
        since, start, end = self._next.get(cues, _NONE)
        if not since <= at <= start:
            start, end = cues.following(self._data, at) or (len(self._data), len(self._data) + 1)
            self._next[cues] = at, start, end
        if start >= last:
            return False
        return True if start >= first and end <= last else None

    def _places(self) -> list[int]:
        """Where each character begins in the text's UTF-8, and where the last one ends."""
        self._bytes = [at for at, byte in enumerate(self._data) if byte & 0xC0 != 0x80]
        self._bytes.append(len(self._data))
        return self._bytes
