"""Runs the gateway's processes: listens, serves, and stops in an order that cuts nobody off without a word.

A stop goes like this: `/readyz` says 503 and everything is served on for `drain_delay_s`; then no new
connection is taken, each answer says that its connection is closed, and idle ones are closed when nobody used
them for as long as they would have been kept anyway; streams may finish for `drain_s` seconds, and those that
are left end with an error event. The process is gone a second later at the most. Asked a second time, it cuts
the drain short; a third time, it leaves at once and the journal settles what was open.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway import memory
from gateway.settings import Settings, SettingsError, from_environment
from gateway.supervisor import BEAT_S, HURRY, ORPHANED, STARTUP_FAILURE, STOP, Patience, Supervisor, Tether
from gateway.telemetry import logs
from gateway.telemetry.exposition import clear_group
from gateway.web.exchange import config as server_config

if TYPE_CHECKING:
    from gateway.app import App

log = logging.getLogger("gateway.serving")

GRACE_S = 0.6
"""For the error events of the streams that were stopped to go out."""
LINGER_S = 5.0
"""How long a connection that nobody uses stays open after a stop: what uvicorn keeps one anyway, so that a
client is not more likely than at any other time to send a request just as its connection is closed."""
CLOSING_S = 15.0
"""For the last settlements and the ledger after the drain, before a supervisor kills the process."""
BACKLOG = 2048
MAX_FILES = 65_536
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that writes the ledger may keep the event loop waiting; Python's own 5 ms are what a
caller would feel."""
GC_THRESHOLDS = (10_000, 5, 1_000_000)
_POLL_S = 0.05


