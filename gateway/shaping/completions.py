"""What the gateway says on legacy completions: texts alone; no notes, no tools. See `base`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.domain import Json
from gateway.shaping.base import (
    Fold,
    HeldStream,
    Said,
    Shaper,
    ensure_as_many,
    index_of,
    objects,
    overridden,
    text_at,
)
from gateway.shaping.choices import Chunks, choices_of, composed


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
        return overridden(said, said.reply, "cmpl-", request, created)
    prompt = request.get("prompt")
    several = type(prompt) is list and bool(prompt) and type(prompt[0]) in (str, list)
    count = (len(prompt) if several and prompt else 1) * choices_of(request)
    finish = "length" if said.finish == "length" else "stop"
    choices: list[Json] = [
        {"index": i, "text": said.text, "logprobs": None, "finish_reason": finish} for i in range(count)
    ]
    return composed(said, request, created, "cmpl-", "text_completion", choices)


def compose_stream(said: Said, request: Json, created: int) -> bytes:
    """See `Shaper`."""
    reply = compose(said, request, created)
    writer = Chunks({n: v for n, v in reply.items() if n not in ("choices", "usage")}, request)
    told = [writer.chunk(choice) for choice in objects(reply.get("choices"))]
    return b"".join([*told, *writer.ending(reply)])


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


class HeldCompletion(HeldStream[CompletionFold]):
    """See `HeldStream`. Nothing is ever held."""

    __slots__ = ()
    fold = CompletionFold

    def _begins_call(self, event: Json) -> bool:
        return False

    def _rest(self, said: Said) -> bytes:
        return compose_stream(said, self._request, self._created)


fold = CompletionFold
hold = HeldCompletion


if TYPE_CHECKING:
    from gateway.shaping import completions

    _: Shaper = completions
