"""Runs whose ending is to be told to OpenTelemetry: a queue that outlives every process, emptied by any.

A run is put in when an event of its ending is written. Whoever takes it out first exports the span of the
whole run, so it is exported once, however many processes see the ending and whichever of them is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_database import Database
from gateway.stores.ledger_events import clip
from gateway.stores.ledger_reports import read_run

MAX_CHILDREN = 1000
"""Children that are looked up for all the runs that are taken together."""


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run in the queue, as the ledger knows it now."""

    run: str
    status: str
    status_at: Millis
    tool_calls: int


class RunTraces(Database):
    """The queue. Every method may raise `LedgerUnavailable`."""

    async def note_endings(self, endings: Mapping[str, Millis]) -> None:
        """Put runs in, each with the time from which on it may be taken. One that was taken stays so."""
        rows = [{"run": clip(run), "due_at": due_at} for run, due_at in endings.items()]

        def work(conn: Connection) -> None:
            make: Any = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
            added = make(schema.run_traces)
            conn.execute(
                added.on_conflict_do_update(
                    index_elements=["run"],
                    set_={"due_at": added.excluded.due_at},
                    where=schema.run_traces.c.taken_at.is_(None),
                ),
                rows,
            )

        if rows:
            await self._write(work, repeatable=True)

    async def ended_runs(self, now: Millis, limit: int = 100) -> list[EndedRun]:
        """Runs that may be taken, those first that have waited for longest."""
        t, r = schema.run_traces.c, schema.runs.c
        query = (
            select(t.run, r.status, r.status_at, r.tool_calls)
            .join(schema.runs, r.id == t.run)
            .where(t.taken_at.is_(None), t.due_at <= now)
            .order_by(t.due_at, t.run)
            .limit(limit)
        )
        return await self._read(lambda conn: [EndedRun(*row) for row in conn.execute(query)])

    async def take_endings(self, runs: Sequence[str], now: Millis) -> list[Json]:
        """Those of the runs that this call is the one to take, as `run` of the reports has them, without
        `tools`, and with `status_at`."""
        t, r, s = schema.run_traces.c, schema.runs.c, schema.steps.c
        taken = update(schema.run_traces).where(t.run.in_(runs), t.taken_at.is_(None)).values(taken_at=now)

        def work(conn: Connection) -> list[Json]:
            mine = list(conn.execute(taken.returning(t.run)).scalars())
            told: dict[str, Json] = {}
            for row in conn.execute(select(schema.runs).where(r.id.in_(mine))).mappings():
                run = read_run(dict(row))
                told[row["id"]] = {**run, "status_at": row["status_at"], "children": []}
            # A run is on record from when it was found, its first step from when it was asked.
            began = select(s.run, func.min(s.at)).where(s.run.in_(mine)).group_by(s.run)
            for run_id, at in conn.execute(began):
                if run_id in told:
                    told[run_id]["started_at"] = min(told[run_id]["started_at"], at)
            born = select(r.parent, r.id).where(r.parent.in_(mine)).order_by(r.started_at, r.id)
            for parent, child in conn.execute(born.limit(MAX_CHILDREN)):
                if parent in told:
                    told[parent]["children"].append(child)
            return list(told.values())

        return await self._write(work) if runs else []

    async def wait_for_endings(self, runs: Sequence[str], due_at: Millis) -> None:
        """Look at these runs later."""
        if not runs:
            return
        t = schema.run_traces.c
        query = update(schema.run_traces).where(t.run.in_(runs), t.taken_at.is_(None)).values(due_at=due_at)
        await self._write(lambda conn: conn.execute(query), repeatable=True)

    async def drop_endings(self, runs: Sequence[str]) -> None:
        """Take runs out that go on after all; their next ending puts them in again."""
        if not runs:
            return
        t = schema.run_traces.c
        query = delete(schema.run_traces).where(t.run.in_(runs), t.taken_at.is_(None))
        await self._write(lambda conn: conn.execute(query), repeatable=True)

    async def forget_endings(self, before: Millis) -> None:
        """Drop what was put in before so long that nobody asks any more."""
        query = delete(schema.run_traces).where(schema.run_traces.c.due_at < before)
        await self._write(lambda conn: conn.execute(query), repeatable=True)
