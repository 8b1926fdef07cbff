"""One form for texts that read alike, with the way back to where each character came from.

`normalise` undoes what changes a text for a program and not for its reader: compatibility forms (NFKC),
characters without width, direction marks, tag characters, piles of combining marks, letters of another
alphabet inside a Latin word, line ends. Case is kept. It also reads what is written in an encoding
(`decoding`), to a depth of two.

A text of plain ASCII is returned as it is, without an offset map. Everything is linear in the text's length.
The normalised text is at most `MAX_GROWTH` times as long as the original (compatibility forms such as `㌖`
stand for several characters), and all decoded texts together at most twice as long as the normalised one.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from array import array
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gateway.screening.decoding import Kind, Reading, decoded
from gateway.values import frozen

MAX_GROWTH = 8
_DEPTH = 2
_MAX_MARKS = 4
"""Combining marks on one letter; more are noise, and sorting them takes quadratic time."""
_MAX_PASSES = 6

_Offsets = NDArray[np.int64]


@frozen
class Decoded:
    """A text found inside another by decoding it, and the range of the original it stands for."""

    text: str
    start: int
    end: int
    kind: Kind


@frozen
class Normalised:
    """A text in one form, and the way back."""

    text: str
    offsets: array[int] | None
    """For each character, and for the end, its position in the original; `None`: the same."""
    decoded: tuple[Decoded, ...]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range of the original that `text[start:end]` came from, dropped characters included."""
        at = self.offsets
        if at is None:
            return start, end
        # Several characters of one original (`ﬁ`) share a position: the range ends behind all of them.
        while start < end < len(at) - 1 and at[end] == at[end - 1]:
            end += 1
        return at[start], at[end]


def normalise(text: str) -> Normalised:
    """`text` in one form. Never raises; lone surrogates become U+FFFD."""
    if text.isascii() and not _ASCII_ODD.search(text):
        return Normalised(text, None, _decode(text, None) if len(text) > 7 else ())
    clean, offsets = _one_form(text)
    hidden = [] if text.isascii() else _unseen(text)
    return Normalised(clean, _packed(offsets), (*hidden, *_decode(clean, offsets)))


_ASCII_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def _packed(offsets: _Offsets | None) -> array[int] | None:
    return None if offsets is None else array("q", offsets.tobytes())


# --- characters

_KEEP, _DROP, _MARK = 0, 1, 2

_DROPPED = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_REPLACED = str.maketrans(
    {
        "\x85": "\n",
        "\u2028": "\n",
        "\u2029": "\n",
        # Two ligatures for whole sentences, 18 and 8 characters long: their first letters stand for them.
        "\ufdfa": "ص",
        "\ufdfb": "ج",
    }
    | {chr(code): "\ufffd" for code in range(0xD800, 0xE000)}
)
_ODD = re.compile(rf"[{_DROPPED}\r\x85\u2028\u2029\ufdfa\ufdfb\ud800-\udfff]")


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """For each code point: keep, drop, or a combining mark."""
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    for first, last in re.findall(r"(.)(?:-(.))?", _DROPPED, re.DOTALL):
        table[ord(first) : ord(last or first) + 1] = _DROP
    table[_MARKS] = _MARK
    return table


def _one_form(text: str) -> tuple[str, _Offsets | None]:
    """The text, and for each character (and the end) its position before; `None` where nothing moved."""
    offsets: _Offsets | None = None
    for _ in range(_MAX_PASSES):
        # Each step can make work for the others: a dropped joiner lets a letter and its mark compose.
        before = text
        for step in (_without_unseen, _nfkc, _undecorated):
            text, moved = step(text)
            if moved is not None:
                offsets = moved if offsets is None else offsets[moved]
        text = _folded(text)
        if text == before:
            break
    return text, offsets


def _without_unseen(text: str) -> tuple[str, _Offsets | None]:
    if not _ODD.search(text) and (text.isascii() or not _PILE.search(text)):
        return text, None
    codes = np.frombuffer(text.translate(_REPLACED).encode("utf-32-le"), "<u4")
    kind = _classes()[codes]
    drop = kind == _DROP
    returns = codes == 13
    # A carriage return before a line feed goes; one by itself is a line end.
    drop[:-1] |= returns[:-1] & (codes[1:] == 10)
    here = np.arange(len(codes))
    seen = ~drop
    base = np.maximum.accumulate(np.where(seen & (kind != _MARK), here, -1))
    marks = np.cumsum(seen & (kind == _MARK))
    drop |= (kind == _MARK) & (marks - np.where(base >= 0, marks[base], 0) > _MAX_MARKS)
    kept = np.flatnonzero(~drop)
    codes = np.where(returns, 10, codes)[kept]
    return codes.astype("<u4").tobytes().decode("utf-32-le"), np.append(kept, len(text))


_DECORATED = re.compile("(?<=[A-Za-z])[\u0300-\u036f\u0489\u20d0-\u20f0]+")


def _undecorated(text: str) -> tuple[str, _Offsets | None]:
    """Without the marks that compose with no Latin letter: strokes, rings and dots over a whole text."""
    if text.isascii() or not _DECORATED.search(text):
        return text, None
    kept = np.ones(len(text), bool)
    for run in _DECORATED.finditer(text):
        kept[run.start() : run.end()] = False
    return _DECORATED.sub("", text), np.append(np.flatnonzero(kept), len(text))


