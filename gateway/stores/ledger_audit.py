"""The audit log: a chain of records about what operators changed and what the gateway decided.

    events ──► fold ──► records of decisions ──► the chain      one transaction: neither lost nor doubled
                 └────► digests of the steps ──► sealed by one record, ten seconds' worth at a time

So what steps came to is in the chain too, at the price of a record for hundreds of them. Who changes a
step afterwards, or removes one, is found by its digest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, func, select, update

from gateway.domain import Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditCheck, AuditEntry, AuditRecord, ChainCheck
from gateway.stores.audit_decisions import ACTOR, FIGURES, Decisions, digests, entries, step_digest
from gateway.stores.ledger_control import audit_record, chain, noted_head
from gateway.stores.ledger_database import LOCK_AUDIT, Database
from gateway.stores.ledger_events import Note
from gateway.stores.ledger_fold import Written

SEAL_EVERY_MS = 10_000
"""Steps wait for so long, at most, until a record of the chain answers for them."""
SEAL_STEPS = 5000
SEALED, SEALING = "steps.seal", "steps.sealing"
REMOVED = "retention.removed"
"""Action of the record that says how many steps were removed for their age."""
_PIECE = 500
"""Records that are checked at a time, between which others may read."""
_PIECE_STEPS = 20_000
_CHUNK = 500


@dataclass(slots=True)
class _StepCheck:
    """The steps, as far as they were compared with their digests."""

    present: int = 0
    removed: int = 0
    earlier: int = 0
    """Steps that were there before any were sealed."""
    accepted: bool = False
    """An operator has taken steps as they were."""
    told_removed: int = 0
    replaced: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Provisional steps whose real figures are there, until those are met too: `id: (record, run)`."""
    problem: tuple[int, str] | None = None

    def found(self, seq: int, problem: str) -> None:
        """Note a problem; the first one stands."""
        if self.problem is None:
            self.problem = (seq, problem)


