"""Real redis-server processes for tests: one, one with Sentinels, a Cluster; and a TCP proxy that can make
their network bad.

`REDIS_SERVER_PROGRAM` names the program where it is another than `redis-server` or `valkey-server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.ports import free_port, free_port_of_a_cluster


def server_program() -> str | None:
    """The server that tests are run with; None where there is none."""
    named = os.environ.get("REDIS_SERVER_PROGRAM", "")
    if named:
        return shutil.which(named)
    return shutil.which("redis-server") or shutil.which("valkey-server")


REDIS_SERVER = server_program()


class RedisServer:
    """One redis-server on a free port with its data in a directory of its own. Nothing is saved to disk
    unless `options` say so."""

    def __init__(self, *options: str, port: int | None = None, program: str | None = None) -> None:
        program = program or REDIS_SERVER
        if program is None:
            raise RuntimeError("redis-server is not installed; `make test` sets it up")
        self.program = program
        self.port = port or free_port()
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def patient_url(self) -> str:
        """For a gateway in a test that is not about time: on a busy machine a call may take a while."""
        return f"{self.url}?socket_timeout=3"

    @property
    def is_up(self) -> bool:
        """It was started and not killed since."""
        return self._process is not None

    def start(self, *, wait: bool = True) -> Self:
        """Start it, with the options it was made with; return when it answers, unless told not to wait."""
        command = [
            self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--appendonly", "no", "--loglevel", "warning", *self.options,
        ]  # fmt: skip
        self._launch(command)
        if wait:
            self.wait_ready()
        return self

    def _launch(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return when the port accepts connections and PING is answered, with an error or without."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self.say_ping():
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def say_ping(self) -> bytes:
        """What the server answers to PING on a new connection. Raises: `OSError`."""
        with socket.create_connection(("127.0.0.1", self.port), 0.5) as probe:
            probe.settimeout(0.5)
            probe.sendall(b"PING\r\n")
            return probe.recv(256)

    def client(self) -> redis_py.Redis:
        """A plain blocking client, as an operator's redis-cli would be one."""
        return redis_py.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def say(self, *command: str | int | bytes) -> Any:
        """The answer to any command, as it comes. Raises: redis-py's errors."""
        client = self.client()
        return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it without types

    def flushall(self) -> None:
        """Empty it."""
        self.client().flushall()

    def stall(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `stall`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: what was in memory is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """SIGKILL and start again on the same port; empty unless the options keep data on disk."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Until it holds; connection errors and error replies count as no. Raises: `TimeoutError`."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis_py.RedisError, OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.02)


class SentinelSet:
    """A master, a replica and three sentinels that promote it within a second or two of the master's death."""

    MASTER = "mymaster"

    def __init__(self, *, replicas: int = 1, sentinels: int = 3, program: str | None = None) -> None:
        self.servers = [RedisServer(program=program)]
        for _ in range(replicas):
            self.servers.append(
                RedisServer("--replicaof", "127.0.0.1", str(self.servers[0].port), program=program)
            )
        self.sentinels = [_Sentinel(self.MASTER, self.servers[0].port, program) for _ in range(sentinels)]

    @property
    def url(self) -> str:
        named = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{named}/{self.MASTER}/0"

    @property
    def master(self) -> RedisServer:
        """Who the majority of the living sentinels name, and is one."""
        named = [sentinel.names() for sentinel in self.sentinels]
        return max(self.servers, key=lambda server: named.count(server.port))

    def client(self) -> redis_py.Redis:
        """A client of the master."""
        return self.master.client()

    def flushall(self) -> None:
        """Empty it."""
        self.client().flushall()

    def wait_master(self, not_port: int = 0, timeout_s: float = 60.0) -> RedisServer:
        """The master that all living sentinels name and that takes writes; another than `not_port`."""

        def agreed() -> bool:
            named = {sentinel.names() for sentinel in self.sentinels if sentinel.is_up} - {0}
            port = next(iter(named)) if len(named) == 1 else not_port
            server = next((each for each in self.servers if each.port == port), None)
            return port != not_port and server is not None and server.client().role()[0] == b"master"

        wait_for(agreed, "agreement on a new master", timeout_s)
        return self.master

    def wait_replicated(self, timeout_s: float = 30.0) -> None:
        """Until every replica has what the master has, and every sentinel knows of all of them."""

        def level() -> bool:
            told = self.client().info("replication")
            online = [told[f"slave{n}"] for n in range(told["connected_slaves"])]
            return len(online) == len(self.servers) - 1 and all(
                each["offset"] == told["master_repl_offset"] for each in online
            )

        wait_for(level, "replication", timeout_s)
        wait_for(
            lambda: all(s.knows(len(self.servers) - 1, len(self.sentinels) - 1) for s in self.sentinels),
            "the sentinels' knowledge of each other",
            timeout_s,
        )

    def failover(self) -> None:
        """Ask a sentinel for one; returns when it has begun."""
        wait_for(lambda: self.sentinels[0].client().sentinel_failover(self.MASTER), "a failover on request")

    def __enter__(self) -> Self:
        for server in (*self.servers, *self.sentinels):
            server.start()
        self.wait_replicated()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()


class _Sentinel(RedisServer):
    def __init__(self, master: str, port: int, program: str | None) -> None:
        super().__init__(program=program)
        self.master = master
        path = self.directory / "sentinel.conf"
        path.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {master} 127.0.0.1 {port} 2\n"
            f"sentinel down-after-milliseconds {master} 600\n"
            f"sentinel failover-timeout {master} 6000\n"
        )
        self.config = path

    def start(self, *, wait: bool = True) -> Self:
        self._launch([self.program, str(self.config), "--sentinel"])
        if wait:
            self.wait_ready()
        return self

    def names(self) -> int:
        """The port of the master that it names; 0 when it does not answer."""
        with contextlib.suppress(redis_py.RedisError, OSError):
            found: Any = self.client().sentinel_get_master_addr_by_name(self.master)
            return int(found[1]) if found else 0
        return 0

    def knows(self, replicas: int, others: int) -> bool:
        """Whether it has found so many replicas and other sentinels."""
        told: Any = self.client().sentinel_master(self.master)
        return bool(told["num-slaves"] >= replicas and told["num-other-sentinels"] >= others)


