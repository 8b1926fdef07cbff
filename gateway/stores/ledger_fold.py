"""Writing events: every attempt once, and with it, in the same transaction, its run's figures and counters.

`RunState.add` is the one definition of what an attempt adds to its run. It is used to move the figures
forward, to rebuild them when a provisional attempt is replaced, and to verify them against the attempts.

All of it runs while this process is the only writer of events (`BEGIN IMMEDIATE` on SQLite, an advisory
lock on Postgres), so that what is read here cannot have changed when it is written back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Table,
    bindparam,
    case,
    delete,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_events import (
    IDENTITY,
    Attempt,
    Event,
    Refusal,
    StatusChange,
    attempt_identity,
    identity,
    stored_attempt,
    tags_text,
)

REFUSALS_KEPT = 200
"""Refusals of one run kept in detail; the run counts all of them."""
LOOSE_REFUSALS_KEPT = 1000
"""Refusals outside of any run kept in detail."""
_TOGETHER = (100, 10)
"""Rows in one INSERT; SQLite takes 32,766 values in a statement."""
_SESSIONS_LOOKED_UP = 20
"""Of the runs that end in one batch: a sample of their sessions, where many end at once."""
_SESSION_RUNS = 1000
"""Runs of a session that are looked through when one of them ends."""
_CHUNK = 500
"""Values in one `IN (…)`; each count of values is a statement to prepare, and SQLite has a limit."""

STEP_COLUMNS = tuple(column.name for column in schema.steps.columns)
RUN_COLUMNS = tuple(column.name for column in schema.runs.columns)
TOTALS = (
    "steps",
    "attempts",
    "tool_calls",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost",
    "saved",
    "last_step_at",
    "model_mix",
)
_REFUSAL_COLUMNS = ("refusals", "refusals_kept", "refusals_cut_at", "refusals_cut_id")
_MOVING = (*TOTALS, "status_at", "reason", "reason_status", "reason_at", *_REFUSAL_COLUMNS)
_FIXED = tuple(name for name in RUN_COLUMNS if name not in _MOVING and name != "id")
_META_COLUMNS = frozenset((*IDENTITY, "tags", "started_at"))


@dataclass(slots=True)
class RunState:
    """A row of the runs table while events are folded into it."""

    id: str
    new: bool
    identity: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(IDENTITY))
    tags: str = "{}"
    extra: str = "{}"
    started_at: Millis = 0
    status: str = "running"
    status_at: Millis = 0
    reason: str | None = None
    reason_status: str | None = None
    reason_at: Millis = 0
    steps: int = 0
    attempts: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Nano = 0
    saved: Nano = 0
    last_step_at: Millis = 0
    model_mix: dict[str, list[int]] = field(default_factory=dict)
    """Per model: attempts, cost."""
    refusals: int = 0
    refusals_kept: int = 0
    refusals_cut_at: Millis = 0
    refusals_cut_id: str = ""
    changed: bool = False
    fixed_changed: bool = False
    """A column outside of `_MOVING` changed."""

    @classmethod
    def stored(cls, row: Mapping[str, Any]) -> RunState:
        """The state that a row of the runs table holds."""
        values = dict(row)
        who = {name: values.pop(name) for name in IDENTITY}
        mix = orjson.loads(values.pop("model_mix"))
        return cls(new=False, identity=who, model_mix=mix, **values)

    def add(self, attempt: Attempt) -> None:
        """Add one attempt's figures."""
        self.steps = max(self.steps, attempt.ordinal)
        self.attempts += 1
        self.tool_calls += len(attempt.calls)
        self.input_tokens += attempt.input_tokens
        self.output_tokens += attempt.output_tokens
        self.cached_tokens += attempt.cached_tokens
        self.cost += attempt.cost
        self.saved += attempt.saved
        self.last_step_at = max(self.last_step_at, attempt.ended_at)
        share = self.model_mix.setdefault(attempt.model, [0, 0])
        share[0] += 1
        share[1] += attempt.cost
        self.changed = True

    def clear(self) -> None:
        """Forget the figures, to add all attempts again."""
        self.steps = self.attempts = self.tool_calls = self.input_tokens = self.output_tokens = 0
        self.cached_tokens = self.cost = self.saved = self.last_step_at = 0
        self.model_mix = {}
        self.changed = True

    def start_from(self, row: Mapping[Any, Any]) -> None:
        """Take the figures of attempts that were removed, to add the others to."""
        for name in TOTALS:
            setattr(self, name, orjson.loads(row[name]) if name == "model_mix" else row[name])

    def totals(self) -> tuple[Any, ...]:
        """The figures in the order of `TOTALS`."""
        return (
            self.steps,
            self.attempts,
            self.tool_calls,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.cost,
            self.saved,
            self.last_step_at,
            orjson.dumps(self.model_mix, option=orjson.OPT_SORT_KEYS).decode(),
        )

    def turn(self, status: str, at: Millis) -> None:
        """Take a status unless a newer one is known; of two at the same instant, the ending stands."""
        if (at, status != "running", status) <= (self.status_at, self.status != "running", self.status):
            return
        self.status_at = at
        self.changed = True
        if status != self.status:
            self.status = status
            self.fixed_changed = True

    def explain(self, status: str, reason: str, at: Millis) -> None:
        """Remember why the run has a status."""
        if (at, status, reason) > (self.reason_at, self.reason_status or "", self.reason or ""):
            self.reason, self.reason_status, self.reason_at = reason, status, at
            self.changed = True

    def identify(self, meta: Json, at: Millis) -> None:
        """Fill in what is not known yet about whose run it is and when it began."""
        began = meta.get("started_at")
        began = began if type(began) is int and began > 0 else at
        if not self.started_at or began < self.started_at:
            self.started_at = began
            self.fixed_changed = True
        if not meta:
            return
        for name, value in identity(meta).items():
            if value is not None and self.identity[name] is None:
                self.identity[name] = value
                self.fixed_changed = True
        if self.tags == "{}" and meta.get("tags"):
            self.tags = tags_text(meta["tags"])
            self.fixed_changed = True
        unknown = {k: v for k, v in meta.items() if k not in _META_COLUMNS}
        if unknown and self.extra == "{}":
            self.extra = orjson.dumps(unknown).decode()
            self.fixed_changed = True

    @property
    def identified(self) -> bool:
        """Whether some event has said whose run it is."""
        return self.identity["principal"] is not None

    def moving(self) -> tuple[Any, ...]:
        """The columns of `_MOVING`."""
        return (
            *self.totals(),
            self.status_at,
            self.reason,
            self.reason_status,
            self.reason_at,
            self.refusals,
            self.refusals_kept,
            self.refusals_cut_at,
            self.refusals_cut_id,
        )

    def fixed(self) -> tuple[Any, ...]:
        """The columns of `_FIXED`."""
        own = {"tags": self.tags, "started_at": self.started_at, "extra": self.extra, "status": self.status}
        return tuple(own[name] if name in own else self.identity[name] for name in _FIXED)


