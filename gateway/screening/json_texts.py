"""Texts that hold JSON, as results and arguments of tools do: read without escapes, still JSON when edited.

In `"Hi\\njane@example.com"` the `n` is no letter of the address, and a number that is replaced by words needs
quotes.
"""

from __future__ import annotations

import re
from bisect import bisect_right

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.screening.actions import Edit, Edited
from gateway.values import frozen

_ESCAPE = re.compile(r"\\(?:[nrtbf\"\\/]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")
_MEANS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_LONGEST_ESCAPE = 6
_MOST_LEVELS = 3
"""JSON inside of JSON inside of JSON."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[0-9][-+0-9.eE]*)')


@frozen
class Unescaped:
    """A text without the escapes of the JSON in it."""

    text: str
    _offsets: NDArray[np.intp] | None = None
    """Where each character, and the end, stands in the text with escapes; None where nothing is escaped."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range there of a range here."""
        if self._offsets is None:
            return start, end
        return int(self._offsets[start]), int(self._offsets[end])


def unescaped(text: str) -> Unescaped:
    """The text as whoever reads the JSON in it sees it; itself when it holds none."""
    offsets: NDArray[np.intp] | None = None
    for _ in range(_MOST_LEVELS):
        if "\\" not in text or '"' not in text:
            break
        text, inner = _once(text)
        if inner is None:
            break
        offsets = inner if offsets is None else offsets[inner]
    return Unescaped(text, offsets)


def _once(text: str) -> tuple[str, NDArray[np.intp] | None]:
    spans = np.array([match.span() for match in _ESCAPE.finditer(text)])
    if not len(spans):
        return text, None
    starts, lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
    kept = np.ones(len(text) + 1, bool)
    for inside in range(1, _LONGEST_ESCAPE):
        kept[starts[lengths > inside] + inside] = False
    return _ESCAPE.sub(_character, text), np.flatnonzero(kept)


def _character(match: re.Match[str]) -> str:
    escape = match.group()
    if len(escape) == 2:
        return _MEANS.get(escape[1], escape[1])
    code = int(escape[2:], 16)
    # Half of a pair is no character by itself, and both halves are none of a value.
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


def as_json(text: str, edited: Edited) -> Edited:
    """The edited text, with what stands for numbers of a JSON document in quotes, so that it remains one."""
    if not edited.edits or text.lstrip()[:1] not in ("{", "[") or not _is_json(text):
        return edited
    numbers = [match.span() for match in _TOKEN.finditer(text) if match.group(1)]
    parts: list[str] = []
    edits: list[Edit] = []
    done = size = 0
    for edit in edited.edits:
        start, end, put = edit.start, edit.end, edit.text
        at = bisect_right(numbers, start, key=lambda span: span[0]) - 1
        if at >= 0 and start < numbers[at][1] and not _is_json(put):
            # All of the number, its sign and its fraction.
            start, end = max(done, numbers[at][0]), max(end, numbers[at][1])
            put = f'"{put}"'
        if start < done:
            continue
        parts += (text[done:start], put)
        size += start - done
        edits.append(Edit(start, end, size, put, edit.type))
        size += len(put)
        done = end
    return Edited("".join((*parts, text[done:])), tuple(edits))


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
