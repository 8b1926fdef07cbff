"""Which headers cross the gateway, in either direction.

Inbound credentials never go upstream, whatever header they hide in; what only concerns one hop stays there;
a provider's cookies and its own retry advice on our verdicts stop here.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gateway.domain import Headers
from gateway.errors import MAX_RETRY_AFTER_S, CallerError

_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_UPSTREAM = _HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"accept-encoding",
    b"cookie",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"x-goog-api-key",
    # Credentials of other gateways, left in clients that were moved here.
    b"x-portkey-api-key",
    b"x-litellm-api-key",
    b"helicone-auth",
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"http2-settings",
    b"origin",
    b"referer",
}
_OURS = b"x-guardrail-"
_OF_PROXIES = b"x-forwarded-"
_SINGLE = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"host",
        b"origin",
        b"content-type",
        b"content-encoding",
    }
)
"""Headers of which a second one would be read by one server and not by the next."""
_NOT_DOWNSTREAM = _HOP | {
    b"content-length",
    b"set-cookie",
    b"set-cookie2",
    b"alt-svc",
    b"strict-transport-security",
    b"server",
    b"date",
    b"via",
    # Orders to a browser about the gateway's own origin.
    b"clear-site-data",
    b"refresh",
    b"service-worker-allowed",
    b"public-key-pins",
    b"nel",
    b"report-to",
    b"reporting-endpoints",
    # Orders to a proxy in front of the gateway to serve something else.
    b"x-sendfile",
    b"x-lighttpd-send-file",
    b"x-litespeed-location",
    b"x-reproxy-url",
    b"x-reproxy-file",
}
_NEVER_DOWNSTREAM = (_OURS, b"access-control-", b"x-accel-")
"""Ours to say: what was decided, which web pages may read it, and what nginx in front of us does."""
_RETRY_ADVICE = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})


def ensure_unambiguous(raw: Headers, headers: Mapping[bytes, bytes]) -> None:
    """`CallerError` for headers that another server may read otherwise than we do: one that counts and is
    there twice, and one that becomes another, or one of ours, where `_` is read as `-`."""
    if len(raw) != len(headers):
        seen: set[bytes] = set()
        for name, _ in raw:
            if name in seen and (name in _SINGLE or name.startswith(_OURS)):
                raise CallerError("invalid_request", f"The header {name.decode('latin-1')!r} is there twice.")
            seen.add(name)
    for name in headers:
        if b"_" in name:
            twin = name.replace(b"_", b"-")
            if twin in headers:
                raise CallerError("invalid_request", "Two headers differ only in '-' and '_'.")
            if twin in _NOT_UPSTREAM or twin.startswith((_OURS, _OF_PROXIES)):
                raise CallerError(
                    "invalid_request",
                    f"Write the header {twin.decode('latin-1')!r} with '-' and not with '_'.",
                )


def to_upstream(raw: Headers, headers: Mapping[bytes, bytes], added: Headers) -> Headers:
    """The client's headers for the provider, with the provider's own credential and framing `added`."""
    dropped: frozenset[bytes] = _NOT_UPSTREAM
    if b"connection" in headers:
        dropped |= _named_by_connection(raw)
    kept = [
        pair
        for pair in raw
        if pair[0] not in dropped and not pair[0].startswith(_OURS) and not pair[0].startswith(_OF_PROXIES)
    ]
    kept += added
    return kept


def _named_by_connection(raw: Headers) -> frozenset[bytes]:
    """What `Connection` says is for this hop alone, in however many lines."""
    named: frozenset[bytes] = frozenset()
    for name, value in raw:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named |= {part.strip().lower() for part in value.split(b",")}
    return named


def to_client(raw: Headers) -> Headers:
    """The provider's headers for the client, without those that the gateway sets itself and those that would
    be taken for its own word."""
    named = _named_by_connection(raw)
    dropped = _NOT_DOWNSTREAM | named if named else _NOT_DOWNSTREAM
    return [
        (name, value)
        for name, value in raw
        if name not in dropped
        and name not in _RETRY_ADVICE
        and not name.startswith(_NEVER_DOWNSTREAM)
        and b"\r" not in value
        and b"\n" not in value
    ]


def retry_after_s(raw: Headers) -> float | None:
    """Seconds until the provider wants to be asked again, at least 0; None when it does not say.

    A value that cannot be read asks for `MAX_RETRY_AFTER_S`: something was meant by it.
    """
    named = dict(reversed(raw))
    # The second is Azure's name for it.
    for name in (b"retry-after-ms", b"x-ms-retry-after-ms"):
        if (ms := named.get(name, b"")).isdigit():
            return int(ms[:12]) / 1000
    value = named.get(b"retry-after")
    if value is None:
        return None
    seconds = _seconds(value.decode("latin-1").strip())
    return max(0.0, seconds) if math.isfinite(seconds) else float(MAX_RETRY_AFTER_S)


def _seconds(value: str) -> float:
    """A number of seconds, or an HTTP date as seconds from now; infinite for anything else."""
    with contextlib.suppress(ValueError):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return math.inf
    return at.timestamp() - time.time()


def retry_advice(raw: Headers) -> Headers:
    """The provider's own `Retry-After` for its own refusal, never longer than a client should sleep."""
    advice: Headers = []
    for name, value in raw:
        if name == b"retry-after":
            seconds = min(retry_after_s([(name, value)]) or 0, MAX_RETRY_AFTER_S)
            advice.append((name, b"%d" % round(seconds)))
        elif name == b"retry-after-ms" and value.isdigit():
            advice.append((name, b"%d" % min(int(value), MAX_RETRY_AFTER_S * 1000)))
        elif name == b"x-should-retry" and value.lower() == b"false":
            advice.append((name, b"false"))
    return advice
