"""HTTP by hand: bytes out, answers in, with nothing that mends either."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT_S = 30.0


class Ended(Exception):
    """The connection ended before an answer was whole. Holds what came of it."""


@dataclass(frozen=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for each, value in self.headers if each == name), None)

    @property
    def code(self) -> str | None:
        """The gateway's error code, if it is an error of ours."""
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return None
        return error.get("code") if isinstance(error, dict) else None


class Connection:
    """A connection whose answers are read one by one, strictly by their own framing."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Each piece in a segment of its own, unless the other side has gone. Only a pause keeps a busy reader
        from taking two for one."""
        try:
            for piece in pieces:
                self._socket.sendall(piece)
                if pause_s:
                    time.sleep(pause_s)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def close_sending(self) -> None:
        """Nothing more will be sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def read(self, *, method: str = "POST") -> Answer:
        """The next answer. Raises `Ended`."""
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = [
                (name.lower(), value.strip())
                for name, _, value in (line.partition(":") for line in lines[1:-2])
            ]
            if status >= 200:
                break
        answer = Answer(status, headers, b"")
        if method == "HEAD" or status in (204, 304):
            return answer
        if (answer.header("transfer-encoding") or "").lower() == "chunked":
            assert answer.header("content-length") is None, "an answer with two framings"
            return Answer(status, headers, self._chunks())
        length = answer.header("content-length")
        if length is not None:
            return Answer(status, headers, self._exactly(int(length)))
        return Answer(status, headers, self._rest())

    def read_if_any(self) -> Answer | None:
        """The next answer; None when the connection ends instead. Raises `Ended` for half of one."""
        if not self._held and not self._more():
            return None
        return self.read()

    def left_over(self) -> bytes:
        """Whatever else comes until the connection ends."""
        return self._rest()

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        while self._until(b"\r\n") != b"\r\n":
            pass
        return body

    def _more(self) -> bool:
        try:
            piece = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        self._held += piece
        return bool(piece)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            if not self._more():
                raise Ended(self._held)
        end = self._held.index(mark) + len(mark)
        taken, self._held = self._held[:end], self._held[end:]
        return taken

    def _exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            if not self._more():
                raise Ended(self._held)
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _rest(self) -> bytes:
        while self._more():
            pass
        taken, self._held = self._held, b""
        return taken


def chat(model: str, text: str) -> bytes:
    """A small chat request's body."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()


def head(
    key: str | None,
    *lines: bytes,
    method: bytes = b"POST",
    target: bytes = b"/v1/chat/completions",
    version: bytes = b"1.1",
) -> bytes:
    """A request's head: method, target, host and key, then the `lines` as they are."""
    own = [b"%b %b HTTP/%b" % (method, target, version), b"Host: gateway.example"]
    if key is not None:
        own.append(b"Authorization: Bearer " + key.encode())
    return b"\r\n".join([*own, *lines]) + b"\r\n\r\n"


def post(key: str | None, body: bytes, *lines: bytes, target: bytes = b"/v1/chat/completions") -> bytes:
    """A whole request with a length."""
    return head(key, *lines, b"Content-Length: %d" % len(body), target=target) + body


def chunked(*pieces: bytes, trailers: Iterable[bytes] = ()) -> bytes:
    """A chunked body."""
    ends = b"".join(line + b"\r\n" for line in trailers)
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + ends + b"\r\n"
