"""The ledger: what happened, for good, in SQLite or Postgres.

`SqlLedger` is one object made of parts that share a database: the fold of the store's events (here), the
reports over them (`ledger_reports`), the control plane's records (`ledger_control`), the versions of the
policy (`ledger_policies`), the approvals of tool calls (`ledger_approvals`), and what is forgotten
(`ledger_retention`, `ledger_privacy`).

    append ──► steps (one row per attempt) ──► runs, tool tables, counters    one transaction
    used_counters ◄── counters            verify: all of them again from steps

An event is safe once `append` has returned; until then its giver keeps it. Appending it again changes
nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_fold as fold
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_alerts import AlertDeliveries
from gateway.stores.ledger_approvals import ApprovalRecords
from gateway.stores.ledger_audit import AuditLog
from gateway.stores.ledger_control import ControlPlane, LedgerConflict
from gateway.stores.ledger_credentials import CredentialRecords
from gateway.stores.ledger_cursor import BadCursor
from gateway.stores.ledger_database import (
    LOCK_EVENTS,
    VALUE_ERRORS,
    Database,
    LedgerError,
    LedgerUnavailable,
)
from gateway.stores.ledger_drift import Drift
from gateway.stores.ledger_events import Attempt, BadEvent, Event, Note, parse, stored_attempt
from gateway.stores.ledger_host import LedgerOnAnotherHost
from gateway.stores.ledger_overview import Overview, keep_findings
from gateway.stores.ledger_policies import PolicyVersions
from gateway.stores.ledger_privacy import ErasureRecords
from gateway.stores.ledger_recordings import Recordings
from gateway.stores.ledger_reports import AmbiguousRun, Reports
from gateway.stores.ledger_retention import Difference, start_from_folded
from gateway.stores.ledger_sessions import SessionRecords
from gateway.stores.ledger_traces import RunTraces

if TYPE_CHECKING:
    from gateway.protocols import Ledger

__all__ = [
    "AmbiguousRun",
    "BadCursor",
    "Difference",
    "LedgerConflict",
    "LedgerError",
    "LedgerOnAnotherHost",
    "LedgerUnavailable",
    "SqlLedger",
]


class SqlLedger(
    ErasureRecords,
    Overview,
    Reports,
    ApprovalRecords,
    AuditLog,
    AlertDeliveries,
    RunTraces,
    PolicyVersions,
    ControlPlane,
    CredentialRecords,
    SessionRecords,
    Drift,
    Recordings,
    Database,
):
    """The ledger behind `url`: `sqlite:///PATH`, `postgresql://…`, or None for `<data_dir>/ledger.db`.

    Every method may raise `LedgerUnavailable`: the database is full, locked, unreachable or gone, nothing
    was written, and the caller keeps what it wanted to write. A SQLite ledger may be open in several
    processes of one host; elsewhere `start` raises `LedgerOnAnotherHost`.
    """

    on_ended: Callable[[Sequence[fold.EndedRun]], None] | None = None
    """Told of runs that events have ended, once in all processes for each time that one ends."""
    _sql: fold.Statements | None = None

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Write events, given as (id in the stream, JSON); writing one twice changes nothing.

        All are written when this returns. One that cannot be read or written is kept in the table of rejected
        events and never keeps the others back.
        """
        if events:
            ended = await self._in_lane("writes", lambda: self._append(events))
            if ended and self.on_ended is not None:
                self.on_ended(ended)

    async def used_counters(self, now: Millis, *, idle_since: Millis = 0) -> dict[str, tuple[Nano, Millis]]:
        """Every counter that has not expired: (used, expires_at), the fold of the ledger.

        `expires_at` is 0 for a counter without a window; of those, `idle_since` leaves out what was last
        charged before that time, as a store would have forgotten it too.
        """
        c = schema.counters.c

        def work(conn: Connection) -> dict[str, tuple[Nano, Millis]]:
            found = conn.execute(
                select(c.counter, c.used, c.expires_at).where(
                    (c.expires_at > now) | ((c.expires_at == 0) & (c.touched_at >= idle_since))
                )
            )
            return {counter: (used, expires_at) for counter, used, expires_at in found}

        return await self._report(work)

    async def has_attempt(self, attempt_id: str) -> bool:
        """Whether the attempt is here with its real figure, not with a janitor's guess; or was here."""
        c, gone = schema.steps.c, schema.removed_steps.c

        def work(conn: Connection) -> bool:
            found = conn.execute(select(c.provisional).where(c.id == attempt_id, c.kind == "attempt")).first()
            if found is None:
                return conn.execute(select(gone.id).where(gone.id == attempt_id)).first() is not None
            return not found[0]

        return await self._read(work)

    async def forget_counters(self, before: Millis) -> int:
        """Drop windowed counters that expired before `before`; how many. Their attempts stay."""
        c = schema.counters.c

        def work(conn: Connection) -> int:
            known = _forgotten_before(conn)
            if before > known:
                mark = {"name": "counters_forgotten", "value": str(before)}
                conn.execute(delete(schema.meta).where(schema.meta.c.name == mark["name"]))
                conn.execute(schema.meta.insert(), mark)
            f = schema.folded_counters.c
            conn.execute(delete(schema.folded_counters).where(f.expires_at != 0, f.expires_at < before))
            return conn.execute(
                delete(schema.counters).where(c.expires_at != 0, c.expires_at < before)
            ).rowcount

        return await self._write(work, lock=LOCK_EVENTS)

    async def verify(self) -> list[Difference]:
        """Fold all attempts again and compare: runs, tool tables, counters. Empty when everything agrees.

        Reads the whole ledger; on a large one it takes seconds per million steps.
        """
        return await self._report(_verify)

    async def rejected(self, limit: int = 100) -> list[Json]:
        """Events that could not be written, newest first: `digest entry at error event`."""
        r = schema.rejected
        return await self._report(
            lambda conn: [
                dict(row)
                for row in conn.execute(select(r).order_by(r.c.at.desc(), r.c.digest).limit(limit)).mappings()
            ]
        )

    def _fold(self, conn: Connection, told: Sequence[Event | Note]) -> list[fold.EndedRun]:
        if self._sql is None:
            self._sql = fold.Statements(conn.dialect)
        notes = [event for event in told if isinstance(event, Note)]
        events: Sequence[Event] = [event for event in told if not isinstance(event, Note)]
        events = self._lawful(conn, events) if events else []
        written = fold.Written()
        ended: list[fold.EndedRun] = []
        if events:
            ended = fold.append(conn, self._sql, events, written)
            keep_findings(conn, events)
        self.chain_events(conn, written, notes)
        return ended

    def _append(self, events: Sequence[tuple[str, bytes]]) -> list[fold.EndedRun]:
        good: list[tuple[str, bytes, Event | Note]] = []
        bad: list[tuple[str, bytes, str]] = []
        for entry, raw in events:
            try:
                good.append((entry, raw, parse(raw)))
            except BadEvent as error:
                bad.append((entry, raw, str(error)))

        def together(conn: Connection) -> list[fold.EndedRun]:
            ended = self._fold(conn, [event for _, _, event in good])
            _reject(conn, bad)
            return ended

        try:
            ended = self._transact(together, True, LOCK_EVENTS, True)
        except VALUE_ERRORS:
            ended = self._append_singly(good, bad)
        self._checkpoint_soon()
        return ended

    def _append_singly(
        self, good: Sequence[tuple[str, bytes, Event | Note]], bad: list[tuple[str, bytes, str]]
    ) -> list[fold.EndedRun]:
        """The slow way, for a batch with an event that the database refuses."""
        ended: list[fold.EndedRun] = []
        for entry, raw, event in good:
            try:
                ended += self._transact(partial(self._fold, told=[event]), True, LOCK_EVENTS, True)
            except VALUE_ERRORS as error:
                bad.append((entry, raw, str(getattr(error, "orig", None) or error)))
        self._transact(lambda conn: _reject(conn, bad), True, None, True)
        return ended


