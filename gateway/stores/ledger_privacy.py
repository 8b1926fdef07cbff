"""Erasing what the ledger knows of a person, and handing it out.

An erasure goes through the ledger in small transactions, each of which checks that this process still holds
the work and notes how far it is. What is erased no longer answers to the person's name, so whoever goes on
after a crash finds what is left by looking again. Names become pseudonyms: an HMAC under a key that is made
for one erasure and thrown away with it. Figures stay, so sums stay exact.

    runs of the person, their steps, approvals, contents ──► steps in runs of others ──► other tables

Events that arrive late are told by an HMAC of the person's name under the gateway's own secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from gateway.domain import Json, Millis
from gateway.stores import ledger_fold as fold
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import REDACTED, AuditEntry, AuditRecord, content_digest
from gateway.stores.ledger_control import chain
from gateway.stores.ledger_cursor import make_cursor, read_cursor
from gateway.stores.ledger_database import LOCK_AUDIT, LOCK_EVENTS
from gateway.stores.ledger_events import Attempt, Event, Refusal, StatusChange, clip
from gateway.stores.ledger_reports import read_run, read_step, with_tools
from gateway.stores.ledger_retention import (
    BY_STEP,
    OF_RUNS,
    Batch,
    Began,
    Holder,
    RetentionRecords,
    forget_approvals,
    forget_beside,
    forget_refusals,
    hold,
    move_spend,
    replace_runs,
    replace_steps,
    upsert,
)
from gateway.stores.ledger_scrub import (
    PSEUDONYM,
    REMOVED,
    Rename,
    code_or_none,
    late_event,
    names_of,
    scrubbed_run,
    scrubbed_step,
)

SubjectKind = Literal["user", "end_user", "session", "key", "team"]
Phase = Literal["runs", "steps", "rest", "workers", "done"]
Place = Literal["kills", "topups", "rejected", "alerts", "feedback", "audit"]
PLACES: tuple[Place, ...] = ("kills", "topups", "rejected", "alerts", "feedback", "audit")

REMEMBERED_MS: Millis = 35 * 86_400_000
"""How long late events of an erased person are recognised: longer than a journal or a stream lies about."""
EPOCH = "privacy_epoch"
"""The row of `gw_meta` that moves when workers have to forget what they hold in memory and in their
journals."""
_CHUNK = 500
_ALSO: Mapping[str, tuple[str, ...]] = {"key": ("key", "principal"), "team": ("team", "key", "principal")}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose data is meant. An end user is meant by the bare name under every key, or as `key/name` under
    one."""

    kind: SubjectKind
    value: str

    @property
    def also(self) -> tuple[str, ...]:
        """Label columns that name the subject beside those of a person."""
        return _ALSO.get(self.kind, ())

    @property
    def is_nobody(self) -> bool:
        """Whether it is what stands in the place of a name already."""
        return any(name == REMOVED or PSEUDONYM.fullmatch(name) for name in self.names)

    @property
    def names(self) -> frozenset[str]:
        """What the subject is called."""
        if self.kind == "end_user" and "/" in self.value:
            return frozenset((self.value, self.value.partition("/")[2]))
        return frozenset((self.value,))

    def where(self, table: Table) -> ColumnElement[bool]:
        """The condition over a table with label columns."""
        c, value = table.c, clip(self.value)
        if self.kind != "end_user":
            return _is(c, self.kind, value)
        key, slash, name = value.partition("/")
        told = [_is(c, "user", value)]
        if "end_user" in c:
            told.append(c.end_user == value)
            if slash:
                told.append(and_(c.key == key, c.end_user == name))
        elif "key" in c:
            told.append(c.user == c.key + "/" + value)
        return or_(*told)


def _is(columns: Any, name: str, value: str) -> ColumnElement[bool]:
    found: ColumnElement[bool] = columns[name] == value if name in columns else literal(False)
    return found


@dataclass(slots=True)
class Erasure:
    """An erasure, under way or done. `created_at` divides what is erased from what comes after."""

    id: str
    kind: SubjectKind
    subject: str
    """The name while it is under way; the pseudonym afterwards."""
    pseudonym: str
    secret: str = field(repr=False)
    reason: str
    by: str
    stop: bool
    """Runs with a call in flight are killed; else they are waited for."""
    created_at: Millis
    state: Literal["running", "waiting", "done"] = "running"
    phase: Phase = "runs"
    counts: dict[str, int] = field(default_factory=dict)
    """Rows by what they were, and `kept_kills`, `kept_keys`: records in force, which name the person
    still."""
    waits_for: list[str] = field(default_factory=list)
    """Runs that it waits for."""
    finished_at: Millis | None = None
    remembered_until: Millis = 0
    digest: str = field(default="", repr=False)

    @property
    def of(self) -> Subject:
        """Whose data is erased."""
        return Subject(self.kind, self.subject)

    def rename(self, name: str) -> str:
        """The pseudonym for a name, the same throughout this erasure."""
        return pseudonym(self.secret, name)

    def count(self, what: str, rows: int) -> None:
        """Add to what was erased."""
        if rows:
            self.counts[what] = self.counts.get(what, 0) + rows


