"""What another policy would have done with the runs on record: each step is played again under it.

    ledger ──► steps in the order in which they began ──► stage (the real pipeline) ──► outcome of each
                                                                                         │
    what is on record of it ─────────────────────────── compared ────────────────────────┘

A step whose content was kept is played as it was. Of others a request of the same shape and size is played;
what a rule about content would have said of them is `unknown`, unless it is the very policy that they were
recorded under: then what it said is on record. Nothing is written but the result.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.auth import Secrets
from gateway.domain import Json, Millis, Nano, Principal, Surface, usd
from gateway.policy.models import Policy
from gateway.policy.sections.callers import Key, model_allowed
from gateway.replay.recorded import STRENGTH, UNKNOWN, Outcome, Recorded, steps_of
from gateway.replay.recorder import Content
from gateway.replay.stage import Playing, Stage, loaded_by
from gateway.rules.budgets import Scopes, applies
from gateway.rules.contracts import Contracts
from gateway.rules.endings import status_of
from gateway.stores.ledger import SqlLedger
from gateway.stores.ledger_control import Topup
from gateway.stores.ledger_recordings import Spent

log = logging.getLogger("gateway.backtest")

MAX_STEPS = 100_000
USUAL_STEPS = 20_000
"""Of a backtest that says nothing else."""
MAX_OTHERS = 200_000
"""Attempts of other runs whose cost counts in budgets that outlive a run."""
MAX_TOPUPS = 10_000
NOT_PLAYED = "replay"
"""In the place of a rule: the step could not be played."""
EXAMPLES = 5
SLACK_MS = 2
"""Times on record are whole milliseconds, rounded each for itself."""
RUNS_AT_ONCE = 31
"""Of which what was recorded is read beside that of one."""
_WINDOW_MS = {"1h": 3_600_000, "1d": 86_400_000, "1w": 7 * 86_400_000, "1mo": 31 * 86_400_000}
_LIFE_MS = 35 * 86_400_000
"""How far back a budget without a window is looked for."""
_SCREENS = ("injection", "pii", "secrets", "links", "leak")
_CONVERSES = frozenset((Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES))


# -- which rules cannot be tried ------------------------------------------------------------------------


@dataclass(slots=True)
class Unknowable:
    """Rules of a policy that a step cannot be tried on, for what is not known of it."""

    policy: Policy
    base: Policy
    _by_key: dict[str, tuple[Policy, Policy, Contracts]] = field(default_factory=dict)

    def rules(self, step: Recorded) -> list[str]:
        """Names of the rules that might have decided otherwise."""
        if step.policy == self.policy.version or step.surface is Surface.PASSTHROUGH:
            # The one was recorded as it was decided; of the other nothing is ever read.
            return []
        scopes = scopes_of(step)
        found = list(self._asking(step, scopes))
        if step.body is None:
            found += self._of_content(step, scopes)
        return list(dict.fromkeys(found))

    def contracts(self, step: Recorded) -> Contracts:
        """Those that hold for a step."""
        scopes = scopes_of(step)
        return self._under(scopes)[2].under(scopes)

    def _under(self, scopes: Scopes) -> tuple[Policy, Policy, Contracts]:
        """The policy that is tried and the one in force, as they are for a key."""
        found = self._by_key.get(scopes.key)
        if found is None:
            mine, theirs = _for_key(self.policy, scopes.key), _for_key(self.base, scopes.key)
            found = self._by_key[scopes.key] = mine, theirs, Contracts(mine)
        return found

    def _is_unchanged(self, step: Recorded, scopes: Scopes, section: str) -> bool:
        """Whether a section said the same when the step was decided, so that what it said is on record."""
        mine, theirs, _ = self._under(scopes)
        return step.policy == self.base.version and getattr(mine, section) == getattr(theirs, section)

    def _asking(self, step: Recorded, scopes: Scopes) -> Iterator[str]:
        """Rules by which a person or another model is asked."""
        policy, _, contracts = self._under(scopes)
        screening, cache = policy.screening, policy.cache
        if not self._is_unchanged(step, scopes, "screening"):
            moderation, injection = screening.moderation, screening.injection
            if moderation and moderation.mode == "enforce" and applies(moderation.match, scopes):
                yield "screening.moderation"
            if (
                injection
                and (injection.judge or injection.classifier)
                and injection.mode == "enforce"
                and applies(injection.match, scopes)
            ):
                yield "screening.injection"
        pii = screening.pii
        if pii and pii.mode == "enforce" and pii.language_model not in (None, *loaded_by(self.base)):
            yield "screening.pii"
        semantic = cache.semantic
        if (
            semantic
            and semantic.mode == "enforce"
            and applies(semantic.match, scopes)
            and step.surface in _CONVERSES
            and not self._is_unchanged(step, scopes, "cache")
        ):
            yield "cache.semantic"
        if not self._is_unchanged(step, scopes, "tools"):
            held = contracts.under(scopes)
            for name in step.called:
                contract = held.tool(name)
                if contract.mode == "enforce" and contract.allow and contract.needs_approval:
                    yield f"tools.{name[:64]}.requires_approval"

    def _of_content(self, step: Recorded, scopes: Scopes) -> Iterator[str]:
        """Rules that read what was not kept."""
        policy, _, contracts = self._under(scopes)
        for name in _SCREENS:
            screen = getattr(policy.screening, name)
            if screen is not None and screen.mode == "enforce" and applies(screen.match, scopes):
                yield f"screening.{name}"
        if step.surface not in _CONVERSES:
            return
        if policy.claims is not None and policy.claims.mode == "enforce" and step.tools and not step.called:
            yield "claims"
        loops = policy.loops
        has_acted = bool(step.results) or step.ordinal > 1
        if (
            loops
            and loops.mode == "enforce"
            and applies(loops.match, scopes)
            and not step.is_traced
            and has_acted
        ):
            yield "loops"
        held = contracts.under(scopes)
        for name in step.called:
            contract = held.tool(name)
            if contract.mode != "enforce" or not contract.allow:
                continue
            if contract.arguments:
                yield f"tools.{name[:64]}.arguments"
            if contract.on_tainted not in ("allow", "flag"):
                yield f"tools.{name[:64]}.on_tainted"
        for rule in policy.routing.rules:
            when = rule.when
            asks_for = when.model is None or model_allowed(when.model, step.model)
            if when.step is not None and rule.mode == "enforce" and asks_for and applies(rule.match, scopes):
                yield f"routing.{rule.name}"
        exact = policy.cache.exact
        if exact is not None and exact.mode == "enforce" and applies(exact.match, scopes):
            yield "cache.exact"


def _for_key(policy: Policy, key: str) -> Policy:
    """The policy as it is for a key, which may have a profile."""
    profile = next((each for each in policy.profiles.values() if key in each.keys), None)
    return policy if profile is None else policy.under(profile)


def scopes_of(step: Recorded) -> Scopes:
    """Where a recorded step counts."""
    who, row = step.who, step.run
    return Scopes(
        principal=str(who["principal"]),
        run=row["id"],
        session=str(who["session"] or ""),
        session_named=True,
        user=str(who["user"] or who["key"] or ""),
        key=str(who["key"] or ""),
        team=who["team"],
        model=step.model,
        agent=str(row["agent"] or ""),
        surface=step.surface,
        tags=who["tags"] or {},
    )


_ABOUT_CONTENT = ("screening.", "claims", "loops.", "routing.", "tools.")


# -- the result -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one step."""

    step: Recorded
    now: Outcome
    cost: Nano
    """What it would have cost; what it has cost, where that is not known."""
    is_replayed: bool = True
    unknown: tuple[str, ...] = ()
    """The rules that might have decided otherwise."""

    @property
    def rules(self) -> tuple[str, ...]:
        """What makes the difference."""
        return self.unknown or (self.now.rule if self.now.verdict != "allow" else self.step.was.rule,)

    @property
    def is_changed(self) -> bool:
        """Whether something else would have been done with it. That it is refused for another reason is no
        change once its run is over."""
        return self.now.differs(self.step.was)

    def view(self) -> Json:
        """As `changed` tells it."""
        was, now = self.step.was, self.now
        told: Json = {
            "run": self.step.run["id"],
            "step": self.step.ordinal,
            "rule": self.rules[0],
            "was": was.verdict,
            "now": now.verdict,
        }
        if was.code:
            told["was_code"] = was.code
        if now.code:
            told["code"] = now.code
        if now.to:
            told["model"] = now.to
        if len(self.rules) > 1:
            told["rules"] = list(self.rules)
        return told


