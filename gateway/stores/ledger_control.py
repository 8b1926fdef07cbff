"""The control plane's records: kills and top-ups, and how the audit log grows.

Each change moves one revision number in its own transaction. Workers poll that number, which is one indexed
row, and read the records again only when it has moved.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, RowMapping, Table, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import GENESIS, AuditEntry, AuditRecord, seal
from gateway.stores.ledger_database import LOCK_AUDIT, Database

R = TypeVar("R")
_CHUNK = 500
_NOTED = "SELECT value FROM gw_meta WHERE name = 'audit_head'"


class LedgerConflict(ValueError):  # noqa: N818 - reads as what it is
    """Something active already has this name, id or digest, or there is no such thing to change."""


@dataclass(frozen=True, slots=True)
class Obeyed:
    """When a worker first obeyed a kill, and how many streams it cut."""

    worker: str
    at: Millis
    streams: int


@dataclass(frozen=True, slots=True)
class KillRecord:
    """A kill, past or present. `name` is as in `Admission.kill_names`."""

    id: str
    name: str
    scope: str
    target: str
    reason: str
    by: str
    at: Millis
    expires_at: Millis | None = None
    revived_at: Millis | None = None
    revived_by: str | None = None
    obeyed: tuple[Obeyed, ...] = ()

    def active(self, now: Millis) -> bool:
        """Neither revived nor expired."""
        return self.revived_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Topup:
    """Money added to one budget of one target. `expires_at` ends it with the window it was meant for."""

    id: str
    budget: str
    target: str
    amount: Nano
    reason: str
    by: str
    at: Millis
    expires_at: Millis | None = None


class ControlPlane(Database):
    """Writing and reading the control plane's records. Every method may raise `LedgerUnavailable`."""

    async def revision(self) -> int:
        """A number that grows with every change of keys, tokens, kills, top-ups and policy versions."""
        return await self._read(lambda conn: int(conn.execute(select(schema.revision.c.value)).scalar_one()))

    # Kills

    async def add_kill(
        self,
        *,
        name: str,
        scope: str,
        target: str,
        reason: str,
        by: str,
        at: Millis,
        expires_at: Millis | None = None,
    ) -> KillRecord:
        """Record a kill; one in force with the same name is replaced by it."""
        kill = KillRecord(uuid.uuid4().hex, name, scope, target, reason, by, at, expires_at)
        k = schema.kills.c

        def work(conn: Connection) -> None:
            bump(conn)
            conn.execute(
                update(schema.kills)
                .where(k.name == name, k.revived_at.is_(None))
                .values(revived_at=at, revived_by=by)
            )
            conn.execute(insert(schema.kills), _row(kill, schema.kills))

        await self._write(work)
        return kill

    async def revive(self, name: str, *, by: str, at: Millis) -> bool:
        """End a kill; false when none of that name is in force."""
        k = schema.kills.c

        def work(conn: Connection) -> bool:
            ended = conn.execute(
                update(schema.kills)
                .where(k.name == name, k.revived_at.is_(None), or_(k.expires_at.is_(None), k.expires_at > at))
                .values(revived_at=at, revived_by=by)
            ).rowcount
            if ended:
                bump(conn)
            return ended > 0

        return await self._write(work)

    async def active_kills(self, now: Millis) -> list[KillRecord]:
        """Kills in force, newest first."""
        k = schema.kills.c
        query = select(schema.kills).where(
            k.revived_at.is_(None), or_(k.expires_at.is_(None), k.expires_at > now)
        )
        return await self._read(lambda conn: _kills(conn, query.order_by(k.at.desc(), k.id)))

    async def kills(self, *, limit: int = 100) -> list[KillRecord]:
        """The newest kills, past ones included."""
        k = schema.kills.c
        query = select(schema.kills).order_by(k.at.desc(), k.id).limit(limit)
        return await self._read(lambda conn: _kills(conn, query))

    async def kill(self, kill_id: str) -> KillRecord | None:
        """One kill by its id."""
        query = select(schema.kills).where(schema.kills.c.id == kill_id)
        return await self._read(lambda conn: next(iter(_kills(conn, query)), None))

    async def kill_obeyed(self, kill_id: str, *, worker: str, at: Millis, streams: int) -> None:
        """Record that a worker obeyed. Told again, the earliest time and the larger number stay."""

        def work(conn: Connection) -> None:
            o = schema.kill_obeyed.c
            here = (o.kill == kill_id, o.worker == worker)
            known = conn.execute(select(o.at, o.streams).where(*here)).first()
            if known is None:
                row = {"kill": kill_id, "worker": worker, "at": at, "streams": streams}
                conn.execute(insert_into(conn, schema.kill_obeyed).on_conflict_do_nothing(), row)
                told = {"kill": kill_id, "streams": streams}
                entry = AuditEntry(f"worker:{worker}", "kill.obey", told, at, f"kill:{kill_id}:{worker}")
                chain(conn, [entry])
            else:
                conn.execute(
                    update(schema.kill_obeyed)
                    .where(*here)
                    .values(at=min(known.at, at), streams=max(known.streams, streams))
                )

        await self._write(work, lock=LOCK_AUDIT, repeatable=True)

    # Top-ups

    async def add_topup(
        self,
        *,
        budget: str,
        target: str,
        amount: Nano,
        reason: str,
        by: str,
        at: Millis,
        expires_at: Millis | None = None,
    ) -> Topup:
        """Add money to the budget of one target; a negative amount takes back."""
        topup = Topup(uuid.uuid4().hex, budget, target, amount, reason, by, at, expires_at)

        def work(conn: Connection) -> None:
            bump(conn)
            conn.execute(insert(schema.topups), asdict(topup))

        await self._write(work)
        return topup

    async def topup_sums(self, now: Millis) -> dict[tuple[str, str], Nano]:
        """What top-ups in force add, by (budget, target)."""
        t = schema.topups.c
        query = (
            select(t.budget, t.target, func.sum(t.amount))
            .where(or_(t.expires_at.is_(None), t.expires_at > now))
            .group_by(t.budget, t.target)
        )
        return await self._read(
            lambda conn: {(budget, target): int(total) for budget, target, total in conn.execute(query)}
        )

    async def topups(
        self, *, budget: str | None = None, target: str | None = None, limit: int = 100
    ) -> list[Topup]:
        """The newest top-ups, expired ones included."""
        t = schema.topups.c
        query = select(schema.topups).order_by(t.at.desc(), t.id).limit(limit)
        if budget is not None:
            query = query.where(t.budget == budget)
        if target is not None:
            query = query.where(t.target == target)
        return await self._read(lambda conn: [Topup(**row) for row in conn.execute(query).mappings()])


