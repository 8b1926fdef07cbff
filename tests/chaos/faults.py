"""Networks and Redis servers as they fail: a proxy that loses what is published, one that answers with errors."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar

from tests.support.redis_server import FaultProxy

P = TypeVar("P", bound=AbstractAsyncContextManager[Any])


@contextlib.contextmanager
def beside(proxy: P) -> Iterator[P]:
    """Run a proxy in a loop and a thread of its own, so that a busy test does not slow it down."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def enter() -> None:
        await proxy.__aenter__()

    async def leave() -> None:
        await proxy.__aexit__(None, None, None)

    asyncio.run_coroutine_threadsafe(enter(), loop).result(10)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(leave(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class DeafProxy(FaultProxy):
    """Loses every message that Redis publishes, as a network does that drops a connection's quiet half;
    commands and their answers pass."""

    deaf = True
    lost = 0
    """Messages that nobody got."""

    def _write(self, sink: asyncio.StreamWriter, data: bytes) -> None:  # type: ignore[override]
        if self.deaf and b"\r\nmessage\r\n" in data:
            self.lost += 1
            return
        super()._write(sink, data)


ERRORS: dict[str, bytes] = {
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "NOPERM": b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n",
    "BUSY": b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    "MISCONF": b"-MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}
"""What a server may answer to every command instead of what was asked for."""
NO_ANSWER = b""
REFUSED = b"refused"


def frame_end(data: bytes, start: int = 0) -> int:
    """Where the RESP value that begins there ends; -1 while it is not whole."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return -1
    kind, rest = data[start : start + 1], data[start + 1 : line]
    end = line + 2
    if kind in (b"$", b"=", b"!"):
        size = int(rest)
        end = end if size < 0 else end + size + 2
        return end if end <= len(data) else -1
    if kind in (b"*", b"~", b">", b"%"):
        for _ in range(max(0, int(rest)) * (2 if kind == b"%" else 1)):
            end = frame_end(data, end)
            if end < 0:
                return -1
    return end


class FalseRedis:
    """A RESP server before a real one: passes each command on, one after another, unless told what to answer
    to all of them instead."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.says: bytes | None = None
        """The answer to every command; `None` for Redis' own. `REFUSED` breaks connections; `NO_ANSWER` is silence
        on the connection for good, since a server leaves out no command and then goes on."""
        self.answered = 0
        """Commands that were answered so."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
            waiting = b""
            while self.says != REFUSED and (data := await reader.read(65536)):
                waiting += data
                while (end := frame_end(waiting)) > 0:
                    command, waiting = waiting[:end], waiting[end:]
                    if b"SUBSCRIBE" in command[:40].upper() and self.says is None:
                        far.write(command + waiting)
                        await self._both_ways(reader, writer, far_reader, far)
                        return
                    await self._answer(command, writer, far_reader, far)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in (writer, far):
                if each is not None:
                    each.transport.abort()

    async def _answer(
        self,
        command: bytes,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
    ) -> None:
        said = self.says
        if said is not None:
            self.answered += 1
            if said == REFUSED:
                raise ConnectionError
            if said == NO_ANSWER:
                await asyncio.Event().wait()
            writer.write(said)
            return
        far.write(command)
        reply = b""
        while frame_end(reply) < 0:
            more = await far_reader.read(65536)
            if not more:
                raise ConnectionError
            reply += more
        writer.write(reply)

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
    ) -> None:
        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(pass_on(reader, far)),
                group.create_task(pass_on(far_reader, writer)),
                group.create_task(self._until_spoilt()),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _until_spoilt(self) -> None:
        while self.says is None:
            await asyncio.sleep(0.02)
