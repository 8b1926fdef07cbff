"""The standard variables, and the queue before a receiver."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.domain import Surface
from gateway.settings import SettingsError, from_environment
from gateway.steps.turn import Facts, Trail, Turn
from gateway.telemetry import otlp
from gateway.telemetry.otlp import OtlpConfig, OtlpExporter, configured, without_content
from gateway.telemetry.spans import Context, Span
from gateway.telemetry.traces import MAX_BYTES, MAX_ENDED, Traces
from tests.support.effort import Effort, least_effort

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def config(**more: str) -> OtlpConfig:
    found = configured({**ENDPOINT, **more})
    assert found is not None
    return found


def test_nothing_is_configured_without_an_endpoint() -> None:
    assert configured({}) is None
    assert configured({"OTEL_EXPORTER_OTLP_ENDPOINT": "  ", "OTEL_SERVICE_NAME": "x"}) is None


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        ({"TRACES_ENDPOINT": "http://c:1/x"}, "http://c:1/x"),
        ({"ENDPOINT": "http://a", "TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
    ],
)
def test_the_endpoint_of_traces_wins_and_is_taken_as_it_is(variables: dict[str, str], endpoint: str) -> None:
    found = configured({f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})
    assert found is not None
    assert found.endpoint == endpoint


def test_what_is_said_of_traces_alone_wins() -> None:
    found = config(
        OTEL_EXPORTER_OTLP_HEADERS="a=1,B=two%20words",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="a=3",
        OTEL_EXPORTER_OTLP_COMPRESSION="none",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TIMEOUT="5000",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="7",
        OTEL_RESOURCE_ATTRIBUTES="service.name=a,x=y%2Cz",
        OTEL_SERVICE_NAME="b",
    )
    assert found.headers == {"a": "3", "b": "two words"}
    assert (found.compression, found.timeout_s) == ("gzip", 7.0)
    assert found.resource == {"service.name": "b", "x": "y,z"}
    assert config(OTEL_EXPORTER_OTLP_TIMEOUT="5000").timeout_s == 5.0
    assert config().resource == {"service.name": "guardrail-gateway"}


@pytest.mark.parametrize(
    ("sampler", "argument", "share"),
    [
        ("", "", 1.0),
        ("always_on", "0.1", 1.0),
        ("parentbased_always_on", "", 1.0),
        ("traceidratio", "0.25", 0.25),
        ("parentbased_traceidratio", "0", 0.0),
        ("traceidratio", "", 1.0),
    ],
)
def test_samplers(sampler: str, argument: str, share: float) -> None:
    assert config(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument).share == share


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "expected 'http/protobuf'"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "no http:// or https:// URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "no http:// or https:// URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:99999"}, "no http:// or https:// URL"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "expected 'otlp' or 'none'"),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER: got 'jaeger_remote'"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "a share from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "expected a number"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "br"}, "gzip, deflate or none"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "expected a number"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "expected a number"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/gone.pem"}, "there is no file '/gone.pem'"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "authorization"}, "name=value"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0ac:d"}, "name=value"),
    ],
)
def test_a_mistake_is_told(variables: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        configured({**ENDPOINT, **variables})


def test_no_credential_is_shown() -> None:
    found = config(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://user:pass-1234@host:4318/x?key=topsecret",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=hidden-1234",
    )
    assert found.shown_endpoint == "https://host:4318/x"
    assert not any(secret in repr(found) for secret in ("pass-1234", "topsecret", "hidden-1234"))
    with pytest.raises(SettingsError) as error:
        config(OTEL_EXPORTER_OTLP_HEADERS="secret-without-a-name")
    assert "secret-without" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("GATEWAY_TRACE_CONVENTIONS", "otel"), ("GATEWAY_TRACE_PARENT", "yes"), ("GATEWAY_LOG_FORMAT", "xml"),
     ("GATEWAY_LOG_LEVEL", "loud")],
)  # fmt: skip
def test_settings_have_their_words(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: got '{value}', expected one of"):
        from_environment({name: value})
    assert from_environment({"GATEWAY_LOG_FORMAT": "JSON"}).log_format == "json"


# -- the queue ----------------------------------------------------------------------------------------


class Outbox:
    """Stands for the library: takes spans as slowly and as badly as it is told."""

    def __init__(self) -> None:
        self.sent: list[Span] = []
        self.open = threading.Event()
        self.open.set()
        self.problem: str | None = None
        self.aborted = False

    def __call__(self, spans: list[Span], _in_a_hurry: Any) -> str | None:
        self.open.wait(30)
        if self.problem is None:
            self.sent += spans
        return self.problem

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    box = Outbox()
    monkeypatch.setattr(otlp, "_Sender", lambda _config, _instance: box)
    return box


def span(number: int = 0, size: int = 0) -> Span:
    attributes: dict[str, Any] = {"a": "b"}
    if size:
        attributes["gen_ai.input.messages"] = "x" * size
    return Span(f"s{number}", Context(1, number + 1), None, "client", 1, 2, attributes, size=size)


def exporter(told: Counter[str], **more: str) -> OtlpExporter:
    def count(outcome: str, number: int) -> None:
        told[outcome] += number

    made = OtlpExporter(config(OTEL_BSP_SCHEDULE_DELAY="20", **more), "w", count)
    made.start()
    return made


def test_spans_are_sent_in_their_order_and_all_at_the_end(outbox: Outbox) -> None:
    told: Counter[str] = Counter()
    one = exporter(told, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="7")
    for number in range(1000):
        one.put([span(number)])
    one.close()
    assert [s.name for s in outbox.sent] == [f"s{n}" for n in range(1000)]
    assert told == {"exported": 1000}


def test_two_thousand_steps_while_nothing_is_taken_stay_in_bounds(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    told: Counter[str] = Counter()
    outbox.open.clear()
    one = exporter(told, OTEL_BSP_MAX_QUEUE_SIZE="1500", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100")
    with Effort() as effort:
        for number in range(2000):
            one.put([span(number)])
    assert effort.seconds < 1
    assert len(one._queue) <= 1500
    assert 400 <= told["dropped"] <= 500
    assert ["no more are taken" in r.getMessage() for r in caplog.records] == [True]
    outbox.open.set()
    one.close()
    assert told["exported"] + told["dropped"] == 2000
    assert len(outbox.sent) == told["exported"]


def test_a_receiver_that_hangs_holds_up_the_end_for_a_second_at_most(outbox: Outbox) -> None:
    told: Counter[str] = Counter()
    outbox.open.clear()
    one = exporter(told)
    one.put([span()])
    time.sleep(0.1)
    one.put([span(1)])
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 5
    assert outbox.aborted
    assert told == {"dropped": 1}
    outbox.open.set()


def test_trouble_is_said_once_and_so_is_its_end(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    told: Counter[str] = Counter()
    outbox.problem = "no answer"
    one = exporter(told)
    for number in range(5):
        one.put([span(number)])
        time.sleep(0.05)
    outbox.problem = None
    one.put([span(9)])
    one.close()
    messages = [r.getMessage() for r in caplog.records]
    assert messages == [
        "traces: cannot be delivered to http://collector:4318/v1/traces: no answer",
        "traces: delivered again; 5 spans were lost",
    ]
    assert told == {"failed": 5, "exported": 1}


def test_content_that_waits_is_bounded_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_CONTENT_CHARS", 10_000)
    told: Counter[str] = Counter()
    outbox.open.clear()
    one = exporter(told)
    for number in range(20):
        one.put([span(number, 1000)])
    outbox.open.set()
    one.close()
    with_content = [s for s in outbox.sent if "gen_ai.input.messages" in s.attributes]
    assert len(outbox.sent) == 20
    assert 9 <= len(with_content) <= 11
    assert all(s.attributes["guardrail.content.dropped"] for s in outbox.sent if s not in with_content)
    assert one._content == 0


def test_leaving_content_out_leaves_everything_else() -> None:
    one = span(0, 5)
    one.attributes |= {"gen_ai.tool.call.result": "x", "llm.input_messages.0.message.content": "x",
        "input.value": "x", "gen_ai.tool.call.id": "1", "llm.model_name": "m"}  # fmt: skip
    without_content(one)
    assert one.attributes == {
        "a": "b", "gen_ai.tool.call.id": "1", "llm.model_name": "m", "guardrail.content.dropped": True,
    }  # fmt: skip


def test_putting_costs_next_to_nothing(outbox: Outbox) -> None:
    told: Counter[str] = Counter()
    one = exporter(told, OTEL_BSP_MAX_QUEUE_SIZE="1000000")
    spans = [span(number) for number in range(5_000)]

    def work() -> None:
        for each in spans:
            one.put([each])

    assert least_effort(work) < 0.1
    one.close()


def test_a_request_pays_for_an_entry_in_a_queue_and_nothing_else() -> None:
    """Everything that is made of it is made afterwards."""
    turn = cast(Turn, SimpleNamespace(step=SimpleNamespace(raw=b"{}", background=False)))
    nobody = cast(Any, None)
    traces = Traces(nobody, nobody, nobody, nobody, nobody)
    about = Facts(Surface.CHAT, "v1", "req_1", "dec_1", trail=Trail())

    def work() -> None:
        for _ in range(2_000):
            about.trail = Trail()
            about.trail.found(turn)
            about.trail.attempts.append(nobody)
            traces.request_ended(about, None, None)
            about.trail.end()
        assert len(traces._ended) == 2_000
        traces._ended.clear()
        traces._bytes = 0

    assert least_effort(work, 3) / 2_000 < 10e-6


def test_requests_that_wait_are_bounded_by_number_and_by_size(caplog: pytest.LogCaptureFixture) -> None:
    nobody = cast(Any, None)
    dropped: list[int] = []
    traces = Traces(nobody, nobody, nobody, nobody, nobody, dropped=dropped.append)
    for size, most in ((10, MAX_ENDED), (MAX_BYTES // 4, 4), (MAX_BYTES * 2, 1)):
        raw = SimpleNamespace(step=SimpleNamespace(raw=range(size), background=False))
        for _ in range(MAX_ENDED + 10):
            about = Facts(Surface.CHAT, "v1", "req_1", "dec_1", trail=Trail())
            assert about.trail is not None
            about.trail.found(cast(Turn, raw))
            traces.request_ended(about, None, None)
        assert len(traces._ended) == most
        assert sum(dropped) == MAX_ENDED + 10 - most
        assert len([r for r in caplog.records if "some are dropped" in r.getMessage()]) == 1
        traces._ended.clear()
        caplog.clear()
        dropped.clear()
        traces._bytes, traces._full = 0, False
