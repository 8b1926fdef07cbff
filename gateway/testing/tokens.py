"""Counting and splitting text the way the simulated provider bills it.

`Tokens` is the one interface; `ExactTokens` uses the o200k vocabulary, `ByteTokens` takes four UTF-8 bytes
for a token and serves benchmarks, where counting must not be what is measured.
"""

from __future__ import annotations

import codecs
from functools import lru_cache
from typing import Literal, Protocol

from gateway.metering.vocabulary import vocabulary

Counting = Literal["exact", "bytes"]
Pieces = tuple[tuple[str, int], ...]
"""Consecutive parts of a text, each with the number of tokens that were generated for it."""

_CACHED_TEXT_LENGTH = 65_536
_BYTES_PER_TOKEN = 4


class Tokens(Protocol):
    """Counts and splits text. Pure: the same text always gives the same answer."""

    def count(self, text: str) -> int:
        """Number of tokens of `text`; special-token spellings in it count as ordinary text."""

    def split(self, text: str, per_piece: int = 1, limit: int | None = None) -> Pieces:
        """`text` in pieces of `per_piece` tokens, cut after `limit` tokens.

        A character whose bytes lie in several tokens comes whole, with the token that completes it.
        """


def _encode(text: str) -> list[int]:
    # `encode` would read "<|endoftext|>" in a user's text as one special token and count less than OpenAI.
    return vocabulary("o200k_base").encode_ordinary(text)


@lru_cache(maxsize=2048)
def _count_cached(text: str) -> int:
    return len(_encode(text))


@lru_cache(maxsize=256)
def _split_exact(text: str, per_piece: int, limit: int | None) -> Pieces:
    ids = _encode(text)[:limit]
    tokenizer = vocabulary("o200k_base")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    pieces: list[tuple[str, int]] = []
    waiting = 0
    for start in range(0, len(ids), per_piece):
        group = ids[start : start + per_piece]
        waiting += len(group)
        if part := decoder.decode(b"".join(map(tokenizer.decode_token_bytes, group))):
            pieces.append((part, waiting))
            waiting = 0
    if waiting:
        pieces.append(("", waiting))
    return tuple(pieces)


class ExactTokens:
    """o200k, ordinary text only: agrees with tiktoken's `encode_ordinary`."""

    def count(self, text: str) -> int:
        return _count_cached(text) if len(text) <= _CACHED_TEXT_LENGTH else len(_encode(text))

    def split(self, text: str, per_piece: int = 1, limit: int | None = None) -> Pieces:
        return _split_exact(text, max(per_piece, 1), limit)


@lru_cache(maxsize=256)
def _split_bytes(text: str, per_piece: int, limit: int | None) -> Pieces:
    step = per_piece * _BYTES_PER_TOKEN
    whole = text.encode("utf-8", "replace")
    data = whole if limit is None else whole[: limit * _BYTES_PER_TOKEN]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    pieces = []
    for start in range(0, len(data), step):
        part = data[start : start + step]
        pieces.append((decoder.decode(part), -(-len(part) // _BYTES_PER_TOKEN)))
    return tuple(pieces)


class ByteTokens:
    """Four UTF-8 bytes are one token: wrong, but cheap and the same everywhere."""

    def count(self, text: str) -> int:
        return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)

    def split(self, text: str, per_piece: int = 1, limit: int | None = None) -> Pieces:
        return _split_bytes(text, max(per_piece, 1), limit)


def tokens_for(counting: Counting) -> Tokens:
    """The counter of that name."""
    return ExactTokens() if counting == "exact" else ByteTokens()