class Statements:
    """Statements that are executed with many rows, compiled once; values go by position."""

    def __init__(self, dialect: Dialect) -> None:
        s = schema
        self._dialect = dialect
        self._many: dict[tuple[str, int], str] = {}
        """Statements for many rows, by the one for a single row."""
        self.insert_step = self._insert(s.steps, STEP_COLUMNS)
        self.insert_run = self._insert(s.runs, ("id", *_FIXED, *_MOVING))
        self.move_run = self._update_run(_MOVING)
        self.update_run = self._update_run((*_FIXED, *_MOVING))
        self.charge = self._upsert(
            s.counters,
            lambda new, old: {
                "used": old.used + new.used,
                "expires_at": case((new.expires_at > old.expires_at, new.expires_at), else_=old.expires_at),
                "touched_at": case((new.touched_at > old.touched_at, new.touched_at), else_=old.touched_at),
            },
        )
        self.add_calls = self._upsert(s.tool_calls, lambda new, old: {"calls": old.calls + new.calls})
        self.add_failures = self._upsert(s.tool_failures, lambda new, old: {"seen": old.seen + new.seen})

    def run(self, conn: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute an INSERT for all rows.

        Of SQLite many rows are asked with one statement: its driver lets go of the interpreter's lock for
        each, and behind a busy event loop it takes milliseconds to get it back.
        """
        done = 0
        for size in _TOGETHER if self._dialect.name == "sqlite" else ():
            while len(rows) - done >= size:
                values = tuple(chain.from_iterable(rows[done : done + size]))
                conn.exec_driver_sql(self._together(statement, size, len(rows[0])), values)
                done += size
        if done < len(rows):
            conn.exec_driver_sql(statement, list(rows[done:]))

    def _together(self, statement: str, rows: int, columns: int) -> str:
        found = self._many.get((statement, rows))
        if found is None:
            one = f"({self._marks(columns)})"
            found = self._many[statement, rows] = statement.replace(one, ", ".join([one] * rows), 1)
        return found

    def _insert(self, table: Table, columns: Sequence[str]) -> str:
        names = ", ".join(self._quote(name) for name in columns)
        return f"INSERT INTO {table.name} ({names}) VALUES ({self._marks(len(columns))})"  # noqa: S608 - ours

    def _update_run(self, columns: Sequence[str]) -> str:
        mark = self._marks(1)
        sets = ", ".join(f"{self._quote(name)} = {mark}" for name in columns)
        return f"UPDATE {schema.runs.name} SET {sets} WHERE id = {mark}"  # noqa: S608 - our names

    def _upsert(self, table: Table, merge: Any) -> str:
        make: Any = sqlite.insert if self._dialect.name == "sqlite" else postgresql.insert
        statement = make(table)
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_=merge(statement.excluded, table.c),
        )
        return str(statement.compile(dialect=self._dialect))

    def _marks(self, count: int) -> str:
        return ", ".join(["?" if self._dialect.name == "sqlite" else "%s"] * count)

    def _quote(self, name: str) -> str:
        return self._dialect.identifier_preparer.quote(name)


@dataclass(slots=True)
class Charges:
    """What the batch adds to budget counters: `[amount, expires_at, touched_at]` each."""

    moved: dict[str, list[int]] = field(default_factory=dict)

    def add(self, attempt: Attempt, sign: int = 1) -> None:
        for counter, expires_at in attempt.charges:
            entry = self.moved.setdefault(counter, [0, 0, 0])
            entry[0] += sign * attempt.cost
            entry[1] = max(entry[1], expires_at)
            entry[2] = max(entry[2], attempt.ended_at)


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that events have ended. Times in milliseconds. What is said of its session is None where it was
    not looked up."""

    status: str
    cost: Nano
    steps: int
    lasted: Millis
    session_cost: Nano | None = None
    session_lasted: Millis | None = None


@dataclass(slots=True)
class Written:
    """What of the events was new. `attempts` are the rows that were written, of both kinds."""

    attempts: list[Attempt] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    ended: list[RunState] = field(default_factory=list)
    """Runs whose status is another one now, and not `running`."""


def append(
    conn: Connection, sql: Statements, events: Sequence[Event], written: Written | None = None
) -> list[EndedRun]:
    """Fold `events` into the ledger; those already there change nothing. In order, all or nothing.

    The runs that ended by them, each time that they did. What was new is put into `written`.
    """
    attempts = [event for event in events if type(event) is Attempt]
    refusals = [event for event in events if type(event) is Refusal]
    known = _known_steps(conn, [attempt.id for attempt in attempts] + [refusal.id for refusal in refusals])
    fresh, replaced = _select_new(attempts, known)
    old = _rows(conn, schema.steps, list(replaced))
    previous = [stored_attempt(dict(row)) for row in old]

    touched = dict.fromkeys(event.run for event in events if event.run)
    touched.update(dict.fromkeys(attempt.run for attempt in previous))
    runs = {row["id"]: RunState.stored(dict(row)) for row in _rows(conn, schema.runs, list(touched))}
    for run in touched:
        if run not in runs:
            runs[run] = RunState(run, new=True)
    before = {run: state.status for run, state in runs.items()}

    if replaced:
        _delete_steps(conn, list(replaced))
    rows = [attempt.row for attempt in fresh.values()]
    refold = {attempt.run for attempt in previous} | {attempt.run for attempt in replaced.values()}

    charges = Charges()
    for attempt in previous:
        charges.add(attempt, -1)
    for attempt in replaced.values():
        charges.add(attempt)
        rows.append(attempt.row)
    added = []
    for attempt in fresh.values():
        charges.add(attempt)
        if attempt.run not in refold:
            runs[attempt.run].add(attempt)
            added.append(attempt)

    for event in events:
        _describe(runs, event)
    new_refusals = _count_refusals(runs, refusals, known)
    if written is not None:
        written.attempts = [*replaced.values(), *fresh.values()]
        written.refusals = new_refusals
    rows.extend(refusal.row for refusal in new_refusals)
    if rows:
        sql.run(conn, sql.insert_step, rows)
    if refold:
        added.extend(_refold(conn, {run: runs[run] for run in refold}))
    _add_tools(conn, sql, added)
    if charges.moved:
        # Sorted, so that two databases given the same events are written alike.
        sql.run(conn, sql.charge, [(k, *v) for k, v in sorted(charges.moved.items())])
    _cut_refusals(conn, runs, new_refusals)
    _save_runs(conn, sql, runs.values())
    ended = [
        state for run, state in runs.items() if state.status != before[run] and state.status != "running"
    ]
    if written is not None:
        written.ended = ended
    return _ended(conn, ended)


def _ended(conn: Connection, states: Sequence[RunState]) -> list[EndedRun]:
    found = []
    for n, state in enumerate(states):
        session = _session(conn, state) if n < _SESSIONS_LOOKED_UP else None
        lasted = max(0, state.last_step_at - state.started_at)
        found.append(EndedRun(state.status, state.cost, state.steps, lasted, *(session or (None, None))))
    return found


def _session_sums() -> Select[Any]:
    c = schema.runs.c
    part = (
        select(c.cost, c.started_at, c.last_step_at)
        .where(c.session == bindparam("session"), c.principal == bindparam("principal"))
        .limit(_SESSION_RUNS)
        .subquery()
        .c
    )
    return select(func.sum(part.cost), func.min(part.started_at), func.max(part.last_step_at))


# Made once: making it takes four times as long as running it.
_SESSION_SUMS = _session_sums()


def _session(conn: Connection, state: RunState) -> tuple[Nano, Millis] | None:
    """What a run's session has cost and how long it has lasted, over `_SESSION_RUNS` of its runs at most."""
    who = state.identity
    if who["session"] is None or who["principal"] is None:
        return None
    cost, first, last = conn.execute(
        _SESSION_SUMS, {"session": who["session"], "principal": who["principal"]}
    ).one()
    return (int(cost), max(0, last - first)) if cost is not None else None


@dataclass(slots=True)
class Folded:
    """Everything that follows from the attempts alone."""

    runs: dict[str, RunState] = field(default_factory=dict)
    charges: Charges = field(default_factory=lambda: Charges())
    calls: dict[tuple[str, str, int, str], int] = field(default_factory=lambda: defaultdict(int))
    """Rows of the table of tool calls: `(run, call id, ordinal, name)` to count."""
    failures: dict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))
    """Rows of the table of tool failures: `(run, call id, ordinal)` to count."""

    def add(self, attempt: Attempt) -> None:
        """Add one attempt."""
        state = self.runs.get(attempt.run)
        if state is None:
            state = self.runs[attempt.run] = RunState(attempt.run, new=True)
        state.add(attempt)
        self.charges.add(attempt)
        self.add_tools(attempt)

    def add_tools(self, attempt: Attempt) -> None:
        """Add one attempt to the tool tables alone."""
        for call_id, name in attempt.calls:
            self.calls[attempt.run, call_id, attempt.ordinal, name] += 1
        for call_id in attempt.failures:
            self.failures[attempt.run, call_id, attempt.ordinal] += 1


