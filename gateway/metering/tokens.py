"""Counting tokens without the provider: texts by tokenizer, media by the providers' formulas.

Exact for text of OpenAI's models (o200k and cl100k). Families without a public tokenizer count as o200k
times a factor that errs upward. Media come without their dimensions, so an image counts as the largest that
its model accepts.

Counting releases the GIL and is safe from many threads. Text is cut into slices, so that no input takes
more than time proportional to its length: 1 MB takes some 20 ms of prose and 190 ms at worst.
"""

from __future__ import annotations

import re

from gateway.domain import Media
from gateway.metering.vocabulary import Encoding, vocabulary

SLICE_CHARS = 8_192
"""A run of one letter costs more than linear time inside one piece; slicing costs under 1 token in 2,000."""

MAX_CHARS = 1_048_576
"""Text beyond this is not tokenized: each further byte counts as one token, which is never too few."""

ITEM_TOKENS = 4
"""Around each message of a chat, and `REPLY_TOKENS` before the answer:
https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb"""
REPLY_TOKENS = 3
CALL_TOKENS = 8
"""Around a tool call in the history, beside its name and arguments."""
TOOL_TOKENS = 8
"""Around a tool definition, beside its name, description and schema."""


def warm() -> None:
    """Load the encoding of most models before the first request needs it, which would wait some 200 ms. That
    of the older ones (`cl100k_base`, half of that) is loaded when it is asked for.

    The tables for text beyond ASCII are built at the first such text, so one is counted here.
    """
    count_exact("warm \u00e9\u6f22\U0001f409\U000dd10b")


def count_exact(text: str, encoding: Encoding = "o200k_base") -> int:
    """Tokens of a text. Names of special tokens in it (`<|endoftext|>`) are ordinary text, as upstream."""
    if not text:
        return 0
    encode = vocabulary(encoding).encode_ordinary
    total = 0
    for start in range(0, min(len(text), MAX_CHARS), SLICE_CHARS):
        piece = text[start : min(start + SLICE_CHARS, MAX_CHARS)]
        try:
            total += len(encode(piece))
        except UnicodeEncodeError:
            # Lone surrogates cannot go upstream as UTF-8; the replacement character stands for them.
            total += len(encode(piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))
    if len(text) > MAX_CHARS:
        total += len(text[MAX_CHARS:].encode("utf-8", "replace"))
    return total


_VENDOR = re.compile(r"^(?:.*/|ft:|(?:[a-z]{2,6}\.)?(?:anthropic|meta|amazon)\.)")
_CL100K = re.compile(r"(?:gpt-4(?:$|-(?!o))|gpt-3\.?5|text-embedding-(?:3|ada)|davinci-002|babbage-002)")
_O200K = re.compile(r"(?:gpt-|chatgpt-|o[1-9](?:$|-)|codex-|computer-use|sim)")
_OLDER_CLAUDE = re.compile(r"claude-(?:2|3|v|instant|(?:sonnet|haiku|opus)-4(?:$|[-.@](?:[0-6]\b|20))|4)")

_FACTORS: tuple[tuple[re.Pattern[str], float], ...] = (
    # Anthropic says that Opus 4.7 and later read up to 1.35 times the tokens of the earlier ones:
    # https://platform.claude.com/docs/en/about-claude/models/whats-new-claude-4-7
    (_OLDER_CLAUDE, 1.3),
    (re.compile("claude"), 1.75),
    (re.compile("gemini|gemma"), 1.15),
)
_UNKNOWN_FACTOR = 1.3
"""Llama 3, Mistral, Qwen and DeepSeek read English as o200k does and other languages as more tokens."""


def _plain(model: str) -> str:
    return _VENDOR.sub("", model.lower())


def encoding_of(model: str) -> tuple[Encoding, float]:
    """The encoding to count a model's text with, and the factor to multiply by (1.0 means exact)."""
    name = _plain(model)
    if _CL100K.match(name):
        return "cl100k_base", 1.0
    if _O200K.match(name):
        return "o200k_base", 1.0
    for family, factor in _FACTORS:
        if family.search(name):
            return "o200k_base", factor
    return "o200k_base", _UNKNOWN_FACTOR


