"""What the measurements of growth and of scale drive: one gateway, agents that call tools, a provider that
answers at once, and meters of CPU, which a busy machine stretches less than anything else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import psutil
import redis as redis_py

from benchmarks.processes import ROOT, free_port
from tests.support.effort import slowness

Json = dict[str, Any]
KEY = "gk-benchmark-0123456789"
MODEL = "gpt-4o-mini"
START_S = 60.0
CONNECTIONS = 8
TEXT = (
    "The deployment failed because the health check of the payments service timed out after the last "
    "migration; roll back the index change, drain the queue and compare the two error logs before retrying. "
)

POLICY = """
version: 1
auth: {{mode: keys}}
keys:
  - {{name: bench, key: {key}, user: bench, team: speed}}
{keys}
providers:
  upstream: {{dialect: openai, base_url: "{upstream}/v1", api_key: sk-benchmark-000000000000}}
models:
  {model}: {{provider: upstream, price: {{input_usd_per_mtok: 0.15, cached_input_usd_per_mtok: 0.075,
             output_usd_per_mtok: 0.60}}}}
  other:   {{provider: upstream, price: {{input_usd_per_mtok: 0.05, output_usd_per_mtok: 0.20}}}}
default_max_output_tokens: 8192
# Limits that a million calls would reach are higher; the work is the same.
budgets:
  - {{name: run,           per: run,                limit_usd: 1000000, warn_at: 0.75, on_exceed: wrap_up}}
  - {{name: session,       per: session,            limit_usd: 1000000, warn_at: 0.75}}
  - {{name: user-day,      per: user,   window: 1d, limit_usd: 1000000, warn_at: 0.75}}
  - {{name: everyone-hour, per: global, window: 1h, limit_usd: 1000000, warn_at: 0.75}}
{budgets}
runs: {{max_steps: 1000000, max_wall_clock_s: 86400, on_exceed: wrap_up}}
loops: {{mode: shadow, same_call: 3, cycle: 3, no_progress: {{nudge: 3, wrap_up: 5}}, on_detect: wrap_up}}
rates:
  - {{name: new-runs, per: key, new_runs_per_minute: 10000000}}
screening:
  injection: {{mode: enforce, user: {{action: block}}, tool: {{action: neutralise}}}}
  pii: {{mode: enforce, entities: [CREDIT_CARD, US_SSN, EMAIL_ADDRESS, PHONE_NUMBER], action: pseudonymise}}
  secrets: {{mode: enforce, action: block}}
{more}
"""


def policy(upstream: str, *, keys: str = "", budgets: str = "", more: str = "") -> str:
    """The default policy's guards and all three detectors."""
    return POLICY.format(key=KEY, upstream=upstream, model=MODEL, keys=keys, budgets=budgets, more=more)


