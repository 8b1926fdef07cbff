"""Requests that one server could read as one and the next as two, and what a strict one makes of each.

Each holds a request of MALLORY's own, and somewhere in it the beginning of, or a whole, second request in BOB's
name whose text is HIDDEN. Nobody has asked for the second one where it stands in a body, behind a length or
behind an ambiguity; where it stands behind a whole request it is honest pipelining.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.security.raw import chat, chunked, head, post

MALLORY, BOB = "gk-mallory-0123456789", "gk-bob-0123456789"
HIDDEN = "hidden words"
OPEN = "words of mallory"
MODEL = "sim/echo"

BODY = chat(MODEL, OPEN)
SECOND = post(BOB, chat(MODEL, HIDDEN))
"""A whole request in another's name."""
START = head(BOB, b"Content-Length: 400")
"""One that waits for the next caller's bytes to be its body."""
TE = b"Transfer-Encoding: chunked"


class Outcome(Enum):
    """What a server does with bytes."""

    REFUSED = "refused, and the connection ends"
    ONE = "one request"
    TWO = "two requests, answered in order"
    UNFINISHED = "a request whose end never comes"


@dataclass(frozen=True)
class Attack:
    """Bytes, and how many requests they are."""

    name: str
    data: bytes
    outcome: Outcome
    body: bytes = BODY
    """What the request says, where there is one."""


def _length(value: bytes) -> bytes:
    return head(MALLORY, b"Content-Length: " + value)


def _te(value: bytes, *more: bytes) -> bytes:
    return head(MALLORY, b"Transfer-Encoding:" + value, *more) + chunked(BODY) + SECOND


REFUSED, ONE, TWO, UNFINISHED = Outcome.REFUSED, Outcome.ONE, Outcome.TWO, Outcome.UNFINISHED
N = b"%d" % len(BODY)
BOTH = b"%d" % (len(BODY) + len(SECOND))

