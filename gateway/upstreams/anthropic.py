"""Dialect `anthropic`: Anthropic and every server that speaks its Messages API.

Anthropic's endpoint for OpenAI clients is not used: it drops fields without saying so.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.domain import Headers, Surface
from gateway.policy.sections.providers import Provider
from gateway.upstreams.openai import kept_query

PATHS = {Surface.MESSAGES: "/v1/messages"}
COUNT_TOKENS = "/count_tokens"
"""Below the path of messages."""
VERSION = b"2023-06-01"
_BEARERS = ("sk-ant-oat", "sk-or-")
"""How credentials begin that go as Bearer: Anthropic's OAuth tokens and OpenRouter's keys."""


def serves(provider: Provider, surface: Surface) -> bool:
    """Whether the provider speaks this wire API: messages, unless the policy leaves them out."""
    return surface in PATHS and (provider.surfaces is None or surface.value in provider.surfaces)


def url(provider: Provider, surface: Surface, upstream_model: str, query: bytes, below: str = "") -> str:
    """Where a surface's requests go, whether or not the base URL ends in `/v1`; the client's query string is
    kept, but for credentials in it.

    `below` is a path below the surface's own, percent-encoded: `COUNT_TOKENS`.
    """
    del upstream_model
    base = provider.base_url.rstrip("/").removesuffix("/v1")
    kept = kept_query(query)
    return f"{base}{PATHS[surface]}{below}" + (f"?{kept}" if kept else "")


def credentials(secret: str | None) -> Headers:
    """The header that carries a provider key, or the caller's own in passthrough mode."""
    if not secret:
        return []
    if secret.startswith(_BEARERS):
        return [(b"authorization", b"Bearer " + secret.encode())]
    return [(b"x-api-key", secret.encode())]


def defaults(headers: Mapping[bytes, bytes]) -> Headers:
    """Headers that the provider asks for and the client's own `headers` lack: the API's version."""
    return [] if b"anthropic-version" in headers else [(b"anthropic-version", VERSION)]
