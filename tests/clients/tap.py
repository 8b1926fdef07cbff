"""Counts what reaches a gateway, so that a test can say how often a client asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.web.asgi import Receive, Scope, Send
from gateway.web.data_plane import DataPlane
from tests.support.gateway import ThreadedGateway


class Tap:
    """Stands before the data plane and keeps the headers of each request."""

    def __init__(self, inner: DataPlane) -> None:
        self.inner = inner
        self.requests: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append({n.decode("latin-1"): v.decode("latin-1") for n, v in scope["headers"]})
        await self.inner(scope, receive, send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def tapped(gateway: ThreadedGateway) -> Iterator[Tap]:
    """The requests that reach the gateway inside the block."""
    worker = gateway.worker
    tap = Tap(worker.data_plane)
    worker.data_plane = tap  # type: ignore[assignment]
    try:
        yield tap
    finally:
        worker.data_plane = tap.inner
