"""Everywhere that a gateway writes, and in how many spellings a secret may stand there."""

from __future__ import annotations

import base64
import contextlib
import logging
import threading
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gateway.telemetry.logs import Formatter

SHORTEST = 8
"""Bytes of a spelling that is looked for; shorter ones stand anywhere by chance."""


def spellings(secret: str) -> list[bytes]:
    """A secret as it is, in other letters, and in each of the codes that carry bytes through text."""
    raw = secret.encode()
    found = [
        raw,
        raw.lower(),
        raw.upper(),
        raw[::-1],
        raw.hex().encode(),
        urllib.parse.quote(secret, safe="").encode(),
    ]
    found.append("".join(f"\\u{ord(c):04x}" for c in secret).encode())
    found.append(secret.encode("utf-16-le"))
    for shift in range(3):
        # What stands before it moves it in its group of three; the edges are shared with others.
        coded = base64.b64encode(b"x" * shift + raw)
        found.append(coded[4 if shift else 0 : len(coded) - 4])
    return [each for each in dict.fromkeys(found) if len(each) >= SHORTEST]


def found_in(places: dict[str, bytes], secrets: dict[str, str]) -> list[str]:
    """`secret in place: what stands around it`, for each secret that stands somewhere."""
    hits = []
    for name, secret in secrets.items():
        for spelled in spellings(secret):
            for place, raw in places.items():
                at = raw.find(spelled)
                if at >= 0:
                    hits.append(f"{name} in {place}: {raw[max(0, at - 120) : at + 60]!r}")
    return hits


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def redis_dump(client: Any) -> dict[str, bytes]:
    """Every key of a Redis with its value: as it is serialised, and as commands tell it."""
    found = {}
    for key in client.keys("*"):
        kind = client.type(key)
        told: Any = b""
        match kind:
            case b"hash":
                told = client.hgetall(key)
            case b"string":
                told = client.get(key)
            case b"stream":
                told = client.xrange(key)
            case b"zset":
                told = client.zrange(key, 0, -1, withscores=True)
            case b"set":
                told = client.smembers(key)
            case b"list":
                told = client.lrange(key, 0, -1)
        found[f"redis {key.decode('latin-1')}"] = key + (client.dump(key) or b"") + repr(told).encode()
    return found


class Mailbox:
    """An HTTP server that takes whatever comes and keeps every byte."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.count = 0
        lock = threading.Lock()
        box = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    body = zlib.decompress(body, 31)
                with lock:
                    # The path is the receiver's own credential, which it may see.
                    box.raw += bytes(self.headers) + b"\n" + body + b"\n"
                    box.count += 1
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def mailbox() -> Iterator[Mailbox]:
    """One that ends with the test."""
    made = Mailbox()
    try:
        yield made
    finally:
        made.close()


def ensure_silent(place: str, raw: bytes, secrets: Iterable[str]) -> None:
    """`AssertionError` when one of the secrets stands in what was written."""
    hits = found_in({place: raw}, {secret: secret for secret in secrets})
    assert not hits, hits


class Watch(logging.Handler):
    """Reads every line that this process logs, as the gateway would write it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self.secrets = tuple(secrets)
        self.hits: list[str] = []
        self.setFormatter(Formatter(as_json=True))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what should not be there."""
        line = self.format(record)
        self.hits += [f"{secret} in {line}" for secret in self.secrets if secret in line]

    def ensure_silent(self) -> None:
        """`AssertionError` when something was written since the last time that should not be."""
        hits, self.hits = self.hits, []
        assert not hits, hits
