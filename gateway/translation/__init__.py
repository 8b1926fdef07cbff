"""Translation between wire APIs: a client of one served by a provider of another. Pure, no sockets."""

from __future__ import annotations

from gateway.domain import Surface
from gateway.translation.base import DEFAULT_LIMIT, OutputLimit, StreamTranslation, Translation
from gateway.translation.chat_messages import CHAT_MESSAGES
from gateway.translation.messages_chat import MESSAGES_CHAT
from gateway.translation.responses_chat import RESPONSES_CHAT
from gateway.translation.responses_messages import RESPONSES_MESSAGES

_TRANSLATIONS: dict[tuple[Surface, Surface], Translation] = {
    (each.client, each.upstream): each
    for each in (CHAT_MESSAGES, MESSAGES_CHAT, RESPONSES_CHAT, RESPONSES_MESSAGES)
}


def between(client: Surface, upstream: Surface) -> Translation | None:
    """The translation for a client of one API and a provider of another; None when they speak the same, or
    when there is none."""
    return _TRANSLATIONS.get((client, upstream))


__all__ = ["DEFAULT_LIMIT", "OutputLimit", "StreamTranslation", "Translation", "between"]
