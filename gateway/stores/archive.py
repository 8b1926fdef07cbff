"""Keeps an embedded store's runs and index in a SQLite file of its own, so that a restart forgets nothing.

What was touched is written every moment in one transaction, in a thread. A killed process loses at most
that moment of lineage, and never money: that is in the journal and the ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import orjson

from gateway.domain import Millis
from gateway.stores.embedded import RunArchive, RunState

P = ParamSpec("P")
T = TypeVar("T")

_FIELDS = {f.name for f in fields(RunState)}
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (key TEXT PRIMARY KEY, until INTEGER NOT NULL, runs TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteRunArchive:
    """One file, one thread that writes it. Not for two processes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: set[str] = set()
        self._links: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "run-archive")
        self._connection: sqlite3.Connection | None = None

    def touch_run(self, run_id: str) -> None:
        """The run has changed and is to be saved soon."""
        self._runs.add(run_id)

    def touch_index(self, key: str) -> None:
        """The index entry has changed and is to be saved soon."""
        self._links.add(key)

    async def runs(self) -> list[RunState]:
        """Every run saved; one that cannot be read, from another version, is left out."""
        return await self._in_thread(self._read_runs)

    async def index(self, now: Millis) -> dict[str, tuple[Millis, list[str]]]:
        """Every index entry that has not expired."""
        return await self._in_thread(self._read_links, now)

    async def save(
        self, runs: Mapping[str, RunState], index: Mapping[str, tuple[Millis, list[str]]]
    ) -> None:
        """Save what was touched since the last call; what is gone from memory is deleted."""
        if not self._runs and not self._links:
            return
        touched_runs, self._runs = self._runs, set()
        touched_links, self._links = self._links, set()
        kept = [(i, orjson.dumps(asdict(run))) for i in touched_runs if (run := runs.get(i)) is not None]
        gone = [(i,) for i in touched_runs if i not in runs]
        links = [(k, e[0], ",".join(e[1])) for k in touched_links if (e := index.get(k)) is not None]
        unlinked = [(k,) for k in touched_links if k not in index]
        await self._in_thread(self._write, kept, gone, links, unlinked)

    async def close(self) -> None:
        """Close the file."""
        await self._in_thread(self._close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        call = partial(work, *arguments, **keywords)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, check_same_thread=False)
            self._connection.executescript(_SCHEMA)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read_runs(self) -> list[RunState]:
        found: list[RunState] = []
        for (raw,) in self._open().execute("SELECT state FROM runs"):
            values = orjson.loads(raw)
            if set(values) == _FIELDS:
                found.append(RunState(**values))
        return found

    def _read_links(self, now: Millis) -> dict[str, tuple[Millis, list[str]]]:
        rows = self._open().execute("SELECT key, until, runs FROM links WHERE until > ?", (now,))
        return {key: (until, ids.split(",")) for key, until, ids in rows}

    def _write(
        self,
        kept: list[tuple[str, bytes]],
        gone: list[tuple[str]],
        links: list[tuple[str, Millis, str]],
        unlinked: list[tuple[str]],
    ) -> None:
        connection = self._open()
        with connection:
            connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", kept)
            connection.executemany("DELETE FROM runs WHERE id = ?", gone)
            connection.executemany("INSERT OR REPLACE INTO links VALUES (?, ?, ?)", links)
            connection.executemany("DELETE FROM links WHERE key = ?", unlinked)


if TYPE_CHECKING:
    _fits: RunArchive = SqliteRunArchive(Path())
