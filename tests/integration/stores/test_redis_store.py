"""What the Redis store adds to the meaning of its operations: keys, kills by hand, many workers, callers that
leave, and databases that have lost their counters."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis.crc import key_slot

from gateway import admission
from gateway.admission import (
    Admitted,
    BreakerRule,
    CounterState,
    Denied,
    Ending,
    Hold,
    Kill,
    Quota,
    Rate,
    Window,
)
from gateway.errors import StoreUnavailable
from gateway.stores import embedded, embedded_breakers, embedded_records, embedded_runs
from gateway.stores.redis import RedisStore
from gateway.stores.redis_calls import Keys, scripts
from gateway.stores.redis_recovery import UsedCounters
from tests.support import store_values as make
from tests.support.redis_server import FaultProxy, RedisServer

pytestmark = pytest.mark.redis


@asynccontextmanager
async def opened(
    server: RedisServer | FaultProxy,
    *,
    worker: str = "w1",
    used_counters: UsedCounters | None = None,
    timeout_s: float = 1.0,
    seed_wait_s: float = 1.0,
    raw_kills_in_script: bool = True,
) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        server.url,
        worker_id=worker,
        used_counters=used_counters,
        timeout_s=timeout_s,
        seed_wait_s=seed_wait_s,
        raw_kills_in_script=raw_kills_in_script,
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


# -- keys ---------------------------------------------------------------------------------------------


async def test_key_names_are_a_stored_format(empty_redis: RedisServer) -> None:
    now = 1_700_000_000_000
    store = RedisStore(empty_redis.url, worker_id="w1", clock=lambda: now)
    await store.start()
    await store.resolve(make.lookup("run-1", name="nightly"))
    windowed = make.charge("user:abc", 1000, windows=(Window("w7", now + 5000), Window("w8", now + 9000)))
    rate = Rate("r", "user", "rate:abc", True, 9, 999, 9, 9, 9_999)
    for attempt in ("a-1", "a-2"):
        await store.admit(
            make.admission(attempt, "run-1", windowed, make.charge("run:abc", 1000), rates=(rate,))
        )
    await store.settle(make.settlement("a-1", "run-1", 5, links=("link",)))
    await store.set_kill(Kill("user:ann", "enough"), 60)
    await store.acknowledge_kill("user:ann", "w1", 2)
    await store.resolve(replace(make.lookup("run-2", retry_key="x"), known_as=("parents",)))
    await store.remember({"object": b"x"}, 1_000)
    quota = Quota("q", "run", "abc", 1, 1, enforced=True, window_ms=0, ttl_ms=1_000)
    await store.take([quota, replace(quota, window_ms=60_000)])
    await store.report("tool/team/a", BreakerRule(0.5, 1, 60_000, 1_000, 1), source="s", ok=0, failed=1)
    await store.observe("agent", {"steps": 1.0}, 0.9)
    client = empty_redis.client()
    assert sorted(client.keys("*")) == [
        b"{gw}:acks:user:ann",
        b"{gw}:attempt:a-1",
        b"{gw}:attempt:a-2",
        b"{gw}:baseline:agent",
        b"{gw}:breaker:tool/team/a",
        b"{gw}:breakers",
        b"{gw}:bucket:rate:abc:m:28333333",
        b"{gw}:bucket:rate:abc:n:28333333",
        b"{gw}:bucket:rate:abc:r:28333333",
        b"{gw}:bucket:rate:abc:t:28333333",
        b"{gw}:counter:run:abc",
        b"{gw}:counter:user:abc:w7",
        b"{gw}:epoch",
        b"{gw}:events",
        b"{gw}:flight:rate:abc",
        b"{gw}:index:link",
        b"{gw}:index:name:principal:nightly",
        b"{gw}:index:parents",
        b"{gw}:kill:user:ann",
        b"{gw}:leases",
        b"{gw}:live",
        b"{gw}:object:object",
        b"{gw}:quota:abc",
        b"{gw}:quota:abc:60000:28333333",
        b"{gw}:retry:body",
        b"{gw}:run:run-1",
        b"{gw}:run:run-2",
    ]
    # The rest are one key each, and what they hold is removed by the janitor and the drain.
    forever = {key for key in client.keys("*") if client.pttl(key) == -1}
    assert forever == {b"{gw}:epoch", b"{gw}:events", b"{gw}:leases", b"{gw}:live"}
    await store.close()


def test_hostile_ids_share_neither_a_key_nor_leave_the_slot() -> None:
    keys = Keys("gw")
    ids = [
        "",
        ":",
        "a",
        "a:",
        ":a",
        "a:b",
        "{x}",
        "}{",
        "{gw}:run:a",
        "a\r\nDEL x",
        "*",
        "\0",
        "\ud800",
        "é",
        "é" * 9,
    ]
    kinds = (
        "run", "index", "retry", "counter", "bucket", "flight", "attempt", "kill", "acks", "object", "quota",
        "breaker", "baseline",
    )  # fmt: skip
    made = [keys.of(kind, record_id) for kind in kinds for record_id in ids]
    assert len(set(made)) == len(made)
    assert {key_slot(key) for key in made} == {key_slot(keys.epoch.encode())}


async def test_runs_with_hostile_names_are_told_apart(empty_redis: RedisServer) -> None:
    names = ["", "a", "a\0", "a\r\n", "{a}", "a:b", "a}:run:b", "*", "\ud800", "é"]
    async with opened(empty_redis) as store:
        for n, name in enumerate(names):
            assert (
                await store.resolve(make.lookup(f"run-{n}", name=name and f"n{name}", retry_key=f"{n}"))
            ).is_new
        for n, name in enumerate(names[1:], 1):
            view = await store.resolve(make.lookup("other", name=f"n{name}", retry_key="x"))
            assert (view.run_id, view.name) == (f"run-{n}", f"n{name}")
            strange = await store.resolve(
                make.lookup(f"p2-{n}", name=f"n{name}", principal="p2", retry_key="y")
            )
            assert strange.is_new


def test_the_scripts_and_the_specification_have_the_same_constants() -> None:
    names = {
        "admit": (embedded, (
            "DAY_MS", "MINUTE_MS", "SETTLED_MEMORY_MS", "PROVISIONAL_MEMORY_MS", "UNDATED_COUNTER_MS",
        )),
        "resolve": (admission, ("MAX_ANCESTORS", "MAX_RETRIES", "RETRY_WINDOW_MS", "INDEX_WIDTH")),
        "reap": (embedded_runs, ("DAY_MS", "UNSEEN_RUN_TTL_MS")),
        "report": (embedded_breakers, ("BREAKER_TTL_MS", "BREAKER_MEMORY", "BREAKER_SOURCES")),
        "observe": (embedded_records, ("BASELINE_TTL_MS", "MAX_FIGURES")),
    }  # fmt: skip
    for script, (module, constants) in names.items():
        source = scripts()[script].source
        values: dict[str, int] = {}
        for name in constants:
            found = re.search(rf"^local {name} = (.+)$", source, re.MULTILINE)
            assert found is not None, name
            values[name] = eval(found[1], {}, values)
        assert values == {name: getattr(module, name) for name in constants}


# -- kills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_script", [True, False], ids=["in the script", "beside the script"])
async def test_a_kill_set_by_hand_refuses_the_next_admission(
    empty_redis: RedisServer, in_script: bool
) -> None:
    async with opened(empty_redis, raw_kills_in_script=in_script) as store:
        await store.resolve(make.lookup("run-1"))
        names = ("run-1", "user:ann", "global")
        assert isinstance(await store.admit(make.admission("a-1", "run-1", kill_names=names)), Admitted)
        empty_redis.client().set("kill:user:ann", b"stop \xff now")
        answer = await store.admit(make.admission("a-2", "run-1", kill_names=names))
        assert isinstance(answer, Denied)
        assert (answer.code, answer.per, answer.reason) == ("user_killed", "user", "stop \ufffd now")
        assert await store.kills(["user:ann", "user:bob"]) == {"user:ann": "stop \ufffd now"}
        assert await store.clear_kill("user:ann")
        assert isinstance(await store.admit(make.admission("a-3", "run-1", kill_names=names)), Admitted)
        assert not await store.clear_kill("user:ann")


async def test_a_kill_reaches_every_worker_also_after_its_connection_was_cut(
    empty_redis: RedisServer,
) -> None:
    heard: list[tuple[str, Kill]] = []
    async with (
        FaultProxy(empty_redis.port) as proxy,
        opened(empty_redis, worker="w1") as one,
        opened(proxy, worker="w2") as two,
    ):
        await one.on_kill(lambda kill: heard.append(("w1", kill)))
        await two.on_kill(lambda kill: heard.append(("w2", kill)))
        client = empty_redis.client()
        await eventually(lambda: client.pubsub_numsub("{gw}:kills")[0][1] == 2)
        first = Kill("run-1", "a: b")
        await one.set_kill(first, None)
        await eventually(lambda: len(heard) >= 2)
        assert sorted(heard, key=str) == [("w1", first), ("w2", first)]

        proxy.cut()
        await eventually(lambda: proxy.connections == 4)
        await eventually(lambda: client.pubsub_numsub("{gw}:kills")[0][1] == 2)
        heard.clear()
        await one.set_kill(Kill("global", "all"), 5)
        await eventually(lambda: ("w2", Kill("global", "all")) in heard)


async def test_what_is_no_kill_on_the_channel_is_left_alone(empty_redis: RedisServer) -> None:
    heard: list[Kill] = []
    async with opened(empty_redis) as store:
        await store.on_kill(heard.append)
        client = empty_redis.client()
        await eventually(lambda: client.pubsub_numsub("{gw}:kills")[0][1] == 1)
        for message in (b"\xff", b"[]", b"{}", b'{"name":"x","reason":"y","from":"hand"}'):
            client.publish("{gw}:kills", message)
        await eventually(lambda: bool(heard))
        assert heard == [Kill("x", "y")]


# -- many workers ---------------------------------------------------------------------------------------

SPENDER = """
import asyncio, sys
from gateway.admission import Admitted
from gateway.stores.redis import RedisStore
from tests.support import store_values as make

