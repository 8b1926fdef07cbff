r"""Texts inside a text: what a reader who decodes, joins or reverses would see.

`decoded` finds base64, hexadecimal, URL and HTML encodings, `\u` escapes, letters set apart, ROT13, reversed
lines, leet, and what a page hides from its readers. Each result stands for a range of the text it was found
in; the ranges of one call never overlap, and no result is longer than its range, so that all results
together are never longer than the text. Time is linear: RE2 patterns over one byte for each character.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import unquote_to_bytes

import re2

from gateway.values import frozen

Kind = Literal[
    "tags",
    "selectors",
    "base64",
    "hex",
    "url",
    "entities",
    "escapes",
    "spaced",
    "rot13",
    "reversed",
    "leet",
    "hidden",
]

_MIN_CHARS = 6
"""Shorter results say nothing."""
_LINE, _PHRASE = 2_000, 200
"""Characters: how much of a line is read around what gave it away."""
_BETWEEN = 60
"""Characters between two escapes that are read together."""
_LATIN_WORDS = (
    "ignore ignoring disregard forget instructions instruction prompt system previous override please you"
    " your the and user send answer"
)


@frozen
class Reading:
    """A text found inside another, and the range it stands for (half open, in characters)."""

    kind: Kind
    text: str
    start: int
    end: int


def _telltales(change: Callable[[str], str]) -> str:
    return "|".join(change(word) for word in _LATIN_WORDS.split())


_ROT13_WORDS = _telltales(lambda word: codecs.encode(word, "rot13"))
_REVERSED_WORDS = _telltales(lambda word: word[::-1])


def _line_with(word: str, times: int) -> str:
    """A pattern for lines that hold so many of these words."""
    return rf"\b(?:{word})\b" + rf"(?:[^\n]*?[^\n\w](?:{word})\b)" * (times - 1)


_LEET = str.maketrans("013457@$!", "oieastasi")
_HIDING = (
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*[01](?:px|pt|em)?\s*[;\"']|opacity\s*:\s*0[^.1-9]"
    r"|color\s*:\s*(?:white|transparent|#fff)|\shidden\b|aria-hidden|left\s*:\s*-\d{3,}"
)


def _run_of(part: str, begin: str) -> str:
    """A pattern for such parts in a row, with a little other text between them."""
    return rf"{part}(?:[^\n{begin}]{{0,{_BETWEEN}}}{part})*"


_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("hidden", rf"<!--|<[a-zA-Z][^<>]{{0,400}}(?:{_HIDING})[^<>]{{0,400}}>"),
    ("escapes", _run_of(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})", r"\\")),
    ("entities", _run_of(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,10});", "&")),
    ("url", r"[A-Za-z0-9._~+-]{0,40}(?:%[0-9A-Fa-f]{2}[A-Za-z0-9._~+*!'(),;:@/?=&#-]{0,40}){2,}"),
    ("hex", r"(?:(?:0x)?[0-9a-fA-F]{2}[ ,:]?){8,}"),
    ("base64", r"(?:[A-Za-z0-9+/_-]{16,}={0,2}\s?)+"),
    ("spaced", r"\b[A-Za-z0-9](?:[^A-Za-z0-9\n]{1,4}[A-Za-z0-9]\b){7,}"),
    ("rot13", _line_with(rf"(?i:{_ROT13_WORDS})", 2)),
    ("reversed", _line_with(rf"(?i:{_REVERSED_WORDS})", 2)),
    ("leet", _line_with(r"[A-Za-z]*(?:[A-Za-z][0134578@$!]|[0134578@$!][A-Za-z])[A-Za-z0134578@$!]+", 3)),
)
_ANY = re2.compile("|".join(f"(?:{pattern})" for _, pattern in _PATTERNS))
_FIND = {kind: re2.compile(pattern) for kind, pattern in _PATTERNS}

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_GAPS = re.compile(r"[^A-Za-z0-9]+")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")
_LETTERS = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[a-zA-Z]{2,}")


def decoded(text: str) -> list[Reading]:
    """What `text` says when decoded, in order of the decodings; usually nothing."""
    # One byte for each character, so that a pattern's offsets are the text's.
    data = text.encode("ascii", "replace")
    if not _ANY.search(data):
        return []
    taken = bytearray(len(text))
    found: list[Reading] = []
    for kind, pattern in _FIND.items():
        for reading in _readers[kind](text, (m.span() for m in pattern.finditer(data))):
            start, end = reading.start, reading.end
            if len(reading.text) >= _MIN_CHARS and taken.find(1, start, end) < 0:
                taken[start:end] = b"\x01" * (end - start)
                found.append(reading)
    return found


# --- one reader for each kind: the text and the ranges of its pattern's matches, to readings

_Ranges = Iterator[tuple[int, int]]
_Reader = Callable[[str, _Ranges], Iterator[Reading]]


def _each(kind: Kind, read: Callable[[str], str | None]) -> _Reader:
    """A reader that decodes every match by itself."""

    def readings(text: str, matches: _Ranges) -> Iterator[Reading]:
        for start, end in matches:
            result = read(text[start:end])
            if result is not None:
                yield Reading(kind, result[: end - start], start, end)

    return readings


def _as_text(data: bytes) -> str | None:
    """Bytes that are text and hold words, as text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    odd = sum(1 for c in text if not c.isprintable() and c not in "\n\r\t") if not text.isprintable() else 0
    return text if odd * 20 <= len(text) and any(c.isalpha() for c in text) else None


