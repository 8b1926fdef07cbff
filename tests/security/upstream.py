"""A provider that answers with exactly these bytes, and keeps exactly what it was sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


class RawUpstream:
    """Answers the n-th request by `answers(n, request)`; each connection is served until the peer ends it."""

    def __init__(self, answers: Callable[[int, bytes], bytes]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """As a policy has it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        """Stop listening, and end every connection."""
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while True:
                while b"\r\n\r\n" not in held:
                    if not (piece := peer.recv(65536)):
                        return
                    held += piece
                head, _, held = held.partition(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                while len(held) < length:
                    if not (piece := peer.recv(65536)):
                        return
                    held += piece
                with self._lock:
                    number = len(self.requests)
                    self.requests.append(head + b"\r\n\r\n" + held[:length])
                held = held[length:]
                peer.sendall(self.answers(number, self.requests[number]))


@contextlib.contextmanager
def raw_upstream(answers: Callable[[int, bytes], bytes]) -> Iterator[RawUpstream]:
    """One that ends with the test."""
    made = RawUpstream(answers)
    try:
        yield made
    finally:
        made.close()


class Trap:
    """A listener that nobody should ever come to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    @property
    def visited(self) -> bool:
        """Whether somebody has come."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