async def main(url, worker):
    store = RedisStore(url, worker_id=worker, timeout_s=5)
    await store.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    run = (await store.resolve(make.lookup(f"run-{worker}", retry_key=worker))).run_id
    answers = await asyncio.gather(*(
        store.admit(make.admission(f"{worker}-{n}", run, make.charge("shared", 1000), cost=100))
        for n in range(50)
    ))
    print(sum(isinstance(answer, Admitted) for answer in answers), flush=True)
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_four_processes_cannot_spend_a_budget_of_ten_more_than_ten_times(
    empty_redis: RedisServer,
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, empty_redis.url, f"w{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for n in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    admitted = sum(int(process.communicate(timeout=30)[0]) for process in processes)
    assert admitted == 10
    async with opened(empty_redis) as store:
        assert (await store.counters(["shared"]))["shared"] == CounterState(0, 1000)


# -- callers that leave ---------------------------------------------------------------------------------


async def test_nobody_reads_anothers_answer_whoever_is_cancelled(empty_redis: RedisServer) -> None:
    rng = random.Random(7)
    limit = 10**12
    async with FaultProxy(empty_redis.port, delay_s=0.05) as proxy, opened(proxy) as store:
        await store.reseed({f"c{n}": (10**6 + n, 0) for n in range(200)})
        await store.resolve(make.lookup("run-1"))

        async def read(n: int) -> int:
            key = f"c{n % 200}"
            assert await store.counters([key]) == {key: CounterState(10**6 + n % 200, 0)}
            return 0

        async def resolve(n: int) -> int:
            view = await store.resolve(make.lookup(f"run-{n}-", session=f"s{n}", retry_key=f"b{n}"))
            assert (view.run_id, view.session) == (f"run-{n}-", f"s{n}")
            return 0

        async def admit(n: int) -> int:
            answer = await store.admit(
                make.admission(f"a{n}", "run-1", make.charge("all", limit), cost=1000 + n, retry_key=f"b{n}")
            )
            assert isinstance(answer, Admitted)
            assert answer.reserved == 1000 + n
            return answer.reserved

        held = 0
        for batch in range(10):
            tasks = [
                asyncio.create_task(rng.choice((read, resolve, admit))(batch * 200 + n)) for n in range(200)
            ]
            for _ in range(10):
                await asyncio.sleep(0.008)
                for task in rng.sample(tasks, 12):
                    task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, int):
                    held += result
                else:
                    assert isinstance(result, asyncio.CancelledError), result
        assert proxy.connections == 2, "a cancelled call must not cost the connection"

        # What was admitted for callers who had left is given back.
        async with asyncio.timeout(10):
            while (await store.counters(["all"]))["all"] != CounterState(0, held):
                await asyncio.sleep(0.02)
        run = await store.live_run("run-1")
        assert run is not None
        assert run["reserved"] == held