def _select_new(
    attempts: Iterable[Attempt], known: Mapping[str, bool]
) -> tuple[dict[str, Attempt], dict[str, Attempt]]:
    """Attempts that are new, and final ones that replace a stored provisional one."""
    fresh: dict[str, Attempt] = {}
    replaced: dict[str, Attempt] = {}
    for attempt in attempts:
        key = attempt.id
        provisional = known.get(key)
        if provisional is None:
            before = fresh.get(key)
            if before is None or (before.provisional and not attempt.provisional):
                fresh[key] = attempt
        elif provisional and not attempt.provisional:
            replaced.setdefault(key, attempt)
    return fresh, replaced


def _describe(runs: Mapping[str, RunState], event: Event) -> None:
    """Take what an event says about its run's identity and status. The order of events does not matter."""
    state = runs.get(event.run)
    if state is None:
        return
    match event:
        case Attempt():
            if not state.identified:
                whole = event.meta.get("principal") is not None
                state.identify(event.meta if whole else attempt_identity(event), event.at)
            elif _tells_more(state, event.meta, event.at):
                state.identify(event.meta, event.at)
            if event.status is not None:
                state.turn(event.status, event.ended_at)
                if event.reason is not None:
                    state.explain(event.status, event.reason, event.ended_at)
        case StatusChange():
            state.identify(event.meta, event.at)
            state.turn(event.status, event.at)
            if event.reason is not None:
                state.explain(event.status, event.reason, event.at)
        case Refusal():
            state.identify(event.meta, event.at)


