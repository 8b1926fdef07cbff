"""Context economy: what of old and of huge tool results a model gets to read again. Pure, and opt-in.

An agent sends every result again with every step, so that one page read early is paid for until the run
ends. Two rules shorten results on their way to the provider; nothing else of a request ever changes:

    a result over `clip_tokens`                              is clipped from its first step on
    a result older than the last `keep_results` steps        is cut to `result_tokens`

A step is an answer with calls. Head and tail stay, with a line between them that says how much is missing;
texts that make up one result share its limit, and long ones give way before short ones do. Only texts of
results that the client sends can be cut: what a provider keeps for itself (`previous_response_id`), the work
of tools that it hosts, media, and definitions of tools that a search found stay as they are.

**Prompt caches.** A provider reads a prompt from its cache up to the first byte that differs from the last
one, so cutting a little more with every step would cost more than it saves. Therefore

- the clipped and the cut form of a result depend on nothing but the result and the rule, so it reads the same
  on every later turn;
- the border between whole and cut results moves by `keep_results` steps at a time. It is a pure function of
  the number of steps in the request: `keep_results` to `2 * keep_results - 1` steps are whole. Between two
  moves every prompt begins with the whole of the one before.

With tokens that cost a tenth when cached and a quarter more when written to the cache, moving the border by
k steps costs about `1.25 * keep_results / k + 0.05 * k` results a step: 1.45 of them at k = `keep_results`
= 4, 5.05 at k = 1. Without a cache k = 1 were best; this is the middle.

A client that drops the beginning of its history itself moves what is old further back, never forward. One
that starts over from a summary has a shorter history, in which results may be whole again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson

from gateway.domain import Item, Role, Step, Surface, Text
from gateway.policy.sections.reuse import Context
from gateway.screening.places import Pointer, items_with, with_texts
from gateway.values import frozen

BYTES_PER_TOKEN = 4
"""The limits are in tokens, and texts are measured by their UTF-8 bytes: counting tokens of a whole history
with every step would cost more time than everything else."""
SLACK = 128
"""Bytes by which a text may be over its limit. The line in a cut text is shorter, so that cutting always
saves something, and what was cut is not cut again."""
_SURFACES = frozenset((Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES))
_READ = frozenset(("content", "output", "text", "stdout", "stderr"))
"""Where the texts of results stand. Names of files, ids and whatever else is short or structured stays."""
_LINE = "\n[... about {tokens} tokens of this tool result are left out here ...]\n"


@frozen
class Economised:
    """A step whose results are shortened."""

    step: Step
    results: int
    """How many were."""
    tokens: int
    """What they are shorter by, at four bytes a token."""


def economise(step: Step, rule: Context) -> Economised | None:
    """The step with its results as `rule` wants them; None when they are so already. The rule's `mode` and
    `match` are not looked at."""
    if step.surface not in _SURFACES:
        return None
    border = _border(sum(1 for item in step.items if _calls(item)), rule.keep_results)
    texts: dict[Pointer, str] = {}
    results = saved = steps = 0
    for item in step.items:
        if _calls(item):
            steps += 1
        elif item.role is Role.TOOL and not item.aside:
            old = border > 0 and steps <= border
            tokens = min(rule.result_tokens, rule.clip_tokens) if old else rule.clip_tokens
            less = 0
            for pointer, text, fewer in _cut(item, step.surface, tokens * BYTES_PER_TOKEN):
                texts[pointer] = text
                less += fewer
            results += less > 0
            saved += less
    if not texts:
        return None
    return Economised(_edited(step, texts), results, saved // BYTES_PER_TOKEN)


def _calls(item: Item) -> bool:
    return item.role is Role.ASSISTANT and bool(item.calls)


def _border(steps: int, keep: int) -> int:
    """How many of the first steps have old results; grows by `keep` at a time."""
    return max(0, steps - keep) // keep * keep


def _cut(item: Item, surface: Surface, limit: int) -> Iterator[tuple[Pointer, str, int]]:
    """The texts of a result that have to be shorter: where they stand, what is left, bytes saved."""
    texts = [text for text in item.texts if _is_read(text, surface)]
    if 4 * sum([len(text.text) for text in texts]) <= limit:
        # No character has more bytes.
        return
    sizes = [_size(text.text) for text in texts]
    level = _level(sizes, limit)
    for text, size in zip(texts, sizes, strict=True):
        if size > level + SLACK:
            short = _shortened(text.text, size, level)
            yield text.pointer, short, size - _size(short)


def _is_read(text: Text, surface: Surface) -> bool:
    at = text.pointer
    if surface is Surface.RESPONSES and at[2:3] != ("output",):
        return False
    return at[-1] in _READ or at[-2:] == ("source", "data")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _level(sizes: Sequence[int], limit: int) -> int:
    """The most bytes that each text may have for all to stay within the limit. It is the same for what was
    cut to it: such a text is still over it, by its line."""
    left = limit
    for i, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - i)
        if size > share:
            return share
        left -= size
    return limit


def _shortened(text: str, size: int, keep: int) -> str:
    """Two thirds of what is kept from the beginning, one from the end, whole characters only."""
    head = keep * 2 // 3
    tail = keep - head
    line = _LINE.format(tokens=(size - keep) // BYTES_PER_TOKEN)
    if size == len(text):
        return f"{text[:head]}{line}{text[size - tail :]}"
    data = text.encode("utf-8", "surrogatepass")
    return f"{data[:head].decode('utf-8', 'ignore')}{line}{data[size - tail :].decode('utf-8', 'ignore')}"


def _edited(step: Step, texts: dict[Pointer, str]) -> Step:
    body = with_texts(step.body, texts)
    raw = orjson.dumps(body)
    return replace(
        step,
        body=body,
        raw=raw,
        items=items_with(step.items, texts),
        # Its media are as they were, so the bound shrinks with the body.
        text_bytes=max(0, step.text_bytes + len(raw) - len(step.raw)),
    )