async def test_an_admission_that_arrives_after_it_was_given_up_takes_nothing(
    empty_redis: RedisServer,
) -> None:
    async with opened(empty_redis) as store:
        await store.resolve(make.lookup("run-1"))
        store._recovery.given_up("a-1")
        await eventually(lambda: not store._recovery.voids)
        with pytest.raises(StoreUnavailable):
            await store.admit(make.admission("a-1", "run-1", make.charge("all", 1000)))
        assert (await store.counters(["all"]))["all"] == CounterState(0, 0)
        assert not (await store.settle(make.settlement("a-1", "run-1", 5))).known


async def test_a_landing_that_was_given_up_is_none(empty_redis: RedisServer) -> None:
    landing = Ending("run_budget_exceeded", "r", "run", 1, 1)
    async with opened(empty_redis) as store:
        await store.resolve(make.lookup("run-1"))
        await store.admit(replace(make.admission("a-1", "run-1"), landing=landing))
        store._recovery.given_up("a-1")
        await eventually(lambda: not store._recovery.voids)
        assert isinstance(await store.admit(make.admission("a-2", "run-1")), Admitted)
        # Giving up a second try of a landing leaves the first.
        await store.admit(replace(make.admission("a-3", "run-1"), landing=landing))
        await store.admit(replace(make.admission("a-4", "run-1", retry_ordinal=3), landing=landing))
        store._recovery.given_up("a-4")
        await eventually(lambda: not store._recovery.voids)
        assert isinstance(await store.admit(make.admission("a-5", "run-1")), Denied)