class DrainingServer(uvicorn.Server):
    """A server whose streams end with an error event when they outlast the drain."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        on_started: Callable[[], None] = lambda: None,
        tether: Tether | None = None,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._on_started = on_started
        self._tether = tether
        self._asked = 0
        self._announces = True
        self._lingers = True
        self._hurries = False

    # -- what it is told ----------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. The process then ends with 0: the stop was asked for and is done."""
        if self._tether is not None:
            # The whole group may have been sent it, the supervisor too, and its word follows.
            self.should_exit = self.should_exit or sig == signal.SIGTERM
            return
        self._asked += 1
        self.should_exit = True
        if sig == signal.SIGINT:
            self._announces = self._lingers = False
        self._hurries = self._asked > 1
        self.force_exit = self._asked > 2

    def _told(self, word: bytes) -> None:
        """A supervisor's word, in a thread of its own."""
        if word == HURRY:
            self._hurries = True
        elif word != STOP:
            # Others serve on: nobody has to look elsewhere.
            self._announces = False
        if word == ORPHANED and self.started:
            log.error("the supervisor is gone: this worker ends")
        self.should_exit = True

    # -- its life -----------------------------------------------------------------------------------

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told otherwise."""
        beats = asyncio.create_task(self._beat())
        try:
            await super().serve(sockets)
        finally:
            beats.cancel()

    async def _beat(self) -> None:
        while self._tether is not None:
            self._tether.beat()
            await asyncio.sleep(BEAT_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        await super().startup(sockets)
        # What stands now stands for good: the garbage collector need not walk over it again and again, nor
        # look so often at the small values that every step leaves behind. Runs live for hours: a collection
        # of everything would walk over all of them, and is left to the housekeeping.
        memory.tidy()
        gc.freeze()
        gc.enable()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so, stop listening, wait for what is in flight, end the rest, close the application."""
        app: App = self.config.loaded_app
        app.worker.stopping = True
        if self._announces:
            await self._serve_on(self._settings.drain_delay_s)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        # Readers of the event stream would wait for ever.
        app.worker.notify("shutdown", {})
        await self._drain(app)
        for task in self.server_state.tasks:
            task.cancel(msg="the drain is over")
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _serve_on(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        # A signal's handler or a thread sets the flag, as uvicorn's own are.
        while time.monotonic() < until and not self._hurries:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def _drain(self, app: App) -> None:
        """Until every connection is closed, or the time is over."""
        state, began = self.server_state, time.monotonic()
        ends, over = began + self._settings.drain_s, float("inf")
        date = formatdate(time.time(), usegmt=True).encode()
        state.default_headers = [(b"date", date), (b"connection", b"close")]
        while (state.connections or state.tasks) and not self.force_exit:
            now = time.monotonic()
            lingers = self._lingers and not self._hurries
            for connection in list(state.connections):
                if not lingers or _is_told(connection, idle=now >= began + LINGER_S):
                    connection.shutdown()
            if over == float("inf") and (now >= ends or self._hurries):
                app.worker.stop_streams()
                over = now + GRACE_S
            if now >= over:
                return
            await asyncio.sleep(_POLL_S)


def _is_told(connection: Any, *, idle: bool) -> bool:
    """Whether a client will know that its connection is closed: at once, or after the answer under way.

    It cannot know where its next request may be on its way already, nor where a stream began before the
    stop. Those are served once more, or end by themselves when nobody has used them for `LINGER_S`. One on
    which nothing was ever sent has no such end; `idle` says when it may go.
    """
    cycle = getattr(connection, "cycle", None)
    return idle if cycle is None else not cycle.response_started


def serve(settings: Settings, listening: Callable[[str], None]) -> int:
    """Serve until a signal; the exit status. `listening` is told the URL when the port is taken.

    The application reads its settings from the environment of its process, which has to say the same as
    `settings`. Raises `SettingsError` when the address cannot be listened on.
    """
    allow_files()
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if settings.workers > 1:
        listening(url)
        return _supervise(settings, listener)
    server = DrainingServer(_config(settings), settings, lambda: listening(url))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # The terminal is gone, which is no reason to break off what is in flight.
        signal.signal(signal.SIGHUP, server.handle_exit)
    # uvicorn leaves by SystemExit when the application cannot start; the log has said why.
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        _run(server, listener)
    return 0 if server.started else 1


def allow_files() -> None:
    """Raise this process's own limit of open files as far as it may: a stream takes two, and the usual 1,024
    would end at five hundred."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises `SettingsError` with the reason."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"--host {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or stop what is there."
        ) from None
    listener.set_inheritable(True)
    return listener


def _config(settings: Settings) -> uvicorn.Config:
    return server_config(
        "gateway.app:create_app",
        factory=True,
        loop="uvloop",
        workers=settings.workers,
        backlog=BACKLOG,
        log_config=None,
    )


def _supervise(settings: Settings, listener: socket.socket) -> int:
    logs.configure(settings.log_level, settings.log_format, settings.environment)
    clear_group(settings.data_dir)
    stop_s = settings.drain_delay_s + settings.drain_s + GRACE_S + CLOSING_S
    patience = Patience(silent_s=settings.worker_timeout_s, stop_s=stop_s, hurry_s=GRACE_S + CLOSING_S)
    status = Supervisor(run_worker, listener, settings.workers, patience).run()
    sys.stdout.flush()
    return status


def run_worker(tether: Tether, listener: socket.socket) -> None:
    """Serve as one of several processes, until the supervisor says so or is gone."""
    # A terminal's Ctrl-C reaches every process; the supervisor decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings = from_environment()
    except SettingsError as error:
        log.error("%s", error)
        sys.exit(STARTUP_FAILURE)
    server = DrainingServer(_config(settings), settings, tether.ready, tether)
    tether.listen(server._told, settings.drain_s + GRACE_S + CLOSING_S)
    _run(server, listener)


def _run(server: DrainingServer, listener: socket.socket) -> None:
    """Serve. What is made until it has started stays: the garbage collector, which would go through all of it
    again and again, is off for so long."""
    gc.disable()
    try:
        server.run([listener])
    finally:
        gc.enable()
