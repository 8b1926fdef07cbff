"""Dialect `openai`: OpenAI and every server that speaks its API (vLLM, Ollama, OpenRouter, Groq …)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_plus, urlsplit

from gateway.domain import Headers, Surface
from gateway.policy.sections.providers import Provider

PATHS = {
    Surface.CHAT: "/chat/completions",
    Surface.RESPONSES: "/responses",
    Surface.EMBEDDINGS: "/embeddings",
    Surface.COMPLETIONS: "/completions",
    Surface.MODERATIONS: "/moderations",
}
_CREDENTIALS = frozenset({"key", "api_key", "api-key", "access_token"})
"""Query parameters by which a credential travels: Gemini's `key`, Azure's `api-key`, OAuth's."""
_AZURE_SINCE = "2024-09-01"
"""Azure's API versions know `max_completion_tokens` from here on; those that are no date sort behind it:
https://learn.microsoft.com/azure/ai-services/openai/api-version-deprecation"""


def serves(provider: Provider, surface: Surface) -> bool:
    """Whether the provider speaks this wire API: all of the dialect's, or those that the policy lists."""
    return surface in PATHS and (provider.surfaces is None or surface.value in provider.surfaces)


def url(provider: Provider, surface: Surface, upstream_model: str, query: bytes, below: str = "") -> str:
    """Where a surface's requests go; the client's query string is kept, but for credentials in it.

    `below` is a path below the surface's own, percent-encoded: `/{id}/cancel`.
    """
    del upstream_model
    kept = kept_query(query)
    return f"{provider.base_url.rstrip('/')}{PATHS[surface]}{below}" + (f"?{kept}" if kept else "")


def kept_query(query: bytes, *left_out: str) -> str:
    """A query string without credentials and without the parameters `left_out`, else as it came."""
    if not query:
        return ""
    parts = query.decode("latin-1").split("&")
    return "&".join([part for part in parts if part and not _is_named(part, left_out)])


def _is_named(part: str, left_out: tuple[str, ...]) -> bool:
    name = unquote_plus(part.partition("=")[0])
    return name.lower() in _CREDENTIALS or name in left_out


def credentials(secret: str | None) -> Headers:
    """The header that carries a provider key, or the caller's own in passthrough mode."""
    return [(b"authorization", b"Bearer " + secret.encode())] if secret else []


def defaults(headers: Mapping[bytes, bytes]) -> Headers:
    """Headers that the provider asks for and the client's own `headers` lack: none."""
    del headers
    return []


def limit_field(provider: Provider) -> str:
    """Where a chat's output limit goes: OpenAI wants the new name, most others know only the old one."""
    if provider.output_limit_field is not None:
        return provider.output_limit_field
    if provider.dialect == "azure_openai":
        version = provider.api_version
        if version is None or version >= _AZURE_SINCE or provider.base_url.endswith("/openai/v1"):
            return "max_completion_tokens"
        return "max_tokens"
    return "max_completion_tokens" if _knows_new_name(provider.base_url) else "max_tokens"


@lru_cache(maxsize=256)
def _knows_new_name(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".api.openai.com"):
        return True
    if host.startswith("bedrock-") and host.endswith((".amazonaws.com", ".api.aws")):
        # https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-openai.html
        return True
    return host.endswith((".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"))
