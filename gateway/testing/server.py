"""The simulated provider as a server: its life, its connections, its scripts.

`ProviderServer` runs in the caller's event loop, `running_provider` in a thread of its own, and
`python -m gateway.testing` in a process of its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import uvloop

from gateway.testing import control
from gateway.testing.answering import Answering, Exchange
from gateway.testing.background import Background
from gateway.testing.delivery import Delivery
from gateway.testing.generate import Generator
from gateway.testing.journal import Attempt, Journal, now_ms
from gateway.testing.library import Library
from gateway.testing.script import Reply, Script
from gateway.testing.tokens import Counting, tokens_for
from gateway.testing.wire import Connection, Reading, Request

ATTEMPT_HEADER = b"x-guardrail-attempt-id"

_POLL_S = 0.001
_BACKLOG = 4_096

T = TypeVar("T")


class ProviderServer:
    """A real HTTP server that plays scripted models and keeps a journal.

    A request's script is, first that fits: the scenario named in its `x-sim-scenario` header; the one its
    route is mapped to; the one its model is mapped to; for a model `sim/<name>`, the one of that name; for
    any other model, `default`. Scripts set here hide the models of the catalogue that have the same name.
    What is free (counting, moderation, fetching and removing what is kept) plays a script only by header or
    route: its faults, on the usual answer.
    """

    def __init__(
        self,
        *,
        default: str | None = "echo",
        counting: Counting = "exact",
        journal: Journal | None = None,
        api_keys: Collection[str] | None = None,
        seed: int | None = None,
        strict: bool | None = None,
    ) -> None:
        """`default=None` answers unknown models 404; `api_keys=None` takes any key, or none. `strict` is
        `Reply.strict` for all that leave it open."""
        self.journal = Journal() if journal is None else journal
        self._library = Library(default)
        self._control = control.Control(self, self._library)
        self._generator = Generator(tokens_for(counting), random.Random(seed))
        self._id = self._generator.new_id("", 8)
        self._answering = Answering(
            self._library, self._generator, self._id, self._start_background, api_keys, strict
        )
        self._backgrounds: dict[int, Background] = {}
        self._reading = Reading()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._attempts = 0
        self.host = ""
        self.port = 0

    # Life.

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one. Raises: `OSError` if the address is taken."""
        # The tokenizer is loaded here, so that it does not delay the first answer.
        self._generator.tokens.count("warm")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self.handle, self._connections, self._reading),
            host,
            port,
            backlog=_BACKLOG,
        )
        self.host, self.port = self._server.sockets[0].getsockname()[:2]
        return self

    async def stop(self) -> None:
        """Stop listening, drop open connections, end what is under way."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start() if self._server is None else self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def origin(self) -> str:
        """`http://host:port`, which is also the base URL of Azure clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`: the origin and `/v1`. Anthropic's take the origin."""
        return f"{self.origin}/v1"

    @property
    def open_connections(self) -> int:
        """Connections that clients hold open now."""
        return len(self._connections)

    @property
    def read_bytes_per_s(self) -> int | None:
        """How fast request bodies are read; `None` is as fast as they come. A request can ask for its own
        rate with the header `x-sim-read-bytes-per-s`."""
        return self._reading.bytes_per_s

    @read_bytes_per_s.setter
    def read_bytes_per_s(self, rate: int | None) -> None:
        if rate is not None and rate < 1:
            raise ValueError(f"read_bytes_per_s: got {rate}, expected 1 or more, or None")
        self._reading.bytes_per_s = rate

    @property
    def arriving_bytes(self) -> int:
        """Body bytes read of requests that have not arrived whole yet."""
        return sum(connection.arriving_bytes for connection in list(self._connections))

    async def wait_idle(self, *, received: int = 0, timeout_s: float = 10.0) -> None:
        """Wait until every attempt is finished and at least `received` have come since the start.

        Works from any event loop. Raises: `TimeoutError`.
        """
        deadline = time.monotonic() + timeout_s
        # Polled, not signalled: the waiting loop need not be the one that serves.
        while not self._idle(received, deadline):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    def wait_idle_blocking(self, *, received: int = 0, timeout_s: float = 10.0) -> None:
        """`wait_idle` for code without an event loop; not for the loop that runs the server."""
        deadline = time.monotonic() + timeout_s
        while not self._idle(received, deadline):
            time.sleep(_POLL_S)

    def _idle(self, received: int, deadline: float) -> bool:
        if self.journal.active == 0 and self.journal.received >= received:
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the simulated provider is busy with {self.journal.active} attempts and has received "
                f"{self.journal.received} of {received}"
            )
        return False

    # Scripts.

    def script(
        self,
        name: str,
        script: Script | Sequence[Reply] | Reply,
        *,
        models: Sequence[str] = (),
        routes: Sequence[str] = (),
    ) -> None:
        """Set what `sim/<name>`, the given models and the given routes answer. A list is a dialogue by
        assistant turns. A route is a method and a path, such as `GET /v1/responses/{id}`.

        Raises: `ScriptError` for an empty one, or an unknown route.
        """
        self._library.put(name, script, models, routes)

    def map_model(self, model: str, name: str) -> None:
        """Let a model answer with that scenario, scripted or of the catalogue. Raises: `ScriptError`."""
        self._library.map_model(model, name)

    def forget_scripts(self) -> None:
        """Back to the catalogue alone, and to reading at full speed. What is kept stays kept."""
        self._library.clear()
        self.read_bytes_per_s = None

    # Requests.

    def handle(self, connection: Connection, request: Request) -> None:
        """Start to answer one request; what connections call."""
        path, _, query = request.target.partition("?")
        if path.startswith(control.PATH):
            self._control.answer(connection, request, path.removeprefix(control.PATH), query)
            return
        self._attempts += 1
        attempt_id = request.headers.get(ATTEMPT_HEADER)
        attempt = Attempt(
            number=self._attempts,
            id=f"req_sim_{self._id}{self._attempts}",
            received_at=now_ms(),
            method=request.method,
            path=request.target,
            raw_headers=request.raw_headers,
            body=request.body,
            guardrail_attempt_id=None if attempt_id is None else attempt_id.decode("latin-1"),
        )
        self.journal.begin(attempt)
        delivery = self._answering.delivery(Exchange(connection, request, attempt), path, query)
        if delivery.at_once:
            delivery.instant()
            self._answered(attempt)
            return
        self._start_task(self._deliver(delivery))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await delivery.run()
        except Exception:
            delivery.connection.abort()
            raise
        finally:
            delivery.connection.on_gone = None
            self._answered(delivery.attempt)

    def _answered(self, attempt: Attempt) -> None:
        """The reply is out; unless something is still generated for the attempt, it is over."""
        background = self._backgrounds.get(attempt.number)
        if background is None:
            self.journal.finish(attempt)
        else:
            background.delivered.set()

    def _start_background(self, background: Background) -> None:
        self._backgrounds[background.attempt.number] = background
        self._start_task(self._generate(background))

    async def _generate(self, background: Background) -> None:
        try:
            await background.run()
            await background.delivered.wait()
        finally:
            del self._backgrounds[background.attempt.number]
            self.journal.finish(background.attempt)


@contextmanager
def running_provider(*, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[ProviderServer]:
    """A provider in a thread with its own event loop, for code without one.

    `options` are those of `ProviderServer`. Scripts and journal may be used from the calling thread.
    """
    server = ProviderServer(**options)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulated-provider", daemon=True)
    thread.start()

    def call(work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    try:
        call(lambda: server.start(host, port))
        yield server
    finally:
        call(server.stop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
