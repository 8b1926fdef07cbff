"""Which wire API a step reaches its provider by: its own where the provider speaks it, else a translation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import orjson

from gateway.domain import Headers, Step, Surface
from gateway.errors import CallerError
from gateway.policy.sections.providers import Provider
from gateway.rules.route import Route
from gateway.surfaces import CODECS, Codec
from gateway.translation import Translation, between
from gateway.translation.base import OutputLimit
from gateway.upstreams import anthropic, azure_openai, openai
from gateway.values import frozen

_INSTEAD: dict[Surface, tuple[Surface, ...]] = {
    Surface.CHAT: (Surface.MESSAGES,),
    Surface.MESSAGES: (Surface.CHAT,),
    Surface.RESPONSES: (Surface.CHAT, Surface.MESSAGES),
}
"""What a surface is translated to, the nearest relative first."""


class Dialect(Protocol):
    """How one kind of provider is addressed."""

    def serves(self, provider: Provider, surface: Surface) -> bool:
        """Whether the provider speaks this wire API."""

    def url(
        self, provider: Provider, surface: Surface, upstream_model: str, query: bytes, below: str = ...
    ) -> str:
        """Where a surface's requests go; `below` is a path below the surface's own, percent-encoded."""

    def credentials(self, secret: str | None) -> Headers:
        """The headers that carry a key."""

    def defaults(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Headers that the provider asks for and the client's own `headers` lack."""


DIALECTS: dict[str, Dialect] = {
    "openai": openai,
    "azure_openai": azure_openai,
    "anthropic": anthropic,
}


_OF_ANTHROPIC = (b"anthropic-", b"x-claude-code-")
_OF_OPENAI = (b"openai-",)


@frozen
class Wire:
    """How a step is put to its provider and its answer is read."""

    dialect: Dialect
    surface: Surface
    """What the provider speaks."""
    codec: Codec
    translation: Translation | None

    def put(self, step: Step, translation: Translation, limit: OutputLimit, *, max_depth: int) -> Step:
        """A translated step as the provider will read it. Raises `CallerError` naming what cannot be carried.

        `limit` is for an API that demands one where the caller gave none.
        """
        body = translation.request(step.body, limit)
        own = step.output_limit
        put = self.codec.parse(orjson.dumps(body), max_depth=max_depth)
        # A limit that the translation had to make up is not the caller's own.
        return replace(put, model=step.model, output_limit=None if own is None else put.output_limit)


def headers_for(wire: Wire, raw: Headers, headers: Mapping[bytes, bytes]) -> tuple[Headers, Headers]:
    """The client's headers that the provider may see, and those that it asks for besides.

    A translated request is ours and not the client's: what the client says to the API that it thinks it
    speaks to would be wrong there.
    """
    if wire.translation is None:
        return raw, wire.dialect.defaults(headers)
    foreign = _OF_OPENAI if wire.surface is Surface.MESSAGES else _OF_ANTHROPIC
    kept = [
        pair for pair in raw if not pair[0].startswith(foreign) and pair[0] not in (b"anthropic-version",)
    ]
    return kept, wire.dialect.defaults({})


def query_for(wire: Wire, surface: Surface, query: bytes) -> bytes:
    """The client's query string, unless its API is another vendor's than the provider's: `?beta=true`, which
    Anthropic's SDKs send, means nothing to a chat provider, and some refuse what they do not know."""
    vendors = {s is Surface.MESSAGES for s in (surface, wire.surface)}
    return query if len(vendors) == 1 else b""


def passthrough_url(provider: Provider, path: str, query: bytes) -> str:
    """Where a path of the gateway leads at a provider: `/v1/…` is below its base URL."""
    base = provider.base_url.rstrip("/")
    if base.endswith("/v1"):
        path = path.removeprefix("/v1")
    kept = openai.kept_query(query)
    return f"{base}{path}" + (f"?{kept}" if kept else "")


def wire_for(route: Route, surface: Surface) -> Wire:
    """The wire of a route, or `CallerError` when its provider cannot be reached from this surface."""
    dialect = DIALECTS[route.provider.dialect]
    if dialect.serves(route.provider, surface):
        return Wire(dialect, surface, CODECS[surface], None)
    for instead in _INSTEAD.get(surface, ()):
        if dialect.serves(route.provider, instead) and (translation := between(surface, instead)) is not None:
            return Wire(dialect, instead, CODECS[instead], translation)
    raise CallerError(
        "model_not_allowed",
        f"Model {route.requested[:128]!r} is served by provider {route.provider_name!r}, which has no "
        f"{surface.value} API and none that it can be translated to.",
        param="model",
    )