def _from_base64(run: str) -> str | None:
    packed = "".join(run.split()).rstrip("=").replace("-", "+").replace("_", "/")
    packed = packed[: len(packed) - (len(packed) % 4 == 1)]
    try:
        return _as_text(base64.b64decode(packed + "=" * (-len(packed) % 4)))
    except binascii.Error:
        return None


_NOT_HEX = re.compile(r"0x|[ ,:]")


def _from_hex(run: str) -> str | None:
    digits = _NOT_HEX.sub("", run)
    return _as_text(bytes.fromhex(digits[: len(digits) & ~1]))


def _from_url(run: str) -> str | None:
    return _as_text(unquote_to_bytes(run.replace("+", " ")))


def _from_escapes(run: str) -> str:
    text = _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)), run)
    # Pairs of surrogates stand for one character each.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _joined(run: str) -> str | None:
    """Letters set apart, joined: the usual gap stands inside words, a longer one between them."""
    letters = run[::2]
    if letters.isascii() and letters.isalnum() and not _ALPHANUMERIC.search(run[1::2]):
        return letters if len(_LETTERS.findall(letters)) * 2 > len(letters) else None
    gaps = list(map(len, _GAPS.findall(run)))
    usual = min(gaps)
    pieces = _GAPS.split(run)
    text = "".join(
        [piece if gap == usual else piece + " " for piece, gap in zip(pieces, (*gaps, usual), strict=True)]
    )
    return text if len(_LETTERS.findall(text)) * 2 > len(text) else None


def _around(kind: Kind, change: Callable[[str], str], reach: int) -> _Reader:
    """A reader of the matches and so much of their lines around them; what touches is read together."""

    def readings(text: str, matches: _Ranges) -> Iterator[Reading]:
        low = high = 0
        for start, end in matches:
            first = max(high, start - reach, text.rfind("\n", max(0, start - reach), start) + 1)
            if first > high:
                if low < high:
                    yield Reading(kind, change(text[low:high]), low, high)
                low = first
            stop = text.find("\n", end, end + reach)
            high = stop if stop >= 0 else min(len(text), end + reach)
        if low < high:
            yield Reading(kind, change(text[low:high]), low, high)

    return readings


def _hidden(text: str, matches: _Ranges) -> Iterator[Reading]:
    """Comments, and what stands in elements that a page does not show."""
    done = 0
    for start, end in matches:
        if start < done:
            continue
        stop = text.find("-->" if text.startswith("<!--", start) else "</", end)
        done = stop if stop >= 0 else len(text)
        if _WORD.search(text, end, done):
            yield Reading("hidden", text[end:done], end, done)
        if done == len(text):
            return


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


_readers: dict[Kind, _Reader] = {
    "hidden": _hidden,
    "escapes": _around("escapes", _from_escapes, _PHRASE),
    "entities": _around("entities", html.unescape, _PHRASE),
    "url": _each("url", _from_url),
    "hex": _each("hex", _from_hex),
    "base64": _each("base64", _from_base64),
    "spaced": _each("spaced", _joined),
    "rot13": _around("rot13", _rot13, _LINE),
    "reversed": _around("reversed", lambda line: line[::-1], _LINE),
    "leet": _around("leet", lambda line: line.translate(_LEET), _LINE),
}
