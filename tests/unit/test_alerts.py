"""Alerts without a network and, as when it is away, without the database's queue: what is said, what counts as
the same, and what happens under load and failure."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.alerting import alerts as module
from gateway.alerting.alerts import Alerts, sentence, signature
from gateway.alerting.events import QUIET_MS
from gateway.alerting.queue import AT_ONCE
from gateway.domain import Headers, Json
from gateway.drain import Drain
from gateway.policy.sections.operations import Alert
from gateway.stores.ledger import AmbiguousRun, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_alerts import RaisedEvent
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.transport import TransportError, UnsendableError, UpstreamRequest

NOW = 1_700_000_000_000
RUN: Json = {
    "id": "run_1", "name": "nightly", "session": "ses_1", "key": "alice", "user": "alice", "end_user": None,
    "team": "red", "agent": "mailer", "tags": {"env": "prod"}, "source": "header", "surface": "chat",
    "status": "running", "status_reason": None, "started_at": NOW - 5000, "last_step_at": NOW, "steps": 2,
    "attempts": 2, "refusals": 0, "tool_calls": 3, "tools": {"search": {"calls": 3, "errors": 1}},
    "input_tokens": 10, "output_tokens": 20, "cached_tokens": 0, "cost": 12_345_678, "saved": 0,
    "model_mix": {}, "policy": "v1", "continues": None, "parent": None,
}  # fmt: skip


@dataclass
class Reply:
    status: int = 200
    headers: Headers = field(default_factory=list)

    async def read(self, limit: int) -> bytes:
        return b""

    def chunks(self) -> AsyncIterator[bytes]:
        raise AssertionError("an answer to an alert is read whole")

    async def aclose(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def left_behind(self) -> tuple[bytes, bool]:
        return b"", False


@dataclass
class Receiver:
    """A transport that answers as told; `None` holds an exchange until `release`."""

    script: list[Any] = field(default_factory=list)
    sent: list[UpstreamRequest] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, request: UpstreamRequest) -> Reply:
        self.sent.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = self.script.pop(0) if self.script else Reply()
            if answer is None:
                await self.release.wait()
                return Reply()
            await asyncio.sleep(0)
            if isinstance(answer, Exception):
                raise answer
            return cast(Reply, answer)
        finally:
            self.at_once -= 1

    async def aclose(self) -> None:
        pass


@dataclass
class Database:
    """A ledger that can be read, if at all."""

    rows: dict[str, Json] = field(default_factory=dict)
    failure: Exception | None = None

    async def raise_alerts(self, events: Sequence[RaisedEvent], *, most: int) -> None:
        raise LedgerUnavailable("full")

    async def release_alerts(self, owner: str) -> None:
        raise LedgerUnavailable("full")

    async def run(self, run_id: str) -> Json | None:
        if self.failure is not None:
            raise self.failure
        return self.rows.get(run_id)

    async def flush(self) -> None:
        pass


@dataclass
class Bench:
    """Alerts with everything around them under control."""

    rules: list[Alert]
    receiver: Receiver = field(default_factory=Receiver)
    database: Database = field(default_factory=Database)
    now: int = NOW
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.alerts = Alerts(
            self.rules,
            self.receiver,
            cast(SqlLedger, self.database),
            cast(Drain, self.database),
            self.metrics,
            lambda kind, facts: self.told.append((kind, facts)),
            lambda: self.now,
            b"own-key",
            lambda path: f"https://g/admin/v1{path}",
            delays_s=(0, 0, 0, 0),
        )

    async def settled(self) -> None:
        while self.alerts._tasks or self.alerts._writer is not None:
            await asyncio.sleep(0.001)

    def count(self, kind: str, outcome: str) -> float:
        return float(self.metrics.alerts.labels(kind, outcome)._value.get())

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in self.receiver.sent]


def alert(**fields: Any) -> Alert:
    return Alert.model_validate({"name": "a", "url": "https://hooks.example.com/x", "on": "pii", **fields})


async def test_what_nobody_wants_costs_nothing() -> None:
    bench = Bench([alert(), alert(name="b", on="kill", mode="off")])
    bench.alerts("step", {"run": "run_1"})
    bench.alerts("kill", {"name": "global"})
    assert bench.alerts._writer is None


async def test_each_alert_that_wants_an_event_gets_it_signed_with_its_own_secret() -> None:
    bench = Bench([alert(), alert(name="b", secret="whsec"), alert(name="c", on="kill")])
    bench.alerts("pii", {"run": "run_1", "cost": 1_000_000, "seen_at": NOW, "n": 1})
    await bench.settled()
    first, second = bench.receiver.sent
    assert first.body == second.body
    for request, key in ((first, b"own-key"), (second, b"whsec")):
        headers = dict(request.headers)
        assert (request.method, request.url) == ("POST", "https://hooks.example.com/x")
        assert headers[b"x-guardrail-timestamp"] == b"1700000000"
        expected = "sha256=" + signature(key, "1700000000", request.body)
        assert headers[b"x-guardrail-signature"].decode() == expected
    body = bench.bodies()[0]
    assert body["facts"] == {
        "run": "run_1",
        "cost_usd": "0.001000000",
        "seen_at": "2023-11-14T22:13:20.000Z",
        "n": 1,
    }
    assert (body["at"], body["link"]) == ("2023-11-14T22:13:20.000Z", "https://g/admin/v1/runs/run_1")
    assert [facts["alert"] for kind, facts in bench.told if kind == "alert"] == ["a", "b"]


def test_the_signature_is_the_one_of_openssl() -> None:
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec
    assert signature(b"whsec", "1700000000", b"{}") == (
        "7d44587dddbaf4c7f70fef20f48cd594834ffea1641e3ac227b84408298738af"
    )


async def test_the_same_is_told_again_after_ten_minutes() -> None:
    bench = Bench([alert()])
    bench.alerts("pii", {"run": "run_1", "rule": "r", "value": 1})
    bench.now += QUIET_MS - 1
    bench.alerts("pii", {"run": "run_1", "rule": "r", "value": 2})
    await bench.settled()
    assert bench.count("pii", "duplicate") == 1
    bench.now += 1
    bench.alerts("pii", {"run": "run_1", "rule": "r", "value": 3})
    await bench.settled()
    assert [body["facts"]["value"] for body in bench.bodies()] == [1, 3]


@pytest.mark.parametrize(
    "other", [{"run": "run_2"}, {"rule": "s"}, {"tool": "t"}, {"approval": "apr_2"}, {"code": "c"}]
)
async def test_what_differs_in_what_it_is_about_is_told_by_itself(other: dict[str, str]) -> None:
    bench = Bench([alert()])
    bench.alerts("pii", {"run": "run_1", "rule": "r"})
    bench.alerts("pii", {"run": "run_1", "rule": "r", **other})
    await bench.settled()
    assert len(bench.receiver.sent) == 2


async def test_what_was_told_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    bench = Bench([alert()])
    for number in range(25):
        bench.alerts("pii", {"run": f"run_{number}"})
    assert len(bench.alerts._told) == 10
    bench.now += QUIET_MS
    bench.alerts("pii", {"run": "run_new"})
    assert len(bench.alerts._told) == 1
    await bench.settled()


@pytest.mark.parametrize("failure", [LedgerUnavailable("gone"), AmbiguousRun("x", ["a", "b"])])
async def test_without_the_ledger_an_alert_is_sent_with_what_is_known(failure: Exception) -> None:
    bench = Bench([alert(on="run_stopped")], database=Database(failure=failure))
    bench.alerts("run_stopped", {"run": "run_1", "status": "stopped_loop", "code": "loop_detected"})
    await bench.settled()
    (body,) = bench.bodies()
    assert body["run"] == {
        "id": "run_1",
        "status": "stopped_loop",
        "status_reason": "loop_detected",
        "ended_at": "2023-11-14T22:13:20.000Z",
    }


async def test_an_escalation_is_right_even_when_the_ledger_lags() -> None:
    bench = Bench([alert(on="run_stopped")], database=Database(rows={"run_1": RUN}))
    bench.alerts("run_stopped", {"run": "run_1", "status": "stopped_loop", "code": "loop_detected"})
    await bench.settled()
    run = bench.bodies()[0]["run"]
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")
    assert (run["tools"], run["cost_usd"]) == ({"search": {"calls": 3, "errors": 1}}, "0.012345678")


@pytest.mark.parametrize(
    ("match", "facts", "sent"),
    [
        ({"user": "alice"}, {"run": "run_1"}, True),
        ({"user": "bob"}, {"run": "run_1"}, False),
        ({"user": "bob"}, {"run": "run_1", "user": "bob"}, True),
        ({"team": "red", "agent": "mailer"}, {"run": "run_1"}, True),
        ({"tag": "env=prod"}, {"run": "run_1"}, True),
        ({"tag": "env=dev"}, {"run": "run_1"}, False),
        ({"surface": "chat"}, {"run": "run_1"}, True),
        ({"surface": "messages"}, {"run": "run_1"}, False),
        ({"model": "gpt-*"}, {"run": "run_1", "model": "gpt-4o"}, True),
        ({"model": "gpt-*"}, {"run": "run_1"}, False),
        ({"user": "alice"}, {}, False),
        ({"user": "alice"}, {"run": "run_unknown"}, False),
    ],
)
async def test_an_alert_is_narrowed_by_the_event_or_its_run(
    match: dict[str, str], facts: dict[str, str], sent: bool
) -> None:
    bench = Bench([alert(match=match)], database=Database(rows={"run_1": RUN}))
    bench.alerts("pii", facts)
    await bench.settled()
    assert bool(bench.receiver.sent) is sent


@pytest.mark.parametrize(
    ("name", "match", "sent"),
    [
        ("user:alice", {"user": "alice"}, True),
        ("user:bob", {"user": "alice"}, False),
        ("run:run_1", {"user": "alice"}, True),
        ("run_1", {"user": "alice"}, True),
        ("model:gpt-4o", {"model": "gpt-*"}, True),
        ("global", {"user": "alice"}, False),
        ("global", {}, True),
    ],
)
async def test_a_kill_is_about_whom_it_stops(name: str, match: dict[str, str], sent: bool) -> None:
    bench = Bench([alert(on="kill", match=match)], database=Database(rows={"run_1": RUN}))
    bench.alerts("kill", {"name": name, "reason": "r", "streams": 1})
    await bench.settled()
    assert bool(bench.receiver.sent) is sent
    if sent and name == "global":
        assert bench.bodies()[0]["link"] == "https://g/admin/v1/now"


@pytest.mark.parametrize(
    ("breaker", "match", "sent"),
    [
        ("tool:team/red:search", {"team": "red"}, True),
        ("tool:team/blue:search", {"team": "red"}, False),
        ("tool:key/bot:search", {"key": "bot"}, True),
        ("tool:shared:search", {"team": "red"}, False),
        ("tool:shared:search", {}, True),
    ],
)
async def test_a_breaker_is_about_whose_tool_it_is(breaker: str, match: dict[str, str], sent: bool) -> None:
    bench = Bench([alert(on="breaker_open", match=match)])
    bench.alerts("breaker_open", {"breaker": breaker, "ok": 1, "failed": 9, "until": NOW + 30_000})
    await bench.settled()
    assert bool(bench.receiver.sent) is sent
    for body in bench.bodies():
        assert body["facts"]["until"] == "2023-11-14T22:13:50.000Z"
        assert (body["run"], body["link"]) == (None, "https://g/admin/v1/now")


async def test_internal_ids_stay_inside() -> None:
    bench = Bench([alert()])
    bench.alerts("pii", {"run": "run_1", "principal": "hmac", "link": "https://g/x"})
    await bench.settled()
    assert bench.bodies()[0]["facts"] == {"run": "run_1"}
    assert bench.bodies()[0]["link"] == "https://g/x"


REFUSED = TransportError("connect", "refused", "ConnectionRefusedError")


@pytest.mark.parametrize(
    ("script", "attempts", "outcome"),
    [
        ([Reply(204)], 1, "sent"),
        ([Reply(500), Reply(200)], 2, "sent"),
        ([Reply(408), Reply(429), Reply(503), REFUSED, Reply(299)], 5, "sent"),
        ([Reply(500)] * 5 + [Reply(200)], 5, "failed"),
        ([REFUSED] * 9, 5, "failed"),
        ([Reply(400), Reply(200)], 1, "failed"),
        ([Reply(410)], 1, "failed"),
        ([Reply(302)], 1, "failed"),
        ([Reply(101)], 1, "failed"),
        ([UnsendableError("not a URL")], 1, "failed"),
    ],
)
async def test_what_may_succeed_later_is_tried_five_times(
    script: list[Any], attempts: int, outcome: str
) -> None:
    bench = Bench([alert()], Receiver(list(script)))
    bench.alerts("pii", {"run": "run_1"})
    await bench.settled()
    assert len(bench.receiver.sent) == attempts
    assert len({request.body for request in bench.receiver.sent}) == 1
    assert bench.count("pii", outcome) == 1
    assert bench.told[-1][1]["outcome"] == outcome


async def test_the_pauses_grow_and_vary_and_heed_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float) -> None:
        if seconds > 1:  # others of this process look after themselves more often than that
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", paused)
    script = [Reply(500), Reply(503, [(b"retry-after", b"5")]), Reply(429, [(b"retry-after", b"9999")])]
    bench = Bench([alert()], Receiver([*script, Reply(503, [(b"retry-after", b"soon")])]))
    bench.alerts.delays_s = module.DELAYS_S
    bench.alerts("pii", {"run": "run_1"})
    await bench.settled()
    assert sum(module.DELAYS_S) == 120
    first, second, third, fourth = pauses
    assert 1.5 <= first <= 2.5
    assert 6 <= second <= 10
    assert third == 60
    assert 60 <= fourth <= 100


async def test_beyond_the_queue_the_oldest_are_dropped_and_said_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench([alert()], Receiver([None] * 100))
    bench.alerts.queue = 10
    for number in range(25):
        bench.alerts("pii", {"run": f"run_{number}"})
        await asyncio.sleep(0.002)
    assert len(bench.alerts._tasks) == 10
    assert bench.count("pii", "dropped") == 15
    assert len([r for r in caplog.records if "the oldest are dropped" in r.getMessage()]) == 1
    bench.receiver.release.set()
    await bench.settled()
    assert bench.count("pii", "sent") == 10
    assert {body["facts"]["run"] for body in bench.bodies()[-6:]} == {f"run_{n}" for n in range(19, 25)}


async def test_a_slow_receiver_keeps_no_other_waiting() -> None:
    bench = Bench([alert(), alert(name="b", on="kill")], Receiver([None] * 4))
    for number in range(8):
        bench.alerts("pii", {"run": f"run_{number}"})
    await asyncio.sleep(0.02)
    assert bench.receiver.at_once == AT_ONCE
    bench.alerts("kill", {"name": "global"})
    await asyncio.sleep(0.02)
    assert bench.count("kill", "sent") == 1
    bench.receiver.release.set()
    await bench.settled()
    assert bench.receiver.most_at_once == AT_ONCE + 1


async def test_closing_lets_arrive_what_can_and_drops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSING_S", 0.05)
    bench = Bench([alert()], Receiver([None, Reply(), Reply()]))
    for number in range(3):
        bench.alerts("pii", {"run": f"run_{number}"})
    await bench.alerts.close()
    assert (bench.count("pii", "sent"), bench.count("pii", "dropped")) == (2, 1)
    bench.alerts("pii", {"run": "run_late"})
    assert not bench.alerts._tasks


async def test_a_receiver_that_fails_and_recovers_is_logged_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    bench = Bench([alert()], Receiver([Reply(404), Reply(404), Reply(200), Reply(200)]))
    for number in range(4):
        bench.alerts("pii", {"run": f"run_{number}"})
        await bench.settled()
    assert [r.getMessage() for r in caplog.records] == [
        "alert a could not be delivered (HTTP 404); more of its failures are counted, not logged",
        "alert a is delivered again",
    ]


async def test_shadow_only_records(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench([alert(mode="shadow")])
    bench.alerts("pii", {"run": "run_1"})
    await bench.settled()
    assert not bench.receiver.sent
    assert bench.count("pii", "shadow") == 1
    assert "would tell of pii" in caplog.text


async def test_odd_facts_are_told_all_the_same() -> None:
    bench = Bench([alert()])
    facts = {"run": "run_\ud800", "tool": "x\x00<!channel>", "big": 10**40, "what": object(), "cost": "dear"}
    bench.alerts("pii", facts)
    await bench.settled()
    (body,) = bench.bodies()
    assert body["facts"]["big"] == 10**40
    assert body["facts"]["cost"] == "dear"


def test_the_sentence_is_plain_text() -> None:
    text = sentence("tool_drift", {"tool": "<!channel> & \x1b[2J\u202e", "rule": "", "reason": None}, None)
    assert text == "tool drift: tool &lt;!channel&gt; &amp; \ufffd[2J\ufffd"
    run = {"id": "run_1", "user": "alice", "team": None, "steps": 2, "cost_usd": "0.012345678"}
    assert sentence("run_stopped", {"rule": "run", "code": "run_budget_exceeded"}, run) == (
        "run stopped: rule run, code run_budget_exceeded, run run_1, user alice, 2 steps, $0.012345678"
    )
    assert len(sentence("kill", {"reason": "x" * 5000}, None)) == 1000