@dataclass(slots=True)
class _Told:
    """What one rule makes different."""

    steps: int = 0
    saved: Nano = 0
    now: Counter[str] = field(default_factory=Counter)
    runs: set[str] = field(default_factory=set)
    examples: list[Json] = field(default_factory=list)

    def add(self, played: Played) -> None:
        self.steps += 1
        self.saved += played.step.cost - played.cost
        self.now[played.now.verdict] += 1
        self.runs.add(played.step.run["id"])
        if len(self.examples) < EXAMPLES:
            self.examples.append(played.view())

    def view(self, name: str) -> Json:
        return {
            "rule": name,
            "steps": self.steps,
            "runs": len(self.runs),
            "now": dict(self.now),
            "saved_usd": usd(self.saved),
            "examples": self.examples,
        }


def result_of(
    played: Sequence[Played], *, since: Millis | None, version: str, truncated: bool, seconds: float
) -> Json:
    """What a backtest says: see docs/backtesting.md."""
    counted = [each for each in played if each.is_replayed]
    changed = [each for each in counted if each.is_changed]
    saved = sum(each.step.cost - each.cost for each in counted)
    now = Counter(each.now.verdict for each in changed)
    rules: dict[str, _Told] = {}
    for each in changed:
        for name in each.rules:
            told = rules.setdefault(name or "-", _Told())
            told.add(each)
    return {
        "policy": version,
        "since": since,
        "runs": len({each.step.run["id"] for each in played}),
        "steps": len(counted),
        "changed": [each.view() for each in changed],
        "saved_usd": usd(saved),
        "refused": now["refuse"],
        "unknown": now[UNKNOWN],
        "redacted": now["redact"],
        "rerouted": now["reroute"],
        "wrapped_up": now["wrap_up"],
        "flagged": now["flag"],
        "allowed": now["allow"],
        "not_replayed": len(played) - len(counted),
        "rules": [
            told.view(name)
            for name, told in sorted(rules.items(), key=lambda item: (-item[1].steps, item[0]))
        ],
        "truncated": truncated,
        "seconds": round(seconds, 3),
    }


