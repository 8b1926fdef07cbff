"""The load: `wrk` with as many requests as fit, and our own client at a fixed rate for latency."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.bodies import SERIAL
from benchmarks.processes import KEY, Target

WRK = shutil.which("wrk")
PATH = "/v1/chat/completions"

_LUA = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
wrk.headers["user-agent"] = "OpenAI/Python 2.8.0"
wrk.headers["accept"] = "application/json"
local file = io.open("{body}", "rb")
local body = file:read("*a")
file:close()
local first, last = body:find("{serial}", 1, true)
local before, after = body:sub(1, first - 1), body:sub(last + 1)
local number = (os.time() % 1000000) * 10000
request = function()
  number = number + 1
  return wrk.format(nil, nil, nil, before .. string.format("%010d", number) .. after)
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """One burst of load. `cpu_us` is CPU of the measured process per request, None for direct calls."""

    requests: int
    seconds: float
    cpu_us: float | None

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


def script(directory: Path, name: str, body: bytes) -> Path:
    """The Lua script that posts `body`."""
    path = directory / f"{name}.json"
    path.write_bytes(body)
    lua = directory / f"{name}.lua"
    lua.write_text(_LUA.format(key=KEY, body=path, serial=SERIAL.decode()))
    return lua


def burst(target: Target, lua: Path, *, seconds: int, connections: int, core: int) -> Throughput:
    """Load one target with `wrk`. Raises `RuntimeError` when more than one in a hundred requests failed.

    The CPU is read when the process has come to rest, so that what a gateway leaves for later (its ledger)
    counts, and burdens nobody else's turn.
    """
    if WRK is None:
        raise RuntimeError("wrk is not installed (apt-get install wrk)")
    url = f"http://127.0.0.1:{target.port}{PATH}"
    command = [WRK, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(lua), url]
    before = target.program.cpu_s() if target.program is not None else 0.0
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    found = re.search(r"^RESULT (\d+) (\d+) (\d+)$", ran.stdout, re.M)
    if found is None:
        raise RuntimeError(f"wrk said nothing usable:\n{ran.stdout}\n{ran.stderr}")
    requests, duration_us, errors = map(int, found.groups())
    if not requests or errors > requests / 100:
        raise RuntimeError(f"{target.name}: {errors} of {requests} requests failed")
    cpu = None
    if target.program is not None:
        target.program.wait_calm()
        cpu = (target.program.cpu_s() - before) / requests * 1e6
    return Throughput(requests, duration_us / 1e6, cpu)


class _Client(asyncio.Protocol):
    """One kept-alive connection: a request out, the time until its answer is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one in all but its class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._done is None:
            return
        lower = bytes(self._buffer[:head]).lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(self._buffer) >= head + 4 + length:
            now = time.perf_counter()
            done, self._done = self._done, None
            if self._buffer.startswith(b"HTTP/1.1 200"):
                done.set_result(now - self._sent)
            else:
                done.set_exception(RuntimeError(bytes(self._buffer[:2000]).decode("latin-1")))
            self._buffer.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None:
            self._done.set_exception(exc or ConnectionResetError())

    async def exchange(self, request: bytes) -> float:
        """Send and wait; seconds."""
        self._done = asyncio.get_running_loop().create_future()
        self._sent = time.perf_counter()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        self._transport.close()


async def _at_rate(port: int, body: bytes, rate: float, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\nuser-agent: OpenAI/Python 2.8.0\r\naccept: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    numbers = itertools.count(time.time_ns() % 10**9)
    idle: list[_Client] = []
    latencies: list[float] = []

    async def one() -> None:
        if idle:
            client = idle.pop()
        else:
            _, client = await loop.create_connection(_Client, "127.0.0.1", port)
        latencies.append(await client.exchange(head + body.replace(SERIAL, b"%010d" % next(numbers))))
        idle.append(client)

    started = loop.time()
    tasks: list[asyncio.Task[None]] = []
    for i in range(round(rate * seconds)):
        # The schedule does not wait for answers: a slow one delays none that come after it.
        await asyncio.sleep(max(0.0, started + i / rate - loop.time()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return latencies


def latencies_at(target: Target, body: bytes, *, rate: float, seconds: float) -> list[float]:
    """Seconds of each request when `rate` of them are sent per second, whatever the answers do.

    Runs in this process, which the caller has pinned to the core of the load.
    """
    return uvloop.run(_at_rate(target.port, body, rate, seconds))
