"""Links by which an answer could carry data away: whoever shows the answer fetches its pictures unasked, and
whoever clicks sends what stands in the address.

A picture of a foreign host is found when its address carries more than a path: a query, or a long piece that
is no word. Any other address is found when what it carries is personal data or a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import unquote

from gateway.screening import pii, secrets
from gateway.screening.base import Finding

DETECTOR = "links"
_MAX_LINKS = 256
_LONG = 32
"""A piece of a path of so many characters without a break is data, not a name."""
_URL = re.compile(r"(?:https?:)?//[^\s<>\"'`)\]]{3,4096}", re.IGNORECASE)
_BEFORE = 160
"""Characters before an address that tell what it is for."""
_IMAGE = re.compile(
    r"(?:!\[[^\]]{0,140}\]\(\s*<?|<img\b[^>]{0,140}\bsrc\s*=\s*[\"']?|!\[[^\]]{0,140}\]:\s*)$", re.IGNORECASE
)
_HOST = re.compile(r"(?:https?:)?//(?:[^/?#@]*@)?([^/?#:]+)", re.IGNORECASE)
_KINDS = ("EMAIL_ADDRESS", "CREDIT_CARD", "US_SSN", "IBAN_CODE", "PHONE_NUMBER")


def scan(text: str, allowed: Collection[str] = ()) -> list[Finding]:
    """The addresses that carry something, as spans of the address alone. `allowed` are hosts, or with a
    leading dot all below them, that may be told anything."""
    return list(_found(text, allowed)) if "//" in text else []


def _found(text: str, allowed: Collection[str]) -> Iterator[Finding]:
    for number, match in enumerate(_URL.finditer(text)):
        start = match.start()
        url = match.group().rstrip(".,;:!?")
        host = _HOST.match(url)
        if host is None or _is_allowed(host.group(1).lower(), allowed):
            continue
        tail = url[host.end() :]
        if _IMAGE.search(text[max(0, start - _BEFORE) : start]) and _carries(tail):
            yield Finding(DETECTOR, "EXFILTRATION_IMAGE", start, start + len(url), 1.0)
        elif number < _MAX_LINKS and tail and _tells(tail):
            yield Finding(DETECTOR, "EXFILTRATION_LINK", start, start + len(url), 0.9)


def _is_allowed(host: str, allowed: Collection[str]) -> bool:
    return any(host == name or (name.startswith(".") and host.endswith(name)) for name in allowed)


def _carries(tail: str) -> bool:
    path, query, _ = tail.partition("?")
    if query:
        return True
    pieces = re.split(r"[/.#;=&_-]", path)
    return any(len(piece) >= _LONG for piece in pieces)


def _tells(tail: str) -> bool:
    said = unquote(unquote(tail)).replace("+", " ")
    return bool(pii.scan(said, _KINDS) or secrets.scan(said))