# -- playing --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rehearsal:
    """All steps of a backtest on one stage, in the order in which they began."""

    stage: Stage
    ledger: SqlLedger
    secrets: Secrets
    policy: Policy
    base: Policy
    callers: Mapping[str, Json]
    """Keys of the ledger by id: what they may reach."""
    topups: Sequence[Topup]
    now: Millis
    until: float
    """`time.monotonic()` after which no step begins."""
    played: list[Played] = field(default_factory=list)
    is_cut: bool = False
    _unknowable: Unknowable = field(init=False)
    _over: dict[str, Outcome] = field(default_factory=dict)
    """Runs that are stopped where they were not, and what their later steps are told."""
    _contents: dict[str, Content] = field(default_factory=dict)
    _left: Counter[str] = field(default_factory=Counter)
    """Steps to come, by run."""
    _runs: dict[str, None] = field(default_factory=dict)
    """Those of which nothing was read yet, in the order in which they began."""
    _open: list[tuple[Millis, int, Playing, asyncio.Task[None]]] = field(default_factory=list)
    _serial: Iterator[int] = field(default_factory=itertools.count)
    _others: list[Spent] = field(default_factory=list)
    _topped: tuple[int, int] = (-1, -1)

    def __post_init__(self) -> None:
        self._unknowable = Unknowable(self.policy, self.base)

    async def run(self, steps: Sequence[Recorded], others: Sequence[Spent]) -> None:
        """Play the steps. `others` are what runs that are not played have spent, in their order."""
        self._others = list(reversed(others))
        self._left = Counter(step.run["id"] for step in steps)
        self._runs = dict.fromkeys(self._left)
        for step in steps:
            if time.monotonic() > self.until:
                self.is_cut = True
                break
            await self._begin(step)
        await self._until(None)

    async def _begin(self, step: Recorded) -> None:
        # What ended just before the next request of its agent came may be a moment late on record.
        await self._until(step.at + SLACK_MS)
        run = step.run["id"]
        if step.was.by_operator:
            self._end(Played(step, step.was, step.cost, is_replayed=False))
            return
        if run in self._over:
            told = self._over[run]
            refused = step.was if step.was.verdict == "refuse" else told
            self._end(Played(step, refused, 0))
            return
        stage = self.stage
        stage.stage_clock.now = step.at
        self._top_up(step.at)
        step.open(await self._content(run))
        loop = asyncio.get_running_loop()
        playing = Playing(step, loop.create_future())
        task = loop.create_task(stage.play(playing, self._caller(step)))
        task.add_done_callback(lambda _: playing.stands())
        await playing.standing
        if task.done():
            self._take(playing, task)
        else:
            heapq.heappush(self._open, (step.ended_at, next(self._serial), playing, task))

    async def _until(self, at: Millis | None) -> None:
        """Let everything end that has ended by then."""
        while self._open and (at is None or self._open[0][0] <= at):
            ended_at, _, playing, task = heapq.heappop(self._open)
            self._spend_until(ended_at)
            self.stage.stage_clock.now = ended_at
            playing.answered.set()
            await asyncio.wait([task])
            self._take(playing, task)
        if at is not None:
            self._spend_until(at)

    def _spend_until(self, at: Millis) -> None:
        while self._others and self._others[-1].at <= at:
            self.stage.spend(self._others.pop())

    def _take(self, playing: Playing, task: asyncio.Task[None]) -> None:
        step, now = playing.step, playing.outcome
        rules: list[str] = []
        if (failure := task.exception()) is not None:
            # One step that cannot be played must not hide what all the others say.
            log.error("step %s cannot be played: %r", step.decision, failure)
            self._end(Played(step, Outcome(UNKNOWN, NOT_PLAYED), step.cost))
            return
        if step.policy == self.policy.version and step.body is None and _is_on_record(step.was, now):
            now = step.was
        elif now.verdict not in ("refuse", "wrap_up") and (rules := self._unknowable.rules(step)):
            now = Outcome(UNKNOWN, rules[0])
        elif self._was_asked(step):
            now = step.was
        run = step.run["id"]
        ends = now.verdict == "wrap_up" or (
            now.verdict == "refuse" and status_of(now.code, now.rule) is not None
        )
        if ends and step.was.verdict not in ("refuse", "wrap_up"):
            self._over.setdefault(run, Outcome("refuse", now.rule, now.code))
        cost = playing.cost if playing.is_priced else step.cost
        unknown = tuple(rules) if now.verdict == UNKNOWN else ()
        self._end(Played(step, now, cost, unknown=unknown))

    def _was_asked(self, step: Recorded) -> bool:
        """Whether a person decided over a call of the step, and would have to again."""
        contracts = self._unknowable.contracts(step)
        return any(contracts.tool(name).needs_approval for name in step.called) and step.was.verdict == "flag"

    def _end(self, played: Played) -> None:
        played.step.close()
        self.played.append(played)
        run = played.step.run["id"]
        self._left[run] -= 1
        if not self._left[run]:
            self._contents.pop(run, None)

    async def _content(self, run: str) -> Content:
        if run not in self._contents:
            soon = [run, *itertools.islice((r for r in self._runs if r not in self._contents), RUNS_AT_ONCE)]
            for each, records in (await self.ledger.recordings_of(soon, self.now)).items():
                self._contents[each] = Content.of(self.secrets, records)
                self._runs.pop(each, None)
        return self._contents[run]

    def _top_up(self, at: Millis) -> None:
        """Let the top-ups count that were in force then."""
        if not self.topups:
            return
        begun = sum(topup.at <= at for topup in self.topups)
        over = sum(topup.expires_at is not None and topup.expires_at <= at for topup in self.topups)
        if (begun, over) == self._topped:
            return
        self._topped = begun, over
        sums: Counter[tuple[str, str]] = Counter()
        for topup in self.topups:
            if topup.at <= at and (topup.expires_at is None or topup.expires_at > at):
                sums[topup.budget, topup.target] += topup.amount
        self.stage.dispatcher.topups = dict(sums)

    def _caller(self, step: Recorded) -> Principal:
        """The caller as recorded, with what its key may reach by the policy that is tried."""
        who = step.who
        name = str(who["key"] or "")
        key: Any = next((k for k in self.policy.keys if k.name == name and _is_of(k, who)), None)
        if key is None:
            key = next((k for k in self.base.keys if k.name == name and _is_of(k, who)), None)
        may = self.callers.get(str(who["principal"]), {}) if key is None else vars_of(key)
        models = may.get("models")
        user = str(who["user"] or "")
        if who["end_user"]:
            # What is on record is the end user's.
            user = key.user or "" if key is not None else ""
        return Principal(
            id=str(who["principal"]),
            key=name,
            user=user if user and user != name else None,
            team=who["team"],
            models=frozenset(models) if models is not None else None,
            max_tool_level=may.get("max_tool_level") or "dangerous",
            priority=may.get("priority") or "normal",
            credential="recorded" if str(who["principal"]).startswith("caller:") else None,
        )