def chain(conn: Connection, entries: Sequence[AuditEntry]) -> list[AuditRecord]:
    """`AuditLog.audit_append` within a transaction that holds `LOCK_AUDIT`.

    When records are missing at the end the chain goes on from where the ledger noted that it was, so that
    what is missing stays missed.
    """
    sql = _chain_sql(conn.dialect.name)
    last = conn.exec_driver_sql(sql.last).first()
    seq, head = noted_head(conn) if last is None else _head_in(last[2])
    if last is not None and last[0] >= seq:
        seq, head = last[0], last[1]
    known = _known_refs(conn, [entry.ref for entry in entries if entry.ref is not None])
    records, added = [], []
    for entry in entries:
        record = known.get(entry.ref) if entry.ref is not None else None
        if record is None:
            record = seal(_clean(entry), seq + 1, head)
            seq, head = record.seq, record.hash
            added.append(record)
            if entry.ref is not None:
                known[entry.ref] = record
        records.append(record)
    if added:
        rows = [
            (r.seq, r.at, r.actor, r.action, orjson.dumps(r.details).decode(), r.ref, r.prev_hash, r.hash)
            for r in added
        ]
        conn.exec_driver_sql(sql.insert, rows if len(rows) > 1 else rows[0])
        here = (f"{seq}:{head}",)
        if not conn.exec_driver_sql(sql.note, here).rowcount:
            conn.exec_driver_sql(sql.first_note, here)
    return records


