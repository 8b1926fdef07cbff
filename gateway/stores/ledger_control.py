"""The control plane's records: keys, admin tokens, kills, top-ups, policy versions, and the audit chain.

Each change moves one revision number in its own transaction. Workers poll that number, which is one indexed
row, and read the records again only when it has moved.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, RowMapping, Table, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import GENESIS, AuditCheck, AuditEntry, AuditRecord, seal, verify_chain
from gateway.stores.ledger_database import LOCK_AUDIT, Database

R = TypeVar("R")


class LedgerConflict(ValueError):  # noqa: N818 - reads as what it is
    """Something active already has this name, id or digest, or there is no such thing to change."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A gateway key. `digest` is the HMAC of the secret; the secret itself is nowhere."""

    id: str
    name: str
    digest: str
    created_at: Millis
    created_by: str
    user: str | None = None
    team: str | None = None
    models: tuple[str, ...] | None = None
    """Models that it may reach; `None` means all."""
    expires_at: Millis | None = None
    revoked_at: Millis | None = None

    def valid(self, now: Millis) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """An admin token. `role` is `viewer`, `operator` or `admin`."""

    id: str
    name: str
    digest: str
    role: str
    created_at: Millis
    created_by: str
    expires_at: Millis | None = None
    revoked_at: Millis | None = None

    def valid(self, now: Millis) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


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


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A policy as it was sent. At most one active version has share 1 and at most one less."""

    version: str
    text: str
    author: str
    note: str
    at: Millis
    share: float = 1.0
    """Share of new runs that it governs while active, 0 to 1."""
    active: bool = False
    activated_at: Millis | None = None
    activated_by: str | None = None


class ControlPlane(Database):
    """Writing and reading the control plane's records. Every method may raise `LedgerUnavailable`."""

    async def revision(self) -> int:
        """A number that grows with every change of keys, tokens, kills, top-ups and policy versions."""
        return await self._read(lambda conn: int(conn.execute(select(schema.revision.c.value)).scalar_one()))

    # Keys and tokens

    async def add_key(self, key: KeyRecord) -> None:
        """Raises `LedgerConflict` when a key in force has that name, or any key that id or digest."""
        await self._add_credential(schema.keys, _key_row(key), key.created_at)

    async def revoke_key(self, key_id: str, at: Millis) -> bool:
        """False when there is no such key in force."""
        return await self._revoke(schema.keys, key_id, at)

    async def keys(self, *, include_revoked: bool = False) -> list[KeyRecord]:
        """Keys by name, expired ones included."""
        rows = await self._credentials(schema.keys, include_revoked)
        return [
            KeyRecord(
                **{**row, "models": None if row["models"] is None else tuple(orjson.loads(row["models"]))}
            )
            for row in rows
        ]

    async def add_token(self, token: TokenRecord) -> None:
        """Raises `LedgerConflict` when a token in force has that name, or any token that id or digest."""
        await self._add_credential(schema.tokens, asdict(token), token.created_at)

    async def revoke_token(self, token_id: str, at: Millis) -> bool:
        """False when there is no such token in force."""
        return await self._revoke(schema.tokens, token_id, at)

    async def tokens(self, *, include_revoked: bool = False) -> list[TokenRecord]:
        """Admin tokens by name, expired ones included."""
        return [TokenRecord(**row) for row in await self._credentials(schema.tokens, include_revoked)]

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
            _bump(conn)
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
                _bump(conn)
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
                conn.execute(_insert(conn, schema.kill_obeyed).on_conflict_do_nothing(), row)
            else:
                conn.execute(
                    update(schema.kill_obeyed)
                    .where(*here)
                    .values(at=min(known.at, at), streams=max(known.streams, streams))
                )

        await self._write(work, repeatable=True)

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
            _bump(conn)
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

    # Policy versions

    async def add_policy_version(self, policy: PolicyVersion) -> bool:
        """Keep a version without activating it; false, and nothing changed, when it is known already."""
        row = {**asdict(policy), "active": False, "activated_at": None, "activated_by": None}

        def work(conn: Connection) -> bool:
            added = conn.execute(
                _insert(conn, schema.policy_versions).on_conflict_do_nothing(),
                row,
                execution_options={"preserve_rowcount": True},
            ).rowcount
            if added:
                _bump(conn)
            return added > 0

        return await self._write(work)

    async def activate_policy(self, version: str, *, share: float = 1.0, by: str, at: Millis) -> None:
        """Let a kept version govern `share` of new runs.

        Share 1 ends every other version; less ends the one that had less, and the rest stays with the
        version of share 1. Raises `LedgerConflict` when the version is not kept.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: got {share}, expected 0 to 1")
        p = schema.policy_versions.c

        def work(conn: Connection) -> None:
            _bump(conn)
            others = update(schema.policy_versions).where(p.active, p.version != version)
            conn.execute((others if share == 1 else others.where(p.share < 1)).values(active=False))
            changed = conn.execute(
                update(schema.policy_versions)
                .where(p.version == version)
                .values(active=True, share=share, activated_at=at, activated_by=by)
            ).rowcount
            if not changed:
                raise LedgerConflict(f"there is no policy version '{version}'")

        await self._write(work)

    async def deactivate_policy(self, version: str) -> bool:
        """End a version; false when it was not active."""
        p = schema.policy_versions.c

        def work(conn: Connection) -> bool:
            ended = conn.execute(
                update(schema.policy_versions).where(p.version == version, p.active).values(active=False)
            ).rowcount
            if ended:
                _bump(conn)
            return ended > 0

        return await self._write(work)

    async def policy_versions(self, *, limit: int = 100) -> list[PolicyVersion]:
        """The newest versions, by the time they were added."""
        p = schema.policy_versions
        query = select(p).order_by(p.c.at.desc(), p.c.version).limit(limit)
        return await self._read(lambda conn: [PolicyVersion(**row) for row in conn.execute(query).mappings()])

    async def policy_version(self, version: str) -> PolicyVersion | None:
        """One version by its hash."""
        query = select(schema.policy_versions).where(schema.policy_versions.c.version == version)

        def work(conn: Connection) -> PolicyVersion | None:
            row = conn.execute(query).mappings().first()
            return PolicyVersion(**row) if row is not None else None

        return await self._read(work)

    async def active_policies(self) -> list[PolicyVersion]:
        """The active versions, the one with the larger share first."""
        p = schema.policy_versions
        query = select(p).where(p.c.active).order_by(p.c.share.desc(), p.c.version)
        return await self._read(lambda conn: [PolicyVersion(**row) for row in conn.execute(query).mappings()])

    # Audit

    async def audit_append(self, entries: Sequence[AuditEntry]) -> list[AuditRecord]:
        """Chain entries in their order, all or none, and give their records.

        One process at a time extends the chain, so it never forks. An entry whose `ref` is in the chain
        already is not added again; its record of then is given.
        """

        return await self._write(lambda conn: chain(conn, entries), lock=LOCK_AUDIT)

    async def audit_list(
        self, *, after: int = 0, limit: int = 100, newest_first: bool = False
    ) -> list[AuditRecord]:
        """Records with `seq` above `after` (below it when newest first, where 0 means from the end)."""
        seq = schema.audit.c.seq
        query = select(schema.audit).limit(limit)
        if newest_first:
            query = query.order_by(seq.desc())
            query = query.where(seq < after) if after else query
        else:
            query = query.order_by(seq).where(seq > after)
        return await self._read(lambda conn: [_record(row) for row in conn.execute(query).mappings()])

    async def audit_verify(self) -> AuditCheck:
        """Check the whole chain, and that its end is where the ledger noted it."""

        def work(conn: Connection) -> AuditCheck:
            found = conn.execute(
                select(schema.audit).order_by(schema.audit.c.seq), execution_options={"yield_per": 1000}
            )
            check = verify_chain(_record(row) for row in found.mappings())
            noted = conn.execute(
                select(schema.meta.c.value).where(schema.meta.c.name == "audit_head")
            ).scalar()
            expected = f"{check.records}:{check.head}" if check.records else None
            if check.ok and noted != expected:
                return AuditCheck(
                    False, check.records, check.head, check.records + 1, "records are missing at the end"
                )
            return check

        return await self._report(work)

    # Alerts

    async def claim_alert(self, subject: str, *, at: Millis, until: Millis) -> bool:
        """Whether nobody, in any process, has claimed `subject` before; it is free again at `until`."""

        def work(conn: Connection) -> bool:
            table = schema.alert_claims
            conn.execute(delete(table).where(table.c.expires_at <= at))
            claimed = conn.execute(
                _insert(conn, table).on_conflict_do_nothing(),
                {"subject": subject, "expires_at": until},
                execution_options={"preserve_rowcount": True},
            ).rowcount
            return claimed > 0

        return await self._write(work)

    # Shared by keys and tokens

    async def _add_credential(self, table: Table, row: Json, now: Millis) -> None:
        c = table.c

        def work(conn: Connection) -> None:
            _bump(conn)
            taken = conn.execute(
                select(c.id).where(
                    (
                        (c.name == row["name"])
                        & c.revoked_at.is_(None)
                        & or_(c.expires_at.is_(None), c.expires_at > now)
                    )
                    | (c.id == row["id"])
                    | (c.digest == row["digest"])
                )
            ).first()
            if taken is not None:
                raise LedgerConflict(f"'{row['name']}' is in use already")
            conn.execute(insert(table), row)

        await self._write(work)

    async def _revoke(self, table: Table, record_id: str, at: Millis) -> bool:
        def work(conn: Connection) -> bool:
            revoked = conn.execute(
                update(table)
                .where(table.c.id == record_id, table.c.revoked_at.is_(None))
                .values(revoked_at=at)
            ).rowcount
            if revoked:
                _bump(conn)
            return revoked > 0

        return await self._write(work)

    async def _credentials(self, table: Table, include_revoked: bool) -> list[Json]:
        query = select(table).order_by(table.c.name, table.c.created_at)
        if not include_revoked:
            query = query.where(table.c.revoked_at.is_(None))
        return await self._read(lambda conn: [dict(row) for row in conn.execute(query).mappings()])


def chain(conn: Connection, entries: Sequence[AuditEntry]) -> list[AuditRecord]:
    """`ControlPlane.audit_append` within a transaction that holds `LOCK_AUDIT`."""
    a = schema.audit.c
    last = conn.execute(select(a.seq, a.hash).order_by(a.seq.desc()).limit(1)).first()
    seq, head = (last.seq, last.hash) if last is not None else (0, GENESIS)
    refs = [entry.ref for entry in entries if entry.ref is not None]
    known: dict[str | None, AuditRecord] = {}
    if refs:
        found = conn.execute(select(schema.audit).where(a.ref.in_(refs))).mappings()
        known = {row["ref"]: _record(row) for row in found}
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
        conn.execute(
            insert(schema.audit),
            [{**asdict(r), "details": orjson.dumps(r.details).decode()} for r in added],
        )
        conn.execute(delete(schema.meta).where(schema.meta.c.name == "audit_head"))
        conn.execute(insert(schema.meta), {"name": "audit_head", "value": f"{seq}:{head}"})
    return records


def _bump(conn: Connection) -> None:
    """Move the revision. Done first where it can be: on Postgres it makes such changes wait for each
    other."""
    conn.execute(update(schema.revision).values(value=schema.revision.c.value + 1))


def _insert(conn: Connection, table: Table) -> Any:
    return (sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert)(table)


def _row(record: Any, table: Table) -> Json:
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name in table.c}


def _key_row(key: KeyRecord) -> Json:
    row = asdict(key)
    row["models"] = None if key.models is None else orjson.dumps(key.models).decode()
    return row


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


def _record(row: RowMapping) -> AuditRecord:
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
