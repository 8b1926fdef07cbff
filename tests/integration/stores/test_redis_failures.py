"""Redis as it fails: stopped, killed, full, a replica, locked, loading, busy. Every call ends in time, as an
answer or as `StoreUnavailable`, and what was left half done is put right afterwards."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import suppress

import pytest
from redis.exceptions import RedisError

from gateway.admission import Admitted, CounterState, Denied, Hold
from gateway.errors import StoreUnavailable
from gateway.stores.redis import RedisStore
from tests.support import store_values as make
from tests.support.redis_server import FaultProxy, RedisServer

pytestmark = pytest.mark.redis

TIMEOUT_S = 0.25
BOUND_S = TIMEOUT_S + 0.5
"""A call may end so late, with room for a machine that is busy."""
AT_ONCE_S = TIMEOUT_S / 2
"""A call that did not wait for the server ends sooner than this."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to break."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    """A store on it, with `run-1` open and a ledger in which 900 of `spent` is used."""

    async def used(now: int) -> Mapping[str, tuple[int, int]]:
        return {"spent": (900, 0)}

    store = RedisStore(server.url, worker_id="w1", used_counters=used, timeout_s=TIMEOUT_S)
    await store.start()
    await store.resolve(make.lookup("run-1"))
    yield store
    await store.close()


def spend(store: RedisStore, attempt_id: str, run_id: str = "run-1") -> Awaitable[object]:
    return store.admit(make.admission(attempt_id, run_id, make.charge("spent", 10**9), cost=100))


