"""What a provider's reply says of itself, and what of it is not for the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from gateway.domain import Headers, Json, Principal
from gateway.errors import GatewayError, UpstreamError
from gateway.surfaces.encoding import decode

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""A reply that is read whole may be so large."""
MAX_READ_JSON = 1024 * 1024
"""A JSON answer of an unknown API is read up to this size, for the id of what was made."""
_SAID = ("choices", "output", "content", "data", "usage")
"""Where a reply of any surface says something; a provider's error under 200 has none of them."""


def ensure_passable(
    status: int, provider: str, caller: Principal, notify: Callable[[str, dict[str, Any]], None]
) -> None:
    """`UpstreamError` for a provider's answer that is not for the caller's eyes: about the gateway's own
    credentials, an outage, or a redirect."""
    if status in (401, 402, 403) and caller.credential is None:
        notify("upstream_credentials_rejected", {"provider": provider, "status": status})
        raise UpstreamError(
            "upstream_credentials_rejected",
            f"Provider {provider!r} rejected the gateway's credentials; its operator has been told.",
        )
    if status >= 500:
        raise UpstreamError(
            "upstream_unavailable", f"Provider {provider!r} answered {status}.", retry_after_s=1
        )
    if 300 <= status < 400:
        raise UpstreamError(
            "upstream_unavailable",
            f"Provider {provider!r} answered with a redirect, which is not followed.",
            status=502,
        )


def is_error(reply: Json) -> bool:
    """Whether a reply under 200 tells of an error and of nothing else."""
    return bool(reply.get("error")) and not any(reply.get(name) for name in _SAID)


def content_type(headers: Headers) -> bytes:
    """The media type with its parameters, in lower case; empty when none is told."""
    for name, value in headers:
        if name == b"content-type":
            return value.lower()
    return b""


def is_short_json(headers: Headers) -> bool:
    """Whether a body is JSON that is short enough to be read for what was made."""
    length = next((value for name, value in headers if name == b"content-length"), b"")
    return (
        content_type(headers).startswith(b"application/json")
        and length.isdigit()
        and int(length) <= MAX_READ_JSON
    )


def is_event_stream(headers: Headers) -> bool:
    """Whether a body is a stream of server-sent events."""
    return content_type(headers).startswith(b"text/event-stream")


def parse_object(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any] | None:
    """A body that is a JSON object; None for any other."""
    plain = decoded(body, headers)
    if plain is None:
        return None
    try:
        parsed = orjson.loads(plain)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def decoded(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """A body without its content encoding; None for one that cannot be read."""
    encodings = [value for name, value in headers if name == b"content-encoding"]
    if not encodings:
        return body
    try:
        return decode(body, encodings, MAX_REPLY_BYTES)
    except GatewayError:
        return None
