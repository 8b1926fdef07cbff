"""Sends steps that need no strong model to a cheaper one, as the policy's routing rules say, and looks after
what comes of it.

What a step is for is read from its request alone (`gateway.rules.steps`), where it goes is decided by pure
rules (`gateway.rules.routing`). Here is what those need to know and cannot: which model served the run's last
steps and so has its prompt in a cache, and how often a rule's answers were no good.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Answer, Json, Nano, Surface, ToolCall
from gateway.errors import CallerError
from gateway.metering.learned import OutputEstimates
from gateway.metering.usage import request_context
from gateway.policy.sections.routing import RoutingRule
from gateway.protocols import Clock
from gateway.rules.bad_answers import bad_answer
from gateway.rules.budgets import applies
from gateway.rules.capability import Candidate, unable
from gateway.rules.route import Route
from gateway.rules.routing import Choice, Known, Served, choose
from gateway.rules.steps import Classified, classify
from gateway.steps.attempt import Attempt
from gateway.steps.dispatch import Job
from gateway.upstreams.dialects import wire_for
from gateway.values import frozen

MAX_RUNS = 4096
JUDGED = 100
"""Answers that a rule is judged by."""
MIN_JUDGED = 10
"""With fewer it is not judged."""
OFF_MS = 600_000
"""How long a rule whose answers are no good leaves steps as they are."""
MIN_CACHED_TOKENS = 1024
"""Prompts shorter than this are not cached by any provider."""

FINAL = "the final answer is for the model that was asked for"
"""Why an answer is not delivered that is no bad one."""

_STEPS = frozenset((Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES))
"""Surfaces on which agents take steps."""


@frozen
class Steered:
    """A step that goes somewhere else than it was asked to."""

    rule: RoutingRule
    route: Route
    guard: Callable[[Answer, bool], str | None] | None
    decision: Json
    """On the step's record."""


@dataclass(slots=True)
class _Run:
    """Which models have served a run's steps here."""

    last: str = ""
    served: dict[str, Served] = field(default_factory=dict)


@dataclass(slots=True)
class _Judged:
    """How a rule's answers were: true for each that was no good."""

    bad: deque[bool] = field(default_factory=lambda: deque(maxlen=JUDGED))
    off_until: int = 0


@dataclass(slots=True)
class Steering:
    """Chooses models. One per worker."""

    clock: Clock
    estimates: OutputEstimates
    notify: Callable[[str, dict[str, Any]], None]
    _runs: OrderedDict[str, _Run] = field(default_factory=OrderedDict)
    _rules: dict[str, _Judged] = field(default_factory=dict)

    def steer(self, job: Job, asked: Route) -> Steered | None:
        """Where a step goes instead of the model that it asks for; None when it stays. What was decided is on
        the job's record."""
        rules, step = job.generation.policy.routing.rules, job.turn.step
        if not rules or step.surface not in _STEPS or step.background:
            return None
        asked_for = _candidate(job, asked, step.model)
        if asked_for is None:
            return None
        turn = job.turn
        run = self._runs.get(turn.run.run_id) or _Run()
        known = Known(
            step=step,
            classified=_classified(job),
            scopes=turn.scopes,
            asked=asked_for,
            run_id=turn.run.run_id,
            ordinal=turn.run.retry_ordinal or turn.run.steps + 1,
            now=self.clock(),
            run_cost=turn.run.cost,
            run_limit=_run_limit(job),
            last_model=run.last or None,
            served=run.served,
            output_tokens=self._usual_output(job),
        )
        choice = choose(rules, known, lambda name: _resolve(job, name))
        if choice is None:
            return None
        job.decisions.append(choice.decision)
        if not choice.acts or choice.target is None:
            return None
        if self._is_off(choice):
            choice.decision.update(decision="keep", why="too many of this rule's answers were no good lately")
            return None
        guard = _guard(job, choice.rule) if choice.guarded else None
        return Steered(choice.rule, choice.target.route, guard, choice.decision)

    def judged(self, steered: Steered, bad: str) -> None:
        """An answer was good, or not: `bad` says why."""
        rule = steered.rule
        judged = self._rules.setdefault(rule.name, _Judged())
        judged.bad.append(bool(bad) and bad != FINAL)
        count, answers = sum(judged.bad), len(judged.bad)
        if answers < MIN_JUDGED or count <= float(rule.max_escalations) * answers:
            return
        judged.off_until = self.clock() + OFF_MS
        judged.bad.clear()
        self.notify(
            "routing_rule_off",
            {"rule": rule.name, "bad": count, "answers": answers, "until": judged.off_until, "why": bad},
        )

    def saw(self, attempt: Attempt) -> None:
        """A model has served a step: its provider has the prompt at hand for a while."""
        if attempt.usage.source != "provider" or attempt.inspect is not None:
            return
        usage, name = attempt.usage, attempt.route.requested
        run = self._runs.setdefault(attempt.turn.run.run_id, _Run())
        self._runs.move_to_end(attempt.turn.run.run_id)
        run.last = name
        cached = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
        if attempt.wire.surface is not Surface.MESSAGES and usage.input_total >= MIN_CACHED_TOKENS:
            # These providers cache every long prompt, and tell only what they read from a cache.
            cached = usage.input_total
        run.served[name] = Served(self.clock(), cached)
        while len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)

    def _usual_output(self, job: Job) -> int:
        turn = job.turn
        usual = self.estimates.reserve(turn.caller.id, turn.scopes.agent, turn.step.model)
        return min(usual, turn.step.output_limit or usual)

    def _is_off(self, choice: Choice) -> bool:
        judged = self._rules.get(choice.rule.name)
        return judged is not None and judged.off_until > self.clock()