@lru_cache(maxsize=4096)
def pseudonym(secret: str, name: str) -> str:
    """`erased-` and 24 letters and digits. What is no name any more stays as it is."""
    if not name or name == REMOVED or PSEUDONYM.fullmatch(name):
        return name
    digest = hmac.digest(secret.encode(), name.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"erased-{base64.b32encode(digest[:15]).decode().lower()}"


@dataclass(frozen=True, slots=True)
class RunToErase:
    """What the store knows a run by."""

    id: str
    principal: str
    session: str
    agent: str


@dataclass(frozen=True, slots=True)
class Met:
    """What an erasure has met: the person's `names`, `common` ones that others may have too, and the
    `runs`."""

    names: frozenset[str]
    common: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Glance:
    """What a worker looks at every second. `epoch` grows when workers have to forget; `over` says that late
    events of somebody are no longer expected."""

    epoch: int
    erasures: list[Erasure]
    claim: str
    over: bool


Place_ = tuple[str, int, int, str]
"""Where a walk through steps is: run, ordinal, at, id."""


class ErasureRecords(RetentionRecords):
    """Erasures and exports, beside what removes what is old. Every method may raise `LedgerUnavailable`,
    those with a `Holder` `ClaimLost`."""

    erasure_secret: bytes = b"\0" * 32
    """Under which names are remembered for late events; the application sets the gateway's own."""
    _erasing: fold.Statements | None = None

    # -- jobs -------------------------------------------------------------------------------------------

    async def add_erasure(self, erasure: Erasure) -> Erasure:
        """Begin an erasure; its entry in the audit log says whom it means by pseudonym alone."""
        told = f"{erasure.kind}\0{clip(erasure.subject)}"
        erasure = replace(
            erasure,
            digest=self._digest_of(told),
            remembered_until=erasure.created_at + REMEMBERED_MS,
            reason=Redactor.of(erasure, Met(erasure.of.names)).text(erasure.reason),
        )
        details = {
            "erasure": erasure.id,
            "kind": erasure.kind,
            "subject": erasure.pseudonym,
            "reason": erasure.reason,
            "stop": erasure.stop,
        }
        entry = AuditEntry(erasure.by, "privacy.erase", details, erasure.created_at)

        def work(conn: Connection) -> None:
            conn.execute(insert(schema.erasures), _row_of(erasure))
            chain(conn, [entry])

        await self._write(work, lock=LOCK_AUDIT)
        return erasure

    async def erasure(self, erasure_id: str) -> Erasure | None:
        """One erasure by its id."""
        query = select(schema.erasures).where(schema.erasures.c.id == erasure_id)

        def work(conn: Connection) -> Erasure | None:
            row = conn.execute(query).mappings().first()
            return _erasure(row) if row is not None else None

        return await self._read(work)

    async def erasures(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Erasure], str | None]:
        """Erasures, newest first, and the cursor of the next page. Raises `BadCursor`."""
        e = schema.erasures.c
        query = select(schema.erasures).order_by(e.created_at.desc(), e.id.desc()).limit(limit + 1)
        if cursor is not None:
            at, last = read_cursor(cursor, int, str)
            query = query.where(tuple_(e.created_at, e.id) < tuple_(literal(at), literal(last)))

        def work(conn: Connection) -> tuple[list[Erasure], str | None]:
            found = [_erasure(row) for row in conn.execute(query).mappings()]
            page = found[:limit]
            more = len(found) > limit
            return page, make_cursor(page[-1].created_at, page[-1].id) if more else None

        return await self._read(work)

    async def open_erasures(self) -> list[Erasure]:
        """Erasures that are not done, oldest first."""
        return await self._read(_open_erasures)

    async def glance(self, claim: str, now: Millis) -> Glance:
        """What there is to do, with one look."""
        c, m, e = schema.claims.c, schema.meta.c, schema.erasures.c

        def work(conn: Connection) -> Glance:
            epoch = conn.execute(select(m.value).where(m.name == EPOCH)).scalar()
            state = conn.execute(select(c.state).where(c.name == claim)).scalar()
            over = select(e.id).where(e.remembered_until < now, e.digest != "", e.state == "done").limit(1)
            return Glance(
                int(epoch or 0), _open_erasures(conn), state or "{}", conn.execute(over).first() is not None
            )

        return await self._read(work)

    async def note_erasure(self, erasure: Erasure, who: Holder) -> None:
        """Keep what has changed of an erasure."""

        def work(conn: Connection) -> None:
            hold(conn, who)
            _save(conn, erasure)

        await self._write(work, repeatable=True)

    # -- runs and steps -----------------------------------------------------------------------------------

    async def runs_to_erase(
        self, erasure: Erasure, *, limit: int, besides: Collection[str] = ()
    ) -> list[RunToErase]:
        """Some of the runs that began before the erasure and are still known by the person's name."""
        r = schema.runs.c
        query = (
            select(r.id, r.principal, r.session, r.agent)
            .where(erasure.of.where(schema.runs), r.started_at <= erasure.created_at)
            .order_by(r.id)
            .limit(limit)
        )
        if besides:
            query = query.where(r.id.not_in(list(besides)))
        return await self._report(
            lambda conn: [RunToErase(i, p or "", s or "", a or "") for i, p, s, a in conn.execute(query)]
        )

    async def shares_agent(self, erasure: Erasure, principal: str, agent: str) -> bool:
        """Whether runs of somebody else have the same principal and agent."""
        r = schema.runs.c
        query = select(
            exists().where(
                r.principal == principal,
                r.agent == agent,
                func.coalesce(erasure.of.where(schema.runs), False).is_(False),
            )
        )
        return await self._report(lambda conn: bool(conn.execute(query).scalar()))

    async def erase_runs(
        self, erasure: Erasure, runs: Sequence[str], after: Place_ | None, size: int, who: Holder
    ) -> tuple[Batch, Place_ | None]:
        """Erase the next `size` steps of these runs, and the runs once their steps are done; where to go
        on."""

        def work(conn: Connection) -> tuple[Batch, Place_ | None]:
            began = Began()
            s, r = schema.steps.c, schema.runs.c
            order = (s.run, s.ordinal, s.at, s.id)
            query = select(schema.steps).where(s.run.in_(runs)).order_by(*order).limit(size)
            if after is not None:
                query = query.where(tuple_(*order) > tuple_(*(literal(value) for value in after)))
            rows = [dict(row) for row in conn.execute(query).mappings()]
            here = [{"run": run, "erasure": erasure.id} for run in runs]
            conn.execute(upsert(conn, schema.erased_runs).on_conflict_do_nothing(), here)
            self._erase_steps(conn, erasure, rows)
            more = len(rows) == size
            done = 0
            if not more:
                found = conn.execute(select(schema.runs).where(r.id.in_(runs))).mappings().all()
                _meet(conn, erasure, (names_of(row, erasure.of.also) for row in found))
                replace_runs(conn, [scrubbed_run(row, erasure.rename, erasure.of.also) for row in found])
                forget_beside(conn, runs, erasure.rename, who.now)
                done = len(found)
                erasure.count("runs", done)
            hold(conn, who)
            _save(conn, erasure)
            last = rows[-1] if more else None
            place = (last["run"], last["ordinal"], last["at"], last["id"]) if last is not None else None
            return Batch(len(rows) + done, more, *began.took()), place

        return await self._write(work, lock=LOCK_EVENTS)

    async def end_runs_phase(self, erasure: Erasure, who: Holder) -> None:
        """Recognise late events from now on, and go on to the steps. Runs that came just before are looked
        for once more."""

        def work(conn: Connection) -> None:
            hold(conn, who)
            erasure.phase, erasure.state, erasure.waits_for = "steps", "running", []
            _save(conn, erasure)

        await self._write(work, lock=LOCK_EVENTS)

    async def steps_to_erase(self, erasure: Erasure, after: str, limit: int) -> list[str]:
        """The next steps of the person in runs that are somebody else's, or no run's, by their ids."""
        s = schema.steps.c
        query = (
            select(s.id)
            .where(erasure.of.where(schema.steps), s.at <= erasure.created_at, s.id > after)
            .order_by(s.id)
            .limit(limit)
        )
        return await self._report(lambda conn: list(conn.execute(query).scalars()))

    async def erase_steps(self, erasure: Erasure, ids: Sequence[str], who: Holder) -> Batch:
        """Erase single steps."""

        def work(conn: Connection) -> Batch:
            began = Began()
            s = schema.steps.c
            rows = [
                dict(row)
                for row in conn.execute(
                    select(schema.steps).where(s.id.in_(ids), erasure.of.where(schema.steps))
                ).mappings()
            ]
            self._erase_steps(conn, erasure, rows)
            hold(conn, who)
            _save(conn, erasure)
            return Batch(len(rows), False, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    def _erase_steps(self, conn: Connection, erasure: Erasure, rows: Sequence[Json]) -> None:
        if not rows:
            return
        if self._erasing is None:
            self._erasing = fold.Statements(conn.dialect)
        also = erasure.of.also
        attempts = [row for row in rows if row["kind"] == "attempt"]
        refusals = [row for row in rows if row["kind"] != "attempt"]
        _meet(conn, erasure, (names_of(row, also) for row in rows))
        replace_steps(conn, self._erasing, attempts, lambda row: scrubbed_step(row, erasure.rename, also))
        if refusals:
            gone = [row["id"] for row in refusals]
            conn.execute(delete(schema.steps).where(schema.steps.c.id.in_(gone)))
            conn.execute(
                upsert(conn, schema.removed_steps).on_conflict_do_nothing(), [{"id": i} for i in gone]
            )
            forget_refusals(conn, refusals)
        for table in BY_STEP:
            conn.execute(delete(table).where(table.c.step.in_([row["id"] for row in rows])))
        erasure.count("steps", len(attempts))
        erasure.count("refusals", len(refusals))

    # -- the other tables -------------------------------------------------------------------------------

    async def labels_left(self, erasure: Erasure, now: Millis) -> bool:
        """Whether other tables have rows that say that they are the person's."""
        a, d = schema.approvals.c, schema.folded_spend.c
        approvals = and_(erasure.of.where(schema.approvals), a.created_at <= erasure.created_at)
        spend = and_(_about_spend(erasure), d.day <= erasure.created_at)

        def work(conn: Connection) -> bool:
            rows = any(
                conn.execute(select(literal(1)).select_from(table).where(which).limit(1)).first()
                for table, which in ((schema.approvals, approvals), (schema.folded_spend, spend))
            )
            return rows or bool(_ended_keys(conn, erasure, now)[0])

        return await self._report(work)

    async def keys_in_force(self, erasure: Erasure, now: Millis) -> int:
        """How many keys of the person are in force."""
        return await self._report(lambda conn: _ended_keys(conn, erasure, now)[1])

    async def erase_labels(self, erasure: Erasure, size: int, who: Holder) -> Batch:
        """Erase some of the rows of other tables that say that they are the person's: approvals, sums of old
        days, ended keys."""

        def work(conn: Connection) -> Batch:
            began = Began()
            rows = (
                _erase_approvals(conn, erasure, size, who.now)
                + _erase_spend(conn, erasure, size)
                + _erase_keys(conn, erasure, who.now)
            )
            hold(conn, who)
            _save(conn, erasure)
            return Batch(rows, rows > 0, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    async def leftovers(self, erasure: Erasure, limit: int) -> dict[str, list[str]]:
        """Some of what tables beside the steps say of the person: by table, the runs that were told of late
        and the steps that findings were made in under the person's name."""
        x = schema.erased_runs.c
        runs = select(x.run).where(x.erasure == erasure.id)

        def work(conn: Connection) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for table in OF_RUNS:
                query = select(table.c.run).where(table.c.run.in_(runs)).limit(limit)
                found[table.name] = list(dict.fromkeys(conn.execute(query).scalars()))
            for table in BY_STEP:
                named = and_(erasure.of.where(table), table.c.at <= erasure.created_at)
                query = select(table.c.step).where(named).limit(limit)
                found[f"{table.name}.step"] = list(dict.fromkeys(conn.execute(query).scalars()))
            return {name: ids for name, ids in found.items() if ids}

        return await self._report(work)

    async def erase_leftovers(self, erasure: Erasure, found: Mapping[str, list[str]], who: Holder) -> Batch:
        """Erase what `leftovers` found."""

        def work(conn: Connection) -> Batch:
            began = Began()
            count = 0
            for name, ids in found.items():
                table_name, _, column = name.partition(".")
                table = schema.metadata.tables[table_name]
                which = table.c[column or "run"].in_(ids)
                count += conn.execute(delete(table).where(which)).rowcount
            erasure.count("beside", count)
            hold(conn, who)
            _save(conn, erasure)
            return Batch(count, False, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    async def names_met(self, erasure: Erasure) -> Met:
        """Every name that the erasure has replaced so far, the subject's own among them, and the runs."""
        n, x = schema.erasure_names.c, schema.erased_runs.c

        def work(conn: Connection) -> Met:
            names = conn.execute(select(n.name, n.common).where(n.erasure == erasure.id)).all()
            runs = frozenset(conn.execute(select(x.run).where(x.erasure == erasure.id)).scalars())
            own = frozenset(name for name, common in names if not common) | erasure.of.names
            return Met(own, frozenset(name for name, common in names if common), runs)

        return await self._report(work)

    async def live_runs_of(self, erasure: Erasure, *, limit: int = 1000) -> list[RunToErase]:
        """Runs of the person of which anything was heard in the last hour, the newest first."""
        r = schema.runs.c
        lately = erasure.created_at - 3_600_000
        query = (
            select(r.id, r.principal, r.session, r.agent)
            .where(erasure.of.where(schema.runs), or_(r.started_at >= lately, r.last_step_at >= lately))
            .order_by(r.started_at.desc())
            .limit(limit)
        )
        return await self._report(
            lambda conn: [RunToErase(i, p or "", s or "", a or "") for i, p, s, a in conn.execute(query)]
        )

    async def texts(self, place: Place, after: int | str | None, limit: int) -> list[Json]:
        """The next rows of a table whose texts may name the person, by its key `pk`."""
        table, pk, names = _TEXTS[place]
        key = table.c[pk]
        query = select(key.label("pk"), *(table.c[name] for name in names)).order_by(key).limit(limit)
        if after is not None:
            query = query.where(key > after)
        return await self._report(lambda conn: [dict(row) for row in conn.execute(query).mappings()])

    async def put_texts(
        self, erasure: Erasure, place: Place, changes: Sequence[tuple[Json, Json]], who: Holder
    ) -> Batch:
        """Write texts anew: pairs of a row as it was and what changes. Rows that have changed meanwhile
        stay."""
        table, pk, _ = _TEXTS[place]

        def work(conn: Connection) -> Batch:
            began = Began()
            written: dict[str, str] = {}
            count = 0
            for row, values in changes:
                same = [table.c[name] == row[name] for name in values]
                if place == "rejected":
                    done = conn.execute(delete(table).where(table.c[pk] == row["pk"])).rowcount
                else:
                    done = conn.execute(
                        update(table).where(table.c[pk] == row["pk"], *same).values(**values)
                    ).rowcount
                count += done
                if place == "audit" and done:
                    details = orjson.loads(values["details"])
                    record = AuditRecord(
                        **{**{k: v for k, v in row.items() if k != "pk"}, "details": details}
                    )
                    written[str(row["seq"])] = content_digest(record)
            if written:
                told = {"erasure": erasure.id, "records": written}
                chain(conn, [AuditEntry("gateway", REDACTED, told, who.now)])
            if place in ("kills", "topups") and count:
                rev = schema.revision
                conn.execute(update(rev).values(value=rev.c.value + 1))
            erasure.count(place, count)
            hold(conn, who)
            _save(conn, erasure)
            return Batch(count, False, *began.took())

        return await self._write(work, lock=LOCK_AUDIT)

    async def ask_workers(self, erasure: Erasure, who: Holder) -> None:
        """Let every worker drop what it holds in memory and in its journal."""

        def work(conn: Connection) -> None:
            hold(conn, who)
            m = schema.meta.c
            epoch = int(conn.execute(select(m.value).where(m.name == EPOCH)).scalar() or 0)
            conn.execute(delete(schema.meta).where(m.name == EPOCH))
            conn.execute(insert(schema.meta), {"name": EPOCH, "value": str(epoch + 1)})
            erasure.phase = "workers"
            _save(conn, erasure)

        await self._write(work, lock=LOCK_EVENTS)

    async def finish_erasure(self, erasure: Erasure, who: Holder) -> None:
        """Throw the key and the names away, and say in the audit log what was done."""
        e = schema.erased_runs.c

        def work(conn: Connection) -> None:
            hold(conn, who)
            digest = hashlib.sha256()
            for run in conn.execute(select(e.run).where(e.erasure == erasure.id).order_by(e.run)).scalars():
                digest.update(run.encode() + b"\n")
            conn.execute(delete(schema.erasure_names).where(schema.erasure_names.c.erasure == erasure.id))
            erasure.subject, erasure.secret = erasure.pseudonym, ""
            pseudonym.cache_clear()
            erasure.state, erasure.phase, erasure.finished_at = "done", "done", who.now
            _save(conn, erasure)
            details = {
                "erasure": erasure.id,
                "kind": erasure.kind,
                "subject": erasure.pseudonym,
                "rows": erasure.counts,
                "runs": digest.hexdigest(),
            }
            chain(conn, [AuditEntry("gateway", "privacy.erased", details, who.now, f"erasure:{erasure.id}")])

        await self._write(work, lock=LOCK_AUDIT)
        await self.empty_log()

    async def forget_tombstones(self, now: Millis) -> None:
        """Late events of people who were erased long ago are no longer expected."""
        e = schema.erasures.c
        over = select(e.id).where(e.remembered_until < now, e.state == "done")

        def work(conn: Connection) -> None:
            conn.execute(delete(schema.erased_runs).where(schema.erased_runs.c.erasure.in_(over)))
            conn.execute(update(schema.erasures).where(e.id.in_(over), e.digest != "").values(digest=""))

        await self._write(work, lock=LOCK_EVENTS)

    # -- late events --------------------------------------------------------------------------------------

    def _lawful(self, conn: Connection, events: Sequence[Event]) -> Sequence[Event]:
        """The events that may be written, as they may be: those of removed steps not at all, those of erased
        people without their names."""
        gone = set(
            _known(
                conn,
                schema.removed_steps.c.id,
                [each.id for each in events if not isinstance(each, StatusChange)],
            )
        )
        erased = dict.fromkeys(
            _known(conn, schema.erased_runs.c.run, list({each.run for each in events if each.run}))
        )
        e = schema.erasures.c
        remembered = conn.execute(
            select(e.kind, e.digest, e.pseudonym, e.created_at).where(
                e.remembered_until > time.time_ns() // 1_000_000, e.phase != "runs", e.digest != ""
            )
        ).all()
        if not gone and not erased and not remembered:
            return events
        rows = self._erased_rows(conn, list(erased)) if erased else {}
        lawful: list[Event] = []
        for event in events:
            if not isinstance(event, StatusChange) and event.id in gone:
                continue
            if event.run in erased:
                kept = late_event(event, rows.get(event.run), _as_removed, fold.STEP_COLUMNS)
            elif (about := self._remembered(event, remembered)) is not None:
                kept = late_event(event, None, about[0], fold.STEP_COLUMNS, about[1])
            else:
                kept = event
            if kept is not None:
                lawful.append(kept)
        return lawful

    def _erased_rows(self, conn: Connection, runs: Sequence[str]) -> dict[str, Json]:
        """The rows of erased runs. One that is still being erased may show names, which are replaced here."""
        x, e, r = schema.erased_runs.c, schema.erasures.c, schema.runs.c
        found: dict[str, Json] = {}
        for start in range(0, len(runs), _CHUNK):
            query = (
                select(schema.runs, e.secret.label("_secret"), e.kind.label("_kind"))
                .join(schema.erased_runs, x.run == r.id)
                .outerjoin(schema.erasures, e.id == x.erasure)
                .where(r.id.in_(runs[start : start + _CHUNK]))
            )
            for row in conn.execute(query).mappings():
                values = dict(row)
                secret, kind = values.pop("_secret"), values.pop("_kind")
                if secret:
                    values = scrubbed_run(values, partial(pseudonym, secret), _ALSO.get(kind, ()))
                found[values["id"]] = values
        return found

    def _remembered(self, event: Event, erasures: Sequence[Any]) -> tuple[Rename, tuple[str, ...]] | None:
        """How the names of a late event of an erased person are replaced, and in which labels beside the
        usual; None for everybody else's."""
        if not erasures or event.at > max(each.created_at for each in erasures):
            return None
        told = _told(event)
        names = {
            self._digest_of(f"{kind}\0{told[label]}"): told[label]
            for kind, labels in _LABELS_OF.items()
            for label in labels
            if told.get(label)
        }
        for each in erasures:
            if each.digest in names and event.at <= each.created_at:
                return partial(_remembered_as, names[each.digest], each.pseudonym), _ALSO.get(each.kind, ())
        return None

    def _digest_of(self, told: str) -> str:
        return hmac.new(
            self.erasure_secret, told.encode("utf-8", "surrogatepass"), hashlib.sha256
        ).hexdigest()

    # -- handing out --------------------------------------------------------------------------------------

    async def runs_about(
        self, subject: Subject, after: tuple[Millis, str] = (-1, ""), limit: int = 100
    ) -> list[Json]:
        """The next runs of somebody, oldest first, as `Reports.runs` gives them."""
        r = schema.runs.c
        query = (
            select(schema.runs)
            .where(
                subject.where(schema.runs),
                tuple_(r.started_at, r.id) > tuple_(literal(after[0]), literal(after[1])),
            )
            .order_by(r.started_at, r.id)
            .limit(limit)
        )
        return await self._report(
            lambda conn: with_tools(conn, [read_run(dict(row)) for row in conn.execute(query).mappings()])
        )

    async def steps_about(self, subject: Subject, after: str = "", limit: int = 500) -> list[Json]:
        """The next steps of somebody in runs that are not theirs, by id, as `Reports.steps` gives them."""
        s, r = schema.steps.c, schema.runs.c
        elsewhere = ~exists().where(r.id == s.run, subject.where(schema.runs))
        query = (
            select(schema.steps)
            .where(subject.where(schema.steps), s.id > after, elsewhere)
            .order_by(s.id)
            .limit(limit)
        )
        return await self._report(
            lambda conn: [read_step(dict(row)) for row in conn.execute(query).mappings()]
        )

    async def approvals_about(self, subject: Subject, after: str = "", limit: int = 200) -> list[Json]:
        """The next approvals of somebody's tool calls, by id, as their rows are."""
        a = schema.approvals.c
        query = (
            select(schema.approvals)
            .where(subject.where(schema.approvals), a.id > after)
            .order_by(a.id)
            .limit(limit)
        )
        return await self._report(lambda conn: [dict(row) for row in conn.execute(query).mappings()])

    async def control_about(self, targets: Collection[str]) -> dict[str, list[Json]]:
        """Kills and top-ups of these users, sessions, keys or runs, as their rows are."""
        found: dict[str, list[Json]] = {}
        wanted = [clip(target) for target in targets]
        for name, table in (("kill", schema.kills), ("topup", schema.topups)):
            query = select(table).where(table.c.target.in_(wanted)).order_by(table.c.at, table.c.id)
            found[name] = await self._report(partial(_rows, query=query))
        return found


# -- texts -----------------------------------------------------------------------------------------------

_TEXTS: Mapping[Place, tuple[Table, str, tuple[str, ...]]] = {
    "kills": (schema.kills, "id", ("scope", "target", "name", "reason", "expires_at", "revived_at")),
    "topups": (schema.topups, "id", ("target", "reason")),
    "rejected": (schema.rejected, "digest", ("event", "error", "entry")),
    "alerts": (schema.alerts, "seq", ("thread", "body", "error")),
    "feedback": (schema.finding_feedback, "id", ("reason",)),
    "audit": (
        schema.audit, "seq", ("seq", "at", "actor", "action", "details", "ref", "prev_hash", "hash")
    ),
}  # fmt: skip
_NO_NAMES = frozenset(
    (
        "role", "scope", "action", "decision", "state", "status", "mode", "kind", "per", "budget", "policy",
        "version", "tool", "model", "provider", "digest", "amount_usd", "surface", "event", "code", "rule",
        "detector", "channel", "type", "verdict", "at", "erasure", "subject",
    )
)  # fmt: skip
"""Fields of JSON that hold words of ours: a user who is called `admin` is none of them."""
_PROSE = frozenset(("arguments", "content", "error", "message", "note", "reason", "text", "why"))
"""Fields of sentences, or of what a model wrote."""
_WORD = re.compile(r"[^\s\"'()<>\[\]{},;=&?]+")
_PART = re.compile(r"[\w.@+~-]+")


@dataclass(frozen=True, slots=True)
class Words:
    """Replaces names in texts. A name is found as a whole text, as a word in one, and behind `user:`, `key/`
    and the like."""

    rename: Callable[[str], str]
    names: frozenset[str]
    phrases: tuple[str, ...]
    """Names of more than one word, found anywhere."""
    strict: bool = False
    """Sentences of people go as a whole: who is erased may be meant by other words too."""

    @classmethod
    def of(cls, rename: Callable[[str], str], names: Iterable[str], *, strict: bool = False) -> Words:
        """For these names."""
        known = frozenset(n for n in names if n and n != REMOVED and not PSEUDONYM.fullmatch(n))
        odd = sorted((n for n in known if not _PART.fullmatch(n) and len(n) > 3), key=len, reverse=True)
        return cls(rename, known, tuple(odd), strict)

    def text(self, text: str) -> str:
        """A text of people without the names."""
        if text in self.names:
            return self.rename(text)
        for phrase in self.phrases:
            if phrase in text:
                text = text.replace(phrase, self.rename(phrase))
        return _WORD.sub(self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        bare = word.rstrip(".:!")
        if bare in self.names:
            return self.rename(bare) + word[len(bare) :]
        return _PART.sub(self._part, word)

    def _part(self, match: re.Match[str]) -> str:
        part = match[0]
        bare = part.rstrip(".")
        return self.rename(bare) + part[len(bare) :] if bare in self.names else part

    def json(self, value: Any, name: str = "") -> Any:
        """Parsed JSON without the names."""
        if isinstance(value, str):
            if name in _PROSE and self.strict:
                return value if code_or_none(value) else REMOVED
            return value if name in _NO_NAMES else self.text(value)
        if isinstance(value, list):
            return [self.json(item, name) for item in value]
        if isinstance(value, dict):
            return {self.text(k) if k in self.names else k: self.json(v, k) for k, v in value.items()}
        return value

    def document(self, text: str) -> str:
        """JSON text without the names; text that is no JSON as a text of people."""
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            return self.text(text)
        changed = self.json(parsed)
        return text if changed == parsed else orjson.dumps(changed).decode()


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes an erased person out of rows that are somebody else's, or everyone's."""

    own: Words
    all: Words
    """With common names, for rows that are about the person."""
    runs: frozenset[str]

    @classmethod
    def of(cls, erasure: Erasure, met: Met) -> Redactor:
        """For what an erasure has met."""
        own = Words.of(erasure.rename, met.names)
        return cls(own, Words.of(erasure.rename, met.names | met.common, strict=True), met.runs)

    def text(self, text: str) -> str:
        """A text of people without the person's names."""
        return self.own.text(text)

    def changes(self, place: Place, row: Json, now: Millis) -> Json | None:
        """What changes in a row of `ErasureRecords.texts`; None when nothing does."""
        if place == "rejected":
            raw = (row["event"], row["error"], row["entry"])
            return {} if any(self._mentions(text) for text in raw) else None
        if place == "kills" and row["revived_at"] is None and (row["expires_at"] or now + 1) > now:
            return None
        if place == "audit" and row["action"] == REDACTED:
            return None
        texts = {name: row[name] for name in _CHANGING[place] if row[name]}
        words = self.all if any(self._is_about(text) for text in texts.values()) else self.own
        changed = {
            name: words.document(text) if name in ("body", "details") else words.json(text, name)
            for name, text in texts.items()
        }
        return {name: text for name, text in changed.items() if text != texts[name]} or None

    def _is_about(self, text: str) -> bool:
        return self.own.document(text) != text or not self.runs.isdisjoint(_RUN_ID.findall(text))

    def _mentions(self, text: str) -> bool:
        """Whether a raw text holds a name or a run anywhere, however it is framed."""
        return self._is_about(text) or any(name in text for name in self.own.names if len(name) > 3)


_CHANGING: Mapping[Place, tuple[str, ...]] = {
    "kills": ("target", "name", "reason"),
    "topups": ("target", "reason"),
    "alerts": ("thread", "body", "error"),
    "feedback": ("reason",),
    "audit": ("details",),
}
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{8,}")


# -- inside of transactions ----------------------------------------------------------------------------


def _open_erasures(conn: Connection) -> list[Erasure]:
    e = schema.erasures.c
    query = select(schema.erasures).where(e.state != "done").order_by(e.state, e.created_at, e.id)
    return [_erasure(row) for row in conn.execute(query).mappings()]


def _meet(conn: Connection, erasure: Erasure, met: Iterable[Mapping[str, bool]]) -> None:
    names: dict[str, bool] = {}
    for some in met:
        for name, common in some.items():
            names[name] = common and names.get(name, True)
    for common in (True, False):
        rows = [
            {"erasure": erasure.id, "name": n, "common": common}
            for n, each in names.items()
            if each is common
        ]
        if rows:
            statement = upsert(conn, schema.erasure_names)
            changed = statement.on_conflict_do_update(
                index_elements=["erasure", "name"], set_={"common": False}
            )
            conn.execute(statement.on_conflict_do_nothing() if common else changed, rows)


def _save(conn: Connection, erasure: Erasure) -> None:
    row = _row_of(erasure)
    conn.execute(update(schema.erasures).where(schema.erasures.c.id == erasure.id).values(**row))


def _row_of(erasure: Erasure) -> Json:
    row = {f.name: getattr(erasure, f.name) for f in fields(erasure)}
    for name in ("counts", "waits_for"):
        row[name] = orjson.dumps(row[name]).decode()
    return row


def _erasure(row: Mapping[Any, Any]) -> Erasure:
    return Erasure(**{**row, **{name: orjson.loads(row[name]) for name in ("counts", "waits_for")}})


def _erase_approvals(conn: Connection, erasure: Erasure, size: int, now: Millis) -> int:
    a = schema.approvals.c
    ids = list(
        conn.execute(
            select(a.id)
            .where(erasure.of.where(schema.approvals), a.created_at <= erasure.created_at)
            .limit(size)
        ).scalars()
    )
    if not ids:
        return 0
    forget_approvals(conn, a.id.in_(ids), erasure.rename, now)
    also = [name for name in erasure.of.also if name in a]
    for row in (
        conn.execute(select(a.id, *(a[name] for name in also)).where(a.id.in_(ids))).mappings()
        if also
        else ()
    ):
        names = {name: erasure.rename(row[name]) for name in also if row[name]}
        conn.execute(update(schema.approvals).where(a.id == row["id"]).values(**names))
    if erasure.kind in ("user", "session", "end_user"):
        # A label that answers to the subject by another rule than its own column would be met for ever.
        left = (
            conn.execute(select(a.id).where(a.id.in_(ids), erasure.of.where(schema.approvals)))
            .scalars()
            .all()
        )
        if left:
            conn.execute(delete(schema.approvals).where(a.id.in_(left)))
    erasure.count("approvals", len(ids))
    return len(ids)


def _about_spend(erasure: Erasure) -> ColumnElement[bool]:
    return literal(False) if erasure.kind == "session" else erasure.of.where(schema.folded_spend)


def _erase_spend(conn: Connection, erasure: Erasure, size: int) -> int:
    d = schema.folded_spend.c
    query = select(schema.folded_spend).where(_about_spend(erasure), d.day <= erasure.created_at).limit(size)
    rows = [dict(row) for row in conn.execute(query).mappings()]

    def renamed(row: Json) -> Json:
        names = {"user", *(set(erasure.of.also) & {"key", "team"})}
        if row["key"] == row["user"]:
            names.add("key")
        return {**row, **{name: erasure.rename(row[name]) for name in names}}

    move_spend(conn, rows, renamed)
    erasure.count("sums", len(rows))
    return len(rows)


def _ended_keys(conn: Connection, erasure: Erasure, now: Millis) -> tuple[list[Any], int]:
    """Keys of the person that have ended, and how many have not: one in force is how the person is let in."""
    k = schema.keys.c
    column = {"user": k.user, "key": k.name, "team": k.team}.get(erasure.kind)
    if column is None:
        return [], 0
    rows = conn.execute(select(schema.keys).where(column == clip(erasure.subject))).mappings().all()
    ended = [
        row
        for row in rows
        if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now)
    ]
    return ended, len(rows) - len(ended)


def _erase_keys(conn: Connection, erasure: Erasure, now: Millis) -> int:
    ended, _ = _ended_keys(conn, erasure, now)
    for row in ended:
        labels = ("name", "user", "team") if erasure.kind == "team" else ("name", "user")
        names = {name: erasure.rename(row[name]) for name in labels if row[name]}
        conn.execute(update(schema.keys).where(schema.keys.c.id == row["id"]).values(**names))
    erasure.count("keys", len(ended))
    return len(ended)


_LABELS_OF: Mapping[SubjectKind, tuple[str, ...]] = {
    "user": ("user",),
    "end_user": ("end_user", "user"),
    "session": ("session",),
    "key": ("key",),
    "team": ("team",),
}


def _told(event: Event) -> Json:
    """The labels of an event."""
    if isinstance(event, Attempt | Refusal):
        return dict(zip(fold.STEP_COLUMNS, event.row, strict=True))
    return {name: clip(value) if isinstance(value, str) else None for name, value in event.meta.items()}


def _remembered_as(known: str, pseudonym: str, name: str) -> str:
    return pseudonym if name == known else _as_removed(name)


def _as_removed(name: str) -> str:
    return name if PSEUDONYM.fullmatch(name) else REMOVED


def _rows(conn: Connection, query: Any) -> list[Json]:
    return [dict(row) for row in conn.execute(query).mappings()]


def _known(conn: Connection, column: Any, values: Sequence[str]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(values), _CHUNK):
        found += conn.execute(select(column).where(column.in_(values[start : start + _CHUNK]))).scalars()
    return found