@dataclass(frozen=True, slots=True)
class _ChainSql:
    """Statements that are executed with every batch of events, as their driver takes them."""

    last: str
    insert: str
    note: str
    first_note: str


@lru_cache
def _chain_sql(dialect: str) -> _ChainSql:
    mark = "?" if dialect == "sqlite" else "%s"
    columns = "seq, at, actor, action, details, ref, prev_hash, hash"
    return _ChainSql(
        f"SELECT seq, hash, ({_NOTED}) FROM gw_audit ORDER BY seq DESC LIMIT 1",  # noqa: S608 - our own words
        f"INSERT INTO gw_audit ({columns}) VALUES ({', '.join([mark] * 8)})",  # noqa: S608
        f"UPDATE gw_meta SET value = {mark} WHERE name = 'audit_head'",  # noqa: S608
        f"INSERT INTO gw_meta (name, value) VALUES ('audit_head', {mark})",  # noqa: S608
    )


def _known_refs(conn: Connection, refs: Sequence[str]) -> dict[str | None, AuditRecord]:
    """Records that are in the chain already."""
    known: dict[str | None, AuditRecord] = {}
    mark = "?" if conn.dialect.name == "sqlite" else "%s"
    for start in range(0, len(refs), _CHUNK):
        chunk = tuple(refs[start : start + _CHUNK])
        marks = ", ".join([mark] * len(chunk))
        found = conn.exec_driver_sql(f"SELECT ref FROM gw_audit WHERE ref IN ({marks})", chunk)  # noqa: S608
        if there := [row[0] for row in found]:
            rows = conn.execute(select(schema.audit).where(schema.audit.c.ref.in_(there))).mappings()
            known.update((row["ref"], audit_record(row)) for row in rows)
    return known


def noted_head(conn: Connection) -> tuple[int, str]:
    """Number and hash of the last record of the audit log, as the ledger noted them beside it."""
    return _head_in(conn.exec_driver_sql(_NOTED).scalar())


def _head_in(noted: str | None) -> tuple[int, str]:
    seq, _, head = (noted or "").partition(":")
    return (int(seq), head) if seq.isdecimal() and len(seq) < 16 and head else (0, GENESIS)


def bump(conn: Connection) -> None:
    """Move the revision. Done first where it can be: on Postgres it makes such changes wait for each
    other."""
    conn.execute(update(schema.revision).values(value=schema.revision.c.value + 1))


def insert_into(conn: Connection, table: Table) -> Any:
    return (sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert)(table)


def _row(record: Any, table: Table) -> Json:
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name in table.c}


def _kills(conn: Connection, query: Any) -> list[KillRecord]:
    rows = [dict(row) for row in conn.execute(query).mappings()]
    o = schema.kill_obeyed.c
    obeyed: dict[str, list[Obeyed]] = {row["id"]: [] for row in rows}
    if rows:
        found = conn.execute(
            select(schema.kill_obeyed).where(o.kill.in_(list(obeyed))).order_by(o.at, o.worker)
        )
        for row in found:
            obeyed[row.kill].append(Obeyed(row.worker, row.at, row.streams))
    return [KillRecord(**row, obeyed=tuple(obeyed[row["id"]])) for row in rows]


def audit_record(row: RowMapping) -> AuditRecord:
    """A record as its row has it."""
    return AuditRecord(**{**row, "details": orjson.loads(row["details"])})


def _clean(entry: AuditEntry) -> AuditEntry:
    """The entry as it will be read back, or its hash would not fit: no U+0000 and only JSON's types."""
    details = orjson.loads(orjson.dumps(entry.details, option=orjson.OPT_NON_STR_KEYS))
    return AuditEntry(
        entry.actor.replace("\x00", "\ufffd"),
        entry.action.replace("\x00", "\ufffd"),
        details,
        entry.at,
        entry.ref,
    )