def why_not(job: Job, asked: Route, other: Route) -> str | None:
    """Why a step cannot fall back on another model; None if it can."""
    step = job.turn.step
    if step.surface not in _STEPS:
        return None
    here, there = _candidate(job, asked, asked.requested), _candidate(job, other, other.requested)
    if here is None or there is None:
        return "its provider has no API for it"
    return unable(step, _classified(job), here, there, outage=True)


def _classified(job: Job) -> Classified:
    """What the step is for and what it needs."""
    run = job.turn.run
    ordinal = run.retry_ordinal or run.steps + 1
    return classify(job.turn.step, ordinal=ordinal, is_retry=bool(run.retry_ordinal))


def _candidate(job: Job, route: Route, name: str) -> Candidate | None:
    target = job.generation.router.target(name)
    if target is None:
        return None
    try:
        wire = wire_for(route, job.turn.step.surface)
    except CallerError:
        return None
    return Candidate(name, target.model, route, wire.surface)


def _resolve(job: Job, name: str) -> Candidate | str:
    """A model as this caller may use it, or why not."""
    turn = job.turn
    try:
        route = job.generation.router.choose(
            job.call.caller, name, turn.began_at, request_context(turn.step.body)
        )
    except CallerError as error:
        return error.message
    return _candidate(job, route, name) or "its provider has no API for this step"


def _run_limit(job: Job) -> Nano | None:
    """The run's own budget; None without one."""
    scopes = job.turn.scopes
    limits = [
        budget.limit_nano
        for budget in job.generation.policy.budgets
        if budget.per == "run" and budget.mode == "enforce" and applies(budget.match, scopes)
    ]
    return min(limits, default=None)


def _guard(job: Job, rule: RoutingRule) -> Callable[[Answer, bool], str | None]:
    """Judges whole answers of a model that was not asked for."""
    contracts, step = job.generation.contracts, job.turn.step
    wants_calls = rule.final_answers == "escalate" and bool(step.tools)

    def invalid(call: ToolCall) -> str | None:
        return contracts.misfit(call, step.tools)

    def judge(answer: Answer, clamped: bool) -> str | None:
        why = bad_answer(answer, step, invalid, clamped=clamped)
        return why or (FINAL if wants_calls and not answer.calls else None)

    return judge
