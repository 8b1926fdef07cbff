"""Dialect `azure_openai`: deployments in the path, `api-key` in the header, `api-version` in the query.

A base URL that ends in `/openai/v1`, or an `api_version` that is no date (`preview`, `v1`), is Azure's newer
API, which takes the deployment as `model`. Responses are always asked for there, since the older API has
them in a few preview versions alone: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

from gateway.domain import Headers, Surface
from gateway.policy.sections.providers import Provider
from gateway.upstreams.openai import PATHS, kept_query

DEFAULT_API_VERSION = "2024-10-21"
_V1 = "/openai/v1"
_NOT_THERE = frozenset({Surface.MODERATIONS})
_VERSION = "api-version"


def serves(provider: Provider, surface: Surface) -> bool:
    """Whether the provider speaks this wire API: all of the dialect's, or those that the policy lists."""
    if surface in _NOT_THERE or surface not in PATHS:
        return False
    return provider.surfaces is None or surface.value in provider.surfaces


def url(provider: Provider, surface: Surface, upstream_model: str, query: bytes, below: str = "") -> str:
    """Where a surface's requests for a deployment go; the client's query string is kept, but for credentials.

    `below` is a path below the surface's own, percent-encoded: `/{id}/cancel`.
    """
    base = provider.base_url.rstrip("/")
    kept = kept_query(query, _VERSION)
    if base.endswith(_V1) or surface is Surface.RESPONSES or _undated(provider.api_version):
        version = _undated(provider.api_version, _asked_version(query))
        path = f"{base.removesuffix(_V1).removesuffix('/openai')}{_V1}{PATHS[surface]}{below}"
    else:
        version = provider.api_version or DEFAULT_API_VERSION
        deployment = quote(upstream_model, safe="")
        path = f"{base.removesuffix('/openai')}/openai/deployments/{deployment}{PATHS[surface]}{below}"
    parts = [part for part in (kept, urlencode({_VERSION: version}) if version else "") if part]
    return path + (f"?{'&'.join(parts)}" if parts else "")


def _asked_version(query: bytes) -> str | None:
    for part in query.decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        if unquote(name) == _VERSION:
            return unquote(value)
    return None


def _undated(*versions: str | None) -> str | None:
    """The first of `versions` that the newer API takes: it refuses dates and asks for no version at all."""
    return next((v for v in versions if v and not v[0].isdigit()), None)


def credentials(secret: str | None) -> Headers:
    """The header that carries a provider key; a token of Entra ID, which is a JWT, goes as Bearer."""
    if not secret:
        return []
    if secret.startswith("eyJ") and secret.count(".") == 2:
        return [(b"authorization", b"Bearer " + secret.encode())]
    return [(b"api-key", secret.encode())]


def defaults(headers: Mapping[bytes, bytes]) -> Headers:
    """Headers that the provider asks for and the client's own `headers` lack: none."""
    del headers
    return []
