"""Scanning outside of the event loop: a few processes, each with one task at a time and a deadline.

A task that overruns its deadline takes its process with it, and another is started: whatever a text does to a
detector, it does it to one process, for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.screening.base import Channel, Finding
from gateway.screening.engine import Looks
from gateway.screening.process import FRAME

log = logging.getLogger("gateway.screening")

MAX_ANSWER_BYTES = 64 * 1024 * 1024
START_S = 30.0
"""How long a process may take until it can scan."""
LOAD_S = 90.0
"""How long it may take to load a classifier besides."""
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
        self._warm = asyncio.Event()
        self._warm.set()
        self._starting: set[asyncio.Task[None]] = set()
        self._size = size
        self._looks = Looks()
        """With the classifier that a process is to have loaded before it is asked."""

    async def scan(
        self,
        texts: Sequence[tuple[Channel, str]],
        looks: Looks,
        deadline_s: float,
        *,
        wait: bool = True,
    ) -> list[tuple[Finding, ...]]:
        """The findings of each text. Raises `ScanFailed` when there are none within the deadline, which
        begins now, queueing included. At most half of it is spent queueing: a text that comes to a process
        too late would only take it down."""
        payload = orjson.dumps({"looks": looks.dump(), "texts": texts})
        if wait:
            await self._warm.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        try:
            async with asyncio.timeout_at(until - deadline_s / 2):
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
            if process is None:
                self._replace()
            else:
                self._free.put_nowait(process)
        if isinstance(answer, dict):
            log.error("the classifier gives no verdict: %s", answer["failed"])
            raise ScanFailed("crashed")
        return [tuple(Finding(*found) for found in each) for each in answer]

    async def prepare(self, looks: Looks) -> str:
        """Load a classifier in every process and try it out, before a policy that wants it is in force; what
        is wrong with it, or nothing. Texts that come meanwhile wait, as for `warm`."""
        if looks.classifier is None:
            self._looks = Looks()
            return ""
        self._warm.clear()
        payload = orjson.dumps({"looks": looks.dump()})
        taken: list[asyncio.subprocess.Process | None] = []
        try:
            while len(taken) < self._size:
                taken.append(await self._free.get())
            tried = await asyncio.gather(*[self._prepared(process, payload) for process in taken])
        except BaseException:
            for process in taken:
                # Its answer would be taken for the next one's.
                self._end(process)
                self._free.put_nowait(None)
            raise
        finally:
            self._warm.set()
        for process, _ in tried:
            self._free.put_nowait(process)
        problem = next((problem for _, problem in tried if problem), "")
        if not problem:
            self._looks = looks
        return problem

    async def _prepared(
        self, process: asyncio.subprocess.Process | None, payload: bytes
    ) -> tuple[asyncio.subprocess.Process | None, str]:
        try:
            async with asyncio.timeout(START_S + LOAD_S):
                if process is None or process.returncode is not None:
                    process = await self._start()
                answer = await self._ask(process, payload)
        except (TimeoutError, OSError, EOFError, orjson.JSONDecodeError) as error:
            self._end(process)
            return None, f"a process that was to load it ended: {error!r}"
        except BaseException:
            self._end(process)
            raise
        return process, str(answer["problem"])

    async def warm(self) -> None:
        """Start one process ahead of the first text. Texts that come meanwhile wait for it as long as they
        have to: to load takes longer than their deadlines where the machine is busy."""
        self._warm.clear()
        try:
            with contextlib.suppress(ScanFailed):
                await self.scan([("user", "")], Looks(), START_S, wait=False)
        finally:
            self._warm.set()

    def _replace(self) -> None:
        """Put a process in the place of one that is gone, beside the deadlines of the texts that wait."""
        if self._closed:
            self._free.put_nowait(None)
            return
        task = asyncio.get_running_loop().create_task(self._started(), name="screening")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _started(self) -> None:
        process = None
        try:
            async with asyncio.timeout(START_S + (LOAD_S if self._looks.classifier is not None else 0)):
                process = await self._start()
                await self._ask(process, orjson.dumps({"looks": self._looks.dump()}))
        except (TimeoutError, OSError, EOFError, orjson.JSONDecodeError, ScanFailed):
            # Whoever needs it next tries again, and is told why it fails.
            self._end(process)
            process = None
        finally:
            self._free.put_nowait(process)

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
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
            # As in the gateway's own processes; a program that embeds it may think otherwise of itself.
            env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
            # A terminal's Ctrl-C is for the gateway, which ends them.
            start_new_session=True,
        )
        self._all.add(process)
        return process

    async def _ask(self, process: asyncio.subprocess.Process, payload: bytes) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(FRAME.pack(len(payload)) + payload)
        await process.stdin.drain()
        head = await process.stdout.readexactly(FRAME.size)
        size = FRAME.unpack(head)[0]
        if size > MAX_ANSWER_BYTES:
            raise EOFError("an answer without end")
        return orjson.loads(await process.stdout.readexactly(size))

    def _end(self, process: asyncio.subprocess.Process | None) -> None:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
