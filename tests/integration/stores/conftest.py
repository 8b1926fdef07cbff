"""A Redis server for the module that asks for one, and every store by a clock that tests set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.protocols import Store
from gateway.stores.embedded import EmbeddedStore
from gateway.stores.redis import RedisStore
from tests.support.redis_server import RedisServer

START = 1_800_000_000_000


class Clock:
    """A time in milliseconds that stands still until it is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> RedisServer:
    """The module's server, without any data."""
    redis_server.client().flushall()
    return redis_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Store]:
    """Each store in turn, empty."""
    store: Store
    if request.param == "embedded":
        store = EmbeddedStore(clock=clock)
    else:
        server: RedisServer = request.getfixturevalue("empty_redis")
        store = RedisStore(server.url, worker_id="w1", clock=clock, timeout_s=2)
    await store.start()
    yield store
    await store.close()