class AuditLog(Database):
    """Writing and reading the audit log. Every method may raise `LedgerUnavailable`."""

    audit_decisions: Decisions = "all"
    """Which decisions are recorded from now on."""
    _sealing: bool = False
    _sealed_at: Millis = 0
    _unsealed: int = 0
    """Steps that this process has written since then."""

    # -- writing ------------------------------------------------------------------------------------------

    async def audit_append(self, told: Sequence[AuditEntry]) -> list[AuditRecord]:
        """Chain entries in their order, all or none, and give their records.

        One process at a time extends the chain, so it never forks. An entry whose `ref` is in the chain
        already is not added again; its record of then is given.
        """
        return await self._write(lambda conn: chain(conn, told), lock=LOCK_AUDIT)

    def chain_events(self, conn: Connection, written: Written, notes: Sequence[Note]) -> None:
        """Record what was written, within its transaction."""
        told = entries(self.audit_decisions, written, notes)
        steps = digests(written.attempts)
        if steps:
            self._ensure_sealing(conn, len(steps))
            _keep(conn, steps, max(each.ended_at for each in written.attempts))
            self._unsealed += len(steps)
        now = time.time_ns() // 1_000_000
        due = self._unsealed and (now - self._sealed_at >= SEAL_EVERY_MS or self._unsealed >= SEAL_STEPS)
        if told or due:
            self._lock_chain(conn)
        if told:
            chain(conn, told)
        if due:
            self._seal(conn, now)

    async def audit_seal(self) -> int:
        """Let the chain answer for every step that is written; how many were not sealed before."""
        s = schema.audit_steps.c
        waiting = select(s.id).where(s.seq.is_(None)).limit(1)
        if not await self._read(lambda conn: conn.execute(waiting).first()):
            return 0
        return await self._write(lambda conn: self._seal(conn, time.time_ns() // 1_000_000), lock=LOCK_AUDIT)

    async def audit_accept(self, *, by: str, reason: str, at: Millis) -> AuditRecord:
        """Take all steps that no record answers for as they are, such as those that an older version of the
        gateway wrote beside this one."""

        def work(conn: Connection) -> AuditRecord:
            self._seal(conn, at)
            s = schema.steps.c
            count = conn.execute(select(func.count()).where(s.kind == "attempt")).scalar_one()
            told = {"steps": int(count), "accepted": True, "reason": reason}
            return chain(conn, [AuditEntry(by, SEALING, told, at)])[0]

        return await self._write(work, lock=LOCK_AUDIT)

    def _lock_chain(self, conn: Connection) -> None:
        if not self._sqlite:
            # Always after the lock of events, never before it.
            conn.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (LOCK_AUDIT,))

    def _ensure_sealing(self, conn: Connection, here: int) -> None:
        """Say once how many steps there were before any was sealed; `here` are in this transaction."""
        s = schema.steps.c
        if self._sealing:
            return
        if conn.execute(_SEALING_BEGAN).first() is not None:
            # Not so when this transaction is the first to say it: it may yet come to nothing.
            self._sealing = True
            return
        self._lock_chain(conn)
        count = conn.execute(select(func.count()).where(s.kind == "attempt")).scalar_one()
        earlier, at = max(0, int(count) - here), time.time_ns() // 1_000_000
        chain(conn, [AuditEntry(ACTOR, SEALING, {"steps": earlier}, at, SEALING)])

    def _seal(self, conn: Connection, now: Millis) -> int:
        s = schema.audit_steps
        rows = conn.execute(select(s.c.id, s.c.steps).where(s.c.seq.is_(None)).order_by(s.c.id)).all()
        self._sealed_at, self._unsealed = now, 0
        if not rows:
            return 0
        steps = sum(len(orjson.loads(text)) for _, text in rows)
        told = {"steps": steps, "digest": _digest(text for _, text in rows)}
        (record,) = chain(conn, [AuditEntry(ACTOR, SEALED, told, now)])
        for start in range(0, len(rows), _CHUNK):
            ids = [row[0] for row in rows[start : start + _CHUNK]]
            conn.execute(update(s).where(s.c.id.in_(ids)).values(seq=record.seq))
        return steps

    # -- reading ------------------------------------------------------------------------------------------

    async def audit_list(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        newest_first: bool = False,
        action: str | None = None,
        actor: str | None = None,
        since: Millis | None = None,
        run: str | None = None,
    ) -> list[AuditRecord]:
        """Records with `seq` above `after` (below it when newest first, where 0 means from the end).

        `action` may end in `*`, or begin with `!` for every other; `run` is an id that the details name.
        """
        a = schema.audit.c
        query = select(schema.audit).limit(limit)
        if newest_first:
            query = query.order_by(a.seq.desc())
            query = query.where(a.seq < after) if after else query
        else:
            query = query.order_by(a.seq).where(a.seq > after)
        if action is not None:
            name = action.removeprefix("!")
            same = a.action.startswith(name[:-1], autoescape=True) if name.endswith("*") else a.action == name
            query = query.where(~same if action.startswith("!") else same)
        if actor is not None:
            query = query.where(a.actor == actor)
        if since is not None:
            query = query.where(a.at >= since)
        if run is not None:
            query = query.where(a.details.contains(f'"run":{orjson.dumps(run).decode()}', autoescape=True))
        return await self._read(lambda conn: [audit_record(row) for row in conn.execute(query).mappings()])

    async def audit_head(self) -> tuple[int, str]:
        """Number and hash of the last record, to be noted elsewhere; 0 and zeros before there is any."""
        return await self._read(noted_head)

    async def audit_verify(self, *, steps: bool = True) -> AuditCheck:
        """Check the whole chain, that its end is where the ledger noted it, and, with `steps`, that every
        step is what it was when it was written.

        Others read and write meanwhile: the log is looked through piece by piece.
        """
        links, done = ChainCheck(), _StepCheck()
        while True:
            more = await self._report(lambda conn: self._check_piece(conn, links, done if steps else None))
            if not more:
                break
        found = links.result()
        if found.ok and done.problem is not None:
            seq, problem = done.problem
            found = AuditCheck(False, found.records, found.head, seq, problem)
        return AuditCheck(found.ok, found.records, found.head, found.broken_at, found.reason, done.present)

    def _check_piece(self, conn: Connection, links: ChainCheck, steps: _StepCheck | None) -> bool:
        """Check some records; whether there may be more. The last piece sees the end as it is."""
        a = schema.audit
        query = select(a).where(a.c.seq >= links.seq).order_by(a.c.seq).limit(_PIECE)
        seen, compared = 0, 0
        for row in conn.execute(query).mappings():
            record = audit_record(row)
            if not links.add(record):
                return False
            seen += 1
            if steps is not None:
                compared += _check_steps(conn, record, steps)
                if compared >= _PIECE_STEPS:
                    return True
        if seen == _PIECE:
            return True
        links.end(*noted_head(conn))
        if steps is not None:
            _check_all(conn, steps)
        return False


def _keep(conn: Connection, steps: Sequence[tuple[str, str, int]], at: Millis) -> None:
    text = orjson.dumps(steps).decode()
    mark = "?" if conn.dialect.name == "sqlite" else "%s"
    conn.exec_driver_sql(f"INSERT INTO gw_audit_steps (at, steps) VALUES ({mark}, {mark})", (at, text))  # noqa: S608


def _digest(texts: Any) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode())
        whole.update(b"\n")
    return whole.hexdigest()


