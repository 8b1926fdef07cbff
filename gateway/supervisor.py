"""Keeps the worker processes of one `gateway serve`: starts them, replaces what died or hangs, renews them
one by one, and stops them in order. What a worker does is not its business: `gateway/serving.py` has that.

Each worker has two pipes. On one it beats from its event loop, so that a loop that stands still is noticed,
and a thread that lives on beside it deceives nobody. On the other it is told to stop; its end is the
supervisor's death, and no worker outlives that. Signals that a terminal or an init sends to the whole group
reach workers too, hence orders by pipe: a worker cannot tell a second SIGTERM from the first one's echo.

    SIGTERM, SIGINT, SIGQUIT   stop: each worker drains; a second one cuts drains short; a third one kills
    SIGHUP                     renew: a new one starts for each worker, and takes its place when it serves
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final

log = logging.getLogger("gateway.supervisor")

STARTUP_FAILURE: Final = 3
"""Exit status of a worker that could not start, uvicorn's."""
BEAT_S = 1.0
STABLE_S = 10.0
"""A worker that dies sooner than this after it began to serve counts as one that failed."""
RENEWALS = 3
"""How often a worker's successor may fail to start before the renewal is given up."""
LONGEST_PAUSE_S = 30.0
"""Before another start, after ever more failures in a row."""
GIVE_UP_S = 60.0
"""Without any worker that stays; whoever started the gateway may do better than trying on."""
OVERSLEPT_S = 3.0
"""The supervisor itself stood still for so long: it cannot tell who else did not."""
_TICK_S = 0.5

_READY, _BEAT = b"+", b"."
STOP, RETIRE, HURRY = b"s", b"r", b"h"
"""What a worker is told: the gateway stops; another took your place; end what is in flight now."""
ORPHANED = b""
"""What it finds out: there is no supervisor any more."""


# -- a worker's side -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Tether:
    """What ties a worker to its supervisor."""

    beats: Connection
    words: Connection

    def ready(self) -> None:
        """The worker serves."""
        os.set_blocking(self.beats.fileno(), False)
        self._write(_READY)

    def beat(self) -> None:
        """The event loop goes round; to be called from it every `BEAT_S`."""
        self._write(_BEAT)

    def listen(self, told: Callable[[bytes], None], last_s: float) -> None:
        """Call `told` with each word, from a thread. `last_s` after the supervisor's death the process is
        killed, should it not have ended by itself."""

        def run() -> None:
            while word := self._read():
                told(word)
            told(ORPHANED)
            time.sleep(last_s)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=run, name="tether", daemon=True).start()

    def _read(self) -> bytes:
        try:
            return os.read(self.words.fileno(), 1)
        except OSError:
            return ORPHANED

    def _write(self, said: bytes) -> None:
        # Full when the supervisor is stopped; gone when it died, which `listen` finds out.
        with contextlib.suppress(OSError):
            os.write(self.beats.fileno(), said)


# -- the supervisor's ----------------------------------------------------------------------------------

Work = Callable[[Tether, socket.socket], None]
"""What a worker process does. A function of a module, since it is imported there."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits, in seconds."""

    start_s: float = 120.0
    """For a worker to serve: it may first have to settle what another one left."""
    silent_s: float = 30.0
    """For a beat."""
    stop_s: float = 40.0
    """For a worker that was told to leave."""
    hurry_s: float = 10.0
    """For one that was told to hurry."""
    give_up_s: float = GIVE_UP_S


@dataclass(slots=True, eq=False)
class Worker:
    """One process."""

    process: BaseProcess
    beats: Connection
    words: Connection
    heard_at: float
    """When it was started, then when it last beat."""
    ready_at: float | None = None
    leave_by: float | None = None
    """When it is killed; None while it is not to leave."""

    def tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self.words.fileno(), word)

    def close(self) -> None:
        self.process.join()
        self.beats.close()
        self.words.close()


@dataclass(slots=True, eq=False)
class Slot:
    """A place that one worker fills. While it is renewed a successor gets ready beside it."""

    worker: Worker | None = None
    successor: Worker | None = None
    failures: int = 0
    """In a row."""
    due_at: float = 0.0
    """When the next start may be."""


