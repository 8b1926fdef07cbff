"""Where the embedded store keeps its runs, their index and its records over a restart: one SQLite file.

Only what was touched since the last save is written, in one transaction on a thread of its own, so a process
that is killed finds its last save whole. No money is kept here: the ledger and the journal have that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from gateway.admission import Ending
from gateway.domain import Millis
from gateway.stores.embedded_runs import RunArchive, RunState

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, until INTEGER NOT NULL, runs TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, until INTEGER NOT NULL, value BLOB NOT NULL)
    WITHOUT ROWID;
"""
_RUN_FIELDS = frozenset(field.name for field in fields(RunState))


class SqliteRunArchive:
    """A `RunArchive` in a file. Belongs to one event loop; `save` may be called as often as wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: set[str] = set()
        self._entries: set[str] = set()
        self._objects: set[str] = set()
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="run-archive")
        self._saving = asyncio.Lock()

    def touch_run(self, run_id: str) -> None:
        self._runs.add(run_id)

    def touch_index(self, key: str) -> None:
        self._entries.add(key)

    def touch_object(self, key: str) -> None:
        self._objects.add(key)

    async def runs(self) -> list[RunState]:
        """Every run saved; one that cannot be read any more is left out."""
        rows = await self._do(lambda db: db.execute("SELECT state FROM runs").fetchall())
        return [run for (state,) in rows if (run := _run(state)) is not None]

    async def index(self, now: Millis) -> dict[str, tuple[Millis, list[str]]]:
        """Every index entry that has not expired; those that have are deleted."""

        def read(db: sqlite3.Connection) -> list[tuple[str, int, str]]:
            with db:
                db.execute("DELETE FROM entries WHERE until < ?", (now,))
            return db.execute("SELECT key, until, runs FROM entries").fetchall()

        return {key: (until, json.loads(ids)) for key, until, ids in await self._do(read)}

    async def objects(self, now: Millis) -> dict[str, tuple[Millis, bytes]]:
        """Every record that has not expired; those that have are deleted."""

        def read(db: sqlite3.Connection) -> list[tuple[str, int, bytes]]:
            with db:
                db.execute("DELETE FROM objects WHERE until < ?", (now,))
            return db.execute("SELECT key, until, value FROM objects").fetchall()

        return {key: (until, value) for key, until, value in await self._do(read)}

    async def save(
        self,
        runs: Mapping[str, RunState],
        index: Mapping[str, tuple[Millis, list[str]]],
        objects: Mapping[str, tuple[Millis, bytes]],
    ) -> None:
        """Save what was touched since the last save; rows of what is gone are deleted.

        A save that fails is made up for by the next one.
        Raises: `sqlite3.Error`.
        """
        async with self._saving:
            run_ids, self._runs = self._runs, set()
            keys, self._entries = self._entries, set()
            names, self._objects = self._objects, set()
            if not run_ids and not keys and not names:
                return
            # The states change while the thread writes, so they are written down here.
            live_runs = [(i, _state(runs[i])) for i in run_ids if i in runs]
            live_entries = [(k, index[k][0], orjson.dumps(index[k][1]).decode()) for k in keys if k in index]
            live_objects = [(k, *objects[k]) for k in names if k in objects]
            gone_objects = [(k,) for k in names if k not in objects]
            gone_runs = [(i,) for i in run_ids if i not in runs]
            gone_entries = [(k,) for k in keys if k not in index]

            def write(db: sqlite3.Connection) -> None:
                with db:
                    db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", live_runs)
                    db.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", live_entries)
                    db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", live_objects)
                    db.executemany("DELETE FROM objects WHERE key = ?", gone_objects)
                    db.executemany("DELETE FROM runs WHERE id = ?", gone_runs)
                    db.executemany("DELETE FROM entries WHERE key = ?", gone_entries)

            try:
                await asyncio.shield(self._do(write))
            except BaseException:
                self._runs |= run_ids
                self._entries |= keys
                self._objects |= names
                raise

    async def empty_log(self) -> None:
        """Copy the log into the file and empty it: old states of runs lie there. Raises: `sqlite3.Error`."""
        await self._do(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    async def close(self) -> None:
        """Close the file. What was touched and not saved is lost."""
        async with self._saving:
            if self._connection is not None:
                await self._do(lambda db: db.close())
                self._connection = None
            self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._open()))

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = _connect(self._path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                aside = self._path.with_suffix(".unreadable")
                log.exception("%s is no database; it is kept as %s and runs start anew", self._path, aside)
                self._path.replace(aside)
                self._connection = _connect(self._path)
        return self._connection


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, check_same_thread=False, timeout=5)
    # WAL without a sync per commit survives a killed process; a power cut costs the last saves.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    # What is deleted is overwritten, since it may be somebody's data that was to be erased.
    db.execute("PRAGMA secure_delete = ON")
    db.executescript(_SCHEMA)
    return db


def _state(run: RunState) -> str:
    """A run as JSON. Called in the event loop for every run that took a step, so it has to be quick."""
    try:
        return orjson.dumps(run, default=_base64).decode()
    except orjson.JSONEncodeError:
        # A caller's name may hold a lone surrogate, which `json` alone writes.
        return json.dumps(asdict(run), default=_base64)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _run(state: str) -> RunState | None:
    """A run as another version of the gateway may have saved it."""
    try:
        saved: dict[str, Any] = {k: v for k, v in json.loads(state).items() if k in _RUN_FIELDS}
        saved["ancestors"] = tuple(saved.get("ancestors", ()))
        saved["progress"] = base64.b64decode(saved.get("progress", ""))
        ending = saved.get("ending")
        saved["ending"] = None if ending is None else Ending(**ending)
        return RunState(**saved)
    except (ValueError, TypeError, AttributeError):
        log.warning("a saved run cannot be read and is left out")
        return None


if TYPE_CHECKING:
    _fits: RunArchive = SqliteRunArchive(Path())
