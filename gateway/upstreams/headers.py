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
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"http2-settings",
    b"origin",
    b"referer",
}
_OURS = b"x-guardrail-"
_NOT_DOWNSTREAM = _HOP | {
    b"content-length",
    b"set-cookie",
    b"set-cookie2",
    b"alt-svc",
    b"strict-transport-security",
    b"server",
    b"date",
    b"via",
}
_RETRY_ADVICE = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})


def ensure_unambiguous(headers: Mapping[bytes, bytes]) -> None:
    """`CallerError` for a header that another server would read as a twin of one that is there too."""
    for name in headers:
        if b"_" in name and name.replace(b"_", b"-") in headers:
            raise CallerError("invalid_request", "Two headers differ only in '-' and '_'.")


def to_upstream(raw: Headers, headers: Mapping[bytes, bytes], added: Headers) -> Headers:
    """The client's headers for the provider, with the provider's own credential and framing `added`."""
    named = headers.get(b"connection")
    dropped: frozenset[bytes] = _NOT_UPSTREAM
    if named is not None and named.lower() not in (b"keep-alive", b"close"):
        dropped = dropped | {part.strip().lower() for part in named.split(b",")}
    kept = [
        pair
        for pair in raw
        if pair[0] not in dropped
        and not pair[0].startswith(_OURS)
        and not pair[0].startswith(b"x-forwarded-")
    ]
    kept += added
    return kept


def to_client(raw: Headers) -> Headers:
    """The provider's headers for the client, without those that the gateway sets itself."""
    return [
        (name, value)
        for name, value in raw
        if name not in _NOT_DOWNSTREAM
        and name not in _RETRY_ADVICE
        and not name.startswith(_OURS)
        and b"\r" not in value
        and b"\n" not in value
    ]


def retry_after_s(raw: Headers) -> float | None:
    """Seconds until the provider wants to be asked again, at least 0; None when it does not say.

    A value that cannot be read asks for `MAX_RETRY_AFTER_S`: something was meant by it.
    """
    named = dict(reversed(raw))
    if (ms := named.get(b"retry-after-ms", b"")).isdigit():
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
