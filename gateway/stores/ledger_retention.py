"""Removing what is old, without breaking what the ledger promises.

    steps of a run ──fold──► sums by day and labels, by run, by counter, and the ids   one transaction a batch
    runs, approvals, rejected events ──► gone
    labels ──► `removed`

What is removed leaves its sums behind, so reports over old days and `verify()` still add up. Who may remove,
and how far it is, is a claim that one process at a time holds; whoever finds it run out goes on from there. A
batch checks the claim in its own transaction, so that two never remove at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter, thread_time
from typing import Any, Literal

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis
from gateway.stores import ledger_fold as fold
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_control import chain
from gateway.stores.ledger_database import LOCK_AUDIT, LOCK_EVENTS, Database
from gateway.stores.ledger_events import Attempt, stored_attempt
from gateway.stores.ledger_scrub import REMOVED, scrubbed_run, scrubbed_step

DAY_MS: Millis = 86_400_000
What = Literal["steps", "runs", "labels"]
SPEND_KEY = ("day", "key", "team", "user", "model", "provider", "surface")
SPEND_SUMS = ("cost", "input_tokens", "output_tokens", "cached_tokens", "saved", "steps", "attempts")
_SLACK = 64
"""A step has eleven attempts at most: enough rows more than asked for to reach the end of one."""


class ClaimLost(Exception):  # noqa: N818 - reads as what has happened
    """Another process has taken the work over."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored figure that is not the fold of the attempts."""

    table: str
    id: str
    field: str
    stored: Any
    folded: Any


@dataclass(frozen=True, slots=True)
class Tenants:
    """Whose data a rule is about: these keys and these teams; None means any. `besides` are not meant."""

    keys: tuple[str, ...] | None = None
    teams: tuple[str, ...] | None = None
    besides: tuple[Tenants, ...] = ()

    def where(self, key: ColumnElement[Any], team: ColumnElement[Any]) -> ColumnElement[bool]:
        """The condition over the label columns of a table."""
        own: list[ColumnElement[bool]] = [true()]
        if self.keys is not None:
            own.append(func.coalesce(key, "").in_(self.keys))
        if self.teams is not None:
            own.append(func.coalesce(team, "").in_(self.teams))
        return and_(*own, *(not_(other.where(key, team)) for other in self.besides))


@dataclass(frozen=True, slots=True)
class Term:
    """What of these tenants is removed once it is older than `before`."""

    what: What
    before: Millis
    tenants: Tenants = Tenants()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who does the work, and until when nobody else may take it over."""

    name: str
    holder: str
    now: Millis
    until: Millis


@dataclass(slots=True)
class Tally:
    """What a pass has removed so far; kept with the claim, so that no removal goes untold."""

    id: str
    began_at: Millis
    rows: dict[str, int] = field(default_factory=dict)
    """By what it was: `steps refusals runs labels approvals rejected`."""
    oldest: Millis = 0
    newest: Millis = 0
    digest: str = ""
    """SHA-256 over the digest before and the ids, batch by batch, in their order."""

    def add(self, what: str, ids: Sequence[str], times: Iterable[Millis] = ()) -> None:
        """Count rows that are removed."""
        if not ids:
            return
        self.rows[what] = self.rows.get(what, 0) + len(ids)
        told = "\n".join((self.digest, what, *ids)).encode("utf-8", "surrogatepass")
        self.digest = hashlib.sha256(told).hexdigest()
        for at in times:
            self.oldest = min(self.oldest, at) if self.oldest else at
            self.newest = max(self.newest, at)

    def dump(self) -> str:
        """As JSON."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__}).decode()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction came to. `held_s` is how long it kept others from writing, `busy_s` how much of
    that it worked itself."""

    rows: int
    more: bool
    held_s: float
    busy_s: float


class Began:
    """The beginning of a transaction's work."""

    __slots__ = ("_busy", "_wall")

    def __init__(self) -> None:
        self._wall, self._busy = perf_counter(), thread_time()

    def took(self) -> tuple[float, float]:
        """`held_s` and `busy_s` of a batch."""
        return perf_counter() - self._wall, thread_time() - self._busy


