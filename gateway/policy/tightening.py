"""The policy of a run that began under an earlier version: its own rules, with the limits of the version in
force where those are tighter.

Where traffic goes and who may send it (providers, models, auth, keys, alerts, paths handed on, the HTTP side)
is always as it is now: a run that began before a credential was changed must not go on with the old one. Of
everything else a run keeps what it began with, so that an agent is not judged by other rules half-way; but an
operator who makes a limit tighter means what runs at this moment, too. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gateway.policy.models import Policy, Profile
from gateway.policy.sections.base import Section
from gateway.policy.sections.loops import LOOP_RULES, Loops
from gateway.policy.sections.screening import Screening
from gateway.policy.sections.spending import Budget, Rate, Runs
from gateway.policy.sections.tools import Tool

_NOW = ("providers", "auth", "keys", "alerts", "passthrough", "server")
_TIGHTENED = ("budgets", "rates", "runs", "loops", "tools", "screening")
_RUN_LIMITS = ("max_steps", "max_wall_clock_s", "max_tool_calls", "max_tokens")
_RATE_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrency",
    "new_runs_per_minute",
    "usd_per_minute",
)
_TOOL_LIMITS = ("max_calls_per_run", "max_calls_per_session", "max_calls_per_minute", "timeout_seconds")
_DETECTORS = ("injection", "pii", "secrets", "links", "leak", "moderation")

S = TypeVar("S", bound=Section)
Limit = TypeVar("Limit", Budget, Rate)


def tightened(began: Policy, now: Policy) -> Policy:
    """The policy for runs that began under `began` while `now` governs. Its version is that of `began`."""
    models = {
        name: now.models.get(name, model)
        for name, model in began.models.items()
        if name in now.models or model.provider in now.providers
    }
    update: dict[str, Any] = {name: getattr(now, name) for name in _NOW}
    update |= {
        "models": {**now.models, **models},
        "budgets": _limits(began.budgets, now.budgets, _tighter_budget),
        "rates": _limits(began.rates, now.rates, _tighter_rate),
        "runs": _runs(began.runs, now.runs),
        "loops": _loops(began.loops, now.loops),
        "tools": _tools(began, now),
        "screening": _screening(began.screening, now.screening),
    }
    update["profiles"] = {name: _profile(began, now, name) for name in began.profiles}
    made = began.model_copy(update=update)
    made._switched_off = now.switched_off
    made._switched_off_alerts = now.switched_off_alerts
    # Tool contracts are merged with their defaults when a policy is made.
    made.model_post_init(None)
    if not (began.governs_tools or now.governs_tools):
        made.model_fields_set.discard("tools")
    return made


def _profile(began: Policy, now: Policy, name: str) -> Profile:
    profile, current = began.profiles[name], now.profiles.get(name)
    made = tightened(began.under(profile), now.under(current) if current is not None else now)
    return profile.model_copy(update={section: getattr(made, section) for section in _TIGHTENED})


def _limits(began: Iterable[Limit], now: Iterable[Limit], tighter: Any) -> tuple[Limit, ...]:
    """The limits of both, one of each name and scope."""
    current: dict[tuple[object, ...], Limit] = {_subject(rule): rule for rule in now}
    kept: list[Limit] = [tighter(rule, current.pop(_subject(rule), None)) for rule in began]
    kept += [rule for rule in current.values() if rule.mode == "enforce"]
    return tuple(kept)


def _subject(rule: Budget | Rate) -> tuple[object, ...]:
    about = (rule.name, rule.per, rule.match)
    return (*about, rule.window, rule.timezone) if isinstance(rule, Budget) else about


def _tighter_budget(began: Budget, now: Budget | None) -> Budget:
    if now is None or now.mode != "enforce":
        return began
    if began.mode != "enforce":
        return now
    return _with(began, limit_usd=min(began.limit_usd, now.limit_usd))


def _tighter_rate(began: Rate, now: Rate | None) -> Rate:
    if now is None or now.mode != "enforce":
        return began
    return _least(began, now, _RATE_LIMITS) if began.mode == "enforce" else now


def _runs(began: Runs, now: Runs) -> Runs:
    if now.mode != "enforce":
        return began
    if began.mode == "enforce":
        return _least(began, now, _RUN_LIMITS)
    return _with(began, mode=now.mode, **{name: getattr(now, name) for name in _RUN_LIMITS})


def _loops(began: Loops | None, now: Loops | None) -> Loops | None:
    if now is None or now.mode != "enforce":
        return began
    if began is None or began.mode != "enforce":
        return now
    if began.match != now.match:
        return began
    plain = [
        name
        for name in LOOP_RULES
        if not isinstance(getattr(began, name), Section) and not isinstance(getattr(now, name), Section)
    ]
    return _least(began, now, plain)


def _tools(began: Policy, now: Policy) -> Mapping[str, Tool]:
    if not now.governs_tools:
        return began.tools
    if not began.governs_tools:
        return now.tools
    names = {**began.tools, **now.tools}
    return {name: _tool(began.tool(name), now.tool(name)) for name in names}


def _tool(began: Tool, now: Tool) -> Tool:
    if now.mode != "enforce":
        return began
    if began.mode != "enforce":
        return now
    given: dict[str, Any] = {}
    if not now.allow:
        given["allow"] = False
    if now.requires_approval:
        given["requires_approval"] = True
    return _with(_least(began, now, _TOOL_LIMITS), **given)


def _screening(began: Screening, now: Screening) -> Screening:
    """A detector that acts now acts on all; of two that act a run keeps its own."""
    given = {
        name: theirs
        for name in _DETECTORS
        if (theirs := getattr(now, name)) is not None
        and theirs.mode == "enforce"
        and ((own := getattr(began, name)) is None or own.mode != "enforce")
    }
    return _with(began, **given)


def _least(began: S, now: S, names: Iterable[str]) -> S:
    """`began`, with each limit at the lower of the two."""
    given: dict[str, Any] = {}
    for name in names:
        own, theirs = getattr(began, name), getattr(now, name)
        if theirs is not None and (own is None or theirs < own):
            given[name] = theirs
    return _with(began, **given)


def _with(section: S, **given: Any) -> S:
    return section.model_copy(update=given) if given else section
