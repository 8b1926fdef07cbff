"""Dialect `openai`: OpenAI and every server that speaks its API (vLLM, Ollama, OpenRouter, Groq …)."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from gateway.domain import Headers, Surface
from gateway.policy.models import Provider

PATHS = {Surface.CHAT: "/chat/completions"}


def url(provider: Provider, surface: Surface, upstream_model: str, query: bytes) -> str:
    """Where a surface's requests go; the client's query string is kept."""
    del upstream_model
    suffix = f"?{query.decode('latin-1')}" if query else ""
    return f"{provider.base_url.rstrip('/')}{PATHS[surface]}{suffix}"


def credentials(secret: str | None) -> Headers:
    """The header that carries a provider key, or the caller's own in passthrough mode."""
    return [(b"authorization", b"Bearer " + secret.encode())] if secret else []


def limit_field(provider: Provider) -> str:
    """Where an output limit goes: OpenAI itself wants the new name, most others know the old one only."""
    if provider.output_limit_field is not None:
        return provider.output_limit_field
    if provider.dialect == "azure_openai" or _is_openai(provider.base_url):
        return "max_completion_tokens"
    return "max_tokens"


@lru_cache(maxsize=256)
def _is_openai(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith((".openai.azure.com", ".services.ai.azure.com"))