class RetentionRecords(Database):
    """Removing what is old. Every method may raise `LedgerUnavailable`, those with a `Holder` `ClaimLost`."""

    _statements: fold.Statements | None = None

    # -- one process at a time --------------------------------------------------------------------------

    async def claim(self, who: Holder) -> str | None:
        """Take or renew a claim: what its last holder noted (`{}` at first), None while another has it."""
        c = schema.claims.c

        def work(conn: Connection) -> str | None:
            row = {"name": who.name, "holder": who.holder, "until": who.until, "state": "{}"}
            conn.execute(upsert(conn, schema.claims).on_conflict_do_nothing(), row)
            taken = conn.execute(
                update(schema.claims)
                .where(c.name == who.name, or_(c.holder == who.holder, c.until <= who.now))
                .values(holder=who.holder, until=who.until)
            ).rowcount
            if not taken:
                return None
            return str(conn.execute(select(c.state).where(c.name == who.name)).scalar_one())

        return await self._write(work, repeatable=True)

    async def unclaim(self, who: Holder, state: str | None = None) -> None:
        """Let others have it at once. `state` replaces what is noted."""
        c = schema.claims.c
        values: Json = {"until": 0} if state is None else {"until": 0, "state": state}

        def work(conn: Connection) -> None:
            conn.execute(
                update(schema.claims).where(c.name == who.name, c.holder == who.holder).values(**values)
            )

        await self._write(work, repeatable=True)

    # -- what is due ------------------------------------------------------------------------------------

    async def due_runs(
        self, term: Term, *, after: tuple[Millis, str] = (-1, ""), limit: int = 200
    ) -> list[tuple[Millis, str]]:
        """The next runs, by their beginning, of which something is to be removed."""
        r = schema.runs.c
        query = (
            select(r.started_at, r.id)
            .where(_due(term), tuple_(r.started_at, r.id) > tuple_(literal(after[0]), literal(after[1])))
            .order_by(r.started_at, r.id)
            .limit(limit)
        )
        return await self._report(lambda conn: [(at, run) for at, run in conn.execute(query)])

    # -- batches ----------------------------------------------------------------------------------------

    async def remove_steps(
        self,
        term: Term,
        runs: Sequence[str],
        size: int,
        who: Holder,
        tally: Tally,
        *,
        with_runs: bool = False,
    ) -> Batch:
        """Fold and remove some `size` steps of these runs, as far as they are still due; `with_runs` the runs
        too, once nothing is left of them."""

        def work(conn: Connection) -> Batch:
            began = Began()
            r, s = schema.runs.c, schema.steps.c
            due = sorted(conn.execute(select(r.id).where(r.id.in_(runs), _due(term))).scalars())
            rows = [
                dict(row)
                for row in conn.execute(
                    select(schema.steps)
                    .where(s.run.in_(due))
                    .order_by(s.run, s.ordinal, s.at, s.id)
                    .limit(size + _SLACK)
                ).mappings()
            ]
            more = len(rows) == size + _SLACK
            if more:
                rows = _whole_steps(rows, size)
            self._fold_away(conn, rows, tally)
            gone: list[str] = []
            if with_runs and not more:
                gone = due
                _drop_runs(conn, gone, tally)
            hold(conn, who, tally.dump())
            return Batch(len(rows) + len(gone), more, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    async def remove_labels(
        self, term: Term, runs: Sequence[str], size: int, who: Holder, tally: Tally
    ) -> Batch:
        """Put `removed` in the place of names in these runs and some `size` of their steps."""

        def work(conn: Connection) -> Batch:
            began = Began()
            r, s = schema.runs.c, schema.steps.c
            due = list(conn.execute(select(schema.runs).where(r.id.in_(runs), _due(term))).mappings())
            ids = [row["id"] for row in due]
            rows = [
                dict(row)
                for row in conn.execute(
                    select(schema.steps)
                    .where(s.run.in_(ids), or_(s.user.is_(None), s.user != REMOVED))
                    .order_by(s.run, s.ordinal, s.at, s.id)
                    .limit(size)
                ).mappings()
            ]
            more = len(rows) == size
            replace_steps(conn, self._sql_of(conn), rows, lambda row: {**_unnamed_step(row), "user": REMOVED})
            tally.add("labels", [row["id"] for row in rows], [row["at"] for row in rows])
            if not more:
                replace_runs(conn, [{**scrubbed_run(row, _removed), "user": REMOVED} for row in due])
                forget_beside(conn, ids, _removed, who.now)
                tally.add("labels", ids)
            hold(conn, who, tally.dump())
            return Batch(len(rows) + (0 if more else len(ids)), more, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    async def remove_beside(self, terms: Sequence[Term], size: int, who: Holder, tally: Tally) -> Batch:
        """Remove some of what belongs to no run that is kept: refusals outside of any, approvals, rejected
        events, and the names in the sums of old days."""

        def work(conn: Connection) -> Batch:
            began = Began()
            moved = 0
            for term in terms:
                if moved >= size:
                    break
                moved += self._beside(conn, term, size - moved, tally)
            hold(conn, who, tally.dump())
            return Batch(moved, moved >= size, *began.took())

        return await self._write(work, lock=LOCK_EVENTS)

    async def tell_removed(self, who: Holder, tally: Tally, state: str) -> None:
        """Put what a pass has removed into the audit log, once, and note `state` in the place of the
        tally."""
        details = {
            "pass": tally.id,
            "rows": tally.rows,
            "oldest": tally.oldest or None,
            "newest": tally.newest or None,
            "digest": tally.digest,
        }
        entry = AuditEntry("gateway", "retention.removed", details, who.now, f"retention:{tally.id}")

        def work(conn: Connection) -> None:
            if tally.rows:
                chain(conn, [entry])
            hold(conn, who, state)

        await self._write(work, lock=LOCK_AUDIT)
        if tally.rows:
            await self.empty_log()

    async def empty_log(self) -> None:
        """Copy SQLite's log into the database and empty it: old versions of rows lie there. What keeps it in
        use is waited for, a while and without keeping anyone from writing."""
        for _ in range(20 if self._file is not None else 0):
            await self._in_lane("reports", self._checkpoint)
            if await self._in_lane("writes", self._truncate):
                return
            await asyncio.sleep(0.1)

    def _truncate(self) -> bool:
        if self._engine is None:
            return True
        with self._engine.connect() as conn:
            cursor = conn.connection.cursor()
            try:
                cursor.execute("PRAGMA busy_timeout=20")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                return not busy
            finally:
                cursor.execute(f"PRAGMA busy_timeout={int(self._busy_timeout_s * 1000)}")
                cursor.close()

    def _beside(self, conn: Connection, term: Term, size: int, tally: Tally) -> int:
        a, d = schema.approvals.c, schema.folded_spend.c
        if term.what == "labels":
            query = (
                select(schema.folded_spend)
                .where(
                    d.day < term.before - DAY_MS,
                    d.user.not_in(("", REMOVED)),
                    term.tenants.where(d.key, d.team),
                )
                .limit(size)
            )
            rows = [dict(row) for row in conn.execute(query).mappings()]
            move_spend(conn, rows, lambda row: {**row, "user": REMOVED})
            tally.add("labels", [f"{row['day']}/{row['key']}" for row in rows])
            return len(rows) + self._loose(conn, term, size, tally)
        if term.what == "runs":
            return 0
        approvals = conn.execute(
            select(a.id, a.created_at)
            .where(a.created_at < term.before, a.expires_at < term.before, term.tenants.where(a.key, a.team))
            .limit(size)
        ).all()
        if approvals:
            conn.execute(delete(schema.approvals).where(a.id.in_([row.id for row in approvals])))
            tally.add("approvals", [row.id for row in approvals], [row.created_at for row in approvals])
        return len(approvals) + self._loose(conn, term, size, tally)

    def _loose(self, conn: Connection, term: Term, size: int, tally: Tally) -> int:
        """Refusals outside of any run, and, where the term is about everyone else, events that nobody could
        read."""
        s, j = schema.steps.c, schema.rejected.c
        loose = [
            dict(row)
            for row in conn.execute(
                select(schema.steps)
                .where(s.run == "", s.at < term.before, term.tenants.where(s.key, s.team))
                .limit(size)
            ).mappings()
        ]
        self._fold_away(conn, loose, tally)
        rejected: list[str] = []
        if term.tenants.keys is None and term.tenants.teams is None:
            query = select(j.digest).where(j.at < term.before).limit(size)
            rejected = list(conn.execute(query).scalars())
        if rejected:
            conn.execute(delete(schema.rejected).where(j.digest.in_(rejected)))
            tally.add("rejected", rejected)
        return len(loose) + len(rejected)

    def _fold_away(self, conn: Connection, rows: Sequence[Json], tally: Tally) -> None:
        """Remove rows of the steps table; their sums stay."""
        if not rows:
            return
        attempts = [row for row in rows if row["kind"] == "attempt"]
        refusals = [row for row in rows if row["kind"] != "attempt"]
        fold_attempts(conn, attempts)
        forget_refusals(conn, refusals)
        ids = [row["id"] for row in rows]
        s = schema.steps.c
        conn.execute(delete(schema.steps).where(s.id.in_(ids)))
        for table in BY_STEP:
            conn.execute(delete(table).where(table.c.step.in_(ids)))
        conn.execute(upsert(conn, schema.removed_steps).on_conflict_do_nothing(), [{"id": i} for i in ids])
        for name, kind in (("steps", attempts), ("refusals", refusals)):
            tally.add(name, [row["id"] for row in kind], [row["at"] for row in kind])

    def _sql_of(self, conn: Connection) -> fold.Statements:
        if self._statements is None:
            self._statements = fold.Statements(conn.dialect)
        return self._statements


# -- shared with erasures --------------------------------------------------------------------------------

BY_STEP = tuple(table for table in (schema.findings, schema.finding_feedback))
"""Tables that say more of single steps."""


def upsert(conn: Connection, table: Any) -> Any:
    """An INSERT that can say what happens on conflict."""
    return (sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert)(table)


def hold(conn: Connection, who: Holder, state: str | None = None) -> None:
    """Renew a claim inside the transaction that it permits. Raises `ClaimLost`."""
    c = schema.claims.c
    values: Json = {"until": who.until} if state is None else {"until": who.until, "state": state}
    renewed = conn.execute(
        update(schema.claims).where(c.name == who.name, c.holder == who.holder).values(**values)
    ).rowcount
    if not renewed:
        raise ClaimLost(f"another process has taken '{who.name}' over")


def replace_steps(conn: Connection, sql: fold.Statements, rows: Sequence[Json], change: Any) -> list[Json]:
    """Write rows of the steps table anew, many with one statement. Charges that a row no longer tells are
    added to the folded counters. The new rows."""
    if not rows:
        return []
    changed = [change(row) for row in rows]
    add_counters(
        conn, [stored_attempt(row) for row in rows if row["kind"] == "attempt" and not row["provisional"]]
    )
    conn.execute(delete(schema.steps).where(schema.steps.c.id.in_([row["id"] for row in rows])))
    sql.run(conn, sql.insert_step, [tuple(row[name] for name in fold.STEP_COLUMNS) for row in changed])
    return changed


def replace_runs(conn: Connection, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Write the labels of runs anew."""
    if rows:
        values = [{f"new_{name}": row[name] for name in ("id", *_RUN_LABELS)} for row in rows]
        conn.execute(_RELABEL_RUN, values)


_RUN_LABELS = (
    "name",
    "principal",
    "key",
    "user",
    "team",
    "end_user",
    "session",
    "agent",
    "tags",
    "extra",
    "reason",
)
_RELABEL_RUN = (
    update(schema.runs)
    .where(schema.runs.c.id == bindparam("new_id"))
    .values({name: bindparam(f"new_{name}") for name in _RUN_LABELS})
)


def forget_beside(conn: Connection, runs: Sequence[str], rename: Callable[[str], str], now: Millis) -> None:
    """What other tables say of the people of these runs: arguments of calls, feedback, what nobody else
    keeps."""
    if not runs:
        return
    forget_approvals(conn, schema.approvals.c.run.in_(runs), rename, now)
    f = schema.finding_feedback.c
    conn.execute(
        update(schema.finding_feedback).where(f.run.in_(runs)).values(user=None, agent=None, reason="")
    )
    for table in OF_RUNS:
        conn.execute(delete(table).where(table.c.run.in_(runs)))


def forget_approvals(
    conn: Connection, which: ColumnElement[bool], rename: Callable[[str], str], now: Millis
) -> list[str]:
    """Take person and arguments out of approvals; one that is still open can no longer be decided or used.
    Their ids."""
    a = schema.approvals.c
    rows = conn.execute(select(schema.approvals).where(which)).mappings().all()
    for row in rows:
        names: Json = {name: rename(row[name]) for name in ("user", "session") if row[name]}
        for name in ("key", "principal"):
            if row["user"] and row[name].removeprefix("key:") == row["user"]:
                names[name] = rename(row[name])
        values = {**names, "arguments": "", "truncated": True, "digest": "", "reason": None}
        conn.execute(
            update(schema.approvals)
            .where(a.id == row["id"])
            .values(**values, expires_at=min(row["expires_at"], now))
        )
    return [row["id"] for row in rows]


_OWN_WAY = ("gw_steps", "gw_runs", "gw_approvals", "gw_finding_feedback", "gw_tool_calls", "gw_tool_failures",
            "gw_folded_runs", "gw_erased_runs")  # fmt: skip
OF_RUNS = tuple(
    table for name, table in schema.metadata.tables.items() if "run" in table.c and name not in _OWN_WAY
)
"""Tables whose rows belong to a run and go with its person: contents, findings, traces that wait."""


def start_from_folded(conn: Connection, ledger: fold.Folded) -> list[Difference]:
    """Let a fold of the attempts begin with what was removed. What is wrong in the sums of it."""
    for row in conn.execute(select(schema.folded_runs)).mappings():
        ledger.runs[row["run"]] = folded_run(row)
    for counter, used, expires_at in conn.execute(select(schema.folded_counters)):
        ledger.charges.moved[counter] = [used, expires_at, 0]
    d = schema.folded_spend.c
    stored = [
        int(figure or 0) for figure in conn.execute(select(*(func.sum(d[name]) for name in SPEND_SUMS))).one()
    ]
    expected = folded_total(conn)
    return [
        Difference("folded_spend", "", name, found, total)
        for name, found, total in zip(SPEND_SUMS, stored, expected, strict=True)
        if found != total
    ]


def fold_attempts(conn: Connection, rows: Sequence[Json]) -> None:
    """Add attempts to the sums of what was removed, and drop their tool calls."""
    if not rows:
        return
    attempts = [stored_attempt(row) for row in rows]
    _add_spend(conn, rows)
    add_counters(conn, attempts)
    f = schema.folded_runs
    runs = {attempt.run for attempt in attempts}
    states = {
        row["run"]: folded_run(row) for row in conn.execute(select(f).where(f.c.run.in_(runs))).mappings()
    }
    for attempt in attempts:
        if attempt.run not in states:
            states[attempt.run] = fold.RunState(attempt.run, new=True)
        states[attempt.run].add(attempt)
    conn.execute(delete(f).where(f.c.run.in_(runs)))
    conn.execute(
        insert(f),
        [
            {"run": run, **dict(zip(fold.TOTALS, state.totals(), strict=True))}
            for run, state in states.items()
        ],
    )
    for table in (schema.tool_calls, schema.tool_failures):
        c = table.c
        for run, group in groupby(sorted({(a.run, a.ordinal) for a in attempts}), key=lambda pair: pair[0]):
            ordinals = [ordinal for _, ordinal in group]
            conn.execute(delete(table).where(c.run == run, c.ordinal.in_(ordinals)))


def folded_run(row: Mapping[Any, Any]) -> fold.RunState:
    """The figures of a run's removed attempts, to add others to."""
    state = fold.RunState(row["run"], new=True)
    state.start_from(row)
    return state


def add_counters(conn: Connection, attempts: Iterable[Attempt]) -> None:
    """Keep what attempts have added to counters that they will no longer tell of."""
    sums: dict[str, list[int]] = {}
    for attempt in attempts:
        for counter, expires_at in attempt.charges:
            entry = sums.setdefault(counter, [0, 0])
            entry[0] += attempt.cost
            entry[1] = max(entry[1], expires_at)
    if not sums:
        return
    statement = upsert(conn, schema.folded_counters)
    new, old = statement.excluded, schema.folded_counters.c
    later = case((new.expires_at > old.expires_at, new.expires_at), else_=old.expires_at)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["counter"], set_={"used": old.used + new.used, "expires_at": later}
        ),
        [
            {"counter": name, "used": used, "expires_at": until}
            for name, (used, until) in sorted(sums.items())
        ],
    )


def _add_spend(conn: Connection, rows: Sequence[Json]) -> None:
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SPEND_SUMS))
    last = {(row["run"], row["ordinal"]): row["id"] for row in rows}
    for row in rows:
        day = row["at"] - row["at"] % DAY_MS
        entry = sums[day, *(row[name] or "" for name in SPEND_KEY[1:])]
        counts_step = last[row["run"], row["ordinal"]] == row["id"]
        figures = (*(row[name] for name in SPEND_SUMS[:5]), int(counts_step), 1)
        for i, figure in enumerate(figures):
            entry[i] += figure
    _put_spend(conn, sums)
    add_total(conn, [sum(column) for column in zip(*sums.values(), strict=True)])


