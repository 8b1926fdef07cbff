"""Where spans go: OTLP over HTTP, by the standard `OTEL_…` variables.

    put ──► a bounded queue ──► a thread of its own: encode, send, try again for a while
             full: dropped, counted, said once

A receiver that is slow, broken or gone costs the gateway nothing but that queue, and a shut-down at most a
second. The libraries are those of the extra `otel`; without an endpoint none of them is imported.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from gateway.settings import SettingsError
from gateway.telemetry.spans import Context, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("gateway.traces")

Outcome = Literal["exported", "failed", "dropped"]
MAX_CONTENT_CHARS = 64 * 1024 * 1024
"""Characters of content that wait at most; spans beyond that wait without theirs."""
MAX_BATCH_CHARS = 2 * 1024 * 1024
"""Characters of content after which a message is full; receivers take some megabytes."""
CLOSE_S = 0.6
REST_S = 0.00005
_SAMPLED = 1
_SAMPLERS = ("always_on", "always_off", "traceidratio")


@dataclass(frozen=True, slots=True)
class OtlpConfig:
    """What the environment says about exporting."""

    endpoint: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    resource: Mapping[str, str]
    timeout_s: float
    compression: Literal["none", "gzip", "deflate"]
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    share: float
    """Of runs that are told of; what stopped a run is told of whatever this says."""
    max_queue: int
    batch: int
    delay_s: float

    @property
    def shown_endpoint(self) -> str:
        """The endpoint without what may be a credential."""
        parts = urlsplit(self.endpoint)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"


def configured(environment: Mapping[str, str]) -> OtlpConfig | None:
    """What to export to; None where nothing is configured, or switched off. Raises `SettingsError`."""

    def own(name: str, default: str = "") -> str:
        traces = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
        return traces or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip() or default

    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    if not endpoint and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    share = _share(environment)
    if not endpoint or disabled or exporter == "none" or share is None:
        return None
    if exporter not in ("", "otlp"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER: got {exporter!r}, expected 'otlp' or 'none'")
    protocol = own("PROTOCOL", "http/protobuf").lower()
    if protocol != "http/protobuf":
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: got {protocol!r}, expected 'http/protobuf' (port 4318 of most "
            "collectors): gRPC is not spoken here"
        )
    if not _is_url(endpoint):
        raise SettingsError("the OTLP endpoint is no http:// or https:// URL")
    compression = own("COMPRESSION", "none").lower()
    if compression not in ("none", "gzip", "deflate"):
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_COMPRESSION: got {compression!r}, expected gzip, deflate or none"
        )
    for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        if (path := own(name)) and not Path(path).is_file():
            raise SettingsError(f"OTEL_EXPORTER_OTLP_{name}: there is no file {path!r}")
    timeout = _number(own("TIMEOUT", "10"), "OTEL_EXPORTER_OTLP_TIMEOUT")
    headers = _pairs(environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""), "OTEL_EXPORTER_OTLP_HEADERS")
    headers |= _pairs(
        environment.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", ""), "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    )
    resource = _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES")
    if name := environment.get("OTEL_SERVICE_NAME", "").strip():
        resource["service.name"] = name
    max_queue = int(_number(environment.get("OTEL_BSP_MAX_QUEUE_SIZE", "8192"), "OTEL_BSP_MAX_QUEUE_SIZE"))
    batch = int(
        _number(environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "256"), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
    )
    delay_ms = _number(environment.get("OTEL_BSP_SCHEDULE_DELAY", "1000"), "OTEL_BSP_SCHEDULE_DELAY")
    return OtlpConfig(
        endpoint=endpoint,
        headers={name.lower(): value for name, value in headers.items()},
        resource={"service.name": "guardrail-gateway", **resource},
        # The specification says milliseconds, Python's own SDK takes seconds; nobody means 1,000 seconds.
        timeout_s=timeout / 1000 if timeout >= 1000 else timeout,
        compression=compression,  # type: ignore[arg-type]  # one of the three
        certificate=own("CERTIFICATE") or None,
        client_key=own("CLIENT_KEY") or None,
        client_certificate=own("CLIENT_CERTIFICATE") or None,
        share=share,
        max_queue=max(1, max_queue),
        batch=max(1, min(batch, max_queue)),
        delay_s=max(0.01, delay_ms / 1000),
    )


def _share(environment: Mapping[str, str]) -> float | None:
    """The share of runs by `OTEL_TRACES_SAMPLER`; None for `always_off`."""
    sampler = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "always_on"
    known = sampler.removeprefix("parentbased_")
    if known not in _SAMPLERS:
        expected = ", ".join(_SAMPLERS)
        raise SettingsError(f"OTEL_TRACES_SAMPLER: got {sampler!r}, expected {expected} or parentbased_…")
    if known == "always_off":
        return None
    if known == "always_on":
        return 1.0
    argument = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    share = _number(argument, "OTEL_TRACES_SAMPLER_ARG")
    if share > 1:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: got {argument!r}, expected a share from 0 to 1")
    return share


def _number(value: str, name: str) -> float:
    try:
        number = float(value.strip())
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise SettingsError(f"{name}: got {value!r}, expected a number")
    return number


def _pairs(value: str, name: str) -> dict[str, str]:
    """`a=b,c=d`, percent-encoded. What is wrong with it is told without its values: they may be secret."""
    pairs: dict[str, str] = {}
    for part in value.split(","):
        if not part.strip():
            continue
        key, given, text = part.partition("=")
        key, text = unquote(key.strip()), unquote(text.strip())
        if not given or not key or any(c in key + text for c in "\r\n\0"):
            raise SettingsError(f"{name}: expected name=value, separated by commas")
        pairs[key] = text
    return pairs


def _is_url(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class OtlpExporter:
    """Sends spans from a thread of its own. `told` counts what became of them, from any thread.

    Raises `SettingsError` when the libraries are not installed or refuse the configuration.
    """

    def __init__(self, config: OtlpConfig, instance: str, told: Callable[[Outcome, int], None]) -> None:
        self.config = config
        self._told = told
        self._send = _Sender(config, instance)
        self._queue: deque[Span] = deque()
        self._stir = threading.Event()
        self._closing = False
        self._lock = threading.Lock()
        self._content = 0
        self._sending = 0
        self._full = False
        self._in_trouble = False
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, spans: Sequence[Span]) -> None:
        """Take spans in, or drop them where there is no room. Never waits."""
        room = self.config.max_queue - len(self._queue)
        if len(spans) > room or self._closing:
            self._told("dropped", len(spans))
            self._lost += len(spans)
            if not self._full:
                self._full = True
                log.warning(
                    "traces: %d spans wait for %s and no more are taken; what comes now is dropped and "
                    "counted in gateway_trace_spans_total",
                    len(self._queue),
                    self.config.shown_endpoint,
                )
            return
        if self._full and len(self._queue) < self.config.max_queue / 2:
            # Not said again for every time that one goes out and the next comes in.
            self._full = False
        for span in spans:
            if span.size:
                with self._lock:
                    fits = self._content + span.size <= MAX_CONTENT_CHARS
                    self._content += span.size if fits else 0
                if not fits:
                    without_content(span)
        self._queue.extend(spans)
        if len(self._queue) >= self.config.batch:
            self._stir.set()

    def close(self) -> None:
        """Send what is left, for no longer than `CLOSE_S`. Blocks; call it beside the event loop."""
        self._closing = True
        self._stir.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._send.abort()
            left = len(self._queue) + self._sending
            log.warning("traces: %s is too slow; %d spans are lost", self.config.shown_endpoint, left)
            self._told("dropped", len(self._queue))

    def _run(self) -> None:
        while True:
            self._stir.wait(self.config.delay_s)
            self._stir.clear()
            closing = self._closing
            while self._queue:
                self._export()
                if len(self._queue) < self.config.batch and not self._closing:
                    break
            if closing and not self._queue:
                return

    def _export(self) -> None:
        batch: list[Span] = []
        size = 0
        while self._queue and len(batch) < self.config.batch and size < MAX_BATCH_CHARS:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        with self._lock:
            self._content -= size
        self._sending = len(batch)
        problem = self._send(batch, lambda: self._closing)
        self._sending = 0
        if problem is None:
            self._told("exported", len(batch))
            if self._in_trouble or self._lost:
                log.warning("traces: delivered again; %d spans were lost", self._lost)
                self._in_trouble, self._lost = False, 0
            return
        self._told("failed", len(batch))
        self._lost += len(batch)
        if not self._in_trouble:
            self._in_trouble = True
            log.warning("traces: cannot be delivered to %s: %s", self.config.shown_endpoint, problem)


class _Slowly(Sequence["ReadableSpan"]):
    """Spans that are made one by one, with a rest after each, while the library encodes them. The event loop
    gets the interpreter's lock at once then, and not at the end of its time slice."""

    def __init__(
        self,
        spans: Sequence[Span],
        made: Callable[[Span], ReadableSpan],
        in_a_hurry: Callable[[], bool],
    ) -> None:
        self._spans, self._made, self._in_a_hurry = spans, made, in_a_hurry

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        return [self._made(span) for span in self._spans[index]]

    def __iter__(self) -> Iterator[ReadableSpan]:
        for span in self._spans:
            yield self._made(span)
            if not self._in_a_hurry():
                time.sleep(REST_S)


