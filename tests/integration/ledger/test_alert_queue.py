"""Alerts that wait in a real database: nothing is lost or told twice, whoever is down, killed or in the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import pytest_asyncio

from gateway.alerting import queue as alert_queue
from gateway.alerting.alerts import Alerts
from gateway.alerting.delivery import signature
from gateway.alerting.events import QUIET_MS
from gateway.domain import Headers
from gateway.drain import Drain
from gateway.policy.sections.operations import Alert
from gateway.stores.ledger import LedgerUnavailable, SqlLedger
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.transport import TransportError, UpstreamRequest

from .conftest import Opener

NOW = 1_700_000_000_000
REFUSED = TransportError("connect", "refused")


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
class World:
    """A clock, and a receiver that is up or down, shared by all workers."""

    now: int = NOW
    up: bool = True
    arrived: list[tuple[int, UpstreamRequest]] = field(default_factory=list)
    tried: list[tuple[int, str]] = field(default_factory=list)
    script: list[Any] = field(default_factory=list)
    holds: asyncio.Event | None = None
    """Exchanges wait for it."""

    async def send(self, request: UpstreamRequest) -> Reply:
        self.tried.append((self.now, request.url))
        if self.holds is not None:
            await self.holds.wait()
        answer = self.script.pop(0) if self.script else Reply() if self.up else REFUSED
        if isinstance(answer, Exception):
            raise answer
        if 200 <= answer.status < 300:
            self.arrived.append((self.now, request))
        return cast(Reply, answer)

    async def aclose(self) -> None:
        pass

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for _, request in self.arrived]

    def told(self) -> list[tuple[Any, Any]]:
        return [(body["facts"].get("run"), body["facts"].get("n")) for body in self.bodies()]


class Still:
    """A drain with nothing to do."""

    async def flush(self) -> None:
        pass


@dataclass
class Worker:
    world: World
    ledger: SqlLedger
    rules: list[Alert]
    name: str = "w1"

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.outcomes: list[dict[str, Any]] = []
        self.alerts = Alerts(
            self.rules,
            self.world,
            self.ledger,
            cast(Drain, Still()),
            self.metrics,
            lambda kind, facts: self.outcomes.append(facts),
            lambda: self.world.now,
            b"own-key",
            lambda path: f"https://g/admin/v1{path}",
            self.name,
        )

    async def tell(self, kind: str, **facts: Any) -> None:
        """Raise an event and let it be written."""
        self.alerts(kind, facts)
        await self.written()

    async def written(self) -> None:
        while self.alerts._writer is not None:
            await asyncio.sleep(0.001)

    async def round(self) -> None:
        """Deliver what is due, to the end."""
        queue = self.alerts.deliveries
        await queue.round()
        while queue._under_way:
            await asyncio.wait(set(queue._under_way))
        await asyncio.sleep(0)
        await queue._record()

    async def work(self) -> None:
        """Deliver until nothing is due."""
        before = -1
        while len(self.world.tried) != before:
            before = len(self.world.tried)
            await self.round()

    def count(self, kind: str, outcome: str) -> float:
        return float(self.metrics.alerts.labels(kind, outcome)._value.get())


def alert(**fields: Any) -> Alert:
    return Alert.model_validate({"name": "a", "url": "https://hooks.example.com/x", "on": "pii", **fields})


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def ledgers(open_ledger: Opener) -> AsyncIterator[Opener]:
    """Opened ledgers of one database, closed at the end."""
    opened: list[SqlLedger] = []

    def another() -> SqlLedger:
        opened.append(open_ledger())
        return opened[-1]

    yield another
    for ledger in opened:
        await ledger.close()


async def worker(ledgers: Opener, world: World, *rules: Alert, name: str = "w1") -> Worker:
    ledger = ledgers()
    await ledger.start()
    return Worker(world, ledger, list(rules or (alert(),)), name)


async def test_a_receiver_that_is_down_for_an_hour_loses_nothing(ledgers: Opener, world: World) -> None:
    """Five runs tell forty events each over an hour; the first worker is killed half way."""
    random.seed(3)
    rule = alert(secret="whsec")
    first = await worker(ledgers, world, rule)
    world.up = False
    for minute in range(60):
        if minute == 30:
            # A killed worker has said nothing to anybody: another begins with what is in the database.
            first = await worker(ledgers, world, rule, name="w2")
        for run in range(5):
            await first.tell("pii", run=f"run_{run}", rule=str(minute), n=minute)
        for _ in range(6):
            world.now += 10_000
            await first.round()
    assert not world.arrived
    assert len(world.tried) < 60 * 60 / 2, "a receiver that is down is not hammered"
    world.up = True
    back = world.now
    while len(world.arrived) < 300 and world.now < back + 600_000:
        await first.work()
        world.now += 1000
    assert world.now - back <= 60_000, "and it is noticed soon that it is back"
    await first.work()
    ids = [body["id"] for body in world.bodies()]
    assert len(ids) == len(set(ids)) == 300
    for run in range(5):
        assert [n for r, n in world.told() if r == f"run_{run}"] == list(range(60))
    for at, request in world.arrived:
        headers = dict(request.headers)
        timestamp = headers[b"x-guardrail-timestamp"].decode()
        assert timestamp == str(at // 1000)
        assert headers[b"x-guardrail-signature"].decode() == "sha256=" + signature(
            b"whsec", timestamp, request.body
        )
    rows, _ = await first.ledger.alert_deliveries(limit=500)
    assert {row.state for row in rows} == {"sent"}
    assert {row.body for row in rows} == {""}, "what was told is not kept longer than needed"


async def test_an_event_is_told_by_one_of_all_workers(ledgers: Opener, world: World) -> None:
    workers = [await worker(ledgers, world, name=f"w{n}") for n in range(4)]
    for each in workers:
        for number in range(20):
            each.alerts("pii", {"run": f"run_{number}"})
    await asyncio.gather(*(each.written() for each in workers))
    await asyncio.gather(*(each.work() for each in workers))
    assert sorted(run for run, _ in world.told()) == sorted(f"run_{n}" for n in range(20))
    assert sum(each.count("pii", "sent") for each in workers) == 20
    assert sum(each.count("pii", "duplicate") for each in workers) == 60


async def test_deliveries_of_a_killed_worker_are_taken_over(ledgers: Opener, world: World) -> None:
    dead, other = await worker(ledgers, world), await worker(ledgers, world, name="w2")
    await dead.tell("pii", run="run_1")
    world.holds = asyncio.Event()
    await dead.alerts.deliveries.round()
    await asyncio.sleep(0.01)
    assert len(world.tried) == 1
    for task in list(dead.alerts.deliveries._under_way):
        task.cancel()
    world.holds = None
    await other.work()
    assert len(world.tried) == 1, "while it may be at it nobody else is"
    world.now += alert_queue.OWNED_MS
    await other.work()
    assert len(world.arrived) == 1


async def test_a_slow_attempt_stays_with_its_worker(ledgers: Opener, world: World) -> None:
    slow, other = await worker(ledgers, world), await worker(ledgers, world, name="w2")
    await slow.tell("pii", run="run_1")
    world.holds = asyncio.Event()
    await slow.alerts.deliveries.round()
    for _ in range(20):
        world.now += 1000
        await slow.alerts.deliveries.round()
        await other.alerts.deliveries.round()
    assert not other.alerts.deliveries._under_way
    world.holds.set()
    await slow.work()
    await other.work()
    assert len(world.tried) == len(world.arrived) == 1


async def test_the_order_of_each_run_is_kept(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world)
    for number in range(6):
        await one.tell("pii", run=f"run_{number % 2}", rule=str(number), n=number)
    world.script = [Reply(500)]
    for _ in range(20):
        await one.work()
        world.now += 1000
    assert [n for run, n in world.told() if run == "run_0"] == [0, 2, 4]
    assert [n for run, n in world.told() if run == "run_1"] == [1, 3, 5]


async def test_one_event_that_is_never_taken_keeps_no_other(ledgers: Opener, world: World) -> None:
    class Picky(World):
        async def send(self, request: UpstreamRequest) -> Reply:
            self.script = [Reply(500)] if b"poison" in request.body else []
            return await super().send(request)

    picky = Picky()
    one = await worker(ledgers, picky, alert(retry_for_s=3600))
    for number in range(50):
        await one.tell("pii", run=f"run_{number}", n="poison" if number == 0 else number)
    for _ in range(30):
        await one.work()
        picky.now += 1000
    assert len(picky.arrived) == 49
    picky.now += 3_600_000
    await one.work()
    assert one.count("pii", "failed") == 1
    (row,), _ = await one.ledger.alert_deliveries(state="failed")
    assert (row.error, row.body) == ("HTTP 500", "")


async def test_pauses_grow_and_the_receivers_own_wish_binds(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world)
    world.script = [Reply(503, [(b"retry-after", b"120")]), *[Reply(500)] * 7]
    await one.tell("pii", run="run_1")
    for _ in range(2400):
        await one.round()
        world.now += 1000
    times = [(at - NOW) / 1000 for at, _ in world.tried]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] >= 120
    for pause, least in zip(pauses[1:], (6, 18, 54, 162, 300, 300), strict=False):
        assert least * 0.75 <= pause <= least * 1.25 + 2
    assert len(world.arrived) == 1


@pytest.mark.parametrize("wish", [b"Tue, 14 Nov 2023 22:14:20 GMT", b"60"])
async def test_a_wish_is_a_date_or_seconds(ledgers: Opener, world: World, wish: bytes) -> None:
    one = await worker(ledgers, world)
    world.script = [Reply(429, [(b"retry-after", wish)])]
    await one.tell("pii", run="run_1")
    await one.tell("pii", run="run_2")
    await one.work()
    world.now += 59_000
    await one.work()
    assert len(world.arrived) <= 1
    world.now += 1000
    await one.work()
    assert len(world.arrived) == 2


async def test_after_its_time_a_delivery_has_failed(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world, alert(retry_for_s=600))
    world.up = False
    await one.tell("pii", run="run_1")
    for _ in range(130):
        await one.round()
        world.now += 10_000
    assert one.count("pii", "failed") == 1
    assert world.tried[-1][0] - NOW >= 600_000
    assert world.tried[-1][0] - NOW <= 620_000, "it is tried until the end, and not after it"


@pytest.mark.parametrize("status", [400, 404, 410, 302])
async def test_a_final_answer_is_final(ledgers: Opener, world: World, status: int) -> None:
    one = await worker(ledgers, world)
    world.script = [Reply(status)]
    await one.tell("pii", run="run_1")
    await one.work()
    world.now += 3_600_000
    await one.work()
    assert len(world.tried) == 1
    assert one.count("pii", "failed") == 1


async def test_beyond_the_room_the_oldest_are_dropped(
    ledgers: Opener, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.up = False
    one = await worker(ledgers, world)
    one.alerts.room = 10
    for number in range(25):
        await one.tell("pii", run=f"run_{number}", n=number)
    assert one.count("pii", "dropped") == 15
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "more than 10 events wait for alert a: the oldest are dropped"
    ]
    world.up = True
    await one.work()
    assert sorted(n for _, n in world.told()) == list(range(15, 25))


async def test_what_waits_for_an_alert_that_was_removed_is_dropped(ledgers: Opener, world: World) -> None:
    world.up = False
    one = await worker(ledgers, world, alert(), alert(name="b"))
    await one.tell("pii", run="run_1")
    one.alerts.replace([alert()])
    world.up = True
    await one.work()
    assert len(world.arrived) == 1
    assert one.count("pii", "dropped") == 0, "another worker may still have it"
    world.now += alert_queue.UNKNOWN_MS + 1
    await one.work()
    assert one.count("pii", "dropped") == 1
    assert not await one.ledger.waiting_alerts()


async def test_what_waits_goes_where_the_alert_leads_now(ledgers: Opener, world: World) -> None:
    world.up = False
    one = await worker(ledgers, world)
    await one.tell("pii", run="run_1")
    await one.work()
    world.up = True
    one.alerts.replace([alert(url="https://new.example.com/y", secret="new")])
    world.now += 10_000
    await one.work()
    ((_, request),) = world.arrived
    assert request.url == "https://new.example.com/y"
    headers = dict(request.headers)
    timestamp = headers[b"x-guardrail-timestamp"].decode()
    expected = "sha256=" + signature(b"new", timestamp, request.body)
    assert headers[b"x-guardrail-signature"].decode() == expected


async def test_a_result_that_cannot_be_recorded_is_recorded_later(
    ledgers: Opener, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await worker(ledgers, world)
    await one.tell("pii", run="run_1")
    record = one.ledger.tried_alerts
    monkeypatch.setattr(one.ledger, "tried_alerts", _away)
    with pytest.raises(LedgerUnavailable):
        await one.round()
    monkeypatch.setattr(one.ledger, "tried_alerts", record)
    await one.work()
    assert len(world.tried) == 1
    rows, _ = await one.ledger.alert_deliveries()
    assert [(row.state, row.attempts) for row in rows] == [("sent", 1)]


async def _away(*_: Any, **__: Any) -> None:
    raise LedgerUnavailable("gone")


async def test_what_is_over_is_told_and_may_be_told_again(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world, alert(on=["breaker_open", "breaker_closed"]))
    breaker = "tool:shared:search"
    for _ in range(2):
        await one.tell("breaker_open", breaker=breaker, ok=1, failed=9)
        await one.tell("breaker_closed", breaker=breaker)
        await one.work()
        # The same twice within ten minutes: nobody is told that it closed again so soon.
        world.now += 1000
    assert [body["event"] for body in world.bodies()] == ["breaker_open", "breaker_closed", "breaker_open"]


async def test_a_killed_worker_loses_nothing_that_was_claimed(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world)
    for number in range(200):
        one.alerts("pii", {"run": f"run_{number}"})
    await one.written()
    rows, _ = await one.ledger.alert_deliveries(limit=300)
    assert len(rows) == 200
    other = await worker(ledgers, world, name="w2")
    await other.work()
    assert len(world.arrived) == 200
    assert other.count("pii", "sent") == 200


async def test_two_hundred_alike_are_one_message_in_a_chat(ledgers: Opener, world: World) -> None:
    rules = [
        alert(name="own", on="run_stopped"),
        alert(name="chat", on="run_stopped", format="slack"),
        alert(name="pager", on="run_stopped", format="pagerduty", secret="R" * 32),
    ]
    one = await worker(ledgers, world, *rules)
    for number in range(200):
        facts = {"run": f"run_{number}", "rule": "team", "code": "team_budget_exceeded"}
        await one.tell("run_stopped", **facts)
        if number % 40 == 0:
            await one.work()
        world.now += 250
    for _ in range(60):
        await one.work()
        world.now += 1000
    sent = [json.loads(request.body) for _, request in world.arrived]
    assert len([body for body in sent if "facts" in body]) == 200
    chats = [body["blocks"][0]["text"]["text"] for body in sent if "blocks" in body]
    assert chats == ["🔴 Run stopped", "🔴 119 × Run stopped", "🔴 80 × Run stopped"]
    pages = [body for body in sent if "dedup_key" in body]
    assert [body["payload"]["custom_details"].get("count", 1) for body in pages] == [1, 119, 80]
    assert len({body["dedup_key"] for body in pages}) == 1
    assert one.count("run_stopped", "sent") == 600


async def test_the_queue_can_be_looked_at(ledgers: Opener, world: World) -> None:
    world.up = False
    one = await worker(ledgers, world, alert(), alert(name="b", on="kill"))
    for number in range(7):
        await one.tell("pii", run=f"run_{number}")
    await one.tell("kill", name="global")
    world.now += 5000
    await one.round()
    assert one.metrics.alert_queue.labels("a")._value.get() == 7
    assert one.metrics.alert_oldest.labels("a")._value.get() == 5
    page, cursor = await one.ledger.alert_deliveries(alert="a", limit=5)
    rest, end = await one.ledger.alert_deliveries(alert="a", limit=5, cursor=cursor)
    assert len(page + rest) == 7
    assert end is None
    assert [row.seq for row in page + rest] == sorted((row.seq for row in page + rest), reverse=True)
    assert {row.error for row in page + rest} <= {None, "connect: refused"}
    world.up = True
    world.now += 60_000
    await one.work()
    await one.round()
    assert one.metrics.alert_queue.labels("a")._value.get() == 0


async def test_what_is_over_is_forgotten_in_time(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world)
    for number in range(20):
        await one.tell("pii", run=f"run_{number}")
    await one.work()
    assert await one.ledger.forget_alerts(before=0, most=5) == 15
    assert await one.ledger.forget_alerts(before=world.now + 1, most=5) == 5


async def test_the_same_is_told_again_after_ten_minutes(ledgers: Opener, world: World) -> None:
    one, other = await worker(ledgers, world), await worker(ledgers, world, name="w2")
    await one.tell("pii", run="run_1")
    world.now += QUIET_MS - 1
    await other.tell("pii", run="run_1")
    assert other.count("pii", "duplicate") == 1
    world.now += 1
    await one.tell("pii", run="run_1")
    await one.work()
    assert len(world.arrived) == 2


async def test_a_body_that_cannot_be_read_fails_alone(ledgers: Opener, world: World) -> None:
    one = await worker(ledgers, world, alert(format="slack"))
    await one.tell("pii", run="run_1", rule="a")
    assert one.ledger._engine is not None
    with one.ledger._engine.begin() as conn:
        conn.exec_driver_sql("UPDATE gw_alerts SET body = 'x'")
    await one.tell("pii", run="run_2", rule="b")
    await one.work()
    world.now += 3_600_000
    await one.work()
    assert (one.count("pii", "sent"), one.count("pii", "failed")) == (1, 1)
    assert len(world.arrived) == 1