def _ranges(codes: list[int]) -> str:
    """Code points as the inside of a character class."""
    firsts = [code for code, before in zip(codes, [-1, *codes], strict=False) if code != before + 1]
    lasts = [code for code, after in zip(codes, [*codes[1:], -1], strict=True) if code + 1 != after]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(firsts, lasts, strict=True))


_MARKS = [code for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code))]
_SPACING = [code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)) in ("Mc", "Mn", "Me")]
_PILE = re.compile(f"[{_ranges(_MARKS)}]{{{_MAX_MARKS + 1}}}")
_JOINS = _ranges(sorted({*_SPACING, *range(0x1160, 0x1200)}))
"""Marks, and the later letters of Korean syllables: they may compose with what is before them."""
_CLUSTER = re.compile(f"[^{_JOINS}][{_JOINS}]*|[{_JOINS}]+")
_JOINING = re.compile(f"[{_JOINS}]")
_BEYOND_ASCII = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")


def _nfkc(text: str) -> tuple[str, _Offsets | None]:
    if unicodedata.is_normalized("NFKC", text):
        return text, None
    parts: list[str] = []
    starts: list[_Offsets] = []
    done = 0
    for run in _BEYOND_ASCII.finditer(text):
        if unicodedata.is_normalized("NFKC", run[0]):
            continue
        clusters = _CLUSTER.findall(run[0]) if _JOINING.search(run[0]) else list(run[0])
        forms = {cluster: unicodedata.normalize("NFKC", cluster) for cluster in set(clusters)}
        new = [forms[cluster] for cluster in clusters]
        first = run.start() + np.cumsum([0, *map(len, clusters)])[:-1]
        parts += text[done : run.start()], *new
        starts += np.arange(done, run.start()), np.repeat(first, list(map(len, new)))
        done = run.end()
    parts.append(text[done:])
    starts.append(np.arange(done, len(text) + 1))
    return "".join(parts), np.concatenate(starts)


# --- letters of other alphabets that look Latin

_LOOKS = (
    ("аеорсухіјѕԁһԛԝвкмнтгпиӏёїүАВЕКМНОРСТУХІЈ", "aeopcyxijsdhqwbkmhtrnuleiyABEKMHOPCTYXIJ"),
    ("ЅԌԚԜҮӀαεικνορτυχγηωβΑΒΕΖΗΙΚΜΝΟΡΤΥΧᴀʙᴄᴅᴇꜰ", "SGQWYIaeikvoptuxynwbABEZHIKMNOPTYXabcdef"),
    ("ɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɡɑօոսցհᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᏚᎢᏙ", "ghijklmnoprstuvwyzgaonughABCDEGHJKLMPSTV"),
    ("ᎳᏃ", "WZ"),
)
_LOOKALIKES = {ord(a): b for alien, latin in _LOOKS for a, b in zip(alien, latin, strict=True)}
_ALIEN = re.compile("[" + "".join(map(chr, _LOOKALIKES)) + "]")
_OTHERWISE_ALIEN = re.compile("[\u0370-\u03ff\u0400-\u052f]")
_LETTERS = re.compile(r"[^\W\d_]+")
_LATIN = re.compile("[A-Za-z]")


def _folded(text: str) -> str:
    """Look-alikes inside Latin words, as the Latin letters they pass for; words of other scripts stay.

    Where every Greek and Cyrillic letter of a text is a look-alike, it is no Greek and no Russian: then
    whole words of them are folded as well.
    """
    if text.isascii() or not _ALIEN.search(text):
        return text
    pretence = all(ord(c) in _LOOKALIKES for c in set(_OTHERWISE_ALIEN.findall(text)))
    pretence = pretence and _LATIN.search(text) is not None

    def fold(word: re.Match[str]) -> str:
        latin = pretence or _LATIN.search(word[0])
        return word[0].translate(_LOOKALIKES) if latin and not word[0].isascii() else word[0]

    return _LETTERS.sub(fold, text)


# --- what is written in characters that nobody sees

_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")


def _unseen(text: str) -> list[Decoded]:
    """ASCII in tag characters, bytes in variation selectors: a way to write to models and not to people."""
    found = [
        Decoded("".join(chr(ord(c) - 0xE0000) for c in run[0]), run.start(), run.end(), "tags")
        for run in _TAGS.finditer(text)
    ]
    for run in _SELECTORS.finditer(text):
        data = bytes(code - 0xFE00 if code < 0xFE10 else code - 0xE0100 + 16 for code in map(ord, run[0]))
        try:
            found.append(Decoded(data.decode(), run.start(), run.end(), "selectors"))
        except UnicodeDecodeError:
            continue
    return found


# --- decodings


def _decode(text: str, offsets: _Offsets | None) -> tuple[Decoded, ...]:
    """The readings of a normalised text, and theirs, as ranges of the original."""
    level = [(reading, reading.start, reading.end) for reading in decoded(text)]
    found: list[Decoded] = []
    for depth in range(_DEPTH):
        inner: list[tuple[Reading, int, int]] = []
        for reading, start, end in level:
            plain = (
                reading.text if reading.text.isascii() else _one_form(reading.text)[0][: len(reading.text)]
            )
            first, last = (start, end) if offsets is None else (int(offsets[start]), int(offsets[end]))
            found.append(Decoded(plain, first, last, reading.kind))
            if depth + 1 < _DEPTH:
                inner += [(deeper, start, end) for deeper in decoded(plain)]
        level = inner
    return tuple(found)
