"""What the dashboard asks of the ledger: what is burning now, spend over time, and findings.

Each question is bounded by a window of time or by a number of rows, so that it costs the same beside a
million runs as beside ten. Answers are plain dictionaries; money is integer nano-dollars, times are
milliseconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_control import chain
from gateway.stores.ledger_cursor import make_cursor, read_cursor
from gateway.stores.ledger_database import LOCK_AUDIT
from gateway.stores.ledger_events import Attempt, Event, Refusal, attempt_identity, clip, labels
from gateway.stores.ledger_reports import GROUPS, Reports, folded_sums, read_run

MINUTE_MS = 60_000
LONGEST_STEP_MS = 30 * MINUTE_MS
"""Steps are indexed by when they began: what ended within a window began at most so long before it."""
NEWEST = 4000
"""Steps that are looked through for refusals and failures, from the newest back."""
OTHERS = "\x00others"
"""The name of what the dearest groups leave over; no label holds U+0000."""

_OPERATIONS = ("kill.set", "kill.revive", "budget.topup", "breaker.reset")

_SUMS = ("cost", "input_tokens", "output_tokens", "cached_tokens", "saved", "attempts")
_BY_RUN = ("run", "session", "tag")

FeedbackVerdict = Literal["false_positive", "true_positive"]


@dataclass(frozen=True, slots=True)
class Feedback:
    """What an operator says of the findings of one detector, kind and channel in one step."""

    id: str
    at: Millis
    by: str
    verdict: FeedbackVerdict
    reason: str
    run: str
    step: str
    ordinal: int
    detector: str
    channel: str
    type: str
    tool: str
    rule: str
    key: str | None
    user: str | None
    team: str | None
    agent: str | None


class Overview(Reports):
    """Reading for the dashboard. Each method sees one snapshot and raises `LedgerUnavailable`."""

    async def pulse(self, now: Millis, *, midnight: Millis, burn_ms: Millis, idle_ms: Millis) -> Json:
        """The last hour by the minute, today's sums, live runs, and what was refused or failed lately.

        `{minutes: [{at, cost, attempts, refusals}], today: {cost, saved, attempts}, live: [run],
        burns: {run: {cost, attempts}}, ended: [run], done: [audit record], refusals: [step], failures:
        [step]}`. A live run is one
        whose last step, or beginning, is at most `idle_ms` ago.
        """

        def work(conn: Connection) -> Json:
            newest = _newest(conn, now)
            return {
                "minutes": _minutes(conn, now),
                "today": _today(conn, midnight),
                "burns": _burns(conn, now, burn_ms),
                "live": _live(conn, now, idle_ms),
                "ended": _ended(conn, now),
                "done": _done(conn),
                "refusals": [step for step in newest if step["kind"] == "refusal"],
                "failures": [step for step in newest if step["kind"] == "attempt"],
            }

        return await self._report(work)

    async def recent_scopes(self, since: Millis, limit: int) -> dict[str, list[str]]:
        """Users, keys and teams with a run that began since then, the busiest first."""
        r = schema.runs.c

        def work(conn: Connection) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for name in ("user", "key", "team"):
                column = r[name]
                query = (
                    select(column)
                    .where(r.started_at >= since, column.is_not(None))
                    .group_by(column)
                    .order_by(func.sum(r.cost).desc(), column)
                    .limit(limit)
                )
                found[name] = list(conn.execute(query).scalars())
            return found

        return await self._report(work)

    async def series(
        self,
        group_by: str,
        *,
        tag: str | None = None,
        since: Millis,
        until: Millis,
        length: Millis,
        top: int,
    ) -> Json:
        """Sums over time of attempts that began in `[since, until)`, for the dearest groups and the rest. By
        run, session and tag it is whole runs that began then, which are ten times fewer.

        `{groups: [{group, cost, input_tokens, output_tokens, cached_tokens, saved, attempts, at: {begin:
        cost}}], count}`: the `top` dearest, then one with the group `OTHERS` when there are more; `count` is
        how many groups there are. `group_by` as in `Reports.spend`.
        """
        s, r = schema.steps.c, schema.runs.c
        if group_by not in (*GROUPS, "tag"):
            raise ValueError(f"group_by: got '{group_by}', expected one of {', '.join((*GROUPS, 'tag'))}")
        if group_by == "tag" and not tag:
            raise ValueError("grouping by tag needs the tag's name")
        columns: tuple[ColumnElement[Any], ...]
        if group_by in _BY_RUN:
            name = "id" if group_by == "run" else group_by
            group = self._tag_value(clip(tag or ""), r.tags) if group_by == "tag" else r[name]
            columns = (r.cost, r.input_tokens, r.output_tokens, r.cached_tokens, r.saved, r.attempts)
            at, which = r.started_at, and_(r.started_at >= since, r.started_at < until)
        else:
            group = s[group_by]
            one = literal(1).label("attempts")
            columns = (s.cost, s.input_tokens, s.output_tokens, s.cached_tokens, s.saved, one)
            at, which = s.at, and_(s.kind == "attempt", s.at >= since, s.at < until)
        begins = (at - at % length).label("begins")
        source = select(group.label("grp"), begins, *columns).where(which).subquery()
        c = source.c
        query = select(
            c.grp,
            c.begins,
            func.sum(c.cost),
            func.sum(c.input_tokens),
            func.sum(c.output_tokens),
            func.sum(c.cached_tokens),
            func.sum(c.saved),
            func.sum(c.attempts),
        ).group_by(c.grp, c.begins)

        def work(conn: Connection) -> Json:
            groups: dict[str | None, Json] = {}
            for name, begins, *sums in conn.execute(query):
                group = groups.get(name)
                if group is None:
                    group = groups[name] = _group(name)
                _add(group, begins, sums)
            if group_by not in _BY_RUN:
                # What retention has removed is known by the day.
                for row in folded_sums(conn, group_by, length, since, until):
                    group = groups.setdefault(row["group"], _group(row["group"]))
                    _add(group, row["at"] - row["at"] % length, [row[name] for name in _SUMS])
            ordered = sorted(groups.values(), key=lambda g: (-g["cost"], -g["attempts"], g["group"] or ""))
            shown, rest = ordered[:top], ordered[top:]
            if rest:
                others = _group(OTHERS)
                for group in rest:
                    _merge(others, group)
                shown.append(others)
            return {"groups": shown, "count": len(groups)}

        return await self._report(work)

    async def savings(self, *, since: Millis, until: Millis, limit: int = 50) -> list[Json]:
        """What was saved, by the model asked for and the one that served: `requested_model model saved cost
        attempts`, the largest first."""
        s = schema.steps.c
        saved = func.sum(s.saved).label("saved")
        query = (
            select(
                s.requested_model,
                s.model,
                saved,
                func.sum(s.cost).label("cost"),
                func.count().label("attempts"),
            )
            .where(s.kind == "attempt", s.at >= since, s.at < until, s.saved != 0)
            .group_by(s.requested_model, s.model)
            .order_by(saved.desc(), s.requested_model, s.model)
            .limit(limit)
        )
        return await self._report(
            lambda conn: [
                {**row, "saved": int(row["saved"]), "cost": int(row["cost"])}
                for row in conn.execute(query).mappings()
            ]
        )

    # -- findings -----------------------------------------------------------------------------------

    async def findings(
        self,
        *,
        detector: str | None = None,
        channel: str | None = None,
        mode: str | None = None,
        action: str | None = None,
        run: str | None = None,
        since: Millis | None = None,
        until: Millis | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Json], str | None]:
        """Findings, newest first, with the newest `feedback` on each (else None), and the next page's
        cursor. Raises `BadCursor`."""
        f = schema.findings.c
        order = (f.at, f.step, f.n)
        query = (
            _within(select(schema.findings), f.at, since, until)
            .where(
                *_equal(
                    {f.detector: detector, f.channel: channel, f.mode: mode, f.action: action, f.run: run}
                )
            )
            .order_by(*(column.desc() for column in order))
            .limit(limit + 1)
        )
        if cursor is not None:
            before = read_cursor(cursor, int, str, int)
            query = query.where(tuple_(*order) < tuple_(*(literal(value) for value in before)))

        def work(conn: Connection) -> tuple[list[Json], str | None]:
            rows: list[Json] = [dict(row) for row in conn.execute(query).mappings()]
            page = rows[:limit]
            said = _feedback_on(conn, [row["step"] for row in page])
            for row in page:
                row["feedback"] = said.get((row["step"], row["detector"], row["channel"], row["type"]))
            last = page[-1] if len(rows) > limit else None
            return page, make_cursor(last["at"], last["step"], last["n"]) if last else None

        return await self._report(work)

    async def finding_sums(self, *, since: Millis, until: Millis, length: Millis) -> list[Json]:
        """Findings over time: `detector channel mode action begins count steps`."""
        f = schema.findings.c
        begins = (f.at - f.at % length).label("begins")
        source = (
            _within(select(f.detector, f.channel, f.mode, f.action, begins, f["count"].label("found")), f.at,
                    since, until)
        ).subquery()  # fmt: skip
        c = source.c
        names = (c.detector, c.channel, c.mode, c.action, c.begins)
        query = select(*names, func.sum(c.found), func.count()).group_by(*names).order_by(*names)

        def work(conn: Connection) -> list[Json]:
            return [
                {
                    "detector": detector,
                    "channel": channel,
                    "mode": mode,
                    "action": action,
                    "begins": begins,
                    "count": int(found),
                    "steps": steps,
                }
                for detector, channel, mode, action, begins, found, steps in conn.execute(query)
            ]

        return await self._report(work)

    async def say_of_finding(
        self,
        *,
        step: str,
        detector: str,
        channel: str | None,
        type_: str | None,
        verdict: FeedbackVerdict,
        reason: str,
        by: str,
        at: Millis,
    ) -> Feedback | None:
        """Record what an operator says of a step's findings; None when the step has none like these.

        Without `channel` or `type_` the first finding of the detector is meant. The record and its entry in
        the audit log, `finding.feedback`, are one transaction.
        """
        f = schema.findings.c

        def work(conn: Connection) -> Feedback | None:
            query = (
                select(schema.findings)
                .where(f.step == clip(step), f.detector == detector)
                .where(*_equal({f.channel: channel, f.type: type_}))
                .order_by(f.n)
                .limit(1)
            )
            found = conn.execute(query).mappings().first()
            if found is None:
                return None
            copied = (
                *("run", "step", "ordinal", "detector", "channel", "type", "tool"),
                *("key", "user", "team", "agent"),
            )
            record = Feedback(
                id=uuid.uuid4().hex,
                at=at,
                by=by,
                verdict=verdict,
                reason=reason,
                rule=rule_of(detector),
                **{name: found[name] for name in copied},
            )
            conn.execute(schema.finding_feedback.insert(), asdict(record))
            told = {name: value for name, value in asdict(record).items() if name not in ("at", "by")}
            told["feedback"] = told.pop("id")
            chain(conn, [AuditEntry(by, "finding.feedback", told, at)])
            return record

        return await self._write(work, lock=LOCK_AUDIT)

    async def finding_feedback(
        self,
        *,
        verdict: FeedbackVerdict | None = None,
        since: Millis | None = None,
        limit: int = 100,
    ) -> list[Feedback]:
        """What operators said, newest first. Of several about the same findings each is listed."""
        c = schema.finding_feedback.c
        query = (
            _within(select(schema.finding_feedback), c.at, since, None)
            .where(*_equal({c.verdict: verdict}))
            .order_by(c.at.desc(), c.id)
            .limit(limit)
        )
        return await self._report(lambda conn: [Feedback(**row) for row in conn.execute(query).mappings()])


def rule_of(detector: str) -> str:
    """Where the policy rules over a detector."""
    return "claims" if detector == "claims" else f"screening.{detector}"


# -- writing -----------------------------------------------------------------------------------------


def keep_findings(conn: Connection, events: Sequence[Event]) -> None:
    """Note what the detectors found in these steps; a step that is there already changes nothing."""
    rows: list[Json] = []
    for event in events:
        match event:
            case Attempt():
                rows += _finding_rows(event, event.ended_at, event.ordinal)
            case Refusal():
                rows += _finding_rows(event, event.at, event.row[4])
    if rows:
        make: Any = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
        conn.execute(make(schema.findings).on_conflict_do_nothing(), rows)


def _finding_rows(event: Attempt | Refusal, at: Millis, ordinal: int) -> list[Json]:
    text: str = event.row[-1]
    if '"findings":[{' not in text:
        return []
    found = orjson.loads(text).get("findings")
    if type(found) is not list:
        return []
    who = attempt_identity(event) if type(event) is Attempt else event.meta
    key, user, team, agent = labels(who.get(name) for name in ("key", "user", "team", "agent"))
    rows = []
    for n, finding in enumerate(found[:100]):
        if type(finding) is not dict:
            continue
        told = labels(
            finding.get(name) or "" for name in ("detector", "channel", "mode", "action", "type", "tool")
        )
        detector, channel, mode, action, type_, tool = told
        count = finding.get("count")
        rows.append(
            {
                "step": event.id,
                "n": n,
                "at": at,
                "run": event.run,
                "ordinal": ordinal,
                "key": key,
                "user": user,
                "team": team,
                "agent": agent,
                "detector": detector,
                "channel": channel,
                "mode": mode,
                "action": action,
                "type": type_ or str(finding.get("kind") or ""),
                "tool": tool,
                "count": count if type(count) is int and 0 < count < 2**31 else 1,
            }
        )
    return rows


# -- reading -----------------------------------------------------------------------------------------


def _minutes(conn: Connection, now: Millis) -> list[Json]:
    s = schema.steps.c
    begin = now - now % MINUTE_MS - 59 * MINUTE_MS
    at = (s.ended_at - s.ended_at % MINUTE_MS).label("minute")
    source = (
        select(at, s.cost, s.kind)
        .where(s.at >= begin - LONGEST_STEP_MS, s.ended_at >= begin)
        .subquery()
    )  # fmt: skip
    c = source.c
    query = select(
        c.minute,
        func.sum(c.cost),
        func.sum(case((c.kind == "attempt", 1), else_=0)),
        func.sum(case((c.kind == "refusal", 1), else_=0)),
    ).group_by(c.minute)
    found = {
        minute: (int(cost), int(made), int(refused)) for minute, cost, made, refused in conn.execute(query)
    }
    minutes = []
    for minute in range(begin, begin + 60 * MINUTE_MS, MINUTE_MS):
        cost, attempts, refusals = found.get(minute, (0, 0, 0))
        minutes.append({"at": minute, "cost": cost, "attempts": attempts, "refusals": refusals})
    return minutes


def _today(conn: Connection, midnight: Millis) -> Json:
    s = schema.steps.c
    query = select(func.sum(s.cost), func.sum(s.saved), func.count()).where(
        s.at >= midnight, s.kind == "attempt"
    )
    cost, saved, attempts = conn.execute(query).one()
    return {"cost": int(cost or 0), "saved": int(saved or 0), "attempts": attempts}


def _burns(conn: Connection, now: Millis, burn_ms: Millis) -> dict[str, Json]:
    s = schema.steps.c
    query = (
        select(s.run, func.sum(s.cost), func.count())
        .where(
            s.at >= now - burn_ms - LONGEST_STEP_MS,
            s.ended_at >= now - burn_ms,
            s.kind == "attempt",
        )
        .group_by(s.run)
    )
    return {run: {"cost": int(cost), "attempts": attempts} for run, cost, attempts in conn.execute(query)}


def _live(conn: Connection, now: Millis, idle_ms: Millis) -> list[Json]:
    r = schema.runs.c
    since = now - idle_ms
    query = (
        select(schema.runs)
        .where(r.status == "running", or_(r.last_step_at >= since, r.started_at >= since))
        .order_by(r.last_step_at.desc(), r.id)
        .limit(500)
    )
    return [read_run(dict(row)) for row in conn.execute(query).mappings()]


def _ended(conn: Connection, now: Millis) -> list[Json]:
    """Runs of the last day that did not end by themselves, the latest ending first."""
    r = schema.runs.c
    query = (
        select(schema.runs)
        .where(
            r.started_at >= now - 24 * 60 * MINUTE_MS,
            r.status.not_in(("running", "completed", "abandoned")),
        )
        .order_by(r.status_at.desc(), r.id)
        .limit(40)
    )
    return [{**read_run(dict(row)), "status_at": row["status_at"]} for row in conn.execute(query).mappings()]


def _done(conn: Connection) -> list[Json]:
    """What operators did last, of the newest records of the audit log: `at actor action details`."""
    newest = select(schema.audit).order_by(schema.audit.c.seq.desc()).limit(1000).subquery()
    n = newest.c
    query = (
        select(n.at, n.actor, n.action, n.details)
        .where(or_(n.action.in_(_OPERATIONS), n.action.like("policy.%")))
        .order_by(n.seq.desc())
        .limit(30)
    )
    return [{**row, "details": orjson.loads(row["details"])} for row in conn.execute(query).mappings()]


def _newest(conn: Connection, now: Millis) -> list[Json]:
    """Of the newest steps those that were refused, or failed at their provider; newest first."""
    s = schema.steps.c
    newest = select(schema.steps).order_by(s.at.desc()).limit(NEWEST).subquery()
    n = newest.c
    query = (
        select(newest)
        .where(
            or_(n.kind == "refusal", and_(n.kind == "attempt", n.extra.like('%"outcome":"failed"%'))),
            n.at >= now - 24 * 60 * MINUTE_MS,
        )
        .order_by(n.at.desc(), n.id)
        .limit(300)
    )
    found = []
    for row in conn.execute(query).mappings():
        step = dict(row)
        found.append({**orjson.loads(step.pop("extra")), **step})
    return found


def _group(name: str | None) -> Json:
    return {"group": name, **dict.fromkeys(_SUMS, 0), "at": {}}


def _add(group: Json, begins: Millis, sums: Sequence[Any]) -> None:
    cost, read, wrote, cached, saved, attempts = map(int, sums)
    group["cost"] += cost
    group["input_tokens"] += read
    group["output_tokens"] += wrote
    group["cached_tokens"] += cached
    group["saved"] += saved
    group["attempts"] += attempts
    group["at"][begins] = group["at"].get(begins, 0) + cost


def _merge(into: Json, group: Mapping[str, Any]) -> None:
    for name in _SUMS:
        into[name] += group[name]
    at: dict[Millis, Nano] = into["at"]
    for begins, cost in group["at"].items():
        at[begins] = at.get(begins, 0) + cost


def _within(
    query: Select[Any], at: ColumnElement[int], since: Millis | None, until: Millis | None
) -> Select[Any]:
    if since is not None:
        query = query.where(at >= since)
    if until is not None:
        query = query.where(at < until)
    return query


def _equal(wanted: Mapping[Any, str | None]) -> list[ColumnElement[bool]]:
    return [column == clip(value) for column, value in wanted.items() if value is not None]


def _feedback_on(conn: Connection, steps: Sequence[str]) -> dict[tuple[str, str, str, str], Json]:
    """The newest word on each of these steps' findings, by step, detector, channel and type."""
    if not steps:
        return {}
    c = schema.finding_feedback.c
    query = select(schema.finding_feedback).where(c.step.in_(sorted(set(steps)))).order_by(c.at, c.id)
    return {
        (row["step"], row["detector"], row["channel"], row["type"]): dict(row)
        for row in conn.execute(query).mappings()
    }