_QUERY = re.compile(r"\?[^\s'\")]+")
"""Of a URL; some receivers are given their key there."""
_said: dict[int, str] = {}


def _overhear(record: logging.LogRecord) -> bool:
    """What the library's exporter says in each thread: it is said once for each trouble, not each time."""
    _said[record.thread or 0] = record.getMessage()
    return False


class _Sender:
    """Turns spans into those of the SDK, and has its exporter send them."""

    def __init__(self, config: OtlpConfig, instance: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http import Compression
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan
            from opentelemetry.sdk.trace.export import SpanExportResult
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
            from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
            from opentelemetry.trace.status import Status, StatusCode
        except ImportError as error:
            raise SettingsError(
                "an OTLP endpoint is configured (OTEL_EXPORTER_OTLP_…) and OpenTelemetry is not installed: "
                "pip install 'guardrail-gateway[otel]', or unset it"
            ) from error

        class _Once(Resource):
            """A resource that is not serialised anew for each span that it is looked up for."""

            _hash: int | None = None

            def __hash__(self) -> int:
                if self._hash is None:
                    self._hash = super().__hash__()
                return self._hash

        attributes = {
            "service.instance.id": instance,
            "service.version": _version("guardrail-gateway"),
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": _version("opentelemetry-sdk"),
            **config.resource,
        }
        self._resource = _Once(attributes)
        self._scope = InstrumentationScope("gateway", _version("guardrail-gateway"))
        self._kinds = {"client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
        self._sampled = TraceFlags(_SAMPLED)
        self._span, self._context, self._link = ReadableSpan, SpanContext, Link
        self._fine, self._failed = Status(StatusCode.UNSET), StatusCode.ERROR
        self._status = Status
        self._success = SpanExportResult.SUCCESS
        logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        if _overhear not in logger.filters:
            logger.addFilter(_overhear)
        try:
            self._exporter = OTLPSpanExporter(
                endpoint=config.endpoint,
                certificate_file=config.certificate,
                client_key_file=config.client_key,
                client_certificate_file=config.client_certificate,
                headers=dict(config.headers),
                timeout=config.timeout_s,
                compression=Compression(config.compression),
            )
        except (ValueError, OSError) as error:
            raise SettingsError(f"the OTLP exporter cannot be set up: {error}") from error

    def __call__(self, spans: Sequence[Span], in_a_hurry: Callable[[], bool]) -> str | None:
        """What went wrong; None when the spans were taken."""
        began = time.monotonic()
        _said.pop(threading.get_ident(), None)
        try:
            result = self._exporter.export(_Slowly(spans, self._made, in_a_hurry))
        except Exception as error:  # noqa: BLE001 - a library's fault must not end the thread
            return type(error).__name__
        if result is self._success:
            return None
        said = _QUERY.sub("?…", _said.pop(threading.get_ident(), "no answer"))[:300]
        return f"{said} (tried for {time.monotonic() - began:.1f} s)"

    def abort(self) -> None:
        """Wait for no further try."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's

    def _at(self, context: Context, *, remote: bool) -> Any:
        return self._context(context.trace, context.span, remote, self._sampled)

    def _made(self, span: Span) -> ReadableSpan:
        parent = self._at(span.parent, remote=span.remote) if span.parent is not None else None
        return self._span(
            name=span.name,
            context=self._at(span.at, remote=False),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            links=[self._link(self._at(to, remote=True), {"guardrail.link": why}) for to, why in span.links],
            kind=self._kinds[span.kind],
            status=self._status(self._failed, span.error) if span.error else self._fine,
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


_CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "input.",
    "output.",
    "llm.input_messages.",
    "llm.output_messages.",
)


def without_content(span: Span) -> None:
    """Leave out of a span what was said."""
    span.attributes = {
        name: value for name, value in span.attributes.items() if not name.startswith(_CONTENT)
    }
    span.attributes["guardrail.content.dropped"] = True
    span.size = 0
