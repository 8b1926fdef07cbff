"""Responses clients on a provider of the Messages API: by way of chat, whose words both have."""

from __future__ import annotations

import re

from gateway.domain import Json, Surface
from gateway.errors import CallerError
from gateway.translation.base import DEFAULT_LIMIT, OutputLimit, StreamTranslation, Translation
from gateway.translation.chat_answers import MessagesToChat
from gateway.translation.chat_messages import CHAT_MESSAGES
from gateway.translation.pipe import Pipe
from gateway.translation.responses_answers import ChatToResponses
from gateway.translation.responses_chat import RESPONSES_CHAT, chat_request

_MESSAGE = re.compile(r"messages\[(\d+)\]")
_NAMES = (
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("messages", "input"),
)
"""What chat's fields are called in a responses body."""


class _ResponsesMessages:
    client = Surface.RESPONSES
    upstream = Surface.MESSAGES

    def request(self, body: Json, limit: OutputLimit = DEFAULT_LIMIT) -> Json:
        by_chat = OutputLimit(limit.tokens)
        chat, origins = chat_request(body, by_chat, upstream=Surface.MESSAGES)
        try:
            return CHAT_MESSAGES.request(chat, by_chat)
        except CallerError as error:
            raise _in_their_words(error, body, origins) from None

    def answer(self, reply: Json, request: Json, *, created: int = 0) -> Json:
        return RESPONSES_CHAT.answer(
            CHAT_MESSAGES.answer(reply, request, created=created), request, created=created
        )

    def error(self, status: int, reply: bytes) -> bytes:
        return CHAT_MESSAGES.error(status, reply)

    def stream(self, request: Json, *, created: int = 0) -> StreamTranslation:
        return Pipe(
            Surface.RESPONSES,
            MessagesToChat(request, created=created, include_usage=True),
            ChatToResponses(request, created=created),
        )


def _in_their_words(error: CallerError, body: Json, origins: list[int | None]) -> CallerError:
    """The error with the field that the client knows."""
    param = error.param or ""
    if found := _MESSAGE.match(param):
        origin = origins[int(found[1])]
        name = "input" if origin is None else f"input[{origin}]{param[found.end() :]}"
        if origin is not None and "output" in body["input"][origin]:
            name = name.replace("].content", "].output", 1)
        name = name.replace(".image_url.url", ".image_url").replace(".image_url.", ".").replace(".file.", ".")
    else:
        name = param.replace(".function.", ".")
        for chat, responses in _NAMES:
            if name.startswith(chat):
                name = responses + name[len(chat) :]
                break
    return CallerError(error.code, error.message.replace(f"'{param}'", f"'{name}'", 1), param=name)


RESPONSES_MESSAGES: Translation = _ResponsesMessages()