# -- breakers -------------------------------------------------------------------------------------------


async def test_eight_workers_get_as_many_probes_as_there_are(empty_redis: RedisServer) -> None:
    now = [1_700_000_000_000]
    rule = BreakerRule(0.5, 1, 60_000, 1_000, probes=3)
    stores = [RedisStore(empty_redis.url, worker_id=f"w{n}", clock=lambda: now[0]) for n in range(8)]
    await asyncio.gather(*(store.start() for store in stores))
    await stores[0].report("b", rule, source="s", ok=0, failed=1)
    now[0] += 1_000
    passed = await asyncio.gather(*(store.probe("b", rule) for store in stores for _ in range(4)))
    assert sum(passed) == 3
    await asyncio.gather(*(store.close() for store in stores))


# -- a database without counters ------------------------------------------------------------------------


class BooksOf:
    """A ledger that counts how often it is read, and can be slow or broken."""

    def __init__(self, used: Mapping[str, tuple[int, int]], delay_s: float = 0.0) -> None:
        self.used = used
        self.delay_s = delay_s
        self.broken = False
        self.reads = 0

    async def __call__(self, now: int) -> Mapping[str, tuple[int, int]]:
        self.reads += 1
        await asyncio.sleep(self.delay_s)
        if self.broken:
            raise OSError("the ledger is away")
        return self.used