class RedisCluster:
    """Masters with a replica each that takes over within two seconds or so of its master's death."""

    def __init__(self, *, masters: int = 3, replicas: int = 3, program: str | None = None) -> None:
        options = (
            "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000",
            "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
            "--repl-ping-replica-period", "1",
        )  # fmt: skip
        self.servers = [
            RedisServer(*options, port=free_port_of_a_cluster(), program=program)
            for _ in range(masters + replicas)
        ]
        self.masters = masters

    @property
    def url(self) -> str:
        named = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])
        return f"redis+cluster://{named}"

    def owner(self, key: str, ask: RedisServer | None = None) -> RedisServer:
        """The server in whose slot a key lies, as a living node sees it."""
        from redis.crc import key_slot

        slot = key_slot(key.encode())
        for server in [ask] if ask is not None else self.servers:
            with contextlib.suppress(redis_py.RedisError, OSError):
                for row in _slots(server):
                    if row[0] <= slot <= row[1]:
                        return next(each for each in self.servers if each.port == row[2][1])
        raise LookupError(f"nobody owns slot {slot}")

    def client(self, key: str = "{gw}:epoch") -> redis_py.Redis:
        """A client of the server that owns a key."""
        return self.owner(key).client()

    def wait_owner(self, key: str, not_port: int, timeout_s: float = 60.0) -> RedisServer:
        """The owner of a key on which all living nodes agree, once it is another than `not_port`."""

        def agreed() -> bool:
            owners = set()
            for server in self.servers:
                with contextlib.suppress(redis_py.RedisError, OSError):
                    if server.client().cluster("info")["cluster_state"] == "ok":
                        owners.add(self.owner(key, server).port)
            return len(owners) == 1 and not_port not in owners

        wait_for(agreed, "a new owner", timeout_s)
        return self.owner(key)

    def flushall(self) -> None:
        """Empty every node."""
        for server in self.servers:
            with contextlib.suppress(redis_py.exceptions.ReadOnlyError):
                server.client().flushall()

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        for n, one in enumerate(self.servers):
            for other in self.servers[n + 1 :]:
                one.say("CLUSTER", "MEET", "127.0.0.1", other.port)
        shares = [16384 * n // self.masters for n in range(self.masters + 1)]
        for server, begin, end in zip(self.servers, shares, shares[1:], strict=False):
            server.say("CLUSTER", "ADDSLOTS", *range(begin, end))
        wait_for(
            lambda: all(
                len(server.client().cluster("nodes")) == len(self.servers) for server in self.servers
            ),
            "every node's knowledge of the others",
        )
        ids = [_text(server.client().cluster("myid")) for server in self.servers]
        for n, replica in enumerate(self.servers[self.masters :]):
            target = ids[n % self.masters]
            wait_for(
                lambda replica=replica, target=target: replica.say(  # type: ignore[misc]
                    "CLUSTER", "REPLICATE", target
                ),
                "a replica",
            )
        self.wait_whole()
        return self

    def wait_whole(self) -> None:
        """Every node knows every replica: one that stood still for a moment is left out until it is heard of."""
        wait_for(self._is_whole, "a whole cluster")

    def _is_whole(self) -> bool:
        replicas = len(self.servers) - self.masters
        known = all(sum(len(row) - 3 for row in _slots(server)) == replicas for server in self.servers)
        linked = all(
            server.client().info("replication").get("master_link_status", "up") == "up"
            for server in self.servers[self.masters :]
        )
        ok = all(server.client().cluster("info")["cluster_state"] == "ok" for server in self.servers)
        return known and linked and ok

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.close()


def _slots(server: RedisServer) -> Sequence[Any]:
    """`CLUSTER SLOTS` as the server says it."""
    with socket.create_connection(("127.0.0.1", server.port), 2):
        pass
    client = server.client()
    client.response_callbacks.pop("CLUSTER SLOTS", None)
    return list(client.execute_command("CLUSTER SLOTS"))  # type: ignore[no-untyped-call]  # as above


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class FaultProxy:
    """Forwards bytes to a port and can delay them, hold them back or cut every connection."""

    def __init__(self, target_port: int, *, delay_s: float = 0.0) -> None:
        self.target_port = target_port
        self.delay_s = delay_s
        """How much later replies arrive than they were sent."""
        self.connections = 0
        """Accepted since the start."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Reset every connection that is open now; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink, delayed in ((reader, far_writer, False), (far_reader, writer, True)):
            task = asyncio.create_task(self._forward(source, sink, delayed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delayed: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(65536):
                if delayed and self.delay_s:
                    loop.call_later(self.delay_s, self._write, sink, data)
                else:
                    self._write(sink, data)
        except ConnectionError:
            pass
        finally:
            sink.transport.abort()
            self._writers.discard(sink)

    @staticmethod
    def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
        if not sink.transport.is_closing():
            sink.transport.write(data)