def _put_spend(conn: Connection, sums: Mapping[tuple[Any, ...], Sequence[int]]) -> None:
    statement = upsert(conn, schema.folded_spend)
    new, old = statement.excluded, schema.folded_spend.c
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=list(SPEND_KEY), set_={name: old[name] + new[name] for name in SPEND_SUMS}
        ),
        [
            {**dict(zip(SPEND_KEY, key, strict=True)), **dict(zip(SPEND_SUMS, figures, strict=True))}
            for key, figures in sorted(sums.items())
        ],
    )


def move_spend(conn: Connection, rows: Sequence[Json], change: Any) -> None:
    """Put sums under other labels, where they are added to what is there."""
    d = schema.folded_spend.c
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SPEND_SUMS))
    for row in rows:
        conn.execute(delete(schema.folded_spend).where(*(d[name] == row[name] for name in SPEND_KEY)))
        changed = change(row)
        entry = sums[tuple(changed[name] for name in SPEND_KEY)]
        for i, name in enumerate(SPEND_SUMS):
            entry[i] += row[name]
    if sums:
        _put_spend(conn, sums)


TOTAL = "folded_total"


def add_total(conn: Connection, figures: Sequence[int]) -> None:
    """Move the sum of all that was folded; `verify` compares the rows with it."""
    m = schema.meta.c
    before = folded_total(conn)
    total = [before[i] + figure for i, figure in enumerate(figures)]
    conn.execute(delete(schema.meta).where(m.name == TOTAL))
    conn.execute(insert(schema.meta), {"name": TOTAL, "value": orjson.dumps(total).decode()})


