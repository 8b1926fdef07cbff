"""Scanning outside of the event loop: a few processes, each with one task at a time and a deadline.

A task that overruns its deadline takes its process with it, and another is started: whatever a text does to a
detector, it does it to one process, for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.screening.base import Channel, Finding
from gateway.screening.engine import Looks
from gateway.screening.process import FRAME

log = logging.getLogger("gateway.screening")

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_COMMAND = (sys.executable, "-m", "gateway.screening.process")


class ScanFailed(Exception):  # noqa: N818 - read as a state
    """There is no verdict: `reason` is `timeout`, `overloaded` or `crashed`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"screening: {reason}")
        self.reason = reason


class ScanPool:
    """Processes that are started when they are first needed. One pool per worker."""

    def __init__(self, size: int, command: Sequence[str] = _COMMAND) -> None:
        self._command = tuple(command)
        self._free: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        for _ in range(size):
            # A place in which no process runs yet.
            self._free.put_nowait(None)
        self._all: set[asyncio.subprocess.Process] = set()
        self._closed = False

    async def scan(
        self, texts: Sequence[tuple[Channel, str]], looks: Looks, deadline_s: float
    ) -> list[tuple[Finding, ...]]:
        """The findings of each text. Raises `ScanFailed` when there are none within the deadline, which
        begins now, queueing included."""
        payload = orjson.dumps([looks.dump(), texts])
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        try:
            async with asyncio.timeout_at(until):
                process = await self._free.get()
        except TimeoutError:
            raise ScanFailed("overloaded") from None
        try:
            async with asyncio.timeout_at(until):
                if process is None or process.returncode is not None:
                    process = await self._start()
                answer = await self._ask(process, payload)
        except TimeoutError:
            self._end(process)
            process = None
            raise ScanFailed("timeout") from None
        except (OSError, EOFError, orjson.JSONDecodeError) as error:
            log.error("a screening process broke down: %r", error)
            self._end(process)
            process = None
            raise ScanFailed("crashed") from error
        except BaseException:
            # Its answer would be taken for the next one's.
            self._end(process)
            process = None
            raise
        finally:
            self._free.put_nowait(process)
        return [tuple(Finding(*found) for found in each) for each in answer]

    async def warm(self) -> None:
        """Start one process ahead of the first text."""
        with contextlib.suppress(ScanFailed):
            await self.scan([("user", "")], Looks(), 30.0)

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for process in self._all:
            self._end(process)
        await asyncio.gather(*[process.wait() for process in self._all])

    async def _start(self) -> asyncio.subprocess.Process:
        if self._closed:
            raise ScanFailed("overloaded")
        self._all = {process for process in self._all if process.returncode is None}
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
        )
        self._all.add(process)
        return process

    async def _ask(self, process: asyncio.subprocess.Process, payload: bytes) -> list[list[list[Any]]]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(FRAME.pack(len(payload)) + payload)
        await process.stdin.drain()
        head = await process.stdout.readexactly(FRAME.size)
        size = FRAME.unpack(head)[0]
        if size > MAX_ANSWER_BYTES:
            raise EOFError("an answer without end")
        answer: list[list[list[Any]]] = orjson.loads(await process.stdout.readexactly(size))
        return answer

    def _end(self, process: asyncio.subprocess.Process | None) -> None:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