ATTACKS = [
    # Two framings.
    Attack("CL.TE", head(MALLORY, b"Content-Length: " + BOTH, TE) + chunked(BODY) + SECOND, REFUSED),
    Attack("TE.CL", head(MALLORY, TE, b"Content-Length: 4") + chunked(BODY) + SECOND, REFUSED),
    Attack("TE.CL with a whole request in a chunk", head(MALLORY, TE, b"Content-Length: 4") + chunked(SECOND), REFUSED),
    Attack("CL.TE, shouted", head(MALLORY, b"CONTENT-LENGTH: " + BOTH, b"TRANSFER-ENCODING: CHUNKED") + chunked(BODY) + SECOND, REFUSED),
    Attack("CL 0 and TE", head(MALLORY, b"Content-Length: 0", TE) + chunked(BODY) + SECOND, REFUSED),
    # Lengths.
    Attack("two lengths", head(MALLORY, b"Content-Length: " + N, b"Content-Length: " + BOTH) + BODY + SECOND, REFUSED),
    Attack("two lengths alike", head(MALLORY, b"Content-Length: " + N, b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a list of lengths", _length(N + b", " + N) + BODY + SECOND, REFUSED),
    Attack("a length with a sign", _length(b"+" + N) + BODY + SECOND, REFUSED),
    Attack("a negative length", _length(b"-1") + BODY + SECOND, REFUSED),
    Attack("a hexadecimal length", _length(b"0x%x" % len(BODY)) + BODY + SECOND, REFUSED),
    Attack("an empty length", _length(b"") + SECOND, REFUSED),
    Attack("a length of two words", _length(N + b" 9") + BODY + SECOND, REFUSED),
    Attack("a length beyond 64 bits", _length(b"9" * 30) + BODY + SECOND, REFUSED),
    Attack("a length after a space", head(MALLORY, b"Content-Length : " + BOTH) + BODY + SECOND, REFUSED),
    Attack("a length after a NUL", head(MALLORY, b"Content-Length\0: " + BOTH) + BODY + SECOND, REFUSED),
    Attack("a length and its twin", head(MALLORY, b"Content_Length: " + BOTH, b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a length that Connection takes away", head(MALLORY, b"Connection: keep-alive, content-length", b"Content-Length: " + N) + BODY + SECOND, TWO),
    Attack("an honest length", _length(N) + BODY + SECOND, TWO),
    # Transfer codings.
    Attack("xchunked", _te(b" xchunked"), REFUSED),
    Attack("chunked, identity", _te(b" chunked, identity"), REFUSED),
    Attack("identity, chunked", _te(b" identity, chunked"), REFUSED),
    Attack("identity", _te(b" identity"), REFUSED),
    Attack("gzip, chunked", _te(b" gzip, chunked"), REFUSED),
    Attack("chunked twice in a line", _te(b" chunked, chunked"), REFUSED),
    Attack("chunked in two lines", _te(b" chunked", b"Transfer-Encoding: chunked"), REFUSED),
    Attack("identity, then chunked in another line", _te(b" identity", b"Transfer-Encoding: chunked"), REFUSED),
    Attack("chunked, then x in another line", _te(b" chunked", b"Transfer-Encoding: x"), REFUSED),
    Attack("chunked in quotes", _te(b' "chunked"'), REFUSED),
    Attack("chunked with a parameter", _te(b" chunked;q=1"), REFUSED),
    Attack("chunked after a vertical tab", _te(b" \x0bchunked"), REFUSED),
    Attack("chunked before a form feed", _te(b" chunked\x0c"), REFUSED),
    Attack("chunked on a folded line", _te(b"\r\n chunked"), REFUSED),
    Attack("an empty coding", _te(b""), REFUSED),
    Attack("a coding after a space", head(MALLORY, b"Transfer-Encoding : chunked") + chunked(BODY) + SECOND, REFUSED),
    Attack("a coding's twin beside a length", head(MALLORY, b"Transfer_Encoding: chunked", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("chunks of HTTP/1.0", head(MALLORY, TE, version=b"1.0") + chunked(BODY) + SECOND, REFUSED),
    Attack("chunked after a tab", _te(b"\tchunked"), TWO),
    Attack("chunked, shouted", _te(b" CHUNKED"), TWO),
    # Chunks.
    Attack("a size with 0x", head(MALLORY, TE) + b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("a negative size", head(MALLORY, TE) + b"-1\r\n" + BODY + b"\r\n0\r\n\r\n" + SECOND, REFUSED),
    Attack("a size with a space", head(MALLORY, TE) + b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("a size beyond 64 bits", head(MALLORY, TE) + b"1%016x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("no size", head(MALLORY, TE) + b"\r\n" + BODY + b"\r\n0\r\n\r\n" + SECOND, REFUSED),
    Attack("a size and a bare line feed", head(MALLORY, TE) + b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("a chunk and a bare line feed", head(MALLORY, TE) + b"%x\r\n%b\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("a chunk longer than it says", head(MALLORY, TE) + b"%x\r\n%bXX0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("an extension with a bare line feed", head(MALLORY, TE) + b"%x;a\nx\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("an extension with a bare carriage return", head(MALLORY, TE) + b"%x;a\rx\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) + SECOND, REFUSED),
    Attack("an extension", head(MALLORY, TE) + b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(BODY), BODY) + SECOND, TWO),
    Attack("zeros before a size", head(MALLORY, TE) + b"000%x\r\n%b\r\n00\r\n\r\n" % (len(BODY), BODY) + SECOND, TWO),
    # Trailers.
    Attack("a trailer with a length", head(MALLORY, TE) + chunked(BODY, trailers=[b"Content-Length: 5"]) + SECOND, REFUSED),
    Attack("a trailer with a key", head(MALLORY, TE) + chunked(BODY, trailers=[b"Authorization: Bearer " + BOB.encode()]), ONE),
    Attack("a trailer with a name", head(MALLORY, TE) + chunked(BODY, trailers=[b"X-Guardrail-User-Id: bob"]), ONE),
    # Lines.
    Attack("bare line feeds", head(MALLORY, b"Content-Length: " + N).replace(b"\r\n", b"\n") + BODY + SECOND, REFUSED),
    Attack("a header after a bare line feed", head(MALLORY, b"X: y\nContent-Length: 0", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a header after a bare carriage return", head(MALLORY, b"X: y\rContent-Length: 0", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a folded header", head(MALLORY, b"X: y\r\n z", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a first header that is folded", head(MALLORY, b"Content-Length: " + N).replace(b"\r\nHost", b"\r\n Host") + BODY + SECOND, REFUSED),
    Attack("a NUL in a value", head(MALLORY, b"X: a\0b", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a NUL in a name", head(MALLORY, b"X\0Y: a", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a space in a name", head(MALLORY, b"X Y: a", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a name of nothing", head(MALLORY, b": a", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a line without a colon", head(MALLORY, b"X", b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a huge header", head(MALLORY, b"X: " + b"a" * 300_000, b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("a huge target", head(MALLORY, target=b"/v1/" + b"a" * 300_000) + SECOND, REFUSED),
    Attack("a thousand headers", head(MALLORY, *(b"X-%d: a" % n for n in range(1000)), b"Content-Length: " + N) + BODY + SECOND, REFUSED),
    Attack("an unknown version", head(MALLORY, b"Content-Length: " + N, version=b"1.2") + BODY + SECOND, REFUSED),
    Attack("HTTP/2 by heart", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECOND, REFUSED),
    # Another protocol.
    Attack("h2c with a body", head(MALLORY, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", b"Content-Length: " + N) + BODY + SECOND, TWO),
    Attack("h2c whose body is a request", head(MALLORY, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA", b"Content-Length: %d" % len(SECOND)) + SECOND, ONE, SECOND),
    Attack("h2c whose body is the start of a request", head(MALLORY, b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(START)) + START, ONE, START),
    Attack("h2c whose chunk is a request", head(MALLORY, b"Connection: upgrade", b"Upgrade: h2c", TE) + chunked(SECOND), ONE, SECOND),
    Attack("another protocol whose body is a request", head(MALLORY, b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: TLS/1.0", b"Content-Length: %d" % len(SECOND)) + SECOND, ONE, SECOND),
    Attack("a tunnel", head(MALLORY, method=b"CONNECT", target=b"gateway.example:443") + SECOND, REFUSED),
    # What the body holds is the body.
    Attack("a request in a body", head(MALLORY, b"Content-Length: %d" % len(SECOND)) + SECOND, ONE, SECOND),
    Attack("a request in a chunk", head(MALLORY, TE) + chunked(SECOND), ONE, SECOND),
    Attack("a request in the body of a GET", head(MALLORY, b"Content-Length: %d" % len(SECOND), method=b"GET", target=b"/v1/models") + SECOND, ONE, SECOND),
    Attack("a request in a body that is not read", head("nobody", b"Content-Length: %d" % len(SECOND)) + SECOND, ONE, SECOND),
    Attack("a request in a body on its way to nowhere", head(MALLORY, b"Content-Length: %d" % len(SECOND), target=b"/nowhere") + SECOND, ONE, SECOND),
    Attack("a request where 100 was waited for", head("nobody", b"Expect: 100-continue", b"Content-Length: %d" % len(SECOND)) + SECOND, REFUSED),
    Attack("a request behind the last one", head(MALLORY, b"Connection: close", b"Content-Length: " + N) + BODY + SECOND, ONE),
    Attack("garbage behind a request", head(MALLORY, b"Content-Length: " + N) + BODY + b"\x16\x03\x01garbage\r\n\r\n", ONE),
    Attack("a length that is too long", _length(b"%d" % (len(BODY) + 5)) + BODY, UNFINISHED),
    # Targets.
    Attack("an absolute target", head(MALLORY, b"Content-Length: " + N, target=b"http://provider.example/v1/chat/completions") + BODY + SECOND, TWO),
]  # fmt: skip
