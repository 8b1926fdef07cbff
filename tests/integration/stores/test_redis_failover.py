"""A master dies under load, with what it had not replicated: the gateway is back by itself, the ledger is what
the provider served, budgets and kills hold. By Sentinel and on a Cluster, with real servers and workers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pytest
from redis.crc import key_slot

from gateway.admission import Admitted, CounterState, Denied, Kill, Settlement
from gateway.errors import StoreUnavailable
from gateway.stores.redis import RedisStore
from gateway.stores.redis_facts import redis_facts
from gateway.stores.redis_scattered import FRESH_S
from gateway.testing import ProviderServer, Reply
from tests.integration.processes.test_crashes import ledger_holds_the_journal, nano, steps
from tests.integration.stores.conftest import let_in
from tests.integration.stores.test_redis_deployments import eventually, in_the_end_spends, opened, spends
from tests.support import store_values as make
from tests.support.gateway import ALICE, BOB, ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.redis_server import RedisCluster, RedisServer, SentinelSet, wait_for

T = TypeVar("T")

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.xdist_group("redis deployments")]

BACK_S = 30.0
"""Far beyond what a failover takes with these servers, for a machine that is busy."""


class Pair(Protocol):
    """A master and a replica that takes its place."""

    @property
    def url(self) -> str: ...

    def master(self) -> RedisServer: ...

    def replica(self) -> RedisServer: ...

    def promoted(self, dead: RedisServer) -> RedisServer: ...

    def switch(self) -> None: ...

    def restored(self, dead: RedisServer) -> None: ...


class BySentinel:
    def __init__(self, servers: SentinelSet) -> None:
        self._servers = servers
        self.url = servers.url

    def master(self) -> RedisServer:
        return self._servers.master

    def replica(self) -> RedisServer:
        master = self.master()
        return next(server for server in self._servers.servers if server is not master)

    def promoted(self, dead: RedisServer) -> RedisServer:
        return self._servers.wait_master(not_port=dead.port)

    def switch(self) -> None:
        self._servers.wait_replicated()
        self._servers.failover()

    def restored(self, dead: RedisServer) -> None:
        dead.start()
        # The sentinels would do so by themselves, some ten seconds later.
        dead.client().replicaof("127.0.0.1", str(self.master().port))
        self._servers.wait_replicated(60)


class OnCluster:
    def __init__(self, servers: RedisCluster) -> None:
        self._servers = servers
        self.url = servers.url

    def master(self) -> RedisServer:
        return self._servers.owner("{gw}:epoch")

    def replica(self) -> RedisServer:
        (port,) = [int(str(each["port"])) for each in self.master().client().info("replication").values()
                   if isinstance(each, dict)]  # fmt: skip
        return next(server for server in self._servers.servers if server.port == port)

    def promoted(self, dead: RedisServer) -> RedisServer:
        return self._servers.wait_owner("{gw}:epoch", not_port=dead.port)

    def switch(self) -> None:
        wait_for(lambda: self.replica().say("CLUSTER", "FAILOVER"), "a failover on request")

    def restored(self, dead: RedisServer) -> None:
        dead.start()
        wait_for(lambda: dead.client().info("replication").get("master_link_status") == "up", "a replica")
        wait_for(lambda: self.replica() is dead, "its master's knowledge of it")


@pytest.fixture(params=["sentinel", "cluster"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A master with a replica, empty; whatever the test does to them is put right."""
    servers: SentinelSet | RedisCluster = request.getfixturevalue(request.param)
    servers.flushall()
    pair: Pair = BySentinel(servers) if isinstance(servers, SentinelSet) else OnCluster(servers)
    yield pair
    for server in servers.servers:
        if not server.is_up:
            pair.restored(server)
        server.client().config_set("masterauth", "")


def cut_replication(pair: Pair) -> None:
    """From now on what the master acknowledges is on no replica."""
    pair.replica().client().config_set("masterauth", "no such password")
    pair.master().client().client_kill_filter(_type="replica")
    wait_for(lambda: pair.master().client().info("replication")["connected_slaves"] == 0, "no replica")


