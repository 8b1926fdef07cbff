"""Every answer that Redis can give instead of what was asked for, to a store alone: a refusal in time, and
service again when it is well."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission import Admission, Admitted
from gateway.errors import StoreUnavailable
from gateway.stores.redis import RedisStore
from tests.chaos.faults import ERRORS, NO_ANSWER, REFUSED, FalseRedis
from tests.support import store_values as make
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis
SAID = {**ERRORS, "no answer": NO_ANSWER, "connection refused": REFUSED}


async def test_whatever_redis_answers_nothing_is_admitted_and_nothing_is_lost() -> None:
    with RedisServer() as server:
        async with FalseRedis(server.port) as false:
            store = RedisStore(false.url, worker_id="w1", timeout_s=0.25)
            await store.start()
            await store.resolve(make.lookup("run-1"))
            admitted = tries = 0
            for name, answer in SAID.items():
                false.says = answer
                asked = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailable):
                    await store.admit(admission(name))
                assert asyncio.get_running_loop().time() - asked < 2, name
                assert false.answered, name
                false.says, false.answered = None, 0
                async with asyncio.timeout(10):
                    while not await admits(store, f"again-{(tries := tries + 1)}"):
                        await asyncio.sleep(0.02)
                admitted += 1
            async with asyncio.timeout(10):
                while (await store.counters(["shared"]))["shared"].reserved != 100 * admitted:
                    await asyncio.sleep(0.02)
            await store.close()


def admission(name: str) -> Admission:
    """Of a hundred nano-dollars in one run."""
    return make.admission(name, "run-1", make.charge("shared", 10**9), cost=100)


async def admits(store: RedisStore, name: str) -> bool:
    """Whether an admission works again."""
    try:
        return isinstance(await store.admit(admission(name)), Admitted)
    except StoreUnavailable:
        return False
