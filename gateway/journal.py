"""The write-ahead journal of one worker: what was sent upstream, and what it cost, before anyone is told.

Each line is one JSON record, copied into a mapped file of fixed size, without a system call and without
`fsync`: the pages belong to the kernel, so it survives a killed process, and the ledger survives a lost
machine. The file's blocks are allocated when it is begun, so a full disk is met there and nowhere else.

`open` records stand before an attempt is dispatched, `settle` records before the last byte of its answer
goes out. A file belongs to the process that holds its lock; one whose lock is free was left by a process
that died, and is replayed by whoever finds it.

Replay is idempotent, so a file is removed only after everything in it is known to be settled.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from gateway.admission import Hold, Settlement
from gateway.domain import Nano

log = logging.getLogger("gateway.journal")

FILE_BYTES = 8 * 1024 * 1024
_SETTLEMENT_FIELDS = {f.name for f in fields(Settlement)}


class JournalUnavailable(Exception):  # noqa: N818 - read as a state, like the other *Unavailable
    """The data directory cannot be written: an attempt that is not on record must not be dispatched."""


class Journal:
    """Append-only, one file at a time; when it is full, what is still needed goes into a new one."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._directory = directory
        self._worker = worker
        self._serial = 0
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._path = directory
        self._size = 0
        self._open: dict[str, bytes] = {}
        self._unconfirmed: dict[str, bytes] = {}

    def start(self) -> None:
        """Open this worker's first file. Raises `JournalUnavailable`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._begin_file(FILE_BYTES)
        except OSError as error:
            raise JournalUnavailable(str(error)) from error

    def _begin_file(self, size: int) -> None:
        self._serial += 1
        path = self._directory / f"{self._worker}.{self._serial}.journal"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, size)
            mapped = mmap.mmap(fd, size)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._map, self._path, self._size = fd, mapped, path, 0

    def opened(
        self, attempt_id: str, ordinal: int, reserved: Nano, holds: tuple[Hold, ...], orphan: bytes
    ) -> None:
        """The attempt is about to be dispatched."""
        line = b'{"o":"%b","n":%d,"r":%d,"h":%b,"e":%b}\n' % (
            attempt_id.encode(),
            ordinal,
            reserved,
            orjson.dumps([[h.counter, h.expires_at] for h in holds]),
            orphan,
        )
        self._append(line)
        self._open[attempt_id] = line

    def settled(self, settlement: Settlement) -> None:
        """The attempt is over; the store has not been told yet."""
        # orjson writes dataclasses by their fields; `default` is asked for the one that is JSON already.
        line = b'{"s":%b}\n' % orjson.dumps(settlement, default=_fragment)
        self._append(line)
        self._open.pop(settlement.attempt_id, None)
        self._unconfirmed[settlement.attempt_id] = line

    def confirmed(self, attempt_id: str) -> None:
        """The store has taken the settlement; nothing of this attempt is needed any more."""
        self._unconfirmed.pop(attempt_id, None)

    def _append(self, line: bytes) -> None:
        start = self._size
        end = start + len(line)
        if self._map is None or end > len(self._map):
            self._rotate(len(line))
            start, end = self._size, self._size + len(line)
        assert self._map is not None
        self._map[start:end] = line
        self._size = end

    def _rotate(self, room: int) -> None:
        """Carry what is still needed into a new file and drop the old one. Raises `JournalUnavailable`."""
        fd, mapped, path = self._fd, self._map, self._path
        needed = [*self._open.values(), *self._unconfirmed.values()]
        carried = b"".join(needed)
        try:
            # At least as much room again as is carried, so that it is not done over for every record.
            self._begin_file(max(FILE_BYTES, 2 * (len(carried) + room)))
        except OSError as error:
            raise JournalUnavailable(str(error)) from error
        assert self._map is not None
        self._map[: len(carried)] = carried
        self._size = len(carried)
        path.unlink(missing_ok=True)
        _release(fd, mapped)

    def forget(self) -> None:
        """Begin a new file with what is still needed: the old one tells of what is settled. Raises
        `JournalUnavailable`."""
        if self._fd >= 0:
            self._rotate(0)

    @property
    def is_empty(self) -> bool:
        """Nothing is open and nothing waits for the store."""
        return not self._open and not self._unconfirmed

    def close(self) -> None:
        """Leave the file to be replayed, unless there is nothing in it that is needed."""
        if self._fd < 0:
            return
        if self.is_empty:
            self._path.unlink(missing_ok=True)
        _release(self._fd, self._map)
        self._fd, self._map = -1, None


def _fragment(event: bytes) -> orjson.Fragment:
    # What a run has done is not needed after a crash, and no JSON.
    return orjson.Fragment(event if event[:1] == b"{" else b"null")


def _release(fd: int, mapped: mmap.mmap | None) -> None:
    """Close a file and its mapping: the lock goes with the last of both."""
    if mapped is not None:
        mapped.close()
    os.close(fd)


def orphaned_files(directory: Path) -> list[tuple[Path, int]]:
    """Journals of processes that are gone, each with a locked descriptor that the caller has to close."""
    found: list[tuple[Path, int]] = []
    for path in sorted(directory.glob("*.journal")):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue
        found.append((path, fd))
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """An attempt that a journal shows as dispatched. `orphan` is its ledger event so far."""

    attempt_id: str
    ordinal: int
    reserved: Nano
    holds: tuple[Hold, ...]
    orphan: dict[str, Any]


def read_journal(path: Path, conservative: Callable[[Opened], Settlement]) -> list[Settlement]:
    """Every settlement that a journal asks for: those on record, and a conservative one for each attempt
    that was dispatched and never ended. Lines that were torn by the crash are passed over."""
    opened: dict[str, Opened] = {}
    settled: dict[str, Settlement] = {}
    # What was never written is zeros; a line that was being written ends in them.
    for line in path.read_bytes().rstrip(b"\0").split(b"\n"):
        if not line:
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        try:
            if "o" in record:
                found = _opened(record)
                opened[found.attempt_id] = found
            elif "s" in record:
                settlement = _settlement(record["s"])
                settled[settlement.attempt_id] = settlement
        except (KeyError, TypeError, ValueError, AttributeError):
            # A disk's fault or somebody's hand: no reason not to settle everything else, and not to serve.
            log.error("%s: a record cannot be read and is passed over", path.name)
    for attempt_id, found in opened.items():
        if attempt_id not in settled:
            settled[attempt_id] = conservative(found)
    return list(settled.values())


def _opened(record: dict[str, Any]) -> Opened:
    attempt_id, event = record["o"], record["e"]
    if not isinstance(attempt_id, str) or not isinstance(event, dict):
        raise TypeError("no record of an attempt")
    holds = tuple(Hold(str(c), int(e)) for c, e in record["h"])
    return Opened(attempt_id, int(record["n"]), int(record["r"]), holds, event)


def _settlement(record: dict[str, Any]) -> Settlement:
    values = {name: record[name] for name in _SETTLEMENT_FIELDS}
    if not isinstance(values["attempt_id"], str):
        raise TypeError("no record of a settlement")
    # An event without a text stands as `null`.
    values["event"] = orjson.dumps(values["event"]) if values["event"] is not None else b""
    values["progress"] = b""
    values["links"] = tuple(values["links"])
    values["holds"] = tuple(Hold(**hold) for hold in values["holds"])
    return Settlement(**values)
