"""What the ledger can be asked: runs, their steps, and what was spent.

Answers are plain dictionaries; money is integer nano-dollars, times are milliseconds. How they are shown is
the admin API's concern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    RowMapping,
    String,
    and_,
    cast,
    distinct,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
)

from gateway.domain import Json, Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_cursor import make_cursor, read_cursor
from gateway.stores.ledger_database import Database
from gateway.stores.ledger_events import clip

Bucket = Literal["hour", "day"]
GROUPS = ("user", "session", "run", "key", "team", "model", "provider", "surface")
"""What spend can be grouped by, besides `tag`."""

_SUMS = ("cost", "input_tokens", "output_tokens", "cached_tokens", "steps", "attempts", "saved")
_BUCKET_MS: dict[str, Millis] = {"hour": 3_600_000, "day": 86_400_000}
_MAX_CHILDREN = 1000


class AmbiguousRun(ValueError):  # noqa: N818 - reads as what it is
    """Runs of several principals have this name; `ids` are the newest run of each."""

    def __init__(self, name: str, ids: Sequence[str]) -> None:
        super().__init__(f"{len(ids)} principals have a run named '{name}'; use an id: {', '.join(ids)}")
        self.ids = tuple(ids)


class Reports(Database):
    """Reading the ledger. Each method sees one snapshot and raises `LedgerUnavailable`."""

    async def runs(
        self,
        *,
        status: str | None = None,
        user: str | None = None,
        session: str | None = None,
        key: str | None = None,
        model: str | None = None,
        since: Millis | None = None,
        principal: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Json], str | None]:
        """Runs, newest first, and the cursor of the next page.

        `model` matches the model asked for or the one really called; `since` is a start time. A run: `id
        name session key user end_user team principal agent tags source surface policy continues parent
        status status_reason started_at last_step_at steps attempts tool_calls tools{name: {calls, errors}}
        input_tokens output_tokens cached_tokens cost saved model_mix{model: {attempts, cost}} refusals` and
        what else its `meta` held. Raises `BadCursor`.
        """
        r, s = schema.runs.c, schema.steps.c
        query = select(schema.runs).order_by(r.started_at.desc(), r.id.desc()).limit(limit + 1)
        for column, value in (("user", user), ("session", session), ("key", key), ("principal", principal)):
            if value is not None:
                query = query.where(r[column] == clip(value))
        if status is not None:
            query = query.where(r.status == status)
        if since is not None:
            query = query.where(r.started_at >= since)
        if model is not None:
            name = clip(model)
            query = query.where(
                exists().where(s.run == r.id, or_(s.model == name, s.requested_model == name))
            )
        if cursor is not None:
            started_at, run = read_cursor(cursor, int, str)
            query = query.where(tuple_(r.started_at, r.id) < tuple_(literal(started_at), literal(run)))

        def work(conn: Connection) -> tuple[list[Json], str | None]:
            found = conn.execute(query).mappings().all()
            page = with_tools(conn, [read_run(dict(row)) for row in found[:limit]])
            more = len(found) > limit and page
            return page, make_cursor(page[-1]["started_at"], page[-1]["id"]) if more else None

        return await self._report(work)

    async def run(self, id_or_name: str, principal: str | None = None) -> Json | None:
        """One run as in `runs`, with the ids of its `children`; of runs with equal names the newest.

        `principal` looks among one caller's runs alone. Raises `AmbiguousRun` when callers share the name.
        """
        r = schema.runs.c
        wanted = clip(id_or_name)

        def work(conn: Connection) -> Json | None:
            whose: list[ColumnElement[bool]] = [] if principal is None else [r.principal == clip(principal)]
            row = conn.execute(select(schema.runs).where(r.id == wanted, *whose)).mappings().first()
            if row is None:
                named = conn.execute(
                    select(schema.runs)
                    .where(r.name == wanted, *whose)
                    .order_by(r.started_at.desc(), r.id.desc())
                ).mappings()
                newest: dict[str | None, Mapping[str, Any]] = {}
                for candidate in named:
                    newest.setdefault(candidate["principal"], dict(candidate))
                if not newest:
                    return None
                if len(newest) > 1:
                    raise AmbiguousRun(id_or_name, [candidate["id"] for candidate in newest.values()])
                (row,) = newest.values()  # type: ignore[assignment]  # a plain copy of the same mapping
            assert row is not None
            (run,) = with_tools(conn, [read_run(dict(row))])
            run["children"] = list(
                conn.execute(
                    select(r.id)
                    .where(r.parent == run["id"])
                    .order_by(r.started_at, r.id)
                    .limit(_MAX_CHILDREN)
                ).scalars()
            )
            return run

        return await self._report(work)

    async def steps(
        self, run_id: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Json], str | None]:
        """Attempts and kept refusals of a run in their order, and the cursor of the next page.

        A step holds every field of its event, and `kind` (`attempt` or `refusal`), `verdict`, `cost`,
        `input_tokens output_tokens cached_tokens`. Raises `BadCursor`.
        """
        s = schema.steps.c
        order = (s.ordinal, s.at, s.ended_at, s.id)
        query = select(schema.steps).where(s.run == clip(run_id)).order_by(*order).limit(limit + 1)
        if cursor is not None:
            after = read_cursor(cursor, int, int, int, str)
            query = query.where(tuple_(*order) > tuple_(*(literal(value) for value in after)))

        def work(conn: Connection) -> tuple[list[Json], str | None]:
            page = [read_step(dict(row)) for row in conn.execute(query).mappings()]
            if len(page) <= limit:
                return page, None
            page.pop()
            last = page[-1] if page else None
            if last is None:
                return page, None
            return page, make_cursor(last["ordinal"], last["started_at"], last["ended_at"], last["id"])

        return await self._report(work)

    async def spend(
        self,
        group_by: str,
        *,
        tag: str | None = None,
        bucket: Bucket | None = None,
        since: Millis | None = None,
        until: Millis | None = None,
    ) -> list[Json]:
        """Sums over attempts that began in `[since, until)`, dearest group first within each bucket.

        `group_by` is one of `GROUPS` or `tag`, which needs the tag's name. A row: `group` (None where the
        attempt has no such value), `at` (start of the hour or day in UTC, None without `bucket`), `cost
        input_tokens output_tokens cached_tokens steps attempts saved`. A step that took several attempts
        counts once in each group that one of them belongs to. Raises `ValueError` for other groups.
        """
        s = schema.steps.c
        if group_by == "tag":
            if not tag:
                raise ValueError("grouping by tag needs the tag's name")
            group = self._tag_value(clip(tag))
        elif group_by in GROUPS:
            group = s[group_by]
        else:
            raise ValueError(f"group_by: got '{group_by}', expected one of {', '.join((*GROUPS, 'tag'))}")
        length = _BUCKET_MS[bucket] if bucket else None
        begins: ColumnElement[Any] = s.at - s.at % length if length else null()
        # The subquery gives group and bucket names, so that both databases accept them in GROUP BY.
        rows = select(
            group.label("grp"),
            begins.label("begins"),
            (s.run + "/" + cast(s.ordinal, String)).label("step"),
            s.cost,
            s.input_tokens,
            s.output_tokens,
            s.cached_tokens,
            s.saved,
        ).where(s.kind == "attempt")
        if since is not None:
            rows = rows.where(s.at >= since)
        if until is not None:
            rows = rows.where(s.at < until)
        source = rows.subquery()
        c = source.c
        cost = func.sum(c.cost).label("cost")
        names = (c.grp, c.begins) if length else (c.grp,)
        query = (
            select(
                *names,
                cost,
                func.sum(c.input_tokens).label("input_tokens"),
                func.sum(c.output_tokens).label("output_tokens"),
                func.sum(c.cached_tokens).label("cached_tokens"),
                func.sum(c.saved).label("saved"),
                func.count(distinct(c.step)).label("steps"),
                func.count().label("attempts"),
            )
            .group_by(*names)
            .order_by(*(c.begins,) if length else (), cost.desc(), c.grp)
        )

        def work(conn: Connection) -> list[Json]:
            found = [_sums(row) for row in conn.execute(query).mappings()]
            removed = folded_sums(conn, group_by, length, since, until)
            return _together(found, removed) if removed else found

        return await self._report(work)

    def _tag_value(self, tag: str, tags: ColumnElement[str] = schema.steps.c.tags) -> ColumnElement[Any]:
        # Each tag is compared as a row: a JSON path would have to quote the caller's own text.
        if self._sqlite:
            pairs = func.json_each(tags).table_valued("key", "value", name="pairs")
        else:
            pairs = func.json_each_text(cast(tags, JSON)).table_valued("key", "value", name="pairs")
        return select(func.max(pairs.c["value"])).where(pairs.c["key"] == tag).scalar_subquery()


def folded_sums(
    conn: Connection, group_by: str, length: Millis | None, since: Millis | None, until: Millis | None
) -> list[Json]:
    """Sums of attempts that retention has removed, as `Reports.spend` gives them. They are kept by the day,
    which counts where it begins; of runs, sessions and tags nothing is kept."""
    d = schema.folded_spend.c
    group: ColumnElement[Any] = func.nullif(d[group_by], "") if group_by in d else null()
    rows = select(group.label("grp"), d.day, *(d[name] for name in _SUMS))
    if since is not None:
        rows = rows.where(d.day >= since)
    if until is not None:
        rows = rows.where(d.day < until)
    source = rows.subquery()
    c = source.c
    names = (c.grp, c.day.label("begins")) if length else (c.grp,)
    query = select(*names, *(func.sum(c[name]).label(name) for name in _SUMS)).group_by(
        c.grp, *((c.day,) if length else ())
    )
    return [_sums(row) for row in conn.execute(query).mappings()]


def _together(*tables: list[Json]) -> list[Json]:
    """Sums of the same groups added up, dearest group first within each bucket."""
    merged: dict[tuple[Any, Any], Json] = {}
    for row in (row for table in tables for row in table):
        key = (row["group"], row["at"])
        known = merged.get(key)
        merged[key] = row if known is None else {**row, **{name: known[name] + row[name] for name in _SUMS}}
    return sorted(merged.values(), key=lambda r: (r["at"] or 0, -r["cost"], r["group"] or ""))


def read_run(row: Mapping[str, Any]) -> Json:
    """A run from its row, without its tools."""
    run: Json = {k: v for k, v in row.items() if not k.startswith("refusals_")}
    extra = orjson.loads(run.pop("extra"))
    reason, reason_status = run.pop("reason"), run.pop("reason_status")
    del run["reason_at"], run["status_at"]
    run["status_reason"] = reason if reason_status == run["status"] else None
    run["tags"] = orjson.loads(run["tags"])
    run["model_mix"] = {
        model: {"attempts": attempts, "cost": cost}
        for model, (attempts, cost) in orjson.loads(run["model_mix"]).items()
    }
    run["last_step_at"] = run["last_step_at"] or None
    return {**extra, **run}


def with_tools(conn: Connection, runs: list[Json]) -> list[Json]:
    """Add `tools` to runs.

    A failed result belongs to the latest call of its id in an earlier step, and a call fails once, however
    many later requests repeat its result.
    """
    c, f = schema.tool_calls.c, schema.tool_failures.c
    tools: dict[str, dict[str, dict[str, int]]] = {run["id"]: {} for run in runs}
    with_calls = [run["id"] for run in runs if run["tool_calls"]]
    if with_calls:
        counted = conn.execute(
            select(c.run, c.name, func.sum(c.calls)).where(c.run.in_(with_calls)).group_by(c.run, c.name)
        )
        for run, name, calls in counted:
            tools[run][name] = {"calls": int(calls), "errors": 0}
        made = schema.tool_calls.alias("made")
        earlier = (
            select(func.max(made.c.ordinal))
            .where(made.c.run == f.run, made.c.call_id == f.call_id, made.c.ordinal < f.ordinal)
            .correlate(schema.tool_failures)
            .scalar_subquery()
        )
        failed = (
            select(f.run, f.call_id, earlier.label("ordinal"))
            .where(f.run.in_(with_calls))
            .distinct()
            .subquery()
        )
        errors = conn.execute(
            select(c.run, c.name, func.count())
            .join(
                failed,
                and_(c.run == failed.c.run, c.call_id == failed.c.call_id, c.ordinal == failed.c.ordinal),
            )
            .group_by(c.run, c.name)
        )
        for run, name, count in errors:
            tools[run][name]["errors"] = count
    for run in runs:
        run["tools"] = tools[run["id"]]
    return runs


def read_step(row: Mapping[str, Any]) -> Json:
    """A step from its row."""
    step: Json = dict(row)
    extra = orjson.loads(step.pop("extra"))
    step["started_at"] = step.pop("at")
    step["tags"] = orjson.loads(step["tags"])
    step["run"] = step["run"] or None
    return {**extra, **step}


def _sums(found: RowMapping) -> Json:
    return {
        "group": found["grp"],
        "at": found.get("begins"),
        **{name: int(found[name]) for name in _SUMS},
    }
