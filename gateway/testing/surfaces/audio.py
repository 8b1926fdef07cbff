"""Speech to text and back: multipart bodies in, binary bodies out, and bills that are not tokens.

Source: https://platform.openai.com/docs/api-reference/audio
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer
from gateway.testing.script import Ask, Turn
from gateway.testing.surfaces.base import (
    Event,
    OpenAISurface,
    RequestError,
    carries_usage,
    model_at,
    reports_usage,
    usage_value,
)
from gateway.testing.tokens import Tokens

BYTES_PER_SECOND = 16_000
"""A file of that many bytes counts as a second of audio."""

SPEECH_BYTES_PER_CHARACTER = 1_024
SPEECH_EVENT_BYTES = 8_192

_BOUNDARY = re.compile(rb'boundary="?([^";,]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'[; ]name="([^"]*)"', re.IGNORECASE)
_FILE_NAME = re.compile(rb'[; ]filename="([^"]*)"', re.IGNORECASE)
_FRAME = bytes(range(256)) * (SPEECH_EVENT_BYTES // 256)


class Transcriptions(OpenAISurface):
    """`POST /v1/audio/transcriptions`: says the script's text, and bills the file's length in seconds.

    A script that states `prompt_tokens` is billed, and tells its usage, in tokens instead.
    """

    name = Surface.PASSTHROUGH

    def decode(self, data: bytes, content_type: bytes) -> Json:
        return read_form(data, content_type)

    def read(self, body: Json) -> Ask:
        sent = body.get("file")
        if not isinstance(sent, dict):
            raise RequestError("Missing required parameter: 'file'.", "file")
        return Ask(
            model=model_at(body),
            stream=body.get("stream") == "true",
            turns=(Turn("user", sent["filename"]),),
            tools=(),
            output_limit=None,
            choices=0,
            include_usage=True,
            body=body,
            seconds=-(-sent["bytes"] // BYTES_PER_SECOND),
        )

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        return 0

    def plain(self, answer: Answer) -> bytes:
        return orjson.dumps({"text": _text(answer), **_told(answer), **answer.reply.extra})

    def events(self, answer: Answer) -> Iterator[Event]:
        text = _text(answer)
        yield Event(orjson.dumps({"type": "transcript.text.delta", "delta": text}), mark="content")
        done = {"type": "transcript.text.done", "text": text, **_told(answer), **answer.reply.extra}
        usage = carries_usage(answer.reply)
        yield Event(orjson.dumps(done), mark="usage", carries_usage=usage, also=("finish", "done"))


def _text(answer: Answer) -> str:
    text = answer.reply.text
    return text if isinstance(text, str) else text[0]


def _told(answer: Answer) -> Json:
    if not reports_usage(answer.reply):
        return {}
    honest: Json = {"type": "duration", "seconds": answer.ask.seconds}
    if answer.prompt_tokens:
        tokens = {"text_tokens": 0, "audio_tokens": answer.prompt_tokens}
        honest = {
            "type": "tokens",
            "input_tokens": answer.prompt_tokens,
            "input_token_details": tokens,
            "output_tokens": 0,
            "total_tokens": answer.prompt_tokens,
        }
    return {"usage": usage_value(answer.reply, honest)}


class Speech(OpenAISurface):
    """`POST /v1/audio/speech`: noise as long as the input, or the script's `body`, in pieces."""

    name = Surface.PASSTHROUGH
    media_type: str | None = "audio/mpeg"

    def read(self, body: Json) -> Ask:
        said = body.get("input")
        if not isinstance(said, str) or not said:
            raise RequestError("'input' must be a non-empty string.", "input")
        if not isinstance(body.get("voice"), str | dict):
            raise RequestError("Missing required parameter: 'voice'.", "voice")
        if body.get("response_format") not in (None, "mp3") or body.get("stream_format") == "sse":
            raise RequestError("The simulated provider speaks mp3 alone.", "response_format")
        return Ask(
            model=model_at(body),
            stream=True,
            turns=(Turn("user", said),),
            tools=(),
            output_limit=None,
            choices=0,
            include_usage=False,
            body=body,
        )

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        return 0

    def plain(self, answer: Answer) -> bytes:
        return b"".join(event.data for event in self.events(answer))

    def events(self, answer: Answer) -> Iterator[Event]:
        left = len(answer.ask.last_user_text) * SPEECH_BYTES_PER_CHARACTER
        while left > 0:
            yield Event(_FRAME[:left], mark="content")
            left -= SPEECH_EVENT_BYTES


def read_form(data: bytes, content_type: bytes) -> Json:
    """The fields of a multipart form: text as text, a file as its name and size. Raises: `RequestError`."""
    found = (
        _BOUNDARY.search(content_type) if content_type.lower().startswith(b"multipart/form-data") else None
    )
    if found is None:
        raise RequestError("The body must be multipart/form-data with a boundary.")
    fields: Json = {}
    for name, file_name, start, end in _parts_of(data, b"--" + found[1]):
        if file_name is None:
            fields[name] = data[start:end].decode("utf-8", "replace")
        else:
            fields[name] = {"filename": file_name, "start": start, "bytes": end - start}
    return fields


def _parts_of(data: bytes, delimiter: bytes) -> Iterator[tuple[str, str | None, int, int]]:
    """Name, file name, and where the content starts and ends, of each part of a form."""
    at = data.find(delimiter)
    while at >= 0:
        head = at + len(delimiter)
        if data[head : head + 2] == b"--":
            return
        start = data.find(b"\r\n\r\n", head)
        following = data.find(b"\r\n" + delimiter, start)
        name = _NAME.search(data, head, max(start, head))
        if start < 0 or following < 0 or name is None:
            break
        file_name = _FILE_NAME.search(data, head, start)
        told = None if file_name is None else file_name[1].decode("utf-8", "replace")
        yield name[1].decode("utf-8", "replace"), told, start + 4, following
        at = following + 2
    raise RequestError("The form is not well made: a part has no name, or no end.")


if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _transcriptions: ProviderSurface = Transcriptions()
    _speech: ProviderSurface = Speech()