def _check_steps(conn: Connection, record: AuditRecord, check: _StepCheck) -> int:
    """Compare the steps that a record answers for with what they are; how many those are."""
    if record.action == SEALING:
        told = _count(record.details.get("steps"))
        check.earlier = max(0, told - check.present)
        check.accepted = check.accepted or record.details.get("accepted") is True
    if record.action == REMOVED:
        rows = record.details.get("rows")
        check.told_removed += _count(rows.get("steps")) if isinstance(rows, Mapping) else 0
    if record.action != SEALED:
        return 0
    s = schema.audit_steps.c
    texts = conn.execute(select(s.steps).where(s.seq == record.seq).order_by(s.id)).scalars().all()
    if _digest(texts) != record.details.get("digest"):
        check.found(record.seq, f"the list of steps that record {record.seq} seals was changed")
        return 0
    count = 0
    for text in texts:
        listed = orjson.loads(text)
        for start in range(0, len(listed), _CHUNK):
            _compare(conn, record.seq, listed[start : start + _CHUNK], check)
        count += len(listed)
    return count


def _compare(conn: Connection, seq: int, listed: Sequence[Any], check: _StepCheck) -> None:
    """Compare steps with their digests: `[id, digest, provisional]` each."""
    c = schema.steps.c
    ids = [each[0] for each in listed]
    query = select(*(c[name] for name in FIGURES)).where(c.id.in_(ids), c.kind == "attempt")
    rows = {row[0]: list(row) for row in conn.execute(query)}
    missing = [each[0] for each in listed if each[0] not in rows]
    gone: set[str] = set()
    if missing:
        r = schema.removed_steps.c
        gone = set(conn.execute(select(r.id).where(r.id.in_(missing))).scalars())
    for step, digest, provisional in listed:
        row = rows.get(step)
        if row is None:
            if step not in gone:
                check.found(seq, f"step {step} is missing")
            elif not provisional:
                check.removed += 1
                check.replaced.pop(step, None)
        elif step_digest(row) == digest:
            check.present += 1
            check.replaced.pop(step, None)
        elif provisional and not row[1]:
            check.replaced[step] = (seq, row[2])
        else:
            check.found(seq, f"step {step} of run {row[2]} was changed")


def _check_all(conn: Connection, check: _StepCheck) -> None:
    """What can be said once every record was met: nothing is left over on either side."""
    s, listed = schema.steps.c, schema.audit_steps.c
    for text in conn.execute(select(listed.steps).where(listed.seq.is_(None)).order_by(listed.id)).scalars():
        rows = orjson.loads(text)
        for start in range(0, len(rows), _CHUNK):
            _compare(conn, 0, rows[start : start + _CHUNK], check)
    for step, (seq, run) in check.replaced.items():
        check.found(seq, f"step {step} of run {run} was changed")
    r, c = schema.removed_steps.c, schema.claims.c
    under_way = conn.execute(select(c.state).where(c.state.contains('"steps"'))).scalars().all()
    telling = sum(_rows_told(state) for state in under_way)
    if check.removed > check.told_removed + telling:
        count = check.removed - check.told_removed - telling
        check.found(0, f"{count} steps were removed and no record says so")
    count = conn.execute(select(func.count()).where(s.kind == "attempt")).scalar_one()
    beside = int(count) - check.present
    if beside > check.earlier:
        check.found(
            0, f"{beside - check.earlier} steps are in no record: written by hand or by an older version"
        )
    elif beside < check.earlier and not check.accepted and not conn.execute(select(r.id).limit(1)).first():
        check.found(0, f"{check.earlier - beside} steps from before the first record are missing")


def _rows_told(state: str) -> int:
    try:
        rows = orjson.loads(state).get("rows")
    except (orjson.JSONDecodeError, AttributeError):
        return 0
    return _count(rows.get("steps")) if isinstance(rows, Mapping) else 0


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


_SEALING_BEGAN = select(schema.audit.c.seq).where(schema.audit.c.ref == SEALING)