@dataclass(slots=True, eq=False)
class Supervisor:
    """`run` returns when all is over."""

    work: Work
    listener: socket.socket
    count: int
    patience: Patience = Patience()
    now: Callable[[], float] = time.monotonic
    _slots: list[Slot] = field(default_factory=list)
    _leaving: list[Worker] = field(default_factory=list)
    _to_renew: deque[Slot] = field(default_factory=deque)
    _renewing: Slot | None = None
    _renew_at: float = 0.0
    """When the next successor may be started."""
    _renew_again: bool = False
    _stops: int = 0
    """How often it was told to."""
    _failed: bool = False
    _served: bool = False
    _served_at: float = 0.0
    """When there last was a worker that had served for a while."""
    _tended_at: float = 0.0
    _signals: deque[int] = field(default_factory=deque)

    def run(self) -> int:
        """Supervise until told to stop; the exit status. 1 when the workers cannot start or do not stay."""
        self._slots = [Slot() for _ in range(self.count)]
        self._served_at = self._tended_at = self.now()
        with self._listening_to_signals() as awake:
            while True:
                while self._signals:
                    self._obey(self._signals.popleft())
                self._tend()
                if self._stops and not self._workers():
                    return int(self._failed)
                self._wait(awake)

    # -- what it is told ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[socket.socket]:
        def handle(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        awake, wake = socket.socketpair()
        wake.setblocking(False)
        awake.setblocking(False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        woken_before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield awake
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            awake.close()
            wake.close()

    def _obey(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._stop()
        elif self._stops:
            return
        elif self._renewing is not None or self._to_renew:
            self._renew_again = True
        else:
            log.info("renewing %d workers, one by one", len(self._slots))
            self._to_renew.extend(self._slots)

    def _stop(self) -> None:
        self._stops += 1
        self._to_renew.clear()
        for worker in self._workers():
            if self._stops > 2:
                worker.process.kill()
            elif self._stops == 2:
                self._dismiss(worker, HURRY, self.patience.hurry_s)
            else:
                self._dismiss(worker, STOP, self.patience.stop_s)

    # -- a round --------------------------------------------------------------------------------------

    def _wait(self, awake: socket.socket) -> None:
        """Until something happens, or it is time for another round."""
        lines = {worker.beats: worker for worker in self._workers()}
        sentinels = [worker.process.sentinel for worker in lines.values()]
        for readable in wait([awake, *lines, *sentinels], _TICK_S):
            if readable is awake:
                with contextlib.suppress(BlockingIOError):
                    awake.recv(4096)
            elif isinstance(readable, Connection):
                self._hear(lines[readable])

    def _hear(self, worker: Worker) -> None:
        try:
            said = os.read(worker.beats.fileno(), 4096)
        except OSError:
            said = b""
        if not said:
            # It is about to die. Its sentinel says when; until then a closed pipe is readable without end.
            time.sleep(0.01)
            return
        worker.heard_at = self.now()
        if worker.ready_at is None and _READY in said:
            worker.ready_at = worker.heard_at
            log.info("worker %s serves", worker.process.pid)

    def _tend(self) -> None:
        now = self.now()
        if (gap := now - self._tended_at) > OVERSLEPT_S:
            # Stopped by somebody, or starved: the others have not had that time either.
            for worker in self._workers():
                worker.heard_at += gap
        self._tended_at = now
        for worker in self._workers():
            if not worker.process.is_alive():
                self._bury(worker, now)
            elif problem := self._problem(worker, now):
                log.error("worker %s %s, and is killed", worker.process.pid, problem)
                worker.process.kill()
                self._bury(worker, now)
        for worker in self._serving():
            self._served = True
            if worker.ready_at is not None and now - worker.ready_at >= STABLE_S:
                self._served_at = now
        if not self._stops:
            self._renew(now)
            for slot in self._slots:
                if slot.worker is None and now >= slot.due_at:
                    slot.worker = self._start(now)

    def _problem(self, worker: Worker, now: float) -> str | None:
        """Why a process cannot be left alone."""
        silent = now - worker.heard_at
        if worker.leave_by is not None:
            return "has not left in time" if now >= worker.leave_by else None
        if worker.ready_at is None:
            return f"does not serve after {silent:.0f} s" if silent > self.patience.start_s else None
        return f"has not been heard of for {silent:.0f} s" if silent > self.patience.silent_s else None

    def _workers(self) -> list[Worker]:
        """Every process there is."""
        placed = (worker for slot in self._slots for worker in (slot.worker, slot.successor))
        return [*(worker for worker in placed if worker is not None), *self._leaving]

    def _serving(self) -> list[Worker]:
        return [s.worker for s in self._slots if s.worker is not None and s.worker.ready_at is not None]

    def _start(self, now: float) -> Worker:
        heard, beats = Pipe(duplex=False)
        words, said = Pipe(duplex=False)
        process = get_context("spawn").Process(target=self.work, args=(Tether(beats, words), self.listener))
        process.start()
        # The ends that the worker has: while they were open here as well, nobody would see it go.
        beats.close()
        words.close()
        return Worker(process, heard, said, now)

    def _dismiss(self, worker: Worker, word: bytes, within_s: float) -> None:
        worker.tell(word)
        worker.leave_by = self.now() + within_s

    # -- deaths ---------------------------------------------------------------------------------------

    def _bury(self, worker: Worker, now: float) -> None:
        worker.close()
        code = worker.process.exitcode
        if worker in self._leaving:
            self._leaving.remove(worker)
            return
        (slot,) = (slot for slot in self._slots if worker in (slot.worker, slot.successor))
        if worker is slot.successor:
            self._mourn_successor(slot, now)
            return
        slot.worker, slot.successor = slot.successor, None
        if slot is self._renewing and slot.worker is not None:
            # What was to take its place has it already.
            self._renewing = None
        if self._stops:
            return
        if code == STARTUP_FAILURE and not self._served:
            # What is wrong with the settings would be wrong again.
            self._give_up("the workers cannot start")
            return
        log.error("worker %s ended with %s and is replaced", *_told(worker))
        young = worker.ready_at is None or now - worker.ready_at < STABLE_S
        slot.failures = slot.failures + 1 if young else 0
        slot.due_at = now + _pause(slot.failures)
        if not self._serving() and now - self._served_at > self.patience.give_up_s:
            self._give_up(f"no worker has stayed for {self.patience.give_up_s:.0f} s")

    def _mourn_successor(self, slot: Slot, now: float) -> None:
        worker, slot.successor = slot.successor, None
        self._renewing = None
        slot.failures += 1
        if self._stops:
            return
        assert worker is not None
        if slot.failures < RENEWALS:
            log.warning("the new worker %s ended with %s; another is started", *_told(worker))
            self._to_renew.appendleft(slot)
            self._renew_at = now + _pause(slot.failures)
        else:
            log.error("the new worker %s ended with %s; renewal ends here, the old ones stay", *_told(worker))
            slot.failures = 0
            self._to_renew.clear()

    def _give_up(self, why: str) -> None:
        log.critical("%s: the gateway ends", why)
        self._failed = True
        self._stop()

    # -- renewal --------------------------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        """One step: the next successor starts when the last one serves and whom it followed has left."""
        slot = self._renewing
        if slot is not None and slot.successor is not None and slot.successor.ready_at is not None:
            old, slot.worker, slot.successor = slot.worker, slot.successor, None
            slot.failures = 0
            assert old is not None
            self._leaving.append(old)
            self._dismiss(old, RETIRE, self.patience.stop_s)
            log.info("worker %s takes the place of %s", slot.worker.process.pid, old.process.pid)
            self._renewing = slot = None
        if slot is not None or self._leaving or now < self._renew_at:
            return
        if self._to_renew:
            following = self._to_renew.popleft()
            if following.worker is None:
                following.due_at = now  # it is to be started anyway
            else:
                following.successor = self._start(now)
                self._renewing = following
        elif self._renew_again:
            self._renew_again = False
            self._to_renew.extend(self._slots)


def _pause(failures: int) -> float:
    """Seconds before the next start."""
    return min(LONGEST_PAUSE_S, _TICK_S * 2.0 ** (failures - 1)) if failures else 0.0


def _told(worker: Worker) -> tuple[int | None, str]:
    """A process and how it ended, for the log."""
    code = worker.process.exitcode
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return worker.process.pid, signal.Signals(-code).name
    return worker.process.pid, f"status {code}"