def _tells_more(state: RunState, meta: Json, at: Millis) -> bool:
    """Whether `meta` may hold what the run does not know yet; nearly always false, and cheap."""
    began = meta.get("started_at") or at
    known = state.identity
    return (type(began) is int and began < state.started_at) or any(
        known[name] is None and meta.get(name) is not None for name in ("name", "parent", "continues")
    )


def _count_refusals(
    runs: Mapping[str, RunState], refusals: Iterable[Refusal], known: Mapping[str, bool]
) -> list[Refusal]:
    """The refusals that are new, counted in their runs."""
    fresh: dict[str, Refusal] = {}
    for refusal in refusals:
        if refusal.id in known or refusal.id in fresh:
            continue
        state = runs.get(refusal.run)
        if state is not None:
            # At or before the newest one whose detail was dropped: it was counted before it was dropped.
            if (refusal.at, refusal.id) <= (state.refusals_cut_at, state.refusals_cut_id):
                continue
            state.refusals += 1
            state.refusals_kept += 1
            state.changed = True
        fresh[refusal.id] = refusal
    return list(fresh.values())


def _cut_refusals(conn: Connection, runs: Mapping[str, RunState], refusals: Iterable[Refusal]) -> None:
    for run in dict.fromkeys(refusal.run for refusal in refusals):
        state = runs.get(run)
        if state is not None and state.refusals_kept <= REFUSALS_KEPT:
            continue
        steps = schema.steps.c
        surplus = conn.execute(
            select(steps.id, steps.at)
            .where(steps.run == run, steps.kind == "refusal")
            .order_by(steps.at.desc(), steps.id.desc())
            .offset(LOOSE_REFUSALS_KEPT if state is None else REFUSALS_KEPT)
        ).all()
        if not surplus:
            continue
        _delete_steps(conn, [row.id for row in surplus])
        if state is not None:
            state.refusals_kept -= len(surplus)
            state.refusals_cut_at, state.refusals_cut_id = surplus[0].at, surplus[0].id