async def test_eight_workers_on_an_empty_database_read_the_ledger_once(empty_redis: RedisServer) -> None:
    ledger = BooksOf({"spent": (900, 0), **{f"c{n}": (n, 0) for n in range(1200)}}, delay_s=0.1)
    stores = [RedisStore(empty_redis.url, worker_id=f"w{n}", used_counters=ledger) for n in range(8)]
    await asyncio.gather(*(store.start() for store in stores))
    assert ledger.reads == 1
    assert (await stores[5].counters(["spent", "c1199"])) == {
        "spent": CounterState(900, 0),
        "c1199": CounterState(1199, 0),
    }
    assert empty_redis.client().exists("{gw}:rebuild") == 0
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_flushed_database_admits_nothing_beyond_the_ledger(empty_redis: RedisServer) -> None:
    ledger = BooksOf({"spent": (900, 0)}, delay_s=0.05)
    async with (
        opened(empty_redis, used_counters=ledger) as one,
        opened(empty_redis, worker="w2", used_counters=ledger) as two,
    ):
        await one.resolve(make.lookup("run-0"))
        open_attempt = await one.admit(make.admission("old", "run-0", make.charge("spent", 1000), cost=50))
        assert isinstance(open_attempt, Admitted)
        empty_redis.client().flushall()

        async def spend(store: RedisStore, n: int) -> bool:
            await store.resolve(make.lookup(f"run-{n}", retry_key=f"{n}"))
            charge = make.charge("spent", 1000)
            return isinstance(
                await store.admit(make.admission(f"a{n}", f"run-{n}", charge, cost=30)), Admitted
            )

        admitted = await asyncio.gather(*(spend((one, two)[n % 2], n) for n in range(20)))
        assert sum(admitted) == 1, "what was held before is held again before anything is admitted"
        assert ledger.reads == 2
        assert (await one.counters(["spent"]))["spent"] == CounterState(900, 80)
        assert (await one.settle(make.settlement("old", "run-0", 40))).applied

        # The settlement of an attempt that nobody holds is not known, and is adopted when the ledger lacks it.
        late = make.settlement("older", "run-0", 20, holds=open_attempt.holds)
        assert not (await one.settle(late)).known
        assert (await one.settle(replace(late, adopt=True))).applied
        assert not (await two.settle(replace(late, adopt=True))).applied
        assert (await one.counters(["spent"]))["spent"] == CounterState(960, 30)


async def test_a_rebuild_never_lowers_what_redis_knows_better(empty_redis: RedisServer) -> None:
    async with opened(empty_redis) as store:
        await store.reseed({"mine": (500, 0), "theirs": (1, 0)})
        await store.reseed({"mine": (400, 0), "theirs": (7, 0)})
        counters = await store.counters(["mine", "theirs"])
    assert counters == {"mine": CounterState(500, 0), "theirs": CounterState(7, 0)}


async def test_without_the_ledger_an_empty_database_admits_nothing(empty_redis: RedisServer) -> None:
    ledger = BooksOf({"spent": (900, 0)})
    async with opened(empty_redis, used_counters=ledger, seed_wait_s=0.3) as store:
        await store.resolve(make.lookup("run-1"))
        empty_redis.client().flushall()
        ledger.broken = True
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.resolve(make.lookup("run-2"))
            with pytest.raises(StoreUnavailable):
                await store.settle(make.settlement("a", "run-1", 5, adopt=True, holds=(Hold("spent", 0),)))
        assert await store.kills(["global"]) == {}, "kills need no ledger"
        ledger.broken = False
        async with asyncio.timeout(10):
            while True:
                try:
                    await store.resolve(make.lookup("run-2"))
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
        assert (await store.counters(["spent"]))["spent"] == CounterState(900, 0)


async def test_a_slow_ledger_keeps_callers_no_longer_than_told(empty_redis: RedisServer) -> None:
    ledger = BooksOf({}, delay_s=1.0)
    store = RedisStore(empty_redis.url, worker_id="w1", used_counters=ledger, seed_wait_s=0.2)
    await store.start()
    empty_redis.client().flushall()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(StoreUnavailable):
        await store.resolve(make.lookup("run-1"))
    assert loop.time() - begun < 0.8, "not as long as the ledger takes"
    await store.close()