def folded_total(conn: Connection) -> list[int]:
    """The sums of everything that was folded, in the order of `SPEND_SUMS`."""
    value = conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == TOTAL)).scalar()
    return [0] * len(SPEND_SUMS) if value is None else list(orjson.loads(value))


def forget_refusals(conn: Connection, rows: Sequence[Json]) -> None:
    """Refusals whose detail goes: their runs go on counting them, and a straggler is not counted anew."""
    by_run: dict[str, list[Json]] = defaultdict(list)
    for row in rows:
        if row["run"]:
            by_run[row["run"]].append(row)
    r = schema.runs.c
    for run, gone in by_run.items():
        at, newest = max((row["at"], row["id"]) for row in gone)
        conn.execute(update(schema.runs).where(r.id == run).values(refusals_kept=r.refusals_kept - len(gone)))
        conn.execute(
            update(schema.runs)
            .where(
                r.id == run,
                tuple_(r.refusals_cut_at, r.refusals_cut_id) < tuple_(literal(at), literal(newest)),
            )
            .values(refusals_cut_at=at, refusals_cut_id=newest)
        )


def _drop_runs(conn: Connection, runs: Sequence[str], tally: Tally) -> None:
    if not runs:
        return
    r, a = schema.runs.c, schema.approvals.c
    times = conn.execute(select(r.started_at).where(r.id.in_(runs))).scalars()
    tally.add("runs", runs, times)
    conn.execute(delete(schema.runs).where(r.id.in_(runs)))
    conn.execute(delete(schema.approvals).where(a.run.in_(runs)))
    others = (schema.folded_runs, schema.erased_runs, schema.tool_calls, schema.tool_failures)
    for table in (*others, schema.finding_feedback, *OF_RUNS):
        conn.execute(delete(table).where(table.c.run.in_(runs)))


def _due(term: Term) -> ColumnElement[bool]:
    """Runs of which the term wants something removed. A run's age is that of the last that is known of it, so
    its steps go together."""
    r, s = schema.runs.c, schema.steps.c
    old = and_(
        r.started_at < term.before,
        r.last_step_at < term.before,
        r.status_at < term.before,
        term.tenants.where(r.key, r.team),
    )
    if term.what == "runs":
        return old
    if term.what == "labels":
        return and_(old, or_(r.user.is_(None), r.user != REMOVED))
    return and_(old, exists().where(s.run == r.id))


def _whole_steps(rows: list[Json], size: int) -> list[Json]:
    """The first rows, some `size`, that do not part the attempts of a step."""
    end = size
    while end < len(rows) and _step_of(rows[end]) == _step_of(rows[end - 1]):
        end += 1
    return rows[:end]


def _step_of(row: Json) -> tuple[str, int]:
    return row["run"], row["ordinal"]


def _removed(_name: str) -> str:
    return REMOVED


def _unnamed_step(row: Json) -> Json:
    return scrubbed_step(row, _removed)
