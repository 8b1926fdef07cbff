"""The wire APIs the simulated provider speaks; a new one is a file here and a line in `SURFACES`."""

from __future__ import annotations

from gateway.testing.surfaces.audio import Speech, Transcriptions
from gateway.testing.surfaces.base import (
    Event,
    Problem,
    ProviderSurface,
    RequestError,
    carries_usage,
)
from gateway.testing.surfaces.chat import Chat
from gateway.testing.surfaces.completions import Completions
from gateway.testing.surfaces.embeddings import Embeddings
from gateway.testing.surfaces.messages import MESSAGES, CountTokens
from gateway.testing.surfaces.moderations import Moderations
from gateway.testing.surfaces.responses import RESPONSES

SURFACES: dict[str, ProviderSurface] = {
    "chat/completions": Chat(),
    "responses": RESPONSES,
    "messages": MESSAGES,
    "messages/count_tokens": CountTokens(),
    "embeddings": Embeddings(),
    "completions": Completions(),
    "moderations": Moderations(),
    "audio/transcriptions": Transcriptions(),
    "audio/speech": Speech(),
}
"""By path below `/v1/` and below `/openai/deployments/{deployment}/` (Azure)."""

__all__ = [
    "MESSAGES",
    "RESPONSES",
    "SURFACES",
    "Event",
    "Problem",
    "ProviderSurface",
    "RequestError",
    "carries_usage",
]
