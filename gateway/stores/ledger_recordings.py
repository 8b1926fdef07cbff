"""What steps held, as the recorder has sealed it, and the records of steps as they are replayed.

Nothing is opened here: `gateway.replay.recorder` has the keys. A record is written once, and deleted when it
expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_database import Database

_AT_ONCE = 500
"""Ids in one statement; SQLite takes 32,766 at most."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A sealed request or answer. `prefix` and `suffix` are bytes that it shares with `base` at both ends."""

    id: str
    run: str
    kind: str
    at: Millis
    expires_at: Millis
    base: str | None
    prefix: int
    suffix: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """What an attempt cost and where it counts."""

    run: str
    session: str
    principal: str
    key: str
    user: str
    team: str | None
    surface: str
    model: str
    agent: str
    tags: dict[str, str]
    at: Millis
    cost: Nano


class Recordings(Database):
    """Writing and reading recordings. Every method may raise `LedgerUnavailable`."""

    async def add_recordings(self, recordings: Sequence[Recording]) -> None:
        """Write records; one that is there already stays as it is."""
        rows = [asdict(recording) for recording in recordings]

        def work(conn: Connection) -> None:
            make: Any = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
            conn.execute(make(schema.recordings).on_conflict_do_nothing(), rows)

        if rows:
            await self._write(work, repeatable=True)

    async def recordings(self, run: str, now: Millis) -> list[Recording]:
        """What is kept of a run's steps and has not expired, oldest first."""
        r = schema.recordings.c
        query = select(schema.recordings).where(r.run == run, r.expires_at > now).order_by(r.at, r.kind, r.id)
        return await self._report(lambda conn: [Recording(**row) for row in conn.execute(query).mappings()])

    async def recordings_of(self, runs: Sequence[str], now: Millis) -> dict[str, list[Recording]]:
        """The same of several runs."""
        r = schema.recordings.c

        def work(conn: Connection) -> dict[str, list[Recording]]:
            found: dict[str, list[Recording]] = {run: [] for run in runs}
            for some in _by_many(runs):
                query = select(schema.recordings).where(r.run.in_(some), r.expires_at > now)
                for row in conn.execute(query).mappings():
                    found[row["run"]].append(Recording(**row))
            return found

        return await self._report(work)

    async def forget_recordings(
        self, *, before: Millis | None = None, runs: Iterable[str] | None = None, limit: int = 5000
    ) -> int:
        """Delete what has expired by `before`, or what is kept of `runs`; how many records. Of those that
        have expired at most `limit` at a time, so that other writers get their turn."""
        r = schema.recordings.c

        def expired(conn: Connection) -> int:
            oldest = select(r.id).where(r.expires_at <= before).limit(limit)
            return conn.execute(delete(schema.recordings).where(r.id.in_(oldest))).rowcount

        def of_runs(conn: Connection) -> int:
            return sum(
                conn.execute(delete(schema.recordings).where(r.run.in_(some))).rowcount
                for some in _by_many(list(runs or ()))
            )

        return await self._write(expired if before is not None else of_runs)

    # -- what is replayed ---------------------------------------------------------------------------

    async def recorded_runs(self, since: Millis, *, limit: int) -> tuple[list[str], bool]:
        """Ids of the runs with a step since then, the latest first, and whether there are more than so many
        steps: whole runs with `limit` steps together, at least one."""
        r = schema.runs.c
        query = (
            select(r.id, r.attempts, r.refusals_kept)
            .where(or_(r.last_step_at >= since, r.started_at >= since))
            .order_by(r.last_step_at.desc(), r.id.desc())
        )

        def work(conn: Connection) -> tuple[list[str], bool]:
            chosen: list[str] = []
            left = limit
            for run, attempts, refusals in conn.execute(query):
                left -= (attempts or 0) + (refusals or 0)
                if left < 0 and chosen:
                    return chosen, True
                chosen.append(run)
            return chosen, left < 0

        return await self._report(work)

    async def records_of(self, runs: Sequence[str]) -> tuple[dict[str, Json], list[Json]]:
        """The rows of these runs by id, and all their steps in the order in which they began."""

        def work(conn: Connection) -> tuple[dict[str, Json], list[Json]]:
            known: dict[str, Json] = {}
            steps: list[Json] = []
            for some in _by_many(runs):
                for row in conn.execute(select(schema.runs).where(schema.runs.c.id.in_(some))).mappings():
                    known[row["id"]] = _whole(dict(row))
                found = conn.execute(select(schema.steps).where(schema.steps.c.run.in_(some)))
                steps += [_whole(dict(row)) for row in found.mappings()]
            steps.sort(key=lambda step: (step["at"], step["ordinal"], step["ended_at"], step["id"]))
            return known, steps

        return await self._report(work)

    async def spent_by_others(
        self, since: Millis, until: Millis, besides: Sequence[str], *, limit: int
    ) -> tuple[list[Spent], bool]:
        """What attempts of other runs cost in a time, the first first; and whether these are not all."""
        s, r = schema.steps.c, schema.runs.c
        query = (
            select(
                s.run,
                s.session,
                s.principal,
                s.key,
                s.user,
                s.team,
                s.surface,
                s.requested_model,
                r.agent,
                s.tags,
                s.at,
                s.cost,
            )
            .join(schema.runs, r.id == s.run, isouter=True)
            .where(s.at >= since, s.at < until, s.kind == "attempt", s.cost > 0)
            .order_by(s.at.desc())
            .limit(limit + 1)
        )
        left_out = set(besides)

        def work(conn: Connection) -> tuple[list[Spent], bool]:
            rows = conn.execute(query).all()
            spent = [
                Spent(
                    row[0],
                    row[1] or "",
                    row[2] or "",
                    row[3] or "",
                    row[4] or "",
                    row[5],
                    row[6] or "chat",
                    row[7] or "",
                    row[8] or "",
                    orjson.loads(row[9] or "{}"),
                    row[10],
                    row[11],
                )
                for row in rows[:limit]
                if row[0] not in left_out
            ]
            return sorted(spent, key=lambda each: each.at), len(rows) > limit

        return await self._report(work)


def _whole(row: Json) -> Json:
    """A row with what its `extra` holds beside its columns."""
    extra = orjson.loads(row.pop("extra") or "{}")
    row["tags"] = orjson.loads(row["tags"] or "{}")
    return {**extra, **row}


def _by_many(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
