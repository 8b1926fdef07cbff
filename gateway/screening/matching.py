"""Many patterns over one text in one pass, in linear time.

A `PatternSet` asks RE2 once which of its patterns occur at all, and only those are then run one by one. RE2
reads bytes, so the text is brought to ASCII first, one byte for each character (`to_ascii`): offsets into
the bytes are offsets into the text, and what looks like a digit, a dash, a space or a Latin letter in
another script is read as one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import re2

_MAX_MEMORY = 64 << 20
"""Bytes that RE2 may use for the states of one set; it discards and rebuilds states below that."""


def _table() -> dict[int, str]:
    table = dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " ")
    table |= dict.fromkeys((*range(0x2010, 0x2016), 0x2043, 0x2212, 0xFE58, 0xFE63), "-")
    table |= dict.fromkeys((0x2018, 0x2019, 0x201B, 0x2032, 0x02BC), "'")
    table |= dict.fromkeys((0x201C, 0x201D, 0x201E, 0x201F, 0x2033), '"')
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


_SET_SIZE = 28
"""Patterns asked at once: a larger set reads texts that few patterns fit faster, and hostile ones slower."""


class PatternSet:
    """RE2 patterns, asked together. A pattern may have one group, which is then what is found."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises `ValueError`, with the pattern in it, for one that RE2 does not accept."""
        options = re2.Options()
        options.max_mem = _MAX_MEMORY
        options.log_errors = False
        self._each = []
        for pattern in patterns:
            try:
                compiled = re2.compile(pattern, options)
            except re2.error as error:
                raise ValueError(f"{pattern!r}: {error}") from None
            if compiled.groups > 1:
                raise ValueError(f"{pattern!r}: more than one group")
            self._each.append((compiled, compiled.groups))
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
