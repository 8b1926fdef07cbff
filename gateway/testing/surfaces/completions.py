"""Legacy completions: text in, text out. Tool calls and visible reasoning have no place here: left out.

Source: https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer, Choice
from gateway.testing.script import Ask, Turn
from gateway.testing.surfaces.base import (
    Event,
    OpenAISurface,
    RequestError,
    count_at,
    flag_at,
    model_at,
    reports_usage,
    stream_usage_at,
    usage_value,
)
from gateway.testing.surfaces.chat import MAX_CHOICES, ChatStream, openai_usage
from gateway.testing.tokens import Tokens


class Completions(OpenAISurface):
    """`POST /v1/completions`. Without `max_tokens` the answer is whole, where the real API stops after 16."""

    name = Surface.COMPLETIONS
    answer_id = "cmpl-sim-{server}{number}"

    def read(self, body: Json) -> Ask:
        model = model_at(body)
        prompts = inputs_of(body.get("prompt"), "prompt")
        stream = flag_at(body, "stream")
        include_usage = stream_usage_at(body, stream)
        if flag_at(body, "echo"):
            raise RequestError("'echo' is not supported by the simulated provider.", "echo")
        shown = count_at(body, "n") or 1
        best_of = count_at(body, "best_of") or shown
        if best_of < shown:
            raise RequestError("'best_of' must be at least 'n'.", "best_of")
        if stream and best_of > shown:
            raise RequestError("'best_of' answers cannot be streamed.", "best_of")
        choices = best_of * len(prompts)
        if choices > MAX_CHOICES:
            raise RequestError(f"At most {MAX_CHOICES} answers can be asked for.", "n")
        return Ask(
            model=model,
            stream=stream,
            turns=tuple(Turn("user", prompt if isinstance(prompt, str) else "") for prompt in prompts),
            tools=(),
            output_limit=count_at(body, "max_tokens"),
            choices=choices,
            include_usage=include_usage,
            body=body,
            text_only=True,
        )

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        return input_tokens(inputs_of(ask.body["prompt"], "prompt"), tokens)

    def plain(self, answer: Answer) -> bytes:
        ask, reply = answer.ask, answer.reply
        shown = count_at(ask.body, "n") or 1
        best_of = count_at(ask.body, "best_of") or shown
        told = [choice for index, choice in enumerate(answer.choices) if index % best_of < shown]
        body: Json = {
            "id": answer.id,
            "object": "text_completion",
            "created": answer.created,
            "model": ask.model,
            "choices": [
                {
                    "index": index,
                    "text": choice.content,
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    **reply.extra_choice,
                }
                for index, choice in enumerate(told)
            ],
        }
        if reports_usage(reply):
            body["usage"] = usage_value(reply, openai_usage(answer, answer.generated))
        body["system_fingerprint"] = "fp_simulated"
        return orjson.dumps({**body, **reply.extra})

    def events(self, answer: Answer) -> Iterator[Event]:
        return _TextStream(answer).events()


class _TextStream(ChatStream):
    """Chat's stream, with the text where a delta would be."""

    kind = "text_completion"

    def _choice(self, choice: Choice, index: int) -> Iterator[Event]:
        if choice.hidden_tokens:
            yield self._event(index, {"text": ""}, choice.hidden_tokens, "role")
        yield from self._texts(index, "text", choice.text)
        if "finish" not in self.reply.omit:
            yield self._event(index, {"text": ""}, 0, "finish", choice.finish_reason)

    def _said(self, delta: Json) -> Json:
        return delta


Input = str | list[int]


def inputs_of(value: Any, name: str) -> list[Input]:
    """A text, texts, token ids, or several lists of them. Raises: `RequestError`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _are_ids(value):
            return [value]
        if all(isinstance(entry, str) or _are_ids(entry) for entry in value):
            return value
    raise RequestError(f"'{name}' must be a string, or a non-empty array of strings or of token ids.", name)


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in value)
    )


def input_tokens(inputs: list[Input], tokens: Tokens) -> int:
    """Tokens of all inputs, nothing added."""
    return sum(tokens.count(entry) if isinstance(entry, str) else len(entry) for entry in inputs)


if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = Completions()