def _reject(conn: Connection, bad: Sequence[tuple[str, bytes, str]]) -> None:
    if not bad:
        return
    make: Any = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    now = int(time.time() * 1000)
    rows = [
        {
            "digest": hashlib.sha256(raw).hexdigest(),
            "entry": _printable(entry.encode("utf-8", "surrogatepass")),
            "at": now,
            "error": _printable(error.encode("utf-8", "surrogatepass"))[:500],
            "event": _printable(raw),
        }
        for entry, raw, error in bad
    ]
    conn.execute(make(schema.rejected).on_conflict_do_nothing(), rows)


def _printable(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")


def _forgotten_before(conn: Connection) -> Millis:
    value = conn.execute(
        select(schema.meta.c.value).where(schema.meta.c.name == "counters_forgotten")
    ).scalar()
    return int(value or 0)


def _verify(conn: Connection) -> list[Difference]:
    folded_ledger = fold.Folded()
    differences = start_from_folded(conn, folded_ledger)
    for attempt in _all_attempts(conn):
        folded_ledger.add(attempt)

    kept: dict[str, int] = {
        run: count
        for run, count in conn.exec_driver_sql(
            "SELECT run, count(*) FROM gw_steps WHERE kind = 'refusal' AND run <> '' GROUP BY run"
        )
    }
    stored_runs = {}
    for row in conn.execute(select(schema.runs)).mappings():
        stored_runs[row["id"]] = dict(zip(fold.TOTALS, fold.RunState.stored(dict(row)).totals(), strict=True))
        if row["refusals_kept"] != kept.pop(row["id"], 0) or row["refusals"] < row["refusals_kept"]:
            differences.append(Difference("runs", row["id"], "refusals_kept", row["refusals_kept"], None))
    differences.extend(Difference("runs", run, "refusals_kept", None, count) for run, count in kept.items())
    folded_runs = {
        run: dict(zip(fold.TOTALS, state.totals(), strict=True)) for run, state in folded_ledger.runs.items()
    }
    nothing = dict(zip(fold.TOTALS, fold.RunState("", new=True).totals(), strict=True))
    for run in stored_runs.keys() | folded_runs.keys():
        stored, folded = stored_runs.get(run), folded_runs.get(run, nothing)
        if stored is None:
            differences.append(Difference("runs", run, "id", None, run))
            continue
        differences.extend(
            Difference("runs", run, name, stored[name], folded[name])
            for name in fold.TOTALS
            if stored[name] != folded[name]
        )

    forgotten = _forgotten_before(conn)
    c = schema.counters.c
    stored_counters = {row[0]: row[1] for row in conn.execute(select(c.counter, c.used))}
    counters = folded_ledger.charges.moved
    for counter in stored_counters.keys() | counters.keys():
        used, expires_at, _ = counters.get(counter, (0, 0, 0))
        if 0 < expires_at < forgotten:
            continue
        if stored_counters.get(counter, 0) != used:
            differences.append(Difference("counters", counter, "used", stored_counters.get(counter, 0), used))

    stored_calls = {tuple(row[:4]): row[4] for row in conn.execute(select(schema.tool_calls))}
    stored_failures = {tuple(row[:3]): row[3] for row in conn.execute(select(schema.tool_failures))}
    tools: tuple[tuple[str, dict[Any, int], Any], ...] = (
        ("tool_calls", stored_calls, folded_ledger.calls),
        ("tool_failures", stored_failures, folded_ledger.failures),
    )
    for table, there, expected in tools:
        differences.extend(
            Difference(table, repr(key), "count", there.get(key, 0), expected.get(key, 0))
            for key in there.keys() | expected.keys()
            if there.get(key, 0) != expected.get(key, 0)
        )
    return differences


def _all_attempts(conn: Connection) -> Iterator[Attempt]:
    found = conn.execute(
        select(schema.steps).where(schema.steps.c.kind == "attempt"), execution_options={"yield_per": 1000}
    )
    return (stored_attempt(dict(row)) for row in found.mappings())


if TYPE_CHECKING:
    from pathlib import Path

    _: Ledger = SqlLedger(None, data_dir=Path())
