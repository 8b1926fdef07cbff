"""The ledger's connection to its database: threads, transactions and what a failure is called.

SQLAlchemy's engine is synchronous; each kind of work has a thread of its own ("lane"), so that a report
over a year of steps delays neither the drain nor the poll that carries kills. Within a lane calls happen
one after another, in order.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    create_mock_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError, StatementError

from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_host import HostLock, LedgerOnAnotherHost

T = TypeVar("T")
Work = Callable[[Connection], T]

BUSY_TIMEOUT_S = 5.0
"""How long a transaction waits for another process's lock before `LedgerUnavailable`."""

_CHECKPOINT_BYTES = 4 << 20
"""Size of SQLite's write-ahead log from which it is copied into the database, beside the writers."""
_CHECKPOINT_PAGES = 16_000
"""64 MB: where a writer does that itself, should the log still grow."""

LOCK_EVENTS, LOCK_AUDIT, LOCK_SCHEMA = 7_239_001, 7_239_002, 7_239_003
"""Postgres advisory locks: one writer of events and one of the audit chain at a time."""


class LedgerError(Exception):
    """The ledger cannot do what was asked, and asking again will not help."""


class LedgerUnavailable(Exception):  # noqa: N818 - named like StoreUnavailable
    """The database is full, locked, unreachable or gone. Nothing was written; try again later."""


class Database:
    """Opens the database and runs work in it.

    `_write`, `_read` and `_report` take a function of a `Connection`, run it as one transaction in the lane
    of that name and return what it returns. They raise `LedgerUnavailable` for failures of the database and
    let everything else through.
    """

    def __init__(
        self,
        url: str | None,
        *,
        data_dir: Path,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        host: tuple[str, str] | None = None,
        lease_s: float | None = None,
    ) -> None:
        self._url = _database_url(url, data_dir)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._file = Path(self._url.database or "") if self._sqlite else None
        self._busy_timeout_s = busy_timeout_s
        self._lock: HostLock | None = None
        if self._file is not None:
            self._lock = HostLock(self._file, identity=host, **({"lease_s": lease_s} if lease_s else {}))
        self._inode = 0
        self._checkpointing = False
        self._engine: Engine | None = None
        self._lanes = {
            name: ThreadPoolExecutor(1, thread_name_prefix=f"ledger-{name}")
            for name in ("writes", "reads", "reports")
        }

    async def start(self) -> None:
        """Open the database and create what is missing.

        Raises `LedgerOnAnotherHost` when SQLite is in use elsewhere, `LedgerUnavailable` when it cannot be
        opened, `LedgerError` when it was made by a newer version.
        """
        await self._in_lane("writes", self._open)

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        for name in ("reports", "reads"):
            await self._in_lane(name, lambda: None)
        await self._in_lane("writes", self._shut)
        for lane in self._lanes.values():
            lane.shutdown(wait=False)

    async def ping(self) -> None:
        """Cheap liveness check; raises `LedgerUnavailable`."""
        await self._read(lambda conn: conn.execute(text("SELECT 1")).scalar())

    async def _write(self, work: Work[T], *, lock: int | None = None, repeatable: bool = False) -> T:
        """Run `work` while no other process writes (SQLite) or holds `lock` (Postgres).

        `repeatable` work is tried once more on a fresh connection when the old one turns out to be dead.
        """
        return await self._in_lane("writes", lambda: self._transact(work, True, lock, repeatable))

    async def _read(self, work: Work[T]) -> T:
        return await self._in_lane("reads", lambda: self._transact(work, False, None, True))

    async def _report(self, work: Work[T]) -> T:
        """Run `work` on one snapshot of the database."""
        return await self._in_lane("reports", lambda: self._transact(work, False, None, True, snapshot=True))

    def _checkpoint_soon(self) -> None:
        """Keep SQLite's log short without making a writer wait for the disk. Call after large writes."""
        if self._file is None or self._checkpointing:
            return
        try:
            size = os.stat(f"{self._file}-wal").st_size
        except OSError:
            return
        if size >= _CHECKPOINT_BYTES:
            self._checkpointing = True
            self._lanes["reports"].submit(self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            if self._engine is not None:
                with self._engine.connect() as conn:
                    cursor = conn.connection.cursor()
                    cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    cursor.close()
        except (SQLAlchemyError, sqlite3.Error):
            return  # A failing disk is for the next transaction to report.
        finally:
            self._checkpointing = False

    async def _in_lane(self, name: str, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lanes[name], job)

    def _transact(
        self, work: Work[T], writes: bool, lock: int | None, repeatable: bool, snapshot: bool = False
    ) -> T:
        engine = self._ready()
        try:
            with engine.connect() as conn:
                if self._sqlite:
                    conn = conn.execution_options(ledger_writes=writes)
                elif snapshot:
                    conn = conn.execution_options(isolation_level="REPEATABLE READ")
                with conn.begin():
                    if lock is not None and not self._sqlite:
                        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (lock,))
                    return work(conn)
        except SQLAlchemyError as error:
            if _is_value_error(error):
                raise
            if repeatable and isinstance(error, DBAPIError) and error.connection_invalidated:
                return self._transact(work, writes, lock, False, snapshot)
            raise LedgerUnavailable(_say(error)) from error

    def _ready(self) -> Engine:
        """The engine, after making sure that what it writes to is still our database."""
        if self._engine is None:
            raise LedgerUnavailable("the ledger is not open")
        if self._file is not None and self._lock is not None:
            if not self._lock.held():
                raise LedgerOnAnotherHost(
                    "Another host has taken this SQLite ledger over; restart to compete for it."
                )
            # An open SQLite file that was deleted or replaced keeps taking writes that nobody will ever read.
            try:
                inode = os.stat(self._file).st_ino
            except OSError as error:
                raise LedgerUnavailable(f"the ledger's file is gone: {error}") from error
            if inode != self._inode:
                raise LedgerUnavailable(
                    "the ledger's file was replaced while in use; restart to use the new one"
                )
        return self._engine

    def _open(self) -> None:
        if self._engine is not None:
            return
        try:
            if self._file is not None and self._lock is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                # The log beside the database inherits these permissions.
                os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
                self._inode = os.stat(self._file).st_ino
        except OSError as error:
            raise LedgerUnavailable(f"the ledger's folder cannot be used: {error}") from error
        try:
            self._engine = self._make_engine()
            self._transact(self._prepare, True, LOCK_SCHEMA, True)
        except BaseException:
            self._shut()
            raise

    def _shut(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock is not None:
            self._lock.release()

    def _make_engine(self) -> Engine:
        lanes = len(self._lanes)
        if not self._sqlite:
            try:
                return create_engine(
                    self._url,
                    paramstyle="format",
                    pool_size=lanes,
                    max_overflow=0,
                    connect_args={k: v for k, v in _PG_CONNECT.items() if k not in self._url.query},
                )
            except ModuleNotFoundError as error:
                raise LedgerError(
                    "A Postgres ledger needs psycopg: pip install guardrail-gateway[postgres]"
                ) from error
        engine = create_engine(
            self._url,
            pool_size=lanes,
            max_overflow=0,
            connect_args={"timeout": self._busy_timeout_s, "check_same_thread": False},
        )
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def _on_connect(self, connection: sqlite3.Connection, _record: Any) -> None:
        # We begin transactions ourselves: the driver's own way takes the write lock too late.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={int(self._busy_timeout_s * 1000)}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            # What is deleted is overwritten, since it may be somebody's data that was to be erased.
            "secure_delete=ON",
            f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            "temp_store=MEMORY",
            "cache_size=-8000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def _prepare(self, conn: Connection) -> None:
        if self._sqlite and conn.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").first() is None:
            for statement in _sqlite_schema():
                conn.exec_driver_sql(statement)
        else:
            schema.metadata.create_all(conn)
        found = conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == "schema")).scalar()
        if found is None:
            conn.execute(insert(schema.meta), {"name": "schema", "value": str(schema.SCHEMA_VERSION)})
            conn.execute(insert(schema.revision), {"id": 1, "value": 1})
        elif int(found) > schema.SCHEMA_VERSION:
            raise LedgerError(
                f"The ledger has schema {found} and this version knows {schema.SCHEMA_VERSION}: "
                "use the newer version."
            )


