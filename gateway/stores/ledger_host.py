"""Keeps a SQLite ledger on one host at a time.

SQLite's write-ahead log needs memory that all its processes share, so processes on two hosts would damage
the file without noticing. Each host that has the ledger open keeps a small file beside the database and
touches it every second; all its worker processes share that file. Whoever starts and sees another host's
file move refuses. One that stands still for the lease belongs to a host that is gone (a replaced container,
a moved volume) and is taken over, without comparing clocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from pathlib import Path

BEAT_S = 1.0
LEASE_S = 5.0
"""Five missed beats: longer than a busy disk stalls, shorter than a supervisor's patience at start."""


class LedgerOnAnotherHost(Exception):  # noqa: N818 - reads as the fact that it is
    """Another host has this SQLite ledger open; only Postgres serves more than one host."""


def host_identity() -> tuple[str, str]:
    """`(identity, hostname)` of this machine: its machine id where there is one, and its name."""
    hostname = socket.gethostname()
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text().strip()
    return hashlib.sha256(f"{machine}\n{hostname}".encode()).hexdigest()[:32], hostname


class HostLock:
    """This host's claim on one database file. Its methods block; call them in the ledger's own thread."""

    def __init__(
        self,
        database: Path,
        *,
        identity: tuple[str, str] | None = None,
        beat_s: float = BEAT_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._host, self._hostname = identity or host_identity()
        self._folder = database.with_name(database.name + ".hosts")
        self._mine = self._folder / self._host
        self._beat_s = beat_s
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Claim the database for this host.

        Raises `LedgerOnAnotherHost` as soon as another host shows a sign of life; returns at once when there
        is no other, and after the lease when the other is dead. Raises `OSError` when the folder cannot be
        written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mine.write_text(self._hostname)
        self._thread = threading.Thread(target=self._beat, name="ledger-host", daemon=True)
        self._thread.start()
        seen = {path: _mark(path) for path in self._others()}
        deadline = time.monotonic() + self._lease_s
        while any(mark is not None for mark in seen.values()):
            for path, mark in seen.items():
                now = _mark(path)
                if now is not None and now != mark:
                    name = _owner(path)
                    self.release()
                    raise LedgerOnAnotherHost(
                        f"The SQLite ledger {self._folder.with_suffix('')} is in use on host '{name}', and "
                        f"this is '{self._hostname}'. SQLite serves one host: give every instance the same "
                        "--ledger postgresql://… instead."
                    )
                seen[path] = now
            if time.monotonic() >= deadline:
                break
            time.sleep(min(0.1, self._beat_s / 2))
        for path in seen:
            path.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether this host may still write: false once another host has taken over. One `stat` when true."""
        return self._mine.exists() or not self._others()

    def release(self) -> None:
        """Give the claim up. Other processes of this host renew it with their next beat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._mine.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if path.name != self._host]
        except FileNotFoundError:
            return []

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            # Touching needs no free block, so a full disk does not look like a dead host.
            try:
                os.utime(self._mine)
            except FileNotFoundError:
                if not self._others():
                    with contextlib.suppress(OSError):
                        self._mine.write_text(self._hostname)
            except OSError:
                continue


def _mark(path: Path) -> int | None:
    """Time of the last beat in nanoseconds. Opening first makes NFS ask its server instead of its cache."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _owner(path: Path) -> str:
    try:
        return path.read_text() or path.name
    except OSError:
        return path.name