async def refused_in_time(call: Awaitable[object]) -> float:
    """Seconds until the call ended in `StoreUnavailable`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(StoreUnavailable):
        await call
    took = loop.time() - begun
    assert took < BOUND_S
    return took


async def recovered(store: RedisStore, within_s: float = 5) -> None:
    """Return when an admission works again."""
    async with asyncio.timeout(within_s):
        for n in range(1_000):
            try:
                await store.resolve(make.lookup(f"again-{n}", retry_key=f"again-{n}"))
                assert isinstance(await spend(store, f"again-{n}", f"again-{n}"), Admitted)
                return
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def server_says(server: RedisServer, word: bytes) -> None:
    """Wait until this is what a stranger is told."""
    said = b""
    async with asyncio.timeout(10):
        while word not in said:
            with suppress(OSError):
                said = await asyncio.to_thread(server.say_ping)


async def counter_becomes(store: RedisStore, used: int, reserved: int) -> None:
    async with asyncio.timeout(10):
        while (await store.counters(["spent"]))["spent"] != CounterState(used, reserved):
            await asyncio.sleep(0.02)


async def test_a_stopped_server_is_refused_in_time_then_at_once_and_keeps_nothing(
    store: RedisStore, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await spend(store, "before")
    server.stall()
    caplog.clear()
    await asyncio.gather(*(refused_in_time(spend(store, f"stalled-{n}")) for n in range(20)))
    await asyncio.sleep(TIMEOUT_S)
    assert await refused_in_time(spend(store, "later")) < AT_ONCE_S
    for n in range(60):
        await refused_in_time(spend(store, f"more-{n}"))
        await asyncio.sleep(0.02)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 4
    server.resume()
    await recovered(store)
    # The twenty were in the server's socket and may be carried out now, for callers who were refused.
    await counter_becomes(store, 900, 200)


async def test_a_short_pause_does_not_cost_the_connection(store: RedisStore, server: RedisServer) -> None:
    epoch = server.client().info("clients")["connected_clients"]
    server.stall()
    await refused_in_time(spend(store, "stalled"))
    server.resume()
    await recovered(store)
    assert server.client().info("clients")["connected_clients"] == epoch


async def test_a_process_that_stood_still_reads_what_came_meanwhile(store: RedisStore) -> None:
    """Requests in a burst, or a starved container: the loop is late and the server was not."""
    for n in range(3):
        calls = [asyncio.ensure_future(spend(store, f"late-{n}-{each}")) for each in range(20)]
        await asyncio.sleep(0)
        if n:
            # Sent, so that the replies wait in the socket; the first time not even that.
            await asyncio.sleep(0.002)
        time.sleep(5 * TIMEOUT_S)
        assert all(isinstance(each, Admitted) for each in await asyncio.gather(*calls))


async def test_a_killed_server_that_comes_back_empty_is_filled_from_the_ledger(
    store: RedisStore, server: RedisServer
) -> None:
    answer = await spend(store, "lost")
    assert isinstance(answer, Admitted)
    server.kill()
    await refused_in_time(spend(store, "dead"))
    await asyncio.sleep(TIMEOUT_S)
    assert await refused_in_time(spend(store, "dead")) < AT_ONCE_S
    server.start()
    await recovered(store)
    # What is still open is reserved again, besides what was admitted since.
    await counter_becomes(store, 900, 200)
    assert (await store.settle(make.settlement("lost", "run-1", 40))).applied
    assert not (await store.settle(make.settlement("unheard of", "run-1", 40, holds=answer.holds))).known
    await counter_becomes(store, 940, 100)


async def test_a_step_whose_run_was_lost_under_way_is_put_off_and_not_ended(
    store: RedisStore, server: RedisServer
) -> None:
    unknown = await spend(store, "before", "run-unheard-of")
    assert isinstance(unknown, Denied)
    assert unknown.code == "run_timeout"
    server.client().flushall()
    # The run was found before; whether the loss is noticed by this step or by another one is no matter.
    await recovered(store)
    with pytest.raises(StoreUnavailable):
        await spend(store, "after")
    await store.resolve(make.lookup("run-1"))
    assert isinstance(await spend(store, "again"), Admitted)


async def test_a_server_that_lost_its_last_writes_is_raised_to_the_ledger(
    server: RedisServer, store: RedisStore
) -> None:
    await store.settle(
        make.settlement("a", "run-1", 50, holds=(Hold("spent", make.DAY_MS * 30_000),), adopt=True)
    )
    client = server.client()
    # What a snapshot from before the last settlements would hold, epoch included.
    client.hset("{gw}:counter:spent", "used", "10")
    client.save()
    server.restart()
    await recovered(store)
    await counter_becomes(store, 900, 100)


async def test_a_full_server_changes_nothing_and_settles_later(
    store: RedisStore, server: RedisServer
) -> None:
    assert isinstance(await spend(store, "held"), Admitted)
    client = server.client()
    client.config_set("maxmemory", "1mb")
    await refused_in_time(spend(store, "full"))
    await refused_in_time(store.settle(make.settlement("held", "run-1", 70)))
    await refused_in_time(store.note(b"event"))
    assert (await store.counters(["spent"]))["spent"] == CounterState(900, 100)
    run = await store.live_run("run-1")
    assert run is not None
    assert (run["open"], run["steps"]) == (1, 1)
    client.config_set("maxmemory", "0")
    assert (await store.settle(make.settlement("held", "run-1", 70))).applied
    assert (await store.counters(["spent"]))["spent"] == CounterState(970, 0)


async def test_a_demoted_master_is_refused_until_it_is_promoted(
    store: RedisStore, server: RedisServer
) -> None:
    client = server.client()
    client.replicaof("127.0.0.1", "1")
    for n in range(5):
        await refused_in_time(spend(store, f"replica-{n}"))
    client.replicaof("NO", "ONE")
    await recovered(store)


async def test_a_busy_server_is_refused_in_time(store: RedisStore, server: RedisServer) -> None:
    client = server.client()
    client.config_set("lua-time-limit", "50")

    def hog() -> None:
        with suppress(RedisError):
            server.client().eval("while true do end", 0)

    thread = threading.Thread(target=hog)
    thread.start()
    await server_says(server, b"BUSY")
    await asyncio.gather(*(refused_in_time(spend(store, f"busy-{n}")) for n in range(5)))
    await refused_in_time(spend(store, "busy"))
    client.script_kill()
    await asyncio.to_thread(thread.join)
    await recovered(store)


async def test_a_loading_server_is_refused_until_it_has_loaded(server: RedisServer) -> None:
    if int(server.client().info("server")["redis_version"].split(".")[0]) < 7:
        pytest.skip("before Redis 7 nothing can make it load slowly and answer meanwhile")
    options = ("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
    with RedisServer(*options) as server:
        client = server.client()
        client.config_set("key-load-delay", "0")
        store = RedisStore(server.url, worker_id="w1", timeout_s=TIMEOUT_S)
        await store.start()
        await store.resolve(make.lookup("run-1"))
        pipeline = client.pipeline()
        for n in range(3_000):
            pipeline.set(f"filler-{n}", "x" * 50)
        pipeline.execute()
        client.save()
        server.kill()
        server.start(wait=False)
        await server_says(server, b"LOADING")
        await refused_in_time(spend(store, "loading"))
        await recovered(store, 10)
        await store.close()


async def test_a_password_is_needed_and_used(server: RedisServer) -> None:
    server.client().config_set("requirepass", "s:e/c@r")
    locked_out = RedisStore(server.url, worker_id="w1", timeout_s=TIMEOUT_S)
    with pytest.raises(StoreUnavailable, match="NOAUTH"):
        await locked_out.start()
    await refused_in_time(locked_out.ping())
    await locked_out.close()
    wrong = RedisStore(f"redis://:wrong@127.0.0.1:{server.port}/1", worker_id="w1", timeout_s=TIMEOUT_S)
    with pytest.raises(StoreUnavailable, match="WRONGPASS"):
        await wrong.start()
    await wrong.close()
    store = RedisStore(
        f"redis://:s%3Ae%2Fc%40r@127.0.0.1:{server.port}/1", worker_id="w1", timeout_s=TIMEOUT_S
    )
    await store.start()
    await store.resolve(make.lookup("run-1"))
    await store.close()


async def test_a_server_that_is_not_there_is_refused_at_start_and_used_once_it_is() -> None:
    server = RedisServer()
    store = RedisStore(server.url, worker_id="w1", timeout_s=TIMEOUT_S, connect_timeout_s=0.3)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await store.start()
    await refused_in_time(store.ping())
    server.start()
    await recovered(store)
    await store.close()
    server.close()


async def test_forgotten_scripts_are_given_again(store: RedisStore, server: RedisServer) -> None:
    server.client().script_flush()
    answers = await asyncio.gather(*(spend(store, f"a{n}") for n in range(20)))
    assert all(isinstance(answer, Admitted) for answer in answers)


async def test_cut_connections_come_back_and_every_wait_is_bounded(server: RedisServer) -> None:
    async with FaultProxy(server.port, delay_s=0.01) as proxy:
        store = RedisStore(proxy.url, worker_id="w1", timeout_s=TIMEOUT_S)
        await store.start()
        await store.resolve(make.lookup("run-1"))
        done, refused, held = 0, 0, 0
        loop = asyncio.get_running_loop()
        for n in range(40):
            calls = [asyncio.create_task(self_timed(spend(store, f"{n}-{i}"))) for i in range(5)]
            await asyncio.sleep(0.005)
            if n % 4 == 0:
                proxy.cut()
            for took, answer in await asyncio.gather(*calls):
                assert took < BOUND_S
                if isinstance(answer, Admitted):
                    done, held = done + 1, held + answer.reserved
                else:
                    refused += 1
        assert done >= 100
        assert refused >= 5
        begun = loop.time()
        while (await store.counters(["spent"]))["spent"] != CounterState(0, held):
            assert loop.time() - begun < 10, "what was admitted for nobody is given back"
            await asyncio.sleep(0.02)
        await store.close()


async def self_timed(call: Awaitable[object]) -> tuple[float, object]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        answer = await call
    except StoreUnavailable as error:
        answer = error
    return loop.time() - begun, answer


async def test_a_server_that_evicts_is_warned_about(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().config_set("maxmemory-policy", "allkeys-lru")
    store = RedisStore(server.url, worker_id="w1")
    await store.start()
    assert len(store.warnings) == 1
    assert "allkeys-lru" in store.warnings[0]
    assert [r.levelname for r in caplog.records if "allkeys-lru" in r.getMessage()] == ["ERROR"]
    await store.close()
