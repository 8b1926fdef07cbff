"""The wire APIs of the data plane: bytes in, neutral `Step` out, and back. No sockets."""

from __future__ import annotations

from gateway.domain import Surface
from gateway.surfaces import chat, completions, embeddings, messages, moderations, responses
from gateway.surfaces.base import AnswerStream, Codec

CODECS: dict[Surface, Codec] = {
    Surface.CHAT: chat,
    Surface.RESPONSES: responses,
    Surface.MESSAGES: messages,
    Surface.EMBEDDINGS: embeddings,
    Surface.COMPLETIONS: completions,
    Surface.MODERATIONS: moderations,
}

__all__ = ["CODECS", "AnswerStream", "Codec"]
