"""Moderations: free, and nothing is ever found; a script's `extra` or `body` says otherwise.

Source: https://platform.openai.com/docs/api-reference/moderations
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer
from gateway.testing.script import Ask, Turn
from gateway.testing.surfaces.base import OpenAISurface, RequestError, model_at, text_of
from gateway.testing.tokens import Tokens

DEFAULT_MODEL = "omni-moderation-latest"

_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_SCORE = 0.000001
_CLEAN: Json = {
    "flagged": False,
    "categories": dict.fromkeys(_CATEGORIES, False),
    "category_scores": dict.fromkeys(_CATEGORIES, _SCORE),
    "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
}


class Moderations(OpenAISurface):
    """`POST /v1/moderations`."""

    name = Surface.MODERATIONS
    answer_id = "modr-sim-{server}{number}"
    free = True

    def read(self, body: Json) -> Ask:
        model = DEFAULT_MODEL if body.get("model") is None else model_at(body)
        texts = _inputs(body.get("input"))
        return Ask(
            model=model,
            stream=False,
            turns=tuple(Turn("user", text) for text in texts),
            tools=(),
            output_limit=None,
            choices=0,
            include_usage=False,
            body=body,
        )

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        return 0

    def plain(self, answer: Answer) -> bytes:
        shown = {
            "id": answer.id,
            "model": answer.ask.model,
            "results": [_CLEAN for _ in answer.ask.turns],
        }
        return orjson.dumps({**shown, **answer.reply.extra})


def _inputs(value: Any) -> list[str]:
    """One entry per result: each string is judged for itself, all parts of a multi-modal input together."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(entry, str) for entry in value):
            return value
        if all(isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in value):
            return [text_of(value)]
    raise RequestError("'input' must be a string, or a non-empty array of strings or of parts.", "input")


if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = Moderations()
