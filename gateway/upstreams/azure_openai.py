"""Dialect `azure_openai`: deployments in the path, `api-key` in the header, `api-version` in the query.

A base URL that ends in `/openai/v1` is Azure's newer API, which takes the deployment as `model`.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

from gateway.domain import Headers, Surface
from gateway.policy.models import Provider
from gateway.upstreams.openai import PATHS

DEFAULT_API_VERSION = "2024-10-21"


def url(provider: Provider, surface: Surface, upstream_model: str, query: bytes) -> str:
    """Where a surface's requests for a deployment go."""
    base = provider.base_url.rstrip("/")
    asked = query.decode("latin-1")
    if base.endswith("/openai/v1"):
        version = f"api-version={quote(provider.api_version)}" if provider.api_version else ""
        parts = [part for part in (asked, version) if part]
        return f"{base}{PATHS[surface]}" + (f"?{'&'.join(parts)}" if parts else "")
    own = urlencode({"api-version": provider.api_version or DEFAULT_API_VERSION})
    kept = [part for part in asked.split("&") if part and not part.startswith("api-version=")]
    path = f"/openai/deployments/{quote(upstream_model, safe='')}{PATHS[surface]}"
    return f"{base}{path}?{'&'.join([*kept, own])}"


def credentials(secret: str | None) -> Headers:
    """The header that carries a provider key."""
    return [(b"api-key", secret.encode())] if secret else []
