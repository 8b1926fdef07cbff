"""From policy to what a store checks: the budgets, rates and limits that apply to one step.

Counter keys are a stored format: `counter_key` is the only place that makes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from gateway.admission import Charge, Rate, RunLimits, Window
from gateway.domain import NANO_PER_USD, Millis, Nano, Principal, Step, Surface
from gateway.policy.models import Policy
from gateway.policy.sections.callers import EVERYTHING, Match
from gateway.policy.sections.spending import Budget, Runs
from gateway.policy.sections.spending import Rate as RateRule
from gateway.rules.windows import windows_at
from gateway.values import frozen

SCOPE_LIFE_MS = 35 * 86_400_000
"""How long a budget without a window remembers a scope that is not used: longer than any provider keeps
a conversation. Runs, and sessions that nobody named, cannot be found again after `FOUND_AGAIN_MS` beyond
their idle TTL, so neither are their counters kept."""
FOUND_AGAIN_MS = 3_600_000
SKEW_MS = 1_800_000
"""How wrong this host's clock may be: two windows are sent along, and the store chooses by its own clock.
They are those of so long ago, so that a clock that is ahead leaves none out; the shortest lasts an hour."""
GLOBAL_ID = "all"
LANDING_MS = 30_000
"""How long before a run's time is over its last step begins, or a tenth of that time when that is less."""
_NO_AGENT = frozenset({Surface.EMBEDDINGS, Surface.MODERATIONS, Surface.PASSTHROUGH})
"""Calls of these are runs of one step each: an indexer makes thousands, and none of them can loop."""


@frozen
class Scopes:
    """The scopes that a step belongs to, by the words of `per:`. An absent scope has no id."""

    principal: str
    run: str
    session: str
    session_named: bool
    """The caller gave the session's name, so it can come back at any time."""
    user: str
    key: str
    team: str | None
    model: str
    agent: str
    surface: Surface
    tags: Mapping[str, str]
    ancestors: tuple[str, ...] = ()
    """Runs that this one was declared a child of, the nearest first."""
    tree: str = ""
    """The run whose budgets this one shares: the root of its tree, or itself."""

    def id_of(self, per: str) -> str | None:
        """The id that a rule with this `per` counts under; None when the step has no such scope."""
        if per == "run":
            return self.tree or self.run
        if per == "global":
            return GLOBAL_ID
        if per == "session":
            return self.session
        if per == "user":
            return self.user
        if per == "key":
            return self.key
        if per == "team":
            return self.team
        if per == "model":
            return self.model
        if per.startswith("tag:"):
            return self.tags.get(per[4:])
        return None


def scopes_of(
    caller: Principal,
    step: Step,
    run_id: str,
    session: str,
    session_named: bool,
    end_user: str | None,
    tags: Mapping[str, str],
    ancestors: tuple[str, ...] = (),
    *,
    shared: bool = True,
) -> Scopes:
    """Where a step counts. A key without a user is its own user; a child that is `shared` spends what its
    tree may."""
    user = f"{caller.key}/{end_user}" if end_user is not None else caller.user or caller.key
    return Scopes(
        principal=caller.id,
        run=run_id,
        session=session,
        session_named=session_named,
        user=user,
        key=caller.key,
        team=caller.team,
        model=step.model,
        agent=tags.get("agent") or agent_digest(caller.key, step),
        surface=step.surface,
        tags=tags,
        ancestors=ancestors,
        tree=ancestors[-1] if ancestors and shared else run_id,
    )


