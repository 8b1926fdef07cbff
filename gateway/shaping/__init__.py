"""What the gateway itself says on each wire API: requests written anew, answers made up. Pure, no sockets."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.domain import Surface
from gateway.shaping import chat, completions, messages, responses
from gateway.shaping.base import Fold, HeldStream, Said, Shaper

SHAPERS: Mapping[Surface, Shaper] = {
    Surface.CHAT: chat,
    Surface.RESPONSES: responses,
    Surface.MESSAGES: messages,
    Surface.COMPLETIONS: completions,
}

__all__ = ["SHAPERS", "Fold", "HeldStream", "Said", "Shaper"]
