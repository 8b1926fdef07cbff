"""The wire APIs the simulated provider speaks; a new one is a file here and a line in `SURFACES`."""

from __future__ import annotations

from gateway.testing.surfaces.base import Event, ProviderSurface, RequestError, carries_usage
from gateway.testing.surfaces.chat import Chat

SURFACES: dict[str, ProviderSurface] = {
    "chat/completions": Chat(),
}
"""By path below `/v1/` (OpenAI) and below `/openai/deployments/{deployment}/` (Azure)."""

__all__ = ["SURFACES", "Event", "ProviderSurface", "RequestError", "carries_usage"]