def text(length: int) -> str:
    """So many characters of what an incident's tools say."""
    return (TEXT * (length // len(TEXT) + 1))[:length]


# -- what is measured ----------------------------------------------------------------------------------


def cpu_ns(process: psutil.Process) -> int:
    """CPU time of a process and its children, all threads, in nanoseconds."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            for path in Path(f"/proc/{each.pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    total += int(path.read_text().split()[0])
    return total


@dataclass
class Running:
    """A gateway that serves."""

    process: psutil.Process
    port: int
    directory: Path
    started_in_s: float
    start_cpu_s: float

    @property
    def rss_mb(self) -> float:
        """Memory of its own process; the processes that screen are apart."""
        return float(self.process.memory_info().rss) / 2**20

    def calm(self, timeout_s: float = 20.0) -> tuple[int, float]:
        """Wait until it rests, so that what it writes behind counts. Its CPU then, in nanoseconds, and what
        share of a core it takes for its housekeeping."""
        deadline, before = time.monotonic() + timeout_s, cpu_ns(self.process)
        while True:
            began = time.monotonic()
            time.sleep(0.3)
            now = cpu_ns(self.process)
            idle = (now - before) / 1e9 / (time.monotonic() - began)
            if idle < 0.05 or time.monotonic() > deadline:
                return now, min(idle, 0.05)
            before = now


@contextlib.contextmanager
def serving(rules: str, **environment: str) -> Iterator[Running]:
    """`gateway serve` with this policy. Raises `RuntimeError` with its log when it does not start."""
    with tempfile.TemporaryDirectory(prefix="gateway-growth-") as name:
        directory, port = Path(name), free_port()
        (directory / "policy.yaml").write_text(rules)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_") and "API_KEY" not in k}
        settings = {
            # With any provider's key set, the built-in simulated provider is not started.
            "OPENAI_API_KEY": "not-used",
            "GATEWAY_POLICY": str(directory / "policy.yaml"),
            "GATEWAY_PORT": str(port),
            "GATEWAY_DATA_DIR": str(directory / "data"),
            "GATEWAY_ADMIN_TOKEN": "benchmark-admin-token-0123456789",
            "GATEWAY_SECRET_KEY": "benchmark-secret-key-0123456789",
            "GATEWAY_LOG_LEVEL": "warning",
            "GATEWAY_SCREENING_PROCESSES": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH")))),
        }
        log = directory / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                cwd=directory,
                env={**kept, **settings, **environment},
                stdout=out,
                stderr=out,
            )
        began = time.monotonic()
        try:
            while not _ready(port):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    raise RuntimeError(f"the gateway did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.02)
            watched = psutil.Process(process.pid)
            took, cpu = time.monotonic() - began, cpu_ns(watched) / 1e9
            yield Running(watched, port, directory, took, cpu)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@dataclass(frozen=True)
class Redis:
    """A server of its own."""

    url: str
    client: redis_py.Redis
    process: psutil.Process


@contextlib.contextmanager
def redis_server() -> Iterator[Redis]:
    """Raises `RuntimeError` where there is none."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise RuntimeError("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gateway-growth-redis-") as directory:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = redis_py.Redis(port=port)
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis_py.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield Redis(f"redis://127.0.0.1:{port}/0", client, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(10)


# -- the provider --------------------------------------------------------------------------------------

STREAM_GAP_S = 5.0
"""Between the pieces of a stream that is only there to be open."""


class Provider(asyncio.Protocol):
    """Answers each call that offers tools with a tool call of its own id, every other with a text, and what
    streams with a piece now and then, for ever."""

    numbers = itertools.count(1)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection of the gateway's."""
        # uvloop's transport is one in all but its class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(self._buffer) < head + 4 + length:
            return
        body = bytes(self._buffer[head + 4 :])
        self._buffer.clear()
        if b'"stream":true' in body or b'"stream": true' in body:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            # More than is held back to be screened, so that something comes through at once.
            self._piece(text(1_000))
            return
        number = next(self.numbers)
        message: Json = {"role": "assistant", "content": text(280), "refusal": None}
        if b'"tools":[{' in body:
            function = {"name": "read_file", "arguments": f'{{"path": "services/module_{number}.py"}}'}
            calls = [{"id": f"call_{number:024d}", "type": "function", "function": function}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        finish = "tool_calls" if "tool_calls" in message else "stop"
        answer = orjson.dumps(
            {
                "id": f"chatcmpl-{number:028d}",
                "object": "chat.completion",
                "created": 1_763_000_000,
                "model": "gpt-4o-mini-2024-07-18",
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
                "usage": {"prompt_tokens": 92, "completion_tokens": 46, "total_tokens": 138},
            }
        )
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(answer), answer)
        )

    def _piece(self, content: str = "word ") -> None:
        if self._transport.is_closing():
            return
        chunk = {
            "id": "chatcmpl-stream",
            "object": "chat.completion.chunk",
            "created": 1_763_000_000,
            "model": MODEL,
            "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}],
        }
        piece = b"data: %b\n\n" % orjson.dumps(chunk)
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        asyncio.get_running_loop().call_later(STREAM_GAP_S, self._piece)


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[str]:
    """Its address."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=4096)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


# -- callers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """CPU of one call, in microseconds."""

    gateway_us: float
    redis_us: float = 0.0


class Connection(asyncio.Protocol):
    """Kept alive; one call at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done: asyncio.Future[Json] | None = None
        self.seconds = 0.0
        self.streams = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._done is None or self._done.done():
            return
        good = self._buffer.startswith(b"HTTP/1.1 200")
        if self.streams and good:
            if b"data: " in self._buffer:
                self._done.set_result({})
            return
        lower = bytes(self._buffer[:head]).lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(self._buffer) >= head + 4 + length:
            if not good:
                self._done.set_exception(RuntimeError(bytes(self._buffer[:2000]).decode("latin-1")))
                return
            self.seconds = time.perf_counter() - self._sent
            answer = orjson.loads(self._buffer[head + 4 :])
            self._buffer.clear()
            self._done.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was closed."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError())

    async def call(self, body: bytes, key: str = KEY) -> Json:
        """The answer; of a stream its first piece. On a busy machine the gateway may ask to come again.
        Raises `RuntimeError` for anything else but 200."""
        for _ in range(20):
            try:
                return await self._once(body, key)
            except RuntimeError as error:
                if " 503 " not in str(error).partition("\r\n")[0]:
                    raise
                self._buffer.clear()
                await asyncio.sleep(0.5)
        raise RuntimeError("the gateway is too busy to be measured")

    async def _once(self, body: bytes, key: str) -> Json:
        self._done = asyncio.get_running_loop().create_future()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._sent = time.perf_counter()
        self._transport.write(head.encode() + body)
        return await self._done

    def close(self) -> None:
        """Leave."""
        self._transport.close()


@dataclass(frozen=True)
class Callers:
    """What is sent to one gateway, over a few connections at once."""

    running: Running
    redis: Redis | None = None

    async def connect(self) -> Connection:
        """One more."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, "127.0.0.1", self.running.port)
        return made

    async def each(self, calls: Iterable[Call]) -> None:
        """Make the calls, `CONNECTIONS` at once."""
        pending = deque(calls)

        async def work() -> None:
            # Each time anew: the gateway closes a connection that was idle for some seconds.
            connection = await self.connect()
            while pending:
                await pending.popleft()(connection)
            connection.close()

        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))

    async def cost(self, calls: Sequence[Call]) -> Cost:
        """What one of the calls costs, the ledger's writing included."""
        slow = slowness()
        (before, idle), there, began = self.running.calm(), self._redis_us(), time.monotonic()
        await self.each(calls)
        after, _ = self.running.calm()
        kept_house_us = idle * (time.monotonic() - began) * 1e6
        slow = (slow + slowness()) / 2 * len(calls)
        return Cost(((after - before) / 1000 - kept_house_us) / slow, (self._redis_us() - there) / slow)

    async def least(self, make: Callable[[], Sequence[Call]], times: int) -> Cost:
        """The cheapest of several such bursts: what the machine does beside only ever adds."""
        costs = [await self.cost(make()) for _ in range(times)]
        return Cost(min(c.gateway_us for c in costs), min(c.redis_us for c in costs))

    def cpu(self) -> float:
        """Of the gateway until now, in microseconds."""
        return cpu_ns(self.running.process) / 1000

    def _redis_us(self) -> float:
        if self.redis is None:
            return 0.0
        found: Any = self.redis.client.info("cpu")
        return float(found["used_cpu_user"] + found["used_cpu_sys"]) * 1e6


Call = Callable[[Connection], Awaitable[object]]
_serials = itertools.count(time.time_ns() % 10**9 * 1000)


def small(words: int = 300) -> bytes:
    """A question that nobody has asked before; it opens a run."""
    messages = [
        {"role": "system", "content": text(180)},
        {"role": "user", "content": f"Incident {next(_serials)}: {text(words)}"},
    ]
    return orjson.dumps({"model": MODEL, "messages": messages, "max_tokens": 200})


def tools(count: int) -> list[Json]:
    """Definitions of 700 bytes each, `read_file` the first."""
    parameters: Json = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": text(80)},
            "pattern": {"type": "string", "description": text(80)},
            "limit": {"type": "integer", "minimum": 1},
        },
        "required": ["path"],
    }
    names = ["read_file", *(f"tool_{number}" for number in range(1, count))][:count]
    return [
        {"type": "function", "function": {"name": n, "description": text(300), "parameters": parameters}}
        for n in names
    ]


class Agent:
    """One run: each step's answer is a tool call, whose result is the next step's news."""

    def __init__(self, offered: int = 6, result: Callable[[int], str] | None = None, key: str = KEY) -> None:
        self._tools = tools(offered)
        self._key = key
        self._result = result or (lambda number: f"Result {number} of {next(_serials)}: {text(1200)}")
        self.steps = 0
        self.messages: list[Json] = [
            {"role": "system", "content": text(1_000)},
            {"role": "user", "content": f"Incident {next(_serials)}: {text(300)}"},
        ]

    @property
    def body(self) -> bytes:
        """The next request."""
        offered: Json = {"tools": self._tools} if self._tools else {}
        return orjson.dumps({"model": MODEL, "messages": self.messages, "max_tokens": 1_000, **offered})

    async def step(self, connection: Connection) -> None:
        """One step."""
        answer = await connection.call(self.body, self._key)
        message = answer["choices"][0]["message"]
        self.steps += 1
        self.messages.append(message)
        for call in message.get("tool_calls") or ():
            result = {"role": "tool", "tool_call_id": call["id"], "content": self._result(self.steps)}
            self.messages.append(result)


def more_files() -> None:
    """Two thousand streams are some thousand descriptors here, and as many in what is started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