def _refold(conn: Connection, runs: Mapping[str, RunState]) -> list[Attempt]:
    """Rebuild these runs' figures; gives their attempts, whose tool rows have been removed."""
    attempts = []
    for state in runs.values():
        state.clear()
    for ids in _chunks(list(runs)):
        for table in (schema.tool_calls, schema.tool_failures):
            conn.execute(delete(table).where(table.c.run.in_(ids)))
        f = schema.folded_runs
        for row in conn.execute(select(f).where(f.c.run.in_(ids))).mappings():
            runs[row["run"]].start_from(row)
        found = conn.execute(
            select(schema.steps).where(schema.steps.c.run.in_(ids), schema.steps.c.kind == "attempt")
        )
        for row in found.mappings():
            attempt = stored_attempt(dict(row))
            runs[attempt.run].add(attempt)
            attempts.append(attempt)
    return attempts


def _add_tools(conn: Connection, sql: Statements, attempts: Iterable[Attempt]) -> None:
    tools = Folded()
    for attempt in attempts:
        tools.add_tools(attempt)
    if tools.calls:
        sql.run(conn, sql.add_calls, [(*call, count) for call, count in tools.calls.items()])
    if tools.failures:
        sql.run(conn, sql.add_failures, [(*result, count) for result, count in tools.failures.items()])


def _save_runs(conn: Connection, sql: Statements, runs: Iterable[RunState]) -> None:
    inserted, updated, moved = [], [], []
    for state in runs:
        if state.new:
            inserted.append((state.id, *state.fixed(), *state.moving()))
        elif state.fixed_changed:
            updated.append((*state.fixed(), *state.moving(), state.id))
        elif state.changed:
            moved.append((*state.moving(), state.id))
    if inserted:
        sql.run(conn, sql.insert_run, inserted)
    for statement, rows in ((sql.update_run, updated), (sql.move_run, moved)):
        if rows:
            conn.exec_driver_sql(statement, rows)


def _known_steps(conn: Connection, ids: Sequence[str]) -> dict[str, bool]:
    """Of these ids, those in the ledger, and whether they are provisional."""
    known: dict[str, bool] = {}
    for chunk in _chunks(ids):
        found = conn.execute(_SELECT_KNOWN, {"ids": chunk})
        known.update((row[0], row[1]) for row in found)
    return known


def _rows(conn: Connection, table: Table, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for chunk in _chunks(ids):
        yield from map(dict, conn.execute(_SELECT_ROWS[table.name], {"ids": chunk}).mappings())


def _delete_steps(conn: Connection, ids: Sequence[str]) -> None:
    for chunk in _chunks(ids):
        conn.execute(delete(schema.steps).where(schema.steps.c.id.in_(chunk)))


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def _among(column: ColumnElement[Any]) -> ColumnElement[bool]:
    return column.in_(bindparam("ids", expanding=True))


_SELECT_KNOWN = select(schema.steps.c.id, schema.steps.c.provisional).where(_among(schema.steps.c.id))
_SELECT_ROWS = {table.name: select(table).where(_among(table.c.id)) for table in (schema.steps, schema.runs)}
