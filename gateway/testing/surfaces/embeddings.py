"""Embeddings: vectors that depend on the input alone, and a bill for the input alone.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
import hashlib
import math
from array import array
from typing import TYPE_CHECKING

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer
from gateway.testing.script import Ask, Turn
from gateway.testing.surfaces.base import (
    OpenAISurface,
    RequestError,
    count_at,
    model_at,
    reports_usage,
    usage_value,
)
from gateway.testing.surfaces.completions import Input, input_tokens, inputs_of
from gateway.testing.tokens import Tokens

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 4_096

_DIMENSIONS = 1_536
_DIMENSIONS_OF = {"text-embedding-3-large": 3_072}


class Embeddings(OpenAISurface):
    """`POST /v1/embeddings`."""

    name = Surface.EMBEDDINGS

    def read(self, body: Json) -> Ask:
        model = model_at(body)
        inputs = inputs_of(body.get("input"), "input")
        if len(inputs) > MAX_INPUTS:
            raise RequestError(f"'input' must have at most {MAX_INPUTS} entries.", "input")
        if not all(inputs):
            raise RequestError("'$.input' is invalid: an input cannot be empty.", "input")
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise RequestError("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
        if (count_at(body, "dimensions") or 1) > MAX_DIMENSIONS:
            raise RequestError(f"'dimensions' must be at most {MAX_DIMENSIONS}.", "dimensions")
        texts = (entry for entry in inputs if isinstance(entry, str))
        return Ask(
            model=model,
            stream=False,
            turns=tuple(Turn("user", text) for text in texts),
            tools=(),
            output_limit=None,
            choices=0,
            include_usage=True,
            body=body,
        )

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        return input_tokens(inputs_of(ask.body["input"], "input"), tokens)

    def plain(self, answer: Answer) -> bytes:
        body, reply = answer.ask.body, answer.reply
        dimensions = count_at(body, "dimensions") or _DIMENSIONS_OF.get(answer.ask.model, _DIMENSIONS)
        packed = body.get("encoding_format") == "base64"
        vectors = [vector(entry, dimensions) for entry in inputs_of(body["input"], "input")]
        shown: Json = {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(numbers.tobytes()).decode() if packed else numbers.tolist(),
                }
                for index, numbers in enumerate(vectors)
            ],
            "model": answer.ask.model,
        }
        if reports_usage(reply):
            honest = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
            shown["usage"] = usage_value(reply, honest)
        return orjson.dumps({**shown, **reply.extra})


def vector(entry: Input, dimensions: int) -> array[float]:
    """A unit vector of 32-bit floats (little-endian), the same for the same input."""
    seed = entry.encode("utf-8", "surrogatepass") if isinstance(entry, str) else repr(entry).encode()
    numbers = array("h", hashlib.shake_128(seed).digest(2 * dimensions))
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return array("f", (number / length for number in numbers))


if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = Embeddings()
