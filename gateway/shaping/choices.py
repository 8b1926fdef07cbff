"""What chat and legacy completions have in common: answers of several choices, streams of unnamed chunks."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from gateway.domain import Json
from gateway.shaping.base import Said, answer_id, model_name
from gateway.surfaces.chat import DONE

_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def composed(said: Said, request: Json, created: int, prefix: str, kind: str, choices: list[Json]) -> Json:
    """A plain reply that consists of the choices given."""
    return {
        "id": answer_id(prefix, said, request, created),
        "object": kind,
        "created": created,
        "model": model_name(said, request),
        "choices": choices,
        "usage": dict(said.usage or _NO_USAGE),
    }


def choices_of(request: Json) -> int:
    """As many choices as a request asks for, of each prompt."""
    count = request.get("n")
    return count if type(count) is int and count > 0 else 1


class Chunks:
    """Writes one stream's chunks, all with the same head. Usage is told only if the request asks for it."""

    __slots__ = ("_head", "_tells_usage")

    def __init__(self, head: Json, request: Json) -> None:
        options = request.get("stream_options")
        self._tells_usage = type(options) is dict and bool(options.get("include_usage"))
        self._head = head

    def chunk(self, choice: Json) -> bytes:
        """One choice's part."""
        more = {"usage": None} if self._tells_usage else {}
        return _event({**self._head, "choices": [choice], **more})

    def ending(self, reply: Json) -> Iterator[bytes]:
        """What stands behind all choices."""
        if self._tells_usage:
            yield _event({**self._head, "choices": [], "usage": reply.get("usage") or _NO_USAGE})
        yield DONE


def _event(chunk: Json) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)
