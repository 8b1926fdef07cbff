"""What the dashboard shows at a glance: what burns now, spend over time, savings and findings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.requests import Request

from gateway.admission import Window
from gateway.domain import Json, Millis, Nano, usd
from gateway.errors import StoreUnavailable
from gateway.policy.sections.callers import EVERYTHING
from gateway.policy.sections.spending import Budget
from gateway.rules.breakers import parse_breaker_key
from gateway.rules.budgets import GLOBAL_ID, counter_key
from gateway.steps.dispatch import Generation
from gateway.stores.ledger_overview import OTHERS, Feedback
from gateway.stores.ledger_reports import GROUPS
from gateway.web.admin_budgets import counted
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_runs import Cursor, Limit, moment
from gateway.web.admin_views import (
    Body,
    Label,
    Moment,
    Reason,
    approval_view,
    breaker_view,
    kill_view,
    page,
    run_view,
    stamp,
    stamp_or_none,
)

BURN_MS = 120_000
"""A run's burn rate is what it cost within so long."""
YOUNG_MS = 15_000
"""A younger run's rate is reckoned over this time, so that one first call is no blaze."""
FRESH_S = 0.4
"""One picture serves everyone who asks within so long."""
SCOPES_S = 10.0
"""How long the list of users, keys and teams whose budgets are shown is good for."""
MOST_LIVE = 100
MOST_SCOPES = 50
MOST_BUDGETS = 24
FAILURES_MS = 15 * 60_000
DAY_MS = 86_400_000
POINTS = 96
"""At most so many points in a series, unless a length is asked for."""
_LENGTHS_S = (60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86_400, 7 * 86_400)

router = APIRouter(route_class=AdminRoute, tags=["overview"])


class FeedbackBody(Body):
    """What an operator says of findings: they are named by their step and detector, and where a step has
    several by channel and type."""

    run: Label
    step: Label
    """The step's `id`, as `GET /runs/{id}/steps` and `GET /findings` tell it."""
    detector: Label
    channel: Label | None = None
    type: Label | None = None
    verdict: Literal["false_positive", "true_positive"] = "false_positive"
    reason: Reason


@dataclass(slots=True)
class Picture:
    """The latest overview of a worker, made once for all who look at it at the same time."""

    made_at: float = float("-inf")
    value: Json = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    scopes_at: float = float("-inf")
    scopes: dict[str, list[str]] = field(default_factory=dict)


@router.get("/overview")
@needs("viewer")
async def overview(ctx: Ctx, request: Request) -> Json:
    """Everything that an operator looks at first: spend rate, live runs by what they burn, budgets by how
    much is used, breakers that are not closed, what happened lately, and calls that wait for approval."""
    state = request.app.state
    picture: Picture | None = getattr(state, "picture", None)
    if picture is None:
        picture = state.picture = Picture()
    loop = asyncio.get_running_loop()
    async with picture.lock:
        if loop.time() - picture.made_at > FRESH_S:
            picture.value = await _paint(ctx, picture)
            picture.made_at = loop.time()
    return {**picture.value, "you": {"name": ctx.caller.name, "role": ctx.caller.role}}


@router.get("/timeseries")
@needs("viewer")
async def timeseries(
    ctx: Ctx,
    group_by: Annotated[str, Query(max_length=80)] = "user",
    tag: Label | None = None,
    since: Moment = "24h",
    until: Moment | None = None,
    bucket_s: Annotated[int | None, Query(ge=60, le=31 * 86_400)] = None,
    top: Annotated[int, Query(ge=1, le=50)] = 8,
) -> Json:
    """Spend over time of the `top` dearest groups and of the rest together, grouped as in `/spend`.

    `{bucket_s, at: […], series: [{group, others, cost_usd, …, points: ["0.01", …]}], groups}`: one point for
    each of `at`, the beginnings of the buckets in UTC.
    """
    word, name = grouping(group_by, tag)
    begin, end = _span(ctx, since, until)
    length = (bucket_s * 1000) if bucket_s is not None else _length(end - begin)
    if (end - begin) // length > 2000:
        raise AdminError(400, "invalid_request", "query.bucket_s: too short for this time: over 2,000 points")
    await ctx.flush()
    found = await ctx.worker.ledger.series(word, tag=name, since=begin, until=end, length=length, top=top)
    at = list(range(begin - begin % length, end, length))
    return {
        "bucket_s": length // 1000,
        "since": stamp(begin),
        "until": stamp(end),
        "at": [stamp(each) for each in at],
        "series": [_series_view(group, at) for group in found["groups"]],
        "groups": found["count"],
    }