def count(text: str, model: str) -> int:
    """Tokens of a text as a model reads it: exact for OpenAI's, upward of the truth for others."""
    encoding, factor = encoding_of(model)
    exact = count_exact(text, encoding)
    return exact if factor == 1.0 else -(-int(exact * factor * 1000) // 1000)


def hidden_tokens(model: str, tools: int) -> int:
    """What a provider adds to a request that nobody wrote: the prompt that explains tools.

    Anthropic: 313 to 530 tokens, by model (https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview);
    Llama on Groq about 670; OpenAI's reasoning models about 80 (the last two from recorded traffic).
    """
    name = _plain(model)
    if not tools:
        return 8 if "claude" in name else 0
    if "claude" in name:
        return 530
    if "llama" in name:
        return 670
    if name.startswith(("gpt-5", "gpt-6", "gpt-oss", "o1", "o3", "o4")):
        return 80
    return 0


_TILED: tuple[tuple[str, int, int], ...] = (
    # Model, base, tokens per 512-pixel tile: https://platform.openai.com/docs/guides/images-vision
    ("gpt-4o-mini", 2_833, 5_667),
    ("gpt-4o", 85, 170),
    ("chatgpt-4o", 85, 170),
    ("gpt-4.5", 85, 170),
    ("gpt-4-", 85, 170),
    ("computer-use", 65, 129),
    ("o1", 75, 150),
    ("o3-mini", 75, 150),
    ("o3", 75, 150),
)
_MAX_TILES = 8
"""An image is fitted into 2048 pixels and its short side into 768: at most 4 by 2 tiles."""

_PATCHED: tuple[tuple[str, float], ...] = (
    # Model, multiplier of 32-pixel patches, of which there are at most 1,536 (same page).
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("o4-mini", 1.72),
)
_MAX_PATCHES = 1_536
_LOW_PATCHES = 256
_OPENAI_IMAGE = 12_000
"""Any other OpenAI model: up to 10,000 patches at detail `original`, and a margin."""
_UNKNOWN_IMAGE = 16_384
"""The most of any open model known to us (Qwen-VL)."""

_PAGE_TOKENS = 4_600
"""A page of a PDF is read as text (up to 3,000 tokens) and as an image (up to 1,600):
https://platform.claude.com/docs/en/build-with-claude/pdf-support"""
_MAX_PAGES = 100
MAX_FILE_TOKENS = _MAX_PAGES * _PAGE_TOKENS
_SMALL_PAYLOAD = 256
"""A payload this short is an id or a link, not content: its size says nothing."""

_AUDIO_BYTES_PER_S = 750
"""6 kbit/s, the least that a codec makes of speech: an upper bound of the seconds in a file."""
_MAX_AUDIO_S = 34_200
"""9.5 hours, the longest that any provider takes (Gemini): https://ai.google.dev/gemini-api/docs/audio"""


def media_tokens(media: Media, model: str) -> int:
    """The most input tokens that a part which is not text can be.

    Dimensions, seconds and pages are not known here; images count as the largest at their detail, audio by
    the lowest bit rate, files by the pages that fit into their size.
    """
    name = _plain(model)
    if media.kind == "image":
        return _image_tokens(media.detail, name)
    if media.kind == "audio":
        # OpenAI reads 10 tokens a second, Gemini 32; others are taken to be as Gemini.
        rate = 10 if _O200K.match(name) else 32
        seconds = -(-media.size // _AUDIO_BYTES_PER_S) if media.size > _SMALL_PAYLOAD else _MAX_AUDIO_S
        return min(seconds, _MAX_AUDIO_S) * rate
    if media.kind == "file":
        if media.size <= _SMALL_PAYLOAD:
            return MAX_FILE_TOKENS
        # No page takes less than some 150 bytes; plain text is at most one token per byte.
        pages = min(_MAX_PAGES, 1 + media.size // 150)
        return max(min(pages * _PAGE_TOKENS, MAX_FILE_TOKENS), min(media.size, MAX_FILE_TOKENS))
    if media.detail == "opaque":
        # Encrypted reasoning and summaries: in base64, with room to spare, four bytes are never two tokens.
        return -(-media.size // 4)
    return media.size + _image_tokens(None, name)


def _image_tokens(detail: str | None, name: str) -> int:
    low = detail == "low"
    if "claude" in name:
        # (width x height) / 750, scaled to 1.15 megapixels; from Opus 4.7 on to 2,576 pixels a side:
        # https://platform.claude.com/docs/en/build-with-claude/vision
        return 1_600 if _OLDER_CLAUDE.search(name) else 4_784
    if "gemini" in name or "gemma" in name:
        # 258 for each of up to 16 tiles; https://ai.google.dev/gemini-api/docs/media-resolution
        return 4_128
    for start, multiplier in _PATCHED:
        if name.startswith(start):
            return int((_LOW_PATCHES if low else _MAX_PATCHES) * multiplier) + 1
    if name == "gpt-4.1" or name.startswith("gpt-4.1-20"):
        return 85 if low else 85 + _MAX_TILES * 170
    if re.match(r"gpt-5(?:$|-20|-chat)", name):
        return 70 if low else 70 + _MAX_TILES * 140
    for start, base, tile in _TILED:
        if name.startswith(start):
            return base if low else base + _MAX_TILES * tile
    return _OPENAI_IMAGE if _O200K.match(name) else _UNKNOWN_IMAGE