def _is_of(key: Key, who: Json) -> bool:
    return bool(who["principal"] == f"key:{key.name}")


def vars_of(key: Key) -> Json:
    """What a key may reach."""
    return {"models": key.models, "max_tool_level": key.max_tool_level, "priority": key.priority}


def _is_on_record(was: Outcome, now: Outcome) -> bool:
    """Whether the same policy has said more of a step than can be seen of it without its content."""
    harder = STRENGTH.index(was.verdict) >= STRENGTH.index(now.verdict)
    return harder and was.rule.startswith(_ABOUT_CONTENT)


# -- a whole backtest -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be tried."""

    policy: Policy
    base: Policy
    """The one in force."""
    since: Millis | None
    limit: int
    run: str | None
    """One run alone."""
    callers: Mapping[str, Json]
    now: Millis
    time_s: float


async def backtest(wanted: Wanted, ledger: SqlLedger, secrets: Secrets, directory: Path) -> Json:
    """Play what was recorded under another policy; the result of `result_of`, for one run with each of its
    steps. Raises `PolicyError` and `SettingsError` for a policy that no gateway starts with, and
    `LedgerUnavailable`."""
    began = time.monotonic()
    truncated = False
    if wanted.run is not None:
        runs = [wanted.run]
    else:
        runs, truncated = await ledger.recorded_runs(wanted.since or 0, limit=wanted.limit)
    rows, records = await ledger.records_of(runs)
    by_run: dict[str, list[Json]] = {}
    for record in records:
        by_run.setdefault(record["run"], []).append(record)
    steps = [step for run, found in by_run.items() if run in rows for step in steps_of(rows[run], found)]
    steps.sort(key=lambda step: (step.at, step.ended_at, step.run["id"], step.ordinal))
    others: list[Spent] = []
    if steps and (reach := _reach_ms(wanted.policy)):
        first, last = steps[0].at, steps[-1].at
        others, is_part = await ledger.spent_by_others(first - reach, last + 1, runs, limit=MAX_OTHERS)
        truncated = truncated or is_part
    stage = Stage(wanted.policy, wanted.base, directory)
    await stage.start()
    try:
        rehearsal = Rehearsal(
            stage,
            ledger,
            secrets,
            wanted.policy,
            wanted.base,
            wanted.callers,
            await ledger.topups(limit=MAX_TOPUPS),
            wanted.now,
            began + wanted.time_s,
        )
        await rehearsal.run(steps, others)
    finally:
        await stage.close()
    played = sorted(
        rehearsal.played,
        key=lambda each: (each.step.run["started_at"] or 0, each.step.run["id"], each.step.at),
    )
    result = result_of(
        played,
        since=wanted.since,
        version=wanted.policy.version,
        truncated=truncated or rehearsal.is_cut,
        seconds=time.monotonic() - began,
    )
    if wanted.run is not None:
        result["run"] = wanted.run
        result["decisions"] = [_step_view(each) for each in played]
    return result


def _step_view(played: Played) -> Json:
    """One step of a run that is replayed."""
    step = played.step
    return {
        **played.view(),
        "at": step.at,
        "surface": step.surface.value,
        "model": step.model,
        "policy": step.policy,
        "changed": played.is_replayed and played.is_changed,
        "replayed": played.is_replayed,
        "cost_usd": usd(step.cost),
        "now_cost_usd": usd(played.cost),
        "tools": step.called,
    }


def _reach_ms(policy: Policy) -> Millis:
    """How far back what was spent counts in budgets that outlive a run; 0 without any."""
    budgets = [*policy.budgets, *(b for each in policy.profiles.values() for b in each.budgets or ())]
    return max(
        (
            _WINDOW_MS.get(str(budget.window), _LIFE_MS)
            for budget in budgets
            if budget.mode != "off" and budget.per != "run"
        ),
        default=0,
    )
