"""Runs the gateway's processes: listens, serves, and stops in an order that cuts nobody off without a word.

On a stop no new connection is taken, streams may finish for `drain_s` seconds, and those that are left then
end with an error event. The process is gone one second later at the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from gateway.settings import Settings, SettingsError
from gateway.telemetry.exposition import clear_group
from gateway.web.exchange import config as server_config

if TYPE_CHECKING:
    from gateway.app import App

GRACE_S = 0.6
"""For the error events of the streams that were stopped to go out."""
BACKLOG = 2048
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that writes the ledger may keep the event loop waiting; Python's own 5 ms are what a
caller would feel."""
GC_THRESHOLDS = (10_000, 5, 1_000_000)


class DrainingServer(uvicorn.Server):
    """A server whose streams end with an error event when they outlast the drain."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        await super().startup(sockets)
        # What stands now stands for good: the garbage collector need not walk over it again and again, nor
        # look so often at the small values that every step leaves behind. Runs live for hours: a collection
        # of everything would walk over all of them, and is left to the housekeeping.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, wait for what is in flight, end the rest, close the application."""
        app: App = self.config.loaded_app
        worker = app.worker
        # Readers of the event stream would wait for ever.
        worker.notify("shutdown", {})
        watch = asyncio.create_task(self._stop_streams(app))
        try:
            await super().shutdown(sockets)
        finally:
            watch.cancel()
        # The stop was asked for and is done: the process ends with 0 and not by the signal.
        self._captured_signals.clear()

    @staticmethod
    async def _stop_streams(app: App) -> None:
        await asyncio.sleep(app.settings.drain_s)
        app.worker.stop_streams()


class DrainingProcess(multiprocess.Process):
    """One of several worker processes."""

    @property
    def server(self) -> uvicorn.Server:
        """The server of this process."""
        if self._server is None:
            self._server = DrainingServer(self.config)
        return self._server


def serve(settings: Settings, listening: Callable[[str], None]) -> int:
    """Serve until a signal; the exit status. `listening` is told the URL when the port is taken.

    The application reads its settings from the environment of its process, which has to say the same as
    `settings`. Raises `SettingsError` when the address cannot be listened on.
    """
    listener = listen(settings.host, settings.port)
    config = _config(settings)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if settings.workers > 1:
        listening(url)
        return _serve_many(config, listener, settings.data_dir)
    server = DrainingServer(config, lambda: listening(url))
    # uvicorn leaves by SystemExit when the application cannot start; the log has said why.
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run([listener])
    return 0 if server.started else 1


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
        timeout_graceful_shutdown=settings.drain_s + GRACE_S,
    )


def _serve_many(config: uvicorn.Config, listener: socket.socket, data_dir: Path) -> int:
    clear_group(data_dir)
    # The supervisor makes its processes by this name, and they have to drain too.
    processes: Any = multiprocess
    processes.Process = DrainingProcess
    supervisor = multiprocess.Multiprocess(config, [listener])
    supervisor.run()
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    sys.stdout.flush()
    return 1 if failed else 0