@dataclass
class Load:
    """Callers that go on whatever they are answered; who was answered what, and when."""

    gateway: ProcessGateway
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for n in range(8):
            thread = threading.Thread(target=self._call, args=(n,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def _call(self, worker: int) -> None:
        n = 0
        while not self._stopped.is_set():
            n += 1
            body = {
                "model": "sim/talk",
                "messages": [{"role": "user", "content": f"{worker}-{n}"}],
                "max_tokens": 50,
                "stream": n % 2 == 0,
            }
            with contextlib.suppress(OSError):
                status, _, raw = self.gateway.post(body, key=ALICE)
                code = json.loads(raw)["error"]["code"] if status != 200 else ""
                self.answers.append((time.monotonic(), status, code))
                if status != 200:
                    time.sleep(0.05)

    def served(self, after: float = 0.0) -> int:
        return sum(1 for at, status, _ in self.answers if status == 200 and at > after)


def bob_is_told(gateway: ProcessGateway, times: int) -> Counter[str]:
    """What bob's steps are answered as soon as the store answers: codes, or nothing for those that are served."""
    told: Counter[str] = Counter()
    body = {"model": "sim/talk", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
    deadline = time.monotonic() + BACK_S
    while told.total() < times:
        assert time.monotonic() < deadline
        status, _, raw = gateway.post(body, key=BOB)
        code = str(json.loads(raw)["error"]["code"]) if status != 200 else ""
        if code != "budget_store_unavailable":
            told[code] += 1
    return told


def budget(gateway: ProcessGateway, per: str, name: str) -> dict[str, Any]:
    (row,) = gateway.admin("GET", f"/budgets?per={per}&id={name}")["data"]
    return dict(row)


def test_a_master_that_dies_under_load_costs_seconds_and_no_cent(
    pair: Pair, provider: ProviderServer, tmp_path: Path
) -> None:
    provider.script("talk", Reply("some words of an answer " * 3, chunks=5, chunk_delay_s=0.02))
    rules = "budgets: [{name: key, per: key, limit_usd: 1000, window: 1d}]\n"
    with process_gateway(
        base_policy(provider.base_url, rules), tmp_path / "gw", store_url=pair.url, workers="2"
    ) as gateway:
        gateway.admin("POST", "/kills", {"scope": "team", "id": "blue", "reason": "before"})
        with Load(gateway) as load:
            wait_until(lambda: load.served() > 16, timeout=60, what="load")
            dead = pair.master()
            cut_replication(pair)
            # Told to nobody but the master, like all that is spent from here on.
            gateway.admin("POST", "/kills", {"scope": "user", "id": "bob", "reason": "at the last moment"})
            gateway.admin("DELETE", "/kills/team/blue")
            served = load.served()
            wait_until(lambda: load.served() > served + 24, timeout=60, what="load without a replica")
            died_at = time.monotonic()
            dead.kill()
            pair.promoted(dead)
            promoted_s = time.monotonic() - died_at
            wait_until(lambda: load.served(after=died_at + promoted_s), timeout=BACK_S, what="service")
            # A kill that only the dead master had heard of holds from the first step on.
            assert bob_is_told(gateway, 8) == {"user_killed": 8}
            wait_until(lambda: load.served(died_at + promoted_s) > 16, timeout=BACK_S, what="load")
        refused = Counter(code for _, status, code in load.answers if status != 200)
        assert set(refused) <= {"budget_store_unavailable"}
        provider.wait_idle_blocking()
        wait_until(
            lambda: budget(gateway, "key", "alice")["reserved_usd"] == "0.000000000",
            timeout=60,
            what="settling",
        )
        ledger_holds_the_journal(gateway, provider)
        spent = sum(nano(step["cost_usd"]) for step in steps(gateway))
        assert nano(budget(gateway, "key", "alice")["used_usd"]) == spent
        assert len(provider.journal) == len(steps(gateway))
        again = [line for line in gateway.log_path.read_text().splitlines() if "were made again" in line]
        times = sorted(at for at, status, _ in load.answers if status == 200)
        without_s = max(later - earlier for earlier, later in itertools.pairwise(times))
        print(
            f"\n{type(pair).__name__}: new master after {promoted_s:.1f} s, no step served for "
            f"{without_s:.1f} s, {load.served()} served, {sum(refused.values())} refused; {again}"
        )
        assert load.served() > 56


class MemoryLedger:
    """What a ledger does for the store: keeps each attempt's cost once, and adds them up."""

    def __init__(self) -> None:
        self.costs: dict[str, int] = {}
        self.stores: list[RedisStore] = []

    async def used(self, now: int) -> dict[str, tuple[int, int]]:
        for store in self.stores:
            with contextlib.suppress(StoreUnavailable):
                await self.drain(store)
        return {"spent": (sum(self.costs.values()), 0)}

    async def has(self, attempt_id: str) -> bool:
        return attempt_id in self.costs

    async def drain(self, store: RedisStore) -> None:
        taken = await store.take_events(1000)
        for _, event in taken:
            told = json.loads(event)
            if told["t"] == "attempt" and "cost" in told:
                self.costs.setdefault(told["id"], told["cost"])
        await store.confirm_events([event_id for event_id, _ in taken])

    async def drain_forever(self, store: RedisStore) -> None:
        while True:
            await asyncio.sleep(0.05)
            with contextlib.suppress(StoreUnavailable):
                await self.drain(store)


LIMIT, HELD, COST = 90_000, 100, 60


async def test_a_budget_is_spent_to_its_end_and_never_passed_through_a_failover(pair: Pair) -> None:
    """To the nano-dollar: at the end no attempt fits any more, and what was settled is not over the limit."""
    ledger = MemoryLedger()
    settled: dict[str, int] = {}
    charge = make.charge("spent", LIMIT)

    async def until_heard(call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async def settle(store: RedisStore, settlement: Settlement) -> None:
        """As the settler does."""
        answer = await store.settle(settlement)
        if not answer.known and not await ledger.has(settlement.attempt_id):
            await store.settle(replace(settlement, adopt=True))

    async def agent(store: RedisStore, name: str) -> None:
        for n in itertools.count():
            attempt = f"{name}-{n}"
            admission = make.admission(attempt, name, charge, cost=HELD, retry_key=name)
            await until_heard(lambda: store.resolve(make.lookup(name, retry_key=name)))
            try:
                answer = await store.admit(admission)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            if isinstance(answer, Denied):
                if answer.used - sum(settled.values()) < HELD and promoted.is_set():
                    return
                await asyncio.sleep(0.02)
                continue
            await asyncio.sleep(random.uniform(0.0, 0.05))
            done = make.settlement(attempt, name, COST, holds=answer.holds, retry_key=name)
            await until_heard(lambda done=done: settle(store, done))  # type: ignore[misc]  # bound in the loop
            settled[attempt] = COST

    promoted = asyncio.Event()
    stores = [
        RedisStore(
            pair.url, worker_id=f"w{n}", used_counters=ledger.used, in_ledger=ledger.has, timeout_s=0.5
        )
        for n in range(2)
    ]
    for store in stores:
        await store.start()
    ledger.stores = stores
    drains = [asyncio.create_task(ledger.drain_forever(store)) for store in stores]
    agents = [
        asyncio.create_task(agent(store, f"run-{w}-{n}")) for w, store in enumerate(stores) for n in range(6)
    ]
    await eventually(lambda: len(settled) > 100, 60)
    dead = pair.master()
    await asyncio.to_thread(cut_replication, pair)
    before = len(settled)
    await eventually(lambda: len(settled) > before + 60, 60)
    dead.kill()
    await asyncio.to_thread(pair.promoted, dead)
    promoted.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*agents)
    for task in drains:
        task.cancel()
    await eventually(
        lambda: not any(store._recovery.doubtful or store._recovery.unreserved for store in stores)
    )
    await ledger.drain(stores[0])
    spent = sum(settled.values())
    assert LIMIT - HELD < spent <= LIMIT
    assert ledger.costs == settled
    assert (await stores[1].counters(["spent"]))["spent"] == CounterState(spent, 0)
    for store in stores:
        await store.close()


# -- a Cluster ------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(cluster: RedisCluster) -> RedisCluster:
    """The cluster, empty."""
    cluster.flushall()
    return cluster


async def is_denied(store: RedisStore, attempt: str, *names: str) -> Denied | None:
    answer = await store.admit(make.admission(attempt, "run-1", kill_names=names, retry_key=attempt))
    return answer if isinstance(answer, Denied) else None


async def test_kills_set_by_hand_are_found_in_whatever_slot_they_lie(nodes: RedisCluster) -> None:
    names = ("run-1", "user:ann", "team:red", "model:gpt-4o", "global", "deploy {x}", "a:b:c")
    owners = {nodes.owner(f"kill:{name}").port for name in names}
    assert len(owners) == 3, "the names of this test lie on every master"
    async with opened(nodes.url) as store:
        await store.resolve(make.lookup("run-1"))
        assert await is_denied(store, "free", *names) is None
        for n, name in enumerate(names):
            nodes.client(f"kill:{name}").set(f"kill:{name}", f"because {n}")
            # The poll of open streams sees it now, admissions within a quarter of a second.
            assert await store.kills(names) == {name: f"because {n}"}
            denied = await is_denied(store, f"killed-{n}", *names)
            assert denied is not None
            assert denied.reason == f"because {n}"
            assert await store.clear_kill(name)
            assert nodes.client(f"kill:{name}").get(f"kill:{name}") is None
            assert await is_denied(store, f"revived-{n}", *names) is None
        nodes.client("kill:global").set("kill:global", "x")
        await asyncio.sleep(FRESH_S)
        assert await is_denied(store, "later", *names) is not None


async def test_any_node_of_a_cluster_leads_to_the_owner(
    nodes: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    owner = nodes.owner("{gw}:epoch")
    heard: list[Kill] = []
    for n, server in enumerate(nodes.servers):
        async with opened(server.url, worker=f"w{n}") as store, opened(nodes.url, worker="other") as other:
            await store.on_kill(heard.append)
            await spends(store, f"run-{n}")
            assert await store.live_run(f"run-{n}") is not None
            nodes.client("kill:run-x").set("kill:run-x", "by hand")
            assert await store.kills(["run-x"]) == {"run-x": "by hand"}
            # Pushed to every node, whichever this one listens to.
            await wait_listening(nodes, 2)
            heard.clear()
            await other.set_kill(Kill("user:ann", "enough"), 5)
            await eventually(lambda: Kill("user:ann", "enough") in heard)
        nodes.wait_whole()
        facts = await redis_facts(server.url)
        assert facts["address"] == f"127.0.0.1:{owner.port}/0"
        assert {node["eviction"] for node in facts["nodes"]} == {"noeviction"}
        assert len(facts["nodes"]) == 5
    assert "is a node of a Cluster" in caplog.text


async def wait_listening(nodes: RedisCluster, workers: int) -> None:
    def count() -> int:
        return sum(int(s.client().pubsub_numsub("{gw}:kills")[0][1]) for s in nodes.servers)

    await eventually(lambda: count() == workers)


async def test_every_node_of_a_cluster_is_looked_at(nodes: RedisCluster) -> None:
    evicting = next(server for server in nodes.servers if server is not nodes.owner("{gw}:epoch"))
    evicting.client().config_set("maxmemory-policy", "allkeys-lfu")
    try:
        async with opened(nodes.url) as store:
            await eventually(lambda: store.warnings)
            (warning,) = store.warnings
            assert "allkeys-lfu" in warning
            assert f":{evicting.port}/" in warning
    finally:
        evicting.client().config_set("maxmemory-policy", "noeviction")


async def test_a_slot_that_is_moved_key_by_key_is_all_or_nothing(nodes: RedisCluster) -> None:
    """Resharding: refused while keys are in two places, then everything goes on at the new owner."""
    slot = key_slot(b"{gw}:epoch")
    source = nodes.owner("{gw}:epoch")
    target = next(server for server in nodes.servers[:3] if server is not source and _is_master(server))
    ids = {server.port: str(server.client().cluster("myid").decode()) for server in (source, target)}
    async with opened(nodes.url) as store:
        held = await spends(store, "run-1")
        assert await in_the_end_spends(store)
        before = (await store.counters(["spent"]))["spent"]
        target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        keys = source.say("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        for n, key in enumerate(keys):
            with contextlib.suppress(StoreUnavailable):
                await spends(store, f"meanwhile-{n}")
                raise AssertionError("a step was admitted while its keys were in two places")
            with contextlib.suppress(StoreUnavailable):
                await store.settle(
                    make.settlement("at-run-1", "run-1", 7, holds=held.holds, retry_key="run-1")
                )
                raise AssertionError("a step was settled while its keys were in two places")
            source.say("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        assert not [key for key in target.client().keys("*meanwhile*")]
        for server in (target, source):
            server.say("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        again = await in_the_end_spends(store)
        assert target.client().exists(f"{{gw}}:run:{again}")
        assert (await store.settle(make.settlement("at-run-1", "run-1", 7, retry_key="run-1"))).applied
        after = (await store.counters(["spent"]))["spent"]
        assert after == CounterState(before.used + 7, before.reserved)


def _is_master(server: RedisServer) -> bool:
    return bool(server.client().role()[0] == b"master")


async def test_a_planned_failover_loses_nothing(pair: Pair) -> None:
    """By request, with the old master alive: it becomes a replica, and every worker leaves it."""
    old, new = pair.master(), pair.replica()
    begun = time.monotonic()
    async with opened(pair.url) as one, opened(pair.url, worker="w2") as two:
        held = await spends(one, "run-1")
        await spends(two, "run-2")
        pair.switch()
        pair.promoted(old)
        for store in (one, two):
            await in_the_end_spends(store, BACK_S)
        print(f"\n{type(pair).__name__}: planned failover, service after {time.monotonic() - begun:.1f} s")
        settled = make.settlement("at-run-1", "run-1", 7, holds=held.holds, retry_key="run-1")
        assert (await two.settle(settled)).applied
        # What the old master took at the last moment is reserved again by whoever knows of it.
        await eventually(lambda: not any(s._recovery.unreserved or s._recovery.doubtful for s in (one, two)))
        assert (await one.counters(["spent"]))["spent"] == CounterState(907, 300)
        assert new.client().exists("{gw}:epoch")


async def test_a_flag_that_cannot_be_read_refuses(nodes: RedisCluster) -> None:
    """The owner of a kill flag by hand is away: whether the run is killed is not known."""
    owner = nodes.owner("{gw}:epoch")
    name = next(name for name in map(str, range(100)) if nodes.owner(f"kill:{name}") is not owner)
    async with opened(nodes.url) as store:
        await store.resolve(make.lookup("run-1"))
        assert isinstance(await store.admit(make.admission("a-1", "run-1", kill_names=(name,))), Admitted)
        stalled = nodes.owner(f"kill:{name}")
        stalled.stall()
        try:
            await asyncio.sleep(FRESH_S)
            with pytest.raises(StoreUnavailable):
                await store.admit(make.admission("a-2", "run-1", kill_names=(name,)))
        finally:
            stalled.resume()
        await in_the_end_spends(store)
        for n in range(1000):
            with contextlib.suppress(StoreUnavailable):
                answer = await store.admit(make.admission(f"b-{n}", "run-1", kill_names=(name,)))
                break
            await asyncio.sleep(0.05)
        assert isinstance(answer, Admitted)


async def test_the_documented_user_can_use_a_cluster(nodes: RedisCluster) -> None:
    for server in nodes.servers:
        let_in(server, "+cluster|slots", "+cluster|nodes", "+asking")
    url = nodes.url.replace("://", "://gateway:PASSWORD@")
    by_hand = next(
        name for name in map(str, range(100)) if nodes.owner(f"kill:{name}") is not nodes.owner("{gw}:epoch")
    )
    slot = key_slot(f"kill:{by_hand}".encode())
    source = nodes.owner(f"kill:{by_hand}")
    target = nodes.owner("{gw}:epoch")
    ids = {server.port: server.client().cluster("myid").decode() for server in (source, target)}
    async with opened(url) as store:
        await spends(store, "run-1")
        assert store.warnings == []
        source.client().set(f"kill:{by_hand}", "by hand")
        assert await store.kills([by_hand]) == {by_hand: "by hand"}
        # Read where it is while it is being moved, and after that.
        target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        assert await store.kills([by_hand]) == {by_hand: "by hand"}
        source.say("MIGRATE", "127.0.0.1", target.port, f"kill:{by_hand}", 0, 5000)
        assert await store.kills([by_hand]) == {by_hand: "by hand"}
        for server in (target, source):
            server.say("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        assert await store.kills([by_hand]) == {by_hand: "by hand"}
        assert await store.clear_kill(by_hand)
        assert await store.kills([by_hand]) == {}