def agent_digest(key: str, step: Step) -> str:
    """A stable name for an agent that does not name itself: its key and the tools it offers."""
    names = "\0".join(sorted(tool.name for tool in step.tools))
    return hashlib.blake2b(f"{key}\0{names}".encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def counter_key(rule: str, per: str, principal: str, scope_id: str) -> str:
    """Key of a rule's counter for one scope, whatever characters the ids hold.

    Runs are unique and users, keys, teams, models and tags belong to the whole gateway; a session's
    string is only unique inside its principal.
    """
    owner = principal if per == "session" else ""
    raw = "\0".join((rule, per, owner, scope_id)).encode("utf-8", "surrogatepass")
    return f"{rule}:{hashlib.blake2b(raw, digest_size=12).hexdigest()}"


class Rulebook:
    """The budget and rate rules of one policy, ready to apply. Not shared between policy versions."""

    def __init__(self, policy: Policy) -> None:
        self._budgets = [(b, b.limit_nano) for b in policy.budgets if b.mode != "off" and b.per != "tool"]
        self._rates = [r for r in policy.rates if r.mode != "off" and r.per != "tool"]
        self._windows: dict[tuple[str, str, Millis], tuple[Window, Window]] = {}
        self._keys: dict[tuple[str, str, str, str], str] = {}
        self._charges: dict[str, Charge] = {}
        """By counter, for scopes that outlive a run."""
        self._runs = policy.runs
        runs = policy.runs
        self._found_again_ms = int(runs.idle_ttl_s * 1000) + FOUND_AGAIN_MS
        self._landing = {b.name for b, _ in self._budgets if b.on_exceed == "wrap_up"}
        self.lands = bool(self._landing)
        """Some budget lets a run that reaches it have a last step."""
        self.endings = frozenset(b.on_exceed for b, _ in self._budgets if b.mode == "enforce")
        """What the budgets do at their limits."""
        self.limits = _run_limits(runs)
        """What a run may do at most."""

    def run_limits(self, input_tokens: int) -> RunLimits:
        """The limits that hold for an ordinary step: where runs are landed, so much less that the last step
        still fits. `input_tokens` is what this step reads, which the last one will read again."""
        limits = self.limits
        if self._runs.on_exceed != "wrap_up" or not limits.enforced:
            return limits
        return RunLimits(
            enforced=True,
            max_steps=max(limits.max_steps - 1, 0) if limits.max_steps > 1 else limits.max_steps,
            max_wall_clock_ms=limits.max_wall_clock_ms - min(LANDING_MS, limits.max_wall_clock_ms // 10),
            max_tokens=max(1, limits.max_tokens - input_tokens - self._runs.landing.output_tokens)
            if limits.max_tokens
            else 0,
            max_tool_calls=limits.max_tool_calls,
        )

    def charges(
        self,
        scopes: Scopes,
        now: Millis,
        topups: Mapping[tuple[str, str], Nano],
        kept_back: Nano = 0,
    ) -> tuple[Charge, ...]:
        """The budgets that a step must fit into, in the policy's order. `kept_back` is what a landing would
        cost: budgets that land their runs keep it free."""
        charges: list[Charge] = []
        for budget, own_limit in self._budgets:
            scope_id = scopes.id_of(budget.per)
            if scope_id is None or not applies(budget.match, scopes):
                continue
            fleeting = budget.per == "run" or (budget.per == "session" and not scopes.session_named)
            limit = own_limit + (topups.get((budget.name, scope_id), 0) if topups else 0)
            counter = self._key(budget.name, budget.per, scopes, scope_id)
            windows = self.windows(budget, now, SKEW_MS)
            enforced = budget.mode == "enforce" and budget.on_exceed != "notify"
            kept = kept_back if enforced and budget.name in self._landing else 0
            charge = self._charges.get(counter)
            if (
                charge is None
                or charge.limit != limit
                or charge.windows is not windows
                or charge.kept_back != kept
            ):
                charge = Charge(
                    rule=budget.name,
                    per=budget.per,
                    counter=counter,
                    limit=limit,
                    enforced=enforced,
                    windows=windows,
                    warn_at=int(limit * budget.warn_at) if budget.warn_at else 0,
                    ttl_ms=self._found_again_ms if fleeting else SCOPE_LIFE_MS,
                    kept_back=kept,
                )
                if not fleeting:
                    if len(self._charges) > 4096:
                        self._charges.clear()
                    self._charges[counter] = charge
            charges.append(charge)
        return tuple(charges)

    def rates(self, scopes: Scopes) -> tuple[Rate, ...]:
        """The rates that a step must fit into, in the policy's order."""
        rates: list[Rate] = []
        for rule in self._rates:
            scope_id = scopes.id_of(rule.per)
            if scope_id is not None and applies(rule.match, scopes):
                rates.append(self._rate(rule, scopes, scope_id))
        return tuple(rates)

    def _rate(self, rule: RateRule, scopes: Scopes, scope_id: str) -> Rate:
        return Rate(
            rule=rule.name,
            per=rule.per,
            counter=self._key(rule.name, rule.per, scopes, scope_id),
            enforced=rule.mode == "enforce",
            requests_per_minute=rule.requests_per_minute or 0,
            tokens_per_minute=rule.tokens_per_minute or 0,
            new_runs_per_minute=0 if scopes.surface in _NO_AGENT else rule.new_runs_per_minute or 0,
            max_concurrency=rule.max_concurrency or 0,
            nano_per_minute=int((rule.usd_per_minute or 0) * NANO_PER_USD),
        )

    def windows(self, budget: Budget, now: Millis, back: Millis = 0) -> tuple[Window, ...]:
        """The budget's period of so long ago, and the one after it; empty when it has none."""
        if budget.window is None:
            return ()
        at = now - back
        # Those of steps and those that operators look at differ at times; each has its place.
        key = (budget.window, budget.timezone, back)
        cached = self._windows.get(key)
        if cached is None or not int(cached[0].id) * 1000 <= at < cached[0].ends_at:
            cached = self._windows[key] = windows_at(budget.window, ZoneInfo(budget.timezone), at)
        return cached

    def _key(self, rule: str, per: str, scopes: Scopes, scope_id: str) -> str:
        if per == "run":
            return counter_key(rule, per, scopes.principal, scope_id)
        cache_key = (rule, per, scopes.principal, scope_id)
        key = self._keys.get(cache_key)
        if key is None:
            if len(self._keys) > 4096:
                self._keys.clear()
            key = self._keys[cache_key] = counter_key(rule, per, scopes.principal, scope_id)
        return key


def _run_limits(runs: Runs) -> RunLimits:
    if runs.mode == "off":
        return RunLimits(enforced=False)
    return RunLimits(
        enforced=runs.mode == "enforce" and runs.on_exceed != "notify",
        max_steps=runs.max_steps or 0,
        max_wall_clock_ms=int((runs.max_wall_clock_s or 0) * 1000),
        max_tokens=runs.max_tokens or 0,
        max_tool_calls=runs.max_tool_calls or 0,
    )


def applies(match: Match, scopes: Scopes) -> bool:
    """Whether a rule's `match` covers the step."""
    return match is EVERYTHING or match.covers(
        key=scopes.key,
        user=scopes.user,
        team=scopes.team,
        model=scopes.model,
        surface=scopes.surface,
        agent=scopes.agent,
        tags=scopes.tags,
    )