@cache
def _sqlite_schema() -> tuple[str, ...]:
    """The statements that make every table and index of an empty file, in their order."""
    told: list[str] = []
    engine: MockConnection = create_mock_engine(
        "sqlite://", lambda statement, *_, **__: told.append(str(statement.compile(dialect=engine.dialect)))
    )
    schema.metadata.create_all(engine, checkfirst=False)
    return tuple(told)


_PG_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    # Without it a database whose host vanished holds a lane for many minutes.
    "tcp_user_timeout": 10_000,
    "options": f"-c lock_timeout={int(BUSY_TIMEOUT_S * 1000)} -c statement_timeout=60000",
    "application_name": "guardrail-gateway",
}


def _on_begin(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("ledger_writes") else "BEGIN")


def _database_url(url: str | None, data_dir: Path) -> URL:
    try:
        parsed = make_url(url or f"sqlite:///{data_dir / 'ledger.db'}")
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise LedgerError("The ledger's URL must be sqlite:///PATH or postgresql://…") from error
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise LedgerError(f"The ledger's URL must be sqlite:///PATH or postgresql://…, not {backend}://")
    if not parsed.database or parsed.database == ":memory:":
        raise LedgerError("A ledger in memory would forget what was spent: give a file, sqlite:///PATH")
    return parsed.set(drivername="sqlite+pysqlite", database=str(Path(parsed.database).absolute()))


VALUE_ERRORS = (SQLAlchemyError, ValueError, TypeError, OverflowError)
"""What a transaction raises when the values were at fault and not the database."""


def _is_value_error(error: SQLAlchemyError) -> bool:
    """Whether the values were at fault and not the database: the same write would fail again."""
    if not isinstance(error, DBAPIError):
        # SQLAlchemy wraps what a driver raises while it converts values.
        return isinstance(error, StatementError)
    cause = error.orig
    if cause is None:
        return False
    if isinstance(cause, sqlite3.Error):
        bad_value = isinstance(cause, sqlite3.ProgrammingError | sqlite3.InterfaceError) and "bind" in str(
            cause
        )
        return bad_value or isinstance(cause, sqlite3.IntegrityError | sqlite3.DataError)
    state = getattr(cause, "sqlstate", None)
    if state is None:
        return type(cause).__name__ == "DataError"
    # https://www.postgresql.org/docs/current/errcodes-appendix.html: data, integrity, program limit
    return str(state)[:2] in ("22", "23", "54")


def _say(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its values."""
    return str(error.orig if isinstance(error, DBAPIError) and error.orig else type(error).__name__).strip()