@router.get("/savings")
@needs("viewer")
async def savings(ctx: Ctx, since: Moment = "24h", until: Moment | None = None) -> Json:
    """What routing, caches and the like saved, by the model that was asked for and the one that served."""
    begin, end = _span(ctx, since, until)
    await ctx.flush()
    rows = await ctx.worker.ledger.savings(since=begin, until=end)
    return page(
        [
            {
                "requested_model": row["requested_model"],
                "model": row["model"],
                "saved_usd": usd(row["saved"]),
                "cost_usd": usd(row["cost"]),
                "attempts": row["attempts"],
            }
            for row in rows
        ]
    )


@router.get("/findings")
@needs("viewer")
async def findings(
    ctx: Ctx,
    detector: Label | None = None,
    channel: Label | None = None,
    mode: Literal["enforce", "shadow"] | None = None,
    action: Label | None = None,
    run: Label | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """What detectors found, newest first: kind and count, never the text. `feedback` is what an operator said
    of it last."""
    await ctx.flush()
    rows, following = await ctx.worker.ledger.findings(
        detector=detector,
        channel=channel,
        mode=mode,
        action=action,
        run=run,
        since=moment(ctx, since),
        until=moment(ctx, until),
        limit=limit,
        cursor=cursor,
    )
    return page([_finding_view(row) for row in rows], following)


@router.get("/findings/summary")
@needs("viewer")
async def finding_summary(
    ctx: Ctx,
    since: Moment = "24h",
    until: Moment | None = None,
    bucket_s: Annotated[int | None, Query(ge=60, le=31 * 86_400)] = None,
) -> Json:
    """Findings over time by detector, channel, mode and action."""
    begin, end = _span(ctx, since, until)
    length = (bucket_s * 1000) if bucket_s is not None else _length(end - begin)
    if (end - begin) // length > 2000:
        raise AdminError(400, "invalid_request", "query.bucket_s: too short for this time: over 2,000 points")
    await ctx.flush()
    rows = await ctx.worker.ledger.finding_sums(since=begin, until=end, length=length)
    at = list(range(begin - begin % length, end, length))
    place = {each: index for index, each in enumerate(at)}
    series: dict[tuple[str, ...], Json] = {}
    for row in rows:
        names = ("detector", "channel", "mode", "action")
        key = tuple(row[name] for name in names)
        one = series.get(key)
        if one is None:
            told = {name: row[name] for name in names}
            one = series[key] = {**told, "count": 0, "steps": 0, "points": [0] * len(at)}
        one["count"] += row["count"]
        one["steps"] += row["steps"]
        one["points"][place[row["begins"]]] += row["count"]
    return {
        "bucket_s": length // 1000,
        "at": [stamp(each) for each in at],
        "series": sorted(series.values(), key=lambda one: -one["count"]),
    }


@router.get("/findings/feedback")
@needs("viewer")
async def list_feedback(
    ctx: Ctx,
    verdict: Literal["false_positive", "true_positive"] | None = None,
    since: Moment | None = None,
    limit: Limit = 100,
) -> Json:
    """What operators said of findings, newest first."""
    said = await ctx.worker.ledger.finding_feedback(verdict=verdict, since=moment(ctx, since), limit=limit)
    return page([_feedback_view(each) for each in said])


@router.post("/findings/feedback", status_code=201)
@needs("operator")
async def say_of_finding(ctx: Ctx, body: FeedbackBody) -> Json:
    """Say that a finding was wrong, or right. Changes nothing by itself; it is on record for the policy."""
    await ctx.flush()
    record = await ctx.worker.ledger.say_of_finding(
        step=body.step,
        detector=body.detector,
        channel=body.channel,
        type_=body.type,
        verdict=body.verdict,
        reason=body.reason,
        by=ctx.caller.name,
        at=ctx.now(),
    )
    if record is None or record.run != body.run:
        raise AdminError(404, "not_found", f"Step {body.step!r} has no finding of {body.detector!r}.")
    ctx.worker.notify(
        "finding_feedback",
        {"run": record.run, "detector": record.detector, "verdict": record.verdict, "by": record.by},
    )
    return _feedback_view(record)


# -- the overview ------------------------------------------------------------------------------------


async def _paint(ctx: Context, picture: Picture) -> Json:
    await ctx.flush()
    worker, now = ctx.worker, ctx.now()
    ledger = worker.ledger
    generation = worker.pipeline.generation
    idle_ms = int(generation.policy.runs.idle_ttl_s * 1000)
    midnight = now - now % DAY_MS
    pulse, (waiting, more), kills = await asyncio.gather(
        ledger.pulse(now, midnight=midnight, burn_ms=BURN_MS, idle_ms=idle_ms),
        ledger.approvals(now, state="pending", limit=20),
        ledger.active_kills(now),
    )
    live = sorted(pulse["live"], key=lambda run: (-_burn(pulse, run, now), -(run["last_step_at"] or 0)))
    shown = live[:MOST_LIVE]
    loop = asyncio.get_running_loop()
    if loop.time() - picture.scopes_at > SCOPES_S:
        picture.scopes = await ledger.recent_scopes(now - DAY_MS, MOST_SCOPES)
        picture.scopes_at = loop.time()
    accounts = _Accounts(generation, now, worker.control.topups)
    shared = accounts.shared(_with_live(picture.scopes, live))
    for run in shown:
        accounts.of_run(run)
    store_ok, states = True, {}
    try:
        states = await worker.store.counters(accounts.counters)
        breakers = await worker.store.breakers(None)
        held = await asyncio.gather(*(worker.store.live_run(run["id"]) for run in shown))
    except StoreUnavailable:
        store_ok, breakers, held = False, [], [None] * len(shown)
    status = worker.source.status()
    burning = sum(_burn(pulse, run, now) for run in live)
    return {
        "at": stamp(now),
        "spend": {
            **_rates(pulse["minutes"], now),
            "today_usd": usd(pulse["today"]["cost"]),
            "saved_today_usd": usd(pulse["today"]["saved"]),
            "steps_today": pulse["today"]["attempts"],
            "burn_usd_per_min": usd(burning),
            "minutes": [
                {
                    "at": stamp(each["at"]),
                    "cost_usd": usd(each["cost"]),
                    "steps": each["attempts"],
                    "refusals": each["refusals"],
                }
                for each in pulse["minutes"]
            ],
        },
        "runs": {
            "live": len(live),
            "data": [
                {
                    **run_view({**run, "tools": {}}, each),
                    "burn_usd_per_min": usd(_burn(pulse, run, now)),
                    "nearest": accounts.nearest(run, states),
                }
                for run, each in zip(shown, held, strict=True)
            ],
        },
        "budgets": accounts.rows(shared, states)[:MOST_BUDGETS],
        "breakers": [
            breaker_view(state, name)
            for state in breakers
            if state.state != "closed" and (name := parse_breaker_key(state.key)) is not None
        ],
        "kills": [kill_view(kill, now) for kill in kills[:20]],
        "approvals": {"more": more is not None, "data": [approval_view(each) for each in waiting]},
        "happened": _happened(pulse),
        "failures": _failures(pulse["failures"], now),
        "health": {
            "store": "ok" if store_ok else "unavailable",
            "worker": worker.id,
            "started_at": stamp(int(worker.started_at * 1000)),
            "policy": {
                "version": generation.version,
                "healthy": status.healthy,
                "error": status.last_error,
                "failing_since": stamp_or_none(status.failing_since),
            },
        },
    }


def _with_live(scopes: Mapping[str, Sequence[str]], live: Sequence[Json]) -> dict[str, list[str]]:
    """Scopes that were seen lately, and those of live runs, who may have come only now."""
    return {
        name: list(dict.fromkeys([*known, *(run[name] for run in live[:MOST_LIVE] if run[name])]))
        for name, known in scopes.items()
    }


def _burn(pulse: Json, run: Json, now: Millis) -> Nano:
    """Nano-dollars a minute."""
    spent = pulse["burns"].get(run["id"])
    if spent is None:
        return 0
    age = max(YOUNG_MS, min(BURN_MS, now - run["started_at"]))
    return int(spent["cost"] * 60_000 // age)


def _rates(minutes: Sequence[Json], now: Millis) -> Json:
    """Spend a minute over the last five, and over the five before."""
    into = now % 60_000
    latest, before = minutes[-5:], minutes[-10:-5]
    elapsed = 4 * 60_000 + into
    cost = sum(each["cost"] for each in latest)
    steps = sum(each["attempts"] for each in latest)
    return {
        "usd_per_min": usd(cost * 60_000 // elapsed),
        "before_usd_per_min": usd(sum(each["cost"] for each in before) // 5),
        "steps_per_min": round(steps * 60_000 / elapsed, 2),
        "hour_usd": usd(sum(each["cost"] for each in minutes)),
    }


@dataclass(frozen=True, slots=True)
class _Account:
    """One budget of one scope."""

    budget: Budget
    id: str
    counter: str
    starts_at: Millis | None
    resets_at: Millis | None


class _Accounts:
    """Which counters stand for the budgets of runs and of those who share them."""

    def __init__(self, generation: Generation, now: Millis, topups: Mapping[tuple[str, str], Nano]) -> None:
        self.generation = generation
        self.budgets = counted(generation)
        self.now = now
        self.topups = topups
        self._known: dict[str, _Account] = {}
        self._windows: dict[tuple[str, str], tuple[Window, ...]] = {}

    @property
    def counters(self) -> list[str]:
        return list(self._known)

    def shared(self, scopes: Mapping[str, Sequence[str]]) -> list[_Account]:
        """Budgets of everyone, and of these users, keys and teams."""
        accounts = []
        for budget in self.budgets:
            ids = [GLOBAL_ID] if budget.per == "global" else scopes.get(budget.per, ())
            accounts += [self._account(budget, each, "") for each in ids]
        return accounts

    def of_run(self, run: Json) -> list[_Account]:
        """Every budget that a run draws on; of those narrowed to a model or surface, which may be others'."""
        accounts = []
        own = self._serving(run)
        for budget in self.budgets if own is self.generation else counted(own):
            scope_id = _scope_of(budget, run)
            if scope_id is not None and _may_cover(budget, run):
                principal = run["principal"] or "" if budget.per == "session" else ""
                accounts.append(self._account(budget, scope_id, principal))
        return accounts

    def nearest(self, run: Json, states: Mapping[str, Any]) -> Json | None:
        """The enforced limit that a run is nearest to: `{rule, per, what, used, limit, ratio}`; money is in
        dollars."""
        found = [
            self._money(account, states) for account in self.of_run(run) if account.budget.mode == "enforce"
        ]
        limits = self._serving(run).policy.runs
        if limits.mode == "enforce":
            age = max(0, self.now - run["started_at"]) / 1000
            tokens = run["input_tokens"] - run["cached_tokens"] + run["output_tokens"]
            for name, what, used in (
                ("max_steps", "steps", run["steps"]),
                ("max_wall_clock_s", "seconds", round(age, 1)),
                ("max_tool_calls", "tool calls", run["tool_calls"]),
                ("max_tokens", "tokens", tokens),
            ):
                if limit := getattr(limits, name):
                    rule = {"rule": f"runs.{name}", "what": what, "per": "run"}
                    found.append({**rule, "used": used, "limit": limit, "ratio": round(used / limit, 4)})
        return max(found, key=lambda each: each["ratio"], default=None)

    def rows(self, accounts: Sequence[_Account], states: Mapping[str, Any]) -> list[Json]:
        """Budgets as they stand, the fullest first, with where the window will end at this pace."""
        rows = []
        for account in accounts:
            state = states.get(account.counter)
            used, reserved = (state.used, state.reserved) if state is not None else (0, 0)
            narrowed = account.budget.match is not EVERYTHING
            if not (used or reserved) and (narrowed or account.budget.per != "global"):
                continue
            limit = self._limit(account)
            rows.append(
                {
                    "name": account.budget.name,
                    "per": account.budget.per,
                    "id": account.id,
                    "window": account.budget.window,
                    "limit_usd": usd(limit),
                    "used_usd": usd(used),
                    "reserved_usd": usd(reserved),
                    "remaining_usd": usd(max(0, limit - used - reserved)),
                    "ratio": round((used + reserved) / limit, 4) if limit > 0 else 1.0,
                    "warn_at": float(account.budget.warn_at) if account.budget.warn_at else None,
                    "mode": account.budget.mode,
                    "on_exceed": account.budget.on_exceed,
                    "starts_at": stamp_or_none(account.starts_at),
                    "resets_at": stamp_or_none(account.resets_at),
                    **self._forecast(account, used, limit),
                }
            )
        return sorted(rows, key=lambda row: -row["ratio"])

    def _serving(self, run: Json) -> Generation:
        """What serves the run's key, which may have a profile of its own."""
        return self.generation.profiles.get(run["key"] or "", self.generation)

    def _forecast(self, account: _Account, used: Nano, limit: Nano) -> Json:
        starts, ends = account.starts_at, account.resets_at
        if starts is None or ends is None or used <= 0:
            return {"forecast_usd": None, "runs_out_at": None}
        elapsed = max(1, self.now - starts)
        expected = used * (ends - starts) // elapsed
        out = starts + elapsed * limit // used
        return {
            "forecast_usd": usd(expected),
            "runs_out_at": stamp(max(self.now, out)) if expected > limit else None,
        }

    def _money(self, account: _Account, states: Mapping[str, Any]) -> Json:
        state = states.get(account.counter)
        used = state.used + state.reserved if state is not None else 0
        limit = self._limit(account)
        return {
            "rule": account.budget.name,
            "what": "usd",
            "per": account.budget.per,
            "id": account.id,
            "used": usd(used),
            "limit": usd(limit),
            "ratio": round(used / limit, 4) if limit > 0 else 1.0,
        }

    def _limit(self, account: _Account) -> Nano:
        return account.budget.limit_nano + self.topups.get((account.budget.name, account.id), 0)

    def _account(self, budget: Budget, scope_id: str, principal: str) -> _Account:
        counter = counter_key(budget.name, budget.per, principal, scope_id)
        known = (budget.name, budget.per)
        if known not in self._windows:
            self._windows[known] = self.generation.rulebook.windows(budget, self.now)
        windows = self._windows[known]
        starts = ends = None
        if windows:
            counter = f"{counter}:{windows[0].id}"
            starts, ends = int(windows[0].id) * 1000, windows[0].ends_at
        account = self._known[counter] = _Account(budget, scope_id, counter, starts, ends)
        return account


def _scope_of(budget: Budget, run: Json) -> str | None:
    per = budget.per
    if per == "global":
        return GLOBAL_ID
    if per == "run":
        scope: str | None = run["id"]
    elif per in ("session", "user", "key", "team"):
        scope = run[per]
    else:
        scope = run["tags"].get(per[4:]) if per.startswith("tag:") else None
    return scope


def _may_cover(budget: Budget, run: Json) -> bool:
    match = budget.match
    if match is EVERYTHING:
        return True
    exact = ((match.key, "key"), (match.user, "user"), (match.team, "team"), (match.agent, "agent"))
    tags = {f"{name}={value}" for name, value in run["tags"].items()}
    return all(wanted is None or run[name] in wanted for wanted, name in exact) and (
        match.tag is None or not tags.isdisjoint(match.tag)
    )


# -- what happened -----------------------------------------------------------------------------------


_DETAILS = ("scope", "id", "reason", "budget", "amount_usd", "breaker", "version", "note", "share")


def _happened(pulse: Json) -> list[Json]:
    """Runs that were ended, steps that were refused and what operators did, newest first; equal refusals of
    one run once, with their count."""
    events: list[Json] = [
        {
            "at": done["at"],
            "kind": done["action"],
            "level": "info",
            "by": done["actor"],
            **{name: done["details"][name] for name in _DETAILS if name in done["details"]},
        }
        for done in pulse["done"]
    ]
    events += [
        {
            "at": run["status_at"],
            "kind": "run_stopped",
            "level": "bad" if run["status"] in ("failed", "blocked") else "warn",
            "run": run["id"],
            "status": run["status"],
            "reason": run["status_reason"],
            "user": run["user"],
            "cost_usd": usd(run["cost"]),
        }
        for run in pulse["ended"]
    ]
    refused: dict[tuple[Any, ...], Json] = {}
    for step in pulse["refusals"]:
        key = (step["run"], step.get("code"), step.get("rule"))
        if key in refused:
            refused[key]["count"] += 1
            continue
        refused[key] = {
            "at": step["at"],
            "kind": "refusal",
            "level": "warn",
            "run": step["run"] or None,
            "code": step.get("code"),
            "rule": step.get("rule"),
            "user": step["user"],
            "count": 1,
        }
    events += refused.values()
    events.sort(key=lambda event: -event["at"])
    return [{**event, "at": stamp(event["at"])} for event in events[:60]]


def _failures(steps: Iterable[Json], now: Millis) -> list[Json]:
    """Failed calls of the last quarter of an hour by provider, model and error."""
    found: dict[tuple[Any, ...], Json] = {}
    for step in steps:
        if step["at"] < now - FAILURES_MS:
            continue
        key = (step["provider"], step["model"], step.get("error"), step.get("http_status"))
        one = found.get(key)
        if one is None:
            one = found[key] = {
                "provider": step["provider"],
                "model": step["model"],
                "error": step.get("error"),
                "http_status": step.get("http_status"),
                "count": 0,
                "last_at": stamp(step["at"]),
                "run": step["run"],
            }
        one["count"] += 1
    return sorted(found.values(), key=lambda one: -one["count"])[:20]


# -- queries and views -------------------------------------------------------------------------------


def grouping(group_by: str, tag: str | None) -> tuple[str, str | None]:
    """(group, the tag's name) of a query. Raises `AdminError` 400."""
    word, _, name = group_by.partition(":")
    if word == "tag":
        tag = tag or name
        if not tag:
            raise AdminError(400, "invalid_request", "query.tag: say which tag to group by")
    elif group_by not in GROUPS:
        wanted = ", ".join((*GROUPS, "tag"))
        raise AdminError(
            400, "invalid_request", f"query.group_by: got {group_by!r}, expected one of {wanted}"
        )
    return word, tag


def _span(ctx: Context, since: str, until: str | None) -> tuple[Millis, Millis]:
    begin = moment(ctx, since) or 0
    end = moment(ctx, until)
    if end is None:
        end = ctx.now() + 1
    if not 0 <= begin < end <= ctx.now() + 366 * DAY_MS:
        raise AdminError(400, "invalid_request", "query.until: expected a time after since")
    return begin, end


def _length(span: Millis) -> Millis:
    """The shortest of the usual lengths that gives at most `POINTS` points."""
    for seconds in _LENGTHS_S:
        if span / (seconds * 1000) <= POINTS:
            return seconds * 1000
    return 31 * DAY_MS


def _series_view(group: Json, at: Sequence[Millis]) -> Json:
    others = group["group"] == OTHERS
    return {
        "group": None if others else group["group"],
        "others": others,
        "cost_usd": usd(group["cost"]),
        "saved_usd": usd(group["saved"]),
        "input_tokens": group["input_tokens"],
        "output_tokens": group["output_tokens"],
        "cached_tokens": group["cached_tokens"],
        "attempts": group["attempts"],
        "points": [usd(group["at"].get(each, 0)) for each in at],
    }


def _finding_view(row: Json) -> Json:
    said = row["feedback"]
    names = (
        *("run", "step", "ordinal", "key", "user", "team", "agent"),
        *("detector", "channel", "mode", "action", "type", "tool", "count"),
    )
    feedback = None
    if said is not None:
        feedback = {
            "verdict": said["verdict"],
            "by": said["by"],
            "at": stamp(said["at"]),
            "reason": said["reason"],
        }
    return {
        "at": stamp(row["at"]),
        **{name: row[name] for name in names},
        "tool": row["tool"] or None,
        "feedback": feedback,
    }


def _feedback_view(record: Feedback) -> Json:
    return {
        "id": record.id,
        "at": stamp(record.at),
        "by": record.by,
        "verdict": record.verdict,
        "reason": record.reason,
        "run": record.run,
        "step": record.step,
        "ordinal": record.ordinal,
        "detector": record.detector,
        "channel": record.channel,
        "type": record.type,
        "tool": record.tool or None,
        "rule": record.rule,
        "key": record.key,
        "user": record.user,
        "team": record.team,
        "agent": record.agent,
    }
