"""What the gateway says on legacy completions: texts alone; no notes, no tools. See `base`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from gateway.domain import Json
from gateway.shaping.base import (
    Fold,
    HeldStream,
    Said,
    Shaper,
    answer_id,
    ensure_as_many,
    index_of,
    model_name,
    objects,
    overridden,
    text_at,
)
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.completions import DONE

_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def with_note(body: Json, text: str) -> None:
    """A prompt is text to go on with: an instruction would become a part of it."""
    return


def without_tool_use(body: Json, final_tools: Sequence[str]) -> tuple[Json, str | None]:
    """There are no tools, so nothing changes."""
    return body, None


def with_results(body: Json, turn: Json, results: Sequence[str]) -> Json:
    """There are no calls, so nothing follows them. Raises `ValueError` for any result."""
    ensure_as_many(results, 0)
    return body


def compose(said: Said, request: Json, created: int) -> Json:
    """See `Shaper`. Every choice that the client asked for says the same."""
    if said.reply is not None:
        return overridden(said, said.reply)
    prompt = request.get("prompt")
    several = type(prompt) is list and bool(prompt) and type(prompt[0]) in (str, list)
    shown = request.get("n")
    count = (len(prompt) if several and prompt else 1) * (shown if type(shown) is int and shown > 0 else 1)
    finish = "length" if said.finish == "length" else "stop"
    return {
        "id": answer_id("cmpl-", said, request, created),
        "object": "text_completion",
        "created": created,
        "model": model_name(said, request),
        "choices": [
            {"index": i, "text": said.text, "logprobs": None, "finish_reason": finish} for i in range(count)
        ],
        "usage": dict(said.usage or _NO_USAGE),
    }


def compose_stream(said: Said, request: Json, created: int) -> bytes:
    """See `Shaper`. Usage is told only if the request asks for it."""
    reply = compose(said, request, created)
    options = request.get("stream_options")
    tells_usage = type(options) is dict and bool(options.get("include_usage"))
    head = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    chunks = [{**head, "choices": [choice]} for choice in objects(reply.get("choices"))]
    if tells_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**head, "choices": [], "usage": reply.get("usage") or _NO_USAGE})
    return b"".join([b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks]) + DONE


class CompletionFold(Fold):
    """See `Fold`."""

    __slots__ = ("_finishes", "_head", "_texts")

    def __init__(self) -> None:
        self._head: Json = {}
        self._texts: dict[int, list[str]] = {}
        self._finishes: dict[int, str] = {}

    def take(self, event: Json) -> None:
        choices = objects(event.pop("choices", None))
        self._head |= {name: value for name, value in event.items() if value is not None}
        for choice in choices:
            index = index_of(choice)
            self._texts.setdefault(index, []).append(text_at(choice, "text"))
            if choice.get("finish_reason") is not None:
                self._finishes[index] = str(choice["finish_reason"])

    def reply(self) -> Json:
        choices = [
            {"index": i, "text": "".join(texts), "logprobs": None, "finish_reason": self._finishes.get(i)}
            for i, texts in sorted(self._texts.items())
        ]
        return {**self._head, "choices": choices}

    def copy(self) -> CompletionFold:
        other = CompletionFold()
        other._head = dict(self._head)
        other._texts = {index: list(texts) for index, texts in self._texts.items()}
        other._finishes = dict(self._finishes)
        return other


class HeldCompletion(HeldStream):
    """See `HeldStream`. Nothing is ever held."""

    __slots__ = ()

    def _begins_call(self, event: Json) -> bool:
        return False

    def _rest(self, said: Said) -> bytes:
        return compose_stream(said, self._request, self._created)


def fold() -> CompletionFold:
    """See `Shaper`."""
    return CompletionFold()


def hold(stream: AnswerStream, request: Json, created: int) -> HeldCompletion:
    """See `Shaper`."""
    return HeldCompletion(stream, request, created, CompletionFold())


if TYPE_CHECKING:
    from gateway.shaping import completions

    _: Shaper = completions
