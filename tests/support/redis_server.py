"""A real redis-server process for tests, and a TCP proxy that can make its network bad."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

REDIS_SERVER = shutil.which("redis-server")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One redis-server on a free port with its data in a directory of its own. Nothing is saved to disk
    unless `options` say so."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        if REDIS_SERVER is None:
            raise RuntimeError("redis-server is not installed; `make test` sets it up")
        self.port = port or free_port()
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, wait: bool = True) -> Self:
        """Start it, with the options it was made with; return when it answers, unless told not to wait."""
        assert REDIS_SERVER is not None
        command = [
            REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--appendonly", "no", "--loglevel", "warning", *self.options,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait_ready()
        return self

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
