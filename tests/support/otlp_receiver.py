"""A receiver of OTLP over HTTP that parses what it gets, and can be told to misbehave."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.gateway import wait_until


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


@dataclass
class Received:
    """One span as it came."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    error: str
    failed: bool
    attributes: dict[str, Any]
    links: list[tuple[str, str, str]]
    """(trace, span, what it is)."""
    resource: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


@dataclass
class OtlpReceiver:
    """`url` is what `OTEL_EXPORTER_OTLP_ENDPOINT` takes."""

    url: str
    spans: list[Received] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    """Every byte of every body, decompressed."""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: int = 200
    delay_s: float = 0.0

    def environment(self, **more: str) -> dict[str, str]:
        """What a gateway needs to export here, soon."""
        return {
            "OPENAI_API_KEY": "not-used",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            **more,
        }

    def named(self, beginning: str) -> list[Received]:
        """The spans whose names begin so, in the order of their start."""
        return sorted((s for s in self.spans if s.name.startswith(beginning)), key=lambda s: s.start)

    def wait(self, beginning: str, count: int = 1, timeout: float = 15.0) -> list[Received]:
        """... once there are so many."""
        wait_until(lambda: len(self.named(beginning)) >= count, timeout, f"{count} spans {beginning!r}")
        return self.named(beginning)

    def _take(self, body: bytes) -> None:
        self.raw += body
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            resource = {a.key: _value(a.value) for a in group.resource.attributes}
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Received(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.kind,
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.message,
                            span.status.code == 2,
                            {a.key: _value(a.value) for a in span.attributes},
                            [
                                (
                                    link.trace_id.hex(),
                                    link.span_id.hex(),
                                    {a.key: _value(a.value) for a in link.attributes}["guardrail.link"],
                                )
                                for link in span.links
                            ],
                            resource,
                        )
                    )


@contextlib.contextmanager
def otlp_receiver(port: int = 0) -> Iterator[OtlpReceiver]:
    """A receiver on a free port of this machine, or on the one given."""
    receiver = OtlpReceiver("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if receiver.delay_s:
                time.sleep(receiver.delay_s)
            receiver.headers.append({k.lower(): v for k, v in self.headers.items()})
            receiver.paths.append(self.path)
            if receiver.status == 200:
                encoding = self.headers.get("content-encoding")
                receiver._take(gzip.decompress(body) if encoding == "gzip" else body)
            with contextlib.suppress(OSError):
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
